//! Latency histograms of a row: read from `histogram_v2`, drawn as a curve, written as `.hgrm`.
//!
//! `histogram_v2` is base64 of HdrHistogram's V2 encoding, plain or compressed, in nanoseconds, of
//! all rounds of a subject together. It may come from anybody: lengths are checked before any
//! memory is taken for them.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

use super::scale::nines;

/// First four bytes of the two encodings.
const PLAIN: u32 = 0x1c84_9303 | 0x10;
const COMPRESSED: u32 = 0x1c84_9304 | 0x10;
/// Bytes before the counts: cookie, length, offset, digits, bounds, ratio.
const HEADER_BYTES: usize = 40;
/// Decoded at most: a histogram of five digits over all of 64 bits has some six million counts.
const DECODED_BYTES_MAX: u64 = 64 << 20;
/// Points of a curve for every halving of what is left above.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Decodes a histogram; the error says what is wrong with it.
pub(super) fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD.decode(text.trim()).map_err(|error| format!("not base64: {error}"))?;
    let bytes = match word(&bytes, 0) {
        Some(PLAIN) => bytes,
        Some(COMPRESSED) => inflate(&bytes)?,
        _ => return Err("not a V2 histogram".into()),
    };
    check_header(&bytes)?;
    Deserializer::new()
        .deserialize(&mut &bytes[..])
        .map_err(|error| error.to_string().to_lowercase())
}

/// The plain encoding inside the compressed one: cookie, length, zlib stream.
fn inflate(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let body = bytes.get(8..).ok_or("cut off")?;
    let mut plain = Vec::new();
    ZlibDecoder::new(body)
        .take(DECODED_BYTES_MAX)
        .read_to_end(&mut plain)
        .map_err(|error| format!("not a zlib stream: {error}"))?;
    Ok(plain)
}

/// Checks what the decoder would believe: it takes memory for the length that is written there.
fn check_header(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() < HEADER_BYTES || word(bytes, 0) != Some(PLAIN) {
        return Err("cut off, or not a V2 histogram".into());
    }
    let counts_bytes = word(bytes, 4).map_or(usize::MAX, |length| length as usize);
    if counts_bytes > bytes.len() - HEADER_BYTES {
        return Err(format!(
            "cut off: {counts_bytes} bytes of counts are announced, {} are there",
            bytes.len() - HEADER_BYTES
        ));
    }
    let low = u64::from_be_bytes(bytes[16..24].try_into().expect("eight bytes of forty"));
    // Nanoseconds are counted from 1; a coarser unit loses what is to be seen.
    if !(1..=1_000_000).contains(&low) {
        return Err(format!("the lowest value, {low}, is not a time"));
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().expect("four bytes were taken")))
}

/// Places on the percentile axis, 1/(1-p), and the latency there.
///
/// The maximum stands at the number of samples: beyond, no percentile means anything.
pub(super) fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let samples = histogram.len() as f64;
    let mut points: Vec<(f64, f64)> = Vec::new();
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        let quantile = step.quantile_iterated_to();
        let at = if quantile < 1.0 { nines(quantile).min(samples) } else { samples };
        let at = at.max(1.0);
        let value = step.value_iterated_to() as f64;
        match points.last_mut() {
            Some(last) if last.0 >= at => last.1 = value,
            _ => points.push((at, value)),
        }
    }
    points
}

/// The percentile distribution as HdrHistogram's tools read and plot it, in microseconds.
pub(super) fn hgrm(histogram: &Histogram<u64>) -> String {
    let us = |ns: f64| ns / 1e3;
    let mut out = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total: u64 = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total = total.saturating_add(step.count_since_last_iteration());
        let (value, quantile) = (us(step.value_iterated_to() as f64), step.quantile_iterated_to());
        out += &format!("{value:>12.3} {quantile:>14.12} {total:>10}");
        out += &if quantile < 1.0 { format!(" {:>14.2}\n", nines(quantile)) } else { "\n".into() };
    }
    let sub_buckets = (2.0 * 10_f64.powi(histogram.sigfig().into())).log2().ceil().exp2();
    let covered = sub_buckets * (histogram.low() as f64).log2().floor().exp2();
    let buckets = (histogram.high() as f64 / covered).log2().ceil().max(0.0) + 1.0;
    out += &format!(
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n",
        us(histogram.mean()),
        us(histogram.stdev())
    );
    out += &format!(
        "#[Max     = {:>12.3}, Total count    = {:>12}]\n",
        us(histogram.max() as f64),
        histogram.len()
    );
    out += &format!("#[Buckets = {buckets:>12}, SubBuckets     = {sub_buckets:>12}]\n");
    out
}

#[cfg(test)]
pub(super) mod tests {
    use hdrhistogram::serialization::{Serializer, V2DeflateSerializer, V2Serializer};

    use super::*;

    /// A histogram like those of round trips: a body, and a tail a hundred times as long.
    pub(in crate::cli::report) fn sample(seed: u64, count: u32) -> Histogram<u64> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
        for _ in 0..count {
            let tail = if random.u32(..500) == 0 { random.u64(..800_000) } else { 0 };
            histogram.record(6_000 + random.u64(..2_000) + tail).expect("within bounds");
        }
        histogram
    }

    pub(in crate::cli::report) fn encode(histogram: &Histogram<u64>) -> String {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(histogram, &mut bytes).expect("into memory");
        STANDARD.encode(bytes)
    }

    #[test]
    fn both_encodings_are_read() {
        let histogram = sample(1, 5_000);
        assert_eq!(decode(&encode(&histogram)).expect("plain"), histogram);
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&histogram, &mut bytes).expect("into memory");
        assert_eq!(decode(&STANDARD.encode(bytes)).expect("compressed"), histogram);
    }

    #[test]
    fn curve_agrees_with_the_histogram() {
        let histogram = sample(2, 200_000);
        let points = curve(&histogram);
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        // The first is p0, which is where the lowest bucket ends here and where it begins there.
        for &(at, value) in &points[1..points.len() - 1] {
            let quantile = 1.0 - 1.0 / at;
            assert_eq!(value, histogram.value_at_quantile(quantile) as f64, "at {at}");
        }
        for quantile in [0.5, 0.9, 0.99, 0.999] {
            let exact = histogram.value_at_quantile(quantile) as f64;
            let before = points.iter().rfind(|point| point.0 <= nines(quantile) * 1.0001);
            let after = points.iter().find(|point| point.0 >= nines(quantile) * 0.9999);
            let (before, after) = (before.expect("a point").1, after.expect("a point").1);
            assert!(before <= exact && exact <= after, "{quantile}: {before} {exact} {after}");
        }
        let last = points.last().expect("points");
        assert_eq!(*last, (200_000.0, histogram.max() as f64));
    }

    #[test]
    fn hgrm_says_what_the_histogram_says() {
        let histogram = sample(3, 50_000);
        let text = hgrm(&histogram);
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
        assert_eq!(head, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        let mut rows = 0;
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let row: Vec<f64> =
                line.split_whitespace().map(|word| word.parse().expect("a number")).collect();
            let exact = histogram.value_at_quantile(row[1]) as f64 / 1e3;
            assert!((row[0] - exact).abs() <= exact / 500.0, "{line}: {exact}");
            let below =
                histogram.count_between(0, format!("{:.0}", row[0] * 1e3).parse().expect("ns"));
            assert_eq!(row[2], below as f64, "{line}");
            assert_eq!(row.len(), if row[1] < 1.0 { 4 } else { 3 }, "{line}");
            rows += 1;
        }
        assert!(rows > 50, "{text}");
        let counted = format!("Total count    = {:>12}]", histogram.len());
        assert!(text.contains(&counted), "{text}");
        assert!(text.ends_with("SubBuckets     =         2048]\n"), "{text}");
    }

    #[test]
    fn broken_histograms_are_refused() {
        let check = |text: &str, said: &str| {
            let error = decode(text).expect_err("broken");
            assert!(error.contains(said), "{error}");
        };
        check("", "not a V2");
        check("not base64!", "not base64");
        check("AAAAAAAAAAA=", "not a V2");
        let good = STANDARD.decode(encode(&sample(4, 100))).expect("ours");
        check(&STANDARD.encode(&good[..20]), "cut off");
        check(&STANDARD.encode(&good[..good.len() - 1]), "cut off");
        let mut greedy = good.clone();
        greedy[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        check(&STANDARD.encode(&greedy), "4294967295 bytes of counts are announced");
        let mut coarse = good.clone();
        coarse[16..24].copy_from_slice(&(1_u64 << 62).to_be_bytes());
        check(&STANDARD.encode(&coarse), "is not a time");
        let empty = Histogram::<u64>::new_with_bounds(1, 1_000, 3).expect("bounds");
        assert!(decode(&encode(&empty)).expect("an empty one is whole").is_empty());
    }

    /// Whatever the bytes say, decoding ends, with a histogram that can be drawn or an error.
    #[test]
    fn altered_histograms_do_no_harm() {
        let good = STANDARD.decode(encode(&sample(5, 2_000))).expect("ours");
        let mut random = fastrand::Rng::with_seed(9);
        let mut refused = 0;
        for _ in 0..3_000 {
            let mut bytes = good.clone();
            for _ in 0..=random.usize(..3) {
                let at =
                    if random.bool() { random.usize(..48) } else { random.usize(..bytes.len()) };
                bytes[at] = random.u8(..);
            }
            match decode(&STANDARD.encode(&bytes)) {
                Ok(histogram) => {
                    assert_eq!(curve(&histogram).is_empty(), histogram.is_empty());
                    assert!(hgrm(&histogram).contains("Total count"));
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 100, "{refused}");
    }
}

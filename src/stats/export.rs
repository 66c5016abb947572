//! Histograms in the forms that HdrHistogram's tools read.
//!
//! [`hgrm`] writes the percentile distribution that its plotter takes, values in microseconds;
//! [`log_line`] one interval of a histogram log, whose payload is the V2 encoding in base64. The
//! log's form is that of `HistogramLogWriter` version 1.3, the encoding that of V2: a big-endian
//! head of 40 bytes, then counts as zigzag LEB128, where a negative number stands for so many
//! zeros. It goes into a zlib stream (RFC 1950) of stored blocks: a few kilobytes do not repay a
//! compressor among the dependencies of an embedder.
//!
//! Not for the hot path: allocates.

use std::fmt::Write;

use crate::stats::histogram::{COUNTS, Reading, SIGNIFICANT_DIGITS, VALUE_MAX};

const V2_COOKIE: u32 = 0x1c84_9303 | 0x10;
const V2_COMPRESSED_COOKIE: u32 = 0x1c84_9304 | 0x10;
/// Lines for each halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;

/// The percentile distribution as text, values in microseconds.
#[must_use]
pub fn hgrm(reading: &Reading) -> String {
    let mut out = String::new();
    let count = reading.count();
    let micros = |nanos: u64| nanos as f64 / 1e3;
    let mut line = |value: f64, quantile: f64, below: u64| {
        let _ = match quantile < 1.0 {
            true => {
                let inverse = 1.0 / (1.0 - quantile);
                writeln!(out, "{value:12.3} {quantile:2.12} {below:10} {inverse:14.2}")
            }
            false => writeln!(out, "{value:12.3} {quantile:2.12} {below:10}"),
        };
    };
    let mut quantile = 0.0_f64;
    let mut level = 0_u32;
    let mut is_complete = count == 0;
    while !is_complete {
        let value = reading.quantile_ns(quantile);
        let below = reading.count_to(value);
        line(micros(value), quantile, below);
        is_complete = below >= count;
        if is_complete && quantile < 1.0 {
            line(micros(reading.max_ns()), 1.0, count);
        }
        // Steps get smaller by half whenever the distance to 100 % has.
        while 1.0 - quantile <= 0.5_f64.powi(level as i32 + 1) {
            level += 1;
        }
        let next = quantile + 0.5_f64.powi(level as i32 + 1) / f64::from(TICKS_PER_HALF);
        if !is_complete && (next >= 1.0 || next <= quantile) {
            // Above 2^53 values the last ones are nearer to 100 % than a number can tell.
            line(micros(reading.max_ns()), 1.0, count);
            break;
        }
        quantile = next;
    }
    let mean = if count == 0 { 0.0 } else { micros(reading.sum_ns()) / count as f64 };
    let squares: f64 = reading
        .occurred()
        .map(|(from, to, times)| times as f64 * (micros(from + (to - from) / 2) - mean).powi(2))
        .sum();
    let deviation = if count == 0 { 0.0 } else { (squares / count as f64).sqrt() };
    let head = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n";
    let max = micros(reading.max_ns());
    let buckets = COUNTS / 128 - 1;
    format!(
        "{head}{out}#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n\
         #[Max     = {max:12.3}, Total count    = {count:12}]\n\
         #[Buckets = {buckets:12}, SubBuckets     = {:12}]\n",
        256
    )
}

/// What begins a histogram log. `start_wall_ns` is when it begins, since 1970 UTC.
#[must_use]
pub fn log_header(start_wall_ns: u64) -> String {
    let seconds = start_wall_ns as f64 / 1e9;
    format!(
        "#[Histogram log format version 1.3]\n\
         #[StartTime: {seconds:.3} (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
         \"Interval_Compressed_Histogram\"\n"
    )
}

/// One interval of a histogram log, with its line break: `start` and `length` in seconds, the
/// maximum in milliseconds.
///
/// # Panics
///
/// When `tag` has a character that the format gives a meaning: a comma, a space, a line break.
#[must_use]
pub fn log_line(tag: &str, start: f64, length: f64, reading: &Reading) -> String {
    assert!(!tag.contains([',', ' ', '\n', '\r']), "a tag of one word");
    let max = reading.max_ns().min(VALUE_MAX) as f64 / 1e6;
    let payload = base64(&v2_compressed(reading));
    format!("Tag={tag},{start:.3},{length:.3},{max:.3},{payload}\n")
}

/// The V2 encoding.
fn v2(reading: &Reading) -> Vec<u8> {
    let mut counts = Vec::new();
    let end = reading.counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
    let mut zeros = 0;
    for &count in &reading.counts[..end] {
        if count == 0 {
            zeros += 1;
            continue;
        }
        if zeros > 0 {
            write_number(-zeros, &mut counts);
            zeros = 0;
        }
        write_number(i64::try_from(count).unwrap_or(i64::MAX), &mut counts);
    }
    let mut out = Vec::with_capacity(40 + counts.len());
    out.extend(V2_COOKIE.to_be_bytes());
    out.extend(length(&counts));
    // No normalizing offset.
    out.extend(0_u32.to_be_bytes());
    out.extend(u32::from(SIGNIFICANT_DIGITS).to_be_bytes());
    out.extend(1_u64.to_be_bytes());
    out.extend(VALUE_MAX.to_be_bytes());
    // No conversion to floating point.
    out.extend(1_f64.to_be_bytes());
    out.extend(counts);
    out
}

fn v2_compressed(reading: &Reading) -> Vec<u8> {
    let stream = zlib(&v2(reading));
    let mut out = Vec::with_capacity(8 + stream.len());
    out.extend(V2_COMPRESSED_COOKIE.to_be_bytes());
    out.extend(length(&stream));
    out.extend(stream);
    out
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("some kilobytes").to_be_bytes()
}

/// Zigzag LEB128 of 64 bits: seven bits a byte, the ninth byte holds eight.
fn write_number(number: i64, out: &mut Vec<u8>) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    for _ in 0..8 {
        if rest < 0x80 {
            break;
        }
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80, or the ninth byte")]
    out.push(rest as u8);
}

/// A zlib stream of stored blocks.
fn zlib(bytes: &[u8]) -> Vec<u8> {
    const BLOCK_MAX: usize = 0xffff;
    // Deflate with a window of 32 KiB; a multiple of 31, as RFC 1950 section 2.2 asks.
    let mut out = vec![0x78, 0x01];
    let count = bytes.len().div_ceil(BLOCK_MAX);
    for (index, block) in bytes.chunks(BLOCK_MAX).enumerate() {
        let length = u16::try_from(block.len()).expect("a chunk is no longer");
        out.push(u8::from(index + 1 == count));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    let (mut low, mut high) = (1_u32, 0_u32);
    for &byte in bytes {
        low = (low + u32::from(byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    out.extend((high << 16 | low).to_be_bytes());
    out
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(group);
        for index in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * index) & 0x3f) as usize];
            out.push(if index <= chunk.len() { digit.into() } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::stats::histogram::Histogram;

    fn sample() -> Reading {
        let histogram = Histogram::new_boxed();
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..10_000 {
            histogram.record(random.u64(1_000..2_000_000) >> random.u32(0..8));
        }
        histogram.record(45_000_000_000);
        histogram.read()
    }

    fn check(reading: &Reading, theirs: &hdrhistogram::Histogram<u64>) {
        assert_eq!(theirs.len(), reading.count());
        for quantile in [0.1, 0.5, 0.9, 0.99, 0.999] {
            assert_eq!(theirs.value_at_quantile(quantile), reading.quantile_ns(quantile));
        }
        for (from, _, count) in reading.occurred() {
            assert_eq!(theirs.count_at(from), count, "{from}");
        }
    }

    #[test]
    fn crate_reads_the_encoding() {
        for reading in [sample(), Reading::default()] {
            for bytes in [v2(&reading), v2_compressed(&reading)] {
                let read = Deserializer::new().deserialize(&mut &bytes[..]).expect("V2");
                check(&reading, &read);
            }
        }
    }

    #[test]
    fn crate_reads_the_log() {
        let reading = sample();
        let log = log_header(1_700_000_000_000_000_000)
            + &log_line("handler", 0.5, 1.0, &reading)
            + &log_line("turn", 1.5, 1.0, &Reading::default());
        let mut tags = Vec::new();
        for entry in IntervalLogIterator::new(log.as_bytes()) {
            let LogEntry::Interval(interval) = entry.expect("well formed") else { continue };
            let tag = interval.tag().expect("each has one").as_str();
            tags.push((tag.to_owned(), interval.max()));
            let engine = base64_bytes(interval.encoded_histogram());
            let read = Deserializer::new().deserialize(&mut &engine[..]).expect("V2");
            let expected = if tag == "handler" { &reading } else { &Reading::default() };
            check(expected, &read);
        }
        assert_eq!(tags, [("handler".into(), 45_000.0), ("turn".into(), 0.0)]);
    }

    /// As a reader would undo it, by another way: bit by bit.
    fn base64_bytes(text: &str) -> Vec<u8> {
        let digit = |c: char| match c {
            'A'..='Z' => c as u32 - 'A' as u32,
            'a'..='z' => c as u32 - 'a' as u32 + 26,
            '0'..='9' => c as u32 - '0' as u32 + 52,
            '+' => 62,
            '/' => 63,
            _ => panic!("{c} is no digit"),
        };
        let digits = text.trim_end_matches('=').chars().map(digit);
        let bits: Vec<bool> =
            digits.flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1 == 1)).collect();
        let byte = |bits: &[bool]| bits.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        bits.chunks_exact(8).map(byte).collect()
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    /// What a damaged file may say: the last value is above every quantile below 1.
    #[test]
    fn distribution_ends_with_counts_of_any_size() {
        let mut reading = Reading { max: 5_000_000, ..Reading::default() };
        for first in [1 << 62, u64::MAX] {
            reading.counts[100] = first;
            reading.counts[1_000] = 1;
            let text = hgrm(&reading);
            let last = text.lines().rfind(|line| !line.starts_with('#')).expect("lines");
            let fields: Vec<&str> = last.split_whitespace().collect();
            let count = first.saturating_add(1).to_string();
            assert_eq!(fields[1..], ["1.000000000000", &count], "{text}");
            assert!(text.lines().count() < 400, "{text}");
        }
    }

    #[test]
    fn distribution_rises_to_all_values() {
        let reading = sample();
        let text = hgrm(&reading);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().filter_map(|field| field.parse().ok()).collect())
            .filter(|row: &Vec<f64>| row.len() >= 3)
            .collect();
        assert!(rows.len() > 20, "{text}");
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] < b[1] && a[2] <= b[2]), "{text}");
        let last = rows.last().expect("rows");
        assert_eq!((last[0], last[1], last[2]), (45_000_000.0, 1.0, 10_001.0));
        let median = rows.iter().find(|row| row[1] >= 0.5).expect("a median");
        assert_eq!(median[0], reading.quantile_ns(median[1]) as f64 / 1e3);
        assert!(hgrm(&Reading::default()).contains("Total count    =            0"));
    }
}

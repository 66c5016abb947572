//! Latency histograms, and how they travel: HdrHistogram's V2 form in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

use crate::drive::Failure;

/// The longest time told apart from longer ones: a minute.
const NS_MAX: u64 = 60_000_000_000;

/// From 1 ns to a minute, three digits. Recording into it allocates nothing.
pub fn new() -> Histogram<u64> {
    Histogram::new_with_bounds(1, NS_MAX, 3).expect("the bounds are constants and valid")
}

pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2Serializer::new()
        .serialize(histogram, &mut bytes)
        .expect("a vector takes what is written to it");
    STANDARD.encode(bytes)
}

/// Reads a histogram back.
///
/// # Errors
///
/// When `text` is none.
pub fn decode(text: &str) -> Result<Histogram<u64>, Failure> {
    let bytes = STANDARD.decode(text)?;
    Deserializer::new().deserialize(&mut &bytes[..]).map_err(|error| error.to_string().into())
}

/// Makes one of pairs of nanoseconds and how often they came.
pub fn from_counts(counts: &[(u64, u64)]) -> Histogram<u64> {
    let mut histogram = new();
    for &(ns, count) in counts {
        histogram.saturating_record_n(ns, count);
    }
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_comes_back_as_it_left() {
        let histogram = from_counts(&[(1_000, 3), (2_000_000, 1)]);
        let back = decode(&encode(&histogram)).expect("decodes");
        assert_eq!(back, histogram);
        assert_eq!(back.len(), 4);
        assert!(decode("AAAA").is_err() && decode("?").is_err());
    }
}

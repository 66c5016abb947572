//! The figures of a row: what they are called, how they are written, which way they are good.

use super::read::Row;
use crate::cli::bench::shown;

/// One figure of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    pub(super) title: &'static str,
    pub(super) of: fn(&Row) -> Option<f64>,
    pub(super) unit: fn(f64) -> String,
    /// Lowest and highest of the rounds, where the row says so.
    pub(super) range: fn(&Row) -> Option<(f64, f64)>,
    pub(super) better: Better,
}

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Lower,
    Higher,
}

pub(super) const P50: Figure = Figure {
    range: |row| Some((row.p50_ns_low?, row.p50_ns_high?)),
    ..time("p50", |row| row.p50_ns)
};
pub(super) const RATE: Figure = Figure {
    unit: shown::number,
    range: |row| Some((row.frames_per_s_low?, row.frames_per_s_high?)),
    better: Better::Higher,
    ..time("frames/s", |row| row.frames_per_s)
};
pub(super) const BYTES: Figure =
    Figure { unit: shown::bytes, better: Better::Higher, ..time("bytes/s", |row| row.bytes_per_s) };
pub(super) const P99: Figure = Figure {
    range: |row| Some((row.p99_ns_low?, row.p99_ns_high?)),
    ..time("p99", |row| row.p99_ns)
};
pub(super) const MEMORY: Figure =
    Figure { unit: shown::bytes, ..time("memory/conn", |row| row.resident_bytes_per_connection) };
/// In the order they are shown.
pub(super) const FIGURES: [Figure; 14] = [
    P50,
    time("p90", |row| row.p90_ns),
    P99,
    time("p99.9", |row| row.p99_9_ns),
    time("p99.99", |row| row.p99_99_ns),
    time("max", |row| row.max_ns),
    RATE,
    BYTES,
    Figure {
        unit: shown::bytes,
        better: Better::Higher,
        ..time("bulk/s", |row| row.bulk_bytes_per_s)
    },
    MEMORY,
    Figure { unit: share, ..time("CPU", |row| row.cpu_share) },
    time("CPU/frame", |row| row.cpu_ns_per_frame),
    Figure { unit: shown::count, ..time("enters/frame", |row| row.enters_per_frame) },
    Figure { unit: shown::count, ..time("direct/frame", |row| row.direct_per_frame) },
];

fn share(of_one: f64) -> String {
    format!("{:.2} %", of_one * 100.0)
}

const fn time(title: &'static str, of: fn(&Row) -> Option<f64>) -> Figure {
    Figure { title, of, unit: shown::time, range: |_| None, better: Better::Lower }
}

/// `value` as a multiple of `floor`; `None` where that means nothing.
pub(super) fn ratio(value: f64, floor: f64) -> Option<f64> {
    shown::ratio(value, floor).filter(|ratio| ratio.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_of_nothing_is_none() {
        assert_eq!(ratio(2.0, 4.0), Some(0.5));
        assert_eq!((ratio(2.0, 0.0), ratio(1e18, 1e-300)), (None, None));
    }

    #[test]
    fn figures_have_titles_of_their_own() {
        let mut titles: Vec<&str> = FIGURES.iter().map(|figure| figure.title).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), FIGURES.len());
        assert_eq!(share(0.1234), "12.34 %");
    }
}

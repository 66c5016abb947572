//! The figures of a row: what they are called, how they are written, which way they are good.

use super::read::{OfRound, Row};
use crate::cli::bench::shown::{self, PairedRatio};

/// One figure of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    pub(super) title: &'static str,
    pub(super) of: fn(&Row) -> Option<f64>,
    pub(super) unit: fn(f64) -> String,
    /// Lowest and highest of the rounds, where the row says so.
    pub(super) range: fn(&Row) -> Option<(f64, f64)>,
    /// The same of one round, where the row has it.
    of_round: fn(&OfRound) -> Option<f64>,
    pub(super) better: Better,
    /// Of a percentile.
    quantile: Option<f64>,
}

impl Figure {
    /// The figure of a row as far as it says anything: a percentile that the samples do not reach
    /// is left out. Goals are judged by what was measured, as on the terminal.
    pub(super) fn shown(&self, row: &Row) -> Option<f64> {
        (self.of)(row).filter(|_| self.quantile.is_none_or(|quantile| supports(row, quantile)))
    }
}

/// The ratios of rounds that took turns, in their order; nothing where either row has no rounds one
/// by one.
pub(super) fn ratios(figure: Figure, ours: &Row, other: &Row) -> Vec<f64> {
    let (Some(ours), Some(other)) = (&ours.by_round, &other.by_round) else { return Vec::new() };
    let of = |(ours, other): (&OfRound, &OfRound)| {
        ratio((figure.of_round)(ours)?, (figure.of_round)(other)?)
    };
    ours.iter().zip(other).filter_map(of).collect()
}

/// What those say together.
pub(super) fn paired(figure: Figure, ours: &Row, other: &Row) -> Option<PairedRatio> {
    PairedRatio::of(&ratios(figure, ours, other))
}

/// A row's figure in each round, where it says so.
pub(super) fn rounds(figure: Figure, row: &Row) -> Vec<f64> {
    row.by_round.iter().flatten().filter_map(figure.of_round).collect()
}

/// A figure of one row as a multiple of another's, by their rounds where they have them.
pub(super) fn multiple(figure: Figure, ours: &Row, other: &Row) -> Option<f64> {
    let of_figures = ratio((figure.of)(ours)?, (figure.of)(other)?)?;
    Some(paired(figure, ours, other).map_or(of_figures, |ratio| ratio.median))
}

/// Samples of all rounds that lie beyond a percentile, at least, for it to be shown.
pub(super) const SAMPLES_BEYOND_MIN: f64 = 10.0;

/// Whether the samples of a row reach a percentile: ten of all rounds lie beyond it, and of one
/// that is a median of rounds one of each, as otherwise it is that round's maximum. A row that does
/// not say how many there were is believed.
pub(super) fn supports(row: &Row, quantile: f64) -> bool {
    let Some(samples) = row.samples else { return true };
    // 0.9999 has no exact binary form: ten of a hundred thousand are ten.
    let beyond = samples as f64 * (1.0 - quantile) * (1.0 + 1e-9);
    let is_of_rounds = quantile <= 0.99;
    let rounds = row.rounds.filter(|_| is_of_rounds).unwrap_or(1) as f64;
    beyond >= SAMPLES_BEYOND_MIN.max(rounds)
}

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Lower,
    Higher,
}

pub(super) const P50: Figure = Figure {
    range: |row| Some((row.p50_ns_low?, row.p50_ns_high?)),
    of_round: |round| round.p50_ns,
    ..percentile("p50", 0.5, |row| row.p50_ns)
};
pub(super) const RATE: Figure = Figure {
    unit: shown::number,
    range: |row| Some((row.frames_per_s_low?, row.frames_per_s_high?)),
    of_round: |round| round.frames_per_s,
    better: Better::Higher,
    ..time("frames/s", |row| row.frames_per_s)
};
pub(super) const BYTES: Figure =
    Figure { unit: shown::bytes, better: Better::Higher, ..time("bytes/s", |row| row.bytes_per_s) };
pub(super) const P99: Figure = Figure {
    range: |row| Some((row.p99_ns_low?, row.p99_ns_high?)),
    of_round: |round| round.p99_ns,
    ..percentile("p99", 0.99, |row| row.p99_ns)
};
pub(super) const P99_9: Figure = percentile("p99.9", 0.999, |row| row.p99_9_ns);
pub(super) const MEMORY: Figure =
    Figure { unit: shown::bytes, ..time("memory/conn", |row| row.resident_bytes_per_connection) };
/// In the order they are shown.
pub(super) const FIGURES: [Figure; 14] = [
    P50,
    percentile("p90", 0.9, |row| row.p90_ns),
    P99,
    P99_9,
    percentile("p99.99", 0.9999, |row| row.p99_99_ns),
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
    Figure {
        title,
        of,
        unit: shown::time,
        range: |_| None,
        of_round: |_| None,
        better: Better::Lower,
        quantile: None,
    }
}

const fn percentile(title: &'static str, quantile: f64, of: fn(&Row) -> Option<f64>) -> Figure {
    Figure { quantile: Some(quantile), ..time(title, of) }
}

/// The figure that tables call so.
pub(super) fn named(title: &str) -> Option<Figure> {
    FIGURES.into_iter().find(|figure| figure.title == title)
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
    fn ratio_is_that_of_rounds_where_there_are_any() {
        let row = |p50_ns, rounds: &[f64]| {
            let of = |&ns| OfRound { p50_ns: Some(ns), ..OfRound::default() };
            let by_round = (!rounds.is_empty()).then(|| rounds.iter().map(of).collect());
            Row { p50_ns: Some(p50_ns), by_round, ..Row::default() }
        };
        // The second round was slow for both.
        let (ours, other) = (row(11.0, &[11.0, 33.0, 11.0]), row(20.0, &[10.0, 30.0, 20.0]));
        assert_eq!(multiple(P50, &ours, &other), Some(1.1));
        assert_eq!(multiple(P50, &row(11.0, &[]), &other), Some(0.55));
        assert_eq!(multiple(RATE, &ours, &other), None);
    }

    #[test]
    fn percentiles_need_samples_beyond_them() {
        let row = |samples, rounds| Row { samples, rounds: Some(rounds), ..Row::default() };
        let reached = |samples, rounds| {
            let row = row(Some(samples), rounds);
            [0.5, 0.9, 0.99, 0.999, 0.9999].map(|quantile| supports(&row, quantile))
        };
        assert_eq!(reached(2_800, 7), [true, true, true, false, false]);
        assert_eq!(reached(100_000, 7), [true; 5]);
        assert_eq!(reached(99_999, 7), [true, true, true, true, false]);
        assert_eq!(reached(19, 1), [false; 5]);
        // A hundred samples in each of 20 rounds, and half of that: the maximum of a round. What is
        // rarer is of all rounds together.
        assert_eq!(reached(2_000, 20), [true, true, true, false, false]);
        assert_eq!(reached(1_000, 20), [true, true, false, false, false]);
        assert_eq!(reached(10_000, 200), [true, true, false, true, false]);
        assert!(supports(&row(None, 7), 0.9999), "not known");
        let p99_9 = FIGURES.iter().find(|figure| figure.title == "p99.9").expect("it is there");
        let one = Row { p99_9_ns: Some(5.0), ..row(Some(2_800), 7) };
        assert_eq!(((p99_9.of)(&one), p99_9.shown(&one)), (Some(5.0), None));
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

//! What ringwire is held to, and whether a run shows it.
//!
//! A goal is a ratio to something measured in the same rounds, not a figure by itself: figures are
//! the machine's. Only failover, which has nothing beside it, is held to a time. Not here: where
//! ratios stand (`table`).

use std::fmt;
use std::time::Duration;

use ringwire::config::Idle;

use super::options::Scenario;
use super::plan::{Beside, Case};
use super::summary::OfRound;
use crate::cli::show::counted;

/// Rounds that differ by more than this, but for a tenth at either end, were disturbed.
pub(in crate::cli) const NOISY: f64 = 2.0;

/// Fewer samples of so many rounds have no p99: ten have to lie beyond it, and one of each round.
/// The pages of `report` and the suite beside other transports have the same rule.
pub(super) fn p99_samples_min(rounds: usize) -> u64 {
    100 * rounds.max(10) as u64
}

/// The p99 that failover is held to on loopback.
const FAILOVER_P99: Duration = Duration::from_millis(5);

/// The figure a goal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    /// The median round trip: the smaller the better.
    P50,
    /// The round trip that one in a hundred exceeds.
    P99,
    /// Frames per second: the larger the better.
    Rate,
}

impl Figure {
    /// The same of one round.
    pub(super) fn of_round(self, round: &OfRound) -> Option<f64> {
        match self {
            Self::P50 => round.p50_ns.map(|ns| ns as f64),
            Self::P99 => round.p99_ns.map(|ns| ns as f64),
            Self::Rate => round.frames_per_s,
        }
    }
}

/// A bound for the ratio of ringwire's figure to another's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Goal {
    pub(super) figure: Figure,
    /// Which of the subjects before ringwire it is compared with.
    pub(super) floor: usize,
    pub(super) bound: f64,
}

impl Goal {
    /// The goals of a case, each about another figure or another subject. Cases of the default
    /// suite have some, streams however they wait, reliable messages, critical ones beside bulk,
    /// and busy connections beside silent ones.
    pub(super) fn all_of(case: Case) -> impl Iterator<Item = Self> {
        let Case { scenario, payload_bytes, idle, connections, beside, .. } = case;
        let key = (scenario, payload_bytes, idle, connections, beside);
        let goals: &[(Figure, usize, f64)] = match key {
            (Scenario::Rtt, 64, _, 1, Beside::BestEffort) => &[(Figure::P50, 0, 1.05)],
            (Scenario::Stream, 64, _, 1, Beside::BestEffort) => &[(Figure::Rate, 0, 0.9)],
            // Beside bulk on a connection of its own, against unloaded.
            (Scenario::Mixed, 64, Idle::Spin, 1, Beside::Floors) => &[(Figure::P99, 0, 2.0)],
            (Scenario::Rtt, 64, Idle::Spin, 1, Beside::Floors) => {
                &[(Figure::P50, 0, 1.1), (Figure::P99, 0, 1.25)]
            }
            (Scenario::Rtt, 64, Idle::Park, 1, Beside::Floors) => {
                &[(Figure::P50, 0, 1.1), (Figure::P99, 0, 1.15)]
            }
            (Scenario::Rtt, 64, Idle::Spin, 1_000, Beside::Fewer(64)) => &[(Figure::Rate, 0, 0.8)],
            // The framing loop does the same work. Long frames are judged against bulk bytes, too:
            // which of both is the faster depends on how much they write at once.
            (Scenario::Stream, 64, _, 1, Beside::Floors) => &[(Figure::Rate, 0, 0.75)],
            (Scenario::Stream, 65_536 | 1_048_576, _, 1, Beside::Floors) => {
                &[(Figure::Rate, 0, 0.9), (Figure::Rate, 1, 0.9)]
            }
            // "Unchanged" is within a tenth: runs of one build differ by as much.
            (Scenario::Rtt | Scenario::FanIn, 64, _, _, Beside::Floors) if case.has_silent() => {
                &[(Figure::Rate, 1, 0.9)]
            }
            _ => &[],
        };
        goals.iter().map(|&(figure, floor, bound)| Self { figure, floor, bound })
    }

    /// Whether another goal is the same, maybe against another subject.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        (self.figure, self.bound) == (other.figure, other.bound)
    }

    /// Whether a ratio is further from the goal than another.
    pub(super) fn is_worse(&self, ratio: f64, than: f64) -> bool {
        match self.figure {
            Figure::P50 | Figure::P99 => ratio > than,
            Figure::Rate => ratio < than,
        }
    }

    /// Judges the ratio as it is, not as it is shown.
    pub(super) fn is_met(&self, ratio: f64) -> bool {
        match self.figure {
            Figure::P50 | Figure::P99 => ratio <= self.bound,
            Figure::Rate => ratio >= self.bound,
        }
    }

    /// Whether there are samples enough in all `rounds`.
    pub(super) fn is_judged(&self, samples: u64, rounds: usize) -> bool {
        self.figure != Figure::P99 || samples >= p99_samples_min(rounds)
    }

    /// The bound and the verdict: `<= 1.15x met`; of a p99 only where there are `samples` enough in
    /// all `rounds`.
    pub(super) fn verdict(&self, ratio: f64, samples: u64, rounds: usize) -> String {
        if !self.is_judged(samples, rounds) {
            return format!("{self} open: {}", counted(samples, "sample"));
        }
        format!("{self} {}", if self.is_met(ratio) { "met" } else { "missed" })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = match self.figure {
            Figure::P50 | Figure::P99 => "<=",
            Figure::Rate => ">=",
        };
        write!(f, "{relation} {:.2}x", self.bound)
    }
}

/// A ratio beside its bound: two decimals, and where it is near as many as show on which side.
pub(in crate::cli) fn beside(ratio: f64, bound: f64) -> String {
    let distance = (ratio - bound).abs();
    if distance == 0.0 || distance >= 0.005 {
        return format!("{ratio:.2}x");
    }
    let mut texts = (3..=6).map(|decimals| format!("{ratio:.decimals$}"));
    let tells = |text: &String| text.parse() != Ok(bound);
    texts.find(tells).unwrap_or_else(|| format!("{ratio:.6}")) + "x"
}

/// The goal of failover and the verdict: `p99 <= 5ms met`.
pub(in crate::cli) fn failover_verdict(p99_ns: u64) -> String {
    let is_met = Duration::from_nanos(p99_ns) <= FAILOVER_P99;
    format!("p99 <= {FAILOVER_P99:?} {}", if is_met { "met" } else { "missed" })
}

#[cfg(test)]
mod tests {
    use super::super::plan::sample;
    use super::*;

    #[test]
    fn round_trips_are_held_to_two_figures() {
        let check = |idle, expected: &[&str]| {
            let goals = Goal::all_of(sample(Scenario::Rtt, idle, 64, 1).case);
            let shown: Vec<String> =
                goals.map(|goal| format!("{:?} {goal}", goal.figure)).collect();
            assert_eq!(shown, expected);
        };
        check(Idle::Spin, &["P50 <= 1.10x", "P99 <= 1.25x"]);
        check(Idle::Park, &["P50 <= 1.10x", "P99 <= 1.15x"]);
        check(Idle::Adaptive, &[]);
    }

    #[test]
    fn streams_are_held_to_the_same_however_they_wait() {
        for idle in [Idle::Spin, Idle::Adaptive, Idle::Park] {
            let check = |bytes, expected: &[&str]| {
                let goals = Goal::all_of(sample(Scenario::Stream, idle, bytes, 1).case);
                let shown: Vec<String> =
                    goals.map(|goal| format!("{} {goal}", goal.floor)).collect();
                assert_eq!(shown, expected, "{idle:?} {bytes}");
            };
            check(64, &["0 >= 0.75x"]);
            check(64 << 10, &["0 >= 0.90x", "1 >= 0.90x"]);
            check(1 << 20, &["0 >= 0.90x", "1 >= 0.90x"]);
        }
    }

    #[test]
    fn failover_is_held_to_a_time() {
        assert_eq!(failover_verdict(5_000_000), "p99 <= 5ms met");
        assert_eq!(failover_verdict(5_000_001), "p99 <= 5ms missed");
    }

    #[test]
    fn ratios_near_their_bound_show_on_which_side() {
        let check = |ratio, bound, expected: &str| assert_eq!(beside(ratio, bound), expected);
        check(1.10, 1.10, "1.10x");
        check(1.1009, 1.10, "1.101x");
        check(1.1001, 1.10, "1.1001x");
        check(0.8996, 0.90, "0.8996x");
        check(1.094, 1.10, "1.09x");
        check(2.5, 1.10, "2.50x");
        check(1.100_000_01, 1.10, "1.100000x");
    }

    #[test]
    fn goals_are_judged_before_they_are_rounded() {
        let check = |figure, bound, ratio, expected: &str| {
            assert_eq!(Goal { figure, floor: 0, bound }.verdict(ratio, 1_000, 7), expected);
        };
        check(Figure::P50, 1.15, 1.15, "<= 1.15x met");
        check(Figure::P50, 1.15, 1.1501, "<= 1.15x missed");
        check(Figure::P99, 2.0, 2.01, "<= 2.00x missed");
        let of = |figure, samples, rounds| {
            Goal { figure, floor: 0, bound: 2.0 }.verdict(1.0, samples, rounds)
        };
        // One of each round has to lie beyond it.
        assert_eq!(of(Figure::P99, 2_099, 21), "<= 2.00x open: 2099 samples");
        assert_eq!(of(Figure::P99, 1, 1), "<= 2.00x open: 1 sample");
        assert_eq!(of(Figure::P99, 2_100, 21), "<= 2.00x met");
        let few = |figure| of(figure, 999, 7);
        assert_eq!(few(Figure::P99), "<= 2.00x open: 999 samples");
        assert_eq!(few(Figure::P50), "<= 2.00x met");
        check(Figure::Rate, 0.6, 0.6, ">= 0.60x met");
        check(Figure::Rate, 0.6, 0.5999, ">= 0.60x missed");
    }
}

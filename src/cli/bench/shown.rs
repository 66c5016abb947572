//! What a report needs to know of the bench: how figures are written, and what ringwire is held to.
//!
//! A report reads rows, not plans: here a row's keys become a case again, so that tables on the
//! terminal and pages judge alike.

use clap::ValueEnum;
use ringwire::config::Idle;

use super::goal::{Figure, Goal};
use super::options::{Delivery, Scenario};
use super::plan::{Beside, Bulk, Case};

pub(in crate::cli) use super::goal::{NOISY, beside, failover_verdict};
pub(in crate::cli) use super::options::size;
pub(in crate::cli) use super::paired::{PairedRatio, most_of};
pub(in crate::cli) use super::summary::ratio;
pub(in crate::cli) use super::table::{bytes, count, number, time};

/// What tells one case from another, as the JSON lines name it.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Keys<'a> {
    pub(in crate::cli) scenario: &'a str,
    pub(in crate::cli) idle: &'a str,
    pub(in crate::cli) payload_bytes: u64,
    pub(in crate::cli) connections: u64,
    /// Of those, the ones that have messages in flight, where they are not all.
    pub(in crate::cli) busy: Option<u64>,
    /// The connections of what ringwire is beside, where that is itself.
    pub(in crate::cli) fewer: Option<u64>,
    /// Whether ringwire is beside itself, reliable beside best effort.
    pub(in crate::cli) is_reliable: bool,
}

/// The bound for a ratio of ringwire's figure to another's.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Held {
    goal: Goal,
}

impl Held {
    /// What ringwire is held to in a case: nothing in most, and where a key is not known here.
    pub(in crate::cli) fn all_of(keys: Keys<'_>) -> Vec<Self> {
        case(keys).into_iter().flat_map(Goal::all_of).map(|goal| Self { goal }).collect()
    }

    /// Which of the other subjects the ratio is to.
    pub(in crate::cli) fn floor(self) -> usize {
        self.goal.floor
    }

    /// Which figure it is about, as tables name it.
    pub(in crate::cli) fn figure(self) -> &'static str {
        match self.goal.figure {
            Figure::P50 => "p50",
            Figure::P99 => "p99",
            Figure::Rate => "frames/s",
        }
    }

    pub(in crate::cli) fn bound(self) -> f64 {
        self.goal.bound
    }

    pub(in crate::cli) fn is_met(self, ratio: f64) -> bool {
        self.goal.is_met(ratio)
    }

    /// The bound as it is shown: `<= 1.10x`.
    pub(in crate::cli) fn text(self) -> String {
        self.goal.to_string()
    }
}

/// The case that has these keys, where all of them are known here.
fn case(keys: Keys<'_>) -> Option<Case> {
    let idles = [Idle::Spin, Idle::Adaptive, Idle::Park];
    let beside = match keys.fewer {
        _ if keys.is_reliable => Beside::BestEffort,
        Some(fewer) => Beside::Fewer(usize::try_from(fewer).ok()?),
        None => Beside::Floors,
    };
    Some(Case {
        scenario: Scenario::from_str(keys.scenario, false).ok()?,
        payload_bytes: usize::try_from(keys.payload_bytes).ok()?,
        idle: idles.into_iter().find(|idle| idle.name() == keys.idle)?,
        connections: usize::try_from(keys.connections).ok()?,
        beside,
        delivery: if keys.is_reliable { Delivery::Reliable } else { Delivery::BestEffort },
        // No goal depends on the rest.
        period: None,
        bulk: Bulk::Nothing,
        busy: usize::try_from(keys.busy.unwrap_or(0)).ok()?,
        reactors: 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_cases_again() {
        let rtt = Keys {
            scenario: "rtt",
            idle: "spin",
            payload_bytes: 64,
            connections: 1,
            busy: None,
            fewer: None,
            is_reliable: false,
        };
        let check = |keys, expected: &[&str]| {
            let texts: Vec<String> = Held::all_of(keys)
                .into_iter()
                .map(|held| format!("{} {}", held.figure(), held.text()))
                .collect();
            assert_eq!(texts, expected, "{keys:?}");
        };
        check(rtt, &["p50 <= 1.10x", "p99 <= 1.25x"]);
        check(Keys { idle: "park", ..rtt }, &["p50 <= 1.10x", "p99 <= 1.15x"]);
        check(Keys { payload_bytes: 65, ..rtt }, &[]);
        check(Keys { scenario: "later", ..rtt }, &[]);
        check(Keys { idle: "later", ..rtt }, &[]);
        check(Keys { connections: 1_000, fewer: Some(64), ..rtt }, &["frames/s >= 0.80x"]);
        let silent = Keys { connections: 9_900, busy: Some(64), ..rtt };
        let [held] = Held::all_of(silent)[..] else { panic!("held to the busy ones alone") };
        assert_eq!((held.figure(), held.floor()), ("frames/s", 1));
        let bulk = Keys { scenario: "stream", payload_bytes: 1 << 20, ..rtt };
        let all = Held::all_of(bulk);
        let [frames, held] = all[..] else { panic!("held to frames and to bulk bytes") };
        assert_eq!((frames.floor(), held.figure(), held.floor()), (0, "frames/s", 1));
        assert!(held.is_met(0.90) && !held.is_met(0.89));
    }
}

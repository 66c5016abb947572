//! What is measured, by form: `quick` in minutes, `long` for as long as it needs.

use crate::job::{Case, Scenario};

/// How thorough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// One case of each kind, under five minutes for everything.
    Quick,
    /// Every size, rate and number of connections; paced with a million samples each.
    Long,
}

/// Sizes of rtt and stream.
const SIZES: [usize; 6] = [64, 256, 1 << 10, 4 << 10, 64 << 10, 1 << 20];
/// Rates of paced.
const RATES: [u32; 2] = [1_000, 10_000];
/// Connections of fan-in.
const CROWDS: [usize; 5] = [1, 16, 128, 1_000, 10_000];
/// Round trips of each paced case in the long form, over all rounds.
const PACED_SAMPLES: u64 = 1_000_000;

impl Form {
    pub fn rounds(self) -> usize {
        match self {
            Self::Quick => 7,
            Self::Long => 11,
        }
    }

    /// The timed part of one round.
    pub fn duration_ns(self, case: &Case, rounds: usize) -> u64 {
        match (self, case.scenario) {
            (Self::Quick, Scenario::Paced) => 150_000_000,
            (Self::Quick, _) => 100_000_000,
            (Self::Long, Scenario::Paced) => {
                let samples = PACED_SAMPLES.div_ceil(rounds as u64);
                samples * 1_000_000_000 / u64::from(case.rate_hz)
            }
            (Self::Long, _) => 1_000_000_000,
        }
    }

    /// The cases of a scenario.
    pub fn cases(self, scenario: Scenario) -> Vec<Case> {
        let case = |payload_bytes| Case {
            scenario,
            payload_bytes,
            connections: 1,
            rate_hz: 0,
            bulk: false,
        };
        let paced = |rate_hz, bulk| Case { rate_hz, bulk, ..case(64) };
        let crowd = |connections| Case { connections, ..case(64) };
        match (self, scenario) {
            (Self::Quick, Scenario::Rtt | Scenario::Stream) => [64, 64 << 10].map(case).into(),
            (Self::Quick, Scenario::Paced) => vec![paced(1_000, false), paced(1_000, true)],
            (Self::Quick, Scenario::FanIn) => vec![crowd(128)],
            (Self::Long, Scenario::Rtt | Scenario::Stream) => SIZES.map(case).into(),
            (Self::Long, Scenario::Paced) => {
                RATES.iter().flat_map(|&rate| [paced(rate, false), paced(rate, true)]).collect()
            }
            (Self::Long, Scenario::FanIn) => CROWDS.map(crowd).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_form_has_a_million_paced_samples() {
        let form = Form::Long;
        for case in form.cases(Scenario::Paced) {
            let ns = form.duration_ns(&case, form.rounds());
            let samples = ns / (1_000_000_000 / u64::from(case.rate_hz)) * form.rounds() as u64;
            assert!((PACED_SAMPLES..PACED_SAMPLES + 100).contains(&samples), "{samples}");
        }
        assert_eq!(form.cases(Scenario::FanIn).len(), 5);
    }

    #[test]
    fn quick_form_is_a_part_of_the_long_one() {
        for scenario in Scenario::ALL {
            let long = Form::Long.cases(scenario);
            assert!(Form::Quick.cases(scenario).iter().all(|case| long.contains(case)));
        }
    }
}

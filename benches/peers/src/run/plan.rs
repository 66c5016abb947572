//! What is measured, by form, and how long that takes: `quick` in minutes, `long` for as long as it
//! needs.

use super::WARM_UP_NS;
use super::figure::TRIPS_EACH_MIN;
use crate::job::{Case, Scenario};

/// How thorough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// The cases that have goals and one of fan-in, under five minutes for everything, also where
    /// subjects are slow to start and to end.
    Quick,
    /// Every size, rate and number of connections; paced with a million samples each.
    Long,
}

/// How often, and for how long, each subject does a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub rounds: usize,
    /// The timed part of a round.
    pub duration_ns: u64,
}

/// Sizes of rtt and stream.
const SIZES: [usize; 6] = [64, 256, 1 << 10, 4 << 10, 64 << 10, 1 << 20];
/// Rates of paced.
const RATES: [u32; 2] = [1_000, 10_000];
/// Connections of fan-in.
const CROWDS: [usize; 5] = [1, 16, 128, 1_000, 10_000];
/// Round trips of each paced case in the long form, over all rounds.
const PACED_SAMPLES: u64 = 1_000_000;
/// What a round trip of fan-in takes: of most subjects with as many connections as the quick form
/// has, and of a slow one with 10,000.
const TRIP_NS: u64 = 40_000;
const SLOW_TRIP_NS: u64 = 100_000;
/// What a round takes beside its warm-up and timed part: two processes, a connection, a check. As
/// measured over a whole run; python and what has threads of its own take longer.
const START_NS: u64 = 30_000_000;
/// More of that for each connection.
const CONNECT_NS: u64 = 50_000;

impl Form {
    /// Odd, so that the median is a round that happened. In the same time many short rounds tell
    /// more of a ratio than a few long ones: there are more of them, and the sides of each are
    /// closer together. Few are left where many connections are made for each, or where a round
    /// needs a rate's samples.
    pub fn rounds(self, case: &Case) -> usize {
        match (self, case.scenario) {
            (Self::Quick, Scenario::Rtt | Scenario::Stream) => 9,
            (Self::Quick, Scenario::Paced | Scenario::FanIn) => 7,
            (Self::Long, Scenario::Rtt | Scenario::Stream) => 101,
            (Self::Long, Scenario::Paced | Scenario::FanIn) => 11,
        }
    }

    /// The timed part of one round.
    pub fn duration_ns(self, case: &Case, rounds: usize) -> u64 {
        // What each connection takes, of all of them.
        let all = |ns: u64| ns * case.connections as u64;
        match (self, case.scenario) {
            // At 10 kHz more than 10,000 samples over seven rounds, which p99.9 and max need.
            (Self::Quick, Scenario::Paced) => 150_000_000,
            (Self::Quick, Scenario::FanIn) => 50_000_000.max(all(TRIPS_EACH_MIN * TRIP_NS)),
            // As many round trips of who sleeps as a p99 takes.
            (Self::Quick, Scenario::Rtt) => 40_000_000,
            (Self::Quick, Scenario::Stream) => 30_000_000,
            (Self::Long, Scenario::Paced) => {
                let samples = PACED_SAMPLES.div_ceil(rounds as u64);
                samples * 1_000_000_000 / u64::from(case.rate_hz)
            }
            (Self::Long, Scenario::FanIn) => {
                1_000_000_000.max(all(2 * TRIPS_EACH_MIN * SLOW_TRIP_NS))
            }
            (Self::Long, Scenario::Rtt | Scenario::Stream) => 100_000_000,
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
            (Self::Quick, Scenario::Rtt) => [64, 64 << 10].map(case).into(),
            (Self::Quick, Scenario::Stream) => [64, 64 << 10, 1 << 20].map(case).into(),
            (Self::Quick, Scenario::FanIn) => vec![crowd(128)],
            (Self::Long, Scenario::Rtt | Scenario::Stream) => SIZES.map(case).into(),
            // At 1 kHz there are too few samples for what bulk is about.
            (Self::Quick, Scenario::Paced) => {
                vec![paced(1_000, false), paced(10_000, false), paced(10_000, true)]
            }
            (Self::Long, Scenario::Paced) => {
                RATES.iter().flat_map(|&rate| [paced(rate, false), paced(rate, true)]).collect()
            }
            (Self::Long, Scenario::FanIn) => CROWDS.map(crowd).into(),
        }
    }
}

impl Load {
    /// What a case takes with so many subjects, about.
    pub fn expected_ns(self, case: &Case, subjects: usize) -> u64 {
        let start_ns = START_NS + CONNECT_NS * case.sockets() as u64;
        let round_ns = start_ns + WARM_UP_NS + self.duration_ns;
        round_ns * (self.rounds * subjects) as u64
    }
}

/// `40 s`, `4 min 10 s`, `16 h 5 min`.
pub fn span(ns: u64) -> String {
    let seconds = ns.div_ceil(1_000_000_000);
    let (larger, smaller, units) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => (seconds / 60, seconds % 60, ["min", "s"]),
        _ => (seconds / 3600, seconds % 3600 / 60, ["h", "min"]),
    };
    match smaller {
        0 => format!("{larger} {}", units[0]),
        _ => format!("{larger} {} {smaller} {}", units[0], units[1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Round trips of a paced case, over all rounds.
    fn samples(form: Form, case: &Case) -> u64 {
        let rounds = form.rounds(case);
        let ns = form.duration_ns(case, rounds);
        ns / (1_000_000_000 / u64::from(case.rate_hz)) * rounds as u64
    }

    fn expected_s(form: Form, scenarios: &[Scenario], subjects: usize) -> u64 {
        let cases = scenarios.iter().flat_map(|&scenario| form.cases(scenario));
        let ns: u64 = cases
            .map(|case| {
                let rounds = form.rounds(&case);
                let load = Load { rounds, duration_ns: form.duration_ns(&case, rounds) };
                load.expected_ns(&case, subjects)
            })
            .sum();
        ns / 1_000_000_000
    }

    #[test]
    fn long_form_has_a_million_paced_samples() {
        for case in Form::Long.cases(Scenario::Paced) {
            let samples = samples(Form::Long, &case);
            assert!((PACED_SAMPLES..PACED_SAMPLES + 100).contains(&samples), "{samples}");
        }
        assert_eq!(Form::Long.cases(Scenario::FanIn).len(), 5);
    }

    #[test]
    fn quick_form_is_a_part_of_the_long_one() {
        for scenario in Scenario::ALL {
            let long = Form::Long.cases(scenario);
            assert!(Form::Quick.cases(scenario).iter().all(|case| long.contains(case)));
        }
    }

    /// Every goal of the stream and, at 10 kHz, of the tail can be judged by the quick form.
    #[test]
    fn quick_form_has_what_goals_need() {
        let sizes: Vec<usize> =
            Form::Quick.cases(Scenario::Stream).iter().map(|case| case.payload_bytes).collect();
        assert_eq!(sizes, [64, 64 << 10, 1 << 20]);
        for case in Form::Quick.cases(Scenario::Paced) {
            let enough = if case.rate_hz == 10_000 { 10_000 } else { 1_000 };
            assert!((enough..enough + enough / 10).contains(&samples(Form::Quick, &case)));
        }
    }

    /// Of a second, 10,000 connections had two round trips each.
    #[test]
    fn crowds_have_time_for_many_round_trips_each() {
        let ns = |form: Form, connections| {
            let case = Case { connections, ..Form::Quick.cases(Scenario::FanIn)[0] };
            form.duration_ns(&case, form.rounds(&case))
        };
        let long = [1, 128, 1_000, 10_000].map(|count| ns(Form::Long, count));
        assert_eq!(long, [1, 1, 2, 20].map(|seconds| seconds * 1_000_000_000));
        let quick = [1, 128, 1_000].map(|count| ns(Form::Quick, count));
        assert_eq!(quick, [50_000_000, 51_200_000, 400_000_000]);
    }

    #[test]
    fn time_is_foretold() {
        let quick = expected_s(Form::Quick, &Scenario::ALL, 25);
        // A fifth more with subjects that have queues to empty, and what has no peers.
        assert!((150..220).contains(&quick), "{quick} s: quick is under five minutes");
        let paced = expected_s(Form::Long, &[Scenario::Paced], 26);
        assert!((56_000..60_000).contains(&paced), "{paced} s");
        let second = 1_000_000_000;
        let spans = [1, 59 * second, 60 * second, 250 * second, 57_910 * second].map(span);
        assert_eq!(spans, ["1 s", "59 s", "1 min", "4 min 10 s", "16 h 5 min"]);
    }
}

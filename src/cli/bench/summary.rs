//! From rounds to one record per subject: medians, and the keys of the JSON lines.
//!
//! The keys and their order are an interface: programs read these lines. A figure is the median
//! over the rounds of that round's figure; `p50_ns_low` and `p50_ns_high` are the lowest and
//! highest p50 of a round, those of p99 and of `frames_per_s` likewise; `by_round` has these three
//! for each round, in order, so that subjects that took turns can be compared round by round;
//! `samples` and `errors` are sums over the rounds. What is rarer than one in a hundred,
//! `p99_9_ns`, `p99_99_ns` and `max_ns`, is of all rounds together, as `histogram_v2` and `series`
//! are: a median of the rounds' maxima would hide most of what a machine can meet.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use serde::Serialize;

use super::options::Scenario;
use super::plan::{Bulk, Plan};
use super::round::{Round, latency_histogram};
use super::series::Series;

/// One JSON line: how one subject did in one case. `null` where a key has no meaning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Record {
    pub(super) scenario: &'static str,
    pub(super) subject: String,
    pub(super) idle: &'static str,
    pub(super) payload_bytes: usize,
    pub(super) connections: usize,
    pub(super) rounds: usize,
    /// Round trips timed one by one; in a stream, the frames counted.
    pub(super) samples: u64,
    pub(super) p50_ns: Option<u64>,
    pub(super) p90_ns: Option<u64>,
    pub(super) p99_ns: Option<u64>,
    pub(super) p99_9_ns: Option<u64>,
    pub(super) p99_99_ns: Option<u64>,
    pub(super) max_ns: Option<u64>,
    pub(super) p50_ns_low: Option<u64>,
    pub(super) p50_ns_high: Option<u64>,
    pub(super) p99_ns_low: Option<u64>,
    pub(super) p99_ns_high: Option<u64>,
    /// A round trip is two frames.
    pub(super) frames_per_s: Option<f64>,
    pub(super) frames_per_s_low: Option<f64>,
    pub(super) frames_per_s_high: Option<f64>,
    /// Payload bytes.
    pub(super) bytes_per_s: Option<f64>,
    /// Both ends together.
    pub(super) cpu_ns_per_frame: Option<f64>,
    /// `io_uring_enter` calls of both ends; `null` for subjects without a ring. Not all system
    /// calls: for few connections send is called instead, and by a spinning reactor recv.
    pub(super) enters_per_frame: Option<f64>,
    /// Those calls: `send` and `recv` past the ring, of both ends, without the attempts that found
    /// nothing. `null` for subjects without a ring.
    pub(super) direct_per_frame: Option<f64>,
    pub(super) errors: u64,
    /// The rounds one by one.
    pub(super) by_round: Vec<OfRound>,
    /// Of paced load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests_per_s: Option<f64>,
    /// Connections on which messages went to and fro, where others were silent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) busy_connections: Option<usize>,
    /// Payload bytes of the stream beside what is measured, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bulk_bytes_per_s: Option<f64>,
    /// Both ends together, where memory is asked for. Of the first round: those after it find
    /// memory that the ones before have given back to the process, and not to the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resident_bytes_per_connection: Option<f64>,
    /// CPU time of both ends as a share of one core, where nothing else is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_share: Option<f64>,
    /// Reactors of the server, where they vary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reactors: Option<usize>,
    /// Latencies of all rounds: HdrHistogram's V2 format in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) histogram_v2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) series: Option<Series>,
}

/// What goals are about, of one round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct OfRound {
    pub(super) p50_ns: Option<u64>,
    pub(super) p99_ns: Option<u64>,
    pub(super) frames_per_s: Option<f64>,
}

/// A record and what only people are shown.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) record: Record,
    /// What it is called in a table whose columns have no room for its name.
    pub(super) letter: Option<char>,
}

impl Record {
    /// Sums up the rounds of one subject.
    ///
    /// # Panics
    ///
    /// When there are no rounds.
    pub(super) fn sum_up(plan: &Plan, subject: &str, rounds: &[Round]) -> Measured {
        assert!(!rounds.is_empty(), "a subject runs at least one round");
        let case = plan.case;
        let rates: Vec<f64> = rounds.iter().map(Round::frames_per_s).collect();
        let has_rate = case.scenario.has_rate();
        // Who reads the clock alone moves no frames.
        let moves_frames = has_rate && rounds.iter().any(|round| round.frames > 0.0);
        let rate = |of: fn(&[f64]) -> f64| moves_frames.then(|| of(&rates));
        let frames_per_s = rate(median);
        let per_frame = |figure: &dyn Fn(&Round) -> Option<f64>| {
            median_of(rounds, |round| Some(figure(round)? / round.frames))
        };
        let (p50s, p99s) = (quantiles(rounds, 0.5), quantiles(rounds, 0.99));
        let all = all_latencies(rounds);
        let of_all = |quantile| all.as_ref().map(|all| all.value_at_quantile(quantile));
        // A few hundred cuts say nothing of one in a thousand.
        let rare = |quantile| of_all(quantile).filter(|_| has_rate);
        let record = Self {
            scenario: case.scenario.name(),
            subject: subject.into(),
            idle: case.idle.name(),
            payload_bytes: case.payload_bytes,
            connections: case.connections,
            rounds: rounds.len(),
            samples: rounds.iter().map(Round::samples).sum(),
            p50_ns: median_ns(p50s.as_deref()),
            p90_ns: median_ns(quantiles(rounds, 0.9).as_deref()),
            p99_ns: median_ns(p99s.as_deref()),
            p99_9_ns: rare(0.999),
            p99_99_ns: rare(0.9999),
            max_ns: of_all(1.0),
            p50_ns_low: p50s.as_deref().map(|values| whole(lowest(values))),
            p50_ns_high: p50s.as_deref().map(|values| whole(highest(values))),
            p99_ns_low: p99s.as_deref().map(|values| whole(lowest(values))),
            p99_ns_high: p99s.as_deref().map(|values| whole(highest(values))),
            frames_per_s: frames_per_s.map(tidy),
            frames_per_s_low: rate(lowest).map(tidy),
            frames_per_s_high: rate(highest).map(tidy),
            bytes_per_s: frames_per_s.map(|rate| tidy(rate * case.payload_bytes as f64)),
            cpu_ns_per_frame: per_frame(&|round| moves_frames.then_some(round.cpu_ns as f64)),
            enters_per_frame: per_frame(&|round| Some(round.calls?.enters as f64)),
            direct_per_frame: per_frame(&|round| Some(round.calls?.direct as f64)),
            errors: rounds.iter().map(|round| round.errors).sum(),
            by_round: rounds.iter().map(|round| OfRound::of(round, moves_frames)).collect(),
            requests_per_s: case.period.map(|period| tidy(1.0 / period.as_secs_f64())),
            busy_connections: Some(case.busy()).filter(|&busy| busy < case.connections),
            bulk_bytes_per_s: median_of(rounds, |round| {
                let bytes = round.extra.bulk_bytes.filter(|_| case.bulk != Bulk::Nothing)?;
                Some(bytes as f64 * 1e9 / round.elapsed_ns as f64)
            }),
            resident_bytes_per_connection: rounds.first().and_then(|round| {
                let bytes = round.extra.resident_bytes?;
                Some(tidy(ratio(bytes as f64, case.connections as f64)?))
            }),
            cpu_share: median_of(rounds, |round| {
                let is_asked = case.scenario == Scenario::Idle;
                is_asked.then(|| round.cpu_ns as f64 / round.elapsed_ns as f64)
            }),
            reactors: (case.scenario == Scenario::Cores).then_some(case.reactors),
            histogram_v2: all.as_ref().map(encode),
            series: Series::of(rounds.iter().map(|round| round.extra.course.as_ref())),
        };
        Measured { record, letter: None }
    }
}

impl OfRound {
    fn of(round: &Round, moves_frames: bool) -> Self {
        let quantile = |quantile| Some(round.latency.as_ref()?.value_at_quantile(quantile));
        Self {
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            frames_per_s: moves_frames.then(|| tidy(round.frames_per_s())),
        }
    }
}

impl Round {
    fn frames_per_s(&self) -> f64 {
        self.frames * 1e9 / self.elapsed_ns as f64
    }

    fn samples(&self) -> u64 {
        self.latency.as_ref().map_or(whole(self.frames), Histogram::len)
    }
}

/// One quantile of every round; `None` when no latencies were taken.
fn quantiles(rounds: &[Round], quantile: f64) -> Option<Vec<f64>> {
    let of = |round: &Round| Some(round.latency.as_ref()?.value_at_quantile(quantile) as f64);
    rounds.iter().map(of).collect()
}

/// The median of a figure that every round has.
fn median_of(rounds: &[Round], figure: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
    let values: Option<Vec<f64>> = rounds.iter().map(figure).collect();
    Some(tidy(median(&values?)))
}

/// The latencies of all rounds, when some were taken.
fn all_latencies(rounds: &[Round]) -> Option<Histogram<u64>> {
    let mut sum = latency_histogram();
    for round in rounds {
        sum.add(round.latency.as_ref()?).expect("the same bounds");
    }
    Some(sum)
}

fn encode(latencies: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(latencies, &mut bytes).expect("a vector takes every byte");
    STANDARD.encode(bytes)
}

fn median_ns(values: Option<&[f64]>) -> Option<u64> {
    Some(whole(median(values?)))
}

/// The middle value, or the mean of the middle two.
///
/// # Panics
///
/// When there are no values.
pub(super) fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "there is no median of nothing");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    } else {
        sorted[middle]
    }
}

fn lowest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// `value` as a multiple of `floor`; `None` where that means nothing.
pub(in crate::cli) fn ratio(value: f64, floor: f64) -> Option<f64> {
    (floor > 0.0 && value.is_finite()).then_some(value / floor)
}

/// Six significant digits: more would pretend a precision that no figure here has.
fn tidy(value: f64) -> f64 {
    format!("{value:.5e}").parse().expect("a formatted number is a number")
}

#[expect(clippy::cast_possible_truncation, reason = "counts and nanoseconds, far below 2^53")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use ringwire::config::Idle;

    use std::time::Duration;

    use hdrhistogram::serialization::Deserializer;

    use super::super::paced::Course;
    use super::super::plan::{Case, sample};
    use super::super::round::{Calls, Extra};
    use super::*;

    /// A round with one round trip of `ns`.
    fn round(ns: u64, enters: Option<u64>) -> Round {
        let mut latency = latency_histogram();
        latency.record(ns).expect("within bounds");
        let frames = 2.0;
        let calls = enters.map(|enters| Calls { enters, direct: 2 });
        Round {
            latency: Some(latency),
            frames,
            elapsed_ns: ns,
            cpu_ns: 10,
            calls,
            errors: 1,
            extra: Extra::default(),
        }
    }

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn ratio_of_nothing_is_none() {
        assert_eq!(ratio(2.0, 4.0), Some(0.5));
        assert_eq!(ratio(2.0, 0.0), None);
    }

    #[test]
    fn tidy_keeps_six_digits() {
        assert_eq!(tidy(123_456_789.4), 123_457_000.0);
        assert_eq!(tidy(12.345_678_9), 12.345_7);
        assert_eq!(tidy(0.001_234_567_8), 0.001_234_57);
    }

    #[test]
    fn keys_are_exactly_the_documented_ones() {
        let plan = sample(Scenario::Rtt, Idle::Spin, 64, 1);
        let measured = Record::sum_up(&plan, "socket", &[round(1000, None)]);
        let line = serde_json::to_string(&measured.record).expect("serialises");
        let expected = "scenario subject idle payload_bytes connections rounds samples p50_ns \
            p90_ns p99_ns p99_9_ns p99_99_ns max_ns p50_ns_low p50_ns_high p99_ns_low \
            p99_ns_high frames_per_s frames_per_s_low frames_per_s_high bytes_per_s \
            cpu_ns_per_frame enters_per_frame direct_per_frame errors by_round histogram_v2";
        let keys: Vec<&str> = expected.split_whitespace().collect();
        let position = |key: &&str| line.find(&format!("\"{key}\":")).expect("the key is there");
        let positions: Vec<usize> = keys.iter().map(position).collect();
        assert!(positions.is_sorted(), "the keys are in the documented order: {line}");
        let parsed: serde_json::Value = serde_json::from_str(&line).expect("an object");
        assert_eq!(parsed.as_object().expect("an object").len(), keys.len());
    }

    #[test]
    fn figures_are_medians_of_rounds_and_rare_ones_of_all() {
        let plan = sample(Scenario::Rtt, Idle::Park, 64, 1);
        let rounds = [round(3000, Some(4)), round(1000, Some(2)), round(2000, Some(3))];
        let record = Record::sum_up(&plan, "ringwire", &rounds).record;
        let near = |value: Option<u64>, want: u64| {
            let value = value.expect("latencies were taken");
            assert!(value.abs_diff(want) <= want / 500, "{value} is not {want}");
        };
        near(record.p50_ns, 2000);
        near(record.p99_ns, 2000);
        near(record.p99_9_ns, 3000);
        near(record.max_ns, 3000);
        for low in [record.p50_ns_low, record.p99_ns_low] {
            near(low, 1000);
        }
        for high in [record.p50_ns_high, record.p99_ns_high] {
            near(high, 3000);
        }
        // In the order they ran.
        for (one, (ns, rate)) in
            record.by_round.iter().zip([(3000, 666_667.0), (1000, 2e6), (2000, 1e6)])
        {
            near(one.p50_ns, ns);
            near(one.p99_ns, ns);
            assert_eq!(one.frames_per_s, Some(rate));
        }
        assert_eq!(record.by_round.len(), 3);
        assert_eq!((record.rounds, record.samples, record.errors), (3, 3, 3));
        assert_eq!(record.frames_per_s, Some(1e6));
        assert_eq!(record.bytes_per_s, Some(64e6));
        assert_eq!(record.cpu_ns_per_frame, Some(5.0));
        assert_eq!(record.enters_per_frame, Some(1.5));
        assert_eq!(
            (record.frames_per_s_low, record.frames_per_s_high),
            (Some(666_667.0), Some(2e6))
        );
        assert_eq!(record.direct_per_frame, Some(1.0));
    }

    #[test]
    fn stream_has_no_latencies() {
        let plan = sample(Scenario::Stream, Idle::Spin, 64, 1);
        let round = Round { latency: None, frames: 10.0, ..round(1000, None) };
        let record = Record::sum_up(&plan, "raw", &[round]).record;
        assert_eq!((record.p50_ns, record.max_ns, record.p50_ns_low), (None, None, None));
        assert_eq!(record.samples, 10);
        assert_eq!((record.enters_per_frame, record.direct_per_frame), (None, None));
        let [one] = record.by_round[..] else { panic!("one round") };
        assert_eq!((one.p50_ns, one.p99_ns, one.frames_per_s), (None, None, Some(1e7)));
    }

    #[test]
    fn histogram_holds_the_latencies_of_all_rounds() {
        let plan = sample(Scenario::Rtt, Idle::Spin, 64, 1);
        let record =
            Record::sum_up(&plan, "ringwire", &[round(1000, None), round(5000, None)]).record;
        let bytes = STANDARD.decode(record.histogram_v2.expect("latencies were taken"));
        let bytes = bytes.expect("it is base64");
        let read: Histogram<u64> =
            Deserializer::new().deserialize(&mut &bytes[..]).expect("it is V2");
        assert_eq!((read.len(), read.count_at(1000), read.count_at(5000)), (2, 1, 1));
        let stream = Round { latency: None, ..round(1000, None) };
        assert_eq!(Record::sum_up(&plan, "raw", &[stream]).record.histogram_v2, None);
    }

    #[test]
    fn keys_of_some_scenarios_are_there_only() {
        let plan = sample(Scenario::Paced, Idle::Spin, 64, 4);
        let period = Some(Duration::from_millis(2));
        let case = Case { period, bulk: Bulk::Beside, ..plan.case };
        let plan = Plan { case, ..plan };
        let course = Course { period: Duration::from_millis(2), latencies_ns: vec![7] };
        let extra =
            Extra { bulk_bytes: Some(500), resident_bytes: Some(4096), course: Some(course) };
        let round = Round { extra, ..round(1_000_000_000, None) };
        let record = Record::sum_up(&plan, "socket", &[round]).record;
        assert_eq!(record.requests_per_s, Some(500.0));
        assert_eq!(record.bulk_bytes_per_s, Some(500.0));
        assert_eq!(record.resident_bytes_per_connection, Some(1024.0));
        assert_eq!((record.cpu_share, record.reactors), (None, None));
        assert_eq!(record.series.expect("paced").outliers, [(0.0, 7)]);
    }

    /// What it has given back is used again later, and becomes resident no more.
    #[test]
    fn memory_is_that_of_the_first_round() {
        let plan = sample(Scenario::FanIn, Idle::Park, 64, 4);
        let rounds = [4096, 8, 8].map(|bytes| {
            let extra = Extra { resident_bytes: Some(bytes), ..Extra::default() };
            Round { extra, ..round(1000, None) }
        });
        let record = Record::sum_up(&plan, "ringwire", &rounds).record;
        assert_eq!(record.resident_bytes_per_connection, Some(1024.0));
    }

    #[test]
    fn silence_has_a_share_of_a_core_and_no_frames() {
        let plan = sample(Scenario::Idle, Idle::Park, 64, 0);
        let round = Round { latency: None, frames: 0.0, ..round(1000, None) };
        let record = Record::sum_up(&plan, "ringwire", &[round]).record;
        assert_eq!(record.cpu_share, Some(0.01));
        assert_eq!((record.frames_per_s, record.cpu_ns_per_frame), (None, None));
        assert_eq!((record.frames_per_s_low, record.frames_per_s_high), (None, None));
        assert_eq!(record.by_round[0].frames_per_s, None);
        assert_eq!(record.resident_bytes_per_connection, None, "there are none");
        assert_eq!(record.histogram_v2, None);
    }

    #[test]
    fn failover_has_latencies_and_no_rates() {
        let plan = sample(Scenario::Failover, Idle::Spin, 64, 1);
        let record = Record::sum_up(&plan, "ringwire", &[round(1000, None)]).record;
        assert!(record.p50_ns.is_some() && record.p99_ns.is_some() && record.max_ns.is_some());
        assert_eq!((record.p99_9_ns, record.p99_99_ns), (None, None));
        assert_eq!((record.frames_per_s, record.bytes_per_s), (None, None));
        assert_eq!((record.cpu_ns_per_frame, record.enters_per_frame), (None, None));
        assert_eq!(record.direct_per_frame, None);
    }
}

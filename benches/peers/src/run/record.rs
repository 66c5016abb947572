//! From rounds to one JSON line for each subject of a case.
//!
//! Where a key means the same as in the lines of `ringwire bench --json` it has the same name. A
//! figure is the median over the rounds of that round's figure; `…_low` and `…_high` are the lowest
//! and highest of a round. What is rarer than one in a hundred, `p99_9_ns`, `p99_99_ns` and
//! `max_ns`, is of the samples of all rounds together, as `histogram_v2` is: a median of maxima
//! would hide most of what a subject, or the machine, has done. `by_round` has the rounds one by
//! one, in order: subjects took turns, so that those of one place belong together.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::drive::Failure;
use crate::histogram;
use crate::job::{Calls, Case, Round, Scenario};
use crate::subjects::{Facts, Role, Subject, version_of};

/// One JSON line; `null` where a key has no meaning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    pub scenario: &'static str,
    pub subject: String,
    pub idle: &'static str,
    pub payload_bytes: usize,
    pub connections: usize,
    pub rounds: usize,
    /// Round trips timed one by one; in a stream, the messages counted.
    pub samples: u64,
    pub p50_ns: Option<u64>,
    pub p90_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub p99_9_ns: Option<u64>,
    pub p99_99_ns: Option<u64>,
    pub max_ns: Option<u64>,
    pub p50_ns_low: Option<u64>,
    pub p50_ns_high: Option<u64>,
    /// A round trip is two frames, a message each.
    pub frames_per_s: Option<f64>,
    /// Payload bytes.
    pub bytes_per_s: Option<f64>,
    /// Both ends together.
    pub cpu_ns_per_frame: Option<f64>,
    pub errors: u64,
    pub by_round: Vec<OfRound>,
    // From here on: keys of this suite only.
    /// `floor`, `ringwire` or `peer`.
    pub role: &'static str,
    pub version: Option<String>,
    pub transport: &'static str,
    pub rate_hz: Option<u32>,
    pub bulk: bool,
    pub frames_per_s_low: Option<f64>,
    pub frames_per_s_high: Option<f64>,
    pub cpu_client_ns_per_frame: Option<f64>,
    pub cpu_server_ns_per_frame: Option<f64>,
    /// Of both ends, from who counts them: io_uring_enter(2), and send(2) and recv(2) past the ring
    /// that moved something.
    pub enters_per_frame: Option<f64>,
    pub direct_per_frame: Option<f64>,
    pub p99_ns_low: Option<u64>,
    pub p99_ns_high: Option<u64>,
    pub p99_9_ns_low: Option<u64>,
    pub p99_9_ns_high: Option<u64>,
    pub max_ns_low: Option<u64>,
    pub max_ns_high: Option<u64>,
    /// What the next four are about, as tables name it: the figure of the case.
    pub compared: Option<&'static str>,
    /// The floor of this subject, and its figure as a multiple of that floor's.
    pub floor: Option<String>,
    pub to_floor: Option<f64>,
    /// The same with the best peer of the case.
    pub best_peer: Option<String>,
    pub to_best_peer: Option<f64>,
    pub resident_bytes_per_connection: Option<f64>,
    /// Bulk messages that arrived, and that were due.
    pub bulk_frames: Option<u64>,
    pub bulk_frames_due: Option<u64>,
    /// Why there are no figures: the subject can not do the case, failed, or was not built.
    pub skipped: Option<String>,
    pub histogram_v2: Option<String>,
}

/// What goals are about, of one round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OfRound {
    pub p50_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub frames_per_s: f64,
}

/// What is known of a subject before it has run.
#[derive(Debug, Clone, PartialEq)]
pub struct Who {
    pub name: String,
    pub idle: &'static str,
    pub transport: &'static str,
    pub role: Role,
    pub version: Option<String>,
}

impl Who {
    pub fn of(subject: &dyn Subject) -> Self {
        let Facts { name, idle, transport, package, role } = subject.facts();
        let version = version_of(package).map(|version| format!("{package} {version}"));
        Self { name: name.into(), idle, transport, role, version }
    }

    /// One that is not in this build.
    pub fn missing(name: &str) -> Self {
        Self { name: name.into(), idle: "park", transport: "tcp", role: Role::Peer, version: None }
    }
}

impl Record {
    /// A line that says why there are no figures.
    pub fn skipped(who: &Who, case: &Case, reason: String) -> Self {
        Self { skipped: Some(reason), ..Self::empty(who, case) }
    }

    /// Sums up the rounds of one subject.
    ///
    /// # Errors
    ///
    /// When a round's histogram can not be read.
    ///
    /// # Panics
    ///
    /// When there are no rounds.
    pub fn sum_up(who: &Who, case: &Case, rounds: &[Round]) -> Result<Self, Failure> {
        assert!(!rounds.is_empty(), "a subject that ran has rounds");
        let latencies: Vec<Histogram<u64>> =
            rounds.iter().filter_map(latency_of).collect::<Result<_, _>>()?;
        let mut all = histogram::new();
        for latency in &latencies {
            all.add(latency)?;
        }
        let timed = !latencies.is_empty();
        let of_rounds =
            |quantile: f64| Spread::of(&latencies, |l| ns(l.value_at_quantile(quantile)));
        let of_all = |quantile: f64| timed.then(|| all.value_at_quantile(quantile));
        let (p50, p99) = (of_rounds(0.5), of_rounds(0.99));
        let (p99_9, max) = (of_rounds(0.999), of_rounds(1.0));
        let rate = Spread::of(rounds, rate_of);
        let per_frame = |cpu_ns: fn(&Round) -> u64| {
            let each = Spread::of(rounds, |r| cpu_ns(r) as f64 / r.frames.max(1) as f64);
            each.map(|each| tidy(each.median))
        };
        let calls_per_frame = |of: fn(Calls) -> u64| {
            let of = |r: &Round| Some(of(r.calls?) as f64 / r.frames.max(1) as f64);
            let each: Option<Vec<f64>> = rounds.iter().map(of).collect();
            Some(tidy(Spread::of(&each?, |&each| each)?.median))
        };
        let bulk_sum = |frames: fn(&Round) -> Option<u64>| rounds.iter().map(frames).sum();
        let frames = rounds.iter().map(|round| round.frames).sum();
        Ok(Self {
            rounds: rounds.len(),
            samples: if timed { all.len() } else { frames },
            p50_ns: median_ns(p50),
            p90_ns: median_ns(of_rounds(0.9)),
            p99_ns: median_ns(p99),
            p99_9_ns: of_all(0.999),
            p99_99_ns: of_all(0.9999),
            max_ns: of_all(1.0),
            p50_ns_low: p50.map(Spread::low_ns),
            p50_ns_high: p50.map(Spread::high_ns),
            frames_per_s: rate.map(|rate| tidy(rate.median)),
            bytes_per_s: rate.map(|rate| tidy(rate.median * case.payload_bytes as f64)),
            cpu_ns_per_frame: per_frame(|r| r.cpu_client_ns + r.cpu_server_ns),
            errors: rounds.iter().map(|round| round.errors).sum(),
            by_round: by_round(rounds, &latencies),
            frames_per_s_low: rate.map(|rate| tidy(rate.low)),
            frames_per_s_high: rate.map(|rate| tidy(rate.high)),
            cpu_client_ns_per_frame: per_frame(|r| r.cpu_client_ns),
            cpu_server_ns_per_frame: per_frame(|r| r.cpu_server_ns),
            enters_per_frame: calls_per_frame(|calls| calls.enters),
            direct_per_frame: calls_per_frame(|calls| calls.direct),
            p99_ns_low: p99.map(Spread::low_ns),
            p99_ns_high: p99.map(Spread::high_ns),
            p99_9_ns_low: p99_9.map(Spread::low_ns),
            p99_9_ns_high: p99_9.map(Spread::high_ns),
            max_ns_low: max.map(Spread::low_ns),
            max_ns_high: max.map(Spread::high_ns),
            resident_bytes_per_connection: (case.scenario == Scenario::FanIn)
                .then(|| Spread::of(rounds, |r| r.resident_bytes_per_connection.unwrap_or(0.0)))
                .flatten()
                .map(|each| each.median.round()),
            bulk_frames: bulk_sum(|round| round.bulk_frames),
            bulk_frames_due: bulk_sum(|round| round.bulk_frames_due),
            histogram_v2: timed.then(|| histogram::encode(&all)),
            ..Self::empty(who, case)
        })
    }

    fn empty(who: &Who, case: &Case) -> Self {
        Self {
            scenario: case.scenario.name(),
            subject: who.name.clone(),
            idle: who.idle,
            payload_bytes: case.payload_bytes,
            connections: case.connections,
            rounds: 0,
            samples: 0,
            p50_ns: None,
            p90_ns: None,
            p99_ns: None,
            p99_9_ns: None,
            p99_99_ns: None,
            max_ns: None,
            p50_ns_low: None,
            p50_ns_high: None,
            frames_per_s: None,
            bytes_per_s: None,
            cpu_ns_per_frame: None,
            errors: 0,
            by_round: Vec::new(),
            role: match who.role {
                Role::Floor => "floor",
                Role::Ringwire => "ringwire",
                Role::Peer => "peer",
            },
            version: who.version.clone(),
            transport: who.transport,
            rate_hz: (case.scenario == Scenario::Paced).then_some(case.rate_hz),
            bulk: case.bulk,
            frames_per_s_low: None,
            frames_per_s_high: None,
            cpu_client_ns_per_frame: None,
            cpu_server_ns_per_frame: None,
            enters_per_frame: None,
            direct_per_frame: None,
            p99_ns_low: None,
            p99_ns_high: None,
            p99_9_ns_low: None,
            p99_9_ns_high: None,
            max_ns_low: None,
            max_ns_high: None,
            compared: None,
            floor: None,
            to_floor: None,
            best_peer: None,
            to_best_peer: None,
            resident_bytes_per_connection: None,
            bulk_frames: None,
            bulk_frames_due: None,
            skipped: None,
            histogram_v2: None,
        }
    }
}

/// The rounds' figures.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    /// `None` of nothing. The median of an even number is the mean of the middle two.
    fn of<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Option<Self> {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let (low, high) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let below = figures[(figures.len() - 1) / 2];
        Some(Self { median: (figures[middle] + below) / 2.0, low, high })
    }

    fn low_ns(self) -> u64 {
        whole(self.low)
    }

    fn high_ns(self) -> u64 {
        whole(self.high)
    }
}

/// Rounds of one subject all have latencies, or none has.
fn by_round(rounds: &[Round], latencies: &[Histogram<u64>]) -> Vec<OfRound> {
    let of = |(index, round): (usize, &Round)| {
        let quantile = |quantile| Some(latencies.get(index)?.value_at_quantile(quantile));
        let (p50_ns, p99_ns) = (quantile(0.5), quantile(0.99));
        OfRound { p50_ns, p99_ns, frames_per_s: tidy(rate_of(round)) }
    };
    rounds.iter().enumerate().map(of).collect()
}

fn rate_of(round: &Round) -> f64 {
    round.frames as f64 * 1e9 / round.elapsed_ns as f64
}

fn latency_of(round: &Round) -> Option<Result<Histogram<u64>, Failure>> {
    if let Some(counts) = &round.counts {
        return Some(Ok(histogram::from_counts(counts)));
    }
    round.histogram_v2.as_deref().map(histogram::decode)
}

fn median_ns(spread: Option<Spread>) -> Option<u64> {
    spread.map(|spread| whole(spread.median))
}

fn ns(value: u64) -> f64 {
    value as f64
}

/// Six significant digits: more would pretend a precision that no figure here has.
fn tidy(value: f64) -> f64 {
    format!("{value:.5e}").parse().expect("a formatted number is a number")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds < 2^53")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects;

    const CASE: Case = Case {
        scenario: Scenario::Rtt,
        payload_bytes: 64,
        connections: 1,
        rate_hz: 0,
        bulk: false,
    };

    fn round(ns: u64) -> Round {
        Round {
            counts: Some(vec![(ns, 10)]),
            frames: 20,
            elapsed_ns: ns * 10,
            cpu_client_ns: 100,
            cpu_server_ns: 300,
            errors: 1,
            ..Round::default()
        }
    }

    #[test]
    fn figures_are_medians_and_rare_ones_are_of_all() {
        let who = Who::missing("peer");
        let rounds = [round(3000), round(1000), round(2000)];
        let record = Record::sum_up(&who, &CASE, &rounds).expect("sums up");
        let near = |value: Option<u64>, want: u64| {
            let value = value.expect("there is one");
            assert!(value.abs_diff(want) <= want / 500, "{value} is not {want}");
        };
        near(record.p50_ns, 2000);
        near(record.p99_ns, 2000);
        near(record.p50_ns_low, 1000);
        near(record.p50_ns_high, 3000);
        // Rarer than one in a hundred: of all rounds, and the rounds' own beside it.
        for tail in [record.p99_9_ns, record.p99_99_ns, record.max_ns] {
            near(tail, 3000);
        }
        for (low, high) in
            [(record.p99_9_ns_low, record.p99_9_ns_high), (record.max_ns_low, record.max_ns_high)]
        {
            near(low, 1000);
            near(high, 3000);
        }
        // In the order they ran.
        for (one, (ns, rate)) in
            record.by_round.iter().zip([(3000, 666_667.0), (1000, 2e6), (2000, 1e6)])
        {
            near(one.p50_ns, ns);
            near(one.p99_ns, ns);
            assert_eq!(one.frames_per_s, rate);
        }
        assert_eq!((record.samples, record.rounds, record.errors), (30, 3, 3));
        assert_eq!(record.by_round.len(), 3);
        assert_eq!(record.frames_per_s, Some(1e6));
        assert_eq!(record.cpu_ns_per_frame, Some(20.0));
        assert_eq!(record.cpu_server_ns_per_frame, Some(15.0));
        assert_eq!((record.enters_per_frame, record.direct_per_frame), (None, None));
        let all = histogram::decode(&record.histogram_v2.expect("timed")).expect("decodes");
        assert_eq!(all.len(), 30);
    }

    #[test]
    fn calls_are_per_frame() {
        let with = |enters| Round { calls: Some(Calls { enters, direct: 30 }), ..round(1000) };
        let rounds = [with(40), with(10), with(20)];
        let record = Record::sum_up(&Who::missing("peer"), &CASE, &rounds).expect("sums up");
        assert_eq!((record.enters_per_frame, record.direct_per_frame), (Some(1.0), Some(1.5)));
    }

    #[test]
    fn stream_has_no_latencies() {
        let round = Round { counts: None, frames: 7, ..round(1000) };
        let case = Case { scenario: Scenario::Stream, ..CASE };
        let record = Record::sum_up(&Who::missing("peer"), &case, &[round]).expect("sums up");
        assert_eq!((record.p50_ns, record.histogram_v2, record.samples), (None, None, 7));
        let one = OfRound { p50_ns: None, p99_ns: None, frames_per_s: 700_000.0 };
        assert_eq!(record.by_round, [one]);
    }

    #[test]
    fn keys_of_the_bench_command_come_first_in_its_order() {
        let subject = subjects::find("raw-spin").expect("always there");
        let record = Record::skipped(&Who::of(&*subject), &CASE, "why".into());
        let line = serde_json::to_string(&record).expect("serialises");
        let expected = "scenario subject idle payload_bytes connections rounds samples p50_ns \
            p90_ns p99_ns p99_9_ns p99_99_ns max_ns p50_ns_low p50_ns_high frames_per_s \
            bytes_per_s cpu_ns_per_frame errors by_round";
        let position = |key: &str| line.find(&format!("\"{key}\":")).expect("the key is there");
        let positions: Vec<usize> = expected.split_whitespace().map(position).collect();
        assert!(positions.is_sorted() && positions[0] == 1, "{line}");
        assert!(line.contains("\"skipped\":\"why\"") && line.contains("\"role\":\"floor\""));
    }
}

//! The figures that subjects are compared by, what each takes to mean something, and whom a subject
//! is compared with.

use super::paired::{PairedRatio, most_of};
use super::record::{OfRound, Record};
use crate::job::{Case, Scenario};

/// Rounds that differ by more than this, but for a tenth at either end, were disturbed.
const NOISY: f64 = 2.0;
/// Samples of all rounds that lie beyond a percentile, at least, for it to say anything. And one of
/// each round where it is a median of rounds: of fewer it is a round's maximum.
const SAMPLES_BEYOND_MIN: u64 = 10;
/// Samples that a maximum is judged by, at least. It has none beyond it, and whoever takes more
/// samples meets more: this many tell a subject's own stalls from the luck of a few milliseconds.
const SAMPLES_OF_MAX_MIN: u64 = 10_000;
/// Round trips on each connection of a round of fan-in, at least, for its rate to say anything: of
/// fewer it is about how the connections began and ended.
pub const TRIPS_EACH_MIN: u64 = 10;
/// Streamed messages as long as this are compared with bytes without messages.
pub const BULK_PAYLOAD_BYTES_MIN: usize = 64 << 10;

/// A figure of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    P50,
    P99,
    /// Of all rounds together, as the two that are rarer.
    P999,
    P9999,
    Max,
    Rate,
}

impl Figure {
    /// The figure a case is about. Of paced load the rarest percentile that all subjects have the
    /// samples for.
    pub fn of(case: &Case, records: &[Record]) -> Self {
        match case.scenario {
            Scenario::Rtt => Self::P50,
            Scenario::Stream | Scenario::FanIn => Self::Rate,
            Scenario::Paced => {
                let timed = || records.iter().filter(|record| record.skipped.is_none());
                let is_reached = |figure: &Self| timed().all(|r| figure.lacks(r).is_none());
                [Self::P999, Self::P99].into_iter().find(is_reached).unwrap_or(Self::P50)
            }
        }
    }

    pub fn value(self, record: &Record) -> Option<f64> {
        let ns = match self {
            Self::P50 => record.p50_ns,
            Self::P99 => record.p99_ns,
            Self::P999 => record.p99_9_ns,
            Self::P9999 => record.p99_99_ns,
            Self::Max => record.max_ns,
            Self::Rate => return record.frames_per_s,
        };
        ns.map(|ns| ns as f64)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::P9999 => "p99.99",
            Self::Max => "max",
            Self::Rate => "frames/s",
        }
    }

    /// The samples that this figure takes, where a record has fewer.
    pub fn lacks(self, record: &Record) -> Option<u64> {
        let needed = match self {
            Self::P50 => beyond(record.rounds) * 2,
            Self::P99 => beyond(record.rounds) * 100,
            Self::P999 => SAMPLES_BEYOND_MIN * 1_000,
            Self::P9999 => SAMPLES_BEYOND_MIN * 10_000,
            Self::Max => SAMPLES_OF_MAX_MIN,
            Self::Rate => 0,
        };
        (record.samples < needed).then_some(needed)
    }

    /// Whether the rounds of a record differ too much in this figure; of many rounds a tenth at
    /// either end may.
    pub fn is_noisy(self, record: &Record) -> bool {
        let times = match self {
            Self::P50 | Self::P99 | Self::Rate => {
                let rounds: Vec<f64> =
                    record.by_round.iter().filter_map(|round| self.of_round(round)).collect();
                return most_of(&rounds).is_some_and(|(low, high)| high > NOISY * low);
            }
            Self::P999 => record.p99_9_ns_low.zip(record.p99_9_ns_high),
            // No round of any form has the samples for it.
            Self::P9999 => None,
            Self::Max => record.max_ns_low.zip(record.max_ns_high),
        };
        times.is_some_and(|(low, high)| high as f64 > NOISY * low as f64)
    }

    /// The same of one round; those that are of all rounds together have none.
    fn of_round(self, round: &OfRound) -> Option<f64> {
        match self {
            Self::P50 => round.p50_ns.map(|ns| ns as f64),
            Self::P99 => round.p99_ns.map(|ns| ns as f64),
            Self::Rate => Some(round.frames_per_s),
            Self::P999 | Self::P9999 | Self::Max => None,
        }
    }

    /// The ratio of a figure that rounds have one by one, where both took turns.
    pub fn paired(self, subject: &Record, other: &Record) -> Option<PairedRatio> {
        let of = |(one, other): (&OfRound, &OfRound)| {
            let ratio = self.of_round(one)? / self.of_round(other)?;
            ratio.is_finite().then_some(ratio)
        };
        // The case without bulk ran before the one with it, and not in turn.
        let rounds = subject.by_round.iter().zip(&other.by_round);
        let rounds = rounds.filter(|_| subject.bulk == other.bulk);
        PairedRatio::of(&rounds.filter_map(of).collect::<Vec<f64>>())
    }

    /// A subject's figure as a multiple of another's: by their rounds, where those took turns and
    /// have it.
    pub fn multiple(self, subject: &Record, other: &Record) -> Option<f64> {
        let (value, other_value) = (self.value(subject)?, self.value(other)?);
        let of_figures = (other_value > 0.0).then(|| value / other_value)?;
        Some(self.paired(subject, other).map_or(of_figures, |ratio| ratio.median))
    }

    /// Whether `a` is better than `b`.
    fn is_better(self, a: f64, b: f64) -> bool {
        if self == Self::Rate { a > b } else { a < b }
    }

    /// The records that have figures, the best first.
    pub fn ranked(self, records: &[Record]) -> Vec<&Record> {
        let mut ranked: Vec<&Record> = records.iter().filter(|r| r.skipped.is_none()).collect();
        ranked.sort_by(|a, b| {
            let value = |record| self.value(record).unwrap_or(0.0);
            let ascending = value(a).total_cmp(&value(b));
            if self == Self::Rate { ascending.reverse() } else { ascending }
        });
        ranked
    }

    fn best<'a>(self, records: impl Iterator<Item = &'a Record>) -> Option<&'a Record> {
        let valued = records.filter_map(|record| Some((record, self.value(record)?)));
        let best =
            valued.reduce(|best, one| if self.is_better(one.1, best.1) { one } else { best });
        best.map(|(record, _)| record)
    }
}

/// Samples of so many rounds that lie beyond a percentile, at least.
fn beyond(rounds: usize) -> u64 {
    SAMPLES_BEYOND_MIN.max(rounds as u64)
}

/// Whether a record is of so few round trips on each connection that its figures say little.
pub fn is_short(case: &Case, record: &Record) -> bool {
    let all = (record.rounds * case.connections) as u64;
    let is_timed = record.skipped.is_none() && case.scenario == Scenario::FanIn;
    is_timed && record.samples < TRIPS_EACH_MIN * all
}

/// The best peer of a case.
pub fn best_peer(figure: Figure, records: &[Record]) -> Option<&Record> {
    figure.best(records.iter().filter(|record| record.role == "peer"))
}

/// The floor a subject is compared with: the raw socket that waits the same way over the same
/// transport. Who spins for a while and then sleeps has the better of both. Over TCP, of a stream
/// of long messages, a socket that carries bytes without messages counts as well, and the better
/// one is the floor: it writes less at a time than a message of 1 MiB has.
pub fn floor_of<'a>(
    figure: Figure,
    case: &Case,
    record: &Record,
    records: &'a [Record],
) -> Option<&'a Record> {
    let ran = || records.iter().filter(|record| record.skipped.is_none());
    let is_tcp = record.transport == "tcp";
    let (spins, sleeps) = (["raw-spin", "raw-bulk-spin"], ["raw-blocking", "raw-bulk"]);
    let waits: &[[&str; 2]] = match record.idle {
        "spin" => &[spins],
        "adaptive" => &[spins, sleeps],
        _ => &[sleeps],
    };
    let ending = if is_tcp { "" } else { "-unix" };
    // Plain bytes run nothing but long streams, over TCP.
    let is_floor = |other: &&Record| {
        let name = other.subject.strip_suffix(ending);
        name.is_some_and(|name| waits.as_flattened().contains(&name))
    };
    let epoll = || ran().find(|other| other.subject == "raw-epoll" && !is_bulk_stream(case));
    figure.best(ran().filter(is_floor)).or_else(epoll)
}

/// The fastest floor over TCP, with messages or without, sockets or a bare ring: what a long stream
/// is held to, however it waits.
pub fn best_floor(records: &[Record]) -> Option<&Record> {
    let is_floor = |record: &&Record| record.role == "floor" && record.transport == "tcp";
    Figure::Rate.best(records.iter().filter(|record| record.skipped.is_none()).filter(is_floor))
}

/// Whether a case is held against bytes without messages.
pub fn is_bulk_stream(case: &Case) -> bool {
    case.scenario == Scenario::Stream && case.payload_bytes >= BULK_PAYLOAD_BYTES_MIN
}

/// Says in each record with figures whom it is compared with, and how it does beside them.
pub fn compare(case: &Case, records: &mut [Record]) {
    let figure = Figure::of(case, records);
    let best = best_peer(figure, records);
    let beside = |record: &Record, other: Option<&Record>| {
        let name = other.map(|other| other.subject.clone());
        (name, other.and_then(|other| figure.multiple(record, other)))
    };
    let compared: Vec<_> = records
        .iter()
        .map(|record| {
            let floor = floor_of(figure, case, record, records);
            (beside(record, floor), beside(record, best))
        })
        .collect();
    for (record, (floor, best)) in records.iter_mut().zip(compared) {
        if record.skipped.is_some() {
            continue;
        }
        record.compared = Some(figure.name());
        (record.floor, record.to_floor) = floor;
        (record.best_peer, record.to_best_peer) = best;
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::run::record::Who;
    use crate::subjects::Role;

    pub const CASE: Case = Case {
        scenario: Scenario::Rtt,
        payload_bytes: 64,
        connections: 1,
        rate_hz: 0,
        bulk: false,
    };

    /// One with all percentiles the same, and samples for each of them.
    pub fn record(name: &str, idle: &'static str, role: Role, ns: u64, rate: f64) -> Record {
        let who = Who { name: name.into(), idle, transport: "tcp", role, version: None };
        Record {
            skipped: None,
            rounds: 7,
            samples: 10_500,
            p50_ns: Some(ns),
            p99_ns: Some(ns),
            p99_9_ns: Some(ns),
            max_ns: Some(ns),
            frames_per_s: Some(rate),
            ..Record::skipped(&who, &CASE, String::new())
        }
    }

    #[test]
    fn best_of_rates_is_the_largest() {
        let of = |name, rate| record(name, "park", Role::Peer, 1, rate);
        let records = [of("a", 1.0), of("b", 3.0), of("c", 2.0)];
        assert_eq!(best_peer(Figure::Rate, &records).expect("three peers").subject, "b");
        let ranked = Figure::Rate.ranked(&records);
        assert_eq!(ranked.iter().map(|r| &*r.subject).collect::<String>(), "bca");
        assert!(best_peer(Figure::Rate, &records[..0]).is_none());
    }

    /// A machine of two speeds: the medians of both are of other rounds.
    #[test]
    fn ratios_are_those_of_rounds_that_took_turns() {
        let of = |name, rounds: [u64; 3]| {
            let one = |ns| OfRound { p50_ns: Some(ns), p99_ns: None, frames_per_s: 1.0 };
            let mut sorted = rounds;
            sorted.sort_unstable();
            let record = record(name, "spin", Role::Floor, sorted[1], 1.0);
            Record { by_round: rounds.map(one).into(), ..record }
        };
        let floor = of("raw-spin", [1_000, 2_000, 1_000]);
        let ours = of("ringwire-spin", [1_050, 2_100, 2_100]);
        assert_eq!(Figure::P50.multiple(&ours, &floor), Some(1.05));
        // Rarer figures are of all rounds together.
        assert_eq!(Figure::P999.multiple(&ours, &floor), Some(2.1));
        let before = Record { bulk: true, ..floor.clone() };
        assert_eq!(Figure::P50.multiple(&ours, &before), Some(2.1), "not in turn");
        let mut both = [floor, ours];
        compare(&CASE, &mut both);
        assert_eq!((both[1].floor.as_deref(), both[1].to_floor), (Some("raw-spin"), Some(1.05)));
    }

    #[test]
    fn figures_need_samples() {
        let of =
            |rounds, samples| Record { rounds, samples, ..record("a", "park", Role::Peer, 1, 1.0) };
        assert_eq!(Figure::P999.lacks(&of(7, 10_000)), None);
        assert_eq!(Figure::P999.lacks(&of(7, 9_999)), Some(10_000));
        assert_eq!(Figure::P999.lacks(&of(101, 10_000)), None, "of all rounds together");
        assert_eq!(Figure::P99.lacks(&of(7, 999)), Some(1_000));
        assert_eq!(Figure::P99.lacks(&of(11, 1_099)), Some(1_100));
        assert_eq!(Figure::Max.lacks(&of(7, 9_999)), Some(10_000));
        assert_eq!(Figure::Max.lacks(&of(7, 10_000)), None);
        assert_eq!(Figure::Rate.lacks(&of(7, 1)), None);
    }

    #[test]
    fn paced_is_about_the_rarest_figure_that_was_reached() {
        let paced = Case { scenario: Scenario::Paced, rate_hz: 1_000, ..CASE };
        let of = |samples| Record { samples, ..record("a", "park", Role::Peer, 1, 1.0) };
        assert_eq!(Figure::of(&paced, &[of(10_500), of(10_000)]), Figure::P999);
        assert_eq!(Figure::of(&paced, &[of(10_500), of(1_050)]), Figure::P99);
        assert_eq!(Figure::of(&paced, &[of(900)]), Figure::P50);
        assert_eq!(Figure::of(&CASE, &[of(900)]), Figure::P50);
    }

    #[test]
    fn floors_wait_alike() {
        let mut records = vec![
            record("raw-spin", "spin", Role::Floor, 10, 4.0),
            record("raw-blocking", "park", Role::Floor, 20, 5.0),
            record("raw-bulk", "park", Role::Floor, 1, 8.0),
            record("raw-bulk-spin", "spin", Role::Floor, 1, 7.0),
            record("raw-spin-unix", "spin", Role::Floor, 2, 9.0),
            record("ringwire-spin", "spin", Role::Ringwire, 11, 4.0),
            record("ringwire-adaptive", "adaptive", Role::Ringwire, 15, 4.0),
            record("ringwire-park", "park", Role::Ringwire, 30, 4.0),
            record("ringwire-spin-unix", "spin", Role::Ringwire, 3, 9.0),
        ];
        for index in [4, 8] {
            records[index].transport = "unix";
        }
        let floors = |case: &Case, records: &[Record]| {
            let runs =
                |record: &&Record| is_bulk_stream(case) || !record.subject.starts_with("raw-bulk");
            let mut records: Vec<Record> = records.iter().filter(runs).cloned().collect();
            compare(case, &mut records);
            let of = |record: &Record| record.floor.clone().unwrap_or_default();
            let ours = records.iter().filter(|record| record.role == "ringwire");
            ours.map(of).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(floors(&CASE, &records), "raw-spin raw-spin raw-blocking raw-spin-unix");
        let stream = Case { scenario: Scenario::Stream, ..CASE };
        assert_eq!(floors(&stream, &records), "raw-spin raw-blocking raw-blocking raw-spin-unix");
        let long = Case { payload_bytes: 64 << 10, ..stream };
        assert_eq!(floors(&long, &records), "raw-bulk-spin raw-bulk raw-bulk raw-spin-unix");
        let best = |records: &[Record]| best_floor(records).expect("floors").subject.clone();
        assert_eq!(best(&records), "raw-bulk", "not the Unix socket");
        // Messages as long as what is written at once may be the faster.
        (records[0].frames_per_s, records[1].frames_per_s) = (Some(7.5), Some(8.5));
        assert_eq!(floors(&long, &records), "raw-spin raw-blocking raw-blocking raw-spin-unix");
        assert_eq!(best(&records), "raw-blocking");
        // What does not run here leaves epoll, or nothing.
        records.drain(..4);
        records[0] = record("raw-epoll", "park", Role::Floor, 1, 1.0);
        let mut of_short = records.clone();
        compare(&CASE, &mut of_short);
        assert_eq!(of_short[1].floor.as_deref(), Some("raw-epoll"));
        compare(&long, &mut records);
        assert_eq!((&records[1].floor, records[1].to_floor), (&None, None));
    }
}

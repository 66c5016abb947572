//! What people read: one table for each case, a line for each subject.
//!
//! The last two columns are the case's main figure as a multiple of the floor's that waits the same
//! way over the same transport, and of the best peer's. Of times the smaller is the better, of
//! rates the larger.

use super::record::Record;
use crate::job::{Case, Scenario};

/// Where a column's text comes from.
type Text = fn(&Record) -> String;

/// The figure a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    P50,
    /// Of all rounds together.
    P999,
    Rate,
}

impl Figure {
    pub const fn of(scenario: Scenario) -> Self {
        match scenario {
            Scenario::Rtt => Self::P50,
            Scenario::Paced => Self::P999,
            Scenario::Stream | Scenario::FanIn => Self::Rate,
        }
    }

    pub fn value(self, record: &Record) -> Option<f64> {
        match self {
            Self::P50 => record.p50_ns.map(|ns| ns as f64),
            Self::P999 => record.all_p99_9_ns.map(|ns| ns as f64),
            Self::Rate => record.frames_per_s,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P999 => "p99.9",
            Self::Rate => "frames/s",
        }
    }

    /// Whether `a` is better than `b`.
    fn is_better(self, a: f64, b: f64) -> bool {
        if self == Self::Rate { a > b } else { a < b }
    }
}

/// The best peer of a case.
pub fn best_peer(figure: Figure, records: &[Record]) -> Option<(&Record, f64)> {
    let peers = records.iter().filter(|record| record.role == "peer");
    let valued = peers.filter_map(|record| Some((record, figure.value(record)?)));
    valued.reduce(|best, one| if figure.is_better(one.1, best.1) { one } else { best })
}

/// The floor a subject is compared with: it waits the same way over the same transport.
pub fn floor_of<'a>(record: &Record, records: &'a [Record]) -> Option<&'a Record> {
    let waits = if record.idle == "spin" { "raw-spin" } else { "raw-blocking" };
    let name = if record.transport == "unix" { format!("{waits}-unix") } else { waits.into() };
    let named = |name: &str| records.iter().find(|r| r.subject == name && r.skipped.is_none());
    named(&name).or_else(|| named("raw-epoll"))
}

/// The table of one case, with its title above and notes below.
pub fn render(case: &Case, rounds: usize, seconds: f64, records: &[Record]) -> String {
    let figure = Figure::of(case.scenario);
    let columns = columns(case.scenario);
    let mut rows = vec![header(&columns)];
    let mut ordered: Vec<&Record> = records.iter().filter(|r| r.skipped.is_none()).collect();
    ordered.sort_by(|a, b| {
        let value = |record| figure.value(record).unwrap_or(0.0);
        let ascending = value(a).total_cmp(&value(b));
        if figure == Figure::Rate { ascending.reverse() } else { ascending }
    });
    let best = best_peer(figure, records);
    for record in ordered {
        let mut row: Vec<String> = columns.iter().map(|(_, text)| text(record)).collect();
        let value = figure.value(record);
        let to = |other: Option<f64>| ratio(value, other);
        row.push(to(floor_of(record, records).and_then(|floor| figure.value(floor))));
        row.push(to(best.map(|(_, value)| value)));
        rows.push(row);
    }
    let mut text = format!("{case}, {rounds} rounds of {seconds} s\n{}", align(&rows));
    if let Some((best, _)) = best {
        let name = figure.name();
        text +=
            &format!(" {name} beside that of its floor, and of the best peer: {}.\n", best.subject);
    }
    let noisy: Vec<&str> =
        records.iter().filter(|r| is_noisy(r)).map(|r| r.subject.as_str()).collect();
    if !noisy.is_empty() {
        text += &format!(" Noisy, rounds differ by more than 2x: {}.\n", noisy.join(", "));
    }
    for record in records {
        if record.errors > 0 {
            text += &format!(" {}: {} WRONG OR MISSING ANSWERS\n", record.subject, record.errors);
        }
        if let Some(reason) = &record.skipped {
            text += &format!(" {}: skipped: {reason}\n", record.subject);
        }
    }
    text
}

/// Whether the rounds' medians, or rates, were disturbed.
fn is_noisy(record: &Record) -> bool {
    let times = record.p50_ns_low.zip(record.p50_ns_high);
    let differs = |low: f64, high: f64| high > 2.0 * low;
    match (times, record.frames_per_s_low.zip(record.frames_per_s_high)) {
        (Some((low, high)), _) => differs(low as f64, high as f64),
        (None, Some((low, high))) => differs(low, high),
        (None, None) => false,
    }
}

fn columns(scenario: Scenario) -> Vec<(&'static str, Text)> {
    let mut columns: Vec<(&'static str, Text)> = vec![("", |r| r.subject.clone())];
    match scenario {
        Scenario::Rtt | Scenario::FanIn => columns.extend::<[(&str, Text); 7]>([
            ("p50", |r| time(r.p50_ns)),
            ("low", |r| time(r.p50_ns_low)),
            ("high", |r| time(r.p50_ns_high)),
            ("p99", |r| time(r.p99_ns)),
            ("p99.9", |r| time(r.all_p99_9_ns)),
            ("p99.99", |r| time(r.all_p99_99_ns)),
            ("max", |r| time(r.all_max_ns)),
        ]),
        Scenario::Paced => columns.extend::<[(&str, Text); 6]>([
            ("p50", |r| time(r.p50_ns)),
            ("p99", |r| time(r.p99_ns)),
            ("p99.9", |r| time(r.all_p99_9_ns)),
            ("p99.99", |r| time(r.all_p99_99_ns)),
            ("max", |r| time(r.all_max_ns)),
            ("bulk", |r| match (r.bulk_frames, r.bulk_frames_due) {
                (Some(frames), Some(due)) => format!("{frames}/{due}"),
                _ => "-".into(),
            }),
        ]),
        Scenario::Stream => {}
    }
    if scenario == Scenario::FanIn {
        columns.push(("KiB/conn", |r| {
            let kib = r.resident_bytes_per_connection.map(|bytes| bytes / 1024.0);
            kib.map_or("-".into(), |kib| format!("{kib:.1}"))
        }));
    }
    if scenario != Scenario::Paced {
        columns.push(("frames/s", |r| number(r.frames_per_s)));
    }
    if scenario == Scenario::Stream {
        columns.push(("low", |r| number(r.frames_per_s_low)));
        columns.push(("high", |r| number(r.frames_per_s_high)));
        columns.push(("bytes/s", |r| number(r.bytes_per_s)));
    }
    columns.push(("CPU/frame", |r| nanoseconds(r.cpu_ns_per_frame)));
    columns
}

fn header(columns: &[(&'static str, Text)]) -> Vec<String> {
    let names = columns.iter().map(|(name, _)| *name).chain(["/floor", "/peer"]);
    names.map(str::to_owned).collect()
}

/// The first column to the left, the others to the right, a rule below the header.
fn align(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut line = format!(" {:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        text += line.trim_end();
        text.push('\n');
        if index == 0 {
            text += &"─".repeat(widths.iter().map(|width| width + 2).sum());
            text.push('\n');
        }
    }
    text
}

pub fn ratio(value: Option<f64>, other: Option<f64>) -> String {
    match (value, other) {
        (Some(value), Some(other)) if other > 0.0 => format!("{:.2}x", value / other),
        _ => "-".into(),
    }
}

/// Three digits and a unit.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let unit = units.iter().find(|(size, _)| value >= *size).or(units.last());
    let (size, name) = unit.expect("a table of units is not empty");
    let value = value / size;
    let decimals = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {name}").trim_end().into()
}

fn nanoseconds(ns: Option<f64>) -> String {
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")];
    ns.map_or("-".into(), |ns| scaled(ns, &units))
}

pub fn time(ns: Option<u64>) -> String {
    nanoseconds(ns.map(|ns| ns as f64))
}

fn number(count: Option<f64>) -> String {
    count
        .map_or("-".into(), |count| scaled(count, &[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::record::Who;
    use crate::subjects::Role;

    const CASE: Case = Case {
        scenario: Scenario::Rtt,
        payload_bytes: 64,
        connections: 1,
        rate_hz: 0,
        bulk: false,
    };

    fn record(name: &str, idle: &'static str, role: Role, p50_ns: u64) -> Record {
        let who = Who { name: name.into(), idle, transport: "tcp", role, version: None };
        let empty = Record::skipped(&who, &CASE, String::new());
        Record { skipped: None, p50_ns: Some(p50_ns), ..empty }
    }

    fn sample() -> Vec<Record> {
        let gone = Who::missing("gone");
        vec![
            record("raw-spin", "spin", Role::Floor, 10_000),
            record("raw-blocking", "park", Role::Floor, 20_000),
            record("slow", "park", Role::Peer, 60_000),
            record("fast", "park", Role::Peer, 40_000),
            record("ringwire-spin", "spin", Role::Ringwire, 11_000),
            Record::skipped(&gone, &CASE, "does not build".into()),
        ]
    }

    #[test]
    fn ratios_are_to_the_floor_that_waits_alike_and_to_the_best_peer() {
        let text = render(&CASE, 7, 0.1, &sample());
        let line = |name: &str| {
            text.lines().find(|line| line.trim_start().starts_with(name)).expect("a line")
        };
        assert!(line("ringwire-spin").ends_with("1.10x  0.28x"), "{text}");
        assert!(line("fast").ends_with("2.00x  1.00x"), "{text}");
        assert!(text.contains("the best peer: fast."), "{text}");
        assert!(text.contains("gone: skipped: does not build"), "{text}");
        let order: Vec<usize> = ["raw-spin", "ringwire-spin", "raw-blocking", "fast", "slow"]
            .iter()
            .map(|name| text.find(&format!("\n {name} ")).expect("a line"))
            .collect();
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn wrong_answers_are_said() {
        let mut records = sample();
        records[2].errors = 3;
        let text = render(&CASE, 7, 0.1, &records);
        assert!(text.contains("slow: 3 WRONG"), "{text}");
    }

    #[test]
    fn rounds_that_differ_too_much_are_said() {
        let mut records = sample();
        (records[0].p50_ns_low, records[0].p50_ns_high) = (Some(1000), Some(2000));
        assert!(!render(&CASE, 7, 0.1, &records).contains("Noisy"));
        records[0].p50_ns_high = Some(2001);
        assert!(render(&CASE, 7, 0.1, &records).contains("more than 2x: raw-spin.\n"));
    }

    #[test]
    fn best_of_rates_is_the_largest() {
        let of =
            |name, rate| Record { frames_per_s: Some(rate), ..record(name, "park", Role::Peer, 1) };
        let records = [of("a", 1.0), of("b", 3.0), of("c", 2.0)];
        let (best, rate) = best_peer(Figure::Rate, &records).expect("three peers");
        assert_eq!((best.subject.as_str(), rate), ("b", 3.0));
        assert!(best_peer(Figure::Rate, &records[..0]).is_none());
    }
}

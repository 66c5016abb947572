//! What people read: one table for each case, a line for each subject, none wider than [`WIDTH`].
//!
//! The last two columns are the case's main figure as a multiple of the floor's and of the best
//! peer's ([`compare`](super::figure::compare)), by their rounds where each has it. Of times the
//! smaller is the better, of rates the larger. A percentile that the samples do not reach is left
//! out: it would be the maximum again.

use super::NOT_BUILT;
use super::figure::{Figure, TRIPS_EACH_MIN, best_peer, is_bulk_stream, is_short};
use super::plan::Load;
use super::record::Record;
use crate::job::{Case, Scenario, counted};
use crate::subjects::clock;

/// Where a column's text comes from.
type Text = fn(&Record) -> String;

/// Characters of a line, at most.
const WIDTH: usize = 100;

/// The table of one case, with its title above and notes below.
pub fn render(case: &Case, load: Load, records: &[Record]) -> String {
    let figure = Figure::of(case, records);
    let columns = columns(case.scenario);
    let mut rows = vec![header(&columns)];
    for record in figure.ranked(records) {
        let mut row: Vec<String> = columns.iter().map(|(_, text)| text(record)).collect();
        row.extend([record.to_floor, record.to_best_peer].map(ratio));
        rows.push(row);
    }
    let seconds = load.duration_ns as f64 / 1e9;
    let rounds = counted(load.rounds, "round");
    let mut text = format!("{case}, {rounds} of {seconds} s\n{}", align(&rows));
    text += &wrapped(&legend(case, figure, records));
    let noisy = records.iter().filter(|r| is_noisy(figure, r)).map(|r| &*r.subject);
    let noisy: Vec<&str> = noisy.collect();
    if !noisy.is_empty() {
        text += &wrapped(&format!(
            "Noisy, rounds differ by more than 2x, but for a tenth at either end: {}.",
            noisy.join(", ")
        ));
    }
    let short: Vec<&str> =
        records.iter().filter(|r| is_short(case, r)).map(|r| &*r.subject).collect();
    if !short.is_empty() {
        let short = short.join(", ");
        text += &wrapped(&format!(
            "Noisy, fewer than {TRIPS_EACH_MIN} round trips a connection and round: {short}."
        ));
    }
    for record in records.iter().filter(|record| record.errors > 0) {
        text += &format!(" {}: {} WRONG OR MISSING ANSWERS\n", record.subject, record.errors);
    }
    text + &skipped(records)
}

/// What the last two columns are multiples of.
fn legend(case: &Case, figure: Figure, records: &[Record]) -> String {
    let mut text = format!("/floor: {} as a multiple of that of ", figure.name());
    text += if is_bulk_stream(case) {
        "the raw socket that waits alike over the same transport, over TCP of raw-bulk or \
         raw-bulk-spin, bytes without messages, where that is better."
    } else {
        "the raw socket that waits alike over the same transport."
    };
    if records.iter().any(|record| record.idle == "adaptive") {
        text += " Adaptive: the better of both.";
    }
    if let Some(best) = best_peer(figure, records) {
        text += &format!(" /peer: of the best peer's, {}.", best.subject);
    }
    if case.scenario == Scenario::Paced {
        text +=
            " One request in flight, timed from when it was due: one behind a late answer is late.";
        if records.iter().any(|record| record.subject == clock::NAME && record.skipped.is_none()) {
            text += " clock: no messages, what the machine does to who spins.";
        }
        if case.bulk {
            text += " The case without bulk was measured before this one, not in turn.";
        }
    }
    if case.scenario == Scenario::FanIn {
        text += " KiB/conn: resident, what a connection adds to the server.";
    }
    text
}

/// Who has no figures, those with the same reason together; of reasons that name a feature, all.
fn skipped(records: &[Record]) -> String {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for record in records {
        let Some(reason) = &record.skipped else { continue };
        let reason = if reason.starts_with(NOT_BUILT) { NOT_BUILT } else { reason };
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, subjects)) => subjects.push(&record.subject),
            None => reasons.push((reason, vec![&record.subject])),
        }
    }
    let line = |(reason, subjects): &(&str, Vec<&str>)| {
        wrapped(&format!("Skipped, {reason}: {}.", subjects.join(", ")))
    };
    reasons.iter().map(line).collect()
}

/// Whether the rounds differ too much in what is compared, or in the medians beside it.
fn is_noisy(figure: Figure, record: &Record) -> bool {
    figure.is_noisy(record) || Figure::P50.is_noisy(record)
}

fn columns(scenario: Scenario) -> Vec<(&'static str, Text)> {
    let mut columns: Vec<(&'static str, Text)> = vec![("", |r| r.subject.clone())];
    if scenario != Scenario::Stream {
        columns.push(("p50", |r| time(r.p50_ns)));
    }
    if scenario == Scenario::Rtt {
        columns.extend::<[(&str, Text); 2]>([
            ("low", |r| time(r.p50_ns_low)),
            ("high", |r| time(r.p50_ns_high)),
        ]);
    }
    if scenario != Scenario::Stream {
        columns.extend::<[(&str, Text); 4]>([
            ("p99", |r| reached(Figure::P99, r)),
            ("p99.9", |r| reached(Figure::P999, r)),
            ("p99.99", |r| reached(Figure::P9999, r)),
            ("max", |r| time(r.max_ns)),
        ]);
    }
    match scenario {
        Scenario::Rtt => {}
        Scenario::Paced => columns.push(("bulk", |r| match (r.bulk_frames, r.bulk_frames_due) {
            (Some(frames), Some(due)) => format!("{frames}/{due}"),
            _ => "-".into(),
        })),
        Scenario::FanIn => columns.extend::<[(&str, Text); 2]>([
            ("KiB/conn", |r| {
                let kib = r.resident_bytes_per_connection.map(|bytes| bytes / 1024.0);
                kib.map_or("-".into(), |kib| format!("{kib:.1}"))
            }),
            ("frames/s", |r| number(r.frames_per_s)),
        ]),
        Scenario::Stream => columns.extend::<[(&str, Text); 4]>([
            ("frames/s", |r| number(r.frames_per_s)),
            ("low", |r| number(r.frames_per_s_low)),
            ("high", |r| number(r.frames_per_s_high)),
            ("bytes/s", |r| number(r.bytes_per_s)),
        ]),
    }
    columns.push(("CPU", |r| nanoseconds(r.cpu_ns_per_frame)));
    columns
}

/// A percentile, where the samples reach it.
fn reached(figure: Figure, record: &Record) -> String {
    nanoseconds(figure.value(record).filter(|_| figure.lacks(record).is_none()))
}

fn header(columns: &[(&'static str, Text)]) -> Vec<String> {
    let names = columns.iter().map(|(name, _)| *name).chain(["/floor", "/peer"]);
    names.map(str::to_owned).collect()
}

/// A note, in lines of a page's width.
fn wrapped(note: &str) -> String {
    let (mut text, mut width) = (String::new(), 0);
    for word in note.split(' ') {
        if width > 0 && width + 1 + word.chars().count() > WIDTH {
            text += "\n  ";
            width = 2;
        }
        text += &format!(" {word}");
        width += 1 + word.chars().count();
    }
    text + "\n"
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

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| match ratio {
        ratio if ratio >= 99.95 => format!("{ratio:.0}x"),
        ratio => format!("{ratio:.2}x"),
    })
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
    format!("{value:.decimals$}{name}")
}

fn nanoseconds(ns: Option<f64>) -> String {
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")];
    ns.map_or("-".into(), |ns| scaled(ns, &units))
}

fn time(ns: Option<u64>) -> String {
    nanoseconds(ns.map(|ns| ns as f64))
}

fn number(count: Option<f64>) -> String {
    count
        .map_or("-".into(), |count| scaled(count, &[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]))
}

#[cfg(test)]
mod tests {
    use super::super::figure::compare;
    use super::super::figure::tests::{CASE, record};
    use super::super::record::{OfRound, Who};
    use super::*;
    use crate::subjects::Role;

    const LOAD: Load = Load { rounds: 7, duration_ns: 100_000_000 };

    fn sample() -> Vec<Record> {
        let mut all = vec![
            record("raw-spin", "spin", Role::Floor, 10_000, 1.0),
            record("raw-blocking", "park", Role::Floor, 20_000, 1.0),
            record("slow", "park", Role::Peer, 60_000, 1.0),
            record("fast", "park", Role::Peer, 40_000, 1.0),
            record("ringwire-spin", "spin", Role::Ringwire, 11_000, 1.0),
        ];
        for (name, why) in [
            ("gone", "does not build"),
            ("one", "n/a: x"),
            ("two", "n/a: x"),
            ("nng", "not built: feature nng is off"),
            ("libzmq", "not built: feature zmq is off"),
        ] {
            all.push(Record::skipped(&Who::missing(name), &CASE, why.into()));
        }
        all
    }

    fn of(case: &Case, mut records: Vec<Record>) -> String {
        compare(case, &mut records);
        render(case, LOAD, &records)
    }

    #[test]
    fn ratios_are_to_the_floor_that_waits_alike_and_to_the_best_peer() {
        let text = of(&CASE, sample());
        let line = |name: &str| {
            text.lines().find(|line| line.trim_start().starts_with(name)).expect("a line")
        };
        assert!(line("ringwire-spin").ends_with("1.10x  0.28x"), "{text}");
        assert!(line("fast").ends_with("2.00x  1.00x"), "{text}");
        assert!(text.contains("/peer: of the best peer's, fast."), "{text}");
        assert!(text.contains("Skipped, does not build: gone."), "{text}");
        assert!(text.contains("Skipped, n/a: x: one, two."), "{text}");
        assert!(text.contains("Skipped, not built: nng, libzmq."), "{text}");
        assert!(!text.contains("Adaptive"), "{text}");
        let order: Vec<usize> = ["raw-spin", "ringwire-spin", "raw-blocking", "fast", "slow"]
            .iter()
            .map(|name| text.find(&format!("\n {name} ")).expect("a line"))
            .collect();
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn floor_of_long_streams_is_said() {
        let mut records = sample();
        records.push(record("raw-bulk", "park", Role::Floor, 1, 2.0));
        records.push(record("ringwire-adaptive", "adaptive", Role::Ringwire, 1, 1.0));
        let long = Case { scenario: Scenario::Stream, payload_bytes: 1 << 20, ..CASE };
        let text = of(&long, records.clone());
        assert!(text.contains("where that is better."), "{text}");
        let line = text.lines().find(|line| line.contains("ringwire-adaptive")).expect("a line");
        assert!(line.ends_with("0.50x  1.00x"), "{text}");
        let text = of(&CASE, records);
        assert!(text.contains("Adaptive: the better of both."), "{text}");
    }

    #[test]
    fn percentiles_beyond_the_samples_are_left_out() {
        let mut records = vec![record("a", "spin", Role::Peer, 10_000, 1.0)];
        records[0].p99_99_ns = Some(77_000);
        let line = |records: &[Record]| {
            let text = of(&CASE, records.to_vec());
            let line = text.lines().find(|line| line.starts_with(" a "));
            line.expect("a line").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(line(&records)[4..8], ["10.0us", "10.0us", "-", "10.0us"]);
        records[0].samples = 2_000;
        assert_eq!(line(&records)[4..8], ["10.0us", "-", "-", "10.0us"]);
        records[0].samples = 100_000;
        assert_eq!(line(&records)[6], "77.0us");
    }

    /// With the longest names and figures that there are.
    #[test]
    fn no_line_is_wider_than_a_page() {
        let names = ["omq-tokio-exclusive", "ringwire-park-unix", "raw-blocking-unix"];
        let one = |name: &&str| Record {
            samples: 1_000_000,
            p50_ns_low: Some(999_400),
            p50_ns_high: Some(999_400_000),
            p99_99_ns: Some(999_400_000),
            frames_per_s_low: Some(999.4e6),
            frames_per_s_high: Some(999.4e6),
            bytes_per_s: Some(999.4e6),
            cpu_ns_per_frame: Some(999_400.0),
            bulk_frames: Some(100_000),
            bulk_frames_due: Some(100_000),
            resident_bytes_per_connection: Some(12_345_678.0),
            ..record(name, "adaptive", Role::Peer, 999_400, 999.4e6)
        };
        for scenario in Scenario::ALL {
            for payload_bytes in [64, 1 << 20] {
                let case = Case { scenario, rate_hz: 10_000, payload_bytes, bulk: true, ..CASE };
                let mut records: Vec<Record> = names.iter().map(one).collect();
                let reason = format!("n/a: {}", "a long reason ".repeat(9).trim_end());
                for index in 0..30 {
                    let who = Who::missing(&format!("subject-{index}"));
                    records.push(Record::skipped(&who, &case, reason.clone()));
                }
                let text = of(&case, records);
                for line in text.lines() {
                    assert!(line.chars().count() <= WIDTH, "{}: {text}", line.chars().count());
                }
            }
        }
    }

    #[test]
    fn crowds_with_few_round_trips_are_said() {
        let crowd = Case { scenario: Scenario::FanIn, connections: 150, ..CASE };
        let mut records = sample();
        assert!(!of(&crowd, records.clone()).contains("Noisy"), "ten each in seven rounds");
        records[2].samples -= 1;
        let said = "Noisy, fewer than 10 round trips a connection and round: slow.\n";
        assert!(of(&crowd, records.clone()).contains(said), "{}", of(&crowd, records));
        let text = of(&CASE, sample());
        assert!(!text.contains("Noisy"), "{text}");
    }

    #[test]
    fn wrong_answers_are_said() {
        let mut records = sample();
        records[2].errors = 3;
        let text = of(&CASE, records);
        assert!(text.contains("slow: 3 WRONG"), "{text}");
    }

    #[test]
    fn rounds_that_differ_too_much_are_said() {
        let mut records = sample();
        let rounds = |all: &[u64]| -> Vec<OfRound> {
            let of =
                |&ns| OfRound { p50_ns: Some(ns), p99_ns: None, frames_per_s: 1.0 / ns as f64 };
            all.iter().map(of).collect()
        };
        records[0].by_round = rounds(&[1000, 1500, 2000]);
        assert!(!of(&CASE, records.clone()).contains("Noisy"));
        // Of paced load what is compared is rarer.
        let paced = Case { scenario: Scenario::Paced, rate_hz: 10_000, ..CASE };
        let mut tail = records.clone();
        (tail[2].p99_9_ns_low, tail[2].p99_9_ns_high) = (Some(1000), Some(2001));
        assert!(of(&paced, tail.clone()).contains(": slow."));
        assert!(!of(&CASE, tail).contains("Noisy"));
        records[0].by_round = rounds(&[1000, 1500, 2001]);
        let said = "differ by more than 2x, but for a tenth at either end: raw-spin.\n";
        assert!(of(&CASE, records.clone()).contains(said));
        let crowd = Case { scenario: Scenario::FanIn, connections: 9, ..CASE };
        records[1].by_round = rounds(&[1000, 1500, 2100]);
        let said = "a tenth at either end: raw-spin, raw-blocking.\n";
        assert!(of(&crowd, records.clone()).contains(said));
        // Of ten rounds one may be anything, at either end; of nine none.
        let ten = [100, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 9000];
        records[0].by_round = rounds(&ten[1..]);
        assert!(of(&CASE, records[..1].to_vec()).contains("Noisy"));
        records[0].by_round = rounds(&ten);
        assert!(!of(&CASE, records[..1].to_vec()).contains("Noisy"));
    }
}

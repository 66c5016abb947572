//! What people read: one table per case, the subjects side by side.
//!
//! Figures run down and subjects across, so that a table is as wide as its subjects are many and
//! fits 80 columns. Beside ringwire stand its ratios to the others: of times the smaller is the
//! better, of rates the larger; and beside each ratio it is held to, the goal. What one must know
//! to read a table stands below it. Figures are medians of rounds but for those rarer than one in a
//! hundred, which are of all rounds together (`summary`). Ratios of what each round has are medians
//! of the rounds' own (`paired`), with the bounds of their interval below them.

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};

use super::clock;
use super::goal::{Figure, Goal, NOISY, beside, failover_verdict, p99_samples_min};
use super::options::Scenario;
use super::paired::{PairedRatio, most_of};
use super::plan::{Beside, Case, Plan};
use super::ring;
use super::summary::{Measured, OfRound, ratio};
use crate::cli::show::counted;

/// One line of the table.
struct Line {
    title: &'static str,
    /// The figure, where the subject has it.
    figure: fn(&Measured) -> Option<f64>,
    /// How it is written.
    unit: fn(f64) -> String,
    /// Lowest and highest of the rounds, shown on a line of its own.
    range: Option<Range>,
    /// The figure, where a goal may be about it.
    judged: Option<Figure>,
    /// The figure that each round has, where ratios are those of rounds.
    by_round: Option<Figure>,
}

/// Lowest and highest figure of the rounds, where the subject has it.
type Range = fn(&Measured) -> Option<(f64, f64)>;

const LINES: [Line; 14] = [
    Line {
        range: Some(|m| Some((ns(m.record.p50_ns_low)?, ns(m.record.p50_ns_high)?))),
        judged: Some(Figure::P50),
        by_round: Some(Figure::P50),
        ..line("p50", |m| ns(m.record.p50_ns), time)
    },
    line("p90", |m| ns(m.record.p90_ns), time),
    Line {
        range: Some(|m| Some((ns(m.record.p99_ns_low)?, ns(m.record.p99_ns_high)?))),
        judged: Some(Figure::P99),
        by_round: Some(Figure::P99),
        ..line("p99", |m| ns(m.record.p99_ns), time)
    },
    line("p99.9", |m| ns(reached(m, m.record.p99_9_ns, 1_000)), time),
    line("p99.99", |m| ns(reached(m, m.record.p99_99_ns, 10_000)), time),
    line("max", |m| ns(m.record.max_ns), time),
    Line {
        range: Some(|m| m.record.frames_per_s_low.zip(m.record.frames_per_s_high)),
        judged: Some(Figure::Rate),
        by_round: Some(Figure::Rate),
        ..line("frames/s", |m| m.record.frames_per_s, number)
    },
    Line { by_round: Some(Figure::Rate), ..line("bytes/s", |m| m.record.bytes_per_s, bytes) },
    line("bulk/s", |m| m.record.bulk_bytes_per_s, bytes),
    line("memory/conn", |m| m.record.resident_bytes_per_connection, bytes),
    line("CPU", |m| m.record.cpu_share, share),
    line("CPU/frame", |m| m.record.cpu_ns_per_frame, time),
    line("enters/frame", |m| m.record.enters_per_frame, count),
    // Only where there are any: few connections, or a spinning reactor.
    line("direct/frame", |m| m.record.direct_per_frame.filter(|&calls| calls > 0.0), count),
];

/// Of ratios, and what stands below them. Of fewer rounds nothing is as sure.
const INTERVAL: &str = "Ratios of p50, p99 and rates: medians of the rounds' own, below at 95 %.";
const EXTREMES: &str =
    "Ratios of p50, p99 and rates: medians of the rounds' own, below all of them.";
const INTERVAL_ROUNDS_MIN: usize = 6;
/// Of the memory of connections.
const MEMORY: &str = "memory/conn: resident, both ends; of the first round, whose is used again.";

const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─'));

/// The table of one case, with its title above, notes and an empty line below.
pub(super) fn render(plan: &Plan, measured: &[Measured]) -> String {
    let Plan { case, rounds, .. } = *plan;
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(header(case, measured));
    for line in &LINES {
        if measured.iter().all(|one| (line.figure)(one).is_none()) {
            continue;
        }
        table.add_row(figures(case, line, measured));
        if let Some(range) = line.range
            && rounds > 1
        {
            table.add_row(ranges(case, line, range, measured));
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let round = match (case.scenario, case.connections) {
        (Scenario::Failover, cuts) => counted(cuts as u64, "cut"),
        _ => format!("{} s", plan.duration.as_secs_f64()),
    };
    let rounds = counted(rounds as u64, "round");
    let mut text = format!("{case}, {rounds} of {round}\n{}\n", table.trim_fmt());
    for note in notes(case, measured) {
        text += &format!(" {note}\n");
    }
    text
}

/// What one must know to read the table.
fn notes(case: Case, measured: &[Measured]) -> Vec<String> {
    let mut notes = Vec::new();
    if case.scenario == Scenario::Stream {
        notes.push(
            "socket: the same frames over plain sockets. raw: as many bytes, no frames.".into(),
        );
    }
    if Goal::all_of(case).any(|goal| goal.floor > 0 && goal.figure == Figure::Rate)
        && case.scenario == Scenario::Stream
    {
        notes.push("goal: beside the faster of the two.".into());
    }
    if case.scenario == Scenario::Failover {
        notes.push("From a cut to the answer over the next link, one round trip included.".into());
        for one in measured {
            let Some(p99_ns) = one.record.p99_ns else { continue };
            let samples = one.record.samples;
            notes.push(match samples < p99_samples_min(one.record.rounds) {
                true => format!("{samples} cuts are too few to judge a p99."),
                false => format!("Goal on loopback: {}.", failover_verdict(p99_ns)),
            });
        }
    }
    if case.scenario == Scenario::Stream && case.beside == Beside::BestEffort {
        notes.clear();
    }
    match case.scenario {
        Scenario::Paced | Scenario::Mixed if case.period.is_some() => {
            notes.push("From the instant each request was due. CPU/frame is that of all.".into());
            if measured.iter().any(|one| one.record.subject == clock::NAME) {
                notes.push("clock: by how much two threads that only read it were late.".into());
            }
        }
        Scenario::Idle => {
            notes.push("CPU: both ends, of one core.".into());
            notes.push(MEMORY.into());
        }
        Scenario::FanIn => notes.push(MEMORY.into()),
        Scenario::Cores => {
            notes.push("As many clients as reactors; with too few cores they share them.".into());
        }
        _ => {}
    }
    if case.is_beside_bulk() {
        notes.push("bulk/s: the stream beside; sockets have it on a second connection.".into());
    }
    if measured.iter().any(|one| one.record.subject == ring::ALONE) {
        notes.push("alone: ringwire over the busy connections, without the silent ones.".into());
    }
    if matches!(case.beside, Beside::Fewer(_)) && case.scenario == Scenario::Rtt {
        notes.push("Each message waits for those of all other connections: compare rates.".into());
    }
    for one in measured {
        if let Some(letter) = one.letter {
            notes.push(format!("{letter}: {}", one.record.subject));
        }
    }
    let has_ratios = measured.len() > 1 && case.scenario != Scenario::Idle;
    match measured.iter().map(|one| one.record.rounds).min() {
        Some(INTERVAL_ROUNDS_MIN..) if has_ratios => notes.push(INTERVAL.into()),
        Some(2..) if has_ratios => notes.push(EXTREMES.into()),
        _ => {}
    }
    notes.extend(doubts(case, measured));
    let noise: Vec<String> = measured.iter().filter_map(|one| noise(case, one)).collect();
    if !noise.is_empty() {
        let head = "This machine was noisy: ";
        let indent = format!(",\n {:width$}", "", width = head.len());
        notes.push(format!("{head}{}.", noise.join(&indent)));
    }
    notes
}

/// The verdicts that may as well be the other one, and how far their ratios may go.
fn doubts(case: Case, measured: &[Measured]) -> Vec<String> {
    let Some((ringwire, floors)) = measured.split_last() else { return Vec::new() };
    let compared = |floor: &&Measured| floor.record.subject != clock::NAME;
    let floors: Vec<&Measured> = floors.iter().filter(compared).collect();
    let doubt = |goal: Goal| {
        let floor = floors.get(goal.floor)?;
        let line = LINES.iter().find(|line| line.judged == Some(goal.figure))?;
        let samples = ringwire.record.samples.min(floor.record.samples);
        let ratio = paired(goal.figure, ringwire, floor)
            .filter(|ratio| ratio.is_doubtful(|ratio| goal.is_met(ratio)))
            .filter(|_| goal.is_judged(samples, ringwire.record.rounds))?;
        let what = format!("{} / {}", line.title, label(case, floor));
        let PairedRatio { low, high, .. } = ratio;
        let bound = goal.bound;
        let (low, high) = (beside(low, bound), beside(high, bound));
        Some(format!("Noisy: {what} may be {low} to {high}, with {bound:.2}x among them."))
    };
    Goal::all_of(case).filter_map(doubt).collect()
}

/// The ratio of what each round has.
fn paired(figure: Figure, ringwire: &Measured, floor: &Measured) -> Option<PairedRatio> {
    let rounds = [ringwire, floor].map(|one| &one.record.by_round);
    let of = |(ours, other): (&OfRound, &OfRound)| {
        ratio(figure.of_round(ours)?, figure.of_round(other)?)
    };
    let ratios: Vec<f64> = rounds[0].iter().zip(rounds[1]).filter_map(of).collect();
    PairedRatio::of(&ratios)
}

/// By how much the rounds of a subject differ, but for a tenth at either end, where that is too
/// much; the first figure that says so is enough. Ratios of rounds have little of it.
fn noise(case: Case, one: &Measured) -> Option<String> {
    if one.record.subject == clock::NAME {
        // Of some tens of nanoseconds twice as many are none.
        return None;
    }
    // Of a p99 that nothing is held to, twice as much is no more than usual.
    let counts = |figure| figure != Figure::P99 || Goal::all_of(case).any(|g| g.figure == figure);
    LINES.iter().filter(|line| line.judged.is_some_and(counts)).find_map(|line| {
        let of_round = |round: &OfRound| line.by_round?.of_round(round);
        let rounds: Vec<f64> = one.record.by_round.iter().filter_map(of_round).collect();
        let (low, high) = most_of(&rounds)?;
        let (from, to) = ((line.unit)(low), (line.unit)(high));
        let text = format!("{}, {} from {from} to {to}", label(case, one), line.title);
        (high > NOISY * low).then_some(text)
    })
}

/// What stands above a subject's column.
fn label(case: Case, one: &Measured) -> String {
    match (one.record.reactors, case.beside) {
        (Some(1), _) => "1 reactor".into(),
        (Some(count), _) => format!("{count} reactors"),
        (None, Beside::Fewer(_)) => format!("{} conns", one.record.connections),
        (None, _) if one.letter.is_some() => one.letter.into_iter().collect(),
        // Where there are several of ringwire's, the title says whose they are.
        (None, _) => match one.record.subject.split_once('-') {
            Some(("ringwire", variant)) => variant.into(),
            _ => one.record.subject.clone(),
        },
    }
}

/// Fills a row: a cell for each subject, one for each of ringwire's ratios, and behind those to a
/// subject it is held against one for the goals. Where it is held to the same against several, one
/// behind the last: with two of them a table would not fit.
fn row(
    case: Case,
    measured: &[Measured],
    mut subject: impl FnMut(&Measured) -> String,
    mut ratio: impl FnMut(&Measured, &Measured, usize) -> String,
    mut goal: impl FnMut(&[Goal], &Measured, &[&Measured]) -> String,
) -> Vec<Cell> {
    let mut cells: Vec<Cell> = measured.iter().map(|one| Cell::new(subject(one))).collect();
    let Some((ringwire, floors)) = measured.split_last() else { return cells };
    let compared = |floor: &&Measured| floor.record.subject != clock::NAME;
    let floors: Vec<&Measured> = floors.iter().filter(compared).collect();
    let goals: Vec<Goal> = Goal::all_of(case).collect();
    for (index, floor) in floors.iter().enumerate() {
        cells.push(Cell::new(ratio(ringwire, floor, index)));
        let is_here = |goal: &&Goal| {
            let last = goals.iter().rfind(|other| other.is_alike(goal));
            last.is_some_and(|last| last.floor == index)
        };
        let here: Vec<Goal> = goals.iter().filter(is_here).copied().collect();
        if !here.is_empty() {
            cells.push(Cell::new(goal(&here, ringwire, &floors)));
        }
    }
    cells
}

fn header(case: Case, measured: &[Measured]) -> Vec<Cell> {
    let floor = |_: &Measured, floor: &Measured, _| match (floor.record.reactors, case.beside) {
        (Some(count), _) | (None, Beside::Fewer(count)) => format!("/{count}"),
        _ => format!("/{}", label(case, floor)),
    };
    let cells = row(case, measured, |one| label(case, one), floor, |_, _, _| "goal".into());
    std::iter::once(Cell::new("")).chain(cells).collect()
}

fn figures(case: Case, line: &Line, measured: &[Measured]) -> Vec<Cell> {
    let subject = |one: &Measured| (line.figure)(one).map_or("-".into(), line.unit);
    let to_floor = |ringwire: &Measured, floor: &Measured| {
        let (ours, other) = ((line.figure)(ringwire)?, (line.figure)(floor)?);
        let by_round = line.by_round.and_then(|figure| paired(figure, ringwire, floor));
        by_round.map(|ratio| ratio.median).or_else(|| ratio(ours, other))
    };
    let shown = |ringwire: &Measured, floor: &Measured, index| {
        to_floor(ringwire, floor).map_or("-".into(), |ratio| multiple(case, line, index, ratio))
    };
    let rounds = measured.last().map_or(0, |ringwire| ringwire.record.rounds);
    // Of goals that are alike, the one that is met least.
    let goal = |goals: &[Goal], ringwire: &Measured, floors: &[&Measured]| {
        let goals = goals.iter().filter(|goal| line.judged == Some(goal.figure));
        let judged = goals.filter_map(|goal| {
            let floor = floors.get(goal.floor)?;
            let samples = ringwire.record.samples.min(floor.record.samples);
            Some((goal, to_floor(ringwire, floor)?, samples))
        });
        let worst = judged.reduce(|a, b| if a.0.is_worse(b.1, a.1) { b } else { a });
        worst.map_or(String::new(), |(goal, ratio, samples)| goal.verdict(ratio, samples, rounds))
    };
    let cells = row(case, measured, subject, shown, goal);
    std::iter::once(Cell::new(line.title)).chain(cells).collect()
}

/// A ratio to the subject at `index`, beside the goal that it is held to, if so.
fn multiple(case: Case, line: &Line, index: usize, ratio: f64) -> String {
    let is_its = |goal: &Goal| line.judged == Some(goal.figure) && goal.floor == index;
    match Goal::all_of(case).find(is_its) {
        Some(goal) => beside(ratio, goal.bound),
        None => format!("{ratio:.2}x"),
    }
}

/// What lies below a line: the lowest and the highest of the rounds, and how far ratios may go.
fn ranges(case: Case, line: &Line, range: Range, measured: &[Measured]) -> Vec<Cell> {
    let subject = |one: &Measured| {
        let (low, high) = range(one)?;
        Some(format!("{}\n{}", (line.unit)(low), (line.unit)(high)))
    };
    let ratio = |ringwire: &Measured, floor: &Measured, index| {
        let PairedRatio { low, high, .. } = paired(line.by_round?, ringwire, floor)?;
        Some([low, high].map(|bound| multiple(case, line, index, bound)).join("\n"))
    };
    let cells = row(
        case,
        measured,
        |one| subject(one).unwrap_or("-".into()),
        |ringwire, floor, index| ratio(ringwire, floor, index).unwrap_or_default(),
        |_, _, _| String::new(),
    );
    std::iter::once(Cell::new("  low\n  high")).chain(cells).collect()
}

const fn line(
    title: &'static str,
    figure: fn(&Measured) -> Option<f64>,
    unit: fn(f64) -> String,
) -> Line {
    Line { title, figure, unit, range: None, judged: None, by_round: None }
}

/// The latency that one in `one_in` exceeds, where ten samples do: with fewer it is the maximum by
/// another name.
fn reached(one: &Measured, ns: Option<u64>, one_in: u64) -> Option<u64> {
    ns.filter(|_| one.record.samples >= 10 * one_in)
}

fn ns(value: Option<u64>) -> Option<f64> {
    value.map(|ns| ns as f64)
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

pub(in crate::cli) fn time(ns: f64) -> String {
    scaled(ns, &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")])
}

pub(in crate::cli) fn number(count: f64) -> String {
    scaled(count, &[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")])
}

pub(in crate::cli) fn bytes(bytes: f64) -> String {
    scaled(bytes, &[(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")])
}

pub(in crate::cli) fn count(count: f64) -> String {
    if count >= 0.1 { format!("{count:.2}") } else { format!("{count:.4}") }
}

fn share(of_one: f64) -> String {
    format!("{:.2} %", 100.0 * of_one)
}

#[cfg(test)]
mod tests {
    use ringwire::config::Idle;

    use super::super::plan::sample;
    use super::super::round::{Extra, Round, latency_histogram};
    use super::super::summary::Record;
    use super::*;

    /// A subject whose rounds are those of `elapsed_ns`, each with a thousand round trips alike.
    fn measured(plan: &Plan, subject: &str, elapsed_ns: &[u64]) -> Measured {
        let rounds: Vec<Round> = elapsed_ns.iter().map(|&ns| round(plan, ns, 1_000)).collect();
        Record::sum_up(plan, subject, &rounds)
    }

    /// A round of so many samples, all alike.
    fn round(plan: &Plan, elapsed_ns: u64, samples: u64) -> Round {
        let mut latency = latency_histogram();
        latency.record_n(elapsed_ns, samples).expect("within bounds");
        Round {
            latency: (plan.case.scenario == Scenario::Rtt).then_some(latency),
            frames: 2.0,
            elapsed_ns,
            cpu_ns: 10,
            calls: None,
            errors: 0,
            extra: Extra::default(),
        }
    }

    fn text_of(plan: &Plan, rounds: usize, measured: &[Measured]) -> String {
        render(&Plan { rounds, ..plan.clone() }, measured)
    }

    #[test]
    fn goals_stand_beside_their_ratios() {
        let check = |idle, ns: u64, p50: &str, p99: &str| {
            let plan = sample(Scenario::Rtt, idle, 64, 1);
            let of = |subject, ns| measured(&plan, subject, &[ns; 3]);
            let text = text_of(&plan, 3, &[of("socket", 1000), of("ringwire", ns)]);
            for (title, expected) in [(" p50 ", p50), (" p99 ", p99)] {
                let line = text.lines().find(|line| line.starts_with(title)).expect("a line of it");
                let words: Vec<&str> = line.split_whitespace().collect();
                assert!(words.join(" ").ends_with(expected), "{text}");
            }
            assert_eq!(text.matches("x met").count() + text.matches("x missed").count(), 2);
            assert_eq!(text.matches("goal").count(), 1, "one column has both: {text}");
            assert!(!text.contains("noisy"), "{text}");
        };
        check(Idle::Spin, 1100, "1.10x <= 1.10x met", "1.10x <= 1.25x met");
        check(Idle::Spin, 1200, "1.20x <= 1.10x missed", "1.20x <= 1.25x met");
        check(Idle::Spin, 1101, "1.101x <= 1.10x missed", "1.10x <= 1.25x met");
        check(Idle::Park, 1200, "1.20x <= 1.10x missed", "1.20x <= 1.15x missed");
    }

    #[test]
    fn long_frames_are_held_to_frames_and_to_bulk_bytes() {
        let plan = sample(Scenario::Stream, Idle::Spin, 1 << 20, 1);
        let names = ["socket", "raw", "ringwire"].into_iter().zip([1000, 500, 600]);
        let all: Vec<_> = names.map(|(name, ns)| measured(&plan, name, &[ns])).collect();
        let text = text_of(&plan, 1, &all);
        assert!(text.contains("1.67x  0.83x  >= 0.90x missed"), "{text}");
        assert_eq!(text.matches("x missed").count() + text.matches("x met").count(), 1, "{text}");
        assert!(text.contains("goal: beside the faster of the two."), "{text}");
        let widths = text.lines().map(|line| line.chars().count());
        assert!(widths.max() <= Some(78), "{text}");
        let names = ["socket", "raw", "ringwire"].into_iter().zip([1000, 500, 400]);
        let all: Vec<_> = names.map(|(name, ns)| measured(&plan, name, &[ns])).collect();
        let text = text_of(&plan, 1, &all);
        assert!(text.contains("2.50x  1.25x  >= 0.90x met"), "{text}");
        assert!(text.contains("raw: as many bytes, no frames"), "{text}");
    }

    #[test]
    fn percentile_that_the_samples_do_not_reach_is_left_out() {
        let plan = sample(Scenario::Rtt, Idle::Spin, 64, 1);
        let many = |count| Record::sum_up(&plan, "ringwire", &[round(&plan, 1000, count)]);
        let lines = |count| text_of(&plan, 1, &[many(count)]).matches("p99.9").count();
        assert_eq!((lines(9_999), lines(10_000), lines(100_000)), (0, 1, 2));
        // A goal is not judged by it either.
        let few = ["socket", "ringwire"]
            .map(|name| Record::sum_up(&plan, name, &[round(&plan, 1000, 999)]));
        let text = text_of(&plan, 1, &few);
        assert!(text.contains("1.00x  <= 1.25x open: 999 samples"), "{text}");
    }

    #[test]
    fn case_without_a_goal_has_no_column_for_it() {
        let plan = sample(Scenario::Rtt, Idle::Spin, 65, 1);
        let all = ["socket", "ringwire"].map(|name| measured(&plan, name, &[1000]));
        assert!(!text_of(&plan, 1, &all).contains("goal"));
    }

    #[test]
    fn reliable_stands_beside_best_effort() {
        let plan = sample(Scenario::Rtt, Idle::Spin, 64, 1);
        let case = Case { beside: Beside::BestEffort, ..plan.case };
        let plan = Plan { case, ..plan };
        let all =
            [measured(&plan, "ringwire", &[1000]), measured(&plan, "ringwire-reliable", &[1100])];
        let text = text_of(&plan, 1, &all);
        assert!(text.contains("ringwire  reliable  /ringwire"), "{text}");
        assert!(text.contains("1.10x  <= 1.05x missed"), "{text}");
    }

    #[test]
    fn variants_have_letters_and_a_legend() {
        let plan = sample(Scenario::Rtt, Idle::Spin, 64, 1);
        let case = Case { beside: Beside::Variants, ..plan.case };
        let plan = Plan { case, ..plan };
        let variant = measured(&plan, "ringwire[checksum = \"never\"]", &[1100]);
        let variant = Measured { letter: Some('a'), ..variant };
        let text = text_of(&plan, 1, &[variant, measured(&plan, "ringwire", &[1000])]);
        assert!(text.contains("a  ringwire     /a"), "{text}");
        assert!(text.contains("0.91x"), "{text}");
        assert!(text.contains(" a: ringwire[checksum = \"never\"]\n"), "{text}");
        assert!(!text.contains("goal"), "{text}");
    }

    #[test]
    fn rounds_that_differ_too_much_are_said() {
        let plan = sample(Scenario::Rtt, Idle::Spin, 64, 1);
        let quiet = measured(&plan, "socket", &[1000, 2000, 1500]);
        let noisy = measured(&plan, "ringwire", &[1000, 2100, 1500]);
        let text = text_of(&plan, 3, &[quiet, noisy]);
        let said = "This machine was noisy: ringwire, p50 from 1.00 µs to 2.10 µs.";
        assert!(text.contains(said), "{text}");
        assert_eq!(text.matches(", p50 from").count(), 1, "{text}");
    }

    /// Of seven rounds one beyond the goal is enough: the interval is all of them.
    #[test]
    fn verdict_that_may_be_the_other_one_is_said() {
        let plan = sample(Scenario::Rtt, Idle::Spin, 64, 1);
        let text = |ours: [u64; 7]| {
            let floor = measured(&plan, "socket", &[1000, 1200, 1000, 1000, 1000, 1000, 1000]);
            text_of(&plan, 7, &[floor, measured(&plan, "ringwire", &ours)])
        };
        let said = "Noisy: p50 / socket may be 0.90x to 1.20x, with 1.10x among them.";
        // The second round was slow for both, and its ratio is like the others.
        let quiet = text([1050, 1250, 1050, 1050, 1050, 1050, 1050]);
        assert!(!quiet.contains("Noisy"), "{quiet}");
        let noisy = text([1200, 1250, 1050, 1050, 900, 1050, 1050]);
        assert!(noisy.contains(said), "{noisy}");
        assert!(noisy.lines().all(|line| line.chars().count() <= 80), "{noisy}");
    }

    /// A machine of two speeds, where the medians of both are of other rounds.
    #[test]
    fn ratio_is_that_of_the_rounds() {
        let plan = sample(Scenario::Rtt, Idle::Spin, 64, 1);
        let floor = measured(&plan, "socket", &[1000, 2000, 1000, 2000, 1000, 1000, 2000]);
        let ours = measured(&plan, "ringwire", &[1050, 2100, 1050, 2100, 2100, 1050, 2100]);
        let text = text_of(&plan, 7, &[floor, ours]);
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let at = lines.iter().position(|line| line.starts_with("p50 ")).expect("a line of it");
        assert_eq!(lines[at], "p50 1.00 µs 2.10 µs 1.05x <= 1.10x met", "{text}");
        assert_eq!(lines[at + 1], "low 1.00 µs 1.05 µs 1.05x", "{text}");
        assert_eq!(lines[at + 2], "high 2.00 µs 2.10 µs 2.10x", "{text}");
        assert!(text.contains(INTERVAL), "{text}");
    }

    /// Of p99 only where something is held to it.
    #[test]
    fn tails_that_differ_too_much_are_said_where_they_are_judged() {
        let text = |payload_bytes| {
            let plan = sample(Scenario::Rtt, Idle::Spin, payload_bytes, 1);
            let of = |subject, tail: u64| {
                let rounds = [1500, 1500, tail].map(|tail| {
                    let mut round = round(&plan, 1000, 1_000);
                    let latency = round.latency.as_mut().expect("timed");
                    latency.record_n(tail, 100).expect("within bounds");
                    round
                });
                Record::sum_up(&plan, subject, &rounds)
            };
            text_of(&plan, 3, &[of("socket", 1500), of("ringwire", 3100)])
        };
        let said = "This machine was noisy: ringwire, p99 from 1.50 µs to 3.10 µs.";
        assert!(text(64).contains(said), "{}", text(64));
        assert!(!text(65).contains("noisy"), "{}", text(65));
    }

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(time(8_214.0), "8.21 µs");
        assert_eq!(time(99_960.0), "100 µs");
        assert_eq!(time(850.0), "850 ns");
        assert_eq!(time(0.25), "0.25 ns");
        assert_eq!(number(12_340_000.0), "12.3 M");
        assert_eq!(number(7.0), "7.00");
        assert_eq!(bytes(1.5e9), "1.50 GB");
        assert_eq!(count(0.0153), "0.0153");
    }
}

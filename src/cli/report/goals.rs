//! Ringwire against the others of a case: ratios, their spread, and the goals they are held to.
//!
//! Subjects of one run took turns, so their ratio means more than either figure. Its spread is the
//! worst that the rounds allow: the lowest of the one against the highest of the other.

use super::charts::forest::{Ratio, State};
use super::figure::{FIGURES, Figure, P50, RATE, ratio};
use super::model::{Book, Case, Entry, letter};
use super::text;
use crate::cli::bench::shown::{self, Held, Keys};

/// Whether something ringwire is held to was met.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) case: String,
    /// Which figure, against whom.
    pub(super) what: String,
    pub(super) value: String,
    /// The same as a number.
    pub(super) measured: f64,
    pub(super) goal: String,
    pub(super) is_met: bool,
}

/// What a case is held to.
fn held(case: &Case<'_>) -> Option<Held> {
    // Beside other settings of itself it is held to nothing.
    if case.entries.iter().any(|entry| entry.row.subject.starts_with("ringwire[")) {
        return None;
    }
    Held::of(Keys {
        scenario: case.scenario,
        idle: case.idle?,
        payload_bytes: case.payload_bytes?,
        connections: case.connections?,
        fewer: case.fewer,
        is_reliable: case.is_reliable,
    })
}

/// The goal of a case that is about its other subject number `floor`.
fn held_to(case: &Case<'_>, floor: usize) -> Option<(Held, Figure)> {
    let held = held(case).filter(|held| held.floor() == floor)?;
    let figure = FIGURES.into_iter().find(|figure| figure.title == held.figure());
    Some((held, figure.expect("goals are about figures that are shown")))
}

/// All goals of a run, in the order of its cases.
pub(super) fn verdicts(book: &Book<'_>, run: usize) -> Vec<Verdict> {
    book.cases.iter().flat_map(|case| of_case(case, run)).collect()
}

/// The goals of a case.
pub(super) fn of_case(case: &Case<'_>, run: usize) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let Some((ours, others)) = case.sides(run) else { return verdicts };
    for (floor, other) in others.iter().enumerate() {
        let Some((held, figure)) = held_to(case, floor) else { continue };
        let Some(value) = of(figure, ours, other) else { continue };
        verdicts.push(Verdict {
            case: short_title(case),
            what: format!("{} / {}", figure.title, text::name(&other.label)),
            value: format!("{value:.2}x"),
            measured: value,
            goal: held.text(),
            is_met: held.is_met(value),
        });
    }
    if case.scenario == "failover"
        && let Some(p99) = ours.row.p99_ns
    {
        let verdict = shown::failover_verdict(whole(p99));
        let (goal, met) = verdict.rsplit_once(' ').expect("a bound and whether it was met");
        verdicts.push(Verdict {
            case: short_title(case),
            what: "p99".into(),
            value: shown::time(p99),
            measured: p99,
            goal: goal.trim_start_matches("p99 ").into(),
            is_met: met == "met",
        });
    }
    verdicts
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be from 0 to 1e18 when read")]
fn whole(ns: f64) -> u64 {
    ns.round() as u64
}

/// A figure of one as a multiple of the other's.
fn of(figure: Figure, ours: &Entry<'_>, other: &Entry<'_>) -> Option<f64> {
    ratio((figure.of)(ours.row)?, (figure.of)(other.row)?)
}

/// The smallest and largest a ratio may be, were the worst rounds of both sides to meet.
pub(super) fn range(figure: Figure, ours: &Entry<'_>, other: &Entry<'_>) -> Option<(f64, f64)> {
    let (low, high) = (figure.range)(ours.row)?;
    let (floor_low, floor_high) = (figure.range)(other.row)?;
    Some((ratio(low, floor_high)?, ratio(high, floor_low)?))
}

/// Ringwire's ratio to what it is held against in every case, in the figure that says most: where
/// there is a goal, to its floor, and otherwise to the first of the others. The tables have all.
/// Those of several runs follow each other, case by case.
pub(super) fn ratios(book: &Book<'_>) -> Vec<Ratio> {
    let of_case = |case| (0..book.runs.len()).filter_map(move |run| of_run(book, case, run));
    book.cases.iter().flat_map(of_case).collect()
}

/// The ratio of one case in one run.
fn of_run(book: &Book<'_>, case: &Case<'_>, run: usize) -> Option<Ratio> {
    let (ours, others) = case.sides(run)?;
    let floor = held(case).map_or(0, Held::floor);
    let other = others.get(floor)?;
    let held = held_to(case, floor);
    // Over other numbers of connections messages wait for each other: only rates compare.
    let usual = if case.fewer.is_some() { RATE } else { P50 };
    let figure = held.map_or(usual, |(_, figure)| figure);
    let with = |figure| Some((figure, of(figure, ours, other)?));
    let (figure, value) = [figure, RATE].into_iter().find_map(with)?;
    let held = held.filter(|(_, of)| of.title == figure.title).map(|(held, _)| held);
    let state = match held.map(|held| held.is_met(value)) {
        Some(true) => State::Good,
        Some(false) => State::Bad,
        None => State::Plain,
    };
    let mut name =
        format!("{}: {} / {}", short_title(case), figure.title, text::name(&other.label));
    let mut verdict = format!("{value:.2}x");
    if let Some(held) = held {
        // A bound is the same in all runs: it stands with the name they share.
        let (bound, is_met) = (held.text(), met(held.is_met(value)));
        if book.is_comparison() {
            name += &format!(", {bound}");
            verdict += &format!(" {is_met}");
        } else {
            verdict += &format!(", {bound} {is_met}");
        }
    }
    Some(Ratio {
        name,
        run: book.is_comparison().then(|| letter(run)),
        value,
        range: range(figure, ours, other),
        goal: held.map(Held::bound),
        verdict,
        state,
    })
}

/// `met` or `missed`.
pub(super) fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

/// The title of a case, where its subjects' labels say the rest.
pub(super) fn short_title(case: &Case<'_>) -> String {
    let title = case.title();
    match (title.split_once(", ringwire over"), case.connections) {
        (Some((work, _)), Some(many)) if case.fewer.is_some() => format!("{work}, {many} conns"),
        _ => title,
    }
}

/// What made a run's figures worth less: a build without optimisation, rounds that differ too much,
/// and wrong answers.
pub(super) fn warnings(book: &Book<'_>, run: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    let of_run = if book.is_comparison() { format!("{}: ", letter(run)) } else { String::new() };
    let facts = book.runs[run].machine.iter().flat_map(|machine| &machine.facts);
    if facts.into_iter().any(|(key, value)| *key == "Profile" && value == "debug") {
        warnings.push(format!("{of_run}debug build: these figures mean little"));
    }
    for row in &book.runs[run].rows {
        if let Some(why) = &row.skipped {
            let (scenario, subject) = (text::name(&row.scenario), text::name(&row.subject));
            let why = text::cut(why, 120);
            warnings.push(format!("{of_run}{scenario}, {subject}: left out, {why}"));
        }
    }
    for case in &book.cases {
        for entry in case.of_run(run) {
            let who = format!("{of_run}{}, {}", case.title(), text::name(&entry.label));
            if let Some(errors @ 1..) = entry.row.errors {
                warnings.push(format!("{who}: {errors} wrong answers"));
            }
            for figure in [P50, RATE] {
                if let Some((low, high)) = (figure.range)(entry.row)
                    && high > shown::NOISY * low
                {
                    let (low, high) = ((figure.unit)(low), (figure.unit)(high));
                    let title = figure.title;
                    warnings.push(format!("{who}: noisy, {title} of rounds from {low} to {high}"));
                    break;
                }
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::runs;
    use super::super::read;
    use super::*;

    #[test]
    fn goals_are_judged_as_the_terminal_does() {
        let runs = runs(
            "rtt socket spin 64 1 10000
             rtt ringwire spin 64 1 11040
             rtt socket park 64 1 10000
             rtt ringwire park 64 1 11060
             rtt socket spin 65 1 10000
             rtt ringwire spin 65 1 11000
             failover ringwire spin 64 200 1",
        );
        let book = Book::new(&runs);
        let verdicts = verdicts(&book, 0);
        let shown: Vec<String> = verdicts
            .iter()
            .map(|v| format!("{} {} {} {} {}", v.case, v.what, v.value, v.goal, met(v.is_met)))
            .collect();
        let expected = [
            "rtt 64 B spin p50 / socket 1.10x <= 1.10x met",
            "rtt 64 B park p50 / socket 1.11x <= 1.10x missed",
        ];
        assert_eq!(shown, expected);
        let ratios = ratios(&book);
        let states: Vec<State> = ratios.iter().map(|ratio| ratio.state).collect();
        assert_eq!(states, [State::Good, State::Bad, State::Plain]);
        assert_eq!(ratios[0].verdict, "1.10x, <= 1.10x met");
        assert_eq!(ratios[2].verdict, "1.10x");
    }

    #[test]
    fn failover_is_held_to_a_time() {
        let line = "{\"scenario\":\"failover\",\"subject\":\"ringwire\",\"p99_ns\":6e6}";
        let runs = read::parse("a", line.as_bytes()).expect("a row");
        let verdict = &verdicts(&Book::new(&runs), 0)[0];
        assert_eq!((&*verdict.value, &*verdict.goal), ("6.00 ms", "<= 5ms"));
        assert!(!verdict.is_met);
    }

    #[test]
    fn spread_of_a_ratio_is_the_worst_of_both() {
        let row = |subject: &str, p50: u32, low: u32, high: u32| {
            format!(
                "{{\"scenario\":\"rtt\",\"subject\":\"{subject}\",\"p50_ns\":{p50},\
                 \"p50_ns_low\":{low},\"p50_ns_high\":{high},\"errors\":2}}\n"
            )
        };
        let text = row("socket", 100, 80, 200) + &row("ringwire", 110, 90, 120);
        let runs = read::parse("a", text.as_bytes()).expect("rows");
        let book = Book::new(&runs);
        assert_eq!(ratios(&book)[0].range, Some((0.45, 1.5)));
        let warnings = warnings(&book, 0);
        assert!(warnings.contains(&"rtt, socket: 2 wrong answers".into()), "{warnings:?}");
        let noisy = "rtt, socket: noisy, p50 of rounds from 80.0 ns to 200 ns";
        assert!(warnings.contains(&noisy.into()), "{warnings:?}");
        assert_eq!(warnings.len(), 3, "{warnings:?}");

        let of = |profile: &str| {
            let machine = format!("{{\"scenario\":\"machine\",\"profile\":\"{profile}\"}}\n");
            let text = machine + &row("ringwire", 110, 90, 120);
            let runs = read::parse("a", text.as_bytes()).expect("rows");
            super::warnings(&Book::new(&runs), 0)
        };
        assert_eq!(of("debug")[0], "debug build: these figures mean little");
        assert_eq!(of("release").len(), 1, "wrong answers only");
    }
}

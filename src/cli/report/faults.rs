//! What a reader must know before figures are believed: what made them worth less, and who could
//! not take part.

use super::figure::{P50, RATE, rounds};
use super::model::{Book, Case, letter};
use super::read::Run;
use super::text;
use crate::cli::bench::shown;
use crate::cli::show::counted;

/// What the reason begins with where a subject should have had figures.
const FAILED: &str = "failed: ";
/// What it begins with where a feature is off.
const NOT_BUILT: &str = "not built";

/// What made a run's figures worth less: a build without optimisation, subjects that failed, rounds
/// that differ too much, and wrong answers.
pub(super) fn warnings(book: &Book<'_>, run: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    let of_run = if book.is_comparison() { format!("{}: ", letter(run)) } else { String::new() };
    let facts = book.runs[run].machine.iter().flat_map(|machine| &machine.facts);
    if facts.into_iter().any(|(key, value)| *key == "Profile" && value == "debug") {
        warnings.push(format!("{of_run}debug build: these figures mean little"));
    }
    for row in &book.runs[run].rows {
        if let Some(why) = row.skipped.as_ref().filter(|why| why.starts_with(FAILED)) {
            let (case, subject) = (Case::of(row).title(), text::name(&row.subject));
            warnings.push(format!("{of_run}{case}, {subject}: {}", text::cut(why, 120)));
        }
    }
    for case in &book.cases {
        for entry in case.of_run(run) {
            let who = format!("{of_run}{}, {}", case.title(), text::name(&entry.label));
            if let Some(errors @ 1..) = entry.row.errors {
                warnings.push(format!("{who}: {}", counted(errors, "wrong answer")));
            }
            for figure in [P50, RATE] {
                // Of many short rounds some are disturbed on any machine.
                let of_rounds = shown::most_of(&rounds(figure, entry.row));
                if let Some((low, high)) = of_rounds.or_else(|| (figure.range)(entry.row))
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

/// Subjects that a run has left out of the same cases for the same reason.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LeftOut {
    pub(super) subjects: Vec<String>,
    pub(super) why: String,
    /// `None` when it is all of the run's.
    pub(super) cases: Option<Vec<String>>,
}

/// Who could not do a case, or was not in the build. Who failed is a warning.
pub(super) fn left_out(run: &Run) -> Vec<LeftOut> {
    let mut all: Vec<LeftOut> = Vec::new();
    let mut titles: Vec<String> = Vec::new();
    for row in &run.rows {
        let title = Case::of(row).title();
        if !titles.contains(&title) {
            titles.push(title.clone());
        }
        let Some(why) = row.skipped.as_ref().filter(|why| !why.starts_with(FAILED)) else {
            continue;
        };
        // Which feature is off is its name, or near it.
        let why =
            if why.starts_with(NOT_BUILT) { NOT_BUILT } else { why.trim_start_matches("n/a: ") };
        let (why, subject) = (text::cut(why, 120), text::name(&row.subject));
        match all.iter_mut().find(|one| one.why == why && one.subjects[0] == subject) {
            Some(LeftOut { cases: Some(cases), .. }) => cases.push(title),
            _ => all.push(LeftOut { subjects: vec![subject], why, cases: Some(vec![title]) }),
        }
    }
    let mut merged: Vec<LeftOut> = Vec::new();
    for mut one in all {
        one.cases = one.cases.filter(|cases| *cases != titles);
        match merged.iter_mut().find(|known| (&known.why, &known.cases) == (&one.why, &one.cases)) {
            Some(known) => known.subjects.append(&mut one.subjects),
            None => merged.push(one),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::super::peers;
    use super::super::read;
    use super::*;

    #[test]
    fn what_makes_figures_worth_less_is_said() {
        let row = |subject: &str, p50: u32, low: u32, high: u32| {
            format!(
                "{{\"scenario\":\"rtt\",\"subject\":\"{subject}\",\"p50_ns\":{p50},\
                 \"p50_ns_low\":{low},\"p50_ns_high\":{high},\"errors\":2}}\n"
            )
        };
        let text = row("socket", 100, 80, 200) + &row("ringwire", 110, 90, 120);
        let runs = read::parse("a", text.as_bytes()).expect("rows");
        let book = Book::new(&runs);
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

    #[test]
    fn who_can_not_is_left_out_and_who_fails_is_a_warning() {
        let runs = peers::tests::sample();
        let book = Book::new(&runs);
        assert_eq!(warnings(&book, 0), ["rtt 64 B, dead: failed: killed"]);
        let shown = |run: &Run| {
            let line = |one: &LeftOut| {
                let cases = one.cases.as_ref().map_or("all".into(), |cases| cases.join("; "));
                format!("{}: {}, {cases}", one.subjects.join(" "), one.why)
            };
            left_out(run).iter().map(line).collect::<Vec<_>>()
        };
        assert_eq!(shown(&runs[0]), ["gone: no way, all"]);
        // Who misses the same for the same reason is told once.
        let mut run = runs[0].clone();
        let more = |scenario: &str, subject: &str, why: &str| read::Row {
            scenario: scenario.into(),
            subject: subject.into(),
            skipped: Some(why.into()),
            ..runs[0].rows[0].clone()
        };
        run.rows.push(more("rtt", "nng", "not built: feature nng is off"));
        run.rows.push(more("rtt", "libzmq", "not built: feature zmq is off"));
        run.rows.push(more("fan-in", "nng", "not built: feature nng is off"));
        run.rows.push(more("fan-in", "libzmq", "not built: feature zmq is off"));
        run.rows.push(more("fan-in", "raw-spin", "n/a: one thread"));
        run.rows.push(more("fan-in", "uring-spin", "n/a: one thread"));
        let expected = [
            "gone: no way, rtt 64 B",
            "nng libzmq: not built, all",
            "raw-spin uring-spin: one thread, fan-in 64 B",
        ];
        assert_eq!(shown(&run), expected);
    }
}

//! One run against another: what changed, and whether that is more than noise.
//!
//! A figure of a run is the median of its rounds, and its spread the lowest and highest of them; of
//! a ratio likewise. That is wider than what is sure within a run: runs of one build differ, too. A
//! change counts only when the two spreads do not touch; otherwise some round of each run agrees
//! with the other, and the difference is noise. Where a row does not say a figure's spread, that of
//! its p50 is the yardstick: tails and rates spread at least as much, so a smaller change is noise,
//! and of a larger one nothing can be said.

use super::charts::forest::{Ratio, State};
use super::figure::{Better, FIGURES, Figure, P50, RATE, multiple, ratio};
use super::goals;
use super::model::{Book, Case, Entry, RINGWIRE};
use super::text;
use crate::cli::bench::clock;

/// What a change is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The same figure.
    Same,
    /// Within the spread of the rounds.
    Noise,
    /// Within the spread of the p50, the figure's own being unknown.
    NoiseOfP50,
    Better,
    Worse,
    /// No spread is known that would cover it.
    Unclear,
}

/// One figure of one subject in two runs.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) subject: String,
    pub(super) figure: &'static str,
    pub(super) before: String,
    pub(super) after: String,
    /// The later as a multiple of the earlier.
    pub(super) ratio: f64,
    pub(super) range: Option<(f64, f64)>,
    pub(super) judgement: Judgement,
    /// Of ringwire to another subject, taken in the same run.
    pub(super) is_ratio: bool,
}

/// A figure and its spread, as far as it is known.
#[derive(Debug, Clone, Copy)]
struct Measured {
    value: f64,
    range: Option<(f64, f64)>,
    /// The spread of the p50 in the same rounds, as a part of it.
    yardstick: Option<f64>,
}

/// Figures that are compared.
const COMPARED: [&str; 6] = ["p50", "p99", "p99.9", "max", "frames/s", "CPU/frame"];

/// All changes of a case from run `before` to run `after`, subject by subject, ratios first.
pub(super) fn changes(case: &Case<'_>, before: usize, after: usize) -> Vec<Change> {
    let mut changes = of_ratios(case, before, after);
    for new in case.of_run(after) {
        let Some(old) = case.of_run(before).find(|old| old.label == new.label) else { continue };
        let compared = FIGURES.iter().filter(|figure| COMPARED.contains(&figure.title));
        for &figure in compared {
            let both = measured(figure, old).zip(measured(figure, new));
            let Some((old, new_figure)) = both else { continue };
            let subject = text::name(&new.label);
            changes.extend(change(subject, figure, figure.unit, old, new_figure));
        }
    }
    changes
}

/// Ringwire's ratio to each floor, in one run and the other: what a drifting machine leaves alone.
fn of_ratios(case: &Case<'_>, before: usize, after: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    let (Some((old, old_floors)), Some((new, new_floors))) =
        (case.sides(before), case.sides(after))
    else {
        return changes;
    };
    let first = if case.fewer.is_some() { RATE } else { P50 };
    for new_floor in new_floors {
        let same = |floor: &&&Entry<'_>| floor.label == new_floor.label;
        let Some(old_floor) = old_floors.iter().find(same) else { continue };
        let of = |figure: Figure, ours: &Entry<'_>, floor: &Entry<'_>| {
            let value = multiple(figure, ours.row, floor.row)?;
            let range = goals::range(figure, ours, floor);
            let yardstick = range.and_then(|(low, high)| ratio(high - low, value));
            Some(Measured { value, range, yardstick })
        };
        let both = [first, RATE].into_iter().find_map(|figure| {
            Some((figure, of(figure, old, old_floor)?, of(figure, new, new_floor)?))
        });
        let Some((figure, old, new_ratio)) = both else { continue };
        let subject = format!("{} / {}", text::name(&new.label), text::name(&new_floor.label));
        let change = change(subject, figure, |ratio| format!("{ratio:.2}x"), old, new_ratio);
        changes.extend(change.map(|change| Change { is_ratio: true, ..change }));
    }
    changes
}

fn measured(figure: Figure, entry: &Entry<'_>) -> Option<Measured> {
    let row = entry.row;
    // One round has no spread, whatever its lowest and highest say.
    let has_spread = row.rounds.is_none_or(|rounds| rounds > 1);
    let p50 = row.p50_ns.zip((P50.range)(row)).filter(|_| has_spread);
    Some(Measured {
        value: figure.shown(row)?,
        range: (figure.range)(row).filter(|_| has_spread),
        yardstick: p50.and_then(|(p50, (low, high))| ratio(high - low, p50)),
    })
}

fn change(
    subject: String,
    figure: Figure,
    unit: fn(f64) -> String,
    old: Measured,
    new: Measured,
) -> Option<Change> {
    let ratio_of = ratio(new.value, old.value).filter(|ratio| *ratio > 0.0)?;
    let shown = |one: Measured| match one.range {
        Some((low, high)) => format!("{} ({}–{})", unit(one.value), unit(low), unit(high)),
        None => unit(one.value),
    };
    let range = old.range.zip(new.range).and_then(|((old_low, old_high), (low, high))| {
        Some((ratio(low, old_high)?, ratio(high, old_low)?))
    });
    Some(Change {
        subject,
        figure: figure.title,
        before: shown(old),
        after: shown(new),
        ratio: ratio_of,
        range: range.filter(|(low, _)| *low > 0.0),
        judgement: judge(figure.better, old, new),
        is_ratio: false,
    })
}

fn judge(better: Better, old: Measured, new: Measured) -> Judgement {
    if old.value == new.value {
        return Judgement::Same;
    }
    if let (Some((old_low, old_high)), Some((low, high))) = (old.range, new.range) {
        // The median stands within its own spread, unless the file says nonsense.
        let touch = low.min(new.value) <= old_high.max(old.value)
            && old_low.min(old.value) <= high.max(new.value);
        let is_better = (new.value < old.value) == (better == Better::Lower);
        return match (touch, is_better) {
            (true, _) => Judgement::Noise,
            (false, true) => Judgement::Better,
            (false, false) => Judgement::Worse,
        };
    }
    let yardstick = old.yardstick.zip(new.yardstick).map(|(old, new)| old.max(new));
    let apart = (new.value / old.value - 1.0).abs();
    match yardstick {
        Some(spread) if apart <= spread => Judgement::NoiseOfP50,
        _ => Judgement::Unclear,
    }
}

impl Judgement {
    /// What people are told.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Same => "no change",
            Self::Noise => "noise",
            Self::NoiseOfP50 => "noise (spread of p50)",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Unclear => "unclear: spread unknown",
        }
    }

    pub(super) fn state(self) -> State {
        match self {
            Self::Better => State::Good,
            Self::Worse => State::Bad,
            Self::Same | Self::Noise | Self::NoiseOfP50 | Self::Unclear => State::Plain,
        }
    }
}

impl Change {
    /// By how much: a percentage, or a factor where that would be one of hundreds.
    pub(super) fn amount(&self) -> String {
        let percent = (self.ratio - 1.0) * 100.0;
        match self.ratio {
            _ if percent.abs() < 0.05 => "0.0 %".into(),
            ratio if !(0.1..2.0).contains(&ratio) => format!("{ratio:.2}x"),
            _ if percent.abs() < 9.95 => format!("{percent:+.1} %"),
            _ => format!("{percent:+.0} %"),
        }
    }
}

/// The headline changes of every case, to be drawn: ringwire's ratios and its own figure, or those
/// of all subjects where it is not there. The tables have the rest.
pub(super) fn ratios(book: &Book<'_>, before: usize, after: usize) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for case in &book.cases {
        let changes = changes(case, before, after);
        let ours = case.sides(after).map(|(ours, _)| text::name(&ours.label));
        let is_shown = |change: &&Change| {
            change.is_ratio || ours.as_ref().is_none_or(|ours| change.subject == *ours)
        };
        for change in changes.iter().filter(is_shown) {
            // A rate tells something new only where there is no latency.
            let has_p50 = changes.iter().any(|other| {
                other.subject == change.subject && other.figure == P50.title && !other.is_ratio
            });
            let is_rate = change.figure == RATE.title && !has_p50;
            if !change.is_ratio && change.figure != P50.title && !is_rate {
                continue;
            }
            ratios.push(Ratio {
                name: format!("{}: {} {}", goals::short_title(case), change.subject, change.figure),
                run: None,
                value: change.ratio,
                range: change.range,
                goal: None,
                verdict: format!("{}, {}", change.amount(), change.judgement.text()),
                state: change.judgement.state(),
            });
        }
    }
    ratios
}

/// The floors that themselves changed by more than their spread: the machine was another, and
/// figures of the two runs can not be compared, only ratios.
pub(super) fn moved_floors(book: &Book<'_>, before: usize, after: usize) -> Vec<String> {
    let mut moved = Vec::new();
    for case in &book.cases {
        if case.sides(after).is_none() {
            continue;
        }
        // Ringwire waiting in another way, or beside itself, is what has changed, not the machine.
        let is_ours = |entry: &&Entry<'_>| entry.row.subject.starts_with(RINGWIRE);
        let ours = case.entries.iter().filter(is_ours).map(|entry| text::name(&entry.label));
        let unjudged: Vec<String> = ours.chain([text::name(clock::NAME)]).collect();
        for change in changes(case, before, after) {
            let counts = matches!(change.judgement, Judgement::Better | Judgement::Worse);
            if counts && !change.is_ratio && !unjudged.contains(&change.subject) {
                let title = goals::short_title(case);
                let Change { subject, figure, .. } = &change;
                moved.push(format!("{title}, {subject}: {figure} {}", change.amount()));
            }
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::super::read::{self, Run};
    use super::*;

    fn row(subject: &str, rest: &str) -> String {
        format!("{{\"scenario\":\"rtt\",\"subject\":\"{subject}\",{rest}}}\n")
    }

    fn runs(before: &str, after: &str) -> Vec<Run> {
        let machine = "{\"scenario\":\"machine\"}\n";
        let text = format!("{machine}{before}{machine}{after}");
        read::parse("a", text.as_bytes()).expect("valid lines")
    }

    /// The judgement of the figure `title` of the only subject.
    #[track_caller]
    fn check(before: &str, after: &str, title: &str, expected: Judgement, amount: &str) {
        let runs = runs(&row("a", before), &row("a", after));
        let book = Book::new(&runs);
        let changes = changes(&book.cases[0], 0, 1);
        let change = changes.iter().find(|change| change.figure == title).expect("compared");
        assert_eq!((change.judgement, &*change.amount()), (expected, amount), "{change:?}");
    }

    fn p50(p50: u32, low: u32, high: u32) -> String {
        format!("\"rounds\":9,\"p50_ns\":{p50},\"p50_ns_low\":{low},\"p50_ns_high\":{high}")
    }

    #[test]
    fn difference_within_the_spread_is_noise() {
        check(&p50(100, 90, 110), &p50(105, 95, 120), "p50", Judgement::Noise, "+5.0 %");
        check(&p50(100, 90, 110), &p50(111, 110, 120), "p50", Judgement::Noise, "+11 %");
        check(&p50(100, 90, 110), &p50(100, 50, 60), "p50", Judgement::Same, "0.0 %");
    }

    #[test]
    fn difference_beyond_both_spreads_counts() {
        check(&p50(100, 90, 110), &p50(120, 111, 130), "p50", Judgement::Worse, "+20 %");
        check(&p50(100, 90, 110), &p50(80, 70, 89), "p50", Judgement::Better, "-20 %");
        check(&p50(100, 90, 110), &p50(300, 290, 310), "p50", Judgement::Worse, "3.00x");
        let rate = |rate: u32, low: u32, high: u32| {
            format!(
                "\"frames_per_s\":{rate},\"frames_per_s_low\":{low},\"frames_per_s_high\":{high}"
            )
        };
        check(&rate(100, 90, 110), &rate(120, 111, 130), "frames/s", Judgement::Better, "+20 %");
        check(&rate(100, 90, 110), &rate(80, 70, 89), "frames/s", Judgement::Worse, "-20 %");
    }

    #[test]
    fn p50_is_the_yardstick_of_figures_without_a_spread() {
        let both = |p99: u32| format!("{},\"p99_ns\":{p99}", p50(100, 90, 110));
        check(&both(200), &both(235), "p99", Judgement::NoiseOfP50, "+18 %");
        check(&both(200), &both(250), "p99", Judgement::Unclear, "+25 %");
        check("\"p99_ns\":200", "\"p99_ns\":201", "p99", Judgement::Unclear, "+0.5 %");
    }

    #[test]
    fn one_round_has_no_spread() {
        let one = |p50: u32| {
            format!("\"rounds\":1,\"p50_ns\":{p50},\"p50_ns_low\":{p50},\"p50_ns_high\":{p50}")
        };
        check(&one(100), &one(120), "p50", Judgement::Unclear, "+20 %");
    }

    #[test]
    fn ratio_stays_where_the_machine_drifts() {
        let run = |floor: u32, ours: u32| {
            let around = |p50_ns: u32| p50(p50_ns, p50_ns - 1, p50_ns + 1);
            row("socket", &around(floor)) + &row("ringwire", &around(ours))
        };
        let runs = runs(&run(1_000, 1_080), &run(1_500, 1_620));
        let book = Book::new(&runs);
        let changes = changes(&book.cases[0], 0, 1);
        assert!(changes[0].is_ratio);
        assert_eq!(
            (&*changes[0].subject, &*changes[0].before),
            ("ringwire / socket", "1.08x (1.08x–1.08x)")
        );
        assert_eq!(changes[0].judgement, Judgement::Same);
        assert!(changes[1..].iter().all(|change| change.judgement == Judgement::Worse));
        assert_eq!(moved_floors(&book, 0, 1), ["rtt, socket: p50 +50 %"]);
        let drawn: Vec<State> = ratios(&book, 0, 1).iter().map(|ratio| ratio.state).collect();
        assert_eq!(drawn, [State::Plain, State::Bad], "the ratio, and ringwire");
    }

    #[test]
    fn none_of_ours_is_a_floor() {
        let run = |p50_ns: u32| {
            let row = |subject| row(subject, &p50(p50_ns, p50_ns - 1, p50_ns + 1));
            row("ringwire-unloaded") + &row("ringwire-park") + &row("ringwire")
        };
        let runs = runs(&run(1_000), &run(1_500));
        let book = Book::new(&runs);
        assert!(changes(&book.cases[0], 0, 1).iter().any(|c| c.judgement == Judgement::Worse));
        assert_eq!(moved_floors(&book, 0, 1), [""; 0]);
    }

    #[test]
    fn clock_that_is_read_is_no_floor() {
        let run = |clock: u32, floor: u32| {
            let around = |p50_ns: u32| p50(p50_ns, p50_ns - 1, p50_ns + 1);
            row("clock", &around(clock)) + &row("socket", &around(floor)) + &row("ringwire", "")
        };
        let (before, after) = (run(20, 1_000), run(40, 1_000));
        let before = before.replace("\"ringwire\",", "\"ringwire\",\"p50_ns\":1080");
        let after = after.replace("\"ringwire\",", "\"ringwire\",\"p50_ns\":1080");
        let runs = runs(&before, &after);
        let book = Book::new(&runs);
        assert!(moved_floors(&book, 0, 1).is_empty());
        let ratios = changes(&book.cases[0], 0, 1).into_iter().filter(|change| change.is_ratio);
        let subjects: Vec<String> = ratios.map(|change| change.subject.to_string()).collect();
        assert_eq!(subjects, ["ringwire / socket"]);
    }

    #[test]
    fn what_only_one_run_has_is_not_compared() {
        let runs = runs(&row("a", &p50(1, 1, 1)), &row("b", &p50(1, 1, 1)));
        assert!(changes(&Book::new(&runs).cases[0], 0, 1).is_empty());
        let zero = self::runs(&row("a", "\"max_ns\":0"), &row("a", "\"max_ns\":5"));
        assert!(changes(&Book::new(&zero).cases[0], 0, 1).is_empty(), "no multiple of nothing");
    }
}

//! Ringwire against the others of a case: ratios, their spread, and the goals they are held to.
//!
//! Subjects of one run took turns, so their ratio means more than either figure: it is the median
//! of the rounds' own, with the interval that goes with it. Of older files, which have no rounds
//! one by one, it is that of the figures, and its spread the worst that they allow: the lowest of
//! the one against the highest of the other.
//!
//! What the bench is held to is judged here, as on the terminal. The suite of other transports
//! judges by itself, and what its files say is shown.

use super::charts::forest::{Ratio, State};
use super::figure::{self, Figure, P50, RATE, multiple, named, paired, ratio, supports};
use super::model::{Book, Case, Entry, letter};
use super::peers;
use super::read::{Outcome, Relation, Told};
use super::text;
use crate::cli::bench::shown::{self, Held, Keys};

/// Why the goal of a p99 was not judged.
const FEW_SAMPLES: &str = "too few samples for a p99";
/// Longest reason that a goal was not judged.
const LACKS_CHARS_MAX: usize = 80;

/// Whether something ringwire is held to was met.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) case: String,
    /// Which figure, against whom.
    pub(super) what: String,
    pub(super) value: String,
    /// The same as a number, where it was judged.
    pub(super) measured: Option<f64>,
    pub(super) goal: String,
    pub(super) outcome: Outcome,
    /// What makes it worth less, or why it was not judged.
    pub(super) note: Option<String>,
}

/// How many goals a run has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) met: usize,
    /// Met or missed.
    pub(super) judged: usize,
    pub(super) open: usize,
}

impl Count {
    pub(super) fn of(verdicts: &[Verdict]) -> Self {
        let count = |outcome| verdicts.iter().filter(|it| it.outcome == outcome).count();
        let met = count(Outcome::Met);
        Self { met, judged: met + count(Outcome::Missed), open: count(Outcome::Open) }
    }
}

impl Verdict {
    /// A goal that the run has judged.
    fn told(case: String, told: &Told) -> Self {
        let relation = match told.relation {
            Relation::AtMost => "<=",
            Relation::AtLeast => ">=",
        };
        let figure = text::name(&told.figure);
        let lacks = told.lacks.as_deref().map(|lacks| text::cut(lacks, LACKS_CHARS_MAX));
        let noisy = told.noisy.then(|| match told.ratio_low.zip(told.ratio_high) {
            Some((low, high)) => noisy(low, high, told.bound),
            None => "noisy".into(),
        });
        let clock = told.clock.map(|clock| format!("clock {clock:.2}x"));
        let notes: Vec<String> = lacks.or(noisy).into_iter().chain(clock).collect();
        Self {
            case,
            what: format!(
                "{figure} of {} / {}",
                text::name(&told.subject),
                text::name(&told.other)
            ),
            value: told.ratio.map_or("–".into(), |ratio| shown::beside(ratio, told.bound)),
            measured: told.ratio,
            goal: format!("{relation} {:.2}x", told.bound),
            outcome: told.outcome,
            note: (!notes.is_empty()).then(|| notes.join("; ")),
        }
    }
}

/// What a case is held to, and the figures that is about.
fn held(case: &Case<'_>) -> Vec<(Held, Figure)> {
    // Beside other settings of itself it is held to nothing.
    if case.entries.iter().any(|entry| entry.row.subject.starts_with("ringwire[")) {
        return Vec::new();
    }
    let figure = |held: Held| named(held.figure()).expect("goals are about figures that are shown");
    let all = keys(case).map(Held::all_of).unwrap_or_default();
    all.into_iter().map(|held| (held, figure(held))).collect()
}

/// What tells a case from others, where all of it is known.
fn keys<'a>(case: &Case<'a>) -> Option<Keys<'a>> {
    Some(Keys {
        scenario: case.scenario,
        idle: case.idle?,
        payload_bytes: case.payload_bytes?,
        connections: case.connections?,
        busy: case.busy,
        fewer: case.fewer,
        is_reliable: case.is_reliable,
    })
}

/// All goals of a run, in the order of its cases.
pub(super) fn verdicts(book: &Book<'_>, run: usize) -> Vec<Verdict> {
    let loose = book.loose.iter().filter(|(of, _)| *of == run);
    let loose = loose.map(|(_, told)| Verdict::told(text::cut(&told.case, 60), told));
    book.cases.iter().flat_map(|case| of_case(case, run)).chain(loose).collect()
}

/// The goals of a case.
pub(super) fn of_case(case: &Case<'_>, run: usize) -> Vec<Verdict> {
    let told = case.told.iter().filter(|(of, _)| *of == run);
    let told = told.map(|(_, told)| Verdict::told(short_title(case), told));
    let mut verdicts: Vec<Verdict> = told.collect();
    let Some((ours, others)) = case.sides(run) else { return verdicts };
    for (held, figure) in held(case) {
        let Some(other) = others.get(held.floor()) else { continue };
        let Some(value) = of(figure, ours, other) else { continue };
        let has_samples = |row| figure.title != "p99" || supports(row, 0.99);
        let is_judged = has_samples(ours.row) && has_samples(other.row);
        verdicts.push(Verdict {
            case: short_title(case),
            what: format!("{} / {}", figure.title, text::name(&other.label)),
            value: shown::beside(value, held.bound()),
            measured: is_judged.then_some(value),
            goal: held.text(),
            outcome: if is_judged { outcome(held.is_met(value)) } else { Outcome::Open },
            note: match is_judged {
                true => doubt(held, figure, ours, other),
                false => Some(FEW_SAMPLES.into()),
            },
        });
    }
    if case.scenario == "failover"
        && let Some(p99) = ours.row.p99_ns
    {
        let verdict = shown::failover_verdict(whole(p99));
        let is_judged = supports(ours.row, 0.99);
        let (goal, met) = verdict.rsplit_once(' ').expect("a bound and whether it was met");
        verdicts.push(Verdict {
            case: short_title(case),
            what: "p99".into(),
            value: shown::time(p99),
            measured: is_judged.then_some(p99),
            goal: goal.trim_start_matches("p99 ").into(),
            outcome: if is_judged { outcome(met == "met") } else { Outcome::Open },
            note: (!is_judged).then(|| FEW_SAMPLES.into()),
        });
    }
    verdicts
}

/// How far a ratio may go, where its bound is within that.
fn doubt(held: Held, figure: Figure, ours: &Entry<'_>, other: &Entry<'_>) -> Option<String> {
    let ratio = paired(figure, ours.row, other.row)?;
    let is_doubtful = ratio.is_doubtful(|ratio| held.is_met(ratio));
    is_doubtful.then(|| noisy(ratio.low, ratio.high, held.bound()))
}

fn noisy(low: f64, high: f64, bound: f64) -> String {
    format!("noisy: {} to {}", shown::beside(low, bound), shown::beside(high, bound))
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be from 0 to 1e18 when read")]
fn whole(ns: f64) -> u64 {
    ns.round() as u64
}

/// A figure of one as a multiple of the other's.
fn of(figure: Figure, ours: &Entry<'_>, other: &Entry<'_>) -> Option<f64> {
    multiple(figure, ours.row, other.row)
}

/// The interval of a ratio; where there are no rounds one by one, what it may be.
fn interval(figure: Figure, ours: &Entry<'_>, other: &Entry<'_>) -> Option<(f64, f64)> {
    let ratio = paired(figure, ours.row, other.row).map(|ratio| (ratio.low, ratio.high));
    ratio.or_else(|| worst(figure, ours, other))
}

/// The smallest and largest ratio of a round; where there are no rounds one by one, what it may be.
/// Runs of one build differ by more than what is sure within one of them.
pub(super) fn range(figure: Figure, ours: &Entry<'_>, other: &Entry<'_>) -> Option<(f64, f64)> {
    let ratios = figure::ratios(figure, ours.row, other.row);
    let low = ratios.iter().copied().reduce(f64::min);
    let high = ratios.iter().copied().reduce(f64::max);
    low.zip(high).or_else(|| worst(figure, ours, other))
}

/// What a ratio may be, were the worst rounds of both sides to meet.
fn worst(figure: Figure, ours: &Entry<'_>, other: &Entry<'_>) -> Option<(f64, f64)> {
    let (low, high) = (figure.range)(ours.row)?;
    let (floor_low, floor_high) = (figure.range)(other.row)?;
    Some((ratio(low, floor_high)?, ratio(high, floor_low)?))
}

/// Ringwire's ratio to what it is held against in every case: those that have goals, and otherwise
/// that to the first of the others, in the figure that says most; beside other transports, to its
/// floor and to the best of them. The tables have all. Those of several runs follow each other,
/// ratio by ratio.
pub(super) fn ratios(book: &Book<'_>) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for case in &book.cases {
        let of_run = if case.is_of_peers() { beside_peers } else { of_run };
        let mut of_case: Vec<Ratio> =
            (0..book.runs.len()).flat_map(|run| of_run(book, case, run)).collect();
        // The same ratio in several runs is a group.
        let names: Vec<String> = of_case.iter().map(|ratio| ratio.name.clone()).collect();
        of_case.sort_by_key(|ratio| names.iter().position(|name| *name == ratio.name));
        ratios.append(&mut of_case);
    }
    ratios
}

/// The ratios of one case of the suite of other transports in one run: to the floor and to the best
/// peer, with the goal where that very ratio has one.
fn beside_peers(book: &Book<'_>, case: &Case<'_>, run: usize) -> Vec<Ratio> {
    let Some((ours, others)) = case.sides(run) else { return Vec::new() };
    let figure = peers::main_figure(case);
    // Files that do not say who the floor is have it first.
    let floor = peers::floor(case, ours).or_else(|| others.first().copied());
    let ratio_to = |other: &Entry<'_>| {
        let value = of(figure, ours, other)?;
        let is_it = |told: &Told| {
            (&*told.figure, &*told.other) == (figure.title, &*other.row.subject)
                && told.subject == ours.row.subject
                && told.outcome != Outcome::Open
        };
        let held = case.told.iter().find(|(of, told)| *of == run && is_it(told));
        let held = held.map(|(_, told)| told);
        let told = held.map(|told| Verdict::told(String::new(), told));
        let mut name = format!("{}: ", short_title(case));
        name += &format!("{} / {}", figure.title, text::name(&other.label));
        let verdict = match &told {
            Some(told) => format!("{}, {} {}", told.value, told.goal, met(told.outcome)),
            None => format!("{value:.2}x"),
        };
        Some(Ratio {
            name,
            run: book.is_comparison().then(|| letter(run)),
            // Older runs judged by the ratio of medians.
            value: told.as_ref().and_then(|told| told.measured).unwrap_or(value),
            // Rounds differ in their tails by orders of magnitude: nothing else would be seen.
            range: match held {
                Some(told) => {
                    told.ratio_low.zip(told.ratio_high).or_else(|| worst(figure, ours, other))
                }
                None => interval(figure, ours, other),
            }
            .filter(|_| [P50.title, RATE.title].contains(&figure.title)),
            goal: case.told.iter().find(|(_, told)| is_it(told)).map(|(_, told)| told.bound),
            verdict,
            state: told.map_or(State::Plain, |told| state(told.outcome)),
        })
    };
    [floor, peers::best(case, run)].into_iter().flatten().filter_map(ratio_to).collect()
}

/// The ratios of one case in one run.
fn of_run(book: &Book<'_>, case: &Case<'_>, run: usize) -> Vec<Ratio> {
    let Some((ours, others)) = case.sides(run) else { return Vec::new() };
    let with = |other: usize, figure: Figure, held: Option<Held>| {
        let other = others.get(other)?;
        let value = of(figure, ours, other)?;
        let state = held.map_or(State::Plain, |held| state(outcome(held.is_met(value))));
        let mut name =
            format!("{}: {} / {}", short_title(case), figure.title, text::name(&other.label));
        let mut verdict = format!("{value:.2}x");
        if let Some(held) = held {
            verdict = shown::beside(value, held.bound());
            // A bound is the same in all runs: it stands with the name they share.
            let (bound, is_met) = (held.text(), met(outcome(held.is_met(value))));
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
            range: interval(figure, ours, other),
            goal: held.map(Held::bound),
            verdict,
            state,
        })
    };
    let held = held(case);
    let judged = held.iter().filter_map(|&(held, figure)| with(held.floor(), figure, Some(held)));
    let judged: Vec<Ratio> = judged.collect();
    if !judged.is_empty() {
        return judged;
    }
    // Over other numbers of connections messages wait for each other: only rates compare.
    let usual = if case.fewer.is_some() { RATE } else { P50 };
    // An older record may lack the one that a goal is about.
    let floor = held.first().map(|(held, _)| held.floor());
    let floor = floor.filter(|&floor| floor < others.len()).unwrap_or(0);
    [usual, RATE].into_iter().find_map(|figure| with(floor, figure, None)).into_iter().collect()
}

fn outcome(is_met: bool) -> Outcome {
    if is_met { Outcome::Met } else { Outcome::Missed }
}

fn state(outcome: Outcome) -> State {
    match outcome {
        Outcome::Met => State::Good,
        Outcome::Missed => State::Bad,
        Outcome::Open => State::Plain,
    }
}

/// What became of a goal, in words.
pub(super) fn met(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Met => "met",
        Outcome::Missed => "missed",
        Outcome::Open => "not judged",
    }
}

/// The title of a case, where its subjects' labels say the rest.
pub(super) fn short_title(case: &Case<'_>) -> String {
    let title = case.title();
    match (title.split_once(", ringwire over"), case.connections) {
        (Some((work, _)), Some(many)) if case.fewer.is_some() => format!("{work}, {many} conns"),
        _ => title,
    }
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
             rtt ringwire park 64 1 11000
             rtt socket spin 65 1 10000
             rtt ringwire spin 65 1 11000
             failover ringwire spin 64 200 1",
        );
        let book = Book::new(&runs);
        let verdicts = verdicts(&book, 0);
        let shown: Vec<String> = verdicts
            .iter()
            .map(|v| format!("{} {} {} {} {}", v.case, v.what, v.value, v.goal, met(v.outcome)))
            .collect();
        let expected = [
            "rtt 64 B spin p50 / socket 1.104x <= 1.10x missed",
            "rtt 64 B park p50 / socket 1.10x <= 1.10x met",
        ];
        assert_eq!(shown, expected);
        let ratios = ratios(&book);
        let states: Vec<State> = ratios.iter().map(|ratio| ratio.state).collect();
        assert_eq!(states, [State::Bad, State::Good, State::Plain]);
        assert_eq!(ratios[0].verdict, "1.104x, <= 1.10x missed");
        assert_eq!(ratios[2].verdict, "1.10x");
    }

    /// A p99 that the samples do not reach is neither met nor missed, and says why.
    #[test]
    fn p99_of_few_samples_is_open() {
        let row = |subject: &str, samples: u32| {
            format!(
                "{{\"scenario\":\"rtt\",\"subject\":\"{subject}\",\"idle\":\"spin\",\
                 \"payload_bytes\":64,\"connections\":1,\"p50_ns\":1000,\"p99_ns\":1000,\
                 \"samples\":{samples}}}\n"
            )
        };
        let outcomes = |samples| {
            let text = row("socket", 5_000) + &row("ringwire", samples);
            let runs = read::parse("a", text.as_bytes()).expect("rows");
            let book = Book::new(&runs);
            let all = verdicts(&book, 0);
            all.iter().map(|v| (v.outcome, v.note.clone())).collect::<Vec<_>>()
        };
        let met = (Outcome::Met, None);
        assert_eq!(outcomes(1_000), [met.clone(), met.clone()]);
        assert_eq!(outcomes(999), [met, (Outcome::Open, Some(FEW_SAMPLES.into()))]);
    }

    /// Busy connections beside silent ones are held to themselves alone, which older records lack.
    #[test]
    fn ratio_of_a_record_without_what_its_goal_is_about_is_to_the_floor() {
        let row = |subject: &str, p50: u32, rate: u32| {
            format!(
                "{{\"scenario\":\"rtt\",\"subject\":\"{subject}\",\"idle\":\"spin\",\
                 \"payload_bytes\":64,\"connections\":900,\"busy_connections\":64,\
                 \"p50_ns\":{p50},\"frames_per_s\":{rate}}}\n"
            )
        };
        let shown = |text: &str| -> Vec<String> {
            let runs = read::parse("a", text.as_bytes()).expect("rows");
            let of = |ratio: &Ratio| format!("{} {}", ratio.name, ratio.verdict);
            ratios(&Book::new(&runs)).iter().map(of).collect()
        };
        let title = "rtt 64 B spin, 900 connections, 64 of them busy";
        let (socket, ringwire) = (row("socket", 1000, 500), row("ringwire", 1100, 400));
        let older = shown(&(socket.clone() + &ringwire));
        assert_eq!(older, [format!("{title}: p50 / socket 1.10x")]);
        let newer = shown(&(socket + &row("ringwire-alone", 1000, 500) + &ringwire));
        let verdict = format!("{title}: frames/s / ringwire-alone 0.80x, >= 0.90x missed");
        assert_eq!(newer, [verdict]);
    }

    #[test]
    fn nothing_is_compared_with_a_clock() {
        let runs = runs(
            "paced clock spin 64 1 20
             paced socket spin 64 1 10000
             paced ringwire spin 64 1 11000",
        );
        let ratios = ratios(&Book::new(&runs));
        let shown: Vec<&str> = ratios.iter().map(|ratio| &*ratio.verdict).collect();
        assert_eq!(shown, ["1.10x"]);
    }

    #[test]
    fn round_trips_are_held_to_two_figures() {
        let row = |subject: &str, p50: u32, p99: u32| {
            format!(
                "{{\"scenario\":\"rtt\",\"subject\":\"{subject}\",\"idle\":\"park\",\
                 \"payload_bytes\":64,\"connections\":1,\"p50_ns\":{p50},\"p99_ns\":{p99}}}\n"
            )
        };
        let run = |p99| row("socket", 1000, 2000) + &row("ringwire", 1050, p99);
        let shown = |text: &str| -> Vec<String> {
            let runs = read::parse("a", text.as_bytes()).expect("rows");
            let of = |ratio: &Ratio| format!("{} {}", ratio.name, ratio.verdict);
            ratios(&Book::new(&runs)).iter().map(of).collect()
        };
        let expected = [
            "rtt 64 B park: p50 / socket 1.05x, <= 1.10x met",
            "rtt 64 B park: p99 / socket 1.20x, <= 1.15x missed",
        ];
        assert_eq!(shown(&run(2400)), expected);
        let runs = read::parse("a", run(2400).as_bytes()).expect("rows");
        let verdicts = verdicts(&Book::new(&runs), 0);
        assert_eq!(Count::of(&verdicts), Count { met: 1, judged: 2, open: 0 });
        // Of two runs, each ratio with both of them in a group.
        let both = run(2400) + "{\"scenario\":\"machine\"}\n" + &run(2200);
        let expected = [
            "rtt 64 B park: p50 / socket, <= 1.10x 1.05x met",
            "rtt 64 B park: p50 / socket, <= 1.10x 1.05x met",
            "rtt 64 B park: p99 / socket, <= 1.15x 1.20x missed",
            "rtt 64 B park: p99 / socket, <= 1.15x 1.10x met",
        ];
        assert_eq!(shown(&both), expected);
    }

    #[test]
    fn failover_is_held_to_a_time() {
        let line = "{\"scenario\":\"failover\",\"subject\":\"ringwire\",\"p99_ns\":6e6}";
        let runs = read::parse("a", line.as_bytes()).expect("a row");
        let verdict = &verdicts(&Book::new(&runs), 0)[0];
        assert_eq!((&*verdict.value, &*verdict.goal), ("6.00 ms", "<= 5ms"));
        assert_eq!(verdict.outcome, Outcome::Missed);
    }

    #[test]
    fn verdicts_of_the_file_are_shown_with_their_cases() {
        let mut runs = peers::tests::sample();
        let mut stray = runs[0].told[1].clone();
        (stray.of, stray.case) = ("later".into(), "later 64 B".into());
        stray.clock = Some(1.5);
        (stray.noisy, stray.ratio_low, stray.ratio_high) = (true, Some(0.2), Some(0.6));
        runs[0].told.push(stray);
        let book = Book::new(&runs);
        let verdicts = verdicts(&book, 0);
        let shown: Vec<String> = verdicts
            .iter()
            .map(|v| {
                let note = v.note.as_deref().unwrap_or("");
                let met = met(v.outcome);
                format!("{}: {} {} {} {met} {note}", v.case, v.what, v.value, v.goal)
            })
            .collect();
        let expected = [
            "rtt 64 B: p50 of ringwire-spin / raw-spin 1.20x <= 1.10x missed noisy",
            "rtt 64 B: p50 of ringwire-spin / fast 0.30x <= 0.50x met ",
            "rtt 64 B: p99.9 of ringwire-spin / fast – <= 1.00x not judged \
             1,050 samples, p99.9 needs 10,000",
            "later 64 B: p50 of ringwire-spin / fast 0.30x <= 0.50x met noisy: 0.20x to 0.60x; \
             clock 1.50x",
        ];
        assert_eq!(shown, expected);
        assert_eq!(Count::of(&verdicts), Count { met: 2, judged: 3, open: 1 });
    }

    #[test]
    fn ratios_beside_peers_are_to_the_floor_and_the_best() {
        let runs = peers::tests::sample();
        let ratios = ratios(&Book::new(&runs));
        let shown: Vec<String> =
            ratios.iter().map(|ratio| format!("{} {}", ratio.name, ratio.verdict)).collect();
        let expected = [
            "rtt 64 B: p50 / raw-spin 1.20x, <= 1.10x missed",
            "rtt 64 B: p50 / fast 0.30x, <= 0.50x met",
        ];
        assert_eq!(shown, expected);
        assert_eq!((ratios[0].state, ratios[1].state), (State::Bad, State::Good));
        assert_eq!(ratios[0].goal, Some(1.1));
        // Of two runs, each ratio with both of them in a group.
        let mut both = runs.clone();
        both.extend(runs);
        let ratios = super::ratios(&Book::new(&both));
        let of: Vec<_> = ratios.iter().map(|ratio| ratio.run.clone().expect("of two")).collect();
        assert_eq!(of, ["A", "B", "A", "B"]);
        assert_eq!(ratios[0].name, ratios[1].name);
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
        let range = |text: &str| {
            let runs = read::parse("a", text.as_bytes()).expect("rows");
            ratios(&Book::new(&runs))[0].range
        };
        assert_eq!(range(&text), Some((0.45, 1.5)));
        // Of rounds that took turns it is their own.
        let by_round = |text: String, all: [u32; 3]| {
            let all = all.map(|ns| format!("{{\"p50_ns\":{ns}}}")).join(",");
            text.replace("\"errors\":2", &format!("\"by_round\":[{all}]"))
        };
        let text = by_round(row("socket", 100, 80, 200), [80, 200, 100])
            + &by_round(row("ringwire", 110, 90, 120), [90, 120, 110]);
        assert_eq!(range(&text), Some((0.6, 1.125)));
    }

    #[test]
    fn verdict_that_may_be_the_other_one_is_noisy() {
        let row = |subject: &str, all: [u32; 7]| {
            let all = all.map(|ns| format!("{{\"p50_ns\":{ns}}}")).join(",");
            format!(
                "{{\"scenario\":\"rtt\",\"subject\":\"{subject}\",\"idle\":\"spin\",\
                 \"payload_bytes\":64,\"connections\":1,\"p50_ns\":{},\"by_round\":[{all}]}}\n",
                if subject == "socket" { 1000 } else { 1050 }
            )
        };
        let note = |ours| {
            let text = row("socket", [1000; 7]) + &row("ringwire", ours);
            let runs = read::parse("a", text.as_bytes()).expect("rows");
            verdicts(&Book::new(&runs), 0).swap_remove(0).note
        };
        assert_eq!(note([1050; 7]), None);
        let said = "noisy: 1.05x to 1.101x";
        assert_eq!(note([1050, 1101, 1050, 1050, 1050, 1050, 1050]).as_deref(), Some(said));
    }
}

//! The tables of a report. Those of figures become blocks where a screen is narrower than they are;
//! the others wrap, or scroll by themselves.
//!
//! Numbers stand right, with three digits and a unit, as on the terminal.

use super::compare::Change;
use super::figure::{FIGURES, Figure, SAMPLES_BEYOND_MIN, multiple, ratio};
use super::goals::{self, Verdict};
use super::grid::{Block, Cell, Fitted, Room, fitted, table, turned};
use super::model::{Book, Case, Entry, letter};
use super::peers;
use super::read::{Outcome, Run};
use super::sketch::class;
use super::text::{cut, escape, name};
use super::verdicts::judged;

/// Longest fact of a machine that is shown.
const FACT_CHARS_MAX: usize = 400;
/// Figures that ringwire's ratio is shown of.
const AGAINST: [&str; 6] = ["p50", "p99", "p99.9", "max", "frames/s", "CPU/frame"];

/// More subjects than this are more than a page is wide: they stand below each other.
const ACROSS_MAX: usize = 6;

/// The figures of a case in one run: figures down and subjects across, or the other way round when
/// there are many.
pub(super) fn figures(book: &Book<'_>, case: &Case<'_>, run: usize) -> Fitted {
    let entries = in_order(case, run);
    let mut head = vec![Cell::text("")];
    for entry in &entries {
        let (look, label) = (class(book.look(&entry.label)), escape(&name(&entry.label)));
        let markup = format!("<i class=\"dot {look}\"></i>{label}");
        head.push(Cell { markup, class: "n" });
    }
    let mut rows = Vec::new();
    for figure in &FIGURES {
        // Calls past the ring are worth a line only where there are any.
        let empty = |value: f64| figure.title == "direct/frame" && value == 0.0;
        let value = |entry: &Entry<'_>| figure.shown(entry.row).filter(|value| !empty(*value));
        if entries.iter().all(|entry| value(entry).is_none()) {
            continue;
        }
        let mut row = vec![Cell::text(figure.title)];
        for entry in &entries {
            row.push(match value(entry) {
                Some(value) => Cell { markup: with_range(figure, value, entry), class: "n" },
                None => Cell::nothing(),
            });
        }
        rows.push(row);
    }
    if case.is_of_peers() {
        if entries.iter().any(|entry| entry.row.waits.is_some()) {
            let waits = entries.iter().map(|entry| match &entry.row.waits {
                Some(waits) => Cell::text(&name(waits)),
                None => Cell::nothing(),
            });
            rows.insert(0, std::iter::once(Cell::text("idle")).chain(waits).collect());
        }
        let beside: Vec<_> = entries.iter().map(|entry| peers::beside(case, entry)).collect();
        let row = |title: &str, ratios: Vec<Option<f64>>| {
            let cells = ratios.into_iter().map(|ratio| ratio.map_or_else(Cell::nothing, times));
            std::iter::once(Cell::text(title)).chain(cells).collect::<Vec<_>>()
        };
        // After the figure that they are ratios of.
        let title = peers::main_figure(case).title;
        let place = rows.iter().position(|row| row[0].markup == escape(title));
        let place = place.map_or(rows.len(), |place| place + 1);
        if beside.iter().any(|beside| beside.peer.is_some()) {
            rows.insert(place, row("/peer", beside.iter().map(|beside| beside.peer).collect()));
        }
        if beside.iter().any(|beside| beside.floor.is_some()) {
            rows.insert(place, row("/floor", beside.iter().map(|beside| beside.floor).collect()));
        }
    }
    let samples = |entry: &&Entry<'_>| match entry.row.samples {
        Some(samples) => Cell::number(&grouped(samples)),
        None => Cell::nothing(),
    };
    let counts = entries.iter().map(samples);
    rows.push(std::iter::once(Cell::text("samples")).chain(counts).collect());
    let blocks: Vec<Block> = (1..head.len()).map(|column| block(&head, &rows, column)).collect();
    if entries.len() > ACROSS_MAX {
        (head, rows) = turned(head, rows);
    }
    let mut table = with_legend(fitted(&head, &rows, &blocks, Room::One), case);
    if let Some(text) = beside_legend(case, run) {
        table.markup += &format!("<p class=\"dim\">{}</p>\n", escape(&text));
    }
    table
}

/// The subjects of a case in one run: beside other transports the best first, as on the terminal.
fn in_order<'b, 'a>(case: &'b Case<'a>, run: usize) -> Vec<&'b Entry<'a>> {
    if case.is_of_peers() { peers::ranked(case, run) } else { case.of_run(run).collect() }
}

/// Says what the ratios beside other transports are to.
fn beside_legend(case: &Case<'_>, run: usize) -> Option<String> {
    let best = peers::best(case, run).filter(|_| case.is_of_peers());
    let figure = peers::main_figure(case).title;
    let entries =
        || case.of_run(run).filter(|entry| case.is_of_peers() && entry.row.role.is_some());
    let mut text = String::new();
    if entries().any(|entry| peers::floor(case, entry).is_some()) {
        let is_bulk = |entry: &Entry<'_>| {
            entry.row.floor.as_ref().is_some_and(|floor| floor.starts_with("raw-bulk"))
        };
        text += &format!("/floor: {figure} as a multiple of that of ");
        text += if entries().any(is_bulk) {
            "the raw socket that waits alike over the same transport, or over TCP of raw-bulk or \
             raw-bulk-spin, bytes without messages: in newer files where those are better, in \
             older ones always. "
        } else {
            "the raw socket that waits alike over the same transport. "
        };
        if entries().any(|entry| entry.row.subject.ends_with("-adaptive")) {
            text += "Who spins for a while and then sleeps has the better of both. ";
        }
    }
    if let Some(best) = best {
        let best = name(&best.label);
        text += &format!("/peer: {figure} as a multiple of that of the best peer, {best}. ");
    }
    let peers = || entries().filter(|entry| entry.row.role.as_deref() == Some("peer"));
    let sleeps = |entry: &Entry<'_>| entry.row.waits.as_deref() == Some("park");
    if entries().any(|entry| entry.row.waits.is_some()) {
        text += "idle: how a subject waits. Who spins takes all of a core at each end; park sleeps";
        let all_sleep = peers().next().is_some() && peers().all(sleeps);
        text += if all_sleep { ", as all peers do." } else { "." };
    }
    (!text.is_empty()).then(|| text.trim_end().into())
}

/// Says below a table what a percentile that was left out has too few of.
fn with_legend(mut table: Fitted, case: &Case<'_>) -> Fitted {
    let is_left_out = |entry: &Entry<'_>| {
        let measured = |figure: &&Figure| (figure.of)(entry.row).is_some();
        FIGURES.iter().filter(measured).any(|figure| figure.shown(entry.row).is_none())
    };
    if case.entries.iter().any(is_left_out) {
        let text = format!(
            "Percentiles are left out, or –, where fewer than {SAMPLES_BEYOND_MIN:.0} samples \
             lie beyond them, or up to p99 less than one of each round: they would be the max \
             again."
        );
        table.markup += &format!("<p class=\"dim\">{}</p>\n", escape(&text));
    }
    table
}

/// What stands in a column below its head.
fn block(head: &[Cell], rows: &[Vec<Cell>], column: usize) -> Block {
    let title = Cell { class: "", ..head[column].clone() };
    let figures = rows.iter().map(|row| (row[0].markup.clone(), row[column].clone()));
    Block { title, figures: figures.collect() }
}

/// The figures of a case in two runs side by side: figures down; across each subject with both runs
/// and the later as a multiple of the earlier.
pub(super) fn figures_of_two(
    book: &Book<'_>,
    case: &Case<'_>,
    [before, after]: [usize; 2],
) -> Fitted {
    let mut labels = Vec::new();
    for entry in in_order(case, before).into_iter().chain(in_order(case, after)) {
        if !labels.contains(&&entry.label) {
            labels.push(&entry.label);
        }
    }
    let pairs: Vec<[Option<&Entry<'_>>; 2]> = labels
        .iter()
        .map(|&label| [before, after].map(|run| case.of_run(run).find(|it| it.label == *label)))
        .collect();
    let mut head = vec![Cell::text("")];
    let mut blocks = Vec::new();
    for label in labels {
        let (look, shown) = (class(book.look(label)), escape(&name(label)));
        let named = format!("<i class=\"dot {look}\"></i>{shown}");
        let title = format!("{named}, {} → {}", letter(before), letter(after));
        blocks.push(Block { title: Cell { markup: title, class: "" }, figures: Vec::new() });
        head.push(Cell { markup: format!("{named} {}", letter(before)), class: "n" });
        head.push(Cell::number(&letter(after)));
        head.push(Cell::number(&format!("{}/{}", letter(after), letter(before))));
    }
    let mut rows = Vec::new();
    for figure in &FIGURES {
        let empty = |value: f64| figure.title == "direct/frame" && value == 0.0;
        let value = |entry: &Entry<'_>| figure.shown(entry.row).filter(|value| !empty(*value));
        if pairs.as_flattened().iter().flatten().all(|entry| value(entry).is_none()) {
            continue;
        }
        let mut row = vec![Cell::text(figure.title)];
        for (pair, block) in pairs.iter().zip(&mut blocks) {
            let values = pair.map(|entry| entry.and_then(value));
            block.figures.push((escape(figure.title), both(figure, values)));
            for (entry, value) in pair.iter().zip(values) {
                row.push(match entry.zip(value) {
                    Some((entry, value)) => {
                        Cell { markup: with_range(figure, value, entry), class: "n" }
                    }
                    None => Cell::nothing(),
                });
            }
            row.push(match values {
                [Some(old), Some(new)] => ratio(new, old).map_or_else(Cell::nothing, times),
                _ => Cell::nothing(),
            });
        }
        rows.push(row);
    }
    let mut counts = vec![Cell::text("samples")];
    for pair in &pairs {
        let samples = |entry: &Option<&Entry<'_>>| entry.and_then(|entry| entry.row.samples);
        let counted = |entry| {
            samples(entry).map_or_else(Cell::nothing, |count| Cell::number(&grouped(count)))
        };
        counts.extend(pair.iter().map(counted));
        counts.push(Cell::text(""));
    }
    rows.push(counts);
    with_legend(fitted(&head, &rows, &blocks, Room::Two), case)
}

/// A figure in two runs, and the later as a multiple of the earlier.
fn both(figure: &Figure, values: [Option<f64>; 2]) -> Cell {
    let [old, new] = values.map(|value| value.map_or("–".into(), |value| shown(figure, value)));
    let multiple = match values {
        [Some(old), Some(new)] => {
            ratio(new, old).map(|ratio| format!("<small>{ratio:.2}x</small>"))
        }
        _ => None,
    };
    Cell { markup: format!("{old} → {new}{}", multiple.unwrap_or_default()), class: "" }
}

/// A figure as markup.
fn shown(figure: &Figure, value: f64) -> String {
    // Three digits of nothing would claim a precision.
    if value == 0.0 { "0".into() } else { escape(&(figure.unit)(value)) }
}

pub(super) fn times(ratio: f64) -> Cell {
    Cell::number(&format!("{ratio:.2}x"))
}

/// A figure, and below it the lowest and highest of its rounds.
fn with_range(figure: &Figure, value: f64, entry: &Entry<'_>) -> String {
    let shown = shown(figure, value);
    let rounds = entry.row.rounds.is_none_or(|rounds| rounds > 1);
    match (figure.range)(entry.row).filter(|_| rounds) {
        Some((low, high)) => {
            let (low, high) = ((figure.unit)(low), (figure.unit)(high));
            format!("{shown}<small>{}–{}</small>", escape(&low), escape(&high))
        }
        None => shown,
    }
}

/// `1234567` → `1 234 567`, with narrow spaces that do not break.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Ringwire's figures as multiples of the others' in the same run: others down, figures across.
pub(super) fn against(case: &Case<'_>, run: usize) -> Option<String> {
    let (ours, mut others) = case.sides(run)?;
    if others.is_empty() {
        return None;
    }
    if case.is_of_peers() {
        others = peers::ranked(case, run);
        others.retain(|other| other.label != ours.label);
    }
    let of = |figure: &Figure, other: &Entry<'_>| {
        figure.shown(ours.row).zip(figure.shown(other.row))?;
        multiple(*figure, ours.row, other.row)
    };
    let compared = FIGURES.iter().filter(|figure| {
        let any = others.iter().any(|other| of(figure, other).is_some());
        AGAINST.contains(&figure.title) && any
    });
    let compared: Vec<&Figure> = compared.collect();
    if compared.is_empty() {
        return None;
    }
    let mut head = vec![Cell::wrapped(&format!("{} /", name(&ours.label)))];
    head.extend(compared.iter().map(|figure| Cell::number(figure.title)));
    let mut rows = Vec::new();
    let mut blocks = Vec::new();
    for other in &others {
        let mut row = vec![Cell::wrapped(&name(&other.label))];
        for figure in &compared {
            row.push(match of(figure, other) {
                Some(ratio) => Cell::number(&format!("{ratio:.2}x")),
                None => Cell::nothing(),
            });
        }
        let title = Cell::text(&format!("{} / {}", name(&ours.label), name(&other.label)));
        let names = compared.iter().map(|figure| escape(figure.title));
        blocks.push(Block { title, figures: names.zip(row[1..].iter().cloned()).collect() });
        rows.push(row);
    }
    let mut out = fitted(&head, &rows, &blocks, Room::One).markup;
    for verdict in goals::of_case(case, run) {
        let Verdict { what, value, note, .. } = &verdict;
        let goal = judged(&Verdict { note: None, ..verdict.clone() });
        let note = note.as_ref().map(|note| escape(&format!(" ({note})"))).unwrap_or_default();
        let measured = escape(&match verdict.outcome {
            Outcome::Open => format!("Goal: {what},"),
            _ => format!("Goal: {what} {value},"),
        });
        out += &format!(
            "<p>{measured} <span class=\"{}\">{}</span>{note}</p>\n",
            goal.class, goal.markup
        );
    }
    Some(out)
}

/// Which run has which case, where they have not all the same.
pub(super) fn cases_of_runs(book: &Book<'_>) -> Option<String> {
    let count = book.runs.len();
    if book.cases.iter().all(|case| case.runs().len() == count) {
        return None;
    }
    let mut head = vec![Cell::text("Case")];
    head.extend((0..count).map(|run| Cell { class: "", ..Cell::text(&letter(run)) }));
    let row = |case: &Case<'_>| {
        let runs = case.runs();
        let has = (0..count).map(|run| match runs.contains(&run) {
            true => Cell::text("●"),
            false => Cell { class: "dim", ..Cell::nothing() },
        });
        std::iter::once(Cell::wrapped(&case.title())).chain(has).collect::<Vec<_>>()
    };
    Some(table(&head, &book.cases.iter().map(row).collect::<Vec<_>>()))
}

/// What changed in a case from one run to another; `None` when nothing can be compared.
pub(super) fn changes(changes: &[Change], before: usize, after: usize) -> Option<String> {
    if changes.is_empty() {
        return None;
    }
    let head = [
        Cell::text("Subject"),
        Cell::text("Figure"),
        Cell::number(&letter(before)),
        Cell::number(&letter(after)),
        Cell::number("Change"),
        Cell::text("Verdict"),
    ];
    let mut last = "";
    let mut rows = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    for change in changes {
        let subject = if change.subject == last { "" } else { &*change.subject };
        last = &change.subject;
        if !subject.is_empty() || blocks.is_empty() {
            blocks.push(Block { title: Cell::text(subject), figures: Vec::new() });
        }
        let Change { before, after, judgement, .. } = change;
        let [before, after, amount] = [before, after, &change.amount()].map(|text| escape(text));
        let verdict = format!("<small>{amount}, {}</small>", escape(judgement.text()));
        let value = Cell {
            markup: format!("{before} → {after}{verdict}"),
            class: judgement.state().class(),
        };
        let block = blocks.last_mut().expect("one was made for the first change");
        block.figures.push((escape(change.figure), value));
        rows.push(vec![
            Cell::text(subject),
            Cell::text(change.figure),
            Cell::number(&change.before),
            Cell::number(&change.after),
            Cell::number(&change.amount()),
            Cell {
                markup: escape(change.judgement.text()),
                class: change.judgement.state().class(),
            },
        ]);
    }
    Some(fitted(&head, &rows, &blocks, Room::Two).markup)
}

/// Where the runs were measured: facts down, runs across.
pub(super) fn machines(runs: &[Run]) -> Option<String> {
    let mut titles: Vec<&str> = Vec::new();
    for (title, _) in runs.iter().filter_map(|run| run.machine.as_ref()).flat_map(|m| &m.facts) {
        if !titles.contains(title) {
            titles.push(title);
        }
    }
    if titles.is_empty() {
        return None;
    }
    let mut head = vec![Cell::text("")];
    for (index, run) in runs.iter().enumerate() {
        let before = if runs.len() > 1 { format!("{}: ", letter(index)) } else { String::new() };
        head.push(Cell::text(&format!("{before}{}", cut(&run.file, 60))));
    }
    let fact = |run: &Run, title: &str| {
        let fact = run.machine.as_ref().and_then(|machine| machine.fact(title));
        fact.map(|fact| cut(fact, FACT_CHARS_MAX))
    };
    let mut rows = Vec::new();
    for title in titles {
        let facts: Vec<Option<String>> = runs.iter().map(|run| fact(run, title)).collect();
        let differs = facts.windows(2).any(|pair| pair[0] != pair[1]);
        let class = if differs { "fact differs" } else { "fact" };
        let cells = facts.into_iter().map(|fact| match fact {
            Some(fact) => Cell { markup: escape(&fact), class },
            None => Cell { markup: "unknown".into(), class: "fact dim" },
        });
        rows.push(std::iter::once(Cell::text(title)).chain(cells).collect());
    }
    Some(table(&head, &rows))
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::runs;
    use super::super::read;
    use super::super::sketch::tests::{texts, well_formed};
    use super::*;

    #[test]
    fn figures_stand_under_their_subjects() {
        let text = "{\"scenario\":\"rtt\",\"subject\":\"a<b\",\"rounds\":9,\"samples\":1234567,\
            \"p50_ns\":7243,\
            \"p50_ns_low\":6951,\"p50_ns_high\":10423,\"direct_per_frame\":0}\n\
            {\"scenario\":\"rtt\",\"subject\":\"ringwire\",\"p50_ns\":null,\"max_ns\":3489791}\n";
        let runs = read::parse("a", text.as_bytes()).expect("rows");
        let book = Book::new(&runs);
        let markup = figures(&book, &book.cases[0], 0).markup;
        let document = well_formed(&markup);
        assert_eq!(texts(&document, "th"), ["", "a<b", "ringwire", "p50", "max", "samples"]);
        let samples = "1\u{202f}234\u{202f}567";
        let cells = ["7.24 µs6.95 µs–10.4 µs", "–", "–", "3.49 ms", samples, "–"];
        assert_eq!(texts(&document, "td"), cells);
        // The same in blocks, a subject after the other.
        assert_eq!(texts(&document, "h4"), ["a<b", "ringwire"]);
        assert_eq!(texts(&document, "dt"), ["p50", "max", "samples"].repeat(2));
        let turned = [cells[0], cells[2], cells[4], cells[1], cells[3], cells[5]];
        assert_eq!(texts(&document, "dd"), turned);
    }

    /// Older files do not say how often a reactor went past the ring.
    #[test]
    fn calls_past_the_ring_are_shown_where_there_are_any() {
        let titles = |rest: &str| {
            let text = format!(
                "{{\"scenario\":\"rtt\",\"subject\":\"ringwire\",\"enters_per_frame\":0.5{rest}}}\n\
                 {{\"scenario\":\"rtt\",\"subject\":\"socket\",\"enters_per_frame\":null}}\n"
            );
            let runs = read::parse("a", text.as_bytes()).expect("rows");
            let book = Book::new(&runs);
            let markup = figures(&book, &book.cases[0], 0).markup;
            let document = well_formed(&markup);
            (texts(&document, "th")[3..].to_vec(), texts(&document, "td"))
        };
        let (heads, cells) = titles(",\"direct_per_frame\":1.25");
        assert_eq!(heads, ["enters/frame", "direct/frame", "samples"]);
        assert!(cells.contains(&"1.25".into()), "{cells:?}");
        for rest in ["", ",\"direct_per_frame\":null", ",\"direct_per_frame\":0"] {
            assert_eq!(titles(rest).0, ["enters/frame", "samples"], "{rest}");
        }
    }

    /// The same maximum under three names is no three figures.
    #[test]
    fn percentiles_beyond_the_samples_are_left_out() {
        let row = |subject: &str, samples: u32| {
            format!(
                "{{\"scenario\":\"paced\",\"subject\":\"{subject}\",\"rounds\":7,\
                 \"samples\":{samples},\"p99_ns\":5000,\"p99_9_ns\":7000,\"p99_99_ns\":7000,\
                 \"max_ns\":7000}}\n"
            )
        };
        let of = |text: String| {
            let runs = read::parse("a", text.as_bytes()).expect("rows");
            let book = Book::new(&runs);
            let markup = figures(&book, &book.cases[0], 0).markup;
            let markup = format!("<div>{markup}</div>");
            let document = well_formed(&markup);
            (texts(&document, "td"), texts(&document, "p"))
        };
        let (cells, legend) = of(row("a", 2_800) + &row("ringwire", 200_000));
        let expected = ["5.00 µs", "5.00 µs", "–", "7.00 µs", "–", "7.00 µs", "7.00 µs", "7.00 µs"];
        assert_eq!(cells[..8], expected);
        assert_eq!(legend.len(), 1);
        assert!(legend[0].contains("or –, where fewer than 10 samples"), "{legend:?}");
        assert!(of(row("a", 200_000)).1.is_empty(), "nothing was left out");
    }

    #[test]
    fn many_subjects_stand_below_each_other() {
        let rows: String =
            (1..=ACROSS_MAX + 1).map(|n| format!("rtt s{n} spin 64 1 {n}000\n")).collect();
        let runs = runs(&rows);
        let book = Book::new(&runs);
        let markup = figures(&book, &book.cases[0], 0).markup;
        let document = well_formed(&markup);
        let heads = texts(&document, "th");
        let samples = heads.iter().position(|head| head == "samples").expect("a column");
        assert!(heads[..samples].contains(&"p50".into()), "{heads:?}");
        assert_eq!(heads[samples + 1..].len(), ACROSS_MAX + 1, "{heads:?}");
        assert!(heads[samples + 1..].iter().all(|head| head.starts_with('s')), "{heads:?}");
    }

    #[test]
    fn other_transports_stand_in_order_with_their_ratios() {
        let runs = peers::tests::sample();
        let book = Book::new(&runs);
        let markup = format!("<div>{}</div>", figures(&book, &book.cases[0], 0).markup);
        let document = well_formed(&markup);
        let heads = texts(&document, "th");
        let subjects = ["raw-spin", "ringwire-spin", "fast", "slow"];
        assert_eq!(heads[1..5], subjects);
        assert_eq!(heads[5..], ["idle", "p50", "/floor", "/peer", "samples"]);
        let cells = texts(&document, "td");
        assert_eq!(cells[..4], ["spin", "spin", "park", "park"]);
        assert_eq!(cells[8..12], ["1.00x", "1.20x", "4.00x", "9.00x"]);
        assert_eq!(cells[12..16], ["0.25x", "0.30x", "1.00x", "2.25x"]);
        let legend = texts(&document, "p").concat();
        assert!(legend.contains("of the raw socket that waits alike"), "{legend}");
        assert!(legend.contains("of the best peer, fast. idle: how a subject waits."), "{legend}");
        assert!(legend.ends_with("park sleeps, as all peers do."), "{legend}");
    }

    #[test]
    fn two_runs_stand_side_by_side() {
        let runs = runs(
            "rtt socket spin 64 1 8000\nrtt ringwire spin 64 1 9000\nrtt gone spin 64 1 7000\n-\n\
             rtt socket spin 64 1 8000\nrtt ringwire spin 64 1 13500",
        );
        let book = Book::new(&runs);
        let markup = figures_of_two(&book, &book.cases[0], [0, 1]).markup;
        let document = well_formed(&markup);
        let heads = texts(&document, "th");
        let of = |name: &str| [format!("{name} A"), "B".into(), "B/A".into()];
        let expected = ["socket", "ringwire", "gone"].map(of).concat();
        let mut subjects = heads[1..10].to_vec();
        let mut sorted = expected;
        subjects.sort();
        sorted.sort();
        assert_eq!(subjects, sorted, "{heads:?}");
        let cells = texts(&document, "td");
        assert!(cells.contains(&"1.50x".into()) && cells.contains(&"1.00x".into()), "{cells:?}");
        assert_eq!(cells.iter().filter(|cell| **cell == "7.00 µs").count(), 1, "{cells:?}");
        let blocks = texts(&document, "dd");
        assert!(blocks.contains(&"9.00 µs → 13.5 µs1.50x".into()), "{blocks:?}");
        assert!(blocks.contains(&"7.00 µs → –".into()), "{blocks:?}");
    }

    #[test]
    fn goal_stands_below_its_ratio() {
        let runs = runs(
            "rtt socket spin 64 1 10000\nrtt other spin 64 1 9000\nrtt ringwire spin 64 1 12000",
        );
        let markup = against(&Book::new(&runs).cases[0], 0).expect("ratios");
        let markup = format!("<div>{markup}</div>");
        let document = well_formed(&markup);
        assert_eq!(texts(&document, "td"), ["1.20x", "1.33x"]);
        assert_eq!(texts(&document, "p"), ["Goal: p50 / socket 1.20x, <= 1.10x ✗ missed"]);
        assert!(markup.contains("class=\"bad\""), "{markup}");
    }

    #[test]
    fn facts_that_differ_are_marked() {
        let run = |cpu: &str| {
            let machine =
                format!("{{\"scenario\":\"machine\",\"cpu\":\"{cpu}\",\"kernel\":\"6\"}}");
            format!("{machine}\n{{\"scenario\":\"x\",\"subject\":\"y\"}}\n")
        };
        let text = run("A") + &run("<B>");
        let runs = read::parse("f", text.as_bytes()).expect("runs");
        let markup = machines(&runs).expect("facts");
        let document = well_formed(&markup);
        assert_eq!(texts(&document, "td"), ["A", "<B>", "6", "6"]);
        assert_eq!(markup.matches("differs").count(), 2);
        assert!(machines(&[]).is_none());
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
    }
}

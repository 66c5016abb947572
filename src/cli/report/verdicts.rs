//! The tables of goals: what each is, what was measured, and whether that meets it.

use super::figure::ratio;
use super::goals::{Verdict, met};
use super::grid::{Block, Cell, Room, fitted, table};
use super::model::letter;
use super::read::Outcome;
use super::tables::times;
use super::text::escape;

/// A goal and whether it was met, by word, sign and colour, and what makes that worth less.
pub(super) fn judged(verdict: &Verdict) -> Cell {
    let (class, sign) = look(verdict.outcome);
    let goal = escape(&format!("{} {sign} {}", verdict.goal, met(verdict.outcome)));
    let note = verdict.note.as_ref().map(|note| format!("<small>{}</small>", escape(note)));
    Cell { markup: goal + &note.unwrap_or_default(), class }
}

/// The class and the sign of what became of a goal.
fn look(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Met => ("good", "✓"),
        Outcome::Missed => ("bad", "✗"),
        Outcome::Open => ("dim", "○"),
    }
}

/// The goals of a run. Where a case has several, they stand below its name.
pub(super) fn of_run(verdicts: &[Verdict]) -> String {
    let head = [Cell::text("Goal"), Cell::number("Measured"), Cell::text("Bound")];
    if verdicts.windows(2).any(|pair| pair[0].case == pair[1].case) {
        return by_case(&head, verdicts);
    }
    let row = |verdict: &Verdict| {
        let goal = escape(&format!("{}: {}", verdict.case, verdict.what));
        vec![Cell { markup: goal, class: "wrap" }, Cell::number(&verdict.value), judged(verdict)]
    };
    table(&head, &verdicts.iter().map(row).collect::<Vec<_>>())
}

fn by_case(head: &[Cell], verdicts: &[Verdict]) -> String {
    let (mut rows, mut blocks) = (Vec::new(), Vec::new());
    for of_case in verdicts.chunk_by(|one, next| one.case == next.case) {
        let title = escape(&of_case[0].case);
        let mut figures = Vec::new();
        for (index, verdict) in of_case.iter().enumerate() {
            let (what, value, bound) =
                (escape(&verdict.what), Cell::number(&verdict.value), judged(verdict));
            let above = if index == 0 { format!("<b>{title}</b>") } else { String::new() };
            let markup = match verdict.measured {
                Some(_) => format!("{}, {}", value.markup, bound.markup),
                None => bound.markup.clone(),
            };
            figures.push((what.clone(), Cell { markup, class: bound.class }));
            rows.push(vec![Cell { markup: above + &what, class: "wrap" }, value, bound]);
        }
        blocks.push(Block { title: Cell { markup: title, class: "" }, figures });
    }
    fitted(head, &rows, &blocks, Room::Two).markup
}

/// The goals of several runs side by side, in the order of `runs`, each judged by itself; of two
/// also the later as a multiple of the earlier.
pub(super) fn of_all(runs: &[Vec<Verdict>]) -> String {
    let mut goals: Vec<&Verdict> = Vec::new();
    let is_same = |a: &Verdict, b: &Verdict| a.case == b.case && a.what == b.what;
    for verdict in runs.iter().rev().flatten() {
        if !goals.iter().any(|known| is_same(known, verdict)) {
            goals.push(verdict);
        }
    }
    let mut head = vec![Cell::text("Goal"), Cell::text("Bound")];
    head.extend((0..runs.len()).map(|run| Cell::number(&letter(run))));
    if runs.len() == 2 {
        head.push(Cell::number(&format!("{}/{}", letter(1), letter(0))));
    }
    let mut rows = Vec::new();
    let mut blocks = Vec::new();
    for goal in goals {
        let found: Vec<Option<&Verdict>> =
            runs.iter().map(|run| run.iter().find(|verdict| is_same(verdict, goal))).collect();
        let name = format!("{}: {}", goal.case, goal.what);
        let mut row = vec![Cell::wrapped(&name), Cell::text(&goal.goal)];
        row.extend(found.iter().map(|verdict| verdict.map_or_else(Cell::nothing, marked)));
        if let [old, new] = found[..] {
            let both = old.zip(new).and_then(|(old, new)| ratio(new.measured?, old.measured?));
            row.push(both.map_or_else(Cell::nothing, times));
        }
        let figures = head.iter().zip(&row).skip(2);
        let figures = figures.map(|(run, cell)| (run.markup.clone(), cell.clone())).collect();
        blocks.push(Block { title: Cell::text(&format!("{name} {}", goal.goal)), figures });
        rows.push(row);
    }
    fitted(&head, &rows, &blocks, Room::One).markup
}

/// What was measured, and whether that meets its goal, by sign and colour.
fn marked(verdict: &Verdict) -> Cell {
    let (_, sign) = look(verdict.outcome);
    let class = match verdict.outcome {
        Outcome::Met => "n good",
        Outcome::Missed => "n bad",
        Outcome::Open => "n dim",
    };
    let note = verdict.note.as_ref().map(|note| format!("<small>{}</small>", escape(note)));
    Cell { markup: escape(&format!("{} {sign}", verdict.value)) + &note.unwrap_or_default(), class }
}

#[cfg(test)]
mod tests {
    use super::super::goals;
    use super::super::model::Book;
    use super::super::model::tests::runs;
    use super::super::peers;
    use super::super::sketch::tests::{texts, well_formed};
    use super::*;

    #[test]
    fn goals_of_a_case_stand_below_its_name() {
        let runs = peers::tests::sample();
        let book = Book::new(&runs);
        let goals = goals::verdicts(&book, 0);
        let markup = of_run(&goals);
        let document = well_formed(&markup);
        let cells = texts(&document, "td");
        let heads = texts(&document, "th");
        assert_eq!(heads[3], "rtt 64 Bp50 of ringwire-spin / raw-spin");
        assert_eq!(heads[4], "p50 of ringwire-spin / fast", "under the same case");
        assert_eq!(texts(&document, "h4"), ["rtt 64 B"]);
        assert_eq!(texts(&document, "dd")[1], "0.30x, <= 0.50x ✓ met");
        assert_eq!(texts(&document, "dt").len(), 3);
        let expected = [
            "1.20x",
            "<= 1.10x ✗ missednoisy",
            "0.30x",
            "<= 0.50x ✓ met",
            "–",
            "<= 1.00x ○ not judged1,050 samples, p99.9 needs 10,000",
        ];
        assert_eq!(cells, expected);
    }

    #[test]
    fn goals_of_two_runs_stand_side_by_side() {
        let runs = runs(
            "rtt socket spin 64 1 8000\nrtt ringwire spin 64 1 9000\n-\n\
             rtt socket spin 64 1 8000\nrtt ringwire spin 64 1 13500",
        );
        let book = Book::new(&runs);
        let goals: Vec<_> = (0..2).map(|run| goals::verdicts(&book, run)).collect();
        let document = of_all(&goals);
        let document = well_formed(&document);
        let heads = texts(&document, "th");
        assert_eq!(heads[..5], ["Goal", "Bound", "A", "B", "B/A"]);
        let cells = texts(&document, "td");
        // Each run is judged, and not the last one alone.
        assert_eq!(cells, ["<= 1.10x", "1.12x ✗", "1.69x ✗", "1.50x"], "{heads:?}");
        assert_eq!(texts(&document, "dd"), ["1.12x ✗", "1.69x ✗", "1.50x"]);
    }
}

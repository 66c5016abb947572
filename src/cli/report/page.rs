//! The page: what was read becomes one HTML document that needs nothing else.
//!
//! No script, no font, no request: it opens from a disk without a network. It is valid as XML too,
//! which is how the tests read it. A pure function: the same rows give the same page.

use super::charts::{bars, curve, forest, series, sweep};
use super::compare;
use super::faults;
use super::goals::{self, Count};
use super::grid::{self, Fitted};
use super::model::{Book, Case, Sweep, letter};
use super::read::Run;
use super::sketch::{Drawing, style};
use super::tables;
use super::text::{cut, escape};
use super::verdicts;
use super::words::{method, no_goals, note};

/// Headings of what is swept.
const BY_SIZE: &str = "Throughput by payload";
const BY_CONNECTIONS: &str = "By number of connections";
/// Most floors that are named as changed.
const MOVED_MAX: usize = 5;
/// Warnings that are shown before the others are folded away.
const WARNINGS_MAX: usize = 6;

const CSS: &str = include_str!("page.css");

/// A page and the drawings in it.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) html: String,
    pub(super) drawings: Vec<Drawing>,
    /// What it shows, for the terminal: `1 run, 5 cases, 3 of 5 goals met`.
    pub(super) summary: String,
}

/// Makes the page of `runs`; with several, the later are compared with the first.
///
/// # Panics
///
/// When there are no runs.
pub(super) fn render(runs: &[Run]) -> Page {
    assert!(!runs.is_empty(), "a report is of something");
    let book = Book::new(runs);
    let mut page = Page { html: String::new(), drawings: Vec::new(), summary: summary(&book) };
    let title = escape(&title(&book));
    let by_size = sweep::draw(&book, Sweep::Payload);
    let by_connections = sweep::draw(&book, Sweep::Connections);
    page.html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\"><head>\
         <meta charset=\"utf-8\"/><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <style>{}{CSS}{}</style></head>\n<body><header><h1>{title}</h1>{}</header>\n{}<main>\n",
        style(":root"),
        grid::style(),
        subtitle(&book),
        navigation(
            &book,
            &[
                ("sizes", BY_SIZE, !by_size.is_empty()),
                ("connections", BY_CONNECTIONS, !by_connections.is_empty()),
            ],
        ),
    );
    page.glance(&book);
    for after in 1..runs.len() {
        page.comparison(&book, after);
    }
    for (number, case) in book.cases.iter().enumerate() {
        page.case(&book, number, case);
    }
    page.sweep("sizes", BY_SIZE, by_size);
    page.sweep("connections", BY_CONNECTIONS, by_connections);
    page.html += &machine(&book);
    page.html += &method(&book);
    page.html += &left_out(&book);
    page.html += "</main>\n</body></html>\n";
    page
}

fn title(book: &Book<'_>) -> String {
    match book.runs {
        [_] => "Ringwire bench".into(),
        [_, _] => "Ringwire bench: B against A".into(),
        runs => format!("Ringwire bench: {} runs", runs.len()),
    }
}

/// Which runs: their files, when, of which commit, and where.
fn subtitle(book: &Book<'_>) -> String {
    let mut out = String::new();
    for (index, run) in book.runs.iter().enumerate() {
        let fact = |title| run.machine.as_ref().and_then(|machine| machine.fact(title));
        let mut facts = vec![cut(&run.file, 60)];
        facts.extend(fact("Date").map(|date| date.replace('T', " ").replace('Z', " UTC")));
        facts.extend(fact("Commit").map(|commit| format!("commit {}", cut(commit, 20))));
        facts.extend(fact("Processor").map(|cpu| cut(cpu, 60)));
        facts.extend(fact("Linux").map(|kernel| format!("Linux {}", cut(kernel, 40))));
        let before =
            if book.is_comparison() { format!("<b>{}</b> ", letter(index)) } else { String::new() };
        // Each fact stays whole where a line ends.
        let facts: Vec<String> =
            facts.iter().map(|fact| format!("<span>{}</span>", escape(fact))).collect();
        out += &format!("<p class=\"dim\">{before}{}</p>", facts.join(" · "));
    }
    out
}

fn navigation(book: &Book<'_>, sweeps: &[(&str, &str, bool)]) -> String {
    let mut links = vec![("glance".to_owned(), "At a glance".to_owned())];
    for after in 1..book.runs.len() {
        links.push((format!("change-{after}"), format!("{} against A", letter(after))));
    }
    for (number, case) in book.cases.iter().enumerate() {
        links.push((format!("case-{number}"), goals::short_title(case)));
    }
    for &(id, title, _) in sweeps.iter().filter(|(.., is_drawn)| *is_drawn) {
        links.push((id.into(), title.into()));
    }
    links.push(("machine".into(), "Machine".into()));
    links.push(("method".into(), "Method".into()));
    if book.runs.iter().any(|run| !faults::left_out(run).is_empty()) {
        links.push(("left-out".into(), "Left out".into()));
    }
    let link = |(id, text): &(String, String)| format!("<a href=\"#{id}\">{}</a>", escape(text));
    let links: Vec<String> = links.iter().map(link).collect();
    format!("<nav>{}</nav>\n", links.join("\n"))
}

/// `1 case`, `2 cases`.
fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `1 run, 5 cases, 3 of 5 goals met`; of several runs those of each that has any:
/// `2 runs, 5 cases, goals met: A 5 of 5, B 3 of 5`.
fn summary(book: &Book<'_>) -> String {
    let mut summary =
        format!("{}, {}", count(book.runs.len(), "run"), count(book.cases.len(), "case"));
    let mut of_runs = Vec::new();
    for run in 0..book.runs.len() {
        let verdicts = goals::verdicts(book, run);
        match (book.is_comparison(), Count::of(&verdicts)) {
            _ if verdicts.is_empty() => {}
            (true, Count { met, judged, .. }) => {
                of_runs.push(format!("{} {met} of {judged}", letter(run)));
            }
            (false, counted) => summary += &format!(", {}", goals_met(counted)),
        }
    }
    if !of_runs.is_empty() {
        summary += &format!(", goals met: {}", of_runs.join(", "));
    }
    summary
}

/// `3 of 5 goals met, 2 not judged`.
fn goals_met(counted: Count) -> String {
    let Count { met, judged, open } = counted;
    let open = if open > 0 { format!(", {open} not judged") } else { String::new() };
    format!("{met} of {} met{open}", count(judged, "goal"))
}

impl Page {
    fn section(&mut self, id: &str, title: &str) {
        self.html += &format!("<section id=\"{id}\"><h2>{}</h2>\n", escape(title));
    }

    fn close(&mut self) {
        self.html += "</section>\n";
    }

    /// Puts drawings into the page, side by side where there is room.
    fn draw(&mut self, drawings: impl IntoIterator<Item = Drawing>) {
        let from = self.drawings.len();
        self.drawings.extend(drawings);
        if self.drawings.len() > from {
            self.html += "<div class=\"charts\">";
            for drawing in &self.drawings[from..] {
                self.html += &drawing.inline();
            }
            self.html += "</div>\n";
        }
    }

    fn paragraph(&mut self, text: &str) {
        self.html += &format!("<p>{}</p>\n", escape(text));
    }

    /// Goals, warnings, and ringwire's ratios; those of several runs side by side.
    fn glance(&mut self, book: &Book<'_>) {
        self.section("glance", "At a glance");
        let of_run = |run: usize, text: &str| {
            if book.is_comparison() { format!("{}: {text}", letter(run)) } else { text.into() }
        };
        let verdicts: Vec<_> = (0..book.runs.len()).map(|run| goals::verdicts(book, run)).collect();
        let has_goals = verdicts.iter().any(|verdicts| !verdicts.is_empty());
        if !has_goals {
            self.paragraph(no_goals(book));
        }
        for (run, verdicts) in verdicts.iter().enumerate().filter(|_| has_goals) {
            if verdicts.is_empty() {
                self.paragraph(&of_run(run, no_goals(book)));
                continue;
            }
            let counted = Count::of(verdicts);
            let class = if counted.met == counted.judged { "good" } else { "bad" };
            let text = of_run(run, &goals_met(counted));
            self.html += &format!("<p class=\"verdict {class}\">{}</p>\n", escape(&text));
        }
        let is_split = !book.is_comparison();
        if is_split {
            self.html += "<div class=\"split\"><div>\n";
        }
        match &verdicts[..] {
            [only] if !only.is_empty() => self.html += &verdicts::of_run(only),
            all if has_goals => self.html += &verdicts::of_all(all),
            _ => {}
        }
        let warnings: Vec<String> =
            (0..book.runs.len()).flat_map(|run| faults::warnings(book, run)).collect();
        self.warnings(&warnings);
        if is_split {
            self.html += "</div>\n";
        }
        if let Some(table) = tables::cases_of_runs(book) {
            self.html += &format!("<h3>Which run has which case</h3>\n{table}");
        }
        let title = format!("{} as a multiple of the others", cut(book.ours(), 28));
        self.draw(forest::draw(&title, &title, &goals::ratios(book)));
        if is_split {
            self.html += "</div>\n";
        }
        self.close();
    }

    /// The first ones, and the others for whoever opens them.
    fn warnings(&mut self, warnings: &[String]) {
        let (shown, folded) = warnings.split_at(warnings.len().min(WARNINGS_MAX));
        let items = |warnings: &[String]| -> String {
            let items: String =
                warnings.iter().map(|text| format!("<li>{}</li>", escape(text))).collect();
            format!("<ul class=\"warnings\">{items}</ul>\n")
        };
        if !shown.is_empty() {
            self.html += &items(shown);
        }
        if !folded.is_empty() {
            let more = format!("and {}", count(folded.len(), "more warning"));
            self.html +=
                &format!("<details><summary>{more}</summary>{}</details>\n", items(folded));
        }
    }

    /// A later run against the first.
    fn comparison(&mut self, book: &Book<'_>, after: usize) {
        let (old, new) = (letter(0), letter(after));
        self.section(&format!("change-{after}"), &format!("{new} against {old}"));
        let moved = compare::moved_floors(book, 0, after);
        if !moved.is_empty() {
            let text = "The machine was not the same: figures of subjects beside ringwire changed \
                by more than their rounds spread. Compare ratios, not figures.";
            self.html +=
                &format!("<p class=\"verdict bad\">{}</p><ul class=\"warnings\">", escape(text));
            for one in moved.iter().take(MOVED_MAX) {
                self.html += &format!("<li>{}</li>", escape(one));
            }
            if moved.len() > MOVED_MAX {
                self.html += &format!("<li>and {} more</li>", moved.len() - MOVED_MAX);
            }
            self.html += "</ul>\n";
        }
        self.paragraph(
            "A change is called better or worse only where the spreads of the two runs do not \
             touch. Within the spread, a difference is noise. Ratios to another subject of the \
             same run stand first: they stay where the machine drifts.",
        );
        let title = format!("{new} as a multiple of {old}");
        self.draw(forest::draw(&title, &title, &compare::ratios(book, 0, after)));
        let (mut alone, mut missing) = (Vec::new(), 0);
        for case in &book.cases {
            let changes = compare::changes(case, 0, after);
            match tables::changes(&changes, 0, after) {
                Some(table) => {
                    self.html += &format!("<h3>{}</h3>\n{table}", escape(&case.title()));
                }
                // What only one of them has stands at a glance, once for all runs.
                None if [0, after].iter().all(|run| case.runs().contains(run)) => {
                    alone.push(case.title());
                }
                None => missing += 1,
            }
        }
        if !alone.is_empty() {
            self.paragraph(&format!("In both, with nothing to compare: {}.", alone.join("; ")));
        }
        if missing == book.cases.len() {
            self.paragraph(&format!("{new} and {old} have no case in common."));
        }
        self.close();
    }

    /// One case: tables of every run, and the drawings.
    fn case(&mut self, book: &Book<'_>, number: usize, case: &Case<'_>) {
        self.section(&format!("case-{number}"), &case.title());
        if let Some(note) = note(case) {
            self.paragraph(note);
        }
        let pair: Option<[usize; 2]> = case.runs()[..].try_into().ok();
        let tables: Vec<(Option<usize>, Fitted)> = match pair {
            Some(pair) => vec![(None, tables::figures_of_two(book, case, pair))],
            None => {
                let one = |run: usize| (Some(run), tables::figures(book, case, run));
                case.runs().into_iter().map(one).collect()
            }
        };
        // A table has half of the page where that is enough, and otherwise all of it.
        let is_wide = pair.is_some() || tables.iter().any(|(_, table)| table.width > grid::HALF);
        let open = "<div class=\"split\"><div>\n";
        if !is_wide {
            self.html += open;
        }
        for (run, table) in tables {
            self.run_heading(book, run);
            self.html += &table.markup;
            if !is_wide {
                let ratios = run.and_then(|run| tables::against(case, run));
                self.html += &ratios.unwrap_or_default();
            }
        }
        if is_wide {
            self.html += open;
            for run in case.runs() {
                if let Some(table) = tables::against(case, run) {
                    self.run_heading(book, Some(run));
                    self.html += &table;
                }
            }
        }
        self.html += "</div>\n";
        let main = curve::draw(book, case).or_else(|| bars::draw(book, case));
        self.draw(main);
        self.html += "</div>\n";
        self.draw(series::draw(book, case));
        self.close();
    }

    /// Whose table follows, where several runs have one.
    fn run_heading(&mut self, book: &Book<'_>, run: Option<usize>) {
        if let Some(run) = run.filter(|_| book.is_comparison()) {
            let file = cut(&book.runs[run].file, 60);
            self.html += &format!("<h3>{} {}</h3>\n", letter(run), escape(&file));
        }
    }

    /// The same work over several payloads or connections.
    fn sweep(&mut self, id: &str, title: &str, drawings: Vec<Drawing>) {
        if drawings.is_empty() {
            return;
        }
        self.section(id, title);
        self.draw(drawings);
        self.close();
    }
}

/// Who was left out, for whoever asks; at the end, as it is many and says nothing about ringwire.
fn left_out(book: &Book<'_>) -> String {
    let mut items = String::new();
    let mut subjects: Vec<String> = Vec::new();
    for (run, read) in book.runs.iter().enumerate() {
        let of_run = if book.is_comparison() { letter(run) + ": " } else { String::new() };
        for mut one in faults::left_out(read) {
            let cases = one.cases.map_or("all cases".into(), |cases| cases.join("; "));
            let (names, why) = (one.subjects.join(", "), &one.why);
            let text = format!("{of_run}{names}: {why} ({cases})");
            items += &format!("<li>{}</li>", escape(&text));
            one.subjects.retain(|subject| !subjects.contains(subject));
            subjects.append(&mut one.subjects);
        }
    }
    if items.is_empty() {
        return String::new();
    }
    let summary = format!("{} not in every case", count(subjects.len(), "subject"));
    format!(
        "<section id=\"left-out\"><h2>Left out</h2>\n<details><summary>{}</summary>\
         <ul class=\"warnings\">{items}</ul></details></section>\n",
        escape(&summary),
    )
}

fn machine(book: &Book<'_>) -> String {
    let table = tables::machines(book.runs)
        .unwrap_or_else(|| "<p>The files do not say where they were measured.</p>".into());
    format!("<section id=\"machine\"><h2>Machine</h2>\n{table}</section>\n")
}

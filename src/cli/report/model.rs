//! What is shown: the cases of all runs, with the subjects of each side by side.
//!
//! A case is the same work: scenario, payload, idle strategy, connections, rate, and whether bulk
//! flows beside. Where a run compares ringwire with itself, over another number of connections or
//! reactors or as a variant (`ringwire-reliable`), those rows are one case, and the last of them is
//! held against the others. Nothing here knows how anything is drawn.

use super::read::{Row, Run, Told};
use super::text;
use crate::cli::bench::{clock, shown};
use crate::cli::show::counted;

/// The subject that is held against all others.
pub(super) const RINGWIRE: &str = "ringwire";
/// The same with reliable messages.
const RELIABLE: &str = "ringwire-reliable";

/// All runs, ordered by case.
#[derive(Debug)]
pub(super) struct Book<'a> {
    pub(super) runs: &'a [Run],
    pub(super) cases: Vec<Case<'a>>,
    /// Goals of cases that are not there, and the runs that have judged them.
    pub(super) loose: Vec<(usize, &'a Told)>,
    /// The labels of all cases, in the order of their looks.
    labels: Vec<String>,
}

/// The same work, done by several subjects in one run or more.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) scenario: &'a str,
    pub(super) idle: Option<&'a str>,
    pub(super) payload_bytes: Option<u64>,
    /// Of every subject; in a case over several numbers of connections, the largest.
    pub(super) connections: Option<u64>,
    /// The smallest number of connections, where the case is over several.
    pub(super) fewer: Option<u64>,
    /// Of paced load.
    pub(super) requests_per_s: Option<f64>,
    /// Where not all of them had messages in flight.
    pub(super) busy: Option<u64>,
    /// Whether bulk flows beside every subject.
    has_bulk: bool,
    /// Whether reliable messages stand beside best effort.
    pub(super) is_reliable: bool,
    /// Which of several cases that differ in nothing a row says, from 0.
    repeat: usize,
    pub(super) entries: Vec<Entry<'a>>,
    /// Goals of it, and the runs that have judged them.
    pub(super) told: Vec<(usize, &'a Told)>,
}

/// One subject in one run.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) run: usize,
    /// What it is called in its case.
    pub(super) label: String,
    pub(super) row: &'a Row,
}

/// What varies where the same work is done several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    Payload,
    Connections,
}

impl<'a> Book<'a> {
    pub(super) fn new(runs: &'a [Run]) -> Self {
        let mut cases: Vec<Case<'a>> = Vec::new();
        for (run, read) in runs.iter().enumerate() {
            let mut met = cases_of(run, &read.rows);
            for case in &mut met {
                let place = cases.iter_mut().find(|known| known.is_same_work(case));
                match place {
                    Some(known) => known.entries.append(&mut case.entries),
                    None => {
                        let entries = std::mem::take(&mut case.entries);
                        cases.push(Case { entries, told: Vec::new(), ..*case });
                    }
                }
            }
        }
        let mut loose = Vec::new();
        for (run, told) in
            runs.iter().enumerate().flat_map(|(run, read)| read.told.iter().map(move |t| (run, t)))
        {
            match cases.iter_mut().find(|case| case.is_told_of(told)) {
                Some(case) => case.told.push((run, told)),
                None => loose.push((run, told)),
            }
        }
        let mut labels = vec![ours_of(&cases).unwrap_or(RINGWIRE.into())];
        for entry in cases.iter().flat_map(|case| &case.entries) {
            if !labels.contains(&entry.label) {
                labels.push(entry.label.clone());
            }
        }
        Self { runs, cases, loose, labels }
    }

    /// What is held against the others, where that is the same in all cases.
    pub(super) fn ours(&self) -> &str {
        &self.labels[0]
    }

    /// The number of a label's look: the same all over the page, and that of [`ours`](Self::ours)
    /// is 0.
    pub(super) fn look(&self, label: &str) -> usize {
        self.labels.iter().position(|known| known == label).expect("all labels were collected")
    }

    /// Whether runs are compared.
    pub(super) fn is_comparison(&self) -> bool {
        self.runs.len() > 1
    }
}

/// What stands for ringwire where all cases are of the suite of other transports.
fn ours_of(cases: &[Case<'_>]) -> Option<String> {
    let all_are_of_peers = cases.iter().all(Case::is_of_peers);
    let first = cases.iter().filter(|_| all_are_of_peers).find_map(|case| case.sides(0));
    first.map(|(ours, _)| ours.label.clone())
}

/// Whether a subject is ringwire, or a variant of it.
fn is_ours(subject: &str) -> bool {
    subject.strip_prefix(RINGWIRE).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// The letter of a run; after `Z` come numbers.
pub(super) fn letter(run: usize) -> String {
    match u8::try_from(run) {
        Ok(index @ 0..26) => char::from(b'A' + index).to_string(),
        _ => format!("run {}", run + 1),
    }
}

/// The cases of one run, in the order of its rows.
fn cases_of(run: usize, rows: &[Row]) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    for row in rows.iter().filter(|row| row.skipped.is_none()) {
        let mut case = Case::of(row);
        let label = match row.reactors {
            Some(1) => "1 reactor".into(),
            Some(count) => format!("{count} reactors"),
            None => row.subject.clone(),
        };
        let entry = Entry { run, label, row };
        // The same subject again in the same case: they differ in something not known here.
        let last = cases.iter_mut().rfind(|known| known.is_like(&case));
        match last {
            Some(known) if !known.has(&entry) => known.entries.push(entry),
            last => {
                case.repeat = last.map_or(0, |known| known.repeat + 1);
                case.entries.push(entry);
                cases.push(case);
            }
        }
    }
    for case in &mut cases {
        if case.entries.iter().any(|entry| entry.row.subject == RELIABLE) {
            // It is told apart by that, wherever in a file it stands.
            (case.is_reliable, case.repeat) = (true, 0);
        }
    }
    join_connections(cases)
}

/// Joins neighbours that are ringwire alone, over one number of connections and another.
fn join_connections(cases: Vec<Case<'_>>) -> Vec<Case<'_>> {
    let mut joined: Vec<Case<'_>> = Vec::new();
    for mut case in cases {
        let last = joined.last_mut().filter(|last| last.is_beside(&case));
        let Some(last) = last else {
            joined.push(case);
            continue;
        };
        last.fewer = last.fewer.or(last.connections);
        last.connections = case.connections;
        last.entries.append(&mut case.entries);
        for entry in &mut last.entries {
            let count = entry.row.connections.expect("only cases that say so are joined");
            entry.label = format!("{count} conns");
        }
    }
    joined
}

impl<'a> Case<'a> {
    /// The case a row is of, with nothing in it.
    pub(super) fn of(row: &'a Row) -> Self {
        Self {
            scenario: &row.scenario,
            idle: row.idle.as_deref(),
            payload_bytes: row.payload_bytes,
            connections: row.connections,
            fewer: None,
            requests_per_s: row.requests_per_s,
            busy: row.busy_connections,
            // In mixed it flows beside some, and is what they differ in.
            has_bulk: row.bulk.unwrap_or(row.bulk_bytes_per_s.is_some() && row.scenario != "mixed"),
            is_reliable: false,
            repeat: 0,
            entries: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Whether a goal that a run has judged is about this case.
    fn is_told_of(&self, told: &Told) -> bool {
        self.scenario == told.of
            && (self.payload_bytes, self.connections) == (told.payload_bytes, told.connections)
            && self.requests_per_s == told.rate_hz
            && self.has_bulk == told.bulk.unwrap_or(false)
            && self.idle.is_none()
    }

    /// Whether other transports stand in it, each waiting in its own way.
    pub(super) fn is_of_peers(&self) -> bool {
        self.entries.iter().any(|entry| entry.row.role.is_some())
    }

    fn is_same_work(&self, other: &Self) -> bool {
        self.is_like(other)
            && (self.fewer, self.repeat) == (other.fewer, other.repeat)
            && self.is_reliable == other.is_reliable
    }

    /// Whether everything is the same that a row says of its work.
    fn is_like(&self, other: &Self) -> bool {
        self.is_like_but_for_connections(other) && self.connections == other.connections
    }

    fn is_like_but_for_connections(&self, other: &Self) -> bool {
        let key = |case: &Self| (case.payload_bytes, case.has_bulk);
        (self.scenario, self.idle) == (other.scenario, other.idle)
            && key(self) == key(other)
            && (self.requests_per_s, self.busy) == (other.requests_per_s, other.busy)
    }

    fn has(&self, entry: &Entry<'_>) -> bool {
        let same = |known: &Entry<'_>| {
            (&known.row.subject, &known.label) == (&entry.row.subject, &entry.label)
        };
        self.entries.iter().any(same)
    }

    /// Whether `next` is the same as this over more connections, with nothing beside either.
    fn is_beside(&self, next: &Self) -> bool {
        let alone = |case: &Self| case.entries.iter().all(|entry| entry.row.subject == RINGWIRE);
        alone(self)
            && alone(next)
            && self.is_like_but_for_connections(next)
            && self.repeat == next.repeat
            && self.connections.is_some()
            && self.connections < next.connections
    }

    /// Whether the work is the same but for its payload, or but for its connections.
    pub(super) fn is_swept(&self, other: &Self, but_for: Sweep) -> bool {
        let alone = self.fewer.is_none()
            && other.fewer.is_none()
            && self.repeat == other.repeat
            && self.is_reliable == other.is_reliable;
        alone
            && match but_for {
                Sweep::Connections => self.is_like_but_for_connections(other),
                Sweep::Payload => {
                    (self.scenario, self.idle) == (other.scenario, other.idle)
                        && (self.connections, self.has_bulk) == (other.connections, other.has_bulk)
                        && self.requests_per_s == other.requests_per_s
                }
            }
    }

    /// What people call it: `rtt 64 B spin`.
    pub(super) fn title(&self) -> String {
        let payload = self.payload_bytes.map(shown::size);
        let mut title = self.work(payload.as_deref());
        title += &match (self.fewer, self.connections) {
            (Some(0), Some(many)) => format!(", {} beside none", counted(many, "session")),
            (Some(fewer), Some(many)) => {
                format!(", ringwire over {many} connections beside {fewer}")
            }
            (None, Some(count @ 2..)) => format!(", {count} connections"),
            _ => String::new(),
        };
        if let Some(busy) = self.busy {
            title += &format!(", {busy} of them busy");
        }
        if self.is_reliable {
            title += ", reliable beside best effort";
        }
        if self.repeat > 0 {
            title += &format!(" ({})", self.repeat + 1);
        }
        title
    }

    /// The title of what is swept over payloads or connections.
    pub(super) fn swept_title(&self, over: Sweep) -> String {
        match (over, self.payload_bytes, self.connections) {
            (Sweep::Connections, Some(bytes), _) => self.work(Some(&shown::size(bytes))),
            (Sweep::Payload, _, Some(count @ 2..)) => {
                format!("{}, {count} connections", self.work(None))
            }
            _ => self.work(None),
        }
    }

    /// The work without its connections.
    fn work(&self, payload: Option<&str>) -> String {
        let mut work = text::name(self.scenario);
        if let Some(payload) = payload {
            work += &format!(" {payload}");
        }
        if let Some(idle) = self.idle {
            work += &format!(" {}", text::name(idle));
        }
        if let Some(rate) = self.requests_per_s {
            work += &format!(", {rate:.0} requests/s");
        }
        if self.has_bulk {
            work += " beside bulk";
        }
        work
    }

    /// The entries of one run.
    pub(super) fn of_run(&self, run: usize) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(move |entry| entry.run == run)
    }

    /// The runs that have this case, in order.
    pub(super) fn runs(&self) -> Vec<usize> {
        let mut runs: Vec<usize> = self.entries.iter().map(|entry| entry.run).collect();
        runs.dedup();
        runs
    }

    /// What is held against the others in a run, and those others, in order.
    pub(super) fn sides(&self, run: usize) -> Option<(&Entry<'a>, Vec<&Entry<'a>>)> {
        let entries: Vec<&Entry<'a>> = self.of_run(run).collect();
        let is_ours = |entry: &&Entry<'_>| is_ours(&entry.row.subject);
        // Among other transports ringwire's first way to wait stands for it.
        let ours = if self.is_of_peers() {
            entries.iter().position(is_ours)?
        } else {
            entries.iter().rposition(is_ours)?
        };
        let is_other = |index: &usize| *index != ours && entries[*index].row.subject != clock::NAME;
        let others = entries.iter().enumerate().filter(|(index, _)| is_other(index));
        Some((entries[ours], others.map(|(_, entry)| *entry).collect()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::read;
    use super::*;

    /// Runs as lines say, each `scenario subject idle payload connections p50`; `-` divides runs.
    pub(in crate::cli::report) fn runs(lines: &str) -> Vec<Run> {
        let mut text = String::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            text += &match words[..] {
                ["-"] => "{\"scenario\":\"machine\"}\n".into(),
                [scenario, subject, idle, payload, connections, p50] => format!(
                    "{{\"scenario\":\"{scenario}\",\"subject\":\"{subject}\",\"idle\":\"{idle}\",\
                     \"payload_bytes\":{payload},\"connections\":{connections},\"p50_ns\":{p50}}}\n"
                ),
                _ => panic!("{line}"),
            };
        }
        read::parse("sample.jsonl", text.as_bytes()).expect("valid lines")
    }

    fn shape(book: &Book<'_>) -> Vec<(String, Vec<(usize, String)>)> {
        let entries = |case: &Case<'_>| {
            case.entries.iter().map(|entry| (entry.run, entry.label.clone())).collect()
        };
        book.cases.iter().map(|case| (case.title(), entries(case))).collect()
    }

    #[test]
    fn subjects_of_the_same_work_stand_side_by_side() {
        let runs = runs(
            "rtt socket spin 64 1 7000
             rtt ringwire spin 64 1 8000
             rtt socket park 64 1 50000
             rtt ringwire spin 64 64 9000
             rtt ringwire spin 64 1000 10000
             stream ringwire spin 1048576 8 null",
        );
        let book = Book::new(&runs);
        let entries = |labels: &[&str]| labels.iter().map(|&label| (0, label.into())).collect();
        assert_eq!(
            shape(&book),
            [
                ("rtt 64 B spin".into(), entries(&["socket", "ringwire"])),
                ("rtt 64 B park".into(), entries(&["socket"])),
                (
                    "rtt 64 B spin, ringwire over 1000 connections beside 64".into(),
                    entries(&["64 conns", "1000 conns"])
                ),
                ("stream 1 MiB spin, 8 connections".into(), entries(&["ringwire"])),
            ]
        );
        assert_eq!(book.look(RINGWIRE), 0);
        assert_eq!((book.look("socket"), book.look("1000 conns")), (1, 3));
        let (ours, others) = book.cases[2].sides(0).expect("ringwire is there");
        assert_eq!((&*ours.label, &*others[0].label), ("1000 conns", "64 conns"));
        assert!(book.cases[1].sides(0).is_none(), "nothing to hold against a floor");
    }

    #[test]
    fn runs_meet_in_their_cases() {
        let runs = runs(
            "-
             rtt socket spin 64 1 7000
             rtt ringwire spin 64 1 8000
             -
             rtt ringwire spin 64 1 8500
             rtt ringwire park 64 1 8500",
        );
        let book = Book::new(&runs);
        assert_eq!(book.cases.len(), 2);
        assert_eq!(book.cases[0].runs(), [0, 1]);
        assert_eq!(book.cases[0].of_run(1).count(), 1);
        assert_eq!(book.cases[1].runs(), [1]);
    }

    #[test]
    fn what_differs_in_nothing_known_is_a_case_of_its_own() {
        let runs = runs("paced a spin 64 1 1\npaced a spin 64 1 2");
        let titles: Vec<String> = Book::new(&runs).cases.iter().map(Case::title).collect();
        assert_eq!(titles, ["paced 64 B spin", "paced 64 B spin (2)"]);
    }

    #[test]
    fn variants_and_reactors_stand_side_by_side() {
        let mut runs = runs(
            "rtt socket spin 64 1 1
             rtt ringwire spin 64 1 2
             rtt ringwire spin 64 1 3
             rtt ringwire-reliable spin 64 1 4
             cores ringwire adaptive 64 64 5
             cores ringwire adaptive 64 64 6
             idle ringwire park 64 0 null
             idle ringwire park 64 1000 null
             paced socket spin 64 1 7
             paced socket spin 64 1 8
             rtt socket spin 64 900 9
             rtt socket spin 64 900 10
             rtt ringwire spin 64 900 11",
        );
        let rows = &mut runs[0].rows;
        (rows[4].reactors, rows[5].reactors) = (Some(1), Some(2));
        (rows[8].requests_per_s, rows[9].requests_per_s) = (Some(1e3), Some(1e3));
        (rows[11].busy_connections, rows[12].busy_connections) = (Some(64), Some(64));
        rows[9].bulk_bytes_per_s = Some(1.0);
        let book = Book::new(&runs);
        let labels = |case: &Case<'_>| {
            let labels = case.entries.iter().map(|entry| entry.label.clone());
            format!("{}: {}", case.title(), labels.collect::<Vec<_>>().join(" "))
        };
        let expected = [
            "rtt 64 B spin: socket ringwire",
            "rtt 64 B spin, reliable beside best effort: ringwire ringwire-reliable",
            "cores 64 B adaptive, 64 connections: 1 reactor 2 reactors",
            "idle 64 B park, 1000 sessions beside none: 0 conns 1000 conns",
            "paced 64 B spin, 1000 requests/s: socket",
            "paced 64 B spin, 1000 requests/s beside bulk: socket",
            "rtt 64 B spin, 900 connections: socket",
            "rtt 64 B spin, 900 connections, 64 of them busy: socket ringwire",
        ];
        assert_eq!(book.cases.iter().map(labels).collect::<Vec<_>>(), expected);
        let ours = |case: &Case<'_>| Some(case.sides(0)?.0.label.clone());
        assert_eq!(ours(&book.cases[1]).as_deref(), Some("ringwire-reliable"));
        assert_eq!(ours(&book.cases[2]).as_deref(), Some("2 reactors"));
        assert!(book.cases[1].is_reliable && !book.cases[0].is_reliable);
        assert!(!is_ours("ringwired") && is_ours("ringwire-express"));
    }

    #[test]
    fn other_transports_stand_in_one_case() {
        let row = |subject: &str, idle: &str, rest: &str| {
            format!(
                "{{\"scenario\":\"paced\",\"subject\":\"{subject}\",\"idle\":\"{idle}\",\
                 \"payload_bytes\":64,\"role\":\"x\",\"rate_hz\":1000,\"bulk\":false{rest}}}\n"
            )
        };
        let text = row("raw-spin", "spin", ",\"p50_ns\":1")
            + &row("ringwire-spin", "spin", ",\"p50_ns\":2")
            + &row("ringwire-park", "park", ",\"p50_ns\":3")
            + &row("tokio", "epoll", ",\"p50_ns\":4")
            + &row("nng", "", ",\"skipped\":\"no compiler\"");
        let runs = read::parse("a", text.as_bytes()).expect("rows");
        let book = Book::new(&runs);
        assert_eq!(book.cases.len(), 1);
        assert_eq!(book.cases[0].title(), "paced 64 B, 1000 requests/s");
        let (ours, others) = book.cases[0].sides(0).expect("ringwire is there");
        assert_eq!((&*ours.label, others.len()), ("ringwire-spin", 3));
        assert_eq!((book.ours(), book.look("ringwire-spin")), ("ringwire-spin", 0));
    }

    #[test]
    fn missing_keys_leave_a_title() {
        let runs = read::parse("a", b"{\"scenario\":\"\",\"subject\":\"\"}").expect("a row");
        assert_eq!(Book::new(&runs).cases[0].title(), "(no name)");
    }

    #[test]
    fn runs_have_letters() {
        assert_eq!([0, 1, 25, 26].map(letter), ["A", "B", "Z", "run 27"]);
    }
}

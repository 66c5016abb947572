//! JSON lines in, runs out: what `ringwire bench --json` wrote, now, earlier or later.
//!
//! A machine line opens a run; every other line is a row of it, or a goal that the run has judged
//! itself. Runs of one machine and build that have no case in common are one, done in pieces. Keys
//! not known here are ignored and every key but `scenario` and `subject` may be missing or null, so
//! that files of other versions can be read. What is there must be what it says: an error names the
//! file, the line and the key. Everything is bounded, as the file may be anybody's.
//!
//! Percentiles beyond p99 and the maximum are those of the histogram of all rounds where a row has
//! one: older files have the median of the rounds' maxima under the same keys.

use std::io::Read;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;
use serde_json::{Map, Value};

use super::{ReportError, histogram};

/// Longest file: a bench of a thousand rows with their histograms has a few MiB.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most rows of a file: each is drawn.
const ROWS_MAX: usize = 2_000;
/// Largest figure: nanoseconds of thirty years, or as many bytes.
const FIGURE_MAX: f64 = 1e18;

/// What one run of the bench measured, and where.
#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    /// The last part of the name of the file it stands in.
    pub(super) file: String,
    pub(super) machine: Option<Machine>,
    pub(super) rows: Vec<Row>,
    /// Goals that the run has judged, in its order; of the suite of other transports.
    pub(super) told: Vec<Told>,
}

/// The machine line: the facts that were known, in the order they are shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Machine {
    pub(super) facts: Vec<(&'static str, String)>,
}

/// How one subject did in one case. `None` where the line does not say.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    #[serde(deserialize_with = "present")]
    pub(super) scenario: String,
    #[serde(deserialize_with = "present")]
    pub(super) subject: String,
    pub(super) idle: Option<String>,
    /// The same where it is the subject's, not the case's: beside other transports.
    #[serde(skip)]
    pub(super) waits: Option<String>,
    pub(super) payload_bytes: Option<u64>,
    pub(super) connections: Option<u64>,
    pub(super) rounds: Option<u64>,
    pub(super) samples: Option<u64>,
    pub(super) p50_ns: Option<f64>,
    pub(super) p90_ns: Option<f64>,
    pub(super) p99_ns: Option<f64>,
    pub(super) p99_9_ns: Option<f64>,
    pub(super) p99_99_ns: Option<f64>,
    pub(super) max_ns: Option<f64>,
    pub(super) p50_ns_low: Option<f64>,
    pub(super) p50_ns_high: Option<f64>,
    pub(super) p99_ns_low: Option<f64>,
    pub(super) p99_ns_high: Option<f64>,
    pub(super) frames_per_s: Option<f64>,
    pub(super) frames_per_s_low: Option<f64>,
    pub(super) frames_per_s_high: Option<f64>,
    pub(super) bytes_per_s: Option<f64>,
    pub(super) cpu_ns_per_frame: Option<f64>,
    pub(super) enters_per_frame: Option<f64>,
    pub(super) direct_per_frame: Option<f64>,
    pub(super) errors: Option<u64>,
    /// Of paced load.
    pub(super) requests_per_s: Option<f64>,
    pub(super) busy_connections: Option<u64>,
    /// The same, as the suite of other transports calls it.
    pub(super) rate_hz: Option<f64>,
    /// What a subject is to that suite, whose subjects wait each in its own way.
    pub(super) role: Option<String>,
    /// Why a subject was left out there.
    pub(super) skipped: Option<String>,
    /// The figure that subjects are compared by there, as tables name it.
    pub(super) compared: Option<String>,
    /// The floor of this subject there, and its figure as a multiple of that floor's.
    pub(super) floor: Option<String>,
    pub(super) to_floor: Option<f64>,
    /// The same with the best peer.
    pub(super) best_peer: Option<String>,
    pub(super) to_best_peer: Option<f64>,
    /// Whether bulk flowed beside.
    pub(super) bulk: Option<bool>,
    /// Of the stream beside what was measured.
    pub(super) bulk_bytes_per_s: Option<f64>,
    pub(super) resident_bytes_per_connection: Option<f64>,
    /// CPU time of both ends as a share of one core.
    pub(super) cpu_share: Option<f64>,
    /// Of the server, where they vary.
    pub(super) reactors: Option<u64>,
    pub(super) series: Option<Series>,
    /// In the order they ran; older files have none.
    pub(super) by_round: Option<Vec<OfRound>>,
    #[serde(rename = "histogram_v2")]
    pub(super) encoded: Option<String>,
    /// All rounds together; never empty.
    #[serde(skip)]
    pub(super) histogram: Option<Histogram<u64>>,
}

/// What goals are about, of one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct OfRound {
    pub(super) p50_ns: Option<f64>,
    pub(super) p99_ns: Option<f64>,
    pub(super) frames_per_s: Option<f64>,
}

/// A goal as the run that has it judged it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    /// The scenario of its case, and what else tells that case from others.
    pub(super) of: String,
    pub(super) payload_bytes: Option<u64>,
    pub(super) connections: Option<u64>,
    pub(super) rate_hz: Option<f64>,
    pub(super) bulk: Option<bool>,
    /// What the run calls the case.
    pub(super) case: String,
    pub(super) figure: String,
    #[serde(deserialize_with = "present")]
    pub(super) subject: String,
    /// Whose figure it is compared with.
    pub(super) other: String,
    /// Not there when it was not judged.
    pub(super) ratio: Option<f64>,
    /// The interval of a ratio of rounds; older files have none.
    pub(super) ratio_low: Option<f64>,
    pub(super) ratio_high: Option<f64>,
    pub(super) relation: Relation,
    pub(super) bound: f64,
    pub(super) outcome: Outcome,
    /// Whether the rounds differed too much.
    pub(super) noisy: bool,
    /// What there were too few of, where it was not judged.
    pub(super) lacks: Option<String>,
    /// What two clocks that are read have, as a multiple of the other's figure; of paced tails.
    pub(super) clock: Option<f64>,
}

/// Which side of its bound a ratio is to be on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Relation {
    #[default]
    #[serde(rename = "<=")]
    AtMost,
    #[serde(rename = ">=")]
    AtLeast,
}

/// What became of a goal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Outcome {
    #[serde(rename = "met")]
    Met,
    #[serde(rename = "missed")]
    Missed,
    /// Too few samples.
    #[default]
    #[serde(rename = "not judged")]
    Open,
}

/// A paced run as time went by.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Series {
    /// Seconds since the start; then p50, p99 and the largest of that interval, in nanoseconds.
    pub(super) points: Vec<[f64; 4]>,
    /// Seconds since the start, and nanoseconds.
    pub(super) outliers: Vec<[f64; 2]>,
}

/// Keys of the machine line and what people call them.
const FACTS: [(&str, &str); 17] = [
    ("date", "Date"),
    ("command", "Command"),
    ("version", "Ringwire"),
    ("commit", "Commit"),
    ("rustc", "Compiler"),
    ("profile", "Profile"),
    ("cpu", "Processor"),
    ("cores", "Cores"),
    ("cores_allowed", "Cores allowed"),
    ("core_server", "Server on core"),
    ("core_client", "Client on core"),
    ("kernel", "Linux"),
    ("governor", "Governor"),
    ("clock_source", "Clock source"),
    ("congestion_control", "TCP congestion control"),
    // Of the suite beside other transports: what peers have.
    ("congestion_control_system", "TCP congestion control, system's"),
    ("mitigations", "Mitigations"),
];

/// The bytes of a file, when they are not too many.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, ReportError> {
    let file = path.display().to_string();
    let failed = |source| ReportError::Read { file: file.clone(), source };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).map_err(failed)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ReportError::TooLong { file, bytes_max: FILE_BYTES_MAX });
    }
    Ok(bytes)
}

/// The runs in the bytes of a file, at least one, named after the last part of its path.
pub(super) fn runs(path: &Path, bytes: &[u8]) -> Result<Vec<Run>, ReportError> {
    let name = path.display().to_string();
    let mut runs = parse(&name, bytes)?;
    let shown = path.file_name().map_or(name, |last| last.to_string_lossy().into_owned());
    for run in &mut runs {
        run.file.clone_from(&shown);
    }
    Ok(runs)
}

/// Reads the lines of `file`, the name that errors have.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Vec<Run>, ReportError> {
    let mut runs: Vec<Run> = Vec::new();
    let mut rows = 0;
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let wrong = |message| {
            let file = file.into();
            if runs.is_empty() && !has_json(bytes) {
                return ReportError::NoLines { file };
            }
            ReportError::Line { file, line: number, message }
        };
        let line = std::str::from_utf8(line).map_err(|_| wrong("not UTF-8".into()))?.trim();
        if line.is_empty() {
            continue;
        }
        match entry(line).map_err(wrong)? {
            Entry::Machine(machine) => {
                let (file, machine) = (file.into(), Some(machine));
                runs.push(Run { file, machine, ..Run::default() });
            }
            entry => {
                rows += 1;
                if rows > ROWS_MAX {
                    return Err(wrong(format!("more than {ROWS_MAX} rows")));
                }
                if runs.is_empty() {
                    runs.push(Run { file: file.into(), ..Run::default() });
                }
                let run = runs.last_mut().expect("there is one by now");
                match entry {
                    Entry::Row(row) => run.rows.push(*row),
                    Entry::Told(told) => run.told.push(*told),
                    Entry::Machine(_) => unreachable!("it has opened a run"),
                }
            }
        }
    }
    // A bench that was ended before its first result leaves a machine and nothing to show.
    runs.retain(|run| !run.rows.is_empty());
    let runs = joined(runs);
    if runs.is_empty() { Err(ReportError::Empty { file: file.into() }) } else { Ok(runs) }
}

/// Whether a line of the file is JSON, or its first one begins as an object does: one that was cut
/// short is told as that.
fn has_json(bytes: &[u8]) -> bool {
    let is_json = |line: &[u8]| serde_json::from_slice::<IgnoredAny>(line).is_ok();
    bytes.trim_ascii_start().starts_with(b"{") || bytes.split(|&byte| byte == b'\n').any(is_json)
}

/// Joins neighbours that are one run done in pieces.
fn joined(runs: Vec<Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.is_continued_by(&run) => last.append(run),
            _ => joined.push(run),
        }
    }
    joined
}

impl Run {
    /// Whether `next` is of the same machine and build, and measured something else.
    fn is_continued_by(&self, next: &Self) -> bool {
        let (Some(machine), Some(other)) = (&self.machine, &next.machine) else { return false };
        let is_of_one = |&&(title, _): &&(&str, String)| !["Date", "Command"].contains(&title);
        let lasting = |machine: &'_ Machine| -> Vec<_> {
            machine.facts.iter().filter(is_of_one).cloned().collect()
        };
        let has = |row: &Row| self.rows.iter().any(|own| own.is_of_case_of(row));
        let lasting = (lasting(machine), lasting(other));
        !lasting.0.is_empty() && lasting.0 == lasting.1 && !next.rows.iter().any(has)
    }

    /// Takes the rows of the next piece, and how it was called.
    fn append(&mut self, mut next: Self) {
        self.rows.append(&mut next.rows);
        self.told.append(&mut next.told);
        let command = next.machine.as_ref().and_then(|machine| machine.fact("Command"));
        let own = self.machine.iter_mut().flat_map(|machine| &mut machine.facts);
        let own = own.into_iter().find(|(title, _)| *title == "Command");
        if let (Some((_, own)), Some(command)) = (own, command) {
            *own += "; ";
            *own += command;
        }
    }
}

enum Entry {
    Machine(Machine),
    Row(Box<Row>),
    Told(Box<Told>),
}

fn entry(line: &str) -> Result<Entry, String> {
    let object: Map<String, Value> = serde_json::from_str(line).map_err(|error| told(&error))?;
    if object.get("scenario").is_some_and(|scenario| scenario == "machine") {
        return Ok(Entry::Machine(Machine::read(&object)));
    }
    for key in ["scenario", "subject"] {
        if object.get(key).is_none_or(Value::is_null) {
            return Err(format!("no `{key}`: not a line of ringwire bench --json"));
        }
    }
    // From the text again: only then does an error know its column.
    if object["scenario"] == "verdict" {
        let verdict: Told = serde_json::from_str(line).map_err(|error| told(&error))?;
        verdict.check()?;
        return Ok(Entry::Told(Box::new(verdict)));
    }
    let mut row: Row = serde_json::from_str(line).map_err(|error| told(&error))?;
    row.check()?;
    row.requests_per_s = row.requests_per_s.or(row.rate_hz);
    if row.role.is_some() {
        // Of the subject, not of the case: all subjects of the case stand side by side.
        row.waits = row.idle.take();
    }
    if let Some(text) = row.encoded.take() {
        let histogram = histogram::decode(&text).map_err(|what| format!("histogram_v2: {what}"))?;
        row.histogram = Some(histogram).filter(|histogram| !histogram.is_empty());
    }
    if let Some(all) = &row.histogram {
        let at = |quantile| Some(all.value_at_quantile(quantile) as f64);
        (row.p99_9_ns, row.p99_99_ns, row.max_ns) = (at(0.999), at(0.9999), at(1.0));
    }
    Ok(Entry::Row(Box::new(row)))
}

/// What serde says, with the column in the line instead of its own line number.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what);
    let what = match error.classify() {
        Category::Eof => format!("cut short or not JSON: {what}"),
        Category::Syntax => format!("not JSON: {what}"),
        Category::Data | Category::Io => what.into(),
    };
    match error.column() {
        0 => what,
        column => format!("{what} (column {column})"),
    }
}

/// A string where `null` was ruled out before.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer)
}

impl Machine {
    fn read(object: &Map<String, Value>) -> Self {
        let fact = |&(key, title): &(&str, &'static str)| {
            let text = match object.get(key)? {
                Value::String(text) => text.clone(),
                value @ (Value::Number(_) | Value::Bool(_)) => value.to_string(),
                _ => return None,
            };
            Some((title, text))
        };
        Self { facts: FACTS.iter().filter_map(fact).collect() }
    }

    /// A fact by what people call it.
    pub(super) fn fact(&self, title: &str) -> Option<&str> {
        self.facts.iter().find(|(known, _)| *known == title).map(|(_, text)| &**text)
    }
}

impl Row {
    /// Whether both say of their work the same.
    fn is_of_case_of(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.payload_bytes, row.connections, row.busy_connections, row.bulk);
        (&self.scenario, &self.idle) == (&other.scenario, &other.idle)
            && key(self) == key(other)
            && self.requests_per_s == other.requests_per_s
    }

    /// Checks that every figure can be one.
    fn check(&self) -> Result<(), String> {
        let figures = [
            ("p50_ns", self.p50_ns),
            ("p90_ns", self.p90_ns),
            ("p99_ns", self.p99_ns),
            ("p99_9_ns", self.p99_9_ns),
            ("p99_99_ns", self.p99_99_ns),
            ("max_ns", self.max_ns),
            ("p50_ns_low", self.p50_ns_low),
            ("p50_ns_high", self.p50_ns_high),
            ("p99_ns_low", self.p99_ns_low),
            ("p99_ns_high", self.p99_ns_high),
            ("to_floor", self.to_floor),
            ("to_best_peer", self.to_best_peer),
            ("rate_hz", self.rate_hz),
            ("frames_per_s", self.frames_per_s),
            ("frames_per_s_low", self.frames_per_s_low),
            ("frames_per_s_high", self.frames_per_s_high),
            ("bytes_per_s", self.bytes_per_s),
            ("cpu_ns_per_frame", self.cpu_ns_per_frame),
            ("enters_per_frame", self.enters_per_frame),
            ("direct_per_frame", self.direct_per_frame),
            ("requests_per_s", self.requests_per_s),
            ("bulk_bytes_per_s", self.bulk_bytes_per_s),
            ("resident_bytes_per_connection", self.resident_bytes_per_connection),
            ("cpu_share", self.cpu_share),
        ];
        for (key, figure) in figures {
            if let Some(value) = figure.filter(|value| !is_figure(*value)) {
                return Err(format!("{key}: {value:e} is not from 0 to {FIGURE_MAX:e}"));
            }
        }
        for (low, high) in [
            (self.p99_ns_low, self.p99_ns_high),
            (self.p50_ns_low, self.p50_ns_high),
            (self.frames_per_s_low, self.frames_per_s_high),
        ] {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                return Err(format!(
                    "the lowest of the rounds, {low}, is above the highest, {high}"
                ));
            }
        }
        let of_rounds = self.by_round.iter().flatten();
        let mut of_rounds = of_rounds.flat_map(|one| [one.p50_ns, one.p99_ns, one.frames_per_s]);
        if let Some(value) = of_rounds.find_map(|figure| figure.filter(|&it| !is_figure(it))) {
            return Err(format!("by_round: {value:e} is not from 0 to {FIGURE_MAX:e}"));
        }
        let Some(series) = &self.series else { return Ok(()) };
        let numbers = series.points.iter().flatten().chain(series.outliers.iter().flatten());
        match numbers.copied().find(|value| !is_figure(*value)) {
            Some(value) => Err(format!("series: {value:e} is not from 0 to {FIGURE_MAX:e}")),
            None => Ok(()),
        }
    }
}

impl Told {
    fn check(&self) -> Result<(), String> {
        let figures = [
            ("ratio", self.ratio),
            ("ratio_low", self.ratio_low),
            ("ratio_high", self.ratio_high),
            ("bound", Some(self.bound)),
            ("rate_hz", self.rate_hz),
        ];
        match figures.iter().find(|(_, figure)| figure.is_some_and(|value| !is_figure(value))) {
            Some((key, _)) => Err(format!("{key} is not from 0 to {FIGURE_MAX:e}")),
            None => Ok(()),
        }
    }
}

fn is_figure(value: f64) -> bool {
    (0.0..=FIGURE_MAX).contains(&value)
}

#[cfg(test)]
mod tests {
    use super::super::histogram::tests::{encode, sample};
    use super::*;

    fn fails(text: &str, said: &str) {
        let error = parse("a.jsonl", text.as_bytes()).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    }

    #[test]
    fn machine_lines_divide_runs() {
        let text = "\n{\"scenario\":\"machine\",\"cpu\":\"A\",\"cores\":2,\"governor\":null}\n\
            {\"scenario\":\"rtt\",\"subject\":\"socket\",\"p50_ns\":7000}\r\n\n\
            {\"scenario\":\"machine\"}\n{\"scenario\":\"machine\",\"cpu\":\"B\"}\n\
            {\"scenario\":\"rtt\",\"subject\":\"ringwire\"}";
        let runs = parse("a.jsonl", text.as_bytes()).expect("two runs");
        assert_eq!(runs.len(), 2, "a machine without rows is no run");
        let machine = runs[0].machine.as_ref().expect("known");
        assert_eq!(machine.fact("Processor"), Some("A"));
        assert_eq!(machine.fact("Cores"), Some("2"));
        assert_eq!(machine.fact("Governor"), None);
        assert_eq!(runs[0].rows[0].p50_ns, Some(7000.0));
        assert_eq!(
            runs[1].rows[0],
            Row { scenario: "rtt".into(), subject: "ringwire".into(), ..Row::default() }
        );
    }

    #[test]
    fn pieces_of_a_run_are_one() {
        let machine = |rest: &str| format!("{{\"scenario\":\"machine\",\"cpu\":\"A\",{rest}}}\n");
        let row = |scenario: &str| format!("{{\"scenario\":\"{scenario}\",\"subject\":\"a\"}}\n");
        let first = machine("\"date\":\"1\",\"command\":\"run rtt\"") + &row("rtt");
        let read = |next: &str| {
            let runs = parse("a.jsonl", (first.clone() + next).as_bytes()).expect("valid");
            let rows: Vec<usize> = runs.iter().map(|run| run.rows.len()).collect();
            let machine = runs[0].machine.clone().expect("known");
            (rows, machine.fact("Command").map(str::to_owned))
        };
        let later = "\"date\":\"2\",\"command\":\"run stream\"";
        let whole = (vec![2], Some("run rtt; run stream".into()));
        assert_eq!(read(&(machine(later) + &row("stream"))), whole);
        // The same case again, or another build, is another run.
        let apart = (vec![1, 1], Some("run rtt".into()));
        assert_eq!(read(&(machine(later) + &row("rtt"))), apart);
        let built = format!("{later},\"commit\":\"b\"");
        assert_eq!(read(&(machine(&built) + &row("stream"))), apart);
    }

    #[test]
    fn congestion_control_of_peers_is_told_beside_ours() {
        let line = "{\"scenario\":\"machine\",\"congestion_control\":\"reno\",\
                    \"congestion_control_system\":\"bbr\"}\n\
                    {\"scenario\":\"x\",\"subject\":\"y\"}";
        let runs = parse("a.jsonl", line.as_bytes()).expect("a run");
        let machine = runs[0].machine.as_ref().expect("told");
        assert_eq!(machine.fact("TCP congestion control"), Some("reno"));
        assert_eq!(machine.fact("TCP congestion control, system's"), Some("bbr"));
    }

    #[test]
    fn rows_without_a_machine_are_a_run() {
        let runs = parse("a.jsonl", b"{\"scenario\":\"x\",\"subject\":\"y\"}").expect("a run");
        assert!(runs[0].machine.is_none());
    }

    #[test]
    fn unknown_keys_are_ignored_and_known_ones_read() {
        let line = format!(
            "{{\"scenario\":\"paced\",\"subject\":\"a\",\"later\":{{\"x\":[1]}},\
             \"series\":{{\"points\":[[0.1,1,2,3]],\"outliers\":[[0.1,3]],\"more\":1}},\
             \"by_round\":[{{\"p50_ns\":7,\"p99_ns\":null,\"later\":1}}],\
             \"histogram_v2\":\"{}\"}}",
            encode(&sample(1, 100))
        );
        let runs = parse("a.jsonl", line.as_bytes()).expect("a run");
        let row = &runs[0].rows[0];
        assert_eq!(row.histogram.as_ref().expect("it has one").len(), 100);
        let series = row.series.as_ref().expect("it has one");
        assert_eq!(series.points, [[0.1, 1.0, 2.0, 3.0]]);
        assert_eq!(series.outliers, [[0.1, 3.0]]);
        let one = OfRound { p50_ns: Some(7.0), ..OfRound::default() };
        assert_eq!(row.by_round, Some(vec![one]));
    }

    /// Older files have medians of the rounds under the same keys.
    #[test]
    fn tails_are_those_of_all_rounds() {
        let all = sample(1, 20_000);
        let line = |rest: &str| {
            format!(
                "{{\"scenario\":\"rtt\",\"subject\":\"a\",\"p99_ns\":7,\"p99_9_ns\":8,\
                 \"p99_99_ns\":9,\"max_ns\":10{rest}}}"
            )
        };
        let of = |text: String| {
            let runs = parse("a.jsonl", text.as_bytes()).expect("a run");
            let row = &runs[0].rows[0];
            [row.p99_ns, row.p99_9_ns, row.p99_99_ns, row.max_ns].map(|ns| ns.expect("given"))
        };
        assert_eq!(of(line("")), [7.0, 8.0, 9.0, 10.0]);
        let at = |quantile| all.value_at_quantile(quantile) as f64;
        let found = of(line(&format!(",\"histogram_v2\":\"{}\"", encode(&all))));
        assert_eq!(found, [7.0, at(0.999), at(0.9999), at(1.0)]);
    }

    #[test]
    fn goals_that_a_run_has_judged_are_no_rows() {
        let row = "{\"scenario\":\"rtt\",\"subject\":\"a\"}\n";
        let verdict = "{\"scenario\":\"verdict\",\"subject\":\"a\",\"of\":\"rtt\",\"ratio\":1.5,\
            \"relation\":\">=\",\"bound\":1.2,\"outcome\":\"met\",\"noisy\":true,\"later\":1}\n";
        let runs = parse("a.jsonl", (row.to_owned() + verdict).as_bytes()).expect("a run");
        assert_eq!((runs[0].rows.len(), runs[0].told.len()), (1, 1));
        let told = &runs[0].told[0];
        assert_eq!((told.ratio, told.bound, told.noisy), (Some(1.5), 1.2, true));
        assert_eq!((told.relation, told.outcome), (Relation::AtLeast, Outcome::Met));
        fails(verdict, "no results");
        fails(&verdict.replace("1.5", "-1"), "ratio is not from 0 to 1e18");
        fails(&verdict.replace("\"met\"", "\"won\""), "unknown variant `won`");
        fails(&(row.to_owned() + verdict).repeat(ROWS_MAX), "a.jsonl:2001: more than 2000 rows");
    }

    #[test]
    fn errors_name_file_line_and_column() {
        let good = "{\"scenario\":\"rtt\",\"subject\":\"a\"}\n";
        fails(
            &format!("{good}\n{{\"scenario\":"),
            "a.jsonl:3: cut short or not JSON: EOF while parsing a value (column 12)",
        );
        fails("{\"scen", "a.jsonl:1: cut short or not JSON: EOF while parsing a string");
        fails(&format!("{good}nonsense"), "a.jsonl:2: not JSON: expected ident (column 2)");
        fails(&format!("nonsense\n{good}"), "a.jsonl:1: not JSON: expected ident (column 2)");
        let none =
            "a.md: holds no JSON lines: a record's .jsonl is wanted, as ringwire bench --json";
        for other in [&b"\n# Title\n\nText.\n"[..], b"\x7fELF\0\xff\n\0", b"<html>"] {
            let error = parse("a.md", other).expect_err("no record").to_string();
            assert!(error.starts_with(none), "{error}");
        }
        fails("[1]", "a.jsonl:1: invalid type: sequence, expected a map");
        let row = |rest: &str| format!("{{\"scenario\":\"rtt\",\"subject\":\"a\",{rest}}}");
        fails(&row("\"p50_ns\":\"fast\""), "a.jsonl:1: invalid type: string \"fast\"");
        fails(&row("\"p50_ns\":-1"), "p50_ns: -1e0 is not from 0 to 1e18");
        fails(&row("\"p50_ns\":1e999"), "number out of range");
        fails(&row("\"max_ns\":1e19"), "max_ns: 1e19");
        fails(&row("\"payload_bytes\":-1"), "invalid value");
        fails(&row("\"p50_ns_low\":2,\"p50_ns_high\":1"), "above the highest");
        fails(&row("\"series\":{\"points\":[[1,2,3]]}"), "expected an array of length 4");
        fails(&row("\"series\":{\"points\":[[1,2,3,-4]]}"), "series: -4e0");
        fails(&row("\"by_round\":[{\"p99_ns\":-4}]"), "by_round: -4e0");
        fails(&row("\"series\":7"), "a.jsonl:1: invalid type: integer `7`");
        fails(&row("\"histogram_v2\":\"AAAA\""), "a.jsonl:1: histogram_v2: not a V2 histogram");
        fails(&row("\"p50_ns\":1,\"p50_ns\":2"), "duplicate field");
        fails("{\"subject\":\"a\"}", "no `scenario`");
        fails("{\"scenario\":\"rtt\",\"subject\":null}", "no `subject`");
        fails(
            "{\"scenario\":\"rtt\",\"subject\":7}",
            "invalid type: integer `7`, expected a string",
        );
        fails(&row(&format!("\"x\":{}", "[".repeat(100_000))), "recursion limit");
        fails("", "a.jsonl: no results");
        fails("{\"scenario\":\"machine\"}", "a.jsonl: no results");
        let error = parse("a.jsonl", b"{\"scenario\":\"\xff\"}").expect_err("not text");
        assert_eq!(error.to_string(), "a.jsonl:1: not UTF-8");
        fails(&good.repeat(ROWS_MAX + 1), "a.jsonl:2001: more than 2000 rows");
    }
}

//! The runner: cases one after the other, and in each the subjects in turn, round by round.
//!
//! A B C, C B A, A B C …: what drifts with time, or follows from who went before, evens out. Each
//! round of a subject starts from nothing: two fresh processes, fresh connections, a checked
//! answer, a warm-up, then the timed part. A subject that fails is reported with its reason; the
//! others go on. Only answers that were wrong make the run fail.

mod goal;
mod machine;
mod pair;
mod plan;
mod record;
mod table;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use ringwire::time::Nanos;
use rustix::thread::{CpuSet, sched_getaffinity};
use serde::Serialize;

use crate::drive::Failure;
use crate::job::{Case, Job, Round, Scenario};
use crate::process;
use crate::subjects::{self, OPTIONAL, Subject};
use goal::Done;
use machine::Machine;
use plan::Form;
use record::{Record, Who};

/// Untimed running before each timed part.
const WARM_UP_NS: u64 = 20_000_000;
/// Descriptors an end needs besides its connections.
const DESCRIPTORS_SPARE: usize = 64;

/// Runs subjects side by side, each as two processes on different cores.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to measure; everything when left out.
    #[arg(value_enum)]
    scenarios: Vec<Name>,

    /// `quick` takes minutes, `long` takes hours.
    #[arg(long, value_enum, default_value = "quick")]
    form: Form,

    /// Only these subjects, with commas between; a name that ends in `*` stands for all that begin
    /// so.
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,

    /// Only cases with this payload, in bytes; one that the form does not have is added to rtt and
    /// stream.
    #[arg(long)]
    payload: Option<usize>,

    /// Only cases with so many connections; as for the payload, in fan-in.
    #[arg(long)]
    connections: Option<usize>,

    /// Only paced cases of this rate; as for the payload, in paced.
    #[arg(long)]
    rate: Option<u32>,

    /// Rounds of each subject; best odd. The form's when left out.
    #[arg(long)]
    rounds: Option<usize>,

    /// Seconds of the timed part of a round; the form's when left out.
    #[arg(long)]
    duration: Option<f64>,

    /// Cores of the server's process, with commas between; one of its own when left out.
    #[arg(long, value_delimiter = ',')]
    server_cores: Vec<usize>,

    /// Cores of the client's process.
    #[arg(long, value_delimiter = ',')]
    client_cores: Vec<usize>,

    /// Appends results as JSON lines to a file.
    #[arg(long)]
    json: Option<PathBuf>,

    /// Appends the tables to a file, too.
    #[arg(long)]
    text: Option<PathBuf>,

    /// Why a feature is not in this build, as FEATURE=REASON; once for each.
    #[arg(long)]
    skipped: Vec<String>,
}

/// A scenario's name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    Rtt,
    Stream,
    Paced,
    FanIn,
}

/// The cores of the two ends.
#[derive(Debug)]
pub struct Cores {
    server: Vec<usize>,
    client: Vec<usize>,
    allowed: usize,
}

/// Where results go.
struct Report {
    json: Option<File>,
    text: Option<File>,
}

/// A subject of a case, its rounds so far, and why there are no more.
struct Entry {
    subject: Box<dyn Subject>,
    who: Who,
    rounds: Vec<Round>,
    failure: Option<String>,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let cores = Cores::choose(options)?;
    process::raise_descriptor_limit()?;
    let mut report = Report::open(options)?;
    let chosen: Vec<Who> = subjects::all()
        .iter()
        .map(|subject| Who::of(&**subject))
        .filter(|who| options.wants(&who.name))
        .collect();
    let machine = Machine::look(&cores, &chosen);
    report.line(&machine)?;
    report.text(&machine.text())?;

    let started = Nanos::now();
    let mut done = Vec::new();
    let mut errors = 0;
    for case in options.cases() {
        let rounds = options.rounds.unwrap_or(options.form.rounds()).max(1);
        let duration_ns = match options.duration {
            Some(seconds) => whole_ns(seconds)?,
            None => options.form.duration_ns(&case, rounds),
        };
        let records = measure(options, &cores, &case, rounds, duration_ns)?;
        for record in &records {
            report.line(record)?;
            errors += record.errors;
        }
        report.text(&table::render(&case, rounds, duration_ns as f64 / 1e9, &records))?;
        done.push(Done { case, records });
    }
    let mut text = String::new();
    for line in goal::verdicts(&done) {
        text += &format!(" {line}\n");
    }
    let seconds = Nanos::now().since(started).as_secs();
    report.text(&format!("{text} {seconds} s in all\n"))?;
    if errors > 0 {
        return Err(format!("{errors} answers were wrong or missing").into());
    }
    Ok(())
}

/// Prints every subject of this build, and what a full build has beside them.
pub fn list() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for subject in subjects::all() {
        let who = Who::of(&*subject);
        let version = who.version.unwrap_or_default();
        writeln!(out, "{:24} {:8} {:4} {version}", who.name, who.idle, who.transport)?;
    }
    for missing in missing() {
        writeln!(out, "{:24} not in this build: needs the feature {}", missing.0, missing.1)?;
    }
    Ok(())
}

/// Subjects that are not in this build, and the features they need.
fn missing() -> Vec<(&'static str, &'static str)> {
    let pairs = OPTIONAL
        .iter()
        .flat_map(|optional| optional.subjects.iter().map(|&subject| (subject, optional.feature)));
    pairs.filter(|(name, _)| subjects::find(name).is_none()).collect()
}

/// All rounds of a case.
fn measure(
    options: &Options,
    cores: &Cores,
    case: &Case,
    rounds: usize,
    duration_ns: u64,
) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::new();
    let mut entries = Vec::new();
    for subject in subjects::all() {
        let who = Who::of(&*subject);
        if !options.wants(&who.name) {
            continue;
        }
        match subject.lacks(case).or_else(|| lacks_descriptors(case)) {
            Some(reason) => records.push(Record::skipped(&who, case, format!("n/a: {reason}"))),
            None => entries.push(Entry { subject, who, rounds: Vec::new(), failure: None }),
        }
    }
    for (name, feature) in missing() {
        if options.wants(name) {
            let reason = options.reason(feature);
            records.push(Record::skipped(&Who::missing(name), case, reason));
        }
    }
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let entry = &mut entries[index];
            if entry.failure.is_some() {
                continue;
            }
            progress(&format!("{case}: {}, round {} of {rounds}", entry.who.name, round + 1));
            let job = Job {
                subject: entry.who.name.clone(),
                case: *case,
                cores: cores.client.clone(),
                warm_up_ns: WARM_UP_NS,
                duration_ns,
                address: String::new(),
                server_pid: 0,
            };
            match pair::round(&*entry.subject, job, &cores.server) {
                Ok(outcome) => {
                    entry.who.version = outcome.version.or(entry.who.version.take());
                    entry.rounds.push(outcome.round);
                }
                Err(error) => entry.failure = Some(format!("round {}: {error}", round + 1)),
            }
        }
    }
    progress("");
    let sums = entries.iter().map(|entry| match &entry.failure {
        Some(failure) => Ok(Record::skipped(&entry.who, case, format!("failed: {failure}"))),
        None => Record::sum_up(&entry.who, case, &entry.rounds),
    });
    let mut all = sums.collect::<Result<Vec<_>, _>>()?;
    all.append(&mut records);
    Ok(all)
}

/// Each process has one descriptor for each connection.
fn lacks_descriptors(case: &Case) -> Option<&'static str> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let needed = (case.sockets() + DESCRIPTORS_SPARE) as u64;
    limit.is_some_and(|limit| limit < needed).then_some("more descriptors than the hard limit")
}

/// Shows what is going on, on a terminal. Draws nothing while something is measured.
fn progress(text: &str) {
    let mut out = io::stderr().lock();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[K{text}");
        let _ = out.flush();
    }
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        self.subjects.is_empty() || self.subjects.iter().any(matches)
    }

    /// Why a feature is not in this build.
    fn reason(&self, feature: &str) -> String {
        let given = self.skipped.iter().filter_map(|text| text.split_once('='));
        let mut reasons = given.filter(|(name, _)| *name == feature).map(|(_, reason)| reason);
        reasons.next().map_or_else(|| format!("not built: feature {feature} is off"), String::from)
    }

    fn cases(&self) -> Vec<Case> {
        let scenarios: Vec<Scenario> = if self.scenarios.is_empty() {
            Scenario::ALL.into()
        } else {
            self.scenarios.iter().map(|&name| name.into()).collect()
        };
        let mut cases: Vec<Case> = Vec::new();
        for case in scenarios.into_iter().flat_map(|scenario| self.form.cases(scenario)) {
            let mut case = case;
            if let (Scenario::Rtt | Scenario::Stream, Some(bytes)) = (case.scenario, self.payload) {
                case.payload_bytes = bytes.clamp(crate::message::MESSAGE_BYTES_MIN, 16 << 20);
            }
            if let (Scenario::FanIn, Some(count)) = (case.scenario, self.connections) {
                case.connections = count.max(1);
            }
            if let (Scenario::Paced, Some(rate)) = (case.scenario, self.rate) {
                case.rate_hz = rate.clamp(1, 1_000_000);
            }
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        cases
    }
}

impl From<Name> for Scenario {
    fn from(name: Name) -> Self {
        match name {
            Name::Rtt => Self::Rtt,
            Name::Stream => Self::Stream,
            Name::Paced => Self::Paced,
            Name::FanIn => Self::FanIn,
        }
    }
}

impl Cores {
    fn choose(options: &Options) -> Result<Self, Failure> {
        let set = sched_getaffinity(None)?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect();
        let first = *allowed.first().ok_or("no core to run on")?;
        let second = allowed.get(1).copied().unwrap_or(first);
        let or = |given: &[usize], core| if given.is_empty() { vec![core] } else { given.to_vec() };
        let cores = Self {
            server: or(&options.server_cores, first),
            client: or(&options.client_cores, second),
            allowed: allowed.len(),
        };
        if cores.server.iter().any(|core| cores.client.contains(core)) {
            eprintln!("warning: the two ends share a core: spinning subjects take turns on it");
        }
        Ok(cores)
    }
}

impl Report {
    fn open(options: &Options) -> Result<Self, Failure> {
        let append = |path: &Path| {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        Ok(Self {
            json: options.json.as_deref().map(append).transpose()?,
            text: options.text.as_deref().map(append).transpose()?,
        })
    }

    /// Writes one JSON line at once, so that a run that ends early leaves what it had measured.
    fn line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        if let Some(file) = &mut self.json {
            let mut line = serde_json::to_string(value)?;
            line.push('\n');
            file.write_all(line.as_bytes())?;
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(io::stdout(), "{text}")?;
        if let Some(file) = &mut self.text {
            writeln!(file, "{text}")?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to fit")]
fn whole_ns(seconds: f64) -> Result<u64, Failure> {
    if !(0.001..=86_400.0).contains(&seconds) {
        return Err(format!("{seconds} s: from 0.001 to 86400 is expected").into());
    }
    Ok((seconds * 1e9) as u64)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Line::parse_from([&["run"], words].concat()).options
    }

    fn titles(words: &[&str]) -> Vec<String> {
        options(words).cases().iter().map(Case::to_string).collect()
    }

    #[test]
    fn options_choose_cases() {
        assert_eq!(titles(&["rtt"]), ["rtt 64 B", "rtt 64 KiB"]);
        assert_eq!(titles(&["rtt", "--payload", "256"]), ["rtt 256 B"]);
        assert_eq!(titles(&["fan-in", "--connections", "3"]), ["fan-in 64 B, 3 connections"]);
        assert_eq!(titles(&[]).len(), 7);
        assert_eq!(titles(&["--form", "long"]).len(), 21);
    }

    #[test]
    fn options_choose_subjects() {
        let options = options(&["--subjects", "raw-*,tokio", "--skipped", "nng=no cmake"]);
        assert!(options.wants("raw-spin") && options.wants("tokio"));
        assert!(!options.wants("tokio-uring"));
        assert_eq!(options.reason("nng"), "no cmake");
        assert_eq!(options.reason("zmq"), "not built: feature zmq is off");
    }

    #[test]
    fn durations_are_checked() {
        assert_eq!(whole_ns(0.1).expect("valid"), 100_000_000);
        assert!(whole_ns(0.0).is_err() && whole_ns(f64::NAN).is_err() && whole_ns(1e9).is_err());
    }
}

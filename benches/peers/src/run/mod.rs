//! The runner: cases one after the other, and in each the subjects in turn, round by round.
//!
//! A B C, C B A, A B C …: what drifts with time, or follows from who went before, evens out. Each
//! round of a subject starts from nothing: two fresh processes, fresh connections, a checked
//! answer, a warm-up, then the timed part. A subject that fails is reported with its reason; the
//! others go on. Only answers that were wrong make the run fail, and Ringwire itself when it has no
//! figures.

mod cores;
mod figure;
mod goal;
mod machine;
#[path = "../../../../src/config/nearest.rs"]
mod nearest;
mod options;
#[path = "../../../../src/cli/bench/others.rs"]
mod others;
mod pair;
#[path = "../../../../src/cli/bench/paired.rs"]
mod paired;
mod plan;
#[path = "../../../../src/cli/bench/processor.rs"]
mod processor;
mod record;
mod table;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use ringwire::time::Nanos;
use serde::Serialize;

use crate::drive::Failure;
use crate::job::{Case, Job, Round, Scenario, counted};
use crate::process;
use crate::subjects::{self, OPTIONAL, Subject};
use cores::Cores;
use goal::Done;
use machine::Machine;
use others::Others;
use plan::{Load, span};
use record::{Record, Who};

pub use figure::BULK_PAYLOAD_BYTES_MIN;
pub use options::Options;

/// Untimed running before each timed part.
const WARM_UP_NS: u64 = 20_000_000;
/// What the reason begins with where a subject should have had figures.
const FAILED: &str = "failed: ";
/// What it begins with where a feature is off.
const NOT_BUILT: &str = "not built";
/// Descriptors an end needs besides its connections.
const DESCRIPTORS_SPARE: usize = 64;

/// Where results go.
struct Report {
    json: Option<Box<dyn Write>>,
    text: Option<File>,
    tables: Box<dyn Write>,
}

/// A subject of a case, its rounds so far, and why there are no more.
struct Entry {
    subject: Box<dyn Subject>,
    who: Who,
    rounds: Vec<Round>,
    failure: Option<String>,
}

/// What is to be measured.
///
/// # Errors
///
/// What can not be done, and what to say instead. Nothing has been written or started.
pub fn cases_of(options: &Options) -> Result<Vec<Case>, Failure> {
    options.check(&cores::allowed()?)
}

/// Measures these cases.
///
/// # Errors
///
/// When an answer was wrong, Ringwire has no figures, or results can not be written.
pub fn run(options: &Options, cases: Vec<Case>) -> Result<(), Failure> {
    let allowed = cores::allowed()?;
    process::raise_descriptor_limit()?;
    let expected = foretell(options, &cases);
    // Not all of it is measured: told now, and again where the results end.
    let left_out = left_out(&cases, hard_limit());
    let missed = missed(options, &cases, &left_out);
    if options.plan {
        write!(io::stdout(), "{expected}")?;
        return blame(&[], missed);
    }
    eprint!("{expected}");
    let cores = Cores::choose(options, &allowed)?;
    let mut report = Report::open(options)?;
    let chosen: Vec<Who> = subjects::all()
        .iter()
        .map(|subject| Who::of(&**subject))
        .filter(|who| options.wants(&who.name))
        .collect();
    let machine = Machine::look(&cores, &chosen);
    report.line(&machine)?;
    report.text(&machine.text())?;

    let (started, before) = (Nanos::now(), Others::now());
    let mut done = Vec::new();
    for case in cases {
        let load = options.load(&case);
        let mut records = measure(options, &cores, &case, load)?;
        figure::compare(&case, &mut records);
        for record in &records {
            report.line(record)?;
        }
        report.text(&table::render(&case, load, &records))?;
        done.push(Done { case, records });
    }
    let verdicts = goal::verdicts(&done);
    for verdict in &verdicts {
        report.line(verdict)?;
    }
    if let Some(busy) = Others::now().since(&before) {
        report.text(&format!("{busy}\n"))?;
    }
    let took = span(Nanos::now().0.saturating_sub(started.0));
    report.text(&format!("{}\n {took} in all\n", goal::render(&verdicts)))?;
    for (case, reason) in &left_out {
        report.text(&format!("Not measured: {case}: {reason}"))?;
    }
    blame(&done, missed)
}

/// What would be measured, and how long it takes.
fn foretell(options: &Options, cases: &[Case]) -> String {
    let (mut text, mut all_ns) = (String::new(), 0);
    for case in cases {
        let (load, all) = (options.load(case), subjects::all());
        let count = all
            .iter()
            .filter(|subject| options.wants(subject.facts().name))
            .filter(|subject| subject.lacks(case).is_none())
            .count();
        if let Some(reason) = lacks_descriptors(case, hard_limit()) {
            text += &format!("{case}: not measured: {reason}\n");
            continue;
        }
        let case_ns = load.expected_ns(case, count);
        all_ns += case_ns;
        if options.plan {
            let seconds = load.duration_ns as f64 / 1e9;
            let (rounds, time) = (counted(load.rounds, "round"), span(case_ns));
            text += &format!("{case}: {count} x {rounds} of {seconds} s: {time}\n");
        }
    }
    format!("{text}expected to take {}\n", span(all_ns))
}

/// The cases that nobody can do here, and why.
fn left_out(cases: &[Case], limit: Option<u64>) -> Vec<(Case, String)> {
    let lacks = |case: &Case| Some((*case, lacks_descriptors(case, limit)?));
    cases.iter().filter_map(lacks).collect()
}

/// Those of them that were asked for by themselves: a scenario's when nothing else of it is left.
fn missed(options: &Options, cases: &[Case], left_out: &[(Case, String)]) -> Vec<String> {
    let is_left = |case: &Case| left_out.iter().all(|(other, _)| other != case);
    let is_missed = |(case, _): &&(Case, String)| {
        let mut alike = cases.iter().filter(|other| other.scenario == case.scenario);
        options.names(case.scenario) && !alike.any(is_left)
    };
    let told = |(case, reason): &(Case, String)| format!("{case}: not measured: {reason}");
    left_out.iter().filter(is_missed).map(told).collect()
}

/// What makes a run fail: what was asked for and `missed`, wrong answers of anybody, and Ringwire
/// without figures. A peer that fails is reported, and no more.
fn blame(done: &[Done], missed: Vec<String>) -> Result<(), Failure> {
    let mut blame = missed;
    for Done { case, records } in done {
        for record in records {
            let subject = &record.subject;
            if record.errors > 0 {
                let wrong = counted(usize::try_from(record.errors)?, "wrong answer");
                blame.push(format!("{case}: {wrong} of {subject}"));
            }
            if let Some(reason) = &record.skipped
                && record.role == "ringwire"
                && reason.starts_with(FAILED)
            {
                blame.push(format!("{case}: {subject} {reason}"));
            }
        }
    }
    if blame.is_empty() { Ok(()) } else { Err(blame.join("\n").into()) }
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
    Load { rounds, duration_ns }: Load,
) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::new();
    let mut entries = Vec::new();
    for subject in subjects::all() {
        let who = Who::of(&*subject);
        if !options.wants(&who.name) {
            continue;
        }
        let reason = subject.lacks(case).map(str::to_owned);
        match reason.or_else(|| lacks_descriptors(case, hard_limit())) {
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
    let mut all = Vec::new();
    for entry in &entries {
        all.append(&mut entry.sum_up(case)?);
    }
    all.append(&mut records);
    Ok(all)
}

impl Entry {
    /// What the rounds say, as far as there are any, and why there are no more.
    fn sum_up(&self, case: &Case) -> Result<Vec<Record>, Failure> {
        let mut records = Vec::new();
        if !self.rounds.is_empty() {
            records.push(Record::sum_up(&self.who, case, &self.rounds)?);
        }
        if let Some(failure) = &self.failure {
            let before = match self.rounds.len() {
                0 => String::new(),
                count => format!("; its figures are of the {count} before"),
            };
            let reason = format!("{FAILED}{failure}{before}");
            records.push(Record::skipped(&self.who, case, reason));
        }
        Ok(records)
    }
}

/// Each process has one descriptor for each connection.
fn lacks_descriptors(case: &Case, limit: Option<u64>) -> Option<String> {
    let (needed, spare) = ((case.sockets() + DESCRIPTORS_SPARE) as u64, DESCRIPTORS_SPARE as u64);
    let limit = limit.filter(|&limit| limit < needed)?;
    let fewer = match limit.saturating_sub(spare) {
        most @ 1.. if case.scenario == Scenario::FanIn => {
            format!(", or take --connections {most} at most")
        }
        _ => String::new(),
    };
    Some(format!(
        "a process needs {needed} descriptors and the hard limit is {limit}: raise it \
         (ulimit -n {needed}, as root){fewer}"
    ))
}

/// The descriptors that a process may have; `None` without a limit.
fn hard_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}

/// Shows what is going on, on a terminal. Draws nothing while something is measured.
fn progress(text: &str) {
    let mut out = io::stderr().lock();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[K{text}");
        let _ = out.flush();
    }
}

impl Report {
    fn open(options: &Options) -> Result<Self, Failure> {
        let append = |path: &Path| {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        let text = options.text.as_deref().map(append).transpose()?;
        let (json, tables): (Option<Box<dyn Write>>, Box<dyn Write>) = match &options.json {
            None => (None, Box::new(io::stdout())),
            Some(path) if path == Path::new("-") => {
                (Some(Box::new(io::stdout())), Box::new(io::stderr()))
            }
            Some(path) => (Some(Box::new(append(path)?)), Box::new(io::stdout())),
        };
        Ok(Self { json, text, tables })
    }

    /// Writes one JSON line at once, so that a run that ends early leaves what it had measured.
    fn line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        if let Some(lines) = &mut self.json {
            let mut line = serde_json::to_string(value)?;
            line.push('\n');
            lines.write_all(line.as_bytes())?;
            lines.flush()?;
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.tables, "{text}")?;
        if let Some(file) = &mut self.text {
            writeln!(file, "{text}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::figure::tests::{CASE, record};
    use super::options::tests::options;
    use super::*;
    use crate::subjects::Role;

    #[test]
    fn run_fails_by_wrong_answers_and_by_ringwire() {
        let failed = |name: &str, role| Record {
            skipped: Some("failed: round 1: killed".into()),
            ..record(name, "park", role, 1, 1.0)
        };
        let of = |records| {
            blame(&[Done { case: CASE, records }], Vec::new()).err().map(|e| e.to_string())
        };
        assert_eq!(of(vec![failed("tokio", Role::Peer), failed("raw-spin", Role::Floor)]), None);
        let told = of(vec![failed("ringwire-park", Role::Ringwire)]).expect("it is ours");
        assert_eq!(told, "rtt 64 B: ringwire-park failed: round 1: killed");
        let absent = Record {
            skipped: Some("n/a: fan-in is measured over TCP".into()),
            ..failed("ringwire-spin-unix", Role::Ringwire)
        };
        assert_eq!(of(vec![absent]), None);
        let wrong = Record { errors: 3, ..record("tokio", "park", Role::Peer, 1, 1.0) };
        assert_eq!(of(vec![wrong]).expect("wrong"), "rtt 64 B: 3 wrong answers of tokio");
    }

    #[test]
    fn round_that_fails_leaves_those_before_it() {
        let subject = subjects::find("raw-spin").expect("always there");
        let who = Who::of(&*subject);
        let round = Round {
            counts: Some(vec![(1_000, 10)]),
            frames: 20,
            elapsed_ns: 10_000,
            ..Round::default()
        };
        let mut entry = Entry { subject, who, rounds: vec![round; 2], failure: None };
        let told = |entry: &Entry| {
            let records = entry.sum_up(&CASE).expect("sums up");
            let told = |record: Record| (record.rounds, record.samples, record.skipped);
            records.into_iter().map(told).collect::<Vec<_>>()
        };
        let figures = (2, 20, None);
        assert_eq!(told(&entry), vec![figures.clone()]);
        entry.failure = Some("round 3: killed".into());
        let reason = "failed: round 3: killed; its figures are of the 2 before";
        assert_eq!(told(&entry), [figures, (0, 0, Some(reason.into()))]);
        entry.rounds.clear();
        assert_eq!(told(&entry), [(0, 0, Some("failed: round 3: killed".into()))]);
    }

    #[test]
    fn case_beyond_the_limit_of_descriptors_says_what_to_do() {
        let of = |words: &[&str], limit: u64| {
            let options = options(words);
            let cases = options.check(&[0]).expect("valid");
            let left_out = left_out(&cases, Some(limit));
            let reasons = left_out.iter().map(|(case, reason)| format!("{case}: {reason}"));
            (reasons.collect::<Vec<_>>(), missed(&options, &cases, &left_out).len())
        };
        let told = "fan-in 64 B, 128 connections: a process needs 192 descriptors and the hard \
                    limit is 191: raise it (ulimit -n 192, as root), or take --connections 127 \
                    at most";
        assert_eq!(of(&["fan-in"], 191), (vec![told.into()], 1));
        assert_eq!(of(&["fan-in"], 192), (Vec::new(), 0));
        // Of the form, which nobody has asked for by its name.
        assert_eq!(of(&[], 191), (vec![told.into()], 0));
        assert_eq!(of(&["rtt", "fan-in"], 191), (vec![told.into()], 1));
        assert_eq!(of(&["--connections", "128"], 191), (vec![told.into()], 1));
        let (reasons, missed) = of(&["fan-in", "--form", "long"], 191);
        assert_eq!((reasons.len(), missed), (3, 0), "1 and 16 connections are measured");
        let (reasons, _) = of(&["rtt", "--payload", "64"], 64);
        let told = "rtt 64 B: a process needs 65 descriptors and the hard limit is 64: raise it \
                    (ulimit -n 65, as root)";
        assert_eq!(reasons, [told]);
    }

    #[test]
    fn plan_says_what_each_case_takes() {
        let words =
            ["--plan", "--form", "long", "paced", "--subjects", "raw-spin", "--rate", "1000"];
        let options = options(&words);
        let cases = options.check(&[0]).expect("valid");
        let text = foretell(&options, &cases);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let first = "paced 64 B, 1000 a second: 1 x 11 rounds of 90.91 s: 16 min 41 s";
        assert_eq!(lines[0], first);
        assert_eq!(lines[2], "expected to take 33 min 22 s");
        let words = ["--plan", "fan-in", "--connections", "1", "--rounds", "1"];
        let options = options::tests::options(&words);
        let text = foretell(&options, &options.check(&[0]).expect("valid"));
        assert!(text.starts_with("fan-in 64 B, 1 connection: "), "{text}");
        assert!(text.contains(" x 1 round of "), "{text}");
    }
}

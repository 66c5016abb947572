//! `ringwire bench`: the library beside what the same machine does over raw sockets.
//!
//! ```text
//! options  the command line               socket   round trips over sockets: the floor of rtt
//! plan     what is measured               crowd    the same over many connections (epoll)
//! harness  rounds, order, deadlines       duplex   the same at a rate, with a stream beside
//! round    what a round measured          framing  the bare framing loop: the floor of stream
//! summary  medians, the JSON lines        raw      bulk bytes without frames
//! series   latency in the course of time  link     a socket that waits as the idle strategy says
//! goal     what ringwire is held to       ring     ringwire itself: both ends, and streams
//! table    what people read               trips    its round trips, over one session and many
//! machine  where it was measured          cores    the same to a server of several reactors
//! paced    what is due when               session  requests at a rate, with a stream beside
//! failover links that are cut             silence  sessions that have nothing to say
//! others   who else ran meanwhile         shown    what reports know of all this
//! paired   ratios of rounds
//! ```
//!
//! Every subject does the same work: the same bytes on the wire, over TCP on 127.0.0.1, between
//! two threads pinned to two cores. The subjects take turns round by round, in alternating order,
//! because a shared machine drifts by more than what is to be seen. Every wait has a deadline.
//!
//! It does not measure a network, nor processes that share nothing, nor (but in `cores`) more than
//! two threads.

pub(super) mod clock;
mod cores;
mod crowd;
mod duplex;
mod failover;
mod framing;
mod goal;
mod harness;
mod link;
mod machine;
mod options;
mod others;
mod paced;
mod paired;
mod plan;
mod processor;
mod raw;
mod ring;
mod round;
mod series;
mod session;
pub(super) mod shown;
mod silence;
mod socket;
mod stream;
mod summary;
mod table;
mod trips;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use ringwire::config::{Config, Idle};
use serde::Serialize;

pub(super) use harness::{BenchError, choose_cores, pin};
pub(super) use options::Options;
pub(super) use plan::Cores;
pub(super) use round::latency_histogram;

use crate::cli::report::Folder;
use crate::cli::{CommandError, Settings};
use harness::Progress;
use others::Others;
use plan::Suite;
use summary::Record;

/// Where results go: a table for people, and JSON lines when asked for.
struct Report {
    lines: Option<(Box<dyn Write>, String)>,
    /// Where the page goes, and the lines it will be made of.
    page: Option<(Folder, String)>,
    /// Whether standard output is taken by the JSON lines.
    table_to_stderr: bool,
}

/// What a round trip of 64 bytes costs at least on this machine: over plain sockets. Takes a tenth
/// longer than `duration`.
pub(super) fn floor(
    config: &Config,
    cores: Cores,
    idle: Idle,
    duration: Duration,
) -> io::Result<Histogram<u64>> {
    let case = plan::Case {
        scenario: options::Scenario::Rtt,
        payload_bytes: 64,
        idle,
        connections: 1,
        beside: plan::Beside::Floors,
        delivery: options::Delivery::BestEffort,
        period: None,
        bulk: plan::Bulk::Nothing,
        busy: 0,
        reactors: 1,
    };
    let plan = plan::Plan {
        case,
        rounds: 1,
        duration,
        spin: Duration::ZERO,
        cores,
        config: config.clone(),
        settings: Config::builder(),
        variants: std::sync::Arc::new([]),
    };
    // It pins the threads it runs on: not the caller's.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            pin(cores.client);
            harness::Subject::round(&socket::Socket, &plan)
        })?;
        let round = thread.join().map_err(|_| io::Error::other("a thread panicked"))?;
        let round = round.map_err(|error| io::Error::other(error.to_string()))?;
        round.latency.ok_or_else(|| io::Error::other("no round trip was timed"))
    })
}

/// Runs `ringwire bench`.
pub(super) fn run(options: &Options, settings: Settings) -> Result<(), CommandError> {
    let cores = choose_cores()?;
    let mut suite = Suite::new(options, settings, cores)?;
    let mut report = Report::open(options.json.as_deref(), options.report.as_deref())?;
    let machine = machine::Machine::look(&suite);
    warn_about(&machine, &suite);
    if let Err(error) = harness::raise_descriptor_limit(suite.connections_max()) {
        if !suite.make_do_with(harness::connections_allowed()) {
            return Err(error.into());
        }
        let connections = suite.connections_max();
        eprintln!("warning: {error}; at most {connections} are measured");
        harness::raise_descriptor_limit(connections)?;
    }

    report.line(&machine)?;
    report.text(&machine.to_string())?;
    let before = Others::now();
    let progress = Progress::new(&suite);
    let mut rows: Vec<Record> = Vec::new();
    for plan in &suite.plans {
        let measured = harness::measure(plan, &progress)?;
        for one in &measured {
            report.line(&one.record)?;
        }
        let table = table::render(plan, &measured);
        progress.suspend(|| report.text(&table))?;
        rows.extend(measured.into_iter().map(|one| one.record));
    }
    progress.finish();
    if let Some(busy) = Others::now().since(&before) {
        report.text(&format!("{busy}\n"))?;
    }
    let errors: u64 = rows.iter().map(|row| row.errors).sum();
    report.page()?;
    if errors > 0 {
        return Err(BenchError::WrongAnswers { errors }.into());
    }
    Ok(())
}

/// Says what makes the figures worth less, before minutes are spent on them.
fn warn_about(machine: &machine::Machine, suite: &Suite) {
    if cfg!(debug_assertions) {
        eprintln!("warning: debug build: these figures mean little; use cargo run --release");
    }
    if machine.cores_allowed < 2 {
        eprintln!(
            "warning: one core for both ends: they take turns on it, and spin runs as adaptive"
        );
    }
    if suite.plans.iter().any(|plan| plan.rounds.is_multiple_of(2)) {
        eprintln!("warning: an even number of rounds: medians lie between two rounds");
    }
}

impl Report {
    fn open(json: Option<&Path>, folder: Option<&Path>) -> Result<Self, CommandError> {
        let folder = folder.map(Folder::create).transpose()?;
        let page = folder.map(|folder| (folder, String::new()));
        let Some(path) = json else {
            return Ok(Self { lines: None, page, table_to_stderr: false });
        };
        if path == Path::new("-") {
            let lines = Some((Box::new(io::stdout()) as Box<dyn Write>, "standard output".into()));
            return Ok(Self { lines, page, table_to_stderr: true });
        }
        let name = path.display().to_string();
        let file = File::create(path)
            .map_err(|source| CommandError::Output { what: name.clone(), source })?;
        Ok(Self { lines: Some((Box::new(file), name)), page, table_to_stderr: false })
    }

    /// Writes one JSON line at once, so that a run that fails later leaves what it had measured.
    fn line(&mut self, value: &impl Serialize) -> Result<(), CommandError> {
        let mut line = serde_json::to_string(value).expect("records hold strings and numbers");
        line.push('\n');
        if let Some((_, lines)) = &mut self.page {
            *lines += &line;
        }
        let Some((writer, name)) = &mut self.lines else {
            return Ok(());
        };
        writer
            .write_all(line.as_bytes())
            .and_then(|()| writer.flush())
            .map_err(|source| CommandError::Output { what: name.clone(), source })
    }

    /// Makes the page of all lines, where one was asked for.
    fn page(&mut self) -> Result<(), CommandError> {
        let Some((folder, lines)) = self.page.take() else {
            return Ok(());
        };
        let page = folder.write(&lines)?;
        self.text(&format!("Report: {}", page.display()))
    }

    /// Writes something for people.
    fn text(&mut self, text: &str) -> Result<(), CommandError> {
        let (result, name) = if self.table_to_stderr {
            (writeln!(io::stderr(), "{text}"), "standard error")
        } else {
            (writeln!(io::stdout(), "{text}"), "standard output")
        };
        result.map_err(|source| CommandError::Output { what: name.into(), source })
    }
}

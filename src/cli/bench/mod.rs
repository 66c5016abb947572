//! `ringwire bench`: the library beside what the same machine does over raw sockets.
//!
//! ```text
//! plan     what is measured               socket   round trips over sockets: the floor of rtt
//! harness  rounds, order, deadlines       crowd    the same over many connections (epoll)
//! summary  medians, the JSON lines        framing  the bare framing loop: the floor of stream
//! goal     what ringwire is held to       raw      bulk bytes without frames
//! table    what people read               ring     ringwire itself: client and server
//! failover links that are cut
//! machine  where it was measured          link     a socket that waits as the idle strategy says
//! ```
//!
//! Every subject does the same work: the same bytes on the wire, over TCP on 127.0.0.1, between
//! two threads pinned to two cores. The subjects take turns round by round, in alternating order,
//! because a shared machine drifts by more than what is to be seen. Every wait has a deadline.
//!
//! It does not measure a network, nor more than two threads, nor paced load: latencies are those
//! of a closed loop.

mod crowd;
mod failover;
mod framing;
mod goal;
mod harness;
mod link;
mod machine;
mod plan;
mod raw;
mod ring;
mod socket;
mod stream;
mod summary;
mod table;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use ringwire::config::{Config, Idle};
use serde::Serialize;

pub(super) use harness::{BenchError, choose_cores, latency_histogram, pin};
pub(super) use plan::{Cores, Options};

use crate::cli::{CommandError, Settings};
use harness::Progress;
use plan::Suite;

/// Where results go: a table for people, and JSON lines when asked for.
struct Report {
    lines: Option<(Box<dyn Write>, String)>,
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
        scenario: plan::Scenario::Rtt,
        payload_bytes: 64,
        idle,
        connections: 1,
        beside: plan::Beside::Floors,
    };
    let plan = plan::Plan {
        case,
        duration,
        spin: Duration::ZERO,
        cores,
        config: config.clone(),
        settings: Config::builder(),
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
    let mut report = Report::open(options.json.as_deref())?;
    let machine = machine::Machine::look(&suite);
    warn_about(&machine, &suite);
    if let Err(error) = harness::raise_descriptor_limit(suite.connections_max()) {
        if !suite.leave_out_many() {
            return Err(error.into());
        }
        eprintln!("warning: {error}; left out");
    }

    report.line(&machine)?;
    report.text(&machine.to_string())?;
    let progress = Progress::new(&suite);
    let mut errors = 0;
    for plan in &suite.plans {
        let measured = harness::measure(plan, suite.rounds, &progress)?;
        for one in &measured {
            report.line(&one.record)?;
            errors += one.record.errors;
        }
        let table = table::render(plan, suite.rounds, &measured);
        progress.suspend(|| report.text(&table))?;
    }
    progress.finish();
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
    if suite.rounds.is_multiple_of(2) {
        eprintln!("warning: an even number of rounds: medians lie between two rounds");
    }
}

impl Report {
    fn open(json: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) = json else {
            return Ok(Self { lines: None, table_to_stderr: false });
        };
        if path == Path::new("-") {
            let lines = Some((Box::new(io::stdout()) as Box<dyn Write>, "standard output".into()));
            return Ok(Self { lines, table_to_stderr: true });
        }
        let name = path.display().to_string();
        let file = File::create(path)
            .map_err(|source| CommandError::Output { what: name.clone(), source })?;
        Ok(Self { lines: Some((Box::new(file), name)), table_to_stderr: false })
    }

    /// Writes one JSON line at once, so that a run that fails later leaves what it had measured.
    fn line(&mut self, value: &impl Serialize) -> Result<(), CommandError> {
        let Some((writer, name)) = &mut self.lines else {
            return Ok(());
        };
        let mut line = serde_json::to_string(value).expect("records hold strings and numbers");
        line.push('\n');
        writer
            .write_all(line.as_bytes())
            .and_then(|()| writer.flush())
            .map_err(|source| CommandError::Output { what: name.clone(), source })
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

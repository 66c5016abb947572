//! `ringwire stat`: what a node has done so far, read from its registry: as a table, as JSON lines,
//! or as histograms for other tools. The node does not notice.
//!
//! Exit code 1 when there is no registry of that kind, or none of those that are meant can be read.

mod json;
mod table;

pub(super) use self::table::{amount, cut, is_timed, peer, time};

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ringwire::stats::{RegistryError, WriterState, hgrm, log_header, log_line, remove_abandoned};
use ringwire::{Config, Nanos, Snapshot};

use crate::cli::CommandError;
use crate::cli::attach::{Change, Found, Selection, printable, warnings};
use crate::cli::options::parse_seconds;
use crate::cli::show::counted;

/// Look at running nodes, and at what dead ones left behind.
///
/// Without WHO a line for each node; with WHO, or when there is only one, everything about it:
/// sessions, lanes, drops, latencies, stalls. Nodes of other users are not seen.
///
/// Exit code 0 when something was shown, also when standard error names files beside it that can
/// not be read; 1 when nothing was found or nothing can be read, or with --clean a file could be
/// neither kept nor removed with certainty; 2 for a senseless command line.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ringwire stat
  ringwire stat drive-7 --watch
  ringwire stat drive-7 --json | jq .statistics.messages_received
  ringwire stat drive-7 --hgrm request_round_trip > round_trip.hgrm")]
pub(crate) struct StatOptions {
    #[command(flatten)]
    selection: Selection,

    /// Print JSON, a line for each node.
    #[arg(long)]
    json: bool,

    /// Print again every so many seconds, with rates, until it is interrupted. A number behind it
    /// are the seconds, never a process id.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = parse_watch)]
    watch: Option<Watch>,

    /// Everything about each node, also when there are several.
    #[arg(long, conflicts_with = "json")]
    all: bool,

    /// Print one histogram as a percentile distribution (.hgrm), in microseconds.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["json", "all", "watch"],
          value_parser = histogram_parser())]
    hgrm: Option<String>,

    /// Print all histograms as a HdrHistogram log, V2; with --watch what each interval adds, until
    /// the node has ended.
    #[arg(long, conflicts_with_all = ["json", "all", "hgrm"])]
    hlog: bool,

    /// Remove the registries of processes that have ended; with WHO only those that are meant.
    #[arg(long, conflicts_with_all = ["json", "all", "hgrm", "hlog", "watch"])]
    clean: bool,
}

/// What follows `--watch`: seconds, or already WHO.
#[derive(Debug, Clone)]
struct Watch {
    every: Duration,
    who: Option<String>,
}

/// What is a number are seconds.
fn parse_watch(text: &str) -> Result<Watch, String> {
    match text.parse::<f64>() {
        Ok(_) => Ok(Watch { every: parse_seconds(text)?, who: None }),
        Err(_) => Ok(Watch { every: Duration::from_secs(1), who: Some(text.into()) }),
    }
}

impl StatOptions {
    /// With WHO where it belongs, also when it stood behind `--watch`.
    fn settled(&self) -> Result<Self, CommandError> {
        let mut options = self.clone();
        if let Some(who) = options.watch.as_mut().and_then(|watch| watch.who.take())
            && let Some(other) = options.selection.who.replace(who.clone())
        {
            let text = format!("--watch takes seconds, not {who}: {other} is meant already");
            return Err(CommandError::Usage(text));
        }
        Ok(options)
    }
}

fn histogram_parser() -> clap::builder::PossibleValuesParser {
    Snapshot::histogram_names().map(|(name, _)| name).collect::<Vec<_>>().into()
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatFailure {
    /// No file, or none that is meant.
    #[error("{}", nothing(.0))]
    Nothing(Selection),
    /// There are several.
    #[error("{} are meant: name one of them", counted(*.0 as u64, "node"))]
    Several(usize),
    /// There are files, and they can not be read.
    #[error("nothing can be read")]
    NoneReadable,
    /// The one there is can not be read.
    #[error(transparent)]
    Unreadable(RegistryError),
}

fn nothing(selection: &Selection) -> String {
    let mut text = match &selection.who {
        Some(who) => format!("no node is called {who}, nor has that number"),
        None => "no node runs that this user may look at".into(),
    };
    text += "; registries are looked for in";
    let standard = ringwire::stats::directories();
    let places = if selection.directories.is_empty() { &standard } else { &selection.directories };
    for (index, place) in places.iter().enumerate() {
        text += if index == 0 { " " } else { ", " };
        text += &place.display().to_string();
    }
    text
}

impl StatOptions {
    /// With the places that a configuration names, unless options do.
    pub(crate) fn within(mut self, config: &Config) -> Self {
        self.selection = self.selection.or_in(config.registry_directory());
        self
    }
}

/// Runs `ringwire stat`.
pub(crate) fn run(options: &StatOptions) -> Result<ExitCode, CommandError> {
    let options = &options.settled()?;
    if options.clean {
        return clean(&options.selection);
    }
    if let Some(name) = &options.hgrm {
        let snapshot = only(options.selection.read(), &options.selection)?;
        let reading = snapshot.histogram(name).expect("the option takes only its names");
        return print(&hgrm(&reading));
    }
    if options.hlog {
        return log(options);
    }
    let mut before: Vec<Snapshot> = Vec::new();
    let mut has_said = false;
    let mut warned = Vec::new();
    loop {
        let found = options.selection.read();
        if options.json && options.watch.is_some() && found.snapshots.is_empty() && !has_said {
            // Standard output has lines of JSON alone.
            eprint!("{}", waiting(options));
            has_said = true;
        }
        has_said &= found.snapshots.is_empty();
        let now = warnings(&found.failures);
        // Once, and again when something else is wrong: not with every picture.
        if now != warned {
            now.iter().for_each(|warning| eprintln!("warning: {}", printable(warning)));
            warned = now;
        }
        let text = text(options, &found, &before)?;
        let clears = options.watch.is_some() && !options.json && io::stdout().is_terminal();
        // As `clear` does: home, and away with the rest.
        print(&if clears { format!("\x1b[H\x1b[2J{text}") } else { text })?;
        let Some(watch) = &options.watch else {
            return Ok(ExitCode::SUCCESS);
        };
        before = found.snapshots;
        wait(watch.every);
    }
}

/// Waits without looking at anything.
fn wait(time: Duration) {
    let until = Nanos::now() + time;
    loop {
        let left = until.since(Nanos::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

fn text(options: &StatOptions, found: &Found, before: &[Snapshot]) -> Result<String, CommandError> {
    if found.snapshots.is_empty() && !found.failures.is_empty() && options.watch.is_none() {
        // Said just now.
        return Err(StatFailure::NoneReadable.into());
    }
    if found.snapshots.is_empty() && options.watch.is_none() {
        return Err(StatFailure::Nothing(options.selection.clone()).into());
    }
    if found.snapshots.is_empty() && !options.json {
        return Ok(waiting(options));
    }
    let views = found.snapshots.iter().map(|snapshot| {
        (snapshot, before.iter().find_map(|before| Change::between(before, snapshot)))
    });
    if options.json {
        return Ok(views.map(|(snapshot, change)| json::line(snapshot, change.as_ref())).collect());
    }
    let is_one = found.snapshots.len() == 1 || options.all;
    if is_one {
        let nodes: Vec<_> =
            views.map(|(snapshot, change)| table::node(snapshot, change.as_ref())).collect();
        return Ok(nodes.join("\n"));
    }
    Ok(table::nodes(&views.collect::<Vec<_>>()))
}

/// Everything about a node, as it is printed.
#[cfg(test)]
pub(super) fn of_node(snapshot: &Snapshot) -> String {
    table::node(snapshot, None)
}

fn waiting(options: &StatOptions) -> String {
    let who = options.selection.who.as_deref().unwrap_or("a node");
    format!("waiting for {}\n", printable(who))
}

/// The one registry that is meant.
fn only(mut found: Found, selection: &Selection) -> Result<Snapshot, StatFailure> {
    match (found.snapshots.len(), found.failures.pop()) {
        (1, _) => Ok(found.snapshots.remove(0)),
        (0, Some(failure)) => Err(StatFailure::Unreadable(failure)),
        (0, None) => Err(StatFailure::Nothing(selection.clone())),
        (several, _) => Err(StatFailure::Several(several)),
    }
}

/// Prints the histograms as a log: one interval, or one for each tick. Of one node, whoever comes
/// and goes beside it, and whatever takes its place.
fn log(options: &StatOptions) -> Result<ExitCode, CommandError> {
    let mut before = only(options.selection.read(), &options.selection)?;
    let start = before.created;
    print(&log_header(before.created_wall_ns))?;
    let Some(watch) = options.watch.as_ref().filter(|_| !is_over(&before)) else {
        let length = told_until(&before).since(start).as_secs_f64();
        let lines: String = Snapshot::histogram_names()
            .map(|(name, _)| {
                log_line(name, 0.0, length, &before.histogram(name).expect("its own name"))
            })
            .collect();
        return print(&lines);
    };
    loop {
        wait(watch.every);
        let after = match Snapshot::from_file(&before.path) {
            Ok(after) if after.created == before.created => after,
            // It has ended in order, and its registry with it; or that was removed, or its name is
            // another's by now, as in a container, where process ids come again.
            Ok(_) | Err(RegistryError::BeingCreated { .. }) => return Ok(ExitCode::SUCCESS),
            Err(RegistryError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(failure) => return Err(StatFailure::Unreadable(failure).into()),
        };
        let from = before.taken.since(start).as_secs_f64();
        let length = after.taken.since(before.taken).as_secs_f64();
        let lines: String = Snapshot::histogram_names()
            .map(|(name, _)| {
                let [old, new] = [&before, &after].map(|of| of.histogram(name).expect("its own"));
                log_line(name, from, length, &new.since(&old))
            })
            .collect();
        print(&lines)?;
        if is_over(&after) {
            // Nothing is added any more.
            return Ok(ExitCode::SUCCESS);
        }
        before = after;
    }
}

/// Removes what dead processes left.
fn clean(selection: &Selection) -> Result<ExitCode, CommandError> {
    let mut code = ExitCode::SUCCESS;
    let looks = selection.looks();
    if looks.is_empty() && selection.who.is_some() {
        return Err(StatFailure::Nothing(selection.clone()).into());
    }
    let mut failures = Vec::new();
    for (path, _) in looks {
        match remove_abandoned(&path) {
            Ok(true) => {
                print(&format!("removed {}\n", path.display()))?;
            }
            // Its process lives, or has just begun.
            Ok(false) | Err(RegistryError::BeingCreated { .. }) => {}
            // Somebody else has removed it.
            Err(RegistryError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            }
            Err(error) => {
                failures.push(error);
                code = ExitCode::from(super::FAILURE);
            }
        }
    }
    warnings(&failures).iter().for_each(|warning| eprintln!("warning: {}", printable(warning)));
    Ok(code)
}

fn print(text: &str) -> Result<ExitCode, CommandError> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(CommandError::Stdout)?;
    Ok(ExitCode::SUCCESS)
}

/// Until when the numbers are: of a process that is gone, until the last time in its file. Another
/// start of the machine may have left it, so that now is no measure.
fn told_until(snapshot: &Snapshot) -> Nanos {
    if !is_over(snapshot) {
        return snapshot.taken;
    }
    let turns = snapshot.reactors.iter().map(|reactor| reactor.turn_began);
    let rows = snapshot.sessions().map(|session| session.updated);
    turns.chain(rows).fold(snapshot.created, Nanos::max)
}

/// Whether the numbers are of a process that is gone.
pub(super) fn is_over(snapshot: &Snapshot) -> bool {
    snapshot.writer != WriterState::Running
}

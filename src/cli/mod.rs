//! The command line: options, configuration, logging, exit codes.
//!
//! Exit codes: 0 everything asked for was done, 1 it failed, 2 the command line or the
//! configuration makes no sense. Results go to standard output, everything else to standard error;
//! the results of `send` are the answers. `serve` and `record` end in order on Ctrl-C and SIGTERM,
//! and so do `send` and `replay`, with exit code 130: not all was done. `top` ends on these and
//! SIGQUIT, so that its terminal is as it was; `bench` is ended at once by Ctrl-C, behind its
//! progress bar; every other subcommand catches no signal.
//!
//! Not here: what a subcommand does. Each has a module of its own.

mod attach;
mod bench;
mod config;
mod doctor;
mod options;
mod record;
mod replay;
mod report;
mod send;
mod serve;
mod show;
mod stat;
mod stop;
mod top;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringwire::config::{Config, ConfigBuilder, ConfigError};
use ringwire::record::RecordError;
use ringwire::{ConnectError, SetupError};
use tracing_subscriber::EnvFilter;

/// Exit code of a command that failed.
const FAILURE: u8 = 1;
/// Exit code of a command line or configuration that makes no sense; clap uses the same.
const USAGE: u8 = 2;

/// What [`CommandError::Output`] calls standard output.
const STANDARD_OUTPUT: &str = "standard output";

/// Message transport for low-latency control nodes.
#[derive(Debug, Parser)]
#[command(name = "ringwire", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "RUST_LOG=info shows what the library logs, on standard error.")]
struct Command {
    /// Configuration file (TOML). Options given here override it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Bench(bench::Options),
    Report(report::Options),
    Serve(serve::ServeOptions),
    Send(send::SendOptions),
    Record(record::RecordOptions),
    Replay(replay::ReplayOptions),
    Top(top::TopOptions),
    Stat(stat::StatOptions),
    Config(config::ConfigOptions),
    Doctor(doctor::DoctorArgs),
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// The configuration or an option makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration file makes no sense.
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: ConfigError },
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The benchmark failed.
    #[error("bench: {0}")]
    Bench(#[from] bench::BenchError),
    /// There is no report.
    #[error("report: {0}")]
    Report(#[from] report::ReportError),
    /// A server or client could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// There is no session with the server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Messages could not be sent, or were not answered.
    #[error(transparent)]
    Send(#[from] send::SendFailure),
    /// A recording could not be read.
    #[error("{}: {source}", .path.display())]
    Recording { path: PathBuf, source: RecordError },
    /// A recording has no frame that is meant.
    #[error(
        "nothing was selected: the recording has {received} received and {sent} sent frames; see \
         --list, --frames, --session"
    )]
    NothingSelected { received: u64, sent: u64 },
    /// There is no node to look at.
    #[error(transparent)]
    Stat(#[from] stat::StatFailure),
    /// Standard output could not be written.
    #[error("cannot write standard output: {0}")]
    Stdout(#[source] io::Error),
    /// Results could not be written.
    #[error("cannot write {what}: {source}")]
    Output {
        /// Where to.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What the configuration file says, before a subcommand lays its options over it.
#[derive(Debug, Clone, Default)]
struct Settings {
    builder: ConfigBuilder,
    /// The text of the file.
    text: String,
    /// Where it stands. Without a file a subcommand may prefer other defaults.
    file: Option<PathBuf>,
}

/// Runs the command line of this process and returns its exit code.
pub(crate) fn run() -> ExitCode {
    let command = Command::parse();
    // What is logged would stand in the middle of the picture.
    if !matches!(command.task, Task::Top(_)) || !io::stderr().is_terminal() {
        // Benches cut links and overrun lanes on purpose: what the library warns of then is not
        // news.
        let level = match command.task {
            Task::Bench(_) => tracing::Level::ERROR,
            _ => tracing::Level::WARN,
        };
        start_logging(level);
    }
    match execute(command) {
        Ok(code) => code,
        Err(error) if error.is_reader_gone() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn execute(command: Command) -> Result<ExitCode, CommandError> {
    record::survive_file_size_limit()?;
    let settings = read_settings(command.config)?;
    match command.task {
        Task::Bench(options) => bench::run(&options, settings).map(|()| ExitCode::SUCCESS),
        Task::Report(options) => report::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Serve(options) => serve::run(&options, settings),
        Task::Send(options) => send::run(&options, settings),
        Task::Record(options) => record::run(&options, settings),
        Task::Replay(options) => replay::run(&options, settings),
        Task::Top(options) => top::run(&options.within(&settings.check()?)),
        Task::Stat(options) => stat::run(&options.within(&settings.check()?)),
        Task::Config(config::ConfigOptions {}) => config::run(&settings.check()?)
            .map(|()| ExitCode::SUCCESS)
            .map_err(CommandError::Stdout),
        Task::Doctor(args) => doctor::run(&args, &settings.check()?).map_err(CommandError::Stdout),
    }
}

fn read_settings(file: Option<PathBuf>) -> Result<Settings, CommandError> {
    let Some(path) = file else {
        return Ok(Settings::default());
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let path = path.clone();
        ConfigError::File { path, message: error.to_string() }
    })?;
    match ConfigBuilder::from_toml(&text) {
        Ok(builder) => Ok(Settings { builder, text, file: Some(path) }),
        Err(source) => Err(CommandError::File { path, source }),
    }
}

/// Logs to standard error: what is at least this bad, unless RUST_LOG says otherwise.
fn start_logging(level: tracing::Level) {
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

impl CommandError {
    /// Whether it is that who reads standard output went away, as `head` does, and has what it
    /// wanted.
    fn is_reader_gone(&self) -> bool {
        match self {
            Self::Stdout(source) => source.kind() == io::ErrorKind::BrokenPipe,
            Self::Output { what, source } => {
                what == STANDARD_OUTPUT && source.kind() == io::ErrorKind::BrokenPipe
            }
            _ => false,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::File { .. } | Self::Usage(_) => USAGE,
            Self::Setup(SetupError::Config(_) | SetupError::Endpoint(_)) => USAGE,
            Self::Connect(ConnectError::Endpoint(_)) => USAGE,
            Self::Bench(_)
            | Self::Report(_)
            | Self::Setup(_)
            | Self::Connect(_)
            | Self::Send(_)
            | Self::Recording { .. }
            | Self::NothingSelected { .. }
            | Self::Stat(_)
            | Self::Stdout(_)
            | Self::Output { .. } => FAILURE,
        }
    }
}

impl Settings {
    /// The settings as they stand, checked.
    fn check(&self) -> Result<Config, CommandError> {
        self.build(self.builder.clone())
    }

    /// Checks `builder`: these settings with a subcommand's options over them.
    fn build(&self, builder: ConfigBuilder) -> Result<Config, CommandError> {
        builder.build().map_err(|source| match &self.file {
            // Values that do not go together already without the options.
            Some(path) if self.builder.clone().build().is_err() => {
                CommandError::File { path: path.clone(), source }
            }
            _ => source.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Command::command().debug_assert();
    }
}

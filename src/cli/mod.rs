//! The command line: options, configuration, logging, exit codes.
//!
//! Exit codes: 0 everything asked for was done, 1 it failed, 2 the command line or the
//! configuration makes no sense. Results go to standard output, everything else to standard
//! error. No signal is caught: Ctrl-C ends the process at once, and nothing here puts the terminal
//! into a state that would have to be undone.
//!
//! Not here: what a subcommand does. Each has a module of its own.

mod bench;
mod doctor;
mod send;
mod serve;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use ringwire::config::{Config, ConfigBuilder, ConfigError, Idle};
use ringwire::error::{ConnectError, RequestError, SendError, SetupError};
use tracing_subscriber::EnvFilter;

/// Exit code of a command that failed.
const FAILURE: u8 = 1;
/// Exit code of a command line or configuration that makes no sense; clap uses the same.
const USAGE: u8 = 2;

/// Message transport for low-latency control nodes.
#[derive(Debug, Parser)]
#[command(name = "ringwire", version, arg_required_else_help = true)]
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
    Serve(serve::Options),
    Send(send::Options),
    Doctor(doctor::DoctorArgs),
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// The configuration or an option makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The benchmark failed.
    #[error("bench: {0}")]
    Bench(#[from] bench::BenchError),
    /// No ring, or no listening.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A message was not queued.
    #[error(transparent)]
    Send(#[from] SendError),
    /// A request was not answered.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The session ended before everything had left.
    #[error("the connection ended out of order; {messages} messages were not sent")]
    NotDelivered {
        /// How many had been queued.
        messages: u64,
    },
    /// Messages could not be read.
    #[error("cannot read standard input: {source}")]
    Input {
        /// What the system said.
        source: io::Error,
    },
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
    /// Whether there is a file: without one a subcommand may prefer other defaults.
    from_file: bool,
}

/// Runs the command line of this process and returns its exit code.
pub(crate) fn run() -> ExitCode {
    let command = Command::parse();
    start_logging();
    match execute(command) {
        Ok(code) => code,
        // The reader of a pipe went away, as `head` does: it has what it wanted.
        Err(CommandError::Output { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn execute(command: Command) -> Result<ExitCode, CommandError> {
    let settings = read_settings(command.config)?;
    match command.task {
        Task::Bench(options) => bench::run(&options, settings).map(|()| ExitCode::SUCCESS),
        Task::Serve(options) => serve::run(&options, settings).map(|()| ExitCode::SUCCESS),
        Task::Send(options) => send::run(&options, settings).map(|()| ExitCode::SUCCESS),
        Task::Doctor(args) => doctor::run(&args, &settings.check()?).map_err(CommandError::stdout),
    }
}

fn read_settings(file: Option<PathBuf>) -> Result<Settings, CommandError> {
    let Some(path) = file else {
        return Ok(Settings::default());
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| ConfigError::File { path, message: error.to_string() })?;
    let builder = ConfigBuilder::from_toml(&text)?;
    Ok(Settings { builder, from_file: true })
}

/// Logs to standard error; warnings and errors unless RUST_LOG says otherwise.
fn start_logging() {
    let filter =
        EnvFilter::builder().with_default_directive(tracing::Level::WARN.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// Reads the name of an idle strategy.
fn idle_parser() -> impl TypedValueParser<Value = Idle> {
    PossibleValuesParser::new(["spin", "adaptive", "park"]).map(|name| match name.as_str() {
        "spin" => Idle::Spin,
        "park" => Idle::Park,
        _ => Idle::Adaptive,
    })
}

impl CommandError {
    fn stdout(source: io::Error) -> Self {
        Self::Output { what: "standard output".into(), source }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Usage(_)
            | Self::Setup(SetupError::Endpoint(_))
            | Self::Connect(ConnectError::Endpoint(_)) => USAGE,
            _ => FAILURE,
        }
    }
}

impl Settings {
    /// The settings as they stand, checked.
    fn check(&self) -> Result<Config, CommandError> {
        Ok(self.builder.clone().build()?)
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

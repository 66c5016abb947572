//! The same questions put to Ringwire and to other transports, side by side. README.md says how to
//! run it, how each subject is configured, and what is not measured.
//!
//! ```text
//! run/       the runner: rounds in turn, two processes a round, deadlines, records, tables
//! job        the lines between the runner and the two processes
//! side       one of these processes          process    CPU time, memory, cores
//! drive      the client's measuring loops    histogram  percentiles, and how they travel
//! tasks      them on a runtime, many at once
//! message    what is carried and checked     frame      messages over a byte stream
//! shared     long messages without a copy
//! subjects/  one file for each transport
//! ```

mod drive;
mod frame;
mod histogram;
mod job;
mod message;
mod process;
mod run;
mod shared;
mod side;
mod subjects;
mod tasks;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures message transports side by side.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the suite, or a part of it.
    Run(Box<run::Options>),
    /// Lists the subjects of this build, and what a full build has beside them.
    List,
    /// One end of a subject; the runner starts it.
    #[command(hide = true)]
    Subject {
        name: String,
        #[arg(value_enum)]
        side: side::Side,
    },
}

/// As clap's own.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let result = match Options::parse().command {
        Command::Run(options) => match run::cases_of(&options) {
            Ok(cases) => run::run(&options, cases),
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(WRONG_USAGE);
            }
        },
        Command::List => run::list(),
        Command::Subject { name, side } => side::run(&name, side),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

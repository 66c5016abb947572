//! The `ringwire` command: measures, serves, sends and looks at the host.
//!
//! Everything is in [`cli`]; this file only hands over the process's exit code.
#![deny(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}

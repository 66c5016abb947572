//! `ringwire config`: every setting, with what it is for, its unit, its bounds and its value.
//!
//! What is printed is a configuration file. Not here: what stands in it
//! ([`Config::to_toml`]).

use std::io::{self, Write};

use ringwire::Config;

/// Print every setting, with its unit and bounds, as a configuration file.
///
/// The defaults; with --config the settings that are in force, or what is wrong with that file.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigOptions {}

pub(super) fn run(config: &Config) -> io::Result<()> {
    io::stdout().lock().write_all(config.to_toml().as_bytes())
}

//! One end of a subject, in a process of its own: `peers subject NAME serve|drive`.
//!
//! Reads its [`Job`] from standard input, keeps itself on the job's cores, does its work and says
//! what came of it in one line. Ends at once when standard input does, whatever it is doing: the
//! runner closes it, or is gone.

use std::io::{self, BufRead, Read, Write};
use std::process::exit;
use std::thread;

use crate::drive::Failure;
use crate::job::{DriveLine, Job, ServeLine};
use crate::process;
use crate::subjects::{self, Ready};

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    Serve,
    Drive,
}

/// Runs one end of `name`. Returns only on failure; a server never returns.
pub fn run(name: &str, side: Side) -> Result<(), Failure> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)?;
    process::pin(&job.cores)?;
    process::raise_descriptor_limit()?;
    end_with_standard_input()?;
    let subject = subjects::find(name).ok_or_else(|| format!("no subject {name} in this build"))?;
    match side {
        Side::Serve => {
            let error = match subject.serve(&job, &mut say_ready) {
                Ok(()) => "the server has ended by itself".to_owned(),
                Err(error) => error.to_string(),
            };
            say(&ServeLine::Error(error.clone()))?;
            Err(error.into())
        }
        Side::Drive => match subject.drive(&job) {
            Ok(round) => say(&DriveLine::Round(Box::new(round))),
            Err(error) => say(&DriveLine::Error(error.to_string())),
        },
    }
}

/// Tells the runner where the server listens.
fn say_ready(ready: Ready) -> Result<(), Failure> {
    say(&ServeLine::Ready { address: ready.address, version: ready.version })
}

fn say(line: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The watching thread sleeps in read(2) until then.
fn end_with_standard_input() -> io::Result<()> {
    let watch = || {
        let mut rest = [0; 64];
        while io::stdin().lock().read(&mut rest).is_ok_and(|bytes| bytes > 0) {}
        exit(0);
    };
    thread::Builder::new().name("parent".into()).spawn(watch).map(drop)
}

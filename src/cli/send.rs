//! `ringwire send`: messages from the command line or from standard input.
//!
//! Each message is a request unless `--one-way` says otherwise; answers go to standard output, one
//! line each. From standard input every line is a message, so that a pipe is a session.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use clap::ValueEnum;
use ringwire::error::SendError;
use ringwire::time::Nanos;
use ringwire::{Client, Envelope, Kind, Priority, Wait};

use crate::cli::{CommandError, Settings};

/// Send messages and print the answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Whom to connect to: host:port, [v6]:port, a host, or unix:/path.
    #[arg(value_name = "ADDR")]
    endpoint: String,

    /// The messages; the lines of standard input when left out.
    #[arg(value_name = "MESSAGE")]
    messages: Vec<String>,

    /// Do not ask for an answer.
    #[arg(long)]
    one_way: bool,

    /// What the messages are [default: command, data with --one-way].
    #[arg(long, value_enum)]
    kind: Option<KindName>,

    /// How urgent they are.
    #[arg(long, value_enum, default_value = "normal")]
    priority: PriorityName,

    /// How long to wait for each answer, and for the last message to leave, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 2000,
          value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    timeout: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindName {
    Command,
    Data,
    Status,
    Error,
    Configuration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PriorityName {
    Low,
    Normal,
    High,
    Critical,
}

/// Runs `ringwire send`.
pub(super) fn run(options: &Options, settings: Settings) -> Result<(), CommandError> {
    let mut client = Client::new(settings.builder.build()?)?;
    client.connect(&options.endpoint)?;
    if options.messages.is_empty() {
        for line in io::stdin().lock().lines() {
            let line = line.map_err(|source| CommandError::Input { source })?;
            send(&mut client, options, line.as_bytes())?;
        }
    } else {
        for message in &options.messages {
            send(&mut client, options, message.as_bytes())?;
        }
    }
    let report = client.disconnect(options.timeout());
    if report.flushed < report.connections || report.messages_dropped > 0 {
        return Err(CommandError::NotDelivered { messages: report.messages_dropped });
    }
    Ok(())
}

fn send(client: &mut Client, options: &Options, message: &[u8]) -> Result<(), CommandError> {
    if options.one_way {
        return Ok(queue(client, options, message)?);
    }
    let answer = client.request(options.envelope(), message, options.timeout())?;
    let mut output = io::stdout().lock();
    output
        .write_all(answer.payload())
        .and_then(|()| output.write_all(b"\n"))
        .map_err(CommandError::stdout)
}

/// Queues a message, waiting for room while the lane is full.
fn queue(client: &mut Client, options: &Options, message: &[u8]) -> Result<(), SendError> {
    let limit = Nanos::now() + options.timeout();
    loop {
        match client.send(options.envelope(), message) {
            Err(SendError::Full) if Nanos::now() < limit => {
                // A ring that fails shows as a lost connection at the next attempt.
                let _ = client.reactor().turn(Wait::Until(limit));
            }
            outcome => return outcome,
        }
    }
}

impl Options {
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout.into())
    }

    fn envelope(&self) -> Envelope {
        let kind = match (self.kind, self.one_way) {
            (Some(KindName::Command), _) | (None, false) => Kind::Command,
            (Some(KindName::Data), _) | (None, true) => Kind::Data,
            (Some(KindName::Status), _) => Kind::Status,
            (Some(KindName::Error), _) => Kind::Error,
            (Some(KindName::Configuration), _) => Kind::Configuration,
        };
        Envelope::of(kind).priority(match self.priority {
            PriorityName::Low => Priority::Low,
            PriorityName::Normal => Priority::Normal,
            PriorityName::High => Priority::High,
            PriorityName::Critical => Priority::Critical,
        })
    }
}

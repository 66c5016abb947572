//! `ringwire serve`: a server to try things against.
//!
//! Commands are echoed from their handler, on the reactor's thread: what a round trip costs is
//! what the library costs. Everything else is handed to this thread and printed, one line a
//! message; a request among it is answered too.

use std::io::{self, Write};
use std::time::Duration;

use ringwire::config::Idle;
use ringwire::{Envelope, Kind, Message, Server};

use crate::cli::{CommandError, Settings, idle_parser};

/// How long one wait for a message takes at most; then the next begins.
const WAIT: Duration = Duration::from_secs(60);

/// Answer commands with their own payload, and print everything else.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen: host:port, [v6]:port, a host, or unix:/path.
    #[arg(value_name = "ADDR", default_value = "127.0.0.1")]
    endpoint: String,

    /// Reactors, each a thread with a ring [default: as many as cores are given, else 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    reactors: Option<u16>,

    /// Cores to pin the reactors to, separated by commas.
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    cores: Option<Vec<usize>>,

    /// What a reactor does while it waits [default: adaptive].
    #[arg(long, value_name = "spin|adaptive|park", hide_possible_values = true,
          value_parser = idle_parser())]
    idle: Option<Idle>,
}

/// Runs `ringwire serve`; ends with the process.
pub(super) fn run(options: &Options, settings: Settings) -> Result<(), CommandError> {
    let mut settings = settings.builder;
    if let Some(idle) = options.idle {
        settings = settings.idle(idle);
    }
    if let Some(cores) = &options.cores {
        settings = settings.cores(cores.clone());
    }
    let mut builder = Server::builder().config(settings.build()?).listen(&options.endpoint).on(
        Kind::Command,
        |context, frame| {
            if let Err(error) = context.reply(Envelope::status(), frame.payload()) {
                tracing::warn!(connection = %context.connection(), %error, "no answer sent");
            }
        },
    );
    if let Some(reactors) = options.reactors {
        builder = builder.reactors(reactors.into());
    }
    let server = builder.start()?;
    for address in server.addresses() {
        eprintln!("listening on {address}");
    }
    loop {
        // Nothing within the time is no reason to stop.
        let Ok(message) = server.receive(WAIT) else { continue };
        print(&message)?;
        if message.is_request()
            && let Err(error) = server.reply(&message, Envelope::status(), &message.payload()[..])
        {
            tracing::warn!(connection = %message.connection(), %error, "no answer sent");
        }
    }
}

/// One line: who, what kind, how long, and the text with everything unprintable escaped.
fn print(message: &Message) -> Result<(), CommandError> {
    let payload = message.payload();
    let mut output = io::stdout().lock();
    writeln!(
        output,
        "{} {} {} B: {}",
        message.connection(),
        format!("{:?}", message.kind()).to_lowercase(),
        payload.len(),
        String::from_utf8_lossy(payload).escape_debug(),
    )
    .map_err(CommandError::stdout)
}

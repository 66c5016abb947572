//! `ringwire record`: writes what clients send, or what a server sends, into a file.
//!
//! The reactors copy frames for a [`Recorder`] and do nothing else for it. `--listen` is `ringwire
//! serve` with a tap; `--connect` is a client that reads. A disk that is full or too slow costs
//! frames of the recording, which are counted and told, and stops nothing.
//!
//! Not here: what the file looks like (`ringwire::record`), and playing it back (`replay`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args};
use ringwire::config::{Config, REACTORS_MAX};
use ringwire::record::RecordOrigin;
use ringwire::{
    Client, CloseReason, Event, EventKind, Idle, Kind, Nanos, Recorder, SetupError, Tap, TapFilter,
    TapReceiver,
};
use signal_hook::consts::signal::SIGXFSZ;
use signal_hook::flag;

use crate::cli::options::{idle_parser, kind_parser, parse_seconds};
use crate::cli::send::SendFailure;
use crate::cli::serve::{self, Log, ServeOptions};
use crate::cli::show::{Metric, counted};
use crate::cli::stop::{END_DEADLINE, Stop, TICK};
use crate::cli::{CommandError, FAILURE, Settings};

/// Where frames wait for the disk, per reactor, in MiB.
const MEMORY_MIB_DEFAULT: u16 = 16;

/// Record what clients send, or what a server sends, into a file.
///
/// With --listen it is a server, which answers commands and requests with their own payload as
/// `serve` does. With --connect it is a client that listens. The file can be read while it grows,
/// and after a crash up to its last whole frame: `ringwire replay --list FILE`.
///
/// Exit code 0 when everything was recorded, 1 when frames are missing.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").args(["listen", "connect"]).required(true))]
#[command(after_help = "\
Examples:
  ringwire record --listen 0.0.0.0:7411 shift-3.rwrec
  ringwire record --connect drive-7 --kind data telemetry.rwrec
  ringwire replay shift-3.rwrec 127.0.0.1:7411 --speed 2")]
pub(crate) struct RecordOptions {
    /// What to write; it must not exist yet.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Be a server there, and record what its clients send.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,

    /// Connect to the server there, and record what it sends.
    #[arg(long, value_name = "ADDR")]
    connect: Option<String>,

    /// Write over a file that exists.
    #[arg(long)]
    force: bool,

    /// Which frames: received, sent or both.
    #[arg(long, value_name = "received|sent|both", default_value = "received",
          hide_possible_values = true, value_parser = direction_parser())]
    frames: Directions,

    /// Only frames of these kinds: command, data, status, error, configuration.
    #[arg(long, value_name = "KIND", value_delimiter = ',', hide_possible_values = true,
          value_parser = kind_parser())]
    kind: Vec<Kind>,

    /// Memory in which frames wait for the disk, per reactor, in MiB; rounded up to a power of two.
    /// Longer frames are not recorded.
    #[arg(long, value_name = "MIB", allow_negative_numbers = true,
          default_value_t = MEMORY_MIB_DEFAULT,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    memory: u16,

    /// Send every message back, of whatever kind.
    #[arg(long, conflicts_with = "connect")]
    echo: bool,

    /// Print every message.
    #[arg(long, conflicts_with = "connect")]
    print: bool,

    /// Print neither messages nor connections.
    #[arg(long, short, conflicts_with = "print")]
    quiet: bool,

    /// Threads, each with a ring of its own [default: one for each core, or 1].
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "connect",
          value_parser = clap::value_parser!(u16).range(1..=REACTORS_MAX.into()))]
    reactors: Option<u16>,

    /// Cores to pin the reactors to, in order: 0,1.
    #[arg(
        long,
        value_name = "LIST",
        allow_negative_numbers = true,
        value_delimiter = ',',
        conflicts_with = "connect"
    )]
    cores: Option<Vec<usize>>,

    /// What a reactor does while nothing happens [default: adaptive].
    #[arg(long, value_name = "spin|adaptive|park", hide_possible_values = true,
          value_parser = idle_parser())]
    idle: Option<Idle>,

    /// Print statistics every so many seconds.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, conflicts_with = "connect",
          value_parser = parse_seconds)]
    statistics: Option<Duration>,

    /// End after so many seconds.
    #[arg(long = "for", value_name = "SECONDS", allow_negative_numbers = true,
          value_parser = parse_seconds)]
    run_for: Option<Duration>,
}

/// Which way the frames go that are recorded.
#[derive(Debug, Clone, Copy)]
enum Directions {
    Received,
    Sent,
    Both,
}

fn direction_parser() -> impl TypedValueParser<Value = Directions> {
    PossibleValuesParser::new(["received", "sent", "both"]).map(|text| match &*text {
        "received" => Directions::Received,
        "sent" => Directions::Sent,
        _ => Directions::Both,
    })
}

/// What is to be recorded, and where to.
pub(super) struct RecordingPlan<'a> {
    options: &'a RecordOptions,
}

/// A recording under way.
pub(super) struct Recording {
    recorder: Recorder,
    path: PathBuf,
    /// Whether it is known that the file can not be written.
    is_failing: bool,
    /// Whether a message may be longer than what can be recorded.
    is_narrow: bool,
}

/// Runs `ringwire record`.
pub(super) fn run(options: &RecordOptions, settings: Settings) -> Result<ExitCode, CommandError> {
    let plan = RecordingPlan { options };
    match (&options.listen, &options.connect) {
        (Some(address), _) => {
            serve::run_recording(&serve_options(options, address), settings, &plan)
        }
        (None, Some(address)) => listen_to(address, options, &settings, &plan),
        (None, None) => unreachable!("clap asks for one of the two"),
    }
}

/// A file that may not grow (setrlimit(2), RLIMIT_FSIZE) is an error of the write, not the end of
/// the process.
pub(super) fn survive_file_size_limit() -> Result<(), SetupError> {
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
        .map(drop)
        .map_err(|source| SetupError::System { operation: "sigaction", source })
}

fn serve_options(options: &RecordOptions, address: &str) -> ServeOptions {
    ServeOptions {
        address: address.into(),
        echo: options.echo,
        print: options.print,
        quiet: options.quiet,
        reactors: options.reactors,
        cores: options.cores.clone(),
        idle: options.idle,
        statistics: options.statistics,
        run_for: options.run_for,
        metrics: None,
    }
}

/// Records what a server sends until a signal, the time given, or its end.
fn listen_to(
    address: &str,
    options: &RecordOptions,
    settings: &Settings,
    plan: &RecordingPlan<'_>,
) -> Result<ExitCode, CommandError> {
    let mut builder = settings.builder.clone();
    if let Some(idle) = options.idle {
        builder = builder.idle(idle);
    }
    let config = settings.build(builder)?;
    let stop = Stop::on_signals()?;
    let mut client = Client::new(config.clone())?;
    for kind in Kind::APPLICATION {
        // Taken, so that the inbox stays empty: the tap has seen them.
        client.on(kind, |_, _| {});
    }
    let (tap, frames) = plan.tap();
    client.reactor().set_tap(&tap)?;
    client.connect(address)?;
    let mut recording = Recording::start(plan, &config, frames, address.into())?;
    let mut log = Log::new(!options.quiet);
    let end = options.run_for.map_or(Nanos::NEVER, |time| Nanos::now() + time);
    let mut is_lost = false;
    loop {
        // Also when the end comes at once: who is connected is noted before anything ends.
        while let Some(event) = client.poll_event() {
            recording.note(&event);
            // It has warned of what it can not say.
            let _ = log.say(&event);
        }
        recording.look();
        if is_lost || stop.is_set() || Nanos::now() >= end {
            break;
        }
        is_lost = client.run_for(TICK.min(end.since(Nanos::now()))).is_err();
    }
    let reason = client.disconnected_reason().unwrap_or(CloseReason::PeerClosed);
    if !is_lost {
        let _ = client.disconnect(END_DEADLINE);
    }
    // With the tap: what it holds is written, and then the recording ends by itself.
    drop(client);
    drop(tap);
    drop(log);
    let code = recording.finish()?;
    if is_lost && reason != CloseReason::Goodbye {
        return Err(SendFailure::Lost { reason }.into());
    }
    Ok(code)
}

impl RecordingPlan<'_> {
    pub(super) fn tap(&self) -> (Tap, TapReceiver) {
        let filter = match self.options.frames {
            Directions::Received => TapFilter::received(),
            Directions::Sent => TapFilter::sent(),
            Directions::Both => TapFilter::both(),
        };
        let filter = self.options.kind.iter().fold(filter, |filter, &kind| filter.kind(kind));
        Tap::new(filter.memory_bytes(usize::from(self.options.memory) << 20))
    }

    fn create(&self) -> io::Result<File> {
        let mut how = OpenOptions::new();
        how.write(true);
        match self.options.force {
            true => how.create(true).truncate(true),
            false => how.create_new(true),
        };
        how.open(&self.options.file)
    }
}

impl Recording {
    /// Creates the file and begins.
    pub(super) fn start(
        plan: &RecordingPlan<'_>,
        config: &Config,
        frames: TapReceiver,
        endpoint: String,
    ) -> Result<Self, CommandError> {
        let path = plan.options.file.clone();
        let node_name = config.node_name().into();
        let node_number = config.node_number();
        let origin = RecordOrigin { node_name, node_number, endpoint, ..RecordOrigin::default() };
        let recorder = plan.create().and_then(|file| {
            Recorder::start(frames, file, origin).inspect_err(|_| {
                // What holds nothing is not in the way of the next attempt.
                if !plan.options.force {
                    let _ = fs::remove_file(&path);
                }
            })
        });
        let recorder = recorder.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CommandError::Usage(format!(
                "{} exists: name another file, or --force to write over it",
                path.display()
            )),
            _ => CommandError::Output { what: path.display().to_string(), source },
        })?;
        let memory_bytes = u64::from(plan.options.memory) << 20;
        let is_narrow = memory_bytes.next_power_of_two() <= u64::from(config.frame_bytes_max());
        if is_narrow {
            eprintln!(
                "warning: --memory {} holds no message as long as frame_bytes_max = {}: those that \
                 do not fit will be missing",
                plan.options.memory,
                config.frame_bytes_max(),
            );
        }
        Ok(Self { recorder, path, is_failing: false, is_narrow })
    }

    /// Notes who came, so that the recording tells whose frames they are.
    pub(super) fn note(&self, event: &Event) {
        if event.kind == EventKind::Connected {
            self.recorder.note_peer(event.connection, &event.node_name, &event.address);
        }
    }

    /// Warns when the file can not be written, and says when it can be again.
    pub(super) fn look(&mut self) {
        let errno = self.recorder.progress().errno;
        if errno.is_some() == self.is_failing {
            return;
        }
        self.is_failing = errno.is_some();
        let path = self.path.display();
        match errno {
            Some(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                eprintln!("warning: cannot write {path}: {error}; frames are lost until it can be");
            }
            None => eprintln!("{path} can be written again"),
        }
    }

    /// Ends the recording, and says what is in it and what is missing.
    pub(super) fn finish(self) -> Result<ExitCode, CommandError> {
        let report = self.recorder.finish();
        let path = self.path.display();
        let mut lines = format!(
            "recorded {} ({}B) in {path}, {}B long\n",
            counted(report.frames, "frame"),
            Metric(report.frame_bytes as f64),
            Metric(report.file_bytes as f64),
        );
        if report.frames_lost > 0 {
            let lost = counted(report.frames_lost, "frame");
            let longer = if self.is_narrow { ", or they were longer than --memory" } else { "" };
            lines += &format!("{lost} missing in it: the disk was too slow, or full{longer}\n");
        }
        // Its reader may be gone; then the failure of the file is what there is to say.
        let said = io::stdout().lock().write_all(lines.as_bytes());
        match report.failure {
            Some(source) => Err(CommandError::Output { what: path.to_string(), source }),
            None if report.frames_lost > 0 => Ok(ExitCode::from(FAILURE)),
            None => said.map(|()| ExitCode::SUCCESS).map_err(CommandError::Stdout),
        }
    }
}

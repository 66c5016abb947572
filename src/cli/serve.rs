//! `ringwire serve`: listens, answers, and prints what comes.
//!
//! What is sent back and not printed is handled on the reactors' threads. What is printed goes
//! through the inbox to this thread, which writes one line for it; when the reader of standard
//! output is slow the inbox fills, and the senders feel it through TCP: nothing is dropped. Who
//! comes and who leaves is printed in order with the messages of that connection.
//!
//! Ctrl-C and SIGTERM end the server in order, see [`Stop`]: this thread looks every [`TICK`].
//!
//! When the reader of standard output goes, or its disk is full, the server goes on without it.
//!
//! Not a broker: nothing is routed from one client to another.

use std::collections::VecDeque;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use ringwire::config::{Config, REACTORS_MAX};
use ringwire::time::wall_ns;
use ringwire::{
    Context, Envelope, Event, EventKind, Frame, Idle, Kind, Link, Message, Nanos, NodeHandle,
    Priority, Server, SetupError, ShutdownReport, Statistics, Tap,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::options::{idle_parser, kind_name, parse_seconds, priority_name};
use crate::cli::record::{Recording, RecordingPlan};
use crate::cli::show::{Excerpt, Metric, TimeOfDay, counted, terminal_columns};
use crate::cli::stop::{END_DEADLINE, Stop, TICK};
use crate::cli::{CommandError, Settings};

/// Width of a payload on a line that goes to no terminal.
const EXCERPT_COLUMNS: usize = 1024;
/// Descriptors beside the connections': rings, listeners, standard streams.
const DESCRIPTORS_SPARE: u64 = 128;

/// Listen; echo commands and requests; print everything else.
///
/// Commands and requests get their own payload back as the answer; every other message is printed,
/// one line each: time (UTC), client, kind, priority, type, payload. Lines of connections start
/// with + and -. The first line says where it listens. Ctrl-C or SIGTERM ends it in order; that who
/// reads its output goes away does not.
#[derive(Debug, Args)]
pub(crate) struct ServeOptions {
    /// Where to listen: host:port, [v6]:port, a bare host (port 7411) or unix:/path.
    ///
    /// Port 0 takes a free one. `[::]` listens on every interface; nothing is authenticated, so
    /// the default is this machine only.
    #[arg(value_name = "ADDR", default_value = "127.0.0.1")]
    pub(super) address: String,

    /// Send every message back, of whatever kind.
    #[arg(long)]
    pub(super) echo: bool,

    /// Print every message, also what is sent back.
    #[arg(long)]
    pub(super) print: bool,

    /// Print neither messages nor connections.
    #[arg(long, short, conflicts_with = "print")]
    pub(super) quiet: bool,

    /// Threads, each with a ring of its own [default: one for each core, or 1].
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(1..=REACTORS_MAX.into()))]
    pub(super) reactors: Option<u16>,

    /// Cores to pin the reactors to, in order: 0,1.
    #[arg(long, value_name = "LIST", allow_negative_numbers = true, value_delimiter = ',')]
    pub(super) cores: Option<Vec<usize>>,

    /// What a reactor does while nothing happens [default: adaptive].
    #[arg(long, value_name = "spin|adaptive|park", hide_possible_values = true,
          value_parser = idle_parser())]
    pub(super) idle: Option<Idle>,

    /// Print statistics every so many seconds.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true,
          value_parser = parse_seconds)]
    pub(super) statistics: Option<Duration>,

    /// Serve metrics for Prometheus at this address and port. Only a command that was built with
    /// the feature `metrics` can: `cargo build --release --features metrics`.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) metrics: Option<String>,

    /// End after so many seconds.
    #[arg(long = "for", value_name = "SECONDS", allow_negative_numbers = true,
          value_parser = parse_seconds)]
    pub(super) run_for: Option<Duration>,
}

/// What happens to a message.
#[derive(Debug, Clone, Copy)]
struct Conduct {
    echo_all: bool,
    print_all: bool,
    quiet: bool,
}

/// One run of the server, seen from the thread that prints.
struct Run {
    server: Server,
    conduct: Conduct,
    /// Answers that were not queued.
    refused: Arc<AtomicU64>,
    log: Log,
    messages: u64,
    /// How many messages the inbox can hold, with those at its door and the one in hand.
    inbox_frames_max: u64,
    recording: Option<Recording>,
}

/// Standard output, a line at a time.
pub(super) struct Log {
    out: BufWriter<Reader>,
    columns: Option<usize>,
    says_who: bool,
    /// Who has come and left, in order, and how many messages may have to be printed before it is
    /// said: for who has left, what the inbox held at that moment.
    pending: VecDeque<(Event, u64)>,
}

/// Who reads standard output. It may go, as `head` does, or its disk may be full. There is more to
/// do than to print: clients are served, and recorded, all the same.
struct Reader {
    out: StdoutLock<'static>,
    is_gone: bool,
}

impl Reader {
    /// Nothing is written any more.
    fn give_up(&mut self, error: &io::Error) {
        self.is_gone = true;
        // A reader that went is nothing to warn of.
        if error.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("warning: cannot write standard output: {error}; going on without it");
        }
    }
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_gone {
            return Ok(bytes.len());
        }
        match self.out.write(bytes) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.give_up(&error);
                Ok(bytes.len())
            }
            outcome => outcome,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Where it is gone, nobody reads what is left in its buffer.
        if let Err(error) = self.out.flush()
            && !self.is_gone
        {
            self.give_up(&error);
        }
        Ok(())
    }
}

/// What the last line of statistics was about.
struct Meter {
    every: Duration,
    due: Nanos,
    last: Statistics,
}

/// Runs `ringwire serve`.
pub(super) fn run(options: &ServeOptions, settings: Settings) -> Result<ExitCode, CommandError> {
    let config = configure(options, &settings)?;
    let stop = Stop::on_signals()?;
    let mut run = Run::start(options, &config, None)?;
    let served = run.serve(options, &stop);
    // In order, also when nobody reads any more what is printed.
    let (_, ended) = run.end();
    served.and(ended).map_err(CommandError::Stdout)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `ringwire record --listen`: serves, and records what comes.
pub(super) fn run_recording(
    options: &ServeOptions,
    settings: Settings,
    plan: &RecordingPlan<'_>,
) -> Result<ExitCode, CommandError> {
    let config = configure(options, &settings)?;
    let stop = Stop::on_signals()?;
    let (tap, frames) = plan.tap();
    let mut run = Run::start(options, &config, Some(tap.clone()))?;
    let endpoint = run.server.addresses().iter().map(ToString::to_string).collect::<Vec<_>>();
    run.recording = Some(Recording::start(plan, &config, frames, endpoint.join(" "))?);
    let served = run.serve(options, &stop);
    let (recording, ended) = run.end();
    // Not before: without a tap the recording ends, and takes no more names of who came.
    drop(tap);
    let code = recording.expect("it was begun above").finish()?;
    served.and(ended).map_err(CommandError::Stdout)?;
    Ok(code)
}

fn configure(options: &ServeOptions, settings: &Settings) -> Result<Config, CommandError> {
    let mut builder = settings.builder.clone();
    if let Some(idle) = options.idle {
        builder = builder.idle(idle);
    }
    if let Some(reactors) = options.reactors {
        builder = builder.reactors(reactors.into());
    }
    if let Some(cores) = &options.cores {
        builder = builder.cores(cores.clone());
    }
    if let Some(address) = &options.metrics {
        builder = builder.metrics_address(address);
    }
    settings.build(builder)
}

fn start(
    options: &ServeOptions,
    config: &Config,
    conduct: Conduct,
    refused: &Arc<AtomicU64>,
    tap: Option<Tap>,
) -> Result<Server, SetupError> {
    let mut builder = Server::builder().config(config.clone()).listen(&*options.address);
    if let Some(tap) = tap {
        builder = builder.tap(tap);
    }
    for kind in Kind::APPLICATION {
        if conduct.prints_any(kind) {
            continue;
        }
        let refused = Arc::clone(refused);
        builder = builder.on(kind, move |context, frame| {
            if conduct.answers(frame.kind(), frame.is_request())
                && reply_in_place(context, frame).is_err()
            {
                // ORDERING: Relaxed, paired with the load in `end`: a mere count.
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    builder.start()
}

/// Hot path: once per message that is sent back and not printed.
fn reply_in_place(context: &mut Context<'_>, frame: Frame<'_>) -> Result<(), ringwire::SendError> {
    context.reply(answer_to(frame.kind(), frame.priority()), &frame)
}

/// How an answer travels: what a command leads to is a status, anything else comes back as it was.
fn answer_to(kind: Kind, priority: Priority) -> Envelope {
    let kind = if kind == Kind::Command { Kind::Status } else { kind };
    Envelope::of(kind).priority(priority)
}

/// Makes room for as many connections as the configuration allows, and warns where the process may
/// not have it: accepting fails later then, is counted and tried again.
fn raise_descriptor_limit(config: &Config) {
    let reactors = config.reactor_count() as u64;
    let connections = reactors * u64::from(config.connections_max());
    let needed = connections + DESCRIPTORS_SPARE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        let raised = Rlimit { current: limit.maximum.map(|most| most.min(needed)), ..limit };
        // Refused, or not far enough.
        let _ = setrlimit(Resource::Nofile, raised);
        let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if current < needed {
            eprintln!(
                "warning: {current} descriptors are too few for {connections} connections \
                 (connections_max), which take {needed}: raise RLIMIT_NOFILE (`ulimit -n`, \
                 LimitNOFILE=); until then some are not accepted"
            );
        }
    }
}

impl Conduct {
    fn answers(self, kind: Kind, is_request: bool) -> bool {
        self.echo_all || is_request || kind == Kind::Command
    }

    fn prints(self, kind: Kind, is_request: bool) -> bool {
        !self.quiet && (self.print_all || !self.answers(kind, is_request))
    }

    /// Whether messages of this kind have to pass through the inbox.
    fn prints_any(self, kind: Kind) -> bool {
        self.prints(kind, false) || self.prints(kind, true)
    }
}

impl Run {
    fn start(
        options: &ServeOptions,
        config: &Config,
        tap: Option<Tap>,
    ) -> Result<Self, CommandError> {
        raise_descriptor_limit(config);
        // Who records looks at the messages later.
        let quiet = options.quiet || (tap.is_some() && !options.print);
        let conduct = Conduct { echo_all: options.echo, print_all: options.print, quiet };
        let refused = Arc::new(AtomicU64::new(0));
        let server = start(options, config, conduct, &refused, tap)?;
        Ok(Self {
            server,
            conduct,
            refused,
            log: Log::new(!options.quiet),
            messages: 0,
            inbox_frames_max: u64::from(config.inbox_frames_max())
                + config.reactor_count() as u64
                + 1,
            recording: None,
        })
    }

    /// Until a signal, or the time given.
    fn serve(&mut self, options: &ServeOptions, stop: &Stop) -> io::Result<()> {
        let end = options.run_for.map_or(Nanos::NEVER, |time| Nanos::now() + time);
        let mut meter = options.statistics.map(|every| Meter {
            every,
            due: Nanos::now() + every,
            last: self.server.statistics(),
        });
        for address in self.server.addresses() {
            writeln!(self.log.out, "listening on {address}")?;
        }
        self.log.out.flush()?;
        let is_watched = self.log.columns.is_some() && io::stderr().is_terminal();
        if is_watched {
            eprintln!("Ctrl-C ends in order, twice at once");
        }
        while !stop.is_set() {
            let now = Nanos::now();
            if now >= end {
                break;
            }
            if let Some(meter) = &mut meter
                && now >= meter.due
            {
                let statistics = self.server.statistics();
                writeln!(self.log.out, "{} {}", stamp(), meter.line(now, statistics))?;
            }
            if let Some(recording) = &mut self.recording {
                recording.look();
            }
            let due = meter.as_ref().map_or(Nanos::NEVER, |meter| meter.due);
            let wait = TICK.min(end.min(due).since(now));
            self.step(wait)?;
        }
        if is_watched {
            // The terminal has written ^C without a line break.
            eprintln!();
        }
        Ok(())
    }

    /// Prints the next message, and who came and left until then.
    fn step(&mut self, wait: Duration) -> io::Result<()> {
        self.fetch_events();
        self.log.say_pending(self.messages)?;
        let message = match self.server.receive(Duration::ZERO) {
            Ok(message) => message,
            Err(_) => {
                // All that came before those events has been printed.
                self.log.say_pending(u64::MAX)?;
                self.log.out.flush()?;
                let Ok(message) = self.server.receive(wait) else { return Ok(()) };
                message
            }
        };
        // Again: whoever sent it has come by now, and that is said first.
        self.fetch_events();
        self.log.say_who_came(&message)?;
        self.handle(&message)?;
        self.messages += 1;
        self.log.say_pending(self.messages)
    }

    fn handle(&mut self, message: &Message) -> io::Result<()> {
        if self.conduct.prints(message.kind(), message.is_request()) {
            self.log.message(message)?;
        }
        if self.conduct.answers(message.kind(), message.is_request()) {
            let envelope = answer_to(message.kind(), message.priority());
            if self.server.reply(message, envelope, message).is_err() {
                // ORDERING: Relaxed, paired with the load in `end`: a mere count.
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Remembers who came and left until it is to be said.
    fn fetch_events(&mut self) {
        while let Some(event) = self.server.poll_event() {
            if let Some(recording) = &self.recording {
                recording.note(&event);
            }
            let printed_before = match event.kind {
                EventKind::Connected => 0,
                _ => self.messages + self.inbox_frames_max,
            };
            self.log.remember(event, printed_before);
        }
    }

    /// Ends the server in order, and says what became of what was under way. The recording has
    /// not ended, whatever could be said.
    fn end(self) -> (Option<Recording>, io::Result<()>) {
        let Self { server, conduct, refused, mut log, recording, .. } = self;
        let handle = server.handle();
        let report = server.shutdown(END_DEADLINE);
        // Also of who came while this thread had to wait for its reader.
        while let Some(event) = handle.poll_event() {
            if let Some(recording) = &recording {
                recording.note(&event);
            }
            log.remember(event, 0);
        }
        // ORDERING: Relaxed: the threads that counted have been joined.
        let refused = refused.load(Ordering::Relaxed);
        let said = log.last(&handle, conduct).and_then(|()| log.summary(&handle, report, refused));
        (recording, said.and_then(|()| log.out.flush()))
    }
}

fn stamp() -> TimeOfDay {
    TimeOfDay(wall_ns())
}

impl Log {
    /// Takes standard output for the rest of the run.
    pub(super) fn new(says_who: bool) -> Self {
        Self {
            out: BufWriter::new(Reader { out: io::stdout().lock(), is_gone: false }),
            columns: terminal_columns(),
            says_who,
            pending: VecDeque::new(),
        }
    }

    /// Says one thing that happened, at once.
    pub(super) fn say(&mut self, event: &Event) -> io::Result<()> {
        if self.says_who {
            self.event(event)?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn message(&mut self, message: &Message) -> io::Result<()> {
        let type_id = match message.type_id() {
            0 => "-".into(),
            number => format!("{number:#x}"),
        };
        let head = format!(
            "{} {:<6} {:<7} {:<8} {type_id:<5} ",
            stamp(),
            message.connection().to_string(),
            kind_name(message.kind()),
            priority_name(message.priority()),
        );
        let columns = self.columns.map_or(EXCERPT_COLUMNS, |columns| {
            // A narrow terminal wraps rather than show nothing.
            columns.saturating_sub(head.chars().count()).max(16)
        });
        writeln!(self.out, "{head}{}", Excerpt { payload: message.payload(), columns })
    }

    fn remember(&mut self, event: Event, printed_before: u64) {
        if self.says_who {
            self.pending.push_back((event, printed_before));
        }
    }

    /// Says who came and left, in order, until one of whom messages may not be among the first
    /// `printed`.
    fn say_pending(&mut self, printed: u64) -> io::Result<()> {
        while self.pending.front().is_some_and(|&(_, before)| before <= printed) {
            if let Some((event, _)) = self.pending.pop_front() {
                self.event(&event)?;
            }
        }
        Ok(())
    }

    /// Prints what is left in the inbox of a server that has ended, and who left.
    fn last(&mut self, handle: &NodeHandle, conduct: Conduct) -> io::Result<()> {
        while let Ok(message) = handle.receive(Duration::ZERO) {
            self.say_who_came(&message)?;
            if conduct.prints(message.kind(), message.is_request()) {
                self.message(&message)?;
            }
        }
        self.say_pending(u64::MAX)
    }

    /// Says that the sender of `message` came, before its first message, also if somebody left
    /// before it of whom messages may still be to print.
    fn say_who_came(&mut self, message: &Message) -> io::Result<()> {
        let is_it = |(event, _): &(Event, u64)| {
            event.connection == message.connection() && event.kind == EventKind::Connected
        };
        let Some(at) = self.pending.iter().position(is_it) else { return Ok(()) };
        self.pending.remove(at).map_or(Ok(()), |(event, _)| self.event(&event))
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        match &event.kind {
            EventKind::Connected => self.connected(event),
            EventKind::LinkLost { link, reason, messages_dropped } => {
                let what = format!("{}link lost: {reason}", which(*link));
                self.link(event, &what, *messages_dropped)
            }
            // The first attempt is at once, and the loss has just been said.
            EventKind::Reconnecting { link, attempt: attempt @ 2.., reason } => {
                let what = format!("{}dials again, attempt {attempt}: {reason}", which(*link));
                self.link(event, &what, 0)
            }
            EventKind::Resumed { link, messages_dropped } => {
                let what = format!("{}link back: the session goes on", which(*link));
                self.link(event, &what, *messages_dropped)
            }
            EventKind::SessionLost { undelivered, omitted } => {
                let lost = counted(undelivered.len() as u64 + omitted, "reliable message");
                self.link(event, &format!("session lost: {lost} not confirmed"), 0)
            }
            _ => self.left(event),
        }
    }

    /// What happened between a session's first connection and its end.
    fn link(&mut self, event: &Event, what: &str, dropped: u64) -> io::Result<()> {
        write!(self.out, "{} {:<6} ~ {what}", stamp(), event.connection.to_string())?;
        if dropped > 0 {
            write!(self.out, "; {} dropped", counted(dropped, "message"))?;
        }
        writeln!(self.out)
    }

    fn connected(&mut self, event: &Event) -> io::Result<()> {
        writeln!(
            self.out,
            "{} {:<6} + connected{}",
            stamp(),
            event.connection.to_string(),
            Whose(event)
        )
    }

    fn left(&mut self, event: &Event) -> io::Result<()> {
        let EventKind::Disconnected { reason, established, messages_dropped } = event.kind else {
            return Ok(());
        };
        let id = event.connection.to_string();
        write!(self.out, "{} {id:<6} - ", stamp())?;
        match established {
            true => write!(self.out, "disconnected: {reason}")?,
            // Nobody was said to have come.
            false => write!(self.out, "not admitted{}: {reason}", Whose(event))?,
        }
        if messages_dropped > 0 {
            write!(self.out, "; {} dropped", counted(messages_dropped, "message"))?;
        }
        writeln!(self.out)
    }

    fn summary(
        &mut self,
        handle: &NodeHandle,
        report: ShutdownReport,
        refused: u64,
    ) -> io::Result<()> {
        let statistics = handle.statistics();
        let drops = statistics.drops.iter();
        let (dropped, by_lane) =
            all_drops(drops.map(|drop| (Priority::ALL[drop.lane], drop.reason.name(), drop.count)));
        writeln!(
            self.out,
            "ended: {} received, {} sent, {} dropped; {} served",
            counted(statistics.messages_received, "message"),
            statistics.messages_sent,
            dropped,
            counted(statistics.connections_established, "client"),
        )?;
        write!(self.out, "{by_lane}")?;
        if report.connections > 0 {
            let open = counted(report.connections, "open connection");
            writeln!(self.out, "  {} of {open} flushed and ended in order", report.flushed)?;
        }
        if refused > 0 {
            let answers = counted(refused, "answer");
            writeln!(self.out, "  {answers} not sent: the client read too slowly, or was leaving")?;
        }
        for close in statistics.closes.iter().filter(|_| statistics.errors() > 0) {
            writeln!(self.out, "  {} {}", close.count, close.reason)?;
        }
        Ok(())
    }
}

/// Whose event it is, as far as the peer has an address and a name.
struct Whose<'a>(&'a Event);

impl std::fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Event { address, node_name, .. } = self.0;
        // A Unix socket's client has no address, and one that is gone at once has none any more.
        if !["", "unix:", "unknown"].contains(&&**address) {
            write!(f, " from {address}")?;
        }
        if !node_name.is_empty() {
            write!(f, " ({})", Excerpt { payload: node_name.as_bytes(), columns: 64 })?;
        }
        Ok(())
    }
}

impl Meter {
    /// What happened since the last line.
    fn line(&mut self, now: Nanos, statistics: Statistics) -> String {
        let seconds = (now.since(self.due) + self.every).as_secs_f64();
        let rate = |new: u64, old: u64| Metric((new - old) as f64 / seconds);
        let last = &self.last;
        let mut line = format!(
            "= {}, in {}msg/s {}B/s, out {}msg/s {}B/s",
            counted(statistics.connections_active, "client"),
            rate(statistics.messages_received, last.messages_received),
            rate(statistics.bytes_received, last.bytes_received),
            rate(statistics.messages_sent, last.messages_sent),
            rate(statistics.bytes_sent, last.bytes_sent),
        );
        // Left out as long as there are none, so that the line fits a terminal.
        if statistics.errors() > 0 {
            line += &format!(", {} so far", counted(statistics.errors(), "error"));
        }
        self.last = statistics;
        self.due = now + self.every;
        line
    }
}

/// How many messages were dropped, and a line for each lane and reason.
fn all_drops(drops: impl Iterator<Item = (Priority, &'static str, u64)>) -> (u64, String) {
    let (mut sum, mut lines) = (0_u64, String::new());
    for (lane, reason, count) in drops {
        sum = sum.saturating_add(count);
        lines += &format!("  {count} dropped in lane {}: {reason}\n", priority_name(lane));
    }
    (sum, lines)
}

/// Names a link where that tells more than "the link".
fn which(link: Link) -> &'static str {
    match link {
        Link::Main => "",
        Link::Express => "express ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Conduct = Conduct { echo_all: false, print_all: false, quiet: false };

    #[test]
    fn drops_of_every_reason_are_told() {
        assert_eq!(all_drops(std::iter::empty()), (0, String::new()));
        let drops = [(Priority::Low, "overflow", 41_277), (Priority::High, "expired", 3)];
        let (sum, lines) = all_drops(drops.into_iter());
        assert_eq!(sum, 41_280);
        let expected = "  41277 dropped in lane low: overflow\n  3 dropped in lane high: expired\n";
        assert_eq!(lines, expected);
    }

    #[test]
    fn every_message_is_answered_or_printed() {
        for kind in Kind::APPLICATION {
            for is_request in [false, true] {
                let answered = kind == Kind::Command || is_request;
                assert_eq!(PLAIN.answers(kind, is_request), answered);
                assert_eq!(PLAIN.prints(kind, is_request), !answered);
                let echo = Conduct { echo_all: true, ..PLAIN };
                assert!(echo.answers(kind, is_request));
                assert!(!echo.prints(kind, is_request));
                let print = Conduct { print_all: true, ..PLAIN };
                assert!(print.prints(kind, is_request));
                assert_eq!(print.answers(kind, is_request), answered);
                let quiet = Conduct { quiet: true, ..PLAIN };
                assert!(!quiet.prints(kind, is_request));
            }
        }
    }

    /// Answers to commands do not pass through the printing thread unless they are printed.
    #[test]
    fn what_is_not_printed_stays_on_its_reactor() {
        assert!(!PLAIN.prints_any(Kind::Command));
        assert!(PLAIN.prints_any(Kind::Data));
        assert!(!Conduct { echo_all: true, ..PLAIN }.prints_any(Kind::Data));
        assert!(Conduct { print_all: true, ..PLAIN }.prints_any(Kind::Command));
    }
}

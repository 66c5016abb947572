//! `ringwire send`: sends messages, and waits for the answers of those that are requests.
//!
//! A request is sent when the one before it has been answered, so one is in flight. Messages
//! without an answer stream: a full lane is waited for, so a slow server slows the reading of
//! standard input. Every wait ends with `--timeout`. Ctrl-C and SIGTERM end it in order once it is
//! connected: what was sent leaves, the server is told, and the summary is of what there was.
//!
//! With `--rate`, a message has an intended instant, and its round trip counts from there: a
//! request that was late because the one before it hung is as late as its caller would find it.
//!
//! Answers go to standard output, and nothing else does.
//!
//! Not a benchmark: `ringwire bench` knows what the machine itself costs.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, StdinLock, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use ringwire::config::Config;
use ringwire::wire::Codec;
use ringwire::{
    Client, CloseReason, ConnectionState, Envelope, Idle, Kind, Message, Nanos, Priority,
    RequestError, SendError, ShutdownReport, Wait,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::de::IgnoredAny;

use crate::cli::options::{
    idle_parser, kind_name, kind_parser, parse_rate, parse_type_id, priority_parser,
};
use crate::cli::show::{Excerpt, Marked, Short, counted, terminal_columns};
use crate::cli::stop::{END_DEADLINE, INTERRUPTED, Stop, TICK};
use crate::cli::{CommandError, Settings};

/// How often the session is looked after while the next line is long in coming: several times in
/// the shortest silence that a server may take for an end.
const KEEP_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// How long to wait for an answer, or for room, when the option does not say.
pub(super) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Longest `--timeout`, in milliseconds; the configuration's own bound of the connect timeout.
pub(super) const TIMEOUT_MS_MAX: i64 = 600_000;
/// The last part of a wait for an instant is spun: a sleep may end this much too late.
pub(super) const WAKE_SLACK: Duration = Duration::from_micros(150);
/// An answer on a terminal is cut after so many of its lines.
const EXCERPT_LINES: usize = 4;

/// Send messages to a server and print its answers.
///
/// Each MESSAGE is one message. Without any, or with `-`, every line of standard input is one.
/// Commands wait for their answer: it goes to standard output, everything else to standard error.
/// On a terminal a long answer is cut, and one that is not text is shown in hexadecimal; elsewhere
/// its bytes are written as they are, with a line break behind them unless they answer a --file.
///
/// Ctrl-C ends it in order, with its summary; twice at once.
///
/// Exit code 0 when everything was sent and answered, 1 when not, 2 for a senseless command line,
/// 130 when Ctrl-C or SIGTERM ended it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ringwire send drive-7 status
  ringwire send 10.0.0.7:9000 --count 5000 --rate 1000 ping
  tail -f cell.log | ringwire send unix:/run/cell.sock --kind data")]
pub(crate) struct SendOptions {
    /// Where the server listens: host:port, [v6]:port, a bare host (port 7411) or unix:/path.
    #[arg(value_name = "ADDR")]
    address: String,

    /// What to send; `-` is standard input, line by line.
    #[arg(value_name = "MESSAGE")]
    messages: Vec<String>,

    /// What the messages are: command, data, status, error or configuration.
    #[arg(long, default_value = "command", hide_possible_values = true,
          value_parser = kind_parser())]
    kind: Kind,

    /// Which lane they take: low, normal, high or critical.
    #[arg(long, visible_alias = "lane", value_name = "LANE", default_value = "normal",
          hide_possible_values = true, value_parser = priority_parser())]
    priority: Priority,

    /// The number of their payload type; 0x101 is understood.
    #[arg(long = "type", value_name = "N", allow_negative_numbers = true,
          default_value = "0", value_parser = parse_type_id)]
    type_id: u32,

    /// The payloads are JSON: checked here, and marked as such.
    #[arg(long)]
    json: bool,

    /// Send the contents of a file as one message.
    #[arg(long, value_name = "FILE", conflicts_with = "messages")]
    file: Option<PathBuf>,

    /// Wait for an answer to every message, of whatever kind.
    #[arg(long)]
    request: bool,

    /// Wait for no answers, not even to commands.
    #[arg(long, conflicts_with = "request")]
    one_way: bool,

    /// Send all of it so many times; the answers are summed up, not printed.
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,

    /// Messages per second; round trips then count from the intended instant.
    #[arg(long, value_name = "HZ", allow_negative_numbers = true, value_parser = parse_rate)]
    rate: Option<Duration>,

    /// Milliseconds to wait for the connection, an answer, or room to send [default: 5000; the
    /// handshake has 2000].
    #[arg(long, value_name = "MS", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=TIMEOUT_MS_MAX))]
    timeout: Option<u32>,

    /// What this side does while it waits [default: adaptive].
    #[arg(long, value_name = "spin|adaptive|park", hide_possible_values = true,
          value_parser = idle_parser())]
    idle: Option<Idle>,
}

/// Why messages were not sent, or not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendFailure {
    /// The connection ended.
    #[error("connection lost: {reason}")]
    Lost { reason: CloseReason },
    /// The message itself was refused.
    #[error("not sent: {0}")]
    Refused(SendError),
    /// A request failed in another way than by a timeout.
    #[error("not answered: {0}")]
    NotAnswered(RequestError),
    /// The server does not read.
    #[error("the server has read nothing for {timeout:?}: its lane here is full")]
    Stalled { timeout: Duration },
    /// What is to be sent could not be read.
    #[error("cannot read {what}: {source}")]
    Input { what: String, source: io::Error },
    /// One message is longer than any frame.
    #[error("{what} is longer than a message may be: frame_bytes_max = {bytes_max}")]
    TooLong { what: String, bytes_max: usize },
    /// `--json` was asked for, and it is none.
    #[error("{what} is not JSON: {source}")]
    NotJson { what: String, source: serde_json::Error },
    /// The connection broke on the way, or ended before everything had been handed over.
    #[error("the connection broke, or did not end in order: {} lost or not sent, others may not \
             have been read", counted(*messages, "message"))]
    Undelivered { messages: u64 },
}

/// Where the messages come from.
enum Source {
    Given(Vec<Vec<u8>>),
    Lines,
}

/// A session, and what has been said in it.
struct Talk<'a> {
    client: Client,
    options: &'a SendOptions,
    envelope: Envelope,
    asks: bool,
    timeout: Duration,
    /// Whether each answer is printed.
    prints: bool,
    pace: Option<Pace>,
    tally: Tally,
    stop: Stop,
    /// Messages that the server sent of itself.
    unasked: Rc<Cell<u64>>,
}

/// When the next message is to leave.
struct Pace {
    next: Nanos,
    every: Duration,
}

/// What became of the messages.
struct Tally {
    started: Nanos,
    sent: u64,
    answered: u64,
    timed_out: u64,
    /// Answers of kind error.
    errors: u64,
    round_trips: Histogram<u64>,
}

/// Runs `ringwire send`.
pub(super) fn run(options: &SendOptions, settings: Settings) -> Result<ExitCode, CommandError> {
    let config = configure(options, &settings)?;
    let source = read_source(options, &config)?;
    let mut talk = Talk::connect(options, config)?;
    match source {
        Source::Given(messages) => talk.send_all(&messages)?,
        Source::Lines => talk.send_lines()?,
    }
    talk.finish()
}

fn configure(options: &SendOptions, settings: &Settings) -> Result<Config, CommandError> {
    let mut builder = settings.builder.clone();
    if let Some(idle) = options.idle {
        builder = builder.idle(idle);
    }
    if let Some(timeout_ms) = options.timeout {
        builder = builder.connect_timeout_ms(timeout_ms).handshake_timeout_ms(timeout_ms);
    }
    settings.build(builder)
}

/// Reads what stands on the command line or in a file, before anything is connected.
fn read_source(options: &SendOptions, config: &Config) -> Result<Source, CommandError> {
    let bytes_max = config.frame_bytes_max() as usize;
    if let Some(path) = &options.file {
        let payload = read_file(path, bytes_max)?;
        check_json(options, &payload, || path.display().to_string())?;
        return Ok(Source::Given(vec![payload]));
    }
    if options.messages.len() > 1 && options.messages.iter().any(|message| message == "-") {
        return Err(CommandError::Usage("`-` stands alone: it is standard input".into()));
    }
    if options.messages.is_empty() || options.messages == ["-"] {
        if options.count > 1 {
            let text = "--count repeats what is given on the command line, not standard input";
            return Err(CommandError::Usage(text.into()));
        }
        return Ok(Source::Lines);
    }
    for message in &options.messages {
        check_json(options, message.as_bytes(), || {
            format!("{}", Excerpt { payload: message.as_bytes(), columns: 40 })
        })?;
    }
    Ok(Source::Given(options.messages.iter().map(|text| text.clone().into_bytes()).collect()))
}

fn read_file(path: &Path, bytes_max: usize) -> Result<Vec<u8>, SendFailure> {
    let what = path.display().to_string();
    let mut payload = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut payload));
    match read {
        Ok(bytes) if bytes > bytes_max => Err(SendFailure::TooLong { what, bytes_max }),
        Ok(_) => Ok(payload),
        Err(source) => Err(SendFailure::Input { what, source }),
    }
}

fn check_json(
    options: &SendOptions,
    payload: &[u8],
    what: impl FnOnce() -> String,
) -> Result<(), SendFailure> {
    if options.json
        && let Err(source) = serde_json::from_slice::<IgnoredAny>(payload)
    {
        return Err(SendFailure::NotJson { what: what(), source });
    }
    Ok(())
}

impl<'a> Talk<'a> {
    fn connect(options: &'a SendOptions, config: Config) -> Result<Self, CommandError> {
        let mut client = Client::new(config)?;
        let unasked = Rc::new(Cell::new(0));
        for kind in Kind::APPLICATION {
            let unasked = Rc::clone(&unasked);
            // Taken, so that they do not fill the inbox and stop the answers behind them.
            client.on(kind, move |_, _| unasked.set(unasked.get() + 1));
        }
        client.connect(&options.address)?;
        // Not before: until there is a session, there is nothing to end in order.
        let stop = Stop::on_signals()?;
        let started = Nanos::now();
        let timeout = options
            .timeout
            .map_or(TIMEOUT_DEFAULT, |timeout_ms| Duration::from_millis(timeout_ms.into()));
        Ok(Self {
            client,
            options,
            envelope: Envelope::of(options.kind).priority(options.priority),
            asks: options.request || (options.kind == Kind::Command && !options.one_way),
            timeout,
            prints: options.count == 1,
            pace: options.rate.map(|every| Pace { next: started, every }),
            tally: Tally::new(started),
            stop,
            unasked,
        })
    }

    fn send_all(&mut self, messages: &[Vec<u8>]) -> Result<(), CommandError> {
        for _ in 0..self.options.count {
            for message in messages {
                if self.stop.is_set() {
                    return Ok(());
                }
                self.send(message)?;
            }
        }
        Ok(())
    }

    fn send_lines(&mut self) -> Result<(), CommandError> {
        let bytes_max = self.client.reactor().config().frame_bytes_max() as usize;
        // A buffer of our own: standard input's does not tell what it holds.
        let mut input = BufReader::with_capacity(64 << 10, io::stdin().lock());
        if io::stdin().is_terminal() {
            eprintln!("one message per line; Ctrl-D ends");
        }
        let mut line = Vec::new();
        for number in 1_u64.. {
            if self.stop.is_set() {
                break;
            }
            line.clear();
            let what = || format!("line {number} of standard input");
            match self.read_line(&mut input, bytes_max + 2, &mut line) {
                // A line that was not read to its end is no message.
                Ok(()) if line.is_empty() || self.stop.is_set() => break,
                Ok(()) => {}
                Err(source) => return Err(SendFailure::Input { what: what(), source }.into()),
            }
            if line.ends_with(b"\n") {
                line.pop();
            } else if line.len() > bytes_max {
                return Err(SendFailure::TooLong { what: what(), bytes_max }.into());
            }
            check_json(self.options, &line, what)?;
            self.send(&line)?;
        }
        Ok(())
    }

    /// Reads on to the end of a line, to `bytes_max` bytes of it, to the end of standard input, or
    /// until a signal.
    /// What comes may be long in coming: meanwhile the session is kept.
    fn read_line(
        &mut self,
        input: &mut BufReader<StdinLock<'_>>,
        bytes_max: usize,
        line: &mut Vec<u8>,
    ) -> io::Result<()> {
        while line.last() != Some(&b'\n') && line.len() < bytes_max {
            if input.buffer().is_empty() {
                let standard_input = rustix::stdio::stdin();
                let mut watched = [PollFd::new(&standard_input, PollFlags::IN)];
                loop {
                    self.client.poll();
                    match poll(&mut watched, Some(&KEEP_EVERY)) {
                        Ok(0) | Err(Errno::INTR) if self.stop.is_set() => return Ok(()),
                        Ok(0) | Err(Errno::INTR) => {}
                        outcome => {
                            outcome?;
                            break;
                        }
                    }
                }
            }
            let available = input.fill_buf()?;
            if available.is_empty() {
                break;
            }
            let available = &available[..available.len().min(bytes_max - line.len())];
            let end = available.iter().position(|&byte| byte == b'\n');
            let taken = &available[..end.map_or(available.len(), |at| at + 1)];
            line.extend_from_slice(taken);
            let count = taken.len();
            input.consume(count);
        }
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), CommandError> {
        let codec = if self.options.json { Codec::Json } else { Codec::Opaque };
        let body = Marked { codec, type_id: self.options.type_id, payload };
        let from = self.await_instant();
        if self.stop.is_set() {
            return Ok(());
        }
        self.tally.sent += 1;
        if self.asks { self.ask(&body, from) } else { Ok(self.stream(&body)?) }
    }

    /// Waits until the next message is due, or a signal comes; returns since when its round trip
    /// counts.
    fn await_instant(&mut self) -> Nanos {
        let Some(pace) = &mut self.pace else { return Nanos::now() };
        let due = pace.next;
        pace.next = due + pace.every;
        if due > Nanos::now() {
            self.client.flush();
        }
        loop {
            let left = due.since(Nanos::now());
            if left.is_zero() || self.stop.is_set() {
                return due;
            }
            if left <= WAKE_SLACK {
                self.client.poll();
            } else if self.client.run_for(TICK.min(left - WAKE_SLACK)).is_err() {
                // The link is lost: the next message, which is due for nobody, tells why.
                return due;
            }
        }
    }

    /// Sends a request and prints its answer.
    fn ask(&mut self, body: &Marked<'_>, from: Nanos) -> Result<(), CommandError> {
        // What the server says besides would fill the inbox.
        while self.client.reactor().receive().is_some() {}
        let answer = match self.await_answer(body) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(()),
            Err(error @ RequestError::Timeout { .. }) => {
                self.tally.timed_out += 1;
                if self.prints {
                    eprintln!("error: {error}");
                }
                return Ok(());
            }
            Err(error) => return Err(self.explain(error).into()),
        };
        let round_trip = Nanos::now().since(from);
        self.tally.answered += 1;
        self.tally.errors += u64::from(answer.kind() == Kind::Error);
        let nanos = u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX);
        self.tally.round_trips.saturating_record(nanos);
        if self.prints {
            self.print_answer(&answer, round_trip).map_err(CommandError::Stdout)?;
        }
        Ok(())
    }

    /// Sends a request and waits for its answer; `None` when a signal came before it.
    fn await_answer(&mut self, body: &Marked<'_>) -> Result<Option<Message>, RequestError> {
        let request = self.client.start_request(self.envelope, body, self.timeout)?;
        loop {
            if let Some(outcome) = self.client.take_response(request) {
                return outcome.map(Some);
            }
            if self.stop.is_set() {
                self.client.cancel_request(request);
                return Ok(None);
            }
            // A failing ring shows as a lost connection in the next attempt.
            let _ = self.client.reactor().turn(Wait::Until(Nanos::now() + TICK));
        }
    }

    fn print_answer(&self, answer: &Message, round_trip: Duration) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let payload = answer.payload();
        if let Some(columns) = terminal_columns() {
            writeln!(out, "{}", Excerpt { payload, columns: EXCERPT_LINES * columns })?;
        } else {
            out.write_all(payload)?;
            // What was a file is one again.
            out.write_all(if self.options.file.is_some() { b"" } else { b"\n" })?;
        }
        out.flush()?;
        let (kind, bytes) = (kind_name(answer.kind()), payload.len());
        eprintln!("  {kind}, {bytes} B, round trip {}", Short(round_trip));
        Ok(())
    }

    /// Queues a message; waits for room as long as the server goes on reading, or until a signal.
    fn stream(&mut self, body: &Marked<'_>) -> Result<(), SendFailure> {
        let deadline = Nanos::now() + self.timeout;
        loop {
            match self.client.send(self.envelope, body) {
                Ok(()) => return Ok(()),
                Err(SendError::Full | SendError::MemoryFull) if self.stop.is_set() => {
                    // Counted before its turn came, and never queued.
                    self.tally.sent -= 1;
                    return Ok(());
                }
                Err(SendError::Full | SendError::MemoryFull) if Nanos::now() < deadline => {
                    // A failing ring shows as a lost connection in the next attempt.
                    let wait = Wait::Until(deadline.min(Nanos::now() + TICK));
                    let _ = self.client.reactor().turn(wait);
                }
                Err(SendError::Full | SendError::MemoryFull) => {
                    return Err(SendFailure::Stalled { timeout: self.timeout });
                }
                Err(error) => return Err(self.explain(RequestError::Send(error))),
            }
        }
    }

    /// What lies behind an error: "not connected" has a reason.
    fn explain(&mut self, error: RequestError) -> SendFailure {
        match error {
            RequestError::ConnectionLost { reason } => SendFailure::Lost { reason },
            RequestError::Send(SendError::NotConnected) => {
                let reason = self.client.disconnected_reason();
                SendFailure::Lost { reason: reason.unwrap_or(CloseReason::PeerClosed) }
            }
            RequestError::Send(error) => SendFailure::Refused(error),
            error => SendFailure::NotAnswered(error),
        }
    }

    /// Flushes, says goodbye and sums up.
    fn finish(mut self) -> Result<ExitCode, CommandError> {
        // Answers prove that requests came through; a stream is only known to have left.
        if !self.asks && self.client.connection_state() == ConnectionState::Disconnected {
            return Err(self.explain(SendError::NotConnected.into()).into());
        }
        let is_stopped = self.stop.is_set();
        if is_stopped && io::stderr().is_terminal() {
            // The terminal has written ^C without a line break.
            eprintln!();
        }
        let deadline = if is_stopped { END_DEADLINE.min(self.timeout) } else { self.timeout };
        let report = self.client.disconnect(deadline);
        let ended = Nanos::now();
        // The line below a single answer has said it all.
        if self.tally.sent != 1 || !self.asks || !self.prints || is_stopped {
            eprint!("{}", self.summary(ended));
        }
        if self.unasked.get() > 0 {
            let unasked = counted(self.unasked.get(), "message");
            eprintln!("{unasked} came that answered no request: not shown");
        }
        let delivered = if self.asks { Ok(()) } else { check_delivery(&self.client, &report) };
        if is_stopped {
            if let Err(error) = delivered {
                eprintln!("error: {error}");
            }
            return Ok(ExitCode::from(INTERRUPTED));
        }
        delivered?;
        let failed = self.tally.timed_out + self.tally.errors;
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn summary(&self, ended: Nanos) -> String {
        let tally = &self.tally;
        let seconds = ended.since(tally.started);
        let rate = tally.sent as f64 / seconds.as_secs_f64();
        let noun = if self.asks { "request" } else { "message" };
        let sent = counted(tally.sent, noun);
        let mut text = match tally.sent {
            0 => return "nothing to send\n".into(),
            1 => format!("{sent} sent"),
            _ => format!("{sent} in {} ({rate:.0} per second)", Short(seconds)),
        };
        if self.asks {
            text += &format!(": {} answered, {} timed out", tally.answered, tally.timed_out);
        }
        if tally.errors > 0 {
            text += &format!(", {} answered with an error", tally.errors);
        }
        text += "\n";
        if tally.answered > 0 {
            let at = |quantile| {
                Short(Duration::from_nanos(tally.round_trips.value_at_quantile(quantile)))
            };
            let max = Short(Duration::from_nanos(tally.round_trips.max()));
            let from = if self.pace.is_some() { ", from the intended instant" } else { "" };
            text += &format!("round trip: p50 {}, p99 {}, max {max}{from}\n", at(0.5), at(0.99));
        }
        text
    }
}

/// Whether everything that needs no answer has come as far as can be known: nothing was lost with a
/// link, also one that came back, and the last one ended in order.
pub(super) fn check_delivery(client: &Client, end: &ShutdownReport) -> Result<(), SendFailure> {
    let messages = client.statistics().messages_dropped;
    let is_in_order = end.connections > 0 && end.flushed == end.connections;
    if is_in_order && messages == 0 {
        return Ok(());
    }
    Err(SendFailure::Undelivered { messages })
}

impl Tally {
    fn new(started: Nanos) -> Self {
        // From 1 ns to an hour with three digits; longer ones count as the longest.
        let round_trips = Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
            .expect("the bounds are constants and valid");
        Self { started, sent: 0, answered: 0, timed_out: 0, errors: 0, round_trips }
    }
}

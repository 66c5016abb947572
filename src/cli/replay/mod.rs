//! `ringwire replay`: sends what was recorded, with its timing, or shows it.
//!
//! A frame has an intended instant: as long after the first one as it was recorded, divided by the
//! speed. How late it was handed over is measured from there, so a server that does not read shows
//! in the summary. With `--speed max` there is no such instant.
//!
//! Kind, lane, type, codec, reliability and time to live are those of the recording. Requests wait
//! for their answers, many at a time; answers of the recording answer nobody here and are left
//! out. Ctrl-C and SIGTERM end it in order once it is connected, with the summary so far.
//!
//! Not here: the file ([`ringwire::record`]), and which frames are meant ([`select`]).

mod list;
mod select;

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use ringwire::config::Config;
use ringwire::record::Direction;
use ringwire::{
    Client, CloseReason, ConnectionState, Envelope, Frame, Idle, Kind, Nanos, RequestError,
    RequestId, SendError, Wait,
};

use self::select::{Item, Selected, Selection};
use crate::cli::options::idle_parser;
use crate::cli::send::{SendFailure, TIMEOUT_DEFAULT, TIMEOUT_MS_MAX, WAKE_SLACK, check_delivery};
use crate::cli::show::{Metric, Short, counted};
use crate::cli::stop::{END_DEADLINE, INTERRUPTED, Stop, TICK};
use crate::cli::{CommandError, FAILURE, Settings};

/// Requests that wait for their answer at once; fewer than `requests_max` has by default.
const ASKED_MAX: u32 = 512;

/// Send what was recorded, with its timing, faster or slower; or show it.
///
/// Sends what the recorder received; --frames sent sends the other side's part. The summary says
/// how late frames were, and what was left out or refused.
///
/// Ctrl-C ends it in order, with the summary so far; twice at once.
///
/// Exit code 0 when everything was sent and answered, 1 when not, or when nothing was selected, 130
/// when Ctrl-C or SIGTERM ended it. With --list 1 when the file is cut off or damaged: what could
/// be read of it is shown all the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ringwire replay shift-3.rwrec --list
  ringwire replay shift-3.rwrec 127.0.0.1:7411 --from 12.5 --to 20
  ringwire replay shift-3.rwrec 127.0.0.1:7411 --speed max --lane low")]
pub(crate) struct ReplayOptions {
    /// The recording.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Where to send it: host:port, [v6]:port, a bare host (port 7411) or unix:/path.
    #[arg(value_name = "ADDR", required_unless_present = "list", conflicts_with = "list")]
    address: Option<String>,

    /// How many times as fast as it was: 0.5, 2, or max for no pauses at all.
    #[arg(long, value_name = "FACTOR|max", default_value = "1", allow_negative_numbers = true,
          value_parser = parse_speed)]
    speed: Speed,

    #[command(flatten)]
    selection: Selection,

    /// Show what is in it instead.
    ///
    /// Behind the type, ? asks for an answer, = is one, ! is reliable and ~ expires.
    #[arg(long)]
    list: bool,

    /// Show it as JSON lines.
    #[arg(long, requires = "list")]
    json: bool,

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

/// How fast a recording is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Speed {
    Times(f64),
    Max,
}

fn parse_speed(text: &str) -> Result<Speed, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(Speed::Max),
        Ok(factor) if (0.001..=1e6).contains(&factor) => Ok(Speed::Times(factor)),
        _ => Err("a factor from 0.001 to 1000000, or max, is expected".into()),
    }
}

/// When frames are to be sent.
#[derive(Debug)]
struct Schedule {
    speed: Speed,
    /// When the first frame was recorded, and when it is sent.
    begun: Option<(Nanos, Nanos)>,
}

impl Schedule {
    /// The instant at which a frame recorded `at` is to be sent; `None` when there is none. The
    /// first one is sent at once.
    fn due(&mut self, at: Nanos, now: Nanos) -> Option<Nanos> {
        let Speed::Times(factor) = self.speed else { return None };
        let (first, start) = *self.begun.get_or_insert((at, now));
        Some(start + at.since(first).div_f64(factor))
    }
}

/// What became of the frames.
struct Tally {
    started: Nanos,
    frames: u64,
    bytes: u64,
    lateness: Histogram<u64>,
    answered: u64,
    unanswered: u64,
    /// Answers, which answer nobody here.
    answers: u64,
    refused: Vec<(&'static str, u64)>,
}

/// A session, and what is sent in it.
struct Replay<'a> {
    client: Client,
    options: &'a ReplayOptions,
    timeout: Duration,
    schedule: Schedule,
    /// Requests without an answer so far, in order.
    asked: VecDeque<RequestId>,
    tally: Tally,
    stop: Stop,
}

/// Runs `ringwire replay`.
pub(super) fn run(options: &ReplayOptions, settings: Settings) -> Result<ExitCode, CommandError> {
    let Some(address) = &options.address else {
        let selected = options.selection.open(&options.file, None)?;
        let is_whole = list::print(selected, options.json)?;
        return Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) });
    };
    let config = configure(options, &settings)?;
    let mut selected = options.selection.open(&options.file, Some(Direction::Received))?;
    let mut replay = Replay::connect(options, config, address)?;
    let mut is_empty = true;
    selected.each(|item| {
        if let Item::Frame(recorded, frame) = item {
            is_empty = false;
            replay.send(recorded.at, &frame)?;
        }
        Ok(if replay.stop.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if is_empty && !replay.stop.is_set() {
        let _ = replay.client.disconnect(replay.timeout);
        return Err(selected.nothing());
    }
    replay.finish(&selected)
}

fn configure(options: &ReplayOptions, settings: &Settings) -> Result<Config, CommandError> {
    let mut builder = settings.builder.clone();
    if let Some(idle) = options.idle {
        builder = builder.idle(idle);
    }
    if let Some(timeout_ms) = options.timeout {
        builder = builder.connect_timeout_ms(timeout_ms).handshake_timeout_ms(timeout_ms);
    }
    settings.build(builder)
}

/// How a recorded frame travels again.
fn envelope_of(frame: &Frame<'_>) -> Envelope {
    let mut envelope = Envelope::of(frame.kind()).priority(frame.priority());
    if frame.is_reliable() {
        envelope = envelope.reliable();
    }
    if let Some(extension) = frame.extension() {
        envelope = envelope.destination(extension.destination.get());
        // Of a request it may be how long it was waited for, which is not said again.
        if frame.expires() {
            envelope = envelope.ttl(Duration::from_micros(extension.ttl_us.get().into()));
        }
    }
    envelope
}

/// Why one message was not sent, when others may be.
fn refusal(error: SendError) -> &'static str {
    match error {
        SendError::TooLarge { .. } => "longer than the server or frame_bytes_max allows",
        SendError::NotConnected => "while the link was down",
        SendError::Expired => "expired before it was sent",
        _ => "not sendable",
    }
}

impl<'a> Replay<'a> {
    fn connect(
        options: &'a ReplayOptions,
        config: Config,
        address: &str,
    ) -> Result<Self, CommandError> {
        let mut client = Client::new(config)?;
        for kind in Kind::APPLICATION {
            // Taken, so that they do not fill the inbox and stop the answers behind them.
            client.on(kind, |_, _| {});
        }
        client.connect(address)?;
        // Not before: until there is a session, there is nothing to end in order.
        let stop = Stop::on_signals()?;
        let timeout = options
            .timeout
            .map_or(TIMEOUT_DEFAULT, |timeout_ms| Duration::from_millis(timeout_ms.into()));
        Ok(Self {
            client,
            options,
            timeout,
            schedule: Schedule { speed: options.speed, begun: None },
            asked: VecDeque::with_capacity(ASKED_MAX as usize),
            tally: Tally::new(),
            stop,
        })
    }

    /// Sends a frame at its instant. Nothing is sent any more after a signal.
    fn send(&mut self, at: Nanos, frame: &Frame<'_>) -> Result<(), CommandError> {
        if frame.is_response() {
            self.tally.answers += 1;
            return Ok(());
        }
        if let Some(due) = self.schedule.due(at, Nanos::now()) {
            self.await_instant(due);
            if self.stop.is_set() {
                return Ok(());
            }
            let late = Nanos::now().since(due);
            let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
            self.tally.lateness.saturating_record(nanos);
        }
        let envelope = envelope_of(frame);
        let deadline = Nanos::now() + self.timeout;
        loop {
            let outcome = match frame.is_request() {
                true => self.ask(envelope, frame),
                false => self.client.send(envelope, frame).map_err(RequestError::Send),
            };
            let stalled = match outcome {
                Ok(()) => break,
                Err(RequestError::Send(SendError::Full | SendError::MemoryFull)) => true,
                Err(RequestError::TooMany { .. }) => false,
                Err(error) if self.client.connection_state() == ConnectionState::Disconnected => {
                    return Err(self.lost(error).into());
                }
                Err(RequestError::Send(error)) => {
                    self.tally.refuse(refusal(error));
                    return Ok(());
                }
                Err(error) => return Err(SendFailure::NotAnswered(error).into()),
            };
            if self.stop.is_set() {
                return Ok(());
            }
            if stalled && Nanos::now() >= deadline {
                return Err(SendFailure::Stalled { timeout: self.timeout }.into());
            }
            self.wait_for_room(deadline);
        }
        self.tally.frames += 1;
        self.tally.bytes += frame.frame_bytes() as u64;
        Ok(())
    }

    /// Waits for a frame's instant, or a signal. What is queued leaves before, and answers are
    /// taken.
    fn await_instant(&mut self, due: Nanos) {
        if due <= Nanos::now() {
            return;
        }
        self.client.flush();
        loop {
            self.take_answers();
            let left = due.since(Nanos::now());
            if left.is_zero() || self.stop.is_set() {
                return;
            }
            if left <= WAKE_SLACK {
                self.client.poll();
            } else if self.client.run_for(TICK.min(left - WAKE_SLACK)).is_err() {
                // The link is lost: the next message tells why.
                return;
            }
        }
    }

    fn ask(&mut self, envelope: Envelope, body: &Frame<'_>) -> Result<(), RequestError> {
        self.take_answers();
        if self.asked.len() >= ASKED_MAX as usize {
            return Err(RequestError::TooMany { requests_max: ASKED_MAX });
        }
        let request = self.client.start_request(envelope, body, self.timeout)?;
        self.asked.push_back(request);
        Ok(())
    }

    /// Counts the answers that have come, or never will.
    fn take_answers(&mut self) {
        while let Some(&request) = self.asked.front() {
            match self.client.take_response(request) {
                None => return,
                Some(Ok(_)) => self.tally.answered += 1,
                Some(Err(_)) => self.tally.unanswered += 1,
            }
            self.asked.pop_front();
        }
    }

    /// One turn, in which the server may read and answer.
    fn wait_for_room(&mut self, deadline: Nanos) {
        // A failing ring shows as a lost connection in the next attempt.
        let _ = self.client.reactor().turn(Wait::Until(deadline.min(Nanos::now() + TICK)));
        self.take_answers();
    }

    fn lost(&self, error: RequestError) -> SendFailure {
        match error {
            RequestError::ConnectionLost { reason } => SendFailure::Lost { reason },
            _ => SendFailure::Lost {
                reason: self.client.disconnected_reason().unwrap_or(CloseReason::PeerClosed),
            },
        }
    }

    /// Waits for the last answers, flushes, says goodbye and sums up.
    fn finish(mut self, selected: &Selected<'_>) -> Result<ExitCode, CommandError> {
        self.client.flush();
        let deadline = Nanos::now() + self.timeout + self.timeout;
        while !self.asked.is_empty() && Nanos::now() < deadline && !self.stop.is_set() {
            self.wait_for_room(deadline);
        }
        let ended = Nanos::now();
        let is_stopped = self.stop.is_set();
        if is_stopped && io::stderr().is_terminal() {
            // The terminal has written ^C without a line break.
            eprintln!();
        }
        let deadline = if is_stopped { END_DEADLINE.min(self.timeout) } else { self.timeout };
        let report = self.client.disconnect(deadline);
        let mut lines = self.tally.summary(ended, self.options.speed);
        lines.extend(selected.remarks());
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        io::stdout().lock().write_all(text.as_bytes()).map_err(CommandError::Stdout)?;
        let delivered = check_delivery(&self.client, &report);
        if is_stopped {
            if let Err(error) = delivered {
                eprintln!("error: {error}");
            }
            return Ok(ExitCode::from(INTERRUPTED));
        }
        delivered?;
        let is_whole = self.tally.unanswered == 0 && self.tally.refused.is_empty();
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
    }
}

impl Tally {
    fn new() -> Self {
        // From 1 ns to an hour with three digits; longer ones count as the longest.
        let lateness = Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
            .expect("the bounds are constants and valid");
        Self {
            started: Nanos::now(),
            frames: 0,
            bytes: 0,
            lateness,
            answered: 0,
            unanswered: 0,
            answers: 0,
            refused: Vec::new(),
        }
    }

    fn refuse(&mut self, why: &'static str) {
        match self.refused.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, count)) => *count += 1,
            None => self.refused.push((why, 1)),
        }
    }

    fn summary(&self, ended: Nanos, speed: Speed) -> Vec<String> {
        let elapsed = ended.since(self.started);
        let speed = match speed {
            Speed::Times(1.0) => "at the original speed".into(),
            Speed::Times(factor) => format!("at {factor} times the speed"),
            Speed::Max => "as fast as it went".into(),
        };
        let mut lines = vec![format!(
            "replayed {} ({}B) in {}, {speed}",
            counted(self.frames, "frame"),
            Metric(self.bytes as f64),
            Short(elapsed),
        )];
        if !self.lateness.is_empty() {
            let at =
                |quantile| Short(Duration::from_nanos(self.lateness.value_at_quantile(quantile)));
            let max = Short(Duration::from_nanos(self.lateness.max()));
            let (p50, p90, p99, p999) = (at(0.5), at(0.9), at(0.99), at(0.999));
            lines.push(format!(
                "lateness: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}"
            ));
        }
        if self.answered + self.unanswered > 0 {
            let asked = counted(self.answered + self.unanswered, "request");
            lines.push(format!("{asked}: {} answered, {} not", self.answered, self.unanswered));
        }
        for (why, count) in &self.refused {
            lines.push(format!("refused: {}, {why}", counted(*count, "frame")));
        }
        if self.answers > 0 {
            let answers = counted(self.answers, "answer");
            lines.push(format!("left out: {answers}, which would answer nobody here"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_distances() {
        let due = |speed, at: &[u64]| {
            let mut schedule = Schedule { speed, begun: None };
            at.iter().map(|&at| schedule.due(Nanos(at), Nanos(1_000))).collect::<Vec<_>>()
        };
        let at = |nanos: &[u64]| nanos.iter().map(|&at| Some(Nanos(at))).collect::<Vec<_>>();
        let recorded = [700, 800, 1_700, 750];
        // One that was recorded late by another reactor is due when it was.
        assert_eq!(due(Speed::Times(1.0), &recorded), at(&[1_000, 1_100, 2_000, 1_050]));
        assert_eq!(due(Speed::Times(2.0), &recorded), at(&[1_000, 1_050, 1_500, 1_025]));
        assert_eq!(due(Speed::Times(0.1), &recorded), at(&[1_000, 2_000, 11_000, 1_500]));
        assert_eq!(due(Speed::Max, &recorded), [None; 4]);
    }

    #[test]
    fn speeds_have_bounds() {
        assert_eq!(parse_speed("max"), Ok(Speed::Max));
        assert_eq!(parse_speed("0.5"), Ok(Speed::Times(0.5)));
        for bad in ["0", "-1", "nan", "inf", "fast", "", "1e7", "MAX"] {
            assert!(parse_speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn summary_says_what_was_not_sent() {
        let mut tally = Tally::new();
        tally.frames = 2;
        tally.bytes = 128;
        tally.refuse("expired before it was sent");
        tally.refuse("expired before it was sent");
        tally.answers = 1;
        let lines = tally.summary(tally.started, Speed::Max);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].contains("2 frames, expired"), "{lines:?}");
        assert!(lines[2].contains("1 answer"), "{lines:?}");
    }
}

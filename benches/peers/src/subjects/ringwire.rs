//! Ringwire, as its README says to use it for latency: a `Client` driven by the calling thread and
//! a `Server` with one reactor on its core.
//!
//! `-spin`, `-adaptive` and `-park` are its idle strategies; over TCP on 127.0.0.1, `-unix` over a
//! Unix socket. Everything else is the default, but: with many connections both ends have memory
//! for all, and with bulk beside requests these are critical and bulk is low, over a session with
//! two connections (`express`). The lane holds 4 MiB instead of 1, as much as the gathering of
//! other subjects may have under way. The answer to a request is read in place. Messages of 32 KiB
//! and more are `Bytes`, which are sent from where they are (`in_place_bytes_min`).

use std::cell::RefCell;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use ::ringwire::error::{RequestError, SendError};
use ::ringwire::stats::Statistics;
use ::ringwire::time::Nanos;
use ::ringwire::{
    Address, Body, Client as RingwireClient, Config, ConnectionId, Context, Endpoint, Envelope,
    Frame, Idle, Kind, Priority, Reactor, Server, Wait,
};
use hdrhistogram::Histogram;

use super::raw::socket_path;
use super::{Facts, Ready, Role, Subject};
use crate::drive::{Client, Failure, Stopwatch, drive, now_or_never};
use crate::job::{BULK_BYTES, Calls, Case, Job, Round, Scenario};
use crate::message::{Desk, Message, Reply, Seen, Tag};
use crate::shared::{SHARED_BYTES_MIN, Shared};
use crate::{histogram, process};

/// Longest wait for an answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Address space given to messages at most, in each direction.
const MEMORY_MAX: u64 = 8 << 30;

struct Ringwire {
    name: &'static str,
    idle: Idle,
    transport: &'static str,
}

pub fn all() -> impl Iterator<Item = Box<dyn Subject>> {
    let ringwire =
        |name, idle, transport| Box::new(Ringwire { name, idle, transport }) as Box<dyn Subject>;
    [
        ringwire("ringwire-spin", Idle::Spin, "tcp"),
        ringwire("ringwire-adaptive", Idle::Adaptive, "tcp"),
        ringwire("ringwire-park", Idle::Park, "tcp"),
        ringwire("ringwire-spin-unix", Idle::Spin, "unix"),
        ringwire("ringwire-adaptive-unix", Idle::Adaptive, "unix"),
        ringwire("ringwire-park-unix", Idle::Park, "unix"),
    ]
    .into_iter()
}

thread_local! {
    /// What the server's only reactor has seen. Set by the first message. Not the handlers' own:
    /// theirs is shared by all reactors, and would take a lock for each message.
    static DESK: RefCell<Option<Desk>> = const { RefCell::new(None) };
}

impl Subject for Ringwire {
    fn facts(&self) -> Facts {
        Facts {
            name: self.name,
            idle: self.idle.name(),
            transport: self.transport,
            package: "ringwire",
            role: Role::Ringwire,
        }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        (self.transport == "unix" && case.scenario == Scenario::FanIn)
            .then_some("fan-in is measured over TCP")
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let endpoint = match self.transport {
            "unix" => format!("unix:{}", socket_path()),
            _ => "127.0.0.1:0".to_owned(),
        };
        let payload_bytes = job.case.payload_bytes;
        let take = move |payload: &[u8]| {
            DESK.with_borrow_mut(|desk| {
                desk.get_or_insert_with(|| Desk::new(payload_bytes)).take(payload)
            })
        };
        let urgency = urgency(&job.case);
        let started = Arc::new(OnceLock::<Server>::new());
        let asked = Arc::clone(&started);
        let server = Server::builder()
            .config(self.config(job)?)
            .listen(endpoint)
            .reactors(1)
            .on(Kind::Data, move |_, frame| {
                take(frame.payload());
            })
            // A reply that is refused is missed by the client, loudly.
            .on(Kind::Command, move |context, frame| {
                let _ = match take(frame.payload()) {
                    Reply::Echo => context
                        .reply(Envelope::command().priority(urgency), frame.payload())
                        .map(drop),
                    Reply::Seen(bytes) => context.reply(Envelope::status(), &bytes[..]).map(drop),
                    Reply::Nothing => Ok(()),
                };
            })
            // What it has called the kernel for, around what is timed.
            .on(Kind::Configuration, move |context, _| {
                let calls = asked.get().map(|server| calls_of(&server.statistics()));
                let _ =
                    context.reply(Envelope::status(), &calls.unwrap_or_default().to_bytes()[..]);
            })
            .start()?;
        let server = started.get_or_init(|| server);
        let address = match &server.addresses()[0] {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        ready(Ready::at(address))?;
        loop {
            // The process ends when standard input does.
            thread::park();
        }
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        if job.case.scenario == Scenario::FanIn {
            return Crowd::drive(&self.config(job)?, job);
        }
        let connect = async |job: &Job| -> Result<_, Failure> {
            let mut client = RingwireClient::new(self.config(job)?)?;
            client.connect(&job.address)?;
            let urgency = urgency(&job.case);
            Ok(One { client, urgency, shared: Shared::default() })
        };
        now_or_never(drive(job, connect))
    }
}

/// System calls of one end so far.
fn calls_of(end: &Statistics) -> Calls {
    Calls { enters: end.enters, direct: end.direct_sends + end.direct_receives }
}

/// Of requests: they overtake bulk where there is any.
fn urgency(case: &Case) -> Priority {
    if case.bulk { Priority::Critical } else { Priority::Normal }
}

impl Ringwire {
    fn config(&self, job: &Job) -> Result<Config, Failure> {
        let case = &job.case;
        let mut builder = Config::builder()
            .idle(self.idle)
            .cores([job.cores[0]])
            .express(case.bulk)
            // Room for the bulk message that leaves and the one that waits.
            .lane_bytes_max(u32::try_from(4 * BULK_BYTES)?);
        if case.scenario == Scenario::FanIn {
            // A few more than there are: old connections may still be closing.
            let count = case.connections + 8;
            let defaults = Config::default();
            let block = defaults.block_bytes().max(defaults.window_bytes());
            let memory = (2 * u64::from(block) * count as u64).min(MEMORY_MAX);
            builder = builder
                .connections_max(defaults.connections_max().max(u32::try_from(count)?))
                .send_memory_bytes(defaults.send_memory_bytes().max(memory))
                .receive_memory_bytes(defaults.receive_memory_bytes().max(memory));
        }
        Ok(builder.build()?)
    }
}

/// One session, the way most applications have one.
struct One {
    client: RingwireClient,
    urgency: Priority,
    shared: Shared,
}

impl One {
    fn send_message(&mut self, envelope: Envelope, message: &Message) -> Result<(), Failure> {
        if message.payload().len() < SHARED_BYTES_MIN {
            return self.send_waiting(envelope, message.payload());
        }
        let bytes = self.shared.bytes_of(message);
        self.send_waiting(envelope, &bytes)
    }

    fn send_waiting<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        payload: &B,
    ) -> Result<(), Failure> {
        while let Err(error) = self.client.send(envelope, payload) {
            if !matches!(error, SendError::Full | SendError::MemoryFull) {
                return Err(error.into());
            }
            self.client.reactor().turn(Wait::Until(Nanos::now() + ANSWER_TIME_MAX))?;
        }
        Ok(())
    }

    fn ask_for<R>(
        &mut self,
        envelope: Envelope,
        tag: Tag,
        read: fn(&[u8]) -> Option<R>,
    ) -> Result<R, Failure> {
        let question = Message::short(tag);
        let read = |frame: Frame<'_>| read(frame.payload());
        let limit = Nanos::now() + ANSWER_TIME_MAX;
        loop {
            let answer =
                self.client.request_with(envelope, question.payload(), ANSWER_TIME_MAX, read);
            match answer {
                // Behind what was sent: it waits for room as that did.
                Err(RequestError::Send(SendError::Full | SendError::MemoryFull))
                    if Nanos::now() < limit =>
                {
                    self.client.reactor().turn(Wait::Until(limit))?;
                }
                answer => return answer?.ok_or_else(|| "that is no answer".into()),
            }
        }
    }
}

impl Client for One {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        let payload = message.payload();
        let envelope = Envelope::command().priority(self.urgency);
        let is_right = |frame: Frame<'_>| frame.payload() == payload;
        if payload.len() < SHARED_BYTES_MIN {
            return Ok(self.client.request_with(envelope, payload, ANSWER_TIME_MAX, is_right)?);
        }
        let bytes = self.shared.bytes_of(message);
        Ok(self.client.request_with(envelope, &bytes, ANSWER_TIME_MAX, is_right)?)
    }

    #[inline]
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.send_message(Envelope::data(), message)
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Envelope::command(), Tag::Ask, Seen::from_bytes)
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.send_message(Envelope::data().priority(Priority::Low), message)
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        let envelope = Envelope::command().priority(Priority::Low);
        self.ask_for(envelope, Tag::AskBulk, Seen::from_bytes)
    }

    async fn idle_until(&mut self, until: Nanos) -> Result<(), Failure> {
        while Nanos::now() < until {
            self.client.poll();
        }
        Ok(())
    }

    async fn calls(&mut self) -> Result<Option<Calls>, Failure> {
        let server = self.ask_for(Envelope::configuration(), Tag::Ask, Calls::from_bytes)?;
        Ok(Some(server.with(calls_of(&self.client.statistics()))))
    }
}

/// Round trips over many connections of one reactor, driven by the handler of the answers.
struct Crowd {
    ends: Ends,
    message: Message,
    sequence: u64,
    until: Nanos,
    in_flight: usize,
    latency: Histogram<u64>,
    errors: u64,
    refused: Option<SendError>,
}

/// With a hash that costs a few instructions: floors have an index at hand.
#[expect(clippy::disallowed_types, reason = "what an application would keep")]
type Ends = std::collections::HashMap<ConnectionId, End, BuildHasherDefault<Mixed>>;

/// A hash of numbers nobody chooses to do harm: each is mixed in by a multiplication, and the bits
/// that are mixed best come to the low end.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        // Odd, and with no pattern: 2^64 divided by the golden ratio.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

struct End {
    sequence: u64,
    started: Nanos,
}

impl Crowd {
    fn drive(config: &Config, job: &Job) -> Result<Round, Failure> {
        let resident = process::resident_bytes(job.server_pid)?;
        let mut reactor = Reactor::new(config)?;
        let address = job.address.parse::<Endpoint>()?.resolve()?.remove(0);
        let mut ends =
            Ends::with_capacity_and_hasher(job.case.connections, BuildHasherDefault::default());
        for _ in 0..job.case.connections {
            ends.insert(reactor.connect(&address)?, End { sequence: 0, started: Nanos(0) });
        }
        let crowd = Rc::new(RefCell::new(Self {
            ends,
            message: Message::new(job.case.payload_bytes),
            sequence: 0,
            until: Nanos(0),
            in_flight: 0,
            latency: histogram::new(),
            errors: 0,
            refused: None,
        }));
        let handled = Rc::clone(&crowd);
        reactor.on(Kind::Command, move |context, frame| {
            handled.borrow_mut().take(context, &frame);
        });
        // Up to a time that has passed: one message on each connection.
        Self::run(&crowd, &mut reactor, Nanos(0))?;
        if crowd.borrow().errors > 0 {
            return Err("some first echoes are not what was sent".into());
        }
        let added = process::resident_bytes(job.server_pid)?.saturating_sub(resident);

        Self::run(&crowd, &mut reactor, Nanos(Nanos::now().0 + job.warm_up_ns))?;
        let before = Self::calls(&crowd, &mut reactor)?;
        let stopwatch = Stopwatch::start(job)?;
        Self::run(&crowd, &mut reactor, Nanos(Nanos::now().0 + job.duration_ns))?;
        let frames = 2 * crowd.borrow().latency.len();
        let round = stopwatch.stop(frames, crowd.borrow().errors)?;
        let calls = Self::calls(&crowd, &mut reactor)?.since(before);
        let crowd = crowd.borrow();
        Ok(Round {
            calls: Some(calls),
            histogram_v2: Some(histogram::encode(&crowd.latency)),
            resident_bytes_per_connection: Some(added as f64 / job.case.connections as f64),
            ..round
        })
    }

    /// System calls of both ends so far.
    fn calls(this: &RefCell<Self>, reactor: &mut Reactor) -> Result<Calls, Failure> {
        let connection = *this.borrow().ends.keys().next().ok_or("no connection to ask over")?;
        let (envelope, question) = (Envelope::configuration(), Message::short(Tag::Ask));
        let read = |frame: Frame<'_>| Calls::from_bytes(frame.payload());
        let answer = reactor.request_with(
            connection,
            envelope,
            question.payload(),
            ANSWER_TIME_MAX,
            read,
        )?;
        let server = answer.ok_or("that is no answer")?;
        Ok(server.with(calls_of(&reactor.statistics())))
    }

    /// Keeps one message in flight on each connection until `until`, then drains.
    fn run(this: &RefCell<Self>, reactor: &mut Reactor, until: Nanos) -> Result<(), Failure> {
        {
            let crowd = &mut *this.borrow_mut();
            crowd.latency.reset();
            (crowd.until, crowd.in_flight) = (until, crowd.ends.len());
            for (connection, end) in &mut crowd.ends {
                crowd.sequence += 1;
                crowd.message.stamp(Tag::Echo, crowd.sequence);
                end.sequence = crowd.sequence;
                end.started = Nanos::now();
                reactor.send(*connection, Envelope::command(), crowd.message.payload())?;
            }
        }
        while this.borrow().in_flight > 0 {
            reactor.turn(Wait::Until(Nanos::now() + ANSWER_TIME_MAX))?;
            if let Some(refused) = this.borrow_mut().refused.take() {
                return Err(refused.into());
            }
        }
        Ok(())
    }

    /// Hot path: once per answer.
    fn take(&mut self, context: &mut Context<'_>, frame: &Frame<'_>) {
        let connection = context.connection();
        let end = self.ends.get_mut(&connection).expect("a connection of ours");
        self.message.stamp(Tag::Echo, end.sequence);
        self.errors += u64::from(frame.payload() != self.message.payload());
        // As in `drive`: the clock is read when the answer has been compared, and again before the
        // next message goes.
        let now = Nanos::now();
        self.latency.saturating_record(now.0.saturating_sub(end.started.0));
        if now >= self.until {
            self.in_flight -= 1;
            return;
        }
        self.sequence += 1;
        self.message.stamp(Tag::Echo, self.sequence);
        (end.sequence, end.started) = (self.sequence, Nanos::now());
        if let Err(error) = context.reply(Envelope::command(), self.message.payload()) {
            self.refused = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::Hash;

    use super::*;

    /// Ids differ in their slot, which is counted up: neither a table's place, the low bits, nor
    /// what it compares first, the top seven, may be the same for many.
    #[test]
    fn hashes_of_neighbours_are_spread() {
        let hash = |slot: u64| {
            let mut hasher = Mixed::default();
            (7_u32, 1_u64 << 32 | slot).hash(&mut hasher);
            hasher.finish()
        };
        let hashes: Vec<u64> = (0..10_000).map(hash).collect();
        let different =
            |of: fn(u64) -> u64| hashes.iter().map(|&hash| of(hash)).collect::<BTreeSet<_>>().len();
        assert_eq!(different(|hash| hash), 10_000);
        let places = different(|hash| hash & 0x3fff);
        assert!(places > 6_000, "{places} of 16,384 places are taken by 10,000");
        assert_eq!(different(|hash| hash >> 57), 128);
    }
}

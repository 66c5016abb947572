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
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use ::ringwire::error::{RequestError, SendError};
use ::ringwire::time::Nanos;
use ::ringwire::{
    Address, Body, Client as RingwireClient, Config, ConnectionId, Context, Endpoint, Envelope,
    Frame, Idle, Kind, Priority, Reactor, Server, Wait,
};
use hdrhistogram::Histogram;

use super::raw::socket_path;
use super::{Facts, Ready, Role, Subject};
use crate::drive::{Client, Failure, Stopwatch, drive, now_or_never};
use crate::job::{BULK_BYTES, Case, Job, Round, Scenario};
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
    /// What the server's only reactor has seen. Set by the first message.
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
            .start()?;
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

    fn ask_for(&mut self, envelope: Envelope, tag: Tag) -> Result<Seen, Failure> {
        let question = Message::short(tag);
        let read = |frame: Frame<'_>| Seen::from_bytes(frame.payload());
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
        self.ask_for(Envelope::command(), Tag::Ask)
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.send_message(Envelope::data().priority(Priority::Low), message)
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Envelope::command().priority(Priority::Low), Tag::AskBulk)
    }

    async fn idle_until(&mut self, until: Nanos) -> Result<(), Failure> {
        while Nanos::now() < until {
            self.client.poll();
        }
        Ok(())
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

#[expect(clippy::disallowed_types, reason = "what an application would keep")]
type Ends = std::collections::HashMap<ConnectionId, End>;

struct End {
    sequence: u64,
    started: Nanos,
}

impl Crowd {
    fn drive(config: &Config, job: &Job) -> Result<Round, Failure> {
        let resident = process::resident_bytes(job.server_pid)?;
        let mut reactor = Reactor::new(config)?;
        let address = job.address.parse::<Endpoint>()?.resolve()?.remove(0);
        let mut ends = Ends::with_capacity(job.case.connections);
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
        let stopwatch = Stopwatch::start(job)?;
        Self::run(&crowd, &mut reactor, Nanos(Nanos::now().0 + job.duration_ns))?;
        let crowd = crowd.borrow();
        let round = stopwatch.stop(2 * crowd.latency.len(), crowd.errors)?;
        Ok(Round {
            histogram_v2: Some(histogram::encode(&crowd.latency)),
            resident_bytes_per_connection: Some(added as f64 / job.case.connections as f64),
            ..round
        })
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

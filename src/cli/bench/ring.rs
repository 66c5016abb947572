//! The subject itself: a ringwire client and server, used as an application would use them.
//!
//! One connection goes through [`Client`]; many share one [`Reactor`] on the client's thread. The
//! server is one reactor on the server's core, and its handlers do what the floors' servers do:
//! echo a message, or count frames and check their length (their sequence the session checks).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use ringwire::error::SendError;
use ringwire::stats::Statistics;
use ringwire::time::Nanos;
use ringwire::{
    Client, Config, ConnectionId, Context, Envelope, Frame, Kind, Reactor, Server, Wait,
};

use super::failover;
use super::harness::{Calls, Round, Stopwatch, Subject, SubjectError, WAIT_MAX, latency_histogram};
use super::plan::{Plan, Scenario};
use super::socket::payload;
use super::stream::Answer;

/// Bytes queued on a connection between two turns of a stream.
const BATCH_BYTES: usize = 64 << 10;
/// How long either end may take to say goodbye; not timed.
pub(super) const GOODBYE_TIME: Duration = Duration::from_secs(2);
/// Connections besides those measured, while old ones are closing.
const CONNECTIONS_SPARE: usize = 8;
/// Address space given to messages at most, in each direction.
const MEMORY_MAX: u64 = 8 << 30;

/// Ringwire.
#[derive(Debug)]
pub(super) struct Ring;

impl Subject for Ring {
    fn name(&self) -> &'static str {
        "ringwire"
    }

    fn round(&self, plan: &Plan) -> Result<Round, SubjectError> {
        match (plan.case.scenario, plan.case.connections) {
            (Scenario::Failover, _) => failover::round(plan),
            (Scenario::Rtt, 1) => rtt(plan, One::open),
            (Scenario::Rtt, _) => rtt_of_many(plan),
            (Scenario::Stream, 1) => stream(plan, One::open),
            (Scenario::Stream, _) => stream(plan, Many::open),
        }
    }
}

/// The configuration of either end: the file's, the case's idle strategy, and room for the
/// connections.
fn config(plan: &Plan, core: usize) -> Result<Config, SubjectError> {
    let case = plan.case;
    let count = case.connections + CONNECTIONS_SPARE;
    let connections = u32::try_from(count).expect("at most 10,000 and a few");
    // So that no message is refused for want of memory, which would be another test: each
    // connection may have a block in flight and one that gathers. Frames longer than a block come
    // from classes up to four times their length, which get an eighth of the memory. This is
    // address space, of which only what is used becomes resident.
    let block_bytes = plan.config.block_bytes().max(plan.config.window_bytes()) as usize;
    let memory = match case.frame_bytes() {
        // One connection runs with what the configuration says.
        _ if case.connections == 1 => 0,
        long if long > block_bytes => 2 * 4 * 8 * long * count,
        _ => 2 * block_bytes * count,
    };
    let memory = (memory as u64).min(MEMORY_MAX);
    let settings = plan.settings.clone();
    let config = settings
        .idle(case.idle)
        .cores([core])
        .connections_max(plan.config.connections_max().max(connections))
        .send_memory_bytes(plan.config.send_memory_bytes().max(memory))
        .receive_memory_bytes(plan.config.receive_memory_bytes().max(memory))
        .build()?;
    Ok(config)
}

/// What a stream's server has seen since it was last asked. Written by its one reactor only.
#[derive(Debug, Default)]
struct Seen {
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl Seen {
    /// Hot path: once per frame. With one writer, a load and a store will do.
    #[inline]
    fn count(&self, frame: &Frame<'_>, payload_bytes: usize) {
        let bytes = self.bytes.load(Relaxed) + frame.frame_bytes() as u64;
        self.bytes.store(bytes, Relaxed);
        if frame.payload().len() != payload_bytes {
            self.errors.store(self.errors.load(Relaxed) + 1, Relaxed);
        }
    }

    fn take(&self) -> Answer {
        Answer { bytes: self.bytes.swap(0, Relaxed), errors: self.errors.swap(0, Relaxed) }
    }
}

/// Starts the server of a case on its core.
pub(super) fn serve(plan: &Plan) -> Result<Server, SubjectError> {
    let builder = Server::builder()
        .config(config(plan, plan.cores.server)?)
        .listen("127.0.0.1:0")
        .reactors(1);
    let server = match plan.case.scenario {
        // A command carries the extension also when it is no response, so that every frame is as
        // long as the floor's. A reply that is refused is missed by the client, loudly.
        Scenario::Rtt | Scenario::Failover => builder.on(Kind::Command, |context, frame| {
            let _ = context.reply(Envelope::command(), frame.payload());
        }),
        Scenario::Stream => {
            let payload_bytes = plan.case.payload_bytes;
            let counted = Arc::new(Seen::default());
            let asked = Arc::clone(&counted);
            builder.on(Kind::Data, move |_, frame| counted.count(&frame, payload_bytes)).on(
                Kind::Command,
                move |context, _| {
                    let _ = context.reply(Envelope::status(), &asked.take().to_bytes()[..]);
                },
            )
        }
    };
    Ok(server.start()?)
}

/// The client's end.
pub(super) trait End: Sized {
    fn open(plan: &Plan, server: &Server) -> Result<Self, SubjectError>;

    /// Queues `frames` frames on every connection and lets the ring send. Returns how many frames
    /// that were.
    fn send(&mut self, payload: &[u8], frames: usize) -> Result<u64, SubjectError>;

    /// Asks for what has arrived since it was last asked.
    fn ask(&mut self) -> Result<Answer, SubjectError>;

    /// What has happened so far.
    fn statistics(&self) -> Statistics;

    /// Says goodbye; a server that does not answer costs [`GOODBYE_TIME`] and no figure.
    fn close(self);
}

/// One connection, the way most applications have one.
struct One {
    client: Client,
}

/// Many connections on one reactor.
pub(super) struct Many {
    pub(super) reactor: Reactor,
    pub(super) connections: Vec<ConnectionId>,
}

impl End for One {
    fn open(plan: &Plan, server: &Server) -> Result<Self, SubjectError> {
        let mut client = Client::new(config(plan, plan.cores.client)?)?;
        client.connect(&server.addresses()[0].to_string())?;
        Ok(Self { client })
    }

    fn send(&mut self, payload: &[u8], frames: usize) -> Result<u64, SubjectError> {
        for _ in 0..frames {
            while let Err(error) = self.client.send(Envelope::data(), payload) {
                wait_for_room(self.client.reactor(), error)?;
            }
        }
        self.client.poll();
        Ok(frames as u64)
    }

    fn ask(&mut self) -> Result<Answer, SubjectError> {
        Ok(self.client.request_with(Envelope::command(), &[][..], WAIT_MAX, read_answer)?)
    }

    fn statistics(&self) -> Statistics {
        self.client.statistics()
    }

    fn close(mut self) {
        let _ = self.client.disconnect(GOODBYE_TIME);
    }
}

impl End for Many {
    fn open(plan: &Plan, server: &Server) -> Result<Self, SubjectError> {
        let mut reactor = Reactor::new(&config(plan, plan.cores.client)?)?;
        let address = &server.addresses()[0];
        let connections = (0..plan.case.connections)
            .map(|_| reactor.connect(address))
            .collect::<Result<_, _>>()?;
        Ok(Self { reactor, connections })
    }

    fn send(&mut self, payload: &[u8], frames: usize) -> Result<u64, SubjectError> {
        for &connection in &self.connections {
            for _ in 0..frames {
                while let Err(error) = self.reactor.send(connection, Envelope::data(), payload) {
                    wait_for_room(&mut self.reactor, error)?;
                }
            }
            turn(&mut self.reactor, Wait::Poll)?;
        }
        Ok((frames * self.connections.len()) as u64)
    }

    fn ask(&mut self) -> Result<Answer, SubjectError> {
        let mut sum = Answer::default();
        for &connection in &self.connections {
            let answer = self.reactor.request_with(
                connection,
                Envelope::command(),
                &[][..],
                WAIT_MAX,
                read_answer,
            )?;
            sum.bytes += answer.bytes;
            sum.errors += answer.errors;
        }
        Ok(sum)
    }

    fn statistics(&self) -> Statistics {
        self.reactor.statistics()
    }

    fn close(mut self) {
        for connection in self.connections {
            self.reactor.disconnect(connection, GOODBYE_TIME);
        }
        // The goodbyes leave with the next turn; the server closes, or its shutdown does.
        let _ = self.reactor.turn(Wait::Poll);
    }
}

/// System calls of both ends so far.
fn calls(client: &Statistics, server: &Server) -> Calls {
    let server = server.statistics();
    let direct = |end: &Statistics| end.direct_sends + end.direct_receives;
    Calls { enters: client.enters + server.enters, direct: direct(client) + direct(&server) }
}

/// An answer of the wrong length counts as nothing having arrived.
fn read_answer(frame: Frame<'_>) -> Answer {
    frame.payload().try_into().map(Answer::from_bytes).unwrap_or_default()
}

/// Lets the ring work after a refused message, as the idle strategy says.
fn wait_for_room(reactor: &mut Reactor, refused: SendError) -> Result<(), SubjectError> {
    if !matches!(refused, SendError::Full | SendError::MemoryFull) {
        return Err(refused.into());
    }
    let limit = Nanos::now() + WAIT_MAX;
    turn(reactor, Wait::Until(limit))?;
    if Nanos::now() >= limit {
        return Err(silent("wait for room in the lane"));
    }
    Ok(())
}

pub(super) fn turn(reactor: &mut Reactor, wait: Wait) -> Result<(), SubjectError> {
    reactor.turn(wait).map_err(SubjectError::io("turn the reactor"))?;
    Ok(())
}

#[cold]
fn silent(what: &'static str) -> SubjectError {
    SubjectError::Io { what, source: io::ErrorKind::TimedOut.into() }
}

/// One-way, one connection or many.
fn stream<E: End>(
    plan: &Plan,
    open: fn(&Plan, &Server) -> Result<E, SubjectError>,
) -> Result<Round, SubjectError> {
    let frame_bytes = plan.case.frame_bytes();
    let server = serve(plan)?;
    let mut end = open(plan, &server)?;
    let payload = payload(plan.case.payload_bytes);
    let batch = (BATCH_BYTES / frame_bytes).max(1);
    let pump = |end: &mut E, until: Nanos| -> Result<(u64, Answer), SubjectError> {
        let mut frames = end.send(&payload, batch)?;
        while Nanos::now() < until {
            frames += end.send(&payload, batch)?;
        }
        Ok((frames, end.ask()?))
    };

    let (sent, answer) = pump(&mut end, Nanos(0))?;
    let (expected, got) = (sent, answer.bytes / frame_bytes as u64 - answer.errors);
    if got != expected {
        let what = "right frames in the first stream";
        return Err(SubjectError::WrongAnswer { what, expected, got });
    }
    pump(&mut end, Nanos::now() + plan.warm_up())?;

    let before = calls(&end.statistics(), &server);
    let stopwatch = Stopwatch::start();
    let (sent, answer) = pump(&mut end, Nanos::now() + plan.duration)?;
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    let calls = calls(&end.statistics(), &server).since(before);
    end.close();
    let _ = server.shutdown(GOODBYE_TIME);
    let arrived = answer.bytes / frame_bytes as u64;
    Ok(Round {
        latency: None,
        frames: arrived as f64,
        elapsed_ns,
        cpu_ns,
        calls: Some(calls),
        errors: answer.errors + sent.abs_diff(arrived),
    })
}

/// Round trips over one connection.
struct Trips {
    client: Client,
    payload: Vec<u8>,
    count: u64,
    latency: Histogram<u64>,
    errors: u64,
}

fn rtt(
    plan: &Plan,
    open: fn(&Plan, &Server) -> Result<One, SubjectError>,
) -> Result<Round, SubjectError> {
    let server = serve(plan)?;
    let mut trips = Trips {
        client: open(plan, &server)?.client,
        payload: payload(plan.case.payload_bytes),
        count: 0,
        latency: latency_histogram(),
        errors: 0,
    };
    trips.one()?;
    if trips.errors > 0 {
        let what = "first echoes that are right";
        return Err(SubjectError::WrongAnswer { what, expected: 1, got: 0 });
    }
    trips.run(Nanos::now() + plan.warm_up())?;
    trips.latency.reset();
    trips.errors = 0;

    let before = calls(&trips.client.statistics(), &server);
    let stopwatch = Stopwatch::start();
    trips.run(Nanos::now() + plan.duration)?;
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    let calls = calls(&trips.client.statistics(), &server).since(before);
    One { client: trips.client }.close();
    let _ = server.shutdown(GOODBYE_TIME);
    Ok(Round {
        frames: 2.0 * trips.latency.len() as f64,
        latency: Some(trips.latency),
        elapsed_ns,
        cpu_ns,
        calls: Some(calls),
        errors: trips.errors,
    })
}

impl Trips {
    fn run(&mut self, until: Nanos) -> Result<(), SubjectError> {
        while self.one()? < until {}
        Ok(())
    }

    /// Hot path: what is measured. No allocation, no logging.
    #[inline]
    fn one(&mut self) -> Result<Nanos, SubjectError> {
        self.count += 1;
        if let Some(stamp) = self.payload.first_chunk_mut() {
            *stamp = self.count.to_le_bytes();
        }
        let payload = &self.payload[..];
        let start = Nanos::now();
        let is_right = self
            .client
            .request_with(Envelope::command(), payload, WAIT_MAX, |f| f.payload() == payload)?;
        let end = Nanos::now();
        self.latency.saturating_record(end.0.saturating_sub(start.0));
        self.errors += u64::from(!is_right);
        Ok(end)
    }
}

/// Round trips over many connections, driven by the handler of the answers.
struct Exchange {
    /// When the message in flight left, by connection; sorted.
    started: Vec<(ConnectionId, Nanos)>,
    payload: Vec<u8>,
    until: Nanos,
    in_flight: usize,
    latency: Histogram<u64>,
    errors: u64,
    refused: Option<SendError>,
}

fn rtt_of_many(plan: &Plan) -> Result<Round, SubjectError> {
    let server = serve(plan)?;
    let mut end = Many::open(plan, &server)?;
    let mut started: Vec<_> = end.connections.iter().map(|&id| (id, Nanos(0))).collect();
    started.sort_unstable_by_key(|&(id, _)| id);
    let exchange = Rc::new(RefCell::new(Exchange {
        started,
        payload: payload(plan.case.payload_bytes),
        until: Nanos(0),
        in_flight: 0,
        latency: latency_histogram(),
        errors: 0,
        refused: None,
    }));
    let handled = Rc::clone(&exchange);
    end.reactor.on(Kind::Command, move |context, frame| {
        handled.borrow_mut().take(context, &frame);
    });
    let run = |end: &mut Many, until| Exchange::run(&exchange, &mut end.reactor, until);

    // Up to a time that has passed: one message on each connection, each answer checked.
    let wrong = run(&mut end, Nanos(0))?;
    if wrong > 0 {
        let what = "connections whose first echo is right";
        let expected = plan.case.connections as u64;
        return Err(SubjectError::WrongAnswer { what, expected, got: expected - wrong });
    }
    run(&mut end, Nanos::now() + plan.warm_up())?;
    exchange.borrow_mut().latency.reset();

    let before = calls(&end.statistics(), &server);
    let stopwatch = Stopwatch::start();
    let errors = run(&mut end, Nanos::now() + plan.duration)?;
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    let calls = calls(&end.statistics(), &server).since(before);
    end.close();
    let _ = server.shutdown(GOODBYE_TIME);
    let latency = exchange.borrow().latency.clone();
    Ok(Round {
        frames: 2.0 * latency.len() as f64,
        latency: Some(latency),
        elapsed_ns,
        cpu_ns,
        calls: Some(calls),
        errors,
    })
}

impl Exchange {
    /// Keeps one message in flight on each connection until `until`, then drains. Returns how
    /// many answers were wrong.
    fn run(this: &RefCell<Self>, reactor: &mut Reactor, until: Nanos) -> Result<u64, SubjectError> {
        {
            let Self { started, payload, in_flight, errors, until: end, .. } =
                &mut *this.borrow_mut();
            (*end, *errors, *in_flight) = (until, 0, started.len());
            for (connection, start) in started {
                *start = Nanos::now();
                reactor.send(*connection, Envelope::command(), &payload[..])?;
            }
        }
        // An answer that never comes ends the wait; no answer extends it.
        let limit = until.max(Nanos::now()) + WAIT_MAX;
        while this.borrow().in_flight > 0 {
            turn(reactor, Wait::Until(limit))?;
            if let Some(refused) = this.borrow_mut().refused.take() {
                return Err(refused.into());
            }
            if Nanos::now() >= limit {
                return Err(silent("round trip"));
            }
        }
        Ok(this.borrow().errors)
    }

    /// Hot path: what is measured; once per answer. No allocation, no logging.
    fn take(&mut self, context: &mut Context<'_>, frame: &Frame<'_>) {
        let now = Nanos::now();
        let connection = context.connection();
        let at = self.started.binary_search_by_key(&connection, |&(id, _)| id);
        let (_, started) = &mut self.started[at.expect("a connection of ours")];
        self.latency.saturating_record(now.0.saturating_sub(started.0));
        self.errors += u64::from(frame.payload() != &self.payload[..]);
        if now >= self.until {
            self.in_flight -= 1;
            return;
        }
        *started = now;
        if let Err(error) = context.reply(Envelope::command(), &self.payload[..]) {
            self.refused = Some(error);
        }
    }
}

//! The subject itself: a ringwire client and server, used as an application would use them.
//!
//! One connection goes through [`Client`]; many share one [`Reactor`] on the client's thread. The
//! server is one reactor on the server's core, and its handlers do what the floors' servers do:
//! echo a message, or count frames and check their length, and of one in 61 the content (their
//! sequence the session checks).
//! Here are both ends and streams; round trips are in `trips`, `cores` and `session`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use ringwire::error::{RequestError, SendError};
use ringwire::stats::Statistics;
use ringwire::time::Nanos;
use ringwire::{Body, Client, Config, ConnectionId, Envelope, Frame, Kind, Reactor, Server, Wait};

use super::harness::{Subject, SubjectError, WAIT_MAX};
use super::options::{Delivery, Scenario};
use super::plan::{Bulk, Case, Plan};
use super::round::{Calls, Extra, Round, Stopwatch};
use super::socket::payload;
use super::stream::{self, Answer};
use super::{cores, failover, session, silence, trips};

/// Bytes queued on a connection between two turns of a stream.
const BATCH_BYTES: usize = 64 << 10;
/// The same of long frames: as many as raw sockets write at once.
const BATCH_BYTES_LONG: usize = 256 << 10;
/// How long either end may take to say goodbye; not timed.
pub(super) const GOODBYE_TIME: Duration = Duration::from_secs(2);
/// Connections besides those measured, while old ones are closing.
const CONNECTIONS_SPARE: usize = 8;
/// Address space given to messages at most, in each direction.
const MEMORY_MAX: u64 = 8 << 30;

/// Ringwire.
#[derive(Debug)]
pub(super) struct Ring;

/// The name of [`Alone`] in the results.
pub(super) const ALONE: &str = "ringwire-alone";

/// Ringwire over the busy connections of a case only: what the silent ones cost these.
#[derive(Debug)]
pub(super) struct Alone;

impl Subject for Ring {
    fn round(&self, plan: &Plan) -> Result<Round, SubjectError> {
        match (plan.case.scenario, plan.case.connections) {
            (Scenario::Failover, _) => failover::round(plan),
            (Scenario::Paced | Scenario::Mixed, _) => session::round(plan),
            (Scenario::Cores, _) => cores::round(plan),
            (Scenario::Idle, _) => silence::round(plan),
            (Scenario::Rtt | Scenario::FanIn, 1) => trips::of_one(plan),
            (Scenario::Rtt | Scenario::FanIn, _) => trips::of_many(plan),
            (Scenario::Stream, 1) => stream(plan, One::open),
            (Scenario::Stream, _) => stream(plan, Many::open),
        }
    }
}

impl Subject for Alone {
    fn round(&self, plan: &Plan) -> Result<Round, SubjectError> {
        let case = Case { connections: plan.case.busy(), busy: 0, ..plan.case };
        // By the same program as all of them, also where it is one.
        let mut round = trips::of_many(&Plan { case, ..plan.clone() })?;
        // By connection it would be divided by all.
        round.extra.resident_bytes = None;
        Ok(round)
    }
}

/// The configuration of either end: the file's, the case's idle strategy, and room for the
/// connections.
pub(super) fn config(plan: &Plan, cores: &[usize]) -> Result<Config, SubjectError> {
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
        .express(plan.config.express() || case.bulk == Bulk::Express)
        .cores(cores)
        .connections_max(plan.config.connections_max().max(connections))
        .send_memory_bytes(plan.config.send_memory_bytes().max(memory))
        .receive_memory_bytes(plan.config.receive_memory_bytes().max(memory))
        .build()?;
    Ok(config)
}

/// What a stream's server has seen since it was last asked. Written by its one reactor only.
#[derive(Debug, Default)]
struct Seen {
    frames: AtomicU64,
    errors: AtomicU64,
}

impl Seen {
    /// Hot path: once per frame. With one writer, a load and a store will do.
    #[inline]
    fn count(&self, frame: &Frame<'_>, expected: &[u8]) {
        let before = self.frames.load(Relaxed);
        self.frames.store(before + 1, Relaxed);
        let is_right = frame.payload().len() == expected.len()
            && (!stream::is_compared(before) || frame.payload() == expected);
        if !is_right {
            self.errors.store(self.errors.load(Relaxed) + 1, Relaxed);
        }
    }

    /// In bytes of frames as long as the floor's, whatever they took on the wire.
    fn take(&self, frame_bytes: usize) -> Answer {
        let bytes = self.frames.swap(0, Relaxed) * frame_bytes as u64;
        Answer { bytes, errors: self.errors.swap(0, Relaxed) }
    }
}

/// Starts the server of a case on its core.
pub(super) fn serve(plan: &Plan) -> Result<Server, SubjectError> {
    serve_on(plan, &[plan.cores.server])
}

/// Starts the server of a case with a reactor on each of `cores`.
pub(super) fn serve_on(plan: &Plan, cores: &[usize]) -> Result<Server, SubjectError> {
    let builder =
        Server::builder().config(config(plan, cores)?).listen("127.0.0.1:0").reactors(cores.len());
    let server = match plan.case.scenario {
        Scenario::Stream => {
            let frame_bytes = plan.case.frame_bytes();
            let expected = payload(plan.case.payload_bytes);
            let counted = Arc::new(Seen::default());
            let asked = Arc::clone(&counted);
            builder.on(Kind::Data, move |_, frame| counted.count(&frame, &expected)).on(
                Kind::Command,
                move |context, _| {
                    let _ =
                        context.reply(Envelope::status(), &asked.take(frame_bytes).to_bytes()[..]);
                },
            )
        }
        // A command carries the extension also when it is no response, so that every frame is as
        // long as the floor's. A reply that is refused is missed by the client, loudly.
        _ => builder.on(Kind::Command, |context, frame| {
            let _ = context.reply(Envelope::command(), frame.payload());
        }),
    };
    Ok(server.start()?)
}

/// The client's end.
pub(super) trait End: Sized {
    fn open(plan: &Plan, server: &Server) -> Result<Self, SubjectError>;

    /// Queues `frames` frames on every connection and lets the ring send. Returns how many frames
    /// that were.
    fn send<B: Body + ?Sized>(&mut self, payload: &B, frames: usize) -> Result<u64, SubjectError>;

    /// Asks for what has arrived since it was last asked.
    fn ask(&mut self) -> Result<Answer, SubjectError>;

    /// What has happened so far.
    fn statistics(&self) -> Statistics;

    /// Says goodbye; a server that does not answer costs [`GOODBYE_TIME`] and no figure.
    fn close(self);
}

/// One connection, the way most applications have one.
pub(super) struct One {
    pub(super) client: Client,
    delivery: Delivery,
}

/// Many connections on one reactor.
pub(super) struct Many {
    pub(super) reactor: Reactor,
    pub(super) connections: Vec<ConnectionId>,
}

impl End for One {
    fn open(plan: &Plan, server: &Server) -> Result<Self, SubjectError> {
        let mut client = Client::new(config(plan, &[plan.cores.client])?)?;
        client.connect(&server.addresses()[0].to_string())?;
        Ok(Self { client, delivery: plan.case.delivery })
    }

    fn send<B: Body + ?Sized>(&mut self, payload: &B, frames: usize) -> Result<u64, SubjectError> {
        let envelope = self.delivery.of(Envelope::data());
        let mut left = frames;
        while left > 0 {
            let report = self.client.send_all(envelope, std::iter::repeat_n(payload, left));
            left -= report.queued;
            if let Some(error) = report.refused {
                wait_for_room(self.client.reactor(), error)?;
            }
        }
        self.client.poll();
        Ok(frames as u64)
    }

    fn ask(&mut self) -> Result<Answer, SubjectError> {
        ask_behind(&mut self.client, Client::reactor, |client| {
            client.request_with(Envelope::command(), &[][..], WAIT_MAX, read_answer)
        })
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
        Self::open_on(plan, server, plan.cores.client, plan.case.connections)
    }

    fn send<B: Body + ?Sized>(&mut self, payload: &B, frames: usize) -> Result<u64, SubjectError> {
        for &connection in &self.connections {
            let mut left = frames;
            while left > 0 {
                let bodies = std::iter::repeat_n(payload, left);
                let report = self.reactor.send_all(connection, Envelope::data(), bodies);
                left -= report.queued;
                if let Some(error) = report.refused {
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
            let answer = ask_behind(
                &mut self.reactor,
                |reactor| reactor,
                |reactor| {
                    reactor.request_with(
                        connection,
                        Envelope::command(),
                        &[][..],
                        WAIT_MAX,
                        read_answer,
                    )
                },
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

impl Many {
    /// `count` connections on a reactor that is pinned to `core`.
    pub(super) fn open_on(
        plan: &Plan,
        server: &Server,
        core: usize,
        count: usize,
    ) -> Result<Self, SubjectError> {
        let mut reactor = Reactor::new(&config(plan, &[core])?)?;
        let address = &server.addresses()[0];
        let connections = (0..count).map(|_| reactor.connect(address)).collect::<Result<_, _>>()?;
        Ok(Self { reactor, connections })
    }
}

impl Delivery {
    /// The envelope of a message that is delivered so.
    pub(super) fn of(self, envelope: Envelope) -> Envelope {
        match self {
            Self::BestEffort => envelope,
            Self::Reliable => envelope.reliable(),
        }
    }
}

/// Asks behind what was sent: the question waits for room as that did.
fn ask_behind<E>(
    end: &mut E,
    reactor: fn(&mut E) -> &mut Reactor,
    ask: impl Fn(&mut E) -> Result<Answer, RequestError>,
) -> Result<Answer, SubjectError> {
    loop {
        match ask(end) {
            Err(RequestError::Send(error)) => wait_for_room(reactor(end), error)?,
            answer => return Ok(answer?),
        }
    }
}

/// System calls of both ends so far.
pub(super) fn calls(client: &Statistics, server: &Server) -> Calls {
    calls_of(client).with(calls_of(&server.statistics()))
}

/// System calls of one end so far.
pub(super) fn calls_of(end: &Statistics) -> Calls {
    Calls { enters: end.enters, direct: end.direct_sends + end.direct_receives }
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
pub(super) fn silent(what: &'static str) -> SubjectError {
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
    // As an application that has long data in shared memory would; short data is copied anyway.
    let payload = Bytes::from(payload(plan.case.payload_bytes));
    let is_long = plan.case.payload_bytes >= plan.config.in_place_bytes_min() as usize;
    let batch = match is_long {
        true => BATCH_BYTES_LONG / plan.case.payload_bytes,
        false => BATCH_BYTES / frame_bytes,
    };
    let batch = batch.max(1);
    let send = |end: &mut E| match is_long {
        true => end.send(&payload, batch),
        false => end.send(&payload[..], batch),
    };
    let pump = |end: &mut E, until: Nanos| -> Result<(u64, Answer), SubjectError> {
        let mut frames = send(end)?;
        while Nanos::now() < until {
            frames += send(end)?;
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
        extra: Extra::default(),
    })
}

#[cfg(test)]
mod tests {
    use ringwire::wire::{Checksum, Codec, Decoder, Flags, FrameHead, frame_bytes};

    use super::*;

    #[test]
    fn what_a_stream_brings_is_compared() {
        let head = FrameHead {
            kind: Kind::Data,
            priority: ringwire::Priority::Normal,
            codec: Codec::Opaque,
            type_id: 0,
            sequence: 1,
            sent_at_ns: 0,
            flags: Flags::default(),
            extension: None,
            checksum: Checksum::Never,
        };
        let (right, mut wrong) = (payload(64), payload(64));
        wrong[40] ^= 1;
        let mut out = rkyv::util::AlignedVec::<16>::new();
        out.resize(frame_bytes(64, false), 0);
        let seen = Seen::default();
        let mut errors_of = |sent: &[u8]| {
            let written = head.encode(sent, &mut out);
            let mut input = &out[..written];
            let frame = Decoder::new(1024).next(&mut input).expect("sound").expect("whole");
            seen.count(&frame, &right);
            seen.errors.load(Relaxed)
        };
        assert_eq!(errors_of(&right), 0);
        assert_eq!(errors_of(&wrong), 0, "the second frame is not compared");
        assert_eq!(errors_of(&right[..63]), 1, "its length always is");
        for _ in 3..61 {
            assert_eq!(errors_of(&wrong), 1);
        }
        assert_eq!(errors_of(&wrong), 2, "the 62nd is compared again");
        assert_eq!(seen.take(96), Answer { bytes: 62 * 96, errors: 2 });
    }
}

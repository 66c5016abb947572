//! What each layer does per message, cut out so that it can be timed alone: the cases of
//! `benches/micro.rs` and `benches/instructions.rs`.
//!
//! Every case checks its answer while it is prepared, and again at the end of what is timed. A call
//! does [`Case::elements`] times the same, so that the call itself weighs little. Everything is in
//! cache and the branch predictor knows it: costs, not latencies.
//!
//! Compiled with the switches that break sessions for the simulation's mutation check, one look at
//! a thread-local variable each, which the library of an embedder does not have. So the counts of
//! lanes and sessions are a few per cent too high, and comparable with each other.

use std::hint::black_box;
use std::time::Duration;

use crate::config::Config;
use crate::mem::{Deadlines, Pool, PoolLayout};
use crate::reactor::command::{Command, Mailbox};
use crate::reactor::connection::{ConnectionId, ReactorId};
use crate::reactor::sessions::SessionKey;
use crate::session::heartbeat::HeartbeatPolicy;
use crate::session::lane::{Care, Holdings, Lane, LaneLimits, SendMemory};
use crate::session::{Correlation, Envelope, Identity, Input, Role, Session};
use crate::stats::{Counters, Histogram};
use crate::time::Nanos;
use crate::wire::decode::Likeness;
use crate::wire::handshake::{Features, SessionId};
use crate::wire::{
    Body, Checksum, Codec, Decoder, Extension, Flags, Frame, FrameHead, HEADER_BYTES, Kind,
    Priority, Scratch, encode, frame_bytes,
};

/// Frames of a case that does many at once.
const FRAMES: usize = 100;
/// Connections of a busy reactor: deadlines in its heap.
const SLOTS: u32 = 1_000;
/// Payload of the cases that do not name one.
const PAYLOAD: [u8; 64] = [0x5a; 64];
const NOW: Nanos = Nanos(1_000_000_000);

/// One thing that is timed.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `layer/what/size`.
    pub name: &'static str,
    /// How often a call does it.
    pub elements: u64,
    /// Allocates what it needs, checks the answer once, and returns what is to be timed. Its result
    /// depends on everything it does.
    pub prepare: fn() -> Box<dyn FnMut() -> u64>,
}

/// Every case there is.
pub const CASES: [Case; 18] = [
    case("wire/encode/64", FRAMES, || encoding(head(Checksum::Never))),
    case("wire/encode-crc/64", FRAMES, || encoding(head(Checksum::Always))),
    case("wire/encode-request/64", FRAMES, || encoding(request())),
    case("wire/decode/64", FRAMES, || decoding(head(Checksum::Never))),
    case("wire/decode-crc/64", FRAMES, || decoding(head(Checksum::Always))),
    case("wire/access/setpoint", 1, access),
    case("checksum/crc32c/64", 1, || checksum(64)),
    case("checksum/crc32c/1024", 1, || checksum(1024)),
    case("checksum/crc32c/65536", 1, || checksum(65_536)),
    case("lane/push-take/64", FRAMES, || lane(Care::NONE)),
    case("lane/push-take-reliable/64", FRAMES, || lane(Care::RELIABLE)),
    case("timer/move-pop/1000", SLOTS as usize, timer),
    case("stats/counters/message", FRAMES, counters),
    case("stats/histogram/value", FRAMES, histogram),
    case("command/post-take/1", 1, command),
    case("session/round-trip/64", 1, || round_trip(Envelope::command())),
    case("session/round-trip-reliable/64", 1, || round_trip(Envelope::command().reliable())),
    case("session/stream/64", FRAMES, stream),
];

const fn case(
    name: &'static str,
    elements: usize,
    prepare: fn() -> Box<dyn FnMut() -> u64>,
) -> Case {
    Case { name, elements: elements as u64, prepare }
}

/// A command as a control node sends it.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct Setpoint {
    axis: u32,
    mode: u8,
    position: [f64; 3],
    velocity: [f64; 3],
}

crate::payload!(Setpoint = 0x5e7);

fn head(checksum: Checksum) -> FrameHead {
    FrameHead {
        kind: Kind::Data,
        priority: Priority::Normal,
        codec: Codec::Opaque,
        type_id: 7,
        sequence: 1,
        sent_at_ns: NOW.0,
        flags: Flags::default(),
        extension: None,
        checksum,
    }
}

fn request() -> FrameHead {
    let extension = Extension { correlation: 42.into(), ..Extension::default() };
    FrameHead { flags: Flags::REQUEST, extension: Some(extension), ..head(Checksum::Commands) }
}

/// Memory that starts 16-aligned, as a receive window does.
fn aligned(bytes: usize) -> rkyv::util::AlignedVec<16> {
    let mut memory = rkyv::util::AlignedVec::with_capacity(bytes);
    memory.resize(bytes, 0);
    memory
}

fn encode_all(head: &FrameHead, out: &mut [u8]) -> u64 {
    let mut at = 0;
    for sequence in 0..u32::try_from(FRAMES).expect("few") {
        let head = FrameHead { sequence, ..*black_box(head) };
        at += head.encode(black_box(&PAYLOAD), &mut out[at..]);
    }
    at as u64
}

fn decode_all(decoder: &Decoder, stream: &[u8]) -> u64 {
    let mut rest = black_box(stream);
    let mut folded = 0;
    let mut likeness = Likeness::default();
    while let Some(frame) =
        decoder.next_like(&mut rest, &mut likeness).expect("the stream is sound")
    {
        folded += u64::from(frame.sequence()) + frame.payload().len() as u64;
    }
    folded
}

/// What [`decode_all`] makes of a stream of [`encode_all`].
fn folded() -> u64 {
    let count = FRAMES as u64;
    count * (count - 1) / 2 + count * PAYLOAD.len() as u64
}

fn encoding(head: FrameHead) -> Box<dyn FnMut() -> u64> {
    let mut out = aligned(FRAMES * frame_bytes(PAYLOAD.len(), head.extension.is_some()));
    assert_eq!(encode_all(&head, &mut out), out.len() as u64, "the frames fill their memory");
    assert_eq!(decode_all(&Decoder::new(1 << 10), &out), folded(), "and are read back");
    Box::new(move || encode_all(&head, &mut out))
}

fn decoding(head: FrameHead) -> Box<dyn FnMut() -> u64> {
    let mut stream = aligned(FRAMES * frame_bytes(PAYLOAD.len(), head.extension.is_some()));
    encode_all(&head, &mut stream);
    let decoder = Decoder::new(1 << 10);
    assert_eq!(decode_all(&decoder, &stream), folded(), "every frame is read");
    Box::new(move || decode_all(&decoder, &stream))
}

fn access() -> Box<dyn FnMut() -> u64> {
    let setpoint = Setpoint { axis: 3, mode: 1, position: [1.0, 2.0, 3.0], velocity: [0.5; 3] };
    let mut out = aligned(256);
    let payload_bytes = setpoint.encode(&mut out[HEADER_BYTES..], &mut Scratch::new());
    let payload_bytes = payload_bytes.expect("it fits");
    let head =
        FrameHead { codec: setpoint.codec(), type_id: setpoint.type_id(), ..head(Checksum::Never) };
    let written = head.finish(&mut out, payload_bytes);
    let decoder = Decoder::new(256);
    let read = move |bytes: &[u8]| {
        let mut input = black_box(&bytes[..written]);
        let frame = decoder.next(&mut input).expect("sound").expect("whole");
        let archived = frame.access::<Setpoint>().expect("a valid archive");
        u64::from(archived.axis.to_native()) + u64::from(archived.mode)
    };
    assert_eq!(read(&out), 4, "what was written is read");
    Box::new(move || read(&out))
}

fn checksum(payload_bytes: usize) -> Box<dyn FnMut() -> u64> {
    let mut frame = aligned(frame_bytes(payload_bytes, false));
    let payload = vec![0x5a; payload_bytes];
    let written = head(Checksum::Always).encode(&payload, &mut frame);
    let mut input = &frame[..written];
    let decoded = Decoder::new(written).next(&mut input);
    assert!(decoded.is_ok_and(|frame| frame.is_some()), "the decoder agrees on the checksum");
    Box::new(move || u64::from(encode::checksum_in_place(black_box(&frame))))
}

/// Send memory of one session, as a reactor has it.
fn send_memory() -> SendMemory {
    let layout = PoolLayout::shared(4 << 20, 64 << 10, 64 << 10).with_reserve();
    let pool = Pool::new(&layout.with_small(2048, 4)).expect("memory for a bench");
    SendMemory { pool, scratch: Scratch::new() }
}

fn limits() -> LaneLimits {
    LaneLimits::from_config(&Config::default())
}

/// Queues frames, takes them as the reactor does, and has them confirmed.
fn lane(care: Care) -> Box<dyn FnMut() -> u64> {
    let (mut lane, mut memory, limits) = (Lane::new(Priority::Normal), send_memory(), limits());
    let mut holdings = Holdings::default();
    let flags = if care.reliable { Flags::RELIABLE } else { Flags::default() };
    let head = FrameHead { flags, ..head(Checksum::Never) };
    let mut sequence = 0;
    let mut run = move || {
        let memory = &mut memory;
        for _ in 0..FRAMES {
            let (mut head, payload) = (*black_box(&head), black_box(&PAYLOAD));
            let written = lane.push(&mut head, care, &payload[..], &limits, memory, &mut holdings);
            assert_eq!(written, Ok(96), "there is room");
        }
        let mut bytes = 0;
        while let Some(block) = lane.take(NOW, memory, &mut holdings) {
            bytes += block.span.bytes() as u64;
            lane.settle(block, memory, &mut holdings);
        }
        sequence += FRAMES as u64;
        lane.acknowledge(sequence, memory, &mut holdings).expect("so many were sent");
        assert_eq!(lane.kept_bytes(), 0, "all is confirmed");
        bytes
    };
    assert_eq!(run(), 96 * FRAMES as u64, "every frame leaves");
    Box::new(run)
}

/// Every connection's deadline moves, then they all fall due.
fn timer() -> Box<dyn FnMut() -> u64> {
    let mut deadlines = Deadlines::with_capacity(SLOTS as usize);
    let mut run = move || {
        for slot in 0..SLOTS {
            // Far apart and in no order, as the last activities of connections are.
            let at = u64::from(slot.wrapping_mul(2_654_435_761));
            deadlines.set(black_box(slot), Nanos(at));
        }
        let mut folded = 0;
        while let Some(slot) = deadlines.pop_due(Nanos(u64::MAX - 1)) {
            folded += u64::from(slot);
        }
        folded
    };
    let sum = u64::from(SLOTS) * u64::from(SLOTS - 1) / 2;
    assert_eq!(run(), sum, "every slot is due once");
    Box::new(run)
}

/// What a message counts: itself and its bytes, on either way.
fn counters() -> Box<dyn FnMut() -> u64> {
    let counters = Box::new(Counters::default());
    let run = move || {
        for _ in 0..FRAMES {
            let counters = black_box(&*counters);
            counters.messages_sent.add(1);
            counters.bytes_sent.add(96);
            counters.messages_received.add(1);
            counters.bytes_received.add(96);
        }
        counters.messages_sent.get() + counters.bytes_received.get()
    };
    assert_eq!(run(), 97 * FRAMES as u64, "nothing is missed");
    Box::new(run)
}

/// Round trips of 5 to 13 us, as a histogram takes them.
fn histogram() -> Box<dyn FnMut() -> u64> {
    let histogram = Histogram::new_boxed();
    let record = |histogram: &Histogram| {
        for number in 0..FRAMES as u64 {
            black_box(histogram).record(black_box(5_000 + number * 769 % 8_192));
        }
        histogram.sum()
    };
    let sum = record(&histogram);
    assert_eq!(histogram.read().count(), FRAMES as u64, "every value is counted");
    assert_eq!(record(&histogram), 2 * sum, "and adds to the sum");
    Box::new(move || record(&histogram))
}

/// Another thread's command, and the reactor that takes it. Nobody sleeps.
fn command() -> Box<dyn FnMut() -> u64> {
    let mailbox = Mailbox::new(64, 64).expect("an eventfd");
    let connection = ConnectionId { reactor: ReactorId::new(0, 0), key: SessionKey::default() };
    let run = move || {
        let command = Command::Disconnect { connection, deadline: black_box(NOW) };
        mailbox.post(command).expect("there is room");
        match mailbox.take() {
            Some(Command::Disconnect { deadline, .. }) => deadline.0,
            other => panic!("{other:?} is not what was posted"),
        }
    };
    assert_eq!(run(), NOW.0, "what is posted is taken");
    Box::new(run)
}

/// One end of a session and its memory.
struct End {
    session: Session,
    identity: Identity,
    memory: SendMemory,
}

impl End {
    fn new(role: Role, name: &str) -> Self {
        let identity = Identity {
            dialer_features: Features::RESUME,
            listener_features: Features::RESUME,
            node_name: name.into(),
            node_number: 1,
            schema_hash: 0,
            frame_bytes_max: 1 << 20,
            checksum: Checksum::Commands,
            heartbeat: HeartbeatPolicy { interval_us: 0, misses: 3, measure_every: Duration::ZERO },
            clock_drift_ppm: 100,
            watches_max: 1,
        };
        let id = SessionId([name.as_bytes()[0]; 16]);
        let session = Session::new(role, id, limits(), &identity);
        Self { session, identity, memory: send_memory() }
    }

    fn push(&mut self, envelope: Envelope, correlation: Correlation, payload: &[u8]) {
        let (identity, memory) = (&self.identity, &mut self.memory);
        let pushed = self.session.push(envelope, correlation, payload, identity, NOW, memory);
        pushed.expect("there is room");
    }

    /// Copies the next block to `wire`, as a socket would, and books that it has left. Returns its
    /// length.
    fn send(&mut self, wire: &mut [u8]) -> usize {
        let memory = &mut self.memory;
        let Some((source, block)) = self.session.poll_block(NOW, memory) else { return 0 };
        let bytes = block.span.bytes();
        wire[..bytes].copy_from_slice(&block.buffer.bytes()[block.span.start..block.span.filled]);
        self.session.block_sent(source, block, memory);
        bytes
    }

    /// Handles the frames in `wire`; messages go to `take`.
    fn receive(&mut self, wire: &[u8], mut take: impl FnMut(&mut Self, Frame<'_>)) {
        let mut input = wire;
        let decoder = self.session.decoder();
        let mut likeness = Likeness::default();
        while let Some(frame) = decoder.next_like(&mut input, &mut likeness).expect("well formed") {
            let memory = &mut self.memory;
            match self.session.handle(&frame, NOW, memory).expect("in order") {
                Input::Message => take(self, frame),
                Input::Greeting => self.greet(&frame),
                _ => {}
            }
        }
    }

    fn greet(&mut self, frame: &Frame<'_>) {
        let (identity, memory) = (&self.identity, &mut self.memory);
        let outcome = match self.session.role() {
            Role::Dialer => {
                self.session.accept_welcome(frame, identity, NOW, memory).map(|(input, _)| input)
            }
            Role::Listener => {
                let buffer = memory.pool.take(1024).expect("memory for a greeting");
                self.session.answer(frame, buffer, identity, NOW, 0, memory)
            }
        };
        assert_eq!(outcome, Ok(Input::Established), "they know each other");
    }
}

/// Two ends that have greeted each other, and what lies between them.
fn pair() -> (End, End, rkyv::util::AlignedVec<16>) {
    let (mut near, mut far) = (End::new(Role::Dialer, "near"), End::new(Role::Listener, "far"));
    let mut wire = aligned(64 << 10);
    let buffer = near.memory.pool.take(1024).expect("memory for a greeting");
    near.session.greet(buffer, &near.identity, NOW, 0);
    let hello = near.send(&mut wire);
    far.receive(&wire[..hello], |_, _| panic!("no message yet"));
    let welcome = far.send(&mut wire);
    near.receive(&wire[..welcome], |_, _| panic!("no message yet"));
    (near, far, wire)
}

/// A request, its way, its answer and the way back: all of it but the kernel.
fn round_trip(envelope: Envelope) -> Box<dyn FnMut() -> u64> {
    let (mut near, mut far, mut wire) = pair();
    let answer =
        if envelope.is_reliable() { Envelope::status().reliable() } else { Envelope::status() };
    let mut id = 0;
    let mut run = move || {
        id += 1;
        near.push(envelope, Correlation::Request { id, timeout_us: 1_000 }, black_box(&PAYLOAD));
        let bytes = near.send(&mut wire);
        far.receive(&wire[..bytes], |far, frame| {
            far.push(answer, Correlation::Response(frame.correlation()), frame.payload());
        });
        let bytes = far.send(&mut wire);
        let mut answered = 0;
        near.receive(&wire[..bytes], |_, frame| {
            assert_eq!((frame.payload(), frame.correlation()), (&PAYLOAD[..], id), "the echo");
            answered += 1;
        });
        answered
    };
    assert_eq!(run(), 1, "one answer");
    Box::new(run)
}

/// Telemetry one way.
fn stream() -> Box<dyn FnMut() -> u64> {
    let (mut near, mut far, mut wire) = pair();
    let mut run = move || {
        for _ in 0..FRAMES {
            near.push(Envelope::data(), Correlation::None, black_box(&PAYLOAD));
        }
        let mut received = 0;
        loop {
            let bytes = near.send(&mut wire);
            if bytes == 0 {
                break received;
            }
            far.receive(&wire[..bytes], |_, frame| received += frame.payload().len() as u64);
        }
    };
    assert_eq!(run(), (FRAMES * PAYLOAD.len()) as u64, "every frame arrives");
    Box::new(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_repeats_and_has_a_name_of_its_own() {
        let mut names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CASES.len());
        for case in CASES {
            let mut run = (case.prepare)();
            // What is counted goes on counting; everything else comes out the same.
            let (first, second) = (run(), run());
            assert!(second >= first && first > 0, "{}: {first}, {second}", case.name);
        }
    }
}

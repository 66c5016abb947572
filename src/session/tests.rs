//! Two sessions talking through memory: no socket, no ring, no clock.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::config::Config;
use crate::error::{CloseReason, DropReason, ProtocolError};
use crate::mem::{Pool, PoolLayout};
use crate::session::confirmations::CONFIRM_AFTER;
use crate::session::lane::Sent;
use crate::session::turns::PASSED_OVER_MAX;
use crate::wire::acknowledgement::write_acknowledgement;
use crate::wire::handshake::{
    GoodbyeReason, Greeting, RejectReason, read_greeting, write_greeting,
};
use crate::wire::heartbeat::{Echo, Form, read_heartbeat};
use crate::wire::{BodyError, Codec, Extension, FrameHead, HEADER_BYTES, frame_bytes, low_half};

/// One end with its own memory.
struct End {
    session: Session,
    identity: Identity,
    memory: SendMemory,
    /// Frames of messages received: priority and payload.
    received: Vec<(Priority, Vec<u8>)>,
    established: bool,
    ended: Option<CloseReason>,
}

const LIMITS: LaneLimits = LaneLimits {
    frames_max: 64,
    bytes_max: 64 << 10,
    frame_bytes_max: 16 << 10,
    block_bytes: 8192,
    kept_bytes_max: 64 << 10,
    in_place_bytes_min: 256,
    overflow: [Overflow::Reject; Priority::COUNT],
};
const NOW: Nanos = Nanos(1_000);

/// Nobody else measures.
fn any_time() -> Pace {
    Pace::new(Duration::ZERO)
}

/// Of a session's end at a node.
fn id(name: &str) -> SessionId {
    SessionId([name.as_bytes()[0]; 16])
}

fn identity(name: &str) -> Identity {
    Identity {
        dialer_features: Features::RESUME,
        listener_features: Features::RESUME,
        node_name: name.into(),
        node_number: 7,
        schema_hash: 0,
        frame_bytes_max: 16 << 10,
        checksum: Checksum::Commands,
        heartbeat: HeartbeatPolicy { interval_us: 0, misses: 3, measure_every: Duration::ZERO },
        clock_drift_ppm: 100,
        watches_max: 4,
    }
}

impl End {
    fn new(role: Role, identity: Identity) -> Self {
        let layout = PoolLayout::shared(256 << 10, 4096, 16 << 10).with_reserve();
        let pool = Pool::new(&layout.with_small(2048, 4)).expect("memory");
        let limits = LaneLimits { frame_bytes_max: identity.frame_bytes_max as usize, ..LIMITS };
        Self {
            session: Session::new(role, id(&identity.node_name), limits, &identity),
            identity,
            memory: SendMemory { pool, scratch: Scratch::new() },
            received: Vec::new(),
            established: false,
            ended: None,
        }
    }

    fn greet(&mut self) {
        let buffer = self.memory.pool.take(1024).expect("memory");
        self.session.greet(buffer, &self.identity, NOW, 0);
    }

    fn push(&mut self, priority: Priority, body: &[u8]) -> Result<usize, SendError> {
        let memory = &mut self.memory;
        let envelope = Envelope::data().priority(priority);
        self.session.push(envelope, Correlation::None, body, &self.identity, NOW, memory)
    }

    /// Takes one block off the session, as the reactor would send it.
    fn send_block(&mut self) -> Option<Vec<u8>> {
        let memory = &mut self.memory;
        let (source, block) = self.session.poll_block(NOW, memory)?;
        let bytes = block.buffer.pieces(block.span.start..block.span.filled).to_vec();
        self.session.block_sent(source, block, memory);
        Some(bytes)
    }

    fn handle(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.handle_at(bytes, NOW)
    }

    fn handle_at(&mut self, bytes: &[u8], now: Nanos) -> Result<(), ProtocolError> {
        // As in the window: frames start 16-aligned.
        let mut aligned = Buffer::new(bytes.len());
        aligned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let mut input = &aligned.bytes()[..bytes.len()];
        while let Some(frame) = self.session.decoder().next(&mut input)? {
            let memory = &mut self.memory;
            match self.session.handle(&frame, now, memory)? {
                Input::Message => {
                    self.received.push((frame.priority(), frame.payload().to_vec()));
                }
                Input::Greeting => {
                    let outcome = match self.session.role() {
                        Role::Dialer => {
                            let identity = &self.identity;
                            self.session.accept_welcome(&frame, identity, now, memory)?.0
                        }
                        Role::Listener => {
                            let buffer = memory.pool.take(1024).expect("memory");
                            let identity = &self.identity;
                            self.session.answer(&frame, buffer, identity, now, 0, memory)?
                        }
                    };
                    match outcome {
                        Input::Established => self.established = true,
                        Input::End(reason) => self.ended = Some(reason),
                        other => panic!("a greeting became {other:?}"),
                    }
                }
                Input::End(reason) => self.ended = Some(reason),
                Input::Established | Input::Nothing | Input::Expired | Input::Cancelled => {}
            }
        }
        assert!(input.is_empty(), "blocks hold whole frames");
        Ok(())
    }
}

fn exchange(near: &mut End, far: &mut End) {
    loop {
        let forth = near.send_block();
        if let Some(bytes) = &forth {
            far.handle(bytes).expect("well formed");
        }
        let back = far.send_block();
        if let Some(bytes) = &back {
            near.handle(bytes).expect("well formed");
        }
        if forth.is_none() && back.is_none() {
            return;
        }
    }
}

fn pair() -> (End, End) {
    let (mut near, mut far) =
        (End::new(Role::Dialer, identity("near")), End::new(Role::Listener, identity("server")));
    near.greet();
    exchange(&mut near, &mut far);
    assert!(near.established);
    assert!(far.established);
    (near, far)
}

#[test]
fn handshake_tells_each_end_who_the_other_is() {
    let (near, far) = pair();
    assert_eq!(near.session.peer().expect("established").node_name, "server");
    let peer = far.session.peer().expect("established");
    assert_eq!((peer.node_name.as_str(), peer.node_number), ("near", 7));
    assert_eq!(peer.session_id, id("near"));
}

#[test]
fn nothing_is_admitted_before_the_handshake() {
    let mut end = End::new(Role::Dialer, identity("near"));
    assert_eq!(end.push(Priority::Normal, b"early"), Err(SendError::NotConnected));
}

#[test]
fn message_before_the_hello_is_a_protocol_error() {
    let (mut near, _) = pair();
    near.push(Priority::Normal, b"x").expect("room");
    let bytes = near.send_block().expect("queued");
    let mut fresh = End::new(Role::Listener, identity("server"));
    assert_eq!(fresh.handle(&bytes), Err(ProtocolError::Unexpected { kind: Kind::Data }));
}

#[test]
fn second_hello_is_a_protocol_error() {
    let (_, mut far) = pair();
    let mut again = End::new(Role::Dialer, identity("near"));
    again.greet();
    let hello = again.send_block().expect("queued");
    assert_eq!(far.handle(&hello), Err(ProtocolError::Unexpected { kind: Kind::Hello }));
}

#[test]
fn different_schemas_refuse_each_other() {
    let mut near = End::new(Role::Dialer, Identity { schema_hash: 1, ..identity("near") });
    let mut far = End::new(Role::Listener, Identity { schema_hash: 2, ..identity("server") });
    near.greet();
    exchange(&mut near, &mut far);
    assert_eq!(far.ended, Some(CloseReason::Refused(RejectReason::Schema)));
    assert_eq!(near.ended, Some(CloseReason::Rejected(RejectReason::Schema)));
}

#[test]
fn smaller_frame_limit_of_both_holds() {
    let mut near = End::new(Role::Dialer, identity("near"));
    let far = Identity { frame_bytes_max: 1024, ..identity("server") };
    let mut far = End::new(Role::Listener, far);
    near.greet();
    exchange(&mut near, &mut far);
    let error = near.push(Priority::Normal, &[0; 1024]).expect_err("too large for the peer");
    assert_eq!(error, SendError::TooLarge { bytes: 1056, bytes_max: 1024 });
    near.push(Priority::Normal, &[0; 1024 - 32]).expect("just fits");
}

#[test]
fn higher_lanes_overtake_at_frame_boundaries() {
    let (mut near, mut far) = pair();
    for priority in Priority::ALL {
        near.push(priority, &[priority as u8; 10]).expect("room");
        near.push(priority, &[priority as u8; 20]).expect("room");
    }
    exchange(&mut near, &mut far);
    let order: Vec<_> =
        far.received.iter().map(|(priority, body)| (*priority, body.len())).collect();
    let expected: Vec<_> =
        Priority::ALL.iter().rev().flat_map(|&priority| [(priority, 10), (priority, 20)]).collect();
    assert_eq!(order, expected);
}

/// Each of the lower lanes has its turn, however much there is above it.
#[test]
fn no_lane_starves() {
    let (mut near, mut far) = pair();
    for lane in [Priority::Low, Priority::Normal, Priority::High] {
        near.push(lane, lane.index().to_string().as_bytes()).expect("room");
    }
    let mut order = Vec::new();
    let mut blocks = 0;
    while order.len() < 3 {
        near.push(Priority::Critical, b"urgent").expect("room");
        let bytes = near.send_block().expect("something waits");
        blocks += 1;
        assert!(blocks <= 3 * (usize::from(PASSED_OVER_MAX) + 1), "starved: {order:?}");
        far.handle(&bytes).expect("well formed");
        let came = std::mem::take(&mut far.received);
        order.extend(came.into_iter().map(|(lane, _)| lane).filter(|&l| l != Priority::Critical));
    }
    assert_eq!(order, [Priority::Low, Priority::Normal, Priority::High]);
    assert!(blocks > usize::from(PASSED_OVER_MAX), "the urgent ones go first, as a rule");
}

#[test]
fn full_lane_refuses_and_the_others_go_on() {
    let (mut near, mut far) = pair();
    let mut admitted = 0;
    while near.push(Priority::Low, b"x").is_ok() {
        admitted += 1;
    }
    assert_eq!(admitted, LIMITS.frames_max);
    assert_eq!(near.push(Priority::Low, b"x"), Err(SendError::Full));
    near.push(Priority::Critical, b"stop").expect("its lane is empty");
    exchange(&mut near, &mut far);
    assert_eq!(far.received[0], (Priority::Critical, b"stop".to_vec()));
    assert_eq!(far.received.len(), 1 + admitted as usize);
    near.push(Priority::Low, b"x").expect("room again");
}

#[test]
fn lane_is_bounded_in_bytes() {
    let (mut near, mut far) = pair();
    let body = [0; 8000];
    let mut bytes = 0;
    while let Ok(frame_bytes) = near.push(Priority::Normal, &body) {
        bytes += frame_bytes;
    }
    assert!(bytes >= LIMITS.bytes_max, "{bytes}");
    assert!(bytes < LIMITS.bytes_max + 8032, "one frame may exceed the bound: {bytes}");

    // What is in flight does not count against those that gather behind it.
    let memory = &mut near.memory;
    let (source, block) = near.session.poll_block(NOW, memory).expect("queued");
    near.push(Priority::Normal, &body).expect("a block's worth of room");
    bytes += 8032;
    let memory = &mut near.memory;
    let sent = block.span.filled;
    let frames = block.buffer.bytes()[..sent].to_vec();
    near.session.block_sent(source, block, memory);
    far.handle(&frames).expect("well formed");
    bytes -= sent;
    assert_eq!(near.session.bytes_queued(), bytes);
    exchange(&mut near, &mut far);
    assert_eq!(near.session.bytes_queued(), 0);
    assert_eq!(near.memory.pool.lent_bytes(), 0, "an idle lane holds no memory");
}

#[test]
fn session_that_holds_more_than_is_free_is_refused() {
    let (mut near, _) = pair();
    near.session = {
        let limits = LaneLimits { bytes_max: 1 << 30, frames_max: 1 << 20, ..LIMITS };
        let mut session = Session::new(Role::Dialer, id("near"), limits, &identity("near"));
        session.state = State::Open;
        session
    };
    let total = near.memory.pool.shared_free_bytes();
    while near.push(Priority::Normal, &[0; 4000]).is_ok() {}
    assert_eq!(near.push(Priority::Normal, &[0; 4000]), Err(SendError::MemoryFull));
    let free = near.memory.pool.shared_free_bytes();
    assert!(free >= total / 4, "{free} of {total} left for the others");
    assert!(near.session.holdings.bytes > free, "and no less than its share was given");
    assert!(near.memory.pool.take_reserve(16 << 10).is_some(), "the reserve is for others");
}

#[test]
fn session_that_holds_nothing_takes_from_the_reserve() {
    let (mut near, mut far) = pair();
    // Somebody else has all the shared memory, and all but one of the small blocks.
    let mut taken: Vec<_> = std::iter::from_fn(|| near.memory.pool.take_shared(1)).collect();
    taken.extend(std::iter::from_fn(|| near.memory.pool.take_small(1)));
    near.memory.pool.give(taken.pop().expect("a small one"));
    for _ in 0..3 {
        near.push(Priority::Normal, &[1; 15_000]).expect("it holds nothing");
        assert_eq!(near.push(Priority::High, &[2; 15_000]), Err(SendError::MemoryFull));
        near.push(Priority::Critical, b"stop").expect("the small block is there");
        exchange(&mut near, &mut far);
    }
    assert_eq!(far.received.len(), 6);
}

/// Frames take what they need, not a whole block each, when there are many that hold nothing.
#[test]
fn first_frame_takes_what_it_needs() {
    let (mut near, _) = pair();
    let free = near.memory.pool.shared_free_bytes();
    near.push(Priority::Normal, &[1; 3000]).expect("room");
    let taken = free - near.memory.pool.shared_free_bytes();
    assert!((4096..8192).contains(&taken), "{taken}");
}

#[test]
fn every_session_is_guaranteed_a_small_block() {
    let (mut near, _) = pair();
    // Somebody else has all the large memory.
    let mut taken = Vec::new();
    while let Some(buffer) = near.memory.pool.take(4096) {
        taken.push(buffer);
    }
    near.push(Priority::Critical, b"stop").expect("the small block is there");
}

#[test]
fn refused_message_changes_nothing() {
    let (mut near, mut far) = pair();
    near.push(Priority::Normal, b"first").expect("room");
    let too_large = vec![0; 20 << 10];
    assert!(matches!(near.push(Priority::Normal, &too_large), Err(SendError::TooLarge { .. })));
    near.push(Priority::Normal, b"second").expect("room");
    // A sequence that had advanced would be a protocol error here.
    exchange(&mut near, &mut far);
    assert_eq!(far.received.len(), 2);
}

/// What a message that is sent behind others takes or does not take, and what it is then.
#[test]
fn bare_messages_are_appended_and_no_others() {
    let (mut near, mut far) = pair();
    let data = Envelope::data();
    let append = |near: &mut End, envelope: Envelope, body: &[u8]| {
        let before = near.session.lane_status(envelope.lane());
        let scratch = &mut near.memory.scratch;
        let written = near.session.append(envelope, body, &near.identity, NOW, scratch);
        let after = near.session.lane_status(envelope.lane());
        assert_eq!(after.bytes - before.bytes, written.unwrap_or(0));
        assert_eq!(after.frames - before.frames, u32::from(written.is_some()));
        written
    };
    assert_eq!(append(&mut near, data, b"first"), None, "there is no block yet");
    near.push(Priority::Normal, b"first").expect("room");
    assert_eq!(append(&mut near, data, b"second"), Some(48));
    assert_eq!(append(&mut near, data.json(), b"{}"), Some(48));
    assert_eq!(append(&mut near, Envelope::status(), b""), Some(32));
    assert_eq!(append(&mut near, data.critical(), b"none"), None, "that lane has no block");
    let others = [
        Envelope::command(),
        data.reliable(),
        data.ttl(Duration::from_secs(1)),
        data.latest(0),
        data.destination(1),
        Envelope::of(Kind::Hello),
        Envelope::cancel(),
    ];
    for other in others {
        assert_eq!(append(&mut near, other, b"other"), None, "{other:?}");
    }
    let room = LIMITS.block_bytes;
    assert_eq!(append(&mut near, data, &vec![0; room]), None, "longer than the block");
    let long = Bytes::from(vec![0; LIMITS.in_place_bytes_min]);
    let append_long = |near: &mut End, long: &Bytes| {
        near.session.append(data, long, &near.identity, NOW, &mut near.memory.scratch)
    };
    assert_eq!(append_long(&mut near, &long), None, "it stays where it is");
    assert!(append_long(&mut near, &long.slice(1..)).is_some());
    near.identity.checksum = Checksum::Always;
    assert_eq!(append(&mut near, data, b"checked"), None);
    near.identity.checksum = Checksum::Commands;
    near.session.limits.overflow[Priority::Normal.index()] = Overflow::LatestValue;
    assert_eq!(append(&mut near, data, b"latest"), None);
    near.session.limits.overflow = LIMITS.overflow;
    near.session.limits.frame_bytes_max = 48;
    assert_eq!(append(&mut near, data, &[0; 17]), None, "longer than the peer takes");
    near.session.limits.frame_bytes_max = LIMITS.frame_bytes_max;
    near.session.limits.frames_max = near.session.lane_status(Priority::Normal).frames;
    assert_eq!(append(&mut near, data, b"full"), None);
    near.session.limits.frames_max = LIMITS.frames_max;
    near.session.limits.bytes_max = near.session.lane_bytes(Priority::Normal);
    assert_eq!(append(&mut near, data, b"full"), None);
    near.session.limits.bytes_max = LIMITS.bytes_max;

    assert_eq!(append(&mut near, data, b"last"), Some(48));
    near.session.drain();
    assert_eq!(append(&mut near, data, b"too late"), None);
    exchange(&mut near, &mut far);
    let received: Vec<&[u8]> = far.received.iter().map(|(_, payload)| &payload[..]).collect();
    assert_eq!(received, [b"first", &b"second"[..], b"{}", b"", &long[1..], b"last"]);
}

/// Commands, requests and answers have a way of their own into a lane: what it queues, and what
/// that confirms, are as by the way that is for everything.
#[test]
fn short_way_queues_what_the_long_one_does() {
    let correlations = [
        Correlation::None,
        Correlation::Request { id: 5, timeout_us: 0 },
        Correlation::Request { id: 6, timeout_us: 250_000 },
        Correlation::Response(u64::MAX),
    ];
    let (mut short, mut long) = (pair(), pair());
    let mut compared = 0;
    let mut compare = |checksum, envelope: Envelope, correlation| {
        let queued = [(&mut short, true), (&mut long, false)].map(|(pair, is_short)| {
            let (near, far) = pair;
            // Something to confirm in that lane.
            far.push_as(Envelope::data().priority(envelope.lane()).reliable(), b"kept");
            near.handle(&far.send_block().expect("it was pushed")).expect("valid");
            near.identity.checksum = checksum;
            let End { session, identity, memory, .. } = near;
            let body = &b"body"[..];
            let written = match is_short {
                true => session.push(envelope, correlation, body, identity, NOW, memory),
                false => session.push_special(envelope, correlation, body, identity, NOW, memory),
            };
            let confirm_at = session.confirm_at();
            (written, confirm_at, near.send_block().expect("it was pushed"))
        });
        assert_eq!(queued[0], queued[1], "{envelope:?}, {correlation:?}");
        assert!(envelope.is_simple(), "{envelope:?} goes the long way only");
        short.1.handle(&queued[0].2).expect("the peer takes it");
        compared += 1;
    };
    for checksum in [Checksum::Never, Checksum::Commands, Checksum::Always] {
        for kind in Kind::APPLICATION {
            for priority in Priority::ALL {
                let envelope = Envelope::of(kind).priority(priority);
                for correlation in correlations {
                    // Telemetry that nobody answers has no extension.
                    if correlation != Correlation::None || !envelope.is_plain() {
                        compare(checksum, envelope, correlation);
                        compare(checksum, envelope.json(), correlation);
                    }
                }
            }
        }
    }
    assert_eq!(compared, 3 * Priority::COUNT * (4 + 4 * 3) * 2);
}

/// What comes of two messages: what their sender is told, when something is due, what waits, and
/// what leaves.
#[derive(Debug, PartialEq)]
struct Outcome {
    told: [Result<usize, SendError>; 2],
    due: [Nanos; 2],
    status: LaneStatus,
    sent: Option<Vec<u8>>,
}

/// Two messages, one after the other, for a lane with room for one.
fn pushed_twice(
    is_short: bool,
    overflow: Overflow,
    state: State,
    envelope: Envelope,
    correlation: Correlation,
) -> Outcome {
    let (mut near, mut far) = pair();
    // Something to confirm, which may not leave with what may be dropped.
    far.push_as(Envelope::data().reliable(), b"kept");
    near.handle(&far.send_block().expect("it was pushed")).expect("valid");
    near.session.limits.overflow = [overflow; Priority::COUNT];
    near.session.limits.frames_max = 1;
    match state {
        State::Down => near.session.link_lost(None, &mut near.memory),
        State::Draining => near.session.drain(),
        _ => {}
    }
    assert_eq!(near.session.state, state);
    let End { session, identity, memory, .. } = &mut near;
    let told = [&b"first"[..], b"second"].map(|body| match is_short {
        true => session.push(envelope, correlation, body, identity, NOW, memory),
        false => session.push_special(envelope, correlation, body, identity, NOW, memory),
    });
    let due = [session.expires_from, session.confirm_at()];
    let status = session.lane_status(envelope.lane());
    Outcome { told, due, status, sent: near.send_block() }
}

/// Whatever is more than simple, or meets a lane or a state that is, has the long way.
#[test]
fn what_is_not_simple_does_not_go_the_short_way() {
    let envelopes = [
        Envelope::command(),
        Envelope::command().reliable(),
        Envelope::command().ttl(Duration::from_secs(1)),
        Envelope::command().ttl(Duration::ZERO),
        Envelope::command().latest(7),
        Envelope::command().destination(9),
        Envelope::of(Kind::Hello).destination(9),
        Envelope::cancel(),
    ];
    let correlations = [
        Correlation::None,
        Correlation::Request { id: 5, timeout_us: 250_000 },
        Correlation::Response(5),
        Correlation::Cancel(5),
    ];
    let mut compared = Vec::new();
    let mut compare = |overflow, state, envelope: Envelope, correlation| {
        // Telemetry that nobody answers has no extension.
        if correlation == Correlation::None && envelope.is_plain() {
            return;
        }
        let of = |is_short| pushed_twice(is_short, overflow, state, envelope, correlation);
        let (short, long) = (of(true), of(false));
        assert_eq!(short, long, "{overflow:?}, {state:?}, {envelope:?}, {correlation:?}");
        compared.push(short.told);
    };
    for overflow in [Overflow::Reject, Overflow::DropOldest, Overflow::LatestValue] {
        for state in [State::Open, State::Down, State::Draining] {
            for envelope in envelopes {
                for correlation in correlations {
                    compare(overflow, state, envelope, correlation);
                }
            }
        }
    }
    // Each of what there is to tell apart has come up.
    for error in [
        SendError::NotConnected,
        SendError::Expired,
        SendError::KindReserved { kind: Kind::Hello },
        SendError::Full,
    ] {
        assert!(compared.iter().flatten().any(|told| *told == Err(error)), "{error}");
    }
    assert!(compared.iter().any(|told| told.iter().all(Result::is_ok)), "an older one made room");
}

#[test]
fn appending_fills_a_block_to_its_last_byte_and_no_further() {
    let (mut near, _) = pair();
    near.session.limits.frames_max = u32::MAX;
    near.push(Priority::Normal, b"").expect("room");
    let mut append = || {
        let (session, scratch) = (&mut near.session, &mut near.memory.scratch);
        session.append(Envelope::data(), &[][..], &near.identity, NOW, scratch)
    };
    while append().is_some() {}
    // The small block that every session is guaranteed.
    assert_eq!(near.session.lane_bytes(Priority::Normal), 2048);
}

#[test]
fn lane_that_drops_its_oldest_and_session_without_a_link_append_nothing() {
    let (mut near, _) = pair();
    let append = |near: &mut End| {
        let scratch = &mut near.memory.scratch;
        near.session.append(Envelope::data(), &b"x"[..], &near.identity, NOW, scratch)
    };
    near.push(Priority::Normal, b"oldest").expect("room");
    near.session.limits.overflow[Priority::Normal.index()] = Overflow::DropOldest;
    near.session.limits.frames_max = 1;
    assert_eq!(append(&mut near), None);
    near.push(Priority::Normal, b"newest").expect("the oldest makes room");
    near.session.limits.frames_max = LIMITS.frames_max;
    let memory = &mut near.memory;
    near.session.link_lost(None, memory);
    assert_eq!(append(&mut near), None);
    assert_eq!(near.push(Priority::Normal, b"x"), Err(SendError::NotConnected));
}

#[test]
fn skipped_or_repeated_sequence_is_a_protocol_error() {
    let (mut near, mut far) = pair();
    near.push(Priority::Normal, b"one").expect("room");
    let one = near.send_block().expect("queued");
    near.push(Priority::Normal, b"two").expect("room");
    let two = near.send_block().expect("queued");
    assert_eq!(far.handle(&two), Err(ProtocolError::BadSequence { expected: 1, got: 2 }));
    far.handle(&one).expect("in order");
    assert_eq!(far.handle(&one), Err(ProtocolError::BadSequence { expected: 2, got: 1 }));
}

#[test]
fn reserved_kinds_are_refused() {
    let (mut near, _) = pair();
    let memory = &mut near.memory;
    let envelope = Envelope::of(Kind::Hello);
    let body: &[u8] = b"";
    let outcome = near.session.push(envelope, Correlation::None, body, &near.identity, NOW, memory);
    assert_eq!(outcome, Err(SendError::KindReserved { kind: Kind::Hello }));
}

#[test]
fn goodbye_comes_last_and_ends_the_peer() {
    let (mut near, mut far) = pair();
    near.push(Priority::Low, b"last words").expect("room");
    near.session.drain();
    assert_eq!(near.push(Priority::Critical, b"no"), Err(SendError::NotConnected));
    exchange(&mut near, &mut far);
    let buffer = near.memory.pool.take(1024).expect("memory");
    near.session.finish(buffer, GoodbyeReason::Disconnect, NOW);
    exchange(&mut near, &mut far);
    assert_eq!(far.received, [(Priority::Low, b"last words".to_vec())]);
    assert_eq!(far.ended, Some(CloseReason::Goodbye));
    assert_eq!(near.session.state(), State::Finishing);
}

#[test]
fn ended_session_counts_what_it_drops_and_gives_its_memory_back() {
    let (mut near, _) = pair();
    for _ in 0..5 {
        near.push(Priority::Normal, b"x").expect("room");
    }
    let memory = &mut near.memory;
    assert_eq!(near.session.end(memory), (5, Vec::new()));
    assert_eq!(near.memory.pool.lent_bytes(), 0);
}

/// A body that asks for `bytes` at first, if any, and panics when it has them.
struct Panicking {
    bytes: usize,
}

impl Body for Panicking {
    fn encode(&self, out: &mut [u8], _: &mut Scratch) -> Result<usize, BodyError> {
        if out.len() < self.bytes {
            return Err(BodyError::Overflow { bytes: self.bytes });
        }
        out.fill(0xff);
        panic!("on purpose");
    }
}

#[test]
fn panicking_body_changes_nothing() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let (mut near, mut far) = pair();
    // Into a lane without a block, with one, and into one that is larger than any so far.
    for queued in 0..3_u8 {
        for bytes in [0, 1000, 10_000] {
            let before = (near.memory.pool.lent_bytes(), near.memory.pool.free_bytes());
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let memory = &mut near.memory;
                let (envelope, correlation) = (Envelope::data(), Correlation::None);
                let body = Panicking { bytes };
                let identity = &near.identity;
                near.session.push(envelope, correlation, &body, identity, NOW, memory)
            }));
            assert!(panicked.is_err(), "the body was asked");
            assert_eq!(
                (near.memory.pool.lent_bytes(), near.memory.pool.free_bytes()),
                before,
                "{queued}, {bytes}"
            );
        }
        near.push(Priority::Normal, &[queued; 100]).expect("room");
    }
    while let Some(bytes) = near.send_block() {
        far.handle(&bytes).expect("sequences and frames are sound");
    }
    let received: Vec<_> = far.received.iter().map(|(_, payload)| payload[0]).collect();
    assert_eq!(received, [0, 1, 2]);
    assert_eq!(near.memory.pool.lent_bytes(), 0);
}

#[test]
fn looking_for_something_to_send_is_no_sign_of_life() {
    let mut near = End::new(Role::Dialer, identity("near"));
    let mut far = End::new(Role::Listener, identity("far"));
    for end in [&mut near, &mut far] {
        end.identity.heartbeat.interval_us = 10_000;
    }
    near.greet();
    exchange(&mut near, &mut far);
    // The first measures, idle or not.
    assert_eq!(near.session.expire(NOW, &mut any_time()), Expiry::GoOn);
    exchange(&mut near, &mut far);
    let due = near.session.deadline();
    assert_eq!(due, NOW + Duration::from_millis(10), "the next when idle");
    let memory = &mut near.memory;
    for ns in NOW.0 + 1..NOW.0 + 100 {
        assert!(near.session.poll_block(Nanos(ns), memory).is_none(), "nothing is queued");
    }
    assert_eq!(near.session.deadline(), due, "nothing has left");
    assert_eq!(near.session.expire(due, &mut any_time()), Expiry::GoOn);
    assert!(near.session.has_own_block(), "the heartbeat is due as if nobody had looked");
    assert!(near.session.poll_block(due, memory).is_some(), "and leaves");
    assert!(near.session.deadline() > due, "that is a sign of life");
}

/// A block is sent from where it waits only if nothing else goes before it and nothing has to be
/// told or looked at. That it is the next one then, `poll_block` checks in every test.
#[test]
fn front_is_plain_to_see_or_not_at_all() {
    let (mut near, mut far) = pair();
    let front = |end: &End| end.session.plain_front().map(|block| block.span.first);
    assert_eq!(front(&near), None, "nothing is queued");
    near.push(Priority::Normal, b"one").expect("room");
    assert_eq!(front(&near), Some(1));

    for _ in 0..PASSED_OVER_MAX {
        assert!(front(&near).is_some());
        near.push(Priority::High, b"urgent").expect("room");
        near.send_block().expect("the urgent one");
    }
    near.push(Priority::High, b"urgent").expect("room");
    assert_eq!(front(&near), None, "the lower lane has waited long enough");
    near.send_block().expect("the other one");
    near.send_block().expect("the urgent one");
    near.push(Priority::Normal, b"two").expect("room");
    assert_eq!(front(&near), Some(2));
    near.push_as(
        Envelope::data().priority(Priority::High).ttl(Duration::from_secs(1)),
        b"short-lived",
    );
    assert_eq!(front(&near), None, "the next one may expire");
    near.send_block().expect("the short-lived one");
    near.send_block().expect("the other one");

    near.push_as(Envelope::data().reliable().priority(Priority::Low), b"one of another lane");
    assert_eq!(front(&near), Some(1), "it is kept when it has left");
    let block = near.send_block().expect("queued");
    far.handle(&block).expect("well formed");
    far.push(Priority::Normal, b"answer").expect("room");
    assert_eq!(front(&far), Some(1));
    far.confirm();
    assert_eq!(front(&far), None, "a confirmation goes before it");

    near.push(Priority::Normal, b"three").expect("room");
    near.session.drain();
    assert_eq!(front(&near), None, "it is about to end");
}

/// Random traffic in both directions over all lanes: per lane nothing is lost, nothing is
/// reordered, and all memory comes back.
#[test]
fn lanes_keep_their_order_under_random_traffic() {
    for seed in 0..crate::seeds(200) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut near, mut far) = pair();
        let mut sent: Vec<(Priority, Vec<u8>)> = Vec::new();
        for number in 0..300_u32 {
            let priority = Priority::ALL[rng.usize(..4)];
            let mut body = number.to_le_bytes().to_vec();
            let most = if rng.u8(..20) == 0 { 9_000 } else { 100 };
            body.resize(4 + rng.usize(..most), 0);
            if near.push(priority, &body).is_ok() {
                sent.push((priority, body));
            }
            for _ in 0..rng.usize(..3) {
                if let Some(bytes) = near.send_block() {
                    far.handle(&bytes).expect("well formed");
                }
            }
        }
        exchange(&mut near, &mut far);
        for lane in Priority::ALL {
            let of_lane = |all: &[(Priority, Vec<u8>)]| -> Vec<Vec<u8>> {
                all.iter().filter(|(p, _)| *p == lane).map(|(_, body)| body.clone()).collect()
            };
            assert_eq!(of_lane(&far.received), of_lane(&sent), "seed {seed}, {lane:?}");
        }
        assert_eq!(near.memory.pool.lent_bytes(), 0, "seed {seed}");
    }
}

#[test]
fn limits_follow_the_configuration() {
    let config = Config::builder().lane_frames_max(5).build().expect("valid");
    let limits = LaneLimits::from_config(&config);
    assert_eq!((limits.frames_max, limits.frame_bytes_max), (5, 4 << 20));
}

/// The block of the first frame: small for little traffic, shared once a stream filled more.
#[test]
fn stream_leaves_in_whole_blocks() {
    let (mut dialer, _) = pair();
    let fill = |dialer: &mut End, bytes: usize| {
        for _ in 0..bytes / 96 {
            dialer.push(Priority::Normal, &[7; 64]).expect("room");
        }
        let mut blocks = Vec::new();
        while let Some(block) = dialer.send_block() {
            blocks.push(block.len() / 96);
        }
        blocks
    };
    assert_eq!(fill(&mut dialer, 960), [10]);
    // 2,048 bytes are a small block here: it overflows once, and not again.
    assert_eq!(fill(&mut dialer, 6144), [21, 43]);
    assert_eq!(fill(&mut dialer, 6144), [64]);
    assert_eq!(fill(&mut dialer, 96), [1], "little again");
    assert_eq!(fill(&mut dialer, 6144), [21, 43]);
}

/// Best-effort messages between two reliable ones are not kept: a gap stands for them, of which the
/// peer may have received the first part as messages.
#[test]
fn gap_that_the_peer_has_half_of_is_told_anew() {
    let (mut near, mut far) = pair();
    let send = |near: &mut End, envelope: Envelope| {
        let memory = &mut near.memory;
        let (identity, body) = (&near.identity, b"message");
        near.session.push(envelope, Correlation::None, body, identity, NOW, memory).expect("room");
        near.send_block().expect("a block")
    };
    let (reliable, loose) = (Envelope::data().reliable(), Envelope::data());
    let blocks = [reliable, loose, loose, reliable].map(|envelope| send(&mut near, envelope));
    for block in &blocks[..2] {
        far.handle(block).expect("well formed");
    }
    // The link is lost: the peer has two of four.
    let memory = &mut near.memory;
    near.session.link_lost(None, memory);
    let Session { lanes, holdings, .. } = &mut near.session;
    let lane = &mut lanes[Priority::Normal.index()];
    lane.resume(2, 2, NOW, memory, holdings);
    assert_eq!(lane.drops().total(), 1, "the third");
    near.session.state = near.session.state.step(Event::Resumed);
    while let Some(block) = near.send_block() {
        far.handle(&block).expect("a gap of one, and the last message");
    }
    assert_eq!((far.received.len(), far.session.missed()), (3, 1));
}

impl End {
    fn memory(&mut self) -> (&mut Session, &mut SendMemory) {
        (&mut self.session, &mut self.memory)
    }

    fn push_as(&mut self, envelope: Envelope, body: &[u8]) {
        let (session, identity) = (&mut self.session, &self.identity);
        let memory = &mut self.memory;
        session.push(envelope, Correlation::None, body, identity, NOW, memory).expect("room");
    }

    fn lose_link(&mut self) {
        let (session, memory) = self.memory();
        session.link_lost(None, memory);
    }

    /// Lets the acknowledgement frame leave that is due later, if there is one.
    fn confirm(&mut self) {
        assert_eq!(
            self.session.expire(Nanos(NOW.0 + 1_000_000_000), &mut any_time()),
            Expiry::GoOn
        );
    }
}

/// The hello that a dialer whose link is lost would send now.
fn hello_again(near: &mut End, now: Nanos) -> Vec<u8> {
    let mut stand_in = near.session.stand_in(LIMITS, &near.identity);
    let buffer = near.memory.pool.take(1024).expect("memory");
    stand_in.greet(buffer, &near.identity, now, 0);
    let (_, memory) = near.memory();
    let (source, block) = stand_in.poll_block(now, memory).expect("the hello");
    let bytes = block.buffer.bytes()[..block.span.filled].to_vec();
    stand_in.block_sent(source, block, memory);
    near.session.take_link(&stand_in);
    bytes
}

/// Both ends lose the link and make another.
fn reconnect(near: &mut End, far: &mut End) {
    near.lose_link();
    far.lose_link();
    let hello = hello_again(near, NOW);
    resume_by(near, far, &hello);
    exchange(near, far);
}

/// Both ends go on where they were, by a hello of the near one.
fn resume_by(near: &mut End, far: &mut End, hello: &[u8]) {
    let frame = Decoder::new(1024).next(&mut &hello[..]).expect("ours").expect("whole");
    assert_eq!(far.session.claim(&frame), Ok(HelloClaim::Resume));
    let buffer = far.memory.pool.take(1024).expect("memory");
    let memory = &mut far.memory;
    let answer = far.session.answer(&frame, buffer, &far.identity, NOW, 0, memory);
    assert_eq!(answer, Ok(Input::Established));
    let welcome = far.send_block().expect("the welcome");
    let frame = Decoder::new(1024).next(&mut &welcome[..]).expect("ours").expect("whole");
    let memory = &mut near.memory;
    let accepted = near.session.accept_welcome(&frame, &near.identity, NOW, memory);
    let (_, reunion) = accepted.expect("they go on");
    assert!(matches!(reunion, Reunion::Resumed), "{reunion:?}");
}

/// A message that took another's place in the queue has no sequence of its own.
#[test]
fn replaced_message_is_no_obstacle_to_resuming() {
    let (mut near, mut far) = pair();
    near.push_as(Envelope::data().latest(1), b"old");
    near.push_as(Envelope::data().latest(1), b"new");
    assert_eq!(near.session.messages_admitted(), 2);
    exchange(&mut near, &mut far);
    reconnect(&mut near, &mut far);
    assert_eq!(far.received, [(Priority::Normal, b"new".to_vec())]);
}

/// A newer message of a key that is refused, or panics while it is written, costs neither the
/// waiting one nor the stream behind it.
#[test]
fn message_that_nothing_replaces_stays() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    for reliable in [false, true] {
        let (mut near, mut far) = pair();
        let latest = Envelope::data().latest(7);
        let latest = if reliable { latest.reliable() } else { latest };
        near.push_as(latest, b"the first");
        let too_large = vec![0; 20 << 10];
        let (session, identity) = (&mut near.session, &near.identity);
        let memory = &mut near.memory;
        let none = Correlation::None;
        let outcome = session.push(latest, none, &too_large[..], identity, NOW, memory);
        assert!(matches!(outcome, Err(SendError::TooLarge { .. })), "{outcome:?}");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            session.push(latest, none, &Panicking { bytes: 9 }, identity, NOW, memory)
        }));
        assert!(panicked.is_err(), "the body was asked");
        assert_eq!(session.take_drops()[Priority::Normal.index()].total(), 0);
        exchange(&mut near, &mut far);
        assert_eq!(far.received, [(Priority::Normal, b"the first".to_vec())]);
        assert_eq!(far.session.missed(), 0);
    }
}

/// Whatever their lengths, the last message of each key arrives, and in the order in which those
/// came that could not take the place of one before.
#[test]
fn last_message_of_a_key_arrives_whatever_its_length() {
    let (mut near, mut far) = pair();
    let bodies = |key: u8, round: usize| vec![key; [8, 8, 40, 8, 200, 200, 16][round]];
    for round in 0..7 {
        for key in 0..3_u8 {
            near.push_as(Envelope::data().latest(key.into()), &bodies(key, round));
        }
    }
    let drops = near.session.take_drops()[Priority::Normal.index()];
    assert_eq!(drops.by_reason()[DropReason::Replaced.index()], 18);
    assert_eq!(near.session.frames_queued(), 3);
    exchange(&mut near, &mut far);
    let expected: Vec<_> = (0..3).map(|key| (Priority::Normal, bodies(key, 6))).collect();
    assert_eq!(far.received, expected);
}

/// A lane that is full has room for the next message of a key that waits in it, as long as it is.
#[test]
fn full_lane_takes_the_next_message_of_a_key() {
    let (mut near, mut far) = pair();
    near.push_as(Envelope::data().latest(1), b"old");
    for number in 1..LIMITS.frames_max {
        near.push(Priority::Normal, &number.to_le_bytes()).expect("room");
    }
    assert_eq!(near.push(Priority::Normal, b"no room"), Err(SendError::Full));
    near.push_as(Envelope::data().latest(1), &[1; 100]);
    assert_eq!(near.push(Priority::Normal, b"no room"), Err(SendError::Full));
    exchange(&mut near, &mut far);
    assert_eq!(far.received.len(), LIMITS.frames_max as usize);
    assert_eq!(far.received.last().expect("just counted").1, [1; 100]);
}

/// What the peer confirms of a session that is over here is no offence: it is still read.
#[test]
fn confirmation_behind_the_end_is_nobodys() {
    let (mut near, mut far) = pair();
    near.push_as(Envelope::data().reliable(), b"r1");
    let block = near.send_block().expect("queued");
    far.handle(&block).expect("well formed");
    far.push_as(Envelope::command(), b"confirms, and is to be handled");
    let with_a_message = far.send_block().expect("queued");
    far.push_as(Envelope::data().reliable(), b"more");
    let more = far.send_block().expect("queued");
    let (session, memory) = near.memory();
    let _ = session.end(memory);
    near.handle(&with_a_message).expect("no offence");
    near.handle(&more).expect("no offence");
    assert_eq!(near.received.len(), 2);
}

/// What a request was to confirm that nobody waits for any more is confirmed all the same.
#[test]
fn confirmation_does_not_go_with_the_patience_for_an_answer() {
    let (mut near, mut far) = pair();
    near.push_as(Envelope::data().reliable(), b"r1");
    let block = near.send_block().expect("queued");
    far.handle(&block).expect("well formed");
    let short = Duration::from_micros(1);
    let (session, identity) = (&mut far.session, &far.identity);
    let memory = &mut far.memory;
    let ttl = Envelope::data().ttl(short);
    session.push(ttl, Correlation::None, &b"old"[..], identity, NOW, memory).expect("room");
    let request = Correlation::Request { id: 1, timeout_us: 1 };
    let asks = Envelope::command().priority(Priority::Normal);
    session.push(asks, request, &b"ask"[..], identity, NOW, memory).expect("room");
    session.drop_expired(Nanos(NOW.0 + 1_000_000), memory);
    far.confirm();
    exchange(&mut near, &mut far);
    assert!(near.session.is_flushed(), "something else has confirmed it");
}

/// More messages than a gap can tell of, none of which the peer says that it has.
#[test]
fn peer_that_has_nothing_of_billions_is_refused() {
    let (mut near, _) = pair();
    let Session { lanes, .. } = &mut near.session;
    let lane = &mut lanes[Priority::Normal.index()];
    lane.begin_at_unconfirmed(1 << 33);
    assert!(lane.check_received(1 << 33, 1 << 33).is_ok());
    assert!(lane.check_received((1 << 33) - u64::from(u32::MAX), 1).is_ok());
    assert!(lane.check_received(0, 0).is_err());
    assert!(lane.check_received(1 << 32, 1).is_err());
}

/// Between two kept messages a gap stands for best-effort ones. The peer may have some of them.
#[test]
fn resuming_in_the_middle_of_a_gap_resends_what_is_behind() {
    let (mut near, mut far) = pair();
    let reliable = Envelope::data().reliable();
    let mut blocks = Vec::new();
    for (envelope, body) in [(reliable, b"r1"), (Envelope::data(), b"b2")] {
        near.push_as(envelope, body);
        blocks.extend(near.send_block());
    }
    near.push(Priority::Normal, b"b3").expect("room");
    blocks.extend(near.send_block());
    near.push_as(reliable, b"r4");
    assert!(near.send_block().is_some(), "lost on its way");
    far.handle(&blocks[0]).expect("well formed");
    far.handle(&blocks[1]).expect("well formed");
    reconnect(&mut near, &mut far);
    let bodies: Vec<_> = far.received.iter().map(|(_, body)| &body[..]).collect();
    assert_eq!(bodies, [b"r1", b"b2", b"r4"]);
    assert_eq!(far.session.missed(), 1);
}

/// Reliable telemetry costs no more bytes than other telemetry, until it has something to confirm.
#[test]
fn reliable_telemetry_has_the_extension_only_to_confirm() {
    let (mut near, mut far) = pair();
    let reliable = Envelope::data().reliable();
    near.push_as(reliable, b"r1");
    let block = near.send_block().expect("queued");
    assert_eq!(block.len(), frame_bytes(2, false));
    far.handle(&block).expect("well formed");
    assert!(near.session.kept_bytes() > 0);
    far.push_as(reliable, b"r2");
    far.push_as(reliable, b"r3");
    let block = far.send_block().expect("both in one");
    assert_eq!(block.len(), frame_bytes(2, true) + frame_bytes(2, false), "once is enough");
    near.handle(&block).expect("well formed");
    assert_eq!(near.session.kept_bytes(), 0, "confirmed");
}

/// Nothing confirms best-effort messages, so nobody waits for it.
#[test]
fn best_effort_behind_a_reliable_message_needs_no_confirmation() {
    let (mut near, mut far) = pair();
    near.push_as(Envelope::data().reliable(), b"r1");
    near.push(Priority::Normal, b"b2").expect("room");
    let block = near.send_block().expect("both in one");
    // The first frame arrives and is confirmed, the second is slow.
    far.handle(&block[..block.len() - 48]).expect("well formed");
    far.confirm();
    let confirmation = far.send_block().expect("an acknowledgement");
    near.handle(&confirmation).expect("well formed");
    assert!(near.session.is_flushed());
    assert_eq!(near.session.kept_bytes(), 0);
}

/// A frame may carry a confirmation, expire, and never leave.
#[test]
fn confirmation_does_not_expire_with_its_carrier() {
    let (mut near, mut far) = pair();
    near.push_as(Envelope::data().reliable(), b"r1");
    let block = near.send_block().expect("queued");
    far.handle(&block).expect("well formed");
    far.push_as(Envelope::data().ttl(Duration::from_micros(1)), b"short-lived");
    let (session, memory) = far.memory();
    let late = Nanos(NOW.0 + 1_000_000);
    let (source, block) = session.poll_block(late, memory).expect("a gap in its place");
    let gap = block.buffer.bytes()[..block.span.filled].to_vec();
    session.block_sent(source, block, memory);
    near.handle(&gap).expect("well formed");
    assert_eq!(near.session.missed(), 1);
    far.confirm();
    exchange(&mut near, &mut far);
    assert!(near.session.is_flushed());
}

#[test]
fn block_in_flight_is_in_the_list_of_the_undelivered() {
    let (mut near, _) = pair();
    let reliable = Envelope::data().reliable();
    near.push_as(reliable, b"kept");
    assert!(near.send_block().is_some());
    near.push_as(reliable, b"in flight");
    let (session, memory) = near.memory();
    let (source, block) = session.poll_block(NOW, memory).expect("queued");
    near.push_as(reliable, b"waits");
    let (session, memory) = near.memory();
    let (_, mut undelivered) = session.end(memory);
    let sent = block.span.filled;
    session.end_block(Returned { source, block, sent }, &mut undelivered, memory);
    let told: Vec<_> = undelivered.iter().map(|one| (&one.payload[..], one.sent)).collect();
    let expected: [(&[u8], Sent); 3] =
        [(b"kept", Sent::Maybe), (b"in flight", Sent::Maybe), (b"waits", Sent::Never)];
    assert_eq!(told, expected);
    assert_eq!(near.memory.pool.lent_bytes(), 0);
    let drops = near.session.take_drops()[Priority::Normal.index()];
    assert_eq!(drops.by_reason()[DropReason::SessionEnded.index()], 3);
}

/// What a peer has received of one end says nothing about another.
#[test]
fn hello_for_another_end_does_not_resume() {
    let (mut near, mut far) = pair();
    near.lose_link();
    let hello = hello_again(&mut near, NOW);
    far.session.id = id("another");
    let frame = Decoder::new(1024).next(&mut &hello[..]).expect("ours").expect("whole");
    assert_eq!(far.session.claim(&frame), Ok(HelloClaim::Anew));
}

/// A connection that was given up may deliver its hello after its successor's.
#[test]
fn late_hello_of_an_earlier_attempt_is_stale() {
    let (mut near, mut far) = pair();
    near.lose_link();
    far.lose_link();
    let earlier = hello_again(&mut near, Nanos(NOW.0 - 1));
    let frame = Decoder::new(1024).next(&mut &earlier[..]).expect("ours").expect("whole");
    assert_eq!(far.session.claim(&frame), Ok(HelloClaim::Stale));
}

/// A hello that claims what was never sent costs no memory.
#[test]
fn impossible_hello_leaves_the_memory_where_it_was() {
    let (mut near, mut far) = pair();
    near.lose_link();
    far.lose_link();
    near.session.confirmations.received[0] = 5;
    let hello = hello_again(&mut near, NOW);
    let frame = Decoder::new(1024).next(&mut &hello[..]).expect("ours").expect("whole");
    let buffer = far.memory.pool.take(1024).expect("memory");
    let memory = &mut far.memory;
    let answer = far.session.answer(&frame, buffer, &far.identity, NOW, 0, memory);
    assert_eq!(answer, Err(ProtocolError::BadAcknowledgement { acknowledged: 5, sent: 0 }));
    assert_eq!(far.memory.pool.lent_bytes(), 0);
}

/// What one message is on the wire, and whether its payload is held afterwards.
fn on_the_wire(envelope: Envelope, in_place: bool, payload: &Bytes) -> Vec<u8> {
    let (mut near, _) = pair();
    near.session.limits.in_place_bytes_min = if in_place { 0 } else { usize::MAX };
    let memory = &mut near.memory;
    let (session, identity) = (&mut near.session, &near.identity);
    let written = session.push(envelope, Correlation::None, payload, identity, NOW, memory);
    assert_eq!(session.bytes_queued(), written.expect("room"));
    let (_, block) = session.poll_block(NOW, memory).expect("queued");
    assert_eq!(block.is_open(), !in_place);
    block.buffer.pieces(block.span.start..block.span.filled).to_vec()
}

#[test]
fn payload_in_place_is_the_same_frame() {
    let envelopes = [
        Envelope::data(),
        Envelope::data().reliable(),
        Envelope::command(),
        Envelope::command().reliable().ttl(Duration::from_secs(1)).destination(9),
    ];
    for bytes in [0_u32, 1, 15, 16, 17, 31, 256, 1000, 8001] {
        let payload = (0..bytes).map(|at| at.to_le_bytes()[0]).collect::<Bytes>();
        for envelope in envelopes {
            let copied = on_the_wire(envelope, false, &payload);
            assert_eq!(on_the_wire(envelope, true, &payload), copied, "{bytes}, {envelope:?}");
        }
        assert!(bytes == 0 || payload.is_unique(), "nobody holds it any more");
    }
}

#[test]
fn payload_in_place_is_held_until_it_is_confirmed() {
    let (mut near, mut far) = pair();
    let payload = Bytes::from(vec![3; 5000]);
    let envelope = Envelope::data().reliable();
    let send = |near: &mut End| {
        let memory = &mut near.memory;
        let identity = &near.identity;
        near.session.push(envelope, Correlation::None, &payload, identity, NOW, memory)
    };
    send(&mut near).expect("room");
    let frames = near.send_block().expect("queued");
    assert!(!payload.is_unique(), "it may have to be sent again");
    assert!(near.session.kept_bytes() > 5000, "it counts");
    far.handle(&frames).expect("well formed");
    assert_eq!(far.received, [(Priority::Normal, vec![3; 5000])]);
    let _ = far.session.expire(NOW + CONFIRM_AFTER, &mut any_time());
    exchange(&mut near, &mut far);
    assert!(payload.is_unique(), "it has been confirmed");
    assert_eq!(near.session.kept_bytes(), 0);

    // Unconfirmed ones are bounded as if they had been copied.
    let mut admitted = 0;
    while send(&mut near).is_ok() {
        admitted += 1;
        near.send_block().expect("queued");
    }
    assert_eq!(send(&mut near), Err(SendError::Full));
    assert!(admitted <= LIMITS.kept_bytes_max.div_ceil(5000), "{admitted}");
    assert!(admitted >= LIMITS.kept_bytes_max / 10_000, "{admitted}");
}

#[test]
fn payload_in_place_that_is_dropped_is_a_gap() {
    let (mut near, mut far) = pair();
    let payload = Bytes::from(vec![3; 5000]);
    let envelope = Envelope::data().ttl(Duration::from_micros(1));
    let memory = &mut near.memory;
    let pushed =
        near.session.push(envelope, Correlation::None, &payload, &near.identity, NOW, memory);
    pushed.expect("room");
    near.push(Priority::Normal, b"the next").expect("room");
    let late = NOW + Duration::from_millis(1);
    let memory = &mut near.memory;
    let (source, block) = near.session.poll_block(late, memory).expect("a gap is told");
    assert_eq!(block.span.bytes(), HEADER_BYTES);
    let gap = block.buffer.pieces(block.span.start..block.span.filled).to_vec();
    near.session.block_sent(source, block, memory);
    assert!(payload.is_unique(), "nobody holds it any more");
    far.handle(&gap).expect("well formed");
    assert_eq!(far.session.missed(), 1);
    exchange(&mut near, &mut far);
    assert_eq!(far.received, [(Priority::Normal, b"the next".to_vec())]);
    assert_eq!(near.session.bytes_queued(), 0);
}

impl End {
    /// How many blocks go along with the next one.
    fn count_behind(&mut self) -> usize {
        let memory = &mut self.memory;
        let (source, block) = self.session.poll_block(NOW, memory).expect("queued");
        let count = self.session.blocks_behind(source).count();
        self.session.block_sent(source, block, memory);
        count
    }

    fn push_in_place(&mut self, envelope: Envelope, seed: u8) {
        let memory = &mut self.memory;
        let (identity, body) = (&self.identity, Bytes::from(vec![seed; 1000]));
        let pushed = self.session.push(envelope, Correlation::None, &body, identity, NOW, memory);
        pushed.expect("room");
    }
}

#[test]
fn blocks_behind_are_those_that_come_next() {
    let (mut near, mut far) = pair();
    for seed in 0..5 {
        near.push_in_place(Envelope::data(), seed);
    }
    let memory = &mut near.memory;
    let (source, block) = near.session.poll_block(NOW, memory).expect("queued");
    let bytes = |block: &Block| block.buffer.pieces(block.span.start..block.span.filled).to_vec();
    let mut sent = vec![bytes(&block)];
    let behind: Vec<Vec<u8>> = near.session.blocks_behind(source).map(bytes).collect();
    near.session.block_sent(source, block, memory);
    for _ in 0..2 {
        let block = near.session.poll_behind(source, NOW, memory).expect("the next");
        sent.push(bytes(&block));
        near.session.block_sent(source, block, memory);
    }
    assert_eq!((behind.len(), &behind[..2]), (4, &sent[1..]));
    for frame in &sent {
        far.handle(frame).expect("in order");
    }
    exchange(&mut near, &mut far);
    let seeds: Vec<u8> = far.received.iter().map(|(_, payload)| payload[0]).collect();
    assert_eq!(seeds, [0, 1, 2, 3, 4]);
    assert_eq!(near.session.bytes_queued(), 0);
}

#[test]
fn nothing_goes_along_that_has_not_its_turn() {
    let check = |what: &str, expected: usize, queue: fn(&mut End)| {
        let (mut near, _) = pair();
        near.push_in_place(Envelope::data(), 0);
        queue(&mut near);
        assert_eq!(near.count_behind(), expected, "{what}");
    };
    check("its own lane", 1, |near| near.push_in_place(Envelope::data(), 1));
    check("what another lane has waits for its turn, or goes first", 0, |near| {
        near.push_in_place(Envelope::data(), 1);
        near.push(Priority::Low, b"below").expect("room");
    });
    check("what may expire is looked at when it leaves", 1, |near| {
        near.push_in_place(Envelope::data(), 1);
        near.push_in_place(Envelope::data().ttl(Duration::from_secs(1)), 2);
        near.push_in_place(Envelope::data(), 3);
    });
    check("an acknowledgement goes first", 0, |near| {
        near.push_in_place(Envelope::data(), 1);
        near.session.confirmations.is_due = true;
        let memory = &mut near.memory;
        let (source, block) = near.session.poll_block(NOW, memory).expect("its own");
        assert_eq!(source, Source::Control);
        near.session.block_sent(source, block, memory);
        // The one that is looked at now is the message, and another acknowledgement is due.
        let (source, block) = near.session.poll_block(NOW, memory).expect("queued");
        near.session.confirmations.is_due = true;
        assert_eq!(near.session.blocks_behind(source).count(), 0);
        near.session.block_sent(source, block, memory);
        near.session.confirmations.is_due = false;
    });
    check("nor after the goodbye was asked for", 0, |near| {
        near.push_in_place(Envelope::data(), 1);
        near.session.drain();
    });
}

/// A frame of the peer's.
fn frame_of(kind: Kind, extension: Option<Extension>, payload: &[u8]) -> Vec<u8> {
    let head = FrameHead {
        kind,
        priority: Priority::Critical,
        codec: Codec::Opaque,
        type_id: 0,
        sequence: 0,
        sent_at_ns: 0,
        flags: Flags::default(),
        extension,
        checksum: Checksum::Always,
    };
    let mut bytes = vec![0; frame_bytes(payload.len(), extension.is_some())];
    head.encode(payload, &mut bytes);
    bytes
}

/// What is received is taken in with one reading of the clock, and deadlines are looked at with
/// one, which may be the earlier.
#[test]
fn beat_that_is_due_before_the_last_one_came_is_sound() {
    let beats = HeartbeatPolicy { interval_us: 1_000, misses: 1_000, ..identity("").heartbeat };
    let mut near = End::new(Role::Dialer, Identity { heartbeat: beats, ..identity("near") });
    let mut far = End::new(Role::Listener, identity("server"));
    near.greet();
    exchange(&mut near, &mut far);
    let due = Nanos(NOW.0 + 2_000_000);
    let came = Nanos(due.0 + 500);
    let mut answer = [0; HEARTBEAT_FRAME_BYTES];
    let echo = Some(Echo { origin_ns: 1, received_ns: 1 });
    let written = write_heartbeat(&Beat { form: Form::Answer, echo, sent_ns: 2 }, &mut answer);
    far.handle_at(&answer[..written], came).expect("well formed");
    assert_eq!(far.session.expire(due, &mut any_time()), Expiry::GoOn);
    let bytes = far.send_block().expect("a heartbeat is due");
    let frame = Decoder::new(1024).next(&mut &bytes[..]).expect("ours").expect("whole");
    let beat = read_heartbeat(frame.payload()).expect("the peer takes it");
    assert_eq!(beat.echo, Some(Echo { origin_ns: 2, received_ns: came.0 }));
    assert_eq!(beat.sent_ns, came.0);
}

/// Nothing in an extension is for the session's own frames, a time to live least of all.
#[test]
fn frames_of_the_session_have_no_extension() {
    let extension = Some(Extension { ttl_us: 1.into(), ..Extension::default() });
    let refused = Err(ProtocolError::BadFlags { got: 0x11 });
    for kind in [Kind::Heartbeat, Kind::Acknowledgement, Kind::Gap, Kind::Goodbye] {
        let (mut near, _) = pair();
        assert_eq!(near.handle(&frame_of(kind, extension, &[])), refused, "{kind:?}");
    }
    let mut fresh = End::new(Role::Listener, identity("server"));
    assert_eq!(fresh.handle(&frame_of(Kind::Hello, extension, &[])), refused);
}

/// The frame of a greeting with something else in it.
fn forged(frame: &[u8], change: impl FnOnce(&mut Greeting)) -> Vec<u8> {
    let frame = Decoder::new(1024).next(&mut &frame[..]).expect("ours").expect("whole");
    let (greeting, name) = read_greeting(frame.payload()).expect("ours");
    let mut greeting = *greeting;
    change(&mut greeting);
    let mut bytes = vec![0; HANDSHAKE_BYTES_MAX];
    let written = write_greeting(frame.kind(), greeting, name, &mut bytes);
    bytes.truncate(written);
    bytes
}

/// A peer's clock may show what it wants, and what a heartbeat can not tell of.
#[test]
fn welcome_of_any_time_is_followed_by_a_sound_beat() {
    for (monotonic_ns, is_echoed) in
        [(0, false), (1, true), ((1 << 62) - 1, true), (1 << 62, false), (u64::MAX, false)]
    {
        let beats = HeartbeatPolicy { interval_us: 1_000, ..identity("").heartbeat };
        let mut near = End::new(Role::Dialer, identity("near"));
        let far = Identity { heartbeat: beats, ..identity("server") };
        let mut far = End::new(Role::Listener, far);
        near.greet();
        far.handle(&near.send_block().expect("the hello")).expect("well formed");
        let welcome = far.send_block().expect("the welcome");
        let welcome = forged(&welcome, |greeting| greeting.monotonic_ns = monotonic_ns.into());
        near.handle(&welcome).expect("well formed");
        assert_eq!(near.session.expire(NOW, &mut any_time()), Expiry::GoOn);
        let beat = near.send_block().expect("it measures at once");
        let frame = Decoder::new(1024).next(&mut &beat[..]).expect("ours").expect("whole");
        let beat = read_heartbeat(frame.payload()).expect("the peer takes it");
        let echo = Echo { origin_ns: monotonic_ns, received_ns: NOW.0 };
        assert_eq!(beat.echo, is_echoed.then_some(echo), "{monotonic_ns}");
    }
}

/// The clock of a peer that has restarted is measured by the hello that it answered, and not by
/// that of its predecessor.
#[test]
fn clock_of_a_restarted_peer_is_known_from_its_welcome() {
    let (mut near, _) = pair();
    near.lose_link();
    let asked = Nanos(NOW.0 + 3_600_000_000_000);
    let hello = hello_again(&mut near, asked);
    let mut other = End::new(Role::Listener, identity("another"));
    other.handle(&hello).expect("well formed");
    let welcome = other.send_block().expect("the welcome");
    let frame = Decoder::new(1024).next(&mut &welcome[..]).expect("ours").expect("whole");
    let (session, memory) = near.memory();
    let identity = identity("near");
    let returned = asked + Duration::from_millis(1);
    let accepted = session.accept_welcome(&frame, &identity, returned, memory);
    let (_, reunion) = accepted.expect("it is a peer");
    assert!(matches!(reunion, Reunion::PeerRestarted { .. }), "{reunion:?}");
    let offset = near.session.clock_offset(returned).expect("it was measured");
    assert!(offset.error_ns < 1_000_000, "{offset:?}");
}

/// Who does not want to hear of its peer knows its clock all the same, unless it knows no beats.
#[test]
fn time_to_live_needs_no_heartbeats() {
    let beats = |interval_us| HeartbeatPolicy { interval_us, ..identity("").heartbeat };
    for (near_us, is_known) in [(0, true), (1_000_000, true), (0, false)] {
        let near = Identity { heartbeat: beats(near_us), ..identity("near") };
        let mut near = End::new(Role::Dialer, near);
        let mut far = End::new(Role::Listener, identity("server"));
        near.greet();
        far.handle(&near.send_block().expect("the hello")).expect("well formed");
        let welcome = far.send_block().expect("the welcome");
        let welcome = forged(&welcome, |greeting| {
            if !is_known {
                greeting.features = Features::RESUME.0.into();
            }
        });
        near.handle(&welcome).expect("well formed");
        assert_eq!(near.session.deadline() <= NOW, is_known, "a beat is due");
        assert_eq!(near.session.expire(NOW, &mut any_time()), Expiry::GoOn);
        near.push_as(Envelope::command().ttl(Duration::from_secs(1)), b"in time");
        exchange(&mut near, &mut far);
        let expected = [(Priority::Normal, b"in time".to_vec())];
        assert_eq!(far.received, if is_known { &expected[..] } else { &[] }, "{near_us}");
        assert_eq!(far.session.expired(), u64::from(!is_known));
        // And no more of it.
        let later = Nanos(NOW.0 + 600_000_000_000);
        assert!(near.session.deadline() > later || near_us > 0);
    }
}

/// What of best effort the socket has not taken is counted, whether the session ends under it or
/// after it was put back.
#[test]
fn best_effort_in_flight_at_the_end_is_counted() {
    for is_put_back in [false, true] {
        let (mut near, _) = pair();
        let body = [1; 100];
        for envelope in [Envelope::data(), Envelope::data(), Envelope::data().reliable()] {
            near.push_as(envelope, &body);
        }
        let (session, memory) = near.memory();
        let (source, block) = session.poll_block(NOW, memory).expect("queued");
        // One and a half.
        let sent = block.span.start + block.span.bytes() / 2;
        let returned = Returned { source, block, sent };
        let mut undelivered;
        if is_put_back {
            session.link_lost(Some(returned), memory);
            let dropped;
            (dropped, undelivered) = session.end(memory);
            assert_eq!(dropped, 2, "all but the one that was sent");
        } else {
            (_, undelivered) = session.end(memory);
            session.end_block(returned, &mut undelivered, memory);
        }
        assert_eq!(undelivered.len(), 1);
        let drops = session.take_drops()[Priority::Normal.index()];
        assert_eq!(drops.by_reason()[DropReason::SessionEnded.index()], 2, "{is_put_back}");
        assert_eq!(drops.total(), 2);
        assert_eq!(near.memory.pool.lent_bytes(), 0);
    }
}

/// However many keys there are, each has one message waiting, also when the link is another.
#[test]
fn every_key_has_one_message_waiting() {
    const KEYS: u32 = if cfg!(miri) { 20 } else { 300 };
    let (mut near, mut far) = pair();
    near.session.limits.frames_max = 2 * KEYS;
    far.session.limits.frames_max = 2 * KEYS;
    let latest = |key: u32| Envelope::data().reliable().latest(key);
    let push_all = |near: &mut End, value: u32| {
        for key in 0..KEYS {
            near.push_as(latest(key), &u32::to_le_bytes(1000 * value + key));
        }
        assert_eq!(near.session.frames_queued(), u64::from(KEYS), "the values before are gone");
    };
    push_all(&mut near, 1);
    push_all(&mut near, 2);
    near.push_as(Envelope::data(), b"lost with the link");
    near.lose_link();
    push_all(&mut near, 3);
    far.lose_link();
    let hello = hello_again(&mut near, NOW);
    resume_by(&mut near, &mut far, &hello);
    push_all(&mut near, 4);
    exchange(&mut near, &mut far);
    let value = |(_, body): &(Priority, Vec<u8>)| {
        u32::from_le_bytes(body[..].try_into().expect("four bytes"))
    };
    let mut values: Vec<_> = far.received.iter().map(value).collect();
    // One that ends a block has no room for a newer one to be written: it goes behind the others.
    values.sort_unstable();
    assert!(values.into_iter().eq((0..KEYS).map(|key| 4000 + key)), "the latest of each");
    let drops = near.session.take_drops()[Priority::Normal.index()];
    assert_eq!(drops.by_reason()[DropReason::Replaced.index()], 3 * u64::from(KEYS));
}

/// What is queued behind the block that a link was lost under goes when its time is over.
#[test]
fn message_behind_a_block_that_was_put_back_expires() {
    let (mut near, _) = pair();
    let reliable = Envelope::data().reliable();
    near.push_as(reliable, b"in flight");
    let (session, memory) = near.memory();
    let (source, block) = session.poll_block(NOW, memory).expect("queued");
    let sent = block.span.start;
    session.link_lost(Some(Returned { source, block, sent }), memory);
    near.push_as(reliable.ttl(Duration::from_millis(1)), b"short-lived");
    assert_eq!(near.session.frames_queued(), 2);
    let (session, memory) = near.memory();
    session.drop_expired(Nanos(NOW.0 + 2_000_000), memory);
    let drops = session.take_drops()[Priority::Normal.index()];
    assert_eq!(drops.by_reason()[DropReason::Expired.index()], 1);
    assert_eq!(session.frames_queued(), 1);
}

/// Gaps lead to no sequence from which 64 bits do not suffice.
#[test]
fn gap_beyond_all_sequences_is_refused() {
    for (received, count, is_sound) in [
        (u64::MAX - 5, 10, false),
        (u64::MAX - 5, 5, false),
        ((1 << 63) - 11, 10, true),
        ((1 << 63) - 11, 11, false),
        (0, u32::MAX, true),
    ] {
        let (mut near, _) = pair();
        near.session.begin_at([received; Priority::COUNT]);
        let last = low_half(received.wrapping_add(u64::from(count)));
        let head = FrameHead {
            kind: Kind::Gap,
            priority: Priority::Critical,
            codec: Codec::Opaque,
            type_id: count,
            sequence: last,
            sent_at_ns: 0,
            flags: Flags::default(),
            extension: None,
            checksum: Checksum::Always,
        };
        let mut gap = [0; HEADER_BYTES];
        head.encode(&[], &mut gap);
        let expected =
            ProtocolError::BadSequence { expected: low_half(received.wrapping_add(1)), got: last };
        assert_eq!(near.handle(&gap), if is_sound { Ok(()) } else { Err(expected) });
    }
}

/// In a lane of latest values somebody waits for each answer and each request all the same.
#[test]
fn requests_and_answers_are_no_values() {
    let (mut near, mut far) = pair();
    near.session.limits.overflow[Priority::Normal.index()] = Overflow::LatestValue;
    let patience = Correlation::Request { id: 3, timeout_us: 1_000_000 };
    let request = Correlation::Request { id: 4, timeout_us: 0 };
    let correlations =
        [Correlation::Response(1), Correlation::Response(2), patience, request, Correlation::None];
    for correlation in correlations.into_iter().chain([Correlation::None]) {
        let (session, identity) = (&mut near.session, &near.identity);
        let memory = &mut near.memory;
        let status = Envelope::status();
        session.push(status, correlation, &b"body"[..], identity, NOW, memory).expect("room");
    }
    exchange(&mut near, &mut far);
    assert_eq!(far.received.len(), 5, "one value has replaced another");
}

/// In a lane of latest values a reliable message stays, whatever comes behind it and whether or not
/// the lane is full: it is refused when there is no room, and never dropped.
#[test]
fn reliable_messages_are_no_values() {
    let (mut near, mut far) = pair();
    near.session.limits.overflow[Priority::Normal.index()] = Overflow::LatestValue;
    let (loose, reliable) = (Envelope::status(), Envelope::status().reliable());
    for (envelope, body) in
        [(reliable, b"r1"), (loose, b"b2"), (reliable, b"r3"), (loose, b"b4"), (reliable, b"r5")]
    {
        near.push_as(envelope, body);
    }
    // One that was asked for is another matter.
    near.push_as(reliable.latest(1), b"k6");
    near.push_as(reliable.latest(1), b"k7");
    near.session.limits.frames_max = 5;
    let (session, memory) = near.memory();
    let (identity, none) = (identity("near"), Correlation::None);
    let full = session.push(reliable, none, &b"r8"[..], &identity, NOW, memory);
    assert_eq!(full, Err(SendError::Full));
    near.push_as(loose, b"b9");
    exchange(&mut near, &mut far);
    let bodies: Vec<_> = far.received.iter().map(|(_, body)| &body[..]).collect();
    assert_eq!(bodies, [b"r1", b"b9", b"r3", b"r5", b"k7"]);
}

/// In a lane of latest values a message replaces one of its own kind, whatever its type number.
#[test]
fn value_replaces_one_of_its_own_kind_and_type() {
    struct Typed(u32);
    impl Body for Typed {
        fn type_id(&self) -> u32 {
            self.0
        }

        fn encode(&self, out: &mut [u8], scratch: &mut Scratch) -> Result<usize, BodyError> {
            [self.0.to_le_bytes()[0]].encode(out, scratch)
        }
    }
    let (mut near, mut far) = pair();
    near.session.limits.overflow[Priority::Normal.index()] = Overflow::LatestValue;
    let (session, identity) = (&mut near.session, &near.identity);
    let memory = &mut near.memory;
    for _ in 0..2 {
        for kind in Kind::APPLICATION {
            for type_id in 0..3 {
                let (envelope, none, body) =
                    (Envelope::of(kind), Correlation::None, Typed(type_id));
                session.push(envelope, none, &body, identity, NOW, memory).expect("room");
            }
        }
        // No key of the application's is one of those.
        for key in 0..3 {
            let (envelope, body) = (Envelope::data().latest(key), Typed(key));
            let none = Correlation::None;
            session.push(envelope, none, &body, identity, NOW, memory).expect("room");
        }
    }
    let drops = session.take_drops()[Priority::Normal.index()];
    assert_eq!(drops.by_reason()[DropReason::Replaced.index()], 18);
    exchange(&mut near, &mut far);
    let bodies: Vec<_> = far.received.iter().map(|(_, body)| body[0]).collect();
    assert_eq!(bodies, [0, 1, 2].repeat(6));
}

/// A peer is told of what came too late also on the next link, where the frame that told of it may
/// have gone with the last.
#[test]
fn expired_messages_are_told_on_the_next_link() {
    for is_lost_on_its_way in [false, true] {
        let (mut near, mut far) = pair();
        near.push_as(Envelope::command().ttl(Duration::from_secs(1)), b"of an unknown age");
        far.handle(&near.send_block().expect("queued")).expect("well formed");
        assert_eq!(far.session.expired(), 1);
        if is_lost_on_its_way {
            far.confirm();
            assert!(far.send_block().is_some());
        }
        reconnect(&mut near, &mut far);
        assert_eq!(near.session.expired_at_peer(), 0);
        assert!(far.session.deadline() <= NOW + CONFIRM_AFTER, "it is to be told");
        far.confirm();
        exchange(&mut near, &mut far);
        assert_eq!(near.session.expired_at_peer(), 1);
    }
}

/// A peer may say of the messages that came too late what it wants.
#[test]
fn sum_of_what_peers_say_does_not_overflow() {
    let (mut near, _) = pair();
    let mut bytes = [0; ACKNOWLEDGEMENT_BYTES];
    write_acknowledgement([0; Priority::COUNT], u64::MAX, 0, &mut bytes);
    near.handle(&bytes).expect("well formed");
    let mut books = pair::Accounts::default();
    books.add(&near.session);
    books.add(&near.session);
    assert_eq!(books.messages_expired_at_peer, u64::MAX);
}

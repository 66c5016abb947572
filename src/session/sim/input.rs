//! One session that is fed with any bytes: what a hostile or broken peer can do to it.
//!
//! The input is a program of steps, a byte each with its operands behind it: bytes for the session
//! as they are, frames made with a valid head and checksum around any numbers, time that passes,
//! messages queued, blocks sent, links lost. It begins with an established session, or with one
//! that waits for a greeting, at either end.
//!
//! [`run`] panics when the session does, and when: a step leaves memory that nobody accounts for,
//! or more of it than its limits allow; sequences, messages handled, missed and dropped do not add
//! up; the same bytes in other pieces mean something else; the end of the session does not give
//! back all memory.

use std::mem::discriminant;
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::config::Overflow;
use crate::error::{CloseReason, ProtocolError, SendError};
use crate::mem::{Pool, PoolLayout};
use crate::session::block::Block;
use crate::session::heartbeat::{HeartbeatPolicy, Pace};
use crate::session::lane::{LaneLimits, SendMemory};
use crate::session::state::State;
use crate::session::{
    Correlation, Envelope, Expiry, HelloClaim, Identity, Input, Returned, Reunion, Role, Session,
    Source,
};
use crate::time::Nanos;
use crate::wire::acknowledgement::{ACKNOWLEDGEMENT_BYTES, write_acknowledgement};
use crate::wire::handshake::{
    Features, GREETING_BYTES, GoodbyeReason, Greeting, HANDSHAKE_BYTES_MAX, SessionId,
    read_greeting, write_farewell, write_greeting,
};
use crate::wire::heartbeat::{Beat, Echo, Form, HEARTBEAT_FRAME_BYTES, write_heartbeat};
use crate::wire::{
    Checksum, Codec, Extension, Flags, Frame, FrameHead, Kind, Priority, Scratch, frame_bytes,
};

const LIMITS: LaneLimits = LaneLimits {
    frames_max: 16,
    bytes_max: 4096,
    frame_bytes_max: 4096,
    block_bytes: 2048,
    kept_bytes_max: 8192,
    in_place_bytes_min: 128,
    overflow: [Overflow::Reject, Overflow::DropOldest, Overflow::LatestValue, Overflow::Disconnect],
};
const PEER: SessionId = SessionId([2; 16]);
const OURS: SessionId = SessionId([1; 16]);
/// Steps taken of one input.
const STEPS_MAX: usize = 400;

/// What a frame did, or that it was refused.
type Outcome = Result<Input, ProtocolError>;

/// Runs an input twice: with each delivery in one piece, and byte by byte.
pub(crate) fn run(data: &[u8]) {
    let whole = Subject::new(data).drive(data, usize::MAX);
    let split = Subject::new(data).drive(data, 1);
    // A wrong byte is refused as soon as it is there, so an error may tell less of those after it.
    let kind = |outcome: &Outcome| outcome.map_err(|error| discriminant(&error));
    let is_same = whole.iter().map(kind).eq(split.iter().map(kind));
    assert!(is_same, "whole: {whole:?}, split: {split:?}");
}

/// A conversation of each kind, well formed.
pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let established_dialer = [
        &[0_u8][..],
        &[9, 3, 9, 0x13, 10, 10],         // queue two messages, send
        &[2, 0, 1, 0, 0, 0, 0, 0, 0, 0],  // an acknowledgement of the first lane
        &[3, 1, 1],                       // the next message of a lane
        &[3, 0x82, 20, 4, 2, 1],          // a reliable one, a gap
        &[5, 0, 8, 40, 8, 200, 10],       // a heartbeat, time
        &[11, 6, 0, 1, 10, 9, 3, 10, 12], // link lost, a greeting, queue, send, drain
    ];
    let listener = [&[3_u8][..], &[6, 0, 0], &[3, 1, 1], &[9, 0x17, 10], &[11, 6, 1, 0], &[13]];
    let mut hello = vec![0; HANDSHAKE_BYTES_MAX];
    let length = write_greeting(Kind::Hello, greeting(0, 0), "peer", &mut hello);
    let mut raw = vec![3_u8];
    // As bytes, in pieces.
    for piece in hello[..length].chunks(200) {
        raw.extend([0, u8::try_from(piece.len()).expect("short")]);
        raw.extend(piece);
    }
    let no_time = vec![2, 6, 0, 16, 0, 13, 10, 10];
    let late_beat = vec![0, 14, 200, 5, 4, 0x80, 1, 8, 100, 10, 10];
    let rest = [vec![1, 13], vec![2, 6, 0, 0, 10], no_time, late_beat];
    [established_dialer.concat(), listener.concat(), raw].into_iter().chain(rest).collect()
}

/// What the peer's greeting says: `last` was received in every lane, and it names our end or none.
fn greeting(last: u64, names_us: u8) -> Greeting {
    let mut greeting: Greeting = zerocopy::FromZeros::new_zeroed();
    greeting.protocol_min = 1;
    greeting.protocol_max = 1;
    greeting.features = Features::RESUME.0.into();
    greeting.session_id = PEER.0;
    greeting.frame_bytes_max = 4096.into();
    greeting.heartbeat_interval_us = 10_000.into();
    greeting.last_received = [last.into(); Priority::COUNT];
    greeting.messages_received = [last.into(); Priority::COUNT];
    if names_us == 0 {
        greeting.peer_session_id = OURS.0;
    }
    assert_eq!(greeting.as_bytes().len(), GREETING_BYTES, "all of it is set");
    greeting
}

/// The session, its memory, and what it has done.
struct Subject {
    session: Session,
    /// What speaks for it while it has no link.
    provisional: Option<Session>,
    identity: Identity,
    memory: SendMemory,
    now: Nanos,
    /// What has a time to live is taken in so much later, with a clock that is read anew.
    late: Duration,
    window: Vec<u8>,
    flight: Option<(Source, Block)>,
    /// Since the lanes were new.
    admitted: u64,
    handled: u64,
    outcomes: Vec<Outcome>,
    is_over: bool,
}

/// The operands of a step, from the input; zeros when it has ended.
struct Operands<'a>(&'a [u8]);

impl<'a> Operands<'a> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let count = count.min(self.0.len());
        self.0.split_off(..count).expect("no more than there are")
    }

    /// Small, or near a limit of 32 or 64 bits.
    fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..240 => small.into(),
            edge @ 240..248 => (1 << 32) - u64::from(edge - 240),
            edge => u64::MAX - u64::from(edge - 248),
        }
    }
}

impl Subject {
    fn new(data: &[u8]) -> Self {
        let choice = data.first().copied().unwrap_or(0);
        let role = if choice & 1 == 0 { Role::Dialer } else { Role::Listener };
        let identity = Identity {
            dialer_features: Features::RESUME,
            listener_features: Features::RESUME,
            node_name: "subject".into(),
            node_number: 1,
            schema_hash: 0,
            frame_bytes_max: 4096,
            checksum: Checksum::Commands,
            heartbeat: HeartbeatPolicy {
                interval_us: 10_000,
                misses: 3,
                measure_every: Duration::ZERO,
            },
            clock_drift_ppm: 100,
            watches_max: 2,
        };
        let layout = PoolLayout::shared(32 << 10, 2 * HANDSHAKE_BYTES_MAX, 4096).with_reserve();
        let pool = Pool::new(&layout.with_small(HANDSHAKE_BYTES_MAX, 4)).expect("little memory");
        let mut subject = Self {
            session: Session::new(role, OURS, LIMITS, &identity),
            provisional: None,
            identity,
            memory: SendMemory { pool, scratch: Scratch::new() },
            now: Nanos(1_000_000),
            late: Duration::ZERO,
            window: Vec::new(),
            flight: None,
            admitted: 0,
            handled: 0,
            outcomes: Vec::new(),
            is_over: false,
        };
        if role == Role::Dialer {
            let buffer = subject.memory.pool.take(HANDSHAKE_BYTES_MAX).expect("all is free");
            subject.session.greet(buffer, &subject.identity, subject.now, 0);
            subject.send();
            subject.send();
        }
        if choice & 2 == 0 {
            subject.greet(&mut Operands(&[]), usize::MAX);
            assert_eq!(subject.session.state(), State::Open, "the peer is who it should be");
        }
        subject
    }

    /// Takes all steps, with deliveries in pieces of at most `piece` bytes.
    fn drive(mut self, data: &[u8], piece: usize) -> Vec<Outcome> {
        let mut operands = Operands(data.get(1..).unwrap_or(&[]));
        for _ in 0..STEPS_MAX {
            if operands.0.is_empty() || self.is_over {
                break;
            }
            self.step(&mut operands, piece);
            self.check();
        }
        self.finish();
        self.outcomes
    }

    fn step(&mut self, operands: &mut Operands<'_>, piece: usize) {
        match operands.byte() % 15 {
            0 | 1 => {
                let count = usize::from(operands.byte());
                let bytes = operands.bytes(count).to_vec();
                self.deliver(&bytes, piece);
            }
            2 => self.acknowledge(operands, piece),
            3 => self.message(operands, piece),
            4 => self.gap(operands, piece),
            5 => self.beat(operands, piece),
            6 => self.greet(operands, piece),
            7 => self.farewell(operands, piece),
            8 => self.pass_time(operands.byte()),
            9 => self.push(operands),
            10 => self.send(),
            11 => self.lose_link(),
            12 if self.session.state() == State::Open => self.session.drain(),
            12 => {}
            13 => self.expire(),
            _ => self.late = Duration::from_micros(operands.byte().into()),
        }
    }

    // What comes.

    fn deliver(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece.min(bytes.len()).max(1)) {
            self.window.extend_from_slice(piece);
            self.session.received_bytes(self.now);
            let window = std::mem::take(&mut self.window);
            let mut input = &window[..];
            while !self.is_over {
                let speaker = self.provisional.as_ref().unwrap_or(&self.session);
                match speaker.decoder().next(&mut input) {
                    Ok(Some(frame)) => {
                        let outcome = self.handle(&frame);
                        self.book(outcome);
                    }
                    Ok(None) => break,
                    Err(error) => self.book(Err(error)),
                }
            }
            self.window = input.to_vec();
        }
    }

    fn handle(&mut self, frame: &Frame<'_>) -> Outcome {
        let Self { session, provisional, identity, memory, now, late, .. } = self;
        let speaker = provisional.as_mut().unwrap_or(session);
        let is_late = frame.expires() && frame.kind().is_application();
        let read_at = if is_late { *now + *late } else { *now };
        let outcome = speaker.handle(frame, read_at, memory)?;
        if outcome != Input::Greeting {
            return Ok(outcome);
        }
        if session.role() == Role::Dialer {
            if let Some(stand_in) = provisional {
                session.take_link(stand_in);
            }
            let (outcome, reunion) = session.accept_welcome(frame, identity, *now, memory)?;
            if matches!(reunion, Reunion::PeerRestarted { .. }) {
                (self.admitted, self.handled) = (0, 0);
            }
            self.drop_provisional();
            return Ok(outcome);
        }
        if session.state() == State::Down {
            read_greeting(frame.payload())?;
            if session.claim(frame)? != HelloClaim::Resume {
                return Ok(Input::End(CloseReason::SessionExpired));
            }
        }
        let Some(buffer) = memory.pool.take(HANDSHAKE_BYTES_MAX) else {
            return Ok(Input::End(CloseReason::ConnectionLimit));
        };
        let outcome = session.answer(frame, buffer, identity, *now, 0, memory)?;
        self.drop_provisional();
        Ok(outcome)
    }

    fn book(&mut self, outcome: Outcome) {
        self.handled += u64::from(matches!(outcome, Ok(Input::Message | Input::Expired)));
        self.is_over = matches!(outcome, Err(_) | Ok(Input::End(_)));
        self.outcomes.push(outcome);
    }

    /// A frame of the peer's, sound but for the numbers in it.
    fn head(operands: &mut Operands<'_>, kind: Kind, sequence: u64) -> FrameHead {
        let choice = operands.byte();
        FrameHead {
            kind,
            priority: Priority::ALL[usize::from(choice % 4)],
            codec: Codec::Opaque,
            type_id: 0,
            sequence: crate::wire::low_half(sequence),
            sent_at_ns: 0,
            flags: if choice & 0x80 != 0 { Flags::RELIABLE } else { Flags::default() },
            extension: None,
            checksum: Checksum::Always,
        }
    }

    fn frame(&mut self, head: FrameHead, payload: &[u8], piece: usize) {
        let mut bytes = vec![0; frame_bytes(payload.len(), head.extension.is_some())];
        head.encode(payload, &mut bytes);
        self.deliver(&bytes, piece);
    }

    fn message(&mut self, operands: &mut Operands<'_>, piece: usize) {
        let kinds = [Kind::Data, Kind::Command, Kind::Status, Kind::Error, Kind::Configuration];
        let mut head = Self::head(operands, Kind::Data, 0);
        let choice = operands.byte();
        let next = self.session.confirmations.received[head.priority.index()].wrapping_add(1);
        head.kind = kinds[usize::from(choice) % kinds.len()];
        // Mostly the one that is due.
        head.sequence = crate::wire::low_half(next.wrapping_add(u64::from(choice >> 6 == 3)));
        head.sent_at_ns = self.now.0.wrapping_sub(u64::from(choice) * 1000);
        if head.flags != Flags::default() || choice & 0x20 != 0 {
            head.extension = Some(Extension {
                acknowledged: operands.number().into(),
                correlation: operands.number().into(),
                ttl_us: u32::from(operands.byte()).into(),
                source: 0.into(),
                destination: 0.into(),
                reserved: 0.into(),
            });
        }
        let payload = operands.bytes(usize::from(choice % 32));
        self.frame(head, payload, piece);
    }

    fn gap(&mut self, operands: &mut Operands<'_>, piece: usize) {
        let mut head = Self::head(operands, Kind::Gap, 0);
        let count = operands.number();
        head.type_id = crate::wire::low_half(count);
        let last = self.session.confirmations.received[head.priority.index()].wrapping_add(count);
        head.sequence = crate::wire::low_half(last);
        head.flags = Flags::default();
        self.frame(head, &[], piece);
    }

    fn acknowledge(&mut self, operands: &mut Operands<'_>, piece: usize) {
        let received = std::array::from_fn(|index| {
            // Relative to what was sent, when that is meant.
            let sent = self.session.lanes[index].sequence();
            match operands.number() {
                number @ 0..64 => sent.saturating_sub(number),
                number => number,
            }
        });
        let mut bytes = [0; ACKNOWLEDGEMENT_BYTES];
        let length = write_acknowledgement(received, operands.number(), self.now.0, &mut bytes);
        self.deliver(&bytes[..length], piece);
    }

    fn beat(&mut self, operands: &mut Operands<'_>, piece: usize) {
        let choice = operands.byte();
        if choice & 4 != 0 {
            let mut head = Self::head(operands, Kind::Heartbeat, 0);
            if head.flags != Flags::default() {
                // A time to live, on a frame that is no message.
                let ttl_us = u32::from(operands.byte()).into();
                head.extension = Some(Extension { ttl_us, ..Extension::default() });
            }
            let payload = operands.bytes(usize::from(choice >> 3));
            self.frame(FrameHead { flags: Flags::default(), ..head }, payload, piece);
            return;
        }
        let near = |number: u64, now: Nanos| match number {
            number @ 0..128 => now.0.wrapping_sub(number * 1_000),
            number => number.clamp(1, 1 << 40),
        };
        let echo = (choice & 2 != 0).then(|| Echo {
            origin_ns: near(operands.number(), self.now),
            received_ns: near(operands.number(), self.now),
        });
        let form = match echo {
            Some(_) if choice & 1 != 0 => Form::Answer,
            _ => Form::Heartbeat,
        };
        let sent_ns = near(operands.number(), self.now);
        // Our own writer keeps to this; the bytes of a peer that does not come below.
        let sent_ns = echo.map_or(sent_ns, |echo| sent_ns.max(echo.received_ns));
        let beat = Beat { form, echo, sent_ns };
        let mut bytes = [0; HEARTBEAT_FRAME_BYTES];
        let length = write_heartbeat(&beat, &mut bytes);
        self.deliver(&bytes[..length], piece);
    }

    /// The peer's half of a handshake.
    fn greet(&mut self, operands: &mut Operands<'_>, piece: usize) {
        let kind = match self.session.role() {
            Role::Dialer => Kind::Welcome,
            Role::Listener => Kind::Hello,
        };
        let mut greeting = greeting(0, operands.byte());
        let choice = operands.byte();
        for index in 0..Priority::COUNT {
            let lane = &self.session.lanes[index];
            let (low, high) = (lane.acknowledged(), lane.sequence());
            let received = match choice % 4 {
                0 => low,
                1 => high,
                2 => low.midpoint(high),
                _ => operands.number(),
            };
            greeting.last_received[index] = received.into();
            // Gaps among them, or as many as there can be.
            let messages = if choice & 4 == 0 { received } else { operands.number() };
            greeting.messages_received[index] = messages.into();
        }
        greeting.monotonic_ns = match choice & 16 {
            0 => (self.now.0 - u64::from(choice & 8) * 10).into(),
            // What no clock shows, too.
            _ => operands.number().into(),
        };
        let mut bytes = [0; HANDSHAKE_BYTES_MAX];
        let length = write_greeting(kind, greeting, "peer", &mut bytes);
        self.deliver(&bytes[..length], piece);
    }

    fn farewell(&mut self, operands: &mut Operands<'_>, piece: usize) {
        let kind = if operands.byte() & 1 == 0 { Kind::Goodbye } else { Kind::Reject };
        let mut bytes = [0; HANDSHAKE_BYTES_MAX];
        let (reason, detail) = (operands.byte().into(), operands.byte().into());
        let length = write_farewell(kind, reason, detail, self.now.0, &mut bytes);
        self.deliver(&bytes[..length], piece);
    }

    // What happens on this side.

    fn pass_time(&mut self, amount: u8) {
        // A later turn begins after the last reading.
        self.now = self.now + std::mem::take(&mut self.late);
        // From 16 ns to a minute.
        self.now = Nanos(self.now.0 + (u64::from(amount % 16) + 1) * (16 << (2 * (amount / 16))));
        self.expire();
    }

    fn expire(&mut self) {
        let deadline = self.session.deadline();
        if self.session.expire(self.now, &mut Pace::new(Duration::ZERO)) == Expiry::PeerSilent {
            assert!(deadline <= self.now, "a peer dies at its deadline");
            self.lose_link();
        }
    }

    fn push(&mut self, operands: &mut Operands<'_>) {
        let choice = operands.byte();
        let kinds = [Kind::Data, Kind::Command];
        let mut envelope = Envelope::of(kinds[usize::from(choice >> 2 & 1)]);
        envelope = envelope.priority(Priority::ALL[usize::from(choice % 4)]);
        if choice & 8 != 0 {
            envelope = envelope.reliable();
        }
        if choice & 16 != 0 {
            envelope = envelope.ttl(Duration::from_micros(operands.byte().into()));
        }
        if choice & 32 != 0 {
            envelope = envelope.latest(u32::from(choice >> 6));
        }
        let correlation = match choice >> 6 {
            0 => Correlation::None,
            1 => Correlation::Request { id: operands.number(), timeout_us: 0 },
            _ => Correlation::Response(operands.number()),
        };
        let body = vec![choice; 8 * usize::from(operands.byte())];
        let Self { session, identity, memory, now, .. } = self;
        match session.push(envelope, correlation, &body, identity, *now, memory) {
            Ok(_) => self.admitted += 1,
            Err(
                SendError::Full
                | SendError::MemoryFull
                | SendError::NotConnected
                | SendError::Expired,
            ) => {}
            Err(error) => panic!("refused: {error}"),
        }
    }

    /// Sends what is in flight, or takes the next block.
    fn send(&mut self) {
        let Self { session, memory, now, flight, .. } = self;
        match flight.take() {
            Some((source, block)) => session.block_sent(source, block, memory),
            None => *flight = session.poll_block(*now, memory),
        }
        if self.flight.is_none()
            && self.session.state() == State::Draining
            && !self.session.has_block()
            && let Some(buffer) = self.memory.pool.take(HANDSHAKE_BYTES_MAX)
        {
            self.session.finish(buffer, GoodbyeReason::Disconnect, self.now);
        }
    }

    /// The link is lost: the session waits for the next, or is over.
    fn lose_link(&mut self) {
        self.window.clear();
        if self.session.state() == State::Down {
            // So is what spoke for it.
            self.drop_provisional();
        } else if self.session.state() == State::Open {
            let flight = self.flight.take().map(|(source, block)| {
                let sent = block.span.start.midpoint(block.span.filled);
                Returned { source, block, sent }
            });
            let memory = &mut self.memory;
            self.session.link_lost(flight, memory);
        } else {
            self.is_over = true;
            return;
        }
        self.provisional = Some(match self.session.role() {
            Role::Dialer => self.session.stand_in(LIMITS, &self.identity),
            Role::Listener => {
                Session::new(Role::Listener, SessionId([3; 16]), LIMITS, &self.identity)
            }
        });
    }

    fn drop_provisional(&mut self) {
        if let Some(mut provisional) = self.provisional.take() {
            let memory = &mut self.memory;
            let _ = provisional.end(memory);
        }
    }

    // What must hold.

    fn check(&self) {
        let Self { session, memory, flight, .. } = self;
        let control = session.control.as_ref().map_or(0, |block| block.buffer.len());
        let in_flight = match flight {
            Some((Source::Control, block)) => block.buffer.len(),
            _ => 0,
        };
        let held = session.holdings.bytes + control + in_flight;
        assert_eq!(memory.pool.lent_bytes(), held, "every byte lent is somewhere");
        for lane in &session.lanes {
            let most = 4 * (LIMITS.kept_bytes_max + LIMITS.frame_bytes_max + LIMITS.block_bytes);
            assert!(lane.kept_bytes() <= most, "{} bytes kept of {most}", lane.kept_bytes());
            assert!(lane.frames() <= LIMITS.frames_max, "{} frames wait", lane.frames());
            let gone = lane.drops().total() + u64::from(lane.frames());
            assert!(gone <= lane.admitted(), "{gone} of {} messages", lane.admitted());
            assert!(lane.acknowledged() <= lane.sequence(), "more is confirmed than was sent");
        }
        assert_eq!(session.messages_admitted(), self.admitted, "messages admitted");
        let received: u64 = session.confirmations.received.iter().sum();
        // A message that breaks the protocol is received, and not handled.
        let broken = u64::from(matches!(self.outcomes.last(), Some(Err(_))));
        let handled = received - session.missed();
        assert!((self.handled..=self.handled + broken).contains(&handled), "messages received");
        assert!(session.expired() <= self.handled, "what is too late has come");
    }

    /// The end: all memory is back, and what was not sent and not listed is counted.
    fn finish(&mut self) {
        self.drop_provisional();
        let memory = &mut self.memory;
        let (_, mut undelivered) = self.session.end(memory);
        if let Some((source, block)) = self.flight.take() {
            let sent = block.span.start;
            let returned = Returned { source, block, sent };
            self.session.end_block(returned, &mut undelivered, memory);
        }
        assert_eq!(self.memory.pool.lent_bytes(), 0, "all memory is back");
        let drops = self.session.take_drops();
        let dropped: u64 = drops.iter().map(|drops| drops.total()).sum();
        assert!(dropped >= undelivered.len() as u64, "what is listed is counted");
    }
}

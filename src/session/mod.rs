//! The rules of talking to one peer. Sans-IO: bytes and `now` come in, bytes and events come out.
//!
//! A [`Session`] owns the handshake, the four lanes and their sequences. It never sees a socket, a
//! ring or a clock, so the same code runs in tests without any.
//!
//! The order of calls: [`Session::handle`] for each received frame, [`Session::push`] for each
//! message to send, then [`Session::poll_block`] whenever nothing is in flight, and
//! [`Session::block_sent`] when the block has left.
//!
//! Higher lanes overtake lower ones at frame boundaries: a block holds frames of one lane only and
//! the highest lane with something to send goes first. The session's own frames (hello, welcome,
//! reject, goodbye) go before all lanes, the goodbye only once they are empty.
//!
//! Resuming after a reconnect will live here: the sequences, the session id and the greeting's
//! `last_received` are its places.

pub(crate) mod lane;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use crate::error::{CloseReason, ProtocolError, SendError};
use crate::mem::Buffer;
use crate::session::lane::{Block, Holdings, Lane, LaneLimits, SendMemory};
use crate::session::state::{Event, State};
use crate::time::Nanos;
use crate::wire::handshake::{
    GoodbyeReason, Greeting, HANDSHAKE_BYTES_MAX, RejectReason, SessionId, read_farewell,
    read_greeting, version_in_common, write_farewell, write_greeting,
};
use crate::wire::{
    Body, Checksum, Codec, Decoder, Extension, Flags, Frame, FrameHead, Kind, Priority, VERSION,
    low_half,
};

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Connected: says hello.
    Dialer,
    /// Accepted: answers.
    Listener,
}

/// What both ends of every session of a reactor have in common.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) session_id: SessionId,
    pub(crate) node_name: String,
    pub(crate) node_number: u32,
    pub(crate) schema_hash: u64,
    pub(crate) frame_bytes_max: u32,
    pub(crate) checksum: Checksum,
}

impl Identity {
    /// Whether every frame carries a checksum.
    fn checksums_all(&self) -> bool {
        self.checksum == Checksum::Always
    }
}

/// Who is at the other end, as it said in its greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Its end of the session: new for every start of its node.
    pub session_id: SessionId,
    /// Its name, may be empty.
    pub node_name: String,
    /// Its number, 0 when it has none.
    pub node_number: u32,
    /// The largest frame it accepts.
    pub frame_bytes_max: u32,
    /// Its monotonic clock minus ours when its greeting arrived, in nanoseconds: an estimate that
    /// includes the greeting's way here.
    pub clock_offset_ns: i64,
}

/// What a received frame means. Does not carry the frame: moving it through here cost 5 ns a frame
/// in store-forwarding stalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// A message for the application.
    Message,
    /// The peer's half of the handshake: hand it to [`Session::answer`] or
    /// [`Session::accept_welcome`].
    Greeting,
    /// The handshake is complete.
    Established,
    /// The session has taken care of it.
    Nothing,
    /// The session is over; what is queued (a reject) should still leave.
    End(CloseReason),
}

/// How a message travels. Start from one of the constructors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Envelope {
    kind: Kind,
    priority: Priority,
    destination: u32,
    json: bool,
}

/// What makes a message a request or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Correlation {
    None,
    Request(u64),
    Response(u64),
}

impl Envelope {
    const fn new(kind: Kind) -> Self {
        Self { kind, priority: Priority::Normal, destination: 0, json: false }
    }

    /// Something to do. Carries the extension and, by default, a checksum.
    pub const fn command() -> Self {
        Self::new(Kind::Command)
    }

    /// Telemetry and bulk data. 32 bytes of overhead.
    pub const fn data() -> Self {
        Self::new(Kind::Data)
    }

    /// What state something is in; the usual kind of a response.
    pub const fn status() -> Self {
        Self::new(Kind::Status)
    }

    /// Something failed here.
    pub const fn error() -> Self {
        Self::new(Kind::Error)
    }

    /// Parameters for the receiver.
    pub const fn configuration() -> Self {
        Self::new(Kind::Configuration)
    }

    /// An envelope of any application kind.
    ///
    /// A kind that belongs to the session is refused when the message is sent.
    pub const fn of(kind: Kind) -> Self {
        Self::new(kind)
    }

    /// How urgent the message is. Default: [`Priority::Normal`].
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Shorthand for `priority(Priority::Critical)`.
    pub const fn critical(self) -> Self {
        self.priority(Priority::Critical)
    }

    /// The number of the node this is meant for; carried, not routed. Default 0: the peer.
    pub const fn destination(mut self, node_number: u32) -> Self {
        self.destination = node_number;
        self
    }

    /// Marks an opaque payload as JSON text.
    pub const fn json(mut self) -> Self {
        self.json = true;
        self
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether a message that is neither request nor response does without the extension.
    pub(crate) const fn is_plain(&self) -> bool {
        !matches!(self.kind, Kind::Command) && self.destination == 0
    }

    /// How the receiver is to read `body`.
    fn codec<B: Body + ?Sized>(&self, body: &B) -> Codec {
        match body.codec() {
            Codec::Opaque if self.json => Codec::Json,
            codec => codec,
        }
    }

    /// The lane it will travel in.
    #[must_use]
    pub const fn lane(&self) -> Priority {
        self.priority
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    role: Role,
    state: State,
    decoder: Decoder,
    limits: LaneLimits,
    lanes: [Lane; Priority::COUNT],
    /// The session's own frames: at most a greeting or a reject, and a goodbye.
    control: Option<Block>,
    /// Last sequence received per lane.
    received: [u64; Priority::COUNT],
    holdings: Holdings,
    peer: Option<Box<PeerInfo>>,
}

/// Which queue a block came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Control,
    Lane(Priority),
}

impl Session {
    pub(crate) fn new(role: Role, limits: LaneLimits) -> Self {
        Self {
            role,
            state: State::Greeting,
            decoder: Decoder::new(HANDSHAKE_BYTES_MAX),
            limits,
            lanes: Default::default(),
            control: None,
            received: [0; Priority::COUNT],
            holdings: Holdings::default(),
            peer: None,
        }
    }

    /// Queues the hello of the connecting side.
    pub(crate) fn greet(&mut self, buffer: Buffer, identity: &Identity, now: Nanos, wall_ns: u64) {
        assert_eq!(self.role, Role::Dialer, "the listening side answers");
        self.push_greeting(Kind::Hello, buffer, identity, now, wall_ns);
    }

    /// What a received frame means, and what it does to the session.
    ///
    /// Hot path: once per frame. The rare frames are handled out of line.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`]: the connection must be closed.
    #[inline]
    pub(crate) fn handle(&mut self, frame: &Frame<'_>) -> Result<Input, ProtocolError> {
        if matches!(self.state, State::Greeting) || !frame.kind().is_application() {
            return self.handle_own(frame);
        }
        self.check_sequence(frame)?;
        Ok(Input::Message)
    }

    /// Answers a hello in `buffer`: a welcome, or a reject and [`Input::End`].
    pub(crate) fn answer(
        &mut self,
        frame: &Frame<'_>,
        buffer: Buffer,
        identity: &Identity,
        now: Nanos,
        wall_ns: u64,
    ) -> Result<Input, ProtocolError> {
        let (greeting, name) = read_greeting(frame.payload())?;
        if let Some(reason) = refusal(greeting, identity) {
            let detail = u32::from(VERSION);
            self.push_farewell(Kind::Reject, buffer, reason.code(), detail, now);
            return Ok(Input::End(CloseReason::Refused(reason)));
        }
        self.push_greeting(Kind::Welcome, buffer, identity, now, wall_ns);
        self.establish(greeting, name, identity, now);
        Ok(Input::Established)
    }

    /// Completes the handshake of the connecting side with the peer's welcome.
    pub(crate) fn accept_welcome(
        &mut self,
        frame: &Frame<'_>,
        identity: &Identity,
        now: Nanos,
    ) -> Result<Input, ProtocolError> {
        let (greeting, name) = read_greeting(frame.payload())?;
        if let Some(reason) = refusal(greeting, identity) {
            return Ok(Input::End(CloseReason::Refused(reason)));
        }
        self.establish(greeting, name, identity, now);
        Ok(Input::Established)
    }

    /// Queues a message.
    ///
    /// Hot path: once per message. No allocation, no syscall.
    #[inline]
    pub(crate) fn push<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        correlation: Correlation,
        body: &B,
        identity: &Identity,
        now: Nanos,
        memory: &mut SendMemory<'_>,
    ) -> Result<usize, SendError> {
        if self.state != State::Open {
            return Err(SendError::NotConnected);
        }
        if !envelope.kind.is_application() {
            return Err(SendError::KindReserved { kind: envelope.kind });
        }
        let lane = &mut self.lanes[envelope.priority.index()];
        let (limits, holdings) = (&self.limits, &mut self.holdings);
        if correlation == Correlation::None && envelope.is_plain() && !identity.checksums_all() {
            // Telemetry: that it has no extension and no checksum is known while compiling, which
            // halves the cost of its head.
            let head = FrameHead {
                kind: envelope.kind,
                priority: envelope.priority,
                codec: envelope.codec(body),
                type_id: body.type_id(),
                sequence: 0,
                sent_at_ns: now.0,
                flags: Flags::default(),
                extension: None,
                checksum: Checksum::Never,
            };
            return lane.push(head, body, limits, memory, holdings);
        }
        let head = frame_head(envelope, correlation, body, identity, now);
        lane.push(head, body, limits, memory, holdings)
    }

    /// The next block to send: the session's own frames, then the highest lane.
    #[inline]
    pub(crate) fn poll_block(&mut self) -> Option<(Source, Block)> {
        if let Some(block) = self.control.take() {
            return Some((Source::Control, block));
        }
        if self.state == State::Greeting {
            return None;
        }
        for priority in Priority::ALL.into_iter().rev() {
            if let Some(block) = self.lanes[priority.index()].take() {
                return Some((Source::Lane(priority), block));
            }
        }
        None
    }

    /// Whether [`Session::poll_block`] has something to give.
    #[inline]
    pub(crate) fn has_block(&self) -> bool {
        self.control.is_some()
            || (self.state != State::Greeting && self.lanes.iter().any(|lane| !lane.is_empty()))
    }

    /// Books a block that has been handed to the kernel in full (or is being dropped) and gives
    /// its memory back.
    #[inline]
    pub(crate) fn block_sent(&mut self, source: Source, block: Block, memory: &mut SendMemory<'_>) {
        match source {
            Source::Control => memory.pool.give(block.buffer),
            Source::Lane(priority) => {
                self.lanes[priority.index()].sent(&block);
                self.holdings.release(block, memory.pool);
            }
        }
    }

    /// Stops admitting messages; what is queued still leaves.
    pub(crate) fn drain(&mut self) {
        self.state = self.state.step(Event::Drain);
    }

    /// Queues the goodbye. To be called while draining, once nothing waits and nothing is in
    /// flight; the session is then *finishing*.
    pub(crate) fn finish(&mut self, buffer: Buffer, reason: GoodbyeReason, now: Nanos) {
        assert!(!self.has_block(), "the goodbye comes last");
        self.push_farewell(Kind::Goodbye, buffer, reason.code(), 0, now);
        self.state = self.state.step(Event::Flushed);
    }

    /// Ends the session. Returns how many admitted messages had not been handed to the kernel.
    pub(crate) fn end(&mut self, reason: CloseReason, memory: &mut SendMemory<'_>) -> u64 {
        self.state = self.state.step(Event::End(reason));
        if let Some(block) = self.control.take() {
            memory.pool.give(block.buffer);
        }
        let mut dropped = 0;
        for lane in &mut self.lanes {
            while let Some(block) = lane.take() {
                dropped += u64::from(block.frames);
                lane.sent(&block);
                self.holdings.release(block, memory.pool);
            }
        }
        dropped
    }

    #[inline]
    pub(crate) fn state(&self) -> State {
        self.state
    }

    #[inline]
    pub(crate) fn decoder(&self) -> Decoder {
        self.decoder
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Who is at the other end, once the handshake is complete.
    pub(crate) fn peer(&self) -> Option<&PeerInfo> {
        self.peer.as_deref()
    }

    /// Frames queued and in flight, all lanes.
    pub(crate) fn frames_queued(&self) -> u64 {
        self.lanes.iter().map(|lane| u64::from(lane.frames())).sum()
    }

    /// Bytes queued and in flight in one lane.
    #[inline]
    pub(crate) fn lane_bytes(&self, lane: Priority) -> usize {
        self.lanes[lane.index()].bytes()
    }

    /// Messages ever admitted, all lanes.
    pub(crate) fn messages_admitted(&self) -> u64 {
        self.lanes.iter().map(Lane::sequence).sum()
    }

    /// Bytes queued and in flight, all lanes.
    pub(crate) fn bytes_queued(&self) -> usize {
        self.lanes.iter().map(Lane::bytes).sum()
    }

    #[cold]
    fn handle_own(&mut self, frame: &Frame<'_>) -> Result<Input, ProtocolError> {
        let unexpected = Err(ProtocolError::Unexpected { kind: frame.kind() });
        match (self.state, self.role, frame.kind()) {
            (State::Greeting, Role::Listener, Kind::Hello)
            | (State::Greeting, Role::Dialer, Kind::Welcome) => Ok(Input::Greeting),
            (State::Greeting, Role::Dialer, Kind::Reject) => {
                let (code, _) = read_farewell(frame.payload())?;
                Ok(Input::End(CloseReason::Rejected(RejectReason::from_code(code))))
            }
            (State::Greeting, ..) => unexpected,
            (_, _, Kind::Goodbye) => {
                let (code, _) = read_farewell(frame.payload())?;
                let _ = GoodbyeReason::from_code(code);
                Ok(Input::End(CloseReason::Goodbye))
            }
            // Life signs and confirmations cost nothing to accept.
            (_, _, Kind::Heartbeat | Kind::Acknowledgement) => {
                self.check_sequence(frame)?;
                Ok(Input::Nothing)
            }
            _ => unexpected,
        }
    }

    /// Widens the frame's 32 bits and checks that the lane moved forward by one.
    #[inline]
    fn check_sequence(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let received = &mut self.received[frame.priority().index()];
        let expected = *received + 1;
        if frame.sequence() != low_half(expected) {
            return Err(ProtocolError::BadSequence {
                expected: low_half(expected),
                got: frame.sequence(),
            });
        }
        *received = expected;
        Ok(())
    }

    fn establish(&mut self, greeting: &Greeting, name: &str, identity: &Identity, now: Nanos) {
        let theirs = greeting.frame_bytes_max.get();
        self.limits.frame_bytes_max = identity.frame_bytes_max.min(theirs) as usize;
        self.decoder = Decoder::new(identity.frame_bytes_max as usize);
        self.peer = Some(Box::new(PeerInfo {
            session_id: SessionId(greeting.session_id),
            node_name: name.into(),
            node_number: greeting.node.get(),
            frame_bytes_max: theirs,
            clock_offset_ns: greeting.monotonic_ns.get().wrapping_sub(now.0) as i64,
        }));
        self.state = self.state.step(Event::Established);
    }

    fn push_greeting(
        &mut self,
        kind: Kind,
        mut buffer: Buffer,
        identity: &Identity,
        now: Nanos,
        wall_ns: u64,
    ) {
        let greeting = Greeting {
            protocol_min: VERSION,
            protocol_max: VERSION,
            name_bytes: 0.into(),
            features: 0.into(),
            session_id: identity.session_id.0,
            schema_hash: identity.schema_hash.into(),
            frame_bytes_max: identity.frame_bytes_max.into(),
            heartbeat_interval_us: 0.into(),
            last_received: self.received.map(Into::into),
            monotonic_ns: now.0.into(),
            wall_ns: wall_ns.into(),
            node: identity.node_number.into(),
            authentication_bytes: 0.into(),
            reserved: 0.into(),
        };
        let filled = write_greeting(kind, greeting, &identity.node_name, buffer.bytes_mut());
        self.push_control(buffer, filled);
    }

    fn push_farewell(
        &mut self,
        kind: Kind,
        mut buffer: Buffer,
        reason: u16,
        detail: u32,
        now: Nanos,
    ) {
        let filled = write_farewell(kind, reason, detail, now.0, buffer.bytes_mut());
        self.push_control(buffer, filled);
    }

    fn push_control(&mut self, buffer: Buffer, filled: usize) {
        assert!(self.control.is_none(), "one handshake frame at a time");
        self.control = Some(Block { buffer, filled, frames: 0, payload_bytes_max: 0 });
    }
}

fn refusal(greeting: &Greeting, identity: &Identity) -> Option<RejectReason> {
    let theirs = greeting.schema_hash.get();
    if !version_in_common(greeting.protocol_min, greeting.protocol_max) {
        Some(RejectReason::Version)
    } else if greeting.authentication_bytes.get() != 0 {
        Some(RejectReason::Authentication)
    } else if theirs != 0 && identity.schema_hash != 0 && theirs != identity.schema_hash {
        Some(RejectReason::Schema)
    } else {
        None
    }
}

#[inline]
fn frame_head<B: Body + ?Sized>(
    envelope: Envelope,
    correlation: Correlation,
    body: &B,
    identity: &Identity,
    now: Nanos,
) -> FrameHead {
    let (flags, correlation) = match correlation {
        Correlation::None => (Flags::default(), 0),
        Correlation::Request(id) => (Flags::REQUEST, id),
        Correlation::Response(id) => (Flags::RESPONSE, id),
    };
    let extended = flags != Flags::default() || !envelope.is_plain();
    FrameHead {
        kind: envelope.kind,
        priority: envelope.priority,
        codec: envelope.codec(body),
        type_id: body.type_id(),
        sequence: 0,
        sent_at_ns: now.0,
        flags,
        extension: extended.then(|| Extension {
            correlation: correlation.into(),
            source: identity.node_number.into(),
            destination: envelope.destination.into(),
            ..Extension::default()
        }),
        checksum: identity.checksum,
    }
}

/// The limits of a session that follow from the configuration alone.
impl LaneLimits {
    pub(crate) fn from_config(config: &crate::config::Config) -> Self {
        Self {
            frames_max: config.lane_frames_max(),
            bytes_max: config.lane_bytes_max() as usize,
            frame_bytes_max: config.frame_bytes_max() as usize,
            block_bytes: config.block_bytes() as usize,
        }
    }
}

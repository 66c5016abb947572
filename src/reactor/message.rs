//! Messages that outlive their handler.
//!
//! A [`Frame`] is borrowed from the receive window; a [`Message`] is its copy in shared memory
//! ([`bytes::Bytes`]), made when it leaves the reactor's thread or waits for `receive`.

use std::cell::Cell;

use bytes::Bytes;

use crate::error::AccessError;
use crate::mem::{PayloadArena, SMALL_BYTES_MAX};
use crate::reactor::ConnectionId;
use crate::reactor::abandoned::Mark;
use crate::session::Envelope;
use crate::time::Nanos;
use crate::wire::{Body, BodyError, Codec, Frame, Kind, Payload, Priority, Scratch, payload};

/// A received message.
#[derive(Debug, Clone)]
pub struct Message {
    connection: ConnectionId,
    kind: Kind,
    priority: Priority,
    codec: Codec,
    is_request: bool,
    is_response: bool,
    is_reliable: bool,
    type_id: u32,
    sequence: u32,
    sent_at_ns: u64,
    correlation: u64,
    deadline: Nanos,
    mark: Option<Mark>,
    payload: Bytes,
}

impl Message {
    /// A message with the fields of `frame` and a payload already copied.
    #[inline]
    pub(crate) fn new(
        connection: ConnectionId,
        frame: &Frame<'_>,
        deadline: Nanos,
        mark: Option<Mark>,
        payload: Bytes,
    ) -> Self {
        Self {
            connection,
            kind: frame.kind(),
            priority: frame.priority(),
            codec: frame.codec(),
            is_request: frame.is_request(),
            is_response: frame.is_response(),
            is_reliable: frame.is_reliable(),
            type_id: frame.type_id(),
            sequence: frame.sequence(),
            sent_at_ns: frame.sent_at_ns(),
            correlation: frame.correlation(),
            deadline,
            mark,
            payload,
        }
    }

    /// How the answer to it travels: to a reliable request reliably, and in its lane.
    pub(crate) fn answer_envelope(&self, envelope: Envelope) -> Envelope {
        match (self.is_request, self.is_reliable) {
            (false, _) => envelope,
            (true, false) => envelope.answering(self.priority),
            (true, true) => envelope.answering(self.priority).reliable(),
        }
    }

    /// Names a request among those that may be cancelled.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Who sent it: the client id on a server.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The lane it travelled in.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// How the payload is to be read.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Whether the sender waits for an answer: see `reply` of client and server.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.is_request
    }

    /// Whether it answers a request.
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.is_response
    }

    /// The application's number of the payload type, 0 for none.
    #[must_use]
    pub fn type_id(&self) -> u32 {
        self.type_id
    }

    /// Low 32 bits of the lane's sequence.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// When the sender queued it, in nanoseconds of the *sender's* monotonic clock.
    #[must_use]
    pub fn sent_at_ns(&self) -> u64 {
        self.sent_at_ns
    }

    /// Ties a response to its request; 0 when it is neither.
    #[must_use]
    pub fn correlation(&self) -> u64 {
        self.correlation
    }

    /// Until when it is worth something, by this node's clock: its time to live, or how long the
    /// sender of a request waits for the answer. `None` when that is for ever, or nothing is known
    /// of the peer's clock. What is over before it is taken out of the inbox is not handed out, and
    /// counted (`messages_expired`).
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        (self.deadline != Nanos::NEVER).then_some(self.deadline)
    }

    /// The payload; 16-aligned.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The payload without the message. Keep it as long as you like; small messages share memory
    /// with their neighbours, which lives as long as any of them.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// Reads the payload as a `T`, in place; validates the bytes on every call.
    ///
    /// # Errors
    ///
    /// As [`Frame::access`].
    pub fn access<T: Payload>(&self) -> Result<&T::Archived, AccessError> {
        payload::access::<T>(self.codec, self.type_id, &self.payload)
    }
}

payload::body_of_payload! {
    /// Its payload, as it came: to answer with it, or to send it on. It is not copied for another
    /// thread.
    Message
}

/// A payload serialised on one thread, to be sent by another.
#[derive(Debug, Clone)]
pub(crate) struct OwnedBody {
    codec: Codec,
    type_id: u32,
    payload: Bytes,
}

payload::body_of_payload!(OwnedBody);

/// What a thread needs to serialise for others, kept from call to call: a quarter of a MiB,
/// resident as used.
struct Workshop {
    bytes: Vec<u8>,
    scratch: Scratch,
    arena: PayloadArena,
}

/// Chunks that bodies on their way to a reactor share. Two would do for calls that wait; posts
/// that pile up beyond them get memory of their own.
const CHUNKS: usize = 4;

thread_local! {
    /// Taken out while in use: a body that sends something itself makes do with a new one.
    static WORKSHOP: Cell<Option<Box<Workshop>>> = const { Cell::new(None) };
}

impl OwnedBody {
    /// Serialises `body` into memory of its own, unless it is shared memory already. Allocates
    /// nothing for up to 16 KiB, once this thread has sent something; else once, or twice for types
    /// whose length is not known before.
    pub(crate) fn new<B: Body + ?Sized>(body: &B, bytes_max: usize) -> Result<Self, BodyError> {
        if let Some(payload) = body.shared().filter(|payload| payload.len() > SMALL_BYTES_MAX) {
            if payload.len() > bytes_max {
                return Err(BodyError::Overflow { bytes: payload.len() });
            }
            let payload = payload.clone();
            return Ok(Self { codec: body.codec(), type_id: body.type_id(), payload });
        }
        // While the thread ends there is none any more.
        let kept = WORKSHOP.try_with(Cell::take).ok().flatten();
        let mut workshop = kept.unwrap_or_else(|| Box::new(Workshop::new()));
        let payload = workshop.serialize(body, bytes_max);
        let _ = WORKSHOP.try_with(|place| place.set(Some(workshop)));
        Ok(Self { codec: body.codec(), type_id: body.type_id(), payload: payload? })
    }

    /// Length of the payload.
    pub(crate) fn len(&self) -> usize {
        self.payload.len()
    }
}

impl Workshop {
    fn new() -> Self {
        let arena = PayloadArena::with_chunks(CHUNKS);
        Self { bytes: vec![0; SMALL_BYTES_MAX], scratch: Scratch::new(), arena }
    }

    fn serialize<B: Body + ?Sized>(
        &mut self,
        body: &B,
        bytes_max: usize,
    ) -> Result<Bytes, BodyError> {
        match body.encode(&mut self.bytes, &mut self.scratch) {
            Ok(written) => Ok(self.arena.copy(&self.bytes[..written])),
            Err(BodyError::Overflow { bytes: needed }) if needed <= bytes_max => {
                let mut own = vec![0; needed];
                let written = body.encode(&mut own, &mut self.scratch)?;
                own.truncate(written);
                Ok(own.into())
            }
            Err(error) => Err(error),
        }
    }
}

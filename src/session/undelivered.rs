//! What the peer has not confirmed when its end of the session is lost: to be sent again, or not.

use bytes::Bytes;

use crate::session::Envelope;
use crate::session::block::Resting;
use crate::session::lane::Sent;
use crate::wire::payload::body_of_payload;
use crate::wire::{Codec, Kind, Priority};

/// A reliable message that the peer has not confirmed, when the peer has lost its session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undelivered {
    /// The lane it was in.
    pub priority: Priority,
    /// Its kind.
    pub kind: Kind,
    /// How its payload is to be read.
    pub codec: Codec,
    /// The number of its payload type, 0 for none.
    pub type_id: u32,
    /// Whether it was a request. It has failed: nobody waits for the answer any more.
    pub is_request: bool,
    /// Whether it was the answer to a request.
    pub is_response: bool,
    /// Its payload.
    pub payload: Bytes,
    /// Whether the peer may have handled it all the same.
    pub sent: Sent,
}

impl Undelivered {
    pub(super) fn new(priority: Priority, frame: &Resting<'_>, sent: Sent) -> Self {
        Self {
            priority,
            kind: frame.kind(),
            codec: frame.codec(),
            type_id: frame.type_id(),
            is_request: frame.is_request(),
            is_response: frame.is_response(),
            payload: frame.owned_payload(),
            sent,
        }
    }
}

impl Undelivered {
    /// How to send it again: of its kind, in its lane, reliably. A time to live, conflation key or
    /// destination that it had is not known any more.
    pub fn envelope(&self) -> Envelope {
        Envelope::of(self.kind).priority(self.priority).reliable()
    }
}

body_of_payload! {
    /// Its payload with its codec and type number: to send it again.
    Undelivered
}

//! Bytes ↔ frames. Sans-IO: no socket, no clock, no allocation.
//!
//! This page is the format; another language can implement it from here. All integers are
//! little-endian. A *frame* is a 32-byte header, a 32-byte extension when the `extended` flag is
//! set, the payload, and zero padding to a multiple of 16 bytes. Every frame of a stream therefore
//! starts 16-aligned relative to the first, and a receiver that keeps its buffer 16-aligned reads
//! rkyv payloads in place.
//!
//! # Header
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 2 | magic | bytes `52 57` ("RW") |
//! | 2 | 1 | version | 1 |
//! | 3 | 1 | kind | see [`Kind`] |
//! | 4 | 1 | flags | see [`Flags`]; undefined bits are 0 |
//! | 5 | 1 | priority | 1 low, 2 normal, 3 high, 4 critical: the *lane* |
//! | 6 | 1 | codec | 0 opaque bytes, 1 rkyv, 2 JSON |
//! | 7 | 1 | reserved | 0 |
//! | 8 | 4 | payload_bytes | without padding |
//! | 12 | 4 | checksum | CRC-32C, see below; 0 without the flag |
//! | 16 | 4 | sequence | low 32 bits of the lane's 64-bit sequence, which starts at 1 |
//! | 20 | 4 | type_id | the application's number of the payload type, 0 for none |
//! | 24 | 8 | sent_at | sender's monotonic nanoseconds when the message was queued |
//!
//! The checksum is taken over the header, with this field as 0, the extension and the payload; the
//! padding is left out. CRC-32C is Castagnoli's (RFC 3720): reflected, all ones in and out.
//!
//! # Extension
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 32 | 8 | acknowledged | cumulative, for the lane's opposite direction; 0 when unused |
//! | 40 | 8 | correlation | ties a response to its request; 0 when neither |
//! | 48 | 4 | ttl_us | time to live in microseconds; 0 never expires |
//! | 52 | 4 | source | node number of the sender |
//! | 56 | 4 | destination | node number of the receiver; 0 the peer |
//! | 60 | 4 | reserved | 0 |
//!
//! Messages may have it, and *cancel* must. The session's other frames have none.
//!
//! # Conversation
//!
//! The side that connected sends *hello* and waits; the other answers *welcome* (and messages may
//! flow both ways) or *reject* (and closes). *Goodbye* announces an orderly close. These four are
//! *handshake frames*: see [`handshake`] for their payloads. They carry a checksum always, use the
//! critical priority, and do not take part in the lanes' sequences (their `sequence` is 0).
//! *Heartbeats* and their answers carry 32 bytes of times: see [`heartbeat`].
//!
//! *Acknowledgement* confirms reliable messages (see [`acknowledgement`]); every frame with the
//! extension does so too, for its lane, in `acknowledged`. It is not sequenced either. A reliable
//! message needs the extension for nothing else: requests and responses must have it, `reliable`
//! alone need not.
//!
//! A *gap* is a header alone that stands for messages of its lane which were dropped before they
//! could be sent: `type_id` of them, the last with this `sequence`. So a lane has no holes.
//!
//! A *request* (flag 4) names itself by its `correlation`, and its answer (flag 8) carries the
//! same. With flag 0x20 its `ttl_us` is how long its sender waits for the answer. *Cancel* is a
//! frame of the request's lane, numbered like a message: the request of that `correlation` is given
//! up.
//!
//! # Resuming
//!
//! When both greetings carry the feature `resume`, a session outlives its connection. The side that
//! connected connects again and says hello with the session id it had, and with that of the other
//! end. If the other side still has that end it answers with its id, and both go on: each sends
//! again, in order, the reliable messages behind `last_received` of the other's greeting, and gaps
//! for everything else that was lost. A welcome with another id means that the session is lost:
//! both begin at sequence 1. A hello older (by `monotonic_ns`) than one that was answered comes
//! from a connection that was given up: it is rejected as *busy*.
//!
//! # Two connections
//!
//! A session may have two connections: a *main* one for the lanes up to normal, and an *express*
//! one for high and critical. The hello of the first carries the feature `paired`; when the
//! welcome does too, the side that connected makes the second at once, with a hello that carries
//! `express` and as its session id the *companion* of the first's: the same but for the last bit.
//! The welcome answers with the companion of the other end's id. Each connection has a session of
//! its own below, with its own sequences, and resumes by itself; a hello with `express` whose
//! main session is not known (yet) is rejected as *busy*. The session begins when both stand.
//! When one is over for good the other is closed; in an orderly end both flush, then express says
//! goodbye, then main.
//!
//! Any violation is a [`ProtocolError`]; the stream has lost its frame boundaries and the
//! connection is closed.

pub mod acknowledgement;
pub mod decode;
pub mod encode;
pub mod handshake;
pub mod header;
pub mod heartbeat;
pub mod payload;

pub use decode::{Decoder, Frame, Lifetime};
pub(crate) use encode::BareHead;
pub use encode::{Checksum, FrameHead};
pub(crate) use header::low_half;
pub use header::{
    Codec, EXTENSION_BYTES, Extension, FRAME_ALIGN, Flags, HEADER_BYTES, Header, Kind, MAGIC,
    Priority, VERSION, frame_bytes, padded,
};
pub use payload::{Body, BodyError, Payload, Scratch};

pub use crate::error::ProtocolError;

#[cfg(test)]
mod tests;

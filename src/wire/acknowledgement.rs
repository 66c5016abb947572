//! The payload of an acknowledgement: what one end has received, for all lanes at once.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 32 | received | per lane, low to critical: everything up to this sequence was received |
//! | 32 | 8 | expired | messages received too late to be handled, since the session began |
//!
//! Sent when no frame with the extension has carried the confirmation for a while. Like the
//! handshake frames it has a checksum, and it takes no part in the lanes' sequences.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::ProtocolError;
use crate::wire::header::{Codec, Flags, Kind, Priority, frame_bytes};
use crate::wire::{Checksum, FrameHead};

/// Length of an acknowledgement frame.
pub const ACKNOWLEDGEMENT_BYTES: usize = frame_bytes(size_of::<Acknowledgement>(), false);

/// The payload, as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Acknowledgement {
    /// Last sequence received, per lane.
    pub received: [U64; Priority::COUNT],
    /// Messages received too late to be handled.
    pub expired: U64,
}

/// Reads the payload of an acknowledgement.
///
/// # Errors
///
/// [`ProtocolError::BadHandshake`] when its length is wrong.
pub fn read_acknowledgement(payload: &[u8]) -> Result<&Acknowledgement, ProtocolError> {
    Acknowledgement::ref_from_bytes(payload).map_err(|_| ProtocolError::BadHandshake)
}

/// Writes an acknowledgement frame to the front of `out` and returns its length.
///
/// # Panics
///
/// When `out` is shorter than [`ACKNOWLEDGEMENT_BYTES`].
pub fn write_acknowledgement(
    received: [u64; Priority::COUNT],
    expired: u64,
    now_ns: u64,
    out: &mut [u8],
) -> usize {
    let head = FrameHead {
        kind: Kind::Acknowledgement,
        priority: Priority::Critical,
        codec: Codec::Opaque,
        type_id: 0,
        sequence: 0,
        sent_at_ns: now_ns,
        flags: Flags::default(),
        extension: None,
        checksum: Checksum::Always,
    };
    let payload = Acknowledgement { received: received.map(Into::into), expired: expired.into() };
    head.encode(payload.as_bytes(), out)
}

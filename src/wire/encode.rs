//! Writes frames straight into the memory they are sent from.
//!
//! The payload is written first, behind room for its head; [`FrameHead::finish`] then fills in
//! the head and the padding around it. So a typed payload is serialised once, in place.
//!
//! Not here: which lane a frame goes to and what its sequence is (`session`).

use zerocopy::IntoBytes;

use crate::crc::{crc32c, crc32c_by_processor, crc32c_of};
use crate::wire::header::{
    Codec, EXTENSION_BYTES, Extension, FRAME_ALIGN, Flags, HEADER_BYTES, Header, Kind, MAGIC,
    Priority, VERSION, frame_bytes, padded,
};
use crate::wire::payload::{Body, Scratch};

/// Which frames carry a CRC-32C of themselves. Handshake frames always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// None: TCP's own checksum is trusted.
    Never,
    /// Frames with the extension: commands, requests and responses. Telemetry goes without.
    #[default]
    Commands,
    /// Every frame.
    Always,
}

/// Everything in a frame's head that is known before its payload is written.
#[derive(Debug, Clone, Copy)]
pub struct FrameHead {
    /// What the frame is.
    pub kind: Kind,
    /// The lane it travels in.
    pub priority: Priority,
    /// How the payload is to be read.
    pub codec: Codec,
    /// The application's payload type, 0 for none.
    pub type_id: u32,
    /// Low half of the lane's sequence.
    pub sequence: u32,
    /// Sender's monotonic nanoseconds.
    pub sent_at_ns: u64,
    /// Flags besides `EXTENDED` and `CHECKSUM`, which follow from the other fields.
    pub flags: Flags,
    /// The extension, when the frame has one.
    pub extension: Option<Extension>,
    /// Whether this frame carries a checksum.
    pub checksum: Checksum,
}

impl FrameHead {
    /// Bytes before the payload.
    #[inline]
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        if self.extension.is_some() { HEADER_BYTES + EXTENSION_BYTES } else { HEADER_BYTES }
    }

    /// Fills in head and padding around a payload that already stands at
    /// [`head_bytes`](Self::head_bytes) of `out`. Returns the length of the whole frame.
    ///
    /// Hot path: once per frame sent. About 5 ns without checksum. No allocation, no syscall, no
    /// logging.
    ///
    /// # Panics
    ///
    /// When `out` is shorter than [`frame_bytes`] says, `payload_bytes` does not fit 32 bits, or
    /// `flags` need an extension that is not there: the peer would close the connection over it.
    #[inline(always)]
    pub fn finish(&self, out: &mut [u8], payload_bytes: usize) -> usize {
        let head_bytes = self.head_bytes();
        let total = frame_bytes(payload_bytes, self.extension.is_some());
        let out = &mut out[..total];
        clear_padding(out, total - head_bytes - payload_bytes);
        let flags = self.write_head(out, payload_bytes);
        if flags.contains(Flags::CHECKSUM) {
            seal(&mut out[..head_bytes + payload_bytes]);
        }
        total
    }

    /// Fills in head and padding of a frame whose payload stands elsewhere: the head at the front
    /// of `out`, the padding right behind it. Returns the length of the head and that of the whole
    /// frame.
    ///
    /// # Panics
    ///
    /// As [`finish`](Self::finish).
    pub(crate) fn finish_around(&self, out: &mut [u8], payload: &[u8]) -> (usize, usize) {
        let head_bytes = self.head_bytes();
        let total = frame_bytes(payload.len(), self.extension.is_some());
        out[head_bytes..][..total - head_bytes - payload.len()].fill(0);
        let flags = self.write_head(out, payload.len());
        if flags.contains(Flags::CHECKSUM) {
            let crc = crc32c_of([&out[..head_bytes], payload]);
            out[CHECKSUM_AT].copy_from_slice(&crc.to_le_bytes());
        }
        (head_bytes, total)
    }

    /// Header and extension, but for the checksum.
    #[inline(always)]
    fn write_head(&self, out: &mut [u8], payload_bytes: usize) -> Flags {
        let flags = self.flags_on_wire();
        let payload_bytes_field = u32::try_from(payload_bytes).expect("frame_bytes_max < 4 GiB");
        let first = first_word(self.kind as u8, flags, self.priority as u8, self.codec);
        let third = u64::from(self.sequence) | u64::from(self.type_id) << 32;
        let header = out.first_chunk_mut::<HEADER_BYTES>().expect("a frame is at least a header");
        write_words(header, [first, payload_bytes_field.into(), third, self.sent_at_ns]);
        if let Some(extension) = &self.extension {
            out[HEADER_BYTES..HEADER_BYTES + EXTENSION_BYTES].copy_from_slice(extension.as_bytes());
        }
        flags
    }

    /// Encodes a frame whose payload already exists as bytes. Returns its length.
    ///
    /// # Panics
    ///
    /// When `out` is shorter than the frame.
    #[inline]
    pub fn encode(&self, payload: &[u8], out: &mut [u8]) -> usize {
        let head_bytes = self.head_bytes();
        out[head_bytes..head_bytes + payload.len()].copy_from_slice(payload);
        self.finish(out, payload.len())
    }

    /// The caller's flags and those that follow from the other fields.
    #[inline]
    fn flags_on_wire(&self) -> Flags {
        let checksummed = match self.checksum {
            Checksum::Always => true,
            Checksum::Commands => self.extension.is_some() || self.kind.is_handshake(),
            Checksum::Never => self.kind.is_handshake(),
        };
        let mut implied = Flags::default();
        let mut allowed = Flags::RELIABLE;
        if self.extension.is_some() {
            implied = Flags::EXTENDED;
            allowed = allowed.with(Flags::EXTENDED.with(Flags::NEED_EXTENSION));
        }
        if checksummed {
            implied = implied.with(Flags::CHECKSUM);
            allowed = allowed.with(Flags::CHECKSUM);
        }
        assert!(allowed.contains(self.flags), "these flags need the extension or a checksum");
        self.flags.with(implied)
    }
}

/// The head of a frame that has neither flags nor extension nor checksum, but for its sequence and
/// the length of its payload. It travels in registers, where a [`FrameHead`] goes through memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BareHead {
    first: u64,
    type_id: u32,
    sent_at_ns: u64,
}

impl BareHead {
    /// `kind` and `priority` as they stand on the wire.
    #[inline]
    pub(crate) const fn new(
        kind: u8,
        priority: u8,
        codec: Codec,
        type_id: u32,
        sent_at_ns: u64,
    ) -> Self {
        let first = first_word(kind, Flags(0), priority, codec);
        Self { first, type_id, sent_at_ns }
    }

    /// Encodes a frame to the front of `out`; returns its length and that of its payload. `None`
    /// where it would need more room, or the body can not be written: what stands in `out` then
    /// means nothing.
    ///
    /// Hot path: once per frame of a stream.
    #[inline(always)]
    pub(crate) fn encode<B: Body + ?Sized>(
        self,
        sequence: u32,
        body: &B,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Option<(usize, usize)> {
        let (header, rest) = out.split_first_chunk_mut::<HEADER_BYTES>()?;
        let payload_bytes = body.encode(rest, scratch).ok()?;
        let behind = padded(payload_bytes);
        if behind > rest.len() {
            return None;
        }
        if behind != payload_bytes {
            clear_padding(&mut rest[..behind], behind - payload_bytes);
        }
        let payload_bytes_field = u32::try_from(payload_bytes).ok()?;
        let third = u64::from(sequence) | u64::from(self.type_id) << 32;
        write_words(header, [self.first, payload_bytes_field.into(), third, self.sent_at_ns]);
        Some((HEADER_BYTES + behind, payload_bytes))
    }
}

/// The first word of a header.
#[inline(always)]
const fn first_word(kind: u8, flags: Flags, priority: u8, codec: Codec) -> u64 {
    u16::from_le_bytes(MAGIC) as u64
        | (VERSION as u64) << 16
        | (kind as u64) << 24
        | (flags.0 as u64) << 32
        | (priority as u64) << 40
        | (codec as u64) << 48
}

/// Writes a header as four words. One filled field by field was read back in wider loads than it
/// was stored in, and each frame waited for that.
#[inline(always)]
fn write_words(header: &mut [u8; HEADER_BYTES], words: [u64; 4]) {
    for (at, word) in header.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *at = word.to_le_bytes();
    }
}

/// Fills in the checksum of a frame, whose field is still 0. Out of line, so that the path of
/// frames without one stays short.
#[inline(never)]
fn seal(unpadded: &mut [u8]) {
    let crc = checksum_by_processor(unpadded).unwrap_or_else(|| checksum_by_library(unpadded));
    unpadded[CHECKSUM_AT].copy_from_slice(&crc.to_le_bytes());
}

/// Of a frame whose field is 0. Out of line: short frames are done by the processor, and never get
/// here.
#[inline(never)]
fn checksum_by_library(frame: &[u8]) -> u32 {
    crc32c(frame)
}

/// Zeroes the last `padding` bytes of a frame, or of what stands behind its head.
///
/// Loads and stores the last 16 bytes as one number: `fill` of a length that is not known would
/// call memset(3), which costs more than the rest of the head. Most payloads are a multiple of 16
/// and skip it.
#[inline]
fn clear_padding(frame: &mut [u8], padding: usize) {
    if padding == 0 {
        return;
    }
    assert!(padding < FRAME_ALIGN, "a frame ends at the next multiple of 16");
    let tail = frame.last_chunk_mut::<FRAME_ALIGN>().expect("a multiple of 16, and not 0");
    let kept = u128::MAX >> (8 * padding);
    *tail = (u128::from_le_bytes(*tail) & kept).to_le_bytes();
}

/// Where the checksum stands in a header.
const CHECKSUM_AT: std::ops::Range<usize> = 12..16;

const _: () = assert!(std::mem::offset_of!(Header, checksum) == CHECKSUM_AT.start);

/// CRC-32C over header (its checksum field taken as 0), extension and payload.
///
/// For parts that do not lie behind one another; the codec itself reads the frame in one piece.
#[must_use]
pub fn checksum(header: &Header, extension: Option<&Extension>, payload: &[u8]) -> u32 {
    let mut header = *header;
    header.checksum = 0.into();
    let extension = extension.map_or(&[][..], Extension::as_bytes);
    crc32c_of([header.as_bytes(), extension, payload])
}

/// Frames up to this length are checked by the processor's own instruction, where it has one: the
/// library, which is faster beyond, takes longer to begin.
const SHORT_BYTES_MAX: usize = 256;

/// CRC-32C over a frame without its padding, its checksum field taken as 0.
#[inline(never)]
pub(crate) fn checksum_in_place(frame: &[u8]) -> u32 {
    checksum_by_processor(frame).unwrap_or_else(|| checksum_of_parts(frame))
}

/// `None` of a frame that is longer than [`SHORT_BYTES_MAX`], and where there is no instruction for
/// that.
#[inline(always)]
fn checksum_by_processor(frame: &[u8]) -> Option<u32> {
    if frame.len() > SHORT_BYTES_MAX {
        return None;
    }
    // Word by word: a frame of one's own has been written in such words just before.
    let (first, rest) = frame.split_first_chunk::<8>().expect("a frame is at least a header");
    let (second, rest) = rest.split_first_chunk::<8>().expect("a frame is at least a header");
    let second = u64::from_le_bytes(*second) & u64::from(u32::MAX);
    crc32c_by_processor(u64::from_le_bytes(*first), second, rest)
}

/// The same in two parts: up to the end of the field, which is cleared, and all behind it.
#[inline(never)]
fn checksum_of_parts(frame: &[u8]) -> u32 {
    let (first, rest) = frame.split_first_chunk::<16>().expect("a frame is at least a header");
    let first = u128::from_le_bytes(*first) & (u128::MAX >> 32);
    crc32c_of([&first.to_le_bytes(), rest])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_a_checksum_agree() {
        let frame: Vec<u8> = (0..600_u32).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect();
        for length in HEADER_BYTES..frame.len() {
            let (frame, mut cleared) = (&frame[..length], frame[..length].to_vec());
            cleared[CHECKSUM_AT].fill(0);
            let expected = crc32c(&cleared);
            assert_eq!(checksum_of_parts(frame), expected, "{length}");
            let by_processor = checksum_by_processor(frame);
            assert_eq!(by_processor.unwrap_or(expected), expected, "{length}");
            assert!(length <= SHORT_BYTES_MAX || by_processor.is_none(), "{length}");
            seal(&mut cleared);
            assert_eq!(cleared[CHECKSUM_AT], expected.to_le_bytes(), "{length}");
        }
    }
}

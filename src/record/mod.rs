//! Recordings: frames with their times in an append-only file, and what reads them back.
//!
//! This page is the format, version 1; all integers are little-endian. A *recording* is a header
//! and records behind it. Header and records are padded with zeros to a multiple of 16 bytes, so
//! in a mapped file every payload is aligned as it was in memory. Nothing that was written is ever
//! changed, but what a full disk cut off in the middle.
//!
//! # Header
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | magic | bytes `89 52 57 52 45 43 0d 0a` |
//! | 8 | 2 | version | 1 |
//! | 10 | 2 | node_name_bytes | length of the name of the node that recorded |
//! | 12 | 2 | endpoint_bytes | length of what it listened on or was connected to |
//! | 14 | 2 | reserved | 0 |
//! | 16 | 8 | monotonic_ns | when the recording began, by the clock of the records |
//! | 24 | 8 | wall_ns | the same instant in nanoseconds since 1970 UTC |
//! | 32 | 4 | node_number | of the node that recorded |
//! | 36 | 8 | reserved | 0 |
//! | 44 | 4 | checksum | CRC-32C over header (this field 0), texts and padding |
//! | 48 | | texts | node name and endpoint, UTF-8, then padding |
//!
//! # Record
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 1 | what | 1 frame received, 2 frame sent, 3 lost, 4 peer, 5 index, 6 end |
//! | 1 | 1 | reserved | 0 |
//! | 2 | 2 | reactor | which reactor of the node the session is on |
//! | 4 | 4 | body_bytes | without padding; at most 256 MiB and 4 KiB |
//! | 8 | 8 | session | number of the session on that reactor; 0 where there is none |
//! | 16 | 8 | at | when: monotonic nanoseconds, one reading per turn of the reactor |
//! | 24 | 4 | body_checksum | CRC-32C over body and padding |
//! | 28 | 4 | head_checksum | CRC-32C over the 28 bytes before |
//! | 32 | | body | and padding |
//!
//! | what | body |
//! |---|---|
//! | frame | the frame as it was on the wire (see [`wire`](crate::wire)); never padded |
//! | lost | u64 frames and u64 bytes that are missing here: the disk was too slow, or full |
//! | peer | u16 length of the node name, u16 of the address, both texts: who the session is with |
//! | index | pairs of u64 offset and u64 time: no record before the offset is later than that |
//! | end | u64 offset of the index, u64 frames, u64 frames lost, u64 latest time of a record |
//!
//! A finished recording ends with index and end, which is 64 bytes. One that was not finished has
//! neither, and is read up to its last whole record; so is one that was cut off or has something
//! else behind it. Records of an unknown `what` are left out. Frames of one reactor
//! are in order of time; those of several may interleave by a few milliseconds, and who a session
//! is with may stand before frames that came earlier.
//!
//! Cost: a copy and a checksum per frame on the recorder's thread. Not for: the reactor, which
//! only copies frames for a [`TapReceiver`](crate::TapReceiver).

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::io;
use std::path::PathBuf;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use self::read::{Ending, RecordReader};
pub use self::write::{RecordSink, RecordTally, RecordWriter};
use crate::crc::crc32c;
use crate::time::Nanos;

const MAGIC: [u8; 8] = *b"\x89RWREC\r\n";
/// The version of the format that is written, and the only one that is read.
pub const RECORD_VERSION: u16 = 1;
const ALIGN: usize = 16;
const HEADER_BYTES: usize = 48;
const HEAD_BYTES: usize = 32;
/// The longest frame that any node accepts, and room for the texts of a peer.
const BODY_BYTES_MAX: usize = (256 << 20) + (4 << 10);
/// Texts in header and peer records are cut to this.
const TEXT_BYTES_MAX: usize = 1024;
/// Entries of an index; when there are as many, every other one is given up.
const INDEX_ENTRIES_MAX: usize = 65_536;
/// Bytes between two entries of the index, at first.
const INDEX_EVERY_BYTES: u64 = 64 << 10;

/// Why a file can not be read as a recording.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The system refused.
    #[error("cannot read {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused, in the middle.
    #[error("cannot read the recording: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as a recording does.
    #[error("this is not a recording of ringwire")]
    NotARecording,
    /// It was written by another version.
    #[error("the recording has version {got}, and this program reads version {RECORD_VERSION}")]
    Version {
        /// Its version.
        got: u16,
    },
    /// The header is not all there, as in an empty file.
    #[error("the recording is cut off within its header, after {bytes} bytes: nothing was kept")]
    HeaderCut {
        /// How long the file is.
        bytes: u64,
    },
    /// The header's checksum is wrong.
    #[error("the recording's header is damaged")]
    HeaderDamaged,
}

/// Where and when a recording was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordOrigin {
    /// Name of the node that recorded; at most 1,024 bytes of it are kept.
    pub node_name: String,
    /// Its number.
    pub node_number: u32,
    /// What it listened on or was connected to; at most 1,024 bytes of it are kept.
    pub endpoint: String,
    /// When it began, by the clock of the records.
    pub monotonic: Nanos,
    /// The same instant in nanoseconds since 1970 UTC.
    pub wall_ns: u64,
}

impl RecordOrigin {
    /// Nanoseconds since 1970 UTC of a record's time.
    #[must_use]
    pub fn wall_ns_of(&self, at: Nanos) -> u64 {
        self.wall_ns.wrapping_add(at.0.wrapping_sub(self.monotonic.0))
    }
}

/// Which way a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the peer to the node.
    Received,
    /// From the node to the peer.
    Sent,
}

impl Direction {
    /// The name in printed lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Sent => "sent",
        }
    }
}

/// Names a session of the node that recorded; shown as its
/// [`ConnectionId`](crate::ConnectionId) was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RecordedSession {
    /// The reactor it was on.
    pub reactor: u16,
    /// Its number there.
    pub number: u64,
}

impl fmt::Display for RecordedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.number & u64::from(u32::MAX);
        write!(f, "{}.{slot}.{}", self.reactor, self.number >> 33)
    }
}

/// One thing that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record<'a> {
    /// A frame.
    Frame(RecordedFrame<'a>),
    /// Frames are missing here.
    Lost {
        /// When that was noticed.
        at: Nanos,
        /// How many.
        frames: u64,
        /// How long they were together; a part of them, when it is not known of all.
        bytes: u64,
    },
    /// Who a session is with.
    Peer {
        /// The session.
        session: RecordedSession,
        /// When that was known.
        at: Nanos,
        /// What the peer calls itself.
        node_name: &'a str,
        /// Its address.
        address: &'a str,
    },
}

/// A frame of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedFrame<'a> {
    /// Which way it went.
    pub direction: Direction,
    /// The session it belongs to.
    pub session: RecordedSession,
    /// When it was received, or handed to the kernel.
    pub at: Nanos,
    /// The frame as it was on the wire; a [`Decoder`](crate::wire::Decoder) reads it.
    pub bytes: &'a [u8],
}

/// The kinds of records.
const RECEIVED: u8 = 1;
const SENT: u8 = 2;
const LOST: u8 = 3;
const PEER: u8 = 4;
const INDEX: u8 = 5;
const END: u8 = 6;

#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U16,
    node_name_bytes: U16,
    endpoint_bytes: U16,
    reserved: U16,
    monotonic_ns: U64,
    wall_ns: U64,
    node_number: U32,
    reserved_too: U64,
    checksum: U32,
}

#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    what: u8,
    reserved: u8,
    reactor: U16,
    body_bytes: U32,
    session: U64,
    at: U64,
    body_checksum: U32,
    head_checksum: U32,
}

#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct LostBody {
    frames: U64,
    bytes: U64,
}

#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PeerBody {
    node_name_bytes: U16,
    address_bytes: U16,
}

/// One entry of the index.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Mark {
    offset: U64,
    /// No record before the offset is later.
    latest: U64,
}

#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EndBody {
    index_offset: U64,
    frames: U64,
    frames_lost: U64,
    latest: U64,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(size_of::<Head>() == HEAD_BYTES);
const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN) && HEAD_BYTES.is_multiple_of(ALIGN));
/// Length of the record at the end.
const END_BYTES: usize = HEAD_BYTES + size_of::<EndBody>();
const _: () = assert!(END_BYTES == 64);

impl Head {
    /// The head of a record with this body.
    fn seal(mut self, padded_body: &[u8]) -> Self {
        self.body_checksum = crc32c(padded_body).into();
        self.head_checksum = self.own_checksum().into();
        self
    }

    fn own_checksum(&self) -> u32 {
        crc32c(&self.as_bytes()[..HEAD_BYTES - size_of::<U32>()])
    }

    /// Whether these bytes are a head, and what it says can be believed.
    fn is_sound(&self) -> bool {
        self.head_checksum.get() == self.own_checksum()
            && self.body_bytes.get() as usize <= BODY_BYTES_MAX
    }

    /// Bytes behind the head.
    fn padded_body_bytes(&self) -> usize {
        (self.body_bytes.get() as usize).next_multiple_of(ALIGN)
    }

    fn recorded_session(&self) -> RecordedSession {
        RecordedSession { reactor: self.reactor.get(), number: self.session.get() }
    }
}

/// As much of a text as is kept, cut between two characters.
fn kept(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

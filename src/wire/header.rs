//! The fixed layouts: header, extension, and the small enums in them.
//!
//! Invariant: [`Header`] is 32 bytes and [`Extension`] 32 bytes with the offsets documented in
//! [`wire`](crate::wire); the compiler checks both. Not here: what a violation means (`decode`).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first two bytes of every frame: "RW".
pub const MAGIC: [u8; 2] = *b"RW";
/// The protocol version this library speaks.
pub const VERSION: u8 = 1;
/// Bytes of the header of every frame.
pub const HEADER_BYTES: usize = 32;
/// Bytes of the extension, present when [`Flags::EXTENDED`] is set.
pub const EXTENSION_BYTES: usize = 32;
/// Every frame is padded to a multiple of this, and starts at one.
pub const FRAME_ALIGN: usize = 16;

/// What a frame is. Five kinds are the application's ([`APPLICATION`](Self::APPLICATION)); the
/// others are the session's own, from 0x80 on those that begin and end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Something to do: a setpoint, a mode change, a request.
    Command = 1,
    /// Telemetry and bulk data.
    Data = 2,
    /// What state something is in; also the kind of a plain response.
    Status = 3,
    /// Something failed at the sender.
    Error = 4,
    /// Life sign of an idle session.
    Heartbeat = 5,
    /// Confirms messages when no traffic carries the confirmation.
    Acknowledgement = 6,
    /// Parameters of the receiver.
    Configuration = 7,
    /// Stands for messages of its lane that will not come.
    Gap = 8,
    /// Its sender gives up the request with this correlation.
    Cancel = 9,
    /// First frame of the connecting side.
    Hello = 0x80,
    /// Accepts a hello.
    Welcome = 0x81,
    /// Refuses a hello; the connection closes.
    Reject = 0x82,
    /// Announces an orderly close.
    Goodbye = 0x83,
}

impl Kind {
    /// The kinds an application may send and receive.
    pub const APPLICATION: [Self; 5] =
        [Self::Command, Self::Data, Self::Status, Self::Error, Self::Configuration];

    /// Reads the wire byte; `None` for a kind this version does not know.
    #[inline]
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Command,
            2 => Self::Data,
            3 => Self::Status,
            4 => Self::Error,
            5 => Self::Heartbeat,
            6 => Self::Acknowledgement,
            7 => Self::Configuration,
            8 => Self::Gap,
            9 => Self::Cancel,
            0x80 => Self::Hello,
            0x81 => Self::Welcome,
            0x82 => Self::Reject,
            0x83 => Self::Goodbye,
            _ => return None,
        })
    }

    /// Whether an application may send this kind.
    #[inline]
    #[must_use]
    pub const fn is_application(self) -> bool {
        matches!(
            self,
            Self::Command | Self::Data | Self::Status | Self::Error | Self::Configuration
        )
    }

    /// Whether this is one of hello, welcome, reject and goodbye.
    #[inline]
    #[must_use]
    pub const fn is_handshake(self) -> bool {
        self as u8 >= 0x80
    }
}

/// How urgent a message is. Each priority is a lane of its own; a higher lane overtakes a lower
/// one at frame boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Priority {
    /// Bulk: logs, uploads.
    Low = 1,
    /// Ordinary traffic.
    #[default]
    Normal = 2,
    /// Setpoints, alarms.
    High = 3,
    /// Stop commands and what must never wait.
    Critical = 4,
}

impl Priority {
    /// How many priorities, and so lanes, there are.
    pub const COUNT: usize = 4;
    /// From the least to the most urgent; `ALL[p.index()] == p`.
    pub const ALL: [Self; Self::COUNT] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// Reads the wire byte; `None` when it is not a priority.
    #[inline]
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Low,
            2 => Self::Normal,
            3 => Self::High,
            4 => Self::Critical,
            _ => return None,
        })
    }

    /// Whether messages of this priority travel on the second connection of a session that has one
    /// (`express`): high and critical ones do.
    #[inline]
    #[must_use]
    pub const fn is_express(self) -> bool {
        matches!(self, Self::High | Self::Critical)
    }

    /// 0 for low to 3 for critical.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize - 1
    }
}

/// How a payload is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Bytes that only the application understands.
    Opaque = 0,
    /// An rkyv 0.8 archive, little-endian, 32-bit pointers, root at the end.
    Rkyv = 1,
    /// JSON text, UTF-8.
    Json = 2,
}

impl Codec {
    /// Reads the wire byte; `None` when it is not a codec.
    #[inline]
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Opaque,
            1 => Self::Rkyv,
            2 => Self::Json,
            _ => return None,
        })
    }
}

/// The flags byte of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// The 32-byte extension follows the header.
    pub const EXTENDED: Self = Self(0x01);
    /// The sender keeps the message until it is acknowledged.
    pub const RELIABLE: Self = Self(0x02);
    /// An answer with the same correlation is expected.
    pub const REQUEST: Self = Self(0x04);
    /// Answers the request with the same correlation.
    pub const RESPONSE: Self = Self(0x08);
    /// The checksum field is valid and must be verified.
    pub const CHECKSUM: Self = Self(0x10);
    /// The time to live of a request is how long its sender waits for the answer, and no more is
    /// known of how long it is worth something.
    pub const TIMEOUT: Self = Self(0x20);
    /// All flags this version defines.
    pub const KNOWN: Self = Self(0x3f);
    /// Flags whose meaning lies in the extension: without [`Flags::EXTENDED`] they are an error.
    pub const NEED_EXTENSION: Self = Self(0x2c);

    /// Whether every bit of `other` is set.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of flags.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The 32-byte header of every frame, as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 2],
    /// [`VERSION`].
    pub version: u8,
    /// A [`Kind`].
    pub kind: u8,
    /// A set of [`Flags`].
    pub flags: u8,
    /// A [`Priority`].
    pub priority: u8,
    /// A [`Codec`].
    pub codec: u8,
    /// 0.
    pub reserved: u8,
    /// Payload length without padding.
    pub payload_bytes: U32,
    /// CRC-32C, see [`wire`](crate::wire).
    pub checksum: U32,
    /// Low half of the lane's sequence.
    pub sequence: U32,
    /// The application's payload type.
    pub type_id: U32,
    /// Sender's monotonic nanoseconds.
    pub sent_at: U64,
}

/// The 32-byte extension, as it stands on the wire.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Extension {
    /// Cumulative acknowledgement of the lane's opposite direction.
    pub acknowledged: U64,
    /// Ties a response to its request.
    pub correlation: U64,
    /// Time to live in microseconds, 0 never expires.
    pub ttl_us: U32,
    /// Node number of the sender.
    pub source: U32,
    /// Node number of the receiver, 0 the peer.
    pub destination: U32,
    /// 0.
    pub reserved: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(size_of::<Extension>() == EXTENSION_BYTES);
const _: () = assert!(std::mem::offset_of!(Header, payload_bytes) == 8);
const _: () = assert!(std::mem::offset_of!(Header, checksum) == 12);
const _: () = assert!(std::mem::offset_of!(Header, sequence) == 16);
const _: () = assert!(std::mem::offset_of!(Header, type_id) == 20);
const _: () = assert!(std::mem::offset_of!(Header, sent_at) == 24);
const _: () = assert!(std::mem::offset_of!(Extension, correlation) == 8);
const _: () = assert!(std::mem::offset_of!(Extension, ttl_us) == 16);
const _: () = assert!(std::mem::offset_of!(Extension, destination) == 24);

/// The low 32 bits: a sequence on the wire, or the slot number of a key.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
#[inline]
pub(crate) const fn low_half(value: u64) -> u32 {
    value as u32
}

/// Rounds up to the next multiple of [`FRAME_ALIGN`].
#[inline]
#[must_use]
pub const fn padded(bytes: usize) -> usize {
    (bytes + (FRAME_ALIGN - 1)) & !(FRAME_ALIGN - 1)
}

/// Length on the wire of a frame with this payload, padding included.
#[inline]
#[must_use]
pub const fn frame_bytes(payload_bytes: usize, extended: bool) -> usize {
    let head = if extended { HEADER_BYTES + EXTENSION_BYTES } else { HEADER_BYTES };
    padded(head + payload_bytes)
}

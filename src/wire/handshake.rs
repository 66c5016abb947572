//! The payloads of hello, welcome, reject and goodbye.
//!
//! # Hello and welcome
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 1 | protocol_min | lowest protocol version the sender speaks |
//! | 1 | 1 | protocol_max | highest protocol version the sender speaks |
//! | 2 | 2 | name_bytes | length of the node name that follows the fixed part, at most 64 |
//! | 4 | 4 | features | feature bits, see [`Features`]; unknown ones are ignored |
//! | 8 | 16 | session_id | 128 random bits; names the sender's end of the session |
//! | 24 | 8 | schema_hash | the application's hash of its payload types; 0 is not compared |
//! | 32 | 4 | frame_bytes_max | largest frame the sender accepts |
//! | 36 | 4 | heartbeat_interval_us | how often the sender wants to hear; 0 never |
//! | 40 | 32 | last_received | per lane, low to critical: last sequence received; 0 when fresh |
//! | 72 | 8 | monotonic_ns | sender's monotonic clock; 0 and from 2^62 on it measures nothing |
//! | 80 | 8 | wall_ns | sender's wall clock, nanoseconds since 1970 UTC |
//! | 88 | 4 | node | sender's node number, 0 when it has none |
//! | 92 | 2 | authentication_bytes | length of the authentication after the name; 0 in version 1 |
//! | 94 | 2 | reserved | 0 |
//! | 96 | 32 | messages_received | per lane: messages received: `last_received` less gaps |
//! | 128 | 16 | peer_session_id | receiver's end, as the sender knows it; 0 when it knows none |
//! | 144 | … | name, authentication | UTF-8 without terminator, then bytes |
//!
//! # Reject and goodbye
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 2 | reason | a [`RejectReason`] or [`GoodbyeReason`] |
//! | 2 | 2 | reserved | 0 |
//! | 4 | 4 | detail | the bound that was exceeded or the version wanted, else 0 |
//!
//! A peer that has not completed the handshake may send no frame above [`HANDSHAKE_BYTES_MAX`]. A
//! greeting is refused as malformed when protocol_min is above protocol_max, when frame_bytes_max
//! is below that bound, when something reserved is not 0, when its lengths do not add up to the
//! payload's, or when the name is not UTF-8.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::ProtocolError;
use crate::wire::header::{Codec, Flags, Kind, Priority, VERSION};
use crate::wire::{Checksum, FrameHead};

/// Largest frame accepted from a peer that has not completed the handshake.
pub const HANDSHAKE_BYTES_MAX: usize = 1024;
/// Longest node name in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Length of the fixed part of hello and welcome.
pub const GREETING_BYTES: usize = 144;

/// The feature bits of a greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u32);

impl Features {
    /// The session outlives its connection: its end is kept for a while after the connection is
    /// lost, and a hello with the same session id takes it up again.
    pub const RESUME: Self = Self(0x01);
    /// Of a hello: the session has had a link before. A node of several reactors looks for it in
    /// all of them.
    pub const RETURNS: Self = Self(0x02);
    /// Of a hello: the session is to have a second connection, for its high and critical lanes.
    /// Of a welcome: the second connection is waited for, for as long as a handshake may take.
    pub const PAIRED: Self = Self(0x04);
    /// Of a hello: this is the second connection of the session whose id is the
    /// [`companion`](SessionId::companion) of the one given. A node of several reactors looks for
    /// it in all of them.
    pub const EXPRESS: Self = Self(0x08);
    /// Of a welcome: its sender takes a heartbeat also where its `heartbeat_interval_us` is 0. The
    /// side that connected sends one at once, by which the other knows its clock.
    pub const MEASURES: Self = Self(0x10);

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Names one end of a session: 128 random bits, new for every session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// The id of the other connection of a session that has two: the last bit is the other way
    /// round. The companion of the companion is the id itself.
    #[must_use]
    pub const fn companion(self) -> Self {
        let mut bytes = self.0;
        bytes[15] ^= 1;
        Self(bytes)
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The fixed part of hello and welcome, as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Greeting {
    /// Lowest protocol version spoken.
    pub protocol_min: u8,
    /// Highest protocol version spoken.
    pub protocol_max: u8,
    /// Length of the name behind this struct.
    pub name_bytes: U16,
    /// Feature bits.
    pub features: U32,
    /// The sender's end of the session.
    pub session_id: [u8; 16],
    /// Hash of the application's payload types, 0 for unchecked.
    pub schema_hash: U64,
    /// Largest frame accepted.
    pub frame_bytes_max: U32,
    /// How often the sender wants to hear from the receiver, in microseconds; 0 for never. Above
    /// 0 and below 1,000 it counts as 1,000 at both ends.
    pub heartbeat_interval_us: U32,
    /// Last sequence received per lane.
    pub last_received: [U64; Priority::COUNT],
    /// Sender's monotonic clock. 0, and from [`TIME_NS_END`](super::heartbeat::TIME_NS_END) on, it
    /// is echoed by no heartbeat.
    pub monotonic_ns: U64,
    /// Sender's wall clock.
    pub wall_ns: U64,
    /// Sender's node number.
    pub node: U32,
    /// Length of the authentication behind the name.
    pub authentication_bytes: U16,
    /// 0.
    pub reserved: U16,
    /// Messages received per lane.
    pub messages_received: [U64; Priority::COUNT],
    /// The receiver's end of the session, as far as the sender knows it: what it has received is
    /// of that end.
    pub peer_session_id: [u8; 16],
}

const _: () = assert!(size_of::<Greeting>() == GREETING_BYTES);
const _: () = assert!(std::mem::offset_of!(Greeting, schema_hash) == 24);
const _: () = assert!(std::mem::offset_of!(Greeting, last_received) == 40);
const _: () = assert!(std::mem::offset_of!(Greeting, node) == 88);
const _: () = assert!(std::mem::offset_of!(Greeting, messages_received) == 96);
const _: () = assert!(std::mem::offset_of!(Greeting, peer_session_id) == 128);
const _: () = assert!(GREETING_BYTES + NAME_BYTES_MAX + super::HEADER_BYTES <= HANDSHAKE_BYTES_MAX);

/// The payload of reject and goodbye, as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Farewell {
    /// Why.
    pub reason: U16,
    /// 0.
    pub reserved: U16,
    /// A number that belongs to the reason, else 0.
    pub detail: U32,
}

/// Why a hello was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// No protocol version in common.
    Version,
    /// The server is at its connection limit.
    Full,
    /// The schema hashes differ.
    Schema,
    /// The hello carries authentication, which version 1 does not define.
    Authentication,
    /// The server is shutting down.
    ShuttingDown,
    /// The connection that this session had is still being closed: try again at once.
    Busy,
    /// A reason this version does not know.
    Other(u16),
}

impl RejectReason {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Version => 1,
            Self::Full => 2,
            Self::Schema => 3,
            Self::Authentication => 4,
            Self::ShuttingDown => 5,
            Self::Busy => 6,
            Self::Other(code) => code,
        }
    }

    /// Reads the number on the wire.
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::Full,
            3 => Self::Schema,
            4 => Self::Authentication,
            5 => Self::ShuttingDown,
            6 => Self::Busy,
            code => Self::Other(code),
        }
    }
}

impl std::fmt::Display for RejectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version => f.write_str("no protocol version in common"),
            Self::Full => f.write_str("the server is at its connection limit"),
            Self::Schema => f.write_str(
                "the schema hashes differ: both ends must be built from the same payload types",
            ),
            Self::Authentication => {
                f.write_str("authentication is not supported by protocol version 1")
            }
            Self::ShuttingDown => f.write_str("the server is shutting down"),
            Self::Busy => f.write_str("the session's last connection is still being closed"),
            Self::Other(code) => write!(f, "reason {code}"),
        }
    }
}

/// Why a peer said goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GoodbyeReason {
    /// The application disconnected.
    Disconnect,
    /// The node is shutting down.
    Shutdown,
    /// A reason this version does not know.
    Other(u16),
}

impl GoodbyeReason {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Disconnect => 1,
            Self::Shutdown => 2,
            Self::Other(code) => code,
        }
    }

    /// Reads the number on the wire.
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Disconnect,
            2 => Self::Shutdown,
            code => Self::Other(code),
        }
    }
}

/// Splits the payload of a hello or welcome into its fixed part and the node name.
///
/// # Errors
///
/// [`ProtocolError::BadHandshake`] when it is too short, its lengths do not add up, a limit makes
/// no sense, or the name is not UTF-8.
pub fn read_greeting(payload: &[u8]) -> Result<(&Greeting, &str), ProtocolError> {
    let Ok((greeting, rest)) = Greeting::ref_from_prefix(payload) else {
        return Err(ProtocolError::BadHandshake);
    };
    let name_bytes = usize::from(greeting.name_bytes.get());
    let authentication_bytes = usize::from(greeting.authentication_bytes.get());
    if name_bytes > NAME_BYTES_MAX || rest.len() != name_bytes + authentication_bytes {
        return Err(ProtocolError::BadHandshake);
    }
    if greeting.protocol_min > greeting.protocol_max || greeting.reserved.get() != 0 {
        return Err(ProtocolError::BadHandshake);
    }
    if (greeting.frame_bytes_max.get() as usize) < HANDSHAKE_BYTES_MAX {
        return Err(ProtocolError::BadHandshake);
    }
    let Ok(name) = std::str::from_utf8(&rest[..name_bytes]) else {
        return Err(ProtocolError::BadHandshake);
    };
    Ok((greeting, name))
}

/// Reads the payload of a reject or goodbye: reason code and detail.
///
/// # Errors
///
/// [`ProtocolError::BadHandshake`] when its length is wrong or its reserved field is not zero.
pub fn read_farewell(payload: &[u8]) -> Result<(u16, u32), ProtocolError> {
    match Farewell::ref_from_bytes(payload) {
        Ok(farewell) if farewell.reserved.get() == 0 => {
            Ok((farewell.reason.get(), farewell.detail.get()))
        }
        _ => Err(ProtocolError::BadHandshake),
    }
}

/// Writes a hello or welcome frame to the front of `out` and returns its length.
///
/// # Panics
///
/// When the name is longer than [`NAME_BYTES_MAX`] or `out` shorter than [`HANDSHAKE_BYTES_MAX`].
pub fn write_greeting(kind: Kind, mut greeting: Greeting, name: &str, out: &mut [u8]) -> usize {
    assert!(name.len() <= NAME_BYTES_MAX, "Config bounds the name");
    greeting.name_bytes = u16::try_from(name.len()).expect("bounded just above").into();
    let mut payload = [0; GREETING_BYTES + NAME_BYTES_MAX];
    payload[..GREETING_BYTES].copy_from_slice(greeting.as_bytes());
    payload[GREETING_BYTES..GREETING_BYTES + name.len()].copy_from_slice(name.as_bytes());
    head(kind, greeting.monotonic_ns.get()).encode(&payload[..GREETING_BYTES + name.len()], out)
}

/// Writes a reject or goodbye frame to the front of `out` and returns its length.
///
/// # Panics
///
/// When `out` is shorter than the frame, 48 bytes.
pub fn write_farewell(kind: Kind, reason: u16, detail: u32, now_ns: u64, out: &mut [u8]) -> usize {
    let farewell = Farewell { reason: reason.into(), reserved: 0.into(), detail: detail.into() };
    head(kind, now_ns).encode(farewell.as_bytes(), out)
}

fn head(kind: Kind, now_ns: u64) -> FrameHead {
    assert!(kind.is_handshake(), "only the session's own frames are written here");
    FrameHead {
        kind,
        priority: Priority::Critical,
        codec: Codec::Opaque,
        type_id: 0,
        sequence: 0,
        sent_at_ns: now_ns,
        flags: Flags::default(),
        extension: None,
        checksum: Checksum::Always,
    }
}

/// Whether a peer speaking `protocol_min..=protocol_max` can talk to us.
#[must_use]
pub const fn version_in_common(protocol_min: u8, protocol_max: u8) -> bool {
    protocol_min <= VERSION && VERSION <= protocol_max
}

//! One enum per decision the caller must make.
//!
//! Told apart by who is to blame: the caller ([`SendError`], [`ConfigError`], [`EndpointError`]),
//! the peer ([`ProtocolError`], [`AccessError`]; closes that connection only) and the machine
//! ([`SetupError`], [`ConnectError`]). Errors of the message path are `Copy`, at most 16 bytes,
//! and touch no heap.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::wire::handshake::RejectReason;
use crate::wire::{Codec, Kind};

pub use crate::config::ConfigError;
pub use crate::endpoint::EndpointError;
pub use crate::sys::probe::RingError;

/// The peer broke the wire format. Closes that one connection; never the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The stream does not start with "RW": wrong port, or a peer out of step.
    #[error("bad magic {got:#06x}: the peer does not speak ringwire, or the stream is out of step")]
    BadMagic {
        /// The two bytes as a little-endian number.
        got: u16,
    },
    /// A protocol version this library does not speak.
    #[error("unknown protocol version {got}, this library speaks 1")]
    BadVersion {
        /// The version byte.
        got: u8,
    },
    /// A kind byte outside the table.
    #[error("unknown frame kind {got:#04x}")]
    BadKind {
        /// The kind byte.
        got: u8,
    },
    /// A flag this version does not define, or one that needs the extension without it.
    #[error("flags {got:#04x} are undefined or lack the extension they need")]
    BadFlags {
        /// The flags byte.
        got: u8,
    },
    /// A priority outside 1 to 4.
    #[error("priority {got} is not 1 to 4")]
    BadPriority {
        /// The priority byte.
        got: u8,
    },
    /// A codec outside the table.
    #[error("unknown codec {got}")]
    BadCodec {
        /// The codec byte.
        got: u8,
    },
    /// A reserved field is not zero.
    #[error("a reserved field is not zero")]
    ReservedNotZero,
    /// The padding behind the payload is not zero.
    #[error("the padding is not zero")]
    PaddingNotZero,
    /// The frame is longer than this side accepts (4 GiB and more are shown as 4 GiB).
    #[error("frame of {bytes} bytes exceeds the limit of {bytes_max}")]
    FrameTooLong {
        /// Length of the frame.
        bytes: u32,
        /// The limit.
        bytes_max: u32,
    },
    /// A handshake frame without checksum.
    #[error("handshake frame without checksum")]
    ChecksumMissing,
    /// The checksum does not match: the bytes were damaged on the way.
    #[error("checksum {carried:#010x} does not match the computed {computed:#010x}")]
    BadChecksum {
        /// What the frame carries.
        carried: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The payload of a handshake frame makes no sense.
    #[error("malformed handshake payload")]
    BadHandshake,
    /// The payload of a heartbeat makes no sense.
    #[error("malformed heartbeat payload")]
    BadHeartbeat,
    /// A frame that may not come in this state, such as data before the handshake.
    #[error("unexpected frame of kind {kind:?}")]
    Unexpected {
        /// Its kind.
        kind: Kind,
    },
    /// A sequence number that does not follow the one before it in its lane.
    #[error("sequence {got} where {expected} was expected")]
    BadSequence {
        /// Low 32 bits of the next sequence of the lane.
        expected: u32,
        /// What came.
        got: u32,
    },
    /// The peer confirms what was never sent to it, or takes back what it confirmed.
    #[error("acknowledgement of {acknowledged} where {sent} was the last sent")]
    BadAcknowledgement {
        /// Low 32 bits of the sequence confirmed.
        acknowledged: u32,
        /// Low 32 bits of the last sequence sent.
        sent: u32,
    },
}

impl ProtocolError {
    /// Whether damage under way explains it: the bytes are no frame, or not the one that was sent.
    /// The rest are the peer's own words, which a checksum vouches for.
    pub(crate) const fn is_damage(self) -> bool {
        match self {
            Self::BadMagic { .. }
            | Self::BadVersion { .. }
            | Self::BadKind { .. }
            | Self::BadFlags { .. }
            | Self::BadPriority { .. }
            | Self::BadCodec { .. }
            | Self::ReservedNotZero
            | Self::PaddingNotZero
            | Self::FrameTooLong { .. }
            | Self::ChecksumMissing
            | Self::BadChecksum { .. } => true,
            Self::BadHandshake
            | Self::BadHeartbeat
            | Self::Unexpected { .. }
            | Self::BadSequence { .. }
            | Self::BadAcknowledgement { .. } => false,
        }
    }
}

/// A received payload could not be read as the type asked for.
///
/// A typed handler closes the connection on it; code that calls `access` itself decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The payload is not an rkyv archive.
    #[error("the payload is {codec:?}, not rkyv")]
    NotRkyv {
        /// What it is.
        codec: Codec,
    },
    /// The payload is of another type.
    #[error("expected type {expected:#x}, got {got:#x}")]
    TypeMismatch {
        /// The number of the type asked for.
        expected: u32,
        /// The number in the frame.
        got: u32,
    },
    /// The bytes do not start at the alignment the type needs.
    #[error("the payload is not aligned to {align} bytes: copy it to aligned memory first")]
    Misaligned {
        /// The alignment needed.
        align: usize,
    },
    /// bytecheck refused the bytes.
    #[error("the bytes are not a valid archive of type {type_id:#x}")]
    Invalid {
        /// The number of the type asked for.
        type_id: u32,
    },
}

/// A message was not queued. Nothing was taken: the caller still has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The lane is full: the peer reads slower than we write, or, of a reliable message, has not
    /// confirmed as many as are kept, as while the link is down.
    #[error(
        "the lane is full (lane_bytes_max, lane_frames_max; of reliable messages kept_bytes_max): \
         the peer reads, or confirms, slower than this side writes; retry after a turn"
    )]
    Full,
    /// The reactor's send memory has no room for the message, though its lane has: other peers
    /// that read slowly hold it, or this one holds as much of it as is left for all.
    #[error(
        "the reactor's send memory is full (send_memory_bytes): its peers together read slower \
         than this side writes; retry after a turn, or raise it"
    )]
    MemoryFull,
    /// The message does not fit the smaller of both sides' frame limits.
    #[error("frame of {bytes} bytes exceeds the limit of {bytes_max} (frame_bytes_max)")]
    TooLarge {
        /// Length of the frame.
        bytes: u32,
        /// The smaller of both sides' limits.
        bytes_max: u32,
    },
    /// There is no connection, or no such client. Why tells `Client::disconnected_reason`, and the
    /// connection's `Disconnected` event.
    #[error("not connected (reconnecting, or over: see connection_state and disconnected_reason)")]
    NotConnected,
    /// Its time to live has passed already.
    #[error("the message's time to live has passed before it was queued")]
    Expired,
    /// The kind belongs to the session, not to applications.
    #[error("kind {kind:?} is sent by the session itself; use an application kind")]
    KindReserved {
        /// The kind asked for.
        kind: Kind,
    },
    /// The payload's own `Serialize` refused.
    #[error("the payload could not be serialised")]
    Unserializable,
    /// The command queue into the reactor is full.
    #[error("the reactor's command queue is full (commands_max); retry later")]
    Busy,
    /// The reactor did not get to it in time. It will not be sent: the call has withdrawn it.
    #[error(
        "the reactor did not answer within {timeout:?}: does a handler block it? nothing was sent"
    )]
    Unresponsive {
        /// How long it was waited for.
        timeout: Duration,
    },
    /// A call that waits for a reactor of the node, made in a handler of that node: reactors that
    /// wait for themselves or for each other stand still.
    #[error(
        "a handler can not wait for its own node: use Context::send_to or Context::broadcast, and \
         post_to of the handle for a connection of another reactor"
    )]
    InHandler,
    /// The message is the answer to a request that its sender has cancelled: nobody waits for it.
    #[error("nobody waits for the answer: the request was cancelled")]
    Abandoned,
    /// The node has shut down.
    #[error("the node has shut down")]
    ShutDown,
}

const _: () = assert!(size_of::<ProtocolError>() <= 16);
const _: () = assert!(size_of::<SendError>() <= 16);

/// A request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request was not queued.
    #[error(transparent)]
    Send(#[from] SendError),
    /// No answer in time. The link lives on; a late answer is counted and dropped.
    #[error("no response within {timeout:?}")]
    Timeout {
        /// How long it was waited for.
        timeout: Duration,
    },
    /// No answer in time, and it may be there: behind messages that nobody has taken, which fill
    /// the inbox, so that nothing more is read. The link lives on, as after a timeout.
    #[error(
        "no response within {timeout:?}, and what has come is not read, because the inbox is full \
         (inbox_frames_max, inbox_bytes_max): call `receive`, or handle these messages"
    )]
    InboxFull {
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The connection was lost before the answer came.
    #[error("connection lost before the response came: {reason}")]
    ConnectionLost {
        /// Why.
        reason: CloseReason,
    },
    /// As many requests as allowed are waiting already, for their answer or to have it taken.
    #[error(
        "{requests_max} requests are waiting already, for their answer or to have it taken \
         (requests_max)"
    )]
    TooMany {
        /// The limit.
        requests_max: u32,
    },
}

/// No message was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// None came in time.
    #[error("no message within {timeout:?}")]
    Timeout {
        /// How long it was waited for.
        timeout: Duration,
    },
    /// None is waiting and none can come any more.
    #[error("not connected")]
    NotConnected,
    /// The node has shut down: none is waiting and none will come. Stays so.
    #[error("the node has shut down")]
    ShutDown,
    /// A handler would have waited for what comes to its own node, and held its reactor up.
    #[error("a handler can not wait for messages of its own node: look with a timeout of zero")]
    InHandler,
}

/// Not everything that was queued has been handed to the kernel, or not everything reliable has
/// been confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The peer reads too slowly, has not confirmed a reliable message, or is away. What is left
    /// stays queued, and what is not confirmed stays kept.
    #[error("not flushed within {timeout:?}")]
    Timeout {
        /// How long it was waited for.
        timeout: Duration,
    },
    /// There is no connection, or something was lost meanwhile, and counted: the session is over,
    /// the peer has lost its end of it, or the link is gone with messages of best effort that the
    /// kernel had not taken.
    #[error("not connected")]
    NotConnected,
    /// The command queue into the reactor of a node is full, or as many wait there already.
    #[error("the reactor's command queue is full (commands_max); retry later")]
    Busy,
    /// A handler would have waited for its own node, and held its reactor up.
    #[error("a handler can not wait for its own node to flush: do it on another thread")]
    InHandler,
}

/// A watch was not set up. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// There is no such session.
    #[error("no such session")]
    NoSession,
    /// As many as there is room for are set up already.
    #[error("{watches_max} watches are set up already (watches_max)")]
    Full {
        /// The limit.
        watches_max: usize,
    },
    /// Nothing can come within no time.
    #[error("the period of a watch must be above zero")]
    PeriodZero,
}

/// No session was established.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint text is malformed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The host name did not resolve.
    #[error("cannot resolve {host:?}: {source}")]
    Resolve {
        /// The host name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The connection could not be made.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address tried last.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Neither success nor failure in time.
    #[error(
        "no session with {address} within {timeout:?} (connect_timeout_ms, or the call's timeout)"
    )]
    Timeout {
        /// The address tried last.
        address: String,
        /// The limit.
        timeout: Duration,
    },
    /// The peer refused the handshake.
    #[error("{address} refused the session: {reason}")]
    Rejected {
        /// The address.
        address: String,
        /// Its reason.
        reason: RejectReason,
    },
    /// The connection ended during the handshake. The reason tells by whom: with
    /// [`CloseReason::PeerClosed`] and [`CloseReason::Goodbye`] the peer, else this side.
    #[error("{}", HandshakeEnd(.address, *.reason))]
    Handshake {
        /// The address.
        address: String,
        /// Why.
        reason: CloseReason,
    },
    /// Fewer members of a pool are connected than are to be kept. It goes on trying.
    #[error(
        "{connected} of a pool's {members_min} members are connected after {timeout:?}{}",
        LastFailure(*.reason)
    )]
    PoolNotReady {
        /// Members connected now.
        connected: u32,
        /// Members to be kept connected.
        members_min: u32,
        /// How long it was waited for.
        timeout: Duration,
        /// Why the last attempt failed, or the last link or session was lost.
        reason: Option<CloseReason>,
    },
    /// The command queue into a reactor of the node is full.
    #[error("the reactor's command queue is full (commands_max); retry later")]
    Busy,
    /// A reactor of the node did not get to it in time. The call has withdrawn it.
    #[error("the reactor did not answer within {timeout:?}: does a handler block it?")]
    Unresponsive {
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The pool is closed, or being closed.
    #[error("the pool is closed")]
    PoolClosed,
    /// The client is connected already.
    #[error("already connected; disconnect first")]
    AlreadyConnected,
    /// The reactor holds as many connections as it may.
    #[error("the reactor is at its limit of {connections_max} connections (connections_max)")]
    TooMany {
        /// The limit.
        connections_max: u32,
    },
    /// A handler asked its own node to connect, and would wait for itself.
    #[error("a handler can not wait for its own node to connect: do it on another thread")]
    InHandler,
    /// The node has shut down, or the reactor has ended before it.
    #[error("the node has shut down, or its ring has failed (see the log)")]
    ShutDown,
}

/// Says why a member of a pool is missing, when that is known.
struct LastFailure(Option<CloseReason>);

impl fmt::Display for LastFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |reason| write!(f, "; the last failure: {reason}"))
    }
}

/// Says who ended a handshake.
struct HandshakeEnd<'a>(&'a str, CloseReason);

impl fmt::Display for HandshakeEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(address, reason) = self;
        match reason {
            CloseReason::PeerClosed => {
                write!(f, "{address} closed the connection during the handshake")
            }
            CloseReason::Goodbye => write!(f, "{address} said goodbye during the handshake"),
            reason => write!(f, "no session with {address}, this side closed: {reason}"),
        }
    }
}

/// A reactor, server or node could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The listen address is malformed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The kernel refused the ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The kernel refused to listen.
    #[error("cannot listen on {address}: {source}{}", listen_remedy(.source))]
    Listen {
        /// The address.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The memory that the configuration asks for is not to be had.
    #[error(
        "cannot reserve {bytes} bytes of memory ({key}): lower it, or raise what the machine \
         grants (RLIMIT_AS, a cgroup's limit, vm.overcommit_memory, with mlockall RLIMIT_MEMLOCK)"
    )]
    Memory {
        /// What asks for it: the key of the configuration.
        key: &'static str,
        /// How many bytes.
        bytes: u64,
    },
    /// A tap has as many new reactors as it takes before its receiver looks.
    #[error(
        "the tap has {waiting} reactors that its receiver has not met: call `receive` in between"
    )]
    TapFull {
        /// How many wait.
        waiting: usize,
    },
    /// What is to be watched in every session can not be.
    #[error("cannot watch every session: {0}")]
    Watch(#[from] WatchError),
    /// Another system call failed.
    #[error("{operation} failed: {source}{}", system_remedy(.operation, .source))]
    System {
        /// What was attempted.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process listens there, or a file that is no socket stands at the path: \
             stop it or choose another (`ss -ltnp` names it, `ss -lxp` for Unix sockets)"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE, a Unix \
             socket needs write permission in its directory"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => descriptor_remedy(error),
    }
}

/// What to do about a system call that failed; empty where that is not known.
fn system_remedy(operation: &str, error: &io::Error) -> &'static str {
    // mlockall(2): both are the limit, of a process without the capability.
    if operation == "mlockall" && matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EPERM)) {
        return "; raise RLIMIT_MEMLOCK (`ulimit -l`, LimitMEMLOCK=) or grant CAP_IPC_LOCK";
    }
    descriptor_remedy(error)
}

/// What to do about a lack of descriptors; empty for anything else.
pub(crate) fn descriptor_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            "; the process is out of descriptors: raise RLIMIT_NOFILE (`ulimit -n`, LimitNOFILE=)"
        }
        Some(libc::ENFILE) => "; the system is out of descriptors: raise fs.file-max",
        _ => "",
    }
}

/// Why a connection ended. Each has a counter in the statistics, a broken protocol one for each
/// [`ProtocolError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed its end.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// The peer said goodbye first.
    #[error("the peer said goodbye")]
    Goodbye,
    /// This side disconnected.
    #[error("this side disconnected")]
    Local,
    /// The peer did not complete the handshake in time.
    #[error("the peer did not complete the handshake in time (handshake_timeout_ms)")]
    HandshakeTimeout,
    /// The connection was not made in time.
    #[error("the connection was not made in time (connect_timeout_ms)")]
    ConnectTimeout,
    /// A frame was begun and not finished in time.
    #[error("the peer began a frame and did not finish it in time (frame_timeout_ms)")]
    FrameTimeout,
    /// The peer broke the wire format.
    #[error("protocol error: {0}")]
    Protocol(ProtocolError),
    /// The socket failed.
    #[error("socket error: {}", io::Error::from_raw_os_error(*.errno))]
    Socket {
        /// The kernel's error number.
        errno: i32,
    },
    /// This side has no place for another connection, or no memory for its session. A peer that is
    /// at its limit says so: [`CloseReason::Rejected`] with [`RejectReason::Full`].
    #[error("this side has no place for another connection (connections_max, send_memory_bytes)")]
    ConnectionLimit,
    /// The peer refused our hello.
    #[error("the peer refused the session: {0}")]
    Rejected(RejectReason),
    /// We refused the peer's hello.
    #[error("this side refused the session: {0}")]
    Refused(RejectReason),
    /// The peer came back on a new connection while this one still stood.
    #[error("the peer came back on a new connection")]
    Superseded,
    /// Nothing was heard of the peer for too long.
    #[error("nothing was heard of the peer for too long (heartbeat_interval_ms, heartbeat_misses)")]
    PeerSilent,
    /// The peer read too slowly, and a lane's policy is to disconnect it then.
    #[error(
        "the peer reads too slowly: a lane was full whose overflow_low, overflow_normal, \
         overflow_high or overflow_critical is \"disconnect\""
    )]
    SlowPeer,
    /// The link was lost and the peer did not come back in time.
    #[error("the link was lost and the peer did not come back in time (session_linger_ms)")]
    SessionExpired,
    /// The link was lost, and so many attempts in a row to make another have failed.
    #[error("gave up to reconnect after {attempts} attempts (reconnect_attempts_max)")]
    GaveUp {
        /// `reconnect_attempts_max`.
        attempts: u32,
    },
    /// A payload was not a valid value of the type it claims to be.
    #[error("invalid payload: {0}")]
    Payload(AccessError),
    /// What was queued, or the peer's own goodbye, took longer than the deadline.
    #[error("not flushed before the deadline")]
    DrainTimeout,
}

impl CloseReason {
    /// Names of the counters, by [`CloseReason::index`]. A name with a dot is one of the group
    /// before it: `protocol.magic` is one of `protocol`.
    pub const NAMES: [&'static str; 33] = [
        "peer_closed",
        "goodbye",
        "local",
        "handshake_timeout",
        "connect_timeout",
        "frame_timeout",
        "socket",
        "connection_limit",
        "rejected",
        "refused",
        "drain_timeout",
        "payload",
        "protocol.magic",
        "protocol.version",
        "protocol.kind",
        "protocol.flags",
        "protocol.priority",
        "protocol.codec",
        "protocol.reserved",
        "protocol.padding",
        "protocol.length",
        "protocol.checksum_missing",
        "protocol.checksum",
        "protocol.handshake",
        "protocol.unexpected",
        "protocol.sequence",
        "protocol.acknowledgement",
        "superseded",
        "peer_silent",
        "slow_peer",
        "session_expired",
        "protocol.heartbeat",
        "gave_up",
    ];

    /// Position in [`CloseReason::NAMES`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::PeerClosed => 0,
            Self::Goodbye => 1,
            Self::Local => 2,
            Self::HandshakeTimeout => 3,
            Self::ConnectTimeout => 4,
            Self::FrameTimeout => 5,
            Self::Socket { .. } => 6,
            Self::ConnectionLimit => 7,
            Self::Rejected(_) => 8,
            Self::Refused(_) => 9,
            Self::DrainTimeout => 10,
            Self::Payload(_) => 11,
            Self::Protocol(error) => match error {
                ProtocolError::BadMagic { .. } => 12,
                ProtocolError::BadVersion { .. } => 13,
                ProtocolError::BadKind { .. } => 14,
                ProtocolError::BadFlags { .. } => 15,
                ProtocolError::BadPriority { .. } => 16,
                ProtocolError::BadCodec { .. } => 17,
                ProtocolError::ReservedNotZero => 18,
                ProtocolError::PaddingNotZero => 19,
                ProtocolError::FrameTooLong { .. } => 20,
                ProtocolError::ChecksumMissing => 21,
                ProtocolError::BadChecksum { .. } => 22,
                ProtocolError::BadHandshake => 23,
                ProtocolError::Unexpected { .. } => 24,
                ProtocolError::BadSequence { .. } => 25,
                ProtocolError::BadAcknowledgement { .. } => 26,
                ProtocolError::BadHeartbeat => 31,
            },
            Self::Superseded => 27,
            Self::PeerSilent => 28,
            Self::SlowPeer => 29,
            Self::SessionExpired => 30,
            Self::GaveUp { .. } => 32,
        }
    }

    /// Its name in the statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// Why a message did not reach its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DropReason {
    /// Best effort, and the link was lost before the peer had it.
    LinkLost,
    /// Its time to live passed before it could be sent.
    Expired,
    /// A newer message of the same conflation key took its place.
    Replaced,
    /// The lane was full and its policy is to drop the oldest.
    Overflow,
    /// The session ended before the message was sent, or before the peer confirmed it.
    SessionEnded,
    /// A request that its sender cancelled before it was sent.
    Cancelled,
}

impl DropReason {
    /// All of them, by [`DropReason::index`].
    pub const ALL: [Self; 6] = [
        Self::LinkLost,
        Self::Expired,
        Self::Replaced,
        Self::Overflow,
        Self::SessionEnded,
        Self::Cancelled,
    ];
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// A number below [`DropReason::COUNT`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in statistics, metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkLost => "link_lost",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Overflow => "overflow",
            Self::SessionEnded => "session_ended",
            Self::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_to_lock_memory_says_what_to_raise() {
        for errno in [libc::ENOMEM, libc::EPERM] {
            let source = io::Error::from_raw_os_error(errno);
            let text = SetupError::System { operation: "mlockall", source }.to_string();
            assert!(text.contains("RLIMIT_MEMLOCK") && text.contains("CAP_IPC_LOCK"), "{text}");
        }
    }

    /// Whoever is refused learns which limit it was, reliable messages' own included.
    #[test]
    fn refusals_name_their_limits() {
        let says = |error: SendError, key: &str| {
            let text = error.to_string();
            assert!(text.contains(key), "{key} is not in {text:?}");
        };
        for key in ["lane_bytes_max", "lane_frames_max", "kept_bytes_max", "confirms"] {
            says(SendError::Full, key);
        }
        says(SendError::Busy, "commands_max");
        says(SendError::MemoryFull, "send_memory_bytes");
        let text = RequestError::TooMany { requests_max: 3 }.to_string();
        assert!(text.contains("requests_max") && text.contains("taken"), "{text}");
    }

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let protocol = [
            (ProtocolError::BadMagic { got: 0 }, "protocol.magic"),
            (ProtocolError::BadVersion { got: 0 }, "protocol.version"),
            (ProtocolError::BadKind { got: 0 }, "protocol.kind"),
            (ProtocolError::BadFlags { got: 0 }, "protocol.flags"),
            (ProtocolError::BadPriority { got: 0 }, "protocol.priority"),
            (ProtocolError::BadCodec { got: 0 }, "protocol.codec"),
            (ProtocolError::ReservedNotZero, "protocol.reserved"),
            (ProtocolError::PaddingNotZero, "protocol.padding"),
            (ProtocolError::FrameTooLong { bytes: 2, bytes_max: 1 }, "protocol.length"),
            (ProtocolError::ChecksumMissing, "protocol.checksum_missing"),
            (ProtocolError::BadChecksum { carried: 1, computed: 2 }, "protocol.checksum"),
            (ProtocolError::BadHandshake, "protocol.handshake"),
            (ProtocolError::Unexpected { kind: Kind::Data }, "protocol.unexpected"),
            (ProtocolError::BadSequence { expected: 1, got: 2 }, "protocol.sequence"),
            (
                ProtocolError::BadAcknowledgement { acknowledged: 2, sent: 1 },
                "protocol.acknowledgement",
            ),
            (ProtocolError::BadHeartbeat, "protocol.heartbeat"),
        ]
        .map(|(error, name)| (CloseReason::Protocol(error), name));
        let access = AccessError::Invalid { type_id: 1 };
        let others = [
            (CloseReason::PeerClosed, "peer_closed"),
            (CloseReason::Goodbye, "goodbye"),
            (CloseReason::Local, "local"),
            (CloseReason::HandshakeTimeout, "handshake_timeout"),
            (CloseReason::ConnectTimeout, "connect_timeout"),
            (CloseReason::FrameTimeout, "frame_timeout"),
            (CloseReason::Socket { errno: 1 }, "socket"),
            (CloseReason::ConnectionLimit, "connection_limit"),
            (CloseReason::Rejected(RejectReason::Full), "rejected"),
            (CloseReason::Refused(RejectReason::Full), "refused"),
            (CloseReason::DrainTimeout, "drain_timeout"),
            (CloseReason::Payload(access), "payload"),
            (CloseReason::Superseded, "superseded"),
            (CloseReason::PeerSilent, "peer_silent"),
            (CloseReason::SlowPeer, "slow_peer"),
            (CloseReason::SessionExpired, "session_expired"),
            (CloseReason::GaveUp { attempts: 3 }, "gave_up"),
        ];
        let named = others.into_iter().chain(protocol);
        let mut names: Vec<_> = named
            .map(|(reason, name)| {
                assert_eq!(reason.name(), name, "{reason}");
                name
            })
            .collect();
        assert_eq!(names.len(), CloseReason::NAMES.len());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CloseReason::NAMES.len());
    }
}

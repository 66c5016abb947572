//! What a reactor tells whoever asks: of a turn, of a connection, and of what became of a call.

use std::time::Duration;

use crate::error::SendError;
use crate::reactor::connection::ConnectionId;
use crate::session::PeerInfo;
use crate::stats::{ConnectionState, DropCount};
use crate::time::Nanos;

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Completions reaped, and receives made while spinning. 0 means that nothing happened.
    pub completions: u32,
    /// Whether there is more to do at once.
    pub is_busy: bool,
}

/// What is known of a connection. Of a session with two, what can be counted is the sum of both,
/// and the rest is said of the main one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its id.
    pub id: ConnectionId,
    /// The other end's address: `host:port`, `unix:/path`, or `unix:` for the client of a Unix
    /// socket, which has none.
    pub address: String,
    /// What the peer said of itself; `None` before the handshake.
    pub peer: Option<PeerInfo>,
    /// Whether messages flow.
    pub is_established: bool,
    /// How long the session has been established.
    pub connected_for: Duration,
    /// When a byte last came or went.
    pub last_activity: Nanos,
    /// Messages admitted to its lanes.
    pub messages_sent: u64,
    /// Messages received on it.
    pub messages_received: u64,
    /// Frames queued and in flight.
    pub frames_queued: u64,
    /// Bytes queued and in flight.
    pub bytes_queued: u64,
    /// Memory that keeps reliable messages until the peer confirms them, in bytes.
    pub bytes_kept: u64,
    /// Messages of the peer's that will not come: it dropped them.
    pub messages_missed: u64,
    /// Messages that came too late to be handled.
    pub messages_expired: u64,
    /// Messages of ours that came too late for the peer to handle, as far as it has said.
    pub messages_expired_at_peer: u64,
    /// The last round trip of a heartbeat; `None` before one was measured.
    pub round_trip: Option<Duration>,
    /// The peer's monotonic clock against ours; `None` before it was measured.
    pub clock: Option<ClockOffset>,
    /// Messages to this peer that were dropped on this side, by lane and reason; what never
    /// occurred is left out.
    pub drops: Vec<DropCount>,
    /// Where the express connection stands, of a session that has one.
    pub express: Option<ConnectionState>,
}

/// How far a peer's monotonic clock is ahead of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClockOffset {
    /// Its clock minus ours, in nanoseconds.
    pub offset_ns: i64,
    /// The truth is at most this far from it, in nanoseconds: half a round trip at best, and more
    /// with time, by `clock_drift_ppm`.
    pub error_ns: u64,
}

/// What became of messages that were to be queued in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
#[non_exhaustive]
pub struct BatchReport {
    /// How many were queued: the first so many.
    pub queued: usize,
    /// Why the next one was not; `None` when all were.
    pub refused: Option<SendError>,
}

/// What became of a broadcast, for each connection.
#[derive(Debug, Clone, Default)]
#[must_use]
#[non_exhaustive]
pub struct BroadcastReport {
    /// Each established session, and whether the message was queued for it. Of one whose link is
    /// lost, [`SendError::NotConnected`] when the message is not reliable.
    pub outcomes: Vec<(ConnectionId, Result<(), SendError>)>,
    /// The reactors of a node that could not be asked, and why: none of their sessions has the
    /// message. Those that have ended have none, and are left out.
    pub failures: Vec<(u16, SendError)>,
}

impl BroadcastReport {
    /// For how many sessions the message was queued.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count()
    }

    /// The sessions that refused it, and why.
    pub fn refused(&self) -> impl Iterator<Item = (ConnectionId, SendError)> + '_ {
        self.outcomes.iter().filter_map(|&(id, outcome)| Some((id, outcome.err()?)))
    }
}

/// What a bounded shutdown achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct ShutdownReport {
    /// Sessions that had their link when the shutdown began. One whose link was lost is over at
    /// once, and told by its events.
    pub connections: u64,
    /// Of those, how many were flushed and ended in order.
    pub flushed: u64,
    /// Admitted messages that were not handed to the kernel in full.
    pub messages_dropped: u64,
}

//! What a registry says at one moment: the process, its reactors and their sessions.
//!
//! Plain numbers that were copied out; how, and what may be wrong with it, is in
//! [`reader`](super::reader).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::error::DropReason;
use crate::stats::counters::{Counters, LANES};
use crate::stats::histogram::Reading;
use crate::stats::layout::{HISTOGRAMS, RowState};
use crate::stats::reader::{self, RegistryError};
use crate::stats::snapshot::{ConnectionState, Statistics};
use crate::time::Nanos;

/// What became of the process that writes a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WriterState {
    /// It runs.
    Running,
    /// It ended in order.
    Exited,
    /// It is gone and has not ended in order: the numbers are its last.
    Died,
}

impl WriterState {
    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Died => "died",
        }
    }
}

/// A registry at one moment.
#[derive(Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Where it was read; empty when it is in no file.
    pub path: PathBuf,
    /// The process.
    pub pid: u32,
    /// What it calls itself; may be empty.
    pub node_name: String,
    /// The file name of its program.
    pub command: String,
    /// The first address it listens on; empty when it does not.
    pub endpoint: String,
    /// Whether it listens.
    pub is_server: bool,
    /// Whether it runs.
    pub writer: WriterState,
    /// When the registry was made, by the machine's monotonic clock.
    pub created: Nanos,
    /// The same in nanoseconds since 1970 UTC.
    pub created_wall_ns: u64,
    /// When this was read.
    pub taken: Nanos,
    /// A turn above this counts as slow.
    pub turn_threshold: Duration,
    /// Messages that a node's handles refused because they exceed the frame limit.
    pub handles_too_large: u64,
    /// Messages that were worth nothing any more when they were taken from a node's inbox.
    pub handles_overdue: u64,
    /// Each reactor.
    pub reactors: Vec<ReactorReading>,
}

/// One reactor at one moment.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReactorReading {
    /// Its counters.
    pub counters: Counters,
    /// When the turn under way, or the last one, began.
    pub turn_began: Nanos,
    /// A turn was under way.
    pub is_in_turn: bool,
    /// Messages among those counted as received that no session's figures have yet: a reactor that
    /// an application turns writes them with its next turn or send.
    pub unsettled_messages: u64,
    /// Their bytes.
    pub unsettled_bytes: u64,
    /// Its numbers are not of one moment: the writer left none that was long enough.
    pub is_torn: bool,
    /// Its sessions, also the last ones that are over.
    pub sessions: Vec<SessionReading>,
    pub(crate) histograms: Vec<Reading>,
}

/// One lane of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct LaneReading {
    /// Bytes queued and in flight.
    pub bytes: u64,
    /// Frames queued and in flight.
    pub frames: u64,
    /// How long the oldest of them had been queued when the row was written, in nanoseconds; 0
    /// without one. A turn that is under way and does not end counts on; the row of a process that
    /// is gone stands still.
    pub oldest_ns: u64,
}

/// One session at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionReading {
    /// Which reactor it is on.
    pub reactor: usize,
    /// Its slot there.
    pub slot: u32,
    /// How often the slot had been used before.
    pub generation: u32,
    /// Where it stands.
    pub state: RowState,
    /// When this was written.
    pub updated: Nanos,
    /// When it was established, went away or ended.
    pub since: Nanos,
    /// When a byte last came or went.
    pub last_activity: Nanos,
    /// Messages handed to the kernel.
    pub messages_sent: u64,
    /// Messages received on its links.
    pub messages_received: u64,
    /// Bytes of messages handed to the kernel.
    pub bytes_sent: u64,
    /// Bytes of messages received.
    pub bytes_received: u64,
    /// Memory that keeps reliable messages until the peer confirms them.
    pub bytes_kept: u64,
    /// Messages of the peer's that will not come.
    pub messages_missed: u64,
    /// Messages that came too late to be handled.
    pub messages_expired: u64,
    /// Messages of ours that came too late for the peer to handle.
    pub expired_at_peer: u64,
    /// The last round trip of a heartbeat.
    pub round_trip: Option<Duration>,
    /// The peer's clock minus ours and how far that may be off, in nanoseconds.
    pub clock: Option<(i64, u64)>,
    /// Links it has had.
    pub links: u64,
    /// Why its link was lost, or it ended; the name of the reason.
    pub reason: Option<&'static str>,
    /// The peer's number.
    pub peer_number: u64,
    /// What the peer calls itself.
    pub peer_name: String,
    /// The peer's address.
    pub address: String,
    /// Its lanes, low to critical.
    pub lanes: [LaneReading; LANES],
    /// Messages dropped, by lane and [`DropReason::index`].
    pub drops: [[u64; DropReason::COUNT]; LANES],
}

impl SessionReading {
    /// Its name in logs and events: reactor, slot, generation.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{}.{}", self.reactor, self.slot, self.generation)
    }

    /// Messages dropped, all lanes and reasons.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.as_flattened().iter().copied().fold(0, u64::saturating_add)
    }
}

impl Snapshot {
    /// Reads the registry in a file.
    ///
    /// # Errors
    ///
    /// [`RegistryError`], which says what is wrong with the file.
    pub fn from_file(path: &Path) -> Result<Self, RegistryError> {
        reader::read_file(path)
    }

    /// What has happened so far, summed over its reactors. The state is that of the session that is
    /// best off, connected for what listens, and disconnected when the process is gone.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let counters = self.reactors.iter().map(|reactor| &reactor.counters);
        let mut statistics = Statistics::collect(self.is_server, counters);
        statistics.state = self.connection_state();
        let add = |sum: &mut u64, more| *sum = sum.saturating_add(more);
        add(&mut statistics.sends_too_large, self.handles_too_large);
        add(&mut statistics.messages_expired, self.handles_overdue);
        statistics
    }

    fn connection_state(&self) -> ConnectionState {
        let has = |state| self.sessions().any(|session| session.state == state);
        let unlisted = || self.reactors.iter().any(|it| it.counters.connections_active.get() > 0);
        match () {
            () if self.writer != WriterState::Running => ConnectionState::Disconnected,
            () if self.is_server || has(RowState::Connected) => ConnectionState::Connected,
            () if has(RowState::Away) => ConnectionState::Reconnecting,
            () if has(RowState::Connecting) => ConnectionState::Connecting,
            () if has(RowState::Closing) => ConnectionState::Closing,
            // A session that the registry had no row for.
            () if unlisted() => ConnectionState::Connected,
            () => ConnectionState::Disconnected,
        }
    }

    /// A histogram by its name in [`Snapshot::histogram_names`], summed over its reactors.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Option<Reading> {
        let index = HISTOGRAMS.iter().position(|&(known, _)| known == name)?;
        let mut sum = Reading::default();
        for reactor in &self.reactors {
            sum.add(&reactor.histograms[index]);
        }
        Some(sum)
    }

    /// The names of the histograms, and what each tells.
    pub fn histogram_names() -> impl Iterator<Item = (&'static str, &'static str)> {
        HISTOGRAMS.iter().map(|&(name, help)| (name, help.trim_start()))
    }

    /// All sessions of all reactors.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionReading> {
        self.reactors.iter().flat_map(|reactor| &reactor.sessions)
    }

    /// Whether some of its numbers belong to different moments.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.reactors.iter().any(|reactor| reactor.is_torn)
    }
}

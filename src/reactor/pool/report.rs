//! What is counted of a pool, and what is told of it.
//!
//! Invariants, while no application sends to a member by its id: `sends + requests` is the sum of
//! what the members' lanes have admitted; and of every message taken the pool says that it has
//! left, is queued, or was dropped. `refused` counts calls, `passed_over` refusals that cost the
//! caller nothing: together they are what the reactor counts as refused.

use serde::{Serialize, Serializer};

use crate::error::{CloseReason, SendError};
use crate::reactor::Reactor;
use crate::reactor::pool::PoolId;

/// Calls that a pool refused, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct PoolRefusals {
    /// The lanes of all members that could have taken it were full.
    pub full: u64,
    /// Likewise, for lack of send memory.
    pub memory_full: u64,
    /// No member could take it: none connected, or the one of its key away.
    pub not_connected: u64,
    /// It exceeds the frame limit.
    pub too_large: u64,
    /// Its time to live had passed.
    pub expired: u64,
    /// As many requests as allowed were waiting.
    pub too_many_requests: u64,
    /// It could not be sent at all: a reserved kind, or a payload that does not serialise.
    pub invalid: u64,
}

impl PoolRefusals {
    pub(crate) fn count(&mut self, error: SendError) {
        *match error {
            SendError::Full => &mut self.full,
            SendError::MemoryFull => &mut self.memory_full,
            SendError::NotConnected => &mut self.not_connected,
            SendError::TooLarge { .. } => &mut self.too_large,
            SendError::Expired => &mut self.expired,
            _ => &mut self.invalid,
        } += 1;
    }

    fn add(&mut self, other: &Self) {
        self.full += other.full;
        self.memory_full += other.memory_full;
        self.not_connected += other.not_connected;
        self.too_large += other.too_large;
        self.expired += other.expired;
        self.too_many_requests += other.too_many_requests;
        self.invalid += other.invalid;
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { full, memory_full, not_connected, too_large, expired, .. } = *self;
        let others = self.too_many_requests + self.invalid;
        full + memory_full + not_connected + too_large + expired + others
    }
}

/// What is counted where it happens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) sends: u64,
    pub(crate) requests: u64,
    pub(crate) passed_over: u64,
    pub(crate) refused: PoolRefusals,
    pub(crate) messages_dropped: u64,
    pub(crate) messages_undelivered: u64,
}

/// What has happened in a pool so far, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct PoolStatistics {
    /// Members that are kept connected.
    pub members_min: u32,
    /// Most members.
    pub members_max: u32,
    /// Members that are connected.
    pub connected: u32,
    /// Members whose connection or handshake is under way.
    pub connecting: u32,
    /// Members that were lost and are to be dialled later.
    pub waiting: u32,
    /// Members whose link was lost: their sessions come back, or end.
    pub reconnecting: u32,
    /// Members that are being parted with.
    pub draining: u32,
    /// Messages taken, without requests.
    pub sends: u64,
    /// Requests taken.
    pub requests: u64,
    /// Calls refused, by reason.
    pub refused: PoolRefusals,
    /// Times a full member refused a message that was then offered to another.
    pub passed_over: u64,
    /// Attempts to connect a member.
    pub dials: u64,
    /// Of those, the ones that failed.
    pub dials_failed: u64,
    /// Members that load has brought.
    pub grown: u64,
    /// Members that were parted with because they were idle.
    pub reaped: u64,
    /// Sessions that were lost for good.
    pub lost: u64,
    /// Sessions that took the place of one that was lost.
    pub replaced: u64,
    /// Messages taken that a lost link or session dropped before they had left, and reliable ones
    /// that a lost session had not confirmed.
    pub messages_dropped: u64,
    /// Reliable messages that sessions were lost with: their events name them.
    pub messages_undelivered: u64,
    /// Frames queued and in flight, all members.
    pub frames_queued: u64,
    /// Bytes queued and in flight, all members.
    pub bytes_queued: u64,
    /// Memory that keeps reliable messages until they are confirmed, all members, in bytes.
    pub bytes_kept: u64,
    /// Why the last attempt to connect failed, or the last link or session was lost. Serialised as
    /// its name, see [`CloseReason::NAMES`].
    #[serde(serialize_with = "by_name")]
    pub last_failure: Option<CloseReason>,
}

fn by_name<S: Serializer>(reason: &Option<CloseReason>, serializer: S) -> Result<S::Ok, S::Error> {
    reason.map(CloseReason::name).serialize(serializer)
}

impl PoolStatistics {
    /// Adds those of another pool, as of the same service on another reactor.
    pub fn add(&mut self, other: &Self) {
        self.members_min += other.members_min;
        self.members_max += other.members_max;
        self.connected += other.connected;
        self.connecting += other.connecting;
        self.waiting += other.waiting;
        self.reconnecting += other.reconnecting;
        self.draining += other.draining;
        self.sends += other.sends;
        self.requests += other.requests;
        self.refused.add(&other.refused);
        self.passed_over += other.passed_over;
        self.dials += other.dials;
        self.dials_failed += other.dials_failed;
        self.grown += other.grown;
        self.reaped += other.reaped;
        self.lost += other.lost;
        self.replaced += other.replaced;
        self.messages_dropped += other.messages_dropped;
        self.messages_undelivered += other.messages_undelivered;
        self.frames_queued += other.frames_queued;
        self.bytes_queued += other.bytes_queued;
        self.bytes_kept += other.bytes_kept;
        self.last_failure = self.last_failure.or(other.last_failure);
    }
}

impl crate::reactor::core::Core {
    pub(crate) fn pool_statistics(&self, pool: PoolId) -> Option<PoolStatistics> {
        let found = self.pools.find(self.reactor, pool)?;
        let policy = found.members.policy();
        let (standing, tally, counts) =
            (found.members.standing(), found.members.tally(), &found.counts);
        let number = |count: usize| u32::try_from(count).expect("at most 64");
        let mut statistics = PoolStatistics {
            members_min: number(policy.members_min),
            members_max: number(policy.members_max),
            connected: standing.up,
            connecting: standing.dialling,
            waiting: standing.waiting,
            reconnecting: standing.away,
            draining: standing.draining,
            sends: counts.sends,
            requests: counts.requests,
            refused: counts.refused,
            passed_over: counts.passed_over,
            dials: tally.dials,
            dials_failed: tally.dials_failed,
            grown: tally.grown,
            reaped: tally.reaped,
            lost: tally.lost,
            replaced: tally.replaced,
            messages_dropped: counts.messages_dropped,
            messages_undelivered: counts.messages_undelivered,
            last_failure: found.failure,
            ..PoolStatistics::default()
        };
        let parts = found.sessions.iter().flatten().flat_map(|&id| self.parts(id));
        for session in parts.filter_map(|part| self.session(part)) {
            statistics.frames_queued += session.frames_queued();
            statistics.bytes_queued += session.bytes_queued() as u64;
            statistics.bytes_kept += session.kept_bytes() as u64;
        }
        Some(statistics)
    }
}

impl Reactor {
    /// What has happened in a pool so far, and how it stands; `None` when it is forgotten.
    /// Allocates nothing.
    #[must_use]
    pub fn pool_statistics(&self, pool: PoolId) -> Option<PoolStatistics> {
        self.core.pool_statistics(pool)
    }
}

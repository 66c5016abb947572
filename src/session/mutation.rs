//! Deliberate faults, one at a time: the simulation must notice each (`tests/sim.rs`).
//!
//! Compiled for tests and with the feature `fuzzing`; otherwise [`Mutation::is_on`] is a constant
//! `false` and nothing of it remains. Asked on paths only that are taken rarely, not per message.

/// What can be broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "fuzzing")),
    expect(unreachable_pub, reason = "named by `fuzzing::sim` where that is compiled")
)]
pub enum Mutation {
    /// What was sent and not confirmed is not sent again on a new link.
    NoResend,
    /// The block that was in flight when the link was lost is forgotten.
    NoPutBack,
    /// What the peer has received is sent again.
    NoTrim,
    /// Messages are sent although their time to live has passed.
    NoTtl,
    /// What is too old is dropped, and counted, only when something is sent.
    NoExpiry,
    /// Attempts to reconnect follow each other at once.
    NoBackoff,
    /// Best-effort messages lost with a link are not counted.
    NoLossCount,
    /// Messages dropped for room are not counted.
    NoOverflowCount,
    /// Reliable messages that are dropped one by one are not counted as lost.
    NoReliableLoss,
    /// The receiver does not count what a gap stands for.
    NoGapCount,
    /// A gap says one message less than were dropped.
    ShortGap,
    /// A confirmation of what was never sent is accepted.
    NoAcknowledgementBound,
    /// More is confirmed than was received.
    EagerAcknowledgement,
    /// No acknowledgement frames: only traffic confirms.
    NoAcknowledgements,
    /// Blocks are freed before the peer has confirmed them.
    NoKeeping,
    /// Reliable messages are admitted without bound.
    NoKeptBound,
    /// Messages that never left are missing from the list of the undelivered.
    ShortList,
    /// A newer message does not replace the older one of its key.
    NoConflation,
    /// A hello from a connection that was given up takes the session over.
    NoStaleCheck,
    /// A hello that names another end of the session takes it up all the same.
    NoClaimCheck,
    /// A gap is counted in the 32 bits of the wire.
    NarrowSequence,
    /// No heartbeats, however idle.
    NoHeartbeats,
    /// A silent peer is not given up.
    NoSilenceCheck,
    /// Memory of what was kept is not given back when the session ends.
    Leak,
    /// Urgent messages travel on the main connection.
    PairOneLink,
    /// A session with two connections stands when its main one does.
    PairHalfComplete,
    /// A session that stands is told again whenever a part comes back.
    PairCompleteAgain,
    /// Messages leave on the main connection before the session is complete.
    PairNoHold,
    /// A peer that has begun anew is not told as such.
    PairNoAnew,
    /// A part is kept although the session was never complete.
    PairSurvivesIncomplete,
    /// The two connections may lead to different peers.
    PairAnyPeer,
    /// An express connection to the peer before stays.
    PairKeepsForeign,
    /// The end of one part leaves the other alone.
    PairLeavesOther,
    /// A part says goodbye while the other one still flushes.
    PairEarlyGoodbye,
    /// What the express part leaves is not told.
    PairForgetsRemains,
    /// The end is told before it is known what the express part leaves.
    PairHalfFarewell,
    /// A request waits for its answer for ever.
    RequestNoTimeout,
    /// An answer that comes late reaches the caller all the same.
    RequestLateAnswer,
    /// Any peer may answer a request.
    RequestAnySession,
    /// A request whose link is gone is not answered.
    RequestOutlivesLink,
    /// A reliable request is given up with its link.
    RequestNotResent,
    /// A cancellation does not reach the peer.
    RequestNoCancel,
    /// A request that is said to be withdrawn is sent all the same.
    RequestNoWithdrawal,
    /// A request is withdrawn although the peer may have it.
    RequestWithdrawnLate,
    /// A request says that its sender waits half as long as it does.
    RequestShortTime,
    /// A request does not say how long its sender waits.
    RequestNoTime,
}

impl Mutation {
    /// Every one there is.
    #[cfg(any(test, feature = "fuzzing"))]
    pub const ALL: [Self; 46] = [
        Self::NoResend,
        Self::NoPutBack,
        Self::NoTrim,
        Self::NoTtl,
        Self::NoExpiry,
        Self::NoBackoff,
        Self::NoLossCount,
        Self::NoOverflowCount,
        Self::NoReliableLoss,
        Self::NoGapCount,
        Self::ShortGap,
        Self::NoAcknowledgementBound,
        Self::EagerAcknowledgement,
        Self::NoAcknowledgements,
        Self::NoKeeping,
        Self::NoKeptBound,
        Self::ShortList,
        Self::NoConflation,
        Self::NoStaleCheck,
        Self::NoClaimCheck,
        Self::NarrowSequence,
        Self::NoHeartbeats,
        Self::NoSilenceCheck,
        Self::Leak,
        Self::PairOneLink,
        Self::PairHalfComplete,
        Self::PairCompleteAgain,
        Self::PairNoHold,
        Self::PairNoAnew,
        Self::PairSurvivesIncomplete,
        Self::PairAnyPeer,
        Self::PairKeepsForeign,
        Self::PairLeavesOther,
        Self::PairEarlyGoodbye,
        Self::PairForgetsRemains,
        Self::PairHalfFarewell,
        Self::RequestNoTimeout,
        Self::RequestLateAnswer,
        Self::RequestAnySession,
        Self::RequestOutlivesLink,
        Self::RequestNotResent,
        Self::RequestNoCancel,
        Self::RequestNoWithdrawal,
        Self::RequestWithdrawnLate,
        Self::RequestShortTime,
        Self::RequestNoTime,
    ];

    /// Whether this thread runs with it.
    #[inline(always)]
    pub(crate) fn is_on(self) -> bool {
        #[cfg(any(test, feature = "fuzzing"))]
        return CURRENT.get() == Some(self);
        #[cfg(not(any(test, feature = "fuzzing")))]
        false
    }
}

#[cfg(any(test, feature = "fuzzing"))]
thread_local! {
    static CURRENT: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Breaks this thread's sessions, or none.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn mutate(mutation: Option<Mutation>) {
    CURRENT.set(mutation);
}

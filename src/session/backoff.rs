//! When to dial again: the first attempt at once, then later and later, at random.
//!
//! ```text
//!   attempt 1          at once
//!   attempt n + 2      uniform in [floor, min(cap, base * 2^n)], n = 0, 1, 2 …
//! ```
//!
//! *Full jitter*: the whole delay is random, not a part of it, because the aim is that the clients
//! of one server spread over the whole interval (M. Brooker, "Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015). What remains in step is the very first attempt: it goes to a server
//! that has just vanished, and the failover of a single link must not wait.
//!
//! The count of attempts goes back to zero when a connection *has held* for
//! [`BackoffPolicy::stable`], not when it is made: a peer that accepts and dies at once is not
//! hammered.
//!
//! Sans-IO: no clock and no randomness of its own. Costs a few instructions per attempt, nothing
//! per message. Not for retrying messages: what is resent, and when, is the lanes' matter.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::session::mutation::Mutation;
use crate::time::Nanos;

/// How a session comes back. Made from a valid `Config`; the bounds are asserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackoffPolicy {
    /// Largest delay before the second attempt; doubles with each one after it.
    ///
    /// When `c` clients lose one server at once, the busiest 10 ms after their first attempts see
    /// about `1.5 * c * 10 ms / base` attempts (300 for 1,000 clients and 50 ms, in simulation).
    pub(crate) base: Duration,
    /// No attempt is delayed longer than this. At least `base`.
    pub(crate) cap: Duration,
    /// No attempt but the first is delayed less than this, so that a refused connection can not
    /// become a spinning loop. Above zero, at most `base`.
    pub(crate) floor: Duration,
    /// A connection that held this long ends the series: after it the next attempt is the first.
    pub(crate) stable: Duration,
    /// Gives up when this many attempts of a series were made; `None` never does.
    pub(crate) attempts_max: Option<NonZeroU32>,
    /// Gives up when the next attempt would come later than this after the series began; `None`
    /// never does.
    pub(crate) give_up_after: Option<Duration>,
}

impl Default for BackoffPolicy {
    /// 50 ms doubling to 1 s, never under 2 ms, reset after 1 s, never gives up.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(1),
            floor: Duration::from_millis(2),
            stable: Duration::from_secs(1),
            attempts_max: None,
            give_up_after: None,
        }
    }
}

/// What to do about a missing connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Next {
    /// Dial.
    Attempt {
        /// When; the time of the call for the first one.
        at: Nanos,
        /// 1 for the first of this series. Saturates.
        number: u32,
    },
    /// Stop trying. Stays so until [`Backoff::reset`].
    GaveUp {
        /// How many attempts the series had.
        attempts: u32,
        /// How long it lasted, from its beginning to the call that gave up.
        elapsed: Duration,
    },
}

/// Where the connection stands, as far as dialling goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Up { since: Nanos },
    GaveUp,
}

/// The attempts of one session to reach its peer.
///
/// [`next`](Self::next) when an attempt is needed (each call counts as one);
/// [`established`](Self::established) when the handshake is complete; [`lost`](Self::lost) when an
/// established connection has ended.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    policy: BackoffPolicy,
    link: Link,
    /// Attempts since the last connection that held.
    attempts: u32,
    /// When the series began, once it has.
    began: Option<Nanos>,
}

impl Backoff {
    /// Nothing attempted yet.
    ///
    /// # Panics
    ///
    /// When the bounds of `policy` contradict each other: `Config` has checked them.
    pub(crate) fn new(policy: BackoffPolicy) -> Self {
        assert!(policy.floor > Duration::ZERO, "a floor of zero would let attempts spin");
        assert!(policy.floor <= policy.base, "the floor is a bound of the shortest delay");
        assert!(policy.base <= policy.cap, "the cap is a bound of the longest delay");
        Self { policy, link: Link::Down, attempts: 0, began: None }
    }

    /// When to dial next, or that it is no longer worth it. `random` is uniform over all of `u64`.
    ///
    /// # Panics
    ///
    /// When a connection is established: [`lost`](Self::lost) comes first.
    pub(crate) fn next(&mut self, now: Nanos, random: u64) -> Next {
        assert!(!matches!(self.link, Link::Up { .. }), "no attempt while a connection is up");
        let began = *self.began.get_or_insert(now);
        let at = now + self.delay(random);
        let out_of_attempts =
            self.policy.attempts_max.is_some_and(|max| self.attempts >= max.get());
        let out_of_time = self.policy.give_up_after.is_some_and(|limit| at > began + limit);
        if self.link == Link::GaveUp || out_of_attempts || out_of_time {
            self.link = Link::GaveUp;
            return Next::GaveUp { attempts: self.attempts, elapsed: now.since(began) };
        }
        self.attempts = self.attempts.saturating_add(1);
        assert!(at >= now, "an attempt lies ahead");
        Next::Attempt { at, number: self.attempts }
    }

    /// The handshake is complete.
    pub(crate) fn established(&mut self, now: Nanos) {
        assert_eq!(self.link, Link::Down, "a session has one connection at a time");
        self.link = Link::Up { since: now };
    }

    /// An established connection has ended. One that held starts a new series, whose first attempt
    /// is due at once; one that did not is another failure of the same series.
    ///
    /// Does nothing when no connection was up: an attempt that failed needs no report.
    pub(crate) fn lost(&mut self, now: Nanos) {
        if let Link::Up { since } = self.link {
            self.link = Link::Down;
            if now.since(since) >= self.policy.stable {
                self.reset();
            }
        }
    }

    /// Forgets all attempts: the application asks for a connection anew.
    pub(crate) fn reset(&mut self) {
        assert!(!matches!(self.link, Link::Up { .. }), "an established connection is in the way");
        self.link = Link::Down;
        self.attempts = 0;
        self.began = None;
    }

    /// Attempts of this series so far, for events.
    #[cfg(test)]
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    fn delay(&self, random: u64) -> Duration {
        let Some(doublings) = self.attempts.checked_sub(1) else { return Duration::ZERO };
        if Mutation::NoBackoff.is_on() {
            return Duration::ZERO;
        }
        let [floor, base, cap] = [self.policy.floor, self.policy.base, self.policy.cap]
            .map(|bound| u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX - 1).min(u64::MAX - 1));
        let ceiling = base.saturating_mul(1 << doublings.min(63)).min(cap);
        let delay = floor + scale(random, ceiling - floor + 1);
        assert!(delay >= floor, "never spins");
        assert!(delay <= ceiling, "bounded");
        Duration::from_nanos(delay)
    }
}

/// Maps a `random` of 64 bits onto `0..bound` (Lemire's multiplication without the rejection: the
/// bias is at most `bound / 2^64`, nothing a delay would notice).
fn scale(random: u64, bound: u64) -> u64 {
    let scaled = (u128::from(random) * u128::from(bound)) >> 64;
    u64::try_from(scaled).expect("the product of two 64-bit numbers is below 2^128")
}

#[cfg(test)]
mod tests;

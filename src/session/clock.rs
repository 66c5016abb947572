//! What the peer's monotonic clock shows while ours shows `now`, with a bound on the error.
//!
//! Time to live compares the peer's `sent_at` with our `now`, and latency is their difference; both
//! need the *offset*, the peer's clock minus ours. An [`Exchange`] of four readings, as heartbeats
//! give them, bounds it from both sides, because no message arrives before it was sent:
//!
//! ```text
//!   peer  ────────t2═════════t3────────      offset <= t2 - t1   (less what the way there took)
//!                ╱             ╲             offset >= t3 - t4   (plus what the way back took)
//!   ours  ─────t1───────────────t4─────      so the width is (t4 - t1) - (t3 - t2): the round trip
//! ```
//!
//! The estimate is the intersection of all these intervals, each of them widened by how far the
//! clocks may have drifted apart since. It needs no more memory than its two edges, because all
//! edges widen at one rate: the best one stays the best until a better one comes. So the bound is
//! never wider than that of the sample with the shortest round trip in any window (the usual
//! filter, of which this is the limit), and often narrower: a sample with a fast way there and a
//! slow way back still gives one edge. The middle says nothing about where in the interval the
//! offset is: delays need not be symmetric.
//!
//! **Invariants.** The true offset is within the bound as long as delays are not negative and the
//! clocks drift apart by no more than `drift_ppm`. Between samples the offset stands still and the
//! error only grows; a sample never makes it larger, unless it *contradicts* the estimate: then an
//! assumption failed (a machine was suspended, a clock slewed faster than the bound), everything
//! before is forgotten and [`ClockEstimate::restarts`] counts it.
//!
//! **What the caller owes.** Readings of arrivals (`t2`, `t4`) must be taken after the bytes came
//! out of the kernel: a time remembered from before would make the delay negative. Readings of
//! departures (`t1`, `t3`) may be as old as they like; that only widens the bound.
//!
//! Cost: a dozen integer operations a sample, fewer a conversion; no allocation, no floating point.
//! Not for wall clocks, which jump, and not for clocks between nodes that never exchange messages.

use crate::time::Nanos;

/// How fast two clocks may drift apart when nothing else is configured, in parts per million.
///
/// RFC 5905 (NTPv4) section 7.2 takes 15 ppm as the frequency tolerance of one disciplined clock
/// (PHI); common crystals are sold as +-20 to +-50 ppm, and two of these are 100 ppm apart at most.
///
/// `CLOCK_MONOTONIC` runs at the rate that NTP gives it (clock_gettime(2)), and while a daemon
/// *slews* a wrong clock that rate is off by up to 500 ppm (the kernel's limit, MAXFREQ in
/// include/linux/timex.h), or more where the daemon adjusts the tick, as chronyd does. On machines
/// that may slew under load set 1,000; with heartbeats every 100 ms that is 0.1 ms of error.
///
/// It is the default of the configuration's `clock_drift_ppm`.
#[cfg(test)]
pub(crate) const DRIFT_PPM: u32 = 100;

/// Later readings are refused, 146 years of uptime: with them sums could overflow.
const READING_MAX: u64 = 1 << 62;

/// A reading of the peer's monotonic clock. Only [`ClockEstimate`] can compare it with ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerNanos(pub(crate) u64);

/// Four readings of a question and its answer.
///
/// The dialer's handshake is one as well: the hello's departure, the welcome's `monotonic_ns` for
/// both readings of the peer, the welcome's arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// t1: the question left, our clock.
    pub(crate) asked: Nanos,
    /// t2: the question arrived, the peer's clock.
    pub(crate) peer_received: PeerNanos,
    /// t3: the answer left, the peer's clock.
    pub(crate) peer_sent: PeerNanos,
    /// t4: the answer arrived, our clock.
    pub(crate) returned: Nanos,
}

impl Exchange {
    /// Time on the way, there and back, without what the peer took to answer. 0 when the readings
    /// contradict each other.
    pub(crate) fn round_trip_ns(&self) -> u64 {
        let away = self.returned.0.saturating_sub(self.asked.0);
        away.saturating_sub(self.peer_sent.0.saturating_sub(self.peer_received.0))
    }
}

/// The peer's clock minus ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset {
    /// The middle of what is possible.
    pub(crate) ns: i64,
    /// The truth is at most this far from it.
    pub(crate) error_ns: u64,
}

/// A moment of the peer's, on our clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalTime {
    /// The middle of what is possible, 0 when that would be before our clock began.
    pub(crate) at: Nanos,
    /// The truth is at most this far from it.
    pub(crate) error_ns: u64,
}

impl LocalTime {
    /// It was not before this. From here a time to live counts that must never be overrun.
    pub(crate) fn earliest(self) -> Nanos {
        Nanos(self.at.0.saturating_sub(self.error_ns))
    }

    /// It was not after this.
    pub(crate) fn latest(self) -> Nanos {
        Nanos(self.at.0.saturating_add(self.error_ns))
    }
}

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Sampled {
    /// It agrees with what is known, and narrowed it if it could.
    Agrees,
    /// It contradicts what was known, which is forgotten.
    Restarted,
    /// It contradicts itself: readings out of order, or beyond 2^62. Nothing changed.
    Refused,
}

/// One bound of the offset and when it was true.
#[derive(Debug, Clone, Copy)]
struct Edge {
    ns: i64,
    at: Nanos,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct ClockEstimate {
    drift_ppm: u32,
    /// The offset was no less than this.
    lower: Option<Edge>,
    /// The offset was no more than this.
    upper: Option<Edge>,
    /// The time of the last sample. Before it the edges may contradict each other.
    sampled_at: Nanos,
    restarts: u32,
}

impl ClockEstimate {
    /// Nothing known yet. `drift_ppm` bounds how fast the two clocks drift apart: the
    /// default of `Config` is 100, for the reasons above.
    pub(crate) fn new(drift_ppm: u32) -> Self {
        assert!(drift_ppm < 1_000_000, "a clock that may stand still measures nothing");
        Self { drift_ppm, lower: None, upper: None, sampled_at: Nanos(0), restarts: 0 }
    }

    /// Takes four readings in, at the time of the last of them.
    pub(crate) fn sample(&mut self, exchange: &Exchange) -> Sampled {
        let Exchange { asked, peer_received, peer_sent, returned } = *exchange;
        let (Some(lower), Some(upper)) =
            (difference(peer_sent, returned), difference(peer_received, asked))
        else {
            return Sampled::Refused;
        };
        // A reading is rounded down to the nanosecond, so an arrival was up to one later.
        let lower = Edge { ns: lower - 1, at: returned };
        let upper = Edge { ns: upper + 1, at: asked };
        let in_order = asked <= returned && peer_received <= peer_sent;
        if !in_order || self.least(lower, returned) > self.greatest(upper, returned) {
            return Sampled::Refused;
        }
        self.intersect(Some(lower), Some(upper), returned)
    }

    /// Takes in one message of the peer's: it left at `peer_sent`, or later, and is here at `now`.
    ///
    /// All that the listening side knows of a hello. It bounds the offset from below only; there
    /// is no [`offset`](Self::offset) before an exchange has bounded it from above.
    pub(crate) fn sample_one_way(&mut self, peer_sent: PeerNanos, now: Nanos) -> Sampled {
        match difference(peer_sent, now) {
            Some(ns) => self.intersect(Some(Edge { ns: ns - 1, at: now }), None, now),
            None => Sampled::Refused,
        }
    }

    /// Forgets everything: the peer is another one now. Not needed after a mere reconnect, as long
    /// as the peer's session id is the same: so is its clock.
    pub(crate) fn reset(&mut self) {
        (self.lower, self.upper) = (None, None);
    }

    /// The peer's clock minus ours, `None` while it is not bounded from both sides. A `now` before
    /// the last sample is taken as the time of that.
    pub(crate) fn offset(&self, now: Nanos) -> Option<Offset> {
        let now = now.max(self.sampled_at);
        let (lower, upper) = (self.least(self.lower?, now), self.greatest(self.upper?, now));
        assert!(lower <= upper, "a sample that contradicts the estimate restarts it");
        let middle = lower + (upper - lower) / 2;
        Some(Offset {
            ns: i64::try_from(middle).expect("readings are below 2^62"),
            error_ns: u64::try_from(upper - middle).unwrap_or(u64::MAX),
        })
    }

    /// When, on our clock, the peer's showed `peer_time`; `None` while the offset is unknown.
    ///
    /// Hot path: once per message with a time to live. Integers only. No allocation.
    pub(crate) fn to_local(&self, peer_time: PeerNanos, now: Nanos) -> Option<LocalTime> {
        let offset = self.offset(now)?;
        let at = i128::from(peer_time.0) - i128::from(offset.ns);
        let at = u64::try_from(at.max(0)).unwrap_or(u64::MAX);
        // The offset was another one then: by the drift over the time between, of which the error
        // itself is a part.
        let drift = self.drift(now.0.abs_diff(at));
        let error_ns = u128::from(offset.error_ns) + drift;
        let error_ns = error_ns + self.drift(u64::try_from(error_ns).unwrap_or(u64::MAX)) + 1;
        Some(LocalTime { at: Nanos(at), error_ns: u64::try_from(error_ns).unwrap_or(u64::MAX) })
    }

    /// Whether the [latest](LocalTime::latest) that `peer_time` may have been is at `at` or after,
    /// seen from the lower edge alone, without what that has widened by since. `false` also when
    /// only [`to_local`](Self::to_local) can tell, at ten times the cost.
    ///
    /// Hot path: once per request.
    #[inline]
    pub(crate) fn may_be_from(&self, peer_time: PeerNanos, at: Nanos) -> bool {
        let difference = difference(peer_time, at);
        self.lower.zip(difference).is_some_and(|(lower, difference)| lower.ns <= difference)
    }

    /// How often a sample contradicted the estimate. Saturates.
    #[cfg(test)]
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts
    }

    fn intersect(&mut self, lower: Option<Edge>, upper: Option<Edge>, now: Nanos) -> Sampled {
        let now = now.max(self.sampled_at);
        self.sampled_at = now;
        let best_lower = pick(self.lower, lower, |edge| self.least(edge, now));
        let best_upper = pick(self.upper, upper, |edge| -self.greatest(edge, now));
        let contradicts = best_lower
            .zip(best_upper)
            .is_some_and(|(lower, upper)| self.least(lower, now) > self.greatest(upper, now));
        if contradicts {
            (self.lower, self.upper) = (lower, upper);
            self.restarts = self.restarts.saturating_add(1);
            return Sampled::Restarted;
        }
        (self.lower, self.upper) = (best_lower, best_upper);
        Sampled::Agrees
    }

    /// The least offset possible at `now` by a lower edge.
    fn least(&self, edge: Edge, now: Nanos) -> i128 {
        i128::from(edge.ns) - self.drift(now.0.abs_diff(edge.at.0)).cast_signed()
    }

    /// The greatest offset possible at `now` by an upper edge.
    fn greatest(&self, edge: Edge, now: Nanos) -> i128 {
        i128::from(edge.ns) + self.drift(now.0.abs_diff(edge.at.0)).cast_signed()
    }

    /// How far the clocks may drift apart in `ns`, rounded up. Below 2^64.
    #[inline]
    fn drift(&self, ns: u64) -> u128 {
        // 128 bits are divided by a call, 64 by a multiplication.
        match ns.checked_mul(self.drift_ppm.into()) {
            Some(product) => product.div_ceil(1_000_000).into(),
            None => (u128::from(ns) * u128::from(self.drift_ppm)).div_ceil(1_000_000),
        }
    }
}

/// The edge of which `tightness` is the greater.
fn pick(old: Option<Edge>, new: Option<Edge>, tightness: impl Fn(Edge) -> i128) -> Option<Edge> {
    match (old, new) {
        (Some(old), Some(new)) if tightness(old) > tightness(new) => Some(old),
        (old, new) => new.or(old),
    }
}

/// The peer's reading minus ours, `None` when either is beyond [`READING_MAX`].
fn difference(theirs: PeerNanos, ours: Nanos) -> Option<i64> {
    let plausible = theirs.0 < READING_MAX && ours.0 < READING_MAX;
    plausible.then(|| theirs.0.cast_signed() - ours.0.cast_signed())
}

#[cfg(test)]
mod tests;

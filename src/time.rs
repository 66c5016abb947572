//! The only file that reads a clock.
//!
//! Everything else is given `now: Nanos`. The clock is `CLOCK_MONOTONIC` through the vDSO:
//! 23 ns a reading on the development machine, once per turn. A TSC clock (the `quanta` crate)
//! reads in half of that but takes up to 200 ms to calibrate and is not comparable between
//! processes; see ARCHITECTURE.md.

use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// A point in time: nanoseconds of this machine's monotonic clock.
///
/// Comparable between the processes of one machine, not between machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Later than every reading.
    pub const NEVER: Self = Self(u64::MAX);

    /// Reads the monotonic clock. About 25 ns, no system call.
    #[inline]
    #[must_use]
    pub fn now() -> Self {
        Self(reading(ClockId::Monotonic))
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Nanos {
    type Output = Self;

    #[inline]
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Nanos {
    type Output = Self;

    #[inline]
    fn sub(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

/// Nanoseconds since 1970 UTC, for people and for the handshake; it may jump.
#[must_use]
pub fn wall_ns() -> u64 {
    reading(ClockId::Realtime)
}

/// CPU time this thread has used, for the bench's honesty about what latency costs.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    reading(ClockId::ThreadCPUTime)
}

/// CPU time this process has used, all threads together: what both ends of a bench cost.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    reading(ClockId::ProcessCPUTime)
}

/// How long the kernel's tick is: that of CLOCK_MONOTONIC_COARSE (clock_getres(2)), 1 to 10 ms by
/// CONFIG_HZ.
pub(crate) fn tick() -> Duration {
    let resolution = clock_getres(ClockId::MonotonicCoarse);
    Duration::from_nanos(nanos(resolution))
}

#[inline]
fn reading(clock: ClockId) -> u64 {
    nanos(clock_gettime(clock))
}

#[inline]
fn nanos(time: Timespec) -> u64 {
    // Both are non-negative for these clocks: clock_gettime(2).
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

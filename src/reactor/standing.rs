//! The timer that stands while a reactor sleeps often, so that sleeping is cheap.
//!
//! When a core goes idle, Linux stops its periodic tick and sets the timer hardware to the next
//! event there is; when the core wakes, it starts the tick and sets the hardware again (kernel
//! documentation, timers/no_hz: "dyntick-idle"). In a guest each setting may leave it for the host.
//! While another timer is due before the next tick, the hardware can stay set to that one. That a
//! standing timer makes sleeping cheaper is measured (ARCHITECTURE.md), that this is why is not.
//!
//! So a reactor that sleeps often keeps one timer standing. It is set once in a period, not once
//! a sleep; nobody waits for it, and when it is due, one interrupt is all that happens. A reactor
//! that sleeps rarely sets none: it would not get its price back.

use std::time::Duration;

use crate::config::{Config, Idle};
use crate::error::SetupError;
use crate::sys::timer::Timer;
use crate::time::Nanos;

/// Sleeps in a period from which on the timer pays.
const SLEEPS_MIN: u32 = 4;

/// The timer is due so many times between two ticks: it is of no use from the moment it is set to
/// the tick, if that comes first.
const TICK_PARTS: u32 = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct StandingTimer {
    /// `None` where the reactor does not sleep, or the timer is turned off.
    timer: Option<Timer>,
    period: Duration,
    /// When the timer was last set, or thought of.
    begins: Nanos,
    /// Sleeps since.
    sleeps: u32,
}

impl StandingTimer {
    pub(crate) fn new(config: &Config) -> Result<Self, SetupError> {
        let wanted = Duration::from_micros(config.standing_timer_us().into());
        let period = wanted.min(crate::time::tick() / TICK_PARTS);
        let is_wanted = config.idle() != Idle::Spin && !period.is_zero();
        let timer = is_wanted.then(Timer::new).transpose();
        let timer =
            timer.map_err(|source| SetupError::System { operation: "making a timer", source })?;
        Ok(Self { timer, period, begins: Nanos(0), sleeps: 0 })
    }

    /// A sleep begins. Sets the timer if that pays: one system call in a period.
    #[inline]
    pub(crate) fn sleeps(&mut self, now: Nanos) {
        if self.timer.is_some() && self.is_time(now) {
            self.set();
        }
    }

    #[inline]
    fn is_time(&mut self, now: Nanos) -> bool {
        self.sleeps += 1;
        let since = now.since(self.begins);
        if since < self.period {
            return false;
        }
        let is_often = self.sleeps >= SLEEPS_MIN && since < 2 * self.period;
        self.begins = now;
        self.sleeps = 0;
        is_often
    }

    #[cold]
    fn set(&self) {
        if let Some(timer) = &self.timer {
            // The time is valid (timerfd_settime(2)); without the timer sleeping only costs more.
            let _ = timer.set(self.period);
        }
    }

    /// Another period than the kernel's tick allows: for tests that are slower.
    #[cfg(test)]
    pub(crate) fn set_period(&mut self, period: Duration) {
        self.period = period;
    }

    /// Whether the timer has been set and is not due yet.
    #[cfg(test)]
    pub(crate) fn is_standing(&self) -> bool {
        self.timer.as_ref().is_some_and(Timer::is_standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_micros(500);

    /// Says for each sleep whether the timer is to be set.
    fn sleep_every(interval: Duration, timer: &mut StandingTimer, now: &mut Nanos) -> Vec<bool> {
        let mut told = Vec::new();
        for _ in 0..40 {
            *now = *now + interval;
            told.push(timer.is_time(*now));
        }
        told
    }

    fn timer() -> StandingTimer {
        StandingTimer { timer: None, period: PERIOD, begins: Nanos(0), sleeps: 0 }
    }

    #[test]
    fn stands_once_a_period_while_sleeps_are_frequent() {
        let (mut timer, mut now) = (timer(), Nanos(1_000_000_000));
        let told = sleep_every(Duration::from_micros(50), &mut timer, &mut now);
        let at: Vec<_> = (0..40).filter(|&index| told[index]).collect();
        assert_eq!(at, [10, 20, 30]);
    }

    #[test]
    fn rare_sleeps_have_no_timer() {
        let (mut timer, mut now) = (timer(), Nanos(1_000_000_000));
        for interval in [Duration::from_micros(200), Duration::from_millis(1)] {
            let told = sleep_every(interval, &mut timer, &mut now);
            assert!(!told.contains(&true), "{interval:?}");
        }
    }

    #[test]
    fn burst_before_a_pause_is_over() {
        let (mut timer, mut now) = (timer(), Nanos(1_000_000_000));
        let told = sleep_every(Duration::from_micros(1), &mut timer, &mut now);
        assert!(!told.contains(&true));
        now = now + Duration::from_secs(1);
        assert!(!timer.is_time(now));
    }

    #[test]
    fn only_reactors_that_sleep_have_a_timer() {
        let with = |idle, period_us| {
            let config = Config::builder()
                .idle(idle)
                .standing_timer_us(period_us)
                .registry(false)
                .build()
                .expect("valid");
            StandingTimer::new(&config).expect("descriptors").timer.is_some()
        };
        assert!(with(Idle::Park, 500) && with(Idle::Adaptive, 500));
        assert!(!with(Idle::Spin, 500) && !with(Idle::Park, 0));
    }
}

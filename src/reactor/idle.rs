//! How a reactor waits when it has nothing to do: it watches memory, sleeps in the kernel, or first
//! the one and then the other. See [`Idle`].
//!
//! Nobody sleeps whom others could not wake: the ring polls the mailbox's eventfd, and a reactor
//! announces its sleep before it looks for commands a last time.

use std::io;
use std::time::Duration;

use crate::config::Idle;
use crate::reactor::core::Core;
use crate::time::Nanos;

/// Pauses (PAUSE, YIELD) between two looks at memory, for the sake of the core's other thread.
/// Between looks into sockets there are none: the system call is pause enough.
const PAUSES_PER_SPIN: usize = 3;

/// Iterations of a spinning reactor between two readings of the clock: of 60 ns where it watches
/// memory, of 200 ns where it looks into sockets. What has come is seen later for each reading.
const SPINS_PER_READING: u32 = 16;
const LOOKS_PER_READING: u32 = 8;
/// With less time than this until it has to do something it reads the clock at every look, so that
/// it is not late by more than one, unless looks take longer than [`LOOK_MAX`].
const LOOKS_ARE_FEW: Duration = Duration::from_micros(20);
/// What a look takes at most, into two sockets on a slow guest.
const LOOK_MAX: Duration = Duration::from_micros(2);
const _: () = {
    let before_reading = LOOK_MAX.as_nanos() * LOOKS_PER_READING as u128;
    assert!(before_reading < LOOKS_ARE_FEW.as_nanos(), "a deadline is seen to come");
};

/// How many iterations a spinning reactor makes until it reads the clock again.
#[inline]
fn iterations_to_reading(makes_calls: bool, remaining: Duration) -> u32 {
    match makes_calls {
        false => SPINS_PER_READING,
        true if remaining < LOOKS_ARE_FEW => 1,
        true => LOOKS_PER_READING,
    }
}

/// How long a turn may wait for something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: one bounded pass. What handlers queued is submitted before it returns.
    Poll,
    /// Until this point in time, in the way the configured [`Idle`] says, unless something happens:
    /// something arrives, or there is room where a message has been refused. What handlers queued
    /// is submitted by the next turn, so keep turning.
    Until(Nanos),
}

impl Core {
    /// Waits for a completion, a command or `limit`, in the configured way.
    pub(super) fn wait(&mut self, limit: Nanos) -> io::Result<()> {
        self.settle_meter();
        self.meter.rests();
        let limit = limit
            .min(self.deadlines.earliest())
            .min(self.session_deadlines.earliest())
            .min(self.requests.earliest())
            .min(self.drop_news.due_at())
            .min(self.pools.due())
            .min(self.memory_patience_ends())
            .min(self.meter.rows_due());
        // A prompt send tells that it is done only after the next enter, and somebody waits for
        // that: more to send, or a connection to end.
        if self.awaits_completion {
            self.arm();
            return self.enter(0, None);
        }
        let spin_until = match self.idle {
            Idle::Spin => Nanos::NEVER,
            Idle::Park => Nanos(0),
            Idle::Adaptive => {
                self.last_activity + Duration::from_micros(self.config.idle_spin_us().into())
            }
        };
        let mut read_at = self.meter.read_at();
        if spin_until > self.now {
            self.counters.spins.add(1);
            if self.spin(limit, spin_until)? {
                return Ok(());
            }
            read_at = None;
        }
        self.leave_stalled_to_ring();
        self.arm();
        // Some may not have been armed: for want of room in the submission queue. Nor may the poll
        // of the eventfd, and then nobody could wake a reactor that sleeps.
        if !self.dirty.is_empty() || !self.unarmed.is_empty() || !self.mailbox_polled {
            return self.enter_if_needed();
        }
        // Some may wait for memory only since they were to be armed.
        self.park(limit.min(self.memory_patience_ends()), read_at)
    }

    /// Watches memory, or sockets. Returns whether there is something to do, or `limit` has come.
    fn spin(&mut self, limit: Nanos, spin_until: Nanos) -> io::Result<bool> {
        let directly = self.receives_directly();
        if !directly {
            self.arm();
        }
        self.enter_if_needed()?;
        let makes_calls = directly || !self.stalled.is_empty();
        let until = limit.min(spin_until);
        // Who knows how old the last reading is: as if something were due.
        let mut to_reading = iterations_to_reading(makes_calls, Duration::ZERO);
        loop {
            if (directly && self.receive_directly()) || self.ring.has_completion() {
                self.counters.spin_hits.add(1);
                return Ok(true);
            }
            if !self.stalled.is_empty() && self.send_stalled() {
                self.counters.spin_hits.add(1);
                return Ok(true);
            }
            if !makes_calls {
                for _ in 0..PAUSES_PER_SPIN {
                    std::hint::spin_loop();
                }
            }
            if self.ring.needs_enter() {
                self.enter(0, None)?;
                if self.ring.has_completion() {
                    self.counters.spin_hits.add(1);
                    return Ok(true);
                }
                // No completion, and the flag may stay up: the kernel raises it *after* it has
                // queued the deferred work (io_req_local_work_add), which an `enter` in between
                // has run already. So commands and the clock are looked at in any case.
            }
            if self.mailbox.as_ref().is_some_and(|mailbox| !mailbox.is_empty()) {
                self.counters.spin_hits.add(1);
                return Ok(true);
            }
            to_reading -= 1;
            if to_reading == 0 {
                let now = Nanos::now();
                if now >= limit || (self.is_held_back() && self.can_resume()) {
                    return Ok(true);
                }
                if now >= spin_until {
                    return Ok(false);
                }
                to_reading = iterations_to_reading(makes_calls, until.since(now));
            }
        }
    }

    /// Sleeps in the kernel. `read_at` is a reading of the clock just before. Out of line, so that
    /// the turn of a reactor that spins stays short.
    #[inline(never)]
    fn park(&mut self, limit: Nanos, read_at: Option<Nanos>) -> io::Result<()> {
        if let Some(mailbox) = &self.mailbox {
            if !mailbox.prepare_to_sleep() {
                return self.enter_if_needed();
            }
            if self.is_held_back() {
                // Only now: a wish that is granted before this reactor is known to sleep would
                // wake nobody, and another reactor may take the room.
                mailbox.want_inbox();
                if self.can_resume() {
                    if let Some(mailbox) = &self.mailbox {
                        mailbox.awake();
                    }
                    return self.enter_if_needed();
                }
            }
        } else if self.is_held_back() && self.can_resume() {
            // The receives just armed have given memory back.
            return self.enter_if_needed();
        }
        let now = read_at.unwrap_or_else(Nanos::now);
        let timeout = (limit != Nanos::NEVER).then(|| limit.since(now));
        self.counters.parks.add(1);
        let want = u32::from(timeout != Some(Duration::ZERO));
        if want > 0 {
            self.standing.sleeps(now);
        }
        let outcome = self.enter(want, timeout);
        if let Some(mailbox) = &self.mailbox {
            mailbox.awake();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_read_at_every_look_when_something_is_due_soon() {
        let micros = Duration::from_micros;
        assert_eq!(iterations_to_reading(true, Duration::ZERO), 1);
        assert_eq!(iterations_to_reading(true, micros(19)), 1);
        // Whoever looks so often without a reading still sees the deadline come.
        let looks = iterations_to_reading(true, micros(20));
        assert!(looks > 1 && LOOK_MAX * looks < micros(20), "{looks}");
        assert_eq!(iterations_to_reading(true, Duration::MAX), looks);
        assert_eq!(iterations_to_reading(false, Duration::ZERO), SPINS_PER_READING);
    }
}

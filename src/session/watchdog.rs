//! Who has been silent for too long: "no setpoint for 20 ms: go safe".
//!
//! A *watch* is a kind or type of message and the period in which one must come:
//!
//! ```text
//!              start            period without one               fed
//!   Dormant ───────────▶ Waiting ─────────────────▶ Missed ───────────────▶ Waiting
//!                          ▲ │ fed                  Miss, once              Recovered, once
//!                          └─┘
//! ```
//!
//! - It starts when it is set up, or with [`Watchdog::start`], when the session is first
//!   established, if that comes later: a session that has never been is not silent.
//! - A disconnect changes nothing: silence is silence, whoever is to blame for it. So a link that
//!   comes back within the period is no miss, and one that does not is.
//! - After a miss there is no other before the watch has been fed.
//! - When the session ends, what is waited for can not come any more: whatever has not been missed
//!   is missed then, see [`Watchdog::poll_end`]. No watch ends in silence. What is read after that
//!   came before it, and feeds nothing.
//! - Misses and recoveries alternate, and no silence of a period or more goes by without a miss,
//!   not even one that ended before anybody polled: see [`Fed::Late`].
//!
//! **Cost.** [`Watchdog::fed`] is one comparison when nothing is watched and a search of the few
//! keys otherwise; it moves no timer. The deadline is kept as a lower bound instead: it is looked
//! at when due, once per period, and then moves to where the watches have got to. All memory is
//! taken by [`Watchdog::with_capacity`]. Not for many watches: with hundreds the search shows.

use std::time::Duration;

use crate::error::WatchError;
use crate::time::Nanos;
use crate::wire::Kind;

/// Which messages feed a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKey {
    /// Those of one payload type, by its number.
    Type(u32),
    /// Those of one kind, of whatever type.
    Kind(Kind),
}

/// Nothing came for a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Miss {
    /// What was waited for.
    pub(crate) key: WatchKey,
    /// How long it may be silent.
    pub(crate) period: Duration,
    /// How long it has been: the period, and what the poll came late. Less when the session ended.
    pub(crate) silent_for: Duration,
}

/// What was missed is there again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// What came.
    pub(crate) key: WatchKey,
    /// How long it was not there, from the last message before the miss to this one.
    pub(crate) silent_for: Duration,
}

/// What a message meant to its watch, beyond being in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Fed {
    /// The miss has been reported before; it is over.
    Recovered(Recovered),
    /// It came after its deadline and before [`Watchdog::poll_miss`] did: a miss *and* its
    /// recovery, both to be reported now, in this order.
    Late(Miss, Recovered),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Dormant,
    Waiting { since: Nanos },
    Missed { since: Nanos },
}

#[derive(Debug)]
struct Watch {
    key: WatchKey,
    period: Duration,
    status: Status,
}

impl Watch {
    fn deadline(&self) -> Nanos {
        match self.status {
            Status::Waiting { since } => since + self.period,
            Status::Dormant | Status::Missed { .. } => Nanos::NEVER,
        }
    }

    fn miss(&self, since: Nanos, now: Nanos) -> Miss {
        let silent_for = now.since(since);
        assert!(silent_for >= self.period, "a miss is a silence of a period or more");
        Miss { key: self.key, period: self.period, silent_for }
    }

    fn recovered(&self, since: Nanos, now: Nanos) -> Recovered {
        Recovered { key: self.key, silent_for: now.since(since) }
    }
}

/// Whether the session has ever been established, and is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    NotYet,
    Started,
    Ended,
}

/// The watches of one session. They outlive its connections.
#[derive(Debug)]
pub(crate) struct Watchdog {
    watches: Vec<Watch>,
    watches_max: usize,
    /// No watch is due before this.
    due: Nanos,
    running: Running,
}

impl Watchdog {
    /// Room for `watches_max`; with 0 it takes no memory.
    pub(crate) fn with_capacity(watches_max: usize) -> Self {
        let watches = Vec::with_capacity(watches_max);
        Self { watches, watches_max, due: Nanos::NEVER, running: Running::NotYet }
    }

    /// The session is established. Dormant watches start; after a reconnect there are none.
    pub(crate) fn start(&mut self, now: Nanos) {
        self.running = Running::Started;
        for watch in &mut self.watches {
            if watch.status == Status::Dormant {
                watch.status = Status::Waiting { since: now };
                self.due = self.due.min(watch.deadline());
            }
        }
    }

    /// Whether nothing is watched.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.watches.is_empty()
    }

    /// Sets a watch up. An existing one with the same key is replaced and begins anew; if it had
    /// missed, its recovery is not reported.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: no room, a period of zero, or the session is over.
    pub(crate) fn watch(
        &mut self,
        key: WatchKey,
        period: Duration,
        now: Nanos,
    ) -> Result<(), WatchError> {
        if period.is_zero() {
            return Err(WatchError::PeriodZero);
        }
        let status = match self.running {
            Running::NotYet => Status::Dormant,
            Running::Started => Status::Waiting { since: now },
            Running::Ended => return Err(WatchError::NoSession),
        };
        let watch = Watch { key, period, status };
        let due = self.due.min(watch.deadline());
        if let Some(existing) = self.watches.iter_mut().find(|watch| watch.key == key) {
            *existing = watch;
        } else if self.watches.len() < self.watches_max {
            self.watches.push(watch);
        } else {
            return Err(WatchError::Full { watches_max: self.watches_max });
        }
        self.due = due;
        Ok(())
    }

    /// Whether there is a watch of this key.
    pub(crate) fn has(&self, key: WatchKey) -> bool {
        self.watches.iter().any(|watch| watch.key == key)
    }

    /// Ends a watch. Does nothing when there is none.
    pub(crate) fn unwatch(&mut self, key: WatchKey) {
        // The deadline stays, as the lower bound that it is.
        self.watches.retain(|watch| watch.key != key);
    }

    /// A message came. Feeds the watch of `key`, if there is one; who watches kinds and types feeds
    /// both.
    ///
    /// Hot path: once per message. One comparison when nothing is watched. No allocation.
    #[inline]
    pub(crate) fn fed(&mut self, key: WatchKey, now: Nanos) -> Option<Fed> {
        if self.watches.is_empty() { None } else { self.feed(key, now) }
    }

    /// The next miss, each once. To be called until it returns `None`, from [`deadline`] on or
    /// whenever convenient, and in any case after the messages at hand have been [`fed`].
    ///
    /// [`deadline`]: Self::deadline
    /// [`fed`]: Self::fed
    #[inline]
    pub(crate) fn poll_miss(&mut self, now: Nanos) -> Option<Miss> {
        if now < self.due { None } else { self.find_miss(now) }
    }

    /// The session is over, for good: the next watch that has not been missed yet, each once. Its
    /// silence is as long as it was, often less than a period. To be called until it returns
    /// `None`.
    #[cold]
    pub(crate) fn poll_end(&mut self, now: Nanos) -> Option<Miss> {
        self.running = Running::Ended;
        for watch in &mut self.watches {
            if let Status::Waiting { since } = watch.status {
                watch.status = Status::Missed { since };
                let silent_for = now.since(since);
                return Some(Miss { key: watch.key, period: watch.period, silent_for });
            }
        }
        self.due = Nanos::NEVER;
        None
    }

    /// When to look: no miss happens before it. [`Nanos::NEVER`] when nothing is waited for.
    ///
    /// Setting up, starting and recovering watches move it earlier, polling later, feeding a
    /// watch that waits not at all.
    #[inline]
    pub(crate) fn deadline(&self) -> Nanos {
        self.due
    }

    fn feed(&mut self, key: WatchKey, now: Nanos) -> Option<Fed> {
        if self.running == Running::Ended {
            return None;
        }
        let watch = self.watches.iter_mut().find(|watch| watch.key == key)?;
        let before = watch.status;
        let deadline = watch.deadline();
        watch.status = Status::Waiting { since: now };
        match before {
            Status::Waiting { since } if now >= deadline => {
                Some(Fed::Late(watch.miss(since, now), watch.recovered(since, now)))
            }
            Status::Waiting { .. } => None,
            Status::Missed { since } => {
                self.due = self.due.min(watch.deadline());
                Some(Fed::Recovered(watch.recovered(since, now)))
            }
            // The very first message, before the start was told: as good as a start.
            Status::Dormant => {
                self.due = self.due.min(watch.deadline());
                None
            }
        }
    }

    #[cold]
    fn find_miss(&mut self, now: Nanos) -> Option<Miss> {
        let first = self.watches.iter_mut().min_by_key(|watch| watch.deadline());
        self.due = first.as_ref().map_or(Nanos::NEVER, |watch| watch.deadline());
        let watch = first.filter(|watch| watch.deadline() <= now)?;
        let Status::Waiting { since } = watch.status else { return None };
        watch.status = Status::Missed { since };
        Some(watch.miss(since, now))
    }
}

#[cfg(test)]
mod tests;

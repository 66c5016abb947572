//! How a reactor's life ends: in order, or all at once.
//!
//! ```text
//!   Running ──begin_shutdown──▶ Closing ──┐
//!      └───────────────────────────────── end_all ──▶ Over
//! ```
//!
//! *Closing* admits nobody: what is queued leaves until the deadline, and each session ends with a
//! goodbye. *Over* is a reactor whose ring has failed, or that is being dropped: every session has
//! been ended without one. Neither has a way back.

use std::time::Duration;

use crate::error::CloseReason;
use crate::reactor::connection::{After, Connection, ConnectionId, Phase};
use crate::reactor::core::Core;
use crate::reactor::{ShutdownReport, sessions};
use crate::time::Nanos;

/// How long a turn during a shutdown waits at most: the deadlines of the connections do the rest.
const TURN_AT_MOST: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Life {
    Running,
    Closing { deadline: Nanos, tally: Tally },
    Over { tally: Tally },
}

/// What is reckoned from the moment a reactor stops running.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tally {
    /// Sessions that had their link then.
    connections: u64,
    /// Of those, how many have been flushed and ended in order.
    flushed: u64,
    /// Messages that had been dropped by then.
    dropped_before: u64,
}

impl Life {
    /// Whether nobody is admitted any more.
    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        !matches!(self, Self::Running)
    }

    fn tally(&self) -> Option<Tally> {
        match *self {
            Self::Running => None,
            Self::Closing { tally, .. } | Self::Over { tally } => Some(tally),
        }
    }

    /// A session has ended with everything delivered.
    pub(crate) fn count_flushed(&mut self) {
        match self {
            Self::Running => {}
            Self::Closing { tally, .. } | Self::Over { tally } => tally.flushed += 1,
        }
    }
}

impl Core {
    /// Stops listening and begins to end every connection.
    pub(crate) fn begin_shutdown(&mut self, deadline: Nanos) {
        if self.life.is_closing() {
            return;
        }
        self.now = Nanos::now();
        self.life = Life::Closing { deadline, tally: self.begin_tally() };
        self.stop_listening();
        self.end_all_away(CloseReason::Local);
        let keys: Vec<_> = self.connections.keys().collect();
        for key in keys {
            self.drain(key, deadline);
        }
    }

    /// When a turn must end at the latest.
    pub(crate) fn turn_limit(&self) -> Nanos {
        match self.life {
            Life::Running => Nanos::NEVER,
            Life::Closing { deadline, .. } => deadline.min(self.now + TURN_AT_MOST),
            Life::Over { .. } => self.now + TURN_AT_MOST,
        }
    }

    pub(crate) fn shutdown_report(&self) -> ShutdownReport {
        let Some(tally) = self.life.tally() else { return ShutdownReport::default() };
        ShutdownReport {
            connections: tally.connections,
            flushed: tally.flushed,
            messages_dropped: self.counters.messages_dropped.get() - tally.dropped_before,
        }
    }

    /// Why a connection that is gone, or going, ended; `None` while it lives, and when another one
    /// has ended in its slot since.
    pub(crate) fn closed_reason(&self, id: ConnectionId) -> Option<CloseReason> {
        if let Ok(key) = self.key(id) {
            let connection = &self.connections[key];
            return match connection.phase {
                Phase::Closing { reason, session: After::Over } => Some(reason),
                _ => None,
            };
        }
        match self.closed.get(sessions::slot(id.key) as usize) {
            Some(&Some((last, reason))) if last == id.key => Some(reason),
            _ => None,
        }
    }

    /// Ends everything at once, without waiting for the kernel: the reactor is being dropped.
    pub(crate) fn abandon(&mut self) {
        self.end_all(CloseReason::Local);
    }

    /// The ring has failed: no operation will end any more, and no session will go on.
    #[cold]
    pub(crate) fn ring_failed(&mut self, error: &std::io::Error) {
        tracing::error!(%error, "the ring has failed: every session is over");
        self.end_all(CloseReason::Socket { errno: error.raw_os_error().unwrap_or(libc::EIO) });
    }

    /// Ends everything at once. Again, when the reactor is dropped after its ring has failed: what
    /// has begun in between, and what has ended is not counted twice.
    fn end_all(&mut self, reason: CloseReason) {
        let was_over = matches!(self.life, Life::Over { .. });
        let tally = self.life.tally().unwrap_or_else(|| self.begin_tally());
        self.life = Life::Over { tally };
        self.stop_listening();
        self.end_all_away(reason);
        let is_counted =
            |connection: &Connection| was_over && matches!(connection.phase, Phase::Closing { .. });
        let connections = self.connections.iter().filter(|(_, it)| !is_counted(it));
        let keys: Vec<_> = connections.map(|(key, _)| key).collect();
        for key in keys {
            self.close(key, reason);
            let connection = &self.connections[key];
            if connection.survives() && !connection.is_sending() {
                self.detach(key);
            }
            // Nobody waits for the sends in flight: what they hold counts as dropped. A stand-in's
            // hello is nobody's message.
            let is_stand_in = self.is_stand_in(key);
            let connection = &mut self.connections[key];
            if let Some(in_flight) = connection.in_flight
                && !is_stand_in
            {
                connection.messages_dropped += u64::from(in_flight.span.frames);
                self.counters.messages_dropped.add(in_flight.span.frames.into());
                self.report_end(key);
            }
        }
        self.end_inbox_turn();
    }

    fn begin_tally(&self) -> Tally {
        let dropped_before = self.counters.messages_dropped.get();
        Tally { connections: self.active, flushed: 0, dropped_before }
    }
}

//! Threads that wait until what was sent on a session has left, and what is reliable is confirmed.
//!
//! Looked at once per turn while there are any. Bounded by `commands_max`, as they come by a
//! command each.
//!
//! A session that is over, or whose link is, has nothing queued: what was is lost. So that nobody
//! takes that for flushed, whoever waits is told of the loss when it happens, which may be long
//! before its event: with a send in the kernel, or messages that nobody takes.

use std::io;

use crossbeam_channel::Sender;

use crate::error::FlushError;
use crate::reactor::connection::ConnectionId;
use crate::reactor::core::Core;
use crate::reactor::{Reactor, Wait};
use crate::session::Session;
use crate::session::state::State;
use crate::time::Nanos;

/// Somebody who waits.
#[derive(Debug)]
pub(crate) struct Flush {
    pub(crate) connection: ConnectionId,
    /// Until then.
    pub(crate) until: Nanos,
    /// Has room for the answer.
    pub(crate) reply: Sender<Result<(), FlushError>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Flushes {
    waiting: Vec<Flush>,
    /// How often something was lost that whoever flushes may have waited for.
    losses: u64,
}

impl Flushes {
    /// Whether nobody waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Reactor {
    /// How often something has been lost, so far, that the kernel had not taken, or of what is
    /// reliable the peer had not confirmed.
    pub(crate) fn losses(&self) -> u64 {
        self.core.flushes.losses
    }

    /// Whether a session is over, even if not all that its peer had sent has been handed over.
    pub(crate) fn is_over(&self, connection: ConnectionId) -> bool {
        self.core.is_over(connection)
    }

    /// Whether everything sent on a connection has left, and what is reliable was confirmed.
    pub(crate) fn is_flushed(&self, connection: ConnectionId) -> bool {
        self.core.is_flushed(connection)
    }

    /// A turn of a thread that waits until all has left. That may leave past the ring within the
    /// turn, and no completion tells of it.
    pub(crate) fn turn_to_flush(&mut self, until: Nanos) -> io::Result<()> {
        self.core.want_room();
        self.turn(Wait::Until(until)).map(drop)
    }
}

impl Core {
    /// Whether everything sent on a session has left, and what is reliable was confirmed.
    pub(crate) fn is_flushed(&self, connection: ConnectionId) -> bool {
        self.parts(connection).all(|part| self.session(part).is_none_or(Session::is_flushed))
    }

    /// Whether a session is over. It may be there until its last send has ended, or all that its
    /// peer had sent has been handed over.
    fn is_over(&self, connection: ConnectionId) -> bool {
        let state = self.session(connection).map(Session::state);
        state.is_none_or(|state| matches!(state, State::Ended))
    }

    /// Somebody begins to wait.
    #[cold]
    pub(crate) fn begin_flush(&mut self, flush: Flush) {
        if self.flushes.waiting.len() >= self.config.commands_max() as usize {
            let _ = flush.reply.try_send(Err(FlushError::Busy));
            return;
        }
        self.flushes.waiting.push(flush);
    }

    /// Tells those whose session is flushed, or over. Once per turn.
    #[inline]
    pub(crate) fn report_flushes(&mut self) {
        if !self.flushes.is_empty() {
            self.tell_flushed();
        }
    }

    #[cold]
    fn tell_flushed(&mut self) {
        let mut waiting = std::mem::take(&mut self.flushes.waiting);
        waiting.retain(|flush| {
            let outcome = if self.is_over(flush.connection) {
                Err(FlushError::NotConnected)
            } else if self.is_flushed(flush.connection) {
                Ok(())
            } else {
                // Whose time is over does not wait any more.
                return flush.until > self.now;
            };
            let _ = flush.reply.try_send(outcome);
            false
        });
        self.flushes.waiting = waiting;
        // What leaves past the ring has no completion that would bring the next turn about.
        if !self.flushes.is_empty() {
            self.want_room();
        }
    }

    /// A session, or a part of it, has lost what it had not delivered: that is not flushed.
    #[cold]
    pub(crate) fn fail_flushes(&mut self, connection: ConnectionId) {
        self.flushes.losses += 1;
        self.flushes.waiting.retain(|flush| {
            let is_other = flush.connection != connection;
            if !is_other {
                let _ = flush.reply.try_send(Err(FlushError::NotConnected));
            }
            is_other
        });
    }
}

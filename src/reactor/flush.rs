//! Threads that wait until what was sent on a session has left, and what is reliable is confirmed.
//!
//! Looked at once per turn while there are any. Bounded by `commands_max`, as they come by a
//! command each.

use crossbeam_channel::Sender;

use crate::error::FlushError;
use crate::reactor::connection::ConnectionId;
use crate::reactor::core::Core;
use crate::session::Session;
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

impl Core {
    /// Whether everything sent on a session has left, and what is reliable was confirmed.
    pub(crate) fn is_flushed(&self, connection: ConnectionId) -> bool {
        self.parts(connection).all(|part| self.session(part).is_none_or(Session::is_flushed))
    }

    /// Somebody begins to wait.
    #[cold]
    pub(crate) fn begin_flush(&mut self, flush: Flush) {
        if self.flushes.len() >= self.config.commands_max() as usize {
            let _ = flush.reply.try_send(Err(FlushError::Busy));
            return;
        }
        self.flushes.push(flush);
    }

    /// Tells those whose session is flushed, or gone. Once per turn.
    #[inline]
    pub(crate) fn report_flushes(&mut self) {
        if !self.flushes.is_empty() {
            self.tell_flushed();
        }
    }

    #[cold]
    fn tell_flushed(&mut self) {
        let mut flushes = std::mem::take(&mut self.flushes);
        flushes.retain(|flush| {
            let outcome = if self.session(flush.connection).is_none() {
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
        self.flushes = flushes;
        // What leaves past the ring has no completion that would bring the next turn about.
        self.room_wanted |= !self.flushes.is_empty();
    }

    /// The peer has lost its end of a session: what that had not delivered is not flushed.
    #[cold]
    pub(crate) fn fail_flushes(&mut self, connection: ConnectionId) {
        self.flushes.retain(|flush| {
            let is_other = flush.connection != connection;
            if !is_other {
                let _ = flush.reply.try_send(Err(FlushError::NotConnected));
            }
            is_other
        });
    }
}

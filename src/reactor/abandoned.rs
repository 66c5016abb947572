//! Requests whose asker has given them up: how that is known on the side that would answer.
//!
//! A handler that answers at once is never too late to be stopped. What can be stopped is a request
//! that waits in the inbox, or that the application works on: it asks whether anybody still waits
//! (`is_abandoned`), or is told (`on_cancelled`).
//!
//! [`Cancellations`] is a fixed table of marks. A mark names a request by the peer's end of the
//! session and its correlation, mixed to 64 bits; it is written by the reactor and read by any
//! thread. A later mark may take the place of an older one, which is then forgotten: the work on
//! that request is wasted, its answer is dropped by the asker, and nothing else happens.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::reactor::Reactor;
use crate::reactor::connection::ConnectionKey;
use crate::reactor::core::Core;
use crate::reactor::dispatch::{Context, Handlers, Origin, Panicked, call_caught};
use crate::reactor::message::Message;
use crate::reactor::sessions::SessionKey;
use crate::time::Nanos;
use crate::wire::handshake::SessionId;

/// Told about a request that was cancelled.
pub(crate) type CancelHandler = Box<dyn FnMut(&mut Context<'_>, &Cancelled)>;

/// A request that its sender has given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cancelled {
    /// What [`Message::correlation`] says of it. Whose it is says [`Context::connection`].
    pub correlation: u64,
}

/// Names a request of a peer. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    pub(crate) fn new(peer: SessionId, correlation: u64) -> Self {
        let (low, high) = peer.0.split_at(8);
        let word = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("eight bytes"));
        // A random 128-bit id and a number: no peer can aim at another's requests, and that one of
        // a table's marks is taken for another's happens once in 2^63 look-ups.
        Self(mix(mix(mix(word(low)) ^ word(high)) ^ correlation) | 1)
    }
}

/// Has every bit of the result depend on every bit of the word: the finalizer of MurmurHash3.
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cancellations {
    marks: Box<[AtomicU64]>,
}

impl Cancellations {
    /// Room for about as many as requests may wait at the peer.
    pub(crate) fn new(requests_max: u32) -> Self {
        let places = (requests_max as usize).next_power_of_two().max(64);
        Self { marks: (0..places).map(|_| AtomicU64::new(0)).collect() }
    }

    fn place(&self, mark: Mark) -> &AtomicU64 {
        let index = (mark.0 >> 1) as usize & (self.marks.len() - 1);
        &self.marks[index]
    }

    pub(crate) fn add(&self, mark: Mark) {
        // ORDERING: Relaxed, paired with `contains`: a mark orders no other memory, and may be seen
        // a little late.
        self.place(mark).store(mark.0, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, mark: Mark) {
        // ORDERING: as in `add`; one thread writes.
        if self.place(mark).load(Ordering::Relaxed) == mark.0 {
            self.place(mark).store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn contains(&self, mark: Mark) -> bool {
        // ORDERING: as in `add`.
        self.place(mark).load(Ordering::Relaxed) == mark.0
    }

    /// Whether nobody waits for the answer to a request any more, or a message is worthless by now.
    /// Reads the clock only when the message has a deadline.
    pub(crate) fn is_abandoned(&self, message: &Message) -> bool {
        self.is_cancelled(message) || is_overdue(message)
    }

    /// Whether its sender has given a request up: that was counted when the cancellation came.
    pub(crate) fn is_cancelled(&self, message: &Message) -> bool {
        message.mark().is_some_and(|mark| self.contains(mark))
    }
}

fn is_overdue(message: &Message) -> bool {
    message.deadline().is_some_and(|deadline| deadline < Nanos::now())
}

impl Core {
    /// Names a request of a session's peer.
    pub(crate) fn mark(&mut self, home: SessionKey, correlation: u64) -> Option<Mark> {
        let peer = self.session_mut(home)?.peer()?.session_id;
        Some(Mark::new(peer, correlation))
    }

    /// A peer has given a request up: marks it, and tells the handler.
    #[cold]
    pub(crate) fn on_cancel(&mut self, handlers: &mut Handlers, key: ConnectionKey, request: u64) {
        let home = self.connections[key].public;
        if let Some(mark) = self.mark(home, request) {
            self.cancellations.add(mark);
        }
        // Whoever sees it counted finds the request abandoned.
        self.counters.requests_cancelled.add(1);
        let Some(handler) = &mut handlers.cancelled else { return };
        let cancelled = Cancelled { correlation: request };
        let outcome = call_caught(self, home, Origin::NONE, |context| handler(context, &cancelled));
        if let Err(Panicked) = outcome {
            tracing::error!(?cancelled, "a handler of cancelled requests panicked");
        }
    }
}

impl Reactor {
    /// Calls `handler` when a peer gives up a request it has made: for what the application is
    /// working on. A request that is still in the inbox is then not handed out any more.
    ///
    /// It runs on this thread in [`Reactor::turn`]. A request whose time is over is not cancelled
    /// but known to be by its deadline ([`Message::deadline`]), and a peer that is gone by its
    /// `Disconnected` event.
    pub fn on_cancelled(&mut self, handler: impl FnMut(&mut Context<'_>, &Cancelled) + 'static) {
        self.handlers.cancelled = Some(Box::new(handler));
    }

    /// Whether the answer to a request is of no use any more: its sender has cancelled it, or its
    /// deadline has passed. Of the last few thousand cancelled requests (as many as `requests_max`)
    /// it is known; one cancelled longer ago may be taken for alive.
    #[must_use]
    pub fn is_abandoned(&self, request: &Message) -> bool {
        self.core.cancellations.is_abandoned(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_other_requests_and_other_peers_differ() {
        let peers = [SessionId([1; 16]), SessionId([2; 16])];
        let marks: std::collections::BTreeSet<u64> = peers
            .iter()
            .flat_map(|&peer| (0..10_000).map(move |request| Mark::new(peer, request).0))
            .collect();
        assert_eq!(marks.len(), 20_000);
        assert!(!marks.contains(&0));
    }

    #[test]
    fn later_mark_takes_the_place_of_an_older_one() {
        let table = Cancellations::new(1);
        let marks: Vec<_> = (0..64).map(|request| Mark::new(SessionId([7; 16]), request)).collect();
        assert!(!marks.iter().any(|&mark| table.contains(mark)));
        for &mark in &marks {
            table.add(mark);
            assert!(table.contains(mark));
        }
        let known = marks.iter().filter(|&&mark| table.contains(mark)).count();
        assert!((20..64).contains(&known), "{known}");
    }
}

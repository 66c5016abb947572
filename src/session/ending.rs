//! How a session ends: what is queued leaves first, and nothing that is left goes uncounted.

use crate::mem::Buffer;
use crate::session::block::Block;
use crate::session::lane::{Lane, SendMemory, Sent};
use crate::session::state::{Event, State};
use crate::session::{Session, Source, Undelivered};
use crate::time::Nanos;
use crate::wire::handshake::GoodbyeReason;
use crate::wire::{Kind, Priority};

/// A block that comes back before all of it has left.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) source: Source,
    pub(crate) block: Block,
    /// Up to where in the block the socket has taken it.
    pub(crate) sent: usize,
}

impl Session {
    /// Stops admitting messages; what is queued still leaves.
    pub(crate) fn drain(&mut self) {
        self.state = self.state.step(Event::Drain);
    }

    /// Has the peer confirmed what was received and nothing has confirmed yet: behind the goodbye
    /// nobody would. Returns whether there is something to send before it.
    pub(crate) fn confirms_before_goodbye(&mut self) -> bool {
        self.confirmations.confirm_now()
    }

    /// Queues the goodbye. To be called while draining, once nothing waits and nothing is in
    /// flight; the session is then *finishing*.
    pub(crate) fn finish(&mut self, buffer: Buffer, reason: GoodbyeReason, now: Nanos) {
        assert!(!self.has_block(), "the goodbye comes last");
        self.push_farewell(Kind::Goodbye, buffer, reason.code(), 0, now);
        self.state = self.state.step(Event::Flushed);
    }

    /// Ends the session. Returns how many admitted messages had not been handed to the kernel,
    /// and the reliable ones that the peer has not confirmed.
    ///
    /// What is in flight comes back through [`Session::end_block`] later.
    pub(crate) fn end(&mut self, memory: &mut SendMemory) -> (u64, Vec<Undelivered>) {
        self.state = self.state.step(Event::End);
        if let Some(block) = self.control.take() {
            memory.pool.give(block.buffer);
        }
        let dropped = self.lanes.iter().map(Lane::never_sent).sum();
        let undelivered = self.abandon(memory);
        self.confirmations.forget();
        (dropped, undelivered)
    }

    /// Takes back what was in flight when the session ended. Its reliable messages that the peer
    /// has not confirmed join the `undelivered` of [`Session::end`], in their order; others that
    /// the socket has not taken are counted.
    #[cold]
    pub(crate) fn end_block(
        &mut self,
        returned: Returned,
        undelivered: &mut Vec<Undelivered>,
        memory: &mut SendMemory,
    ) {
        assert_eq!(self.state, State::Ended, "the session goes on");
        let Returned { source, block, sent } = returned;
        let Source::Lane(priority) = source else {
            memory.pool.give(block.buffer);
            return;
        };
        let confirmed = self.lanes[priority.index()].acknowledged();
        // Behind what was sent before it, before what waits.
        let at = undelivered.partition_point(|other| {
            other.priority < priority || (other.priority == priority && other.sent == Sent::Maybe)
        });
        let owed = block.frames().filter(|frame| frame.is_reliable() && frame.sequence > confirmed);
        let owed: Vec<_> =
            owed.map(|frame| Undelivered::new(priority, &frame, Sent::Maybe)).collect();
        let lost = owed.len() as u64;
        let unsent = block.unsent(sent).filter(|frame| !frame.is_reliable()).count() as u64;
        self.ledger.drop_at_end(priority, lost + unsent);
        self.holdings.reliable.lost += lost;
        self.holdings.reliable.confirmed += u64::from(block.span.reliable) - lost;
        undelivered.splice(at..at, owed);
        self.holdings.release(block, &mut memory.pool);
    }

    /// Gives up everything that is queued or kept.
    pub(super) fn abandon(&mut self, memory: &mut SendMemory) -> Vec<Undelivered> {
        let mut undelivered = Vec::new();
        for priority in Priority::ALL {
            let lane = &mut self.lanes[priority.index()];
            let admitted = lane.admitted();
            let drops = lane.abandon(memory, &mut self.holdings, |frame, sent| {
                undelivered.push(Undelivered::new(priority, frame, sent));
            });
            self.ledger.give_up(priority, admitted, &drops);
        }
        undelivered
    }
}

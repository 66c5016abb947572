//! What has come in each lane, and when the peer must be told of it.
//!
//! Confirmations ride on frames that leave anyway. Only where none does for [`CONFIRM_AFTER`], or
//! [`CONFIRM_BYTES`] of reliable messages have come, an acknowledgement frame is due: it confirms
//! all lanes, and alone tells how many messages came too late.

use std::time::Duration;

use crate::error::ProtocolError;
use crate::session::mutation::Mutation;
use crate::time::Nanos;
use crate::wire::acknowledgement::write_acknowledgement;
use crate::wire::{Frame, Priority, low_half};

/// How long a reliable message waits for a frame that confirms it on its way.
pub(super) const CONFIRM_AFTER: Duration = Duration::from_millis(2);
/// So many bytes of reliable messages are confirmed at once.
const CONFIRM_BYTES: usize = 128 << 10;

/// No gap leads so far: behind it there are more sequences than messages can be sent.
const SEQUENCES_END: u64 = 1 << 63;

/// See the module.
#[derive(Debug)]
pub(super) struct Confirmations {
    /// Last sequence received per lane.
    pub(super) received: [u64; Priority::COUNT],
    /// Of those, the messages that did not come: what the gaps stood for.
    pub(super) missed: [u64; Priority::COUNT],
    /// Lanes with reliable messages that no frame has confirmed yet, a bit each.
    unconfirmed: u8,
    /// Bytes of those messages.
    unconfirmed_bytes: usize,
    /// When they must be confirmed.
    due_at: Nanos,
    /// An acknowledgement frame is due.
    pub(super) is_due: bool,
    /// Messages received too late to be handled.
    expired: u64,
    /// Of those, the ones the peer has been told of.
    told_expired: u64,
}

impl Confirmations {
    pub(super) const fn new() -> Self {
        Self {
            received: [0; Priority::COUNT],
            missed: [0; Priority::COUNT],
            unconfirmed: 0,
            unconfirmed_bytes: 0,
            due_at: Nanos::NEVER,
            is_due: false,
            expired: 0,
            told_expired: 0,
        }
    }

    /// Of the same messages, on a link of its own: a greeting is to tell of them.
    pub(super) fn on_another_link(&self) -> Self {
        Self { received: self.received, missed: self.missed, ..Self::new() }
    }

    /// Widens the frame's 32 bits and checks that the lane moved forward by one. Hot path: once per
    /// message.
    #[inline]
    pub(super) fn check_sequence(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let received = &mut self.received[frame.priority().index()];
        let expected = *received + 1;
        if frame.sequence() != low_half(expected) {
            return Err(ProtocolError::BadSequence {
                expected: low_half(expected),
                got: frame.sequence(),
            });
        }
        *received = expected;
        Ok(())
    }

    /// Messages that will not come, as a gap tells.
    pub(super) fn skip(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let index = frame.priority().index();
        let count = u64::from(frame.type_id());
        let last = self.received[index].checked_add(count).map(|last| {
            if Mutation::NarrowSequence.is_on() { low_half(last).into() } else { last }
        });
        let is_next = |last: &u64| *last < SEQUENCES_END && frame.sequence() == low_half(*last);
        let Some(last) = last.filter(is_next).filter(|_| count > 0) else {
            let expected = low_half(self.received[index] + 1);
            return Err(ProtocolError::BadSequence { expected, got: frame.sequence() });
        };
        self.received[index] = last;
        self.missed[index] += if Mutation::NoGapCount.is_on() { 0 } else { count };
        Ok(())
    }

    /// Notes that a reliable message is to be confirmed. Hot path: once per reliable frame.
    #[inline]
    pub(super) fn confirm_later(&mut self, lane: Priority, bytes: usize, now: Nanos) {
        if self.due_at == Nanos::NEVER {
            self.due_at = now + CONFIRM_AFTER;
        }
        self.unconfirmed |= 1 << lane.index();
        self.unconfirmed_bytes += bytes;
        self.is_due |= self.unconfirmed_bytes >= CONFIRM_BYTES;
    }

    /// A message came too late to be handled: its sender is to know.
    pub(super) fn count_expired(&mut self, lane: Priority, bytes: usize, now: Nanos) {
        self.expired += 1;
        self.confirm_later(lane, bytes, now);
    }

    /// A frame of this lane carries the confirmation.
    #[inline]
    pub(super) fn confirmed(&mut self, lane: Priority) {
        self.unconfirmed &= !(1 << lane.index());
        // Only an acknowledgement frame tells of messages that were too old.
        if self.unconfirmed == 0 && self.expired == self.told_expired {
            self.forget();
        }
    }

    /// Nothing is to be confirmed any more.
    pub(super) fn forget(&mut self) {
        self.unconfirmed = 0;
        self.unconfirmed_bytes = 0;
        self.due_at = Nanos::NEVER;
        self.is_due = false;
    }

    /// The link is gone: the next greeting confirms what has come. Whoever was told of messages
    /// that were too old may have gone with the link.
    pub(super) fn link_lost(&mut self) {
        self.forget();
        self.told_expired = 0;
    }

    /// A greeting has told what was received, and not of those messages that came too late.
    pub(super) fn greeted(&mut self, now: Nanos) {
        if self.expired > self.told_expired {
            self.due_at = now + CONFIRM_AFTER;
        }
    }

    /// To be called at [`due_at`](Self::due_at).
    pub(super) fn expire(&mut self, now: Nanos) {
        if self.due_at <= now {
            self.due_at = Nanos::NEVER;
            self.is_due = !Mutation::NoAcknowledgements.is_on();
        }
    }

    /// Has confirmed now what nothing has confirmed yet. Returns whether a frame is due.
    pub(super) fn confirm_now(&mut self) -> bool {
        if self.due_at != Nanos::NEVER && !Mutation::NoAcknowledgements.is_on() {
            self.due_at = Nanos::NEVER;
            self.is_due = true;
        }
        self.is_due
    }

    /// Writes the acknowledgement frame of all lanes. Returns its length.
    pub(super) fn write(&mut self, now: Nanos, out: &mut [u8]) -> usize {
        let eager = u64::from(Mutation::EagerAcknowledgement.is_on());
        let received = self.received.map(|received| received + eager);
        self.told_expired = self.expired;
        self.forget();
        write_acknowledgement(received, self.expired, now.0, out)
    }

    /// Whether a lane has something to confirm.
    #[inline]
    pub(super) fn owes(&self, lane_index: usize) -> bool {
        self.unconfirmed & 1 << lane_index != 0
    }

    /// When the messages that nothing has confirmed must be.
    #[inline]
    pub(super) fn due_at(&self) -> Nanos {
        self.due_at
    }

    /// Messages received per lane: without those that will not come.
    pub(super) fn messages_received(&self) -> [u64; Priority::COUNT] {
        std::array::from_fn(|index| self.received[index] - self.missed[index])
    }

    /// Messages that came too late to be handled.
    pub(super) fn expired(&self) -> u64 {
        self.expired
    }
}

//! The counter block of one reactor.
//!
//! Invariant: a block has one writer, its reactor's thread. That makes an increment a plain load,
//! add and store, about a nanosecond, and is why [`Counter::add`] is not public.

use crate::error::{CloseReason, DropReason};
use crate::sync::single::Single;

/// How many lanes a session has: one for each priority.
pub(crate) const LANES: usize = 4;

/// A monotonic count. Readers may see it a little late, never torn and never going backwards.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(Single);

impl Counter {
    /// Adds `n`. Only the owning reactor calls this.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.add(n);
    }

    /// Reads the count, from any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A value that goes up and down. One writer, any number of readers.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Gauge(Single);

impl Gauge {
    /// Replaces the value. Only the owning reactor calls this.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.set(value);
    }

    /// Reads the value, from any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Counters of one reactor: one writer (its thread), any number of readers.
///
/// Aligned so that two reactors never share a cache line, nor an adjacent-line prefetch pair.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Counters {
    // Written for every block of messages; first, so that they share their cache lines with
    // nothing else.
    /// Application frames handed to the kernel.
    pub messages_sent: Counter,
    /// Bytes of those frames on the wire.
    pub bytes_sent: Counter,
    /// Application frames handed to a handler, a waiting request or the inbox.
    pub messages_received: Counter,
    /// Bytes of those frames on the wire.
    pub bytes_received: Counter,
    /// When a byte last came or went, in monotonic nanoseconds; 0 before.
    pub last_activity_ns: Gauge,
    /// Messages refused because a lane or the send memory was full.
    pub sends_refused: Counter,
    /// Of those, the ones refused because the send memory was full.
    pub sends_out_of_memory: Counter,
    /// Messages refused because they exceed the frame limit.
    pub sends_too_large: Counter,
    /// Admitted messages that a lost connection took with it.
    pub messages_dropped: Counter,

    // Written once per turn or less.
    /// Turns of the loop.
    pub turns: Counter,
    /// `io_uring_enter` calls.
    pub enters: Counter,
    /// Completions reaped.
    pub completions: Counter,
    /// Times the reactor went to sleep in the kernel.
    pub parks: Counter,
    /// Times another thread's command woke it.
    pub wakeups: Counter,
    /// Times the kernel reported an overflowing completion queue.
    pub cq_overflows: Counter,
    /// Times the kernel was out of buffers or memory for an operation, which was then repeated.
    pub enobufs: Counter,
    /// Sends that the socket took only in part, and that were continued.
    pub short_sends: Counter,
    /// Sends made by a system call of their own while spinning.
    pub direct_sends: Counter,
    /// Receives made by a system call of their own while spinning.
    pub direct_receives: Counter,
    /// Zero-copy sends.
    pub zero_copy_sends: Counter,
    /// Zero-copy sends that the kernel copied after all.
    pub zero_copy_copies: Counter,
    /// Times a connection was not read because the inbox or the receive memory was full.
    pub receive_pauses: Counter,
    /// Sessions established.
    pub connections_established: Counter,
    /// Established sessions that ended, for any reason.
    pub connections_lost: Counter,
    /// Sessions established now.
    pub connections_active: Gauge,
    /// Panics caught in handlers.
    pub handler_panics: Counter,
    /// Responses that came after their request had been given up.
    pub responses_late: Counter,
    /// Connection events dropped because nobody fetched them.
    pub events_dropped: Counter,
    /// Commands of other threads carried out.
    pub commands: Counter,
    /// Messages posted by other threads without waiting for the verdict, and refused.
    pub posts_dropped: Counter,
    /// Connections accepted that could not be kept: no descriptor or no room.
    pub accept_errors: Counter,
    /// Messages refused because their time to live had passed.
    pub sends_expired: Counter,
    /// Messages received too late to be handled.
    pub messages_expired: Counter,
    /// Requests of peers that were cancelled by them.
    pub requests_cancelled: Counter,
    /// Messages of peers that will not come: their side dropped them.
    pub messages_missed: Counter,
    /// Sessions that went on on a new link.
    pub sessions_resumed: Counter,
    /// Sessions that a peer came back without.
    pub sessions_lost: Counter,
    /// Times a watched message stayed away for its period.
    pub deadlines_missed: Counter,
    /// Times one came that had been missed.
    pub deadlines_recovered: Counter,
    /// Attempts to connect again.
    pub reconnect_attempts: Counter,
    /// Messages dropped, by lane (low to critical) and [`DropReason::index`].
    pub drops: [[Counter; DropReason::COUNT]; LANES],
    /// Connections that ended, by [`CloseReason::index`].
    pub closes: [Counter; CloseReason::NAMES.len()],
}

const _: () = assert!(align_of::<Counters>() == 128);

//! The counter block of one reactor.
//!
//! Invariant: a block has one writer, its reactor's thread. That makes an increment a plain load,
//! add and store, about a nanosecond, and is why [`Counter::add`] is not public.

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use crate::error::{CloseReason, DropReason};
use crate::sync::single::Single;
use crate::sys::map::Placed;

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

    /// Replaces the value by a larger one. Only the owning reactor calls this.
    #[inline]
    pub(crate) fn raise(&self, value: u64) {
        if value > self.0.get() {
            self.0.set(value);
        }
    }

    /// Reads the value, from any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident,)+) => {
        /// Counters of one reactor: one writer (its thread), any number of readers.
        ///
        /// Aligned so that two reactors never share a cache line, nor an adjacent-line prefetch
        /// pair.
        #[derive(Debug)]
        #[repr(C, align(128))]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: $kind,)+
            /// Messages dropped, by lane (low to critical) and [`DropReason::index`].
            pub drops: [[Counter; DropReason::COUNT]; LANES],
            /// Connections that ended, by [`CloseReason::index`].
            pub closes: [Counter; CloseReason::NAMES.len()],
        }

        // The standard library has no default of so long an array.
        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($name: $kind::default(),)+
                    drops: Default::default(),
                    closes: std::array::from_fn(|_| Counter::default()),
                }
            }
        }

        /// The counters that stand by themselves, in their order.
        pub(crate) const FIELDS: &[Field] = &[
            $(Field {
                name: stringify!($name),
                help: concat!($($doc,)+),
                kind: FieldKind::$kind,
            },)+
        ];

        impl Counters {
            /// Every word, in the order of the [`labels`].
            pub(crate) fn words(&self) -> impl Iterator<Item = &AtomicU64> {
                let fields = [$(self.$name.0.word(),)+];
                let drops = self.drops.as_flattened().iter().map(|counter| counter.0.word());
                let closes = self.closes.iter().map(|counter| counter.0.word());
                fields.into_iter().chain(drops).chain(closes)
            }
        }
    };
}

/// Whether a field counts or measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Counter,
    Gauge,
}

/// A counter that stands by itself.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "for the metrics"))]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// What it counts; begins with a space.
    pub(crate) help: &'static str,
    pub(crate) kind: FieldKind,
}

counters! {
    // Written for every block of messages; first, so that they share their cache lines with
    // nothing else.
    /// Application frames handed to the kernel; those that are sent again count again.
    messages_sent: Counter,
    /// Bytes of those frames on the wire.
    bytes_sent: Counter,
    /// Application frames handed to a handler, a waiting request or the inbox.
    messages_received: Counter,
    /// Bytes of those frames on the wire.
    bytes_received: Counter,
    /// When a byte last came or went, in monotonic nanoseconds; 0 before.
    last_activity_ns: Gauge,
    /// Messages refused because a lane or the send memory was full.
    sends_refused: Counter,
    /// Of those, the ones refused because the send memory was full.
    sends_out_of_memory: Counter,
    /// Messages refused because they exceed the frame limit.
    sends_too_large: Counter,
    /// Admitted messages that a lost connection took with it.
    messages_dropped: Counter,

    // Written once per turn or less.
    /// Turns of the loop.
    turns: Counter,
    /// `io_uring_enter` calls.
    enters: Counter,
    /// Completions reaped.
    completions: Counter,
    /// Times the reactor went to sleep in the kernel.
    parks: Counter,
    /// Times another thread's command woke it.
    wakeups: Counter,
    /// Times the reactor began to spin, waiting for something to do.
    spins: Counter,
    /// Of those, the ones that something came in, or that found room in a full socket.
    spin_hits: Counter,
    /// Turns that took longer than `turn_threshold_us`, waiting not included.
    turns_slow: Counter,
    /// The longest turn, waiting not included.
    turn_longest_ns: Gauge,
    /// Sessions for which the registry had no row.
    sessions_unlisted: Counter,
    /// Times the kernel reported an overflowing completion queue.
    cq_overflows: Counter,
    /// Times the kernel was out of buffers or memory for an operation, which was then repeated.
    enobufs: Counter,
    /// Sends that the socket took only in part, and that were continued.
    short_sends: Counter,
    /// Sends made by a system call of their own, past the ring.
    direct_sends: Counter,
    /// Receives made by a system call of their own while spinning.
    direct_receives: Counter,
    /// Zero-copy sends.
    zero_copy_sends: Counter,
    /// Zero-copy sends that the kernel copied after all.
    zero_copy_copies: Counter,
    /// Times a connection was not read because the inbox or the receive memory was full.
    receive_pauses: Counter,
    /// Times a session had its link: established, or made again. Of two links, when both stand.
    connections_established: Counter,
    /// Times an established session lost its link, or ended with it.
    connections_lost: Counter,
    /// Sessions that have their link now.
    connections_active: Gauge,
    /// Panics caught in handlers.
    handler_panics: Counter,
    /// Responses that came after their request had been given up.
    responses_late: Counter,
    /// Connection events dropped because nobody fetched them.
    events_dropped: Counter,
    /// Reliable messages of lost sessions that no event names: too many waited to be fetched.
    undelivered_omitted: Counter,
    /// Commands of other threads carried out.
    commands: Counter,
    /// Messages posted by other threads without waiting for the verdict, and refused.
    posts_dropped: Counter,
    /// Connections accepted that could not be kept: no descriptor or no room.
    accept_errors: Counter,
    /// Messages refused because their time to live had passed.
    sends_expired: Counter,
    /// Messages received too late to be handled.
    messages_expired: Counter,
    /// Requests of peers that were cancelled by them.
    requests_cancelled: Counter,
    /// Messages of peers that will not come: their side dropped them.
    messages_missed: Counter,
    /// Sessions that went on on a new link.
    sessions_resumed: Counter,
    /// Sessions that a peer came back without.
    sessions_lost: Counter,
    /// Times a watched message stayed away for its period.
    deadlines_missed: Counter,
    /// Times one came that had been missed.
    deadlines_recovered: Counter,
    /// Attempts to connect again.
    reconnect_attempts: Counter,
    /// Frames that a tap has no copy of: its reader was too slow.
    tap_frames_lost: Counter,
    /// Messages admitted to lanes: every send that was not refused.
    messages_admitted: Counter,
    /// Messages that wait to be handed to the kernel, or that it has not taken in full.
    messages_queued: Gauge,
    /// Messages handed to the kernel once more, on a new link.
    messages_resent: Counter,
    /// Reliable messages admitted to lanes.
    reliable_admitted: Counter,
    /// Of those, the ones that the peer has confirmed.
    reliable_confirmed: Counter,
    /// Of those, the ones that are queued, in flight or kept until the peer confirms them.
    reliable_unconfirmed: Gauge,
    /// Of those, the ones that were dropped: expired, replaced, withdrawn, or lost with their
    /// session.
    reliable_lost: Counter,
}

const _: () = assert!(align_of::<Counters>() == 128);

/// How many words a block of counters has, its end included.
pub(crate) const COUNTER_WORDS: usize = size_of::<Counters>() / 8;

/// Names of the words of [`Counters`], in their order: that of a counter, `drops.` lane (0 low to 3
/// critical) `.` reason, `closes.` reason.
pub(crate) fn labels() -> impl Iterator<Item = String> {
    let fields = FIELDS.iter().map(|field| field.name.to_owned());
    let drops = (0..LANES)
        .flat_map(|lane| DropReason::ALL.map(|reason| format!("drops.{lane}.{}", reason.name())));
    let closes = CloseReason::NAMES.iter().map(|name| format!("closes.{name}"));
    fields.chain(drops).chain(closes)
}

/// The counters of one reactor, wherever they are: in a mapped file, as a rule.
///
/// Cheap to clone; every clone is the same counters, which live as long as one of them.
#[derive(Debug, Clone)]
pub struct CounterBlock(pub(crate) Placed<Counters>);

impl Deref for CounterBlock {
    type Target = Counters;

    #[inline]
    fn deref(&self) -> &Counters {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers of any language find a counter at the place of its label.
    #[test]
    fn labels_are_in_the_order_of_the_words() {
        let counters = Counters::default();
        let start = std::ptr::from_ref(&counters).addr();
        for (index, word) in counters.words().enumerate() {
            assert_eq!(std::ptr::from_ref(word).addr(), start + 8 * index);
        }
        let labels: Vec<_> = labels().collect();
        assert_eq!(labels.len(), counters.words().count());
        assert!(labels.len() <= COUNTER_WORDS);
        let at = |name: &str| labels.iter().position(|label| label == name).expect(name);
        let offset = |word: &Counter| std::ptr::from_ref(word).addr() - start;
        assert_eq!(offset(&counters.turns), 8 * at("turns"));
        let overflow = DropReason::Overflow.index();
        assert_eq!(offset(&counters.drops[2][overflow]), 8 * at("drops.2.overflow"));
        let local = CloseReason::Local.index();
        assert_eq!(offset(&counters.closes[local]), 8 * at("closes.local"));
    }

    #[test]
    fn gauge_is_raised_only() {
        let gauge = Gauge::default();
        gauge.raise(5);
        gauge.raise(3);
        assert_eq!(gauge.get(), 5);
    }
}

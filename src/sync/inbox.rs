//! What the threads around a shared inbox know of it besides its queue.
//!
//! # Turns
//!
//! A reactor that holds a connection back for want of room *wishes* for as much, and of those that
//! wish one has its *turn*: the room it wishes for is set aside, and no other reactor takes of it.
//! When it has had it, the next one that wishes has its turn. Without that a long message would
//! never find its room beside a stream of short ones that another reactor puts in.
//!
//! ```text
//!   wishes: 0 | 0 | 1,001 | 0 | 61    each written by its own reactor: the bytes, and one
//!   turn:   3                         which of them has it, and one; 0 when none wishes
//! ```
//!
//! The turn of a reactor that wishes for nothing is nobody's: so it needs no order between the two
//! that a reader would depend on. Whoever sees an old state sets room aside for nobody, or takes a
//! place that was another's, once. But a reactor that sleeps until there is room must not miss that
//! another one's turn is over: whoever ends it wakes those that wish, in the way of room that has
//! been made (see [`mailbox`](super::mailbox)).

use std::sync::Arc;

use super::atomic::{AtomicU64, AtomicUsize, Ordering};
use super::{Site, ordering};

/// Bytes that wait. Counted before a message can be taken and discounted after it was, so that the
/// count never runs below zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bytes(Arc<AtomicU64>);

impl Bytes {
    /// The bound that is kept with this may be passed by what other reactors put in at the same
    /// instant, one message each.
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        // ORDERING: Relaxed: a mere count, paired with the two below.
        self.0.load(Ordering::Relaxed)
    }

    /// A message of `bytes` is about to be put in.
    #[inline]
    pub(crate) fn add(&self, bytes: u64) {
        // ORDERING: Relaxed: a mere count. The queue orders it before `remove`.
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A message of `bytes` was taken out.
    #[inline]
    pub(crate) fn remove(&self, bytes: u64) {
        // ORDERING: Relaxed: a mere count. The queue orders it behind `add`.
        let before = self.0.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "a message was counted before it could be taken");
    }
}

/// How many reactors may still put something in.
#[derive(Debug, Clone)]
pub(crate) struct Writers(Arc<AtomicUsize>);

impl Writers {
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(count)))
    }

    /// One of them has put in its last.
    pub(crate) fn leave(&self) {
        // ORDERING: Release, pairs with `are_gone`: who sees that the last one is gone sees what it
        // has put in, here and into the queue of events.
        let before = self.0.fetch_sub(1, ordering(Site::Leave, Ordering::Release));
        assert!(before > 0, "each leaves once");
    }

    /// Whether none is left: what is there now is all there will be.
    pub(crate) fn are_gone(&self) -> bool {
        // ORDERING: Acquire, pairs with `leave`.
        self.0.load(ordering(Site::Left, Ordering::Acquire)) == 0
    }
}

/// See the module: one reactor's end.
#[derive(Debug)]
pub(crate) struct Turns {
    shared: Arc<Shared>,
    index: usize,
    /// What this one wishes for, and one; 0 for nothing.
    wish: u64,
}

#[derive(Debug)]
struct Shared {
    turn: AtomicUsize,
    wishes: Box<[AtomicU64]>,
}

impl Turns {
    /// One for each of `count` reactors.
    pub(crate) fn new(count: usize) -> impl Iterator<Item = Self> {
        let wishes = (0..count).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { turn: AtomicUsize::new(0), wishes });
        (0..count).map(move |index| Self { shared: Arc::clone(&shared), index, wish: 0 })
    }

    /// How many bytes, and a place, are set aside for another reactor.
    ///
    /// Hot path: once per message. One load while nobody wishes.
    #[inline]
    pub(crate) fn set_aside(&self) -> Option<u64> {
        // ORDERING: Relaxed, paired with `wish` and `end`: see the module. Who sleeps after this
        // has a fence before it, and whoever wakes it one behind the end of the turn.
        match self.shared.turn.load(Ordering::Relaxed) {
            0 => None,
            turn if turn == self.index + 1 => None,
            turn => self.wish_of(turn - 1),
        }
    }

    fn wish_of(&self, index: usize) -> Option<u64> {
        // ORDERING: Relaxed, as in `set_aside`.
        self.shared.wishes[index].load(Ordering::Relaxed).checked_sub(1)
    }

    /// Whether this reactor wishes for room.
    #[inline]
    pub(crate) fn wishes(&self) -> bool {
        self.wish != 0
    }

    /// This reactor wishes for room for a message of `bytes`, if it did not before. To be said
    /// again while it waits: the turn may have become free.
    pub(crate) fn wish(&mut self, bytes: u64) {
        let Shared { turn, wishes } = &*self.shared;
        self.wish = bytes + 1;
        // ORDERING: Relaxed, paired with `wish_of`: see the module.
        wishes[self.index].store(self.wish, Ordering::Relaxed);
        // ORDERING: Relaxed, as in `set_aside`.
        let seen = turn.load(Ordering::Relaxed);
        if seen == 0 || seen != self.index + 1 && self.wish_of(seen - 1).is_none() {
            self.pass(seen, self.index + 1);
        }
    }

    /// This reactor has had its room, or needs it no more: the next one that wishes has its turn.
    /// To be followed by waking those that sleep until there is room.
    pub(crate) fn end(&mut self) {
        self.wish = 0;
        let count = self.shared.wishes.len();
        // ORDERING: Relaxed, paired with `wish_of`: see the module.
        self.shared.wishes[self.index].store(0, Ordering::Relaxed);
        let mut others = (1..count).map(|distance| (self.index + distance) % count);
        let next = others.find(|&other| self.wish_of(other).is_some());
        self.pass(self.index + 1, next.map_or(0, |next| next + 1));
    }

    /// Gives the turn on, if it is still where it was seen.
    fn pass(&self, seen: usize, next: usize) {
        let turn = &self.shared.turn;
        // ORDERING: Relaxed: the exchange alone decides; see the module.
        let _ = turn.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Drop for Turns {
    /// The reactor has ended.
    fn drop(&mut self) {
        self.end();
    }
}

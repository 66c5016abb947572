//! What the threads around a shared inbox know of it besides its queue.

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

//! A number with one writer and any number of readers, who may see it a little late, never torn and
//! never going backwards.
//!
//! With one writer an increment is a plain load, add and store, about a nanosecond: no locked
//! instruction. With two, counts are lost: the owners of these do not give them away.

use super::atomic::{AtomicU64, Ordering::Relaxed};

/// See the module.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Single(AtomicU64);

impl Single {
    /// Adds `n`. The writer only.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        // ORDERING: Relaxed: with one writer nothing can slip between the load and the store, and
        // the number orders no other memory. Paired with `get`.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces the number. The writer only.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        // ORDERING: Relaxed, as above.
        self.0.store(value, Relaxed);
    }

    /// The number as it stands in a mapped file. A model has no files.
    #[cfg(not(all(loom, test)))]
    pub(crate) fn word(&self) -> &AtomicU64 {
        &self.0
    }

    /// Reads the number, from any thread.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

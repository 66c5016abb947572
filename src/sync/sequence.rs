//! Words that one thread writes together, and any number of readers copy without its notice: a
//! sequence beside them is odd while they are written.
//!
//! ```text
//!   writer                                   reader
//!   sequence = odd                     ┌───▶ sequence, even
//!   fence(Release)  ◀── begin ──┐      │     fence(Acquire)
//!   the words                   │      │     the words
//!   sequence = even  ── end ────┼──────┘     fence(Acquire)
//!                               └─────────── sequence, unchanged
//! ```
//!
//! The writer waits for nobody. A reader that sees an odd or another sequence behind its copy has
//! one of no single moment, and tries again.
//!
//! Not here: what the words are, and the row's own sequence, whose writer is in `reactor::meter`.

use super::atomic::{AtomicU64, Ordering};
use super::{Site, fence_of, ordering};

/// The word itself, as it stands in a mapped file.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Sequence(AtomicU64);

impl Sequence {
    /// What is written from here on belongs together. The writer only. Hot path: once or twice a
    /// turn.
    #[inline]
    pub(crate) fn begin(&self, odd: u64) {
        self.0.store(odd, Ordering::Relaxed);
        // ORDERING: Release: the stores behind it are not seen before the odd sequence. Pairs with
        // the second fence of `read`.
        fence_of(Site::BeginWriting, Ordering::Release);
    }

    /// It is complete. The writer only.
    #[inline]
    pub(crate) fn end(&self, even: u64) {
        // ORDERING: Release: whoever sees the even sequence sees what was stored before it. Pairs
        // with the first fence of `read`.
        self.0.store(even, ordering(Site::EndWriting, Ordering::Release));
    }

    /// The word. Readers of a file have other ways to it.
    #[cfg(test)]
    pub(crate) fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Copies words that belong together: `sequence` reads the word beside them, `copy` the words, both
/// by `Relaxed` loads or by system calls. Returns whether the copy is of one moment.
///
/// # Errors
///
/// Those of the two.
pub(crate) fn read<E>(
    mut sequence: impl FnMut() -> Result<u64, E>,
    copy: impl FnOnce() -> Result<(), E>,
) -> Result<bool, E> {
    let before = sequence()?;
    if !before.is_multiple_of(2) {
        return Ok(false);
    }
    // ORDERING: Acquire: what is copied is not older than the sequence. Pairs with the store in
    // `end`.
    fence_of(Site::EndWriting, Ordering::Acquire);
    copy()?;
    // ORDERING: Acquire: the sequence read next is not older than what was copied. Pairs with the
    // fence in `begin`.
    fence_of(Site::BeginWriting, Ordering::Acquire);
    Ok(sequence()? == before)
}

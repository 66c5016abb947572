//! A ring of words between one thread that writes and one that reads, where the writer waits for
//! nothing: what finds no room is lost, and counted.
//!
//! Both count words from the beginning of time, and never wrap. A reader that sees `written` sees
//! the words before it; a writer that sees `read` overwrites only what has been read. What the
//! words mean is for whoever has the two ends.

use super::atomic::{AtomicBool, AtomicU64, Ordering};
use super::{Site, ordering};

/// On cache lines of its own: what one end writes, the other one reads.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// See the module.
#[derive(Debug)]
pub(crate) struct Ring {
    words: Box<[AtomicU64]>,
    /// Words ever written; the writer's.
    written: Apart<AtomicU64>,
    /// Words ever read; the reader's.
    read: Apart<AtomicU64>,
    /// What found no room; the writer's.
    lost: AtomicU64,
    /// The writer is gone, and what it has written is all there will be.
    is_closed: AtomicBool,
    /// The reader is gone.
    is_unread: AtomicBool,
}

impl Ring {
    /// # Panics
    ///
    /// When their number is no power of two.
    pub(crate) fn over(words: Box<[AtomicU64]>) -> Self {
        assert!(words.len().is_power_of_two(), "places are found by a mask");
        Self {
            words,
            written: Apart::default(),
            read: Apart::default(),
            lost: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            is_unread: AtomicBool::new(false),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    /// The places of `count` words from `at` on, in at most two pieces. Loads and stores there are
    /// `Relaxed`: the two counts order them.
    #[inline]
    pub(crate) fn places(&self, at: u64, count: usize) -> (&[AtomicU64], &[AtomicU64]) {
        let start = self.place(at);
        let whole = (self.words.len() - start).min(count);
        (&self.words[start..start + whole], &self.words[..count - whole])
    }

    #[inline]
    fn place(&self, at: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "masked to the length of a slice")]
        let place = (at & (self.words.len() as u64 - 1)) as usize;
        place
    }

    #[inline]
    pub(crate) fn load(&self, at: u64) -> u64 {
        // ORDERING: Relaxed: the load in `written` before orders it.
        self.words[self.place(at)].load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn store(&self, at: u64, word: u64) {
        // ORDERING: Relaxed: the store in `publish` behind it orders it.
        self.words[self.place(at)].store(word, Ordering::Relaxed);
    }

    /// The writer: all words before `written` may be read.
    #[inline]
    pub(crate) fn publish(&self, written: u64) {
        // ORDERING: Release, pairs with the load in `written`: the words are seen.
        self.written.0.store(written, ordering(Site::Publish, Ordering::Release));
    }

    /// The reader: which words may be read.
    #[inline]
    pub(crate) fn written(&self) -> u64 {
        // ORDERING: Acquire, pairs with the store in `publish`.
        self.written.0.load(ordering(Site::Publish, Ordering::Acquire))
    }

    /// The reader: all words before `read` may be overwritten.
    #[inline]
    pub(crate) fn free(&self, read: u64) {
        // ORDERING: Release, pairs with the load in `freed`: the words were loaded before. No site:
        // what it keeps apart, a load and a store behind it, no model of loom's ever exchanges.
        self.read.0.store(read, Ordering::Release);
    }

    /// The writer: which words may be overwritten.
    #[inline]
    pub(crate) fn freed(&self) -> u64 {
        // ORDERING: Acquire, pairs with the store in `free`.
        self.read.0.load(Ordering::Acquire)
    }

    /// The reader: where it is.
    #[inline]
    pub(crate) fn read(&self) -> u64 {
        // ORDERING: Relaxed: this thread alone writes it.
        self.read.0.load(Ordering::Relaxed)
    }

    /// The writer: so much is lost by now.
    #[inline]
    pub(crate) fn set_lost(&self, lost: u64) {
        // ORDERING: Relaxed: a count with one writer. The last one is ordered by `close`.
        self.lost.store(lost, Ordering::Relaxed);
    }

    /// What was lost; all of it once the ring [is closed](Self::is_closed).
    pub(crate) fn lost(&self) -> u64 {
        // ORDERING: Relaxed, as above.
        self.lost.load(Ordering::Relaxed)
    }

    /// The writer: there will be no more.
    pub(crate) fn close(&self) {
        // ORDERING: Release, pairs with the load in `is_closed`: who sees it sees all words.
        self.is_closed.store(true, ordering(Site::CloseRing, Ordering::Release));
    }

    /// The reader: whether what it sees written, looking *after* this, is all there will be.
    pub(crate) fn is_closed(&self) -> bool {
        // ORDERING: Acquire, pairs with the store in `close`.
        self.is_closed.load(ordering(Site::CloseRing, Ordering::Acquire))
    }

    /// The reader: it goes.
    pub(crate) fn leave(&self) {
        // ORDERING: Relaxed: it carries nothing else.
        self.is_unread.store(true, Ordering::Relaxed);
    }

    /// The writer: whether nobody reads any more.
    pub(crate) fn is_unread(&self) -> bool {
        // ORDERING: Relaxed: at worst something is written that nobody will miss.
        self.is_unread.load(Ordering::Relaxed)
    }
}

//! Size-classed buffers, all allocated at setup, lent one at a time.
//!
//! # Invariants
//!
//! - The number of buffers never changes: `free + lent == total` per class.
//! - Freed buffers are taken again last-in first-out, so a quiet reactor touches the same few
//!   cache lines, and pages that were never needed never become resident.
//!
//! Cost: [`Pool::take`] and [`Pool::give`] are a push and a pop. Who may take how much is the
//! borrower's business (see `session::lane`), with [`Pool::free_bytes`] to go by.

use crate::mem::{ALIGN, Buffer};

/// How many buffers of which size a pool holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolLayout {
    /// `(bytes, count)`, ascending in bytes.
    classes: Vec<(usize, usize)>,
}

impl PoolLayout {
    /// Splits `budget_bytes` into classes from `block_bytes` in steps of four up to the first that
    /// holds `largest_bytes`. Half the budget goes to the smallest class, a quarter to the
    /// largest (at least two of them), the rest in equal parts to those between.
    pub(crate) fn classes(budget_bytes: usize, block_bytes: usize, largest_bytes: usize) -> Self {
        assert!(block_bytes > 0, "Config bounds the block size");
        let mut sizes = vec![block_bytes];
        while sizes[sizes.len() - 1] < largest_bytes {
            let next = sizes[sizes.len() - 1] * 4;
            sizes.push(if next >= largest_bytes { largest_bytes } else { next });
        }
        let last = sizes.len() - 1;
        let classes = sizes
            .iter()
            .enumerate()
            .map(|(index, &bytes)| {
                let share = if last == 0 {
                    budget_bytes
                } else if index == 0 {
                    budget_bytes / 2
                } else if index == last {
                    budget_bytes / 4
                } else {
                    budget_bytes / 4 / (last - 1)
                };
                let count_min = if index == last || index == 0 { 2 } else { 1 };
                (bytes, (share / bytes).max(count_min))
            })
            .collect();
        Self { classes }
    }

    /// Adds a class of `count` small buffers below the others.
    pub(crate) fn with_small(mut self, bytes: usize, count: usize) -> Self {
        if bytes < self.classes[0].0 {
            self.classes.insert(0, (bytes, count));
        }
        self
    }

    /// Address space this layout reserves.
    #[cfg(test)]
    pub(crate) fn total_bytes(&self) -> usize {
        self.classes.iter().map(|&(bytes, count)| bytes * count).sum()
    }
}

#[derive(Debug)]
struct Class {
    bytes: usize,
    total: usize,
    free: Vec<Buffer>,
}

/// A fixed set of buffers in a few sizes.
#[derive(Debug)]
pub(crate) struct Pool {
    classes: Vec<Class>,
    free_bytes: usize,
    total_bytes: usize,
}

impl Pool {
    /// Allocates everything the layout asks for.
    pub(crate) fn new(layout: &PoolLayout) -> Self {
        let classes: Vec<_> = layout
            .classes
            .iter()
            .map(|&(bytes, total)| Class {
                bytes: bytes.next_multiple_of(ALIGN),
                total,
                free: Buffer::slab(bytes, total).collect(),
            })
            .collect();
        let free_bytes: usize = classes.iter().map(|class| class.bytes * class.total).sum();
        Self { classes, free_bytes, total_bytes: free_bytes }
    }

    /// Bytes of the buffers not lent.
    #[inline]
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_bytes
    }

    /// Bytes of all buffers.
    #[inline]
    pub(crate) fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    /// Size of the smallest class.
    pub(crate) fn smallest_bytes(&self) -> usize {
        self.classes[0].bytes
    }

    /// Size of the largest class.
    #[cfg(test)]
    pub(crate) fn largest_bytes(&self) -> usize {
        self.classes[self.classes.len() - 1].bytes
    }

    /// Whether [`Pool::take`] would lend a buffer of at least `bytes`.
    #[inline]
    pub(crate) fn can_lend(&self, bytes: usize) -> bool {
        self.classes.iter().any(|class| class.bytes >= bytes && !class.free.is_empty())
    }

    /// Lends the smallest free buffer of at least `bytes`.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Option<Buffer> {
        let class = self.classes.iter_mut().find(|c| c.bytes >= bytes && !c.free.is_empty())?;
        self.free_bytes -= class.bytes;
        class.free.pop()
    }

    /// Takes a lent buffer back.
    #[inline]
    pub(crate) fn give(&mut self, buffer: Buffer) {
        let bytes = buffer.len();
        let class = self
            .classes
            .iter_mut()
            .find(|class| class.bytes == bytes)
            .expect("only this pool's buffers come back");
        assert!(class.free.len() < class.total, "a buffer comes back once");
        class.free.push(buffer);
        self.free_bytes += bytes;
    }

    /// The buffers not lent, for registering them with the kernel at setup.
    pub(crate) fn free_buffers_mut(&mut self) -> impl Iterator<Item = &mut Buffer> {
        // The next to be lent come first: they are worth registering most.
        self.classes.iter_mut().flat_map(|class| class.free.iter_mut().rev())
    }

    /// How many buffers are lent.
    #[cfg(test)]
    pub(crate) fn lent(&self) -> usize {
        self.classes.iter().map(|class| class.total - class.free.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_stays_near_its_budget_and_holds_the_largest() {
        let layout = PoolLayout::classes(64 << 20, 64 << 10, 4 << 20);
        assert!(layout.total_bytes() <= 65 << 20, "{layout:?}");
        let pool = Pool::new(&layout);
        assert_eq!(pool.largest_bytes(), 4 << 20);
        assert_eq!(pool.smallest_bytes(), 64 << 10);
    }

    #[test]
    fn exhausted_class_lends_from_the_next() {
        let layout = PoolLayout { classes: vec![(64, 1), (256, 1)] };
        let mut pool = Pool::new(&layout);
        let first = pool.take(10).expect("one small");
        let second = pool.take(10).expect("one large");
        assert_eq!((first.len(), second.len()), (64, 256));
        assert!(pool.take(1).is_none());
        assert_eq!((pool.lent(), pool.free_bytes()), (2, 0));
        pool.give(second);
        pool.give(first);
        assert_eq!((pool.lent(), pool.free_bytes()), (0, 320));
    }

    #[test]
    fn last_given_is_taken_first() {
        let mut pool = Pool::new(&PoolLayout { classes: vec![(64, 3)] });
        let buffer = pool.take(64).expect("free");
        let address = buffer.bytes().as_ptr();
        pool.give(buffer);
        assert_eq!(pool.take(64).expect("free").bytes().as_ptr(), address);
    }

    /// Random takes and gives against a plain count per class.
    #[test]
    fn pool_agrees_with_a_naive_model() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let classes = vec![(64, rng.usize(1..4)), (256, rng.usize(1..4)), (1024, 2)];
            let mut model = classes.clone();
            let mut pool = Pool::new(&PoolLayout { classes });
            let mut lent = Vec::new();
            for _ in 0..200 {
                if rng.bool() {
                    let bytes = rng.usize(1..1200);
                    let expected = model.iter_mut().find(|(size, n)| *size >= bytes && *n > 0);
                    let got = pool.take(bytes);
                    assert_eq!(got.is_some(), expected.is_some(), "seed {seed}");
                    if let (Some(buffer), Some((size, count))) = (got, expected) {
                        assert_eq!(buffer.len(), *size, "seed {seed}");
                        *count -= 1;
                        lent.push(buffer);
                    }
                } else if !lent.is_empty() {
                    let buffer: Buffer = lent.swap_remove(rng.usize(..lent.len()));
                    let class = model.iter_mut().find(|(size, _)| *size == buffer.len());
                    class.expect("known size").1 += 1;
                    pool.give(buffer);
                }
                assert_eq!(pool.lent(), lent.len(), "seed {seed}");
            }
        }
    }
}

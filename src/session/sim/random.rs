//! The randomness of a run: all of it from one seed.

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and no dependency of the library.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed ^ 0x5eed_0f51_b117_ca5e);
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `from..to`.
    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        assert!(from < to, "an empty range");
        from + self.next() % (to - from)
    }

    /// As [`between`](Self::between), each order of magnitude as likely as any other.
    pub(super) fn scaled(&mut self, from: u64, to: u64) -> u64 {
        assert!(0 < from, "zero has no magnitude");
        let doublings = u64::from((to / from).max(1).ilog2());
        let low = from << self.between(0, doublings + 1);
        self.between(low, (2 * low).min(to).max(low + 1))
    }

    pub(super) fn size(&mut self, from: usize, to: usize) -> usize {
        usize::try_from(self.between(from as u64, to as u64)).expect("between two of them")
    }

    /// `true` in `percent` of the cases.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.size(0, choices.len())]
    }
}

//! Histograms of times in nanoseconds, in the value layout of HdrHistogram.
//!
//! Two significant digits: values are told apart to 1/128 (0.8 %) from 1 ns to 68.7 s (2^36 - 1
//! ns); what is longer is counted at the end of that range, and in `clipped`. 3,840 counts of 64
//! bits, 30 KiB; a value touches its own count and one cache line more.
//!
//! A [`Histogram`] has one writer, its reactor's thread, so recording is plain loads and stores:
//! about 2 ns (`cargo bench --bench stats`). A [`Reading`] is what a reader has copied out of it;
//! it has the percentiles and is what is exported.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Values are told apart by so many leading bits.
const PRECISION_BITS: u32 = 7;
/// Counts of one power of two, of the upper half of its sub-buckets.
const HALF: usize = 1 << PRECISION_BITS;
/// Values have at most so many bits.
const VALUE_BITS: u32 = 36;
/// The largest value told apart from larger ones: 68.7 s.
pub const VALUE_MAX: u64 = (1 << VALUE_BITS) - 1;
/// How many counts there are.
pub(crate) const COUNTS: usize = (VALUE_BITS - PRECISION_BITS) as usize * HALF + HALF;
/// What HdrHistogram calls the precision of this layout.
pub(crate) const SIGNIFICANT_DIGITS: u8 = 2;

const _: () = assert!(COUNTS == 3840);

/// See the module.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Histogram {
    /// Sum of the values, clipped ones at their full length.
    sum: AtomicU64,
    /// The largest, exactly.
    max: AtomicU64,
    /// How many were above [`VALUE_MAX`].
    clipped: AtomicU64,
    reserved: [AtomicU64; 13],
    counts: [AtomicU64; COUNTS],
}

/// Words before the counts.
pub(crate) const HEAD_WORDS: usize = 16;
const _: () = assert!(std::mem::offset_of!(Histogram, counts) == HEAD_WORDS * 8);
const _: () = assert!(size_of::<Histogram>() == (HEAD_WORDS + COUNTS) * 8);

impl Histogram {
    /// Records one value. Only the owning reactor calls this.
    ///
    /// Hot path: up to three times a message. About 2 ns. No allocation, no system call.
    #[inline]
    pub(crate) fn record(&self, nanos: u64) {
        // ORDERING: one writer: see `Counter::add`. Relaxed, paired with the reader's loads, which
        // the block's sequence makes consistent.
        let count = self.counts.get(index_of(nanos)).unwrap_or_else(|| self.clip());
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
        self.sum.store(self.sum.load(Relaxed).wrapping_add(nanos), Relaxed);
        if nanos > self.max.load(Relaxed) {
            self.max.store(nanos, Relaxed);
        }
    }

    /// Where a value above [`VALUE_MAX`] is counted, which is noted.
    #[cold]
    fn clip(&self) -> &AtomicU64 {
        self.clipped.store(self.clipped.load(Relaxed).wrapping_add(1), Relaxed);
        &self.counts[COUNTS - 1]
    }

    /// A histogram of its own, for tests and benches.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn new_boxed() -> Box<Self> {
        Box::new(Self {
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
            clipped: AtomicU64::new(0),
            reserved: Default::default(),
            counts: [const { AtomicU64::new(0) }; COUNTS],
        })
    }

    /// The sum of all values recorded.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// What it holds now.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn read(&self) -> Reading {
        let counts = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        let [sum, max] = [&self.sum, &self.max].map(|word| word.load(Relaxed));
        Reading { sum, max, clipped: self.clipped.load(Relaxed), counts }
    }
}

/// Where a value is counted: behind all counts if it is above [`VALUE_MAX`].
#[inline]
pub(crate) const fn index_of(value: u64) -> usize {
    // The highest bit that a value of the lowest bucket may have stands for it.
    let magnitude = 63 - (value | (1 << PRECISION_BITS)).leading_zeros() - PRECISION_BITS;
    #[expect(clippy::cast_possible_truncation, reason = "eight bits are left")]
    let leading = (value >> magnitude) as usize;
    magnitude as usize * HALF + leading
}

/// The least value counted at `index`.
pub(crate) const fn value_at(index: usize) -> u64 {
    let bucket = index / HALF;
    if bucket <= 1 {
        return index as u64;
    }
    let magnitude = bucket - 1;
    ((index - magnitude * HALF) as u64) << magnitude
}

/// The greatest value counted at `index`.
pub(crate) const fn value_to(index: usize) -> u64 {
    value_at(index + 1) - 1
}

/// What a histogram held at some moment. Times are in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub(crate) sum: u64,
    pub(crate) max: u64,
    pub(crate) clipped: u64,
    pub(crate) counts: Vec<u64>,
}

impl Default for Reading {
    fn default() -> Self {
        Self { sum: 0, max: 0, clipped: 0, counts: vec![0; COUNTS] }
    }
}

impl Reading {
    /// From the words of a histogram in a registry.
    pub(crate) fn from_words(words: &[u64]) -> Self {
        assert_eq!(words.len(), HEAD_WORDS + COUNTS, "the reader takes whole histograms");
        Self { sum: words[0], max: words[1], clipped: words[2], counts: words[HEAD_WORDS..].into() }
    }

    /// How many values were recorded. Sums end at `u64::MAX`: a damaged file says anything.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().copied().fold(0, u64::saturating_add)
    }

    /// Their sum, in nanoseconds.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum
    }

    /// The largest, exactly; 0 without any. Of a [difference](Self::since) the upper bound of what
    /// was counted.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max
    }

    /// How many were longer than [`VALUE_MAX`].
    #[must_use]
    pub fn clipped(&self) -> u64 {
        self.clipped
    }

    /// The value below which `quantile` (0 to 1) of the values lie, in nanoseconds: the upper end
    /// of what is counted with it, and no more than the maximum. 0 without any.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let count = self.count();
        if count == 0 {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a count times at most 1, rounded")]
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count);
        let mut below = 0_u64;
        for (index, &count) in self.counts.iter().enumerate() {
            below = below.saturating_add(count);
            if below >= rank {
                return value_to(index).min(self.max);
            }
        }
        self.max
    }

    /// How many values are at most `nanos`, or told apart from it by less than 0.8 %.
    #[must_use]
    pub fn count_to(&self, nanos: u64) -> u64 {
        self.counts[..=index_of(nanos).min(COUNTS - 1)].iter().copied().fold(0, u64::saturating_add)
    }

    /// Adds what another histogram holds.
    pub fn add(&mut self, other: &Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
        self.clipped = self.clipped.saturating_add(other.clipped);
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.saturating_add(*count);
        }
    }

    /// What was recorded since `earlier`, a reading of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.counts.iter().zip(&earlier.counts);
        let counts: Vec<u64> = pairs.map(|(now, then)| now.saturating_sub(*then)).collect();
        let max = counts.iter().rposition(|&count| count > 0).map_or(0, value_to).min(self.max);
        Self {
            sum: self.sum.wrapping_sub(earlier.sum),
            max,
            clipped: self.clipped.saturating_sub(earlier.clipped),
            counts,
        }
    }

    /// The values that occurred, ascending: the least and the greatest that is counted together,
    /// and how often.
    pub fn occurred(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let all = self.counts.iter().enumerate().filter(|&(_, &count)| count > 0);
        all.map(|(index, &count)| (value_at(index), value_to(index), count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theirs() -> hdrhistogram::Histogram<u64> {
        hdrhistogram::Histogram::new_with_bounds(1, VALUE_MAX, SIGNIFICANT_DIGITS).expect("bounds")
    }

    /// Every edge of every power of two, and values in between.
    fn values() -> impl Iterator<Item = u64> {
        let edges = (0..VALUE_BITS).flat_map(|bit| {
            let power = 1_u64 << bit;
            [power - 1, power, power + 1, power + power / 2, power + power / 128]
        });
        let mut random = fastrand::Rng::with_seed(7);
        let between =
            (0..20_000).map(move |_| random.u64(..=VALUE_MAX) >> random.u32(..VALUE_BITS));
        edges.chain(between).chain([VALUE_MAX])
    }

    #[test]
    fn layout_is_that_of_the_crate() {
        let theirs = theirs();
        assert_eq!(theirs.distinct_values(), COUNTS);
        for value in values() {
            let index = index_of(value);
            assert_eq!(value_at(index), theirs.lowest_equivalent(value), "{value}");
            assert_eq!(value_to(index), theirs.highest_equivalent(value), "{value}");
        }
        assert_eq!(index_of(VALUE_MAX), COUNTS - 1);
        assert_eq!(index_of(VALUE_MAX + 1), COUNTS);
        assert!(index_of(u64::MAX) > COUNTS);
    }

    #[test]
    fn percentiles_are_those_of_the_crate() {
        let ours = Histogram::new_boxed();
        let mut theirs = theirs();
        for value in values() {
            ours.record(value);
            theirs.record(value).expect("within bounds");
        }
        let reading = ours.read();
        assert_eq!(reading.count(), theirs.len());
        for quantile in [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0] {
            let expected = theirs.value_at_quantile(quantile).min(reading.max_ns());
            assert_eq!(reading.quantile_ns(quantile), expected, "{quantile}");
        }
        assert_eq!(reading.max_ns(), VALUE_MAX);
        let occurred: u64 = reading.occurred().map(|(_, _, count)| count).sum();
        assert_eq!(occurred, theirs.len());
        for limit in [0, 1, 1_000, 1_000_000, VALUE_MAX, VALUE_MAX + 1, u64::MAX] {
            assert_eq!(reading.count_to(limit), theirs.count_between(0, limit), "{limit}");
        }
    }

    #[test]
    fn differences_and_sums_are_exact() {
        let histogram = Histogram::new_boxed();
        histogram.record(5_000_000);
        let earlier = histogram.read();
        histogram.record(100);
        histogram.record(300);
        let news = histogram.read().since(&earlier);
        assert_eq!((news.count(), news.sum_ns(), news.max_ns()), (2, 400, 301));
        let mut sum = earlier;
        sum.add(&news);
        assert_eq!(sum, histogram.read());
    }

    /// What a damaged file may say.
    #[test]
    fn counts_of_any_size_are_summed() {
        let mut reading = Reading {
            sum: u64::MAX,
            max: u64::MAX,
            clipped: u64::MAX,
            counts: vec![1 << 60; COUNTS],
        };
        assert_eq!((reading.count(), reading.count_to(VALUE_MAX)), (u64::MAX, u64::MAX));
        assert_eq!((reading.count_to(0), reading.quantile_ns(1.0)), (1 << 60, value_to(15)));
        reading.counts[0] = u64::MAX;
        let same = reading.clone();
        reading.add(&same);
        assert_eq!((reading.clipped(), reading.count()), (u64::MAX, u64::MAX));
        assert_eq!((reading.quantile_ns(0.5), reading.counts[1]), (0, 1 << 61));
    }

    #[test]
    fn what_is_too_long_is_counted_at_the_end() {
        let histogram = Histogram::new_boxed();
        histogram.record(u64::MAX / 2);
        let reading = histogram.read();
        assert_eq!((reading.count(), reading.clipped()), (1, 1));
        assert_eq!(reading.max_ns(), u64::MAX / 2);
        assert_eq!(reading.quantile_ns(0.5), VALUE_MAX);
        assert_eq!(Reading::default().quantile_ns(0.99), 0);
    }
}

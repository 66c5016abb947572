//! The ratio of two subjects that took turns: the median of their rounds' own ratios, and how sure
//! it is. `benches/peers` has this file, too.
//!
//! The sides of a round run within one turn of all subjects, so that a machine that is slow for a
//! while is slow for both: of that their ratio has little, where a ratio of two medians has all.
//! The interval is that of the sign test: it takes nothing for granted of how ratios are
//! distributed, but that rounds do not depend on each other.

/// How likely it may be, on either side, that the median of all such rounds lies beyond the
/// interval: 5 % together.
const CHANCE_MAX: f64 = 0.025;
/// From so many rounds on the normal distribution is as good as the binomial one, whose terms come
/// to nothing beyond a thousand.
const NORMAL_ROUNDS_MIN: usize = 1_000;
/// Where that has [`CHANCE_MAX`] on either side: 1.96 standard deviations, each half the root of
/// the rounds.
const NORMAL_ROOTS: f64 = 0.98;

/// The median ratio of rounds, and the interval that the median of ever more rounds lies in, 19
/// times out of 20. Of fewer than six rounds nothing is as sure: it is that of all their ratios.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PairedRatio {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl PairedRatio {
    /// Of the ratios of rounds that took turns; `None` where there are none.
    pub(crate) fn of(ratios: &[f64]) -> Option<Self> {
        let mut sorted = ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let beyond = beyond(sorted.len());
        Some(Self {
            median: f64::midpoint(sorted[last / 2], sorted[sorted.len() / 2]),
            low: sorted[beyond],
            high: sorted[last - beyond],
        })
    }

    /// Whether a bound lies within the interval, so that the ratio may as well be on its other
    /// side. Of a single round nobody knows.
    pub(crate) fn is_doubtful(&self, is_met: impl Fn(f64) -> bool) -> bool {
        is_met(self.low) != is_met(self.high)
    }
}

/// How many of so many rounds lie beyond the interval, on either side: as few heads, or fewer, come
/// up by chance no more often than [`CHANCE_MAX`] when as many coins are thrown. Of 8 rounds none,
/// of 9 one, of 21 five, of 101 forty.
fn beyond(rounds: usize) -> usize {
    if rounds >= NORMAL_ROUNDS_MIN {
        return whole((rounds - 1) as f64 / 2.0 - NORMAL_ROOTS * (rounds as f64).sqrt());
    }
    let mut chance = 0.5_f64.powf(rounds as f64);
    let mut sum = chance;
    let mut count = 0;
    while sum <= CHANCE_MAX {
        chance *= (rounds - count) as f64 / (count + 1) as f64;
        sum += chance;
        count += 1;
    }
    count.saturating_sub(1)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "half of a count")]
fn whole(value: f64) -> usize {
    value as usize
}

/// The lowest and the highest of what rounds have, but for a tenth at either end: of many short
/// rounds some are disturbed on any machine. `None` of nothing.
pub(crate) fn most_of(figures: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let left_out = sorted.len() / 10;
    Some((sorted[left_out], sorted[last - left_out]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_is_that_of_the_sign_test() {
        // Tables of the binomial distribution: the largest k with P(X < k) <= 2.5 %, less one.
        for (rounds, expected) in
            [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (21, 5), (51, 18), (101, 40)]
        {
            assert_eq!(beyond(rounds), expected, "{rounds} rounds");
        }
        // By the other way, without a step between the two.
        assert_eq!((beyond(999), beyond(1_000), beyond(1_001)), (468, 468, 468));
        // A file may hold any number.
        assert_eq!(beyond(100_000), 49_689);
        let many: Vec<f64> = (0..2_001).map(f64::from).collect();
        let ratio = PairedRatio::of(&many).expect("2,001 rounds");
        assert_eq!((ratio.low, ratio.median, ratio.high), (956.0, 1_000.0, 1_044.0));
    }

    #[test]
    fn a_tenth_at_either_end_is_left_out() {
        assert_eq!(most_of(&[]), None);
        assert_eq!(most_of(&[3.0, 1.0, 2.0]), Some((1.0, 3.0)));
        let hundred: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!(most_of(&hundred), Some((10.0, 89.0)));
    }

    #[test]
    fn median_lies_between_the_bounds() {
        let of = |ratios: &[f64]| PairedRatio::of(ratios).map(|it| (it.low, it.median, it.high));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[2.0]), Some((2.0, 2.0, 2.0)));
        assert_eq!(of(&[3.0, 1.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(of(&[5.0, 1.0, 2.0]), Some((1.0, 2.0, 5.0)));
        let nine = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0];
        assert_eq!(of(&nine), Some((2.0, 5.0, 8.0)));
    }

    #[test]
    fn doubtful_is_what_has_a_bound_within() {
        let ratio = PairedRatio { median: 1.05, low: 1.02, high: 1.12 };
        let doubt = |bound: f64| ratio.is_doubtful(|ratio| ratio <= bound);
        assert_eq!([1.0, 1.02, 1.1, 1.12, 1.2].map(doubt), [false, true, true, false, false]);
    }
}

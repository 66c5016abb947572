//! How latency went in the course of a paced run: a bounded number of points, and the worst.
//!
//! The rounds are laid one behind the other. Each point sums up a stretch of equal length, so that
//! a slow second shows where percentiles of the whole would hide it; the worst round trips are
//! named one by one.

use serde::Serialize;

use super::paced::Course;

/// Points at most.
const POINTS_MAX: usize = 240;
/// The worst round trips at most.
const OUTLIERS_MAX: usize = 32;

/// The key `series` of a JSON line. Times are seconds since the first round began.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Series {
    /// When a stretch began, and its p50, p99 and max in nanoseconds.
    pub(super) points: Vec<(f64, u64, u64, u64)>,
    /// The worst of all round trips: when each was due, and how long it took in nanoseconds.
    pub(super) outliers: Vec<(f64, u64)>,
}

impl Series {
    /// `None` when nothing was paced.
    pub(super) fn of<'a>(courses: impl Iterator<Item = Option<&'a Course>>) -> Option<Self> {
        let courses: Vec<&Course> = courses.collect::<Option<_>>()?;
        let period_s = courses.first()?.period.as_secs_f64();
        let all: Vec<u64> =
            courses.iter().flat_map(|course| &course.latencies_ns).copied().collect();
        let at = |index: usize| rounded(index as f64 * period_s);
        let length = all.len().div_ceil(POINTS_MAX).max(1);
        let point = |(number, stretch): (usize, &[u64])| {
            let mut sorted = stretch.to_vec();
            sorted.sort_unstable();
            let quantile = |quantile: f64| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "an index, not negative"
                )]
                let index = (quantile * (sorted.len() - 1) as f64).round() as usize;
                sorted[index]
            };
            (at(number * length), quantile(0.5), quantile(0.99), quantile(1.0))
        };
        let points = all.chunks(length).enumerate().map(point).collect();

        let mut worst: Vec<usize> = (0..all.len()).collect();
        worst.sort_unstable_by_key(|&index| std::cmp::Reverse(all[index]));
        worst.truncate(OUTLIERS_MAX);
        worst.sort_unstable();
        let outliers = worst.into_iter().map(|index| (at(index), all[index])).collect();
        Some(Self { points, outliers })
    }
}

/// Microseconds are enough, and shorter to read.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn course(latencies_ns: Vec<u64>) -> Course {
        Course { period: Duration::from_millis(1), latencies_ns }
    }

    #[test]
    fn series_is_bounded_and_names_the_worst() {
        let mut first = vec![100; 5_000];
        first[4_321] = 9_000_000;
        let second = vec![200; 5_000];
        let courses = [course(first), course(second)];
        let series = Series::of(courses.iter().map(Some)).expect("paced");
        assert_eq!(series.points.len(), 10_000_usize.div_ceil(42));
        assert_eq!(series.points[0], (0.0, 100, 100, 100));
        // The stretch of the worst one: of 42 it is the p99, too.
        assert_eq!(series.points[4_321 / 42], (4.284, 100, 9_000_000, 9_000_000));
        assert_eq!(series.points[5_042 / 42], (5.04, 200, 200, 200), "the second round follows");
        assert_eq!(series.outliers.len(), OUTLIERS_MAX);
        assert_eq!(series.outliers[0], (4.321, 9_000_000));
        assert!(series.outliers.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn what_is_not_paced_has_no_series() {
        assert_eq!(Series::of([None].into_iter()), None);
        assert_eq!(Series::of(std::iter::empty()), None);
    }
}

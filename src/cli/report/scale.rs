//! Axes: from values to places between 0 and 1, and the ticks that tell one from the other.
//!
//! Latencies and rates stand on logarithmic axes, as their tails are orders of magnitude away. The
//! percentile axis is logarithmic in 1/(1-p): every further nine is as wide as the one before.

use super::text;

/// Most sizes that have a tick each.
const SIZES_MAX: usize = 7;

/// From values to places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    Linear { low: f64, high: f64 },
    Log { low: f64, high: f64 },
}

/// A value that is written at its place on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) label: String,
}

/// How values are written at ticks.
pub(super) type Unit = fn(f64) -> String;

impl Scale {
    /// From 0 to a little beyond the largest of `values`; nothing that is not finite counts.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        let high = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        Self::Linear { low: 0.0, high: if high > 0.0 { high * 1.05 } else { 1.0 } }
    }

    /// Around all positive `values`, with a margin, and at least a factor of 2 wide.
    /// `None` when there are none: a logarithm has no zero.
    pub(super) fn log_around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = positive
            .fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return None;
        }
        let margin = ((high / low).ln() * 0.05).exp().max(1.04);
        let widen = (2.0 / (high / low * margin * margin)).max(1.0).sqrt();
        Some(Self::Log { low: low / margin / widen, high: high * margin * widen })
    }

    /// Where `value` stands: 0 at the low end, 1 at the high end, and never beyond either.
    pub(super) fn place(self, value: f64) -> f64 {
        let (value, low, high) = match self {
            Self::Linear { low, high } => (value, low, high),
            Self::Log { low, high } => (value.max(low).ln(), low.ln(), high.ln()),
        };
        assert!(low < high, "an axis has two ends");
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// The smallest and the largest value that have a place.
    pub(super) fn ends(self) -> (f64, f64) {
        match self {
            Self::Linear { low, high } | Self::Log { low, high } => (low, high),
        }
    }

    /// Round values along the axis, in order: from two to about a dozen.
    pub(super) fn ticks(self, unit: Unit) -> Vec<Tick> {
        let values = match self {
            Self::Linear { low, high } => linear_steps(low, high),
            Self::Log { low, high } => log_steps(low, high),
        };
        values.into_iter().map(|at| Tick { at, label: shorten(&unit(at)) }).collect()
    }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear_steps(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(power * 10.0);
    let first = (low / step).ceil();
    (0..20).map(|n| (first + f64::from(n)) * step).take_while(|at| *at <= high).collect()
}

/// Divides decades the finer the fewer they are, so that two labels above each other have room.
fn log_steps(low: f64, high: f64) -> Vec<f64> {
    let decades = (high / low).log10();
    let division: &[f64] = match decades {
        decades if decades > 5.0 => &[1.0],
        decades if decades > 2.5 => &[1.0, 3.0],
        decades if decades > 1.0 => &[1.0, 2.0, 5.0],
        decades if decades > 0.6 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
        _ => &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    };
    let stride = if decades > 10.0 { 3 } else { 1 };
    let from = low.log10().floor();
    let powers = (0..40).step_by(stride).map(|n| 10_f64.powf(from + f64::from(n)));
    powers
        .take_while(|power| *power <= high)
        .flat_map(|power| division.iter().map(move |factor| factor * power))
        .filter(|at| (low..=high).contains(at))
        .collect()
}

/// Where a percentile stands on the percentile axis: 1/(1-p).
///
/// # Panics
///
/// When `quantile` is not in 0..1: the maximum has a place only among a number of samples.
pub(super) fn nines(quantile: f64) -> f64 {
    assert!((0.0..1.0).contains(&quantile), "{quantile} is at no finite place");
    1.0 / (1.0 - quantile)
}

/// The percentile axis up to `high`, a number of samples: p50, p90, p99, p99.9 …
pub(super) fn percentile_axis(high: f64) -> (Scale, Vec<Tick>) {
    let high = if high.is_finite() { high.max(nines(0.9)) } else { nines(0.9) };
    let scale = Scale::Log { low: 1.0, high: high * 1.06 };
    let mut ticks = vec![Tick { at: nines(0.5), label: "p50".into() }];
    let mut label = "p90".to_owned();
    let mut at = 10.0;
    while at <= high * 1.000_1 {
        ticks.push(Tick { at, label: label.clone() });
        label = match &*label {
            "p90" => "p99".into(),
            "p99" => "p99.9".into(),
            _ => label + "9",
        };
        at *= 10.0;
    }
    (scale, ticks)
}

/// The payload axis: a tick at each size where they are few, and at powers of two otherwise.
pub(super) fn size_axis(sizes: &[f64], unit: Unit) -> Option<(Scale, Vec<Tick>)> {
    let scale = Scale::log_around(sizes.iter().copied())?;
    let (low, high) = scale.ends();
    let mut ticks: Vec<f64> = sizes.iter().copied().filter(|size| *size > 0.0).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    if ticks.len() > SIZES_MAX {
        let step = ((high / low).log2() / 6.0).ceil();
        let first = (low.log2() / step).ceil();
        let powers = (0..64).map(|n| ((first + f64::from(n)) * step).exp2());
        ticks = powers.take_while(|at| *at <= high).collect();
    }
    Some((scale, ticks.into_iter().map(|at| Tick { at, label: unit(at) }).collect()))
}

/// Leaves out labels that would run into the one before; their ticks stay.
///
/// `length` is that of the axis and `font` that of the text, in the drawing's units.
pub(super) fn thin_out(scale: Scale, ticks: &mut [Tick], length: f64, font: f64) {
    let mut taken = f64::NEG_INFINITY;
    for tick in ticks {
        let half = text::width(&tick.label) * font / 2.0;
        let centre = scale.place(tick.at) * length;
        if centre - half < taken {
            tick.label.clear();
        } else {
            taken = centre + half + font * 0.5;
        }
    }
}

/// `15.0 µs` → `15 µs`: a tick is exact.
fn shorten(text: &str) -> String {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if !number.contains('.') {
        return text.into();
    }
    format!("{}{unit}", number.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(value: f64) -> String {
        format!("{value:.2}")
    }

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| &*tick.label).collect()
    }

    #[test]
    fn log_axis_holds_its_data_and_has_ticks() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let low = 10_f64.powf(random.f64() * 12.0 - 3.0);
            let high = low * 10_f64.powf(random.f64() * random.f64() * 18.0);
            let scale = Scale::log_around([high, low, 0.0, f64::NAN].into_iter()).expect("values");
            let (from, to) = scale.ends();
            assert!(from < low && high < to, "{low} and {high} in {scale:?}");
            assert!(to / from >= 1.999, "{scale:?}");
            let ticks = scale.ticks(plain);
            assert!((2..=14).contains(&ticks.len()), "{scale:?}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (from..=to).contains(&tick.at)), "{ticks:?}");
            let places: Vec<f64> = ticks.iter().map(|tick| scale.place(tick.at)).collect();
            // Letters 12 high, on the shortest axis that is drawn.
            let apart = |pair: &[f64]| (pair[1] - pair[0]) * 180.0 > 12.0;
            assert!(places.windows(2).all(apart), "{ticks:?}");
        }
        assert_eq!(Scale::log_around([0.0, -1.0].into_iter()), None);
    }

    #[test]
    fn linear_axis_holds_its_data_and_has_ticks() {
        let mut random = fastrand::Rng::with_seed(8);
        for _ in 0..2_000 {
            let high = 10_f64.powf(random.f64() * 20.0 - 6.0);
            let scale = Scale::from_zero([high].into_iter());
            assert!(scale.ends().1 > high);
            let ticks = scale.ticks(plain);
            assert!((2..=12).contains(&ticks.len()), "{scale:?}: {ticks:?}");
        }
        assert_eq!(Scale::from_zero([].into_iter()).ends(), (0.0, 1.0));
    }

    #[test]
    fn places_run_from_end_to_end_and_stay_inside() {
        for scale in [Scale::Linear { low: 1.0, high: 100.0 }, Scale::Log { low: 1.0, high: 100.0 }]
        {
            assert_eq!((scale.place(1.0), scale.place(100.0)), (0.0, 1.0));
            assert_eq!((scale.place(-5.0), scale.place(1e9)), (0.0, 1.0));
        }
        assert!((Scale::Log { low: 1.0, high: 100.0 }.place(10.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn every_nine_is_as_wide_as_the_one_before() {
        let (scale, ticks) = percentile_axis(1e6);
        let expected = ["p50", "p90", "p99", "p99.9", "p99.99", "p99.999", "p99.9999"];
        assert_eq!(labels(&ticks), expected);
        let places: Vec<f64> = ticks[1..].iter().map(|tick| scale.place(tick.at)).collect();
        let steps: Vec<f64> = places.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| (step - steps[0]).abs() < 1e-9), "{steps:?}");
        for (tick, quantile) in ticks.iter().zip([0.5, 0.9, 0.99, 0.999, 0.9999]) {
            assert!((tick.at / nines(quantile) - 1.0).abs() < 1e-9, "{tick:?}");
        }
        assert_eq!(labels(&percentile_axis(f64::NAN).1), ["p50", "p90"]);
    }

    #[test]
    fn sizes_have_ticks_of_their_own_while_they_are_few() {
        let (scale, ticks) = size_axis(&[1_048_576.0, 64.0, 64.0], plain).expect("sizes");
        assert_eq!(ticks.iter().map(|tick| tick.at).collect::<Vec<_>>(), [64.0, 1_048_576.0]);
        assert!(scale.place(64.0) > 0.0 && scale.place(1_048_576.0) < 1.0);
        let many: Vec<f64> = (4..20).map(|power| f64::from(1 << power)).collect();
        let (_, ticks) = size_axis(&many, plain).expect("sizes");
        assert!((3..=SIZES_MAX).contains(&ticks.len()), "{ticks:?}");
        assert!(ticks.iter().all(|tick| many.contains(&tick.at)), "{ticks:?}");
        assert_eq!(size_axis(&[0.0], plain), None);
    }

    #[test]
    fn labels_do_not_run_into_each_other() {
        let (scale, mut ticks) = percentile_axis(1e7);
        thin_out(scale, &mut ticks, 120.0, 11.0);
        let shown: Vec<&Tick> = ticks.iter().filter(|tick| !tick.label.is_empty()).collect();
        assert!(shown.len() >= 2 && shown.len() < ticks.len(), "{ticks:?}");
        for pair in shown.windows(2) {
            let half = |tick: &Tick| text::width(&tick.label) * 5.5;
            let gap = (scale.place(pair[1].at) - scale.place(pair[0].at)) * 120.0;
            assert!(gap >= half(pair[0]) + half(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn tick_labels_have_no_idle_zeros() {
        assert_eq!(shorten("15.0 µs"), "15 µs");
        assert_eq!(shorten("1.50 ms"), "1.5 ms");
        assert_eq!(shorten("200 µs"), "200 µs");
        assert_eq!(shorten("0.00"), "0");
    }
}

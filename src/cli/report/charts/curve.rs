//! Latency by percentile: the whole distribution of every subject, tail included.
//!
//! The line is the histogram of all rounds together where the row has one, and otherwise joins the
//! marks. The marks are the row's figures: up to p99 medians over the rounds, and beyond that of
//! all rounds, as the line is. Both axes are logarithmic; the percentile axis in 1/(1-p), on which
//! every further nine takes the same room.

use super::super::figure::supports;
use super::super::histogram;
use super::super::model::{Book, Case, Entry};
use super::super::plot::{Axis, Key, Plot, Sample};
use super::super::read::Row;
use super::super::scale::{Scale, nines, percentile_axis};
use super::super::sketch::{Drawing, Size, Sketch, class, dash, mark, polyline};
use super::{dashed, key, legend_name};
use crate::cli::bench::shown;

/// A subject's line and the figures upon it.
struct Curve<'a> {
    entry: &'a Entry<'a>,
    line: Vec<(f64, f64)>,
    marks: Vec<Mark>,
}

impl Curve<'_> {
    /// Whether its marks may stand beside its line: up to p99 they are medians over the rounds, and
    /// that is the distribution of all of them, in which one bad round has its whole weight.
    fn is_apart(&self) -> bool {
        self.entry.row.histogram.is_some() && self.entry.row.rounds.is_none_or(|rounds| rounds > 1)
    }
}

/// A figure of a row at its place.
struct Mark {
    at: f64,
    ns: f64,
    title: &'static str,
}

/// The curves of a case; `None` when no subject has latencies.
pub(in crate::cli::report) fn draw(book: &Book<'_>, case: &Case<'_>) -> Option<Drawing> {
    let curves: Vec<Curve<'_>> = case.entries.iter().filter_map(curve).collect();
    let title = format!("{}: latency by percentile", case.title());
    Drawing::new(&format!("{} latency", case.title()), &title, |size| sketch(book, &curves, size))
}

fn curve<'a>(entry: &'a Entry<'a>) -> Option<Curve<'a>> {
    let marks = marks(entry.row);
    let drawable = |&(at, ns): &(f64, f64)| at >= 1.0 && ns > 0.0;
    let line: Vec<(f64, f64)> = match &entry.row.histogram {
        Some(histogram) => histogram::curve(histogram).into_iter().filter(drawable).collect(),
        None => marks.iter().map(|mark| (mark.at, mark.ns)).collect(),
    };
    (!line.is_empty()).then_some(Curve { entry, line, marks })
}

/// The figures of a row, in order, as far as its samples reach. The maximum stands at the number of
/// samples it is of: those of all rounds, and of one round where a row without a histogram has the
/// median of their maxima.
fn marks(row: &Row) -> Vec<Mark> {
    let of = if row.histogram.is_some() { 1 } else { row.rounds.unwrap_or(1) };
    let last = match row.samples {
        Some(samples) if of > 0 => samples as f64 / of as f64,
        _ => f64::INFINITY,
    };
    let percentiles = [
        (0.5, row.p50_ns, "p50"),
        (0.9, row.p90_ns, "p90"),
        (0.99, row.p99_ns, "p99"),
        (0.999, row.p99_9_ns, "p99.9"),
        (0.9999, row.p99_99_ns, "p99.99"),
    ];
    let mut marks: Vec<Mark> = Vec::new();
    for (quantile, ns, title) in percentiles {
        let at = nines(quantile);
        if let Some(ns) = ns.filter(|ns| *ns > 0.0 && supports(row, quantile)) {
            marks.push(Mark { at, ns, title });
        }
    }
    if let Some(ns) = row.max_ns.filter(|ns| *ns > 0.0 && (2.0..1e18).contains(&last)) {
        marks.push(Mark { at: last, ns, title: "max" });
    }
    marks
}

fn sketch(book: &Book<'_>, curves: &[Curve<'_>], size: Size) -> Option<Sketch> {
    let drawn = |curve: &Curve<'_>| {
        let marks: Vec<_> = curve.marks.iter().map(|mark| (mark.at, mark.ns)).collect();
        curve.line.iter().copied().chain(marks).collect::<Vec<_>>()
    };
    let all: Vec<(f64, f64)> = curves.iter().flat_map(drawn).collect();
    let high = all.iter().map(|point| point.0).fold(1.0, f64::max);
    let (scale, ticks) = percentile_axis(high);
    let x = Axis { title: "percentile, as 1/(1-p)".into(), scale, ticks };
    let scale = Scale::log_around(all.iter().map(|point| point.1))?;
    let y = Axis { title: "latency".into(), scale, ticks: scale.ticks(shown::time) };
    let mut legend: Vec<_> = curves.iter().map(|curve| key(book, curve.entry)).collect();
    if curves.iter().any(Curve::is_apart) {
        legend.push(Key { label: "line: all rounds together".into(), sample: Sample::Bare });
        legend.push(Key { label: "mark to p99: median of rounds".into(), sample: Sample::Mark });
    }
    let plot = Plot::new(size, x, y, &legend);
    let mut body = String::new();
    // Ringwire last, so that nothing hides it.
    for curve in curves.iter().rev() {
        let look = book.look(&curve.entry.label);
        let points: Vec<_> = curve.line.iter().map(|&point| plot.point(point)).collect();
        body += &format!("<g class=\"{}\">", class(look));
        body += &polyline("line", &points, &dash(dashed(book, curve.entry)));
        for Mark { at, ns, title } in &curve.marks {
            let (x, y) = plot.point((*at, *ns));
            let name = legend_name(book, curve.entry);
            body += &mark(look, x, y, &format!("{name} {title}: {}", shown::time(*ns)));
        }
        body += "</g>";
    }
    Some(plot.finish(&body))
}

#[cfg(test)]
mod tests {
    use super::super::super::histogram::tests::sample;
    use super::super::super::model::tests::runs;
    use super::super::super::sketch::tests::{texts, well_formed};
    use super::*;

    #[test]
    fn every_subject_is_in_the_legend() {
        let lines: String =
            (0..12).map(|n| format!("rtt s{n} spin 64 1 {}\n", 7_000 + n * 500)).collect();
        let runs = runs(&lines);
        let book = Book::new(&runs);
        let drawing = draw(&book, &book.cases[0]).expect("latencies");
        let file = drawing.file();
        let shown = texts(&well_formed(&file), "text");
        assert!((0..12).all(|n| shown.contains(&format!("s{n}"))), "{shown:?}");
        assert_eq!(file.matches("class=\"line\"").count(), 24, "a line and its sample for each");
        assert!(shown.contains(&"p50".into()) && shown.contains(&"p90".into()), "{shown:?}");
    }

    #[test]
    fn histogram_is_the_line_and_figures_are_marks() {
        let mut runs = runs("rtt ringwire spin 64 1 7000");
        let histogram = sample(1, 30_000);
        runs[0].rows[0].histogram = Some(histogram.clone());
        runs[0].rows[0].max_ns = Some(1e9);
        runs[0].rows[0].samples = Some(30_000);
        let book = Book::new(&runs);
        let entry = &book.cases[0].entries[0];
        let curve = curve(entry).expect("latencies");
        assert!(curve.line.len() > 40);
        assert_eq!(curve.line.last().expect("points").1, histogram.max() as f64);
        let titles: Vec<_> = curve.marks.iter().map(|mark| (mark.title, mark.at)).collect();
        assert_eq!(titles, [("p50", 2.0), ("max", 30_000.0)]);
        let file = draw(&book, &book.cases[0]).expect("latencies").file();
        let shown = texts(&well_formed(&file), "text");
        assert!(shown.contains(&"1 s".into()), "the axis holds all");
        // Why a mark may stand off its line.
        let told = "mark to p99: median of rounds".to_owned();
        assert!(shown.contains(&told), "{shown:?}");
        runs[0].rows[0].rounds = Some(1);
        let book = Book::new(&runs);
        let file = draw(&book, &book.cases[0]).expect("latencies").file();
        assert!(!texts(&well_formed(&file), "text").contains(&told), "one round is both");
    }

    #[test]
    fn percentiles_beyond_the_samples_are_not_drawn() {
        let row = Row {
            rounds: Some(2),
            samples: Some(1_000),
            p50_ns: Some(1.0),
            p99_ns: Some(2.0),
            p99_9_ns: Some(3.0),
            max_ns: Some(3.0),
            ..Row::default()
        };
        let places: Vec<_> = marks(&row).iter().map(|mark| (mark.title, mark.at)).collect();
        let expected = [("p50", nines(0.5)), ("p99", nines(0.99)), ("max", 500.0)];
        assert_eq!(places, expected);
    }

    #[test]
    fn case_without_latencies_has_no_curve() {
        let runs = runs("stream raw spin 64 1 null");
        let book = Book::new(&runs);
        assert!(draw(&book, &book.cases[0]).is_none());
    }
}

//! A paced run as time went by: p50, p99 and the largest of every interval, and each outlier.
//!
//! One drawing a subject, all of a case on the same axes, so that they can be compared at a glance.
//! A long run is drawn with the largest values of neighbouring intervals: nothing large is hidden.
//! The three lines differ in more than colour: p50 is solid and in the subject's, p99 is dashed,
//! and the largest lies broad and pale below it. Of fewer than a hundred samples an interval both
//! are the same, which is seen that way, and said.

use super::super::model::{Book, Case, Entry};
use super::super::plot::{Axis, Key, Plot, Sample, ring};
use super::super::read::Series;
use super::super::scale::Scale;
use super::super::sketch::{Drawing, Size, Sketch, class, mark, polyline};
use super::legend_name;
use crate::cli::bench::shown;

/// Most points of a line: more than a drawing has pixels.
const POINTS_MAX: usize = 600;
/// Most outliers that are drawn: the largest.
const OUTLIERS_MAX: usize = 300;

/// The drawings of a case, one for each subject that has a series.
pub(in crate::cli::report) fn draw(book: &Book<'_>, case: &Case<'_>) -> Vec<Drawing> {
    let all: Vec<(&Entry<'_>, &Series)> = case
        .entries
        .iter()
        .filter_map(|entry| Some((entry, entry.row.series.as_ref()?)))
        .filter(|(_, series)| !series.points.is_empty())
        .collect();
    let times = all.iter().flat_map(|(_, series)| {
        series.points.iter().map(|p| p[0]).chain(series.outliers.iter().map(|o| o[0]))
    });
    let x = Scale::from_zero(times);
    let values = all.iter().flat_map(|(_, series)| {
        let points = series.points.iter().flat_map(|point| &point[1..]);
        points.chain(series.outliers.iter().map(|outlier| &outlier[1])).copied()
    });
    let Some(y) = Scale::log_around(values) else { return Vec::new() };
    let one = |&(entry, series): &(&Entry<'_>, &Series)| {
        let name = legend_name(book, entry);
        let title = format!("{}: {name} over time", case.title());
        Drawing::new(&title, &title, |size| Some(sketch(book, entry, series, (x, y), size)))
    };
    all.iter().filter_map(one).collect()
}

fn sketch(
    book: &Book<'_>,
    entry: &Entry<'_>,
    series: &Series,
    (x, y): (Scale, Scale),
    size: Size,
) -> Sketch {
    let look = book.look(&entry.label);
    let name = legend_name(book, entry);
    let points = thin(&series.points);
    let outliers = largest(&series.outliers);
    let mut legend = vec![
        Key { label: format!("{name} p50"), sample: Sample::Plain { look } },
        Key { label: "p99".into(), sample: Sample::Tail },
        Key { label: top(&series.points).into(), sample: Sample::Top },
    ];
    if !outliers.is_empty() {
        let count = series.outliers.len();
        let label = format!("the {count} slowest");
        legend.push(Key { label, sample: Sample::Ring });
    }
    let x = Axis { title: "seconds since the start".into(), scale: x, ticks: x.ticks(seconds) };
    let y = Axis { title: "latency".into(), scale: y, ticks: y.ticks(shown::time) };
    let plot = Plot::new(size, x, y, &legend);
    let mut body = String::new();
    for (column, line) in [(3, "top"), (2, "tail"), (1, "line")] {
        let line_of: Vec<(f64, f64)> = points
            .iter()
            .filter(|point| point[column] > 0.0)
            .map(|point| plot.point((point[0], point[column])))
            .collect();
        body += &format!("<g class=\"{}\">{}", class(look), polyline(line, &line_of, ""));
        // A line of one point is invisible.
        if let &[(x, y)] = &line_of[..] {
            body += &mark(look, x, y, "");
        }
        body += "</g>";
    }
    for [at, ns] in outliers {
        let (x, y) = plot.point((at, ns));
        body += &ring(x, y, &format!("{name}: {} at {at:.3} s", shown::time(ns)));
    }
    plot.finish(&body)
}

/// What the largest is called: of few samples it is the p99 as well.
fn top(points: &[[f64; 4]]) -> &'static str {
    let is_same = points.iter().filter(|point| point[2] >= point[3]).count();
    if is_same * 2 > points.len() { "max (few samples: mostly the p99)" } else { "max" }
}

fn seconds(value: f64) -> String {
    format!("{value:.3}")
}

/// Joins neighbours until there are few enough: the first's time, the largest of every figure.
fn thin(points: &[[f64; 4]]) -> Vec<[f64; 4]> {
    let group = points.len().div_ceil(POINTS_MAX).max(1);
    let join = |group: &[[f64; 4]]| {
        let mut joined = group[0];
        for point in group {
            for column in 1..4 {
                joined[column] = joined[column].max(point[column]);
            }
        }
        joined
    };
    points.chunks(group).map(join).collect()
}

/// The largest outliers, in order of time.
fn largest(outliers: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let mut kept: Vec<[f64; 2]> = outliers.iter().copied().filter(|one| one[1] > 0.0).collect();
    kept.sort_by(|one, other| other[1].total_cmp(&one[1]));
    kept.truncate(OUTLIERS_MAX);
    kept.sort_by(|one, other| one[0].total_cmp(&other[0]));
    kept
}

#[cfg(test)]
mod tests {
    use super::super::super::read;
    use super::super::super::sketch::tests::{texts, well_formed};
    use super::*;

    #[test]
    fn long_series_keep_what_is_large() {
        let points: Vec<[f64; 4]> = (0..10_000)
            .map(|n| [f64::from(n), 10.0, 20.0, if n == 7_777 { 999.0 } else { 30.0 }])
            .collect();
        let thinned = thin(&points);
        assert!(thinned.len() <= POINTS_MAX && thinned.len() > POINTS_MAX / 2, "{}", thinned.len());
        let peaks: Vec<_> = thinned.iter().filter(|point| point[3] == 999.0).collect();
        assert_eq!(peaks.len(), 1);
        assert!((7_700.0..=7_777.0).contains(&peaks[0][0]));
        assert_eq!(thin(&points[..3]), points[..3]);
        let outliers: Vec<[f64; 2]> = (1..=1_000).map(|n| [f64::from(n), f64::from(n)]).collect();
        let kept = largest(&outliers);
        assert_eq!((kept.len(), kept[0], kept[299]), (300, [701.0, 701.0], [1_000.0, 1_000.0]));
    }

    #[test]
    fn largest_that_is_the_p99_is_called_that() {
        let points = [[0.1, 1.0, 5.0, 5.0], [0.2, 1.0, 6.0, 6.0], [0.3, 1.0, 6.0, 7.0]];
        assert_eq!(top(&points), "max (few samples: mostly the p99)");
        assert_eq!(top(&points[1..]), "max");
    }

    #[test]
    fn every_subject_has_its_drawing_on_the_same_axes() {
        let text = "\
            {\"scenario\":\"paced\",\"subject\":\"socket\",\"series\":{\
             \"points\":[[0.1,7e3,9e3,2e4],[0.2,7e3,9e3,3e4]],\
             \"outliers\":[[0.15,2e6]]}}\n\
            {\"scenario\":\"paced\",\"subject\":\"<ring>\",\"series\":{\
             \"points\":[[0.1,8e3,9e3,2e4]]}}\n\
            {\"scenario\":\"paced\",\"subject\":\"none\",\"series\":{}}\n";
        let runs = read::parse("a", text.as_bytes()).expect("rows");
        let book = Book::new(&runs);
        let drawings = draw(&book, &book.cases[0]);
        assert_eq!(drawings.len(), 2);
        let files: Vec<String> = drawings.iter().map(Drawing::file).collect();
        let shown: Vec<Vec<String>> =
            files.iter().map(|file| texts(&well_formed(file), "text")).collect();
        assert!(shown[0].contains(&"socket p50".into()), "{:?}", shown[0]);
        assert!(shown[0].contains(&"the 1 slowest".into()), "{:?}", shown[0]);
        assert!(shown[1].contains(&"<ring> p50".into()), "{:?}", shown[1]);
        let millisecond = "1 ms".to_owned();
        assert!(shown.iter().all(|texts| texts.contains(&millisecond)), "{shown:?}");
        assert!(files[0].contains("socket: 2.00 ms at 0.150 s"));
        // Each line is drawn and in the legend, in a manner of its own.
        for (line, times) in [("line", 2), ("tail", 2), ("top", 2), ("ring", 2)] {
            assert_eq!(files[0].matches(&format!("class=\"{line}\"")).count(), times, "{line}");
        }
        assert!(shown[0].contains(&"max".into()), "{:?}", shown[0]);
        assert!(texts(&well_formed(&files[1]), "circle").len() <= 3);
    }
}

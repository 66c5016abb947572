//! Throughput by payload: what a frame costs where frames are short, and what a byte costs where
//! they are long.
//!
//! Drawn where the same work was done with two sizes or more. The bars of a mark are the lowest and
//! highest of the rounds, where the rows say so.

use super::super::model::{BYTES, Book, Case, Entry, Figure, RATE};
use super::super::plot::{Axis, Plot};
use super::super::scale::{Scale, size_axis};
use super::super::sketch::{Drawing, Size, Sketch, class, dash, line, mark, polyline};
use super::{dashed, key, legend_name};
use crate::cli::bench::shown;

/// One subject over all sizes.
struct Line<'a> {
    entry: &'a Entry<'a>,
    /// Payload and row, by payload.
    points: Vec<(f64, &'a Entry<'a>)>,
}

/// Two drawings for every kind of work that was done with several sizes.
pub(in crate::cli::report) fn draw(book: &Book<'_>) -> Vec<Drawing> {
    let mut drawings = Vec::new();
    let mut seen: Vec<(&str, Option<&str>, Option<u64>)> = Vec::new();
    for case in &book.cases {
        let work = (case.scenario, case.idle, case.connections);
        if seen.contains(&work) || case.fewer.is_some() {
            continue;
        }
        seen.push(work);
        let same = |other: &&Case<'_>| {
            (other.scenario, other.idle, other.connections) == work && other.fewer.is_none()
        };
        let cases: Vec<&Case<'_>> = book.cases.iter().filter(same).collect();
        for figure in [BYTES, RATE] {
            drawings.extend(one(book, &cases, figure));
        }
    }
    drawings
}

fn one(book: &Book<'_>, cases: &[&Case<'_>], figure: Figure) -> Option<Drawing> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for case in cases {
        let Some(bytes) = case.payload_bytes.filter(|bytes| *bytes > 0) else { continue };
        for entry in &case.entries {
            if (figure.of)(entry.row).is_none_or(|value| value <= 0.0) {
                continue;
            }
            let point = (bytes as f64, entry);
            let is_same = |line: &&mut Line<'_>| {
                (line.entry.run, &line.entry.label) == (entry.run, &entry.label)
            };
            match lines.iter_mut().find(is_same) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { entry, points: vec![point] }),
            }
        }
    }
    for line in &mut lines {
        line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    let sizes = || lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let first = sizes().next()?;
    if sizes().all(|size| size == first) {
        return None;
    }
    let work = cases.first()?.work();
    let title = format!("{work}: {} by payload", figure.title);
    Drawing::new(&title, &title, |size| sketch(book, &lines, figure, size))
}

fn sketch(book: &Book<'_>, lines: &[Line<'_>], figure: Figure, size: Size) -> Option<Sketch> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let sizes: Vec<f64> = points().map(|point| point.0).collect();
    let (scale, ticks) = size_axis(&sizes, size_name)?;
    let x = Axis { title: "payload".into(), scale, ticks };
    let values = points().flat_map(|(_, entry)| {
        let (low, high) = (figure.range)(entry.row).unzip();
        [(figure.of)(entry.row), low, high].into_iter().flatten()
    });
    let scale = Scale::log_around(values)?;
    let y = Axis { title: figure.title.into(), scale, ticks: scale.ticks(figure.unit) };
    let legend: Vec<_> = lines.iter().map(|line| key(book, line.entry)).collect();
    let plot = Plot::new(size, x, y, &legend);
    let mut body = String::new();
    for one in lines.iter().rev() {
        let look = book.look(&one.entry.label);
        let name = legend_name(book, one.entry);
        let value = |entry: &Entry<'_>| (figure.of)(entry.row).expect("only these were taken");
        let points: Vec<_> =
            one.points.iter().map(|(bytes, entry)| plot.point((*bytes, value(entry)))).collect();
        body += &format!("<g class=\"{}\">", class(look));
        body += &polyline("line", &points, &dash(dashed(book, one.entry)));
        for ((bytes, entry), (x, y)) in one.points.iter().zip(points) {
            if let Some((low, high)) = (figure.range)(entry.row) {
                body += &line("thin", (x, plot.y(low)), (x, plot.y(high)));
            }
            let value = (figure.unit)(value(entry));
            body += &mark(look, x, y, &format!("{name}, {}: {value}", size_name(*bytes)));
        }
        body += "</g>";
    }
    Some(plot.finish(&body))
}

#[expect(clippy::cast_possible_truncation, reason = "payloads and powers of two, as written")]
fn size_name(bytes: f64) -> String {
    if bytes < 1.0 { String::new() } else { shown::size(bytes as u64) }
}

#[cfg(test)]
mod tests {
    use super::super::super::read;
    use super::super::super::sketch::tests::{texts, well_formed};
    use super::*;

    #[test]
    fn sizes_of_the_same_work_make_a_line() {
        let mut text = String::new();
        for (subject, rate) in [("socket", 6e7), ("ringwire", 4e7)] {
            for bytes in [1_048_576, 64, 4_096] {
                text += &format!(
                    "{{\"scenario\":\"stream\",\"subject\":\"{subject}\",\"idle\":\"spin\",\
                     \"payload_bytes\":{bytes},\"connections\":1,\"frames_per_s\":{rate},\
                     \"bytes_per_s\":{},\"frames_per_s_low\":1000,\"frames_per_s_high\":9e7}}\n",
                    rate * f64::from(bytes) / 100.0
                );
            }
        }
        // One size only: no line, and not a point of the others' lines.
        text += "{\"scenario\":\"rtt\",\"subject\":\"a\",\"payload_bytes\":64,\"bytes_per_s\":1}\n";
        let runs = read::parse("a", text.as_bytes()).expect("rows");
        let drawings = draw(&Book::new(&runs));
        let titles: Vec<&str> = drawings.iter().map(|drawing| &*drawing.title).collect();
        assert_eq!(titles, ["stream spin: bytes/s by payload", "stream spin: frames/s by payload"]);
        for drawing in &drawings {
            let file = drawing.file();
            let shown = texts(&well_formed(&file), "text");
            for expected in ["socket", "ringwire", "64 B", "4 KiB", "1 MiB"] {
                assert!(shown.iter().any(|text| text == expected), "{expected}: {shown:?}");
            }
            assert_eq!(file.matches("<title>").count(), 1 + 6, "one mark a row");
        }
        assert!(drawings[1].file().contains("class=\"thin\""), "the rounds' spread");
    }
}

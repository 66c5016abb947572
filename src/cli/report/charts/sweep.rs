//! The same work over several payloads or connections: what a frame costs where frames are short
//! and a byte where they are long, and what many connections cost.
//!
//! Drawn where some subject did it with two or more. The bars of a mark are the lowest and highest
//! of the rounds, where the rows say so.

use super::super::figure::{BYTES, Figure, MEMORY, P50, P99, RATE};
use super::super::model::{Book, Case, Entry, Sweep};
use super::super::plot::{Axis, Plot};
use super::super::scale::{Scale, size_axis};
use super::super::sketch::{Drawing, Size, Sketch, class, dash, line, mark, polyline};
use super::{dashed, key, legend_name};
use crate::cli::bench::shown;

/// One subject over all sizes.
struct Line<'a> {
    entry: &'a Entry<'a>,
    /// Payload or connections, and the row, in order.
    points: Vec<(f64, &'a Entry<'a>)>,
}

impl Sweep {
    /// What is drawn of it.
    fn figures(self) -> &'static [Figure] {
        match self {
            Self::Payload => &[BYTES, RATE, P50],
            Self::Connections => &[RATE, P99, MEMORY],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Connections => "connections",
        }
    }

    fn of(self, case: &Case<'_>) -> Option<u64> {
        match self {
            Self::Payload => case.payload_bytes,
            Self::Connections => case.connections,
        }
    }

    fn unit(self) -> fn(f64) -> String {
        match self {
            Self::Payload => size_name,
            Self::Connections => |count| format!("{count:.0}"),
        }
    }
}

/// The drawings of every kind of work that was done with several values of `over`.
pub(in crate::cli::report) fn draw(book: &Book<'_>, over: Sweep) -> Vec<Drawing> {
    let mut drawings = Vec::new();
    for (number, case) in book.cases.iter().enumerate() {
        if book.cases[..number].iter().any(|before| before.is_swept(case, over)) {
            continue;
        }
        let cases: Vec<&Case<'_>> =
            book.cases.iter().filter(|other| case.is_swept(other, over)).collect();
        for &figure in over.figures() {
            drawings.extend(one(book, &cases, over, figure));
        }
    }
    drawings
}

fn one(book: &Book<'_>, cases: &[&Case<'_>], over: Sweep, figure: Figure) -> Option<Drawing> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for case in cases {
        let Some(size) = over.of(case).filter(|size| *size > 0) else { continue };
        for entry in &case.entries {
            if (figure.of)(entry.row).is_none_or(|value| value <= 0.0) {
                continue;
            }
            let point = (size as f64, entry);
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
    let is_line = |line: &Line<'_>| line.points.windows(2).any(|pair| pair[0].0 < pair[1].0);
    if !lines.iter().any(is_line) {
        return None;
    }
    let work = cases.first()?.swept_title(over);
    let title = format!("{work}: {} by {}", figure.title, over.name());
    Drawing::new(&title, &title, |size| sketch(book, &lines, (over, figure), size))
}

fn sketch(
    book: &Book<'_>,
    lines: &[Line<'_>],
    (over, figure): (Sweep, Figure),
    size: Size,
) -> Option<Sketch> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let sizes: Vec<f64> = points().map(|point| point.0).collect();
    let (scale, ticks) = size_axis(&sizes, over.unit())?;
    let x = Axis { title: over.name().into(), scale, ticks };
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
            body += &mark(look, x, y, &format!("{name}, {}: {value}", (over.unit())(*bytes)));
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
        let drawings = draw(&Book::new(&runs), Sweep::Payload);
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

    #[test]
    fn connections_of_the_same_work_make_a_line() {
        let mut text = String::new();
        for (count, memory) in [(1, 90_000), (128, 20_000), (10_000, 9_000)] {
            for subject in ["socket", "ringwire"] {
                text += &format!(
                    "{{\"scenario\":\"fan-in\",\"subject\":\"{subject}\",\"idle\":\"spin\",\
                     \"payload_bytes\":64,\"connections\":{count},\"frames_per_s\":1e6,\
                     \"p99_ns\":{},\"resident_bytes_per_connection\":{memory}}}\n",
                    count * 100
                );
            }
        }
        let runs = read::parse("a", text.as_bytes()).expect("rows");
        let book = Book::new(&runs);
        let titles: Vec<String> =
            draw(&book, Sweep::Connections).into_iter().map(|drawing| drawing.title).collect();
        let expected = ["frames/s", "p99", "memory/conn"]
            .map(|figure| format!("fan-in 64 B spin: {figure} by connections"));
        assert_eq!(titles, expected);
        assert!(draw(&book, Sweep::Payload).is_empty(), "one payload only");
    }
}

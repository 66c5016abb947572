//! The frame of a plot: axes, grid, ticks and legend, laid out so that nothing overlaps.
//!
//! Widths of text are estimated (`text::width`), margins follow from the longest labels, and a
//! legend takes as many rows as it needs.

use super::scale::{Scale, Tick, thin_out};
use super::sketch::{FONT, Size, Sketch, class, dash, label, line, mark};
use super::text;

/// Height of a legend's row.
const ROW: f64 = 19.0;
/// Length of the sample of a line in a legend.
const SAMPLE: f64 = 24.0;

/// One axis of a plot.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) title: String,
    pub(super) scale: Scale,
    pub(super) ticks: Vec<Tick>,
}

/// One entry of a legend.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// Not escaped.
    pub(super) label: String,
    pub(super) sample: Sample,
}

/// What a legend shows beside a label.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sample {
    /// A line with marks; the run gives the dash.
    Line {
        look: usize,
        run: Option<usize>,
    },
    /// A line without marks.
    Plain {
        look: usize,
    },
    /// A line of no subject, and a mark of none.
    Bare,
    Mark,
    /// The dashed line of a tail.
    Tail,
    /// The broad and pale line of what is largest.
    Top,
    /// The ring around an outlier.
    Ring,
}

/// An empty plot that knows where everything goes.
#[derive(Debug)]
pub(super) struct Plot {
    size: Size,
    x: Axis,
    y: Axis,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    head: String,
}

impl Plot {
    pub(super) fn new(size: Size, mut x: Axis, y: Axis, legend: &[Key]) -> Self {
        let (head, legend_height) = lay_out(legend, size.width);
        let widest = |ticks: &[Tick]| {
            ticks.iter().map(|tick| text::width(&tick.label)).fold(0.0, f64::max) * FONT
        };
        let left = (widest(&y.ticks) + 12.0).clamp(30.0, 110.0);
        // Half of the last label hangs over the end of the axis.
        let last = x.ticks.last().map_or(0.0, |tick| text::width(&tick.label) * FONT / 2.0);
        let right = size.width - last.clamp(8.0, 40.0);
        let top = legend_height + 24.0;
        let bottom = legend_height + size.height - 40.0;
        assert!(left < right && top < bottom, "a plot has room for its data");
        thin_out(x.scale, &mut x.ticks, right - left, FONT);
        Self { size, x, y, left, right, top, bottom, head }
    }

    /// Where a value of the x axis is drawn.
    pub(super) fn x(&self, value: f64) -> f64 {
        self.left + self.x.scale.place(value) * (self.right - self.left)
    }

    /// Where a value of the y axis is drawn: upwards.
    pub(super) fn y(&self, value: f64) -> f64 {
        self.bottom - self.y.scale.place(value) * (self.bottom - self.top)
    }

    pub(super) fn point(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x(x), self.y(y))
    }

    /// The whole drawing, with `body` upon the grid.
    pub(super) fn finish(self, body: &str) -> Sketch {
        let mut out = self.head.clone();
        for tick in &self.y.ticks {
            let y = self.y(tick.at);
            out += &line("grid", (self.left, y), (self.right, y));
            out += &label("dim end", self.left - 6.0, y + 4.0, &tick.label);
        }
        for tick in &self.x.ticks {
            let x = self.x(tick.at);
            out += &line("grid", (x, self.top), (x, self.bottom));
            if !tick.label.is_empty() {
                out += &label("dim mid", x, self.bottom + 16.0, &tick.label);
            }
        }
        out += &line("axis", (self.left, self.bottom), (self.right, self.bottom));
        out += &line("axis", (self.left, self.top), (self.left, self.bottom));
        out += &label("dim", 2.0, self.top - 9.0, &self.y.title);
        out += &label("dim end", self.right, self.bottom + 33.0, &self.x.title);
        out += body;
        let height = self.bottom + 40.0;
        Sketch { width: self.size.width, height, body: out }
    }
}

/// The legend and its height: entries follow each other and wrap at `width`.
fn lay_out(legend: &[Key], width: f64) -> (String, f64) {
    let mut out = String::new();
    let (mut x, mut row) = (2.0, 0.0);
    for key in legend {
        let taken = SAMPLE + 6.0 + text::width(&key.label) * FONT;
        if x > 2.0 && x + taken > width {
            (x, row) = (2.0, row + 1.0);
        }
        let y = row * ROW + ROW / 2.0;
        out += &sample(key.sample, x, y);
        out += &label("", x + SAMPLE + 6.0, y + 4.0, &key.label);
        x += taken + 16.0;
    }
    let rows = if legend.is_empty() { 0.0 } else { row + 1.0 };
    (out, rows * ROW)
}

fn sample(sample: Sample, x: f64, y: f64) -> String {
    let (look, drawn) = match sample {
        Sample::Line { look, run } => {
            let (from, to) = ((x, y), (x + SAMPLE, y));
            let line = super::sketch::polyline("line", &[from, to], &dash(run));
            (look, line + &mark(look, x + SAMPLE / 2.0, y, ""))
        }
        Sample::Plain { look } => (look, line("line", (x, y), (x + SAMPLE, y))),
        Sample::Bare => return group("dim", &line("line", (x, y), (x + SAMPLE, y))),
        Sample::Mark => return group("dim", &mark(0, x + SAMPLE / 2.0, y, "")),
        Sample::Tail => (0, line("tail", (x, y), (x + SAMPLE, y))),
        Sample::Top => (0, line("top", (x, y), (x + SAMPLE, y))),
        Sample::Ring => (0, ring(x + SAMPLE / 2.0, y, "")),
    };
    group(&class(look), &drawn)
}

fn group(class: &str, drawn: &str) -> String {
    format!("<g class=\"{class}\">{drawn}</g>")
}

/// The ring around an outlier.
pub(super) fn ring(x: f64, y: f64, told: &str) -> String {
    let told = super::sketch::tip(told);
    format!("<circle class=\"ring\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\">{told}</circle>")
}

#[cfg(test)]
mod tests {
    use super::super::sketch::tests::well_formed;
    use super::super::sketch::{NARROW, WIDE};
    use super::*;

    fn axis(title: &str) -> Axis {
        let scale = Scale::log_around([7_000.0, 4_000_000.0].into_iter()).expect("values");
        Axis { title: title.into(), scale, ticks: scale.ticks(|value| format!("{value:.1} µs")) }
    }

    fn attribute(node: roxmltree::Node<'_, '_>, name: &str) -> f64 {
        node.attribute(name).and_then(|text| text.parse().ok()).expect("a number")
    }

    /// No two pieces of text overlap, and none leaves the drawing.
    #[test]
    fn legend_and_labels_have_their_own_place() {
        let key = |n: usize| Key {
            label: format!("subject number {n}"),
            sample: Sample::Line { look: n, run: None },
        };
        let legend: Vec<Key> = (0..12).map(key).collect();
        for size in [WIDE, NARROW] {
            let sketch = Plot::new(size, axis("x"), axis("y"), &legend).finish("");
            let markup = format!("<svg>{}</svg>", sketch.body);
            let document = well_formed(&markup);
            let mut boxes: Vec<(f64, f64, f64, String)> = Vec::new();
            for node in document.descendants().filter(|node| node.has_tag_name("text")) {
                let text = node.text().expect("no label is empty").to_owned();
                let wide = text::width(&text) * FONT;
                let x = attribute(node, "x");
                let class = node.attribute("class").unwrap_or_default();
                let from = match class {
                    class if class.contains("end") => x - wide,
                    class if class.contains("mid") => x - wide / 2.0,
                    _ => x,
                };
                let y = attribute(node, "y");
                assert!(from >= -0.5 && from + wide <= size.width + 0.5, "{text}: {from} {wide}");
                assert!((8.0..sketch.height).contains(&y), "{text}");
                for (left, right, line, other) in &boxes {
                    let apart = from >= *right || from + wide <= *left || (y - line).abs() >= 11.0;
                    assert!(apart, "{text} and {other}");
                }
                boxes.push((from, from + wide, y, text));
            }
            let shown = |n| boxes.iter().any(|(.., text)| *text == format!("subject number {n}"));
            assert!((0..12).all(shown), "{boxes:?}");
        }
    }

    #[test]
    fn data_is_drawn_between_the_axes() {
        let plot = Plot::new(WIDE, axis("x"), axis("y"), &[]);
        let (x, y) = plot.point((7_000.0, 7_000.0));
        assert!(plot.left < x && x < plot.right && plot.top < y && y < plot.bottom);
        assert!(plot.y(8_000.0) < y, "upwards");
        assert!(plot.x(8_000.0) > x, "to the right");
    }
}

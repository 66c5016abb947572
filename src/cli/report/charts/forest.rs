//! Ratios, one below the other, each with its spread, around the line where nothing differs.
//!
//! Used for ringwire against its floors, with the goal it is held to, and for one run against
//! another. The axis is logarithmic: twice and half are as far from 1. The same ratio in several
//! runs is a group, a line a run: all of them on one axis, as they are to be compared.

use super::super::scale::Scale;
use super::super::sketch::{Drawing, FONT, Size, Sketch, label, line, mark};
use super::super::text;

/// Height of one ratio without its name and verdict.
const RUN: f64 = 20.0;
/// What a verdict takes where it has no place beside its name.
const LINE: f64 = 15.0;

/// One ratio.
#[derive(Debug, Clone)]
pub(in crate::cli::report) struct Ratio {
    /// Whose, of what. Not escaped.
    pub(in crate::cli::report) name: String,
    /// In which run, where it stands among those of others.
    pub(in crate::cli::report) run: Option<String>,
    pub(in crate::cli::report) value: f64,
    /// How far it may go: its interval, or the spread that a file allows.
    pub(in crate::cli::report) range: Option<(f64, f64)>,
    pub(in crate::cli::report) goal: Option<f64>,
    pub(in crate::cli::report) verdict: String,
    pub(in crate::cli::report) state: State,
}

/// What a verdict amounts to; each has a colour and a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::report) enum State {
    Good,
    Bad,
    Plain,
}

impl State {
    /// The class of its colour.
    pub(in crate::cli::report) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Plain => "plain",
        }
    }

    /// A look whose mark no other state has: a circle, a cross, a diamond.
    fn look(self) -> usize {
        match self {
            Self::Good => 0,
            Self::Bad => 4,
            Self::Plain => 3,
        }
    }
}

/// The drawing of `ratios`; `None` when there are none.
pub(in crate::cli::report) fn draw(name: &str, title: &str, ratios: &[Ratio]) -> Option<Drawing> {
    let drawable: Vec<&Ratio> = ratios.iter().filter(|ratio| ratio.value > 0.0).collect();
    if drawable.is_empty() {
        return None;
    }
    Drawing::new(name, title, |size| sketch(&drawable, size))
}

fn sketch(ratios: &[&Ratio], size: Size) -> Option<Sketch> {
    let ends = |ratio: &&Ratio| {
        let (low, high) = ratio.range.unzip();
        [Some(ratio.value), low, high, ratio.goal, Some(1.0)]
    };
    let scale = Scale::log_around(ratios.iter().flat_map(ends).flatten())?;
    let widest = |of: fn(&Ratio) -> &str| {
        ratios.iter().map(|ratio| text::width(of(ratio)) * FONT).fold(0.0, f64::max)
    };
    // Runs have their letter before the axis and their verdict behind it.
    let is_grouped = ratios.iter().any(|ratio| ratio.run.is_some());
    let margin = |width: f64| if is_grouped { width + 8.0 } else { 0.0 };
    let left = 10.0 + margin(widest(|ratio| ratio.run.as_deref().unwrap_or("")));
    let right = size.width - 10.0 - margin(widest(|ratio| &ratio.verdict));
    let right = right.max(left + size.width / 4.0);
    let wide = |ratio: &&&Ratio| {
        (text::width(&ratio.name) + text::width(&ratio.verdict)) * FONT + 24.0 > size.width
    };
    let is_apart = !is_grouped && ratios.iter().any(|ratio| wide(&ratio));
    let extra = if is_apart { LINE } else { 0.0 };
    let x = |value: f64| left + scale.place(value) * (right - left);
    let mut ticks = scale.ticks(|value| format!("{value:.2}"));
    super::super::scale::thin_out(scale, &mut ticks, right - left, FONT);
    // Between the names, never through them.
    let grid = |from: f64, to: f64| {
        let lines = ticks.iter().map(|tick| line("grid", (x(tick.at), from), (x(tick.at), to)));
        lines.collect::<String>() + &line("axis", (x(1.0), from), (x(1.0), to))
    };
    let mut body = String::new();
    let mut bottom = 0.0;
    for group in ratios.chunk_by(|one, next| is_grouped && one.name == next.name) {
        let y = bottom + 18.0;
        body += &label("", 2.0, y, &fit(&group[0].name, size.width - 8.0));
        let first = y + extra + 12.0;
        for (ratio, row) in group.iter().zip(0_u16..) {
            let middle = first + f64::from(row) * RUN;
            body += &grid(middle - RUN / 2.0 + 2.0, middle + RUN / 2.0 - 2.0);
            let class = ratio.state.class();
            let level = if is_grouped { middle + 4.0 } else { y + extra };
            body += &label(&format!("end {class}"), size.width - 4.0, level, &ratio.verdict);
            if let Some(run) = &ratio.run {
                body += &label("dim", 2.0, level, run);
            }
            body += &one(ratio, &x, middle);
            bottom = middle + 10.0;
        }
    }
    bottom += 10.0;
    for tick in ticks.iter().filter(|tick| !tick.label.is_empty()) {
        body += &label("dim mid", x(tick.at), bottom + 16.0, &format!("{}x", tick.label));
    }
    Some(Sketch { width: size.width, height: bottom + 24.0, body })
}

/// A ratio with its spread and its goal.
fn one(ratio: &Ratio, x: &impl Fn(f64) -> f64, middle: f64) -> String {
    let mut body = format!("<g class=\"{}\">", ratio.state.class());
    if let Some((low, high)) = ratio.range {
        body += &line("thin", (x(low), middle), (x(high), middle));
    }
    if let Some(goal) = ratio.goal {
        body += &line("line", (x(goal), middle - 7.0), (x(goal), middle + 7.0));
    }
    let told = match &ratio.run {
        Some(run) => format!("{run}, {}: {}", ratio.name, ratio.verdict),
        None => format!("{}: {}", ratio.name, ratio.verdict),
    };
    body += &mark(ratio.state.look(), x(ratio.value), middle, &told);
    body + "</g>"
}

/// As much of a name as there is room for.
fn fit(name: &str, room: f64) -> String {
    let mut chars = name.chars().count().max(1);
    while chars > 4 && text::width(&text::cut(name, chars)) * FONT > room {
        chars -= 1;
    }
    text::cut(name, chars)
}

#[cfg(test)]
mod tests {
    use super::super::super::sketch::tests::{texts, well_formed};
    use super::super::super::sketch::{NARROW, WIDE};
    use super::*;

    fn ratio(value: f64, state: State) -> Ratio {
        Ratio {
            name: "rtt 64 B spin, p50 / <socket> with a name that goes on and on".into(),
            run: None,
            value,
            range: Some((value * 0.7, value * 1.3)),
            goal: Some(1.15),
            verdict: format!("{value:.2}x, goal <= 1.15x met"),
            state,
        }
    }

    #[test]
    fn ratios_stand_around_one() {
        let ratios = [ratio(0.9, State::Good), ratio(1.4, State::Bad), ratio(0.0, State::Plain)];
        let drawing = draw("a", "ratios", &ratios).expect("two can be drawn");
        let file = drawing.file();
        let shown = texts(&well_formed(&file), "text");
        assert!(shown.contains(&"1x".into()), "{shown:?}");
        assert!(shown.contains(&"1.40x, goal <= 1.15x met".into()), "{shown:?}");
        assert_eq!(file.matches("<g class=\"good\">").count(), 1);
        assert_eq!(file.matches("<g class=\"bad\">").count(), 1);
        assert!(draw("a", "none", &ratios[2..]).is_none());
    }

    /// Beside each other where there is room, and below each other where not: nothing is cut.
    #[test]
    fn names_and_verdicts_do_not_meet() {
        let lines = |size: Size, name: &str| {
            let one = Ratio { name: name.into(), ..ratio(1.0, State::Plain) };
            let sketch = sketch(&[&one], size).expect("drawn");
            let markup = format!("<svg>{}</svg>", sketch.body);
            let document = well_formed(&markup);
            let shown = texts(&document, "text");
            assert!(shown.contains(&one.verdict) && shown.contains(&one.name), "{shown:?}");
            let is_said = |node: &roxmltree::Node<'_, '_>| {
                node.text().is_some_and(|text| text == one.name || text == one.verdict)
            };
            let places = document.descendants().filter(|node| node.is_element() && is_said(node));
            places.filter_map(|node| node.attribute("y")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(WIDE, "rtt 64 B spin: p50 / socket"), ["18.0", "18.0"]);
        assert_eq!(lines(NARROW, "rtt 64 B spin: p50 / omq-tokio"), ["18.0", "33.0"]);
        assert_eq!(lines(NARROW, "a / b"), ["18.0", "18.0"]);
    }

    /// A line through a name makes both hard to read.
    #[test]
    fn grid_runs_between_the_names() {
        let of_run =
            |run: Option<&str>| Ratio { run: run.map(Into::into), ..ratio(0.5, State::Bad) };
        let alone = [of_run(None), of_run(None), of_run(None)];
        let grouped = [of_run(Some("A")), of_run(Some("B")), of_run(Some("C"))];
        for (ratios, size) in
            [(&alone, WIDE), (&alone, NARROW), (&grouped, WIDE), (&grouped, NARROW)]
        {
            let all: Vec<&Ratio> = ratios.iter().collect();
            let markup = format!("<svg>{}</svg>", sketch(&all, size).expect("drawn").body);
            let document = well_formed(&markup);
            let number = |node: roxmltree::Node<'_, '_>, name: &str| -> f64 {
                node.attribute(name).expect("it has one").parse().expect("a number")
            };
            let labels: Vec<_> = document
                .descendants()
                .filter(|node| node.has_tag_name("text"))
                .map(|node| {
                    let wide = text::width(node.text().expect("no label is empty")) * FONT;
                    let x = number(node, "x");
                    let from = match node.attribute("class") {
                        Some(class) if class.contains("end") => x - wide,
                        Some(class) if class.contains("mid") => x - wide / 2.0,
                        _ => x,
                    };
                    (from, from + wide, number(node, "y"))
                })
                .collect();
            assert!(labels.len() > 3, "{markup}");
            let mut count = 0;
            for line in document.descendants().filter(|node| node.has_tag_name("line")) {
                let class = line.attribute("class");
                if !matches!(class, Some("grid" | "axis")) {
                    continue;
                }
                let (x, from, to) = (number(line, "x1"), number(line, "y1"), number(line, "y2"));
                for (left, right, y) in &labels {
                    let is_beside = x < *left || x > *right;
                    assert!(is_beside || to <= y - 9.0 || from >= y + 3.0, "{x} {from} {to}: {y}");
                }
                count += 1;
            }
            assert!(count > 6, "{count} lines");
        }
    }

    /// What is to be compared stands on one axis, one below the other, under a name that is said
    /// once.
    #[test]
    fn runs_of_a_ratio_are_a_group() {
        let one = |name: &str, run: &str| Ratio {
            name: name.into(),
            run: Some(run.into()),
            verdict: format!("met in {run}"),
            ..ratio(1.0, State::Good)
        };
        let ratios = [one("first", "A"), one("first", "B"), one("second", "A"), one("second", "B")];
        let file = draw("a", "ratios", &ratios).expect("drawn").file();
        let shown = texts(&well_formed(&file), "text");
        let shown: Vec<&str> =
            shown.iter().map(|text| &**text).filter(|t| !t.ends_with('x')).collect();
        let group = |name| [name, "met in A", "A", "met in B", "B"];
        assert_eq!(shown[1..], [group("first"), group("second")].concat());
    }

    #[test]
    fn overlong_names_are_cut() {
        let name = fit(&"x".repeat(200), 344.0);
        assert!(name.ends_with('…') && text::width(&name) * FONT <= 344.0, "{name}");
    }
}

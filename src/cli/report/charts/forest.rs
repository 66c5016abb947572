//! Ratios, one below the other, each with its spread, around the line where nothing differs.
//!
//! Used for ringwire against its floors, with the goal it is held to, and for one run against
//! another. The axis is logarithmic: twice and half are as far from 1.

use super::super::scale::Scale;
use super::super::sketch::{Drawing, FONT, Size, Sketch, label, line, mark};
use super::super::text;

/// Height of one ratio with its name and verdict above.
const ROW: f64 = 40.0;
/// What a verdict takes where it has no place beside its name.
const LINE: f64 = 15.0;

/// One ratio.
#[derive(Debug, Clone)]
pub(in crate::cli::report) struct Ratio {
    /// Whose, of what. Not escaped.
    pub(in crate::cli::report) name: String,
    pub(in crate::cli::report) value: f64,
    /// Its smallest and largest, were the spreads of both sides to meet at their worst.
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
    let (left, right) = (10.0, size.width - 10.0);
    let wide = |ratio: &&&Ratio| {
        (text::width(&ratio.name) + text::width(&ratio.verdict)) * FONT + 24.0 > size.width
    };
    let extra = if ratios.iter().any(|ratio| wide(&ratio)) { LINE } else { 0.0 };
    let row_height = ROW + extra;
    let x = |value: f64| left + scale.place(value) * (right - left);
    let bottom = ratios.len() as f64 * row_height + 10.0;
    let mut ticks = scale.ticks(|value| format!("{value:.2}"));
    super::super::scale::thin_out(scale, &mut ticks, right - left, FONT);
    let mut body = String::new();
    for tick in &ticks {
        body += &line("grid", (x(tick.at), 4.0), (x(tick.at), bottom));
        if !tick.label.is_empty() {
            body += &label("dim mid", x(tick.at), bottom + 16.0, &format!("{}x", tick.label));
        }
    }
    body += &line("axis", (x(1.0), 4.0), (x(1.0), bottom));
    for (ratio, row) in ratios.iter().zip(0_u16..) {
        let y = f64::from(row) * row_height + 18.0;
        let class = ratio.state.class();
        body += &label("halo", 2.0, y, &fit(&ratio.name, size.width - 8.0));
        let verdict = &ratio.verdict;
        body += &label(&format!("halo end {class}"), size.width - 4.0, y + extra, verdict);
        let middle = y + extra + 12.0;
        body += &format!("<g class=\"{class}\">");
        if let Some((low, high)) = ratio.range {
            body += &line("thin", (x(low), middle), (x(high), middle));
        }
        if let Some(goal) = ratio.goal {
            body += &line("line", (x(goal), middle - 7.0), (x(goal), middle + 7.0));
        }
        let told = format!("{}: {:.2}x {}", ratio.name, ratio.value, ratio.verdict);
        body += &mark(ratio.state.look(), x(ratio.value), middle, &told);
        body += "</g>";
    }
    Some(Sketch { width: size.width, height: bottom + 24.0, body })
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
            let halo = |node: &roxmltree::Node<'_, '_>| {
                node.attribute("class").is_some_and(|class| class.contains("halo"))
            };
            let places = document.descendants().filter(halo);
            places.filter_map(|node| node.attribute("y")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(WIDE, "rtt 64 B spin: p50 / socket"), ["18.0", "18.0"]);
        assert_eq!(lines(NARROW, "rtt 64 B spin: p50 / omq-tokio"), ["18.0", "33.0"]);
        assert_eq!(lines(NARROW, "a / b"), ["18.0", "18.0"]);
    }

    #[test]
    fn overlong_names_are_cut() {
        let name = fit(&"x".repeat(200), 344.0);
        assert!(name.ends_with('…') && text::width(&name) * FONT <= 344.0, "{name}");
    }
}

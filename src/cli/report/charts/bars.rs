//! Rates side by side, for cases in which nothing but the rate was taken.

use super::super::figure::RATE;
use super::super::model::{Book, Case};
use super::super::scale::Scale;
use super::super::sketch::{Drawing, Size, Sketch, class, label, line};
use super::legend_name;

/// Height of one bar with its name above.
const ROW: f64 = 42.0;

/// The rates of a case; `None` unless two subjects have one.
pub(in crate::cli::report) fn draw(book: &Book<'_>, case: &Case<'_>) -> Option<Drawing> {
    let bars: Vec<Bar> = case
        .entries
        .iter()
        .filter_map(|entry| {
            let value = (RATE.of)(entry.row)?;
            let (name, look) = (legend_name(book, entry), book.look(&entry.label));
            Some(Bar { name, look, value, range: (RATE.range)(entry.row) })
        })
        .collect();
    if bars.len() < 2 {
        return None;
    }
    let title = format!("{}: frames per second", case.title());
    Drawing::new(&format!("{} rates", case.title()), &title, |size| Some(sketch(&bars, size)))
}

struct Bar {
    name: String,
    look: usize,
    value: f64,
    range: Option<(f64, f64)>,
}

fn sketch(bars: &[Bar], size: Size) -> Sketch {
    let high = |bar: &Bar| bar.range.map_or(bar.value, |range| range.1.max(bar.value));
    let scale = Scale::from_zero(bars.iter().map(high));
    let right = size.width - 8.0;
    let x = |value: f64| 2.0 + scale.place(value) * (right - 2.0);
    let mut body = String::new();
    for (bar, row) in bars.iter().zip(0_u16..) {
        let y = f64::from(row) * ROW + 16.0;
        body += &label("", 2.0, y, &bar.name);
        body += &label("end", right, y, &(RATE.unit)(bar.value));
        body += &format!(
            "<g class=\"{}\"><rect class=\"bar\" x=\"2\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" \
             rx=\"2\"/></g>",
            class(bar.look),
            y + 7.0,
            (x(bar.value) - 2.0).max(1.0)
        );
        if let Some((low, high)) = bar.range {
            let middle = y + 13.0;
            body += &format!(
                "<g class=\"plain\">{}{}{}</g>",
                line("thin", (x(low), middle), (x(high), middle)),
                line("thin", (x(low), middle - 4.0), (x(low), middle + 4.0)),
                line("thin", (x(high), middle - 4.0), (x(high), middle + 4.0)),
            );
        }
    }
    let rows = bars.len() as f64;
    Sketch { width: size.width, height: rows * ROW + 4.0, body }
}

#[cfg(test)]
mod tests {
    use super::super::super::read;
    use super::super::super::sketch::tests::{texts, well_formed};
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_rates() {
        let row = |subject: &str, rest: &str| {
            format!("{{\"scenario\":\"stream\",\"subject\":\"{subject}\",{rest}}}\n")
        };
        let text =
            row("a", "\"frames_per_s\":2e6,\"frames_per_s_low\":1e6,\"frames_per_s_high\":3e6")
                + &row("b", "\"frames_per_s\":1e6")
                + &row("c", "\"p50_ns\":1");
        let runs = read::parse("a", text.as_bytes()).expect("rows");
        let book = Book::new(&runs);
        let file = draw(&book, &book.cases[0]).expect("two rates").file();
        let document = well_formed(&file);
        let bars = document.descendants().filter(|node| node.attribute("class") == Some("bar"));
        let width = |node: roxmltree::Node<'_, '_>| {
            node.attribute("width").and_then(|text| text.parse::<f64>().ok()).expect("a number")
        };
        let widths: Vec<f64> = bars.map(width).collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[0] / widths[1] - 2.0).abs() < 0.01, "{widths:?}");
        assert_eq!(file.matches("class=\"thin\"").count(), 3, "the rounds of the one that says so");
        assert_eq!(texts(&document, "text")[1..], ["a", "2.00 M", "b", "1.00 M"]);
        let runs = read::parse("a", row("b", "\"frames_per_s\":1").as_bytes()).expect("a row");
        let book = Book::new(&runs);
        assert!(draw(&book, &book.cases[0]).is_none(), "nothing is beside it");
    }
}

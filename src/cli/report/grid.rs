//! A table as markup: as wide as it is, and for screens it is too wide for the same in blocks.
//!
//! A block is what a table has of one subject, its figures beside and below each other. No script
//! measures anything: the width of a table is estimated from its text, and the style sheet shows
//! the blocks where a screen is narrower. What is estimated too narrow scrolls by itself.

use super::text::{self, escape};

/// Size of a table's letters, and of the small ones below a figure, in CSS pixels.
const FONT: f64 = 14.0;
const FONT_SMALL: f64 = 12.0;
/// Left and right of a cell's text.
const PADDING: f64 = 20.0;
/// Of the dot before a subject's name.
const DOT: f64 = 16.0;
/// Least width of a cell whose text wraps.
const WRAPPED: f64 = 90.0;
/// What one half of a page that shows two things side by side is wide at least.
pub(super) const HALF: f64 = 460.0;
/// Widths of tables are told apart by so much.
const STEP: f64 = 100.0;
/// The widest a page gets, in steps: a wider table scrolls there, as blocks compare worse.
const STEPS_MAX: u32 = 11;
/// Margins of a page.
const MARGINS: f64 = 48.0;

/// A cell: markup, and the class of its element.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) markup: String,
    pub(super) class: &'static str,
}

impl Cell {
    pub(super) fn text(text: &str) -> Self {
        Self { markup: escape(text), class: "" }
    }

    pub(super) fn number(text: &str) -> Self {
        Self { markup: escape(text), class: "n" }
    }

    /// A figure that is not there.
    pub(super) fn nothing() -> Self {
        Self { markup: "–".into(), class: "n dim" }
    }

    /// Text that may go over several lines.
    pub(super) fn wrapped(text: &str) -> Self {
        Self { markup: escape(text), class: "wrap" }
    }
}

/// What a table has of one subject.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) title: Cell,
    /// Names, as markup, and what stands under them.
    pub(super) figures: Vec<(String, Cell)>,
}

/// How much room a figure of a block needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Room {
    /// One value.
    One,
    /// Two values and what became of them.
    Two,
}

/// A table in both forms.
#[derive(Debug)]
pub(super) struct Fitted {
    /// What the table takes, estimated, in CSS pixels.
    pub(super) width: f64,
    pub(super) markup: String,
}

/// A table: a head, and rows that open with their name. Cells under a number stand right.
pub(super) fn table(head: &[Cell], rows: &[Vec<Cell>]) -> String {
    let mut out = String::from("<div class=\"scroll\"><table><thead><tr>");
    for cell in head {
        out += &format!("<th scope=\"col\"{}>{}</th>", attribute(cell.class), cell.markup);
    }
    out += "</tr></thead><tbody>\n";
    for row in rows {
        out += "<tr>";
        for (index, cell) in row.iter().enumerate() {
            let Cell { markup, class } = cell;
            let class = attribute(class);
            out += &match index {
                0 => format!("<th scope=\"row\"{class}>{markup}</th>"),
                _ => format!("<td{class}>{markup}</td>"),
            };
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n"
}

/// A table, and in its place `blocks` where a screen is narrower.
pub(super) fn fitted(head: &[Cell], rows: &[Vec<Cell>], blocks: &[Block], room: Room) -> Fitted {
    let width = width(head, rows);
    let class = match room {
        Room::One => "",
        Room::Two => " two",
    };
    let mut markup = format!("<div class=\"fit-{}\">{}", steps(width), table(head, rows));
    markup += &format!("<div class=\"blocks{class}\">");
    for block in blocks {
        let Cell { markup: title, class } = &block.title;
        markup += &format!("<h4{}>{title}</h4><dl>", attribute(class));
        for (name, Cell { markup: value, class }) in &block.figures {
            let class = attribute(class.trim_start_matches('n').trim_start());
            markup += &format!("<div><dt>{name}</dt><dd{class}>{value}</dd></div>");
        }
        markup += "</dl>\n";
    }
    markup += "</div></div>\n";
    Fitted { width, markup }
}

/// The same with rows and columns exchanged.
pub(super) fn turned(head: Vec<Cell>, rows: Vec<Vec<Cell>>) -> (Vec<Cell>, Vec<Vec<Cell>>) {
    let count = head.len();
    let mut columns: Vec<Vec<Cell>> = (0..count).map(|_| Vec::new()).collect();
    for row in std::iter::once(head).chain(rows) {
        assert_eq!(row.len(), count, "a table has no holes");
        columns.iter_mut().zip(row).for_each(|(column, cell)| column.push(cell));
    }
    // Names stand left where they open a row, and above their numbers where they head a column.
    columns.iter_mut().for_each(|row| row[0].class = "");
    let mut head = columns.remove(0);
    head.iter_mut().skip(1).for_each(|cell| cell.class = "n");
    (head, columns)
}

/// The rules that show a table or its blocks, by how wide the screen is.
pub(super) fn style() -> String {
    let rule = |steps: u32| {
        let narrower = f64::from(steps) * STEP + MARGINS - 1.0;
        format!(
            "@media(max-width:{narrower:.0}px){{.fit-{steps}>.scroll{{display:none}}\
             .fit-{steps}>.blocks{{display:block}}}}"
        )
    };
    (1..=STEPS_MAX).map(rule).collect()
}

fn attribute(class: &str) -> String {
    if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") }
}

/// How many steps of a screen a table takes; the widest are all alike.
fn steps(width: f64) -> u32 {
    (1..STEPS_MAX).find(|steps| width <= f64::from(*steps) * STEP).unwrap_or(STEPS_MAX)
}

/// About how wide a table is drawn.
fn width(head: &[Cell], rows: &[Vec<Cell>]) -> f64 {
    let column = |index: usize| {
        let cells = std::iter::once(head).chain(rows.iter().map(Vec::as_slice));
        let cells = cells.filter_map(|row| row.get(index));
        cells.map(cell_width).fold(0.0, f64::max) + PADDING
    };
    (0..head.len()).map(column).sum()
}

/// About how wide the longest line of a cell is drawn.
fn cell_width(cell: &Cell) -> f64 {
    let is_wrapped = cell.class.contains("wrap");
    let least = if is_wrapped { WRAPPED } else { 0.0 };
    let (mut widest, mut line, mut font) = (least, 0.0, FONT);
    let mut rest = &*cell.markup;
    while let Some(c) = rest.chars().next() {
        let end = match c {
            '<' => rest.find('>'),
            '&' => rest.find(';'),
            _ => None,
        };
        let (piece, after) = rest.split_at(end.map_or(c.len_utf8(), |end| end + 1));
        match piece {
            "<small>" => (widest, line, font) = (f64::max(widest, line), 0.0, FONT_SMALL),
            tag if tag.starts_with("<i") => line += DOT,
            tag if tag.starts_with('<') => {}
            " " if is_wrapped => (widest, line) = (f64::max(widest, line), 0.0),
            entity if entity.len() > 1 && c == '&' => line += text::width("x") * font,
            character => line += text::width(character) * font,
        }
        rest = after;
    }
    f64::max(widest, line)
}

#[cfg(test)]
mod tests {
    use super::super::sketch::tests::{texts, well_formed};
    use super::*;

    #[test]
    fn width_follows_the_longest_line() {
        let of = |markup: &str, class| cell_width(&Cell { markup: markup.into(), class });
        assert_eq!(of("", ""), 0.0);
        assert!((of("10.4", "n") - of("10.4<small>1</small>", "n")).abs() < 1e-9);
        assert!(of("1<small>10.3 µs–10.6 µs</small>", "n") > of("10.4 µs", "n"));
        assert!((of("a&lt;b", "") - of("axb", "")).abs() < 1e-9, "an entity is a character");
        assert!((of("<i class=\"dot l1\"></i>ab", "") - of("ab", "") - DOT).abs() < 1e-9);
        let long = "many words that go over several lines of a cell, each of them a short one";
        assert_eq!(of(long, "wrap"), WRAPPED);
    }

    /// Every table has a rule, and the wider of two keeps its place on fewer screens.
    #[test]
    fn narrow_screens_get_blocks() {
        let style = style();
        let cell = |text: &str| Cell::text(text);
        let mut before = 0;
        for count in 1..40 {
            let head: Vec<Cell> = (0..count).map(|_| cell("a wide head")).collect();
            let block =
                Block { title: cell("<one>"), figures: vec![("p&lt;50".into(), cell("1"))] };
            let fitted = fitted(&head, std::slice::from_ref(&head), &[block], Room::One);
            let steps = steps(fitted.width);
            assert!(steps >= before && (1..=STEPS_MAX).contains(&steps), "{steps}");
            before = steps;
            let document = well_formed(&fitted.markup);
            assert_eq!(texts(&document, "h4"), ["<one>"]);
            let shown = (texts(&document, "dt"), texts(&document, "dd"));
            assert_eq!(shown, (vec!["p<50".into()], vec!["1".into()]));
            let shown = format!(".fit-{steps}>.blocks{{display:block}}");
            assert_eq!(style.matches(&shown).count(), 1, "{style}");
            assert!(fitted.markup.contains(&format!("class=\"fit-{steps}\"")));
            let room = f64::from(steps) * STEP;
            assert!(fitted.width <= room || steps == STEPS_MAX, "{}", fitted.width);
        }
        assert_eq!(before, STEPS_MAX);
        assert!(style.contains("@media(max-width:547px){.fit-5>.scroll{display:none}"), "{style}");
    }
}

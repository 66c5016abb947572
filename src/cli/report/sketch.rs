//! A drawing as SVG: inside the page, where it takes the page's colours, or as a file of its own.
//!
//! Every drawing is made twice, for a desk and for a phone: letters keep their size, and the page
//! shows the one that fits. Colours are variables with a value for light and one for dark. They
//! were chosen to differ in lightness too, and every look has a mark of its own shape, so that
//! nothing is told by colour alone.

use super::text::escape;

/// Size of letters in drawings, in the drawing's units, which are CSS pixels on a page.
pub(super) const FONT: f64 = 12.0;

/// Width and height of a drawing's plot; the legend adds to the height.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

/// As wide as half a page on a desk.
pub(super) const WIDE: Size = Size { width: 560.0, height: 300.0 };
/// As wide as a phone, without the page's margins.
pub(super) const NARROW: Size = Size { width: 344.0, height: 260.0 };

/// One drawing, made for both widths.
#[derive(Debug, Clone)]
pub(super) struct Drawing {
    /// Of its file, without the ending.
    pub(super) name: String,
    /// What it shows, not escaped.
    pub(super) title: String,
    wide: Sketch,
    narrow: Sketch,
}

/// What stands in a drawing, and how large that is.
#[derive(Debug, Clone)]
pub(super) struct Sketch {
    pub(super) width: f64,
    pub(super) height: f64,
    /// Elements of SVG; text in them is escaped.
    pub(super) body: String,
}

/// Colours by the number of a look, in light and dark.
const COLOURS: [(&str, &str); 10] = [
    ("#0b5cad", "#6cb6ff"),
    ("#5f6773", "#a9b4c0"),
    ("#c24e00", "#ff9457"),
    ("#00805f", "#3fd1a0"),
    ("#a1357f", "#f29bd4"),
    ("#8a6d00", "#e8c547"),
    ("#1d8fc7", "#a5e2ff"),
    ("#6b3fa0", "#b79cff"),
    ("#7a3b12", "#d9a37a"),
    ("#1b1f24", "#f0f3f6"),
];

/// The other colours, in light and dark.
const INKS: [(&str, &str, &str); 10] = [
    ("ink", "#1b1f24", "#e4e8ec"),
    ("dim", "#57606a", "#9aa5b1"),
    ("rule", "#8c959f", "#6b7682"),
    ("grid", "#e3e7eb", "#2c333b"),
    ("paper", "#ffffff", "#14181d"),
    ("card", "#f6f8fa", "#1c2127"),
    ("good", "#0a6b3d", "#56d38f"),
    ("bad", "#b3261e", "#ff8f85"),
    ("link", "#0b5cad", "#6cb6ff"),
    // Of outliers: further from every look than `bad`, which is text and has to be read.
    ("alarm", "#d1001f", "#ff3b3b"),
];

/// How lines of the same subject in several runs differ.
const DASHES: [&str; 4] = ["5 4", "", "1.5 3", "9 3 2 3"];

const RULES: &str = "\
svg text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif;\
fill:var(--ink)}\
svg .dim{fill:var(--dim);color:var(--dim)}svg .end{text-anchor:end}svg .mid{text-anchor:middle}\
svg .grid{stroke:var(--grid);fill:none}svg .axis{stroke:var(--rule);fill:none}\
svg .line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}\
svg .l0 .line{stroke-width:2.6}\
svg .thin{fill:none;stroke:currentColor;stroke-width:1;opacity:.75}\
svg .mark{fill:currentColor;stroke:var(--paper);stroke-width:1}\
svg .bar{fill:currentColor}svg .ring{fill:none;stroke:var(--alarm);stroke-width:1.5}\
svg .tail{fill:none;stroke:var(--ink);stroke-width:1.2;stroke-dasharray:4 2.5}\
svg .top{fill:none;stroke:var(--dim);stroke-width:5;stroke-linejoin:round;opacity:.4}\
svg .good{color:var(--good)}svg .bad{color:var(--bad)}svg .plain{color:var(--ink)}\
svg text.good{fill:var(--good)}svg text.bad{fill:var(--bad)}";

/// The style sheet of all drawings: colours as variables of `root`, and what elements take them.
pub(super) fn style(root: &str) -> String {
    let mut light = String::new();
    let mut dark = String::new();
    for (name, day, night) in INKS {
        light += &format!("--{name}:{day};");
        dark += &format!("--{name}:{night};");
    }
    let mut looks = String::new();
    for (number, (day, night)) in COLOURS.iter().enumerate() {
        light += &format!("--l{number}:{day};");
        dark += &format!("--l{number}:{night};");
        looks += &format!(".l{number}{{color:var(--l{number})}}");
    }
    format!(
        "{root}{{color-scheme:light dark;{light}}}\
         @media(prefers-color-scheme:dark){{{root}{{{dark}}}}}{looks}{RULES}"
    )
}

impl Drawing {
    /// Makes a drawing of `title` for both widths; `None` when there is nothing to draw.
    pub(super) fn new(
        name: &str,
        title: &str,
        draw: impl Fn(Size) -> Option<Sketch>,
    ) -> Option<Self> {
        let (wide, narrow) = (draw(WIDE)?, draw(NARROW)?);
        let (name, title) = (super::text::file_name(name), title.into());
        Some(Self { name, title, wide, narrow })
    }

    /// Both sizes, as they stand in the page, whose style sheet shows one of them.
    pub(super) fn inline(&self) -> String {
        let title = escape(&self.title);
        let one = |class, sketch: &Sketch| {
            let Sketch { width, height, body } = sketch;
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"{class}\" role=\"img\" \
                 aria-label=\"{title}\" viewBox=\"0 0 {width:.0} {height:.0}\">{body}</svg>"
            )
        };
        format!(
            "<figure><figcaption>{title}</figcaption>{}{}</figure>\n",
            one("wide", &self.wide),
            one("narrow", &self.narrow)
        )
    }

    /// A whole SVG file, with its title above the drawing.
    pub(super) fn file(&self) -> String {
        let Sketch { width, height, body } = &self.wide;
        let (title, head) = (escape(&self.title), 26.0);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{width:.0}\" \
             height=\"{:.0}\" viewBox=\"0 {:.0} {width:.0} {:.0}\">\n<title>{title}</title>\n\
             <style>{}</style>\n<rect x=\"0\" y=\"{:.0}\" width=\"100%\" height=\"100%\" \
             style=\"fill:var(--paper)\"/>\n<text x=\"8\" y=\"-8\" style=\"font-weight:600\">\
             {}</text>\n{body}\n</svg>\n",
            height + head,
            -head,
            height + head,
            style("svg"),
            -head,
            escape(&super::text::cut(&self.title, 84)),
        )
    }
}

/// The class of a look; there are more looks than colours only beyond ten subjects.
pub(super) fn class(look: usize) -> String {
    format!("l{}", look % COLOURS.len())
}

/// The dash of a run's lines, as an attribute; a run alone has none.
pub(super) fn dash(run: Option<usize>) -> String {
    match run.map(|run| DASHES[run % DASHES.len()]) {
        None | Some("") => String::new(),
        Some(dash) => format!(" stroke-dasharray=\"{dash}\""),
    }
}

/// The mark of a look around a point, with what a pointer over it is told.
pub(super) fn mark(look: usize, x: f64, y: f64, told: &str) -> String {
    // Seven shapes and ten colours: seventy looks before two are the same.
    let path = match look % 7 {
        0 => return circle(x, y, 4.0, told),
        1 => "-3.5 -3.5h7v7h-7z",
        2 => "0 -4.6l4.6 8h-9.2z",
        3 => "0 -5l5 5l-5 5l-5 -5z",
        4 => {
            "-4.4 -2.6l1.8 -1.8l2.6 2.6l2.6 -2.6l1.8 1.8l-2.6 2.6l2.6 2.6l-1.8 1.8l-2.6 -2.6\
              l-2.6 2.6l-1.8 -1.8l2.6 -2.6z"
        }
        5 => "0 4.6l4.6 -8h-9.2z",
        _ => "-1.5 -5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
    };
    let told = tip(told);
    format!(
        "<path class=\"mark\" transform=\"translate({x:.1} {y:.1})\" d=\"M{path}\">{told}</path>"
    )
}

fn circle(x: f64, y: f64, radius: f64, told: &str) -> String {
    let told = tip(told);
    format!("<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\">{told}</circle>")
}

/// What a pointer over an element is told.
pub(super) fn tip(told: &str) -> String {
    if told.is_empty() { String::new() } else { format!("<title>{}</title>", escape(told)) }
}

/// A line through points.
pub(super) fn polyline(class: &str, points: &[(f64, f64)], dash: &str) -> String {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    format!("<polyline class=\"{class}\" points=\"{}\"{dash}/>", points.join(" "))
}

/// A straight line.
pub(super) fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> String {
    let ((x1, y1), (x2, y2)) = (from, to);
    format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>")
}

/// A piece of text, which is escaped here.
pub(super) fn label(class: &str, x: f64, y: f64, text: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text))
}

#[cfg(test)]
pub(super) mod tests {
    use roxmltree::Document;

    use super::*;

    /// Reads markup strictly: every element is closed, every character may stand where it does.
    #[track_caller]
    pub(in crate::cli::report) fn well_formed(markup: &str) -> Document<'_> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        Document::parse_with_options(markup, options)
            .unwrap_or_else(|error| panic!("{error}\n{markup}"))
    }

    /// All text of a document below elements called `name`.
    pub(in crate::cli::report) fn texts(document: &Document<'_>, name: &str) -> Vec<String> {
        let elements = document.descendants().filter(|node| node.tag_name().name() == name);
        let text = |node: roxmltree::Node<'_, '_>| {
            node.descendants().filter_map(|node| node.text().filter(|_| node.is_text())).collect()
        };
        elements.map(text).collect()
    }

    /// How different two colours are: the distance of CIE 1976 in L*a*b*.
    fn distance(one: &str, other: &str) -> f64 {
        let lab = |colour: &str| {
            let channel = |at: usize| {
                let byte = u8::from_str_radix(&colour[at..at + 2], 16).expect("a colour");
                let part = f64::from(byte) / 255.0;
                if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
            };
            let (r, g, b) = (channel(1), channel(3), channel(5));
            let root = |t: f64| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
            let x = root((0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505);
            let y = root(0.2126 * r + 0.7152 * g + 0.0722 * b);
            let z = root((0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089);
            [116.0 * y, 500.0 * (x - y), 200.0 * (y - z)]
        };
        let pairs = lab(one).into_iter().zip(lab(other));
        pairs.map(|(one, other)| (one - other).powi(2)).sum::<f64>().sqrt()
    }

    /// A subject's line, and the outliers upon it: 2.3 is just seen side by side, and a ring is
    /// a few pixels of a thin line.
    #[test]
    fn outliers_stand_out_from_every_line() {
        let (_, day, night) = INKS.iter().find(|ink| ink.0 == "alarm").expect("outliers have one");
        let others = INKS.iter().filter(|ink| ["ink", "dim"].contains(&ink.0));
        let others = others.map(|&(_, day, night)| (day, night)).chain(COLOURS);
        for (other_day, other_night) in others {
            assert!(distance(day, other_day) >= 25.0, "{other_day}");
            assert!(distance(night, other_night) >= 35.0, "{other_night}");
        }
    }

    /// How far from grey a pair of colours is told apart: the ratio of WCAG 2, section 1.4.3.
    fn contrast(one: &str, other: &str) -> f64 {
        let light = |colour: &str| {
            let channel = |at: usize| {
                let byte = u8::from_str_radix(&colour[at..at + 2], 16).expect("a colour");
                let part = f64::from(byte) / 255.0;
                if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
        };
        let (one, other) = (light(one), light(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn colours_stand_out_from_the_paper() {
        let paper = |night: bool| {
            let (_, day, dark) = INKS.iter().find(|ink| ink.0 == "paper").expect("there is paper");
            if night { *dark } else { *day }
        };
        for (day, night) in COLOURS {
            assert!(contrast(day, paper(false)) >= 3.0, "{day}");
            assert!(contrast(night, paper(true)) >= 3.0, "{night}");
        }
        for (name, day, night) in INKS {
            let text = ["ink", "dim", "good", "bad", "link", "alarm"].contains(&name);
            assert!(!text || contrast(day, paper(false)) >= 4.5, "{name} {day}");
            assert!(!text || contrast(night, paper(true)) >= 4.5, "{name} {night}");
        }
    }

    #[test]
    fn looks_are_all_different() {
        let looks: std::collections::BTreeSet<String> =
            (0..70).map(|look| class(look) + &mark(look, 0.0, 0.0, "")).collect();
        assert_eq!(looks.len(), 70);
    }

    #[test]
    fn file_is_well_formed_whatever_its_title() {
        let sketch =
            |_| Some(Sketch { width: 9.0, height: 9.0, body: label("", 0.0, 0.0, "<&\"") });
        let drawing = Drawing::new("../a b", "<script>\u{0}&'\"", sketch).expect("drawn");
        assert_eq!(drawing.name, "a-b");
        let file = drawing.file();
        let document = well_formed(&file);
        assert_eq!(texts(&document, "title"), ["<script>\u{fffd}&'\""]);
        well_formed(&drawing.inline());
    }
}

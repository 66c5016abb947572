//! What people read: one table per case, the subjects side by side.
//!
//! Figures run down and subjects across, so that a table is as wide as its subjects are many and
//! fits 80 columns. Each subject but the floor has its ratio to the floor beside it: of times the
//! smaller is the better, of rates the larger.

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};

use super::plan::Plan;
use super::summary::{Measured, ratio};

/// One line of the table.
struct Line {
    title: &'static str,
    /// The figure, where the subject has it.
    figure: fn(&Measured) -> Option<f64>,
    /// How it is written.
    unit: fn(f64) -> String,
    /// Lowest and highest of the rounds, shown on a line of its own.
    range: Option<Range>,
}

/// Lowest and highest figure of the rounds, where the subject has it.
type Range = fn(&Measured) -> Option<(f64, f64)>;

const LINES: [Line; 11] = [
    Line {
        range: Some(|m| Some((ns(m.record.p50_ns_low)?, ns(m.record.p50_ns_high)?))),
        ..line("p50", |m| ns(m.record.p50_ns), time)
    },
    line("p90", |m| ns(m.record.p90_ns), time),
    line("p99", |m| ns(m.record.p99_ns), time),
    line("p99.9", |m| ns(m.record.p99_9_ns), time),
    line("p99.99", |m| ns(m.record.p99_99_ns), time),
    line("max", |m| ns(m.record.max_ns), time),
    Line {
        range: Some(|m| Some(m.frames_per_s_range)),
        ..line("frames/s", |m| Some(m.record.frames_per_s), number)
    },
    line("bytes/s", |m| Some(m.record.bytes_per_s), bytes),
    line("CPU/frame", |m| Some(m.record.cpu_ns_per_frame), time),
    line("enters/frame", |m| m.record.enters_per_frame, count),
    // Only where there are any: a spinning reactor with few connections.
    line("direct/frame", |m| m.direct_per_frame.filter(|&calls| calls > 0.0), count),
];

const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// The table of one case, with its title above and an empty line below.
pub(super) fn render(plan: &Plan, rounds: usize, measured: &[Measured]) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(header(measured));
    for line in &LINES {
        if measured.iter().all(|one| (line.figure)(one).is_none()) {
            continue;
        }
        table.add_row(figures(line, measured));
        if let Some(range) = line.range
            && rounds > 1
        {
            table.add_row(ranges(range, line.unit, measured));
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let plural = if rounds == 1 { "" } else { "s" };
    let seconds = plan.duration.as_secs_f64();
    format!("{}, {rounds} round{plural} of {seconds} s\n{}\n", plan.case, table.trim_fmt())
}

/// The subjects that `index` is compared with: the floor, and bulk bytes where they were measured.
fn floors(measured: &[Measured], index: usize) -> impl Iterator<Item = &Measured> {
    measured[..index].iter().enumerate().filter(|(at, _)| *at < 2).map(|(_, floor)| floor)
}

fn header(measured: &[Measured]) -> Vec<String> {
    let mut cells = vec![String::new()];
    for (index, one) in measured.iter().enumerate() {
        cells.push(one.record.subject.into());
        cells.extend(floors(measured, index).map(|floor| format!("/{}", floor.record.subject)));
    }
    cells
}

fn figures(line: &Line, measured: &[Measured]) -> Vec<Cell> {
    let mut cells = vec![Cell::new(line.title)];
    for (index, one) in measured.iter().enumerate() {
        let figure = (line.figure)(one);
        cells.push(optional(figure.map(line.unit)));
        for floor in floors(measured, index) {
            let floor = (line.figure)(floor);
            let ratio = figure.zip(floor).and_then(|(figure, floor)| ratio(figure, floor));
            cells.push(optional(ratio.map(|ratio| format!("{ratio:.2}x"))));
        }
    }
    cells
}

fn ranges(range: Range, unit: fn(f64) -> String, measured: &[Measured]) -> Vec<Cell> {
    let mut lows = vec![Cell::new("  low\n  high")];
    for (index, one) in measured.iter().enumerate() {
        let written = range(one).map(|(low, high)| format!("{}\n{}", unit(low), unit(high)));
        lows.push(optional(written));
        lows.extend(floors(measured, index).map(|_| Cell::new("")));
    }
    lows
}

fn optional(text: Option<String>) -> Cell {
    Cell::new(text.unwrap_or_else(|| "-".into()))
}

const fn line(
    title: &'static str,
    figure: fn(&Measured) -> Option<f64>,
    unit: fn(f64) -> String,
) -> Line {
    Line { title, figure, unit, range: None }
}

fn ns(value: Option<u64>) -> Option<f64> {
    value.map(|ns| ns as f64)
}

/// Three digits and a unit.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let unit = units.iter().find(|(size, _)| value >= *size).or(units.last());
    let (size, name) = unit.expect("a table of units is not empty");
    let value = value / size;
    let decimals = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {name}").trim_end().into()
}

fn time(ns: f64) -> String {
    scaled(ns, &[(1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")])
}

fn number(count: f64) -> String {
    scaled(count, &[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")])
}

fn bytes(bytes: f64) -> String {
    scaled(bytes, &[(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")])
}

fn count(count: f64) -> String {
    if count >= 0.1 { format!("{count:.2}") } else { format!("{count:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(time(8_214.0), "8.21 us");
        assert_eq!(time(99_960.0), "100 us");
        assert_eq!(time(850.0), "850 ns");
        assert_eq!(time(0.25), "0.25 ns");
        assert_eq!(number(12_340_000.0), "12.3 M");
        assert_eq!(number(7.0), "7.00");
        assert_eq!(bytes(1.5e9), "1.50 GB");
        assert_eq!(count(0.0153), "0.0153");
    }
}

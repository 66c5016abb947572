//! The drawings of a report, each a pure function of what was read.
//!
//! ```text
//! curve   latency by percentile            series  a paced run as time went by
//! sweep   throughput by payload            bars    rates side by side
//! forest  ratios and changes, with their spread
//! ```

pub(super) mod bars;
pub(super) mod curve;
pub(super) mod forest;
pub(super) mod series;
pub(super) mod sweep;

use super::model::{Book, Entry, letter};
use super::plot::{Key, Sample};
use super::text;

/// The name of an entry in a legend; in a comparison the run's letter stands before it.
fn legend_name(book: &Book<'_>, entry: &Entry<'_>) -> String {
    let name = text::name(&entry.label);
    if book.is_comparison() { format!("{} {name}", letter(entry.run)) } else { name }
}

/// The run that gives an entry's line its dash: none unless there are several.
fn dashed(book: &Book<'_>, entry: &Entry<'_>) -> Option<usize> {
    book.is_comparison().then_some(entry.run)
}

fn key(book: &Book<'_>, entry: &Entry<'_>) -> Key {
    let (look, run) = (book.look(&entry.label), dashed(book, entry));
    Key { label: legend_name(book, entry), sample: Sample::Line { look, run } }
}

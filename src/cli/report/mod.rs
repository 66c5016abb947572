//! `ringwire report`: a page from the JSON lines of `ringwire bench --json`, or of the suite that
//! puts the same questions to other transports (`benches/peers`), and runs compared.
//!
//! ```text
//! read    JSON lines in, runs out          goals    ratios to the floor, goals met or missed
//! model   cases, subjects side by side     compare  one run against another, change or noise
//! figure  figures of a row, their units    histogram  V2 in, curves and `.hgrm` out
//! scale   axes and ticks                   charts   the drawings, one file each
//! plot    frame and legend of a plot       tables   the tables
//! sketch  SVG: colours, marks, sizes       page     all of it as one HTML document
//! text    escaping and names               folder   files that are whole or not there
//! grid    a table, and what stands in its place on a narrow screen
//! peers   what the suite of other transports has beside the bench
//! verdicts  tables of goals                faults   what makes figures worth less
//! words   how figures came about, in sentences
//! ```
//!
//! A sample, from a run that is recorded in the repository:
//!
//! ```sh
//! cargo run --release -- report benches/record/epyc-2vcpu/2026-11-22.jsonl --dir target/report
//! ```
//!
//! Everything between `read` and `folder` is a pure function from rows to strings. What stands in a
//! file is anybody's: it is bounded where it is read and escaped where it is written.

mod charts;
mod compare;
mod faults;
mod figure;
mod folder;
mod goals;
mod grid;
mod histogram;
mod model;
mod page;
mod peers;
mod plot;
mod read;
mod scale;
mod sketch;
mod tables;
mod text;
mod verdicts;
mod words;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::CommandError;
use page::Page;
use read::Run;

/// Name of the page in a folder.
const PAGE: &str = "index.html";
/// Name of the JSON lines of a bench in a folder.
const LINES: &str = "bench.jsonl";

/// Make a page from the JSON lines of `ringwire bench --json`, and compare runs.
///
/// Those of scripts/bench.sh, which runs other transports beside ringwire, make one, too.
///
/// The page stands for itself: it opens in any browser without a network, on a desk or a phone. It
/// shows the tables with their goals, latencies by percentile, throughput by payload, and paced
/// runs over time. With two runs or more, each later one is compared with the first: a difference
/// within the spread of the rounds is called noise.
///
/// A file may hold several runs, one after the other. Files of older versions can be read; what
/// they do not say is left out.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Files of JSON lines; the others are compared with the first.
    #[arg(required = true, value_name = "FILE.jsonl")]
    files: Vec<PathBuf>,

    /// Where the page goes; `-` is standard output [default: report.html].
    #[arg(long, short, value_name = "FILE|-", conflicts_with = "dir")]
    output: Option<PathBuf>,

    /// Write a folder instead: the page (index.html), its drawings (SVG), distributions of
    /// latencies (.hgrm, in microseconds) and the JSON lines.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportError {
    /// A file can not be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// Which.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file is longer than any bench's.
    #[error("{file}: longer than {bytes_max} bytes, the limit")]
    TooLong {
        /// Which.
        file: String,
        /// The limit.
        bytes_max: u64,
    },
    /// A line is not one of a bench.
    #[error("{file}:{line}: {message}")]
    Line {
        /// In which file.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A file is something else.
    #[error(
        "{file}: holds no JSON lines: a record's .jsonl is wanted, as ringwire bench --json and \
         scripts/bench.sh write it"
    )]
    NoLines {
        /// Which.
        file: String,
    },
    /// There is nothing to show.
    #[error("{file}: no results: expected the lines of ringwire bench --json")]
    Empty {
        /// In which file.
        file: String,
    },
    /// The report can not be written.
    #[error("cannot write {what}: {source}")]
    Write {
        /// Where to.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A folder that a bench's report goes to, and can.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

/// Runs `ringwire report`.
pub(super) fn run(options: &Options) -> Result<(), CommandError> {
    let mut runs = Vec::new();
    let mut read = Vec::new();
    for file in &options.files {
        let bytes = read::bytes(file)?;
        runs.append(&mut read::runs(file, &bytes)?);
        read.push(bytes);
    }
    let page = page::render(&runs);
    if let Some(folder) = &options.dir {
        folder::prepare(folder)?;
        for (name, lines) in line_names(&options.files).into_iter().zip(read) {
            folder::write(&folder.join(name), &lines)?;
        }
        write_folder(folder, &page, &runs)?;
        return say(&folder.join(PAGE), &page);
    }
    let output = options.output.as_deref().unwrap_or(Path::new("report.html"));
    if output == Path::new("-") {
        return write_out(page.html.as_bytes());
    }
    folder::write(output, page.html.as_bytes())?;
    say(output, &page)
}

impl Folder {
    /// Makes the folder and sees whether files can be made in it, before minutes are spent.
    pub(super) fn create(path: &Path) -> Result<Self, CommandError> {
        folder::prepare(path)?;
        Ok(Self { path: path.into() })
    }

    /// Writes the report of a bench's JSON lines; returns where its page is.
    pub(super) fn write(&self, lines: &str) -> Result<PathBuf, CommandError> {
        let runs = read::parse(LINES, lines.as_bytes())?;
        folder::write(&self.path.join(LINES), lines.as_bytes())?;
        write_folder(&self.path, &page::render(&runs), &runs)?;
        Ok(self.path.join(PAGE))
    }
}

/// Writes drawings and distributions, and the page last: where it is, they are.
fn write_folder(folder: &Path, page: &Page, runs: &[Run]) -> Result<(), ReportError> {
    let mut names = Vec::new();
    for drawing in &page.drawings {
        let name = unique(&drawing.name, "svg", &mut names);
        folder::write(&folder.join(name), drawing.file().as_bytes())?;
    }
    let book = model::Book::new(runs);
    for case in &book.cases {
        for entry in &case.entries {
            let Some(histogram) = &entry.row.histogram else { continue };
            let run = if book.is_comparison() { model::letter(entry.run) } else { String::new() };
            let name = text::file_name(&format!("{run} {} {}", case.title(), entry.label));
            let name = unique(&name, "hgrm", &mut names);
            folder::write(&folder.join(name), histogram::hgrm(histogram).as_bytes())?;
        }
    }
    folder::write(&folder.join(PAGE), page.html.as_bytes())
}

/// A name that was not taken yet.
fn unique(stem: &str, ending: &str, taken: &mut Vec<String>) -> String {
    let mut name = format!("{stem}.{ending}");
    let mut count = 1;
    while taken.contains(&name) {
        count += 1;
        name = format!("{stem}-{count}.{ending}");
    }
    taken.push(name.clone());
    name
}

/// What the files of lines are called in a folder: as they were, as far as that is a name.
fn line_names(files: &[PathBuf]) -> Vec<String> {
    let mut taken = Vec::new();
    let stem = |file: &PathBuf| {
        file.file_stem().map_or("bench".into(), |s| s.to_string_lossy().into_owned())
    };
    files.iter().map(|file| unique(&text::file_name(&stem(file)), "jsonl", &mut taken)).collect()
}

fn say(path: &Path, page: &Page) -> Result<(), CommandError> {
    write_out(format!("{}: {}\n", path.display(), page.summary).as_bytes())
}

fn write_out(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(CommandError::Stdout)
}

#[cfg(test)]
mod tests;

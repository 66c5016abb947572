//! The words of a registry, wherever they are, copied so that they are of one moment.
//!
//! A reader has no effect on the writer: it copies words out and looks at the writer's sequence
//! before and after.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::stats::histogram::{HEAD_WORDS, Histogram};
use crate::stats::layout::{Plan, Row};
use crate::sync::sequence;
use crate::sys::map::Map;
use crate::time::Nanos;

/// How long a row that changes under the reader is read again, when its block can not be had.
const ROW_PATIENCE: Duration = Duration::from_micros(20);
/// The same of all rows of a block together. One writer changes one row at a time.
const ROWS_PATIENCE: Duration = Duration::from_millis(1);

/// Where the words are.
#[derive(Debug)]
pub(crate) enum Source {
    File(File),
    Memory(Arc<Map>),
    /// Whatever a test puts in place of a writer.
    #[cfg(test)]
    Fake(fn(usize, &mut [u64]) -> io::Result<()>),
}

impl Source {
    /// Copies the words that begin at byte `at`.
    pub(crate) fn words(&self, at: usize, out: &mut [u64]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(out.as_mut_bytes(), at as u64),
            Self::Memory(map) => {
                for (index, word) in out.iter_mut().enumerate() {
                    let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
                    *word = map.load(at / 8 + index).ok_or_else(end)?;
                }
                Ok(())
            }
            #[cfg(test)]
            Self::Fake(words) => words(at, out),
        }
    }

    pub(crate) fn word(&self, at: usize) -> io::Result<u64> {
        let mut word = [0];
        self.words(at, &mut word)?;
        Ok(word[0])
    }

    /// Copies what belongs together under the sequence at byte `base`, by spans of words from
    /// there. Returns whether it does.
    fn attempt(&self, base: usize, spans: &[Range<usize>], out: &mut [u64]) -> io::Result<bool> {
        let copy = || {
            let mut each = spans.iter();
            each.try_for_each(|span| self.words(base + 8 * span.start, &mut out[span.clone()]))
        };
        sequence::read(|| self.word(base), copy)
    }

    /// Copies a block: its head, counters and histograms, and the rows that have ever been used.
    /// What is `is_whole` is of one moment between two turns; otherwise the writer left none in
    /// `patience` that was long enough, and only each row is, but for its counts, which the block's
    /// sequence alone covers.
    ///
    /// Whoever writes, and whatever: it takes `patience`, a little more for the rows, and the time
    /// of some copies.
    ///
    /// A reactor at work leaves some microseconds between two turns, and a histogram is 30 KiB,
    /// most of it zeros. So a first copy, of any moment, tells where it is not zero; only that is
    /// copied under the sequence; and another full copy afterwards tells whether something came up
    /// elsewhere. Counts never fall: what is zero then was zero before.
    pub(crate) fn block(&self, at: usize, plan: Plan, patience: Duration) -> io::Result<Image> {
        let deadline = Nanos::now() + patience;
        let mut rows = self.rows_used(at, plan)?;
        let mut words = vec![0; words_of(rows)];
        self.words(at, &mut words)?;
        loop {
            let spans = spans_of(&words);
            while !self.attempt(at, &spans, &mut words)? {
                if Nanos::now() >= deadline {
                    return self.torn(at, words);
                }
                std::thread::yield_now();
            }
            // Copied later: what is not there now was not there under the sequence.
            let rows_now = self.rows_used(at, plan)?;
            let mut again = vec![0; words_of(rows_now)];
            self.words(at, &mut again)?;
            if rows_now == rows && is_zero_between(&spans, &again) {
                return Ok(Image { words, is_whole: true });
            }
            // A reactor fills few places for the first time; what forges a file may never end.
            if Nanos::now() >= deadline {
                return self.torn(at, again);
            }
            (rows, words) = (rows_now, again);
        }
    }

    /// A copy of no single moment. Rows are copied again that were being written.
    fn torn(&self, at: usize, mut words: Vec<u64>) -> io::Result<Image> {
        self.words(at, &mut words)?;
        let row_words = size_of::<Row>() / 8;
        let all = Nanos::now() + ROWS_PATIENCE;
        for row in (words_of(0)..words.len()).step_by(row_words) {
            let span = 0..row_words;
            let deadline = (Nanos::now() + ROW_PATIENCE).min(all);
            let out = &mut words[row..row + row_words];
            while !self.attempt(at + 8 * row, std::slice::from_ref(&span), out)? {
                if Nanos::now() >= deadline {
                    break;
                }
            }
        }
        Ok(Image { words, is_whole: false })
    }

    /// How many rows from the first have ever been used. Places are given away in their order, so
    /// that nothing lies behind a group that has never been used.
    fn rows_used(&self, at: usize, plan: Plan) -> io::Result<usize> {
        const GROUP: usize = 64;
        let row_words = size_of::<Row>() / 8;
        let key = std::mem::offset_of!(Row, key) / 8;
        let mut group = vec![0; GROUP.min(plan.rows) * row_words];
        let mut used = 0;
        for first in (0..plan.rows).step_by(GROUP) {
            let count = GROUP.min(plan.rows - first);
            let words = &mut group[..count * row_words];
            self.words(at + 8 * words_of(first), words)?;
            match words.chunks(row_words).rposition(|row| row[key] != 0) {
                Some(last) => used = first + last + 1,
                None => break,
            }
        }
        Ok(used)
    }
}

/// A copy of a block.
#[derive(Debug)]
pub(crate) struct Image {
    /// As in the file, up to the last row that was ever used.
    pub(crate) words: Vec<u64>,
    /// All of it is of one moment.
    pub(crate) is_whole: bool,
}

/// The words of a block with so many rows.
const fn words_of(rows: usize) -> usize {
    (Plan::ROWS_AT + rows * size_of::<Row>()) / 8
}

/// Where there is something to copy: everything but what is zero in the histograms. Short gaps are
/// copied too, as that is cheaper than another system call.
fn spans_of(words: &[u64]) -> Vec<Range<usize>> {
    const GAP_MAX: usize = 256;
    let (histograms, rows) = (Plan::HISTOGRAMS_AT / 8, words_of(0));
    let one = size_of::<Histogram>() / 8;
    let is_head = |at: usize| (at - histograms) % one < HEAD_WORDS;
    let mut spans = Vec::from([Range { start: 0, end: histograms }]);
    let counted = (histograms..rows).filter(|&at| words[at] != 0 || is_head(at));
    for at in counted.chain(rows..words.len()) {
        let last = spans.last_mut().expect("never empty");
        match at - last.end < GAP_MAX {
            true => last.end = at + 1,
            false => spans.push(at..at + 1),
        }
    }
    spans
}

/// Whether there is nothing between the spans.
fn is_zero_between(spans: &[Range<usize>], words: &[u64]) -> bool {
    let is_zero = |range: Range<usize>| words[range].iter().all(|&word| word == 0);
    let end = spans.last().map_or(0, |last| last.end);
    spans.windows(2).all(|pair| is_zero(pair[0].end..pair[1].start)) && is_zero(end..words.len())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Times that a fake was asked.
        static LOOKS: Cell<usize> = const { Cell::new(0) };
        /// Copies of everything that it gave.
        static COPIES: Cell<usize> = const { Cell::new(0) };
    }

    fn next(count: &'static std::thread::LocalKey<Cell<usize>>) -> usize {
        count.replace(count.get() + 1)
    }

    /// Each copy of all has a count where the one before had none, under a sequence that rests.
    fn restless(at: usize, out: &mut [u64]) -> io::Result<()> {
        const COPIES_MAX: usize = 2_000;
        out.fill(0);
        let place = Plan::HISTOGRAMS_AT / 8 + HEAD_WORDS + 1_000;
        if at == 0 && out.len() == words_of(0) {
            let copy = next(&COPIES);
            if copy > COPIES_MAX {
                return Err(io::ErrorKind::TimedOut.into());
            }
            out[place + copy % 2 * 1_000] = 1;
        }
        Ok(())
    }

    /// A file may be anybody's: no writer keeps a reader for good.
    #[test]
    fn writer_that_always_fills_other_places_does_not_hold_its_reader() {
        let plan = Plan { blocks: 1, rows: 0 };
        let image = Source::Fake(restless).block(0, plan, Duration::from_millis(2));
        let image = image.expect("it goes on and on");
        assert!(!image.is_whole, "two copies that agree");
        assert!(COPIES.get() > 2, "it was tried again");
    }

    /// The block and all its rows are being written, for ever.
    fn stuck(at: usize, out: &mut [u64]) -> io::Result<()> {
        next(&LOOKS);
        let row_words = size_of::<Row>() / 8;
        for (word, place) in out.iter_mut().zip(at / 8..) {
            let in_row = place.checked_sub(words_of(0)).map(|place| place % row_words);
            *word = u64::from(place == 0 || in_row.is_some_and(|word| word < 2));
        }
        Ok(())
    }

    #[test]
    fn rows_that_are_written_for_ever_are_waited_for_together() {
        let plan = Plan { blocks: 1, rows: 20_000 };
        let image = Source::Fake(stuck).block(0, plan, Duration::ZERO).expect("it reads");
        assert_eq!((image.words.len(), image.is_whole), (words_of(plan.rows), false));
        let looks = LOOKS.get();
        assert!((plan.rows..10 * plan.rows).contains(&looks), "{looks}");
    }
}

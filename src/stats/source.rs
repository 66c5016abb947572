//! The words of a registry, wherever they are, copied so that they are of one moment.
//!
//! A reader has no effect on the writer: it copies words out and looks at the writer's sequence
//! before and after.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::sys::map::Map;
use crate::time::Nanos;

/// How long a part that changes under the reader is read again.
const PATIENCE: Duration = Duration::from_millis(2);

/// Where the words are.
#[derive(Debug)]
pub(crate) enum Source {
    File(File),
    Memory(Arc<Map>),
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
        }
    }

    pub(crate) fn word(&self, at: usize) -> io::Result<u64> {
        let mut word = [0];
        self.words(at, &mut word)?;
        Ok(word[0])
    }

    /// Copies what belongs together under the sequence at byte `sequence_at`. Returns whether it
    /// does.
    pub(crate) fn section(
        &self,
        sequence_at: usize,
        at: usize,
        out: &mut [u64],
    ) -> io::Result<bool> {
        let mut deadline = None;
        loop {
            let before = self.word(sequence_at)?;
            // ORDERING: Acquire: what is copied is not older than the sequence. Pairs with the
            // release store of `BlockHead::end`.
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) {
                self.words(at, out)?;
                // ORDERING: Acquire: the sequence read next is not older than what was copied.
                // Pairs with the release fence of `BlockHead::begin`.
                fence(Ordering::Acquire);
                if self.word(sequence_at)? == before {
                    return Ok(true);
                }
            }
            let now = Nanos::now();
            if now >= *deadline.get_or_insert(now + PATIENCE) {
                self.words(at, out)?;
                return Ok(false);
            }
            std::thread::yield_now();
        }
    }
}

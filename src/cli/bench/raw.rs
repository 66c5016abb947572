//! Bulk TCP: the same number of bytes without frames, what long frames are judged against.
//!
//! Nothing is encoded and nothing is looked at but the first byte of each chunk, which says whether
//! it is the last. Rates are given in frames all the same: bytes divided by a frame's length.

use std::io;

use super::harness::{Subject, SubjectError};
use super::plan::Plan;
use super::round::Round;
use super::stream::{self, Answer, Last, Sink, Source};

/// Bytes written and read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Bytes over plain sockets.
#[derive(Debug)]
pub(super) struct Raw;

struct ChunkSource {
    chunk: Vec<u8>,
}

struct ChunkSink {
    chunk: Vec<u8>,
    filled: usize,
    answer: Answer,
}

impl Subject for Raw {
    fn round(&self, plan: &Plan) -> Result<Round, SubjectError> {
        stream::round(
            plan,
            || ChunkSource { chunk: vec![0x5a; CHUNK_BYTES] },
            || ChunkSink { chunk: vec![0; CHUNK_BYTES], filled: 0, answer: Answer::default() },
        )
    }
}

impl Source for ChunkSource {
    fn fill(&mut self, last: Last) -> &[u8] {
        self.chunk[0] = u8::from(last == Last::Last);
        &self.chunk
    }
}

impl Sink for ChunkSink {
    fn room(&mut self) -> &mut [u8] {
        &mut self.chunk[self.filled..]
    }

    fn take(&mut self, bytes: usize) -> io::Result<Option<Answer>> {
        self.filled += bytes;
        self.answer.bytes += bytes as u64;
        if self.filled < CHUNK_BYTES {
            return Ok(None);
        }
        self.filled = 0;
        Ok((self.chunk[0] == 1).then(|| std::mem::take(&mut self.answer)))
    }
}

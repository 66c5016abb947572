//! Bulk TCP: the same number of bytes without frames, what long frames are judged against.
//!
//! Nothing is encoded and nothing is looked at but the first byte of each chunk, which says whether
//! it is the last. Rates are given in frames all the same: bytes divided by a frame's length.
//!
//! Each chunk starts a little further in its page than the last one. The kernel lays bytes end to
//! end: with one place for all of them every copy of a round would stand alike to its source. Where
//! the destination is 1 to 31 bytes further in its page, AMD's Zen 3 copies at a fifth of its rate
//! or less (`rep movsb`, glibc's bug 30994; by a trial, see ARCHITECTURE.md), and whole rounds were
//! as slow as that. Frames move along by themselves.

use std::io;

use super::harness::{Subject, SubjectError};
use super::plan::Plan;
use super::round::Round;
use super::stream::{self, Answer, Last, Sink, Source};

/// Bytes written and read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// How much further the next chunk starts: as the next frame does, by the length of a header.
const STEP_BYTES: usize = 32;
/// Where it starts anew.
const PAGE_BYTES: usize = 4096;

/// Bytes over plain sockets.
#[derive(Debug)]
pub(super) struct Raw;

/// Room for a chunk that moves along.
struct Room {
    memory: Vec<u8>,
    start: usize,
}

struct ChunkSource {
    room: Room,
}

struct ChunkSink {
    room: Room,
    filled: usize,
    answer: Answer,
}

impl Subject for Raw {
    fn round(&self, plan: &Plan) -> Result<Round, SubjectError> {
        stream::round(
            plan,
            || ChunkSource { room: Room::new() },
            || ChunkSink { room: Room::new(), filled: 0, answer: Answer::default() },
        )
    }
}

impl Room {
    fn new() -> Self {
        Self { memory: vec![0x5a; CHUNK_BYTES + PAGE_BYTES], start: 0 }
    }

    fn chunk(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + CHUNK_BYTES]
    }

    fn move_along(&mut self) {
        self.start = (self.start + STEP_BYTES) % PAGE_BYTES;
    }
}

impl Source for ChunkSource {
    fn fill(&mut self, last: Last) -> &[u8] {
        self.room.move_along();
        let chunk = self.room.chunk();
        chunk[0] = u8::from(last == Last::Last);
        chunk
    }
}

impl Sink for ChunkSink {
    fn room(&mut self) -> &mut [u8] {
        &mut self.room.chunk()[self.filled..]
    }

    fn take(&mut self, bytes: usize) -> io::Result<Option<Answer>> {
        self.filled += bytes;
        self.answer.bytes += bytes as u64;
        if self.filled < CHUNK_BYTES {
            return Ok(None);
        }
        self.filled = 0;
        let is_last = self.room.chunk()[0] == 1;
        self.room.move_along();
        Ok(is_last.then(|| std::mem::take(&mut self.answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever they stand, and however they are cut.
    #[test]
    fn chunks_are_counted_up_to_the_last() {
        let mut source = ChunkSource { room: Room::new() };
        let mut sink = ChunkSink { room: Room::new(), filled: 0, answer: Answer::default() };
        let count = 2 * PAGE_BYTES / STEP_BYTES + 1;
        let mut places = std::collections::BTreeSet::new();
        for number in 1..=count {
            let last = if number == count { Last::Last } else { Last::More };
            let mut chunk = source.fill(last);
            places.insert(chunk.as_ptr().addr() % PAGE_BYTES);
            while !chunk.is_empty() {
                let room = sink.room();
                let bytes = chunk.len().min(room.len()).min(100_000);
                room[..bytes].copy_from_slice(&chunk[..bytes]);
                chunk = &chunk[bytes..];
                let answer = sink.take(bytes).expect("sound");
                let is_end = number == count && chunk.is_empty();
                assert_eq!(answer.is_some(), is_end, "chunk {number}");
                if let Some(answer) = answer {
                    assert_eq!(answer, Answer { bytes: (count * CHUNK_BYTES) as u64, errors: 0 });
                }
            }
        }
        assert_eq!(places.len(), PAGE_BYTES / STEP_BYTES);
    }
}

//! Memory of messages that outlive their handler.
//!
//! A received payload that leaves the reactor is copied once, into a chunk that it shares with its
//! neighbours, and handed out as [`Bytes`]. When all messages of a chunk have been dropped, the
//! chunk is used again without allocating.
//!
//! Payloads above [`SMALL_BYTES_MAX`], and any while the application holds on to messages of every
//! chunk, get an allocation of their own: one per message, small beside its copy. How many
//! messages may wait is bounded elsewhere (`inbox_frames_max`, `inbox_bytes_max`).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::mem::ALIGN;

/// Largest payload that shares a chunk.
pub(crate) const SMALL_BYTES_MAX: usize = 16 << 10;
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS: usize = 16;

/// Chunks that take turns.
#[derive(Debug)]
pub(crate) struct PayloadArena {
    chunks: Vec<BytesMut>,
    current: usize,
}

impl PayloadArena {
    /// Allocates the chunks, one MiB in all, resident as used.
    pub(crate) fn new() -> Self {
        Self::with_chunks(CHUNKS)
    }

    /// Allocates this many chunks of 64 KiB, resident as used.
    pub(crate) fn with_chunks(count: usize) -> Self {
        assert!(count > 0, "chunks take turns");
        Self { chunks: (0..count).map(|_| new_chunk()).collect(), current: 0 }
    }

    /// Copies `payload` into shared memory, 16-aligned.
    pub(crate) fn copy(&mut self, payload: &[u8]) -> Bytes {
        if payload.is_empty() {
            return Bytes::new();
        }
        if payload.len() <= SMALL_BYTES_MAX {
            for _ in 0..=self.chunks.len() {
                if let Some(bytes) = place(&mut self.chunks[self.current], payload) {
                    return bytes;
                }
                self.current = (self.current + 1) % self.chunks.len();
            }
        }
        let mut own = BytesMut::with_capacity(payload.len() + ALIGN);
        place(&mut own, payload).expect("it was made large enough")
    }
}

/// A chunk that has been split once already: `bytes` allocates its reference count then.
fn new_chunk() -> BytesMut {
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
    chunk.put_bytes(0, ALIGN);
    drop(chunk.split());
    chunk
}

/// Copies `payload` to the aligned front of what `chunk` has left, or of the whole chunk when
/// every message in it has been dropped.
fn place(chunk: &mut BytesMut, payload: &[u8]) -> Option<Bytes> {
    let needed = payload.len() + ALIGN;
    if chunk.capacity() < needed && !chunk.try_reclaim(needed) {
        return None;
    }
    let gap = chunk.as_ptr().align_offset(ALIGN);
    chunk.put_bytes(0, gap);
    chunk.advance(gap);
    chunk.put_slice(payload);
    Some(chunk.split().freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_aligned_and_unchanged() {
        let mut arena = PayloadArena::new();
        let mut kept = Vec::new();
        for round in 0..if cfg!(miri) { 60 } else { 2_000_usize } {
            let seed = u8::try_from(round % 251).expect("small");
            let payload = vec![seed; (round * 37) % (SMALL_BYTES_MAX + 100)];
            kept.push((seed, arena.copy(&payload)));
            if round % 3 == 0 {
                kept.clear();
            }
            for (seed, bytes) in &kept {
                assert!(bytes.iter().all(|&byte| byte == *seed));
                assert!(bytes.is_empty() || bytes.as_ptr().align_offset(16) == 0);
            }
        }
    }

    #[test]
    fn dropped_messages_free_their_chunk() {
        let mut arena = PayloadArena::new();
        let addresses: std::collections::BTreeSet<usize> = (0..crate::seeds(100_000))
            .map(|_| arena.copy(&[1; 64]).as_ptr() as usize / CHUNK_BYTES)
            .collect();
        // Every message was dropped at once, so the first chunk was enough.
        assert!(addresses.len() <= 2, "{addresses:?}");
    }
}

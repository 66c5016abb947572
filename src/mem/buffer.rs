//! One piece of memory that can be lent to the kernel.
//!
//! Buffers of one size are cut from one slab ([`Buffer::slab`]): a single zeroed allocation that
//! the allocator maps fresh, so that its pages become resident only when they are used. (Cut one
//! by one from the heap they were cleared, and so touched: 50 MB of an idle client.) Each buffer
//! is a part of its own of the slab, held by a reference-counted handle ([`BytesMut`]), so moving
//! it moves no memory and no two can overlap.
//!
//! Starts 16-aligned, which is what rkyv payloads rely on. Neighbours are a few cache lines apart
//! beyond their size, so that the starts of many windows do not fall into the same cache sets.

use bytes::{Buf, BytesMut};

use crate::mem::ALIGN;

/// Bytes between two buffers of a slab: an odd number of cache lines.
const GAP_BYTES: usize = 192;
const _: () = assert!(GAP_BYTES.is_multiple_of(ALIGN));

/// Memory that can be lent to the kernel. Never grows, never moves.
pub(crate) struct Buffer {
    memory: BytesMut,
    /// Index among the ring's registered buffers.
    registered: Option<u16>,
}

impl Buffer {
    /// Allocates `count` zeroed buffers of at least `bytes`, rounded up to a multiple of 16.
    pub(crate) fn slab(bytes: usize, count: usize) -> impl Iterator<Item = Self> {
        let bytes = bytes.next_multiple_of(ALIGN);
        let mut slab = BytesMut::zeroed((bytes + GAP_BYTES) * count + ALIGN);
        slab.advance(slab.as_ptr().align_offset(ALIGN));
        (0..count).map(move |_| {
            let memory = slab.split_to(bytes);
            slab.advance(GAP_BYTES);
            assert_eq!(memory.as_ptr().align_offset(ALIGN), 0, "parts are multiples of 16");
            Self { memory, registered: None }
        })
    }

    /// Allocates one buffer.
    #[cfg(test)]
    pub(crate) fn new(bytes: usize) -> Self {
        Self::slab(bytes, 1).next().expect("one was asked for")
    }

    /// Capacity in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Index among the ring's registered buffers, if it is one of them.
    pub(crate) fn registered(&self) -> Option<u16> {
        self.registered
    }

    pub(crate) fn set_registered(&mut self, index: Option<u16>) {
        self.registered = index;
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_is_zeroed_aligned_and_rounded_up() {
        let mut buffer = Buffer::new(33);
        assert_eq!(buffer.len(), 48);
        assert!(buffer.bytes().iter().all(|&byte| byte == 0));
        assert_eq!(buffer.bytes_mut().as_ptr().align_offset(ALIGN), 0);
    }

    #[test]
    fn buffers_of_a_slab_are_apart() {
        let buffers: Vec<_> = Buffer::slab(100, 3).collect();
        let starts: Vec<_> = buffers.iter().map(|buffer| buffer.bytes().as_ptr().addr()).collect();
        for (earlier, later) in starts.iter().zip(&starts[1..]) {
            assert_eq!(later - earlier, 112 + GAP_BYTES);
        }
    }
}

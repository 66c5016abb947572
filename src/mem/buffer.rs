//! One piece of memory that can be lent to the kernel.
//!
//! Backed by a `Vec` (moving a `Box` would claim exclusive access to its contents, a `Vec` is
//! documented not to), zeroed by the allocator, so that large ones stay untouched pages until
//! used. Starts 16-aligned, which is what rkyv payloads rely on. Fresh `malloc` blocks start 16
//! bytes behind each other's multiples, so many windows do not fall into the same cache sets.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::mem::ALIGN;

/// The unit of allocation: gives the buffer its alignment.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(16))]
struct Chunk([u8; ALIGN]);

const _: () = assert!(align_of::<Chunk>() == ALIGN);

/// Memory that can be lent to the kernel. Never grows, never moves.
pub(crate) struct Buffer {
    chunks: Vec<Chunk>,
    /// Index among the ring's registered buffers.
    registered: Option<u16>,
}

impl Buffer {
    /// Allocates zeroed memory of at least `bytes`, rounded up to a multiple of 16.
    ///
    /// # Panics
    ///
    /// When the allocator has no such memory: this runs at setup only.
    pub(crate) fn new(bytes: usize) -> Self {
        let chunks = Chunk::new_vec_zeroed(bytes.div_ceil(ALIGN))
            .expect("the allocator provides what Config asks for");
        Self { chunks, registered: None }
    }

    /// Capacity in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.chunks.len() * ALIGN
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.chunks.as_bytes()
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.chunks.as_mut_bytes()
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
}

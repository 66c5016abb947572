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

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use crate::mem::ALIGN;
use crate::mem::insert::{Insert, Pieces};
use crate::sys::map::Map;

/// Bytes between two buffers of a slab: an odd number of cache lines.
pub(crate) const GAP_BYTES: usize = 192;
const _: () = assert!(GAP_BYTES.is_multiple_of(ALIGN));

/// The memory asked for is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// The part of its pool that a buffer goes back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Small,
    Shared,
    Reserve,
}

/// Memory that can be lent to the kernel. Never grows, never moves.
///
/// One word wherever it goes. The fields it stands for would be written in parts at every station
/// of a message and read back in wider ones at the next, which waits each time (ARCHITECTURE.md).
pub(crate) struct Buffer(Box<Piece>);

/// What a [`Buffer`] is.
struct Piece {
    /// Of a piece of an arena: with the gaps of its units behind it.
    memory: BytesMut,
    bytes: u32,
    /// Index among the ring's registered buffers.
    registered: Option<u16>,
    part: Part,
    /// Of a piece of an arena: its length is `2^order` units.
    order: u8,
    /// Of a piece of an arena: the first of its units.
    unit: u32,
    /// What is sent in between without being here.
    insert: Option<Box<Insert>>,
}

/// What is left of a buffer whose memory another one has: to be the next one that is split off.
pub(crate) struct Hull(Box<Piece>);

impl Hull {
    pub(crate) fn new() -> Self {
        Self(Box::new(Piece {
            memory: BytesMut::new(),
            bytes: 0,
            registered: None,
            part: Part::Shared,
            order: 0,
            unit: 0,
            insert: None,
        }))
    }
}

impl Buffer {
    /// Allocates `count` zeroed buffers of at least `bytes`, rounded up to a multiple of 16.
    pub(crate) fn slab(
        bytes: usize,
        count: usize,
    ) -> Result<impl Iterator<Item = Self>, OutOfMemory> {
        let bytes = bytes.next_multiple_of(ALIGN);
        let mut slab = Self::zeroed((bytes + GAP_BYTES).saturating_mul(count))?;
        Ok((0..count).map(move |_| {
            let memory = slab.split_to(bytes);
            slab.advance(GAP_BYTES);
            assert_eq!(memory.as_ptr().align_offset(ALIGN), 0, "parts are multiples of 16");
            Self::piece(memory, bytes, Part::Small, 0, 0)
        }))
    }

    /// Allocates `bytes` of zeroes that start aligned.
    ///
    /// The allocation that is known to be a fresh mapping (see the module) aborts the process when
    /// it fails, so as much is mapped, and given back, in a way that can fail before. In between
    /// another thread may take it; then the process aborts after all.
    ///
    /// Not by malloc(3), which takes what is given back for a hint: from then on it cuts pieces as
    /// long as that from the heap (mallopt(3), M_MMAP_THRESHOLD), where they are cleared and so
    /// touched. An idle server had 8 MB of them. The same befalls the memory of a reactor that is
    /// made after another has gone.
    pub(crate) fn zeroed(bytes: usize) -> Result<BytesMut, OutOfMemory> {
        let with_start = bytes.saturating_add(ALIGN);
        isize::try_from(with_start).map_err(|_| OutOfMemory)?;
        // Miri knows no mappings. A page more: the allocator has a head of its own.
        if !cfg!(miri) {
            drop(Map::anonymous(with_start.saturating_add(4096)).map_err(|_| OutOfMemory)?);
        }
        let mut slab = BytesMut::zeroed(with_start);
        slab.advance(slab.as_ptr().align_offset(ALIGN));
        slab.truncate(bytes);
        Ok(slab)
    }

    /// A piece of an arena, on memory of its own, of which `bytes` are used.
    pub(crate) fn piece(memory: BytesMut, bytes: usize, part: Part, unit: u32, order: u32) -> Self {
        assert!(bytes <= memory.len(), "what is used is there");
        let bytes = u32::try_from(bytes).expect("Config bounds frames and windows");
        let order = u8::try_from(order).expect("a length in bytes is below 2^64");
        let piece = Piece { memory, bytes, registered: None, part, order, unit, insert: None };
        Self(Box::new(piece))
    }

    /// Splits the back half off, into `hull`.
    pub(crate) fn split(&mut self, mut hull: Hull) -> Self {
        let front = &mut *self.0;
        assert!(front.order > 0, "a unit is not split");
        front.order -= 1;
        front.bytes /= 2;
        front.registered = None;
        *hull.0 = Piece {
            memory: front.memory.split_off(front.memory.len() / 2),
            bytes: front.bytes,
            registered: None,
            part: front.part,
            order: front.order,
            unit: front.unit + (1 << front.order),
            insert: None,
        };
        Self(hull.0)
    }

    /// Appends the back half again. Its hull is left.
    pub(crate) fn join(&mut self, mut back: Self) -> Hull {
        let front = &mut *self.0;
        assert_eq!(front.order, back.0.order, "halves of one piece");
        assert_eq!(front.unit + (1 << front.order), back.0.unit, "halves of one piece");
        let bytes = front.memory.len() + back.0.memory.len();
        let address = front.memory.as_ptr();
        front.memory.unsplit(std::mem::take(&mut back.0.memory));
        assert_eq!(front.memory.as_ptr(), address, "joined in place, not copied");
        assert_eq!(front.memory.len(), bytes, "joined in place, not copied");
        front.bytes *= 2;
        front.order += 1;
        front.registered = None;
        Hull(back.0)
    }

    /// Allocates one buffer.
    #[cfg(test)]
    pub(crate) fn new(bytes: usize) -> Self {
        Self::slab(bytes, 1).expect("memory").next().expect("one was asked for")
    }

    /// Capacity in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.bytes as usize
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.memory[..self.0.bytes as usize]
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0.memory[..self.0.bytes as usize]
    }

    /// Has somebody else's bytes stand in it, until they are [taken out](Self::take_insert).
    pub(crate) fn set_insert(&mut self, insert: Box<Insert>) {
        assert!(insert.at <= self.len(), "it stands within the buffer");
        self.0.insert = Some(insert);
    }

    /// The bytes that stand in it.
    #[inline]
    pub(crate) fn inserted(&self) -> Option<&Bytes> {
        self.0.insert.as_ref().map(|insert| &insert.bytes)
    }

    #[inline]
    pub(crate) fn take_insert(&mut self) -> Option<Box<Insert>> {
        self.0.insert.take()
    }

    /// Length of what is sent: of its own bytes and the inserted ones.
    #[inline]
    pub(crate) fn bytes_sent(&self) -> usize {
        self.len() + self.inserted().map_or(0, Bytes::len)
    }

    /// A range of what is sent: of its own bytes with the inserted ones in between.
    #[inline]
    pub(crate) fn pieces(&self, range: Range<usize>) -> Pieces<'_> {
        match &self.0.insert {
            None => Pieces::one(&self.bytes()[range]),
            Some(insert) => Pieces::around(self.bytes(), insert, range),
        }
    }

    /// All of its memory: what registering it covers, so that its parts are registered, too.
    pub(crate) fn memory_mut(&mut self) -> &mut [u8] {
        &mut self.0.memory
    }

    #[inline]
    pub(crate) fn part(&self) -> Part {
        self.0.part
    }

    /// Whether it is one of its pool's small buffers.
    #[inline]
    pub(crate) fn is_small(&self) -> bool {
        self.0.part == Part::Small
    }

    #[inline]
    pub(crate) fn order(&self) -> u32 {
        self.0.order.into()
    }

    pub(crate) fn unit(&self) -> u32 {
        self.0.unit
    }

    /// Index among the ring's registered buffers, if it is one of them, or part of one.
    pub(crate) fn registered(&self) -> Option<u16> {
        self.0.registered
    }

    pub(crate) fn set_registered(&mut self, index: Option<u16>) {
        self.0.registered = index;
    }
}

impl std::fmt::Debug for Hull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hull")
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
        let buffers: Vec<_> = Buffer::slab(100, 3).expect("memory").collect();
        let starts: Vec<_> = buffers.iter().map(|buffer| buffer.bytes().as_ptr().addr()).collect();
        for (earlier, later) in starts.iter().zip(&starts[1..]) {
            assert_eq!(later - earlier, 112 + GAP_BYTES);
        }
    }
}

//! One lane: the bounded queue of one priority of one session.
//!
//! Frames are encoded once, straight into a block of send memory, and leave from there. While a
//! block is in flight the next frames gather in the next one.
//!
//! # Invariants
//!
//! - `frames` and `bytes` count what was admitted and is not yet handed to the kernel in full:
//!   queued and in flight.
//! - A message is admitted while less than `bytes_max` waits behind the block in flight. So a lane
//!   holds at most that, one frame more, and the block in flight, and one that is empty admits a
//!   frame of any length.
//! - A refused message changes nothing: the sequence does not advance and no memory is kept.
//!
//! # Memory
//!
//! An idle lane holds none. Blocks come from three parts of the pool (see `mem::pool`):
//!
//! - A lane's first block is a small one, if the frame fits: every session is guaranteed one. A
//!   lane that filled more last time begins with a whole shared block, so that a stream leaves in
//!   whole blocks: the small ones cost it a second send each time.
//! - Anything else is shared memory, given as long as the session holds no more than what is free
//!   there, so that slow peers can not take it all (the dynamic threshold of Choudhury and Hahne,
//!   1998). A longer first frame gets what it needs and no more, and so does any frame when there
//!   is no whole block left: so one broadcast to many idle sessions costs what the frames need.
//! - A session that holds nothing at all may take from the reserve, when the shared memory has no
//!   piece for its frame. Those that read slowly hold something, so they can not have it: whoever
//!   keeps up is served, while the frames of those that keep up fit the reserve (an eighth of the
//!   send memory) together.
//!
//! Rejected: frames in several buffers (a payload is encoded, and checked, in one piece), and a
//! fixed share for each session (64 KB each at the defaults: less than a frame).

use std::collections::VecDeque;

use crate::error::SendError;
use crate::mem::{Buffer, Pool};
use crate::wire::{Body, BodyError, FrameHead, Scratch, frame_bytes, low_half};

/// A lane whose block leaves filled by no more than this fraction begins with a small one again.
const BULKY_FRACTION: usize = 16;

/// Frames encoded back to back in one buffer.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) buffer: Buffer,
    /// Bytes of whole frames from the start.
    pub(crate) filled: usize,
    /// How many frames those are.
    pub(crate) frames: u32,
    /// Longest payload among them.
    pub(crate) payload_bytes_max: usize,
}

/// Bounds of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneLimits {
    pub(crate) frames_max: u32,
    pub(crate) bytes_max: usize,
    /// The smaller of both sides' limits.
    pub(crate) frame_bytes_max: usize,
    /// Size of a shared block.
    pub(crate) block_bytes: usize,
}

/// Where the memory comes from, and how much of it the session holds.
#[derive(Debug)]
pub(crate) struct SendMemory<'a> {
    pub(crate) pool: &'a mut Pool,
    pub(crate) scratch: &'a mut Scratch,
}

/// What the session of a lane holds of the send memory.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Holdings {
    pub(crate) bytes: usize,
    pub(crate) small: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    blocks: VecDeque<Block>,
    frames: u32,
    bytes: usize,
    /// Of those bytes, the ones in flight.
    taken: usize,
    /// Sequence of the last frame admitted.
    sequence: u64,
    /// More gathered than a small block holds, last time: begin with a shared one.
    is_bulky: bool,
}

impl Lane {
    /// Encodes a frame at the end of the lane. Returns its length on the wire.
    ///
    /// `head.sequence` is filled in here. Hot path: once per message. No allocation, no syscall.
    #[inline(always)]
    pub(crate) fn push<B: Body + ?Sized>(
        &mut self,
        mut head: FrameHead,
        body: &B,
        limits: &LaneLimits,
        memory: &mut SendMemory<'_>,
        holdings: &mut Holdings,
    ) -> Result<usize, SendError> {
        if self.frames >= limits.frames_max || self.bytes - self.taken >= limits.bytes_max {
            return Err(SendError::Full);
        }
        let sequence = self.sequence + 1;
        head.sequence = low_half(sequence);
        let written = match self.blocks.back_mut() {
            Some(block) => block.write(head, body, limits, memory.scratch),
            None => Err(Refusal::Needs { bytes: 0 }),
        };
        let written = match written {
            Ok(written) => written,
            Err(Refusal::Send(error)) => return Err(error),
            Err(Refusal::Needs { bytes }) => {
                self.write_to_new_block(bytes, head, body, limits, memory, holdings)?
            }
        };
        self.sequence = sequence;
        self.frames += 1;
        self.bytes += written;
        Ok(written)
    }

    /// Takes the oldest block for sending; [`Lane::sent`] settles it.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Block> {
        let block = self.blocks.pop_front()?;
        self.taken += block.filled;
        self.is_bulky &= block.filled > block.buffer.len() / BULKY_FRACTION;
        Some(block)
    }

    /// Books a block that has been sent, or dropped.
    #[inline]
    pub(crate) fn sent(&mut self, block: &Block) {
        self.frames -= block.frames;
        self.bytes -= block.filled;
        self.taken -= block.filled;
    }

    /// Whether nothing waits to be taken.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Sequence of the last frame admitted: how many have been.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Frames queued and in flight.
    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// Bytes queued and in flight.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cold]
    fn write_to_new_block<B: Body + ?Sized>(
        &mut self,
        mut bytes: usize,
        head: FrameHead,
        body: &B,
        limits: &LaneLimits,
        memory: &mut SendMemory<'_>,
        holdings: &mut Holdings,
    ) -> Result<usize, SendError> {
        // Twice at most: the first attempt tells the length when it was not known.
        for _ in 0..2 {
            self.is_bulky |= !self.blocks.is_empty();
            let buffer = self.take_buffer(bytes, limits.block_bytes, memory.pool, *holdings);
            let buffer = buffer.ok_or(SendError::MemoryFull)?;
            let mut loan = Loan::new(buffer, memory.pool);
            match loan.block().write(head, body, limits, memory.scratch) {
                Ok(written) => {
                    let block = loan.keep();
                    holdings.add(&block);
                    self.blocks.push_back(block);
                    return Ok(written);
                }
                Err(Refusal::Send(error)) => return Err(error),
                Err(Refusal::Needs { bytes: needed }) => bytes = needed,
            }
        }
        // The body wrote more at its second attempt than it asked for at its first.
        Err(SendError::Unserializable)
    }

    /// Memory for a block of at least `bytes`; see the module.
    fn take_buffer(
        &self,
        bytes: usize,
        block_bytes: usize,
        pool: &mut Pool,
        holdings: Holdings,
    ) -> Option<Buffer> {
        let small_will_do = self.blocks.is_empty() && holdings.small == 0;
        if small_will_do
            && !self.is_bulky
            && let Some(buffer) = pool.take_small(bytes)
        {
            return Some(buffer);
        }
        if holdings.bytes <= pool.shared_free_bytes() {
            let whole = if self.is_bulky { bytes.max(block_bytes) } else { bytes };
            if let Some(buffer) = pool.take_shared(whole).or_else(|| pool.take_shared(bytes)) {
                return Some(buffer);
            }
        }
        if small_will_do && let Some(buffer) = pool.take_small(bytes) {
            return Some(buffer);
        }
        if holdings.bytes == 0 { pool.take_reserve(bytes) } else { None }
    }
}

/// A block whose memory goes back unless it is kept: also when the body panics while it writes.
struct Loan<'a> {
    block: Option<Block>,
    pool: &'a mut Pool,
}

impl<'a> Loan<'a> {
    fn new(buffer: Buffer, pool: &'a mut Pool) -> Self {
        let block = Block { buffer, filled: 0, frames: 0, payload_bytes_max: 0 };
        Self { block: Some(block), pool }
    }

    fn block(&mut self) -> &mut Block {
        self.block.as_mut().expect("only keeping takes it")
    }

    fn keep(mut self) -> Block {
        self.block.take().expect("only keeping takes it")
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give(block.buffer);
        }
    }
}

impl Holdings {
    fn add(&mut self, block: &Block) {
        self.bytes += block.buffer.len();
        self.small += u32::from(block.buffer.is_small());
    }

    /// Gives a block's memory back.
    #[inline]
    pub(crate) fn release(&mut self, block: Block, pool: &mut Pool) {
        self.bytes -= block.buffer.len();
        self.small -= u32::from(block.buffer.is_small());
        pool.give(block.buffer);
    }
}

enum Refusal {
    /// The frame needs a buffer of this many bytes.
    Needs {
        bytes: usize,
    },
    Send(SendError),
}

impl Block {
    /// Encodes a frame behind those already here.
    #[inline(always)]
    fn write<B: Body + ?Sized>(
        &mut self,
        head: FrameHead,
        body: &B,
        limits: &LaneLimits,
        scratch: &mut Scratch,
    ) -> Result<usize, Refusal> {
        let head_bytes = head.head_bytes();
        let out = &mut self.buffer.bytes_mut()[self.filled..];
        let payload = out.get_mut(head_bytes..).unwrap_or_default();
        let payload_bytes = match body.encode(payload, scratch) {
            Ok(bytes) => bytes,
            Err(BodyError::Overflow { bytes }) => bytes,
            Err(BodyError::Unserializable) => return Err(Refusal::Send(SendError::Unserializable)),
        };
        let total = frame_bytes(payload_bytes, head.extension.is_some());
        if total > limits.frame_bytes_max {
            return Err(Refusal::Send(too_large(total, limits.frame_bytes_max)));
        }
        if total > out.len() {
            return Err(Refusal::Needs { bytes: total });
        }
        let written = head.finish(out, payload_bytes);
        self.filled += written;
        self.frames += 1;
        self.payload_bytes_max = self.payload_bytes_max.max(payload_bytes);
        Ok(written)
    }
}

#[cold]
fn too_large(bytes: usize, bytes_max: usize) -> SendError {
    let saturated = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    SendError::TooLarge { bytes: saturated(bytes), bytes_max: saturated(bytes_max) }
}

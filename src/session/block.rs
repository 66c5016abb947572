//! Frames encoded back to back in one buffer, and what is done to them while they wait.
//!
//! A block holds frames of one lane with consecutive sequences. Frames that will not be sent after
//! all (expired, overtaken by a newer value, best effort on a lost link) become a *gap*: a frame of
//! a header alone that stands for a range of sequences. So the lane's stream stays without holes,
//! and the receiver knows how many messages it missed.
//!
//! # Invariants
//!
//! - The bytes in `start..filled` are whole frames of this side's own encoder. Reading them back
//!   can not fail; a failure is our bug and loud.
//! - Their sequences run from `first` to `last` without a hole, gaps included.
//! - A frame whose payload stands in somebody else's memory ([`Block::write_around`]) has its block
//!   to itself. Its place in `start..filled` is that in what is sent: the buffer's own bytes with
//!   the payload in between.
//!
//! Walking frames is for the rare cases. Nothing here runs per message but [`Block::write`] and
//! [`Block::append`].

use bytes::Bytes;
use zerocopy::FromBytes;

use crate::error::{DropReason, SendError};
use crate::mem::{Buffer, Pool};
use crate::time::Nanos;
use crate::wire::{
    BareHead, Body, BodyError, Checksum, Codec, EXTENSION_BYTES, Extension, Flags, FrameHead,
    HEADER_BYTES, Header, Kind, Priority, Scratch, frame_bytes, low_half,
};

/// What stands in a block's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Where the first frame begins.
    pub(crate) start: usize,
    /// Where the last frame ends.
    pub(crate) filled: usize,
    /// How many messages there are: frames without the gaps.
    pub(crate) frames: u32,
    /// Of those, the reliable ones.
    pub(crate) reliable: u32,
    /// Sequence of the last reliable one.
    pub(crate) last_reliable: u64,
    /// Longest payload among them, for the choice of how to send.
    pub(crate) payload_bytes_max: usize,
    /// Sequence of the first frame (the first it stands for, when it is a gap).
    pub(crate) first: u64,
    /// Sequence of the last frame.
    pub(crate) last: u64,
    /// When the first of them expires; [`Nanos::NEVER`] without a time to live.
    pub(crate) expiry: Nanos,
}

impl Span {
    /// An empty block whose first frame will have this sequence.
    pub(crate) fn begin(first: u64) -> Self {
        Self {
            start: 0,
            filled: 0,
            frames: 0,
            reliable: 0,
            last_reliable: 0,
            payload_bytes_max: 0,
            first,
            last: first - 1,
            expiry: Nanos::NEVER,
        }
    }

    /// A message has been written behind the others.
    #[inline(always)]
    fn add(&mut self, frame_bytes: usize, payload_bytes: usize) {
        self.filled += frame_bytes;
        self.last += 1;
        self.frames += 1;
        self.payload_bytes_max = self.payload_bytes_max.max(payload_bytes);
    }

    /// Bytes of whole frames.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.filled - self.start
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) buffer: Buffer,
    pub(crate) span: Span,
}

/// How many messages were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Drops {
    by_reason: [u64; DropReason::COUNT],
    /// Their sum: it is asked for with every block, and adding them up took 18 ns of it.
    total: u64,
}

impl Drops {
    pub(crate) fn add(&mut self, reason: DropReason, count: u64) {
        self.by_reason[reason.index()] += count;
        self.total += count;
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        for (sum, other) in self.by_reason.iter_mut().zip(other.by_reason) {
            *sum += other;
        }
        self.total += other.total;
    }

    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            by_reason: std::array::from_fn(|at| self.by_reason[at] - earlier.by_reason[at]),
            total: self.total - earlier.total,
        }
    }

    #[inline]
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// By [`DropReason::index`].
    pub(crate) fn by_reason(&self) -> &[u64; DropReason::COUNT] {
        &self.by_reason
    }
}

/// A frame that stands in a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resting<'a> {
    header: &'a Header,
    extension: Option<&'a Extension>,
    payload: &'a [u8],
    /// The payload, when it is somebody else's memory.
    inserted: Option<&'a Bytes>,
    /// Where it begins in the buffer.
    pub(crate) at: usize,
    /// Its length, padding included.
    pub(crate) bytes: usize,
    /// Its sequence; of a gap, the last it stands for.
    pub(crate) sequence: u64,
}

impl<'a> Resting<'a> {
    /// Reads the frame at `at` of a buffer's own bytes, whose first sequence is `next`.
    fn read(buffer: &'a [u8], inserted: Option<&'a Bytes>, at: usize, next: u64) -> Self {
        let whole = &buffer[at..];
        let (header, _) = Header::ref_from_prefix(whole).expect("our own frame is whole");
        let is_extended = Flags(header.flags).contains(Flags::EXTENDED);
        let extension = is_extended.then(|| {
            let (extension, _) =
                Extension::ref_from_prefix(&whole[HEADER_BYTES..]).expect("our own frame is whole");
            extension
        });
        let payload_bytes = header.payload_bytes.get() as usize;
        let head_bytes = HEADER_BYTES + if is_extended { EXTENSION_BYTES } else { 0 };
        let count = if header.kind == Kind::Gap as u8 { header.type_id.get() } else { 1 };
        let sequence = next + u64::from(count) - 1;
        assert_eq!(header.sequence.get(), low_half(sequence), "a lane has no holes");
        Self {
            header,
            extension,
            payload: match inserted {
                Some(bytes) => bytes,
                None => &whole[head_bytes..head_bytes + payload_bytes],
            },
            inserted,
            at,
            bytes: frame_bytes(payload_bytes, is_extended),
            sequence,
        }
    }

    pub(crate) fn is_gap(&self) -> bool {
        self.header.kind == Kind::Gap as u8
    }

    /// How many sequences it takes.
    fn count(&self) -> u64 {
        if self.is_gap() { self.header.type_id.get().into() } else { 1 }
    }

    /// When it was queued.
    pub(crate) fn sent_at_ns(&self) -> u64 {
        self.header.sent_at.get()
    }

    pub(crate) fn is_reliable(&self) -> bool {
        Flags(self.header.flags).contains(Flags::RELIABLE)
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::from_byte(self.header.kind).expect("our own frame is valid")
    }

    pub(crate) fn codec(&self) -> Codec {
        Codec::from_byte(self.header.codec).expect("our own frame is valid")
    }

    pub(crate) fn type_id(&self) -> u32 {
        self.header.type_id.get()
    }

    /// The payload, in memory of its own.
    pub(crate) fn owned_payload(&self) -> Bytes {
        self.inserted.cloned().unwrap_or_else(|| Bytes::copy_from_slice(self.payload))
    }

    /// Whether it is the request of this number.
    pub(crate) fn is_request_of(&self, correlation: u64) -> bool {
        let number = self.extension.map(|extension| extension.correlation.get());
        self.is_request() && number == Some(correlation)
    }

    /// Whether it asks for an answer. What limits it may be how long its sender waits for that.
    pub(crate) fn is_request(&self) -> bool {
        Flags(self.header.flags).contains(Flags::REQUEST)
    }

    /// Whether it answers a request.
    pub(crate) fn is_response(&self) -> bool {
        Flags(self.header.flags).contains(Flags::RESPONSE)
    }

    /// When it is too old to be sent; [`Nanos::NEVER`] without a time to live.
    pub(crate) fn expiry(&self) -> Nanos {
        match self.extension.map_or(0, |extension| extension.ttl_us.get()) {
            0 => Nanos::NEVER,
            ttl_us => Nanos(self.header.sent_at.get().saturating_add(u64::from(ttl_us) * 1000)),
        }
    }
}

/// Why a frame was not written.
pub(crate) enum Refusal {
    /// The frame needs a buffer of this many bytes.
    Needs {
        bytes: usize,
    },
    Send(SendError),
}

impl Block {
    pub(crate) fn new(buffer: Buffer, first: u64) -> Self {
        Self { buffer, span: Span::begin(first) }
    }

    /// Encodes a frame behind those already here. Returns its length.
    #[inline(always)]
    pub(crate) fn write<B: Body + ?Sized>(
        &mut self,
        head: &FrameHead,
        body: &B,
        frame_bytes_max: usize,
        scratch: &mut Scratch,
    ) -> Result<usize, Refusal> {
        let head_bytes = head.head_bytes();
        let out = &mut self.buffer.bytes_mut()[self.span.filled..];
        let payload = out.get_mut(head_bytes..).unwrap_or_default();
        let payload_bytes = match body.encode(payload, scratch) {
            Ok(bytes) => bytes,
            Err(BodyError::Overflow { bytes }) => bytes,
            Err(BodyError::Unserializable) => return Err(Refusal::Send(SendError::Unserializable)),
        };
        let total = frame_bytes(payload_bytes, head.extension.is_some());
        if total > frame_bytes_max {
            return Err(Refusal::Send(too_large(total, frame_bytes_max)));
        }
        if total > out.len() {
            return Err(Refusal::Needs { bytes: total });
        }
        let written = head.finish(out, payload_bytes);
        self.span.add(written, payload_bytes);
        Ok(written)
    }

    /// As [`Block::write`], for a frame without extension and checksum, if there is room for it.
    #[inline(always)]
    pub(crate) fn append<B: Body + ?Sized>(
        &mut self,
        head: BareHead,
        sequence: u32,
        body: &B,
        frame_bytes_max: usize,
        scratch: &mut Scratch,
    ) -> Option<usize> {
        let longest = self.span.payload_bytes_max;
        let out = self.buffer.bytes_mut().get_mut(self.span.filled..)?;
        if out.len() < frame_bytes(longest, false) {
            // One as long as those before would be encoded in vain.
            return None;
        }
        let (written, payload_bytes) = head.encode(sequence, body, out, scratch)?;
        if written > frame_bytes_max {
            return None;
        }
        self.span.add(written, payload_bytes);
        Some(written)
    }

    /// Has a frame leave with a payload that stays where it is. The block is empty, and has no room
    /// for other frames from here on. Returns the frame's length.
    pub(crate) fn write_around(
        &mut self,
        head: &FrameHead,
        payload: Bytes,
        pool: &mut Pool,
    ) -> usize {
        assert_eq!(self.span.filled, 0, "the frame has its block to itself");
        let payload_bytes = payload.len();
        let (at, total) = head.finish_around(self.buffer.bytes_mut(), &payload);
        self.buffer.set_insert(pool.insert(at, payload));
        self.span.filled = total;
        self.span.last += 1;
        self.span.frames = 1;
        self.span.payload_bytes_max = payload_bytes;
        total
    }

    /// Whether further frames may be written behind those here.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.buffer.inserted().is_none()
    }

    /// Memory that it keeps from others: its own and what stands in it.
    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer.len() + self.buffer.inserted().map_or(0, Bytes::len)
    }

    /// Writes a gap of `count` sequences, up to `last`.
    pub(crate) fn write_gap(&mut self, gap: Gap) {
        let out = &mut self.buffer.bytes_mut()[self.span.filled..];
        self.span.filled += gap.head().encode(&[], out);
        self.span.last = gap.last;
    }

    /// When its oldest message was queued; 0 without one. Once per block.
    #[inline]
    pub(crate) fn queued_at(&self) -> u64 {
        if self.span.frames == 0 {
            // The session's own frames are nobody's messages.
            return 0;
        }
        let first = &self.buffer.bytes()[self.span.start..];
        let (header, _) = Header::ref_from_prefix(first).expect("our own frame is whole");
        if header.kind != Kind::Gap as u8 {
            return header.sent_at.get();
        }
        self.frames().find(|frame| !frame.is_gap()).map_or(0, |frame| frame.sent_at_ns())
    }

    /// The frames, first to last.
    pub(crate) fn frames(&self) -> Frames<'_> {
        Frames::of(&self.buffer, &self.span)
    }

    /// The messages of which a socket that has taken the block up to `sent` has not all.
    pub(crate) fn unsent(&self, sent: usize) -> impl Iterator<Item = Resting<'_>> {
        self.frames().filter(move |frame| !frame.is_gap() && frame.at + frame.bytes > sent)
    }

    /// Forgets the frames up to `sequence`: the peer has them.
    pub(crate) fn trim(&mut self, lane: Priority, sequence: u64) {
        let (mut start, mut first) = (self.span.start, self.span.first);
        let (mut trimmed, mut reliable) = (0, 0);
        for frame in self.frames().take_while(|frame| frame.sequence <= sequence) {
            start = frame.at + frame.bytes;
            first = frame.sequence + 1;
            trimmed += u32::from(!frame.is_gap());
            reliable += u32::from(frame.is_reliable());
        }
        self.span.start = start;
        self.span.first = first;
        self.span.frames -= trimmed;
        self.span.reliable -= reliable;
        if first <= sequence && first <= self.span.last {
            self.shorten_gap(lane, sequence);
        }
    }

    /// A gap at the front stands for messages that were sent without being kept. The peer has some.
    #[cold]
    fn shorten_gap(&mut self, lane: Priority, sequence: u64) {
        let gap = self.frames().next().expect("the block is not empty");
        assert!(gap.is_gap(), "a message has one sequence");
        let (at, last) = (gap.at, gap.sequence);
        let gap = Gap { lane, count: last - sequence, last };
        gap.head().encode(&[], &mut self.buffer.bytes_mut()[at..]);
        self.span.first = sequence + 1;
    }

    /// Turns the messages for which `refuse` gives a reason into gaps.
    pub(crate) fn drop_frames(
        &mut self,
        lane: Priority,
        drops: &mut Drops,
        mut refuse: impl FnMut(&Resting<'_>) -> Option<DropReason>,
    ) {
        if self.buffer.inserted().is_some() {
            return self.drop_whole(lane, drops, refuse);
        }
        let Span { start, filled, first, .. } = self.span;
        let mut span = Span { filled: start, frames: 0, reliable: 0, ..self.span };
        span.expiry = Nanos::NEVER;
        let mut pending = 0_u64;
        let (mut at, mut next) = (start, first);
        let bytes = self.buffer.bytes_mut();
        while at < filled {
            let frame = Resting::read(bytes, None, at, next);
            let (frame_at, frame_bytes, count) = (frame.at, frame.bytes, frame.count());
            let reason = if frame.is_gap() { None } else { refuse(&frame) };
            let is_kept = reason.is_none() && !frame.is_gap();
            if is_kept {
                span.frames += 1;
                if frame.is_reliable() {
                    span.reliable += 1;
                    span.last_reliable = frame.sequence;
                }
                span.expiry = span.expiry.min(frame.expiry());
            }
            if let Some(reason) = reason {
                drops.add(reason, 1);
            }
            if is_kept {
                // A gap is no longer than any frame it stands for, so it ends before this one.
                if pending > 0 {
                    let gap = Gap { lane, count: pending, last: next - 1 };
                    span.filled += gap.head().encode(&[], &mut bytes[span.filled..]);
                    pending = 0;
                }
                bytes.copy_within(frame_at..frame_at + frame_bytes, span.filled);
                span.filled += frame_bytes;
            } else {
                pending += count;
            }
            at += frame_bytes;
            next += count;
        }
        if pending > 0 {
            let gap = Gap { lane, count: pending, last: next - 1 };
            span.filled += gap.head().encode(&[], &mut bytes[span.filled..]);
        }
        assert!(span.filled <= filled, "dropping frames makes a block no longer");
        self.span = span;
    }

    /// As [`drop_frames`](Self::drop_frames), for a frame that has its block to itself.
    fn drop_whole(
        &mut self,
        lane: Priority,
        drops: &mut Drops,
        mut refuse: impl FnMut(&Resting<'_>) -> Option<DropReason>,
    ) {
        // Nothing is left of a frame that the peer has.
        let Some(frame) = self.frames().next().filter(|frame| !frame.is_gap()) else { return };
        let Some(reason) = refuse(&frame) else { return };
        drops.add(reason, 1);
        let Span { first, last, .. } = self.span;
        // What stood in it stays until the block is done with: a gap is no longer than a head.
        let gap = Gap { lane, count: 1, last };
        let filled = gap.head().encode(&[], self.buffer.bytes_mut());
        self.span = Span { filled, first, last, ..Span::begin(first) };
    }

    /// Copies the frames to the end of `other` if there is room, with a gap for the sequences in
    /// between. Returns whether.
    pub(crate) fn append_to(&self, other: &mut Self, lane: Priority) -> bool {
        if !self.is_open() || !other.is_open() {
            return false;
        }
        let bytes = &self.buffer.bytes()[self.span.start..self.span.filled];
        let hole = self.span.first - 1 - other.span.last;
        let gap_bytes = if hole > 0 { HEADER_BYTES } else { 0 };
        let has_room = other.span.filled + gap_bytes + bytes.len() <= other.buffer.len();
        if !has_room || hole > u64::from(u32::MAX) {
            return false;
        }
        if hole > 0 {
            other.write_gap(Gap { lane, count: hole, last: self.span.first - 1 });
        }
        let end = other.span.filled + bytes.len();
        other.buffer.bytes_mut()[other.span.filled..end].copy_from_slice(bytes);
        let (from, to) = (&self.span, &mut other.span);
        to.filled = end;
        to.frames += from.frames;
        to.reliable += from.reliable;
        to.last_reliable = from.last_reliable.max(to.last_reliable);
        to.payload_bytes_max = to.payload_bytes_max.max(from.payload_bytes_max);
        to.last = from.last;
        to.expiry = to.expiry.min(from.expiry);
        true
    }
}

/// A range of sequences whose messages will not come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gap {
    pub(crate) lane: Priority,
    pub(crate) count: u64,
    pub(crate) last: u64,
}

impl Gap {
    fn head(&self) -> FrameHead {
        FrameHead {
            kind: Kind::Gap,
            priority: self.lane,
            codec: Codec::Opaque,
            type_id: u32::try_from(self.count).expect("its maker keeps to 32 bits"),
            sequence: low_half(self.last),
            sent_at_ns: 0,
            flags: Flags::default(),
            extension: None,
            checksum: Checksum::Always,
        }
    }
}

/// Walks the frames of a block.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    bytes: &'a [u8],
    inserted: Option<&'a Bytes>,
    at: usize,
    end: usize,
    next: u64,
}

impl<'a> Frames<'a> {
    /// The frames that stand in a buffer.
    pub(crate) fn of(buffer: &'a Buffer, span: &Span) -> Self {
        let (at, end, next) = (span.start, span.filled, span.first);
        Self { bytes: buffer.bytes(), inserted: buffer.inserted(), at, end, next }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Resting<'a>;

    fn next(&mut self) -> Option<Resting<'a>> {
        if self.at == self.end {
            return None;
        }
        let frame = Resting::read(self.bytes, self.inserted, self.at, self.next);
        self.at += frame.bytes;
        self.next = frame.sequence + 1;
        Some(frame)
    }
}

#[cold]
pub(crate) fn too_large(bytes: usize, bytes_max: usize) -> SendError {
    let saturated = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    SendError::TooLarge { bytes: saturated(bytes), bytes_max: saturated(bytes_max) }
}

//! One lane: the bounded queue of one priority of one session, and what it keeps until the peer
//! has confirmed it.
//!
//! Frames are encoded once, straight into a block of send memory, and leave from there. While a
//! block is in flight the next frames gather in the next one. A block that holds reliable messages
//! is kept after it has been sent, until the peer has confirmed them; when the link is replaced,
//! what the peer does not have is sent again.
//!
//! ```text
//!   push ──▶ waiting ──take──▶ (in flight) ──settle──▶ kept ──acknowledge──▶ (free)
//!               ▲                   │ lost               │
//!               └──────────── resume ◀───────────────────┘
//! ```
//!
//! # Invariants
//!
//! - `frames` and `bytes` count what was admitted and is not yet handed to the kernel in full:
//!   queued and in flight.
//! - A message is admitted while less than `bytes_max` waits behind the block in flight. So a lane
//!   holds at most that, one frame more, and the block in flight, and one that is empty admits a
//!   frame of any length.
//! - A refused message changes nothing: the sequence does not advance and no memory is kept.
//! - The sequences of what is sent on one link have no hole. Where messages were dropped a gap
//!   frame stands for them.
//! - Every message admitted is confirmed, dropped for a counted reason, lost with its session, or
//!   still here.
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
//! A long payload that is shared memory already ([`Body::shared`]) stays there: its block holds the
//! head alone. Copying 1 MiB took the reactor's thread 60 us in which nothing else moved. It counts
//! as its length all the same, against the lane and against `kept_bytes_max`.
//!
//! What is kept for the peer's confirmation is bounded by `kept_bytes_max`: above it reliable
//! messages are refused, none is lost.
//!
//! Rejected: frames in several buffers (a payload is encoded, and checked, in one piece), and a
//! fixed share for each session (64 KB each at the defaults: less than a frame).

use std::collections::VecDeque;

use bytes::Bytes;

use crate::config::{Config, Overflow};
use crate::error::{DropReason, ProtocolError, SendError};
use crate::mem::{Buffer, Pool};
use crate::session::block::{Block, Drops, Gap, Refusal, Resting, Span, too_large};
use crate::session::mutation::Mutation;
use crate::time::Nanos;
use crate::wire::{
    BareHead, Body, FRAME_ALIGN, FrameHead, HEADER_BYTES, Priority, Scratch, frame_bytes, low_half,
};

/// A lane whose block leaves filled by no more than this fraction begins with a small one again.
const BULKY_FRACTION: usize = 16;
/// A sent block filled by no more than this fraction is put behind the one kept before it.
const KEPT_FRACTION: usize = 4;
/// Conflation keys with a message waiting that a lane remembers; the oldest makes room. Each newer
/// message looks through them. [`Envelope::latest`](super::Envelope::latest) tells of it.
const KEYS_MAX: usize = 1024;
/// Room for so many is made at first.
const KEYS_MIN: usize = 64;

/// Bounds of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneLimits {
    pub(crate) frames_max: u32,
    pub(crate) bytes_max: usize,
    /// The smaller of both sides' limits.
    pub(crate) frame_bytes_max: usize,
    /// Size of a shared block.
    pub(crate) block_bytes: usize,
    /// Memory kept until the peer confirms what is in it.
    pub(crate) kept_bytes_max: usize,
    /// From this length on a payload that is shared memory is sent from there.
    pub(crate) in_place_bytes_min: usize,
    /// What a full lane does, by [`Priority::index`].
    pub(crate) overflow: [Overflow; Priority::COUNT],
}

impl LaneLimits {
    /// Those that follow from the configuration alone.
    pub(crate) fn from_config(config: &Config) -> Self {
        Self {
            frames_max: config.lane_frames_max(),
            bytes_max: config.lane_bytes_max() as usize,
            frame_bytes_max: config.frame_bytes_max() as usize,
            block_bytes: config.block_bytes() as usize,
            kept_bytes_max: config.kept_bytes_max() as usize,
            in_place_bytes_min: config.in_place_bytes_min() as usize,
            overflow: config.overflow(),
        }
    }
}

/// Where the memory comes from, and what bodies write themselves with.
#[derive(Debug)]
pub(crate) struct SendMemory {
    pub(crate) pool: Pool,
    pub(crate) scratch: Scratch,
}

/// What the session of a lane holds of the send memory, and what became of what it promised.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Holdings {
    pub(crate) bytes: usize,
    pub(crate) small: u32,
    pub(crate) reliable: Reliable,
}

/// Reliable messages of a session so far. The rest of those admitted is queued, in flight or kept:
/// not confirmed. A block is confirmed as a whole, when the last of its reliable messages is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reliable {
    pub(crate) admitted: u64,
    pub(crate) confirmed: u64,
    /// Dropped, for any reason.
    pub(crate) lost: u64,
}

impl Reliable {
    #[inline]
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            admitted: self.admitted - earlier.admitted,
            confirmed: self.confirmed - earlier.confirmed,
            lost: self.lost - earlier.lost,
        }
    }

    /// Frames of a block have been dropped: some of its reliable ones are left.
    fn lose(&mut self, before: &Span, after: &Span) {
        let lost = u64::from(before.reliable - after.reliable);
        self.lost += if Mutation::NoReliableLoss.is_on() { 0 } else { lost };
    }
}

/// What is to become of a message besides being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Care {
    /// Kept until the peer confirms it.
    pub(crate) reliable: bool,
    /// When it is too old to be sent.
    pub(crate) expiry: Nanos,
    /// A newer message with the same key takes its place.
    pub(crate) key: Option<u64>,
}

impl Care {
    /// Sent once, whenever that is.
    pub(crate) const NONE: Self = Self { reliable: false, expiry: Nanos::NEVER, key: None };
    /// Kept, and no more.
    pub(crate) const RELIABLE: Self = Self { reliable: true, ..Self::NONE };

    /// Whether there is more to look after than that it is kept.
    #[inline]
    fn is_special(self) -> bool {
        self.expiry != Nanos::NEVER || self.key.is_some()
    }
}

/// What waits in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneStatus {
    /// Bytes queued and in flight.
    pub(crate) bytes: usize,
    /// Frames queued and in flight.
    pub(crate) frames: u32,
    /// When the oldest message that waits was queued; 0 without one.
    pub(crate) queued_at: u64,
}

/// The waiting message of a conflation key.
#[derive(Debug, Clone, Copy)]
struct Keyed {
    key: u64,
    sequence: u64,
    /// Where it stands in its block.
    at: usize,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    priority: Priority,
    waiting: VecDeque<Block>,
    kept: VecDeque<Block>,
    /// Memory of the blocks in `kept`.
    kept_bytes: usize,
    frames: u32,
    bytes: usize,
    /// Of those bytes, the ones in flight.
    taken: usize,
    /// Sequence of the last frame admitted.
    sequence: u64,
    /// Last sequence that has been handed over on the present link, gaps included.
    announced: u64,
    /// So many of the last of those had been in flight when the link was lost, and not been taken.
    untaken: u64,
    /// Last sequence that the peer has confirmed.
    acknowledged: u64,
    /// More gathered than a small block holds, last time: begin with a shared one.
    is_bulky: bool,
    keyed: Vec<Keyed>,
    drops: Drops,
    /// Of those, the ones whose place, and with it their sequence, a newer message has taken.
    taken_over: u64,
    /// A request that nobody waits for any more was dropped, and with it what it was to confirm.
    /// (What has a time to live of its own confirms nothing.)
    has_lost_confirmation: bool,
}

impl Lane {
    /// An empty lane, which holds no memory.
    pub(crate) fn new(priority: Priority) -> Self {
        Self {
            priority,
            waiting: VecDeque::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            frames: 0,
            bytes: 0,
            taken: 0,
            sequence: 0,
            announced: 0,
            untaken: 0,
            acknowledged: 0,
            is_bulky: false,
            keyed: Vec::new(),
            drops: Drops::default(),
            taken_over: 0,
            has_lost_confirmation: false,
        }
    }

    /// As [`Lane::push`], without care, behind others in a block with room for it. `None` where
    /// there is more to it: nothing has changed.
    #[inline(always)]
    pub(crate) fn append<B: Body + ?Sized>(
        &mut self,
        head: BareHead,
        body: &B,
        limits: &LaneLimits,
        scratch: &mut Scratch,
    ) -> Option<usize> {
        if self.frames >= limits.frames_max
            || self.waiting_bytes() >= limits.bytes_max
            || body.shared().is_some_and(|shared| shared.len() >= limits.in_place_bytes_min)
        {
            return None;
        }
        let block = self.waiting.back_mut()?;
        if block.span.last != self.sequence || !block.is_open() {
            return None;
        }
        let sequence = self.sequence + 1;
        let written =
            block.append(head, low_half(sequence), body, limits.frame_bytes_max, scratch)?;
        self.sequence = sequence;
        self.frames += 1;
        self.bytes += written;
        Some(written)
    }

    /// Encodes a frame at the end of the lane. Returns its length on the wire.
    ///
    /// `head.sequence` is filled in here. Hot path: once per message. No allocation, no syscall.
    #[inline(always)]
    pub(crate) fn push<B: Body + ?Sized>(
        &mut self,
        head: &mut FrameHead,
        care: Care,
        body: &B,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<usize, SendError> {
        if care.is_special() {
            return self.push_special(head, care, body, limits, memory, holdings);
        }
        self.push_behind(head, care, body, limits, memory, holdings)
    }

    /// As [`push`](Self::push), of a message with a time to live or a conflation key.
    #[cold]
    #[inline(never)]
    fn push_special<B: Body + ?Sized>(
        &mut self,
        head: &mut FrameHead,
        care: Care,
        body: &B,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<usize, SendError> {
        let mut limits = *limits;
        if let Some(keyed) = self.keyed_by(care.key) {
            if let Some(written) = self.overwrite(keyed, head, care, body, &mut memory.scratch) {
                self.drops.add(DropReason::Replaced, 1);
                self.taken_over += 1;
                holdings.reliable.admitted += u64::from(care.reliable);
                holdings.reliable.lost += u64::from(care.reliable);
                return Ok(written);
            }
            // It goes when the new one is queued, and no sooner, as that may be refused.
            limits.frames_max = limits.frames_max.saturating_add(1);
            limits.bytes_max = limits.bytes_max.saturating_add(keyed.bytes);
            limits.kept_bytes_max = limits.kept_bytes_max.saturating_add(keyed.bytes);
        }
        let written = self.push_behind(head, care, body, &limits, memory, holdings)?;
        // Unless it has gone to make room.
        if let Some(keyed) = self.keyed_by(care.key) {
            self.keyed.retain(|other| other.sequence != keyed.sequence);
            self.remove(keyed.sequence, holdings);
        }
        self.note_care(care, written);
        Ok(written)
    }

    /// Encodes a frame behind all others, whatever else is to become of it.
    #[inline(always)]
    fn push_behind<B: Body + ?Sized>(
        &mut self,
        head: &mut FrameHead,
        care: Care,
        body: &B,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<usize, SendError> {
        debug_assert_eq!(head.priority, self.priority, "each message is pushed to its own lane");
        if care.reliable {
            let is_full = self.kept_bytes + self.bytes >= limits.kept_bytes_max;
            if is_full && !Mutation::NoKeptBound.is_on() {
                return Err(SendError::Full);
            }
        }
        if self.frames >= limits.frames_max || self.waiting_bytes() >= limits.bytes_max {
            self.make_room(limits, memory, holdings)?;
        }
        let sequence = self.sequence + 1;
        head.sequence = low_half(sequence);
        let written = match (body.shared(), self.waiting.back_mut()) {
            (Some(payload), _)
                if payload.len() >= limits.in_place_bytes_min && care.key.is_none() =>
            {
                self.write_around(head, payload, limits, memory, holdings).map_err(Refusal::Send)
            }
            // What is written behind frames that may have arrived could not be dropped any more.
            (_, Some(block))
                if block.span.last == self.sequence
                    && block.span.first > self.announced
                    && block.is_open() =>
            {
                block.write(head, body, limits.frame_bytes_max, &mut memory.scratch)
            }
            _ => Err(Refusal::Needs { bytes: 0 }),
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
        if care.reliable {
            let block = self.waiting.back_mut().expect("the message was written there");
            block.span.reliable += 1;
            block.span.last_reliable = sequence;
            holdings.reliable.admitted += 1;
        }
        Ok(written)
    }

    /// Takes the oldest block for sending: [`Lane::settle`] books that it has left,
    /// [`Lane::put_back`] that the link was lost meanwhile.
    ///
    /// What has expired by `now` is dropped. `None` also when a gap has to be told and there is no
    /// memory for it: try again later.
    #[inline]
    pub(crate) fn take(
        &mut self,
        now: Nanos,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Option<Block> {
        let front = self.waiting.front()?;
        let (first, expiry) = (front.span.first, front.span.expiry);
        if first != self.announced + 1 {
            return self.take_gap(first - 1, memory, holdings);
        }
        if expiry <= now && !Mutation::NoTtl.is_on() {
            self.expire_front(now, holdings);
        }
        let block = self.waiting.pop_front()?;
        self.taken += block.span.bytes();
        self.announced = block.span.last;
        self.is_bulky &= block.span.bytes() > block.buffer.len() / BULKY_FRACTION;
        if !self.keyed.is_empty() {
            self.keyed.retain(|keyed| keyed.sequence > block.span.last);
        }
        Some(block)
    }

    /// The blocks that [`take`](Self::take) gives next, oldest first, up to one that a gap is to be
    /// told before, or that may expire.
    #[inline]
    pub(crate) fn blocks_behind(&self) -> impl Iterator<Item = &Block> {
        let mut next = self.announced + 1;
        self.waiting.iter().take_while(move |block| {
            let is_next = block.span.first == next && block.span.expiry == Nanos::NEVER;
            next = block.span.last + 1;
            is_next
        })
    }

    /// Books a block that has been handed to the kernel in full. Reliable messages in it are kept
    /// until the peer confirms them.
    #[inline]
    pub(crate) fn settle(
        &mut self,
        block: Block,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) {
        self.frames -= block.span.frames;
        self.bytes -= block.span.bytes();
        self.taken -= block.span.bytes();
        if block.span.reliable > 0 && block.span.last_reliable > self.acknowledged {
            self.keep(block, memory, holdings);
        } else {
            holdings.reliable.confirmed += u64::from(block.span.reliable);
            holdings.release(block, &mut memory.pool);
        }
    }

    /// Takes a block back that the link was lost under, and of which the socket had taken what is
    /// before `sent`. How much of that has arrived is not known.
    pub(crate) fn put_back(&mut self, mut block: Block, sent: usize) {
        self.taken -= block.span.bytes();
        let first_unsent = block.unsent(sent).next().map(|frame| frame.sequence);
        self.untaken = first_unsent.map_or(0, |first| self.announced + 1 - first);
        if Mutation::NoPutBack.is_on() {
            block.span = Span { start: block.span.filled, frames: 0, reliable: 0, ..block.span };
        }
        self.waiting.push_front(block);
    }

    /// The peer has everything up to `sequence`.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadAcknowledgement`]: that much has not been sent.
    #[inline]
    pub(crate) fn acknowledge(
        &mut self,
        sequence: u64,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<(), ProtocolError> {
        if sequence <= self.acknowledged {
            // Confirmations overtake each other: every frame carries one.
            return Ok(());
        }
        if sequence > self.announced && !Mutation::NoAcknowledgementBound.is_on() {
            return Err(ProtocolError::BadAcknowledgement {
                acknowledged: low_half(sequence),
                sent: low_half(self.announced),
            });
        }
        self.acknowledged = sequence;
        // Best-effort messages behind the last reliable one are not waited for: nothing may confirm
        // them.
        let is_done = |block: &Block| block.span.last_reliable <= sequence;
        while self.kept.front().is_some_and(is_done) {
            let block = self.kept.pop_front().expect("looked at just now");
            self.kept_bytes -= block.held_bytes();
            holdings.reliable.confirmed += u64::from(block.span.reliable);
            holdings.release(block, &mut memory.pool);
        }
        Ok(())
    }

    /// The link is gone: best-effort messages that wait go with it. What was in flight must have
    /// been [put back](Lane::put_back) before.
    pub(crate) fn link_lost(&mut self, memory: &mut SendMemory, holdings: &mut Holdings) {
        assert_eq!(self.taken, 0, "what was in flight has been put back");
        let announced = self.announced;
        for block in self.waiting.iter_mut().filter(|block| block.span.first > announced) {
            block.drop_frames(self.priority, &mut self.drops, |frame| {
                (!frame.is_reliable()).then_some(DropReason::LinkLost)
            });
        }
        self.tidy(memory, holdings);
    }

    /// Whether the peer can have received everything up to `received`, in `messages` messages.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadAcknowledgement`]: that much was never sent, or less than it confirmed.
    pub(crate) fn check_received(&self, received: u64, messages: u64) -> Result<(), ProtocolError> {
        // No link holds so many that more than these are missing.
        let least = self.acknowledged.max(self.announced.saturating_sub(u32::MAX.into()));
        if received < least || received > self.announced || messages > received {
            return Err(ProtocolError::BadAcknowledgement {
                acknowledged: low_half(received),
                sent: low_half(self.announced),
            });
        }
        Ok(())
    }

    /// A new link has taken the place of the old one: the peer has everything up to `received`,
    /// which were `messages` messages. What else is reliable is sent again, in order; the rest is
    /// dropped and counted. To be [checked](Lane::check_received) before.
    pub(crate) fn resume(
        &mut self,
        received: u64,
        messages: u64,
        now: Nanos,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) {
        assert_eq!(self.taken, 0, "what was in flight has been put back");
        assert!(self.check_received(received, messages).is_ok(), "the caller checked");
        while let Some(block) = self.kept.pop_back() {
            if Mutation::NoResend.is_on() {
                holdings.release(block, &mut memory.pool);
            } else {
                self.waiting.push_front(block);
            }
        }
        self.kept_bytes = 0;
        for block in &mut self.waiting {
            let reliable = block.span.reliable;
            if !Mutation::NoTrim.is_on() {
                block.trim(self.priority, received);
            }
            holdings.reliable.confirmed += u64::from(reliable - block.span.reliable);
            let before = block.span;
            block.drop_frames(self.priority, &mut self.drops, |frame| {
                if !frame.is_reliable() {
                    Some(DropReason::LinkLost)
                } else {
                    (frame.expiry() <= now).then_some(DropReason::Expired)
                }
            });
            holdings.reliable.lose(&before, &block.span);
        }
        self.tidy(memory, holdings);
        self.announced = received;
        self.untaken = 0;
        self.acknowledged = received;
        // Best-effort messages whose blocks are long gone, and that the peer does not have.
        // A peer that claims more messages than it can have makes the count too low: its loss.
        let accounted = messages + self.drops.total() + u64::from(self.frames);
        let lost = self.admitted().saturating_sub(accounted);
        self.drops.add(DropReason::LinkLost, if Mutation::NoLossCount.is_on() { 0 } else { lost });
    }

    /// Gives up everything, telling `undelivered` of each reliable message that the peer has not
    /// confirmed and whether it was sent. The lane is then as new, but for what it has counted.
    pub(crate) fn abandon(
        &mut self,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
        mut undelivered: impl FnMut(&Resting<'_>, Sent),
    ) -> Drops {
        let (announced, acknowledged) = (self.announced, self.acknowledged);
        let taken = announced - self.untaken;
        let blocks = self.kept.drain(..).chain(self.waiting.drain(..));
        for block in blocks {
            for frame in block.frames().filter(|frame| !frame.is_gap()) {
                let sent = if frame.sequence <= announced { Sent::Maybe } else { Sent::Never };
                let is_confirmed = frame.sequence <= acknowledged;
                let is_left_out = Mutation::ShortList.is_on() && sent == Sent::Never;
                if frame.is_reliable() && !is_confirmed && !is_left_out {
                    undelivered(&frame, sent);
                }
                if !is_confirmed && (frame.is_reliable() || frame.sequence > taken) {
                    self.drops.add(DropReason::SessionEnded, 1);
                }
                if frame.is_reliable() {
                    holdings.reliable.confirmed += u64::from(is_confirmed);
                    holdings.reliable.lost += u64::from(!is_confirmed);
                }
            }
            if !Mutation::Leak.is_on() {
                holdings.release(block, &mut memory.pool);
            }
        }
        self.keyed.clear();
        let drops = self.drops;
        *self = Self {
            // The queues keep their memory: a lane that comes back allocates nothing.
            waiting: std::mem::take(&mut self.waiting),
            kept: std::mem::take(&mut self.kept),
            keyed: std::mem::take(&mut self.keyed),
            // For the block in flight, which comes back later.
            acknowledged: self.acknowledged,
            ..Self::new(self.priority)
        };
        drops
    }

    /// After [`abandon`](Self::abandon): the next message is the first of a new session.
    pub(crate) fn begin_anew(&mut self) {
        assert_eq!(self.sequence, 0, "the lane has been given up");
        self.acknowledged = 0;
    }

    /// As if so many messages had been sent and confirmed: for sequences that take long to reach.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn begin_at(&mut self, sequence: u64) {
        assert_eq!(self.sequence, 0, "the lane is new");
        self.sequence = sequence;
        self.announced = sequence;
        self.acknowledged = sequence;
    }

    /// As [`begin_at`](Self::begin_at), none of them confirmed.
    #[cfg(test)]
    pub(crate) fn begin_at_unconfirmed(&mut self, sequence: u64) {
        self.begin_at(sequence);
        self.acknowledged = 0;
    }

    /// Last sequence that the peer has confirmed.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Messages that wait and of which the kernel has got nothing.
    pub(crate) fn never_sent(&self) -> u64 {
        let taken = self.announced - self.untaken;
        let of_block = |block: &Block| match block.span.first > taken {
            true => u64::from(block.span.frames),
            false if block.span.last <= taken => 0,
            // The one that was in flight when the link was lost.
            false => {
                let unsent = |frame: &Resting<'_>| !frame.is_gap() && frame.sequence > taken;
                block.frames().filter(unsent).count() as u64
            }
        };
        self.waiting.iter().map(of_block).sum()
    }

    /// Whether something in the block that is sent next has a time to live.
    #[inline]
    pub(crate) fn may_expire(&self) -> bool {
        self.waiting.front().is_some_and(|block| block.span.expiry != Nanos::NEVER)
    }

    /// Whether nothing waits to be taken.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the peer has confirmed every reliable message.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.kept.is_empty() && self.waiting.iter().all(|block| block.span.reliable == 0)
    }

    /// Messages ever admitted.
    pub(crate) fn admitted(&self) -> u64 {
        self.sequence + self.taken_over
    }

    /// Sequence of the last frame admitted.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Messages dropped, by reason.
    pub(crate) fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Frames queued and in flight.
    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// Bytes queued and in flight.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of those, the ones that are not in flight.
    #[inline]
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.bytes - self.taken
    }

    /// What waits or is in flight.
    pub(crate) fn status(&self) -> LaneStatus {
        let queued_at = self.waiting.iter().map(Block::queued_at).find(|&at| at > 0).unwrap_or(0);
        LaneStatus { bytes: self.bytes, frames: self.frames, queued_at }
    }

    /// Memory kept until the peer confirms what is in it.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Reliable messages that wait or are kept, found by looking at every block.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn reliable_held(&self) -> u64 {
        self.waiting.iter().chain(&self.kept).map(|block| u64::from(block.span.reliable)).sum()
    }

    /// Of that, what is of the pool.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn kept_pool_bytes(&self) -> usize {
        self.kept.iter().map(|block| block.buffer.len()).sum()
    }

    /// The waiting message of a key.
    fn keyed_by(&self, key: Option<u64>) -> Option<Keyed> {
        let key = key.filter(|_| !Mutation::NoConflation.is_on())?;
        self.keyed.iter().copied().find(|keyed| keyed.key == key)
    }

    /// Puts a message in the place of another. `None`, and nothing has changed, where it does not
    /// fit there.
    fn overwrite<B: Body + ?Sized>(
        &mut self,
        keyed: Keyed,
        head: &mut FrameHead,
        care: Care,
        body: &B,
        scratch: &mut Scratch,
    ) -> Option<usize> {
        let block = self.block_of(keyed.sequence);
        let frame = block.frames().find(|frame| frame.sequence == keyed.sequence);
        let frame = frame.expect("a keyed message waits");
        assert_eq!((frame.at, frame.bytes), (keyed.at, keyed.bytes), "keys follow their frames");
        if frame.is_reliable() != care.reliable {
            return None;
        }
        // Written behind the others first: a body that fails, or panics, leaves what stands there.
        let behind = block.span.filled;
        let memory = block.buffer.bytes_mut();
        let out = memory.get_mut(behind..behind + keyed.bytes)?;
        let room = out.get_mut(head.head_bytes()..)?;
        let payload_bytes = body.encode(room, scratch).ok()?;
        if frame_bytes(payload_bytes, head.extension.is_some()) != keyed.bytes {
            return None;
        }
        head.sequence = low_half(keyed.sequence);
        let written = head.finish(out, payload_bytes);
        memory.copy_within(behind..behind + written, keyed.at);
        block.span.expiry = block.span.expiry.min(care.expiry);
        block.span.payload_bytes_max = block.span.payload_bytes_max.max(payload_bytes);
        Some(written)
    }

    /// The waiting block that holds `sequence`.
    fn block_of(&mut self, sequence: u64) -> &mut Block {
        self.waiting
            .iter_mut()
            .rev()
            .find(|block| block.span.first <= sequence)
            .expect("a keyed message waits")
    }

    /// Removes a waiting message that a newer one replaces.
    fn remove(&mut self, sequence: u64, holdings: &mut Holdings) {
        let lane = self.priority;
        let mut drops = std::mem::take(&mut self.drops);
        let block = self.block_of(sequence);
        let before = block.span;
        block.drop_frames(lane, &mut drops, |frame| {
            (frame.sequence == sequence).then_some(DropReason::Replaced)
        });
        holdings.reliable.lose(&before, &block.span);
        let (first, last) = (block.span.first, block.span.last);
        let freed = before.bytes() - block.span.bytes();
        self.drops = drops;
        self.frames -= 1;
        self.bytes -= freed;
        self.find_keys(first, last);
    }

    /// Finds the messages of keys again after the frames of a block have moved.
    fn find_keys(&mut self, first: u64, last: u64) {
        let Self { keyed, waiting, .. } = self;
        let Some(block) = waiting.iter().find(|block| block.span.first == first) else { return };
        for keyed in keyed.iter_mut().filter(|keyed| (first..=last).contains(&keyed.sequence)) {
            let frame = block.frames().find(|frame| frame.sequence == keyed.sequence);
            keyed.at = frame.expect("a keyed message waits").at;
        }
    }

    /// Finds the messages of all keys again.
    fn find_all_keys(&mut self) {
        let Self { keyed, waiting, .. } = self;
        let (mut next, mut found) = (0, 0);
        // Both are in the order of sequences.
        for frame in waiting.iter().flat_map(Block::frames).filter(|frame| !frame.is_gap()) {
            while keyed.get(next).is_some_and(|keyed| keyed.sequence < frame.sequence) {
                next += 1;
            }
            let Some(&one) = keyed.get(next) else { break };
            if one.sequence == frame.sequence {
                keyed[found] = Keyed { at: frame.at, ..one };
                found += 1;
                next += 1;
            }
        }
        keyed.truncate(found);
    }

    /// Notes what is to become of the message that was just written.
    fn note_care(&mut self, care: Care, written: usize) {
        let block = self.waiting.back_mut().expect("the message was written there");
        block.span.expiry = block.span.expiry.min(care.expiry);
        if let Some(key) = care.key {
            if self.keyed.is_empty() {
                self.keyed.reserve(KEYS_MIN);
            } else if self.keyed.len() == KEYS_MAX {
                self.keyed.remove(0);
            }
            let at = block.span.filled - written;
            self.keyed.push(Keyed { key, sequence: self.sequence, at, bytes: written });
        }
    }

    /// The lane is full: what its policy says.
    #[cold]
    #[inline(never)]
    fn make_room(
        &mut self,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<(), SendError> {
        while self.frames >= limits.frames_max || self.waiting_bytes() >= limits.bytes_max {
            let may_drop = limits.overflow[self.priority.index()] == Overflow::DropOldest;
            if !may_drop || !self.drop_oldest(memory, holdings) {
                return Err(SendError::Full);
            }
        }
        Ok(())
    }

    /// Drops the oldest message that waits. Returns whether: a reliable one stays.
    fn drop_oldest(&mut self, memory: &mut SendMemory, holdings: &mut Holdings) -> bool {
        let announced = self.announced;
        let Some(block) = self.waiting.front_mut() else { return false };
        let Some(frame) = block.frames().next() else { return false };
        // Part of a block that was put back may have arrived.
        if frame.is_reliable() || frame.sequence <= announced {
            return false;
        }
        let (bytes, sequence, messages) = (frame.bytes, frame.sequence, u32::from(!frame.is_gap()));
        block.span.start += bytes;
        block.span.first = sequence + 1;
        block.span.frames -= messages;
        self.frames -= messages;
        self.bytes -= bytes;
        let dropped = if Mutation::NoOverflowCount.is_on() { 0 } else { messages };
        self.drops.add(DropReason::Overflow, dropped.into());
        self.keyed.retain(|keyed| keyed.sequence != sequence);
        if block.span.bytes() == 0 {
            let block = self.waiting.pop_front().expect("it is there");
            holdings.release(block, &mut memory.pool);
        }
        true
    }

    /// Tells the peer of sequences up to `last` that will not come.
    #[cold]
    fn take_gap(
        &mut self,
        last: u64,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Option<Block> {
        // Of more than a gap can tell: the rest with the next.
        let last = last.min(self.announced + u64::from(u32::MAX));
        let mut block = Block::new(memory.pool.take(HEADER_BYTES)?, self.announced + 1);
        holdings.add(&block);
        let count = last - self.announced - u64::from(Mutation::ShortGap.is_on());
        block.write_gap(Gap { lane: self.priority, count, last });
        self.announced = last;
        self.bytes += block.span.bytes();
        self.taken += block.span.bytes();
        Some(block)
    }

    /// Drops what has expired in the block that is sent next.
    #[cold]
    fn expire_front(&mut self, now: Nanos, holdings: &mut Holdings) {
        let block = self.waiting.front_mut().expect("the caller looked");
        let before = block.span;
        let has_lost_confirmation = &mut self.has_lost_confirmation;
        block.drop_frames(self.priority, &mut self.drops, |frame| {
            (frame.expiry() <= now).then(|| {
                *has_lost_confirmation |= frame.is_request();
                DropReason::Expired
            })
        });
        holdings.reliable.lose(&before, &block.span);
        self.bytes -= before.bytes() - block.span.bytes();
        self.frames -= before.frames - block.span.frames;
    }

    /// Drops a request that still waits. Returns whether it did: one that the peer may have, or
    /// that is on its way, is left alone.
    #[cold]
    pub(crate) fn withdraw(
        &mut self,
        correlation: u64,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> bool {
        let announced = self.announced;
        // The newest first: most that are given up so early have just been made.
        let is_it = |frame: &Resting<'_>| {
            frame.sequence > announced && !frame.is_gap() && frame.is_request_of(correlation)
        };
        // In the block that a link was lost under, what was written behind it has not left.
        let holds_it =
            |block: &Block| block.span.last > announced && block.frames().any(|it| is_it(&it));
        let index = self.waiting.iter().rposition(holds_it);
        if Mutation::RequestNoWithdrawal.is_on() {
            return index.is_some();
        }
        if Mutation::RequestWithdrawnLate.is_on() {
            let mut frames = self.kept.iter().chain(&self.waiting).flat_map(Block::frames);
            return frames.any(|frame| frame.is_request_of(correlation));
        }
        let Some(index) = index else { return false };
        self.drop_waiting(index, memory, holdings, |frame| {
            frame.is_request_of(correlation).then_some(DropReason::Cancelled)
        });
        true
    }

    /// Drops what waits and is too old to be sent. What was in flight when a link was lost is left
    /// alone: the peer may have it.
    #[cold]
    pub(crate) fn expire(&mut self, now: Nanos, memory: &mut SendMemory, holdings: &mut Holdings) {
        let mut index = 0;
        while let Some(block) = self.waiting.get_mut(index) {
            if block.span.first <= self.announced || block.span.expiry > now {
                index += 1;
                continue;
            }
            let mut has_request = false;
            let remains = self.drop_waiting(index, memory, holdings, |frame| {
                (frame.expiry() <= now).then(|| {
                    has_request |= frame.is_request();
                    DropReason::Expired
                })
            });
            self.has_lost_confirmation |= has_request;
            index += usize::from(remains);
        }
    }

    /// Whether a confirmation may have gone with what has expired since the last call.
    #[inline]
    pub(crate) fn take_lost_confirmation(&mut self) -> bool {
        std::mem::take(&mut self.has_lost_confirmation)
    }

    /// Drops frames of a waiting block of which nothing was sent. Returns whether any is left: a
    /// block without is freed.
    fn drop_waiting(
        &mut self,
        index: usize,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
        refuse: impl FnMut(&Resting<'_>) -> Option<DropReason>,
    ) -> bool {
        let block = &mut self.waiting[index];
        let before = block.span;
        let (first, last) = (before.first, before.last);
        block.drop_frames(self.priority, &mut self.drops, refuse);
        holdings.reliable.lose(&before, &block.span);
        self.bytes -= before.bytes() - block.span.bytes();
        self.frames -= before.frames - block.span.frames;
        let remain: Vec<_> =
            block.frames().filter(|frame| !frame.is_gap()).map(|f| f.sequence).collect();
        let is_elsewhere = |sequence: u64| !(first..=last).contains(&sequence);
        self.keyed.retain(|keyed| is_elsewhere(keyed.sequence) || remain.contains(&keyed.sequence));
        self.find_keys(first, last);
        if remain.is_empty() {
            // The sequences it stood for are told as a gap.
            let block = self.waiting.remove(index).expect("looked at just now");
            self.bytes -= block.span.bytes();
            holdings.release(block, &mut memory.pool);
        }
        !remain.is_empty()
    }

    /// Whether something waits that is too old to be sent. (That nobody waits for a request any
    /// more is another matter: it may go.)
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn is_stale(&self, now: Nanos) -> bool {
        let waiting = self.waiting.iter().filter(|block| block.span.first > self.announced);
        let mut frames = waiting.flat_map(|block| block.frames());
        frames.any(|frame| !frame.is_gap() && !frame.is_request() && frame.expiry() <= now)
    }

    /// When something that waits is too old to be sent. Looks at every block.
    pub(crate) fn expiry(&self) -> Nanos {
        let waiting = self.waiting.iter().filter(|block| block.span.first > self.announced);
        waiting.map(|block| block.span.expiry).min().unwrap_or(Nanos::NEVER)
    }

    /// Keeps a block until the peer confirms it. Short ones are put together, so that a slow stream
    /// of commands does not take a block each.
    #[cold]
    fn keep(&mut self, block: Block, memory: &mut SendMemory, holdings: &mut Holdings) {
        if Mutation::NoKeeping.is_on() {
            holdings.release(block, &mut memory.pool);
            return;
        }
        let is_short = block.span.bytes() <= block.buffer.len() / KEPT_FRACTION;
        if is_short
            && let Some(last) = self.kept.back_mut()
            && block.append_to(last, self.priority)
        {
            holdings.release(block, &mut memory.pool);
            return;
        }
        self.kept_bytes += block.held_bytes();
        self.kept.push_back(block);
    }

    /// Frees blocks without messages and counts the rest again. The sequences they stood for are
    /// told as a gap.
    fn tidy(&mut self, memory: &mut SendMemory, holdings: &mut Holdings) {
        for _ in 0..self.waiting.len() {
            let block = self.waiting.pop_front().expect("counted");
            if block.span.frames == 0 {
                holdings.release(block, &mut memory.pool);
            } else {
                self.waiting.push_back(block);
            }
        }
        self.frames = self.waiting.iter().map(|block| block.span.frames).sum();
        self.bytes = self.waiting.iter().map(|block| block.span.bytes()).sum();
        // Their frames have moved, or are gone.
        if !self.keyed.is_empty() {
            self.find_all_keys();
        }
    }

    /// Out of line, so that writing behind other messages is short. Not cold: a message that comes
    /// alone, as in a round trip, has a block to itself.
    #[inline(never)]
    fn write_to_new_block<B: Body + ?Sized>(
        &mut self,
        bytes: usize,
        head: &FrameHead,
        body: &B,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<usize, SendError> {
        match self.try_new_block(bytes, head, body, limits, memory, holdings) {
            Ok(written) => Ok(written),
            Err(Refusal::Send(error)) => Err(error),
            Err(Refusal::Needs { bytes }) => {
                self.write_to_longer_block(bytes, head, body, limits, memory, holdings)
            }
        }
    }

    /// The same once more, as the first attempt has told how long the frame is.
    #[cold]
    #[inline(never)]
    fn write_to_longer_block<B: Body + ?Sized>(
        &mut self,
        bytes: usize,
        head: &FrameHead,
        body: &B,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<usize, SendError> {
        match self.try_new_block(bytes, head, body, limits, memory, holdings) {
            Ok(written) => Ok(written),
            Err(Refusal::Send(error)) => Err(error),
            // The body wrote more at its second attempt than it asked for at its first.
            Err(Refusal::Needs { .. }) => Err(SendError::Unserializable),
        }
    }

    #[inline(always)]
    fn try_new_block<B: Body + ?Sized>(
        &mut self,
        bytes: usize,
        head: &FrameHead,
        body: &B,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<usize, Refusal> {
        self.is_bulky |= !self.waiting.is_empty();
        let block_bytes = limits.block_bytes;
        let buffer = self.make_buffer(bytes, block_bytes, limits, memory, holdings);
        let buffer = buffer.map_err(Refusal::Send)?;
        self.waiting.push_back(Block::new(buffer, self.sequence + 1));
        let mut loan = Loan { waiting: &mut self.waiting, pool: &mut memory.pool, is_kept: false };
        let block = loan.waiting.back_mut().expect("it was put there");
        let written = block.write(head, body, limits.frame_bytes_max, &mut memory.scratch)?;
        holdings.add(block);
        loan.is_kept = true;
        Ok(written)
    }

    /// A frame whose payload is sent from where it is.
    #[cold]
    #[inline(never)]
    fn write_around(
        &mut self,
        head: &FrameHead,
        payload: &Bytes,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<usize, SendError> {
        let total = frame_bytes(payload.len(), head.extension.is_some());
        if total > limits.frame_bytes_max {
            return Err(too_large(total, limits.frame_bytes_max));
        }
        let own_bytes = head.head_bytes() + FRAME_ALIGN;
        let buffer = self.make_buffer(own_bytes, own_bytes, limits, memory, holdings)?;
        let mut block = Block::new(buffer, self.sequence + 1);
        let written = block.write_around(head, payload.clone(), &mut memory.pool);
        holdings.add(&block);
        self.waiting.push_back(block);
        Ok(written)
    }

    /// Memory for a block, with what the overflow policy can do for it; see the module. The common
    /// case, a small buffer, is all of it that is inlined.
    #[inline]
    fn make_buffer(
        &mut self,
        bytes: usize,
        block_bytes: usize,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<Buffer, SendError> {
        match self.take_small_first(bytes, &mut memory.pool, holdings) {
            Some(buffer) => Ok(buffer),
            None => self.make_other_buffer(bytes, block_bytes, limits, memory, holdings),
        }
    }

    /// The rest of [`make_buffer`](Self::make_buffer).
    #[inline(never)]
    fn make_other_buffer(
        &mut self,
        bytes: usize,
        block_bytes: usize,
        limits: &LaneLimits,
        memory: &mut SendMemory,
        holdings: &mut Holdings,
    ) -> Result<Buffer, SendError> {
        let may_drop = limits.overflow[self.priority.index()] == Overflow::DropOldest;
        loop {
            let taken = self.take_other(bytes, block_bytes, &mut memory.pool, holdings);
            if let Some(buffer) = taken {
                return Ok(buffer);
            }
            if !(may_drop && self.drop_oldest(memory, holdings)) {
                return Err(SendError::MemoryFull);
            }
            // The one that was dropped may have been the only one that waited.
            if let Some(buffer) = self.take_small_first(bytes, &mut memory.pool, holdings) {
                return Ok(buffer);
            }
        }
    }

    /// A small buffer, of a lane that is not bulky.
    #[inline]
    fn take_small_first(
        &self,
        bytes: usize,
        pool: &mut Pool,
        holdings: &Holdings,
    ) -> Option<Buffer> {
        let comes_first = !self.is_bulky && self.small_will_do(holdings);
        if comes_first { pool.take_small(bytes) } else { None }
    }

    /// Whether a small buffer is enough for what is queued now.
    #[inline]
    fn small_will_do(&self, holdings: &Holdings) -> bool {
        self.waiting.is_empty() && holdings.small == 0
    }

    /// Memory for a block of at least `bytes`, of what a lane has besides.
    #[inline]
    fn take_other(
        &self,
        bytes: usize,
        block_bytes: usize,
        pool: &mut Pool,
        holdings: &Holdings,
    ) -> Option<Buffer> {
        if holdings.bytes <= pool.shared_free_bytes() {
            let whole = if self.is_bulky { bytes.max(block_bytes) } else { bytes };
            if let Some(buffer) = pool.take_shared(whole).or_else(|| pool.take_shared(bytes)) {
                return Some(buffer);
            }
        }
        if self.small_will_do(holdings)
            && let Some(buffer) = pool.take_small(bytes)
        {
            return Some(buffer);
        }
        if holdings.bytes == 0 { pool.take_reserve(bytes) } else { None }
    }
}

/// Whether the peer may have a message that it has not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was handed to the kernel: the peer may have it.
    Maybe,
    /// It was not: the peer can not have it.
    Never,
}

/// The newest block of a lane, which is written where it stands: it goes, and its memory back,
/// unless it is kept. So also when the body panics while it writes.
struct Loan<'a> {
    waiting: &'a mut VecDeque<Block>,
    pool: &'a mut Pool,
    is_kept: bool,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if !self.is_kept
            && let Some(block) = self.waiting.pop_back()
        {
            self.pool.give(block.buffer);
        }
    }
}

impl Holdings {
    pub(crate) fn add(&mut self, block: &Block) {
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

//! A tap: copies of the frames that pass a reactor, for another thread to look at.
//!
//! The reactor copies a frame into a ring of memory of its own, and that is all it does: it wakes
//! nobody, waits for nobody, and when the ring is full the frame is counted as lost. The reader
//! looks every millisecond. So a reader that stalls costs frames of a recording, and nothing else.
//!
//! # The ring
//!
//! ```text
//!   words … │ entry │ entry │ free …        entry: length, direction │ session │ when │ lost
//!           ▲ read          ▲ written              and then the frame, a multiple of 16 bytes
//! ```
//!
//! One thread writes and one reads, so the words are plain stores and loads, and two counters order
//! them: `sync::ring`, which has a model in `loom/`.
//!
//! Frames that find no room are counted here, for whoever reads, and in the reactor's registry
//! (`tap_frames_lost`), for whoever wonders about the node.
//!
//! Cost: a reactor without a tap tests one pointer per frame. With one, a frame of 64 bytes costs
//! 8 ns, and 2.5 ns when there is no room for it (`cargo bench --bench tap`, AMD EPYC).

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use slotmap::{Key, KeyData};
use zerocopy::{FromZeros, IntoBytes};

use crate::config::REACTORS_MAX;
use crate::error::{ReceiveError, SetupError};
use crate::mem::Pieces;
use crate::reactor::connection::ReactorId;
use crate::reactor::sessions::SessionKey;
use crate::reactor::{ConnectionId, Reactor};
use crate::record::Direction;
use crate::session::block::Block;
use crate::stats::CounterBlock;
use crate::sync::ring::Ring;
use crate::time::Nanos;
use crate::wire::{Decoder, Frame, Kind};

/// Memory of one reactor's ring, unless the filter says otherwise.
const MEMORY_BYTES: usize = 16 << 20;
/// The least that is of use, and the most.
const MEMORY_BYTES_MIN: usize = 64 << 10;
const MEMORY_BYTES_MAX: usize = 1 << 30;
/// Words in front of a frame.
const ENTRY_WORDS: u64 = 4;
const WORD_BYTES: usize = size_of::<u64>();
/// How long a reader that found nothing waits before it looks again.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Reactors that may be tapped at once.
const RINGS_MAX: usize = REACTORS_MAX as usize;

/// Which frames are tapped, and how much memory they may wait in.
///
/// Frames of the session itself (heartbeats, greetings, confirmations) never are.
#[derive(Debug, Clone, Copy)]
pub struct TapFilter {
    received: bool,
    sent: bool,
    /// A bit per kind; 0 is all of them.
    kinds: u16,
    memory_bytes: usize,
}

impl TapFilter {
    const fn new(received: bool, sent: bool) -> Self {
        Self { received, sent, kinds: 0, memory_bytes: MEMORY_BYTES }
    }

    /// What peers send.
    #[must_use]
    pub const fn received() -> Self {
        Self::new(true, false)
    }

    /// What is sent to peers, when it is handed to the kernel. A reliable message that is sent
    /// again after a lost link is seen again.
    #[must_use]
    pub const fn sent() -> Self {
        Self::new(false, true)
    }

    /// Both.
    #[must_use]
    pub const fn both() -> Self {
        Self::new(true, true)
    }

    /// Only frames of this kind; of several, when it is called several times.
    ///
    /// # Panics
    ///
    /// When the kind belongs to the session (heartbeat, hello …).
    #[must_use]
    pub const fn kind(mut self, kind: Kind) -> Self {
        assert!(kind.is_application(), "the session's own frames are not tapped");
        self.kinds |= 1 << kind as u16;
        self
    }

    /// Memory in which frames wait for the reader, for each reactor; resident as used. Default 16
    /// MiB, bounds 64 KiB and 1 GiB, rounded up to a power of two. A frame longer than that, or
    /// one that comes while it is full, is lost and counted.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        let bytes = bytes.clamp(MEMORY_BYTES_MIN, MEMORY_BYTES_MAX);
        self.memory_bytes = bytes.next_power_of_two();
        self
    }

    fn takes(&self, kind: Kind) -> bool {
        kind.is_application() && (self.kinds == 0 || self.kinds >> kind as u16 & 1 == 1)
    }
}

/// To be set on reactors, whose frames then come to one [`TapReceiver`]: see
/// [`Reactor::set_tap`](crate::Reactor::set_tap) and [`NodeBuilder::tap`](crate::NodeBuilder::tap).
#[derive(Debug, Clone)]
pub struct Tap {
    filter: TapFilter,
    rings: Sender<Reading>,
}

impl Tap {
    /// A tap and the end that is read. Any number of reactors may have the tap.
    #[must_use]
    pub fn new(filter: TapFilter) -> (Self, TapReceiver) {
        let (sender, receiver) = bounded(RINGS_MAX);
        let reading = TapReceiver {
            coming: receiver,
            has_taps: true,
            rings: Vec::new(),
            frame: Vec::new(),
            lost_by_gone: 0,
        };
        (Self { filter, rings: sender }, reading)
    }

    /// The writing end for one reactor. `None` when nobody reads any more.
    fn writer(
        &self,
        reactor: ReactorId,
        counters: &CounterBlock,
    ) -> Result<Option<Box<TapWriter>>, SetupError> {
        let bytes = self.filter.memory_bytes;
        let line = Line::new(reactor, bytes / WORD_BYTES)
            .ok_or(SetupError::Memory { key: "memory_bytes of a tap", bytes: bytes as u64 })?;
        let line = Arc::new(line);
        match self.rings.try_send(Reading { line: Arc::clone(&line), told: 0, end: None }) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_)) => return Ok(None),
            Err(TrySendError::Full(_)) => return Err(SetupError::TapFull { waiting: RINGS_MAX }),
        }
        let (filter, counters) = (self.filter, counters.clone());
        let writer =
            TapWriter { filter, line, counters, written: 0, read: 0, lost: 0, is_off: false };
        Ok(Some(Box::new(writer)))
    }
}

impl Reactor {
    /// Copies the frames that pass from now on to another thread; see [`TapFilter`] for which. A
    /// tap that was there before ends. What it costs is a copy per frame: see the module's source.
    ///
    /// # Errors
    ///
    /// [`SetupError::Memory`], and [`SetupError::TapFull`] when the receiver has not looked for as
    /// many reactors as a tap takes at once; the tap that was there before stays.
    pub fn set_tap(&mut self, tap: &Tap) -> Result<(), SetupError> {
        self.core.tap = tap.writer(self.core.reactor, &self.core.counters)?;
        Ok(())
    }
}

/// The ring of one reactor.
#[derive(Debug)]
struct Line {
    reactor: ReactorId,
    ring: Ring,
}

impl Line {
    /// `None` when there is no memory.
    fn new(reactor: ReactorId, words: usize) -> Option<Self> {
        // Fresh from the kernel and zero: resident as used.
        let words = <[AtomicU64]>::new_box_zeroed_with_elems(words).ok()?;
        Some(Self { reactor, ring: Ring::over(words) })
    }
}

/// A reactor's end of its ring.
#[derive(Debug)]
pub(crate) struct TapWriter {
    filter: TapFilter,
    line: Arc<Line>,
    counters: CounterBlock,
    written: u64,
    /// What the reader is known to have read.
    read: u64,
    lost: u64,
    /// Nobody reads any more.
    is_off: bool,
}

impl TapWriter {
    /// Copies a received frame. Hot path: once per message while there is a tap. No allocation, no
    /// system call. Out of the way of reactors without one; the frame by value, so that theirs
    /// stays in registers.
    #[cold]
    #[inline(never)]
    pub(crate) fn received(&mut self, session: SessionKey, at: Nanos, frame: Frame<'_>) {
        if self.filter.received && self.filter.takes(frame.kind()) {
            self.put(Direction::Received, session, at, &Pieces::one(frame.as_bytes()));
        }
    }

    /// Copies the frames of a lane's block that is about to be sent. Hot path: once per block.
    #[cold]
    #[inline(never)]
    pub(crate) fn sent(&mut self, session: SessionKey, at: Nanos, block: &Block) {
        if !self.filter.sent {
            return;
        }
        for frame in block.frames() {
            if self.filter.takes(frame.kind()) {
                let pieces = block.buffer.pieces(frame.at..frame.at + frame.bytes);
                self.put(Direction::Sent, session, at, &pieces);
            }
        }
    }

    fn put(&mut self, direction: Direction, session: SessionKey, at: Nanos, frame: &Pieces<'_>) {
        let bytes = frame.bytes();
        assert!(bytes.is_multiple_of(WORD_BYTES), "frames are padded");
        let frame_words = bytes / WORD_BYTES;
        let words = ENTRY_WORDS + frame_words as u64;
        if !self.has_room(words) {
            return;
        }
        let ring = &self.line.ring;
        let length = (bytes as u64) << 8 | u64::from(direction == Direction::Sent);
        let entry = [length, session.data().as_ffi(), at.0, self.lost];
        for (word, place) in entry.into_iter().zip(self.written..) {
            ring.store(place, word);
        }
        let (first, second) = ring.places(self.written + ENTRY_WORDS, frame_words);
        let mut places = first.iter().chain(second);
        // What a piece leaves of its last word, for the next one to complete.
        let (mut carry, mut carried) = ([0; WORD_BYTES], 0);
        for mut piece in frame.as_slice().iter().copied() {
            if carried > 0 {
                let taken = piece.len().min(WORD_BYTES - carried);
                carry[carried..carried + taken].copy_from_slice(&piece[..taken]);
                (carried, piece) = (carried + taken, &piece[taken..]);
                if carried < WORD_BYTES {
                    continue;
                }
            }
            let (words, rest) = piece.as_chunks::<WORD_BYTES>();
            let completed = if carried > 0 { &[carry][..] } else { &[] };
            for (word, place) in completed.iter().chain(words).zip(&mut places) {
                // ORDERING: Relaxed: `publish` orders it.
                place.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
            }
            carry[..rest.len()].copy_from_slice(rest);
            carried = rest.len();
        }
        self.written += words;
        ring.publish(self.written);
    }

    /// Whether an entry of so many words fits; if not, it is lost.
    fn has_room(&mut self, words: u64) -> bool {
        let ring = &self.line.ring;
        let room = ring.len() as u64;
        if self.written + words - self.read <= room {
            return !self.is_off;
        }
        self.read = ring.freed();
        if self.written + words - self.read <= room {
            return true;
        }
        self.is_off |= ring.is_unread();
        if !self.is_off {
            self.lost += 1;
            ring.set_lost(self.lost);
            self.counters.tap_frames_lost.add(1);
        }
        false
    }
}

impl Drop for TapWriter {
    fn drop(&mut self) {
        self.line.ring.close();
    }
}

/// A frame that came through a tap.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct TapFrame<'a> {
    /// Which way it went.
    pub direction: Direction,
    /// The session it belongs to.
    pub connection: ConnectionId,
    /// When: the reactor's time of that turn.
    pub at: Nanos,
    /// The frame as it was on the wire, 16-aligned.
    pub bytes: &'a [u8],
    /// Frames of its reactor that were lost since the one before it.
    pub lost_before: u64,
}

impl<'a> TapFrame<'a> {
    /// The frame, to be read like any other. Checks the checksum once more, where there is one.
    #[must_use]
    pub fn frame(&self) -> Frame<'a> {
        let mut input = self.bytes;
        let frame = Decoder::new(self.bytes.len()).next(&mut input);
        frame.ok().flatten().expect("a reactor hands whole frames over")
    }
}

/// A ring that is read, or will be. When it is dropped, its writer learns that nobody does.
#[derive(Debug)]
struct Reading {
    line: Arc<Line>,
    /// What of its losses the frames have told.
    told: u64,
    /// Where reading ends, and what had been lost until then; `None` while it goes on.
    end: Option<(u64, u64)>,
}

impl Reading {
    fn lost(&self) -> u64 {
        self.end.map_or_else(|| self.line.ring.lost(), |(_, lost)| lost)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.line.ring.leave();
    }
}

/// The end of a [`Tap`] that is read, on any one thread. When it is dropped the reactors go on
/// without.
#[derive(Debug)]
pub struct TapReceiver {
    coming: Receiver<Reading>,
    /// Whether more rings may come.
    has_taps: bool,
    rings: Vec<Reading>,
    /// The last frame.
    frame: Vec<u128>,
    /// Losses of reactors that are gone.
    lost_by_gone: u64,
}

impl TapReceiver {
    /// Waits for the next frame, for up to `timeout`; zero only looks. Of several reactors the
    /// earliest of those there are.
    ///
    /// Sleeps a millisecond at a time. Allocates when a frame is longer than all before it.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Timeout`]; [`ReceiveError::ShutDown`] when all reactors with the tap are
    /// gone, and the tap itself, and everything was read.
    pub fn receive(&mut self, timeout: Duration) -> Result<TapFrame<'_>, ReceiveError> {
        let mut deadline = None;
        let number = loop {
            self.meet_new_reactors();
            if let Some(number) = self.earliest() {
                break number;
            }
            if self.rings.is_empty() && !self.has_taps {
                return Err(ReceiveError::ShutDown);
            }
            let now = Nanos::now();
            let left = deadline.get_or_insert(now + timeout).since(now);
            if left.is_zero() {
                return Err(ReceiveError::Timeout { timeout });
            }
            std::thread::park_timeout(LOOK_EVERY.min(left));
        };
        Ok(self.take(number))
    }

    /// Frames lost so far, because they were not read in time: also those behind the last frame
    /// that was received.
    #[must_use]
    pub fn frames_lost(&self) -> u64 {
        self.lost_by_gone + self.rings.iter().map(Reading::lost).sum::<u64>()
    }

    /// Ends reading behind what has come so far: then [`receive`](Self::receive) says that all is
    /// shut down, however much is tapped meanwhile.
    pub(crate) fn end_here(&mut self) {
        self.meet_new_reactors();
        self.has_taps = false;
        for reading in &mut self.rings {
            let ring = &reading.line.ring;
            reading.end = Some((ring.written(), ring.lost()));
        }
    }

    fn meet_new_reactors(&mut self) {
        while self.has_taps {
            match self.coming.try_recv() {
                Ok(reading) => self.rings.push(reading),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.has_taps = false,
            }
        }
    }

    /// The ring with the earliest frame; those of which nothing more is to come are forgotten.
    fn earliest(&mut self) -> Option<usize> {
        let mut best: Option<(usize, u64)> = None;
        let mut number = 0;
        while let Some(reading) = self.rings.get(number) {
            let ring = &reading.line.ring;
            // Before the look at what is written: who sees it sees all of that.
            let is_closed = reading.end.is_some() || ring.is_closed();
            let read = ring.read();
            if reading.end.map_or_else(|| ring.written(), |(end, _)| end) != read {
                let at = ring.load(read + 2);
                if best.is_none_or(|(_, earliest)| at < earliest) {
                    best = Some((number, at));
                }
            } else if is_closed {
                self.lost_by_gone += reading.lost();
                self.rings.swap_remove(number);
                // The last one has its place now.
                continue;
            }
            number += 1;
        }
        best.map(|(number, _)| number)
    }

    /// Copies the first frame of a ring.
    fn take(&mut self, number: usize) -> TapFrame<'_> {
        let Reading { line, told, .. } = &mut self.rings[number];
        let ring = &line.ring;
        let read = ring.read();
        let [length, session, at, lost] = [0, 1, 2, 3].map(|word| ring.load(read + word));
        let bytes = usize::try_from(length >> 8).expect("it fits the ring");
        self.frame.clear();
        self.frame.resize(bytes.div_ceil(size_of::<u128>()), 0);
        let copy = &mut self.frame.as_mut_bytes()[..bytes];
        let (first, second) = ring.places(read + ENTRY_WORDS, bytes / WORD_BYTES);
        let (words, _) = copy.as_chunks_mut::<WORD_BYTES>();
        for (word, place) in words.iter_mut().zip(first.iter().chain(second)) {
            // ORDERING: Relaxed: the look at what is written, in `earliest`, orders it.
            *word = place.load(Ordering::Relaxed).to_ne_bytes();
        }
        let words = ENTRY_WORDS + (bytes / WORD_BYTES) as u64;
        // Only now may the words be overwritten.
        ring.free(read + words);
        let lost_before = lost - *told;
        *told = lost;
        let is_sent = length & 1 == 1;
        TapFrame {
            direction: if is_sent { Direction::Sent } else { Direction::Received },
            connection: ConnectionId {
                reactor: line.reactor,
                key: SessionKey::from(KeyData::from_ffi(session)),
            },
            at: Nanos(at),
            bytes: &self.frame.as_bytes()[..bytes],
            lost_before,
        }
    }
}

impl Drop for TapReceiver {
    fn drop(&mut self) {
        // Those that nobody has met learn it too; a channel keeps what is in it while it has
        // senders.
        self.meet_new_reactors();
    }
}

//! What a registry file is made of. The byte table is in the documentation of [`stats`](super).
//!
//! Invariants: everything is made of `AtomicU64`, little-endian as the machines this runs on; one
//! writer per block, its reactor's thread; a block's sequence is odd exactly while its writer
//! changes what belongs together, a row's while all of the row but its counts is written. The
//! offsets that other languages rely on are checked while compiling.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{CloseReason, DropReason};
use crate::stats::histogram::Histogram;
use crate::stats::{Counters, LANES};
use crate::sync::sequence::Sequence;

/// The first eight bytes of a file.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"RWSTATS\0");
/// Of what the byte table fixes: where things are in the header, and how a writer is known to live.
/// What the header itself says (sizes, numbers of things, their names) is in [`layout`].
pub(crate) const VERSION: u64 = 2;
/// What `ready` holds once everything else is in place.
pub(crate) const READY: u64 = u64::from_le_bytes(*b"ready\0\0\0");
/// Bytes before the first block.
pub(crate) const HEADER_BYTES: usize = 8192;
/// Where the labels begin.
pub(crate) const LABELS_AT: usize = 512;

/// Text of at most `8 * N` bytes, filled up with zeros.
pub(crate) type Text<const N: usize> = [AtomicU64; N];

const LABEL_WORDS: usize = (HEADER_BYTES - LABELS_AT) / 8;

/// Whose numbers these are.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Header {
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU64,
    pub(crate) ready: AtomicU64,
    pub(crate) file_bytes: AtomicU64,
    pub(crate) header_bytes: AtomicU64,
    pub(crate) block_bytes: AtomicU64,
    pub(crate) blocks: AtomicU64,
    pub(crate) counters_at: AtomicU64,
    pub(crate) counter_words: AtomicU64,
    pub(crate) histograms_at: AtomicU64,
    pub(crate) histograms: AtomicU64,
    pub(crate) histogram_bytes: AtomicU64,
    pub(crate) rows_at: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) row_bytes: AtomicU64,
    pub(crate) lanes: AtomicU64,
    pub(crate) drop_reasons: AtomicU64,
    pub(crate) labels_bytes: AtomicU64,
    pub(crate) pid: AtomicU64,
    /// [`layout`] of the build that writes.
    pub(crate) layout: AtomicU64,
    reserved_before_times: [AtomicU64; 2],
    pub(crate) created_ns: AtomicU64,
    pub(crate) created_wall_ns: AtomicU64,
    /// When the writer ended in order; 0 before.
    pub(crate) exited_wall_ns: AtomicU64,
    pub(crate) is_server: AtomicU64,
    pub(crate) turn_threshold_ns: AtomicU64,
    /// Messages that a node's handles refused, on any thread: this word and the next have several
    /// writers.
    pub(crate) handles_too_large: AtomicU64,
    /// Messages that were worth nothing any more when they were taken from the inbox.
    pub(crate) handles_overdue: AtomicU64,
    /// Which build writes: at this place in all versions.
    pub(crate) build: Text<3>,
    pub(crate) node_name: Text<8>,
    pub(crate) command: Text<8>,
    /// The first address listened on.
    pub(crate) endpoint: Text<14>,
    reserved_before_labels: [AtomicU64; 2],
    /// Names of the counters' words, each with a line break behind it.
    pub(crate) labels: Text<LABEL_WORDS>,
}

const _: () = {
    assert!(size_of::<Header>() == HEADER_BYTES);
    assert!(offset_of!(Header, ready) == 16);
    assert!(offset_of!(Header, file_bytes) == 24);
    assert!(offset_of!(Header, blocks) == 48);
    assert!(offset_of!(Header, counters_at) == 56);
    assert!(offset_of!(Header, histograms_at) == 72);
    assert!(offset_of!(Header, rows_at) == 96);
    assert!(offset_of!(Header, lanes) == 120);
    assert!(offset_of!(Header, labels_bytes) == 136);
    assert!(offset_of!(Header, pid) == 144);
    assert!(offset_of!(Header, layout) == 152);
    assert!(offset_of!(Header, created_ns) == 176);
    assert!(offset_of!(Header, exited_wall_ns) == 192);
    assert!(offset_of!(Header, turn_threshold_ns) == 208);
    assert!(offset_of!(Header, build) == 232);
    assert!(offset_of!(Header, node_name) == 256);
    assert!(offset_of!(Header, command) == 320);
    assert!(offset_of!(Header, endpoint) == 384);
    assert!(offset_of!(Header, labels) == LABELS_AT);
};

/// What begins the block of a reactor.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct BlockHead {
    /// Odd while the reactor writes what belongs together: in a turn, its sends included.
    /// Everything in the block but single counts is written under it, the rows too.
    pub(crate) sequence: Sequence,
    /// When the turn under way, or the last one, began; monotonic.
    pub(crate) turn_began_ns: AtomicU64,
    /// Messages counted as received that no row tells of yet.
    pub(crate) unsettled_messages: AtomicU64,
    /// Their bytes.
    pub(crate) unsettled_bytes: AtomicU64,
    reserved: [AtomicU64; 12],
}

impl BlockHead {
    /// What is written from here on belongs together. Hot path: once or twice a turn.
    #[inline]
    pub(crate) fn begin(&self, odd: u64) {
        self.sequence.begin(odd);
    }

    /// It is complete.
    #[inline]
    pub(crate) fn end(&self, even: u64) {
        self.sequence.end(even);
    }
}

macro_rules! histograms {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The histograms of one reactor.
        #[derive(Debug)]
        #[repr(C)]
        pub(crate) struct Histograms {
            $($(#[doc = $doc])+ pub(crate) $name: Histogram,)+
        }

        /// Their names and what they tell, in their order.
        pub(crate) const HISTOGRAMS: &[(&str, &str)] = &[
            $((stringify!($name), concat!($($doc,)+)),)+
        ];
    };
}

histograms! {
    /// Time that a handler took; of every 64th call.
    handler,
    /// From a request's queueing to its answer.
    request_round_trip,
    /// Round trip of a heartbeat, without what the peer took to answer.
    heartbeat_round_trip,
    /// From a message's queueing until the kernel was handed it; of the oldest of each block.
    queueing,
    /// From a message's queueing at the peer to its arrival here, by the estimate of the peer's
    /// clock; of the first message of each receive.
    one_way,
    /// How far the estimate that `one_way` is reckoned with may be off; each time it is renewed.
    one_way_error,
    /// Time of a turn, waiting not included; of turns that call handlers, and of all turns on the
    /// threads of a node.
    turn,
}

pub(crate) const HISTOGRAM_COUNT: usize = HISTOGRAMS.len();
const _: () = assert!(size_of::<Histograms>() == HISTOGRAM_COUNT * size_of::<Histogram>());

/// One lane of a session.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct LaneRow {
    /// Bytes queued and in flight.
    pub(crate) bytes: AtomicU64,
    /// Frames queued and in flight.
    pub(crate) frames: AtomicU64,
    /// When the oldest of them was queued, monotonic; 0 without one.
    pub(crate) oldest_ns: AtomicU64,
}

/// One session. Written when something happens to it, and a tenth of a second after traffic.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Row {
    /// Odd while the row is written, but for what is counted in it as it comes and goes: messages
    /// and bytes, both ways, and drops. Those are under the block's sequence alone.
    pub(crate) sequence: AtomicU64,
    /// Slot in the low half, slotmap's version of it in the high half: odd, twice the uses before
    /// and one; 0: never used.
    pub(crate) key: AtomicU64,
    /// See [`RowState`].
    pub(crate) state: AtomicU64,
    pub(crate) updated_ns: AtomicU64,
    /// When it was established, went away or ended.
    pub(crate) since_ns: AtomicU64,
    pub(crate) last_activity_ns: AtomicU64,
    pub(crate) messages_sent: AtomicU64,
    pub(crate) messages_received: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) bytes_kept: AtomicU64,
    pub(crate) messages_missed: AtomicU64,
    pub(crate) messages_expired: AtomicU64,
    pub(crate) expired_at_peer: AtomicU64,
    /// The last round trip of a heartbeat; 0 before one was measured.
    pub(crate) round_trip_ns: AtomicU64,
    /// The peer's clock minus ours, two's complement.
    pub(crate) clock_offset_ns: AtomicU64,
    /// How far that may be off; `u64::MAX` while nothing is known.
    pub(crate) clock_error_ns: AtomicU64,
    /// Links that the session has had.
    pub(crate) links: AtomicU64,
    /// 1 + [`CloseReason::index`](crate::CloseReason::index) of why the link or the session ended.
    pub(crate) reason: AtomicU64,
    pub(crate) peer_number: AtomicU64,
    pub(crate) peer_name: Text<8>,
    pub(crate) address: Text<14>,
    pub(crate) lanes: [LaneRow; LANES],
    pub(crate) drops: [[AtomicU64; DropReason::COUNT]; LANES],
}

const _: () = {
    assert!(offset_of!(Row, updated_ns) == 24);
    assert!(offset_of!(Row, messages_sent) == 48);
    assert!(offset_of!(Row, bytes_kept) == 80);
    assert!(offset_of!(Row, round_trip_ns) == 112);
    assert!(offset_of!(Row, links) == 136);
    assert!(offset_of!(Row, peer_name) == 160);
    assert!(offset_of!(Row, address) == 224);
    assert!(offset_of!(Row, lanes) == 336);
    assert!(offset_of!(Row, drops) == 432);
};

/// Where the session of a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RowState {
    /// The handshake is not complete.
    Connecting,
    /// Messages flow.
    Connected,
    /// Without a link; reliable messages wait for one.
    Away,
    /// What is queued still leaves, or what came before is still read.
    Closing,
    /// Over. The row stays until another session takes its place.
    Ended,
}

impl RowState {
    pub(crate) const ALL: [Self; 5] =
        [Self::Connecting, Self::Connected, Self::Away, Self::Closing, Self::Ended];

    /// The name in tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Away => "away",
            Self::Closing => "closing",
            Self::Ended => "ended",
        }
    }

    pub(crate) const fn code(self) -> u64 {
        self as u64 + 1
    }
}

/// Where the parts of a file are, which depends on how many rows a block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) blocks: usize,
    pub(crate) rows: usize,
}

impl Plan {
    pub(crate) const COUNTERS_AT: usize = size_of::<BlockHead>();
    pub(crate) const HISTOGRAMS_AT: usize = Self::COUNTERS_AT + size_of::<Counters>();
    pub(crate) const ROWS_AT: usize = Self::HISTOGRAMS_AT + size_of::<Histograms>();

    pub(crate) fn block_bytes(self) -> usize {
        Self::ROWS_AT + self.rows * size_of::<Row>()
    }

    pub(crate) fn file_bytes(self) -> usize {
        HEADER_BYTES + self.blocks * self.block_bytes()
    }
}

/// Stands for everything that a file's header tells of its parts and that a reader has to share to
/// make sense of them: sizes, places, and what stands for what in lists without labels. Two builds
/// that differ in any of it have different ones.
pub(crate) fn layout() -> u64 {
    let numbers = [
        HEADER_BYTES,
        Plan::COUNTERS_AT,
        Plan::HISTOGRAMS_AT,
        Plan::ROWS_AT,
        size_of::<Histogram>(),
        size_of::<Row>(),
        LANES,
    ];
    let numbers = numbers.map(|number| number.to_string());
    let histograms = HISTOGRAMS.iter().map(|&(name, _)| name);
    let drops = DropReason::ALL.map(|reason| reason.name());
    let names = numbers.iter().map(String::as_str).chain(histograms).chain(drops);
    // FNV-1a, with a byte between the names that is in none of them.
    names.chain(CloseReason::NAMES.iter().copied()).fold(0xcbf2_9ce4_8422_2325, |hash, name| {
        name.bytes()
            .chain([0])
            .fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    })
}

/// This build, as it calls itself in a header.
pub(crate) fn build() -> &'static str {
    concat!("ringwire ", env!("CARGO_PKG_VERSION"))
}

/// A layout for people: the version of the byte table, and a part of the rest.
pub(crate) fn layout_name(version: u64, layout: u64) -> String {
    match layout {
        0 => version.to_string(),
        layout => format!("{version}-{:08x}", layout >> 32),
    }
}

/// Stores `text`, cut to the room there is, at a character's boundary.
pub(crate) fn store_text<const N: usize>(place: &Text<N>, text: &str) {
    let cut = text.floor_char_boundary_at(8 * N);
    let mut chunks = cut.chunks(8);
    for word in place {
        let mut bytes = [0; 8];
        let chunk = chunks.next().unwrap_or_default();
        bytes[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }
}

/// Reads text back: up to its first zero byte, what is not UTF-8 replaced.
pub(crate) fn read_text(words: &[u64]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

trait FloorCharBoundary {
    /// The longest beginning of at most `bytes` bytes that ends between two characters.
    fn floor_char_boundary_at(&self, bytes: usize) -> &[u8];
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, bytes: usize) -> &[u8] {
        let mut end = bytes.min(self.len());
        while !self.is_char_boundary(end) {
            end -= 1;
        }
        &self.as_bytes()[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        let place: Text<2> = Default::default();
        let check = |text: &str, expected: &str| {
            store_text(&place, text);
            let words: Vec<u64> = place.iter().map(|word| word.load(Ordering::Relaxed)).collect();
            assert_eq!(read_text(&words), expected);
        };
        check("drive-7", "drive-7");
        check("0123456789abcdef", "0123456789abcdef");
        check("0123456789abcdefgh", "0123456789abcdef");
        check("0123456789abcdeä", "0123456789abcde");
        check("", "");
    }
}

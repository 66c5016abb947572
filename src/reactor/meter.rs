//! What a reactor writes to its block of the registry beside its counters: when its turns begin and
//! how long they take, the histograms, and a row for each session.
//!
//! # Which clock readings
//!
//! Nothing here reads the clock for every message. The turn's own reading serves most; beside it
//! there is at most one a turn, taken *after* what the turn has to send was handed over, when
//! nobody waits for this thread any more, and two around every 64th call of a handler.
//!
//! - *turn*: from the reading behind the wait to the first one after the work is done and its
//!   answers are handed over. A reactor that an application turns itself is measured only in turns
//!   that call handlers: what lies between its turns is the application's.
//! - *queueing*: from a message's queueing, which has the time of its turn or call, to the same
//!   reading. One value for each block, of its oldest message. Where more blocks leave in a turn
//!   than can wait for that reading, there is one more for every so many.
//! - *one-way*: of the first message of each receive; see [`ArrivalClock`]. Those that say they
//!   were under way for more than [`VALUE_MAX`] have no clock, and are left out.
//!
//! # When it is written
//!
//! After the sends, too: until then what there is to tell waits in a few cache lines of the
//! reactor's own ([`Pending`]). Written where it arises, it took the caches' time between a message
//! and its answer: a spinning round trip was 3 % slower. So what a reactor that an application
//! turns itself has measured in its last turn shows with its next one.
//!
//! Rows are written by [`rows`]. Cost: `cargo bench --bench stats`.

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod bench;
mod rows;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use slotmap::{Key, KeyData};

use crate::config::Config;
use crate::reactor::connection::ConnectionKey;
use crate::reactor::core::Core;
use crate::reactor::sessions::{SessionKey, slot};
use crate::stats::{Block, BlockHead, Counters, Histograms, Row, VALUE_MAX};
use crate::sys::map::Placed;
use crate::time::Nanos;

/// Of so many calls of handlers, one is measured.
const HANDLER_SAMPLING: u32 = 64;
/// So many times and sessions can wait to be written; more are written at once.
const TIMES_MAX: usize = 16;
const TRAFFIC_MAX: usize = 4;
/// How often the row of a busy session is written.
const REFRESH_EVERY: Duration = Duration::from_millis(100);
/// Rows written in one turn; the next ones wait this long.
const REFRESH_MAX: usize = 32;
const REFRESH_NEXT: Duration = Duration::from_millis(1);
/// How long an estimate of the peer's clock serves for arrivals.
const CLOCK_EVERY: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(crate) struct Meter {
    head: Placed<BlockHead>,
    histograms: Placed<Histograms>,
    rows: Placed<[Row]>,
    /// Nothing but the reactor's loop runs between its turns.
    is_driven: bool,
    /// The reading that settled what this turn had to tell.
    read_at: Option<Nanos>,
    /// When the turn began whose time is being measured.
    turn_began: Option<Nanos>,
    turn_threshold_ns: u64,
    calls_to_sample: u32,
    has_called: bool,
    /// The block's, so that it need not be read.
    sequence: u64,
    /// The block says that something is unsettled.
    is_unsettled: bool,
    pending: Pending,
    /// Slots of the sessions whose row is to be written, each once. A row is its slot's: which
    /// session has it by then is in the row.
    touched: VecDeque<u32>,
    /// The same, by slot.
    is_touched: Vec<bool>,
    refreshed_at: Nanos,
    /// Slots that are still to be written in the round under way.
    round_left: usize,
    rows_due: Nanos,
}

/// What is to be written after the sends.
#[derive(Debug, Default)]
struct Pending {
    times: [(Time, u64); TIMES_MAX],
    times_count: usize,
    traffic: [Traffic; TRAFFIC_MAX],
    traffic_count: usize,
    /// Something of it waits for a reading of the clock.
    has_handed_over: bool,
}

/// What a time is of.
#[derive(Debug, Clone, Copy, Default)]
enum Time {
    /// A request was answered, after so long.
    #[default]
    Answered,
    /// A message came, so old.
    Arrived,
    /// A block goes to the kernel whose oldest message was queued then.
    QueuedAt,
}

/// What came and went of one session.
#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    home: SessionKey,
    messages_received: u64,
    bytes_received: u64,
    messages_sent: u64,
    bytes_sent: u64,
}

/// The peer's clock minus ours, as arrivals are reckoned with it for a tenth of a second: asking
/// the estimate costs more than everything else that a message is counted with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ArrivalClock {
    offset_ns: Option<i64>,
    /// When the estimate is to be asked again.
    due: Nanos,
}

/// Whether it is for the caller to end what it began.
#[derive(Debug)]
#[must_use]
pub(crate) struct Opened {
    is_outermost: bool,
}

impl Meter {
    pub(crate) fn new(block: &Block, config: &Config, sessions_max: usize) -> Self {
        Self {
            head: block.head.clone(),
            histograms: block.histograms.clone(),
            rows: block.rows.clone(),
            is_driven: false,
            read_at: None,
            turn_began: None,
            turn_threshold_ns: u64::from(config.turn_threshold_us()) * 1000,
            calls_to_sample: HANDLER_SAMPLING,
            has_called: false,
            sequence: 0,
            is_unsettled: false,
            pending: Pending::default(),
            touched: VecDeque::with_capacity(sessions_max),
            is_touched: vec![false; sessions_max],
            refreshed_at: Nanos(0),
            round_left: 0,
            rows_due: Nanos::NEVER,
        }
    }

    /// Between two turns of this reactor nothing else happens on its thread.
    pub(crate) fn set_driven(&mut self) {
        self.is_driven = true;
    }

    #[inline]
    pub(crate) fn is_driven(&self) -> bool {
        self.is_driven
    }

    /// A turn has waited, if it had to; `now` was read just now.
    #[inline]
    pub(crate) fn turn_begins(&mut self, now: Nanos, counters: &Counters) {
        self.begin();
        if self.has_something() {
            // The turn before had no reason to look at the clock once more.
            self.settle(now, counters);
        }
        // ORDERING: Relaxed: covered by the block's sequence.
        self.head.turn_began_ns.store(now.0, Relaxed);
        self.turn_began = Some(now);
        self.has_called = false;
    }

    /// Everything but sending is done. On a thread of its own that follows at once, or a wait,
    /// before which all is written: until then the block stays open. What an application does next
    /// may take its time.
    #[inline]
    pub(crate) fn turn_ends(&mut self) {
        if self.is_driven {
            return;
        }
        if !self.has_called {
            self.turn_began = None;
        }
        self.note_unsettled();
        self.end();
    }

    /// Says what is counted and in no row yet.
    #[inline]
    fn note_unsettled(&mut self) {
        let traffic = &self.pending.traffic[..self.pending.traffic_count];
        if traffic.is_empty() {
            return;
        }
        self.is_unsettled = true;
        // ORDERING: Relaxed: covered by the block's sequence.
        let messages = traffic.iter().map(|traffic| traffic.messages_received).sum();
        self.head.unsettled_messages.store(messages, Relaxed);
        let bytes = traffic.iter().map(|traffic| traffic.bytes_received).sum();
        self.head.unsettled_bytes.store(bytes, Relaxed);
    }

    /// What is counted from here on belongs together: in a turn, and in sends outside of it.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.sequence |= 1;
        self.head.begin(self.sequence);
    }

    /// As [`begin`](Self::begin), for sends: outside of a turn they are one of their own, so that
    /// the time since the last one is nobody's stall.
    #[inline]
    pub(crate) fn begin_sends(&mut self, now: Nanos) {
        if !self.is_open() {
            // ORDERING: Relaxed: covered by the block's sequence, see below.
            self.head.turn_began_ns.store(now.0, Relaxed);
        }
        self.begin();
    }

    /// As [`begin`](Self::begin), for what is called in a turn and outside of one; ends with
    /// [`close`](Self::close).
    #[inline]
    pub(crate) fn open(&mut self) -> Opened {
        let is_outermost = !self.is_open();
        if is_outermost {
            self.begin();
        }
        Opened { is_outermost }
    }

    #[inline]
    pub(crate) fn close(&mut self, opened: Opened) {
        if opened.is_outermost {
            self.end();
        }
    }

    #[inline]
    fn is_open(&self) -> bool {
        !self.sequence.is_multiple_of(2)
    }

    /// Nothing more comes before a wait.
    #[inline]
    pub(crate) fn rests(&mut self) {
        if self.is_open() {
            self.end();
        }
    }

    #[inline]
    pub(crate) fn end(&mut self) {
        self.sequence = (self.sequence | 1).wrapping_add(1);
        self.head.end(self.sequence);
    }

    /// Whether something waits for a reading of the clock.
    #[inline]
    pub(crate) fn wants_time(&self) -> bool {
        self.turn_began.is_some() || self.pending.has_handed_over
    }

    /// Whether something was handed to the kernel that is in no row yet.
    #[inline]
    pub(crate) fn has_handed_over(&self) -> bool {
        self.pending.has_handed_over
    }

    /// Whether something waits to be written.
    #[inline]
    fn has_something(&self) -> bool {
        self.turn_began.is_some() || self.pending.traffic_count > 0 || self.pending.times_count > 0
    }

    /// A reading of the clock since the turn's own: after its sends, before it waits.
    #[inline]
    pub(crate) fn read_at(&self) -> Option<Nanos> {
        self.read_at
    }

    /// An earlier reading is of another time.
    #[inline]
    pub(crate) fn forget_reading(&mut self) {
        self.read_at = None;
    }

    /// Writes what waited for a reading of the clock, and everything else that waited.
    #[inline]
    pub(crate) fn settle(&mut self, now: Nanos, counters: &Counters) {
        self.write_pending(now);
        // Of a thread that is the application's, only turns that call handlers.
        if let Some(began) = self.turn_began.take()
            && (self.is_driven || self.has_called)
        {
            let nanos = now.0.saturating_sub(began.0);
            self.histograms.turn.record(nanos);
            if nanos > self.turn_threshold_ns {
                counters.turns_slow.add(1);
            }
            counters.turn_longest_ns.raise(nanos);
        }
    }

    /// Keeps a time to be written later.
    #[inline]
    fn keep_time(&mut self, time: Time, nanos: u64) {
        if self.pending.times_count == TIMES_MAX {
            self.write_times_early();
        }
        self.pending.times[self.pending.times_count] = (time, nanos);
        self.pending.times_count += 1;
    }

    /// What comes and goes of a session, to be written later.
    #[inline]
    fn traffic(&mut self, home: SessionKey, now: Nanos) -> &mut Traffic {
        let count = self.pending.traffic_count;
        let is_last = count > 0 && self.pending.traffic[count - 1].home == home;
        if !is_last {
            if count == TRAFFIC_MAX {
                self.write_traffic_early(now);
            }
            let at = self.pending.traffic_count;
            self.pending.traffic[at] = Traffic { home, ..Traffic::default() };
            self.pending.traffic_count += 1;
        }
        &mut self.pending.traffic[self.pending.traffic_count - 1]
    }

    /// There is no room for more times to wait. The turn's own is of before they were handed over.
    #[cold]
    fn write_times_early(&mut self) {
        self.write_times(Nanos::now());
    }

    /// There is no room for the traffic of more sessions to wait.
    #[cold]
    fn write_traffic_early(&mut self, now: Nanos) {
        self.write_traffic(now);
    }

    #[inline]
    fn write_pending(&mut self, now: Nanos) {
        self.write_times(now);
        self.write_traffic(now);
        self.pending.has_handed_over = false;
    }

    #[inline]
    fn write_times(&mut self, now: Nanos) {
        debug_assert!(self.is_open(), "what belongs together is written together");
        let times_count = std::mem::take(&mut self.pending.times_count);
        for &(time, nanos) in &self.pending.times[..times_count] {
            match time {
                Time::Answered => self.histograms.request_round_trip.record(nanos),
                Time::Arrived => self.histograms.one_way.record(nanos),
                Time::QueuedAt => self.histograms.queueing.record(now.0.saturating_sub(nanos)),
            }
        }
    }

    #[inline]
    fn write_traffic(&mut self, now: Nanos) {
        debug_assert!(self.is_open(), "what belongs together is written together");
        for index in 0..std::mem::take(&mut self.pending.traffic_count) {
            // Word by word: a copy of it all is a wide load of what was just stored in words, for
            // which the processor waits until they are in the cache (4 ns).
            let traffic = &self.pending.traffic[index];
            let home = traffic.home;
            // Not of a session that has ended since: its place may be another's.
            let is_its = |row: &&Row| row.key.load(Relaxed) == home.data().as_ffi();
            if let Some(row) = self.row(home).filter(is_its) {
                add(&row.messages_received, traffic.messages_received);
                add(&row.bytes_received, traffic.bytes_received);
                add(&row.messages_sent, traffic.messages_sent);
                add(&row.bytes_sent, traffic.bytes_sent);
            }
            self.touch(home, now);
        }
        if std::mem::take(&mut self.is_unsettled) {
            // ORDERING: Relaxed: covered by the block's sequence.
            self.head.unsettled_messages.store(0, Relaxed);
            self.head.unsettled_bytes.store(0, Relaxed);
        }
    }

    /// Before each call of a handler: when it is to be measured, the time.
    #[inline]
    pub(crate) fn before_handler(&mut self) -> Option<Nanos> {
        self.has_called = true;
        self.calls_to_sample -= 1;
        if self.calls_to_sample > 0 {
            return None;
        }
        self.calls_to_sample = HANDLER_SAMPLING;
        Some(Nanos::now())
    }

    /// After a call of a handler.
    #[inline]
    pub(crate) fn after_handler(&self, began: Option<Nanos>) {
        if let Some(began) = began {
            self.histograms.handler.record(Nanos::now().0.saturating_sub(began.0));
        }
    }

    #[inline]
    pub(crate) fn request_took(&mut self, nanos: u64) {
        self.keep_time(Time::Answered, nanos);
    }

    pub(crate) fn heartbeat_took(&mut self, nanos: u64) {
        self.histograms.heartbeat_round_trip.record(nanos);
    }

    /// The first message of a receive, sent at `sent_at_ns` of the peer's clock, is here.
    #[inline]
    pub(crate) fn arrived(&mut self, clock: ArrivalClock, sent_at_ns: u64, now: Nanos) {
        if let Some(offset) = clock.offset_ns {
            let age = now.0.wrapping_add(offset.cast_unsigned()).wrapping_sub(sent_at_ns);
            // The estimate is off by some microseconds: a message did not come before it was sent.
            let age = age.cast_signed().max(0).cast_unsigned();
            if age <= VALUE_MAX {
                self.keep_time(Time::Arrived, age);
            }
        }
    }

    /// Messages of a session were received, or something else was.
    #[inline]
    pub(crate) fn received(&mut self, home: SessionKey, messages: u64, bytes: u64, now: Nanos) {
        let traffic = self.traffic(home, now);
        traffic.messages_received += messages;
        traffic.bytes_received += bytes;
    }

    /// A block of messages of a session goes to the kernel, the oldest of which was queued then.
    #[inline]
    pub(crate) fn sent(
        &mut self,
        home: SessionKey,
        messages: u64,
        bytes: u64,
        queued_at: u64,
        now: Nanos,
    ) {
        let traffic = self.traffic(home, now);
        traffic.messages_sent += messages;
        traffic.bytes_sent += bytes;
        if queued_at > 0 {
            self.keep_time(Time::QueuedAt, queued_at);
            self.pending.has_handed_over = true;
        }
    }

    /// Messages of a session were dropped.
    pub(crate) fn dropped(&self, home: SessionKey, lane: usize, reason: usize, count: u64) {
        debug_assert!(self.is_open(), "what belongs together is written together");
        if let Some(row) = self.row(home) {
            add(&row.drops[lane][reason], count);
        }
    }

    /// The row of a session is to be written within a tenth of a second.
    #[inline]
    pub(crate) fn touch(&mut self, home: SessionKey, now: Nanos) {
        let at = slot(home) as usize;
        if !self.is_touched[at] {
            self.is_touched[at] = true;
            self.touched.push_back(slot(home));
            let earliest = (self.refreshed_at + REFRESH_EVERY).max(now);
            self.rows_due = self.rows_due.min(earliest);
        }
    }

    /// The row of a session is to be written at the end of this turn, before others.
    #[cold]
    pub(crate) fn touch_now(&mut self, home: SessionKey, now: Nanos) {
        let at = slot(home) as usize;
        if !self.is_touched[at] {
            self.is_touched[at] = true;
            self.touched.push_front(slot(home));
        }
        // A round under way may not come to it.
        self.round_left = 0;
        self.rows_due = now;
    }

    /// The next session whose row is to be written, if it has one.
    fn next_touched(&mut self) -> Option<SessionKey> {
        let slot = self.touched.pop_front()?;
        self.is_touched[slot as usize] = false;
        // slotmap's slots begin at 1. A slot without a row gives a key that is nobody's.
        let row = self.rows.get((slot as usize).wrapping_sub(1));
        let key = row.map_or(0, |row| row.key.load(Relaxed));
        Some(SessionKey::from(KeyData::from_ffi(key)))
    }

    /// When rows are to be written.
    #[inline]
    pub(crate) fn rows_due(&self) -> Nanos {
        self.rows_due
    }

    /// The row of a session, if it has one.
    #[inline]
    fn row(&self, home: SessionKey) -> Option<&Row> {
        // slotmap's slots begin at 1.
        self.rows.get((slot(home) as usize).wrapping_sub(1))
    }
}

/// Adds to a word that only this thread writes; see `stats::Counter::add`.
#[inline]
fn add(word: &AtomicU64, count: u64) {
    word.store(word.load(Relaxed).wrapping_add(count), Relaxed);
}

impl Core {
    /// Books the arrival of the first message in a buffer that a receive has filled.
    #[inline]
    pub(crate) fn note_arrival(
        &mut self,
        key: ConnectionKey,
        mut clock: ArrivalClock,
        sent_at_ns: u64,
    ) {
        if clock.due <= self.now {
            clock = self.renew_clock(key);
        }
        self.meter.arrived(clock, sent_at_ns, self.now);
    }

    #[cold]
    fn renew_clock(&mut self, key: ConnectionKey) -> ArrivalClock {
        let connection = &mut self.connections[key];
        let estimate = connection.session.clock_offset(self.now);
        connection.clock = ArrivalClock {
            offset_ns: estimate.map(|estimate| estimate.ns),
            due: self.now + CLOCK_EVERY,
        };
        if let Some(estimate) = estimate {
            self.meter.histograms.one_way_error.record(estimate.error_ns);
        }
        connection.clock
    }

    /// Books what waited for a reading of the clock, which is taken for it; see the module.
    #[inline]
    pub(crate) fn settle_meter(&mut self) {
        if self.meter.has_something() {
            let now = Nanos::now();
            let opened = self.meter.open();
            self.meter.settle(now, &self.counters);
            self.meter.close(opened);
            self.meter.read_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_that_changes_hands_is_written_for_the_new_session() {
        let config = Config::builder().registry(false).build().expect("valid");
        let registry = crate::stats::Registry::new(&config, 1, 4).expect("memory");
        let block = &registry.blocks()[0];
        let mut meter = Meter::new(block, &config, 4);
        let [old, new] = [1_u64, 3].map(|uses| SessionKey::from(KeyData::from_ffi(uses << 32 | 1)));
        assert_eq!(slot(old), slot(new), "one place");
        meter.begin_row(old, "127.0.0.1:1", &block.counters, Nanos(1));
        meter.touch(old, Nanos(1));
        meter.begin_row(new, "127.0.0.1:2", &block.counters, Nanos(2));
        meter.touch(new, Nanos(2));
        assert_eq!([meter.next_touched(), meter.next_touched()], [Some(new), None]);
        // What is told late of the old one does not hide the new one either.
        meter.touch(old, Nanos(3));
        assert_eq!(meter.next_touched(), Some(new));
    }

    /// Beyond what can wait, too: from its queueing to a reading behind it, not to that before it.
    #[test]
    fn blocks_beyond_what_can_wait_have_their_time() {
        const BLOCKS: u64 = 3 * TIMES_MAX as u64;
        let config = Config::builder().registry(false).build().expect("valid");
        let registry = crate::stats::Registry::new(&config, 1, 64).expect("memory");
        let block = &registry.blocks()[0];
        let mut meter = Meter::new(block, &config, 64);
        let turn = Nanos::now();
        let opened = meter.open();
        for number in 1..=BLOCKS {
            let home = SessionKey::from(KeyData::from_ffi(1 << 32 | number));
            meter.begin_row(home, "127.0.0.1:1", &block.counters, turn);
            // Queued by a handler of this turn.
            meter.sent(home, 1, 64, turn.0, turn);
        }
        meter.settle(Nanos::now(), &block.counters);
        meter.close(opened);
        let reading = block.histograms.queueing.read();
        assert_eq!(reading.count(), BLOCKS);
        assert!(reading.quantile_ns(0.0) > 0, "{reading:?}");
    }

    /// A peer without a clock, or one that lies, spoils no sum.
    #[test]
    fn messages_that_were_under_way_for_ever_are_left_out() {
        let config = Config::builder().registry(false).build().expect("valid");
        let registry = crate::stats::Registry::new(&config, 1, 4).expect("memory");
        let block = &registry.blocks()[0];
        let mut meter = Meter::new(block, &config, 4);
        let clock = ArrivalClock { offset_ns: Some(0), due: Nanos::NEVER };
        let now = Nanos(1 << 62);
        let opened = meter.open();
        for sent_at in
            [0, now.0.wrapping_sub((1 << 63) - 1), now.0 - VALUE_MAX - 1, now.0 - 7, now.0 + 7]
        {
            meter.arrived(clock, sent_at, now);
        }
        meter.settle(now, &block.counters);
        meter.close(opened);
        let reading = block.histograms.one_way.read();
        assert_eq!((reading.count(), reading.sum_ns(), reading.max_ns()), (2, 7, 7));
    }

    /// What is sent between two turns is not what hangs since the last one.
    #[test]
    fn sends_outside_of_a_turn_have_their_own_beginning() {
        let config = Config::builder().registry(false).build().expect("valid");
        let registry = crate::stats::Registry::new(&config, 1, 4).expect("memory");
        let block = &registry.blocks()[0];
        let mut meter = Meter::new(block, &config, 4);
        let began = || block.head.turn_began_ns.load(Relaxed);
        meter.turn_begins(Nanos(10), &block.counters);
        meter.begin_sends(Nanos(20));
        assert_eq!(began(), 10, "of the turn");
        meter.end();
        meter.begin_sends(Nanos(900));
        assert_eq!(began(), 900);
        meter.end();
    }

    /// What the session before has received in the turn of its end is not its successor's.
    #[test]
    fn traffic_of_the_session_before_is_not_its_successors() {
        let config = Config::builder().registry(false).build().expect("valid");
        let registry = crate::stats::Registry::new(&config, 1, 4).expect("memory");
        let block = &registry.blocks()[0];
        let mut meter = Meter::new(block, &config, 4);
        let [old, new] = [1_u64, 3].map(|uses| SessionKey::from(KeyData::from_ffi(uses << 32 | 1)));
        let received =
            |meter: &Meter| meter.row(new).expect("its row").messages_received.load(Relaxed);
        meter.begin_row(old, "127.0.0.1:1", &block.counters, Nanos(1));
        meter.received(old, 3, 192, Nanos(1));
        meter.begin_row(new, "127.0.0.1:2", &block.counters, Nanos(2));
        meter.received(new, 1, 64, Nanos(2));
        let opened = meter.open();
        meter.settle(Nanos(3), &block.counters);
        meter.close(opened);
        assert_eq!(received(&meter), 1);
    }
}

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
//!   reading. One value for each block, of its oldest message.
//! - *one-way*: of the first message of each receive; see [`ArrivalClock`].
//!
//! # When it is written
//!
//! After the sends, too: until then what there is to tell waits in a few cache lines of the
//! reactor's own ([`Pending`]). Written where it arises, it took the caches' time between a message
//! and its answer: a spinning round trip was 3 % slower. So what a reactor that an application
//! turns itself has measured in its last turn shows with its next one.
//!
//! # Rows
//!
//! Messages and bytes of a session are counted in its row as they come and go. Everything else is
//! written when something happens to the session, and at most ten times a second while there is
//! traffic or something is queued: a reactor that would sleep wakes once more to write what came
//! last. A row is written when its sends are made: what a turn queues and sends waits for nothing.
//!
//! Cost: `cargo bench --bench stats`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release, fence};
use std::time::Duration;

use slotmap::{Key, KeyData};

use crate::config::Config;
use crate::reactor::connection::{Connection, ConnectionKey, Phase};
use crate::reactor::core::Core;
use crate::reactor::sessions::{Home, SessionKey, slot};
use crate::session::Session;
use crate::session::state::State;
use crate::stats::{Block, BlockHead, Counters, Histograms, Row, RowState, store_text};
use crate::sys::map::Placed;
use crate::time::Nanos;
use crate::wire::Priority;

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

    /// Everything but sending is done.
    #[inline]
    pub(crate) fn turn_ends(&mut self) {
        if !self.is_driven && !self.has_called {
            self.turn_began = None;
        }
        self.end();
    }

    /// What is counted from here on belongs together: in a turn, and in sends outside of it.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.sequence |= 1;
        self.head.begin(self.sequence);
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
        if let Some(began) = self.turn_began.take() {
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
    fn keep_time(&mut self, time: Time, nanos: u64, now: Nanos) {
        if self.pending.times_count == TIMES_MAX {
            self.write_pending(now);
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
                self.write_pending(now);
            }
            let at = self.pending.traffic_count;
            self.pending.traffic[at] = Traffic { home, ..Traffic::default() };
            self.pending.traffic_count += 1;
        }
        &mut self.pending.traffic[self.pending.traffic_count - 1]
    }

    #[inline]
    fn write_pending(&mut self, now: Nanos) {
        let times_count = std::mem::take(&mut self.pending.times_count);
        for &(time, nanos) in &self.pending.times[..times_count] {
            match time {
                Time::Answered => self.histograms.request_round_trip.record(nanos),
                Time::Arrived => self.histograms.one_way.record(nanos),
                Time::QueuedAt => self.histograms.queueing.record(now.0.saturating_sub(nanos)),
            }
        }
        for index in 0..std::mem::take(&mut self.pending.traffic_count) {
            let traffic = self.pending.traffic[index];
            if let Some(row) = self.row(traffic.home) {
                add(&row.messages_received, traffic.messages_received);
                add(&row.bytes_received, traffic.bytes_received);
                add(&row.messages_sent, traffic.messages_sent);
                add(&row.bytes_sent, traffic.bytes_sent);
            }
            self.touch(traffic.home, now);
        }
        self.pending.has_handed_over = false;
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
    pub(crate) fn request_took(&mut self, nanos: u64, now: Nanos) {
        self.keep_time(Time::Answered, nanos, now);
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
            self.keep_time(Time::Arrived, age.cast_signed().max(0).cast_unsigned(), now);
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
            self.keep_time(Time::QueuedAt, queued_at, now);
            self.pending.has_handed_over = true;
        }
    }

    /// Messages of a session were dropped.
    pub(crate) fn dropped(&self, home: SessionKey, lane: usize, reason: usize, count: u64) {
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

    /// A session begins. Its place may have been another's.
    pub(crate) fn begin_row(
        &mut self,
        home: SessionKey,
        address: &str,
        counters: &Counters,
        now: Nanos,
    ) {
        let Some(row) = self.row(home) else {
            counters.sessions_unlisted.add(1);
            return;
        };
        let _writing = Writing::new(row);
        row.key.store(home.data().as_ffi(), Relaxed);
        row.state.store(RowState::Connecting.code(), Relaxed);
        row.clock_error_ns.store(u64::MAX, Relaxed);
        for time in [&row.updated_ns, &row.since_ns] {
            time.store(now.0, Relaxed);
        }
        let counts = [
            &row.last_activity_ns,
            &row.messages_sent,
            &row.messages_received,
            &row.bytes_sent,
            &row.bytes_received,
            &row.bytes_kept,
            &row.messages_missed,
            &row.messages_expired,
            &row.expired_at_peer,
            &row.round_trip_ns,
            &row.clock_offset_ns,
            &row.links,
            &row.reason,
            &row.peer_number,
        ];
        let lanes = row.lanes.iter().flat_map(|lane| [&lane.bytes, &lane.frames, &lane.oldest_ns]);
        let drops = row.drops.as_flattened();
        for word in counts.into_iter().chain(lanes).chain(drops) {
            word.store(0, Relaxed);
        }
        store_text(&row.peer_name, "");
        store_text(&row.address, address);
    }
}

/// Adds to a word that only this thread writes; see `stats::Counter::add`.
#[inline]
fn add(word: &AtomicU64, count: u64) {
    word.store(word.load(Relaxed).wrapping_add(count), Relaxed);
}

/// Keeps the sequence of a row odd.
struct Writing<'a>(&'a Row);

impl<'a> Writing<'a> {
    fn new(row: &'a Row) -> Self {
        row.sequence.store(row.sequence.load(Relaxed) | 1, Relaxed);
        // ORDERING: as in `BlockHead::begin`: no store behind it is seen before the odd sequence.
        fence(Release);
        Self(row)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let sequence = self.0.sequence.load(Relaxed);
        // ORDERING: Release: whoever sees it even sees what was written before.
        self.0.sequence.store(sequence.wrapping_add(1), Release);
    }
}

/// What the numbers of a turn with one message in and one out cost, for the bench: as in a turn,
/// but for the reading of the clock.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
#[derive(Debug)]
pub struct BenchTurns {
    meter: Meter,
    block: Block,
    home: SessionKey,
    now: Nanos,
}

#[cfg(any(test, feature = "fuzzing"))]
impl BenchTurns {
    /// In anonymous memory.
    ///
    /// # Panics
    ///
    /// Without memory.
    #[must_use]
    pub fn new() -> Self {
        let config = Config::builder().registry(false).build().expect("valid");
        let registry = crate::stats::Registry::new(&config, 1, 16).expect("memory");
        let block = registry.blocks()[0].clone();
        let mut meter = Meter::new(&block, &config, 16);
        let home = SessionKey::from(KeyData::from_ffi(1 << 32 | 1));
        meter.set_driven();
        meter.begin_row(home, "127.0.0.1:7411", &block.counters, Nanos(0));
        // As long as nothing writes the row, it stays in the list.
        meter.touch(home, Nanos(0));
        Self { meter, block, home, now: Nanos(1_000_000_000) }
    }

    /// A turn in which `messages` came in one receive and went out in one block. Those that come
    /// are handed to handlers, or they answer requests.
    #[inline]
    pub fn turn(&mut self, messages: u64, answers: bool) {
        self.now = Nanos(self.now.0 + 8_000);
        let (now, counters) = (self.now, &self.block.counters);
        let bytes = 96 * messages;
        self.meter.turn_begins(now, counters);
        counters.turns.add(1);
        counters.completions.add(1);
        let clock = ArrivalClock { offset_ns: Some(1_000), due: Nanos::NEVER };
        self.meter.arrived(clock, now.0 - 4_000 - (now.0 >> 7 & 0xfff), now);
        for _ in 0..messages {
            if answers {
                self.meter.request_took(8_000 + (now.0 >> 5 & 0x3ff), now);
            } else {
                let began = self.meter.before_handler();
                self.meter.after_handler(began);
            }
        }
        counters.messages_received.add(messages);
        counters.bytes_received.add(bytes);
        self.meter.received(self.home, messages, bytes, now);
        counters.last_activity_ns.set(now.0);
        self.meter.turn_ends();
        self.meter.begin();
        counters.messages_sent.add(messages);
        counters.bytes_sent.add(bytes);
        self.meter.sent(self.home, messages, bytes, now.0 - 500, now);
        counters.direct_sends.add(1);
        self.meter.settle(Nanos(now.0 + 2_000), counters);
        self.meter.end();
        counters.spins.add(1);
        counters.spin_hits.add(1);
    }

    /// Answers counted, so that the bench can check its work.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.block.counters.messages_sent.get()
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Default for BenchTurns {
    fn default() -> Self {
        Self::new()
    }
}

impl Core {
    /// Books the arrival of the first message of a receive.
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
            self.meter.settle(now, &self.counters);
            self.meter.read_at = Some(now);
        }
    }

    /// Writes the rows that are due, once there is nothing left to send.
    #[inline]
    pub(crate) fn refresh_rows(&mut self) {
        if self.meter.rows_due <= self.now {
            self.write_rows();
        }
    }

    #[cold]
    fn write_rows(&mut self) {
        if self.meter.round_left == 0 {
            self.meter.round_left = self.meter.touched.len();
        }
        for _ in 0..self.meter.round_left.min(REFRESH_MAX) {
            self.meter.round_left -= 1;
            let home = self.meter.next_touched().expect("a round is of those in the list");
            if self.write_row(home) {
                // It tells how long its messages have waited, also when nothing happens to it.
                self.meter.touch(home, self.now);
            }
        }
        self.meter.refreshed_at = self.now;
        self.meter.rows_due = match (self.meter.round_left, self.meter.touched.is_empty()) {
            (0, true) => Nanos::NEVER,
            (0, false) => self.now + REFRESH_EVERY,
            (1.., _) => self.now + REFRESH_NEXT,
        };
    }

    /// Writes the row of a session. Returns whether something of it is queued.
    pub(crate) fn write_row(&self, home: SessionKey) -> bool {
        let Some(row) = self.meter.row(home) else { return false };
        if row.key.load(Relaxed) != home.data().as_ffi() {
            // Its place has gone to another session, which has the row now.
            return false;
        }
        let _writing = Writing::new(row);
        let now = self.meter.read_at.map_or(self.now, |read_at| read_at.max(self.now));
        row.updated_ns.store(now.0, Relaxed);
        match self.homes.get(home) {
            Some(&Home::Here(key)) => self.write_here(row, &self.connections[key]),
            Some(Home::Away(away)) => {
                let (session, address, reason) = away.parts();
                write_session(row, session, address, self.now);
                row.reason.store(1 + reason.index() as u64, Relaxed);
                self.set_state(row, RowState::Away);
            }
            None => {
                let ended = self.closed.get(slot(home) as usize).copied().flatten();
                if let Some((_, reason)) = ended.filter(|&(last, _)| last == home) {
                    row.reason.store(1 + reason.index() as u64, Relaxed);
                }
                for lane in &row.lanes {
                    for word in [&lane.bytes, &lane.frames, &lane.oldest_ns] {
                        word.store(0, Relaxed);
                    }
                }
                row.bytes_kept.store(0, Relaxed);
                self.set_state(row, RowState::Ended);
            }
        }
        row.lanes.iter().any(|lane| lane.oldest_ns.load(Relaxed) > 0)
    }

    fn write_here(&self, row: &Row, connection: &Connection) {
        write_session(row, &connection.session, &connection.address, self.now);
        if let Some(in_flight) = connection.in_flight
            && in_flight.queued_at > 0
            && let crate::session::Source::Lane(priority) = in_flight.source
        {
            row.lanes[priority.index()].oldest_ns.store(in_flight.queued_at, Relaxed);
        }
        if connection.last_activity > Nanos(0) {
            row.last_activity_ns.store(connection.last_activity.0, Relaxed);
        }
        let state = match (connection.phase, connection.session.state()) {
            (Phase::Connecting { .. }, _) | (Phase::Live, State::Greeting) => RowState::Connecting,
            (Phase::Live, State::Open) => RowState::Connected,
            (Phase::Closing { .. }, _) if connection.survives => RowState::Away,
            _ => RowState::Closing,
        };
        let established_at = connection.established_at;
        if state == RowState::Connected && row.since_ns.load(Relaxed) != established_at.0 {
            add(&row.links, 1);
            row.reason.store(0, Relaxed);
            row.state.store(state.code(), Relaxed);
            row.since_ns.store(established_at.0, Relaxed);
        }
        self.set_state(row, state);
    }

    /// Where the session stands, and since when.
    fn set_state(&self, row: &Row, state: RowState) {
        if row.state.load(Relaxed) != state.code() {
            row.state.store(state.code(), Relaxed);
            row.since_ns.store(self.now.0, Relaxed);
        }
    }
}

fn write_session(row: &Row, session: &Session, address: &str, now: Nanos) {
    for priority in Priority::ALL {
        let (lane, status) = (&row.lanes[priority.index()], session.lane_status(priority));
        lane.bytes.store(status.bytes as u64, Relaxed);
        lane.frames.store(status.frames.into(), Relaxed);
        lane.oldest_ns.store(status.queued_at, Relaxed);
    }
    let clock = session.clock_offset(now);
    let words = [
        (&row.bytes_kept, session.kept_bytes() as u64),
        (&row.messages_missed, session.missed()),
        (&row.messages_expired, session.expired()),
        (&row.expired_at_peer, session.expired_at_peer()),
        (&row.round_trip_ns, session.round_trip_ns().unwrap_or(0)),
        (&row.clock_offset_ns, clock.map_or(0, |clock| clock.ns.cast_unsigned())),
        (&row.clock_error_ns, clock.map_or(u64::MAX, |clock| clock.error_ns)),
        (&row.peer_number, session.peer().map_or(0, |peer| peer.node_number.into())),
    ];
    for (word, value) in words {
        word.store(value, Relaxed);
    }
    store_text(&row.peer_name, session.peer().map_or("", |peer| &peer.node_name));
    store_text(&row.address, address);
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
}

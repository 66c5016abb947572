//! The sessions' rows: when they are written, and what is in them.
//!
//! Messages and bytes of a session are counted in its row as they come and go. Everything else is
//! written when something happens to the session, and at most ten times a second while there is
//! traffic or something is queued: a reactor that would sleep wakes once more to write what came
//! last. A row is written when its sends are made: what a turn queues and sends waits for nothing.

use std::sync::atomic::{Ordering::Relaxed, Ordering::Release, fence};

use slotmap::Key;

use super::{Meter, REFRESH_EVERY, REFRESH_MAX, REFRESH_NEXT, add};
use crate::reactor::connection::{After, Connection, Phase};
use crate::reactor::core::Core;
use crate::reactor::sessions::{Home, SessionKey, slot};
use crate::session::Session;
use crate::session::state::State;
use crate::stats::{Counters, Row, RowState, store_text};
use crate::time::Nanos;
use crate::wire::Priority;

impl Meter {
    /// A session begins. Its place may have been another's.
    pub(crate) fn begin_row(
        &mut self,
        home: SessionKey,
        address: &str,
        counters: &Counters,
        now: Nanos,
    ) {
        let opened = self.open();
        match self.row(home) {
            Some(row) => empty_row(row, home, address, now),
            None => counters.sessions_unlisted.add(1),
        }
        self.close(opened);
    }
}

fn empty_row(row: &Row, home: SessionKey, address: &str, now: Nanos) {
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

impl Core {
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
        let opened = self.meter.open();
        for _ in 0..self.meter.round_left.min(REFRESH_MAX) {
            self.meter.round_left -= 1;
            let home = self.meter.next_touched().expect("a round is of those in the list");
            if self.write_row(home) {
                // It tells how long its messages have waited, also when nothing happens to it.
                self.meter.touch(home, self.now);
            }
        }
        self.meter.close(opened);
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
        debug_assert!(self.meter.is_open(), "what belongs together is written together");
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
            (Phase::Closing { session: After::Away, .. }, _) => RowState::Away,
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

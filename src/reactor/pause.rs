//! Connections that are not read on for lack of room, and peers that go meanwhile.
//!
//! A connection pauses while the inbox has no room for its next message, or the receive memory no
//! buffer for the frame begun. No receive is in flight then, so a poll watches for the peer's end
//! (POLLRDHUP, poll(2)): armed at the first pause, kept until it fires or the connection closes,
//! so that pausing and resuming costs nothing more.
//!
//! # When the peer goes while the connection is paused
//!
//! The session is over at once: the connection is no longer listed, counts no more as active, what
//! was queued for the peer is dropped and counted, and its place among `connections_max` is free.
//! What came before the end, in the window and in the socket, is still read and handed over as
//! room comes; the connection is *departed* until then. After its last message comes its
//! `Disconnected` event, with the reason that stood at the end of the stream.
//!
//! An orderly end stands behind the data in the stream, so it is seen once the socket has room for
//! what the peer had sent before; a reset is seen at once.
//!
//! A session that outlives its connection does not end then: it goes on when its peer comes back,
//! and what was not read yet is sent again (best-effort messages are lost, and counted). If the
//! peer is not back when everything has been read, the session is away.
//!
//! At most [`departed_max`] departed connections, and closed ones whose last operation has not
//! ended, stand beside `connections_max`; more of them take places of it, so that their memory
//! stays bounded and nothing of theirs is lost. A shutdown gives them until its deadline where
//! other threads receive, and no time where nobody can; a client or a pool that waits for their end
//! gives them none.

use std::time::Duration;

use crate::config::Config;
use crate::error::CloseReason;
use crate::reactor::connection::{ConnectionId, ConnectionKey, Pause, Phase};
use crate::reactor::core::Core;
use crate::reactor::pool::PoolId;
use crate::reactor::{Reactor, Tokens};
use crate::session::state::State;
use crate::sys::ring::Completion;
use crate::time::Nanos;

/// For so long, at first, whoever waits for receive memory the longest keeps others from it, who
/// came later: what it needs may be in pieces that nobody gives back.
const HOLD_OFF: Duration = Duration::from_secs(3);
/// Then these have what there is for so many times as long: peers that take memory and do not go on
/// could hold up everybody else. After that it has its turn again, for twice as long as before:
/// once that is `frame_timeout_ms`, every frame that had memory before is over.
const LET_PASS: u32 = 4;

/// How many connections that are over take no place of `connections_max`.
pub(crate) fn departed_max(config: &Config) -> usize {
    config.connections_max().min(64) as usize
}

/// Who waits for receive memory the longest, of those that get none for now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FirstInLine {
    /// Null when nobody waits.
    key: ConnectionKey,
    /// Since when it is the first.
    since: Nanos,
}

impl FirstInLine {
    /// Whether anybody waits.
    fn is_anybody(&self) -> bool {
        self.key != ConnectionKey::default()
    }

    /// Says who is the first now. Another one begins anew.
    fn set(&mut self, key: ConnectionKey, now: Nanos) {
        if self.key != key {
            *self = Self { key, since: now };
        }
    }

    /// Up to when it keeps others from the memory, if it does at `now`; see [`HOLD_OFF`].
    fn holds_off_until(&self, now: Nanos) -> Option<Nanos> {
        if !self.is_anybody() {
            return None;
        }
        let (mut begins, mut holds_off) = (self.since, HOLD_OFF);
        while begins <= now {
            if now < begins + holds_off {
                return Some(begins + holds_off);
            }
            begins = begins + holds_off * (1 + LET_PASS);
            holds_off *= 2;
        }
        None
    }
}

impl Reactor {
    /// Ends what is departed of a session at once: of a thread that waits for its end, and so makes
    /// no room for what it holds.
    #[cold]
    pub(crate) fn end_departed(&mut self, session: ConnectionId) {
        let core = &mut self.core;
        for key in core.links(session) {
            if matches!(core.connections[key].phase, Phase::Departed { .. }) {
                core.drain(key, core.now);
            }
        }
    }

    /// The same of all members of a pool.
    #[cold]
    pub(crate) fn end_departed_members(&mut self, pool: PoolId) {
        for session in self.core.pool_sessions(pool) {
            self.end_departed(session);
        }
    }
}

impl Core {
    /// Stops reading a connection until there is room.
    #[cold]
    pub(crate) fn pause(&mut self, key: ConnectionKey, pause: Pause) {
        if matches!(pause, Pause::Memory { .. }) {
            // First come, first served.
            if !self.memory_first.is_anybody() {
                self.memory_first.set(key, self.now);
            }
            let is_wanted = self.memory_first.holds_off_until(self.now).is_some();
            self.receive_memory.set_wanted(is_wanted);
        }
        let connection = &mut self.connections[key];
        assert!(connection.pause.is_none(), "a paused connection is not read");
        connection.pause = Some(pause);
        // Nothing comes behind meanwhile.
        connection.window.give_behind(&mut self.receive_memory);
        // The peer is not to blame for what it takes until the frame is read on.
        connection.frame_begun = Nanos::NEVER;
        self.counters.receive_pauses.add(1);
        self.paused.push(key);
        self.poll_for_end(key);
    }

    /// Has the ring watch for the end of a paused connection's peer.
    fn poll_for_end(&mut self, key: ConnectionKey) {
        use std::os::fd::AsRawFd;
        let connection = &mut self.connections[key];
        if connection.is_live() && !connection.is_end_polled {
            let fd = connection.socket.as_raw_fd();
            // Without room in the queue: with the next turn, see `resume_paused`.
            connection.is_end_polled = self.ring.poll_end(fd, Tokens::connection(key)).is_some();
        }
    }

    /// Whether a connection waits for room, or others wait for the end of this reactor's turn at
    /// the inbox.
    #[inline]
    pub(crate) fn is_held_back(&self) -> bool {
        !self.paused.is_empty() || self.inbox.is_served()
    }

    /// This reactor waits for the inbox no more, or not first: another one may have the room, if
    /// it knows.
    #[cold]
    pub(crate) fn end_inbox_turn(&mut self) {
        if self.inbox.end_turn() {
            self.siblings.iter().for_each(|sibling| sibling.inbox_has_room());
        }
    }

    /// Whether anything that was held back can go on now.
    #[cold]
    pub(crate) fn can_resume(&mut self) -> bool {
        // Of those that wait for the same, the first is served first.
        let (mut is_inbox_asked, mut is_memory_wanted) = (false, false);
        let holds_off = self.memory_first.holds_off_until(Nanos::now()).is_some();
        for key in &self.paused {
            let Some(connection) = self.connections.get(*key) else { return true };
            let may_go_on = match connection.pause {
                _ if !connection.is_readable() => true,
                Some(Pause::Inbox { payload_bytes }) => {
                    !std::mem::replace(&mut is_inbox_asked, true)
                        && self.inbox.has_room(payload_bytes)
                }
                Some(Pause::Memory { frame_bytes }) => {
                    match std::mem::replace(&mut is_memory_wanted, holds_off) {
                        false => self.receive_memory.can_lend(frame_bytes),
                        true => self.receive_memory.can_lend_apart(frame_bytes),
                    }
                }
                None => true,
            };
            if may_go_on {
                return true;
            }
        }
        false
    }

    /// When whoever waits for memory keeps others waiting no longer, if it does.
    pub(crate) fn memory_patience_ends(&self) -> Nanos {
        self.memory_first.holds_off_until(self.now).unwrap_or(Nanos::NEVER)
    }

    /// Gives a connection that waits for memory its buffer, if there is one.
    fn lend_memory(&mut self, key: ConnectionKey, is_first: bool) -> bool {
        let connection = &mut self.connections[key];
        self.receive_memory.set_wanted(!is_first);
        let frame_bytes = connection.frame_bytes;
        connection.window.prepare(frame_bytes, 0, &mut self.receive_memory).is_some()
    }

    /// Continues with connections that were held back: those that have waited longest first, and of
    /// those that wait for the inbox one in a turn. It may take all the room there is, and is the
    /// last in line after that; while there is too little for it nobody else takes any.
    ///
    /// Memory is given here and now, so that nobody comes between while the first
    /// [holds others off](HOLD_OFF).
    #[cold]
    pub(crate) fn resume_paused(&mut self) {
        let (mut index, mut is_inbox_asked, mut is_memory_wanted) = (0, false, false);
        let mut waits_for_memory = false;
        self.inbox_promised_bytes = 0;
        if self.inbox.is_served() {
            // What there was room for has been put in.
            self.end_inbox_turn();
        }
        while index < self.paused.len() {
            let key = self.paused[index];
            let pause = self.connections.get(key).filter(|connection| connection.is_readable());
            let goes_on = match pause.map(|connection| connection.pause) {
                Some(Some(Pause::Inbox { payload_bytes })) => {
                    let is_first = !std::mem::replace(&mut is_inbox_asked, true);
                    let goes_on = is_first && self.inbox.has_room(payload_bytes);
                    if is_first && goes_on {
                        self.inbox.serve();
                    } else if is_first {
                        self.inbox_promised_bytes = payload_bytes;
                        self.inbox.wish(payload_bytes);
                    }
                    goes_on
                }
                Some(Some(Pause::Memory { .. })) => {
                    let is_lent = self.lend_memory(key, !is_memory_wanted);
                    if !is_lent && !std::mem::replace(&mut waits_for_memory, true) {
                        self.memory_first.set(key, self.now);
                        is_memory_wanted = self.memory_first.holds_off_until(self.now).is_some();
                    }
                    is_lent
                }
                // Over, or read again.
                Some(None) | None => true,
            };
            if !goes_on {
                self.poll_for_end(key);
                index += 1;
                continue;
            }
            self.paused.remove(index);
            let Some(connection) = self.connections.get_mut(key) else { continue };
            match connection.pause.take() {
                Some(Pause::Inbox { .. }) if connection.is_readable() => self.ready.push(key),
                Some(Pause::Memory { .. }) if connection.is_readable() => {
                    connection.frame_begun = self.now;
                    self.set_deadline(key);
                    self.mark_unarmed(key);
                }
                _ => {}
            }
        }
        if !is_inbox_asked {
            // Whoever wished for room is gone.
            self.end_inbox_turn();
        }
        if !waits_for_memory {
            self.memory_first = FirstInLine::default();
        }
        self.receive_memory.set_wanted(is_memory_wanted);
    }

    /// The poll of [`Core::poll_for_end`] has fired.
    #[cold]
    pub(crate) fn on_end_poll(&mut self, key: ConnectionKey, completion: &Completion) {
        let connection = self.connections.get_mut(key).expect("a slot outlives its operations");
        connection.is_end_polled = false;
        match connection.phase {
            Phase::Closing { .. } => self.operation_ended(key),
            Phase::Live if connection.pause.is_some() && completion.result.is_ok() => {
                self.depart(key);
            }
            // It is read again: the socket itself tells, behind what came before.
            _ => {}
        }
    }

    /// The peer of a paused connection is gone; see the module.
    #[cold]
    pub(crate) fn depart(&mut self, key: ConnectionKey) {
        let connection = &mut self.connections[key];
        assert!(connection.is_live(), "a peer goes once");
        assert!(connection.pause.is_some(), "otherwise the socket itself tells");
        let reason = match connection.session.state() {
            State::Finishing => CloseReason::Local,
            _ => CloseReason::PeerClosed,
        };
        let nobody_receives = self.life.is_closing() && self.inbox.is_local();
        if !connection.is_established() || nobody_receives {
            self.close(key, reason);
            return;
        }
        if self.survives(key, reason) {
            // It stays open, so that what it keeps goes with it to its next link.
            self.connections[key].phase = Phase::Departed { reason };
            self.departed += 1;
            self.part_departed(key, reason, 0);
            return;
        }
        let connection = &mut self.connections[key];
        let memory = &mut self.send_memory;
        let (mut dropped, undelivered) = connection.session.end(memory);
        // Told when the connection ends.
        connection.undelivered = undelivered;
        if let Some(in_flight) = connection.in_flight
            && let Some(buffer) = connection.unsent.take()
        {
            dropped += in_flight.frames_dropped(&buffer);
            let (session, undelivered) = (&mut connection.session, &mut connection.undelivered);
            session.end_block(in_flight.into_returned(buffer), undelivered, memory);
            connection.in_flight = None;
        }
        connection.messages_dropped += dropped;
        connection.close_when_sent = None;
        connection.phase = Phase::Departed { reason };
        let is_sending = connection.in_flight.is_some();
        let has_lost = dropped > 0 || is_sending || !connection.undelivered.is_empty();
        let home = connection.home;
        self.counters.messages_dropped.add(dropped);
        self.departed += 1;
        self.end_watches(home, reason);
        if has_lost {
            self.fail_flushes(self.id(key));
        }
        self.part_departed(key, reason, dropped);
        tracing::debug!(connection = %self.id(key), "the peer of a paused connection is gone");
    }

    /// Counts the session of a departed connection as ended, if it was counted as connected.
    fn part_departed(&mut self, key: ConnectionKey, reason: CloseReason, dropped: u64) {
        if std::mem::take(&mut self.connections[key].is_active) {
            self.session_ended(reason, dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Nanos {
        Nanos(7) + Duration::from_secs(seconds)
    }

    fn key(number: u64) -> ConnectionKey {
        slotmap::KeyData::from_ffi(1 << 32 | number).into()
    }

    #[test]
    fn first_in_line_holds_others_off_for_longer_each_time() {
        let mut first = FirstInLine::default();
        assert_eq!(first.holds_off_until(seconds(0)), None, "nobody waits");
        first.set(key(1), seconds(0));
        let spans: Vec<_> = (0..=300).map(|at| first.holds_off_until(seconds(at))).collect();
        let ends = |from: usize, end: usize| {
            spans[from..end].iter().all(|&it| it == Some(seconds(end as u64)))
        };
        assert!(ends(0, 3) && ends(15, 21) && ends(45, 57) && ends(105, 129) && ends(225, 273));
        assert_eq!(spans.iter().flatten().count(), 3 + 6 + 12 + 24 + 48);
        assert_eq!(first.holds_off_until(Nanos(seconds(3).0 - 1)), Some(seconds(3)));
    }

    #[test]
    fn next_in_line_begins_anew() {
        let mut first = FirstInLine::default();
        first.set(key(1), seconds(0));
        first.set(key(1), seconds(5));
        assert_eq!(first.holds_off_until(seconds(5)), None);
        first.set(key(2), seconds(5));
        assert_eq!(first.holds_off_until(seconds(5)), Some(seconds(8)));
    }
}

//! Faults: links that are cut, fall silent, or damage what they carry; processes that die. And what
//! time has to do with them.

use super::*;
use crate::error::ProtocolError;
use crate::session::sim::network::Damage;
use crate::wire::{EXTENSION_BYTES, Flags, HEADER_BYTES, frame_bytes};

impl World {
    pub(super) fn fault(&mut self) {
        if self.is_over() {
            return;
        }
        let next = self.random.scaled(1, 2 * self.climate.fault_every);
        self.at(self.now + next, Happening::Fault);
        if self.random.chance(self.climate.restart_percent) {
            let node = self.random.size(0, self.nodes.len());
            self.at(self.now, Happening::Restart { node });
            return;
        }
        let live = |conn: &Conn| conn.phase == Phase::Live && !self.links[conn.link].is_cut;
        let live: Vec<_> = self.conns.iter().filter(|conn| live(conn)).map(|c| c.link).collect();
        if live.is_empty() {
            return;
        }
        let link = self.random.pick(&live);
        if self.climate.heartbeat.is_some() && self.random.chance(self.climate.silence_percent) {
            self.silence(link);
        } else {
            self.soon(self.climate.latency, Happening::Cut { link });
        }
    }

    pub(super) fn cut(&mut self, link: usize) {
        if std::mem::replace(&mut self.links[link].is_cut, true) {
            return;
        }
        trace!(self, "link {link} is cut");
        self.report.cuts += 1;
        for conn in self.links[link].ends.into_iter().flatten() {
            self.soon(self.climate.blindness, Happening::Learn { conn });
        }
    }

    pub(super) fn restart(&mut self, node: usize) {
        trace!(self, "node {node} restarts");
        self.report.restarts += 1;
        for conn in 0..self.conns.len() {
            if self.conns[conn].node == node && self.conns[conn].phase != Phase::Gone {
                if self.conns[conn].phase == Phase::Live {
                    self.hang_up(conn);
                }
                self.conns[conn].phase = Phase::Gone;
                self.conns[conn].flight = None;
                self.conns[conn].stand_in = None;
            }
        }
        let Node { limits, identity, .. } = &self.nodes[node];
        for seat in self.seats.iter_mut().filter(|seat| seat.node == node) {
            seat.place = Place::Over;
            seat.session = Session::new(Role::Dialer, SessionId::default(), *limits, identity);
            self.truth.lives[seat.life].is_over = true;
        }
        self.nodes[node].memory.pool = Pool::new(&self.nodes[node].layout).expect("little memory");
        self.nodes[node].by_peer.clear();
        self.pairs_die(node);
        self.requests_die(node);
        let salt = self.random.next();
        self.nodes[node].requests = Requests::new(self.nodes[node].requests_max, salt);
        if node > 0 {
            self.soon(10 * MS, Happening::Begin { node });
        }
    }

    // Silence.

    /// Bytes vanish, in one direction or both, from now on.
    fn silence(&mut self, link: usize) {
        let is_established = |conn: &usize| self.conns[*conn].established_at.is_some();
        if self.links[link].ends.iter().flatten().filter(|conn| is_established(conn)).count() < 2 {
            return;
        }
        let silent = self.random.pick(&[[true, false], [false, true], [true, true]]);
        trace!(self, "link {link} falls silent: {silent:?}");
        self.report.silences += 1;
        for side in (0..2).filter(|&side| silent[side]) {
            self.links[link].is_silent[side] = true;
            if let Some(conn) = self.links[link].ends[side] {
                self.must_know(conn);
            }
        }
    }

    /// Bytes were read, or wait to be: that is life.
    pub(super) fn hear(&mut self, conn: usize) {
        self.conns[conn].heard_at = self.now;
        let now = self.clock(self.conns[conn].node);
        if self.conns[conn].established_at.is_some() {
            let seat = self.conns[conn].seat;
            self.seats[seat].session.received_bytes(now);
        }
    }

    /// How long after the last byte a silent peer is known, by true time, and how exactly.
    fn fatal_silence(&self) -> (u64, u64) {
        let policy = self.climate.heartbeat.expect("without, silence is never fatal");
        let fatal = u64::from(policy.interval_us) * US * u64::from(policy.misses);
        // Clocks drift, and a timer is set by one of them.
        (fatal, fatal / 1000 + 10 * US)
    }

    /// An end of a silent link must have noticed in time.
    pub(super) fn must_know(&mut self, conn: usize) {
        let Conn { phase, heard_at, link, side, .. } = self.conns[conn];
        if phase != Phase::Live {
            return;
        }
        let (fatal, slack) = self.fatal_silence();
        // What has arrived already is still read.
        let is_unread = self.links[link].to[side].arrived() > 0;
        let by = if is_unread { self.now } else { heard_at } + fatal + slack;
        assert!(by > self.now, "conn {conn} has heard nothing since {heard_at} and lives");
        self.at(by, Happening::MustKnow { conn });
    }

    /// A session takes its peer for dead. It must be right.
    fn peer_silent(&mut self, conn: usize) {
        let Conn { link, side, heard_at, .. } = self.conns[conn];
        let (fatal, slack) = self.fatal_silence();
        let silence = self.now - heard_at;
        assert!(silence + slack >= fatal, "given up after {silence} ns of silence");
        assert!(silence <= fatal + slack, "given up only after {silence} ns of silence");
        let Link { is_cut, is_silent, is_closed, ends, .. } = &self.links[link];
        let other = ends[1 - side].map(|other| &self.conns[other]);
        // An end that has not read the welcome yet has nothing to say.
        let is_half_open = other.is_none_or(|other| other.established_at.is_none());
        let is_gone = *is_cut || is_closed[1 - side] || is_half_open;
        assert!(is_gone || is_silent[side], "a live peer is taken for dead");
        self.report.found_silent += u64::from(is_silent[side]);
        self.close(conn, CloseReason::PeerSilent);
    }

    /// Nothing is under way and nothing waits: only heartbeats would follow.
    pub(super) fn is_quiet(&self) -> bool {
        if !self.is_over() || !self.report.events.is_multiple_of(16) {
            return false;
        }
        let is_settled = |seat: &Seat| match seat.place {
            Place::Over => true,
            Place::Away { .. } => false,
            Place::Here(conn) => {
                let (session, conn) = (&seat.session, &self.conns[conn]);
                let link = &self.links[conn.link];
                session.state() == State::Open
                    && session.is_flushed()
                    && !session.has_block()
                    && conn.phase == Phase::Live
                    // With many connections some heartbeat is always on its way.
                    && conn.flight.as_ref().is_none_or(|flight| flight.source == Source::Control)
                    && self.truth.is_settled(seat.life)
                    && !link.is_cut
                    && link.is_silent == [false; 2]
                    && link.is_closed == [false; 2]
            }
        };
        let is_at_rest = |conn: &Conn| match conn.phase {
            Phase::Live => conn.established_at.is_some(),
            Phase::Closing { .. } => false,
            Phase::Gone => true,
        };
        self.seats.iter().all(is_settled)
            && self.conns.iter().all(is_at_rest)
            && self.pairs_are_quiet()
            && self.asks_are_settled()
    }

    // Damage.

    /// Chooses whether a bit of this block changes on its way, and which: see `sim`.
    pub(super) fn damage(&mut self, conn: usize, block: &Block) -> Option<(usize, u8)> {
        if self.random.between(0, 1000) >= self.climate.damage_permille || self.is_over() {
            return None;
        }
        let bytes = block.buffer.pieces(0..block.span.filled).to_vec();
        let (mut starts, mut at) = (Vec::new(), block.span.start);
        let field = |at: usize| {
            let field = bytes[at..at + 4].first_chunk().expect("four bytes");
            u32::from_le_bytes(*field) as usize
        };
        while at < bytes.len() {
            starts.push(at);
            at += frame_bytes(field(at + 8), Flags(bytes[at + 4]).contains(Flags::EXTENDED));
        }
        let start = self.random.pick(&starts);
        let flags = Flags(bytes[start + 4]);
        let extension = if flags.contains(Flags::EXTENDED) { EXTENSION_BYTES } else { 0 };
        let payload =
            start + HEADER_BYTES + extension..start + HEADER_BYTES + extension + field(start + 8);
        let Conn { link, side, .. } = self.conns[conn];
        let at = if flags.contains(Flags::CHECKSUM) {
            let end = starts.iter().copied().find(|&other| other > start).unwrap_or(bytes.len());
            self.links[link].is_damaged[1 - side] = true;
            let timeout = self.random.scaled(100 * MS, 1_000 * MS);
            self.at(self.now + timeout, Happening::FrameTimeout { link, side: 1 - side });
            self.random.size(start, end)
        } else {
            self.links[link].damage.push(Damage {
                side: 1 - side,
                lane: Priority::ALL[usize::from(bytes[start + 5]) - 1],
                sequence: u32::try_from(field(start + 16)).expect("four bytes"),
                number: number_of(&bytes[payload.clone()]),
            });
            self.random.size(payload.start, payload.end)
        };
        trace!(self, "conn {conn}: byte {at} of {:?} is damaged", block.span);
        self.report.damaged += 1;
        Some((at, 1 << self.random.between(0, 8)))
    }

    /// Which message this is, when its payload was damaged on the way.
    pub(super) fn damaged(&mut self, link: usize, side: usize, frame: &Frame<'_>) -> Option<usize> {
        let number = self.find_damage(link, side, frame)?;
        self.report.damage_unnoticed += 1;
        Some(number)
    }

    pub(super) fn find_damage(&self, link: usize, side: usize, frame: &Frame<'_>) -> Option<usize> {
        let is_it = |damage: &Damage| {
            damage.side == side
                && damage.lane == frame.priority()
                && damage.sequence == frame.sequence()
        };
        let damage = self.links[link].damage.iter().find(|damage| is_it(damage))?;
        Some(damage.number)
    }

    /// The decoder refuses what has come: the link must really be damaged, and ends.
    pub(super) fn on_damage(&mut self, conn: usize, error: ProtocolError) {
        let Conn { link, side, .. } = self.conns[conn];
        trace!(self, "conn {conn}: {error}");
        assert!(self.links[link].is_damaged[side], "{error} on a sound link");
        assert!(error.is_damage(), "{error} ends the session for a changed bit");
        self.report.damage_noticed += 1;
        self.close(conn, CloseReason::Protocol(error));
    }

    /// A frame that was damaged may have become longer than what there is: its end never comes.
    pub(super) fn on_frame_timeout(&mut self, link: usize, side: usize) {
        let Some(conn) = self.links[link].ends[side] else { return };
        if self.conns[conn].phase != Phase::Live {
            return;
        }
        // A reader that is slow may still have it before it.
        let is_read = self.conns[conn].window.is_empty() && self.links[link].to[side].is_empty();
        let is_lost = self.links[link].is_cut || self.links[link].is_silent[side];
        let other = self.links[link].ends[1 - side].map(|other| &self.conns[other]);
        let has_left = other.is_none_or(|other| other.flight.is_none());
        assert!(!is_read || is_lost || !has_left, "conn {conn}: damage was not noticed");
        self.close(conn, CloseReason::FrameTimeout);
    }

    // Timers.

    pub(super) fn arm_timer(&mut self, seat: usize) {
        let deadline = self.seats[seat].session.deadline();
        let node = &self.nodes[self.seats[seat].node];
        // Heartbeats are more than an hour apart: not in this simulation.
        let is_soon = deadline < node.clock(self.now) + Duration::from_secs(600);
        if !is_soon || self.seats[seat].place == Place::Over {
            return;
        }
        let at = node.true_time(deadline);
        if at < self.seats[seat].timer_at {
            self.seats[seat].timer_at = at;
            self.at(at, Happening::Timer { seat });
        }
    }

    /// What is too old to be sent is dropped and counted at once, whether the link stands or not.
    fn drop_expired(&mut self, seat: usize) {
        let now = self.clock(self.seats[seat].node);
        let Seat { session, node, .. } = &mut self.seats[seat];
        session.drop_expired(now, &mut self.nodes[*node].memory);
        self.book_drops(seat);
        for (lane, priority) in self.seats[seat].session.lanes.iter().zip(Priority::ALL) {
            assert!(!lane.is_stale(now), "{priority:?}: what is too old still waits");
        }
    }

    pub(super) fn on_timer(&mut self, seat: usize) {
        self.seats[seat].timer_at = u64::MAX;
        if let Place::Away { .. } = self.seats[seat].place {
            self.drop_expired(seat);
            self.arm_timer(seat);
        }
        let Place::Here(conn) = self.seats[seat].place else { return };
        let Conn { link, side, phase, .. } = self.conns[conn];
        if phase != Phase::Live {
            return;
        }
        // As the reactor: whoever does not read can not hear.
        if self.links[link].to[side].arrived() > 0 {
            self.hear(conn);
        }
        let now = self.clock(self.seats[seat].node);
        self.drop_expired(seat);
        let Seat { session, node, .. } = &mut self.seats[seat];
        let node = &mut self.nodes[*node];
        node.pace.set_sessions(node.places_max);
        match session.expire(now, &mut node.pace) {
            Expiry::GoOn => {
                self.mark_dirty(conn);
                self.arm_timer(seat);
            }
            Expiry::PeerSilent => self.peer_silent(conn),
        }
    }
}

//! Connections come and go: what the reactor does about it.

use super::*;
use crate::session::Part;

/// What a frame with a time to live is handled later than its turn began, at most.
const LATE_MAX: u64 = 50 * US;
/// That, and what clocks drift apart in the longest time to live.
const AGE_ERROR: u64 = MS;

impl World {
    // Dialling.

    pub(super) fn begin(&mut self, node: usize) {
        if self.is_over() {
            return;
        }
        let (id, Node { limits, identity, .. }) = (self.new_id(), &self.nodes[node]);
        let mut session = Session::new(Role::Dialer, id, *limits, identity);
        session.begin_at(self.climate.sequences);
        let is_paired = self.random.chance(self.climate.express_percent);
        if is_paired {
            session.set_part(Part::Main, id);
        }
        let seat = self.new_seat(node, session, Some(Backoff::new(self.backoff)));
        let Some(conn) = self.dial_for(seat, None) else {
            self.seats[seat].place = Place::Over;
            self.soon(10 * MS, Happening::Begin { node });
            return;
        };
        self.seats[seat].place = Place::Here(conn);
        if is_paired {
            self.new_pair(seat);
        }
        self.soon(MS, Happening::Traffic { seat });
    }

    fn new_id(&mut self) -> SessionId {
        let [low, high] = [self.random.next(), self.random.next()];
        SessionId((u128::from(high) << 64 | u128::from(low)).to_le_bytes())
    }

    pub(super) fn new_seat(
        &mut self,
        node: usize,
        session: Session,
        backoff: Option<Backoff>,
    ) -> usize {
        let life = self.truth.new_life(self.climate.sequences);
        self.seats.push(Seat {
            node,
            session,
            place: Place::Over,
            backoff,
            life,
            pairing: Pairing::default(),
            pair: None,
            retry_at: u64::MAX,
            timer_at: u64::MAX,
            lost_at: 0,
            held: u64::MAX,
            attempted_at: 0,
            attempts: 0,
            era: 0,
        });
        self.seats.len() - 1
    }

    pub(super) fn dial(&mut self, seat: usize) {
        let Place::Away { until, stand_in: None } = self.seats[seat].place else { return };
        // Another time was set since.
        if self.seats[seat].retry_at > self.now {
            return;
        }
        self.seats[seat].retry_at = u64::MAX;
        let Node { limits, identity, .. } = &self.nodes[self.seats[seat].node];
        let stand_in = self.seats[seat].session.stand_in(*limits, identity);
        self.seats[seat].attempted_at = self.now;
        self.report.attempts += 1;
        match self.dial_for(seat, Some(stand_in)) {
            Some(conn) => self.seats[seat].place = Place::Away { until, stand_in: Some(conn) },
            None => self.stand_in_failed(seat, CloseReason::ConnectionLimit),
        }
    }

    /// Connects to the server. `None` without memory for the hello.
    pub(super) fn dial_for(&mut self, seat: usize, stand_in: Option<Session>) -> Option<usize> {
        let node = self.seats[seat].node;
        let now = self.clock(node);
        let buffer = self.nodes[node].memory.pool.take(HANDSHAKE_BYTES_MAX)?;
        let link = self.links.len();
        self.links.push(Link::new(self.climate.socket_bytes, self.conns.len()));
        let conn = self.new_conn(node, link, 0, seat);
        self.conns[conn].stand_in = stand_in;
        trace!(self, "conn {conn}: seat {seat} of node {node} dials");
        if self.random.chance(self.climate.refuse_percent) && !self.is_over() {
            // Nobody listens, or nobody answers until the time is over.
            self.nodes[node].memory.pool.give(buffer);
            self.soon(self.climate.handshake_timeout, Happening::Learn { conn });
            return Some(conn);
        }
        let (session, node) = self.session(conn);
        session.greet(buffer, &node.identity, now, 0);
        self.mark_dirty(conn);
        let timeout = self.now + self.climate.handshake_timeout;
        self.at(timeout, Happening::HandshakeTimeout { conn });
        let slow = self.random.chance(5);
        let delay = if slow { 2 * self.climate.handshake_timeout } else { self.climate.latency };
        self.soon(delay, Happening::Accept { link });
        Some(conn)
    }

    fn new_conn(&mut self, node: usize, link: usize, side: usize, seat: usize) -> usize {
        self.conns.push(Conn {
            node,
            link,
            side,
            seat,
            stand_in: None,
            phase: Phase::Live,
            flight: None,
            window: Vec::new(),
            is_dirty: false,
            is_reading: false,
            is_writing: false,
            closes_when_sent: false,
            is_given_up: false,
            dropped: 0,
            undelivered: Vec::new(),
            established_at: None,
            heard_at: self.now,
        });
        self.conns.len() - 1
    }

    pub(super) fn accept(&mut self, link: usize) {
        let is_here = |conn: &&Conn| conn.node == 0 && conn.phase != Phase::Gone;
        if self.conns.iter().filter(is_here).count() >= self.nodes[0].places_max {
            let dialer = self.links[link].ends[0].expect("somebody dialled");
            self.soon(self.climate.latency, Happening::Learn { conn: dialer });
            return;
        }
        let (id, Node { limits, identity, .. }) = (self.new_id(), &self.nodes[0]);
        let mut session = Session::new(Role::Listener, id, *limits, identity);
        session.begin_at(self.climate.sequences);
        let seat = self.new_seat(0, session, None);
        let conn = self.new_conn(0, link, 1, seat);
        self.seats[seat].place = Place::Here(conn);
        self.links[link].ends[1] = Some(conn);
        let timeout = self.now + self.climate.handshake_timeout;
        self.at(timeout, Happening::HandshakeTimeout { conn });
        if self.links[link].is_cut || self.links[link].is_closed[0] {
            self.soon(self.climate.blindness, Happening::Learn { conn });
        }
        if self.links[link].to[1].arrived() > 0 {
            self.read_soon(conn);
        }
    }

    // Bytes.

    /// The session that speaks on a connection, and its node.
    fn session(&mut self, conn: usize) -> (&mut Session, &mut Node) {
        let Conn { node, seat, stand_in, .. } = &mut self.conns[conn];
        let node = &mut self.nodes[*node];
        (stand_in.as_mut().unwrap_or(&mut self.seats[*seat].session), node)
    }

    pub(super) fn mark_dirty(&mut self, conn: usize) {
        if self.conns[conn].phase == Phase::Live && !self.conns[conn].is_dirty {
            self.conns[conn].is_dirty = true;
            // Mostly in the same turn.
            let most = if self.random.chance(70) { 1 } else { 100 * US };
            self.soon(most, Happening::Transmit { conn });
        }
    }

    pub(super) fn transmit(&mut self, conn: usize) {
        self.conns[conn].is_dirty = false;
        if self.conns[conn].phase != Phase::Live || self.conns[conn].flight.is_some() {
            return;
        }
        let now = self.clock(self.conns[conn].node);
        let (session, node) = self.session(conn);
        let polled = session.poll_block(now, &mut node.memory);
        let Some((source, block)) = polled else {
            assert!(!session.has_block(), "there is memory for what must be said");
            if session.state() == State::Draining {
                let seat = self.conns[conn].seat;
                // The frame that brings the confirmation brings it back here.
                if !self.seats[seat].session.is_flushed() || self.waits_for_other(seat) {
                    return;
                }
                match self.seats[seat].session.confirms_before_goodbye() {
                    true => self.mark_dirty(conn),
                    false => self.say_goodbye(conn),
                }
                return;
            }
            if self.conns[conn].closes_when_sent {
                self.close(conn, CloseReason::Refused(RejectReason::Busy));
            }
            return;
        };
        trace!(self, "conn {conn}: sends {source:?} {:?}", block.span);
        if source != Source::Control {
            self.check_block(self.conns[conn].seat, &block, now);
        }
        let sent = block.span.start;
        let damage = self.damage(conn, &block);
        self.conns[conn].flight = Some(Flight { source, block, sent, damage });
        let seat = self.conns[conn].seat;
        self.check_seat(seat);
        self.write_soon(conn);
    }

    /// All has been sent: the goodbye comes last.
    fn say_goodbye(&mut self, conn: usize) {
        let now = self.clock(self.conns[conn].node);
        let (session, node) = self.session(conn);
        let buffer =
            node.memory.pool.take(HANDSHAKE_BYTES_MAX).expect("there is memory for a goodbye");
        session.finish(buffer, GoodbyeReason::Disconnect, now);
        self.report.goodbyes += 1;
        self.mark_dirty(conn);
    }

    fn write_soon(&mut self, conn: usize) {
        if !self.conns[conn].is_writing && self.conns[conn].flight.is_some() {
            self.conns[conn].is_writing = true;
            self.soon(20 * US, Happening::Write { conn });
        }
    }

    pub(super) fn write(&mut self, conn: usize) {
        let Conn { link, side, phase, .. } = self.conns[conn];
        self.conns[conn].is_writing = false;
        let Some(mut flight) = self.conns[conn].flight.take() else { return };
        if phase != Phase::Live {
            self.conns[conn].flight = Some(flight);
            return;
        }
        let left = flight.block.buffer.pieces(flight.sent..flight.block.span.filled).to_vec();
        let mut bytes = left.len().min(self.links[link].to[1 - side].room());
        if bytes > 1 && self.random.chance(self.climate.piece_percent) {
            bytes = self.random.size(1, bytes + 1);
        }
        let mut on_the_way = left[..bytes].to_vec();
        if let Some((at, bit)) = flight.damage
            && (flight.sent..flight.sent + bytes).contains(&at)
        {
            on_the_way[at - flight.sent] ^= bit;
        }
        self.links[link].to[1 - side].write(&on_the_way);
        flight.sent += bytes;
        self.travel(link, 1 - side, bytes);
        if flight.sent < flight.block.span.filled {
            self.conns[conn].flight = Some(flight);
            if bytes > 0 {
                self.write_soon(conn);
            }
            return;
        }
        let (session, node) = self.session(conn);
        session.block_sent(flight.source, flight.block, &mut node.memory);
        let is_ending = session.state() == State::Draining;
        let has_more = session.has_block() || is_ending || self.conns[conn].closes_when_sent;
        if has_more {
            self.mark_dirty(conn);
        }
        self.check_seat(self.conns[conn].seat);
    }

    /// Bytes are on their way, in one or several pieces.
    fn travel(&mut self, link: usize, side: usize, mut bytes: usize) {
        while bytes > 0 {
            let is_split = self.random.chance(self.climate.piece_percent / 4);
            let piece = if is_split { self.random.size(1, bytes + 1) } else { bytes };
            let jitter = self.random.scaled(1, self.climate.jitter + 1);
            let pipe = &mut self.links[link].to[side];
            let at = pipe.last_arrival.max(self.now + self.climate.latency + jitter);
            pipe.last_arrival = at;
            self.at(at, Happening::Arrive { link, side, bytes: piece });
            bytes -= piece;
        }
    }

    pub(super) fn arrive(&mut self, link: usize, side: usize, bytes: usize) {
        if self.links[link].is_cut || self.links[link].is_silent[side] {
            return;
        }
        self.links[link].to[side].arrive(bytes);
        if let Some(conn) = self.links[link].ends[side] {
            self.read_soon(conn);
        }
    }

    fn read_soon(&mut self, conn: usize) {
        if !self.conns[conn].is_reading && self.conns[conn].phase == Phase::Live {
            self.conns[conn].is_reading = true;
            let is_slow = self.random.chance(self.climate.slow_percent);
            let most = if is_slow { 300 * MS } else { 50 * US };
            self.soon(most, Happening::Read { conn });
        }
    }

    pub(super) fn read(&mut self, conn: usize) {
        self.conns[conn].is_reading = false;
        if self.conns[conn].phase != Phase::Live {
            return;
        }
        let Conn { link, side, .. } = self.conns[conn];
        let arrived = self.links[link].to[side].arrived();
        if arrived == 0 {
            return;
        }
        let bytes = if self.random.chance(self.climate.tiny_percent) {
            1
        } else if self.random.chance(self.climate.piece_percent) {
            self.random.size(1, arrived + 1)
        } else {
            arrived
        };
        self.take(conn, bytes);
        if self.links[link].to[side].arrived() > 0 {
            self.read_soon(conn);
        }
    }

    /// Reads bytes and handles the frames that they complete.
    fn take(&mut self, conn: usize, bytes: usize) {
        let Conn { link, side, .. } = self.conns[conn];
        self.links[link].to[side].read(bytes, &mut self.conns[conn].window);
        if let Some(other) = self.links[link].ends[1 - side]
            && !self.links[link].is_cut
        {
            self.write_soon(other);
        }
        if bytes > 0 {
            self.hear(conn);
        }
        let window = std::mem::take(&mut self.conns[conn].window);
        let mut input = &window[..];
        while self.conns[conn].phase == Phase::Live && !self.conns[conn].closes_when_sent {
            let (session, _) = self.session(conn);
            match session.decoder().next(&mut input) {
                Ok(Some(frame)) => self.handle(conn, &frame),
                Ok(None) => break,
                Err(error) => self.on_damage(conn, error),
            }
        }
        self.conns[conn].window.extend_from_slice(input);
        let (session, _) = self.session(conn);
        if session.has_own_block() || session.state() == State::Draining {
            self.mark_dirty(conn);
        }
        let seat = self.conns[conn].seat;
        self.arm_timer(seat);
        self.check_seat(seat);
    }

    fn handle(&mut self, conn: usize, frame: &Frame<'_>) {
        let Conn { node, seat, .. } = self.conns[conn];
        let now = self.clock(node);
        trace!(
            self,
            "conn {conn}: seat {seat} gets {:?} {:?} {}",
            frame.kind(),
            frame.priority(),
            frame.sequence()
        );
        if self.conns[conn].established_at.is_some() {
            self.note_confirmations(seat, frame);
        }
        // As the reactor: what may be stale is taken in with a clock that is read anew, while the
        // session's timers go by that of the turn.
        let is_late = frame.expires() && frame.kind().is_application();
        let late = if is_late { self.random.between(0, LATE_MAX) } else { 0 };
        let (session, memory) = self.session(conn);
        let read_at = now + Duration::from_nanos(late);
        let input = session.handle(frame, read_at, &mut memory.memory);
        let input = input.unwrap_or_else(|error| panic!("seat {seat}: {error}"));
        match input {
            Input::Message => {
                self.check_lane(seat, frame);
                self.on_message(conn, frame, now);
            }
            Input::Nothing | Input::Established => {}
            Input::Cancelled => {
                let number = self.number_of(conn, frame);
                self.truth_of(conn, frame);
                self.cancelled(number, frame);
            }
            // It has come, and is counted; no handler sees it.
            Input::Expired => {
                let number = self.number_of(conn, frame);
                let clock = self.seats[seat].session.clock_offset(now);
                let (true_now, message) = (self.now, self.truth_of(conn, frame));
                // A request whose patience is shorter than its time to live says that instead.
                let patience = message
                    .expires_at
                    .zip(message.useful_until)
                    .map_or(0, |(at, until)| at.0 - until.0);
                if let (Some(clock), Some(expires)) = (clock, message.expires_true) {
                    let expires = expires - patience;
                    // What its age may be reckoned too high by: twice the error of the clocks.
                    let error = 2 * clock.error_ns + AGE_ERROR;
                    assert!(expires <= true_now + error, "too early: {clock:?}, {message:?}");
                }
                self.request_expired(number);
                self.report.expired += 1;
            }
            Input::Greeting if self.conns[conn].side == 0 => self.accept_welcome(conn, frame, now),
            Input::Greeting => self.answer(conn, frame, now),
            Input::End(reason) => self.close(conn, reason),
        }
        self.report.gaps += u64::from(frame.kind() == Kind::Gap);
        self.report.acknowledgements += u64::from(frame.kind() == Kind::Acknowledgement);
        self.report.heartbeats += u64::from(frame.kind() == Kind::Heartbeat);
    }

    /// Remembers what the peer has confirmed to this end.
    fn note_confirmations(&mut self, seat: usize, frame: &Frame<'_>) {
        let lanes = &mut self.truth.lives[self.seats[seat].life].lanes;
        if frame.kind() == Kind::Acknowledgement {
            let told = read_acknowledgement(frame.payload()).expect("well formed");
            for (lane, received) in lanes.iter_mut().zip(told.received) {
                lane.confirmed = lane.confirmed.max(received.get());
            }
        } else if let Some(extension) = frame.extension() {
            let lane = &mut lanes[frame.priority().index()];
            lane.confirmed = lane.confirmed.max(extension.acknowledged.get());
        }
    }

    fn on_message(&mut self, conn: usize, frame: &Frame<'_>, now: Nanos) {
        let true_now = self.now;
        let message = self.truth_of(conn, frame);
        if RECEIVER_CHECKS_TTL && let Some(expires) = message.expires_true {
            assert!(true_now <= expires, "handled after its time, at {now:?}: {message:?}");
        }
        let number = self.number_of(conn, frame);
        if frame.is_request() {
            self.asked(conn, number, frame, now);
        } else if frame.is_response() {
            self.answered(conn, number, frame);
        }
    }

    /// Which message this is.
    fn number_of(&self, conn: usize, frame: &Frame<'_>) -> usize {
        let Conn { link, side, .. } = self.conns[conn];
        self.find_damage(link, side, frame).unwrap_or_else(|| number_of(frame.payload()))
    }

    /// Which message this was; that it is handled is noted.
    fn truth_of(&mut self, conn: usize, frame: &Frame<'_>) -> &Message {
        let Conn { link, side, seat, .. } = self.conns[conn];
        let damaged = self.damaged(link, side, frame);
        self.truth.handle(&mut self.seats[seat].pairing, frame, damaged)
    }

    // Handshakes.

    fn answer(&mut self, conn: usize, frame: &Frame<'_>, now: Nanos) {
        let buffer = self.nodes[0].memory.pool.take(HANDSHAKE_BYTES_MAX);
        let buffer = buffer.expect("there is memory for a welcome");
        let peer = Session::peer_id(frame).expect("well formed");
        let known = self.nodes[0].by_peer.get(&peer).copied();
        let claim = known.map(|seat| self.claim(seat, frame));
        let known = known.filter(|_| claim != Some(HelloClaim::Anew));
        let peer_main = Session::express_of(frame).expect("well formed");
        let is_refused = match (known, peer_main) {
            (Some(seat), _) => claim == Some(HelloClaim::Stale) || !self.welcome_back(conn, seat),
            // Main comes first, and may not be back yet.
            (None, Some(peer_main)) => {
                !self.main_for(peer_main).is_some_and(|main| self.join_main(conn, main))
            }
            (None, None) => false,
        };
        if is_refused {
            let (session, _) = self.session(conn);
            session.refuse(buffer, RejectReason::Busy, now);
            self.conns[conn].closes_when_sent = true;
            self.report.busy += 1;
            self.mark_dirty(conn);
            return;
        }
        if known.is_some() {
            self.note_greeting(self.conns[conn].seat, frame);
        }
        let (session, node) = self.session(conn);
        let Node { memory, identity, .. } = node;
        let outcome = session.answer(frame, buffer, identity, now, 0, memory);
        let input = outcome.unwrap_or_else(|error| panic!("the server refuses: {error}"));
        assert_eq!(input, Input::Established, "nothing else is wrong with it");
        let seat = self.conns[conn].seat;
        if known.is_none() {
            self.nodes[0].by_peer.insert(peer, seat);
            if self.is_public(seat) {
                self.soon(MS, Happening::Traffic { seat });
            }
        } else {
            self.report.resumed += 1;
            self.part_resumed(seat);
        }
        self.established(conn);
    }

    fn claim(&mut self, seat: usize, frame: &Frame<'_>) -> HelloClaim {
        let claim = self.seats[seat].session.claim(frame).expect("well formed");
        self.report.stale += u64::from(claim == HelloClaim::Stale);
        self.report.anew += u64::from(claim == HelloClaim::Anew);
        if claim == HelloClaim::Anew {
            match self.seats[seat].place {
                Place::Here(old) => self.end_part(old, CloseReason::SessionExpired),
                _ => self.end_away(seat, CloseReason::SessionExpired),
            }
        }
        claim
    }

    fn welcome_back(&mut self, conn: usize, seat: usize) -> bool {
        if let Place::Here(old) = self.seats[seat].place {
            self.close(old, CloseReason::Superseded);
        }
        if !matches!(self.seats[seat].place, Place::Away { .. }) {
            return false;
        }
        let provisional = std::mem::replace(&mut self.conns[conn].seat, seat);
        self.seats[provisional].place = Place::Over;
        self.seats[seat].place = Place::Here(conn);
        true
    }

    /// What the other end has received, as its greeting says, when both ends go on.
    fn note_greeting(&mut self, seat: usize, frame: &Frame<'_>) {
        let (greeting, _) = read_greeting(frame.payload()).expect("well formed");
        let lanes = &mut self.truth.lives[self.seats[seat].life].lanes;
        for (lane, received) in lanes.iter_mut().zip(greeting.last_received) {
            lane.confirmed = received.get();
        }
    }

    fn accept_welcome(&mut self, conn: usize, frame: &Frame<'_>, now: Nanos) {
        let seat = self.conns[conn].seat;
        if !self.is_welcome(seat, Session::peer_id(frame).expect("well formed")) {
            // Main is not back yet, or somebody else has answered.
            self.report.strangers += 1;
            self.close(conn, CloseReason::Rejected(RejectReason::Busy));
            return;
        }
        if let Some(stand_in) = self.conns[conn].stand_in.take() {
            self.seats[seat].session.take_link(&stand_in);
            self.seats[seat].place = Place::Here(conn);
        }
        let known = self.seats[seat].session.peer().map(|peer| peer.session_id);
        if known == Some(Session::peer_id(frame).expect("well formed")) {
            self.note_greeting(seat, frame);
        }
        let (session, node) = self.session(conn);
        let Node { memory, identity, .. } = node;
        let outcome = session.accept_welcome(frame, identity, now, memory);
        let (input, reunion) =
            outcome.unwrap_or_else(|error| panic!("the client refuses: {error}"));
        assert_eq!(input, Input::Established, "nothing else is wrong with it");
        match reunion {
            Reunion::First => {}
            Reunion::Resumed => self.part_resumed(seat),
            Reunion::PeerRestarted { undelivered } => {
                self.report.peer_restarts += 1;
                self.give_up(seat, &undelivered);
                self.seats[seat].life = self.truth.new_life(self.climate.sequences);
                self.seats[seat].pairing = Pairing::default();
                self.seats[seat].session.begin_at(self.climate.sequences);
                self.requests_fail(seat);
                self.part_anew(seat);
            }
        }
        let now = self.clock(self.conns[conn].node);
        if let Some(backoff) = &mut self.seats[seat].backoff {
            backoff.established(now);
        }
        self.established(conn);
    }

    fn established(&mut self, conn: usize) {
        self.conns[conn].established_at = Some(self.now);
        self.conns[conn].heard_at = self.now;
        let seat = self.conns[conn].seat;
        self.seats[seat].era += 1;
        trace!(self, "conn {conn}: established for seat {}", self.conns[conn].seat);
        self.mark_dirty(conn);
        self.part_established(conn);
        self.check_seat(self.conns[conn].seat);
    }

    // Ends.

    pub(super) fn close(&mut self, conn: usize, reason: CloseReason) {
        let Conn { node, seat, established_at, phase, .. } = self.conns[conn];
        if phase != Phase::Live {
            return;
        }
        trace!(self, "conn {conn}: seat {seat} closes: {reason}");
        self.hang_up(conn);
        if let Some(mut stand_in) = self.conns[conn].stand_in.take() {
            let _ = stand_in.end(&mut self.nodes[node].memory);
            if let Some(flight) = self.conns[conn].flight.take() {
                self.nodes[node].memory.pool.give(flight.block.buffer);
            }
            self.conns[conn].phase = Phase::Gone;
            self.stand_in_failed(seat, reason);
            return;
        }
        let is_link_failure = match reason {
            CloseReason::PeerClosed
            | CloseReason::Socket { .. }
            | CloseReason::FrameTimeout
            | CloseReason::PeerSilent
            | CloseReason::Superseded => true,
            CloseReason::Protocol(error) => error.is_damage(),
            _ => false,
        };
        let is_live = |seat: &&Seat| seat.node == node && seat.place != Place::Over;
        let has_place =
            self.seats.iter().filter(is_live).count() <= 2 * self.nodes[node].places_max;
        let may_survive = self.may_survive(seat);
        let session = &mut self.seats[seat].session;
        let survives = is_link_failure
            && has_place
            && may_survive
            && established_at.is_some()
            && session.state() == State::Open;
        self.conns[conn].phase = Phase::Closing { survives };
        if !survives {
            let (dropped, undelivered) = session.end(&mut self.nodes[node].memory);
            let has_lost =
                dropped > 0 || !undelivered.is_empty() || self.conns[conn].flight.is_some();
            self.conns[conn].undelivered = undelivered;
            self.conns[conn].dropped = dropped;
            self.forget(seat);
            self.requests_fail(seat);
            self.part_ended(seat, reason, has_lost);
        }
        if self.conns[conn].flight.is_none() || self.random.chance(50) {
            self.on_returned(conn);
        } else {
            self.report.late_returns += 1;
            self.soon(MS, Happening::Returned { conn });
        }
    }

    /// Closes this side's socket.
    pub(super) fn hang_up(&mut self, conn: usize) {
        let Conn { link, side, .. } = self.conns[conn];
        self.links[link].is_closed[side] = true;
        let Some(other) = self.links[link].ends[1 - side] else { return };
        if self.links[link].is_silent[1 - side] {
            return;
        }
        if self.links[link].is_cut || self.random.chance(10) {
            self.soon(self.climate.blindness, Happening::Learn { conn: other });
        } else {
            let last = self.links[link].to[1 - side].last_arrival;
            let at = last.max(self.now + self.climate.latency) + 1;
            self.at(at, Happening::Learn { conn: other });
        }
    }

    pub(super) fn on_returned(&mut self, conn: usize) {
        let Phase::Closing { survives } = self.conns[conn].phase else { return };
        let seat = self.conns[conn].seat;
        self.conns[conn].phase = Phase::Gone;
        let mut flight = self.conns[conn].flight.take();
        let is_complete = self.random.chance(30);
        let Seat { session, node, .. } = &mut self.seats[seat];
        let memory = &mut self.nodes[*node].memory;
        if let Some(flight) = flight.take_if(|_| !survives) {
            let undelivered = &mut self.conns[conn].undelivered;
            session.end_block(flight.into_returned(), undelivered, memory);
        } else if let Some(flight) = flight.take_if(|_| is_complete) {
            session.block_sent(flight.source, flight.block, memory);
        }
        if !survives {
            let undelivered = std::mem::take(&mut self.conns[conn].undelivered);
            self.give_up(seat, &undelivered);
            let messages_dropped = self.conns[conn].dropped;
            self.part_left(seat, Remains { messages_dropped, undelivered });
        } else {
            self.report.half_sent += u64::from(flight.is_some());
            session.link_lost(flight.map(Flight::into_returned), memory);
            self.detached(conn);
        }
        self.check_seat(seat);
    }

    fn detached(&mut self, conn: usize) {
        let seat = self.conns[conn].seat;
        let until = self.now + self.climate.linger;
        let node = self.seats[seat].node;
        let now = self.clock(node);
        let held = self.now - self.conns[conn].established_at.expect("others do not survive");
        self.report.links_lost += 1;
        self.seats[seat].era += 1;
        self.seats[seat].place = Place::Away { until, stand_in: None };
        self.seats[seat].lost_at = self.now;
        self.seats[seat].held = held;
        self.truth.lives[self.seats[seat].life].had_losses = true;
        self.part_lost(seat);
        self.requests_lost_link(seat);
        if self.conns[conn].is_given_up {
            self.end_away(seat, CloseReason::Local);
            return;
        }
        self.at(until, Happening::Linger { seat });
        if let Some(backoff) = &mut self.seats[seat].backoff {
            backoff.lost(now);
            self.plan_attempt(seat);
        }
    }

    fn stand_in_failed(&mut self, seat: usize, reason: CloseReason) {
        let Place::Away { until, .. } = self.seats[seat].place else { return };
        self.seats[seat].place = Place::Away { until, stand_in: None };
        trace!(self, "seat {seat}: no connection: {reason}");
        self.plan_attempt(seat);
    }

    fn plan_attempt(&mut self, seat: usize) {
        let node = self.seats[seat].node;
        let now = self.clock(node);
        let random = self.random.next();
        // The application wants it back no more.
        let Some(backoff) = self.seats[seat].backoff.as_mut() else { return };
        match backoff.next(now, random) {
            Next::Attempt { at, number } => {
                let at = self.nodes[node].true_time(at).max(self.now);
                self.check_attempt(seat, at, number);
                self.seats[seat].retry_at = at;
                self.at(at, Happening::Dial { seat });
            }
            Next::GaveUp { attempts, .. } => {
                self.end_away(seat, CloseReason::GaveUp { attempts });
            }
        }
    }

    pub(super) fn on_linger(&mut self, seat: usize) {
        if let Place::Away { until, .. } = self.seats[seat].place
            && until <= self.now
        {
            self.end_away(seat, CloseReason::SessionExpired);
        }
    }

    pub(super) fn end_away(&mut self, seat: usize, reason: CloseReason) {
        let Place::Away { stand_in, .. } = self.seats[seat].place else { return };
        self.end(seat, reason);
        if let Some(conn) = stand_in {
            self.close(conn, CloseReason::Local);
        }
    }

    /// A session is over.
    pub(super) fn end(&mut self, seat: usize, reason: CloseReason) {
        let Seat { node, session, .. } = &mut self.seats[seat];
        let node = *node;
        trace!(self, "seat {seat}: over: {reason}");
        let (messages_dropped, undelivered) = session.end(&mut self.nodes[node].memory);
        self.give_up(seat, &undelivered);
        self.forget(seat);
        self.requests_fail(seat);
        self.part_ended(seat, reason, !undelivered.is_empty());
        self.part_left(seat, Remains { messages_dropped, undelivered });
    }

    /// The lanes of a session were given up.
    fn give_up(&mut self, seat: usize, undelivered: &[Undelivered]) {
        let now = self.clock(self.seats[seat].node);
        self.book_drops(seat);
        self.report.undelivered += undelivered.len() as u64;
        self.truth.end(self.seats[seat].life, undelivered, now);
    }

    fn forget(&mut self, seat: usize) {
        let node = self.seats[seat].node;
        self.seats[seat].place = Place::Over;
        self.report.sessions_ended += 1;
        let peer = self.seats[seat].session.peer().map(|peer| peer.session_id);
        if let Some(peer) = peer
            && self.nodes[node].by_peer.get(&peer) == Some(&seat)
        {
            self.nodes[node].by_peer.remove(&peer);
        }
        if node > 0 && self.is_public(seat) {
            self.soon(10 * MS, Happening::Begin { node });
        }
    }

    pub(super) fn learn(&mut self, conn: usize) {
        if self.conns[conn].phase != Phase::Live {
            return;
        }
        let Conn { link, side, .. } = self.conns[conn];
        // A reset discards what has arrived; an end comes after it.
        if self.random.chance(50) {
            let arrived = self.links[link].to[side].arrived();
            self.take(conn, arrived);
        }
        let seat = self.conns[conn].seat;
        let is_finishing = self.conns[conn].stand_in.is_none()
            && self.seats[seat].session.state() == State::Finishing;
        let reason = if is_finishing { CloseReason::Local } else { CloseReason::PeerClosed };
        self.close(conn, reason);
    }
}

//! Sessions with two connections: what the reactor does as `session/pair.rs` decides, and what the
//! application hears of it.

use super::*;
use crate::session::Part;
use crate::session::pair::{
    Fate, Goodbye, Half, Next, Pair, Parting, Place as PartPlace, Remains, View, half_of,
    is_foreign, is_peer_of_both, parting,
};

/// How long a disconnect may take.
const DRAIN: u64 = 2_000 * MS;

/// A session of two seats.
#[derive(Debug)]
pub(super) struct Duo {
    node: usize,
    main: usize,
    express: Option<usize>,
    rules: Pair,
    told: Told,
    /// Why main has ended.
    reason: Option<CloseReason>,
    /// What the parts have left.
    owed: Remains,
    /// Its process has died: nobody is told anything.
    is_dead: bool,
}

/// What the application knows.
#[derive(Debug, Default)]
struct Told {
    connected: u32,
    /// The peer has begun anew since.
    anew: bool,
    /// Main's link and express's.
    is_up: [bool; 2],
    is_over: bool,
}

/// What it is told.
#[derive(Debug)]
enum News {
    Connected,
    LinkLost(Half),
    Resumed(Half),
    /// The peer has lost its end of a part.
    Anew(Half),
    Disconnected(Remains),
}

impl World {
    pub(super) fn is_paired(&self, seat: usize) -> bool {
        self.seats[seat].pair.is_some()
    }

    /// Which part of which pair a seat is.
    fn tie(&self, seat: usize) -> Option<(usize, Half)> {
        self.seats[seat].pair
    }

    /// Whether the application sends in this session: not in an express part.
    pub(super) fn is_public(&self, seat: usize) -> bool {
        !matches!(self.tie(seat), Some((_, Half::Express)))
    }

    /// The seat that the application knows a session by.
    pub(super) fn public(&self, seat: usize) -> usize {
        self.tie(seat).map_or(seat, |(pair, _)| self.pairs[pair].main)
    }

    /// The seat that carries a lane of a session. `None` while it is not there.
    pub(super) fn carrier(&self, seat: usize, lane: Priority) -> Option<usize> {
        match self.tie(seat) {
            Some((pair, _)) if half_of(lane) == Half::Express => self.pairs[pair].express,
            _ => Some(seat),
        }
    }

    /// No message travels on the wrong connection, or before both stand.
    pub(super) fn check_lane(&self, seat: usize, frame: &Frame<'_>) {
        let Some((pair, half)) = self.tie(seat) else { return };
        let is_express = half == Half::Express;
        let lane = frame.priority();
        assert_eq!(lane.is_express(), is_express, "{lane:?} on the {half:?} connection");
        // To the side that dials, what the other one says may come before its welcome on express.
        let Duo { node, told, .. } = &self.pairs[pair];
        assert!(*node > 0 || told.connected > 0, "a message before both connections stand");
    }

    pub(super) fn new_pair(&mut self, main: usize) {
        let node = self.seats[main].node;
        self.seats[main].pair = Some((self.pairs.len(), Half::Main));
        self.pairs.push(Duo {
            node,
            main,
            express: None,
            rules: Pair::default(),
            told: Told::default(),
            reason: None,
            owed: Remains::default(),
            is_dead: false,
        });
    }

    fn join(&mut self, pair: usize, express: usize) {
        self.pairs[pair].rules.join();
        self.pairs[pair].express = Some(express);
        self.seats[express].pair = Some((pair, Half::Express));
    }

    pub(super) fn pairs_die(&mut self, node: usize) {
        self.pairs.iter_mut().filter(|pair| pair.node == node).for_each(|pair| pair.is_dead = true);
    }

    /// The other part's seat.
    fn other(&self, seat: usize) -> Option<usize> {
        match self.tie(seat)? {
            (pair, Half::Main) => self.pairs[pair].express,
            (pair, Half::Express) => Some(self.pairs[pair].main),
        }
    }

    fn view(&self, seat: Option<usize>) -> View {
        let Some(seat) = seat else { return View::ABSENT };
        let Seat { session, place, .. } = &self.seats[seat];
        let place = match *place {
            Place::Over => return View::ABSENT,
            Place::Away { .. } => PartPlace::Away,
            Place::Here(conn) => match &self.conns[conn] {
                Conn { phase: Phase::Live, established_at: Some(_), .. } => PartPlace::Here,
                Conn { phase: Phase::Live, .. } => PartPlace::Making,
                Conn { phase: Phase::Closing { survives: true }, .. } => PartPlace::Away,
                _ => PartPlace::Leaving,
            },
        };
        View::new(session, place)
    }

    // Beginnings.

    /// A part's handshake is complete.
    pub(super) fn part_established(&mut self, conn: usize) {
        let seat = self.conns[conn].seat;
        if self.seats[seat].session.part() == Part::Main && self.tie(seat).is_none() {
            self.new_pair(seat);
        }
        let Some((pair, half)) = self.tie(seat) else { return };
        if half == Half::Main {
            let express = self.view(self.pairs[pair].express);
            let role = self.seats[seat].session.role();
            if !self.pairs[pair].rules.is_complete() {
                self.seats[seat].session.hold();
            }
            let next = self.pairs[pair].rules.main_established(role, &express);
            self.do_next(conn, pair, next);
        }
        self.complete(pair);
    }

    fn do_next(&mut self, conn: usize, pair: usize, next: Next) {
        match next {
            Next::Nothing => {}
            Next::Dial => self.dial_express(conn, pair),
            Next::Hurry => {
                let express = self.pairs[pair].express.expect("it has been there");
                if self.seats[express].retry_at != u64::MAX {
                    self.seats[express].retry_at = self.now;
                    self.at(self.now, Happening::Dial { seat: express });
                }
            }
            Next::Await => {
                let until = self.now + self.climate.handshake_timeout;
                self.at(until, Happening::Incomplete { conn });
            }
            Next::Drain => self.drain(conn, self.climate.handshake_timeout),
        }
    }

    fn dial_express(&mut self, main_conn: usize, pair: usize) {
        let Duo { node, main, .. } = self.pairs[pair];
        let Node { limits, identity, .. } = &self.nodes[node];
        let id = self.seats[main].session.id().companion();
        let mut session = Session::new(Role::Dialer, id, *limits, identity);
        session.set_part(Part::Express, id);
        session.begin_at(self.climate.sequences);
        let seat = self.new_seat(node, session, Some(Backoff::new(self.backoff)));
        self.join(pair, seat);
        match self.dial_for(seat, None) {
            Some(conn) => self.seats[seat].place = Place::Here(conn),
            None => self.close(main_conn, CloseReason::ConnectionLimit),
        }
    }

    /// The second connection did not come.
    pub(super) fn on_incomplete(&mut self, conn: usize) {
        let Some((pair, _)) = self.tie(self.conns[conn].seat) else { return };
        if !self.pairs[pair].rules.is_complete() {
            self.report.incomplete += 1;
            self.close(conn, CloseReason::HandshakeTimeout);
        }
    }

    fn complete(&mut self, pair: usize) {
        let Duo { main, express, .. } = self.pairs[pair];
        let (main_view, express_view) = (self.view(Some(main)), self.view(express));
        if main_view.stands() && self.pairs[pair].rules.complete(&main_view, &express_view) {
            self.seats[main].session.release();
            if let Place::Here(conn) = self.seats[main].place {
                self.mark_dirty(conn);
            }
            self.tell(pair, News::Connected);
        }
    }

    /// The server's main seat that a hello of a second connection belongs to.
    pub(super) fn main_for(&self, peer_main: SessionId) -> Option<usize> {
        let main = *self.nodes[0].by_peer.get(&peer_main)?;
        let (pair, half) = self.tie(main)?;
        (half == Half::Main && self.pairs[pair].rules.awaits_express()).then_some(main)
    }

    /// Makes the connection whose hello is being answered an express part.
    pub(super) fn join_main(&mut self, conn: usize, main: usize) -> bool {
        let (pair, _) = self.tie(main).expect("looked up just now");
        if !self.pairs[pair].rules.may_join() {
            return false;
        }
        let id = self.seats[main].session.id().companion();
        let seat = self.conns[conn].seat;
        self.seats[seat].session.set_part(Part::Express, id);
        self.join(pair, seat);
        true
    }

    /// Whether a welcome is from where the other part has its peer.
    pub(super) fn is_welcome(&self, seat: usize, peer: SessionId) -> bool {
        let Some((pair, Half::Express)) = self.tie(seat) else { return true };
        let main = self.seats[self.pairs[pair].main].session.peer();
        is_peer_of_both(main.map(|peer| peer.session_id), peer)
    }

    /// A link was lost, and the part goes on.
    pub(super) fn part_lost(&mut self, seat: usize) {
        if let Some((pair, half)) = self.tie(seat) {
            self.tell(pair, News::LinkLost(half));
        }
    }

    pub(super) fn part_resumed(&mut self, seat: usize) {
        if let Some((pair, half)) = self.tie(seat) {
            self.tell(pair, News::Resumed(half));
        }
    }

    /// The peer has lost its end of a part.
    pub(super) fn part_anew(&mut self, seat: usize) {
        let Some((pair, half)) = self.tie(seat) else { return };
        self.pairs[pair].rules.begin_anew();
        self.tell(pair, News::Anew(half));
        if half == Half::Main
            && let Some(express) = self.pairs[pair].express
            && is_foreign(&self.view(Some(seat)), &self.view(Some(express)))
            && let Place::Here(conn) = self.seats[express].place
        {
            self.report.foreign += 1;
            self.close(conn, CloseReason::Superseded);
        }
    }

    // Ends.

    /// Whether a part may go on without its connection.
    pub(super) fn may_survive(&self, seat: usize) -> bool {
        self.tie(seat).is_none_or(|(pair, _)| self.pairs[pair].rules.may_survive())
    }

    /// A part is over. `has_lost`: with messages.
    pub(super) fn part_ended(&mut self, seat: usize, reason: CloseReason, has_lost: bool) {
        let Some((pair, half)) = self.tie(seat) else { return };
        let other = self.other(seat);
        let view = self.view(other);
        if half == Half::Main {
            self.pairs[pair].reason.get_or_insert(reason);
        }
        let fate = self.pairs[pair].rules.end(half, reason, has_lost, &view);
        trace!(self, "pair {pair}: {half:?} is over, the other: {fate:?}");
        let Some(other) = other else { return };
        match (fate, self.seats[other].place) {
            (Fate::End, Place::Here(conn)) => self.end_part(conn, reason),
            (Fate::End, Place::Away { .. }) => self.end_away(other, reason),
            (Fate::Bound, Place::Here(conn)) => {
                let until = self.now + self.climate.handshake_timeout;
                self.at(until, Happening::Drained { conn });
                self.mark_dirty(conn);
            }
            (Fate::Follow, Place::Here(conn)) => self.mark_dirty(conn),
            _ => {}
        }
    }

    /// Closes a connection, or gives up the session that it is about to leave behind.
    pub(super) fn end_part(&mut self, conn: usize, reason: CloseReason) {
        match self.conns[conn].phase {
            Phase::Closing { survives: true } => self.conns[conn].is_given_up = true,
            _ => self.close(conn, reason),
        }
    }

    /// What a part leaves is known.
    pub(super) fn part_left(&mut self, seat: usize, remains: Remains) {
        let Some((pair, half)) = self.tie(seat) else { return };
        let Remains { messages_dropped, undelivered } = &remains;
        let owed = &mut self.pairs[pair].owed;
        owed.messages_dropped += messages_dropped;
        owed.undelivered.extend(undelivered.iter().cloned());
        if let Some(both) = self.pairs[pair].rules.leave(half, remains) {
            self.tell(pair, News::Disconnected(both));
        }
    }

    /// Whether a part that is flushed has to wait with its goodbye.
    pub(super) fn waits_for_other(&mut self, seat: usize) -> bool {
        let Some((pair, half)) = self.tie(seat) else { return false };
        let other = self.other(seat);
        let goodbye = self.pairs[pair].rules.goodbye(half, &self.view(other));
        if goodbye == Goodbye::Nudge
            && let Some(other) = other
            && let Place::Here(conn) = self.seats[other].place
        {
            self.mark_dirty(conn);
        }
        if goodbye == Goodbye::Say {
            self.check_goodbye(seat, half, other);
        }
        goodbye != Goodbye::Say
    }

    /// Neither says goodbye before both are flushed, and main says it last.
    fn check_goodbye(&self, seat: usize, half: Half, other: Option<usize>) {
        assert!(self.seats[seat].session.is_flushed(), "goodbye before all is sent");
        let Some(other) = other else { return };
        // What is left of a link that is lost may be a send that the kernel holds.
        let is_away = match self.seats[other].place {
            Place::Here(conn) => self.conns[conn].phase == Phase::Closing { survives: true },
            Place::Away { .. } | Place::Over => true,
        };
        let other = &self.seats[other];
        match half {
            Half::Main => assert_eq!(other.place, Place::Over, "main says goodbye last"),
            Half::Express => {
                assert!(is_away || other.session.is_flushed(), "main still flushes");
            }
        }
    }

    /// The application has enough.
    pub(super) fn disconnect(&mut self, seat: usize) {
        trace!(self, "seat {seat}: disconnects");
        let express = self.other(seat);
        match parting(&self.view(Some(seat)), &self.view(express)) {
            Parting::Both => {
                for seat in [Some(seat), express].into_iter().flatten() {
                    match self.seats[seat].place {
                        Place::Here(conn) => self.drain(conn, DRAIN),
                        Place::Away { .. } => self.end_away(seat, CloseReason::Local),
                        Place::Over => {}
                    }
                }
            }
            Parting::Express => {
                self.report.express_alone += 1;
                self.seats[seat].backoff = None;
                self.seats[seat].retry_at = u64::MAX;
                let express = express.expect("it stands");
                let Place::Here(conn) = self.seats[express].place else {
                    unreachable!("it stands")
                };
                self.drain(conn, DRAIN);
            }
            Parting::Now => match self.seats[seat].place {
                Place::Here(conn) => self.end_part(conn, CloseReason::Local),
                _ => self.end_away(seat, CloseReason::Local),
            },
        }
    }

    /// Stops admitting messages on a connection, and ends it when all has left or time is up.
    fn drain(&mut self, conn: usize, within: u64) {
        let Conn { seat, phase, .. } = self.conns[conn];
        match (phase, self.seats[seat].session.state()) {
            (Phase::Live, State::Open) => {
                self.seats[seat].session.drain();
                self.at(self.now + within, Happening::Drained { conn });
                self.mark_dirty(conn);
            }
            (Phase::Live, State::Greeting) => self.close(conn, CloseReason::Local),
            (Phase::Closing { survives: true }, _) => self.end_part(conn, CloseReason::Local),
            _ => {}
        }
    }

    /// The time of a disconnect is over.
    pub(super) fn on_drained(&mut self, conn: usize) {
        if self.conns[conn].phase == Phase::Live {
            let reason = match self.seats[self.conns[conn].seat].session.state() {
                State::Finishing => CloseReason::Local,
                _ => CloseReason::DrainTimeout,
            };
            self.close(conn, reason);
        }
    }

    // What is told.

    fn tell(&mut self, pair: usize, news: News) {
        let Duo { main, express, .. } = self.pairs[pair];
        trace!(self, "pair {pair} of node {}: {news:?}", self.pairs[pair].node);
        if self.pairs[pair].is_dead {
            return;
        }
        assert!(!self.pairs[pair].told.is_over, "told after the end: {news:?}");
        if matches!(news, News::Connected) {
            self.check_connected(pair, main, express);
        }
        let told = &mut self.pairs[pair].told;
        let stood = told.connected > 0;
        match news {
            News::Connected => {
                assert!(!stood || told.anew, "connected twice");
                (told.connected, told.anew, told.is_up) = (told.connected + 1, false, [true; 2]);
                self.report.paired += 1;
            }
            News::LinkLost(half) => {
                assert!(stood, "lost before it was there");
                let was_up = std::mem::replace(&mut told.is_up[half as usize], false);
                assert!(was_up || told.anew, "{half:?} is lost twice");
                self.report.halves_lost += 1;
            }
            News::Resumed(half) => {
                let was_up = std::mem::replace(&mut told.is_up[half as usize], true);
                assert!(!was_up, "{half:?} is back without having been lost");
                self.report.halves_resumed += 1;
            }
            News::Anew(half) => {
                assert!(stood, "begun anew before it was there");
                (told.anew, told.is_up[half as usize]) = (true, true);
                self.report.halves_anew += 1;
            }
            News::Disconnected(remains) => {
                told.is_over = true;
                self.report.pairs_ended += 1;
                self.check_farewell(pair, &remains);
            }
        }
    }

    /// Both connections really are there, and lead to one session of one peer.
    fn check_connected(&self, pair: usize, main: usize, express: Option<usize>) {
        let express = express.expect("express has joined");
        let peers = [main, express].map(|seat| {
            let Place::Here(conn) = self.seats[seat].place else {
                panic!("pair {pair} is said to stand, and seat {seat} has no connection")
            };
            let Conn { link, side, .. } = self.conns[conn];
            let other = self.links[link].ends[1 - side].expect("established");
            self.conns[other].seat
        });
        let [of_main, of_express] = peers.map(|seat| self.tie(seat).map(|(pair, _)| pair));
        assert_eq!(of_main, of_express, "pair {pair} stands with two peers");
    }

    /// All that the parts have left is told, in order.
    fn check_farewell(&self, pair: usize, remains: &Remains) {
        let Duo { owed, main, express, .. } = &self.pairs[pair];
        for seat in [Some(*main), *express].into_iter().flatten() {
            assert_eq!(self.seats[seat].place, Place::Over, "told before it is over");
        }
        assert_eq!(remains.messages_dropped, owed.messages_dropped, "messages dropped");
        assert_eq!(remains.undelivered.len(), owed.undelivered.len(), "undelivered messages");
        let is_in_order = remains.undelivered.is_sorted_by_key(|message| message.priority);
        assert!(is_in_order, "lane by lane");
        self.pairs_undelivered_match(&owed.undelivered, &remains.undelivered);
    }

    fn pairs_undelivered_match(&self, owed: &[Undelivered], told: &[Undelivered]) {
        for lane in Priority::ALL {
            let of = |list: &[Undelivered]| {
                let of_lane = list.iter().filter(|message| message.priority == lane);
                of_lane.map(|message| number_of(&message.payload)).collect::<Vec<_>>()
            };
            assert_eq!(of(told), of(owed), "{lane:?}: each in its order");
        }
    }

    /// The two connections of a session lead to one peer, whichever of them has found it first.
    pub(super) fn check_peers(&self) {
        let is_here = |seat: usize| matches!(self.seats[seat].place, Place::Here(_));
        let pairs = self.pairs.iter().enumerate().filter(|(_, duo)| is_here(duo.main));
        for (index, duo) in pairs {
            let stands = |seat: usize| self.view(Some(seat)).stands();
            let Some(express) = duo.express.filter(|&seat| stands(seat) && stands(duo.main)) else {
                continue;
            };
            let peer = |seat: usize| self.seats[seat].session.peer().map(|peer| peer.session_id);
            let expected = peer(duo.main).map(SessionId::companion);
            assert_eq!(peer(express), expected, "pair {index}: two peers at once");
        }
    }

    /// When all is settled, neither part is over while the other goes on, and what was told is so.
    pub(super) fn check_settled_pairs(&self) {
        for (index, duo) in self.pairs.iter().enumerate().filter(|(_, duo)| !duo.is_dead) {
            let is_over = |seat: usize| self.seats[seat].place == Place::Over;
            let main_is_over = is_over(duo.main);
            if let Some(express) = duo.express {
                assert_eq!(is_over(express), main_is_over, "pair {index}: half is over");
            }
            assert_eq!(duo.told.is_over, main_is_over, "pair {index}: the end is told");
            let stands = !main_is_over
                && duo.told.connected > 0
                && !duo.told.anew
                && duo.told.is_up == [true; 2];
            assert_eq!(stands, !main_is_over, "pair {index}: {:?}", duo.told);
        }
    }

    /// Whether no pair waits for one of its parts.
    pub(super) fn pairs_are_quiet(&self) -> bool {
        self.pairs.iter().filter(|duo| !duo.is_dead).all(|duo| {
            let is_over = |seat: usize| self.seats[seat].place == Place::Over;
            let parts_agree = duo.express.is_none_or(|seat| is_over(seat) == is_over(duo.main));
            parts_agree && (is_over(duo.main) || duo.rules.is_complete())
        })
    }

    /// At the very end each session has been told to be over, once.
    pub(super) fn check_farewells(&self) {
        for (index, duo) in self.pairs.iter().enumerate().filter(|(_, duo)| !duo.is_dead) {
            assert!(duo.told.is_over && duo.rules.is_told(), "pair {index} never ended: {duo:?}");
        }
    }
}

//! Sessions with two connections: the *main* part carries the lanes up to normal, the *express*
//! part high and critical ones.
//!
//! To the application they are one session with one [`ConnectionId`], that of the main part. Below,
//! each part is a [`Session`](crate::session::Session) of its own: it has its own link, is lost,
//! kept and resumed by itself, and since no lane ever changes links, sequences and confirmations
//! know nothing of it. The ids on the wire belong together: see [`SessionId::companion`].
//!
//! What the one part has to do with the other is decided in `session/pair.rs`. This file makes and
//! closes the connections, says how each part stands, and publishes what is told.
//!
//! # Invariants
//!
//! - A message of an express lane is never queued in the main part of such a session: before the
//!   express part is there it is refused.
//! - The rules of a session stay until both of its parts are gone.

use slotmap::{SecondaryMap, SlotMap, new_key_type};

use crate::endpoint::Address;
use crate::error::{CloseReason, SendError};
use crate::reactor::connection::{After, ConnectionId, ConnectionKey, Phase, Route};
use crate::reactor::core::Core;
use crate::reactor::sessions::{Home, SessionKey, backoff_policy, of_the_application};
use crate::reactor::{ConnectionInfo, ConnectionState, Event, EventKind, Link};
use crate::session::Part;
use crate::session::backoff::Backoff;
use crate::session::pair::{
    Fate, Goodbye, Half, Next, Pair, Place, Remains, View, half_of, is_foreign, is_peer_of_both,
    may_leave_alone,
};
use crate::session::state::State;
use crate::sys::socket;
use crate::time::Nanos;
use crate::wire::Priority;
use crate::wire::handshake::SessionId;

new_key_type! {
    struct PairKey;
}

/// Bytes that the kernel may hold unsent of what is not urgent, where the configuration says
/// nothing. More of them go out in bursts, in which both ends' processors have no time for anything
/// else: without a bound the p99 of a critical round trip beside 1 MiB messages was 2.7 times that
/// without them, with this one 1.6 times, at four fifths of their rate.
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// Where the other part of a session is. A look-up tells which part carries a lane.
#[derive(Debug, Clone, Copy)]
enum Tie {
    Main { express: Option<SessionKey>, pair: PairKey },
    Express { main: SessionKey, pair: PairKey },
}

impl Tie {
    fn pair(self) -> PairKey {
        let (Self::Main { pair, .. } | Self::Express { pair, .. }) = self;
        pair
    }

    fn half(self) -> Half {
        match self {
            Self::Main { .. } => Half::Main,
            Self::Express { .. } => Half::Express,
        }
    }

    fn other(self) -> Option<SessionKey> {
        match self {
            Self::Main { express, .. } => express,
            Self::Express { main, .. } => Some(main),
        }
    }
}

/// The rules of a session with two parts, until both are gone.
#[derive(Debug, Default)]
struct Record {
    pair: Pair,
    /// How many ties lead here.
    parts: u8,
    /// That the session is over, until what both parts leave is known.
    farewell: Option<Event>,
}

/// The sessions of a reactor that have two parts.
#[derive(Debug)]
pub(crate) struct Pairs {
    of: SecondaryMap<SessionKey, Tie>,
    records: SlotMap<PairKey, Record>,
}

impl Pairs {
    pub(crate) fn with_capacity(homes_max: usize) -> Self {
        Self {
            of: SecondaryMap::with_capacity(homes_max),
            records: SlotMap::with_capacity_and_key(homes_max),
        }
    }

    /// Whether no session has two parts.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// What the application calls the session of a part.
    #[inline]
    pub(crate) fn public(&self, home: SessionKey) -> SessionKey {
        match self.of.get(home) {
            Some(&Tie::Express { main, .. }) => main,
            _ => home,
        }
    }

    pub(crate) fn is_express(&self, home: SessionKey) -> bool {
        matches!(self.of.get(home), Some(Tie::Express { .. }))
    }

    /// The express part of a session.
    pub(crate) fn express_of(&self, main: SessionKey) -> Option<SessionKey> {
        match self.of.get(main) {
            Some(&Tie::Main { express, .. }) => express,
            _ => None,
        }
    }

    /// The part that carries a lane. `None` while it is not there. Hot path: one look-up.
    #[inline]
    pub(crate) fn carrier(&self, main: SessionKey, lane: Priority) -> Option<SessionKey> {
        match self.of.get(main) {
            Some(&Tie::Main { express, .. }) if half_of(lane) == Half::Express => express,
            _ => Some(main),
        }
    }

    /// Whether the application knows the session as connected, as far as its parts are concerned.
    pub(crate) fn is_complete(&self, home: SessionKey) -> bool {
        match self.of.get(home) {
            Some(Tie::Main { pair, .. }) => self.records[*pair].pair.is_complete(),
            _ => true,
        }
    }

    /// Whether a session is known to have two parts.
    pub(crate) fn is_tied(&self, home: SessionKey) -> bool {
        self.of.contains_key(home)
    }

    /// Whether a part may outlive its connection.
    pub(crate) fn may_survive(&self, home: SessionKey) -> bool {
        self.rules(home).is_none_or(Pair::may_survive)
    }

    /// Forgets a part whose place is free again.
    pub(crate) fn remove(&mut self, home: SessionKey) {
        let Some(tie) = self.of.remove(home) else { return };
        let record = &mut self.records[tie.pair()];
        record.parts -= 1;
        if record.parts == 0 {
            self.records.remove(tie.pair());
        }
    }

    /// The rules of a session, by one of its parts.
    fn rules(&self, home: SessionKey) -> Option<&Pair> {
        self.of.get(home).map(|tie| &self.records[tie.pair()].pair)
    }

    /// The rules of a session, and how one of its parts is tied to the other.
    fn tied(&mut self, home: SessionKey) -> Option<(Tie, &mut Record)> {
        let tie = *self.of.get(home)?;
        Some((tie, &mut self.records[tie.pair()]))
    }

    fn insert_main(&mut self, main: SessionKey) {
        let pair = self.records.insert(Record { parts: 1, ..Record::default() });
        self.of.insert(main, Tie::Main { express: None, pair });
    }

    fn insert_express(&mut self, main: SessionKey, express: SessionKey) {
        let Some(Tie::Main { express: place, pair }) = self.of.get_mut(main) else {
            unreachable!("express joins a main part")
        };
        *place = Some(express);
        let pair = *pair;
        let record = &mut self.records[pair];
        record.pair.join();
        record.parts += 1;
        self.of.insert(express, Tie::Express { main, pair });
    }
}

impl Core {
    /// The part of a session that carries a lane. Hot path: once per message; a look-up for express
    /// lanes where any session has two parts.
    #[inline]
    pub(crate) fn for_lane(
        &self,
        id: ConnectionId,
        lane: Priority,
    ) -> Result<ConnectionId, SendError> {
        let is_split = lane.is_express() && !self.pairs.is_empty();
        if is_split { self.for_express_lane(id, lane) } else { Ok(id) }
    }

    fn for_express_lane(
        &self,
        id: ConnectionId,
        lane: Priority,
    ) -> Result<ConnectionId, SendError> {
        if id.reactor != self.reactor {
            return Err(SendError::NotConnected);
        }
        let key = self.pairs.carrier(id.key, lane).ok_or(SendError::NotConnected)?;
        Ok(ConnectionId { key, ..id })
    }

    /// Which of the session's links a part has.
    pub(crate) fn link(&self, home: SessionKey) -> Link {
        if self.pairs.is_express(home) { Link::Express } else { Link::Main }
    }

    /// A session that is being dialled is to have two parts.
    pub(crate) fn plan_pair(&mut self, key: ConnectionKey) {
        let session = &mut self.connections[key].session;
        session.set_part(Part::Main, session.id());
        self.pairs.insert_main(self.connections[key].home);
    }

    /// The main part has been told by its peer whether there will be two.
    pub(crate) fn main_established(&mut self, key: ConnectionKey) {
        let connection = &self.connections[key];
        let home = connection.home;
        match (connection.session.part(), self.pairs.of.get(home)) {
            (Part::Whole, Some(_)) => self.pairs.remove(home),
            (Part::Main, None) => self.pairs.insert_main(home),
            _ => {}
        }
        let session = &self.connections[key].session;
        if session.part() != Part::Main {
            return;
        }
        if self.config.tcp_notsent_lowat_bytes() == 0 {
            socket::bound_unsent(&self.connections[key].socket, UNSENT_BYTES_MAX);
        }
        let role = session.role();
        if !self.pairs.is_complete(home) {
            self.connections[key].session.hold();
        }
        let express = self.pairs.express_of(home);
        let view = self.view_of(express);
        let rules = self.pairs.rules(home).expect("a main part is tied");
        match rules.main_established(role, &view) {
            Next::Nothing => {}
            Next::Dial => {
                let route = self.connections[key].route.as_ref().expect("a side that dials");
                let target = route.target.clone();
                self.dial_express(key, home, &target);
            }
            Next::Hurry => self.dial_soon(express.expect("it has been there")),
            Next::Await => {
                let connection = &mut self.connections[key];
                connection.is_incomplete = true;
                connection.state_deadline = self.now + self.config.handshake_timeout();
                self.set_deadline(key);
            }
            Next::Drain => self.drain(key, self.now + self.config.handshake_timeout()),
        }
    }

    /// How a part stands.
    pub(crate) fn view(&self, home: SessionKey) -> View {
        let connection = match self.homes.get(home) {
            Some(Home::Away(away)) => return View::new(away.session(), Place::Away),
            Some(&Home::Here(key)) => self.connections.get(key),
            None => None,
        };
        let Some(connection) = connection else { return View::ABSENT };
        let place = match connection.phase {
            Phase::Live if connection.is_established() => Place::Here,
            Phase::Connecting { .. } | Phase::Live => Place::Making,
            // What is left of the connection is a send that the kernel holds.
            Phase::Closing { session: After::Away, .. } => Place::Away,
            Phase::Departed { .. } | Phase::Closing { .. } => Place::Leaving,
        };
        View::new(&connection.session, place)
    }

    fn view_of(&self, part: Option<SessionKey>) -> View {
        part.map_or(View::ABSENT, |home| self.view(home))
    }

    /// How the main part of a session stands, and how express does.
    pub(crate) fn views(&self, main: SessionKey) -> (View, View) {
        (self.view(main), self.view_of(self.pairs.express_of(main)))
    }

    /// The connection of a session's express part, where that could carry messages and main is
    /// away.
    pub(crate) fn express_alone(&self, main: SessionKey) -> Option<ConnectionKey> {
        let (main_view, express_view) = self.views(main);
        let express = self.pairs.express_of(main)?;
        if may_leave_alone(&main_view, &express_view) { self.standing(express) } else { None }
    }

    /// Main has a new peer: an express connection to the old one is not of this session any more.
    pub(crate) fn drop_foreign_express(&mut self, home: SessionKey) {
        let Some(express) = self.pairs.express_of(home) else { return };
        if is_foreign(&self.view(home), &self.view(express))
            && let Some(key) = self.standing(express)
        {
            self.close(key, CloseReason::Superseded);
        }
    }

    fn dial_express(&mut self, main_key: ConnectionKey, main: SessionKey, target: &Address) {
        let key = match self.dial_for(target) {
            Ok(key) => key,
            Err(failure) => {
                let reason = CloseReason::from(failure);
                tracing::info!(%reason, "cannot dial the express connection");
                self.close(main_key, reason);
                return;
            }
        };
        let id = self.connections[main_key].session.id().companion();
        let home = self.new_home(key);
        let connection = &mut self.connections[key];
        connection.session.set_part(Part::Express, id);
        let backoff = Backoff::new(backoff_policy(&self.config));
        connection.route = Some(Box::new(Route { target: target.clone(), backoff }));
        self.pairs.insert_express(main, home);
        self.set_home(key, home);
    }

    /// The main part that a hello of a second connection belongs to.
    pub(crate) fn main_for(&self, peer_main: SessionId) -> Option<SessionKey> {
        let main = *self.by_peer.get(&peer_main)?;
        let is_main = matches!(self.pairs.of.get(main), Some(Tie::Main { .. }));
        let rules = self.pairs.rules(main).filter(|_| is_main)?;
        rules.awaits_express().then_some(main)
    }

    /// Makes a connection whose hello is being answered the express part of a session. Returns
    /// whether it still had none.
    pub(crate) fn join(&mut self, key: ConnectionKey, main: SessionKey) -> bool {
        if !self.pairs.rules(main).is_some_and(Pair::may_join) {
            return false;
        }
        let Some(id) = self.session_mut(main).map(|session| session.id().companion()) else {
            return false;
        };
        let home = self.connections[key].home;
        self.connections[key].session.set_part(Part::Express, id);
        self.pairs.insert_express(main, home);
        self.set_home(key, home);
        true
    }

    /// Whether a welcome on the express connection comes from where main has its peer.
    pub(crate) fn is_of_mains_peer(&mut self, home: SessionKey, peer: SessionId) -> bool {
        let main = self.pairs.public(home);
        let main_peer = self.session_mut(main).and_then(|session| session.peer());
        is_peer_of_both(main_peer.map(|peer| peer.session_id), peer)
    }

    /// The peer has lost its end of a part: the session is complete when both have begun anew.
    pub(crate) fn begin_anew(&mut self, home: SessionKey) {
        if let Some((_, record)) = self.pairs.tied(home) {
            record.pair.begin_anew();
        }
    }

    /// Tells that a session stands, once both of its parts do.
    pub(crate) fn announce_if_complete(&mut self, home: SessionKey) {
        let main = self.pairs.public(home);
        let (main_view, express_view) = self.views(main);
        let Some(main_key) = self.standing(main) else { return };
        let Some((_, record)) = self.pairs.tied(main) else { return };
        if !record.pair.complete(&main_view, &express_view) {
            return;
        }
        self.connections[main_key].state_deadline = Nanos::NEVER;
        self.connections[main_key].is_incomplete = false;
        let session = &mut self.connections[main_key].session;
        session.release();
        session.watchdog.start(self.now);
        self.set_session_deadline(main);
        self.set_deadline(main_key);
        self.mark_dirty(main_key);
        self.count_active(main_key);
        self.tell_connected(main_key);
    }

    /// The connection of a part that is established.
    fn standing(&self, home: SessionKey) -> Option<ConnectionKey> {
        let &Home::Here(key) = self.homes.get(home)? else { return None };
        let connection = self.connections.get(key)?;
        (connection.is_live() && connection.is_established()).then_some(key)
    }

    /// Ends the other part of a session when one has ended for good. `has_lost`: with messages that
    /// it had not delivered.
    #[cold]
    pub(crate) fn part_ended(&mut self, home: SessionKey, reason: CloseReason, has_lost: bool) {
        let Some(tie) = self.pairs.of.get(home).copied() else { return };
        let view = self.view_of(tie.other());
        // Its main part may be gone, and the tie with it; the rules stay until both are.
        let pair = &mut self.pairs.records[tie.pair()].pair;
        let fate = pair.end(tie.half(), reason, has_lost, &view);
        let Some(other) = tie.other() else { return };
        let here = match self.homes.get(other) {
            Some(&Home::Here(key)) => Some(key),
            _ => None,
        };
        match (fate, here) {
            (Fate::Nothing, _) => {}
            // Its link is gone already, and its last send may still be in the kernel.
            (Fate::End, Some(key)) if self.connections[key].survives() => self.give_up(key),
            (Fate::End, Some(key)) if self.is_gone_with_unread(key, reason) => self.bound_end(key),
            (Fate::End, Some(key)) => self.close(key, reason),
            (Fate::End, None) => self.end_away(other, reason),
            (Fate::Bound, Some(key)) => self.bound_end(key),
            (Fate::Follow, Some(key)) => self.mark_dirty(key),
            (Fate::Bound | Fate::Follow, None) => {}
        }
    }

    /// A connection is to end by itself; it has the time of a handshake for it, and as long as
    /// there is something to read.
    fn bound_end(&mut self, key: ConnectionKey) {
        let limit = self.now + self.config.handshake_timeout();
        let connection = &mut self.connections[key];
        connection.state_deadline = connection.state_deadline.min(limit);
        connection.awaits_goodbye = true;
        self.set_deadline(key);
        self.mark_dirty(key);
    }

    /// Whether the peer has gone for good, without a goodbye, and this connection holds what came
    /// before that and is not handled yet.
    fn is_gone_with_unread(&self, key: ConnectionKey, reason: CloseReason) -> bool {
        let connection = &self.connections[key];
        matches!(reason, CloseReason::PeerClosed | CloseReason::Socket { .. })
            && !connection.session.resumes(&self.identity)
            && !self.life.is_closing()
            && match connection.phase {
                Phase::Departed { .. } => true,
                Phase::Live => connection.pause.is_some() || connection.window.has_unparsed(),
                Phase::Connecting { .. } | Phase::Closing { .. } => false,
            }
    }

    /// Whether a part that is draining and flushed has to wait for the other before its goodbye.
    #[cold]
    pub(crate) fn waits_for_other(&mut self, home: SessionKey) -> bool {
        let Some(tie) = self.pairs.of.get(home).copied() else { return false };
        let view = self.view_of(tie.other());
        match self.pairs.records[tie.pair()].pair.goodbye(tie.half(), &view) {
            Goodbye::Say => false,
            Goodbye::Wait => true,
            Goodbye::Nudge => {
                if let Some(&Home::Here(key)) = tie.other().and_then(|other| self.homes.get(other))
                {
                    self.mark_dirty(key);
                }
                true
            }
        }
    }

    /// Tells how a session ended: what is reliable and was not confirmed, and that it is over; of
    /// one with two parts when it is known what both leave.
    pub(crate) fn say_farewell(
        &mut self,
        home: SessionKey,
        reason: CloseReason,
        established: bool,
        remains: Remains,
    ) {
        self.troubles.tell_rest();
        let kind = EventKind::Disconnected { reason, established, messages_dropped: 0 };
        let Some(tie) = self.pairs.of.get(home).copied() else {
            let event = self.event_for(home, kind);
            return self.publish_end(event, remains);
        };
        let event = match tie.half() {
            Half::Main => Some(self.event_for(home, kind)),
            Half::Express => None,
        };
        let record = &mut self.pairs.records[tie.pair()];
        record.farewell = event.or(record.farewell.take());
        if let Some(remains) = record.pair.leave(tie.half(), remains) {
            let event = record.farewell.take().expect("main has ended");
            self.publish_end(event, remains);
        }
    }

    fn publish_end(&mut self, mut event: Event, remains: Remains) {
        let Remains { messages_dropped: dropped, undelivered } = remains;
        if let EventKind::Disconnected { messages_dropped, .. } = &mut event.kind {
            *messages_dropped = dropped;
        }
        self.tell_drops_of(&event);
        let undelivered = of_the_application(undelivered);
        if !undelivered.is_empty() {
            let kind = EventKind::SessionLost { undelivered, omitted: 0 };
            self.publish(Event { kind, ..event.clone() });
        }
        self.publish(event);
    }

    /// Where a session stands, with all its parts.
    pub(crate) fn state_of_both(&self, main: SessionKey) -> ConnectionState {
        let state = self.state_of(main);
        match self.pairs.rules(main) {
            Some(rules) => {
                let express = self.pairs.express_of(main).map(|express| self.state_of(express));
                rules.state(state, express)
            }
            None => state,
        }
    }

    /// Where one part of a session stands.
    fn state_of(&self, home: SessionKey) -> ConnectionState {
        let id = ConnectionId { reactor: self.reactor, key: home };
        if self.is_away(id) {
            return ConnectionState::Reconnecting;
        }
        let Ok(key) = self.key(id) else { return ConnectionState::Disconnected };
        let connection = &self.connections[key];
        match (connection.phase, connection.session.state()) {
            (Phase::Departed { .. }, _) => ConnectionState::Closing,
            (Phase::Closing { .. }, _) | (_, State::Ended) => ConnectionState::Disconnected,
            (Phase::Connecting { .. }, _) | (_, State::Greeting) => ConnectionState::Connecting,
            (_, State::Open) => ConnectionState::Connected,
            (_, State::Down) => ConnectionState::Reconnecting,
            (_, State::Draining | State::Finishing) => ConnectionState::Closing,
        }
    }

    /// The connections of a session.
    pub(crate) fn links(&self, id: ConnectionId) -> Vec<ConnectionKey> {
        let express = self.pairs.express_of(id.key);
        let parts = [Some(id.key), express].into_iter().flatten();
        let keys = parts.filter_map(|key| self.key(ConnectionId { key, ..id }).ok());
        keys.filter(|&key| self.connections.contains_key(key)).collect()
    }

    /// Adds what is known of the express part's connection to what is known of the main part.
    pub(crate) fn add_express(&self, main: SessionKey, info: &mut ConnectionInfo) {
        let Some(express) = self.pairs.express_of(main) else { return };
        if let Some(&Home::Here(key)) = self.homes.get(express)
            && let Some(connection) = self.connections.get(key)
        {
            info.messages_received += connection.messages_received;
            info.last_activity = info.last_activity.max(connection.last_activity);
        }
        info.express = Some(self.state_of(express));
    }
}

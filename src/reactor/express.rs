//! Sessions with two connections: the *main* part carries the lanes up to normal, the *express*
//! part high and critical ones.
//!
//! To the application they are one session with one [`ConnectionId`], that of the main part. Below,
//! each part is a [`Session`] of its own: it has its own link, is lost, kept and resumed by itself,
//! and since no lane ever changes links, sequences and confirmations know nothing of it. The ids on
//! the wire belong together: see [`SessionId::companion`](crate::wire::handshake::SessionId).
//!
//! ```text
//!   main established ──▶ the dialling side makes the express connection ──▶ both stand: Connected
//!   one link lost    ──▶ LinkLost, Reconnecting, Resumed of that link; the other goes on
//!   one part over    ──▶ the other is over, for the same reason
//!   disconnect       ──▶ both flush; express says goodbye first, then main
//! ```
//!
//! # Invariants
//!
//! - A message of an express lane is never queued in the main part of such a session: before the
//!   express part is there it is refused.
//! - `Connected` and `Disconnected` are told once, for both; what express had not delivered is told
//!   with main.

use slotmap::SecondaryMap;

use crate::endpoint::Address;
use crate::error::{CloseReason, SendError};
use crate::reactor::connection::{Connection, ConnectionId, ConnectionKey, Phase, Route};
use crate::reactor::core::Core;
use crate::reactor::sessions::{Home, SessionKey, backoff_policy};
use crate::reactor::{ConnectionInfo, ConnectionState, Event, EventKind, Link};
use crate::session::backoff::Backoff;
use crate::session::state::State;
use crate::session::{Part, Session, Undelivered};
use crate::sys::socket;
use crate::time::Nanos;
use crate::wire::Priority;
use crate::wire::handshake::SessionId;

/// What a part of a session knows of the other.
#[derive(Debug)]
enum Pair {
    Main {
        express: Option<SessionKey>,
        /// The application knows that both stand.
        is_announced: bool,
        /// It has known it before.
        was_announced: bool,
        is_over: bool,
        /// What express left when it ended.
        remains: Remains,
    },
    Express {
        main: SessionKey,
        is_over: bool,
        /// What it leaves has been told.
        is_reported: bool,
    },
}

/// Bytes that the kernel may hold unsent of what is not urgent, where the configuration says
/// nothing. More of them go out in bursts, in which both ends' processors have no time for anything
/// else: without a bound the p99 of a critical round trip beside 1 MiB messages was 2.7 times that
/// without them, with this one 1.6 times, at four fifths of their rate.
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// What a part had not delivered when it ended.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) messages_dropped: u64,
    pub(crate) undelivered: Vec<Undelivered>,
}

/// The end of a main part that waits to be told until it is known what express leaves.
#[derive(Debug)]
struct Farewell {
    main: SessionKey,
    express: SessionKey,
    event: Event,
    undelivered: Vec<Undelivered>,
}

/// The sessions of a reactor that have two parts.
#[derive(Debug)]
pub(crate) struct Pairs {
    of: SecondaryMap<SessionKey, Pair>,
    farewells: Vec<Farewell>,
}

impl Pairs {
    pub(crate) fn with_capacity(homes_max: usize) -> Self {
        Self { of: SecondaryMap::with_capacity(homes_max), farewells: Vec::new() }
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
            Some(&Pair::Express { main, .. }) => main,
            _ => home,
        }
    }

    pub(crate) fn is_express(&self, home: SessionKey) -> bool {
        matches!(self.of.get(home), Some(Pair::Express { .. }))
    }

    /// The express part of a session.
    pub(crate) fn express_of(&self, main: SessionKey) -> Option<SessionKey> {
        match self.of.get(main) {
            Some(&Pair::Main { express, .. }) => express,
            _ => None,
        }
    }

    /// The part that carries a lane. `None` while it is not there.
    pub(crate) fn carrier(&self, main: SessionKey, lane: Priority) -> Option<SessionKey> {
        match self.of.get(main) {
            Some(&Pair::Main { express, .. }) if lane.is_express() => express,
            _ => Some(main),
        }
    }

    /// Whether the application knows the session as connected, as far as its parts are concerned.
    pub(crate) fn is_complete(&self, home: SessionKey) -> bool {
        !matches!(self.of.get(home), Some(Pair::Main { is_announced: false, .. }))
    }

    /// Whether a part may outlive its connection: not before the session was complete once.
    pub(crate) fn may_survive(&self, home: SessionKey) -> bool {
        let main = self.public(home);
        !matches!(self.of.get(main), Some(Pair::Main { was_announced: false, .. }))
    }

    /// Forgets a part whose place is free again.
    pub(crate) fn remove(&mut self, home: SessionKey) {
        self.of.remove(home);
    }

    fn insert_main(&mut self, main: SessionKey) {
        let pair = Pair::Main {
            express: None,
            is_announced: false,
            was_announced: false,
            is_over: false,
            remains: Remains::default(),
        };
        self.of.insert(main, pair);
    }

    fn insert_express(&mut self, main: SessionKey, express: SessionKey) {
        self.of.insert(express, Pair::Express { main, is_over: false, is_reported: false });
        match self.of.get_mut(main) {
            Some(Pair::Main { express: place, .. }) => *place = Some(express),
            _ => unreachable!("express joins a main part"),
        }
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
        if id.reactor != self.index {
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
        if connection.session.part() != Part::Main {
            return;
        }
        if self.config.tcp_notsent_lowat_bytes() == 0 {
            socket::bound_unsent(&connection.socket, UNSENT_BYTES_MAX);
        }
        let target = self.connections[key].route.as_ref().map(|route| route.target.clone());
        match (self.pairs.express_of(home), target) {
            (None, Some(target)) => self.dial_express(key, home, &target),
            // Both were to end, and main was away.
            (Some(express), _) if self.is_leaving(express) => {
                self.drain(key, self.now + self.config.handshake_timeout());
            }
            // The peer may have come back for both.
            (Some(express), Some(_)) => self.dial_soon(express),
            (None, None) => {
                let connection = &mut self.connections[key];
                connection.is_incomplete = true;
                connection.state_deadline = self.now + self.config.handshake_timeout();
                self.set_deadline(key);
            }
            (Some(_), None) => {}
        }
    }

    /// Whether a part has ended, or is about to in order.
    fn is_leaving(&mut self, express: SessionKey) -> bool {
        let is_over =
            matches!(self.pairs.of.get(express), Some(Pair::Express { is_over: true, .. }));
        let state = self.session_mut(express).map(|session| session.state());
        is_over || !matches!(state, Some(State::Open | State::Down | State::Greeting))
    }

    /// The connection of a session's express part, where that could carry messages and main is
    /// away.
    pub(crate) fn express_alone(&self, main: SessionKey) -> Option<ConnectionKey> {
        let is_away = matches!(self.homes.get(main), Some(Home::Away(_)));
        let express = self.pairs.express_of(main).filter(|_| is_away)?;
        let key = self.standing(express)?;
        let is_open = matches!(
            self.connections[key].session.state(),
            State::Open | State::Draining | State::Finishing
        );
        is_open.then_some(key)
    }

    /// Main has a new peer: an express connection to the old one is not of this session any more.
    pub(crate) fn drop_foreign_express(&mut self, home: SessionKey) {
        let Some(express) = self.pairs.express_of(home) else { return };
        let peer = self.session_mut(express).and_then(|session| session.peer());
        let Some(peer) = peer.map(|peer| peer.session_id) else { return };
        if !self.is_of_mains_peer(express, peer)
            && let Some(key) = self.standing(express)
        {
            self.close(key, CloseReason::Superseded);
        }
    }

    fn dial_express(&mut self, main_key: ConnectionKey, main: SessionKey, target: &Address) {
        let key = match self.dial_for(target) {
            Ok(key) => key,
            Err(failure) => {
                tracing::info!(?failure, "cannot dial the express connection");
                self.close(main_key, CloseReason::ConnectionLimit);
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
        matches!(self.pairs.of.get(main), Some(Pair::Main { is_over: false, .. })).then_some(main)
    }

    /// Makes a connection whose hello is being answered the express part of a session. Returns
    /// whether it still had none.
    pub(crate) fn join(&mut self, key: ConnectionKey, main: SessionKey) -> bool {
        if self.pairs.express_of(main).is_some() {
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
        let session = self.session_mut(main).and_then(|session| session.peer());
        session.is_some_and(|main_peer| main_peer.session_id.companion() == peer)
    }

    /// The peer has lost its end of a part: the session is complete when both have begun anew.
    pub(crate) fn begin_anew(&mut self, home: SessionKey) {
        let main = self.pairs.public(home);
        if let Some(Pair::Main { is_announced, .. }) = self.pairs.of.get_mut(main) {
            *is_announced = false;
        }
    }

    /// Tells that a session stands, once both of its parts do.
    pub(crate) fn announce_if_complete(&mut self, home: SessionKey) {
        let main = self.pairs.public(home);
        let Some(&Pair::Main { express: Some(express), is_announced: false, .. }) =
            self.pairs.of.get(main)
        else {
            return;
        };
        let (Some(main_key), Some(_)) = (self.standing(main), self.standing(express)) else {
            return;
        };
        let Some(peer) = self.session_mut(express).and_then(|session| session.peer()) else {
            return;
        };
        let peer = peer.session_id;
        if !self.is_of_mains_peer(express, peer) {
            return;
        }
        if let Some(Pair::Main { is_announced, was_announced, .. }) = self.pairs.of.get_mut(main) {
            (*is_announced, *was_announced) = (true, true);
        }
        self.connections[main_key].state_deadline = Nanos::NEVER;
        self.connections[main_key].is_incomplete = false;
        self.set_deadline(main_key);
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
        let (other, is_express) = match self.pairs.of.get_mut(home) {
            Some(Pair::Main { express, is_over: is_over @ false, .. }) => {
                *is_over = true;
                (*express, false)
            }
            Some(Pair::Express { main, is_over: is_over @ false, .. }) => {
                *is_over = true;
                (Some(*main), true)
            }
            _ => return,
        };
        let Some(other) = other else { return };
        if let Some(Pair::Main { is_over: true, .. } | Pair::Express { is_over: true, .. }) =
            self.pairs.of.get(other)
        {
            // This is the end that it has asked for.
            return;
        }
        let in_order = matches!(reason, CloseReason::Local | CloseReason::Goodbye);
        // A part that was flushed takes nothing from one that is still flushing.
        let goes_on = in_order || (!has_lost && self.is_flushing(other));
        if goes_on && is_express {
            self.express_left(other, reason);
            return;
        }
        if goes_on && self.is_flushing(other) {
            return;
        }
        match self.homes.get(other) {
            // Its link is gone already, and its last send may still be in the kernel.
            Some(&Home::Here(key)) if self.connections[key].survives => self.give_up(key),
            Some(&Home::Here(key)) => self.close(key, reason),
            Some(Home::Away(_)) => self.end_away(other, reason),
            None => {}
        }
    }

    /// Whether a part that has its link leaves as soon as what it holds has left.
    fn is_flushing(&self, home: SessionKey) -> bool {
        self.standing(home).is_some_and(|key| {
            let state = self.connections[key].session.state();
            matches!(state, State::Draining | State::Finishing)
        })
    }

    /// Express has ended in order: main is to follow.
    fn express_left(&mut self, main: SessionKey, reason: CloseReason) {
        let key = match self.homes.get(main) {
            Some(&Home::Here(key)) => key,
            Some(Home::Away(_)) => return self.end_away(main, reason),
            None => return,
        };
        let connection = &mut self.connections[key];
        if connection.is_live() && connection.session.state() == State::Open {
            // Its goodbye is on the way.
            let limit = self.now + self.config.handshake_timeout();
            connection.state_deadline = connection.state_deadline.min(limit);
            self.set_deadline(key);
        }
        self.mark_dirty(key);
    }

    /// Whether a part that is draining and flushed has to wait for the other before its goodbye.
    /// Both flush before either says it, and main says it last.
    #[cold]
    pub(crate) fn waits_for_other(&mut self, home: SessionKey) -> bool {
        let Some(pair) = self.pairs.of.get(home) else { return false };
        match *pair {
            Pair::Main { express: Some(express), .. } => {
                let Some(Pair::Express { is_over: false, .. }) = self.pairs.of.get(express) else {
                    return false;
                };
                if let Some(&Home::Here(key)) = self.homes.get(express) {
                    self.mark_dirty(key);
                }
                true
            }
            Pair::Main { express: None, .. } => false,
            Pair::Express { main, .. } => {
                // One that is away can flush nothing.
                let is_here = matches!(self.homes.get(main), Some(Home::Here(_)));
                is_here && self.session_mut(main).is_some_and(|session| !session.is_flushed())
            }
        }
    }

    /// Tells how a session ended: what is reliable and was not confirmed, and that it is over. What
    /// express leaves is told with main; main waits for it.
    pub(crate) fn say_farewell(
        &mut self,
        home: SessionKey,
        reason: CloseReason,
        established: bool,
        mut remains: Remains,
    ) {
        match self.pairs.of.get_mut(home) {
            None => {}
            Some(Pair::Express { is_reported: true, .. }) => return,
            Some(Pair::Express { main, is_reported, .. }) => {
                *is_reported = true;
                let main = *main;
                return self.leave_remains(main, home, remains);
            }
            Some(Pair::Main { remains: of_express, express, .. }) => {
                let of_express = std::mem::take(of_express);
                let express = *express;
                remains.messages_dropped += of_express.messages_dropped;
                remains.undelivered.extend(of_express.undelivered);
                if let Some(express) = express
                    && matches!(
                        self.pairs.of.get(express),
                        Some(Pair::Express { is_reported: false, .. })
                    )
                {
                    let Remains { messages_dropped, undelivered } = remains;
                    let kind = EventKind::Disconnected { reason, established, messages_dropped };
                    let event = self.event_for(home, kind);
                    let farewell = Farewell { main: home, express, event, undelivered };
                    self.pairs.farewells.push(farewell);
                    return;
                }
            }
        }
        let Remains { messages_dropped, undelivered } = remains;
        let kind = EventKind::Disconnected { reason, established, messages_dropped };
        let event = self.event_for(home, kind);
        self.publish_end(event, undelivered);
    }

    fn leave_remains(&mut self, main: SessionKey, express: SessionKey, remains: Remains) {
        let waiting = self
            .pairs
            .farewells
            .iter()
            .position(|farewell| farewell.main == main && farewell.express == express);
        if let Some(at) = waiting {
            let Farewell { mut event, mut undelivered, .. } = self.pairs.farewells.swap_remove(at);
            if let EventKind::Disconnected { messages_dropped, .. } = &mut event.kind {
                *messages_dropped += remains.messages_dropped;
            }
            undelivered.extend(remains.undelivered);
            self.publish_end(event, undelivered);
        } else if let Some(Pair::Main { remains: place, .. }) = self.pairs.of.get_mut(main) {
            place.messages_dropped += remains.messages_dropped;
            place.undelivered.extend(remains.undelivered);
        }
    }

    fn publish_end(&mut self, event: Event, mut undelivered: Vec<Undelivered>) {
        self.tell_drops_of(&event);
        if !undelivered.is_empty() {
            // Lane by lane; stable, so in order within each.
            undelivered.sort_by_key(|message| message.priority);
            let kind = EventKind::SessionLost { undelivered };
            self.publish(Event { kind, ..event.clone() });
        }
        self.publish(event);
    }

    /// Where a session stands, with all its parts.
    pub(crate) fn state_of_both(&self, main: SessionKey) -> ConnectionState {
        let state = self.state_of(main);
        let Some(express) = self.pairs.express_of(main) else {
            let waits = state == ConnectionState::Connected && !self.pairs.is_complete(main);
            return if waits { ConnectionState::Connecting } else { state };
        };
        match (state, self.state_of(express)) {
            (ConnectionState::Connected, ConnectionState::Connecting) => {
                ConnectionState::Connecting
            }
            (ConnectionState::Connected, ConnectionState::Reconnecting) => {
                ConnectionState::Reconnecting
            }
            (ConnectionState::Connected, _) if !self.pairs.is_complete(main) => {
                ConnectionState::Connecting
            }
            _ => state,
        }
    }

    /// Where one part of a session stands.
    fn state_of(&self, home: SessionKey) -> ConnectionState {
        let id = ConnectionId { reactor: self.index, key: home };
        if self.is_away(id) {
            return ConnectionState::Reconnecting;
        }
        let Ok(key) = self.key(id) else { return ConnectionState::Disconnected };
        let connection = &self.connections[key];
        match (connection.phase, connection.session.state()) {
            (Phase::Departed { .. }, _) => ConnectionState::Closing,
            (Phase::Closing { .. }, _) | (_, State::Ended { .. }) => ConnectionState::Disconnected,
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

    /// Adds what is known of the express part to what is known of the main part.
    pub(crate) fn add_express(&self, main: SessionKey, info: &mut ConnectionInfo) {
        let Some(express) = self.pairs.express_of(main) else { return };
        let mut add = |session: &Session, connection: Option<&Connection>| {
            info.messages_sent += session.messages_admitted();
            info.frames_queued += session.frames_queued();
            info.bytes_queued += session.bytes_queued() as u64;
            info.bytes_kept += session.kept_bytes() as u64;
            info.messages_missed += session.missed();
            info.messages_expired += session.expired();
            info.messages_expired_at_peer += session.expired_at_peer();
            info.drops.extend(session.drop_counts());
            if let Some(connection) = connection {
                info.messages_received += connection.messages_received;
                info.last_activity = info.last_activity.max(connection.last_activity);
            }
        };
        match self.homes.get(express) {
            Some(&Home::Here(key)) => {
                if let Some(connection) = self.connections.get(key) {
                    add(&connection.session, Some(connection));
                }
            }
            Some(Home::Away(away)) => add(away.session(), None),
            None => {}
        }
        info.express = Some(self.state_of(express));
    }
}

//! Sessions that outlive their connections: where each is, and how it comes back.
//!
//! ```text
//!              link lost, both ends resume            the peer is back, or dialled again
//!   Here(connection) ─────────────────────────▶ Away ─────────────────────────▶ Here(another)
//!        │                                        │
//!        └── goodbye, protocol error, … ──▶ (over) ◀── linger over, refused for good
//! ```
//!
//! A [`ConnectionId`] names the session, from its first connection to its end, so whoever holds
//! one need not know about its connections.
//!
//! The side that connected dials again: at once, then after random times whose bound doubles (full
//! jitter), until `session_linger_ms` have passed. The other side waits as long for a hello with
//! the session's id. While the handshake of the new connection is under way it has a stand-in for
//! a session; the real one moves in when the peer has shown that it has the other end.
//!
//! The reactors of a node listen at one address, and the kernel chooses which of them a connection
//! goes to. A hello that says it returns, to a reactor that does not know it, is passed on with its
//! socket from one to the next; the last one makes a new session of it.
//!
//! # Invariants
//!
//! - A session is in exactly one place: in its connection, or away.
//! - It leaves its connection only when the kernel holds no send of it: the block that was in
//!   flight goes with it.

use std::num::NonZeroU32;
use std::time::Duration;

use slotmap::new_key_type;

use crate::config::Config;
use crate::error::{CloseReason, ProtocolError, SendError};
use crate::reactor::catch_up::LAG_PAUSE;
use crate::reactor::command::{Command, Visitor};
use crate::reactor::connection::{After, Connection, ConnectionId, ConnectionKey, Phase, Route};
use crate::reactor::core::{Admitted, Core};
use crate::reactor::watch::{WatchChange, Watched};
use crate::reactor::{Event, EventKind};
use crate::session::backoff::{BackoffPolicy, Next};
use crate::session::pair::{Parting, Remains, parting};
use crate::session::state::State;
use crate::session::{
    Correlation, Envelope, Expiry, HelloClaim, Input, Part, Reunion, Role, Session, Undelivered,
};
use crate::time::{Nanos, wall_ns};
use crate::wire::handshake::RejectReason;
use crate::wire::{Body, Frame};

new_key_type! {
    /// A session of one reactor. A key of a session that is over finds nothing.
    pub(crate) struct SessionKey;
}

/// Where a session is.
#[derive(Debug)]
pub(crate) enum Home {
    /// In a connection. Its handshake may be under way.
    Here(ConnectionKey),
    /// Between two connections.
    Away(Box<Away>),
}

/// A session without a connection.
#[derive(Debug)]
pub(crate) struct Away {
    session: Session,
    /// The other end's address, for people.
    address: String,
    /// Where to dial and when; `None` where the peer dials.
    route: Option<Box<Route>>,
    /// Why the link was lost.
    reason: CloseReason,
    /// Why there is none now: `reason`, or why the last attempt failed.
    failure: CloseReason,
    /// When the session is over.
    until: Nanos,
    /// When to dial next.
    retry_at: Nanos,
    attempt: u32,
    /// The connection that is being made for it.
    stand_in: Option<ConnectionKey>,
}

impl Away {
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The session, its peer's address, and why the link was lost.
    pub(crate) fn parts(&self) -> (&Session, &str, CloseReason) {
        (&self.session, &self.address, self.reason)
    }
}

impl Core {
    /// Names the session of a connection.
    #[inline]
    pub(crate) fn id(&self, key: ConnectionKey) -> ConnectionId {
        ConnectionId { reactor: self.reactor, key: self.connections[key].public }
    }

    /// Names the session that a part belongs to.
    pub(crate) fn public_id(&self, home: SessionKey) -> ConnectionId {
        ConnectionId { reactor: self.reactor, key: self.pairs.public(home) }
    }

    /// The connection of a session, if it is of this reactor and has one.
    #[inline]
    pub(crate) fn key(&self, id: ConnectionId) -> Result<ConnectionKey, SendError> {
        if id.reactor != self.reactor {
            return Err(SendError::NotConnected);
        }
        match self.homes.get(id.key) {
            Some(&Home::Here(key)) => Ok(key),
            _ => Err(SendError::NotConnected),
        }
    }

    /// The session of a connection or without one.
    pub(crate) fn session(&self, id: ConnectionId) -> Option<&Session> {
        if id.reactor != self.reactor {
            return None;
        }
        match self.homes.get(id.key)? {
            &Home::Here(key) => Some(&self.connections.get(key)?.session),
            Home::Away(away) => Some(&away.session),
        }
    }

    /// Whether a session is between two connections, or about to be.
    pub(crate) fn is_away(&self, id: ConnectionId) -> bool {
        match self.homes.get(id.key) {
            Some(Home::Away(_)) => true,
            Some(&Home::Here(key)) => self.connections.get(key).is_some_and(Connection::survives),
            None => false,
        }
    }

    /// Whether a connection is a stand-in's: its session has not moved in.
    pub(crate) fn is_stand_in(&self, key: ConnectionKey) -> bool {
        let home = self.connections[key].home;
        !matches!(self.homes.get(home), Some(&Home::Here(here)) if here == key)
    }

    /// Whether the session of a connection that ends for `reason` will go on on another.
    pub(crate) fn survives(&self, key: ConnectionKey, reason: CloseReason) -> bool {
        let connection = &self.connections[key];
        let is_link_failure = match reason {
            CloseReason::PeerClosed
            | CloseReason::Socket { .. }
            | CloseReason::FrameTimeout
            | CloseReason::PeerSilent
            | CloseReason::Superseded => true,
            CloseReason::Protocol(error) => error.is_damage(),
            _ => false,
        };
        is_link_failure
            && !self.life.is_closing()
            && connection.is_readable()
            && connection.session.state() == State::Open
            && connection.session.resumes(&self.identity)
            && self.pairs.may_survive(connection.home)
            && self.homes.len() <= self.sessions_max
    }

    /// Queues a message for a session that is away: reliable ones wait for its next link.
    #[cold]
    pub(crate) fn push_away<B: Body + ?Sized>(
        &mut self,
        id: ConnectionId,
        envelope: Envelope,
        correlation: Correlation,
        body: &B,
    ) -> Result<Admitted, SendError> {
        let is_ours = id.reactor == self.reactor;
        let Some(Home::Away(away)) = self.homes.get_mut(id.key).filter(|_| is_ours) else {
            return Err(SendError::NotConnected);
        };
        let memory = &mut self.send_memory;
        let session = &mut away.session;
        let pushed = session.push(envelope, correlation, body, &self.identity, self.now, memory);
        let lane_bytes = session.lane_bytes(envelope.lane());
        let expires_from = session.expires_from();
        let has_dropped = session.has_untold_drops();
        let admissions = session.take_admissions();
        self.book(&admissions);
        if has_dropped {
            // Now: what is untold when the link is back counts as lost with the one before.
            self.count_drops(id.key);
        }
        match pushed {
            Ok(frame_bytes) => {
                if expires_from != Nanos::NEVER {
                    self.set_session_deadline(id.key);
                }
                // There is nothing that it could be sent on.
                Ok(Admitted { frame_bytes, lane_bytes, is_crowded: false })
            }
            Err(error) => {
                self.count_refusal(error);
                Err(error)
            }
        }
    }

    /// Ends a session once what is queued has left, or at `deadline`.
    pub(crate) fn disconnect(&mut self, id: ConnectionId, deadline: Nanos) {
        if id.reactor != self.reactor {
            return;
        }
        let (main, express) = self.views(id.key);
        match parting(&main, &express) {
            Parting::Both => {
                let Ok(key) = self.key(id) else { return };
                self.drain(key, deadline);
                // Main first, so that it is known to be leaving when express has left.
                if let Some(express) = self.pairs.express_of(id.key) {
                    self.disconnect(ConnectionId { key: express, ..id }, deadline);
                }
            }
            Parting::Express => {
                self.stop_dialling(id.key);
                let key = self.express_alone(id.key).expect("express stands");
                self.drain(key, deadline);
            }
            Parting::Now => match self.key(id) {
                Ok(key) => self.give_up(key),
                Err(_) => self.end_away(id.key, CloseReason::Local),
            },
        }
    }

    /// Has a session that is away, or about to be, not dialled any more.
    fn stop_dialling(&mut self, home: SessionKey) {
        match self.homes.get_mut(home) {
            Some(Home::Away(away)) => {
                away.route = None;
                away.retry_at = Nanos::NEVER;
            }
            Some(&mut Home::Here(key)) => self.connections[key].route = None,
            None => {}
        }
    }

    /// Ends a session whose link is gone already: at once, or as soon as the kernel holds no send.
    pub(crate) fn give_up(&mut self, key: ConnectionKey) {
        self.connections[key].is_given_up = true;
        if !self.connections[key].is_sending() {
            self.detach(key);
        }
    }

    /// Takes the session out of a connection that is ending. To be called once the kernel holds no
    /// send of it.
    pub(crate) fn detach(&mut self, key: ConnectionKey) {
        let connection = &mut self.connections[key];
        let Phase::Closing { reason, session: After::Away } = connection.phase else {
            unreachable!("a session leaves a connection that is ending, others end with theirs")
        };
        connection.phase = Phase::Closing { reason, session: After::Over };
        let home = connection.home;
        if connection.session.has_untold_drops() {
            // They did not go with the link.
            self.count_drops(home);
        }
        let connection = &mut self.connections[key];
        let memory = &mut self.send_memory;
        let role = connection.session.role();
        let empty = Session::new(role, Default::default(), self.limits, &self.identity);
        let mut session = std::mem::replace(&mut connection.session, empty);
        let returned = connection.returned.take();
        let is_given_up = connection.is_given_up;
        assert!(connection.in_flight.is_none(), "the kernel holds no send");
        session.link_lost(returned, memory);
        let mut route = connection.route.take();
        if let Some(route) = &mut route {
            route.backoff.lost(self.now);
        }
        let away = Away {
            session,
            address: connection.address.clone(),
            route,
            reason,
            failure: reason,
            until: self.now + self.config.session_linger(),
            retry_at: Nanos::NEVER,
            attempt: 0,
            stand_in: None,
        };
        self.homes[home] = Home::Away(Box::new(away));
        let messages_dropped = self.count_drops(home);
        self.counters.messages_dropped.add(messages_dropped);
        if messages_dropped > 0 {
            self.fail_flushes(self.public_id(home));
        }
        self.requests.fail_unreliable(home, reason);
        let link = self.link(home);
        self.emit_for(home, EventKind::LinkLost { link, reason, messages_dropped });
        if is_given_up || self.life.is_closing() {
            self.end_away(home, CloseReason::Local);
        } else {
            self.plan_attempt(home);
        }
    }

    /// Answers a hello. It may be of a session that is away, or whose connection is dead and does
    /// not know it.
    #[cold]
    pub(crate) fn answer(
        &mut self,
        key: ConnectionKey,
        frame: &Frame<'_>,
    ) -> Result<Input, ProtocolError> {
        let Some(buffer) = self.take_control_buffer() else {
            // Without memory for the welcome there is none for messages either.
            return Ok(Input::End(CloseReason::ConnectionLimit));
        };
        let peer = match Session::peer_id(frame) {
            Ok(peer) => peer,
            Err(error) => {
                self.send_memory.pool.give(buffer);
                return Err(error);
            }
        };
        let known = self.by_peer.get(&peer).copied();
        let peer_main = Session::express_of(frame).ok().flatten();
        let may_be_elsewhere = match peer_main {
            Some(peer_main) => self.main_for(peer_main).is_none(),
            None => Session::returns(frame) == Ok(true),
        };
        let connection = &mut self.connections[key];
        if known.is_none() && connection.strange_to + 1 < self.siblings.len() && may_be_elsewhere {
            self.send_memory.pool.give(buffer);
            connection.passed_on = Some(frame.as_bytes().into());
            return Ok(Input::Nothing);
        }
        // What can not be true is a stranger's: the session and its link stay as they are.
        let claim = match known.map(|home| self.claim(home, frame)).transpose() {
            Ok(claim) => claim,
            Err(error) => {
                self.send_memory.pool.give(buffer);
                return Err(error);
            }
        };
        let known = known.filter(|_| claim != Some(HelloClaim::Anew));
        let is_refused = match (known, peer_main) {
            (Some(home), _) => claim == Some(HelloClaim::Stale) || !self.welcome_back(key, home),
            // Main comes first, and may not be back yet.
            (None, Some(peer_main)) => {
                !self.main_for(peer_main).is_some_and(|main| self.join(key, main))
            }
            (None, None) => false,
        };
        if is_refused {
            let session = &mut self.connections[key].session;
            session.refuse(buffer, RejectReason::Busy, self.now);
            self.mark_dirty(key);
            return Ok(Input::End(CloseReason::Refused(RejectReason::Busy)));
        }
        let memory = &mut self.send_memory;
        let connection = &mut self.connections[key];
        let outcome =
            connection.session.answer(frame, buffer, &self.identity, self.now, wall_ns(), memory);
        if matches!(outcome, Ok(Input::Established)) {
            let home = connection.home;
            if known.is_some() {
                connection.is_resumed = true;
            } else if connection.session.resumes(&self.identity)
                || connection.session.part() != Part::Whole
            {
                self.by_peer.insert(peer, home);
            }
        }
        self.mark_dirty(key);
        outcome
    }

    /// What a hello asks of a session. One that its peer has lost is over.
    fn claim(&mut self, home: SessionKey, frame: &Frame<'_>) -> Result<HelloClaim, ProtocolError> {
        let session = self.session_mut(home).expect("a peer that is known has a session here");
        let claim = session.claim(frame)?;
        if claim == HelloClaim::Anew {
            match self.homes[home] {
                Home::Here(old) if self.connections[old].survives() => self.give_up(old),
                Home::Here(old) => self.close(old, CloseReason::SessionExpired),
                Home::Away(_) => self.end_away(home, CloseReason::SessionExpired),
            }
        }
        Ok(claim)
    }

    /// Passes a peer that this reactor does not know on to the next one of the node. The kernel
    /// chose this one at random for its new connection.
    #[cold]
    pub(crate) fn pass_on(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.remove(key) else { return };
        assert!(!connection.has_operations(), "its hello has just been read");
        let Connection { socket, address, mut window, home, passed_on, strange_to, .. } =
            connection;
        // What the peer has said behind its hello goes with it.
        let range = window.range();
        let buffer = window.lend();
        let mut bytes = passed_on.expect("the caller looked").into_vec();
        bytes.extend_from_slice(&buffer.bytes()[range]);
        window.restore(buffer, 0);
        self.deadlines.set(key.slot(), Nanos::NEVER);
        self.session_deadlines.set(slot(home), Nanos::NEVER);
        self.homes.remove(home);
        self.pairs.remove(home);
        self.meter.touch_now(home, self.now);
        let base = window.dissolve(&mut self.receive_memory);
        self.windows.give(base);
        let visitor = Visitor { socket, address, bytes: bytes.into(), strange_to: strange_to + 1 };
        let next = (usize::from(self.reactor.index()) + 1) % self.siblings.len();
        if let Err(Command::Adopt(visitor)) =
            self.siblings[next].post(Command::Adopt(Box::new(visitor)))
        {
            self.turn_away(&visitor.socket, RejectReason::Busy);
        }
    }

    /// Takes a peer over that another reactor did not know, as if it had said hello here.
    #[cold]
    pub(crate) fn adopt(&mut self, visitor: Visitor) {
        let Visitor { socket, address, bytes, strange_to } = visitor;
        if self.life.is_closing() {
            self.turn_away(&socket, RejectReason::ShuttingDown);
            return;
        }
        let Some(key) = self.insert(socket, address, Role::Listener) else { return };
        self.new_home(key);
        let connection = &mut self.connections[key];
        connection.strange_to = strange_to;
        connection.state_deadline = self.now + self.config.handshake_timeout();
        let mut buffer = connection.window.lend();
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
        connection.window.restore(buffer, bytes.len());
        self.set_deadline(key);
        self.ready.push(key);
    }

    /// Moves a session whose peer is back into its new connection. Returns `false` when its old
    /// one still has a send in the kernel: the peer is to try again.
    fn welcome_back(&mut self, key: ConnectionKey, home: SessionKey) -> bool {
        if let Home::Here(old) = self.homes[home] {
            if !self.connections[old].survives() {
                self.close(old, CloseReason::Superseded);
            }
            let connection = &self.connections[old];
            if !connection.survives() || connection.is_sending() {
                return false;
            }
            self.detach(old);
        }
        // It may have been given up just now.
        let is_away = matches!(self.homes.get(home), Some(Home::Away(_)));
        if is_away {
            self.move_in(key, home);
        }
        is_away
    }

    /// Moves a session that is away into a connection.
    fn move_in(&mut self, key: ConnectionKey, home: SessionKey) {
        let here = std::mem::replace(&mut self.homes[home], Home::Here(key));
        let Home::Away(away) = here else { unreachable!("a session is in one place") };
        let connection = &mut self.connections[key];
        let stand_in = std::mem::replace(&mut connection.session, away.session);
        connection.session.take_link(&stand_in);
        connection.route = away.route;
        let provisional = connection.home;
        self.set_home(key, home);
        if provisional != home {
            self.homes.remove(provisional);
            self.meter.touch_now(provisional, self.now);
        }
        self.session_deadlines.set(slot(home), Nanos::NEVER);
    }

    /// Completes the handshake of a connection that this side made.
    #[cold]
    pub(crate) fn accept_welcome(
        &mut self,
        key: ConnectionKey,
        frame: &Frame<'_>,
    ) -> Result<Input, ProtocolError> {
        let peer = Session::peer_id(frame)?;
        let home = self.connections[key].home;
        if self.pairs.is_express(home) && !self.is_of_mains_peer(home, peer) {
            // Main is not back yet, or somebody else has answered.
            return Ok(Input::End(CloseReason::Rejected(RejectReason::Busy)));
        }
        if self.is_stand_in(key) {
            self.move_in(key, home);
        }
        let memory = &mut self.send_memory;
        let connection = &mut self.connections[key];
        let session = &mut connection.session;
        let (input, reunion) = session.accept_welcome(frame, &self.identity, self.now, memory)?;
        match reunion {
            Reunion::First => {}
            Reunion::Resumed => connection.is_resumed = true,
            Reunion::PeerRestarted { undelivered } => {
                let home = connection.home;
                let messages_dropped = self.count_drops(home);
                self.counters.messages_dropped.add(messages_dropped);
                self.counters.sessions_lost.add(1);
                self.requests.fail(home, CloseReason::PeerClosed);
                self.begin_anew(home);
                self.drop_foreign_express(home);
                let undelivered = of_the_application(undelivered);
                self.emit_for(home, EventKind::SessionLost { undelivered, omitted: 0 });
                let id = self.public_id(home);
                self.fail_flushes(id);
                self.note_goes_on(id);
            }
        }
        Ok(input)
    }

    /// A connection that was being made for a session that is away has failed.
    #[cold]
    pub(crate) fn stand_in_failed(&mut self, home: SessionKey, reason: CloseReason) {
        let Some(Home::Away(away)) = self.homes.get_mut(home) else { return };
        away.stand_in = None;
        away.failure = reason;
        // Whatever else answers there now, such as another service on the port of a server that is
        // away, or this side itself (a TCP connection to an own ephemeral port): it may be back.
        let is_final = match reason {
            CloseReason::Refused(_) => true,
            CloseReason::Rejected(reason) => matches!(
                reason,
                RejectReason::Version | RejectReason::Schema | RejectReason::Authentication
            ),
            _ => false,
        };
        if is_final {
            self.end_away(home, reason);
            return;
        }
        self.plan_attempt(home);
    }

    /// Says when to dial next, where this side dials.
    fn plan_attempt(&mut self, home: SessionKey) {
        let Some(Home::Away(away)) = self.homes.get_mut(home) else { return };
        if let Some(route) = &mut away.route {
            match route.backoff.next(self.now, random()) {
                Next::Attempt { at, number } => {
                    away.retry_at = at;
                    away.attempt = number;
                }
                Next::GaveUp { attempts, elapsed } => {
                    let failure = away.failure;
                    tracing::info!(attempts, ?elapsed, %failure, "gave up to reconnect");
                    self.end_away(home, CloseReason::GaveUp { attempts });
                    return;
                }
            }
        }
        self.set_session_deadline(home);
    }

    /// Tells the deadlines when a session wants to be looked at.
    pub(crate) fn set_session_deadline(&mut self, home: SessionKey) {
        let deadline = match self.homes.get_mut(home) {
            None => Nanos::NEVER,
            Some(&mut Home::Here(key)) => {
                let connection = &mut self.connections[key];
                connection.session_due = match connection.phase {
                    Phase::Live => connection.session.deadline(),
                    // Departed, or on its way to its next link: silence is silence.
                    _ => connection.session.watchdog.deadline(),
                };
                connection.session_due
            }
            Some(Home::Away(away)) => {
                let retry_at = if away.stand_in.is_some() { Nanos::NEVER } else { away.retry_at };
                let watchdog = away.session.watchdog.deadline();
                away.until.min(retry_at).min(watchdog).min(away.session.expires_from())
            }
        };
        self.session_deadlines.set(slot(home), deadline);
    }

    /// The deadline of a session has come.
    #[cold]
    pub(crate) fn expire_session(&mut self, slot: u32) {
        let home = self.session_keys[slot as usize];
        match self.homes.get_mut(home) {
            None => {}
            Some(&mut Home::Here(key)) => {
                self.pace.set_sessions(self.connections.len());
                let caught_up = self.caught_up();
                let connection = &mut self.connections[key];
                if connection.is_not_listening(self.config.window_bytes() as usize) {
                    connection.session.received_bytes(self.now);
                }
                connection.session.lag_behind(caught_up, self.now, self.now + LAG_PAUSE);
                let expiry = connection.session.expire(self.now, &mut self.pace);
                if connection.phase != Phase::Live {
                    self.note_misses(home);
                    self.set_session_deadline(home);
                    return;
                }
                if expiry == Expiry::PeerSilent {
                    self.close(key, CloseReason::PeerSilent);
                    return;
                }
                self.drop_expired(home);
                self.note_misses(home);
                if self.connections[key].session.has_block() {
                    self.mark_dirty(key);
                }
                self.set_session_deadline(home);
            }
            Some(Home::Away(away)) if away.until <= self.now => {
                self.end_away(home, CloseReason::SessionExpired);
            }
            Some(Home::Away(away)) => {
                let is_time = away.retry_at <= self.now && away.stand_in.is_none();
                self.drop_expired(home);
                self.note_misses(home);
                if is_time {
                    self.dial_again(home);
                } else {
                    self.set_session_deadline(home);
                }
            }
        }
    }

    /// Drops what waits in a session and is too old to be sent, and counts it.
    fn drop_expired(&mut self, home: SessionKey) {
        let memory = &mut self.send_memory;
        let session = match self.homes.get_mut(home) {
            Some(&mut Home::Here(key)) => &mut self.connections[key].session,
            Some(Home::Away(away)) => &mut away.session,
            None => return,
        };
        session.drop_expired(self.now, memory);
        if session.has_untold_drops() {
            self.count_drops(home);
        }
    }

    fn dial_again(&mut self, home: SessionKey) {
        let Some(Home::Away(away)) = self.homes.get_mut(home) else { return };
        let Some(route) = &away.route else { return };
        let target = route.target.clone();
        let (attempt, reason) = (away.attempt, away.failure);
        let stand_in = away.session.stand_in(self.limits, &self.identity);
        away.retry_at = Nanos::NEVER;
        self.counters.reconnect_attempts.add(1);
        let link = self.link(home);
        self.emit_for(home, EventKind::Reconnecting { link, attempt, reason });
        match self.dial_for(&target) {
            Ok(key) => {
                let connection = &mut self.connections[key];
                connection.session = stand_in;
                self.set_home(key, home);
                if let Some(Home::Away(away)) = self.homes.get_mut(home) {
                    away.stand_in = Some(key);
                }
                self.set_session_deadline(home);
            }
            Err(failure) => {
                let reason = CloseReason::from(failure);
                tracing::debug!(attempt, %reason, "cannot dial again");
                self.stand_in_failed(home, reason);
            }
        }
    }

    /// A session that is away is over.
    #[cold]
    pub(crate) fn end_away(&mut self, home: SessionKey, reason: CloseReason) {
        let Some(Home::Away(away)) = self.homes.get_mut(home) else { return };
        let stand_in = away.stand_in.take();
        self.end_watches(home, reason);
        let Some(Home::Away(away)) = self.homes.get_mut(home) else { return };
        let memory = &mut self.send_memory;
        let (_, undelivered) = away.session.end(memory);
        let has_lost = !undelivered.is_empty();
        if has_lost {
            self.fail_flushes(self.public_id(home));
        }
        self.part_ended(home, reason, has_lost);
        let messages_dropped = self.count_drops(home);
        self.counters.messages_dropped.add(messages_dropped);
        self.counters.closes[reason.index()].add(1);
        self.say_farewell(home, reason, true, Remains { messages_dropped, undelivered });
        self.requests.fail(home, reason);
        self.forget(home, reason);
        if let Some(key) = stand_in {
            self.close(key, CloseReason::Local);
        }
    }

    /// Ends every session that is away.
    pub(crate) fn end_all_away(&mut self, reason: CloseReason) {
        let away = |(home, place): (SessionKey, &Home)| match place {
            Home::Away(_) => Some(home),
            Home::Here(_) => None,
        };
        let homes: Vec<_> = self.homes.iter().filter_map(away).collect();
        for home in homes {
            // What its express connection holds can still leave; it goes with that.
            if self.express_alone(home).is_some() {
                self.stop_dialling(home);
            } else {
                self.end_away(home, reason);
            }
        }
    }

    /// Forgets a session that is over, but for why.
    pub(crate) fn forget(&mut self, home: SessionKey, reason: CloseReason) {
        self.remember_end(home, reason);
        self.forget_peer(home);
        self.session_deadlines.set(slot(home), Nanos::NEVER);
        self.homes.remove(home);
        self.pairs.remove(home);
        self.meter.touch_now(home, self.now);
    }

    /// A hello of this session's peer is that of a stranger from now on.
    pub(crate) fn forget_peer(&mut self, home: SessionKey) {
        let session = match self.homes.get(home) {
            Some(&Home::Here(key)) => self.connections.get(key).map(|found| &found.session),
            Some(Home::Away(away)) => Some(&away.session),
            None => None,
        };
        let peer = session.and_then(Session::peer).map(|peer| peer.session_id);
        if let Some(peer) = peer
            && self.by_peer.get(&peer) == Some(&home)
        {
            self.by_peer.remove(&peer);
        }
    }

    /// Keeps why a session ended, until its place is used again.
    pub(crate) fn remember_end(&mut self, home: SessionKey, reason: CloseReason) {
        self.closed[slot(home) as usize] = Some((home, reason));
    }

    /// Gives the session of a new connection a place.
    pub(crate) fn new_home(&mut self, key: ConnectionKey) -> SessionKey {
        let home = self.homes.insert(Home::Here(key));
        let at = slot(home) as usize;
        assert!(at < self.session_keys.len(), "sessions away are bounded, and so are connections");
        self.session_keys[at] = home;
        self.set_home(key, home);
        let address = &self.connections[key].address;
        self.meter.begin_row(home, address, &self.counters, self.now);
        home
    }

    /// Says where the session of a connection is, or will be.
    pub(crate) fn set_home(&mut self, key: ConnectionKey, home: SessionKey) {
        let connection = &mut self.connections[key];
        connection.home = home;
        connection.public = self.pairs.public(home);
    }

    /// Has a session that is away dialled at once.
    pub(crate) fn dial_soon(&mut self, home: SessionKey) {
        if let Some(Home::Away(away)) = self.homes.get_mut(home)
            && away.retry_at != Nanos::NEVER
        {
            away.retry_at = self.now;
            self.set_session_deadline(home);
        }
    }

    /// Keeps an event of a session for whoever polls them.
    pub(crate) fn emit_for(&mut self, home: SessionKey, kind: EventKind) {
        self.meter.touch_now(home, self.now);
        let event = self.event_for(home, kind);
        self.publish(event);
    }

    /// Something that happened to a session.
    pub(crate) fn event_for(&self, home: SessionKey, kind: EventKind) -> Event {
        let (address, peer) = match self.homes.get(home) {
            None => (String::new(), None),
            Some(&Home::Here(key)) => {
                let connection = &self.connections[key];
                (connection.address.clone(), connection.session.peer())
            }
            Some(Home::Away(away)) => (away.address.clone(), away.session.peer()),
        };
        let node_name = peer.map_or_else(String::new, |peer| peer.node_name.clone());
        let connection = ConnectionId { reactor: self.reactor, key: self.pairs.public(home) };
        Event { connection, address, node_name, kind }
    }

    /// The session at `home`, wherever it is.
    pub(crate) fn session_mut(&mut self, home: SessionKey) -> Option<&mut Session> {
        match self.homes.get_mut(home)? {
            &mut Home::Here(key) => Some(&mut self.connections.get_mut(key)?.session),
            Home::Away(away) => Some(&mut away.session),
        }
    }

    /// Notes the watches of a session whose messages stay away: the handler is called after this
    /// step of the turn.
    pub(crate) fn note_misses(&mut self, home: SessionKey) {
        let now = self.now;
        while let Some(miss) =
            self.session_mut(home).and_then(|found| found.watchdog.poll_miss(now))
        {
            self.note_watch(home, Watched::missed(&miss));
        }
    }

    /// Keeps what a watch has seen for the handler.
    pub(crate) fn note_watch(&mut self, home: SessionKey, watched: Watched) {
        match watched.change {
            WatchChange::Missed => self.counters.deadlines_missed.add(1),
            WatchChange::Recovered => self.counters.deadlines_recovered.add(1),
        }
        self.watched.push((home, watched));
    }
}

/// Without the session's own frames: the cancellation of a request is nothing to send again.
pub(crate) fn of_the_application(mut undelivered: Vec<Undelivered>) -> Vec<Undelivered> {
    undelivered.retain(|message| message.kind.is_application());
    undelivered
}

/// When a lost connection is dialled again.
pub(crate) fn backoff_policy(config: &Config) -> BackoffPolicy {
    let cap = Duration::from_millis(config.reconnect_delay_max_ms().into());
    let base = Duration::from_millis(config.reconnect_delay_ms().into());
    BackoffPolicy {
        base,
        cap,
        floor: base / 16,
        attempts_max: NonZeroU32::new(config.reconnect_attempts_max()),
        // The session ends first: `session_linger_ms`.
        give_up_after: None,
        ..BackoffPolicy::default()
    }
}

/// For the times between attempts.
pub(crate) fn random() -> u64 {
    // Without randomness the times are bounded all the same.
    getrandom::u64().unwrap_or(u64::MAX / 2)
}

/// The slot number of a session: the low half of the key's number, by slotmap's documentation.
pub(crate) fn slot(home: SessionKey) -> u32 {
    use slotmap::Key;
    crate::wire::low_half(home.data().as_ffi())
}

impl Session {
    /// Whether both ends keep it when the link is lost.
    pub(crate) fn resumes(&self, identity: &crate::session::Identity) -> bool {
        let ours = match self.role() {
            Role::Dialer => identity.dialer_features,
            Role::Listener => identity.listener_features,
        };
        ours.contains(crate::wire::handshake::Features::RESUME)
            && self.peer().is_some_and(|peer| peer.resumes)
    }
}

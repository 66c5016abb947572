//! The handshake: hello and welcome, whose session a hello is of, and what becomes of it.
//!
//! The dialer says [hello](Session::greet), the listener [answers](Session::answer), and the dialer
//! [takes the welcome](Session::accept_welcome). A session that is down goes on where it was when
//! both ends still have it: each tells the other what it has received.

use std::time::Duration;

use crate::error::{CloseReason, ProtocolError};
use crate::mem::Buffer;
use crate::session::clock::{Exchange, PeerNanos};
use crate::session::confirmations::Confirmations;
use crate::session::heartbeat::Heartbeat;
use crate::session::lane::{Lane, LaneLimits, SendMemory};
use crate::session::mutation::Mutation;
use crate::session::state::{Event, State};
use crate::session::{Identity, Input, Part, Role, Session, Undelivered};
use crate::time::Nanos;
use crate::wire::handshake::{
    Features, Greeting, RejectReason, SessionId, read_greeting, version_in_common, write_greeting,
};
use crate::wire::{Decoder, Frame, Kind, VERSION};

/// Who is at the other end, as it said in its greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Its end of the session: 128 random bits, new for every session, kept over lost links.
    pub session_id: SessionId,
    /// Its name, may be empty.
    pub node_name: String,
    /// Its number, 0 when it has none.
    pub node_number: u32,
    /// The largest frame it accepts.
    pub frame_bytes_max: u32,
    /// Its monotonic clock minus ours when its greeting arrived, in nanoseconds: an estimate that
    /// includes the greeting's way here.
    pub clock_offset_ns: i64,
    /// It keeps its end of the session for a while when the link is lost.
    pub resumes: bool,
}

/// What a hello asks of the session that its sender has had here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HelloClaim {
    /// To go on.
    Resume,
    /// Nothing: its sender knows another end, or none. This one is lost to it.
    Anew,
    /// Nothing any more: a later hello of its sender has been answered.
    Stale,
}

/// What became of a session that was taken up on a new link.
#[derive(Debug)]
pub(crate) enum Reunion {
    /// There was none before.
    First,
    /// Both ends go on where they were.
    Resumed,
    /// The peer has lost its end: these it may never have seen.
    PeerRestarted { undelivered: Vec<Undelivered> },
}

impl Session {
    /// Queues the hello of the connecting side.
    pub(crate) fn greet(&mut self, buffer: Buffer, identity: &Identity, now: Nanos, wall_ns: u64) {
        assert_eq!(self.role, Role::Dialer, "the listening side answers");
        self.hello_at = now;
        self.push_greeting(Kind::Hello, buffer, identity, now, wall_ns);
    }

    /// What says hello on a new link for a session that is down, until the peer has answered.
    pub(crate) fn stand_in(&self, limits: LaneLimits, identity: &Identity) -> Self {
        assert_eq!(self.state, State::Down, "the session has a link");
        assert_eq!(self.role, Role::Dialer, "the listening side waits");
        let Self { part, peer_id, .. } = *self;
        let confirmations = self.confirmations.on_another_link();
        let fresh = Self::new(Role::Dialer, self.id, limits, identity);
        Self { part, confirmations, peer_id, returns: true, ..fresh }
    }

    /// The link that `stand_in` has said hello on is this session's from now on: its welcome
    /// measures the clocks by that hello.
    pub(crate) fn take_link(&mut self, stand_in: &Self) {
        assert_eq!(self.state, State::Down, "the session has a link");
        self.hello_at = stand_in.hello_at;
    }

    /// Whose hello this is: the id of the peer's end.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadHandshake`].
    pub(crate) fn peer_id(frame: &Frame<'_>) -> Result<SessionId, ProtocolError> {
        let (greeting, _) = read_greeting(frame.payload())?;
        Ok(SessionId(greeting.session_id))
    }

    /// Of the hello of a second connection: the peer's end of the first.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadHandshake`].
    pub(crate) fn express_of(frame: &Frame<'_>) -> Result<Option<SessionId>, ProtocolError> {
        let (greeting, _) = read_greeting(frame.payload())?;
        let is_express = Features(greeting.features.get()).contains(Features::EXPRESS);
        Ok(is_express.then(|| SessionId(greeting.session_id).companion()))
    }

    /// Whether a hello is of a session that has had a link before.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadHandshake`].
    pub(crate) fn returns(frame: &Frame<'_>) -> Result<bool, ProtocolError> {
        let (greeting, _) = read_greeting(frame.payload())?;
        Ok(Features(greeting.features.get()).contains(Features::RETURNS))
    }

    /// What a hello of the peer's asks of this session.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadHandshake`], or [`ProtocolError::BadAcknowledgement`]: the peer can not
    /// have received what it says.
    pub(crate) fn claim(&self, frame: &Frame<'_>) -> Result<HelloClaim, ProtocolError> {
        let (greeting, _) = read_greeting(frame.payload())?;
        let is_older = greeting.monotonic_ns.get() < self.greeted_at;
        let names_us = greeting.peer_session_id == self.id.0;
        Ok(if is_older && !Mutation::NoStaleCheck.is_on() {
            HelloClaim::Stale
        } else if names_us || Mutation::NoClaimCheck.is_on() {
            self.check_received(greeting)?;
            HelloClaim::Resume
        } else {
            HelloClaim::Anew
        })
    }

    /// Answers a hello in `buffer`: a welcome, or a reject and [`Input::End`]. A session that is
    /// down goes on where it was.
    pub(crate) fn answer(
        &mut self,
        frame: &Frame<'_>,
        buffer: Buffer,
        identity: &Identity,
        now: Nanos,
        wall_ns: u64,
        memory: &mut SendMemory,
    ) -> Result<Input, ProtocolError> {
        let (greeting, name) = match read_greeting(frame.payload()) {
            Ok(read) => read,
            Err(error) => {
                memory.pool.give(buffer);
                return Err(error);
            }
        };
        if let Some(reason) = refusal(greeting, identity) {
            self.refuse(buffer, reason, now);
            return Ok(Input::End(CloseReason::Refused(reason)));
        }
        if self.state == State::Down
            && let Err(error) = self.resume(greeting, now, memory)
        {
            memory.pool.give(buffer);
            return Err(error);
        }
        self.peer_id = SessionId(greeting.session_id);
        // How many connections a session has is said once.
        let is_new = self.state == State::Greeting;
        let wants_pair = Features(greeting.features.get()).contains(Features::PAIRED);
        if self.part == Part::Whole && is_new && wants_pair {
            self.part = Part::Main;
        }
        self.push_greeting(Kind::Welcome, buffer, identity, now, wall_ns);
        self.establish(greeting, name, identity, now);
        Ok(Input::Established)
    }

    /// Queues a reject. The caller ends the connection when it has left.
    pub(crate) fn refuse(&mut self, buffer: Buffer, reason: RejectReason, now: Nanos) {
        let detail = u32::from(VERSION);
        self.push_farewell(Kind::Reject, buffer, reason.code(), detail, now);
    }

    /// Completes the handshake of the connecting side with the peer's welcome. A session that is
    /// down goes on where it was, when the peer still has its end.
    pub(crate) fn accept_welcome(
        &mut self,
        frame: &Frame<'_>,
        identity: &Identity,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Result<(Input, Reunion), ProtocolError> {
        let (greeting, name) = read_greeting(frame.payload())?;
        if let Some(reason) = refusal(greeting, identity) {
            return Ok((Input::End(CloseReason::Refused(reason)), Reunion::First));
        }
        let mut reunion = Reunion::First;
        let is_paired = Features(greeting.features.get()).contains(Features::PAIRED);
        if self.part == Part::Main && self.state == State::Greeting && !is_paired {
            // It knows nothing of second connections: all lanes share this one.
            self.part = Part::Whole;
        }
        if self.part == Part::Main && self.state == State::Down && !is_paired {
            // It knew once. What is queued for two connections can not be put into one.
            let reason = CloseReason::Refused(RejectReason::Version);
            return Ok((Input::End(reason), Reunion::First));
        }
        if self.state == State::Down {
            let is_same = self
                .peer
                .as_ref()
                .is_some_and(|peer| peer.session_id == SessionId(greeting.session_id));
            if is_same {
                self.resume(greeting, now, memory)?;
                reunion = Reunion::Resumed;
            } else {
                reunion = Reunion::PeerRestarted { undelivered: self.restart(memory) };
            }
        }
        self.establish(greeting, name, identity, now);
        Ok((Input::Established, reunion))
    }

    fn check_received(&self, greeting: &Greeting) -> Result<(), ProtocolError> {
        for (index, lane) in self.lanes.iter().enumerate() {
            let received = greeting.last_received[index].get();
            lane.check_received(received, greeting.messages_received[index].get())?;
        }
        Ok(())
    }

    /// Both ends go on where they were.
    fn resume(
        &mut self,
        greeting: &Greeting,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Result<(), ProtocolError> {
        self.check_received(greeting)?;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let received = greeting.last_received[index].get();
            let messages = greeting.messages_received[index].get();
            lane.resume(received, messages, now, memory, &mut self.holdings);
        }
        // What was in flight may wait again.
        self.expires_from = self.earliest_expiry();
        Ok(())
    }

    /// The peer has lost its end: both begin anew.
    fn restart(&mut self, memory: &mut SendMemory) -> Vec<Undelivered> {
        let undelivered = self.abandon(memory);
        self.lanes.iter_mut().for_each(Lane::begin_anew);
        self.confirmations = Confirmations::new();
        self.expired_at_peer = 0;
        self.clock.reset();
        undelivered
    }

    fn establish(&mut self, greeting: &Greeting, name: &str, identity: &Identity, now: Nanos) {
        let theirs = greeting.frame_bytes_max.get();
        self.limits.frame_bytes_max = identity.frame_bytes_max.min(theirs) as usize;
        self.decoder = Decoder::new(identity.frame_bytes_max as usize);
        self.start_heartbeat(greeting, identity, now);
        if self.part != Part::Main {
            // The peer may say nothing on main before express stands: its watches start then.
            self.watchdog.start(now);
        }
        self.peer_id = SessionId(greeting.session_id);
        self.greeted_at = greeting.monotonic_ns.get();
        self.peer = Some(Box::new(PeerInfo {
            session_id: SessionId(greeting.session_id),
            node_name: name.into(),
            node_number: greeting.node.get(),
            frame_bytes_max: theirs,
            resumes: Features(greeting.features.get()).contains(Features::RESUME),
            clock_offset_ns: greeting.monotonic_ns.get().wrapping_sub(now.0) as i64,
        }));
        self.confirmations.greeted(now);
        let event = if self.state == State::Down { Event::Resumed } else { Event::Established };
        self.state = self.state.step(event);
    }

    /// The life signs of a new link. Its greetings are the first measurement of the clocks.
    fn start_heartbeat(&mut self, greeting: &Greeting, identity: &Identity, now: Nanos) {
        let peer_interval_us = greeting.heartbeat_interval_us.get();
        let mut policy = identity.heartbeat;
        if peer_interval_us == 0 {
            // It may not know heartbeats, or not want one each second.
            policy.measure_every = Duration::ZERO;
        }
        let mut heartbeat = Heartbeat::new(policy, peer_interval_us, now);
        let theirs = greeting.monotonic_ns.get();
        match self.role {
            Role::Dialer => {
                let exchange = Exchange {
                    asked: self.hello_at,
                    peer_received: PeerNanos(theirs),
                    peer_sent: PeerNanos(theirs),
                    returned: now,
                };
                let _ = self.clock.sample(&exchange);
                // Without a measurement what we send with a time to live is dropped there.
                let measures = Features(greeting.features.get()).contains(Features::MEASURES);
                if peer_interval_us > 0 || measures {
                    heartbeat.welcomed(theirs, now);
                }
            }
            Role::Listener => {
                let _ = self.clock.sample_one_way(PeerNanos(theirs), now);
            }
        }
        self.heartbeat = Some(heartbeat);
    }

    fn push_greeting(
        &mut self,
        kind: Kind,
        mut buffer: Buffer,
        identity: &Identity,
        now: Nanos,
        wall_ns: u64,
    ) {
        let features = match self.role {
            Role::Dialer if self.returns => identity.dialer_features.with(Features::RETURNS),
            Role::Dialer => identity.dialer_features,
            Role::Listener => identity.listener_features.with(Features::MEASURES),
        };
        let features = match (self.part, self.role) {
            (Part::Whole, _) | (Part::Express, Role::Listener) => features,
            (Part::Main, _) => features.with(Features::PAIRED),
            (Part::Express, Role::Dialer) => features.with(Features::EXPRESS),
        };
        let greeting = Greeting {
            protocol_min: VERSION,
            protocol_max: VERSION,
            name_bytes: 0.into(),
            features: features.0.into(),
            session_id: self.id.0,
            schema_hash: identity.schema_hash.into(),
            frame_bytes_max: identity.frame_bytes_max.into(),
            heartbeat_interval_us: identity.heartbeat.interval_us.into(),
            last_received: self.confirmations.received.map(Into::into),
            monotonic_ns: now.0.into(),
            wall_ns: wall_ns.into(),
            node: identity.node_number.into(),
            authentication_bytes: 0.into(),
            reserved: 0.into(),
            messages_received: self.confirmations.messages_received().map(Into::into),
            peer_session_id: self.peer_id.0,
        };
        let filled = write_greeting(kind, greeting, &identity.node_name, buffer.bytes_mut());
        self.push_control(buffer, filled);
    }
}

fn refusal(greeting: &Greeting, identity: &Identity) -> Option<RejectReason> {
    let theirs = greeting.schema_hash.get();
    if !version_in_common(greeting.protocol_min, greeting.protocol_max) {
        Some(RejectReason::Version)
    } else if greeting.authentication_bytes.get() != 0 {
        Some(RejectReason::Authentication)
    } else if theirs != 0 && identity.schema_hash != 0 && theirs != identity.schema_hash {
        Some(RejectReason::Schema)
    } else {
        None
    }
}

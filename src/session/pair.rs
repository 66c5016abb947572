//! The rules of a session with two connections: the *main* part carries the lanes up to normal, the
//! *express* part high and critical ones.
//!
//! Each part is a [`Session`] of its own, with its own link, sequences and confirmations, and knows
//! nothing of the other. A [`Pair`] ties them: when the session stands, what the loss of one part
//! means for the other, who says goodbye first, and what is told of both. Sans-IO: whoever keeps
//! the connections says how each part stands ([`View`]), books what has happened to one, and does
//! what the answer says.
//!
//! ```text
//!   main established ──▶ Next::Dial, the express part joins ──▶ both stand: completed, once
//!   one link lost    ──▶ nothing: that part comes back by itself, the other goes on
//!   a peer begun anew ─▶ not complete until both parts have found the same new peer
//!   one part over    ──▶ Fate of the other: it ends as well, or flushes and follows
//!   both parts over  ──▶ one farewell, with what both have left
//! ```
//!
//! # Invariants
//!
//! - A session completes once for each peer it finds, and says farewell once.
//! - The lanes of the main part are held ([`Session::hold`]) until it is complete: the peer takes
//!   no message before.
//! - Nothing outlives its connection before the session was complete for the first time.
//! - Both parts are flushed before either says goodbye, and main says it last.
//!
//! Not asked per message: which part carries a lane is a comparison ([`half_of`]), and whoever
//! keeps the parts knows where that is.

use crate::error::CloseReason;
use crate::session::mutation::Mutation;
use crate::session::state::State;
use crate::session::{Role, Session, Undelivered};
use crate::stats::{ConnectionState, DropCount};
use crate::wire::Priority;
use crate::wire::handshake::SessionId;

/// One of the two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Main,
    Express,
}

/// Which part carries a lane.
#[inline]
pub(crate) fn half_of(lane: Priority) -> Half {
    if lane.is_express() && !Mutation::PairOneLink.is_on() { Half::Express } else { Half::Main }
}

/// Where a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// There is none: not yet, or not any more.
    Absent,
    /// Its first connection is being made.
    Making,
    /// In a connection that is established and goes on.
    Here,
    /// In a connection that is ending.
    Leaving,
    /// Between two connections.
    Away,
}

/// How a part stands, as whoever keeps it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    place: Place,
    state: State,
    is_flushed: bool,
    peer: Option<SessionId>,
}

impl View {
    /// A part that is not there.
    pub(crate) const ABSENT: Self =
        Self { place: Place::Absent, state: State::Greeting, is_flushed: true, peer: None };

    pub(crate) fn new(session: &Session, place: Place) -> Self {
        Self {
            place,
            state: session.state(),
            is_flushed: session.is_flushed(),
            peer: session.peer().map(|peer| peer.session_id),
        }
    }

    /// Whether its connection is established.
    pub(crate) fn stands(&self) -> bool {
        self.place == Place::Here
    }

    /// Whether it ends as soon as what it holds has left.
    fn is_flushing(&self) -> bool {
        self.stands() && matches!(self.state, State::Draining | State::Finishing)
    }

    /// Whether it has ended, or is about to in order.
    fn is_leaving(&self) -> bool {
        let goes_on = matches!(self.state, State::Open | State::Down | State::Greeting);
        self.place == Place::Absent || !goes_on
    }
}

/// What is to be done now that the main part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// Make the express connection.
    Dial,
    /// The peer may be back for both: make the express connection again, at once.
    Hurry,
    /// The peer makes the express connection: give it the time of a handshake.
    Await,
    /// Both were to end while main was away: it leaves as well.
    Drain,
}

/// What the end of one part means for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Nothing,
    /// It ends, for the same reason.
    End,
    /// It is leaving, and may have waited for this.
    Follow,
    /// The peer's goodbye to it is on the way: it ends when that is not there in time.
    Bound,
}

/// Whether a part that has nothing left to send may say goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goodbye {
    Say,
    /// The other one flushes first.
    Wait,
    /// As `Wait`; the other one may have waited for this one.
    Nudge,
}

/// How both parts are to end when the application wants them to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parting {
    /// Main flushes, and express.
    Both,
    /// Main is away and comes back no more; what express holds can still leave.
    Express,
    /// Main is away, and express has nothing to wait for: at once.
    Now,
}

/// What a part had not delivered when it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Remains {
    pub(crate) messages_dropped: u64,
    pub(crate) undelivered: Vec<Undelivered>,
}

impl Remains {
    /// Adds what another part has left. Lane by lane, in order within each.
    pub(crate) fn join(&mut self, other: Self) {
        self.messages_dropped += other.messages_dropped;
        self.undelivered.extend(other.undelivered);
        // Stable: the lanes of a part are in order.
        self.undelivered.sort_by_key(|message| message.priority);
    }
}

/// How far the end of a part is.
#[derive(Debug, Default)]
enum End {
    #[default]
    Ahead,
    /// It is over; what it leaves is not known yet.
    Over,
    /// What it leaves is known, and not told.
    Left(Remains),
    Told,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    /// The express part has been there.
    has_express: bool,
    /// The application knows that both stand.
    is_complete: bool,
    /// It has known it before.
    was_complete: bool,
    main: End,
    express: End,
}

impl Pair {
    /// The main part stands. `express`: how the other one does.
    pub(crate) fn main_established(&self, role: Role, express: &View) -> Next {
        match (self.has_express, role) {
            (false, Role::Dialer) => Next::Dial,
            (false, Role::Listener) => Next::Await,
            (true, _) if self.is_express_over() || express.is_leaving() => Next::Drain,
            (true, Role::Dialer) => Next::Hurry,
            (true, Role::Listener) => Next::Nothing,
        }
    }

    /// Whether an express part may join: one only, and none that comes late.
    pub(crate) fn may_join(&self) -> bool {
        !self.has_express && self.awaits_express()
    }

    /// Whether the main part can have an express part.
    pub(crate) fn awaits_express(&self) -> bool {
        matches!(self.main, End::Ahead)
    }

    /// The express part is there, its handshake under way.
    pub(crate) fn join(&mut self) {
        assert!(!self.has_express, "a session has one express part");
        self.has_express = true;
    }

    /// Whether the session has just become complete: both parts stand, and have the same peer.
    pub(crate) fn complete(&mut self, main: &View, express: &View) -> bool {
        let both_stand = main.stands() && (express.stands() || Mutation::PairHalfComplete.is_on());
        let are_one = express.peer.is_some_and(|peer| is_peer_of_both(main.peer, peer));
        let are_one = are_one || Mutation::PairHalfComplete.is_on();
        let is_news = !self.is_complete || Mutation::PairCompleteAgain.is_on();
        if !is_news || !both_stand || !are_one {
            return false;
        }
        (self.is_complete, self.was_complete) = (true, true);
        true
    }

    /// The application knows that both parts stand, and of no end of either since.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether a part may outlive its connection: not before the session was complete once.
    pub(crate) fn may_survive(&self) -> bool {
        self.was_complete || Mutation::PairSurvivesIncomplete.is_on()
    }

    /// The peer has lost its end of a part: the session is complete when both have begun anew.
    pub(crate) fn begin_anew(&mut self) {
        self.is_complete &= Mutation::PairNoAnew.is_on();
    }

    /// Ends a part. `has_lost`: with messages that it had not delivered. Returns what becomes of
    /// the other part, which stands as `other` says.
    pub(crate) fn end(
        &mut self,
        half: Half,
        reason: CloseReason,
        has_lost: bool,
        other: &View,
    ) -> Fate {
        let (own, others) = match half {
            Half::Main => (&mut self.main, &self.express),
            Half::Express => (&mut self.express, &self.main),
        };
        if !matches!(own, End::Ahead) {
            return Fate::Nothing;
        }
        *own = End::Over;
        // An other one that is over is the end that has asked for this one.
        let is_there = self.has_express && matches!(others, End::Ahead);
        if !is_there || Mutation::PairLeavesOther.is_on() {
            return Fate::Nothing;
        }
        let in_order = matches!(reason, CloseReason::Local | CloseReason::Goodbye);
        // A part that was flushed takes nothing from one that is still flushing.
        let goes_on = in_order || (!has_lost && other.is_flushing());
        match half {
            _ if !goes_on => Fate::End,
            // What it holds waits for both.
            Half::Express if !self.is_complete => Fate::End,
            Half::Main if other.is_flushing() => Fate::Follow,
            Half::Main => Fate::End,
            Half::Express if other.place == Place::Away => Fate::End,
            Half::Express if other.stands() && other.state == State::Open => Fate::Bound,
            Half::Express => Fate::Follow,
        }
    }

    /// A part is draining and flushed.
    pub(crate) fn goodbye(&self, half: Half, other: &View) -> Goodbye {
        if Mutation::PairEarlyGoodbye.is_on() {
            return Goodbye::Say;
        }
        match half {
            Half::Main if self.has_express && !self.is_express_over() => Goodbye::Nudge,
            Half::Main => Goodbye::Say,
            // One that is away can flush nothing.
            Half::Express if matches!(other.place, Place::Absent | Place::Away) => Goodbye::Say,
            Half::Express if other.is_flushed => Goodbye::Say,
            Half::Express => Goodbye::Wait,
        }
    }

    /// What a part leaves is known. Returns what both leave, once: when that of both is known.
    pub(crate) fn leave(&mut self, half: Half, remains: Remains) -> Option<Remains> {
        let own = match half {
            Half::Main => &mut self.main,
            Half::Express => &mut self.express,
        };
        match own {
            End::Ahead | End::Over => *own = End::Left(remains),
            End::Left(_) | End::Told => return None,
        }
        let is_known = |end: &End| matches!(end, End::Left(_));
        let is_alone = !self.has_express || Mutation::PairHalfFarewell.is_on();
        if !is_known(&self.main) || !(is_alone || is_known(&self.express)) {
            return None;
        }
        let End::Left(mut both) = std::mem::replace(&mut self.main, End::Told) else {
            unreachable!("just looked at")
        };
        if let End::Left(of_express) = std::mem::replace(&mut self.express, End::Told)
            && !Mutation::PairForgetsRemains.is_on()
        {
            both.join(of_express);
        }
        Some(both)
    }

    /// Whether the end of the session has been told.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn is_told(&self) -> bool {
        matches!(self.main, End::Told)
    }

    fn is_express_over(&self) -> bool {
        !matches!(self.express, End::Ahead)
    }

    /// Where the session stands, by where its parts do. `express` is `None` before it has joined.
    pub(crate) fn state(
        &self,
        main: ConnectionState,
        express: Option<ConnectionState>,
    ) -> ConnectionState {
        match (main, express) {
            (ConnectionState::Connected, Some(ConnectionState::Reconnecting)) => {
                ConnectionState::Reconnecting
            }
            (ConnectionState::Connected, Some(ConnectionState::Connecting)) => {
                ConnectionState::Connecting
            }
            (ConnectionState::Connected, _) if !self.is_complete => ConnectionState::Connecting,
            _ => main,
        }
    }
}

/// Whether an express part's peer is that of the main part.
pub(crate) fn is_peer_of_both(main: Option<SessionId>, express: SessionId) -> bool {
    main.is_some_and(|main| main.companion() == express) || Mutation::PairAnyPeer.is_on()
}

/// Main has found a new peer: whether the connection of the express part is still to the old one.
pub(crate) fn is_foreign(main: &View, express: &View) -> bool {
    let is_other = express.peer.is_some_and(|peer| !is_peer_of_both(main.peer, peer));
    express.stands() && is_other && !Mutation::PairKeepsForeign.is_on()
}

/// How both parts are to end.
pub(crate) fn parting(main: &View, express: &View) -> Parting {
    match main.place {
        Place::Away if may_leave_alone(main, express) => Parting::Express,
        Place::Away => Parting::Now,
        _ => Parting::Both,
    }
}

/// Whether express could still deliver what it holds while main is away.
pub(crate) fn may_leave_alone(main: &View, express: &View) -> bool {
    let is_open = matches!(express.state, State::Open | State::Draining | State::Finishing);
    main.place == Place::Away && express.stands() && is_open
}

/// The books of a session: of its parts together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    /// Messages ever admitted.
    pub(crate) messages_admitted: u64,
    pub(crate) frames_queued: u64,
    pub(crate) bytes_queued: u64,
    pub(crate) bytes_kept: u64,
    pub(crate) messages_missed: u64,
    pub(crate) messages_expired: u64,
    pub(crate) messages_expired_at_peer: u64,
    pub(crate) drops: Vec<DropCount>,
}

impl Accounts {
    /// Adds a part. No lane is in two.
    pub(crate) fn add(&mut self, part: &Session) {
        self.messages_admitted += part.messages_admitted();
        self.frames_queued += part.frames_queued();
        self.bytes_queued += part.bytes_queued() as u64;
        self.bytes_kept += part.kept_bytes() as u64;
        self.messages_missed += part.missed();
        self.messages_expired += part.expired();
        // Whatever the peer says.
        let expired_at_peer = part.expired_at_peer();
        self.messages_expired_at_peer =
            self.messages_expired_at_peer.saturating_add(expired_at_peer);
        self.drops.extend(part.drop_counts());
    }
}

#[cfg(test)]
mod tests;

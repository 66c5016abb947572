//! The rules of talking to one peer. Sans-IO: bytes and `now` come in, bytes and events come out.
//!
//! A [`Session`] owns the handshake, the four lanes and their sequences. It never sees a socket, a
//! ring or a clock, so the same code runs in tests without any.
//!
//! The order of calls: [`Session::handle`] for each received frame, [`Session::push`] for each
//! message to send, then [`Session::poll_block`] whenever nothing is in flight, and
//! [`Session::block_sent`] when the block has left.
//!
//! Higher lanes overtake lower ones at frame boundaries: a block holds frames of one lane only and
//! the highest lane with something to send goes first, except that a lane that waits is passed over
//! a number of times at most (see `turns`): none starves. The session's own frames (hello, welcome,
//! reject, goodbye) go before all lanes, the goodbye only once they are empty.
//!
//! # Links
//!
//! A session outlives its connections when both ends want it to: [`Session::link_lost`] when the
//! link is gone, [`Session::answer`] or [`Session::accept_welcome`] when there is another. In
//! between it is *down*: reliable messages are admitted and kept, best-effort ones refused. A
//! connection whose handshake is under way has a session of its own, which is replaced by the old
//! one when the peer turns out to have it too.
//!
//! # Confirmation
//!
//! Every frame with the extension confirms what was received in its lane. When none leaves for a
//! while, or much has come, an acknowledgement frame does it for all lanes (see `confirmations`).
//! So a confirmation costs no round trip, and a conversation of requests and answers no frame.

pub(crate) mod backoff;
pub(crate) mod block;
pub(crate) mod clock;
mod confirmations;
mod ending;
pub(crate) mod envelope;
mod greeting;
pub(crate) mod heartbeat;
pub(crate) mod lane;
mod ledger;
pub(crate) mod mutation;
pub(crate) mod pair;
pub(crate) mod pool;
mod receiving;
pub(crate) mod requests;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sim;
pub(crate) mod state;
#[cfg(test)]
mod tests;
mod turns;
mod undelivered;
pub(crate) mod watchdog;

use crate::config::Overflow;
use crate::error::SendError;
use crate::mem::Buffer;
use crate::session::block::Block;
use crate::session::clock::{ClockEstimate, Offset};
use crate::session::confirmations::Confirmations;
pub(crate) use crate::session::ending::Returned;
pub(crate) use crate::session::envelope::Correlation;
pub use crate::session::envelope::Envelope;
use crate::session::envelope::{frame_head, plain_head, simple_head};
pub use crate::session::greeting::PeerInfo;
pub(crate) use crate::session::greeting::{HelloClaim, Reunion};
use crate::session::heartbeat::{Action, Heartbeat, HeartbeatPolicy, Pace};
use crate::session::lane::{Care, Holdings, Lane, LaneLimits, LaneStatus, SendMemory};
pub(crate) use crate::session::ledger::Admissions;
use crate::session::ledger::Ledger;
use crate::session::mutation::Mutation;
pub(crate) use crate::session::receiving::Input;
use crate::session::state::{Event, State};
use crate::session::turns::Turns;
pub use crate::session::undelivered::Undelivered;
use crate::session::watchdog::Watchdog;
use crate::time::Nanos;
use crate::wire::acknowledgement::ACKNOWLEDGEMENT_BYTES;
use crate::wire::handshake::{Features, HANDSHAKE_BYTES_MAX, SessionId, write_farewell};
use crate::wire::heartbeat::{Beat, HEARTBEAT_FRAME_BYTES, write_heartbeat};
use crate::wire::{Body, Checksum, Decoder, Flags, Kind, Priority, Scratch};

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Connected: says hello.
    Dialer,
    /// Accepted: answers.
    Listener,
}

/// Which part of what the application calls a session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The lanes up to normal; there is, or is to be, an express part.
    Main,
    /// The lanes from high on.
    Express,
}

/// What both ends of every session of a reactor have in common.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// What this node offers in a hello.
    pub(crate) dialer_features: Features,
    /// What this node offers in a welcome.
    pub(crate) listener_features: Features,
    pub(crate) node_name: String,
    pub(crate) node_number: u32,
    pub(crate) schema_hash: u64,
    pub(crate) frame_bytes_max: u32,
    pub(crate) checksum: Checksum,
    pub(crate) heartbeat: HeartbeatPolicy,
    pub(crate) clock_drift_ppm: u32,
    pub(crate) watches_max: usize,
}

impl Identity {
    /// Whether every frame carries a checksum.
    fn checksums_all(&self) -> bool {
        self.checksum == Checksum::Always
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    role: Role,
    part: Part,
    /// Names this end.
    id: SessionId,
    state: State,
    decoder: Decoder,
    limits: LaneLimits,
    lanes: [Lane; Priority::COUNT],
    /// What is in the lanes waits: see [`Session::hold`].
    is_held: bool,
    turns: Turns,
    /// The session's own frames: at most a greeting or a reject, and a goodbye.
    control: Option<Block>,
    confirmations: Confirmations,
    /// Messages of ours that came too late for the peer to handle, as far as it has said.
    expired_at_peer: u64,
    /// Life signs of the present link.
    heartbeat: Option<Heartbeat>,
    /// A heartbeat frame that is due.
    beat: Option<Beat>,
    clock: ClockEstimate,
    /// When our hello was made.
    hello_at: Nanos,
    /// The last round trip of a heartbeat.
    round_trip_ns: Option<u64>,
    /// It has not been taken yet.
    round_trip_is_new: bool,
    pub(crate) watchdog: Watchdog,
    /// Nothing that waits in a lane is too old before that.
    expires_from: Nanos,
    holdings: Holdings,
    peer: Option<Box<PeerInfo>>,
    /// The other end, for a greeting.
    peer_id: SessionId,
    /// When the peer's last greeting was written, by its clock.
    greeted_at: u64,
    /// The session that this one says hello for has had a link before.
    returns: bool,
    ledger: Ledger,
}

/// Which queue a block came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Control,
    Lane(Priority),
}

/// What the passing of time did to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Expiry {
    /// Nothing, or there is something to send now.
    GoOn,
    /// Nothing was heard of the peer for too long.
    PeerSilent,
}

impl Session {
    pub(crate) fn new(role: Role, id: SessionId, limits: LaneLimits, identity: &Identity) -> Self {
        Self {
            role,
            part: Part::Whole,
            id,
            state: State::Greeting,
            decoder: Decoder::new(HANDSHAKE_BYTES_MAX),
            limits,
            lanes: Priority::ALL.map(Lane::new),
            is_held: false,
            turns: Turns::default(),
            control: None,
            confirmations: Confirmations::new(),
            expired_at_peer: 0,
            heartbeat: None,
            beat: None,
            clock: ClockEstimate::new(identity.clock_drift_ppm),
            hello_at: Nanos(0),
            round_trip_ns: None,
            round_trip_is_new: false,
            watchdog: Watchdog::with_capacity(identity.watches_max),
            expires_from: Nanos::NEVER,
            holdings: Holdings::default(),
            peer: None,
            peer_id: SessionId::default(),
            greeted_at: 0,
            returns: false,
            ledger: Ledger::default(),
        }
    }

    /// As if so many messages had gone each way in every lane. Both ends must, before the first.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn begin_at(&mut self, sequences: [u64; Priority::COUNT]) {
        for (lane, sequence) in self.lanes.iter_mut().zip(sequences) {
            lane.begin_at(sequence);
        }
        self.confirmations.received = sequences;
    }

    /// Says which part it is. To be called before its greeting is written.
    pub(crate) fn set_part(&mut self, part: Part, id: SessionId) {
        assert_eq!(self.state, State::Greeting, "the peer knows already");
        self.part = part;
        self.id = id;
    }

    pub(crate) fn part(&self) -> Part {
        self.part
    }

    /// Has what is in the lanes wait, and not the session's own frames, until
    /// [`release`](Self::release): the peer takes no message before the other part stands as well.
    pub(crate) fn hold(&mut self) {
        self.is_held = !Mutation::PairNoHold.is_on();
    }

    /// What is in the lanes may leave.
    pub(crate) fn release(&mut self) {
        self.is_held = false;
    }

    /// Names this end.
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// The link is gone, and the session is to outlive it. `returned` is the block that was in
    /// flight.
    pub(crate) fn link_lost(&mut self, returned: Option<Returned>, memory: &mut SendMemory) {
        self.state = self.state.step(Event::LinkLost);
        if let Some(Returned { source, block, sent }) = returned {
            match source {
                Source::Lane(priority) => self.lanes[priority.index()].put_back(block, sent),
                Source::Control => memory.pool.give(block.buffer),
            }
        }
        if let Some(block) = self.control.take() {
            memory.pool.give(block.buffer);
        }
        for lane in &mut self.lanes {
            lane.link_lost(memory, &mut self.holdings);
        }
        self.confirmations.link_lost();
        self.heartbeat = None;
        self.beat = None;
    }

    /// As [`Session::push`], of a bare message behind others in a block with room, as nearly all of
    /// a stream are. `None` for any other: nothing has changed.
    ///
    /// Inlined where the message is sent, so that what is known there of its envelope and length
    /// takes no time.
    #[inline(always)]
    pub(crate) fn append<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        body: &B,
        identity: &Identity,
        now: Nanos,
        scratch: &mut Scratch,
    ) -> Option<usize> {
        let index = envelope.lane_index();
        if self.state != State::Open
            || !envelope.is_bare()
            || identity.checksums_all()
            || self.limits.overflow[index] == Overflow::LatestValue
        {
            return None;
        }
        let head = envelope.bare_head(body, now);
        self.lanes[index].append(head, body, &self.limits, scratch)
    }

    /// Queues a message.
    ///
    /// Hot path: once per message. No allocation, no syscall.
    #[inline(always)]
    pub(crate) fn push<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        correlation: Correlation,
        body: &B,
        identity: &Identity,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Result<usize, SendError> {
        let is_plain = correlation == Correlation::None && envelope.is_plain();
        if !is_plain {
            return self.push_extended(envelope, correlation, body, identity, now, memory);
        }
        if let Some(written) = self.append(envelope, body, identity, now, &mut memory.scratch) {
            return Ok(written);
        }
        let index = envelope.lane().index();
        if self.state != State::Open
            || identity.checksums_all()
            || self.limits.overflow[index] == Overflow::LatestValue
        {
            return self.push_special(envelope, correlation, body, identity, now, memory);
        }
        if !envelope.kind().is_application() {
            return Err(SendError::KindReserved { kind: envelope.kind() });
        }
        if envelope.is_reliable() {
            return self.push_reliable(envelope, body, identity, now, memory);
        }
        let mut head = plain_head(envelope, body, Flags::default(), now);
        let (limits, holdings) = (&self.limits, &mut self.holdings);
        self.lanes[index].push(&mut head, Care::NONE, body, limits, memory, holdings)
    }

    /// As [`Session::push`], for commands, requests and their answers, which have the extension.
    /// There is no more to most of them: [simple](Envelope::is_simple), in a lane that drops none.
    #[inline(never)]
    fn push_extended<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        correlation: Correlation,
        body: &B,
        identity: &Identity,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Result<usize, SendError> {
        let lane = envelope.lane();
        if self.state != State::Open
            || !envelope.is_simple()
            || self.limits.overflow[lane.index()] != Overflow::Reject
        {
            return self.push_special(envelope, correlation, body, identity, now, memory);
        }
        let received = self.confirmations.received[lane.index()];
        let mut head = simple_head(envelope, correlation, body, identity, now, received);
        let (limits, holdings) = (&self.limits, &mut self.holdings);
        let written =
            self.lanes[lane.index()].push(&mut head, Care::NONE, body, limits, memory, holdings)?;
        self.confirmations.confirmed(lane);
        Ok(written)
    }

    /// As [`Session::push`], for telemetry that is reliable: it needs no extension but to confirm
    /// what came the other way. Out of line, so that the plain path is short.
    #[inline(never)]
    fn push_reliable<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        body: &B,
        identity: &Identity,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Result<usize, SendError> {
        let index = envelope.lane().index();
        if self.confirmations.owes(index) {
            return self.push_special(envelope, Correlation::None, body, identity, now, memory);
        }
        let mut head = plain_head(envelope, body, Flags::RELIABLE, now);
        let (limits, holdings) = (&self.limits, &mut self.holdings);
        self.lanes[index].push(&mut head, Care::RELIABLE, body, limits, memory, holdings)
    }

    /// As [`Session::push`], for what is neither plain nor simple, and for lanes and states that
    /// are not either. Out of line, so that the other ways are short.
    #[inline(never)]
    fn push_special<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        correlation: Correlation,
        body: &B,
        identity: &Identity,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Result<usize, SendError> {
        let is_kept = self.state == State::Down && envelope.is_reliable();
        if self.state != State::Open && !is_kept {
            return Err(SendError::NotConnected);
        }
        let is_cancel = matches!(correlation, Correlation::Cancel(_));
        if !envelope.kind().is_application() && !is_cancel {
            return Err(SendError::KindReserved { kind: envelope.kind() });
        }
        let index = envelope.lane().index();
        let overflow = self.limits.overflow[index];
        let care = envelope.care(correlation, body, overflow, now)?;
        let confirms = self.confirmations.owes(index);
        let mut head = frame_head(envelope, correlation, body, identity, now, confirms);
        if let Some(extension) = &mut head.extension {
            extension.ttl_us = envelope.ttl_us_with(correlation).into();
            extension.acknowledged = self.confirmations.received[index].into();
        }
        // What may be dropped before it leaves confirms nothing for certain.
        let may_be_dropped = care.expiry != Nanos::NEVER
            || care.key.is_some()
            || (overflow == Overflow::DropOldest && !care.reliable);
        let confirms = head.extension.is_some() && !may_be_dropped;
        let (limits, holdings) = (&self.limits, &mut self.holdings);
        let written = self.lanes[index].push(&mut head, care, body, limits, memory, holdings)?;
        self.expires_from = self.expires_from.min(care.expiry);
        if confirms {
            self.confirmations.confirmed(envelope.lane());
        }
        Ok(written)
    }

    /// The next block to send: the session's own frames, then the highest lane.
    #[inline]
    pub(crate) fn poll_block(
        &mut self,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Option<(Source, Block)> {
        // Where in memory it stands tells blocks of two lanes apart.
        let place = |block: &Block| (block.buffer.bytes().as_ptr(), block.span);
        let promised = if cfg!(debug_assertions) { self.plain_front().map(place) } else { None };
        let next = self.next_block(now, memory);
        debug_assert!(
            promised.is_none() || next.as_ref().map(|(_, block)| place(block)) == promised,
            "what is sent from where it waits comes next",
        );
        if next.is_some()
            && let Some(heartbeat) = &mut self.heartbeat
        {
            heartbeat.sent(now);
        }
        next
    }

    /// The block that [`Session::poll_block`] gives next, where that is plain to see: nothing of
    /// the session's own goes before it, no lane has been passed over for too long, and nothing has
    /// to be dropped or told. It can be sent from where it waits and be taken after that.
    #[inline]
    pub(crate) fn plain_front(&self) -> Option<&Block> {
        if !self.is_turn_of_lanes() || self.turns.overdue().is_some() {
            return None;
        }
        self.lanes.iter().rev().find(|lane| !lane.is_empty())?.blocks_behind().next()
    }

    /// Whether the next block is one of a lane, if there is any.
    #[inline]
    fn is_turn_of_lanes(&self) -> bool {
        self.control.is_none()
            && self.state == State::Open
            && !self.has_own_block()
            && !self.is_held
    }

    #[inline]
    fn next_block(&mut self, now: Nanos, memory: &mut SendMemory) -> Option<(Source, Block)> {
        if let Some(block) = self.control.take() {
            return Some((Source::Control, block));
        }
        if matches!(self.state, State::Greeting | State::Down) {
            return None;
        }
        if self.has_own_block()
            && let Some(block) = self.poll_own(now, memory)
        {
            return Some((Source::Control, block));
        }
        if self.is_held {
            return None;
        }
        for priority in self.turns.order() {
            let lane = &mut self.lanes[priority.index()];
            if lane.is_empty() {
                continue;
            }
            if let Some(block) = lane.take(now, memory, &mut self.holdings) {
                if lane.take_lost_confirmation() {
                    self.confirm_again(priority, now);
                }
                let lanes = &self.lanes;
                self.turns.taken_by(priority, |other| !lanes[other.index()].is_empty());
                self.ledger.hand_over(priority, &block);
                return Some((Source::Lane(priority), block));
            }
        }
        None
    }

    /// The blocks that follow one from `source`, oldest first: as long as nothing else has its turn
    /// before them, and nothing can make one obsolete. [`Session::poll_behind`] takes them.
    #[inline]
    pub(crate) fn blocks_behind(&self, source: Source) -> impl Iterator<Item = &Block> {
        let lane = match source {
            Source::Lane(priority) if self.has_only(priority) => {
                Some(&self.lanes[priority.index()])
            }
            Source::Lane(_) | Source::Control => None,
        };
        lane.into_iter().flat_map(Lane::blocks_behind)
    }

    /// Whether nothing waits but in one lane.
    #[inline]
    fn has_only(&self, priority: Priority) -> bool {
        let others = || Priority::ALL.into_iter().filter(|other| *other != priority);
        self.is_turn_of_lanes() && others().all(|other| self.lanes[other.index()].is_empty())
    }

    /// The first of [`Session::blocks_behind`].
    #[inline]
    pub(crate) fn poll_behind(
        &mut self,
        source: Source,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Option<Block> {
        let Source::Lane(priority) = source else { return None };
        let lane = &mut self.lanes[priority.index()];
        let block = lane.take(now, memory, &mut self.holdings)?;
        self.ledger.hand_over(priority, &block);
        Some(block)
    }

    /// Whether something that waits has a time to live.
    #[inline]
    pub(crate) fn may_expire(&self) -> bool {
        self.lanes.iter().any(Lane::may_expire)
    }

    /// When something that waits in a lane is too old to be sent, or sooner.
    #[inline]
    pub(crate) fn expires_from(&self) -> Nanos {
        let is_waiting = self.expires_from != Nanos::NEVER
            && !Mutation::NoExpiry.is_on()
            && !Mutation::NoTtl.is_on()
            && self.lanes.iter().any(|lane| !lane.is_empty());
        if is_waiting { self.expires_from } else { Nanos::NEVER }
    }

    /// Drops what waits in the lanes and is too old to be sent: for a session without a link, and
    /// one whose peer takes nothing. To be called at [`Session::deadline`].
    #[cold]
    pub(crate) fn drop_expired(&mut self, now: Nanos, memory: &mut SendMemory) {
        if self.expires_from() > now {
            return;
        }
        for priority in Priority::ALL {
            let lane = &mut self.lanes[priority.index()];
            lane.expire(now, memory, &mut self.holdings);
            if lane.take_lost_confirmation() {
                self.confirm_again(priority, now);
            }
        }
        self.expires_from = self.earliest_expiry();
    }

    /// Drops a request that has not been sent, and the peer need not be told of. Returns whether it
    /// did.
    #[cold]
    pub(crate) fn withdraw(
        &mut self,
        lane: Priority,
        correlation: u64,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> bool {
        let index = lane.index();
        let is_withdrawn = self.lanes[index].withdraw(correlation, memory, &mut self.holdings);
        if is_withdrawn {
            self.confirm_again(lane, now);
        }
        is_withdrawn
    }

    /// A message has gone that may have carried a confirmation, which something else is to carry
    /// now: without a link the next greeting does.
    #[cold]
    fn confirm_again(&mut self, lane: Priority, now: Nanos) {
        if self.confirmations.received[lane.index()] > 0 && self.state != State::Down {
            self.confirmations.confirm_later(lane, 0, now);
        }
    }

    fn earliest_expiry(&self) -> Nanos {
        self.lanes.iter().map(Lane::expiry).min().unwrap_or(Nanos::NEVER)
    }

    /// Whether [`Session::poll_block`] has something to give.
    #[inline]
    pub(crate) fn has_block(&self) -> bool {
        self.control.is_some()
            || (!matches!(self.state, State::Greeting | State::Down)
                && (self.has_own_block()
                    || (!self.is_held && self.lanes.iter().any(|lane| !lane.is_empty()))))
    }

    /// Books a block that has been handed to the kernel in full. Its memory comes back, at once or
    /// when the peer has confirmed what is in it.
    #[inline]
    pub(crate) fn block_sent(&mut self, source: Source, block: Block, memory: &mut SendMemory) {
        match source {
            Source::Control => memory.pool.give(block.buffer),
            Source::Lane(priority) => {
                let lane = &mut self.lanes[priority.index()];
                lane.settle(block, memory, &mut self.holdings);
            }
        }
    }

    /// Books that time has passed. To be called at [`Session::deadline`]. `pace` is that of all
    /// sessions of a core.
    pub(crate) fn expire(&mut self, now: Nanos, pace: &mut Pace) -> Expiry {
        self.confirmations.expire(now);
        if let Some(heartbeat) = &mut self.heartbeat {
            match heartbeat.poll(now, pace) {
                Action::Nothing => {}
                Action::SendHeartbeat(_) if Mutation::NoHeartbeats.is_on() => {}
                Action::SendHeartbeat(beat) => self.beat = Some(beat),
                Action::PeerDead if Mutation::NoSilenceCheck.is_on() => {}
                Action::PeerDead => return Expiry::PeerSilent,
            }
        }
        Expiry::GoOn
    }

    /// What has come since `caught_up` may not have been handled yet: the peer's silence since then
    /// is judged at `look_again`. To be called before [`Session::expire`].
    pub(crate) fn lag_behind(&mut self, caught_up: Nanos, now: Nanos, look_again: Nanos) {
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.lag_behind(caught_up, now, look_again);
        }
    }

    /// When the messages that nothing has confirmed must be.
    #[inline]
    pub(crate) fn confirm_at(&self) -> Nanos {
        self.confirmations.due_at()
    }

    /// The peer's clock minus ours and how far off that may be; `None` before it was measured.
    pub(crate) fn clock_offset(&self, now: Nanos) -> Option<Offset> {
        self.clock.offset(now)
    }

    /// The last measured round trip of a heartbeat.
    pub(crate) fn round_trip_ns(&self) -> Option<u64> {
        self.round_trip_ns
    }

    /// A round trip of a heartbeat that has just been measured, once.
    pub(crate) fn take_round_trip(&mut self) -> Option<u64> {
        let is_new = std::mem::take(&mut self.round_trip_is_new);
        self.round_trip_ns.filter(|_| is_new)
    }

    /// What waits in a lane.
    pub(crate) fn lane_status(&self, lane: Priority) -> LaneStatus {
        self.lanes[lane.index()].status()
    }

    /// Messages of ours that came too late for the peer to handle, as far as it has said.
    pub(crate) fn expired_at_peer(&self) -> u64 {
        self.expired_at_peer
    }

    /// When [`Session::expire`] has something to do.
    #[inline]
    pub(crate) fn deadline(&self) -> Nanos {
        let heartbeat = self.heartbeat.as_ref().map_or(Nanos::NEVER, Heartbeat::deadline);
        self.confirm_at().min(heartbeat).min(self.watchdog.deadline()).min(self.expires_from())
    }

    /// Whether an acknowledgement or a heartbeat is due.
    #[inline]
    pub(crate) fn has_own_block(&self) -> bool {
        self.confirmations.is_due || self.beat.is_some()
    }

    /// Whether a lane that drops its oldest messages when it is full may have done so since the
    /// last of its blocks left.
    #[inline]
    pub(crate) fn has_made_room(&self, lane: Priority) -> bool {
        self.limits.overflow[lane.index()] == Overflow::DropOldest && self.has_untold_drops()
    }

    /// Whether everything has left, and the peer has confirmed every reliable message.
    pub(crate) fn is_flushed(&self) -> bool {
        self.frames_queued() == 0 && self.lanes.iter().all(Lane::is_confirmed)
    }

    /// Messages that came too late to be handled.
    pub(crate) fn expired(&self) -> u64 {
        self.confirmations.expired()
    }

    /// Messages of the peer's that will not come: it dropped them.
    pub(crate) fn missed(&self) -> u64 {
        self.confirmations.missed.iter().sum()
    }

    /// Memory kept until the peer confirms what is in it.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.lanes.iter().map(Lane::kept_bytes).sum()
    }

    #[inline]
    pub(crate) fn state(&self) -> State {
        self.state
    }

    #[inline]
    pub(crate) fn decoder(&self) -> Decoder {
        self.decoder
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Who is at the other end, once the handshake is complete.
    pub(crate) fn peer(&self) -> Option<&PeerInfo> {
        self.peer.as_deref()
    }

    /// Frames queued and in flight, all lanes.
    pub(crate) fn frames_queued(&self) -> u64 {
        self.lanes.iter().map(|lane| u64::from(lane.frames())).sum()
    }

    /// Bytes queued and in flight in one lane.
    #[inline]
    pub(crate) fn lane_bytes(&self, lane: Priority) -> usize {
        self.lane_bytes_at(lane.index())
    }

    /// The same by [`Priority::index`].
    #[inline]
    pub(crate) fn lane_bytes_at(&self, index: usize) -> usize {
        self.lanes[index].bytes()
    }

    /// Of those, the ones that are not in flight.
    #[inline]
    pub(crate) fn lane_waiting_bytes(&self, lane: Priority) -> usize {
        self.lanes[lane.index()].waiting_bytes()
    }

    /// Messages ever admitted, all lanes.
    pub(crate) fn messages_admitted(&self) -> u64 {
        self.lanes.iter().map(Lane::admitted).sum()
    }

    /// Bytes queued and in flight, all lanes.
    pub(crate) fn bytes_queued(&self) -> usize {
        self.lanes.iter().map(Lane::bytes).sum()
    }

    /// A heartbeat or an acknowledgement that is due.
    #[cold]
    fn poll_own(&mut self, now: Nanos, memory: &mut SendMemory) -> Option<Block> {
        let Some(beat) = self.beat.take() else { return self.confirm(now, memory) };
        let Some(buffer) = memory.pool.take(HEARTBEAT_FRAME_BYTES) else {
            self.beat = Some(beat);
            return None;
        };
        let mut block = Block::new(buffer, 1);
        block.span.filled = write_heartbeat(&beat, block.buffer.bytes_mut());
        Some(block)
    }

    /// An acknowledgement frame for all lanes.
    fn confirm(&mut self, now: Nanos, memory: &mut SendMemory) -> Option<Block> {
        let buffer = memory.pool.take(ACKNOWLEDGEMENT_BYTES)?;
        let mut block = Block::new(buffer, 1);
        block.span.filled = self.confirmations.write(now, block.buffer.bytes_mut());
        Some(block)
    }

    fn push_farewell(
        &mut self,
        kind: Kind,
        mut buffer: Buffer,
        reason: u16,
        detail: u32,
        now: Nanos,
    ) {
        let filled = write_farewell(kind, reason, detail, now.0, buffer.bytes_mut());
        self.push_control(buffer, filled);
    }

    fn push_control(&mut self, buffer: Buffer, filled: usize) {
        assert!(self.control.is_none(), "one handshake frame at a time");
        let mut block = Block::new(buffer, 1);
        block.span.filled = filled;
        self.control = Some(block);
    }
}

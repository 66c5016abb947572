//! Which member takes a message, and what to do when it refuses.
//!
//! A message without a key is offered to one member after the other, best first, until one takes
//! it or all have refused: so a member that dies at this moment costs the caller nothing. A message
//! with a key is offered to the member of its slot alone.
//!
//! Invariant: what is taken is in one lane of one member; a refusal has changed nothing.

use std::time::Duration;

use slotmap::SlotMap;

use crate::config::Overflow;
use crate::error::{RequestError, SendError};
use crate::reactor::connection::{Connection, ConnectionId, ConnectionKey};
use crate::reactor::core::{Admitted, Core};
use crate::reactor::message::Message;
use crate::reactor::pool::{PoolId, Pools};
use crate::reactor::sessions::{Home, SessionKey, random};
use crate::reactor::{Context, Reactor, RequestId};
use crate::session::pool::{Seen, Slots};
use crate::session::state::State;
use crate::session::{Correlation, Envelope};
use crate::wire::{Body, Priority};

/// Which member of a pool takes a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The connected member whose lane holds the fewest bytes; equal ones in turn. When a member
    /// can not take it another does. With no member connected, a reliable message is kept by one
    /// whose link was lost and is being made again; others are refused.
    LeastQueued,
    /// Always the same place in the pool for the same key, among the `members_min` that are kept:
    /// so messages of one key and priority arrive in the order they were sent in, also over lost
    /// links and however the pool grows and shrinks. What the member in that place can not take is
    /// refused, never given to another: best-effort messages while its link is away, and all until
    /// it has a session. A session that is lost for good takes its unconfirmed reliable messages
    /// with it, and its event names them
    /// ([`EventKind::SessionLost`](crate::EventKind::SessionLost)); the next session in its place
    /// goes on with what is sent then. It knows nothing of the lost one, so what that had sent may
    /// still be on its way when the peer handles what comes after.
    Key(u64),
}

/// A message on its way to a member.
#[derive(Debug)]
struct Offer {
    pool: PoolId,
    choice: Choice,
    is_reliable: bool,
    lane: Priority,
    /// The member that has it in hand.
    slot: usize,
    /// Who has refused it.
    tried: Slots,
    /// What the last of them said.
    refusal: Option<SendError>,
}

impl Offer {
    fn new(pool: PoolId, choice: Choice, envelope: Envelope) -> Self {
        let (is_reliable, lane) = (envelope.is_reliable(), envelope.lane());
        let tried = Slots::default();
        Self { pool, choice, is_reliable, lane, slot: 0, tried, refusal: None }
    }

    /// Whether the member that has it in hand is full.
    fn was_full(&self) -> bool {
        matches!(self.refusal, Some(SendError::Full | SendError::MemoryFull))
    }
}

impl Core {
    /// Queues a message on a member of a pool. Hot path: no allocation, no syscall.
    #[inline]
    pub(crate) fn pool_push<B: Body + ?Sized>(
        &mut self,
        pool: PoolId,
        choice: Choice,
        envelope: Envelope,
        body: &B,
    ) -> Result<(ConnectionId, Admitted), SendError> {
        let mut offer = Offer::new(pool, choice, envelope);
        loop {
            let member = self.offer(&mut offer)?;
            match self.push_to(member, envelope, Correlation::None, body) {
                Ok(admitted) => {
                    self.pools.table[pool.key].counts.sends += 1;
                    return Ok((member, admitted));
                }
                Err(error) => self.refuse(&mut offer, error)?,
            }
        }
    }

    /// Queues a request on a member of a pool.
    pub(crate) fn pool_start_request<B: Body + ?Sized>(
        &mut self,
        pool: PoolId,
        choice: Choice,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<RequestId, RequestError> {
        self.refresh_now();
        let mut offer = Offer::new(pool, choice, envelope);
        loop {
            let member = self.offer(&mut offer)?;
            match self.start_request(member, envelope, body, timeout) {
                Ok(request) => {
                    self.pools.table[pool.key].counts.requests += 1;
                    return Ok(request);
                }
                Err(RequestError::Send(error)) => self.refuse(&mut offer, error)?,
                Err(error) => {
                    self.pools.table[pool.key].counts.refused.too_many_requests += 1;
                    return Err(error);
                }
            }
        }
    }

    /// The next member to offer a message to. Hot path.
    #[inline]
    fn offer(&mut self, offer: &mut Offer) -> Result<ConnectionId, SendError> {
        let Self { pools: Pools { table, .. }, pairs, homes, connections, reactor, .. } = self;
        let found = table.get_mut(offer.pool.key).filter(|_| offer.pool.reactor == *reactor);
        let Some(pool) = found else { return Err(SendError::NotConnected) };
        let (sessions, lane) = (&pool.sessions, offer.lane);
        let look = |slot: usize| match sessions[slot] {
            // High and critical messages may have a connection of their own.
            Some(id) => match pairs.carrier(id.key, lane) {
                Some(part) => seen(homes, connections, part, lane),
                None => Seen::Gone,
            },
            None => Seen::Gone,
        };
        let (slot, is_loaded) = match offer.choice {
            Choice::Key(key) => {
                let slot = pool.members.slot_of(key);
                let takes_it = match look(slot) {
                    _ if !pool.members.has_session(slot) => false,
                    Seen::Up { .. } => true,
                    Seen::Away { .. } => offer.is_reliable,
                    Seen::Gone => false,
                };
                if !takes_it {
                    return self.refused(offer, SendError::NotConnected);
                }
                (slot, false)
            }
            Choice::LeastQueued => {
                // Rather is the caller told that those who could take it are full.
                let may_wait = offer.is_reliable && !offer.was_full();
                match pool.members.choose(may_wait, offer.tried, look) {
                    Some(chosen) => (chosen.slot, chosen.is_loaded),
                    None => return self.nobody_takes(offer),
                }
            }
        };
        let member = pool.sessions[slot].expect("it was looked at");
        if offer.was_full() {
            pool.counts.passed_over += 1;
        }
        offer.slot = slot;
        if is_loaded {
            self.grow_pool(offer.pool);
        }
        Ok(member)
    }

    /// The member that was offered a message has refused it: whether to offer it to another.
    #[cold]
    fn refuse(&mut self, offer: &mut Offer, error: SendError) -> Result<(), SendError> {
        let is_of_the_member = match error {
            SendError::NotConnected => true,
            // Where that costs a member its session, one is enough.
            SendError::Full => self.limits.overflow[offer.lane.index()] != Overflow::Disconnect,
            SendError::MemoryFull => true,
            _ => false,
        };
        if offer.choice != Choice::LeastQueued || !is_of_the_member {
            return self.refused(offer, error);
        }
        offer.tried.insert(offer.slot);
        offer.refusal = Some(error);
        Ok(())
    }

    /// All have refused, or there is nobody: more members may help.
    #[cold]
    fn nobody_takes(&mut self, offer: &Offer) -> Result<ConnectionId, SendError> {
        let members = &self.pools.table[offer.pool.key].members;
        if offer.was_full() || members.is_stranded() {
            self.grow_pool(offer.pool);
        }
        self.refused(offer, offer.refusal.unwrap_or(SendError::NotConnected))
    }

    #[cold]
    fn refused<T>(&mut self, offer: &Offer, error: SendError) -> Result<T, SendError> {
        self.pools.table[offer.pool.key].counts.refused.count(error);
        Err(error)
    }

    #[cold]
    fn grow_pool(&mut self, pool: PoolId) {
        let members = &mut self.pools.table[pool.key].members;
        members.grow(self.now, random());
        let deadline = members.deadline();
        self.pools.note_due(deadline);
    }
}

/// What a session, or a part of one, looks like to one who chooses.
#[inline]
fn seen(
    homes: &SlotMap<SessionKey, Home>,
    connections: &SlotMap<ConnectionKey, Connection>,
    home: SessionKey,
    lane: Priority,
) -> Seen {
    match homes.get(home) {
        Some(&Home::Here(key)) => {
            let Some(connection) = connections.get(key) else { return Seen::Gone };
            let lane_bytes = connection.session.lane_bytes(lane);
            match connection.session.state() {
                State::Open if connection.is_live() => Seen::Up { lane_bytes },
                // Its link is ending, and it will outlive it.
                State::Open => Seen::Away { lane_bytes },
                _ => Seen::Gone,
            }
        }
        Some(Home::Away(away)) => Seen::Away { lane_bytes: away.session().lane_bytes(lane) },
        None => Seen::Gone,
    }
}

impl Reactor {
    /// Queues a message on a member of a pool; says which. It leaves with the next turn.
    ///
    /// Hot path: no allocation, no system call. Looks at the lanes of the connected members, up to
    /// the first that is empty.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued, on no member. [`SendError::NotConnected`] when no member
    /// can take it (see [`Choice`]), and for a pool that is closed.
    #[inline]
    pub fn pool_send<B: Body + ?Sized>(
        &mut self,
        pool: PoolId,
        choice: Choice,
        envelope: Envelope,
        body: &B,
    ) -> Result<ConnectionId, SendError> {
        self.core.refresh_for(envelope);
        self.core.pool_push(pool, choice, envelope, body).map(|(member, _)| member)
    }

    /// As [`Reactor::pool_send`]; says how full the lane is now.
    #[inline]
    pub(crate) fn pool_send_counting<B: Body + ?Sized>(
        &mut self,
        pool: PoolId,
        choice: Choice,
        envelope: Envelope,
        body: &B,
    ) -> Result<(ConnectionId, Admitted), SendError> {
        self.core.refresh_for(envelope);
        self.core.pool_push(pool, choice, envelope, body)
    }

    /// Queues a request on a member of a pool without waiting. [`Reactor::take_response`] tells
    /// the outcome, after turns. When the link it went over dies it is answered with an error at
    /// once, unless it is reliable: it may have been handled, so it is not sent to another member.
    ///
    /// # Errors
    ///
    /// [`RequestError::Send`] or [`RequestError::TooMany`]; nothing was queued.
    pub fn pool_start_request<B: Body + ?Sized>(
        &mut self,
        pool: PoolId,
        choice: Choice,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<RequestId, RequestError> {
        self.core.pool_start_request(pool, choice, envelope, body, timeout)
    }

    /// Sends a request through a pool and waits for its answer. Drives the reactor meanwhile:
    /// handlers are called, other messages go to the inbox.
    ///
    /// Blocks for up to `timeout`.
    ///
    /// # Errors
    ///
    /// [`RequestError`]. After a timeout the link lives on; a late answer is counted and dropped.
    pub fn pool_request<B: Body + ?Sized>(
        &mut self,
        pool: PoolId,
        choice: Choice,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let id = self.pool_start_request(pool, choice, envelope, body, timeout)?;
        loop {
            if let Some(outcome) = self.take_response(id) {
                self.flush_replies();
                return outcome;
            }
            self.turn_or_lose(id)?;
        }
    }
}

impl Context<'_> {
    /// Queues a message on a member of a pool of the same reactor; says which.
    ///
    /// # Errors
    ///
    /// As [`Reactor::pool_send`].
    pub fn pool_send<B: Body + ?Sized>(
        &mut self,
        pool: PoolId,
        choice: Choice,
        envelope: Envelope,
        body: &B,
    ) -> Result<ConnectionId, SendError> {
        self.core.refresh_within_turn(envelope);
        self.core.pool_push(pool, choice, envelope, body).map(|(member, _)| member)
    }
}

//! Pools: several sessions with one service, looked after together.
//!
//! The rules are in [`crate::session::pool`]; here they meet the sessions of a reactor. What
//! happens to a member comes as the events of its session ([`Core::observe`], where they are
//! published), what is to be done is done in the turn ([`Core::tend_pools`]). A member is known by
//! its [`ConnectionId`] only, so it has as many connections as its session likes.
//!
//! - `offer`: which member takes a message, and what to do when it refuses.
//! - `report`: what is counted, and what is told.
//!
//! Costs a comparison a turn while nothing is due. Not for sessions that peers have begun.

use std::time::Duration;

use crossbeam_channel::Sender;
use slotmap::{SlotMap, new_key_type};

use crate::config::PoolConfig;
use crate::endpoint::Address;
use crate::error::{CloseReason, ConnectError};
use crate::reactor::connection::{ConnectionId, ReactorId};
use crate::reactor::core::Core;
use crate::reactor::sessions::{backoff_policy, random};
use crate::reactor::{ConnectionInfo, Event, EventKind, Link, Reactor, ShutdownReport, Wait};
use crate::session::Session;
use crate::session::backoff::BackoffPolicy;
use crate::session::pool::{Carried, Happened, Members, PoolPolicy, Stand, Todo};
use crate::time::Nanos;

pub(crate) mod command;
mod offer;
mod report;

pub use self::offer::Choice;
pub(crate) use self::report::Counts;
pub use self::report::{PoolRefusals, PoolStatistics};

/// How long an idle member may take to say goodbye. It has nothing queued.
const REAP_DEADLINE: Duration = Duration::from_secs(1);

new_key_type! {
    /// A pool of one reactor. A key of a pool that is over finds nothing.
    pub(crate) struct PoolKey;
}

/// Names a pool of one reactor, from [`Reactor::pool`] until [`Reactor::pool_closed`] has told its
/// end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolId {
    pub(crate) reactor: ReactorId,
    key: PoolKey,
}

#[cfg(test)]
impl PoolId {
    /// One that no reactor has given out.
    pub(crate) fn of_nobody(index: u16) -> Self {
        Self { reactor: ReactorId::new(0, index), key: PoolKey::default() }
    }
}

/// What a pool is made from: its settings, and the addresses behind its endpoints.
#[derive(Debug, Clone)]
pub(crate) struct PoolPlan {
    config: PoolConfig,
    addresses: Vec<Address>,
}

impl PoolPlan {
    /// Asks the resolver about endpoints that are names.
    pub(crate) fn new(config: &PoolConfig) -> Result<Self, ConnectError> {
        let mut addresses = Vec::new();
        for endpoint in config.parsed() {
            let found = endpoint.resolve().map_err(|source| ConnectError::Resolve {
                host: endpoint.host().into_owned(),
                source,
            })?;
            for address in found {
                // A resolver may name an address twice.
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Ok(Self { config: config.clone(), addresses })
    }
}

/// The pools of a reactor.
#[derive(Debug)]
pub(crate) struct Pools {
    table: SlotMap<PoolKey, Pool>,
    /// All keys, to go through while the table changes.
    keys: Vec<PoolKey>,
    /// When one of them wants to be tended to.
    due: Nanos,
}

impl Default for Pools {
    fn default() -> Self {
        Self { table: SlotMap::with_key(), keys: Vec::new(), due: Nanos::NEVER }
    }
}

impl Pools {
    /// When one of them wants to be tended to.
    #[inline]
    pub(crate) fn due(&self) -> Nanos {
        self.due
    }

    /// The pool with this id, if it is of `reactor`. None once its end was told: whoever
    /// knows of the end finds it gone, whether it was forgotten by then or not.
    fn find(&self, reactor: ReactorId, pool: PoolId) -> Option<&Pool> {
        self.table.get(pool.key).filter(|found| pool.reactor == reactor && !found.is_told())
    }

    fn find_mut(&mut self, reactor: ReactorId, pool: PoolId) -> Option<&mut Pool> {
        self.table.get_mut(pool.key).filter(|found| pool.reactor == reactor && !found.is_told())
    }

    /// Forgets the pools whose end was told.
    fn forget_told(&mut self) {
        let Self { table, keys, .. } = self;
        table.retain(|_, pool| !pool.is_told());
        keys.retain(|&key| table.contains_key(key));
    }

    fn note_due(&mut self, deadline: Nanos) {
        self.due = self.due.min(deadline);
    }
}

/// A pool that is being closed.
#[derive(Debug, Default)]
struct Closing {
    report: ShutdownReport,
    /// Which slots had an established session when it began.
    was_up: Vec<bool>,
    /// Another thread closes it, which asks for no report later.
    is_asked: bool,
    /// Who waits for it to be over.
    askers: Vec<Sender<ShutdownReport>>,
    /// They were told; the pool is to be forgotten.
    is_told: bool,
}

/// One who waits, through a handle, for a pool to be ready.
#[derive(Debug)]
struct ReadyWaiter {
    reply: Sender<()>,
    /// When it gives up.
    until: Nanos,
}

/// See the module.
#[derive(Debug)]
struct Pool {
    members: Members,
    addresses: Vec<Address>,
    /// The session of each slot.
    sessions: Vec<Option<ConnectionId>>,
    /// Which links of each slot's session are lost, a bit each.
    links_lost: Vec<u8>,
    /// Reliable messages that a slot's session has just lost: counted once it is known how it goes
    /// on.
    lost: Vec<u64>,
    counts: Counts,
    /// Why the last attempt failed, or the last session was lost.
    failure: Option<CloseReason>,
    /// Told when every slot of the base is up.
    waiters: Vec<ReadyWaiter>,
    closing: Option<Closing>,
}

impl Pool {
    fn new(plan: PoolPlan, first_address: u16, backoff: BackoffPolicy, now: Nanos) -> Self {
        let PoolPlan { config, addresses } = plan;
        let members_max = config.members_max() as usize;
        let policy = PoolPolicy {
            members_min: config.members_min() as usize,
            members_max,
            grow_bytes: config.grow_bytes() as usize,
            idle_after: config.idle_after(),
            addresses: addresses.len(),
            first_address: first_address.into(),
            backoff,
        };
        Self {
            members: Members::new(policy, now),
            addresses,
            sessions: vec![None; members_max],
            links_lost: vec![0; members_max],
            lost: vec![0; members_max],
            counts: Counts::default(),
            failure: None,
            waiters: Vec::new(),
            closing: None,
        }
    }

    fn is_told(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.is_told)
    }

    fn slot_of(&self, connection: ConnectionId) -> Option<usize> {
        self.sessions.iter().position(|&session| session == Some(connection))
    }

    /// An event of the session in `slot`.
    #[cold]
    fn observe(&mut self, slot: usize, kind: &EventKind, now: Nanos) {
        let happened = match *kind {
            EventKind::Connected => {
                self.links_lost[slot] = 0;
                Happened::Connected
            }
            EventKind::LinkLost { link, reason, messages_dropped } => {
                self.links_lost[slot] |= bit(link);
                self.failure = Some(reason);
                self.dropped(messages_dropped);
                Happened::LinkLost
            }
            EventKind::Resumed { link, messages_dropped } => {
                self.dropped(messages_dropped);
                self.links_lost[slot] &= !bit(link);
                if self.links_lost[slot] != 0 {
                    return;
                }
                Happened::Resumed
            }
            EventKind::SessionLost { ref undelivered, omitted } => {
                let lost = undelivered.len() as u64 + omitted;
                self.lost[slot] += lost;
                self.counts.messages_undelivered += lost;
                return;
            }
            EventKind::Disconnected { reason, messages_dropped, .. } => {
                // Its count has those that its end has cost, not those of a life before.
                let lost = std::mem::take(&mut self.lost[slot]);
                self.dropped(messages_dropped.max(lost));
                self.links_lost[slot] = 0;
                self.sessions[slot] = None;
                self.ended(slot, reason, messages_dropped);
                Happened::Ended
            }
            EventKind::Connecting | EventKind::Reconnecting { .. } | EventKind::Dropped { .. } => {
                return;
            }
        };
        self.members.handle(slot, happened, now, random());
    }

    /// What the session in `slot` has just lost belongs to a life that is over: it goes on.
    #[cold]
    fn goes_on(&mut self, slot: usize) {
        let lost = std::mem::take(&mut self.lost[slot]);
        self.dropped(lost);
    }

    fn dropped(&mut self, messages: u64) {
        self.counts.messages_dropped += messages;
        if let Some(closing) = &mut self.closing {
            closing.report.messages_dropped += messages;
        }
    }

    /// Notes how a session ended.
    fn ended(&mut self, slot: usize, reason: CloseReason, messages_dropped: u64) {
        if let Some(closing) = &mut self.closing {
            let in_order = matches!(reason, CloseReason::Local | CloseReason::Goodbye);
            let is_flushed = closing.was_up[slot] && in_order && messages_dropped == 0;
            closing.report.flushed += u64::from(is_flushed);
        } else if self.members.stand(slot) != Stand::Draining {
            self.failure = Some(reason);
        }
    }

    /// Tells whoever waits for the beginning or the end.
    fn settle(&mut self) {
        if self.members.is_ready() {
            for waiter in self.waiters.drain(..) {
                // It may have given up.
                let _ = waiter.reply.try_send(());
            }
        }
        if let Some(closing) = &mut self.closing
            && self.members.is_over()
        {
            closing.is_told |= closing.is_asked;
            for asker in closing.askers.drain(..) {
                let _ = asker.try_send(closing.report);
            }
        }
    }
}

fn bit(link: Link) -> u8 {
    match link {
        Link::Main => 1,
        Link::Express => 2,
    }
}

impl Core {
    /// The members of a pool that are connected.
    pub(crate) fn pool_members(&self, pool: PoolId) -> Vec<ConnectionInfo> {
        let Some(found) = self.pools.find(self.reactor, pool) else { return Vec::new() };
        let up = found.sessions.iter().enumerate().filter_map(|(slot, &session)| {
            session.filter(|_| found.members.stand(slot) == Stand::Up)
        });
        up.filter_map(|id| self.info(self.key(id).ok()?)).collect()
    }

    /// The sessions of a pool, those that are beginning or ending included.
    pub(crate) fn pool_sessions(&self, pool: PoolId) -> Vec<ConnectionId> {
        let found = self.pools.find(self.reactor, pool);
        found.map_or_else(Vec::new, |found| found.sessions.iter().copied().flatten().collect())
    }

    /// Begins a pool. Its first members are dialled at once.
    #[cold]
    pub(crate) fn open_pool(&mut self, plan: PoolPlan) -> Result<PoolId, ConnectError> {
        if self.life.is_closing() {
            return Err(ConnectError::ShutDown);
        }
        let connections_max = self.config.connections_max();
        let pools = self.pools.table.values().filter(|pool| !pool.is_told());
        let members: usize = pools.map(|pool| pool.sessions.len()).sum();
        let links = if self.config.express() { 2 } else { 1 };
        let links = links * (members + plan.config.members_max() as usize);
        if links > connections_max as usize {
            return Err(ConnectError::TooMany { connections_max });
        }
        self.now = Nanos::now();
        // A pool goes on for as long as it is wanted.
        let backoff = BackoffPolicy { attempts_max: None, ..backoff_policy(&self.config) };
        let key = self.pools.table.insert(Pool::new(plan, self.reactor.index(), backoff, self.now));
        self.pools.keys.push(key);
        self.pools.due = self.now;
        self.tend_pools();
        Ok(PoolId { reactor: self.reactor, key })
    }

    /// Does what the pools want done. Once per turn.
    #[inline]
    pub(crate) fn tend_pools(&mut self) {
        if self.pools.due() <= self.now {
            self.tend_due_pools();
        }
    }

    #[cold]
    fn tend_due_pools(&mut self) {
        self.pools.due = Nanos::NEVER;
        self.pools.forget_told();
        let now = self.now;
        for at in 0..self.pools.keys.len() {
            let key = self.pools.keys[at];
            // A reactor that shuts down dials nobody.
            while !self.life.is_closing()
                && let Some(todo) = self.pools.table[key].members.poll(now)
            {
                match todo {
                    Todo::Dial { slot, address } => self.dial_member(key, slot, address),
                    Todo::Look { slot } => self.look_at_member(key, slot),
                }
            }
            if !self.life.is_closing() {
                self.pools.note_due(self.pools.table[key].members.deadline());
            }
        }
    }

    fn dial_member(&mut self, key: PoolKey, slot: usize, address: usize) {
        let target = self.pools.table[key].addresses[address].clone();
        match self.dial(&target) {
            Ok(connection) => {
                self.pools.table[key].sessions[slot] = Some(self.id(connection));
            }
            Err(failure) => {
                let reason = CloseReason::from(failure);
                tracing::debug!(address = %target, %reason, "cannot dial a pool's member");
                let pool = &mut self.pools.table[key];
                pool.failure = Some(reason);
                pool.members.handle(slot, Happened::Ended, self.now, random());
            }
        }
    }

    fn look_at_member(&mut self, key: PoolKey, slot: usize) {
        let id = self.pools.table[key].sessions[slot].expect("a slot that is up has a session");
        let carried = self.carried(id);
        let now = self.now;
        if self.pools.table[key].members.looked(slot, carried, now) {
            self.disconnect(id, now + REAP_DEADLINE);
        }
    }

    /// The parts of a session: two where it has two connections.
    pub(crate) fn parts(&self, id: ConnectionId) -> impl Iterator<Item = ConnectionId> + use<> {
        let express = self.pairs.express_of(id.key);
        [Some(id.key), express].into_iter().flatten().map(move |key| ConnectionId { key, ..id })
    }

    /// What a session has carried so far, and whether it has nothing to carry.
    fn carried(&self, id: ConnectionId) -> Carried {
        let mut carried = Carried { messages: 0, is_quiet: !self.requests.is_owed(id.key) };
        for part in self.parts(id) {
            if let Ok(key) = self.key(part) {
                let connection = &self.connections[key];
                carried.messages += connection.messages_received;
                // What has come and is not handled yet is to be carried.
                carried.is_quiet &= connection.pause.is_none() && !connection.window.has_unparsed();
            }
            let session = self.session(part);
            carried.messages += session.map_or(0, Session::messages_admitted);
            carried.is_quiet &= session.is_some_and(Session::is_flushed);
        }
        carried
    }

    /// Sees what happens to the members of pools: every event comes by here. Whom it concerns is
    /// told by [`settle_pool`](Self::settle_pool).
    pub(crate) fn observe(&mut self, event: &Event) -> Option<PoolKey> {
        let now = self.now;
        for (key, pool) in &mut self.pools.table {
            if let Some(slot) = pool.slot_of(event.connection) {
                pool.observe(slot, &event.kind, now);
                return Some(key);
            }
        }
        None
    }

    /// Tells whoever waits for what has just become of a pool.
    pub(crate) fn settle_pool(&mut self, key: PoolKey) {
        let now = self.now;
        if let Some(pool) = self.pools.table.get_mut(key) {
            pool.settle();
            let deadline = if pool.is_told() { now } else { pool.members.deadline() };
            self.pools.note_due(deadline);
        }
    }

    /// A session has lost messages with its peer's end, as its last event has told, and goes on.
    pub(crate) fn note_goes_on(&mut self, session: ConnectionId) {
        for pool in self.pools.table.values_mut() {
            if let Some(slot) = pool.slot_of(session) {
                return pool.goes_on(slot);
            }
        }
    }

    /// Parts with all members of a pool; each flushes until `deadline`. Returns whether there is
    /// such a pool, which was not closed before.
    #[cold]
    pub(crate) fn close_pool(
        &mut self,
        pool: PoolId,
        deadline: Nanos,
        is_asked: bool,
        asker: Option<Sender<ShutdownReport>>,
    ) -> bool {
        let reactor = self.reactor;
        let Some(found) = self.pools.find_mut(reactor, pool) else { return false };
        if let Some(closing) = &mut found.closing {
            // The same report for all who wait, as many as there are threads.
            closing.is_asked |= is_asked;
            closing.askers.extend(asker);
            return false;
        }
        // Nobody is to wait for it to be ready.
        found.waiters.clear();
        let slots = 0..found.sessions.len();
        let was_up: Vec<bool> = slots.map(|slot| found.members.stand(slot) == Stand::Up).collect();
        let connections = was_up.iter().filter(|&&is_up| is_up).count() as u64;
        let report = ShutdownReport { connections, ..ShutdownReport::default() };
        let askers = asker.into_iter().collect();
        found.closing = Some(Closing { report, was_up, is_asked, askers, is_told: false });
        let mut draining = Vec::new();
        found.members.close(|slot| draining.push(slot));
        let sessions: Vec<_> =
            draining.into_iter().filter_map(|slot| found.sessions[slot]).collect();
        for id in sessions {
            self.disconnect(id, deadline);
        }
        self.settle_pool(pool.key);
        true
    }

    /// The report of a pool that is over, which is then forgotten.
    pub(crate) fn take_pool_report(&mut self, pool: PoolId) -> Option<ShutdownReport> {
        let found = self.pools.find(self.reactor, pool)?;
        // The events of a reactor that has shut down may not have come by.
        let is_over =
            found.members.is_over() || (self.life.is_closing() && self.connections.is_empty());
        let report = found.closing.as_ref().filter(|_| is_over)?.report;
        self.pools.table.remove(pool.key);
        self.pools.keys.retain(|&key| key != pool.key);
        Some(report)
    }

    /// Tells `waiter`, who waits until `until`, when the pool is ready. Returns whether there is
    /// such a pool, which is not being closed.
    pub(crate) fn await_pool(&mut self, pool: PoolId, reply: Sender<()>, until: Nanos) -> bool {
        let (reactor, now) = (self.reactor, self.now);
        let found = self.pools.find_mut(reactor, pool).filter(|found| found.closing.is_none());
        let Some(found) = found else { return false };
        // As many as there are threads that wait: each blocks one.
        found.waiters.retain(|waiter| waiter.until >= now);
        found.waiters.push(ReadyWaiter { reply, until });
        found.settle();
        true
    }
}

impl Reactor {
    /// Begins a pool: `members_min` sessions are dialled at once, and kept. Does not wait for them
    /// ([`Reactor::pool_wait_ready`] does); blocks on the resolver when a host is a name. Names are
    /// resolved here once and for all.
    ///
    /// From then on turns do what is due: dial and dial anew, part with idle members. What no
    /// handler takes of the members' messages, and their events, come as those of other sessions.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Resolve`], or [`ConnectError::TooMany`] when the pools of this reactor might
    /// have more connections than `connections_max`: one for each
    /// member, two with `express`.
    pub fn pool(&mut self, config: &PoolConfig) -> Result<PoolId, ConnectError> {
        self.core.open_pool(PoolPlan::new(config)?)
    }

    /// Turns until `members_min` members are connected at once, for up to `timeout`.
    ///
    /// # Errors
    ///
    /// [`ConnectError::PoolNotReady`], which says how many there are and why one is missing; the
    /// pool goes on all the same. [`ConnectError::PoolClosed`] when there is none.
    pub fn pool_wait_ready(&mut self, pool: PoolId, timeout: Duration) -> Result<(), ConnectError> {
        let deadline = Nanos::now() + timeout;
        loop {
            let found = self.core.pools.find(self.core.reactor, pool);
            let found = found.filter(|found| !found.members.is_closing());
            let Some(found) = found else { return Err(ConnectError::PoolClosed) };
            if found.members.is_ready() {
                return Ok(());
            }
            let (connected, reason) = (found.members.standing().up, found.failure);
            let members_min =
                u32::try_from(found.members.policy().members_min).expect("at most 64");
            let is_broken = Nanos::now() >= deadline || self.turn(Wait::Until(deadline)).is_err();
            if is_broken {
                return Err(ConnectError::PoolNotReady { connected, members_min, timeout, reason });
            }
        }
    }

    /// Whether `members_min` members are connected now.
    #[must_use]
    pub fn pool_is_ready(&self, pool: PoolId) -> bool {
        let found = self.core.pools.find(self.core.reactor, pool);
        found.is_some_and(|found| found.members.is_ready())
    }

    /// The members that are connected. Their ids may be used as those of other sessions; one that
    /// is disconnected is replaced. Allocates what it returns.
    #[must_use]
    pub fn pool_members(&self, pool: PoolId) -> Vec<ConnectionInfo> {
        self.core.pool_members(pool)
    }

    /// Whether everything sent through a pool has left, and what is reliable was confirmed.
    pub(crate) fn is_pool_flushed(&self, pool: PoolId) -> bool {
        let Some(found) = self.core.pools.find(self.core.reactor, pool) else { return true };
        found.sessions.iter().flatten().all(|&id| self.core.is_flushed(id))
    }

    /// Parts with all members: what is queued leaves, reliable messages are confirmed, and each
    /// says goodbye, or is cut off at `deadline` from now. Nothing more is taken. Does not block:
    /// keep turning until [`Reactor::pool_closed`] tells how it went.
    pub fn pool_close(&mut self, pool: PoolId, deadline: Duration) {
        self.core.now = Nanos::now();
        let deadline = self.core.now + deadline;
        self.core.close_pool(pool, deadline, false, None);
    }

    /// What closing a pool achieved, once it is over. The pool is then forgotten: until it was
    /// told, it counts for the limit of [`Reactor::pool`].
    ///
    /// Reliable messages that were not confirmed are named by the events
    /// ([`EventKind::SessionLost`]).
    pub fn pool_closed(&mut self, pool: PoolId) -> Option<ShutdownReport> {
        self.core.take_pool_report(pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::session::Undelivered;
    use crate::session::lane::Sent;
    use crate::wire::{Codec, Kind, Priority};

    /// What a session lost with a peer that has begun anew, and what its own end costs, are
    /// different messages, whether it was complete again in between or not.
    #[test]
    fn losses_of_two_lives_add_up() {
        let config = PoolConfig::builder("127.0.0.1:1").build().expect("valid");
        let plan = PoolPlan::new(&config).expect("an address");
        let mut pool = Pool::new(plan, 0, BackoffPolicy::default(), Nanos(1));
        let id = ConnectionId { reactor: ReactorId::new(0, 0), key: Default::default() };
        assert!(pool.members.poll(Nanos(1)).is_some(), "it is to be dialled");
        pool.sessions[0] = Some(id);
        pool.observe(0, &EventKind::Connected, Nanos(1));
        let lost = |count: usize| EventKind::SessionLost {
            undelivered: vec![
                Undelivered {
                    priority: Priority::Normal,
                    kind: Kind::Data,
                    codec: Codec::Opaque,
                    type_id: 0,
                    is_request: false,
                    is_response: false,
                    payload: Default::default(),
                    sent: Sent::Never,
                };
                count
            ],
            omitted: 0,
        };
        pool.observe(0, &lost(3), Nanos(2));
        pool.goes_on(0);
        assert_eq!(pool.counts.messages_dropped, 3);
        // Its own list, and more that was best effort.
        pool.observe(0, &lost(1), Nanos(3));
        let (reason, established, messages_dropped) = (CloseReason::PeerClosed, true, 2);
        let over = EventKind::Disconnected { reason, established, messages_dropped };
        pool.observe(0, &over, Nanos(3));
        assert_eq!(pool.counts.messages_dropped, 5);
        assert_eq!(pool.counts.messages_undelivered, 4);
    }

    /// Another thread that has the report may ask before the reactor's next turn.
    #[test]
    fn pool_whose_end_was_told_is_gone() {
        let config = Config::builder().registry(false).connections_max(4).build().expect("valid");
        let mut reactor = Reactor::new(&config).expect("a ring");
        let config = PoolConfig::builder("unix:/proc/self/nobody-listens").members_max(4);
        let config = config.build().expect("valid");
        let pool = reactor.pool(&config).expect("there is room");
        let statistics = |reactor: &Reactor| reactor.pool_statistics(pool);
        let deadline = Nanos::now() + Duration::from_secs(10);
        while statistics(&reactor).expect("it is open").waiting < 1 {
            assert!(Nanos::now() < deadline, "nobody listens, and no attempt fails");
            reactor.turn(Wait::Until(deadline)).expect("the ring works");
        }
        let (asker, told) = crossbeam_channel::bounded(1);
        assert!(reactor.core.close_pool(pool, deadline, true, Some(asker)));
        let report = told.try_recv().expect("nobody is to be parted with");
        assert_eq!(report, ShutdownReport::default());
        assert_eq!(statistics(&reactor), None);
        let (waiter, _ready) = crossbeam_channel::bounded(1);
        assert!(!reactor.core.await_pool(pool, waiter, deadline));
        assert!(!reactor.core.close_pool(pool, deadline, true, None));
        reactor.pool(&config).expect("there is room again");
    }

    /// A reactor, its pool with one member, and the reactor that is connected with.
    fn connected() -> (Reactor, PoolId, Reactor) {
        let config = Config::builder().registry(false).connections_max(4).build().expect("valid");
        let mut far = Reactor::new(&config).expect("a ring");
        let address = far.listen(&"127.0.0.1:0".parse().expect("well formed")).expect("free");
        let mut near = Reactor::new(&config).expect("a ring");
        let config = PoolConfig::builder(address.to_string()).build().expect("valid");
        let pool = near.pool(&config).expect("there is room");
        turn_both(&mut near, &mut far, |near| near.pool_is_ready(pool));
        (near, pool, far)
    }

    #[track_caller]
    fn turn_both(
        near: &mut Reactor,
        far: &mut Reactor,
        mut condition: impl FnMut(&Reactor) -> bool,
    ) {
        let deadline = Nanos::now() + Duration::from_secs(10);
        while !condition(near) {
            assert!(Nanos::now() < deadline, "in vain for 10 s");
            near.turn(Wait::Poll).expect("the ring works");
            far.turn(Wait::Poll).expect("the ring works");
        }
    }

    #[test]
    fn everybody_who_closes_a_pool_has_its_report() {
        let (mut near, pool, mut far) = connected();
        let deadline = Nanos::now() + Duration::from_secs(10);
        let (asker, told) = crossbeam_channel::bounded(1);
        assert!(near.core.close_pool(pool, deadline, true, Some(asker)));
        let (other_asker, other_told) = crossbeam_channel::bounded(1);
        assert!(
            !near.core.close_pool(pool, deadline, true, Some(other_asker)),
            "it is being closed"
        );
        let (waiter, ready) = crossbeam_channel::bounded(1);
        assert!(!near.core.await_pool(pool, waiter, deadline), "it will not be ready");
        assert_eq!(ready.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected));
        turn_both(&mut near, &mut far, |_| !told.is_empty());
        let report = ShutdownReport { connections: 1, flushed: 1, messages_dropped: 0 };
        assert_eq!((told.try_recv(), other_told.try_recv()), (Ok(report), Ok(report)));
    }

    #[test]
    fn who_waits_for_a_pool_is_not_forgotten_for_those_who_gave_up() {
        let config = Config::builder().registry(false).build().expect("valid");
        let mut reactor = Reactor::new(&config).expect("a ring");
        let config = PoolConfig::builder("unix:/proc/self/nobody-listens").build().expect("valid");
        let pool = reactor.pool(&config).expect("there is room");
        let later = Nanos::now() + Duration::from_secs(60);
        let (waiter, ready) = crossbeam_channel::bounded(1);
        assert!(reactor.core.await_pool(pool, waiter, later));
        for _ in 0..1_000 {
            let (waiter, _) = crossbeam_channel::bounded(1);
            assert!(reactor.core.await_pool(pool, waiter, Nanos(1)));
        }
        assert_eq!(ready.try_recv(), Err(crossbeam_channel::TryRecvError::Empty));
        let waiting =
            reactor.core.pools.find(reactor.core.reactor, pool).expect("it is open").waiters.len();
        assert_eq!(waiting, 2, "those whose time is over are dropped when another comes");
    }

    /// Whoever is told that a pool is ready, or over, finds the events of that: nobody is told
    /// while the event is not in the queue.
    #[test]
    fn who_sees_an_event_tells_nobody_yet() {
        let config = Config::builder().registry(false).build().expect("valid");
        let mut reactor = Reactor::new(&config).expect("a ring");
        let config = PoolConfig::builder("unix:/proc/self/nobody-listens").build().expect("valid");
        let pool = reactor.pool(&config).expect("there is room");
        let (waiter, ready) = crossbeam_channel::bounded(1);
        let later = Nanos::now() + Duration::from_secs(60);
        assert!(reactor.core.await_pool(pool, waiter, later));
        let member =
            reactor.core.pools.find(reactor.core.reactor, pool).expect("it is open").sessions[0];
        let event = Event {
            connection: member.expect("it is dialled"),
            address: String::new(),
            node_name: String::new(),
            kind: EventKind::Connected,
        };
        let key = reactor.core.observe(&event).expect("it is of the pool");
        assert!(ready.is_empty(), "the event comes first");
        reactor.core.settle_pool(key);
        assert_eq!(ready.try_recv(), Ok(()));
    }
}

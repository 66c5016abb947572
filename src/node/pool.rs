//! Pools on the reactors of a node, for any thread.
//!
//! A [`NodePool`] is a pool on one reactor, or one on each: then a message with a key always goes
//! to the same of them, one without to each in turn, and to the next when that one can not take it.
//! The pools themselves are the reactors'; nothing is shared between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::NodeHandle;
use super::ask::{ANSWER_TIMEOUT, Silence, reply_channel};
use crate::config::{Overflow, PoolConfig};
use crate::error::{ConnectError, SendError};
use crate::reactor::command::{Asker, Command, Mailbox, Waiting};
use crate::reactor::message::OwnedBody;
use crate::reactor::pool::PoolPlan;
use crate::reactor::pool::command::PoolCommand;
use crate::reactor::{Choice, ConnectionInfo, PoolId, PoolStatistics, ShutdownReport};
use crate::session::Envelope;
use crate::session::pool::rendezvous;
use crate::time::Nanos;
use crate::wire::Body;

/// How long [`NodePool::wait_ready`] waits to hear why nobody is there.
const WHY_NOT_TIMEOUT: Duration = Duration::from_millis(100);

/// A pool of sessions on one reactor of a node, or on each. Cheap to clone; any thread may use it.
///
/// It lives until [`close`](Self::close), or as long as its node: dropping this drops a handle.
#[derive(Debug, Clone)]
pub struct NodePool {
    pub(super) handle: NodeHandle,
    pools: Arc<[PoolId]>,
    /// Whose turn it is.
    turn: Arc<AtomicUsize>,
}

impl NodeHandle {
    /// Begins a pool on reactor `reactor` (modulo their number); see
    /// [`Reactor::pool`](crate::Reactor::pool). Its messages go to the handlers and to
    /// [`receive`](Self::receive), its events to [`poll_event`](Self::poll_event).
    ///
    /// Blocks on the resolver when a host is a name, and until the reactor has begun; not until
    /// anybody is connected ([`NodePool::wait_ready`] does). Names are resolved here and not again:
    /// when their addresses change, begin another pool.
    ///
    /// # Errors
    ///
    /// As [`Reactor::pool`](crate::Reactor::pool); [`ConnectError::InHandler`] at once in a handler
    /// of this node, [`ConnectError::Busy`] or [`ConnectError::Unresponsive`] when the reactor
    /// could not be asked.
    pub fn pool(&self, config: &PoolConfig, reactor: usize) -> Result<NodePool, ConnectError> {
        let reactors = self.shared.mailboxes.len();
        self.open_pools(config, std::iter::once(reactor % reactors))
    }

    /// Begins a pool with these settings on each reactor of the node: with three reactors there are
    /// three times `members_min` sessions.
    ///
    /// Blocks and fails as [`pool`](Self::pool); when one reactor refuses, none has a pool.
    ///
    /// # Errors
    ///
    /// As [`pool`](Self::pool).
    pub fn pool_on_all(&self, config: &PoolConfig) -> Result<NodePool, ConnectError> {
        self.open_pools(config, 0..self.shared.mailboxes.len())
    }

    fn open_pools(
        &self,
        config: &PoolConfig,
        reactors: impl Iterator<Item = usize>,
    ) -> Result<NodePool, ConnectError> {
        if self.is_in_handler() {
            return Err(ConnectError::InHandler);
        }
        let plan = PoolPlan::new(config)?;
        let mut pools = Vec::new();
        for reactor in reactors {
            match self.open_pool(&plan, reactor) {
                Ok(pool) => pools.push(pool),
                Err(error) => {
                    // What began is not wanted by itself.
                    let _ = self.node_pool(pools).close(Duration::ZERO);
                    return Err(error);
                }
            }
        }
        Ok(self.node_pool(pools))
    }

    pub(super) fn node_pool(&self, pools: Vec<PoolId>) -> NodePool {
        NodePool { handle: self.clone(), pools: pools.into(), turn: Arc::default() }
    }

    fn open_pool(&self, plan: &PoolPlan, reactor: usize) -> Result<PoolId, ConnectError> {
        self.check_running().map_err(|_| ConnectError::ShutDown)?;
        let (asker, answer) = reply_channel(1);
        let command = PoolCommand::Open { plan: Box::new(plan.clone()), asker };
        if self.shared.mailboxes[reactor].post(Command::Pool(command)).is_err() {
            return Err(ConnectError::Busy);
        }
        answer.wait(Nanos::now() + ANSWER_TIMEOUT).unwrap_or_else(|silence| {
            Err(match silence {
                Silence::Withdrawn => ConnectError::Unresponsive { timeout: ANSWER_TIMEOUT },
                Silence::Ended => ConnectError::ShutDown,
            })
        })
    }
}

impl NodePool {
    /// Waits until `members_min` members are connected on each of its reactors, for up to
    /// `timeout`, and 100 ms more to hear from them why not.
    ///
    /// # Errors
    ///
    /// [`ConnectError::PoolNotReady`], which says how many there are and why one is missing; the
    /// pool goes on trying. [`ConnectError::Unresponsive`] where a reactor does not say,
    /// [`ConnectError::PoolClosed`], and as [`NodeHandle::pool`].
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), ConnectError> {
        if self.handle.is_in_handler() {
            return Err(ConnectError::InHandler);
        }
        let deadline = Nanos::now() + timeout;
        for &pool in &*self.pools {
            let (waiter, ready) = bounded(1);
            self.tell(pool, PoolCommand::AwaitReady { pool, waiter, until: deadline })?;
            match ready.recv_timeout(deadline.since(Nanos::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(if self.is_shut_down(pool) {
                        ConnectError::ShutDown
                    } else {
                        ConnectError::PoolClosed
                    });
                }
                Err(RecvTimeoutError::Timeout) => {
                    let statistics = self.ask_for_statistics(WHY_NOT_TIMEOUT)?;
                    if ready.try_recv().is_ok() {
                        // Since then.
                        continue;
                    }
                    let statistics = statistics.ok_or(ConnectError::PoolClosed)?;
                    let PoolStatistics { connected, members_min, last_failure, .. } = statistics;
                    let reason = last_failure;
                    return Err(ConnectError::PoolNotReady {
                        connected,
                        members_min,
                        timeout,
                        reason,
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn tell(&self, pool: PoolId, command: PoolCommand) -> Result<(), ConnectError> {
        self.handle.check_running().map_err(|_| ConnectError::ShutDown)?;
        self.mailbox(pool).post(Command::Pool(command)).map_err(|_| ConnectError::Busy)
    }

    /// As [`tell`](Self::tell), and waits until `patience` for room in a full queue, unless the
    /// caller is who would have to make it. Returns whether the command is in the queue.
    fn insist(&self, pool: PoolId, command: PoolCommand, patience: Nanos) -> bool {
        if self.handle.check_running().is_err() {
            return false;
        }
        let (mailbox, may_wait) = (self.mailbox(pool), !self.handle.is_in_handler());
        let mut command = Command::Pool(command);
        while let Err(refused) = mailbox.post(command) {
            if !may_wait || mailbox.is_closed() || Nanos::now() >= patience {
                return false;
            }
            command = refused;
            std::thread::yield_now();
        }
        true
    }

    /// Whether there is no reactor, or soon will be none, to ask about a pool.
    fn is_shut_down(&self, pool: PoolId) -> bool {
        self.mailbox(pool).is_closed() || self.handle.check_running().is_err()
    }

    fn mailbox(&self, pool: PoolId) -> &Mailbox {
        &self.handle.shared.mailboxes[usize::from(pool.reactor.index())]
    }

    /// Queues a message on a member and waits for the verdict of its reactor, as
    /// [`NodeHandle::send_to`]. Without a key it goes to the reactors in turn, and to the next when
    /// one can not take it.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued, nothing will be, and the caller still has the message.
    pub fn send<B: Body + ?Sized>(
        &self,
        choice: Choice,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.handle.check_may_wait()?;
        let waiting = Waiting::new(envelope);
        let body = self.handle.own(body, envelope, 0)?;
        self.offer(choice, envelope, |pool| {
            self.handle.ask_for_verdict(pool.reactor, |asker| {
                Command::Pool(send(pool, choice, waiting, body.clone(), Some(asker)))
            })
        })
    }

    /// Hands a message to a reactor without waiting for its verdict. If no member can take it by
    /// then, it is dropped and counted (`posts_dropped` of the node, `refused` of the pool).
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`] when the command queues are full; what can be known here otherwise.
    pub fn post<B: Body + ?Sized>(
        &self,
        choice: Choice,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        let waiting = Waiting::new(envelope);
        let body = self.handle.own(body, envelope, 0)?;
        self.offer(choice, envelope, |pool| {
            let command = Command::Pool(send(pool, choice, waiting, body.clone(), None));
            self.handle.post_command(pool.reactor, command)
        })
    }

    /// Offers a message to the reactors that may take it, one after the other.
    pub(super) fn offer(
        &self,
        choice: Choice,
        envelope: Envelope,
        mut attempt: impl FnMut(PoolId) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        let mut attempt = |pool| match attempt(pool) {
            // A reactor has ended before its node, and its members with it.
            Err(SendError::ShutDown) if self.handle.check_running().is_ok() => {
                Err(SendError::NotConnected)
            }
            verdict => verdict,
        };
        if let Choice::Key(key) = choice {
            // Another hash than the one that chooses among the members of that reactor.
            return attempt(self.pools[rendezvous(!key, self.pools.len())]);
        }
        // ORDERING: Relaxed: any order of turns will do.
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut refusal = SendError::NotConnected;
        // Where that costs a member its session, one is enough.
        let overflow = self.handle.shared.config.overflow()[envelope.lane().index()];
        for step in 0..self.pools.len() {
            match attempt(self.pools[first.wrapping_add(step) % self.pools.len()]) {
                Err(SendError::Full) if overflow == Overflow::Disconnect => {
                    return Err(SendError::Full);
                }
                Err(
                    error @ (SendError::Full
                    | SendError::MemoryFull
                    | SendError::NotConnected
                    | SendError::Busy),
                ) => refusal = error,
                verdict => return verdict,
            }
        }
        Err(refusal)
    }

    /// Whether `members_min` members are connected on each of its reactors. `false` also when one
    /// does not answer within 5 s, and in a handler of this node.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_full = |part: &PoolStatistics| part.connected >= part.members_min;
        self.handle.check_may_wait().is_ok() && self.pools.iter().all(|&pool| {
            let (reply, answer) = bounded(1);
            self.tell(pool, PoolCommand::Statistics { pool, reply }).is_ok()
                && matches!(answer.recv_timeout(ANSWER_TIMEOUT), Ok(Some(part)) if is_full(&part))
        })
    }

    /// The members that are connected, on all of its reactors. Their ids may be used as those of
    /// other sessions; one that is disconnected is replaced. A reactor that does not answer within
    /// 5 s is left out; in a handler of this node there are none. Allocates what it returns.
    #[must_use]
    pub fn members(&self) -> Vec<ConnectionInfo> {
        if self.handle.is_in_handler() {
            return Vec::new();
        }
        let of_one = |&pool: &PoolId| {
            let (reply, answer) = bounded(1);
            self.tell(pool, PoolCommand::Members { pool, reply }).ok()?;
            answer.recv_timeout(ANSWER_TIMEOUT).ok()
        };
        self.pools.iter().filter_map(of_one).flatten().collect()
    }

    /// What has happened so far, and how the pool stands, its reactors together; `None` when it is
    /// closed, a reactor does not answer within 5 s, and in a handler of this node.
    ///
    /// With several reactors a message that one refused and the next took counts as refused by the
    /// first.
    #[must_use]
    pub fn statistics(&self) -> Option<PoolStatistics> {
        if self.handle.is_in_handler() {
            return None;
        }
        self.ask_for_statistics(ANSWER_TIMEOUT).ok().flatten()
    }

    /// `None` when the pool is closed; why it is not known, otherwise.
    fn ask_for_statistics(
        &self,
        timeout: Duration,
    ) -> Result<Option<PoolStatistics>, ConnectError> {
        let deadline = Nanos::now() + timeout;
        let mut sum = PoolStatistics::default();
        for &pool in &*self.pools {
            let (reply, answer) = bounded(1);
            self.tell(pool, PoolCommand::Statistics { pool, reply })?;
            match answer.recv_timeout(deadline.since(Nanos::now())) {
                Ok(Some(part)) => sum.add(&part),
                Ok(None) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(ConnectError::Unresponsive { timeout });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(ConnectError::ShutDown),
            }
        }
        Ok(Some(sum))
    }

    /// Parts with all members: what is queued leaves, reliable messages are confirmed, and each
    /// says goodbye, or is cut off at `deadline` from now. Waits for that, for room in a full
    /// command queue, and as long as handlers keep a reactor from it (5 s at most). Whoever closes
    /// a pool that is being closed waits for the same end and has the same report; of a pool that
    /// is closed already nothing is said.
    ///
    /// In a handler of this node it waits for nothing, reports nothing, and does nothing where the
    /// command queue is full, which is logged.
    pub fn close(&self, deadline: Duration) -> ShutdownReport {
        let until = Nanos::now() + deadline;
        let patience = until + ANSWER_TIMEOUT;
        let mut answers = Vec::new();
        let may_wait = !self.handle.is_in_handler();
        for &pool in &*self.pools {
            let (asker, answer) = bounded(1);
            let asker = may_wait.then_some(asker);
            let command = PoolCommand::Close { pool, deadline: until, asker };
            if !self.insist(pool, command, patience) {
                if !self.is_shut_down(pool) {
                    let reactor = pool.reactor.index();
                    tracing::warn!(reactor, "a pool is not closed: the command queue is full");
                }
            } else if may_wait {
                answers.push(answer);
            }
        }
        let mut sum = ShutdownReport::default();
        for answer in answers {
            if let Ok(report) = answer.recv_timeout(patience.since(Nanos::now())) {
                sum.add(report);
            }
        }
        sum
    }
}

fn send(
    pool: PoolId,
    choice: Choice,
    waiting: Waiting,
    body: OwnedBody,
    asker: Option<Asker<Result<(), SendError>>>,
) -> PoolCommand {
    PoolCommand::Send { pool, choice, waiting, body, asker }
}

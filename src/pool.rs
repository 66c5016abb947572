//! [`Pool`]: several sessions with one service, driven by the calling thread.
//!
//! As with [`Client`](crate::Client) there is no hidden thread: dialling, dialling anew, parting
//! with idle members and everything else happens inside the calls, and only then. A control loop
//! calls [`Pool::poll`] once per cycle; it is one bounded pass that never sleeps. An application
//! that does not want to poll has its pools on a node:
//! [`NodeHandle::pool`](crate::NodeHandle::pool). What is said of a client that does not poll for
//! some seconds, or is dropped, is as true of a pool: see [`client`](crate::client).

use std::time::Duration;

use crate::config::{Config, PoolConfig};
use crate::error::{ConnectError, FlushError, ReceiveError, RequestError, SendError, SetupError};
use crate::reactor::message::Message;
use crate::reactor::watch::{WatchError, WatchKey, Watched};
use crate::reactor::{
    Cancelled, Choice, ConnectionInfo, Context, Event, PoolId, PoolStatistics, Reactor, RequestId,
    ShutdownReport, Turn, Wait,
};
use crate::session::Envelope;
use crate::time::Nanos;
use crate::wire::{Body, Frame, Kind, Payload};

/// Several sessions with one service. Lives on one thread.
///
/// ```no_run
/// use std::time::Duration;
/// use ringwire::{Choice, Config, Envelope, Pool, PoolConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let plan = PoolConfig::builder("drives.cell:7411").members_min(2).members_max(8).build()?;
/// let mut pool = Pool::new(Config::default(), plan)?;
/// pool.connect()?;
/// pool.wait_ready(Duration::from_secs(1))?;
/// // Setpoints of one axis arrive in order; questions go to whoever has least to do.
/// let axis = 7;
/// pool.send(Choice::Key(axis), Envelope::command().reliable(), b"to 12.5 mm")?;
/// let second = Duration::from_secs(1);
/// let answer = pool.request(Choice::LeastQueued, Envelope::command(), b"status?", second)?;
/// println!("{:?}", answer.payload());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Pool {
    reactor: Reactor,
    plan: PoolConfig,
    pool: Option<PoolId>,
}

impl Pool {
    /// Sets up a pool on this thread: a ring, and the memory that `config` asks for, for the
    /// members of `plan`. Does not connect.
    ///
    /// # Errors
    ///
    /// [`SetupError`], which says what the kernel refused and what to do.
    pub fn new(config: Config, plan: PoolConfig) -> Result<Self, SetupError> {
        // Each member, and its place while the connection before it is closing.
        let links = if config.express() { 2 } else { 1 };
        let connections_max = 2 * links * plan.members_max() + 2;
        let config = config.with_connections_at_most(connections_max);
        Ok(Self { reactor: Reactor::new(&config)?, plan, pool: None })
    }

    /// Begins to connect `members_min` members, and returns at once:
    /// [`wait_ready`](Self::wait_ready) waits for them. Blocks on the resolver when a host is a
    /// name. Names are resolved here and not again: when their addresses change, disconnect and
    /// connect anew.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Resolve`], [`ConnectError::AlreadyConnected`], or
    /// [`ConnectError::TooMany`] when the pool may have more connections than
    /// `connections_max`.
    pub fn connect(&mut self) -> Result<(), ConnectError> {
        if self.pool.is_some() {
            return Err(ConnectError::AlreadyConnected);
        }
        self.pool = Some(self.reactor.pool(&self.plan)?);
        Ok(())
    }

    /// Waits until `members_min` members are connected, for up to `timeout`.
    ///
    /// # Errors
    ///
    /// [`ConnectError::PoolNotReady`], which says how many there are and why one is missing; the
    /// pool goes on trying. [`ConnectError::PoolClosed`] before [`connect`](Self::connect).
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<(), ConnectError> {
        let pool = self.pool.ok_or(ConnectError::PoolClosed)?;
        self.reactor.pool_wait_ready(pool, timeout)
    }

    /// Whether `members_min` members are connected, as of the last call that turned the reactor.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.pool.is_some_and(|pool| self.reactor.pool_is_ready(pool))
    }

    /// Flushes what is queued on every member, waits until reliable messages are confirmed, and
    /// says goodbye: at most until `deadline` from now. What came and had no room in the inbox is
    /// not handed over. The events name the reliable messages that were not confirmed. It can be
    /// connected again.
    pub fn disconnect(&mut self, deadline: Duration) -> ShutdownReport {
        let Some(pool) = self.pool.take() else { return ShutdownReport::default() };
        self.reactor.pool_close(pool, deadline);
        loop {
            if let Some(report) = self.reactor.pool_closed(pool) {
                return report;
            }
            if self.reactor.turn(Wait::Until(Nanos::NEVER)).is_err() {
                return ShutdownReport::default();
            }
            self.reactor.end_departed_members(pool);
        }
    }

    /// Queues a message on a member. It leaves with the next [`poll`](Self::poll),
    /// [`receive`](Self::receive), [`request`](Self::request) or [`flush`](Self::flush), or by
    /// itself once 64 KiB are waiting, 384 KiB of messages of 32 KiB and more.
    ///
    /// Hot path: no allocation, no system call (one when it submits by itself). Never blocks.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued, on no member. After [`SendError::Full`] or
    /// [`SendError::NotConnected`], poll and try again.
    #[inline]
    pub fn send<B: Body + ?Sized>(
        &mut self,
        choice: Choice,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        let pool = self.pool.ok_or(SendError::NotConnected)?;
        let (member, admitted) = self.reactor.pool_send_counting(pool, choice, envelope, body)?;
        if admitted.is_due() {
            self.reactor.flush_full_lane(member, envelope.lane(), admitted.is_crowded);
        }
        Ok(())
    }

    /// Submits what is queued, as far as the sockets take it, without waiting and without handling
    /// what came.
    pub fn flush(&mut self) {
        self.reactor.flush_all();
    }

    /// Submits what is queued and waits until the kernel has taken all of it and reliable messages
    /// are confirmed, for up to `timeout`. Handlers are called meanwhile.
    ///
    /// # Errors
    ///
    /// [`FlushError`]. After a timeout what is left stays queued, in order.
    pub fn flush_within(&mut self, timeout: Duration) -> Result<(), FlushError> {
        let pool = self.pool.ok_or(FlushError::NotConnected)?;
        let deadline = Nanos::now() + timeout;
        let losses = self.reactor.losses();
        loop {
            self.reactor.flush_all();
            if self.reactor.losses() > losses {
                return Err(FlushError::NotConnected);
            }
            if self.reactor.is_pool_flushed(pool) {
                return Ok(());
            }
            if Nanos::now() >= deadline {
                return Err(FlushError::Timeout { timeout });
            }
            if self.reactor.turn_to_flush(deadline).is_err() {
                return Err(FlushError::NotConnected);
            }
        }
    }

    /// Sends a request to a member and waits for its answer. Handlers are called meanwhile; other
    /// messages wait for [`receive`](Self::receive).
    ///
    /// Blocks for up to `timeout`.
    ///
    /// # Errors
    ///
    /// [`RequestError`]. After a timeout the link lives on; a late answer is counted and dropped.
    pub fn request<B: Body + ?Sized>(
        &mut self,
        choice: Choice,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let pool = self.pool.ok_or(SendError::NotConnected)?;
        self.reactor.pool_request(pool, choice, envelope, body, timeout)
    }

    /// Sends a request without waiting for its answer: for control loops. The request leaves with
    /// the next poll; [`take_response`](Self::take_response) tells its outcome.
    ///
    /// # Errors
    ///
    /// [`RequestError::Send`] or [`RequestError::TooMany`]; nothing was queued.
    pub fn start_request<B: Body + ?Sized>(
        &mut self,
        choice: Choice,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<RequestId, RequestError> {
        let pool = self.pool.ok_or(SendError::NotConnected)?;
        self.reactor.pool_start_request(pool, choice, envelope, body, timeout)
    }

    /// The outcome of a request, once there is one; it is then forgotten. `None` also for a request
    /// whose outcome was taken, or that was cancelled: nothing is known of it any more.
    pub fn take_response(&mut self, request: RequestId) -> Option<Result<Message, RequestError>> {
        self.reactor.take_response(request)
    }

    /// Gives a request up. A late answer is counted and dropped.
    pub fn cancel_request(&mut self, request: RequestId) {
        self.reactor.cancel_request(request);
    }

    /// Queues the answer to a request of a server's that came as a message, for the member it came
    /// over.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued.
    pub fn reply<B: Body + ?Sized>(
        &mut self,
        request: &Message,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.reactor.reply_and_flush(request, envelope, body)
    }

    /// Waits for the next message of any member that no handler takes, for up to `timeout`; zero
    /// only looks. As [`Client::receive`](crate::Client::receive).
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Timeout`], also while no member is connected: one may be soon.
    /// [`ReceiveError::NotConnected`] when none can come.
    pub fn receive(&mut self, timeout: Duration) -> Result<Message, ReceiveError> {
        let deadline = Nanos::now() + timeout;
        loop {
            if let Some(message) = self.reactor.receive_waiting() {
                return Ok(message);
            }
            if self.pool.is_none() {
                return Err(ReceiveError::NotConnected);
            }
            let wait = if timeout.is_zero() { Wait::Poll } else { Wait::Until(deadline) };
            if self.reactor.turn(wait).is_err() {
                return Err(ReceiveError::NotConnected);
            }
            if let Some(message) = self.reactor.receive() {
                self.reactor.flush_replies();
                return Ok(message);
            }
            if Nanos::now() >= deadline {
                self.reactor.flush_replies();
                return Err(ReceiveError::Timeout { timeout });
            }
        }
    }

    /// One bounded pass: submits what is queued, handles what has come, dials who is missing, and
    /// never sleeps. Call it once per control cycle. Bounded as
    /// [`Client::poll`](crate::Client::poll).
    ///
    /// A failing ring shows as lost connections.
    pub fn poll(&mut self) -> Turn {
        self.reactor.turn(Wait::Poll).unwrap_or_default()
    }

    /// Handles what comes for `duration`, sleeping or spinning as configured, whether members are
    /// connected or not.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::NotConnected`] at once before [`connect`](Self::connect), and when the ring
    /// fails.
    pub fn run_for(&mut self, duration: Duration) -> Result<(), ReceiveError> {
        let deadline = Nanos::now() + duration;
        while self.pool.is_some() {
            if Nanos::now() >= deadline {
                self.reactor.flush_replies();
                return Ok(());
            }
            if self.reactor.turn(Wait::Until(deadline)).is_err() {
                break;
            }
        }
        Err(ReceiveError::NotConnected)
    }

    /// Calls `handler` for messages of this kind that no handler by type takes, in place of one
    /// that was given for it before.
    ///
    /// Handlers run inside the pool's calls, on this thread; see [`Context`]. A panic in a handler
    /// is caught, counted (`handler_panics`) and logged; not with `panic = "abort"`.
    ///
    /// # Panics
    ///
    /// When the kind belongs to the session (heartbeat, hello …).
    pub fn on(&mut self, kind: Kind, handler: impl FnMut(&mut Context<'_>, Frame<'_>) + 'static) {
        self.reactor.on(kind, handler);
    }

    /// Calls `handler` for messages with `T`'s `type_id`, with the validated value in place, and in
    /// place of a handler that was given for it before. A panic in it is caught as in one of
    /// [`on`](Self::on).
    ///
    /// A payload that claims to be a `T` and is not closes its connection.
    pub fn on_type<T: Payload>(
        &mut self,
        handler: impl FnMut(&mut Context<'_>, Frame<'_>, &T::Archived) + 'static,
    ) {
        self.reactor.on_type::<T>(handler);
    }

    /// Watches that every member gets messages of a type or kind at least every `period`; see
    /// [`Reactor::watch_all`]. It begins with each member's session, so it is to be set before
    /// [`connect`](Self::connect), and outlives its links.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: `watches_max` keys are watched already, or a period of zero.
    pub fn watch(&mut self, key: WatchKey, period: Duration) -> Result<(), WatchError> {
        self.reactor.watch_all(key, period)
    }

    /// Calls `handler` when messages that are watched stay away for their period; see
    /// [`Reactor::on_deadline_missed`]. It runs inside the pool's calls.
    pub fn on_deadline_missed(
        &mut self,
        handler: impl FnMut(&mut Context<'_>, &Watched) + 'static,
    ) {
        self.reactor.on_deadline_missed(handler);
    }

    /// Calls `handler` when a message comes that was missed.
    pub fn on_deadline_recovered(
        &mut self,
        handler: impl FnMut(&mut Context<'_>, &Watched) + 'static,
    ) {
        self.reactor.on_deadline_recovered(handler);
    }

    /// Calls `handler` when a server gives up a request it has made; see
    /// [`Reactor::on_cancelled`]. It runs inside the pool's calls.
    pub fn on_cancelled(&mut self, handler: impl FnMut(&mut Context<'_>, &Cancelled) + 'static) {
        self.reactor.on_cancelled(handler);
    }

    /// Whether the answer to a request of a server's is of no use any more; see
    /// [`Reactor::is_abandoned`].
    #[must_use]
    pub fn is_abandoned(&self, request: &Message) -> bool {
        self.reactor.is_abandoned(request)
    }

    /// The oldest event of a member not fetched yet. Attempts that fail are told, too, as
    /// [`Disconnected`](crate::EventKind::Disconnected) of a session that was not established.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.reactor.poll_event()
    }

    /// The members that are connected. Allocates what it returns.
    #[must_use]
    pub fn members(&self) -> Vec<ConnectionInfo> {
        self.pool.map_or_else(Vec::new, |pool| self.reactor.pool_members(pool))
    }

    /// What has happened so far, and how the pool stands; all zero before
    /// [`connect`](Self::connect) and after [`disconnect`](Self::disconnect). What the reactor has
    /// counted tells [`Reactor::statistics`](Reactor::statistics).
    #[must_use]
    pub fn statistics(&self) -> PoolStatistics {
        self.pool.and_then(|pool| self.reactor.pool_statistics(pool)).unwrap_or_default()
    }

    /// What the pool is to be.
    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.plan
    }

    /// The reactor underneath, for what a pool does not offer: with the id of one of its
    /// [`members`](Self::members) also what is done on one session, as
    /// [`send_all`](Reactor::send_all) and [`request_with`](Reactor::request_with).
    pub fn reactor(&mut self) -> &mut Reactor {
        &mut self.reactor
    }
}

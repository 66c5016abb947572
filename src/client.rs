//! [`Client`]: one session, driven by the calling thread.
//!
//! There is no hidden thread: everything happens inside the client's calls, and only then. A
//! control loop calls [`Client::poll`] once per cycle; it is one bounded pass that never sleeps.
//! How often to poll: what arrives waits in the socket until the next call, and a server that talks
//! without pause fills the kernel's buffer (some MiB) and then waits. Heartbeats are answered by
//! the calls, too: a client that makes none for `heartbeat_interval_ms` times `heartbeat_misses` of
//! its *server* (3 s) is given up by it, and comes back on a new link with its next calls, for as
//! long as the server keeps its session (`session_linger_ms`). For messages that must be handled
//! while the application is busy elsewhere, use a `Node`.
//!
//! A lost link is made again inside the calls, for `session_linger_ms` (10 s), and only if the
//! server keeps sessions, too. After that the session is over: [`Client::connection_state`] is
//! `Disconnected`, every send is refused with [`SendError::NotConnected`], and only
//! [`Client::connect`], which blocks, begins another. Handlers stay; watches are to be set again,
//! or once for all sessions with [`Reactor::watch_all`] of [`Client::reactor`]. A loop that must
//! come back however long its server is away, and must not block, uses a [`Pool`](crate::Pool) of
//! one member.
//!
//! Dropping a client ends it at once: nothing is flushed, and no goodbye is said, so that the
//! server keeps the session for a client that does not come back. [`Client::disconnect`] parts in
//! order.
//!
//! After fork(2) without exec(3) the child has neither the ring nor its memory: only the parent may
//! use a client, a reactor or a node that was made before.

use std::time::Duration;

use crate::config::Config;
use crate::endpoint::{Address, Endpoint};
use crate::error::{
    CloseReason, ConnectError, FlushError, ReceiveError, RequestError, SendError, SetupError,
};
use crate::reactor::core::AUTO_FLUSH_BYTES;
use crate::reactor::message::Message;
use crate::reactor::sessions::{backoff_policy, random};
use crate::reactor::watch::{WatchError, WatchKey, Watched};
use crate::reactor::{
    BatchReport, Cancelled, ConnectionId, ConnectionInfo, ConnectionState, Context, Event,
    EventKind, Reactor, RequestId, ShutdownReport, Turn, Wait,
};
use crate::session::backoff::{Backoff, BackoffPolicy, Next};
use crate::session::{Correlation, Envelope};
use crate::stats::Statistics;
use crate::time::Nanos;
use crate::wire::handshake::RejectReason;
use crate::wire::{Body, Frame, Kind, Payload};

/// Connections a client's reactor holds: the session, and one that is still closing.
const CLIENT_CONNECTIONS_MAX: u32 = 4;
/// As many twice over, for a session with two connections.
const EXPRESS_CONNECTIONS_MAX: u32 = 2 * CLIENT_CONNECTIONS_MAX;

/// One session with a server. Lives on one thread.
///
/// ```no_run
/// use std::time::Duration;
/// use ringwire::{Client, Config, Envelope};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = Client::new(Config::default())?;
/// client.connect("drive-7.local:7411")?;
/// let answer = client.request(Envelope::command(), b"status?", Duration::from_millis(5))?;
/// println!("{:?}", answer.payload());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Client {
    reactor: Reactor,
    connection: Option<ConnectionId>,
    /// Why the session before `connection` ended.
    ended: Option<CloseReason>,
}

impl Client {
    /// Sets up a client on this thread: a ring and the memory that `config` asks for, for one
    /// connection. Does not connect.
    ///
    /// # Errors
    ///
    /// [`SetupError`], which says what the kernel refused and what to do.
    pub fn new(config: Config) -> Result<Self, SetupError> {
        let connections_max =
            if config.express() { EXPRESS_CONNECTIONS_MAX } else { CLIENT_CONNECTIONS_MAX };
        let config = config.with_connections_at_most(connections_max);
        Ok(Self { reactor: Reactor::new(&config)?, connection: None, ended: None })
    }

    /// Connects to `endpoint` (see [`Endpoint`] for its forms) and completes the handshake.
    ///
    /// Blocks on the resolver when the host is a name, then for up to `connect_timeout_ms` and
    /// `handshake_timeout_ms` for each address it has; with `express` for as long again, for the
    /// second link.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], of the last address tried.
    pub fn connect(&mut self, endpoint: &str) -> Result<(), ConnectError> {
        let addresses = self.addresses_to_connect(endpoint)?;
        let failed = |error: Option<_>| error.expect("without a deadline every attempt ends");
        self.connect_any(&addresses, Nanos::NEVER).map_err(failed)
    }

    /// As [`connect`](Self::connect), and tries again until there is a session or `timeout` is
    /// over: for a server that may start later than its clients. Between two attempts, each at all
    /// addresses, is as much time as for a session that has lost its link (`reconnect_delay_ms`,
    /// `reconnect_delay_max_ms`). A peer that refuses the session for what can not change by
    /// itself, as the version, is not asked again.
    ///
    /// Blocks for up to `timeout`, and before that on the resolver when the host is a name: once,
    /// so that a name without an address is an error at once. Returns sooner when the next attempt
    /// would begin after `timeout`. Each attempt is told by events.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], of the last attempt that has failed; [`ConnectError::Timeout`] when none
    /// has come to an end.
    pub fn connect_within(
        &mut self,
        endpoint: &str,
        timeout: Duration,
    ) -> Result<(), ConnectError> {
        let addresses = self.addresses_to_connect(endpoint)?;
        let deadline = Nanos::now() + timeout;
        let policy = BackoffPolicy { attempts_max: None, ..backoff_policy(self.config()) };
        let mut backoff = Backoff::new(policy);
        let mut failure = None;
        while let Next::Attempt { at, .. } = backoff.next(Nanos::now(), random())
            && at < deadline
        {
            while Nanos::now() < at {
                self.reactor.turn(Wait::Until(at)).map_err(|source| ConnectError::Connect {
                    address: addresses[0].to_string(),
                    source,
                })?;
            }
            match self.connect_any(&addresses, deadline) {
                Ok(()) => return Ok(()),
                Err(Some(error)) if is_final(&error) => return Err(error),
                Err(error) => failure = error.or(failure),
            }
        }
        let address = || addresses[0].to_string();
        Err(failure.unwrap_or_else(|| ConnectError::Timeout { address: address(), timeout }))
    }

    /// The addresses of a server, for a client that may connect.
    fn addresses_to_connect(&mut self, endpoint: &str) -> Result<Vec<Address>, ConnectError> {
        if self.connection_state() != ConnectionState::Disconnected {
            return Err(ConnectError::AlreadyConnected);
        }
        let addresses = Endpoint::of_server(endpoint)?.addresses()?;
        self.forget_session();
        Ok(addresses)
    }

    /// Begins a session with the first address where that works, by `deadline`.
    ///
    /// # Errors
    ///
    /// Of the last attempt that has failed; `None` when the deadline came before that.
    fn connect_any(
        &mut self,
        addresses: &[Address],
        deadline: Nanos,
    ) -> Result<(), Option<ConnectError>> {
        let mut failure = None;
        for address in addresses {
            match self.reactor.connect_until(address, deadline) {
                Ok(connection) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(Some(error)) => failure = Some(error),
                Err(None) => break,
            }
        }
        Err(failure)
    }

    /// Flushes what is queued, waits until reliable messages are confirmed, says goodbye, and waits
    /// for the server to close: at most until `deadline` from now. While the link is down it ends
    /// the session at once. What came and had no room in the inbox is not handed over.
    /// [`EventKind::SessionLost`] names the reliable messages that were not confirmed.
    pub fn disconnect(&mut self, deadline: Duration) -> ShutdownReport {
        let Some(connection) = self.connection else { return ShutdownReport::default() };
        let dropped_before = self.reactor.statistics().messages_dropped;
        let was_connected = self.reactor.connection(connection).is_some_and(|c| c.is_established);
        self.reactor.disconnect(connection, deadline);
        let mut flushed = false;
        while self.reactor.connection(connection).is_some()
            || self.reactor.state_of(connection) != ConnectionState::Disconnected
        {
            if self.reactor.turn(Wait::Until(Nanos::NEVER)).is_err() {
                break;
            }
            self.reactor.end_departed(connection);
        }
        // They stay to be fetched: one may name reliable messages that did not arrive.
        let events: Vec<_> = std::iter::from_fn(|| self.reactor.poll_event()).collect();
        for event in events {
            if event.connection == connection
                && let EventKind::Disconnected { messages_dropped, reason, .. } = event.kind
            {
                let in_order = matches!(reason, CloseReason::Local | CloseReason::Goodbye);
                flushed = in_order && messages_dropped == 0;
            }
            self.reactor.put_event_back(event);
        }
        self.forget_session();
        ShutdownReport {
            connections: u64::from(was_connected),
            flushed: u64::from(was_connected && flushed),
            messages_dropped: self.reactor.statistics().messages_dropped - dropped_before,
        }
    }

    /// The session is over: what is kept of it is why it ended.
    fn forget_session(&mut self) {
        self.ended = self.disconnected_reason();
        self.connection = None;
    }

    /// Queues a message. It leaves with the next [`poll`](Self::poll), [`receive`](Self::receive),
    /// [`request`](Self::request) or [`flush`](Self::flush), or by itself once 64 KiB are waiting,
    /// 384 KiB of messages of 32 KiB and more; not in a lane that holds less.
    ///
    /// Hot path: no allocation, no system call (one when it submits by itself). Never blocks.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued. After [`SendError::Full`] or [`SendError::MemoryFull`],
    /// poll and try again; after [`SendError::NotConnected`] the link may be being made again
    /// ([`connection_state`](Self::connection_state), and the events say why it went), or the
    /// session is over, and [`disconnected_reason`](Self::disconnected_reason) says why.
    #[inline]
    pub fn send<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        let connection = self.connection.ok_or(SendError::NotConnected)?;
        let admitted = self.reactor.send_counting(connection, envelope, body)?;
        if admitted.is_due() {
            self.reactor.flush_full_lane(connection, envelope.lane(), admitted.is_crowded);
        }
        Ok(())
    }

    /// As [`send`](Self::send), and waits where there is no room for the message: turns until there
    /// is, for up to `timeout`. Handlers are called meanwhile; other messages wait for
    /// [`receive`](Self::receive), and behind a full inbox nothing is read, so that nothing
    /// reliable is confirmed.
    ///
    /// Blocks for up to `timeout`. Allocates nothing. Each attempt that finds no room counts
    /// (`sends_refused`). The wait is part of the message's time to live.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued. [`SendError::Full`] or [`SendError::MemoryFull`] after
    /// `timeout`, everything else at once.
    #[inline]
    pub fn send_within<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<(), SendError> {
        match self.send(envelope, body) {
            Err(SendError::Full | SendError::MemoryFull) if !timeout.is_zero() => {
                self.wait_to_send(envelope, body, timeout)
            }
            verdict => verdict,
        }
    }

    /// The rest of [`send_within`](Self::send_within), once there was no room.
    #[cold]
    fn wait_to_send<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<(), SendError> {
        let began = Nanos::now();
        let deadline = began + timeout;
        let ttl = Duration::from_micros(envelope.ttl_us_with(Correlation::None).into());
        let expiry = if envelope.expires() { began + ttl } else { Nanos::NEVER };
        loop {
            // A failing ring shows as a lost connection in the next attempt.
            let _ = self.reactor.turn(Wait::Until(deadline.min(expiry)));
            let now = Nanos::now();
            let left = if envelope.expires() { envelope.expires_at(expiry, now) } else { envelope };
            match self.send(left, body) {
                Err(SendError::Full | SendError::MemoryFull) if now < deadline => {}
                verdict => return verdict,
            }
        }
    }

    /// Queues a message for each of `bodies`, in order, alike but for what they carry: a cycle's
    /// telemetry, a log that is read back. Stops at the first that is refused. What does not change
    /// between them is looked at once.
    ///
    /// Hot path: no allocation, no system call but one for every 64 KiB that wait, or every 384 KiB
    /// of messages of 32 KiB and more. Never blocks.
    ///
    /// ```no_run
    /// # use ringwire::{Client, Config, Envelope, SendError};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut client = Client::new(Config::default())?;
    /// let samples = [[0_u8; 64]; 32];
    /// let mut rest = &samples[..];
    /// while !rest.is_empty() {
    ///     let report = client.send_all(Envelope::data(), rest.iter().map(|sample| &sample[..]));
    ///     rest = &rest[report.queued..];
    ///     match report.refused {
    ///         None => {}
    ///         Some(SendError::Full | SendError::MemoryFull) => drop(client.poll()),
    ///         Some(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn send_all<'b, B: Body + ?Sized + 'b>(
        &mut self,
        envelope: Envelope,
        bodies: impl IntoIterator<Item = &'b B>,
    ) -> BatchReport {
        let mut report = BatchReport::default();
        let Some(connection) = self.connection else {
            report.refused = Some(SendError::NotConnected);
            return report;
        };
        let mut bodies = bodies.into_iter();
        loop {
            let batch =
                self.reactor.send_batch(connection, envelope, &mut bodies, AUTO_FLUSH_BYTES);
            report.queued += batch.queued;
            report.refused = batch.refused;
            if batch.is_due {
                self.reactor.flush_full_lane(connection, envelope.lane(), batch.is_crowded);
            }
            if !batch.is_stopped {
                return report;
            }
        }
    }

    /// Submits what is queued, as far as the socket takes it, without waiting and without handling
    /// what came.
    pub fn flush(&mut self) {
        self.reactor.flush_all();
    }

    /// Submits what is queued and waits until the kernel has taken all of it and the peer has
    /// confirmed what is reliable, for up to `timeout`. Handlers are called meanwhile; other
    /// messages wait for [`receive`](Self::receive).
    ///
    /// A confirmed message has arrived; that it was handled, only an answer tells. Of best effort,
    /// what the kernel has taken may still be lost with the connection.
    ///
    /// # Errors
    ///
    /// [`FlushError`]. After a timeout what is left stays queued, in order.
    pub fn flush_within(&mut self, timeout: Duration) -> Result<(), FlushError> {
        let deadline = Nanos::now() + timeout;
        let losses = self.reactor.losses();
        loop {
            self.reactor.flush_all();
            let Some(connection) = self.connection else { return Err(FlushError::NotConnected) };
            // Also when the session goes on, or another has taken its place: what was lost is told
            // by its events, and not flushed.
            if self.reactor.is_over(connection) || self.reactor.losses() > losses {
                return Err(FlushError::NotConnected);
            }
            if self.reactor.is_flushed(connection) {
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

    /// Sends a request and waits for its answer. Handlers are called meanwhile; other messages
    /// wait for [`receive`](Self::receive). They have to be taken now and then: behind a full inbox
    /// nothing is read, answers neither ([`RequestError::InboxFull`]).
    ///
    /// Blocks for up to `timeout`.
    ///
    /// # Errors
    ///
    /// [`RequestError`]. After a timeout the link lives on; a late answer is counted and dropped.
    pub fn request<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let id = self.start_request(envelope, body, timeout)?;
        loop {
            if let Some(outcome) = self.reactor.take_response(id) {
                self.reactor.flush_replies();
                return outcome;
            }
            self.reactor.turn_or_lose(id)?;
        }
    }

    /// As [`request`](Self::request), but `take` reads the answer in the receive window: no copy.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    #[inline]
    pub fn request_with<B: Body + ?Sized, R>(
        &mut self,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
        take: impl FnOnce(Frame<'_>) -> R,
    ) -> Result<R, RequestError> {
        let connection = self.connection.ok_or(SendError::NotConnected)?;
        self.reactor.request_with(connection, envelope, body, timeout, take)
    }

    /// Sends a request without waiting for its answer: for control loops. The request leaves with
    /// the next poll; [`take_response`](Self::take_response) tells its outcome. The server is told
    /// of 71 minutes of a longer timeout.
    ///
    /// # Errors
    ///
    /// [`RequestError::Send`] or [`RequestError::TooMany`]; nothing was queued.
    pub fn start_request<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<RequestId, RequestError> {
        let connection = self.connection.ok_or(SendError::NotConnected)?;
        self.reactor.start_request(connection, envelope, body, timeout)
    }

    /// The outcome of a request, once there is one; it is then forgotten. `None` also for a request
    /// whose outcome was taken, or that was cancelled: nothing is known of it any more.
    pub fn take_response(&mut self, request: RequestId) -> Option<Result<Message, RequestError>> {
        self.reactor.take_response(request)
    }

    /// Gives a request up, and tells the server so; see [`Reactor::cancel_request`].
    pub fn cancel_request(&mut self, request: RequestId) {
        self.reactor.cancel_request(request);
    }

    /// Whether the answer to a request of the server's is of no use any more; see
    /// [`Reactor::is_abandoned`].
    #[must_use]
    pub fn is_abandoned(&self, request: &Message) -> bool {
        self.reactor.is_abandoned(request)
    }

    /// Calls `handler` when the server gives up a request it has made; see
    /// [`Reactor::on_cancelled`]. It runs inside the client's calls.
    pub fn on_cancelled(&mut self, handler: impl FnMut(&mut Context<'_>, &Cancelled) + 'static) {
        self.reactor.on_cancelled(handler);
    }

    /// Queues the answer to a request of the server's that came as a message.
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

    /// Waits for the next message that no handler takes, for up to `timeout`; zero only looks.
    /// What is queued leaves first. While messages wait they are returned without waiting, with a
    /// turn in between when the last is a millisecond ago: heartbeats, watches and handlers go on.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Timeout`], or [`ReceiveError::NotConnected`] when none can come.
    pub fn receive(&mut self, timeout: Duration) -> Result<Message, ReceiveError> {
        if let Some(message) = self.reactor.receive_waiting() {
            return Ok(message);
        }
        let deadline = Nanos::now() + timeout;
        loop {
            let is_over = self.connection_state() == ConnectionState::Disconnected;
            let may_wait = !timeout.is_zero() && !is_over;
            let wait = if may_wait { Wait::Until(deadline) } else { Wait::Poll };
            let turned = self.reactor.turn(wait);
            if let Some(message) = self.reactor.receive() {
                self.reactor.flush_replies();
                return Ok(message);
            }
            if turned.is_err() || self.connection_state() == ConnectionState::Disconnected {
                return Err(ReceiveError::NotConnected);
            }
            if Nanos::now() >= deadline {
                self.reactor.flush_replies();
                return Err(ReceiveError::Timeout { timeout });
            }
        }
    }

    /// One bounded pass: submits what is queued, handles what has come, and never sleeps. Call it
    /// once per control cycle. At most 64 completions are taken, and of what they bring at most
    /// 1,024 messages of a connection are handled: the rest has its turn with the next call.
    ///
    /// A failing ring shows as a lost connection.
    pub fn poll(&mut self) -> Turn {
        self.reactor.turn(Wait::Poll).unwrap_or_default()
    }

    /// Handles what comes for `duration`, sleeping or spinning as configured, and makes a lost link
    /// again meanwhile, where that is configured (`reconnect`). Returns early when the session is
    /// over: what came before that was handled, or waits for [`receive`](Self::receive).
    ///
    /// # Errors
    ///
    /// [`ReceiveError::NotConnected`], at once when there was no session to begin with;
    /// [`disconnected_reason`](Self::disconnected_reason) says why.
    pub fn run_for(&mut self, duration: Duration) -> Result<(), ReceiveError> {
        let deadline = Nanos::now() + duration;
        while self.connection_state() != ConnectionState::Disconnected {
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
    /// Handlers run inside the client's calls, on this thread; see [`Context`]. A panic in a
    /// handler is caught, counted (`handler_panics`) and logged; not with `panic = "abort"`.
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

    /// Watches that messages of a type or kind come at least every `period`; see
    /// [`Reactor::watch`]. To be called while connected; the watch outlives the link, and is missed
    /// when the session ends.
    ///
    /// # Errors
    ///
    /// [`WatchError`].
    pub fn watch(&mut self, key: WatchKey, period: Duration) -> Result<(), WatchError> {
        let connection = self.connection.ok_or(WatchError::NoSession)?;
        self.reactor.watch(connection, key, period)
    }

    /// Calls `handler` when messages that are watched stay away for their period; see
    /// [`Reactor::on_deadline_missed`]. It runs inside the client's calls.
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

    /// Where the connection stands, as of the last call that turned the reactor.
    #[must_use]
    pub fn connection_state(&self) -> ConnectionState {
        self.connection.map_or(ConnectionState::Disconnected, |id| self.reactor.state_of(id))
    }

    /// Why the last session ended, as of the last call that turned the reactor. `None` while one
    /// lives, and before the first. A failed [`connect`](Self::connect) says itself what happened
    /// and changes nothing here.
    #[must_use]
    pub fn disconnected_reason(&self) -> Option<CloseReason> {
        match self.connection {
            Some(connection) => self.reactor.disconnected_reason(connection),
            None => self.ended,
        }
    }

    /// Names the session, from the first connection to its end; `None` before, and after
    /// [`disconnect`](Self::disconnect). For what the [`reactor`](Self::reactor) offers.
    #[must_use]
    pub fn id(&self) -> Option<ConnectionId> {
        self.connection
    }

    /// The limits and tuning, as they are in force: the reactor underneath has places for a few
    /// connections only, whatever `connections_max` says.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.reactor.config()
    }

    /// What is known of the connection.
    #[must_use]
    pub fn connection(&self) -> Option<ConnectionInfo> {
        self.reactor.connection(self.connection?)
    }

    /// The oldest connection event not fetched yet.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.reactor.poll_event()
    }

    /// What has happened so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut statistics = self.reactor.statistics();
        statistics.state = self.connection_state();
        statistics
    }

    /// The reactor underneath, for what a client does not offer. It has places for four
    /// connections, with `express` for eight, whatever `connections_max` says: the session's, and
    /// those that are still closing.
    pub fn reactor(&mut self) -> &mut Reactor {
        &mut self.reactor
    }
}

/// Whether a peer would refuse a session again, and again.
fn is_final(error: &ConnectError) -> bool {
    match error {
        ConnectError::Rejected { reason, .. } => matches!(
            reason,
            RejectReason::Version | RejectReason::Schema | RejectReason::Authentication
        ),
        ConnectError::Handshake { reason, .. } => matches!(reason, CloseReason::Refused(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Server;

    /// An address where nobody listens, and the socket that keeps it so.
    fn deaf() -> (socket2::Socket, Address) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
        let address = socket.local_addr().expect("bound").as_socket().expect("IPv4");
        (socket, Address::Tcp(address))
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        let config = Config::builder().registry(false).build().expect("valid");
        let server = Server::builder().config(config.clone()).listen("127.0.0.1:0");
        let server = server.start().expect("it listens");
        let (first, second) = (deaf(), deaf());
        let mut client = Client::new(config).expect("a ring");

        let failure = client.connect_any(&[first.1.clone(), second.1.clone()], Nanos::NEVER);
        let failure = failure.expect_err("nobody listens").expect("both have failed");
        assert!(failure.to_string().contains(&second.1.to_string()), "the last: {failure}");

        let addresses = [first.1, server.addresses()[0].clone(), second.1];
        client.connect_any(&addresses, Nanos::NEVER).expect("the second listens");
        assert_eq!(client.connection_state(), ConnectionState::Connected);
        let connected = client.connection().expect("connected").address;
        assert_eq!(connected, addresses[1].to_string());
    }
}

//! One thread, one ring, one loop. **Start here**: [`Reactor::turn`].
//!
//! A [`Reactor`] never spawns a thread: whoever owns it calls [`Reactor::turn`]. `Client` drives
//! one in its caller's thread, `Node` one on each of its threads, and an application may drive one
//! from a loop of its own.
//!
//! # The turn
//!
//! ```text
//! sends and receives are queued → one enter: submit, and wait only if nothing is ready
//! → reap ≤ 64 completions, which only record what happened → cut frames, call handlers
//! → ≤ 64 commands of other threads → deadlines that are due → free what has ended
//! ```
//!
//! Every part is bounded. The turn *begins* with the enter that submits what the turn before
//! queued: so the answers to many, the receives for their next messages and the wait for those are
//! one system call. What goes to one or two connections is sent past the ring, and the answers to a
//! few at once: who waits for them does not wait for what is booked before a reactor sleeps.
//!
//! # Idle strategies
//!
//! See [`Idle`](crate::config::Idle) and `idle`. Spinning watches the completion queue, the
//! kernel's "deferred work is waiting" flag and the command queue in memory, and makes no system
//! call until one of them says so; but for the one or two connections whose sockets it looks into
//! itself (see `transmit`).

pub(crate) mod abandoned;
mod catch_up;
pub(crate) mod command;
pub(crate) mod connection;
pub(crate) mod core;
pub(crate) mod dispatch;
mod drops;
pub(crate) mod errand;
pub(crate) mod events;
mod express;
pub(crate) mod flush;
mod idle;
pub(crate) mod inbox;
pub(crate) mod listener;
pub(crate) mod message;
pub(crate) mod meter;
mod pause;
pub(crate) mod pool;
mod receive;
mod report;
pub(crate) mod sessions;
pub(crate) mod shutdown;
mod standing;
pub(crate) mod tap;
#[cfg(test)]
mod tests;
mod transmit;
mod troubles;
pub(crate) mod watch;

use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use slotmap::{Key, KeyData};

pub use self::abandoned::Cancelled;
pub(crate) use self::command::dial_error;
use self::command::{Asker, DialError, Mailbox};
pub use self::connection::ConnectionId;
use self::connection::{ConnectionKey, ReactorId, next_node};
use self::core::{AUTO_FLUSH_BYTES, Admitted, Batch, Core};
pub use self::dispatch::Context;
use self::dispatch::Handlers;
use self::events::EventQueue;
pub use self::events::{Event, EventKind, Link};
pub use self::idle::Wait;
use self::inbox::Inbox;
pub use self::message::Message;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use self::meter::bench::BenchTurns;
pub use self::pool::{Choice, PoolId, PoolRefusals, PoolStatistics};
use self::receive::Awaited;
pub use self::report::{
    BatchReport, BroadcastReport, ClockOffset, ConnectionInfo, ShutdownReport, Turn,
};
pub use self::tap::{Tap, TapFilter, TapFrame, TapReceiver};
pub use self::watch::{WatchChange, WatchError, WatchKey, Watched};
use crate::config::Config;
use crate::endpoint::{Address, Endpoint};
use crate::error::{CloseReason, ConnectError, RequestError, SendError, SetupError};
pub use crate::session::requests::RequestId;
use crate::session::{Correlation, Envelope};
pub use crate::stats::ConnectionState;
use crate::stats::{Block, CounterBlock, Registry, Snapshot, Statistics};
use crate::sync::claim::Claim;
use crate::sys::ring::{Completion, OpKind, Token};
use crate::time::Nanos;
use crate::wire::{Body, Frame, Kind, Payload, Priority, low_half};

/// Completions reaped in one turn.
const COMPLETIONS_PER_TURN: u32 = 64;
/// How long calls that take what waits go without a turn.
const TURN_AT_LATEST: Duration = Duration::from_millis(1);
/// See the module. Lives and dies on one thread.
pub struct Reactor {
    core: Core,
    handlers: Handlers,
    is_server: bool,
    /// The ring serves one thread (IORING_SETUP_SINGLE_ISSUER).
    not_send: PhantomData<*const ()>,
}

/// What the tokens of ring operations mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Connection(ConnectionKey),
    Listener(usize),
    Waker,
}

/// Tokens of ring operations. A connection's is its key, whose upper half is never 0.
pub(crate) struct Tokens;

impl Tokens {
    const WAKER: Token = Token(u32::MAX as u64);

    #[inline]
    pub(crate) fn connection(key: ConnectionKey) -> Token {
        Token(key.data().as_ffi())
    }

    pub(crate) fn listener(index: usize) -> Token {
        Token(index as u64)
    }

    #[inline]
    fn target(token: Token) -> Target {
        if token.0 > u64::from(u32::MAX) {
            Target::Connection(ConnectionKey::from(KeyData::from_ffi(token.0)))
        } else if token == Self::WAKER {
            Target::Waker
        } else {
            Target::Listener(low_half(token.0) as usize)
        }
    }
}

impl Reactor {
    /// Sets up a reactor on this thread: its ring, and all the memory `config` asks for.
    ///
    /// The thread stays the application's: `cores`, `scheduler_fifo_priority`, `mlockall`,
    /// `metrics_address` and `reactors` are for nodes, and ignored here with a warning.
    ///
    /// # Errors
    ///
    /// [`SetupError`], which says what the kernel refused and what to do.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let ignored = config.only_for_nodes();
        if !ignored.is_empty() {
            tracing::warn!(
                settings = ignored.join(", "),
                "only a node or server obeys these settings: on a thread of the application's they \
                 are its own to make"
            );
        }
        let events = EventQueue::new(config, 1);
        let registry = registry(config, 1)?;
        let block = &registry.blocks()[0];
        let inbox = Inbox::local(config);
        let id = ReactorId::new(next_node(), 0);
        let mut reactor = Self::with_parts(config.clone(), id, None, inbox, events, block)?;
        reactor.core.registry = Some(registry);
        Ok(reactor)
    }

    pub(crate) fn with_parts(
        config: Config,
        id: ReactorId,
        mailbox: Option<Arc<Mailbox>>,
        inbox: Inbox,
        events: EventQueue,
        block: &Block,
    ) -> Result<Self, SetupError> {
        let core = Core::new(config, id, mailbox, inbox, events, block)?;
        let handlers = Handlers::default();
        Ok(Self { core, handlers, is_server: false, not_send: PhantomData })
    }

    /// One bounded pass through the loop; see the module.
    ///
    /// Blocks for as long as `wait` allows. Allocates nothing in steady state.
    ///
    /// # Errors
    ///
    /// The kernel's, when the ring itself fails; the reactor is then of no further use, and its
    /// sessions are over ([`CloseReason::Socket`]).
    pub fn turn(&mut self, wait: Wait) -> io::Result<Turn> {
        self.turn_awaiting(wait, &mut None)
    }

    pub(crate) fn turn_awaiting(
        &mut self,
        wait: Wait,
        awaited: &mut Option<Awaited<'_>>,
    ) -> io::Result<Turn> {
        let core = &mut self.core;
        if let Err(error) = core.submit_and_wait(wait) {
            core.ring_failed(&error);
            watch::tell_watched(core, &mut self.handlers);
            return Err(error);
        }
        if !std::mem::take(&mut core.now_is_of_receive) {
            core.now = Nanos::now();
        }
        core.turned_at = core.now;
        core.meter.turn_begins(core.now, &core.counters);
        core.counters.turns.add(1);

        let directly = std::mem::take(&mut core.direct_receives);
        core.counters.direct_receives.add(u64::from(directly));
        let completions = if core.ring.has_completion() { core.reap() } else { 0 } + directly;
        receive::handle_ready(core, &mut self.handlers, awaited);
        core.run_commands();
        core.expire();
        watch::tell_watched(core, &mut self.handlers);
        core.free_ended();
        if completions > 0 {
            core.last_activity = core.now;
            core.counters.last_activity_ns.set(core.now.0);
        }
        core.tend_pools();
        core.report_errands();
        core.report_flushes();
        // Sessions that have ended since.
        watch::tell_watched(core, &mut self.handlers);
        if core.dirty.is_empty() {
            core.refresh_rows();
        }
        if !core.meter.is_driven() && core.meter.has_handed_over() {
            // Sends within the turn: their rows go with its counters.
            core.settle_meter();
        }
        core.meter.turn_ends();
        if wait == Wait::Poll {
            if let Err(error) = core.submit_sends() {
                core.ring_failed(&error);
                watch::tell_watched(core, &mut self.handlers);
                return Err(error);
            }
            core.refresh_rows();
        }
        if !core.meter.is_driven() && core.meter.wants_time() {
            // What comes next is the application's time.
            core.settle_meter();
        }
        core.now_is_fresh = false;
        // Of what a socket took in part the rest is nobody's but ours until it is queued.
        let is_busy = core.has_work() || !core.dirty.is_empty();
        Ok(Turn { completions, is_busy })
    }

    /// Listens on `endpoint`; returns the address, with the port the kernel chose for port 0.
    ///
    /// A reactor listens on 32 addresses at most. A host name is listened on at all its addresses,
    /// on the same port: the first is returned, [`Reactor::addresses`] names all. Those that this
    /// machine does not have are left out, with a warning, while one remains. Blocks on the
    /// resolver when the host is a name, and for up to 250 ms while the port is in use, as it is
    /// for some milliseconds after its owner was killed.
    ///
    /// # Errors
    ///
    /// [`SetupError`]: port in use at one of the addresses, no permission, no such address.
    pub fn listen(&mut self, endpoint: &Endpoint) -> Result<Address, SetupError> {
        let mut first = None;
        for (socket, _) in listener::bind(endpoint, &self.core.config)? {
            let address = self.add_listener(socket)?;
            first.get_or_insert(address);
        }
        Ok(first.expect("an endpoint has an address"))
    }

    pub(crate) fn add_listener(&mut self, socket: socket2::Socket) -> Result<Address, SetupError> {
        self.is_server = true;
        let address = self.core.add_listener(socket)?;
        if let Some(registry) = &self.core.registry {
            registry.set_listening(&address.to_string());
        }
        Ok(address)
    }

    /// Says that nothing but this reactor's turns happens on its thread.
    pub(crate) fn set_driven(&mut self) {
        self.core.meter.set_driven();
    }

    /// Connects to `address` and completes the handshake. Drives the reactor meanwhile.
    ///
    /// Blocks for up to `connect_timeout_ms` and `handshake_timeout_ms`, with `express` for as long
    /// again. To connect without blocking, use [`Reactor::dial`] and watch the events.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub fn connect(&mut self, address: &Address) -> Result<ConnectionId, ConnectError> {
        let outcome = self.connect_until(address, Nanos::NEVER);
        outcome.map_err(|failure| failure.expect("there is no deadline"))
    }

    /// As [`connect`](Self::connect), until `deadline`: after it, `None`.
    pub(crate) fn connect_until(
        &mut self,
        address: &Address,
        deadline: Nanos,
    ) -> Result<ConnectionId, Option<ConnectError>> {
        let id = self.dial(address)?;
        let key = self.core.key(id).expect("dialled just now");
        // Told once it stands: a turn may bring its end as well, behind messages that have come.
        let (reply, outcome) = bounded(1);
        self.core.dial_askers.push((key, Asker { claim: Claim::default(), reply }));
        loop {
            if let Ok(outcome) = outcome.try_recv() {
                return outcome.map_err(|error| Some(dial_error(error, &self.core.config)));
            }
            if Nanos::now() >= deadline {
                self.disconnect(id, Duration::ZERO);
                // So that the peer learns of it, whatever the application does next.
                let _ = self.turn(Wait::Poll);
                return Err(None);
            }
            self.turn(Wait::Until(deadline))
                .map_err(|source| ConnectError::Connect { address: address.to_string(), source })?;
        }
    }

    /// Begins to connect to `address`. [`EventKind::Connected`] or [`EventKind::Disconnected`]
    /// tells the outcome. Does not block.
    ///
    /// # Errors
    ///
    /// [`ConnectError::TooMany`], or the kernel's refusal of a socket.
    pub fn dial(&mut self, address: &Address) -> Result<ConnectionId, ConnectError> {
        match self.core.dial(address) {
            Ok(key) => Ok(self.core.id(key)),
            Err(failure) => Err(dial_error(
                DialError { address: address.to_string(), reason: failure },
                &self.core.config,
            )),
        }
    }

    /// Ends a connection once what is queued has left, or at the deadline. Does not block: keep
    /// turning until [`EventKind::Disconnected`] tells how it went.
    ///
    /// At the deadline, which may be now, what is still queued is dropped and the peer is told
    /// goodbye all the same, so that it does not reconnect; unless the kernel still holds a send of
    /// the connection: then the peer sees the link break, and begins a new session when it is back.
    pub fn disconnect(&mut self, connection: ConnectionId, deadline: Duration) {
        self.core.now = Nanos::now();
        let deadline = self.core.now + deadline;
        self.core.disconnect(connection, deadline);
    }

    /// Shuts the socket of a session's link down, for tests and benches: as a cable that is pulled
    /// at this end. Nothing happens to a session that has no link.
    #[doc(hidden)]
    pub fn cut_link(&mut self, connection: ConnectionId) {
        for key in self.core.links(connection) {
            // Refused where the peer was faster, and the link is gone as well.
            let _ = self.core.connections[key].socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Watches what comes from every peer: as [`Reactor::watch`] for each session that is
    /// established from now on. A watch with the same key is replaced.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: `watches_max` keys are watched already, or a period of zero.
    pub fn watch_all(&mut self, key: WatchKey, period: Duration) -> Result<(), WatchError> {
        if period.is_zero() {
            return Err(WatchError::PeriodZero);
        }
        let watches_max = self.core.config.watches_max() as usize;
        let watches = &mut self.core.watches;
        if let Some((_, existing)) = watches.iter_mut().find(|(watched, _)| *watched == key) {
            *existing = period;
        } else if watches.len() < watches_max {
            watches.push((key, period));
        } else {
            return Err(WatchError::Full { watches_max });
        }
        Ok(())
    }

    /// Calls `handler` for frames of this kind that no handler by type takes, in place of one that
    /// was there for it before.
    ///
    /// Handlers run in [`Reactor::turn`], on this thread; see [`Context`].
    ///
    /// # Panics
    ///
    /// When the kind belongs to the session (heartbeat, hello …).
    pub fn on(&mut self, kind: Kind, handler: impl FnMut(&mut Context<'_>, Frame<'_>) + 'static) {
        self.handlers.on_kind(kind, Box::new(handler));
    }

    /// Calls `handler` for frames with `T`'s `type_id`, with the validated value in place, and in
    /// place of a handler that was there for it before.
    ///
    /// A payload that claims to be a `T` and is not closes its connection.
    pub fn on_type<T: Payload>(
        &mut self,
        handler: impl FnMut(&mut Context<'_>, Frame<'_>, &T::Archived) + 'static,
    ) {
        self.handlers.on_type(T::TYPE_ID, dispatch::typed::<T>(handler));
    }

    /// Tells a reactor of a node about all of them.
    pub(crate) fn set_siblings(&mut self, siblings: Vec<Arc<Mailbox>>) {
        self.core.siblings = siblings;
    }

    pub(crate) fn handlers_mut(&mut self) -> &mut Handlers {
        &mut self.handlers
    }

    /// Queues a message. It leaves with the next turn. Its `sent_at` is the time of the first
    /// message queued since the last turn or flush; of one with a time to live, that of this call.
    ///
    /// Hot path: no allocation, no system call.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued.
    #[inline]
    pub fn send<B: Body + ?Sized>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.send_counting(connection, envelope, body).map(drop)
    }

    /// Queues a message for each of `bodies`, in order, alike but for what they carry. Stops at the
    /// first that is refused. What does not change between them is looked at once, which
    /// [`send`](Self::send) does for each.
    ///
    /// Hot path: no allocation, no system call.
    #[inline]
    pub fn send_all<'b, B: Body + ?Sized + 'b>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        bodies: impl IntoIterator<Item = &'b B>,
    ) -> BatchReport {
        let batch = self.send_batch(connection, envelope, &mut bodies.into_iter(), usize::MAX);
        BatchReport { queued: batch.queued, refused: batch.refused }
    }

    /// As [`Reactor::send_all`], until the lane has grown past another multiple of `stride` bytes.
    #[inline]
    pub(crate) fn send_batch<'b, B: Body + ?Sized + 'b>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        bodies: &mut impl Iterator<Item = &'b B>,
        stride: usize,
    ) -> Batch {
        if connection.reactor != self.core.reactor {
            return Batch { refused: Some(SendError::NotConnected), ..Batch::default() };
        }
        self.core.refresh_for(envelope);
        self.core.push_all(connection, envelope, bodies, stride)
    }

    /// As [`Reactor::send`]; returns how full the lane is now.
    #[inline(always)]
    pub(crate) fn send_counting<B: Body + ?Sized>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Result<Admitted, SendError> {
        match self.core.append(connection, envelope, body) {
            Some(admitted) => Ok(admitted),
            None => self.send_any(connection, envelope, body),
        }
    }

    /// As [`Reactor::send`], of any message. Out of line: it would be in the way of the rest.
    #[inline(never)]
    fn send_any<B: Body + ?Sized>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Result<Admitted, SendError> {
        if connection.reactor != self.core.reactor {
            return Err(SendError::NotConnected);
        }
        self.core.refresh_for(envelope);
        self.core.push_to(connection, envelope, Correlation::None, body)
    }

    /// Queues the answer to a request that was received as a message.
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
        self.reply_counting(request, envelope, body).map(drop)
    }

    /// As [`Reactor::reply`] of a client or a pool, which submits by itself what fills a lane.
    pub(crate) fn reply_and_flush<B: Body + ?Sized>(
        &mut self,
        request: &Message,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        let admitted = self.reply_counting(request, envelope, body)?;
        if admitted.is_due() {
            let lane = request.answer_envelope(envelope).lane();
            self.flush_full_lane(request.connection(), lane, admitted.is_crowded);
        }
        Ok(())
    }

    fn reply_counting<B: Body + ?Sized>(
        &mut self,
        request: &Message,
        envelope: Envelope,
        body: &B,
    ) -> Result<Admitted, SendError> {
        self.core.refresh_for(envelope);
        if request.mark().is_some_and(|mark| self.core.cancellations.contains(mark)) {
            return Err(SendError::Abandoned);
        }
        let (to, envelope) = (request.connection(), request.answer_envelope(envelope));
        self.core.push_to(to, envelope, response_to(request), body)
    }

    /// Queues a message for every established session, and reports on each. Allocates its report.
    ///
    /// Those whose link is lost and that may come back are included: for each of them a reliable
    /// message is queued and kept as by [`send`](Self::send), and one of best effort is
    /// refused with [`SendError::NotConnected`].
    pub fn broadcast<B: Body + ?Sized>(&mut self, envelope: Envelope, body: &B) -> BroadcastReport {
        self.core.refresh_for(envelope);
        self.core.broadcast(envelope, body)
    }

    /// Queues a request and waits for its answer, which `take` reads in place. Drives the reactor
    /// meanwhile: handlers are called, other messages go to the inbox.
    ///
    /// Blocks for up to `timeout`. Allocates nothing.
    ///
    /// # Errors
    ///
    /// [`RequestError`]. After a timeout the link lives on; a late answer is counted and dropped.
    ///
    /// # Panics
    ///
    /// When `take` does; the connection is as good as before.
    #[inline]
    pub fn request_with<B: Body + ?Sized, R>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
        take: impl FnOnce(Frame<'_>) -> R,
    ) -> Result<R, RequestError> {
        let id = self.start_request(connection, envelope, body, timeout)?;
        // At once, before the turn that waits for its answer begins. The turn of a reactor that
        // parks does it as soon, and its sleep needs the reading of the clock that comes with it.
        if self.core.is_spinning() {
            self.core.transmit();
        }
        let mut take = Some(take);
        let mut taken = None;
        loop {
            let mut closure = |frame: Frame<'_>| {
                if let Some(take) = take.take() {
                    // Unwind safety: it goes on unwinding as soon as the frame has been handled.
                    taken = Some(catch_unwind(AssertUnwindSafe(|| take(frame))));
                }
            };
            let mut awaited =
                Some(Awaited { correlation: id.correlation(), take: &mut closure, is_done: false });
            let turned = self.turn_awaiting(Wait::Until(Nanos::NEVER), &mut awaited);
            if let Some(value) = taken {
                self.core.requests.close(id);
                self.flush_replies();
                return Ok(value.unwrap_or_else(|panic| resume_unwind(panic)));
            }
            if let Err(error) = turned {
                self.core.requests.close(id);
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let reason = CloseReason::Socket { errno };
                return Err(RequestError::ConnectionLost { reason });
            }
            if let Some(Err(error)) = self.core.requests.take(id) {
                return Err(error);
            }
        }
    }

    /// Queues a request without waiting. [`Reactor::take_response`] tells the outcome, after
    /// turns. The peer is told of 71 minutes of a longer timeout.
    ///
    /// # Errors
    ///
    /// [`RequestError::Send`] or [`RequestError::TooMany`]; nothing was queued.
    pub fn start_request<B: Body + ?Sized>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<RequestId, RequestError> {
        self.core.start_request(connection, envelope, body, timeout)
    }

    /// The outcome of a request, once there is one; it is then forgotten. `None` also for a request
    /// whose outcome was taken, or that was cancelled: nothing is known of it any more. Until then
    /// it counts against `requests_max`.
    pub fn take_response(&mut self, request: RequestId) -> Option<Result<Message, RequestError>> {
        self.core.requests.take(request)
    }

    /// Gives a request up, and tells the peer so, behind the request and in its lane: a request
    /// that still waits there for its handling is not handled any more (see
    /// [`Reactor::on_cancelled`]). An answer that comes all the same is counted and dropped. Does
    /// nothing when there is an outcome already, which is then forgotten.
    ///
    /// A request that has not been sent yet, as while the link is down, is dropped instead, and
    /// counted ([`DropReason::Cancelled`](crate::DropReason::Cancelled)). Otherwise the
    /// cancellation leaves with the next turn; in a lane that is full it is left out, and so it is
    /// while the link is down, unless the request is reliable.
    pub fn cancel_request(&mut self, request: RequestId) {
        self.core.cancel_request(request);
    }

    /// The oldest message that no handler took. One that is not worth anything any more is left out
    /// and counted: a request that its sender has cancelled (`requests_cancelled` counts its
    /// cancellation), and what was overtaken by its deadline (`messages_expired`).
    pub fn receive(&mut self) -> Option<Message> {
        loop {
            let message = self.core.inbox.take()?;
            if !self.core.cancellations.is_abandoned(&message) {
                return Some(message);
            }
            if !self.core.cancellations.is_cancelled(&message) {
                self.core.counters.messages_expired.add(1);
            }
        }
    }

    /// A message that waits, for a call that returns it without a turn of its own. What is queued
    /// is submitted, and behind many such calls there is a turn all the same: otherwise whoever
    /// works through a full inbox would be silent to its peer meanwhile.
    pub(crate) fn receive_waiting(&mut self) -> Option<Message> {
        let message = self.receive()?;
        if Nanos::now().since(self.core.turned_at) < TURN_AT_LATEST {
            self.flush_replies();
        } else {
            // A failing ring is met again, and reported, in the next turn.
            let _ = self.turn(Wait::Poll);
        }
        Some(message)
    }

    /// The oldest connection event not fetched yet.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.core.events.pop()
    }

    /// Keeps an event that was only looked at. All of them, in order.
    pub(crate) fn put_event_back(&mut self, event: Event) {
        self.core.events.push(event);
    }

    /// What is known of a connection; `None` when it is gone.
    #[must_use]
    pub fn connection(&self, connection: ConnectionId) -> Option<ConnectionInfo> {
        if connection.reactor != self.core.reactor {
            return None;
        }
        self.core.info(self.core.key(connection).ok()?)
    }

    /// Why a connection ended: `None` while it lives, and once another connection has ended in its
    /// place (of which there are `connections_max`).
    #[must_use]
    pub fn disconnected_reason(&self, connection: ConnectionId) -> Option<CloseReason> {
        if connection.reactor != self.core.reactor {
            return None;
        }
        self.core.closed_reason(connection)
    }

    /// The established connections.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.core.established()
    }

    /// The addresses this reactor listens on.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.core.listeners.iter().map(|listener| listener.address.clone()).collect()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// A snapshot of the counters.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut statistics = Statistics::collect(self.is_server, [&*self.core.counters]);
        statistics.state = match self.core.life.is_closing() {
            false if self.is_server || self.core.active > 0 => ConnectionState::Connected,
            false if self.core.connections.is_empty() => ConnectionState::Disconnected,
            false => ConnectionState::Connecting,
            true if self.core.connections.is_empty() => ConnectionState::Disconnected,
            true => ConnectionState::Closing,
        };
        statistics
    }

    /// The counters, to be read from any thread.
    #[must_use]
    pub fn counters(&self) -> CounterBlock {
        self.core.counters.clone()
    }

    /// Counters, histograms and sessions, as other processes see them. `None` for a reactor of a
    /// node: ask its handle.
    ///
    /// Allocates; takes some tens of microseconds.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.core.registry.as_ref().map(|registry| registry.handle().snapshot())
    }

    /// Stops listening, flushes and ends every connection, and returns within `deadline` (plus
    /// the time of the handlers it calls meanwhile).
    pub fn shutdown(&mut self, deadline: Duration) -> ShutdownReport {
        let deadline = Nanos::now() + deadline;
        self.core.begin_shutdown(deadline);
        while !self.is_shut_down() {
            let limit = self.core.turn_limit();
            if self.turn(Wait::Until(limit)).is_err() {
                break;
            }
        }
        self.core.shutdown_report()
    }

    pub(crate) fn is_shut_down(&mut self) -> bool {
        self.core.life.is_closing()
            && self.core.connections.is_empty()
            && self.core.watched.is_empty()
    }

    /// When a turn must end so that a shutdown keeps its deadline.
    pub(crate) fn turn_limit(&self) -> Nanos {
        self.core.turn_limit()
    }

    /// Where a session stands.
    pub(crate) fn state_of(&self, connection: ConnectionId) -> ConnectionState {
        if connection.reactor != self.core.reactor {
            return ConnectionState::Disconnected;
        }
        self.core.state_of_both(connection.key)
    }

    /// A turn for a waiting request; a failing ring loses it.
    pub(crate) fn turn_or_lose(&mut self, request: RequestId) -> Result<(), RequestError> {
        match self.turn(Wait::Until(Nanos::NEVER)) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.core.requests.close(request);
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                Err(RequestError::ConnectionLost { reason: CloseReason::Socket { errno } })
            }
        }
    }

    /// Submits when a connection has nothing in flight and [`AUTO_FLUSH_BYTES`] wait in a lane, or
    /// less in one that is crowded behind what has left just now: keeps a sender that never polls
    /// from filling its lane while the socket is idle.
    #[inline]
    pub(crate) fn flush_full_lane(
        &mut self,
        connection: ConnectionId,
        lane: Priority,
        is_crowded: bool,
    ) {
        let core = &mut self.core;
        let carrier = core.for_lane(connection, lane);
        let Ok(key) = carrier.and_then(|carrier| core.key(carrier)) else { return };
        let had_to_wait = core.connections[key].in_flight.is_some();
        // What was in flight may have left by now, and with it most of what the lane had: the
        // beginning of a block waits for the rest.
        core.collect();
        let Some(connection) = core.connections.get(key) else { return };
        if connection.is_sending() {
            return;
        }
        let has_block = connection.session.lane_waiting_bytes(lane) >= AUTO_FLUSH_BYTES;
        if is_crowded && (has_block || had_to_wait) {
            // A gap stands before the messages: one send alone would be that of the gap.
            self.flush_all();
        } else if has_block {
            self.flush_replies();
        }
    }

    pub(crate) fn shutdown_report(&self) -> ShutdownReport {
        self.core.shutdown_report()
    }

    /// Submits what handlers queued during a call that is about to return to the application.
    #[inline]
    pub(crate) fn flush_replies(&mut self) {
        // What is queued from here on is later than what leaves now.
        self.core.now_is_fresh = false;
        if self.core.has_sends() {
            // A failing ring is met again, and reported, in the next turn.
            let _ = self.core.submit_sends();
        }
    }

    /// Submits everything that waits to be sent, as far as the sockets take it. Calls no handler:
    /// completions only record what happened.
    pub(crate) fn flush_all(&mut self) {
        loop {
            // One that was short has left in part; its rest goes the ring's way.
            let counters = &self.core.counters;
            let sent_before = (counters.direct_sends.get(), counters.short_sends.get());
            self.flush_replies();
            let counters = &self.core.counters;
            let sent = (counters.direct_sends.get(), counters.short_sends.get());
            let has_progressed = self.core.collect() > 0 || sent != sent_before;
            if !has_progressed || !self.core.has_sends() {
                return;
            }
        }
    }
}

impl Core {
    /// Submits what is queued and waits as `wait` allows, unless there is something to do.
    #[inline]
    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        self.meter.forget_reading();
        if !self.mailbox_polled {
            self.poll_mailbox();
        }
        if self.is_held_back() {
            self.resume_paused();
        }
        self.transmit();
        // Somebody waits until all has left, and a prompt send tells of that with the next entry.
        self.awaits_completion |= self.sends_unsubmitted > 0 && !self.flushes.is_empty();
        self.refresh_rows();
        // A send made directly is over at once: what follows it, the next block or a goodbye, has
        // no completion to wait for, and nothing else tells who was refused that there is room.
        let sent = self.counters.direct_sends.get();
        let has_made_room = self.room_wanted_since.is_some_and(|before| before != sent);
        if has_made_room {
            self.room_wanted_since = None;
        }
        if self.dirty.is_empty()
            && !has_made_room
            && !self.has_work()
            && let Wait::Until(limit) = wait
        {
            return self.wait(limit);
        }
        self.arm();
        self.enter_if_needed()
    }

    /// Whether the next turn has something to do without waiting.
    #[inline]
    fn has_work(&mut self) -> bool {
        !self.ready.is_empty()
            || self.ring.has_completion()
            || !self.ended.is_empty()
            || !self.watched.is_empty()
            || self.mailbox.as_ref().is_some_and(|mailbox| !mailbox.is_empty())
    }

    #[inline]
    pub(crate) fn enter_if_needed(&mut self) -> io::Result<()> {
        if self.ring.needs_enter() { self.enter(0, None) } else { Ok(()) }
    }

    #[inline]
    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        if self.ring.has_overflow() {
            self.counters.cq_overflows.add(1);
            self.troubles.overflowed(self.now);
        }
        self.sends_unsubmitted = 0;
        self.awaits_completion = false;
        self.ring.enter(want, timeout, Some(&self.counters))
    }

    /// Whether sends wait to be submitted.
    #[inline]
    fn has_sends(&self) -> bool {
        self.sends_unsubmitted > 0 || !self.dirty.is_empty() || !self.stalled.is_empty()
    }

    /// Submits sends that are queued.
    #[inline]
    fn submit_sends(&mut self) -> io::Result<()> {
        self.transmit();
        if self.sends_unsubmitted > 0 { self.enter(0, None) } else { Ok(()) }
    }

    /// Reaps completions between turns, those included that the kernel posts only when it is
    /// entered: a send that waited for room in its socket goes on there.
    #[inline]
    fn collect(&mut self) -> u32 {
        // A failing ring is met again, and reported, in the next turn.
        let _ = self.enter_if_needed();
        self.reap()
    }

    /// Reaps completions. They only record what happened. Out of line: what is received past the
    /// ring passes it by.
    #[inline(never)]
    fn reap(&mut self) -> u32 {
        let mut count = 0;
        while count < COMPLETIONS_PER_TURN {
            let Some(completion) = self.ring.reap() else { break };
            count += 1;
            self.record(completion);
        }
        self.counters.completions.add(u64::from(count));
        count
    }

    #[inline]
    fn record(&mut self, completion: Completion) {
        match Tokens::target(completion.token) {
            Target::Connection(key) => match completion.kind {
                OpKind::Receive => self.on_received(key, completion),
                OpKind::Send => self.on_sent(key, completion),
                OpKind::Poll => self.on_end_poll(key, &completion),
                _ => self.on_connect(key, completion.result),
            },
            Target::Listener(index) => self.on_accept(index, completion),
            Target::Waker => self.on_woken(&completion),
        }
    }

    /// Has the ring watch the mailbox's eventfd, if it has room for that; else the next turn tries
    /// again.
    #[cold]
    fn poll_mailbox(&mut self) {
        self.mailbox_polled = true;
        if let Some(mailbox) = &self.mailbox {
            let fd = mailbox.waker().raw_fd();
            self.mailbox_polled = self.ring.poll_readable(fd, Tokens::WAKER).is_some();
        }
    }

    fn on_woken(&mut self, completion: &Completion) {
        self.counters.wakeups.add(1);
        if let Some(mailbox) = &self.mailbox {
            mailbox.waker().clear();
        }
        if !completion.continues {
            self.mailbox_polled = false;
        }
    }

    fn established(&self) -> Vec<ConnectionInfo> {
        self.connections
            .iter()
            .filter(|(_, connection)| connection.home == connection.public)
            .filter_map(|(key, _)| self.info(key))
            .filter(|info| info.is_established)
            .collect()
    }
}

/// Where `reactors` reactors write.
pub(crate) fn registry(config: &Config, reactors: usize) -> Result<Registry, SetupError> {
    Registry::new(config, reactors, core::homes_max(config))
        .map_err(|source| SetupError::System { operation: "mapping the registry", source })
}

/// What a message's answer is correlated with.
pub(crate) fn response_to(request: &Message) -> Correlation {
    if request.is_request() {
        Correlation::Response(request.correlation())
    } else {
        Correlation::None
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        // Ends what is still open; dropping the core then drops the ring, which waits until the
        // kernel has let go of every buffer.
        self.core.abandon();
        // Whoever goes safe when a watch misses does so now, at the latest.
        watch::tell_watched(&mut self.core, &mut self.handlers);
    }
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor").field("core", &self.core).finish_non_exhaustive()
    }
}

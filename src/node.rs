//! [`Node`]: reactors on threads of their own, one per chosen core, and a handle to all of them.
//!
//! The handle may be used from any thread. It reaches a reactor through a bounded command queue
//! and, when that reactor sleeps, one eventfd write; it never touches a connection itself.
//!
//! Do not call the handle's waiting methods from a handler: the handler's reactor would wait for
//! itself. Handlers use their [`Context`].
//!
//! Sending to one connection and receiving allocate nothing in steady state, as far as payloads
//! are at most 16 KiB: a thread that sends keeps a quarter of a MiB to serialise into. Broadcasts,
//! lists of connections and connecting allocate what they return, and a few hundred bytes.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

#[cfg(doc)]
use crate::config::REACTORS_MAX;
use crate::config::{Config, Idle, check_reactors};
use crate::endpoint::{Address, Endpoint};
use crate::error::{ConnectError, ReceiveError, SendError, SetupError};
use crate::reactor::command::{Command, Mailbox};
use crate::reactor::events::EventQueue;
use crate::reactor::inbox::{Inbox, SharedInbox};
use crate::reactor::listener;
use crate::reactor::message::{Message, OwnedBody};
use crate::reactor::{
    BroadcastReport, ConnectionId, ConnectionInfo, Context, Event, Reactor, ShutdownReport, Wait,
    dial_error,
};
use crate::session::Envelope;
use crate::stats::{Counters, Statistics};
use crate::sys::{socket, thread as affinity};
use crate::time::Nanos;
use crate::wire::{Body, BodyError, Frame, Kind, Payload};

/// How long a handle waits for a reactor's answer before it concludes that a handler blocks it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A handler shared by all reactors of a node.
type SharedHandler = Arc<dyn Fn(&mut Context<'_>, Frame<'_>) + Send + Sync>;

/// Collects what a node is to be; [`NodeBuilder::start`] starts it.
#[derive(Default)]
pub struct NodeBuilder {
    config: Option<Config>,
    reactors: Option<usize>,
    endpoints: Vec<String>,
    by_kind: Vec<(Kind, SharedHandler)>,
    by_type: Vec<(u32, SharedHandler)>,
}

impl std::fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("reactors", &self.reactors)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl NodeBuilder {
    /// Limits and tuning. Default: [`Config::default`].
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// How many reactors, each a thread with a ring. Default:
    /// [`reactor_count`](Config::reactor_count) of the configuration. From 1 to [`REACTORS_MAX`];
    /// `start` refuses other numbers.
    ///
    /// Each has all the memory that the limits of the configuration name.
    #[must_use]
    pub fn reactors(mut self, count: usize) -> Self {
        self.reactors = Some(count);
        self
    }

    /// Listens on `endpoint` (see [`Endpoint`]); may be called several times. With several
    /// reactors, the kernel spreads TCP connections over them (SO_REUSEPORT, socket(7)).
    ///
    /// A host name is listened on at all its addresses, on the same port, also when that is chosen
    /// by the kernel (port 0). Those that this machine does not have are left out, with a warning,
    /// while one remains: `localhost` is 127.0.0.1 and, where there is IPv6, ::1.
    /// [`Node::addresses`] names what is listened on.
    #[must_use]
    pub fn listen(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// Calls `handler` for frames of this kind that no handler by type takes, on the thread of
    /// the reactor they came to.
    ///
    /// # Panics
    ///
    /// When the kind belongs to the session (heartbeat, hello …).
    #[must_use]
    pub fn on(
        mut self,
        kind: Kind,
        handler: impl Fn(&mut Context<'_>, Frame<'_>) + Send + Sync + 'static,
    ) -> Self {
        assert!(kind.is_application(), "{kind:?} is handled by the session itself");
        self.by_kind.push((kind, Arc::new(handler)));
        self
    }

    /// Calls `handler` for frames with `T`'s `type_id`, with the validated value in place.
    ///
    /// A payload that claims to be a `T` and is not closes its connection.
    #[must_use]
    pub fn on_type<T: Payload>(
        mut self,
        handler: impl Fn(&mut Context<'_>, Frame<'_>, &T::Archived) + Send + Sync + 'static,
    ) -> Self {
        let typed = move |context: &mut Context<'_>, frame: Frame<'_>| match frame.access::<T>() {
            Ok(value) => handler(context, frame, value),
            Err(error) => context.reject_payload(error),
        };
        self.by_type.push((T::TYPE_ID, Arc::new(typed)));
        self
    }

    /// Starts the threads. Returns once every reactor is set up and listening.
    ///
    /// # Errors
    ///
    /// [`SetupError`] of the first thing that failed; everything started is stopped again. A number
    /// of reactors out of bounds is a [`SetupError::Config`].
    pub fn start(self) -> Result<Node, SetupError> {
        let mut config = self.config.unwrap_or_default();
        let count = self.reactors.unwrap_or(config.reactor_count());
        check_reactors("reactors", count, 1).map_err(SetupError::Config)?;
        let cores_available = affinity::cores_available();
        if config.idle == Idle::Spin && count > cores_available {
            tracing::warn!(
                reactors = count,
                cores = cores_available,
                "more spinning reactors than cores: falling back to idle = \"adaptive\""
            );
            config.idle = Idle::Adaptive;
        }
        if config.mlockall
            && let Err(source) = affinity::lock_memory()
        {
            return Err(SetupError::System { operation: "mlockall", source });
        }
        let mut files = SocketFiles::default();
        let (listeners, addresses) = bind(&self.endpoints, count, &config, &mut files)?;
        let (inboxes, inbox) = Inbox::shared(&config, count);
        let events = EventQueue::new(&config, count);
        // Before any thread: dropping the node stops the threads through these.
        let mailboxes = (0..count)
            .map(|_| Mailbox::new(config.commands_max()).map(Arc::new))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|source| SetupError::System { operation: "eventfd", source })?;
        let mut node = Node {
            handle: NodeHandle {
                shared: Arc::new(Shared {
                    mailboxes: mailboxes.clone(),
                    counters: Vec::new(),
                    inbox,
                    events: events.clone(),
                    is_server: !addresses.is_empty(),
                    config: config.clone(),
                    stopped: AtomicBool::new(false),
                }),
            },
            threads: Vec::new(),
            addresses,
        };
        let mut starts = Vec::new();
        let parts = listeners.into_iter().zip(inboxes).zip(mailboxes.clone());
        for (index, ((sockets, inbox), mailbox)) in parts.enumerate() {
            let (ready, is_ready) = bounded(1);
            let plan = ThreadPlan {
                config: config.clone(),
                index: u16::try_from(index).expect("their number is checked"),
                core: config.cores().get(index).copied(),
                mailbox,
                siblings: mailboxes.clone(),
                inbox,
                events: events.clone(),
                sockets,
                by_kind: self.by_kind.clone(),
                by_type: self.by_type.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("ringwire-{index}"))
                .spawn(move || plan.run(&ready))
                .map_err(|source| SetupError::System { operation: "spawning a thread", source })?;
            node.threads.push(thread);
            starts.push(is_ready);
        }
        let mut counters = Vec::new();
        let mut failure = None;
        for is_ready in starts {
            match is_ready.recv() {
                Ok(Ok(block)) => counters.push(block),
                Ok(Err(error)) => failure = failure.or(Some(error)),
                Err(_) => {
                    let source = io::Error::other("the thread ended during its setup");
                    let operation = "starting a reactor";
                    failure = failure.or(Some(SetupError::System { operation, source }));
                }
            }
        }
        let shared = Arc::get_mut(&mut node.handle.shared).expect("no handle was given out yet");
        shared.counters = counters;
        match failure {
            None => {
                // From here on they are the reactors' to remove.
                files.0.clear();
                Ok(node)
            }
            // Dropping the node stops what did start.
            Some(error) => Err(error),
        }
    }
}

/// The files of Unix listeners that no reactor looks after yet: removed when the start fails.
#[derive(Default)]
struct SocketFiles(Vec<std::path::PathBuf>);

impl Drop for SocketFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            // A reactor that did start may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One listening socket per reactor and address.
fn bind(
    endpoints: &[String],
    reactors: usize,
    config: &Config,
    files: &mut SocketFiles,
) -> Result<(Vec<Vec<socket2::Socket>>, Vec<Address>), SetupError> {
    let mut listeners: Vec<Vec<socket2::Socket>> = (0..reactors).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for text in endpoints {
        let endpoint: Endpoint = text.parse()?;
        let refused = |source| SetupError::Listen { address: text.clone(), source };
        for (first, address) in listener::bind(&endpoint, config)? {
            files.0.extend(address.unix_path().map(Into::into));
            for sockets in &mut listeners[1..] {
                let another = match &address {
                    Address::Tcp(_) => socket::listen(&address, config),
                    // Reactors accept from one Unix listener in turns.
                    Address::Unix(_) => first.try_clone(),
                };
                sockets.push(another.map_err(refused)?);
            }
            listeners[0].push(first);
            addresses.push(address);
        }
    }
    Ok((listeners, addresses))
}

/// Everything a reactor's thread needs.
struct ThreadPlan {
    config: Config,
    index: u16,
    core: Option<usize>,
    mailbox: Arc<Mailbox>,
    siblings: Vec<Arc<Mailbox>>,
    inbox: Inbox,
    events: EventQueue,
    sockets: Vec<socket2::Socket>,
    by_kind: Vec<(Kind, SharedHandler)>,
    by_type: Vec<(u32, SharedHandler)>,
}

type Ready = Sender<Result<Arc<Counters>, SetupError>>;

impl ThreadPlan {
    fn run(self, ready: &Ready) -> ShutdownReport {
        match self.set_up() {
            Ok(mut reactor) => {
                // The starter waits for this; it can not be gone.
                let _ = ready.send(Ok(reactor.counters()));
                drive(&mut reactor)
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                ShutdownReport::default()
            }
        }
    }

    fn set_up(self) -> Result<Reactor, SetupError> {
        let system = |operation| move |source| SetupError::System { operation, source };
        if let Some(core) = self.core {
            affinity::pin_to_core(core).map_err(system("pinning a reactor to its core"))?;
        }
        if self.config.scheduler_fifo_priority() > 0 {
            affinity::set_fifo_priority(self.config.scheduler_fifo_priority())
                .map_err(system("sched_setscheduler(SCHED_FIFO), which needs CAP_SYS_NICE"))?;
        }
        let mailbox = Some(self.mailbox);
        let mut reactor =
            Reactor::with_parts(self.config, self.index, mailbox, self.inbox, self.events)?;
        reactor.set_siblings(self.siblings);
        for socket in self.sockets {
            reactor.add_listener(socket)?;
        }
        for (kind, handler) in self.by_kind {
            let handler = Box::new(move |context: &mut Context<'_>, frame: Frame<'_>| {
                handler(context, frame);
            });
            reactor.handlers_mut().on_kind(kind, handler);
        }
        for (type_id, handler) in self.by_type {
            let handler = Box::new(move |context: &mut Context<'_>, frame: Frame<'_>| {
                handler(context, frame);
            });
            reactor.handlers_mut().on_type(type_id, handler);
        }
        Ok(reactor)
    }
}

/// The loop of a reactor's thread.
fn drive(reactor: &mut Reactor) -> ShutdownReport {
    while !reactor.is_shut_down() {
        let limit = reactor.turn_limit();
        if let Err(error) = reactor.turn(Wait::Until(limit)) {
            tracing::error!(%error, "the ring failed; the reactor stops");
            break;
        }
    }
    reactor.shutdown_report()
}

#[derive(Debug)]
struct Shared {
    mailboxes: Vec<Arc<Mailbox>>,
    counters: Vec<Arc<Counters>>,
    inbox: SharedInbox,
    events: EventQueue,
    is_server: bool,
    config: Config,
    stopped: AtomicBool,
}

/// A handle to the reactors of a node. Cheap to clone; any thread may use it.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
}

/// What [`NodeHandle::wait`] waited for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Incoming {
    /// A message that no handler takes.
    Message(Message),
    /// Who came, or who left and why.
    Event(Event),
}

/// Reactors on threads of their own. Dropping it ends them without flushing;
/// [`Node::shutdown`] ends them in order.
#[derive(Debug)]
pub struct Node {
    handle: NodeHandle,
    threads: Vec<JoinHandle<ShutdownReport>>,
    addresses: Vec<Address>,
}

impl Node {
    /// Starts from the defaults.
    #[must_use]
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// A handle that other threads may keep.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// The addresses listened on, with the ports the kernel chose for port 0.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Stops listening, flushes and ends every connection, and stops the threads. Returns within
    /// `deadline` plus the time of the handlers that are running.
    pub fn shutdown(mut self, deadline: Duration) -> ShutdownReport {
        self.stop(Nanos::now() + deadline)
    }

    fn stop(&mut self, deadline: Nanos) -> ShutdownReport {
        // ORDERING: Relaxed: only makes the handles' calls fail early.
        self.handle.shared.stopped.store(true, Ordering::Relaxed);
        let mut report = ShutdownReport::default();
        for (index, mailbox) in self.handle.shared.mailboxes.iter().enumerate() {
            let mut command = Command::Shutdown { deadline };
            // A full queue is being emptied by its reactor: try until there is room, or nobody who
            // would make it: a reactor stops by itself when its ring fails.
            while let Err(refused) = mailbox.post(command) {
                if self.threads.get(index).is_none_or(JoinHandle::is_finished) {
                    break;
                }
                command = refused;
                std::thread::yield_now();
            }
        }
        for thread in self.threads.drain(..) {
            // A reactor does not panic: handlers' panics are caught. If it did, its connections
            // ended with it.
            let part = thread.join().unwrap_or_default();
            report.connections += part.connections;
            report.flushed += part.flushed;
            report.messages_dropped += part.messages_dropped;
        }
        report
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            let _ = self.stop(Nanos::now());
        }
    }
}

impl std::ops::Deref for Node {
    type Target = NodeHandle;

    fn deref(&self) -> &NodeHandle {
        &self.handle
    }
}

impl NodeHandle {
    /// Connects reactor `reactor` (modulo their number) to `endpoint`. The session lives on the
    /// reactor; its messages go to the handlers and to [`receive`](Self::receive).
    ///
    /// Blocks on the resolver, then for up to `connect_timeout_ms` and `handshake_timeout_ms`
    /// for each address.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], of the last address tried.
    pub fn connect(&self, endpoint: &str, reactor: usize) -> Result<ConnectionId, ConnectError> {
        let endpoint = Endpoint::of_server(endpoint)?;
        let addresses = endpoint.resolve().map_err(|source| ConnectError::Resolve {
            host: endpoint.host().into_owned(),
            source,
        })?;
        let mailbox = &self.shared.mailboxes[reactor % self.shared.mailboxes.len()];
        let config = &self.shared.config;
        let mut failure = ConnectError::ShutDown;
        for address in addresses {
            let (reply, answer) = bounded(1);
            self.check_running().map_err(|_| ConnectError::ShutDown)?;
            if mailbox.post(Command::Dial { address, reply }).is_err() {
                let source = io::Error::other("the reactor's command queue is full (commands_max)");
                let address = endpoint.to_string();
                failure = ConnectError::Connect { address, source };
                continue;
            }
            let patience = config.connect_timeout() + config.handshake_timeout() + ANSWER_TIMEOUT;
            match answer.recv_timeout(patience) {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failure = dial_error(error, config),
                Err(_) => failure = ConnectError::ShutDown,
            }
        }
        Err(failure)
    }

    /// Ends a connection once what is queued has left, or at `deadline` from now. Does not wait.
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`] or [`SendError::ShutDown`].
    pub fn disconnect(
        &self,
        connection: ConnectionId,
        deadline: Duration,
    ) -> Result<(), SendError> {
        let deadline = Nanos::now() + deadline;
        self.post(connection, Command::Disconnect { connection, deadline })
    }

    /// Queues a message on a connection and waits for its reactor's verdict: some microseconds
    /// when the reactor spins, a wake-up when it sleeps. Serialises on this thread: without an
    /// allocation up to 16 KiB, with one or two above.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued and the caller still has the message.
    pub fn send_to<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.send_correlated(connection, envelope, body, 0)
    }

    /// Answers a request that came through [`receive`](Self::receive); waits as
    /// [`send_to`](Self::send_to).
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn reply<B: Body + ?Sized>(
        &self,
        request: &Message,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        let envelope = request.answer_envelope(envelope);
        self.send_correlated(request.connection(), envelope, body, correlation_of(request))
    }

    /// Hands the answer to a request that came through [`receive`](Self::receive) or
    /// [`wait`](Self::wait) to its reactor without waiting for its verdict. If the lane is full by
    /// then, or the connection gone, the answer is dropped and counted (`posts_dropped`).
    ///
    /// # Errors
    ///
    /// At once: [`SendError::Busy`] when the command queue is full; what can be known here
    /// otherwise.
    pub fn post_reply<B: Body + ?Sized>(
        &self,
        request: &Message,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        let envelope = request.answer_envelope(envelope);
        self.post_correlated(request.connection(), envelope, body, correlation_of(request))
    }

    fn send_correlated<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        response_to: u64,
    ) -> Result<(), SendError> {
        let body = self.own(body)?;
        // While the thread ends there is none any more.
        let kept = VERDICTS.try_with(Cell::take).ok().flatten();
        let (verdict, answer) = kept.unwrap_or_else(|| bounded(1));
        let sender = Some(verdict.clone());
        let command = Command::Send { connection, envelope, body, response_to, verdict: sender };
        let posted = self.post(connection, command);
        if posted.is_ok() {
            // A verdict that may still come must not be the next call's: after a timeout the
            // channel is not kept.
            let outcome = wait_for(&answer)?;
            keep_verdicts((verdict, answer));
            return outcome;
        }
        keep_verdicts((verdict, answer));
        posted
    }

    /// Hands a message to a connection's reactor without waiting for its verdict. If the lane is
    /// full by then, or the connection gone, the message is dropped and counted
    /// (`posts_dropped`).
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`] when the command queue is full; what can be known here otherwise.
    pub fn post_to<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.post_correlated(connection, envelope, body, 0)
    }

    fn post_correlated<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        response_to: u64,
    ) -> Result<(), SendError> {
        let body = self.own(body)?;
        let command = Command::Send { connection, envelope, body, response_to, verdict: None };
        self.post(connection, command)
    }

    /// Queues a message on every established connection, and reports on each. Allocates its report
    /// and the way there.
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`] or [`SendError::ShutDown`] when a reactor could not be asked, or what
    /// is wrong with the message itself; it may be queued on other reactors' connections then.
    pub fn broadcast<B: Body + ?Sized>(
        &self,
        envelope: Envelope,
        body: &B,
    ) -> Result<BroadcastReport, SendError> {
        self.check_running()?;
        let body = self.own(body)?;
        let mut answers = Vec::new();
        for mailbox in &self.shared.mailboxes {
            let (report, answer) = bounded(1);
            let command = Command::Broadcast { envelope, body: body.clone(), report };
            mailbox.post(command).map_err(|_| SendError::Busy)?;
            answers.push(answer);
        }
        let mut outcomes = Vec::new();
        for answer in answers {
            outcomes.extend(wait_for(&answer)?);
        }
        Ok(BroadcastReport { outcomes })
    }

    /// The established connections of all reactors. A reactor that does not answer is left out.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        if self.check_running().is_err() {
            return Vec::new();
        }
        let answers: Vec<_> = self
            .shared
            .mailboxes
            .iter()
            .filter_map(|mailbox| {
                let (reply, answer) = bounded(1);
                mailbox.post(Command::Connections { reply }).ok()?;
                Some(answer)
            })
            .collect();
        answers.iter().filter_map(|answer| wait_for(answer).ok()).flatten().collect()
    }

    /// Waits for the next message that no handler takes, of any connection, for up to `timeout`.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Timeout`].
    pub fn receive(&self, timeout: Duration) -> Result<Message, ReceiveError> {
        let message = self.shared.inbox.take(timeout).ok_or(ReceiveError::Timeout { timeout })?;
        self.tell_inbox_has_room();
        Ok(message)
    }

    /// Waits for the next message that no handler takes *or* the next connection event, of any
    /// connection, for up to `timeout`; zero only looks. Sleeps meanwhile, for which it allocates
    /// once.
    ///
    /// Events go first: on a thread that alone waits, a connection's
    /// [`Connected`](crate::EventKind::Connected) comes before its messages, and its
    /// [`Disconnected`](crate::EventKind::Disconnected) may come before the last of them. With
    /// several waiting threads each event and each message goes to one of them.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Timeout`].
    pub fn wait(&self, timeout: Duration) -> Result<Incoming, ReceiveError> {
        let Shared { inbox, events, .. } = &*self.shared;
        let deadline = Nanos::now() + timeout;
        loop {
            // Looked at first: the event that belongs before this message is in its queue by then.
            let has_message = !inbox.is_empty();
            if let Some(event) = events.pop() {
                return Ok(Incoming::Event(event));
            }
            if has_message && let Some(message) = inbox.try_take() {
                self.tell_inbox_has_room();
                return Ok(Incoming::Message(message));
            }
            let left = deadline.since(Nanos::now());
            if left.is_zero() {
                return Err(ReceiveError::Timeout { timeout });
            }
            inbox.wait_beside(events.doorbell(), left);
        }
    }

    fn tell_inbox_has_room(&self) {
        for mailbox in &self.shared.mailboxes {
            mailbox.inbox_has_room();
        }
    }

    /// The oldest connection event not fetched yet, of any reactor. Never blocks.
    ///
    /// The events of one connection come in their order, and before any message of it that
    /// [`receive`](Self::receive) returns its [`Connected`](crate::EventKind::Connected) can be
    /// fetched. Once `events_max` per reactor are waiting, the oldest is dropped and counted
    /// (`events_dropped`).
    #[must_use]
    pub fn poll_event(&self) -> Option<Event> {
        self.shared.events.pop()
    }

    /// What has happened so far, all reactors together.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let counters = self.shared.counters.iter().map(|counters| &**counters);
        Statistics::collect(self.shared.is_server, counters)
    }

    /// The counters of each reactor, to be read from any thread.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.shared.counters
    }

    fn own<B: Body + ?Sized>(&self, body: &B) -> Result<OwnedBody, SendError> {
        let bytes_max = self.shared.config.frame_bytes_max();
        OwnedBody::new(body, bytes_max as usize).map_err(|error| match error {
            BodyError::Overflow { bytes } => {
                SendError::TooLarge { bytes: u32::try_from(bytes).unwrap_or(u32::MAX), bytes_max }
            }
            BodyError::Unserializable => SendError::Unserializable,
        })
    }

    fn post(&self, connection: ConnectionId, command: Command) -> Result<(), SendError> {
        self.check_running()?;
        let mailbox = self.shared.mailboxes.get(usize::from(connection.reactor));
        mailbox.ok_or(SendError::NotConnected)?.post(command).map_err(|_| SendError::Busy)
    }

    fn check_running(&self) -> Result<(), SendError> {
        // ORDERING: Relaxed: a call that comes just before finds the queue served, or times out.
        match self.shared.stopped.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(SendError::ShutDown),
        }
    }
}

type Verdict = Result<(), SendError>;

thread_local! {
    /// This thread's way to be told what became of a send; empty, and nobody else can send on it.
    static VERDICTS: Cell<Option<(Sender<Verdict>, Receiver<Verdict>)>> = const { Cell::new(None) };
}

fn keep_verdicts(channel: (Sender<Verdict>, Receiver<Verdict>)) {
    let _ = VERDICTS.try_with(|place| place.set(Some(channel)));
}

/// What an answer to `request` is correlated with; 0 when nobody waits for one.
fn correlation_of(request: &Message) -> u64 {
    if request.is_request() { request.correlation() } else { 0 }
}

fn wait_for<T>(answer: &Receiver<T>) -> Result<T, SendError> {
    answer.recv_timeout(ANSWER_TIMEOUT).map_err(|_| SendError::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node whose only reactor has died, with its command queue full.
    fn node_with_a_dead_reactor() -> Node {
        let config = Config::builder().commands_max(2).build().expect("valid");
        let mailbox = Arc::new(Mailbox::new(config.commands_max()).expect("a descriptor"));
        let (_, inbox) = Inbox::shared(&config, 0);
        let shared = Shared {
            mailboxes: vec![Arc::clone(&mailbox)],
            counters: Vec::new(),
            inbox,
            events: EventQueue::new(&config, 1),
            is_server: false,
            config,
            stopped: AtomicBool::new(false),
        };
        while mailbox.post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
        Node {
            handle: NodeHandle { shared: Arc::new(shared) },
            threads: vec![std::thread::spawn(ShutdownReport::default)],
            addresses: Vec::new(),
        }
    }

    #[test]
    fn node_stops_when_a_reactor_died_with_its_queue_full() {
        let (done, is_done) = bounded(1);
        std::thread::spawn(move || {
            let report = node_with_a_dead_reactor().shutdown(Duration::from_millis(10));
            done.send(report)
        });
        let report = is_done.recv_timeout(Duration::from_secs(10)).expect("it ends");
        assert_eq!(report, ShutdownReport::default());
    }
}

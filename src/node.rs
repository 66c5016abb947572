//! [`Node`]: reactors on threads of their own, one per chosen core, and a handle to all of them.
//!
//! The handle may be used from any thread. It reaches a reactor through a bounded command queue
//! and, when that reactor sleeps, one eventfd write; it never touches a connection itself.
//!
//! The handle's methods that wait for a reactor are refused in a handler of the same node: the
//! handler's reactor would wait for itself, or two for each other. Handlers use their [`Context`],
//! and `post_to` of the handle for a connection of another reactor. Two nodes of a process do not
//! know of each other: handlers that call the waiting methods of each other's handles may stand
//! still for 5 s. They use the posting ones, too.
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

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

mod errand;
mod pool;

pub use self::errand::PendingRequest;
pub use self::pool::NodePool;
#[cfg(doc)]
use crate::config::REACTORS_MAX;
use crate::config::{Config, Idle, check_reactors};
use crate::endpoint::{Address, Endpoint};
use crate::error::{CloseReason, ConnectError, FlushError, ReceiveError, SendError, SetupError};
#[cfg(feature = "metrics")]
use crate::metrics::Metrics;
use crate::reactor::command::{Asker, Claim, Command, DialError, DialFailure, Mailbox, Waiting};
use crate::reactor::connection::{ReactorId, next_node};
use crate::reactor::events::EventQueue;
use crate::reactor::flush::Flush;
use crate::reactor::inbox::{Inbox, SharedInbox};
use crate::reactor::listener;
use crate::reactor::message::{Message, OwnedBody};
use crate::reactor::watch::{WatchKey, Watched};
use crate::reactor::{
    BroadcastReport, Cancelled, ConnectionId, ConnectionInfo, Context, Event, Reactor,
    ShutdownReport, Tap, Wait, dial_error, registry,
};
use crate::session::Envelope;
use crate::stats::{
    Block, ConnectionState, CounterBlock, Registry, RegistryHandle, Snapshot, Statistics,
};
use crate::sys::{socket, thread as affinity};
use crate::time::Nanos;
use crate::wire::{Body, BodyError, Frame, Kind, Payload, frame_bytes};

/// How long a handle waits for a reactor's answer before it concludes that a handler blocks it, and
/// withdraws the command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a caller that waits for room does so before it looks again: at first, and at most.
const ROOM_PAUSE_MIN: Duration = Duration::from_micros(50);
const ROOM_PAUSE_MAX: Duration = Duration::from_millis(1);

/// A handler shared by all reactors of a node.
type SharedHandler = Arc<dyn Fn(&mut Context<'_>, Frame<'_>) + Send + Sync>;

/// A watch's handler shared by all reactors of a node.
type SharedWatchHandler = Arc<dyn Fn(&mut Context<'_>, &Watched) + Send + Sync>;
type SharedCancelHandler = Arc<dyn Fn(&mut Context<'_>, &Cancelled) + Send + Sync>;

/// What is watched in every session, and who is told.
#[derive(Default, Clone)]
struct Watches {
    keys: Vec<(WatchKey, Duration)>,
    missed: Option<SharedWatchHandler>,
    recovered: Option<SharedWatchHandler>,
    cancelled: Option<SharedCancelHandler>,
}

/// Collects what a node is to be; [`NodeBuilder::start`] starts it.
#[derive(Default)]
pub struct NodeBuilder {
    config: Option<Config>,
    reactors: Option<usize>,
    endpoints: Vec<String>,
    by_kind: Vec<(Kind, SharedHandler)>,
    by_type: Vec<(u32, SharedHandler)>,
    watches: Watches,
    tap: Option<Tap>,
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

    /// Listens on `endpoint` (see [`Endpoint`]); may be called several times, for 32 addresses in
    /// all. With several reactors, the kernel spreads TCP connections over them (SO_REUSEPORT,
    /// socket(7)).
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
    /// the reactor they came to, in place of one that was given for it before. A panic in a handler
    /// is caught, counted (`handler_panics`) and logged; not with `panic = "abort"`.
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

    /// Calls `handler` for frames with `T`'s `type_id`, with the validated value in place, and in
    /// place of a handler that was given for it before.
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

    /// Watches that every peer sends messages of a type or kind at least every `period`: "no
    /// setpoint for 20 ms: go safe". It begins with each session, outlives its links, and is missed
    /// when the session ends before it was; see [`Reactor::watch`]. Of the same key the last period
    /// counts; [`start`](Self::start) refuses a period of zero and more keys than `watches_max`.
    #[must_use]
    pub fn watch(mut self, key: WatchKey, period: Duration) -> Self {
        self.watches.keys.push((key, period));
        self
    }

    /// Calls `handler` when messages that are watched stay away for their period, once until one
    /// comes, or their session ends; see [`Reactor::on_deadline_missed`].
    #[must_use]
    pub fn on_deadline_missed(
        mut self,
        handler: impl Fn(&mut Context<'_>, &Watched) + Send + Sync + 'static,
    ) -> Self {
        self.watches.missed = Some(Arc::new(handler));
        self
    }

    /// Calls `handler` when a message comes that was missed.
    #[must_use]
    pub fn on_deadline_recovered(
        mut self,
        handler: impl Fn(&mut Context<'_>, &Watched) + Send + Sync + 'static,
    ) -> Self {
        self.watches.recovered = Some(Arc::new(handler));
        self
    }

    /// Calls `handler` when a peer gives up a request it has made; see [`Reactor::on_cancelled`].
    #[must_use]
    pub fn on_cancelled(
        mut self,
        handler: impl Fn(&mut Context<'_>, &Cancelled) + Send + Sync + 'static,
    ) -> Self {
        self.watches.cancelled = Some(Arc::new(handler));
        self
    }

    /// Copies the frames that pass the reactors to another thread; see [`Reactor::set_tap`].
    #[must_use]
    pub fn tap(mut self, tap: Tap) -> Self {
        self.tap = Some(tap);
        self
    }

    /// Starts the threads. Returns once every reactor is set up and listening.
    ///
    /// # Errors
    ///
    /// [`SetupError`] of the first thing that failed; everything started is stopped again, but
    /// memory that `mlockall` has locked stays so. A number of reactors out of bounds, or beyond
    /// the cores that spinning real-time threads are pinned to, is a [`SetupError::Config`]; a
    /// watch that can not be set up, a [`SetupError::Watch`].
    pub fn start(self) -> Result<Node, SetupError> {
        let mut config = self.config.unwrap_or_default();
        let count = self.reactors.unwrap_or(config.reactor_count());
        check_reactors("reactors", count, 1)?;
        // The builder of the configuration did not know of this number.
        config.check_pinned(count)?;
        let cores_available = affinity::cores_available(config.cores());
        if config.idle() == Idle::Spin && count > cores_available {
            tracing::warn!(
                reactors = count,
                cores = cores_available,
                "more spinning reactors than cores: falling back to idle = \"adaptive\""
            );
            config = config.without_spinning();
        }
        if config.mlockall()
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
            .map(|_| Mailbox::new(config.commands_max(), config.requests_max()).map(Arc::new))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|source| SetupError::System { operation: "eventfd", source })?;
        let number = next_node();
        let registry = registry(&config, count)?;
        let blocks = registry.blocks().to_vec();
        if let Some(address) = addresses.first() {
            registry.set_listening(&address.to_string());
        }
        let mut node = Node {
            handle: NodeHandle {
                shared: Arc::new(Shared {
                    number,
                    mailboxes: mailboxes.clone(),
                    counters: blocks.iter().map(|block| block.counters.clone()).collect(),
                    registry: registry.handle(),
                    inbox,
                    events: events.clone(),
                    is_server: !addresses.is_empty(),
                    config: config.clone(),
                    stopped: AtomicBool::new(false),
                }),
            },
            threads: Vec::new(),
            addresses,
            #[cfg(feature = "metrics")]
            metrics: None,
            _registry: registry,
        };
        let mut starts = Vec::new();
        let parts = listeners.into_iter().zip(inboxes).zip(mailboxes.clone()).zip(blocks);
        for (index, (((sockets, inbox), mailbox), block)) in parts.enumerate() {
            let (ready, is_ready) = bounded(1);
            let plan = ThreadPlan {
                config: config.clone(),
                id: ReactorId::new(number, u16::try_from(index).expect("their number is checked")),
                core: config.cores().get(index).copied(),
                mailbox,
                siblings: mailboxes.clone(),
                inbox,
                events: events.clone(),
                block,
                sockets,
                by_kind: self.by_kind.clone(),
                by_type: self.by_type.clone(),
                watches: self.watches.clone(),
                tap: self.tap.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("ringwire-{index}"))
                .spawn(move || plan.run(&ready))
                .map_err(|source| SetupError::System { operation: "spawning a thread", source })?;
            node.threads.push(thread);
            starts.push(is_ready);
        }
        let mut failure = None;
        for is_ready in starts {
            match is_ready.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failure = failure.or(Some(error)),
                Err(_) => {
                    let source = io::Error::other("the thread ended during its setup");
                    let operation = "starting a reactor";
                    failure = failure.or(Some(SetupError::System { operation, source }));
                }
            }
        }
        match failure {
            None => {
                // From here on they are the reactors' to remove.
                files.0.clear();
                #[cfg(feature = "metrics")]
                node.serve_metrics()?;
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
    id: ReactorId,
    core: Option<usize>,
    mailbox: Arc<Mailbox>,
    siblings: Vec<Arc<Mailbox>>,
    inbox: Inbox,
    events: EventQueue,
    block: Block,
    sockets: Vec<socket2::Socket>,
    by_kind: Vec<(Kind, SharedHandler)>,
    by_type: Vec<(u32, SharedHandler)>,
    watches: Watches,
    tap: Option<Tap>,
}

type Ready = Sender<Result<(), SetupError>>;

impl ThreadPlan {
    fn run(self, ready: &Ready) -> ShutdownReport {
        // First, so that it is dropped last: whoever still waits for the reactor is told.
        let _closing = Closing(Arc::clone(&self.mailbox));
        MAILBOX.set(Arc::as_ptr(&self.mailbox));
        match self.set_up() {
            Ok(mut reactor) => {
                // The starter waits for this; it can not be gone.
                let _ = ready.send(Ok(()));
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
            affinity::set_fifo_priority(self.config.scheduler_fifo_priority()).map_err(system(
                "sched_setscheduler(SCHED_FIFO), which needs CAP_SYS_NICE or RLIMIT_RTPRIO",
            ))?;
        }
        let mailbox = Some(self.mailbox);
        let mut reactor = Reactor::with_parts(
            self.config,
            self.id,
            mailbox,
            self.inbox,
            self.events,
            &self.block,
        )?;
        reactor.set_driven();
        reactor.set_siblings(self.siblings);
        if let Some(tap) = &self.tap {
            reactor.set_tap(tap)?;
        }
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
        for (key, period) in self.watches.keys {
            reactor.watch_all(key, period)?;
        }
        if let Some(handler) = self.watches.missed {
            reactor.on_deadline_missed(move |context, watched| handler(context, watched));
        }
        if let Some(handler) = self.watches.cancelled {
            reactor.on_cancelled(move |context, cancelled| handler(context, cancelled));
        }
        if let Some(handler) = self.watches.recovered {
            reactor.on_deadline_recovered(move |context, watched| handler(context, watched));
        }
        Ok(reactor)
    }
}

thread_local! {
    /// The mailbox of the reactor that this thread drives; compared, never read through. It lives
    /// at least as long as the reactor.
    static MAILBOX: Cell<*const Mailbox> = const { Cell::new(std::ptr::null()) };
}

/// Whether this is the thread of the reactor behind `mailbox`.
fn is_of_this_thread(mailbox: &Arc<Mailbox>) -> bool {
    MAILBOX.get() == Arc::as_ptr(mailbox)
}

/// Closes a mailbox when the thread of its reactor ends, in whatever way.
struct Closing(Arc<Mailbox>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
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
    /// Of this node, in the ids of its reactors.
    number: u16,
    mailboxes: Vec<Arc<Mailbox>>,
    counters: Vec<CounterBlock>,
    registry: RegistryHandle,
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
    /// Before the registry, so that it ends first.
    #[cfg(feature = "metrics")]
    metrics: Option<Metrics>,
    /// Removes its file when the threads have ended.
    _registry: Registry,
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

    /// Where the metrics are served, with the port the kernel chose for port 0.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics_address(&self) -> Option<std::net::SocketAddr> {
        self.metrics.as_ref().map(Metrics::address)
    }

    /// Begins to serve what `metrics_address` asks for.
    #[cfg(feature = "metrics")]
    fn serve_metrics(&mut self) -> Result<(), SetupError> {
        let Some(text) = self.shared.config.metrics_address() else { return Ok(()) };
        let address: std::net::SocketAddr =
            text.parse().expect("a configuration that exists is valid");
        let listener = std::net::TcpListener::bind(address)
            .map_err(|source| SetupError::Listen { address: text.into(), source })?;
        let metrics = Metrics::start(listener, self.shared.registry.clone())
            .map_err(|source| SetupError::System { operation: "serving the metrics", source })?;
        self.metrics = Some(metrics);
        Ok(())
    }

    /// Stops listening, flushes and ends every connection, and stops the threads. Returns within
    /// `deadline` plus the time of the handlers that are running. What was received and not taken,
    /// and the events of the end, a [`handle`](Self::handle) that was kept still hands out.
    ///
    /// # Panics
    ///
    /// In a handler of this node, as its drop does: a thread can not wait for its own end. Have
    /// another thread end the node.
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
            // ended with it, and nothing is known of them.
            let part = thread.join().unwrap_or_else(|_| {
                tracing::error!("a reactor panicked: the report does not know of its connections");
                ShutdownReport::default()
            });
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
    /// for each address, with `express` for as long again, and as long as handlers keep the reactor
    /// from it (5 s more at most).
    ///
    /// # Errors
    ///
    /// [`ConnectError`], of the last address tried; [`ConnectError::InHandler`] at once in a
    /// handler of this node, [`ConnectError::Busy`] or [`ConnectError::Unresponsive`] when the
    /// reactor could not be asked.
    pub fn connect(&self, endpoint: &str, reactor: usize) -> Result<ConnectionId, ConnectError> {
        if self.is_in_handler() {
            return Err(ConnectError::InHandler);
        }
        let addresses = Endpoint::of_server(endpoint)?.addresses()?;
        let mailbox = &self.shared.mailboxes[reactor % self.shared.mailboxes.len()];
        let config = &self.shared.config;
        let mut failure = ConnectError::ShutDown;
        for address in addresses {
            let (reply, answer) = bounded(1);
            self.check_running().map_err(|_| ConnectError::ShutDown)?;
            let claim = Claim::default();
            let asker = Asker { claim: claim.clone(), reply };
            if mailbox.post(Command::Dial { address, asker }).is_err() {
                failure = ConnectError::Busy;
                continue;
            }
            let once = config.connect_timeout() + config.handshake_timeout();
            let patience = if config.express() { 2 * once } else { once } + ANSWER_TIMEOUT;
            let answered = match answer.recv_timeout(patience) {
                // The reactor has not begun, or has not come to an end: that will be nobody's.
                Err(RecvTimeoutError::Timeout) if claim.is_first() => {
                    return Err(ConnectError::Unresponsive { timeout: patience });
                }
                // It was first: it is about to tell.
                Err(RecvTimeoutError::Timeout) => answer.recv().ok(),
                answered => answered.ok(),
            };
            match answered {
                Some(Ok(connection)) => return Ok(connection),
                // The node shuts down, which ends what it has begun.
                Some(Err(DialError {
                    reason: DialFailure::Closed(CloseReason::Local), ..
                })) if self.check_running().is_err() => {
                    return Err(ConnectError::ShutDown);
                }
                Some(Err(error)) => failure = dial_error(error, config),
                None => return Err(ConnectError::ShutDown),
            }
        }
        Err(failure)
    }

    /// Ends a connection once what is queued has left, or at `deadline` from now. Does not wait.
    ///
    /// At the deadline, which may be now, what is still queued is dropped and the peer is told
    /// goodbye all the same, so that it does not reconnect; unless the kernel still holds a send of
    /// the connection: then the peer sees the link break, and begins a new session when it is back.
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`] or [`SendError::ShutDown`]; no error for a connection that is gone.
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
    /// Blocks for up to 5 s when a handler blocks the reactor; then the message is withdrawn.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued, nothing will be, and the caller still has the message.
    /// [`SendError::InHandler`] at once in a handler of this node.
    pub fn send_to<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.send_correlated(connection, envelope, body, 0)
    }

    /// As [`send_to`](Self::send_to), and waits for room where the lane, the send memory or the
    /// command queue has none, for up to `timeout`. Looks again after 50 us, and then after twice
    /// as long each time, up to 1 ms. The wait is part of the message's time to live.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to); what there is no room for ([`SendError::Full`],
    /// [`SendError::MemoryFull`], [`SendError::Busy`]) after `timeout`, everything else at once.
    pub fn send_within<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<(), SendError> {
        self.check_may_wait()?;
        let deadline = Nanos::now() + timeout;
        let waiting = Waiting::new(envelope);
        let body = self.own(body, envelope, 0)?;
        let mut pause = ROOM_PAUSE_MIN;
        loop {
            let verdict = self.ask_for_verdict(connection.reactor, |asker| Command::Send {
                connection,
                waiting,
                body: body.clone(),
                response_to: 0,
                asker: Some(asker),
            });
            let left = deadline.since(Nanos::now());
            match verdict {
                Err(SendError::Full | SendError::MemoryFull | SendError::Busy)
                    if !left.is_zero() =>
                {
                    pause_this_thread(pause.min(left));
                    pause = (2 * pause).min(ROOM_PAUSE_MAX);
                }
                verdict => return verdict,
            }
        }
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
        self.check_may_wait()?;
        let waiting = Waiting::new(envelope);
        let body = self.own(body, envelope, response_to)?;
        self.ask_for_verdict(connection.reactor, |asker| {
            let asker = Some(asker);
            Command::Send { connection, waiting, body, response_to, asker }
        })
    }

    /// Has a reactor carry out a command that sends, and waits for its verdict.
    fn ask_for_verdict(
        &self,
        reactor: ReactorId,
        command: impl FnOnce(Asker<Verdict>) -> Command,
    ) -> Result<(), SendError> {
        // While the thread ends there is none any more.
        let kept = VERDICTS.try_with(Cell::take).ok().flatten();
        let verdicts = kept.unwrap_or_default();
        let asker = Asker { claim: verdicts.claim.clone(), reply: verdicts.reply.clone() };
        let mut outcome = self.post_command(reactor, command(asker));
        if outcome.is_ok() {
            // What was withdrawn still lies in the queue, with this claim: then it is not kept.
            outcome = wait_for(&verdicts.answer, &verdicts.claim, Nanos::now() + ANSWER_TIMEOUT)?;
            verdicts.claim.renew();
        }
        let _ = VERDICTS.try_with(|place| place.set(Some(verdicts)));
        outcome
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
        let waiting = Waiting::new(envelope);
        let body = self.own(body, envelope, response_to)?;
        let command = Command::Send { connection, waiting, body, response_to, asker: None };
        self.post(connection, command)
    }

    /// Queues a message for every established session, and reports on each. Allocates its report
    /// and the way there.
    ///
    /// Those whose link is lost and that may come back are included: for each of them a reliable
    /// message is queued and kept as by [`send_to`](Self::send_to), and one of best effort is
    /// refused with [`SendError::NotConnected`].
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`], [`SendError::Unresponsive`] or [`SendError::ShutDown`] when no reactor
    /// could be asked; where some could, the report names the others
    /// ([`failures`](BroadcastReport::failures)). [`SendError::InHandler`] at once in a handler of
    /// this node, or what is wrong with the message itself: then nobody gets it.
    pub fn broadcast<B: Body + ?Sized>(
        &self,
        envelope: Envelope,
        body: &B,
    ) -> Result<BroadcastReport, SendError> {
        self.check_running()?;
        self.check_may_wait()?;
        let waiting = Waiting::new(envelope);
        let body = self.own(body, envelope, 0)?;
        let deadline = Nanos::now() + ANSWER_TIMEOUT;
        let mut report = BroadcastReport::default();
        let mut answers = Vec::new();
        for (index, mailbox) in (0..).zip(&self.shared.mailboxes) {
            if mailbox.is_closed() {
                continue;
            }
            let (reply, answer) = bounded(1);
            let claim = Claim::default();
            let asker = Asker { claim: claim.clone(), reply };
            match mailbox.post(Command::Broadcast { waiting, body: body.clone(), asker }) {
                Ok(()) => answers.push((index, answer, claim)),
                Err(_) => report.failures.push((index, SendError::Busy)),
            }
        }
        let mut have_answered = 0;
        for (index, answer, claim) in answers {
            match wait_for(&answer, &claim, deadline) {
                Ok(part) => {
                    have_answered += 1;
                    report.outcomes.extend(part);
                }
                Err(error) => report.failures.push((index, error)),
            }
        }
        match report.failures.first() {
            Some(&(_, error)) if have_answered == 0 => Err(error),
            None if have_answered == 0 => Err(SendError::ShutDown),
            _ => Ok(report),
        }
    }

    /// The established connections of all reactors. A reactor that does not answer within 5 s, or
    /// whose command queue is full, is left out. In a handler of this node none, at once: two that
    /// asked each other would both stand still.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        if self.check_running().is_err() || self.is_in_handler() {
            return Vec::new();
        }
        let deadline = Nanos::now() + ANSWER_TIMEOUT;
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
        let within = |answer: &Receiver<_>| answer.recv_timeout(deadline.since(Nanos::now())).ok();
        answers.iter().filter_map(within).flatten().collect()
    }

    /// What is known of one connection, established or not; `None` when it is gone or between two
    /// links, when its reactor does not answer within 5 s or its command queue is full, and in a
    /// handler of this node.
    #[must_use]
    pub fn connection(&self, connection: ConnectionId) -> Option<ConnectionInfo> {
        self.check_may_wait().ok()?;
        let (reply, answer) = bounded(1);
        self.post(connection, Command::Connection { connection, reply }).ok()?;
        answer.recv_timeout(ANSWER_TIMEOUT).ok().flatten()
    }

    /// Waits until the kernel has taken what was sent on a connection and the peer has confirmed
    /// what is reliable, for up to `timeout`; what this thread has posted before included. Messages
    /// that are sent meanwhile are waited for, too.
    ///
    /// A confirmed message has arrived; that it was handled, only an answer tells. Of best effort,
    /// what the kernel has taken may still be lost with the connection.
    ///
    /// # Errors
    ///
    /// [`FlushError`]; [`FlushError::NotConnected`] also when the node has shut down, and
    /// [`FlushError::InHandler`] at once in a handler of this node. What is left stays queued.
    pub fn flush_within(
        &self,
        connection: ConnectionId,
        timeout: Duration,
    ) -> Result<(), FlushError> {
        if self.is_in_handler() {
            return Err(FlushError::InHandler);
        }
        let (reply, answer) = bounded(1);
        let until = Nanos::now() + timeout;
        match self.post(connection, Command::Flush(Flush { connection, until, reply })) {
            Ok(()) => {}
            Err(SendError::Busy) => return Err(FlushError::Busy),
            Err(_) => return Err(FlushError::NotConnected),
        }
        match answer.recv_timeout(timeout) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(FlushError::Timeout { timeout }),
            Err(RecvTimeoutError::Disconnected) => Err(FlushError::NotConnected),
        }
    }

    /// Waits for the next message that no handler takes, of any connection, for up to `timeout`.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Timeout`]; [`ReceiveError::ShutDown`] at once, and from then on, when the
    /// node has shut down and what it left behind has been taken. [`ReceiveError::InHandler`] at
    /// once in a handler of this node, unless `timeout` is zero.
    pub fn receive(&self, timeout: Duration) -> Result<Message, ReceiveError> {
        self.check_may_wait_for(timeout)?;
        let deadline = Nanos::now() + timeout;
        let mut left = timeout;
        loop {
            let message = match self.shared.inbox.take(left) {
                Err(ReceiveError::Timeout { .. }) => return Err(ReceiveError::Timeout { timeout }),
                outcome => outcome?,
            };
            self.tell_inbox_has_room();
            if !self.leaves_out(&message) {
                return Ok(message);
            }
            left = deadline.since(Nanos::now());
        }
    }

    /// Whether the answer to a request that came through [`receive`](Self::receive) or
    /// [`wait`](Self::wait) is of no use any more; see [`Reactor::is_abandoned`]. Never blocks.
    #[must_use]
    pub fn is_abandoned(&self, request: &Message) -> bool {
        let mailbox = self.mailbox(request.connection().reactor);
        mailbox.is_some_and(|mailbox| mailbox.cancellations().is_abandoned(request))
    }

    /// Whether a message that was taken from the inbox is not handed out. Counts it then, unless it
    /// was counted as cancelled.
    fn leaves_out(&self, message: &Message) -> bool {
        let is_abandoned = self.is_abandoned(message);
        let mailbox = self.mailbox(message.connection().reactor);
        let is_cancelled =
            mailbox.is_some_and(|mailbox| mailbox.cancellations().is_cancelled(message));
        if is_abandoned && !is_cancelled {
            // ORDERING: Relaxed, paired with `statistics`: a mere count.
            self.shared.registry.overdue().fetch_add(1, Ordering::Relaxed);
        }
        is_abandoned
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
    /// [`ReceiveError::Timeout`]; [`ReceiveError::ShutDown`] at once, and from then on, when the
    /// node has shut down and what it left behind has been taken. [`ReceiveError::InHandler`] at
    /// once in a handler of this node, unless `timeout` is zero.
    pub fn wait(&self, timeout: Duration) -> Result<Incoming, ReceiveError> {
        self.check_may_wait_for(timeout)?;
        let Shared { inbox, events, .. } = &*self.shared;
        let deadline = Nanos::now() + timeout;
        loop {
            // Before everything else: what a reactor leaves behind is there when it is gone.
            let is_closed = inbox.is_closed();
            // Looked at first: the event that belongs before this message is in its queue by then.
            let has_message = !inbox.is_empty();
            if let Some(event) = events.pop() {
                return Ok(Incoming::Event(event));
            }
            if has_message && let Some(message) = inbox.try_take() {
                self.tell_inbox_has_room();
                if self.leaves_out(&message) {
                    continue;
                }
                return Ok(Incoming::Message(message));
            }
            // With a message there, another thread was faster to take it.
            if is_closed && !has_message {
                return Err(ReceiveError::ShutDown);
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

    /// What has happened so far, all reactors together. `posts_dropped` has what a reactor left in
    /// its queue when it ended, too, which [`snapshot`](Self::snapshot) does not.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let counters = self.shared.counters.iter().map(|counters| &**counters);
        let mut statistics = Statistics::collect(self.shared.is_server, counters);
        // ORDERING: Relaxed, paired with `own`: a mere count.
        statistics.sends_too_large += self.shared.registry.too_large().load(Ordering::Relaxed);
        // ORDERING: Relaxed, paired with `leaves_out`: a mere count.
        statistics.messages_expired += self.shared.registry.overdue().load(Ordering::Relaxed);
        let refused = self.shared.mailboxes.iter().map(|mailbox| mailbox.posts_refused());
        statistics.posts_dropped += refused.sum::<u64>();
        let has_link = self.shared.is_server || statistics.connections_active > 0;
        let has_ended = self.shared.mailboxes.iter().all(|mailbox| mailbox.is_closed());
        statistics.state = match self.check_running() {
            _ if has_ended => ConnectionState::Disconnected,
            Err(_) => ConnectionState::Closing,
            Ok(()) if has_link => ConnectionState::Connected,
            Ok(()) => ConnectionState::Disconnected,
        };
        statistics
    }

    /// The limits and tuning of the node, as they are in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// How many of the reactors run: fewer than there are ([`counters`](Self::counters)) once one
    /// has ended before the node, because its ring has failed, which is logged. Its connections
    /// are gone then; those of the others go on.
    #[must_use]
    pub fn reactors_running(&self) -> usize {
        self.shared.mailboxes.iter().filter(|mailbox| !mailbox.is_closed()).count()
    }

    /// The counters of each reactor, to be read from any thread. Without what the handles refuse
    /// by themselves, see [`statistics`](Self::statistics).
    #[must_use]
    pub fn counters(&self) -> &[CounterBlock] {
        &self.shared.counters
    }

    /// Counters, histograms and sessions of all reactors, as other processes see them. Also after
    /// the node has shut down.
    ///
    /// Allocates; takes some tens of microseconds a reactor, and up to about 3 ms for one that is
    /// busy. The reactors do not notice.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.registry.snapshot()
    }

    /// Serialises what is to be sent.
    fn own<B: Body + ?Sized>(
        &self,
        body: &B,
        envelope: Envelope,
        response_to: u64,
    ) -> Result<OwnedBody, SendError> {
        let bytes_max = self.shared.config.frame_bytes_max();
        let (payload_bytes, owned) = match OwnedBody::new(body, bytes_max as usize) {
            Ok(owned) => (owned.len(), Some(owned)),
            Err(BodyError::Overflow { bytes }) => (bytes, None),
            Err(BodyError::Unserializable) => return Err(SendError::Unserializable),
        };
        let bytes = frame_bytes(payload_bytes, response_to != 0 || !envelope.is_plain());
        match owned {
            Some(owned) if bytes <= bytes_max as usize => Ok(owned),
            _ => {
                // ORDERING: Relaxed: a mere count.
                self.shared.registry.too_large().fetch_add(1, Ordering::Relaxed);
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                Err(SendError::TooLarge { bytes, bytes_max })
            }
        }
    }

    fn post(&self, connection: ConnectionId, command: Command) -> Result<(), SendError> {
        self.post_command(connection.reactor, command)
    }

    /// The way to a reactor, if it is one of this node.
    fn mailbox(&self, reactor: ReactorId) -> Option<&Arc<Mailbox>> {
        let Shared { number, mailboxes, .. } = &*self.shared;
        mailboxes.get(usize::from(reactor.index())).filter(|_| reactor.is_of(*number))
    }

    fn post_command(&self, reactor: ReactorId, command: Command) -> Result<(), SendError> {
        self.check_running()?;
        let mailbox = self.mailbox(reactor);
        let mailbox = mailbox.ok_or(SendError::NotConnected)?;
        if mailbox.is_closed() {
            return Err(SendError::ShutDown);
        }
        mailbox.post(command).map_err(|_| SendError::Busy)
    }

    /// Refuses to wait for a reactor on the thread of one: it would wait for itself, or two for
    /// each other.
    fn check_may_wait(&self) -> Result<(), SendError> {
        if self.is_in_handler() { Err(SendError::InHandler) } else { Ok(()) }
    }

    /// The same for what comes of itself: it may be looked at in a handler.
    fn check_may_wait_for(&self, timeout: Duration) -> Result<(), ReceiveError> {
        let may_wait = timeout.is_zero() || !self.is_in_handler();
        if may_wait { Ok(()) } else { Err(ReceiveError::InHandler) }
    }

    /// Whether this is the thread of one of the reactors, which calls nothing but handlers.
    fn is_in_handler(&self) -> bool {
        self.shared.mailboxes.iter().any(is_of_this_thread)
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

/// A thread's way to be told what became of a send.
struct Verdicts {
    claim: Claim,
    reply: Sender<Verdict>,
    answer: Receiver<Verdict>,
}

impl Default for Verdicts {
    fn default() -> Self {
        let (reply, answer) = bounded(1);
        Self { claim: Claim::default(), reply, answer }
    }
}

thread_local! {
    /// Kept from call to call: empty and unclaimed, and nobody else can send on it.
    static VERDICTS: Cell<Option<Verdicts>> = const { Cell::new(None) };
}

/// What an answer to `request` is correlated with; 0 when nobody waits for one.
fn correlation_of(request: &Message) -> u64 {
    if request.is_request() { request.correlation() } else { 0 }
}

#[expect(clippy::disallowed_methods, reason = "no reactor's thread: a caller's, which may wait")]
fn pause_this_thread(pause: Duration) {
    std::thread::sleep(pause);
}

/// Waits for the answer to a command until `deadline`, and withdraws it then.
fn wait_for<T>(answer: &Receiver<T>, claim: &Claim, deadline: Nanos) -> Result<T, SendError> {
    let answered = match answer.recv_timeout(deadline.since(Nanos::now())) {
        Err(RecvTimeoutError::Timeout) if claim.is_first() => {
            return Err(SendError::Unresponsive { timeout: ANSWER_TIMEOUT });
        }
        // The reactor was first: it is at it.
        Err(RecvTimeoutError::Timeout) => answer.recv().ok(),
        answered => answered.ok(),
    };
    answered.ok_or(SendError::ShutDown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigBuilder, Overflow};
    use crate::reactor::pool::command::PoolCommand;
    use crate::reactor::{Choice, PoolId};
    use crate::wire::Priority;

    /// A node whose only reactor does nothing.
    pub(super) fn node_without_a_reactor() -> Node {
        without_reactors(1, Config::builder())
    }

    /// A node of so many reactors that do nothing.
    fn without_reactors(count: usize, config: ConfigBuilder) -> Node {
        let config = config.commands_max(2).build().expect("valid");
        let mailbox = || {
            let mailbox = Mailbox::new(config.commands_max(), config.requests_max());
            Arc::new(mailbox.expect("a descriptor"))
        };
        let mailboxes = (0..count).map(|_| mailbox()).collect();
        let (_, inbox) = Inbox::shared(&config, 0);
        let registry = registry(&config, 1).expect("memory");
        let shared = Shared {
            number: 0,
            mailboxes,
            counters: Vec::new(),
            registry: registry.handle(),
            inbox,
            events: EventQueue::new(&config, 1),
            is_server: false,
            config,
            stopped: AtomicBool::new(false),
        };
        Node {
            handle: NodeHandle { shared: Arc::new(shared) },
            threads: vec![std::thread::spawn(ShutdownReport::default)],
            addresses: Vec::new(),
            #[cfg(feature = "metrics")]
            metrics: None,
            _registry: registry,
        }
    }

    #[test]
    fn node_stops_when_a_reactor_died_with_its_queue_full() {
        let (done, is_done) = bounded(1);
        std::thread::spawn(move || {
            let node = node_without_a_reactor();
            while node.shared.mailboxes[0].post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
            done.send(node.shutdown(Duration::from_millis(10)))
        });
        let report = is_done.recv_timeout(Duration::from_secs(10)).expect("it ends");
        assert_eq!(report, ShutdownReport::default());
    }

    /// Answers a broadcast as a reactor without sessions.
    fn answer_broadcast(mailbox: &Mailbox) {
        let deadline = Nanos::now() + Duration::from_secs(5);
        loop {
            assert!(Nanos::now() < deadline, "nothing is asked");
            match mailbox.take() {
                Some(Command::Broadcast { asker, .. }) => {
                    assert!(asker.claim.is_first());
                    return asker.reply.send(Vec::new()).expect("somebody waits");
                }
                _ => std::thread::yield_now(),
            }
        }
    }

    #[test]
    fn reactor_that_has_ended_hinders_no_other() {
        let node = without_reactors(2, Config::builder());
        assert_eq!(node.reactors_running(), 2);
        let [ended, running] = &node.shared.mailboxes[..] else { panic!("two") };
        ended.close();
        assert_eq!(node.reactors_running(), 1);
        let pool = node.node_pool(vec![PoolId::of_nobody(0), PoolId::of_nobody(1)]);
        let post = |choice| pool.post(choice, Envelope::data(), b"x");
        // In turns: each would come to the ended one first, or next.
        assert_eq!([(); 2].map(|()| post(Choice::LeastQueued)), [Ok(()); 2]);
        assert!(running.take().is_some());
        assert!(running.take().is_some());
        // A key has its place; that it is away is no end of the node.
        let outcomes: Vec<_> = (0..8).map(|key| post(Choice::Key(key))).collect();
        assert!(outcomes.contains(&Err(SendError::NotConnected)), "{outcomes:?}");
        assert!(!outcomes.contains(&Err(SendError::ShutDown)), "{outcomes:?}");
        while running.take().is_some() {}
        std::thread::scope(|scope| {
            scope.spawn(|| answer_broadcast(running));
            let report = node.broadcast(Envelope::data(), b"x").expect("one was asked");
            assert_eq!((report.outcomes, report.failures), (Vec::new(), Vec::new()));
        });
    }

    #[test]
    fn broadcast_names_the_reactors_that_were_not_asked() {
        let node = without_reactors(2, Config::builder());
        let [full, other] = &node.shared.mailboxes[..] else { panic!("two") };
        while full.post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
        std::thread::scope(|scope| {
            scope.spawn(|| answer_broadcast(other));
            let report = node.broadcast(Envelope::data(), b"x").expect("one was asked");
            assert_eq!(report.failures, [(0, SendError::Busy)]);
        });
        while other.post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
        let refused = node.broadcast(Envelope::data(), b"x").map(drop);
        assert_eq!(refused, Err(SendError::Busy), "nobody was");
    }

    #[test]
    fn full_queue_is_no_fault_of_the_network() {
        let node = node_without_a_reactor();
        while node.shared.mailboxes[0].post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
        let error = node.connect("127.0.0.1:9", 0).expect_err("nobody looks");
        assert!(matches!(error, ConnectError::Busy), "{error}");
        assert!(error.to_string().contains("commands_max"), "{error}");
        let connection = ConnectionId { reactor: ReactorId::new(0, 0), key: Default::default() };
        let outcome = node.flush_within(connection, Duration::from_secs(10));
        assert_eq!(outcome, Err(FlushError::Busy));
        let sent = node.send_within(connection, Envelope::data(), b"x", Duration::from_millis(5));
        assert_eq!(sent, Err(SendError::Busy));
    }

    #[test]
    fn call_is_answered_at_once_when_its_reactor_ends() {
        let node = node_without_a_reactor();
        let mailbox = &node.shared.mailboxes[0];
        let connection = ConnectionId { reactor: ReactorId::new(0, 0), key: Default::default() };
        let check = |call: &dyn Fn() -> Result<(), SendError>| {
            let start = Nanos::now();
            assert_eq!(call(), Err(SendError::ShutDown));
            assert!(Nanos::now().since(start) < ANSWER_TIMEOUT / 2, "it was not told");
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while mailbox.is_empty() {
                    std::thread::yield_now();
                }
                mailbox.close();
            });
            check(&|| node.send_to(connection, Envelope::data(), b"x"));
        });
        check(&|| node.broadcast(Envelope::data(), b"x").map(drop));
        check(&|| node.send_to(connection, Envelope::data(), b"x"));
        check(&|| node.post_to(connection, Envelope::data(), b"x"));
        assert!(node.connections().is_empty());
    }

    #[test]
    fn posts_that_a_reactor_leaves_behind_are_counted() {
        let node = node_without_a_reactor();
        let mailbox = &node.shared.mailboxes[0];
        let connection = ConnectionId { reactor: ReactorId::new(0, 0), key: Default::default() };
        let pool = node.node_pool(vec![PoolId::of_nobody(0)]);
        node.post_to(connection, Envelope::data(), b"x").expect("room");
        pool.post(Choice::LeastQueued, Envelope::data(), b"x").expect("room");
        assert_eq!(node.statistics().posts_dropped, 0);
        mailbox.close();
        assert_eq!(node.statistics().posts_dropped, 2);
    }

    #[test]
    fn pool_is_closed_although_the_queue_is_full() {
        let node = node_without_a_reactor();
        let mailbox = &node.shared.mailboxes[0];
        let pool = node.node_pool(vec![PoolId::of_nobody(0)]);
        while mailbox.post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
        let expected = ShutdownReport { connections: 3, ..ShutdownReport::default() };
        std::thread::scope(|scope| {
            let closer = scope.spawn(|| pool.close(Duration::from_secs(10)));
            let soon = Nanos::now() + Duration::from_millis(20);
            while Nanos::now() < soon {
                assert!(!closer.is_finished(), "it has given up");
                std::thread::yield_now();
            }
            // As a reactor that comes to it late.
            let deadline = Nanos::now() + Duration::from_secs(5);
            loop {
                assert!(Nanos::now() < deadline, "nothing is asked");
                match mailbox.take() {
                    Some(Command::Pool(PoolCommand::Close { asker: Some(asker), .. })) => {
                        asker.send(expected).expect("somebody waits");
                        break;
                    }
                    _ => std::thread::yield_now(),
                }
            }
            assert_eq!(closer.join().expect("no panic"), expected);
        });
    }

    #[test]
    fn pool_that_can_not_be_asked_is_not_closed() {
        let node = node_without_a_reactor();
        let pool = node.node_pool(vec![PoolId::of_nobody(0)]);
        node.shared.mailboxes[0].post(Command::Shutdown { deadline: Nanos(0) }).expect("room");
        // The question takes the last place.
        let outcome = pool.wait_ready(Duration::from_millis(1));
        assert!(matches!(outcome, Err(ConnectError::Busy)), "{outcome:?}");
    }

    /// It costs the member that refused its session.
    #[test]
    fn full_member_is_one_only_where_it_loses_its_session() {
        let attempts = |overflow| {
            let config = Config::builder().overflow(Priority::Normal, overflow);
            let node = without_reactors(1, config);
            let pool = node.node_pool(vec![PoolId::of_nobody(0); 3]);
            let mut attempts = 0;
            let outcome = pool.offer(Choice::LeastQueued, Envelope::data(), |_| {
                attempts += 1;
                Err(SendError::Full)
            });
            assert_eq!(outcome, Err(SendError::Full));
            attempts
        };
        assert_eq!(attempts(Overflow::Reject), 3);
        assert_eq!(attempts(Overflow::Disconnect), 1);
    }
}

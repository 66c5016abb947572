//! What a node is to be, and its start: threads, listeners, mailboxes.
//!
//! A start that fails leaves nothing behind: neither a thread nor the file of a Unix socket.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::Node;
use super::handle::{NodeHandle, Shared};
use super::thread::ThreadPlan;
#[cfg(doc)]
use crate::config::REACTORS_MAX;
use crate::config::{Config, Idle, check_reactors};
use crate::endpoint::{Address, Endpoint};
use crate::error::SetupError;
#[cfg(doc)]
use crate::reactor::Reactor;
use crate::reactor::command::Mailbox;
use crate::reactor::connection::{ReactorId, next_node};
use crate::reactor::events::EventQueue;
use crate::reactor::inbox::Inbox;
use crate::reactor::watch::{WatchKey, Watched};
use crate::reactor::{Cancelled, Context, Tap, listener, registry};
use crate::sys::{socket, thread as affinity};
use crate::wire::{Frame, Kind, Payload};

/// A handler shared by all reactors of a node.
pub(super) type SharedHandler = Arc<dyn Fn(&mut Context<'_>, Frame<'_>) + Send + Sync>;

/// A watch's handler shared by all reactors of a node.
pub(super) type SharedWatchHandler = Arc<dyn Fn(&mut Context<'_>, &Watched) + Send + Sync>;
pub(super) type SharedCancelHandler = Arc<dyn Fn(&mut Context<'_>, &Cancelled) + Send + Sync>;

/// What is watched in every session, and who is told.
#[derive(Default, Clone)]
pub(super) struct Callbacks {
    pub(super) keys: Vec<(WatchKey, Duration)>,
    pub(super) missed: Option<SharedWatchHandler>,
    pub(super) recovered: Option<SharedWatchHandler>,
    pub(super) cancelled: Option<SharedCancelHandler>,
}

/// Collects what a node is to be; [`NodeBuilder::start`] starts it.
#[derive(Default)]
pub struct NodeBuilder {
    config: Option<Config>,
    reactors: Option<usize>,
    endpoints: Vec<String>,
    by_kind: Vec<(Kind, SharedHandler)>,
    by_type: Vec<(u32, SharedHandler)>,
    callbacks: Callbacks,
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
        self.callbacks.keys.push((key, period));
        self
    }

    /// Calls `handler` when messages that are watched stay away for their period, once until one
    /// comes, or their session ends; see [`Reactor::on_deadline_missed`].
    #[must_use]
    pub fn on_deadline_missed(
        mut self,
        handler: impl Fn(&mut Context<'_>, &Watched) + Send + Sync + 'static,
    ) -> Self {
        self.callbacks.missed = Some(Arc::new(handler));
        self
    }

    /// Calls `handler` when a message comes that was missed.
    #[must_use]
    pub fn on_deadline_recovered(
        mut self,
        handler: impl Fn(&mut Context<'_>, &Watched) + Send + Sync + 'static,
    ) -> Self {
        self.callbacks.recovered = Some(Arc::new(handler));
        self
    }

    /// Calls `handler` when a peer gives up a request it has made; see [`Reactor::on_cancelled`].
    #[must_use]
    pub fn on_cancelled(
        mut self,
        handler: impl Fn(&mut Context<'_>, &Cancelled) + Send + Sync + 'static,
    ) -> Self {
        self.callbacks.cancelled = Some(Arc::new(handler));
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
                callbacks: self.callbacks.clone(),
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

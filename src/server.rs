//! [`Server`]: a [`Node`] that listens.

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::time::Duration;

use crate::Config;
use crate::endpoint::{Address, DEFAULT_PORT};
use crate::error::SetupError;
use crate::node::{Node, NodeBuilder, NodeHandle};
use crate::reactor::watch::{WatchKey, Watched};
use crate::reactor::{Cancelled, ConnectionInfo, Context, ShutdownReport, Tap};
use crate::wire::{Frame, Kind, Payload};

/// Collects what a server is to be; [`ServerBuilder::start`] starts it.
#[derive(Debug, Default)]
pub struct ServerBuilder {
    node: NodeBuilder,
    listens: bool,
}

impl ServerBuilder {
    /// Limits and tuning: idle strategy, cores, memory. Default: [`Config::default`].
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.node = self.node.config(config);
        self
    }

    /// How many reactors, each a thread with a ring. Default:
    /// [`reactor_count`](Config::reactor_count) of the configuration. From 1 to
    /// [`REACTORS_MAX`](crate::config::REACTORS_MAX).
    #[must_use]
    pub fn reactors(mut self, count: usize) -> Self {
        self.node = self.node.reactors(count);
        self
    }

    /// Listens on `endpoint`; may be called several times. Default: `127.0.0.1:7411`, this machine
    /// alone, because nothing is authenticated: whoever reaches the port is a client. `[::]`
    /// listens on every interface, by IPv6 and IPv4.
    ///
    /// A host name is listened on at all its addresses that this machine has, on the same port; see
    /// [`NodeBuilder::listen`].
    #[must_use]
    pub fn listen(mut self, endpoint: impl Into<String>) -> Self {
        self.node = self.node.listen(endpoint);
        self.listens = true;
        self
    }

    /// Calls `handler` for messages of this kind that no handler by type takes, on the thread of
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
        self.node = self.node.on(kind, handler);
        self
    }

    /// Calls `handler` for messages with `T`'s `type_id`, with the validated value in place, and in
    /// place of a handler that was given for it before. A panic in it is caught as in one of
    /// [`on`](Self::on).
    ///
    /// A payload that claims to be a `T` and is not closes its connection.
    #[must_use]
    pub fn on_type<T: Payload>(
        mut self,
        handler: impl Fn(&mut Context<'_>, Frame<'_>, &T::Archived) + Send + Sync + 'static,
    ) -> Self {
        self.node = self.node.on_type::<T>(handler);
        self
    }

    /// Watches that every client sends messages of a type or kind at least every `period`; see
    /// [`NodeBuilder::watch`].
    #[must_use]
    pub fn watch(mut self, key: WatchKey, period: Duration) -> Self {
        self.node = self.node.watch(key, period);
        self
    }

    /// Calls `handler` when messages that are watched stay away for their period.
    #[must_use]
    pub fn on_deadline_missed(
        mut self,
        handler: impl Fn(&mut Context<'_>, &Watched) + Send + Sync + 'static,
    ) -> Self {
        self.node = self.node.on_deadline_missed(handler);
        self
    }

    /// Calls `handler` when a message comes that was missed.
    #[must_use]
    pub fn on_deadline_recovered(
        mut self,
        handler: impl Fn(&mut Context<'_>, &Watched) + Send + Sync + 'static,
    ) -> Self {
        self.node = self.node.on_deadline_recovered(handler);
        self
    }

    /// Calls `handler` when a client gives up a request it has made; see
    /// [`Reactor::on_cancelled`](crate::Reactor::on_cancelled).
    #[must_use]
    pub fn on_cancelled(
        mut self,
        handler: impl Fn(&mut Context<'_>, &Cancelled) + Send + Sync + 'static,
    ) -> Self {
        self.node = self.node.on_cancelled(handler);
        self
    }

    /// Copies the frames that pass the reactors to another thread; see
    /// [`Reactor::set_tap`](crate::Reactor::set_tap).
    #[must_use]
    pub fn tap(mut self, tap: Tap) -> Self {
        self.node = self.node.tap(tap);
        self
    }

    /// Starts the reactors. Returns once they listen.
    ///
    /// # Errors
    ///
    /// [`SetupError`] of the first thing that failed; everything started is stopped again.
    pub fn start(mut self) -> Result<Server, SetupError> {
        if !self.listens {
            self = self.listen(format!("{}:{DEFAULT_PORT}", Ipv4Addr::LOCALHOST));
        }
        Ok(Server { node: self.node.start()? })
    }
}

/// Listens, and talks to its clients. Any thread may use it; dropping it ends it without flushing.
///
/// What its [`handle`](Self::handle) offers it offers itself, by [`Deref`]: to send
/// ([`send_to`](NodeHandle::send_to), [`send_within`](NodeHandle::send_within),
/// [`post_to`](NodeHandle::post_to), [`broadcast`](NodeHandle::broadcast)), to answer
/// ([`reply`](NodeHandle::reply), [`post_reply`](NodeHandle::post_reply)), to ask
/// ([`request`](NodeHandle::request), [`start_request`](NodeHandle::start_request)), to take what
/// comes ([`receive`](NodeHandle::receive), [`wait`](NodeHandle::wait),
/// [`poll_event`](NodeHandle::poll_event)), to end one client's session
/// ([`disconnect`](NodeHandle::disconnect)) and to look at it all
/// ([`statistics`](NodeHandle::statistics), [`snapshot`](NodeHandle::snapshot)).
///
/// ```no_run
/// use std::time::Duration;
/// use ringwire::{Envelope, Kind, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder()
///     .listen("0.0.0.0:7411")
///     .on(Kind::Command, |context, frame| {
///         // On the reactor's thread; the payload stands in the receive window.
///         let _ = context.reply(Envelope::status(), frame.payload());
///     })
///     .start()?;
/// while let Ok(message) = server.receive(Duration::from_secs(1)) {
///     println!("{}: {:?}", message.connection(), message.payload());
/// }
/// let report = server.shutdown(Duration::from_secs(1));
/// println!("{report:?}");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Server {
    node: Node,
}

impl Server {
    /// Starts from the defaults.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The addresses listened on, with the ports the kernel chose for port 0.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        self.node.addresses()
    }

    /// Where the metrics are served, with the port the kernel chose for port 0.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics_address(&self) -> Option<std::net::SocketAddr> {
        self.node.metrics_address()
    }

    /// The connected clients, as [`NodeHandle::connections`]: in a handler of this server none. One
    /// that has to know them is told by another thread, or by
    /// [`poll_event`](NodeHandle::poll_event).
    #[must_use]
    pub fn clients(&self) -> Vec<ConnectionInfo> {
        self.node.connections()
    }

    /// A handle that other threads may keep.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.node.handle()
    }

    /// Stops listening, flushes and ends every connection, stops the threads, and says what was not
    /// delivered. Returns within `deadline` plus the time of handlers that are running. What was
    /// received and not taken, and the events of the end, a [`handle`](Self::handle) that was kept
    /// still hands out.
    ///
    /// # Panics
    ///
    /// In a handler of this server, as its drop does: a thread can not wait for its own end. Have
    /// another thread end the server.
    pub fn shutdown(self, deadline: Duration) -> ShutdownReport {
        self.node.shutdown(deadline)
    }
}

impl Deref for Server {
    type Target = NodeHandle;

    fn deref(&self) -> &NodeHandle {
        &self.node
    }
}

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

use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

mod ask;
mod builder;
mod errand;
mod handle;
mod pool;
#[cfg(test)]
mod tests;
mod thread;

pub use self::builder::NodeBuilder;
pub use self::errand::PendingRequest;
pub use self::handle::{Incoming, NodeHandle};
pub use self::pool::NodePool;
use crate::endpoint::Address;
#[cfg(feature = "metrics")]
use crate::error::SetupError;
#[cfg(feature = "metrics")]
use crate::metrics::Metrics;
#[cfg(doc)]
use crate::reactor::Context;
use crate::reactor::ShutdownReport;
use crate::reactor::command::Command;
use crate::stats::Registry;
use crate::time::Nanos;

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
            report.add(part);
        }
        report
    }
}

impl ShutdownReport {
    /// What another reactor reports.
    fn add(&mut self, part: Self) {
        let Self { connections, flushed, messages_dropped } = part;
        self.connections += connections;
        self.flushed += flushed;
        self.messages_dropped += messages_dropped;
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

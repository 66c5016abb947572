//! [`Transport`]: the operations that clients and servers have in common, behind one trait.
//!
//! For code that should not care which end it is on, and for tests that put a substitute there.
//! The trait is object-safe: `Box<dyn Transport>` works.

use std::collections::VecDeque;
use std::time::Duration;

use crate::client::Client;
use crate::error::{ConnectError, FlushError, ReceiveError, SendError, SetupError};
use crate::node::NodeHandle;
use crate::reactor::message::Message;
use crate::reactor::{ConnectionState, ShutdownReport};
use crate::server::{Server, ServerBuilder};
use crate::session::Envelope;
use crate::stats::Statistics;
use crate::wire::Body;

/// A transport could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No session was established.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// Something that messages can be sent through and received from.
pub trait Transport {
    /// A client connects to `endpoint`; a server starts to listen there.
    ///
    /// # Errors
    ///
    /// [`TransportError`].
    fn connect(&mut self, endpoint: &str) -> Result<(), TransportError>;

    /// Flushes what is queued and ends the connection, or all of a server's, by `deadline` from
    /// now.
    fn disconnect(&mut self, deadline: Duration) -> ShutdownReport;

    /// Queues a message: a client for its server, a server for every client.
    ///
    /// A server's messages leave by themselves. A client's leave with its next `receive` or
    /// [`flush`](Self::flush), or by themselves once 64 KiB are waiting: a client has no thread to
    /// send from between its calls, and one system call for many messages is what makes streams
    /// fast. Flush after the last message of a burst, or after each that must not wait.
    ///
    /// # Errors
    ///
    /// [`SendError`]. A server reports the first refusal; other clients may have refused it, too,
    /// and those that have not have the message. `Server::broadcast` tells of each.
    fn send(&mut self, envelope: Envelope, body: &dyn Body) -> Result<(), SendError>;

    /// Sees to it that what was sent leaves without another call: a client waits until the kernel
    /// has taken all of it and the peer has confirmed what is reliable, for up to `timeout`, and
    /// handles what comes meanwhile; a server returns at once, because its reactors send by
    /// themselves: there it says nothing of the arrival.
    ///
    /// # Errors
    ///
    /// [`FlushError`]. After a timeout what is left stays queued, in order.
    fn flush(&mut self, timeout: Duration) -> Result<(), FlushError>;

    /// Waits for the next message that no handler takes, for up to `timeout`. What had come before
    /// a `disconnect` is still to be had after it.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`].
    fn receive(&mut self, timeout: Duration) -> Result<Message, ReceiveError>;

    /// A client's connection; a server is connected while it listens.
    fn connection_state(&self) -> ConnectionState;

    /// What has happened so far, since the first `connect`.
    fn statistics(&self) -> Statistics;
}

impl Transport for Client {
    fn connect(&mut self, endpoint: &str) -> Result<(), TransportError> {
        Ok(Self::connect(self, endpoint)?)
    }

    fn disconnect(&mut self, deadline: Duration) -> ShutdownReport {
        Self::disconnect(self, deadline)
    }

    fn send(&mut self, envelope: Envelope, body: &dyn Body) -> Result<(), SendError> {
        Self::send(self, envelope, body)
    }

    fn flush(&mut self, timeout: Duration) -> Result<(), FlushError> {
        self.flush_within(timeout)
    }

    fn receive(&mut self, timeout: Duration) -> Result<Message, ReceiveError> {
        Self::receive(self, timeout)
    }

    fn connection_state(&self) -> ConnectionState {
        Self::connection_state(self)
    }

    fn statistics(&self) -> Statistics {
        Self::statistics(self)
    }
}

/// A server as a [`Transport`]: set up first, listening from `connect` to `disconnect`.
///
/// ```
/// use std::time::Duration;
/// use ringwire::transport::ServerTransport;
/// use ringwire::{Server, Transport};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut transport: Box<dyn Transport> =
///     Box::new(ServerTransport::new(|| Server::builder().reactors(1)));
/// transport.connect("127.0.0.1:0")?;
/// transport.disconnect(Duration::from_secs(1));
/// # Ok(()) }
/// ```
pub struct ServerTransport {
    /// Makes the server anew for each `connect`.
    plan: Box<dyn FnMut() -> ServerBuilder>,
    server: Option<Server>,
    /// Servers that have ended, until what they had received has been taken.
    ended: VecDeque<NodeHandle>,
    /// What the servers before this one had counted when they ended.
    past: Statistics,
}

impl ServerTransport {
    /// A server that `plan` describes, apart from where it listens.
    pub fn new(plan: impl FnMut() -> ServerBuilder + 'static) -> Self {
        let past = Statistics { is_server: true, ..Statistics::default() };
        Self { plan: Box::new(plan), server: None, ended: VecDeque::new(), past }
    }

    /// The server, while it listens.
    #[must_use]
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }
}

impl ServerTransport {
    /// What the present server counts, and what those before it had counted.
    fn since_the_first(&self, mut present: Statistics) -> Statistics {
        present.add_past(&self.past);
        present
    }
}

impl std::fmt::Debug for ServerTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTransport").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Transport for ServerTransport {
    fn connect(&mut self, endpoint: &str) -> Result<(), TransportError> {
        if self.server.is_some() {
            return Err(ConnectError::AlreadyConnected.into());
        }
        self.server = Some((self.plan)().listen(endpoint).start()?);
        Ok(())
    }

    fn disconnect(&mut self, deadline: Duration) -> ShutdownReport {
        let Some(server) = self.server.take() else { return ShutdownReport::default() };
        let handle = server.handle();
        let report = server.shutdown(deadline);
        self.past = self.since_the_first(handle.statistics());
        self.ended.push_back(handle);
        report
    }

    fn send(&mut self, envelope: Envelope, body: &dyn Body) -> Result<(), SendError> {
        let server = self.server.as_ref().ok_or(SendError::NotConnected)?;
        let report = server.broadcast(envelope, body)?;
        let refused = report.refused().map(|(_, error)| error);
        let unasked = report.failures.iter().map(|&(_, error)| error);
        refused.chain(unasked).next().map_or(Ok(()), Err)
    }

    fn flush(&mut self, _: Duration) -> Result<(), FlushError> {
        self.server.as_ref().map(drop).ok_or(FlushError::NotConnected)
    }

    fn receive(&mut self, timeout: Duration) -> Result<Message, ReceiveError> {
        while let Some(ended) = self.ended.front() {
            match ended.receive(Duration::ZERO) {
                Ok(message) => return Ok(message),
                Err(_) => drop(self.ended.pop_front()),
            }
        }
        let server = self.server.as_ref().ok_or(ReceiveError::NotConnected)?;
        server.receive(timeout)
    }

    fn connection_state(&self) -> ConnectionState {
        match self.server {
            Some(_) => ConnectionState::Connected,
            None => ConnectionState::Disconnected,
        }
    }

    fn statistics(&self) -> Statistics {
        match &self.server {
            Some(server) => self.since_the_first(server.statistics()),
            None => self.past.clone(),
        }
    }
}

//! What other threads may ask of a reactor, and how it does that. How the question reaches it, and
//! who decides when the caller has waited long enough, is in [`sync`](crate::sync).
//!
//! The thread of a reactor closes its mailbox when it ends. What is queued by then, or comes later,
//! is answered with [`SendError::ShutDown`] at once.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use crossbeam_queue::ArrayQueue;

use crate::config::Config;
use crate::endpoint::Address;
use crate::error::{CloseReason, ConnectError, SendError};
use crate::reactor::abandoned::Cancellations;
use crate::reactor::core::Core;
use crate::reactor::errand::Errand;
use crate::reactor::flush::Flush;
use crate::reactor::message::OwnedBody;
use crate::reactor::pool::command::PoolCommand;
use crate::reactor::{ConnectionId, ConnectionInfo};
use crate::session::{Correlation, Envelope};
pub(crate) use crate::sync::claim::Claim;
use crate::sync::mailbox::{self, Queue, Wake};
use crate::sys::socket::Waker;
use crate::time::Nanos;
use crate::wire::Body;

/// Commands carried out in one turn.
const COMMANDS_PER_TURN: usize = 64;

/// One thing to do for another thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send to one connection, as the answer to a request when `response_to` is not 0.
    Send {
        connection: ConnectionId,
        waiting: Waiting,
        body: OwnedBody,
        response_to: u64,
        asker: Option<Asker<Result<(), SendError>>>,
    },
    /// Send to every established connection.
    Broadcast {
        waiting: Waiting,
        body: OwnedBody,
        asker: Asker<Vec<(ConnectionId, Result<(), SendError>)>>,
    },
    /// Describe one connection.
    Connection { connection: ConnectionId, reply: Sender<Option<ConnectionInfo>> },
    /// Tell when a session is flushed.
    Flush(Flush),
    /// List the established connections.
    Connections { reply: Sender<Vec<ConnectionInfo>> },
    /// Connect, and tell when the session is established or not.
    Dial { address: Address, asker: Asker<Result<ConnectionId, DialError>> },
    /// End one connection after flushing it.
    Disconnect { connection: ConnectionId, deadline: Nanos },
    /// Look after a peer that may have a session here: it said hello to another reactor.
    Adopt(Box<Visitor>),
    /// Make a request.
    Request(Box<Errand>),
    /// Give one up.
    CancelRequest { number: u64 },
    /// Something about the pools.
    Pool(PoolCommand),
    /// Stop listening, flush and end everything by `deadline`, then stop the thread.
    Shutdown { deadline: Nanos },
}

/// How a message travels, and since when it has waited for its reactor: that is part of its time
/// to live.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    envelope: Envelope,
    since: Nanos,
}

impl Waiting {
    /// Begins to wait. Reads the clock only for a message that has a time to live.
    pub(crate) fn new(envelope: Envelope) -> Self {
        let since = if envelope.expires() { Nanos::now() } else { Nanos(0) };
        Self { envelope, since }
    }

    /// The envelope with what `now` is left of its time to live: zero when that is over, with which
    /// it is refused as expired.
    fn after(self, now: Nanos) -> Envelope {
        let ttl = Duration::from_micros(self.envelope.ttl_us_with(Correlation::None).into());
        self.envelope.ttl(ttl.saturating_sub(now.since(self.since)))
    }
}

impl Core {
    /// The wait is over: how the message travels from here. The turn may have begun long before it
    /// was asked for, as where a handler holds it up, so that its time does not do.
    #[inline]
    pub(crate) fn end_wait(&mut self, waiting: Waiting) -> Envelope {
        if !waiting.envelope.expires() {
            return waiting.envelope;
        }
        self.now = Nanos::now();
        waiting.after(self.now)
    }
}

/// Who waits for the answer to a command.
#[derive(Debug)]
pub(crate) struct Asker<T> {
    pub(crate) claim: Claim,
    pub(crate) reply: Sender<T>,
}

/// A peer on its way through the reactors of a node, in search of its session.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) socket: socket2::Socket,
    pub(crate) address: String,
    /// Its first frame, and what has come behind it: no more than a window holds.
    pub(crate) bytes: Box<[u8]>,
    /// How many reactors did not know it.
    pub(crate) strange_to: usize,
}

/// Why a dial failed: the last address tried and what came of it.
#[derive(Debug)]
pub(crate) struct DialError {
    pub(crate) address: String,
    pub(crate) reason: DialFailure,
}

#[derive(Debug)]
pub(crate) enum DialFailure {
    TooMany { connections_max: u32 },
    Socket(io::Error),
    Closed(CloseReason),
}

impl From<DialFailure> for CloseReason {
    fn from(failure: DialFailure) -> Self {
        match failure {
            DialFailure::TooMany { .. } => Self::ConnectionLimit,
            DialFailure::Closed(reason) => reason,
            DialFailure::Socket(error) => {
                Self::Socket { errno: error.raw_os_error().unwrap_or(libc::EIO) }
            }
        }
    }
}

/// The bounded way into a reactor from other threads.
///
/// See [`mailbox`] for how it wakes the reactor and how it ends.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: mailbox::Mailbox<Commands, Waker>,
    /// What the reactor knows to be cancelled.
    cancellations: Arc<Cancellations>,
}

/// The queue, and what ended with its reactor in it.
#[derive(Debug)]
pub(crate) struct Commands {
    queue: ArrayQueue<Command>,
    /// Messages whose sender does not wait for a verdict.
    posts_refused: AtomicU64,
}

impl Mailbox {
    pub(crate) fn new(commands_max: u32, requests_max: u32) -> io::Result<Self> {
        let queue = ArrayQueue::new(commands_max as usize);
        let queue = Commands { queue, posts_refused: AtomicU64::new(0) };
        Ok(Self {
            queue: mailbox::Mailbox::over(queue, Waker::new()?),
            cancellations: Arc::new(Cancellations::new(requests_max)),
        })
    }

    /// How many messages were posted in time to be taken, and too late to be sent.
    pub(crate) fn posts_refused(&self) -> u64 {
        // ORDERING: Relaxed: a mere count.
        self.queue.queue().posts_refused.load(Ordering::Relaxed)
    }

    pub(crate) fn cancellations(&self) -> &Arc<Cancellations> {
        &self.cancellations
    }
}

impl Deref for Mailbox {
    type Target = mailbox::Mailbox<Commands, Waker>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.queue
    }
}

impl Queue for Commands {
    type Item = Command;

    fn push(&self, command: Command) -> Result<(), Command> {
        self.queue.push(command)
    }

    #[inline]
    fn pop(&self) -> Option<Command> {
        self.queue.pop()
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn refuse(&self, command: Command) {
        // The other callers see that nobody can answer them any more.
        let (Command::Send { asker, .. } | Command::Pool(PoolCommand::Send { asker, .. })) =
            command
        else {
            return;
        };
        match asker {
            Some(Asker { claim, reply }) if claim.try_claim() => {
                let _ = reply.try_send(Err(SendError::ShutDown));
            }
            Some(_) => {}
            None => {
                // ORDERING: Relaxed: a mere count.
                self.posts_refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Wake for Waker {
    fn wake(&self) {
        self.wake();
    }
}

impl Core {
    /// Carries out commands of other threads.
    #[inline]
    pub(super) fn run_commands(&mut self) {
        // Taking from an empty queue is a full fence.
        if self.mailbox.as_ref().is_some_and(|mailbox| !mailbox.is_empty()) {
            self.run_queued();
        }
    }

    /// Up to so many of those that are queued. Out of line: most turns have none.
    #[inline(never)]
    fn run_queued(&mut self) {
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = self.mailbox.as_ref().and_then(|mailbox| mailbox.take()) else {
                return;
            };
            self.counters.commands.add(1);
            self.run_command(command);
        }
    }

    pub(super) fn run_command(&mut self, command: Command) {
        // A caller that no longer waits for its answer has dropped its end: nothing to do then.
        match command {
            // What its caller has withdrawn is not carried out.
            Command::Send { asker: Some(asker), .. } if !asker.claim.try_claim() => {}
            Command::Broadcast { asker, .. } if !asker.claim.try_claim() => {}
            // A connection that begins now would be nobody's to end. Its caller reads "shut down".
            Command::Dial { asker, .. } if self.life.is_closing() || !asker.claim.try_claim() => {}
            Command::Send { connection, waiting, body, response_to, asker } => {
                let envelope = self.end_wait(waiting);
                let outcome = match response_to {
                    0 => self.push_to(connection, envelope, Correlation::None, &body).map(drop),
                    id => self.push_answer(connection, envelope, id, &body),
                };
                match asker {
                    Some(asker) => drop(asker.reply.try_send(outcome)),
                    None if outcome.is_err() => self.counters.posts_dropped.add(1),
                    None => {}
                }
            }
            Command::Broadcast { waiting, body, asker } => {
                let envelope = self.end_wait(waiting);
                let _ = asker.reply.try_send(self.broadcast(envelope, &body).outcomes);
            }
            Command::Connection { connection, reply } => {
                let info = self.key(connection).ok().and_then(|key| self.info(key));
                let _ = reply.try_send(info);
            }
            Command::Flush(flush) => self.begin_flush(flush),
            Command::Connections { reply } => drop(reply.try_send(self.established())),
            Command::Dial { address, asker } => match self.dial(&address) {
                Ok(key) => {
                    // To be claimed once more when there is an outcome: whoever has given up by
                    // then gets none, and the connection is nobody's.
                    asker.claim.renew();
                    self.dial_askers.push((key, asker));
                }
                Err(reason) => {
                    let error = DialError { address: address.to_string(), reason };
                    let _ = asker.reply.try_send(Err(error));
                }
            },
            Command::Disconnect { connection, deadline } => {
                self.disconnect(connection, deadline);
            }
            Command::Adopt(visitor) => self.adopt(*visitor),
            Command::Request(errand) => self.begin_errand(*errand),
            Command::CancelRequest { number } => self.cancel_errand(number),
            Command::Pool(command) => self.run_pool_command(command),
            Command::Shutdown { deadline } => self.begin_shutdown(deadline),
        }
    }

    /// Queues the answer to a request, unless that was given up.
    fn push_answer<B: Body + ?Sized>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        request: u64,
        body: &B,
    ) -> Result<(), SendError> {
        let is_ours = connection.reactor == self.reactor;
        let mark = if is_ours { self.mark(connection.key, request) } else { None };
        if mark.is_some_and(|mark| self.cancellations.contains(mark)) {
            return Err(SendError::Abandoned);
        }
        self.push_to(connection, envelope, Correlation::Response(request), body).map(drop)
    }
}

/// Why a connection attempt failed, from why its connection ended.
fn connect_error(address: String, reason: CloseReason, timeout: Duration) -> ConnectError {
    match reason {
        CloseReason::ConnectTimeout => ConnectError::Timeout { address, timeout },
        CloseReason::Rejected(reason) => ConnectError::Rejected { address, reason },
        CloseReason::Socket { errno } => {
            ConnectError::Connect { address, source: io::Error::from_raw_os_error(errno) }
        }
        reason => ConnectError::Handshake { address, reason },
    }
}

pub(crate) fn dial_error(error: DialError, config: &Config) -> ConnectError {
    let DialError { address, reason } = error;
    match reason {
        DialFailure::TooMany { connections_max } => ConnectError::TooMany { connections_max },
        DialFailure::Socket(source) => ConnectError::Connect { address, source },
        DialFailure::Closed(reason) => connect_error(address, reason, config.connect_timeout()),
    }
}

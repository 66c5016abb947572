//! What other threads may ask of a reactor, and how they wake it.
//!
//! # The sleeping flag
//!
//! ```text
//!   reactor                          other thread
//!   sleeping = true                  push the command
//!   fence(SeqCst)                    fence(SeqCst)
//!   is the queue empty? then sleep   if sleeping.swap(false): write the eventfd
//! ```
//!
//! Of the two, at least one sees the other's write, so a command is never left lying while the
//! reactor sleeps; and at most one thread pays for the wake-up.
//!
//! # Giving up
//!
//! A caller waits for its answer for a limited time. Then it *withdraws* the command: caller and
//! reactor claim it with one swap, and whoever is first decides. So what was withdrawn is never
//! carried out, and what is carried out is never reported as withdrawn.
//!
//! # The end
//!
//! The thread of a reactor closes its mailbox when it ends. What is queued by then, or comes later,
//! is answered with [`SendError::ShutDown`] at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::Sender;
use crossbeam_queue::ArrayQueue;

use crate::endpoint::Address;
use crate::error::{CloseReason, SendError};
use crate::reactor::abandoned::Cancellations;
use crate::reactor::message::OwnedBody;
use crate::reactor::pool::command::PoolCommand;
use crate::reactor::{ConnectionId, ConnectionInfo};
use crate::session::Envelope;
use crate::sys::socket::Waker;
use crate::time::Nanos;

/// One thing to do for another thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send to one connection, as the answer to a request when `response_to` is not 0.
    Send {
        connection: ConnectionId,
        envelope: Envelope,
        body: OwnedBody,
        response_to: u64,
        asker: Option<Asker<Result<(), SendError>>>,
    },
    /// Send to every established connection.
    Broadcast {
        envelope: Envelope,
        body: OwnedBody,
        asker: Asker<Vec<(ConnectionId, Result<(), SendError>)>>,
    },
    /// List the established connections.
    Connections { reply: Sender<Vec<ConnectionInfo>> },
    /// Connect, and tell when the session is established or not.
    Dial { address: Address, asker: Asker<Result<ConnectionId, DialError>> },
    /// End one connection after flushing it.
    Disconnect { connection: ConnectionId, deadline: Nanos },
    /// Look after a peer that may have a session here: it said hello to another reactor.
    Adopt(Box<Visitor>),
    /// Something about the pools.
    Pool(PoolCommand),
    /// Stop listening, flush and end everything by `deadline`, then stop the thread.
    Shutdown { deadline: Nanos },
}

/// Who waits for the answer to a command.
#[derive(Debug)]
pub(crate) struct Asker<T> {
    pub(crate) claim: Claim,
    pub(crate) reply: Sender<T>,
}

/// Decides between the reactor, which wants to carry a command out, and the caller, which wants to
/// withdraw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Returns whether the caller of this is the first.
    #[must_use]
    pub(crate) fn is_first(&self) -> bool {
        // ORDERING: Relaxed: a swap alone decides, it orders no other memory.
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// Makes it as new. Only when the answer has come: then the reactor has made its claim.
    pub(crate) fn renew(&self) {
        // ORDERING: Relaxed: the queue orders it before the reactor's next claim.
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A peer on its way through the reactors of a node, in search of its session.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) socket: socket2::Socket,
    pub(crate) address: String,
    /// Its first frame.
    pub(crate) hello: Box<[u8]>,
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
    Socket(std::io::Error),
    Closed(CloseReason),
}

/// The bounded way into a reactor from other threads.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: ArrayQueue<Command>,
    sleeping: AtomicBool,
    /// The reactor holds back a connection because the shared inbox was full.
    inbox_wanted: AtomicBool,
    /// The reactor has ended.
    closed: AtomicBool,
    waker: Waker,
    /// What the reactor knows to be cancelled.
    cancellations: Arc<Cancellations>,
}

impl Mailbox {
    pub(crate) fn new(commands_max: u32, requests_max: u32) -> std::io::Result<Self> {
        Ok(Self {
            queue: ArrayQueue::new(commands_max as usize),
            sleeping: AtomicBool::new(false),
            inbox_wanted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waker: Waker::new()?,
            cancellations: Arc::new(Cancellations::new(requests_max)),
        })
    }

    /// Queues a command and wakes the reactor if it sleeps. Never blocks.
    ///
    /// # Errors
    ///
    /// Gives the command back when the queue is full.
    pub(crate) fn post(&self, command: Command) -> Result<(), Command> {
        self.queue.push(command)?;
        self.wake();
        // ORDERING: Relaxed, the fence in `wake` orders it behind the push: either this sees that
        // the mailbox is closed, or `close` sees the command.
        if self.closed.load(Ordering::Relaxed) {
            self.refuse_all();
        }
        Ok(())
    }

    /// The reactor has ended: refuses what is queued, and from now on whatever comes.
    pub(crate) fn close(&self) {
        // ORDERING: Relaxed, the fence below orders it before the look at the queue; pairs with
        // `post`.
        self.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.refuse_all();
    }

    /// Whether the reactor has ended.
    pub(crate) fn is_closed(&self) -> bool {
        // ORDERING: Relaxed: who is told `false` too late is refused by `post`.
        self.closed.load(Ordering::Relaxed)
    }

    fn refuse_all(&self) {
        while let Some(command) = self.queue.pop() {
            // The other callers see that nobody can answer them any more.
            let asker = match command {
                Command::Send { asker, .. } => asker,
                Command::Pool(command) => command.into_asker(),
                _ => None,
            };
            if let Some(Asker { claim, reply }) = asker
                && claim.is_first()
            {
                let _ = reply.try_send(Err(SendError::ShutDown));
            }
        }
    }

    /// Wakes the reactor if it sleeps.
    pub(crate) fn wake(&self) {
        // ORDERING: pairs with the fence in `prepare_to_sleep`; see the module.
        fence(Ordering::SeqCst);
        // ORDERING: Relaxed, the fence above orders it; `swap` lets one thread only wake.
        if self.sleeping.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }

    /// The next command. The reactor's thread only.
    #[inline]
    pub(crate) fn take(&self) -> Option<Command> {
        self.queue.pop()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Announces sleep. Returns whether sleeping is right: no command came in between.
    pub(crate) fn prepare_to_sleep(&self) -> bool {
        // ORDERING: Relaxed, the fence below orders it before the look at the queue.
        self.sleeping.store(true, Ordering::Relaxed);
        // ORDERING: pairs with the fence in `wake`; see the module.
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// Announces that this reactor sleeps until the shared inbox has room. Look whether it has
    /// *after* this.
    pub(crate) fn want_inbox(&self) {
        // ORDERING: Relaxed, the fence below orders it before the caller's look at the inbox.
        self.inbox_wanted.store(true, Ordering::Relaxed);
        // ORDERING: pairs with the fence in `inbox_has_room`.
        fence(Ordering::SeqCst);
    }

    /// Wakes the reactor if it waits for the room that the caller has just made in the inbox.
    pub(crate) fn inbox_has_room(&self) {
        // ORDERING: pairs with the fence in `want_inbox`: either this sees the wish, or the reactor
        // sees the room.
        fence(Ordering::SeqCst);
        if self.inbox_wanted.load(Ordering::Relaxed)
            && self.inbox_wanted.swap(false, Ordering::Relaxed)
        {
            self.wake();
        }
    }

    /// Takes the announcement back.
    pub(crate) fn awake(&self) {
        // ORDERING: Relaxed: at worst another thread writes the eventfd once for nothing.
        self.sleeping.store(false, Ordering::Relaxed);
    }

    pub(crate) fn cancellations(&self) -> &Arc<Cancellations> {
        &self.cancellations
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }
}

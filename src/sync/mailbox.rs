//! The way into a reactor from other threads.
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
//! # The wish
//!
//! The same for a reactor that holds back a connection until the shared inbox has room: it says so
//! before it looks at the inbox once more, whoever makes room looks for the wish afterwards.
//!
//! # The end
//!
//! The thread of a reactor closes its mailbox when it ends. What is queued by then, or comes later,
//! is refused: either the reactor sees the command, or its sender sees that the mailbox is closed.

use super::atomic::{AtomicBool, Ordering};
use super::{Site, fence};

/// The bounded queue of a mailbox.
pub(crate) trait Queue {
    type Item;

    /// Puts an item behind the others. Gives it back when the queue is full.
    fn push(&self, item: Self::Item) -> Result<(), Self::Item>;

    fn pop(&self) -> Option<Self::Item>;

    fn is_empty(&self) -> bool;

    /// Answers for a reactor that has ended.
    fn refuse(&self, item: Self::Item);
}

/// Ends a reactor's sleep. What comes before it begins is not lost.
pub(crate) trait Wake {
    fn wake(&self);
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Mailbox<Q, W> {
    queue: Q,
    waker: W,
    sleeping: AtomicBool,
    /// The reactor holds back a connection because the shared inbox was full.
    inbox_wanted: AtomicBool,
    /// The reactor has ended.
    closed: AtomicBool,
}

impl<Q: Queue, W: Wake> Mailbox<Q, W> {
    pub(crate) fn over(queue: Q, waker: W) -> Self {
        Self {
            queue,
            waker,
            sleeping: AtomicBool::new(false),
            inbox_wanted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Queues a command and wakes the reactor if it sleeps. Never blocks.
    ///
    /// # Errors
    ///
    /// Gives the command back when the queue is full.
    pub(crate) fn post(&self, command: Q::Item) -> Result<(), Q::Item> {
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
        fence(Site::Close);
        self.refuse_all();
    }

    /// Whether the reactor has ended.
    pub(crate) fn is_closed(&self) -> bool {
        // ORDERING: Relaxed: who is told `false` too late is refused by `post`.
        self.closed.load(Ordering::Relaxed)
    }

    fn refuse_all(&self) {
        while let Some(command) = self.queue.pop() {
            self.queue.refuse(command);
        }
    }

    /// Wakes the reactor if it sleeps.
    pub(crate) fn wake(&self) {
        fence(Site::Wake);
        // ORDERING: Relaxed, the fence above orders it; `swap` lets one thread only wake.
        if self.sleeping.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }

    /// The next command. The reactor's thread only.
    #[inline]
    pub(crate) fn take(&self) -> Option<Q::Item> {
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
        fence(Site::Sleep);
        if self.queue.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// Takes the announcement back.
    pub(crate) fn awake(&self) {
        // ORDERING: Relaxed: at worst another thread writes the eventfd once for nothing.
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Announces that this reactor sleeps until the shared inbox has room. Look whether it has
    /// *after* this.
    pub(crate) fn want_inbox(&self) {
        // ORDERING: Relaxed, the fence below orders it before the caller's look at the inbox.
        self.inbox_wanted.store(true, Ordering::Relaxed);
        fence(Site::Want);
    }

    /// Wakes the reactor if it waits for the room that the caller has just made in the inbox.
    pub(crate) fn inbox_has_room(&self) {
        fence(Site::Room);
        // ORDERING: Relaxed, the fence above orders it behind the room; `swap` lets one thread only
        // wake.
        if self.inbox_wanted.load(Ordering::Relaxed)
            && self.inbox_wanted.swap(false, Ordering::Relaxed)
        {
            self.wake();
        }
    }

    pub(crate) fn waker(&self) -> &W {
        &self.waker
    }

    pub(crate) fn queue(&self) -> &Q {
        &self.queue
    }
}

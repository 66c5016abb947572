//! What threads share without locks, as small types over atomics: the protocols alone, so that a
//! model checker can run through every interleaving of them (`loom/`).
//!
//! ```text
//!   mailbox   commands into a reactor, its sleep, and its end
//!   claim     who decides a command: the reactor or the caller
//!   doorbell  events for threads that wait
//!   inbox     how much waits there, whose turn it is, and who may still put something in
//!   single    a number with one writer
//!   ring      words of one thread for another, lost where they find no room
//!   sequence  words of one thread that others copy, all of one moment
//! ```
//!
//! The types are generic over what they drive (a queue, an eventfd), so that a model puts something
//! simpler in its place, and weaker: a queue that orders nothing shows that the fences here do.
//!
//! # What holds it together
//!
//! Every fence here names its [`Site`], and so does every ordering that is not `Relaxed`, but for
//! two: those by which a ring's reader gives room back ([`ring`]). What they keep apart no model of
//! loom's ever exchanges, so that leaving them out would show nothing. The models leave one site
//! out at a time and fail then: none of them is there for nothing. Otherwise a site is a constant,
//! and nothing of it remains. Seen by models only when `loom/` compiles these files as part of its
//! tests: an application's own build with `--cfg loom` is not disturbed.
//!
//! Not here, because they have no atomics: `mem`'s arenas and the payloads' memory (`bytes` counts
//! their references). Nor, though it has some, the sequence of a session's row in the registry:
//! `reactor::meter` writes it, in the way of [`sequence`].

pub(crate) mod claim;
pub(crate) mod doorbell;
pub(crate) mod inbox;
pub(crate) mod mailbox;
pub(crate) mod ring;
pub(crate) mod sequence;
pub(crate) mod single;
// The models have tests of their own.
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(loom, test))]
use crate::atomic;
#[cfg(not(all(loom, test)))]
use std::sync::atomic;

use atomic::Ordering;

/// A place where a protocol depends on the order of two accesses, or on a second look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// Another thread, between its command and its look at the sleeping flag, or at the end.
    Wake,
    /// The reactor, between its sleeping flag and its look at the queue.
    Sleep,
    /// The reactor, between its end and its last look at the queue.
    Close,
    /// The reactor, between its wish and its look at the inbox.
    Want,
    /// Another thread, between the room it made and its look at the wish.
    Room,
    /// A reactor, between its last message and leaving the inbox.
    Leave,
    /// Another thread, between seeing that the last one left and its look at what it left behind.
    Left,
    /// Whoever leaves an event behind rings again.
    RingAgain,
    /// The writer of a ring, between its words and their number, and the reader the other way.
    Publish,
    /// The writer of a ring, between its last words and its end, and the reader the other way.
    CloseRing,
    /// The writer of what belongs together, between its odd sequence and its words, and a reader
    /// the other way.
    BeginWriting,
    /// The same writer, between its words and its even sequence, and a reader the other way.
    EndWriting,
}

impl Site {
    /// Whether a model leaves this out.
    #[inline(always)]
    pub(crate) fn is_left_out(self) -> bool {
        #[cfg(all(loom, test))]
        return LEFT_OUT.get() == Some(self);
        #[cfg(not(all(loom, test)))]
        false
    }
}

/// A fence between two accesses, of which the other thread has one like it.
#[inline(always)]
fn fence(site: Site) {
    if !site.is_left_out() {
        // ORDERING: pairs with the fence of the other side: of two threads that both write first
        // and look afterwards, at least one sees what the other wrote.
        atomic::fence(Ordering::SeqCst);
    }
}

/// A fence of one direction, of which the other thread has one of the other, or an access.
#[inline(always)]
fn fence_of(site: Site, ordering: Ordering) {
    if !site.is_left_out() {
        // ORDERING: said where it is called.
        atomic::fence(ordering);
    }
}

/// The ordering of one access.
#[inline(always)]
fn ordering(site: Site, ordering: Ordering) -> Ordering {
    if site.is_left_out() { Ordering::Relaxed } else { ordering }
}

#[cfg(all(loom, test))]
thread_local! {
    /// One thread of the machine runs a model, with all its threads.
    static LEFT_OUT: std::cell::Cell<Option<Site>> = const { std::cell::Cell::new(None) };
}

/// Leaves one thing out of the models that run on this thread, or nothing.
#[cfg(all(loom, test))]
pub(crate) fn leave_out(site: Option<Site>) {
    LEFT_OUT.set(site);
}

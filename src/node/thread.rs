//! The thread of one reactor of a node: its setup, its loop, and its end.

use std::cell::Cell;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::builder::{Callbacks, SharedHandler};
use crate::config::Config;
use crate::error::SetupError;
use crate::reactor::command::Mailbox;
use crate::reactor::connection::ReactorId;
use crate::reactor::events::EventQueue;
use crate::reactor::inbox::Inbox;
use crate::reactor::{Context, Reactor, ShutdownReport, Tap, Wait};
use crate::stats::Block;
use crate::sys::thread as affinity;
use crate::wire::{Frame, Kind};

/// Everything a reactor's thread needs.
pub(super) struct ThreadPlan {
    pub(super) config: Config,
    pub(super) id: ReactorId,
    pub(super) core: Option<usize>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) siblings: Vec<Arc<Mailbox>>,
    pub(super) inbox: Inbox,
    pub(super) events: EventQueue,
    pub(super) block: Block,
    pub(super) sockets: Vec<socket2::Socket>,
    pub(super) by_kind: Vec<(Kind, SharedHandler)>,
    pub(super) by_type: Vec<(u32, SharedHandler)>,
    pub(super) callbacks: Callbacks,
    pub(super) tap: Option<Tap>,
}

type Ready = Sender<Result<(), SetupError>>;

impl ThreadPlan {
    pub(super) fn run(self, ready: &Ready) -> ShutdownReport {
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
        for (key, period) in self.callbacks.keys {
            reactor.watch_all(key, period)?;
        }
        if let Some(handler) = self.callbacks.missed {
            reactor.on_deadline_missed(move |context, watched| handler(context, watched));
        }
        if let Some(handler) = self.callbacks.cancelled {
            reactor.on_cancelled(move |context, cancelled| handler(context, cancelled));
        }
        if let Some(handler) = self.callbacks.recovered {
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
pub(super) fn is_of_this_thread(mailbox: &Arc<Mailbox>) -> bool {
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

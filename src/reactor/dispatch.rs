//! Handlers, and what they may do: the [`Context`].
//!
//! A frame goes to the handler of its `type_id`, else to that of its kind, else to the inbox.
//! Handlers run on the reactor's thread, between the socket and nothing: what they borrow is the
//! receive window itself. A handler that blocks stalls every connection of its reactor.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::error::{AccessError, CloseReason, SendError};
use crate::mem::discard;
use crate::reactor::abandoned::CancelHandler;
use crate::reactor::connection::ConnectionKey;
use crate::reactor::core::Core;
use crate::reactor::message::Message;
use crate::reactor::sessions::SessionKey;
use crate::reactor::watch::WatchHandler;
use crate::reactor::{BroadcastReport, ConnectionId};
use crate::session::{Correlation, Envelope, PeerInfo, Session};
use crate::time::Nanos;
use crate::wire::{Body, Frame, Kind, Lifetime, Payload, Priority};

/// A handler on one reactor.
pub(crate) type Handler = Box<dyn FnMut(&mut Context<'_>, Frame<'_>)>;

/// What a handler may do, on the thread and in the turn it is called in. Nothing here blocks.
#[derive(Debug)]
pub struct Context<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) home: SessionKey,
    pub(crate) origin: Origin,
}

/// What a handler was called for, as far as answering it needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// The correlation of a request, 0 otherwise.
    response_to: u64,
    priority: Priority,
    /// The request is reliable, and so is its answer.
    is_reliable: bool,
    lifetime: Lifetime,
}

impl Origin {
    /// No frame.
    pub(crate) const NONE: Self = Self {
        response_to: 0,
        priority: Priority::Normal,
        is_reliable: false,
        lifetime: Lifetime { sent_at_ns: 0, ttl_us: 0, is_timeout: false },
    };

    #[inline]
    fn of(frame: &Frame<'_>) -> Self {
        if frame.is_bare() {
            let lifetime = Lifetime { sent_at_ns: frame.sent_at_ns(), ..Self::NONE.lifetime };
            return Self { priority: frame.priority(), lifetime, ..Self::NONE };
        }
        Self {
            response_to: if frame.is_request() { frame.correlation() } else { 0 },
            priority: frame.priority(),
            is_reliable: frame.is_reliable(),
            lifetime: frame.lifetime(),
        }
    }
}

impl Context<'_> {
    /// Who sent the frame.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        ConnectionId { reactor: self.core.reactor, key: self.home }
    }

    /// What the sender said of itself in the handshake.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerInfo> {
        let session = self.core.session(self.connection());
        session.and_then(Session::peer).or_else(|| self.peer_parted())
    }

    /// The peer of a session that is over, for the handlers of its watches.
    #[cold]
    fn peer_parted(&self) -> Option<&PeerInfo> {
        let mut parted = self.core.peers_parted.iter();
        parted.find(|(home, _)| *home == self.home).map(|(_, peer)| peer)
    }

    /// The time of this turn, or of the last message with a time to live that was sent in it.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.core.now
    }

    /// Until when what the handler was called for is worth something, by this node's clock: the
    /// time to live of a message, or how long the sender of a request waits for the answer. `None`
    /// when that is for ever, or nothing is known of the peer's clock.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        let session = self.core.session(self.connection())?;
        let deadline = session.deadline_of(&self.origin.lifetime, self.core.now);
        (deadline != Nanos::NEVER).then_some(deadline)
    }

    /// How much of that time is left. What is passed on can carry it: [`Envelope::ttl`] of a
    /// message that this handler sends, or the timeout of a request. A handler makes none, as it
    /// would have to wait: it hands the message ([`to_message`](Self::to_message)) to another
    /// thread, which does.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        Some(self.deadline()?.since(Nanos::now()))
    }

    /// Which reactor of its node this is, from 0.
    #[must_use]
    pub fn reactor(&self) -> u16 {
        self.core.reactor.index()
    }

    /// Answers the frame: as the response when it was a request, in the lane of the request unless
    /// `envelope` names another; else as a message of its own. The answer leaves with this turn.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued.
    #[inline]
    pub fn reply<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.core.refresh_within_turn(envelope);
        let Origin { response_to, priority, is_reliable, .. } = self.origin;
        let (correlation, envelope) = match response_to {
            0 => (Correlation::None, envelope),
            id if is_reliable => {
                (Correlation::Response(id), envelope.answering(priority).reliable())
            }
            id => (Correlation::Response(id), envelope.answering(priority)),
        };
        self.core.push_to(self.connection(), envelope, correlation, body).map(drop)
    }

    /// Sends to any connection of the same reactor.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued. `NotConnected` also for a connection of another reactor:
    /// use [`post_to`](crate::NodeHandle::post_to) of the node's handle for those.
    pub fn send_to<B: Body + ?Sized>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.core.refresh_within_turn(envelope);
        self.core.push_to(connection, envelope, Correlation::None, body).map(drop)
    }

    /// Sends to every established session of this reactor, and reports on each; see
    /// [`Reactor::broadcast`](crate::Reactor::broadcast).
    pub fn broadcast<B: Body + ?Sized>(&mut self, envelope: Envelope, body: &B) -> BroadcastReport {
        self.core.refresh_within_turn(envelope);
        self.core.broadcast(envelope, body)
    }

    /// Copies a frame to memory that outlives the handler.
    #[must_use]
    pub fn to_message(&mut self, frame: &Frame<'_>) -> Message {
        self.core.message(self.connection(), frame)
    }

    /// Ends the sender's connection after what is queued for it has left, or after `deadline`.
    pub fn disconnect(&mut self, deadline: Duration) {
        let deadline = self.core.now + deadline;
        self.core.disconnect(self.connection(), deadline);
    }
}

impl Context<'_> {
    /// A typed handler found its payload invalid.
    #[cold]
    pub(crate) fn reject_payload(&mut self, error: AccessError) {
        if let Ok(key) = self.core.key(self.connection()) {
            self.core.close(key, CloseReason::Payload(error));
        }
    }
}

/// The handlers of one reactor.
#[derive(Default)]
pub(crate) struct Handlers {
    by_kind: [Option<Handler>; KINDS],
    /// Sorted by `type_id`.
    by_type: Vec<(u32, Handler)>,
    /// A watched message stays away.
    pub(crate) missed: Option<WatchHandler>,
    /// It is there again.
    pub(crate) recovered: Option<WatchHandler>,
    /// A peer has given a request up.
    pub(crate) cancelled: Option<CancelHandler>,
}

/// Application kinds are below this.
const KINDS: usize = 8;

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Kind(usize),
    Type(usize),
    Inbox,
}

impl Handlers {
    pub(crate) fn on_kind(&mut self, kind: Kind, handler: Handler) {
        assert!(kind.is_application(), "{kind:?} is handled by the session itself");
        self.by_kind[kind as usize] = Some(handler);
    }

    pub(crate) fn on_type(&mut self, type_id: u32, handler: Handler) {
        match self.by_type.binary_search_by_key(&type_id, |&(id, _)| id) {
            Ok(at) => self.by_type[at].1 = handler,
            Err(at) => self.by_type.insert(at, (type_id, handler)),
        }
    }

    /// Hot path: once per frame. A table look-up, and a binary search when there are handlers by
    /// type.
    #[inline]
    pub(crate) fn route(&self, frame: &Frame<'_>) -> Route {
        let type_id = frame.type_id();
        if type_id != 0
            && !self.by_type.is_empty()
            && let Ok(at) = self.by_type.binary_search_by_key(&type_id, |&(id, _)| id)
        {
            return Route::Type(at);
        }
        let kind = frame.kind() as usize;
        match self.by_kind.get(kind) {
            Some(Some(_)) => Route::Kind(kind),
            _ => Route::Inbox,
        }
    }

    /// Calls the handler that a frame of the session at `home` was routed to. A panic stops here:
    /// it is counted and logged, and everything goes on.
    #[inline]
    pub(crate) fn call(
        &mut self,
        route: Route,
        core: &mut Core,
        key: ConnectionKey,
        home: SessionKey,
        frame: Frame<'_>,
    ) {
        let handler = match route {
            Route::Kind(kind) => self.by_kind[kind].as_mut(),
            Route::Type(at) => Some(&mut self.by_type[at].1),
            Route::Inbox => None,
        };
        let handler = handler.expect("routed to a handler that exists");
        let began = core.meter.before_handler();
        let outcome = call_caught(core, home, Origin::of(&frame), |context| {
            handler(context, frame);
        });
        core.meter.after_handler(began);
        if let Err(Panicked) = outcome {
            log_panic(core.id(key), &frame);
        }
    }
}

/// Out of line: what it needs would be made ready before every frame.
#[cold]
#[inline(never)]
fn log_panic(connection: ConnectionId, frame: &Frame<'_>) {
    let (kind, type_id) = (frame.kind(), frame.type_id());
    tracing::error!(%connection, ?kind, type_id, "a handler panicked");
}

/// A handler panicked. That is counted; to be logged by who knows what for it was called.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Calls a handler of the application's. A panic stops here, whatever it carries.
#[inline]
pub(crate) fn call_caught(
    core: &mut Core,
    home: SessionKey,
    origin: Origin,
    call: impl FnOnce(&mut Context<'_>),
) -> Result<(), Panicked> {
    let mut context = Context { core, home, origin };
    // Unwind safety: the context's operations leave the core consistent between any two of them,
    // and what the handler broke of its own is its own.
    match catch_unwind(AssertUnwindSafe(|| call(&mut context))) {
        Ok(()) => Ok(()),
        Err(payload) => Err(core.handler_panicked(payload)),
    }
}

impl Core {
    #[cold]
    fn handler_panicked(&self, payload: Box<dyn Any + Send>) -> Panicked {
        self.counters.handler_panics.add(1);
        // It is the application's, as the handler is.
        discard(payload);
        Panicked
    }
}

/// Makes a handler that reads its payload as a `T` first. A payload that claims to be a `T` and is
/// not closes its connection.
pub(crate) fn typed<T: Payload>(
    mut handler: impl FnMut(&mut Context<'_>, Frame<'_>, &T::Archived) + 'static,
) -> Handler {
    Box::new(move |context, frame| match frame.access::<T>() {
        Ok(value) => handler(context, frame, value),
        Err(error) => context.reject_payload(error),
    })
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handlers")
            .field("kinds", &self.by_kind.iter().flatten().count())
            .field("types", &self.by_type.len())
            .finish()
    }
}

//! Watches: whose messages must come in time, and who is told when they do not.
//!
//! "No setpoint for 20 ms: go safe." A watch belongs to a session and outlives its links: silence
//! is silence, whoever is to blame for it. The handlers run on the reactor's thread, in the turn
//! that the deadline falls into; a spinning reactor is in it within microseconds.
//!
//! A session that ends, for whatever reason, takes no watch with it in silence: each that has not
//! been missed is missed at that moment. So whoever goes safe on a miss is safe whenever setpoints
//! are not coming any more.
//!
//! What a session's watchdog finds is noted first and told to the handlers at the end of that step
//! of the turn, as with frames: no handler runs inside the session.

use std::time::Duration;

use crate::error::CloseReason;
pub use crate::error::WatchError;
use crate::reactor::Reactor;
use crate::reactor::connection::ConnectionId;
use crate::reactor::core::Core;
use crate::reactor::dispatch::{Context, Handlers, Origin, Panicked, call_caught};
use crate::reactor::sessions::SessionKey;
pub use crate::session::watchdog::WatchKey;
use crate::session::watchdog::{Fed, Miss, Recovered};
use crate::time::Nanos;

/// Told about a watch.
pub(crate) type WatchHandler = Box<dyn FnMut(&mut Context<'_>, &Watched)>;

/// What happened to a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Watched {
    /// What was waited for.
    pub key: WatchKey,
    /// Nothing came, or it is there again.
    pub change: WatchChange,
    /// How long nothing has come, or had come.
    pub silent_for: Duration,
    /// Of a miss: why the session is over, where that came before the end of the period. Nothing
    /// can come in this session any more, so it is missed at once, and `silent_for` is less than
    /// the period.
    pub ended: Option<CloseReason>,
}

/// Which way a watch changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchChange {
    /// Nothing came for a period, or the session ended. Told once, until something comes.
    Missed,
    /// What was missed is there again.
    Recovered,
}

impl Watched {
    pub(crate) fn missed(miss: &Miss) -> Self {
        let &Miss { key, silent_for, .. } = miss;
        Self { key, change: WatchChange::Missed, silent_for, ended: None }
    }

    fn recovered(recovered: &Recovered) -> Self {
        let Recovered { key, silent_for } = *recovered;
        Self { key, change: WatchChange::Recovered, silent_for, ended: None }
    }
}

impl Core {
    /// A message came: feeds the watches of its session. Hot path where there are any.
    #[inline(never)]
    pub(crate) fn feed_watches(&mut self, home: SessionKey, keys: [WatchKey; 2]) {
        let now = self.now;
        for key in keys {
            let Some(session) = self.session_mut(home) else { return };
            match session.watchdog.fed(key, now) {
                None => {}
                Some(Fed::Recovered(recovered)) => {
                    self.note_watch(home, Watched::recovered(&recovered));
                    self.set_session_deadline(home);
                }
                Some(Fed::Late(miss, recovered)) => {
                    self.note_watch(home, Watched::missed(&miss));
                    self.note_watch(home, Watched::recovered(&recovered));
                }
            }
        }
    }

    /// A session ends: its watches that were not missed are missed now. Their handlers are told
    /// who the peer was, also when the session has no place any more.
    #[cold]
    pub(crate) fn end_watches(&mut self, home: SessionKey, reason: CloseReason) {
        let now = self.now;
        let noted_before = self.watched.len();
        while let Some(miss) = self.session_mut(home).and_then(|found| found.watchdog.poll_end(now))
        {
            let watched = Watched { ended: Some(reason), ..Watched::missed(&miss) };
            self.note_watch(home, watched);
        }
        if self.watched.len() > noted_before
            && let Some(peer) = self.session_mut(home).and_then(|found| found.peer())
        {
            let peer = peer.clone();
            self.peers_parted.push((home, peer));
        }
    }

    pub(crate) fn watch(
        &mut self,
        id: ConnectionId,
        key: WatchKey,
        period: Duration,
    ) -> Result<(), WatchError> {
        self.now = Nanos::now();
        let now = self.now;
        if id.reactor != self.reactor {
            return Err(WatchError::NoSession);
        }
        let session = self.session_mut(id.key).ok_or(WatchError::NoSession)?;
        session.watchdog.watch(key, period, now)?;
        self.set_session_deadline(id.key);
        Ok(())
    }
}

/// Tells the handlers what the watches have seen.
#[inline]
pub(crate) fn tell_watched(core: &mut Core, handlers: &mut Handlers) {
    if !core.watched.is_empty() {
        tell(core, handlers);
    }
}

#[cold]
fn tell(core: &mut Core, handlers: &mut Handlers) {
    let mut watched = std::mem::take(&mut core.watched);
    for (home, watched) in watched.drain(..) {
        let handler = match watched.change {
            WatchChange::Missed => &mut handlers.missed,
            WatchChange::Recovered => &mut handlers.recovered,
        };
        let Some(handler) = handler else { continue };
        let outcome = call_caught(core, home, Origin::NONE, |context| handler(context, &watched));
        if let Err(Panicked) = outcome {
            tracing::error!(?watched, "a watch's handler panicked");
        }
    }
    // A handler that ends a session notes what that means for its watches: it is told next.
    watched.append(&mut core.watched);
    core.watched = watched;
    if core.watched.is_empty() {
        core.peers_parted.clear();
    }
}

impl Reactor {
    /// Watches that messages of a type or kind come from a session's peer at least every `period`.
    /// It begins when the session is first established, or now; a watch with the same key is
    /// replaced.
    ///
    /// [`Reactor::on_deadline_missed`] is called once for each silence of a period, on this thread
    /// in [`Reactor::turn`]: with [`Idle::Spin`](crate::config::Idle::Spin) within microseconds of
    /// the deadline as long as the reactor is turned. Messages that came too late for their time to
    /// live do not count.
    ///
    /// The watch outlives the session's links, and a session that ends does not end it in silence:
    /// whatever the reason (a goodbye, this side's [`disconnect`](Reactor::disconnect) or shutdown,
    /// no link for `session_linger_ms`), what was not missed yet is missed then, at once, with
    /// [`Watched::ended`]. Not to be told, [`unwatch`](Reactor::unwatch) first.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: no such session, `watches_max` are set up, or a period of zero.
    pub fn watch(
        &mut self,
        connection: ConnectionId,
        key: WatchKey,
        period: Duration,
    ) -> Result<(), WatchError> {
        self.core.watch(connection, key, period)
    }

    /// Ends a watch. Does nothing when there is none.
    pub fn unwatch(&mut self, connection: ConnectionId, key: WatchKey) {
        if connection.reactor == self.core.reactor
            && let Some(session) = self.core.session_mut(connection.key)
        {
            session.watchdog.unwatch(key);
        }
    }

    /// Calls `handler` when messages that are watched stay away for their period: once, until one
    /// comes. Also while the session has no link, and when it ends ([`Watched::ended`]); for those
    /// that end with the reactor, when it is dropped.
    pub fn on_deadline_missed(
        &mut self,
        handler: impl FnMut(&mut Context<'_>, &Watched) + 'static,
    ) {
        self.handlers.missed = Some(Box::new(handler));
    }

    /// Calls `handler` when a message comes that was missed.
    pub fn on_deadline_recovered(
        &mut self,
        handler: impl FnMut(&mut Context<'_>, &Watched) + 'static,
    ) {
        self.handlers.recovered = Some(Box::new(handler));
    }
}

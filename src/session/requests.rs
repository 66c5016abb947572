//! Requests that wait for their answer. Sans-IO: what a session is called, and what an answer is
//! kept as, is its user's business.
//!
//! Every request has one outcome: the answer, its timeout, or the loss of what it was sent in; one
//! that is cancelled has none, and its peer is told. A reliable request goes on on the next link.
//!
//! Invariant: a request is in the table from the moment it was queued until its owner has taken
//! the outcome; it has a deadline exactly while it is waiting. The key, salted, is the correlation
//! on the wire, so an answer that comes after its request was given up finds nothing and is
//! counted.

use std::time::Duration;

use slotmap::{Key, KeyData, SlotMap, new_key_type};

use crate::error::{CloseReason, RequestError};
use crate::mem::Deadlines;
use crate::session::Envelope;
use crate::session::mutation::Mutation;
use crate::time::Nanos;
use crate::wire::{Priority, low_half};

new_key_type! {
    struct RequestKey;
}

/// Names a request until its outcome has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    key: RequestKey,
    correlation: u64,
}

impl RequestId {
    /// The correlation on the wire.
    pub(crate) fn correlation(self) -> u64 {
        self.correlation
    }
}

#[derive(Debug)]
struct Request<S, M> {
    session: S,
    /// The part of the session that it was sent in.
    part: S,
    lane: Priority,
    /// It is sent again on the next link when this one is lost.
    reliable: bool,
    timeout: Duration,
    opened_at: Nanos,
    outcome: Option<Result<M, RequestError>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Requests<S, M> {
    slots: SlotMap<RequestKey, Request<S, M>>,
    deadlines: Deadlines,
    /// The key last opened in each slot, to find it by the number the deadlines know.
    keys: Vec<RequestKey>,
    requests_max: u32,
    /// What the correlations of this table's requests differ in from those of any other.
    salt: u64,
    /// A request has an outcome that may not have been taken.
    has_news: bool,
}

impl<S: Copy + PartialEq, M> Requests<S, M> {
    /// `salt` is random: an answer may be to a request of a process that was here before, which
    /// numbered them from the same beginning, in a session that has begun anew since.
    pub(crate) fn new(requests_max: u32, salt: u64) -> Self {
        Self {
            slots: SlotMap::with_capacity_and_key(requests_max as usize),
            deadlines: Deadlines::with_capacity(requests_max as usize + 2),
            keys: vec![RequestKey::null(); requests_max as usize + 2],
            requests_max,
            // No slot has so high a number: never 0 on the wire.
            salt: salt | 1 << 31,
            has_news: false,
        }
    }

    /// Opens a request that leaves in `part` of `session`; its deadline runs from `now`.
    pub(crate) fn open(
        &mut self,
        session: S,
        part: S,
        envelope: &Envelope,
        timeout: Duration,
        now: Nanos,
    ) -> Result<RequestId, RequestError> {
        if self.slots.len() >= self.requests_max as usize {
            return Err(RequestError::TooMany { requests_max: self.requests_max });
        }
        let (lane, reliable) = (envelope.lane(), envelope.is_reliable());
        let opened_at = now;
        let outcome = None;
        let request = Request { session, part, lane, reliable, timeout, opened_at, outcome };
        let key = self.slots.insert(request);
        self.keys[slot(key) as usize] = key;
        self.deadlines.set(slot(key), now + timeout);
        Ok(RequestId { key, correlation: key.data().as_ffi() ^ self.salt })
    }

    /// Forgets a request: it was not sent, or its owner no longer cares.
    pub(crate) fn close(&mut self, id: RequestId) {
        if self.is_ours(id) && self.slots.remove(id.key).is_some() {
            self.deadlines.set(slot(id.key), Nanos::NEVER);
        }
    }

    /// Gives a request up. Says whose it was, and how the cancellation travels, when it was
    /// waiting.
    pub(crate) fn cancel(&mut self, id: RequestId) -> Option<(S, Envelope)> {
        let request = self.slots.get(id.key).filter(|_| self.is_ours(id))?;
        let envelope = Envelope::cancel().priority(request.lane);
        let envelope = if request.reliable { envelope.reliable() } else { envelope };
        let is_told = request.outcome.is_none() && !Mutation::RequestNoCancel.is_on();
        let waiting = is_told.then_some((request.session, envelope));
        self.close(id);
        waiting
    }

    /// Since when an answer with this correlation in this session is waited for; `None` when it is
    /// not.
    #[inline]
    pub(crate) fn waiting_since(&self, session: S, correlation: u64) -> Option<Nanos> {
        let request = self.slots.get(self.key_of(correlation))?;
        let is_ours = request.session == session || Mutation::RequestAnySession.is_on();
        let is_late = request.outcome.is_some() && !Mutation::RequestLateAnswer.is_on();
        let is_waiting = is_ours && !is_late;
        is_waiting.then_some(request.opened_at)
    }

    /// Whether an answer of this session is waited for. Looks at every request.
    pub(crate) fn is_owed(&self, session: S) -> bool {
        self.slots.values().any(|request| request.session == session && request.outcome.is_none())
    }

    /// Keeps the answer for its owner. The caller has checked [`Requests::waiting_since`].
    pub(crate) fn answer(&mut self, correlation: u64, message: M) {
        self.settle(self.key_of(correlation), Ok(message));
    }

    /// The outcome of a request, once there is one.
    pub(crate) fn take(&mut self, id: RequestId) -> Option<Result<M, RequestError>> {
        self.slots.get(id.key).filter(|_| self.is_ours(id))?.outcome.as_ref()?;
        self.slots.remove(id.key)?.outcome
    }

    /// The earliest deadline.
    #[inline]
    pub(crate) fn earliest(&self) -> Nanos {
        self.deadlines.earliest()
    }

    /// Gives up the requests whose time is over. `is_unread` says of a part of a session that what
    /// it has received waits for room in the inbox: an answer may be behind that.
    #[inline]
    pub(crate) fn expire(&mut self, now: Nanos, is_unread: impl Fn(S) -> bool) {
        while let Some(due) = self.deadlines.pop_due(now) {
            let key = self.keys[due as usize];
            let Some(request) = self.slots.get(key) else { continue };
            if Mutation::RequestNoTimeout.is_on() {
                continue;
            }
            let Request { timeout, session, part, .. } = *request;
            let error = match is_unread(part) || is_unread(session) {
                true => RequestError::InboxFull { timeout },
                false => RequestError::Timeout { timeout },
            };
            self.settle(key, Err(error));
        }
    }

    /// Answers every request of a session, or of a part of one, that ended.
    pub(crate) fn fail(&mut self, ended: S, reason: CloseReason) {
        self.fail_those(reason, |request| request.session == ended || request.part == ended);
    }

    /// Answers the requests of a part of a session that its link took with it.
    pub(crate) fn fail_unreliable(&mut self, part: S, reason: CloseReason) {
        if Mutation::RequestOutlivesLink.is_on() {
            return;
        }
        let stays = |reliable| reliable && !Mutation::RequestNotResent.is_on();
        self.fail_those(reason, |request| request.part == part && !stays(request.reliable));
    }

    /// Whether a request has had an outcome since the last call.
    #[inline]
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    fn fail_those(&mut self, reason: CloseReason, is_lost: impl Fn(&Request<S, M>) -> bool) {
        let Self { slots, deadlines, has_news, .. } = self;
        for (key, request) in slots.iter_mut() {
            if is_lost(request) && request.outcome.is_none() {
                deadlines.set(slot(key), Nanos::NEVER);
                request.outcome = Some(Err(RequestError::ConnectionLost { reason }));
                *has_news = true;
            }
        }
    }

    /// Whether an id is of this table: the keys of another are the same.
    #[inline]
    fn is_ours(&self, id: RequestId) -> bool {
        self.key_of(id.correlation) == id.key
    }

    #[inline]
    fn key_of(&self, correlation: u64) -> RequestKey {
        RequestKey::from(KeyData::from_ffi(correlation ^ self.salt))
    }

    fn settle(&mut self, key: RequestKey, outcome: Result<M, RequestError>) {
        self.deadlines.set(slot(key), Nanos::NEVER);
        if let Some(request) = self.slots.get_mut(key) {
            request.outcome = Some(outcome);
            self.has_news = true;
        }
    }
}

/// The slot number of a key: the low half of its number, by slotmap's documentation.
fn slot(key: RequestKey) -> u32 {
    low_half(key.data().as_ffi())
}

#[cfg(test)]
mod tests;

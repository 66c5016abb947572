//! Requests that wait for their answer.
//!
//! Invariant: a request is in the table from the moment it was queued until its owner has taken
//! the outcome; it has a deadline exactly while it is waiting. The key is the correlation on the
//! wire, so an answer that comes after its request was given up finds nothing and is counted.

use std::time::Duration;

use slotmap::{Key, KeyData, SlotMap, new_key_type};

use crate::error::{CloseReason, RequestError};
use crate::mem::Deadlines;
use crate::reactor::message::Message;
use crate::reactor::sessions::SessionKey;
use crate::session::Envelope;
use crate::time::Nanos;
use crate::wire::{Priority, low_half};

new_key_type! {
    struct RequestKey;
}

/// Names a request until its outcome has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(RequestKey);

impl RequestId {
    /// The correlation on the wire.
    pub(crate) fn correlation(self) -> u64 {
        self.0.data().as_ffi()
    }
}

#[derive(Debug)]
struct Request {
    session: SessionKey,
    /// The part of the session that it was sent in.
    part: SessionKey,
    lane: Priority,
    /// It is sent again on the next link when this one is lost.
    reliable: bool,
    timeout: Duration,
    opened_at: Nanos,
    outcome: Option<Result<Message, RequestError>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Requests {
    slots: SlotMap<RequestKey, Request>,
    deadlines: Deadlines,
    /// The key last opened in each slot, to find it by the number the deadlines know.
    keys: Vec<RequestKey>,
    requests_max: u32,
}

impl Requests {
    pub(crate) fn new(requests_max: u32) -> Self {
        Self {
            slots: SlotMap::with_capacity_and_key(requests_max as usize),
            deadlines: Deadlines::with_capacity(requests_max as usize + 2),
            keys: vec![RequestKey::null(); requests_max as usize + 2],
            requests_max,
        }
    }

    /// Opens a request that leaves in `part` of `session`; its deadline runs from `now`.
    pub(crate) fn open(
        &mut self,
        session: SessionKey,
        part: SessionKey,
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
        Ok(RequestId(key))
    }

    /// Forgets a request: it was not sent, or its owner no longer cares.
    pub(crate) fn close(&mut self, id: RequestId) {
        if self.slots.remove(id.0).is_some() {
            self.deadlines.set(slot(id.0), Nanos::NEVER);
        }
    }

    /// Gives a request up. Says whose it was, and how the cancellation travels, when it was
    /// waiting.
    pub(crate) fn cancel(&mut self, id: RequestId) -> Option<(SessionKey, Envelope)> {
        let request = self.slots.get(id.0)?;
        let envelope = Envelope::cancel().priority(request.lane);
        let envelope = if request.reliable { envelope.reliable() } else { envelope };
        let waiting = request.outcome.is_none().then_some((request.session, envelope));
        self.close(id);
        waiting
    }

    /// Since when an answer with this correlation in this session is waited for; `None` when it is
    /// not.
    #[inline]
    pub(crate) fn waiting_since(&self, session: SessionKey, correlation: u64) -> Option<Nanos> {
        let request = self.slots.get(key_of(correlation))?;
        let is_waiting = request.session == session && request.outcome.is_none();
        is_waiting.then_some(request.opened_at)
    }

    /// Whether an answer of this session is waited for. Looks at every request.
    pub(crate) fn is_owed(&self, session: SessionKey) -> bool {
        self.slots.values().any(|request| request.session == session && request.outcome.is_none())
    }

    /// Keeps the answer for its owner. The caller has checked [`Requests::waiting_since`].
    pub(crate) fn answer(&mut self, correlation: u64, message: Message) {
        self.settle(key_of(correlation), Ok(message));
    }

    /// The outcome of a request, once there is one.
    pub(crate) fn take(&mut self, id: RequestId) -> Option<Result<Message, RequestError>> {
        self.slots.get(id.0)?.outcome.as_ref()?;
        self.slots.remove(id.0)?.outcome
    }

    /// The earliest deadline.
    #[inline]
    pub(crate) fn earliest(&self) -> Nanos {
        self.deadlines.earliest()
    }

    /// Gives up the requests whose time is over.
    #[inline]
    pub(crate) fn expire(&mut self, now: Nanos) {
        while let Some(due) = self.deadlines.pop_due(now) {
            let key = self.keys[due as usize];
            let Some(request) = self.slots.get(key) else { continue };
            let error = RequestError::Timeout { timeout: request.timeout };
            self.settle(key, Err(error));
        }
    }

    /// Answers every request of a session, or of a part of one, that ended.
    pub(crate) fn fail(&mut self, ended: SessionKey, reason: CloseReason) {
        self.fail_those(reason, |request| request.session == ended || request.part == ended);
    }

    /// Answers the requests of a part of a session that its link took with it.
    pub(crate) fn fail_unreliable(&mut self, part: SessionKey, reason: CloseReason) {
        self.fail_those(reason, |request| request.part == part && !request.reliable);
    }

    fn fail_those(&mut self, reason: CloseReason, is_lost: impl Fn(&Request) -> bool) {
        let Self { slots, deadlines, .. } = self;
        for (key, request) in slots.iter_mut() {
            if is_lost(request) && request.outcome.is_none() {
                deadlines.set(slot(key), Nanos::NEVER);
                request.outcome = Some(Err(RequestError::ConnectionLost { reason }));
            }
        }
    }

    fn settle(&mut self, key: RequestKey, outcome: Result<Message, RequestError>) {
        self.deadlines.set(slot(key), Nanos::NEVER);
        if let Some(request) = self.slots.get_mut(key) {
            request.outcome = Some(outcome);
        }
    }
}

fn key_of(correlation: u64) -> RequestKey {
    RequestKey::from(KeyData::from_ffi(correlation))
}

/// The slot number of a key: the low half of its number, by slotmap's documentation.
fn slot(key: RequestKey) -> u32 {
    low_half(key.data().as_ffi())
}

#[cfg(test)]
mod tests;

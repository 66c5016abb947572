//! Requests that a reactor makes for other threads.
//!
//! The request itself is one like any other, in the table of this reactor; an errand remembers who
//! wants its outcome. Outcomes are handed over at the end of the turn that brings them. A caller
//! that is gone is not missed: its request ends like any other, and nobody is told.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::error::{RequestError, SendError};
use crate::reactor::command::Waiting;
use crate::reactor::connection::{ConnectionId, ReactorId};
use crate::reactor::core::Core;
use crate::reactor::message::{Message, OwnedBody};
use crate::reactor::pool::{Choice, PoolId};
use crate::reactor::sessions::Home;
use crate::session::requests::RequestId;
use crate::session::{Correlation, Envelope};
use crate::sync::claim::Claim;
use crate::time::Nanos;
use crate::wire::{Body, Priority};

/// What the thread that asked is told: once that the request is on its way, then how it went; or at
/// once that it is not.
#[derive(Debug)]
pub(crate) enum Reply {
    Begun,
    Over(Result<Message, RequestError>),
}

/// Whom a request goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Recipient {
    Connection(ConnectionId),
    /// A member of a pool.
    Member(PoolId, Choice),
}

impl Recipient {
    /// Whose errand it is.
    pub(crate) fn reactor(&self) -> ReactorId {
        match self {
            Self::Connection(connection) => connection.reactor,
            Self::Member(pool, _) => pool.reactor,
        }
    }
}

/// A request to be made for another thread.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) to: Recipient,
    pub(crate) waiting: Waiting,
    pub(crate) body: OwnedBody,
    pub(crate) timeout: Duration,
    /// When its asker waits no more.
    pub(crate) deadline: Nanos,
    /// Names it in this process.
    pub(crate) number: u64,
    pub(crate) claim: Claim,
    /// Has room for both replies.
    pub(crate) reply: Sender<Reply>,
}

/// One that is on its way.
#[derive(Debug)]
struct Pending {
    number: u64,
    request: RequestId,
    reply: Sender<Reply>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Errands {
    pending: Vec<Pending>,
}

impl Errands {
    pub(crate) fn with_capacity(requests_max: usize) -> Self {
        Self { pending: Vec::with_capacity(requests_max) }
    }
}

impl Core {
    /// Opens a request and queues it, without waiting.
    pub(crate) fn start_request<B: Body + ?Sized>(
        &mut self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<RequestId, RequestError> {
        if connection.reactor != self.reactor {
            return Err(SendError::NotConnected.into());
        }
        // Read in any case: the timeout runs from the call, whatever was queued long before it.
        self.now_is_fresh = false;
        self.refresh_now();
        let part = self.for_lane(connection, envelope.lane())?.key;
        let id = self.requests.open(connection.key, part, &envelope, timeout, self.now)?;
        let timeout_us = u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX).max(1);
        let correlation = Correlation::Request { id: id.correlation(), timeout_us };
        // Unwind safety: a body that panics changes nothing in its lane, and goes on panicking.
        let pushed = catch_unwind(AssertUnwindSafe(|| {
            self.push_to(connection, envelope, correlation, body).map(drop)
        }));
        match pushed {
            Ok(Ok(())) => Ok(id),
            Ok(Err(error)) => {
                self.requests.close(id);
                Err(error.into())
            }
            Err(panic) => {
                self.requests.close(id);
                resume_unwind(panic)
            }
        }
    }

    /// Gives a request up, and tells the peer so.
    pub(crate) fn cancel_request(&mut self, request: RequestId) {
        if let Some((key, envelope)) = self.requests.cancel(request) {
            let connection = ConnectionId { reactor: self.reactor, key };
            let correlation = Correlation::Cancel(request.correlation());
            self.refresh_now();
            if !self.withdraw_request(connection, envelope.lane(), request.correlation()) {
                let _ = self.push_to(connection, envelope, correlation, &[]);
            }
        }
    }

    /// Drops a request that was not sent yet: it is not handled, wherever its link is. Returns
    /// whether it did.
    #[cold]
    fn withdraw_request(
        &mut self,
        connection: ConnectionId,
        lane: Priority,
        correlation: u64,
    ) -> bool {
        let Ok(ConnectionId { key: home, .. }) = self.for_lane(connection, lane) else {
            return false;
        };
        let now = self.now;
        let memory = &mut self.send_memory;
        let session = match self.homes.get_mut(home) {
            Some(&mut Home::Here(key)) => self.connections.get_mut(key).map(|c| &mut c.session),
            Some(Home::Away(away)) => Some(away.session_mut()),
            None => None,
        };
        let is_withdrawn =
            session.is_some_and(|session| session.withdraw(lane, correlation, now, memory));
        if is_withdrawn {
            self.count_drops(home);
            self.set_session_deadline(home);
        }
        is_withdrawn
    }

    /// Makes a request for another thread, unless that has withdrawn it.
    #[cold]
    pub(crate) fn begin_errand(&mut self, errand: Errand) {
        let Errand { to, waiting, body, timeout, deadline, number, claim, reply } = errand;
        if !claim.try_claim() {
            return;
        }
        let envelope = self.end_wait(waiting);
        self.now = Nanos::now();
        let remaining = deadline.since(self.now);
        let begun = match to {
            _ if remaining.is_zero() => Err(RequestError::Timeout { timeout }),
            // One that begins now would fail as soon as it has.
            _ if self.life.is_closing() => Err(SendError::ShutDown.into()),
            Recipient::Connection(connection) => {
                self.start_request(connection, envelope, &body, remaining)
            }
            Recipient::Member(pool, choice) => {
                self.pool_start_request(pool, choice, envelope, &body, remaining)
            }
        };
        match begun {
            Ok(request) => {
                // Whoever asked may be gone by now; the request is on its way all the same.
                let _ = reply.try_send(Reply::Begun);
                self.errands.pending.push(Pending { number, request, reply });
            }
            Err(error) => drop(reply.try_send(Reply::Over(Err(error)))),
        }
    }

    /// Gives an errand up.
    #[cold]
    pub(crate) fn cancel_errand(&mut self, number: u64) {
        let pending = &mut self.errands.pending;
        if let Some(at) = pending.iter().position(|errand| errand.number == number) {
            let Pending { request, .. } = pending.swap_remove(at);
            self.cancel_request(request);
        }
    }

    /// Hands outcomes over to those who wait for them. Once per turn: two comparisons, and a look
    /// at every errand when a request has an outcome.
    #[inline]
    pub(crate) fn report_errands(&mut self) {
        if !self.errands.pending.is_empty() && self.requests.take_news() {
            self.hand_over();
        }
    }

    #[cold]
    fn hand_over(&mut self) {
        let Self { errands, requests, .. } = self;
        errands.pending.retain(|errand| match requests.take(errand.request) {
            Some(outcome) => {
                let _ = errand.reply.try_send(Reply::Over(outcome));
                false
            }
            None => true,
        });
    }
}

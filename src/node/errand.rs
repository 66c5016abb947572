//! Requests that other threads than a reactor's make: on a connection, or through a [`NodePool`].
//!
//! The reactor that has the connection, or the chosen member, makes the request and keeps its time;
//! what comes back is handed to whoever waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::ask::{ANSWER_TIMEOUT, Silence, reply_channel};
use super::{NodeHandle, NodePool};
use crate::error::{CloseReason, RequestError, SendError};
use crate::reactor::command::{Asker, Command, Waiting};
use crate::reactor::connection::ReactorId;
use crate::reactor::errand::{Errand, Recipient, Reply};
use crate::reactor::message::OwnedBody;
use crate::reactor::{Choice, ConnectionId, Message};
use crate::session::Envelope;
use crate::time::Nanos;
use crate::wire::Body;

/// What becomes of a request whose reactor has ended, and with it the link.
const ENDED: RequestError = RequestError::ConnectionLost { reason: CloseReason::Local };

/// The number of the next errand of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A request of a [`NodeHandle`], a [`Server`](crate::Server) or a [`NodePool`] that is under way.
/// Any thread may take its outcome.
///
/// Dropping it before gives the request up, as [`cancel`](Self::cancel) does.
#[derive(Debug)]
#[must_use = "dropping it cancels the request"]
pub struct PendingRequest {
    handle: NodeHandle,
    reactor: ReactorId,
    number: u64,
    timeout: Duration,
    deadline: Nanos,
    answer: Receiver<Reply>,
    /// The outcome has been handed out.
    is_told: bool,
}

/// What is asked of a reactor.
#[derive(Debug)]
struct Question<'a> {
    waiting: Waiting,
    body: &'a OwnedBody,
    timeout: Duration,
    deadline: Nanos,
}

impl NodeHandle {
    /// Sends a request on a connection, of a client's or of one that this node has made, and waits
    /// for its answer. The answer comes here, not to [`receive`](Self::receive) or a handler.
    ///
    /// Blocks for up to `timeout`, and as long as handlers keep the reactor from answering (5 s at
    /// most). Serialises on this thread, and allocates some hundred bytes.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; [`SendError::InHandler`] at once in a handler of this node. After a
    /// timeout the link lives on; a late answer is counted and dropped.
    pub fn request<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.start_request(connection, envelope, body, timeout)?.wait()
    }

    /// Sends a request on a connection, and waits until its reactor has queued it or said why not,
    /// for up to `timeout`; not for its answer. Up to `requests_max` may be under way on each
    /// reactor, pools included. The peer is told of 71 minutes of a longer timeout.
    ///
    /// # Errors
    ///
    /// [`RequestError::Send`], [`RequestError::TooMany`], or [`RequestError::Timeout`] when the
    /// reactor has not come to it in time; nothing was queued. [`SendError::InHandler`] at once in
    /// a handler of this node.
    pub fn start_request<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<PendingRequest, RequestError> {
        self.check_may_wait()?;
        let (waiting, deadline) = (Waiting::new(envelope), Nanos::now() + timeout);
        let body = self.own(body, envelope, 0)?;
        let question = Question { waiting, body: &body, timeout, deadline };
        self.ask(Recipient::Connection(connection), &question)
    }

    /// Has a reactor begin a request, and waits until it has.
    fn ask(&self, to: Recipient, question: &Question<'_>) -> Result<PendingRequest, RequestError> {
        let &Question { waiting, body, timeout, deadline } = question;
        // ORDERING: Relaxed: only that no two are the same counts.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let reactor = to.reactor();
        // That it has begun, and the outcome.
        let (Asker { claim, reply }, answer) = reply_channel(2);
        let body = body.clone();
        let errand = Errand { to, waiting, body, timeout, deadline, number, claim, reply };
        self.post_command(reactor, Command::Request(Box::new(errand)))?;
        match answer.wait(deadline) {
            Ok(Reply::Begun) => {
                let (handle, answer, is_told) = (self.clone(), answer.into_receiver(), false);
                Ok(PendingRequest { handle, reactor, number, timeout, deadline, answer, is_told })
            }
            Ok(Reply::Over(Err(error))) => Err(error),
            Ok(Reply::Over(Ok(_))) => unreachable!("an answer comes after the beginning"),
            Err(Silence::Withdrawn) => Err(RequestError::Timeout { timeout }),
            Err(Silence::Ended) => Err(SendError::ShutDown.into()),
        }
    }
}

impl NodePool {
    /// Sends a request to a member and waits for its answer, as
    /// [`Pool::request`](crate::Pool::request). Without a key it goes to the reactors in turn, and
    /// to the next when one can not take it. The answer comes here, not to
    /// [`NodeHandle::receive`](crate::NodeHandle::receive).
    ///
    /// Blocks for up to `timeout`, and as long as handlers keep the reactor from answering (5 s at
    /// most).
    ///
    /// # Errors
    ///
    /// [`RequestError`]; [`SendError::InHandler`] at once in a handler of this node. After a
    /// timeout the link lives on; a late answer is counted and dropped.
    pub fn request<B: Body + ?Sized>(
        &self,
        choice: Choice,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.start_request(choice, envelope, body, timeout)?.wait()
    }

    /// Sends a request, and waits until a reactor has queued it or said why not; not for its
    /// answer.
    ///
    /// # Errors
    ///
    /// [`RequestError::Send`], [`RequestError::TooMany`] when every reactor that could take it has
    /// `requests_max` under way, or [`RequestError::Timeout`] when no reactor has come to it in
    /// time; nothing was queued.
    pub fn start_request<B: Body + ?Sized>(
        &self,
        choice: Choice,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<PendingRequest, RequestError> {
        self.handle.check_may_wait()?;
        let (waiting, deadline) = (Waiting::new(envelope), Nanos::now() + timeout);
        let body = self.handle.own(body, envelope, 0)?;
        let question = Question { waiting, body: &body, timeout, deadline };
        let mut outcome = Err(SendError::NotConnected.into());
        let offered = self.offer(choice, envelope, |pool| {
            match self.handle.ask(Recipient::Member(pool, choice), &question) {
                // Another reactor may take it.
                Err(RequestError::Send(error)) => Err(error),
                Err(error @ RequestError::TooMany { .. }) => {
                    outcome = Err(error);
                    Err(SendError::Busy)
                }
                asked => {
                    outcome = asked;
                    Ok(())
                }
            }
        });
        match (offered, outcome) {
            (Ok(()), outcome) => outcome,
            (Err(_), Err(error @ RequestError::TooMany { .. })) => Err(error),
            (Err(error), _) => Err(error.into()),
        }
    }
}

impl PendingRequest {
    /// The outcome, once there is one, and then no more. Does not block.
    ///
    /// What is told is told at the end of a turn of the reactor.
    pub fn take_response(&mut self) -> Option<Result<Message, RequestError>> {
        if self.is_told {
            return None;
        }
        let outcome = match self.answer.try_recv() {
            Ok(reply) => self.outcome_of(reply),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(ENDED),
        };
        self.is_told = true;
        Some(outcome)
    }

    /// Waits for the outcome.
    ///
    /// Blocks until the request is answered, or its timeout is over; and as long as handlers keep
    /// the reactor from telling (5 s at most: the request is then cancelled).
    ///
    /// # Errors
    ///
    /// [`RequestError`]; [`SendError::InHandler`] at once in a handler of this node.
    pub fn wait(mut self) -> Result<Message, RequestError> {
        self.handle.check_may_wait()?;
        let patience = self.deadline + ANSWER_TIMEOUT;
        let outcome = match self.answer.recv_timeout(patience.since(Nanos::now())) {
            Ok(reply) => self.outcome_of(reply),
            Err(RecvTimeoutError::Timeout) => {
                return Err(SendError::Unresponsive { timeout: ANSWER_TIMEOUT }.into());
            }
            Err(RecvTimeoutError::Disconnected) => Err(ENDED),
        };
        self.is_told = true;
        outcome
    }

    /// Gives the request up, and has the peer told: see
    /// [`Reactor::cancel_request`](crate::Reactor::cancel_request). Does not block; where the
    /// command queue is full the peer answers in vain.
    pub fn cancel(self) {
        drop(self);
    }

    /// What a reactor tells, in the words of whoever asked: to the reactor the timeout was shorter
    /// by the way there.
    fn outcome_of(&self, reply: Reply) -> Result<Message, RequestError> {
        let timeout = self.timeout;
        match reply {
            Reply::Over(Err(RequestError::Timeout { .. })) => {
                Err(RequestError::Timeout { timeout })
            }
            Reply::Over(Err(RequestError::InboxFull { .. })) => {
                Err(RequestError::InboxFull { timeout })
            }
            Reply::Over(outcome) => outcome,
            Reply::Begun => unreachable!("told before this was made"),
        }
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if !self.is_told {
            let command = Command::CancelRequest { number: self.number };
            let _ = self.handle.post_command(self.reactor, command);
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::super::tests::node_without_a_reactor;
    use super::*;

    #[test]
    fn request_of_a_reactor_that_ended_has_an_outcome() {
        let node = node_without_a_reactor();
        let (reply, answer) = bounded(2);
        let mut request = PendingRequest {
            handle: node.handle(),
            reactor: ReactorId::new(0, 0),
            number: 1,
            timeout: Duration::MAX,
            deadline: Nanos::NEVER,
            answer,
            is_told: false,
        };
        assert!(request.take_response().is_none(), "it is under way");
        drop(reply);
        let outcome = request.take_response().expect("nobody will answer");
        assert_eq!(outcome.expect_err("lost"), ENDED);
        assert!(request.take_response().is_none(), "told once");
    }
}

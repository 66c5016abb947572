//! Requests through a [`NodePool`], from any thread.
//!
//! The reactor that has the chosen member makes the request and keeps its time; what comes back is
//! handed to whoever waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};

use super::{ANSWER_TIMEOUT, NodePool};
use crate::error::{CloseReason, RequestError, SendError};
use crate::reactor::command::{Claim, Command, Waiting};
use crate::reactor::errand::{Errand, Reply};
use crate::reactor::pool::command::PoolCommand;
use crate::reactor::{Choice, Message, PoolId};
use crate::session::Envelope;
use crate::time::Nanos;
use crate::wire::Body;

/// What becomes of a request whose reactor has ended, and with it the link.
const ENDED: RequestError = RequestError::ConnectionLost { reason: CloseReason::Local };

/// The number of the next errand of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A request on its way through a [`NodePool`].
///
/// Dropping it forgets the outcome; the request goes on, and its peer answers in vain.
/// [`cancel`](Self::cancel) tells the peer.
#[derive(Debug)]
#[must_use]
pub struct PoolRequest {
    pools: NodePool,
    pool: PoolId,
    number: u64,
    deadline: Nanos,
    answer: Receiver<Reply>,
    /// The outcome has been handed out.
    is_told: bool,
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
    ) -> Result<PoolRequest, RequestError> {
        self.handle.check_may_wait()?;
        let waiting = Waiting::new(envelope);
        let body = self.handle.own(body, envelope, 0)?;
        let deadline = Nanos::now() + timeout;
        let mut outcome = Err(SendError::NotConnected.into());
        let offered = self.offer(choice, envelope, |pool| {
            // ORDERING: Relaxed: only that no two are the same counts.
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let claim = Claim::default();
            // Both replies have room: the reactor never waits.
            let (reply, answer) = bounded(2);
            let (body, claim_of_reactor) = (body.clone(), claim.clone());
            let errand = Errand {
                pool,
                choice,
                waiting,
                body,
                timeout,
                deadline,
                number,
                claim: claim_of_reactor,
                reply,
            };
            let command = Command::Pool(PoolCommand::Request(Box::new(errand)));
            self.handle.post_command(pool.reactor, command)?;
            let begun = match answer.recv_timeout(deadline.since(Nanos::now())) {
                Err(RecvTimeoutError::Timeout) if claim.is_first() => {
                    outcome = Err(RequestError::Timeout { timeout });
                    return Ok(());
                }
                // The reactor was first, and is about to answer.
                Err(RecvTimeoutError::Timeout) => answer.recv_timeout(ANSWER_TIMEOUT),
                begun => begun,
            };
            outcome = match begun {
                Ok(Reply::Begun) => {
                    let pools = self.clone();
                    Ok(PoolRequest { pools, pool, number, deadline, answer, is_told: false })
                }
                // Another reactor may take it.
                Ok(Reply::Over(Err(RequestError::Send(error)))) => return Err(error),
                Ok(Reply::Over(Err(error @ RequestError::TooMany { .. }))) => {
                    outcome = Err(error);
                    return Err(SendError::Busy);
                }
                Ok(Reply::Over(Err(error))) => Err(error),
                Ok(Reply::Over(Ok(_))) => unreachable!("an answer comes after the beginning"),
                Err(_) => Err(SendError::ShutDown.into()),
            };
            Ok(())
        });
        match (offered, outcome) {
            (Ok(()), outcome) => outcome,
            (Err(_), Err(error @ RequestError::TooMany { .. })) => Err(error),
            (Err(error), _) => Err(error.into()),
        }
    }
}

impl PoolRequest {
    /// The outcome, once there is one, and then no more. Does not block.
    ///
    /// What is told is told at the end of a turn of the reactor.
    pub fn take_response(&mut self) -> Option<Result<Message, RequestError>> {
        let outcome = match self.answer.try_recv() {
            Ok(Reply::Over(outcome)) => outcome,
            Ok(Reply::Begun) => unreachable!("told before this was made"),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) if self.is_told => return None,
            Err(TryRecvError::Disconnected) => Err(ENDED),
        };
        self.is_told = true;
        Some(outcome)
    }

    /// Waits for the outcome.
    ///
    /// Blocks until the request is answered, or its timeout is over; and as long as handlers keep
    /// the reactor from telling (5 s at most).
    ///
    /// # Errors
    ///
    /// [`RequestError`]; [`SendError::InHandler`] at once in a handler of this node.
    pub fn wait(self) -> Result<Message, RequestError> {
        self.pools.handle.check_may_wait()?;
        let patience = self.deadline + ANSWER_TIMEOUT;
        match self.answer.recv_timeout(patience.since(Nanos::now())) {
            Ok(Reply::Over(outcome)) => outcome,
            Ok(Reply::Begun) => unreachable!("told before this was made"),
            Err(RecvTimeoutError::Timeout) => {
                Err(SendError::Unresponsive { timeout: ANSWER_TIMEOUT }.into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(ENDED),
        }
    }

    /// Gives the request up, and has the peer told: see
    /// [`Reactor::cancel_request`](crate::Reactor::cancel_request). Does not block; where the
    /// command queue is full the peer answers in vain.
    pub fn cancel(self) {
        let command = PoolCommand::CancelRequest { number: self.number };
        let _ = self.pools.tell(self.pool, command);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::node_without_a_reactor;
    use super::*;

    #[test]
    fn request_of_a_reactor_that_ended_has_an_outcome() {
        let node = node_without_a_reactor();
        let pool = PoolId::of_nobody(0);
        let pools = node.node_pool(vec![pool]);
        let (reply, answer) = bounded(2);
        let deadline = Nanos::NEVER;
        let mut request = PoolRequest { pools, pool, number: 1, deadline, answer, is_told: false };
        assert!(request.take_response().is_none(), "it is under way");
        drop(reply);
        let outcome = request.take_response().expect("nobody will answer");
        assert_eq!(outcome.expect_err("lost"), ENDED);
        assert!(request.take_response().is_none(), "told once");
    }
}

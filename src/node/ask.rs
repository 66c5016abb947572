//! How a thread waits for a reactor's answer to a command, and withdraws what is not answered.

use std::cell::Cell;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::NodeHandle;
use crate::error::SendError;
use crate::reactor::command::{Asker, Claim, Command};
use crate::reactor::connection::ReactorId;
use crate::time::Nanos;

/// How long a handle waits for a reactor's answer before it concludes that a handler blocks it, and
/// withdraws the command.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// One answer on its way back, and the right to withdraw the question until a reactor has begun
/// with it.
#[derive(Debug)]
pub(super) struct Answer<T> {
    claim: Claim,
    receiver: Receiver<T>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Silence {
    /// No reactor had begun in time, and none will: the question is withdrawn.
    Withdrawn,
    /// The reactor has ended.
    Ended,
}

/// What goes with a question, and what its asker keeps. There is room for so many replies: a
/// reactor never waits to answer.
pub(super) fn reply_channel<T>(replies: usize) -> (Asker<T>, Answer<T>) {
    let (reply, receiver) = bounded(replies);
    let claim = Claim::default();
    (Asker { claim: claim.clone(), reply }, Answer { claim, receiver })
}

impl<T> Answer<T> {
    /// Waits for the answer until `deadline`, and withdraws the question then. One that a reactor
    /// has begun with by that time is waited for: it is about to be answered.
    pub(super) fn wait(&self, deadline: Nanos) -> Result<T, Silence> {
        match self.receiver.recv_timeout(deadline.since(Nanos::now())) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) if self.claim.try_claim() => Err(Silence::Withdrawn),
            Err(_) => self.receiver.recv().map_err(|_| Silence::Ended),
        }
    }

    /// Where further replies come.
    pub(super) fn into_receiver(self) -> Receiver<T> {
        self.receiver
    }
}

impl From<Silence> for SendError {
    /// Of a question that was waited for as long as handles do.
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Withdrawn => Self::Unresponsive { timeout: ANSWER_TIMEOUT },
            Silence::Ended => Self::ShutDown,
        }
    }
}

impl NodeHandle {
    /// Has a reactor carry out a command that sends, and waits for its verdict.
    pub(super) fn ask_for_verdict(
        &self,
        reactor: ReactorId,
        command: impl FnOnce(Asker<Verdict>) -> Command,
    ) -> Result<(), SendError> {
        // While the thread ends there is none any more.
        let kept = VERDICTS.try_with(Cell::take).ok().flatten();
        let verdicts = kept.unwrap_or_default();
        let (claim, reply) = (verdicts.answer.claim.clone(), verdicts.reply.clone());
        let asker = Asker { claim, reply };
        let mut outcome = self.post_command(reactor, command(asker));
        if outcome.is_ok() {
            // What was withdrawn still lies in the queue, with this claim: then it is not kept.
            outcome = verdicts.answer.wait(Nanos::now() + ANSWER_TIMEOUT)?;
            verdicts.answer.claim.renew();
        }
        let _ = VERDICTS.try_with(|place| place.set(Some(verdicts)));
        outcome
    }
}

type Verdict = Result<(), SendError>;

/// A thread's way to be told what became of a send.
struct Verdicts {
    reply: Sender<Verdict>,
    answer: Answer<Verdict>,
}

impl Default for Verdicts {
    fn default() -> Self {
        let (Asker { reply, .. }, answer) = reply_channel(1);
        Self { reply, answer }
    }
}

thread_local! {
    /// Kept from call to call: empty and unclaimed, and nobody else can send on it.
    static VERDICTS: Cell<Option<Verdicts>> = const { Cell::new(None) };
}

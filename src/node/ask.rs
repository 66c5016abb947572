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
        let asker = Asker { claim: verdicts.claim.clone(), reply: verdicts.reply.clone() };
        let mut outcome = self.post_command(reactor, command(asker));
        if outcome.is_ok() {
            // What was withdrawn still lies in the queue, with this claim: then it is not kept.
            outcome = wait_for(&verdicts.answer, &verdicts.claim, Nanos::now() + ANSWER_TIMEOUT)?;
            verdicts.claim.renew();
        }
        let _ = VERDICTS.try_with(|place| place.set(Some(verdicts)));
        outcome
    }
}

type Verdict = Result<(), SendError>;

/// A thread's way to be told what became of a send.
struct Verdicts {
    claim: Claim,
    reply: Sender<Verdict>,
    answer: Receiver<Verdict>,
}

impl Default for Verdicts {
    fn default() -> Self {
        let (reply, answer) = bounded(1);
        Self { claim: Claim::default(), reply, answer }
    }
}

thread_local! {
    /// Kept from call to call: empty and unclaimed, and nobody else can send on it.
    static VERDICTS: Cell<Option<Verdicts>> = const { Cell::new(None) };
}

/// Waits for the answer to a command until `deadline`, and withdraws it then.
pub(super) fn wait_for<T>(
    answer: &Receiver<T>,
    claim: &Claim,
    deadline: Nanos,
) -> Result<T, SendError> {
    let answered = match answer.recv_timeout(deadline.since(Nanos::now())) {
        Err(RecvTimeoutError::Timeout) if claim.is_first() => {
            return Err(SendError::Unresponsive { timeout: ANSWER_TIMEOUT });
        }
        // The reactor was first: it is at it.
        Err(RecvTimeoutError::Timeout) => answer.recv().ok(),
        answered => answered.ok(),
    };
    answered.ok_or(SendError::ShutDown)
}

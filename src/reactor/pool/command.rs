//! What other threads ask of the pools of a reactor.

use crossbeam_channel::Sender;

use crate::error::{ConnectError, SendError};
use crate::reactor::command::{Asker, Waiting};
use crate::reactor::core::Core;
use crate::reactor::message::OwnedBody;
use crate::reactor::pool::{Choice, PoolId, PoolPlan, PoolStatistics};
use crate::reactor::{ConnectionInfo, ShutdownReport};
use crate::time::Nanos;

/// One thing to do with a pool for another thread.
#[derive(Debug)]
pub(crate) enum PoolCommand {
    /// Begin one.
    Open { plan: Box<PoolPlan>, asker: Asker<Result<PoolId, ConnectError>> },
    /// Send through one.
    Send {
        pool: PoolId,
        choice: Choice,
        waiting: Waiting,
        body: OwnedBody,
        asker: Option<Asker<Result<(), SendError>>>,
    },
    /// Tell who waits until `until` when it is ready.
    AwaitReady { pool: PoolId, waiter: Sender<()>, until: Nanos },
    /// Its members that are connected.
    Members { pool: PoolId, reply: Sender<Vec<ConnectionInfo>> },
    /// What has happened in it.
    Statistics { pool: PoolId, reply: Sender<Option<PoolStatistics>> },
    /// Part with all members, and tell who waits for that how it went.
    Close { pool: PoolId, deadline: Nanos, asker: Option<Sender<ShutdownReport>> },
}

impl Core {
    /// Carries a command out. A caller that no longer waits for its answer has dropped its end.
    pub(crate) fn run_pool_command(&mut self, command: PoolCommand) {
        match command {
            // What its caller has withdrawn is not carried out.
            PoolCommand::Send { asker: Some(asker), .. } if !asker.claim.try_claim() => {}
            PoolCommand::Open { asker, .. } if !asker.claim.try_claim() => {}
            PoolCommand::Open { plan, asker } => {
                let _ = asker.reply.try_send(self.open_pool(*plan));
            }
            PoolCommand::Send { pool, choice, waiting, body, asker } => {
                let envelope = self.end_wait(waiting);
                let outcome = self.pool_push(pool, choice, envelope, &body).map(drop);
                match asker {
                    Some(asker) => drop(asker.reply.try_send(outcome)),
                    None if outcome.is_err() => self.counters.posts_dropped.add(1),
                    None => {}
                }
            }
            PoolCommand::AwaitReady { pool, waiter, until } => {
                // Without a pool the waiter is dropped, which tells.
                self.await_pool(pool, waiter, until);
            }
            PoolCommand::Members { pool, reply } => {
                let _ = reply.try_send(self.pool_members(pool));
            }
            PoolCommand::Statistics { pool, reply } => {
                let _ = reply.try_send(self.pool_statistics(pool));
            }
            PoolCommand::Close { pool, deadline, asker } => {
                self.close_pool(pool, deadline, true, asker);
            }
        }
    }
}

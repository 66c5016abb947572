//! zmq.rs, the crate `zeromq`: ZeroMQ in Rust on Tokio.
//!
//! REQ/REP for round trips, PUSH/PULL for streams, on a current-thread runtime, because each end
//! has one core; long messages are shared memory, not copies. It has no setting for latency; it
//! sets TCP_NODELAY by itself.

use ::tokio::task::{spawn, yield_now};
use ::zeromq::{
    PullSocket, PushSocket, RepSocket, ReqSocket, Socket, SocketRecv, SocketSend, ZmqMessage,
};
use bytes::Bytes;

use super::pattern::{Addresses, PatternClient, Sockets};
use super::tokio::{LocalTasks, runtime};
use super::{Facts, Ready, Role, Subject};
use crate::drive::Failure;
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Desk, Message, Reply};
use crate::shared::Shared;
use crate::tasks;

const ANY: &str = "tcp://127.0.0.1:0";

pub struct Zeromq;

impl Subject for Zeromq {
    fn facts(&self) -> Facts {
        let name = "zeromq";
        Facts { name, idle: "park", transport: "tcp", package: name, role: Role::Peer }
    }

    fn lacks(&self, _: &Case) -> Option<&'static str> {
        None
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        runtime()?.block_on(async {
            let (mut reply, mut pull) = (RepSocket::new(), PullSocket::new());
            let mut answers = PushSocket::new();
            let addresses = Addresses {
                reply: reply.bind(ANY).await?.to_string(),
                pull: pull.bind(ANY).await?.to_string(),
                answers: answers.bind(ANY).await?.to_string(),
            };
            ready(Ready::at(addresses.join()))?;
            let payload_bytes = job.case.payload_bytes;
            spawn(async move {
                if let Err(error) = receive(pull, answers, payload_bytes).await {
                    eprintln!("the receiver ended: {error}");
                }
            });
            loop {
                let message = reply.recv().await?;
                reply.send(message).await?;
            }
        })
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let connect = async |job: &Job| -> Result<_, Failure> {
            let addresses = Addresses::parse(&job.address)?;
            let streams = job.case.scenario == Scenario::Stream || job.case.bulk;
            let mut request = ReqSocket::new();
            request.connect(&addresses.reply).await?;
            let one_way = if streams {
                let (mut push, mut pull) = (PushSocket::new(), PullSocket::new());
                push.connect(&addresses.pull).await?;
                pull.connect(&addresses.answers).await?;
                Some((push, pull))
            } else {
                None
            };
            Ok(PatternClient(Sides { request, one_way, shared: Shared::default() }))
        };
        runtime()?.block_on(tasks::drive(job, LocalTasks, connect))
    }
}

async fn receive(
    mut pull: PullSocket,
    mut answers: PushSocket,
    payload_bytes: usize,
) -> Result<(), Failure> {
    let mut desk = Desk::new(payload_bytes);
    loop {
        let message = only_part(pull.recv().await?)?;
        if let Reply::Seen(bytes) = desk.take(&message) {
            answers.send(Bytes::copy_from_slice(&bytes).into()).await?;
        }
    }
}

fn only_part(message: ZmqMessage) -> Result<Bytes, Failure> {
    message.into_vecdeque().pop_front().ok_or_else(|| "a message without parts".into())
}

struct Sides {
    request: ReqSocket,
    one_way: Option<(PushSocket, PullSocket)>,
    shared: Shared,
}

impl Sockets for Sides {
    type Received = Bytes;

    async fn request(&mut self, message: &Message) -> Result<Bytes, Failure> {
        self.request.send(self.shared.bytes_of(message).into()).await?;
        only_part(self.request.recv().await?)
    }

    async fn push(&mut self, message: &Message) -> Result<(), Failure> {
        let (push, _) = self.one_way.as_mut().ok_or("no sockets for streams")?;
        Ok(push.send(self.shared.bytes_of(message).into()).await?)
    }

    async fn pull(&mut self) -> Result<Bytes, Failure> {
        let (_, pull) = self.one_way.as_mut().ok_or("no sockets for streams")?;
        only_part(pull.recv().await?)
    }

    async fn let_others_run(&mut self) {
        yield_now().await;
    }
}

//! omq-tokio, a ZeroMQ in Rust: its normal sockets and its exclusive ones.
//!
//! `omq-tokio`: `Socket::new` on the caller's current-thread runtime, which its README has for a
//! socket driver without I/O threads of its own (each end has one core here); REQ/REP, whose
//! default is the latency profile, for round trips, PUSH/PULL, whose default is the throughput
//! profile, for streams. `omq-tokio-exclusive`: `exclusive::Socket` at both ends, "direct-I/O
//! sockets for latency-sensitive callers", which have one peer and no push/pull: REQ/REP for round
//! trips, PAIR for streams, and for bulk beside requests, from a task of its own. Long messages are
//! shared memory, not copies. `omq-tokio-spin`: the blocking sockets of a context with a thread for
//! I/O of its own; who receives spins for 50 us before it sleeps (`recv_spin`), on the core that it
//! shares with that thread unless the run gives an end several.

use std::thread;
use std::time::Duration;

use ::omq_tokio::blocking::Socket as BlockingSocket;
use ::omq_tokio::exclusive::{Options as ExclusiveOptions, Socket as ExclusiveSocket};
use ::omq_tokio::{Context, Message as OmqMessage, Options, Socket, SocketType};
use bytes::Bytes;
use tokio::task::{spawn, spawn_local, yield_now};

use super::pattern::{Addresses, PatternClient, Sockets};
use super::tokio::{LocalTasks, runtime};
use super::{Facts, Ready, Role, Subject, lacks_fan_in};
use crate::drive::{Client, Failure, drive, now_or_never};
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Desk, Message, Reply, Seen, Tag};
use crate::shared::{SHARED_BYTES_MIN, Shared};
use crate::tasks;

const ANY: &str = "tcp://127.0.0.1:0";

/// How long who receives spins: what the library's own tests have.
const SPIN: Duration = Duration::from_micros(50);

struct Normal;
struct Exclusive;
struct Spinning;

pub fn all() -> impl Iterator<Item = Box<dyn Subject>> {
    let all: [Box<dyn Subject>; 3] = [Box::new(Normal), Box::new(Exclusive), Box::new(Spinning)];
    all.into_iter()
}

fn facts(name: &'static str) -> Facts {
    Facts { name, idle: "park", transport: "tcp", package: "omq-tokio", role: Role::Peer }
}

impl Subject for Normal {
    fn facts(&self) -> Facts {
        facts("omq-tokio")
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
            let reply = Socket::new(SocketType::Rep, Options::default());
            let pull = Socket::new(SocketType::Pull, Options::default());
            let answers = Socket::new(SocketType::Push, Options::default());
            let addresses = Addresses {
                reply: reply.bind(ANY).await?.to_string(),
                pull: pull.bind(ANY).await?.to_string(),
                answers: answers.bind(ANY).await?.to_string(),
            };
            ready(Ready::at(addresses.join()))?;
            let payload_bytes = job.case.payload_bytes;
            spawn(async move {
                if let Err(error) = receive(&pull, &answers, payload_bytes).await {
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
            let connect = async |kind, address: &str| -> Result<Socket, Failure> {
                let socket = Socket::new(kind, Options::default());
                socket.connect(address).await?;
                Ok(socket)
            };
            let one_way = if streams {
                let push = connect(SocketType::Push, &addresses.pull).await?;
                Some((push, connect(SocketType::Pull, &addresses.answers).await?))
            } else {
                None
            };
            let request = connect(SocketType::Req, &addresses.reply).await?;
            Ok(PatternClient(Sides { request, one_way, shared: Shared::default() }))
        };
        runtime()?.block_on(tasks::drive(job, LocalTasks, connect))
    }
}

async fn receive(pull: &Socket, answers: &Socket, payload_bytes: usize) -> Result<(), Failure> {
    let mut desk = Desk::new(payload_bytes);
    loop {
        let message = pull.recv().await?;
        if let Reply::Seen(bytes) = desk.take(message.part_slice(0).unwrap_or_default()) {
            answers.send(OmqMessage::from_slice(&bytes)).await?;
        }
    }
}

struct Sides {
    request: Socket,
    one_way: Option<(Socket, Socket)>,
    shared: Shared,
}

/// Short payloads stand in the message itself.
fn omq_message(shared: &mut Shared, message: &Message) -> OmqMessage {
    match message.payload() {
        short if short.len() < SHARED_BYTES_MIN => OmqMessage::from_slice(short),
        _ => OmqMessage::from(shared.bytes_of(message)),
    }
}

/// The only part of a message.
fn only_part(message: &OmqMessage) -> Result<Bytes, Failure> {
    message.part_bytes(0).ok_or_else(|| "a message without parts".into())
}

impl Sockets for Sides {
    type Received = Bytes;

    async fn request(&mut self, message: &Message) -> Result<Bytes, Failure> {
        self.request.send(omq_message(&mut self.shared, message)).await?;
        only_part(&self.request.recv().await?)
    }

    async fn push(&mut self, message: &Message) -> Result<(), Failure> {
        let (push, _) = self.one_way.as_ref().ok_or("no sockets for streams")?;
        Ok(push.send(omq_message(&mut self.shared, message)).await?)
    }

    async fn pull(&mut self) -> Result<Bytes, Failure> {
        let (_, pull) = self.one_way.as_ref().ok_or("no sockets for streams")?;
        only_part(&pull.recv().await?)
    }

    async fn let_others_run(&mut self) {
        yield_now().await;
    }
}

impl Subject for Exclusive {
    fn facts(&self) -> Facts {
        facts("omq-tokio-exclusive")
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        (case.scenario == Scenario::FanIn).then_some("an exclusive socket has one peer")
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        runtime()?.block_on(async {
            let desk = || Desk::new(job.case.payload_bytes);
            let bind = async |kind| -> Result<_, Failure> {
                Ok(ExclusiveSocket::bind(kind, ANY, ExclusiveOptions::default()).await?)
            };
            let (reply, replies_at) = bind(SocketType::Rep).await?;
            let (pair, pairs_at) = bind(SocketType::Pair).await?;
            ready(Ready::at(format!("{replies_at} {pairs_at}")))?;
            let pairs = serve_exclusive(pair, desk());
            spawn_local(async move {
                if let Err(error) = pairs.await {
                    eprintln!("the receiver ended: {error}");
                }
            });
            serve_exclusive(reply, desk()).await
        })
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let connect = async |job: &Job| {
            let is_stream = job.case.scenario == Scenario::Stream;
            let kind = if is_stream { SocketType::Pair } else { SocketType::Req };
            ExclusiveClient::connect(job, kind).await
        };
        let connect_bulk = async |job: &Job| ExclusiveClient::connect(job, SocketType::Pair).await;
        runtime()?.block_on(tasks::drive_beside(job, LocalTasks, connect, connect_bulk))
    }
}

/// Answers the socket's only peer.
async fn serve_exclusive(mut socket: ExclusiveSocket, mut desk: Desk) -> Result<(), Failure> {
    loop {
        let message = socket.recv().await?;
        match desk.take(message.part_slice(0).unwrap_or_default()) {
            Reply::Nothing => {}
            Reply::Echo => socket.send(&message).await?,
            Reply::Seen(bytes) => socket.send(&OmqMessage::from_slice(&bytes)).await?,
        }
    }
}

struct ExclusiveClient {
    socket: ExclusiveSocket,
    shared: Shared,
}

impl ExclusiveClient {
    async fn connect(job: &Job, kind: SocketType) -> Result<Self, Failure> {
        let (replies, pairs) = job.address.split_once(' ').ok_or("two addresses are expected")?;
        let address = if kind == SocketType::Req { replies } else { pairs };
        let options = ExclusiveOptions::default();
        let socket = ExclusiveSocket::connect(kind, address, options).await?;
        Ok(Self { socket, shared: Shared::default() })
    }

    async fn put(&mut self, message: &Message) -> Result<(), Failure> {
        let message = omq_message(&mut self.shared, message);
        Ok(self.socket.send(&message).await?)
    }

    async fn ask_for(&mut self, tag: Tag) -> Result<Seen, Failure> {
        self.put(&Message::short(tag)).await?;
        let answer = self.socket.recv().await?;
        Seen::from_bytes(answer.part_slice(0).unwrap_or_default())
            .ok_or_else(|| "that is no answer".into())
    }
}

impl Client for ExclusiveClient {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        self.put(message).await?;
        Ok(self.socket.recv().await?.part_slice(0) == Some(message.payload()))
    }

    #[inline]
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.put(message).await
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::Ask).await
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.put(message).await
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::AskBulk).await
    }
}

impl Subject for Spinning {
    fn facts(&self) -> Facts {
        Facts { idle: "adaptive", ..facts("omq-tokio-spin") }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        lacks_fan_in(case)
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let context = Context::new();
        let bind = |kind| -> Result<(BlockingSocket, String), Failure> {
            let socket = spinning(&context, kind);
            let address = socket.bind(ANY)?.to_string();
            Ok((socket, address))
        };
        let ((reply, reply_at), (pull, pull_at)) =
            (bind(SocketType::Rep)?, bind(SocketType::Pull)?);
        let (answers, answers_at) = bind(SocketType::Push)?;
        let addresses = Addresses { reply: reply_at, pull: pull_at, answers: answers_at };
        ready(Ready::at(addresses.join()))?;
        let mut desk = Desk::new(job.case.payload_bytes);
        thread::spawn(move || -> Result<(), Failure> {
            loop {
                let message = pull.recv()?;
                if let Reply::Seen(bytes) = desk.take(message.part_slice(0).unwrap_or_default()) {
                    answers.send(OmqMessage::from_slice(&bytes))?;
                }
            }
        });
        loop {
            let message = reply.recv()?;
            reply.send(message)?;
        }
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let context = Context::new();
        let connect = async |job: &Job| -> Result<_, Failure> {
            let addresses = Addresses::parse(&job.address)?;
            let streams = job.case.scenario == Scenario::Stream || job.case.bulk;
            let connect = |kind, address: &str| -> Result<BlockingSocket, Failure> {
                let socket = spinning(&context, kind);
                socket.connect(address)?;
                Ok(socket)
            };
            let one_way = if streams {
                let push = connect(SocketType::Push, &addresses.pull)?;
                Some((push, connect(SocketType::Pull, &addresses.answers)?))
            } else {
                None
            };
            let request = connect(SocketType::Req, &addresses.reply)?;
            Ok(PatternClient(BlockingSides { request, one_way, shared: Shared::default() }))
        };
        now_or_never(drive(job, connect))
    }
}

fn spinning(context: &Context, kind: SocketType) -> BlockingSocket {
    context.blocking_socket(kind, Options::default().recv_spin(SPIN))
}

struct BlockingSides {
    request: BlockingSocket,
    one_way: Option<(BlockingSocket, BlockingSocket)>,
    shared: Shared,
}

impl Sockets for BlockingSides {
    type Received = Bytes;

    async fn request(&mut self, message: &Message) -> Result<Bytes, Failure> {
        self.request.send(omq_message(&mut self.shared, message))?;
        only_part(&self.request.recv()?)
    }

    async fn push(&mut self, message: &Message) -> Result<(), Failure> {
        let (push, _) = self.one_way.as_ref().ok_or("no sockets for streams")?;
        Ok(push.send(omq_message(&mut self.shared, message))?)
    }

    async fn pull(&mut self) -> Result<Bytes, Failure> {
        let (_, pull) = self.one_way.as_ref().ok_or("no sockets for streams")?;
        only_part(&pull.recv()?)
    }
}

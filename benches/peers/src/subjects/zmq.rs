//! libzmq through the `zmq` crate: what most users of ZeroMQ have.
//!
//! REQ/REP for round trips, as in libzmq's own latency test, PUSH/PULL for streams, as in its
//! throughput test; one I/O thread, which is the default and its guide's advice below a gigabyte a
//! second. libzmq sets TCP_NODELAY by itself. An end's I/O thread shares its core with the
//! application's thread unless the run gives it several. High-water marks are the default's 1,000
//! messages. Fan-in waits for its sockets with zmq_poll.

use std::thread;

use ::zmq::{Context, Message as ZmqMessage, POLLIN, PollItem, REP, REQ, Socket};

use super::pattern::{Addresses, PatternClient, Sockets};
use super::{Facts, Ready, Role, Subject, fan_in};
use crate::drive::{Failure, drive, now_or_never};
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Desk, Message, Reply};

pub struct Libzmq;

impl Subject for Libzmq {
    fn facts(&self) -> Facts {
        let name = "libzmq";
        Facts { name, idle: "park", transport: "tcp", package: "zmq", role: Role::Peer }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        // The crate has no way to raise ZMQ_MAX_SOCKETS, which is 1,023.
        (case.connections > 1_000).then_some("1,000 sockets a context at most")
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let context = Context::new();
        let reply = bind(&context, REP)?;
        let pull = bind(&context, ::zmq::PULL)?;
        let answers = bind(&context, ::zmq::PUSH)?;
        let addresses = Addresses {
            reply: address_of(&reply)?,
            pull: address_of(&pull)?,
            answers: address_of(&answers)?,
        };
        let (major, minor, patch) = ::zmq::version();
        let version = Some(format!("libzmq {major}.{minor}.{patch}"));
        ready(Ready { address: addresses.join(), version })?;
        let payload_bytes = job.case.payload_bytes;
        thread::spawn(move || {
            if let Err(error) = receive(&pull, &answers, payload_bytes) {
                eprintln!("the receiver ended: {error}");
            }
        });
        loop {
            let message = reply.recv_msg(0)?;
            reply.send(message, 0)?;
        }
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        // One context for all sockets of a process, as the guide has it.
        if job.case.scenario == Scenario::FanIn {
            return fan_in::drive::<Crowd>(job);
        }
        let context = Context::new();
        let connect = async |job: &Job| -> Result<_, Failure> {
            let addresses = Addresses::parse(&job.address)?;
            let streams = job.case.scenario == Scenario::Stream || job.case.bulk;
            let connect = |kind, address: &str| -> Result<Socket, Failure> {
                let socket = context.socket(kind)?;
                socket.set_linger(0)?;
                socket.connect(address)?;
                Ok(socket)
            };
            let one_way = if streams {
                let push = connect(::zmq::PUSH, &addresses.pull)?;
                Some((push, connect(::zmq::PULL, &addresses.answers)?))
            } else {
                None
            };
            Ok(PatternClient(Zmq { request: connect(REQ, &addresses.reply)?, one_way }))
        };
        now_or_never(drive(job, connect))
    }
}

fn bind(context: &Context, kind: ::zmq::SocketType) -> Result<Socket, Failure> {
    let socket = context.socket(kind)?;
    socket.set_linger(0)?;
    socket.set_backlog(4096)?;
    socket.bind("tcp://127.0.0.1:*")?;
    Ok(socket)
}

fn address_of(socket: &Socket) -> Result<String, Failure> {
    socket.get_last_endpoint()?.map_err(|_| "an address that is no text".into())
}

fn receive(pull: &Socket, answers: &Socket, payload_bytes: usize) -> Result<(), Failure> {
    let mut desk = Desk::new(payload_bytes);
    let mut message = ZmqMessage::new();
    loop {
        pull.recv(&mut message, 0)?;
        if let Reply::Seen(bytes) = desk.take(&message) {
            answers.send(&bytes[..], 0)?;
        }
    }
}

struct Zmq {
    request: Socket,
    one_way: Option<(Socket, Socket)>,
}

/// `zmq::Message` has no `AsRef`.
struct Received(ZmqMessage);

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Sockets for Zmq {
    type Received = Received;

    async fn request(&mut self, message: &Message) -> Result<Received, Failure> {
        self.request.send(message.payload(), 0)?;
        Ok(Received(self.request.recv_msg(0)?))
    }

    async fn push(&mut self, message: &Message) -> Result<(), Failure> {
        let (push, _) = self.one_way.as_ref().ok_or("no sockets for streams")?;
        Ok(push.send(message.payload(), 0)?)
    }

    async fn pull(&mut self) -> Result<Received, Failure> {
        let (_, pull) = self.one_way.as_ref().ok_or("no sockets for streams")?;
        Ok(Received(pull.recv_msg(0)?))
    }
}

/// Many REQ sockets.
struct Crowd {
    /// Keeps the I/O thread.
    _context: Context,
    sockets: Vec<Socket>,
}

impl fan_in::Many for Crowd {
    fn connect(job: &Job) -> Result<Self, Failure> {
        let context = Context::new();
        let addresses = Addresses::parse(&job.address)?;
        let open = |_| -> Result<Socket, Failure> {
            let socket = context.socket(REQ)?;
            socket.set_linger(0)?;
            socket.connect(&addresses.reply)?;
            Ok(socket)
        };
        let sockets = (0..job.case.connections).map(open).collect::<Result<_, _>>()?;
        Ok(Self { _context: context, sockets })
    }

    fn send(&mut self, index: usize, message: &Message) -> Result<(), Failure> {
        Ok(self.sockets[index].send(message.payload(), 0)?)
    }

    fn wait(&mut self, ready: &mut Vec<usize>) -> Result<(), Failure> {
        let mut items: Vec<PollItem<'_>> =
            self.sockets.iter().map(|socket| socket.as_poll_item(POLLIN)).collect();
        ::zmq::poll(&mut items, -1)?;
        ready.extend((0..items.len()).filter(|&index| items[index].is_readable()));
        Ok(())
    }

    fn receive(&mut self, index: usize, message: &Message) -> Result<Option<bool>, Failure> {
        let answer = self.sockets[index].recv_msg(0)?;
        Ok(Some(*answer == *message.payload()))
    }
}

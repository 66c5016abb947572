//! nng through the `nng` crate, built from its sources.
//!
//! REQ/REP for round trips, PUSH/PULL for streams, with the library's own threads, which share an
//! end's core with the application's thread unless the run gives it several. nng sets TCP_NODELAY
//! by itself. Its blocking calls are used, one connection a thread, and who pushes has a queue.
//! Its manual names latency once, nng_tcp_options(5): NNG_OPT_TCP_NODELAY, on by default, and left
//! so. nng_recv(3) advises to receive without a copy and to answer with the same buffer: the crate
//! and the server do that.

use std::ffi::CStr;
use std::thread;

use ::nng::options::{Options, SendBufferSize};
use ::nng::{Message as NngMessage, Protocol, Socket};

use super::pattern::{Addresses, PatternClient, Sockets};
use super::{Facts, Ready, Role, Subject, free_port, lacks_fan_in};
use crate::drive::{Failure, drive, now_or_never};
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Desk, Message, Reply};

/// Messages that may wait to be written, where a stream is one way: as many as libzmq has.
const QUEUE: i32 = 1000;

pub struct Nng;

impl Subject for Nng {
    fn facts(&self) -> Facts {
        Facts { name: "nng", idle: "park", transport: "tcp", package: "nng", role: Role::Peer }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        lacks_fan_in(case)
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (reply, reply_address) = listen(Protocol::Rep0)?;
        let (pull, pull_address) = listen(Protocol::Pull0)?;
        let (answers, answers_address) = listen(Protocol::Push0)?;
        let addresses =
            Addresses { reply: reply_address, pull: pull_address, answers: answers_address };
        ready(Ready { address: addresses.join(), version: Some(version()) })?;
        let payload_bytes = job.case.payload_bytes;
        thread::spawn(move || {
            if let Err(error) = receive(&pull, &answers, payload_bytes) {
                eprintln!("the receiver ended: {error}");
            }
        });
        loop {
            let message = reply.recv()?;
            reply.send(message).map_err(|(_, error)| error)?;
        }
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let connect = async |job: &Job| -> Result<_, Failure> {
            let addresses = Addresses::parse(&job.address)?;
            let streams = job.case.scenario == Scenario::Stream || job.case.bulk;
            let dial = |protocol, address: &str| -> Result<Socket, Failure> {
                let socket = Socket::new(protocol)?;
                socket.dial(address)?;
                Ok(socket)
            };
            let one_way = if streams {
                let push = dial(Protocol::Push0, &addresses.pull)?;
                // By itself it has none: each send would wait until the one before is written.
                push.set_opt::<SendBufferSize>(QUEUE)?;
                Some((push, dial(Protocol::Pull0, &addresses.answers)?))
            } else {
                None
            };
            Ok(PatternClient(Sides { request: dial(Protocol::Req0, &addresses.reply)?, one_way }))
        };
        now_or_never(drive(job, connect))
    }
}

/// What the C library says of itself: the crate has another version.
fn version() -> String {
    // SAFETY: nng_version(3): it takes nothing and returns a string that is part of the library.
    let text = unsafe { ::nng::ffi::nng_version() };
    // SAFETY: the same page: that string ends with a zero and never changes.
    let text = unsafe { CStr::from_ptr(text) };
    format!("nng {}", text.to_string_lossy())
}

fn listen(protocol: Protocol) -> Result<(Socket, String), Failure> {
    let socket = Socket::new(protocol)?;
    let address = format!("tcp://127.0.0.1:{}", free_port()?);
    socket.listen(&address)?;
    Ok((socket, address))
}

fn receive(pull: &Socket, answers: &Socket, payload_bytes: usize) -> Result<(), Failure> {
    let mut desk = Desk::new(payload_bytes);
    loop {
        let message = pull.recv()?;
        if let Reply::Seen(bytes) = desk.take(&message) {
            answers.send(&bytes[..]).map_err(|(_, error)| error)?;
        }
    }
}

struct Sides {
    request: Socket,
    one_way: Option<(Socket, Socket)>,
}

/// A received message.
struct Received(NngMessage);

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl Sockets for Sides {
    type Received = Received;

    async fn request(&mut self, message: &Message) -> Result<Received, Failure> {
        self.request.send(message.payload()).map_err(|(_, error)| error)?;
        Ok(Received(self.request.recv()?))
    }

    async fn push(&mut self, message: &Message) -> Result<(), Failure> {
        let (push, _) = self.one_way.as_ref().ok_or("no sockets for streams")?;
        Ok(push.send(message.payload()).map_err(|(_, error)| error)?)
    }

    async fn pull(&mut self) -> Result<Received, Failure> {
        let (_, pull) = self.one_way.as_ref().ok_or("no sockets for streams")?;
        Ok(Received(pull.recv()?))
    }
}

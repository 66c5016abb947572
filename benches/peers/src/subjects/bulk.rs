//! Bulk TCP, the floor of long streams: bytes without messages.
//!
//! The sender writes plain bytes, many at a time; the receiver reads as many as there are into one
//! large buffer, counts them, and looks at none. What it calls a frame is as many bytes as a
//! payload has. With the system's socket settings, which all subjects but Ringwire have, nobody can
//! move messages over TCP for less. `raw-bulk` sleeps in send(2) and recv(2), `raw-bulk-spin` calls
//! them on non-blocking sockets until they do something.
//!
//! As the bytes say nothing, the question how many have arrived has a connection of its own. It
//! names the count that was sent, and is answered once that many have been received. Who sleeps for
//! bytes has another thread for questions; who spins looks for one while there are no bytes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::raw::{Link, Pipe, Wait, accept_one, connect, listen};
use super::{Facts, Ready, Role, Subject};
use crate::drive::{Client, Failure, drive, now_or_never};
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Message, Seen};
use crate::run::BULK_PAYLOAD_BYTES_MIN;

/// Bytes written at once. As many are gathered, without copying anything; writes of 64 KiB are
/// slower by a third.
const WRITE_BYTES: usize = 256 << 10;
/// How much further in its page each write and each read starts than the last one. With one place
/// for all of them every copy of a round would stand alike to its source, and on some processors be
/// slow for that (`src/cli/bench/raw.rs` of ringwire). Messages move along by themselves.
const STEP_BYTES: usize = 32;
const PAGE_BYTES: usize = 4096;
/// Bytes read at once. Who spins does not care, and who sleeps sleeps more often with more of them.
const READ_BYTES: usize = 64 << 10;
/// No question is open.
const NOTHING: u64 = u64::MAX;

struct RawBulk {
    name: &'static str,
    wait: Wait,
}

pub fn all() -> impl Iterator<Item = Box<dyn Subject>> {
    let bulk = |name, wait| Box::new(RawBulk { name, wait }) as Box<dyn Subject>;
    [bulk("raw-bulk", Wait::Block), bulk("raw-bulk-spin", Wait::Spin)].into_iter()
}

/// What both threads of the server know of a client's bytes.
#[derive(Debug)]
struct Tally {
    received: AtomicU64,
    /// The count a client has asked for, [`NOTHING`] when it has been answered.
    asked: AtomicU64,
}

struct BulkClient {
    data: Link,
    questions: TcpStream,
    bytes: Vec<u8>,
    /// Where the next write starts.
    start: usize,
    payload_bytes: usize,
    /// Handed over and not written yet.
    gathered: usize,
    written: u64,
    /// As of the last answer.
    counted: u64,
}

impl Subject for RawBulk {
    fn facts(&self) -> Facts {
        let idle = if self.wait == Wait::Spin { "spin" } else { "park" };
        Facts { name: self.name, idle, transport: "tcp", package: "", role: Role::Floor }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        let is_long = case.payload_bytes >= BULK_PAYLOAD_BYTES_MIN;
        (case.scenario != Scenario::Stream || !is_long)
            .then_some("bytes without messages, the floor of streams of 64 KiB and more")
    }

    fn serve(
        &self,
        _: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (listener, address) = listen("tcp")?;
        ready(Ready::at(address))?;
        let accept = || loop {
            if let Some(socket) = accept_one(listener.as_fd())? {
                return Ok::<_, Failure>(socket);
            }
        };
        // The client makes them in this order.
        let (data, questions) = (accept()?, TcpStream::from(accept()?));
        let tally = Arc::new(Tally { received: AtomicU64::new(0), asked: AtomicU64::new(NOTHING) });
        if self.wait == Wait::Spin {
            fcntl_setfl(&data, OFlags::NONBLOCK)?;
            return receive(&data, &questions, &tally);
        }
        let (counting, answers) = (tally.clone(), questions.try_clone()?);
        let receiver = thread::spawn(move || receive(&data, &answers, &counting));
        while look_for_question(&questions, RecvFlags::empty(), &tally)? {}
        receiver.join().map_err(|_| "the receiving thread has panicked")?
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let connect = async |job: &Job| -> Result<_, Failure> {
            let payload_bytes = job.case.payload_bytes;
            Ok(BulkClient {
                data: Link::new(connect(&job.address)?, self.wait)?,
                questions: connect(&job.address)?.into(),
                bytes: vec![0x5a; PAGE_BYTES + WRITE_BYTES],
                start: 0,
                payload_bytes,
                gathered: 0,
                written: 0,
                counted: 0,
            })
        };
        now_or_never(drive(job, connect))
    }
}

impl BulkClient {
    /// Writes while there is more than `rest`.
    fn write_to(&mut self, rest: usize) -> Result<(), Failure> {
        while self.gathered > rest {
            let bytes = self.gathered.min(WRITE_BYTES);
            self.data.write_all(&self.bytes[self.start..self.start + bytes])?;
            self.start = (self.start + STEP_BYTES) % PAGE_BYTES;
            self.written += bytes as u64;
            self.gathered -= bytes;
        }
        Ok(())
    }
}

impl Client for BulkClient {
    async fn echo(&mut self, _: &mut Message) -> Result<bool, Failure> {
        Err("bytes go one way".into())
    }

    #[inline]
    async fn send(&mut self, _: &mut Message) -> Result<(), Failure> {
        self.gathered += self.payload_bytes;
        self.write_to(WRITE_BYTES - 1)
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.write_to(0)?;
        self.questions.write_all(&self.written.to_le_bytes())?;
        let mut answer = [0; 8];
        self.questions.read_exact(&mut answer)?;
        let received = u64::from_le_bytes(answer);
        let bytes = received - self.counted;
        self.counted = received;
        let payload_bytes = self.payload_bytes as u64;
        // More than was sent, or a part of a payload, is not what was sent.
        Ok(Seen { frames: bytes / payload_bytes, errors: bytes % payload_bytes })
    }
}

/// Counts until the client has closed. Without bytes, a spinning one looks for a question.
fn receive(data: &OwnedFd, questions: &TcpStream, tally: &Tally) -> Result<(), Failure> {
    let mut buffer = vec![0; PAGE_BYTES + READ_BYTES];
    let mut start = 0;
    loop {
        match recv(data, &mut buffer[start..start + READ_BYTES], RecvFlags::empty()) {
            Ok((0, _)) => return Ok(()),
            Ok((bytes, _)) => {
                start = (start + STEP_BYTES) % PAGE_BYTES;
                // ORDERING: each side writes one of the two counts and then reads the other one: in
                // a single order of all four, at least one of them sees both.
                tally.received.fetch_add(bytes as u64, Ordering::SeqCst);
                tally.answer_if_reached(questions)?;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => _ = look_for_question(questions, RecvFlags::DONTWAIT, tally)?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes a question, when there is one, or waits for it. False when no more will come.
fn look_for_question(
    questions: &TcpStream,
    flags: RecvFlags,
    tally: &Tally,
) -> Result<bool, Failure> {
    let mut asked = [0; 8];
    match recv(questions, &mut asked[..], flags) {
        Ok((0, _)) | Err(Errno::CONNRESET) => Ok(false),
        Ok((8, _)) => {
            // ORDERING: as in `receive`.
            tally.asked.store(u64::from_le_bytes(asked), Ordering::SeqCst);
            tally.answer_if_reached(questions)?;
            Ok(true)
        }
        Ok(_) => Err("a question has come in pieces".into()),
        Err(Errno::AGAIN | Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

impl Tally {
    fn answer_if_reached(&self, mut answers: &TcpStream) -> Result<(), Failure> {
        // ORDERING: as in `receive`. Whoever takes the question out answers it: never twice.
        let asked = self.asked.load(Ordering::SeqCst);
        let received = self.received.load(Ordering::SeqCst);
        let order = Ordering::SeqCst;
        if asked != NOTHING
            && received >= asked
            && self.asked.compare_exchange(asked, NOTHING, order, order).is_ok()
        {
            answers.write_all(&received.to_le_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let one = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        (one, listener.accept().expect("is there").0)
    }

    /// Whoever comes last, the question or the bytes, answers; and only one of them.
    #[test]
    fn question_is_answered_once_the_bytes_are_there() {
        let tally = Tally { received: AtomicU64::new(0), asked: AtomicU64::new(NOTHING) };
        let (answers, mut told) = pair();
        let said = |told: &mut TcpStream| {
            told.set_nonblocking(true).expect("a socket");
            let mut answer = [0; 8];
            let read = told.read_exact(&mut answer);
            read.is_ok().then(|| u64::from_le_bytes(answer))
        };
        tally.answer_if_reached(&answers).expect("nothing to do");
        tally.received.store(99, Ordering::SeqCst);
        tally.asked.store(100, Ordering::SeqCst);
        tally.answer_if_reached(&answers).expect("nothing to do");
        assert_eq!(said(&mut told), None, "not all of it is there");
        tally.received.store(100, Ordering::SeqCst);
        for _ in 0..2 {
            tally.answer_if_reached(&answers).expect("answers");
        }
        told.set_nonblocking(false).expect("a socket");
        let mut answer = [0; 8];
        told.read_exact(&mut answer).expect("an answer");
        assert_eq!(u64::from_le_bytes(answer), 100);
        assert_eq!(said(&mut told), None, "once");
    }

    #[test]
    fn only_long_streams_have_this_floor() {
        let case = |scenario, payload_bytes| Case {
            scenario,
            payload_bytes,
            connections: 1,
            rate_hz: 0,
            bulk: false,
        };
        let bulk = RawBulk { name: "raw-bulk", wait: Wait::Block };
        assert_eq!(bulk.lacks(&case(Scenario::Stream, 64 << 10)), None);
        for other in [case(Scenario::Stream, 4096), case(Scenario::Rtt, 64 << 10)] {
            assert!(bulk.lacks(&other).is_some_and(|why| why.contains("64 KiB and more")));
        }
    }
}

//! Bulk TCP, the floor of long streams: bytes without messages.
//!
//! Blocking sockets. The sender writes plain bytes, many at a time; the receiver reads as many as
//! there are into one large buffer, counts them, and looks at none. What it calls a frame is as many
//! bytes as a payload has. Nobody can move messages over TCP for less.
//!
//! As the bytes say nothing, the question how many have arrived has a connection of its own. It
//! names the count that was sent, and is answered once that many have been received.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::raw::{accept_one, connect, listen};
use super::{Facts, Ready, Role, Subject};
use crate::drive::{Client, Failure, drive, now_or_never};
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Message, Seen};
use crate::run::BULK_PAYLOAD_BYTES_MIN;

/// Bytes written and read at once, at least where the payload has a part of that: as many are
/// gathered, without copying anything.
const CHUNK_BYTES: usize = 256 << 10;
/// No question is open.
const NOTHING: u64 = u64::MAX;

pub struct RawBulk;

/// What both threads of the server know of a client's bytes.
#[derive(Debug)]
struct Tally {
    received: AtomicU64,
    /// The count a client has asked for, [`NOTHING`] when it has been answered.
    asked: AtomicU64,
}

struct BulkClient {
    data: TcpStream,
    questions: TcpStream,
    bytes: Vec<u8>,
    payload_bytes: usize,
    /// Handed over and not written yet.
    gathered: usize,
    written: u64,
    /// As of the last answer.
    counted: u64,
}

impl Subject for RawBulk {
    fn facts(&self) -> Facts {
        Facts { name: "raw-bulk", idle: "park", transport: "tcp", package: "", role: Role::Floor }
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
                return Ok::<_, Failure>(TcpStream::from(socket));
            }
        };
        // The client makes them in this order.
        let (data, questions) = (accept()?, accept()?);
        let tally = Arc::new(Tally { received: AtomicU64::new(0), asked: AtomicU64::new(NOTHING) });
        let (counting, answers) = (tally.clone(), questions.try_clone()?);
        let receiver = thread::spawn(move || receive(data, answers, &counting));
        listen_to_questions(questions, &tally)?;
        receiver.join().map_err(|_| "the receiving thread has panicked")?
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let connect = async |job: &Job| -> Result<_, Failure> {
            let payload_bytes = job.case.payload_bytes;
            Ok(BulkClient {
                data: connect(&job.address)?.into(),
                questions: connect(&job.address)?.into(),
                bytes: vec![0x5a; CHUNK_BYTES.max(payload_bytes) + payload_bytes],
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
    fn flush(&mut self) -> Result<(), Failure> {
        self.data.write_all(&self.bytes[..self.gathered])?;
        self.written += self.gathered as u64;
        self.gathered = 0;
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
        if self.gathered >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.flush()?;
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

/// Counts until the client has closed.
fn receive(mut data: TcpStream, mut answers: TcpStream, tally: &Tally) -> Result<(), Failure> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let bytes = data.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        // ORDERING: both threads write one of the two counts and then read the other one: in a
        // single order of all four, at least one of them sees both.
        tally.received.fetch_add(bytes as u64, Ordering::SeqCst);
        tally.answer_if_reached(&mut answers)?;
    }
}

fn listen_to_questions(mut questions: TcpStream, tally: &Tally) -> Result<(), Failure> {
    let mut asked = [0; 8];
    while questions.read_exact(&mut asked).is_ok() {
        // ORDERING: as in `receive`.
        tally.asked.store(u64::from_le_bytes(asked), Ordering::SeqCst);
        tally.answer_if_reached(&mut questions)?;
    }
    Ok(())
}

impl Tally {
    fn answer_if_reached(&self, answers: &mut TcpStream) -> Result<(), Failure> {
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
        let (mut answers, mut told) = pair();
        let said = |told: &mut TcpStream| {
            told.set_nonblocking(true).expect("a socket");
            let mut answer = [0; 8];
            let read = told.read_exact(&mut answer);
            read.is_ok().then(|| u64::from_le_bytes(answer))
        };
        tally.answer_if_reached(&mut answers).expect("nothing to do");
        tally.received.store(99, Ordering::SeqCst);
        tally.asked.store(100, Ordering::SeqCst);
        tally.answer_if_reached(&mut answers).expect("nothing to do");
        assert_eq!(said(&mut told), None, "not all of it is there");
        tally.received.store(100, Ordering::SeqCst);
        for _ in 0..2 {
            tally.answer_if_reached(&mut answers).expect("answers");
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
        assert_eq!(RawBulk.lacks(&case(Scenario::Stream, 64 << 10)), None);
        for other in [case(Scenario::Stream, 4096), case(Scenario::Rtt, 64 << 10)] {
            assert!(RawBulk.lacks(&other).is_some_and(|why| why.contains("64 KiB and more")));
        }
    }
}

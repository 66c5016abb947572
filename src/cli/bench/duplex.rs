//! The floor of paced and mixed: requests on one socket, and the stream beside them on another.
//!
//! Each end is one thread that goes round its sockets without ever blocking on one of them:
//! spinning, or asleep in poll(2) until one is ready or a request is due. The stream goes out in
//! pieces, so that a request waits for one of them at most: what an application without a transport
//! can do at its best.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ringwire::config::Idle;
use ringwire::time::Nanos;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::crowd::attempt;
use super::harness::{SubjectError, WAIT_MAX};
use super::link::{Link, read, with_server, write};
use super::paced::{Load, Runner, measure};
use super::plan::{Bulk, Case, Plan};
use super::round::{Calls, Round};
use super::socket::{SEQUENCE, request};

/// Bytes of the stream written at once.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of the stream read at once.
const ROOM_BYTES: usize = 256 << 10;

/// How an end waits when nothing moves.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    idle: Idle,
    spin_ns: u128,
    /// When something last came or went.
    moved: Nanos,
}

/// The client's end.
struct Client {
    critical: TcpStream,
    bulk: Option<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
    filled: usize,
    piece: Vec<u8>,
    waiting: Waiting,
    load: Load,
    arrived: Arc<AtomicU64>,
}

/// The server's end.
struct Server {
    critical: TcpStream,
    bulk: Option<TcpStream>,
    frame: Vec<u8>,
    filled: usize,
    room: Vec<u8>,
    waiting: Waiting,
    arrived: Arc<AtomicU64>,
}

pub(super) fn round(plan: &Plan) -> Result<Round, SubjectError> {
    let count = if plan.case.bulk == Bulk::Nothing { 1 } else { 2 };
    let two = Plan { case: Case { connections: count, ..plan.case }, ..plan.clone() };
    let arrived = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&arrived);
    with_server(
        &two,
        |links| {
            let (critical, bulk) = sockets(links)?;
            let frame = vec![0; plan.case.frame_bytes()];
            let waiting = Waiting::new(plan);
            let room = vec![0; ROOM_BYTES];
            Server { critical, bulk, frame, filled: 0, room, waiting, arrived: seen }.serve()
        },
        |links| {
            let (critical, bulk) = sockets(links).map_err(SubjectError::io("set up sockets"))?;
            let request = request(plan.case.payload_bytes);
            let mut client = Client {
                critical,
                bulk,
                answer: vec![0; request.len()],
                request,
                filled: 0,
                piece: vec![0x5a; PIECE_BYTES],
                waiting: Waiting::new(plan),
                load: Load::new(plan),
                arrived,
            };
            measure(plan, &mut client)
        },
    )
}

/// The socket of the requests and that of the stream.
fn sockets(links: Vec<Link>) -> io::Result<(TcpStream, Option<TcpStream>)> {
    let mut links = links.into_iter();
    let critical = links.next().expect("at least one connection").into_nonblocking()?;
    Ok((critical, links.next().map(Link::into_nonblocking).transpose()?))
}

impl Client {
    fn turn(&mut self) -> io::Result<bool> {
        let now = Nanos::now();
        let mut has_moved = false;
        while self.load.due() <= now {
            stamp(&mut self.request, self.load.next().1);
            self.load.send(now);
            write_whole(&self.critical, &self.request)?;
            has_moved = true;
        }
        if self.load.is_done() {
            return Ok(true);
        }
        has_moved |= self.receive()?;
        if let Some(bulk) = &self.bulk {
            has_moved |= attempt(write(bulk, &self.piece))?.is_some();
        }
        if has_moved {
            self.waiting.moved = now;
        } else {
            let due = self.load.due();
            self.waiting.wait(now, due, &self.critical, self.bulk.as_ref(), PollFlags::OUT)?;
        }
        if self.load.is_silent(now) {
            return Err(silent());
        }
        Ok(false)
    }

    /// Takes what has come of the answers. Returns whether that was anything.
    fn receive(&mut self) -> io::Result<bool> {
        let Some(bytes) = attempt(read(&self.critical, &mut self.answer[self.filled..]))? else {
            return Ok(false);
        };
        if bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.filled += bytes;
        if self.filled == self.answer.len() {
            self.filled = 0;
            stamp(&mut self.request, self.load.next().0);
            let is_right = self.answer == self.request;
            self.load.answer(Nanos::now(), is_right);
        }
        Ok(true)
    }
}

impl Runner for Client {
    fn run(&mut self) -> Result<(), SubjectError> {
        while !self.turn().map_err(SubjectError::io("round trip"))? {}
        Ok(())
    }

    fn with_load<R>(&mut self, take: impl FnOnce(&mut Load) -> R) -> R {
        take(&mut self.load)
    }

    fn calls(&self) -> Option<Calls> {
        None
    }

    fn bulk_bytes(&self) -> u64 {
        // ORDERING: Relaxed: a count alone.
        self.arrived.load(Relaxed)
    }
}

impl Server {
    /// Echoes requests and swallows the stream, until the client closes.
    fn serve(mut self) -> io::Result<()> {
        while let Some(has_moved) = self.turn()? {
            let now = Nanos::now();
            if has_moved {
                self.waiting.moved = now;
            } else {
                let bulk = self.bulk.as_ref();
                self.waiting.wait(now, Nanos::NEVER, &self.critical, bulk, PollFlags::IN)?;
            }
        }
        Ok(())
    }

    /// `None` when the client has closed.
    fn turn(&mut self) -> io::Result<Option<bool>> {
        let mut has_moved = false;
        if let Some(bytes) = attempt(read(&self.critical, &mut self.frame[self.filled..]))? {
            if bytes == 0 {
                return Ok(None);
            }
            self.filled += bytes;
            if self.filled == self.frame.len() {
                self.filled = 0;
                write_whole(&self.critical, &self.frame)?;
            }
            has_moved = true;
        }
        if let Some(bulk) = &self.bulk
            && let Some(bytes) = attempt(read(bulk, &mut self.room))?
        {
            if bytes == 0 {
                self.bulk = None;
            }
            // ORDERING: Relaxed: one writer, and a reader that wants a count alone.
            self.arrived.store(self.arrived.load(Relaxed) + bytes as u64, Relaxed);
            has_moved = true;
        }
        Ok(Some(has_moved))
    }
}

impl Waiting {
    fn new(plan: &Plan) -> Self {
        Self { idle: plan.case.idle, spin_ns: plan.spin.as_nanos(), moved: Nanos::now() }
    }

    /// Sleeps until a socket is ready or `due`, when it is time to sleep.
    fn wait(
        &self,
        now: Nanos,
        due: Nanos,
        critical: &TcpStream,
        bulk: Option<&TcpStream>,
        bulk_readiness: PollFlags,
    ) -> io::Result<()> {
        let has_rested = now.since(self.moved).as_nanos() >= self.spin_ns;
        let sleeps = match self.idle {
            Idle::Spin => false,
            Idle::Adaptive => has_rested,
            Idle::Park => true,
        };
        if !sleeps || due <= now {
            return Ok(());
        }
        let time = due.since(now).min(WAIT_MAX);
        let timeout = Timespec {
            tv_sec: i64::try_from(time.as_secs()).expect("ten at most"),
            tv_nsec: time.subsec_nanos().into(),
        };
        let first = PollFd::new(critical, PollFlags::IN);
        let polled = match bulk {
            Some(bulk) => poll(&mut [first, PollFd::new(bulk, bulk_readiness)], Some(&timeout)),
            None => poll(&mut [first], Some(&timeout)),
        };
        match polled {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Numbers a request.
fn stamp(request: &mut [u8], index: u64) {
    request[SEQUENCE].copy_from_slice(&index.to_le_bytes()[..4]);
}

/// Writes all of a request. It fits the socket's buffer but for very long ones, whose reader reads.
fn write_whole(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let since = Nanos::now();
    while !bytes.is_empty() {
        match attempt(write(stream, bytes))? {
            Some(written) => bytes = &bytes[written..],
            None if Nanos::now().since(since) > WAIT_MAX => return Err(silent()),
            None => {}
        }
    }
    Ok(())
}

#[cold]
fn silent() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("nothing from the other end for {WAIT_MAX:?}"))
}

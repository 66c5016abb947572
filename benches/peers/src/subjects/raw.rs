//! Plain sockets: the floor. The least code between a thread and its connection.
//!
//! `raw-spin` calls send(2) and recv(2) on non-blocking sockets until they do something;
//! `raw-spin-pause` pauses after each look that finds nothing, as often as Ringwire did until
//! 25a7339: what that alone costs or gains, which no goal is about; `raw-blocking` sleeps in them;
//! `raw-epoll` sleeps in epoll_wait(2), level-triggered, before it receives. Over TCP on 127.0.0.1,
//! with TCP_NODELAY and with reno, as BBR would pace there; `-unix` over a Unix stream socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use ::ringwire::time::Nanos;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, accept, recv, send};
use socket2::{Domain, Socket, Type};

use super::{Facts, LOOPBACK_CONGESTION, Ready, Role, Subject, fan_in, lacks_fan_in};
use crate::drive::{Client, Failure, drive, now_or_never};
use crate::frame::{BUFFER_BYTES, Cutter, Seat, Write};
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Message, Seen, Tag};

/// Bulk bytes written at once while a request may become due.
const CHUNK_BYTES: usize = 64 << 10;
/// Ready events taken at once.
const EVENTS_MAX: usize = 256;
/// Messages as long as this are not gathered: copying them would cost more than a call.
const GATHER_BYTES_MAX: usize = 16 << 10;

/// Pauses of the processor after a look that found nothing: as many as were best for a
/// spinning reactor once, which has none any more.
const PAUSES: usize = 3;

/// How an end waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Spin,
    /// The same, with [`PAUSES`] between two looks.
    Pause,
    Block,
    Epoll,
}

struct Raw {
    name: &'static str,
    wait: Wait,
    transport: &'static str,
}

pub fn all() -> impl Iterator<Item = Box<dyn Subject>> {
    let raw = |name, wait, transport| Box::new(Raw { name, wait, transport }) as Box<dyn Subject>;
    [
        raw("raw-spin", Wait::Spin, "tcp"),
        raw("raw-spin-pause", Wait::Pause, "tcp"),
        raw("raw-blocking", Wait::Block, "tcp"),
        raw("raw-epoll", Wait::Epoll, "tcp"),
        raw("raw-spin-unix", Wait::Spin, "unix"),
        raw("raw-blocking-unix", Wait::Block, "unix"),
    ]
    .into_iter()
}

impl Subject for Raw {
    fn facts(&self) -> Facts {
        let idle = match self.wait {
            Wait::Spin | Wait::Pause => "spin",
            Wait::Block | Wait::Epoll => "park",
        };
        Facts { name: self.name, idle, transport: self.transport, package: "", role: Role::Floor }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        match self.wait {
            Wait::Epoll => None,
            Wait::Pause if case.scenario == Scenario::Stream => {
                Some("it is about looks that find nothing")
            }
            Wait::Spin | Wait::Pause => lacks_fan_in(case),
            Wait::Block if case.bulk => Some("a blocking socket does one thing at a time"),
            Wait::Block => lacks_fan_in(case),
        }
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (listener, address) = listen(self.transport)?;
        ready(Ready::at(address))?;
        match self.wait {
            Wait::Block => serve_blocking(&listener, job.case),
            Wait::Spin | Wait::Pause => serve_spinning(&listener, job.case, self.wait),
            Wait::Epoll => serve_epoll(&listener, job.case),
        }
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let connect = async |job: &Job| -> Result<_, Failure> {
            let link = Link::new(connect(&job.address)?, self.wait)?;
            let beside = if job.case.bulk {
                Some(Bulk {
                    pipe: PipeClient::new(Link::new(connect(&job.address)?, self.wait)?, &job.case),
                    message: None,
                    unwritten: 0,
                })
            } else {
                None
            };
            Ok(RawClient { pipe: PipeClient::new(link, &job.case), beside })
        };
        if job.case.scenario == Scenario::FanIn {
            return fan_in::drive::<fan_in::Sockets>(job);
        }
        now_or_never(drive(job, connect))
    }
}

/// A byte stream whose calls return when they are done.
pub trait Pipe {
    /// Reads what there is, at least one byte; 0 at the end of the stream.
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Failure>;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Failure>;
}

/// A [`Client`] over a [`Pipe`].
pub struct PipeClient<P> {
    pipe: P,
    cutter: Cutter,
    out: Vec<u8>,
}

impl<P: Pipe> PipeClient<P> {
    pub fn new(pipe: P, case: &Case) -> Self {
        Self { pipe, cutter: Cutter::new(case), out: Vec::with_capacity(BUFFER_BYTES) }
    }

    fn receive<R>(&mut self, take: impl Fn(&[u8]) -> R) -> Result<R, Failure> {
        loop {
            if let Some(payload) = self.cutter.next() {
                return Ok(take(payload));
            }
            let bytes = self.pipe.read_some(self.cutter.room())?;
            if bytes == 0 {
                return Err("the server has closed the connection".into());
            }
            self.cutter.filled(bytes);
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if !self.out.is_empty() {
            self.pipe.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    fn ask_for(&mut self, tag: Tag) -> Result<Seen, Failure> {
        self.flush()?;
        self.pipe.write_all(Message::short(tag).framed())?;
        let seen = self.receive(Seen::from_bytes)?;
        seen.ok_or_else(|| "that is no answer".into())
    }
}

impl<P: Pipe> Client for PipeClient<P> {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        self.pipe.write_all(message.framed())?;
        self.receive(|payload| payload == message.payload())
    }

    #[inline]
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        let framed = message.framed();
        if framed.len() >= GATHER_BYTES_MAX {
            return self.pipe.write_all(framed);
        }
        self.out.extend_from_slice(framed);
        if self.out.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::Ask)
    }
}

/// Serves one connection of a pipe until it closes.
pub fn serve_pipe<P: Pipe>(mut pipe: P, case: &Case) -> Result<(), Failure> {
    let mut seat = Seat::new(case);
    loop {
        let bytes = pipe.read_some(seat.cutter.room())?;
        if bytes == 0 {
            return Ok(());
        }
        seat.cutter.filled(bytes);
        answer(&mut pipe, &mut seat)?;
    }
}

fn answer<P: Pipe>(pipe: &mut P, seat: &mut Seat) -> Result<(), Failure> {
    match seat.answer() {
        Write::Nothing => {}
        Write::Input(range) => pipe.write_all(seat.cutter.bytes(range))?,
        Write::Output => {
            pipe.write_all(&seat.out)?;
            seat.out.clear();
        }
    }
    Ok(())
}

/// The client, and bulk over a connection of its own.
struct RawClient {
    pipe: PipeClient<Link>,
    beside: Option<Bulk>,
}

struct Bulk {
    pipe: PipeClient<Link>,
    /// What is sent, and how much of its end has not been.
    message: Option<Message>,
    unwritten: usize,
}

impl Client for RawClient {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        self.pipe.echo(message).await
    }

    #[inline]
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.pipe.send(message).await
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.pipe.ask().await
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        let bulk = self.beside.as_mut().ok_or("there is no connection for bulk")?;
        bulk.finish()?;
        // One message is copied, the first; those that follow differ in their stamp.
        match &mut bulk.message {
            Some(own) if own.framed().len() == message.framed().len() => {
                own.stamp_as(message.stamped());
            }
            own => *own = Some(message.clone()),
        }
        bulk.unwritten = message.framed().len();
        Ok(())
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        let bulk = self.beside.as_mut().ok_or("there is no connection for bulk")?;
        bulk.finish()?;
        bulk.pipe.ask_for(Tag::AskBulk)
    }

    async fn idle_until(&mut self, until: Nanos) -> Result<(), Failure> {
        while Nanos::now() < until {
            if let Some(bulk) = &mut self.beside {
                bulk.write_some()?;
            }
        }
        Ok(())
    }
}

impl Bulk {
    fn write_some(&mut self) -> Result<(), Failure> {
        let Some(message) = self.message.as_ref().filter(|_| self.unwritten > 0) else {
            return Ok(());
        };
        let framed = message.framed();
        let rest = &framed[framed.len() - self.unwritten..];
        let chunk = &rest[..rest.len().min(CHUNK_BYTES)];
        match send(&self.pipe.pipe.socket, chunk, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(bytes) => self.unwritten -= bytes,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        while self.unwritten > 0 {
            self.write_some()?;
        }
        Ok(())
    }
}

/// A socket, and how it waits.
pub struct Link {
    socket: OwnedFd,
    wait: Wait,
    epoll: Option<OwnedFd>,
}

impl Link {
    pub fn new(socket: OwnedFd, wait: Wait) -> Result<Self, Failure> {
        if wait != Wait::Block {
            fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
        }
        let mut epoll = None;
        if wait == Wait::Epoll {
            let created = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(&created, &socket, EventData::new_u64(0), EventFlags::IN)?;
            epoll = Some(created);
        }
        Ok(Self { socket, wait, epoll })
    }

    /// What to do after a call that did nothing.
    fn wait(&self, error: Errno, readiness: PollFlags) -> Result<(), Failure> {
        match (error, self.wait, &self.epoll) {
            (Errno::INTR, ..) | (Errno::AGAIN, Wait::Spin, _) => Ok(()),
            (Errno::AGAIN, Wait::Pause, _) => {
                pause();
                Ok(())
            }
            (Errno::AGAIN, Wait::Epoll, Some(epoll)) if readiness == PollFlags::IN => {
                let mut events = Vec::<Event>::with_capacity(1);
                match epoll::wait(epoll, spare_capacity(&mut events), None) {
                    Ok(_) | Err(Errno::INTR) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            (Errno::AGAIN, ..) => wait_for(&self.socket, readiness),
            _ => Err(error.into()),
        }
    }
}

impl Pipe for Link {
    #[inline]
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((bytes, _)) => return Ok(bytes),
                Err(error) => self.wait(error, PollFlags::IN)?,
            }
        }
    }

    #[inline]
    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) => self.wait(error, PollFlags::OUT)?,
            }
        }
        Ok(())
    }
}

#[inline]
fn pause() {
    (0..PAUSES).for_each(|_| std::hint::spin_loop());
}

fn wait_for(socket: impl AsFd, readiness: PollFlags) -> Result<(), Failure> {
    let mut descriptors = [PollFd::new(&socket, readiness)];
    match poll(&mut descriptors, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A listening socket of either kind and its address.
pub fn listen(transport: &str) -> Result<(OwnedFd, String), Failure> {
    if transport == "unix" {
        let path = socket_path();
        let listener = UnixListener::bind(&path)?;
        return Ok((listener.into(), format!("unix:{path}")));
    }
    // Accepted sockets inherit what is set here: tcp(7).
    let listener = tcp_socket()?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    // Deep: a thousand clients connect at once.
    listener.listen(4096)?;
    let address = listener.local_addr()?.as_socket().ok_or("an address of another family")?;
    Ok((listener.into(), address.to_string()))
}

/// Where a Unix socket of this process goes. The runner removes it.
pub fn socket_path() -> String {
    let folder = std::env::temp_dir();
    format!("{}/ringwire-peers-{}.sock", folder.display(), std::process::id())
}

pub fn connect(address: &str) -> Result<OwnedFd, Failure> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok(UnixStream::connect(path)?.into());
    }
    let socket = tcp_socket()?;
    socket.connect(&address.parse::<SocketAddr>()?.into())?;
    Ok(socket.into())
}

/// A socket that delays and paces nothing: what the kernel can do over loopback, whatever the
/// system's congestion control is. Before it connects, as one that has begun with BBR stays paced.
fn tcp_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_congestion(LOOPBACK_CONGESTION.as_bytes())?;
    Ok(socket)
}

/// Accepts a connection; `None` when a non-blocking listener has none.
pub fn accept_one(listener: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Failure> {
    match accept(listener) {
        Ok(socket) => {
            // Fails for a Unix socket, which has no delay to switch off.
            let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
            Ok(Some(socket))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn serve_blocking(listener: &OwnedFd, case: Case) -> Result<(), Failure> {
    loop {
        let Some(socket) = accept_one(listener.as_fd())? else { continue };
        let link = Link::new(socket, Wait::Block)?;
        thread::spawn(move || {
            if let Err(error) = serve_pipe(link, &case) {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

/// One thread goes round all connections. Once all it expects are there, it looks for no more.
fn serve_spinning(listener: &OwnedFd, case: Case, wait: Wait) -> Result<(), Failure> {
    fcntl_setfl(listener, OFlags::NONBLOCK)?;
    let mut ends: Vec<(Link, Seat)> = Vec::new();
    loop {
        if ends.len() < case.sockets()
            && let Some(socket) = accept_one(listener.as_fd())?
        {
            ends.push((Link::new(socket, wait)?, Seat::new(&case)));
        }
        let mut is_idle = true;
        for (link, seat) in &mut ends {
            is_idle &= read_once(link, seat)?.is_none();
        }
        if is_idle && wait == Wait::Pause {
            pause();
        }
    }
}

fn serve_epoll(listener: &OwnedFd, case: Case) -> Result<(), Failure> {
    fcntl_setfl(listener, OFlags::NONBLOCK)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(u64::MAX), EventFlags::IN)?;
    let mut ends: Vec<Option<(Link, Seat)>> = Vec::new();
    let mut events = Vec::<Event>::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let index = event.data.u64();
            if index == u64::MAX {
                while let Some(socket) = accept_one(listener.as_fd())? {
                    let data = EventData::new_u64(ends.len() as u64);
                    fcntl_setfl(&socket, OFlags::NONBLOCK)?;
                    epoll::add(&epoll, &socket, data, EventFlags::IN)?;
                    let link = Link { socket, wait: Wait::Epoll, epoll: None };
                    ends.push(Some((link, Seat::new(&case))));
                }
                continue;
            }
            let slot = &mut ends[usize::try_from(index)?];
            let Some((link, seat)) = slot else { continue };
            if read_once(link, seat)? == Some(0) {
                *slot = None;
            }
        }
    }
}

/// One attempt to receive, and what follows from it. `None` when nothing was there.
fn read_once(link: &mut Link, seat: &mut Seat) -> Result<Option<usize>, Failure> {
    match recv(&link.socket, seat.cutter.room(), RecvFlags::empty()) {
        Ok((bytes, _)) => {
            seat.cutter.filled(bytes);
            answer(link, seat)?;
            Ok(Some(bytes))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        // A client that is done need not say goodbye.
        Err(Errno::CONNRESET) => Ok(Some(0)),
        Err(error) => Err(error.into()),
    }
}

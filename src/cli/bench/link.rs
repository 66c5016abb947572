//! A plain socket that waits as the idle strategy says, and connections between two threads.
//!
//! The floors are made of these. `spin` never enters the kernel to sleep: non-blocking calls in a
//! loop. `park` is a blocking socket. `adaptive` spins a bounded time, then sleeps in poll(2).
//! Bytes go by the system calls themselves, as ringwire's do: send and recv of the C library are
//! points of cancellation, a cost that ringwire has not.
//! Invariant: no call waits longer than [`WAIT_MAX`].

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use ringwire::config::Idle;
use ringwire::time::Nanos;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Socket, Type};

use super::harness::{SubjectError, WAIT_MAX, pin};
use super::plan::Plan;

/// Ready events taken at once.
const EVENTS_MAX: usize = 256;
/// What ringwire takes over loopback unless it is told otherwise: it does not pace.
pub(super) const LOOPBACK_CONGESTION: &str = "reno";

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    idle: Idle,
    spin: Duration,
}

/// Waits for any of several connections, as the idle strategy says.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
    idle: Idle,
    spin: Duration,
}

/// How long a wait has gone on.
#[derive(Debug)]
struct Patience {
    idle: Idle,
    spin: Duration,
    attempts: u32,
    since: Nanos,
}

/// What to do after an attempt that found nothing.
enum Next {
    TryAgain,
    Sleep,
}

/// Connects `plan.case.connections` pairs of sockets, runs `serve` with one end of each on a
/// thread pinned to the server's core, and `drive` with the other ends on this one.
///
/// `serve` must end when its connections do: `drive` drops them when it returns.
pub(super) fn with_server<R>(
    plan: &Plan,
    serve: impl FnOnce(Vec<Link>) -> io::Result<()> + Send,
    drive: impl FnOnce(Vec<Link>) -> Result<R, SubjectError>,
) -> Result<R, SubjectError> {
    let listener = listen(plan).map_err(SubjectError::io("listen on 127.0.0.1"))?;
    let address = listener.local_addr().map_err(SubjectError::io("read the port"))?;
    thread::scope(|scope| {
        let server = thread::Builder::new()
            .name("server".into())
            .spawn_scoped(scope, || {
                pin(plan.cores.server);
                let links: Vec<Link> = (0..plan.case.connections)
                    .map(|_| Link::new(listener.accept()?.0, plan))
                    .collect::<io::Result<_>>()?;
                serve(links)
            })
            .map_err(SubjectError::io("start a thread"))?;
        let links: io::Result<Vec<Link>> =
            (0..plan.case.connections).map(|_| Link::new(dial(plan, address)?, plan)).collect();
        let driven = links.map_err(SubjectError::io("connect")).and_then(drive);
        match server.join() {
            Err(_) => Err(SubjectError::Panicked),
            // A connection that broke at both ends was broken by the client.
            Ok(Err(source)) if driven.is_ok() || !is_hang_up(&source) => {
                Err(SubjectError::Io { what: "server", source })
            }
            Ok(Err(_)) => driven,
            Ok(Ok(())) => driven,
        }
    })
}

fn is_hang_up(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn listen(plan: &Plan) -> io::Result<TcpListener> {
    let socket = tcp_socket(plan)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    // accept(2) honours it: socket(7).
    socket.set_read_timeout(Some(WAIT_MAX))?;
    let backlog = plan.config.listen_backlog();
    socket.listen(i32::try_from(backlog).expect("at most 65,535"))?;
    Ok(socket.into())
}

fn dial(plan: &Plan, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = tcp_socket(plan)?;
    socket.connect_timeout(&address.into(), WAIT_MAX)?;
    Ok(socket.into())
}

/// A socket as ringwire would have it over loopback: what is asked for, and otherwise nothing that
/// paces. Accepted ones inherit it (tcp(7)), and one that has begun with BBR stays paced.
fn tcp_socket(plan: &Plan) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    let congestion = plan.config.tcp_congestion().unwrap_or(LOOPBACK_CONGESTION);
    socket.set_tcp_congestion(congestion.as_bytes())?;
    if plan.config.tcp_send_buffer_bytes() > 0 {
        socket.set_send_buffer_size(plan.config.tcp_send_buffer_bytes() as usize)?;
    }
    if plan.config.tcp_receive_buffer_bytes() > 0 {
        socket.set_recv_buffer_size(plan.config.tcp_receive_buffer_bytes() as usize)?;
    }
    Ok(socket)
}

impl Link {
    fn new(stream: TcpStream, plan: &Plan) -> io::Result<Self> {
        if plan.case.idle == Idle::Park {
            stream.set_read_timeout(Some(WAIT_MAX))?;
            stream.set_write_timeout(Some(WAIT_MAX))?;
        } else {
            stream.set_nonblocking(true)?;
        }
        Ok(Self { stream, idle: plan.case.idle, spin: plan.spin })
    }

    /// Reads what there is, waiting for the first byte. 0 is the end of the stream.
    ///
    /// Hot path: once per message. No allocation, no logging; system calls are what it measures.
    #[inline]
    pub(super) fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut patience = Patience::new(self.idle, self.spin);
        loop {
            match read(&self.stream, buffer) {
                Err(error) => self.recover(error, &mut patience, PollFlags::IN)?,
                done => return done,
            }
        }
    }

    /// Fills `buffer`; `false` when the stream ended before its first byte.
    #[inline]
    pub(super) fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                bytes => filled += bytes,
            }
        }
        Ok(true)
    }

    /// Writes all of `bytes`.
    #[inline]
    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut patience = Patience::new(self.idle, self.spin);
        while !bytes.is_empty() {
            match write(&self.stream, bytes) {
                Ok(written) => {
                    bytes = &bytes[written..];
                    patience = Patience::new(self.idle, self.spin);
                }
                Err(error) => self.recover(error, &mut patience, PollFlags::OUT)?,
            }
        }
        Ok(())
    }

    /// Decides whether to try again after a failed attempt, and sleeps when it is time to.
    fn recover(
        &self,
        error: io::Error,
        patience: &mut Patience,
        readiness: PollFlags,
    ) -> io::Result<()> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            // A blocking socket says so when its timeout has passed.
            ErrorKind::WouldBlock if self.idle == Idle::Park => Err(silent()),
            ErrorKind::WouldBlock => match patience.next()? {
                Next::TryAgain => Ok(()),
                Next::Sleep => self.sleep(readiness),
            },
            _ => Err(error),
        }
    }

    fn sleep(&self, readiness: PollFlags) -> io::Result<()> {
        let mut descriptors = [PollFd::new(&self.stream, readiness)];
        match poll(&mut descriptors, Some(&wait_max())) {
            Ok(0) => Err(silent()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The socket, for those who wait for many at once.
    pub(super) fn into_nonblocking(self) -> io::Result<TcpStream> {
        self.stream.set_nonblocking(true)?;
        Ok(self.stream)
    }
}

/// recv(2), past the C library.
#[inline]
pub(super) fn read(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (bytes, _) = recv(socket, buffer, RecvFlags::empty())?;
    Ok(bytes)
}

/// send(2), past the C library. No signal when nobody reads any more.
#[inline]
pub(super) fn write(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(send(socket, bytes, SendFlags::NOSIGNAL)?)
}

impl AsFd for Link {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Poller {
    pub(super) fn new(plan: &Plan) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let events = Vec::with_capacity(EVENTS_MAX);
        Ok(Self { epoll, events, idle: plan.case.idle, spin: plan.spin })
    }

    /// Watches `source`; its events carry `index`.
    pub(super) fn add(&self, source: impl AsFd, index: usize, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(index as u64), flags)?)
    }

    /// Waits until something is ready and returns the indices.
    pub(super) fn wait(&mut self) -> io::Result<impl Iterator<Item = usize>> {
        let mut patience = Patience::new(self.idle, self.spin);
        let mut timeout =
            if self.idle == Idle::Park { wait_max() } else { Timespec { tv_sec: 0, tv_nsec: 0 } };
        loop {
            self.events.clear();
            let buffer = spare_capacity(&mut self.events);
            match epoll::wait(&self.epoll, buffer, Some(&timeout)) {
                Ok(0) if timeout.tv_sec > 0 => return Err(silent()),
                Ok(0) => {
                    if matches!(patience.next()?, Next::Sleep) {
                        timeout = wait_max();
                    }
                }
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let index = |event: &Event| usize::try_from(event.data.u64()).expect("was a usize");
        Ok(self.events.iter().map(index))
    }
}

impl Patience {
    #[inline]
    fn new(idle: Idle, spin: Duration) -> Self {
        Self { idle, spin, attempts: 0, since: Nanos(0) }
    }

    /// After an attempt that found nothing. Reads the clock at the first and then at every eighth,
    /// so that spinning is spent on the socket and not on the clock.
    #[inline]
    fn next(&mut self) -> io::Result<Next> {
        if self.attempts == 0 {
            self.since = Nanos::now();
        }
        self.attempts = self.attempts.wrapping_add(1);
        if !self.attempts.is_multiple_of(8) {
            return Ok(Next::TryAgain);
        }
        let waited = Nanos::now().since(self.since);
        match self.idle {
            Idle::Adaptive if waited >= self.spin => Ok(Next::Sleep),
            _ if waited >= WAIT_MAX => Err(silent()),
            _ => Ok(Next::TryAgain),
        }
    }
}

fn wait_max() -> Timespec {
    Timespec { tv_sec: i64::try_from(WAIT_MAX.as_secs()).expect("ten"), tv_nsec: 0 }
}

#[cold]
fn silent() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("nothing from the other end for {WAIT_MAX:?}"))
}

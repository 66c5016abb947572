//! The floor of rtt over many connections: epoll at both ends, one message in flight on each.
//!
//! Edge-triggered, so that a connection is armed once and for all: the cheapest epoll there is. It
//! is enough because each end alternates between one whole frame in and one whole frame out, and
//! both stop only at `EAGAIN` or at the end of the frame.

use std::io::{self, ErrorKind};
use std::net::TcpStream;

use ringwire::time::Nanos;
use rustix::event::epoll::EventFlags;

use super::harness::SubjectError;
use super::link::{Link, Poller, read, with_server, write};
use super::plan::Plan;
use super::round::{Extra, Resident, Round, Stopwatch, latency_histogram};
use super::socket::request;

/// One end of one connection.
struct Peer {
    stream: TcpStream,
    phase: Phase,
    frame: Vec<u8>,
    started: Nanos,
}

/// How much of the frame has gone or come.
#[derive(Clone, Copy)]
enum Phase {
    Receiving(usize),
    Sending(usize),
    Closed,
}

/// What became of an attempt to go on.
enum Progress {
    Whole,
    Pending,
    Closed,
}

/// All connections of one end.
struct Crowd {
    peers: Vec<Peer>,
    /// The first so many exchange messages, the others are silent.
    busy: usize,
    poller: Poller,
}

pub(super) fn round(plan: &Plan) -> Result<Round, SubjectError> {
    let resident = Resident::start(plan);
    with_server(
        plan,
        |links| Crowd::new(links, plan)?.echo(),
        |links| {
            let crowd = Crowd::new(links, plan).map_err(SubjectError::io("set up epoll"))?;
            drive(crowd, plan, &resident)
        },
    )
}

fn drive(mut crowd: Crowd, plan: &Plan, resident: &Resident) -> Result<Round, SubjectError> {
    let request = request(plan.case.payload_bytes);
    let mut latency = latency_histogram();
    let io = SubjectError::io("round trip");
    // Up to a time that has passed: one message on each connection, each answer checked.
    let wrong = crowd.ping_pong(&request, Nanos(0), &mut latency).map_err(&io)?;
    if wrong > 0 {
        let what = "connections whose first echo is right";
        let expected = plan.case.connections as u64;
        return Err(SubjectError::WrongAnswer { what, expected, got: expected - wrong });
    }
    crowd.busy = plan.case.busy();
    let until = Nanos::now() + plan.warm_up();
    crowd.ping_pong(&request, until, &mut latency).map_err(&io)?;
    latency.reset();

    let stopwatch = Stopwatch::start();
    let until = Nanos::now() + plan.duration;
    let errors = crowd.ping_pong(&request, until, &mut latency).map_err(&io)?;
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    let frames = 2.0 * latency.len() as f64;
    let extra = Extra { resident_bytes: resident.stop(), ..Extra::default() };
    Ok(Round { latency: Some(latency), frames, elapsed_ns, cpu_ns, calls: None, errors, extra })
}

impl Crowd {
    fn new(links: Vec<Link>, plan: &Plan) -> io::Result<Self> {
        let poller = Poller::new(plan)?;
        let mut peers = Vec::with_capacity(links.len());
        for (index, link) in links.into_iter().enumerate() {
            let stream = link.into_nonblocking()?;
            poller.add(&stream, index, EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
            let frame = vec![0; plan.case.frame_bytes()];
            peers.push(Peer { stream, phase: Phase::Receiving(0), frame, started: Nanos(0) });
        }
        Ok(Self { busy: peers.len(), peers, poller })
    }

    /// The server: sends whole frames back until every connection has closed.
    fn echo(mut self) -> io::Result<()> {
        let mut open = self.peers.len();
        while open > 0 {
            for index in self.poller.wait()? {
                if matches!(self.peers[index].echo()?, Progress::Closed) {
                    open -= 1;
                }
            }
        }
        Ok(())
    }

    /// The client: one message in flight on each busy connection until `until`, then drains.
    /// Returns how many answers were wrong.
    fn ping_pong(
        &mut self,
        request: &[u8],
        until: Nanos,
        latency: &mut hdrhistogram::Histogram<u64>,
    ) -> io::Result<u64> {
        let mut in_flight = self.busy;
        let mut errors = 0;
        for peer in &mut self.peers[..self.busy] {
            peer.start(request)?;
        }
        while in_flight > 0 {
            for index in self.poller.wait()? {
                let peer = &mut self.peers[index];
                match peer.exchange(request)? {
                    Progress::Pending => continue,
                    Progress::Closed => return Err(ErrorKind::UnexpectedEof.into()),
                    Progress::Whole => {}
                }
                let now = Nanos::now();
                latency.saturating_record(now.0.saturating_sub(peer.started.0));
                errors += u64::from(peer.frame != request);
                if now < until {
                    peer.start(request)?;
                } else {
                    in_flight -= 1;
                }
            }
        }
        Ok(errors)
    }
}

impl Peer {
    /// Sends a request; what does not fit goes when the socket is writable.
    fn start(&mut self, request: &[u8]) -> io::Result<()> {
        self.started = Nanos::now();
        self.phase = Phase::Sending(0);
        // Does not look for the answer: its arrival is an event of its own.
        self.send(request, 0).map(|_| ())
    }

    /// Goes on with an exchange. `Whole` once, when the answer is complete.
    fn exchange(&mut self, request: &[u8]) -> io::Result<Progress> {
        match self.phase {
            Phase::Sending(sent) => self.send(request, sent),
            // Complete already: the event is about something seen before.
            Phase::Receiving(received) if received == self.frame.len() => Ok(Progress::Pending),
            Phase::Receiving(received) => self.receive(received),
            Phase::Closed => Ok(Progress::Pending),
        }
    }

    /// Goes on with echoing. `Closed` once, when the client is done.
    fn echo(&mut self) -> io::Result<Progress> {
        if let Phase::Receiving(received) = self.phase {
            match self.receive(received)? {
                Progress::Whole => self.phase = Phase::Sending(0),
                other => return Ok(other),
            }
        }
        if let Phase::Sending(sent) = self.phase {
            let frame = std::mem::take(&mut self.frame);
            let result = self.send(&frame, sent);
            self.frame = frame;
            return result;
        }
        Ok(Progress::Pending)
    }

    /// Goes on sending; then the phase is `Receiving`.
    fn send(&mut self, bytes: &[u8], mut sent: usize) -> io::Result<Progress> {
        while sent < bytes.len() {
            match attempt(write(&self.stream, &bytes[sent..]))? {
                Some(more) => sent += more,
                None => return Ok(Progress::Pending),
            }
            self.phase = Phase::Sending(sent);
        }
        self.phase = Phase::Receiving(0);
        Ok(Progress::Pending)
    }

    fn receive(&mut self, mut received: usize) -> io::Result<Progress> {
        while received < self.frame.len() {
            match attempt(read(&self.stream, &mut self.frame[received..]))? {
                Some(0) => {
                    self.phase = Phase::Closed;
                    return Ok(Progress::Closed);
                }
                Some(bytes) => received += bytes,
                None => return Ok(Progress::Pending),
            }
            self.phase = Phase::Receiving(received);
        }
        Ok(Progress::Whole)
    }
}

/// `None` when the socket is not ready.
pub(super) fn attempt(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

//! Fan-in for subjects whose client waits for many connections with one call: one message in flight
//! on each. `raw-epoll` is the floor: one epoll, level-triggered.

use std::os::fd::OwnedFd;

use ::ringwire::time::Nanos;
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::raw::connect;
use crate::drive::{Failure, Stopwatch};
use crate::frame::Cutter;
use crate::job::{Job, Round};
use crate::message::{Message, Tag};
use crate::{histogram, process};

/// Ready events taken at once.
const EVENTS_MAX: usize = 256;

/// The connections of a client.
pub trait Many: Sized {
    /// Makes as many as the job says.
    fn connect(job: &Job) -> Result<Self, Failure>;

    /// Sends on a connection that has nothing in flight.
    fn send(&mut self, index: usize, message: &Message) -> Result<(), Failure>;

    /// Waits until something has come and says where.
    fn wait(&mut self, ready: &mut Vec<usize>) -> Result<(), Failure>;

    /// Whether what came is `message`; `None` when it is not all there.
    fn receive(&mut self, index: usize, message: &Message) -> Result<Option<bool>, Failure>;
}

struct Crowd<M> {
    many: M,
    /// Of the message in flight, by connection.
    flights: Vec<(u64, Nanos)>,
    message: Message,
    sequence: u64,
    latency: Histogram<u64>,
    errors: u64,
}

pub fn drive<M: Many>(job: &Job) -> Result<Round, Failure> {
    let resident = process::resident_bytes(job.server_pid)?;
    let mut crowd = Crowd {
        many: M::connect(job)?,
        flights: vec![(0, Nanos(0)); job.case.connections],
        message: Message::new(job.case.payload_bytes),
        sequence: 0,
        latency: histogram::new(),
        errors: 0,
    };
    // Up to a time that has passed: one message on each connection.
    crowd.run(Nanos(0))?;
    if crowd.errors > 0 {
        return Err("some first echoes are not what was sent".into());
    }
    let added = process::resident_bytes(job.server_pid)?.saturating_sub(resident);

    crowd.run(Nanos(Nanos::now().0 + job.warm_up_ns))?;
    let stopwatch = Stopwatch::start(job)?;
    crowd.run(Nanos(Nanos::now().0 + job.duration_ns))?;
    let round = stopwatch.stop(2 * crowd.latency.len(), crowd.errors)?;
    Ok(Round {
        histogram_v2: Some(histogram::encode(&crowd.latency)),
        resident_bytes_per_connection: Some(added as f64 / job.case.connections as f64),
        ..round
    })
}

impl<M: Many> Crowd<M> {
    fn run(&mut self, until: Nanos) -> Result<(), Failure> {
        self.latency.reset();
        for index in 0..self.flights.len() {
            self.start(index)?;
        }
        let mut in_flight = self.flights.len();
        let mut ready = Vec::with_capacity(EVENTS_MAX);
        while in_flight > 0 {
            ready.clear();
            self.many.wait(&mut ready)?;
            for &index in &ready {
                let (sequence, started) = self.flights[index];
                self.message.stamp(Tag::Echo, sequence);
                let Some(is_right) = self.many.receive(index, &self.message)? else { continue };
                let now = Nanos::now();
                self.latency.saturating_record(now.0.saturating_sub(started.0));
                self.errors += u64::from(!is_right);
                if now < until {
                    self.start(index)?;
                } else {
                    in_flight -= 1;
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, index: usize) -> Result<(), Failure> {
        self.sequence += 1;
        self.message.stamp(Tag::Echo, self.sequence);
        self.flights[index] = (self.sequence, Nanos::now());
        self.many.send(index, &self.message)
    }
}

/// Sockets and an epoll.
pub struct Sockets {
    ends: Vec<(OwnedFd, Cutter)>,
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Many for Sockets {
    fn connect(job: &Job) -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut ends = Vec::with_capacity(job.case.connections);
        for index in 0..job.case.connections {
            let socket = connect(&job.address)?;
            epoll::add(&epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN)?;
            ends.push((socket, Cutter::new(&job.case)));
        }
        Ok(Self { ends, epoll, events: Vec::with_capacity(EVENTS_MAX) })
    }

    fn send(&mut self, index: usize, message: &Message) -> Result<(), Failure> {
        let framed = message.framed();
        // One short message in flight on each connection: the socket always has room for it.
        let sent = send(&self.ends[index].0, framed, SendFlags::NOSIGNAL)?;
        if sent < framed.len() {
            return Err("a message did not fit into an empty socket".into());
        }
        Ok(())
    }

    fn wait(&mut self, ready: &mut Vec<usize>) -> Result<(), Failure> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let index = |event: &Event| usize::try_from(event.data.u64()).expect("was a usize");
        ready.extend(self.events.iter().map(index));
        Ok(())
    }

    fn receive(&mut self, index: usize, message: &Message) -> Result<Option<bool>, Failure> {
        let (socket, cutter) = &mut self.ends[index];
        let (bytes, _) = recv(&*socket, cutter.room(), RecvFlags::empty())?;
        if bytes == 0 {
            return Err("the server has closed a connection".into());
        }
        cutter.filled(bytes);
        Ok(cutter.next().map(|payload| payload == message.payload()))
    }
}

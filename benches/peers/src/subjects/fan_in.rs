//! The floor of fan-in: one epoll, level-triggered, one message in flight on each connection.

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

struct Crowd {
    ends: Vec<End>,
    epoll: OwnedFd,
    message: Message,
    sequence: u64,
    latency: Histogram<u64>,
    errors: u64,
}

struct End {
    socket: OwnedFd,
    cutter: Cutter,
    sequence: u64,
    started: Nanos,
}

pub fn drive(job: &Job) -> Result<Round, Failure> {
    let resident = process::resident_bytes(job.server_pid)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut crowd = Crowd {
        ends: Vec::with_capacity(job.case.connections),
        epoll,
        message: Message::new(job.case.payload_bytes),
        sequence: 0,
        latency: histogram::new(),
        errors: 0,
    };
    for index in 0..job.case.connections {
        let socket = connect(&job.address)?;
        epoll::add(&crowd.epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN)?;
        let cutter = Cutter::new(&job.case);
        crowd.ends.push(End { socket, cutter, sequence: 0, started: Nanos(0) });
    }
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

impl Crowd {
    fn run(&mut self, until: Nanos) -> Result<(), Failure> {
        self.latency.reset();
        for index in 0..self.ends.len() {
            self.start(index)?;
        }
        let mut in_flight = self.ends.len();
        let mut events = Vec::<Event>::with_capacity(EVENTS_MAX);
        while in_flight > 0 {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let index = usize::try_from(event.data.u64())?;
                if !self.receive(index)? {
                    continue;
                }
                if Nanos::now() < until {
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
        let end = &mut self.ends[index];
        end.sequence = self.sequence;
        end.started = Nanos::now();
        let framed = self.message.framed();
        // One short message in flight on each connection: the socket always has room for it.
        let sent = send(&end.socket, framed, SendFlags::NOSIGNAL)?;
        if sent < framed.len() {
            return Err("a message did not fit into an empty socket".into());
        }
        Ok(())
    }

    /// Whether the answer is complete.
    fn receive(&mut self, index: usize) -> Result<bool, Failure> {
        let end = &mut self.ends[index];
        let (bytes, _) = recv(&end.socket, end.cutter.room(), RecvFlags::empty())?;
        if bytes == 0 {
            return Err("the server has closed a connection".into());
        }
        end.cutter.filled(bytes);
        let Some(payload) = end.cutter.next() else { return Ok(false) };
        self.message.stamp(Tag::Echo, end.sequence);
        self.errors += u64::from(payload != self.message.payload());
        let ns = Nanos::now().0.saturating_sub(end.started.0);
        self.latency.saturating_record(ns);
        Ok(true)
    }
}

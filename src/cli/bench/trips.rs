//! Round trips of ringwire: over one connection, one request behind the other, and over many, one
//! message in flight on each.
//!
//! One connection asks the way an application does, with a request and its answer in place. Many
//! send commands, and the handler of each answer sends the next one.

use std::cell::RefCell;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use bytes::Bytes;
use hdrhistogram::Histogram;
use ringwire::error::SendError;
use ringwire::stats::Statistics;
use ringwire::time::Nanos;
use ringwire::{ConnectionId, Context, Envelope, Frame, Kind, Wait};

use super::harness::{SubjectError, WAIT_MAX};
use super::plan::Plan;
use super::ring::{End, GOODBYE_TIME, Many, One, calls, serve, silent, turn};
use super::round::{Extra, Resident, Round, Stopwatch, latency_histogram};
use super::socket::payload;

/// Round trips over one connection.
struct Trips {
    end: One,
    envelope: Envelope,
    payload: Vec<u8>,
    /// The same where it is long enough to be sent from where it is.
    shared: Option<Bytes>,
    count: u64,
    latency: Histogram<u64>,
    errors: u64,
}

/// One round over one connection.
pub(super) fn of_one(plan: &Plan) -> Result<Round, SubjectError> {
    let resident = Resident::start(plan);
    let server = serve(plan)?;
    let is_long = plan.case.payload_bytes >= plan.config.in_place_bytes_min() as usize;
    let mut trips = Trips {
        end: One::open(plan, &server)?,
        envelope: plan.case.delivery.of(Envelope::command()),
        payload: payload(plan.case.payload_bytes),
        shared: is_long.then(|| payload(plan.case.payload_bytes).into()),
        count: 0,
        latency: latency_histogram(),
        errors: 0,
    };
    trips.one()?;
    if trips.errors > 0 {
        let what = "first echoes that are right";
        return Err(SubjectError::WrongAnswer { what, expected: 1, got: 0 });
    }
    trips.run(Nanos::now() + plan.warm_up())?;
    trips.latency.reset();
    trips.errors = 0;

    let before = calls(&trips.end.statistics(), &server);
    let stopwatch = Stopwatch::start();
    trips.run(Nanos::now() + plan.duration)?;
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    let calls = calls(&trips.end.statistics(), &server).since(before);
    let resident_bytes = resident.stop();
    trips.end.close();
    let _ = server.shutdown(GOODBYE_TIME);
    Ok(Round {
        frames: 2.0 * trips.latency.len() as f64,
        latency: Some(trips.latency),
        elapsed_ns,
        cpu_ns,
        calls: Some(calls),
        errors: trips.errors,
        extra: Extra { resident_bytes, ..Extra::default() },
    })
}

impl Trips {
    fn run(&mut self, until: Nanos) -> Result<(), SubjectError> {
        while self.one()? < until {}
        Ok(())
    }

    /// Hot path: what is measured. No allocation, no logging.
    #[inline]
    fn one(&mut self) -> Result<Nanos, SubjectError> {
        self.count += 1;
        if self.shared.is_some() {
            return self.one_shared();
        }
        if let Some(stamp) = self.payload.first_chunk_mut() {
            *stamp = self.count.to_le_bytes();
        }
        let payload = &self.payload[..];
        let start = Nanos::now();
        let is_right = self
            .end
            .client
            .request_with(self.envelope, payload, WAIT_MAX, |f| f.payload() == payload)?;
        let end = Nanos::now();
        self.latency.saturating_record(end.0.saturating_sub(start.0));
        self.errors += u64::from(!is_right);
        Ok(end)
    }

    /// As [`one`](Self::one), with a payload that is sent from where it is.
    fn one_shared(&mut self) -> Result<Nanos, SubjectError> {
        let shared = self.shared.take().expect("the caller looked");
        // The one before has been answered, so nobody else holds it; unless it is reliable and its
        // confirmation is still to come.
        let mut stamped = shared.try_into_mut().unwrap_or_else(|shared| shared[..].into());
        stamped[..8].copy_from_slice(&self.count.to_le_bytes());
        let payload = stamped.freeze();
        let start = Nanos::now();
        let is_right = self
            .end
            .client
            .request_with(self.envelope, &payload, WAIT_MAX, |f| f.payload() == payload)?;
        let end = Nanos::now();
        self.latency.saturating_record(end.0.saturating_sub(start.0));
        self.errors += u64::from(!is_right);
        self.shared = Some(payload);
        Ok(end)
    }
}

/// Round trips over many connections, driven by the handler of the answers.
pub(super) struct Exchange {
    end: Many,
    flights: Rc<RefCell<Flights>>,
}

/// With a hash that costs a few instructions: floors have an index at hand.
#[expect(clippy::disallowed_types, reason = "what an application would keep")]
type ByConnection<T> = std::collections::HashMap<ConnectionId, T, BuildHasherDefault<Mixed>>;

/// A hash of numbers nobody chooses to do harm: each is mixed in by a multiplication, and the bits
/// that are mixed best come to the low end.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        // Odd, and with no pattern: 2^64 divided by the golden ratio.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// What is under way, and what came of the rest.
struct Flights {
    /// When the message in flight left.
    started: ByConnection<Nanos>,
    /// Those that exchange messages; the others are silent.
    busy: Vec<ConnectionId>,
    payload: Vec<u8>,
    until: Nanos,
    in_flight: usize,
    latency: Histogram<u64>,
    errors: u64,
    refused: Option<SendError>,
}

/// One round over many connections.
pub(super) fn of_many(plan: &Plan) -> Result<Round, SubjectError> {
    let resident = Resident::start(plan);
    let server = serve(plan)?;
    let mut exchange = Exchange::new(Many::open(plan, &server)?, plan)?;
    exchange.run(Nanos::now() + plan.warm_up())?;
    exchange.take_latency();

    let before = calls(&exchange.statistics(), &server);
    let stopwatch = Stopwatch::start();
    let errors = exchange.run(Nanos::now() + plan.duration)?;
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    let calls = calls(&exchange.statistics(), &server).since(before);
    let resident_bytes = resident.stop();
    let latency = exchange.take_latency();
    exchange.close();
    let _ = server.shutdown(GOODBYE_TIME);
    Ok(Round {
        frames: 2.0 * latency.len() as f64,
        latency: Some(latency),
        elapsed_ns,
        cpu_ns,
        calls: Some(calls),
        errors,
        extra: Extra { resident_bytes, ..Extra::default() },
    })
}

impl Exchange {
    /// Exchanges one message on each connection and checks the answers: timing wrong ones would be
    /// pointless.
    pub(super) fn new(mut end: Many, plan: &Plan) -> Result<Self, SubjectError> {
        let busy = end.connections.clone();
        let expected = busy.len() as u64;
        let flights = Rc::new(RefCell::new(Flights {
            started: busy.iter().map(|&id| (id, Nanos(0))).collect(),
            busy,
            payload: payload(plan.case.payload_bytes),
            until: Nanos(0),
            in_flight: 0,
            latency: latency_histogram(),
            errors: 0,
            refused: None,
        }));
        let handled = Rc::clone(&flights);
        end.reactor.on(Kind::Command, move |context, frame| {
            handled.borrow_mut().take(context, &frame);
        });
        let mut this = Self { end, flights };
        // Up to a time that has passed.
        let wrong = this.run(Nanos(0))?;
        if wrong > 0 {
            let what = "connections whose first echo is right";
            return Err(SubjectError::WrongAnswer { what, expected, got: expected - wrong });
        }
        this.flights.borrow_mut().busy.truncate(plan.case.busy());
        Ok(this)
    }

    /// Keeps one message in flight on each busy connection until `until`, then drains. Returns how
    /// many answers were wrong.
    pub(super) fn run(&mut self, until: Nanos) -> Result<u64, SubjectError> {
        let reactor = &mut self.end.reactor;
        {
            let Flights { started, busy, payload, in_flight, errors, until: end, .. } =
                &mut *self.flights.borrow_mut();
            (*end, *errors, *in_flight) = (until, 0, busy.len());
            for connection in busy {
                started.insert(*connection, Nanos::now());
                reactor.send(*connection, Envelope::command(), &payload[..])?;
            }
        }
        // An answer that never comes ends the wait; no answer extends it.
        let limit = until.max(Nanos::now()) + WAIT_MAX;
        while self.flights.borrow().in_flight > 0 {
            turn(reactor, Wait::Until(limit))?;
            if let Some(refused) = self.flights.borrow_mut().refused.take() {
                return Err(refused.into());
            }
            if Nanos::now() >= limit {
                return Err(silent("round trip"));
            }
        }
        Ok(self.flights.borrow().errors)
    }

    /// The round trips since the last call.
    pub(super) fn take_latency(&mut self) -> Histogram<u64> {
        std::mem::replace(&mut self.flights.borrow_mut().latency, latency_histogram())
    }

    pub(super) fn statistics(&self) -> Statistics {
        self.end.statistics()
    }

    pub(super) fn close(self) {
        self.end.close();
    }
}

impl Flights {
    /// Hot path: what is measured; once per answer. No allocation, no logging.
    fn take(&mut self, context: &mut Context<'_>, frame: &Frame<'_>) {
        let now = Nanos::now();
        let connection = context.connection();
        let started = self.started.get_mut(&connection).expect("a connection of ours");
        self.latency.saturating_record(now.0.saturating_sub(started.0));
        self.errors += u64::from(frame.payload() != &self.payload[..]);
        if now >= self.until {
            self.in_flight -= 1;
            return;
        }
        // As the crowd of sockets: not the reading that ended the one before.
        *started = Nanos::now();
        if let Err(error) = context.reply(Envelope::command(), &self.payload[..]) {
            self.refused = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::Hash;

    use super::*;

    /// Ids differ in their slot, which is counted up: neither a table's place, the low bits, nor
    /// what it compares first, the top seven, may be the same for many.
    #[test]
    fn hashes_of_neighbours_are_spread() {
        let hash = |slot: u64| {
            let mut hasher = Mixed::default();
            (7_u32, 1_u64 << 32 | slot).hash(&mut hasher);
            hasher.finish()
        };
        let hashes: Vec<u64> = (0..10_000).map(hash).collect();
        let different =
            |of: fn(u64) -> u64| hashes.iter().map(|&hash| of(hash)).collect::<BTreeSet<_>>().len();
        assert_eq!(different(|hash| hash), 10_000);
        let places = different(|hash| hash & 0x3fff);
        assert!(places > 6_000, "{places} of 16,384 places are taken by 10,000");
        assert_eq!(different(|hash| hash >> 57), 128);
    }
}

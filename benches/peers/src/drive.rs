//! The client's work: one set of measuring loops, whatever carries the messages.
//!
//! A subject brings a [`Client`]; its calls are asynchronous, and one that never waits is run by
//! [`now_or_never`]. Fan-in is elsewhere: in `tasks` for runtimes, in `subjects/fan_in.rs` for
//! those that wait for many connections with one call. Every scenario checks an answer first, then
//! warms up, then measures: the same clock readings, the same comparisons, the same messages for
//! every subject.
//!
//! A round trip is timed from before the request is stamped to after the echo was compared. In
//! `paced` it counts from the instant the request was due, so that one late answer delays what is
//! measured of the next (no coordinated omission), and the wait for that instant spins: timers are
//! not what is compared.

use std::cell::RefCell;
use std::error::Error;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::thread;

use hdrhistogram::Histogram;
use ringwire::time::{Nanos, process_cpu_ns};

use crate::job::{BULK_BYTES, BULK_PERIOD_NS, Calls, Job, Round, Scenario};
use crate::message::{Message, Seen, Tag};
use crate::{histogram, process};

/// Why a round has no figures. Fifteen libraries, fifteen error types: nobody tells them apart.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Streamed bytes between two readings of the clock.
const BATCH_BYTES: usize = 64 << 10;

/// The client's end of one connection (or session, or pair of sockets) of a subject.
#[allow(async_fn_in_trait, reason = "used with concrete types only, on one thread")]
pub trait Client {
    /// Sends `message`, waits for the echo and returns whether it is the same, byte by byte.
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure>;

    /// Sends a streamed message; may gather, and waits when the peer does not take more.
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure>;

    /// Sends all that was gathered and asks what has arrived since it was last asked.
    async fn ask(&mut self) -> Result<Seen, Failure>;

    /// Hands over a bulk message that may travel while others do.
    async fn bulk(&mut self, _: &mut Message) -> Result<(), Failure> {
        Err("no bulk beside other messages".into())
    }

    /// As [`ask`](Self::ask), for bulk.
    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        Err("no bulk beside other messages".into())
    }

    /// Waits for `until`, spinning. Subjects that move bulk meanwhile do it here; others let their
    /// threads run, which share the core.
    async fn idle_until(&mut self, until: Nanos) -> Result<(), Failure> {
        while Nanos::now() < until {
            thread::yield_now();
        }
        Ok(())
    }

    /// System calls of both ends so far, where they are counted. Never while something is timed.
    async fn calls(&mut self) -> Result<Option<Calls>, Failure> {
        Ok(None)
    }
}

/// Carries out the round of `job` with what `connect` makes of the server's address.
///
/// # Errors
///
/// The client's; and when the round is one of many connections, which this does not drive.
pub async fn drive<C: Client>(
    job: &Job,
    connect: impl AsyncFn(&Job) -> Result<C, Failure>,
) -> Result<Round, Failure> {
    if job.case.scenario == Scenario::FanIn {
        return Err("one connection a client".into());
    }
    let mut client = connect(job).await?;
    match job.case.scenario {
        Scenario::Stream => stream(job, &mut client).await,
        Scenario::Paced => paced(job, &mut client).await,
        Scenario::Rtt | Scenario::FanIn => rtt(job, &mut client).await,
    }
}

/// What was called since `before`.
async fn calls_since(
    before: Option<Calls>,
    client: &mut impl Client,
) -> Result<Option<Calls>, Failure> {
    Ok(client.calls().await?.zip(before).map(|(now, before)| now.since(before)))
}

/// Runs a future that never waits.
///
/// # Errors
///
/// The future's.
///
/// # Panics
///
/// When it waits all the same.
pub fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a blocking client does not wait"),
    }
}

/// Wall and CPU time of both ends since it was started.
pub struct Stopwatch {
    started: Nanos,
    cpu_client_ns: u64,
    cpu_server_ns: u64,
    server: process::CpuClock,
}

impl Stopwatch {
    pub fn start(job: &Job) -> Result<Self, Failure> {
        let server = process::CpuClock::of(job.server_pid)?;
        // The dearer readings first, so that they lie outside the time measured.
        let cpu_server_ns = server.read()?;
        let cpu_client_ns = process_cpu_ns();
        Ok(Self { started: Nanos::now(), cpu_client_ns, cpu_server_ns, server })
    }

    pub fn stop(self, frames: u64, errors: u64) -> Result<Round, Failure> {
        let elapsed_ns = Nanos::now().0.saturating_sub(self.started.0).max(1);
        Ok(Round {
            frames,
            elapsed_ns,
            cpu_client_ns: process_cpu_ns() - self.cpu_client_ns,
            cpu_server_ns: self.server.read()? - self.cpu_server_ns,
            errors,
            ..Round::default()
        })
    }
}

/// Where round trips are recorded: one histogram, maybe for the trips of many connections.
#[derive(Clone)]
pub struct Latency(Rc<RefCell<Histogram<u64>>>);

impl Default for Latency {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(histogram::new())))
    }
}

impl Latency {
    pub fn reset(&self) {
        self.0.borrow_mut().reset();
    }

    #[inline]
    pub fn record(&self, ns: u64) {
        self.0.borrow_mut().saturating_record(ns);
    }

    /// Round trips recorded.
    pub fn count(&self) -> u64 {
        self.0.borrow().len()
    }

    pub fn encode(&self) -> String {
        histogram::encode(&self.0.borrow())
    }
}

/// The round trips of one connection and what became of them.
pub struct Trips {
    message: Message,
    sequence: u64,
    latency: Latency,
    pub errors: u64,
}

impl Trips {
    pub fn new(payload_bytes: usize, latency: &Latency) -> Self {
        let message = Message::new(payload_bytes);
        Self { message, sequence: 0, latency: latency.clone(), errors: 0 }
    }

    /// Messages sent.
    #[cfg(test)]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// One round trip whose answer must be right: timing wrong ones would be pointless.
    pub async fn check<C: Client>(&mut self, client: &mut C) -> Result<(), Failure> {
        self.one(client, Nanos::now()).await?;
        if self.errors > 0 {
            return Err("the first echo is not what was sent".into());
        }
        Ok(())
    }

    /// One after the other until `until`.
    pub async fn run<C: Client>(&mut self, client: &mut C, until: Nanos) -> Result<(), Failure> {
        let mut now = Nanos::now();
        while now < until {
            now = self.one(client, Nanos::now()).await?;
        }
        Ok(())
    }

    /// Hot path: what is measured.
    #[inline]
    async fn one<C: Client>(&mut self, client: &mut C, start: Nanos) -> Result<Nanos, Failure> {
        self.sequence += 1;
        self.message.stamp(Tag::Echo, self.sequence);
        let is_right = client.echo(&mut self.message).await?;
        let end = Nanos::now();
        self.latency.record(end.0.saturating_sub(start.0));
        self.errors += u64::from(!is_right);
        Ok(end)
    }
}

async fn rtt<C: Client>(job: &Job, client: &mut C) -> Result<Round, Failure> {
    let latency = Latency::default();
    let mut trips = Trips::new(job.case.payload_bytes, &latency);
    trips.check(client).await?;
    trips.run(client, Nanos(Nanos::now().0 + job.warm_up_ns)).await?;
    latency.reset();
    let before = client.calls().await?;
    let stopwatch = Stopwatch::start(job)?;
    trips.run(client, Nanos(Nanos::now().0 + job.duration_ns)).await?;
    let round = stopwatch.stop(2 * latency.count(), trips.errors)?;
    let calls = calls_since(before, client).await?;
    Ok(Round { histogram_v2: Some(latency.encode()), calls, ..round })
}

async fn stream<C: Client>(job: &Job, client: &mut C) -> Result<Round, Failure> {
    let mut message = Message::new(job.case.payload_bytes);
    let batch = (BATCH_BYTES / job.case.payload_bytes).max(1);
    let mut sequence = 0;
    let mut pump = async |client: &mut C, until: Nanos| {
        let first = sequence;
        loop {
            for _ in 0..batch {
                message.stamp(Tag::Stream, sequence);
                client.send(&mut message).await?;
                sequence += 1;
            }
            if Nanos::now() >= until {
                break;
            }
        }
        let seen = client.ask().await?;
        Ok::<_, Failure>((sequence - first, seen))
    };

    let (sent, seen) = pump(client, Nanos(0)).await?;
    if seen != (Seen { frames: sent, errors: 0 }) {
        return Err(format!("of the first {sent} messages the receiver saw {seen:?}").into());
    }
    let wrong = |(sent, seen): (u64, Seen)| seen.errors + sent.abs_diff(seen.frames + seen.errors);
    let warm_up = pump(client, Nanos(Nanos::now().0 + job.warm_up_ns)).await?;
    let before = client.calls().await?;
    let stopwatch = Stopwatch::start(job)?;
    let measured = pump(client, Nanos(Nanos::now().0 + job.duration_ns)).await?;
    let round = stopwatch.stop(measured.1.frames, wrong(warm_up) + wrong(measured))?;
    Ok(Round { calls: calls_since(before, client).await?, ..round })
}

/// Requests at a fixed rate, one in flight, and bulk messages at theirs.
async fn paced<C: Client>(job: &Job, client: &mut C) -> Result<Round, Failure> {
    let latency = Latency::default();
    let mut trips = Trips::new(job.case.payload_bytes, &latency);
    let mut bulk = job.case.bulk.then(|| Bulk::new(Nanos::now()));
    trips.check(client).await?;
    pace(job, client, &mut trips, &mut bulk, job.warm_up_ns).await?;
    if bulk.is_some() {
        let seen = client.ask_bulk().await?;
        if seen.frames == 0 || seen.errors > 0 {
            return Err(format!("of the first bulk messages the receiver saw {seen:?}").into());
        }
    }

    latency.reset();
    let sent_before = bulk.as_ref().map_or(0, |bulk| bulk.sequence);
    let before = client.calls().await?;
    let stopwatch = Stopwatch::start(job)?;
    pace(job, client, &mut trips, &mut bulk, job.duration_ns).await?;
    let mut round = stopwatch.stop(2 * latency.count(), trips.errors)?;
    round.calls = calls_since(before, client).await?;
    if let Some(bulk) = bulk {
        let seen = client.ask_bulk().await?;
        let sent = bulk.sequence - sent_before;
        round.errors += seen.errors + sent.abs_diff(seen.frames + seen.errors);
        round.bulk_frames = Some(seen.frames);
        round.bulk_frames_due = Some(job.duration_ns / BULK_PERIOD_NS);
    }
    Ok(Round { histogram_v2: Some(latency.encode()), ..round })
}

struct Bulk {
    message: Message,
    sequence: u64,
    due: Nanos,
}

impl Bulk {
    fn new(due: Nanos) -> Self {
        Self { message: Message::new(BULK_BYTES), sequence: 0, due }
    }
}

async fn pace<C: Client>(
    job: &Job,
    client: &mut C,
    trips: &mut Trips,
    bulk: &mut Option<Bulk>,
    duration_ns: u64,
) -> Result<(), Failure> {
    let period_ns = job.case.period_ns().ok_or("only paced cases have a rate")?;
    let mut due = Nanos(Nanos::now().0 + period_ns);
    let until = Nanos(due.0 + duration_ns);
    while due < until {
        client.idle_until(due).await?;
        let now = trips.one(client, due).await?;
        due = Nanos(due.0 + period_ns);
        if let Some(bulk) = bulk.as_mut().filter(|bulk| bulk.due <= now) {
            bulk.message.stamp(Tag::Bulk, bulk.sequence);
            client.bulk(&mut bulk.message).await?;
            bulk.sequence += 1;
            bulk.due = Nanos(bulk.due.0 + BULK_PERIOD_NS);
        }
    }
    Ok(())
}

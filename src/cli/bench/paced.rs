//! When requests are due, which are under way, and how late their answers were.
//!
//! With a period a request is due at its instant, whether the answers before it have come or not,
//! and its time counts from that instant: what queues behind a slow answer, or behind a sender that
//! was busy, is late too. (Counting from when it was sent would leave out exactly what a control
//! loop suffers from.) Without a period a request is due when the answer before it has come.
//!
//! Invariant: answers come in the order of the requests, which one lane and one socket promise.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use ringwire::time::Nanos;

use super::harness::{SubjectError, WAIT_MAX};
use super::plan::{Bulk, Plan};
use super::round::{Calls, Extra, Round, Stopwatch, latency_histogram};

/// Bytes of requests under way at most, so that both ends never wait for each other to read. A
/// request that is held back counts from its instant all the same.
const UNDER_WAY_BYTES_MAX: usize = 64 << 10;

/// The round trips of one run, in the order they were due, one every `period`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Course {
    pub(super) period: Duration,
    pub(super) latencies_ns: Vec<u64>,
}

/// See the module. Everything is allocated, and touched, before it is timed.
#[derive(Debug)]
pub(super) struct Load {
    period_ns: Option<u64>,
    under_way_max: usize,
    /// When the present run began, and when requests end.
    start: Nanos,
    end: Nanos,
    /// Requests of the present run that were sent, and how many there will be.
    sent: u64,
    count: u64,
    /// When each request under way was due.
    under_way: VecDeque<Nanos>,
    /// Answers ever.
    answered: u64,
    /// When something last came or went.
    moved: Nanos,
    latency: Histogram<u64>,
    course: Vec<u64>,
    errors: u64,
}

/// Something that carries out a run: sends what is due and takes the answers.
pub(super) trait Runner {
    /// Until the load is [done](Load::is_done).
    fn run(&mut self) -> Result<(), SubjectError>;

    /// Looks at the load, or changes it between two runs.
    fn with_load<R>(&mut self, take: impl FnOnce(&mut Load) -> R) -> R;

    /// Calls so far, of both ends.
    fn calls(&self) -> Option<Calls>;

    /// Payload bytes of the stream beside that have arrived.
    fn bulk_bytes(&self) -> u64;
}

impl Load {
    pub(super) fn new(plan: &Plan) -> Self {
        let period_ns = plan
            .case
            .period
            .map(|period| u64::try_from(period.as_nanos()).expect("an option is shorter").max(1));
        let under_way_max = match period_ns {
            Some(_) => (UNDER_WAY_BYTES_MAX / plan.case.frame_bytes()).max(1),
            None => 1,
        };
        let mut this = Self {
            period_ns,
            under_way_max,
            start: Nanos(0),
            end: Nanos(0),
            sent: 0,
            count: 0,
            under_way: VecDeque::with_capacity(under_way_max),
            answered: 0,
            moved: Nanos(0),
            latency: latency_histogram(),
            course: Vec::new(),
            errors: 0,
        };
        let most = this.count_in(plan.duration.max(plan.warm_up()));
        if period_ns.is_some() {
            // Not zeroes: their pages would be touched, for the first time, while it is timed.
            this.course.resize(usize::try_from(most).expect("memory for each"), 1);
        }
        this
    }

    /// Begins a run: what was measured before is forgotten.
    pub(super) fn begin(&mut self, now: Nanos, duration: Duration) {
        assert!(self.under_way.is_empty(), "the run before has ended");
        (self.start, self.end, self.moved) = (now, now + duration, now);
        (self.sent, self.count) = (0, self.count_in(duration));
        self.latency.reset();
        self.course.clear();
        self.errors = 0;
    }

    /// How many requests fall due in `duration`: at least one.
    fn count_in(&self, duration: Duration) -> u64 {
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.period_ns.map_or(u64::MAX, |period_ns| duration_ns.div_ceil(period_ns).max(1))
    }

    /// When the next request is to be sent; [`Nanos::NEVER`] while an answer must come before, and
    /// when there are no more.
    ///
    /// Hot path: once per turn. No allocation, no syscall, no clock.
    #[inline]
    pub(super) fn due(&self) -> Nanos {
        if self.under_way.len() >= self.under_way_max || self.sent >= self.count {
            return Nanos::NEVER;
        }
        match self.period_ns {
            Some(period_ns) => Nanos(self.start.0 + self.sent * period_ns),
            // The first, and then until the time is up.
            None if self.sent == 0 || self.moved < self.end => self.moved,
            None => Nanos::NEVER,
        }
    }

    /// Books that the request that was due is about to be sent.
    #[inline]
    pub(super) fn send(&mut self, now: Nanos) {
        let due = if self.period_ns.is_some() { self.due() } else { now };
        self.under_way.push_back(due);
        self.sent += 1;
        self.moved = now;
    }

    /// Which request the next answer is to, and which the next request is, counted from 0.
    #[inline]
    pub(super) fn next(&self) -> (u64, u64) {
        (self.answered, self.answered + self.under_way.len() as u64)
    }

    /// Books the answer to the oldest request under way. Returns whether there was one.
    #[inline]
    pub(super) fn answer(&mut self, now: Nanos, is_right: bool) -> bool {
        let Some(due) = self.under_way.pop_front() else {
            self.errors += 1;
            return false;
        };
        let latency_ns = now.0.saturating_sub(due.0);
        self.latency.saturating_record(latency_ns);
        if self.period_ns.is_some() {
            self.course.push(latency_ns);
        }
        self.answered += 1;
        self.errors += u64::from(!is_right);
        self.moved = now;
        true
    }

    /// Whether all requests were sent and answered.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.under_way.is_empty() && self.due() == Nanos::NEVER
    }

    /// Whether an answer has stayed away for too long.
    #[inline]
    pub(super) fn is_silent(&self, now: Nanos) -> bool {
        !self.under_way.is_empty() && now.since(self.moved) > WAIT_MAX
    }
}

/// One round: an answer that is checked, a warm-up, the timed run.
pub(super) fn measure(plan: &Plan, runner: &mut impl Runner) -> Result<Round, SubjectError> {
    if run(runner, Duration::ZERO)? > 0 {
        let what = "first echoes that are right";
        return Err(SubjectError::WrongAnswer { what, expected: 1, got: 0 });
    }
    run(runner, plan.warm_up())?;

    let (before, bulk_before) = (runner.calls(), runner.bulk_bytes());
    let stopwatch = Stopwatch::start();
    let errors = run(runner, plan.duration)?;
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    let calls = runner.calls().zip(before).map(|(after, before)| after.since(before));
    let bulk_bytes = runner.bulk_bytes() - bulk_before;
    Ok(runner.with_load(|load| Round {
        frames: 2.0 * load.latency.len() as f64,
        latency: Some(load.latency.clone()),
        elapsed_ns,
        cpu_ns,
        calls,
        errors,
        extra: Extra {
            bulk_bytes: (plan.case.bulk != Bulk::Nothing).then_some(bulk_bytes),
            course: plan
                .case
                .period
                .map(|period| Course { period, latencies_ns: load.course.clone() }),
            ..Extra::default()
        },
    }))
}

/// Returns how many answers were wrong.
fn run(runner: &mut impl Runner, duration: Duration) -> Result<u64, SubjectError> {
    runner.with_load(|load| load.begin(Nanos::now(), duration));
    runner.run()?;
    Ok(runner.with_load(|load| load.errors))
}

#[cfg(test)]
mod tests {
    use ringwire::config::Idle;

    use super::super::options::Scenario;
    use super::super::plan::{Case, sample};
    use super::*;

    const MS: u64 = 1_000_000;

    fn load(period: Option<Duration>, payload_bytes: usize) -> Load {
        let plan = sample(Scenario::Paced, Idle::Spin, payload_bytes, 1);
        let plan = Plan { case: Case { period, ..plan.case }, ..plan };
        Load::new(&plan)
    }

    #[test]
    fn request_held_back_counts_from_when_it_was_due() {
        // One at a time: its frames are as long as what may be under way.
        let mut load = load(Some(Duration::from_millis(1)), UNDER_WAY_BYTES_MAX);
        load.begin(Nanos(10 * MS), Duration::from_millis(3));
        assert_eq!(load.due(), Nanos(10 * MS));
        load.send(Nanos(10 * MS));
        assert_eq!(load.due(), Nanos::NEVER, "the answer comes first");
        assert!(load.answer(Nanos(15 * MS), true));
        for (now, late_by) in [(15, 4), (15, 3)] {
            assert!(load.due() < Nanos(now * MS), "it is late already");
            load.send(Nanos(now * MS));
            assert!(load.answer(Nanos(now * MS), true));
            assert_eq!(load.course.last(), Some(&(late_by * MS)));
        }
        assert!(load.is_done());
        assert_eq!(load.course, [5 * MS, 4 * MS, 3 * MS]);
        assert_eq!((load.latency.len(), load.errors), (3, 0));
    }

    #[test]
    fn requests_leave_before_answers_come() {
        let mut load = load(Some(Duration::from_millis(1)), 64);
        load.begin(Nanos(0), Duration::from_millis(2));
        load.send(load.due());
        assert_eq!(load.due(), Nanos(MS));
        assert_eq!(load.next(), (0, 1));
        load.send(Nanos(MS));
        assert_eq!(load.due(), Nanos::NEVER, "two fall due in this time");
        assert!(!load.is_done() && !load.is_silent(Nanos(MS)));
        assert!(load.is_silent(Nanos(MS) + WAIT_MAX + Duration::from_nanos(1)));
        assert!(load.answer(Nanos(MS), true) && load.answer(Nanos(2 * MS), false));
        assert!(load.is_done());
        assert_eq!(load.errors, 1);
        assert!(!load.answer(Nanos(2 * MS), true), "nobody asked");
        assert_eq!(load.errors, 2);
    }

    #[test]
    fn closed_loop_asks_when_it_was_answered_until_its_time_is_up() {
        let mut load = load(None, 64);
        load.begin(Nanos(5 * MS), Duration::ZERO);
        assert_eq!(load.due(), Nanos(5 * MS), "one request at least");
        load.send(Nanos(6 * MS));
        assert_eq!(load.due(), Nanos::NEVER);
        assert!(load.answer(Nanos(8 * MS), true));
        assert!(load.is_done());
        assert_eq!(load.latency.max(), load.latency.highest_equivalent(2 * MS), "from the send");
        assert!(load.course.is_empty(), "there is no rate");
    }
}

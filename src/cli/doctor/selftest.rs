//! Measures this host for two seconds: how long a wake-up takes, how late timers are, how long a
//! spinning core is kept from its work, and what a round trip costs at least.
//!
//! ```text
//! wake-ups     eventfd from one pinned thread to another that sleeps in read(2)      0.4 s
//! timers       clock_nanosleep(2) to points in time, lateness of each                0.4 s
//! spin         a loop that reads the clock, and the gaps in it                       0.4 s
//! round trips  64 bytes over TCP on 127.0.0.1, plain sockets, spinning and blocking  0.8 s
//! ```
//!
//! What is measured is the host, not ringwire: no ring is used. The figures are those of these two
//! seconds; a host that is busy now and then shows it only when it is. Every wait has a deadline.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use ringwire::Nanos;
use ringwire::config::{Config, Idle};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use serde::Serialize;

use super::company::{Company, Used, preempted};
use super::report::Check;
use crate::cli::bench::{Cores, choose_cores, floor, latency_histogram, pin};
use crate::cli::show::Short;

/// How long each part takes.
const PART: Duration = Duration::from_millis(400);
/// Time for a thread to fall asleep, and for its core to.
const DOZE: Duration = Duration::from_micros(100);
const TIMER_PERIOD: Duration = Duration::from_micros(250);
/// No part waits longer for anything.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// Bounds of the histogram of gaps.
const GAPS_NS: [u64; 5] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// Wake-ups that take longer show in the latency of a sleeping reactor.
const WAKE_NS_MAX: u64 = 100_000;
/// Timers that are later than this, beyond their slack.
const TIMER_NS_MAX: u64 = 200_000;
/// A core that was away for longer shows in the tail of a spinning reactor.
const GAP_NS_MAX: u64 = 1_000_000;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SelfTest {
    pub(super) seconds: f64,
    /// Where the reactor would be, and where whoever talks to it.
    pub(super) cores: [usize; 2],
    /// From the write that wakes to the first reading of the clock behind it.
    pub(super) wake_up: Option<Spread>,
    /// From the point in time a thread wanted to wake.
    pub(super) timer: Option<Spread>,
    pub(super) spin: Jitter,
    /// `None` with one core.
    pub(super) round_trip_spinning: Option<Spread>,
    pub(super) round_trip_blocking: Option<Spread>,
    /// Who else had the machine meanwhile.
    pub(super) company: Company,
}

/// A distribution of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Spread {
    pub(super) samples: u64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) p99_9_ns: u64,
    pub(super) max_ns: u64,
}

/// What kept a spinning core from its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Jitter {
    pub(super) readings: u64,
    pub(super) longest_ns: u64,
    /// Time in gaps of a microsecond and more, in millionths.
    pub(super) lost_ppm: u64,
    /// How many gaps were at least 1 us, 10 us, 100 us, 1 ms and 10 ms long: each counts in the
    /// longest bound it reaches.
    pub(super) gaps: [u64; GAPS_NS.len()],
}

impl SelfTest {
    /// Measures. Takes two seconds, and one or two cores meanwhile.
    pub(super) fn run(config: &Config) -> Self {
        let begun = Nanos::now();
        let cores = match (config.cores(), choose_cores()) {
            // Where the first reactor is to be, as far as this process may go there.
            (&[server, ..], Ok(Cores { client, .. })) if client != server => {
                Cores { server, client, allowed: 2 }
            }
            (&[server, ..], Ok(Cores { server: client, .. })) => {
                Cores { server, client, allowed: 2 }
            }
            (_, Ok(cores)) => cores,
            (_, Err(_)) => Cores { server: 0, client: 0, allowed: 1 },
        };
        // What fails is told as not measured, with the reason in the log.
        let measured = |what: &str, outcome: io::Result<Histogram<u64>>| {
            outcome
                .inspect_err(|error| tracing::warn!(%error, "{what} could not be measured"))
                .ok()
                .and_then(|histogram| Spread::of(&histogram))
        };
        let has_two = cores.server != cores.client;
        let round_trip = |idle| measured("round trips", floor(config, cores, idle, PART));
        let before = Used::now();
        let spinning = || {
            let before = preempted();
            let jitter = spin_jitter();
            Ok((jitter, before.zip(preempted()).map(|(old, new)| new.saturating_sub(old))))
        };
        let (spin, preempted) = on_core(cores.server, spinning).unwrap_or_default();
        Self {
            cores: [cores.server, cores.client],
            wake_up: measured("wake-ups", wake_ups(cores)),
            timer: measured("timers", on_core(cores.server, timers)),
            spin,
            round_trip_spinning: has_two.then(|| round_trip(Idle::Spin)).flatten(),
            round_trip_blocking: round_trip(Idle::Park),
            // After all of the above: fields are made in their order here.
            company: Company::since(before, preempted),
            seconds: Nanos::now().since(begun).as_secs_f64(),
        }
    }

    /// Judges what was measured.
    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![
            self.company.check(),
            spread(
                "wake-up",
                self.wake_up,
                WAKE_NS_MAX,
                "see idle states, CPU governor and machine; idle = \"spin\" needs none",
            ),
            spread(
                "timer lateness",
                self.timer,
                TIMER_NS_MAX,
                "see timer slack and idle states; another task may have had the core",
            ),
            self.spin.check(),
        ];
        if self.round_trip_spinning.is_some() {
            checks.push(spread("round trip, spin", self.round_trip_spinning, u64::MAX, ""));
        }
        checks.push(spread("round trip, block", self.round_trip_blocking, u64::MAX, ""));
        checks
    }
}

impl Spread {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        (!histogram.is_empty()).then(|| Self {
            samples: histogram.len(),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            max_ns: histogram.max(),
        })
    }
}

fn short(nanos: u64) -> Short {
    Short(Duration::from_nanos(nanos))
}

/// Judges a distribution by its p99.
fn spread(check: &'static str, spread: Option<Spread>, p99_max: u64, advice: &str) -> Check {
    let Some(spread) = spread else {
        return Check::better(check, "could not be measured")
            .advice("RUST_LOG=warn says what the system refused");
    };
    let found = format!(
        "p50 {}, p99 {}, max {}",
        short(spread.p50_ns),
        short(spread.p99_ns),
        short(spread.max_ns)
    );
    if spread.p99_ns > p99_max {
        return Check::better(check, found).advice(advice);
    }
    Check::good(check, found)
}

impl Jitter {
    /// Adds the time between two readings of the clock.
    #[inline]
    fn add(&mut self, gap_ns: u64) {
        self.readings += 1;
        self.longest_ns = self.longest_ns.max(gap_ns);
        if gap_ns >= GAPS_NS[0] {
            let bound = GAPS_NS.partition_point(|&bound| bound <= gap_ns) - 1;
            self.gaps[bound] += 1;
            self.lost_ppm += gap_ns;
        }
    }

    /// Turns the lost time into a share of `elapsed_ns`.
    fn finish(mut self, elapsed_ns: u64) -> Self {
        let share = u128::from(self.lost_ppm) * 1_000_000 / u128::from(elapsed_ns.max(1));
        self.lost_ppm = u64::try_from(share).unwrap_or(u64::MAX);
        self
    }

    fn check(&self) -> Check {
        const CHECK: &str = "spin jitter";
        if self.readings == 0 {
            return Check::better(CHECK, "could not be measured");
        }
        let mut found = format!("longest gap {}", short(self.longest_ns));
        let gaps = self.gaps.iter().zip(GAPS_NS).filter(|(count, _)| **count > 0);
        for (index, (count, bound)) in gaps.enumerate() {
            let before = ["; gaps:", ","][index.min(1)];
            found += &format!("{before} {count} >{}", bound_name(bound));
        }
        let (whole, rest) = (self.lost_ppm / 10_000, self.lost_ppm % 10_000 / 100);
        found += &format!("; away for {whole}.{rest:02}% of the time");
        if self.longest_ns > GAP_NS_MAX {
            return Check::better(CHECK, found).advice(
                "see isolated cores, interrupts and machine: something else ran on that core",
            );
        }
        Check::good(CHECK, found)
    }
}

fn bound_name(bound_ns: u64) -> String {
    match bound_ns {
        ns if ns >= 1_000_000 => format!("{}ms", ns / 1_000_000),
        ns => format!("{}µs", ns / 1_000),
    }
}

/// Runs `work` on a thread that is pinned to `core`.
fn on_core<T: Send>(core: usize, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || {
            pin(core);
            work()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}

/// Sleeps until a point in time.
fn sleep_until(at: Nanos) -> io::Result<()> {
    let request = Timespec {
        tv_sec: i64::try_from(at.0 / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: (at.0 % 1_000_000_000).cast_signed(),
    };
    loop {
        match clock_nanosleep_absolute(ClockId::Monotonic, &request) {
            Err(Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// A thread that sleeps is woken by another, over and over.
fn wake_ups(cores: Cores) -> io::Result<Histogram<u64>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC)?;
    // When it was woken; 0 while it has not told that it is about to sleep.
    let woken_at = AtomicU64::new(0);
    let is_ready = AtomicBool::new(false);
    let end = Nanos::now() + PART;
    thread::scope(|scope| {
        let sleeper = thread::Builder::new().spawn_scoped(scope, || -> io::Result<_> {
            pin(cores.server);
            let mut histogram = latency_histogram();
            loop {
                // ORDERING: Release, pairs with the waker's load: what it then stores is not
                // overtaken by what this thread did before.
                is_ready.store(true, Ordering::Release);
                let mut ready = [PollFd::new(&event, PollFlags::IN)];
                if poll(&mut ready, Some(&PATIENCE))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let now = Nanos::now();
                read(&event, &mut [0; 8])?;
                // ORDERING: Acquire, pairs with the waker's store; the eventfd orders it as well.
                match woken_at.load(Ordering::Acquire) {
                    u64::MAX => return Ok(histogram),
                    at => histogram.saturating_record(now.0.saturating_sub(at)),
                }
            }
        })?;
        let waker = thread::Builder::new().spawn_scoped(scope, || -> io::Result<()> {
            pin(cores.client);
            loop {
                let given_up = Nanos::now() + 5 * PART;
                // ORDERING: Acquire, pairs with the sleeper's store.
                while !is_ready.swap(false, Ordering::Acquire) {
                    if Nanos::now() > given_up {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    thread::yield_now();
                }
                sleep_until(Nanos::now() + DOZE)?;
                let now = Nanos::now();
                let is_last = now >= end;
                // ORDERING: Release, pairs with the sleeper's load.
                woken_at.store(if is_last { u64::MAX } else { now.0 }, Ordering::Release);
                write(&event, &1_u64.to_ne_bytes())?;
                if is_last {
                    return Ok(());
                }
            }
        })?;
        let panicked = || io::Error::other("a thread panicked");
        waker.join().map_err(|_| panicked())??;
        sleeper.join().map_err(|_| panicked())?
    })
}

/// A thread sleeps to points in time, and notes how late it wakes.
fn timers() -> io::Result<Histogram<u64>> {
    let mut histogram = latency_histogram();
    let mut due = Nanos::now() + TIMER_PERIOD;
    let end = due + PART;
    while due < end {
        sleep_until(due)?;
        let now = Nanos::now();
        histogram.saturating_record(now.0.saturating_sub(due.0));
        // Late once is not late twice.
        due = now + TIMER_PERIOD;
    }
    Ok(histogram)
}

/// A loop that reads the clock: the time between two readings is some 25 ns, or something came in
/// between.
fn spin_jitter() -> Jitter {
    let mut jitter = Jitter::default();
    let start = Nanos::now();
    let end = start + PART;
    let mut last = start;
    while last < end {
        let now = Nanos::now();
        jitter.add(now.0.saturating_sub(last.0));
        last = now;
    }
    jitter.finish(last.0 - start.0)
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn everything_is_measured_in_two_seconds() {
        let all = |found: &SelfTest| {
            [found.wake_up, found.timer, found.round_trip_blocking, found.round_trip_spinning]
        };
        let has_samples = |found: &SelfTest| all(found).iter().flatten().all(|s| s.samples > 10);
        // A machine that does much else may stand in the way of one.
        let found = (0..5).map(|_| SelfTest::run(&Config::default())).find(has_samples);
        let found = found.expect("more than ten samples of each");
        let spreads = [found.wake_up, found.timer, found.round_trip_blocking];
        for spread in all(&found).into_iter().flatten() {
            let order = [spread.p50_ns, spread.p99_ns, spread.p99_9_ns, spread.max_ns];
            // The histogram's values have three digits, its maximum all.
            assert!(order[..3].is_sorted() && order[0] > 0, "{spread:?}");
        }
        assert!(spreads.iter().all(Option::is_some), "{found:?}");
        assert!(found.spin.readings > 1_000, "{found:?}");
        assert!(found.spin.longest_ns > 0);
        assert!(found.seconds > 1.5, "{found:?}");
        assert!(found.company.others_percent.is_some(), "{found:?}");
        assert!(found.company.preempted.is_some(), "{found:?}");
        assert_eq!(found.checks()[0].check, "company", "before the figures that it is about");
    }

    #[test]
    fn gaps_are_counted_by_the_longest_bound_they_reach() {
        let mut jitter = Jitter::default();
        for gap in [25, 999, 1_000, 9_999, 10_000, 5_000_000, 40_000_000] {
            jitter.add(gap);
        }
        assert_eq!(jitter.readings, 7);
        assert_eq!(jitter.gaps, [2, 1, 0, 1, 1]);
        assert_eq!(jitter.longest_ns, 40_000_000);
        let jitter = jitter.finish(450_000_000);
        assert_eq!(jitter.lost_ppm, 100_046);
        let check = jitter.check();
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        let expected = "longest gap 40.0 ms; gaps: 2 >1µs, 1 >10µs, 1 >1ms, 1 >10ms; \
                        away for 10.00% of the time";
        assert_eq!(check.found, expected);
        let quiet = Jitter { readings: 9, longest_ns: 900_000, ..Jitter::default() };
        assert_eq!(quiet.check().verdict, Verdict::Good);
        assert_eq!(Jitter::default().check().verdict, Verdict::CouldBeBetter);
    }

    #[test]
    fn slow_wake_ups_could_be_better() {
        let with =
            |p99_ns| Spread { samples: 9, p50_ns: 1, p99_ns, p99_9_ns: p99_ns, max_ns: p99_ns };
        let judge = |p99| spread("wake-up", Some(with(p99)), WAKE_NS_MAX, "advice").verdict;
        assert_eq!(judge(WAKE_NS_MAX), Verdict::Good);
        assert_eq!(judge(WAKE_NS_MAX + 1), Verdict::CouldBeBetter);
        assert_eq!(spread("wake-up", None, 1, "x").verdict, Verdict::CouldBeBetter);
    }
}

//! What the machine does to whoever spins on its cores: the floor of tails.
//!
//! Two threads read the clock and do nothing else, on the cores of the two ends, for as long as
//! others exchange messages. For each instant at which a request would be due, each of them notes
//! how late its first reading after it is; the sample is that of the later one. No answer to a
//! request of that instant could have come sooner, whatever carried it: one of its ends did not
//! run. What a host takes from its guests shows here, and so do interrupts and other threads.
//!
//! Both spin, whatever the idle strategy is. Where both ends share a core there is one thread.

use std::thread;
use std::time::Duration;

use ringwire::time::Nanos;

use super::harness::{Subject, SubjectError, pin};
use super::paced::Course;
use super::plan::Plan;
use super::round::{Extra, Round, Stopwatch, latency_histogram};

/// The name in the results. Nothing is compared with it: it does no work.
pub(in crate::cli) const NAME: &str = "clock";

/// Two clocks that are read.
#[derive(Debug)]
pub(super) struct Clock;

/// Instants, one every `period`.
#[derive(Debug, Clone, Copy)]
struct Instants {
    start: Nanos,
    period: Duration,
    count: usize,
}

impl Subject for Clock {
    fn round(&self, plan: &Plan) -> Result<Round, SubjectError> {
        let period = plan.case.period.expect("only paced cases have it");
        let count = plan.duration.as_nanos().div_ceil(period.as_nanos()).max(1);
        let count = usize::try_from(count).expect("memory for each");
        let both = plan.cores.server != plan.cores.client;
        // The warm-up of the others: time for both threads to run.
        let instants = Instants { start: Nanos::now() + plan.warm_up(), period, count };
        let stopwatch = Stopwatch::start();
        let latencies_ns = thread::scope(|scope| {
            let server = both.then(|| {
                thread::Builder::new().name("server".into()).spawn_scoped(scope, || {
                    pin(plan.cores.server);
                    instants.watch(Nanos::now)
                })
            });
            let server = server.transpose().map_err(SubjectError::io("start a thread"))?;
            let client = instants.watch(Nanos::now);
            let server = server.map(|server| server.join()).transpose();
            let server = server.map_err(|_| SubjectError::Panicked)?;
            Ok::<_, SubjectError>(match server {
                Some(server) => later(&client, &server),
                None => client,
            })
        })?;
        let (elapsed_ns, cpu_ns) = stopwatch.stop();
        let mut latency = latency_histogram();
        for &nanos in &latencies_ns {
            latency.saturating_record(nanos);
        }
        Ok(Round {
            latency: Some(latency),
            frames: 0.0,
            elapsed_ns,
            cpu_ns,
            calls: None,
            errors: 0,
            extra: Extra { course: Some(Course { period, latencies_ns }), ..Extra::default() },
        })
    }
}

impl Instants {
    /// How late `read` is at each of them.
    ///
    /// Hot path: what is measured. No allocation, no system call.
    fn watch(self, mut read: impl FnMut() -> Nanos) -> Vec<u64> {
        // Not zeroes: their pages would be touched, for the first time, while it is timed.
        let mut late_ns = vec![1; self.count];
        let period_ns = u64::try_from(self.period.as_nanos()).expect("an option is shorter");
        let mut due = self.start;
        let mut at = 0;
        while at < self.count {
            let now = read();
            while at < self.count && due <= now {
                late_ns[at] = now.0 - due.0;
                at += 1;
                due.0 += period_ns;
            }
        }
        late_ns
    }
}

fn later(client: &[u64], server: &[u64]) -> Vec<u64> {
    client.iter().zip(server).map(|(&client, &server)| client.max(server)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_that_comes_late_is_late_for_every_instant_before_it() {
        let instants = Instants { start: Nanos(100), period: Duration::from_nanos(10), count: 4 };
        let mut readings = [90, 101, 105, 121, 140].into_iter().map(Nanos);
        let late = instants.watch(|| readings.next().expect("no reading after the last instant"));
        assert_eq!(late, [1, 11, 1, 10]);
        assert_eq!(later(&late, &[3, 3, 3, 3]), [3, 11, 3, 10]);
    }
}

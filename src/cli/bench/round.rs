//! What one round measured, and the instruments: wall and CPU time, calls, memory, latencies.
//!
//! Not here: what becomes of the rounds (`summary`).

use hdrhistogram::Histogram;
use ringwire::time::{Nanos, process_cpu_ns};

use super::harness::WAIT_MAX;
use super::options::Scenario;
use super::paced::Course;
use super::plan::Plan;

/// What one round measured.
#[derive(Debug)]
pub(super) struct Round {
    /// Round-trip times in nanoseconds; `None` where none are taken.
    pub(super) latency: Option<Histogram<u64>>,
    /// Frames that went from one end to the other.
    pub(super) frames: f64,
    pub(super) elapsed_ns: u64,
    /// CPU time of both ends.
    pub(super) cpu_ns: u64,
    /// System calls of both ends; `None` for subjects without a ring, whose calls nobody counts.
    pub(super) calls: Option<Calls>,
    /// Answers that were not what was asked for.
    pub(super) errors: u64,
    pub(super) extra: Extra,
}

/// What only some scenarios measure.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Payload bytes of the stream beside the messages that were measured, as far as they arrived.
    pub(super) bulk_bytes: Option<u64>,
    /// Memory that became resident for the connections, both ends together.
    pub(super) resident_bytes: Option<u64>,
    /// The round trips in the order they were due.
    pub(super) course: Option<Course>,
}

/// System calls that moved messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Calls {
    /// `io_uring_enter`.
    pub(super) enters: u64,
    /// send(2) past the ring to few connections, and recv(2) of a spinning reactor with few; only
    /// those that moved something.
    pub(super) direct: u64,
}

/// Wall and CPU time since it was started.
#[derive(Debug)]
pub(super) struct Stopwatch {
    started: Nanos,
    cpu_ns: u64,
}

/// Resident memory of the process since it was started.
#[derive(Debug)]
pub(super) struct Resident {
    before: Option<u64>,
}

/// A histogram from 1 ns to the longest wait, three digits. Recording into it allocates nothing.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    let highest = u64::try_from(WAIT_MAX.as_nanos()).expect("ten seconds fit");
    Histogram::new_with_bounds(1, highest, 3).expect("the bounds are constants and valid")
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        // The dearer reading first, so that it lies outside the time measured.
        let cpu_ns = process_cpu_ns();
        Self { started: Nanos::now(), cpu_ns }
    }

    /// Wall and CPU nanoseconds since the start.
    pub(super) fn stop(self) -> (u64, u64) {
        let now = Nanos::now();
        let cpu_ns = process_cpu_ns().saturating_sub(self.cpu_ns);
        (now.0.saturating_sub(self.started.0).max(1), cpu_ns)
    }
}

impl Resident {
    /// Starts when `plan` asks what connections cost.
    pub(super) fn start(plan: &Plan) -> Self {
        let is_asked = matches!(plan.case.scenario, Scenario::FanIn | Scenario::Idle);
        Self { before: is_asked.then(resident_bytes).flatten() }
    }

    /// What has become resident since the start.
    pub(super) fn stop(&self) -> Option<u64> {
        Some(resident_bytes()?.saturating_sub(self.before?))
    }
}

/// Memory of this process that is resident and no file's: proc_pid_status(5). `None` where the
/// kernel does not say.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

impl Calls {
    /// The calls made after `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self { enters: self.enters - before.enters, direct: self.direct - before.direct }
    }

    /// The sum.
    pub(super) fn with(self, other: Self) -> Self {
        Self { enters: self.enters + other.enters, direct: self.direct + other.direct }
    }
}

#[cfg(test)]
mod tests {
    use ringwire::config::Idle;

    use super::super::plan::sample;
    use super::*;

    #[test]
    fn memory_that_is_touched_is_resident() {
        let resident = Resident::start(&sample(Scenario::FanIn, Idle::Park, 64, 1));
        // Not optimised away, and more than the other tests of this process give back meanwhile.
        let touched = std::hint::black_box(vec![1_u8; 128 << 20]);
        let bytes = resident.stop().expect("the kernel says");
        assert!(bytes > 16 << 20, "{bytes}");
        drop(touched);
        let not_asked = Resident::start(&sample(Scenario::Rtt, Idle::Park, 64, 1));
        assert_eq!(not_asked.stop(), None);
    }
}

//! What the kernel says about a process: its CPU time and its memory. And where it may run.

use std::fs;
use std::io;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::drive::Failure;

/// The CPU time of all threads of a process, in nanoseconds.
pub struct CpuClock(ClockId);

impl CpuClock {
    pub fn of(pid: i32) -> Result<Self, Failure> {
        Ok(Self(clock_getcpuclockid(Pid::from_raw(pid))?))
    }

    pub fn read(&self) -> Result<u64, Failure> {
        let time = self.0.now()?;
        Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
    }
}

/// Resident memory of a process.
pub fn resident_bytes(pid: i32) -> Result<u64, Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Keeps the calling thread, and all that it starts, on these cores.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// As many descriptors as the hard limit lets us have.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_time_and_memory() {
        let pid = i32::try_from(std::process::id()).expect("process ids are small");
        let clock = CpuClock::of(pid).expect("a clock");
        let before = clock.read().expect("a time");
        while clock.read().expect("a time") == before {}
        assert!(resident_bytes(pid).expect("memory") > 100_000);
        // Beyond the largest pid_max there is: proc_sys_kernel(5).
        assert!(CpuClock::of(4_194_305).is_err());
    }
}

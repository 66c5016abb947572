//! What a thread may run on, and how urgently.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Pins the calling thread to one core.
pub(crate) fn pin_to_core(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|error| {
        let text = format!(
            "core {core} of `cores` is refused ({error}): `taskset -p $$` tells which may be used"
        );
        io::Error::new(error.kind(), text)
    })
}

/// How many cores the calling thread, and others that are pinned to `pinned`, may run on: those
/// are often outside of what a thread has to begin with (isolcpus=, taskset). 1 when the kernel
/// does not say.
pub(crate) fn cores_available(pinned: &[usize]) -> usize {
    let Ok(mut set) = sched_getaffinity(None) else { return pinned.len().max(1) };
    pinned.iter().filter(|&&core| core < CpuSet::MAX_CPU).for_each(|&core| set.set(core));
    set.count().max(1) as usize
}

/// Locks all present and future memory of the process (mlockall(2)).
pub(crate) fn lock_memory() -> io::Result<()> {
    use rustix::mm::{MlockAllFlags, mlockall};
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?;
    Ok(())
}

/// Gives the calling thread a SCHED_FIFO priority (sched(7)).
pub(crate) fn set_fifo_priority(priority: u8) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: i32::from(priority) };
    // SAFETY: `parameters` outlives the call and is only read; thread 0 is the calling thread
    // (sched_setscheduler(2)).
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that starts others on isolated cores has none of them itself.
    #[test]
    fn cores_that_others_are_pinned_to_are_available() {
        let first = || {
            let set = sched_getaffinity(None).expect("a set");
            (0..CpuSet::MAX_CPU).find(|&core| set.is_set(core)).expect("it runs somewhere")
        };
        let pinned = std::thread::spawn(move || {
            pin_to_core(first()).expect("one that it may run on");
            let own = first();
            let elsewhere = [own, own + 1, own + 2];
            [&[][..], &elsewhere[..1], &elsewhere].map(cores_available)
        });
        assert_eq!(pinned.join().expect("no panic"), [1, 1, 3]);
    }
}

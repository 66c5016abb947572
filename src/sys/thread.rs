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

/// How many cores the calling thread may run on; 1 when the kernel does not say.
pub(crate) fn cores_available() -> usize {
    sched_getaffinity(None).map_or(1, |set| set.count().max(1) as usize)
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

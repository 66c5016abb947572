//! A timer that only has to be due (timerfd_create(2)).

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer whose end wakes nobody: its descriptor is neither read nor polled.
#[derive(Debug)]
pub(crate) struct Timer {
    fd: OwnedFd,
}

impl Timer {
    /// A timer that is not set.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: timerfd_create(TimerfdClockId::Monotonic, flags)? })
    }

    /// Has the timer be due once, `after` from now. One system call.
    pub(crate) fn set(&self, after: Duration) -> io::Result<()> {
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(after).map_err(|_| io::ErrorKind::InvalidInput)?;
        let time = Itimerspec { it_interval: nothing, it_value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &time)?;
        Ok(())
    }

    /// Whether the timer has been set and is not due yet.
    #[cfg(test)]
    pub(crate) fn is_standing(&self) -> bool {
        let left = rustix::time::timerfd_gettime(&self.fd).expect("a timer").it_value;
        left.tv_sec > 0 || left.tv_nsec > 0
    }
}

//! Locks on whole files that belong to an open file (fcntl_locking(2), *open file description
//! locks*), not to a process: another process sees who holds one whatever PID namespace it is in,
//! and the kernel ends the lock with the last reference to the open file, however its holder dies.
//!
//! A mapping is such a reference, and so is the descriptor that a forked child inherits. To look
//! whether a file is locked takes no lock: two who look are not in each other's way.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The whole file, however long it becomes.
fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).expect("a small constant"),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("a small constant"),
        l_start: 0,
        l_len: 0,
        // Must be 0 for these locks.
        l_pid: 0,
    }
}

/// Locks `file`, which is open for writing, for this open file alone. Returns whether it could:
/// not when another one holds it. Never blocks.
///
/// # Errors
///
/// The file system has no such locks.
pub(crate) fn try_hold(file: &File) -> io::Result<bool> {
    try_lock(file, libc::F_WRLCK)
}

/// Keeps others from locking `file`, which need not be open for writing, and is alone in that.
/// Returns whether it could: not when another one holds it, or does the same. Never blocks.
///
/// # Errors
///
/// As [`try_hold`].
pub(crate) fn try_claim(file: &File) -> io::Result<bool> {
    // Of those who claim it one is first (flock(2), which any descriptor will do for); a lock for
    // reading, of which there may be several, is in the way of whoever holds it.
    match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => try_lock(file, libc::F_RDLCK),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn try_lock(file: &File, kind: libc::c_int) -> io::Result<bool> {
    let lock = whole(kind);
    // SAFETY: the descriptor is open as long as `file` is borrowed, and `lock` is read during the
    // call only (fcntl_locking(2)).
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    match (result, io::Error::last_os_error()) {
        (0, _) => Ok(true),
        (_, error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        (_, error) => Err(error),
    }
}

/// Whether another open file holds the lock on the same file. `file` may be open for reading alone.
///
/// # Errors
///
/// The file system has no such locks.
pub(crate) fn is_held(file: &File) -> io::Result<bool> {
    let mut lock = whole(libc::F_WRLCK);
    // SAFETY: the descriptor is open as long as `file` is borrowed, and `lock` is read and written
    // during the call only: it says what is in the way, or F_UNLCK (fcntl_locking(2)).
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_is_seen_by_other_open_files_until_its_own_is_closed() {
        let path = std::env::temp_dir().join(format!("ringwire-lock-{}", std::process::id()));
        let open = || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).open(&path)
        };
        let holder = open().expect("a writable directory for temporary files");
        let reader = File::open(&path).expect("just made");
        let rival = open().expect("just made");
        assert!(!is_held(&reader).expect("supported"));
        assert!(try_hold(&holder).expect("supported"));
        assert!(is_held(&reader).expect("supported"));
        assert!(!is_held(&holder).expect("supported"), "its own is not in its way");
        assert!(!try_hold(&rival).expect("supported"));
        let claimant = File::open(&path).expect("just made");
        assert!(!try_claim(&claimant).expect("supported"), "it is held");
        drop(claimant);
        drop(holder);
        assert!(!is_held(&reader).expect("supported"));
        let claimant = File::open(&path).expect("just made");
        assert!(try_claim(&claimant).expect("supported"), "a descriptor for reading will do");
        assert!(!try_claim(&reader).expect("supported"), "one at a time");
        assert!(!try_hold(&rival).expect("supported"));
        drop((claimant, reader));
        assert!(try_hold(&rival).expect("supported"));
        std::fs::remove_file(&path).expect("our own");
    }
}

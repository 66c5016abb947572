//! Why the kernel refused a ring, and what to do about it.
//!
//! [`explain`] is a pure function of the error number and the [`Facts`] of the host, so that every
//! answer is tested without a kernel that gives it. Only [`Facts::gather`] looks at the host; it
//! never fails, because it runs when things are failing already (out of descriptors, `/proc` not
//! mounted): what it can not learn stays `None`.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;

use super::setup::SetupFlags;
use super::{KERNEL_MIN, kernel_version};

/// The kernel refused the ring. Every message ends with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The sysctl `kernel.io_uring_disabled` turns io_uring off (Linux 6.6,
    /// Documentation/admin-guide/sysctl/kernel.rst).
    #[error("io_uring is disabled: {}", disabled_remedy(*.value, *.group))]
    Disabled {
        /// 1: off for processes without `CAP_SYS_ADMIN` outside the group; 2: off for all.
        value: u32,
        /// `kernel.io_uring_group`, -1 when none is set.
        group: Option<i64>,
    },
    /// Refused although the sysctl allows it: a seccomp filter (containers) or a Linux security
    /// module.
    #[error("io_uring is blocked: {}", blocked_remedy(*.errno, *.filtered))]
    Blocked {
        /// What the kernel said: `EPERM` or `EACCES`.
        errno: i32,
        /// Whether this thread runs under a seccomp filter; `None` when `/proc` does not say.
        filtered: Option<bool>,
    },
    /// There is no io_uring here.
    #[error(
        "io_uring is not there (ENOSYS) on kernel {release}: the kernel lacks CONFIG_IO_URING, or \
         a sandbox (gVisor, an old container runtime) hides it: run on Linux >= {}.{} outside the \
         sandbox, or give the container a seccomp profile that allows io_uring_setup, \
         io_uring_enter and io_uring_register",
        KERNEL_MIN.0, KERNEL_MIN.1
    )]
    NotSupported {
        /// The kernel's release.
        release: String,
    },
    /// The kernel is older than [`KERNEL_MIN`].
    #[error(
        "kernel {found} is too old: it refuses {flags}: needs Linux >= {}.{} with DEFER_TASKRUN, \
         upgrade the kernel (`uname -r` shows the running one)",
        KERNEL_MIN.0, KERNEL_MIN.1
    )]
    KernelTooOld {
        /// The kernel's release.
        found: String,
        /// The setup flags it refuses.
        flags: SetupFlags,
    },
    /// The kernel is new enough by its version and refuses setup flags all the same.
    #[error(
        "kernel {release} refuses the ring setup flags {flags}: needs Linux >= {}.{} with \
         DEFER_TASKRUN, boot a kernel that has them, and run outside of sandboxes that emulate \
         the kernel",
        KERNEL_MIN.0, KERNEL_MIN.1
    )]
    MissingFlags {
        /// The flags that were refused, found by trying.
        flags: SetupFlags,
        /// The kernel's release.
        release: String,
    },
    /// The ring lacks features this library can not do without.
    #[error(
        "io_uring of kernel {release} lacks {}: needs Linux >= {}.{}, boot a kernel that has them",
        .names.join(", "), KERNEL_MIN.0, KERNEL_MIN.1
    )]
    MissingFeatures {
        /// Names of the features (`IORING_FEAT_…`) and operations (`IORING_OP_…`).
        names: Vec<&'static str>,
        /// The kernel's release.
        release: String,
    },
    /// The memory this user may lock does not suffice (Linux < 5.12 and >= 6.14 charge rings).
    #[error(
        "no memory for the ring: RLIMIT_MEMLOCK is {limit_bytes} bytes and this needs about \
         {needed_bytes} on top of what this user has locked already: raise it with \
         `ulimit -l {}`, LimitMEMLOCK= in the systemd unit or /etc/security/limits.conf, lower \
         ring_entries, or grant CAP_IPC_LOCK",
        suggested_kib(*.limit_bytes, *.needed_bytes)
    )]
    Memlock {
        /// The soft limit.
        limit_bytes: u64,
        /// What was asked for, estimated.
        needed_bytes: u64,
    },
    /// No descriptor is left for the ring.
    #[error("no descriptor left for the ring: {}", descriptors_remedy(*.scope, *.limit))]
    Descriptors {
        /// Whose limit was reached.
        scope: Scope,
        /// The limit, where known.
        limit: Option<u64>,
    },
    /// Anything else.
    #[error(
        "{operation} failed: {source}: see the io_uring manual pages, or run `ringwire doctor`"
    )]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whose limit of descriptors was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// RLIMIT_NOFILE of this process (`EMFILE`).
    Process,
    /// `fs.file-max` of the host (`ENFILE`).
    Host,
}

/// What the host says about itself, as far as it explains a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The kernel's release, as of uname(2).
    pub release: String,
    /// `kernel.io_uring_disabled`; `None` before Linux 6.6 or without `/proc`.
    pub disabled: Option<u32>,
    /// `kernel.io_uring_group`.
    pub group: Option<i64>,
    /// Whether this thread is under a seccomp filter.
    pub filtered: Option<bool>,
    /// Whether this process may use io_uring where the sysctl is 1 (`CAP_SYS_ADMIN` in the initial
    /// user namespace: that of a container's own does not count).
    pub admin: bool,
    /// Whether RLIMIT_MEMLOCK does not bind this process (`CAP_IPC_LOCK`, likewise).
    pub ipc_lock: bool,
    /// Soft RLIMIT_MEMLOCK in bytes; `None` is unlimited.
    pub memlock_bytes: Option<u64>,
    /// Soft RLIMIT_NOFILE; `None` is unlimited.
    pub descriptors: Option<u64>,
    /// What the refused call would have charged against RLIMIT_MEMLOCK, in bytes.
    pub needed_bytes: u64,
}

impl Facts {
    /// Asks the host. What it does not tell stays `None`.
    #[must_use]
    pub fn gather() -> Self {
        Self::gather_from(Path::new("/"))
    }

    /// As [`Facts::gather`], with `/proc` looked for below `root`.
    #[must_use]
    pub fn gather_from(root: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();
        let number = |path: &str| read(path)?.trim().parse::<i64>().ok();
        let held = rustix::thread::capabilities(None).map(|sets| sets.effective);
        // Without the file the kernel has no user namespaces, or nobody knows.
        let counts = read("proc/self/uid_map").is_none_or(|map| is_initial_namespace(&map));
        let holds = |capability| counts && held.is_ok_and(|held| held.contains(capability));
        Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            disabled: number("proc/sys/kernel/io_uring_disabled")
                .and_then(|value| u32::try_from(value).ok()),
            group: number("proc/sys/kernel/io_uring_group"),
            // Of this thread: filters are a thread's own, and `self` is the main thread's.
            filtered: read("proc/thread-self/status").and_then(|status| seccomp_mode(&status)),
            admin: holds(CapabilitySet::SYS_ADMIN),
            ipc_lock: holds(CapabilitySet::IPC_LOCK),
            memlock_bytes: getrlimit(Resource::Memlock).current,
            descriptors: getrlimit(Resource::Nofile).current,
            needed_bytes: 0,
        }
    }

    /// Sets what the refused call would have charged against RLIMIT_MEMLOCK.
    #[must_use]
    pub fn needing(mut self, bytes: u64) -> Self {
        self.needed_bytes = bytes;
        self
    }
}

/// Finds the reason why `operation` failed with `errno`. Setup flags refused with `EINVAL` are
/// not explained here: only trying tells which.
#[must_use]
pub fn explain(operation: &'static str, errno: i32, facts: &Facts) -> RingError {
    match errno {
        libc::EPERM => match facts.disabled {
            Some(value @ 2..) => RingError::Disabled { value, group: facts.group },
            Some(1) if !facts.admin => RingError::Disabled { value: 1, group: facts.group },
            _ => RingError::Blocked { errno, filtered: facts.filtered },
        },
        libc::EACCES => RingError::Blocked { errno, filtered: facts.filtered },
        libc::ENOSYS => RingError::NotSupported { release: facts.release.clone() },
        libc::ENOMEM => match facts.memlock_bytes {
            // Without a limit that binds, it is memory that is short, and not the permission.
            Some(limit_bytes) if !facts.ipc_lock => {
                RingError::Memlock { limit_bytes, needed_bytes: facts.needed_bytes }
            }
            _ => system(operation, errno),
        },
        libc::EMFILE => RingError::Descriptors { scope: Scope::Process, limit: facts.descriptors },
        libc::ENFILE => RingError::Descriptors { scope: Scope::Host, limit: None },
        _ => system(operation, errno),
    }
}

/// The answer when `flags` were found to be refused.
pub(super) fn explain_flags(flags: SetupFlags, facts: &Facts) -> RingError {
    let release = facts.release.clone();
    if kernel_version(&release) < KERNEL_MIN {
        return RingError::KernelTooOld { found: release, flags };
    }
    RingError::MissingFlags { flags, release }
}

fn system(operation: &'static str, errno: i32) -> RingError {
    RingError::System { operation, source: io::Error::from_raw_os_error(errno) }
}

/// The map of the initial user namespace, user_namespaces(7).
fn is_initial_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// `Seccomp:` of proc_pid_status(5): 0 none, 1 strict, 2 filter.
fn seccomp_mode(status: &str) -> Option<bool> {
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"))?;
    Some(mode.trim() != "0")
}

fn disabled_remedy(value: u32, group: Option<i64>) -> String {
    let off = "`sysctl -w kernel.io_uring_disabled=0` as root";
    if value != 1 {
        return format!("kernel.io_uring_disabled = {value}: {off}");
    }
    let join = match group {
        Some(group @ 0..) => format!("add this user to the group {group}"),
        _ => "`sysctl -w kernel.io_uring_group=GID` with a group it is in".to_owned(),
    };
    format!(
        "kernel.io_uring_disabled = 1 for this user: {off}, {join} (kernel.io_uring_group), or \
         grant CAP_SYS_ADMIN"
    )
}

fn blocked_remedy(errno: i32, filtered: Option<bool>) -> &'static str {
    match (errno, filtered) {
        (libc::EACCES, _) => {
            "a Linux security module refuses it (EACCES): allow io_uring for this domain (SELinux: \
             `ausearch -m avc -c ringwire` shows the rule that is missing)"
        }
        (_, Some(false)) => {
            "it is refused (EPERM) by neither kernel.io_uring_disabled nor a seccomp filter: ask \
             the host's Linux security module (`dmesg`, `ausearch -m avc`)"
        }
        _ => {
            "a seccomp filter refuses it (EPERM), as container runtimes do by default: allow \
             io_uring_setup, io_uring_enter and io_uring_register in the container's profile \
             (docker: `--security-opt seccomp=PROFILE.json`; Kubernetes: seccompProfile of type \
             Localhost)"
        }
    }
}

fn descriptors_remedy(scope: Scope, limit: Option<u64>) -> String {
    match (scope, limit) {
        (Scope::Process, Some(limit)) => format!(
            "all {limit} of RLIMIT_NOFILE are in use: raise it with `ulimit -n {}` or LimitNOFILE= \
             in the systemd unit",
            limit.saturating_mul(2).max(1024)
        ),
        (Scope::Process, None) => {
            "RLIMIT_NOFILE is reached: raise it with `ulimit -n` or LimitNOFILE=".to_owned()
        }
        (Scope::Host, _) => "the host has as many open as fs.file-max allows: raise it with \
                             `sysctl -w fs.file-max=N`, or find who holds them with `lsof`"
            .to_owned(),
    }
}

/// A limit for `ulimit -l`, in KiB: room for twice the need, and never below the usual 8 MiB.
fn suggested_kib(limit_bytes: u64, needed_bytes: u64) -> u64 {
    let bytes = limit_bytes.saturating_add(needed_bytes.saturating_mul(2));
    bytes.div_ceil(1024).max(8192).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            release: "6.18.0".into(),
            disabled: Some(0),
            group: Some(-1),
            filtered: Some(true),
            admin: false,
            ipc_lock: false,
            memlock_bytes: Some(65_536),
            descriptors: Some(1024),
            needed_bytes: 100_000,
        }
    }

    /// Explains `errno` on a host that differs by `change`, and looks for `words` in the message.
    fn check(errno: i32, change: impl FnOnce(&mut Facts), words: &[&str]) -> RingError {
        let mut facts = facts();
        change(&mut facts);
        let error = explain("io_uring_setup", errno, &facts);
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
        error
    }

    #[test]
    fn disabled_for_all_names_the_sysctl() {
        let words = ["kernel.io_uring_disabled = 2", "sysctl -w kernel.io_uring_disabled=0"];
        let error = check(libc::EPERM, |facts| facts.disabled = Some(2), &words);
        assert!(matches!(error, RingError::Disabled { value: 2, .. }));
        // Not even root may: CAP_SYS_ADMIN does not help against 2.
        let admin = |facts: &mut Facts| (facts.disabled, facts.admin) = (Some(2), true);
        assert!(!check(libc::EPERM, admin, &words).to_string().contains("io_uring_group"));
    }

    #[test]
    fn disabled_for_users_names_the_group() {
        let group = |facts: &mut Facts| (facts.disabled, facts.group) = (Some(1), Some(990));
        check(libc::EPERM, group, &["group 990", "kernel.io_uring_group", "io_uring_disabled=0"]);
        let none = |facts: &mut Facts| facts.disabled = Some(1);
        check(libc::EPERM, none, &["sysctl -w kernel.io_uring_group=GID"]);
    }

    #[test]
    fn refused_despite_the_sysctl_is_blocked() {
        let error = check(libc::EPERM, |_| (), &["seccomp", "docker", "io_uring_register"]);
        assert!(matches!(error, RingError::Blocked { .. }));
        // 1 does not bind CAP_SYS_ADMIN, so something else refused.
        let admin = |facts: &mut Facts| (facts.disabled, facts.admin) = (Some(1), true);
        assert!(matches!(check(libc::EPERM, admin, &[]), RingError::Blocked { .. }));
        // A kernel before 6.6 has no sysctl.
        let old = |facts: &mut Facts| facts.disabled = None;
        assert!(matches!(check(libc::EPERM, old, &["seccomp"]), RingError::Blocked { .. }));
        check(libc::EPERM, |facts| facts.filtered = Some(false), &["security module"]);
        check(libc::EACCES, |_| (), &["SELinux"]);
    }

    #[test]
    fn missing_call_names_sandbox_and_kernel() {
        let words = ["6.18.0", "CONFIG_IO_URING", "gVisor", "Linux >= 6.1"];
        assert!(matches!(check(libc::ENOSYS, |_| (), &words), RingError::NotSupported { .. }));
    }

    #[test]
    fn no_memory_compares_limit_and_need() {
        let words = ["65536 bytes", "100000", "ulimit -l 8192", "LimitMEMLOCK="];
        assert!(matches!(check(libc::ENOMEM, |_| (), &words), RingError::Memlock { .. }));
        // With no limit that binds, it is not the limit.
        let unbound = |facts: &mut Facts| facts.ipc_lock = true;
        assert!(matches!(check(libc::ENOMEM, unbound, &[]), RingError::System { .. }));
        let unlimited = |facts: &mut Facts| facts.memlock_bytes = None;
        assert!(matches!(check(libc::ENOMEM, unlimited, &[]), RingError::System { .. }));
    }

    #[test]
    fn suggested_limit_exceeds_both() {
        assert_eq!(suggested_kib(8 << 20, 100_000), 16_384);
        assert_eq!(suggested_kib(0, 0), 8192);
    }

    #[test]
    fn no_descriptor_names_the_limit() {
        check(libc::EMFILE, |_| (), &["1024 of RLIMIT_NOFILE", "ulimit -n 2048", "LimitNOFILE="]);
        check(libc::EMFILE, |facts| facts.descriptors = None, &["ulimit -n"]);
        check(libc::ENFILE, |_| (), &["fs.file-max"]);
    }

    #[test]
    fn anything_else_names_operation_and_reason() {
        check(libc::EIO, |_| (), &["io_uring_setup failed", "os error 5"]);
    }

    #[test]
    fn refused_flags_blame_the_version_or_the_kernel() {
        let mut facts = facts();
        let flags = SetupFlags::SINGLE_ISSUER | SetupFlags::DEFER_TASKRUN;
        let text = explain_flags(flags, &facts).to_string();
        assert!(text.contains("SINGLE_ISSUER, DEFER_TASKRUN"), "{text}");
        assert!(text.contains("needs Linux >= 6.1 with DEFER_TASKRUN"), "{text}");
        facts.release = "5.15.0-91-generic".into();
        let error = explain_flags(flags, &facts);
        assert!(matches!(error, RingError::KernelTooOld { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("5.15.0-91-generic is too old"), "{text}");
    }

    #[test]
    fn missing_features_are_named() {
        let names = vec!["FEAT_NODROP", "OP_SEND_ZC"];
        let text = RingError::MissingFeatures { names, release: "6.1".into() }.to_string();
        assert!(text.contains("lacks FEAT_NODROP, OP_SEND_ZC"), "{text}");
    }

    #[test]
    fn gathering_survives_an_empty_host() {
        let facts = Facts::gather_from(Path::new("/nonexistent"));
        assert_eq!(facts.disabled, None);
        assert_eq!(facts.filtered, None);
        assert!(!facts.release.is_empty(), "uname(2) needs no file");
    }

    /// Whoever holds nothing here has nothing to lose: run as root this shows it.
    #[test]
    fn capabilities_of_a_user_namespace_do_not_count() {
        let root = std::env::temp_dir().join(format!("ringwire-uid-map-{}", std::process::id()));
        fs::create_dir_all(root.join("proc/self")).expect("a directory");
        let gather = |map: &str| {
            fs::write(root.join("proc/self/uid_map"), map).expect("a file");
            Facts::gather_from(&root)
        };
        let held = rustix::thread::capabilities(None).expect("own capabilities").effective;
        let initial = gather("         0          0 4294967295\n");
        assert_eq!(initial.admin, held.contains(CapabilitySet::SYS_ADMIN));
        assert_eq!(initial.ipc_lock, held.contains(CapabilitySet::IPC_LOCK));
        let inner = gather("         0       1000          1\n");
        assert!(!inner.admin && !inner.ipc_lock);
        let _ = fs::remove_dir_all(&root);
        // So that what refuses is the sysctl, and not something else.
        let disabled = Facts { disabled: Some(1), ..inner };
        let error = explain("io_uring_setup", libc::EPERM, &disabled);
        assert!(matches!(error, RingError::Disabled { value: 1, .. }), "{error}");
        assert!(!is_initial_namespace(""));
    }

    #[test]
    fn seccomp_mode_is_read_from_status() {
        assert_eq!(seccomp_mode("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"), Some(true));
        assert_eq!(seccomp_mode("Seccomp:\t0\n"), Some(false));
        assert_eq!(seccomp_mode("Name:\tx\n"), None);
    }
}

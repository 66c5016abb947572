//! The kernel refuses the ring, for real, and the error says what to do.
//!
//! Each case runs in a child process, because a seccomp filter and lowered limits stay: this test
//! binary executes itself with [`CASE`] naming the case. Only what needs another kernel (old
//! versions, sysctls of the whole host) is left to the unit tests of `sys::probe`.

use std::collections::BTreeMap;
use std::process::Command;

use ringwire::sys::probe::{Capabilities, RingError, Scope};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Names the case in a child's environment.
const CASE: &str = "RINGWIRE_RING_REFUSED_CASE";

/// Runs `body` in a child process that executes the test `name` alone.
fn in_child(name: &str, body: impl FnOnce()) {
    if std::env::var_os(CASE).is_some_and(|case| case == name) {
        return body();
    }
    let output = Command::new(std::env::current_exe().expect("Linux has /proc"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .output()
        .expect("the child runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("1 passed"), "the child ran no test of this name: {said}");
}

/// Probes where it is refused, and looks for `words` in the message.
fn refusal(words: &[&str]) -> RingError {
    let error = Capabilities::probe().expect_err("refused");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    error
}

/// Makes io_uring_setup(2) fail with `errno` for this thread, as a container runtime does.
fn filter(errno: i32) {
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    let refused = SeccompAction::Errno(u32::try_from(errno).expect("positive"));
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a filter");
    let program = BpfProgram::try_from(filter).expect("a program");
    apply_filter(&program).expect("allowed: it sets no_new_privs");
}

fn lower(resource: Resource, to: u64) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: Some(to), maximum }).expect("lowering is allowed");
}

#[test]
fn seccomp_eperm_names_the_container_profile() {
    in_child("seccomp_eperm_names_the_container_profile", || {
        filter(libc::EPERM);
        let error = refusal(&["seccomp", "docker", "io_uring_setup"]);
        assert!(matches!(error, RingError::Blocked { filtered: Some(true), .. }), "{error}");
    });
}

#[test]
fn seccomp_enosys_names_kernel_and_sandbox() {
    in_child("seccomp_enosys_names_kernel_and_sandbox", || {
        filter(libc::ENOSYS);
        let error = refusal(&["CONFIG_IO_URING", "gVisor", "Linux >= 6.1"]);
        assert!(matches!(error, RingError::NotSupported { .. }), "{error}");
    });
}

#[test]
fn seccomp_einval_names_the_flags() {
    in_child("seccomp_einval_names_the_flags", || {
        // A kernel that knows io_uring and none of the flags.
        filter(libc::EINVAL);
        let error = refusal(&["DEFER_TASKRUN", "SINGLE_ISSUER", "Linux >= 6.1"]);
        assert!(
            matches!(error, RingError::MissingFlags { .. } | RingError::KernelTooOld { .. }),
            "{error}"
        );
    });
}

#[test]
fn no_descriptor_left_names_the_limit() {
    in_child("no_descriptor_left_names_the_limit", || {
        // Nothing can be opened any more, not even /proc to find out why.
        lower(Resource::Nofile, 0);
        let error = refusal(&["RLIMIT_NOFILE", "ulimit -n", "LimitNOFILE="]);
        assert!(matches!(error, RingError::Descriptors { scope: Scope::Process, .. }), "{error}");
    });
}

#[test]
fn no_lockable_memory_names_limit_and_need() {
    in_child("no_lockable_memory_names_limit_and_need", || {
        lower(Resource::Memlock, 0);
        let mut sets = capabilities(None).expect("own capabilities");
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, sets).expect("giving one up is allowed");
        match Capabilities::probe() {
            Err(error @ RingError::Memlock { limit_bytes: 0, .. }) => {
                let text = error.to_string();
                assert!(text.contains("ulimit -l"), "{text}");
                assert!(text.contains("LimitMEMLOCK="), "{text}");
            }
            // Linux 5.12 to 6.13 charges no rings.
            Ok(found) => assert!(release_below(&found.release, (6, 14)), "{found:?}"),
            Err(error) => panic!("another error: {error}"),
        }
    });
}

fn release_below(release: &str, version: (u32, u32)) -> bool {
    ringwire::sys::probe::kernel_version(release) < version
}

#[test]
fn probing_leaves_no_descriptor_open() {
    in_child("probing_leaves_no_descriptor_open", || {
        let open = || std::fs::read_dir("/proc/self/fd").expect("Linux has /proc").count();
        Capabilities::probe().expect("the test host has io_uring");
        let before = open();
        for _ in 0..50 {
            Capabilities::probe().expect("the test host has io_uring");
        }
        assert_eq!(open(), before);
    });
}

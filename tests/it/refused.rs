//! The kernel refuses io_uring, for real, and the error says what to do.
//!
//! A seccomp filter stays for the life of its thread and lowered limits for that of the process;
//! both end with the child process of the test. Only what needs another kernel (old versions,
//! sysctls of the whole host) is left to the unit tests of `sys::probe`.

use std::collections::BTreeMap;

use ringwire::sys::probe::{Capabilities, RingError, Scope};
use ringwire::{Client, Config, Node, SetupError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use seccompiler::SeccompCmpOp::Eq as EQUAL;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use crate::util::{
    Directory, Peer, config, echo, isolated, open_descriptors, resident_kib, settings, start,
    wait_until, warnings,
};

/// Probes where it is refused, and looks for `words` in the message.
fn refusal(words: &[&str]) -> RingError {
    let error = Capabilities::probe().expect_err("refused");
    contains(&error.to_string(), words);
    error
}

fn contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// Makes a system call fail with `errno` where one of `rules` matches, or always without rules:
/// on this thread and those it starts from now on.
pub(crate) fn refuse(call: i64, rules: Vec<SeccompRule>, errno: i32) {
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    let refused = SeccompAction::Errno(u32::try_from(errno).expect("positive"));
    let rules = BTreeMap::from([(call, rules)]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a filter");
    let program = BpfProgram::try_from(filter).expect("a program");
    apply_filter(&program).expect("allowed: it sets no_new_privs");
}

/// Makes io_uring_setup(2) fail, as a container runtime does.
fn filter(errno: i32) {
    refuse(libc::SYS_io_uring_setup, Vec::new(), errno);
}

fn lower(resource: Resource, to: u64) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: Some(to), maximum }).expect("lowering is allowed");
}

/// RLIMIT_MEMLOCK does not bind a thread with CAP_IPC_LOCK.
fn give_up_lock_capability() {
    let mut sets = capabilities(None).expect("own capabilities");
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).expect("giving one up is allowed");
}

/// Whoever has it may lock and register as much memory as there is.
fn has_lock_capability() -> bool {
    capabilities(None).expect("own capabilities").effective.contains(CapabilitySet::IPC_LOCK)
}

/// What the kernel has pinned of this process for rings (proc_pid_status(5), VmPin), in KiB.
fn pinned_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = status.lines().find(|line| line.starts_with("VmPin:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Sets up everything that has a ring, under `errno`, on a thread of its own.
fn check_refused(errno: i32, words: &[&str]) {
    let before = open_descriptors();
    let directory = Directory::new();
    let path = directory.path("refused.sock");
    let endpoint = format!("unix:{}", path.display());
    let refused = |outcome: Result<(), SetupError>| match outcome {
        Err(SetupError::Ring(error)) => contains(&error.to_string(), words),
        other => panic!("{other:?} under error number {errno}"),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            give_up_lock_capability();
            filter(errno);
            refused(Client::new(config()).map(drop));
            refused(Node::builder().config(config()).start().map(drop));
            // Two listeners are bound before the first ring is asked for.
            refused(echo().listen(&*endpoint).reactors(2).start().map(drop));
        });
    });
    assert!(!path.exists(), "a server that did not start leaves its socket file behind");
    wait_until("every descriptor is closed again", || open_descriptors() == before);
    // Only the filter stood in the way.
    let server = start(echo().listen(&*endpoint).reactors(2));
    assert_eq!(Peer::connect(&server).ask(b"x"), b"x");
}

#[test]
fn refused_ring_is_a_clear_error_and_leaves_nothing() {
    isolated(|| {
        // A limit, where there is none: without one ENOMEM has another meaning.
        if getrlimit(Resource::Memlock).current.is_none() {
            lower(Resource::Memlock, 8 << 20);
        }
        check_refused(libc::EPERM, &["seccomp", "io_uring_setup"]);
        check_refused(libc::ENOSYS, &["CONFIG_IO_URING"]);
        check_refused(libc::ENOMEM, &["RLIMIT_MEMLOCK", "ulimit -l"]);
        check_refused(libc::EMFILE, &["RLIMIT_NOFILE", "ulimit -n"]);
    });
}

#[test]
fn seccomp_eperm_names_the_container_profile() {
    isolated(|| {
        filter(libc::EPERM);
        let error = refusal(&["seccomp", "docker", "io_uring_setup"]);
        assert!(matches!(error, RingError::Blocked { filtered: Some(true), .. }), "{error}");
    });
}

#[test]
fn seccomp_enosys_names_kernel_and_sandbox() {
    isolated(|| {
        filter(libc::ENOSYS);
        let error = refusal(&["CONFIG_IO_URING", "gVisor", "Linux >= 6.1"]);
        assert!(matches!(error, RingError::NotSupported { .. }), "{error}");
    });
}

#[test]
fn seccomp_einval_names_the_flags() {
    isolated(|| {
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
    isolated(|| {
        // Nothing can be opened any more, not even /proc to find out why.
        let usual = getrlimit(Resource::Nofile).current.expect("a limit");
        lower(Resource::Nofile, 0);
        let error = refusal(&["RLIMIT_NOFILE", "ulimit -n", "LimitNOFILE="]);
        lower(Resource::Nofile, usual);
        assert!(matches!(error, RingError::Descriptors { scope: Scope::Process, .. }), "{error}");
    });
}

#[test]
fn no_lockable_memory_names_limit_and_need() {
    isolated(|| {
        lower(Resource::Memlock, 0);
        give_up_lock_capability();
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
    isolated(|| {
        let open = || std::fs::read_dir("/proc/self/fd").expect("Linux has /proc").count();
        Capabilities::probe().expect("the test host has io_uring");
        let before = open();
        for _ in 0..50 {
            Capabilities::probe().expect("the test host has io_uring");
        }
        assert_eq!(open(), before);
    });
}

/// A node that is not started leaves nothing, and says what was refused, and why.
fn check_not_started(settings: ringwire::ConfigBuilder, operation: &str, errno: i32) {
    let before = open_descriptors();
    let config = settings.build().expect("valid");
    let error = Node::builder().config(config).start().map(drop).expect_err("refused");
    let SetupError::System { operation: refused, source } = &error else { panic!("{error:?}") };
    assert!(refused.contains(operation), "{error}");
    assert_eq!(source.raw_os_error(), Some(errno), "{error}");
    contains(&error.to_string(), &[operation]);
    wait_until("every descriptor is closed again", || open_descriptors() == before);
}

/// mlockall(2): EPERM where nothing may be locked, ENOMEM where less may be than there is.
#[test]
fn memory_that_may_not_be_locked_is_a_clear_error() {
    isolated(|| {
        give_up_lock_capability();
        for (limit, errno) in [(64 << 10, libc::ENOMEM), (0, libc::EPERM)] {
            lower(Resource::Memlock, limit);
            check_not_started(settings().mlockall(true), "mlockall", errno);
        }
    });
}

#[test]
fn real_time_priority_that_is_refused_names_what_it_needs() {
    isolated(|| {
        lower(Resource::Rtprio, 0);
        let mut sets = capabilities(None).expect("own capabilities");
        sets.effective.remove(CapabilitySet::SYS_NICE);
        set_capabilities(None, sets).expect("giving one up is allowed");
        for needed in ["SCHED_FIFO", "CAP_SYS_NICE", "RLIMIT_RTPRIO"] {
            check_not_started(settings().scheduler_fifo_priority(10), needed, libc::EPERM);
        }
    });
}

/// A kernel without it (IORING_REGISTER_NAPI, Linux 6.9): that is said, once for each ring, and
/// everything goes on.
#[test]
fn busy_polling_that_is_refused_is_a_warning() {
    const REGISTER_NAPI: u64 = 27;
    isolated(|| {
        let warnings = warnings();
        let register = |opcode| SeccompCondition::new(1, SeccompCmpArgLen::Dword, EQUAL, opcode);
        let rule = SeccompRule::new(vec![register(REGISTER_NAPI).expect("the second argument")]);
        refuse(libc::SYS_io_uring_register, vec![rule.expect("a rule")], libc::EINVAL);
        let config = settings().napi_busy_poll_us(50).build().expect("valid");
        let server = start(echo().config(config));
        assert_eq!(Peer::connect(&server).ask(b"x"), b"x");
        let napi: Vec<_> = warnings.try_iter().filter(|said| said.contains("NAPI")).collect();
        assert_eq!(napi.len(), 1, "{napi:?}");
        contains(&napi[0], &["Linux 6.9", "Invalid argument"]);
        // Nobody asks the kernel for what is not wanted.
        drop(start(echo()));
        assert!(!warnings.try_iter().any(|said| said.contains("NAPI")));
    });
}

/// Send memory is registered with the kernel, which pins it, where it is wanted for sends without a
/// copy, and where the limit has room for it.
#[test]
fn registered_send_memory_is_pinned_as_long_as_its_ring_lives() {
    isolated(|| {
        if !has_lock_capability() {
            eprintln!("skipped: rings of other processes use up the limit, too");
            return;
        }
        let pinned_by = |config: &Config| {
            let before = pinned_kib();
            let client = Client::new(config.clone()).expect("a ring");
            let pinned = pinned_kib() - before;
            drop(client);
            wait_until("it is given back", || pinned_kib() == before);
            pinned << 10
        };
        let copying = settings().zero_copy_bytes_min(0).build().expect("valid");
        let ring = pinned_by(&copying);
        let zero_copy = settings().zero_copy_bytes_min(16 << 10).build().expect("valid");
        let (pinned, bytes_max) = (pinned_by(&zero_copy), zero_copy.registered_bytes());
        assert!(pinned > ring + bytes_max / 2, "{pinned} bytes, {ring} without");
        // Whole pages, also where a buffer begins or ends within one.
        assert!(pinned <= ring + bytes_max * 17 / 16, "{pinned} bytes, {ring} without");
        // Room for the ring, and for no more.
        lower(Resource::Memlock, 600 << 10);
        give_up_lock_capability();
        assert_eq!(pinned_by(&zero_copy), ring, "it runs unregistered");
    });
}

/// The memory of a reactor is asked for before its first turn, and costs what is used of it.
#[test]
fn memory_that_is_not_used_is_not_resident() {
    let huge_pages = "/sys/kernel/mm/transparent_hugepage/enabled";
    if std::fs::read_to_string(huge_pages).is_ok_and(|mode| mode.contains("[always]")) {
        eprintln!("skipped: with huge pages everywhere, the first byte used makes 2 MiB resident");
        return;
    }
    isolated(|| {
        let config = Config::builder().registry(false).build().expect("valid");
        let before = resident_kib();
        let server = start(echo().config(config.clone()));
        let of_server = resident_kib().saturating_sub(before);
        let client = Client::new(config).expect("a ring");
        let of_both = resident_kib().saturating_sub(before);
        assert!(of_both < 8 << 10, "{of_server} KiB of a server, {of_both} KiB with a client");
        drop((client, server));
    });
}

/// What the configuration allows may be more than the machine has.
#[test]
#[cfg_attr(asan, ignore = "AddressSanitizer needs terabytes of address space itself")]
fn memory_that_is_not_to_be_had_is_a_clear_error() {
    isolated(|| {
        let before = open_descriptors();
        lower(Resource::As, 32 << 30);
        let most = 64_u64 << 30;
        let cases = [
            (settings().send_memory_bytes(most), "send_memory_bytes"),
            (settings().receive_memory_bytes(most), "receive_memory_bytes"),
            (
                settings().connections_max(65_536).window_bytes(4 << 20).send_memory_bytes(1 << 30),
                "window_bytes",
            ),
        ];
        for (at, (settings, key)) in cases.into_iter().enumerate() {
            let config = settings.build().expect("within the bounds");
            let check = |error: SetupError| {
                assert!(matches!(error, SetupError::Memory { bytes, .. } if bytes >= most));
                contains(&error.to_string(), &[key, "RLIMIT_AS", "bytes"]);
            };
            // A client has few connections, whatever is configured.
            if at < 2 {
                check(Client::new(config.clone()).map(drop).expect_err("too much"));
            }
            check(Node::builder().config(config.clone()).start().map(drop).expect_err("too much"));
            check(echo().config(config).start().map(drop).expect_err("too much"));
        }
        wait_until("every descriptor is closed again", || open_descriptors() == before);
        // Much address space that is not used costs nothing.
        let config = settings().send_memory_bytes(1 << 30).build().expect("within the bounds");
        let resident = resident_kib();
        let client = Client::new(config).expect("there is as much");
        assert!(resident_kib() - resident < 64 << 10, "pages are resident when they are used");
        drop(client);
    });
}

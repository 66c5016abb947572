//! Judges the limits of this process against what the configuration asks for.

use ringwire::config::{Config, Idle};
use ringwire::sys::probe::{kernel_version, ring_bytes};

use super::host::{Host, Limit};
use super::memory::Mapped;
use super::report::{Check, Verdict};

/// From this kernel on, rings count against RLIMIT_MEMLOCK; registered buffers always do.
const KERNEL_CHARGES_RINGS: (u32, u32) = (6, 14);
/// From this kernel on, real-time threads stop only for others that starve: the deadline server of
/// kernel/sched/deadline.c.
const KERNEL_SERVES_THE_STARVED: (u32, u32) = (6, 12);
/// Descriptors of a reactor beside its connections: ring, eventfd, listeners.
const DESCRIPTORS_PER_REACTOR: u64 = 8;
/// Descriptors of the process beside its reactors: standard streams, log, resolver.
const DESCRIPTORS_OTHER: u64 = 32;
pub(super) const LIMITS_FILE: &str = "/etc/security/limits.d/ringwire.conf";

/// The names of one limit, and how many of the kernel's units theirs is.
struct LimitName {
    shell: &'static str,
    file: &'static str,
    systemd: &'static str,
    kernel_units: u64,
}

const MEMLOCK: LimitName =
    LimitName { shell: "ulimit -l", file: "memlock", systemd: "LimitMEMLOCK", kernel_units: 1024 };
const NOFILE: LimitName =
    LimitName { shell: "ulimit -n", file: "nofile", systemd: "LimitNOFILE", kernel_units: 1 };

pub(super) fn checks(host: &Host, config: &Config, reactors: usize) -> Vec<Check> {
    let reactors = u64::try_from(reactors).unwrap_or(u64::MAX);
    let mut checks = vec![memlock(host, config, reactors), nofile(host, config, reactors)];
    if config.mlockall() {
        checks.push(mlockall(host, config, reactors));
    }
    if config.scheduler_fifo_priority() > 0 {
        checks.push(fifo(host, config));
        checks.push(throttling(host, config));
    }
    checks
}

/// Whether all memory may be locked.
pub(super) fn may_lock(host: &Host, config: &Config, reactors: usize) -> bool {
    let reactors = u64::try_from(reactors).unwrap_or(u64::MAX);
    mlockall(host, config, reactors).verdict == Verdict::Good
}

/// How many connections the limit of descriptors has room for, when that is fewer than asked for.
pub(super) fn connections_for(
    host: &Host,
    config: &Config,
    reactors: usize,
) -> Option<(u64, String)> {
    let reactors = u64::try_from(reactors).unwrap_or(u64::MAX);
    let soft = host.nofile?.soft?;
    let other = DESCRIPTORS_OTHER + reactors.saturating_mul(DESCRIPTORS_PER_REACTOR);
    let room = soft.saturating_sub(other) / reactors.max(1);
    let is_short = room < u64::from(config.connections_max());
    is_short.then(|| (room.max(1), format!("RLIMIT_NOFILE is {soft}; raise it instead for more")))
}

/// Whether send memory would stay unregistered.
pub(super) fn is_memlock_short(host: &Host, config: &Config, reactors: usize) -> bool {
    let reactors = u64::try_from(reactors).unwrap_or(u64::MAX);
    config.zero_copy_bytes_min() > 0
        && host.memlock.is_some()
        && memlock(host, config, reactors).verdict != Verdict::Good
}

/// Rings and registered buffers, io_uring_setup(2) and io_uring_register(2).
fn memlock(host: &Host, config: &Config, reactors: u64) -> Check {
    const CHECK: &str = "memlock";
    let Some(limit) = host.memlock else { return Check::unknown(CHECK, "/proc/self/limits") };
    let charged = kernel_version(&host.release) >= KERNEL_CHARGES_RINGS;
    let ring =
        if charged { ring_bytes(config.ring_entries(), 8 * config.ring_entries()) } else { 0 };
    let rings = ring.saturating_mul(reactors);
    // Only zero-copy sends have anything registered.
    let registered = if config.zero_copy_bytes_min() > 0 { config.registered_bytes() } else { 0 };
    let needed = rings.saturating_add(registered.saturating_mul(reactors));
    if host.privileges.ipc_lock() {
        return Check::good(CHECK, "not limited (CAP_IPC_LOCK)");
    }
    let Some(soft) = limit.soft else { return Check::good(CHECK, "unlimited") };
    let found = format!("{} allowed, {} needed", size(soft), size(needed));
    if soft >= needed {
        return Check::good(CHECK, found);
    }
    let value = needed.saturating_mul(2).div_ceil(1024).next_power_of_two();
    if soft < rings {
        let check = Check::bad(CHECK, format!("{found}: the rings alone need {}", size(rings)));
        return raised(check, &MEMLOCK, value, limit, "");
    }
    let check = Check::better(CHECK, format!("{found}: send memory stays unregistered"));
    raised(check, &MEMLOCK, value, limit, ", or lower registered_bytes")
}

fn nofile(host: &Host, config: &Config, reactors: u64) -> Check {
    const CHECK: &str = "nofile";
    let Some(limit) = host.nofile else { return Check::unknown(CHECK, "/proc/self/limits") };
    let Some(soft) = limit.soft else { return Check::good(CHECK, "unlimited") };
    let connections = u64::from(config.connections_max());
    let other = DESCRIPTORS_OTHER + reactors.saturating_mul(DESCRIPTORS_PER_REACTOR);
    let needed = other.saturating_add(connections.saturating_mul(reactors));
    if soft >= needed {
        return Check::good(CHECK, format!("{soft} allowed, {needed} needed at most"));
    }
    let value = needed.next_power_of_two();
    if soft < other {
        let found = format!("{soft} allowed: not enough for the rings and one connection");
        return raised(Check::bad(CHECK, found), &NOFILE, value, limit, "");
    }
    let room = (soft - other) / reactors.max(1);
    let found = format!("{soft} allowed: room for {room} of connections_max = {connections}");
    raised(Check::better(CHECK, found), &NOFILE, value, limit, ", or lower connections_max")
}

/// Everything that is mapped is locked, mlockall(2) with MCL_FUTURE, and so resident.
fn mlockall(host: &Host, config: &Config, reactors: u64) -> Check {
    const CHECK: &str = "mlockall";
    let Mapped { resident, counted } = Mapped::by(config, reactors);
    let lower = "lower connections_max, window_bytes or the memory limits, or set mlockall = false";
    if let Some(memory) = host.memory_bytes.filter(|&memory| memory < resident) {
        let found = format!("locks about {} and the host has {}", size(resident), size(memory));
        return Check::bad(CHECK, found).advice(lower);
    }
    if let Some(max) = host.memory_max.as_ref().filter(|max| max.bytes < resident) {
        let (file, most) = (max.file.display(), size(max.bytes));
        let found = format!("locks about {}, and {file} leaves it {most}", size(resident));
        return Check::bad(CHECK, found).advice(format!(
            "raise that (MemoryMax= in a systemd unit, docker --memory), or {lower}"
        ));
    }
    let bound = host.memlock.filter(|_| !host.privileges.ipc_lock()).and_then(|limit| limit.soft);
    let Some(soft) = bound.filter(|&soft| soft < counted) else {
        return Check::good(CHECK, format!("locks about {}", size(resident)));
    };
    let limit = host.memlock.unwrap_or(Limit { soft: None, hard: None });
    let value = counted.div_ceil(1024).next_power_of_two();
    let found = format!("locks about {}, {} allowed", size(counted), size(soft));
    raised(Check::bad(CHECK, found), &MEMLOCK, value, limit, &format!(", or {lower}"))
}

/// SCHED_FIFO, sched(7).
fn fifo(host: &Host, config: &Config) -> Check {
    const CHECK: &str = "SCHED_FIFO";
    let priority = u64::from(config.scheduler_fifo_priority());
    let allowed = host.rtprio.map_or(Some(0), |limit| limit.soft);
    if host.privileges.sys_nice() || allowed.is_none_or(|allowed| allowed >= priority) {
        return Check::good(CHECK, format!("this process may use priority {priority}"));
    }
    Check::bad(CHECK, format!("scheduler_fifo_priority = {priority} is not allowed"))
        .advice(
            "grant CAP_SYS_NICE, or raise the limit for logins (LimitRTPRIO= in a systemd unit)",
        )
        .command(limits_line("rtprio", priority))
}

/// Real-time throttling, Documentation/scheduler/sched-rt-group.rst: whoever has run for
/// `sched_rt_runtime_us` is stopped until `sched_rt_period_us` are over.
fn throttling(host: &Host, config: &Config) -> Check {
    const CHECK: &str = "real-time limit";
    if config.idle() == Idle::Park {
        return Check::good(CHECK, "no matter: idle = \"park\" sleeps in between");
    }
    if kernel_version(&host.release) >= KERNEL_SERVES_THE_STARVED {
        let found =
            "stops a spinning reactor only while others starve on its core (50 ms a second)";
        return Check::good(CHECK, found);
    }
    let (Some(runtime), Some(period)) = (host.rt_runtime_us, host.rt_period_us) else {
        return Check::unknown(CHECK, "/proc/sys/kernel/sched_rt_runtime_us");
    };
    if runtime < 0 || runtime >= period {
        return Check::good(CHECK, "none: what else has to run on its core waits for a reactor");
    }
    let (stopped, period) = ((period - runtime) / 1000, period / 1000);
    let found = format!("a reactor that does not sleep is stopped {stopped} ms of {period} ms");
    Check::better(CHECK, found)
        .advice(
            "set idle = \"park\", or lift the limit for all: then a real-time thread that spins \
             keeps its core from the kernel's own threads, too, and can hang the host: isolate the \
             core before, and never spin on the last one",
        )
        .command("sudo sysctl -w kernel.sched_rt_runtime_us=-1")
}

/// Says how to raise a limit: in this shell where the hard limit allows it.
fn raised(check: Check, name: &LimitName, value: u64, limit: Limit, instead: &str) -> Check {
    let unit = name.systemd;
    let kernel_value = value.saturating_mul(name.kernel_units);
    if limit.hard.is_none_or(|hard| hard >= kernel_value) {
        return check
            .advice(format!("raise the limit ({unit}= in a systemd unit){instead}"))
            .command(format!("{} {value}", name.shell));
    }
    check
        .advice(format!("raise the limit for new logins ({unit}= in a systemd unit){instead}"))
        .command(limits_line(name.file, value))
}

/// For every login from now on, limits.conf(5).
fn limits_line(unit: &str, value: u64) -> String {
    format!("echo '* - {unit} {value}' | sudo tee -a {LIMITS_FILE}")
}

/// Bytes as people say them, rounded up.
fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        _ if bytes < 1 << 33 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        10_000..=9_999_999 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        10_000_000..=9_999_999_999 => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{} GiB", bytes.div_ceil(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::groups::MemoryMax;
    use super::super::host::Privileges;
    use super::*;

    fn limit(soft: u64, hard: u64) -> Option<Limit> {
        Some(Limit { soft: Some(soft), hard: Some(hard) })
    }

    fn host() -> Host {
        Host {
            release: "6.18.0".into(),
            memlock: limit(8 << 20, 8 << 20),
            nofile: limit(1 << 20, 1 << 20),
            memory_bytes: Some(8 << 30),
            ..Host::default()
        }
    }

    #[test]
    fn memlock_is_judged_against_rings_and_registered_memory() {
        let config = Config::builder().zero_copy_bytes_min(4096).build().expect("valid");
        assert_eq!(memlock(&host(), &config, 1).verdict, Verdict::Good);
        let small = Host { memlock: limit(64 << 10, 64 << 10), ..host() };
        let check = memlock(&small, &config, 1);
        assert_eq!(check.verdict, Verdict::WillNotWork);
        assert!(check.command.expect("a command").contains("* - memlock"));
        // Enough for the ring, not for what is to be registered.
        let middle = Host { memlock: limit(256 << 10, 64 << 20), ..host() };
        let check = memlock(&middle, &config, 1);
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert!(check.command.expect("a command").starts_with("ulimit -l "));
        // More reactors, more rings.
        assert_eq!(memlock(&host(), &config, 64).verdict, Verdict::CouldBeBetter);
        // Nothing is registered for sends that are copied: core.rs.
        let check = memlock(&middle, &Config::default(), 1);
        assert_eq!(check.verdict, Verdict::Good, "{}", check.found);
        assert!(!is_memlock_short(&middle, &Config::default(), 1));
    }

    #[test]
    fn old_kernels_do_not_charge_rings() {
        let small = Host { memlock: limit(64 << 10, 64 << 10), release: "6.6.1".into(), ..host() };
        let config = Config::builder().zero_copy_bytes_min(4096).build().expect("valid");
        assert_eq!(memlock(&small, &config, 1).verdict, Verdict::CouldBeBetter);
        assert_eq!(memlock(&small, &Config::default(), 1).verdict, Verdict::Good);
    }

    #[test]
    fn privilege_and_no_limit_lift_memlock() {
        let none = limit(0, 0);
        let root = Host { memlock: none, privileges: Privileges::ALL, ..host() };
        assert_eq!(memlock(&root, &Config::default(), 1).verdict, Verdict::Good);
        let unlimited = Host { memlock: Some(Limit { soft: None, hard: None }), ..host() };
        assert_eq!(memlock(&unlimited, &Config::default(), 1).verdict, Verdict::Good);
        assert_eq!(
            memlock(&Host::default(), &Config::default(), 1).verdict,
            Verdict::CouldBeBetter
        );
    }

    #[test]
    fn nofile_is_judged_against_connections() {
        let config = Config::default();
        assert_eq!(nofile(&host(), &config, 1).verdict, Verdict::Good);
        let usual = Host { nofile: limit(1024, 524_288), ..host() };
        let check = nofile(&usual, &config, 1);
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert!(check.found.contains("room for 984 of connections_max = 1024"), "{}", check.found);
        assert_eq!(check.command.as_deref(), Some("ulimit -n 2048"));
        let tiny = Host { nofile: limit(16, 16), ..host() };
        let check = nofile(&tiny, &config, 1);
        assert_eq!(check.verdict, Verdict::WillNotWork);
        assert!(check.command.expect("a command").contains("* - nofile 2048"));
    }

    #[test]
    fn mlockall_is_judged_only_when_asked_for() {
        let config = |on| Config::builder().mlockall(on).build().expect("valid");
        assert_eq!(checks(&host(), &config(false), 1).len(), 2);
        assert_eq!(checks(&host(), &config(true), 1)[2].verdict, Verdict::WillNotWork);
        let root = Host { privileges: Privileges::ALL, ..host() };
        assert_eq!(checks(&root, &config(true), 1)[2].verdict, Verdict::Good);
        let small = Host { memory_bytes: Some(64 << 20), ..root };
        assert_eq!(checks(&small, &config(true), 1)[2].verdict, Verdict::WillNotWork);
    }

    #[test]
    fn mlockall_is_judged_against_the_control_group_too() {
        let config = Config::builder().mlockall(true).build().expect("valid");
        let with = |mib: u64| {
            let memory_max = Some(MemoryMax { bytes: mib << 20, file: "/x/memory.max".into() });
            let host = Host { memory_max, privileges: Privileges::ALL, ..host() };
            (mlockall(&host, &config, 1), may_lock(&host, &config, 1))
        };
        // What the settings name is 208 MiB; what was resident, 248 MiB.
        let (check, may) = with(240);
        assert_eq!((check.verdict, may), (Verdict::WillNotWork, false), "{}", check.found);
        assert!(check.found.ends_with("/x/memory.max leaves it 240 MiB"), "{}", check.found);
        let (check, may) = with(512);
        assert_eq!((check.verdict, may), (Verdict::Good, true), "{}", check.found);
    }

    #[test]
    fn fifo_is_judged_against_the_limit() {
        let config = Config::builder().scheduler_fifo_priority(10).build().expect("valid");
        assert_eq!(checks(&host(), &config, 1)[2].verdict, Verdict::WillNotWork);
        let allowed = Host { rtprio: limit(20, 20), ..host() };
        assert_eq!(checks(&allowed, &config, 1)[2].verdict, Verdict::Good);
        let root = Host { privileges: Privileges::ALL, ..host() };
        assert_eq!(checks(&root, &config, 1)[2].verdict, Verdict::Good);
    }

    #[test]
    fn throttled_spinning_could_be_better() {
        let config = |idle| {
            let config = Config::builder().scheduler_fifo_priority(10).idle(idle).cores([1]);
            config.build().expect("valid")
        };
        let host = |release: &str, runtime| Host {
            release: release.into(),
            rt_runtime_us: Some(runtime),
            rt_period_us: Some(1_000_000),
            ..host()
        };
        let old = host("6.1.0", 950_000);
        for idle in [Idle::Spin, Idle::Adaptive] {
            let check = checks(&old, &config(idle), 1).pop().expect("one of many");
            assert_eq!(check.verdict, Verdict::CouldBeBetter);
            assert!(check.found.ends_with("stopped 50 ms of 1000 ms"), "{}", check.found);
            let command = "sudo sysctl -w kernel.sched_rt_runtime_us=-1";
            assert_eq!(check.command.as_deref(), Some(command));
            assert!(check.advice.is_some_and(|advice| advice.contains("hang the host")));
        }
        let judge = |host: &Host, idle| throttling(host, &config(idle)).verdict;
        assert_eq!(judge(&old, Idle::Park), Verdict::Good);
        assert_eq!(judge(&host("6.1.0", -1), Idle::Spin), Verdict::Good);
        assert_eq!(judge(&host("6.12.0", 950_000), Idle::Spin), Verdict::Good);
        assert_eq!(judge(&Host::default(), Idle::Spin), Verdict::CouldBeBetter);
        // Others are not throttled.
        assert_eq!(checks(&old, &Config::default(), 1).len(), 2);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(4096), "4096 B");
        assert_eq!(size(8 << 20), "8 MiB");
        assert_eq!(size((8 << 20) + 1), "8193 KiB");
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size(16 << 30), "16 GiB");
    }
}

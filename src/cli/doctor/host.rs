//! What the host says about itself: `/proc` and `/sys`, read once.
//!
//! Everything is read below a root path, so that tests show the judges a host that is not there.
//! A file that is missing or makes no sense is `None` or empty; judging that is not done here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::groups::{MemoryMax, Quota};
use super::tuning::Tuning;

/// Bits of `CapEff`, capabilities(7).
const CAP_NET_ADMIN: u32 = 12;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_NICE: u32 = 23;
/// Those that the kernel asks for in the initial user namespace; user_namespaces(7). Of the others
/// CAP_NET_ADMIN counts in the namespace that the network belongs to.
const CAPS_OF_THE_HOST: u64 = 1 << CAP_IPC_LOCK | 1 << CAP_SYS_ADMIN | 1 << CAP_SYS_NICE;

/// Facts of the host and of what this process may do on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Host {
    /// Kernel release, such as `6.1.0-18-amd64`.
    pub(super) release: String,
    pub(super) io_uring_disabled: Option<u32>,
    pub(super) io_uring_group: Option<i64>,
    /// Effective and supplementary groups of this process.
    pub(super) groups: Vec<i64>,
    pub(super) privileges: Privileges,
    /// RLIMIT_MEMLOCK in bytes.
    pub(super) memlock: Option<Limit>,
    /// RLIMIT_NOFILE.
    pub(super) nofile: Option<Limit>,
    /// RLIMIT_RTPRIO.
    pub(super) rtprio: Option<Limit>,
    /// Of each `rt_period_us`, how long real-time threads may run; -1 is all of it.
    pub(super) rt_runtime_us: Option<i64>,
    pub(super) rt_period_us: Option<i64>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) memory_max: Option<MemoryMax>,
    /// Cores this process may run on.
    pub(super) cores: Vec<usize>,
    /// Cores its control group has; `None` when no file says.
    pub(super) cpuset: Option<Vec<usize>>,
    pub(super) quota: Option<Quota>,
    /// Frequency governors of those cores, with how many have it.
    pub(super) governors: BTreeMap<String, usize>,
    pub(super) idle_driver: Option<String>,
    /// Idle states of the first of those cores.
    pub(super) idle_states: Vec<IdleState>,
    /// The hypervisor, when this is a guest.
    pub(super) hypervisor: Option<String>,
    /// Time taken by the hypervisor since boot, in thousandths.
    pub(super) steal_permille: Option<u64>,
    pub(super) clock_source: Option<String>,
    pub(super) clock_sources: Vec<String>,
    pub(super) congestion: Option<String>,
    pub(super) congestion_available: Vec<String>,
    pub(super) congestion_allowed: Vec<String>,
    pub(super) slow_start_after_idle: Option<u32>,
    pub(super) somaxconn: Option<u64>,
    /// Longest send and receive buffer a socket is given, in bytes.
    pub(super) wmem_max: Option<u64>,
    pub(super) rmem_max: Option<u64>,
    /// What else runs where reactors are to run.
    pub(super) tuning: Tuning,
}

/// Capabilities that lift a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Privileges(u64);

impl Privileges {
    /// What of `effective` counts on this host: root of a container may be nobody outside of it.
    fn counting(effective: u64, is_initial_namespace: bool) -> Self {
        Self(if is_initial_namespace { effective } else { effective & !CAPS_OF_THE_HOST })
    }

    pub(super) fn net_admin(self) -> bool {
        self.holds(CAP_NET_ADMIN)
    }

    pub(super) fn ipc_lock(self) -> bool {
        self.holds(CAP_IPC_LOCK)
    }

    pub(super) fn sys_admin(self) -> bool {
        self.holds(CAP_SYS_ADMIN)
    }

    pub(super) fn sys_nice(self) -> bool {
        self.holds(CAP_SYS_NICE)
    }

    fn holds(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }

    /// Everything root has.
    #[cfg(test)]
    pub(super) const ALL: Self = Self(u64::MAX);
}

/// A resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}

/// One state of cpuidle (Documentation/admin-guide/pm/cpuidle.rst).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdleState {
    pub(super) name: String,
    /// Time to leave it.
    pub(super) latency_us: u64,
    pub(super) disabled: bool,
}

impl Host {
    /// Reads the host below `root`, which is `/` but for tests. Blocks on `/proc` and `/sys`.
    pub(super) fn gather(root: &Path) -> Self {
        let files = Files::below(root);
        let status = files.text("proc/self/status").unwrap_or_default();
        let limits = files.text("proc/self/limits").unwrap_or_default();
        let cores = cores_of(field(&status, "Cpus_allowed_list:").unwrap_or_default());
        let idle_core = cores.first().copied().unwrap_or(0);
        Self {
            release: files.text("proc/sys/kernel/osrelease").unwrap_or_default(),
            io_uring_disabled: files.number("proc/sys/kernel/io_uring_disabled"),
            io_uring_group: files.number("proc/sys/kernel/io_uring_group"),
            groups: groups_of(&status),
            privileges: Privileges::counting(
                field(&status, "CapEff:")
                    .and_then(|bits| u64::from_str_radix(bits, 16).ok())
                    .unwrap_or(0),
                // Without the file the kernel has no user namespaces.
                files.text("proc/self/uid_map").is_none_or(|map| is_initial_namespace(&map)),
            ),
            memlock: limit_of(&limits, "Max locked memory"),
            nofile: limit_of(&limits, "Max open files"),
            rtprio: limit_of(&limits, "Max realtime priority"),
            rt_runtime_us: files.number("proc/sys/kernel/sched_rt_runtime_us"),
            rt_period_us: files.number("proc/sys/kernel/sched_rt_period_us"),
            memory_bytes: files.memory_bytes(),
            memory_max: files.memory_max(),
            governors: files.governors(&cores),
            idle_driver: files
                .text("sys/devices/system/cpu/cpuidle/current_driver")
                .filter(|driver| driver != "none"),
            idle_states: files.idle_states(idle_core),
            cores,
            cpuset: files.cpuset(),
            quota: files.quota(),
            hypervisor: files.hypervisor(),
            steal_permille: files.steal_permille(),
            clock_source: files.text(&clock_source("current")),
            clock_sources: words(files.text(&clock_source("available"))),
            congestion: files.text(&ipv4("tcp_congestion_control")),
            congestion_available: words(files.text(&ipv4("tcp_available_congestion_control"))),
            congestion_allowed: words(files.text(&ipv4("tcp_allowed_congestion_control"))),
            slow_start_after_idle: files.number(&ipv4("tcp_slow_start_after_idle")),
            somaxconn: files.number("proc/sys/net/core/somaxconn"),
            wmem_max: files.number("proc/sys/net/core/wmem_max"),
            rmem_max: files.number("proc/sys/net/core/rmem_max"),
            tuning: Tuning::gather(&files),
        }
    }

    /// Whether a thread may be pinned there. sched_setaffinity(2) goes by the cpuset: that also has
    /// what taskset(1) or isolcpus= keep a process from that does not ask.
    pub(super) fn permits(&self, core: usize) -> bool {
        let is_in_cpuset = match &self.cpuset {
            Some(cpuset) => cpuset.contains(&core),
            None => self.tuning.isolated.contains(&core),
        };
        is_in_cpuset || self.cores.contains(&core)
    }

    /// Isolated cores that a reactor may be pinned to. What is isolated is said of the host, in a
    /// container too.
    pub(super) fn isolated(&self) -> Vec<usize> {
        self.tuning.isolated.iter().copied().filter(|&core| self.permits(core)).collect()
    }

    /// Cores for reactors, in order: those of this process, those isolated, and those of `pinned`
    /// that it may have.
    pub(super) fn usable(&self, pinned: &[usize]) -> Vec<usize> {
        let permitted = pinned.iter().copied().filter(|&core| self.permits(core));
        let mut cores = self.cores.clone();
        cores.extend(self.isolated().into_iter().chain(permitted));
        cores.sort_unstable();
        cores.dedup();
        cores
    }
}

/// The map of the initial user namespace, user_namespaces(7).
fn is_initial_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The files of a host.
pub(super) struct Files<'a> {
    root: &'a Path,
}

impl<'a> Files<'a> {
    pub(super) fn below(root: &'a Path) -> Self {
        Self { root }
    }
}

impl Files<'_> {
    /// The names in a directory, in order.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The trimmed text of a file; `None` when it is not there or empty.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.text_at(&self.path(path))
    }

    /// Where a file of the host is.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn text_at(&self, path: &Path) -> Option<String> {
        let text = fs::read_to_string(path).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    pub(super) fn number<N: std::str::FromStr>(&self, path: &str) -> Option<N> {
        self.text(path)?.parse().ok()
    }

    fn memory_bytes(&self) -> Option<u64> {
        let text = self.text("proc/meminfo")?;
        let kib = field(&text, "MemTotal:")?.strip_suffix("kB")?.trim();
        kib.parse::<u64>().ok()?.checked_mul(1024)
    }

    fn governors(&self, cores: &[usize]) -> BTreeMap<String, usize> {
        let mut governors = BTreeMap::new();
        for core in cores {
            let path = format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
            if let Some(governor) = self.text(&path) {
                *governors.entry(governor).or_insert(0) += 1;
            }
        }
        governors
    }

    fn idle_states(&self, core: usize) -> Vec<IdleState> {
        let state = |index| {
            let path =
                |file| format!("sys/devices/system/cpu/cpu{core}/cpuidle/state{index}/{file}");
            Some(IdleState {
                name: self.text(&path("name"))?,
                latency_us: self.number(&path("latency"))?,
                disabled: self.number::<u32>(&path("disable")).is_some_and(|value| value != 0),
            })
        };
        (0..16).map_while(state).collect()
    }

    /// Whether a hypervisor shows itself; the vendor gives it a name.
    fn hypervisor(&self) -> Option<String> {
        let named = self.text("sys/hypervisor/type");
        let flagged = self.text("proc/cpuinfo").is_some_and(|text| {
            field(&text, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor"))
        });
        let in_tree = self.root.join("proc/device-tree/hypervisor").exists();
        if named.is_none() && !flagged && !in_tree {
            return None;
        }
        let vendor = self.text("sys/class/dmi/id/sys_vendor");
        let has_kvm_clock =
            words(self.text(&clock_source("available"))).iter().any(|name| name == "kvm-clock");
        Some(named.or(vendor).unwrap_or_else(|| {
            (if has_kvm_clock { "KVM" } else { "unknown hypervisor" }).to_owned()
        }))
    }

    /// `steal` among the times of the first line of proc_stat(5).
    fn steal_permille(&self) -> Option<u64> {
        let text = self.text("proc/stat")?;
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        // user nice system idle iowait irq softirq steal; guest times are within user's.
        let times: Vec<u64> = line.split_whitespace().take(8).flat_map(str::parse).collect();
        let total = times.iter().sum::<u64>();
        let steal = *times.get(7)?;
        steal.checked_mul(1000)?.checked_div(total)
    }
}

fn ipv4(name: &str) -> String {
    format!("proc/sys/net/ipv4/{name}")
}

fn clock_source(which: &str) -> String {
    format!("sys/devices/system/clocksource/clocksource0/{which}_clocksource")
}

/// The rest of the first line that begins with `name`, without a colon and blanks around it.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim_start_matches([' ', '\t', ':']).trim_end())
}

fn words(text: Option<String>) -> Vec<String> {
    text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Reads a list such as `0-3,8`.
pub(super) fn cores_of(list: &str) -> Vec<usize> {
    const CORES_MAX: usize = 8192;
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse::<usize>()) {
            cores.extend(first..=last.min(CORES_MAX));
        }
    }
    cores
}

fn groups_of(status: &str) -> Vec<i64> {
    // Gid: real, effective, saved, file system.
    let effective = field(status, "Gid:").and_then(|ids| ids.split_whitespace().nth(1));
    let supplementary = field(status, "Groups:").unwrap_or_default().split_whitespace();
    effective.into_iter().chain(supplementary).flat_map(str::parse).collect()
}

/// A line of `/proc/self/limits`: name, soft limit, hard limit, unit.
fn limit_of(limits: &str, name: &str) -> Option<Limit> {
    let mut values = field(limits, name)?.split_whitespace();
    let mut value = || match values.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Limit { soft: value()?, hard: value()? })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A host made of files in a directory of its own, removed when dropped.
    pub(crate) struct FakeHost {
        pub(crate) root: PathBuf,
    }

    impl FakeHost {
        pub(crate) fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("ringwire-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).expect("a temporary directory");
            Self { root }
        }

        pub(crate) fn write(&self, path: &str, text: &str) -> &Self {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            fs::write(path, text).expect("a file");
            self
        }
    }

    impl Drop for FakeHost {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn empty_host_gives_no_facts() {
        let fake = FakeHost::new("empty");
        let host = Host::gather(&fake.root);
        assert_eq!(host.release, "");
        assert_eq!(host.memlock, None);
        assert_eq!(host.quota, None);
        assert_eq!(host.hypervisor, None);
        assert!(host.cores.is_empty());
    }

    #[test]
    fn process_files_are_read() {
        let fake = FakeHost::new("process");
        let status = "Name:\tx\nGid:\t1\t1000\t1\t1\nGroups:\t4 990 \nCapEff:\t0000000000004000\n\
                      Cpus_allowed_list:\t0-1,6\n";
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n\
                      Max locked memory         8388608              unlimited            bytes\n";
        fake.write("proc/self/status", status).write("proc/self/limits", limits);
        let host = Host::gather(&fake.root);
        assert_eq!(host.groups, [1000, 4, 990]);
        assert!(host.privileges.ipc_lock());
        assert!(!host.privileges.sys_admin());
        assert_eq!(host.cores, [0, 1, 6]);
        assert_eq!(host.nofile, Some(Limit { soft: Some(1024), hard: Some(524_288) }));
        assert_eq!(host.memlock, Some(Limit { soft: Some(8 << 20), hard: None }));
    }

    /// `podman run` by a user gives all capabilities, and none that lifts a limit of the host.
    #[test]
    fn capabilities_of_a_user_namespace_lift_no_limit_of_the_host() {
        let fake = FakeHost::new("namespace");
        fake.write("proc/self/status", "CapEff:\t000001ffffffffff\n");
        let privileges = |map: Option<&str>| {
            map.map(|map| fake.write("proc/self/uid_map", map));
            Host::gather(&fake.root).privileges
        };
        for map in [None, Some("         0          0 4294967295\n")] {
            let real = privileges(map);
            assert!(real.sys_admin() && real.ipc_lock() && real.sys_nice() && real.net_admin());
        }
        for map in ["0 1000 1\n1 100000 65536\n", "0 0 65536\n", "1000 1000 1\n"] {
            let inner = privileges(Some(map));
            assert!(!inner.sys_admin() && !inner.ipc_lock() && !inner.sys_nice(), "{map}");
            assert!(inner.net_admin(), "it is asked for in the network's namespace");
        }
    }

    #[test]
    fn cpuset_decides_where_a_reactor_may_be_pinned() {
        let tuning = Tuning { isolated: vec![6, 7], ..Tuning::default() };
        let host =
            |cpuset| Host { cores: vec![0, 1], cpuset, tuning: tuning.clone(), ..Host::default() };
        let unknown = host(None);
        assert_eq!(unknown.usable(&[]), [0, 1, 6, 7]);
        assert!(!unknown.permits(2));
        // A container that was given four cores and runs on two; isolated are the host's.
        let container = host(Some((0..4).collect()));
        assert!(container.isolated().is_empty());
        assert_eq!(container.usable(&[]), [0, 1]);
        assert_eq!(container.usable(&[3, 7]), [0, 1, 3]);
        assert_eq!(host(Some((0..7).collect())).isolated(), [6]);
    }

    #[test]
    fn processor_files_are_read() {
        let fake = FakeHost::new("processor");
        let idle = "sys/devices/system/cpu/cpu0/cpuidle";
        fake.write("proc/self/status", "Cpus_allowed_list:\t0-2\n")
            .write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
            .write("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n")
            .write("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n")
            .write("sys/devices/system/cpu/cpuidle/current_driver", "none\n")
            .write(&format!("{idle}/state0/name"), "POLL\n")
            .write(&format!("{idle}/state0/latency"), "0\n")
            .write(&format!("{idle}/state1/name"), "C6\n")
            .write(&format!("{idle}/state1/latency"), "133\n")
            .write(&format!("{idle}/state1/disable"), "1\n")
            .write("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor tsc\n")
            .write("proc/stat", "cpu  10 0 10 60 0 0 10 10 5 0\ncpu0 1\n");
        let host = Host::gather(&fake.root);
        assert_eq!(host.governors.get("powersave"), Some(&2));
        assert_eq!(host.idle_driver, None, "none is no driver");
        let c6 = IdleState { name: "C6".into(), latency_us: 133, disabled: true };
        assert_eq!(host.idle_states[1], c6);
        assert_eq!(host.hypervisor.as_deref(), Some("unknown hypervisor"));
        assert_eq!(host.steal_permille, Some(100));
    }

    #[test]
    fn core_lists_are_read() {
        assert_eq!(cores_of("3"), [3]);
        assert_eq!(cores_of("0-1,4-5"), [0, 1, 4, 5]);
        assert!(cores_of("").is_empty());
        assert!(cores_of("x-y").is_empty());
    }

    #[test]
    fn this_host_gives_facts() {
        let host = Host::gather(Path::new("/"));
        assert!(!host.release.is_empty());
        assert!(!host.cores.is_empty());
        assert!(host.cores.iter().all(|&core| host.permits(core)));
        assert!(host.nofile.is_some());
    }
}

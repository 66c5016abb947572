//! Judges cores, clocks and sleep states: what decides how long a wake-up takes.

use ringwire::config::{Config, Idle};

use super::host::Host;
use super::report::Check;

/// An idle state that takes longer to leave shows in the latency of a sleeping reactor.
pub(super) const IDLE_LATENCY_US_MAX: u64 = 20;
/// More time than this taken by the hypervisor shows in the tail.
const STEAL_PERMILLE_MAX: u64 = 10;

pub(super) fn checks(host: &Host, config: &Config, reactors: usize) -> Vec<Check> {
    vec![
        cores(host, config, reactors),
        quota(host),
        governor(host),
        idle_states(host, config),
        machine(host),
        clock_source(host),
    ]
}

fn cores(host: &Host, config: &Config, reactors: usize) -> Check {
    const CHECK: &str = "cores";
    if host.cores.is_empty() {
        return Check::unknown(CHECK, "/proc/self/status");
    }
    let pinned = config.cores();
    if let Some(core) = pinned.iter().find(|&&core| !host.permits(core)) {
        let allowed = ranges(host.cpuset.as_ref().unwrap_or(&host.cores));
        return Check::bad(
            CHECK,
            format!("cores names {core}, and this process may run on {allowed}"),
        )
        .advice("name other cores, or allow it (taskset, CPUAffinity=, --cpuset-cpus)");
    }
    // Isolated cores are nobody's by default, and everybody's who asks (sched_setaffinity(2)).
    let isolated = host.isolated();
    let is_free = |core: &&usize| !host.cores.contains(core) && !pinned.contains(core);
    let free: Vec<usize> = isolated.iter().filter(is_free).copied().collect();
    let count = host.usable(pinned).len() - free.len();
    let found = format!("{count} usable, {reactors} {}", plural(reactors, "reactor"));
    let more = |otherwise: String| match free.is_empty() {
        true => otherwise,
        false => format!("name isolated cores in cores: {} are for who asks", ranges(&free)),
    };
    if reactors > count {
        return Check::better(CHECK, format!("{found}: they take turns, and none may spin"))
            .advice(more(format!("run at most {count}, or allow more cores (taskset)")));
    }
    if count == 1 {
        return Check::better(CHECK, format!("{found}: the application and the kernel share it"))
            .advice(more("allow a second core (taskset, CPUAffinity=, --cpuset-cpus)".into()));
    }
    if reactors == count && config.idle() == Idle::Spin {
        let found = format!("{found}, all spinning: none is left for the application");
        return Check::better(CHECK, found).advice("run one reactor less, or idle = \"adaptive\"");
    }
    Check::good(CHECK, found)
}

/// A group that has used up its quota is stopped until the period ends: up to 100 ms.
fn quota(host: &Host) -> Check {
    const CHECK: &str = "CPU quota";
    let Some(quota) = &host.quota else { return Check::good(CHECK, "none") };
    let (whole, tenths) = (quota.millicores / 1000, quota.millicores % 1000 / 100);
    let count = host.cores.len();
    let enough = u64::try_from(count).is_ok_and(|count| quota.millicores >= count * 1000);
    if enough && count > 0 {
        return Check::good(CHECK, format!("{whole}.{tenths} cores, as many as there are"));
    }
    let file = quota.file.display();
    let none = if quota.file.ends_with("cpu.max") { "max" } else { "-1" };
    Check::better(
        CHECK,
        format!("{whole}.{tenths} of {count} cores: once used up, all threads stop for a while"),
    )
    .advice("pin with a cpuset instead of a quota (docker --cpuset-cpus, a static CPU manager)")
    .command(format!("echo {none} | sudo tee {file}"))
}

fn governor(host: &Host) -> Check {
    const CHECK: &str = "CPU governor";
    let names = host.governors.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match host.governors.keys().find(|&name| name != "performance") {
        None if names.is_empty() => {
            Check::good(CHECK, "none: firmware or hypervisor set the frequency")
        }
        None => Check::good(CHECK, names),
        Some(_) => Check::better(CHECK, format!("{names}: a core that idles clocks down"))
            .advice("keep the frequency up")
            .command(
                "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
            ),
    }
}

/// How long a sleeping core takes to wake up.
fn idle_states(host: &Host, config: &Config) -> Check {
    const CHECK: &str = "idle states";
    if config.idle() == Idle::Spin {
        return Check::good(CHECK, "not entered: idle = \"spin\"");
    }
    let instead = "or set idle = \"spin\", which never sleeps";
    let Some(driver) = &host.idle_driver else {
        if host.hypervisor.is_none() {
            return Check::good(CHECK, "no driver: cores halt and wake at once");
        }
        let found = "no driver in a guest: sleeping leaves the guest, waking takes 10 to 40 µs";
        return Check::better(CHECK, found)
            .advice(format!("have a KVM guest poll before it halts, {instead}"))
            .command("sudo modprobe cpuidle_haltpoll force=1");
    };
    let enabled = host.idle_states.iter().filter(|state| !state.disabled);
    match enabled.max_by_key(|state| state.latency_us) {
        Some(state) if state.latency_us > IDLE_LATENCY_US_MAX => {
            let (name, latency) = (&state.name, state.latency_us);
            Check::better(CHECK, format!("{driver}: {name} takes {latency} µs to leave"))
                .advice(format!("switch deep states off, {instead}"))
                .command(format!("sudo cpupower idle-set -D {IDLE_LATENCY_US_MAX}"))
        }
        Some(state) => {
            Check::good(CHECK, format!("{driver}: at most {} µs to leave", state.latency_us))
        }
        None => Check::good(CHECK, driver.clone()),
    }
}

fn machine(host: &Host) -> Check {
    const CHECK: &str = "machine";
    let Some(hypervisor) = &host.hypervisor else { return Check::good(CHECK, "no hypervisor") };
    let steal = host.steal_permille.unwrap_or(0);
    let percent = format!("{}.{} %", steal / 10, steal % 10);
    if steal > STEAL_PERMILLE_MAX {
        let found = format!("guest ({hypervisor}), which lost {percent} of its time to others");
        return Check::better(CHECK, found)
            .advice("give each virtual CPU a core of its own on the host (virsh vcpupin)");
    }
    Check::better(CHECK, format!("guest ({hypervisor}): every wake-up passes the host"))
        .advice("measure on the metal what must hold to the microsecond")
}

fn clock_source(host: &Host) -> Check {
    const CHECK: &str = "clock source";
    const FILE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    /// Read by the vDSO, without a system call: vdso(7) and arch/*/include/asm/vdso.
    const FAST: [&str; 5] = [
        "tsc",
        "kvm-clock",
        "arch_sys_counter",
        "hyperv_clocksource_tsc_page",
        "riscv_clocksource",
    ];
    let Some(current) = host.clock_source.as_deref() else { return Check::unknown(CHECK, FILE) };
    if FAST.contains(&current) {
        return Check::good(CHECK, current);
    }
    let check =
        Check::better(CHECK, format!("{current}: each reading of the clock is a system call"));
    match host.clock_sources.iter().find(|source| FAST.contains(&source.as_str())) {
        Some(fast) => check
            .advice(format!("switch, and add clocksource={fast} to the kernel's command line"))
            .command(format!("echo {fast} | sudo tee {FILE}")),
        None => check.advice("see `dmesg | grep -i tsc` for why the kernel gave up its fast clock"),
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

/// Writes `[0, 1, 2, 5]` as `0-2,5`.
pub(super) fn ranges(cores: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => parts.push((core, core)),
        }
    }
    let text = |&(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::super::groups::Quota;
    use super::super::host::IdleState;
    use super::super::report::Verdict;
    use super::*;

    fn host(cores: usize) -> Host {
        Host { cores: (0..cores).collect(), ..Host::default() }
    }

    fn config(idle: Idle, cores: &[usize]) -> Config {
        Config::builder().idle(idle).cores(cores).build().expect("valid")
    }

    #[test]
    fn cores_are_judged_against_reactors() {
        let adaptive = config(Idle::Adaptive, &[]);
        assert_eq!(cores(&host(4), &adaptive, 2).verdict, Verdict::Good);
        assert_eq!(cores(&host(2), &adaptive, 2).verdict, Verdict::Good);
        assert_eq!(cores(&host(2), &config(Idle::Spin, &[]), 2).verdict, Verdict::CouldBeBetter);
        assert_eq!(cores(&host(2), &adaptive, 3).verdict, Verdict::CouldBeBetter);
        assert_eq!(cores(&host(1), &adaptive, 1).verdict, Verdict::CouldBeBetter);
        assert_eq!(cores(&host(0), &adaptive, 1).verdict, Verdict::CouldBeBetter);
    }

    #[test]
    fn pinning_to_a_core_we_may_not_use_will_not_work() {
        let check = cores(&host(2), &config(Idle::Park, &[0, 7]), 2);
        assert_eq!(check.verdict, Verdict::WillNotWork);
        assert!(check.found.contains("names 7"), "{}", check.found);
        assert!(check.found.contains("0-1"), "{}", check.found);
        let mut isolating = host(2);
        isolating.tuning.isolated = vec![7];
        let check = cores(&isolating, &config(Idle::Park, &[0, 7]), 2);
        assert_eq!(
            check.verdict,
            Verdict::Good,
            "isolcpus=7 takes it off the list of allowed ones"
        );
        // Of the host, and not of this container.
        let container = Host { cpuset: Some(vec![0, 1]), ..isolating };
        let check = cores(&container, &config(Idle::Park, &[0, 7]), 2);
        assert_eq!(check.verdict, Verdict::WillNotWork, "{}", check.found);
        // taskset(1) binds who does not ask.
        let narrowed = Host { cpuset: Some((0..8).collect()), ..container };
        let check = cores(&narrowed, &config(Idle::Park, &[0, 5]), 2);
        assert_eq!(check.verdict, Verdict::Good, "{}", check.found);
    }

    #[test]
    fn isolated_cores_count_for_reactors_that_are_pinned_there() {
        let mut isolating = host(1);
        isolating.tuning.isolated = vec![2, 3];
        let check = cores(&isolating, &config(Idle::Spin, &[2, 3]), 2);
        assert_eq!(check.verdict, Verdict::Good, "{}", check.found);
        assert!(check.found.starts_with("3 usable"), "{}", check.found);
        // As recommended for these.
        for idle in [Idle::Spin, Idle::Adaptive] {
            let check = cores(&isolating, &config(idle, &[]), 2);
            assert_eq!(check.verdict, Verdict::CouldBeBetter);
            assert!(check.found.contains("1 usable, 2 reactors: they take turns"), "{check:?}");
            assert!(check.advice.expect("advice").contains("cores: 2-3"), "not fewer reactors");
        }
        let check = cores(&isolating, &config(Idle::Adaptive, &[]), 1);
        assert!(check.advice.expect("advice").contains("cores: 2-3"), "not a second core");
    }

    #[test]
    fn quota_below_the_cores_could_be_better() {
        let with = |millicores, file: &str| {
            quota(&Host { quota: Some(Quota { millicores, file: file.into() }), ..host(2) })
        };
        assert_eq!(quota(&host(2)).verdict, Verdict::Good);
        assert_eq!(with(2000, "/x/cpu.max").verdict, Verdict::Good);
        let check = with(1500, "/x/cpu.max");
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert!(check.found.starts_with("1.5 of 2 cores"), "{}", check.found);
        assert_eq!(check.command.as_deref(), Some("echo max | sudo tee /x/cpu.max"));
        let check = with(500, "/x/cpu.cfs_quota_us");
        assert_eq!(check.command.as_deref(), Some("echo -1 | sudo tee /x/cpu.cfs_quota_us"));
    }

    #[test]
    fn governor_other_than_performance_could_be_better() {
        let with = |names: &[&str]| {
            let governors = names.iter().map(|&name| (name.to_owned(), 1)).collect();
            governor(&Host { governors, ..host(2) }).verdict
        };
        assert_eq!(with(&[]), Verdict::Good);
        assert_eq!(with(&["performance"]), Verdict::Good);
        assert_eq!(with(&["performance", "powersave"]), Verdict::CouldBeBetter);
    }

    #[test]
    fn idle_states_are_judged_by_the_time_to_leave() {
        let park = config(Idle::Park, &[]);
        let state = |latency_us, disabled| IdleState { name: "C6".into(), latency_us, disabled };
        let with = |states: Vec<IdleState>| Host {
            idle_driver: Some("intel_idle".into()),
            idle_states: states,
            ..host(2)
        };
        assert_eq!(idle_states(&host(2), &park).verdict, Verdict::Good);
        assert_eq!(idle_states(&with(vec![state(2, false)]), &park).verdict, Verdict::Good);
        let deep = with(vec![state(2, false), state(133, false)]);
        let check = idle_states(&deep, &park);
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert_eq!(check.command.as_deref(), Some("sudo cpupower idle-set -D 20"));
        assert_eq!(idle_states(&deep, &config(Idle::Spin, &[])).verdict, Verdict::Good);
        assert_eq!(idle_states(&with(vec![state(133, true)]), &park).verdict, Verdict::Good);
        let guest = Host { hypervisor: Some("KVM".into()), ..host(2) };
        assert_eq!(idle_states(&guest, &park).verdict, Verdict::CouldBeBetter);
        let polls = Host { idle_driver: Some("haltpoll".into()), ..guest };
        assert_eq!(idle_states(&polls, &park).verdict, Verdict::Good);
    }

    #[test]
    fn guest_could_be_better() {
        assert_eq!(machine(&host(2)).verdict, Verdict::Good);
        let guest = Host { hypervisor: Some("KVM".into()), ..host(2) };
        assert_eq!(machine(&guest).verdict, Verdict::CouldBeBetter);
        let robbed = machine(&Host { steal_permille: Some(123), ..guest });
        assert!(robbed.found.contains("12.3 %"), "{}", robbed.found);
    }

    #[test]
    fn clock_source_without_vdso_could_be_better() {
        let with = |current: &str, available: &[&str]| {
            let clock_sources = available.iter().map(|&name| name.to_owned()).collect();
            clock_source(&Host { clock_source: Some(current.into()), clock_sources, ..host(2) })
        };
        assert_eq!(with("tsc", &["tsc", "hpet"]).verdict, Verdict::Good);
        let check = with("hpet", &["tsc", "hpet"]);
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert!(check.command.expect("a command").starts_with("echo tsc | sudo tee /sys/"));
        assert_eq!(with("hpet", &["hpet"]).command, None);
        assert_eq!(clock_source(&host(2)).verdict, Verdict::CouldBeBetter);
    }

    #[test]
    fn ranges_are_written_short() {
        assert_eq!(ranges(&[0, 1, 2, 5]), "0-2,5");
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[]), "");
    }
}

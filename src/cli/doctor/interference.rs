//! Judges what else runs where reactors are to run: what makes a core that is fast most of the time
//! slow now and then.

use ringwire::config::{Config, Idle};

use super::host::Host;
use super::limits;
use super::processor::ranges;
use super::report::Check;
use super::tuning::Interrupt;

/// Timers that may be this late do not show.
const SLACK_NS_MAX: u64 = 1_000;
/// The kernel swaps only in an emergency up to here: proc_sys_vm(5).
pub(super) const SWAPPINESS_MAX: u32 = 1;
/// Interrupts that a check names.
const NAMED_MAX: usize = 3;

pub(super) fn checks(host: &Host, config: &Config, reactors: usize) -> Vec<Check> {
    vec![
        isolation(host, config),
        interrupts(host, config),
        huge_pages(host, config),
        swap(host, config, reactors),
        timer_slack(host, config),
    ]
}

/// isolcpus= and nohz_full= (Documentation/admin-guide/kernel-parameters.txt), and isolated
/// partitions of cpuset (Documentation/admin-guide/cgroup-v2.rst).
fn isolation(host: &Host, config: &Config) -> Check {
    const CHECK: &str = "isolated cores";
    let tuning = &host.tuning;
    let pinned = config.cores();
    if pinned.is_empty() {
        let isolated = host.isolated();
        if isolated.is_empty() && !tuning.isolated.is_empty() {
            let found = format!("{}, which are not this cpuset's", ranges(&tuning.isolated));
            return Check::good(CHECK, found);
        }
        if isolated.is_empty() {
            return Check::good(CHECK, "none, and no reactor is pinned");
        }
        return Check::better(CHECK, format!("{}, and nothing is pinned there", ranges(&isolated)))
            .advice(format!("give them to the reactors: cores = [{}]", list(&isolated)));
    }
    let shared: Vec<usize> =
        pinned.iter().copied().filter(|&core| !tuning.is_isolated(core)).collect();
    if !shared.is_empty() {
        let found = format!("{} of cores not among them: others run there too", ranges(&shared));
        let names = list(&shared);
        return Check::better(CHECK, found).advice(format!(
            "boot with isolcpus={names} nohz_full={names} rcu_nocbs={names}, or make a cpuset \
             with cpuset.cpus.partition = isolated"
        ));
    }
    let ticking: Vec<usize> =
        pinned.iter().copied().filter(|core| !tuning.tickless.contains(core)).collect();
    if config.idle() == Idle::Spin && !ticking.is_empty() {
        let found = format!("{}, with the scheduler's tick", ranges(pinned));
        let names = list(&ticking);
        return Check::better(CHECK, found)
            .advice(format!("boot with nohz_full={names} rcu_nocbs={names} as well"));
    }
    Check::good(CHECK, ranges(pinned))
}

/// Interrupts of devices that stop a pinned reactor.
fn interrupts(host: &Host, config: &Config) -> Check {
    const CHECK: &str = "interrupts";
    let pinned = config.cores();
    if pinned.is_empty() {
        return Check::good(CHECK, "anywhere: no reactor is pinned");
    }
    if host.tuning.interrupts.is_empty() {
        return Check::unknown(CHECK, "/proc/interrupts");
    }
    let count = |interrupt: &Interrupt| {
        let here = interrupt.served.iter().filter(|(core, _)| pinned.contains(core));
        here.map(|(_, count)| count).sum::<u64>()
    };
    let mut stopping: Vec<(u64, &Interrupt)> = host
        .tuning
        .interrupts
        .iter()
        .filter(|interrupt| interrupt.cores.iter().any(|core| pinned.contains(core)))
        .map(|interrupt| (count(interrupt), interrupt))
        .filter(|(count, _)| *count > 0)
        .collect();
    stopping.sort_by_key(|(count, interrupt)| (std::cmp::Reverse(*count), interrupt.number));
    if stopping.is_empty() {
        return Check::good(CHECK, format!("of devices: none on {}", ranges(pinned)));
    }
    let named: Vec<String> = stopping
        .iter()
        .take(NAMED_MAX)
        .map(|(count, interrupt)| format!("{} ({count} so far)", interrupt.name))
        .collect();
    let more = match stopping.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let found = format!("{} on {}: {}{more}", stopping.len(), ranges(pinned), named.join(", "));
    let check = Check::better(CHECK, found);
    let free: Vec<usize> =
        host.cores.iter().copied().filter(|core| !pinned.contains(core)).collect();
    if free.is_empty() {
        return check.advice("leave one core without a reactor, for interrupts");
    }
    let numbers: Vec<String> =
        stopping.iter().map(|(_, interrupt)| interrupt.number.to_string()).collect();
    let (numbers, free) = (numbers.join(" "), ranges(&free));
    check
        .advice("move them off; IRQBALANCE_BANNED_CPULIST keeps irqbalance from moving them back")
        .command(format!(
            "for i in {numbers}; do echo {free} | sudo tee /proc/irq/$i/smp_affinity_list; done"
        ))
}

/// Documentation/admin-guide/mm/transhuge.rst: `always` compacts memory when it likes.
fn huge_pages(host: &Host, config: &Config) -> Check {
    const CHECK: &str = "huge pages";
    match host.tuning.huge_pages.as_deref() {
        None => Check::good(CHECK, "not on this kernel"),
        Some("always") if !config.mlockall() => {
            Check::better(CHECK, "always: page faults may stop to make one")
                .advice("use them where they are asked for only")
                .command("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")
        }
        Some(mode) => Check::good(CHECK, mode),
    }
}

/// A page that was swapped out takes a disk's time to come back.
fn swap(host: &Host, config: &Config, reactors: usize) -> Check {
    const CHECK: &str = "swap";
    let tuning = &host.tuning;
    let Some(kib) = tuning.swap_kib else { return Check::unknown(CHECK, "/proc/swaps") };
    if kib == 0 {
        return Check::good(CHECK, "none");
    }
    let size = format!("{} MiB", kib.div_ceil(1024));
    if config.mlockall() {
        return Check::good(CHECK, format!("{size}, and mlockall = true"));
    }
    if let Some(value) = tuning.swappiness
        && value <= SWAPPINESS_MAX
    {
        return Check::good(CHECK, format!("{size}, in an emergency only (swappiness {value})"));
    }
    let advice = match limits::may_lock(host, config, reactors) {
        true => "set mlockall = true, which the limits allow, or have the kernel swap less",
        false => "have the kernel swap in an emergency only",
    };
    Check::better(CHECK, format!("{size}: memory not used for a while may leave"))
        .advice(advice)
        .command(format!("sudo sysctl -w vm.swappiness={SWAPPINESS_MAX}"))
}

/// PR_SET_TIMERSLACK in prctl(2). Real-time threads have none.
fn timer_slack(host: &Host, config: &Config) -> Check {
    const CHECK: &str = "timer slack";
    if config.idle() == Idle::Spin {
        return Check::good(CHECK, "no matter: idle = \"spin\" sets no timers");
    }
    if config.scheduler_fifo_priority() > 0 {
        return Check::good(CHECK, "none: scheduler_fifo_priority is set");
    }
    match host.tuning.timer_slack_ns {
        None => Check::unknown(CHECK, "/proc/self/timerslack_ns"),
        Some(ns) if ns <= SLACK_NS_MAX => Check::good(CHECK, format!("{ns} ns")),
        Some(ns) => {
            let found = format!("{} µs: a sleeping reactor's timers may be that late", ns / 1_000);
            Check::better(CHECK, found)
                .advice("start it with TimerSlackNSec=1 in a systemd unit (children inherit it)")
        }
    }
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::super::tuning::Tuning;
    use super::*;

    fn host(tuning: Tuning) -> Host {
        Host { cores: (0..4).collect(), tuning, ..Host::default() }
    }

    fn config(idle: Idle, cores: &[usize]) -> Config {
        Config::builder().idle(idle).cores(cores).build().expect("valid")
    }

    #[test]
    fn pinned_cores_are_better_isolated() {
        let isolated = |isolated: &[usize], tickless: &[usize]| {
            host(Tuning {
                isolated: isolated.to_vec(),
                tickless: tickless.to_vec(),
                ..Tuning::default()
            })
        };
        let judge = |host: &Host, idle, cores: &[usize]| isolation(host, &config(idle, cores));
        let none = isolated(&[], &[]);
        assert_eq!(judge(&none, Idle::Spin, &[]).verdict, Verdict::Good);
        let check = judge(&none, Idle::Spin, &[2, 3]);
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert!(check.advice.expect("advice").contains("isolcpus=2,3 nohz_full=2,3"));
        let two = isolated(&[2, 3], &[2]);
        let check = judge(&two, Idle::Spin, &[]);
        assert!(check.advice.expect("advice").contains("cores = [2,3]"));
        let container =
            Host { cores: vec![0, 1], cpuset: Some(vec![0, 1]), ..isolated(&[2, 3], &[]) };
        assert_eq!(judge(&container, Idle::Spin, &[]).verdict, Verdict::Good);
        assert_eq!(judge(&two, Idle::Park, &[2, 3]).verdict, Verdict::Good);
        let check = judge(&two, Idle::Spin, &[2, 3]);
        assert!(check.advice.expect("advice").contains("nohz_full=3"));
        assert_eq!(judge(&two, Idle::Spin, &[2]).verdict, Verdict::Good);
        assert_eq!(judge(&two, Idle::Spin, &[1, 2]).verdict, Verdict::CouldBeBetter);
        let partition = host(Tuning { own_partition: true, ..Tuning::default() });
        assert_eq!(judge(&partition, Idle::Park, &[0, 1]).verdict, Verdict::Good);
    }

    #[test]
    fn interrupts_belong_on_other_cores() {
        let interrupt = |number, core: usize, count| Interrupt {
            number,
            name: format!("eth0-{number}"),
            served: vec![(core, count)],
            cores: vec![core],
        };
        let with = |interrupts| host(Tuning { interrupts, ..Tuning::default() });
        let pinned = config(Idle::Park, &[2, 3]);
        let check = interrupts(&with(vec![interrupt(40, 0, 9), interrupt(41, 2, 0)]), &pinned);
        assert_eq!(check.verdict, Verdict::Good, "{}", check.found);
        let many = vec![
            interrupt(40, 0, 99),
            interrupt(41, 2, 7),
            interrupt(42, 3, 8),
            interrupt(43, 2, 9),
            interrupt(44, 2, 1),
        ];
        let check = interrupts(&with(many.clone()), &pinned);
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert!(
            check.found.starts_with("4 on 2-3: eth0-43 (9 so far), eth0-42"),
            "{}",
            check.found
        );
        assert!(check.found.ends_with("and 1 more"), "{}", check.found);
        let command = check.command.expect("a command");
        assert!(command.starts_with("for i in 43 42 41 44; do echo 0-1 |"), "{command}");
        let check = interrupts(&with(many.clone()), &config(Idle::Park, &[0, 1, 2, 3]));
        assert_eq!(check.command, None, "there is no other core");
        assert_eq!(interrupts(&with(many), &config(Idle::Park, &[])).verdict, Verdict::Good);
        assert_eq!(interrupts(&with(Vec::new()), &pinned).verdict, Verdict::CouldBeBetter);
    }

    #[test]
    fn huge_pages_by_themselves_could_be_better() {
        let with = |mode: Option<&str>| {
            let huge_pages = mode.map(str::to_owned);
            huge_pages_of(&host(Tuning { huge_pages, ..Tuning::default() }))
        };
        fn huge_pages_of(host: &Host) -> Verdict {
            huge_pages(host, &Config::default()).verdict
        }
        assert_eq!(with(Some("always")), Verdict::CouldBeBetter);
        assert_eq!(with(Some("madvise")), Verdict::Good);
        assert_eq!(with(None), Verdict::Good);
    }

    #[test]
    fn swap_could_be_better_unless_memory_is_locked() {
        let with =
            |swap_kib, swappiness| host(Tuning { swap_kib, swappiness, ..Tuning::default() });
        let judge = |host: &Host| swap(host, &Config::default(), 1);
        assert_eq!(judge(&with(Some(0), Some(60))).verdict, Verdict::Good);
        assert_eq!(judge(&with(Some(4096), Some(1))).verdict, Verdict::Good);
        assert_eq!(judge(&with(None, None)).verdict, Verdict::CouldBeBetter);
        let check = judge(&with(Some(4096), Some(60)));
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert!(check.advice.as_ref().is_some_and(|a| a.contains("mlockall")), "no limit is known");
        assert_eq!(check.command.as_deref(), Some("sudo sysctl -w vm.swappiness=1"));
        let locked = Config::builder().mlockall(true).build().expect("valid");
        assert_eq!(swap(&with(Some(4096), Some(60)), &locked, 1).verdict, Verdict::Good);
    }

    #[test]
    fn late_timers_could_be_better_where_they_are_used() {
        let with = |timer_slack_ns| host(Tuning { timer_slack_ns, ..Tuning::default() });
        let judge = |host: &Host, idle| timer_slack(host, &config(idle, &[])).verdict;
        assert_eq!(judge(&with(Some(50_000)), Idle::Park), Verdict::CouldBeBetter);
        assert_eq!(judge(&with(Some(1)), Idle::Park), Verdict::Good);
        assert_eq!(judge(&with(Some(50_000)), Idle::Spin), Verdict::Good);
        assert_eq!(judge(&with(None), Idle::Adaptive), Verdict::CouldBeBetter);
        let fifo = Config::builder().scheduler_fifo_priority(10).build().expect("valid");
        assert_eq!(timer_slack(&with(Some(50_000)), &fifo).verdict, Verdict::Good);
    }
}

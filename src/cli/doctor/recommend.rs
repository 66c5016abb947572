//! What this host's configuration should say, as TOML that the library accepts, with a reason for
//! each line.
//!
//! Pure: from what was gathered and measured. A setting that the configuration has and that suits
//! the host stays as it is.

use ringwire::config::{Config, Idle};
use ringwire::sys::probe::{Ability, Capabilities};
use serde::Serialize;

use super::host::Host;
use super::limits;
use super::network;
use super::selftest::SelfTest;

/// Spinning beyond this is no bridge over a pause any more: a core is used up.
const SPIN_US_MAX: u64 = 1_000;
/// More time taken by the hypervisor than this, and a core is not one's own.
const STEAL_PERMILLE_MAX: u64 = 10;
/// Cores are numbered from 0 to below this in the configuration.
const CORES_MAX: usize = 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Setting {
    pub(super) key: &'static str,
    /// As TOML has it.
    pub(super) value: String,
    pub(super) reason: String,
}

/// What is known when settings are recommended.
pub(super) struct Knowledge<'a> {
    pub(super) host: &'a Host,
    pub(super) config: &'a Config,
    pub(super) reactors: usize,
    pub(super) capabilities: Option<&'a Capabilities>,
    pub(super) self_test: Option<&'a SelfTest>,
}

/// The settings, in the order in which they should stand.
pub(super) fn settings(known: &Knowledge<'_>) -> Vec<Setting> {
    let reactors = reactors(known);
    let cores = cores(known, reactors.0);
    let idle = idle(known, reactors.0, cores.is_some());
    let mut settings = Vec::new();
    let mut add = |key, value: String, reason: String| {
        settings.push(Setting { key, value, reason });
    };
    if reactors.0 > 1 || known.config.reactors() > 1 {
        add("reactors", reactors.0.to_string(), reactors.1);
    }
    if let Some((cores, reason)) = cores {
        let list = cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        add("cores", format!("[{list}]"), reason);
    }
    add("idle", format!("\"{}\"", idle.0.name()), idle.1);
    if idle.0 == Idle::Adaptive {
        let (spin_us, reason) = spin_us(known);
        add("idle_spin_us", spin_us.to_string(), reason);
    }
    if network::should_use_cubic(known.host, known.config) {
        let reason = "bbr paces, which delays bursts on fast links";
        add("tcp_congestion", "\"cubic\"".into(), reason.into());
    }
    let has_swap = known.host.tuning.swap_kib.is_some_and(|kib| kib > 0);
    if has_swap && limits::may_lock(known.host, known.config, reactors.0) {
        let reason = "there is swap, and the limits allow to lock all memory";
        add("mlockall", "true".into(), reason.into());
    }
    if let Some((connections, reason)) =
        limits::connections_for(known.host, known.config, reactors.0)
    {
        add("connections_max", connections.to_string(), reason);
    }
    if limits::is_memlock_short(known.host, known.config, reactors.0) {
        let reason = "RLIMIT_MEMLOCK has no room for registered memory";
        add("registered_bytes", "0".into(), reason.into());
    }
    let can_zero_copy = known.capabilities.map(|found| found.send_zero_copy);
    let is_asked = known.config.zero_copy_bytes_min() > 0;
    if is_asked && matches!(can_zero_copy, Some(Ability::Refused { .. })) {
        let reason = "this kernel sends nothing without a copy";
        add("zero_copy_bytes_min", "0".into(), reason.into());
    }
    settings
}

/// The settings as text for a configuration file.
pub(super) fn toml(settings: &[Setting]) -> String {
    let line =
        |setting: &Setting| format!("# {}\n{} = {}\n", setting.reason, setting.key, setting.value);
    settings.iter().map(line).collect()
}

/// As many reactors as there are cores for.
fn reactors(known: &Knowledge<'_>) -> (usize, String) {
    let usable = usable_cores(known).len();
    match usable {
        usable if usable > 0 && usable < known.reactors => {
            (usable, format!("{} would take turns on {usable} cores", known.reactors))
        }
        _ => (known.reactors, "as asked for, one for each core it gets".into()),
    }
}

/// Those that reactors may have here and that a configuration may name.
fn usable_cores(known: &Knowledge<'_>) -> Vec<usize> {
    let mut cores = known.host.usable(known.config.cores());
    cores.retain(|&core| core < CORES_MAX);
    cores
}

/// Where to pin the reactors: `None` leaves it to the scheduler.
fn cores(known: &Knowledge<'_>, reactors: usize) -> Option<(Vec<usize>, String)> {
    let tuning = &known.host.tuning;
    let usable = usable_cores(known);
    let pinned = known.config.cores();
    if !pinned.is_empty() && pinned.iter().all(|core| usable.contains(core)) {
        return Some((pinned.to_vec(), "as the configuration has it".into()));
    }
    let isolated: Vec<usize> =
        usable.iter().copied().filter(|&core| tuning.is_isolated(core)).collect();
    if !known.host.isolated().is_empty() && isolated.len() >= reactors {
        return Some((isolated[..reactors].to_vec(), "isolated: nothing else runs there".into()));
    }
    if usable.len() <= reactors {
        // Whoever names no cores gets none of those that are isolated.
        let is_own = usable.iter().all(|core| known.host.cores.contains(core));
        return (!is_own).then(|| (usable, "all there are, some of them for who asks only".into()));
    }
    let mut quiet = usable;
    // Of equals the last: the first core does most of the kernel's housekeeping.
    quiet.sort_by_key(|&core| (tuning.served_by(core), std::cmp::Reverse(core)));
    quiet.truncate(reactors);
    quiet.sort_unstable();
    Some((quiet, "the cores with the fewest interrupts of devices so far".into()))
}

fn idle(known: &Knowledge<'_>, reactors: usize, is_pinned: bool) -> (Idle, String) {
    let Host { quota, steal_permille, tuning, .. } = known.host;
    let usable = usable_cores(known);
    if usable.len() <= 1 {
        return (Idle::Park, "one core: spinning would keep the application from it".into());
    }
    let is_robbed = steal_permille.is_some_and(|steal| steal > STEAL_PERMILLE_MAX);
    let isolated = usable.iter().filter(|&&core| tuning.is_isolated(core)).count();
    match (quota, is_robbed) {
        (Some(_), _) => (Idle::Adaptive, "a CPU quota is used up by spinning".into()),
        (_, true) => (Idle::Adaptive, "the hypervisor takes spinning cores away".into()),
        _ if isolated >= reactors => {
            (Idle::Spin, "each reactor has an isolated core: no wake-ups at all".into())
        }
        _ if is_pinned && usable.len() >= 2 * (reactors + 1) => {
            (Idle::Spin, format!("{} cores: each reactor may keep one busy", usable.len()))
        }
        _ => (Idle::Adaptive, format!("{} cores, shared with everything else", usable.len())),
    }
}

/// Spinning pays as long as a wake-up takes.
fn spin_us(known: &Knowledge<'_>) -> (u64, String) {
    let default = u64::from(Config::default().idle_spin_us());
    match known.self_test.and_then(|test| test.wake_up) {
        None => (default, "the default; the self-test tells what a wake-up costs here".into()),
        Some(wake_up) => {
            let us = wake_up.p99_ns.div_ceil(1_000).next_multiple_of(10);
            let cost = wake_up.p99_ns.div_ceil(1_000);
            (
                us.clamp(default, SPIN_US_MAX),
                format!("about what a wake-up costs here: p99 {cost} µs"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::groups::Quota;
    use super::super::host::Limit;
    use super::super::selftest::{Jitter, Spread};
    use super::super::tuning::{Interrupt, Tuning};
    use super::*;

    fn host(cores: usize) -> Host {
        Host { cores: (0..cores).collect(), ..Host::default() }
    }

    fn self_test(p99_ns: u64) -> SelfTest {
        let spread = Spread { samples: 9, p50_ns: 9, p99_ns, p99_9_ns: p99_ns, max_ns: p99_ns };
        SelfTest {
            company: Default::default(),
            seconds: 2.0,
            cores: [0, 1],
            wake_up: Some(spread),
            timer: None,
            spin: Jitter::default(),
            round_trip_spinning: None,
            round_trip_blocking: None,
        }
    }

    /// The settings for a host, which the library must accept, as `key = value` lines.
    fn check(
        host: &Host,
        config: &Config,
        reactors: usize,
        test: Option<&SelfTest>,
    ) -> Vec<String> {
        let known = Knowledge { host, config, reactors, capabilities: None, self_test: test };
        let settings = settings(&known);
        let toml = toml(&settings);
        let accepted = Config::from_toml(&toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
        for setting in &settings {
            assert!(!setting.reason.is_empty() && !setting.reason.contains('\n'), "{setting:?}");
        }
        assert!(accepted.cores().len() <= reactors, "{toml}");
        settings.iter().map(|line| format!("{} = {}", line.key, line.value)).collect()
    }

    #[test]
    fn idle_strategy_follows_the_cores() {
        let config = Config::default();
        let of = |host: &Host| {
            let lines = check(host, &config, 1, None);
            lines.into_iter().find(|line| line.starts_with("idle =")).expect("always there")
        };
        assert_eq!(of(&host(1)), "idle = \"park\"");
        assert_eq!(of(&host(0)), "idle = \"park\"");
        assert_eq!(of(&host(2)), "idle = \"adaptive\"");
        assert_eq!(of(&host(8)), "idle = \"spin\"");
        let robbed = Host { steal_permille: Some(50), ..host(8) };
        assert_eq!(of(&robbed), "idle = \"adaptive\"");
        let quota = Some(Quota { millicores: 2_000, file: "x".into() });
        assert_eq!(of(&Host { quota, ..host(8) }), "idle = \"adaptive\"");
        let isolated = Tuning { isolated: vec![3], ..Tuning::default() };
        assert_eq!(of(&Host { tuning: isolated.clone(), ..host(3) }), "idle = \"spin\"");
        let container = Host { cpuset: Some(vec![0, 1]), tuning: isolated, ..host(2) };
        assert_eq!(of(&container), "idle = \"adaptive\"");
    }

    #[test]
    fn cores_are_isolated_or_the_quietest() {
        let config = Config::default();
        let of = |host: &Host, reactors| {
            let lines = check(host, &config, reactors, None);
            lines.into_iter().find(|line| line.starts_with("cores"))
        };
        assert_eq!(of(&host(1), 1), None);
        assert_eq!(of(&host(4), 4), None);
        assert_eq!(of(&host(4), 1).as_deref(), Some("cores = [3]"));
        assert_eq!(of(&host(4), 2).as_deref(), Some("cores = [2, 3]"));
        let interrupt = |core| Interrupt {
            number: 1,
            name: "x".into(),
            served: vec![(core, 9)],
            cores: vec![],
        };
        let interrupts = vec![interrupt(3), interrupt(1)];
        let tuning = Tuning { interrupts, ..Tuning::default() };
        assert_eq!(of(&Host { tuning, ..host(4) }, 1).as_deref(), Some("cores = [2]"));
        // Kept from everybody who does not ask: not among the allowed ones.
        let tuning = Tuning { isolated: vec![6, 7], ..Tuning::default() };
        let isolated = Host { tuning, ..host(6) };
        assert_eq!(of(&isolated, 2).as_deref(), Some("cores = [6, 7]"));
        assert_eq!(of(&isolated, 3).as_deref(), Some("cores = [5, 6, 7]"));
        assert_eq!(of(&isolated, 8).as_deref(), Some("cores = [0, 1, 2, 3, 4, 5, 6, 7]"));
        // Isolated on the host, and not this container's.
        let container = Host { cpuset: Some((0..6).collect()), ..isolated };
        assert_eq!(of(&container, 2).as_deref(), Some("cores = [4, 5]"));
        let pinned = Config::builder().cores([1]).build().expect("valid");
        let lines = check(&host(4), &pinned, 1, None);
        assert!(lines.contains(&"cores = [1]".into()), "{lines:?}");
    }

    #[test]
    fn spinning_bridges_a_wake_up() {
        let config = Config::default();
        let of = |test: Option<&SelfTest>| {
            let lines = check(&host(2), &config, 1, test);
            lines.into_iter().find(|line| line.starts_with("idle_spin_us")).expect("adaptive")
        };
        assert_eq!(of(None), "idle_spin_us = 50");
        assert_eq!(of(Some(&self_test(3_000))), "idle_spin_us = 50");
        assert_eq!(of(Some(&self_test(83_400))), "idle_spin_us = 90");
        assert_eq!(of(Some(&self_test(9_000_000))), "idle_spin_us = 1000");
    }

    #[test]
    fn limits_lower_what_they_have_no_room_for() {
        let limit = |soft| Some(Limit { soft: Some(soft), hard: Some(soft) });
        let tuning = Tuning { swap_kib: Some(1 << 20), ..Tuning::default() };
        let tight = Host {
            nofile: limit(256),
            memlock: limit(64 << 10),
            congestion: Some("bbr".into()),
            congestion_available: vec!["reno".into(), "bbr".into(), "cubic".into()],
            tuning: tuning.clone(),
            ..host(2)
        };
        let registering = Config::builder().zero_copy_bytes_min(4096).build().expect("valid");
        let lines = check(&tight, &registering, 1, None);
        for line in ["connections_max = 216", "registered_bytes = 0", "tcp_congestion = \"cubic\""]
        {
            assert!(lines.contains(&line.into()), "{line}: {lines:?}");
        }
        assert!(!lines.iter().any(|line| line.starts_with("mlockall")), "{lines:?}");
        let lines = check(&tight, &Config::default(), 1, None);
        assert!(!lines.iter().any(|line| line.starts_with("registered_bytes")), "{lines:?}");
        let roomy = Host { memlock: Some(Limit { soft: None, hard: None }), tuning, ..host(2) };
        assert!(check(&roomy, &Config::default(), 1, None).contains(&"mlockall = true".into()));
        let many = check(&host(2), &Config::default(), 5, None);
        assert!(many.contains(&"reactors = 2".into()), "{many:?}");
    }
}

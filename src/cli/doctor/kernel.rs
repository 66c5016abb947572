//! Judges the kernel and its io_uring.

use ringwire::config::Config;
use ringwire::sys::probe::{
    Ability, Capabilities, KERNEL_MIN, RingError, SetupFlags, kernel_version,
};

use super::host::Host;
use super::report::Check;

/// The first kernel with `NO_SQARRAY`.
const KERNEL_NO_SQARRAY: (u32, u32) = (6, 6);

pub(super) fn checks(
    host: &Host,
    config: &Config,
    probed: &Result<Capabilities, RingError>,
) -> Vec<Check> {
    let mut checks = vec![kernel(host, probed.is_ok()), sysctl(host), ring(probed, config)];
    if let Ok(found) = probed {
        checks.extend(abilities(found, config));
    }
    checks
}

/// Distributions give old versions new abilities: what was tried counts for more.
fn kernel(host: &Host, has_ring: bool) -> Check {
    const CHECK: &str = "kernel";
    let release = &host.release;
    let version = kernel_version(release);
    let text = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    if release.is_empty() {
        return Check::unknown(CHECK, "/proc/sys/kernel/osrelease");
    }
    if version < KERNEL_MIN && has_ring {
        let found =
            format!("{release}, patched: its rings do what those of {} do", text(KERNEL_MIN));
        return Check::better(CHECK, found)
            .advice(format!("upgrade when you can: Ringwire is tested on {}", text(KERNEL_MIN)));
    }
    if version < KERNEL_MIN {
        return Check::bad(CHECK, format!("{release}, and {} is needed", text(KERNEL_MIN)))
            .advice("install and boot a newer kernel; `uname -r` shows the running one");
    }
    if version < KERNEL_NO_SQARRAY {
        let newer = text(KERNEL_NO_SQARRAY);
        return Check::better(CHECK, format!("{release}; {newer} submits a little faster"))
            .advice("upgrade the kernel when you can");
    }
    Check::good(CHECK, release)
}

/// `kernel.io_uring_disabled`, Documentation/admin-guide/sysctl/kernel.rst.
fn sysctl(host: &Host) -> Check {
    const CHECK: &str = "io_uring_disabled";
    const COMMAND: &str = "sudo sysctl -w kernel.io_uring_disabled=0";
    match host.io_uring_disabled {
        None => Check::good(CHECK, "no such sysctl: io_uring is not restricted by one"),
        Some(0) => Check::good(CHECK, "0: every process may use io_uring"),
        Some(1) if host.privileges.sys_admin() => {
            Check::good(CHECK, "1: this process may, by CAP_SYS_ADMIN")
        }
        Some(1) => match host.io_uring_group {
            Some(group) if group >= 0 && host.groups.contains(&group) => {
                Check::good(CHECK, format!("1: this process may, by group {group}"))
            }
            group => {
                let group = group.filter(|&group| group >= 0);
                let group =
                    group.map_or("no group is set".into(), |group| format!("it is {group}"));
                Check::bad(CHECK, "1: processes without CAP_SYS_ADMIN may not use io_uring")
                    .advice(format!(
                        "allow it for all, or put this user into the group of \
                         kernel.io_uring_group ({group})"
                    ))
                    .command(COMMAND)
            }
        },
        Some(value) => Check::bad(CHECK, format!("{value}: no process may use io_uring"))
            .advice("allow it")
            .command(COMMAND),
    }
}

fn ring(probed: &Result<Capabilities, RingError>, config: &Config) -> Check {
    const CHECK: &str = "ring";
    let found = match probed {
        Ok(found) => found,
        Err(error) => return Check::bad(CHECK, error.to_string()),
    };
    let size = format!("{} entries", config.ring_entries());
    if !found.setup.contains(SetupFlags::NO_SQARRAY) {
        return Check::better(CHECK, format!("{size}; {}", found.setup))
            .advice("Linux 6.6 adds NO_SQARRAY: one indirection less for each submission");
    }
    Check::good(CHECK, format!("{size}; {}", found.setup))
}

/// What to do without an ability.
enum Need<'a> {
    /// Nothing works without it.
    Must,
    /// It makes things faster.
    Helps(&'a str),
    /// Only this setting asks for it, and it is off.
    Off(&'a str),
    /// Nothing asks for it.
    Unused,
}

fn abilities(found: &Capabilities, config: &Config) -> Vec<Check> {
    let zero_copy = if config.zero_copy_bytes_min() > 0 {
        Need::Helps("set zero_copy_bytes_min = 0: sends are copied anyway")
    } else {
        Need::Off("zero_copy_bytes_min")
    };
    let napi = if config.napi_busy_poll_us() > 0 {
        Need::Helps("needs Linux 6.9 and CONFIG_NET_RX_BUSY_POLL; or set napi_busy_poll_us = 0")
    } else {
        Need::Off("napi_busy_poll_us")
    };
    vec![
        ability("multishot accept", found.multishot_accept, &Need::Must),
        ability("multishot receive", found.multishot_receive, &Need::Unused),
        ability("buffer ring", found.buffer_ring, &Need::Unused),
        ability("zero-copy send", found.send_zero_copy, &zero_copy),
        ability("minimum wait", found.min_wait, &Need::Unused),
        ability("NAPI busy poll", found.napi, &napi),
    ]
}

fn ability(check: &'static str, ability: Ability, need: &Need<'_>) -> Check {
    match (ability, need) {
        (Ability::Works, Need::Off(key)) => Check::good(check, format!("works (off: {key} = 0)")),
        (Ability::Works, Need::Unused) => Check::good(check, "works (Ringwire does not use it)"),
        (Ability::Works, _) => Check::good(check, "works"),
        (_, Need::Off(key)) => Check::good(check, format!("{ability}; unused ({key} = 0)")),
        (_, Need::Unused) => Check::good(check, format!("{ability}; Ringwire does not use it")),
        (Ability::Untested { .. }, _) => Check::better(check, ability.to_string())
            .advice("bring the loopback device up: `sudo ip link set lo up`"),
        (_, Need::Must) => Check::bad(check, ability.to_string())
            .advice("servers need it; Linux 5.19 and later have it: boot an unpatched kernel"),
        (_, Need::Helps(advice)) => Check::better(check, ability.to_string()).advice(*advice),
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::Privileges;
    use super::super::report::Verdict;
    use super::*;

    fn judged(release: &str, has_ring: bool) -> Verdict {
        kernel(&Host { release: release.into(), ..Host::default() }, has_ring).verdict
    }

    #[test]
    fn kernel_version_is_judged() {
        for has_ring in [true, false] {
            assert_eq!(judged("6.18.44", has_ring), Verdict::Good);
            assert_eq!(judged("6.1.0-18-amd64", has_ring), Verdict::CouldBeBetter);
            assert_eq!(judged("", has_ring), Verdict::CouldBeBetter);
        }
        assert_eq!(judged("5.15.0", false), Verdict::WillNotWork);
    }

    #[test]
    fn old_version_whose_ring_works_does_not_fail() {
        assert_eq!(judged("5.14.0-503.el9", true), Verdict::CouldBeBetter);
        let probed = Capabilities::probe();
        let old = Host { release: "5.14.0-503.el9".into(), ..Host::default() };
        let verdicts = checks(&old, &Config::default(), &probed);
        assert!(verdicts.iter().all(|check| check.verdict != Verdict::WillNotWork), "{verdicts:?}");
    }

    #[test]
    fn sysctl_is_judged_for_this_user() {
        let host = |value| Host { io_uring_disabled: value, ..Host::default() };
        assert_eq!(sysctl(&host(None)).verdict, Verdict::Good);
        assert_eq!(sysctl(&host(Some(0))).verdict, Verdict::Good);
        assert_eq!(sysctl(&host(Some(1))).verdict, Verdict::WillNotWork);
        assert_eq!(sysctl(&host(Some(2))).verdict, Verdict::WillNotWork);
        let admin = Host { privileges: Privileges::ALL, ..host(Some(1)) };
        assert_eq!(sysctl(&admin).verdict, Verdict::Good);
        let admin = Host { privileges: Privileges::ALL, ..host(Some(2)) };
        assert_eq!(sysctl(&admin).verdict, Verdict::WillNotWork);
        let member = Host { io_uring_group: Some(990), groups: vec![4, 990], ..host(Some(1)) };
        assert_eq!(sysctl(&member).verdict, Verdict::Good);
        // -1, the default, is no group.
        let nobody = Host { io_uring_group: Some(-1), groups: vec![-1], ..host(Some(1)) };
        assert_eq!(sysctl(&nobody).verdict, Verdict::WillNotWork);
    }

    #[test]
    fn refused_ring_says_what_the_library_says() {
        let error = RingError::NotSupported { release: "6.1".into() };
        let text = error.to_string();
        let check = ring(&Err(error), &Config::default());
        assert_eq!(check.verdict, Verdict::WillNotWork);
        assert_eq!(check.found, text);
    }

    #[test]
    fn ring_of_this_kernel_works() {
        let probed = Capabilities::probe();
        assert!(probed.is_ok(), "the test host has io_uring");
        assert_ne!(ring(&probed, &Config::default()).verdict, Verdict::WillNotWork);
    }

    #[test]
    fn missing_ability_counts_by_its_need() {
        let refused = Ability::Refused { errno: 22 };
        let check = |found, need| ability("x", found, &need).verdict;
        assert_eq!(check(Ability::Works, Need::Must), Verdict::Good);
        assert_eq!(check(refused, Need::Must), Verdict::WillNotWork);
        assert_eq!(check(refused, Need::Helps("x")), Verdict::CouldBeBetter);
        assert_eq!(check(refused, Need::Off("key")), Verdict::Good);
        assert_eq!(check(refused, Need::Unused), Verdict::Good);
        assert_eq!(check(Ability::Silent, Need::Unused), Verdict::Good);
        assert_eq!(check(Ability::Untested { errno: 99 }, Need::Must), Verdict::CouldBeBetter);
    }

    #[test]
    fn what_is_not_used_is_not_missed() {
        let mut found = Capabilities::probe().expect("the test host has io_uring");
        let refused = Ability::Refused { errno: 22 };
        (found.multishot_receive, found.buffer_ring, found.min_wait) = (refused, refused, refused);
        for check in abilities(&found, &Config::default()) {
            assert_eq!(check.verdict, Verdict::Good, "{check:?}");
        }
    }

    #[test]
    fn napi_matters_only_when_asked_for() {
        let mut found = Capabilities::probe().expect("the test host has io_uring");
        found.napi = Ability::Refused { errno: 22 };
        let verdict = |config: &Config| abilities(&found, config)[5].verdict;
        assert_eq!(verdict(&Config::default()), Verdict::Good);
        let polling = Config::builder().napi_busy_poll_us(50).build().expect("valid");
        assert_eq!(verdict(&polling), Verdict::CouldBeBetter);
    }
}

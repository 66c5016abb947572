//! Judges the TCP settings of the host, tcp(7) and Documentation/networking/ip-sysctl.rst.

use ringwire::config::Config;

use super::host::Host;
use super::report::Check;
use super::tuning::Card;

/// A wait for more packets beyond this shows beside a wake-up.
const COALESCING_US_MAX: u64 = 10;

pub(super) fn checks(host: &Host, config: &Config) -> Vec<Check> {
    let mut checks = vec![congestion(host, config), slow_start(host), backlog(host, config)];
    let (send, receive) = (config.tcp_send_buffer_bytes(), config.tcp_receive_buffer_bytes());
    checks.extend(buffer("send buffer", "tcp_send_buffer_bytes", send, "wmem_max", host.wmem_max));
    let most = host.rmem_max;
    checks.extend(buffer("receive buffer", "tcp_receive_buffer_bytes", receive, "rmem_max", most));
    checks.extend(host.tuning.cards.iter().map(|card| coalescing(card, config)));
    checks
}

/// Whether the configuration should name cubic, and may.
pub(super) fn should_use_cubic(host: &Host, config: &Config) -> bool {
    let name = config.tcp_congestion().or(host.congestion.as_deref());
    name.is_some_and(|name| name.starts_with("bbr"))
        && has(&host.congestion_available, "cubic")
        && may_use(host, "cubic")
}

/// A card that waits for more packets before it interrupts: ethtool(8) -C.
fn coalescing(card: &Card, config: &Config) -> Check {
    const CHECK: &str = "coalescing";
    let name = &card.name;
    let held_us = card.gro_flush_timeout_ns / 1_000;
    // Whoever polls is not waiting for interrupts.
    if held_us > COALESCING_US_MAX && config.napi_busy_poll_us() == 0 {
        // Not by default: setup_host.sh leaves it alone.
        return Check::better(CHECK, format!("{name}: the kernel holds packets for {held_us} µs"))
            .advice("somebody has set that: hand packets on at once, or set napi_busy_poll_us")
            .command(format!("echo 0 | sudo tee /sys/class/net/{name}/gro_flush_timeout"));
    }
    let found = match &card.coalescing {
        Err(reason) => return Check::good(CHECK, format!("{name}: not readable ({reason})")),
        Ok(found) => found,
    };
    // A driver refuses all of a request for one thing that it does not know.
    let adaptive = if found.is_adaptive { " adaptive-rx off" } else { "" };
    let waiting = if found.rx_usecs.is_some() { " rx-usecs 0" } else { "" };
    let command = format!("sudo ethtool -C {name}{adaptive}{waiting}");
    let advice = "have it interrupt at once; it costs CPU time under load";
    match found.rx_usecs {
        _ if found.is_adaptive => {
            Check::better(CHECK, format!("{name}: adaptive, it waits when it likes"))
                .advice(advice)
                .command(command)
        }
        Some(us) if u64::from(us) > COALESCING_US_MAX => {
            Check::better(CHECK, format!("{name}: it waits up to {us} µs for more packets"))
                .advice(advice)
                .command(command)
        }
        Some(us) => Check::good(CHECK, format!("{name}: waits {us} µs at most")),
        None => Check::good(CHECK, format!("{name}: its driver does not say")),
    }
}

fn congestion(host: &Host, config: &Config) -> Check {
    const CHECK: &str = "congestion control";
    if let Some(name) = config.tcp_congestion()
        && let Some(check) = congestion_refused(CHECK, name, host)
    {
        return check;
    }
    let Some(name) = config.tcp_congestion().or(host.congestion.as_deref()) else {
        return Check::unknown(CHECK, "/proc/sys/net/ipv4/tcp_congestion_control");
    };
    if !name.starts_with("bbr") {
        return Check::good(CHECK, name);
    }
    let check =
        Check::better(CHECK, format!("{name}: it paces, which delays bursts on fast links"));
    if !has(&host.congestion_available, "cubic") {
        return check
            .advice("cubic does not pace, and has to be loaded first")
            .command("sudo modprobe tcp_cubic");
    }
    let system = "sudo sysctl -w net.ipv4.tcp_congestion_control=cubic";
    if config.tcp_congestion().is_some() {
        return check.advice("set tcp_congestion = \"cubic\"");
    }
    if may_use(host, "cubic") {
        return check
            .advice("set tcp_congestion = \"cubic\" in the configuration, or for the host:")
            .command(system);
    }
    check.advice("use cubic, which does not pace").command(system)
}

/// A congestion control asked for by name that the kernel will refuse; TCP_CONGESTION in tcp(7).
fn congestion_refused(check: &'static str, name: &str, host: &Host) -> Option<Check> {
    if host.congestion_available.is_empty() {
        return None;
    }
    let available = host.congestion_available.join(", ");
    if !has(&host.congestion_available, name) {
        let found = format!("tcp_congestion = \"{name}\" is not among {available}");
        return Some(
            Check::bad(check, found)
                .advice("load it, or use one of these")
                .command(format!("sudo modprobe tcp_{name}")),
        );
    }
    if may_use(host, name) {
        return None;
    }
    let mut allowed = host.congestion_allowed.join(" ");
    let found = format!("tcp_congestion = \"{name}\" is not among the allowed {allowed}");
    allowed.push(' ');
    allowed.push_str(name);
    Some(
        Check::bad(check, found)
            .advice("allow it to processes without CAP_NET_ADMIN")
            .command(format!("sudo sysctl -w net.ipv4.tcp_allowed_congestion_control='{allowed}'")),
    )
}

fn may_use(host: &Host, name: &str) -> bool {
    let allowed = &host.congestion_allowed;
    host.privileges.net_admin() || allowed.is_empty() || has(allowed, name)
}

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|other| other == name)
}

fn slow_start(host: &Host) -> Check {
    const CHECK: &str = "slow start";
    match host.slow_start_after_idle {
        None => Check::unknown(CHECK, "/proc/sys/net/ipv4/tcp_slow_start_after_idle"),
        Some(0) => Check::good(CHECK, "not after idle times"),
        Some(_) => Check::better(CHECK, "after idle times too: it slows the first large message")
            .advice("keep the window of idle connections")
            .command("sudo sysctl -w net.ipv4.tcp_slow_start_after_idle=0"),
    }
}

/// listen(2): the kernel silently lowers a backlog to `net.core.somaxconn`.
fn backlog(host: &Host, config: &Config) -> Check {
    const CHECK: &str = "accept queue";
    let asked = u64::from(config.listen_backlog());
    match host.somaxconn {
        None => Check::unknown(CHECK, "/proc/sys/net/core/somaxconn"),
        Some(most) if most >= asked => Check::good(CHECK, format!("{asked}")),
        Some(most) => {
            Check::better(CHECK, format!("listen_backlog = {asked} is lowered to {most}"))
                .advice("raise the host's limit")
                .command(format!("sudo sysctl -w net.core.somaxconn={asked}"))
        }
    }
}

/// SO_SNDBUF and SO_RCVBUF in socket(7): silently lowered to the host's limit.
fn buffer(
    check: &'static str,
    key: &str,
    asked: u32,
    sysctl: &str,
    most: Option<u64>,
) -> Option<Check> {
    if asked == 0 {
        return None;
    }
    let found = format!("{key} = {asked}");
    Some(match most {
        // In a container older kernels do not show it.
        None => Check::better(check, format!("{found}: net.core.{sysctl} is not known here"))
            .advice(format!("ask the host whether it is as much: `sysctl net.core.{sysctl}`")),
        Some(most) if most < u64::from(asked) => {
            Check::better(check, format!("{found} is lowered to {most}, and does not grow"))
                .advice(format!(
                    "raise the host's limit, or set {key} = 0: the kernel sizes it then"
                ))
                .command(format!("sudo sysctl -w net.core.{sysctl}={asked}"))
        }
        Some(_) => Check::good(check, format!("{asked} bytes, and does not grow")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::host::Privileges;
    use super::super::report::Verdict;
    use super::super::tuning::Coalescing;
    use super::*;

    fn host(current: &str, available: &str, allowed: &str) -> Host {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Host {
            congestion: Some(current.into()),
            congestion_available: words(available),
            congestion_allowed: words(allowed),
            ..Host::default()
        }
    }

    fn asking(name: &str) -> Config {
        Config::builder().tcp_congestion(name).build().expect("valid")
    }

    #[test]
    fn congestion_that_paces_could_be_better() {
        let config = Config::default();
        let cubic = congestion(&host("cubic", "reno cubic", "reno cubic"), &config);
        assert_eq!(cubic.verdict, Verdict::Good);
        let check = congestion(&host("bbr", "reno bbr cubic", "reno bbr cubic"), &config);
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert!(check.advice.expect("advice").contains("tcp_congestion = \"cubic\""));
        assert!(check.command.expect("a command").contains("tcp_congestion_control=cubic"));
        // The configuration could not use it, so it must not be told to.
        let check = congestion(&host("bbr", "reno bbr cubic", "reno bbr"), &config);
        assert!(!check.advice.expect("advice").contains("configuration"));
        let check = congestion(&host("bbr", "reno bbr", "reno bbr"), &config);
        assert_eq!(check.command.as_deref(), Some("sudo modprobe tcp_cubic"));
        assert_eq!(congestion(&Host::default(), &config).verdict, Verdict::CouldBeBetter);
    }

    #[test]
    fn congestion_asked_for_and_refused_will_not_work() {
        let check = congestion(&host("cubic", "reno cubic", "reno cubic"), &asking("dctcp"));
        assert_eq!(check.verdict, Verdict::WillNotWork);
        assert_eq!(check.command.as_deref(), Some("sudo modprobe tcp_dctcp"));
        let host = host("bbr", "reno bbr cubic", "reno bbr");
        let check = congestion(&host, &asking("cubic"));
        assert_eq!(check.verdict, Verdict::WillNotWork);
        assert!(check.command.expect("a command").contains("='reno bbr cubic'"));
        let root = Host { privileges: Privileges::ALL, ..host };
        assert_eq!(congestion(&root, &asking("cubic")).verdict, Verdict::Good);
        assert_eq!(congestion(&root, &asking("bbr")).verdict, Verdict::CouldBeBetter);
    }

    #[test]
    fn slow_start_after_idle_could_be_better() {
        let with = |value| slow_start(&Host { slow_start_after_idle: value, ..Host::default() });
        assert_eq!(with(Some(0)).verdict, Verdict::Good);
        assert_eq!(with(Some(1)).verdict, Verdict::CouldBeBetter);
        assert_eq!(with(None).verdict, Verdict::CouldBeBetter);
    }

    #[test]
    fn short_accept_queue_could_be_better() {
        let with = |most| backlog(&Host { somaxconn: most, ..Host::default() }, &Config::default());
        assert_eq!(with(Some(4096)).verdict, Verdict::Good);
        let check = with(Some(128));
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert_eq!(check.command.as_deref(), Some("sudo sysctl -w net.core.somaxconn=1024"));
    }

    #[test]
    fn card_that_waits_could_be_better() {
        let config = Config::default();
        let with = |coalescing, gro_flush_timeout_ns| {
            let card = Card { name: "eth0".into(), gro_flush_timeout_ns, coalescing };
            super::coalescing(&card, &config)
        };
        let waiting = |rx_usecs, is_adaptive| {
            with(Ok(Coalescing { rx_usecs, rx_frames: Some(1), is_adaptive }), 0)
        };
        assert_eq!(waiting(Some(0), false).verdict, Verdict::Good);
        assert_eq!(waiting(None, false).verdict, Verdict::Good);
        assert_eq!(waiting(Some(0), true).verdict, Verdict::CouldBeBetter);
        let check = waiting(Some(50), false);
        assert_eq!(check.verdict, Verdict::CouldBeBetter);
        assert_eq!(check.command.as_deref(), Some("sudo ethtool -C eth0 rx-usecs 0"));
        let command = |rx_usecs| waiting(rx_usecs, true).command.expect("a command");
        assert_eq!(command(Some(50)), "sudo ethtool -C eth0 adaptive-rx off rx-usecs 0");
        assert_eq!(command(None), "sudo ethtool -C eth0 adaptive-rx off");
        let check = with(Err("operation not supported".into()), 0);
        assert_eq!(check.verdict, Verdict::Good);
        assert!(check.found.contains("not readable"), "{}", check.found);
        assert_eq!(with(Ok(Coalescing::default()), 20_000).verdict, Verdict::CouldBeBetter);
        let polling = Config::builder().napi_busy_poll_us(50).build().expect("valid");
        let card = Card {
            name: "eth0".into(),
            gro_flush_timeout_ns: 20_000,
            coalescing: Ok(Coalescing::default()),
        };
        assert_eq!(coalescing(&card, &polling).verdict, Verdict::Good);
    }

    #[test]
    fn buffers_beyond_the_hosts_limit_could_be_better() {
        let with = |most| Host { wmem_max: most, rmem_max: most, ..Host::default() };
        let asking = Config::builder()
            .tcp_send_buffer_bytes(1 << 20)
            .tcp_receive_buffer_bytes(1 << 20)
            .build()
            .expect("valid");
        let judge = |host: &Host, config: &Config| {
            let mut checks = checks(host, config);
            checks.retain(|check| check.check.ends_with("buffer"));
            checks
        };
        assert!(judge(&with(Some(212_992)), &Config::default()).is_empty(), "none is asked for");
        let lowered = judge(&with(Some(212_992)), &asking);
        let commands: Vec<_> =
            lowered.iter().map(|check| check.command.as_deref().expect("a command")).collect();
        let expected =
            ["wmem_max", "rmem_max"].map(|name| format!("sudo sysctl -w net.core.{name}=1048576"));
        assert_eq!(commands, expected);
        assert!(lowered[0].found.contains("lowered to 212992"), "{}", lowered[0].found);
        let verdicts = |most| judge(&with(most), &asking).into_iter().map(|check| check.verdict);
        assert!(verdicts(Some(1 << 20)).all(|verdict| verdict == Verdict::Good));
        assert!(verdicts(None).all(|verdict| verdict == Verdict::CouldBeBetter));
    }
}

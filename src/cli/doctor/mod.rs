//! `ringwire doctor`: looks at the host and says what is wrong with it, and what to do.
//!
//! [`host`], [`groups`], [`tuning`] and [`ethtool`] gather, the judges (`kernel`, `limits`,
//! `processor`, `interference`, `network`) are pure functions of what was gathered and of the
//! configuration, [`selftest`] measures, [`recommend`] says what the configuration should be,
//! [`report`] shows. Nothing on the host is changed: that is `scripts/setup_host.sh`.
//!
//! Cost: reads some hundred small files and builds a ring for a moment, under 20 ms; then two
//! seconds and two cores for the self-test.

mod company;
mod ethtool;
mod groups;
mod host;
mod interference;
mod kernel;
mod limits;
mod memory;
mod network;
mod processor;
mod recommend;
mod report;
mod selftest;
mod tuning;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use ringwire::config::{Config, REACTORS_MAX};
use ringwire::sys::probe::{Capabilities, RingError};

use host::Host;
use recommend::Knowledge;
use report::{Report, Section, Style, Verdict};
use selftest::SelfTest;

/// Look at this host, measure it, and say what to do to make it fast.
///
/// Ends with the settings it would recommend. With --config FILE, that configuration is judged.
/// Exit code 0 when everything works, be it slowly, and 1 when something will not work.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON: the same checks, and what io_uring can do here
    #[arg(long)]
    json: bool,
    /// Measure nothing: wake-ups, timers, jitter and round trips take two seconds
    #[arg(long)]
    no_self_test: bool,
    /// How many reactors are to run [default: what the configuration says, or 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(1..=REACTORS_MAX.into()))]
    reactors: Option<u16>,
}

/// Examines this host for `config` and prints what was found to standard output.
///
/// # Errors
///
/// When standard output can not be written.
pub(crate) fn run(args: &DoctorArgs, config: &Config) -> io::Result<ExitCode> {
    let reactors = args.reactors.map_or(config.reactor_count(), usize::from);
    let mut host = Host::gather(Path::new("/"));
    for card in &mut host.tuning.cards {
        card.coalescing = ethtool::coalescing(&card.name).map_err(|error| error.to_string());
    }
    let probed = Capabilities::probe_sized(config.ring_entries(), 8 * config.ring_entries());
    if !args.no_self_test && io::stderr().is_terminal() {
        eprintln!("measuring for two seconds …");
    }
    let self_test = (!args.no_self_test).then(|| SelfTest::run(config));
    let report = judge(&host, config, reactors, probed, self_test);
    let mut output = io::stdout().lock();
    if args.json {
        report.print_json(&mut output)?;
    } else {
        report.print(&mut output, style_of_stdout())?;
    }
    Ok(exit_code(report.verdict))
}

fn judge(
    host: &Host,
    config: &Config,
    reactors: usize,
    probed: Result<Capabilities, RingError>,
    self_test: Option<SelfTest>,
) -> Report {
    let section = |section, checks| Section { section, checks };
    let mut sections = vec![
        section("Kernel", kernel::checks(host, config, &probed)),
        section("Limits", limits::checks(host, config, reactors)),
        section("Processor", processor::checks(host, config, reactors)),
        section("Interference", interference::checks(host, config, reactors)),
        section("Network", network::checks(host, config)),
    ];
    if let Some(self_test) = &self_test {
        sections.push(section("Self-test", self_test.checks()));
    }
    let capabilities = probed.ok();
    let known = Knowledge {
        host,
        config,
        reactors,
        capabilities: capabilities.as_ref(),
        self_test: self_test.as_ref(),
    };
    let settings = recommend::settings(&known);
    let report = Report::new(sections, capabilities).recommending(settings);
    Report { self_test, ..report }
}

fn exit_code(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Good | Verdict::CouldBeBetter => ExitCode::SUCCESS,
        Verdict::WillNotWork => ExitCode::FAILURE,
    }
}

/// As wide as the terminal, within reason; colours only there, and not against
/// <https://no-color.org>.
fn style_of_stdout() -> Style {
    const COLUMNS_DEFAULT: usize = 80;
    const COLUMNS_MAX: usize = 110;
    let stdout = io::stdout();
    let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
    Style {
        columns: if columns == 0 { COLUMNS_DEFAULT } else { columns.min(COLUMNS_MAX) },
        colours: stdout.is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use ringwire::sys::probe::ring_bytes;

    use super::host::tests::FakeHost;
    use super::*;

    /// A host on which nothing could be better.
    fn fast_host(name: &str) -> FakeHost {
        let fake = FakeHost::new(name);
        let status = "Gid:\t0 0 0 0\nCapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3\n";
        fake.write("proc/sys/kernel/osrelease", "6.18.0\n")
            .write("proc/sys/kernel/io_uring_disabled", "0\n")
            .write("proc/self/status", status)
            .write(
                "proc/self/limits",
                "Max locked memory  1 1 bytes\nMax open files  9999 9999 f\n",
            )
            .write("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n")
            .write("proc/sys/net/ipv4/tcp_congestion_control", "cubic\n")
            .write("proc/sys/net/ipv4/tcp_slow_start_after_idle", "0\n")
            .write("proc/sys/net/core/somaxconn", "4096\n")
            .write("proc/swaps", "Filename Type Size Used Priority\n")
            .write("proc/self/timerslack_ns", "1\n");
        fake
    }

    fn examine(fake: &FakeHost, probed: Result<Capabilities, RingError>) -> Report {
        judge(&Host::gather(&fake.root), &Config::default(), 1, probed, None)
    }

    fn complaints(report: &Report) -> Vec<&'static str> {
        let checks = report.sections.iter().flat_map(|section| &section.checks);
        checks.filter(|check| check.verdict != Verdict::Good).map(|check| check.check).collect()
    }

    #[test]
    fn fast_host_has_nothing_to_mend() {
        let report = examine(&fast_host("fast"), Capabilities::probe());
        // What this kernel lacks may be said; the files say that all is well.
        let rest = complaints(&report).into_iter().filter(|&check| check != "ring");
        assert_eq!(rest.count(), 0, "{:?}", complaints(&report));
    }

    #[test]
    fn refused_ring_fails_the_command() {
        let fake = fast_host("refused");
        fake.write("proc/sys/kernel/io_uring_disabled", "2\n");
        let error = RingError::Disabled { value: 2, group: None };
        let report = examine(&fake, Err(error));
        assert_eq!(report.verdict, Verdict::WillNotWork);
        assert_eq!(complaints(&report), ["io_uring_disabled", "ring"]);
        assert!(report.capabilities.is_none());
        assert_eq!(exit_code(report.verdict), ExitCode::FAILURE);
    }

    #[test]
    fn slow_host_works_all_the_same() {
        let fake = fast_host("slow");
        fake.write("proc/sys/net/ipv4/tcp_slow_start_after_idle", "1\n");
        let report = examine(&fake, Capabilities::probe());
        assert!(complaints(&report).contains(&"slow start"));
        assert_eq!(exit_code(report.verdict), ExitCode::SUCCESS);
    }

    /// What is recommended here is applied by the script.
    #[test]
    fn script_applies_what_is_recommended() {
        let script = include_str!("../../../scripts/setup_host.sh");
        for name in [
            "kernel.io_uring_disabled",
            "net.ipv4.tcp_congestion_control",
            "net.ipv4.tcp_slow_start_after_idle",
            "net.core.somaxconn",
            "scaling_governor",
            "cpuidle_haltpoll force=1",
            "current_clocksource",
            "transparent_hugepage/enabled",
            "vm.swappiness",
            "smp_affinity_list",
            "gro_flush_timeout",
            limits::LIMITS_FILE,
        ] {
            assert!(script.contains(name), "{name} is not in setup_host.sh");
        }
        let latency = format!("idle_latency_us_max={}\n", processor::IDLE_LATENCY_US_MAX);
        assert!(script.contains(&latency), "{latency}");
        let backlog = format!("somaxconn_min={}\n", Config::default().listen_backlog());
        assert!(script.contains(&backlog), "{backlog}");
        let entries = Config::default().ring_entries();
        assert!(ring_bytes(entries, 8 * entries) <= 256 << 10, "of one reactor for each core");
        assert!(script.contains("memlock_kib_per_core=256\n"));
        let swappiness = format!("swappiness_max={}\n", interference::SWAPPINESS_MAX);
        assert!(script.contains(&swappiness), "{swappiness}");
    }

    /// On this host, with its own configuration and what it measures of itself.
    #[test]
    fn what_is_recommended_here_is_a_configuration() {
        let host = Host::gather(Path::new("/"));
        let self_test = SelfTest::run(&Config::default());
        let report = judge(&host, &Config::default(), 1, Capabilities::probe(), Some(self_test));
        let toml = &report.recommended.toml;
        Config::from_toml(toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
        assert!(toml.contains("idle = "), "{toml}");
        let shown = {
            let mut output = Vec::new();
            let style = Style { columns: 80, colours: false };
            report.print(&mut output, style).expect("memory takes it");
            String::from_utf8(output).expect("UTF-8")
        };
        // What is printed can be copied into a file as it is.
        let (_, snippet) = shown.split_once("Recommended settings").expect("it is there");
        let lines = snippet.lines().skip(1).take_while(|line| !line.is_empty());
        let copied: String = lines.map(|line| format!("{line}\n")).collect();
        Config::from_toml(&copied).unwrap_or_else(|error| panic!("{error}\n{copied}"));
    }

    #[test]
    fn unreadable_host_is_said_to_be_unknown() {
        let fake = FakeHost::new("unreadable");
        let report = examine(&fake, Capabilities::probe());
        assert_ne!(report.verdict, Verdict::WillNotWork);
        assert!(complaints(&report).contains(&"kernel"));
    }
}

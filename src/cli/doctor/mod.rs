//! `ringwire doctor`: looks at the host and says what is wrong with it, and what to do.
//!
//! [`host`] gathers, the judges (`kernel`, `limits`, `processor`, `network`) are pure functions of
//! what was gathered and of the configuration, [`report`] shows. Nothing on the host is changed:
//! that is `scripts/setup_host.sh`.
//!
//! Cost: reads some fifty small files and builds a ring for a moment; under 10 ms.

mod host;
mod kernel;
mod limits;
mod network;
mod processor;
mod report;

use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use ringwire::config::Config;
use ringwire::sys::probe::{Capabilities, RingError};

use host::Host;
use report::{Report, Section, Style, Verdict};

/// Look at this host and say what to do to make it fast.
///
/// Exit code 0 when everything works, be it slowly, and 1 when something will not work.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON: the same checks, and what io_uring can do here
    #[arg(long)]
    json: bool,
    /// How many reactors are to run [default: what the configuration says, or 1]
    #[arg(long, value_name = "N")]
    reactors: Option<NonZeroUsize>,
}

/// Examines this host for `config` and prints what was found to standard output.
///
/// # Errors
///
/// When standard output can not be written.
pub(crate) fn run(args: &DoctorArgs, config: &Config) -> io::Result<ExitCode> {
    let reactors = args.reactors.map_or(config.reactor_count(), NonZeroUsize::get);
    let host = Host::gather(Path::new("/"));
    let probed = Capabilities::probe_sized(config.ring_entries(), 8 * config.ring_entries());
    let report = judge(&host, config, reactors, probed);
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
) -> Report {
    let section = |section, checks| Section { section, checks };
    let sections = vec![
        section("Kernel", kernel::checks(host, config, &probed)),
        section("Limits", limits::checks(host, config, reactors)),
        section("Processor", processor::checks(host, config, reactors)),
        section("Network", network::checks(host, config)),
    ];
    Report::new(sections, probed.ok())
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
            .write("proc/sys/net/core/somaxconn", "4096\n");
        fake
    }

    fn examine(fake: &FakeHost, probed: Result<Capabilities, RingError>) -> Report {
        judge(&Host::gather(&fake.root), &Config::default(), 1, probed)
    }

    fn complaints(report: &Report) -> Vec<&'static str> {
        let checks = report.sections.iter().flat_map(|section| &section.checks);
        checks.filter(|check| check.verdict != Verdict::Good).map(|check| check.check).collect()
    }

    #[test]
    fn fast_host_has_nothing_to_mend() {
        let report = examine(&fast_host("fast"), Capabilities::probe());
        // What this kernel lacks may be said; the files say that all is well.
        let kernel = ["ring", "minimum wait"];
        let rest = complaints(&report).into_iter().filter(|check| !kernel.contains(check));
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
            limits::LIMITS_FILE,
        ] {
            assert!(script.contains(name), "{name} is not in setup_host.sh");
        }
        let latency = format!("idle_latency_us_max={}\n", processor::IDLE_LATENCY_US_MAX);
        assert!(script.contains(&latency), "{latency}");
        let backlog = format!("somaxconn_min={}\n", Config::default().listen_backlog());
        assert!(script.contains(&backlog), "{backlog}");
    }

    #[test]
    fn unreadable_host_is_said_to_be_unknown() {
        let fake = FakeHost::new("unreadable");
        let report = examine(&fake, Capabilities::probe());
        assert_ne!(report.verdict, Verdict::WillNotWork);
        assert!(complaints(&report).contains(&"kernel"));
    }
}

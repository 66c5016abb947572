//! What is to be measured: cases, their options, and where the threads run.
//!
//! A [`Plan`] that exists can be carried out: its options were checked against each other and
//! against the configuration. Not here: how a case is carried out (`harness`, the subjects).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use ringwire::config::{Config, ConfigBuilder, Idle};
use ringwire::wire::frame_bytes;
use serde::Serialize;

use crate::cli::options::{idle_parser, parse_seconds};
use crate::cli::{CommandError, Settings};

/// Connections of the default suite's last case, and of what stands beside it.
const MANY: usize = 1_000;
const FEWER: usize = 64;
/// Sessions of failover, each of which is cut once in a round.
const CUTS: usize = 200;
/// Rounds when the option does not say: odd, so that the median is a round that happened.
const ROUNDS: usize = 7;
/// Connections at most: each costs a descriptor at either end.
const CONNECTIONS_MAX: u32 = 10_000;

/// Measure ringwire beside raw sockets on this machine.
///
/// Two threads, pinned to different cores, talk over TCP on 127.0.0.1. The subjects take turns,
/// round by round, and the figures are medians over the rounds: `p50_ns_low` and `p50_ns_high`
/// are the lowest and the highest p50 of a round. Without a scenario the default suite runs, in
/// under a minute: rtt of 64 B spinning and parking, stream of 64 B and of 1 MiB, and rtt over 1000
/// connections beside 64. What ringwire is held to stands beside its ratio, as met or missed.
///
/// Subjects: `socket` does the same work over plain sockets: in rtt it sends the same bytes to and
/// fro, in stream it writes, reads and looks at the same frames. `raw`, in stream only, moves as
/// many bytes without frames, 256 KiB at once: what the machine can do for bulk. `ringwire` is the
/// library. failover runs ringwire alone: sockets have no sessions that could come back.
///
/// failover is not in the default suite. Each of its sessions has held for a second, so that it
/// dials again at once, when its link is cut at the client's end and a reliable request follows.
/// The figures are the times from the cut to the answer, one round trip included. The goal on
/// loopback is a p99 of at most 5 ms. Keys of JSON lines without a meaning there are null.
///
/// A frame is one message on the wire: a round trip is two, a request and its response.
/// Bytes are payload bytes. CPU time and calls are those of both ends. `enters_per_frame` counts
/// io_uring_enter only; a spinning reactor with few connections calls send and recv directly, which
/// the table shows as direct/frame, without the attempts that found nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to measure; the default suite when left out.
    #[arg(value_enum)]
    scenario: Option<Scenario>,

    /// Payload of a message in bytes; KiB and MiB are understood [default: 64].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    payload: Option<Size>,

    /// What both ends do while they wait [default: spin].
    #[arg(long, value_name = "spin|adaptive|park", hide_possible_values = true,
          value_parser = idle_parser())]
    idle: Option<Idle>,

    /// Connections; in rtt each has one message in flight, in failover each is cut once in a round
    /// [default: 1, in failover 200].
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    connections: Option<u32>,

    /// How long each subject is timed in each round, in seconds; failover ends with its cuts.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = "0.4", value_parser = parse_seconds)]
    duration: Duration,

    /// Rounds of each subject; best odd.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          default_value_t = ROUNDS, value_parser = parse_rounds)]
    rounds: usize,

    /// Write results as JSON lines to a file, or to standard output when it is `-`, which
    /// then holds nothing else.
    #[arg(long, value_name = "FILE|-")]
    pub(super) json: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scenario {
    /// Round trip: a request and its echo, one in flight on each connection.
    Rtt,
    /// One-way stream, as fast as it goes, with one answer at the end.
    Stream,
    /// Links that are cut: the time until an answer comes over the next one.
    Failover,
}

/// One row of the suite: the same work for every subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) scenario: Scenario,
    pub(super) payload_bytes: usize,
    pub(super) idle: Idle,
    pub(super) connections: usize,
    pub(super) beside: Beside,
}

/// What ringwire is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// Other ways of doing the same work.
    Floors,
    /// Itself, over so many connections.
    Fewer(usize),
}

/// A case and everything needed to carry out a round of it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) case: Case,
    /// Time of the measured part of a round.
    pub(super) duration: Duration,
    /// How long `adaptive` spins.
    pub(super) spin: Duration,
    pub(super) cores: Cores,
    /// Socket options for every subject.
    pub(super) config: Config,
    /// What the ringwire subject builds its two ends from.
    pub(super) settings: ConfigBuilder,
}

/// The cores the two ends are pinned to. Equal on a machine with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) client: usize,
}

/// Everything one run measures.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) plans: Vec<Plan>,
    pub(super) rounds: usize,
}

/// A number of bytes as people write it: `64`, `64KiB`, `1MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(usize);

impl Suite {
    /// Checks the options against the configuration and each other.
    pub(super) fn new(
        options: &Options,
        settings: Settings,
        cores: Cores,
    ) -> Result<Self, CommandError> {
        let config = settings.check()?;
        let file_idle = settings.file.is_some().then_some(config.idle());
        let mut cases: Vec<Case> = Vec::new();
        let given = options.connections.map(|count| count as usize);
        for mut case in default_suite(options.scenario) {
            // Not beside itself, and not a thousand times something that may be large.
            if case.beside != Beside::Floors && (given.is_some() || options.payload.is_some()) {
                continue;
            }
            case.connections = given.unwrap_or(case.connections);
            if let Some(Size(bytes)) = options.payload {
                case.payload_bytes = bytes;
            }
            if let Some(idle) = options.idle {
                case.idle = idle;
            } else if let (Some(_), Some(idle)) = (options.scenario, file_idle) {
                case.idle = idle;
            }
            if cores.server == cores.client && case.idle == Idle::Spin {
                case.idle = Idle::Adaptive;
            }
            check_payload(case, &config)?;
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        let plan = |case| Plan {
            case,
            duration: options.duration,
            spin: Duration::from_micros(config.idle_spin_us().into()),
            cores,
            config: config.clone(),
            settings: settings.builder.clone(),
        };
        Ok(Self { plans: cases.into_iter().map(plan).collect(), rounds: options.rounds })
    }
}

impl Suite {
    /// The most connections of a case.
    pub(super) fn connections_max(&self) -> usize {
        self.plans.iter().map(|plan| plan.case.connections).max().unwrap_or(0)
    }

    /// Leaves the case with many connections out; returns whether there was one beside others.
    pub(super) fn leave_out_many(&mut self) -> bool {
        let count = self.plans.len();
        self.plans.retain(|plan| plan.case.beside == Beside::Floors);
        self.plans.len() < count
    }
}

/// The cases before options are laid over them.
fn default_suite(scenario: Option<Scenario>) -> Vec<Case> {
    let case = |scenario, payload_bytes, idle| Case {
        scenario,
        payload_bytes,
        idle,
        connections: 1,
        beside: Beside::Floors,
    };
    let many = Case {
        connections: MANY,
        beside: Beside::Fewer(FEWER),
        ..case(Scenario::Rtt, 64, Idle::Spin)
    };
    match scenario {
        Some(Scenario::Failover) => {
            vec![Case { connections: CUTS, ..case(Scenario::Failover, 64, Idle::Spin) }]
        }
        Some(scenario) => vec![case(scenario, 64, Idle::Spin)],
        None => vec![
            case(Scenario::Rtt, 64, Idle::Spin),
            case(Scenario::Rtt, 64, Idle::Park),
            case(Scenario::Stream, 64, Idle::Spin),
            case(Scenario::Stream, 1 << 20, Idle::Spin),
            many,
        ],
    }
}

fn check_payload(case: Case, config: &Config) -> Result<(), CommandError> {
    let frame = case.frame_bytes();
    let frame_max = config.frame_bytes_max() as usize;
    if frame <= frame_max {
        return Ok(());
    }
    Err(CommandError::Usage(format!(
        "--payload {}: a frame of {frame} bytes exceeds frame_bytes_max = {frame_max}; \
         raise it in a file given with --config",
        case.payload_bytes
    )))
}

impl Case {
    /// Length of one frame on the wire, the same for every subject.
    pub(super) fn frame_bytes(&self) -> usize {
        frame_bytes(self.payload_bytes, self.scenario != Scenario::Stream)
    }
}

impl Plan {
    /// Untimed running before the clock starts: caches, branch predictors, TCP's windows.
    pub(super) fn warm_up(&self) -> Duration {
        (self.duration / 10).clamp(Duration::from_millis(5), Duration::from_millis(250))
    }
}

impl Scenario {
    /// The name in options and results.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Stream => "stream",
            Self::Failover => "failover",
        }
    }

    /// Whether frames per second say anything, and what a frame costs.
    pub(super) const fn has_rate(self) -> bool {
        !matches!(self, Self::Failover)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, size, idle) = (self.scenario.name(), Size(self.payload_bytes), self.idle.name());
        write!(f, "{name} {size} {idle}")?;
        match (self.beside, self.connections) {
            (Beside::Fewer(count), many) => {
                write!(f, ", ringwire over {many} connections beside {count}")
            }
            (Beside::Floors, _) if self.scenario == Scenario::Failover => Ok(()),
            (Beside::Floors, 1) => Ok(()),
            (Beside::Floors, count) => write!(f, " {count} connections"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: usize = 1 << 10;
        const MIB: usize = 1 << 20;
        match self.0 {
            bytes if bytes >= MIB && bytes.is_multiple_of(MIB) => write!(f, "{} MiB", bytes / MIB),
            bytes if bytes >= KIB && bytes.is_multiple_of(KIB) => write!(f, "{} KiB", bytes / KIB),
            bytes => write!(f, "{bytes} B"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            _ => return Err("a number of bytes, with KiB or MiB behind it if need be".into()),
        };
        let number: usize = number.parse().map_err(|_| "a number of bytes is expected")?;
        let bytes = number.checked_mul(unit).ok_or("too large")?;
        // Far above any valid frame, and far below where arithmetic on it could overflow.
        if bytes > 1 << 30 {
            return Err("too large: frames are limited to 256 MiB".into());
        }
        Ok(Self(bytes))
    }
}

fn parse_rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds @ 1..=1001) => Ok(rounds),
        _ => Err("a number from 1 to 1001 is expected".into()),
    }
}

/// A short plan for the tests of the other files.
#[cfg(test)]
pub(super) fn sample(
    scenario: Scenario,
    idle: Idle,
    payload_bytes: usize,
    connections: usize,
) -> Plan {
    let settings = Config::builder();
    Plan {
        case: Case { scenario, payload_bytes, idle, connections, beside: Beside::Floors },
        duration: Duration::from_millis(5),
        spin: Duration::from_micros(50),
        cores: Cores { server: 0, client: 0 },
        config: settings.clone().build().expect("defaults"),
        settings,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::goal::Goal;
    use super::*;

    const CORES: Cores = Cores { server: 0, client: 1 };

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn titles(arguments: &[&str], cores: Cores) -> Result<Vec<String>, CommandError> {
        let line = Line::parse_from([&["bench"], arguments].concat());
        let suite = Suite::new(&line.options, Settings::default(), cores)?;
        Ok(suite.plans.iter().map(|plan| plan.case.to_string()).collect())
    }

    #[test]
    fn default_suite_fits_a_minute() {
        let line = Line::parse_from(["bench"]);
        let suite = Suite::new(&line.options, Settings::default(), CORES).expect("valid");
        let titles = titles(&[], CORES).expect("valid");
        assert_eq!(
            titles,
            [
                "rtt 64 B spin",
                "rtt 64 B park",
                "stream 64 B spin",
                "stream 1 MiB spin",
                "rtt 64 B spin, ringwire over 1000 connections beside 64"
            ]
        );
        assert!(suite.plans.iter().all(|plan| Goal::of(plan.case).is_some()), "{suite:?}");
        // Two subjects in rtt, three in stream.
        let subjects = 12;
        let timed = suite.plans[0].duration + suite.plans[0].warm_up();
        assert!(timed * subjects * 7 < Duration::from_secs(40));
    }

    #[test]
    fn options_lie_over_the_default_suite() {
        let titles = titles(&["--payload", "1KiB", "--idle", "park"], CORES).expect("valid");
        assert_eq!(titles, ["rtt 1 KiB park", "stream 1 KiB park"]);
    }

    #[test]
    fn many_connections_are_left_out_where_descriptors_are_few() {
        let suite = |arguments: &[&str]| {
            let line = Line::parse_from([&["bench"], arguments].concat());
            Suite::new(&line.options, Settings::default(), CORES).expect("valid")
        };
        let mut default = suite(&[]);
        assert_eq!(default.connections_max(), MANY);
        assert!(default.leave_out_many());
        assert_eq!((default.connections_max(), default.plans.len()), (1, 4));
        let mut asked_for = suite(&["--connections", "1000"]);
        assert_eq!(asked_for.connections_max(), MANY);
        assert!(!asked_for.leave_out_many());
    }

    #[test]
    fn one_core_does_not_spin_against_itself() {
        let one = Cores { server: 3, client: 3 };
        assert_eq!(titles(&["rtt"], one).expect("valid"), ["rtt 64 B adaptive"]);
    }

    #[test]
    fn payload_beyond_the_frame_limit_names_the_key() {
        let error = titles(&["rtt", "--payload", "4MiB"], CORES).expect_err("too large");
        assert!(error.to_string().contains("frame_bytes_max = 4194304"), "{error}");
    }

    #[test]
    fn sizes_are_read_as_written() {
        let check = |text: &str, bytes| assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        check("0", 0);
        check("64", 64);
        check("64KiB", 65_536);
        check("1m", 1 << 20);
        for bad in ["", "x", "-1", "1.5k", "1GB", "99999999999999999999", "9999999M"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}

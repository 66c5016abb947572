//! What is to be measured: cases, and where the threads run.
//!
//! A [`Plan`] that exists can be carried out: its options were checked against each other and
//! against the configuration. Not here: how a case is carried out (`harness`, the subjects).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ringwire::config::{Config, ConfigBuilder, Idle};
use ringwire::wire::frame_bytes;
use serde::Serialize;

use super::options::{Delivery, Options, Scenario, Size};
use crate::cli::show::counted;
use crate::cli::{CommandError, Settings};

/// Connections of the default suite's last case, and of what stands beside it.
const MANY: usize = 1_000;
const FEWER: usize = 64;
/// Sessions of failover, each of which is cut once in a round.
const CUTS: usize = 200;
/// Connections of fan-in.
const FAN_IN: [usize; 5] = [1, 16, 128, 1_000, 10_000];
/// Connections that a server's reactors share in cores.
const SHARED: usize = 64;
/// Sessions of idle.
const SILENT: usize = 1_000;
/// Requests of paced: a thousand and ten thousand a second.
const PERIODS: [Duration; 2] = [Duration::from_millis(1), Duration::from_micros(100)];
/// Variants beside one another: as many as a table has room for.
const VARIANTS_MAX: usize = 8;
/// Rounds of what can have more, at least: an interval of their ratios needs six.
const ROUNDS_MIN: usize = 7;
/// Round trips of as many bytes have fewer and longer rounds.
const LONG_BYTES_MIN: usize = 64 << 10;
/// Shortest time in which the cost of silence shows: two heartbeats.
const IDLE_DURATION_MIN: Duration = Duration::from_secs(2);
/// Payload of the messages that flow beside critical ones.
pub(super) const BULK_BYTES: usize = 1 << 20;

/// One row of the suite: the same work for every subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) scenario: Scenario,
    pub(super) payload_bytes: usize,
    pub(super) idle: Idle,
    pub(super) connections: usize,
    /// Of those, the ones that have messages in flight; 0 is all.
    pub(super) busy: usize,
    pub(super) beside: Beside,
    pub(super) delivery: Delivery,
    /// Between the instants at which requests are due; `None`: when the answer has come.
    pub(super) period: Option<Duration>,
    pub(super) bulk: Bulk,
    /// Of the server; in cores the most.
    pub(super) reactors: usize,
}

/// What ringwire is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// Other ways of doing the same work.
    Floors,
    /// Itself, over so many connections.
    Fewer(usize),
    /// Itself, with best-effort messages.
    BestEffort,
    /// Itself, with other settings.
    Variants,
}

/// What flows from the client to the server beside the messages that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bulk {
    Nothing,
    /// Long messages in the low lane of the session; with sockets, on a second one.
    Beside,
    /// The same, and critical messages have a connection of their own.
    Express,
}

/// A case and everything needed to carry out a round of it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) case: Case,
    pub(super) rounds: usize,
    /// Time of the measured part of a round.
    pub(super) duration: Duration,
    /// How long `adaptive` spins.
    pub(super) spin: Duration,
    pub(super) cores: Cores,
    /// Socket options for every subject.
    pub(super) config: Config,
    /// What the ringwire subject builds its two ends from.
    pub(super) settings: ConfigBuilder,
    /// Other settings that stand beside these.
    pub(super) variants: Arc<[Variant]>,
}

/// Settings that are measured beside those of the configuration.
#[derive(Debug)]
pub(super) struct Variant {
    /// As it was given, on one line.
    pub(super) text: String,
    pub(super) config: Config,
    pub(super) settings: ConfigBuilder,
    /// What its ends do while they wait, where it says so.
    idle: Option<Idle>,
}

/// The cores the two ends are pinned to. Equal on a machine with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) client: usize,
    /// How many there are to choose from.
    pub(crate) allowed: usize,
}

/// How often a subject does its work, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    rounds: usize,
    duration: Duration,
}

/// Everything one run measures.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) plans: Vec<Plan>,
}

impl Suite {
    /// Checks the options against the configuration and each other.
    pub(super) fn new(
        options: &Options,
        settings: Settings,
        cores: Cores,
    ) -> Result<Self, CommandError> {
        check_options(options)?;
        let config = settings.check()?;
        let variants = options.variant.iter().map(|text| Variant::read(text, &settings));
        let variants: Arc<[Variant]> = variants.collect::<Result<_, _>>()?;
        let file_idle = settings.file.is_some().then_some(config.idle());
        let mut cases: Vec<Case> = Vec::new();
        for case in default_suite(options, cores) {
            let sizes = options.payload.as_ref().map_or(vec![case.payload_bytes], |s| s.0.clone());
            for payload_bytes in sizes {
                let mut case = Case { payload_bytes, ..case };
                if let Some(idle) = options.idle {
                    case.idle = idle;
                } else if let (Some(_), Some(idle)) = (options.scenario, file_idle) {
                    case.idle = idle;
                }
                let is_crowded = cores.server == cores.client || 2 * case.reactors > cores.allowed;
                if is_crowded && case.idle == Idle::Spin {
                    case.idle = Idle::Adaptive;
                }
                for config in variants.iter().map(|one| &one.config).chain([&config]) {
                    check_payload(case, config)?;
                }
                if !cases.contains(&case) {
                    cases.push(case);
                }
            }
        }
        let plan = |case: Case| {
            let Load { rounds, duration } = case.load().with(options.duration);
            Plan {
                case,
                rounds: options.rounds.unwrap_or(rounds),
                duration: match case.scenario {
                    Scenario::Idle => duration.max(IDLE_DURATION_MIN),
                    _ => duration,
                },
                spin: Duration::from_micros(config.idle_spin_us().into()),
                cores,
                config: config.clone(),
                settings: settings.builder.clone(),
                variants: Arc::clone(&variants),
            }
        };
        Ok(Self { plans: cases.into_iter().map(plan).collect() })
    }

    /// The most connections of a case.
    pub(super) fn connections_max(&self) -> usize {
        self.plans.iter().map(|plan| plan.case.connections).max().unwrap_or(0)
    }

    /// Makes do with what descriptors allow, where the number of connections was not asked for:
    /// leaves the case out that stands beside one with fewer, and lets fan-in end at `allowed`.
    /// Returns whether that helps.
    pub(super) fn make_do_with(&mut self, allowed: usize) -> bool {
        let is_fan_in = |plan: &Plan| plan.case.scenario == Scenario::FanIn;
        if self.plans.len() > 1 && self.plans.iter().all(is_fan_in) {
            for plan in &mut self.plans {
                plan.case.connections = plan.case.connections.min(allowed);
            }
            self.plans.dedup_by_key(|plan| plan.case);
            return allowed > 0;
        }
        let count = self.plans.len();
        self.plans.retain(|plan| plan.case.connections <= allowed);
        self.plans.len() < count && !self.plans.is_empty()
    }
}

/// The cases, with all options in them but the payload and the idle strategy.
fn default_suite(options: &Options, cores: Cores) -> Vec<Case> {
    let given = options.connections.map(|count| count as usize);
    let case = |scenario, payload_bytes, idle| Case {
        scenario,
        payload_bytes,
        idle,
        connections: given.unwrap_or(1),
        busy: options.busy.map_or(0, |count| count as usize),
        beside: match options.delivery {
            _ if !options.variant.is_empty() => Beside::Variants,
            Some(Delivery::Reliable) => Beside::BestEffort,
            _ => Beside::Floors,
        },
        delivery: options.delivery.unwrap_or(Delivery::BestEffort),
        period: None,
        bulk: if options.bulk { Bulk::Beside } else { Bulk::Nothing },
        reactors: 1,
    };
    let Some(scenario) = options.scenario else {
        let mut cases = vec![
            case(Scenario::Rtt, 64, Idle::Spin),
            case(Scenario::Rtt, 64, Idle::Park),
            case(Scenario::Stream, 64, Idle::Spin),
            case(Scenario::Stream, 64 << 10, Idle::Spin),
            case(Scenario::Stream, 1 << 20, Idle::Spin),
        ];
        // Not beside itself, and not a thousand times something that may be large.
        let is_plain = options.delivery.is_none() && options.variant.is_empty();
        if given.is_none() && options.payload.is_none() && is_plain {
            let beside = Beside::Fewer(FEWER);
            cases.push(Case { connections: MANY, beside, ..case(Scenario::Rtt, 64, Idle::Spin) });
        }
        return cases;
    };
    let one = case(scenario, 64, Idle::Spin);
    let over = |count: usize| Case { connections: given.unwrap_or(count), ..one };
    let every = |period| Case { period: Some(options.rate.unwrap_or(period)), ..one };
    match scenario {
        Scenario::Rtt | Scenario::Stream => vec![one],
        Scenario::Failover => vec![over(CUTS)],
        Scenario::FanIn => FAN_IN.map(over).into(),
        Scenario::Idle => {
            let beside = match one.beside {
                Beside::Variants => Beside::Variants,
                _ => Beside::Fewer(0),
            };
            vec![Case { idle: Idle::Park, beside, ..over(SILENT) }]
        }
        // The clients have the other cores, or share them.
        Scenario::Cores => vec![Case { reactors: cores.allowed, ..over(SHARED) }],
        Scenario::Paced => PERIODS.map(every).into(),
        Scenario::Mixed if options.rate.is_some() => vec![every(PERIODS[0])],
        Scenario::Mixed => vec![one, every(PERIODS[0])],
    }
}

/// What does not go together, in the words of the options.
fn check_options(options: &Options) -> Result<(), CommandError> {
    let refuse = |text: &str| Err(CommandError::Usage(text.into()));
    let scenario = options.scenario;
    let is = |wanted: Scenario| scenario == Some(wanted);
    if options.delivery.is_some()
        && !(scenario.is_none() || is(Scenario::Rtt) || is(Scenario::Stream))
    {
        return refuse("--delivery: only rtt and stream have the choice");
    }
    if options.delivery == Some(Delivery::Reliable) && options.connections.is_some_and(|n| n > 1) {
        return refuse("--delivery reliable is measured over one connection");
    }
    if options.rate.is_some() && !scenario.is_some_and(Scenario::is_paced) {
        return refuse("--rate: only paced and mixed send at a fixed rate");
    }
    if options.bulk && !is(Scenario::Paced) {
        return refuse("--bulk: only paced has the choice; mixed always measures beside bulk");
    }
    if options.busy.is_some() && !(is(Scenario::Rtt) || is(Scenario::FanIn)) {
        return refuse("--busy: only rtt and fan-in have the choice");
    }
    if let (Some(busy), Some(count)) = (options.busy, options.connections)
        && busy > count
    {
        return refuse("--busy: more than there are --connections");
    }
    if options.payload.is_some() && is(Scenario::Idle) {
        return refuse("--payload: idle sessions have nothing to say");
    }
    if !options.variant.is_empty() && is(Scenario::Cores) {
        return refuse("--variant: cores compares numbers of reactors");
    }
    if options.variant.len() > VARIANTS_MAX {
        return refuse("--variant: at most 8 beside one another");
    }
    if scenario.is_some_and(Scenario::is_paced) && options.connections.is_some_and(|n| n > 1) {
        return refuse("--connections: paced and mixed measure one session");
    }
    Ok(())
}

fn check_payload(case: Case, config: &Config) -> Result<(), CommandError> {
    let frame_max = config.frame_bytes_max() as usize;
    let bulk = if case.is_beside_bulk() { frame_bytes(BULK_BYTES, true) } else { 0 };
    let frame = case.frame_bytes().max(bulk);
    if frame <= frame_max {
        return Ok(());
    }
    Err(CommandError::Usage(format!(
        "--payload {}: a frame of {frame} bytes exceeds frame_bytes_max = {frame_max}; \
         raise it in a file given with --config",
        case.payload_bytes
    )))
}

impl Variant {
    /// Lays the settings of `text` over those of the file.
    fn read(text: &str, settings: &Settings) -> Result<Self, CommandError> {
        let lines = text.replace(';', "\n");
        let refused =
            |message: String| CommandError::Usage(format!("--variant '{text}': {message}"));
        // By itself first: an error then names the place in what was given here.
        ConfigBuilder::from_toml(&lines).map_err(|error| refused(error.to_string()))?;
        let read = |text: &str| text.parse::<toml::Table>().expect("it was read before");
        let (mut table, own) = (read(&settings.text), read(&lines));
        let says_idle = own.contains_key("idle");
        if own.contains_key("cores") || own.contains_key("reactors") {
            return Err(refused("cores are the bench's to choose".into()));
        }
        table.extend(own);
        let settings = ConfigBuilder::from_toml(&table.to_string());
        let checked = settings.and_then(|settings| Ok((settings.clone().build()?, settings)));
        let (config, settings) = checked.map_err(|error| refused(error.to_string()))?;
        let idle = says_idle.then_some(config.idle());
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        let text = parts.collect::<Vec<_>>().join("; ");
        Ok(Self { text, config, settings, idle })
    }
}

impl Case {
    /// Length of one frame on the wire, the same for every subject.
    pub(super) fn frame_bytes(&self) -> usize {
        frame_bytes(self.payload_bytes, self.scenario != Scenario::Stream)
    }

    /// On how many connections messages go to and fro.
    pub(super) fn busy(&self) -> usize {
        if self.busy == 0 { self.connections } else { self.busy.min(self.connections) }
    }

    /// Whether some of the connections have nothing to say.
    pub(super) fn has_silent(&self) -> bool {
        self.busy() < self.connections
    }

    /// Rounds where the options do not say: odd, so that the median is a round that happened. In
    /// the same time many short ones tell more of a ratio than a few long ones do: there are more
    /// of them, and the two sides of each are closer together. Few are left where a round takes
    /// seconds to begin, or where its percentiles need a rate's samples.
    fn load(&self) -> Load {
        let (rounds, ms) = match self.scenario {
            Scenario::FanIn | Scenario::Cores | Scenario::Idle => (3, 400),
            Scenario::Paced | Scenario::Failover => (ROUNDS_MIN, 400),
            Scenario::Mixed if self.period.is_some() => (ROUNDS_MIN, 400),
            Scenario::Mixed => (21, 130),
            Scenario::Rtt | Scenario::Stream if self.connections > FEWER => (21, 130),
            // Wake-ups of some guests take a third of a millisecond, as some long messages do.
            Scenario::Rtt if self.idle == Idle::Park || self.payload_bytes >= LONG_BYTES_MIN => {
                (31, 70)
            }
            Scenario::Rtt | Scenario::Stream => (101, 20),
        };
        Load { rounds, duration: Duration::from_millis(ms) }
    }

    /// Whether any subject has a stream beside it.
    pub(super) fn is_beside_bulk(&self) -> bool {
        self.bulk != Bulk::Nothing || self.scenario == Scenario::Mixed
    }
}

impl Load {
    /// As many rounds of `duration` as take the same time: odd, no more than the case has, and no
    /// fewer than [`ROUNDS_MIN`] where it has as many.
    fn with(self, duration: Option<Duration>) -> Self {
        let Some(duration) = duration else { return self };
        let ms = |time: Duration| time.as_millis().max(1);
        let alike = ms(self.duration) * self.rounds as u128 / ms(duration);
        let alike = usize::try_from(alike).unwrap_or(usize::MAX) | 1;
        let rounds = alike.clamp(self.rounds.min(ROUNDS_MIN), self.rounds);
        Self { rounds, duration }
    }
}

impl Plan {
    /// The same work with other settings.
    pub(super) fn with(&self, variant: &Variant) -> Self {
        let idle = variant.idle.unwrap_or(self.case.idle);
        Self {
            case: Case { idle, ..self.case },
            spin: Duration::from_micros(variant.config.idle_spin_us().into()),
            config: variant.config.clone(),
            settings: variant.settings.clone(),
            ..self.clone()
        }
    }

    /// Untimed running before the clock starts: caches, branch predictors, TCP's windows.
    pub(super) fn warm_up(&self) -> Duration {
        (self.duration / 10).clamp(Duration::from_millis(5), Duration::from_millis(250))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, size, idle) = (self.scenario.name(), Size(self.payload_bytes), self.idle.name());
        write!(f, "{name} {size} {idle}")?;
        if let Some(period) = self.period {
            write!(f, ", {:.0} requests/s", 1.0 / period.as_secs_f64())?;
        }
        if self.scenario == Scenario::Paced && self.bulk == Bulk::Beside {
            write!(f, " beside bulk")?;
        }
        match (self.scenario, self.beside, self.connections) {
            (Scenario::Idle, Beside::Fewer(_), count) => {
                write!(f, ", {} beside none", counted(count as u64, "session"))
            }
            (Scenario::Cores, _, count) => {
                let connections = counted(count as u64, "connection");
                let reactors = counted(self.reactors as u64, "reactor");
                match self.reactors {
                    1 => write!(f, ", {connections} to {reactors}"),
                    _ => write!(f, ", {connections} to 1 to {reactors}"),
                }
            }
            (_, Beside::Fewer(count), many) => {
                write!(f, ", ringwire over {many} connections beside {count}")
            }
            (_, Beside::BestEffort, _) => write!(f, ", reliable beside best effort"),
            (_, Beside::Variants, 1) => write!(f, ", other settings beside"),
            (_, Beside::Variants, count) => {
                write!(f, " {count} connections, other settings beside")
            }
            (Scenario::Failover, ..) | (_, Beside::Floors, 1) => Ok(()),
            (_, Beside::Floors, count) => write!(f, " {count} connections"),
        }?;
        if self.has_silent() {
            write!(f, ", {} of them busy", self.busy())?;
        }
        Ok(())
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
        case: Case {
            scenario,
            payload_bytes,
            idle,
            connections,
            busy: 0,
            beside: Beside::Floors,
            delivery: Delivery::BestEffort,
            period: None,
            bulk: Bulk::Nothing,
            reactors: 1,
        },
        rounds: 1,
        duration: Duration::from_millis(5),
        spin: Duration::from_micros(50),
        cores: Cores { server: 0, client: 0, allowed: 1 },
        config: settings.clone().build().expect("defaults"),
        settings,
        variants: Arc::new([]),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::goal::Goal;
    use super::*;

    const CORES: Cores = Cores { server: 0, client: 1, allowed: 2 };
    /// What a round takes beside its timed part and warm-up: threads, a connection, a check.
    const ROUND_OVERHEAD: Duration = Duration::from_millis(6);

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn suite(arguments: &[&str], cores: Cores) -> Result<Suite, CommandError> {
        let line = Line::parse_from([&["bench"], arguments].concat());
        Suite::new(&line.options, Settings::default(), cores)
    }

    fn titles(arguments: &[&str], cores: Cores) -> Result<Vec<String>, CommandError> {
        let suite = suite(arguments, cores)?;
        Ok(suite.plans.iter().map(|plan| plan.case.to_string()).collect())
    }

    #[test]
    fn variants_are_laid_over_the_file() {
        let file = "block_bytes = 131072\nidle = \"park\"\n".to_owned();
        let builder = ConfigBuilder::from_toml(&file).expect("valid");
        let settings = Settings { builder, text: file, file: Some("x.toml".into()) };
        let line = [
            "bench",
            "rtt",
            "--variant",
            "window_bytes = 8192;checksum = 'never' ;",
            "--variant",
            "idle = 'spin'; block_bytes = 4096",
        ];
        let suite = Suite::new(&Line::parse_from(line).options, settings, CORES).expect("valid");
        let [plan] = &suite.plans[..] else { panic!("{suite:?}") };
        assert_eq!((plan.case.beside, plan.case.idle), (Beside::Variants, Idle::Park));
        assert_eq!(Goal::all_of(plan.case).count(), 0);
        let [first, second] = [0, 1].map(|index| plan.with(&plan.variants[index]));
        assert_eq!(plan.variants[0].text, "window_bytes = 8192; checksum = 'never'");
        assert_eq!((first.config.window_bytes(), first.config.block_bytes()), (8192, 131_072));
        assert_eq!((first.case.idle, second.case.idle), (Idle::Park, Idle::Spin));
        assert_eq!(second.config.block_bytes(), 4096);
        assert_eq!(plan.config.window_bytes(), 64 << 10);
    }

    #[test]
    fn variants_that_make_no_sense_are_refused() {
        let check = |arguments: &[&str], expected: &str| {
            let error = suite(arguments, CORES).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&["rtt", "--variant", "window_byte = 1"], "window_bytes");
        check(&["rtt", "--variant", "window_bytes = 1"], "--variant 'window_bytes = 1': ");
        check(&["rtt", "--variant", "cores = [1]"], "the bench's to choose");
        check(&["cores", "--variant", "window_bytes = 8192"], "compares numbers of reactors");
        let many = ["--variant", "express = true"].repeat(9);
        check(&[&["rtt"], &many[..]].concat(), "at most 8");
    }

    #[test]
    fn some_of_the_connections_may_be_silent() {
        let shown = |arguments: &[&str]| titles(arguments, CORES).expect("valid");
        let line = ["rtt", "--connections", "100", "--busy", "4"];
        assert_eq!(shown(&line), ["rtt 64 B spin 100 connections, 4 of them busy"]);
        let fan_in = shown(&["fan-in", "--busy", "16"]);
        assert_eq!(fan_in[1], "fan-in 64 B spin 16 connections");
        assert_eq!(fan_in[2], "fan-in 64 B spin 128 connections, 16 of them busy");
        let check = |arguments: &[&str], expected: &str| {
            let error = suite(arguments, CORES).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&["stream", "--busy", "4"], "only rtt and fan-in");
        check(&["idle", "--payload", "64"], "nothing to say");
        check(&["rtt", "--connections", "4", "--busy", "5"], "more than there are");
    }

    #[test]
    fn default_suite_fits_a_minute() {
        let suite = suite(&[], CORES).expect("valid");
        let titles = titles(&[], CORES).expect("valid");
        assert_eq!(
            titles,
            [
                "rtt 64 B spin",
                "rtt 64 B park",
                "stream 64 B spin",
                "stream 64 KiB spin",
                "stream 1 MiB spin",
                "rtt 64 B spin, ringwire over 1000 connections beside 64"
            ]
        );
        assert!(suite.plans.iter().all(|plan| Goal::all_of(plan.case).count() > 0), "{suite:?}");
        // Two subjects in rtt, three in stream.
        let subjects = 15;
        let timed = |plan: &Plan| {
            let round = plan.duration + plan.warm_up() + ROUND_OVERHEAD;
            round * u32::try_from(plan.rounds).expect("a hundred")
        };
        let longest = suite.plans.iter().map(timed).max().expect("six cases");
        assert!(longest * subjects < Duration::from_secs(55), "{longest:?}");
    }

    /// In the same time many rounds tell more; who says how long a round is has as many of those.
    #[test]
    fn rounds_follow_from_the_case_and_from_their_duration() {
        let check = |arguments: &[&str], rounds, ms| {
            let suite = suite(arguments, CORES).expect("valid");
            let plan = &suite.plans[0];
            let expected = (rounds, Duration::from_millis(ms));
            assert_eq!((plan.rounds, plan.duration), expected, "{arguments:?}");
        };
        check(&["rtt"], 101, 20);
        check(&["rtt", "--idle", "park"], 31, 70);
        check(&["rtt", "--payload", "64KiB"], 31, 70);
        check(&["rtt", "--duration", "0.1"], 21, 100);
        check(&["rtt", "--duration", "0.4"], 7, 400);
        check(&["rtt", "--duration", "0.001"], 101, 1);
        check(&["rtt", "--rounds", "5"], 5, 20);
        check(&["rtt", "--rounds", "5", "--duration", "1"], 5, 1_000);
        check(&["stream", "--connections", "1000"], 21, 130);
        check(&["mixed"], 21, 130);
        check(&["mixed", "--rate", "1000"], 7, 400);
        check(&["paced"], 7, 400);
        check(&["cores", "--duration", "10"], 3, 10_000);
        check(&["idle"], 3, 2_000);
    }

    #[test]
    fn scenarios_have_their_cases() {
        let check = |arguments: &[&str], expected: &[&str]| {
            assert_eq!(titles(arguments, CORES).expect("valid"), expected, "{arguments:?}");
        };
        check(&["rtt", "--payload", "64,4KiB"], &["rtt 64 B spin", "rtt 4 KiB spin"]);
        check(
            &["paced", "--bulk"],
            &[
                "paced 64 B spin, 1000 requests/s beside bulk",
                "paced 64 B spin, 10000 requests/s beside bulk",
            ],
        );
        check(&["paced", "--rate", "500"], &["paced 64 B spin, 500 requests/s"]);
        check(&["mixed"], &["mixed 64 B spin", "mixed 64 B spin, 1000 requests/s"]);
        check(&["mixed", "--rate", "2000"], &["mixed 64 B spin, 2000 requests/s"]);
        check(&["idle"], &["idle 64 B park, 1000 sessions beside none"]);
        check(&["idle", "--connections", "1"], &["idle 64 B park, 1 session beside none"]);
        check(
            &["cores", "--connections", "1"],
            &["cores 64 B adaptive, 1 connection to 1 to 2 reactors"],
        );
        check(&["cores"], &["cores 64 B adaptive, 64 connections to 1 to 2 reactors"]);
        check(
            &["stream", "--delivery", "reliable"],
            &["stream 64 B spin, reliable beside best effort"],
        );
    }

    #[test]
    fn options_lie_over_the_default_suite() {
        let titles = titles(&["--payload", "1KiB", "--idle", "park"], CORES).expect("valid");
        assert_eq!(titles, ["rtt 1 KiB park", "stream 1 KiB park"]);
    }

    #[test]
    fn options_that_mean_nothing_there_are_refused() {
        let check = |arguments: &[&str], said: &str| {
            let error = titles(arguments, CORES).expect_err("refused").to_string();
            assert!(error.contains(said), "{arguments:?}: {error}");
        };
        check(&["mixed", "--delivery", "reliable"], "--delivery");
        check(&["rtt", "--delivery", "reliable", "--connections", "2"], "one connection");
        check(&["rtt", "--rate", "1000"], "--rate");
        check(&["--bulk"], "--bulk");
        check(&["paced", "--connections", "2"], "--connections");
    }

    #[test]
    fn many_connections_are_left_out_where_descriptors_are_few() {
        let suite = |arguments: &[&str]| suite(arguments, CORES).expect("valid");
        let mut default = suite(&[]);
        assert_eq!(default.connections_max(), MANY);
        assert!(default.make_do_with(400));
        assert_eq!((default.connections_max(), default.plans.len()), (1, 5));
        let mut asked_for = suite(&["--connections", "1000"]);
        assert_eq!(asked_for.connections_max(), MANY);
        assert!(!asked_for.make_do_with(400));
        let mut fan_in = suite(&["fan-in"]);
        assert!(fan_in.make_do_with(400));
        let counts: Vec<_> = fan_in.plans.iter().map(|plan| plan.case.connections).collect();
        assert_eq!(counts, [1, 16, 128, 400]);
    }

    #[test]
    fn one_core_does_not_spin_against_itself() {
        let one = Cores { server: 3, client: 3, allowed: 1 };
        assert_eq!(titles(&["rtt"], one).expect("valid"), ["rtt 64 B adaptive"]);
    }

    #[test]
    fn payload_beyond_the_frame_limit_names_the_key() {
        let error = titles(&["rtt", "--payload", "4MiB"], CORES).expect_err("too large");
        assert!(error.to_string().contains("frame_bytes_max = 4194304"), "{error}");
    }
}

//! What a run is asked for, checked whole before anything is written or started.
//!
//! Figures are checked where the line is read, and what depends on the machine, or on other
//! options, in [`Options::check`]. An option that would change nothing is an error too: what was
//! asked for was something else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::RangedU64ValueParser;

use super::NOT_BUILT;
use super::nearest::nearest;
use super::plan::{Form, Load};
use crate::drive::Failure;
use crate::job::{Case, Scenario};
use crate::message::MESSAGE_BYTES_MIN;
use crate::subjects::{self, OPTIONAL};

/// The longest message.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Other ways to wait of subjects that are there as well. The quick form has no time for them.
const VARIANTS: [&str; 3] = ["raw-spin-pause", "uring-sqpoll", "omq-tokio-spin"];
/// As many connections as Linux has ports for one address by itself: ip(7), ip_local_port_range.
const CONNECTIONS_MAX: u64 = 28_000;
const RATE_HZ_MAX: i64 = 1_000_000;
const ROUNDS_MAX: u64 = 1_000;
/// Longest timed part of a round, in seconds: a day.
const DURATION_S_MAX: f64 = 86_400.0;

/// Runs subjects side by side, each as two processes on different cores.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to measure; everything when left out.
    #[arg(value_enum)]
    scenarios: Vec<Name>,

    /// `quick` takes minutes, `long` hours: `--plan` says how many.
    #[arg(long, value_enum, default_value = "quick")]
    pub form: Form,

    /// Says what would be measured and how long it takes, and ends.
    #[arg(long)]
    pub plan: bool,

    /// Only these subjects, with commas between; a name that ends in `*` stands for all that begin
    /// so. When left out: all, in the quick form without raw-spin-pause, uring-sqpoll and
    /// omq-tokio-spin.
    #[arg(long, value_delimiter = ',', value_parser = subject)]
    subjects: Vec<String>,

    /// Only cases with this payload, in bytes, KiB or MiB; one that the form does not have is added
    /// to rtt and stream.
    #[arg(long, value_parser = payload)]
    payload: Option<usize>,

    /// Only cases with so many connections; as for the payload, in fan-in.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=CONNECTIONS_MAX))]
    connections: Option<usize>,

    /// Only paced cases of this rate; as for the payload, in paced.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=RATE_HZ_MAX))]
    rate: Option<u32>,

    /// Only paced cases with 1 MiB messages beside the requests, or only those without.
    #[arg(long, value_enum)]
    bulk: Option<Bulk>,

    /// Rounds of each subject; best odd. The form's when left out.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=ROUNDS_MAX))]
    rounds: Option<usize>,

    /// Seconds of the timed part of a round; the form's when left out.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Cores of the server's process, with commas between; one of its own when left out.
    #[arg(long, value_delimiter = ',')]
    pub server_cores: Vec<usize>,

    /// Cores of the client's process.
    #[arg(long, value_delimiter = ',')]
    pub client_cores: Vec<usize>,

    /// Appends results as JSON lines to a file; - for standard output, and the tables to standard
    /// error.
    #[arg(long)]
    pub json: Option<PathBuf>,

    /// Appends the tables to a file, too.
    #[arg(long)]
    pub text: Option<PathBuf>,

    /// Why a feature is not in this build, as FEATURE=REASON; once for each.
    #[arg(long, value_name = "FEATURE=REASON", value_parser = skipped)]
    skipped: Vec<(String, String)>,
}

/// A scenario's name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    Rtt,
    Stream,
    Paced,
    FanIn,
}

/// What goes beside the requests of a paced case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Bulk {
    With,
    Without,
}

impl Options {
    /// Whether this can be done with these cores, and what the cases are.
    ///
    /// # Errors
    ///
    /// What can not be done, and what to say instead. Nothing has been written.
    pub fn check(&self, cores: &[usize]) -> Result<Vec<Case>, Failure> {
        self.check_subjects()?;
        for (option, given) in
            [("--server-cores", &self.server_cores), ("--client-cores", &self.client_cores)]
        {
            if let Some(core) = given.iter().find(|core| !cores.contains(core)) {
                let allowed = joined(cores.iter().map(usize::to_string));
                return Err(format!("{option} {core}: this process may use {allowed}").into());
            }
        }
        for (option, file) in [("--json", &self.json), ("--text", &self.text)] {
            let folder = file.as_deref().and_then(Path::parent);
            let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                let folder = folder.display();
                return Err(format!("{option}: there is no folder {folder}: make it first").into());
            }
        }
        if self.text.as_deref() == Some(Path::new("-")) {
            return Err("--text: the tables go to standard output without it".into());
        }
        if self.json.is_some() && self.json == self.text {
            return Err("--json and --text name the same file: two are needed".into());
        }
        let cases = self.cases()?;
        self.check_taking_part(&cases)?;
        Ok(cases)
    }

    fn check_subjects(&self) -> Result<(), Failure> {
        let mut known: Vec<&str> = subjects::all().iter().map(|s| s.facts().name).collect();
        known.extend(super::missing().iter().map(|(name, _)| *name));
        for pattern in &self.subjects {
            if !known.iter().any(|name| is_match(pattern, name)) {
                let what = match meant(pattern, &known) {
                    Some(name) => format!("did you mean {name}? (all of them: peers list)"),
                    None => format!("use {}", joined(known.iter().map(ToString::to_string))),
                };
                return Err(format!("--subjects: none is called {pattern:?}; {what}").into());
            }
        }
        Ok(())
    }

    /// One of the subjects has to be able to do one of the cases.
    fn check_taking_part(&self, cases: &[Case]) -> Result<(), Failure> {
        let mut reasons = Vec::new();
        for subject in subjects::all() {
            let name = subject.facts().name;
            for case in cases.iter().filter(|_| self.wants(name)) {
                let Some(reason) = subject.lacks(case) else { return Ok(()) };
                let told = format!("{name} has no {}: {reason}", case.scenario.name());
                if !reasons.contains(&told) {
                    reasons.push(told);
                }
            }
        }
        for (name, feature) in super::missing().iter().filter(|(name, _)| self.wants(name)) {
            reasons.push(format!("{name}: {}", self.reason(feature)));
        }
        Err(format!("nothing of this can be measured\n  {}", reasons.join("\n  ")).into())
    }

    /// Whether a subject takes part: of variants the quick form has those that are asked for.
    pub fn wants(&self, name: &str) -> bool {
        match &self.subjects[..] {
            [] => self.form == Form::Long || !VARIANTS.contains(&name),
            patterns => patterns.iter().any(|pattern| is_match(pattern, name)),
        }
    }

    /// Whether a scenario was asked for, by its name or by what only it has.
    pub fn names(&self, scenario: Scenario) -> bool {
        let is_named = self.scenarios.iter().any(|&name| Scenario::from(name) == scenario);
        is_named || (scenario == Scenario::FanIn && self.connections.is_some())
    }

    /// Why a feature is not in this build.
    pub fn reason(&self, feature: &str) -> String {
        let mut given = self.skipped.iter().filter(|(name, _)| name == feature);
        given.next().map_or_else(
            || format!("{NOT_BUILT}: feature {feature} is off"),
            |(_, reason)| reason.clone(),
        )
    }

    /// Rounds of a case and what each is.
    pub fn load(&self, case: &Case) -> Load {
        let rounds = self.rounds.unwrap_or(self.form.rounds(case));
        let duration_ns = match self.duration {
            Some(duration) => u64::try_from(duration.as_nanos()).expect("a day at most"),
            None => self.form.duration_ns(case, rounds),
        };
        Load { rounds, duration_ns }
    }

    /// The cases, each once, in the order of the scenarios.
    fn cases(&self) -> Result<Vec<Case>, Failure> {
        let named: Vec<Scenario> = self.scenarios.iter().map(|&name| name.into()).collect();
        let scenarios = if named.is_empty() { &Scenario::ALL[..] } else { &named };
        let mut cases: Vec<Case> = Vec::new();
        for &scenario in scenarios {
            let fitting: Vec<Case> =
                self.form.cases(scenario).iter().filter_map(|case| self.fitted(case)).collect();
            if fitting.is_empty() && !named.is_empty() {
                return Err(format!(
                    "{} has no such case: --payload is for rtt and stream (paced and fan-in carry \
                     64 bytes), --connections for fan-in, --rate and --bulk for paced",
                    scenario.name()
                )
                .into());
            }
            for case in fitting {
                if !cases.contains(&case) {
                    cases.push(case);
                }
            }
        }
        if cases.is_empty() {
            return Err("no case has all of --payload, --connections, --rate and --bulk".into());
        }
        Ok(cases)
    }

    /// A case with what was asked for in its place; `None` when that is not what it has.
    fn fitted(&self, case: &Case) -> Option<Case> {
        let mut case = *case;
        let (payload, connections, rate) = match case.scenario {
            Scenario::Rtt | Scenario::Stream => (self.payload, None, None),
            Scenario::FanIn => (None, self.connections, None),
            Scenario::Paced => (None, None, self.rate),
        };
        case.payload_bytes = payload.unwrap_or(case.payload_bytes);
        case.connections = connections.unwrap_or(case.connections);
        case.rate_hz = rate.unwrap_or(case.rate_hz);
        let is_asked = self.payload.is_none_or(|bytes| bytes == case.payload_bytes)
            && self.connections.is_none_or(|count| count == case.connections)
            && self.rate.is_none_or(|rate| rate == case.rate_hz)
            && self.bulk.is_none_or(|bulk| {
                case.scenario == Scenario::Paced && (bulk == Bulk::With) == case.bulk
            });
        is_asked.then_some(case)
    }
}

impl From<Name> for Scenario {
    fn from(name: Name) -> Self {
        match name {
            Name::Rtt => Self::Rtt,
            Name::Stream => Self::Stream,
            Name::Paced => Self::Paced,
            Name::FanIn => Self::FanIn,
        }
    }
}

fn is_match(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// What was probably meant by a name that nothing has: all that begin so, or the nearest.
fn meant(pattern: &str, known: &[&str]) -> Option<String> {
    let start = pattern.trim_end_matches('*');
    if known.iter().any(|name| !start.is_empty() && name.starts_with(start)) {
        return Some(format!("{start}*"));
    }
    nearest(start, known.iter().copied()).map(str::to_owned)
}

fn joined(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// A name, without the spaces that stand around it in a list.
fn subject(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("names with commas between are expected".into()),
        name => Ok(name.into()),
    }
}

/// One number of bytes, written as for `ringwire bench --payload`: `64`, `64KiB`, `1MiB`.
fn payload(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        _ => {
            return Err("a number of bytes, with KiB or MiB behind it if need be".into());
        }
    };
    let number: usize = number.parse().map_err(|_| "a number of bytes is expected".to_owned())?;
    let bytes = number.saturating_mul(unit);
    if !(MESSAGE_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&bytes) {
        let (least, most) = (MESSAGE_BYTES_MIN, PAYLOAD_BYTES_MAX >> 20);
        return Err(format!("from {least} bytes to {most} MiB are expected"));
    }
    Ok(bytes)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is expected".to_owned())?;
    if !(0.001..=DURATION_S_MAX).contains(&seconds) {
        return Err(format!("from 0.001 to {DURATION_S_MAX} seconds are expected"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn skipped(text: &str) -> Result<(String, String), String> {
    let (feature, reason) = text.split_once('=').ok_or("FEATURE=REASON is expected")?;
    if OPTIONAL.iter().all(|optional| optional.feature != feature) {
        let known = joined(OPTIONAL.iter().map(|optional| optional.feature.to_owned()));
        return Err(format!("there is no feature {feature:?}; use {known}"));
    }
    Ok((feature.into(), reason.into()))
}

#[cfg(test)]
pub mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(words: &[&str]) -> Result<Options, String> {
        let line = Line::try_parse_from([&["run"], words].concat());
        line.map(|line| line.options).map_err(|error| error.to_string())
    }

    pub fn options(words: &[&str]) -> Options {
        parse(words).expect("a valid line")
    }

    fn titles(words: &[&str]) -> Vec<String> {
        let cases = options(words).check(&[0, 1]).expect("valid options");
        cases.iter().map(Case::to_string).collect()
    }

    /// Whether it is the line, or what is beyond it, that can not be.
    fn refused(words: &[&str], said: &str) {
        let told = match parse(words) {
            Ok(options) => options.check(&[0, 1]).expect_err(said).to_string(),
            Err(error) => error,
        };
        assert!(told.contains(said), "{words:?}: {told}");
    }

    #[test]
    fn options_choose_cases() {
        assert_eq!(titles(&["rtt"]), ["rtt 64 B", "rtt 64 KiB"]);
        assert_eq!(titles(&["stream"]), ["stream 64 B", "stream 64 KiB", "stream 1 MiB"]);
        assert_eq!(titles(&["rtt", "--payload", "256"]), ["rtt 256 B"]);
        assert_eq!(titles(&["rtt", "--payload", "64KiB"]), ["rtt 64 KiB"]);
        assert_eq!(titles(&["stream", "--payload", "2MiB"]), ["stream 2 MiB"]);
        assert_eq!(titles(&["fan-in", "--connections", "1"]), ["fan-in 64 B, 1 connection"]);
        assert_eq!(titles(&["fan-in", "--connections", "3"]), ["fan-in 64 B, 3 connections"]);
        assert_eq!(titles(&["fan-in", "--payload", "64"]), ["fan-in 64 B, 128 connections"]);
        assert_eq!(titles(&["paced", "--rate", "500"])[0], "paced 64 B, 500 a second");
        assert_eq!(titles(&[]).len(), 9);
        assert_eq!(titles(&["--form", "long"]).len(), 21);
        let loaded = "paced 64 B, 10000 a second, 1 MiB beside it 100 times a second";
        assert_eq!(titles(&["paced", "--bulk", "with"]), [loaded]);
        assert_eq!(titles(&["paced", "--bulk", "without", "--rate", "10000"]).len(), 1);
        // Of everything, only what is so: not the rest as well.
        assert_eq!(titles(&["--payload", "256"]), ["rtt 256 B", "stream 256 B"]);
        assert_eq!(titles(&["--connections", "3"]), ["fan-in 64 B, 3 connections"]);
        assert_eq!(titles(&["--bulk", "with"]), [loaded]);
    }

    #[test]
    fn options_choose_subjects() {
        let options = options(&["--subjects", "raw-*,tokio", "--skipped", "nng=no cmake"]);
        assert!(options.wants("raw-spin") && options.wants("tokio"));
        assert!(!options.wants("tokio-uring"));
        let spaced = self::options(&["--subjects", "raw-spin, tokio ,raw-b*"]);
        assert!(["raw-spin", "tokio", "raw-bulk"].iter().all(|name| spaced.wants(name)));
        assert!(spaced.check(&[0]).is_ok());
        assert_eq!(options.reason("nng"), "no cmake");
        assert_eq!(options.reason("zmq"), "not built: feature zmq is off");
    }

    #[test]
    fn variants_are_of_the_long_form_unless_asked_for() {
        for name in VARIANTS {
            assert!(!options(&[]).wants(name), "{name}");
            assert!(options(&["--form", "long"]).wants(name), "{name}");
            assert!(options(&["--subjects", name]).wants(name), "{name}");
            let mut known = subjects::all().iter().map(|s| s.facts().name).collect::<Vec<_>>();
            known.extend(OPTIONAL.iter().flat_map(|optional| optional.subjects));
            assert!(known.contains(&name), "{name}");
        }
        assert!(options(&[]).wants("raw-spin"));
    }

    #[test]
    fn rounds_and_durations_are_the_forms_unless_given() {
        let case = Form::Quick.cases(Scenario::Rtt)[0];
        let load = options(&[]).load(&case);
        assert_eq!((load.rounds, load.duration_ns), (9, 40_000_000));
        let load = options(&["--rounds", "3", "--duration", "0.5"]).load(&case);
        assert_eq!((load.rounds, load.duration_ns), (3, 500_000_000));
    }

    #[test]
    fn nonsense_is_refused() {
        refused(&["--subjects", "raw-spin,nonsense"], "none is called \"nonsense\"; use clock,");
        refused(&["--subjects", "nonsense-*"], "none is called");
        for (wrong, meant) in [
            ("tokyo", "tokio"),
            ("tokoi", "tokio"),
            ("Tokio", "tokio"),
            ("ringwire-spinn", "ringwire-spin"),
            ("spin-ringwire", "ringwire-spin"),
            ("asyncio", "python-asyncio"),
            ("raw-spn*", "raw-spin"),
            ("ringwire", "ringwire*"),
            ("omq", "omq*"),
        ] {
            let said = format!("none is called {wrong:?}; did you mean {meant}? (all of them:");
            refused(&["--subjects", &format!("raw-spin, {wrong}")], &said);
        }
        for blank in ["", " ", "tokio,", "tokio, ,raw-spin"] {
            refused(&["--subjects", blank], "names with commas between are expected");
        }
        // One that another build has is known.
        assert!(options(&["--subjects", "raw-spin,nng,zenoh"]).check(&[0]).is_ok());
        refused(&["--server-cores", "77"], "--server-cores 77: this process may use 0, 1");
        refused(&["--client-cores", "0,2"], "--client-cores 2: ");
        refused(&["--payload", "3"], "from 16 bytes to 16 MiB are expected");
        refused(&["--payload", "99999999"], "from 16 bytes to 16 MiB are expected");
        refused(&["--payload", "17MiB"], "from 16 bytes to 16 MiB are expected");
        refused(&["--payload", "64KB"], "with KiB or MiB behind it");
        refused(&["--payload", "KiB"], "a number of bytes is expected");
        refused(&["--connections", "0"], "0 is not in 1..=28000");
        refused(&["--rate", "0"], "0 is not in 1..=1000000");
        refused(&["--rounds", "0"], "0 is not in 1..=1000");
        for duration in ["0", "1e9", "NaN", "-1"] {
            refused(&[&format!("--duration={duration}")], "from 0.001 to 86400 seconds");
        }
        refused(&["--duration", "long"], "a number of seconds");
        refused(&["--skipped", "nng"], "FEATURE=REASON is expected");
        refused(&["--skipped", "nmg=x"], "no feature \"nmg\"; use tokio-uring,");
        refused(&["--json", "/nonexistent/a.jsonl"], "--json: there is no folder /nonexistent");
        refused(&["--json", "a", "--text", "a"], "the same file");
        refused(&["--json", "-", "--text", "-"], "go to standard output without it");
    }

    #[test]
    fn subjects_that_can_do_nothing_of_it_are_refused() {
        refused(
            &["rtt", "stream", "--subjects", "clock"],
            "nothing of this can be measured\n  clock has no rtt: a clock carries no messages\n  \
             clock has no stream: a clock carries no messages",
        );
        refused(
            &["fan-in", "--subjects", "raw-spin,uring-*"],
            "\n  uring-park has no fan-in: a floor of one connection a ring",
        );
        for name in super::super::missing().iter().map(|(name, _)| *name) {
            refused(&["--subjects", name], &format!("\n  {name}: not built: feature "));
        }
        // One of them, in one of them.
        for words in [
            &["rtt", "--subjects", "clock,raw-spin"][..],
            &["rtt", "paced", "--subjects", "clock"],
            &["fan-in", "--subjects", "uring-spin,tokio"],
        ] {
            assert!(options(words).check(&[0]).is_ok(), "{words:?}");
        }
    }

    #[test]
    fn options_without_effect_are_refused() {
        refused(&["fan-in", "--payload", "1024"], "fan-in has no such case: --payload is for rtt");
        refused(&["rtt", "paced", "--payload", "1024"], "paced has no such case");
        refused(&["rtt", "--connections", "3"], "rtt has no such case");
        refused(&["stream", "--rate", "100"], "stream has no such case");
        refused(&["--rate", "100", "--connections", "3"], "no case has all of");
    }
}

//! Rounds: who runs when, where, and for how long at most.
//!
//! Each round of each subject starts from nothing: fresh threads, fresh connections, an answer
//! checked, a warm-up, then the timed part. Invariant: nothing here can wait for ever. Single waits
//! are bounded by [`WAIT_MAX`], a whole round by [`round_time_max`].

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringwire::error::{ConfigError, ConnectError, RequestError, SendError, SetupError};
use rustix::process::{Resource, Rlimit, getpid, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use signal_hook::consts::signal::SIGINT;
use signal_hook::low_level::{emulate_default_handler, pipe};

use super::clock::{self, Clock};
use super::framing::Framing;
use super::options::{Delivery, Scenario};
use super::plan::{Beside, Bulk, Case, Cores, Plan, Suite, Variant};
use super::raw::Raw;
use super::ring::{ALONE, Alone, Ring};
use super::round::Round;
use super::socket::Socket;
use super::summary::{Measured, Record};

/// Longest wait for the peer: a subject that is silent for so long has failed.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(10);
/// What each connection may add to a round: it is made, answers once and is closed. A hundred times
/// what that takes where nobody else is.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(20);
/// Longest round of failover, which should take a little more than a second.
const FAILOVER_TIME_MAX: Duration = Duration::from_secs(30);
/// Descriptors the process needs besides two for each connection.
const DESCRIPTORS_SPARE: u64 = 64;

/// One way of doing the work of a case.
pub(super) trait Subject: Sync {
    /// Carries out one round. The calling thread is the client's and is pinned already; the
    /// server's thread is started in here and pins itself.
    fn round(&self, plan: &Plan) -> Result<Round, SubjectError>;
}

/// A subject and what it is to do.
struct Entry {
    /// The name in the results.
    name: Arc<str>,
    subject: &'static dyn Subject,
    plan: Arc<Plan>,
}

/// Why a round gave no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubjectError {
    /// A system call failed, or its wait was too long.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The answer that is checked before timing was wrong: timing it would be pointless.
    #[error("{what}: expected {expected}, got {got}")]
    WrongAnswer {
        /// What was compared.
        what: &'static str,
        /// What should have come.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// A ring could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The client found no server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A message was not queued.
    #[error(transparent)]
    Send(#[from] SendError),
    /// A request was not answered.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The configuration does not suit the case.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The round took longer than any round may.
    #[error("no end after {0:?}")]
    TooLong(Duration),
    /// A thread panicked; it has said why.
    #[error("a thread panicked")]
    Panicked,
}

/// Why there are no figures, or none to be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A round failed.
    #[error("{subject}, {case}, round {round}: {source}")]
    Round {
        /// Who.
        subject: Arc<str>,
        /// At what.
        case: String,
        /// When, from 1.
        round: usize,
        /// How.
        source: Box<SubjectError>,
    },
    /// The process may not have as many descriptors as the connections need.
    #[error(
        "{connections} connections need {needed} descriptors, the limit is {limit}: \
         raise it (ulimit -n, LimitNOFILE=)"
    )]
    Descriptors {
        /// Connections asked for.
        connections: usize,
        /// Descriptors they need.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// The process does not know its own cores.
    #[error("cannot read the cores this process may run on: {0}")]
    Cores(io::Error),
    /// Some answers were wrong, so that the figures are worth nothing.
    #[error("{errors} answers were wrong or missing: do not trust the figures above")]
    WrongAnswers {
        /// How many.
        errors: u64,
    },
}

/// The bar on standard error; silent when that is not a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
}

/// Runs all rounds of a case, the subjects in turn, and sums them up.
pub(super) fn measure(plan: &Plan, progress: &Progress) -> Result<Vec<Measured>, BenchError> {
    let rounds = plan.rounds;
    let entries = entries(plan);
    let mut results: Vec<Vec<Round>> = entries.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        // A B, B A, A B …: what drifts with time, or follows from who went before, evens out.
        let mut order: Vec<usize> = (0..entries.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let Entry { name, subject, plan } = &entries[index];
            progress.show(plan.case, name, round, rounds);
            let result = run_round(*subject, plan).map_err(|source| BenchError::Round {
                subject: Arc::clone(name),
                case: plan.case.to_string(),
                round: round + 1,
                source: Box::new(source),
            })?;
            results[index].push(result);
            progress.advance();
        }
    }
    let sum_up = |((entry, rounds), letter): ((&Entry, &Vec<Round>), char)| {
        let letter = entry.name.ends_with(']').then_some(letter);
        Measured { letter, ..Record::sum_up(&entry.plan, &entry.name, rounds) }
    };
    Ok(entries.iter().zip(&results).zip('a'..).map(sum_up).collect())
}

/// Who takes turns in a case; the one whose ratios to the others are shown comes last.
fn entries(plan: &Plan) -> Vec<Entry> {
    let of = |name: &str, subject, plan: Plan| {
        let case = Case { beside: Beside::Floors, ..plan.case };
        Entry { name: name.into(), subject, plan: Arc::new(Plan { case, ..plan }) }
    };
    let with = |name, subject, case| of(name, subject, Plan { case, ..plan.clone() });
    let case = plan.case;
    let ring = |case| with("ringwire", &Ring, case);
    match (case.scenario, case.beside) {
        (scenario, Beside::Variants) => {
            let is_mixed = scenario == Scenario::Mixed;
            let bulk = if is_mixed { Bulk::Express } else { case.bulk };
            let alike = Plan { case: Case { bulk, ..case }, ..plan.clone() };
            let other = |variant: &Variant| {
                of(&format!("ringwire[{}]", variant.text), &Ring, alike.with(variant))
            };
            let others = plan.variants.iter().map(other);
            others.chain([ring(alike.case)]).collect()
        }
        (_, Beside::Fewer(connections)) => vec![ring(Case { connections, ..case }), ring(case)],
        (_, Beside::BestEffort) => {
            let best_effort = Case { delivery: Delivery::BestEffort, ..case };
            vec![ring(best_effort), with("ringwire-reliable", &Ring, case)]
        }
        (Scenario::Failover | Scenario::Idle, _) => vec![ring(case)],
        (Scenario::Rtt | Scenario::FanIn, _) => {
            let mut entries = vec![with("socket", &Socket, case)];
            if case.has_silent() {
                entries.push(with(ALONE, &Alone, case));
            }
            entries.push(ring(case));
            entries
        }
        (Scenario::Paced, _) => {
            vec![with(clock::NAME, &Clock, case), with("socket", &Socket, case), ring(case)]
        }
        (Scenario::Stream, _) => {
            vec![with("socket", &Framing, case), with("raw", &Raw, case), ring(case)]
        }
        (Scenario::Mixed, _) => {
            let bulk = |bulk| Case { bulk, ..case };
            vec![
                with("ringwire-unloaded", &Ring, bulk(Bulk::Nothing)),
                with("socket", &Socket, bulk(Bulk::Beside)),
                with("ringwire-one-link", &Ring, bulk(Bulk::Beside)),
                with("ringwire-express", &Ring, bulk(Bulk::Express)),
            ]
        }
        // Twice as many as before, as far as the cores go.
        (Scenario::Cores, _) => std::iter::successors(Some(1), |count| Some(count * 2))
            .take_while(|&count| count <= case.reactors)
            .map(|reactors| ring(Case { reactors, ..case }))
            .collect(),
    }
}

/// Runs one round on a thread of its own, so that a subject that hangs cannot hang the bench:
/// the thread is left behind and ends with the process.
fn run_round(subject: &'static dyn Subject, plan: &Arc<Plan>) -> Result<Round, SubjectError> {
    let (sender, receiver) = bounded(1);
    let time_max = round_time_max(plan);
    let plan = Arc::clone(plan);
    let client = thread::Builder::new()
        .name("client".into())
        .spawn(move || {
            pin(plan.cores.client);
            // Nobody listens any more only when the bench has given up on this round.
            let _ = sender.send(subject.round(&plan));
        })
        .map_err(|source| SubjectError::Io { what: "start a thread", source })?;
    let result = match receiver.recv_timeout(time_max) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => return Err(SubjectError::TooLong(time_max)),
        Err(RecvTimeoutError::Disconnected) => Err(SubjectError::Panicked),
    };
    client.join().map_err(|_| SubjectError::Panicked)?;
    result
}

/// Three times what a round should take, time for its connections, and for several single waits to
/// fail first.
fn round_time_max(plan: &Plan) -> Duration {
    if plan.case.scenario == Scenario::Failover {
        return FAILOVER_TIME_MAX;
    }
    let connections = u32::try_from(plan.case.connections).unwrap_or(u32::MAX);
    (plan.duration + plan.warm_up()) * 3 + WAIT_MAX * 3 + CONNECT_TIME_MAX * connections
}

/// Pins the calling thread to a core. Failure costs precision, not correctness: it is logged.
pub(crate) fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "cannot pin a thread; figures will be noisier");
    }
}

/// Picks a core for each end: two that are no hyper-threads of each other where there are, and not
/// the first one, which serves most interrupts, where there are plenty.
pub(crate) fn choose_cores() -> Result<Cores, BenchError> {
    let allowed = allowed_cores().map_err(BenchError::Cores)?;
    Ok(pick(&allowed, siblings_of))
}

/// The cores this process may run on, in order: those of its first thread, which is not pinned.
pub(super) fn allowed_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Some(getpid()))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

fn pick(allowed: &[usize], siblings_of: impl Fn(usize) -> Vec<usize>) -> Cores {
    let candidates = if allowed.len() > 4 { &allowed[1..] } else { allowed };
    let server = candidates.first().copied().unwrap_or(0);
    let siblings = siblings_of(server);
    let others = || candidates.iter().copied().filter(|&core| core != server);
    let apart = others().find(|core| !siblings.contains(core));
    let client = apart.or_else(|| others().next()).unwrap_or(server);
    Cores { server, client, allowed: allowed.len() }
}

/// The hyper-threads of a core's physical core, itself among them.
fn siblings_of(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    let Ok(text) = std::fs::read_to_string(path) else {
        return Vec::new();
    };
    // "0,64" or "0-1".
    let numbers = |part: &str| -> Option<Vec<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?..=last.trim().parse().ok()?).collect())
    };
    text.split(',').filter_map(numbers).flatten().collect()
}

/// How many connections the hard limit of descriptors allows.
pub(super) fn connections_allowed() -> usize {
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    usize::try_from(most.saturating_sub(DESCRIPTORS_SPARE) / 2).unwrap_or(usize::MAX)
}

/// Raises the soft limit of descriptors when the connections need more.
pub(super) fn raise_descriptor_limit(connections: usize) -> Result<(), BenchError> {
    let needed = 2 * connections as u64 + DESCRIPTORS_SPARE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit { current: limit.maximum.map(|most| most.min(needed)), ..limit };
    let refused = limit.maximum.is_some_and(|most| most < needed)
        || setrlimit(Resource::Nofile, raised).is_err();
    if refused {
        let limit = limit.maximum.unwrap_or(u64::MAX);
        return Err(BenchError::Descriptors { connections, needed, limit });
    }
    Ok(())
}

impl SubjectError {
    /// For `map_err`: says what was tried.
    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

impl Progress {
    pub(super) fn new(suite: &Suite) -> Self {
        let rounds = |plan: &Plan| entries(plan).len() * plan.rounds;
        let total = suite.plans.iter().map(rounds).sum::<usize>() as u64;
        // No steady tick: its thread would wake up on a core that is being measured.
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {wide_msg}")
            .expect("the template is a constant and valid");
        bar.set_style(style);
        if !bar.is_hidden() {
            clear_when_interrupted(bar.clone());
        }
        Self { bar }
    }

    fn show(&self, case: Case, subject: &str, round: usize, rounds: usize) {
        self.bar.set_message(format!("{case}: {subject}, round {} of {rounds}", round + 1));
        // Otherwise the bar, which limits how often it draws, may still name the one before.
        self.bar.force_draw();
    }

    fn advance(&self) {
        self.bar.inc(1);
    }

    /// Runs `print` with the bar out of the way.
    pub(super) fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Lets Ctrl-C end the process as ever, but not before the bar is gone: the shell's prompt must not
/// stand behind half of it. The thread sleeps in read(2) meanwhile. Where that can not be set up,
/// the bar stays.
fn clear_when_interrupted(bar: ProgressBar) {
    let Ok((mut told, teller)) = UnixStream::pair() else { return };
    if pipe::register(SIGINT, teller).is_err() {
        return;
    }
    thread::spawn(move || {
        if told.read_exact(&mut [0]).is_ok() {
            bar.finish_and_clear();
            let _ = emulate_default_handler(SIGINT);
        }
    });
}

impl Drop for Progress {
    /// Also when a round failed: the error message must start on a clean line.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use ringwire::config::Idle;

    use super::super::plan::sample;
    use super::*;

    #[test]
    fn ends_avoid_hyper_threads_of_one_core() {
        let pairs = |core: usize| vec![core & !1, core | 1];
        let check = |allowed: &[usize], server, client| {
            let cores = Cores { server, client, allowed: allowed.len() };
            assert_eq!(pick(allowed, pairs), cores, "{allowed:?}");
        };
        check(&[0, 1, 2, 3], 0, 2);
        check(&[0, 1], 0, 1);
        check(&[5], 5, 5);
        check(&[0, 1, 2, 3, 4, 5], 1, 2);
        check(&[2, 7], 2, 7);
    }

    #[test]
    fn rounds_of_many_connections_may_take_longer() {
        let time_max =
            |count| round_time_max(&sample(Scenario::Rtt, Idle::Park, 64, count)).as_secs();
        assert_eq!([1, 1_000, 10_000].map(time_max), [30, 50, 230]);
    }

    #[test]
    fn panicking_subject_is_an_error() {
        struct Panics;
        impl Subject for Panics {
            fn round(&self, _: &Plan) -> Result<Round, SubjectError> {
                panic!("on purpose");
            }
        }
        let plan = Arc::new(sample(Scenario::Rtt, Idle::Park, 64, 1));
        let error = run_round(&Panics, &plan).expect_err("it panicked");
        assert!(matches!(error, SubjectError::Panicked), "{error}");
    }
}

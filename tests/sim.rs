//! Sessions in simulation: many seeds, each a run of a server and its clients over a network that
//! loses connections, in virtual time. What is promised is in `src/session/sim/mod.rs`.
//!
//! ```text
//! cargo test --release --test sim                                             10,000 seeds
//! SIM_SEED=4711 cargo test --release --test sim replay -- --nocapture         one seed, every step
//! SIM_SOAK_SECONDS=3600 cargo test --release --test sim soak -- --nocapture   as long as that
//! ```

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use ringwire::Nanos;
use ringwire::fuzzing::sim::{CLIENTS, Mutation, Options, Report, run, run_herd};

/// Debug builds are slow.
const SEEDS: u64 = if cfg!(debug_assertions) { 300 } else { 10_000 };
/// A fault of the code shows within so many seeds.
const SEEDS_PER_MUTATION: u64 = 1_000;

/// Runs of a thousand clients.
const HERDS: u64 = if cfg!(debug_assertions) { 3 } else { 20 };

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps what a panic of a simulation says, instead of printing it.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if thread::current().name() == Some("sim") {
                LAST_PANIC.with_borrow_mut(|last| *last = info.to_string());
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs one seed; says what went wrong.
fn attempt(seed: u64, options: Options) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, options)))
        .map_err(|_| LAST_PANIC.with_borrow(Clone::clone))
}

fn fail(seed: u64, why: &str) -> ! {
    panic!(
        "seed {seed}: {why}\nreplay it with\n    SIM_SEED={seed} cargo test --release --test sim \
         replay -- --nocapture"
    )
}

/// Runs seeds from `first` on all cores while `goes_on`. Returns what happened and how many.
fn run_all(first: u64, goes_on: impl Fn(u64) -> bool + Sync) -> (Report, u64) {
    quiet();
    let next = AtomicU64::new(first);
    let work = || {
        let mut total = Report::default();
        let mut count = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !goes_on(seed) {
                return Ok((total, count));
            }
            match attempt(seed, Options::default()) {
                Ok(report) => total.add(&report),
                Err(why) => {
                    // The others stop soon.
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                    return Err((seed, why));
                }
            }
            count += 1;
        }
    };
    let outcomes: Vec<_> = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().name("sim".into()).spawn_scoped(scope, work);
        let workers: Vec<_> = (0..cores()).map(|n| spawn(n).expect("a thread")).collect();
        workers.into_iter().map(|worker| worker.join().expect("panics are caught")).collect()
    });
    let mut total = Report::default();
    let mut count = 0;
    let mut failures = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok((report, seeds)) => {
                total.add(&report);
                count += seeds;
            }
            Err(failure) => failures.push(failure),
        }
    }
    if let Some((seed, why)) = failures.into_iter().min() {
        fail(seed, &why);
    }
    (total, count)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn promises_hold_for_every_seed() {
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let began = Nanos::now();
    let (mut total, count) = run_all(0, |seed| seed < seeds);
    let elapsed = Nanos::now().since(began);
    println!("{count} seeds in {elapsed:?}: {total:#?}");
    assert_eq!(count, seeds);
    // A simulation in which nothing happens proves nothing.
    for (name, count) in total.counts_mut() {
        assert!(*count > 0, "no {name} in {seeds} seeds");
    }
    for (index, &count) in total.drops.iter().enumerate() {
        let reason = ringwire::error::DropReason::ALL[index];
        assert!(count > 0, "nothing dropped for {reason:?} in {seeds} seeds");
    }
}

#[test]
fn same_seed_is_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, Options::default()), run(seed, Options::default()), "seed {seed}");
    }
}

#[test]
fn every_mutation_is_caught() {
    quiet();
    let check = |mutation: Mutation| {
        let options = Options { mutation: Some(mutation), ..Options::default() };
        // By a promise, which the simulation looks after: what else panics tells of nothing that
        // whoever uses a session would see. But a lane with a hole does not live to break one.
        let is_promise = |why: &String| match mutation {
            Mutation::ShortGap => why.contains("a lane has no holes"),
            _ => why.contains("src/session/sim/"),
        };
        let caught = (0..SEEDS_PER_MUTATION).find_map(|seed| {
            attempt(seed, options).err().filter(is_promise).map(|why| (seed, why))
        });
        match &caught {
            Some((seed, why)) => println!("{mutation:?}: seed {seed}: {why}"),
            None => println!("{mutation:?}: not within {SEEDS_PER_MUTATION} seeds"),
        }
        caught.is_some()
    };
    let next = AtomicUsize::new(0);
    let next_one = || Mutation::ALL.get(next.fetch_add(1, Ordering::Relaxed)).copied();
    let work = || -> Vec<Mutation> {
        std::iter::from_fn(next_one).filter(|&mutation| !check(mutation)).collect()
    };
    let missed: Vec<Mutation> = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().name("sim".into()).spawn_scoped(scope, work);
        let workers: Vec<_> = (0..cores()).map(|n| spawn(n).expect("a thread")).collect();
        workers.into_iter().flat_map(|it| it.join().expect("panics are caught")).collect()
    });
    assert_eq!(missed, [], "not caught");
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn thousand_clients_that_lose_their_server_are_no_herd() {
    for seed in 0..HERDS {
        let herd = run_herd(seed, None);
        assert!(herd.refused > 2 * CLIENTS as u64, "the server was away: {herd:?}");
    }
    let herd = run_herd(0, None);
    println!("{herd:#?}");
    // In step, they would be one.
    quiet();
    let worker = thread::Builder::new().name("sim".into());
    let worker = worker.spawn(|| run_herd(0, Some(Mutation::NoBackoff))).expect("a thread");
    assert!(worker.join().is_err(), "without a backoff they are");
}

/// Replays `SIM_SEED` with a trace; see the top of the file.
#[test]
fn replay() {
    if let Some(seed) = number("SIM_SEED") {
        let report = run(seed, Options { trace: true, ..Options::default() });
        println!("{report:#?}");
    }
}

/// Runs for `SIM_SOAK_SECONDS`, from `SIM_FIRST_SEED` (default 1,000,000) on.
#[test]
fn soak() {
    let Some(seconds) = number("SIM_SOAK_SECONDS") else { return };
    let first = number("SIM_FIRST_SEED").unwrap_or(1_000_000);
    let until = Nanos::now() + std::time::Duration::from_secs(seconds);
    let (total, count) = run_all(first, |seed| seed < u64::MAX / 2 && Nanos::now() < until);
    println!("{count} seeds in {seconds} s: {total:#?}");
}

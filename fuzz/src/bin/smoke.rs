//! Runs every fuzz target on mutated inputs for some seconds: what CI runs.
//!
//! Needs neither a C++ compiler nor a nightly toolchain, and knows nothing of coverage: it finds
//! what a few million damaged inputs find, and keeps the targets from rotting. For a real hunt use
//! the `libfuzzer` feature (README.md).
//!
//! ```text
//! smoke [SECONDS per target, default 3] [SEED] [TARGET]
//! ```
//!
//! A failure prints the target, the seed of the input and the input; the same seed repeats it.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

use ringwire::fuzzing::{TARGETS, Target};

const INPUT_BYTES_MAX: usize = 8192;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(3.0), |text| text.parse::<f64>());
    let seed = arguments.next().map(|text| text.parse::<u64>()).transpose();
    let (Ok(seconds), Ok(seed)) = (seconds, seed) else {
        eprintln!("usage: smoke [SECONDS] [SEED] [TARGET]");
        return ExitCode::from(2);
    };
    let only = arguments.next();
    let chosen = TARGETS.iter().filter(|it| only.as_deref().is_none_or(|name| name == it.name));
    let chosen: Vec<&Target> = chosen.collect();
    if chosen.is_empty() {
        eprintln!("no target of this name");
        return ExitCode::from(2);
    }
    if run_all(&chosen, seed, Duration::from_secs_f64(seconds)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// One target at a time on each core. Whether none failed; after one has, no other is begun.
fn run_all(chosen: &[&Target], seed: Option<u64>, duration: Duration) -> bool {
    let cores = available_parallelism().map_or(1, NonZero::get);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !failed.load(Ordering::Relaxed)
            && let Some(target) = chosen.get(next.fetch_add(1, Ordering::Relaxed))
        {
            // With a seed given, that one input comes first; without, every run explores elsewhere.
            let first = seed.unwrap_or_else(|| fastrand::u64(..));
            if !run(target, first, duration) {
                failed.store(true, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..cores.min(chosen.len()) {
            scope.spawn(work);
        }
    });
    !failed.load(Ordering::Relaxed)
}

/// Inputs with the seeds `first`, `first + 1`, … until the time is over or one fails.
fn run(target: &Target, first: u64, duration: Duration) -> bool {
    let corpus = (target.corpus)();
    assert!(!corpus.is_empty(), "mutation needs something to start from");
    for input in &corpus {
        (target.run)(input);
    }
    let start = Instant::now();
    let mut inputs = 0;
    while start.elapsed() < duration {
        for _ in 0..256 {
            let seed = first.wrapping_add(inputs);
            let input = mutate(&corpus, seed);
            if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
                eprintln!("{} failed: smoke 0.001 {seed} {}", target.name, target.name);
                eprintln!("input: {}", input.escape_ascii());
                return false;
            }
            inputs += 1;
        }
    }
    println!("{}: {inputs} inputs from seed {first}, no failure", target.name);
    true
}

/// One input, determined by its seed alone.
fn mutate(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(1..=6) {
        let at = rng.usize(..=input.len());
        match rng.u8(..8) {
            0 => input.truncate(at),
            1 => input.insert(at, rng.u8(..)),
            2 => {
                let other = &corpus[rng.usize(..corpus.len())];
                let from = rng.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            3 => {
                let end = (at + rng.usize(..16)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let end = (at + rng.usize(..64)).min(input.len());
                let copy = input[at..end].to_vec();
                input.extend_from_slice(&copy);
            }
            // Numbers that sit at boundaries, over whatever field is there.
            5 => {
                const VALUES: [u32; 8] =
                    [0, 1, 0x7f, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, u32::MAX];
                let bytes = VALUES[rng.usize(..VALUES.len())].to_le_bytes();
                for (target, byte) in input[at..].iter_mut().zip(bytes) {
                    *target = byte;
                }
            }
            6 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << rng.u8(..8);
                }
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = rng.u8(..);
                }
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

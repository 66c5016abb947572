//! How many instructions each layer takes per message: what repeats on a noisy machine.
//!
//! Counts nothing itself. `scripts/instructions.sh` runs it under callgrind, each case with two
//! numbers of calls: the difference is that of the calls alone. It builds it as a program of the
//! package `fuzz/`, which compiles less. Run by `cargo bench`, it does every case once, so that it
//! cannot rot where there is no valgrind.
//!
//! ```text
//! instructions --list            a line for each case: its name, and how often a call does it
//! instructions --case NAME N     prepares the case and calls it N times
//! ```
//!
//! Not measured: caches, branches, waiting. Fewer instructions are not always faster.

use std::hint::black_box;
use std::process::ExitCode;

use ringwire::fuzzing::bench::CASES;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--list"] => {
            for case in CASES {
                println!("{} {}", case.name, case.elements);
            }
            ExitCode::SUCCESS
        }
        ["--case", name, calls] => call(name, calls),
        // What cargo passes.
        _ => {
            for case in CASES {
                black_box((case.prepare)()());
                println!("{}: ok", case.name);
            }
            ExitCode::SUCCESS
        }
    }
}

fn call(name: &str, calls: &str) -> ExitCode {
    let case = CASES.iter().find(|case| case.name == name);
    let (Some(case), Ok(calls)) = (case, calls.parse::<u64>()) else {
        eprintln!("no case {name}, or no number of calls: {calls}");
        return ExitCode::from(2);
    };
    let mut run = (case.prepare)();
    for _ in 0..calls {
        black_box(run());
    }
    ExitCode::SUCCESS
}

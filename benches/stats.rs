//! Cost of statistics in the CPU: what a message pays for being counted and measured.
//!
//! Answers: what do counters, histograms, the session's row and the block's sequence cost together,
//! in a turn with a single message in and out (the dearest way: everything that is paid once a turn
//! falls on it), and in a turn of 64? And what is one value in a histogram? The goal is 20 ns a
//! message. Everything is in cache; `clock` is the one reading of the clock that a turn takes for
//! them, after its sends.
//!
//! `turn/handlers` is a server's, `turn/answers` that of a client that asks. Both do what `Core`
//! does, by the same functions; what they are called with is made up.

#![expect(missing_docs, reason = "criterion_group! writes an undocumented function")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwire::Nanos;
use ringwire::reactor::BenchTurns;

fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("stats/turn");
    for (name, answers) in [("handlers", false), ("answers", true)] {
        for messages in [1, 64] {
            let mut turns = BenchTurns::new();
            turns.turn(messages, answers);
            assert_eq!(turns.answered(), messages);
            group.throughput(Throughput::Elements(messages));
            group.bench_function(BenchmarkId::new(name, messages), |b| {
                b.iter(|| black_box(&mut turns).turn(black_box(messages), answers))
            });
        }
    }
    group.finish();
}

fn clock(c: &mut Criterion) {
    c.bench_function("stats/clock", |b| b.iter(Nanos::now));
}

criterion_group!(benches, turns, clock);
criterion_main!(benches);

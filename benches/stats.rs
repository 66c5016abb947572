//! Cost of statistics in the CPU: what a message pays for being counted and measured.
//!
//! Answers: what do counters, histograms, the session's row and the block's sequence cost together,
//! in a turn with a single message in and out (the dearest way: everything that is paid once a turn
//! falls on it), and in a turn of 64? The goal is 20 ns a message. Everything is in cache.
//!
//! A turn with messages takes one reading of the clock for them besides, after its sends.
//! `handlers` and `answers` are without it: these are the figures that README.md and
//! ARCHITECTURE.md quote. `handlers-read` and `answers-read` are with it, what a turn of a reactor
//! that spins pays: it reads the clock again at its next look. One that parks has the reading for
//! its waits, too. `clock` is a reading alone.
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
    let kinds = [("handlers", false), ("answers", true)];
    let kinds = kinds.map(|(name, answers)| [(name, answers, false), (name, answers, true)]);
    for (name, answers, reads) in kinds.into_iter().flatten() {
        let name = if reads { format!("{name}-read") } else { name.to_owned() };
        for messages in [1, 64] {
            let mut turns = BenchTurns::new();
            turns.turn(messages, answers);
            assert_eq!(turns.answered(), messages);
            group.throughput(Throughput::Elements(messages));
            group.bench_function(BenchmarkId::new(&name, messages), |b| {
                b.iter(|| {
                    black_box(&mut turns).turn(black_box(messages), answers);
                    reads.then(Nanos::now)
                })
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

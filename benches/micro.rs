//! Cost of each layer per message, in nanoseconds: checksums, lanes, the timer heap, counters, the
//! command queue, and a whole session without the kernel.
//!
//! Answers: what does one message cost before the kernel sees it, and where? The codec has a bench
//! of its own (`wire`). Everything is in cache and predicted: costs, not latencies. Times vary with
//! the machine; `benches/instructions.rs` counts what does not. Not measured: the ring, sockets,
//! waking up (`ringwire bench` does).
//!
//! A case that does many things at once says so in its throughput.

#![expect(missing_docs, reason = "criterion_group! writes an undocumented function")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringwire::fuzzing::bench::CASES;

/// Measured by `benches/wire.rs`.
const CODEC: &str = "wire/";

fn layers(c: &mut Criterion) {
    for case in CASES.iter().filter(|case| !case.name.starts_with(CODEC)) {
        let (layer, what) = case.name.split_once('/').expect("layer/what/size");
        let mut run = (case.prepare)();
        let mut group = c.benchmark_group(layer);
        group.throughput(Throughput::Elements(case.elements));
        group.bench_function(what, |b| b.iter(&mut run));
        group.finish();
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);

//! What a tap costs the reactor: a stream of 64-byte messages between two reactors in one thread,
//! without a tap, with one that is read, and with one that is full.
//!
//! Not here: what the recorder's own thread costs, and the branch of a reactor without a tap, which
//! is below what this can tell (`ringwire bench stream` of two builds, side by side).

#![expect(missing_docs, reason = "criterion_group! writes an undocumented function")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwire::{
    Config, ConnectionId, Endpoint, Envelope, Idle, Kind, Reactor, Tap, TapFilter, Wait,
};

const MESSAGES: u64 = 1_000;

/// Two reactors that are connected.
struct Pair {
    sender: Reactor,
    receiver: Reactor,
    connection: ConnectionId,
}

impl Pair {
    fn new() -> Self {
        let config = Config::builder()
            .registry(false)
            .idle(Idle::Park)
            .connections_max(4)
            .build()
            .expect("valid");
        let mut receiver = Reactor::new(&config).expect("a ring");
        receiver.on(Kind::Data, |_, frame| {
            black_box(frame.payload());
        });
        let endpoint: Endpoint = "127.0.0.1:0".parse().expect("well formed");
        let address = receiver.listen(&endpoint).expect("a free port");
        let mut sender = Reactor::new(&config).expect("a ring");
        let connection = sender.dial(&address).expect("a socket");
        while !sender.connection(connection).is_some_and(|info| info.is_established) {
            sender.turn(Wait::Poll).expect("the ring works");
            receiver.turn(Wait::Poll).expect("the ring works");
        }
        Self { sender, receiver, connection }
    }

    fn stream(&mut self) {
        let goal = self.receiver.statistics().messages_received + MESSAGES;
        for _ in 0..MESSAGES {
            self.sender.send(self.connection, Envelope::data(), &[7; 64]).expect("room");
        }
        while self.receiver.statistics().messages_received < goal {
            self.sender.turn(Wait::Poll).expect("the ring works");
            self.receiver.turn(Wait::Poll).expect("the ring works");
        }
    }
}

fn tap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reactor/tap");
    group.throughput(Throughput::Elements(MESSAGES)).measurement_time(Duration::from_secs(3));
    let mut pair = Pair::new();
    group.bench_function(BenchmarkId::new("none", 64), |bencher| {
        bencher.iter(|| pair.stream());
    });
    let (tap, frames) = Tap::new(TapFilter::received());
    pair.receiver.set_tap(&tap).expect("memory");
    // Once it is full, a frame is counted and that is all.
    group.bench_function(BenchmarkId::new("full", 64), |bencher| {
        bencher.iter(|| pair.stream());
    });
    drop(frames);
    let (tap, mut frames) = Tap::new(TapFilter::received());
    pair.receiver.set_tap(&tap).expect("memory");
    group.bench_function(BenchmarkId::new("read", 64), |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let start = ringwire::Nanos::now();
                pair.stream();
                took += ringwire::Nanos::now().since(start);
                // On another thread in earnest: not part of what the reactor pays.
                while frames.receive(Duration::ZERO).is_ok() {}
            }
            took
        });
    });
    assert_eq!(frames.frames_lost(), 0, "it was read in time");
    group.finish();
}

criterion_group!(benches, tap);
criterion_main!(benches);

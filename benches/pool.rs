//! Cost of a message through a pool, beside the same message to one session.
//!
//! Answers: what does choosing among 8 members add to queueing a message, by key, and for the least
//! queued one when no lane is empty, so that all 8 are looked at? Real sessions with a server of
//! this process; what is timed is the queueing alone, 512 messages between two flushes. Nothing is
//! said of the kernel's part, which is the same.

#![expect(missing_docs, reason = "criterion_group! writes an undocumented function")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringwire::{
    Choice, Config, ConnectionId, Envelope, Idle, Kind, Nanos, PoolConfig, PoolId, Reactor, Server,
    Wait,
};

const MEMBERS: u32 = 8;
/// Messages queued between two flushes: 64 in each of 8 lanes.
const BATCH: u64 = 512;
const PATIENCE: Duration = Duration::from_secs(10);

struct Bed {
    reactor: Reactor,
    pool: PoolId,
    one: ConnectionId,
    _server: Server,
}

impl Bed {
    fn new() -> Self {
        let config = Config::builder().registry(false).idle(Idle::Park).build().expect("valid");
        let server = Server::builder()
            .config(config.clone())
            .listen("127.0.0.1:0")
            .on(Kind::Data, |_, _| {})
            .start()
            .expect("a free port");
        let mut reactor = Reactor::new(&config).expect("a ring");
        let plan = PoolConfig::builder(server.addresses()[0].to_string()).members_min(MEMBERS);
        let pool = reactor.pool(&plan.build().expect("valid")).expect("room");
        reactor.pool_wait_ready(pool, PATIENCE).expect("the server listens");
        let one = reactor.pool_members(pool)[0].id;
        Self { reactor, pool, one, _server: server }
    }

    /// Until every lane is empty again.
    fn flush(&mut self) {
        let deadline = Nanos::now() + PATIENCE;
        while self.reactor.pool_statistics(self.pool).expect("it is open").frames_queued > 0 {
            assert!(Nanos::now() < deadline, "the server reads");
            let limit = Nanos::now() + Duration::from_millis(1);
            self.reactor.turn(Wait::Until(limit)).expect("a working ring");
        }
    }

    /// Queues `count` messages in batches; the time of that alone.
    fn time(&mut self, count: u64, mut send: impl FnMut(&mut Self, u64)) -> Duration {
        let mut total = Duration::ZERO;
        let mut sent = 0;
        while sent < count {
            let end = count.min(sent + BATCH);
            let start = Nanos::now();
            for number in sent..end {
                send(self, number);
            }
            total += Nanos::now().since(start);
            sent = end;
            self.flush();
        }
        total
    }
}

fn queueing(c: &mut Criterion) {
    let mut bed = Bed::new();
    let body = [7_u8; 64];
    let mut group = c.benchmark_group("pool/send/64");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one session", |b| {
        b.iter_custom(|count| {
            bed.time(count, |bed, _| {
                bed.reactor.send(bed.one, Envelope::data(), &body).expect("room");
            })
        });
    });
    group.bench_function("least queued of 8", |b| {
        b.iter_custom(|count| {
            bed.time(count, |bed, _| {
                let choice = Choice::LeastQueued;
                bed.reactor.pool_send(bed.pool, choice, Envelope::data(), &body).expect("room");
            })
        });
    });
    group.bench_function("by key among 8", |b| {
        b.iter_custom(|count| {
            bed.time(count, |bed, number| {
                let choice = Choice::Key(number);
                bed.reactor.pool_send(bed.pool, choice, Envelope::data(), &body).expect("room");
            })
        });
    });
    group.finish();
}

criterion_group!(benches, queueing);
criterion_main!(benches);

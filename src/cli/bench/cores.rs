//! Round trips to a server of several reactors, from as many clients.
//!
//! Each reactor and each client is a thread pinned to a core; where there are too few cores, the
//! clients share those of the reactors. The kernel spreads the connections over the reactors, so
//! that some get more of them than others.

use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use hdrhistogram::Histogram;
use ringwire::Server;
use ringwire::stats::Statistics;
use ringwire::time::Nanos;

use super::harness::{SubjectError, WAIT_MAX, allowed_cores, pin};
use super::plan::Plan;
use super::ring::{GOODBYE_TIME, Many, calls_of, serve_on, silent};
use super::round::{Calls, Extra, Round, Stopwatch, latency_histogram};
use super::trips::Exchange;

/// What a client's thread says.
enum Said {
    /// Connected, answers checked, warm.
    Ready(Statistics),
    /// The timed part is over.
    Done { latency: Histogram<u64>, errors: u64, statistics: Statistics },
}

/// One client: where it runs and how many connections it has.
#[derive(Clone, Copy)]
struct Post {
    core: usize,
    connections: usize,
}

/// What becomes of each client.
type Outcome = Result<Said, SubjectError>;

pub(super) fn round(plan: &Plan) -> Result<Round, SubjectError> {
    let cores = allowed_cores().map_err(SubjectError::io("read the cores"))?;
    let count = plan.case.reactors;
    let server = serve_on(plan, &cores[..count])?;
    let posts: Vec<Post> = (0..count)
        .map(|index| Post {
            core: cores[(count + index) % cores.len()],
            connections: (plan.case.connections / count).max(1),
        })
        .collect();
    let round = thread::scope(|scope| {
        let (say, said) = bounded(2 * count);
        let starts: Vec<Sender<Nanos>> = posts
            .into_iter()
            .map(|post| {
                let (start, started) = bounded(1);
                let (say, server) = (say.clone(), &server);
                thread::Builder::new()
                    .name("client".into())
                    .spawn_scoped(scope, move || {
                        if let Err(error) = exchange(plan, post, server, &started, &say) {
                            // Nobody listens any more when another client failed before.
                            let _ = say.send(Err(error));
                        }
                    })
                    .map_err(SubjectError::io("start a thread"))?;
                Ok(start)
            })
            .collect::<Result<_, SubjectError>>()?;
        measure(plan, || calls_of(&server.statistics()), &starts, &said)
    })?;
    let _ = server.shutdown(GOODBYE_TIME);
    Ok(round)
}

/// A client's thread. Ends when nobody tells it to start.
fn exchange(
    plan: &Plan,
    post: Post,
    server: &Server,
    started: &Receiver<Nanos>,
    say: &Sender<Outcome>,
) -> Result<(), SubjectError> {
    pin(post.core);
    let end = Many::open_on(plan, server, post.core, post.connections)?;
    let mut exchange = Exchange::new(end, plan)?;
    exchange.run(Nanos::now() + plan.warm_up())?;
    exchange.take_latency();
    let _ = say.send(Ok(Said::Ready(exchange.statistics())));
    let Ok(until) = started.recv_timeout(3 * WAIT_MAX) else { return Ok(()) };
    let errors = exchange.run(until)?;
    let (latency, statistics) = (exchange.take_latency(), exchange.statistics());
    let _ = say.send(Ok(Said::Done { latency, errors, statistics }));
    exchange.close();
    Ok(())
}

/// Starts all clients at once when all are ready, and adds up what they say. `calls_of_server` are
/// those of its reactors so far: what they made for the warm-up counts no more than the clients'.
fn measure(
    plan: &Plan,
    calls_of_server: impl Fn() -> Calls,
    starts: &[Sender<Nanos>],
    said: &Receiver<Outcome>,
) -> Result<Round, SubjectError> {
    let hear = || {
        let heard = said.recv_timeout(plan.duration + 2 * WAIT_MAX);
        heard.map_err(|_| silent("clients"))?
    };
    let mut before = Calls::default();
    for _ in starts {
        if let Said::Ready(statistics) = hear()? {
            before = before.with(calls_of(&statistics));
        }
    }
    before = before.with(calls_of_server());
    let stopwatch = Stopwatch::start();
    let until = Nanos::now() + plan.duration;
    for start in starts {
        start.send(until).map_err(|_| silent("start the clients"))?;
    }
    let mut latency = latency_histogram();
    let (mut errors, mut after) = (0, Calls::default());
    for _ in starts {
        if let Said::Done { latency: one, errors: wrong, statistics } = hear()? {
            latency.add(one).expect("the same bounds");
            errors += wrong;
            after = after.with(calls_of(&statistics));
        }
    }
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    after = after.with(calls_of_server());
    Ok(Round {
        frames: 2.0 * latency.len() as f64,
        latency: Some(latency),
        elapsed_ns,
        cpu_ns,
        calls: Some(after.since(before)),
        errors,
        extra: Extra::default(),
    })
}

#[cfg(test)]
mod tests {
    use ringwire::config::Idle;

    use super::super::options::Scenario;
    use super::super::plan::sample;
    use super::*;

    #[test]
    fn calls_of_the_warm_up_do_not_count() {
        let plan = sample(Scenario::Cores, Idle::Park, 64, 1);
        let (start, started) = bounded(1);
        let (say, said) = bounded(2);
        let statistics = |enters| {
            let mut statistics = Statistics::default();
            statistics.enters = enters;
            statistics
        };
        say.send(Ok(Said::Ready(statistics(50)))).expect("room");
        let (latency, statistics) = (latency_histogram(), statistics(57));
        say.send(Ok(Said::Done { latency, errors: 0, statistics })).expect("room");
        // A hundred until the client has said that it is warm, ten more until it has ended.
        let calls_of_server = || {
            let enters = [110, 100, 0][said.len()];
            Calls { enters, direct: 0 }
        };
        let round = measure(&plan, calls_of_server, &[start], &said).expect("both are there");
        assert!(started.try_recv().is_ok(), "the client was told to start");
        assert_eq!(round.calls, Some(Calls { enters: 17, direct: 0 }));
    }
}

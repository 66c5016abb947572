//! Clients on a runtime: a task for each connection, and one for bulk beside requests, all on the
//! calling thread. That is how the users of such runtimes write it. In one task, many connections
//! would share what a runtime gives a task before it is another's turn: Tokio's budget of 128
//! operations (its `task::coop`), and then the last connections wait for all others.

use std::future::poll_fn;
use std::mem::replace;
use std::pin::Pin;
use std::task::Poll;

use ringwire::time::Nanos;
use tokio::sync::{mpsc, watch};

use crate::drive::{Client, Failure, Latency, Stopwatch, Trips, drive as drive_one};
use crate::job::{Job, Round, Scenario};
use crate::message::{MESSAGE_BYTES_MIN, Message, Seen};
use crate::process;

/// Bulk messages that wait for the task that sends them.
const QUEUE: usize = 4;

/// What a runtime is asked to run.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks of a runtime, on the thread that calls.
#[allow(async_fn_in_trait, reason = "used with concrete types only, on one thread")]
pub trait Tasks: Copy + 'static {
    fn spawn(self, task: Task) -> Result<(), Failure>;

    /// Lets the other tasks and the runtime's driver do what they can do now.
    async fn turn(self) -> Result<(), Failure>;
}

/// Carries out the round of `job` with what `connect` makes of the server's address. Bulk, where
/// there is any, is the client's own.
pub async fn drive<C: Client + 'static>(
    job: &Job,
    tasks: impl Tasks,
    connect: impl AsyncFn(&Job) -> Result<C, Failure>,
) -> Result<Round, Failure> {
    match job.case.scenario {
        Scenario::FanIn => fan_in(job, tasks, connect).await,
        _ => drive_one(job, connect).await,
    }
}

/// As [`drive`]; bulk goes from a task of its own, over what `connect_bulk` makes.
#[allow(dead_code, reason = "some of its users are features")]
pub async fn drive_beside<C: Client + 'static, B: Client + 'static, T: Tasks>(
    job: &Job,
    tasks: T,
    connect: impl AsyncFn(&Job) -> Result<C, Failure>,
    connect_bulk: impl AsyncFn(&Job) -> Result<B, Failure>,
) -> Result<Round, Failure> {
    if !job.case.bulk {
        return drive(job, tasks, connect).await;
    }
    let connect = async |job: &Job| -> Result<_, Failure> {
        let client = connect(job).await?;
        Beside::start(client, connect_bulk(job).await?, tasks)
    };
    drive_one(job, connect).await
}

/// Comes back when the calling task is polled again, which it asks for: for runtimes without such a
/// function of their own.
#[allow(dead_code, reason = "its users are features")]
pub async fn yield_now() {
    let mut is_back = false;
    let turn = poll_fn(|context| {
        if replace(&mut is_back, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    });
    turn.await;
}

/// One message in flight on each of many connections.
async fn fan_in<C: Client + 'static>(
    job: &Job,
    tasks: impl Tasks,
    connect: impl AsyncFn(&Job) -> Result<C, Failure>,
) -> Result<Round, Failure> {
    let resident = process::resident_bytes(job.server_pid)?;
    // One histogram for all: a thousand of them would not stay in the caches.
    let latency = Latency::default();
    let mut ends = Vec::with_capacity(job.case.connections);
    for _ in 0..job.case.connections {
        let mut client = connect(job).await?;
        let mut trips = Trips::new(job.case.payload_bytes, &latency);
        trips.check(&mut client).await?;
        ends.push((client, trips));
    }
    let added = process::resident_bytes(job.server_pid)?.saturating_sub(resident);

    let ends = Crowd::start(ends, tasks).await?.run(job.warm_up_ns).await?;
    latency.reset();
    let crowd = Crowd::start(ends, tasks).await?;
    let stopwatch = Stopwatch::start(job)?;
    let ends = crowd.run(job.duration_ns).await?;
    let errors = ends.iter().map(|(_, trips)| trips.errors).sum();
    let round = stopwatch.stop(2 * latency.count(), errors)?;
    Ok(Round {
        histogram_v2: Some(latency.encode()),
        resident_bytes_per_connection: Some(added as f64 / job.case.connections as f64),
        ..round
    })
}

/// All connections, each in a task that waits to be told until when it runs: making ten thousand
/// tasks is no part of what is timed.
struct Crowd<C> {
    count: usize,
    /// Opens for all at once.
    gate: watch::Sender<Option<Nanos>>,
    finished: mpsc::Receiver<Result<(C, Trips), Failure>>,
}

impl<C: Client + 'static> Crowd<C> {
    /// Comes back when every task stands at the gate.
    async fn start(ends: Vec<(C, Trips)>, tasks: impl Tasks) -> Result<Self, Failure> {
        let count = ends.len();
        let (gate, opened) = watch::channel(None);
        let (done, finished) = mpsc::channel(count);
        let (there, mut arrived) = mpsc::channel(count);
        for (mut client, mut trips) in ends {
            let (done, there, mut opened) = (done.clone(), there.clone(), opened.clone());
            tasks.spawn(Box::pin(async move {
                let _ = there.try_send(());
                drop(there);
                let until = opened.wait_for(Option::is_some).await.map(|until| *until);
                let Ok(Some(until)) = until else { return };
                let result = trips.run(&mut client, until).await;
                // There is room for all. Nobody takes it any more when another has failed.
                let _ = done.try_send(result.map(|()| (client, trips)));
            }))?;
        }
        drop(there);
        let mut waiting = 0;
        while arrived.recv().await.is_some() {
            waiting += 1;
        }
        lost(count - waiting, count)?;
        Ok(Self { count, gate, finished })
    }

    /// Runs all for so long and gives them back, in any order.
    async fn run(mut self, duration_ns: u64) -> Result<Vec<(C, Trips)>, Failure> {
        self.gate.send_replace(Some(Nanos(Nanos::now().0 + duration_ns)));
        let mut ends = Vec::with_capacity(self.count);
        while let Some(end) = self.finished.recv().await {
            ends.push(end?);
        }
        lost(self.count - ends.len(), self.count)?;
        Ok(ends)
    }
}

/// Runtimes may swallow a panic, and the task with it.
fn lost(lost: usize, count: usize) -> Result<(), Failure> {
    if lost > 0 {
        return Err(format!("{lost} of {count} tasks ended without a word").into());
    }
    Ok(())
}

/// A client, and the way to the task that sends bulk beside it.
struct Beside<C, T> {
    client: C,
    tasks: T,
    errands: mpsc::Sender<Errand>,
    answers: mpsc::Receiver<Result<Seen, Failure>>,
}

enum Errand {
    /// So many bytes with this stamp. The task has a message of its own: who sends requests in time
    /// copies none.
    Carry {
        payload_bytes: usize,
        stamp: [u8; 8],
    },
    Ask,
}

impl<C: Client, T: Tasks> Beside<C, T> {
    fn start<B: Client + 'static>(client: C, mut bulk: B, tasks: T) -> Result<Self, Failure> {
        let (errands, mut queue) = mpsc::channel(QUEUE);
        let (answer, answers) = mpsc::channel(1);
        tasks.spawn(Box::pin(async move {
            let mut message = Message::new(MESSAGE_BYTES_MIN);
            while let Some(errand) = queue.recv().await {
                let said = match errand {
                    Errand::Carry { payload_bytes, stamp } => {
                        if message.payload().len() != payload_bytes {
                            message = Message::new(payload_bytes);
                        }
                        message.stamp_as(stamp);
                        bulk.bulk(&mut message).await.err().map(Err)
                    }
                    Errand::Ask => Some(bulk.ask_bulk().await),
                };
                let Some(said) = said else { continue };
                let is_failure = said.is_err();
                if answer.send(said).await.is_err() || is_failure {
                    return;
                }
            }
        }))?;
        Ok(Self { client, tasks, errands, answers })
    }

    async fn ask_for(&mut self, errand: Errand) -> Result<(), Failure> {
        if self.errands.send(errand).await.is_ok() {
            return Ok(());
        }
        match self.answers.try_recv() {
            Ok(Err(failure)) => Err(failure),
            _ => Err("the task for bulk has ended".into()),
        }
    }
}

impl<C: Client, T: Tasks> Client for Beside<C, T> {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        self.client.echo(message).await
    }

    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.client.send(message).await
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.client.ask().await
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        let payload_bytes = message.payload().len();
        self.ask_for(Errand::Carry { payload_bytes, stamp: message.stamped() }).await
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Errand::Ask).await?;
        self.answers.recv().await.ok_or("the task for bulk has ended")?
    }

    async fn idle_until(&mut self, until: Nanos) -> Result<(), Failure> {
        while Nanos::now() < until {
            self.tasks.turn().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::spawn;
    use tokio::time::timeout;

    use super::*;
    use crate::drive::now_or_never;
    use crate::subjects::tokio::{LocalTasks, runtime};

    /// Longest wait for what a test expects.
    const TIME_MAX: Duration = Duration::from_secs(20);

    /// What an end of a connection does.
    enum End {
        Echo(TcpStream),
        Fail(&'static str),
    }

    impl Client for End {
        async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
            let stream = match self {
                Self::Echo(stream) => stream,
                Self::Fail(reason) => return Err((*reason).into()),
            };
            stream.write_all(message.payload()).await?;
            let mut answer = vec![0; message.payload().len()];
            stream.read_exact(&mut answer).await?;
            Ok(answer == message.payload())
        }

        async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
            self.echo(message).await.map(drop)
        }

        async fn ask(&mut self) -> Result<Seen, Failure> {
            Ok(Seen::default())
        }

        async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
            self.send(message).await
        }

        async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
            self.ask().await
        }
    }

    /// Runs a test on a runtime, with an end.
    fn run<T>(test: impl Future<Output = T>) -> T {
        let bounded = async { timeout(TIME_MAX, test).await.expect("in time") };
        runtime().expect("a runtime").block_on(bounded)
    }

    /// Both ends are on the calling thread, a task each.
    async fn crowd(count: usize, latency: &Latency) -> Vec<(End, Trips)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let mut ends = Vec::new();
        for _ in 0..count {
            let address = listener.local_addr().expect("an address");
            let end = TcpStream::connect(address).await.expect("connects");
            let (mut stream, _) = listener.accept().await.expect("accepts");
            spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
            ends.push((End::Echo(end), Trips::new(64, latency)));
        }
        ends
    }

    async fn run_all(ends: Vec<(End, Trips)>, ns: u64) -> Result<Vec<(End, Trips)>, Failure> {
        Crowd::start(ends, LocalTasks).await?.run(ns).await
    }

    /// All stand at the gate before the clock starts: none has sent anything, and all do then.
    #[test]
    fn tasks_wait_until_they_are_told() {
        run(async {
            let latency = Latency::default();
            let crowd = Crowd::start(crowd(5, &latency).await, LocalTasks).await.expect("starts");
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(latency.count(), 0);
            let ends = crowd.run(20_000_000).await.expect("all answer");
            assert!(ends.iter().all(|(_, trips)| trips.sequence() > 0));
            assert_eq!(ends.len(), 5);
        });
    }

    /// In one task, the last of so many had a hundredth of the first.
    #[test]
    fn connections_take_turns() {
        run(async {
            let latency = Latency::default();
            let ends = crowd(300, &latency).await;
            let ends = run_all(ends, 200_000_000).await.expect("all answer");
            let counts: Vec<u64> = ends.iter().map(|(_, trips)| trips.sequence()).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(least.expect("300") * 2 > *most.expect("300"), "{least:?} to {most:?}");
            assert_eq!(counts.iter().sum::<u64>(), latency.count());
            assert_eq!(ends.iter().map(|(_, trips)| trips.errors).sum::<u64>(), 0);
        });
    }

    #[test]
    fn failure_of_one_connection_is_the_rounds() {
        run(async {
            let latency = Latency::default();
            let mut ends = crowd(3, &latency).await;
            ends.push((End::Fail("cut off"), Trips::new(64, &latency)));
            let failure = run_all(ends, 1_000_000).await.err().expect("one failed");
            assert_eq!(failure.to_string(), "cut off");
        });
    }

    #[test]
    fn lost_task_is_noticed() {
        /// Loses every task, as a runtime does that swallows its panic.
        #[derive(Clone, Copy)]
        struct Losing;
        impl Tasks for Losing {
            fn spawn(self, task: Task) -> Result<(), Failure> {
                drop(task);
                Ok(())
            }
            async fn turn(self) -> Result<(), Failure> {
                Ok(())
            }
        }
        run(async {
            let latency = Latency::default();
            let ends = crowd(2, &latency).await;
            let failure = Crowd::start(ends, Losing).await.err().expect("nothing ran");
            assert_eq!(failure.to_string(), "2 of 2 tasks ended without a word");
        });
    }

    #[test]
    fn bulk_goes_while_the_client_does_nothing() {
        run(async {
            let latency = Latency::default();
            let (bulk, _) = crowd(1, &latency).await.remove(0);
            let mut beside =
                Beside::start(End::Fail("unused"), bulk, LocalTasks).expect("has tasks");
            let mut message = Message::new(1 << 20);
            // More than the queue takes: some must have left.
            for _ in 0..3 * QUEUE {
                beside.bulk(&mut message).await.expect("is taken");
            }
            assert_eq!(beside.ask_bulk().await.expect("answers"), Seen::default());
            assert!(beside.echo(&mut message).await.is_err(), "that is the client's");
        });
    }

    #[test]
    fn failing_bulk_tells_why() {
        run(async {
            let mut beside = Beside::start(End::Fail("unused"), End::Fail("no route"), LocalTasks)
                .expect("has tasks");
            let mut message = Message::new(64);
            beside.bulk(&mut message).await.expect("is taken");
            let failure = beside.ask_bulk().await.expect_err("it has failed");
            assert_eq!(failure.to_string(), "no route");
            let failure = beside.bulk(&mut message).await.expect_err("there is no task");
            assert_eq!(failure.to_string(), "the task for bulk has ended");
        });
    }

    #[test]
    fn yielding_waits_for_one_more_poll() {
        let mut turn = std::pin::pin!(yield_now());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(turn.as_mut().poll(&mut context).is_pending());
        assert!(turn.as_mut().poll(&mut context).is_ready());
        assert!(std::panic::catch_unwind(|| now_or_never(yield_now())).is_err());
    }
}

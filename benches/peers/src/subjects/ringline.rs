//! ringline: thread-per-core io_uring with multishot receive and provided buffers, the same frames
//! as the floor.
//!
//! One worker an end, TCP_NODELAY on, which is its default; worker and accepting thread share the
//! end's core. Frames are cut in `with_data`; answers leave with `send_nowait`, which its
//! documentation calls the hot path; a stream awaits `send`, which is its backpressure. In fan-in
//! each connection has a task at both ends, and there are as many slots for short sends and for
//! tasks as connections; bulk goes from a task of its own over a connection of its own. Messages
//! longer than its slots of 16 KiB have slots of their length, of up to 256 KiB, and buffers of
//! 64 KiB to receive them; they are not gathered. SQPOLL it has an option for (`sqpoll`), which
//! 0.6.12 asks for together with COOP_TASKRUN: the kernel refuses both at once
//! (io_uring_setup(2): EINVAL).

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;

use ::ringline::{
    AsyncEventHandler, Config, ConfigBuilder, ConnCtx, ParseResult, RinglineBuilder, connect,
    request_shutdown,
};
use crossbeam_channel::{Sender, bounded};

use super::{Facts, Ready, Role, Subject};
use crate::drive::{Client, Failure};
use crate::frame::frame_into;
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Desk, Message, PREFIX_BYTES, Reply, Seen, Tag};
use crate::tasks::{self, Task, Tasks, yield_now};

/// Bytes gathered before they are sent.
const GATHER_BYTES: usize = 64 << 10;
/// Tasks and sends besides those of connections.
const SPARE: usize = 16;
/// Slots for sends that the library has by default.
const SENDS_DEFAULT: u16 = 1024;
/// Their length where there are more.
const SEND_BYTES: u32 = 4 << 10;
/// Messages from here on do not fit the slots there are by default.
const LONG_BYTES_MIN: usize = 16 << 10;
/// Slots for those, and their longest.
const LONG_SENDS: u16 = 256;
const LONG_SEND_BYTES_MAX: u32 = 256 << 10;

/// The job, for handlers, which the library makes by itself.
static JOB: OnceLock<Job> = OnceLock::new();
/// Where the client's round goes.
static RESULT: OnceLock<Sender<Result<Round, Failure>>> = OnceLock::new();

pub struct Ringline;

impl Subject for Ringline {
    fn facts(&self) -> Facts {
        let name = "ringline";
        Facts { name, idle: "park", transport: "tcp", package: name, role: Role::Peer }
    }

    fn lacks(&self, _: &Case) -> Option<&'static str> {
        None
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        JOB.set(job.clone()).map_err(|_| "one server a process")?;
        let builder = RinglineBuilder::new(config(&job.case)?).bind(([127, 0, 0, 1], 0).into());
        let (shutdown, workers) = builder.launch::<Server>()?;
        ready(Ready::at(shutdown.bound_addr().ok_or("no address")?))?;
        for worker in workers {
            worker.join().map_err(|_| "a worker panicked")??;
        }
        Ok(())
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        JOB.set(job.clone()).map_err(|_| "one client a process")?;
        let (sender, receiver) = bounded(1);
        RESULT.set(sender).map_err(|_| "one client a process")?;
        let (_shutdown, workers) = RinglineBuilder::new(config(&job.case)?).launch::<Driver>()?;
        for worker in workers {
            worker.join().map_err(|_| "a worker panicked")??;
        }
        receiver.try_recv().map_err(|_| "the client ended without a result")?
    }
}

fn config(case: &Case) -> Result<Config, Failure> {
    let mut builder = ConfigBuilder::new().workers(1).pin_to_core(false).backlog(4096);
    if case.scenario == Scenario::FanIn {
        // One send may be under way on each connection; the defaults are 1,024 of 16 KiB, and 256
        // tasks.
        let count = u16::try_from(case.connections + SPARE)?;
        builder = builder.standalone_task_capacity(count.into());
        if count > SENDS_DEFAULT {
            builder = builder.send_pool(count, SEND_BYTES);
        }
    } else if case.payload_bytes_max() >= LONG_BYTES_MIN {
        let framed = PREFIX_BYTES + case.payload_bytes_max();
        let slot = u32::try_from(framed.next_multiple_of(64))?.min(LONG_SEND_BYTES_MAX);
        builder = builder.send_pool(LONG_SENDS, slot).recv_buffer(256, 64 << 10);
    }
    Ok(builder.build()?)
}

fn job() -> &'static Job {
    JOB.get().expect("set before the library makes handlers")
}

/// Finds the first whole frame: its payload, or what a parser answers without one.
fn cut(data: &[u8]) -> Result<&[u8], ParseResult> {
    let Some(prefix) = data.first_chunk::<PREFIX_BYTES>() else {
        return Err(ParseResult::NeedMore);
    };
    let end = PREFIX_BYTES + u32::from_le_bytes(*prefix) as usize;
    data.get(PREFIX_BYTES..end).ok_or(ParseResult::NeedAtLeast(end.saturating_sub(data.len())))
}

struct Server;

impl AsyncEventHandler for Server {
    #[expect(clippy::manual_async_fn, reason = "the future must not borrow the handler")]
    fn on_accept(&self, conn: ConnCtx) -> impl Future<Output = ()> + 'static {
        async move {
            let mut desk = Desk::new(job().case.payload_bytes);
            let mut out = Vec::new();
            loop {
                let take = |data: &[u8]| answer(&mut desk, &mut out, data);
                if conn.with_data(take).await == 0 {
                    return;
                }
                if !out.is_empty() {
                    if let Err(error) = conn.send_nowait(&out) {
                        eprintln!("a connection ended: {error}");
                        return;
                    }
                    out.clear();
                }
            }
        }
    }

    fn create_for_worker(_: usize) -> Self {
        Self
    }
}

/// Answers all whole frames.
fn answer(desk: &mut Desk, out: &mut Vec<u8>, data: &[u8]) -> ParseResult {
    let mut taken = 0;
    loop {
        let payload = match cut(&data[taken..]) {
            Ok(payload) => payload,
            Err(more) if taken == 0 => return more,
            Err(_) => return ParseResult::Consumed(taken),
        };
        match desk.take(payload) {
            Reply::Nothing => {}
            Reply::Echo => frame_into(out, payload),
            Reply::Seen(bytes) => frame_into(out, &bytes),
        }
        taken += PREFIX_BYTES + payload.len();
    }
}

struct Driver;

impl AsyncEventHandler for Driver {
    fn on_accept(&self, _: ConnCtx) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }

    fn on_start(&self) -> Option<Pin<Box<dyn Future<Output = ()> + 'static>>> {
        Some(Box::pin(async {
            let round = tasks::drive_beside(job(), LocalTasks, open, open).await;
            if let Some(sender) = RESULT.get() {
                // The receiver waits until this worker has ended.
                let _ = sender.send(round);
            }
            let _ = request_shutdown();
        }))
    }

    fn create_for_worker(_: usize) -> Self {
        Self
    }
}

async fn open(job: &Job) -> Result<RinglineClient, Failure> {
    let conn = connect(job.address.parse()?)?.await?;
    Ok(RinglineClient { conn, out: Vec::new() })
}

#[derive(Clone, Copy)]
struct LocalTasks;

impl Tasks for LocalTasks {
    fn spawn(self, task: Task) -> Result<(), Failure> {
        ::ringline::spawn(task)?;
        Ok(())
    }

    async fn turn(self) -> Result<(), Failure> {
        // A task that wakes itself comes back in the loop's next round, after completions.
        yield_now().await;
        Ok(())
    }
}

struct RinglineClient {
    conn: ConnCtx,
    out: Vec<u8>,
}

impl RinglineClient {
    async fn receive<R>(&mut self, take: impl Fn(&[u8]) -> R) -> Result<R, Failure> {
        let mut taken = None;
        let take = |data: &[u8]| match cut(data) {
            Ok(payload) => {
                taken = Some(take(payload));
                ParseResult::Consumed(PREFIX_BYTES + payload.len())
            }
            Err(more) => more,
        };
        self.conn.with_data(take).await;
        taken.ok_or_else(|| "the server has closed the connection".into())
    }

    async fn ask_for(&mut self, tag: Tag) -> Result<Seen, Failure> {
        self.flush().await?;
        self.conn.send_nowait(Message::short(tag).framed())?;
        self.receive(Seen::from_bytes).await?.ok_or_else(|| "that is no answer".into())
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if !self.out.is_empty() {
            self.conn.send(&self.out)?.await?;
            self.out.clear();
        }
        Ok(())
    }
}

impl Client for RinglineClient {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        self.conn.send_nowait(message.framed())?;
        self.receive(|payload| payload == message.payload()).await
    }

    #[inline]
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        if message.framed().len() >= LONG_BYTES_MIN {
            self.conn.send(message.framed())?.await?;
            return Ok(());
        }
        self.out.extend_from_slice(message.framed());
        if self.out.len() >= GATHER_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::Ask).await
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.conn.send(message.framed())?.await?;
        Ok(())
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::AskBulk).await
    }
}

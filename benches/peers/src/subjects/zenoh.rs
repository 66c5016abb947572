//! Zenoh in peer mode, one link between two sessions.
//!
//! As its own latency examples (`z_ping`, `z_pong`): publishers with congestion control `Block` and
//! `express`, which bypasses batching, a callback that answers, a channel that receives. No
//! scouting, no gossip. The low-latency transport is on for short messages that are answered: it
//! needs QoS off, does not fragment and writes each message by itself, so that longer ones, bulk
//! and streams run with the default transport. A stream is not express, so that it is batched.
//! Long messages are shared memory, not copies. Its runtimes' threads share the end's core.

use std::time::Duration;

use ::zenoh::bytes::ZBytes;
use ::zenoh::handlers::FifoChannelHandler;
use ::zenoh::pubsub::{Publisher, Subscriber};
use ::zenoh::qos::{CongestionControl, Priority};
use ::zenoh::sample::Sample;
use ::zenoh::{Config, Session, Wait};
use ringwire::time::Nanos;

use super::{Facts, Ready, Role, Subject, free_port};
use crate::drive::{Client, Failure, drive, now_or_never};
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Desk, Message, Reply, Seen, Tag};
use crate::shared::Shared;

/// What the low-latency transport takes: less than a batch of 64 KiB with its headers.
const LOW_LATENCY_BYTES_MAX: usize = 60 << 10;
/// Longest wait for the other session to show, and for an answer.
const TIME_MAX: Duration = Duration::from_secs(5);

const PING: &str = "peers/ping";
const PONG: &str = "peers/pong";
const STREAM: &str = "peers/stream";
const SEEN: &str = "peers/seen";

pub struct Zenoh;

impl Subject for Zenoh {
    fn facts(&self) -> Facts {
        let name = "zenoh";
        Facts { name, idle: "park", transport: "tcp", package: name, role: Role::Peer }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        // A session is a node of the network, which its tasks share: there is nothing to fan in.
        (case.scenario == Scenario::FanIn).then_some("a process has one session, which is one link")
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let endpoint = format!("tcp/127.0.0.1:{}", free_port()?);
        let session = open(&job.case, "listen", &endpoint)?;
        let pong = publisher(&session, PONG, Express::Yes, Priority::RealTime)?;
        let seen = publisher(&session, SEEN, Express::Yes, Priority::Data)?;
        let echo = move |sample: Sample| {
            if let Err(error) = pong.put(sample.payload().clone()).wait() {
                eprintln!("a pong was not sent: {error}");
            }
        };
        session.declare_subscriber(PING).callback(echo).background().wait()?;
        let mut desk = Desk::new(job.case.payload_bytes);
        let stream = session.declare_subscriber(STREAM).wait()?;
        ready(Ready::at(endpoint))?;
        loop {
            let sample: Sample = stream.recv()?;
            if let Reply::Seen(bytes) = desk.take(&sample.payload().to_bytes()) {
                seen.put(ZBytes::from(&bytes[..])).wait()?;
            }
        }
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let session = open(&job.case, "connect", &job.address)?;
        let connect = async |job: &Job| -> Result<_, Failure> {
            let express =
                if job.case.scenario == Scenario::Stream { Express::No } else { Express::Yes };
            let bulk = if job.case.bulk { Priority::DataLow } else { Priority::Data };
            let client = ZenohClient {
                pong: session.declare_subscriber(PONG).wait()?,
                seen: session.declare_subscriber(SEEN).wait()?,
                ping: publisher(&session, PING, Express::Yes, Priority::RealTime)?,
                stream: publisher(&session, STREAM, express, bulk)?,
                shared: Shared::default(),
            };
            wait_for_match(&client.ping)?;
            wait_for_match(&client.stream)?;
            Ok(client)
        };
        now_or_never(drive(job, connect))
    }
}

/// Whether a publisher bypasses batching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Express {
    Yes,
    No,
}

fn open(case: &Case, role: &str, endpoint: &str) -> Result<Session, Failure> {
    let mut config = Config::default();
    let mut set = |key: &str, value: &str| config.insert_json5(key, value);
    set("mode", "\"peer\"")?;
    set(&format!("{role}/endpoints"), &format!("[\"{endpoint}\"]"))?;
    if role == "connect" {
        set("listen/endpoints", "[]")?;
    }
    set("scouting/multicast/enabled", "false")?;
    set("scouting/gossip/enabled", "false")?;
    if is_low_latency(case) {
        set("transport/unicast/qos/enabled", "false")?;
        set("transport/unicast/lowlatency", "true")?;
    }
    ::zenoh::open(config).wait()
}

/// Its transport for low latency takes short messages only, and writes each by itself: a stream is
/// batched by the other.
fn is_low_latency(case: &Case) -> bool {
    case.scenario != Scenario::Stream && case.payload_bytes_max() <= LOW_LATENCY_BYTES_MAX
}

fn publisher(
    session: &Session,
    key: &'static str,
    express: Express,
    priority: Priority,
) -> Result<Publisher<'static>, Failure> {
    session
        .declare_publisher(key)
        .congestion_control(CongestionControl::Block)
        .express(express == Express::Yes)
        .priority(priority)
        .wait()
}

/// Until the other session's subscriber is known here: what is put before is lost.
fn wait_for_match(publisher: &Publisher<'_>) -> Result<(), Failure> {
    let until = Nanos::now() + TIME_MAX;
    while !publisher.matching_status().wait()?.matching() {
        if Nanos::now() > until {
            return Err(format!("no subscriber after {TIME_MAX:?}").into());
        }
        std::thread::yield_now();
    }
    Ok(())
}

struct ZenohClient {
    ping: Publisher<'static>,
    pong: Subscriber<FifoChannelHandler<Sample>>,
    stream: Publisher<'static>,
    seen: Subscriber<FifoChannelHandler<Sample>>,
    shared: Shared,
}

impl ZenohClient {
    fn put_streamed(&mut self, message: &Message) -> Result<(), Failure> {
        self.stream.put(self.shared.bytes_of(message)).wait()
    }

    fn ask_for(&mut self, tag: Tag) -> Result<Seen, Failure> {
        self.put_streamed(&Message::short(tag))?;
        let answer = self.seen.recv_timeout(TIME_MAX)?.ok_or("no answer")?;
        Seen::from_bytes(&answer.payload().to_bytes()).ok_or_else(|| "that is no answer".into())
    }
}

impl Client for ZenohClient {
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        self.ping.put(self.shared.bytes_of(message)).wait()?;
        let answer = self.pong.recv()?;
        Ok(*answer.payload().to_bytes() == *message.payload())
    }

    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.put_streamed(message)
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::Ask)
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.put_streamed(message)
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::AskBulk)
    }
}

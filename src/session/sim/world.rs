//! A server and its clients over the simulated network: what the reactor does for sessions, event
//! by event.
//!
//! The rules are the reactor's: one block in flight per connection; a session leaves a connection
//! with the block that came back; a stand-in says hello for it; the server finds it by the id in
//! the hello. See `reactor/sessions.rs` and `reactor/transmit.rs`.

use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;

use crate::config::Overflow;
use crate::error::{CloseReason, SendError};
use crate::mem::{Pool, PoolLayout};
use crate::session::backoff::{Backoff, BackoffPolicy, Next};
use crate::session::block::Block;
use crate::session::heartbeat::{HeartbeatPolicy, Pace};
use crate::session::lane::{LaneLimits, SendMemory};
use crate::session::pair::{Half, Remains};
use crate::session::requests::Requests;
use crate::session::sim::network::Link;
use crate::session::sim::random::Random;
use crate::session::sim::truth::{Message, PAYLOAD_BYTES_MIN, Pairing, Truth, number_of, payload};
use crate::session::sim::{Options, RECEIVER_CHECKS_TTL, Report};
use crate::session::state::State;
use crate::session::{
    Correlation, Envelope, Expiry, HelloClaim, Identity, Input, Returned, Reunion, Role, Session,
    Source, Undelivered,
};
use crate::time::Nanos;
use crate::wire::acknowledgement::read_acknowledgement;
use crate::wire::handshake::{
    Features, GoodbyeReason, HANDSHAKE_BYTES_MAX, RejectReason, SessionId, read_greeting,
};
use crate::wire::payload::body_of_payload;
use crate::wire::{Checksum, Codec, Frame, Kind, Priority, Scratch};

/// One microsecond of virtual time.
const US: u64 = 1_000;
/// One millisecond of virtual time.
const MS: u64 = 1_000_000;
/// A run that takes more events than this makes no progress.
const EVENTS_MAX: u64 = 400_000;
/// Without faults everything is settled after this much virtual time.
const SETTLE_MAX: u64 = 300_000 * MS;

/// What is about to happen, in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A client's application opens a session.
    Begin {
        node: usize,
    },
    /// An application sends something.
    Traffic {
        seat: usize,
    },
    /// The reactor looks for a block to send.
    Transmit {
        conn: usize,
    },
    /// The socket takes some of the block in flight.
    Write {
        conn: usize,
    },
    /// Bytes come within the reach of a reader.
    Arrive {
        link: usize,
        side: usize,
        bytes: usize,
    },
    /// The reactor reads.
    Read {
        conn: usize,
    },
    /// A session's deadline.
    Timer {
        seat: usize,
    },
    /// A connection is lost somewhere on its way.
    Cut {
        link: usize,
    },
    /// An end learns that its connection is gone.
    Learn {
        conn: usize,
    },
    /// The kernel gives back the block of a connection that was closed.
    Returned {
        conn: usize,
    },
    /// The server accepts.
    Accept {
        link: usize,
    },
    HandshakeTimeout {
        conn: usize,
    },
    Dial {
        seat: usize,
    },
    /// A session has been away for too long.
    Linger {
        seat: usize,
    },
    /// A process dies, and starts again.
    Restart {
        node: usize,
    },
    /// The second connection of a session had time enough to come.
    Incomplete {
        conn: usize,
    },
    /// The time of a disconnect is over.
    Drained {
        conn: usize,
    },
    /// The time of a request may be over.
    Requests {
        node: usize,
    },
    /// A handler answers a request, which may have taken a while.
    Answer {
        seat: usize,
        ask: usize,
    },
    /// The next fault is chosen.
    Fault,
    /// An end that hears nothing has had time enough to notice.
    MustKnow {
        conn: usize,
    },
    /// A frame that was damaged has had time enough to be noticed.
    FrameTimeout {
        link: usize,
        side: usize,
    },
}

/// What a run is like.
#[derive(Debug)]
struct Climate {
    traffic_until: u64,
    /// Mean time between two bursts of messages of one session.
    pause: u64,
    burst: u64,
    latency: u64,
    jitter: u64,
    socket_bytes: usize,
    /// Mean time between faults; 0 for none.
    fault_every: u64,
    restart_percent: u64,
    /// Longest time until an end learns that its link is gone.
    blindness: u64,
    refuse_percent: u64,
    slow_percent: u64,
    /// Reads of one byte, of few, of all there is: in percent.
    tiny_percent: u64,
    piece_percent: u64,
    reliable_percent: u64,
    ttl_percent: u64,
    ttl: u64,
    key_percent: u64,
    /// Conflation keys in use.
    keys: u64,
    lanes: usize,
    large_percent: u64,
    linger: u64,
    handshake_timeout: u64,
    /// Heartbeats, when they are a part of this run, and with them silence.
    heartbeat: Option<HeartbeatPolicy>,
    /// Of the faults.
    silence_percent: u64,
    /// Of the blocks sent, in thousandths.
    damage_permille: u64,
    /// Last sequence of every lane of a new session.
    sequences: [u64; Priority::COUNT],
    /// Clients that use two connections, in percent.
    express_percent: u64,
    /// Of the messages.
    request_percent: u64,
}

/// A process: what its sessions share.
#[derive(Debug)]
struct Node {
    memory: SendMemory,
    layout: PoolLayout,
    identity: Identity,
    limits: LaneLimits,
    /// Connections; there may be as many sessions without one.
    places_max: usize,
    clock_offset: u64,
    clock_ppm: i64,
    /// The server's sessions by the id of the peer's end.
    by_peer: BTreeMap<SessionId, usize>,
    /// What it waits for, by the session's public seat.
    requests: Requests<usize, usize>,
    requests_max: u32,
    /// Whose turn it is to measure.
    pace: Pace,
    /// When they are looked at next.
    requests_at: u64,
    /// Its asks before this one are over.
    asks_from: usize,
}

/// A session and where it is.
#[derive(Debug)]
struct Seat {
    node: usize,
    session: Session,
    place: Place,
    backoff: Option<Backoff>,
    /// Its own sending, and what it receives.
    life: usize,
    pairing: Pairing,
    /// The session it is a part of, where that has two.
    pair: Option<(usize, Half)>,
    /// When to dial next.
    retry_at: u64,
    timer_at: u64,
    lost_at: u64,
    held: u64,
    attempted_at: u64,
    attempts: u32,
    /// Links lost and made.
    era: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here(usize),
    Away { until: u64, stand_in: Option<usize> },
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    /// Waits for its block to come back.
    Closing {
        survives: bool,
    },
    Gone,
}

#[derive(Debug)]
struct Flight {
    source: Source,
    block: Block,
    sent: usize,
    /// A bit of a byte of the buffer that changes on its way.
    damage: Option<(usize, u8)>,
}

impl Flight {
    fn into_returned(self) -> Returned {
        Returned { source: self.source, block: self.block, sent: self.sent }
    }
}

/// An end of a link.
#[derive(Debug)]
struct Conn {
    node: usize,
    link: usize,
    side: usize,
    seat: usize,
    stand_in: Option<Session>,
    phase: Phase,
    flight: Option<Flight>,
    window: Vec<u8>,
    is_dirty: bool,
    is_reading: bool,
    is_writing: bool,
    closes_when_sent: bool,
    /// The session that survives it is over when it leaves.
    is_given_up: bool,
    /// Messages that its end took with it.
    dropped: u64,
    undelivered: Vec<Undelivered>,
    established_at: Option<u64>,
    /// When bytes were last read, or waited to be.
    heard_at: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    random: Random,
    climate: Climate,
    backoff: BackoffPolicy,
    now: u64,
    order: u64,
    agenda: BinaryHeap<std::cmp::Reverse<(u64, u64, Happening)>>,
    nodes: Vec<Node>,
    seats: Vec<Seat>,
    conns: Vec<Conn>,
    links: Vec<Link>,
    pairs: Vec<Duo>,
    asks: Vec<Ask>,
    truth: Truth,
    report: Report,
    trace: bool,
}

/// Tells what happens, when somebody wants to know.
macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.trace {
            eprintln!("{:>12} us  {}", $world.now as f64 / 1e3, format_args!($($text)*));
        }
    };
}

/// A message's payload with a type number.
struct Numbered {
    codec: Codec,
    type_id: u32,
    payload: Bytes,
}

body_of_payload!(Numbered);

/// Intervals longer than any way, so that a beat is never late for it.
fn heartbeat_policy(r: &mut Random) -> HeartbeatPolicy {
    HeartbeatPolicy {
        interval_us: u32::try_from(r.between(40, 200)).expect("small") * 1000,
        misses: u32::try_from(r.between(3, 6)).expect("small"),
        // About as rarely as beats of idle ones: while a session lingers there is nothing else.
        measure_every: Duration::from_millis(r.pick(&[0, 0, 200, 500])),
    }
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        let mut random = Random::new(seed);
        let r = &mut random;
        let clients = if r.chance(80) { 1 } else { r.size(2, 5) };
        let is_calm = r.chance(10);
        let climate = Climate {
            traffic_until: r.scaled(5 * MS, 1_000 * MS),
            pause: r.scaled(20 * US, 5 * MS),
            burst: r.scaled(1, 16),
            latency: r.scaled(US, 20 * MS),
            jitter: r.scaled(US, 5 * MS),
            socket_bytes: r.size(1, 3).pow(2) * r.size(64, 16 << 10),
            fault_every: if is_calm { 0 } else { r.scaled(2 * MS, 500 * MS) },
            restart_percent: r.pick(&[0, 0, 5, 20]),
            blindness: r.scaled(10 * US, 1_000 * MS),
            refuse_percent: r.pick(&[0, 0, 10, 60]),
            slow_percent: r.pick(&[0, 1, 5]),
            tiny_percent: r.pick(&[0, 1, 20]),
            piece_percent: r.pick(&[0, 20, 80]),
            reliable_percent: r.pick(&[0, 30, 60, 100]),
            ttl_percent: r.pick(&[0, 0, 20, 60]),
            ttl: r.scaled(20 * US, 200 * MS),
            key_percent: r.pick(&[0, 0, 30]),
            keys: r.pick(&[3, 3, 100]),
            lanes: r.size(1, 5),
            large_percent: r.pick(&[0, 2, 20]),
            linger: r.scaled(20 * MS, 20_000 * MS),
            handshake_timeout: r.scaled(5 * MS, 500 * MS),
            heartbeat: r.chance(30).then(|| heartbeat_policy(r)),
            silence_percent: r.pick(&[10, 50]),
            damage_permille: r.pick(&[0, 0, 0, 1, 20]),
            sequences: std::array::from_fn(|_| match r.chance(60) {
                true => 0,
                // A few messages before the 32 bits of the wire are used up.
                false => (r.between(1, 4) << 32) - r.scaled(1, 300),
            }),
            express_percent: r.pick(&[0, 0, 50, 100]),
            request_percent: r.pick(&[2, 10, 50]),
        };
        let base = Duration::from_nanos(r.scaled(US * 100, 20 * MS));
        let backoff = BackoffPolicy {
            base,
            cap: base * 8,
            floor: base / 16,
            stable: Duration::from_nanos(r.scaled(MS, 200 * MS)),
            attempts_max: r.chance(5).then(|| std::num::NonZeroU32::new(4).expect("not zero")),
            give_up_after: None,
        };
        let heartbeat = climate.heartbeat;
        let nodes = (0..=clients).map(|index| Node::new(index, clients, heartbeat, r)).collect();
        let mut world = Self {
            random,
            climate,
            backoff,
            now: 0,
            order: 0,
            agenda: BinaryHeap::new(),
            nodes,
            seats: Vec::new(),
            conns: Vec::new(),
            links: Vec::new(),
            pairs: Vec::new(),
            asks: Vec::new(),
            truth: Truth::default(),
            report: Report::default(),
            trace: options.trace,
        };
        trace!(world, "seed {seed}: {:?}", world.climate);
        for node in 1..=clients {
            trace!(world, "node {node}: {:?}", world.nodes[node].limits);
            world.soon(MS, Happening::Begin { node });
        }
        if world.climate.fault_every > 0 {
            world.soon(world.climate.fault_every, Happening::Fault);
        }
        world
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Report {
        while let Some(std::cmp::Reverse((at, _, happening))) = self.agenda.pop() {
            assert!(at >= self.now, "time goes forward");
            self.now = at;
            self.report.events += 1;
            assert!(self.report.events < EVENTS_MAX, "no progress: {happening:?} again and again");
            let settled_by = self.climate.traffic_until + SETTLE_MAX;
            assert!(at < settled_by, "not settled after {SETTLE_MAX} ns: {happening:?}");
            self.step(happening);
            self.check_step();
            // Heartbeats never end.
            if self.climate.heartbeat.is_some() && self.is_quiet() {
                break;
            }
        }
        self.check_settled();
        self.shut_down();
        self.check_farewells();
        self.check_asks();
        self.report.messages = self.truth.messages.len() as u64;
        self.report.handled = self.truth.handled;
        self.report
    }

    fn step(&mut self, happening: Happening) {
        match happening {
            Happening::Begin { node } => self.begin(node),
            Happening::Traffic { seat } => self.on_traffic(seat),
            Happening::Transmit { conn } => self.transmit(conn),
            Happening::Write { conn } => self.write(conn),
            Happening::Arrive { link, side, bytes } => self.arrive(link, side, bytes),
            Happening::Read { conn } => self.read(conn),
            Happening::Timer { seat } => self.on_timer(seat),
            Happening::Cut { link } => self.cut(link),
            Happening::Learn { conn } => self.learn(conn),
            Happening::Returned { conn } => self.on_returned(conn),
            Happening::Accept { link } => self.accept(link),
            Happening::HandshakeTimeout { conn } => {
                if self.conns[conn].established_at.is_none() {
                    self.close(conn, CloseReason::HandshakeTimeout);
                }
            }
            Happening::Dial { seat } => self.dial(seat),
            Happening::Linger { seat } => self.on_linger(seat),
            Happening::Restart { node } => self.restart(node),
            Happening::Incomplete { conn } => self.on_incomplete(conn),
            Happening::Drained { conn } => self.on_drained(conn),
            Happening::Requests { node } => self.on_requests(node),
            Happening::Answer { seat, ask } => self.on_answer(seat, ask),
            Happening::Fault => self.fault(),
            Happening::MustKnow { conn } => self.must_know(conn),
            Happening::FrameTimeout { link, side } => self.on_frame_timeout(link, side),
        }
    }

    fn at(&mut self, at: u64, happening: Happening) {
        self.order += 1;
        self.agenda.push(std::cmp::Reverse((at.max(self.now), self.order, happening)));
    }

    /// Within `most`, mostly sooner.
    fn soon(&mut self, most: u64, happening: Happening) {
        let delay = self.random.scaled(1, most.max(2)) - 1;
        self.at(self.now + delay, happening);
    }

    fn is_over(&self) -> bool {
        self.now >= self.climate.traffic_until
    }

    /// What a node's clock shows.
    fn clock(&self, node: usize) -> Nanos {
        self.nodes[node].clock(self.now)
    }
}

impl Node {
    fn new(
        index: usize,
        clients: usize,
        heartbeat: Option<HeartbeatPolicy>,
        r: &mut Random,
    ) -> Self {
        let block_bytes = 16 * r.size(HANDSHAKE_BYTES_MAX / 16 + 1, 8192 / 16);
        let frame_bytes_max = 16 * r.size(HANDSHAKE_BYTES_MAX / 16, (16 << 10) / 16);
        let policies = [
            Overflow::Reject,
            Overflow::Reject,
            Overflow::DropOldest,
            Overflow::LatestValue,
            Overflow::Disconnect,
        ];
        let overflow = std::array::from_fn(|_| match r.chance(50) {
            true => Overflow::Reject,
            false => r.pick(&policies),
        });
        let frames_max = u32::try_from(r.scaled(1, 200)).expect("small");
        let limits = LaneLimits {
            frames_max,
            bytes_max: r.size(256, 64 << 10),
            frame_bytes_max,
            block_bytes,
            kept_bytes_max: r.size(1 << 10, 64 << 10),
            in_place_bytes_min: r.pick(&[64, 512, usize::MAX]),
            overflow,
        };
        let budget = r.size(16 << 10, 256 << 10);
        let places_max = if index == 0 { 8 * clients } else { 4 };
        let small = 4 * places_max + 2;
        let largest = frame_bytes_max.max(block_bytes);
        let layout = PoolLayout::shared(budget, 2 * HANDSHAKE_BYTES_MAX, largest);
        let layout = layout.with_reserve().with_small(HANDSHAKE_BYTES_MAX, small);
        let requests_max = u32::try_from(r.scaled(1, 64)).expect("small");
        let checksum = r.pick(&[Checksum::Commands, Checksum::Always, Checksum::Never]);
        Self {
            memory: SendMemory {
                pool: Pool::new(&layout).expect("little memory"),
                scratch: Scratch::new(),
            },
            layout,
            identity: Identity {
                dialer_features: Features::RESUME,
                listener_features: Features::RESUME,
                node_name: format!("node-{index}"),
                node_number: u32::try_from(index).expect("few"),
                schema_hash: 0,
                frame_bytes_max: u32::try_from(frame_bytes_max).expect("small"),
                checksum,
                // Without: one after the handshake, for the clocks; the simulation ends before
                // another.
                heartbeat: heartbeat.unwrap_or(HeartbeatPolicy {
                    interval_us: r.pick(&[0, u32::MAX]),
                    misses: 3,
                    measure_every: Duration::ZERO,
                }),
                clock_drift_ppm: 500,
                watches_max: 0,
            },
            limits,
            places_max,
            clock_offset: r.scaled(1, 1 << 50),
            clock_ppm: i64::try_from(r.between(0, 401)).expect("small") - 200,
            by_peer: BTreeMap::new(),
            requests: Requests::new(requests_max, r.next()),
            requests_max,
            pace: Pace::new(Duration::from_micros(r.pick(&[0, 1_000]))),
            requests_at: u64::MAX,
            asks_from: 0,
        }
    }

    fn clock(&self, now: u64) -> Nanos {
        let drift = i128::from(now) * i128::from(self.clock_ppm) / 1_000_000;
        let local = i128::from(now) + drift + i128::from(self.clock_offset);
        Nanos(u64::try_from(local).expect("far from both ends"))
    }

    /// When its clock shows `local`, or a little later.
    fn true_time(&self, local: Nanos) -> u64 {
        let elapsed = i128::from(local.0) - i128::from(self.clock_offset);
        let guess = elapsed * 1_000_000 / (1_000_000 + i128::from(self.clock_ppm));
        let mut at = u64::try_from(guess).unwrap_or(0);
        while self.clock(at) < local {
            at += 1;
        }
        at
    }
}

mod asks;
mod checks;
mod faults;
mod links;
mod pairs;
mod traffic;

use asks::{Ask, Purpose};
use pairs::Duo;

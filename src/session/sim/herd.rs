//! A thousand clients lose one server at the same instant: real sessions with their backoff,
//! against a listener that accepts so many a millisecond, in virtual time.
//!
//! [`run`] panics when they come as a herd: too many attempts in one slot after the first, too many
//! in all, or the last of them back too late; and when a session does not go on where it was, or
//! a message is not handled exactly once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::config::Overflow;
use crate::mem::{Pool, PoolLayout};
use crate::session::backoff::{Backoff, BackoffPolicy, Next};
use crate::session::heartbeat::{HeartbeatPolicy, Pace};
use crate::session::lane::{LaneLimits, SendMemory};
use crate::session::mutation::{Mutation, mutate};
use crate::session::sim::random::Random;
use crate::session::state::State;
use crate::session::{Correlation, Envelope, HelloClaim, Identity, Input, Reunion, Role, Session};
use crate::time::Nanos;
use crate::wire::handshake::{Features, HANDSHAKE_BYTES_MAX, SessionId};
use crate::wire::{Checksum, Frame, Priority, Scratch};

const MS: u64 = 1_000_000;
/// How many lose their server.
pub const CLIENTS: usize = 1_000;
/// More in one millisecond are refused, as by a full backlog.
const ACCEPTED_PER_MS: u32 = 2;
/// How long a refusal takes to arrive.
const REFUSAL: Duration = Duration::from_micros(200);
/// How long a handshake takes.
const HANDSHAKE: u64 = MS;
/// In step, every wave is the whole herd: 1,000 attempts in one slot of 10 ms.
const ATTEMPTS_PER_SLOT_MAX: u32 = 350;
/// 1,000 clients that each try twice a second on average make 20 in a slot.
const ATTEMPTS_ON_RETURN_MAX: u32 = 60;
/// Attempts of one client on average, for a server that is away for up to 3 s.
const ATTEMPTS_PER_CLIENT_MAX: u64 = 20;
/// Two or three of the longest delays.
const ALL_BACK_MAX: u64 = 3_000 * MS;

const LIMITS: LaneLimits = LaneLimits {
    frames_max: 16,
    bytes_max: 4096,
    frame_bytes_max: 4096,
    block_bytes: 2048,
    kept_bytes_max: 8192,
    in_place_bytes_min: 128,
    overflow: [Overflow::Reject; Priority::COUNT],
};

/// What a herd did to its server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "counts of what the names say")]
pub struct Herd {
    pub attempts: u64,
    pub refused: u64,
    pub resumed: u64,
    pub handled: u64,
    /// Most attempts in a slot of 10 ms; the very first ones, at once, are left out.
    pub attempts_per_slot_max: u32,
    /// The same from the moment on when the server is back.
    pub attempts_on_return_max: u32,
    /// When the last client was back, after the server was.
    pub all_back_after_ns: u64,
}

/// What the sessions of one side share.
struct Side {
    identity: Identity,
    memory: SendMemory,
}

/// A client and its end at the server.
struct Pair {
    near: Session,
    far: Session,
    backoff: Backoff,
}

/// Loses the server at time zero; it is back after 1 to 3 s.
///
/// # Panics
///
/// When a promise is broken.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Herd {
    mutate(mutation);
    let mut random = Random::new(seed);
    let (mut client, mut server) = (Side::new("client"), Side::new("server"));
    let pairs = (0..CLIENTS).map(|index| Pair::new(index, &mut client, &mut server));
    let mut pairs: Vec<_> = pairs.collect();
    let lost_at = Nanos(10_000 * MS);
    let back_at = lost_at + Duration::from_millis(random.between(1_000, 3_000));
    let mut attempts = BinaryHeap::new();
    for (index, pair) in pairs.iter_mut().enumerate() {
        pair.lose(index, lost_at, &mut client, &mut server);
        attempts.push(Reverse((pair.next(lost_at, &mut random), index)));
    }
    let mut herd = Herd::default();
    let (mut slot, mut in_slot) = (0, 0);
    let (mut millisecond, mut accepted) = (0, 0);
    while let Some(Reverse((now, index))) = attempts.pop() {
        herd.attempts += 1;
        let attempts_max = ATTEMPTS_PER_CLIENT_MAX * CLIENTS as u64;
        assert!(herd.attempts <= attempts_max, "more than {attempts_max} attempts: {herd:?}");
        if slot != now.0 / (10 * MS) {
            (slot, in_slot) = (now.0 / (10 * MS), 0);
        }
        if now > lost_at {
            in_slot += 1;
            herd.attempts_per_slot_max = herd.attempts_per_slot_max.max(in_slot);
            if now >= back_at {
                herd.attempts_on_return_max = herd.attempts_on_return_max.max(in_slot);
            }
        }
        if millisecond != now.0 / MS {
            (millisecond, accepted) = (now.0 / MS, 0);
        }
        if now >= back_at && accepted < ACCEPTED_PER_MS {
            accepted += 1;
            herd.handled += pairs[index].resume(now, &mut client, &mut server);
            herd.resumed += 1;
            herd.all_back_after_ns = now.0.saturating_sub(back_at.0);
        } else {
            herd.refused += 1;
            let next = pairs[index].next(now + REFUSAL, &mut random);
            attempts.push(Reverse((next, index)));
        }
    }
    herd.check();
    for pair in &mut pairs {
        let _ = pair.near.end(&mut client.memory);
        let _ = pair.far.end(&mut server.memory);
    }
    assert_eq!(
        client.memory.pool.lent_bytes() + server.memory.pool.lent_bytes(),
        0,
        "all memory is back"
    );
    herd
}

impl Herd {
    fn check(&self) {
        assert_eq!(self.resumed, CLIENTS as u64, "all are back: {self:?}");
        assert_eq!(self.handled, CLIENTS as u64, "each message is handled once: {self:?}");
        assert!(self.attempts_per_slot_max <= ATTEMPTS_PER_SLOT_MAX, "a herd: {self:?}");
        assert!(self.attempts_on_return_max <= ATTEMPTS_ON_RETURN_MAX, "a herd: {self:?}");
        assert!(self.all_back_after_ns <= ALL_BACK_MAX, "too late: {self:?}");
    }
}

impl Side {
    fn new(name: &str) -> Self {
        let layout = PoolLayout::shared(4 << 20, 2 * HANDSHAKE_BYTES_MAX, 4096).with_reserve();
        let pool = Pool::new(&layout.with_small(HANDSHAKE_BYTES_MAX, 2 * CLIENTS));
        let identity = Identity {
            dialer_features: Features::RESUME,
            listener_features: Features::RESUME,
            node_name: name.into(),
            node_number: 0,
            schema_hash: 0,
            frame_bytes_max: 4096,
            checksum: Checksum::Commands,
            heartbeat: HeartbeatPolicy { interval_us: 0, misses: 3, measure_every: Duration::ZERO },
            clock_drift_ppm: 100,
            watches_max: 0,
        };
        let memory = SendMemory { pool: pool.expect("memory"), scratch: Scratch::new() };
        Self { identity, memory }
    }
}

/// Sends one block of `from` and hands each frame of it to `take`.
fn pass(from: &mut Session, side: &mut Side, now: Nanos, mut take: impl FnMut(&Frame<'_>)) -> bool {
    let Some((source, block)) = from.poll_block(now, &mut side.memory) else { return false };
    let bytes = block.buffer.pieces(block.span.start..block.span.filled).to_vec();
    let mut input = &bytes[..];
    let decoder = crate::wire::Decoder::new(LIMITS.frame_bytes_max);
    while let Some(frame) = decoder.next(&mut input).expect("our own frames") {
        take(&frame);
    }
    from.block_sent(source, block, &mut side.memory);
    true
}

impl Pair {
    fn new(index: usize, client: &mut Side, server: &mut Side) -> Self {
        let id = |end: u64| {
            let number = u128::from(end) << 64 | index as u128;
            SessionId(number.to_le_bytes())
        };
        let mut pair = Self {
            near: Session::new(Role::Dialer, id(1), LIMITS, &client.identity),
            far: Session::new(Role::Listener, id(2), LIMITS, &server.identity),
            backoff: Backoff::new(BackoffPolicy::default()),
        };
        let now = Nanos(MS);
        let buffer = client.memory.pool.take(HANDSHAKE_BYTES_MAX).expect("memory");
        pair.near.greet(buffer, &client.identity, now, 0);
        let Self { near, far, .. } = &mut pair;
        pass(near, client, now, |hello| answer(far, server, hello, now));
        pass(far, server, now, |welcome| {
            assert!(matches!(accept(near, client, welcome, now), Reunion::First), "a new session");
        });
        pair.backoff.established(now);
        pair
    }

    /// The link is lost, and a reliable message waits for the next.
    fn lose(&mut self, index: usize, now: Nanos, client: &mut Side, server: &mut Side) {
        self.near.link_lost(None, &mut client.memory);
        self.far.link_lost(None, &mut server.memory);
        self.backoff.lost(now);
        let (envelope, body) = (Envelope::command().reliable(), index.to_le_bytes());
        let Side { identity, memory } = client;
        let pushed = self.near.push(envelope, Correlation::None, &body[..], identity, now, memory);
        pushed.expect("there is room for one message each");
    }

    /// When the next attempt is due.
    fn next(&mut self, now: Nanos, random: &mut Random) -> Nanos {
        match self.backoff.next(now, random.next()) {
            Next::Attempt { at, .. } => at.max(now),
            Next::GaveUp { .. } => panic!("the default gives up never"),
        }
    }

    /// A new link. Returns how many messages were handled on it.
    fn resume(&mut self, now: Nanos, client: &mut Side, server: &mut Side) -> u64 {
        let Self { near, far, backoff } = self;
        let mut stand_in = near.stand_in(LIMITS, &client.identity);
        let buffer = client.memory.pool.take(HANDSHAKE_BYTES_MAX).expect("memory");
        stand_in.greet(buffer, &client.identity, now, 0);
        pass(&mut stand_in, client, now, |hello| {
            assert!(Session::returns(hello).expect("well formed"), "it has had a link before");
            assert_eq!(far.claim(hello), Ok(HelloClaim::Resume), "it names this session");
            answer(far, server, hello, now);
        });
        near.take_link(&stand_in);
        let now = now + Duration::from_nanos(HANDSHAKE);
        pass(far, server, now, |welcome| {
            let reunion = accept(near, client, welcome, now);
            assert!(matches!(reunion, Reunion::Resumed), "it goes on: {reunion:?}");
        });
        backoff.established(now);
        let mut handled = 0;
        while pass(near, client, now, |frame| {
            let input = far.handle(frame, now, &mut server.memory);
            handled += u64::from(input == Ok(Input::Message));
        }) {}
        // Confirmed, so that nothing is kept.
        let later = now + Duration::from_millis(10);
        let _ = far.expire(later, &mut Pace::new(Duration::ZERO));
        while pass(far, server, later, |frame| {
            let input = near.handle(frame, later, &mut client.memory);
            assert_eq!(input, Ok(Input::Nothing), "it is confirmed");
        }) {}
        assert!(near.is_flushed(), "nothing is left to send or to confirm");
        assert_eq!((near.state(), far.state()), (State::Open, State::Open));
        handled
    }
}

fn answer(far: &mut Session, server: &mut Side, hello: &Frame<'_>, now: Nanos) {
    let buffer = server.memory.pool.take(HANDSHAKE_BYTES_MAX).expect("memory");
    let Side { identity, memory } = server;
    let input = far.answer(hello, buffer, identity, now, 0, memory);
    assert_eq!(input, Ok(Input::Established), "the server knows it");
}

fn accept(near: &mut Session, client: &mut Side, welcome: &Frame<'_>, now: Nanos) -> Reunion {
    let Side { identity, memory } = client;
    let (input, reunion) =
        near.accept_welcome(welcome, identity, now, memory).expect("a sound welcome");
    assert_eq!(input, Input::Established, "nothing is wrong with it");
    reunion
}

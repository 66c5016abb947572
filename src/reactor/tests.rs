//! Completions that no kernel can be made to give on demand, handed in where real ones come in.
//!
//! What the kernel can be made to do is in `tests/it/kernel.rs` and `sys/ring/tests.rs`. Here two
//! reactors talk over loopback, and an operation that was never submitted fails: with the buffer
//! and the state of a real one, so that what follows must be made good through the real ring.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::config::{ConfigBuilder, Idle};
use crate::error::{DropReason, FlushError};
use crate::mem::Buffer;
use crate::reactor::command::Command;
use crate::reactor::connection::{Connection, InFlight, Phase};
use crate::reactor::transmit::GATHERED_MESSAGE_BYTES_MIN;
use crate::session::lane::LaneLimits;
use crate::session::{Correlation, Part, Role, Session, Source, Undelivered};
use crate::wire::handshake::{HANDSHAKE_BYTES_MAX, SessionId};
use crate::wire::{BodyError, Scratch};

const PATIENCE: Duration = Duration::from_secs(10);

struct Pair {
    near: Reactor,
    far: Reactor,
    id: ConnectionId,
    far_key: ConnectionKey,
}

impl Pair {
    /// Connected; the far end has handled the first heartbeat and not armed its next
    /// receive.
    fn new() -> Self {
        Self::over("127.0.0.1:0", Idle::Park)
    }

    fn over(endpoint: &str, idle: Idle) -> Self {
        Self::with_heartbeats(endpoint, idle, 0)
    }

    fn with_heartbeats(endpoint: &str, idle: Idle, interval_ms: u32) -> Self {
        Self::between(endpoint, Config::builder().idle(idle).heartbeat_interval_ms(interval_ms))
    }

    fn between(endpoint: &str, settings: ConfigBuilder) -> Self {
        let config = settings.connections_max(4).registry(false).build().expect("valid");
        let mut far = Reactor::new(&config).expect("a ring");
        let address = far.listen(&endpoint.parse().expect("well formed")).expect("free");
        let mut near = Reactor::new(&config).expect("a ring");
        let id = near.dial(&address).expect("a socket");
        // The first heartbeat tells the far end of the near one's clock.
        until(|| {
            poll(&mut near);
            poll(&mut far);
            let now = far.core.now;
            let mut sessions = far.core.connections.iter().map(|(_, connection)| connection);
            let is_known = |connection: &Connection| connection.session.clock_offset(now).is_some();
            sessions.all(is_known) && !far.connections().is_empty()
        });
        until(|| {
            poll(&mut near);
            let mut sessions = near.core.connections.iter().map(|(_, connection)| connection);
            let has_answer = |connection: &Connection| connection.session.round_trip_ns().is_some();
            sessions.all(has_answer) && near.state_of(id) == ConnectionState::Connected
        });
        let far_key = far.core.key(far.connections()[0].id).expect("connected");
        Self { near, far, id, far_key }
    }

    /// The near end's connection.
    fn key(&self) -> ConnectionKey {
        self.near.core.key(self.id).expect("connected")
    }

    /// Turns both ends until the far one has a message.
    fn receive(&mut self) -> Message {
        let mut message = None;
        until(|| {
            poll(&mut self.near);
            poll(&mut self.far);
            message = self.far.receive();
            message.is_some()
        });
        message.expect("just seen")
    }

    /// Takes what is to be sent next, as if it had been handed to the ring.
    fn take_send(&mut self) -> Buffer {
        let key = self.key();
        let core = &mut self.near.core;
        let memory = &mut core.send_memory;
        let connection = &mut core.connections[key];
        assert!(connection.in_flight.is_none(), "one send at a time");
        let (source, block) =
            connection.session.poll_block(core.now, memory).expect("something is queued");
        connection.in_flight = Some(InFlight::new(source, &block));
        block.buffer
    }

    fn fail_send(&mut self, buffer: Buffer, errno: i32) {
        let completion = failed(self.key(), OpKind::Send, buffer, errno);
        self.near.core.record(completion);
    }
}

fn parked() -> ConfigBuilder {
    Config::builder().idle(Idle::Park).heartbeat_interval_ms(0)
}

fn failed(key: ConnectionKey, kind: OpKind, buffer: Buffer, errno: i32) -> Completion {
    Completion {
        token: Tokens::connection(key),
        kind,
        result: Err(errno),
        accepted: None,
        buffer: Some(buffer),
        more_data: false,
        continues: false,
        copied: false,
    }
}

fn poll(reactor: &mut Reactor) {
    reactor.turn(Wait::Poll).expect("the ring works");
}

#[track_caller]
fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Nanos::now() + PATIENCE;
    while !condition() {
        assert!(Nanos::now() < deadline, "in vain for {PATIENCE:?}");
    }
}

#[test]
fn send_refused_for_lack_of_memory_is_made_again() {
    for errno in [libc::ENOBUFS, libc::ENOMEM] {
        for idle in [Idle::Park, Idle::Spin] {
            // Made again by the ring, and by a system call of its own.
            check_refused_for_lack(errno, idle, true);
            check_refused_for_lack(errno, idle, false);
        }
    }
}

fn check_refused_for_lack(errno: i32, idle: Idle, by_ring: bool) {
    let mut pair = Pair::over("127.0.0.1:0", idle);
    for round in 1..=3_u8 {
        let key = pair.key();
        pair.near.core.connections[key].congested = by_ring;
        pair.near.send(pair.id, Envelope::data(), &[round; 500]).expect("room");
        for _ in 0..2 {
            let key = pair.key();
            let buffer = match pair.near.core.connections[key].unsent.take() {
                Some(buffer) => buffer,
                None => pair.take_send(),
            };
            pair.fail_send(buffer, errno);
        }
        assert_eq!(pair.near.core.counters.enobufs.get(), 2 * u64::from(round));
        assert_eq!(pair.near.state_of(pair.id), ConnectionState::Connected);
        pair.near.send(pair.id, Envelope::data(), b"behind it").expect("room");
        assert_eq!(pair.receive().payload()[..], [round; 500]);
        assert_eq!(pair.receive().payload()[..], *b"behind it");
    }
    assert_eq!(pair.far.statistics().messages_received, 6, "each came once");
}

#[test]
fn burst_to_several_peers_goes_to_each() {
    let mut pair = Pair::new();
    let address = pair.far.addresses().remove(0);
    let other = pair.near.dial(&address).expect("a socket");
    until(|| {
        poll(&mut pair.near);
        poll(&mut pair.far);
        pair.near.state_of(other) == ConnectionState::Connected
    });
    let ends = pair.far.connections();
    let other_end =
        ends.iter().find(|end| end.id.key != pair.far.core.connections[pair.far_key].home);
    let other_end = other_end.expect("there are two").id;
    // In one go, so that each but the first of a peer's may stand behind another.
    let burst = [(pair.id, 0), (pair.id, 1), (other, 2), (pair.id, 3), (other, 4), (other, 5)];
    for (to, number) in burst {
        pair.near.send(to, Envelope::data(), &[number]).expect("room");
    }
    let foreign = ConnectionId { reactor: ReactorId::new(u16::MAX, 0), ..other };
    assert_eq!(pair.near.send(foreign, Envelope::data(), b"x"), Err(SendError::NotConnected));
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in burst {
        let message = pair.receive();
        let numbers = if message.connection() == other_end { &mut second } else { &mut first };
        numbers.push(message.payload()[0]);
    }
    assert_eq!((first, second), (vec![0, 1, 3], vec![2, 4, 5]));
}

#[test]
fn messages_of_a_stream_are_encoded_once_but_for_the_first_of_a_block() {
    struct Counting(Cell<u32>);
    impl Body for Counting {
        fn encode(&self, out: &mut [u8], scratch: &mut Scratch) -> Result<usize, BodyError> {
            self.0.set(self.0.get() + 1);
            [7; 64].encode(out, scratch)
        }
    }
    let mut pair = Pair::new();
    let body = Counting(Cell::new(0));
    let blocks = 4;
    // A small block at first, then whole ones.
    let count = (4096 + (blocks - 1) * 65_536) / 96;
    for _ in 0..count {
        pair.near.send(pair.id, Envelope::data(), &body).expect("room");
    }
    let more = body.0.get() - count;
    assert!((1..=blocks).contains(&more), "{more} more than the {count} messages");
}

#[test]
fn message_behind_a_flush_has_its_own_time_and_leaves() {
    let mut pair = Pair::new();
    pair.near.send(pair.id, Envelope::data(), &[0]).expect("room");
    let held_up = pair.take_send();
    // A block that waits for the send under way is there for the next message to stand in.
    pair.near.send(pair.id, Envelope::data(), &[1]).expect("room");
    pair.near.flush_replies();
    pair.near.send(pair.id, Envelope::data(), &[2]).expect("room");
    pair.fail_send(held_up, libc::EINTR);
    let [first, second, third] = std::array::from_fn(|_| pair.receive());
    assert_eq!([&first, &second, &third].map(|message| message.payload()[0]), [0, 1, 2]);
    assert!(second.sent_at_ns() < third.sent_at_ns());
}

/// Another thread looked whether the node runs, was overtaken, and asked then.
#[test]
fn dial_that_comes_behind_a_shutdown_is_refused() {
    let Pair { mut near, mut far, .. } = Pair::new();
    let address = far.addresses()[0].clone();
    let (reply, answer) = bounded(1);
    let asker = Asker { claim: Default::default(), reply };
    near.core.run_command(Command::Shutdown { deadline: Nanos::now() + PATIENCE });
    near.core.run_command(Command::Dial { address, asker });
    let outcome = answer.try_recv().map(drop);
    assert_eq!(outcome, Err(crossbeam_channel::TryRecvError::Disconnected));
    until(|| {
        poll(&mut near);
        poll(&mut far);
        near.is_shut_down()
    });
}

/// A connection that is closed has its place for as long as the kernel holds an operation of it,
/// and not that of the next one.
#[test]
fn connection_that_is_closing_is_in_nobodys_way() {
    let settings = Config::builder().idle(Idle::Park).heartbeat_interval_ms(0);
    let mut pair = Pair::between("127.0.0.1:0", settings);
    let address = pair.far.addresses()[0].clone();
    while pair.near.core.connections.len() < 4 {
        pair.near.dial(&address).expect("a place");
    }
    let error = pair.near.dial(&address).expect_err("connections_max is 4");
    assert!(matches!(error, ConnectError::TooMany { connections_max: 4, .. }), "{error}");
    pair.near.send(pair.id, Envelope::data(), b"in the kernel").expect("room");
    let (buffer, key) = (pair.take_send(), pair.key());
    pair.near.core.close(key, CloseReason::Local);
    pair.near.dial(&address).expect("the place of the one that is closing");
    pair.near.dial(&address).expect_err("and no other");
    pair.near.core.record(failed(key, OpKind::Send, buffer, libc::ECANCELED));
    until(|| {
        poll(&mut pair.near);
        pair.near.core.connections.len() == 4
    });
    pair.near.dial(&address).expect_err("as many as before");
}

#[test]
fn session_whose_caller_has_given_up_is_ended() {
    // Before the session stands: it has withdrawn, or is gone altogether.
    for withdraws in [true, false] {
        check_abandoned_dial(withdraws);
    }
}

fn check_abandoned_dial(withdraws: bool) {
    let Pair { mut near, mut far, .. } = Pair::new();
    let address = far.addresses()[0].clone();
    let (reply, answer) = bounded(1);
    let claim = Claim::default();
    let asker = Asker { claim: claim.clone(), reply };
    near.core.run_command(Command::Dial { address, asker });
    let answer = if withdraws {
        assert!(claim.try_claim(), "the reactor has begun, and is not at its end");
        Some(answer)
    } else {
        drop(answer);
        None
    };
    let mut ended = None;
    until(|| {
        poll(&mut near);
        poll(&mut far);
        let events = std::iter::from_fn(|| near.poll_event());
        ended = events
            .map(|event| event.kind)
            .find(|kind| matches!(kind, EventKind::Disconnected { .. }));
        ended.is_some()
    });
    let reason = CloseReason::Local;
    let expected = EventKind::Disconnected { reason, established: true, messages_dropped: 0 };
    assert_eq!(ended, Some(expected));
    assert_eq!(near.connections().len(), 1, "the other one");
    assert!(answer.is_none_or(|answer| answer.is_empty()), "nobody is told");
}

/// As a kernel without zero copy for the socket's family answers, or a Unix socket.
#[test]
fn zero_copy_send_that_is_refused_is_made_again_and_not_tried_again() {
    for idle in [Idle::Park, Idle::Adaptive, Idle::Spin] {
        let mut pair = Pair::over("127.0.0.1:0", idle);
        for (round, errno) in [(1_u8, libc::EOPNOTSUPP), (2, libc::EINVAL), (3, libc::EOPNOTSUPP)] {
            pair.near.send(pair.id, Envelope::data(), &[round; 100_000]).expect("room");
            let key = pair.key();
            pair.near.core.connections[key].zero_copy = true;
            let buffer = pair.take_send();
            pair.fail_send(buffer, errno);
            assert!(!pair.near.core.connections[key].zero_copy);
            assert_eq!(pair.receive().payload()[..], [round; 100_000]);
            until(|| {
                poll(&mut pair.near);
                pair.near.is_flushed(pair.id)
            });
            assert!(pair.near.core.connections[key].in_flight.is_none(), "{idle:?}");
        }
    }
}

/// Kernels before 6.15 end a multishot accept so that meets a full completion queue at its start.
#[test]
fn listener_whose_accept_the_kernel_has_cancelled_listens_on() {
    let config = Config::builder().connections_max(4).registry(false).build().expect("valid");
    let mut far = Reactor::new(&config).expect("a ring");
    let address = far.listen(&"127.0.0.1:0".parse().expect("well formed")).expect("free");
    poll(&mut far);
    let operation = far.core.listeners[0].operation.expect("it listens");
    far.core.ring.cancel(operation);
    until(|| {
        poll(&mut far);
        far.core.listeners[0].operation.is_none()
    });
    assert_eq!(far.statistics().accept_errors, 0);
    let mut near = Reactor::new(&config).expect("a ring");
    let id = near.dial(&address).expect("a socket");
    until(|| {
        poll(&mut near);
        poll(&mut far);
        near.state_of(id) == ConnectionState::Connected
    });
}

#[test]
fn zero_copy_is_never_tried_on_a_unix_socket() {
    let name = format!("ringwire-{}-{}.sock", std::process::id(), Nanos::now().0);
    let path = std::env::temp_dir().join(name);
    let mut pair = Pair::over(&format!("unix:{}", path.display()), Idle::Park);
    pair.near.send(pair.id, Envelope::data(), &[1; 100_000]).expect("room");
    assert_eq!(pair.receive().payload()[..], [1; 100_000]);
    let back = pair.far.core.id(pair.far_key);
    pair.far.send(back, Envelope::data(), &[2; 100_000]).expect("room");
    until(|| {
        poll(&mut pair.far);
        poll(&mut pair.near);
        pair.near.receive().is_some_and(|message| message.payload()[..] == [2; 100_000])
    });
    assert_eq!(pair.near.statistics().zero_copy_sends, 0);
    assert_eq!(pair.far.statistics().zero_copy_sends, 0);
}

#[test]
fn drops_and_gaps_are_told_while_the_link_lives() {
    let mut pair = Pair::new();
    pair.near.send(pair.id, Envelope::data(), b"in flight").expect("room");
    let buffer = pair.take_send();
    for _ in 0..3 {
        let envelope = Envelope::data().ttl(Duration::from_micros(1));
        pair.near.send(pair.id, envelope, b"too late").expect("room");
    }
    pair.near.send(pair.id, Envelope::data(), b"behind them").expect("room");
    let late = Nanos::now() + Duration::from_micros(2);
    until(|| Nanos::now() > late);
    pair.fail_send(buffer, libc::EINTR);
    assert_eq!(pair.receive().payload()[..], *b"in flight");
    assert_eq!(pair.receive().payload()[..], *b"behind them");
    // Told with the next block.
    pair.near.send(pair.id, Envelope::data(), b"later").expect("room");
    assert_eq!(pair.receive().payload()[..], *b"later");
    assert_eq!(pair.near.statistics().dropped(DropReason::Expired), 3);
    assert_eq!(pair.far.statistics().messages_missed, 3, "the gap stood for them");
    assert_eq!(pair.near.state_of(pair.id), ConnectionState::Connected);
    assert_eq!(pair.far.connections().len(), 1);
}

/// Whoever does not listen can not hear: a paused connection's peer is not dead. One that is read
/// and silent is.
#[test]
fn silence_of_a_paused_peer_is_not_its_death() {
    let is_alive = |pause: Option<connection::Pause>| {
        let mut pair = Pair::with_heartbeats("127.0.0.1:0", Idle::Park, 1_000);
        until(|| {
            poll(&mut pair.far);
            !pair.far.core.ring.has_completion() && !pair.far.core.ring.needs_enter()
        });
        let core = &mut pair.far.core;
        core.connections[pair.far_key].pause = pause;
        let home = core.connections[pair.far_key].home;
        let slot = low_half(Key::data(&home).as_ffi());
        // Ten times what is fatal, in steps that excuse nothing.
        for _ in 0..60 {
            core.now = core.now + Duration::from_millis(500);
            core.expire_session(slot);
        }
        core.connections[pair.far_key].phase == Phase::Live
    };
    assert!(is_alive(Some(connection::Pause::Inbox { payload_bytes: 1 })), "paused");
    assert!(!is_alive(None), "read");
}

/// A reactor that stood still has more completions than a turn takes in. Nobody is silent before
/// all have been taken in.
#[test]
fn nobody_is_silent_whose_heartbeat_is_not_taken_in_yet() {
    const PEERS: usize = 3 * COMPLETIONS_PER_TURN as usize;
    let settings = || Config::builder().connections_max(256).registry(false);
    let config = settings().heartbeat_interval_ms(400).heartbeat_misses(2).build();
    let mut far = Reactor::new(&config.expect("valid")).expect("a ring");
    let address = far.listen(&"127.0.0.1:0".parse().expect("well formed")).expect("free");
    // These wait for the far end for as long as the test takes.
    let config = settings().heartbeat_interval_ms(10_000).build().expect("valid");
    let mut near = Reactor::new(&config).expect("a ring");
    let ids: Vec<_> = (0..PEERS).map(|_| near.dial(&address).expect("a socket")).collect();
    until(|| {
        poll(&mut near);
        poll(&mut far);
        far.connections().len() == PEERS && near.connections().len() == PEERS
    });
    // A receive is in flight everywhere, and each peer has just been heard.
    let say = |near: &mut Reactor| {
        for &id in &ids {
            near.send(id, Envelope::data(), &[1]).expect("room");
        }
        until(|| {
            poll(near);
            ids.iter().all(|&id| near.is_flushed(id))
        });
    };
    say(&mut near);
    let mut received = 0;
    until(|| {
        poll(&mut far);
        while far.receive().is_some() {
            received += 1;
        }
        received == PEERS
    });
    let heard = Nanos::now();
    // It stands still for longer than 800 ms, and for less than another interval.
    say(&mut near);
    until(|| Nanos::now() > heard + Duration::from_millis(900));
    until(|| {
        poll(&mut far);
        while far.receive().is_some() {
            received += 1;
        }
        received == 2 * PEERS || far.statistics().connections_active < PEERS as u64
    });
    assert_eq!(far.statistics().connections_active, PEERS as u64);
    // And who is silent is given up.
    until(|| {
        poll(&mut far);
        far.statistics().connections_active == 0
    });
}

/// The session is over with a send in the kernel, and its end is told only when that has come back:
/// nothing is flushed meanwhile.
#[test]
fn session_that_has_ended_with_a_send_in_the_kernel_is_not_flushed() {
    for envelope in [Envelope::data(), Envelope::data().reliable()] {
        let mut pair = Pair::between("127.0.0.1:0", parked().session_linger_ms(0));
        pair.near.send(pair.id, envelope, b"in the kernel").expect("room");
        let (buffer, key) = (pair.take_send(), pair.key());
        let wait = |core: &mut Core| {
            let (reply, answer) = bounded(1);
            core.begin_flush(flush::Flush { connection: pair.id, until: Nanos::NEVER, reply });
            answer
        };
        let before = wait(&mut pair.near.core);
        pair.near.core.close(key, CloseReason::PeerSilent);
        let behind = wait(&mut pair.near.core);
        pair.near.core.report_flushes();
        for answer in [before, behind] {
            assert_eq!(answer.try_recv(), Ok(Err(FlushError::NotConnected)));
        }
        pair.near.core.record(failed(key, OpKind::Send, buffer, libc::ECANCELED));
    }
}

/// What waits for room in the socket, on a thread that looks into the socket itself.
fn stall(pair: &mut Pair) -> u64 {
    let mut count = 0;
    while pair.near.core.stalled.is_empty() {
        assert!(count < 100_000, "the socket is never full");
        pair.near.send(pair.id, Envelope::data(), &[7; 1000]).expect("room in the lane");
        poll(&mut pair.near);
        count += 1;
    }
    count
}

fn unix_endpoint() -> String {
    let name = format!("ringwire-{}-{}.sock", std::process::id(), Nanos::now().0);
    format!("unix:{}", std::env::temp_dir().join(name).display())
}

/// The last block leaves past the ring within the turn that waits for it: no completion tells.
#[test]
fn waiting_for_a_flush_ends_with_what_leaves_past_the_ring() {
    let settings = Config::builder().idle(Idle::Spin).heartbeat_interval_ms(0);
    let mut pair = Pair::between(&unix_endpoint(), settings.inbox_frames_max(100_000));
    let count = stall(&mut pair);
    assert!(!pair.near.is_flushed(pair.id), "the last is in the socket in part at most");
    until(|| {
        poll(&mut pair.far);
        pair.far.statistics().messages_received >= count - 1
    });
    let spins = pair.near.statistics().spins;
    pair.near.turn_to_flush(Nanos::now() + PATIENCE).expect("the ring works");
    assert!(pair.near.is_flushed(pair.id), "there is room for it");
    assert_eq!(pair.near.statistics().spins, spins, "it waited for what had left");
}

/// Who waits for room in a lane is told of it with every block that leaves, also where several
/// leave with one look into the socket, and the last of them in part.
#[test]
fn waiting_for_room_ends_with_blocks_of_which_the_last_left_in_part() {
    let settings = Config::builder().idle(Idle::Spin).heartbeat_interval_ms(0);
    let mut pair = Pair::between(&unix_endpoint(), settings.inbox_frames_max(100_000));
    let count = stall(&mut pair);
    let long = vec![7; GATHERED_MESSAGE_BYTES_MIN];
    for _ in 0..12 {
        pair.near.send(pair.id, Envelope::data(), &long[..]).expect("room in the lane");
    }
    until(|| {
        poll(&mut pair.far);
        pair.far.statistics().messages_received >= count - 1
    });
    let blocks_behind = |pair: &Pair| {
        let session = &pair.near.core.connections[pair.key()].session;
        session.blocks_behind(Source::Lane(Priority::Normal)).count()
    };
    until(|| {
        let before = blocks_behind(&pair);
        let is_told = pair.near.core.send_stalled();
        let core = &pair.near.core;
        let has_left_in_part = core.stalled.len() == 1 && core.dirty.is_empty();
        let left = before - blocks_behind(&pair);
        assert!(is_told || left == 0, "{left} blocks have left, and who waits is not told");
        has_left_in_part && left > 1
    });
}

/// Whoever polls for as long as there is something to do queues the rest of what a socket took in
/// part, and so does a flush.
#[test]
fn rest_of_a_short_send_is_something_to_do() {
    for flushes in [false, true] {
        let settings = parked().lane_bytes_max(4 << 20);
        let mut pair = Pair::between(&unix_endpoint(), settings);
        let long = || vec![7; 1 << 20];
        if flushes {
            pair.near.send(pair.id, Envelope::data(), &long()[..]).expect("room in the lane");
            pair.near.flush_all();
        } else {
            pair.near.on(Kind::Command, move |context, _| {
                context.reply(Envelope::data(), &long()[..]).expect("room in the lane");
            });
            let far = pair.far.connections()[0].id;
            pair.far.send(far, Envelope::command(), b"?").expect("room in the lane");
            poll(&mut pair.far);
            // At the end of the turn that has handled it.
            let mut is_busy = false;
            until(|| {
                is_busy = pair.near.turn(Wait::Poll).expect("the ring works").is_busy;
                pair.near.statistics().short_sends == 1
            });
            while is_busy {
                is_busy = pair.near.turn(Wait::Poll).expect("the ring works").is_busy;
            }
        }
        assert_eq!(pair.near.statistics().short_sends, 1, "it did not fit the socket");
        let connection = &pair.near.core.connections[pair.key()];
        assert!(connection.is_sending() && connection.unsent.is_none(), "the ring has the rest");
        assert_eq!(pair.receive().payload().len(), 1 << 20);
    }
}

/// It is looked at when its time is over, although nothing leaves and nothing comes.
#[test]
fn what_is_too_old_behind_a_stalled_block_is_dropped_in_time() {
    let settings = Config::builder().idle(Idle::Spin).heartbeat_interval_ms(0);
    let mut pair = Pair::between(&unix_endpoint(), settings);
    stall(&mut pair);
    // More than a block holds, in front of what may expire.
    for _ in 0..100 {
        pair.near.send(pair.id, Envelope::data(), &[7; 1000]).expect("room");
    }
    let brief = Envelope::data().ttl(Duration::from_millis(1));
    pair.near.send(pair.id, brief, &[7; 1000]).expect("room");
    assert!(!pair.near.core.connections[pair.key()].session.may_expire(), "it is in the front");
    until(|| {
        poll(&mut pair.near);
        pair.near.statistics().dropped(DropReason::Expired) == 1
    });
}

/// Of those that wait for memory the first keeps others from it for a while, and again after a
/// while: memory may never be free for a long frame while shorter ones take what there is.
#[test]
fn who_waits_for_memory_the_longest_has_it_to_itself_again_and_again() {
    let settings = parked().frame_bytes_max(1 << 20).receive_memory_bytes(2 << 20);
    let mut pair = Pair::between("127.0.0.1:0", settings);
    let (core, key) = (&mut pair.far.core, pair.far_key);
    // Half of one of the two longest buffers is free.
    let held = [1 << 20, 512 << 10].map(|bytes| core.receive_memory.take(bytes).expect("free"));
    assert!(core.connections[key].window.is_idle(), "the next receive is not armed yet");
    core.connections[key].frame_bytes = Some(1 << 20);
    core.pause(key, connection::Pause::Memory { frame_bytes: 1 << 20 });
    let begun = core.now;
    for (seconds, is_had) in
        [(0, false), (2, false), (4, true), (14, true), (16, false), (22, true)]
    {
        core.now = begun + Duration::from_secs(seconds);
        core.resume_paused();
        let half = core.receive_memory.take(512 << 10);
        assert_eq!(half.is_some(), is_had, "behind it for {seconds} s");
        half.into_iter().for_each(|half| core.receive_memory.give(half));
    }
    held.into_iter().for_each(|buffer| core.receive_memory.give(buffer));
    core.resume_paused();
    assert!(core.connections[key].pause.is_none(), "there is all it wants");
}

/// Who begins to wait for memory just before the reactor sleeps holds others off for as long as
/// anybody: then it wakes, as they may go on.
#[test]
fn sleep_ends_when_others_may_have_memory_again() {
    let settings = parked().frame_bytes_max(1 << 20).receive_memory_bytes(2 << 20);
    let mut pair = Pair::between("127.0.0.1:0", settings);
    let (core, key) = (&mut pair.far.core, pair.far_key);
    let held = [(); 2].map(|()| core.receive_memory.take(1 << 20).expect("free"));
    core.connections[key].frame_bytes = Some(1 << 20);
    assert!(core.connections[key].wants_receive, "the next receive is not armed yet");
    // Nothing else wakes it.
    until(|| {
        core.now = Nanos::now();
        core.collect();
        core.refresh_rows();
        core.connections[key].in_flight.is_none() && core.meter.rows_due() == Nanos::NEVER
    });
    let begun = Nanos::now();
    pair.far.turn(Wait::Until(begun + PATIENCE)).expect("the ring works");
    let slept = Nanos::now().since(begun);
    assert!(pair.far.core.connections[key].pause.is_some(), "there is no memory");
    assert!(slept > Duration::from_secs(2), "something woke it: {slept:?}");
    assert!(slept < PATIENCE / 2, "{slept:?}");
    held.into_iter().for_each(|buffer| pair.far.core.receive_memory.give(buffer));
}

/// The peer has forgotten its end while this one's link was ending with a send in the kernel: the
/// session is given up as soon as that has come back, not after its linger.
#[test]
fn session_given_up_waits_for_the_last_send_and_no_longer() {
    let mut pair = Pair::new();
    let (old, far_key) = (pair.far.core.id(pair.far_key), pair.far_key);
    // Its welcome has left.
    until(|| {
        poll(&mut pair.far);
        pair.far.core.connections[far_key].in_flight.is_none()
    });
    pair.far.send(old, Envelope::data(), b"in the kernel").expect("room");
    let core = &mut pair.far.core;
    let memory = &mut core.send_memory;
    let connection = &mut core.connections[far_key];
    let (source, block) =
        connection.session.poll_block(core.now, memory).expect("something is queued");
    connection.in_flight = Some(InFlight::new(source, &block));
    let peer = connection.session.peer().expect("established").session_id;
    core.close(far_key, CloseReason::PeerClosed);
    assert!(core.connections[far_key].survives(), "it waits for another link");
    // The same peer says hello, and knows no end here.
    let hello = hello_that_knows_nobody(&mut pair.near, peer);
    let Some(&Address::Tcp(address)) = pair.far.addresses().first() else { panic!("over TCP") };
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    io::Write::write_all(&mut stream, &hello).expect("a short write");
    until(|| {
        poll(&mut pair.far);
        pair.far.connections().iter().any(|connection| connection.id != old)
    });
    pair.far.core.record(failed(far_key, OpKind::Send, block.buffer, libc::ECANCELED));
    let begun = Nanos::now();
    until(|| {
        poll(&mut pair.far);
        pair.far.connection(old).is_none()
    });
    let linger = pair.far.core.config.session_linger();
    assert!(Nanos::now().since(begun) < linger / 2, "it lingered");
}

/// Main's link is ending, with a send in the kernel, when the application has enough: what express
/// holds still leaves, and nobody waits for main to come back.
#[test]
fn express_is_flushed_while_mains_link_is_just_ending() {
    let settings = Config::builder().idle(Idle::Park).heartbeat_interval_ms(0).express(true);
    let mut pair = Pair::between("127.0.0.1:0", settings);
    pair.near.send(pair.id, Envelope::data(), b"in the kernel").expect("room");
    let (buffer, main) = (pair.take_send(), pair.key());
    pair.near.core.close(main, CloseReason::PeerClosed);
    assert!(pair.near.core.connections[main].survives(), "it waits for another link");
    let envelope = Envelope::data().critical().reliable();
    pair.near.send(pair.id, envelope, b"stop").expect("express stands");
    let begun = Nanos::now();
    pair.near.disconnect(pair.id, PATIENCE);
    assert_eq!(pair.receive().payload()[..], *b"stop");
    pair.near.core.record(failed(main, OpKind::Send, buffer, libc::ECANCELED));
    let mut kinds = Vec::new();
    until(|| {
        poll(&mut pair.near);
        poll(&mut pair.far);
        kinds.extend(std::iter::from_fn(|| pair.near.poll_event()).map(|event| event.kind));
        matches!(kinds.last(), Some(EventKind::Disconnected { .. }))
    });
    let linger = pair.near.core.config.session_linger();
    assert!(Nanos::now().since(begun) < linger / 2, "it lingered: {kinds:?}");
    let is_lost = |kind: &EventKind| matches!(kind, EventKind::SessionLost { .. });
    assert!(!kinds.iter().any(is_lost), "what is reliable was confirmed: {kinds:?}");
    assert_eq!(pair.near.statistics().sessions_resumed, 0);
}

/// A hello of the end `id` that has never been answered.
fn hello_that_knows_nobody(reactor: &mut Reactor, id: SessionId) -> Vec<u8> {
    let core = &mut reactor.core;
    let limits = LaneLimits::from_config(&core.config);
    let mut session = Session::new(Role::Dialer, id, limits, &core.identity);
    let buffer = core.send_memory.pool.take(HANDSHAKE_BYTES_MAX).expect("memory");
    session.greet(buffer, &core.identity, Nanos::now(), 0);
    let memory = &mut core.send_memory;
    let (source, block) = session.poll_block(core.now, memory).expect("a hello");
    let bytes = block.buffer.bytes()[..block.span.filled].to_vec();
    session.block_sent(source, block, memory);
    bytes
}

#[test]
fn interrupted_send_is_made_again_and_not_counted() {
    let mut pair = Pair::new();
    pair.near.send(pair.id, Envelope::data(), b"text").expect("room");
    let buffer = pair.take_send();
    pair.fail_send(buffer, libc::EINTR);
    assert_eq!(pair.receive().payload()[..], *b"text");
    assert_eq!(pair.near.statistics().enobufs, 0);
}

/// The socket may have taken part of what the kernel holds: a goodbye in the middle of a frame
/// would be read as a part of it.
#[test]
fn goodbye_does_not_come_between_the_parts_of_a_frame() {
    let mut pair = Pair::new();
    pair.near.send(pair.id, Envelope::data(), b"whole").expect("room");
    let buffer = pair.take_send();
    let key = pair.key();
    pair.near.core.drain(key, Nanos::now() + PATIENCE);
    pair.near.core.say_goodbye_at_once(key);
    pair.fail_send(buffer, libc::EINTR);
    assert_eq!(pair.receive().payload()[..], *b"whole");
}

#[test]
fn send_that_fails_while_closing_frees_everything() {
    let mut pair = Pair::new();
    let lent_before = pair.near.core.send_memory.pool.lent_bytes();
    pair.near.send(pair.id, Envelope::data(), b"lost").expect("room");
    let buffer = pair.take_send();
    let key = pair.key();
    pair.near.core.close(key, CloseReason::Local);
    pair.fail_send(buffer, libc::ENOBUFS);
    until(|| {
        poll(&mut pair.near);
        pair.near.connection(pair.id).is_none()
    });
    assert_eq!(pair.near.core.send_memory.pool.lent_bytes(), lent_before);
    assert_eq!(pair.near.statistics().messages_dropped, 1);
}

/// What a receiver leaves in its socket is acknowledged at the sender's cost: one look takes the
/// rest of a long frame and what stands behind it, whatever that is.
#[test]
fn one_look_goes_on_behind_a_long_frame() {
    let mut pair = pair_with_large_frames(Config::builder());
    let bodies = [vec![1; 12 << 10], vec![2; 100], vec![3; 200], vec![4; 12 << 10], vec![5; 9]];
    let expected: usize = bodies.iter().map(|it| crate::wire::frame_bytes(it.len(), false)).sum();
    for body in &bodies {
        pair.near.send(pair.id, Envelope::data(), &body[..]).expect("room");
    }
    until_in_socket(&mut pair, expected);
    let receives_before = receives(&pair.far);
    let mut received = Vec::new();
    until(|| {
        pair.far.turn(Wait::Until(Nanos::now() + PATIENCE)).expect("a ring");
        received.extend(std::iter::from_fn(|| pair.far.receive()));
        received.len() == bodies.len()
    });
    for (message, body) in received.iter().zip(&bodies) {
        assert_eq!(message.payload()[..], body[..]);
    }
    // What the window holds; the rest of the first and all that is behind it.
    assert_eq!(receives(&pair.far) - receives_before, 2);
}

/// Whichever message is the one that has no room: the first, one behind a long one, or a long one
/// that others stand behind.
#[test]
fn what_is_behind_a_long_frame_waits_for_the_inbox() {
    let lengths = [9, 12 << 10, 100, 200, 12 << 10, 7, 12 << 10];
    let mut pair = pair_with_large_frames(Config::builder().inbox_frames_max(1));
    let bodies: Vec<Vec<u8>> =
        (0_u8..).zip(lengths).map(|(number, length)| vec![number; length]).collect();
    for body in &bodies {
        pair.near.send(pair.id, Envelope::data(), &body[..]).expect("room");
    }
    let bytes = lengths.iter().map(|length| crate::wire::frame_bytes(*length, false)).sum();
    until_in_socket(&mut pair, bytes);
    for body in &bodies {
        let mut message = None;
        until(|| {
            // What is next comes, too, and pauses the connection.
            look(&mut pair.far);
            look(&mut pair.far);
            message = pair.far.receive();
            message.is_some()
        });
        assert_eq!(message.expect("just seen").payload()[..], body[..]);
    }
    assert!(pair.far.statistics().receive_pauses > 1);
}

#[test]
fn what_is_wrong_behind_a_long_frame_ends_the_connection() {
    let mut pair = pair_with_large_frames(Config::builder());
    pair.near.send(pair.id, Envelope::data(), LONG).expect("room");
    let bytes = crate::wire::frame_bytes(LONG.len(), false);
    until_in_socket(&mut pair, bytes);
    let key = pair.key();
    let sent = pair.near.core.connections[key].socket.send(&[0xff; 64]).expect("room");
    until_in_socket(&mut pair, bytes + sent);
    let receives_before = receives(&pair.far);
    assert_eq!(received_until_closed(&mut pair), 1);
    assert_eq!(pair.far.statistics().closed("protocol"), 1);
    assert_eq!(receives(&pair.far) - receives_before, 2, "it stood behind");
    assert_eq!(pair.far.core.receive_memory.lent_bytes(), 0);
}

/// What a wrong frame brought along is not looked at any more.
#[test]
fn nothing_behind_a_long_frame_that_is_wrong_is_handled() {
    use crate::wire::{Checksum, Codec, Flags, FrameHead};
    let mut pair = pair_with_large_frames(Config::builder());
    let head = FrameHead {
        kind: Kind::Data,
        priority: Priority::Normal,
        codec: Codec::Opaque,
        type_id: 0,
        sequence: 1_000_000,
        sent_at_ns: 0,
        flags: Flags::default(),
        extension: None,
        checksum: Checksum::Never,
    };
    let mut frame = vec![0; crate::wire::frame_bytes(LONG.len(), false)];
    head.encode(LONG, &mut frame);
    let key = pair.key();
    let sent = pair.near.core.connections[key].socket.send(&frame).expect("room");
    pair.near.send(pair.id, Envelope::data(), b"right").expect("room");
    until_in_socket(&mut pair, sent + crate::wire::frame_bytes(5, false));
    let receives_before = receives(&pair.far);
    assert_eq!(received_until_closed(&mut pair), 0);
    assert_eq!(pair.far.statistics().closed("protocol"), 1);
    assert_eq!(receives(&pair.far) - receives_before, 2, "the other stood behind");
}

/// The peer has as long for a frame that begins behind another one as for any.
#[test]
fn frame_that_begins_behind_another_has_its_own_time() {
    let mut pair = pair_with_large_frames(Config::builder().frame_timeout_ms(50));
    pair.near.send(pair.id, Envelope::data(), LONG).expect("room");
    let bytes = crate::wire::frame_bytes(LONG.len(), false);
    until_in_socket(&mut pair, bytes);
    let key = pair.key();
    let sent = pair.near.core.connections[key].socket.send(&crate::wire::MAGIC).expect("room");
    until_in_socket(&mut pair, bytes + sent);
    let begun = |pair: &Pair| pair.far.core.connections[pair.far_key].frame_begun;
    until(|| {
        look(&mut pair.far);
        begun(&pair) != Nanos::NEVER
    });
    assert!(pair.far.receive().is_none(), "the first has begun");
    let second_look = Nanos::now();
    until(|| {
        look(&mut pair.far);
        pair.far.receive().is_some()
    });
    assert!((second_look..Nanos::NEVER).contains(&begun(&pair)), "the other has, and later");
    assert_eq!(received_until_closed(&mut pair), 0);
    assert_eq!(pair.far.statistics().closed("frame_timeout"), 1);
}

/// While nothing comes nothing is kept for it.
#[test]
fn paused_connection_keeps_no_more_than_what_has_come() {
    let piece = 16 << 10;
    let lent = |pair: &Pair| pair.far.core.receive_memory.lent_bytes();
    let is_paused = |pair: &Pair| pair.far.core.connections[pair.far_key].pause.is_some();
    let mut pair = pair_with_large_frames(Config::builder().inbox_frames_max(1));
    let bytes = crate::wire::frame_bytes(LONG.len(), false);
    pair.near.send(pair.id, Envelope::data(), LONG).expect("room");
    until_in_socket(&mut pair, bytes);
    until(|| {
        look(&mut pair.far);
        pair.far.statistics().messages_received > 0
    });
    assert_eq!(lent(&pair), 2 * piece, "room for what might have come behind it");
    pair.near.send(pair.id, Envelope::data(), LONG).expect("room");
    until(|| {
        poll(&mut pair.near);
        look(&mut pair.far);
        is_paused(&pair)
    });
    assert_eq!(lent(&pair), piece);
    pair.far.core.close(pair.far_key, CloseReason::Local);
    until(|| {
        poll(&mut pair.far);
        pair.far.connections().is_empty()
    });
    assert_eq!(lent(&pair), 0);
}

/// Longer than a window of [`pair_with_large_frames`].
const LONG: &[u8] = &[1; 12 << 10];

/// Receives of a reactor that sends nothing: those armed in the ring, too.
fn receives(reactor: &Reactor) -> u64 {
    reactor.statistics().direct_receives + reactor.statistics().completions
}

/// How many messages come before the far end has closed its connection.
fn received_until_closed(pair: &mut Pair) -> usize {
    let mut received = 0;
    until(|| {
        look(&mut pair.far);
        received += usize::from(pair.far.receive().is_some());
        pair.far.connections().is_empty()
    });
    received
}

/// A spinning pair whose far end has 4 KiB for a window.
fn pair_with_large_frames(settings: ConfigBuilder) -> Pair {
    let settings = settings.idle(Idle::Spin).heartbeat_interval_ms(0).window_bytes(4 << 10);
    Pair::between("127.0.0.1:0", settings)
}

/// Turns the near end until `bytes` stand in the far one's socket.
fn until_in_socket(pair: &mut Pair, bytes: usize) {
    until(|| {
        poll(&mut pair.near);
        let socket = &pair.far.core.connections[pair.far_key].socket;
        rustix::io::ioctl_fionread(socket).expect("a socket") == bytes as u64
    });
}

/// A turn that looks into the sockets itself.
fn look(reactor: &mut Reactor) {
    reactor.turn(Wait::Until(Nanos::now() + Duration::from_millis(1))).expect("a ring");
}

#[test]
fn receive_refused_or_interrupted_is_made_again() {
    for (errno, lacks) in
        [(libc::ENOBUFS, 1), (libc::ENOMEM, 1), (libc::EINTR, 0), (libc::EAGAIN, 0)]
    {
        let mut pair = Pair::new();
        let (core, key) = (&mut pair.far.core, pair.far_key);
        let connection = &mut core.connections[key];
        assert!(connection.wants_receive, "the next receive is not armed yet");
        assert!(connection.window.is_idle(), "so the window has its buffer");
        connection.wants_receive = false;
        core.unarmed.clear();
        connection.window.prepare(None, 0, &mut core.receive_memory).expect("the base is enough");
        let buffer = connection.window.lend();
        connection.receiving = true;
        core.record(failed(key, OpKind::Receive, buffer, errno));
        assert_eq!(core.counters.enobufs.get(), lacks);
        pair.near.send(pair.id, Envelope::data(), b"text").expect("room");
        assert_eq!(pair.receive().payload()[..], *b"text");
    }
}

/// The kernel was faster: it had connected before it was told to give up.
#[test]
fn connect_that_succeeds_while_it_is_cancelled_is_closed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address::Tcp(listener.local_addr().expect("bound"));
    let config = Config::builder().registry(false).build().expect("valid");
    let mut reactor = Reactor::new(&config).expect("a ring");
    for _ in 0..20 {
        let id = reactor.dial(&address).expect("a socket");
        until(|| {
            reactor.core.ring.enter(0, None, None).expect("the ring works");
            reactor.core.ring.has_completion()
        });
        let phase = reactor.core.connections[reactor.core.key(id).expect("connected")].phase;
        assert!(matches!(phase, Phase::Connecting { .. }), "not reaped yet: {phase:?}");
        check_ends(&mut reactor, id);
        let (mut peer, _) = listener.accept().expect("the kernel had connected it");
        let mut rest = Vec::new();
        let read = io::Read::read_to_end(&mut peer, &mut rest);
        assert!(rest.is_empty(), "nothing was sent: {read:?}");
    }
}

/// The kernel can not connect for now: it is cancelled for sure.
#[test]
fn connect_that_is_cancelled_is_closed() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let listener = listener.expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).expect("a free port");
    listener.listen(0).expect("bound");
    let target = listener.local_addr().expect("bound").as_socket().expect("IPv4");
    // Whoever comes after this one waits for it to be accepted.
    let _only = std::net::TcpStream::connect(target).expect("the one place");
    let config = Config::builder().registry(false).build().expect("valid");
    let mut reactor = Reactor::new(&config).expect("a ring");
    for _ in 0..20 {
        let id = reactor.dial(&Address::Tcp(target)).expect("a socket");
        reactor.core.ring.enter(0, None, None).expect("the ring works");
        assert!(!reactor.core.ring.has_completion(), "it is under way");
        check_ends(&mut reactor, id);
    }
}

/// Ends a connection that is being made: it is told once, and its slot is free again.
fn check_ends(reactor: &mut Reactor, id: ConnectionId) {
    reactor.disconnect(id, PATIENCE);
    until(|| {
        poll(reactor);
        reactor.connection(id).is_none()
    });
    assert_eq!(reactor.core.ring.in_flight(), 0);
    let event = reactor.poll_event().expect("it was dialled");
    assert_eq!((event.connection, event.kind), (id, EventKind::Connecting));
    let event = reactor.poll_event().expect("its end");
    assert_eq!(event.connection, id);
    let reason = CloseReason::Local;
    let kind = EventKind::Disconnected { reason, established: false, messages_dropped: 0 };
    assert_eq!(event.kind, kind);
    assert_eq!(reactor.poll_event(), None);
}

/// What the kernel may hold unsent on each connection of a session with two of them.
fn unsent_bounds(settings: ConfigBuilder) -> Vec<(Part, u32)> {
    let config = settings.express(true).connections_max(4).registry(false).build().expect("valid");
    let mut far = Reactor::new(&config).expect("a ring");
    let address = far.listen(&"127.0.0.1:0".parse().expect("well formed")).expect("free");
    let mut near = Reactor::new(&config).expect("a ring");
    let id = near.dial(&address).expect("a socket");
    until(|| {
        poll(&mut near);
        poll(&mut far);
        near.state_of(id) == ConnectionState::Connected && !far.connections().is_empty()
    });
    let ends = near.core.connections.values().chain(far.core.connections.values());
    ends.map(|connection| {
        (connection.session.part(), connection.socket.tcp_notsent_lowat().expect("TCP"))
    })
    .collect()
}

#[test]
fn kernel_holds_little_of_what_stands_beside_urgent_messages() {
    let bounds = unsent_bounds(Config::builder());
    assert_eq!(bounds.len(), 4, "two connections, both ends");
    for (part, bytes) in bounds {
        match part {
            Part::Main => assert_eq!(bytes, 128 << 10),
            // The system's own bound, net.ipv4.tcp_notsent_lowat.
            _ => assert!(bytes == 0 || bytes > 1 << 20, "{bytes}"),
        }
    }
    let chosen = unsent_bounds(Config::builder().tcp_notsent_lowat_bytes(300_000));
    assert!(chosen.iter().all(|&(_, bytes)| bytes == 300_000), "{chosen:?}");
}

#[test]
fn reactor_that_sleeps_often_keeps_a_timer_standing() {
    for (period_us, is_wanted) in [(1000, true), (0, false)] {
        let config = Config::builder()
            .idle(Idle::Park)
            .standing_timer_us(period_us)
            .registry(false)
            .build()
            .expect("valid");
        let mut reactor = Reactor::new(&config).expect("a ring");
        // However long sleeps take on a busy machine, some come often enough.
        let period = Duration::from_millis(100);
        reactor.core.standing.set_period(period);
        let begin = Nanos::now();
        let mut patience = if is_wanted { PATIENCE } else { 3 * period };
        while Nanos::now() < begin + patience && !patience.is_zero() {
            reactor.turn(Wait::Until(Nanos::now() + Duration::from_micros(20))).expect("a turn");
            if reactor.core.standing.is_standing() {
                patience = Duration::ZERO;
            }
        }
        assert_eq!(patience.is_zero(), is_wanted, "period {period_us} us");
    }
}

/// A request that was to confirm what had come, and is too old when it should leave, leaves that to
/// an acknowledgement.
#[test]
fn what_a_dropped_request_was_to_confirm_is_confirmed_in_time() {
    let mut pair = Pair::new();
    let far_id = pair.far.connections()[0].id;
    pair.far.send(far_id, Envelope::data().reliable(), b"text").expect("room");
    until(|| {
        poll(&mut pair.far);
        poll(&mut pair.near);
        pair.near.receive().is_some()
    });
    let key = pair.key();
    let core = &mut pair.near.core;
    let memory = &mut core.send_memory;
    let request = Correlation::Request { id: 1, timeout_us: 1 };
    let connection = &mut core.connections[key];
    let session = &mut connection.session;
    let long_ago = Nanos(core.now.0 - 1_000_000);
    // Their block is looked through because of the second.
    let brief = Envelope::command().ttl(Duration::from_micros(1));
    for (envelope, correlation) in [(Envelope::command(), request), (brief, Correlation::None)] {
        let identity = &core.identity;
        let pushed = session.push(envelope, correlation, &b"late"[..], identity, long_ago, memory);
        pushed.expect("room");
    }
    assert_eq!(session.confirm_at(), Nanos::NEVER, "the request confirms it");
    // As if it had been looked at since.
    connection.session_due = Nanos::NEVER;
    core.mark_dirty(key);
    core.transmit();
    let connection = &core.connections[key];
    assert_ne!(connection.session.confirm_at(), Nanos::NEVER, "the request is gone");
    assert!(connection.session_due <= connection.session.confirm_at());
}

/// Opens sockets when it is dropped, in a reactor that is being dropped.
struct Opener(std::sync::mpsc::Sender<Vec<UnixStream>>);

impl AsRef<[u8]> for Opener {
    fn as_ref(&self) -> &[u8] {
        b"of an undelivered message"
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let pairs = (0..8).map(|_| UnixStream::pair().expect("descriptors"));
        let _ = self.0.send(pairs.flat_map(<[UnixStream; 2]>::from).collect());
    }
}

/// A block that has left through the ring, which does not know yet, is no reason to send the
/// beginning of the next: that waits for the rest of it.
#[test]
fn block_that_has_left_through_the_ring_does_not_count_as_waiting() {
    let mut pair = Pair::new();
    let key = pair.key();
    // As a socket is that was full, or one of many.
    pair.near.core.connections[key].congested = true;
    let whole = AUTO_FLUSH_BYTES / crate::wire::frame_bytes(64, false);
    let bodies = vec![[7_u8; 64]; whole];
    let bodies = || bodies.iter().map(|body| &body[..]);
    assert_eq!(pair.near.send_all(pair.id, Envelope::data(), bodies()).queued, whole);
    let sent = |pair: &Pair| pair.near.statistics().messages_sent;
    until(|| {
        pair.near.core.collect();
        pair.near.core.transmit();
        pair.near.core.enter(0, None).expect("a ring");
        sent(&pair) == whole as u64
    });
    assert!(pair.near.core.connections[key].is_sending(), "nobody has looked for its completion");
    pair.near.send(pair.id, Envelope::data(), &[7; 64]).expect("room");
    pair.near.flush_full_lane(pair.id, Priority::Normal, false);
    assert!(!pair.near.core.connections[key].is_sending(), "it is known by now");
    assert_eq!(sent(&pair), whole as u64);
    // With the rest of it there is a block.
    assert_eq!(pair.near.send_all(pair.id, Envelope::data(), bodies()).queued, whole);
    pair.near.flush_full_lane(pair.id, Priority::Normal, false);
    assert!(sent(&pair) > whole as u64);
}

/// An entry that is queued and not submitted names its socket by number only. When a reactor is
/// dropped the number is somebody else's as soon as the socket is closed.
#[test]
fn dropped_reactor_submits_nothing_for_a_socket_that_is_closed() {
    let mut was_taken = false;
    until(|| {
        let Pair { mut near, far, id, .. } = Pair::new();
        let key = near.core.key(id).expect("connected");
        near.send(id, Envelope::data(), b"for the peer alone").expect("room");
        near.core.connections[key].congested = true;
        near.core.transmit();
        assert!(near.core.connections[key].is_sending());
        assert!(near.core.ring.needs_enter(), "queued and not submitted");
        let number = near.core.connections[key].socket.as_raw_fd();
        let (opened, sockets) = std::sync::mpsc::channel();
        let undelivered = Undelivered {
            priority: Priority::Normal,
            kind: Kind::Data,
            codec: crate::wire::Codec::Opaque,
            type_id: 0,
            is_request: false,
            is_response: false,
            payload: bytes::Bytes::from_owner(Opener(opened)),
            sent: crate::session::lane::Sent::Never,
        };
        // Of what is dropped behind the connections.
        near.core.events.push(Event {
            connection: id,
            address: String::new(),
            node_name: String::new(),
            kind: EventKind::SessionLost { undelivered: vec![undelivered], omitted: 0 },
        });
        drop(near);
        drop(far);
        let sockets = sockets.try_recv().expect("the event is gone");
        was_taken = sockets.iter().any(|socket| socket.as_raw_fd() == number);
        for mut socket in &sockets {
            socket.set_nonblocking(true).expect("a socket");
            let read = io::Read::read(&mut socket, &mut [0; 64]).map_err(|error| error.kind());
            assert_eq!(read, Err(io::ErrorKind::WouldBlock), "somebody else's socket");
        }
        // Other tests open descriptors, too.
        was_taken
    });
}

#[test]
fn dial_after_the_ring_has_failed_ends_with_the_reactor() {
    let mut pair = Pair::new();
    let address = pair.far.addresses()[0].clone();
    let error = io::Error::from_raw_os_error(libc::EBADR);
    pair.near.core.ring_failed(&error);
    let dropped = pair.near.statistics().messages_dropped;
    let late = pair.near.dial(&address).expect("a socket");
    pair.near.core.abandon();
    let ends = std::iter::from_fn(|| pair.near.poll_event())
        .filter(|event| matches!(event.kind, EventKind::Disconnected { .. }))
        .map(|event| event.connection);
    assert_eq!(ends.collect::<Vec<_>>(), [pair.id, late], "each once");
    assert_eq!(pair.near.statistics().messages_dropped, dropped);
}

/// Other threads wake a sleeping reactor through its eventfd: while nobody polls that, it must not
/// sleep.
#[test]
fn reactor_whose_waker_can_not_be_polled_does_not_sleep() {
    let config = Config::builder().idle(Idle::Park).registry(false).build().expect("valid");
    let events = EventQueue::new(&config, 1);
    let registry = registry(&config, 1).expect("memory");
    let mailbox = Arc::new(Mailbox::new(64, 64).expect("an eventfd"));
    let (id, inbox) = (ReactorId::new(next_node(), 0), Inbox::local(&config));
    let block = &registry.blocks()[0];
    let reactor = Reactor::with_parts(config, id, Some(mailbox), inbox, events, block);
    let mut reactor = reactor.expect("a ring");
    let (silent, _peer) = UnixStream::pair().expect("a pair");
    let mut polls = Vec::new();
    while let Some(key) = reactor.core.ring.poll_readable(silent.as_raw_fd(), Tokens::listener(0)) {
        polls.push(key);
    }
    let wait = || Wait::Until(Nanos::now() + Duration::from_millis(20));
    reactor.turn(wait()).expect("the ring works");
    assert!(!reactor.core.mailbox_polled, "the table of operations is full");
    assert_eq!(reactor.core.counters.parks.get(), 0);
    // As soon as there is room it is polled, and the reactor sleeps.
    reactor.core.ring.cancel(polls[0]);
    until(|| {
        reactor.turn(wait()).expect("the ring works");
        reactor.core.counters.parks.get() > 0
    });
    assert!(reactor.core.mailbox_polled);
    polls.into_iter().for_each(|key| reactor.core.ring.cancel(key));
}

/// What a panic carries may panic itself when it is dropped, and that may carry another.
struct Sulky(u32);

impl Drop for Sulky {
    fn drop(&mut self) {
        if let Some(left) = self.0.checked_sub(1) {
            std::panic::panic_any(Self(left));
        }
    }
}

#[test]
fn what_a_handlers_panic_carries_may_panic_too() {
    let mut pair = Pair::new();
    let sulk = || -> () { std::panic::panic_any(Sulky(2)) };
    pair.far.on(Kind::Data, move |_, _| sulk());
    pair.far.on_deadline_missed(move |_, _| sulk());
    pair.far.on_cancelled(move |_, _| sulk());
    let far_id = pair.far.core.id(pair.far_key);
    let key = WatchKey::Type(7);
    pair.far.watch(far_id, key, Duration::from_millis(1)).expect("a session");
    pair.near.send(pair.id, Envelope::data(), b"text").expect("room");
    let request = pair.near.start_request(pair.id, Envelope::command(), b"text", PATIENCE);
    let request = request.expect("room");
    poll(&mut pair.near);
    pair.near.cancel_request(request);
    until(|| {
        poll(&mut pair.near);
        poll(&mut pair.far);
        pair.far.statistics().handler_panics == 3
    });
    assert_eq!(pair.near.state_of(pair.id), ConnectionState::Connected);
}

/// What was dropped while it ran is not the end's.
#[test]
fn report_of_a_ring_that_fails_counts_only_what_followed() {
    let mut pair = Pair::new();
    pair.near.send(pair.id, Envelope::data(), b"lost").expect("room");
    let buffer = pair.take_send();
    pair.near.core.close(pair.key(), CloseReason::Local);
    pair.fail_send(buffer, libc::ENOBUFS);
    assert_eq!(pair.near.statistics().messages_dropped, 1);
    let address = pair.far.addresses()[0].clone();
    let id = pair.near.dial(&address).expect("a socket");
    until(|| {
        poll(&mut pair.near);
        poll(&mut pair.far);
        pair.near.state_of(id) == ConnectionState::Connected
    });
    assert_eq!(pair.near.shutdown_report(), ShutdownReport::default(), "it runs");
    for _ in 0..2 {
        pair.near.send(id, Envelope::data(), b"left behind").expect("room");
    }
    pair.near.core.ring_failed(&io::Error::from_raw_os_error(libc::EBADR));
    let expected = ShutdownReport { connections: 1, flushed: 0, messages_dropped: 2 };
    assert_eq!(pair.near.shutdown_report(), expected);
    assert_eq!(pair.near.shutdown(PATIENCE), expected, "nothing is left to end");
}

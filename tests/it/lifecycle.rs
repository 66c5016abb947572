//! How connections begin and end when something is short: peers that go while nobody takes their
//! messages, what counts as dropped and why, and listeners out of descriptors.

use std::time::Duration;

use ringwire::{
    Client, Config, ConfigBuilder, ConnectionState, Envelope, EventKind, Kind, Pool, PoolConfig,
    ReceiveError, SendError, Server,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::util::{
    CHECKSUM, DATA, Directory, GOODBYE, Greeting, HELLO, NORMAL, PATIENCE, Peer, Plain,
    client_and_peer, echo, endpoint, isolated, open_descriptors, plain_listener, settings, start,
    timed, wait_for, wait_until, warnings,
};

/// An inbox of four messages.
fn tiny_inbox() -> ConfigBuilder {
    settings().inbox_frames_max(4)
}

fn valid(settings: ConfigBuilder) -> Config {
    settings.build().expect("valid")
}

fn numbered(number: u32) -> Vec<u8> {
    let mut payload = vec![number as u8; 4000];
    payload[..4].copy_from_slice(&number.to_le_bytes());
    payload
}

/// More than the inbox holds, and no more than the socket has room for: the end of a stream stands
/// behind its data, so only then can it be seen.
const MESSAGES: u32 = 12;

fn send_all(peer: &mut Peer) {
    for number in 0..MESSAGES {
        peer.send(Plain::new(DATA, NORMAL, &numbered(number)));
    }
}

/// How a peer goes.
type Leave = fn(Peer);

const CLOSE: Leave = drop;
const RESET: Leave = Peer::reset;

/// How often the server has said that somebody left.
fn departures(server: &Server) -> usize {
    std::iter::from_fn(|| server.poll_event())
        .filter(|event| matches!(event.kind, EventKind::Disconnected { .. }))
        .count()
}

/// A peer fills the inbox and goes: nobody takes a message out, and yet the server knows.
fn check_gone(listen: &str, leave: Leave) {
    let server =
        start(echo().config(valid(tiny_inbox().connections_max(2))).listen(listen).reactors(1));
    let address = server.addresses().last().expect("it listens").clone();
    let mut peer = Peer::connect_to(&address);
    send_all(&mut peer);
    wait_for(&server, "it is held back", |s| s.receive_pauses > 0);
    assert_eq!(server.clients().len(), 1);
    leave(peer);

    wait_for(&server, "its end is noticed", |s| s.connections_active == 0);
    assert!(server.clients().is_empty());
    assert_eq!(server.statistics().connections_lost, 1);
    assert_eq!(server.statistics().messages_received, 4, "nobody made room");
    // Its place is free: as many as ever are let in and served.
    let mut others: Vec<_> = (0..2).map(|_| Peer::connect_to(&address)).collect();
    for other in &mut others {
        assert_eq!(other.ask(b"served"), b"served");
    }
    assert_eq!(departures(&server), 0, "not before its last message");

    for number in 0..MESSAGES {
        let message = server.receive(PATIENCE).expect("nothing that came is lost");
        assert_eq!(message.payload()[..], numbered(number));
    }
    wait_until("it is said that it left", || departures(&server) == 1);
    wait_for(&server, "its end is counted", |s| s.closed("peer_closed") + s.closed("socket") == 1);
    assert_eq!(server.statistics().connections_lost, 1, "counted once");
    assert_eq!(others[0].ask(b"still"), b"still");
}

#[test]
fn close_is_noticed_while_the_inbox_is_full() {
    isolated(|| check_gone("127.0.0.1:0", CLOSE));
}

#[test]
fn reset_is_noticed_while_the_inbox_is_full() {
    isolated(|| check_gone("127.0.0.1:0", RESET));
}

#[test]
fn close_of_a_unix_socket_is_noticed_while_the_inbox_is_full() {
    isolated(|| {
        let directory = Directory::new();
        check_gone(&format!("unix:{}", directory.path("socket").display()), CLOSE);
    });
}

/// Whoever floods the inbox is last in line again each time there is room.
#[test]
fn flood_of_one_peer_does_not_hold_back_another() {
    isolated(|| {
        let config = valid(settings().inbox_frames_max(1));
        let server = start(echo().config(config).reactors(1));
        // Whoever of them was held back first.
        for is_calm_first in [false, true] {
            let (mut flood, mut calm) = (Peer::connect(&server), Peer::connect(&server));
            let pauses = server.statistics().receive_pauses;
            for is_calm in [is_calm_first, !is_calm_first] {
                let (peer, count) = if is_calm { (&mut calm, 2) } else { (&mut flood, 1_000) };
                for _ in 0..count {
                    let payload = if is_calm { &b"calm"[..] } else { b"flood" };
                    peer.send(Plain::new(DATA, NORMAL, payload));
                }
                let is_second = u64::from(is_calm != is_calm_first);
                wait_for(&server, "it is held back", |s| s.receive_pauses > pauses + is_second);
            }
            let (mut calm_left, mut before) = (2, 0);
            for _ in 0..1_002 {
                match &server.receive(PATIENCE).expect("one of them").payload()[..] {
                    b"calm" => calm_left -= 1,
                    _ => before += u32::from(calm_left > 0),
                }
            }
            assert!(before < 20, "behind {before} of the other's, {is_calm_first}");
        }
    });
}

/// Those who left and whose messages wait are bounded: beyond it they take places, and are served
/// in the end like the others.
#[test]
fn many_who_left_take_places_and_lose_nothing() {
    isolated(|| {
        let server = start(echo().config(valid(tiny_inbox().connections_max(1))));
        for round in 1..=2 {
            let mut peer = Peer::connect(&server);
            send_all(&mut peer);
            wait_for(&server, "it is held back", |s| s.receive_pauses >= round);
            drop(peer);
            wait_for(&server, "its end is noticed", |s| s.connections_lost == round);
        }
        let mut refused = Peer::dial(&server.addresses()[0]);
        refused.expect_end();
        assert_eq!(server.statistics().closed("connection_limit"), 1);
        for _ in 0..2 * MESSAGES {
            server.receive(PATIENCE).expect("nothing that came is lost");
        }
        wait_for(&server, "their ends are counted", |s| s.closed("peer_closed") == 2);
        assert_eq!(Peer::connect(&server).ask(b"room"), b"room");
    });
}

#[test]
fn shutdown_does_not_report_those_who_left() {
    isolated(|| {
        let server = start(echo().config(valid(tiny_inbox())));
        let mut gone = Peer::connect(&server);
        let mut well = Peer::connect(&server);
        send_all(&mut gone);
        wait_for(&server, "it is held back", |s| s.receive_pauses > 0);
        drop(gone);
        wait_for(&server, "its end is noticed", |s| s.connections_active == 1);
        let handle = server.handle();
        let ending = std::thread::spawn(move || timed(|| server.shutdown(PATIENCE)));
        well.expect_end();
        drop(well);
        // Other threads may still receive what came before.
        for number in 0..MESSAGES {
            let message = handle.receive(PATIENCE).expect("nothing that came is lost");
            assert_eq!(message.payload()[..], numbered(number));
        }
        let (report, took) = ending.join().expect("no panic");
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (1, 1, 0));
        assert!(took < PATIENCE / 2, "{took:?}");
    });
}

#[test]
fn shutdown_with_messages_that_nobody_takes_keeps_its_deadline() {
    isolated(|| {
        let server = start(echo().config(valid(tiny_inbox())));
        let mut gone = Peer::connect(&server);
        send_all(&mut gone);
        wait_for(&server, "it is held back", |s| s.receive_pauses > 0);
        drop(gone);
        wait_for(&server, "its end is noticed", |s| s.connections_active == 0);
        let (report, took) = timed(|| server.shutdown(Duration::from_millis(200)));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (0, 0, 0));
    });
}

/// A client whose server goes while its inbox is full; `act` comes between.
fn check_client(leave: Leave, act: impl FnOnce(&mut Client)) {
    let (mut client, mut peer) = client_and_peer(valid(tiny_inbox()));
    send_all(&mut peer);
    wait_until("it is held back", || {
        client.poll();
        client.statistics().receive_pauses > 0
    });
    // Submits what watches for the end.
    client.poll();
    leave(peer);
    act(&mut client);
    wait_until("the end is noticed", || {
        client.poll();
        client.connection_state() != ConnectionState::Connected
    });
    assert_eq!(client.connection_state(), ConnectionState::Closing);
    assert_eq!(client.statistics().connections_active, 0);
    assert_eq!(client.send(Envelope::data(), b"x"), Err(SendError::NotConnected));
    for number in 0..MESSAGES {
        let message = client.receive(PATIENCE).expect("nothing that came is lost");
        assert_eq!(message.payload()[..], numbered(number));
    }
    assert_eq!(client.receive(PATIENCE).map(drop), Err(ReceiveError::NotConnected));
    assert_eq!(client.connection_state(), ConnectionState::Disconnected);
}

#[test]
fn client_with_a_full_inbox_notices_a_close() {
    isolated(|| check_client(CLOSE, |_| {}));
}

#[test]
fn client_with_a_full_inbox_notices_a_reset() {
    isolated(|| check_client(RESET, |_| {}));
}

/// The failing send is seen before the socket's own end; it must not take the messages with it.
#[test]
fn failed_send_does_not_lose_what_waits_for_the_inbox() {
    isolated(|| {
        check_client(RESET, |client| {
            client.send(Envelope::data(), b"into the void").expect("not noticed yet");
        });
    });
}

/// The same while frames wait for their turn, not for room.
#[test]
fn failed_send_does_not_lose_what_waits_for_its_turn() {
    isolated(|| {
        const FRAMES: usize = 1500;
        let (mut client, mut peer) = client_and_peer(valid(settings()));
        client.on(Kind::Data, |_, _| {});
        let burst: Vec<u8> =
            (0..FRAMES).flat_map(|_| peer.stamp(Plain::new(DATA, NORMAL, &[])).encode()).collect();
        peer.write(&burst);
        wait_until("the first come", || {
            client.poll();
            client.statistics().messages_received > 0
        });
        let first = client.statistics().messages_received;
        assert!(first < FRAMES as u64, "some wait for the next turn");
        peer.reset();
        client.send(Envelope::data(), b"into the void").expect("not noticed yet");
        wait_until("the end is noticed", || {
            client.poll();
            client.connection_state() == ConnectionState::Disconnected
        });
        assert_eq!(client.statistics().messages_received, FRAMES as u64);
    });
}

#[test]
fn client_may_leave_and_come_back_after_its_server_left() {
    isolated(|| {
        let server = start(echo());
        let (mut client, mut peer) = client_and_peer(valid(tiny_inbox()));
        send_all(&mut peer);
        wait_until("it is held back", || {
            client.poll();
            client.statistics().receive_pauses > 0
        });
        drop(peer);
        wait_until("the end is noticed", || {
            client.poll();
            client.connection_state() == ConnectionState::Closing
        });
        // What waits is given up: only this thread could take it.
        let (report, took) = timed(|| client.disconnect(PATIENCE));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.messages_dropped), (0, 0));
        client.connect(&endpoint(&server)).expect("it listens");
        while client.receive(Duration::ZERO).is_ok() {}
        client.request(Envelope::command(), b"x", PATIENCE).expect("an answer");
    });
}

/// A frame that waits for receive memory, not for the inbox.
#[test]
fn close_is_noticed_while_memory_is_short() {
    isolated(|| {
        const STALLED: u64 = 40;
        let config = settings().frame_bytes_max(1 << 20).receive_memory_bytes(2 << 20);
        let server = start(echo().config(valid(config)));
        let payload = vec![7; 80_000];
        // More frames begun, each larger than a window, than there are buffers for.
        let stalled: Vec<_> = (0..STALLED)
            .map(|_| {
                let mut peer = Peer::connect(&server);
                let frame = peer.stamp(Plain::new(DATA, NORMAL, &payload)).encode();
                peer.write(&frame[..70_000]);
                peer
            })
            .collect();
        wait_for(&server, "memory is short", |s| s.receive_pauses > 0);
        let mut gone = Peer::connect(&server);
        gone.send(Plain::new(DATA, NORMAL, &payload));
        drop(gone);
        wait_for(&server, "its end is noticed", |s| s.connections_active == STALLED);
        assert_eq!(server.statistics().messages_received, 0, "it waits for memory");
        drop(stalled);
        let message = server.receive(PATIENCE).expect("nothing that came is lost");
        assert_eq!(message.payload()[..], payload);
    });
}

/// Reads what still comes, and says how many messages came whole.
fn read_out(peer: &mut Peer) -> u64 {
    let mut messages = 0;
    while peer.try_frame().is_ok() {
        messages += 1;
    }
    messages
}

/// A connection is given up while blocks of many frames are in flight: what counts as dropped is
/// exactly what the peer can not read.
#[test]
fn messages_that_the_kernel_took_are_not_dropped() {
    isolated(|| {
        for bytes in [10, 1000, 30_000] {
            let settings = settings().tcp_send_buffer_bytes(64 << 10);
            let (mut client, mut peer) = client_and_peer(valid(settings));
            let mut admitted = 0;
            let mut refused = 0;
            while refused < 20 {
                match client.send(Envelope::data(), &vec![1; bytes]) {
                    Ok(()) => admitted += 1,
                    Err(_) => {
                        refused += 1;
                        client.poll();
                    }
                }
            }
            let report = client.disconnect(Duration::from_millis(100));
            assert_eq!(client.statistics().closed("drain_timeout"), 1);
            assert!(report.messages_dropped > 0, "{report:?}");
            assert_eq!(client.statistics().messages_dropped, report.messages_dropped);
            assert_eq!(read_out(&mut peer), admitted - report.messages_dropped, "of {bytes} bytes");
        }
    });
}

/// The same on a server, which says it with the event.
#[test]
fn event_tells_exactly_what_was_dropped() {
    isolated(|| {
        let config = settings().tcp_send_buffer_bytes(64 << 10);
        let server = start(echo().config(valid(config)));
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        let mut admitted = 0;
        while server.send_to(id, Envelope::data(), &[1; 3000]).is_ok() {
            admitted += 1;
        }
        server.disconnect(id, Duration::from_millis(100)).expect("it runs");
        let mut dropped = None;
        wait_until("it is said that it left", || {
            while let Some(event) = server.poll_event() {
                if let EventKind::Disconnected { messages_dropped, .. } = event.kind {
                    dropped = Some(messages_dropped);
                }
            }
            dropped.is_some()
        });
        assert_eq!(dropped, Some(server.statistics().messages_dropped));
        assert!(dropped > Some(0), "the lane was full");
        assert_eq!(Some(admitted - read_out(&mut peer)), dropped);
    });
}

/// Whoever reads the statistics sees which rule was broken.
#[test]
fn each_way_to_break_the_protocol_has_its_counter() {
    isolated(|| {
        let server = start(echo());
        let sound = Plain::new(DATA, NORMAL, b"x").sequence(1).encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            bytes
        };
        let damaged = {
            let frame = Plain::new(DATA, NORMAL, b"x").sequence(1).flags(CHECKSUM);
            let mut bytes = frame.encode();
            bytes[12] ^= 1;
            bytes
        };
        let ways = [
            ("protocol.magic", with(0, 0)),
            ("protocol.version", with(2, 9)),
            ("protocol.kind", with(3, 0x7f)),
            ("protocol.flags", with(4, 0x80)),
            ("protocol.priority", with(5, 9)),
            ("protocol.codec", with(6, 99)),
            ("protocol.reserved", with(7, 1)),
            ("protocol.padding", with(47, 1)),
            ("protocol.length", with(11, 0xff)),
            ("protocol.checksum", damaged),
            ("protocol.unexpected", Greeting::default().frame(HELLO).encode()),
            ("protocol.sequence", with(16, 5)),
        ];
        for (name, bytes) in &ways {
            let mut peer = Peer::connect(&server);
            peer.write(bytes);
            peer.expect_end();
            wait_for(&server, name, |s| s.closed(name) == 1);
        }
        for (name, bytes) in [
            ("protocol.checksum_missing", Plain::new(HELLO, 4, &[0; 96]).encode()),
            ("protocol.handshake", Plain::new(HELLO, 4, &[0; 7]).flags(CHECKSUM).encode()),
        ] {
            let mut peer = Peer::dial(&server.addresses()[0]);
            peer.write(&bytes);
            peer.expect_end();
            wait_for(&server, name, |s| s.closed(name) == 1);
        }
        let statistics = server.statistics();
        assert_eq!(statistics.closed("protocol"), ways.len() as u64 + 2);
        let text = statistics.to_string();
        assert!(text.contains("1 protocol.checksum,"), "{text}");
    });
}

#[test]
fn outage_of_accepting_is_said_once_when_it_begins_and_ends() {
    isolated(|| {
        let warnings = warnings();
        // An accept keeps the limit of when it was armed, so the limit comes first.
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let limit = |to| {
            setrlimit(Resource::Nofile, Rlimit { current: Some(to), maximum }).expect("lower");
        };
        limit(open_descriptors() as u64 + 30);
        let server = start(echo());
        let ringwire::Address::Tcp(address) = server.addresses()[0] else { panic!("TCP") };
        // One socket for this side is made before all others are used up.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a descriptor");
        let filler: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        assert!(!filler.is_empty(), "the limit is met");
        socket.connect(&address.into()).expect("the kernel's queue has room");
        wait_for(&server, "several attempts have failed", |s| s.accept_errors >= 4);
        drop(filler);
        let mut peer = Peer::new(crate::util::Stream::Tcp(socket.into()));
        peer.write(&Greeting::default().frame(HELLO).encode());
        wait_for(&server, "it is let in", |s| s.connections_established == 1);
        let failed = server.statistics().accept_errors;
        limit(current.unwrap_or(4096));
        drop(server);
        let warnings: Vec<String> = warnings.try_iter().collect();
        assert_eq!(warnings.len(), 2, "{failed} attempts failed: {warnings:#?}");
        assert!(warnings[0].contains("ulimit -n"), "{warnings:#?}");
        assert!(warnings[1].contains(&format!("attempts={failed} ")), "{warnings:#?}");
    });
}

struct Panicking;

impl ringwire::Body for Panicking {
    fn encode(
        &self,
        _: &mut [u8],
        _: &mut ringwire::Scratch,
    ) -> Result<usize, ringwire::BodyError> {
        panic!("on purpose");
    }
}

/// A body that panics costs neither memory nor a request's place, however often.
#[test]
fn panicking_body_costs_nothing() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    isolated(|| {
        let server = start(echo());
        let config = valid(settings().requests_max(2).send_memory_bytes(8 << 20));
        let mut client = crate::util::client_with(config, &endpoint(&server));
        std::panic::set_hook(Box::new(|_| {}));
        for _ in 0..1000 {
            let send = AssertUnwindSafe(|| client.send(Envelope::data(), &Panicking));
            assert!(catch_unwind(send).is_err());
            let ask = AssertUnwindSafe(|| {
                client.start_request(Envelope::command(), &Panicking, PATIENCE)
            });
            assert!(catch_unwind(ask).is_err());
        }
        let _ = std::panic::take_hook();
        let answer = client.request(Envelope::command(), &vec![5; 100_000], PATIENCE);
        assert_eq!(answer.expect("memory and a place").payload().len(), 100_000);
    });
}

/// What had been queued when a body panicked leaves with the next poll.
#[test]
fn messages_before_a_panic_leave() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(crate::util::config());
        client.send(Envelope::data(), b"first").expect("room");
        assert_eq!(client.flush_within(PATIENCE), Ok(()));
        assert_eq!(peer.frame().payload, b"first");
        std::panic::set_hook(Box::new(|_| {}));
        let bodies = [b"one", b"two", b"bad"].into_iter().inspect(|body| {
            assert_ne!(&body[..], b"bad", "on purpose");
        });
        let send = AssertUnwindSafe(|| client.send_all(Envelope::data(), bodies));
        assert!(catch_unwind(send).is_err());
        let _ = std::panic::take_hook();
        client.flush();
        assert_eq!(peer.frame().payload, b"one");
        assert_eq!(peer.frame().payload, b"two");
    });
}

/// Nor does a panic of who reads an answer in place cost its connection.
#[test]
fn panic_over_an_answer_costs_nothing() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    isolated(|| {
        let server = start(echo());
        let config = valid(settings().requests_max(2));
        let mut client = crate::util::client_with(config, &endpoint(&server));
        std::panic::set_hook(Box::new(|_| {}));
        for _ in 0..10 {
            let ask = AssertUnwindSafe(|| {
                client.request_with(Envelope::command(), b"?", PATIENCE, |_| panic!("on purpose"))
            });
            let panic = catch_unwind(ask).expect_err("it comes through");
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
        }
        let _ = std::panic::take_hook();
        for number in 0..100_u8 {
            let answer = client.request(Envelope::command(), &[number; 900], PATIENCE);
            assert_eq!(answer.expect("answered").payload()[..], [number; 900]);
        }
        assert_eq!(server.statistics().connections_established, 1);
        assert_eq!(client.statistics().connections_lost, 0);
    });
}

/// Sends more than the inbox of [`tiny_inbox`] holds; then reads up to the goodbye, and closes.
fn talks_until_told_goodbye(mut peer: Peer) -> std::thread::JoinHandle<()> {
    for number in 0..6 {
        peer.send(Plain::new(DATA, NORMAL, &numbered(number)));
    }
    std::thread::spawn(move || while peer.frame().kind != GOODBYE {})
}

/// Who disconnects waits for its peer, and not for room that only it could make.
#[test]
fn client_with_a_full_inbox_disconnects_as_soon_as_its_server_has_closed() {
    isolated(|| {
        let (mut client, peer) = client_and_peer(valid(tiny_inbox()));
        let peer = talks_until_told_goodbye(peer);
        wait_until("the inbox is full", || {
            client.poll();
            client.statistics().receive_pauses > 0
        });
        let (report, took) = timed(|| client.disconnect(PATIENCE));
        assert_eq!((report.connections, report.flushed), (1, 1), "{report:?}");
        assert!(took < PATIENCE / 2, "{took:?}");
        peer.join().expect("it was told goodbye");
        for number in 0..4 {
            let message = client.receive(Duration::ZERO).expect("it had come");
            assert_eq!(message.payload()[..], numbered(number));
        }
    });
}

#[test]
fn pool_with_a_full_inbox_disconnects_as_soon_as_its_servers_have_closed() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let accepting = std::thread::spawn(move || Peer::accept(&listener));
        let plan = PoolConfig::builder(&endpoint).build().expect("valid");
        let mut pool = Pool::new(valid(tiny_inbox()), plan).expect("a ring");
        pool.connect().expect("room");
        pool.wait_ready(PATIENCE).expect("the peer listens");
        let peer = talks_until_told_goodbye(accepting.join().expect("the handshake completes"));
        wait_until("the inbox is full", || {
            pool.poll();
            pool.reactor().statistics().receive_pauses > 0
        });
        let (report, took) = timed(|| pool.disconnect(PATIENCE));
        assert_eq!((report.connections, report.flushed), (1, 1), "{report:?}");
        assert!(took < PATIENCE / 2, "{took:?}");
        peer.join().expect("it was told goodbye");
    });
}

#[test]
fn number_of_reactors_is_bounded() {
    isolated(|| {
        for (count, text) in [
            (0, "reactors = 0 is out of bounds: 1 to 256"),
            (257, "reactors = 257 is out of bounds: 1 to 256"),
            (usize::MAX, "is out of bounds: 1 to 256"),
        ] {
            let error = echo().reactors(count).start().expect_err("out of bounds");
            assert!(matches!(error, ringwire::SetupError::Config(_)), "{error:?}");
            assert!(error.to_string().contains(text), "{error}");
        }
    });
}

/// `localhost` is every address that the resolver names and the machine has, on one port.
fn check_localhost(reactors: usize) {
    use std::net::{TcpListener, ToSocketAddrs};
    let server = start(
        Server::builder()
            .config(valid(settings()))
            .reactors(reactors)
            .listen("localhost:0")
            .on(Kind::Command, |context, frame| {
                context.reply(Envelope::status(), frame.payload()).expect("room")
            }),
    );
    let ringwire::Address::Tcp(first) = server.addresses()[0] else { panic!("TCP") };
    let mut expected: Vec<ringwire::Address> = Vec::new();
    for address in ("localhost", 0).to_socket_addrs().expect("a resolver") {
        let with_port = ringwire::Address::Tcp((address.ip(), first.port()).into());
        if TcpListener::bind(address).is_ok() && !expected.contains(&with_port) {
            expected.push(with_port);
        }
    }
    assert_eq!(server.addresses(), expected);
    for address in server.addresses() {
        assert_eq!(Peer::connect_to(address).ask(b"here"), b"here");
    }
    let mut client =
        crate::util::client_with(valid(settings()), &format!("localhost:{}", first.port()));
    client.request(Envelope::command(), b"x", PATIENCE).expect("an answer");
    // As long as it is listened on, no address of it can be had by another.
    let again = Server::builder().config(valid(settings()));
    let again = again.listen(format!("localhost:{}", first.port())).start();
    let text = again.expect_err("taken").to_string();
    assert!(text.contains("localhost:") && text.contains("another process"), "{text}");
}

#[test]
fn localhost_is_listened_on_at_all_its_addresses() {
    isolated(|| check_localhost(1));
}

#[test]
fn reactors_share_all_addresses_of_localhost() {
    isolated(|| check_localhost(2));
}

//! Dropping anything at any moment leaves no descriptor and no memory behind, and harms nobody.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringwire::{
    Address, Client, CloseReason, Envelope, EventKind, Idle, Kind, Nanos, Node, Reactor, Server,
    Wait,
};

use crate::util::{
    COMMAND, DATA, Greeting, HELLO, NORMAL, PATIENCE, Peer, Plain, client, client_and_peer,
    client_with, config, echo, endpoint, isolated, open_descriptors, pattern, plain_listener,
    resident_kib, settings, start, timed, wait_for, wait_until,
};

const ROUNDS: usize = 200;

/// What a round may leave behind of resident memory. A window that is leaked has 64.
const ROUND_KIB_MAX: usize = 16;

/// Makes and drops something 200 times; neither descriptors nor memory grow. Memory by the part of
/// the rounds that took least: what leaks does so in each, and what is touched for the first time,
/// once.
fn check(mut round: impl FnMut(usize)) {
    for number in 0..20 {
        round(number);
    }
    wait_until("the first rounds are over", || open_descriptors() < 64);
    let descriptors = open_descriptors();
    let part = ROUNDS / 4;
    let grown: Vec<usize> = (0..4)
        .map(|number| {
            let resident = resident_kib();
            for number in part * number..part * (number + 1) {
                round(number);
            }
            wait_until("every descriptor is closed", || open_descriptors() <= descriptors);
            resident_kib().saturating_sub(resident)
        })
        .collect();
    let least = grown.iter().min().expect("four parts");
    assert!(*least < ROUND_KIB_MAX * part, "{grown:?} KiB more in {part} rounds each");
    assert!(grown.iter().sum::<usize>() < 16_384, "{grown:?} KiB more after {ROUNDS} rounds");
}

fn address(server: &Server) -> Address {
    server.addresses()[0].clone()
}

fn small() -> ringwire::Config {
    let settings = settings().connections_max(4).send_memory_bytes(8 << 20);
    settings.receive_memory_bytes(8 << 20).build().expect("valid")
}

/// A reactor of its own, and a turn that does not wait.
fn reactor() -> Reactor {
    Reactor::new(&small()).expect("a ring")
}

fn turn(reactor: &mut Reactor) {
    reactor.turn(Wait::Poll).expect("a working ring");
}

#[test]
fn client_mid_connect() {
    isolated(|| {
        // A listener whose accept queue is full answers no more.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        socket
            .bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("valid").into())
            .expect("loopback");
        socket.listen(0).expect("bound");
        let target = socket.local_addr().expect("bound").as_socket().expect("IPv4");
        let _filler = std::net::TcpStream::connect(target).expect("the one place");
        check(|_| {
            let mut reactor = reactor();
            let id = reactor.dial(&Address::Tcp(target)).expect("a socket");
            turn(&mut reactor);
            turn(&mut reactor);
            let info = reactor.connection(id).expect("still under way");
            assert!(!info.is_established);
        });
    });
}

#[test]
fn client_mid_handshake() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let target = Address::Tcp(endpoint.parse().expect("an address"));
        check(|_| {
            let mut reactor = reactor();
            let id = reactor.dial(&target).expect("a socket");
            let mut peer = Peer::new(crate::util::Stream::Tcp(loop {
                turn(&mut reactor);
                listener.set_nonblocking(true).expect("an option");
                if let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(false).expect("an option");
                    break stream;
                }
            }));
            turn(&mut reactor);
            turn(&mut reactor);
            assert_eq!(peer.frame().kind, HELLO);
            assert!(!reactor.connection(id).expect("in the handshake").is_established);
            drop(reactor);
            peer.expect_end();
        });
    });
}

/// Queues `messages` of `bytes` that the peer does not read, and drops the client.
fn check_mid_send(idle: Idle, bytes: usize, zero_copy: bool) {
    let zero_copy_bytes_min = if zero_copy { 16 << 10 } else { 0 };
    let settings = settings().idle(idle).zero_copy_bytes_min(zero_copy_bytes_min);
    let config = settings.send_memory_bytes(16 << 20).build().expect("valid");
    let payload = pattern(bytes, 1);
    check(|_| {
        let (mut client, peer) = client_and_peer(config.clone());
        let mut admitted = 0;
        while client.send(Envelope::data(), &payload).is_ok() && admitted < 200 {
            admitted += 1;
            client.poll();
        }
        let queued = client.connection().expect("connected").bytes_queued;
        assert!(queued > 0, "a send is in flight: {admitted}");
        let ((), took) = timed(|| drop(client));
        // The peer reads nothing: whoever waited for it would wait for ever.
        assert!(took < PATIENCE / 2, "dropping took {took:?}");
        drop(peer);
    });
}

#[test]
fn client_mid_send_of_mebibytes() {
    isolated(|| check_mid_send(Idle::Park, 3 << 20, false));
}

#[test]
fn client_mid_zero_copy_send_of_mebibytes() {
    isolated(|| check_mid_send(Idle::Park, 3 << 20, true));
}

#[test]
fn client_mid_request() {
    isolated(|| {
        check(|_| {
            let (mut client, mut peer) = client_and_peer(small());
            client.start_request(Envelope::command(), b"?", PATIENCE).expect("room");
            client.flush();
            peer.frame();
            drop(client);
            peer.expect_end();
        });
    });
}

#[test]
fn server_with_everything_in_flight() {
    isolated(|| {
        check(|round| {
            let server = start(echo().config(small()).on(Kind::Data, |context, _| {
                let _ = context.reply(Envelope::data(), &vec![1; 500_000]);
            }));
            let _silent = Peer::dial(&address(&server));
            let mut half = Peer::dial(&address(&server));
            half.write(&Greeting::default().frame(HELLO).encode()[..40]);
            let mut asking = Peer::connect(&server);
            for _ in 0..8 {
                asking.send(Plain::new(DATA, NORMAL, b"much, please"));
            }
            asking.send(Plain::new(COMMAND, NORMAL, b"and"));
            if round % 2 == 0 {
                wait_for(&server, "all is in flight", |s| s.messages_received == 9);
            }
            drop(server);
        });
    });
}

#[test]
fn connections_accepted_and_not_yet_seen_are_closed() {
    isolated(|| {
        check(|round| {
            let mut reactor = reactor();
            let endpoint = "127.0.0.1:0".parse().expect("valid");
            let target = reactor.listen(&endpoint).expect("a free port");
            turn(&mut reactor);
            let mut peers: Vec<_> = (0..3).map(|_| Peer::dial(&target)).collect();
            match round % 3 {
                0 => drop(reactor),
                1 => {
                    let _ = reactor.shutdown(Duration::ZERO);
                    drop(reactor);
                }
                _ => {
                    turn(&mut reactor);
                    drop(reactor);
                }
            }
            for peer in &mut peers {
                peer.expect_end();
            }
        });
    });
}

#[test]
fn node_and_its_connections() {
    isolated(|| {
        let server = start(echo());
        check(|_| {
            let node = Node::builder().config(small()).reactors(2).start().expect("it starts");
            let id = node.connect(&endpoint(&server), 1).expect("it listens");
            for _ in 0..5 {
                node.post_to(id, Envelope::command(), &vec![1; 100_000]).expect("room");
            }
            drop(node);
        });
        wait_for(&server, "all are gone", |s| s.connections_active == 0);
    });
}

#[test]
fn client_reconnects_again_and_again() {
    isolated(|| {
        let server = start(echo());
        let mut client = client(&endpoint(&server));
        check(|_| {
            client.request(Envelope::command(), b"x", PATIENCE).expect("an answer");
            assert_eq!(client.disconnect(PATIENCE).flushed, 1);
            client.connect(&endpoint(&server)).expect("it listens");
        });
    });
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    isolated(|| {
        let server = start(echo());
        check(|round| {
            let mut peer = Peer::connect(&server);
            peer.send(Plain::new(DATA, NORMAL, &pattern(200_000, 1)));
            server.receive(PATIENCE).expect("a message");
            if round % 2 == 0 {
                peer.reset();
            }
        });
        wait_for(&server, "all are gone", |s| s.connections_active == 0);
    });
}

/// The other process of [`peer_killed_mid_traffic`]: sends until it is killed.
const VICTIM: &str = "RINGWIRE_IT_VICTIM";

#[test]
fn peer_killed_mid_traffic() {
    if let Some(endpoint) = std::env::var_os(VICTIM) {
        let endpoint = endpoint.into_string().expect("UTF-8");
        let mut client = client_with(config(), &endpoint);
        let deadline = Nanos::now() + PATIENCE;
        while Nanos::now() < deadline {
            let _ = client.send(Envelope::data(), &pattern(50_000, 1));
            client.poll();
        }
        return;
    }
    isolated(|| {
        let mut reactor = Reactor::new(&config()).expect("a ring");
        let target = reactor.listen(&"127.0.0.1:0".parse().expect("valid")).expect("a free port");
        let server = start(echo());
        for _ in 0..3 {
            let received_before = reactor.statistics().messages_received;
            let mut victim = Command::new(std::env::current_exe().expect("Linux has /proc"))
                .args(["drops::peer_killed_mid_traffic", "--exact", "--test-threads=1"])
                .env(VICTIM, target.to_string())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("it runs");
            let mut kill = Some(());
            let deadline = Nanos::now() + PATIENCE;
            let reason = loop {
                assert!(Nanos::now() < deadline, "in time");
                reactor.turn(Wait::Until(deadline)).expect("a working ring");
                while reactor.receive().is_some() {}
                if reactor.statistics().messages_received > received_before + 20
                    && kill.take().is_some()
                {
                    victim.kill().expect("our own child");
                }
                let mut ended = None;
                while let Some(event) = reactor.poll_event() {
                    if let EventKind::Disconnected { reason, established, .. } = event.kind {
                        assert!(established, "it was mid-traffic");
                        ended = Some(reason);
                    }
                }
                if let Some(reason) = ended {
                    break reason;
                }
            };
            victim.wait().expect("our own child");
            assert!(
                matches!(reason, CloseReason::PeerClosed | CloseReason::Socket { .. }),
                "{reason:?}"
            );
        }
        assert_eq!(reactor.statistics().connections_lost, 3);
        assert_eq!(Peer::connect(&server).ask(b"x"), b"x");
    });
}

#[test]
fn peer_that_vanishes_mid_frame_harms_nobody() {
    isolated(|| {
        let server = start(echo());
        let mut well: Client = client(&endpoint(&server));
        for cut in [1, 40, 70_000, 500_000] {
            let mut peer = Peer::connect(&server);
            let frame = peer.stamp(Plain::new(DATA, NORMAL, &pattern(600_000, 2))).encode();
            peer.stream.write_all(&frame[..cut]).expect("it reads");
            peer.reset();
            well.request(Envelope::command(), b"x", PATIENCE).expect("an answer");
        }
        wait_for(&server, "they are gone", |s| s.connections_active == 1);
    });
}

//! Messages between both ends of the library: under every idle strategy, through the trait, and
//! counted.

use std::time::Duration;

use bytes::Bytes;
use ringwire::transport::ServerTransport;
use ringwire::{
    Address, Client, ConfigBuilder, ConnectionState, Envelope, Idle, Kind, Nanos, Priority, Server,
    Transport,
};

use crate::util::{
    DATA, Directory, EXTENDED, NORMAL, PATIENCE, Peer, Plain, STATUS, client_and_peer, client_with,
    echo, endpoint, isolated, pattern, settings, start, timed, wait_for,
};

/// Requests, messages both ways and an orderly end, with both ends idling as told.
fn check_idle(idle: Idle) {
    let config = settings().idle(idle).build().expect("valid");
    let server = start(echo().config(config.clone()));
    let mut client = client_with(config, &endpoint(&server));
    for number in 0..200_u32 {
        let answer = client.request(Envelope::command(), &number.to_le_bytes(), PATIENCE);
        assert_eq!(answer.expect("an answer").payload()[..], number.to_le_bytes());
    }
    for number in 0..500_u32 {
        client.send(Envelope::data(), &number.to_le_bytes()).expect("room");
    }
    client.flush();
    for number in 0..500_u32 {
        let message = server.receive(PATIENCE).expect("a message");
        assert_eq!(message.payload()[..], number.to_le_bytes());
        assert_eq!(message.kind(), Kind::Data);
    }
    let id = server.clients()[0].id;
    for number in 0..500_u32 {
        server.send_to(id, Envelope::data(), &number.to_le_bytes()).expect("room");
    }
    for number in 0..500_u32 {
        assert_eq!(client.receive(PATIENCE).expect("one").payload()[..], number.to_le_bytes());
    }
    assert_eq!(client.disconnect(PATIENCE).flushed, 1);
    wait_for(&server, "the client is gone", |statistics| statistics.connections_active == 0);
}

#[test]
fn spinning_ends_exchange() {
    isolated(|| check_idle(Idle::Spin));
}

#[test]
fn adaptive_ends_exchange() {
    isolated(|| check_idle(Idle::Adaptive));
}

#[test]
fn parked_ends_exchange() {
    isolated(|| check_idle(Idle::Park));
}

/// Frames long enough for zero copy, both ways at once, at the defaults but for the idle strategy.
fn check_large_over_unix(idle: Idle) {
    let directory = Directory::new();
    let config = settings().idle(idle).build().expect("valid");
    let unix = format!("unix:{}", directory.path("socket").display());
    let server = start(Server::builder().config(config.clone()).listen(&unix));
    let mut client = client_with(config, &unix);
    wait_for(&server, "it is here", |statistics| statistics.connections_active == 1);
    let id = server.clients()[0].id;
    for round in 0..3 {
        for bytes in [16 << 10, 100_000, 1 << 20] {
            let (there, back) = (pattern(bytes, round), pattern(bytes, round + 100));
            client.send(Envelope::data(), &there).expect("room");
            server.send_to(id, Envelope::data(), &back).expect("room");
            assert_eq!(client.receive(PATIENCE).expect("it comes").payload()[..], back);
            client.flush_within(PATIENCE).expect("it leaves");
            assert_eq!(server.receive(PATIENCE).expect("it comes").payload()[..], there);
        }
    }
    assert_eq!(client.disconnect(PATIENCE).flushed, 1);
    let (report, took) = timed(|| server.shutdown(PATIENCE));
    assert_eq!(report.messages_dropped, 0);
    assert!(took < PATIENCE / 2, "{took:?}");
}

#[test]
fn spinning_ends_exchange_large_frames_over_unix() {
    isolated(|| check_large_over_unix(Idle::Spin));
}

#[test]
fn adaptive_ends_exchange_large_frames_over_unix() {
    isolated(|| check_large_over_unix(Idle::Adaptive));
}

#[test]
fn parked_ends_exchange_large_frames_over_unix() {
    isolated(|| check_large_over_unix(Idle::Park));
}

/// A socket that took a part of a frame makes the rest wait; once that has left, sends go by
/// system calls of their own again.
#[test]
fn direct_sends_resume_after_a_short_one() {
    isolated(|| [Idle::Spin, Idle::Park].into_iter().for_each(check_short_send));
}

fn check_short_send(idle: Idle) {
    let config = settings().idle(idle).tcp_send_buffer_bytes(64 << 10);
    let config = config.zero_copy_bytes_min(0).build().expect("valid");
    let (mut client, mut peer) = client_and_peer(config);
    for round in 0..3 {
        let large = pattern(3 << 20, round);
        let short_before = client.statistics().short_sends;
        client.send(Envelope::data(), &large).expect("room");
        let _ = client.poll();
        assert!(client.statistics().short_sends > short_before, "it did not fit the socket");
        let reading = std::thread::spawn(move || (peer.frame(), peer));
        client.flush_within(PATIENCE).expect("the peer reads");
        let frame;
        (frame, peer) = reading.join().expect("no panic");
        assert_eq!(frame.payload, large);
        for number in 0..3_u8 {
            let before = client.statistics().direct_sends;
            client.send(Envelope::data(), &[number; 20]).expect("room");
            client.flush_within(PATIENCE).expect("the peer reads");
            assert_eq!(peer.frame().payload, [number; 20]);
            assert_eq!(client.statistics().direct_sends, before + 1);
        }
    }
}

/// Messages of 64 KiB leave several at once, also when the socket takes a part of them only.
fn check_long_ones_go_along(endpoint: &str, config: ConfigBuilder) {
    let config = config.lane_bytes_max(1 << 20).build().expect("valid");
    let server =
        start(Server::builder().config(settings().build().expect("valid")).listen(endpoint));
    let address = match &server.addresses()[0] {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    };
    let mut client = client_with(config, &address);
    let bodies: Vec<Bytes> = (0..60).map(|seed| Bytes::from(pattern(64 << 10, seed))).collect();
    let (before, mut rest) = (client.statistics(), &bodies[..]);
    let mut received = 0;
    let mut check_one = |timeout: Duration| match server.receive(timeout) {
        Ok(message) => {
            assert!(message.payload()[..] == bodies[received], "message {received}");
            received += 1;
            received
        }
        Err(_) => received,
    };
    while !rest.is_empty() {
        let report = client.send_all(Envelope::data(), rest);
        rest = &rest[report.queued..];
        let _ = client.poll();
        check_one(Duration::ZERO);
    }
    client.flush_within(PATIENCE).expect("the peer reads");
    while check_one(PATIENCE) < bodies.len() {}
    let after = client.statistics();
    let sends = after.direct_sends - before.direct_sends;
    assert_eq!(after.messages_sent - before.messages_sent, 60);
    assert!(sends <= 45, "{sends} calls for 60 messages");
    assert_eq!(client.disconnect(PATIENCE).messages_dropped, 0);
}

#[test]
fn long_messages_leave_several_at_once() {
    isolated(|| {
        for_each_idle(|idle| check_long_ones_go_along("127.0.0.1:0", settings().idle(idle)));
    });
}

#[test]
fn long_messages_that_do_not_fit_the_socket_arrive_all_the_same() {
    isolated(|| {
        check_long_ones_go_along("127.0.0.1:0", settings().tcp_send_buffer_bytes(100 << 10));
    });
}

#[test]
fn long_messages_leave_several_at_once_over_unix() {
    isolated(|| {
        let directory = Directory::new();
        let endpoint = format!("unix:{}", directory.path("socket").display());
        check_long_ones_go_along(&endpoint, settings());
    });
}

/// A zero-copy send is over when the peer's kernel has acknowledged it, which that delays by 40 ms
/// where a connection goes to and fro. Nothing is to wait for that unless it was asked for.
#[test]
fn first_long_message_holds_nothing_up() {
    isolated(|| {
        let server = start(echo());
        let took = |seed| {
            let mut client = client_with(settings().build().expect("valid"), &endpoint(&server));
            for _ in 0..30 {
                client.request(Envelope::command(), b"to and fro", PATIENCE).expect("an answer");
            }
            client.send(Envelope::data(), &pattern(20 << 10, seed)).expect("room");
            client.flush();
            let (answer, took) =
                timed(|| client.request(Envelope::command(), b"and now", PATIENCE).is_ok());
            assert!(answer, "an answer");
            took
        };
        // Whatever else the machine does, one of many is undisturbed; of none that waits for the
        // acknowledgement.
        let mut all = (0..60).map(took);
        assert!(all.any(|took| took < Duration::from_millis(35)), "each waited for 40 ms");
    });
}

#[test]
fn parked_server_sleeps_when_nothing_happens() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        assert_eq!(peer.ask(b"x"), b"x");
        wait_for(&server, "it parks", |statistics| statistics.parks > 0);
        // Time passes while somebody else is waited for in vain.
        server.receive(Duration::from_millis(100)).expect_err("nobody sends");
        let turns = server.statistics().turns;
        let (_, took) = timed(|| {
            server.receive(Duration::from_millis(200)).expect_err("nobody sends");
        });
        let turned = server.statistics().turns - turns;
        // For a heartbeat's sake once a second.
        assert!(turned <= 2 + took.as_secs(), "it did not sleep: {turned} turns in {took:?}");
    });
}

#[test]
fn statistics_of_both_ends_add_up() {
    isolated(|| {
        let server = start(echo());
        let mut client = client_with(settings().build().expect("valid"), &endpoint(&server));
        assert!(server.statistics().is_server);
        assert!(!client.statistics().is_server);
        for bytes in [0, 1, 15, 16, 17, 1000, 5000] {
            client.send(Envelope::data(), &vec![1; bytes]).expect("room");
            client.request(Envelope::command(), &vec![2; bytes], PATIENCE).expect("an answer");
        }
        for _ in 0..7 {
            server.receive(PATIENCE).expect("a message");
        }
        let id = server.clients()[0].id;
        server.send_to(id, Envelope::status().critical(), b"last").expect("room");
        client.receive(PATIENCE).expect("a message");

        // From another thread, while the server runs.
        let handle = server.handle();
        let theirs = std::thread::spawn(move || handle.statistics()).join().expect("no panic");
        let ours = client.statistics();
        assert_eq!((ours.messages_sent, ours.messages_received), (14, 8));
        assert_eq!((theirs.messages_received, theirs.messages_sent), (14, 8));
        // Messages only, not the handshake.
        assert_eq!(theirs.bytes_received, ours.bytes_sent);
        assert_eq!(ours.bytes_received, theirs.bytes_sent);
        assert_eq!((ours.connections_established, theirs.connections_established), (1, 1));
        assert_eq!((ours.connections_active, theirs.connections_active), (1, 1));
        assert_eq!(theirs.connections_lost, 0);
        let now = Nanos::now();
        assert!(now.since(Nanos(theirs.last_activity_ns)) < PATIENCE);
        assert!(theirs.last_activity_ns > 0);

        let info = &server.clients()[0];
        assert_eq!((info.messages_received, info.messages_sent), (14, 8));
        assert!(info.is_established);
        assert_eq!(client.connection_state(), ConnectionState::Connected);
        assert_eq!(client.disconnect(PATIENCE).flushed, 1);
        wait_for(&server, "the client is gone", |statistics| {
            statistics.connections_active == 0 && statistics.connections_lost == 1
        });
        assert_eq!(server.statistics().closed("goodbye"), 1);
        assert_eq!(server.statistics().errors(), 0);
    });
}

/// Each idle strategy sends in its own way.
fn for_each_idle(check: impl Fn(Idle)) {
    for idle in [Idle::Park, Idle::Adaptive, Idle::Spin] {
        check(idle);
    }
}

#[test]
fn flush_sends_everything_queued() {
    isolated(|| {
        for_each_idle(|idle| {
            let (mut client, mut peer) =
                client_and_peer(settings().idle(idle).build().expect("valid"));
            // Several blocks: the first takes 4 KiB, the next 64 KiB each.
            for number in 0..2000_u32 {
                client.send(Envelope::data(), &number.to_le_bytes()).expect("room");
            }
            client.flush();
            for number in 0..2000_u32 {
                assert_eq!(peer.frame().payload, number.to_le_bytes());
            }
        });
    });
}

#[test]
fn sender_that_never_polls_sends_by_itself() {
    isolated(|| {
        for_each_idle(|idle| {
            let (mut client, mut peer) =
                client_and_peer(settings().idle(idle).build().expect("valid"));
            let (sender, has_come) = std::sync::mpsc::channel();
            let reading = std::thread::spawn(move || {
                for number in 0..200_u8 {
                    assert_eq!(peer.frame().payload, vec![number; 8000]);
                    let _ = sender.send(());
                }
                peer
            });
            for number in 0..=u8::MAX {
                client.send(Envelope::data(), &vec![number; 8000]).expect("room");
                // No more ahead than sockets hold: a full one makes its sender turn.
                if (20..220).contains(&number) {
                    has_come.recv_timeout(PATIENCE).expect("it has left by itself");
                }
            }
            drop(reading.join().expect("all but the last 64 KiB or so have come"));
        });
    });
}

#[test]
fn messages_before_a_protocol_error_are_counted() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        let mut bytes = Vec::new();
        for _ in 0..5 {
            bytes.extend(peer.stamp(Plain::new(DATA, NORMAL, b"good")).encode());
        }
        bytes.extend([0xff; 32]);
        peer.write(&bytes);
        peer.expect_end();
        for _ in 0..5 {
            server.receive(PATIENCE).expect("a message");
        }
        wait_for(&server, "the close is counted", |s| s.closed("protocol") == 1);
        assert_eq!(server.statistics().messages_received, 5);
    });
}

#[test]
fn envelope_arrives_as_it_was_sent() {
    isolated(|| {
        let server = start(
            Server::builder().config(settings().build().expect("valid")).listen("127.0.0.1:0"),
        );
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        let envelopes = [
            (Envelope::data().priority(Priority::Low), DATA, 1, 0),
            (Envelope::status().json(), STATUS, 2, 2),
            (Envelope::error().priority(Priority::High), 4, 3, 0),
            (Envelope::configuration().critical(), 7, 4, 0),
        ];
        for (envelope, kind, priority, codec) in envelopes {
            server.send_to(id, envelope, b"{}").expect("room");
            let frame = peer.frame();
            assert_eq!((frame.kind, frame.priority, frame.codec), (kind, priority, codec));
            assert_eq!((frame.flags, &frame.payload[..]), (0, &b"{}"[..]));
        }
        server.send_to(id, Envelope::command(), b"go").expect("room");
        let frame = peer.frame();
        assert_eq!(frame.flags & EXTENDED, EXTENDED);
        assert_eq!(frame.correlation, 0);
    });
}

/// The same code over either end.
fn exchange(mine: &mut dyn Transport, theirs: &mut dyn Transport, text: &[u8]) {
    mine.send(Envelope::data(), &text).expect("room");
    mine.flush(PATIENCE).expect("connected");
    let message = theirs.receive(PATIENCE).expect("a message");
    assert_eq!(&message.payload()[..], text);
}

#[test]
fn both_ends_are_transports() {
    isolated(|| {
        let mut server = ServerTransport::new(|| {
            Server::builder().config(settings().build().expect("valid")).reactors(1)
        });
        let mut client = Client::new(settings().build().expect("valid")).expect("a ring");
        assert_eq!(server.connection_state(), ConnectionState::Disconnected);
        for round in 1..=2_u64 {
            server.connect("127.0.0.1:0").expect("a free port");
            let endpoint = endpoint(server.server().expect("it listens"));
            Transport::connect(&mut client, &endpoint).expect("it listens");
            assert_eq!(server.connection_state(), ConnectionState::Connected);
            assert_eq!(Transport::connection_state(&client), ConnectionState::Connected);
            exchange(&mut client, &mut server, b"up");
            exchange(&mut server, &mut client, b"down");
            assert_eq!(Transport::statistics(&client).messages_sent, round);
            assert_eq!(server.statistics().messages_received, round, "none starts again at 0");
            assert_eq!(server.statistics().state, ConnectionState::Connected);
            assert_eq!(Transport::statistics(&client).state, ConnectionState::Connected);
            assert_eq!(Transport::disconnect(&mut client, PATIENCE).flushed, 1);
            assert_eq!(server.disconnect(PATIENCE).connections, 0, "the client has left");
            assert_eq!(server.connection_state(), ConnectionState::Disconnected);
            let (left, right) = (server.statistics(), Transport::statistics(&client));
            assert_eq!((left.messages_received, left.messages_sent), (round, round), "kept");
            assert_eq!(left.connections_established, round);
            assert_eq!(left.closed("goodbye"), round);
            assert_eq!(left.state, ConnectionState::Disconnected);
            assert_eq!(right.state, ConnectionState::Disconnected);
            let json = serde_json::to_value(&right).expect("no maps with odd keys");
            assert_eq!(json["state"], "disconnected");
            assert_eq!(json["is_server"], false);
        }
    });
}

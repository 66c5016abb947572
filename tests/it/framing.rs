//! Frames survive any cutting of the stream, of any size up to the limit.

use std::time::Duration;

use ringwire::{Client, Envelope, Nanos, Reactor, SendError, Server, Turn, Wait};

use crate::util::{
    CHECKSUM, COMMAND, CRITICAL, DATA, Directory, Greeting, HIGH, LOW, NORMAL, PATIENCE, Peer,
    Plain, REQUEST, client, client_and_peer, config, echo, endpoint, isolated, pattern,
    resident_kib, settings, start, wait_for,
};

const SIZES: [usize; 9] = [0, 1, 16, 4096, 65_504, 65_536, 100 << 10, 1 << 20, (4 << 20) - 32];

/// Frames of every size come and go unchanged between a plain peer and a server at `listen`.
fn check_sizes(listen: &str) {
    let server = start(Server::builder().config(config()).listen(listen));
    let mut peer = Peer::connect(&server);
    let id = server.clients()[0].id;
    for (round, &bytes) in SIZES.iter().cycle().take(2 * SIZES.len()).enumerate() {
        let payload = pattern(bytes, round as u64 + 1);
        peer.send(Plain::new(DATA, NORMAL, &payload));
        let message = server.receive(PATIENCE).expect("a message");
        assert!(message.payload()[..] == payload, "{bytes} bytes received differ");
        server.send_to(id, Envelope::data(), &payload).expect("room");
        assert!(peer.frame().payload == payload, "{bytes} bytes sent differ");
    }
}

/// Writes `stream` in two pieces, so that a receive ends between them, and expects the frames'
/// payloads in order.
fn check_cut(
    reactor: &mut Reactor,
    peer: &mut Peer,
    stream: &[u8],
    payloads: &[Vec<u8>],
    cut: usize,
) {
    let (first, second) = stream.split_at(cut);
    for piece in [first, second] {
        if piece.is_empty() {
            continue;
        }
        peer.write(piece);
        let received = turn_until(reactor, |_, turn| turn.completions > 0);
        assert!(received, "the piece is a receive of its own");
    }
    for payload in payloads {
        let message = reactor.receive().expect("all of it has come");
        assert!(message.payload()[..] == payload[..], "cut at {cut}");
    }
}

/// Drives a reactor until something has happened; whether it did in time.
fn turn_until(reactor: &mut Reactor, mut done: impl FnMut(&Reactor, Turn) -> bool) -> bool {
    let deadline = Nanos::now() + PATIENCE;
    while Nanos::now() < deadline {
        let turn = reactor.turn(Wait::Until(deadline)).expect("a working ring");
        if done(reactor, turn) {
            return true;
        }
    }
    false
}

#[test]
fn every_size_arrives_intact_over_tcp() {
    isolated(|| check_sizes("127.0.0.1:0"));
}

#[test]
fn every_size_arrives_intact_over_unix() {
    isolated(|| {
        let directory = Directory::new();
        check_sizes(&format!("unix:{}", directory.path("socket").display()));
    });
}

#[test]
fn every_size_arrives_intact_between_both_ends() {
    isolated(|| {
        let server = start(echo());
        let mut client = client(&endpoint(&server));
        for (round, &bytes) in SIZES.iter().enumerate() {
            // A request carries the extension, too.
            let bytes = bytes.min((4 << 20) - 64);
            let payload = pattern(bytes, round as u64 + 1);
            let answer = client.request(Envelope::command(), &payload, PATIENCE).expect("one");
            assert!(answer.payload()[..] == payload, "{bytes} bytes differ");
        }
    });
}

#[test]
fn large_frames_back_to_back_arrive_intact() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        let payloads: Vec<_> =
            (0..40).map(|n| pattern([70_000, 300_000, 20, 1 << 20][n % 4], n as u64)).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for payload in &payloads {
                    peer.send(Plain::new(DATA, NORMAL, payload));
                }
            });
            for payload in &payloads {
                assert!(server.receive(PATIENCE).expect("one").payload()[..] == payload[..]);
            }
        });
    });
}

#[test]
fn frame_dribbled_byte_by_byte_arrives() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        for round in 0..3_u8 {
            let frame = Plain::new(DATA, NORMAL, &[round; 40]).flags(CHECKSUM);
            let bytes = peer.stamp(frame).encode();
            for byte in bytes {
                peer.write(&[byte]);
            }
            assert_eq!(server.receive(PATIENCE).expect("a message").payload()[..], [round; 40]);
        }
    });
}

#[test]
fn coalesced_frames_arrive_one_by_one() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        let mut bytes = Vec::new();
        for number in 0..3000_u32 {
            let priority = [LOW, NORMAL, HIGH, CRITICAL][number as usize % 4];
            let frame = Plain::new(DATA, priority, &number.to_le_bytes());
            bytes.extend(peer.stamp(frame).encode());
        }
        peer.write(&bytes);
        for number in 0..3000_u32 {
            let message = server.receive(PATIENCE).expect("a message");
            assert_eq!(message.payload()[..], number.to_le_bytes());
        }
    });
}

#[test]
fn frames_split_at_every_byte_arrive() {
    isolated(|| {
        // Without heartbeats: every completion behind the handshake's is that of a piece.
        let config = settings().heartbeat_interval_ms(0).build().expect("valid");
        let mut reactor = Reactor::new(&config).expect("a ring");
        let endpoint = "127.0.0.1:0".parse().expect("an endpoint");
        let address = reactor.listen(&endpoint).expect("a free port");
        let connecting = std::thread::spawn(move || Peer::connect_to(&address));
        assert!(turn_until(&mut reactor, |reactor, _| !reactor.connections().is_empty()));
        // The welcome leaves with the next turn, and its completion is the last of the handshake.
        while reactor.turn(Wait::Poll).expect("a working ring").completions > 0 {}
        let mut peer = connecting.join().expect("the handshake completes");
        let length = 48 + 112;
        for cut in 0..=length {
            let payloads = vec![vec![cut as u8; 10], vec![!(cut as u8); 40]];
            let plain = peer.stamp(Plain::new(DATA, NORMAL, &payloads[0]));
            let extended = Plain::new(COMMAND + 1, NORMAL, &payloads[1]).correlated(REQUEST, 3);
            let extended = peer.stamp(extended);
            let stream = [plain.encode(), extended.encode()].concat();
            assert_eq!(stream.len(), length, "the cuts cover both frames");
            check_cut(&mut reactor, &mut peer, &stream, &payloads, cut);
        }
    });
}

#[test]
fn hello_coalesced_with_messages_is_one_stream() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::dial(&server.addresses()[0]);
        // Not polite before the welcome, and no violation either.
        let mut bytes = Greeting::default().frame(0x80).encode();
        bytes.extend(peer.stamp(Plain::new(DATA, NORMAL, b"eager")).encode());
        peer.write(&bytes);
        assert_eq!(&server.receive(PATIENCE).expect("a message").payload()[..], b"eager");
        assert_eq!(peer.frame().kind, 0x81);
    });
}

#[test]
fn message_above_own_limit_is_refused_with_both_numbers() {
    isolated(|| {
        let config = settings().frame_bytes_max(64 << 10).build().expect("valid");
        let (mut client, mut peer) = client_and_peer(config);
        let largest = (64 << 10) - 32;
        let error = client.send(Envelope::data(), &vec![1; largest + 1]).expect_err("too large");
        assert_eq!(error, SendError::TooLarge { bytes: (64 << 10) + 16, bytes_max: 64 << 10 });
        let text = error.to_string();
        assert!(text.contains("65552") && text.contains("65536"), "{text}");
        client.send(Envelope::data(), &vec![2; largest]).expect("it fits");
        client.flush();
        assert_eq!(peer.frame().payload, vec![2; largest]);
        assert_eq!(client.statistics().sends_too_large, 1);
    });
}

/// What a handle refuses is counted as what a reactor refuses, and named by the same numbers.
#[test]
fn message_above_the_limit_is_refused_alike_through_a_handle() {
    isolated(|| {
        let config = settings().frame_bytes_max(64 << 10).build().expect("valid");
        let server = start(echo().config(config));
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        peer.send(Plain::new(DATA, NORMAL, b"ask").correlated(REQUEST, 7));
        let request = server.receive(PATIENCE).expect("a request");
        let largest = (64 << 10) - 32;
        // Too large by its head only, and by its payload alone.
        for (payload_bytes, bytes) in [(largest + 1, (64 << 10) + 16), (1 << 20, (1 << 20) + 32)] {
            let body = vec![1; payload_bytes];
            let refused = Err(SendError::TooLarge { bytes, bytes_max: 64 << 10 });
            assert_eq!(server.send_to(id, Envelope::data(), &body), refused);
            assert_eq!(server.post_to(id, Envelope::data(), &body), refused);
            assert_eq!(server.broadcast(Envelope::data(), &body).map(drop), refused);
        }
        // An answer carries the extension.
        let body = vec![1; largest - 31];
        let refused = Err(SendError::TooLarge { bytes: (64 << 10) + 16, bytes_max: 64 << 10 });
        assert_eq!(server.reply(&request, Envelope::status(), &body), refused);
        assert_eq!(server.send_to(id, Envelope::command(), &body), refused);
        assert_eq!(server.statistics().sends_too_large, 8);
        server.send_to(id, Envelope::data(), &vec![2; largest]).expect("it fits");
        assert_eq!(peer.frame().payload, vec![2; largest]);
    });
}

#[test]
fn message_above_the_peers_limit_is_refused() {
    isolated(|| {
        let server = start(echo());
        let greeting = Greeting { frame_bytes_max: 8192, ..Greeting::default() };
        let mut peer = Peer::connect_as(&server.addresses()[0], greeting);
        let id = server.clients()[0].id;
        assert_eq!(
            server.send_to(id, Envelope::data(), &vec![1; 8192]),
            Err(SendError::TooLarge { bytes: 8224, bytes_max: 8192 })
        );
        server.send_to(id, Envelope::data(), &vec![1; 8160]).expect("it fits");
        assert_eq!(peer.frame().payload.len(), 8160);
        // What it sends may still be as long as this side takes.
        peer.send(Plain::new(DATA, NORMAL, &vec![3; 100_000]));
        assert_eq!(server.receive(PATIENCE).expect("a message").payload().len(), 100_000);
    });
}

#[test]
fn frame_of_exactly_the_limit_is_taken_and_one_more_is_not() {
    isolated(|| {
        let config = settings().frame_bytes_max(64 << 10).build().expect("valid");
        let server = start(echo().config(config));
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(DATA, NORMAL, &vec![1; (64 << 10) - 32]));
        assert_eq!(server.receive(PATIENCE).expect("a message").payload().len(), (64 << 10) - 32);
        peer.send(Plain::new(DATA, NORMAL, &vec![1; (64 << 10) - 31]));
        peer.expect_end();
        wait_for(&server, "the close is counted", |s| s.closed("protocol") == 1);
    });
}

#[test]
fn hostile_length_closes_before_memory_is_taken() {
    isolated(|| {
        let server = start(echo());
        let mut peers: Vec<_> = (0..20).map(|_| Peer::connect(&server)).collect();
        let before = resident_kib();
        for (index, peer) in peers.iter_mut().enumerate() {
            let mut head = peer.stamp(Plain::new(DATA, NORMAL, b"")).encode();
            let length = [u32::MAX, u32::MAX - 15, (4 << 20) - 31, 1 << 31][index % 4];
            head[8..12].copy_from_slice(&length.to_le_bytes());
            peer.write(&head);
            peer.expect_end();
        }
        wait_for(&server, "all are closed", |s| s.closed("protocol") == 20);
        assert_eq!(server.statistics().receive_pauses, 0);
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 4096, "{grown} KiB for nothing");
    });
}

#[test]
fn client_takes_large_frames_from_a_plain_peer() {
    isolated(|| {
        let (mut client, mut peer): (Client, Peer) = client_and_peer(config());
        let payload = pattern(3 << 20, 5);
        let expected = payload.clone();
        let sending = std::thread::spawn(move || {
            for _ in 0..3 {
                peer.send(Plain::new(DATA, NORMAL, &payload));
            }
            peer
        });
        for _ in 0..3 {
            assert!(client.receive(PATIENCE).expect("a message").payload()[..] == expected);
        }
        let error = client.receive(Duration::ZERO).expect_err("no more");
        assert!(matches!(error, ringwire::ReceiveError::Timeout { .. }), "{error}");
        drop(sending.join().expect("no panic"));
    });
}

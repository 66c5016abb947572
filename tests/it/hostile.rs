//! Peers that mean harm, or know no better: each loses its own connection, for a reason that is
//! counted, and nobody else notices.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringwire::{
    Client, ConfigBuilder, ConnectError, Envelope, Idle, Kind, Nanos, Reactor, Server,
    ServerBuilder, Wait,
};

use crate::util::{
    CHECKSUM, COMMAND, CRITICAL, DATA, EXTENDED, GAP, GOODBYE, Greeting, HEARTBEAT, HELLO, NORMAL,
    PATIENCE, Peer, Plain, REJECT, STATUS, WELCOME, client, client_with, config, echo, endpoint,
    isolated, pattern, plain_listener, resident_kib, settings, start, timed, wait_for, wait_until,
};

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Name {
    text: String,
}
ringwire::payload!(Name = 0x0101);

/// `attack` ends its connection for `reason`, while a well-behaved client keeps working.
fn check_on(builder: ServerBuilder, reason: &str, attacks: &[&dyn Fn(&Server)]) {
    let server = start(builder);
    let mut well = Peer::connect(&server);
    let before = resident_kib();
    for (index, attack) in attacks.iter().enumerate() {
        attack(&server);
        let expected = index as u64 + 1;
        wait_for(&server, reason, |statistics| statistics.closed(reason) == expected);
        assert_eq!(well.ask(b"still there?"), b"still there?");
    }
    let statistics = server.statistics();
    let all: u64 = statistics.closes.iter().map(|close| close.count).sum();
    assert_eq!(all, statistics.closed(reason), "closed for other reasons, too: {statistics:?}");
    assert_eq!(statistics.connections_active, 1, "{statistics:?}");
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 8192, "{grown} KiB");
}

fn check(reason: &str, attack: impl Fn(&Server)) {
    check_on(echo(), reason, &[&attack]);
}

/// Bytes sent before the handshake, or after it, that break the protocol.
fn check_bytes(established: bool, bytes: &[Vec<u8>]) {
    for bytes in bytes {
        check("protocol", |server| {
            let address = &server.addresses()[0];
            let mut peer = if established { Peer::connect(server) } else { Peer::dial(address) };
            // The end may come before all was written.
            let _ = peer.stream.write_all(bytes);
            peer.expect_end();
        });
    }
}

/// A well-formed data frame, the first of its lane.
fn good() -> Vec<u8> {
    Plain::new(DATA, NORMAL, b"payload").sequence(1).encode()
}

fn with(at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = good();
    assert_ne!(bytes[at], byte, "the byte is changed");
    bytes[at] = byte;
    bytes
}

#[test]
fn the_unchanged_frame_is_accepted() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        peer.write(&good());
        assert_eq!(server.receive(PATIENCE).expect("a message").payload()[..], *b"payload");
    });
}

#[test]
fn garbage() {
    isolated(|| {
        let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
        let bytes = [pattern(4096, 1), http, vec![0; 1], vec![0xff; 1 << 20]];
        check_bytes(false, &bytes);
        check_bytes(true, &bytes);
    });
}

/// Frames that go to their handler by the short way.
#[test]
fn handler_sees_nothing_that_comes_too_early_or_out_of_order() {
    isolated(|| {
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let builder = echo().on(Kind::Data, move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let sequence = |sequence| Plain::new(DATA, NORMAL, b"payload").sequence(sequence).encode();
        let attack = |established: bool, bytes: Vec<u8>| {
            move |server: &Server| {
                let address = &server.addresses()[0];
                let mut peer =
                    if established { Peer::connect(server) } else { Peer::dial(address) };
                // The end may come before all was written.
                let _ = peer.stream.write_all(&bytes);
                peer.expect_end();
            }
        };
        check_on(
            builder,
            "protocol",
            &[
                &attack(false, sequence(1)),
                &attack(true, sequence(0)),
                &attack(true, sequence(2)),
                &attack(true, [sequence(1), sequence(1)].concat()),
                &attack(true, [sequence(1), sequence(3)].concat()),
            ],
        );
        assert_eq!(calls.load(Ordering::Relaxed), 2, "the first ones of the last two");
    });
}

#[test]
fn wrong_header_fields() {
    isolated(|| {
        let unknown_flags = [0x40, 0x80].map(|flag| with(4, flag));
        let needs_extension = with(4, 4);
        let reserved = with(7, 1);
        let checksum_unannounced = with(12, 1);
        check_bytes(
            true,
            &[
                with(0, b'X'),
                with(1, b'X'),
                with(2, 2),
                with(3, 0),
                with(3, 10),
                with(3, 0x7f),
                with(3, 0x84),
                unknown_flags[0].clone(),
                unknown_flags[1].clone(),
                needs_extension,
                with(5, 0),
                with(5, 5),
                with(6, 3),
                reserved,
                checksum_unannounced,
            ],
        );
    });
}

#[test]
fn wrong_extension_padding_checksum_and_sequence() {
    isolated(|| {
        let mut extension = Plain::new(COMMAND, NORMAL, b"x").sequence(1).flags(1).encode();
        extension[60] = 1;
        let mut padding = good();
        *padding.last_mut().expect("padded") = 1;
        let mut damaged = Plain::new(DATA, NORMAL, b"payload").flags(CHECKSUM).sequence(1).encode();
        damaged[35] ^= 1;
        let sequence = |number| Plain::new(DATA, NORMAL, b"x").sequence(number).encode();
        let twice = [good(), good()].concat();
        check_bytes(
            true,
            &[extension, padding, damaged, sequence(0), sequence(2), sequence(u32::MAX), twice],
        );
    });
}

#[test]
fn handshake_frames_out_of_place() {
    isolated(|| {
        let hello = || Greeting::default().frame(HELLO);
        let unannounced = hello().flags(0).encode();
        let welcome = Greeting::default().frame(WELCOME).encode();
        let reject = Plain::new(REJECT, CRITICAL, &[0; 8]).flags(CHECKSUM).encode();
        let goodbye = Plain::new(GOODBYE, CRITICAL, &[0; 8]).flags(CHECKSUM).encode();
        let short_goodbye = Plain::new(GOODBYE, CRITICAL, &[0; 7]).flags(CHECKSUM).encode();
        // Hello twice, a welcome or reject to a server, a malformed goodbye.
        check_bytes(true, &[hello().encode(), welcome.clone(), reject.clone(), short_goodbye]);
        // Data, a welcome, a reject, a goodbye instead of a hello; a hello without checksum.
        check_bytes(false, &[good(), welcome, reject, goodbye, unannounced]);
    });
}

#[test]
fn malformed_hello() {
    isolated(|| {
        let payload = || Greeting::default().payload();
        let hello = |payload: &[u8]| Plain::new(HELLO, CRITICAL, payload).flags(CHECKSUM).encode();
        let changed = |at: usize, byte: u8| {
            let mut payload = payload();
            payload[at] = byte;
            hello(&payload)
        };
        check_bytes(
            false,
            &[
                hello(b""),
                hello(&payload()[..143]),
                hello(&payload()[..147]),
                hello(&[payload(), vec![0]].concat()),
                changed(0, 9),
                changed(2, 200),
                changed(94, 1),
                changed(144, 0xff),
                hello(&vec![1; 1200]),
                Greeting { frame_bytes_max: 100, ..Greeting::default() }.frame(HELLO).encode(),
            ],
        );
    });
}

/// A hello that is understood and refused: the peer is told why.
fn check_refused(greeting: Greeting, code: u16) {
    let config = settings().schema_hash(1234).build().expect("valid");
    check_on(
        echo().config(config),
        "refused",
        &[&|server| {
            let mut peer = Peer::dial(&server.addresses()[0]);
            peer.write(&greeting.frame(HELLO).encode());
            let reject = peer.frame();
            assert_eq!(reject.kind, REJECT);
            assert_eq!(reject.payload[..2], code.to_le_bytes());
            peer.expect_end();
        }],
    );
}

#[test]
fn other_version_is_refused() {
    isolated(|| check_refused(Greeting { protocol: (2, 3), ..Greeting::default() }, 1));
}

#[test]
fn other_schema_is_refused() {
    isolated(|| check_refused(Greeting { schema_hash: 99, ..Greeting::default() }, 3));
}

#[test]
fn refused_client_is_told_why() {
    isolated(|| {
        let of = |hash| settings().schema_hash(hash).build().expect("valid");
        let server = start(echo().config(of(1)));
        let mut other = Client::new(of(2)).expect("a ring");
        let error = other.connect(&endpoint(&server)).expect_err("another schema");
        let expected = ringwire::wire::handshake::RejectReason::Schema;
        assert!(matches!(error, ConnectError::Rejected { reason, .. } if reason == expected));
        assert_eq!(other.statistics().closed("rejected"), 1);
        // 0 is not compared.
        client(&endpoint(&server)).request(Envelope::command(), b"x", PATIENCE).expect("one");
    });
}

#[test]
fn truncated_frame_then_close() {
    isolated(|| {
        for cut in [1, 31, 32, 40] {
            check("peer_closed", |server| {
                let mut peer = Peer::connect(server);
                peer.write(&good()[..cut]);
            });
        }
    });
}

#[test]
fn payload_that_fails_validation() {
    isolated(|| {
        let builder = echo().on_type::<Name>(|context, _, name| {
            context.reply(Envelope::status(), name.text.as_bytes()).expect("room");
        });
        let attack = |codec: u8, payload: Vec<u8>| {
            move |server: &Server| {
                let mut peer = Peer::connect(server);
                let mut frame = Plain::new(DATA, NORMAL, &payload);
                (frame.type_id, frame.codec) = (0x0101, codec);
                peer.send(frame);
                peer.expect_end();
            }
        };
        let (wild, short, opaque) =
            (attack(1, vec![0x85; 64]), attack(1, vec![1; 3]), attack(0, vec![0; 16]));
        check_on(builder, "payload", &[&wild, &short, &opaque]);
    });
}

/// How long a peer may take for its handshake where that matters: an honest one of a busy machine
/// must get through.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

fn impatient_at_first() -> ServerBuilder {
    let settings = settings().handshake_timeout_ms(HANDSHAKE_TIMEOUT.as_millis() as u32);
    echo().config(settings.build().expect("valid"))
}

fn impatient_with_frames() -> ServerBuilder {
    echo().config(settings().frame_timeout_ms(150).build().expect("valid"))
}

#[test]
fn handshake_never_begun_or_never_finished() {
    isolated(|| {
        let silent = |server: &Server| Peer::dial(&server.addresses()[0]).expect_end();
        let half = |server: &Server| {
            let ((), took) = timed(|| {
                let mut peer = Peer::dial(&server.addresses()[0]);
                peer.write(&Greeting::default().frame(HELLO).encode()[..50]);
                peer.expect_end();
            });
            assert!(took >= HANDSHAKE_TIMEOUT, "closed after {took:?}");
        };
        check_on(impatient_at_first(), "handshake_timeout", &[&silent, &half]);
    });
}

#[test]
fn handshake_trickled_byte_by_byte() {
    isolated(|| {
        let trickle = |server: &Server| {
            let mut peer = Peer::dial(&server.addresses()[0]);
            let hello = Greeting::default().frame(HELLO).encode();
            let mut written = 0;
            // Twice as long as it may take.
            let pause = 2 * HANDSHAKE_TIMEOUT / hello.len() as u32;
            for byte in hello {
                std::thread::park_timeout(pause);
                match peer.stream.write_all(&[byte]) {
                    Ok(()) => written += 1,
                    Err(_) => break,
                }
            }
            assert!(written > 5, "it did trickle: {written}");
            peer.expect_end();
        };
        check_on(impatient_at_first(), "handshake_timeout", &[&trickle]);
    });
}

#[test]
fn frame_begun_and_never_finished() {
    isolated(|| {
        let begin = |bytes: usize, cut: usize| {
            move |server: &Server| {
                let mut peer = Peer::connect(server);
                // A frame before it does not excuse this one.
                peer.send(Plain::new(DATA, NORMAL, b"whole"));
                let frame = peer.stamp(Plain::new(DATA, NORMAL, &vec![1; bytes])).encode();
                peer.write(&frame[..cut]);
                peer.expect_end();
            }
        };
        let (head, small, large) = (begin(100, 20), begin(100, 60), begin(1 << 20, 300_000));
        check_on(impatient_with_frames(), "frame_timeout", &[&head, &small, &large]);
    });
}

#[test]
fn frame_trickled_past_its_time() {
    isolated(|| {
        let trickle = |server: &Server| {
            let mut peer = Peer::connect(server);
            let frame = peer.stamp(Plain::new(DATA, NORMAL, &[1; 200])).encode();
            for byte in frame {
                std::thread::park_timeout(Duration::from_millis(5));
                if peer.stream.write_all(&[byte]).is_err() {
                    break;
                }
            }
            peer.expect_end();
        };
        check_on(impatient_with_frames(), "frame_timeout", &[&trickle]);
    });
}

#[test]
fn quiet_peer_between_frames_stays_connected() {
    isolated(|| {
        for builder in [impatient_at_first(), impatient_with_frames()] {
            let server = start(builder);
            let mut peer = Peer::connect(&server);
            for _ in 0..4 {
                assert_eq!(peer.ask(b"x"), b"x");
                std::thread::park_timeout(HANDSHAKE_TIMEOUT / 3);
            }
            assert_eq!(peer.ask(b"x"), b"x");
            assert_eq!(server.statistics().connections_active, 1);
        }
    });
}

fn check_flood(limit: u32) {
    let config = settings().connections_max(limit).build().expect("valid");
    let server = start(echo().config(config.clone()));
    let mut well: Vec<_> = (0..limit).map(|_| Peer::connect(&server)).collect();
    let before = resident_kib();
    for _ in 0..200 {
        let mut peer = Peer::dial(&server.addresses()[0]);
        let reject = peer.frame();
        assert_eq!((reject.kind, &reject.payload[..2]), (REJECT, &[2, 0][..]));
        assert_eq!(reject.payload[4..8], limit.to_le_bytes(), "the limit");
        peer.expect_end();
    }
    assert_eq!(server.statistics().closed("connection_limit"), 200);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    let mut late = Client::new(config).expect("a ring");
    let error = late.connect(&endpoint(&server)).expect_err("full");
    let expected = ringwire::wire::handshake::RejectReason::Full;
    assert!(
        matches!(error, ConnectError::Rejected { reason, .. } if reason == expected),
        "{error}"
    );
    for peer in &mut well {
        assert_eq!(peer.ask(b"x"), b"x");
    }
    // Room again as soon as one leaves.
    drop(well.pop());
    wait_for(&server, "one has left", |s| s.connections_active == u64::from(limit) - 1);
    assert_eq!(Peer::connect(&server).ask(b"in"), b"in");
}

#[test]
fn flood_above_the_limit_is_turned_away() {
    isolated(|| {
        check_flood(1);
        check_flood(8);
    });
}

/// Connects and resets, as the `round`th of many: some have said something before, some nothing.
fn come_and_reset(server: &Server, round: u64) {
    let mut peer = Peer::dial(&server.addresses()[0]);
    if round % 3 == 1 {
        peer.write(&Greeting::default().frame(HELLO).encode());
    } else if round % 3 == 2 {
        peer.write(&[0x52]);
    }
    peer.reset();
}

#[test]
fn peers_that_connect_and_reset_at_once() {
    isolated(|| {
        let server = start(echo());
        let mut well = Peer::connect(&server);
        let over = |s: &ringwire::Statistics| s.closed("socket") + s.closed("peer_closed");
        for round in 0..300 {
            come_and_reset(&server, round);
            // No more at once than there are places: a slow server would turn the others away.
            if round % 50 == 49 {
                assert_eq!(well.ask(b"x"), b"x");
                wait_for(&server, "all so far are gone", |s| over(s) == round + 1);
            }
        }
        wait_for(&server, "all are gone", |s| s.connections_active == 1);
        assert!(server.statistics().closed("socket") > 100, "resets were seen");
        assert_eq!(well.ask(b"x"), b"x");
    });
}

/// More than there are places for, before the server looks: the first take the places, although
/// they are gone by then, the others are turned away, and each is counted.
#[test]
fn more_resets_than_places_while_nobody_accepts() {
    isolated(|| {
        let (entered, is_entered) = crossbeam_channel::unbounded();
        let (release, is_released) = crossbeam_channel::unbounded();
        let server = start(echo().on(Kind::Data, move |_, _| {
            entered.send(()).expect("the test waits");
            is_released.recv_timeout(PATIENCE).expect("the test releases");
        }));
        let mut well = Peer::connect(&server);
        well.send(Plain::new(DATA, NORMAL, b"hold"));
        is_entered.recv_timeout(PATIENCE).expect("the handler runs");
        (0..200).for_each(|round| come_and_reset(&server, round));
        assert!(server.statistics().closes.iter().all(|close| close.count == 0), "nobody accepts");
        release.send(()).expect("the handler waits");
        let over = |s: &ringwire::Statistics| s.closed("socket") + s.closed("peer_closed");
        wait_for(&server, "all are counted", |s| over(s) + s.closed("connection_limit") == 200);
        // One of the 64 places is taken all the time.
        let turned_away = server.statistics().closed("connection_limit");
        assert!((100..=137).contains(&turned_away), "{turned_away}");
        wait_for(&server, "all are gone", |s| s.connections_active == 1);
        assert_eq!(well.ask(b"x"), b"x");
        assert_eq!(Peer::connect(&server).ask(b"in"), b"in");
    });
}

#[test]
fn client_survives_a_hostile_server() {
    isolated(|| {
        let answers: [(Vec<u8>, &str); 5] = [
            (pattern(500, 1), "protocol"),
            (Greeting::default().frame(HELLO).encode(), "protocol"),
            (good(), "protocol"),
            (vec![], "peer_closed"),
            (
                Greeting { protocol: (2, 2), ..Greeting::default() }.frame(WELCOME).encode(),
                "refused",
            ),
        ];
        let mut client = Client::new(config()).expect("a ring");
        for (answer, reason) in answers {
            let (listener, endpoint) = plain_listener();
            let serving = std::thread::spawn(move || {
                let mut peer =
                    Peer::new(crate::util::Stream::Tcp(listener.accept().expect("one").0));
                assert_eq!(peer.frame().kind, HELLO);
                peer.write(&answer);
            });
            let before = client.statistics().closed(reason);
            let error = client.connect(&endpoint).expect_err("no welcome");
            assert!(matches!(error, ConnectError::Handshake { .. }), "{error}");
            let closer = match reason {
                "peer_closed" => format!("{endpoint} closed the connection during the handshake"),
                _ => format!("no session with {endpoint}, this side closed: "),
            };
            assert!(error.to_string().starts_with(&closer), "{error}");
            assert_eq!(client.statistics().closed(reason), before + 1, "{error}");
            serving.join().expect("no panic");
        }
        // It still works with a decent one.
        let server = start(echo());
        client.connect(&endpoint(&server)).expect("a decent server");
        client.request(Envelope::command(), b"x", PATIENCE).expect("an answer");
    });
}

#[test]
fn silent_server_times_out() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let config = settings().handshake_timeout_ms(100).build().expect("valid");
        let mut client = Client::new(config).expect("a ring");
        let (outcome, took) = timed(|| client.connect(&endpoint));
        let text = outcome.expect_err("nobody answers").to_string();
        assert!(text.contains("this side closed: the peer did not complete"), "{text}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert_eq!(client.statistics().closed("handshake_timeout"), 1);
        drop(listener);
    });
}

#[test]
fn hostile_peers_all_at_once() {
    isolated(|| {
        // Places for all that a busy server has not yet seen leaving.
        let settings = settings().frame_timeout_ms(300).connections_max(1_024);
        let server = start(echo().config(settings.build().expect("valid")));
        // The well-behaved client's own memory is not the hostile peers' doing.
        let mut well = client_with(config(), &endpoint(&server));
        let before = resident_kib();
        std::thread::scope(|scope| {
            for seed in 0..3_u64 {
                let server = &server;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    for _ in 0..200 {
                        let mut peer = if rng.bool() {
                            Peer::connect(server)
                        } else {
                            Peer::dial(&server.addresses()[0])
                        };
                        let mut bytes = good().repeat(3);
                        let at = rng.usize(..bytes.len());
                        bytes[at] ^= 1 << rng.u8(..8);
                        bytes.truncate(rng.usize(..=bytes.len()));
                        let _ = peer.stream.write_all(&bytes);
                        if rng.bool() {
                            peer.reset();
                        }
                    }
                });
            }
            for number in 0..500_u32 {
                let answer = well.request(Envelope::command(), &number.to_le_bytes(), PATIENCE);
                assert_eq!(answer.expect("an answer").payload()[..], number.to_le_bytes());
                while server.receive(Duration::ZERO).is_ok() {}
            }
        });
        while server.receive(Duration::ZERO).is_ok() {}
        wait_for(&server, "all but one are gone", |s| s.connections_active == 1);
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 8192, "{grown} KiB");
        assert_eq!(server.statistics().handler_panics, 0);
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(STATUS, NORMAL, b"at last"));
        assert_eq!(server.receive(PATIENCE).expect("one").kind(), Kind::Status);
    });
}

/// Answers that come with a time to live, while a heartbeat is always due.
#[test]
fn time_to_live_of_a_heartbeat_ends_its_connection_alone() {
    isolated(|| {
        let times = [1_u64, 1, 2];
        let mut payload = vec![2, 0, 0, 0, 0, 0, 0, 0];
        times.iter().for_each(|time| payload.extend_from_slice(&time.to_le_bytes()));
        let mut beat = Plain::new(HEARTBEAT, CRITICAL, &payload).flags(EXTENDED | CHECKSUM);
        beat.ttl_us = 1;
        let beats = beat.encode().repeat(8);
        check("protocol", |server| {
            let greeting = Greeting { heartbeat_interval_us: 1_000, ..Greeting::default() };
            let mut peer = Peer::connect_as(&server.addresses()[0], greeting);
            wait_until("it is refused", || peer.stream.write_all(&beats).is_err());
        });
    });
}

/// A reactor that the test turns, and a peer that has greeted it.
fn reactor_and_peer(settings: ConfigBuilder) -> (Reactor, Peer) {
    let settings = settings.idle(Idle::Park).window_bytes(256 << 10);
    let config = settings.tcp_receive_buffer_bytes(1 << 20).build().expect("valid");
    let mut reactor = Reactor::new(&config).expect("a ring");
    let address = reactor.listen(&"127.0.0.1:0".parse().expect("well formed")).expect("free");
    let mut peer = Peer::dial(&address);
    peer.write(&Greeting::default().frame(HELLO).encode());
    wait_until("it is connected", || {
        reactor.turn(Wait::Poll).expect("the ring works");
        reactor.statistics().connections_active == 1
    });
    assert_eq!(peer.frame().kind, WELCOME);
    (reactor, peer)
}

/// A stream of frames that are no messages takes no more of a turn than one of messages.
#[test]
fn frames_that_are_no_messages_leave_others_their_turn() {
    isolated(|| {
        const COUNT: u32 = 6000;
        const TURN: u64 = 1024;
        let (mut reactor, mut peer) = reactor_and_peer(settings());
        let gap = |last| Plain {
            type_id: 1,
            ..Plain::new(GAP, NORMAL, &[]).flags(CHECKSUM).sequence(last)
        };
        let bytes: Vec<u8> = (1..=COUNT).flat_map(|last| gap(last).encode()).collect();
        peer.write(&bytes);
        let (mut seen, mut most) = (0, 0);
        wait_until("all are counted", || {
            reactor.turn(Wait::Poll).expect("the ring works");
            let missed = reactor.statistics().messages_missed;
            most = most.max(missed - seen);
            seen = missed;
            missed == u64::from(COUNT)
        });
        assert_eq!(most, TURN, "as many as there may be, which was met");
    });
}

/// A frame that was begun and is handled is not unfinished, however much stands behind it.
#[test]
fn frame_that_is_handled_is_not_unfinished() {
    isolated(|| {
        const COUNT: usize = 4000;
        const TIMEOUT: Duration = Duration::from_millis(10);
        let bound = u32::try_from(TIMEOUT.as_millis()).expect("short");
        let (mut reactor, mut peer) = reactor_and_peer(settings().frame_timeout_ms(bound));
        let handled = Rc::new(Cell::new(0));
        let count = Rc::clone(&handled);
        reactor.on(Kind::Data, move |_, _| {
            let begun = Nanos::now();
            while Nanos::now().since(begun) < TIMEOUT / 500 {}
            count.set(count.get() + 1);
        });
        let bytes: Vec<u8> =
            (0..COUNT).flat_map(|_| peer.stamp(Plain::new(DATA, NORMAL, &[])).encode()).collect();
        let (begun, rest) = bytes.split_at(20);
        let before = reactor.statistics().completions;
        peer.write(begun);
        wait_until("it is begun", || {
            reactor.turn(Wait::Poll).expect("the ring works");
            reactor.statistics().completions > before
        });
        peer.write(rest);
        wait_until("all are handled", || {
            reactor.turn(Wait::Poll).expect("the ring works");
            assert_eq!(reactor.statistics().connections_active, 1, "it keeps to every rule");
            handled.get() == COUNT
        });
    });
}

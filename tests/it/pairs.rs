//! The two parts of a session when one of them is away, leaves first, or comes from elsewhere.

use std::io::Write;
use std::time::Duration;

use ringwire::stats::{RowState, files};
use ringwire::{
    ConfigBuilder, ConnectionState, Envelope, Kind, Nanos, Priority, Server, ServerBuilder,
    Snapshot,
};

use crate::bed::{
    Bed, events_of_server, name, names_of_client, settings_that_resume, silent, turn, valid,
};
use crate::proxy::Fault;
use crate::util::{
    CANCEL, CHECKSUM, COMMAND, CRITICAL, DATA, Directory, GOODBYE, Greeting, HELLO, NORMAL,
    PATIENCE, Peer, Plain, REQUEST, WELCOME, config, echo, endpoint, isolated, settings, start,
    wait_for, wait_until,
};

const RESUME: u32 = 1;
const RETURNS: u32 = 2;
const PAIRED: u32 = 4;
const EXPRESS: u32 = 8;
const GOODBYE_PAYLOAD: [u8; 8] = [0; 8];

fn express() -> ConfigBuilder {
    settings_that_resume().express(true)
}

fn echo_that_resumes() -> ServerBuilder {
    let echo = |context: &mut ringwire::Context<'_>, frame: ringwire::Frame<'_>| {
        let _ = context.reply(Envelope::status(), frame.payload());
    };
    let config = valid(settings_that_resume());
    Server::builder().config(config).listen("127.0.0.1:0").on(Kind::Command, echo)
}

/// A client whose main link is lost, and does not come back, while express stands.
fn bed_without_main() -> Bed {
    let mut bed = Bed::around(express(), silent().config(valid(settings_that_resume())));
    bed.proxy.refuse();
    bed.proxy.breaks_one(0, Fault::Cut);
    bed.turn_until("the link is lost", |bed| {
        bed.client.connection_state() == ConnectionState::Reconnecting
    });
    let _ = events_of_server(&bed.server, "LinkLost");
    bed
}

fn goodbye() -> Vec<u8> {
    Plain::new(GOODBYE, CRITICAL, &GOODBYE_PAYLOAD).flags(CHECKSUM).encode()
}

fn companion(mut id: [u8; 16]) -> [u8; 16] {
    id[15] ^= 1;
    id
}

/// Two plain connections that are one session.
fn plain_pair(server: &Server, features: u32) -> (Peer, Peer) {
    let address = server.addresses()[0].clone();
    let first = Greeting { features: PAIRED | features, ..Greeting::default() };
    let main = Peer::connect_as(&address, first);
    let session_id = companion([9; 16]);
    let second = Greeting { features: EXPRESS | features, session_id, ..Greeting::default() };
    let express = Peer::connect_as(&address, second);
    wait_until("it is complete", || server.clients().len() == 1);
    (main, express)
}

/// A stop command to all reaches those whose main link is lost.
#[test]
fn critical_broadcast_takes_the_express_link_alone() {
    isolated(|| {
        let mut bed = bed_without_main();
        let report = bed.server.broadcast(Envelope::data().critical(), b"stop").expect("asked");
        assert_eq!(report.outcomes, [(bed.id, Ok(()))]);
        assert_eq!(bed.client.receive(PATIENCE).expect("it").payload()[..], *b"stop");
        let report = bed.server.broadcast(Envelope::data(), b"calm").expect("asked");
        assert_eq!(report.queued(), 0, "that link is lost");
    });
}

#[test]
fn disconnect_flushes_express_while_main_is_away() {
    isolated(|| {
        let mut bed = bed_without_main();
        let envelope = Envelope::data().critical().reliable();
        bed.client.send(envelope, b"stop").expect("express stands");
        let _ = bed.client.disconnect(PATIENCE);
        assert_eq!(bed.client.connection_state(), ConnectionState::Disconnected);
        let names = names_of_client(&mut bed.client);
        assert_eq!(names.last().map(String::as_str), Some("Disconnected"), "{names:?}");
        assert!(!names.contains(&"SessionLost".into()), "{names:?}");
        assert_eq!(bed.server.receive(PATIENCE).expect("it").payload()[..], *b"stop");
        // It was told, and does not wait for the session to linger (10 s).
        let before = Nanos::now();
        let _ = events_of_server(&bed.server, "Disconnected");
        assert!(Nanos::now().since(before) < PATIENCE / 2);
    });
}

#[test]
fn shutdown_flushes_express_while_main_is_away() {
    isolated(|| {
        let mut bed = bed_without_main();
        let envelope = Envelope::data().critical().reliable();
        bed.client.send(envelope, b"stop").expect("express stands");
        let report = bed.client.reactor().shutdown(PATIENCE);
        assert_eq!(report.messages_dropped, 0, "{report:?}");
        assert_eq!(bed.server.receive(PATIENCE).expect("it").payload()[..], *b"stop");
    });
}

/// Main comes back at another server, express still stands at the first: both go to the new one.
#[test]
fn main_that_finds_another_server_takes_express_along() {
    isolated(|| {
        let mut bed = Bed::around(express(), echo_that_resumes());
        let other = start(echo_that_resumes());
        bed.proxy.lead(&endpoint(&other));
        bed.proxy.breaks_one(0, Fault::Cut);
        let mut names = Vec::new();
        bed.turn_until("it is connected there", |bed| {
            names.extend(names_of_client(&mut bed.client));
            names.last().is_some_and(|name| name == "Connected")
        });
        assert_eq!(bed.client.connection_state(), ConnectionState::Connected);
        let before = bed.server.statistics().messages_received;
        for envelope in [Envelope::command(), Envelope::command().critical()] {
            bed.client.request(envelope, b"where?", PATIENCE).expect("an answer");
        }
        assert_eq!(bed.server.statistics().messages_received, before, "nothing goes to the old");
        assert_eq!(other.clients().len(), 1);
        // An answer leaves before its request is counted.
        wait_for(&other, "they are counted", |s| s.messages_received >= 2);
        assert_eq!(other.statistics().messages_received, 2);
    });
}

#[test]
fn goodbye_of_express_ends_main_that_is_away() {
    isolated(|| {
        let server = start(echo_that_resumes());
        let (main, mut express) = plain_pair(&server, RESUME);
        drop(main);
        let _ = events_of_server(&server, "LinkLost");
        express.write(&goodbye());
        express.expect_end();
        let before = Nanos::now();
        let _ = events_of_server(&server, "Disconnected");
        assert!(Nanos::now().since(before) < PATIENCE / 2, "it does not linger");
    });
}

/// Main was lost after express had said goodbye: when it is back it is only to leave.
#[test]
fn main_that_is_back_after_express_has_left_is_closed() {
    isolated(|| {
        let server = start(echo_that_resumes());
        let (main, mut express) = plain_pair(&server, RESUME);
        express.write(&goodbye());
        express.expect_end();
        let peer_session_id = main.other_id;
        drop(main);
        let _ = events_of_server(&server, "LinkLost");
        let features = PAIRED | RESUME | RETURNS;
        let greeting =
            Greeting { features, peer_session_id, monotonic_ns: 5, ..Greeting::default() };
        let mut back = Peer::dial(&server.addresses()[0]);
        back.write(&greeting.frame(HELLO).encode());
        back.expect_end();
        let _ = events_of_server(&server, "Disconnected");
        assert!(server.clients().is_empty());
    });
}

/// How many connections a session has is said once.
#[test]
fn session_of_one_connection_does_not_become_two_when_it_resumes() {
    isolated(|| {
        let settings = settings_that_resume().handshake_timeout_ms(1_000);
        let server = start(echo().config(valid(settings)));
        let first = Greeting { features: RESUME, ..Greeting::default() };
        let peer = Peer::connect_as(&server.addresses()[0], first);
        let peer_session_id = peer.other_id;
        drop(peer);
        let _ = events_of_server(&server, "LinkLost");
        let features = PAIRED | RESUME | RETURNS;
        let again = Greeting { features, peer_session_id, monotonic_ns: 5, ..Greeting::default() };
        let mut back = Peer::connect_as(&server.addresses()[0], again);
        let until = Nanos::now() + Duration::from_millis(1_300);
        while Nanos::now() < until {
            assert_eq!(back.ask(b"alive"), b"alive", "beyond the handshake's time");
        }
        assert_eq!(server.clients().len(), 1);
    });
}

#[test]
fn nothing_is_taken_or_sent_before_both_connections_stand() {
    let check = |builder: ServerBuilder| {
        let server = start(builder.config(config()));
        let greeting = Greeting { features: PAIRED, ..Greeting::default() };
        let mut main = Peer::connect_as(&server.addresses()[0], greeting);
        let report = server.broadcast(Envelope::data(), b"to all").expect("asked");
        assert_eq!(report.outcomes, [], "nobody is connected");
        main.send(Plain::new(DATA, NORMAL, b"early"));
        main.expect_end();
        wait_for(&server, "it is a protocol error", |s| {
            s.closes.iter().any(|close| close.reason == "protocol.unexpected")
        });
        assert!(server.receive(Duration::ZERO).is_err(), "and nobody's message");
        assert_eq!(server.statistics().handler_panics, 0, "no handler saw it");
    };
    isolated(|| {
        check(silent());
        check(silent().on(Kind::Data, |_, _| panic!("called for what came early")));
    });
}

/// An idle express link is lost while main still flushes: nothing of it was lost.
#[test]
fn flushed_express_that_is_lost_does_not_end_a_disconnect() {
    isolated(|| {
        let mut bed = Bed::around(express(), silent().config(valid(settings_that_resume())));
        bed.proxy.hold();
        bed.client.send(Envelope::data().reliable(), b"normal").expect("queued");
        bed.client.flush();
        let id = bed.client.connection().expect("connected").id;
        bed.client.reactor().disconnect(id, PATIENCE);
        (0..20).for_each(|_| turn(&mut bed.client));
        bed.proxy.breaks_one(1, Fault::Cut);
        (0..20).for_each(|_| turn(&mut bed.client));
        bed.proxy.release();
        bed.turn_until("it is over", |bed| {
            bed.client.connection_state() == ConnectionState::Disconnected
        });
        assert_eq!(names_of_client(&mut bed.client), ["Disconnected"]);
        assert_eq!(bed.server.receive(PATIENCE).expect("it").payload()[..], *b"normal");
    });
}

/// The peer is killed: what it had sent on either connection is handed over, whichever ends first,
/// and however long the inbox has been full.
#[test]
fn what_came_before_an_abrupt_end_is_handed_over_from_both_connections() {
    const MESSAGES: u8 = 12;
    isolated(|| {
        for (lane, is_main_first) in [(NORMAL, false), (CRITICAL, true)] {
            let config = valid(settings().express(true).inbox_frames_max(4));
            let server = start(silent().config(config).reactors(1));
            let (mut main, mut express) = plain_pair(&server, 0);
            let sender = if lane == NORMAL { &mut main } else { &mut express };
            for number in 0..MESSAGES {
                sender.send(Plain::new(DATA, lane, &[number]));
            }
            wait_until("it is held back", || server.statistics().receive_pauses > 0);
            let (first, second) = if is_main_first { (main, express) } else { (express, main) };
            drop((first, second));
            for number in 0..MESSAGES {
                let message = server.receive(PATIENCE).expect("nothing that came is lost");
                assert_eq!(message.payload()[..], [number]);
            }
            let _ = events_of_server(&server, "Disconnected");
        }
    });
}

#[test]
fn correlation_may_be_used_again_after_a_cancellation() {
    isolated(|| {
        let server = start(silent().config(config()));
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(COMMAND, NORMAL, b"first").correlated(REQUEST, 5));
        assert_eq!(server.receive(PATIENCE).expect("it").payload()[..], *b"first");
        peer.send(Plain::new(CANCEL, NORMAL, b"").correlated(0, 5));
        peer.send(Plain::new(COMMAND, NORMAL, b"second").correlated(REQUEST, 5));
        assert_eq!(server.receive(PATIENCE).expect("it").payload()[..], *b"second");
        assert_eq!(server.statistics().requests_cancelled, 1);
    });
}

/// The place that a returning peer's new connection had at first leaves no row behind.
#[test]
fn resumed_sessions_leave_no_rows_behind() {
    isolated(|| {
        let directory = Directory::new();
        let stats = directory.path("stats");
        let settings = settings_that_resume()
            .registry(true)
            .registry_directory(stats.clone())
            .node_name("cell");
        let mut bed = Bed::with(settings_that_resume(), settings);
        for _ in 0..3 {
            bed.proxy.breaks(Fault::HalfOpen);
            bed.turn_until_resumed();
        }
        wait_until("one row is alive", || {
            let paths = files(std::slice::from_ref(&stats));
            let is_server = |path: &&std::path::PathBuf| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cell"))
            };
            let path = paths.iter().find(is_server).expect("the server's registry");
            let snapshot = Snapshot::from_file(path).expect("readable");
            snapshot.sessions().filter(|row| row.state != RowState::Ended).count() == 1
        });
    });
}

/// Hellos with any features, known and unknown ids, and goodbyes, resets and disconnects at any
/// moment: nobody panics, and everything is over in the end.
#[test]
fn odd_orders_end_well() {
    isolated(|| {
        for reactors in [1, 3] {
            check_odd_orders(reactors, 700 + u64::from(reactors));
        }
    });
}

fn check_odd_orders(reactors: u32, seed: u64) {
    let settings = settings_that_resume().handshake_timeout_ms(300).session_linger_ms(500);
    let server = start(echo().config(valid(settings.reactors(reactors))));
    let address = server.addresses()[0].clone();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut peers: Vec<Peer> = Vec::new();
    let mut ids: Vec<[u8; 16]> = vec![[0; 16]];
    for step in 0..1_500 {
        let id = [50 + rng.u8(..3); 16];
        let greeting = Greeting {
            features: rng.u32(..16),
            session_id: if rng.bool() { companion(id) } else { id },
            peer_session_id: ids[rng.usize(..ids.len())],
            monotonic_ns: if rng.u8(..8) == 0 { 0 } else { step + 1 },
            ..Greeting::default()
        };
        let mut peer = Peer::dial(&address);
        peer.write(&greeting.frame(HELLO).encode());
        if rng.u8(..3) > 0
            && let Ok(frame) = peer.try_frame()
            && frame.kind == WELCOME
        {
            ids.push(frame.payload[8..24].try_into().expect("sixteen bytes"));
            if ids.len() > 8 {
                ids.remove(0);
            }
        }
        peers.push(peer);
        let leaves = rng.u8(..2) == 0 || peers.len() > 8;
        if leaves {
            let mut peer = peers.swap_remove(rng.usize(..peers.len()));
            match rng.u8(..3) {
                // The other end may have closed already.
                0 => drop(peer.stream.write_all(&goodbye())),
                1 => peer.reset(),
                _ => {}
            }
        }
        if step % 16 == 0 {
            for client in server.clients() {
                let lane = if rng.bool() { Priority::Low } else { Priority::Critical };
                let envelope = Envelope::data().priority(lane).reliable();
                let _ = server.send_to(client.id, envelope, b"kept");
                if rng.u8(..6) == 0 {
                    let _ = server.disconnect(client.id, Duration::from_millis(rng.u64(..50)));
                }
            }
        }
    }
    drop(peers);
    wait_for(&server, "all are gone", |s| s.connections_active == 0);
    wait_until("somebody who is quick is let in", || {
        let mut peer = Peer::dial(&address);
        peer.write(&Greeting::default().frame(HELLO).encode());
        // On a busy machine the handshake's time may be over before it begins.
        let is_in = peer.try_frame().is_ok_and(|frame| frame.kind == WELCOME);
        is_in && peer.ask(b"still there") == b"still there"
    });
    let ends = std::iter::from_fn(|| server.poll_event());
    let ends = ends.filter(|event| name(&event.kind) == "Disconnected").count();
    assert!(ends > 0, "seed {seed}: nothing happened");
}

//! What other processes see of a node: counters, histograms and sessions in a file.
//!
//! Here the reader is in the same process as the node and goes through the file all the same; that
//! a node may be killed meanwhile is in `tests/registry.rs`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringwire::stats::{RowState, SessionReading, WriterState, files};
use ringwire::{
    Client, Config, DropReason, Envelope, Kind, Nanos, Overflow, Priority, Server, Snapshot,
};

use crate::util::{
    Directory, Peer, endpoint, isolated, plain_listener, settings, start, wait_until,
};

const NORMAL: usize = 1;

/// Settings of an end of its own name.
fn named(directory: &Directory, name: &str) -> Config {
    let settings =
        settings().registry(true).registry_directory(directory.path("stats")).node_name(name);
    settings.heartbeat_interval_ms(20).heartbeat_misses(200).build().expect("valid")
}

fn server(directory: &Directory) -> Server {
    let builder = Server::builder().config(named(directory, "cell")).listen("127.0.0.1:0");
    start(builder.on(Kind::Command, |context, frame| {
        let _ = context.reply(Envelope::status(), frame.payload());
    }))
}

fn client(directory: &Directory, server: &Server) -> Client {
    let mut client = Client::new(named(directory, "controller")).expect("a ring");
    client.connect(&endpoint(server)).expect("the server listens");
    client
}

/// The registry of the end of this name, read through its file.
fn read(directory: &Directory, name: &str) -> Snapshot {
    let paths: Vec<PathBuf> = files(&[directory.path("stats")]);
    let is_meant = |path: &&PathBuf| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
    };
    let path = paths.iter().find(is_meant).unwrap_or_else(|| panic!("no {name} in {paths:?}"));
    Snapshot::from_file(path).expect("readable")
}

fn only_session(snapshot: &Snapshot) -> SessionReading {
    let sessions: Vec<_> = snapshot.sessions().collect();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    sessions[0].clone()
}

/// Reads until what is read is as it should be.
fn wait_for_reading(
    what: &str,
    mut read: impl FnMut() -> Snapshot,
    is_there: impl Fn(&Snapshot) -> bool,
) -> Snapshot {
    let mut last = None;
    wait_until(what, || {
        let snapshot = read();
        let done = is_there(&snapshot);
        last = Some(snapshot);
        done
    });
    last.expect("read at least once")
}

#[test]
fn traffic_is_seen_from_outside() {
    isolated(|| {
        let directory = Directory::new();
        let server = server(&directory);
        let mut client = client(&directory, &server);
        for _ in 0..100 {
            let answer = client.request(Envelope::command(), b"status?", Duration::from_secs(5));
            assert_eq!(&answer.expect("an answer").payload()[..], b"status?");
        }
        // The clock is known after a heartbeat, which the client sends in its calls.
        let seen = wait_for_reading(
            "the server's row is written",
            || {
                client.poll();
                read(&directory, "cell")
            },
            |snapshot| {
                let heartbeats = snapshot.histogram("heartbeat_round_trip").expect("known");
                let session = only_session(snapshot);
                // The row tells of it within a tenth of a second.
                let is_told = session.clock.is_some() && session.round_trip.is_some();
                heartbeats.count() > 0 && is_told
            },
        );
        assert_eq!((&*seen.node_name, seen.is_server), ("cell", true));
        assert_eq!(seen.endpoint, endpoint(&server));
        let statistics = seen.statistics();
        assert_eq!((statistics.messages_received, statistics.messages_sent), (100, 100));
        assert_eq!(statistics.connections_active, 1);
        let session = only_session(&seen);
        assert_eq!((session.state, session.links), (RowState::Connected, 1));
        assert_eq!((&*session.peer_name, session.reason), ("controller", None));
        assert!(session.address.starts_with("127.0.0.1:"), "{session:?}");
        assert_eq!((session.messages_received, session.messages_sent), (100, 100));
        assert_eq!(session.bytes_received, statistics.bytes_received);
        assert!(session.round_trip.is_some_and(|time| time < Duration::from_secs(5)));
        let (offset, error) = session.clock.expect("waited for");
        assert!(offset.unsigned_abs() <= error, "one clock: {offset} +- {error}");

        let count = |snapshot: &Snapshot, name: &str| {
            snapshot.histogram(name).unwrap_or_else(|| panic!("{name}")).count()
        };
        assert!(count(&seen, "handler") >= 1, "one of 64 calls");
        assert!(count(&seen, "turn") >= 100);
        assert_eq!(count(&seen, "queueing"), 100, "a block each");
        assert!((1..=100).contains(&count(&seen, "one_way")));
        assert!(count(&seen, "one_way_error") >= 1);
        assert_eq!(count(&seen, "request_round_trip"), 0, "it asked nothing");
        let asked = read(&directory, "controller");
        assert_eq!(count(&asked, "request_round_trip"), 100);
        let median = asked.histogram("request_round_trip").expect("known").quantile_ns(0.5);
        assert!((1_000..5_000_000_000).contains(&median), "{median}");
        assert_eq!(only_session(&asked).peer_name, "cell");
        assert_eq!(only_session(&asked).address, endpoint(&server));

        // In-process the same figures.
        assert_eq!(server.handle().snapshot().statistics().messages_sent, 100);
        assert!(client.reactor().snapshot().expect("its own").path.exists());
    });
}

#[test]
fn ended_sessions_and_nodes_are_told() {
    isolated(|| {
        let directory = Directory::new();
        let server = server(&directory);
        let mut client = client(&directory, &server);
        let _ = client.disconnect(Duration::from_secs(5));
        let seen = wait_for_reading(
            "the session is over",
            || read(&directory, "cell"),
            |snapshot| only_session(snapshot).state == RowState::Ended,
        );
        assert_eq!(only_session(&seen).reason, Some("goodbye"));
        assert_eq!(only_session(&seen).peer_name, "controller");
        let handle = server.handle();
        drop(client);
        let _ = server.shutdown(Duration::from_secs(5));
        assert_eq!(files(&[directory.path("stats")]), Vec::<PathBuf>::new(), "both are gone");
        assert_eq!(handle.snapshot().writer, WriterState::Exited);
    });
}

/// One after the other, in the same place: each is over long before a tenth of a second.
#[test]
fn short_sessions_tell_whose_they_were() {
    isolated(|| {
        let directory = Directory::new();
        let server = server(&directory);
        for ended in 1..=5 {
            let mut client = client(&directory, &server);
            client.request(Envelope::command(), b"x", Duration::from_secs(5)).expect("an answer");
            let _ = client.disconnect(Duration::from_secs(5));
            let seen = wait_for_reading(
                "the session is over",
                || read(&directory, "cell"),
                |snapshot| {
                    let session =
                        snapshot.sessions().find(|session| session.generation + 1 == ended);
                    session.is_some_and(|session| session.state == RowState::Ended)
                },
            );
            let session = only_session(&seen);
            assert!(session.address.starts_with("127.0.0.1:"), "{ended}: {session:?}");
            assert_eq!((&*session.peer_name, session.links), ("controller", 1), "{ended}");
            assert_eq!(session.reason, Some("goodbye"));
        }
    });
}

#[test]
fn handler_that_hangs_shows_while_it_hangs_and_after() {
    isolated(|| {
        let directory = Directory::new();
        let (release, released) = crossbeam_channel::bounded::<()>(1);
        let config = named(&directory, "cell");
        let server = Server::builder().config(config).listen("127.0.0.1:0");
        let server = start(server.on(Kind::Data, move |_, _| {
            released.recv_timeout(Duration::from_secs(20)).expect("the test releases it");
        }));
        let mut client = client(&directory, &server);
        client.send(Envelope::data(), b"x").expect("room");
        client.flush();
        let hang = Duration::from_millis(20);
        let seen = wait_for_reading(
            "the turn under way is seen",
            || read(&directory, "cell"),
            |snapshot| {
                let reactor = &snapshot.reactors[0];
                reactor.is_in_turn && snapshot.taken.since(reactor.turn_began) > hang
            },
        );
        assert!(seen.is_torn(), "it is in the middle of a turn");
        // Others may have been slow on a busy machine; this one is not over.
        let slow_before = seen.statistics().turns_slow;
        let seen = read(&directory, "cell");
        assert!(seen.reactors[0].is_in_turn);
        assert_eq!(seen.statistics().turns_slow, slow_before);
        release.send(()).expect("it waits");
        let seen = wait_for_reading(
            "the turn is counted",
            || read(&directory, "cell"),
            |snapshot| snapshot.statistics().turns_slow > slow_before,
        );
        assert!(seen.statistics().turn_longest_ns > 20_000_000);
        let turns = seen.histogram("turn").expect("known");
        assert!(turns.max_ns() >= seen.statistics().turn_longest_ns);
    });
}

/// Rows are written ten times a second: what one tells of a message in flight says nothing about a
/// later one.
#[test]
fn healthy_traffic_shows_no_old_messages() {
    isolated(|| {
        let directory = Directory::new();
        let server = server(&directory);
        let mut client = client(&directory, &server);
        // A busy machine makes messages old now and then, and that is shown. Not all the time.
        wait_until("half a second is without old messages", || {
            let (oldest_ns, sent) = send_for_half_a_second(&directory, &mut client);
            sent > 20 && oldest_ns < 50_000_000
        });
    });
}

/// Sends 2,000 messages a second, and looks. Returns how old the oldest was that was seen, in
/// nanoseconds, and how many were sent.
fn send_for_half_a_second(directory: &Directory, client: &mut Client) -> (u64, u64) {
    const PERIOD: Duration = Duration::from_micros(500);
    let end = Nanos::now() + Duration::from_millis(500);
    let mut due = Nanos::now();
    let (mut oldest_ns, mut sent) = (0, 0);
    while due < end {
        client.send(Envelope::command(), b"x").expect("room");
        sent += 1;
        due = (due + PERIOD).max(Nanos::now());
        while Nanos::now() < due {
            client.poll();
        }
        while client.receive(Duration::ZERO).is_ok() {}
        for name in ["cell", "controller"] {
            let lanes = only_session(&read(directory, name)).lanes;
            let shown = lanes.iter().map(|lane| lane.oldest_ns).max().expect("four");
            oldest_ns = oldest_ns.max(shown);
        }
    }
    (oldest_ns, sent)
}

#[test]
fn stalled_lane_shows_its_bytes_and_age() {
    isolated(|| {
        let directory = Directory::new();
        let (listener, target) = plain_listener();
        let peer = std::thread::spawn(move || Peer::accept(&listener));
        // Without heartbeats: the peer is silent and stays.
        let settings = settings().registry(true).registry_directory(directory.path("stats"));
        let config = settings.node_name("controller").heartbeat_interval_ms(0).build();
        let mut client = Client::new(config.expect("valid")).expect("a ring");
        client.connect(&target).expect("the peer listens");
        let _silent = peer.join().expect("no panic");
        let began = Nanos::now();
        while client.send(Envelope::data(), &[7; 32 << 10]).is_ok() {
            client.poll();
        }
        let seen = wait_for_reading(
            "the lane's age is seen",
            || {
                client.poll();
                read(&directory, "controller")
            },
            |snapshot| only_session(snapshot).lanes[NORMAL].oldest_ns > 50_000_000,
        );
        let lane = only_session(&seen).lanes[NORMAL];
        assert!(lane.bytes >= 1 << 20, "{lane:?}");
        assert!(lane.frames >= 32, "{lane:?}");
        assert!(u128::from(lane.oldest_ns) <= seen.taken.since(began).as_nanos(), "{lane:?}");
        assert_eq!(only_session(&seen).lanes[0].bytes, 0);
    });
}

#[test]
fn drops_are_told_by_session_lane_and_reason() {
    isolated(|| {
        let directory = Directory::new();
        let server = server(&directory);
        let settings = settings().registry(true).registry_directory(directory.path("stats"));
        let settings = settings.node_name("controller").lane_frames_max(4);
        let config = settings.overflow(Priority::High, Overflow::DropOldest).build();
        let mut client = Client::new(config.expect("valid")).expect("a ring");
        client.connect(&endpoint(&server)).expect("the server listens");
        for _ in 0..10 {
            let envelope = Envelope::data().priority(Priority::High);
            client.send(envelope, b"position").expect("the oldest make room");
        }
        let seen = wait_for_reading(
            "the drops are counted",
            || {
                client.poll();
                read(&directory, "controller")
            },
            |snapshot| only_session(snapshot).dropped() > 0,
        );
        let session = only_session(&seen);
        assert_eq!(session.drops[2][DropReason::Overflow.index()], 6, "{session:?}");
        assert_eq!(session.dropped(), 6);
        assert_eq!(seen.statistics().dropped(DropReason::Overflow), 6);
    });
}

#[test]
fn more_sessions_than_rows_are_counted() {
    isolated(|| {
        let directory = Directory::new();
        let settings = settings().registry(true).registry_directory(directory.path("stats"));
        let config = settings.registry_sessions_max(1).node_name("cell").build().expect("valid");
        let server = start(Server::builder().config(config).listen("127.0.0.1:0"));
        let _first = client(&directory, &server);
        let _second = client(&directory, &server);
        let seen = wait_for_reading(
            "both are counted",
            || read(&directory, "cell"),
            |snapshot| snapshot.statistics().connections_active == 2,
        );
        assert_eq!(seen.sessions().count(), 1);
        assert_eq!(seen.statistics().sessions_unlisted, 1);
    });
}

#[test]
fn node_without_a_registry_has_its_statistics() {
    isolated(|| {
        let directory = Directory::new();
        let config = settings().registry(false).registry_directory(directory.path("stats"));
        let config = config.build().expect("valid");
        let server = start(Server::builder().config(config.clone()).listen("127.0.0.1:0"));
        let mut client = Client::new(config).expect("a ring");
        client.connect(&endpoint(&server)).expect("the server listens");
        assert_eq!(server.statistics().connections_active, 1);
        assert!(!directory.path("stats").exists());
        assert_eq!(server.handle().snapshot().sessions().count(), 1);
    });
}

/// Seen from outside while messages come and go: what is counted is what the sessions have received
/// and what is unsettled, at each moment, on a node's threads and where an application turns.
#[test]
fn counters_and_sessions_add_up_at_every_moment() {
    isolated(|| {
        let directory = Directory::new();
        let server = server(&directory);
        let mut client = client(&directory, &server);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut other = Client::new(settings().build().expect("valid")).expect("a ring");
                other.connect(&endpoint(&server)).expect("the server listens");
                // ORDERING: Relaxed: it carries nothing else.
                while !stop.load(Ordering::Relaxed) {
                    ask(&mut other);
                }
            });
            let mut whole = [0; 2];
            let deadline = Nanos::now() + Duration::from_secs(20);
            while whole.iter().any(|&seen| seen < 50) {
                assert!(Nanos::now() < deadline, "whole and busy: {whole:?}");
                ask(&mut client);
                for (name, whole) in ["cell", "controller"].into_iter().zip(&mut whole) {
                    *whole += check_adds_up(name, &read(&directory, name));
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

fn ask(client: &mut Client) {
    let answer = client.request(Envelope::command(), b"status?", Duration::from_secs(5));
    assert_eq!(answer.expect("an answer").payload().as_ref(), b"status?");
}

/// Returns how many reactors were seen at one moment.
fn check_adds_up(name: &str, snapshot: &Snapshot) -> u64 {
    let mut whole = 0;
    for reactor in snapshot.reactors.iter().filter(|reactor| !reactor.is_torn) {
        let sum = |of: fn(&SessionReading) -> u64| -> u64 { reactor.sessions.iter().map(of).sum() };
        let counters = &reactor.counters;
        let received = sum(|it| it.messages_received) + reactor.unsettled_messages;
        assert_eq!(received, counters.messages_received.get(), "{name}");
        let bytes = sum(|it| it.bytes_received) + reactor.unsettled_bytes;
        assert_eq!(bytes, counters.bytes_received.get(), "{name}");
        assert_eq!(sum(|it| it.messages_sent), counters.messages_sent.get(), "{name}");
        assert_eq!(sum(|it| it.bytes_sent), counters.bytes_sent.get(), "{name}");
        whole += u64::from(received > 0);
    }
    whole
}

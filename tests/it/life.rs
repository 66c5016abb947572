//! What time does to a session: messages that go stale, peers that fall silent, watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use ringwire::{
    Choice, Client, CloseReason, ConnectionState, DropReason, Envelope, EventKind, Idle, Kind,
    Nanos, Pool, PoolConfig, SendError, Server, WatchChange, WatchKey,
};

use crate::util::{
    DATA, Greeting, NORMAL, PATIENCE, Peer, Plain, REQUEST, STATUS, Stream, client_and_peer,
    client_with, config, echo, endpoint, isolated, plain_listener, settings, start, wait_for,
    wait_until,
};

const HEARTBEAT: u8 = 5;

fn poll_until(client: &mut Client, what: &str, mut condition: impl FnMut(&mut Client) -> bool) {
    wait_until(what, || {
        client.poll();
        condition(client)
    });
}

#[test]
fn stale_command_is_not_sent() {
    isolated(|| {
        let (mut client, _peer) = client_and_peer(config());
        let expired = client.send(Envelope::command().ttl(Duration::ZERO), b"never");
        assert_eq!(expired, Err(SendError::Expired));
        assert_eq!(client.statistics().sends_expired, 1);
        let past = Envelope::command().expires_at(Nanos(1), Nanos::now());
        assert_eq!(client.send(past, b"never"), Err(SendError::Expired));
    });
}

/// A command that waits behind a handler that takes its time is stale when its turn comes.
#[test]
fn stale_command_does_not_run_and_both_sides_count_it() {
    isolated(|| {
        let short = Duration::from_millis(100);
        let handled = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&handled);
        let server = start(echo().on(Kind::Data, move |_, frame| {
            counted.fetch_add(1, Relaxed);
            if frame.payload() == b"slow" {
                let over = Nanos::now() + short;
                wait_until("what came with it is stale", || Nanos::now() > over);
            }
        }));
        let mut client = Client::new(config()).expect("a ring");
        client.connect(&endpoint(&server)).expect("a server listens");
        client.request(Envelope::command(), b"ready", PATIENCE).expect("an answer");
        let mut rounds = 0;
        // On a machine that is away for that long between two lines it does not even leave.
        wait_until("it has left in time", || {
            let expired = client.statistics().dropped(DropReason::Expired);
            client.send(Envelope::data(), b"slow").expect("room");
            client.send(Envelope::data().ttl(short), b"stale").expect("room");
            client.send(Envelope::data().ttl(PATIENCE), b"fresh").expect("room");
            client.flush();
            rounds += 1;
            client.statistics().dropped(DropReason::Expired) == expired
        });
        client.request(Envelope::command(), b"behind", PATIENCE).expect("an answer");
        assert_eq!(handled.load(Relaxed), 2 * rounds, "the slow one and the fresh one");
        assert_eq!(server.statistics().messages_expired, 1);
        poll_until(&mut client, "the peer has told", |client| {
            client.connection().expect("connected").messages_expired_at_peer == 1
        });
    });
}

/// A setpoint that waited behind a handler is as old as it is: what other threads hand to a reactor
/// ages in its queue.
#[test]
fn time_in_the_command_queue_counts_as_time_to_live() {
    isolated(|| {
        let (entered, is_entered) = crossbeam_channel::unbounded();
        let (release, is_released) = crossbeam_channel::unbounded::<()>();
        let server = start(echo().on(Kind::Status, move |_, _| {
            entered.send(()).expect("the test waits");
            is_released.recv_timeout(PATIENCE).expect("the test releases");
        }));
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        peer.send(Plain::new(DATA, NORMAL, b"ask").correlated(REQUEST, 7));
        let request = server.receive(PATIENCE).expect("a request");
        peer.send(Plain::new(STATUS, NORMAL, b"hold"));
        is_entered.recv_timeout(PATIENCE).expect("the handler runs");
        let (short, hold) = (Duration::from_millis(10), Duration::from_millis(100));
        let stale = Envelope::data().ttl(short);
        server.post_to(id, stale, b"stale").expect("room");
        server.post_reply(&request, stale, b"stale").expect("room");
        server.post_to(id, Envelope::data().ttl(PATIENCE), b"in time").expect("room");
        let posted = Nanos::now();
        wait_until("they are stale", || Nanos::now().since(posted) > hold);
        release.send(()).expect("the handler waits");
        let frame = peer.frame();
        assert_eq!(frame.payload, b"in time", "and nothing before it");
        let left = Duration::from_micros(frame.ttl_us.into());
        assert!(left < PATIENCE - hold, "{left:?}: what it waited is over");
        wait_for(&server, "they are counted", |s| s.posts_dropped == 2 && s.sends_expired == 2);
    });
}

/// Time to live and timeouts run from the call, not from that of the first message that was queued
/// since the last turn.
#[test]
fn work_between_two_calls_makes_the_second_no_older() {
    isolated(|| {
        let server = start(echo());
        let mut client = client_with(config(), &endpoint(&server));
        client.request(Envelope::command(), b"ready", PATIENCE).expect("an answer");
        let (timeout, work) = (Duration::from_millis(400), Duration::from_millis(500));
        let work_behind = |client: &mut Client, payload: &[u8]| {
            client.send(Envelope::data(), payload).expect("room");
            let began = Nanos::now();
            wait_until("the work is done", || Nanos::now().since(began) > work);
        };
        work_behind(&mut client, b"1");
        client.request(Envelope::command(), b"now", timeout).expect("it has all its time");
        work_behind(&mut client, b"2");
        client.send(Envelope::data().ttl(timeout), b"3").expect("room");
        client.flush();
        for expected in [b"1", b"2", b"3"] {
            assert_eq!(server.receive(PATIENCE).expect("it comes").payload()[..], *expected);
        }
        assert_eq!(client.statistics().dropped(DropReason::Expired), 0);
    });
}

/// A watch that would not be armed is an error of the start, not a line in a log for each session.
#[test]
fn builder_refuses_watches_that_would_not_be_armed() {
    isolated(|| {
        let (data, status) = (WatchKey::Kind(Kind::Data), WatchKey::Kind(Kind::Status));
        let second = Duration::from_secs(1);
        let outcome = |watches_max, watches: &[(WatchKey, Duration)]| {
            let config = settings().watches_max(watches_max).build().expect("valid");
            let builder = Server::builder().config(config).listen("127.0.0.1:0");
            let builder = watches.iter().fold(builder, |it, &(key, period)| it.watch(key, period));
            builder.start().map(drop).map_err(|error| error.to_string())
        };
        let refused = |watches_max, watches: &[_], reason| {
            let error = outcome(watches_max, watches).expect_err("it is not armed");
            assert!(error.contains(reason), "{error}");
        };
        refused(1, &[(data, second), (status, second)], "watches_max");
        refused(0, &[(data, second)], "watches_max");
        refused(8, &[(data, Duration::ZERO)], "period");
        outcome(1, &[(data, second), (data, 2 * second)]).expect("it is one watch");
    });
}

#[test]
fn last_period_of_a_watched_key_counts() {
    isolated(|| {
        let (tell, told) = crossbeam_channel::unbounded();
        let builder = echo().watch(WatchKey::Kind(Kind::Data), Duration::from_secs(3600));
        let builder = builder.watch(WatchKey::Kind(Kind::Data), Duration::from_millis(5));
        let server = start(builder.on_deadline_missed(move |_, watched| {
            tell.send(watched.ended).expect("the test waits");
        }));
        let _silent = Peer::connect(&server);
        assert_eq!(told.recv_timeout(PATIENCE), Ok(None), "missed long before the session ends");
    });
}

/// Whoever flushes need not turn: what is sent after it is of that time, not of the time of the
/// first message, or the peer would take it for stale.
#[test]
fn messages_after_a_flush_have_a_time_of_their_own() {
    isolated(|| {
        let server = start(echo());
        let mut client = Client::new(config()).expect("a ring");
        client.connect(&endpoint(&server)).expect("a server listens");
        let plan = PoolConfig::builder(endpoint(&server)).build().expect("valid");
        let mut pool = Pool::new(config(), plan).expect("a ring");
        pool.connect().expect("an address");
        pool.wait_ready(PATIENCE).expect("a server listens");
        for _ in 0..3 {
            let before = Nanos::now();
            client.send(Envelope::data(), b"client").expect("room");
            client.flush();
            pool.send(Choice::LeastQueued, Envelope::data(), b"pool").expect("room");
            pool.flush();
            for _ in 0..2 {
                let message = server.receive(PATIENCE).expect("it comes");
                assert!(message.sent_at_ns() >= before.0, "it is of an earlier time");
            }
        }
    });
}

#[test]
fn silent_peer_is_given_up_in_time() {
    isolated(|| {
        let config = settings().heartbeat_interval_ms(10).heartbeat_misses(3).build();
        // It is silent from its welcome on, which is before this thread goes on.
        let before = Nanos::now();
        let (mut client, mut peer) = client_and_peer(config.expect("valid"));
        // The peer's greeting asks for no heartbeats; ours asks for one every 10 ms.
        let connected = Nanos::now();
        poll_until(&mut client, "the peer is given up", |client| {
            client.connection_state() == ConnectionState::Disconnected
        });
        let now = Nanos::now();
        let took = now.since(before);
        assert!(took >= Duration::from_millis(30), "{took:?}");
        // Without these settings it would be ten seconds.
        let took = now.since(connected);
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!(client.disconnected_reason(), Some(CloseReason::PeerSilent));
        peer.expect_end();
    });
}

#[test]
fn heartbeats_keep_an_idle_session_and_measure_it() {
    isolated(|| {
        // Three seconds of silence are fatal; none is that long when they come every 5 ms, not even
        // where the machine stands for one.
        let brisk = || {
            let brisk = settings().heartbeat_interval_ms(5).heartbeat_misses(600);
            brisk.build().expect("valid")
        };
        let server = start(echo().config(brisk()));
        let mut client = Client::new(brisk()).expect("a ring");
        let begun = Nanos::now();
        client.connect(&endpoint(&server)).expect("a server listens");
        let idle_until = Nanos::now() + Duration::from_millis(3_500);
        poll_until(&mut client, "time has passed", |_| Nanos::now() >= idle_until);
        assert_eq!(client.connection_state(), ConnectionState::Connected);
        poll_until(&mut client, "a round trip was measured", |client| {
            client.connection().expect("connected").round_trip.is_some()
        });
        let seen = client.connection().expect("connected");
        let clock = seen.clock.expect("measured");
        // One machine, one clock: the truth is 0.
        assert!(clock.offset_ns.unsigned_abs() <= clock.error_ns, "{clock:?}");
        assert!(seen.round_trip.expect("measured") < Nanos::now().since(begun), "{seen:?}");
        let clients = server.clients();
        let clock = clients[0].clock.expect("the listening side has measured, too");
        assert!(clock.offset_ns.unsigned_abs() <= clock.error_ns, "{clock:?}");
    });
}

/// A peer whose greeting asks to hear every 10 ms does; one that does not hears messages only.
#[test]
fn peer_hears_as_often_as_it_asks() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let accepting = std::thread::spawn(move || {
            let mut peer = Peer::new(Stream::Tcp(listener.accept().expect("a client").0));
            let asking = Greeting { heartbeat_interval_us: 10_000, ..Greeting::default() };
            peer.welcome(asking);
            peer
        });
        let mut client = client_with(config(), &endpoint);
        let mut peer = accepting.join().expect("the handshake completes");
        let reading = std::thread::spawn(move || {
            for _ in 0..5 {
                let frame = peer.frame();
                assert_eq!((frame.kind, frame.sequence), (HEARTBEAT, 0), "{frame:?}");
                assert_eq!(frame.payload.len(), 32);
                assert_eq!(frame.payload[0], 1, "it asks for an answer");
            }
            peer
        });
        poll_until(&mut client, "five heartbeats", |_| reading.is_finished());
        drop(reading.join().expect("no panic"));
    });
}

#[test]
fn watch_calls_once_for_each_silence_and_tells_recovery() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(
            settings().idle(Idle::Spin).heartbeat_interval_ms(0).build().expect("valid"),
        );
        let told = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let period = Duration::from_millis(20);
        for recovered in [false, true] {
            let told = std::rc::Rc::clone(&told);
            let note = move |_: &mut ringwire::Context<'_>, watched: &ringwire::Watched| {
                told.borrow_mut().push((watched.change, watched.silent_for));
            };
            if recovered {
                client.on_deadline_recovered(note);
            } else {
                client.on_deadline_missed(note);
            }
        }
        // When the last two turns began: a miss is told in the first turn behind its deadline.
        let mut turns = [Nanos::now(); 2];
        client.watch(WatchKey::Kind(Kind::Data), period).expect("room");
        for round in 0..9 {
            let started = Nanos::now();
            while told.borrow().len() == 2 * round {
                assert!(Nanos::now().since(started) < PATIENCE, "the miss is not told");
                turns = [turns[1], Nanos::now()];
                client.poll();
            }
            assert_eq!(told.borrow().len(), 2 * round + 1);
            let (change, silent_for) = told.borrow()[2 * round];
            assert_eq!(change, WatchChange::Missed);
            assert!(silent_for >= period, "{silent_for:?}");
            // As late as this thread had the core late, and no more than a millisecond beyond.
            let away = Nanos::now().since(turns[0]);
            let late = silent_for - period;
            assert!(late < away + Duration::from_millis(1), "{late:?} in turns of {away:?}");
            // Once for each silence.
            let longer = started + 3 * period;
            poll_until(&mut client, "time has passed", |_| Nanos::now() >= longer);
            assert_eq!(told.borrow().len(), 2 * round + 1);
            peer.send(Plain::new(2, 2, b"setpoint"));
            // What the next miss counts from is later than this.
            turns = [Nanos::now(); 2];
            poll_until(&mut client, "the recovery is told", |_| {
                told.borrow().len() == 2 * round + 2
            });
            assert_eq!(told.borrow()[2 * round + 1].0, WatchChange::Recovered);
        }
        assert_eq!(client.statistics().deadlines_missed, 9);
        assert_eq!(client.statistics().deadlines_recovered, 9);
    });
}

#[test]
fn server_watches_every_client() {
    isolated(|| {
        let missed = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&missed);
        let server =
            start(echo().watch(WatchKey::Type(7), Duration::from_millis(20)).on_deadline_missed(
                move |context, watched| {
                    assert_eq!(watched.key, WatchKey::Type(7));
                    counted.fetch_add(1, Relaxed);
                    let _ = context.reply(Envelope::status().critical(), b"going safe");
                },
            ));
        let mut client = Client::new(config()).expect("a ring");
        client.connect(&endpoint(&server)).expect("a server listens");
        let message = client.receive(PATIENCE).expect("the drive says that it goes safe");
        assert_eq!(message.payload()[..], *b"going safe");
        assert_eq!(missed.load(Relaxed), 1);
        assert!(client.poll_event().is_some_and(|event| event.kind == EventKind::Connecting));
        assert!(client.poll_event().is_some_and(|event| event.kind == EventKind::Connected));
    });
}

/// How a session ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Goodbye,
    LinkLost,
    ServerDisconnects,
    ServerShutsDown,
}

/// "No setpoint for so long: go safe" holds whatever happens to the session.
fn check_watch_of_ended_session(brief: ringwire::ConfigBuilder, end: End, reason: CloseReason) {
    // Far beyond the test: what is told is told because the session ended.
    let period = 10 * PATIENCE;
    let (told, tells) = std::sync::mpsc::channel();
    let note = move |context: &mut ringwire::Context<'_>, watched: &ringwire::Watched| {
        let name = context.peer().map(|peer| peer.node_name.clone());
        let _ = told.send((*watched, name));
    };
    let server = start(
        echo()
            .config(brief.build().expect("valid"))
            .watch(WatchKey::Kind(Kind::Data), period)
            .watch(WatchKey::Type(7), Duration::from_millis(20))
            .on_deadline_missed(note),
    );
    // Without heartbeats: one that nobody has read makes a reset of a close.
    let named = settings().reconnect(true).node_name("controller").heartbeat_interval_ms(0);
    let mut client = Client::new(named.build().expect("valid")).expect("a ring");
    client.connect(&endpoint(&server)).expect("a server listens");
    client.send(Envelope::data(), b"setpoint").expect("room");
    client.request(Envelope::command(), b"ready", PATIENCE).expect("an answer");
    let (watched, _) = tells.recv_timeout(PATIENCE).expect("nothing of type 7 came");
    assert_eq!((watched.key, watched.ended), (WatchKey::Type(7), None), "{end:?}");
    let mut server = Some(server);
    match end {
        End::Goodbye => drop(client.disconnect(PATIENCE)),
        End::LinkLost => drop(client),
        End::ServerDisconnects => {
            let server = server.as_ref().expect("it runs");
            let id = server.clients()[0].id;
            server.disconnect(id, PATIENCE).expect("it is connected");
            let _ = client.receive(PATIENCE);
        }
        // The client, which nobody turns meanwhile, does not answer the goodbye: bounded. Long
        // enough for the goodbye to leave, without which the session would end as overdue.
        End::ServerShutsDown => {
            let _ = server.take().expect("it runs").shutdown(Duration::from_secs(1));
        }
    }
    let (watched, name) = tells.recv_timeout(PATIENCE).expect("the end is told");
    assert_eq!((watched.key, watched.ended), (WatchKey::Kind(Kind::Data), Some(reason)), "{end:?}");
    assert_eq!(watched.change, WatchChange::Missed);
    assert!(watched.silent_for < period, "{watched:?}");
    assert_eq!(name.as_deref(), Some("controller"), "{end:?}: the handler knows whose they were");
    // Not the one that was missed before, and none twice: with the server its handlers go.
    drop(server);
    assert_eq!(tells.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "{end:?}");
}

#[test]
fn session_that_ends_is_a_miss_of_what_it_was_watched_for() {
    isolated(|| {
        let brief = || settings().session_linger_ms(50).heartbeat_interval_ms(0);
        let at_once = brief().session_linger_ms(0);
        check_watch_of_ended_session(brief(), End::Goodbye, CloseReason::Goodbye);
        check_watch_of_ended_session(brief(), End::LinkLost, CloseReason::SessionExpired);
        check_watch_of_ended_session(at_once, End::LinkLost, CloseReason::PeerClosed);
        check_watch_of_ended_session(brief(), End::ServerDisconnects, CloseReason::Local);
        check_watch_of_ended_session(brief(), End::ServerShutsDown, CloseReason::Local);
    });
}

/// What is read after the end had come before it, and is no reason to leave a safe state: one miss,
/// and no recovery.
#[test]
fn messages_of_a_peer_that_has_gone_feed_no_watch() {
    isolated(|| {
        let (told, tells) = std::sync::mpsc::channel();
        let recovery = told.clone();
        let brief = settings().inbox_frames_max(4).heartbeat_interval_ms(0);
        let server = start(
            Server::builder()
                .config(brief.build().expect("valid"))
                .listen("127.0.0.1:0")
                .watch(WatchKey::Kind(Kind::Data), 10 * PATIENCE)
                .on_deadline_missed(move |_, watched| told.send(*watched).expect("room"))
                .on_deadline_recovered(move |_, watched| recovery.send(*watched).expect("room")),
        );
        let mut peer = Peer::connect(&server);
        for number in 0..12_u8 {
            peer.send(Plain::new(2, 2, &[number]));
        }
        wait_until("it is held back", || server.statistics().receive_pauses > 0);
        drop(peer);
        let missed = tells.recv_timeout(PATIENCE).expect("the end is told");
        assert_eq!(missed.change, WatchChange::Missed);
        assert_eq!(missed.ended, Some(CloseReason::PeerClosed));
        for number in 0..12_u8 {
            let message = server.receive(PATIENCE).expect("nothing that came is lost");
            assert_eq!(message.payload()[..], [number]);
        }
        drop(server);
        assert_eq!(tells.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
    });
}

/// So it is for the side that ends it: by a goodbye, and by being dropped.
#[test]
fn own_watches_miss_when_the_client_disconnects_or_is_dropped() {
    isolated(|| {
        for disconnects in [true, false] {
            let (mut client, _peer) = client_and_peer(config());
            let told = std::rc::Rc::new(std::cell::Cell::new(None));
            let note = std::rc::Rc::clone(&told);
            client.on_deadline_missed(move |_, watched| note.set(watched.ended));
            client.watch(WatchKey::Type(7), 10 * PATIENCE).expect("room");
            if disconnects {
                // The peer does not say goodbye in turn: bounded.
                let _ = client.disconnect(Duration::from_millis(10));
                assert!(told.take().is_some(), "told by the time that it returns");
            }
            drop(client);
            assert_eq!(told.take(), (!disconnects).then_some(CloseReason::Local));
        }
    });
}

/// `flush_within` waits until the peer has confirmed what is reliable.
#[test]
fn flush_waits_for_the_confirmation() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        client.send(Envelope::data().reliable(), b"kept").expect("room");
        let short = Duration::from_millis(30);
        assert!(client.flush_within(short).is_err(), "nobody has confirmed it");
        let frame = peer.frame();
        assert_eq!(frame.payload, b"kept");
        assert!(client.connection().expect("connected").bytes_kept > 0);
        peer.acknowledge([0, u64::from(frame.sequence), 0, 0]);
        client.flush_within(PATIENCE).expect("confirmed");
        assert_eq!(client.connection().expect("connected").bytes_kept, 0);
        peer.acknowledge([0, 2, 0, 0]);
        poll_until(&mut client, "the lie is found out", |client| {
            client.connection_state() == ConnectionState::Disconnected
        });
        assert_eq!(client.statistics().closed("protocol.acknowledgement"), 1);
        assert_eq!(client.connection_state(), ConnectionState::Disconnected);
        peer.expect_end();
    });
}

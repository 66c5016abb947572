//! Pools: how they come to be, grow, shrink and end, and who takes a message.

use std::collections::BTreeMap;
use std::time::Duration;

use ringwire::{
    Choice, CloseReason, ConfigBuilder, ConnectError, Envelope, EventKind, Kind, Nanos, Pool,
    PoolConfig, PoolConfigBuilder, PoolStatistics, Reactor, ReceiveError, RequestError, SendError,
    Server, Wait,
};

use crate::bed::{settings_that_resume, silent, valid};
use crate::proxy::Proxy;
use crate::util::{
    PATIENCE, config, echo, endpoint, isolated, plain_listener, settings, start, timed, wait_until,
};

pub(crate) fn plan(endpoint: &str) -> PoolConfigBuilder {
    PoolConfig::builder(endpoint)
}

/// A pool that has begun to connect.
pub(crate) fn pool_of(settings: ConfigBuilder, plan: PoolConfigBuilder) -> Pool {
    let mut pool = Pool::new(valid(settings), plan.build().expect("valid")).expect("a ring");
    pool.connect().expect("there is room");
    pool
}

pub(crate) fn ready(settings: ConfigBuilder, plan: PoolConfigBuilder) -> Pool {
    let mut pool = pool_of(settings, plan);
    pool.wait_ready(PATIENCE).expect("the server listens");
    pool
}

/// A turn of a millisecond at most.
pub(crate) fn turn(pool: &mut Pool) {
    pool.run_for(Duration::from_millis(1)).expect("a working ring");
}

#[track_caller]
pub(crate) fn turn_until(
    pool: &mut Pool,
    what: &str,
    mut condition: impl FnMut(&mut Pool) -> bool,
) {
    let deadline = Nanos::now() + PATIENCE;
    while !condition(pool) {
        assert!(Nanos::now() < deadline, "in vain until {what}: {:?}", pool.statistics());
        turn(pool);
    }
}

#[track_caller]
pub(crate) fn turn_until_connected(pool: &mut Pool, members: u32) {
    turn_until(pool, "so many are connected", |pool| pool.statistics().connected == members);
}

#[track_caller]
pub(crate) fn echoes(pool: &mut Pool) {
    let answer = pool.request(Choice::LeastQueued, Envelope::command(), b"there?", PATIENCE);
    assert_eq!(answer.expect("an answer").payload()[..], *b"there?");
}

/// While no session was lost, the pool's numbers are those of its members and its reactor.
#[track_caller]
fn check_accounts(pool: &mut Pool) -> PoolStatistics {
    let statistics = pool.statistics();
    let PoolStatistics { sends, requests, frames_queued, messages_dropped, .. } = statistics;
    let members = pool.members();
    let total = pool.reactor().statistics();
    if statistics.reaped == 0 {
        let admitted: u64 = members.iter().map(|member| member.messages_sent).sum();
        assert_eq!(admitted, sends + requests, "{statistics:?}");
        let queued: u64 = members.iter().map(|member| member.frames_queued).sum();
        assert_eq!(queued, frames_queued, "{statistics:?}");
    }
    assert_eq!(total.messages_dropped, messages_dropped, "{statistics:?}\n{total:?}");
    if frames_queued == 0 {
        assert_eq!(total.messages_sent + messages_dropped, sends + requests, "{statistics:?}");
    }
    let refused = statistics.refused.full + statistics.refused.memory_full;
    assert_eq!(total.sends_refused, refused + statistics.passed_over, "{statistics:?}\n{total:?}");
    assert_eq!(total.connections_established, statistics.dials - statistics.dials_failed);
    statistics
}

/// How many messages have come from each client.
fn receive_by_client(server: &Server, pool: &mut Pool, count: usize) -> BTreeMap<String, usize> {
    let mut by_client = BTreeMap::new();
    let mut received = 0;
    turn_until(pool, "all have come", |_| {
        while let Ok(message) = server.receive(Duration::ZERO) {
            *by_client.entry(message.connection().to_string()).or_default() += 1;
            received += 1;
        }
        received == count
    });
    by_client
}

#[test]
fn base_is_warmed_up_and_creation_does_not_wait() {
    isolated(|| {
        // Nobody answers here.
        let (_listener, silent_endpoint) = plain_listener();
        let (mut pool, took) = timed(|| {
            pool_of(settings().handshake_timeout_ms(60_000), plan(&silent_endpoint).members_min(4))
        });
        assert!(took < PATIENCE / 2, "it waited: {took:?}");
        assert!(!pool.is_ready());
        assert_eq!(pool.statistics().connecting, 4);
        let refused = pool.send(Choice::LeastQueued, Envelope::data(), b"too early");
        assert_eq!(refused, Err(SendError::NotConnected));
        let patience = Duration::from_millis(50);
        let (outcome, took) = timed(|| pool.wait_ready(patience));
        let Err(ConnectError::PoolNotReady { connected, members_min, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!((connected, members_min), (0, 4));
        assert!(took >= patience && took < PATIENCE / 2, "{took:?}");
        assert_eq!(pool.statistics().refused.not_connected, 1);
        drop(pool);

        let server = start(echo());
        let mut pool = ready(settings(), plan(&endpoint(&server)).members_min(4));
        assert!(pool.is_ready());
        assert_eq!(pool.members().len(), 4);
        wait_until("the server has them all", || server.clients().len() == 4);
        assert!(matches!(pool.connect(), Err(ConnectError::AlreadyConnected)));
        echoes(&mut pool);
        let statistics = check_accounts(&mut pool);
        assert_eq!((statistics.connected, statistics.dials, statistics.requests), (4, 4, 1));
        let events: Vec<_> = std::iter::from_fn(|| pool.poll_event()).collect();
        let count = |kind| events.iter().filter(|event| event.kind == kind).count();
        assert_eq!((count(EventKind::Connecting), count(EventKind::Connected)), (4, 4));
        assert_eq!(events.len(), 8, "{events:?}");
    });
}

#[test]
fn calls_before_connecting_and_after_disconnecting_say_so() {
    isolated(|| {
        let server = start(echo());
        let plan = plan(&endpoint(&server)).build().expect("valid");
        let mut pool = Pool::new(config(), plan).expect("a ring");
        for round in 0..2 {
            let refused = pool.send(Choice::Key(1), Envelope::data(), b"x");
            assert_eq!(refused, Err(SendError::NotConnected));
            let refused = pool.request(Choice::LeastQueued, Envelope::data(), b"x", PATIENCE);
            assert_eq!(refused.expect_err("no pool"), RequestError::Send(SendError::NotConnected));
            let (outcome, took) = timed(|| pool.receive(PATIENCE));
            assert_eq!(outcome.expect_err("no pool"), ReceiveError::NotConnected);
            assert!(took < PATIENCE / 2);
            assert_eq!(pool.run_for(PATIENCE), Err(ReceiveError::NotConnected));
            assert!(matches!(pool.wait_ready(PATIENCE), Err(ConnectError::PoolClosed)));
            assert!(pool.flush_within(PATIENCE).is_err());
            assert_eq!(pool.statistics(), PoolStatistics::default());
            assert!(pool.members().is_empty() && !pool.is_ready());
            assert_eq!(pool.disconnect(PATIENCE), Default::default());
            if round == 0 {
                pool.connect().expect("room");
                pool.wait_ready(PATIENCE).expect("the server listens");
                echoes(&mut pool);
                assert_eq!(pool.disconnect(PATIENCE).flushed, 1);
            }
        }
    });
}

#[test]
fn messages_without_a_key_spread_over_the_members() {
    isolated(|| {
        let server = start(silent().config(config()));
        let mut pool = ready(settings(), plan(&endpoint(&server)).members_min(4));
        // Without a turn in between: the emptiest is the one whose turn it is.
        for _ in 0..100 {
            pool.send(Choice::LeastQueued, Envelope::data(), b"one of many").expect("room");
        }
        assert!(pool.members().iter().all(|member| member.messages_sent == 25));
        // A long one: its member is left out until the others have as much.
        pool.send(Choice::LeastQueued, Envelope::data(), &[1; 4_000]).expect("room");
        for _ in 0..30 {
            pool.send(Choice::LeastQueued, Envelope::data(), b"one of many").expect("room");
        }
        let mut sent: Vec<_> = pool.members().iter().map(|member| member.messages_sent).collect();
        sent.sort_unstable();
        assert_eq!(sent, [26, 35, 35, 35]);
        let by_client = receive_by_client(&server, &mut pool, 131);
        assert_eq!(by_client.len(), 4);
        let statistics = check_accounts(&mut pool);
        assert_eq!((statistics.sends, statistics.refused.total()), (131, 0));
    });
}

#[test]
fn lanes_are_looked_at_by_priority() {
    isolated(|| {
        let server = start(silent().config(config()));
        let mut pool = ready(settings(), plan(&endpoint(&server)).members_min(2));
        pool.send(Choice::LeastQueued, Envelope::data(), &[1; 4_000]).expect("room");
        let before: Vec<_> = pool.members().iter().map(|m| m.messages_sent).collect();
        for _ in 0..10 {
            pool.send(Choice::LeastQueued, Envelope::data().critical(), b"!").expect("room");
        }
        // The long one stands in another lane: critical ones go to both alike.
        let after: Vec<_> = pool.members().iter().map(|m| m.messages_sent).collect();
        let taken: Vec<_> = before.iter().zip(&after).map(|(b, a)| a - b).collect();
        assert_eq!(taken, [5, 5]);
        let _ = receive_by_client(&server, &mut pool, 11);
    });
}

#[test]
fn key_keeps_its_member_and_keys_spread() {
    isolated(|| {
        let server = start(silent().config(config()));
        let mut pool = ready(settings(), plan(&endpoint(&server)).members_min(3));
        let mut homes: BTreeMap<u64, String> = BTreeMap::new();
        for round in 0..5_u64 {
            for key in 0..32_u64 {
                let payload = [key, round].map(u64::to_le_bytes).concat();
                pool.send(Choice::Key(key), Envelope::data(), &payload).expect("room");
            }
            let mut received = 0;
            turn_until(&mut pool, "they have come", |_| {
                while let Ok(message) = server.receive(Duration::ZERO) {
                    received += 1;
                    let key = u64::from_le_bytes(message.payload()[..8].try_into().expect("8"));
                    let came_over = message.connection().to_string();
                    let home = homes.entry(key).or_insert_with(|| came_over.clone());
                    assert_eq!(*home, came_over, "key {key}");
                }
                received == 32
            });
        }
        let members: std::collections::BTreeSet<_> = homes.values().collect();
        assert_eq!(members.len(), 3, "{homes:?}");
        let _ = check_accounts(&mut pool);
    });
}

/// A server that reads nothing while nobody takes its messages: load piles up at the pool.
fn slow_server() -> Server {
    start(silent().config(valid(settings().inbox_frames_max(1))))
}

#[test]
fn load_grows_the_pool_and_idleness_shrinks_it() {
    isolated(|| {
        let server = slow_server();
        let plan = plan(&endpoint(&server)).members_min(1).members_max(3);
        // Long enough that none is idle for want of a core while it has work.
        let idle_after = Duration::from_secs(1);
        let plan = plan.grow_bytes(100_000).idle_after_ms(idle_after.as_millis() as u32);
        let mut pool = ready(settings().tcp_send_buffer_bytes(16 << 10), plan);
        let mut sent = 0;
        let payload = vec![3; 60_000];
        turn_until(&mut pool, "it has grown to its bound", |pool| {
            let statistics = pool.statistics();
            assert!(statistics.connecting <= 1, "one at a time");
            match pool.send(Choice::LeastQueued, Envelope::data(), &payload) {
                Ok(()) => sent += 1,
                Err(error) => assert_eq!(error, SendError::Full),
            }
            statistics.connected == 3
        });
        // And no further, with every lane full.
        for _ in 0..200 {
            let outcome = pool.send(Choice::LeastQueued, Envelope::data(), &payload);
            sent += usize::from(outcome.is_ok());
            turn(&mut pool);
        }
        let statistics = check_accounts(&mut pool);
        assert_eq!((statistics.connected, statistics.grown, statistics.dials), (3, 2, 3));
        assert!(statistics.refused.full > 0 && statistics.passed_over > 0, "{statistics:?}");
        assert_eq!(server.clients().len(), 3);

        let by_client = receive_by_client(&server, &mut pool, sent);
        assert_eq!(by_client.len(), 3, "each carried something: {by_client:?}");
        turn_until_connected(&mut pool, 1);
        turn_until(&mut pool, "they have gone", |pool| pool.statistics().draining == 0);
        wait_until("the server knows", || server.clients().len() == 1);
        let statistics = check_accounts(&mut pool);
        assert_eq!((statistics.grown, statistics.reaped, statistics.lost), (2, 2, 0));
        assert_eq!(server.statistics().closed("goodbye"), 2, "they left in order");
        // The base stays, however idle.
        let until = Nanos::now() + idle_after * 5 / 4;
        while Nanos::now() < until {
            turn(&mut pool);
        }
        assert_eq!(pool.statistics().connected, 1);
        pool.send(Choice::LeastQueued, Envelope::data(), b"still here").expect("connected");
        let _ = receive_by_client(&server, &mut pool, 1);
    });
}

#[test]
fn member_that_owes_an_answer_is_not_reaped() {
    isolated(|| {
        let server = start(silent().config(config()));
        let idle_after = Duration::from_secs(1);
        let plan = plan(&endpoint(&server)).members_max(2).grow_bytes(1);
        let plan = plan.idle_after_ms(idle_after.as_millis() as u32);
        let mut pool = ready(settings(), plan);
        turn_until(&mut pool, "there is another", |pool| {
            for _ in 0..2 {
                pool.send(Choice::LeastQueued, Envelope::data(), b"load").expect("room");
            }
            pool.statistics().connected == 2
        });
        // One request on each: none is answered yet.
        pool.flush_within(PATIENCE).expect("it leaves");
        let ask = |pool: &mut Pool| {
            pool.start_request(Choice::LeastQueued, Envelope::command(), b"?", PATIENCE)
        };
        let requests = [ask(&mut pool), ask(&mut pool)].map(|request| request.expect("room"));
        let until = Nanos::now() + idle_after * 5 / 4;
        while Nanos::now() < until {
            turn(&mut pool);
        }
        assert_eq!(pool.statistics().connected, 2, "an answer is owed");
        let mut answered = 0;
        turn_until(&mut pool, "both are answered", |pool| {
            while let Ok(message) = server.receive(Duration::ZERO) {
                if message.is_request() {
                    server.reply(&message, Envelope::status(), b"!").expect("queued");
                }
            }
            answered += requests.iter().filter(|&&id| pool.take_response(id).is_some()).count();
            answered == 2
        });
        turn_until_connected(&mut pool, 1);
    });
}

/// What has come for it waits for the application: it is not idle.
#[test]
fn member_with_messages_that_are_not_taken_is_not_reaped() {
    const MESSAGES: u32 = 40;
    isolated(|| {
        let server = start(silent().config(config()));
        let idle_after = Duration::from_secs(1);
        let plan = plan(&endpoint(&server)).members_max(2).grow_bytes(1);
        let plan = plan.idle_after_ms(idle_after.as_millis() as u32);
        let mut pool = ready(settings().inbox_frames_max(4), plan);
        turn_until(&mut pool, "there is another", |pool| {
            for _ in 0..2 {
                pool.send(Choice::LeastQueued, Envelope::data(), b"load").expect("room");
            }
            pool.statistics().connected == 2
        });
        pool.flush_within(PATIENCE).expect("it leaves");
        wait_until("both are known", || server.clients().len() == 2);
        for _ in 0..MESSAGES {
            let report = server.broadcast(Envelope::status(), b"to both").expect("asked");
            assert_eq!(report.queued(), 2);
        }
        turn_until(&mut pool, "both are held back", |pool| {
            pool.reactor().statistics().receive_pauses >= 2
        });
        // Longer than it may be idle, and than its end may take.
        let until = Nanos::now() + idle_after * 3 / 2;
        while Nanos::now() < until {
            turn(&mut pool);
        }
        assert_eq!(pool.statistics().reaped, 0);
        for number in 0..2 * MESSAGES {
            let message = pool.receive(PATIENCE);
            assert!(message.is_ok(), "message {number}: {message:?}");
        }
        turn_until_connected(&mut pool, 1);
    });
}

#[test]
fn endpoint_that_does_not_exist_yet_is_waited_for() {
    isolated(|| {
        let server = start(echo());
        let proxy = Proxy::new(&endpoint(&server));
        proxy.refuse();
        let settings = settings().reconnect_delay_max_ms(20);
        let mut pool = pool_of(settings, plan(&proxy.endpoint()).members_min(2));
        turn_until(&mut pool, "it has tried once", |pool| pool.statistics().dials_failed > 0);
        let outcome = pool.wait_ready(Duration::from_millis(10));
        let Err(ConnectError::PoolNotReady { connected: 0, reason, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        let refused = CloseReason::Socket { errno: libc::ECONNREFUSED };
        assert_eq!(reason, Some(refused));
        turn_until(&mut pool, "it has tried often", |pool| pool.statistics().dials_failed > 10);
        let statistics = pool.statistics();
        assert_eq!((statistics.last_failure, statistics.connected), (Some(refused), 0));
        assert!(statistics.connecting + statistics.waiting == 2, "{statistics:?}");
        let outcome = pool.send(Choice::Key(1), Envelope::data().reliable(), b"too early");
        assert_eq!(outcome, Err(SendError::NotConnected));
        let (outcome, _) = timed(|| pool.receive(Duration::from_millis(1)));
        assert!(matches!(outcome, Err(ReceiveError::Timeout { .. })), "it may be soon");

        proxy.admit();
        pool.wait_ready(PATIENCE).expect("now it exists");
        echoes(&mut pool);
        let statistics = pool.statistics();
        assert_eq!((statistics.lost, statistics.replaced, statistics.grown), (0, 0, 0));
    });
}

#[test]
fn disconnect_flushes_every_member_and_reports() {
    isolated(|| {
        let server = start(silent().config(valid(settings_that_resume())));
        let mut pool = ready(settings_that_resume(), plan(&endpoint(&server)).members_min(3));
        for number in 0..30_u64 {
            let envelope = Envelope::data().reliable();
            pool.send(Choice::Key(number), envelope, &number.to_le_bytes()).expect("room");
        }
        let (report, took) = timed(|| pool.disconnect(PATIENCE));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (3, 3, 0));
        let mut numbers: Vec<u64> = (0..30)
            .map(|_| server.receive(PATIENCE).expect("it was flushed"))
            .map(|message| u64::from_le_bytes(message.payload()[..8].try_into().expect("8")))
            .collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..30));
        wait_until("the server knows", || server.clients().is_empty());
    });
}

#[test]
fn disconnect_keeps_its_deadline_and_names_what_was_not_delivered() {
    isolated(|| {
        let server = start(silent().config(valid(settings_that_resume())));
        let proxy = Proxy::new(&endpoint(&server));
        let mut pool = ready(settings_that_resume(), plan(&proxy.endpoint()).members_min(3));
        while pool.poll_event().is_some() {}
        proxy.hold();
        for number in 0..30_u64 {
            let envelope = Envelope::data().reliable();
            pool.send(Choice::Key(number), envelope, &number.to_le_bytes()).expect("room");
        }
        let deadline = Duration::from_millis(200);
        let (report, took) = timed(|| pool.disconnect(deadline));
        assert!(took >= deadline, "there was something to wait for: {took:?}");
        assert!(took < deadline + PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.flushed), (3, 0));
        let mut named = Vec::new();
        while let Some(event) = pool.poll_event() {
            if let EventKind::SessionLost { undelivered, .. } = event.kind {
                named.extend(undelivered.iter().map(|lost| lost.payload[0]));
            }
        }
        named.sort_unstable();
        assert!(named.iter().copied().eq(0..30), "{named:?}");
        proxy.release();
    });
}

#[test]
fn more_members_than_connections_are_refused() {
    isolated(|| {
        let server = start(echo());
        let big = plan(&endpoint(&server)).members_max(9).build().expect("valid");
        let small = plan(&endpoint(&server)).members_max(5).build().expect("valid");
        let config = valid(settings().connections_max(8));
        let mut pool = Pool::new(config.clone(), big).expect("a ring");
        let refused = pool.connect().expect_err("nine");
        assert!(matches!(refused, ConnectError::TooMany { connections_max: 8 }), "{refused}");

        let mut reactor = Reactor::new(&config).expect("a ring");
        let first = reactor.pool(&small).expect("five");
        assert!(matches!(reactor.pool(&small), Err(ConnectError::TooMany { .. })), "ten");
        reactor.pool_close(first, PATIENCE);
        let mut report = None;
        let deadline = Nanos::now() + PATIENCE;
        while report.is_none() {
            assert!(Nanos::now() < deadline, "it does not end");
            let limit = Nanos::now() + Duration::from_millis(1);
            reactor.turn(Wait::Until(limit)).expect("a working ring");
            report = reactor.pool_closed(first);
        }
        assert_eq!(reactor.pool_statistics(first), None, "it is forgotten");
        assert_eq!(reactor.pool_closed(first), None);
        let second = reactor.pool(&small).expect("there is room again");
        assert_ne!(first, second);
        let refused = reactor.pool_send(first, Choice::Key(1), Envelope::data(), b"x");
        assert_eq!(refused, Err(SendError::NotConnected));
        reactor.pool_wait_ready(second, PATIENCE).expect("the server listens");
        let outcome = reactor.pool_wait_ready(first, PATIENCE);
        assert!(matches!(outcome, Err(ConnectError::PoolClosed)), "{outcome:?}");
        // A shutdown ends the members too, and dials nobody.
        let report = reactor.shutdown(PATIENCE);
        assert_eq!((report.connections, report.flushed), (1, 1));
        assert!(reactor.pool(&small).is_err(), "it shuts down");
    });
}

#[test]
fn reactor_that_shuts_down_dials_nobody() {
    isolated(|| {
        let server = start(silent().config(config()));
        let (held, refusing) = (Proxy::new(&endpoint(&server)), Proxy::new(&endpoint(&server)));
        let config = valid(settings().reconnect_delay_max_ms(2));
        let mut reactor = Reactor::new(&config).expect("a ring");
        let pool_at = |reactor: &mut Reactor, proxy: &Proxy| {
            let plan = plan(&proxy.endpoint()).build().expect("valid");
            reactor.pool(&plan).expect("room")
        };
        let up = pool_at(&mut reactor, &held);
        reactor.pool_wait_ready(up, PATIENCE).expect("the server listens");
        held.hold();
        refusing.refuse();
        let down = pool_at(&mut reactor, &refusing);
        let dials = |reactor: &Reactor| reactor.pool_statistics(down).expect("it is open").dials;
        let trying_until = Nanos::now() + PATIENCE;
        while dials(&reactor) <= 5 {
            assert!(Nanos::now() < trying_until, "it does not try and try");
            let outcome = reactor.pool_wait_ready(down, Duration::from_millis(10));
            assert!(matches!(outcome, Err(ConnectError::PoolNotReady { .. })), "{outcome:?}");
        }
        let before = dials(&reactor);
        // The goodbye is not answered: the shutdown takes its time.
        let deadline = Duration::from_millis(100);
        let (_, took) = timed(|| reactor.shutdown(deadline));
        assert!(took >= deadline && took < PATIENCE / 2, "{took:?}");
        assert_eq!(dials(&reactor), before);
        held.release();
    });
}

#[test]
fn handler_sends_through_a_pool_of_its_reactor() {
    isolated(|| {
        let far = start(silent().config(config()));
        let mut reactor = Reactor::new(&config()).expect("a ring");
        let plan = plan(&endpoint(&far)).members_min(2).build().expect("valid");
        let pool = reactor.pool(&plan).expect("room");
        reactor.pool_wait_ready(pool, PATIENCE).expect("the server listens");
        reactor.on(Kind::Command, move |context, frame| {
            let sent =
                context.pool_send(pool, Choice::LeastQueued, Envelope::data(), frame.payload());
            sent.expect("room");
        });
        let address = reactor.listen(&"127.0.0.1:0".parse().expect("an endpoint")).expect("a port");
        let near = std::thread::spawn(move || {
            let mut client = crate::util::client(&address.to_string());
            for number in 0..10_u8 {
                client.send(Envelope::command(), &[number]).expect("room");
            }
            let _ = client.disconnect(PATIENCE);
        });
        let deadline = Nanos::now() + PATIENCE;
        let mut passed_on = Vec::new();
        while passed_on.len() < 10 {
            assert!(Nanos::now() < deadline, "{passed_on:?}");
            let limit = Nanos::now() + Duration::from_millis(1);
            reactor.turn(Wait::Until(limit)).expect("a working ring");
            let messages = std::iter::from_fn(|| far.receive(Duration::ZERO).ok());
            passed_on.extend(messages.map(|message| message.payload()[0]));
        }
        passed_on.sort_unstable();
        assert!(passed_on.iter().copied().eq(0..10));
        while !near.is_finished() {
            let limit = Nanos::now() + Duration::from_millis(1);
            reactor.turn(Wait::Until(limit)).expect("a working ring");
        }
        near.join().expect("no panic");
    });
}

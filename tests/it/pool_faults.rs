//! Pools whose members die: who takes their place, and what becomes of messages and of their order.

use std::collections::BTreeMap;
use std::time::Duration;

use ringwire::{
    Choice, CloseReason, ConnectError, Envelope, EventKind, Kind, Message, Nanos, Pool,
    RequestError, SendError, Server,
};

use crate::bed::{settings_that_resume, silent, valid};
use crate::pool::{echoes, plan, pool_of, ready, turn, turn_until, turn_until_connected};
use crate::proxy::{Fault, Proxy};
use crate::restart::{Actor, PART, play_server};
use crate::util::{
    Directory, Greeting, PATIENCE, Peer, Stream, echo, endpoint, isolated, plain_listener,
    settings, start, wait_until,
};

const UNKEYED: Choice = Choice::LeastQueued;

/// One server behind two proxies, and a pool with a member through each.
struct Fork {
    pool: Pool,
    proxies: [Proxy; 2],
    server: Server,
}

impl Fork {
    fn new(server: Server) -> Self {
        let proxies = [Proxy::new(&endpoint(&server)), Proxy::new(&endpoint(&server))];
        let plan = plan(&proxies[0].endpoint()).endpoint(proxies[1].endpoint()).members_min(2);
        let pool = ready(settings_that_resume(), plan);
        Self { pool, proxies, server }
    }

    /// The first member's link is gone, and does not come back until its proxy admits it.
    fn lose_first(&mut self) {
        self.proxies[0].refuse();
        self.proxies[0].breaks(Fault::Cut);
        turn_until(&mut self.pool, "a link is lost", |pool| pool.statistics().reconnecting == 1);
    }

    /// A key whose member is the first, which is away, and one of the other's.
    fn keys(&mut self) -> (u64, u64) {
        let mut takes =
            |key: &u64| self.pool.send(Choice::Key(*key), Envelope::data(), b"").is_ok();
        let theirs = (0..100).find(|key| !takes(key)).expect("a member is away");
        let others = (0..100).find(|key| takes(key)).expect("a member is there");
        (theirs, others)
    }
}

#[test]
fn messages_without_a_key_go_to_another_member() {
    isolated(|| {
        let mut fork = Fork::new(start(echo().config(valid(settings_that_resume()))));
        fork.lose_first();
        for _ in 0..50 {
            echoes(&mut fork.pool);
            fork.pool.send(UNKEYED, Envelope::command(), b"best effort").expect("somebody is up");
        }
        let mut answers = 0;
        turn_until(&mut fork.pool, "what was taken is answered", |pool| {
            answers += std::iter::from_fn(|| pool.receive(Duration::ZERO).ok()).count();
            answers == 50
        });
        let statistics = fork.pool.statistics();
        assert_eq!((statistics.refused.total(), statistics.messages_dropped), (0, 0));
        assert_eq!((statistics.lost, statistics.dials), (0, 2), "its session is not lost");
        fork.proxies[0].admit();
        fork.pool.wait_ready(PATIENCE).expect("it resumes");
        let total = fork.pool.reactor().statistics();
        assert_eq!((total.sessions_resumed, total.connections_established), (1, 3));
    });
}

#[test]
fn message_with_a_key_waits_for_its_member_or_is_refused() {
    isolated(|| {
        let mut fork = Fork::new(start(silent().config(valid(settings_that_resume()))));
        fork.lose_first();
        let (theirs, _) = fork.keys();
        let refused_before = fork.pool.statistics().refused.not_connected;
        let loose = fork.pool.send(Choice::Key(theirs), Envelope::data(), b"best effort");
        assert_eq!(loose, Err(SendError::NotConnected));
        assert_eq!(fork.pool.statistics().refused.not_connected, refused_before + 1);
        for number in 0..10_u8 {
            let envelope = Envelope::data().reliable();
            fork.pool.send(Choice::Key(theirs), envelope, &[number]).expect("it is kept");
        }
        for _ in 0..50 {
            turn(&mut fork.pool);
        }
        while let Ok(message) = fork.server.receive(Duration::ZERO) {
            assert!(message.payload().is_empty(), "it was not given to another member");
        }
        fork.proxies[0].admit();
        let mut numbers = Vec::new();
        turn_until(&mut fork.pool, "they come", |_| {
            let messages = std::iter::from_fn(|| fork.server.receive(Duration::ZERO).ok());
            numbers.extend(messages.map(|message| message.payload()[0]));
            numbers.len() == 10
        });
        assert!(numbers.iter().copied().eq(0..10), "{numbers:?}");
    });
}

#[test]
fn reliable_message_without_a_key_is_kept_when_nobody_is_up() {
    isolated(|| {
        let mut fork = Fork::new(start(silent().config(valid(settings_that_resume()))));
        fork.lose_first();
        fork.proxies[1].refuse();
        fork.proxies[1].breaks(Fault::Cut);
        turn_until(&mut fork.pool, "nobody is up", |pool| pool.statistics().reconnecting == 2);
        let loose = fork.pool.send(UNKEYED, Envelope::data(), b"loose");
        assert_eq!(loose, Err(SendError::NotConnected));
        fork.pool.send(UNKEYED, Envelope::data().reliable(), b"kept").expect("by one of them");
        fork.proxies.iter().for_each(Proxy::admit);
        let mut message = None;
        turn_until(&mut fork.pool, "it comes", |_| {
            message = fork.server.receive(Duration::ZERO).ok();
            message.is_some()
        });
        assert_eq!(message.expect("the loop ends with it").payload()[..], *b"kept");
    });
}

/// A link that is dead while the kernel still holds a send of it: nobody has been told yet, and
/// nothing is lost all the same.
#[test]
fn member_that_dies_takes_nothing_more() {
    isolated(|| {
        let is_met = (0..10).any(|_| check_dead_member());
        assert!(is_met, "the kernel never held a send of a dead link");
    });
}

/// Returns whether the kernel held the send for long enough.
fn check_dead_member() -> bool {
    let (listener, stuck_endpoint) = plain_listener();
    let accepting = std::thread::spawn(move || {
        let mut peer = Peer::new(Stream::Tcp(listener.accept().expect("a member").0));
        peer.welcome(Greeting { features: 1, ..Greeting::default() });
        peer
    });
    let server = start(silent().config(valid(settings_that_resume())));
    let plan = plan(&stuck_endpoint).endpoint(endpoint(&server)).members_min(2);
    let settings =
        settings_that_resume().tcp_send_buffer_bytes(16 << 10).zero_copy_bytes_min(16 << 10);
    let mut pool = ready(settings, plan);
    let peer = accepting.join().expect("the handshake completes");
    let members = pool.members();
    let stuck = members.iter().find(|member| member.address == stuck_endpoint);
    let stuck = stuck.expect("it is connected").id;
    let payload = vec![7; 60_000];
    let mut idle_turns = 0;
    turn_until(&mut pool, "its socket is full", |pool| {
        let outcome = pool.reactor().send(stuck, Envelope::data().reliable(), &payload);
        idle_turns = if outcome.is_err() { idle_turns + 1 } else { 0 };
        idle_turns == 10
    });
    let Stream::Tcp(stream) = &peer.stream else { panic!("TCP") };
    stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
    let deadline = Nanos::now() + PATIENCE;
    loop {
        match pool.reactor().connection(stuck) {
            Some(member) if member.is_established => {}
            Some(_) => break,
            // The kernel let go of the send in the same turn: that is another story.
            None => return false,
        }
        assert!(Nanos::now() < deadline, "the end of the link is not noticed");
        pool.poll();
    }
    let statistics = pool.statistics();
    assert_eq!((statistics.connected, statistics.reconnecting), (2, 0), "nobody was told");
    for number in 0..10_u8 {
        let envelope = Envelope::data().critical();
        pool.send(UNKEYED, envelope, &[number]).expect("the other is up");
    }
    let mut numbers = Vec::new();
    turn_until(&mut pool, "they come", |_| {
        let messages = std::iter::from_fn(|| server.receive(Duration::ZERO).ok());
        numbers.extend(messages.map(|message| message.payload()[0]));
        numbers.len() == 10
    });
    assert!(numbers.iter().copied().eq(0..10), "{numbers:?}");
    true
}

#[test]
fn request_whose_link_died_is_answered_at_once_and_a_reliable_one_comes_through() {
    isolated(|| {
        let mut fork = Fork::new(start(echo().config(valid(settings_that_resume()))));
        fork.proxies.iter().for_each(Proxy::hold);
        let mut ask = |envelope| fork.pool.start_request(UNKEYED, envelope, b"?", PATIENCE);
        let loose = [ask(Envelope::command()), ask(Envelope::command())];
        let kept = [ask(Envelope::command().reliable()), ask(Envelope::command().reliable())];
        let loose = loose.map(|request| request.expect("room"));
        let kept = kept.map(|request| request.expect("room"));
        fork.pool.flush();
        fork.proxies.iter().for_each(|proxy| proxy.breaks(Fault::Reset));
        fork.proxies.iter().for_each(Proxy::release);
        let start = Nanos::now();
        for request in loose {
            let mut outcome = None;
            turn_until(&mut fork.pool, "it is answered", |pool| {
                outcome = pool.take_response(request);
                outcome.is_some()
            });
            let outcome = outcome.expect("the loop ends with it");
            assert!(matches!(outcome, Err(RequestError::ConnectionLost { .. })), "{outcome:?}");
        }
        assert!(Nanos::now().since(start) < PATIENCE / 2, "not at its timeout");
        for request in kept {
            let mut outcome = None;
            turn_until(&mut fork.pool, "it is answered", |pool| {
                outcome = pool.take_response(request);
                outcome.is_some()
            });
            let answer = outcome.expect("the loop ends with it").expect("over the next link");
            assert_eq!(answer.payload()[..], *b"?");
        }
    });
}

/// Sessions that end with their connection: the pool dials anew.
#[test]
fn dead_member_is_replaced() {
    isolated(|| {
        let server = start(echo());
        let mut pool = ready(settings(), plan(&endpoint(&server)).members_min(3));
        for round in 1..=5 {
            wait_until("the server has them", || server.clients().len() == 3);
            let victim = server.clients()[0].id;
            server.disconnect(victim, Duration::ZERO).expect("it is told");
            turn_until(&mut pool, "it is noticed", |pool| pool.statistics().lost == round);
            echoes(&mut pool);
            pool.wait_ready(PATIENCE).expect("it is replaced");
            assert_eq!(pool.statistics().replaced, round);
        }
        let statistics = pool.statistics();
        assert_eq!((statistics.connected, statistics.dials), (3, 8));
        assert_eq!((statistics.grown, statistics.reaped, statistics.dials_failed), (0, 0, 0));
    });
}

#[test]
fn member_disconnected_by_the_application_is_replaced() {
    isolated(|| {
        let server = start(echo());
        let mut pool = ready(settings(), plan(&endpoint(&server)).members_min(2));
        let victim = pool.members()[0].id;
        pool.reactor().disconnect(victim, PATIENCE);
        // It takes nothing any more, and that is nobody's concern.
        for _ in 0..10 {
            pool.send(UNKEYED, Envelope::data(), b"to the other").expect("somebody is up");
        }
        turn_until(&mut pool, "it is replaced", |pool| pool.statistics().replaced == 1);
        pool.wait_ready(PATIENCE).expect("connected");
        assert!(pool.members().iter().all(|member| member.id != victim));
        assert_eq!(pool.statistics().messages_dropped, 0);
    });
}

#[test]
fn members_of_a_server_that_ends_move_to_the_other() {
    isolated(|| {
        let servers = [start(echo()), start(echo())];
        let plan = plan(&endpoint(&servers[0])).endpoint(endpoint(&servers[1])).members_min(4);
        let mut pool = ready(settings(), plan);
        let [first, second] = servers;
        wait_until("two at each", || first.clients().len() == 2 && second.clients().len() == 2);
        let shutting_down = std::thread::spawn(move || first.shutdown(PATIENCE));
        turn_until(&mut pool, "two are lost", |pool| pool.statistics().lost == 2);
        let report = shutting_down.join().expect("no panic");
        assert_eq!((report.connections, report.flushed), (2, 2));
        for _ in 0..20 {
            echoes(&mut pool);
        }
        pool.wait_ready(PATIENCE).expect("the other is there");
        wait_until("all at the second", || second.clients().len() == 4);
        let statistics = pool.statistics();
        assert_eq!((statistics.replaced, statistics.dials_failed), (2, 0));
    });
}

/// A session that lingers for a server that is gone must not hold the pool up.
#[test]
fn stranded_pool_turns_to_the_other_server() {
    isolated(|| {
        let servers = [start(echo()), start(echo())];
        let proxy = Proxy::new(&endpoint(&servers[0]));
        let plan = plan(&proxy.endpoint()).endpoint(endpoint(&servers[1])).members_max(2);
        let mut pool = ready(settings_that_resume(), plan);
        wait_until("it is at the first", || servers[0].clients().len() == 1);
        proxy.refuse();
        proxy.breaks(Fault::Cut);
        turn_until(&mut pool, "the link is lost", |pool| pool.statistics().reconnecting == 1);
        let refused = pool.send(UNKEYED, Envelope::command(), b"x");
        assert_eq!(refused, Err(SendError::NotConnected));
        turn_until_connected(&mut pool, 1);
        echoes(&mut pool);
        assert_eq!(servers[1].clients().len(), 1);
        assert_eq!(pool.statistics().reconnecting, 1, "it may still come back");
    });
}

/// Also where every message is reliable, and would wait for as long as its session lingers.
#[test]
fn stranded_pool_that_keeps_messages_turns_to_the_other_server() {
    isolated(|| {
        let servers = [start(echo()), start(echo())];
        let proxy = Proxy::new(&endpoint(&servers[0]));
        let plan = plan(&proxy.endpoint()).endpoint(endpoint(&servers[1])).members_max(2);
        let mut pool = ready(settings_that_resume(), plan);
        wait_until("it is at the first", || servers[0].clients().len() == 1);
        proxy.refuse();
        proxy.breaks(Fault::Cut);
        turn_until(&mut pool, "the link is lost", |pool| pool.statistics().reconnecting == 1);
        pool.send(UNKEYED, Envelope::data().reliable(), b"kept").expect("kept");
        turn_until_connected(&mut pool, 1);
        assert_eq!(servers[1].clients().len(), 1);
        assert_eq!(pool.statistics().reconnecting, 1, "what it keeps may still arrive");
    });
}

#[test]
fn server_that_accepts_and_says_nothing_is_given_up_for_another() {
    isolated(|| {
        let (mute, mute_endpoint) = plain_listener();
        let server = start(echo());
        let settings = || settings().handshake_timeout_ms(60).reconnect_delay_max_ms(20);
        let mut pool = pool_of(settings(), plan(&mute_endpoint).members_min(2));
        turn_until(&mut pool, "it has tried", |pool| pool.statistics().dials_failed >= 6);
        let statistics = pool.statistics();
        assert_eq!(statistics.last_failure, Some(CloseReason::HandshakeTimeout));
        assert_eq!(statistics.connected + statistics.reconnecting, 0);
        // Each has one connection at a time.
        assert!(statistics.connecting + statistics.waiting == 2, "{statistics:?}");
        let report = pool.disconnect(PATIENCE);
        assert_eq!((report.connections, report.messages_dropped), (0, 0));

        let plan = plan(&mute_endpoint).endpoint(endpoint(&server)).members_min(2);
        let mut pool = pool_of(settings(), plan);
        pool.wait_ready(PATIENCE).expect("both at the one that speaks");
        wait_until("both", || server.clients().len() == 2);
        echoes(&mut pool);
        drop(mute);
    });
}

#[test]
fn server_killed_and_started_again_is_found_and_losses_are_told() {
    if let Ok(file) = std::env::var(PART) {
        return play_server(&file);
    }
    isolated(|| {
        let directory = Directory::new();
        let start_server = |life: u32| {
            let file = directory.path(&format!("address-{life}"));
            let path = file.to_str().expect("UTF-8");
            let test = "pool_faults::server_killed_and_started_again_is_found_and_losses_are_told";
            let actor = Actor::start(test, path);
            wait_until("it listens", || file.exists());
            (actor, std::fs::read_to_string(&file).expect("it is whole"))
        };
        let (mut actor, address) = start_server(0);
        let proxy = Proxy::new(&address);
        let settings = settings_that_resume().reconnect_delay_max_ms(8);
        let mut pool = ready(settings, plan(&proxy.endpoint()).members_min(3));
        let mut sent = 0;
        for life in 1..=2 {
            echoes(&mut pool);
            pool.flush_within(PATIENCE).expect("all is confirmed");
            proxy.hold();
            let first = sent;
            for _ in 0..20 {
                sent += 1;
                let number = u64::to_le_bytes(sent);
                pool.send(Choice::Key(sent), Envelope::data().reliable(), &number).expect("room");
            }
            pool.flush();
            actor.kill();
            let (successor, address) = start_server(life);
            actor = successor;
            proxy.lead(&address);
            proxy.breaks(Fault::Cut);
            proxy.release();
            let mut told = Vec::new();
            turn_until(&mut pool, "all losses are told", |pool| {
                while let Some(event) = pool.poll_event() {
                    if let EventKind::SessionLost { undelivered, .. } = event.kind {
                        let number = |payload: &[u8]| {
                            u64::from_le_bytes(payload[..8].try_into().expect("eight"))
                        };
                        told.extend(undelivered.iter().map(|lost| number(&lost.payload)));
                    }
                }
                pool.statistics().lost == 3 * u64::from(life)
            });
            told.sort_unstable();
            assert!(told.iter().copied().eq(first + 1..=sent), "{told:?}");
            pool.wait_ready(PATIENCE).expect("the successor is there");
            echoes(&mut pool);
        }
        let statistics = pool.statistics();
        assert_eq!((statistics.lost, statistics.replaced), (6, 6));
        assert_eq!((statistics.messages_undelivered, statistics.messages_dropped), (40, 40));
        actor.kill();
    });
}

/// A member may have two connections: what one of them carries goes on while the other is away.
#[test]
fn member_with_two_connections_takes_what_its_other_link_carries() {
    isolated(|| {
        let server = start(echo().config(valid(settings_that_resume())));
        let proxy = Proxy::new(&endpoint(&server));
        let settings = || settings_that_resume().express(true);
        let mut pool = ready(settings(), plan(&proxy.endpoint()));
        let critical = Envelope::command().critical();
        let ask = |pool: &mut Pool, envelope| pool.request(UNKEYED, envelope, b"?", PATIENCE);
        ask(&mut pool, critical).expect("an answer");
        ask(&mut pool, Envelope::command()).expect("an answer");
        let sent: u64 = pool.members().iter().map(|member| member.messages_sent).sum();
        assert_eq!(sent, pool.statistics().requests);

        // The main link only.
        proxy.refuse();
        proxy.breaks_one(0, Fault::Cut);
        turn_until(&mut pool, "it is lost", |pool| pool.statistics().reconnecting == 1);
        for choice in [UNKEYED, Choice::Key(1)] {
            let refused = pool.send(choice, Envelope::command(), b"loose");
            assert_eq!(refused, Err(SendError::NotConnected), "{choice:?}");
            pool.send(choice, Envelope::data().reliable(), b"kept").expect("it will be back");
            pool.send(choice, Envelope::data().critical(), b"now").expect("its link is there");
        }
        proxy.admit();
        pool.wait_ready(PATIENCE).expect("it resumes");
        pool.flush_within(PATIENCE).expect("it leaves");
        assert_eq!(pool.statistics().lost, 0);

        // Both links, and the server with them: the session begins anew, as one.
        let second = start(echo().config(valid(settings_that_resume())));
        proxy.lead(&endpoint(&second));
        proxy.breaks(Fault::Cut);
        turn_until(&mut pool, "it begins anew", |pool| pool.statistics().replaced == 1);
        assert_eq!((pool.statistics().lost, pool.statistics().dials), (1, 1));
        pool.wait_ready(PATIENCE).expect("both links are there");
        ask(&mut pool, critical).expect("an answer");
        let report = pool.disconnect(PATIENCE);
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (1, 1, 0));

        // Its connections count.
        let plan = plan(&endpoint(&second)).members_max(3).build().expect("valid");
        let mut pool = Pool::new(valid(settings().connections_max(4)), plan).expect("a ring");
        let refused = pool.connect().expect_err("six of four");
        assert!(matches!(refused, ConnectError::TooMany { connections_max: 4 }), "{refused}");
    });
}

fn key_and_number(message: &Message) -> (u64, u64) {
    let number = |at: usize| {
        u64::from_le_bytes(message.payload()[at..at + 8].try_into().expect("eight bytes"))
    };
    (number(0), number(8))
}

const KEYS: u64 = 16;
const PER_KEY: u64 = 150;

/// Reliable messages of many keys while links are cut, the pool grows under other load, and
/// shrinks: each is handled once, and those of a key in order.
#[test]
fn order_of_each_key_is_kept_whatever_happens_to_the_pool() {
    isolated(|| {
        const MEMBERS_MAX: u32 = 6;
        let server = start(silent().config(valid(settings_that_resume())));
        let proxies = [Proxy::new(&endpoint(&server)), Proxy::new(&endpoint(&server))];
        let plan = plan(&proxies[0].endpoint()).endpoint(proxies[1].endpoint());
        let plan = plan.members_min(3).members_max(MEMBERS_MAX).grow_bytes(1_000).idle_after_ms(5);
        let settings = settings_that_resume().reconnect_delay_max_ms(4);
        let mut pool = ready(settings, plan);
        let mut next_of: Vec<u64> = vec![0; KEYS as usize];
        let mut received: BTreeMap<u64, u64> = BTreeMap::new();
        let mut random = fastrand::Rng::with_seed(7);
        let (mut cuts, mut total) = (0, 0);
        let mut turns = 0_u64;
        turn_until(&mut pool, "all have come", |pool| {
            turns += 1;
            for _ in 0..random.usize(..30) {
                let key = random.u64(..KEYS);
                let number = next_of[key as usize];
                if number == PER_KEY {
                    continue;
                }
                let payload = [key, number].map(u64::to_le_bytes).concat();
                let priority = Envelope::command().reliable();
                match pool.send(Choice::Key(key), priority, &payload) {
                    Ok(()) => next_of[key as usize] += 1,
                    Err(error) => assert!(matches!(error, SendError::Full), "{error}"),
                }
            }
            // Other load comes in bursts, so that the pool grows and shrinks.
            if turns % 20 < 5 {
                for _ in 0..10 {
                    let _ = pool.send(UNKEYED, Envelope::data(), &[9; 2_000]);
                }
            }
            let resumed = pool.reactor().statistics().sessions_resumed;
            // More where the threads of the proxies do not keep up: so many are to be felt.
            if (cuts < 40 || resumed < 10) && turns.is_multiple_of(5) {
                let fault = if random.bool() { Fault::Cut } else { Fault::Reset };
                proxies[random.usize(..2)].breaks(fault);
                cuts += 1;
            }
            while let Ok(message) = server.receive(Duration::ZERO) {
                if message.kind() == Kind::Data {
                    continue;
                }
                let (key, number) = key_and_number(&message);
                let next = received.entry(key).or_default();
                assert_eq!(number, *next, "key {key}: lost, doubled or out of order");
                *next += 1;
                total += 1;
            }
            let statistics = pool.statistics();
            let has_moved = statistics.grown > 0 && statistics.reaped > 0;
            total == KEYS * PER_KEY && cuts >= 40 && resumed >= 10 && has_moved
        });
        let statistics = pool.statistics();
        assert_eq!(statistics.messages_undelivered, 0, "{statistics:?}");
        // Each member may find its link cut only now, with some of the other load in its lanes.
        let mut flushed = (0..=MEMBERS_MAX).map(|_| pool.flush_within(PATIENCE));
        assert!(flushed.any(|outcome| outcome.is_ok()), "all is confirmed");
    });
}

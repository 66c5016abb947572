//! Pools on the reactors of a node, used from other threads.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringwire::{
    Choice, ConnectError, Envelope, Kind, Nanos, Node, NodePool, PoolConfigBuilder, PoolStatistics,
    RequestError, SendError,
};

use crate::bed::{settings_that_resume, silent, valid};
use crate::pool::plan;
use crate::proxy::{Fault, Proxy};
use crate::util::{
    PATIENCE, config, echo, endpoint, isolated, plain_listener, settings, start, timed, wait_until,
};

const UNKEYED: Choice = Choice::LeastQueued;

fn node(reactors: usize) -> Node {
    Node::builder().config(config()).reactors(reactors).start().expect("it starts")
}

fn on_all(node: &Node, plan: PoolConfigBuilder) -> NodePool {
    let pool = node.pool_on_all(&plan.build().expect("valid")).expect("there is room");
    pool.wait_ready(PATIENCE).expect("the server listens");
    pool
}

fn statistics(pool: &NodePool) -> PoolStatistics {
    pool.statistics().expect("it is open")
}

#[test]
fn pool_on_one_reactor_serves_other_threads() {
    isolated(|| {
        let server = start(echo());
        let node = node(2);
        // The fourth of two is the second.
        let plan = plan(&endpoint(&server)).members_min(3).build().expect("valid");
        let pool = node.pool(&plan, 3).expect("there is room");
        pool.wait_ready(PATIENCE).expect("the server listens");
        pool.wait_ready(PATIENCE).expect("it is ready");
        assert!(pool.is_ready());
        assert_eq!(pool.members().len(), 3);
        assert_eq!(node.counters()[0].connections_active.get(), 0);
        assert_eq!(node.counters()[1].connections_active.get(), 3);
        std::thread::scope(|scope| {
            for thread in 0..3_u8 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for number in 0..100_u8 {
                        let payload = [thread, number];
                        if number % 2 == 0 {
                            pool.send(UNKEYED, Envelope::command(), &payload).expect("room");
                            continue;
                        }
                        while let Err(error) = pool.post(UNKEYED, Envelope::command(), &payload) {
                            assert_eq!(error, SendError::Busy);
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        let mut answers: Vec<_> = (0..300)
            .map(|_| node.receive(PATIENCE).expect("an answer").payload().to_vec())
            .collect();
        answers.sort_unstable();
        answers.dedup();
        assert_eq!(answers.len(), 300, "each once");
        let told = statistics(&pool);
        assert_eq!((told.sends, told.connected, told.refused.total()), (300, 3, 0));
        let report = pool.close(PATIENCE);
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (3, 3, 0));
        assert_eq!(pool.statistics(), None);
        assert!(!pool.is_ready() && pool.members().is_empty(), "it is closed");
        let refused = pool.send(UNKEYED, Envelope::data(), b"late");
        assert_eq!(refused, Err(SendError::NotConnected));
        assert!(matches!(pool.wait_ready(PATIENCE), Err(ConnectError::PoolClosed)));
        let (report, took) = timed(|| pool.close(PATIENCE));
        assert_eq!(report, Default::default());
        assert!(took < PATIENCE / 2, "{took:?}");
        wait_until("all have left", || server.clients().is_empty());
    });
}

#[test]
fn pool_on_all_reactors_takes_turns_and_keeps_keys() {
    isolated(|| {
        let server = start(silent().config(config()));
        let node = node(3);
        let pool = on_all(&node, plan(&endpoint(&server)).members_min(2));
        assert_eq!(server.clients().len(), 6);
        for _ in 0..60 {
            pool.send(UNKEYED, Envelope::data(), b"any").expect("room");
        }
        let mut by_client: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..60 {
            let message = server.receive(PATIENCE).expect("it comes");
            *by_client.entry(message.connection().to_string()).or_default() += 1;
        }
        assert_eq!(by_client.into_values().collect::<Vec<_>>(), [10; 6]);

        let mut homes: BTreeMap<u8, String> = BTreeMap::new();
        for _ in 0..4 {
            for key in 0..48_u8 {
                pool.send(Choice::Key(key.into()), Envelope::data(), &[key]).expect("room");
            }
            for _ in 0..48 {
                let message = server.receive(PATIENCE).expect("it comes");
                let came_over = message.connection().to_string();
                let home = homes.entry(message.payload()[0]).or_insert(came_over.clone());
                assert_eq!(*home, came_over);
            }
        }
        let used: std::collections::BTreeSet<_> = homes.into_values().collect();
        assert_eq!(used.len(), 6, "all members of all reactors have keys");
        assert_eq!(statistics(&pool).sends, 60 + 4 * 48);
        // Without a close, the node's own end flushes them.
        let report = node.shutdown(PATIENCE);
        assert_eq!((report.connections, report.flushed), (6, 6));
        assert_eq!(pool.send(UNKEYED, Envelope::data(), b"late"), Err(SendError::ShutDown));
        assert!(matches!(pool.wait_ready(PATIENCE), Err(ConnectError::ShutDown)));
        assert_eq!((pool.statistics(), pool.close(PATIENCE)), (None, Default::default()));
    });
}

/// What waits behind a handler for its reactor ages meanwhile.
#[test]
fn stale_post_through_a_pool_is_not_sent() {
    isolated(|| {
        let (entered, is_entered) = crossbeam_channel::unbounded();
        let (release, is_released) = crossbeam_channel::unbounded::<()>();
        let server = start(silent().config(config()));
        let node = Node::builder().config(config()).reactors(1).on(Kind::Status, move |_, _| {
            entered.send(()).expect("the test waits");
            is_released.recv_timeout(PATIENCE).expect("the test releases");
        });
        let node = node.start().expect("it starts");
        let pool = on_all(&node, plan(&endpoint(&server)));
        server.send_to(server.clients()[0].id, Envelope::status(), b"hold").expect("room");
        is_entered.recv_timeout(PATIENCE).expect("the handler runs");
        let short = Duration::from_millis(10);
        pool.post(UNKEYED, Envelope::data().ttl(short), b"stale").expect("room");
        pool.post(UNKEYED, Envelope::data(), b"fresh").expect("room");
        let posted = Nanos::now();
        wait_until("it is stale", || Nanos::now().since(posted) > 2 * short);
        release.send(()).expect("the handler waits");
        assert_eq!(server.receive(PATIENCE).expect("one comes").payload()[..], *b"fresh");
        assert_eq!(node.statistics().posts_dropped, 1);
    });
}

#[test]
fn reactor_without_a_member_is_passed_over() {
    isolated(|| {
        let server = start(echo().config(valid(settings_that_resume())));
        let proxies = [Proxy::new(&endpoint(&server)), Proxy::new(&endpoint(&server))];
        let config = valid(settings_that_resume());
        let node = Node::builder().config(config).reactors(2).start().expect("it starts");
        // Each reactor begins at another address.
        let plan = plan(&proxies[0].endpoint()).endpoint(proxies[1].endpoint());
        let pool = on_all(&node, plan);
        proxies[0].refuse();
        proxies[0].breaks(Fault::Cut);
        wait_until("the link of the first is lost", || statistics(&pool).reconnecting == 1);
        for _ in 0..20 {
            pool.send(UNKEYED, Envelope::command(), b"there?").expect("by the second");
            assert_eq!(node.receive(PATIENCE).expect("an answer").payload()[..], *b"there?");
        }
        assert_eq!(statistics(&pool).refused.not_connected, 10, "whenever it was its turn");
        let is_taken = |key| pool.send(Choice::Key(key), Envelope::command(), b"").is_ok();
        let taken = (0..64).filter(|&key| is_taken(key)).count();
        assert!((10..54).contains(&taken), "{taken} of 64 keys are at home at the second");
        proxies[0].admit();
        pool.wait_ready(PATIENCE).expect("it resumes");
        assert!((0..64).all(is_taken));
        assert_eq!(statistics(&pool).lost, 0);
    });
}

#[test]
fn waiting_for_what_does_not_come_ends_in_time() {
    isolated(|| {
        let (_listener, mute) = plain_listener();
        let node = Node::builder()
            .config(valid(settings().handshake_timeout_ms(60_000)))
            .reactors(2)
            .start()
            .expect("it starts");
        let plan = plan(&mute).members_min(2).build().expect("valid");
        let (pool, took) = timed(|| node.pool_on_all(&plan).expect("room"));
        assert!(took < PATIENCE / 2, "it does not wait for members: {took:?}");
        let patience = Duration::from_millis(50);
        for _ in 0..100 {
            let outcome = pool.wait_ready(Duration::from_millis(1));
            assert!(matches!(outcome, Err(ConnectError::PoolNotReady { .. })), "{outcome:?}");
        }
        let (outcome, took) = timed(|| pool.wait_ready(patience));
        let Err(ConnectError::PoolNotReady { connected, members_min, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!((connected, members_min), (0, 4));
        assert!(took >= patience && took < PATIENCE / 2, "{took:?}");
        let refused = pool.send(UNKEYED, Envelope::data().reliable(), b"too early");
        assert_eq!(refused, Err(SendError::NotConnected));
        assert_eq!(statistics(&pool).refused.not_connected, 2, "each reactor was asked");
        pool.post(UNKEYED, Envelope::data(), b"too early").expect("it is handed over");
        wait_until("it is counted", || node.statistics().posts_dropped == 1);
        let (report, took) = timed(|| pool.close(PATIENCE));
        assert_eq!((report.connections, report.flushed), (0, 0));
        assert!(took < PATIENCE / 2, "there is nothing to flush: {took:?}");
    });
}

#[test]
fn pool_that_one_reactor_refuses_is_on_none() {
    isolated(|| {
        let server = start(echo());
        let config = valid(settings().connections_max(8));
        let node = Node::builder().config(config).reactors(2).start().expect("it starts");
        let small = plan(&endpoint(&server)).members_min(5).build().expect("valid");
        let of_second = node.pool(&small, 1).expect("five of eight");
        of_second.wait_ready(PATIENCE).expect("the server listens");
        let refused = node.pool_on_all(&small).expect_err("ten of eight at the second");
        assert!(matches!(refused, ConnectError::TooMany { connections_max: 8 }), "{refused}");
        wait_until("the first has none", || {
            node.counters()[0].connections_active.get() == 0
                && node.counters()[1].connections_active.get() == 5
        });
        let of_first = node.pool(&small, 0).expect("nothing is left of the other");
        of_first.wait_ready(PATIENCE).expect("the server listens");
    });
}

#[test]
fn handler_of_the_node_may_post_and_not_wait() {
    isolated(|| {
        let server = start(echo());
        let said: Arc<OnceLock<NodePool>> = Arc::default();
        let in_handler = Arc::clone(&said);
        let node = Node::builder()
            .config(config())
            .on(Kind::Status, move |context, frame| {
                let pool = in_handler.get().expect("set before the first message");
                let refused = pool.send(UNKEYED, Envelope::command(), b"x");
                assert_eq!(refused, Err(SendError::InHandler));
                let waited = pool.wait_ready(PATIENCE);
                assert!(matches!(waited, Err(ConnectError::InHandler)), "{waited:?}");
                assert_eq!(pool.statistics(), None);
                if frame.payload() == b"go on" {
                    pool.post(UNKEYED, Envelope::data(), b"posted").expect("room");
                }
                assert_eq!(context.reactor(), 0);
            })
            .start()
            .expect("it starts");
        let pool = on_all(&node, plan(&endpoint(&server)));
        said.set(pool.clone()).expect("once");
        // The echo is the status that the handler takes.
        pool.send(UNKEYED, Envelope::command(), b"go on").expect("room");
        let message = server.receive(PATIENCE).expect("the handler has posted");
        assert_eq!(message.payload()[..], *b"posted");
        assert_eq!(node.statistics().handler_panics, 0);
        let _ = pool.close(PATIENCE);
    });
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn request_through_a_pool_of_a_node_is_answered() {
    isolated(|| {
        let server = start(echo());
        let node = node(2);
        let pool = on_all(&node, plan(&endpoint(&server)).members_min(2));
        std::thread::scope(|scope| {
            for thread in 0..3_u8 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for number in 0..50 {
                        let question = [thread, number];
                        let choice = if number % 2 == 0 { UNKEYED } else { Choice::Key(7) };
                        let answer = pool.request(choice, Envelope::command(), &question, PATIENCE);
                        assert_eq!(answer.expect("an answer").payload()[..], question);
                    }
                });
            }
        });
        // Several at once, and what they bring, as it comes.
        let mut waiting: Vec<_> = (0..20_u8)
            .map(|n| {
                let begun = pool.start_request(UNKEYED, Envelope::command(), &[n], PATIENCE);
                (n, begun.expect("room"))
            })
            .collect();
        wait_until("all are answered", || {
            waiting.retain_mut(|(number, request)| match request.take_response() {
                Some(answer) => {
                    assert_eq!(answer.expect("an answer").payload()[..], [*number]);
                    assert!(request.take_response().is_none(), "once");
                    false
                }
                None => true,
            });
            waiting.is_empty()
        });
        let told = statistics(&pool);
        assert_eq!((told.requests, told.sends, told.refused.total()), (170, 0, 0));
        assert!(node.receive(Duration::ZERO).is_err(), "answers go to those who asked");
        let _ = pool.close(PATIENCE);
        let refused = pool.request(UNKEYED, Envelope::command(), b"late", PATIENCE);
        assert_eq!(refused.map(drop), Err(SendError::NotConnected.into()));
    });
}

#[test]
fn request_through_a_pool_of_a_node_fails_in_time() {
    isolated(|| {
        let server = start(silent().config(valid(settings())));
        let config = valid(settings().requests_max(2));
        let node = Node::builder().config(config).reactors(1).start().expect("it starts");
        let pool = on_all(&node, plan(&endpoint(&server)));
        let ask = |timeout| pool.start_request(UNKEYED, Envelope::command(), b"?", timeout);

        let timeout = Duration::from_millis(50);
        let (outcome, took) = timed(|| ask(timeout).and_then(|request| request.wait()));
        assert!(matches!(outcome, Err(RequestError::Timeout { .. })), "{outcome:?}");
        assert!(took >= timeout && took < PATIENCE / 2, "{took:?}");

        let first = ask(PATIENCE).expect("room");
        let second = ask(PATIENCE).expect("room");
        let third = ask(PATIENCE).map(drop);
        assert_eq!(third, Err(RequestError::TooMany { requests_max: 2 }));
        first.cancel();
        wait_until("the server knows", || server.statistics().requests_cancelled == 1);
        let third = ask(PATIENCE).expect("a place is free again");

        // The link goes, and all that wait are told.
        for client in server.clients() {
            server.disconnect(client.id, SECOND).expect("it is asked to");
        }
        for request in [second, third] {
            let (outcome, took) = timed(|| request.wait());
            assert!(matches!(outcome, Err(RequestError::ConnectionLost { .. })), "{outcome:?}");
            assert!(took < PATIENCE / 2, "at once: {took:?}");
        }
        let report = node.shutdown(SECOND);
        assert_eq!(report.messages_dropped, 0);
        assert_eq!(ask(SECOND).map(drop), Err(SendError::ShutDown.into()));
    });
}

/// What one reactor has no room for is another's to ask.
#[test]
fn request_that_one_reactor_has_no_place_for_goes_to_the_next() {
    isolated(|| {
        let server = start(silent().config(valid(settings())));
        let config = valid(settings().requests_max(1));
        let node = Node::builder().config(config).reactors(2).start().expect("it starts");
        let pool = on_all(&node, plan(&endpoint(&server)));
        let ask = |choice| pool.start_request(choice, Envelope::command(), b"?", PATIENCE);
        // Whichever has the turn: both are asked once, and then neither can be.
        for keyed in 0..4 {
            let first = ask(Choice::Key(keyed)).expect("room");
            let second = ask(UNKEYED).expect("the other has room");
            for choice in [UNKEYED, UNKEYED, Choice::Key(keyed)] {
                let third = ask(choice).map(drop);
                assert_eq!(third, Err(RequestError::TooMany { requests_max: 1 }));
            }
            let cancelled = server.statistics().requests_cancelled;
            first.cancel();
            second.cancel();
            wait_until("the server knows", || {
                server.statistics().requests_cancelled == cancelled + 2
            });
        }
    });
}

/// A handler that blocks its reactor blocks nobody who waits for members to be there.
#[test]
fn waiting_for_members_ends_in_time_though_a_handler_does_not() {
    isolated(|| {
        let (release, is_released) = crossbeam_channel::bounded::<()>(1);
        let (entered, is_entered) = crossbeam_channel::bounded(1);
        let server = start(echo());
        let node = Node::builder()
            .config(valid(settings()))
            .reactors(1)
            .on(Kind::Status, move |_, _| {
                entered.try_send(()).expect("once");
                is_released.recv_timeout(PATIENCE).expect("in time");
            })
            .start()
            .expect("it starts");
        let nowhere = node.pool(&plan("127.0.0.1:1").build().expect("valid"), 0).expect("begun");
        let id = node.connect(&endpoint(&server), 0).expect("connected");
        node.send_to(id, Envelope::command(), b"to be answered").expect("room");
        is_entered.recv_timeout(PATIENCE).expect("it blocks");
        let (outcome, took) = timed(|| nowhere.wait_ready(Duration::from_millis(10)));
        let error = outcome.expect_err("nobody is there");
        assert!(matches!(error, ConnectError::Unresponsive { .. }), "{error}");
        assert!(took < PATIENCE / 4, "{took:?}");
        release.try_send(()).expect("it waits");
    });
}

#[test]
fn handler_of_the_node_may_not_wait_for_an_answer() {
    isolated(|| {
        let server = start(echo());
        let said: Arc<OnceLock<NodePool>> = Arc::default();
        let in_handler = Arc::clone(&said);
        let refusals = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = Arc::clone(&refusals);
        let node = Node::builder()
            .config(config())
            .on(Kind::Status, move |_, _| {
                let pool = in_handler.get().expect("set before the first message");
                let refused = pool.request(UNKEYED, Envelope::command(), b"x", PATIENCE);
                assert_eq!(refused.map(drop), Err(SendError::InHandler.into()));
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            })
            .start()
            .expect("it starts");
        let pool = on_all(&node, plan(&endpoint(&server)));
        said.set(pool.clone()).expect("once");
        pool.send(UNKEYED, Envelope::command(), b"go on").expect("room");
        wait_until("it was refused", || refusals.load(std::sync::atomic::Ordering::Relaxed) == 1);
        assert_eq!(node.statistics().handler_panics, 0);
        let _ = pool.close(PATIENCE);
    });
}

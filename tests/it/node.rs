//! A node's handle: many threads, several reactors, sleeping or not.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringwire::{
    ConnectError, ConnectionId, Envelope, FlushError, Idle, Kind, Node, NodeHandle, ReceiveError,
    SendError, Server,
};

use crate::util::{
    COMMAND, DATA, NORMAL, PATIENCE, Peer, Plain, REQUEST, RESPONSE, STATUS, client, config,
    deaf_port, echo, endpoint, isolated, plain_listener, settings, start, timed, wait_for,
    wait_until,
};

/// Sooner than a call gives a reactor up that does not answer (5 s): it has not waited for it.
const AT_ONCE: Duration = Duration::from_secs(3);

fn node(reactors: usize) -> Node {
    Node::builder().config(config()).reactors(reactors).start().expect("it starts")
}

/// Each reactor on the core that is named for it.
#[test]
fn reactors_run_where_they_are_told_to() {
    let allowed = rustix::thread::sched_getaffinity(None).expect("a set");
    let cores: Vec<usize> = (0..1024).filter(|&core| allowed.is_set(core)).take(2).collect();
    let (sender, receiver) = std::sync::mpsc::channel();
    let config = settings().cores(cores.clone()).build().expect("valid");
    let server = Server::builder()
        .config(config)
        .listen("127.0.0.1:0")
        .on(Kind::Command, move |context, _| {
            let set = rustix::thread::sched_getaffinity(None).expect("a set");
            let found: Vec<usize> = (0..1024).filter(|&core| set.is_set(core)).collect();
            let reactor = usize::from(context.reactor());
            sender.send((reactor, found)).expect("the test waits");
        })
        .start()
        .expect("it starts");
    // Which reactor accepts is the kernel's choice: all have been seen with enough connections.
    let mut seen = vec![false; cores.len()];
    let mut clients = Vec::new();
    while seen.contains(&false) {
        assert!(clients.len() < 200, "a reactor accepts nothing: {seen:?}");
        let mut client = client(&endpoint(&server));
        client.send(Envelope::command(), b"where?").expect("room");
        client.flush();
        clients.push(client);
        let (reactor, found) = receiver.recv_timeout(PATIENCE).expect("it is handled");
        assert_eq!(found, [cores[reactor]]);
        seen[reactor] = true;
    }
}

/// Two that spin on one core would stand in each other's way.
#[test]
fn reactors_that_outnumber_the_cores_do_not_spin() {
    isolated(|| {
        let allowed = rustix::thread::sched_getaffinity(None).expect("a set");
        let core = (0..1024).find(|&core| allowed.is_set(core)).expect("we run on one");
        let mut one = rustix::thread::CpuSet::new();
        one.set(core);
        rustix::thread::sched_setaffinity(None, &one).expect("one that is allowed");
        let config = settings().idle(Idle::Spin).build().expect("valid");
        for (reactors, idle) in [(1, Idle::Spin), (2, Idle::Adaptive)] {
            let node = Node::builder().config(config.clone()).reactors(reactors).start();
            let node = node.expect("it starts");
            assert_eq!(node.config().idle(), idle, "{reactors} reactors");
        }
    });
}

/// With nothing else that would wake its reactor.
#[test]
fn flush_of_a_sleeping_node_ends_when_all_has_left() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let accepting = std::thread::spawn(move || Peer::accept(&listener));
        let config = settings().idle(Idle::Park).heartbeat_interval_ms(0).registry(false);
        let node = Node::builder().config(config.build().expect("valid")).reactors(1);
        let node = node.start().expect("it starts");
        let id = node.connect(&endpoint, 0).expect("it listens");
        let _peer = accepting.join().expect("the handshake completes");
        // Where it sleeps on until something else wakes it, an eighth of them or more take a tenth
        // of a second; on a busy machine some are late, whatever we do.
        let mut took: Vec<_> = (0..200)
            .map(|round| {
                let flush = || {
                    // So that the reactor comes to all of it at once.
                    (0..round % 10).for_each(|_| {
                        node.post_to(id, Envelope::data(), b"once").expect("room");
                    });
                    node.handle().flush_within(id, PATIENCE).expect("it has left");
                };
                timed(flush).1
            })
            .collect();
        took.sort_unstable();
        assert!(took[took.len() * 9 / 10] < Duration::from_millis(50), "{took:?}");
    });
}

#[test]
fn threads_share_one_handle() {
    isolated(|| {
        let server = start(echo().reactors(3));
        let node = node(2);
        let ids: Vec<_> =
            (0..6).map(|number| node.connect(&endpoint(&server), number).expect("one")).collect();
        let per_thread = 300;
        std::thread::scope(|scope| {
            for (thread, &id) in ids.iter().enumerate() {
                let handle = node.handle();
                scope.spawn(move || {
                    for number in 0..per_thread as u32 {
                        let text = [thread as u32, number].map(u32::to_le_bytes).concat();
                        if number % 2 == 0 {
                            handle.send_to(id, Envelope::command(), &text).expect("room");
                        } else {
                            while let Err(error) = handle.post_to(id, Envelope::command(), &text) {
                                assert_eq!(error, SendError::Busy);
                                std::thread::yield_now();
                            }
                        }
                    }
                });
            }
            // Two threads share the answers.
            let receivers: Vec<_> = (0..2)
                .map(|_| {
                    let handle = node.handle();
                    scope.spawn(move || {
                        (0..6 * per_thread / 2)
                            .map(|_| handle.receive(PATIENCE).expect("an answer"))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            let mut seen: Vec<_> = receivers
                .into_iter()
                .flat_map(|receiver| receiver.join().expect("no panic"))
                .map(|message| message.payload().to_vec())
                .collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 6 * per_thread, "each once");
        });
        assert_eq!(node.statistics().reactors, 2);
        wait_until("all are counted", || {
            node.statistics().messages_received == 6 * per_thread as u64
        });
        assert_eq!(node.counters().len(), 2);
        assert!(node.counters().iter().all(|counters| counters.messages_received.get() > 0));
        assert!(!node.statistics().is_server);
    });
}

#[test]
fn reply_answers_a_request_that_was_received() {
    isolated(|| {
        let server = start(Server::builder().config(config()).listen("127.0.0.1:0").reactors(2));
        let mut peers: Vec<_> = (0..4).map(|_| Peer::connect(&server)).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            let request = Plain::new(COMMAND, NORMAL, &[number as u8]);
            peer.send(request.correlated(REQUEST, 100 + number as u64));
        }
        for _ in 0..4 {
            let request = server.receive(PATIENCE).expect("a request");
            assert!(request.is_request());
            assert_eq!(request.correlation(), 100 + u64::from(request.payload()[0]));
            server.reply(&request, Envelope::status(), &request.payload()[..]).expect("room");
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            let answer = peer.frame();
            assert_eq!(answer.payload, [number as u8]);
            assert_eq!(
                (answer.flags & RESPONSE, answer.correlation),
                (RESPONSE, 100 + number as u64)
            );
        }
    });
}

#[test]
fn posted_reply_answers_without_waiting() {
    isolated(|| {
        let (entered, is_entered) = crossbeam_channel::unbounded();
        let (release, is_released) = crossbeam_channel::unbounded::<()>();
        let config = settings().commands_max(4).build().expect("valid");
        let server = Server::builder().config(config).listen("127.0.0.1:0");
        let server = start(server.on(Kind::Status, move |_, _| {
            entered.send(()).expect("the test waits");
            is_released.recv_timeout(PATIENCE).expect("the test releases");
        }));
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(COMMAND, NORMAL, b"ask").correlated(REQUEST, 7));
        let request = server.receive(PATIENCE).expect("a request");
        peer.send(Plain::new(STATUS, NORMAL, b"hold"));
        is_entered.recv_timeout(PATIENCE).expect("the handler runs");
        // The reactor stands in a handler: whoever waited for its verdict would stand, too.
        let reply = || timed(|| server.post_reply(&request, Envelope::status(), b"answer"));
        for _ in 0..4 {
            let (outcome, took) = reply();
            assert_eq!(outcome, Ok(()));
            assert!(took < AT_ONCE, "{took:?}");
        }
        let (outcome, took) = reply();
        assert_eq!(outcome, Err(SendError::Busy));
        assert!(took < AT_ONCE, "{took:?}");
        release.send(()).expect("the handler waits");
        for _ in 0..4 {
            let answer = peer.frame();
            assert_eq!((answer.flags & RESPONSE, answer.correlation), (RESPONSE, 7));
            assert_eq!(answer.payload, b"answer");
        }
        drop(peer);
        wait_for(&server, "it is gone", |s| s.connections_active == 0);
        assert_eq!(reply().0, Ok(()), "that it comes too late is not known here");
        wait_for(&server, "it is dropped and counted", |s| s.posts_dropped == 1);
    });
}

/// What a call gave up on is not sent later, and what became of it is not the next call's.
#[test]
fn what_an_unresponsive_reactor_did_not_take_is_withdrawn() {
    isolated(|| {
        let (entered, is_entered) = crossbeam_channel::unbounded();
        let (release, is_released) = crossbeam_channel::unbounded::<()>();
        let server = start(echo().on(Kind::Status, move |_, _| {
            entered.send(()).expect("the test waits");
            // Behind calls that take five seconds.
            is_released.recv_timeout(2 * PATIENCE).expect("the test releases");
        }));
        let gone = Peer::connect(&server);
        let gone_id = server.clients()[0].id;
        drop(gone);
        wait_for(&server, "it is gone", |s| s.connections_active == 0);
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        peer.send(Plain::new(DATA, NORMAL, b"ask").correlated(REQUEST, 7));
        let request = server.receive(PATIENCE).expect("a request");
        peer.send(Plain::new(STATUS, NORMAL, b"hold"));
        is_entered.recv_timeout(PATIENCE).expect("the handler runs");
        let send = || server.send_to(id, Envelope::data(), b"withdrawn");
        let reply = || server.reply(&request, Envelope::status(), b"withdrawn");
        let broadcast = || server.broadcast(Envelope::data(), b"withdrawn").map(drop);
        // This one's thread goes on after it gave up.
        let send_and_post = || (send(), server.post_to(id, Envelope::data(), b"posted"));
        std::thread::scope(|scope| {
            let calls = [scope.spawn(send), scope.spawn(reply), scope.spawn(broadcast)];
            let next = scope.spawn(send_and_post);
            for call in calls {
                let error = call.join().expect("no panic").expect_err("a handler blocks");
                assert!(matches!(error, SendError::Unresponsive { .. }), "{error}");
                assert!(error.to_string().contains("within 5s"), "{error}");
            }
            let (outcome, posted) = next.join().expect("no panic");
            assert!(matches!(outcome, Err(SendError::Unresponsive { .. })), "{outcome:?}");
            assert_eq!(posted, Ok(()));
        });
        release.send(()).expect("the handler waits");
        assert_eq!(peer.frame().payload, b"posted", "and nothing before it");
        assert_eq!(server.send_to(gone_id, Envelope::data(), b"x"), Err(SendError::NotConnected));
        assert_eq!(server.send_to(id, Envelope::data(), b"next"), Ok(()));
        assert_eq!(peer.frame().payload, b"next");
    });
}

/// A reactor that waited for itself would stand still, and two that wait for each other, too.
#[test]
fn handler_is_refused_to_wait_for_its_node() {
    isolated(|| {
        let handle = Arc::new(OnceLock::<NodeHandle>::new());
        let (tell, is_told) = crossbeam_channel::unbounded();
        let of_handler = Arc::clone(&handle);
        let server = start(echo().reactors(2).on(Kind::Status, move |context, frame| {
            let node = of_handler.get().expect("it is set before anything is sent");
            let (id, data) = (context.connection(), Envelope::data());
            let request = context.to_message(&frame);
            let refusals = timed(|| {
                [
                    node.send_to(id, data, b"x"),
                    node.reply(&request, data, b"x"),
                    node.broadcast(data, b"x").map(drop),
                ]
            });
            let connected = timed(|| node.connect("127.0.0.1:1", 0));
            let others = timed(|| node.connections().len());
            let posted = node.post_to(id, data, b"posted");
            tell.send((refusals, connected, others, posted)).expect("the test waits");
        }));
        handle.set(server.handle()).expect("once");
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(STATUS, NORMAL, b"go"));
        let (refusals, connected, others, posted) =
            is_told.recv_timeout(PATIENCE).expect("the handler runs");
        assert_eq!(refusals.0, [Err(SendError::InHandler); 3]);
        assert!(SendError::InHandler.to_string().contains("Context::send_to"));
        assert!(matches!(connected.0, Err(ConnectError::InHandler)), "{:?}", connected.0);
        assert_eq!(others.0, 0, "in a handler nothing is asked");
        assert_eq!(posted, Ok(()));
        for took in [refusals.1, connected.1, others.1] {
            assert!(took < AT_ONCE, "{took:?}");
        }
        assert_eq!(peer.frame().payload, b"posted", "and nothing else");
    });
}

/// Waiting for a message in a handler holds up the reactor that would bring it.
#[test]
fn handler_may_look_for_messages_and_not_wait_for_them() {
    isolated(|| {
        let handle = Arc::new(OnceLock::<NodeHandle>::new());
        let (tell, is_told) = crossbeam_channel::unbounded();
        let of_handler = Arc::clone(&handle);
        let server = start(echo().on(Kind::Status, move |_, _| {
            let node = of_handler.get().expect("it is set before anything is sent");
            while node.poll_event().is_some() {}
            let outcomes = timed(|| {
                let ask = |timeout| (node.receive(timeout).map(drop), node.wait(timeout).map(drop));
                [ask(PATIENCE), ask(Duration::ZERO)]
            });
            tell.send(outcomes).expect("the test waits");
        }));
        handle.set(server.handle()).expect("once");
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(STATUS, NORMAL, b"go"));
        let (outcomes, took) = is_told.recv_timeout(2 * PATIENCE).expect("the handler runs");
        assert!(took < AT_ONCE, "{took:?}");
        let (refused, none) =
            (ReceiveError::InHandler, ReceiveError::Timeout { timeout: Duration::ZERO });
        assert_eq!(outcomes, [refused, none].map(|error| (Err(error), Err(error))));
    });
}

#[test]
fn connect_that_the_shutdown_overtakes_says_so() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let node = node(1);
        let handle = node.handle();
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| handle.connect(&endpoint, 0));
            // It has connected, and waits for the handshake.
            let _silent = listener.accept().expect("it dials");
            let _ = node.shutdown(Duration::from_millis(10));
            let outcome = connecting.join().expect("no panic");
            assert!(matches!(outcome, Err(ConnectError::ShutDown)), "{outcome:?}");
        });
    });
}

/// A node's thread learns that what it has sent has arrived, or that it has not, or never will.
#[test]
fn flush_of_a_node_waits_for_the_confirmation() {
    isolated(|| {
        let server = start(Server::builder().config(config()).listen("127.0.0.1:0"));
        let mut client = client(&endpoint(&server));
        let (node, id) = (server.handle(), server.clients()[0].id);
        assert_eq!(node.connection(id).expect("it is connected").id, id);
        assert_eq!(node.flush_within(id, PATIENCE), Ok(()), "nothing is queued");
        server.post_to(id, Envelope::data().reliable(), b"posted").expect("room");
        let timeout = Duration::from_millis(30);
        let (outcome, took) = timed(|| node.flush_within(id, timeout));
        assert_eq!(outcome, Err(FlushError::Timeout { timeout }), "nobody confirms");
        assert!(took >= timeout, "{took:?}");
        std::thread::scope(|scope| {
            let flushing = scope.spawn(|| node.flush_within(id, PATIENCE));
            wait_until("it is confirmed", || {
                client.poll();
                flushing.is_finished()
            });
            assert_eq!(flushing.join().expect("no panic"), Ok(()));
        });
        assert_eq!(client.receive(PATIENCE).expect("it has come").payload()[..], *b"posted");
        server.post_to(id, Envelope::data().reliable(), b"in vain").expect("room");
        std::thread::scope(|scope| {
            let flushing = scope.spawn(|| node.flush_within(id, PATIENCE));
            drop(client);
            assert_eq!(flushing.join().expect("no panic"), Err(FlushError::NotConnected));
        });
        assert!(node.connection(id).is_none());
        assert_eq!(node.flush_within(id, PATIENCE), Err(FlushError::NotConnected));
    });
}

/// What was received is sent on as it came: bytes, codec and type number.
#[test]
fn message_is_a_body() {
    isolated(|| {
        let relay = |context: &mut ringwire::Context<'_>, frame: ringwire::wire::Frame<'_>| {
            context.reply(Envelope::status(), &frame).expect("room");
        };
        let server = Server::builder().config(config()).listen("127.0.0.1:0");
        let server = start(server.on(Kind::Command, relay));
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        for kind in [COMMAND, DATA] {
            let sent = Plain { codec: 2, type_id: 77, ..Plain::new(kind, NORMAL, b"{\"a\":1}") };
            peer.send(sent.clone());
            if kind == DATA {
                let message = server.receive(PATIENCE).expect("no handler takes it");
                server.send_to(id, Envelope::status(), &message).expect("room");
            }
            let back = peer.frame();
            assert_eq!((back.kind, back.codec, back.type_id), (STATUS, 2, 77));
            assert_eq!(back.payload, sent.payload);
        }
    });
}

/// Connects until each of two reactors has a peer: the kernel chooses, by its ports.
fn one_on_each_reactor(server: &Server) -> Vec<Peer> {
    let mut peers = [None, None];
    let mut known = Vec::new();
    for _ in 0..100 {
        let peer = Peer::connect(server);
        let clients = server.clients();
        let is_new = |id: &ConnectionId| !known.contains(id);
        let id = clients.iter().map(|client| client.id).find(is_new).expect("just connected");
        known.push(id);
        peers[usize::from(!id.to_string().starts_with("0."))].get_or_insert(peer);
        if peers.iter().all(Option::is_some) {
            return peers.into_iter().flatten().collect();
        }
    }
    panic!("100 connections on one of two reactors");
}

/// Two reactors whose handlers ask at once for all connections: neither waits for the other.
#[test]
fn handlers_that_ask_for_connections_hold_no_other_reactor() {
    isolated(|| {
        let handle = Arc::new(OnceLock::<NodeHandle>::new());
        let (begin, has_begun) = crossbeam_channel::unbounded();
        let (go_on, may_go_on) = crossbeam_channel::unbounded::<()>();
        let (tell, is_told) = crossbeam_channel::unbounded();
        let of_handler = Arc::clone(&handle);
        let server = start(echo().reactors(2).on(Kind::Status, move |_, _| {
            let node = of_handler.get().expect("it is set before anything is sent");
            begin.send(()).expect("the test waits");
            may_go_on.recv_timeout(PATIENCE).expect("both have begun");
            tell.send(timed(|| node.connections().len())).expect("the test waits");
        }));
        handle.set(server.handle()).expect("once");
        let mut peers = one_on_each_reactor(&server);
        for peer in &mut peers {
            peer.send(Plain::new(STATUS, NORMAL, b"go"));
        }
        for _ in &peers {
            has_begun.recv_timeout(PATIENCE).expect("both handlers run");
        }
        for _ in &peers {
            go_on.send(()).expect("both handlers wait");
        }
        for _ in &peers {
            let (count, took) = is_told.recv_timeout(PATIENCE).expect("both come back");
            assert_eq!(count, 0, "in a handler nothing is asked");
            assert!(took < AT_ONCE, "{took:?}");
        }
        assert!(server.clients().len() >= 2, "this thread may ask");
    });
}

#[test]
fn broadcast_reports_on_each_client_of_each_reactor() {
    isolated(|| {
        let server = start(echo().reactors(3));
        let mut peers: Vec<_> = (0..9).map(|_| Peer::connect(&server)).collect();
        let report = server.broadcast(Envelope::data(), b"to all").expect("it runs");
        assert_eq!((report.queued(), report.refused().count()), (9, 0));
        let mut ids: Vec<_> = report.outcomes.iter().map(|&(id, _)| id).collect();
        let mut clients: Vec<_> = server.clients().iter().map(|client| client.id).collect();
        ids.sort_unstable();
        clients.sort_unstable();
        assert_eq!(ids, clients);
        for peer in &mut peers {
            assert_eq!(peer.frame().payload, b"to all");
        }
        let too_large = server.broadcast(Envelope::data(), &vec![0; 5 << 20]).map(drop);
        assert!(matches!(too_large, Err(SendError::TooLarge { .. })), "{too_large:?}");
    });
}

#[test]
fn disconnect_ends_one_client_only() {
    isolated(|| {
        let server = start(echo());
        let mut one = Peer::connect(&server);
        let id = server.clients()[0].id;
        let mut other = Peer::connect(&server);
        server.send_to(id, Envelope::data(), b"last").expect("room");
        server.disconnect(id, PATIENCE).expect("it runs");
        assert_eq!(one.frame().payload, b"last");
        assert_eq!(one.frame().kind, 0x83);
        drop(one);
        wait_for(&server, "it is gone", |s| s.connections_active == 1);
        assert_eq!(server.send_to(id, Envelope::data(), b"x"), Err(SendError::NotConnected));
        assert_eq!(other.ask(b"x"), b"x");
        // The slot is used again; the old id still finds nothing.
        let mut next = Peer::connect(&server);
        assert_eq!(server.send_to(id, Envelope::data(), b"x"), Err(SendError::NotConnected));
        assert_eq!(next.ask(b"x"), b"x");
    });
}

/// Commands reach a reactor in whatever way it idles.
fn check_wakes(idle: Idle) {
    // Without heartbeats, which would wake it, too.
    let config = settings().idle(idle).heartbeat_interval_ms(0).build().expect("valid");
    let server = start(echo().config(config));
    let mut peer = Peer::connect(&server);
    let id = server.clients()[0].id;
    for number in 0..300_u32 {
        if number % 100 == 0 && idle != Idle::Spin {
            if idle == Idle::Park {
                wait_for(&server, "it parks", |s| s.parks > 0);
            }
            // Long enough for it to fall asleep.
            server.receive(Duration::from_millis(20)).expect_err("nobody sends");
        }
        let ((), took) = timed(|| {
            server.send_to(id, Envelope::data(), &number.to_le_bytes()).expect("room");
            assert_eq!(peer.frame().payload, number.to_le_bytes());
        });
        assert!(took < AT_ONCE, "{took:?}: a wake-up was lost");
    }
    if idle == Idle::Park {
        assert!(server.statistics().wakeups > 0, "it slept");
    }
}

#[test]
fn command_wakes_a_parked_reactor() {
    isolated(|| check_wakes(Idle::Park));
}

#[test]
fn command_reaches_an_adaptive_reactor() {
    isolated(|| check_wakes(Idle::Adaptive));
}

#[test]
fn command_reaches_a_spinning_reactor() {
    isolated(|| check_wakes(Idle::Spin));
}

#[test]
fn full_command_queue_is_an_error_at_once() {
    isolated(|| {
        let (entered, is_entered) = crossbeam_channel::unbounded();
        let (release, is_released) = crossbeam_channel::unbounded::<()>();
        let config = settings().commands_max(4).build().expect("valid");
        let server = start(echo().config(config).on(Kind::Data, move |_, _| {
            entered.send(()).expect("the test waits");
            is_released.recv_timeout(PATIENCE).expect("the test releases");
        }));
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        peer.send(Plain::new(DATA, NORMAL, b"hold"));
        is_entered.recv_timeout(PATIENCE).expect("the handler runs");
        for _ in 0..4 {
            server.post_to(id, Envelope::status(), b"queued").expect("room");
        }
        let (outcome, took) = timed(|| server.post_to(id, Envelope::status(), b"too many"));
        assert_eq!(outcome, Err(SendError::Busy));
        assert!(took < AT_ONCE, "{took:?}");
        release.send(()).expect("the handler waits");
        for _ in 0..4 {
            assert_eq!(peer.frame().payload, b"queued");
        }
    });
}

#[test]
fn connect_tells_what_went_wrong() {
    isolated(|| {
        let node = node(1);
        let (_keeper, deaf) = deaf_port();
        let error = node.connect(&deaf, 0).expect_err("nobody listens");
        assert!(matches!(error, ConnectError::Connect { .. }), "{error}");
        assert!(error.to_string().contains(&deaf), "{error}");
        let error = node.connect("host:port", 0).expect_err("malformed");
        assert!(matches!(error, ConnectError::Endpoint(_)), "{error}");
        let timeout = Duration::from_millis(30);
        assert_eq!(node.receive(timeout).expect_err("none"), ReceiveError::Timeout { timeout });
        let handle = node.handle();
        let _ = node.shutdown(Duration::ZERO);
        let error = handle.connect(&deaf, 0).expect_err("over");
        assert!(matches!(error, ConnectError::ShutDown), "{error}");
        assert!(handle.connections().is_empty());
    });
}

#[test]
fn connections_spread_over_the_reactors() {
    isolated(|| {
        let server = start(echo().reactors(2));
        let peers: Vec<_> = (0..40).map(|_| Peer::connect(&server)).collect();
        let active = |at: usize| server.counters_of(at);
        wait_until("all are there", || active(0) + active(1) == 40);
        assert!(active(0) > 0, "the kernel gave one reactor all");
        assert!(active(1) > 0, "the kernel gave one reactor all");
        drop(peers);
    });
}

trait CountersOf {
    fn counters_of(&self, reactor: usize) -> u64;
}

impl CountersOf for Server {
    fn counters_of(&self, reactor: usize) -> u64 {
        self.handle().counters()[reactor].connections_active.get()
    }
}

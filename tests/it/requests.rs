//! Requests: answered, timed out or lost, each exactly once, and the link lives on.

use std::time::Duration;

use ringwire::error::DropReason;
use ringwire::{
    CloseReason, Envelope, Kind, Nanos, Priority, RequestError, SendError, Server, Wait,
};

use crate::bed::{Bed, settings_that_resume, silent, valid};
use crate::proxy::Fault;
use crate::util::{
    CANCEL, COMMAND, CRITICAL, HIGH, LOW, NORMAL, PATIENCE, Peer, Plain, REQUEST, RESPONSE, STATUS,
    TIMEOUT, client, client_and_peer, config, echo, endpoint, isolated, settings, start, timed,
    wait_for, wait_until,
};

const SHORT: Duration = Duration::from_millis(50);

/// Answers a request as a plain peer does.
fn answer(peer: &mut Peer, request: &Plain) {
    assert_eq!(request.flags & REQUEST, REQUEST, "{request:?}");
    let payload = request.payload.clone();
    peer.send(Plain::new(STATUS, NORMAL, &payload).correlated(RESPONSE, request.correlation));
}

/// With nothing else that would wake it.
#[test]
fn sleeping_client_wakes_for_its_timeout() {
    isolated(|| {
        let config = settings().idle(ringwire::Idle::Park).heartbeat_interval_ms(0);
        let config = config.registry(false).build().expect("valid");
        let (mut client, _peer) = client_and_peer(config);
        let begun = Nanos::now();
        let id = client.start_request(Envelope::command(), b"slow", SHORT).expect("room");
        let outcome = loop {
            if let Some(outcome) = client.take_response(id) {
                break outcome;
            }
            assert!(Nanos::now() < begun + PATIENCE, "it sleeps on");
            client.reactor().turn(Wait::Until(Nanos::NEVER)).expect("the ring works");
        };
        assert_eq!(outcome.expect_err("no answer"), RequestError::Timeout { timeout: SHORT });
        assert!(Nanos::now() >= begun + SHORT);
    });
}

#[test]
fn timeout_keeps_the_link_and_the_late_answer_is_counted() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let (outcome, took) = timed(|| client.request(Envelope::command(), b"slow", SHORT));
        assert_eq!(outcome.expect_err("no answer"), RequestError::Timeout { timeout: SHORT });
        assert!(took >= SHORT, "{took:?}");
        assert!(took < PATIENCE / 2, "{took:?}");
        let serving = std::thread::spawn(move || {
            let (late, next) = (peer.frame(), peer.frame());
            answer(&mut peer, &late);
            answer(&mut peer, &next);
            peer
        });
        let found = client.request(Envelope::command(), b"quick", PATIENCE).expect("an answer");
        assert_eq!(found.payload()[..], *b"quick");
        assert_eq!(client.statistics().responses_late, 1);
        assert_eq!(client.statistics().connections_lost, 0);
        drop(serving.join().expect("no panic"));
    });
}

/// An answer behind messages that nobody takes can not be read: the error says so, and what to do.
#[test]
fn answer_behind_a_full_inbox_is_told_from_a_timeout() {
    isolated(|| {
        let config = valid(settings().inbox_frames_max(1));
        let (mut client, mut peer) = client_and_peer(config);
        let serving = std::thread::spawn(move || {
            let asked = peer.frame();
            for news in [b"first", b"other"] {
                peer.send(Plain::new(STATUS, NORMAL, news));
            }
            answer(&mut peer, &asked);
            let next = peer.frame();
            answer(&mut peer, &next);
            peer
        });
        let error = client.request(Envelope::command(), b"how?", 4 * SHORT).expect_err("unread");
        assert_eq!(error, RequestError::InboxFull { timeout: 4 * SHORT });
        let text = error.to_string();
        assert!(text.contains("inbox_frames_max") && text.contains("`receive`"), "{text}");
        for news in [b"first", b"other"] {
            assert_eq!(client.receive(PATIENCE).expect("it came").payload()[..], *news);
        }
        client.request(Envelope::command(), b"and now?", PATIENCE).expect("an answer");
        assert_eq!(client.statistics().responses_late, 1);
        drop(serving.join().expect("no panic"));
    });
}

#[test]
fn answers_find_their_requests_in_any_order() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let ids: Vec<_> = (0..100_u32)
            .map(|number| {
                client.start_request(Envelope::command(), &number.to_le_bytes(), PATIENCE)
            })
            .collect::<Result<_, _>>()
            .expect("room");
        client.flush();
        let requests: Vec<_> = ids.iter().map(|_| peer.frame()).collect();
        for request in requests.iter().rev() {
            answer(&mut peer, request);
        }
        for (number, &id) in ids.iter().enumerate() {
            let mut outcome = None;
            wait_until("it is answered", || {
                client.poll();
                outcome = client.take_response(id);
                outcome.is_some()
            });
            let message = outcome.expect("just found").expect("an answer");
            assert_eq!(message.payload()[..], (number as u32).to_le_bytes());
            assert!(client.take_response(id).is_none(), "an outcome is taken once");
        }
    });
}

#[test]
fn answer_read_in_place() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let serving = std::thread::spawn(move || {
            for _ in 0..20 {
                let request = peer.frame();
                answer(&mut peer, &request);
            }
            peer
        });
        for number in 0..20_u8 {
            let length = client
                .request_with(Envelope::command(), &vec![number; 500], PATIENCE, |frame| {
                    assert_eq!(frame.payload(), vec![number; 500]);
                    frame.payload().len()
                })
                .expect("an answer");
            assert_eq!(length, 500);
        }
        drop(serving.join().expect("no panic"));
    });
}

#[test]
fn too_many_requests_are_refused_at_once() {
    isolated(|| {
        let config = settings().requests_max(3).build().expect("valid");
        let (mut client, mut peer) = client_and_peer(config);
        let start = |client: &mut ringwire::Client| {
            client.start_request(Envelope::command(), b"?", PATIENCE)
        };
        let first = start(&mut client).expect("room");
        start(&mut client).expect("room");
        let third = start(&mut client).expect("room");
        assert_eq!(start(&mut client), Err(RequestError::TooMany { requests_max: 3 }));
        client.cancel_request(third);
        start(&mut client).expect("a place was given up");
        client.flush();
        let request = peer.frame();
        answer(&mut peer, &request);
        wait_until("the first is answered", || {
            client.poll();
            client.take_response(first).is_some()
        });
        start(&mut client).expect("a place is free");
    });
}

#[test]
fn lost_connection_fails_its_requests_at_once() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let waiting = client.start_request(Envelope::command(), b"one", PATIENCE).expect("room");
        client.flush();
        let closing = std::thread::spawn(move || {
            peer.frame();
            peer.frame();
        });
        let (outcome, took) = timed(|| client.request(Envelope::command(), b"two", PATIENCE));
        closing.join().expect("no panic");
        assert!(took < PATIENCE / 2, "{took:?}");
        let lost = RequestError::ConnectionLost { reason: CloseReason::PeerClosed };
        assert_eq!(outcome.expect_err("lost"), lost);
        let other = client.take_response(waiting).expect("an outcome");
        assert_eq!(other.expect_err("lost"), lost);
        let error = client.request(Envelope::command(), b"three", PATIENCE).expect_err("no link");
        assert_eq!(error, RequestError::Send(SendError::NotConnected));
    });
}

#[test]
fn made_up_correlation_is_counted_and_dropped() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        for correlation in [0, 1, 1 << 32 | 1, u64::MAX] {
            peer.send(Plain::new(STATUS, NORMAL, b"!").correlated(RESPONSE, correlation));
        }
        peer.send(Plain::new(STATUS, NORMAL, b"a message"));
        assert_eq!(client.receive(PATIENCE).expect("a message").payload()[..], *b"a message");
        assert_eq!(client.statistics().responses_late, 4);
    });
}

/// A server whose requests are received, not handled, and a client.
fn bed_without_handlers() -> Bed {
    Bed::around(settings_that_resume(), silent().config(valid(settings_that_resume())))
}

/// Turns the client until the server has counted so many cancellations.
#[track_caller]
fn turn_until_cancelled(bed: &mut Bed, count: u64) {
    bed.turn_until("the server knows", |bed| bed.server.statistics().requests_cancelled == count);
}

#[test]
fn cancelled_request_is_not_handed_out() {
    isolated(|| {
        let mut bed = bed_without_handlers();
        let cancelled =
            bed.client.start_request(Envelope::command(), b"1", PATIENCE).expect("room");
        let alive = bed.client.start_request(Envelope::command(), b"2", PATIENCE).expect("room");
        bed.client.flush();
        bed.client.cancel_request(cancelled);
        turn_until_cancelled(&mut bed, 1);
        let request = bed.server.receive(PATIENCE).expect("the other one");
        assert_eq!(request.payload()[..], *b"2");
        assert!(!bed.server.is_abandoned(&request));
        bed.server.reply(&request, Envelope::status(), b"done").expect("queued");
        let mut outcome = None;
        bed.turn_until("it is answered", |bed| {
            outcome = bed.client.take_response(alive);
            outcome.is_some()
        });
        assert!(outcome.expect("an outcome").is_ok());
        assert!(bed.client.take_response(cancelled).is_none(), "it is forgotten");
        assert_eq!(bed.server.statistics().messages_expired, 0, "counted as cancelled, once");
    });
}

/// Cancelled before it has left, with the link or without: nobody handles it, and nothing is said
/// of it. What was queued around it arrives.
#[test]
fn request_cancelled_before_it_was_sent_never_is() {
    isolated(|| {
        let mut bed = bed_without_handlers();
        let envelope = Envelope::command().reliable();
        let cancel_between = |bed: &mut Bed, names: [&[u8]; 3]| {
            bed.client.send(envelope, names[0]).expect("room");
            let request = bed.client.start_request(envelope, names[1], PATIENCE).expect("room");
            bed.client.send(envelope, names[2]).expect("room");
            bed.client.cancel_request(request);
            assert!(bed.client.take_response(request).is_none(), "it is forgotten");
        };
        cancel_between(&mut bed, [b"1", b"cancelled", b"2"]);
        bed.client.flush();
        bed.lose_link(Fault::Cut);
        cancel_between(&mut bed, [b"3", b"cancelled too", b"4"]);
        // Alone in its block.
        let long = vec![7; 200_000];
        let request = bed.client.start_request(envelope, &long[..], PATIENCE).expect("room");
        bed.client.cancel_request(request);
        bed.proxy.admit();
        bed.turn_until_resumed();
        bed.client.send(envelope, b"5").expect("room");
        bed.client.flush_within(PATIENCE).expect("confirmed");
        for expected in [b"1", b"2", b"3", b"4", b"5"] {
            let message = bed.server.receive(PATIENCE).expect("it was not cancelled");
            assert_eq!(message.payload()[..], *expected);
        }
        assert_eq!(bed.server.statistics().requests_cancelled, 0, "nothing was to be told");
        assert_eq!(bed.client.statistics().dropped(DropReason::Cancelled), 3);
        assert_eq!(bed.server.statistics().messages_missed, 3, "the peer knows how many");
    });
}

#[test]
fn cancellation_reaches_whoever_works_on_the_request() {
    isolated(|| {
        let (told, news) = crossbeam_channel::bounded(8);
        let builder = silent().config(valid(settings_that_resume())).on_cancelled(
            move |context, cancelled| {
                let _ = told.try_send((context.connection(), cancelled.correlation));
            },
        );
        let mut bed = Bed::around(settings_that_resume(), builder);
        let first = bed.client.start_request(Envelope::command(), b"1", PATIENCE).expect("room");
        let second = bed.client.start_request(Envelope::command(), b"2", PATIENCE).expect("room");
        bed.client.flush();
        let requests = [0, 1].map(|_| bed.server.receive(PATIENCE).expect("a request"));
        assert!(!requests.iter().any(|request| bed.server.is_abandoned(request)));
        bed.client.cancel_request(first);
        turn_until_cancelled(&mut bed, 1);
        assert_eq!(requests.each_ref().map(|r| bed.server.is_abandoned(r)), [true, false]);
        let expected = (bed.id, requests[0].correlation());
        assert_eq!(news.recv_timeout(PATIENCE), Ok(expected));
        let refused = bed.server.reply(&requests[0], Envelope::status(), b"in vain");
        assert_eq!(refused, Err(SendError::Abandoned));
        bed.server.reply(&requests[1], Envelope::status(), b"here").expect("queued");
        let mut outcome = None;
        bed.turn_until("it is answered", |bed| {
            outcome = bed.client.take_response(second);
            outcome.is_some()
        });
        assert_eq!(bed.client.statistics().responses_late, 0, "no answer in vain");
        // Cancelling what has an outcome, or is gone, tells nobody.
        bed.client.cancel_request(second);
        bed.client.cancel_request(first);
        echo_through(&mut bed);
        assert_eq!(bed.server.statistics().requests_cancelled, 1);
    });
}

/// Something that comes behind whatever was sent before.
fn echo_through(bed: &mut Bed) {
    bed.client.send(Envelope::data(), b"behind it").expect("room");
    bed.client.flush();
    let message = bed.server.receive(PATIENCE).expect("it");
    assert_eq!(message.payload()[..], *b"behind it");
}

#[test]
fn cancellation_travels_as_documented() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let envelope = Envelope::command().critical();
        let id =
            client.start_request(envelope, b"stop", Duration::from_millis(1500)).expect("room");
        client.flush();
        client.cancel_request(id);
        client.flush();
        let request = peer.frame();
        assert_eq!(request.flags & (REQUEST | TIMEOUT), REQUEST | TIMEOUT);
        assert_eq!(request.ttl_us, 1_500_000, "how long it is waited for");
        let cancel = peer.frame();
        assert_eq!((cancel.kind, cancel.priority), (CANCEL, CRITICAL), "behind the request");
        assert_eq!(cancel.correlation, request.correlation);
        assert!(cancel.payload.is_empty());
        // The other way round: an answer to what was cancelled is late.
        answer(&mut peer, &request);
        wait_until("it is counted", || {
            client.poll();
            client.statistics().responses_late == 1
        });
    });
}

/// A time to live that is over sooner than the timeout is what counts, and strictly.
#[test]
fn time_to_live_and_timeout_share_a_field() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        // Long enough that none is stale before it has left.
        let seconds = Duration::from_secs;
        for (ttl, timeout, flag, expected_us) in [
            (None, seconds(7), TIMEOUT, 7_000_000),
            (Some(seconds(5)), seconds(7), 0, 5_000_000),
            (Some(seconds(9)), seconds(7), 0, 7_000_000),
        ] {
            let envelope = ttl.map_or(Envelope::command(), |ttl| Envelope::command().ttl(ttl));
            client.start_request(envelope, b"", timeout).expect("room");
            client.flush();
            let frame = peer.frame();
            assert_eq!((frame.flags & TIMEOUT, frame.ttl_us), (flag, expected_us));
        }
    });
}

#[test]
fn handler_knows_how_long_it_is_waited_for() {
    isolated(|| {
        let (told, news) = crossbeam_channel::bounded(8);
        let server = Server::builder().config(config()).listen("127.0.0.1:0").on(
            Kind::Command,
            move |context, frame| {
                let _ = told.try_send((context.remaining(), context.deadline()));
                let _ = context.reply(Envelope::status(), frame.payload());
            },
        );
        let server = start(server);
        let mut client = client(&endpoint(&server));
        let before = Nanos::now();
        client.request(Envelope::command(), b"", Duration::from_secs(3)).expect("an answer");
        let (remaining, deadline) = news.recv_timeout(PATIENCE).expect("it was called");
        let remaining = remaining.expect("it is known");
        assert!(remaining <= Duration::from_millis(3100), "{remaining:?}");
        assert!(remaining > Duration::from_secs(1), "{remaining:?}");
        assert!(deadline.expect("it is known") > before + Duration::from_secs(2));
        client.send(Envelope::command(), b"no request").expect("room");
        client.flush();
        assert_eq!(news.recv_timeout(PATIENCE), Ok((None, None)), "for ever");
    });
}

/// A request that nobody waits for any more is not handed out.
#[test]
fn request_that_waited_too_long_in_the_inbox_is_left_out() {
    isolated(|| {
        let mut bed = bed_without_handlers();
        // Short for the inbox, and long for the way there.
        let timeout = Duration::from_secs(1);
        let outcome = bed.client.request(Envelope::command(), b"late", timeout);
        assert_eq!(outcome.expect_err("no answer"), RequestError::Timeout { timeout });
        let ttl = Envelope::data().ttl(timeout);
        bed.client.send(ttl, b"late too").expect("room");
        bed.client.send(Envelope::data(), b"in time").expect("room");
        bed.client.flush();
        wait_until("they have come", || bed.server.statistics().messages_received == 3);
        let sent = Nanos::now();
        wait_until("its time is over", || Nanos::now().since(sent) > timeout);
        let message = bed.server.receive(PATIENCE).expect("one is left");
        assert_eq!(message.payload()[..], *b"in time");
        assert_eq!(bed.server.statistics().messages_expired, 2);
    });
}

/// The answer travels as urgently as its request, unless its sender says otherwise.
#[test]
fn answer_takes_the_lane_of_its_request() {
    isolated(|| {
        let server = Server::builder().config(config()).listen("127.0.0.1:0").on(
            Kind::Command,
            |context, frame| {
                let envelope = match frame.payload() {
                    b"calmly" => Envelope::status().priority(Priority::Low),
                    _ => Envelope::status(),
                };
                let _ = context.reply(envelope, b"");
            },
        );
        let server = start(server);
        let mut peer = Peer::connect(&server);
        let mut ask = |lane, payload: &[u8]| {
            peer.send(Plain::new(COMMAND, lane, payload).correlated(REQUEST, 5));
            peer.frame().priority
        };
        assert_eq!(ask(CRITICAL, b"urgently"), CRITICAL);
        assert_eq!(ask(LOW, b"urgently"), LOW);
        assert_eq!(ask(CRITICAL, b"calmly"), LOW);

        // The same for an answer that another thread gives.
        let server = start(silent().config(config()));
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(COMMAND, HIGH, b"").correlated(REQUEST, 6));
        let request = server.receive(PATIENCE).expect("a request");
        server.reply(&request, Envelope::status(), b"").expect("queued");
        assert_eq!(peer.frame().priority, HIGH);
    });
}

/// A cancellation that names nothing, or comes without its extension.
#[test]
fn senseless_cancellations_hurt_nobody() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(CANCEL, NORMAL, b"").correlated(0, 12345));
        assert_eq!(peer.ask(b"still there"), b"still there");
        peer.send(Plain::new(CANCEL, NORMAL, b""));
        peer.expect_end();
        wait_for(&server, "it is a protocol error", |s| {
            s.closes.iter().any(|close| close.reason == "protocol.unexpected")
        });
    });
}

/// What a server asks of its clients, and how that ends: each request has one outcome.
#[test]
fn server_asks_a_client() {
    isolated(|| {
        let server = start(silent().config(config()).reactors(2));
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        let ask = |timeout| server.request(id, Envelope::command().critical(), b"how?", timeout);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask(PATIENCE));
            let request = peer.frame();
            assert_eq!((request.kind, request.priority), (COMMAND, CRITICAL));
            assert_eq!(request.flags & TIMEOUT, TIMEOUT, "it says how long it is waited for");
            answer(&mut peer, &request);
            let message = asking.join().expect("no panic").expect("an answer");
            assert_eq!((&message.payload()[..], message.connection()), (&b"how?"[..], id));
        });
        let (outcome, took) = timed(|| ask(SHORT));
        assert_eq!(outcome.expect_err("no answer"), RequestError::Timeout { timeout: SHORT });
        assert!(took >= SHORT, "{took:?}");
        let late = peer.frame();
        answer(&mut peer, &late);
        wait_for(&server, "the late answer is counted", |s| s.responses_late == 1);

        let waiting = server.start_request(id, Envelope::command(), b"1", PATIENCE).expect("room");
        peer.frame();
        drop(peer);
        let lost = RequestError::ConnectionLost { reason: CloseReason::PeerClosed };
        assert_eq!(waiting.wait().expect_err("lost"), lost);
        wait_for(&server, "it is gone", |s| s.connections_active == 0);
        let unknown = RequestError::Send(SendError::NotConnected);
        assert_eq!(ask(PATIENCE).expect_err("nobody"), unknown);
    });
}

#[test]
fn shutdown_ends_the_requests_of_a_server() {
    isolated(|| {
        let server = start(silent().config(config()));
        let mut peer = Peer::connect(&server);
        let (id, handle) = (server.clients()[0].id, server.handle());
        let mut waiting =
            handle.start_request(id, Envelope::command(), b"1", PATIENCE).expect("room");
        peer.frame();
        assert!(waiting.take_response().is_none(), "it is under way");
        let _ = server.shutdown(Duration::ZERO);
        let mut outcome = None;
        wait_until("it is told", || {
            outcome = waiting.take_response();
            outcome.is_some()
        });
        let outcome = outcome.expect("just found").expect_err("nobody answers");
        assert!(matches!(outcome, RequestError::ConnectionLost { .. }), "{outcome}");
        assert!(waiting.take_response().is_none(), "told once");
        let refused = handle.request(id, Envelope::command(), b"2", PATIENCE);
        assert_eq!(refused.expect_err("over"), RequestError::Send(SendError::ShutDown));
    });
}

#[test]
fn requests_of_a_server_have_a_limit_and_a_dropped_one_is_cancelled() {
    isolated(|| {
        let server = start(silent().config(valid(settings().requests_max(1))));
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        let ask = || server.start_request(id, Envelope::command(), b"?", PATIENCE);
        let waiting = ask().expect("room");
        let too_many = RequestError::TooMany { requests_max: 1 };
        assert_eq!(ask().expect_err("there is one"), too_many);
        let request = peer.frame();
        drop(waiting);
        let cancellation = peer.frame();
        assert_eq!((cancellation.kind, cancellation.correlation), (CANCEL, request.correlation));
        let next = ask().expect("its place is free");
        let request = peer.frame();
        answer(&mut peer, &request);
        assert_eq!(next.wait().expect("an answer").payload()[..], *b"?");
        peer.send(Plain::new(STATUS, NORMAL, b"behind"));
        server.receive(PATIENCE).expect("the link lives");
        assert_eq!(server.statistics().responses_late, 0);
    });
}

#[test]
fn handler_is_refused_to_ask_through_its_own_node() {
    isolated(|| {
        let handle = std::sync::Arc::new(std::sync::OnceLock::<ringwire::NodeHandle>::new());
        let (tell, told) = crossbeam_channel::unbounded();
        let of_handler = std::sync::Arc::clone(&handle);
        let server = start(silent().config(config()).on(Kind::Status, move |context, _| {
            let node = of_handler.get().expect("it is set before anything is sent");
            let id = context.connection();
            let outcome = timed(|| node.request(id, Envelope::command(), b"?", PATIENCE));
            tell.send(outcome).expect("the test waits");
        }));
        handle.set(server.handle()).expect("once");
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(STATUS, NORMAL, b"go"));
        let (outcome, took) = told.recv_timeout(PATIENCE).expect("the handler runs");
        let refused = RequestError::Send(SendError::InHandler);
        assert_eq!(outcome.expect_err("it would wait for itself"), refused);
        assert!(took < PATIENCE / 2, "{took:?}");
    });
}

/// The other end of a server's request: a client that receives it, and learns that it is given up.
#[test]
fn client_answers_and_is_told_when_nobody_waits() {
    isolated(|| {
        let server = start(silent().config(config()));
        let mut client = client(&endpoint(&server));
        let told = std::rc::Rc::new(std::cell::Cell::new(0));
        let of_handler = std::rc::Rc::clone(&told);
        client.on_cancelled(move |_, cancelled| of_handler.set(cancelled.correlation));
        let id = server.clients()[0].id;
        let ask = || server.start_request(id, Envelope::command(), b"?", PATIENCE).expect("room");
        let asked = ask();
        let request = client.receive(PATIENCE).expect("it comes");
        client.reply(&request, Envelope::status(), b"!").expect("room");
        client.flush();
        assert_eq!(asked.wait().expect("an answer").payload()[..], *b"!");
        let asked = ask();
        let request = client.receive(PATIENCE).expect("it comes");
        assert!(!client.is_abandoned(&request));
        asked.cancel();
        wait_until("the client knows", || {
            client.poll();
            told.get() == request.correlation()
        });
        assert!(client.is_abandoned(&request));
        let refused = client.reply(&request, Envelope::status(), b"in vain");
        assert_eq!(refused, Err(SendError::Abandoned));
    });
}

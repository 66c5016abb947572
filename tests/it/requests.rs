//! Requests: answered, timed out or lost, each exactly once, and the link lives on.

use std::time::Duration;

use ringwire::{CloseReason, Envelope, RequestError, SendError};

use crate::util::{
    NORMAL, PATIENCE, Peer, Plain, REQUEST, RESPONSE, STATUS, client_and_peer, config, isolated,
    settings, timed, wait_until,
};

const SHORT: Duration = Duration::from_millis(50);

/// Answers a request as a plain peer does.
fn answer(peer: &mut Peer, request: &Plain) {
    assert_eq!(request.flags & REQUEST, REQUEST, "{request:?}");
    let payload = request.payload.clone();
    peer.send(Plain::new(STATUS, NORMAL, &payload).correlated(RESPONSE, request.correlation));
}

#[test]
fn timeout_keeps_the_link_and_the_late_answer_is_counted() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let (outcome, took) = timed(|| client.request(Envelope::command(), b"slow", SHORT));
        assert_eq!(outcome.expect_err("no answer"), RequestError::Timeout { timeout: SHORT });
        assert!(took >= SHORT, "{took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
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

//! Peers that say impossible things about a session, or come as somebody they are not.

use std::cell::Cell;
use std::sync::{Arc, Barrier};

use ringwire::config::Idle;
use ringwire::{
    CloseReason, ConfigBuilder, ConnectionId, Envelope, Event, EventKind, Kind, ProtocolError,
    Server,
};

use crate::bed::{events_of_server, settings_that_resume, silent, valid};
use crate::util::{
    ACKNOWLEDGEMENT, CHECKSUM, COMMAND, CRITICAL, DATA, EXTENDED, GAP, Greeting, HELLO, NORMAL,
    PATIENCE, Peer, Plain, REJECT, RELIABLE, WELCOME, echo, isolated, open_descriptors,
    resident_kib, start, wait_for, wait_until,
};

/// A peer of that name whose session outlives its connection.
fn greeting(name: u8) -> Greeting {
    Greeting { features: 1, session_id: [name; 16], ..Greeting::default() }
}

fn server_with(settings: ConfigBuilder) -> Server {
    start(silent().config(valid(settings)))
}

thread_local! {
    /// What the server called its end when a peer last connected: a hello names it to resume.
    static OTHER_ID: Cell<[u8; 16]> = const { Cell::new([0; 16]) };
}

fn connect(server: &Server, greeting: Greeting) -> Peer {
    let peer = Peer::connect_as(&server.addresses()[0], greeting);
    OTHER_ID.set(peer.other_id);
    peer
}

/// What the server calls the session of the peer that has just connected.
fn connected(server: &Server) -> ConnectionId {
    let events = events_of_server(server, "Connected");
    let is_connected = |event: &&Event| event.kind == EventKind::Connected;
    events.iter().rfind(is_connected).expect("it has connected").connection
}

fn reliable(payload: &[u8]) -> Plain {
    Plain::new(DATA, NORMAL, payload).flags(EXTENDED | CHECKSUM | RELIABLE)
}

/// What the server reads in a hello or welcome: per lane, what its sender has received.
fn last_received(greeting: &Plain) -> [u64; 4] {
    std::array::from_fn(|lane| {
        let at = 40 + lane * 8;
        u64::from_le_bytes(greeting.payload[at..at + 8].try_into().expect("eight bytes"))
    })
}

/// Comes back with this hello. Returns the server's welcome, if it gives one.
fn come_back(server: &Server, greeting: Greeting) -> Result<(Peer, Plain), Plain> {
    let mut peer = Peer::dial(&server.addresses()[0]);
    let greeting = Greeting { peer_session_id: OTHER_ID.get(), ..greeting };
    peer.write(&greeting.frame(HELLO).encode());
    match peer.try_frame() {
        Ok(frame) if frame.kind == WELCOME => {
            peer.received = greeting.last_received.map(|sequence| sequence as u32);
            peer.sent = last_received(&frame).map(|sequence| sequence as u32);
            Ok((peer, frame))
        }
        Ok(frame) => Err(frame),
        Err(_) => Err(Plain::new(0, CRITICAL, &[])),
    }
}

/// The plain peer plays the session's part by the book: what the format's tables say is enough.
#[test]
fn peer_that_speaks_the_documented_bytes_resumes() {
    isolated(|| {
        let server = server_with(settings_that_resume());
        let mut peer = connect(&server, greeting(1));
        let id = connected(&server);
        peer.send(reliable(b"one"));
        assert_eq!(server.receive(PATIENCE).expect("it comes").payload()[..], *b"one");
        for text in [&b"first"[..], b"second"] {
            server.send_to(id, Envelope::data().reliable(), text).expect("queued");
        }
        // That carries a confirmation of `one`, unless that was so slow to be sent that an
        // acknowledgement has come before.
        let mut first = peer.frame();
        let mut confirmed = first.acknowledged;
        if first.kind == ACKNOWLEDGEMENT {
            // By lane: low, normal.
            confirmed = u64::from_le_bytes(first.payload[8..16].try_into().expect("eight bytes"));
            first = peer.frame();
        }
        assert_eq!((first.kind, confirmed, &first.payload[..]), (DATA, 1, &b"first"[..]));
        drop(peer);
        let _ = events_of_server(&server, "LinkLost");

        let hello = Greeting {
            last_received: [0, 1, 0, 0],
            messages_received: [0, 1, 0, 0],
            ..greeting(1)
        };
        let (mut peer, welcome) = come_back(&server, hello).expect("it is known");
        assert_eq!(last_received(&welcome), [0, 1, 0, 0]);
        let second = peer.frame();
        assert_eq!((second.sequence, &second.payload[..]), (2, &b"second"[..]));
        peer.send(reliable(b"two"));
        assert_eq!(server.receive(PATIENCE).expect("it comes").payload()[..], *b"two");
        let events = events_of_server(&server, "Resumed");
        assert_eq!(events.last().expect("it says so").connection, id);
    });
}

/// A session of peer 1 that is away, with two messages that it has not confirmed.
fn server_with_a_session_away() -> (Server, ConnectionId) {
    let server = server_with(settings_that_resume());
    let peer = connect(&server, greeting(1));
    let id = connected(&server);
    drop(peer);
    let _ = events_of_server(&server, "LinkLost");
    for text in [&b"first"[..], b"second"] {
        server.send_to(id, Envelope::data().reliable(), text).expect("it is kept");
    }
    (server, id)
}

/// A hello that can not be true is refused, and changes nothing: the session waits for its peer.
fn check_impossible_hello(impossible: Greeting) {
    let (server, id) = server_with_a_session_away();
    assert!(come_back(&server, impossible).is_err(), "it can not be true");
    wait_for(&server, "it is turned away", |s| s.closed("protocol.acknowledgement") == 1);
    let events = events_of_server(&server, "Disconnected");
    assert_eq!(events.len(), 1, "of the stranger only: {events:?}");

    let (mut peer, _) = come_back(&server, greeting(1)).expect("the session is still there");
    for text in [&b"first"[..], b"second"] {
        assert_eq!(peer.frame().payload, text);
    }
    let events = events_of_server(&server, "Resumed");
    assert_eq!(events[0].connection, id);
}

#[test]
fn hello_that_confirms_what_was_never_sent_is_refused() {
    isolated(|| {
        check_impossible_hello(Greeting {
            last_received: [0, 1000, 0, 0],
            messages_received: [0, 1000, 0, 0],
            ..greeting(1)
        });
    });
}

#[test]
fn hello_with_more_messages_than_sequences_is_refused() {
    isolated(|| {
        check_impossible_hello(Greeting { messages_received: [0, 1, 0, 0], ..greeting(1) });
        check_impossible_hello(Greeting { messages_received: [u64::MAX; 4], ..greeting(1) });
        check_impossible_hello(Greeting {
            last_received: [u64::MAX; 4],
            messages_received: [u64::MAX; 4],
            ..greeting(1)
        });
    });
}

/// Also while the session has a link: that one goes on.
#[test]
fn impossible_hello_does_not_harm_a_living_link() {
    isolated(|| {
        let server = start(echo().config(valid(settings_that_resume())));
        let mut peer = connect(&server, greeting(1));
        assert_eq!(peer.ask(b"before"), b"before");
        let impossible = Greeting { last_received: [0, 1000, 0, 0], ..greeting(1) };
        assert!(come_back(&server, impossible).is_err());
        assert_eq!(peer.ask(b"after"), b"after");
    });
}

/// What a peer takes back that it has confirmed: an old hello, delivered late.
#[test]
fn hello_from_before_the_link_does_not_end_the_session() {
    isolated(|| {
        let server = server_with(settings_that_resume());
        let mut peer = connect(&server, greeting(1));
        let id = connected(&server);
        server.send_to(id, Envelope::data().reliable(), b"one").expect("queued");
        assert_eq!(peer.frame().payload, b"one");
        peer.acknowledge([0, 1, 0, 0]);
        peer.send(Plain::new(DATA, NORMAL, b"behind it"));
        let _ = server.receive(PATIENCE).expect("the confirmation came before");
        assert!(come_back(&server, greeting(1)).is_err(), "it takes a confirmation back");
        server.send_to(id, Envelope::data().reliable(), b"two").expect("the session lives");
        assert_eq!(peer.frame().payload, b"two");
    });
}

/// The hello of an attempt that its peer gave up long ago, delivered by the network behind the one
/// that succeeded: what it says is possible, and yet nobody is at its other end.
#[test]
fn hello_of_an_earlier_attempt_does_not_take_the_session() {
    isolated(|| {
        let server = start(echo().config(valid(settings_that_resume())));
        let at = |monotonic_ns| Greeting { monotonic_ns, ..greeting(1) };
        drop(connect(&server, at(10)));
        let _ = events_of_server(&server, "LinkLost");
        let (mut peer, _) = come_back(&server, at(30)).expect("it is known");
        let refused = come_back(&server, at(20)).map(drop).expect_err("it is of the past");
        assert_eq!(refused.kind, REJECT);
        assert_eq!(peer.ask(b"still here"), b"still here");
        assert_eq!(server.statistics().closed("superseded"), 0);
        let (mut peer, _) =
            come_back(&server, at(40)).map_err(|_| "refused").unwrap_or_else(|_| {
                // The old link may have had something in the kernel.
                come_back(&server, at(50)).expect("it is known")
            });
        peer.sent = [0, 1, 0, 0];
        assert_eq!(server.statistics().sessions_resumed, 2);
    });
}

/// A link that is reset between a request and its answer, which a spinning server sends at once:
/// what the socket refused is as if it had waited.
#[test]
fn answer_refused_by_a_reset_socket_comes_over_the_next_link() {
    isolated(|| {
        let both = Arc::new(Barrier::new(2));
        let here = Arc::clone(&both);
        let settings = settings_that_resume().idle(Idle::Spin);
        let server = silent().config(valid(settings)).on(Kind::Command, move |context, _| {
            // The request has come; the link is gone.
            here.wait();
            here.wait();
            context.reply(Envelope::status().reliable(), b"!").expect("room");
        });
        let server = start(server);
        let mut peer = connect(&server, greeting(1));
        let id = connected(&server);
        peer.send(Plain::new(COMMAND, NORMAL, b"?"));
        both.wait();
        peer.reset();
        both.wait();
        let _ = events_of_server(&server, "LinkLost");
        let (mut peer, _welcome) = come_back(&server, greeting(1)).expect("it is known");
        assert_eq!(peer.frame().payload, b"!");
        let events = events_of_server(&server, "Resumed");
        assert_eq!(events.last().expect("it says so").connection, id);
    });
}

/// A frame that breaks the rules of a session ends it, and the server says why and what is lost.
fn check_broken_rule(frame: Plain, expected: impl Fn(&ProtocolError) -> bool) {
    let server = server_with(settings_that_resume());
    let mut peer = connect(&server, greeting(1));
    let id = connected(&server);
    server.send_to(id, Envelope::data().reliable(), b"unconfirmed").expect("queued");
    assert_eq!(peer.frame().payload, b"unconfirmed");
    peer.write(&frame.encode());
    let events = events_of_server(&server, "Disconnected");
    let EventKind::SessionLost { undelivered, .. } = &events[0].kind else { panic!("{events:?}") };
    assert_eq!(undelivered.len(), 1, "{events:?}");
    let Some(Event { kind: EventKind::Disconnected { reason, established, .. }, .. }) =
        events.last()
    else {
        panic!("{events:?}")
    };
    let CloseReason::Protocol(error) = reason else { panic!("{reason}") };
    assert!(expected(error), "{error}");
    assert!(established);
    peer.expect_end();
    // Its peer is a stranger from now on.
    let (_peer, welcome) = come_back(&server, greeting(1)).expect("a new session");
    assert_eq!(last_received(&welcome), [0; 4]);
    assert_ne!(connected(&server), id);
}

#[test]
fn acknowledgement_of_what_was_never_sent_is_a_protocol_error() {
    isolated(|| {
        let is_it = |error: &ProtocolError| {
            matches!(error, ProtocolError::BadAcknowledgement { acknowledged: 2, sent: 1 })
        };
        let numbers: Vec<u8> =
            [0_u64, 2, 0, 0, 0].iter().flat_map(|lane| lane.to_le_bytes()).collect();
        check_broken_rule(Plain::new(ACKNOWLEDGEMENT, CRITICAL, &numbers).flags(CHECKSUM), is_it);
        let mut frame = reliable(b"it carries a confirmation").sequence(1);
        frame.acknowledged = 2;
        check_broken_rule(frame, is_it);
    });
}

#[test]
fn gap_that_leads_nowhere_is_a_protocol_error() {
    isolated(|| {
        let is_it = |error: &ProtocolError| matches!(error, ProtocolError::BadSequence { .. });
        let gap = |count, last| Plain {
            type_id: count,
            ..Plain::new(GAP, NORMAL, &[]).flags(CHECKSUM).sequence(last)
        };
        check_broken_rule(gap(0, 0), is_it);
        check_broken_rule(gap(3, 2), is_it);
        check_broken_rule(gap(u32::MAX, 0), is_it);
    });
}

/// A gap of the greatest length is valid; sequences go on behind it, over the 32 bits they have.
#[test]
fn gaps_may_be_as_long_as_their_number_says() {
    isolated(|| {
        let server = server_with(settings_that_resume());
        let mut peer = connect(&server, greeting(1));
        let mut last = 0_u32;
        for _ in 0..3 {
            last = last.wrapping_add(u32::MAX);
            let gap = Plain::new(GAP, NORMAL, &[]).flags(CHECKSUM).sequence(last);
            peer.write(&Plain { type_id: u32::MAX, ..gap }.encode());
        }
        last = last.wrapping_add(1);
        peer.write(&Plain::new(DATA, NORMAL, b"behind them").sequence(last).encode());
        let message = server.receive(PATIENCE).expect("it is the next");
        assert_eq!(message.payload()[..], *b"behind them");
    });
}

#[test]
fn stranger_with_a_name_nobody_knows_gets_a_new_session() {
    isolated(|| {
        let (server, id) = server_with_a_session_away();
        let guess = Greeting { last_received: [5; 4], messages_received: [3; 4], ..greeting(77) };
        let (mut peer, welcome) = come_back(&server, guess).expect("a new session");
        peer.received = [0; 4];
        assert_eq!(last_received(&welcome), [0; 4]);
        let stranger = connected(&server);
        assert_ne!(stranger, id);
        server.send_to(stranger, Envelope::data(), b"only this").expect("queued");
        assert_eq!(peer.frame().payload, b"only this");
        assert_eq!(server.statistics().sessions_resumed, 0);
    });
}

/// Peers that connect, leave, and never come back: their sessions are bounded in number and memory,
/// and there is room for others.
#[test]
fn sessions_of_peers_that_never_come_back_are_bounded() {
    isolated(|| {
        let server = server_with(settings_that_resume().connections_max(8));
        let name = |number: u32| {
            let mut greeting = greeting(0);
            greeting.session_id[..4].copy_from_slice(&number.to_le_bytes());
            greeting
        };
        let mut resident = 0;
        for number in 0..400_u32 {
            let mut peer = connect(&server, name(number));
            let id = connected(&server);
            let sent = server.send_to(id, Envelope::data().reliable(), &[7; 3000]);
            sent.expect("there is memory for one more");
            assert_eq!(peer.frame().kind, DATA);
            drop(peer);
            wait_for(&server, "it is gone", |s| s.connections_active == 0);
            if number == 100 {
                resident = resident_kib();
            }
        }
        let grown = resident_kib().saturating_sub(resident);
        assert!(grown < 4096, "{grown} KiB more");
        // As many at once as ever.
        let mut peers: Vec<_> = (1000..1008).map(|number| connect(&server, name(number))).collect();
        wait_for(&server, "all are in", |s| s.connections_active == 8);
        for peer in &mut peers {
            peer.send(Plain::new(DATA, NORMAL, b"served"));
            assert_eq!(server.receive(PATIENCE).expect("it comes").payload()[..], *b"served");
        }
        drop(peers);
        wait_until("their sockets are closed", || open_descriptors() < 40);
    });
}

/// The session of a peer that is away ends in time, and a late hello is that of a stranger.
#[test]
fn hello_behind_the_time_is_a_strangers() {
    isolated(|| {
        let server = server_with(settings_that_resume().session_linger_ms(50));
        drop(connect(&server, greeting(1)));
        let events = events_of_server(&server, "Disconnected");
        let (_peer, welcome) = come_back(&server, greeting(1)).expect("a new session");
        assert_eq!(last_received(&welcome), [0; 4]);
        assert_ne!(connected(&server), events[0].connection);
    });
}

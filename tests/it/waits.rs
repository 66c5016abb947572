//! Calls that wait: for room to send, and for a server that is not there yet.

use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringwire::{
    Client, Config, ConnectError, ConnectionId, ConnectionState, Envelope, EventKind, FlushError,
    Kind, Nanos, NodeHandle, SendError, Server,
};

use crate::util::{
    PATIENCE, Peer, client, client_and_peer, config, deaf_port, echo, endpoint, isolated, pattern,
    plain_listener, settings, start, timed, wait_until,
};

/// Longer than the calls below wait where they are to give up.
const SHORT: Duration = Duration::from_millis(30);

fn narrow() -> Config {
    let settings = settings().tcp_send_buffer_bytes(8 << 10).zero_copy_bytes_min(0);
    settings.build().expect("valid")
}

fn payload() -> Vec<u8> {
    pattern(50_000, 3)
}

/// A client whose lane is full, its peer, and how many messages are on their way.
fn crowded_client() -> (Client, Peer, usize) {
    let (mut client, peer) = client_and_peer(narrow());
    let queued = |client: &Client| client.connection().expect("connected").frames_queued;
    let (payload, mut sent) = (payload(), 0);
    loop {
        let before = queued(&client);
        match client.send(Envelope::data(), &payload) {
            Ok(()) => sent += 1,
            Err(error) => {
                assert_eq!(error, SendError::Full);
                client.poll();
                if queued(&client) == before {
                    return (client, peer, sent);
                }
            }
        }
    }
}

fn reads(mut peer: Peer, messages: usize) -> std::thread::JoinHandle<Peer> {
    std::thread::spawn(move || {
        for _ in 0..messages {
            assert!(peer.frame().payload == payload());
        }
        peer
    })
}

#[test]
fn client_waits_for_room() {
    isolated(|| {
        let (mut client, peer, sent) = crowded_client();
        let refused = client.statistics().sends_refused;
        let reading = reads(peer, sent + 1);
        assert_eq!(client.send_within(Envelope::data(), &payload(), PATIENCE), Ok(()));
        assert!(client.statistics().sends_refused > refused, "there was room at once");
        assert_eq!(client.flush_within(PATIENCE), Ok(()));
        drop(reading.join().expect("all arrive, in order"));
    });
}

#[test]
fn client_waits_for_room_no_longer_than_told() {
    isolated(|| {
        let (mut client, peer, sent) = crowded_client();
        let (outcome, took) = timed(|| client.send_within(Envelope::data(), &payload(), SHORT));
        assert_eq!(outcome, Err(SendError::Full));
        assert!(took >= SHORT && took < PATIENCE / 2, "{took:?}");
        let refused = client.statistics().sends_refused;
        let outcome = client.send_within(Envelope::data(), &payload(), Duration::ZERO);
        assert_eq!(outcome, Err(SendError::Full));
        assert_eq!(client.statistics().sends_refused, refused + 1, "it does not look again");
        // Neither was queued.
        let reading = reads(peer, sent);
        assert_eq!(client.flush_within(PATIENCE), Ok(()));
        client.send(Envelope::data(), b"next").expect("room");
        assert_eq!(client.flush_within(PATIENCE), Ok(()));
        let mut peer = reading.join().expect("all arrive");
        assert_eq!(peer.frame().payload, b"next");
    });
}

/// What was decided before the wait is not sent as if it had been decided after it.
#[test]
fn wait_for_room_is_part_of_the_time_to_live() {
    isolated(|| {
        let (mut client, _peer, _) = crowded_client();
        let message = Envelope::data().ttl(SHORT);
        let (outcome, took) = timed(|| client.send_within(message, &payload(), PATIENCE));
        assert_eq!(outcome, Err(SendError::Expired));
        assert!(took >= SHORT && took < PATIENCE / 2, "{took:?}");
    });
}

#[test]
fn wait_for_room_ends_with_the_session() {
    isolated(|| {
        let mut client = Client::new(narrow()).expect("a ring");
        let outcome = client.send_within(Envelope::data(), b"nowhere", PATIENCE);
        assert_eq!(outcome, Err(SendError::NotConnected));
        let (mut client, mut peer, _) = crowded_client();
        let ending = std::thread::spawn(move || {
            peer.frame();
            peer.reset();
        });
        let mut sends =
            std::iter::repeat_with(|| client.send_within(Envelope::data(), &payload(), PATIENCE));
        let (outcome, took) = timed(|| sends.find(Result::is_err));
        assert_eq!(outcome, Some(Err(SendError::NotConnected)));
        assert!(took < PATIENCE / 2, "{took:?}");
        ending.join().expect("no panic");
    });
}

/// A server that has sent a peer as much as there is room for.
fn crowded_server() -> (Server, Peer, ConnectionId, usize) {
    let server = start(Server::builder().config(narrow()).listen("127.0.0.1:0"));
    let peer = Peer::connect(&server);
    wait_until("it is connected", || server.clients().len() == 1);
    let id = server.clients()[0].id;
    let (payload, mut sent, mut refused) = (payload(), 0, 0);
    let deadline = Nanos::now() + PATIENCE;
    // Its reactor goes on sending by itself until the sockets are full. Each verdict is a turn of
    // it: so many in a row without room are no stop of its thread.
    while refused < 1_000 {
        assert!(Nanos::now() < deadline, "there is room without end");
        match server.send_to(id, Envelope::data(), &payload) {
            Ok(()) => (sent, refused) = (sent + 1, 0),
            Err(error) => {
                assert_eq!(error, SendError::Full);
                refused += 1;
            }
        }
    }
    (server, peer, id, sent)
}

#[test]
fn thread_waits_for_room_on_a_connection() {
    isolated(|| {
        let (server, peer, id, sent) = crowded_server();
        let (outcome, took) = timed(|| server.send_within(id, Envelope::data(), &payload(), SHORT));
        assert_eq!(outcome, Err(SendError::Full));
        assert!(took >= SHORT && took < PATIENCE / 2, "{took:?}");
        let expiring = Envelope::data().ttl(SHORT);
        let (outcome, took) = timed(|| server.send_within(id, expiring, &payload(), PATIENCE));
        assert_eq!(outcome, Err(SendError::Expired));
        assert!(took < PATIENCE / 2, "{took:?}");
        let refused = server.statistics().sends_refused;
        let waiting = std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| server.send_within(id, Envelope::data(), &payload(), PATIENCE));
            wait_until("it waits", || server.statistics().sends_refused > refused);
            let peer = reads(peer, sent + 1).join().expect("all arrive, in order");
            assert_eq!(waiting.join().expect("no panic"), Ok(()));
            peer
        });
        drop(waiting);
        let outcome = server.send_within(id, Envelope::data(), b"nobody", PATIENCE);
        assert!(matches!(outcome, Ok(()) | Err(SendError::NotConnected)), "{outcome:?}");
    });
}

#[test]
fn handler_does_not_wait_for_its_own_node() {
    isolated(|| {
        let handle: Arc<OnceLock<NodeHandle>> = Arc::default();
        let of_handler = Arc::clone(&handle);
        let server = start(Server::builder().config(config()).listen("127.0.0.1:0").on(
            Kind::Command,
            move |context, _| {
                let handle = of_handler.get().expect("set before the client came");
                let id = context.connection();
                let sent = handle.send_within(id, Envelope::data(), b"x", PATIENCE);
                assert_eq!(sent, Err(SendError::InHandler));
                assert_eq!(handle.flush_within(id, PATIENCE), Err(FlushError::InHandler));
                context.reply(Envelope::status(), b"refused").expect("room");
            },
        ));
        handle.set(server.handle()).expect("once");
        let mut client = client(&endpoint(&server));
        let answer = client.request(Envelope::command(), b"wait", PATIENCE).expect("an answer");
        assert_eq!(answer.payload()[..], *b"refused");
        assert_eq!(server.statistics().handler_panics, 0);
    });
}

#[test]
fn client_waits_for_a_server_that_comes_later() {
    isolated(|| {
        let settings = settings().reconnect_delay_ms(1).reconnect_delay_max_ms(5);
        let mut client = Client::new(settings.build().expect("valid")).expect("a ring");
        let (socket, endpoint) = deaf_port();
        let counters = client.reactor().counters();
        let coming = std::thread::spawn(move || {
            let attempts = || counters.closes.iter().map(|closes| closes.get()).sum::<u64>();
            wait_until("some attempts have failed", || attempts() >= 3);
            socket.listen(1).expect("the port is ours");
            let listener = TcpListener::from(socket);
            Peer::accept(&listener)
        });
        client.connect_within(&endpoint, PATIENCE).expect("it comes");
        drop(coming.join().expect("the handshake completes"));
        let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
        let begun = events.iter().filter(|event| matches!(event.kind, EventKind::Connecting));
        assert!(begun.count() > 3, "{events:?}");
    });
}

#[test]
fn client_waits_for_a_server_no_longer_than_told() {
    isolated(|| {
        let mut client = Client::new(config()).expect("a ring");
        let check = |client: &mut Client, endpoint: &str| {
            let (outcome, took) = timed(|| client.connect_within(endpoint, SHORT));
            assert!(took < Duration::from_secs(1), "{took:?}");
            assert_eq!(client.connection_state(), ConnectionState::Disconnected);
            (outcome.expect_err("there is no server"), took)
        };
        let (_socket, deaf) = deaf_port();
        let (error, _) = check(&mut client, &deaf);
        assert!(matches!(error, ConnectError::Connect { .. }), "{error}");
        // Whoever listens there never answers: one attempt, which is given up. As often as one
        // likes: more often than the client has places for connections.
        let (_listener, silent) = plain_listener();
        for _ in 0..10 {
            let (error, took) = check(&mut client, &silent);
            let is_it = matches!(error, ConnectError::Timeout { timeout, .. } if timeout == SHORT);
            assert!(is_it, "{error}");
            assert!(took >= SHORT, "{took:?}");
        }
        let server = start(echo());
        client.connect_within(&endpoint(&server), PATIENCE).expect("it is there");
        assert_eq!(client.connection_state(), ConnectionState::Connected);
    });
}

/// Two nodes whose payload types differ do so in a second's time, too.
#[test]
fn client_does_not_wait_for_a_server_that_will_never_have_it() {
    isolated(|| {
        let server = start(echo().config(settings().schema_hash(1).build().expect("valid")));
        let config = settings().schema_hash(2).build().expect("valid");
        let mut client = Client::new(config).expect("a ring");
        let (outcome, took) = timed(|| client.connect_within(&endpoint(&server), PATIENCE));
        let error = outcome.expect_err("the schemas differ");
        assert!(matches!(error, ConnectError::Rejected { .. }), "{error}");
        assert!(took < PATIENCE / 2, "{took:?}");
    });
}

#[test]
fn connected_client_does_not_connect() {
    isolated(|| {
        let server = start(echo());
        let mut client = client(&endpoint(&server));
        let id = client.id();
        let is_refused = |outcome: Result<(), ConnectError>| {
            assert!(matches!(outcome, Err(ConnectError::AlreadyConnected)), "{outcome:?}");
        };
        is_refused(client.connect(&endpoint(&server)));
        is_refused(client.connect_within(&endpoint(&server), PATIENCE));
        assert_eq!(client.id(), id);
        let answer = client.request(Envelope::command(), b"still there?", PATIENCE);
        assert_eq!(answer.expect("an answer").payload()[..], *b"still there?");
    });
}

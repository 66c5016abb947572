//! A client's link: flushing it, losing it, and why it was lost.

use std::time::Duration;

use ringwire::{
    Client, CloseReason, Config, ConnectError, ConnectionState, Envelope, FlushError, Idle, Nanos,
    ReceiveError, SendError, Server, Transport,
};

use crate::util::{
    CHECKSUM, CRITICAL, DATA, GOODBYE, Greeting, HELLO, NORMAL, PATIENCE, Peer, Plain, REQUEST,
    RESPONSE, STATUS, Stream, WELCOME, client, client_and_peer, config, deaf_port, echo, endpoint,
    isolated, pattern, plain_listener, settings, start, timed, wait_until,
};

#[test]
fn flushed_message_leaves_without_another_call() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let transport: &mut dyn Transport = &mut client;
        for number in 0..20_u8 {
            transport.send(Envelope::data(), &[number]).expect("room");
            transport.flush(PATIENCE).expect("connected");
            assert_eq!(peer.frame().payload, [number]);
        }
        assert_eq!(client.connection().expect("connected").frames_queued, 0);
    });
}

/// Greeted, told something and left within one turn: it was connected, and has what it was told.
#[test]
fn session_that_is_over_with_its_first_words_was_connected() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let serving = std::thread::spawn(move || {
            let mut peer = Peer::new(Stream::Tcp(listener.accept().expect("a client").0));
            assert_eq!(peer.frame().kind, HELLO);
            let words = peer.stamp(Plain::new(DATA, NORMAL, b"last words"));
            let goodbye = Plain::new(GOODBYE, CRITICAL, &[0; 8]).flags(CHECKSUM);
            let frames = [Greeting::default().frame(WELCOME), words, goodbye];
            peer.write(&frames.map(|frame| frame.encode()).concat());
            peer.expect_end();
        });
        let mut client = Client::new(config()).expect("a ring");
        client.connect(&endpoint).expect("it was connected");
        let message = client.receive(PATIENCE).expect("said before the goodbye");
        assert_eq!(message.payload()[..], *b"last words");
        let nothing = client.receive(PATIENCE).expect_err("it is over");
        assert!(matches!(nothing, ReceiveError::NotConnected), "{nothing}");
        assert_eq!(client.disconnected_reason(), Some(CloseReason::Goodbye));
        serving.join().expect("no panic");
    });
}

/// A port that answers nothing: the queue of those that wait to be accepted is full, so that the
/// kernel drops what comes (listen(2)).
fn black_hole() -> (socket2::Socket, Vec<std::net::TcpStream>, String) {
    let (socket, endpoint) = deaf_port();
    socket.listen(0).expect("a port");
    let address = endpoint.parse().expect("an address");
    let mut waiting = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100))
    {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue never fills");
    }
    (socket, waiting, endpoint)
}

#[test]
fn connecting_takes_no_longer_than_it_may() {
    isolated(|| {
        let (_socket, _waiting, endpoint) = black_hole();
        let timeout = Duration::from_millis(80);
        for idle in [Idle::Park, Idle::Spin] {
            let config = settings().connect_timeout_ms(80).idle(idle).heartbeat_interval_ms(0);
            let config = config.registry(false).build().expect("valid");
            let mut client = Client::new(config).expect("a ring");
            let (outcome, took) = timed(|| client.connect(&endpoint));
            let error = outcome.expect_err("nobody answers");
            assert!(
                matches!(&error, ConnectError::Timeout { timeout: it, .. } if *it == timeout),
                "{error}"
            );
            assert!(took >= timeout && took < PATIENCE, "{took:?}");
        }
    });
}

/// Rust ignores SIGPIPE where it has `main`; who embeds this may not. io_uring raises it never, so
/// this is about sends past the ring.
#[test]
fn write_to_a_peer_that_is_gone_raises_no_signal() {
    isolated(|| {
        // SAFETY: sets a disposition; no handler runs.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let config = settings().idle(Idle::Spin).reconnect(false).build().expect("valid");
        let (mut client, peer) = client_and_peer(config);
        drop(peer);
        // The first is answered with a reset, after which the socket says EPIPE (tcp(7)); nothing
        // is read meanwhile, which would tell of the end.
        let deadline = Nanos::now() + PATIENCE;
        let sends = client.statistics().direct_sends;
        while client.connection().is_some_and(|info| info.frames_queued == 0) {
            client.send(Envelope::data(), &[0; 1000]).expect("room");
            client.flush();
            assert!(Nanos::now() < deadline, "it is never noticed");
        }
        assert!(client.statistics().direct_sends > sends, "none went past the ring");
        while client.disconnected_reason().is_none() {
            client.poll();
            assert!(Nanos::now() < deadline, "it is never noticed");
        }
    });
}

fn narrow() -> Config {
    let settings = settings().tcp_send_buffer_bytes(8 << 10).zero_copy_bytes_min(0);
    settings.build().expect("valid")
}

/// Queues until the sockets between client and peer, and the lane, are full.
fn queue_much(client: &mut Client) -> usize {
    let payload = pattern(50_000, 3);
    let queued = |client: &Client| client.connection().expect("connected").frames_queued;
    let mut sent = 0;
    loop {
        let before = queued(client);
        match client.send(Envelope::data(), &payload) {
            Ok(()) => sent += 1,
            Err(error) => {
                assert_eq!(error, SendError::Full);
                client.poll();
                if queued(client) == before {
                    return sent;
                }
            }
        }
    }
}

#[test]
fn flush_waits_for_a_slow_reader_and_no_longer_than_told() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(narrow());
        let messages = queue_much(&mut client);
        let timeout = Duration::from_millis(30);
        let (outcome, took) = timed(|| client.flush_within(timeout));
        assert_eq!(outcome, Err(FlushError::Timeout { timeout }));
        assert!(took >= timeout, "{took:?}");
        assert!(took < PATIENCE / 2, "{took:?}");
        let queued = client.connection().expect("it lives on").frames_queued;
        assert!(queued > 0, "the sockets hold everything");
        let reading = std::thread::spawn(move || {
            for _ in 0..messages {
                assert!(peer.frame().payload == pattern(50_000, 3));
            }
            peer
        });
        assert_eq!(client.flush_within(PATIENCE), Ok(()));
        assert_eq!(client.connection().expect("connected").frames_queued, 0);
        drop(reading.join().expect("all arrives, in order"));
    });
}

/// Whoever works through a full inbox with `receive` alone is neither silent nor full meanwhile.
#[test]
fn answers_leave_while_messages_wait_to_be_received() {
    isolated(|| {
        let count = 1000;
        let settings = settings().lane_bytes_max(64 << 10);
        let (mut client, mut peer) = client_and_peer(settings.build().expect("valid"));
        for number in 0..count {
            peer.send(Plain::new(DATA, NORMAL, b"?").correlated(REQUEST, number + 1));
        }
        wait_until("all wait in the inbox", || {
            client.poll();
            client.statistics().messages_received == count
        });
        let reading = std::thread::spawn(move || {
            for number in 0..count {
                assert_eq!(peer.frame().correlation, number + 1);
            }
            peer
        });
        for _ in 0..count {
            let request = client.receive(Duration::ZERO).expect("it waits");
            assert_eq!(client.reply(&request, Envelope::status(), &[7; 1024]), Ok(()));
        }
        client.flush_within(PATIENCE).expect("connected");
        drop(reading.join().expect("all arrive"));
    });
}

#[test]
fn receive_turns_now_and_then_while_messages_wait() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        for _ in 0..3 {
            peer.send(Plain::new(DATA, NORMAL, b"one of many"));
        }
        wait_until("all wait in the inbox", || {
            client.poll();
            client.statistics().messages_received == 3
        });
        let turns = |client: &Client| client.statistics().turns;
        let before = turns(&client);
        let polled = Nanos::now();
        wait_until("the first is handled", || {
            Nanos::now().since(polled) > Duration::from_millis(2)
        });
        client.receive(PATIENCE).expect("it waits");
        assert_eq!(turns(&client), before + 1);
    });
}

/// An id means nobody to another client, however alike the two are.
#[test]
fn ids_of_one_client_are_unknown_to_another() {
    isolated(|| {
        let (mut one, mut peer_of_one) = client_and_peer(config());
        let (mut other, mut peer_of_other) = client_and_peer(config());
        let id = |client: &Client| client.connection().expect("connected").id;
        let (id_of_one, id_of_other) = (id(&one), id(&other));
        assert_ne!(id_of_one, id_of_other);
        let refused = other.reactor().send(id_of_one, Envelope::data(), b"astray");
        assert_eq!(refused, Err(SendError::NotConnected));
        assert!(other.reactor().connection(id_of_one).is_none());

        peer_of_one.send(Plain::new(DATA, NORMAL, b"ask").correlated(REQUEST, 7));
        let request = one.receive(PATIENCE).expect("a request");
        let refused = other.reply(&request, Envelope::status(), b"astray");
        assert_eq!(refused, Err(SendError::NotConnected));

        let ask = |client: &mut Client| {
            let begun = client.start_request(Envelope::command(), b"ask", PATIENCE);
            client.flush();
            begun.expect("room")
        };
        let (of_one, of_other) = (ask(&mut one), ask(&mut other));
        assert_ne!(of_one, of_other);
        other.cancel_request(of_one);
        let asked = peer_of_other.frame();
        peer_of_other
            .send(Plain::new(STATUS, NORMAL, b"!").correlated(RESPONSE, asked.correlation));
        wait_until("it is answered", || {
            other.poll();
            assert!(other.take_response(of_one).is_none(), "it is not its own");
            other.take_response(of_other).is_some_and(|outcome| outcome.is_ok())
        });
        let (node, id) = (Server::builder().config(config()).listen("127.0.0.1:0"), id_of_one);
        let node = start(node);
        let posted = node.post_to(id, Envelope::data(), b"astray");
        assert_eq!(posted, Err(SendError::NotConnected));
    });
}

#[test]
fn flush_ends_when_the_link_is_lost() {
    isolated(|| {
        let mut client = Client::new(narrow()).expect("a ring");
        assert_eq!(client.flush_within(PATIENCE), Err(FlushError::NotConnected));
        let (mut client, mut peer) = client_and_peer(narrow());
        queue_much(&mut client);
        let reading = std::thread::spawn(move || {
            peer.frame();
            peer.reset();
        });
        let (outcome, took) = timed(|| client.flush_within(PATIENCE));
        assert_eq!(outcome, Err(FlushError::NotConnected));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert!(client.statistics().messages_dropped > 0);
        let reason = client.disconnected_reason().expect("it is lost");
        let closed = [CloseReason::PeerClosed, CloseReason::Socket { errno: libc::ECONNRESET }];
        assert!(closed.contains(&reason), "{reason}");
        reading.join().expect("no panic");
    });
}

#[test]
fn run_ends_early_when_the_link_is_lost() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let while_well = Duration::from_millis(20);
        let (outcome, took) = timed(|| client.run_for(while_well));
        assert_eq!(outcome, Ok(()));
        assert!(took >= while_well, "{took:?}");
        peer.send(Plain::new(DATA, NORMAL, b"last"));
        drop(peer);
        let (outcome, took) = timed(|| client.run_for(PATIENCE));
        assert_eq!(outcome, Err(ReceiveError::NotConnected));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!(client.disconnected_reason(), Some(CloseReason::PeerClosed));
        let message = client.receive(Duration::ZERO).expect("what came before is kept");
        assert_eq!(message.payload()[..], *b"last");
        // Without a link there is nothing to run.
        assert_eq!(timed(|| client.run_for(PATIENCE)).0, Err(ReceiveError::NotConnected));
        let mut unconnected = Client::new(config()).expect("a ring");
        assert_eq!(unconnected.run_for(PATIENCE), Err(ReceiveError::NotConnected));
        assert_eq!(unconnected.disconnected_reason(), None);
    });
}

/// The reason stays until the next session; failed attempts and events fetched do not change it.
#[test]
fn reason_of_the_last_end_can_be_asked() {
    isolated(|| {
        let server = start(echo());
        let mut client = client(&endpoint(&server));
        assert_eq!(client.disconnected_reason(), None);
        assert_eq!(client.disconnect(PATIENCE).flushed, 1);
        assert_eq!(client.disconnected_reason(), Some(CloseReason::Local));
        let sent = client.send(Envelope::data(), b"x");
        assert_eq!(sent, Err(SendError::NotConnected));

        let (listener, taken) = plain_listener();
        let accepting = std::thread::spawn(move || Peer::accept(&listener));
        client.connect(&taken).expect("it listens");
        let mut peer = accepting.join().expect("the handshake completes");
        assert_eq!(client.disconnected_reason(), None);
        peer.write(&[0xee; 64]);
        assert_eq!(client.run_for(PATIENCE), Err(ReceiveError::NotConnected));
        while client.poll_event().is_some() {}
        let is_protocol = |client: &Client| {
            let reason = client.disconnected_reason();
            assert!(matches!(reason, Some(CloseReason::Protocol(_))), "{reason:?}");
        };
        is_protocol(&client);
        assert_eq!(client.send(Envelope::data(), b"x"), Err(SendError::NotConnected));
        let (_keeper, deaf) = deaf_port();
        for _ in 0..10 {
            client.connect(&deaf).expect_err("nobody listens");
            is_protocol(&client);
        }
        client.connect(&endpoint(&server)).expect("it listens");
        assert_eq!(client.disconnected_reason(), None);
        assert_eq!(client.connection_state(), ConnectionState::Connected);
        let _ = server.shutdown(Duration::ZERO);
        assert_eq!(client.run_for(PATIENCE), Err(ReceiveError::NotConnected));
        assert!(client.disconnected_reason().is_some());
    });
}

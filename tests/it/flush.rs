//! What `flush_within` says when what it waits for is lost.

use ringwire::error::FlushError;
use ringwire::{
    Choice, ConfigBuilder, ConnectionState, Envelope, Pool, PoolConfig, SendError, Server,
};

use crate::bed::valid;
use crate::util::{
    DATA, Greeting, HELLO, NORMAL, PATIENCE, Peer, Plain, Stream, client_and_peer, client_with,
    isolated, plain_listener, settings, start, timed, wait_for, wait_until,
};

/// One message of a peer fills the inbox: behind it the connection pauses.
fn tiny_inbox() -> ConfigBuilder {
    settings().inbox_frames_max(1)
}

/// More messages than that inbox holds.
fn send_three(peer: &mut Peer) {
    for _ in 0..3 {
        peer.send(Plain::new(DATA, NORMAL, b"telemetry"));
    }
}

/// The peer goes and nobody receives: what it sent waits, and the session is over all the same.
#[test]
fn node_knows_that_a_peer_that_is_not_read_out_confirms_nothing() {
    isolated(|| {
        let server = Server::builder().config(valid(tiny_inbox())).listen("127.0.0.1:0");
        let server = start(server);
        let mut peer = Peer::connect(&server);
        send_three(&mut peer);
        wait_for(&server, "it is held back", |s| s.receive_pauses > 0);
        let (node, id) = (server.handle(), server.clients()[0].id);
        server.post_to(id, Envelope::data().reliable(), b"to be confirmed").expect("room");
        assert_eq!(peer.frame().payload, b"to be confirmed");
        std::thread::scope(|scope| {
            let flushing = scope.spawn(|| timed(|| node.flush_within(id, PATIENCE)));
            drop(peer);
            let (outcome, took) = flushing.join().expect("no panic");
            assert_eq!(outcome, Err(FlushError::NotConnected));
            assert!(took < PATIENCE / 2, "{took:?}");
        });
        // And who asks only now.
        wait_for(&server, "it is gone", |s| s.connections_active == 0);
        assert_eq!(node.flush_within(id, PATIENCE), Err(FlushError::NotConnected));
        assert_eq!(server.receive(PATIENCE).expect("it waits").payload()[..], *b"telemetry");
    });
}

#[test]
fn client_knows_that_a_server_that_is_not_read_out_confirms_nothing() {
    isolated(|| {
        for is_gone_before in [false, true] {
            let (mut client, mut peer) = client_and_peer(valid(tiny_inbox()));
            send_three(&mut peer);
            wait_until("it is held back", || {
                client.poll();
                client.statistics().receive_pauses > 0
            });
            client.send(Envelope::data().reliable(), b"to be confirmed").expect("room");
            client.flush();
            assert_eq!(peer.frame().payload, b"to be confirmed");
            drop(peer);
            if is_gone_before {
                wait_until("the client knows", || {
                    client.poll();
                    client.connection_state() == ConnectionState::Closing
                });
            }
            let (outcome, took) = timed(|| client.flush_within(PATIENCE));
            assert_eq!(outcome, Err(FlushError::NotConnected), "before: {is_gone_before}");
            assert!(took < PATIENCE / 2, "{took:?}");
            assert_eq!(client.receive(PATIENCE).expect("it waits").payload()[..], *b"telemetry");
        }
    });
}

#[test]
fn pool_knows_that_a_member_that_is_not_read_out_confirms_nothing() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let accepting = std::thread::spawn(move || Peer::accept(&listener));
        let plan = PoolConfig::builder(&endpoint).build().expect("valid");
        let mut pool = Pool::new(valid(tiny_inbox()), plan).expect("a ring");
        pool.connect().expect("room");
        pool.wait_ready(PATIENCE).expect("the peer listens");
        let mut peer = accepting.join().expect("the handshake completes");
        send_three(&mut peer);
        wait_until("it is held back", || {
            pool.poll();
            pool.reactor().statistics().receive_pauses > 0
        });
        let envelope = Envelope::data().reliable();
        pool.send(Choice::LeastQueued, envelope, b"to be confirmed").expect("room");
        pool.flush();
        assert_eq!(peer.frame().payload, b"to be confirmed");
        drop(peer);
        let (outcome, took) = timed(|| pool.flush_within(PATIENCE));
        assert_eq!(outcome, Err(FlushError::NotConnected));
        assert!(took < PATIENCE / 2, "{took:?}");
    });
}

/// Small kernel buffers, and sessions that outlive their links.
fn narrow_that_resumes() -> ConfigBuilder {
    settings().reconnect(true).lane_bytes_max(256 << 10).tcp_send_buffer_bytes(32 << 10)
}

fn that_resumes() -> Greeting {
    Greeting { features: 1, ..Greeting::default() }
}

/// What is not reliable and waits goes with the link, though the session lives on.
#[test]
fn client_knows_that_what_the_kernel_had_not_taken_is_lost() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let accepting = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut peer = Peer::new(Stream::Tcp(stream));
            peer.welcome(that_resumes());
            peer
        });
        let mut client = client_with(valid(narrow_that_resumes()), &endpoint);
        let mut peer = accepting.join().expect("the handshake completes");
        let refused = (0..1000).find_map(|_| client.send(Envelope::data(), &[7; 4000]).err());
        assert_eq!(refused, Some(SendError::Full));
        let reading = std::thread::spawn(move || {
            peer.frame();
            peer.reset();
        });
        let (outcome, took) = timed(|| client.flush_within(PATIENCE));
        assert_eq!(outcome, Err(FlushError::NotConnected));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!(client.connection_state(), ConnectionState::Reconnecting);
        reading.join().expect("no panic");
    });
}

#[test]
fn node_knows_that_what_the_kernel_had_not_taken_is_lost() {
    isolated(|| {
        let config = valid(narrow_that_resumes());
        let server = start(Server::builder().config(config).listen("127.0.0.1:0"));
        let mut peer = Peer::dial(&server.addresses()[0]);
        peer.write(&that_resumes().frame(HELLO).encode());
        peer.frame();
        wait_for(&server, "it is connected", |s| s.connections_active == 1);
        let (node, id) = (server.handle(), server.clients()[0].id);
        let send = || server.send_to(id, Envelope::data(), &[7; 4000]);
        assert_eq!((0..10_000).find_map(|_| send().err()), Some(SendError::Full));
        let commands = || node.counters()[0].commands.get();
        let before = commands();
        std::thread::scope(|scope| {
            let flushing = scope.spawn(|| timed(|| node.flush_within(id, PATIENCE)));
            wait_until("it is waited for", || commands() > before);
            peer.frame();
            peer.reset();
            let (outcome, took) = flushing.join().expect("no panic");
            assert_eq!(outcome, Err(FlushError::NotConnected));
            assert!(took < PATIENCE / 2, "{took:?}");
        });
    });
}

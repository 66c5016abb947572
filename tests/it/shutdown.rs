//! The end is bounded in time, says goodbye, and says what was not delivered.

use std::time::Duration;

use ringwire::{
    Client, ConnectionState, Envelope, Node, ReceiveError, SendError, Server, Transport,
};

use crate::util::{
    CHECKSUM, CRITICAL, DATA, GOODBYE, NORMAL, PATIENCE, Peer, Plain, client, client_and_peer,
    config, echo, endpoint, isolated, pattern, settings, start, timed, wait_for,
};

/// A peer that reads to the goodbye and closes. Returns how many messages came before it.
fn read_to_goodbye(mut peer: Peer, code: u16) -> usize {
    let mut messages = 0;
    loop {
        let frame = peer.frame();
        if frame.kind == GOODBYE {
            assert_eq!(frame.payload[..2], code.to_le_bytes());
            return messages;
        }
        messages += 1;
    }
}

#[test]
fn server_flushes_and_says_goodbye() {
    isolated(|| {
        let server = start(echo());
        let peers: Vec<_> = (0..5).map(|_| Peer::connect(&server)).collect();
        for _ in 0..20 {
            let report = server.broadcast(Envelope::data(), &pattern(20_000, 1)).expect("it runs");
            assert_eq!(report.queued(), 5);
        }
        let reading: Vec<_> = peers
            .into_iter()
            .map(|peer| std::thread::spawn(move || read_to_goodbye(peer, 2)))
            .collect();
        let handle = server.handle();
        let (report, took) = timed(|| server.shutdown(PATIENCE));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (5, 5, 0));
        for peer in reading {
            assert_eq!(peer.join().expect("no panic"), 20);
        }
        assert_eq!(handle.statistics().connections_active, 0);
        assert_eq!(handle.broadcast(Envelope::data(), b"x").map(drop), Err(SendError::ShutDown));
    });
}

/// Both say goodbye, and each may hear the other's before its own end: in order all the same.
#[test]
fn peer_that_says_goodbye_during_the_shutdown_was_flushed() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        for number in 0..3_u8 {
            server.broadcast(Envelope::data(), &[number]).map(drop).expect("it runs");
        }
        for number in 0..3_u8 {
            assert_eq!(peer.frame().payload, [number]);
        }
        let goodbye = std::thread::spawn(move || {
            assert_eq!(peer.frame().kind, GOODBYE);
            peer.write(
                &Plain::new(GOODBYE, CRITICAL, &[2, 0, 0, 0, 0, 0, 0, 0]).flags(CHECKSUM).encode(),
            );
            peer.expect_end();
        });
        let handle = server.handle();
        let report = server.shutdown(PATIENCE);
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (1, 1, 0));
        assert_eq!(handle.statistics().closed("goodbye"), 1, "it heard the peer's");
        goodbye.join().expect("no panic");
    });
}

#[test]
fn two_nodes_that_shut_down_at_once_are_both_flushed() {
    isolated(|| {
        for _ in 0..20 {
            let server = start(echo());
            let node = Node::builder().config(config()).start().expect("a ring");
            node.connect(&endpoint(&server), 0).expect("it listens");
            let other = std::thread::spawn(move || node.shutdown(PATIENCE));
            let here = server.shutdown(PATIENCE);
            let there = other.join().expect("no panic");
            for report in [here, there] {
                assert_eq!((report.flushed, report.messages_dropped), (report.connections, 0));
            }
        }
    });
}

/// A peer that never reads: the shutdown returns in time and reports the loss.
fn check_never_reads(bytes: usize, count: usize, zero_copy: bool) {
    let settings = settings().zero_copy_bytes_min(if zero_copy { 16 << 10 } else { 0 });
    let settings = settings.tcp_send_buffer_bytes(64 << 10).lane_bytes_max(16 << 20);
    let server = start(echo().config(settings.build().expect("valid")));
    let stalled = Peer::dial_narrow(&server.addresses()[0]);
    let well = Peer::connect(&server);
    for _ in 0..count {
        let id = server.clients().iter().map(|client| client.id).min().expect("the first");
        server.send_to(id, Envelope::data(), &pattern(bytes, 1)).expect("room");
    }
    let reading = std::thread::spawn(move || read_to_goodbye(well, 2));
    // The one that reads has this long to close in its turn.
    let deadline = Duration::from_secs(4);
    let (report, took) = timed(|| server.shutdown(deadline));
    assert!(took >= deadline, "it tried: {took:?}");
    assert!(took < PATIENCE, "{took:?}");
    assert_eq!((report.connections, report.flushed), (2, 1));
    assert!(report.messages_dropped > 0, "{report:?}");
    assert!(report.messages_dropped <= count as u64, "{report:?}");
    assert_eq!(reading.join().expect("no panic"), 0);
    drop(stalled);
}

/// Small frames, large ones, and large ones that the kernel sends from the buffers themselves: side
/// by side, because each takes the whole time.
#[test]
fn peers_that_never_read_are_given_up_in_time() {
    isolated(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| check_never_reads(10_000, 300, false));
            scope.spawn(|| check_never_reads(3 << 20, 3, false));
            scope.spawn(|| check_never_reads(3 << 20, 3, true));
        });
    });
}

#[test]
fn peer_that_never_closes_is_given_up_in_time() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        let (report, took) = timed(|| server.shutdown(Duration::from_millis(200)));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.messages_dropped), (1, 0));
        assert_eq!(peer.frame().kind, GOODBYE);
        peer.expect_end();
    });
}

#[test]
fn client_disconnect_flushes_and_reports() {
    isolated(|| {
        let (mut client, peer) = client_and_peer(config());
        for _ in 0..100 {
            client.send(Envelope::data(), &pattern(5000, 1)).expect("room");
        }
        let reading = std::thread::spawn(move || read_to_goodbye(peer, 1));
        let report = client.disconnect(PATIENCE);
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (1, 1, 0));
        assert_eq!(reading.join().expect("no panic"), 100);
        assert_eq!(client.connection_state(), ConnectionState::Disconnected);
        assert_eq!(client.send(Envelope::data(), b"x"), Err(SendError::NotConnected));
        let error = client.receive(Duration::ZERO).expect_err("no link");
        assert_eq!(error, ReceiveError::NotConnected);
        // A second time there is nothing to end.
        assert_eq!(client.disconnect(PATIENCE).connections, 0);
    });
}

#[test]
fn client_disconnect_reports_what_was_dropped() {
    isolated(|| {
        let settings = settings().tcp_send_buffer_bytes(64 << 10);
        let (mut client, peer) = client_and_peer(settings.build().expect("valid"));
        let mut admitted: u64 = 0;
        while client.send(Envelope::data(), &pattern(10_000, 1)).is_ok() {
            admitted += 1;
            client.poll();
        }
        let (report, took) = timed(|| client.disconnect(Duration::from_millis(200)));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.flushed), (1, 0));
        assert!((1..=admitted).contains(&report.messages_dropped), "{report:?} of {admitted}");
        assert_eq!(client.statistics().closed("drain_timeout"), 1);
        drop(peer);
    });
}

#[test]
fn goodbye_of_the_peer_ends_the_session_in_order() {
    isolated(|| {
        let server = start(echo());
        let mut peer = Peer::connect(&server);
        peer.send(Plain::new(DATA, NORMAL, b"last words"));
        peer.write(&Plain::new(GOODBYE, 4, &[1, 0, 0, 0, 0, 0, 0, 0]).flags(16).encode());
        peer.expect_end();
        assert_eq!(server.receive(PATIENCE).expect("one").payload()[..], *b"last words");
        wait_for(&server, "it is counted", |s| s.closed("goodbye") == 1);
        assert_eq!(server.statistics().errors(), 0);
    });
}

#[test]
fn both_ends_may_leave_at_once() {
    isolated(|| {
        for _ in 0..20 {
            let server = start(echo());
            let mut clients: Vec<Client> = (0..3).map(|_| client(&endpoint(&server))).collect();
            let ending = std::thread::spawn(move || timed(|| server.shutdown(PATIENCE)));
            for client in &mut clients {
                let (_, took) = timed(|| client.disconnect(PATIENCE));
                assert!(took < PATIENCE / 2, "{took:?}");
            }
            let (_, took) = ending.join().expect("no panic");
            assert!(took < PATIENCE / 2, "{took:?}");
        }
    });
}

#[test]
fn port_is_free_again_after_shutdown() {
    isolated(|| {
        let server = start(echo());
        let taken = endpoint(&server);
        let mut client = client(&taken);
        client.request(Envelope::command(), b"x", PATIENCE).expect("an answer");
        let ending = std::thread::spawn(move || server.shutdown(PATIENCE));
        let lost = client.receive(PATIENCE).expect_err("no messages");
        assert_eq!(lost, ReceiveError::NotConnected);
        assert_eq!(client.statistics().closed("goodbye"), 1);
        assert_eq!(ending.join().expect("no panic").flushed, 1);
        let again = Server::builder().config(config()).listen(taken).start();
        drop(again.expect("the port is free"));
    });
}

/// Confirmed, so that its sender will not send it again: whoever disconnects can still take it.
#[test]
fn message_that_nobody_took_outlives_the_disconnect() {
    isolated(|| {
        let plan = || Server::builder().config(config()).reactors(1);
        let mut transport = ringwire::transport::ServerTransport::new(plan);
        for round in [b"1", b"2"] {
            transport.connect("127.0.0.1:0").expect("a free port");
            let mut client = client(&endpoint(transport.server().expect("it listens")));
            client.send(Envelope::data().reliable(), round).expect("room");
            client.flush_within(PATIENCE).expect("confirmed");
            drop(client);
            let _ = transport.disconnect(Duration::from_millis(10));
        }
        for round in [b"1", b"2"] {
            let message = transport.receive(Duration::ZERO).expect("it had come");
            assert_eq!(message.payload()[..], *round);
        }
        let error = transport.receive(PATIENCE).expect_err("nothing more can come");
        assert_eq!(error, ReceiveError::NotConnected);
    });
}

//! Sessions that outlive their connections: how they come back, and how they end when they do not.

use std::io::Write;
use std::time::Duration;

use ringwire::{
    Client, CloseReason, ConfigBuilder, ConnectionState, Envelope, EventKind, Idle, Nanos,
    Priority, Reactor, ReceiveError, SendError, Wait,
};

use crate::bed::{
    Bed, echoes, events_of_server, name, names_of_client, settings_that_resume, silent, turn, valid,
};
use crate::proxy::Fault;
use crate::util::{
    Greeting, HELLO, PATIENCE, Peer, Stream, WELCOME, client_with, endpoint, isolated,
    plain_listener, timed, wait_for, wait_until,
};

fn check_broken_link(fault: Fault) {
    let mut bed = Bed::new();
    let id = bed.client.connection().expect("connected").id;
    bed.proxy.breaks(fault);
    let mut names = Vec::new();
    let mut states = Vec::new();
    bed.turn_until("it is resumed", |bed| {
        states.push(bed.client.connection_state());
        names.extend(names_of_client(&mut bed.client));
        names.last().is_some_and(|name| name == "Resumed")
    });
    assert_eq!(names, ["LinkLost", "Reconnecting 1", "Resumed"]);
    assert!(states.contains(&ConnectionState::Reconnecting), "{states:?}");
    assert_eq!(bed.client.connection_state(), ConnectionState::Connected);
    assert_eq!(bed.client.connection().expect("connected").id, id, "it is the same session");
    assert_eq!(bed.client.disconnected_reason(), None);

    let events = events_of_server(&bed.server, "Resumed");
    let names: Vec<_> = events.iter().map(|event| name(&event.kind)).collect();
    assert_eq!(names, ["LinkLost", "Resumed"]);
    assert!(events.iter().all(|event| event.connection == bed.id), "it is the same session");
    assert_eq!(bed.server.clients().len(), 1);
    assert_eq!(bed.server.clients()[0].id, bed.id);
    echoes(&mut bed.client);
    let (client, server) = (bed.client.statistics(), bed.server.statistics());
    assert_eq!((client.sessions_resumed, server.sessions_resumed), (1, 1));
    assert_eq!((client.connections_active, server.connections_active), (1, 1));
    assert_eq!((client.reconnect_attempts, client.sessions_lost), (1, 0));
    assert_eq!((client.messages_dropped, server.messages_dropped), (0, 0));
}

#[test]
fn cut_link_is_made_again() {
    isolated(|| check_broken_link(Fault::Cut));
}

#[test]
fn reset_link_is_made_again() {
    isolated(|| check_broken_link(Fault::Reset));
}

#[test]
fn half_open_link_is_superseded() {
    isolated(|| {
        check_broken_link(Fault::HalfOpen);
        let mut bed = Bed::new();
        bed.proxy.breaks(Fault::HalfOpen);
        bed.turn_until_resumed();
        let events = events_of_server(&bed.server, "Resumed");
        let EventKind::LinkLost { reason, .. } = events[0].kind else { panic!("{events:?}") };
        assert_eq!(reason, CloseReason::Superseded);
    });
}

/// A pulled cable: nobody says anything, and what was sent meanwhile comes when there is a way.
#[test]
fn silent_link_is_made_again_and_loses_nothing() {
    isolated(|| {
        // Only the client looks for silence: a server that is first, because the client's thread
        // gets no core, would end the link.
        let brisk = settings_that_resume().heartbeat_interval_ms(30).heartbeat_misses(3);
        let patient = settings_that_resume().heartbeat_interval_ms(0);
        let mut bed = Bed::around(brisk, silent().config(valid(patient)));
        bed.proxy.hold();
        bed.client.send(Envelope::command().reliable(), b"in the dark").expect("room");
        let lost = bed.turn_until_event("the silence is noticed", |kind| {
            matches!(kind, EventKind::LinkLost { .. })
        });
        let EventKind::LinkLost { reason, .. } = lost else { panic!("{lost:?}") };
        assert_eq!(reason, CloseReason::PeerSilent);
        bed.proxy.release();
        bed.turn_until_resumed();
        let mut message = None;
        bed.turn_until("it has come", |bed| {
            message = bed.server.receive(Duration::ZERO).ok();
            message.is_some()
        });
        assert_eq!(message.expect("just seen").payload()[..], *b"in the dark");
        let events = events_of_server(&bed.server, "Resumed");
        let EventKind::LinkLost { reason, .. } = events[0].kind else { panic!("{events:?}") };
        // Whatever came first: the new link, the end of the old one, or, where what the proxy had
        // held still went to a client that had closed, its reset.
        assert!(
            matches!(reason, CloseReason::PeerClosed | CloseReason::Superseded)
                || reason == CloseReason::Socket { errno: libc::ECONNRESET },
            "{reason}"
        );
    });
}

/// While the connection that was superseded still ends, its session is there once.
#[test]
fn broadcast_behind_a_return_goes_out_once() {
    isolated(|| {
        let config = valid(settings_that_resume().idle(Idle::Park));
        let mut reactor = Reactor::new(&config).expect("a ring");
        let address = reactor.listen(&"127.0.0.1:0".parse().expect("well formed")).expect("free");
        let turn_until = |reactor: &mut Reactor, wanted: &str| {
            let deadline = Nanos::now() + PATIENCE;
            loop {
                reactor.turn(Wait::Poll).expect("the ring works");
                if std::iter::from_fn(|| reactor.poll_event()).any(|it| name(&it.kind) == wanted) {
                    return;
                }
                assert!(Nanos::now() < deadline, "not {wanted}");
            }
        };
        let greeting = Greeting { features: 1, ..Greeting::default() };
        let mut old = Peer::dial(&address);
        old.write(&greeting.frame(HELLO).encode());
        turn_until(&mut reactor, "Connected");
        let welcome = old.frame();
        let mut peer_session_id = [0; 16];
        peer_session_id.copy_from_slice(&welcome.payload[8..24]);
        // Its receive is armed, and will end later than it is superseded.
        reactor.turn(Wait::Poll).expect("the ring works");
        let mut new = Peer::dial(&address);
        let again = Greeting { peer_session_id, monotonic_ns: 2, ..greeting };
        new.write(&again.frame(HELLO).encode());
        turn_until(&mut reactor, "Resumed");
        let report = reactor.broadcast(Envelope::data(), b"to all");
        assert_eq!(report.outcomes.len(), 1, "{report:?}");
        assert_eq!(report.queued(), 1, "{report:?}");
        reactor.turn(Wait::Poll).expect("the ring works");
        assert_eq!(new.frame().kind, WELCOME);
        assert_eq!(new.frame().payload, b"to all");
    });
}

/// The client's own calls bring it back, each by itself.
#[test]
fn every_call_of_the_client_drives_the_way_back() {
    isolated(|| {
        let mut bed = Bed::new();
        let is_resumed = |bed: &Bed, times| bed.client.statistics().sessions_resumed == times;

        bed.proxy.breaks(Fault::Cut);
        let deadline = Nanos::now() + PATIENCE;
        while !is_resumed(&bed, 1) {
            bed.client.poll();
            assert!(Nanos::now() < deadline, "polls did not bring it back");
        }

        bed.proxy.breaks(Fault::Cut);
        while !is_resumed(&bed, 2) {
            let outcome = bed.client.receive(Duration::from_millis(1));
            assert!(matches!(outcome, Err(ReceiveError::Timeout { .. })), "{outcome:?}");
            assert!(Nanos::now() < deadline, "receives did not bring it back");
        }

        bed.lose_link(Fault::Cut);
        bed.proxy.admit();
        let envelope = Envelope::command().reliable();
        let answer = bed.client.request(envelope, b"a request", PATIENCE).expect("an answer");
        assert_eq!(answer.payload()[..], *b"a request");
        assert!(is_resumed(&bed, 3));

        bed.proxy.breaks(Fault::Cut);
        while !is_resumed(&bed, 4) {
            bed.client.run_for(Duration::from_millis(1)).expect("the session lives");
            assert!(Nanos::now() < deadline, "running did not bring it back");
        }

        bed.lose_link(Fault::Cut);
        bed.client.send(Envelope::data().reliable(), b"kept").expect("it is kept");
        bed.proxy.admit();
        bed.client.flush_within(PATIENCE).expect("it leaves");
        assert!(is_resumed(&bed, 5));
        echoes(&mut bed.client);
    });
}

/// While the server is away, another service has its port, or nobody but ourselves.
#[test]
fn stranger_on_the_way_back_does_not_end_the_session() {
    isolated(|| {
        let mut bed = Bed::new();
        let home = endpoint(&bed.server);
        let (listener, elsewhere) = plain_listener();
        listener.set_nonblocking(true).expect("an option");
        bed.proxy.lead(&elsewhere);
        bed.lose_link(Fault::Cut);
        bed.proxy.admit();
        let mut answered = 0;
        bed.turn_until("four attempts met a stranger", |_| {
            if let Ok((mut stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("an option");
                answered += 1;
                if answered % 2 == 0 {
                    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n and so on and on");
                } else {
                    // As when a connection to an own ephemeral port meets itself.
                    std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
                }
            }
            answered == 4
        });
        bed.proxy.lead(&home);
        bed.turn_until_resumed();
        echoes(&mut bed.client);
    });
}

#[test]
fn attempts_go_on_while_the_server_is_away() {
    isolated(|| {
        let mut bed = Bed::new();
        bed.lose_link(Fault::Cut);
        let mut names = Vec::new();
        bed.turn_until("five attempts have been made", |bed| {
            assert_eq!(bed.client.connection_state(), ConnectionState::Reconnecting);
            names.extend(names_of_client(&mut bed.client));
            names.last().is_some_and(|name| name == "Reconnecting 5")
        });
        bed.proxy.admit();
        bed.turn_until_resumed();
        let resumed = Nanos::now();
        let expected = ["LinkLost", "Reconnecting 1", "Reconnecting 2", "Reconnecting 3"];
        assert_eq!(names[..4], expected);
        echoes(&mut bed.client);
        // The link is a new one, and it did not hold for long: the count goes on.
        bed.proxy.breaks(Fault::Cut);
        let kind = bed.turn_until_event("it dials again", |kind| {
            matches!(kind, EventKind::Reconnecting { .. })
        });
        let EventKind::Reconnecting { attempt, .. } = kind else { unreachable!("waited for") };
        // A link of a second is a stable one, where this machine stood in between.
        let is_brief = Nanos::now().since(resumed) < Duration::from_secs(1);
        assert!(attempt > 5 || !is_brief, "{attempt}");
    });
}

/// Loses the link for good: how the client's session ends.
fn check_giving_up(settings: ConfigBuilder, expected: CloseReason) -> Bed {
    let mut bed = Bed::with(settings, settings_that_resume());
    bed.lose_link(Fault::Cut);
    let kind = bed.turn_until_event("the session is over", |kind| {
        matches!(kind, EventKind::Disconnected { .. })
    });
    let ended =
        EventKind::Disconnected { reason: expected, established: true, messages_dropped: 0 };
    assert_eq!(kind, ended);
    assert_eq!(bed.client.connection_state(), ConnectionState::Disconnected);
    assert_eq!(bed.client.disconnected_reason(), Some(expected));
    let refused = bed.client.send(Envelope::data().reliable(), b"too late");
    assert_eq!(refused, Err(SendError::NotConnected));
    let (outcome, took) = timed(|| bed.client.receive(PATIENCE));
    assert!(matches!(outcome, Err(ReceiveError::NotConnected)), "{outcome:?}");
    assert!(took < PATIENCE / 2, "nothing can come, and yet it waited {took:?}");
    // And it can be connected again, as a new session.
    bed.proxy.admit();
    let endpoint = bed.proxy.endpoint();
    bed.client.connect(&endpoint).expect("the server is there");
    echoes(&mut bed.client);
    bed
}

#[test]
fn client_gives_up_when_the_session_has_lingered() {
    isolated(|| {
        let settings = settings_that_resume().session_linger_ms(100);
        let (bed, took) = timed(|| check_giving_up(settings, CloseReason::SessionExpired));
        assert!(took >= Duration::from_millis(100), "{took:?}");
        drop(bed);
    });
}

/// Each attempt says why it is made: the first why the link was lost, the others why the one before
/// failed.
#[test]
fn attempts_say_why_there_is_no_link() {
    isolated(|| {
        let mut bed = Bed::new();
        bed.proxy.refuse();
        bed.proxy.breaks(Fault::Reset);
        let mut reasons: Vec<(u32, CloseReason)> = Vec::new();
        bed.turn_until("three attempts have been made", |bed| {
            while let Some(event) = bed.client.poll_event() {
                match event.kind {
                    EventKind::LinkLost { reason, .. } => reasons.push((0, reason)),
                    EventKind::Reconnecting { attempt, reason, .. } => {
                        reasons.push((attempt, reason));
                    }
                    kind => panic!("{kind:?}"),
                }
            }
            reasons.len() > 3
        });
        let (_, lost) = reasons[0];
        let refused = CloseReason::Socket { errno: libc::ECONNREFUSED };
        assert_ne!(lost, refused, "that link stood");
        assert_eq!(reasons[..4], [(0, lost), (1, lost), (2, refused), (3, refused)]);
    });
}

#[test]
fn client_gives_up_after_so_many_attempts() {
    isolated(|| {
        let settings = settings_that_resume().reconnect_attempts_max(3);
        let bed = check_giving_up(settings, CloseReason::GaveUp { attempts: 3 });
        assert_eq!(bed.client.statistics().reconnect_attempts, 3);
    });
}

#[test]
fn server_forgets_a_client_that_does_not_come_back() {
    isolated(|| {
        let server = settings_that_resume().session_linger_ms(100);
        let Bed { client, proxy, server, id } = Bed::with(settings_that_resume(), server);
        server.send_to(id, Envelope::data().reliable(), b"unread").expect("queued");
        drop(client);
        let events = events_of_server(&server, "Disconnected");
        let names: Vec<_> = events.iter().map(|event| name(&event.kind)).collect();
        assert_eq!(names, ["LinkLost", "SessionLost", "Disconnected"]);
        let EventKind::SessionLost { undelivered, .. } = &events[1].kind else {
            panic!("{events:?}")
        };
        assert_eq!(undelivered.len(), 1);
        assert_eq!(undelivered[0].payload[..], *b"unread");
        let ended = EventKind::Disconnected {
            reason: CloseReason::SessionExpired,
            established: true,
            messages_dropped: 1,
        };
        assert_eq!(events[2].kind, ended);
        assert_eq!(server.statistics().messages_dropped, 1);
        assert_eq!(
            server.send_to(id, Envelope::data().reliable(), b"late"),
            Err(SendError::NotConnected)
        );
        drop(proxy);
    });
}

/// A reliable broadcast is kept for whoever is away, and one of best effort says whom it missed.
fn check_broadcast(settings: impl Fn() -> ConfigBuilder, lane: Priority) {
    let server = silent().config(valid(settings()));
    let mut bed = Bed::around(settings(), server);
    let mut there = client_with(valid(settings()), &endpoint(&bed.server));
    wait_until("both are there", || bed.server.clients().len() == 2);
    bed.lose_link(Fault::Cut);
    let _ = events_of_server(&bed.server, "LinkLost");
    // Both links of it, when it has two.
    let sent = |reliable: bool| {
        let envelope = Envelope::data().priority(lane);
        let envelope = if reliable { envelope.reliable() } else { envelope };
        bed.server.broadcast(envelope, if reliable { b"kept" } else { b"lost" }).expect("it runs")
    };
    wait_until("it is known to be away", || sent(false).queued() == 1);
    let refused: Vec<_> = sent(false).refused().collect();
    assert_eq!(refused, [(bed.id, SendError::NotConnected)]);
    let report = sent(true);
    assert_eq!((report.outcomes.len(), report.queued()), (2, 2), "{report:?}");
    let until_kept = |client: &mut Client| loop {
        let message = client.receive(PATIENCE).expect("a message comes");
        if message.payload()[..] == *b"kept" {
            break;
        }
    };
    until_kept(&mut there);
    bed.proxy.admit();
    let first = bed.client.receive(PATIENCE).expect("it is kept");
    assert_eq!(first.payload()[..], *b"kept", "and nothing else came");
}

#[test]
fn reliable_broadcast_is_kept_for_those_away() {
    isolated(|| check_broadcast(settings_that_resume, Priority::Normal));
}

#[test]
fn reliable_broadcast_is_kept_for_those_away_on_either_link() {
    let settings = || settings_that_resume().express(true);
    isolated(move || {
        check_broadcast(settings, Priority::Normal);
        check_broadcast(settings, Priority::Critical);
    });
}

/// A client that is told to leave without any time to do so is told all the same, and stays away.
fn check_leaving(settings: impl Fn() -> ConfigBuilder) {
    let mut bed = Bed::with(settings(), settings());
    bed.server.disconnect(bed.id, Duration::ZERO).expect("it runs");
    bed.turn_until("it has left", |bed| {
        bed.client.connection_state() == ConnectionState::Disconnected
    });
    assert_eq!(bed.client.disconnected_reason(), Some(CloseReason::Goodbye));
    assert_eq!(bed.client.statistics().reconnect_attempts, 0);
    let _ = events_of_server(&bed.server, "Disconnected");
    assert_eq!(bed.server.clients().len(), 0);
}

#[test]
fn disconnect_without_time_says_goodbye() {
    isolated(|| {
        check_leaving(settings_that_resume);
        check_leaving(|| settings_that_resume().express(true));
    });
}

#[test]
fn disconnect_while_reconnecting_is_at_once() {
    isolated(|| {
        let mut bed = Bed::new();
        bed.lose_link(Fault::Cut);
        bed.client.send(Envelope::data().reliable(), b"never sent").expect("kept");
        let (report, took) = timed(|| bed.client.disconnect(PATIENCE));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (0, 0, 1));
        let names = names_of_client(&mut bed.client);
        assert_eq!(names[names.len() - 2..], ["SessionLost", "Disconnected"], "{names:?}");
        assert_eq!(bed.client.connection_state(), ConnectionState::Disconnected);
        assert_eq!(bed.client.disconnected_reason(), Some(CloseReason::Local));
        bed.proxy.admit();
        // Nothing goes on behind the application's back.
        for _ in 0..20 {
            turn(&mut bed.client);
        }
        assert_eq!(bed.proxy.links(), 1);
        let endpoint = bed.proxy.endpoint();
        bed.client.connect(&endpoint).expect("the server is there");
        echoes(&mut bed.client);
    });
}

/// In each moment of the way back.
#[test]
fn disconnect_and_drop_at_any_moment_of_the_way_back() {
    isolated(|| {
        for turns in 0..12 {
            for is_dropped in [true, false] {
                let mut bed = Bed::new();
                bed.client.send(Envelope::data().reliable(), b"to keep").expect("queued");
                bed.proxy.breaks(Fault::Cut);
                for _ in 0..turns {
                    bed.client.poll();
                }
                if is_dropped {
                    let ((), took) = timed(|| drop(bed.client));
                    assert!(took < PATIENCE / 2, "dropping took {took:?}");
                    continue;
                }
                let (_, took) = timed(|| bed.client.disconnect(Duration::from_secs(1)));
                assert!(took < PATIENCE / 2, "disconnecting took {took:?}");
                assert_eq!(bed.client.connection_state(), ConnectionState::Disconnected);
                let attempts = bed.client.statistics().reconnect_attempts;
                for _ in 0..5 {
                    turn(&mut bed.client);
                }
                let attempts_after = bed.client.statistics().reconnect_attempts;
                assert_eq!(attempts_after, attempts, "after {turns} turns");
                assert_eq!(bed.client.statistics().connections_active, 0);
            }
        }
    });
}

/// What the other end of a session that resumes says of itself.
fn greeting_that_resumes() -> Greeting {
    Greeting { features: 1, ..Greeting::default() }
}

/// A link that is lost with a send in the kernel: the session leaves it only when that has ended.
/// The peer closes its direction and reads nothing.
fn client_with_a_send_in_the_kernel() -> (Client, Peer) {
    let met = (0..10).find_map(|_| try_a_send_in_the_kernel());
    met.expect("the kernel never held a send of a dead link")
}

/// `None` when the kernel held the send no longer than the link.
fn try_a_send_in_the_kernel() -> Option<(Client, Peer)> {
    let (listener, endpoint) = plain_listener();
    let accepting = std::thread::spawn(move || {
        let mut peer = Peer::new(Stream::Tcp(listener.accept().expect("a client").0));
        peer.welcome(greeting_that_resumes());
        peer
    });
    let config =
        settings_that_resume().tcp_send_buffer_bytes(16 << 10).zero_copy_bytes_min(16 << 10);
    let mut client = client_with(valid(config), &endpoint);
    let peer = accepting.join().expect("the handshake completes");
    let deadline = Nanos::now() + PATIENCE;
    let payload = vec![7; 60_000];
    let mut idle_turns = 0;
    while idle_turns < 5 {
        let outcome = client.send(Envelope::data().reliable(), &payload);
        let sent = client.statistics().messages_sent;
        turn(&mut client);
        let is_idle = outcome.is_err() && client.statistics().messages_sent == sent;
        idle_turns = if is_idle { idle_turns + 1 } else { 0 };
        assert!(Nanos::now() < deadline, "the lane never fills");
    }
    let Stream::Tcp(stream) = &peer.stream else { panic!("TCP") };
    stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
    while client.connection_state() == ConnectionState::Connected {
        client.poll();
        assert!(Nanos::now() < deadline, "the end of the link is not noticed");
    }
    assert_eq!(client.connection_state(), ConnectionState::Reconnecting);
    // With the peer's end came what it had read: then the send may have ended, too.
    client.connection().is_some().then_some((client, peer))
}

#[test]
fn disconnect_with_a_send_in_the_kernel_ends_the_session() {
    isolated(|| {
        let (mut client, _peer) = client_with_a_send_in_the_kernel();
        let (report, took) = timed(|| client.disconnect(PATIENCE));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert!(report.messages_dropped > 0, "{report:?}");
        assert_eq!(client.connection_state(), ConnectionState::Disconnected);
        assert_eq!(client.disconnected_reason(), Some(CloseReason::Local));
        for _ in 0..5 {
            turn(&mut client);
        }
        assert_eq!(client.statistics().reconnect_attempts, 0);
    });
}

#[test]
fn shutdown_with_a_send_in_the_kernel_ends_the_session() {
    isolated(|| {
        let (mut client, _peer) = client_with_a_send_in_the_kernel();
        let (report, took) = timed(|| client.reactor().shutdown(PATIENCE));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert!(report.messages_dropped > 0, "{report:?}");
        let names = names_of_client(&mut client);
        assert_eq!(names.last().expect("it says so"), "Disconnected", "{names:?}");
        assert_eq!(client.statistics().reconnect_attempts, 0);
    });
}

#[test]
fn shutdown_of_a_server_ends_sessions_that_are_away() {
    isolated(|| {
        let Bed { client, proxy, server, id } = Bed::new();
        server.send_to(id, Envelope::data(), b"first").expect("queued");
        drop(client);
        let _ = events_of_server(&server, "LinkLost");
        server.send_to(id, Envelope::data().reliable(), b"kept").expect("queued");
        let handle = server.handle();
        let (report, took) = timed(|| server.shutdown(PATIENCE));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.messages_dropped), (0, 1));
        let mut kinds: Vec<_> = std::iter::from_fn(|| handle.poll_event()).collect();
        let ended = kinds.pop().expect("it says how it ended").kind;
        let expected = EventKind::Disconnected {
            reason: CloseReason::Local,
            established: true,
            messages_dropped: 1,
        };
        assert_eq!(ended, expected);
        assert!(matches!(
            kinds.pop().expect("and what is lost").kind,
            EventKind::SessionLost { .. }
        ));
        drop(proxy);
    });
}

/// What is counted of connections is counted of links: a session that flaps counts each time.
#[test]
fn flap_of_a_link_is_counted_as_one_more_and_one_lost() {
    isolated(|| {
        let mut bed = Bed::new();
        bed.lose_link(Fault::Cut);
        bed.proxy.admit();
        bed.turn_until_resumed();
        let counted = |s: &ringwire::Statistics| {
            (s.connections_established, s.connections_lost, s.connections_active)
        };
        assert_eq!(counted(&bed.client.statistics()), (2, 1, 1));
        wait_for(&bed.server, "it knows, too", |s| counted(s) == (2, 1, 1));
    });
}

//! What becomes of single messages and requests when the link is lost.

use std::time::Duration;

use ringwire::{
    Checksum, CloseReason, ConnectionId, ConnectionState, Envelope, EventKind, Kind, Message,
    Nanos, RequestError, SendError,
};

use crate::bed::{Bed, events_of_server, name, settings_that_resume, silent, turn, valid};
use crate::proxy::{Fault, Plan, Way};
use crate::util::{PATIENCE, client_with, endpoint, isolated, timed, wait_for};

fn number_of(message: &Message) -> u64 {
    u64::from_le_bytes(message.payload()[..8].try_into().expect("eight bytes"))
}

fn numbered(number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![number as u8; bytes.max(8)];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload
}

/// A server without handlers.
fn silent_bed() -> Bed {
    let builder = silent().config(valid(settings_that_resume()));
    Bed::around(settings_that_resume(), builder)
}

/// Receives the messages of these numbers at the server, and no other.
#[track_caller]
fn expect_at_server(bed: &mut Bed, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let mut message = None;
        bed.turn_until("the next message has come", |bed| {
            message = bed.server.receive(Duration::ZERO).ok();
            message.is_some()
        });
        assert_eq!(number_of(&message.expect("the loop ends with it")), number);
    }
    assert!(bed.server.receive(Duration::ZERO).is_err(), "nothing is doubled");
}

#[test]
fn reliable_messages_are_queued_while_the_link_is_down() {
    isolated(|| {
        let mut bed = silent_bed();
        bed.lose_link(Fault::Cut);
        let loose = bed.client.send(Envelope::data(), b"best effort");
        assert_eq!(loose, Err(SendError::NotConnected));
        for number in 1..=100 {
            let sent = bed.client.send(Envelope::data().reliable(), &numbered(number, 500));
            sent.expect("it is kept");
        }
        bed.proxy.admit();
        expect_at_server(&mut bed, 1..=100);
    });
}

#[test]
fn both_ends_queue_while_the_link_is_down() {
    isolated(|| {
        let mut bed = silent_bed();
        bed.lose_link(Fault::Reset);
        let server = &bed.server;
        wait_for(server, "the server knows", |s| s.connections_active == 0);
        assert!(server.clients().is_empty());
        for number in 1..=50 {
            let sent = server.send_to(bed.id, Envelope::data().reliable(), &numbered(number, 900));
            sent.expect("it is kept");
            let sent = bed.client.send(Envelope::data().reliable(), &numbered(number, 900));
            sent.expect("it is kept");
        }
        bed.proxy.admit();
        expect_at_server(&mut bed, 1..=50);
        for number in 1..=50 {
            let message = bed.client.receive(PATIENCE).expect("it comes");
            assert_eq!(number_of(&message), number);
        }
    });
}

/// Sends until the lane is full. Returns how many were admitted.
fn fill(bed: &mut Bed) -> u64 {
    let mut admitted = 0;
    let envelope = Envelope::data().reliable();
    let mut refusals = 0;
    // What the kernel takes is kept as well: full is full when turning makes no room.
    while refusals < 20 {
        match bed.client.send(envelope, &numbered(admitted + 1, 3000)) {
            Ok(()) => (admitted, refusals) = (admitted + 1, 0),
            Err(SendError::Full | SendError::MemoryFull) => refusals += 1,
            Err(error) => panic!("{error}"),
        }
        turn(&mut bed.client);
    }
    admitted
}

/// Unconfirmed messages are bounded: a full buffer refuses, and loses nothing.
fn check_full(loses_link: bool) {
    let client = settings_that_resume().kept_bytes_max(256 << 10);
    let builder = silent().config(valid(settings_that_resume()));
    let mut bed = Bed::around(client, builder);
    if loses_link {
        bed.lose_link(Fault::Cut);
    } else {
        bed.proxy.hold();
    }
    let admitted = fill(&mut bed);
    assert!((20..200).contains(&admitted), "{admitted} messages of 3000 bytes in 256 KiB");
    assert!(bed.client.statistics().sends_refused > 0);
    if !loses_link {
        bed.proxy.refuse();
        bed.proxy.breaks(Fault::Cut);
        bed.proxy.release();
        bed.turn_until("the link is lost", |bed| {
            bed.client.connection_state() == ConnectionState::Reconnecting
        });
    }
    bed.proxy.admit();
    expect_at_server(&mut bed, 1..=admitted);
    // There is room again, as soon as they are confirmed.
    bed.turn_until("there is room", |bed| {
        bed.client.send(Envelope::data().reliable(), &numbered(admitted + 1, 3000)).is_ok()
    });
    expect_at_server(&mut bed, admitted + 1..=admitted + 1);
    assert_eq!(bed.client.statistics().messages_dropped, 0);
}

#[test]
fn full_kept_buffer_refuses_and_loses_nothing() {
    isolated(|| check_full(false));
}

#[test]
fn full_queue_refuses_while_the_link_is_down() {
    isolated(|| check_full(true));
}

#[test]
fn best_effort_request_fails_at_once_when_the_link_is_lost() {
    isolated(|| {
        let mut bed = silent_bed();
        let client = &mut bed.client;
        let request = client.start_request(Envelope::command(), b"?", PATIENCE).expect("queued");
        bed.turn_until("the server has it", |bed| bed.server.receive(Duration::ZERO).is_ok());
        let (outcome, took) = timed(|| {
            bed.lose_link(Fault::Cut);
            bed.client.take_response(request)
        });
        let lost = RequestError::ConnectionLost { reason: CloseReason::PeerClosed };
        assert_eq!(outcome.expect("it is known").expect_err("lost"), lost);
        assert!(took < PATIENCE / 2, "{took:?}");
        // And another is not even taken.
        let refused = bed.client.request(Envelope::command(), b"?", PATIENCE);
        let error = refused.expect_err("the link is down");
        assert_eq!(error, RequestError::Send(SendError::NotConnected));
    });
}

#[test]
fn reliable_request_is_answered_after_the_link_was_lost() {
    isolated(|| {
        let mut bed = silent_bed();
        let envelope = Envelope::command().reliable();
        let early = bed.client.start_request(envelope, b"early", PATIENCE).expect("queued");
        let mut request = None;
        bed.turn_until("the server has it", |bed| {
            request = bed.server.receive(Duration::ZERO).ok();
            request.is_some()
        });
        bed.lose_link(Fault::Cut);
        wait_for(&bed.server, "the server knows", |s| s.connections_active == 0);
        let late = bed.client.start_request(envelope, b"late", PATIENCE).expect("kept");
        assert!(bed.client.take_response(early).is_none(), "it may still be answered");
        // The answer is given while there is no link.
        let request = request.expect("the loop ends with it");
        bed.server.reply(&request, Envelope::status(), b"to early").expect("it is kept");

        bed.proxy.admit();
        let mut answers = Vec::new();
        bed.turn_until("both are answered", |bed| {
            if let Ok(request) = bed.server.receive(Duration::ZERO) {
                assert_eq!(request.payload()[..], *b"late", "none is handled twice");
                bed.server.reply(&request, Envelope::status(), b"to late").expect("queued");
            }
            for id in [early, late] {
                if let Some(answer) = bed.client.take_response(id) {
                    answers.push(answer.expect("answered").into_payload());
                }
            }
            answers.len() == 2
        });
        assert_eq!(answers, [&b"to early"[..], b"to late"]);
        assert_eq!(bed.client.statistics().responses_late, 0);
    });
}

/// Against a handler that knows nothing of links: each request is answered, by one run of it.
#[test]
fn reliable_requests_are_answered_across_cuts_at_any_byte() {
    isolated(|| {
        for seed in 0..4 {
            let client = settings_that_resume().reconnect_delay_max_ms(8);
            let mut bed = Bed::with(client, settings_that_resume());
            let mut plans = fastrand::Rng::with_seed(seed);
            bed.proxy.plan(move |_| {
                let way = if plans.bool() { Way::Up } else { Way::Down };
                let fault = [Fault::Cut, Fault::Reset][plans.usize(..2)];
                Plan::new(way, plans.u64(150..2000), fault)
            });
            bed.proxy.breaks(Fault::Cut);
            let envelope = Envelope::command().reliable();
            for number in 0..200 {
                let answer = bed.client.request(envelope, &numbered(number, 40), PATIENCE);
                let answer =
                    answer.unwrap_or_else(|error| panic!("seed {seed}, {number}: {error}"));
                assert_eq!(number_of(&answer), number, "seed {seed}");
            }
            // An answer leaves before its request is counted.
            wait_for(&bed.server, "they are counted", |s| s.messages_received >= 200);
            assert_eq!(bed.server.statistics().messages_received, 200, "seed {seed}");
            assert!(bed.client.statistics().sessions_resumed > 5, "seed {seed}");
        }
    });
}

#[test]
fn timeout_keeps_the_link_and_the_session() {
    isolated(|| {
        let mut bed = silent_bed();
        for envelope in [Envelope::command(), Envelope::command().reliable()] {
            let timeout = Duration::from_millis(1_500);
            let id = bed.client.start_request(envelope, b"?", timeout).expect("room");
            bed.client.flush();
            // Taken in time: what nobody waits for any more is not handed out.
            let request = bed.server.receive(PATIENCE).expect("it came");
            let mut outcome = None;
            bed.turn_until("its time is over", |bed| {
                outcome = bed.client.take_response(id);
                outcome.is_some()
            });
            let error = outcome.expect("just found").expect_err("nobody answers");
            assert_eq!(error, RequestError::Timeout { timeout });
            bed.server.reply(&request, Envelope::status(), b"too late").expect("queued");
        }
        bed.turn_until("the answers came too late", |bed| {
            bed.client.statistics().responses_late == 2
        });
        assert_eq!(bed.client.connection_state(), ConnectionState::Connected);
        assert_eq!(bed.client.poll_event(), None, "no link was lost");

        // A request that times out while the link is down leaves the session as it is.
        bed.lose_link(Fault::Cut);
        let timeout = Duration::from_millis(20);
        let envelope = Envelope::command().reliable();
        let error = bed.client.request(envelope, b"?", timeout).expect_err("no link");
        assert_eq!(error, RequestError::Timeout { timeout });
        bed.proxy.admit();
        bed.turn_until_resumed();
    });
}

/// The server believes in the old link, and has a send in the kernel on it: the client is told to
/// try again, and does.
#[test]
fn busy_session_is_tried_again() {
    isolated(|| {
        let server = settings_that_resume().tcp_send_buffer_bytes(16 << 10);
        let builder = silent().config(valid(server));
        let mut bed = Bed::around(settings_that_resume(), builder);
        bed.proxy.hold();
        let payload = |number| numbered(number, 60_000);
        let mut admitted = 0;
        let mut refusals = 0;
        while refusals < 20 {
            let envelope = Envelope::data().reliable();
            match bed.server.send_to(bed.id, envelope, &payload(admitted + 1)) {
                Ok(()) => (admitted, refusals) = (admitted + 1, 0),
                Err(SendError::Full | SendError::MemoryFull) => refusals += 1,
                Err(error) => panic!("{error}"),
            }
            turn(&mut bed.client);
        }
        // The old link stays stuck; the next ones are open.
        bed.proxy.breaks(Fault::HalfOpen);
        bed.proxy.release();
        bed.turn_until_resumed();
        for number in 1..=admitted {
            let message = bed.client.receive(PATIENCE).expect("nothing is lost");
            assert_eq!(message.payload()[..], payload(number));
        }
        assert!(bed.client.statistics().closed("rejected") > 0, "it was told to try again");
        assert_eq!(bed.server.statistics().closed("superseded"), 1);
    });
}

/// The link is lost while the server reads no more for want of room: what it had not read is sent
/// again.
#[test]
fn link_lost_under_backpressure_loses_nothing() {
    isolated(|| {
        for fault in [Fault::Cut, Fault::Reset, Fault::HalfOpen] {
            let server = settings_that_resume().inbox_frames_max(4);
            let builder = silent().config(valid(server));
            let mut bed = Bed::around(settings_that_resume(), builder);
            for number in 1..=40 {
                let sent = bed.client.send(Envelope::data().reliable(), &numbered(number, 1000));
                sent.expect("there is room");
            }
            bed.turn_until("the server is held back", |bed| {
                bed.server.statistics().receive_pauses > 0
            });
            bed.proxy.breaks(fault);
            bed.turn_until_resumed();
            expect_at_server(&mut bed, 1..=40);
            assert_eq!(bed.client.statistics().sessions_lost, 0, "{fault:?}");
        }
    });
}

/// Who leaves in order while the server is held back loses nothing, best effort included.
#[test]
fn goodbye_under_backpressure_is_read_behind_the_rest() {
    isolated(|| {
        let builder = silent().config(valid(settings_that_resume().inbox_frames_max(4)));
        let mut bed = Bed::around(settings_that_resume(), builder);
        for number in 1..=20 {
            bed.client.send(Envelope::data(), &numbered(number, 100)).expect("there is room");
        }
        bed.turn_until("the server is held back", |bed| bed.server.statistics().receive_pauses > 0);
        let report = bed.client.disconnect(Duration::from_millis(50));
        assert_eq!(report.messages_dropped, 0);
        for number in 1..=20 {
            let message = bed.server.receive(PATIENCE).expect("nothing is lost");
            assert_eq!(number_of(&message), number);
        }
        let mut ended = None;
        let deadline = Nanos::now() + PATIENCE;
        while ended.is_none() {
            assert!(Nanos::now() < deadline, "it does not end");
            while let Some(event) = bed.server.poll_event() {
                if let EventKind::Disconnected { reason, .. } = event.kind {
                    ended = Some(reason);
                }
                assert!(!matches!(event.kind, EventKind::LinkLost { .. }), "{event:?}");
            }
        }
        assert!(matches!(ended, Some(CloseReason::Goodbye | CloseReason::PeerClosed)), "{ended:?}");
    });
}

/// A bit that is turned over under way: the checksum finds it (or the time, when it made a frame
/// longer), the link is replaced, and nothing is lost.
#[test]
fn corrupted_frame_costs_the_link_only() {
    isolated(|| {
        for at in [170, 200, 240, 400, 1000, 3000] {
            for way in [Way::Up, Way::Down] {
                let checked =
                    || settings_that_resume().checksum(Checksum::Always).frame_timeout_ms(100);
                let builder = silent().config(valid(checked()));
                let mut bed = Bed::around(checked(), builder);
                bed.proxy.plan(move |link| match link {
                    1 => Plan::new(way, at, Fault::Corrupt { bit: at as u8 }),
                    _ => Plan::default(),
                });
                bed.proxy.breaks(Fault::Cut);
                bed.turn_until_resumed();
                for number in 1..=20 {
                    let envelope = Envelope::data().reliable();
                    bed.client.send(envelope, &numbered(number, 500)).expect("room");
                    bed.server.send_to(bed.id, envelope, &numbered(number, 500)).expect("room");
                }
                expect_at_server(&mut bed, 1..=20);
                for number in 1..=20 {
                    let message = bed.client.receive(PATIENCE).expect("it comes");
                    assert_eq!(number_of(&message), number, "{way:?} at {at}");
                }
                assert_eq!(bed.proxy.faults(), 2, "{way:?} at {at}");
                assert!(bed.proxy.links() >= 3, "{way:?} at {at}: nobody noticed");
                assert_eq!(bed.client.statistics().sessions_lost, 0, "{way:?} at {at}");
            }
        }
    });
}

/// An orderly end waits for the confirmations: nothing that arrived is told as undelivered.
#[test]
fn disconnect_waits_for_the_confirmations() {
    isolated(|| {
        let Bed { mut client, proxy, server, .. } = silent_bed();
        for number in 1..=50 {
            let sent = client.send(Envelope::data().reliable(), &numbered(number, 100));
            sent.expect("there is room");
        }
        let (report, took) = timed(|| client.disconnect(PATIENCE));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (1, 1, 0));
        let drops = client.statistics().messages_dropped;
        assert_eq!(drops, 0, "they all arrived");
        for number in 1..=50 {
            assert_eq!(number_of(&server.receive(PATIENCE).expect("it comes")), number);
        }
        drop(proxy);
    });
}

/// Who leaves in order confirms what has arrived, however soon: it is no loss of the other's.
#[test]
fn whoever_leaves_confirms_what_has_arrived() {
    isolated(|| {
        for round in 0..10 {
            let Bed { mut client, proxy, server, id } = silent_bed();
            server.send_to(id, Envelope::data().reliable(), &numbered(1, 100)).expect("room");
            assert_eq!(number_of(&client.receive(PATIENCE).expect("it comes")), 1);
            assert_eq!(client.disconnect(PATIENCE).flushed, 1);
            let events = events_of_server(&server, "Disconnected");
            let names: Vec<_> = events.iter().map(|event| name(&event.kind)).collect();
            assert_eq!(names, ["Disconnected"], "round {round}");
            let statistics = server.statistics();
            assert_eq!((statistics.reliable_confirmed, statistics.reliable_lost), (1, 0));
            drop(proxy);
        }
    });
}

#[test]
fn shutdown_waits_for_the_confirmations() {
    isolated(|| {
        let Bed { mut client, proxy, server, id } = silent_bed();
        for number in 1..=50 {
            let sent = server.send_to(id, Envelope::data().reliable(), &numbered(number, 100));
            sent.expect("there is room");
        }
        let handle = server.handle();
        let ending = std::thread::spawn(move || server.shutdown(PATIENCE));
        for number in 1..=50 {
            assert_eq!(number_of(&client.receive(PATIENCE).expect("it comes")), number);
        }
        while client.run_for(Duration::from_millis(1)).is_ok() {}
        let report = ending.join().expect("no panic");
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (1, 1, 0));
        let events = std::iter::from_fn(|| handle.poll_event());
        for event in events {
            assert!(!matches!(event.kind, EventKind::SessionLost { .. }), "{event:?}");
        }
        drop(proxy);
    });
}

/// Handlers reach a session that is away as everybody else does.
#[test]
fn handler_sends_to_a_session_that_is_away() {
    isolated(|| {
        let (tell, told) = crossbeam_channel::bounded::<ConnectionId>(1);
        let builder = silent().config(valid(settings_that_resume())).reactors(1);
        let builder = builder.on(Kind::Command, move |context, frame| {
            let to = told.try_recv().expect("it was told before");
            let outcome = context.send_to(to, Envelope::data().reliable(), frame.payload());
            let text: &[u8] = if outcome.is_ok() { b"queued" } else { b"refused" };
            let _ = context.reply(Envelope::status(), text);
        });
        let mut bed = Bed::around(settings_that_resume(), builder);
        bed.lose_link(Fault::Cut);
        wait_for(&bed.server, "the server knows", |s| s.connections_active == 0);
        tell.send(bed.id).expect("there is room");
        let mut other = client_with(valid(settings_that_resume()), &endpoint(&bed.server));
        let answer = other.request(Envelope::command(), b"for you", PATIENCE).expect("an answer");
        assert_eq!(answer.payload()[..], *b"queued");
        bed.proxy.admit();
        assert_eq!(bed.client.receive(PATIENCE).expect("it comes").payload()[..], *b"for you");
    });
}

/// Many reactors listen at one address, and the kernel chooses which of them a connection goes to.
#[test]
fn client_comes_back_to_a_server_of_several_reactors() {
    isolated(|| {
        let builder = silent().config(valid(settings_that_resume())).reactors(4);
        let client = settings_that_resume().reconnect_delay_max_ms(8);
        let mut bed = Bed::around(client, builder);
        for _ in 0..20 {
            bed.proxy.breaks(Fault::Cut);
            bed.turn_until_resumed();
        }
        assert_eq!(bed.client.statistics().sessions_lost, 0);
    });
}

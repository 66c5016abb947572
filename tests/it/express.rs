//! Sessions with two connections: high and critical messages have one of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringwire::{
    Client, CloseReason, ConfigBuilder, ConnectError, ConnectionState, Envelope, EventKind, Idle,
    Kind, Link, Nanos, Priority, ReceiveError, RequestError, SendError, Server, ServerBuilder,
    WatchKey,
};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bed::{
    Bed, echoes, events_of_server, name, names_of_client, settings_that_resume, silent, turn, valid,
};
use crate::proxy::Fault;
use crate::util::{
    CHECKSUM, COMMAND, CRITICAL, GOODBYE, Greeting, HELLO, NORMAL, PATIENCE, Peer, Plain, REJECT,
    REQUEST, WELCOME, client_with, config, descriptors_that, echo, endpoint, isolated, pattern,
    plain_listener, settings, start, timed, wait_for, wait_until,
};

const LANES: [Priority; 4] = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];

// The feature bits of a greeting, as the format's table has them.
const RESUME: u32 = 1;
const PAIRED: u32 = 4;
const EXPRESS: u32 = 8;

fn express() -> ConfigBuilder {
    settings_that_resume().express(true)
}

/// A client with two links through the proxy: 0 is main, 1 is express.
fn express_bed() -> Bed {
    Bed::with(express(), settings_that_resume())
}

/// An echo whose answers travel as urgently as its requests.
fn echo_in_kind() -> ServerBuilder {
    Server::builder().config(valid(settings_that_resume())).listen("127.0.0.1:0").on(
        Kind::Command,
        |context, frame| {
            let envelope = Envelope::status().priority(frame.priority());
            let _ = context.reply(envelope, frame.payload());
        },
    )
}

fn ask(client: &mut Client, lane: Priority, timeout: Duration) -> Result<Vec<u8>, RequestError> {
    let envelope = Envelope::command().priority(lane);
    client.request(envelope, b"a question", timeout).map(|answer| answer.payload().to_vec())
}

/// What has been sent before the goodbye is read, however long that takes.
#[test]
fn goodbye_does_not_overtake_what_is_not_read_yet() {
    isolated(|| {
        // Together the pauses last twice the bound, which is also that of the client's handshake.
        const COUNT: u8 = 6;
        const BOUND: Duration = Duration::from_millis(500);
        let bound = u32::try_from(BOUND.as_millis()).expect("short");
        let settings = settings_that_resume().inbox_frames_max(1).handshake_timeout_ms(bound);
        let server = start(silent().config(valid(settings)));
        let mut client = client_with(valid(express()), &endpoint(&server));
        for number in 0..COUNT {
            client.send(Envelope::data(), &[number]).expect("room");
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..COUNT {
                    let came = Nanos::now();
                    wait_until("some time has passed", || Nanos::now().since(came) > BOUND / 3);
                    let message = server.receive(PATIENCE).expect("sent before the goodbye");
                    assert_eq!(message.payload()[..], [number]);
                }
            });
            let report = client.disconnect(PATIENCE);
            assert_eq!((report.flushed, report.messages_dropped), (1, 0));
        });
        wait_for(&server, "it has left in order", |s| {
            s.connections_active == 0 && s.messages_dropped == 0
        });
    });
}

/// Why there is no second connection is told, not that there is none.
#[test]
fn lack_of_a_descriptor_for_the_second_connection_is_told() {
    isolated(|| {
        let server = start(echo());
        let mut client = Client::new(valid(express())).expect("it is set up");
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        // Room for the main connection, and for the server's end of it.
        let taken = descriptors_that(|_| true);
        let second = (0..).filter(|number| !taken.contains(number)).nth(1).expect("a number");
        let limit = u64::try_from(second + 1).expect("above 0");
        setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum }).expect("lower");
        let outcome = client.connect(&endpoint(&server));
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("raise");
        let error = outcome.expect_err("no descriptor");
        let ConnectError::Connect { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.raw_os_error(), Some(Errno::MFILE.raw_os_error()), "{error}");
        client.connect(&endpoint(&server)).expect("now there are enough");
    });
}

#[test]
fn two_connections_are_one_session() {
    isolated(|| {
        let mut bed = express_bed();
        assert_eq!(bed.proxy.links(), 2);
        for lane in LANES {
            assert_eq!(ask(&mut bed.client, lane, PATIENCE).expect("an answer"), b"a question");
        }
        let clients = bed.server.clients();
        assert_eq!(clients.len(), 1, "one session: {clients:?}");
        assert_eq!(clients[0].id, bed.id);
        assert_eq!(clients[0].express, Some(ConnectionState::Connected));
        assert_eq!(clients[0].messages_received, 4, "of both");
        let info = bed.client.connection().expect("connected");
        assert_eq!((info.messages_sent, info.messages_received), (4, 4), "of both");
        assert_eq!(info.express, Some(ConnectionState::Connected));
        let (client, server) = (bed.client.statistics(), bed.server.statistics());
        assert_eq!((client.connections_active, server.connections_active), (1, 1));
        assert_eq!((client.connections_established, server.connections_established), (1, 1));
        assert!(bed.client.poll_event().is_none(), "connected once");
        assert!(bed.server.poll_event().is_none(), "connected once");

        // The server's own messages find their link, too.
        for lane in LANES {
            let envelope = Envelope::data().priority(lane);
            bed.server.send_to(bed.id, envelope, b"news").expect("queued");
        }
        let mut lanes = [0; 4];
        for _ in LANES {
            let message = bed.client.receive(PATIENCE).expect("news");
            assert_eq!(message.connection(), info.id);
            lanes[message.priority() as usize - 1] += 1;
        }
        assert_eq!(lanes, [1; 4]);
        let report = bed.server.broadcast(Envelope::data().critical(), b"to all").expect("queued");
        assert_eq!(report.queued(), 1);
        assert_eq!(bed.client.receive(PATIENCE).expect("it").priority(), Priority::Critical);

        let report = bed.client.disconnect(PATIENCE);
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (1, 1, 0));
        let events = events_of_server(&bed.server, "Disconnected");
        assert_eq!(events.len(), 1, "{events:?}");
        wait_for(&bed.server, "nobody is connected", |s| s.connections_active == 0);
        assert_eq!(bed.client.statistics().connections_lost, 1);
        wait_for(&bed.server, "it counts once", |s| s.connections_lost == 1);
    });
}

/// The main link stands still behind an upload; a stop command does not care.
#[test]
fn critical_passes_an_upload_that_is_stuck() {
    isolated(|| {
        // The server's inbox takes one message of the upload and then no more.
        let server = Server::builder()
            .config(valid(settings_that_resume().inbox_frames_max(1)))
            .listen("127.0.0.1:0")
            .on(Kind::Command, |context, frame| {
                let _ = context.reply(Envelope::status().critical(), frame.payload());
            });
        let server = start(server);
        let mut client = client_with(valid(express()), &endpoint(&server));
        let upload = pattern(256 << 10, 1);
        let deadline = Nanos::now() + PATIENCE;
        let mut refused = 0;
        // Until nothing moves any more: the lane, the socket and the window are full.
        while refused < 3 {
            assert!(Nanos::now() < deadline, "the lane takes everything");
            let outcome = client.send(Envelope::data().priority(Priority::Low), &upload);
            match outcome {
                Ok(()) => refused = 0,
                Err(SendError::Full | SendError::MemoryFull) => {
                    refused += 1;
                    let _ = client.run_for(Duration::from_millis(20));
                }
                Err(error) => panic!("{error}"),
            }
        }
        let (answer, took) = timed(|| ask(&mut client, Priority::Critical, PATIENCE));
        assert_eq!(answer.expect("the stop command passes"), b"a question");
        assert!(took < PATIENCE / 4, "{took:?}");
        // On the same link it would not: this shows that the way is really closed.
        let outcome = ask(&mut client, Priority::Normal, Duration::from_millis(50));
        assert!(matches!(outcome, Err(RequestError::Timeout { .. })), "{outcome:?}");
    });
}

fn check_broken(number: u64, link: Link, other: Priority) {
    let mut bed = Bed::around(express(), echo_in_kind());
    bed.proxy.refuse();
    bed.proxy.breaks_one(number, Fault::Cut);
    bed.turn_until("the link is lost", |bed| {
        bed.client.connection_state() == ConnectionState::Reconnecting
    });
    let event = bed.client.poll_event().expect("it says so");
    let EventKind::LinkLost { link: lost, .. } = event.kind else { panic!("{event:?}") };
    assert_eq!(lost, link);
    assert_eq!(event.connection, bed.client.connection().map_or(event.connection, |info| info.id));
    // The other link does not notice.
    assert_eq!(ask(&mut bed.client, other, PATIENCE).expect("an answer"), b"a question");
    let mine = if link == Link::Express { Priority::Critical } else { Priority::Low };
    let envelope = Envelope::data().priority(mine);
    assert_eq!(bed.client.send(envelope, b"best effort"), Err(SendError::NotConnected));
    bed.client.send(envelope.reliable(), b"kept").expect("reliable ones wait");
    bed.proxy.admit();
    let kind =
        bed.turn_until_event("it is resumed", |kind| matches!(kind, EventKind::Resumed { .. }));
    assert!(matches!(kind, EventKind::Resumed { link: resumed, .. } if resumed == link));
    let mut message = None;
    bed.turn_until("what was kept arrives", |bed| {
        message = bed.server.receive(Duration::ZERO).ok();
        message.is_some()
    });
    let message = message.expect("the loop ends with it");
    assert_eq!((message.payload()[..].as_ref(), message.priority()), (&b"kept"[..], mine));
    assert_eq!(message.connection(), bed.id);
    for lane in LANES {
        ask(&mut bed.client, lane, PATIENCE).expect("an answer");
    }
    let names: Vec<_> =
        events_of_server(&bed.server, "Resumed").iter().map(|event| name(&event.kind)).collect();
    assert_eq!(names, ["LinkLost", "Resumed"]);
    assert_eq!(bed.server.statistics().connections_active, 1);
    assert_eq!(bed.server.clients().len(), 1);
}

#[test]
fn lost_express_link_leaves_the_main_one_alone() {
    isolated(|| check_broken(1, Link::Express, Priority::Normal));
}

#[test]
fn lost_main_link_leaves_the_express_one_alone() {
    isolated(|| check_broken(0, Link::Main, Priority::Critical));
}

#[test]
fn request_fails_with_its_own_link_only() {
    isolated(|| {
        let mut bed = Bed::around(express(), silent().config(valid(settings_that_resume())));
        let second = Duration::from_secs(5);
        let urgent = Envelope::command().critical();
        let urgent = bed.client.start_request(urgent, b"urgent", second).expect("queued");
        let calm = bed.client.start_request(Envelope::command(), b"calm", second).expect("queued");
        let mut messages = Vec::new();
        bed.turn_until("both are there", |bed| {
            messages.extend(bed.server.receive(Duration::ZERO));
            messages.len() == 2
        });
        bed.proxy.breaks_one(1, Fault::Reset);
        let mut outcome = None;
        bed.turn_until("the urgent one has failed", |bed| {
            outcome = bed.client.take_response(urgent);
            outcome.is_some()
        });
        assert!(matches!(outcome, Some(Err(RequestError::ConnectionLost { .. }))), "{outcome:?}");
        let request = messages.iter().find(|m| m.priority() == Priority::Normal).expect("calm");
        bed.server.reply(request, Envelope::status(), b"here").expect("queued");
        let mut outcome = None;
        bed.turn_until("the calm one is answered", |bed| {
            outcome = bed.client.take_response(calm);
            outcome.is_some()
        });
        assert_eq!(outcome.expect("an outcome").expect("an answer").payload()[..], *b"here");
    });
}

#[test]
fn both_links_lost_at_once_come_back() {
    isolated(|| {
        let mut bed = Bed::around(express(), echo_in_kind());
        for fault in [Fault::Cut, Fault::Reset, Fault::HalfOpen] {
            bed.proxy.breaks(fault);
            let mut resumed = 0;
            bed.turn_until("both are resumed", |bed| {
                resumed += names_of_client(&mut bed.client)
                    .iter()
                    .filter(|name| *name == "Resumed")
                    .count();
                resumed == 2
            });
            assert_eq!(bed.client.connection_state(), ConnectionState::Connected);
            for lane in LANES {
                ask(&mut bed.client, lane, PATIENCE).expect("an answer");
            }
        }
        assert_eq!(bed.server.clients().len(), 1);
    });
}

/// The server is replaced by a new one: both parts begin anew, which is told once.
#[test]
fn restarted_server_is_a_new_session_of_two_links() {
    isolated(|| {
        let mut bed = express_bed();
        let other = start(echo_in_kind());
        bed.proxy.hold();
        for lane in [Priority::Normal, Priority::Critical] {
            let envelope = Envelope::data().priority(lane).reliable();
            bed.client.send(envelope, b"never confirmed").expect("queued");
        }
        bed.client.flush();
        bed.lose_link(Fault::Cut);
        bed.proxy.release();
        bed.proxy.lead(&endpoint(&other));
        bed.proxy.admit();
        let mut lost = Vec::new();
        let mut connected = 0;
        bed.turn_until("it is connected again", |bed| {
            while let Some(event) = bed.client.poll_event() {
                match event.kind {
                    EventKind::SessionLost { undelivered, .. } => lost.extend(undelivered),
                    EventKind::Connected => connected += 1,
                    EventKind::Disconnected { .. } => panic!("{event:?}"),
                    _ => {}
                }
            }
            connected > 0 && bed.client.connection_state() == ConnectionState::Connected
        });
        lost.sort_by_key(|message| message.priority);
        let lanes: Vec<_> = lost.iter().map(|message| message.priority).collect();
        assert_eq!(lanes, [Priority::Normal, Priority::Critical]);
        for lane in LANES {
            ask(&mut bed.client, lane, PATIENCE).expect("an answer");
        }
        assert_eq!(connected, 1);
        assert_eq!(other.clients().len(), 1);
    });
}

#[test]
fn without_reconnect_the_loss_of_one_link_ends_both() {
    isolated(|| {
        for number in [0, 1] {
            let settings = settings().reconnect(false).express(true);
            let mut bed = Bed::with(settings, settings_that_resume());
            bed.proxy.breaks_one(number, Fault::Cut);
            bed.turn_until("it is over", |bed| {
                bed.client.connection_state() == ConnectionState::Disconnected
            });
            let names = names_of_client(&mut bed.client);
            assert_eq!(names, ["Disconnected"]);
            let events = events_of_server(&bed.server, "Disconnected");
            assert_eq!(events.len(), 1, "{events:?}");
            wait_for(&bed.server, "nobody is connected", |s| s.connections_active == 0);
            assert!(bed.server.clients().is_empty());
        }
    });
}

/// What neither link has delivered is told once, lane by lane.
#[test]
fn end_tells_what_both_links_have_not_delivered() {
    isolated(|| {
        let mut bed = Bed::with(express().session_linger_ms(200), settings_that_resume());
        bed.lose_link(Fault::Cut);
        for lane in LANES.into_iter().rev() {
            for number in [b"1", b"2"] {
                let envelope = Envelope::data().priority(lane).reliable();
                bed.client.send(envelope, number).expect("kept");
            }
        }
        let mut events = Vec::new();
        bed.turn_until("it is over", |bed| {
            events.extend(std::iter::from_fn(|| bed.client.poll_event()));
            events.iter().any(|event| matches!(event.kind, EventKind::Disconnected { .. }))
        });
        let ends = events.iter().filter(|event| name(&event.kind) == "Disconnected").count();
        assert_eq!(ends, 1, "{events:?}");
        let lost: Vec<_> = events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::SessionLost { undelivered, .. } => Some(undelivered),
                _ => None,
            })
            .collect();
        assert_eq!(lost.len(), 1, "{events:?}");
        let told: Vec<_> =
            lost[0].iter().map(|message| (message.priority, message.payload.to_vec())).collect();
        let expected: Vec<_> = LANES
            .into_iter()
            .flat_map(|lane| [(lane, b"1".to_vec()), (lane, b"2".to_vec())])
            .collect();
        assert_eq!(told, expected);
    });
}

/// Both flush before either says goodbye, whatever is still on its way on the other.
#[test]
fn disconnect_flushes_both_links() {
    isolated(|| {
        for large in [Priority::Low, Priority::Critical] {
            let server = start(silent().config(valid(settings_that_resume())));
            let mut client = client_with(valid(express()), &endpoint(&server));
            for lane in LANES {
                let bytes = if lane == large { 700_000 } else { 10 };
                let envelope = Envelope::data().priority(lane).reliable();
                client.send(envelope, &pattern(bytes, 7)).expect("queued");
            }
            let leaving = std::thread::scope(|scope| {
                let receiving = scope.spawn(|| {
                    let mut lanes = Vec::new();
                    while lanes.len() < 4 {
                        lanes.push(server.receive(PATIENCE).expect("all four").priority());
                    }
                    lanes.sort();
                    assert_eq!(lanes, LANES);
                });
                let report = client.disconnect(PATIENCE);
                receiving.join().expect("all four came");
                report
            });
            assert_eq!((leaving.flushed, leaving.messages_dropped), (1, 0), "{leaving:?}");
            let events = events_of_server(&server, "Disconnected");
            let last = &events.last().expect("it").kind;
            assert!(
                matches!(last, EventKind::Disconnected { reason: CloseReason::Goodbye, .. }),
                "{last:?}"
            );
        }
    });
}

#[test]
fn server_shuts_down_in_order() {
    isolated(|| {
        let server = start(silent().config(valid(settings_that_resume())));
        let mut client = client_with(valid(express()), &endpoint(&server));
        let id = server.clients()[0].id;
        for lane in LANES {
            server.send_to(id, Envelope::data().priority(lane), &pattern(5000, 1)).expect("queued");
        }
        let report = std::thread::scope(|scope| {
            let leaving = scope.spawn(|| server.shutdown(PATIENCE));
            let mut came = 0;
            loop {
                match client.receive(PATIENCE) {
                    Ok(_) => came += 1,
                    Err(ReceiveError::NotConnected) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(came, 4);
            leaving.join().expect("no panic")
        });
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (1, 1, 0));
    });
}

/// The kernel hands the second connection to any reactor: it is passed on to the one that has the
/// first.
#[test]
fn express_finds_its_session_on_any_reactor() {
    isolated(|| {
        let server = start(echo().config(valid(settings_that_resume().reactors(3))));
        let mut clients = Vec::new();
        for _ in 0..12 {
            let mut client = client_with(valid(express()), &endpoint(&server));
            for lane in LANES {
                ask(&mut client, lane, PATIENCE).expect("an answer");
            }
            clients.push(client);
        }
        let reactors: std::collections::BTreeSet<_> =
            server.clients().iter().map(|info| info.id.to_string()[..2].to_owned()).collect();
        assert!(reactors.len() > 1, "all on one reactor shows nothing: {reactors:?}");
        assert_eq!(server.clients().len(), clients.len());
        for client in &mut clients {
            let id = client_id(client);
            client.reactor().cut_link(id);
        }
        for client in &mut clients {
            let deadline = Nanos::now() + PATIENCE;
            let mut resumed = 0;
            while resumed < 2 {
                assert!(Nanos::now() < deadline, "not resumed");
                turn(client);
                resumed += names_of_client(client).iter().filter(|name| *name == "Resumed").count();
            }
            echoes(client);
        }
    });
}

/// A long message leaves, and is read, in pieces between which a stop command has its turn. With
/// one connection it is handed over as far as the socket takes it: there is nothing to let pass.
#[test]
fn long_messages_of_the_main_connection_go_in_pieces() {
    const PIECES: u64 = 16;
    let steps = |client: &Client| {
        let statistics = client.statistics();
        statistics.direct_sends + statistics.completions
    };
    for (settings, is_cut) in [(express(), true), (settings_that_resume(), false)] {
        for idle in [Idle::Spin, Idle::Park] {
            let settings = settings.clone().idle(idle);
            let server = start(
                Server::builder()
                    .config(valid(settings_that_resume().idle(idle)))
                    .listen("127.0.0.1:0")
                    .on(Kind::Command, |context, frame| {
                        let _ = context.reply(Envelope::status(), frame.payload());
                    }),
            );
            let mut client = client_with(valid(settings), &endpoint(&server));
            let upload = pattern(1 << 20, 7);
            let before = steps(&client);
            let envelope = Envelope::command().priority(Priority::Low);
            let answer = client.request(envelope, &upload[..], PATIENCE).expect("an echo");
            assert_eq!(answer.payload()[..], upload[..], "nothing is lost between the pieces");
            // The completions of receives are among them: as many pieces came back.
            let made = steps(&client) - before;
            assert_eq!(made >= PIECES, is_cut, "{idle:?}: {made} steps");
        }
    }
}

fn client_id(client: &Client) -> ringwire::ConnectionId {
    client.connection().expect("connected").id
}

/// A listener that knows nothing of second connections: all lanes share the first.
#[test]
fn peer_without_express_gets_one_connection() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let accepting = std::thread::spawn(move || {
            let mut peer = Peer::new(crate::util::Stream::Tcp(listener.accept().expect("it").0));
            let hello = peer.welcome(Greeting::default());
            listener.set_nonblocking(true).expect("an option");
            (peer, hello, listener)
        });
        let mut client = client_with(valid(settings().express(true)), &endpoint);
        let (mut peer, hello, listener) = accepting.join().expect("no panic");
        let features = u32::from_le_bytes(hello.payload[4..8].try_into().expect("four bytes"));
        assert_eq!(features & PAIRED, PAIRED, "it asks for a second connection");
        for lane in LANES {
            client.send(Envelope::data().priority(lane), b"all here").expect("queued");
            client.flush();
            assert_eq!(peer.frame().priority, lane as u8);
        }
        assert!(listener.accept().is_err(), "no second connection");
        assert_eq!(client.connection().expect("connected").express, None);
    });
}

/// A peer that announces a second connection and does not make it is not let in.
#[test]
fn session_without_its_second_connection_times_out() {
    isolated(|| {
        let config = valid(settings().handshake_timeout_ms(1_000));
        let server = start(echo().config(config));
        let greeting = Greeting { features: PAIRED, ..Greeting::default() };
        let mut peer = Peer::connect_as(&server.addresses()[0], greeting);
        assert!(server.clients().is_empty(), "it is not complete");
        let before = server.statistics();
        let counted = (before.connections_active, before.connections_established);
        assert_eq!(counted, (0, 0), "nor counted as if it were");
        peer.expect_end();
        wait_for(&server, "it is closed", |s| s.closes.iter().any(|close| close.count == 1));
        assert_eq!(server.statistics().connections_lost, 0, "it never was");
        let events = events_of_server(&server, "Disconnected");
        let kinds: Vec<_> = events.iter().map(|event| &event.kind).collect();
        assert!(
            matches!(
                kinds[..],
                [EventKind::Disconnected { reason: CloseReason::HandshakeTimeout, .. }]
            ),
            "{kinds:?}"
        );
    });
}

/// A peer may say nothing before its second connection stands, so nothing is missed before.
#[test]
fn watches_begin_when_both_connections_stand() {
    isolated(|| {
        const PERIOD: Duration = Duration::from_millis(10);
        let missed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&missed);
        let server = start(echo().watch(WatchKey::Kind(Kind::Data), PERIOD).on_deadline_missed(
            move |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            },
        ));
        let address = server.addresses()[0].clone();
        let greeting = Greeting { features: PAIRED, ..Greeting::default() };
        let _main = Peer::connect_as(&address, greeting);
        let begun = Nanos::now();
        wait_until("some periods are over", || Nanos::now().since(begun) > 5 * PERIOD);
        assert_eq!(missed.load(Ordering::Relaxed), 0, "it is not connected");
        let session_id = companion([9; 16]);
        let second = Greeting { features: EXPRESS, session_id, ..Greeting::default() };
        let _express = Peer::connect_as(&address, second);
        wait_until("it is missed", || missed.load(Ordering::Relaxed) == 1);
    });
}

/// The companion of an id, as the format has it.
fn companion(mut id: [u8; 16]) -> [u8; 16] {
    id[15] ^= 1;
    id
}

#[test]
fn plain_peer_makes_a_session_of_two_connections() {
    isolated(|| {
        let server = start(echo_in_kind());
        let address = server.addresses()[0].clone();
        let greeting = Greeting { features: PAIRED, ..Greeting::default() };
        let mut main = Peer::connect_as(&address, greeting);
        let second =
            Greeting { features: EXPRESS, session_id: companion([9; 16]), ..Greeting::default() };
        let mut express = Peer::connect_as(&address, second);
        assert_eq!(express.other_id, companion(main.other_id), "both ends belong together");
        wait_until("it is complete", || server.clients().len() == 1);
        assert_eq!(main.ask(b"calm"), b"calm");
        express.send(Plain::new(COMMAND, CRITICAL, b"urgent").correlated(REQUEST, 3));
        let answer = express.frame();
        assert_eq!((answer.priority, &answer.payload[..]), (CRITICAL, &b"urgent"[..]));

        // A third connection of the same session is not let in, and hurts nobody.
        let mut third = Peer::dial(&address);
        let again = Greeting { monotonic_ns: 0, ..second };
        third.write(&again.frame(HELLO).encode());
        assert_eq!(third.frame().kind, REJECT);
        assert_eq!(main.ask(b"still"), b"still");

        // Express says goodbye, and then nothing comes on main for too long.
        let goodbye = Plain::new(GOODBYE, CRITICAL, &[0; 8]).flags(CHECKSUM);
        express.write(&goodbye.encode());
        express.expect_end();
        assert_eq!(main.ask(b"not yet"), b"not yet");
        main.write(&goodbye.encode());
        main.expect_end();
        let events = events_of_server(&server, "Disconnected");
        assert_eq!(events.last().map(|event| name(&event.kind)), Some("Disconnected".into()));
    });
}

/// What a peer says right behind the hello of its second connection goes with it, to whichever
/// reactor has its first.
#[test]
fn what_follows_an_express_hello_is_passed_on_with_it() {
    isolated(|| {
        let config = valid(settings_that_resume().reactors(3));
        let server = start(Server::builder().config(config).listen("127.0.0.1:0").on(
            Kind::Command,
            |context, frame| {
                let envelope = Envelope::status().priority(frame.priority());
                let _ = context.reply(envelope, frame.payload());
            },
        ));
        let address = server.addresses()[0].clone();
        let mut peers = Vec::new();
        // The kernel chooses the reactor: that of the first connection every time is one chance in
        // three to the twelfth.
        for number in 0..12_u8 {
            let session_id = [2 * number; 16];
            let greeting = Greeting { features: PAIRED, session_id, ..Greeting::default() };
            let main = Peer::connect_as(&address, greeting);
            let session_id = companion(session_id);
            let greeting = Greeting { features: EXPRESS, session_id, ..Greeting::default() };
            let mut express = Peer::dial(&address);
            let mut bytes = greeting.frame(HELLO).encode();
            let urgent = Plain::new(COMMAND, CRITICAL, &[number]).correlated(REQUEST, 3);
            bytes.extend(express.stamp(urgent).encode());
            express.write(&bytes);
            assert_eq!(express.frame().kind, WELCOME);
            let answer = express.frame();
            assert_eq!((answer.priority, &answer.payload[..]), (CRITICAL, &[number][..]));
            peers.push((main, express));
        }
        let reactors: std::collections::BTreeSet<_> =
            server.clients().iter().map(|info| info.id.to_string()[..2].to_owned()).collect();
        assert!(reactors.len() > 1, "all on one reactor shows nothing: {reactors:?}");
    });
}

#[test]
fn main_that_stays_behind_its_express_is_closed() {
    isolated(|| {
        let config = valid(settings().handshake_timeout_ms(1_000));
        let server = start(echo().config(config));
        let address = server.addresses()[0].clone();
        let greeting = Greeting { features: PAIRED, ..Greeting::default() };
        let mut main = Peer::connect_as(&address, greeting);
        let second =
            Greeting { features: EXPRESS, session_id: companion([9; 16]), ..Greeting::default() };
        let mut express = Peer::connect_as(&address, second);
        express.write(&Plain::new(GOODBYE, CRITICAL, &[0; 8]).flags(CHECKSUM).encode());
        express.expect_end();
        main.expect_end();
        wait_for(&server, "it is over", |s| s.connections_active == 0);
    });
}

/// A second connection of a session that nobody knows.
#[test]
fn express_of_a_stranger_is_told_to_try_again() {
    isolated(|| {
        let server = start(echo().config(valid(settings().reactors(2))));
        let mut peer = Peer::dial(&server.addresses()[0]);
        let greeting = Greeting { features: EXPRESS | RESUME, ..Greeting::default() };
        peer.write(&greeting.frame(HELLO).encode());
        let reject = peer.frame();
        assert_eq!(reject.kind, REJECT);
        assert_eq!(reject.payload[..2], [6, 0], "busy");
        peer.expect_end();
        assert!(server.clients().is_empty());
        assert_eq!(Peer::connect(&server).ask(b"others are welcome"), b"others are welcome");
    });
}

/// A protocol error on one link ends the session, and so both.
#[test]
fn broken_protocol_on_express_ends_both() {
    isolated(|| {
        let server = start(echo().config(config()));
        let address = server.addresses()[0].clone();
        let greeting = Greeting { features: PAIRED, ..Greeting::default() };
        let mut main = Peer::connect_as(&address, greeting);
        let second =
            Greeting { features: EXPRESS, session_id: companion([9; 16]), ..Greeting::default() };
        let mut express = Peer::connect_as(&address, second);
        wait_until("it is complete", || server.clients().len() == 1);
        express.write(&Plain::new(COMMAND, NORMAL, b"").sequence(77).encode());
        express.expect_end();
        main.expect_end();
        let events = events_of_server(&server, "Disconnected");
        let EventKind::Disconnected { reason, .. } = events[events.len() - 1].kind else {
            panic!("{events:?}")
        };
        assert!(matches!(reason, CloseReason::Protocol(_)), "{reason:?}");
    });
}

/// What is queued for two connections can not be sent over one, should the peer come back as one
/// that knows only that.
#[test]
fn peer_that_forgets_express_ends_the_session() {
    isolated(|| {
        let (listener, endpoint) = plain_listener();
        let accept = || Peer::new(crate::util::Stream::Tcp(listener.accept().expect("it").0));
        let paired =
            Greeting { features: PAIRED | RESUME, peer_session_id: [0; 16], ..Greeting::default() };
        std::thread::scope(|scope| {
            let peers = scope.spawn(|| {
                let mut main = accept();
                main.welcome(paired);
                let mut express = accept();
                let session_id = companion([9; 16]);
                express.welcome(Greeting { features: RESUME, session_id, ..paired });
                assert_eq!(main.frame().payload, b"connected");
                drop((main, express));
                // Either may be back first; main is the one that says so.
                loop {
                    let mut back = accept();
                    let hello = back.frame();
                    let features = hello.payload[4..8].try_into().expect("four bytes");
                    if u32::from_le_bytes(features) & PAIRED != 0 {
                        let single = Greeting { features: RESUME, ..paired };
                        back.write(&single.frame(WELCOME).encode());
                        return back;
                    }
                }
            });
            let mut client = client_with(valid(express()), &endpoint);
            client.send(Envelope::data(), b"connected").expect("queued");
            let deadline = Nanos::now() + PATIENCE;
            while client.connection_state() != ConnectionState::Disconnected {
                assert!(Nanos::now() < deadline, "{:?}", client.connection_state());
                turn(&mut client);
            }
            let reason = client.disconnected_reason();
            assert!(matches!(reason, Some(CloseReason::Refused(_))), "{reason:?}");
            peers.join().expect("no panic").expect_end();
        });
    });
}

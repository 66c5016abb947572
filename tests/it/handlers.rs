//! Handlers: called with what was sent, free to answer anybody, unable to take anything down.

use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringwire::config::Idle;
use ringwire::time::Nanos;
use ringwire::{ConnectionId, Envelope, Kind, Priority, Reactor, Server, ServerBuilder, Wait};

use crate::util::{
    COMMAND, DATA, GOODBYE, NORMAL, PATIENCE, Peer, Plain, RESPONSE, STATUS, Stream, client,
    config, endpoint, isolated, reactor_with_peers, settings, start, wait_for,
};

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Setpoint {
    axis: u32,
    unit: String,
}
ringwire::payload!(Setpoint = 0x0101);

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Unhandled {
    number: u64,
}
ringwire::payload!(Unhandled = 0x0202);

fn server() -> ServerBuilder {
    Server::builder().config(config()).listen("127.0.0.1:0")
}

#[test]
fn panic_is_caught_counted_and_harms_nobody() {
    isolated(|| {
        let server = start(server().on(Kind::Command, |context, frame| {
            assert_ne!(frame.payload(), b"bang", "as asked");
            context.reply(Envelope::status(), frame.payload()).expect("room");
        }));
        let mut one = Peer::connect(&server);
        let mut other = Peer::connect(&server);
        for round in 1..=10 {
            one.send(Plain::new(COMMAND, NORMAL, b"bang"));
            // The connection it came on, and the others, go on.
            assert_eq!(one.ask(b"fine"), b"fine");
            assert_eq!(other.ask(b"fine"), b"fine");
            assert_eq!(server.statistics().handler_panics, round);
        }
        assert_eq!(server.statistics().connections_lost, 0);
    });
}

#[test]
fn typed_handler_reads_the_value_in_place() {
    isolated(|| {
        let server = start(server().on_type::<Setpoint>(|context, frame, setpoint| {
            assert_eq!(frame.payload().as_ptr().align_offset(16), 0, "aligned where it stands");
            let text = format!("{} {}", setpoint.axis, setpoint.unit);
            context.reply(Envelope::status(), &text).expect("room");
        }));
        let mut client = client(&endpoint(&server));
        for axis in 0..20 {
            let unit = "mm".repeat(axis as usize + 1);
            let setpoint = Setpoint { axis, unit: unit.clone() };
            let answer = client.request(Envelope::command(), &setpoint, PATIENCE).expect("one");
            assert_eq!(answer.payload()[..], *format!("{axis} {unit}").as_bytes());
        }
        // A type without a handler goes to the inbox and can be read there.
        client.send(Envelope::data(), &Unhandled { number: 42 }).expect("room");
        client.flush();
        let message = server.receive(PATIENCE).expect("a message");
        assert_eq!(message.access::<Unhandled>().expect("valid").number, 42);
        assert!(message.access::<Setpoint>().is_err(), "another type");
    });
}

#[test]
fn handler_by_type_goes_before_handler_by_kind() {
    isolated(|| {
        let server = start(
            server()
                .on(Kind::Data, |context, _| {
                    context.reply(Envelope::status(), b"kind").expect("room")
                })
                .on_type::<Setpoint>(|context, _, _| {
                    context.reply(Envelope::status(), b"type").expect("room");
                }),
        );
        let mut client = client(&endpoint(&server));
        client.send(Envelope::data(), &Setpoint { axis: 1, unit: "m".into() }).expect("room");
        client.send(Envelope::data(), b"plain").expect("room");
        assert_eq!(client.receive(PATIENCE).expect("an answer").payload()[..], *b"type");
        assert_eq!(client.receive(PATIENCE).expect("an answer").payload()[..], *b"kind");
    });
}

#[test]
fn handler_replaces_the_one_that_was_given_before() {
    isolated(|| {
        // The number is that of the handler.
        let by_kind = |builder: ServerBuilder, number: u8| {
            builder.on(Kind::Data, move |context, _| {
                context.reply(Envelope::status(), &[number]).expect("room");
            })
        };
        let by_type = |builder: ServerBuilder, number: u8| {
            builder.on_type::<Setpoint>(move |context, _, _| {
                context.reply(Envelope::status(), &[number]).expect("room");
            })
        };
        let builder = by_type(by_type(by_kind(by_kind(server(), 1), 2), 3), 4);
        let server = start(builder);
        let mut client = client(&endpoint(&server));
        let called = Rc::new(RefCell::new(Vec::new()));
        let sent_to = |client: &mut ringwire::Client, number: u8| {
            let called = Rc::clone(&called);
            client.on(Kind::Status, move |_, frame| {
                called.borrow_mut().push((number, frame.payload()[0]));
            });
            client.send(Envelope::data(), b"plain").expect("room");
            client.send(Envelope::data(), &Setpoint { axis: 1, unit: "m".into() }).expect("room");
        };
        for (number, count) in [(10, 2), (11, 4)] {
            sent_to(&mut client, number);
            crate::util::wait_until("both are answered", || {
                client.poll();
                called.borrow().len() >= count
            });
        }
        assert_eq!(*called.borrow(), [(10, 2), (10, 4), (11, 2), (11, 4)]);
    });
}

#[test]
fn reply_carries_the_correlation_of_its_request_only() {
    isolated(|| {
        let server = start(crate::util::echo());
        let mut peer = Peer::connect(&server);
        for correlation in [1, u64::MAX, 7] {
            peer.send(Plain::new(COMMAND, NORMAL, b"?").correlated(4, correlation));
            let answer = peer.frame();
            assert_eq!((answer.kind, answer.correlation), (STATUS, correlation));
            assert_eq!(answer.flags & RESPONSE, RESPONSE);
        }
        peer.send(Plain::new(COMMAND, NORMAL, b"no request"));
        let answer = peer.frame();
        assert_eq!((answer.flags & RESPONSE, answer.correlation), (0, 0));
        assert_eq!(answer.payload, b"no request");
    });
}

/// One connection is answered before what the next has sent is handled; of more than 16, or of more
/// than four where the reactor parks, all are answered together.
#[test]
fn answer_leaves_before_the_next_is_handled() {
    isolated(|| {
        let spinning = [(3, true), (16, true), (40, false)].map(|case| (Idle::Spin, case));
        let parked = [(3, true), (4, true), (8, false)].map(|case| (Idle::Park, case));
        for (idle, (count, is_early)) in spinning.into_iter().chain(parked) {
            let config = settings().idle(idle).build().expect("valid");
            let (mut reactor, mut peers) = reactor_with_peers(&config, count);
            let deadline = Nanos::now() + PATIENCE;
            let socket_of = |peer: &Peer| {
                let Stream::Tcp(stream) = &peer.stream else { panic!("TCP") };
                stream.try_clone().expect("a descriptor")
            };
            let sockets: Vec<_> = peers.iter().map(socket_of).collect();
            let answered = Rc::new(RefCell::new(Vec::new()));
            let seen = Rc::clone(&answered);
            reactor.on(Kind::Command, move |context, frame| {
                let has_answer =
                    |socket: &&TcpStream| rustix::io::ioctl_fionread(socket).expect("a socket") > 0;
                let answers = || sockets.iter().filter(has_answer).count();
                // What has been sent may reach the other socket a little later.
                let before = seen.borrow().len();
                let limit = Nanos::now() + Duration::from_secs(1);
                while is_early && answers() < before && Nanos::now() < limit {
                    std::thread::yield_now();
                }
                seen.borrow_mut().push(answers());
                context.reply(Envelope::status(), frame.payload()).expect("room");
            });
            for peer in &mut peers {
                peer.send(Plain::new(COMMAND, NORMAL, b"?"));
            }
            while answered.borrow().len() < count && Nanos::now() < deadline {
                reactor.turn(Wait::Until(deadline)).expect("a turn");
            }
            assert_eq!(answered.borrow().len(), count, "every request was handled");
            let each_before_the_next: Vec<_> = (0..count).collect();
            let is_each = *answered.borrow() == each_before_the_next;
            assert_eq!(is_each, is_early, "{idle:?}, {count}: {:?}", answered.borrow());
        }
    });
}

/// A reactor of this idle strategy on this thread, and its only peer.
fn alone_with_a_peer(idle: Idle) -> (Reactor, Peer) {
    let config = settings().idle(idle).build().expect("valid");
    let (reactor, mut peers) = reactor_with_peers(&config, 1);
    (reactor, peers.remove(0))
}

/// Has the peer ask and the reactor turn until its handler, which does `answer`, was called.
fn ask(
    reactor: &mut Reactor,
    peer: &mut Peer,
    mut answer: impl FnMut(&mut ringwire::Context<'_>) + 'static,
) {
    let is_handled = Rc::new(Cell::new(false));
    let handled = Rc::clone(&is_handled);
    reactor.on(Kind::Command, move |context, _| {
        handled.set(true);
        answer(context);
    });
    peer.send(Plain::new(COMMAND, NORMAL, b"?"));
    let deadline = Nanos::now() + PATIENCE;
    while !is_handled.get() {
        assert!(Nanos::now() < deadline, "the request never came");
        reactor.turn(Wait::Until(deadline)).expect("a turn");
    }
}

/// Its only connection is answered in the turn that handles the request, however the reactor waits.
#[test]
fn answer_leaves_in_the_turn_of_its_request() {
    isolated(|| {
        for idle in [Idle::Spin, Idle::Adaptive, Idle::Park] {
            let (mut reactor, mut peer) = alone_with_a_peer(idle);
            ask(&mut reactor, &mut peer, |context| {
                context.reply(Envelope::status(), b"!").expect("room");
            });
            // No turn follows. The kernel may take its time to deliver.
            assert_eq!(peer.frame().payload, b"!", "{idle:?}");
        }
    });
}

/// What is long does not leave in the turn that queues it: what the application then finds urgent
/// goes before it.
#[test]
fn long_message_does_not_leave_early() {
    isolated(|| [Idle::Spin, Idle::Park].into_iter().for_each(check_long_message));
}

fn check_long_message(idle: Idle) {
    let (mut reactor, mut peer) = alone_with_a_peer(idle);
    ask(&mut reactor, &mut peer, |context| {
        let envelope = Envelope::data().priority(Priority::Low);
        context.reply(envelope, &[7; 60_000][..]).expect("room");
    });
    let connection = reactor.connections()[0].id;
    reactor.send(connection, Envelope::command().critical(), b"stop").expect("room");
    reactor.turn(Wait::Poll).expect("a turn");
    assert_eq!(peer.frame().payload.len(), b"stop".len());
    reactor.turn(Wait::Poll).expect("a turn");
    assert_eq!(peer.frame().payload.len(), 60_000);
}

#[test]
fn context_sends_to_others_and_to_all() {
    isolated(|| {
        let first = Arc::new(std::sync::OnceLock::<ConnectionId>::new());
        let known = Arc::clone(&first);
        let server = start(
            server()
                .on(Kind::Command, move |context, frame| {
                    let first = *known.get_or_init(|| context.connection());
                    assert_eq!(context.peer().expect("established").node_name, "peer");
                    context.send_to(first, Envelope::data(), frame.payload()).expect("room");
                })
                .on(Kind::Status, |context, frame| {
                    let report = context.broadcast(Envelope::status(), frame.payload());
                    assert_eq!(report.queued(), 3);
                }),
        );
        let mut peers = [(); 3].map(|()| Peer::connect(&server));
        peers[0].send(Plain::new(COMMAND, NORMAL, b"mine"));
        assert_eq!(peers[0].frame().payload, b"mine");
        assert!(first.get().is_some());
        peers[2].send(Plain::new(COMMAND, NORMAL, b"for the first"));
        let frame = peers[0].frame();
        assert_eq!((frame.kind, &frame.payload[..]), (DATA, &b"for the first"[..]));
        peers[1].send(Plain::new(STATUS, NORMAL, b"for all"));
        for peer in &mut peers {
            assert_eq!(peer.frame().payload, b"for all");
        }
    });
}

#[test]
fn handler_ends_its_own_connection_after_its_answer() {
    // The answer would be sent at once if the connection stayed.
    isolated(|| [Idle::Park, Idle::Spin].into_iter().for_each(check_last_answer));
}

fn check_last_answer(idle: Idle) {
    let config = settings().idle(idle).build().expect("valid");
    let server = start(server().config(config).on(Kind::Command, |context, frame| {
        context.reply(Envelope::status(), frame.payload()).expect("room");
        context.disconnect(PATIENCE);
        let refused = context.reply(Envelope::status(), b"too late");
        assert_eq!(refused, Err(ringwire::SendError::NotConnected));
    }));
    let mut other = Peer::connect(&server);
    let mut peer = Peer::connect(&server);
    peer.send(Plain::new(COMMAND, NORMAL, b"bye"));
    assert_eq!(peer.frame().payload, b"bye");
    assert_eq!(peer.frame().kind, GOODBYE);
    peer.expect_end();
    drop(peer);
    wait_for(&server, "it is over", |s| s.closed("local") == 1);
    assert_eq!(server.statistics().handler_panics, 0);
    other.send(Plain::new(DATA, NORMAL, b"here"));
    assert_eq!(server.receive(PATIENCE).expect("one").payload()[..], *b"here");
}

#[test]
fn handlers_run_in_order_of_arrival() {
    isolated(|| {
        let next = AtomicU64::new(0);
        let server = start(server().on(Kind::Data, move |_, frame| {
            let expected = next.fetch_add(1, Ordering::Relaxed);
            assert_eq!(frame.payload(), expected.to_le_bytes());
        }));
        let mut client = client(&endpoint(&server));
        for number in 0..5000_u64 {
            client.send(Envelope::data(), &number.to_le_bytes()).expect("room");
        }
        client.flush();
        wait_for(&server, "all are handled", |s| s.messages_received == 5000);
        assert_eq!(server.statistics().handler_panics, 0);
        assert_eq!(client.disconnect(Duration::from_secs(5)).messages_dropped, 0);
    });
}

#[test]
fn client_handlers_answer_the_servers_requests() {
    isolated(|| {
        let (mut client, mut peer) = crate::util::client_and_peer(config());
        client.on(Kind::Command, |context, frame| {
            context.reply(Envelope::status(), frame.payload()).expect("room");
        });
        let asking = std::thread::spawn(move || {
            for number in 0..50_u8 {
                assert_eq!(peer.ask(&[number]), [number]);
            }
        });
        crate::util::wait_until("the peer has its answers", || {
            client.poll();
            asking.is_finished()
        });
        asking.join().expect("no panic");
    });
}

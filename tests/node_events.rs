//! What a node's other threads are told of its connections: `poll_event` and `wait` of its handle.

use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use ringwire::{
    Client, CloseReason, Config, Envelope, Event, EventKind, Idle, Incoming, Nanos, Node,
    NodeHandle, ReceiveError, Server,
};
use rustix::thread::{Pid, gettid};

const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for the next event.
fn next_event(handle: &NodeHandle) -> Event {
    let deadline = Nanos::now() + PATIENCE;
    loop {
        if let Some(event) = handle.poll_event() {
            return event;
        }
        assert!(Nanos::now() < deadline, "no event within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

fn config() -> Config {
    Config::builder().registry(false).idle(Idle::Park).build().expect("valid")
}

#[test]
fn events_of_a_client_come_in_their_order() {
    let server = Server::builder().config(config()).listen("127.0.0.1:0").reactors(2);
    let server = server.start().expect("a free port");
    let address = server.addresses()[0].to_string();
    for _ in 0..3 {
        let mut client = Client::new(config()).expect("a ring");
        client.connect(&address).expect("the server listens");
        client.send(Envelope::data(), b"x").expect("connected");
        client.flush();
        let message = server.receive(PATIENCE).expect("it was sent");
        // Without waiting: it stands in the queue before the message does.
        let connected = server.poll_event().expect("before its first message");
        assert_eq!(connected.connection, message.connection());
        assert_eq!(connected.kind, EventKind::Connected);
        let report = client.disconnect(PATIENCE);
        assert_eq!(report.flushed, 1);
        let gone = next_event(&server.handle());
        assert_eq!(gone.connection, connected.connection);
        let EventKind::Disconnected { reason, established, .. } = gone.kind else {
            panic!("{gone:?}");
        };
        assert_eq!(reason, CloseReason::Goodbye);
        assert!(established);
    }
    assert_eq!(server.poll_event(), None);
    assert_eq!(server.statistics().events_dropped, 0);
}

#[test]
fn oldest_event_makes_room_and_is_counted() {
    let config_small =
        Config::builder().registry(false).idle(Idle::Park).events_max(16).build().expect("valid");
    let node = Node::builder().config(config_small).listen("127.0.0.1:0").start().expect("starts");
    let address = node.addresses()[0].to_string();
    let rounds = 20;
    for _ in 0..rounds {
        let mut client = Client::new(config()).expect("a ring");
        client.connect(&address).expect("the node listens");
        let _ = client.disconnect(PATIENCE);
    }
    let deadline = Nanos::now() + PATIENCE;
    while node.statistics().connections_lost < rounds {
        assert!(Nanos::now() < deadline, "the node did not notice that its clients left");
        std::thread::yield_now();
    }
    let handle = node.handle();
    let report = node.shutdown(PATIENCE);
    assert_eq!(report.connections, 0);
    let mut kept = Vec::new();
    while let Some(event) = handle.poll_event() {
        kept.push(event);
    }
    assert_eq!(kept.len(), 16);
    assert_eq!(handle.statistics().events_dropped, 2 * rounds - 16);
    let last = kept.last().expect("16 of them");
    assert!(matches!(last.kind, EventKind::Disconnected { .. }), "{last:?}");
}

#[test]
fn events_say_who_also_when_the_connection_is_gone() {
    let server = Server::builder().config(config()).listen("127.0.0.1:0");
    let server = server.start().expect("a free port");
    let address = server.addresses()[0].to_string();
    let named = Config::builder()
        .registry(false)
        .idle(Idle::Park)
        .node_name("axis-3")
        .build()
        .expect("valid");
    let mut client = Client::new(named).expect("a ring");
    client.connect(&address).expect("the server listens");
    let known = server.clients().swap_remove(0);
    let _ = client.disconnect(PATIENCE);
    for _ in 0..2 {
        let event = next_event(&server.handle());
        assert_eq!((event.address, &*event.node_name), (known.address.clone(), "axis-3"));
    }
    assert!(server.clients().is_empty());

    let silent = TcpStream::connect(&address).expect("the server listens");
    let silent_address = silent.local_addr().expect("connected").to_string();
    drop(silent);
    let event = next_event(&server.handle());
    assert!(matches!(event.kind, EventKind::Disconnected { established: false, .. }), "{event:?}");
    assert_eq!((event.address, &*event.node_name), (silent_address, ""));

    // The end that dialled is told whom it dialled.
    let node = Node::builder().config(config()).start().expect("it starts");
    node.connect(&address, 0).expect("the server listens");
    assert_eq!(next_event(&node.handle()).address, address);
}

/// Waits until a thread of this process sleeps for another one: /proc names the call of a blocked
/// thread only (proc_pid_syscall(5)).
fn until_asleep(thread: Pid) {
    let path = format!("/proc/self/task/{}/syscall", thread.as_raw_nonzero());
    let futex = format!("{} ", libc::SYS_futex);
    let deadline = Nanos::now() + PATIENCE;
    while !std::fs::read_to_string(&path).expect("a thread of ours").starts_with(&futex) {
        assert!(Nanos::now() < deadline, "it does not sleep");
        std::thread::yield_now();
    }
}

#[test]
fn one_wait_sleeps_for_events_and_messages() {
    let server = Server::builder().config(config()).listen("127.0.0.1:0").reactors(2);
    let server = server.start().expect("a free port");
    let address = server.addresses()[0].to_string();
    let handle = server.handle();
    let (tell, told) = mpsc::channel();
    let (name, named) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        name.send(gettid()).expect("the test waits");
        while let Ok(incoming) = handle.wait(PATIENCE) {
            let is_last = matches!(&incoming, Incoming::Message(m) if m.payload() == "last");
            tell.send(incoming).expect("the test waits");
            if is_last {
                return;
            }
        }
    });
    let thread = named.recv_timeout(PATIENCE).expect("it starts");
    let next = || told.recv_timeout(PATIENCE).expect("something in time");
    until_asleep(thread);
    let mut client = Client::new(config()).expect("a ring");
    client.connect(&address).expect("the server listens");
    let Incoming::Event(connected) = next() else { panic!("no event") };
    assert_eq!(connected.kind, EventKind::Connected);
    for number in 0..3_u8 {
        until_asleep(thread);
        client.send(Envelope::data(), &[number]).expect("connected");
        client.flush();
        let Incoming::Message(message) = next() else { panic!("no message") };
        assert_eq!(message.connection(), connected.connection);
        assert_eq!(message.payload()[..], [number]);
    }
    until_asleep(thread);
    let _ = client.disconnect(PATIENCE);
    let Incoming::Event(gone) = next() else { panic!("no event") };
    assert_eq!(gone.connection, connected.connection);

    // Who comes and speaks at once: the event stands before the message.
    for round in 0..50 {
        client.connect(&address).expect("the server listens");
        let text: &[u8] = if round == 49 { b"last" } else { b"x" };
        client.send(Envelope::data(), text).expect("connected");
        client.flush();
        let Incoming::Event(connected) = next() else { panic!("its message came before it") };
        assert_eq!(connected.kind, EventKind::Connected);
        let Incoming::Message(message) = next() else { panic!("no message") };
        assert_eq!(message.connection(), connected.connection);
        let _ = client.disconnect(PATIENCE);
        if round < 49 {
            let Incoming::Event(_) = next() else { panic!("no event") };
        }
    }
    waiter.join().expect("no panic");
}

#[test]
fn wait_ends_in_time() {
    let node = Node::builder().config(config()).start().expect("it starts");
    for timeout in [Duration::ZERO, Duration::from_millis(20)] {
        let begun = Nanos::now();
        let error = node.wait(timeout).expect_err("nobody comes");
        assert_eq!(error, ReceiveError::Timeout { timeout });
        assert!(Nanos::now().since(begun) >= timeout);
    }
}

/// Whatever waits for a node when it shuts down gets what is left, and then an end that stays.
#[test]
fn receive_and_wait_end_with_the_node() {
    let server = Server::builder().config(config()).listen("127.0.0.1:0").reactors(2);
    let server = server.start().expect("a free port");
    let mut client = Client::new(config()).expect("a ring");
    client.connect(&server.addresses()[0].to_string()).expect("the server listens");
    let handle = server.handle();
    let (name, named) = mpsc::channel();
    // One thread sleeps in each; what comes when nobody waits any more is left for later.
    let receiver = {
        let (handle, name) = (server.handle(), name.clone());
        std::thread::spawn(move || {
            name.send(gettid()).expect("the test waits");
            handle.receive(PATIENCE).map(drop)
        })
    };
    let waiter = {
        let handle = server.handle();
        std::thread::spawn(move || {
            name.send(gettid()).expect("the test waits");
            loop {
                match handle.wait(PATIENCE) {
                    Ok(Incoming::Event(_)) => {}
                    other => return other.map(drop),
                }
            }
        })
    };
    for _ in 0..2 {
        until_asleep(named.recv_timeout(PATIENCE).expect("it starts"));
    }
    let begun = Nanos::now();
    let _ = server.shutdown(Duration::ZERO);
    for thread in [receiver, waiter] {
        assert_eq!(thread.join().expect("no panic"), Err(ReceiveError::ShutDown));
    }
    assert!(Nanos::now().since(begun) < PATIENCE / 2, "it was told late");
    while handle.poll_event().is_some() {}
    for _ in 0..3 {
        let begun = Nanos::now();
        assert_eq!(handle.receive(PATIENCE).map(drop), Err(ReceiveError::ShutDown));
        assert_eq!(handle.wait(PATIENCE).map(drop), Err(ReceiveError::ShutDown));
        assert_eq!(handle.receive(Duration::ZERO).map(drop), Err(ReceiveError::ShutDown));
        assert_eq!(handle.wait(Duration::ZERO).map(drop), Err(ReceiveError::ShutDown));
        assert!(Nanos::now().since(begun) < PATIENCE / 2, "it waited for nobody");
    }
}

#[test]
fn what_a_node_leaves_behind_is_still_received() {
    let server = Server::builder().config(config()).listen("127.0.0.1:0");
    let server = server.start().expect("a free port");
    let mut client = Client::new(config()).expect("a ring");
    client.connect(&server.addresses()[0].to_string()).expect("the server listens");
    for number in 0..4_u8 {
        client.send(Envelope::data(), &[number]).expect("connected");
    }
    client.flush();
    let deadline = Nanos::now() + PATIENCE;
    while server.statistics().messages_received < 4 {
        assert!(Nanos::now() < deadline, "they do not arrive");
        std::thread::yield_now();
    }
    let handle = server.handle();
    let _ = server.shutdown(Duration::ZERO);
    assert_eq!(handle.receive(PATIENCE).expect("the first").payload()[..], [0]);
    let mut left = (0, Vec::new());
    loop {
        match handle.wait(PATIENCE) {
            Ok(Incoming::Event(_)) => left.0 += 1,
            Ok(Incoming::Message(message)) => left.1.extend_from_slice(message.payload()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error, ReceiveError::ShutDown);
                break;
            }
        }
    }
    assert_eq!(left, (2, vec![1, 2, 3]), "connected, disconnected, three messages");
}

/// As many threads as there are events, each of which takes one: none sleeps on.
#[test]
fn no_event_is_left_while_a_thread_waits() {
    let server = Server::builder().config(config()).listen("127.0.0.1:0");
    let server = server.start().expect("a free port");
    let address = server.addresses()[0].to_string();
    for _ in 0..20 {
        let streams = [(); 4].map(|()| TcpStream::connect(&address).expect("it listens"));
        std::thread::scope(|scope| {
            let (name, named) = mpsc::channel();
            for _ in &streams {
                let (name, handle) = (name.clone(), server.handle());
                scope.spawn(move || {
                    name.send(gettid()).expect("the test waits");
                    let begun = Nanos::now();
                    handle.wait(PATIENCE).expect("one for each");
                    // At its end a wait looks again, so that it finds what it slept on.
                    assert!(Nanos::now().since(begun) < PATIENCE / 2, "it slept on");
                });
            }
            for _ in &streams {
                until_asleep(named.recv_timeout(PATIENCE).expect("it starts"));
            }
            // All at once.
            drop(streams);
        });
    }
}

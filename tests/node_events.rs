//! What a node's other threads are told of its connections: `NodeHandle::poll_event`.

use std::time::Duration;

use ringwire::{
    Client, CloseReason, Config, Envelope, Event, EventKind, Idle, Nanos, Node, NodeHandle, Server,
};

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
    Config::builder().idle(Idle::Park).build().expect("valid")
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
    let config_small = Config::builder().idle(Idle::Park).events_max(16).build().expect("valid");
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

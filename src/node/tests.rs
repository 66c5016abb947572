//! Handles beside reactors that do nothing, that have ended, or that answer as the test has it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::ask::ANSWER_TIMEOUT;
use super::handle::Shared;
use super::*;
use crate::config::{Config, ConfigBuilder, Overflow};
use crate::error::{ConnectError, FlushError, SendError};
use crate::reactor::command::Mailbox;
use crate::reactor::connection::ReactorId;
use crate::reactor::events::EventQueue;
use crate::reactor::inbox::Inbox;
use crate::reactor::pool::command::PoolCommand;
use crate::reactor::{Choice, ConnectionId, PoolId, registry};
use crate::session::Envelope;
use crate::wire::Priority;

/// A node whose only reactor does nothing.
pub(super) fn node_without_a_reactor() -> Node {
    without_reactors(1, Config::builder())
}

/// A node of so many reactors that do nothing.
fn without_reactors(count: usize, config: ConfigBuilder) -> Node {
    let config = config.commands_max(2).build().expect("valid");
    let mailbox = || {
        let mailbox = Mailbox::new(config.commands_max(), config.requests_max());
        Arc::new(mailbox.expect("a descriptor"))
    };
    let mailboxes = (0..count).map(|_| mailbox()).collect();
    let (_, inbox) = Inbox::shared(&config, 0);
    let registry = registry(&config, 1).expect("memory");
    let shared = Shared {
        number: 0,
        mailboxes,
        counters: Vec::new(),
        registry: registry.handle(),
        inbox,
        events: EventQueue::new(&config, 1),
        is_server: false,
        config,
        stopped: AtomicBool::new(false),
    };
    Node {
        handle: NodeHandle { shared: Arc::new(shared) },
        threads: vec![std::thread::spawn(ShutdownReport::default)],
        addresses: Vec::new(),
        #[cfg(feature = "metrics")]
        metrics: None,
        _registry: registry,
    }
}

#[test]
fn node_stops_when_a_reactor_died_with_its_queue_full() {
    let (done, is_done) = bounded(1);
    std::thread::spawn(move || {
        let node = node_without_a_reactor();
        while node.shared.mailboxes[0].post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
        done.send(node.shutdown(Duration::from_millis(10)))
    });
    let report = is_done.recv_timeout(Duration::from_secs(10)).expect("it ends");
    assert_eq!(report, ShutdownReport::default());
}

/// Answers a broadcast as a reactor without sessions.
fn answer_broadcast(mailbox: &Mailbox) {
    let deadline = Nanos::now() + Duration::from_secs(5);
    loop {
        assert!(Nanos::now() < deadline, "nothing is asked");
        match mailbox.take() {
            Some(Command::Broadcast { asker, .. }) => {
                assert!(asker.claim.try_claim());
                return asker.reply.send(Vec::new()).expect("somebody waits");
            }
            _ => std::thread::yield_now(),
        }
    }
}

#[test]
fn reactor_that_has_ended_hinders_no_other() {
    let node = without_reactors(2, Config::builder());
    assert_eq!(node.reactors_running(), 2);
    let [ended, running] = &node.shared.mailboxes[..] else { panic!("two") };
    ended.close();
    assert_eq!(node.reactors_running(), 1);
    let pool = node.node_pool(vec![PoolId::of_nobody(0), PoolId::of_nobody(1)]);
    let post = |choice| pool.post(choice, Envelope::data(), b"x");
    // In turns: each would come to the ended one first, or next.
    assert_eq!([(); 2].map(|()| post(Choice::LeastQueued)), [Ok(()); 2]);
    assert!(running.take().is_some());
    assert!(running.take().is_some());
    // A key has its place; that it is away is no end of the node.
    let outcomes: Vec<_> = (0..8).map(|key| post(Choice::Key(key))).collect();
    assert!(outcomes.contains(&Err(SendError::NotConnected)), "{outcomes:?}");
    assert!(!outcomes.contains(&Err(SendError::ShutDown)), "{outcomes:?}");
    while running.take().is_some() {}
    std::thread::scope(|scope| {
        scope.spawn(|| answer_broadcast(running));
        let report = node.broadcast(Envelope::data(), b"x").expect("one was asked");
        assert_eq!((report.outcomes, report.failures), (Vec::new(), Vec::new()));
    });
}

#[test]
fn broadcast_names_the_reactors_that_were_not_asked() {
    let node = without_reactors(2, Config::builder());
    let [full, other] = &node.shared.mailboxes[..] else { panic!("two") };
    while full.post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
    std::thread::scope(|scope| {
        scope.spawn(|| answer_broadcast(other));
        let report = node.broadcast(Envelope::data(), b"x").expect("one was asked");
        assert_eq!(report.failures, [(0, SendError::Busy)]);
    });
    while other.post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
    let refused = node.broadcast(Envelope::data(), b"x").map(drop);
    assert_eq!(refused, Err(SendError::Busy), "nobody was");
}

#[test]
fn full_queue_is_no_fault_of_the_network() {
    let node = node_without_a_reactor();
    while node.shared.mailboxes[0].post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
    let error = node.connect("127.0.0.1:9", 0).expect_err("nobody looks");
    assert!(matches!(error, ConnectError::Busy), "{error}");
    assert!(error.to_string().contains("commands_max"), "{error}");
    let connection = ConnectionId { reactor: ReactorId::new(0, 0), key: Default::default() };
    let outcome = node.flush_within(connection, Duration::from_secs(10));
    assert_eq!(outcome, Err(FlushError::Busy));
    let sent = node.send_within(connection, Envelope::data(), b"x", Duration::from_millis(5));
    assert_eq!(sent, Err(SendError::Busy));
}

#[test]
fn call_is_answered_at_once_when_its_reactor_ends() {
    let node = node_without_a_reactor();
    let mailbox = &node.shared.mailboxes[0];
    let connection = ConnectionId { reactor: ReactorId::new(0, 0), key: Default::default() };
    let check = |call: &dyn Fn() -> Result<(), SendError>| {
        let start = Nanos::now();
        assert_eq!(call(), Err(SendError::ShutDown));
        assert!(Nanos::now().since(start) < ANSWER_TIMEOUT / 2, "it was not told");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while mailbox.is_empty() {
                std::thread::yield_now();
            }
            mailbox.close();
        });
        check(&|| node.send_to(connection, Envelope::data(), b"x"));
    });
    check(&|| node.broadcast(Envelope::data(), b"x").map(drop));
    check(&|| node.send_to(connection, Envelope::data(), b"x"));
    check(&|| node.post_to(connection, Envelope::data(), b"x"));
    assert!(node.connections().is_empty());
}

#[test]
fn posts_that_a_reactor_leaves_behind_are_counted() {
    let node = node_without_a_reactor();
    let mailbox = &node.shared.mailboxes[0];
    let connection = ConnectionId { reactor: ReactorId::new(0, 0), key: Default::default() };
    let pool = node.node_pool(vec![PoolId::of_nobody(0)]);
    node.post_to(connection, Envelope::data(), b"x").expect("room");
    pool.post(Choice::LeastQueued, Envelope::data(), b"x").expect("room");
    assert_eq!(node.statistics().posts_dropped, 0);
    mailbox.close();
    assert_eq!(node.statistics().posts_dropped, 2);
}

#[test]
fn pool_is_closed_although_the_queue_is_full() {
    let node = node_without_a_reactor();
    let mailbox = &node.shared.mailboxes[0];
    let pool = node.node_pool(vec![PoolId::of_nobody(0)]);
    while mailbox.post(Command::Shutdown { deadline: Nanos(0) }).is_ok() {}
    let expected = ShutdownReport { connections: 3, ..ShutdownReport::default() };
    std::thread::scope(|scope| {
        let closer = scope.spawn(|| pool.close(Duration::from_secs(10)));
        let soon = Nanos::now() + Duration::from_millis(20);
        while Nanos::now() < soon {
            assert!(!closer.is_finished(), "it has given up");
            std::thread::yield_now();
        }
        // As a reactor that comes to it late.
        let deadline = Nanos::now() + Duration::from_secs(5);
        loop {
            assert!(Nanos::now() < deadline, "nothing is asked");
            match mailbox.take() {
                Some(Command::Pool(PoolCommand::Close { asker: Some(asker), .. })) => {
                    asker.send(expected).expect("somebody waits");
                    break;
                }
                _ => std::thread::yield_now(),
            }
        }
        assert_eq!(closer.join().expect("no panic"), expected);
    });
}

#[test]
fn pool_that_can_not_be_asked_is_not_closed() {
    let node = node_without_a_reactor();
    let pool = node.node_pool(vec![PoolId::of_nobody(0)]);
    node.shared.mailboxes[0].post(Command::Shutdown { deadline: Nanos(0) }).expect("room");
    // The question takes the last place.
    let outcome = pool.wait_ready(Duration::from_millis(1));
    assert!(matches!(outcome, Err(ConnectError::Busy)), "{outcome:?}");
}

/// It costs the member that refused its session.
#[test]
fn full_member_is_one_only_where_it_loses_its_session() {
    let attempts = |overflow| {
        let config = Config::builder().overflow(Priority::Normal, overflow);
        let node = without_reactors(1, config);
        let pool = node.node_pool(vec![PoolId::of_nobody(0); 3]);
        let mut attempts = 0;
        let outcome = pool.offer(Choice::LeastQueued, Envelope::data(), |_| {
            attempts += 1;
            Err(SendError::Full)
        });
        assert_eq!(outcome, Err(SendError::Full));
        attempts
    };
    assert_eq!(attempts(Overflow::Reject), 3);
    assert_eq!(attempts(Overflow::Disconnect), 1);
}

//! Trouble that the kernel makes, provoked on purpose.

use std::cell::Cell;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringwire::{
    CloseReason, Config, ConnectionState, Envelope, EventKind, Idle, Kind, Nanos, Reactor,
    RequestError, Server, Wait, WatchKey,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, gettid, set_capabilities};
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use crate::bed::silent;
use crate::refused::refuse;
use crate::util::{
    COMMAND, DATA, Greeting, HELLO, NORMAL, PATIENCE, Peer, Plain, RESPONSE, STATUS, WELCOME,
    client, client_and_peer, client_with, config, descriptors_that, echo, endpoint, isolated,
    open_descriptors, pattern, reactor_with_peers, settings, start, wait_for, wait_until,
};

fn limit(resource: Resource, to: u64) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(resource);
    setrlimit(resource, Rlimit { current: Some(to), maximum }).expect("below the hard limit");
    current
}

#[test]
fn no_descriptor_for_the_next_connection() {
    isolated(|| {
        // An accept keeps the limit of when it was armed, so the limit comes first.
        let usual = limit(Resource::Nofile, open_descriptors() as u64 + 30);
        let server = start(echo());
        let ringwire::Address::Tcp(address) = server.addresses()[0] else { panic!("TCP") };
        let mut well = Peer::connect(&server);
        let mut spare = Some(std::fs::File::open("/dev/null").expect("a descriptor"));
        let mut peers = Vec::new();
        while server.statistics().accept_errors == 0 {
            let Ok(stream) = std::net::TcpStream::connect(address) else {
                // None is left for this side. With the spare one there is none for the server.
                drop(spare.take().expect("the server does not get one more"));
                continue;
            };
            let mut peer = Peer::new(crate::util::Stream::Tcp(stream));
            peer.write(&Greeting::default().frame(HELLO).encode());
            peers.push(peer);
            let established = peers.len() as u64 + 1;
            wait_for(&server, "it is accepted or not", |s| {
                s.accept_errors > 0 || s.connections_established == established
            });
        }
        assert!(peers.len() > 5, "the limit was met at the right place: {}", peers.len());
        assert_eq!(well.ask(b"still there?"), b"still there?");
        limit(Resource::Nofile, usual.unwrap_or(4096));
        // Whoever waited is served now, and so is the next.
        for peer in &mut peers {
            assert_eq!(peer.frame().kind, WELCOME);
            assert_eq!(peer.ask(b"late"), b"late");
        }
        assert_eq!(Peer::connect(&server).ask(b"next"), b"next");
    });
}

#[test]
fn too_few_descriptors_to_start_is_an_error_and_leaves_nothing() {
    isolated(|| {
        let open = open_descriptors() as u64;
        let usual = getrlimit(Resource::Nofile).current.unwrap_or(4096);
        let mut failures = 0;
        for more in 0..30 {
            limit(Resource::Nofile, open - 1 + more);
            let outcome = echo().reactors(3).start();
            limit(Resource::Nofile, usual);
            match outcome {
                Ok(server) => {
                    assert_eq!(Peer::connect(&server).ask(b"x"), b"x");
                    drop(server);
                    assert!(more > 6, "three rings, listeners and eventfds with {more}");
                    assert!(failures > 6, "the limit was never met");
                    return;
                }
                Err(error) => {
                    failures += 1;
                    let text = error.to_string();
                    assert!(text.contains("ulimit -n"), "{more}: {text}");
                }
            }
            wait_until("the failed start left nothing open", || open_descriptors() as u64 == open);
        }
        panic!("30 descriptors are not enough");
    });
}

/// Whoever only polls learns of a ring that has failed: the session is over, its watch misses, and
/// who waits for an answer is told.
#[test]
fn ring_that_fails_ends_every_session() {
    isolated(|| {
        for idle in [Idle::Park, Idle::Adaptive, Idle::Spin] {
            let before = open_descriptors();
            check_ring_that_fails(idle);
            wait_until("every descriptor is closed again", || open_descriptors() == before);
        }
    });
}

fn check_ring_that_fails(idle: Idle) {
    let server = start(silent());
    let settings = settings().idle(idle).express(true);
    let mut client = client_with(settings.build().expect("valid"), &endpoint(&server));
    let missed = Rc::new(Cell::new(false));
    let seen = Rc::clone(&missed);
    client.on_deadline_missed(move |_, watched| seen.set(watched.ended.is_some()));
    client.watch(WatchKey::Kind(Kind::Data), 60 * PATIENCE).expect("there is room");
    let id = client.start_request(Envelope::command(), b"?", PATIENCE).expect("room");
    client.flush();
    // The kernel's answer to every call on it from here on: there is no ring.
    let null = std::fs::File::open("/dev/null").expect("a descriptor");
    let rings = descriptors_that(|target| target.contains("io_uring"));
    assert!(rings.len() >= 2, "the server's and the client's: {rings:?}");
    let own = *rings.last().expect("just counted");
    // SAFETY: the descriptor stays open, and its owner is still who closes it.
    let mut ring = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(own) });
    rustix::io::dup2(&null, &mut ring).expect("it is replaced");
    client.send(Envelope::command(), b"into the void").expect("room");
    wait_until("it is known", || {
        client.poll();
        client.connection_state() == ConnectionState::Disconnected
    });
    let reason = client.disconnected_reason();
    assert!(matches!(reason, Some(CloseReason::Socket { .. })), "{reason:?}");
    let outcome = client.take_response(id).expect("it is told");
    assert!(matches!(outcome, Err(RequestError::ConnectionLost { .. })), "{outcome:?}");
    assert!(missed.get(), "its watch is told that it is over");
    let told = || client.poll_event().map(|event| event.kind);
    let kinds: Vec<_> = std::iter::from_fn(told).collect();
    let is_end = |kind: &EventKind| matches!(kind, EventKind::Disconnected { .. });
    assert_eq!(kinds.iter().filter(|kind| is_end(kind)).count(), 1, "{kinds:?}");
    assert!(client.run_for(PATIENCE).is_err());
    let refused = client.connect(&endpoint(&server));
    assert!(refused.is_err(), "it is of no further use");
}

fn tiny_ring(idle: Idle) -> Config {
    let settings = settings().idle(idle).ring_entries(8).connections_max(600);
    settings.build().expect("valid")
}

/// Hundreds of connections through a ring of 8 entries, while the reactor is busy and after.
fn check_tiny_ring(idle: Idle) {
    let (entered, is_entered) = crossbeam_channel::unbounded();
    let (release, is_released) = crossbeam_channel::unbounded();
    let hold = move |_: &mut ringwire::Context<'_>, _: ringwire::Frame<'_>| {
        entered.send(()).expect("the test waits");
        is_released.recv_timeout(PATIENCE).expect("the test releases");
    };
    let server = start(echo().config(tiny_ring(idle)).on(Kind::Status, hold));
    let mut first = Peer::connect(&server);
    let held = |first: &mut Peer| {
        first.send(Plain::new(STATUS, NORMAL, b"hold"));
        is_entered.recv_timeout(PATIENCE).expect("the handler runs");
    };
    // While the reactor stands in a handler, all this gathers in the kernel.
    held(&mut first);
    let mut peers: Vec<_> = (0..300).map(|_| Peer::dial(&server.addresses()[0])).collect();
    for peer in &mut peers {
        peer.write(&Greeting::default().frame(HELLO).encode());
    }
    release.send(()).expect("the handler waits");
    for peer in &mut peers {
        assert_eq!(peer.frame().kind, WELCOME);
    }
    for round in 0..5_u8 {
        held(&mut first);
        for peer in &mut peers {
            for _ in 0..3 {
                peer.send(Plain::new(COMMAND, NORMAL, &[round; 100]));
            }
        }
        release.send(()).expect("the handler waits");
        for peer in &mut peers {
            for _ in 0..3 {
                assert_eq!(peer.frame().payload, [round; 100]);
            }
        }
    }
    let report = server.broadcast(Envelope::data(), b"to all").expect("it runs");
    assert_eq!(report.queued(), 301);
    for peer in &mut peers {
        assert_eq!(peer.frame().payload, b"to all");
    }
    let statistics = server.statistics();
    assert!(statistics.cq_overflows > 0, "64 entries never overflowed: {statistics:?}");
    assert_eq!(statistics.connections_active, 301);
    assert_eq!(statistics.messages_received, 6 + 300 * 15);
    // All of them go at once.
    held(&mut first);
    drop(peers);
    release.send(()).expect("the handler waits");
    wait_for(&server, "all are gone", |s| s.connections_active == 1);
    assert_eq!(first.frame().payload, b"to all");
    assert_eq!(first.ask(b"x"), b"x");
}

#[test]
fn tiny_ring_overflows_and_loses_nothing_parked() {
    isolated(|| check_tiny_ring(Idle::Park));
}

#[test]
fn tiny_ring_overflows_and_loses_nothing_adaptive() {
    isolated(|| check_tiny_ring(Idle::Adaptive));
}

/// A short send whose completion finds no room in the queue must not pass for a whole one.
#[test]
fn short_sends_reported_late_are_continued() {
    isolated(|| {
        let (entered, is_entered) = crossbeam_channel::unbounded();
        let (release, is_released) = crossbeam_channel::unbounded();
        let settings = settings().ring_entries(8).connections_max(200);
        let settings = settings.zero_copy_bytes_min(0).tcp_send_buffer_bytes(8 << 10);
        let server = Server::builder()
            .config(settings.build().expect("valid"))
            .listen("127.0.0.1:0")
            .on(Kind::Status, move |_, _| {
                entered.send(()).expect("the test waits");
                is_released.recv_timeout(PATIENCE).expect("the test releases");
            })
            .on(Kind::Data, |context, frame| {
                let seed = u64::from(frame.payload()[0]);
                context.reply(Envelope::data(), &pattern(60_000, seed)).expect("room");
            });
        let server = start(server);
        let mut first = Peer::connect(&server);
        let mut peers: Vec<_> =
            (0..150).map(|_| Peer::dial_narrow(&server.addresses()[0])).collect();
        first.send(Plain::new(STATUS, NORMAL, b"hold"));
        is_entered.recv_timeout(PATIENCE).expect("the handler runs");
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(Plain::new(DATA, NORMAL, &[number as u8]));
        }
        release.send(()).expect("the handler waits");
        wait_for(&server, "all have asked", |s| s.messages_received == 151);
        for (number, peer) in peers.iter_mut().enumerate() {
            assert!(peer.frame().payload == pattern(60_000, number as u64), "peer {number}");
        }
        let statistics = server.statistics();
        assert!(statistics.short_sends >= 150, "{statistics:?}");
        assert!(statistics.cq_overflows > 0, "64 entries never overflowed: {statistics:?}");
    });
}

/// Sends a signal to a thread that waits in its ring, and waits until it has been handled.
///
/// That the thread waits is what /proc says of a blocked thread only (proc_pid_syscall(5)): so the
/// signal arrives during the wait. kill(2) with the number of a thread prefers that thread; the
/// test runs beside the main thread of its process, which would else take it.
fn interrupt_wait(thread: Pid, handled: &AtomicBool) {
    let path = format!("/proc/self/task/{}/syscall", thread.as_raw_nonzero());
    let enter = format!("{} ", libc::SYS_io_uring_enter);
    wait_until("the thread waits in its ring", || {
        std::fs::read_to_string(&path).expect("a thread of ours").starts_with(&enter)
    });
    assert!(!handled.load(Ordering::SeqCst), "one signal at a time");
    kill_process(thread, Signal::USR1).expect("a thread of ours");
    wait_until("the signal is handled", || handled.swap(false, Ordering::SeqCst));
}

/// A flag that SIGUSR1 sets.
fn signal_flag() -> Arc<AtomicBool> {
    let handled = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGUSR1, Arc::clone(&handled)).expect("a handler");
    handled
}

#[test]
fn interrupted_wait_returns_before_its_deadline() {
    isolated(|| {
        let mut reactor = Reactor::new(&config()).expect("a ring");
        let handled = signal_flag();
        let thread = gettid();
        for _ in 0..20 {
            std::thread::scope(|scope| {
                let signalling = scope.spawn(|| interrupt_wait(thread, &handled));
                // Nothing else ends this turn before its time.
                let limit = Nanos::now() + PATIENCE;
                let turn = reactor.turn(Wait::Until(limit)).expect("EINTR is no error");
                assert_eq!(turn.completions, 0);
                assert!(Nanos::now() < limit, "the wait was not interrupted");
                signalling.join().expect("no panic");
            });
        }
        let statistics = reactor.statistics();
        assert_eq!(statistics.parks, 20, "each signal ended one wait");
        assert_eq!(statistics.enobufs, 0);
    });
}

/// A client whose waits are interrupted before, in the middle of and after each answer.
#[test]
fn signals_harm_no_traffic() {
    isolated(|| {
        let handled = signal_flag();
        let thread = gettid();
        let (mut client, mut peer) = client_and_peer(config());
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| {
                for _ in 0..20 {
                    let request = peer.frame();
                    interrupt_wait(thread, &handled);
                    interrupt_wait(thread, &handled);
                    let answer = Plain::new(STATUS, NORMAL, &request.payload);
                    let answer = answer.correlated(RESPONSE, request.correlation);
                    let bytes = peer.stamp(answer).encode();
                    let (first, rest) = bytes.split_at(bytes.len() / 2);
                    peer.write(first);
                    interrupt_wait(thread, &handled);
                    peer.write(rest);
                }
                peer
            });
            for round in 0..20 {
                let payload = pattern(20_000, round);
                let answer = client.request(Envelope::command(), &payload, PATIENCE).expect("one");
                assert!(answer.payload()[..] == payload);
            }
            drop(answering.join().expect("no panic"));
        });
        assert_eq!(client.statistics().enobufs, 0);
    });
}

/// An enter that may wait is refused with `errno`; one that may not wait goes through.
fn check_refused_enter(errno: i32) {
    // So many that what is sent to all of them goes through the ring.
    let (mut reactor, mut peers) = reactor_with_peers(&config(), 3);
    let waits = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 1);
    let rule = SeccompRule::new(vec![waits.expect("the third argument")]).expect("a rule");
    refuse(libc::SYS_io_uring_enter, vec![rule], errno);
    let lacks = u64::from(errno != libc::EINTR);
    for round in 0..5_u64 {
        let before = reactor.statistics();
        let payload = pattern(1_000, round);
        for info in reactor.connections() {
            reactor.send(info.id, Envelope::data(), &payload).expect("room");
        }
        let limit = Nanos::now() + PATIENCE;
        let turn = reactor.turn(Wait::Until(limit)).expect("it passes");
        assert_eq!(turn.completions, 0);
        assert!(Nanos::now() < limit, "the wait was not refused");
        let after = reactor.statistics();
        assert_eq!(after.parks - before.parks, 1, "it was about to wait");
        assert_eq!(after.enobufs - before.enobufs, lacks, "error number {errno}");
        let queued: Vec<u64> = reactor.connections().iter().map(|it| it.frames_queued).collect();
        assert_eq!(queued, [1, 1, 1], "they live on, and what was not submitted stays queued");
        reactor.turn(Wait::Poll).expect("a turn");
        for peer in &mut peers {
            assert!(peer.frame().payload == payload, "once, and in order");
        }
        peers[0].send(Plain::new(DATA, NORMAL, &payload));
        let mut message = None;
        wait_until("it is received", || {
            reactor.turn(Wait::Poll).expect("a turn");
            message = reactor.receive();
            message.is_some()
        });
        assert!(message.expect("just seen").payload()[..] == payload);
    }
}

/// The kernel has no memory for the moment, or too many completions wait (io_uring_enter(2)).
#[test]
fn refused_enter_is_no_error_and_loses_nothing() {
    isolated(|| {
        for errno in [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM, libc::ENOBUFS] {
            // A filter stays as long as its thread.
            let checking = std::thread::spawn(move || check_refused_enter(errno));
            checking.join().expect("no panic");
        }
    });
}

/// Too little lockable memory to register send memory: it runs unregistered, zero-copy or not.
#[test]
fn too_little_lockable_memory_runs_unregistered() {
    isolated(|| {
        limit(Resource::Memlock, 600 << 10);
        let mut sets = capabilities(None).expect("own capabilities");
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, sets).expect("giving one up is allowed");
        let config = settings().zero_copy_bytes_min(16 << 10).build().expect("valid");
        let server = start(echo().config(config));
        let mut peer = Peer::connect(&server);
        let id = server.clients()[0].id;
        let payload = pattern(3 << 20, 1);
        for _ in 0..5 {
            server.send_to(id, Envelope::data(), &payload).expect("room");
            assert!(peer.frame().payload == payload);
            assert_eq!(peer.ask(b"x"), b"x");
        }
        let statistics = server.statistics();
        assert!(statistics.zero_copy_sends > 0, "zero-copy was tried: {statistics:?}");
        // Without registered buffers the kernel charges the pages of each such send, and refuses
        // it with ENOMEM (io_uring/notif.h, io_notif_account_mem).
        assert!(statistics.enobufs > 0, "no send was refused: {statistics:?}");
        assert!(statistics.enobufs < 10, "it did not try for ever: {statistics:?}");
    });
}

#[test]
fn short_sends_are_continued() {
    isolated(|| {
        let settings = settings().tcp_send_buffer_bytes(8 << 10).zero_copy_bytes_min(0);
        // Room for all three behind each other.
        let settings = settings.lane_bytes_max(4 << 20);
        let server = start(echo().config(settings.build().expect("valid")));
        let mut peer = Peer::dial_narrow(&server.addresses()[0]);
        let id = server.clients()[0].id;
        let payload = pattern(1 << 20, 4);
        for _ in 0..3 {
            server.send_to(id, Envelope::data(), &payload).expect("room");
        }
        wait_for(&server, "a send is short", |s| s.short_sends > 0);
        for _ in 0..3 {
            assert!(peer.frame().payload == payload);
        }
        // And the next goes out in one piece again.
        assert_eq!(peer.ask(b"x"), b"x");
    });
}

#[test]
fn both_ends_survive_narrow_sockets_in_both_directions() {
    isolated(|| {
        let settings = settings().tcp_send_buffer_bytes(8 << 10).tcp_receive_buffer_bytes(8 << 10);
        let config = settings.build().expect("valid");
        let server = start(echo().config(config.clone()));
        let mut client = client_with(config, &endpoint(&server));
        let payload = pattern(300_000, 6);
        for _ in 0..3 {
            let answer = client.request(Envelope::command(), &payload, PATIENCE).expect("one");
            assert!(answer.payload()[..] == payload);
        }
        client.send(Envelope::data(), b"last").expect("room");
        client.flush();
        assert_eq!(server.receive(PATIENCE).expect("one").payload()[..], *b"last");
    });
}

#[test]
fn listener_and_clients_of_one_process_share_nothing_but_the_kernel() {
    isolated(|| {
        let servers = [(); 3].map(|()| start(echo()));
        let mut clients: Vec<_> = servers.iter().map(|server| client(&endpoint(server))).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            let index = index as u32;
            client.send(Envelope::data(), &index.to_le_bytes()).expect("room");
            client.flush();
        }
        for (index, server) in servers.iter().enumerate() {
            let message = server.receive(PATIENCE).expect("a message");
            assert_eq!(message.payload()[..], (index as u32).to_le_bytes());
            wait_for(server, "it is counted, once", |s| s.messages_received == 1);
        }
        let mut peer = Peer::connect(&servers[0]);
        peer.send(Plain::new(DATA, NORMAL, b"x"));
        servers[0].receive(PATIENCE).expect("a message");
    });
}

//! Nobody who reads slowly costs more than bounded memory, or delays anybody else; nothing that
//! was admitted is lost; what is urgent overtakes.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ringwire::error::DropReason;
use ringwire::{
    Address, Client, CloseReason, Config, ConfigBuilder, Envelope, Idle, Kind, Nanos, Node,
    Overflow, Priority, Reactor, SendError, Server, Wait,
};

use crate::util::{
    CRITICAL, DATA, Greeting, HELLO, HIGH, LOW, NORMAL, PATIENCE, Peer, Plain, Stream, WELCOME,
    client_and_peer, client_and_peer_over_unix, client_with, echo, endpoint, isolated, pattern,
    plain_listener, resident_kib, settings, start, timed, wait_for, wait_until,
};

/// Small kernel buffers and a lane of 256 KiB. Who reads nothing is not given up, however slowly
/// the test goes on meanwhile.
fn narrow() -> ConfigBuilder {
    settings()
        .heartbeat_interval_ms(0)
        .tcp_user_timeout_ms(0)
        .frame_bytes_max(64 << 10)
        .lane_bytes_max(256 << 10)
        .send_memory_bytes(4 << 20)
        .receive_memory_bytes(1 << 20)
        .tcp_send_buffer_bytes(32 << 10)
}

fn valid(settings: ConfigBuilder) -> Config {
    settings.build().expect("valid")
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_le_bytes(payload[..4].try_into().expect("it begins with its number"))
}

fn numbered(number: u32, bytes: usize) -> Vec<u8> {
    let mut payload = vec![number as u8; bytes];
    payload[..4].copy_from_slice(&number.to_le_bytes());
    payload
}

/// Sends numbered messages until the lane is full, twice in a row with a turn between. Returns how
/// many were admitted.
fn fill(client: &mut Client, priority: Priority, bytes: usize) -> u32 {
    let envelope = Envelope::data().priority(priority);
    let mut admitted = 0;
    let mut refused = 0;
    while refused < 50 {
        assert!(admitted < 100_000, "the lane never fills");
        match client.send(envelope, &numbered(admitted, bytes)) {
            Ok(()) => {
                admitted += 1;
                refused = 0;
            }
            Err(SendError::Full | SendError::MemoryFull) => {
                refused += 1;
                client.poll();
            }
            Err(error) => panic!("{error}"),
        }
    }
    admitted
}

/// A peer stops reading until the client's lane is full, then reads on: everything comes, in
/// order, and the lane takes messages again.
fn check_stalled_peer(idle: Idle, bytes: usize) {
    let (mut client, mut peer) = client_and_peer(valid(narrow().idle(idle)));
    let before = resident_kib();
    let admitted = fill(&mut client, Priority::Normal, bytes);
    assert!(admitted as usize * bytes > 200 << 10, "less than a lane was admitted: {admitted}");
    let info = client.connection().expect("connected");
    // What waits, the block in flight (a frame or 64 KiB), and the frame that reached the bound.
    let bound = (256 << 10) + (bytes.max(64 << 10) + bytes + 64) as u64;
    assert!(info.bytes_queued <= bound, "{info:?}");
    assert!(info.bytes_queued > 100 << 10, "the lane is not what is full: {info:?}");
    // A send that was not tried in one go waits for room without being short.
    assert!(bytes > 16 << 10 || client.statistics().short_sends > 0, "the socket was never full");
    assert!(client.statistics().sends_refused >= 50);
    // Kernel buffers are not resident here; the lane and what the test holds are.
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 8192, "{grown} KiB for a lane of 256");

    let (done, is_done) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        for number in 0..admitted {
            assert_eq!(peer.frame().payload, numbered(number, bytes));
        }
        done.send(()).expect("the test waits");
        assert_eq!(peer.frame().payload, b"after");
        peer
    });
    wait_until("everything admitted has arrived", || {
        client.poll();
        is_done.try_recv().is_ok()
    });
    client.send(Envelope::data(), b"after").expect("room again");
    client.flush();
    let peer = reading.join().expect("in order and intact");
    assert_eq!(client.connection().expect("connected").bytes_queued, 0);
    drop(peer);
}

/// A lane that drops its oldest messages stays as long as it is, and nothing is refused: when its
/// peer reads on, what is sent leaves all the same, also of a sender that never polls.
fn check_crowded_lane(idle: Idle, bytes: usize, in_batches: bool) {
    let (go_on, may_go_on) = crossbeam_channel::bounded(1);
    let newest = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&newest);
    let server = start(Server::builder().config(valid(narrow())).listen("127.0.0.1:0").on(
        Kind::Data,
        move |_, frame| {
            let number = number_of(frame.payload());
            if number == 1 {
                // Nothing is read meanwhile: this is the reactor's thread.
                may_go_on.recv_timeout(PATIENCE).expect("the lane is full");
            }
            seen.store(number, Relaxed);
        },
    ));
    let config = narrow().idle(idle).overflow(Priority::Normal, Overflow::DropOldest);
    let mut client = client_with(valid(config), &endpoint(&server));
    let mut sent = 0;
    let mut send_some = |client: &mut Client| {
        let count = (64_000 / bytes) as u32;
        let bodies: Vec<_> = (1..=count).map(|more| numbered(sent + more, bytes)).collect();
        sent += count;
        let slices = bodies.iter().map(Vec::as_slice);
        if in_batches {
            assert_eq!(client.send_all(Envelope::data(), slices).refused, None);
        } else {
            for body in slices {
                client.send(Envelope::data(), body).expect("the oldest makes room");
            }
        }
        sent
    };
    // Not by the count of drops: that is told with what leaves.
    let mut found_full = 0;
    wait_until("the lane stays full", || {
        send_some(&mut client);
        let queued = client.connection().expect("connected").bytes_queued;
        found_full += u32::from(queued >= 256 << 10);
        found_full > 20
    });
    go_on.send(()).expect("the handler waits");
    let after = send_some(&mut client);
    wait_until("what is sent now arrives", || {
        send_some(&mut client);
        newest.load(Relaxed) > after
    });
    client.poll();
    assert!(client.statistics().dropped(DropReason::Overflow) > 0, "there was room for all");
}

#[test]
fn lane_that_drops_its_oldest_leaves_by_itself() {
    isolated(|| {
        for idle in [Idle::Park, Idle::Adaptive, Idle::Spin] {
            // A lane full of the shorter ones is just below a multiple of 64 KiB, of the longer
            // ones just above: at every message it is as if it had grown past it.
            for (bytes, in_batches) in [(64, false), (64, true), (1000, false), (1000, true)] {
                check_crowded_lane(idle, bytes, in_batches);
            }
        }
    });
}

#[test]
fn stalled_peer_fills_the_lane_and_gets_everything_parked() {
    isolated(|| check_stalled_peer(Idle::Park, 1000));
}

#[test]
fn stalled_peer_fills_the_lane_and_gets_everything_spinning() {
    isolated(|| check_stalled_peer(Idle::Spin, 1000));
}

#[test]
fn stalled_peer_gets_large_frames_intact() {
    isolated(|| check_stalled_peer(Idle::Park, 60_000));
}

/// A spinning client tries a full socket again by itself: the ring has nothing to do with it.
#[test]
fn spinning_client_tries_a_full_socket_again() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer_over_unix(valid(narrow().idle(Idle::Spin)));
        let admitted = fill(&mut client, Priority::Normal, 1000);
        let stalled = client.statistics();
        assert!(stalled.short_sends > 0, "the socket was never full");
        for number in 0..admitted {
            if number % 4 == 0 {
                client.poll();
            }
            assert_eq!(peer.frame().payload, numbered(number, 1000));
        }
        assert_eq!(client.connection().expect("connected").bytes_queued, 0);
        let after = client.statistics();
        assert_eq!(after.completions, stalled.completions, "the ring has sent something");
        assert!(after.direct_sends > stalled.direct_sends, "{after:?}");
    });
}

/// A short block is sent from where it waits. Of the one that the full socket takes in part, or not
/// at all, nothing is lost and nothing comes twice.
#[test]
fn short_block_that_meets_a_full_socket_comes_once() {
    isolated(|| {
        let config = || valid(narrow().idle(Idle::Spin));
        for (mut client, mut peer) in
            [client_and_peer(config()), client_and_peer_over_unix(config())]
        {
            let mut count = 0;
            while client.statistics().short_sends == 0 {
                assert!(count < 100_000, "the socket is never full");
                client.send(Envelope::data(), &numbered(count, 1000)).expect("room in the lane");
                // Each by itself: the lane was empty before.
                client.poll();
                count += 1;
            }
            for number in 0..count {
                client.poll();
                assert_eq!(peer.frame().payload, numbered(number, 1000));
            }
            client.send(Envelope::data(), b"after").expect("room");
            client.flush_within(PATIENCE).expect("the peer reads");
            assert_eq!(peer.frame().payload, b"after");
            assert_eq!(client.statistics().messages_sent, u64::from(count) + 1);
        }
    });
}

/// One that a peer does not read from for long is left to the ring, and tried again after that.
#[test]
fn socket_that_stays_full_is_left_to_the_ring() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer_over_unix(valid(narrow().idle(Idle::Spin)));
        let admitted = fill(&mut client, Priority::Normal, 1000);
        for _ in 0..1000 {
            client.poll();
        }
        let stalled = client.statistics();
        for number in 0..admitted {
            client.poll();
            assert_eq!(peer.frame().payload, numbered(number, 1000));
        }
        let after = client.statistics();
        assert!(after.completions > stalled.completions, "the ring was not asked: {after:?}");
        let direct = after.direct_sends;
        client.send(Envelope::data(), b"after").expect("room again");
        client.flush_within(PATIENCE).expect("the peer reads");
        assert_eq!(peer.frame().payload, b"after");
        assert_eq!(client.statistics().direct_sends, direct + 1, "tried past the ring again");
    });
}

/// A reactor that has spun for long enough sleeps, and the ring wakes it when there is room.
#[test]
fn full_socket_is_left_to_the_ring_before_a_sleep() {
    isolated(|| {
        let config = narrow().idle(Idle::Adaptive).idle_spin_us(20);
        let (mut client, mut peer) = client_and_peer_over_unix(valid(config));
        let admitted = fill(&mut client, Priority::Normal, 1000);
        let completions = client.statistics().completions;
        let counters = client.reactor().counters();
        let before = counters.parks.get();
        let reading = std::thread::spawn(move || {
            wait_until("the client sleeps", || counters.parks.get() > before);
            for number in 0..admitted {
                assert_eq!(peer.frame().payload, numbered(number, 1000));
            }
            peer
        });
        client.flush_within(PATIENCE).expect("it is woken when there is room");
        let after = client.statistics();
        assert!(after.completions > completions, "the ring was not asked: {after:?}");
        drop(reading.join().expect("in order and intact"));
    });
}

/// Long messages that wait for a full socket leave whole and in order, however much room their
/// reader makes at a time, and no wait for it lasts.
#[test]
fn long_messages_leave_in_order_as_room_comes() {
    isolated(|| {
        let config = narrow().idle(Idle::Spin).lane_bytes_max(2 << 20).send_memory_bytes(16 << 20);
        let (mut client, mut peer) = client_and_peer_over_unix(valid(config));
        let admitted = fill(&mut client, Priority::Normal, 40_000);
        let reading = std::thread::spawn(move || {
            for number in 0..admitted {
                assert_eq!(peer.frame().payload, numbered(number, 40_000));
            }
            peer
        });
        let deadline = Nanos::now() + PATIENCE;
        let mut left = client.connection().expect("connected").bytes_queued;
        while left > 0 {
            client.reactor().turn(Wait::Until(deadline)).expect("the ring works");
            assert!(Nanos::now() < deadline, "{left} bytes are left");
            left = client.connection().expect("connected").bytes_queued;
        }
        drop(reading.join().expect("in order and intact"));
    });
}

/// Also where all that waited leaves at once, past the ring: no completion tells of it.
#[test]
fn waiting_for_room_ends_when_all_has_left() {
    let config = settings().idle(Idle::Spin).heartbeat_interval_ms(0).lane_bytes_max(32 << 10);
    // The socket has room for all of it, and nobody reads.
    let (mut client, _peer) = client_and_peer(valid(config));
    let counters = client.reactor().counters();
    for round in 0..3 {
        while client.send(Envelope::data(), &[0; 1000]).is_ok() {}
        if round > 0 {
            // Ahead of the wait already.
            client.flush();
        }
        let before = counters.spins.get();
        client.reactor().turn(Wait::Until(Nanos::now() + PATIENCE)).expect("the ring works");
        assert_eq!(counters.spins.get(), before, "round {round}: it waits, and the lane is empty");
        client.send(Envelope::data(), &[0; 1000]).expect("there is room");
    }
}

/// A connection that the kernel gives up says so, whoever meets the error first.
#[test]
fn error_that_a_send_past_the_ring_meets_is_the_reason() {
    isolated(|| {
        let config = narrow().idle(Idle::Spin).reconnect(false).tcp_user_timeout_ms(300);
        let (mut client, peer) = client_and_peer(valid(config));
        fill(&mut client, Priority::Normal, 1000);
        let Stream::Tcp(tcp) = &peer.stream else { panic!("it is of TCP") };
        let ports = [tcp.peer_addr(), tcp.local_addr()].map(|end| end.expect("connected").port());
        let row = format!("0100007F:{:04X} 0100007F:{:04X}", ports[0], ports[1]);
        // Nobody touches the socket from when something waits in it on.
        wait_until("the kernel gives up", || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").expect("proc(5)");
            let Some(line) = sockets.lines().find(|line| line.contains(&row)) else { return true };
            if line.contains(" 00000000:") {
                while client.send(Envelope::data(), &[0; 1000]).is_ok() {}
                client.flush();
            }
            false
        });
        wait_until("the client learns of it", || {
            client.flush();
            client.poll();
            client.disconnected_reason().is_some()
        });
        let reason = client.disconnected_reason();
        assert_eq!(reason, Some(CloseReason::Socket { errno: libc::ETIMEDOUT }));
    });
}

/// What waits for its socket when the client leaves, or its peer does, is counted as dropped.
#[test]
fn stalled_messages_are_counted_when_the_connection_ends() {
    isolated(|| {
        let config = valid(narrow().idle(Idle::Spin).reconnect(false).session_linger_ms(0));
        let (mut client, peer) = client_and_peer_over_unix(config.clone());
        fill(&mut client, Priority::Normal, 1000);
        let report = client.disconnect(Duration::from_millis(20));
        assert!(report.messages_dropped > 100, "{report:?}");
        assert_eq!(client.statistics().messages_dropped, report.messages_dropped);
        drop(peer);

        let (mut client, peer) = client_and_peer_over_unix(config);
        fill(&mut client, Priority::Normal, 1000);
        // Gone with something unread, which resets its end (unix(7), ECONNRESET).
        drop(peer);
        wait_until("the client sees its peer go", || {
            client.poll();
            client.disconnected_reason().is_some()
        });
        assert!(client.statistics().messages_dropped > 100, "{:?}", client.statistics());
    });
}

/// A client that never polls and never waits: what waits for room in the socket goes on with what
/// it does do, sending and `flush`.
fn check_only_flushes(idle: Idle) {
    const MESSAGES: u32 = 5000;
    let (mut client, mut peer) = client_and_peer(valid(narrow().idle(idle)));
    let reading = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            assert_eq!(peer.frame().payload, numbered(number, 1000));
        }
        peer
    });
    let mut sent = 0;
    let mut refused = 0;
    wait_until("everything is admitted", || {
        while sent < MESSAGES {
            match client.send(Envelope::data(), &numbered(sent, 1000)) {
                Ok(()) => sent += 1,
                Err(SendError::Full | SendError::MemoryFull) => {
                    refused += 1;
                    client.flush();
                    return false;
                }
                Err(error) => panic!("{error}"),
            }
        }
        true
    });
    assert!(refused > 0, "the lane was never full: nothing was tested");
    wait_until("everything has left", || {
        client.flush();
        client.connection().expect("connected").bytes_queued == 0
    });
    drop(reading.join().expect("in order and intact"));
}

#[test]
fn client_that_only_flushes_gets_everything_across_parked() {
    isolated(|| check_only_flushes(Idle::Park));
}

#[test]
fn client_that_only_flushes_gets_everything_across_spinning() {
    isolated(|| check_only_flushes(Idle::Spin));
}

/// A lane that ends the session instead of refusing.
#[test]
fn session_ends_with_the_first_message_that_has_no_room() {
    isolated(|| {
        let config = narrow().overflow(Priority::Normal, Overflow::Disconnect).reconnect(false);
        let (mut client, mut peer) = client_and_peer(valid(config));
        let (mut admitted, refused) = (
            0,
            loop {
                if let Err(error) = client.send(Envelope::data(), &[0; 1000]) {
                    break error;
                }
            },
        );
        assert_eq!(refused, SendError::Full);
        wait_until("the session is over", || {
            client.poll();
            client.disconnected_reason().is_some()
        });
        assert_eq!(client.disconnected_reason(), Some(CloseReason::SlowPeer));
        assert_eq!(client.send(Envelope::data(), &[0; 8]), Err(SendError::NotConnected));
        // The peer reads what was on its way, and the end.
        while peer.try_frame().is_ok() {
            admitted += 1;
        }
        assert!(admitted > 0);
    });
}

#[test]
fn frames_max_bounds_the_lane_too() {
    isolated(|| {
        let (mut client, _peer) = client_and_peer(valid(settings().lane_frames_max(10)));
        for _ in 0..10 {
            client.send(Envelope::data(), b"x").expect("room");
        }
        assert_eq!(client.send(Envelope::data(), b"x"), Err(SendError::Full));
        // Each lane has its own bound.
        client.send(Envelope::data().critical(), b"x").expect("room");
        client.flush();
        client.send(Envelope::data(), b"x").expect("room again");
    });
}

#[test]
fn refused_message_changes_nothing() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(valid(settings().lane_frames_max(2)));
        for round in 0..50_u8 {
            client.send(Envelope::data(), &[round]).expect("room");
            client.send(Envelope::data(), &[round]).expect("room");
            assert_eq!(client.send(Envelope::data(), &[99]), Err(SendError::Full));
            client.flush();
            client.poll();
            // The peer checks the sequences: a refused message must not use one up.
            assert_eq!(peer.frame().payload, [round]);
            assert_eq!(peer.frame().payload, [round]);
        }
    });
}

/// One client stops reading what a server broadcasts; the other gets its answers meanwhile, and
/// every broadcast.
#[test]
fn stalled_client_delays_nobody_else() {
    isolated(|| {
        let server = start(echo().config(valid(narrow())));
        let mut stalled = Peer::dial_narrow(&server.addresses()[0]);
        let mut well = Peer::connect(&server);
        let before = resident_kib();
        let mut refused = 0;
        let mut queued = 0;
        for number in 0..3000_u32 {
            let report = server.broadcast(Envelope::data(), &numbered(number, 4000)).expect("runs");
            assert_eq!(report.outcomes.len(), 2);
            refused += report.refused().count();
            queued += report.queued() - 1;
            assert_eq!(well.frame().payload, numbered(number, 4000));
            if number % 100 == 0 {
                assert_eq!(well.ask(b"still there?"), b"still there?");
            }
        }
        assert!(refused > 1000, "the stalled client's lane never filled: {refused}");
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 8192, "{grown} KiB for one stalled client");
        // It reads on and finds what was admitted for it, in order.
        let mut last = None;
        for _ in 0..queued {
            let number = number_of(&stalled.frame().payload);
            assert!(last < Some(number), "{number} after {last:?}");
            last = Some(number);
        }
        server.broadcast(Envelope::data(), &numbered(7, 10)).map(drop).expect("runs");
        assert_eq!(number_of(&stalled.frame().payload), 7);
    });
}

/// Slow readers together can not take all the send memory: one that reads is still served.
#[test]
fn many_stalled_clients_leave_memory_for_the_others() {
    isolated(|| {
        let server = start(echo().config(valid(narrow().send_memory_bytes(1 << 20))));
        let stalled: Vec<_> = (0..20).map(|_| Peer::dial_narrow(&server.addresses()[0])).collect();
        for number in 0..300_u32 {
            server.broadcast(Envelope::data(), &numbered(number, 4000)).map(drop).expect("runs");
        }
        assert!(server.statistics().sends_refused > 0, "memory never ran out");
        let mut well = Peer::connect(&server);
        for _ in 0..100 {
            assert_eq!(well.ask(&[5; 2000]), [5; 2000]);
        }
        drop(stalled);
    });
}

/// One message to clients that hold nothing: it is queued for all of them, while the send memory
/// could hold it four times over.
fn check_first_broadcast(bytes: usize, clients: u32, send_memory_bytes: u64) {
    assert!(4 * bytes as u64 * u64::from(clients) <= send_memory_bytes, "nowhere near its end");
    let settings = settings().connections_max(clients).send_memory_bytes(send_memory_bytes);
    let settings = settings.in_place_bytes_min(u32::MAX);
    let server = start(echo().config(valid(settings)));
    let mut peers: Vec<_> = (0..clients).map(|_| Peer::connect(&server)).collect();
    for round in 0..3 {
        let payload = pattern(bytes, round);
        let report = server.broadcast(Envelope::data(), &payload).expect("it runs");
        let refused: Vec<_> = report.refused().map(|(_, error)| error).collect();
        assert_eq!((report.queued(), refused), (clients as usize, Vec::new()), "round {round}");
        for peer in &mut peers {
            assert_eq!(peer.frame().payload, payload);
        }
    }
    assert_eq!(server.statistics().sends_refused, 0);
}

#[test]
fn first_broadcast_of_large_frames_reaches_everybody() {
    isolated(|| check_first_broadcast(1_000_000, 13, 64 << 20));
}

#[test]
fn first_broadcast_of_frames_beyond_a_block_reaches_everybody() {
    isolated(|| check_first_broadcast(100_000, 64, 64 << 20));
}

#[test]
fn first_broadcast_of_short_frames_reaches_everybody() {
    isolated(|| check_first_broadcast(8_000, 250, 16 << 20));
}

/// What is sent from where it is takes no send memory: neither for the clients that read nor for
/// those that do not.
#[test]
fn broadcast_of_large_frames_in_place_takes_no_send_memory() {
    isolated(|| {
        let settings = settings().send_memory_bytes(16 << 20).tcp_send_buffer_bytes(32 << 10);
        let server = start(echo().config(valid(settings)));
        let slow: Vec<_> = (0..40).map(|_| Peer::dial_narrow(&server.addresses()[0])).collect();
        let mut well = Peer::connect(&server);
        wait_for(&server, "all are there", |statistics| statistics.connections_active == 41);
        for number in 0..40 {
            server.broadcast(Envelope::data(), &numbered(number, 100_000)).map(drop).expect("runs");
            assert_eq!(number_of(&well.frame().payload), number);
        }
        let statistics = server.statistics();
        assert!(statistics.sends_refused > 0, "the lanes of the slow ones are bounded");
        assert_eq!(statistics.sends_out_of_memory, 0, "{statistics}");
        drop(slow);
    });
}

/// Slow clients together have all the send memory they may; one that keeps up gets everything.
fn check_one_keeps_up(bytes: usize) {
    let settings = settings().send_memory_bytes(16 << 20).tcp_send_buffer_bytes(32 << 10);
    let settings = settings.in_place_bytes_min(u32::MAX);
    let server = start(echo().config(valid(settings)));
    let slow: Vec<_> = (0..40).map(|_| Peer::dial_narrow(&server.addresses()[0])).collect();
    let mut well = Peer::connect(&server);
    wait_for(&server, "all are there", |statistics| statistics.connections_active == 41);
    let rounds = (40 << 20) / 40 / bytes as u32 * 2;
    for number in 0..rounds {
        let report = server.broadcast(Envelope::data(), &numbered(number, bytes)).expect("runs");
        assert!(report.refused().all(|(_, error)| error != SendError::NotConnected));
        assert_eq!(number_of(&well.frame().payload), number, "refused for the one that reads");
    }
    let statistics = server.statistics();
    assert!(statistics.sends_out_of_memory > 100, "memory never ran out: {statistics}");
    drop(slow);
}

#[test]
fn client_that_keeps_up_is_served_among_many_that_do_not() {
    isolated(|| check_one_keeps_up(4_000));
}

#[test]
fn client_that_keeps_up_is_served_large_frames_among_many_that_do_not() {
    isolated(|| check_one_keeps_up(100_000));
}

/// A long message gets its room in the inbox however many short ones come.
#[test]
fn long_message_is_not_overtaken_for_ever() {
    isolated(|| {
        let config = settings().idle(Idle::Park).inbox_bytes_max(64 << 10);
        let mut reactor = Reactor::new(&valid(config.frame_bytes_max(64 << 10))).expect("a ring");
        let address = reactor.listen(&"127.0.0.1:0".parse().expect("well formed")).expect("free");
        let mut peers: Vec<Peer> = (0..3).map(|_| Peer::dial(&address)).collect();
        for peer in &mut peers {
            peer.write(&Greeting::default().frame(HELLO).encode());
        }
        wait_until("all are connected", || {
            reactor.turn(Wait::Poll).expect("the ring works");
            reactor.statistics().connections_active == 3
        });
        // Short ones of two peers fill the inbox; more than that stand in the sockets.
        for peer in &mut peers[1..] {
            (0..100).for_each(|_| peer.send(Plain::new(DATA, NORMAL, &[1; 1000])));
        }
        wait_until("the inbox is full", || {
            reactor.turn(Wait::Poll).expect("the ring works");
            reactor.statistics().receive_pauses > 0
        });
        peers[0].send(Plain::new(DATA, NORMAL, &[2; 60_000]));
        wait_until("the long one waits", || {
            reactor.turn(Wait::Poll).expect("the ring works");
            reactor.statistics().receive_pauses > 2
        });
        // One is taken a turn, and as fast comes another.
        let taken = (0..200).find(|_| {
            let message = reactor.receive().expect("it is full");
            reactor.turn(Wait::Poll).expect("the ring works");
            message.payload().len() == 60_000
        });
        let taken = taken.expect("it comes before all short ones have");
        assert!(taken < 150, "behind {taken} others, of which 64 were there before it");
    });
}

/// A node of two reactors, and a peer of each.
fn two_reactors(settings: ConfigBuilder) -> (Node, [Peer; 2]) {
    let config = valid(settings.idle(Idle::Park).heartbeat_interval_ms(0));
    let node = Node::builder().config(config).reactors(2).start().expect("it starts");
    let peers = [0, 1].map(|reactor| {
        let (listener, endpoint) = plain_listener();
        let accepting = std::thread::spawn(move || Peer::accept(&listener));
        node.connect(&endpoint, reactor).expect("the peer listens");
        accepting.join().expect("the handshake completes")
    });
    (node, peers)
}

/// Waits until a reactor holds its peer back.
fn wait_until_held_back(node: &Node, reactor: usize) {
    wait_until("the inbox has no room", || node.counters()[reactor].receive_pauses.get() > 0);
}

/// The next message, of a thread so slow that the reactors fill the inbox up again meanwhile, as
/// far as they may.
fn receive_slowly(node: &Node) -> Vec<u8> {
    let received = || node.statistics().messages_received;
    let before = received();
    let message = node.receive(PATIENCE).expect("it is full");
    let until = Nanos::now() + Duration::from_millis(5);
    while received() == before && Nanos::now() < until {
        std::thread::park_timeout(Duration::from_micros(100));
    }
    message.payload().to_vec()
}

/// Nor does one reactor of a node overtake another.
#[test]
fn long_message_is_not_overtaken_by_those_of_another_reactor() {
    isolated(|| {
        for (short, long) in [(0, 1), (1, 0)] {
            let settings = settings().inbox_bytes_max(64 << 10).frame_bytes_max(64 << 10);
            let (node, mut peers) = two_reactors(settings);
            (0..250).for_each(|_| peers[short].send(Plain::new(DATA, NORMAL, &[1; 1000])));
            wait_until_held_back(&node, short);
            peers[long].send(Plain::new(DATA, NORMAL, &[2; 60_000]));
            wait_until_held_back(&node, long);
            let taken = (0..150).find(|_| receive_slowly(&node).len() == 60_000);
            assert!(taken.is_some(), "150 came before it, of which 65 were there");
        }
    });
}

/// Receives slowly through a tiny inbox what `send` sends; everything comes, in order.
fn check_inbox(count: u32, send: impl FnOnce() + Send, mut receive: impl FnMut() -> Vec<u8>) {
    std::thread::scope(|scope| {
        let sending = scope.spawn(send);
        for number in 0..count {
            assert_eq!(number_of(&receive()), number, "in order, nothing lost");
        }
        sending.join().expect("no panic");
    });
}

fn tiny_inbox() -> Config {
    valid(narrow().inbox_frames_max(4).tcp_receive_buffer_bytes(16 << 10))
}

#[test]
fn full_shared_inbox_holds_the_sender_back() {
    isolated(|| {
        let server = start(Server::builder().config(tiny_inbox()).listen("127.0.0.1:0"));
        let mut peer = Peer::connect(&server);
        let (sent, is_sent) = mpsc::channel();
        let send = move || {
            for number in 0..2000 {
                peer.send(Plain::new(DATA, NORMAL, &numbered(number, 4000)));
                let _ = sent.send(number);
            }
        };
        wait_for(&server, "the client is there", |s| s.connections_active == 1);
        let mut first = true;
        let receive = || {
            if std::mem::take(&mut first) {
                wait_for(&server, "the inbox is full", |s| s.receive_pauses > 0);
            }
            server.receive(PATIENCE).expect("a message").payload().to_vec()
        };
        check_inbox(2000, send, receive);
        assert_eq!(is_sent.iter().count(), 2000);
        wait_for(&server, "all are counted", |s| s.messages_received == 2000);
    });
}

#[test]
fn full_local_inbox_holds_the_sender_back() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(tiny_inbox());
        let sending = std::thread::spawn(move || {
            for number in 0..2000 {
                peer.send(Plain::new(DATA, NORMAL, &numbered(number, 4000)));
            }
            // Kept open until everything was read.
            peer.expect_end();
        });
        wait_until("the inbox is full", || {
            client.poll();
            client.statistics().receive_pauses > 0
        });
        assert_eq!(client.statistics().messages_received, 4);
        for number in 0..2000 {
            let message = client.receive(PATIENCE).expect("a message");
            assert_eq!(number_of(message.payload()), number);
        }
        assert_eq!(client.disconnect(PATIENCE).flushed, 1);
        sending.join().expect("no panic");
    });
}

/// With one place in the inbox of several reactors, each message still comes: also the last of a
/// round, which has no other behind it to push it along.
#[test]
fn reactors_sharing_a_full_inbox_lose_nothing() {
    isolated(|| {
        for per_reactor in [1, 3] {
            let config = valid(narrow().inbox_frames_max(1).idle(Idle::Adaptive));
            let node = Node::builder().config(config).reactors(3).start().expect("it starts");
            let mut peers: Vec<_> = (0..3 * per_reactor)
                .map(|number| {
                    let (listener, endpoint) = plain_listener();
                    let accepting = std::thread::spawn(move || Peer::accept(&listener));
                    node.connect(&endpoint, number).expect("the peer listens");
                    accepting.join().expect("the handshake completes")
                })
                .collect();
            for round in 0..1500_u32 {
                for peer in &mut peers {
                    peer.send(Plain::new(DATA, NORMAL, &round.to_le_bytes()));
                }
                for _ in 0..peers.len() {
                    let message = node.receive(PATIENCE).expect("none is left behind");
                    assert_eq!(number_of(message.payload()), round);
                }
            }
        }
    });
}

/// A reactor that waits for memory or inbox room sleeps meanwhile.
fn check_sleeps_while_paused(server: &Server) {
    wait_for(server, "a connection is held back", |s| s.receive_pauses > 0);
    let turns = server.statistics().turns;
    let ((), took) = timed(|| std::thread::park_timeout(Duration::from_millis(200)));
    let turned = u128::from(server.statistics().turns - turns);
    // A thread that did not sleep would turn every few microseconds.
    assert!(turned < 50 + took.as_millis() / 10, "{turned} turns in {took:?} of waiting");
}

#[test]
fn reactor_sleeps_while_the_inbox_has_no_room_for_the_next_message() {
    isolated(|| {
        let config = valid(narrow().inbox_bytes_max(64 << 10));
        let server = start(Server::builder().config(config).listen("127.0.0.1:0"));
        let mut peer = Peer::connect(&server);
        // The second is larger than what is left, although there is room for a small one.
        let payload = pattern(40_000, 1);
        peer.send(Plain::new(DATA, NORMAL, &payload));
        peer.send(Plain::new(DATA, NORMAL, &payload));
        check_sleeps_while_paused(&server);
        for _ in 0..2 {
            assert!(server.receive(PATIENCE).expect("a message").payload()[..] == payload);
        }
    });
}

#[test]
fn reactor_sleeps_while_large_frames_wait_for_memory() {
    isolated(|| {
        let config = valid(
            settings().frame_bytes_max(1 << 20).receive_memory_bytes(2 << 20).frame_timeout_ms(500),
        );
        let server = start(echo().config(config));
        let mut peers: Vec<_> = (0..6).map(|_| Peer::connect(&server)).collect();
        let mut well = Peer::connect(&server);
        for peer in &mut peers {
            let frame = peer.stamp(Plain::new(DATA, NORMAL, &vec![1; 900_000])).encode();
            peer.write(&frame[..100_000]);
        }
        check_sleeps_while_paused(&server);
        assert_eq!(well.ask(b"small"), b"small");
        // They never finish: each is closed in its time, and the memory serves others again.
        for peer in &mut peers {
            peer.expect_end();
        }
        let payload = pattern(900_000, 3);
        well.send(Plain::new(DATA, NORMAL, &payload));
        assert!(server.receive(PATIENCE).expect("a message").payload()[..] == payload);
    });
}

/// A reactor whose receive memory holds two frames of [`LARGE_BYTES`].
fn reactor_with_little_memory() -> (Reactor, Address) {
    let config = settings().idle(Idle::Park).heartbeat_interval_ms(0).frame_bytes_max(1 << 20);
    let config = valid(config.receive_memory_bytes(2 << 20));
    let mut reactor = Reactor::new(&config).expect("a ring");
    let address = reactor.listen(&"127.0.0.1:0".parse().expect("well formed")).expect("free");
    (reactor, address)
}

const LARGE_BYTES: usize = 900_000;

/// A peer of `reactor`, connected.
fn greet(reactor: &mut Reactor, address: &Address) -> Peer {
    let before = reactor.statistics().connections_active;
    let mut peer = Peer::dial(address);
    peer.write(&Greeting::default().frame(HELLO).encode());
    wait_until("it is connected", || {
        reactor.turn(Wait::Poll).expect("the ring works");
        reactor.statistics().connections_active == before + 1
    });
    assert_eq!(peer.frame().kind, WELCOME);
    peer
}

/// Turns until everything that has come is read, or waits.
fn settle(reactor: &mut Reactor) {
    wait_until("nothing comes", || {
        let until = Nanos::now() + Duration::from_millis(50);
        reactor.turn(Wait::Until(until)).expect("the ring works").completions == 0
    });
}

/// Turns until `count` messages have come, and returns their lengths.
#[track_caller]
fn lengths(reactor: &mut Reactor, count: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    wait_until("they have come", || {
        reactor.turn(Wait::Poll).expect("the ring works");
        lengths.extend(reactor.receive().map(|message| message.payload().len()));
        lengths.len() == count
    });
    lengths
}

/// As many peers as are to be, each with a large frame begun whose bytes are its number. All but
/// two wait for memory. Returns what they have not sent yet.
fn begin_large_frames(
    reactor: &mut Reactor,
    address: &Address,
    count: u64,
) -> Vec<(Peer, Vec<u8>)> {
    let begin = |number: u64| {
        let mut peer = greet(reactor, address);
        let payload = vec![number as u8; LARGE_BYTES];
        let frame = peer.stamp(Plain::new(DATA, NORMAL, &payload)).encode();
        peer.write(&frame[..LARGE_BYTES / 2]);
        wait_until("it is read, or waits", || {
            let until = Nanos::now() + Duration::from_millis(50);
            let turn = reactor.turn(Wait::Until(until)).expect("the ring works");
            let pauses = reactor.statistics().receive_pauses;
            turn.completions == 0 && pauses == (number + 1).saturating_sub(2)
        });
        (peer, frame[LARGE_BYTES / 2..].to_vec())
    };
    (0..count).map(begin).collect()
}

/// Those that wait for memory get it in the order in which they began, and before anybody who
/// comes later; each waits once.
#[test]
fn memory_is_for_those_that_have_waited_longest() {
    isolated(|| {
        let (mut reactor, address) = reactor_with_little_memory();
        let mut peers = begin_large_frames(&mut reactor, &address, 7);
        for (peer, rest) in peers.iter_mut().rev() {
            peer.write(rest);
            // And is not done with that.
            let frame = peer.stamp(Plain::new(DATA, NORMAL, &[0xff; LARGE_BYTES])).encode();
            peer.write(&frame[..200_000]);
        }
        let mut order = Vec::new();
        wait_until("each has come", || {
            reactor.turn(Wait::Poll).expect("the ring works");
            let message = reactor.receive();
            order.extend(message.map(|message| message.payload()[0]));
            order.len() == peers.len()
        });
        // Two at a time have memory.
        order.chunks_mut(2).for_each(<[u8]>::sort_unstable);
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6]);
    });
}

/// What is kept for the next large frame stands in nobody's way. Here it would be half of each of
/// the two buffers for the longest.
#[test]
fn kept_memory_leaves_room_for_the_longest_frame() {
    const HALF_BYTES: usize = 400_000;
    isolated(|| {
        let (mut reactor, address) = reactor_with_little_memory();
        let mut peers: Vec<Peer> = (0..3).map(|_| greet(&mut reactor, &address)).collect();
        let begin = |reactor: &mut Reactor, peer: &mut Peer, bytes: usize| {
            let frame = peer.stamp(Plain::new(DATA, NORMAL, &vec![1; bytes])).encode();
            peer.write(&frame[..100_000]);
            settle(reactor);
            frame[100_000..].to_vec()
        };
        let [first, second, between] = &mut peers[..] else { unreachable!("three of them") };
        let rest = begin(&mut reactor, first, HALF_BYTES);
        first.write(&rest);
        assert_eq!(lengths(&mut reactor, 1), [HALF_BYTES]);
        // The next receive of the first is armed, with what it keeps.
        settle(&mut reactor);
        let rest_between = begin(&mut reactor, between, HALF_BYTES);
        let rest = begin(&mut reactor, second, HALF_BYTES);
        for (peer, rest) in [(between, rest_between), (&mut *second, rest)] {
            peer.write(&rest);
            assert_eq!(lengths(&mut reactor, 1), [HALF_BYTES]);
            settle(&mut reactor);
        }
        let rests = [&mut *first, &mut *second].map(|peer| begin(&mut reactor, peer, LARGE_BYTES));
        for (peer, rest) in [first, second].into_iter().zip(rests) {
            peer.write(&rest);
        }
        assert_eq!(lengths(&mut reactor, 2), [LARGE_BYTES; 2]);
        drop(peers);
        wait_until("they are gone", || {
            reactor.turn(Wait::Poll).expect("the ring works");
            reactor.statistics().connections_active == 0
        });
        let mut next = greet(&mut reactor, &address);
        let rest = begin(&mut reactor, &mut next, LARGE_BYTES);
        next.write(&rest);
        assert_eq!(lengths(&mut reactor, 1), [LARGE_BYTES]);
    });
}

/// How long after another frame a frame is handled for which that was in the way: both are of a
/// length of which the receive memory holds two, and nobody wakes the reactor between them.
fn wait_for_memory_given_back() -> Duration {
    let (mut reactor, address) = reactor_with_little_memory();
    let mut peers = begin_large_frames(&mut reactor, &address, 3);
    for index in [2, 0] {
        let (peer, rest) = &mut peers[index];
        peer.write(rest);
    }
    let until_next = |reactor: &mut Reactor| {
        let ((), took) = timed(|| {
            while reactor.receive().is_none() {
                let until = Nanos::now() + PATIENCE;
                reactor.turn(Wait::Until(until)).expect("the ring works");
            }
        });
        took
    };
    until_next(&mut reactor);
    until_next(&mut reactor)
}

/// Memory that one connection gives back when its next receive is armed is another's at once.
#[test]
fn memory_given_back_before_sleeping_is_used() {
    isolated(|| {
        // Otherwise it sleeps until the registry is due, 45 ms. The machine may be slow now and
        // then.
        let is_soon = || wait_for_memory_given_back() < Duration::from_millis(20);
        assert!((0..30).any(|_| is_soon()), "it slept although there was memory");
    });
}

/// Fills the low lane against a peer that does not read, then queues `urgent`; they must come
/// before the low messages that were queued, each lane in order.
fn check_overtaking(urgent: Priority, byte: u8) {
    let (mut client, mut peer) = client_and_peer(valid(narrow()));
    let low = fill(&mut client, Priority::Low, 1000);
    let behind = client.connection().expect("connected").frames_queued;
    assert!(behind > 100, "only {behind} wait in the lane");
    for number in 0..5 {
        let envelope = Envelope::data().priority(urgent);
        client.send(envelope, &numbered(number, 1000)).expect("a lane of its own");
    }
    let reading = std::thread::spawn(move || {
        let mut order = Vec::new();
        for _ in 0..low + 5 {
            let frame = peer.frame();
            order.push((frame.priority, number_of(&frame.payload)));
        }
        order
    });
    wait_until("everything has left", || {
        client.poll();
        reading.is_finished()
    });
    let order = reading.join().expect("no panic");
    let lane = |priority| order.iter().filter(move |(lane, _)| *lane == priority);
    assert!(lane(LOW).map(|&(_, number)| number).eq(0..low), "low stays in order");
    assert!(lane(byte).map(|&(_, number)| number).eq(0..5), "urgent stays in order");
    let last_urgent = order.iter().rposition(|&(lane, _)| lane == byte).expect("it came");
    let overtaken = order.len() - 1 - last_urgent;
    // What the socket and the block in flight held is in front of it.
    assert!(overtaken > 50, "only {overtaken} of {behind} were overtaken");
}

#[test]
fn critical_overtakes_low() {
    isolated(|| check_overtaking(Priority::Critical, CRITICAL));
}

#[test]
fn high_overtakes_low() {
    isolated(|| check_overtaking(Priority::High, HIGH));
}

#[test]
fn normal_overtakes_low() {
    isolated(|| check_overtaking(Priority::Normal, NORMAL));
}

#[test]
fn lanes_queued_together_leave_by_priority() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(valid(settings()));
        for priority in Priority::ALL {
            for number in 0..3 {
                let envelope = Envelope::data().priority(priority);
                client.send(envelope, &numbered(number, 8)).expect("room");
            }
        }
        client.flush();
        for priority in [CRITICAL, HIGH, NORMAL, LOW] {
            for number in 0..3 {
                let frame = peer.frame();
                assert_eq!((frame.priority, number_of(&frame.payload)), (priority, number));
            }
        }
    });
}

#[test]
fn node_answers_full_at_once() {
    isolated(|| {
        let server = start(echo().config(valid(narrow())));
        let _stalled = Peer::dial_narrow(&server.addresses()[0]);
        let id = server.clients()[0].id;
        let outcome = (0..100_000)
            .find_map(|number| server.send_to(id, Envelope::data(), &numbered(number, 4000)).err());
        assert_eq!(outcome, Some(SendError::Full));
        // Another client, with the library's own end, is served.
        let mut client = client_with(valid(settings()), &endpoint(&server));
        client.request(Envelope::command(), b"hello", PATIENCE).expect("an answer");
        // Posted without waiting, a refused message is counted.
        while server.statistics().posts_dropped == 0 {
            match server.post_to(id, Envelope::data(), &numbered(0, 4000)) {
                Ok(()) | Err(SendError::Busy) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
}

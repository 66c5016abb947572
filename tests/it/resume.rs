//! Sessions that outlive their connections: a real client and a real server, and between them a
//! proxy that breaks the link.

use std::collections::VecDeque;
use std::time::Duration;

use ringwire::{
    Checksum, Client, CloseReason, Config, ConfigBuilder, ConnectionId, ConnectionState, Envelope,
    Event, EventKind, Idle, Message, Nanos, Priority, ReceiveError, SendError, Server,
    ServerBuilder, Wait,
};

use crate::proxy::{Fault, Plan, Proxy, Way};
use crate::util::{
    Greeting, PATIENCE, Peer, Stream, client_with, echo, endpoint, isolated, isolated_for,
    open_descriptors, pattern, plain_listener, resident_kib, settings, start, timed, wait_until,
};

/// Sessions of these settings outlive their connections.
pub(crate) fn settings_that_resume() -> ConfigBuilder {
    settings().reconnect(true)
}

pub(crate) fn valid(settings: ConfigBuilder) -> Config {
    settings.build().expect("valid")
}

/// A server, a proxy in front of it, and a client connected through that.
pub(crate) struct Bed {
    pub(crate) client: Client,
    pub(crate) proxy: Proxy,
    pub(crate) server: Server,
    /// What the server calls the session.
    pub(crate) id: ConnectionId,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(settings_that_resume(), settings_that_resume())
    }

    pub(crate) fn with(client: ConfigBuilder, server: ConfigBuilder) -> Self {
        Self::around(client, echo().config(valid(server)))
    }

    pub(crate) fn around(client: ConfigBuilder, server: ServerBuilder) -> Self {
        let server = start(server);
        let proxy = Proxy::new(&endpoint(&server));
        let mut client = client_with(valid(client), &proxy.endpoint());
        let id = loop {
            let event = server.wait(PATIENCE).expect("a client has come");
            if let ringwire::Incoming::Event(Event {
                connection, kind: EventKind::Connected, ..
            }) = event
            {
                break connection;
            }
        };
        let event = client.poll_event().expect("it is connected");
        assert_eq!(event.kind, EventKind::Connected);
        Self { client, proxy, server, id }
    }

    /// Turns the client until something is so.
    #[track_caller]
    pub(crate) fn turn_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Nanos::now() + PATIENCE;
        while !condition(self) {
            assert!(
                Nanos::now() < deadline,
                "in vain until {what}:\n{:?}\n{:?}",
                self.client.statistics(),
                self.server.statistics(),
            );
            turn(&mut self.client);
        }
    }

    /// Turns the client until it says so.
    #[track_caller]
    pub(crate) fn turn_until_event(
        &mut self,
        what: &str,
        is_it: impl Fn(&EventKind) -> bool,
    ) -> EventKind {
        let mut found = None;
        self.turn_until(what, |bed| {
            found = std::iter::from_fn(|| bed.client.poll_event())
                .map(|event| event.kind)
                .find(|kind| is_it(kind));
            found.is_some()
        });
        found.expect("the loop ends with it")
    }

    #[track_caller]
    pub(crate) fn turn_until_resumed(&mut self) {
        let _ = self
            .turn_until_event("it is resumed", |kind| matches!(kind, EventKind::Resumed { .. }));
    }

    /// The link is gone, the client knows it, and there is no way back until the proxy admits.
    #[track_caller]
    pub(crate) fn lose_link(&mut self, fault: Fault) {
        self.proxy.refuse();
        self.proxy.breaks(fault);
        self.turn_until("the link is lost", |bed| {
            bed.client.connection_state() == ConnectionState::Reconnecting
        });
    }
}

/// A turn of a millisecond at most.
pub(crate) fn turn(client: &mut Client) {
    let limit = Nanos::now() + Duration::from_millis(1);
    client.reactor().turn(Wait::Until(limit)).expect("a working ring");
}

/// The names of events, for what matters is their order.
pub(crate) fn name(kind: &EventKind) -> String {
    match kind {
        EventKind::Reconnecting { attempt } => format!("Reconnecting {attempt}"),
        kind => {
            let text = format!("{kind:?}");
            text.split([' ', '{']).next().expect("not empty").to_owned()
        }
    }
}

fn names_of_client(client: &mut Client) -> Vec<String> {
    std::iter::from_fn(|| client.poll_event()).map(|event| name(&event.kind)).collect()
}

/// What the server says, until it has said `last`.
pub(crate) fn events_of_server(server: &Server, last: &str) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    wait_until(&format!("the server says {last}"), || {
        events.extend(std::iter::from_fn(|| server.poll_event()));
        events.iter().any(|event| name(&event.kind) == last)
    });
    events
}

#[track_caller]
fn echoes(client: &mut Client) {
    let answer = client.request(Envelope::command(), b"still there?", PATIENCE);
    assert_eq!(answer.expect("an answer").payload()[..], *b"still there?");
}

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
        let expected = ["LinkLost", "Reconnecting 1", "Reconnecting 2", "Reconnecting 3"];
        assert_eq!(names[..4], expected);
        echoes(&mut bed.client);
        // The link is a new one, and it did not hold for long: the count goes on.
        bed.proxy.breaks(Fault::Cut);
        let kind = bed.turn_until_event("it dials again", |kind| {
            matches!(kind, EventKind::Reconnecting { .. })
        });
        assert!(matches!(kind, EventKind::Reconnecting { attempt } if attempt > 5), "{kind:?}");
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

#[test]
fn client_gives_up_after_so_many_attempts() {
    isolated(|| {
        let settings = settings_that_resume().reconnect_attempts_max(3);
        let bed = check_giving_up(settings, CloseReason::PeerClosed);
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
        let EventKind::SessionLost { undelivered } = &events[1].kind else { panic!("{events:?}") };
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

#[test]
fn disconnect_while_reconnecting_is_at_once() {
    isolated(|| {
        let mut bed = Bed::new();
        bed.lose_link(Fault::Cut);
        bed.client.send(Envelope::data().reliable(), b"never sent").expect("kept");
        let (report, took) = timed(|| bed.client.disconnect(PATIENCE));
        assert!(took < PATIENCE / 2, "{took:?}");
        assert_eq!((report.connections, report.flushed, report.messages_dropped), (0, 0, 1));
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
                    assert!(took < Duration::from_secs(1), "dropping took {took:?}");
                    continue;
                }
                let (_, took) = timed(|| bed.client.disconnect(Duration::from_secs(1)));
                assert!(took < Duration::from_secs(2), "disconnecting took {took:?}");
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
    let (listener, endpoint) = plain_listener();
    let accepting = std::thread::spawn(move || {
        let mut peer = Peer::new(Stream::Tcp(listener.accept().expect("a client").0));
        peer.welcome(greeting_that_resumes());
        peer
    });
    let config = settings_that_resume().tcp_send_buffer_bytes(16 << 10);
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
    assert!(client.connection().is_some(), "the send has not ended");
    (client, peer)
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

const LANES: [Priority; 4] = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];

/// Numbered messages one way, in all lanes.
#[derive(Debug, Default)]
struct Numbers {
    /// The number of the last message admitted, and of the last received, by lane.
    sent: [u64; 4],
    received: [u64; 4],
    /// How many of them there were: best effort, reliable.
    sent_of: [u64; 2],
    received_of: [u64; 2],
    /// Reliable messages that have not come yet, in order, by lane.
    awaited: [VecDeque<u64>; 4],
    /// How often a lane was full.
    refused: u64,
}

impl Numbers {
    /// Sends the next message of a lane.
    fn send(
        &mut self,
        rng: &mut fastrand::Rng,
        loose: bool,
        send: impl FnOnce(Envelope, &[u8]) -> Result<(), SendError>,
    ) {
        let lane = rng.usize(..4);
        let is_reliable = !loose || rng.bool();
        let number = self.sent[lane] + 1;
        let bytes = if rng.u8(..20) == 0 { rng.usize(16..40_000) } else { rng.usize(16..1500) };
        let mut payload = pattern(bytes, number);
        payload[..8].copy_from_slice(&number.to_le_bytes());
        payload[8] = u8::from(is_reliable);
        let mut envelope = Envelope::data().priority(LANES[lane]);
        if is_reliable {
            envelope = envelope.reliable();
        }
        match send(envelope, &payload) {
            Ok(()) => {
                self.sent[lane] = number;
                self.sent_of[usize::from(is_reliable)] += 1;
                if is_reliable {
                    self.awaited[lane].push_back(number);
                }
            }
            Err(SendError::Full | SendError::MemoryFull) => self.refused += 1,
            // The link is down.
            Err(SendError::NotConnected) if !is_reliable => {}
            Err(error) => panic!("message {number} of lane {lane}: {error}"),
        }
    }

    /// Checks that a message is the next: none is lost, none doubled, order is kept.
    fn receive(&mut self, message: &Message) {
        let payload = message.payload();
        let number = u64::from_le_bytes(payload[..8].try_into().expect("eight bytes"));
        let is_reliable = payload[8] == 1;
        let lane = LANES.iter().position(|&lane| lane == message.priority()).expect("a lane");
        assert!(number > self.received[lane], "lane {lane}: {number} after {:?}", self.received);
        assert_eq!(payload[9..], pattern(payload.len(), number)[9..], "it came unchanged");
        if is_reliable {
            let expected = self.awaited[lane].pop_front();
            assert_eq!(Some(number), expected, "lane {lane}, after {:?}", self.received);
        }
        self.received[lane] = number;
        self.received_of[usize::from(is_reliable)] += 1;
    }

    fn is_complete(&self) -> bool {
        self.awaited.iter().all(VecDeque::is_empty)
    }

    /// Best-effort messages that did not come.
    fn lost(&self) -> u64 {
        self.sent_of[0] - self.received_of[0]
    }
}

/// Numbered messages both ways.
#[derive(Debug, Default)]
struct Traffic {
    up: Numbers,
    down: Numbers,
    /// Half of the messages are best effort.
    loose: bool,
}

impl Traffic {
    /// Sends some both ways, and takes what has come.
    fn step(&mut self, bed: &mut Bed, rng: &mut fastrand::Rng) {
        for _ in 0..rng.u32(..8) {
            self.up.send(rng, self.loose, |envelope, body| bed.client.send(envelope, body));
        }
        for _ in 0..rng.u32(..8) {
            self.down
                .send(rng, self.loose, |envelope, body| bed.server.send_to(bed.id, envelope, body));
        }
        self.take(bed);
    }

    fn take(&mut self, bed: &mut Bed) {
        turn(&mut bed.client);
        while let Ok(message) = bed.client.receive(Duration::ZERO) {
            self.down.receive(&message);
        }
        while let Ok(message) = bed.server.receive(Duration::ZERO) {
            self.up.receive(&message);
        }
        while let Some(event) = bed.client.poll_event() {
            let is_over = matches!(
                event.kind,
                EventKind::SessionLost { .. } | EventKind::Disconnected { .. }
            );
            assert!(!is_over, "the client's session ended: {event:?}");
        }
        while let Some(event) = bed.server.poll_event() {
            let is_over = matches!(
                event.kind,
                EventKind::SessionLost { .. } | EventKind::Disconnected { .. }
            );
            let is_ours = event.connection == bed.id;
            assert!(!(is_over && is_ours), "the server's session ended: {event:?}");
        }
    }

    /// Takes the rest. Everything reliable has come, and the statistics add up.
    #[track_caller]
    fn finish(&mut self, bed: &mut Bed, seed: u64) {
        bed.proxy.plan(|_| Plan::default());
        bed.proxy.release();
        bed.proxy.admit();
        // The last link may have a plan of its own.
        bed.proxy.breaks(Fault::Cut);
        let deadline = Nanos::now() + PATIENCE;
        let is_settled = |bed: &Bed| {
            bed.client.connection_state() == ConnectionState::Connected
                && bed.server.statistics().connections_active == 1
        };
        while !(self.up.is_complete() && self.down.is_complete() && is_settled(bed)) {
            assert!(
                Nanos::now() < deadline,
                "seed {seed}: {} up and {} down have not come:\n{:?}\n{:?}",
                self.up.awaited.iter().map(VecDeque::len).sum::<usize>(),
                self.down.awaited.iter().map(VecDeque::len).sum::<usize>(),
                bed.client.statistics(),
                bed.server.statistics(),
            );
            self.take(bed);
        }
        // What is behind the last reliable message is best effort; a last link loses none of it.
        self.take_rest(bed);
        let (client, server) = (bed.client.statistics(), bed.server.statistics());
        assert_eq!((client.sessions_lost, server.sessions_lost), (0, 0), "seed {seed}");
        assert_eq!(client.messages_dropped, self.up.lost(), "seed {seed}: {client:?}");
        assert_eq!(server.messages_dropped, self.down.lost(), "seed {seed}: {server:?}");
        let received: u64 = self.up.received_of.iter().sum();
        assert_eq!(server.messages_received, received, "seed {seed}");
        let received: u64 = self.down.received_of.iter().sum();
        assert_eq!(client.messages_received, received, "seed {seed}");
    }

    /// A reliable message behind everything else in each lane: when it has come, all has.
    fn take_rest(&mut self, bed: &mut Bed) {
        for lane in LANES {
            let envelope = Envelope::data().priority(lane).reliable();
            let index = LANES.iter().position(|&other| other == lane).expect("a lane");
            for (numbers, up) in [(&mut self.up, true), (&mut self.down, false)] {
                let number = numbers.sent[index] + 1;
                let mut payload = pattern(16, number);
                payload[..8].copy_from_slice(&number.to_le_bytes());
                payload[8] = 1;
                let sent = match up {
                    true => bed.client.send(envelope, &payload),
                    false => bed.server.send_to(bed.id, envelope, &payload),
                };
                sent.expect("the lanes are empty");
                numbers.sent[index] = number;
                numbers.sent_of[1] += 1;
                numbers.awaited[index].push_back(number);
            }
        }
        let deadline = Nanos::now() + PATIENCE;
        while !(self.up.is_complete() && self.down.is_complete()) {
            assert!(Nanos::now() < deadline, "the last messages do not come");
            self.take(bed);
        }
    }
}

/// A server without handlers, so that what comes can be received.
pub(crate) fn silent() -> ServerBuilder {
    Server::builder().listen("127.0.0.1:0")
}

/// Traffic both ways over `links` links, each broken at a random byte.
fn check_traffic(loose: bool, seeds: std::ops::Range<u64>, links: u64) {
    check_traffic_with(settings_that_resume, loose, seeds, links);
}

fn check_traffic_with(
    settings: fn() -> ConfigBuilder,
    loose: bool,
    seeds: std::ops::Range<u64>,
    links: u64,
) {
    for seed in seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let builder = silent().config(valid(settings()));
        let client = settings().reconnect_delay_max_ms(8);
        let mut bed = Bed::around(client, builder);
        let mut plans = fastrand::Rng::with_seed(seed);
        bed.proxy.plan(move |_| {
            let way = if plans.bool() { Way::Up } else { Way::Down };
            let fault = [Fault::Cut, Fault::Reset, Fault::HalfOpen][plans.usize(..3)];
            // From within the handshake to some hundred messages.
            let at = 1 << plans.u64(4..18);
            Plan::new(way, at + plans.u64(..at), fault)
        });
        bed.proxy.breaks(Fault::Cut);
        let mut traffic = Traffic { loose, ..Traffic::default() };
        let deadline = Nanos::now() + PATIENCE;
        while bed.proxy.links() <= links {
            traffic.step(&mut bed, &mut rng);
            assert!(Nanos::now() < deadline, "seed {seed}: {} links", bed.proxy.links());
        }
        traffic.finish(&mut bed, seed);
        assert!(bed.client.statistics().sessions_resumed >= links / 4, "seed {seed}");
        if !loose {
            assert_eq!(traffic.up.lost() + traffic.down.lost(), 0, "seed {seed}");
        }
    }
}

#[test]
fn reliable_messages_survive_cuts_at_any_byte() {
    isolated(|| check_traffic(false, 0..6, 40));
}

/// Sends and receives by system calls of their own.
#[test]
fn spinning_ends_survive_cuts_at_any_byte() {
    fn spinning() -> ConfigBuilder {
        settings_that_resume().idle(Idle::Spin)
    }
    isolated(|| {
        check_traffic_with(spinning, false, 200..202, 20);
        check_traffic_with(spinning, true, 202..204, 20);
    });
}

/// Sends that the kernel makes from the buffers themselves, and reports twice.
#[test]
fn zero_copy_sends_survive_cuts_at_any_byte() {
    fn zero_copy() -> ConfigBuilder {
        settings_that_resume().zero_copy_bytes_min(64)
    }
    isolated(|| {
        check_traffic_with(zero_copy, false, 300..303, 30);
        check_traffic_with(zero_copy, true, 303..306, 30);
    });
}

/// Small windows and blocks: frames that move, and lanes that take many blocks.
#[test]
fn large_frames_survive_cuts_at_any_byte() {
    fn narrow() -> ConfigBuilder {
        settings_that_resume().window_bytes(4 << 10).block_bytes(4 << 10)
    }
    isolated(|| {
        check_traffic_with(narrow, false, 400..403, 30);
        check_traffic_with(narrow, true, 403..406, 30);
    });
}

/// An inbox that is always full: links are lost while they are not read.
#[test]
fn held_back_ends_survive_cuts_at_any_byte() {
    fn held_back() -> ConfigBuilder {
        settings_that_resume().inbox_frames_max(2)
    }
    isolated(|| {
        check_traffic_with(held_back, false, 500..504, 30);
        check_traffic_with(held_back, true, 504..508, 30);
    });
}

#[test]
fn best_effort_messages_are_lost_and_counted() {
    isolated(|| check_traffic(true, 100..106, 40));
}

/// For how long [`random_faults_lose_and_double_nothing`] runs, in seconds.
const SOAK: &str = "RINGWIRE_SOAK_SECONDS";

/// What may happen to a link, from a seed.
fn any_plan(rng: &mut fastrand::Rng) -> Plan {
    let way = if rng.bool() { Way::Up } else { Way::Down };
    let at = 1 << rng.u64(4..18);
    let fault = match rng.u8(..7) {
        0 | 1 => Fault::Cut,
        2 => Fault::Reset,
        3 => Fault::HalfOpen,
        4 | 5 => Fault::Corrupt { bit: rng.u8(..8) },
        _ => Fault::Stall { ms: rng.u32(1..100) },
    };
    let plan = Plan::new(way, at + rng.u64(..at), fault);
    match rng.u8(..8) {
        0 => Plan { trickle: rng.usize(1..100), ..plan },
        1 => Plan { delay: Duration::from_micros(rng.u64(..3000)), ..plan },
        _ => plan,
    }
}

/// Reliable traffic both ways under every fault the proxy knows, for 8 s, or as long as the
/// environment says.
#[test]
fn random_faults_lose_and_double_nothing() {
    let seconds = std::env::var(SOAK).ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    isolated_for(Duration::from_secs(seconds + 60), || {
        let seed = std::env::var("RINGWIRE_SOAK_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or(20);
        let settings = || {
            settings_that_resume()
                .checksum(Checksum::Always)
                .frame_timeout_ms(200)
                .handshake_timeout_ms(200)
                .reconnect_delay_max_ms(8)
                // Little memory, so that all of it is soon in use.
                .frame_bytes_max(256 << 10)
                .kept_bytes_max(512 << 10)
                .send_memory_bytes(4 << 20)
                .receive_memory_bytes(1 << 20)
                .inbox_bytes_max(1 << 20)
        };
        let mut bed = Bed::around(settings(), silent().config(valid(settings())));
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plans = fastrand::Rng::with_seed(seed + 1);
        bed.proxy.plan(move |_| any_plan(&mut plans));
        bed.proxy.breaks(Fault::Cut);
        let mut traffic = Traffic::default();
        let (begin, length) = (Nanos::now(), Duration::from_secs(seconds));
        let mut resident = 0;
        while Nanos::now() < begin + length {
            traffic.step(&mut bed, &mut rng);
            match rng.u16(..500) {
                0 => bed.proxy.breaks(Fault::Reset),
                1 => bed.proxy.refuse_for(rng.u32(..50)),
                2 => bed.proxy.hold_for(rng.u32(..50)),
                _ => {}
            }
            let is_warm = Nanos::now() > begin + length / 4;
            if resident == 0 && is_warm {
                resident = resident_kib();
            }
            assert!(open_descriptors() < 64, "{} descriptors", open_descriptors());
        }
        let grown = resident_kib().saturating_sub(resident);
        let (up, down) = (&traffic.up.received, &traffic.down.received);
        let summary = format!("{} faults, {up:?} up, {down:?} down", bed.proxy.faults());
        println!("{summary}; {} links; {grown} KiB more", bed.proxy.links());
        traffic.finish(&mut bed, seed);
        assert!(grown < 8192, "{grown} KiB more: {summary}");
        assert!(bed.proxy.faults() > 5 * seconds, "too quiet: {summary}");
        assert!(bed.client.statistics().sessions_resumed > 2 * seconds, "too quiet: {summary}");
        assert_eq!(traffic.up.lost() + traffic.down.lost(), 0, "{summary}");
    });
}

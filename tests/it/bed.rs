//! A real client and a real server, and between them a proxy that breaks the link: what the tests
//! of sessions stand on.

use std::time::Duration;

use ringwire::{
    Client, Config, ConfigBuilder, ConnectionId, ConnectionState, Envelope, Event, EventKind,
    Nanos, Server, ServerBuilder, Wait,
};

use crate::proxy::{Fault, Proxy};
use crate::util::{PATIENCE, client_with, echo, endpoint, settings, start, wait_until};

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
        assert_eq!(names_of_client(&mut client), ["Connecting", "Connected"]);
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
        EventKind::Reconnecting { attempt, .. } => format!("Reconnecting {attempt}"),
        kind => {
            let text = format!("{kind:?}");
            text.split([' ', '{']).next().expect("not empty").to_owned()
        }
    }
}

pub(crate) fn names_of_client(client: &mut Client) -> Vec<String> {
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
pub(crate) fn echoes(client: &mut Client) {
    let answer = client.request(Envelope::command(), b"still there?", PATIENCE);
    assert_eq!(answer.expect("an answer").payload()[..], *b"still there?");
}

/// A server without handlers, so that what comes can be received.
pub(crate) fn silent() -> ServerBuilder {
    Server::builder().listen("127.0.0.1:0")
}

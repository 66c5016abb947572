//! Peers that are replaced: the session's other end is gone for good.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringwire::{
    Client, ConnectionId, Envelope, EventKind, FlushError, Incoming, Kind, Message, Nanos,
    SendError, Sent, Server, Undelivered, WatchChange, WatchKey,
};

use crate::bed::{Bed, events_of_server, name, settings_that_resume, silent, turn, valid};
use crate::proxy::{Fault, Proxy};
use crate::util::{PATIENCE, client_with, echo, endpoint, isolated, start, wait_for, wait_until};

fn numbered(number: u64) -> [u8; 16] {
    let mut payload = [0; 16];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload
}

fn number_in(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().expect("eight bytes"))
}

fn number_of(message: &Message) -> u64 {
    number_in(message.payload())
}

/// The server is replaced by another one on the way: the client is told what the first one had not
/// confirmed, exactly, and goes on with the second.
#[test]
fn replaced_server_means_the_exact_list_and_a_new_session() {
    isolated(|| {
        let builder = silent().config(valid(settings_that_resume()));
        let mut bed = Bed::around(settings_that_resume(), builder);
        let id = bed.client.connection().expect("connected").id;
        let reliable = Envelope::data().reliable();
        for number in 1..=3 {
            bed.client.send(reliable, &numbered(number)).expect("queued");
        }
        // The answer of the same lane confirms them, the request included.
        let request = bed.client.start_request(Envelope::data(), &numbered(4), PATIENCE);
        let request = request.expect("queued");
        let mut answer = None;
        bed.turn_until("it is answered", |bed| {
            if let Ok(message) = bed.server.receive(Duration::ZERO)
                && message.is_request()
            {
                bed.server.reply(&message, Envelope::data(), b"!").expect("queued");
            }
            answer = bed.client.take_response(request);
            answer.is_some()
        });
        // These two leave and do not arrive; those after the cut do not even leave.
        bed.proxy.hold();
        for number in 5..=6 {
            bed.client.send(reliable, &numbered(number)).expect("queued");
        }
        bed.turn_until("they have left", |bed| bed.client.statistics().messages_sent == 6);
        bed.lose_link(Fault::Cut);
        for number in 7..=8 {
            bed.client.send(reliable, &numbered(number)).expect("kept");
        }
        let second = start(silent().config(valid(settings_that_resume())));
        bed.proxy.lead(&endpoint(&second));
        bed.proxy.release();
        bed.proxy.admit();

        let kind = bed.turn_until_event("the session is lost", |kind| {
            matches!(kind, EventKind::SessionLost { .. })
        });
        let EventKind::SessionLost { undelivered, .. } = kind else {
            unreachable!("just asked for")
        };
        let told: Vec<_> =
            undelivered.iter().map(|lost| (number_in(&lost.payload), lost.sent)).collect();
        let (maybe, never) = (Sent::Maybe, Sent::Never);
        assert_eq!(told, [(5, maybe), (6, maybe), (7, never), (8, never)]);
        assert!(undelivered.iter().all(|lost| lost.kind == Kind::Data && lost.type_id == 0));
        let kind = bed.turn_until_event("it is connected", |kind| *kind == EventKind::Connected);
        assert_eq!(kind, EventKind::Connected);

        // A fresh session under the old name; the application sends what it still wants to.
        assert_eq!(bed.client.connection().expect("connected").id, id);
        for lost in &undelivered {
            assert!(!lost.is_request && !lost.is_response);
            bed.client.send(lost.envelope(), lost).expect("queued");
        }
        for number in 5..=8 {
            let mut message = None;
            bed.turn_until("the next message has come", |_| {
                message = second.receive(Duration::ZERO).ok();
                message.is_some()
            });
            assert_eq!(number_of(&message.expect("the loop ends with it")), number);
        }
        let statistics = bed.client.statistics();
        assert_eq!((statistics.sessions_lost, statistics.sessions_resumed), (1, 0));
        assert_eq!(statistics.messages_dropped, 4, "{statistics:?}");
        // And that one survives a cut as the first did.
        bed.proxy.breaks(Fault::Cut);
        bed.turn_until_resumed();
    });
}

/// What the first server had not confirmed is not flushed because there is a second one.
#[test]
fn flush_says_that_a_replaced_server_took_messages_along() {
    isolated(|| {
        let builder = silent().config(valid(settings_that_resume()));
        let mut bed = Bed::around(settings_that_resume(), builder);
        bed.lose_link(Fault::Cut);
        bed.client.send(Envelope::data().reliable(), b"kept").expect("kept");
        let second = start(silent().config(valid(settings_that_resume())));
        bed.proxy.lead(&endpoint(&second));
        bed.proxy.admit();
        assert_eq!(bed.client.flush_within(PATIENCE), Err(FlushError::NotConnected));
        let mut events = std::iter::from_fn(|| bed.client.poll_event());
        let kind = events.find_map(|event| match event.kind {
            EventKind::SessionLost { undelivered, .. } => Some(undelivered.len()),
            _ => None,
        });
        assert_eq!(kind, Some(1));
        // And the next one is about the session that is there.
        bed.turn_until("it is connected", |bed| {
            bed.client.connection_state() == ringwire::ConnectionState::Connected
        });
        bed.client.send(Envelope::data().reliable(), b"anew").expect("room");
        assert_eq!(bed.client.flush_within(PATIENCE), Ok(()));
    });
}

/// Silence is silence, whoever answers after it: a watch of every peer does not begin anew because
/// the server did.
#[test]
fn watch_goes_on_when_the_server_is_replaced() {
    isolated(|| {
        let builder = silent().config(valid(settings_that_resume()));
        let mut bed = Bed::around(settings_that_resume(), builder);
        let told = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        for is_miss in [true, false] {
            let told = std::rc::Rc::clone(&told);
            let note = move |_: &mut ringwire::Context<'_>, watched: &ringwire::Watched| {
                told.borrow_mut().push((watched.change, watched.ended));
            };
            if is_miss {
                bed.client.on_deadline_missed(note);
            } else {
                bed.client.on_deadline_recovered(note);
            }
        }
        let (key, period) = (WatchKey::Kind(Kind::Data), Duration::from_millis(50));
        // Of the session that is there, and of those that will be.
        bed.client.watch(key, period).expect("room");
        bed.client.reactor().watch_all(key, period).expect("room");
        bed.lose_link(Fault::Cut);
        bed.turn_until("it is missed", |_| !told.borrow().is_empty());
        let second = start(silent().config(valid(settings_that_resume())));
        bed.proxy.lead(&endpoint(&second));
        bed.proxy.admit();
        bed.turn_until_event("it is connected", |kind| *kind == EventKind::Connected);
        let report = second.broadcast(Envelope::data(), b"setpoint").expect("asked");
        assert_eq!(report.queued(), 1);
        bed.turn_until("it is told", |_| told.borrow().len() == 2);
        let (missed, recovered) = (WatchChange::Missed, WatchChange::Recovered);
        assert_eq!(*told.borrow(), [(missed, None), (recovered, None)]);
    });
}

/// A client that is restarted is a stranger; what the server kept for the first is told in time.
#[test]
fn restarted_client_gets_a_new_session_beside_the_old_one() {
    isolated(|| {
        // Long enough for what follows to happen in that order.
        let server = settings_that_resume().session_linger_ms(2_000);
        let Bed { client, proxy, server, id } = Bed::with(settings_that_resume(), server);
        drop(client);
        let _ = events_of_server(&server, "LinkLost");
        server.send_to(id, Envelope::data().reliable(), b"for the first").expect("kept");
        let mut client = client_with(valid(settings_that_resume()), &proxy.endpoint());
        let answer = client.request(Envelope::command(), b"second", PATIENCE);
        assert_eq!(answer.expect("an answer").payload()[..], *b"second");
        let events = events_of_server(&server, "Disconnected");
        let names: Vec<_> = events.iter().map(|event| name(&event.kind)).collect();
        assert_eq!(names, ["Connected", "SessionLost", "Disconnected"]);
        assert_ne!(events[0].connection, id);
        assert_eq!(events[2].connection, id);
        assert!(client.receive(Duration::ZERO).is_err(), "it was not for this one");
    });
}

/// The cancellation of a request is the session's own: nothing that could be sent again.
#[test]
fn cancellations_are_no_undelivered_messages() {
    isolated(|| {
        let mut bed = Bed::with(settings_that_resume(), settings_that_resume());
        bed.proxy.hold();
        let mut ask = || {
            let envelope = Envelope::command().reliable();
            let request = bed.client.start_request(envelope, b"upload", PATIENCE).expect("room");
            bed.client.flush();
            request
        };
        let (given_up, _) = (ask(), ask());
        bed.client.cancel_request(given_up);
        bed.client.flush();
        let _ = bed.client.disconnect(Duration::from_millis(1));
        let mut lost = Vec::new();
        while let Some(event) = bed.client.poll_event() {
            if let EventKind::SessionLost { undelivered, .. } = event.kind {
                lost.extend(undelivered.into_iter().map(|message| message.kind));
            }
        }
        assert_eq!(lost, [Kind::Command, Kind::Command]);
    });
}

/// Names the test that a child process plays a part in, and where it is to go.
pub(crate) const PART: &str = "RINGWIRE_IT_PART";

/// Another process of this test binary that plays a part.
pub(crate) struct Actor(Child);

impl Actor {
    pub(crate) fn start(test: &str, target: &str) -> Self {
        let child = Command::new(std::env::current_exe().expect("Linux has /proc"))
            .args([test, "--exact", "--test-threads=1"])
            .env(PART, target)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        Self(child)
    }

    /// SIGSTOP: from here on it confirms nothing.
    fn stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("our own child");
        let stands = |task: std::fs::DirEntry| {
            // A thread that has ended meanwhile runs no more either.
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
        };
        wait_until("all of its threads stand still", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id()));
            tasks.expect("it is there").all(|task| task.is_ok_and(stands))
        });
    }

    /// SIGKILL: no destructor runs, nothing is flushed.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("our own child");
        self.0.wait().expect("our own child");
        std::mem::forget(self);
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server's part: tells the number of each message that it has handled, reliably. Says where it
/// listens by writing it to the file named, and what it handles in a log beside that.
pub(crate) fn play_server(file: &str) {
    let log = std::fs::File::create(log_of(file)).expect("a writable directory");
    let server = start(echo().config(valid(settings_that_resume())).on(
        Kind::Data,
        move |context, frame| {
            // One write(2) for each: what has been written outlives the process.
            let written = (&log).write(&frame.payload()[..8]).expect("a writable file");
            assert_eq!(written, 8, "in one piece");
            let _ = context.reply(Envelope::status().reliable(), frame.payload());
        },
    ));
    let draft = format!("{file}.draft");
    std::fs::write(&draft, endpoint(&server)).expect("a writable directory");
    std::fs::rename(&draft, file).expect("a writable directory");
    // Longer than its test.
    let deadline = Nanos::now() + 3 * PATIENCE;
    while Nanos::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

fn log_of(file: &str) -> String {
    format!("{file}.log")
}

/// What a server that has been killed had handled, each number once.
fn logged(file: &str) -> BTreeSet<u64> {
    let bytes = std::fs::read(log_of(file)).expect("it has begun");
    let (numbers, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty(), "{} bytes", bytes.len());
    let set: BTreeSet<_> = numbers.iter().map(|&number| u64::from_le_bytes(number)).collect();
    assert_eq!(set.len(), numbers.len(), "one was handled twice in one life");
    set
}

#[test]
fn server_killed_mid_traffic_and_started_again() {
    if let Ok(file) = std::env::var(PART) {
        return play_server(&file);
    }
    isolated(|| {
        let directory = crate::util::Directory::new();
        let file_of = |life: u32| {
            let file = directory.path(&format!("address-{life}"));
            file.to_str().expect("UTF-8").to_owned()
        };
        let start_server = |life: u32| {
            let file = file_of(life);
            let actor = Actor::start("restart::server_killed_mid_traffic_and_started_again", &file);
            wait_until("it listens", || std::path::Path::new(&file).exists());
            (actor, std::fs::read_to_string(&file).expect("it is whole"))
        };
        let (mut actor, address) = start_server(0);
        let proxy = Proxy::new(&address);
        let settings = settings_that_resume().reconnect_delay_max_ms(8);
        let mut client = client_with(valid(settings), &proxy.endpoint());
        // Numbers sent, and of those the ones handled, in this life of the server.
        let (mut sent, mut handled) = (BTreeSet::new(), BTreeSet::new());
        let mut next = 1;
        for life in 1..=3 {
            let deadline = Nanos::now() + PATIENCE;
            let mut actor_alive = Some(actor);
            let mut undelivered: Option<Vec<Undelivered>> = None;
            let threshold = handled.len() + 200;
            while undelivered.is_none() {
                assert!(Nanos::now() < deadline, "{:?}", client.statistics());
                if client.send(Envelope::data().reliable(), &numbered(next)).is_ok() {
                    sent.insert(next);
                    next += 1;
                }
                turn(&mut client);
                while let Ok(message) = client.receive(Duration::ZERO) {
                    assert!(handled.insert(number_of(&message)), "handled twice in one life");
                }
                if handled.len() >= threshold
                    && let Some(actor) = actor_alive.take()
                {
                    actor.kill();
                    let (successor, address) = start_server(life);
                    proxy.lead(&address);
                    actor_alive = None;
                    undelivered =
                        wait_for_loss(&mut client, &mut handled, successor, &mut actor_alive);
                }
            }
            let undelivered = undelivered.expect("the loop ends with it");
            actor = actor_alive.take().expect("the successor lives");
            // The list is the tail of what was sent, in order: nothing else is in doubt.
            let told: Vec<u64> = undelivered.iter().map(|lost| number_in(&lost.payload)).collect();
            let tail: Vec<u64> = sent.iter().rev().take(told.len()).rev().copied().collect();
            assert_eq!(told, tail, "life {life}");
            // What is not told was confirmed, and so handled; its answer may have died with the
            // server.
            let logged = logged(&file_of(life - 1));
            let confirmed = sent.range(..told.first().copied().unwrap_or(next));
            let missing: Vec<_> = confirmed.filter(|number| !logged.contains(number)).collect();
            assert!(missing.is_empty(), "life {life}: confirmed and not handled: {missing:?}");
            assert!(handled.is_subset(&logged), "life {life}: answers to what was not handled");
            for lost in &undelivered {
                let number = number_in(&lost.payload);
                let can_be = lost.sent == Sent::Maybe || !handled.contains(&number);
                assert!(can_be, "{number} was never sent, and handled");
            }
            // The application decides: those again, under new numbers.
            sent.clear();
            handled.clear();
        }
        let answer = client.request(Envelope::command(), b"at last", PATIENCE);
        assert_eq!(answer.expect("an answer").payload()[..], *b"at last");
        assert_eq!(client.statistics().sessions_lost, 3);
        actor.kill();
    });
}

/// Turns until the client has learnt that its server is another.
fn wait_for_loss(
    client: &mut Client,
    handled: &mut BTreeSet<u64>,
    successor: Actor,
    alive: &mut Option<Actor>,
) -> Option<Vec<Undelivered>> {
    let deadline = Nanos::now() + PATIENCE;
    let mut lost = None;
    while client.statistics().connections_active == 0 || lost.is_none() {
        assert!(Nanos::now() < deadline, "{:?}", client.statistics());
        turn(client);
        while let Some(event) = client.poll_event() {
            if let EventKind::SessionLost { undelivered, .. } = event.kind {
                lost = Some(undelivered);
            }
        }
        while lost.is_none()
            && let Ok(message) = client.receive(Duration::ZERO)
        {
            assert!(handled.insert(number_of(&message)), "handled twice in one life");
        }
    }
    *alive = Some(successor);
    lost
}

/// A client's part: reliable messages until it is killed; takes what comes.
fn play_client(target: &str) {
    let mut client = client_with(valid(settings_that_resume()), target);
    let deadline = Nanos::now() + PATIENCE;
    let mut next = 1;
    while Nanos::now() < deadline {
        if client.send(Envelope::data().reliable(), &numbered(next)).is_ok() {
            next += 1;
        }
        let _ = client.receive(Duration::from_micros(100));
    }
}

#[test]
fn client_killed_mid_traffic_and_started_again() {
    if let Ok(target) = std::env::var(PART) {
        return play_client(&target);
    }
    isolated(|| {
        let settings = settings_that_resume().session_linger_ms(100);
        let server = start(silent().config(valid(settings)));
        let mut lives: Vec<ConnectionId> = Vec::new();
        for _ in 0..3 {
            let actor = Actor::start(
                "restart::client_killed_mid_traffic_and_started_again",
                &endpoint(&server),
            );
            let (id, sent) = talk(&server, 300);
            assert!(!lives.contains(&id), "each life is a session of its own");
            lives.push(id);
            actor.stop();
            // Room comes back only with what it confirms, so that there may be none.
            let last = server.send_to(id, Envelope::data().reliable(), &numbered(sent + 1));
            let sent = sent + u64::from(last.is_ok());
            let lost_before = server.statistics().reliable_lost;
            actor.kill();
            let events = events_of_server(&server, "Disconnected");
            let names: Vec<_> = events.iter().map(|event| name(&event.kind)).collect();
            assert_eq!(names.first().map(String::as_str), Some("LinkLost"), "{names:?}");
            // What it had not confirmed is told: the tail of what was sent.
            let lost = events.iter().find_map(|event| match &event.kind {
                EventKind::SessionLost { undelivered, .. } => Some(undelivered),
                _ => None,
            });
            let lost = lost.unwrap_or_else(|| panic!("no session was lost: {names:?}"));
            let told: Vec<u64> = lost.iter().map(|u| number_in(&u.payload)).collect();
            let tail: Vec<u64> = (sent + 1 - told.len() as u64..=sent).collect();
            assert_eq!(told, tail);
            assert!(!told.is_empty(), "nothing was in doubt");
            wait_for(&server, "all that is not confirmed is told, and nothing else", |s| {
                s.reliable_unconfirmed == 0 && s.reliable_lost - lost_before == told.len() as u64
            });
            while server.receive(Duration::ZERO).is_ok() {}
        }
        let statistics = server.statistics();
        assert_eq!((statistics.connections_active, statistics.sessions_resumed), (0, 0));
    });
}

/// Receives `count` messages of the client that comes, in order, and sends it as many. Returns its
/// name and how many were sent.
fn talk(server: &Server, count: u64) -> (ConnectionId, u64) {
    let (mut id, mut received, mut sent) = (None, 0, 0);
    while received < count {
        match server.wait(PATIENCE).expect("it talks") {
            Incoming::Event(event) => {
                assert_eq!(event.kind, EventKind::Connected);
                id = Some(event.connection);
            }
            Incoming::Message(message) => {
                received += 1;
                assert_eq!(number_of(&message), received);
                let to = message.connection();
                match server.send_to(to, Envelope::data().reliable(), &numbered(sent + 1)) {
                    Ok(()) => sent += 1,
                    Err(error) => {
                        assert!(matches!(error, SendError::Full | SendError::MemoryFull), "{error}")
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
    (id.expect("it has connected"), sent)
}

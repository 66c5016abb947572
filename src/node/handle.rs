//! [`NodeHandle`]: the reactors of a node, for any thread.
//!
//! Every call of another thread becomes a command to one reactor, or to each. Those that wait for
//! an answer are refused in a handler of the same node; how they wait is in `ask`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::ask::{ANSWER_TIMEOUT, Silence, reply_channel};
use super::thread::is_of_this_thread;
use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::error::{CloseReason, ConnectError, FlushError, ReceiveError, SendError};
#[cfg(doc)]
use crate::reactor::Reactor;
use crate::reactor::command::{Command, DialError, DialFailure, Mailbox, Waiting};
use crate::reactor::connection::ReactorId;
use crate::reactor::events::EventQueue;
use crate::reactor::flush::Flush;
use crate::reactor::inbox::SharedInbox;
use crate::reactor::message::{Message, OwnedBody};
use crate::reactor::{BroadcastReport, ConnectionId, ConnectionInfo, Event, dial_error};
use crate::session::Envelope;
use crate::stats::{ConnectionState, CounterBlock, RegistryHandle, Snapshot, Statistics};
use crate::time::Nanos;
use crate::wire::{Body, BodyError, frame_bytes};

/// How long a caller that waits for room does so before it looks again: at first, and at most.
const ROOM_PAUSE_MIN: Duration = Duration::from_micros(50);
const ROOM_PAUSE_MAX: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Shared {
    /// Of this node, in the ids of its reactors.
    pub(super) number: u16,
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    pub(super) counters: Vec<CounterBlock>,
    pub(super) registry: RegistryHandle,
    pub(super) inbox: SharedInbox,
    pub(super) events: EventQueue,
    pub(super) is_server: bool,
    pub(super) config: Config,
    pub(super) stopped: AtomicBool,
}

/// A handle to the reactors of a node. Cheap to clone; any thread may use it.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    pub(super) shared: Arc<Shared>,
}

/// What [`NodeHandle::wait`] waited for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Incoming {
    /// A message that no handler takes.
    Message(Message),
    /// Who came, or who left and why.
    Event(Event),
}

impl NodeHandle {
    /// Connects reactor `reactor` (modulo their number) to `endpoint`. The session lives on the
    /// reactor; its messages go to the handlers and to [`receive`](Self::receive).
    ///
    /// Blocks on the resolver, then for up to `connect_timeout_ms` and `handshake_timeout_ms`
    /// for each address, with `express` for as long again, and as long as handlers keep the reactor
    /// from it (5 s more at most).
    ///
    /// # Errors
    ///
    /// [`ConnectError`], of the last address tried; [`ConnectError::InHandler`] at once in a
    /// handler of this node, [`ConnectError::Busy`] or [`ConnectError::Unresponsive`] when the
    /// reactor could not be asked.
    pub fn connect(&self, endpoint: &str, reactor: usize) -> Result<ConnectionId, ConnectError> {
        if self.is_in_handler() {
            return Err(ConnectError::InHandler);
        }
        let addresses = Endpoint::of_server(endpoint)?.addresses()?;
        let mailbox = &self.shared.mailboxes[reactor % self.shared.mailboxes.len()];
        let config = &self.shared.config;
        let mut failure = ConnectError::ShutDown;
        for address in addresses {
            self.check_running().map_err(|_| ConnectError::ShutDown)?;
            let (asker, answer) = reply_channel(1);
            if mailbox.post(Command::Dial { address, asker }).is_err() {
                failure = ConnectError::Busy;
                continue;
            }
            let once = config.connect_timeout() + config.handshake_timeout();
            let patience = if config.express() { 2 * once } else { once } + ANSWER_TIMEOUT;
            match answer.wait(Nanos::now() + patience) {
                Ok(Ok(connection)) => return Ok(connection),
                // The node shuts down, which ends what it has begun.
                Ok(Err(DialError { reason: DialFailure::Closed(CloseReason::Local), .. }))
                    if self.check_running().is_err() =>
                {
                    return Err(ConnectError::ShutDown);
                }
                Ok(Err(error)) => failure = dial_error(error, config),
                Err(Silence::Withdrawn) => {
                    return Err(ConnectError::Unresponsive { timeout: patience });
                }
                Err(Silence::Ended) => return Err(ConnectError::ShutDown),
            }
        }
        Err(failure)
    }

    /// Ends a connection once what is queued has left, or at `deadline` from now. Does not wait.
    ///
    /// At the deadline, which may be now, what is still queued is dropped and the peer is told
    /// goodbye all the same, so that it does not reconnect; unless the kernel still holds a send of
    /// the connection: then the peer sees the link break, and begins a new session when it is back.
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`] or [`SendError::ShutDown`]; no error for a connection that is gone.
    pub fn disconnect(
        &self,
        connection: ConnectionId,
        deadline: Duration,
    ) -> Result<(), SendError> {
        let deadline = Nanos::now() + deadline;
        self.post(connection, Command::Disconnect { connection, deadline })
    }

    /// Queues a message on a connection and waits for its reactor's verdict: some microseconds
    /// when the reactor spins, a wake-up when it sleeps. Serialises on this thread: without an
    /// allocation up to 16 KiB, with one or two above.
    ///
    /// Blocks for up to 5 s when a handler blocks the reactor; then the message is withdrawn.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was queued, nothing will be, and the caller still has the message.
    /// [`SendError::InHandler`] at once in a handler of this node.
    pub fn send_to<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.send_correlated(connection, envelope, body, 0)
    }

    /// As [`send_to`](Self::send_to), and waits for room where the lane, the send memory or the
    /// command queue has none, for up to `timeout`. Looks again after 50 us, and then after twice
    /// as long each time, up to 1 ms. The wait is part of the message's time to live.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to); what there is no room for ([`SendError::Full`],
    /// [`SendError::MemoryFull`], [`SendError::Busy`]) after `timeout`, everything else at once.
    pub fn send_within<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        timeout: Duration,
    ) -> Result<(), SendError> {
        self.check_may_wait()?;
        let deadline = Nanos::now() + timeout;
        let waiting = Waiting::new(envelope);
        let body = self.own(body, envelope, 0)?;
        let mut pause = ROOM_PAUSE_MIN;
        loop {
            let verdict = self.ask_for_verdict(connection.reactor, |asker| Command::Send {
                connection,
                waiting,
                body: body.clone(),
                response_to: 0,
                asker: Some(asker),
            });
            let left = deadline.since(Nanos::now());
            match verdict {
                Err(SendError::Full | SendError::MemoryFull | SendError::Busy)
                    if !left.is_zero() =>
                {
                    pause_this_thread(pause.min(left));
                    pause = (2 * pause).min(ROOM_PAUSE_MAX);
                }
                verdict => return verdict,
            }
        }
    }

    /// Answers a request that came through [`receive`](Self::receive); waits as
    /// [`send_to`](Self::send_to).
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn reply<B: Body + ?Sized>(
        &self,
        request: &Message,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        let envelope = request.answer_envelope(envelope);
        self.send_correlated(request.connection(), envelope, body, correlation_of(request))
    }

    /// Hands the answer to a request that came through [`receive`](Self::receive) or
    /// [`wait`](Self::wait) to its reactor without waiting for its verdict. If the lane is full by
    /// then, or the connection gone, the answer is dropped and counted (`posts_dropped`).
    ///
    /// # Errors
    ///
    /// At once: [`SendError::Busy`] when the command queue is full; what can be known here
    /// otherwise.
    pub fn post_reply<B: Body + ?Sized>(
        &self,
        request: &Message,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        let envelope = request.answer_envelope(envelope);
        self.post_correlated(request.connection(), envelope, body, correlation_of(request))
    }

    fn send_correlated<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        response_to: u64,
    ) -> Result<(), SendError> {
        self.check_may_wait()?;
        let waiting = Waiting::new(envelope);
        let body = self.own(body, envelope, response_to)?;
        self.ask_for_verdict(connection.reactor, |asker| {
            let asker = Some(asker);
            Command::Send { connection, waiting, body, response_to, asker }
        })
    }

    /// Hands a message to a connection's reactor without waiting for its verdict. If the lane is
    /// full by then, or the connection gone, the message is dropped and counted
    /// (`posts_dropped`).
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`] when the command queue is full; what can be known here otherwise.
    pub fn post_to<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Result<(), SendError> {
        self.post_correlated(connection, envelope, body, 0)
    }

    fn post_correlated<B: Body + ?Sized>(
        &self,
        connection: ConnectionId,
        envelope: Envelope,
        body: &B,
        response_to: u64,
    ) -> Result<(), SendError> {
        let waiting = Waiting::new(envelope);
        let body = self.own(body, envelope, response_to)?;
        let command = Command::Send { connection, waiting, body, response_to, asker: None };
        self.post(connection, command)
    }

    /// Queues a message for every established session, and reports on each. Allocates its report
    /// and the way there.
    ///
    /// Those whose link is lost and that may come back are included: for each of them a reliable
    /// message is queued and kept as by [`send_to`](Self::send_to), and one of best effort is
    /// refused with [`SendError::NotConnected`].
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`], [`SendError::Unresponsive`] or [`SendError::ShutDown`] when no reactor
    /// could be asked; where some could, the report names the others
    /// ([`failures`](BroadcastReport::failures)). [`SendError::InHandler`] at once in a handler of
    /// this node, or what is wrong with the message itself: then nobody gets it.
    pub fn broadcast<B: Body + ?Sized>(
        &self,
        envelope: Envelope,
        body: &B,
    ) -> Result<BroadcastReport, SendError> {
        self.check_running()?;
        self.check_may_wait()?;
        let waiting = Waiting::new(envelope);
        let body = self.own(body, envelope, 0)?;
        let deadline = Nanos::now() + ANSWER_TIMEOUT;
        let mut report = BroadcastReport::default();
        let mut answers = Vec::new();
        for (index, mailbox) in (0..).zip(&self.shared.mailboxes) {
            if mailbox.is_closed() {
                continue;
            }
            let (asker, answer) = reply_channel(1);
            match mailbox.post(Command::Broadcast { waiting, body: body.clone(), asker }) {
                Ok(()) => answers.push((index, answer)),
                Err(_) => report.failures.push((index, SendError::Busy)),
            }
        }
        let mut have_answered = 0;
        for (index, answer) in answers {
            match answer.wait(deadline) {
                Ok(part) => {
                    have_answered += 1;
                    report.outcomes.extend(part);
                }
                Err(silence) => report.failures.push((index, silence.into())),
            }
        }
        match report.failures.first() {
            Some(&(_, error)) if have_answered == 0 => Err(error),
            None if have_answered == 0 => Err(SendError::ShutDown),
            _ => Ok(report),
        }
    }

    /// The established connections of all reactors. A reactor that does not answer within 5 s, or
    /// whose command queue is full, is left out. In a handler of this node none, at once: two that
    /// asked each other would both stand still.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        if self.check_running().is_err() || self.is_in_handler() {
            return Vec::new();
        }
        let deadline = Nanos::now() + ANSWER_TIMEOUT;
        let answers: Vec<_> = self
            .shared
            .mailboxes
            .iter()
            .filter_map(|mailbox| {
                let (reply, answer) = bounded(1);
                mailbox.post(Command::Connections { reply }).ok()?;
                Some(answer)
            })
            .collect();
        let within = |answer: &Receiver<_>| answer.recv_timeout(deadline.since(Nanos::now())).ok();
        answers.iter().filter_map(within).flatten().collect()
    }

    /// What is known of one connection, established or not; `None` when it is gone or between two
    /// links, when its reactor does not answer within 5 s or its command queue is full, and in a
    /// handler of this node.
    #[must_use]
    pub fn connection(&self, connection: ConnectionId) -> Option<ConnectionInfo> {
        self.check_may_wait().ok()?;
        let (reply, answer) = bounded(1);
        self.post(connection, Command::Connection { connection, reply }).ok()?;
        answer.recv_timeout(ANSWER_TIMEOUT).ok().flatten()
    }

    /// Waits until the kernel has taken what was sent on a connection and the peer has confirmed
    /// what is reliable, for up to `timeout`; what this thread has posted before included. Messages
    /// that are sent meanwhile are waited for, too.
    ///
    /// A confirmed message has arrived; that it was handled, only an answer tells. Of best effort,
    /// what the kernel has taken may still be lost with the connection.
    ///
    /// # Errors
    ///
    /// [`FlushError`]; [`FlushError::NotConnected`] also when the node has shut down, and
    /// [`FlushError::InHandler`] at once in a handler of this node. What is left stays queued.
    pub fn flush_within(
        &self,
        connection: ConnectionId,
        timeout: Duration,
    ) -> Result<(), FlushError> {
        if self.is_in_handler() {
            return Err(FlushError::InHandler);
        }
        let (reply, answer) = bounded(1);
        let until = Nanos::now() + timeout;
        match self.post(connection, Command::Flush(Flush { connection, until, reply })) {
            Ok(()) => {}
            Err(SendError::Busy) => return Err(FlushError::Busy),
            Err(_) => return Err(FlushError::NotConnected),
        }
        match answer.recv_timeout(timeout) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(FlushError::Timeout { timeout }),
            Err(RecvTimeoutError::Disconnected) => Err(FlushError::NotConnected),
        }
    }

    /// Waits for the next message that no handler takes, of any connection, for up to `timeout`.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Timeout`]; [`ReceiveError::ShutDown`] at once, and from then on, when the
    /// node has shut down and what it left behind has been taken. [`ReceiveError::InHandler`] at
    /// once in a handler of this node, unless `timeout` is zero.
    pub fn receive(&self, timeout: Duration) -> Result<Message, ReceiveError> {
        self.check_may_wait_for(timeout)?;
        let deadline = Nanos::now() + timeout;
        let mut left = timeout;
        loop {
            let message = match self.shared.inbox.take(left) {
                Err(ReceiveError::Timeout { .. }) => return Err(ReceiveError::Timeout { timeout }),
                outcome => outcome?,
            };
            self.tell_inbox_has_room();
            if !self.leaves_out(&message) {
                return Ok(message);
            }
            left = deadline.since(Nanos::now());
        }
    }

    /// Whether the answer to a request that came through [`receive`](Self::receive) or
    /// [`wait`](Self::wait) is of no use any more; see [`Reactor::is_abandoned`]. Never blocks.
    #[must_use]
    pub fn is_abandoned(&self, request: &Message) -> bool {
        let mailbox = self.mailbox(request.connection().reactor);
        mailbox.is_some_and(|mailbox| mailbox.cancellations().is_abandoned(request))
    }

    /// Whether a message that was taken from the inbox is not handed out. Counts it then, unless it
    /// was counted as cancelled.
    fn leaves_out(&self, message: &Message) -> bool {
        let is_abandoned = self.is_abandoned(message);
        let mailbox = self.mailbox(message.connection().reactor);
        let is_cancelled =
            mailbox.is_some_and(|mailbox| mailbox.cancellations().is_cancelled(message));
        if is_abandoned && !is_cancelled {
            // ORDERING: Relaxed, paired with `statistics`: a mere count.
            self.shared.registry.overdue().fetch_add(1, Ordering::Relaxed);
        }
        is_abandoned
    }

    /// Waits for the next message that no handler takes *or* the next connection event, of any
    /// connection, for up to `timeout`; zero only looks. Sleeps meanwhile, for which it allocates
    /// once.
    ///
    /// Events go first: on a thread that alone waits, a connection's
    /// [`Connected`](crate::EventKind::Connected) comes before its messages, and its
    /// [`Disconnected`](crate::EventKind::Disconnected) may come before the last of them. With
    /// several waiting threads each event and each message goes to one of them.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Timeout`]; [`ReceiveError::ShutDown`] at once, and from then on, when the
    /// node has shut down and what it left behind has been taken. [`ReceiveError::InHandler`] at
    /// once in a handler of this node, unless `timeout` is zero.
    pub fn wait(&self, timeout: Duration) -> Result<Incoming, ReceiveError> {
        self.check_may_wait_for(timeout)?;
        let Shared { inbox, events, .. } = &*self.shared;
        let deadline = Nanos::now() + timeout;
        loop {
            // Before everything else: what a reactor leaves behind is there when it is gone.
            let is_closed = inbox.is_closed();
            // Looked at first: the event that belongs before this message is in its queue by then.
            let has_message = !inbox.is_empty();
            if let Some(event) = events.pop() {
                return Ok(Incoming::Event(event));
            }
            if has_message && let Some(message) = inbox.try_take() {
                self.tell_inbox_has_room();
                if self.leaves_out(&message) {
                    continue;
                }
                return Ok(Incoming::Message(message));
            }
            // With a message there, another thread was faster to take it.
            if is_closed && !has_message {
                return Err(ReceiveError::ShutDown);
            }
            let left = deadline.since(Nanos::now());
            if left.is_zero() {
                return Err(ReceiveError::Timeout { timeout });
            }
            inbox.wait_beside(events.doorbell(), left);
        }
    }

    fn tell_inbox_has_room(&self) {
        for mailbox in &self.shared.mailboxes {
            mailbox.inbox_has_room();
        }
    }

    /// The oldest connection event not fetched yet, of any reactor. Never blocks.
    ///
    /// The events of one connection come in their order, and before any message of it that
    /// [`receive`](Self::receive) returns its [`Connected`](crate::EventKind::Connected) can be
    /// fetched. Once `events_max` per reactor are waiting, the oldest is dropped and counted
    /// (`events_dropped`).
    #[must_use]
    pub fn poll_event(&self) -> Option<Event> {
        self.shared.events.pop()
    }

    /// What has happened so far, all reactors together. `posts_dropped` has what a reactor left in
    /// its queue when it ended, too, which [`snapshot`](Self::snapshot) does not.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let counters = self.shared.counters.iter().map(|counters| &**counters);
        let mut statistics = Statistics::collect(self.shared.is_server, counters);
        // ORDERING: Relaxed, paired with `own`: a mere count.
        statistics.sends_too_large += self.shared.registry.too_large().load(Ordering::Relaxed);
        // ORDERING: Relaxed, paired with `leaves_out`: a mere count.
        statistics.messages_expired += self.shared.registry.overdue().load(Ordering::Relaxed);
        let refused = self.shared.mailboxes.iter().map(|mailbox| mailbox.posts_refused());
        statistics.posts_dropped += refused.sum::<u64>();
        let has_link = self.shared.is_server || statistics.connections_active > 0;
        let has_ended = self.shared.mailboxes.iter().all(|mailbox| mailbox.is_closed());
        statistics.state = match self.check_running() {
            _ if has_ended => ConnectionState::Disconnected,
            Err(_) => ConnectionState::Closing,
            Ok(()) if has_link => ConnectionState::Connected,
            Ok(()) => ConnectionState::Disconnected,
        };
        statistics
    }

    /// The limits and tuning of the node, as they are in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// How many of the reactors run: fewer than there are ([`counters`](Self::counters)) once one
    /// has ended before the node, because its ring has failed, which is logged. Its connections
    /// are gone then; those of the others go on.
    #[must_use]
    pub fn reactors_running(&self) -> usize {
        self.shared.mailboxes.iter().filter(|mailbox| !mailbox.is_closed()).count()
    }

    /// The counters of each reactor, to be read from any thread. Without what the handles refuse
    /// by themselves, see [`statistics`](Self::statistics).
    #[must_use]
    pub fn counters(&self) -> &[CounterBlock] {
        &self.shared.counters
    }

    /// Counters, histograms and sessions of all reactors, as other processes see them. Also after
    /// the node has shut down.
    ///
    /// Allocates; takes some tens of microseconds a reactor, and up to about 3 ms for one that is
    /// busy. The reactors do not notice.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.registry.snapshot()
    }

    /// Serialises what is to be sent.
    pub(super) fn own<B: Body + ?Sized>(
        &self,
        body: &B,
        envelope: Envelope,
        response_to: u64,
    ) -> Result<OwnedBody, SendError> {
        let bytes_max = self.shared.config.frame_bytes_max();
        let (payload_bytes, owned) = match OwnedBody::new(body, bytes_max as usize) {
            Ok(owned) => (owned.len(), Some(owned)),
            Err(BodyError::Overflow { bytes }) => (bytes, None),
            Err(BodyError::Unserializable) => return Err(SendError::Unserializable),
        };
        let bytes = frame_bytes(payload_bytes, response_to != 0 || !envelope.is_plain());
        match owned {
            Some(owned) if bytes <= bytes_max as usize => Ok(owned),
            _ => {
                // ORDERING: Relaxed: a mere count.
                self.shared.registry.too_large().fetch_add(1, Ordering::Relaxed);
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                Err(SendError::TooLarge { bytes, bytes_max })
            }
        }
    }

    pub(super) fn post(&self, connection: ConnectionId, command: Command) -> Result<(), SendError> {
        self.post_command(connection.reactor, command)
    }

    /// The way to a reactor, if it is one of this node.
    pub(super) fn mailbox(&self, reactor: ReactorId) -> Option<&Arc<Mailbox>> {
        let Shared { number, mailboxes, .. } = &*self.shared;
        mailboxes.get(usize::from(reactor.index())).filter(|_| reactor.is_of(*number))
    }

    pub(super) fn post_command(
        &self,
        reactor: ReactorId,
        command: Command,
    ) -> Result<(), SendError> {
        self.check_running()?;
        let mailbox = self.mailbox(reactor);
        let mailbox = mailbox.ok_or(SendError::NotConnected)?;
        if mailbox.is_closed() {
            return Err(SendError::ShutDown);
        }
        mailbox.post(command).map_err(|_| SendError::Busy)
    }

    /// Refuses to wait for a reactor on the thread of one: it would wait for itself, or two for
    /// each other.
    pub(super) fn check_may_wait(&self) -> Result<(), SendError> {
        if self.is_in_handler() { Err(SendError::InHandler) } else { Ok(()) }
    }

    /// The same for what comes of itself: it may be looked at in a handler.
    fn check_may_wait_for(&self, timeout: Duration) -> Result<(), ReceiveError> {
        let may_wait = timeout.is_zero() || !self.is_in_handler();
        if may_wait { Ok(()) } else { Err(ReceiveError::InHandler) }
    }

    /// Whether this is the thread of one of the reactors, which calls nothing but handlers.
    pub(super) fn is_in_handler(&self) -> bool {
        self.shared.mailboxes.iter().any(is_of_this_thread)
    }

    pub(super) fn check_running(&self) -> Result<(), SendError> {
        // ORDERING: Relaxed: a call that comes just before finds the queue served, or times out.
        match self.shared.stopped.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(SendError::ShutDown),
        }
    }
}

/// What an answer to `request` is correlated with; 0 when nobody waits for one.
fn correlation_of(request: &Message) -> u64 {
    if request.is_request() { request.correlation() } else { 0 }
}

#[expect(clippy::disallowed_methods, reason = "no reactor's thread: a caller's, which may wait")]
fn pause_this_thread(pause: Duration) {
    std::thread::sleep(pause);
}

//! Connection events: what they say, as programs and as people read them, and their way to whoever
//! fetches them.
//!
//! Bounded: when the queue is full, the oldest event makes room. One that names undelivered
//! messages is their only copy, so it does not make room for others: it moves to a queue of its
//! own, whose events are older than any that have not. What such messages take is bounded, too.
//! Shared by the reactors of a node; its doorbell lets a thread wait for events and messages at the
//! same time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_queue::ArrayQueue;

use crate::config::Config;
use crate::error::{CloseReason, DropReason};
use crate::reactor::connection::ConnectionId;
use crate::session::Undelivered;
use crate::sync::doorbell::{self, Bell, Events};
use crate::wire::Priority;

/// Something that happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Which.
    pub connection: ConnectionId,
    /// The other end's address, as [`ConnectionInfo::address`](crate::ConnectionInfo::address);
    /// valid also when the connection is gone by the time the event is fetched.
    pub address: String,
    /// What the peer calls itself (`node_name`); empty when it does not, or said nothing yet.
    pub node_name: String,
    /// What.
    pub kind: EventKind,
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// This side dials: a connection is being made for a new session. [`EventKind::Connected`]
    /// follows, or [`EventKind::Disconnected`] with the reason why not. Only where this side
    /// connects.
    Connecting,
    /// The handshake is complete: messages flow.
    Connected,
    /// The link is gone, and the session waits for another. Best-effort messages are refused, and
    /// requests that are not reliable have failed.
    LinkLost {
        /// Which, where the session has two.
        link: Link,
        /// Why.
        reason: CloseReason,
        /// Best-effort messages that waited to be sent.
        messages_dropped: u64,
    },
    /// This side dials again. When the last of `reconnect_attempts_max` attempts has failed, the
    /// session ends with [`CloseReason::GaveUp`].
    Reconnecting {
        /// Which link, where the session has two.
        link: Link,
        /// How many attempts that makes, since a link last held.
        attempt: u32,
        /// Why there is no link: of the attempt after a loss the reason of that, of those that
        /// follow why the one before failed.
        reason: CloseReason,
    },
    /// The session goes on on a new link.
    Resumed {
        /// Which, where the session has two.
        link: Link,
        /// Best-effort messages that were sent and did not arrive, and reliable ones that have
        /// expired.
        messages_dropped: u64,
    },
    /// Reliable messages that the peer has not confirmed and will not get: it has lost its end of
    /// the session (a session begins anew, [`EventKind::Connected`] follows), or the session is
    /// over. Whether to send them again is for the application to decide.
    SessionLost {
        /// In order, lane by lane from low to critical.
        undelivered: Vec<Undelivered>,
        /// How many more there were before these, of which nothing is known but their number: for
        /// want of `events_bytes_max`.
        omitted: u64,
    },
    /// Messages of one lane were dropped on this side, for one reason; with
    /// [`drop_events`](crate::ConfigBuilder::drop_events) only. Those of one session are summed for
    /// up to 100 ms, and told before its `Disconnected`. They are part of what the other events
    /// call `messages_dropped`.
    Dropped {
        /// The lane.
        priority: Priority,
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
    },
    /// The connection is over, and every message of it has been handed over.
    Disconnected {
        /// Why.
        reason: CloseReason,
        /// Whether the session had been established.
        established: bool,
        /// Admitted messages that had not been handed to the kernel in full.
        messages_dropped: u64,
    },
}

/// One of the connections of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// The only one, or with [`express`](crate::ConfigBuilder::express) that of low and normal
    /// messages.
    Main,
    /// That of high and critical messages.
    Express,
}

/// As in a log: what happened, and why in the words of [`CloseReason`](crate::CloseReason).
impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = |link: &Link| match link {
            Link::Main => "",
            Link::Express => "express ",
        };
        let dropped = |f: &mut fmt::Formatter<'_>, count: u64| match count {
            0 => Ok(()),
            1 => f.write_str("; 1 message dropped"),
            count => write!(f, "; {count} messages dropped"),
        };
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Connected => f.write_str("connected"),
            Self::LinkLost { link: which, reason, messages_dropped } => {
                write!(f, "{}link lost: {reason}", link(which))?;
                dropped(f, *messages_dropped)
            }
            Self::Reconnecting { link: which, attempt, reason } => {
                write!(f, "reconnecting {}link, attempt {attempt}: {reason}", link(which))
            }
            Self::Resumed { link: which, messages_dropped } => {
                write!(f, "resumed on a new {}link", link(which))?;
                dropped(f, *messages_dropped)
            }
            Self::SessionLost { undelivered, omitted } => {
                let lost = undelivered.len() as u64 + omitted;
                write!(f, "session lost: {lost} messages are not confirmed")
            }
            Self::Dropped { priority, reason, count } => {
                write!(f, "dropped in lane {priority:?}: {count} ({})", reason.name())
            }
            Self::Disconnected { reason, established, messages_dropped } => {
                let before = if *established { "" } else { " before a session stood" };
                write!(f, "disconnected{before}: {reason}")?;
                dropped(f, *messages_dropped)
            }
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct EventQueue {
    events: Arc<Kept>,
    /// See [`doorbell`].
    ring: Sender<()>,
    doorbell: Receiver<()>,
}

impl EventQueue {
    /// A queue with room for what each of `reactors` reactors may leave unfetched.
    pub(crate) fn new(config: &Config, reactors: usize) -> Self {
        let events_max = config.events_max() as usize * reactors.max(1);
        let (ring, doorbell) = bounded(1);
        let bytes_max = config.events_bytes_max().saturating_mul(reactors.max(1) as u64);
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self { events: Arc::new(Kept::new(events_max, bytes_max)), ring, doorbell }
    }

    /// Keeps an event, with as many of its messages as there is memory for.
    pub(crate) fn push(&self, mut event: Event) -> Displaced {
        let omitted = self.events.admit(&mut event.kind);
        let is_event = doorbell::push(&*self.events, &self.ring, event);
        // ORDERING: Relaxed: a mere count, of what any reactor has displaced.
        Displaced { is_event, messages: omitted + self.events.displaced.swap(0, Ordering::Relaxed) }
    }

    /// The oldest event. Never blocks.
    pub(crate) fn pop(&self) -> Option<Event> {
        doorbell::pop(&*self.events, &self.ring)
    }

    /// Receives when there may be an event.
    pub(crate) fn doorbell(&self) -> &Receiver<()> {
        &self.doorbell
    }
}

/// What an event has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Displaced {
    /// The oldest made room.
    pub(crate) is_event: bool,
    /// Undelivered messages that no event names any more.
    pub(crate) messages: u64,
}

/// The events that wait.
#[derive(Debug)]
struct Kept {
    recent: ArrayQueue<Event>,
    /// Lost sessions that had to leave `recent`.
    lost: ArrayQueue<Event>,
    /// What the messages of all of them take.
    bytes: AtomicUsize,
    bytes_max: usize,
    /// Messages of events that were dropped, until somebody counts them.
    displaced: AtomicU64,
}

impl Kept {
    fn new(events_max: usize, bytes_max: usize) -> Self {
        Self {
            recent: ArrayQueue::new(events_max),
            lost: ArrayQueue::new(events_max),
            bytes: AtomicUsize::new(0),
            bytes_max,
            displaced: AtomicU64::new(0),
        }
    }

    /// Takes the memory for an event's messages, and drops those that it does not suffice for: the
    /// least urgent, which stand first. Returns how many.
    fn admit(&self, kind: &mut EventKind) -> u64 {
        let EventKind::SessionLost { undelivered, omitted } = kind else { return 0 };
        // ORDERING: Relaxed: a bound that orders no other memory.
        let mut held = self.bytes.load(Ordering::Relaxed);
        loop {
            let room = self.bytes_max.saturating_sub(held);
            let mut bytes = 0;
            let fits = |message: &&Undelivered| {
                bytes += bytes_of(message);
                bytes <= room
            };
            let first = undelivered.len() - undelivered.iter().rev().take_while(fits).count();
            let taken = undelivered[first..].iter().map(bytes_of).sum::<usize>();
            // ORDERING: as above.
            let (relaxed, sum) = (Ordering::Relaxed, held + taken);
            match self.bytes.compare_exchange_weak(held, sum, relaxed, relaxed) {
                Ok(_) => {
                    undelivered.drain(..first);
                    undelivered.shrink_to_fit();
                    *omitted += first as u64;
                    return first as u64;
                }
                Err(others) => held = others,
            }
        }
    }

    /// An event leaves: what its messages take is free again.
    fn release(&self, event: &Event) {
        if let EventKind::SessionLost { undelivered, .. } = &event.kind {
            let bytes = undelivered.iter().map(bytes_of).sum();
            // ORDERING: Relaxed, as in `admit`.
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// What a message takes in an event.
fn bytes_of(message: &Undelivered) -> usize {
    size_of::<Undelivered>() + message.payload.len()
}

impl Events for Kept {
    type Item = Event;

    fn push(&self, event: Event) -> bool {
        let Some(oldest) = self.recent.force_push(event) else { return false };
        let is_lost = matches!(oldest.kind, EventKind::SessionLost { .. });
        let dropped = if is_lost { self.lost.force_push(oldest) } else { Some(oldest) };
        let Some(dropped) = dropped else { return false };
        self.release(&dropped);
        if let EventKind::SessionLost { undelivered, .. } = &dropped.kind {
            // ORDERING: Relaxed: a mere count. Those it had omitted are counted already.
            self.displaced.fetch_add(undelivered.len() as u64, Ordering::Relaxed);
        }
        true
    }

    fn pop(&self) -> Option<Event> {
        let event = self.lost.pop().or_else(|| self.recent.pop())?;
        self.release(&event);
        Some(event)
    }

    fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.recent.is_empty()
    }
}

impl Bell for Sender<()> {
    fn ring(&self) {
        // Full: it has been rung already, and nobody has looked since.
        let _ = self.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::reactor::connection::ReactorId;
    use crate::session::lane::Sent;
    use crate::wire::{Codec, Kind};

    fn queue(events_max: u32, events_bytes_max: u64) -> EventQueue {
        let config = Config::builder().events_max(events_max).events_bytes_max(events_bytes_max);
        EventQueue::new(&config.build().expect("valid"), 1)
    }

    fn event(kind: EventKind) -> Event {
        let connection = ConnectionId { reactor: ReactorId::new(0, 0), key: Default::default() };
        Event { connection, address: String::new(), node_name: String::new(), kind }
    }

    /// A session is lost with `messages` of `payload_bytes` each, in two lanes.
    fn lost(messages: usize, payload_bytes: usize) -> Event {
        let undelivered = (0..messages).map(|number| Undelivered {
            priority: if number < messages / 2 { Priority::Low } else { Priority::Critical },
            kind: Kind::Data,
            codec: Codec::Opaque,
            type_id: 0,
            is_request: false,
            is_response: false,
            payload: Bytes::from(vec![0; payload_bytes]),
            sent: Sent::Never,
        });
        event(EventKind::SessionLost { undelivered: undelivered.collect(), omitted: 0 })
    }

    fn messages_of(event: &Event) -> (usize, u64) {
        match &event.kind {
            EventKind::SessionLost { undelivered, omitted } => (undelivered.len(), *omitted),
            kind => panic!("{kind}"),
        }
    }

    /// Sessions that expire where nobody fetches events hold so much and no more.
    #[test]
    fn messages_of_waiting_events_are_bounded() {
        let payload = 64 << 10;
        let each = size_of::<Undelivered>() + payload;
        let queue = queue(1024, 50 * each as u64);
        let mut omitted = 0;
        for _ in 0..100 {
            let displaced = queue.push(lost(16, payload));
            assert!(!displaced.is_event);
            omitted += displaced.messages;
        }
        assert_eq!(omitted, 100 * 16 - 50);
        let events: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        let known = events.iter().map(messages_of);
        let (named, unnamed) = known.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        assert_eq!((events.len(), named, unnamed), (100, 50, omitted));
        // Of the one that had room for two of them, the urgent ones.
        let EventKind::SessionLost { undelivered, .. } = &events[3].kind else { unreachable!() };
        assert_eq!(undelivered.len(), 2);
        assert!(undelivered.iter().all(|message| message.priority == Priority::Critical));
        // Who fetches them makes room.
        assert_eq!(queue.push(lost(16, payload)).messages, 0);
    }

    /// The only copy of what was not delivered stays when others make room, in its order.
    #[test]
    fn lost_session_does_not_make_room_for_other_events() {
        let queue = queue(16, 1 << 20);
        let is_displaced = |event| queue.push(event).is_event;
        assert!(!is_displaced(lost(1, 8)));
        for _ in 0..15 {
            assert!(!is_displaced(event(EventKind::Connecting)));
        }
        assert!(!is_displaced(lost(2, 8)), "the first has a place of its own");
        for _ in 0..40 {
            queue.push(event(EventKind::Connected));
        }
        let kinds: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(kinds.len(), 18);
        assert_eq!((messages_of(&kinds[0]), messages_of(&kinds[1])), ((1, 0), (2, 0)));
        for _ in 0..33 {
            queue.push(lost(1, 8));
        }
        let displaced = Displaced { is_event: true, messages: 1 };
        assert_eq!(queue.push(lost(1, 8)), displaced, "with nothing else there, the oldest");
    }

    /// A reason in the system's words with its number, and nothing as it stands in the code.
    #[test]
    fn events_are_told_in_words() {
        let reason = CloseReason::Socket { errno: 111 };
        let refused = "socket error: Connection refused (os error 111)";
        let check = |kind: EventKind, expected: String| {
            assert_eq!(kind.to_string(), expected);
        };
        check(
            EventKind::Reconnecting { link: Link::Main, attempt: 2, reason },
            format!("reconnecting link, attempt 2: {refused}"),
        );
        check(
            EventKind::LinkLost { link: Link::Express, reason, messages_dropped: 1 },
            format!("express link lost: {refused}; 1 message dropped"),
        );
        check(
            EventKind::Disconnected { reason, established: false, messages_dropped: 3 },
            format!("disconnected before a session stood: {refused}; 3 messages dropped"),
        );
        check(
            EventKind::Resumed { link: Link::Main, messages_dropped: 0 },
            "resumed on a new link".into(),
        );
    }
}

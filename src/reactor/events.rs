//! Connection events on their way to whoever fetches them, and as people read them.
//!
//! Bounded: when the queue is full, the oldest event makes room. Shared by the reactors of a node;
//! its doorbell lets a thread wait for events and messages at the same time.

use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_queue::ArrayQueue;

use crate::config::Config;
use crate::reactor::{Event, EventKind, Link};
use crate::sync::doorbell::{self, Bell, Events};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct EventQueue {
    events: Arc<ArrayQueue<Event>>,
    /// See [`doorbell`].
    ring: Sender<()>,
    doorbell: Receiver<()>,
}

impl EventQueue {
    /// A queue with room for what each of `reactors` reactors may leave unfetched.
    pub(crate) fn new(config: &Config, reactors: usize) -> Self {
        let events_max = config.events_max() as usize * reactors.max(1);
        let (ring, doorbell) = bounded(1);
        Self { events: Arc::new(ArrayQueue::new(events_max)), ring, doorbell }
    }

    /// Keeps an event. Returns whether the oldest made room for it.
    pub(crate) fn push(&self, event: Event) -> bool {
        doorbell::push(&*self.events, &self.ring, event)
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

impl Events for ArrayQueue<Event> {
    type Item = Event;

    fn push(&self, event: Event) -> bool {
        self.force_push(event).is_some()
    }

    fn pop(&self) -> Option<Event> {
        self.pop()
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Bell for Sender<()> {
    fn ring(&self) {
        // Full: it has been rung already, and nobody has looked since.
        let _ = self.try_send(());
    }
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
            Self::SessionLost { undelivered } => {
                write!(f, "session lost: {} messages are not confirmed", undelivered.len())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CloseReason;

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

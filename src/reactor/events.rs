//! Connection events on their way to whoever fetches them.
//!
//! Bounded: when the queue is full, the oldest event makes room. Shared by the reactors of a node;
//! its doorbell lets a thread wait for events and messages at the same time.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_queue::ArrayQueue;

use crate::config::Config;
use crate::reactor::Event;
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

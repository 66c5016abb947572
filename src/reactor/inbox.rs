//! Where messages go that no handler takes: to this thread's `receive`, or to other threads.
//!
//! Bounded in messages and bytes. When it is full the connection with the next such message is not
//! read on, so that nothing is dropped and the sender feels it through TCP. A reactor looks, then
//! puts one message in; reactors that look at the same instant pass the bounds by one message each,
//! and the queue has places for those.
//!
//! Reactors that find a shared inbox full take [turns](crate::sync::inbox): the room for the
//! message that one of them holds back is set aside for it.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, Sender, TrySendError};

use crate::config::Config;
use crate::error::ReceiveError;
use crate::reactor::message::Message;
use crate::sync::inbox::{Bytes, Turns, Writers};

/// The reactor's end.
#[derive(Debug)]
pub(crate) enum Inbox {
    /// Read by the thread that drives the reactor.
    Local { messages: VecDeque<Message>, bytes: u64, frames_max: usize, bytes_max: u64 },
    /// Read by any thread, through [`SharedInbox`].
    Shared {
        /// First, so that it is gone before the sender is: whom that wakes sees it.
        _writer: Writer,
        sender: Sender<Message>,
        bytes: Bytes,
        turns: Turns,
        /// The room this reactor wished for was there: it has had its turn with this pass.
        is_served: bool,
        frames_max: usize,
        bytes_max: u64,
    },
}

/// The other threads' end of a shared inbox.
#[derive(Debug, Clone)]
pub(crate) struct SharedInbox {
    receiver: Receiver<Message>,
    bytes: Bytes,
    writers: Writers,
}

/// One of the reactors that may still put something in.
#[derive(Debug)]
pub(crate) struct Writer(Writers);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Inbox {
    pub(crate) fn local(config: &Config) -> Self {
        let frames_max = config.inbox_frames_max() as usize;
        Self::Local {
            messages: VecDeque::with_capacity(frames_max),
            bytes: 0,
            frames_max,
            bytes_max: config.inbox_bytes_max(),
        }
    }

    /// An inbox that `reactors` reactors fill and other threads read. One sending end each.
    pub(crate) fn shared(config: &Config, reactors: usize) -> (Vec<Self>, SharedInbox) {
        let frames_max = config.inbox_frames_max() as usize;
        let (sender, receiver) = crossbeam_channel::bounded(frames_max + reactors);
        let bytes = Bytes::default();
        let writers = Writers::new(reactors);
        let inboxes = Turns::new(reactors)
            .map(|turns| Self::Shared {
                _writer: Writer(writers.clone()),
                sender: sender.clone(),
                bytes: bytes.clone(),
                turns,
                is_served: false,
                frames_max,
                bytes_max: config.inbox_bytes_max(),
            })
            .collect();
        (inboxes, SharedInbox { receiver, bytes, writers })
    }

    /// Whether a message of this many bytes may be put in.
    #[inline]
    pub(crate) fn has_room(&self, payload_bytes: usize) -> bool {
        let payload_bytes = payload_bytes as u64;
        match self {
            Self::Local { messages, bytes, frames_max, bytes_max } => {
                messages.len() < *frames_max && *bytes + payload_bytes <= *bytes_max
            }
            Self::Shared { sender, bytes, turns, frames_max, bytes_max, .. } => {
                let (frames_aside, bytes_aside) = match turns.set_aside() {
                    None => (0, 0),
                    Some(bytes) => (1, bytes),
                };
                sender.len() + frames_aside < *frames_max
                    && bytes.count() + payload_bytes + bytes_aside <= *bytes_max
            }
        }
    }

    /// The connection that has waited longest has no room for its next message: it is to be set
    /// aside, in its turn.
    #[cold]
    pub(crate) fn wish(&mut self, payload_bytes: usize) {
        if let Self::Shared { turns, .. } = self {
            turns.wish(payload_bytes as u64);
        }
    }

    /// That connection has room now.
    #[cold]
    pub(crate) fn serve(&mut self) {
        if let Self::Shared { turns, is_served, .. } = self {
            *is_served = turns.wishes();
        }
    }

    /// Whether this reactor has had its turn, which is to be [ended](Inbox::end_turn).
    #[inline]
    pub(crate) fn is_served(&self) -> bool {
        matches!(self, Self::Shared { is_served: true, .. })
    }

    /// Ends the turn, or the wish for it. Returns whether there was any: then whoever waits for
    /// room is to be woken.
    #[cold]
    pub(crate) fn end_turn(&mut self) -> bool {
        let Self::Shared { turns, is_served, .. } = self else { return false };
        *is_served = false;
        let has_wished = turns.wishes();
        if has_wished {
            turns.end();
        }
        has_wished
    }

    /// Puts a message in. The caller has asked [`Inbox::has_room`].
    #[inline]
    pub(crate) fn put(&mut self, message: Message) {
        match self {
            Self::Local { messages, bytes, .. } => {
                *bytes += message.payload().len() as u64;
                messages.push_back(message);
            }
            Self::Shared { sender, bytes, .. } => {
                bytes.add(message.payload().len() as u64);
                match sender.try_send(message) {
                    // Nobody can read it any more when the node's handles are gone.
                    Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                    Err(TrySendError::Full(_)) => {
                        unreachable!(
                            "one message of each reactor passes the bound, and has a place"
                        )
                    }
                }
            }
        }
    }

    /// Whether the thread that drives the reactor is the one that takes messages out.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local { .. })
    }

    /// Takes the oldest message of a local inbox.
    pub(crate) fn take(&mut self) -> Option<Message> {
        let Self::Local { messages, bytes, .. } = self else { return None };
        let message = messages.pop_front()?;
        *bytes -= message.payload().len() as u64;
        Some(message)
    }
}

impl SharedInbox {
    /// Waits for the next message, for up to `timeout`.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::ShutDown`] when none is left, and no reactor that could put one in.
    pub(crate) fn take(&self, timeout: Duration) -> Result<Message, ReceiveError> {
        if let Some(message) = self.try_take() {
            return Ok(message);
        }
        match self.receiver.recv_timeout(timeout) {
            Ok(message) => Ok(self.book(message)),
            Err(RecvTimeoutError::Timeout) => Err(ReceiveError::Timeout { timeout }),
            Err(RecvTimeoutError::Disconnected) => Err(ReceiveError::ShutDown),
        }
    }

    /// The next message, if there is one.
    pub(crate) fn try_take(&self) -> Option<Message> {
        Some(self.book(self.receiver.try_recv().ok()?))
    }

    /// Whether every reactor has ended: what is there now is all there will be.
    pub(crate) fn is_closed(&self) -> bool {
        self.writers.are_gone()
    }

    /// Whether no message waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Waits until there may be a message, or `other` receives, for up to `timeout`. Takes no
    /// message; takes what `other` receives.
    pub(crate) fn wait_beside(&self, other: &Receiver<()>, timeout: Duration) {
        let mut select = Select::new();
        select.recv(&self.receiver);
        let other_index = select.recv(other);
        if select.ready_timeout(timeout) == Ok(other_index) {
            // Another thread may have been faster: then it looks.
            let _ = other.try_recv();
        }
    }

    fn book(&self, message: Message) -> Message {
        self.bytes.remove(message.payload().len() as u64);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::connection::{ConnectionId, ReactorId};
    use crate::wire::decode::Decoder;
    use crate::wire::{Checksum, Codec, Flags, FrameHead, Kind, Priority};

    fn message() -> Message {
        let head = FrameHead {
            kind: Kind::Data,
            priority: Priority::Normal,
            codec: Codec::Opaque,
            type_id: 0,
            sequence: 0,
            sent_at_ns: 0,
            flags: Flags::default(),
            extension: None,
            checksum: Checksum::Never,
        };
        let mut bytes = [0; 64];
        let length = head.encode(b"x", &mut bytes);
        let frame = Decoder::new(length).next(&mut &bytes[..length]).expect("valid");
        let id = ConnectionId { reactor: ReactorId::new(0, 0), key: Default::default() };
        Message::new(id, &frame.expect("whole"), crate::time::Nanos::NEVER, None, "x".into())
    }

    /// Each saw the last place free. What they have read is received: it may not be lost, whatever
    /// becomes of the reactors.
    #[test]
    fn reactors_that_see_the_last_place_all_put_their_message_in() {
        let config = Config::builder().inbox_frames_max(1).build().expect("valid");
        let (mut inboxes, shared) = Inbox::shared(&config, 3);
        assert!(inboxes.iter().all(|inbox| inbox.has_room(1)));
        inboxes.iter_mut().for_each(|inbox| inbox.put(message()));
        for left in [2, 1] {
            assert!(inboxes.iter().all(|inbox| !inbox.has_room(1)));
            assert!(shared.try_take().is_some(), "{left} are left");
        }
        drop(inboxes);
        assert!(shared.try_take().is_some(), "the reactors have ended");
        assert!(matches!(shared.take(Duration::ZERO), Err(ReceiveError::ShutDown)));
    }
}

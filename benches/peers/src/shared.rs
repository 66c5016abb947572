//! Messages for libraries that take what they send as [`Bytes`], the way an application makes them
//! that cares. Long ones stand in shared memory that is used again, as for images or logs: where
//! each was copied first, the copy was measured instead of the library. Short ones are cut from a
//! chunk, one behind the other: each by itself would cost an allocation and its end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use crate::message::{MESSAGE_BYTES_MIN, Message};

/// From here on a message is not copied.
pub const SHARED_BYTES_MIN: usize = 32 << 10;

/// Short messages stand in chunks of this length, and in a new one while anybody holds a part of
/// the last.
const CHUNK_BYTES: usize = 64 << 10;

thread_local! {
    /// Of all clients of a thread: the chunks of 10,000 connections would not stay in any cache.
    static CHUNK: Rc<RefCell<BytesMut>> =
        Rc::new(RefCell::new(BytesMut::with_capacity(CHUNK_BYTES)));
}

pub struct Shared {
    /// Long messages that somebody may hold, oldest first.
    messages: VecDeque<Bytes>,
    /// Those that nobody else holds any more. The last one is used next, as by an allocator: it may
    /// still be in a cache.
    free: Vec<Bytes>,
    /// Where short ones come from.
    chunk: Rc<RefCell<BytesMut>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { messages: VecDeque::new(), free: Vec::new(), chunk: CHUNK.with(Rc::clone) }
    }
}

impl Shared {
    /// The payload of `message`: shared memory where it is long, otherwise a copy in the chunk. All
    /// long ones of one length must be the same but for both ends.
    #[inline]
    pub fn bytes_of(&mut self, message: &Message) -> Bytes {
        let payload = message.payload();
        if payload.len() < SHARED_BYTES_MIN {
            let mut chunk = self.chunk.borrow_mut();
            // Where there is no room left it begins anew: in the same memory if that is free.
            chunk.extend_from_slice(payload);
            return chunk.split().freeze();
        }
        while let Some(bytes) = self.messages.pop_front_if(|bytes| bytes.is_unique()) {
            self.free.push(bytes);
        }
        let reused = self.free.pop().and_then(|bytes| bytes.try_into_mut().ok());
        let bytes = match reused {
            Some(mut bytes) if bytes.len() == payload.len() => {
                let end = payload.len() - MESSAGE_BYTES_MIN;
                bytes[..MESSAGE_BYTES_MIN].copy_from_slice(&payload[..MESSAGE_BYTES_MIN]);
                bytes[end..].copy_from_slice(&payload[end..]);
                bytes.freeze()
            }
            _ => Bytes::copy_from_slice(payload),
        };
        self.messages.push_back(bytes.clone());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Tag;

    #[test]
    fn memory_is_used_again_when_nobody_holds_it() {
        let mut shared = Shared::default();
        let mut message = Message::new(SHARED_BYTES_MIN);
        let mut next = |shared: &mut Shared, sequence| {
            message.stamp(Tag::Stream, sequence);
            let bytes = shared.bytes_of(&message);
            assert_eq!(bytes, message.payload(), "message {sequence}");
            bytes
        };
        let first = next(&mut shared, 1);
        let second = next(&mut shared, 2);
        assert_ne!(first.as_ptr(), second.as_ptr(), "the first is still in use");
        assert_eq!(first[..8], [1, 0, 0, 0, 0, 0, 0, Tag::Stream as u8]);
        let places = [first.as_ptr(), second.as_ptr()];
        drop(first);
        let third = next(&mut shared, 3);
        assert_eq!(third.as_ptr(), places[0]);
        drop((second, third));
        assert_eq!(next(&mut shared, 4).as_ptr(), places[0], "the one used last");
        assert_eq!(next(&mut shared, 5).as_ptr(), places[0], "and not all in turn");
    }

    /// Of all clients of a thread in turn, each message as it was made however many come after it.
    #[test]
    fn short_messages_stand_in_chunks() {
        let (mut one, mut other) = (Shared::default(), Shared::default());
        let mut message = Message::new(64);
        let mut next = |shared: &mut Shared, sequence| {
            message.stamp(Tag::Stream, sequence);
            (shared.bytes_of(&message), message.payload().to_vec())
        };
        let (first, second) = (next(&mut one, 1), next(&mut other, 2));
        assert_eq!(second.0.as_ptr(), first.0.as_ptr().wrapping_add(64), "one behind the other");
        let held: Vec<_> = (3..3000).map(|sequence| next(&mut one, sequence)).collect();
        for (bytes, expected) in [first, second].iter().chain(&held) {
            assert_eq!(bytes, expected);
        }
        assert!(one.messages.is_empty());
    }

    /// As of requests, which are gone when they have been answered.
    #[test]
    fn chunk_that_nobody_holds_begins_anew() {
        let mut shared = Shared::default();
        let message = Message::new(64);
        let places: std::collections::BTreeSet<_> =
            (0..5 * CHUNK_BYTES / 64).map(|_| shared.bytes_of(&message).as_ptr()).collect();
        assert!(places.len() <= CHUNK_BYTES / 64, "{}", places.len());
    }
}

//! Long messages for libraries that take what they send as [`Bytes`]: in shared memory that is used
//! again, as an application would that sends images or logs. Where each message was copied first,
//! the copy was measured instead of the library.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::message::{MESSAGE_BYTES_MIN, Message};

/// From here on a message is not copied.
pub const SHARED_BYTES_MIN: usize = 32 << 10;

/// Long messages, oldest first. What nobody else holds any more is used again.
#[derive(Default)]
pub struct Shared {
    messages: VecDeque<Bytes>,
}

impl Shared {
    /// The payload of `message`: shared memory where it is long, otherwise a copy. All long ones of
    /// one length must be the same but for both ends.
    #[inline]
    pub fn bytes_of(&mut self, message: &Message) -> Bytes {
        let payload = message.payload();
        if payload.len() < SHARED_BYTES_MIN {
            return Bytes::copy_from_slice(payload);
        }
        let oldest = self.messages.pop_front_if(|bytes| bytes.is_unique());
        let reused = oldest.and_then(|bytes| bytes.try_into_mut().ok());
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
        let place = first.as_ptr();
        drop(first);
        assert_eq!(next(&mut shared, 3).as_ptr(), place);
    }

    #[test]
    fn short_message_is_a_copy() {
        let mut shared = Shared::default();
        let message = Message::new(64);
        assert_eq!(shared.bytes_of(&message), message.payload());
        assert!(shared.messages.is_empty());
    }
}

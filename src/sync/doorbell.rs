//! Things for threads that wait for them, and for something else at the same time.
//!
//! A bell holds one token at most. Whoever takes it looks at the queue afterwards, and rings again
//! when it leaves something there: so nothing waits while a thread does.
//!
//! Needs of the two it drives: a thing pushed before a ring, also one that changes nothing because
//! the token is there, is seen by whoever takes that token. A bounded channel and an `ArrayQueue`
//! of crossbeam do: both look behind a `SeqCst` fence before they answer "full" or "empty".

use super::Site;

/// A bounded queue in which the oldest makes room.
pub(crate) trait Events {
    type Item;

    /// Puts an item behind the others. Returns whether the oldest made room for it.
    fn push(&self, item: Self::Item) -> bool;

    fn pop(&self) -> Option<Self::Item>;

    fn is_empty(&self) -> bool;
}

/// The token.
pub(crate) trait Bell {
    /// Puts the token there, unless it is.
    fn ring(&self);
}

/// Keeps an item. Returns whether the oldest made room for it.
pub(crate) fn push<E: Events>(events: &E, bell: &impl Bell, item: E::Item) -> bool {
    let has_displaced = events.push(item);
    bell.ring();
    has_displaced
}

/// The oldest item. Never blocks.
pub(crate) fn pop<E: Events>(events: &E, bell: &impl Bell) -> Option<E::Item> {
    let item = events.pop()?;
    if !events.is_empty() && !Site::RingAgain.is_left_out() {
        bell.ring();
    }
    Some(item)
}

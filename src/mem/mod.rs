//! Fixed-capacity memory, allocated before the first turn. Safe code only.
//!
//! [`Buffer`] is what the kernel may be lent: it is moved into the operation that uses it and
//! comes back with the last completion, so no part of the crate can reach memory the kernel owns.

/// Alignment of every buffer, and of every payload that leaves the reactor.
pub(crate) const ALIGN: usize = 16;

mod arena;
mod buffer;
mod deadlines;
mod inbox;
mod insert;
mod pool;
mod window;

pub(crate) use buffer::{Buffer, OutOfMemory};
pub(crate) use deadlines::Deadlines;
pub(crate) use inbox::{PayloadArena, SMALL_BYTES_MAX};
pub(crate) use insert::{Pieces, discard};
pub(crate) use pool::{Pool, PoolLayout};
pub(crate) use window::{Window, WindowMode};

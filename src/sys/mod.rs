//! Linux: the ring, sockets, threads and what the kernel can do. The only place with `unsafe`.
//!
//! It moves bytes and knows nothing of what they mean: never imports `wire` or `session`.

pub(crate) mod crc;
pub(crate) mod lock;
pub(crate) mod map;
pub mod probe;
pub(crate) mod ring;
pub(crate) mod socket;
pub(crate) mod thread;
pub(crate) mod timer;

//! Real sockets, the real kernel: what must hold whatever the peer, the kernel or the application
//! does.
//!
//! The other end is a plain blocking `std` socket that speaks the documented bytes wherever the
//! bytes matter. Each test runs in a process of its own (see [`util::isolated`]), which must have
//! as many descriptors open afterwards as before; every wait has a deadline.

#![expect(clippy::cast_possible_truncation, reason = "the numbers that name messages are small")]

mod backpressure;
mod batch;
mod bed;
mod client;
mod defaults;
mod drops;
mod endpoints;
mod exchange;
mod express;
mod flush;
mod framing;
mod handlers;
mod hostile;
mod kernel;
mod life;
mod lifecycle;
mod losses;
mod node;
mod pairs;
mod pool;
mod pool_calls;
mod pool_faults;
mod pool_node;
mod proxy;
mod record;
mod refused;
mod registry;
mod replay;
mod requests;
mod restart;
mod resume;
mod shutdown;
mod strangers;
mod traffic;
mod util;
mod waits;

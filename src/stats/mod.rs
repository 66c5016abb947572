//! Counters: one writer per block, any number of readers, no locks.
//!
//! Each reactor owns one [`Counters`] block; only its thread writes there. A reader on any thread
//! sees each counter a little late, never torn and never going backwards.
//! [`Statistics`] is a snapshot for people and programs.

mod counters;
mod snapshot;

pub(crate) use counters::LANES;
pub use counters::{Counter, Counters, Gauge};
pub(crate) use snapshot::drop_counts;
pub use snapshot::{CloseCount, ConnectionState, DropCount, Statistics};

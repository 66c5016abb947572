//! Ringwire: a message transport for low-latency control nodes.
#![deny(unsafe_code)]

pub mod config;
pub mod endpoint;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod stats;
#[allow(unsafe_code)]
pub mod sys;
pub mod time;
pub mod wire;

pub use wire::payload::serialize;
pub use wire::{Body, BodyError, Codec, Payload, Scratch};

//! Ringwire: a message transport for low-latency control nodes.
#![deny(unsafe_code)]

pub mod client;
pub mod config;
pub mod endpoint;
pub mod error;
mod mem;
pub mod message;
pub mod node;
pub mod reactor;
pub mod server;
mod session;
pub mod stats;
#[allow(unsafe_code)]
pub mod sys;
pub mod time;
pub mod wire;

pub use session::{Envelope, PeerInfo};
pub use wire::payload::serialize;
pub use wire::{Body, BodyError, Codec, Payload, Scratch};

pub use client::Client;
pub use config::{Config, ConfigBuilder, Idle};
pub use message::Message;
pub use node::{Node, NodeHandle};
pub use reactor::{ConnectionId, Context, Reactor, Wait};
pub use server::Server;
pub use wire::{Checksum, Frame, Kind, Priority};

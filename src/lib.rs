//! Ringwire: a message transport for low-latency control nodes. Linux only, one io_uring per core.
//!
//! Controllers, drives, simulators and supervisors exchange commands and telemetry over TCP (or
//! Unix sockets) at 1 kHz and more. Nothing stands between the socket and the application's
//! handler but one thread; payloads are read where the kernel put them.
//!
//! # A server and a client
//!
//! ```
//! use std::time::Duration;
//! use ringwire::{Client, Config, Envelope, Kind, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder()
//!     .listen("127.0.0.1:0")
//!     .on(Kind::Command, |context, frame| {
//!         // On the reactor's thread; the payload stands in the receive window.
//!         let _ = context.reply(Envelope::status(), frame.payload());
//!     })
//!     .start()?;
//!
//! let mut client = Client::new(Config::default())?;
//! client.connect(&server.addresses()[0].to_string())?;
//! let answer = client.request(Envelope::command(), b"ping", Duration::from_secs(1))?;
//! assert_eq!(&answer.payload()[..], b"ping");
//! # Ok(()) }
//! ```
//!
//! # Which type to start from
//!
//! | you write | use |
//! |---|---|
//! | a control loop that talks to one server | [`Client`]: no hidden thread, just `poll` |
//! | the same to a service with several sessions or servers | [`Pool`] |
//! | a service with handlers on its own cores | [`Server`] |
//! | an application that does not want to poll | [`Node`] and its [`NodeHandle`] |
//! | an event loop of your own, several connections | [`Reactor`] |
//! | code that should not care | [`Transport`] |
//!
//! # Typed payloads
//!
//! A type that derives `rkyv::Archive` and `rkyv::Serialize` is a body once [`payload!`] has given
//! it a number; its receiver reads it in place. [`rkyv`] and [`bytes`] are exported, so that an
//! application needs no dependency of its own, which would have to be of the same version: rkyv 0.8
//! with `bytecheck`, `little_endian`, `pointer_width_32` and `aligned`, which is the format on the
//! wire, and bytes 1. With a dependency of its own it leaves the line `#[rkyv(crate = …)]` out, and
//! must not ask rkyv for other formats: features add up.
//!
//! ```
//! use ringwire::rkyv::{Archive, Serialize};
//!
//! #[derive(Archive, Serialize)]
//! #[rkyv(crate = ringwire::rkyv)]
//! struct Setpoint {
//!     axis: u32,
//!     position_mm: f64,
//! }
//! ringwire::payload!(Setpoint = 0x0101);
//! ```
//!
//! # Waiting and async
//!
//! There is no async interface and no descriptor to poll: a reactor waits in its ring. In an
//! asynchronous program give a thread to [`NodeHandle::wait`], and pass on what comes through a
//! channel of its runtime; to send, [`NodeHandle::post_to`] never blocks.
//!
//! # Logging
//!
//! Ringwire logs through [`tracing`](https://docs.rs/tracing): without a subscriber nothing is
//! seen.
//!
//! # Glossary
//!
//! - **frame**: header, optional extension, payload and padding on the wire ([`wire`]).
//! - **message**: what the application sends and receives; travels as one frame.
//! - **lane**: the bounded queue of one [`Priority`] of one session.
//! - **session**: the rules of talking to one peer; outlives its connections.
//! - **connection**: in names ([`ConnectionId`], [`ConnectionInfo`]) the session, whose id outlives
//!   its links; in limits (`connections_max`) a socket.
//! - **link**: the connection that a session has at the moment; it is *away* without one.
//! - **reliable**: kept until the peer confirms it, and sent again on the next link.
//! - **gap**: stands in a lane for messages that will not come.
//! - **watch**: a kind or type of message that must come in time.
//! - **window**: the memory of a connection that the kernel receives into.
//! - **block**: a piece of send memory that frames are encoded into and sent from.
//! - **reactor**: one thread, one ring, one loop; **turn**: one pass of that loop.
//! - **inbox**: where messages wait that no handler takes.
//! - **pool**: several sessions with one service, looked after together; **member**: one of them.
//! - **tap**: copies frames that pass a reactor for another thread; **recording**: a file of them.
//! - **envelope**: how a message travels: kind, priority, reliability, time to live.
//!
//! # Code map
//!
//! ```text
//! client, pool,
//! server, node ──────────▶ reactor ──▶ session ──▶ wire      transport: one trait over them
//!                             ├──────▶ sys ──────▶ mem       sys: the only unsafe code
//!                             └──────▶ mem       config, endpoint, error, record, stats, sync,
//! recorder: a tap of a reactor into a record     time: leaves
//! ```
//!
//! Start reading at [`reactor`]. ARCHITECTURE.md has the decisions and their figures.
//!
//! # Features
//!
//! - `cli` (default): the `ringwire` command and its dependencies. An embedder turns it off.
//! - `metrics`: a node serves its statistics for Prometheus (`metrics_address`).

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("ringwire needs Linux 6.1 or later (io_uring)");

pub mod client;
pub mod config;
mod crc;
pub mod endpoint;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod mem;
#[cfg(feature = "metrics")]
mod metrics;
pub mod node;
pub mod pool;
pub mod reactor;
pub mod record;
pub mod recorder;
pub mod server;
mod session;
pub mod stats;
mod sync;
#[allow(unsafe_code)]
pub mod sys;
pub mod time;
pub mod transport;
pub mod wire;

/// How many seeds a property test takes: far fewer under Miri, which is far slower.
#[cfg(test)]
const fn seeds(count: u64) -> u64 {
    if cfg!(miri) { count.div_ceil(300) } else { count }
}

/// For a test that walks through every case there is, as the argument of `step_by`: all of them,
/// and under Miri one of so many.
#[cfg(test)]
const fn miri_stride(stride: usize) -> usize {
    if cfg!(miri) { stride } else { 1 }
}

// What payload types need; see the crate's documentation.
#[doc(no_inline)]
pub use {bytes, rkyv};

// The public interface is:
pub use client::Client;
pub use config::{Config, ConfigBuilder, Idle, Overflow, PoolConfig, PoolConfigBuilder};
pub use endpoint::{Address, DEFAULT_PORT, Endpoint};
pub use error::{
    AccessError, CloseReason, ConfigError, ConnectError, DropReason, EndpointError, FlushError,
    ProtocolError, ReceiveError, RequestError, RingError, SendError, SetupError,
};

pub use node::{Incoming, Node, NodeBuilder, NodeHandle, NodePool, PendingRequest};
pub use pool::Pool;
pub use reactor::{
    BatchReport, BroadcastReport, Cancelled, Choice, ClockOffset, ConnectionId, ConnectionInfo,
    ConnectionState, Context, Event, EventKind, Link, Message, PoolId, PoolRefusals,
    PoolStatistics, Reactor, RequestId, ShutdownReport, Tap, TapFilter, TapFrame, TapReceiver,
    Turn, Wait, WatchChange, WatchError, WatchKey, Watched,
};
pub use recorder::{RecordProgress, Recorder, RecorderReport};
pub use server::{Server, ServerBuilder};
pub use session::lane::Sent;
pub use session::{Envelope, PeerInfo, Undelivered};
pub use stats::{CounterBlock, Counters, Snapshot, Statistics};
pub use time::Nanos;
pub use transport::{Transport, TransportError};
pub use wire::handshake::{RejectReason, SessionId};
pub use wire::payload::serialize;
pub use wire::{Body, BodyError, Checksum, Codec, Frame, Kind, Payload, Priority, Scratch};

//! Every limit and default, with its unit.
//!
//! A [`Config`] that exists is valid: [`ConfigBuilder::build`] and [`Config::from_toml`] check each
//! value against its bounds and the values against each other, and nothing checks them again.
//! The names of the setters are the keys of the TOML file. Memory is what the limits say: see the
//! notes at each key. Limits are *per reactor* unless they say otherwise. What is said about a
//! file's keys and values is in `text`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, Deserializer};

use crate::endpoint::EndpointError;
use crate::wire::handshake::NAME_BYTES_MAX;
use crate::wire::padded;
use crate::wire::{Checksum, Priority};

pub mod pool;
mod text;

pub use pool::{PoolConfig, PoolConfigBuilder};
use text::{KeyList, Suggestion, Takes};

/// Most reactors a `Node` may have. Each is a thread with a ring and all the memory that the limits
/// name: with the defaults 200 MB of address space each, resident as used.
pub const REACTORS_MAX: u16 = 256;

/// What a reactor does when it has nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Never sleeps: watches the completion queue and the command queue in memory. Lowest latency,
    /// one core at 100 %. Falls back to `Adaptive`, with a warning, when there are more reactors
    /// than cores: those that the process may run on, and those that `cores` names.
    Spin,
    /// Spins for `idle_spin_us` after the last activity, then sleeps.
    #[default]
    Adaptive,
    /// Sleeps at once. CPU near 0 when idle, and one wake-up more per message.
    Park,
}

impl Idle {
    /// The name in configuration files, options and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Park => "park",
        }
    }
}

/// What a lane does with a message that it has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Refuses it: `SendError::Full`, and the caller still has the message.
    #[default]
    Reject,
    /// Drops the oldest best-effort messages that wait. When only reliable ones wait, it refuses.
    DropOldest,
    /// At any time, not only when the lane is full: a best-effort message without a conflation key
    /// of its own replaces the one of the same kind and type number that still waits. When there is
    /// no room all the same, it is refused. Reliable messages, requests and answers replace nothing
    /// and stay.
    LatestValue,
    /// Ends the session: the peer reads too slowly.
    Disconnect,
}

/// An invalid configuration. Names the key, the value and the bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number outside its bounds.
    #[error("{key} = {value} is out of bounds: {min} to {max}")]
    OutOfBounds {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// Smallest valid value.
        min: u64,
        /// Largest valid value.
        max: u64,
    },
    /// Two values that do not go together.
    #[error("{key} = {value} must be at least {other_key} = {other}{why}")]
    BelowOther {
        /// The key that is too small.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The key it depends on.
        other_key: &'static str,
        /// The value of that.
        other: u64,
        /// Why, starting with a space, or empty.
        why: &'static str,
    },
    /// A value where a whole number belongs: of another type, negative, or beyond 64 bits.
    #[error("{key} = {value} is invalid: a whole number from {min} to {max} is expected")]
    NotWhole {
        /// The key.
        key: &'static str,
        /// Its value as it was written; a long one is cut.
        value: String,
        /// Smallest valid value.
        min: u64,
        /// Largest valid value.
        max: u64,
    },
    /// A value that is no number and makes no sense, or is of another type than its key takes.
    #[error("{key} = {value} is invalid: {expected}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// Its value as a file would have it; a long one is cut.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// There is no such key.
    #[error("unknown key {key} in line {line}: {hint}", hint = Suggestion(*.near))]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands, from 1.
        line: usize,
        /// The key that was probably meant.
        near: Option<&'static str>,
    },
    /// A pool has no such key.
    #[error("unknown key {key} in line {line}: {hint}", hint = KeyList(*.near, pool::KEYS))]
    UnknownPoolKey {
        /// The key.
        key: String,
        /// Where it stands, from 1.
        line: usize,
        /// The key that was probably meant.
        near: Option<&'static str>,
    },
    /// A malformed endpoint.
    #[error("{key}: {source}")]
    Endpoint {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// The text is not TOML.
    #[error("configuration: {message}")]
    Toml {
        /// What and where, over several lines.
        message: String,
    },
    /// The file could not be read.
    #[error("cannot read configuration {path}: {message}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
}

/// Limits and tuning of one node. A `Config` that exists is valid.
///
/// Build one with [`Config::builder`], or read one with [`Config::from_toml`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Config {
    settings: Settings,
}

/// Collects settings; [`build`](Self::build) checks them. Every setter is also a key of the TOML
/// file, but for [`overflow`](Self::overflow), which there has a key for each lane: `overflow_low`,
/// `overflow_normal`, `overflow_high` and `overflow_critical`. What is not set keeps its default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct ConfigBuilder {
    settings: Settings,
}

/// Declares the settings once. Of a number: key, field, setter, getter, type, default and bounds.
/// Of another: key, field, setter, type, default, what a file may say, and how the setter takes it.
/// The lanes have one setter together.
macro_rules! settings {
    (
        numbers {$(
            $(#[doc = $doc:literal])+
            $key:ident: $type:ty = $default:expr, $min:expr => $max:expr;
        )+}
        others {$(
            $(#[doc = $other_doc:literal])+
            $other:ident: $other_type:ty = $other_default:expr, $takes:expr,
            set $argument:ident: $argument_type:ty => $value:expr;
        )+}
        lanes {$(
            $(#[doc = $lane_doc:literal])+
            $lane:ident: $lane_type:ty = $lane_default:expr, $lane_takes:expr;
        )+}
    ) => {
        /// The settings, checked or not: a [`Config`] has checked ones, a [`ConfigBuilder`] others.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Settings {
            $( $key: $type, )+
            $( $other: $other_type, )+
            $( $lane: $lane_type, )+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self {
                    $( $key: $default, )+
                    $( $other: $other_default, )+
                    $( $lane: $lane_default, )+
                }
            }
        }

        impl Settings {
            /// Every number within its own bounds.
            fn check_bounds(&self) -> Result<(), ConfigError> {
                $(
                    let (value, min, max) = (u64::from(self.$key), $min as u64, $max as u64);
                    if value < min || value > max {
                        return Err(ConfigError::OutOfBounds {
                            key: stringify!($key), value, min, max,
                        });
                    }
                )+
                Ok(())
            }
        }

        /// Every key of the TOML file, and what it takes.
        const KEYS: &[(&str, Takes)] = &[
            $( (stringify!($key), Takes::Whole { min: $min as u64, max: $max as u64 }), )+
            $( (stringify!($other), $takes), )+
            $( (stringify!($lane), $lane_takes), )+
        ];

        impl ConfigBuilder {
            $(
                $(#[doc = $doc])+
                #[doc = ""]
                #[doc = concat!(
                    "Default `", stringify!($default), "`, bounds `",
                    stringify!($min), "` to `", stringify!($max), "`.",
                )]
                #[must_use]
                pub fn $key(mut self, value: $type) -> Self {
                    self.settings.$key = value;
                    self
                }
            )+
            $(
                $(#[doc = $other_doc])+
                #[must_use]
                pub fn $other(mut self, $argument: $argument_type) -> Self {
                    self.settings.$other = $value;
                    self
                }
            )+
        }

        impl Config {
            $(
                #[doc = concat!("See [`ConfigBuilder::", stringify!($key), "`].")]
                #[must_use]
                pub fn $key(&self) -> $type {
                    self.settings.$key
                }
            )+
        }
    };
}

/// Cores are numbered from 0 to below this.
const CORES_MAX: usize = 1024;
const CORES_EXPECTED: &str = "a list of core numbers from 0 to 1023, each once, is expected";

const IDLE: Takes =
    Takes::OneOf(&["spin", "adaptive", "park"], "\"spin\", \"adaptive\" or \"park\" is expected");

const CHECKSUM: Takes = Takes::OneOf(
    &["never", "commands", "always"],
    "\"never\", \"commands\" or \"always\" is expected",
);

const OVERFLOW: Takes = Takes::OneOf(
    &["reject", "drop_oldest", "latest_value", "disconnect"],
    "\"reject\", \"drop_oldest\", \"latest_value\" or \"disconnect\" is expected",
);

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

settings! {
    numbers {
        /// This node's number, carried in the `source` field of extended frames; 0 is none.
        node_number: u32 = 0, 0 => u32::MAX;
        /// Hash of the application's payload types. Two nodes whose hashes are both non-zero and
        /// differ refuse each other in the handshake.
        schema_hash: u64 = 0, 0 => u64::MAX;

        /// How many reactors a `Node` or `Server` starts, each a thread with a ring; 0 is one for
        /// each of `cores`, and one when that is empty. Reactors beyond `cores` are not pinned. A
        /// `Client`, a `Pool` and a `Reactor` of its own ignore it, with a warning.
        reactors: u32 = 0, 0 => REACTORS_MAX as u32;

        /// Largest frame accepted and sent: header, extension, payload and padding, in bytes. The
        /// smaller of both sides' limits holds for what is sent.
        frame_bytes_max: u32 = 4 * MIB, KIB => 256 * MIB;
        /// Connections a reactor holds at once. Each reserves `window_bytes` of address space, of
        /// which only what is used becomes resident.
        connections_max: u32 = 1024, 1 => 65_536;
        /// Requests of a reactor that may be under way at once: from their start until their
        /// outcome has been taken, or they were cancelled. Who loses the id of one cancels it
        /// first.
        requests_max: u32 = 1024, 1 => 65_536;
        /// Frames that may wait in one lane (one priority of one connection).
        lane_frames_max: u32 = 65_536, 1 => 1 << 24;
        /// Bytes that may wait in one lane behind what is in flight; the frame that reaches the
        /// bound may exceed it, so an empty lane takes any frame. Larger absorbs longer bursts, and
        /// lets more stand in front of what is queued last.
        lane_bytes_max: u32 = MIB, KIB => 1 << 30;

        /// Memory in which one lane keeps reliable messages until the peer has confirmed them, in
        /// bytes. When it is full the lane refuses more of them: nothing is lost. It is part of
        /// `send_memory_bytes`.
        ///
        /// What waits counts as long as its frames are, what is kept as long as its memory is. So a
        /// lane that was filled while it waited may keep more: up to four times `kept_bytes_max +
        /// frame_bytes_max + block_bytes`, because a block may be filled to a quarter only. Each
        /// body that is sent from where it is (`in_place_bytes_min`) takes 8 KiB of send memory
        /// besides: up to `1 + 8 KiB / (in_place_bytes_min + 32)` times that sum, where that is
        /// more than four.
        kept_bytes_max: u32 = 4 * MIB, 64 * KIB => 1 << 30;

        /// Receive window of a connection, in bytes: what one receive can take. Rounded up to a
        /// multiple of 16.
        window_bytes: u32 = 64 * KIB, 4 * KIB => 4 * MIB;
        /// Staging block, in bytes: what one send can carry. Takes 8 KiB of send memory, or twice,
        /// four times … as much.
        block_bytes: u32 = 64 * KIB, 4 * KIB => 4 * MIB;
        /// Memory for frames waiting to be sent, all connections of a reactor together, in bytes.
        /// Reserved as address space, resident as used. What waits in a lane is held in blocks of
        /// 8 KiB times a power of two, so a frame costs up to twice its length. A connection that
        /// holds as much as is free gets no more; an eighth is kept for those that hold nothing.
        /// Frames up to 4 KiB always find room on a connection that holds nothing.
        send_memory_bytes: u64 = 64 << 20, 64 << 10 => 1_u64 << 36;
        /// Memory for received frames larger than a window, all connections of a reactor together,
        /// in bytes. Reserved as address space, resident as used. At least twice `frame_bytes_max`.
        /// Half is kept for frames of up to a 128th of it.
        receive_memory_bytes: u64 = 64 << 20, 8 << 10 => 1_u64 << 36;
        /// Memory for messages that no handler took and `receive` has not fetched, in bytes.
        inbox_bytes_max: u64 = 16 << 20, 8 << 10 => 1_u64 << 36;
        /// Messages that no handler took and `receive` has not fetched. When it is full, the
        /// connections with such messages are not read until there is room: nothing is dropped.
        /// Reactors of a node may pass it by one message each.
        inbox_frames_max: u32 = 4096, 1 => 1 << 20;
        /// Commands from other threads that may wait for a reactor of a `Node`: sends and posts
        /// among them. Elsewhere there are none.
        commands_max: u32 = 1024, 2 => 1 << 20;
        /// Connection events that may wait to be fetched; the oldest is dropped and counted.
        /// Sessions that were lost with unconfirmed messages (`SessionLost`) make room for nothing
        /// else: as many again of those may wait.
        events_max: u32 = 1024, 16 => 1 << 20;
        /// Memory for the messages that waiting events hold (`SessionLost`), in bytes. Beyond it
        /// the event says only how many more there are, and they are counted
        /// (`undelivered_omitted`): fetch events, if reliable messages are sent.
        events_bytes_max: u64 = 16 << 20, 0 => 1_u64 << 36;

        /// Entries of the submission queue; rounded up to a power of two. The completion queue has
        /// eight times as many.
        ring_entries: u32 = 512, 8 => 4096;
        /// How much send memory is registered with the kernel, in bytes; nothing is while
        /// `zero_copy_bytes_min` is 0. Counts against RLIMIT_MEMLOCK (8 MiB by default), for which
        /// the kernel adds up what all processes of the user have registered; when it refuses, the
        /// reactor runs unregistered and says so once. Only zero-copy sends use it.
        registered_bytes: u64 = 1 << 20, 0 => 1_u64 << 36;
        /// Frames whose payload is at least this long are sent without a copy (SEND_ZC) where the
        /// network device can; 0, the default, is never. The kernel lets go of such a frame when
        /// the peer's kernel has acknowledged it, and until then nothing else of the connection
        /// leaves: that saves CPU time on a fast device and costs a round trip a frame, and 40 ms
        /// where the acknowledgement is a delayed one. Loopback copies anyway, so a connection
        /// whose first notification reports a copy goes back to plain sends.
        zero_copy_bytes_min: u32 = 0, 0 => 1 << 30;
        /// Bodies that are [`Bytes`](bytes::Bytes) of at least this length are not copied when they
        /// are sent: the frame refers to them until they have left (when they are reliable, until
        /// the peer has confirmed them), and the reactor does not stand still for as long as a copy
        /// of a long one takes. They count against `lane_bytes_max` and `kept_bytes_max` as if they
        /// had been copied. The largest value turns it off. Shorter than half a block
        /// (`block_bytes`) they would leave one by one, where several that are copied leave
        /// together.
        in_place_bytes_min: u32 = 32 * KIB, 64 => u32::MAX;
        /// How long `adaptive` spins after the last activity, in microseconds.
        idle_spin_us: u32 = 50, 0 => 1_000_000;
        /// While a reactor sleeps at least four times within this time, in microseconds, it keeps a
        /// timer standing that is due after it and wakes nobody; 0 turns that off. Sleeping costs
        /// less while a timer is due before the kernel's next tick: a fifth of a parked round trip
        /// in the guest where it was measured (`ringwire bench rtt --idle park --variant
        /// standing_timer_us=0`), perhaps nothing on bare metal. Never longer than a quarter of the
        /// kernel's tick (1 to 10 ms, CONFIG_HZ).
        standing_timer_us: u32 = 1000, 0 => 100_000;

        /// How long `connect` may take, resolver not included, in milliseconds.
        connect_timeout_ms: u32 = 5_000, 1 => 600_000;
        /// How long a connected peer may take to complete the handshake, in milliseconds.
        handshake_timeout_ms: u32 = 2_000, 1 => 600_000;
        /// How long a peer may take from the first to the last byte of a frame, in milliseconds.
        frame_timeout_ms: u32 = 30_000, 10 => 3_600_000;
        /// How often this node wants to hear from its peer, in milliseconds; 0 is never. The peer
        /// sends a heartbeat when it has had nothing else to send for that long. Heartbeats also
        /// measure the peer's clock, against which times to live are checked. On a session that
        /// always has something to send one does so each second; the busy sessions of a reactor in
        /// turn, a millisecond apart, so that 10,000 do it every ten seconds. With 0 the clock is
        /// measured once, when the connection begins: by `clock_drift_ppm` of the time since then
        /// (0.36 s in an hour) times to live are over sooner here.
        heartbeat_interval_ms: u32 = 1_000, 0 => 3_600_000;
        /// So many intervals of silence mean that the peer is gone, also when the kernel would go
        /// on for minutes (tcp(7), tcp_retries2).
        heartbeat_misses: u32 = 3, 2 => 1_000;
        /// How fast the clocks of two nodes may drift apart, in parts per million: widens the error
        /// of the clock offset against which times to live are checked. 1000 where NTP slews a
        /// clock.
        clock_drift_ppm: u32 = 100, 1 => 100_000;
        /// Messages whose absence may be watched, for each session.
        watches_max: u32 = 8, 0 => 256;
        /// How long a session whose connection was lost is kept for its peer to come back, in
        /// milliseconds. The side that connected gives up after it, too. 0 ends a session with its
        /// connection.
        session_linger_ms: u32 = 10_000, 0 => 86_400_000;
        /// The first attempt to reconnect is made at once; the second after a random time up to
        /// this one, in milliseconds, which doubles with each further attempt; at most
        /// `reconnect_delay_max_ms`.
        reconnect_delay_ms: u32 = 2, 1 => 60_000;
        /// Longest time between two attempts to reconnect, in milliseconds.
        reconnect_delay_max_ms: u32 = 1_000, 1 => 3_600_000;
        /// Attempts to reconnect before the session is given up; 0 is as many as fit into
        /// `session_linger_ms`. They are counted anew once a connection has held for a second.
        reconnect_attempts_max: u32 = 0, 0 => u32::MAX;

        /// TCP_USER_TIMEOUT, in milliseconds: how long sent data may stay unacknowledged before the
        /// kernel gives the connection up (tcp(7)); 0 leaves the kernel's default of about 15
        /// minutes. Used only with `heartbeat_interval_ms = 0`. With heartbeats it is not set: they
        /// find a dead peer, and the kernel would also give up a living one that has merely stopped
        /// reading. A peer that dies while this end is not reading it, for want of room, is noticed
        /// when it is read again.
        tcp_user_timeout_ms: u32 = 10_000, 0 => 3_600_000;
        /// Idle seconds before the kernel probes the peer (TCP_KEEPIDLE, tcp(7)); 0 turns probes
        /// off.
        tcp_keepalive_s: u32 = 15, 0 => 32_767;
        /// TCP_NOTSENT_LOWAT in bytes: how much unsent data the kernel holds, so that a critical
        /// frame overtakes in user space (tcp(7)). 0 leaves the kernel's default, but for the main
        /// connection of an `express` session: that has 128 KiB.
        tcp_notsent_lowat_bytes: u32 = 0, 0 => 1 << 30;
        /// SO_SNDBUF in bytes (socket(7)). 0 leaves the kernel's autotuning on, but for connections
        /// over loopback that carry messages of 32 KiB and more: they have 320 KiB, so that what is
        /// under way stays in the processor's caches. From 512 KiB on autotuning is on again: such
        /// messages leave whole, and what is urgent behind them on the same connection waits for
        /// about two of them instead of one (it does not with `express`). A value turns autotuning
        /// off, and the kernel silently lowers it to net.core.wmem_max.
        tcp_send_buffer_bytes: u32 = 0, 0 => 1 << 30;
        /// SO_RCVBUF in bytes; 0 leaves the kernel's autotuning on (socket(7)). A value turns it
        /// off, and the kernel silently lowers it to net.core.rmem_max.
        tcp_receive_buffer_bytes: u32 = 0, 0 => 1 << 30;
        /// DSCP of outgoing packets, 0 to 63 (RFC 2474); 46 is expedited forwarding.
        tcp_dscp: u8 = 0, 0 => 63;
        /// Length of a listener's accept queue (listen(2)); the kernel caps it at
        /// net.core.somaxconn.
        listen_backlog: u32 = 1024, 1 => 65_535;

        /// Sessions of a reactor that the registry has rows for; more are counted
        /// (`sessions_unlisted`) and not listed. A row is 640 bytes of the file.
        registry_sessions_max: u32 = 1024, 0 => 65_536;
        /// A turn that takes longer counts as slow, in microseconds: a handler that holds all
        /// connections of its reactor up.
        turn_threshold_us: u32 = 1000, 1 => 60_000_000;

        /// NAPI busy polling inside a blocking wait, in microseconds (Linux 6.9); 0 turns it off.
        /// Only for real network devices: loopback has no NAPI.
        napi_busy_poll_us: u32 = 0, 0 => 10_000;
        /// SCHED_FIFO priority of the reactor threads of a `Node` (sched(7)); 0 leaves the default
        /// policy. A `Client`, a `Pool` and a `Reactor` of its own ignore it, with a warning.
        /// Refused together with `idle = "spin"` unless `cores` pins the threads. Before Linux 6.12
        /// a reactor that does not sleep is stopped for 50 ms of each second, unless
        /// kernel.sched_rt_runtime_us is -1: `ringwire doctor` tells.
        scheduler_fifo_priority: u8 = 0, 0 => 99;
    }
    others {
        /// The name this node gives in the handshake; at most 64 bytes. Default: empty.
        node_name: String = String::new(), Takes::Text, set name: impl Into<String> => name.into();
        /// What a reactor does when it has nothing to do. Default: [`Idle::Adaptive`].
        idle: Idle = Idle::Adaptive, IDLE, set idle: Idle => idle;
        /// Which frames carry a checksum. Default: [`Checksum::Commands`].
        checksum: Checksum = Checksum::Commands, CHECKSUM, set checksum: Checksum => checksum;
        /// Whether a connection that was established and is lost is made again, by the side that
        /// connected, and the session goes on where it was. No effect with `session_linger_ms = 0`
        /// at either end. Default: yes.
        reconnect: bool = true, Takes::Flag, set enabled: bool => enabled;
        /// Whether sessions that this node dials use two connections: critical and high messages on
        /// one, normal and low on the other, so that no bulk stands in front of a stop command, not
        /// even in a kernel buffer. Takes two places of `connections_max` at each end. A listener
        /// that does not know of it gets one connection. Default: no.
        ///
        /// Each connection is lost and made again by itself; the session ends with both. Messages
        /// are in order within each lane, as ever.
        express: bool = false, Takes::Flag, set enabled: bool => enabled;
        /// Whether messages that are dropped on this side are told by events, one for each session,
        /// lane and reason, at most every 100 ms:
        /// [`EventKind::Dropped`](crate::EventKind::Dropped). They are counted in any case.
        /// Default: no.
        drop_events: bool = false, Takes::Flag, set enabled: bool => enabled;
        /// The cores to pin the reactors of a `Node` to, in order: numbers from 0 to 1023, each
        /// once, at most [`REACTORS_MAX`]. Default: none are pinned. A `Client`, a `Pool` and a
        /// `Reactor` of its own run on the application's thread, which is its own to pin: they
        /// ignore it, with a warning.
        cores: Vec<usize> = Vec::new(), Takes::Cores,
            set cores: impl Into<Vec<usize>> => cores.into();
        /// TCP congestion control of the connections, by the kernel's name (`cubic`, `bbr`,
        /// `reno`). Default: the system's, but for connections over loopback: they have `reno`,
        /// which does not pace them.
        tcp_congestion: Option<String> = None, Takes::Text,
            set name: impl Into<String> => Some(name.into());
        /// Whether a `Node` locks the process's memory (mlockall(2)) before its reactors start.
        /// Needs RLIMIT_MEMLOCK above everything the limits reserve. Default: no. A `Client`, a
        /// `Pool` and a `Reactor` of its own ignore it, with a warning.
        mlockall: bool = false, Takes::Flag, set enabled: bool => enabled;
        /// Whether statistics, histograms and sessions are kept in a file that `ringwire stat`,
        /// `ringwire top` and others read while this process runs, and after it died. Without it,
        /// and when the file can not be made, they are in this process alone. Default: yes.
        registry: bool = true, Takes::Flag, set enabled: bool => enabled;
        /// The directory of that file: made if it is not there; this user's, and not writable by
        /// others. A file for each `Node`, `Client` and `Reactor`. Default: the first that will do
        /// of [`directories`](crate::stats::directories). What dead processes left there is
        /// removed, but for the newest [`DEAD_FILES_MAX`](crate::stats::DEAD_FILES_MAX).
        registry_directory: Option<PathBuf> = None, Takes::Text,
            set directory: impl Into<PathBuf> => Some(directory.into());
        /// Serves the statistics of a `Node` or `Server` for Prometheus, by HTTP at this address
        /// and port (`127.0.0.1:9464`, `[::1]:9464`), from a thread of its own. Whoever reaches it
        /// can read them. Needs the feature `metrics`. Default: not. A `Client`, a `Pool` and a
        /// `Reactor` of its own ignore it, with a warning.
        metrics_address: Option<String> = None, Takes::Text,
            set address: impl Into<String> => Some(address.into());
    }
    lanes {
        /// What a full lane of low priority does.
        overflow_low: Overflow = Overflow::Reject, OVERFLOW;
        /// What a full lane of normal priority does.
        overflow_normal: Overflow = Overflow::Reject, OVERFLOW;
        /// What a full lane of high priority does.
        overflow_high: Overflow = Overflow::Reject, OVERFLOW;
        /// What a full lane of critical priority does.
        overflow_critical: Overflow = Overflow::Reject, OVERFLOW;
    }
}

impl Config {
    /// Starts from the defaults.
    #[must_use]
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// Reads a configuration from TOML text. Keys are the setters of [`ConfigBuilder`].
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the key, the value and the bound, or the line of a syntax error.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        ConfigBuilder::from_toml(text)?.build()
    }

    /// Reads a configuration file. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// As [`Config::from_toml`], and [`ConfigError::File`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::File { path: path.into(), message: error.to_string() })?;
        Self::from_toml(&text)
    }

    /// The name this node gives in the handshake.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.settings.node_name
    }

    /// What a reactor does when it has nothing to do.
    #[must_use]
    pub fn idle(&self) -> Idle {
        self.settings.idle
    }

    /// Whether a `Node` locks the process's memory before its reactors start.
    #[must_use]
    pub fn mlockall(&self) -> bool {
        self.settings.mlockall
    }

    /// Whether the statistics are kept in a file that other processes can read.
    #[must_use]
    pub fn registry(&self) -> bool {
        self.settings.registry
    }

    /// The directory of that file; `None` is the first of
    /// [`directories`](crate::stats::directories) that will do.
    #[must_use]
    pub fn registry_directory(&self) -> Option<&Path> {
        self.settings.registry_directory.as_deref()
    }

    /// Where a `Node` serves its metrics over HTTP; `None` does not.
    #[must_use]
    pub fn metrics_address(&self) -> Option<&str> {
        self.settings.metrics_address.as_deref()
    }

    /// What a full lane does, by [`Priority::index`].
    #[must_use]
    pub fn overflow(&self) -> [Overflow; Priority::COUNT] {
        [
            self.settings.overflow_low,
            self.settings.overflow_normal,
            self.settings.overflow_high,
            self.settings.overflow_critical,
        ]
    }

    /// Whether lost connections are made again.
    #[must_use]
    pub fn reconnect(&self) -> bool {
        self.settings.reconnect
    }

    /// See [`ConfigBuilder::drop_events`].
    #[must_use]
    pub fn drop_events(&self) -> bool {
        self.settings.drop_events
    }

    /// See [`ConfigBuilder::express`].
    #[must_use]
    pub fn express(&self) -> bool {
        self.settings.express
    }

    /// How often heartbeats are wanted, in the unit of the greeting.
    pub(crate) fn heartbeat_interval_us(&self) -> u32 {
        self.settings.heartbeat_interval_ms.saturating_mul(1000)
    }

    pub(crate) fn session_linger(&self) -> Duration {
        Duration::from_millis(self.settings.session_linger_ms.into())
    }

    /// Which frames carry a checksum.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        self.settings.checksum
    }

    /// The cores a `Node` pins its reactors to, in order; empty pins none.
    #[must_use]
    pub fn cores(&self) -> &[usize] {
        &self.settings.cores
    }

    /// How many reactors a `Node` starts: `reactors`, or one for each of `cores`, and at least one.
    #[must_use]
    pub fn reactor_count(&self) -> usize {
        reactor_count(self.settings.reactors, &self.settings.cores)
    }

    /// Which settings have been made that only a `Node` obeys: its threads are its own, those of
    /// others are the application's.
    pub(crate) fn only_for_nodes(&self) -> Vec<&'static str> {
        let settings = [
            (self.settings.reactors > 0, "reactors"),
            (!self.settings.cores.is_empty(), "cores"),
            (self.settings.mlockall, "mlockall"),
            (self.settings.scheduler_fifo_priority > 0, "scheduler_fifo_priority"),
            (self.settings.metrics_address.is_some(), "metrics_address"),
        ];
        settings.into_iter().filter(|(is_made, _)| *is_made).map(|(_, key)| key).collect()
    }

    /// Whether so many reactors may wait as this says: each that spins in real time has its core.
    pub(crate) fn check_pinned(&self, reactors: usize) -> Result<(), ConfigError> {
        let is_pinned = self.settings.cores.len() >= reactors;
        check_pinned(
            is_pinned,
            self.settings.idle,
            self.settings.idle_spin_us,
            self.settings.scheduler_fifo_priority,
        )
    }

    /// For a reactor that needs no more places for connections. Asked for less, it has less.
    pub(crate) fn with_connections_at_most(mut self, connections: u32) -> Self {
        assert!(connections >= 2, "a session with express = true takes two");
        let connections_max = &mut self.settings.connections_max;
        *connections_max = connections.min(*connections_max);
        self
    }

    /// For reactors that have no cores of their own to spin on.
    pub(crate) fn without_spinning(mut self) -> Self {
        if self.settings.idle == Idle::Spin {
            self.settings.idle = Idle::Adaptive;
        }
        self
    }

    /// TCP congestion control of the connections; `None` is the system's, but for `reno` over
    /// loopback.
    #[must_use]
    pub fn tcp_congestion(&self) -> Option<&str> {
        self.settings.tcp_congestion.as_deref()
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.connect_timeout_ms.into())
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.handshake_timeout_ms.into())
    }

    pub(crate) fn frame_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.frame_timeout_ms.into())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::builder().build().expect("the defaults are valid: a test builds them")
    }
}

impl ConfigBuilder {
    /// Reads settings from TOML text, each checked by itself. How they go together is left to
    /// [`build`](Self::build), so that options given elsewhere can be laid over them.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the line of a syntax error or an unknown key, or the key, the value
    /// and the bound.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let not_toml = |error: toml::de::Error| ConfigError::Toml {
            message: error.to_string().trim_end().into(),
        };
        let table = DeTable::parse(text).map_err(not_toml)?;
        text::check(text, table.get_ref(), KEYS, unknown_key)?;
        Self::deserialize(Deserializer::from(table)).map_err(not_toml)
    }

    /// What a full lane does, by priority. Default: [`Overflow::Reject`] in all.
    #[must_use]
    pub fn overflow(mut self, priority: Priority, overflow: Overflow) -> Self {
        *match priority {
            Priority::Low => &mut self.settings.overflow_low,
            Priority::Normal => &mut self.settings.overflow_normal,
            Priority::High => &mut self.settings.overflow_high,
            Priority::Critical => &mut self.settings.overflow_critical,
        } = overflow;
        self
    }

    /// Checks every setting against its bounds and the others, and freezes them.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the key, the value and the bound.
    pub fn build(self) -> Result<Config, ConfigError> {
        let Self { mut settings } = self;
        settings.check_bounds()?;
        settings.check_names()?;
        let align = |bytes: u32| u32::try_from(padded(bytes as usize)).expect("bounds are small");
        settings.window_bytes = align(settings.window_bytes);
        settings.block_bytes = align(settings.block_bytes);
        settings.ring_entries = settings.ring_entries.next_power_of_two();
        settings.check_relations()?;
        Ok(Config { settings })
    }
}

impl Settings {
    fn check_relations(&self) -> Result<(), ConfigError> {
        let frame = u64::from(self.frame_bytes_max);
        let at_least = |key, value: u64, other_key, other: u64, why| {
            if value >= other {
                return Ok(());
            }
            Err(ConfigError::BelowOther { key, value, other_key, other, why })
        };
        let whole = ": one frame must fit";
        at_least("inbox_bytes_max", self.inbox_bytes_max, "frame_bytes_max", frame, whole)?;
        let twice = "2 * frame_bytes_max";
        let next = ": one frame and the next";
        at_least("receive_memory_bytes", self.receive_memory_bytes, twice, 2 * frame, next)?;
        at_least("send_memory_bytes", self.send_memory_bytes, twice, 2 * frame, next)?;
        let blocks = u64::from(self.connections_max) * u64::from(self.block_bytes) / 16;
        let share = ": every connection needs room for something to send";
        let floor = "connections_max * block_bytes / 16";
        at_least("send_memory_bytes", self.send_memory_bytes, floor, blocks, share)?;
        let delay = u64::from(self.reconnect_delay_ms);
        let most = u64::from(self.reconnect_delay_max_ms);
        at_least("reconnect_delay_max_ms", most, "reconnect_delay_ms", delay, "")?;
        if self.express && self.connections_max < 2 {
            return Err(ConfigError::Invalid {
                key: "connections_max",
                value: self.connections_max.to_string(),
                expected: "a session with express = true takes two connections",
            });
        }
        let is_pinned = self.cores.len() >= reactor_count(self.reactors, &self.cores);
        check_pinned(is_pinned, self.idle, self.idle_spin_us, self.scheduler_fifo_priority)
    }

    fn check_names(&self) -> Result<(), ConfigError> {
        let invalid = |key, value, expected| Err(ConfigError::Invalid { key, value, expected });
        if self.node_name.len() > NAME_BYTES_MAX {
            let name = text::quoted(&self.node_name);
            return invalid("node_name", name, "at most 64 bytes are expected");
        }
        if let Some(name) = &self.tcp_congestion
            && (name.is_empty() || name.len() > 15 || !name.is_ascii())
        {
            let expected = "a name from net.ipv4.tcp_available_congestion_control is expected";
            return invalid("tcp_congestion", text::quoted(name), expected);
        }
        if let Some(address) = &self.metrics_address {
            let quoted = text::quoted(address);
            if address.parse::<std::net::SocketAddr>().is_err() {
                let expected = "an IP address and a port are expected, as in 127.0.0.1:9464; \
                                host names are not resolved";
                return invalid("metrics_address", quoted, expected);
            }
            if !cfg!(feature = "metrics") {
                let expected = "this build serves no metrics: build it with `--features metrics`";
                return invalid("metrics_address", quoted, expected);
            }
        }
        let mut seen = [false; CORES_MAX];
        for &core in &self.cores {
            // Out of range, or set before.
            if seen.get(core).copied().unwrap_or(true) {
                return invalid("cores", text::cut(&format!("{:?}", self.cores)), CORES_EXPECTED);
            }
            seen[core] = true;
        }
        check_reactors("number of cores", self.cores.len(), 0)
    }
}

fn unknown_key(key: String, line: usize, near: Option<&'static str>) -> ConfigError {
    ConfigError::UnknownKey { key, line, near }
}

/// `reactors`, or what 0 means.
fn reactor_count(reactors: u32, cores: &[usize]) -> usize {
    if reactors == 0 { cores.len().max(1) } else { reactors as usize }
}

/// Whether there may be so many reactors: as many as `key` asks for, by its number or its length.
pub(crate) fn check_reactors(key: &'static str, count: usize, min: u64) -> Result<(), ConfigError> {
    let (value, max) = (count as u64, u64::from(REACTORS_MAX));
    if value < min || value > max {
        return Err(ConfigError::OutOfBounds { key, value, min, max });
    }
    Ok(())
}

/// How long a real-time thread without a core of its own may spin after each message.
const UNPINNED_FIFO_SPIN_US_MAX: u32 = 1_000;

/// Whether threads that wait so may have this real-time priority: one that spins, or does so for
/// long after each message, and is not pinned to a core of its own would starve the machine.
fn check_pinned(
    is_pinned: bool,
    idle: Idle,
    idle_spin_us: u32,
    scheduler_fifo_priority: u8,
) -> Result<(), ConfigError> {
    let spins_on = match idle {
        Idle::Spin => true,
        Idle::Adaptive => idle_spin_us > UNPINNED_FIFO_SPIN_US_MAX,
        Idle::Park => false,
    };
    if scheduler_fifo_priority > 0 && spins_on && !is_pinned {
        return Err(ConfigError::Invalid {
            key: "scheduler_fifo_priority",
            value: scheduler_fifo_priority.to_string(),
            expected: "a SCHED_FIFO thread that spins for more than 1 ms must be pinned: \
                       set cores for every reactor, or idle = \"park\"",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

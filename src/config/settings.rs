//! The settings, each once: key, type, default, bounds and what it is for.
//!
//! What is made of them: the fields of [`Settings`], the table of keys that `text` reads files by
//! and `listing` writes them by, the setters of [`ConfigBuilder`] with their documentation, and the
//! getters of the numbers. Not here: how values go together ([`ConfigBuilder::build`]).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::ser::ValueSerializer;

use super::text::Takes;
use super::{Config, ConfigBuilder, ConfigError, Idle, Overflow, REACTORS_MAX};
use crate::wire::Checksum;

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
        pub(super) struct Settings {
            $( pub(super) $key: $type, )+
            $( pub(super) $other: $other_type, )+
            $( pub(super) $lane: $lane_type, )+
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
            pub(super) fn check_bounds(&self) -> Result<(), ConfigError> {
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
        pub(super) const KEYS: &[(&str, Takes)] = &[
            $( (stringify!($key), Takes::Whole { min: $min as u64, max: $max as u64 }), )+
            $( (stringify!($other), $takes), )+
            $( (stringify!($lane), $lane_takes), )+
        ];

        /// What each of [`KEYS`] is for, as its setter is documented.
        pub(super) const DOCS: &[&str] = &[
            $( concat!($($doc),+), )+
            $( concat!($($other_doc),+), )+
            $( concat!($($lane_doc),+), )+
        ];

        impl Settings {
            /// The value of each of [`KEYS`] as a file has it; `None` is not set.
            pub(super) fn values(&self) -> Vec<Option<String>> {
                vec![
                    $( written(&self.$key), )+
                    $( written(&self.$other), )+
                    $( written(&self.$lane), )+
                ]
            }
        }

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

/// A value as a file has it, on one line or several; `None` where there is none.
fn written(value: &impl Serialize) -> Option<String> {
    let mut text = String::new();
    value.serialize(ValueSerializer::new(&mut text)).ok()?;
    Some(text)
}

/// Cores are numbered from 0 to below this.
pub(super) const CORES_MAX: usize = 1024;
pub(super) const CORES_EXPECTED: &str =
    "a list of core numbers from 0 to 1023, each once, is expected";

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

        /// Receive window of a connection, in bytes: what one receive can take, but for the rest of
        /// a larger frame and what has come behind it. Rounded up to a multiple of 16.
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
        /// Memory for received frames larger than a window, and for the beginning of the one behind
        /// such a frame, all connections of a reactor together, in bytes. Reserved as address
        /// space, resident as used. At least twice `frame_bytes_max`. Half is kept for frames of up
        /// to a 128th of it.
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

//! Every limit and default, with its unit.
//!
//! A [`Config`] that exists is valid: [`ConfigBuilder::build`] and [`Config::from_toml`] check each
//! value against its bounds and the values against each other, and nothing checks them again. The
//! names of the setters are the keys of the TOML file. Memory is what the limits say: see the notes
//! at each key. Limits are *per reactor* unless they say otherwise. The settings themselves are in
//! `settings`; what is said about a file's keys and values is in `text`, which key was probably
//! meant in `nearest`, and a file that explains itself is written by `listing`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, Deserializer};

use crate::endpoint::EndpointError;
use crate::wire::handshake::NAME_BYTES_MAX;
use crate::wire::padded;
use crate::wire::{Checksum, Priority};

mod listing;
mod nearest;
pub mod pool;
mod settings;
mod text;

pub use pool::{PoolConfig, PoolConfigBuilder};
use settings::{CORES_EXPECTED, CORES_MAX, KEYS, Settings};
use text::{KeyList, Suggestion};

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

//! What a pool of sessions is to be: its servers, how many members, when to have more or fewer.
//!
//! As with [`Config`](super::Config): what exists is valid, the setters are the keys of the TOML
//! text, and an invalid value is named with its key and its bound.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, Deserializer};

use super::ConfigError;
use super::text::{self, Takes};
use crate::endpoint::Endpoint;

/// Most members a pool may have.
pub const POOL_MEMBERS_MAX: u32 = 64;
/// Most endpoints a pool may name.
pub const POOL_ENDPOINTS_MAX: u32 = 16;

const GROW_BYTES_MAX: u32 = 1 << 30;
const IDLE_AFTER_MS_MAX: u32 = 86_400_000;
const ENDPOINTS_EXPECTED: &str =
    "a list of strings in quotes is expected, as in [\"drive-7:7411\"]";

/// Every key of the TOML text, and what it takes.
pub(super) const KEYS: &[(&str, Takes)] = &[
    ("endpoints", Takes::Texts(ENDPOINTS_EXPECTED)),
    ("members_min", Takes::Whole { min: 1, max: POOL_MEMBERS_MAX as u64 }),
    ("members_max", Takes::Whole { min: 0, max: POOL_MEMBERS_MAX as u64 }),
    ("grow_bytes", Takes::Whole { min: 1, max: GROW_BYTES_MAX as u64 }),
    ("idle_after_ms", Takes::Whole { min: 1, max: IDLE_AFTER_MS_MAX as u64 }),
];

/// A pool of sessions with one service. A `PoolConfig` that exists is valid.
///
/// ```
/// use ringwire::PoolConfig;
///
/// # fn main() -> Result<(), ringwire::ConfigError> {
/// let pool = PoolConfig::builder("drives.cell:7411").members_min(2).members_max(8).build()?;
/// assert_eq!(pool.members_max(), 8);
/// let text = "endpoints = [\"drive-7:7411\", \"drive-8:7411\"]\nmembers_min = 2";
/// assert_eq!(PoolConfig::from_toml(text)?.members_max(), 2);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolConfig {
    endpoints: Vec<String>,
    members_min: u32,
    members_max: u32,
    grow_bytes: u32,
    idle_after_ms: u32,
}

/// Collects the settings of a pool; [`build`](Self::build) checks them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfigBuilder {
    endpoints: Vec<String>,
    members_min: u32,
    members_max: u32,
    grow_bytes: u32,
    idle_after_ms: u32,
}

impl Default for PoolConfigBuilder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            members_min: 1,
            members_max: 0,
            grow_bytes: 64 << 10,
            idle_after_ms: 30_000,
        }
    }
}

impl PoolConfig {
    /// Starts from the defaults, with one endpoint.
    #[must_use]
    pub fn builder(endpoint: impl Into<String>) -> PoolConfigBuilder {
        PoolConfigBuilder::default().endpoint(endpoint)
    }

    /// Reads the settings of a pool from TOML text. Keys are the setters of
    /// [`PoolConfigBuilder`], and `endpoints` is a list.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the key, the value and the bound, or the line of a syntax error.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let not_toml = |error: toml::de::Error| ConfigError::Toml {
            message: error.to_string().trim_end().into(),
        };
        let table = DeTable::parse(text).map_err(not_toml)?;
        text::check(text, table.get_ref(), KEYS, unknown_key)?;
        PoolConfigBuilder::deserialize(Deserializer::from(table)).map_err(not_toml)?.build()
    }

    /// See [`PoolConfigBuilder::endpoint`].
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// See [`PoolConfigBuilder::members_min`].
    #[must_use]
    pub fn members_min(&self) -> u32 {
        self.members_min
    }

    /// See [`PoolConfigBuilder::members_max`]; never 0 here.
    #[must_use]
    pub fn members_max(&self) -> u32 {
        self.members_max
    }

    /// See [`PoolConfigBuilder::grow_bytes`].
    #[must_use]
    pub fn grow_bytes(&self) -> u32 {
        self.grow_bytes
    }

    /// See [`PoolConfigBuilder::idle_after_ms`].
    #[must_use]
    pub fn idle_after(&self) -> Duration {
        Duration::from_millis(self.idle_after_ms.into())
    }

    /// The endpoints, parsed. They were when it was built.
    pub(crate) fn parsed(&self) -> impl Iterator<Item = Endpoint> + '_ {
        self.endpoints
            .iter()
            .map(|text| Endpoint::of_server(text).expect("checked when the settings were built"))
    }
}

impl PoolConfigBuilder {
    /// Adds an endpoint (see [`Endpoint`]); at most [`POOL_ENDPOINTS_MAX`]. The members are spread
    /// over all the addresses of all endpoints: a new one goes where the fewest are, and not where
    /// the last attempt has failed, as long as there is another address.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// Members that are kept connected: dialled at once, dialled anew when they are lost, never
    /// reaped. Keys are spread over these. Default 1, bounds 1 to 64.
    #[must_use]
    pub fn members_min(mut self, members: u32) -> Self {
        self.members_min = members;
        self
    }

    /// Most members, from `members_min` to 64; 0 is as many as `members_min`. Default 0.
    #[must_use]
    pub fn members_max(mut self, members: u32) -> Self {
        self.members_max = members;
        self
    }

    /// Another member is dialled, one at a time, when the lane of every connected member holds at
    /// least this many bytes as a message without a key comes. Default 64 KiB, bounds 1 to 1 GiB.
    #[must_use]
    pub fn grow_bytes(mut self, bytes: u32) -> Self {
        self.grow_bytes = bytes;
        self
    }

    /// A member above `members_min` that carried no message either way for so long, has nothing
    /// queued or unconfirmed and owes no answer, is flushed and closed: at the latest a quarter of
    /// the time later. In milliseconds. Default 30 s, bounds 1 ms to a day.
    #[must_use]
    pub fn idle_after_ms(mut self, ms: u32) -> Self {
        self.idle_after_ms = ms;
        self
    }

    /// Checks the settings and freezes them. Asks no resolver.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the key, the value and the bound.
    pub fn build(mut self) -> Result<PoolConfig, ConfigError> {
        let numbers = [
            ("members_min", self.members_min),
            ("members_max", self.members_max),
            ("grow_bytes", self.grow_bytes),
            ("idle_after_ms", self.idle_after_ms),
        ];
        for (name, value) in numbers {
            check_bounds(name, value.into())?;
        }
        if self.members_max == 0 {
            self.members_max = self.members_min;
        }
        if self.members_max < self.members_min {
            return Err(ConfigError::BelowOther {
                key: "members_max",
                value: self.members_max.into(),
                other_key: "members_min",
                other: self.members_min.into(),
                why: "",
            });
        }
        let (value, max) = (self.endpoints.len() as u64, u64::from(POOL_ENDPOINTS_MAX));
        if value < 1 || value > max {
            let key = "number of endpoints";
            return Err(ConfigError::OutOfBounds { key, value, min: 1, max });
        }
        for text in &self.endpoints {
            Endpoint::of_server(text)
                .map_err(|source| ConfigError::Endpoint { key: "endpoints", source })?;
        }
        let Self { endpoints, members_min, members_max, grow_bytes, idle_after_ms } = self;
        Ok(PoolConfig { endpoints, members_min, members_max, grow_bytes, idle_after_ms })
    }
}

fn check_bounds(name: &str, value: u64) -> Result<(), ConfigError> {
    let &(key, takes) = KEYS.iter().find(|(key, _)| *key == name).expect("a key of the table");
    match takes {
        Takes::Whole { min, max } if value < min || value > max => {
            Err(ConfigError::OutOfBounds { key, value, min, max })
        }
        _ => Ok(()),
    }
}

fn unknown_key(key: String, line: usize, near: Option<&'static str>) -> ConfigError {
    ConfigError::UnknownPoolKey { key, line, near }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(text: &str, expected: &str) {
        let error = PoolConfig::from_toml(text).expect_err(text);
        assert_eq!(error.to_string(), expected);
    }

    const ONE: &str = "endpoints = [\"a:1\"]\n";

    #[test]
    fn invalid_setting_names_key_value_and_bound() {
        let check = |text: &str, expected: &str| refuse(&format!("{ONE}{text}"), expected);
        check("members_min = 0", "members_min = 0 is out of bounds: 1 to 64");
        check("members_max = 65", "members_max = 65 is out of bounds: 0 to 64");
        check("grow_bytes = 0", "grow_bytes = 0 is out of bounds: 1 to 1073741824");
        check("idle_after_ms = 0", "idle_after_ms = 0 is out of bounds: 1 to 86400000");
        check(
            "members_min = -1",
            "members_min = -1 is invalid: a whole number from 1 to 64 is expected",
        );
        check(
            "members_min = 3\nmembers_max = 2",
            "members_max = 2 must be at least members_min = 3",
        );
        check("member_min = 3", "unknown key member_min in line 2: did you mean members_min?");
        check(
            "transport = 3",
            "unknown key transport in line 2: there are endpoints, members_min, members_max, \
             grow_bytes, idle_after_ms",
        );
    }

    #[test]
    fn invalid_endpoints_are_named() {
        refuse("", "number of endpoints = 0 is out of bounds: 1 to 16");
        let many: Vec<String> = (0..17).map(|number| format!("\"a:{number}\"")).collect();
        let text = format!("endpoints = [{}]", many.join(", "));
        refuse(&text, "number of endpoints = 17 is out of bounds: 1 to 16");
        let listed = format!("endpoints = \"a:1\" is invalid: {ENDPOINTS_EXPECTED}");
        refuse("endpoints = \"a:1\"", &listed);
        let listed = format!("endpoints = [1] is invalid: {ENDPOINTS_EXPECTED}");
        refuse("endpoints = [1]", &listed);
        let text = PoolConfig::builder("a:x").build().expect_err("no port").to_string();
        assert!(text.starts_with("endpoints: ") && text.contains("\"x\""), "{text}");
        let text = PoolConfig::builder("a:0").build().expect_err("port 0").to_string();
        assert!(text.contains("port 0"), "{text}");
    }

    #[test]
    fn toml_and_builder_agree() {
        let text = "endpoints = [\"a:1\", \"[::1]:2\"]\nmembers_min = 2\nmembers_max = 8\n\
                    grow_bytes = 1000\nidle_after_ms = 50";
        let read = PoolConfig::from_toml(text).expect("valid");
        let built = PoolConfig::builder("a:1").endpoint("[::1]:2").members_min(2).members_max(8);
        let built = built.grow_bytes(1000).idle_after_ms(50).build().expect("valid");
        assert_eq!(read, built);
        let written = toml::to_string(&built).expect("it can be written");
        assert_eq!(PoolConfig::from_toml(&written), Ok(built));
    }

    #[test]
    fn pool_is_of_fixed_size_unless_it_says_otherwise() {
        let pool = PoolConfig::builder("a").members_min(3).build().expect("valid");
        assert_eq!((pool.members_min(), pool.members_max()), (3, 3));
        assert_eq!(pool.parsed().count(), 1);
    }
}

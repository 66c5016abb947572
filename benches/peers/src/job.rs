//! What the runner and the two ends of a subject say to each other: one JSON object a line.
//!
//! ```text
//! runner ── Job ─────────▶ serve        Job names the subject, the case and the cores
//! runner ◀─ ServeLine ──── serve        ready at an address, or an error
//! runner ── Job ─────────▶ drive        the same, with that address and the server's process
//! runner ◀─ DriveLine ──── drive        the figures of one round, or an error
//! ```
//!
//! Either end stops when its standard input ends. The peer in Python speaks the same lines.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Round trips, one after the other.
    Rtt,
    /// One way, as fast as the receiver takes it; every message is looked at.
    Stream,
    /// Round trips at a fixed rate, timed from the instant they were due.
    Paced,
    /// Round trips over many connections, one in flight on each.
    FanIn,
}

/// One piece of work, the same for every subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    pub scenario: Scenario,
    pub payload_bytes: usize,
    pub connections: usize,
    /// Requests a second in `paced`, otherwise 0.
    pub rate_hz: u32,
    /// Whether a message of [`BULK_BYTES`] goes beside it every [`BULK_PERIOD_NS`].
    pub bulk: bool,
}

/// Length of a bulk message.
pub const BULK_BYTES: usize = 1 << 20;
/// Time between two bulk messages: about 105 MB/s.
pub const BULK_PERIOD_NS: u64 = 10_000_000;

/// What one end is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub subject: String,
    pub case: Case,
    /// The cores all threads of this end may run on.
    pub cores: Vec<usize>,
    /// Untimed running before the clock starts.
    pub warm_up_ns: u64,
    /// The timed part.
    pub duration_ns: u64,
    /// Where the server listens; empty for the server itself.
    pub address: String,
    /// The server's process; 0 for the server itself.
    pub server_pid: i32,
}

/// The server's line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServeLine {
    Ready {
        address: String,
        /// The version of what answers, where only it knows.
        version: Option<String>,
    },
    Error(String),
}

/// The client's line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriveLine {
    Round(Box<Round>),
    Error(String),
}

/// What one round measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Round-trip times as an HdrHistogram, V2, base64.
    #[serde(default)]
    pub histogram_v2: Option<String>,
    /// The same as pairs of nanoseconds and how often, from who has no HdrHistogram.
    #[serde(default)]
    pub counts: Option<Vec<(u64, u64)>>,
    /// Messages that went from one end to the other; a round trip is two.
    pub frames: u64,
    pub elapsed_ns: u64,
    pub cpu_client_ns: u64,
    pub cpu_server_ns: u64,
    /// Answers, or streamed messages, that were wrong or missing.
    pub errors: u64,
    /// What each connection added to the server's resident memory; fan-in only.
    #[serde(default)]
    pub resident_bytes_per_connection: Option<f64>,
    /// Bulk messages that arrived, and those due.
    #[serde(default)]
    pub bulk_frames: Option<u64>,
    #[serde(default)]
    pub bulk_frames_due: Option<u64>,
    /// System calls of both ends, from who counts them.
    #[serde(default)]
    pub calls: Option<Calls>,
}

/// System calls that moved messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// io_uring_enter(2).
    pub enters: u64,
    /// send(2) and recv(2) past the ring that moved something.
    pub direct: u64,
}

impl Calls {
    pub const BYTES: usize = 16;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        (u128::from(self.direct) << 64 | u128::from(self.enters)).to_le_bytes()
    }

    /// `None` of other lengths.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (enters, direct) = bytes.split_at_checked(8)?;
        let word = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        Some(Self { enters: word(enters)?, direct: word(direct)? })
    }

    /// The calls made after `before`.
    pub fn since(self, before: Self) -> Self {
        Self { enters: self.enters - before.enters, direct: self.direct - before.direct }
    }

    /// The sum.
    pub fn with(self, other: Self) -> Self {
        Self { enters: self.enters + other.enters, direct: self.direct + other.direct }
    }
}

impl Scenario {
    pub const ALL: [Self; 4] = [Self::Rtt, Self::Stream, Self::Paced, Self::FanIn];

    /// The name in options and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Stream => "stream",
            Self::Paced => "paced",
            Self::FanIn => "fan-in",
        }
    }
}

impl Case {
    /// Connections of the client: one more where bulk has its own.
    pub fn sockets(&self) -> usize {
        self.connections + usize::from(self.bulk)
    }

    /// From when one request of `paced` is due until the next is.
    pub fn period_ns(&self) -> Option<u64> {
        (self.scenario == Scenario::Paced).then(|| 1_000_000_000 / u64::from(self.rate_hz))
    }

    /// The longest message.
    pub fn payload_bytes_max(&self) -> usize {
        if self.bulk { self.payload_bytes.max(BULK_BYTES) } else { self.payload_bytes }
    }
}

/// `1 round`, `2 rounds`.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.scenario.name();
        let (size, unit) = match self.payload_bytes {
            bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => (bytes >> 20, "MiB"),
            bytes if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => (bytes >> 10, "KiB"),
            bytes => (bytes, "B"),
        };
        write!(f, "{name} {size} {unit}")?;
        match self.scenario {
            Scenario::Paced => write!(f, ", {} a second", self.rate_hz)?,
            Scenario::FanIn => write!(f, ", {}", counted(self.connections, "connection"))?,
            Scenario::Rtt | Scenario::Stream => {}
        }
        f.write_str(if self.bulk { ", 1 MiB beside it 100 times a second" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_left() {
        let case = Case {
            scenario: Scenario::FanIn,
            payload_bytes: 64,
            connections: 16,
            rate_hz: 0,
            bulk: false,
        };
        let job = Job {
            subject: "raw-epoll".into(),
            case,
            cores: vec![1, 3],
            warm_up_ns: 1,
            duration_ns: 2,
            address: "127.0.0.1:1".into(),
            server_pid: 7,
        };
        let line = serde_json::to_string(&job).expect("serialises");
        assert!(!line.contains('\n'), "{line}");
        assert!(line.contains("\"fan-in\""), "{line}");
        assert_eq!(serde_json::from_str::<Job>(&line).expect("parses"), job);
        let round = Round { frames: 2, counts: Some(vec![(1000, 2)]), ..Round::default() };
        let line = serde_json::to_string(&DriveLine::Round(Box::new(round.clone())));
        let parsed: DriveLine = serde_json::from_str(&line.expect("serialises")).expect("parses");
        assert_eq!(parsed, DriveLine::Round(Box::new(round)));
    }

    #[test]
    fn calls_come_back_as_they_left() {
        let calls = Calls { enters: 3, direct: u64::MAX };
        assert_eq!(Calls::from_bytes(&calls.to_bytes()), Some(calls));
        assert_eq!(Calls::from_bytes(&[0; 15]), None);
        assert_eq!(Calls::from_bytes(&[0; 17]), None);
        let sum = Calls { enters: 3, direct: 5 }.with(Calls { enters: 1, direct: 2 });
        assert_eq!(sum.since(Calls { enters: 4, direct: 0 }), Calls { enters: 0, direct: 7 });
    }

    #[test]
    fn cases_are_named_as_people_say_them() {
        let case = |scenario, payload_bytes| Case {
            scenario,
            payload_bytes,
            connections: 16,
            rate_hz: 1000,
            bulk: scenario == Scenario::Paced,
        };
        assert_eq!(case(Scenario::Rtt, 65_536).to_string(), "rtt 64 KiB");
        assert_eq!(case(Scenario::FanIn, 64).to_string(), "fan-in 64 B, 16 connections");
        assert_eq!(
            case(Scenario::Paced, 64).to_string(),
            "paced 64 B, 1000 a second, 1 MiB beside it 100 times a second"
        );
    }
}

//! The options of `ringwire bench`, as they are written.
//!
//! Each value is read here; whether they suit each other and the configuration is for `plan`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use ringwire::config::Idle;
use serde::Serialize;

use crate::cli::options::{idle_parser, parse_rate, parse_seconds};

/// Connections at most: each costs a descriptor at either end.
const CONNECTIONS_MAX: u32 = 10_000;
/// What `--payload all` stands for.
const ALL_SIZES: [usize; 6] = [64, 256, 1 << 10, 4 << 10, 64 << 10, 1 << 20];

/// Measure ringwire beside raw sockets on this machine.
///
/// Two threads, pinned to different cores, talk over TCP on 127.0.0.1. The subjects take turns,
/// round by round, and the figures are medians over the rounds: `p50_ns_low` and `p50_ns_high`
/// are the lowest and the highest p50 of a round, those of p99 and of the rate likewise, and
/// `by_round` has all three for each round. What is rarer than one in a hundred, p99.9 to the
/// maximum, is of the samples of all rounds together; the table leaves out what fewer than ten of
/// them exceed. Without a scenario the default suite runs, in under a minute: rtt of 64 B spinning
/// and parking, stream of 64 B, 64 KiB and 1 MiB, and rtt over 1000 connections beside 64.
///
/// A ratio of p50, p99 or frames/s is the median of the rounds' own ratios, whose sides ran within
/// one turn of all subjects: what a machine gains or loses in the course of a run is not in it.
/// Below it stand the bounds of its interval at 95 % (the sign test's; of fewer than six rounds
/// all their ratios), below figures the lowest and the highest of the rounds. What ringwire is held
/// to stands beside its ratio, as met or missed: p50 and p99 in rtt over one connection, frames/s
/// in the other cases. Noisy are verdicts whose goal lies within that interval, so that more rounds
/// would tell, and rounds that differ by more than a factor of two, but for a tenth at either end.
///
/// Subjects: `socket` does the same work over plain sockets: in rtt it sends the same bytes to and
/// fro, in stream it writes, reads and looks at the same frames: at the length and the place of
/// each, and at the content of one in 61. `raw`, in stream only, moves as
/// many bytes without frames, 256 KiB at once: what the machine can do for bulk. `ringwire` is the
/// library, in stream with `send_all`, as an application sends many at once; `ringwire-reliable` is
/// the library with reliable messages. `clock`, in paced only, is no transport: two threads read
/// the clock, and how late the later one was is what no answer could have been sooner than. All
/// have the congestion control that ringwire takes over loopback, reno, unless `tcp_congestion`
/// names another: the system's may pace there, as bbr does.
///
/// paced sends at a fixed rate, whether answers have come or not, and counts from the instant a
/// request was due: what waits for a slow one is late, too. mixed puts critical round trips beside
/// a stream of 1 MiB messages in the low lane: unloaded, with the stream on a socket of its own
/// (`socket`), on the same link, and on the same session with `express`, whose critical messages
/// have a link of their own and a p99 of at most twice the unloaded one as the goal. Both count the
/// critical messages only; `bulk_bytes_per_s` says what the stream had beside them.
///
/// fan-in is rtt over more and more connections with the memory each has resident, both ends
/// together, in the first round: later ones use its memory again. cores is rtt over 64 connections
/// to a server of more and more reactors. idle is a node without and with 1000 sessions that have
/// nothing to say, parked: the share of one core that both ends take, heartbeats included.
///
/// failover runs ringwire alone: sockets have no sessions that could come back. Each of its
/// sessions has held for a second, so that it dials again at once, when its link is cut at the
/// client's end and a reliable request follows. The figures are the times from the cut to the
/// answer, one round trip included. The goal on loopback is a p99 of at most 5 ms.
///
/// A frame is one message on the wire: a round trip is two, a request and its response.
/// Bytes are payload bytes. CPU time and calls are those of both ends. `enters_per_frame` counts
/// io_uring_enter only; with few connections a reactor calls send directly, and recv while it
/// spins, which `direct_per_frame` counts, without the attempts that found nothing; the table
/// leaves it out where there are none. Keys of JSON lines without a meaning are null;
/// `histogram_v2` is the histogram of all rounds in HdrHistogram's V2 format as base64, and
/// `series` how latency went in the course of a paced run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to measure; the default suite when left out.
    #[arg(value_enum)]
    pub(super) scenario: Option<Scenario>,

    /// Payload of a message in bytes; KiB and MiB are understood, several are measured one after
    /// the other, and `all` is 64,256,1KiB,4KiB,64KiB,1MiB [default: 64].
    #[arg(long, value_name = "N[,N...]|all", allow_negative_numbers = true)]
    pub(super) payload: Option<Sizes>,

    /// What both ends do while they wait [default: spin, in idle park].
    #[arg(long, value_name = "spin|adaptive|park", hide_possible_values = true,
          value_parser = idle_parser())]
    pub(super) idle: Option<Idle>,

    /// Connections; in rtt each has one message in flight, in failover each is cut once in a round
    /// [default: 1; in fan-in 1, 16, 128, 1000 and 10000; in cores 64, in failover 200, in idle
    /// 1000].
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub(super) connections: Option<u32>,

    /// In rtt and fan-in, on how many of the connections messages go to and fro; the others are
    /// silent, and `ringwire-alone` is ringwire without them [default: all].
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub(super) busy: Option<u32>,

    /// How the messages of rtt and stream are delivered; `reliable` stands beside best effort.
    #[arg(long, value_enum, value_name = "best-effort|reliable", hide_possible_values = true)]
    pub(super) delivery: Option<Delivery>,

    /// Requests per second, in paced and mixed [default: 1000 and 10000; in mixed one behind the
    /// other, and 1000].
    #[arg(long, value_name = "HZ", allow_negative_numbers = true, value_parser = parse_rate)]
    pub(super) rate: Option<Duration>,

    /// In paced, a stream of 1 MiB messages beside: in ringwire's low lane, and on a second raw
    /// socket.
    #[arg(long)]
    pub(super) bulk: bool,

    /// Measure ringwire with these settings beside ringwire without them, instead of beside
    /// sockets: TOML, with semicolons for line breaks. Given several times, each is a subject:
    /// --variant 'block_bytes = 131072' --variant 'tcp_congestion = "reno"; checksum = "never"'
    #[arg(long, value_name = "KEY=VALUE[;...]")]
    pub(super) variant: Vec<String>,

    /// How long each subject is timed in each round, in seconds; failover ends with its cuts, idle
    /// takes 2 s at least [default: 0.02; in rtt parked or of 64 KiB and more 0.07; over more than
    /// 64 connections and in mixed 0.13; at a rate, in fan-in and in cores 0.4].
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = parse_seconds)]
    pub(super) duration: Option<Duration>,

    /// Rounds of each subject; best odd [default: 101 of 0.02 s, 31 of 0.07 s, 21 of 0.13 s, 7 at a
    /// rate and in failover, 3 in fan-in, cores and idle. With a longer --duration fewer, in about
    /// the same time, and at least 7 where there are as many].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_rounds)]
    pub(super) rounds: Option<usize>,

    /// Write results as JSON lines to a file, or to standard output when it is `-`, which
    /// then holds nothing else.
    #[arg(long, value_name = "FILE|-")]
    pub(super) json: Option<PathBuf>,

    /// Write a page that shows the results (index.html), its drawings (SVG), distributions of
    /// latencies (.hgrm, in microseconds) and the JSON lines (bench.jsonl) to a folder.
    #[arg(long, value_name = "DIR")]
    pub(super) report: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Scenario {
    /// Round trip: a request and its echo, one in flight on each connection.
    Rtt,
    /// One-way stream, as fast as it goes, with one answer at the end.
    Stream,
    /// Round trips at a fixed rate, from the instant each was due.
    Paced,
    /// Critical round trips beside a stream of 1 MiB messages.
    Mixed,
    /// Round trips over 1 to 10,000 connections.
    FanIn,
    /// Round trips to a server of one reactor and more.
    Cores,
    /// What sessions cost that have nothing to say.
    Idle,
    /// Links that are cut: the time until an answer comes over the next one.
    Failover,
}

/// How messages are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Delivery {
    /// Sent once.
    BestEffort,
    /// Kept until the peer has confirmed them.
    Reliable,
}

/// Sizes to be measured one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes(pub(super) Vec<usize>);

/// A number of bytes as people write it: `64`, `64KiB`, `1MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

impl Scenario {
    /// The name in options and results.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Stream => "stream",
            Self::Paced => "paced",
            Self::Mixed => "mixed",
            Self::FanIn => "fan-in",
            Self::Cores => "cores",
            Self::Idle => "idle",
            Self::Failover => "failover",
        }
    }

    /// Whether frames per second say anything, and what a frame costs.
    pub(super) const fn has_rate(self) -> bool {
        !matches!(self, Self::Failover | Self::Idle)
    }

    /// Whether requests may be sent at a fixed rate.
    pub(super) const fn is_paced(self) -> bool {
        matches!(self, Self::Paced | Self::Mixed)
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self(ALL_SIZES.into()));
        }
        let size = |part: &str| part.trim().parse().map(|Size(bytes)| bytes);
        text.split(',').map(size).collect::<Result<_, _>>().map(Self)
    }
}

/// A number of bytes as people write it: `64 B`, `1 MiB`.
pub(in crate::cli) fn size(bytes: u64) -> String {
    usize::try_from(bytes).map_or_else(|_| format!("{bytes} B"), |bytes| Size(bytes).to_string())
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: usize = 1 << 10;
        const MIB: usize = 1 << 20;
        match self.0 {
            bytes if bytes >= MIB && bytes.is_multiple_of(MIB) => write!(f, "{} MiB", bytes / MIB),
            bytes if bytes >= KIB && bytes.is_multiple_of(KIB) => write!(f, "{} KiB", bytes / KIB),
            bytes => write!(f, "{bytes} B"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            _ => return Err("a number of bytes, with KiB or MiB behind it if need be".into()),
        };
        let number: usize = number.parse().map_err(|_| "a number of bytes is expected")?;
        let bytes = number.checked_mul(unit).ok_or("too large")?;
        // Far above any valid frame, and far below where arithmetic on it could overflow.
        if bytes > 1 << 30 {
            return Err("too large: frames are limited to 256 MiB".into());
        }
        Ok(Self(bytes))
    }
}

fn parse_rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds @ 1..=1001) => Ok(rounds),
        _ => Err("a number from 1 to 1001 is expected".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        let check = |text: &str, bytes| assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        check("0", 0);
        check("64", 64);
        check("64KiB", 65_536);
        check("1m", 1 << 20);
        for bad in ["", "x", "-1", "1.5k", "1GB", "99999999999999999999", "9999999M"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_of_sizes_are_read_as_written() {
        assert_eq!("64, 1KiB".parse(), Ok(Sizes(vec![64, 1024])));
        assert_eq!("all".parse(), Ok(Sizes(ALL_SIZES.into())));
        assert!("64,".parse::<Sizes>().is_err());
        // What it prints reads back: titles and the documentation of `all` say the same.
        let shown: Vec<String> = ALL_SIZES.map(|bytes| Size(bytes).to_string()).into();
        assert_eq!(shown.join(",").parse(), Ok(Sizes(ALL_SIZES.into())));
    }
}

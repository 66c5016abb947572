//! How much memory a node maps: all of it is locked with `mlockall`, used or not.
//!
//! The pools are counted as `src/reactor/core.rs` has them cut, for which a test looks; the rest is
//! measured and rounded up. Counted are the settings as they are, without what the application
//! needs for itself.

use ringwire::config::Config;

/// Of `src/reactor/core.rs`, `src/reactor/pause.rs` and `src/mem/buffer.rs`.
const SMALL_BLOCK_BYTES: u64 = 4096;
const DEPARTED_MAX: u64 = 64;
const GAP_BYTES: u64 = 192;
/// Program and libraries: 23 MB in a debug build.
const PROCESS_BYTES: u64 = 32 << 20;
/// Stack, inbox, requests and tables of a reactor: 6 to 20 MB, and 4.3 KiB for each connection.
const REACTOR_BYTES: u64 = 16 << 20;
const PLACE_BYTES: u64 = 8 << 10;
/// What malloc(3) reserves for a thread. It is never used, yet counts against a limit.
const THREAD_HEAP_BYTES: u64 = 64 << 20;

/// Bytes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapped {
    /// Those that become resident when they are locked.
    pub(super) resident: u64,
    /// Those that count against RLIMIT_MEMLOCK.
    pub(super) counted: u64,
}

impl Mapped {
    pub(super) fn by(config: &Config, reactors: u64) -> Self {
        let places = places(config);
        let reactor = pools(config, places) + REACTOR_BYTES + places * PLACE_BYTES;
        // Reactors of a node share one inbox.
        let node = PROCESS_BYTES.saturating_add(config.inbox_bytes_max());
        let resident = node.saturating_add(reactor.saturating_mul(reactors));
        let counted = resident.saturating_add(THREAD_HEAP_BYTES.saturating_mul(reactors));
        Self { resident, counted }
    }
}

fn places(config: &Config) -> u64 {
    let connections = u64::from(config.connections_max());
    connections + connections.min(DEPARTED_MAX)
}

/// Windows, small blocks, and what is cut to size as it is asked for.
fn pools(config: &Config, places: u64) -> u64 {
    let window = u64::from(config.window_bytes()).next_multiple_of(16);
    let frame = u64::from(config.frame_bytes_max());
    let unit = 2 * SMALL_BLOCK_BYTES;
    let (send, receive) = (config.send_memory_bytes(), config.receive_memory_bytes());
    let longest = frame.max(config.block_bytes().into());
    let (reserve, short) = (send / 8, receive / 2);
    (window + GAP_BYTES) * places
        + (SMALL_BLOCK_BYTES + GAP_BYTES) * (4 * places + 2)
        + arena(send - reserve, unit, longest, 2)
        + arena(reserve, unit, longest, 1)
        + arena(receive - short, 2 * window, frame, 2)
        + arena(short, 2 * window, frame, 1)
}

/// Whole pieces within `budget`, at least `count_min`, with the gaps between their units.
fn arena(budget: u64, unit: u64, longest: u64, count_min: u64) -> u64 {
    let unit = unit.next_power_of_two();
    let whole = longest.max(unit).next_power_of_two();
    (budget / whole).max(count_min) * (whole / unit) * (unit + GAP_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address space that a node of one reactor, started with the defaults, adds to the process
    /// in which it is started was 294,068 KiB when this was written, of which 230,600 became
    /// resident with `mlockall`; the process alone had 22,900.
    #[test]
    fn defaults_are_counted_as_measured() {
        let config = Config::default();
        assert_eq!(pools(&config, places(&config)) >> 10, 220_772);
        let one = Mapped::by(&config, 1);
        assert!(one.resident >= (230_600 + 22_900) << 10, "{one:?}");
        assert!(one.counted >= (294_068 + 22_900) << 10, "{one:?}");
        let two = Mapped::by(&config, 2);
        assert!(two.resident - one.resident >= 230_600 << 10, "{two:?}");
        assert!(two.counted - one.counted >= 294_068 << 10, "{two:?}");
    }

    #[test]
    fn connections_cost_more_than_their_windows() {
        let with = |connections| {
            let config = Config::builder().connections_max(connections).window_bytes(4096);
            Mapped::by(&config.build().expect("valid"), 1).resident
        };
        // Measured: 572,932 KiB.
        assert!(with(16_384) >= 572_932 << 10, "{}", with(16_384));
        assert!(with(16_384) - with(1024) >= 5 * 4096 * (16_384 - 1024));
    }

    #[test]
    fn limits_are_the_reactors() {
        let core = include_str!("../../reactor/core.rs");
        let pause = include_str!("../../reactor/pause.rs");
        let buffer = include_str!("../../mem/buffer.rs");
        for (code, line) in [
            (core, "const SMALL_BLOCK_BYTES: usize = 4096;"),
            (core, "let small = 4 * places_max(config) + 2;"),
            (core, "PoolLayout::shared(budget, 2 * SMALL_BLOCK_BYTES, largest.max(block))"),
            (core, "let smallest = 2 * config.window_bytes() as usize;"),
            (pause, "config.connections_max().min(64) as usize"),
            (buffer, "const GAP_BYTES: usize = 192;"),
        ] {
            assert!(code.contains(line), "{line}: count again");
        }
    }
}

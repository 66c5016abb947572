//! What the numbers of a turn cost, for the bench and the counts of instructions: the functions
//! that a reactor calls, with what it would call them with.

use slotmap::KeyData;

use super::{ArrivalClock, Meter};
use crate::config::Config;
use crate::reactor::sessions::SessionKey;
use crate::stats::Block;
use crate::time::Nanos;

/// What the numbers of a turn with one message in and one out cost, for the bench: as in a turn,
/// but for the reading of the clock.
#[doc(hidden)]
#[derive(Debug)]
pub struct BenchTurns {
    meter: Meter,
    block: Block,
    home: SessionKey,
    now: Nanos,
}

impl BenchTurns {
    /// In anonymous memory.
    ///
    /// # Panics
    ///
    /// Without memory.
    #[must_use]
    pub fn new() -> Self {
        let config = Config::builder().registry(false).build().expect("valid");
        let registry = crate::stats::Registry::new(&config, 1, 16).expect("memory");
        let block = registry.blocks()[0].clone();
        let mut meter = Meter::new(&block, &config, 16);
        let home = SessionKey::from(KeyData::from_ffi(1 << 32 | 1));
        meter.set_driven();
        meter.begin_row(home, "127.0.0.1:7411", &block.counters, Nanos(0));
        // As long as nothing writes the row, it stays in the list.
        meter.touch(home, Nanos(0));
        Self { meter, block, home, now: Nanos(1_000_000_000) }
    }

    /// A turn in which `messages` came in one receive and went out in one block. Those that come
    /// are handed to handlers, or they answer requests.
    #[inline]
    pub fn turn(&mut self, messages: u64, answers: bool) {
        self.now = Nanos(self.now.0 + 8_000);
        let (now, counters) = (self.now, &self.block.counters);
        let bytes = 96 * messages;
        self.meter.turn_begins(now, counters);
        counters.turns.add(1);
        counters.completions.add(1);
        let clock = ArrivalClock { offset_ns: Some(1_000), due: Nanos::NEVER };
        self.meter.arrived(clock, now.0 - 4_000 - (now.0 >> 7 & 0xfff), now);
        for _ in 0..messages {
            if answers {
                self.meter.request_took(8_000 + (now.0 >> 5 & 0x3ff));
            } else {
                let began = self.meter.before_handler();
                self.meter.after_handler(began);
            }
        }
        counters.messages_received.add(messages);
        counters.bytes_received.add(bytes);
        self.meter.received(self.home, messages, bytes, now);
        counters.last_activity_ns.set(now.0);
        self.meter.turn_ends();
        self.meter.begin();
        counters.messages_sent.add(messages);
        counters.bytes_sent.add(bytes);
        self.meter.sent(self.home, messages, bytes, now.0 - 500, now);
        counters.direct_sends.add(1);
        self.meter.settle(Nanos(now.0 + 2_000), counters);
        self.meter.end();
        counters.spins.add(1);
        counters.spin_hits.add(1);
    }

    /// Answers counted, so that the bench can check its work.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.block.counters.messages_sent.get()
    }
}

impl Default for BenchTurns {
    fn default() -> Self {
        Self::new()
    }
}

//! The clock of a reactor: the kernel's, reckoned from the processor's counter in between.
//!
//! A reading of `CLOCK_MONOTONIC` takes 23 to 49 ns on the guests of the records, of which the
//! counter (RDTSC) is 10 to 22: the rest orders it, takes the kernel's sequence lock and converts.
//! A spinning reactor reads the clock while it looks into sockets, and before every answer. So it
//! asks the kernel four times a millisecond ([`REACH_NS`]) and reckons from there, at the rate that
//! it has measured itself. Both are checked with each asking, and begun anew where they disagree.
//!
//! # Invariants
//!
//! - It never runs back.
//! - While the kernel's clock, which other threads and processes read, keeps its rate, it is not
//!   ahead of that, so that no deadline of theirs is met too early; and behind by the time between
//!   two readings (1 µs at most, where the counter has 2 GHz or more): measured, 0.1 µs.
//! - A change of that rate is off by as much for up to 250 µs, and for 100 ms while it is less than
//!   9,000 ppm: 0.13 µs each time at the 500 ppm of adjtime(3), 25 µs once at the tenth that
//!   ADJ_TICK of adjtimex(2) allows.
//! - Where the counter itself jumps, as in a machine that is moved to another host, it may be off
//!   by 250 µs, for as long.
//! - Without a counter that the kernel itself goes by, it is the kernel's.
//!
//! # When the counter is used
//!
//! On x86-64 where the kernel's clock goes by it (`clocksource` in sysfs says `tsc`: the kernel has
//! then found that it does not stop, has one rate, and is alike on all processors), and the process
//! may read it (PR_GET_TSC of prctl(2)). The kernel may change its mind; the next asking shows it,
//! unless the counter goes on as before. Elsewhere, as on arm64, the kernel's own reading costs
//! little more than the counter.

use std::time::Duration;

use crate::time::Nanos;

/// So long behind a reading of the kernel's clock, its time is reckoned.
const REACH_NS: u64 = 250_000;
/// Over so long the rate is measured at first: 1 µs that the two readings may be apart is 50 ppm of
/// it, 13 ns at the end of [`REACH_NS`].
const FIRST_MEASURED_OVER: Duration = Duration::from_millis(20);
/// And from then on, to follow the kernel's own corrections.
const MEASURED_OVER: Duration = Duration::from_millis(100);
/// The kernel's clock is read between two readings of the counter that are no further apart, 1 µs
/// at 2 GHz: otherwise the thread was stopped in between, and nobody knows at which point. Two
/// hundred are usual.
const TICKS_APART_MAX: u64 = 2000;
/// What was reckoned and what the kernel says may differ by so much, and a thousandth of the time
/// since.
const DEVIATION_MAX: Duration = Duration::from_micros(2);
/// Binary places of a rate.
const RATE_SHIFT: u32 = 32;
/// Those that are believed, of counters of 0.5 to 16 GHz. A machine that was suspended while the
/// rate was measured has another.
const RATES: std::ops::Range<u64> = 1 << 28..1 << 33;

/// See the module. One thread's.
#[derive(Debug)]
pub(crate) struct Clock<S = Machine> {
    source: S,
    /// Whence the time is reckoned.
    anchor: Reading,
    /// Nanoseconds of a tick, in 2^-32.
    rate: u64,
    /// So many ticks from the anchor. 0 while the kernel is to be asked.
    reach_ticks: u64,
    /// What was told last.
    told: Nanos,
    /// Since when the rate is measured.
    measured_from: Option<Reading>,
    has_counter: bool,
}

/// The kernel's clock, and the counter just behind that.
#[derive(Debug, Clone, Copy)]
struct Reading {
    kernel: Nanos,
    ticks: u64,
}

/// What a [`Clock`] reads.
pub(crate) trait Source {
    /// Whether there is a counter that the kernel's clock goes by.
    fn has_counter(&self) -> bool;
    /// The counter, which waits for nothing: it may be read before what stands before it is done.
    fn ticks(&self) -> u64;
    /// The counter, behind all that was read before.
    fn ticks_behind(&self) -> u64;
    fn kernel(&self) -> Nanos;
}

impl Clock {
    /// That of this machine. Reads a file of sysfs.
    pub(crate) fn new() -> Self {
        Self::of(Machine)
    }
}

impl<S: Source> Clock<S> {
    fn of(source: S) -> Self {
        Self {
            has_counter: source.has_counter(),
            source,
            anchor: Reading { kernel: Nanos(0), ticks: 0 },
            rate: 0,
            reach_ticks: 0,
            told: Nanos(0),
            measured_from: None,
        }
    }

    /// The time. 10 ns where the kernel's reading takes 23, four times a millisecond 60. No system
    /// call.
    #[inline]
    pub(crate) fn now(&mut self) -> Nanos {
        if self.reach_ticks > 0 {
            let elapsed = self.source.ticks().wrapping_sub(self.anchor.ticks);
            if elapsed < self.reach_ticks {
                // No more than REACH_NS, shifted.
                let nanos = (elapsed * self.rate) >> RATE_SHIFT;
                return self.tell(Nanos(self.anchor.kernel.0 + nanos));
            }
        }
        self.ask()
    }

    #[inline]
    fn tell(&mut self, now: Nanos) -> Nanos {
        self.told = self.told.max(now);
        self.told
    }

    /// Reads the kernel's clock, and reckons from there.
    #[cold]
    fn ask(&mut self) -> Nanos {
        if !self.has_counter {
            let now = self.source.kernel();
            return self.tell(now);
        }
        let (reading, is_of_one_moment) = self.read_both();
        self.reach_ticks = 0;
        if is_of_one_moment {
            if self.rate > 0 && self.deviates(&reading) {
                self.rate = 0;
                self.measured_from = None;
            }
            self.measure(reading);
        }
        self.tell(reading.kernel)
    }

    /// Both, and whether they are of one moment.
    fn read_both(&self) -> (Reading, bool) {
        let before = self.source.ticks();
        let kernel = self.source.kernel();
        let ticks = self.source.ticks_behind();
        (Reading { kernel, ticks }, ticks.wrapping_sub(before) <= TICKS_APART_MAX)
    }

    /// Whether what would have been reckoned is not what the kernel says.
    fn deviates(&self, reading: &Reading) -> bool {
        // The upper half of a counter that has gone back.
        let elapsed = reading.ticks.wrapping_sub(self.anchor.ticks);
        let reckoned = (u128::from(elapsed) * u128::from(self.rate)) >> RATE_SHIFT;
        let real = reading.kernel.since(self.anchor.kernel);
        let allowed = DEVIATION_MAX + real / 1000;
        reckoned.abs_diff(real.as_nanos()) > allowed.as_nanos()
    }

    /// Reckons from here on. Measures the rate, if it is time to.
    fn measure(&mut self, reading: Reading) {
        let from = *self.measured_from.get_or_insert(reading);
        let elapsed = reading.kernel.since(from.kernel);
        let least = if self.rate == 0 { FIRST_MEASURED_OVER } else { MEASURED_OVER };
        if elapsed >= least {
            // As if the readings had been apart as much as they may: not too fast, then.
            let ticks = u128::from(reading.ticks.wrapping_sub(from.ticks));
            let ticks = ticks + u128::from(TICKS_APART_MAX);
            let rate = u64::try_from((elapsed.as_nanos() << RATE_SHIFT) / ticks);
            // Without a rate nothing is reckoned.
            self.rate = rate.ok().filter(|rate| RATES.contains(rate)).unwrap_or(0);
            self.measured_from = Some(reading);
        }
        self.anchor = reading;
        self.reach_ticks = (REACH_NS << RATE_SHIFT).checked_div(self.rate).unwrap_or(0);
    }
}

/// This machine's.
#[derive(Debug)]
pub(crate) struct Machine;

impl Source for Machine {
    fn has_counter(&self) -> bool {
        counter::is_clock()
    }

    #[inline]
    fn ticks(&self) -> u64 {
        counter::ticks()
    }

    #[inline]
    fn ticks_behind(&self) -> u64 {
        counter::ticks_behind()
    }

    #[inline]
    fn kernel(&self) -> Nanos {
        Nanos::now()
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod counter {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    use std::fs;

    use rustix::process::{TimeStampCounterReadability, time_stamp_counter_readability};

    const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

    /// RDTSC waits for nothing (Intel SDM, volume 2; AMD APM, volume 3).
    #[inline]
    pub(super) fn ticks() -> u64 {
        // SAFETY: it reads a register, and `is_clock` has found that the process may: PR_SET_TSC.
        unsafe { _rdtsc() }
    }

    /// LFENCE has it wait until what stands before it is done.
    #[inline]
    pub(super) fn ticks_behind() -> u64 {
        // SAFETY: SSE2, of which it is, belongs to x86-64.
        unsafe { _mm_lfence() };
        ticks()
    }

    /// Without sysfs nothing is known of it.
    pub(super) fn is_clock() -> bool {
        let may_be_read = time_stamp_counter_readability()
            .is_ok_and(|readability| readability == TimeStampCounterReadability::Readable);
        let source = fs::read_to_string(CLOCK_SOURCE);
        may_be_read && source.is_ok_and(|source| source.trim() == "tsc")
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod counter {
    pub(super) fn ticks() -> u64 {
        0
    }

    pub(super) fn ticks_behind() -> u64 {
        0
    }

    pub(super) fn is_clock() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A counter and a clock that a test moves.
    #[derive(Debug)]
    struct Fake<'a> {
        /// The true time, in nanoseconds.
        time: &'a Cell<u64>,
        /// Ticks of 10 µs, and what the counter stood at in the beginning.
        ticks_per_10us: &'a Cell<u64>,
        offset: &'a Cell<u64>,
        /// So long the thread is stopped within the next reading of the kernel's clock.
        stop: &'a Cell<u64>,
        asked: &'a Cell<u32>,
        has_counter: bool,
    }

    impl Source for Fake<'_> {
        fn has_counter(&self) -> bool {
            self.has_counter
        }

        fn ticks(&self) -> u64 {
            self.time.set(self.time.get() + 9);
            (self.time.get() * self.ticks_per_10us.get() / 10_000).wrapping_add(self.offset.get())
        }

        fn ticks_behind(&self) -> u64 {
            self.ticks()
        }

        fn kernel(&self) -> Nanos {
            self.asked.set(self.asked.get() + 1);
            let now = Nanos(self.time.get() + 11);
            self.time.set(self.time.get() + 22 + self.stop.take());
            now
        }
    }

    /// What a [`Fake`] reads.
    struct World {
        time: Cell<u64>,
        ticks_per_10us: Cell<u64>,
        offset: Cell<u64>,
        stop: Cell<u64>,
        asked: Cell<u32>,
    }

    impl World {
        fn new() -> Self {
            Self {
                time: Cell::new(77_000_000_000),
                ticks_per_10us: Cell::new(26_000),
                // It overflows on the way.
                offset: Cell::new(u64::MAX - 77 * 2_600_000_000 - 60_000_000),
                stop: Cell::new(0),
                asked: Cell::new(0),
            }
        }

        fn clock(&self, has_counter: bool) -> Clock<Fake<'_>> {
            let Self { time, ticks_per_10us, offset, stop, asked } = self;
            Clock::of(Fake { time, ticks_per_10us, offset, stop, asked, has_counter })
        }

        /// From here on the counter has another rate.
        fn slew(&self, ticks_per_10us: u64) {
            let ticks = |rate: u64| self.time.get() * rate / 10_000;
            let leap = ticks(self.ticks_per_10us.get()).wrapping_sub(ticks(ticks_per_10us));
            self.offset.set(self.offset.get().wrapping_add(leap));
            self.ticks_per_10us.set(ticks_per_10us);
        }

        fn pass(&self, micros: u64) {
            self.time.set(self.time.get() + micros * 1000);
        }

        /// How far the clock, which is read now, is ahead and behind.
        fn errors_ns(&self, clock: &mut Clock<Fake<'_>>) -> (u64, u64) {
            let (told, real) = (clock.now().0, self.time.get());
            (told.saturating_sub(real), real.saturating_sub(told))
        }

        /// Lets so much time pass, and tells how often the kernel was asked meanwhile. It is right
        /// all the time.
        fn run(&self, clock: &mut Clock<Fake<'_>>, millis: u64) -> u32 {
            let asked = self.asked.get();
            for _ in 0..millis * 10 {
                self.pass(100);
                let (ahead, behind) = self.errors_ns(clock);
                assert!(ahead == 0 && behind < 100, "{ahead} ns ahead, {behind} behind");
            }
            self.asked.get() - asked
        }
    }

    #[test]
    fn kernel_is_asked_four_times_a_millisecond() {
        let world = World::new();
        let mut clock = world.clock(true);
        assert_eq!(world.run(&mut clock, 20), 200, "the rate is not known");
        let asked = world.run(&mut clock, 3000);
        // With every third reading, of 100 µs.
        assert!((9_900..=10_000).contains(&asked), "{asked} times in 3 s");
    }

    #[test]
    fn without_a_counter_it_is_the_kernels() {
        let world = World::new();
        let mut clock = world.clock(false);
        assert_eq!(world.run(&mut clock, 100), 1000);
    }

    /// As where a thread is stopped by another between the two readings.
    #[test]
    fn readings_that_are_not_of_one_moment_are_not_believed() {
        let world = World::new();
        let mut clock = world.clock(true);
        world.run(&mut clock, 50);
        for stop in [500, 1_500, 3_000_000] {
            world.pass(1100);
            world.stop.set(stop);
            let before = world.time.get();
            assert!(clock.now() >= Nanos(before));
            assert_eq!(clock.reach_ticks == 0, stop > 1000, "after a stop of {stop} ns");
            // A short one is believed, and missing until the next asking.
            let (ahead, behind) = world.errors_ns(&mut clock);
            assert!(
                ahead == 0 && behind < stop.min(1000) + 100,
                "{ahead} ns ahead, {behind} behind"
            );
            world.pass(300);
            world.run(&mut clock, 30);
        }
        // The same in the very first one.
        let world = World::new();
        world.stop.set(3_000_000);
        let mut clock = world.clock(true);
        clock.now();
        world.run(&mut clock, 50);
    }

    /// A machine that was suspended, or moved to another one; a clock source that was given up.
    #[test]
    fn counter_that_jumps_or_changes_its_rate_is_measured_anew() {
        let world = World::new();
        let mut clock = world.clock(true);
        world.run(&mut clock, 100);
        let jumps: [&dyn Fn(); 3] = [
            &|| world.offset.set(world.offset.get().wrapping_add(1_000_000_000)),
            &|| world.offset.set(world.offset.get().wrapping_sub(2_000_000_000)),
            &|| world.slew(31_000),
        ];
        for jump in jumps {
            world.pass(1100);
            jump();
            let asked = world.run(&mut clock, 20);
            assert_eq!(asked, 200, "nothing is reckoned");
            let asked = world.run(&mut clock, 100);
            assert!(asked < 400, "{asked} times in 100 ms");
        }
    }

    #[test]
    fn counter_that_jumps_within_a_reach_is_off_for_no_longer() {
        for jump in [260_000_u64, 260_000_u64.wrapping_neg()] {
            let world = World::new();
            let mut clock = world.clock(true);
            world.run(&mut clock, 100);
            // The beginning of a reach.
            world.pass(1000);
            let mut told = clock.now();
            world.pass(120);
            world.offset.set(world.offset.get().wrapping_add(jump));
            for _ in 0..25 {
                let (ahead, behind) = world.errors_ns(&mut clock);
                assert!(ahead.max(behind) <= REACH_NS, "{ahead} ns ahead, {behind} behind");
                let now = clock.now();
                assert!(now >= told, "it ran back by {:?}", told.since(now));
                told = now;
                world.pass(10);
            }
            world.run(&mut clock, 100);
        }
    }

    /// As by a daemon that has the kernel's tick adjusted.
    #[test]
    fn clock_that_is_slewed_by_a_twentieth_is_the_kernels_until_its_rate_is_known() {
        let world = World::new();
        let mut clock = world.clock(true);
        for ticks_per_10us in [27_300, 26_000] {
            world.run(&mut clock, 200);
            world.slew(ticks_per_10us);
            for _ in 0..30 {
                world.pass(10);
                let (ahead, behind) = world.errors_ns(&mut clock);
                assert!(ahead.max(behind) < 13_000, "{ahead} ns ahead, {behind} behind");
            }
        }
        world.run(&mut clock, 200);
    }

    #[test]
    fn counter_of_no_rate_is_never_used() {
        let world = World::new();
        world.ticks_per_10us.set(0);
        let mut clock = world.clock(true);
        assert_eq!(world.run(&mut clock, 100), 1000);
    }

    /// The kernel slews its clock by 500 ppm: at the end of a reach it is off by no more than that,
    /// and does not run back.
    #[test]
    #[cfg_attr(miri, ignore = "takes a minute, and touches no memory")]
    fn slewed_clock_is_followed_and_never_runs_back() {
        let world = World::new();
        let mut clock = world.clock(true);
        world.run(&mut clock, 1500);
        let mut told = clock.now();
        let mut read = |pause_ns| {
            world.time.set(world.time.get() + pause_ns);
            let (ahead, behind) = world.errors_ns(&mut clock);
            assert!(ahead <= 125 && behind < 225, "{ahead} ns ahead, {behind} behind");
            let now = clock.now();
            assert!(now >= told, "it ran back by {:?}", told.since(now));
            told = now;
        };
        for ticks_per_10us in [26_013, 26_000, 25_987] {
            world.slew(ticks_per_10us);
            // Closely first, over some askings, and then until the new rate is known.
            (0..100_000).for_each(|_| read(100));
            (0..30_000).for_each(|_| read(100_000));
        }
    }

    /// The machine's own, beside the kernel's.
    #[test]
    #[cfg_attr(miri, ignore = "takes 60 ms of real time")]
    fn stays_beside_the_kernels() {
        let mut clock = Clock::new();
        if !clock.has_counter {
            println!("skipped: the kernel's clock does not go by a counter here");
            return;
        }
        let until = Nanos::now() + Duration::from_millis(60);
        let mut told = Nanos(0);
        let (mut ahead, mut behind) = (Vec::new(), Vec::new());
        loop {
            let (before, now, after) = (Nanos::now(), clock.now(), Nanos::now());
            assert!(now >= told, "it ran back by {:?}", told.since(now));
            told = now;
            ahead.push(now.since(after));
            // Where the thread was stopped in between, nothing is known.
            if after.since(before) < Duration::from_micros(1) {
                behind.push(before.since(now));
            }
            if after > until {
                break;
            }
        }
        assert!(behind.len() > 100, "readings in a row");
        let [ahead, behind] = [ahead, behind].map(|mut errors| {
            errors.sort();
            errors[errors.len() * 99 / 100]
        });
        // While the kernel slews its clock.
        assert!(ahead <= Duration::from_nanos(200), "{ahead:?} ahead");
        assert!(behind < Duration::from_micros(2), "{behind:?} behind");
    }
}

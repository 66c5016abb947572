//! Watches by hand, then random traffic against what the times of the messages alone imply.

use super::*;

const MS: u64 = 1_000_000;
const SETPOINT: WatchKey = WatchKey::Type(7);
const STATUS: WatchKey = WatchKey::Kind(Kind::Status);
const PERIOD: Duration = Duration::from_millis(20);

fn at(ms: u64) -> Nanos {
    Nanos(1_000 * MS + ms * MS)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One started watch, set up at time zero.
fn watching() -> Watchdog {
    let mut watchdog = Watchdog::with_capacity(2);
    watchdog.start(at(0));
    watchdog.watch(SETPOINT, PERIOD, at(0)).expect("room");
    watchdog
}

fn miss(silent_ms: u64) -> Miss {
    Miss { key: SETPOINT, period: PERIOD, silent_for: ms(silent_ms) }
}

fn recovered(silent_ms: u64) -> Recovered {
    Recovered { key: SETPOINT, silent_for: ms(silent_ms) }
}

#[test]
fn silence_is_one_miss_and_one_recovery() {
    let mut watchdog = watching();
    assert_eq!(watchdog.fed(SETPOINT, at(5)), None);
    assert_eq!(watchdog.poll_miss(Nanos(at(25).0 - 1)), None);
    assert_eq!(watchdog.deadline(), at(25), "moved to where the watch has got to");
    assert_eq!(watchdog.poll_miss(at(25)), Some(miss(20)));
    assert_eq!(watchdog.poll_miss(at(25)), None);
    assert_eq!(watchdog.poll_miss(at(500)), None, "not again before it is fed");
    assert_eq!(watchdog.deadline(), Nanos::NEVER);
    assert_eq!(watchdog.fed(SETPOINT, at(505)), Some(Fed::Recovered(recovered(500))));
    assert_eq!(watchdog.fed(SETPOINT, at(506)), None);
    assert_eq!(watchdog.deadline(), at(525), "at the latest");
    assert_eq!(watchdog.poll_miss(at(525)), None);
    assert_eq!(watchdog.poll_miss(at(526)), Some(miss(20)));
}

#[test]
fn silence_that_ended_before_the_poll_is_a_miss_too() {
    let mut watchdog = watching();
    assert_eq!(watchdog.fed(SETPOINT, at(30)), Some(Fed::Late(miss(30), recovered(30))));
    assert_eq!(watchdog.poll_miss(at(30)), None);
    // The message at the very deadline is late as well.
    assert_eq!(watchdog.fed(SETPOINT, at(50)), Some(Fed::Late(miss(20), recovered(20))));
    assert_eq!(watchdog.fed(SETPOINT, Nanos(at(70).0 - 1)), None);
}

#[test]
fn watch_starts_with_the_session_or_when_it_is_set_up() {
    let mut watchdog = Watchdog::with_capacity(2);
    watchdog.watch(SETPOINT, PERIOD, at(0)).expect("room");
    assert_eq!(watchdog.deadline(), Nanos::NEVER);
    assert_eq!(watchdog.poll_miss(at(1_000)), None, "never established, never silent");
    watchdog.start(at(1_000));
    assert_eq!(watchdog.deadline(), at(1_020));
    // Established again after a reconnect: silence is silence.
    watchdog.start(at(1_015));
    assert_eq!(watchdog.poll_miss(at(1_020)), Some(miss(20)));
    watchdog.start(at(1_030));
    assert_eq!(watchdog.poll_miss(at(1_100)), None);
    watchdog.watch(STATUS, PERIOD, at(1_100)).expect("room");
    assert_eq!(watchdog.deadline(), at(1_120));
    // A message is as good as the start.
    let mut watchdog = Watchdog::with_capacity(1);
    watchdog.watch(SETPOINT, PERIOD, at(0)).expect("room");
    assert_eq!(watchdog.fed(SETPOINT, at(70)), None);
    assert_eq!(watchdog.poll_miss(at(90)), Some(miss(20)));
}

#[test]
fn watches_are_bounded_replaced_and_ended() {
    let mut watchdog = watching();
    watchdog.watch(STATUS, ms(5), at(0)).expect("room");
    let third = watchdog.watch(WatchKey::Type(8), ms(1), at(0));
    assert_eq!(third, Err(WatchError::Full { watches_max: 2 }));
    assert_eq!(watchdog.deadline(), at(5), "a refused watch changes nothing");
    assert_eq!(watchdog.watch(STATUS, Duration::ZERO, at(0)), Err(WatchError::PeriodZero));
    // Replaced: begins anew with the new period, full or not.
    watchdog.watch(SETPOINT, ms(50), at(10)).expect("its own place");
    assert_eq!(watchdog.poll_miss(at(20)).map(|miss| miss.key), Some(STATUS));
    assert_eq!(watchdog.poll_miss(at(20)), None);
    assert_eq!(watchdog.deadline(), at(60));
    watchdog.unwatch(SETPOINT);
    assert_eq!(watchdog.poll_miss(at(60)), None);
    assert_eq!(watchdog.deadline(), Nanos::NEVER);
    assert_eq!(watchdog.fed(SETPOINT, at(61)), None);
    // A kind is not a type, and other types feed nothing.
    assert_eq!(watchdog.fed(WatchKey::Kind(Kind::Data), at(62)), None);
    assert!(matches!(watchdog.fed(STATUS, at(63)), Some(Fed::Recovered(_))));
}

#[test]
fn several_misses_come_earliest_deadline_first() {
    let mut watchdog = watching();
    watchdog.watch(STATUS, ms(5), at(0)).expect("room");
    let order = [watchdog.poll_miss(at(40)), watchdog.poll_miss(at(40))];
    assert_eq!(order.map(|miss| miss.map(|miss| miss.key)), [Some(STATUS), Some(SETPOINT)]);
    assert_eq!(watchdog.poll_miss(at(40)), None);
}

/// What is read after the end came before it: nobody leaves a safe state for it.
#[test]
fn nothing_feeds_a_watch_whose_session_is_over() {
    let mut watchdog = watching();
    assert_eq!(watchdog.poll_end(at(5)), Some(miss(5)));
    assert_eq!(watchdog.poll_end(at(5)), None);
    assert_eq!(watchdog.fed(SETPOINT, at(6)), None);
    assert_eq!((watchdog.poll_miss(at(500)), watchdog.poll_end(at(500))), (None, None));
    assert_eq!(watchdog.watch(STATUS, PERIOD, at(6)), Err(WatchError::NoSession));
}

#[test]
fn nothing_watched_costs_no_memory_and_does_nothing() {
    let mut watchdog = Watchdog::with_capacity(0);
    assert_eq!(watchdog.watches.capacity(), 0);
    assert_eq!(watchdog.fed(SETPOINT, at(0)), None);
    assert_eq!(watchdog.poll_miss(at(0)), None);
    assert_eq!(watchdog.watch(SETPOINT, PERIOD, at(0)), Err(WatchError::Full { watches_max: 0 }));
    assert_eq!(watchdog.deadline(), Nanos::NEVER);
}

/// What one watch went through.
#[derive(Debug, Clone, Default)]
struct Story {
    fed_at: Vec<Nanos>,
    misses: Vec<Miss>,
    recoveries: Vec<Recovered>,
}

/// Polled exactly at its deadlines, or now and then too late: every silence of a period or more is
/// one miss and, once fed, one recovery of exactly that length; no shorter one is either.
#[test]
fn every_silence_of_a_period_is_told_and_no_other() {
    for seed in 0..crate::seeds(500) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let watches = rng.usize(1..6);
        let mut now = at(rng.u64(..100));
        let mut watchdog = Watchdog::with_capacity(watches);
        watchdog.start(now);
        let start = now;
        let keys: Vec<_> = (0..watches)
            .map(|watch| WatchKey::Type(u32::try_from(watch).expect("small")))
            .collect();
        let periods: Vec<_> = (0..watches).map(|_| ms(rng.u64(1..30))).collect();
        let mut stories = vec![Story::default(); watches];
        for (key, period) in keys.iter().zip(&periods) {
            watchdog.watch(*key, *period, now).expect("room");
        }
        let polls_are_punctual = rng.bool();
        let mut wakes = 0_u32;
        for _ in 0..400 {
            // The next message comes after a while; until then the deadlines are kept.
            let next = now + Duration::from_micros(rng.u64(..8_000));
            while watchdog.deadline() <= next && (polls_are_punctual || rng.u8(..4) > 0) {
                now = now.max(watchdog.deadline());
                wakes += 1;
                while let Some(miss) = watchdog.poll_miss(now) {
                    let watch = keys.iter().position(|key| *key == miss.key).expect("known");
                    assert_eq!(miss.period, periods[watch], "seed {seed}");
                    assert!(!polls_are_punctual || miss.silent_for == miss.period, "seed {seed}");
                    stories[watch].misses.push(miss);
                }
                assert!(watchdog.deadline() > now, "seed {seed}: a drained poll moves it");
            }
            now = next;
            let watch = rng.usize(..watches);
            stories[watch].fed_at.push(now);
            match watchdog.fed(keys[watch], now) {
                None => {}
                Some(Fed::Recovered(recovered)) => stories[watch].recoveries.push(recovered),
                Some(Fed::Late(miss, recovered)) => {
                    assert_eq!(miss.silent_for, recovered.silent_for, "seed {seed}");
                    stories[watch].misses.push(miss);
                    stories[watch].recoveries.push(recovered);
                }
            }
        }
        // After the last message everything falls silent.
        while let Some(miss) = watchdog.poll_miss(now + ms(1_000)) {
            let watch = keys.iter().position(|key| *key == miss.key).expect("known");
            stories[watch].misses.push(miss);
        }
        for (story, period) in stories.iter().zip(&periods) {
            let mut last = start;
            let mut silences = Vec::new();
            for &fed in &story.fed_at {
                if fed.since(last) >= *period {
                    silences.push(fed.since(last));
                }
                last = fed;
            }
            let told: Vec<_> =
                story.recoveries.iter().map(|recovery| recovery.silent_for).collect();
            assert_eq!(told, silences, "seed {seed}");
            assert_eq!(story.misses.len(), silences.len() + 1, "seed {seed}: and the last one");
        }
        // At most two looks per period that passed: feeding moves no timer.
        let passed = now.since(start).as_nanos();
        let looks: u128 = periods.iter().map(|period| passed / period.as_nanos() + 2).sum();
        assert!(u128::from(wakes) <= 2 * looks, "seed {seed}: {wakes} of {looks}");
    }
}

/// When the session ends no watch is left that would have missed later.
#[test]
fn end_of_the_session_misses_what_was_not_missed_before() {
    let mut watchdog = watching();
    watchdog.watch(STATUS, ms(5), at(0)).expect("room");
    assert_eq!(watchdog.poll_miss(at(5)).map(|miss| miss.key), Some(STATUS));
    assert_eq!(watchdog.fed(SETPOINT, at(7)), None);
    let end = Miss { key: SETPOINT, period: PERIOD, silent_for: ms(3) };
    assert_eq!(watchdog.poll_end(at(10)), Some(end));
    assert_eq!(watchdog.poll_end(at(10)), None, "once");
    assert_eq!(watchdog.deadline(), Nanos::NEVER);
    assert_eq!(watchdog.poll_miss(at(1_000)), None);
    // One that has never been established was silent for nobody.
    let mut watchdog = Watchdog::with_capacity(1);
    watchdog.watch(SETPOINT, PERIOD, at(0)).expect("room");
    assert_eq!(watchdog.poll_end(at(10)), None);
}

//! The policy by itself, and a herd: 1,000 clients that lose one server at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

const MS: u64 = 1_000_000;

fn policy() -> BackoffPolicy {
    BackoffPolicy {
        base: Duration::from_millis(10),
        cap: Duration::from_millis(80),
        floor: Duration::from_millis(1),
        stable: Duration::from_millis(500),
        attempts_max: None,
        give_up_after: None,
    }
}

#[track_caller]
fn attempt(backoff: &mut Backoff, now: Nanos, random: u64) -> (u64, u32) {
    match backoff.next(now, random) {
        Next::Attempt { at, number } => (at.0 - now.0, number),
        gave_up @ Next::GaveUp { .. } => panic!("{gave_up:?}"),
    }
}

#[test]
fn first_attempt_is_at_once_and_the_ceiling_doubles_to_the_cap() {
    let mut backoff = Backoff::new(policy());
    let longest: Vec<_> =
        (0..8).map(|_| attempt(&mut backoff, Nanos(7), u64::MAX).0 / MS).collect();
    assert_eq!(longest, [0, 10, 20, 40, 80, 80, 80, 80]);
    let mut backoff = Backoff::new(policy());
    let shortest: Vec<_> = (0..5).map(|_| attempt(&mut backoff, Nanos(7), 0).0 / MS).collect();
    assert_eq!(shortest, [0, 1, 1, 1, 1]);
}

#[test]
fn delays_cover_the_whole_interval_and_never_leave_it() {
    for seed in 0..crate::seeds(100) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let floor = rng.u64(1..1_000);
        let base = floor + rng.u64(..1_000_000_000);
        let cap = base + rng.u64(..100_000_000_000);
        let policy = BackoffPolicy {
            floor: Duration::from_nanos(floor),
            base: Duration::from_nanos(base),
            cap: Duration::from_nanos(cap),
            ..policy()
        };
        let mut backoff = Backoff::new(policy);
        let _ = attempt(&mut backoff, Nanos(0), rng.u64(..));
        for n in 0..200 {
            let ceiling = base.saturating_mul(1 << n.min(63)).min(cap);
            let (delay, number) = attempt(&mut backoff, Nanos(rng.u64(..1 << 60)), rng.u64(..));
            assert!((floor..=ceiling).contains(&delay), "seed {seed}: {delay} of {ceiling}");
            assert_eq!(number, n + 2, "seed {seed}");
        }
    }
    // Uniform: every tenth of the interval gets about a tenth of the delays.
    let mut rng = fastrand::Rng::with_seed(1);
    let mut tenths = [0_u32; 10];
    for _ in 0..crate::seeds(10_000) {
        let mut backoff = Backoff::new(policy());
        let _ = attempt(&mut backoff, Nanos(0), 0);
        let (delay, _) = attempt(&mut backoff, Nanos(0), rng.u64(..));
        tenths[usize::try_from((delay - MS) * 10 / (9 * MS + 1)).expect("small")] += 1;
    }
    let is_fair = |tenth: &u32| (850..1_150).contains(tenth);
    assert!(cfg!(miri) || tenths.iter().all(is_fair), "{tenths:?}");
}

#[test]
fn extreme_policies_do_not_overflow() {
    let policy = BackoffPolicy { base: Duration::MAX, cap: Duration::MAX, ..policy() };
    let mut backoff = Backoff::new(policy);
    for _ in 0..100 {
        let _ = attempt(&mut backoff, Nanos(5), 1 << 40);
    }
    assert_eq!(backoff.next(Nanos(5), u64::MAX), Next::Attempt { at: Nanos::NEVER, number: 101 });
}

#[test]
fn only_a_connection_that_held_starts_a_new_series() {
    let mut backoff = Backoff::new(policy());
    let mut now = Nanos(0);
    // A peer that accepts and dies at once: the delays grow as if it had refused.
    for (expected_ms, expected_number) in [(0, 1), (10, 2), (20, 3), (40, 4), (80, 5)] {
        let (delay, number) = attempt(&mut backoff, now, u64::MAX);
        assert_eq!((delay / MS, number), (expected_ms, expected_number));
        now = now + Duration::from_nanos(delay);
        backoff.established(now);
        now = now + policy().stable - Duration::from_nanos(1);
        backoff.lost(now);
    }
    let (delay, _) = attempt(&mut backoff, now, u64::MAX);
    now = now + Duration::from_nanos(delay);
    backoff.established(now);
    backoff.lost(now + policy().stable);
    assert_eq!(backoff.attempts(), 0);
    assert_eq!(attempt(&mut backoff, now + policy().stable, u64::MAX), (0, 1));
}

#[test]
fn gives_up_by_attempts_and_stays_so_until_reset() {
    let mut backoff = Backoff::new(BackoffPolicy { attempts_max: NonZeroU32::new(3), ..policy() });
    for number in 1..=3 {
        assert_eq!(attempt(&mut backoff, Nanos(10), 0).1, number);
    }
    let gave_up = Next::GaveUp { attempts: 3, elapsed: Duration::from_nanos(90) };
    assert_eq!(backoff.next(Nanos(100), 0), gave_up);
    assert_eq!(backoff.next(Nanos(100), 0), gave_up);
    backoff.reset();
    assert_eq!(attempt(&mut backoff, Nanos(100), 0), (0, 1));
}

#[test]
fn gives_up_by_time_before_an_attempt_that_would_be_late() {
    let give_up_after = Some(Duration::from_millis(25));
    let mut backoff = Backoff::new(BackoffPolicy { give_up_after, ..policy() });
    let mut now = Nanos(1_000);
    for delay_ms in [0, 10] {
        let (delay, _) = attempt(&mut backoff, now, u64::MAX);
        assert_eq!(delay / MS, delay_ms);
        now = now + Duration::from_nanos(delay);
    }
    // 20 ms more would be 30 in all.
    let gave_up = Next::GaveUp { attempts: 2, elapsed: Duration::from_millis(10) };
    assert_eq!(backoff.next(now, u64::MAX), gave_up);
    // Not even when chance would have allowed another.
    assert_eq!(backoff.next(now, 0), gave_up);
}

#[test]
fn lost_without_a_connection_changes_nothing() {
    let mut backoff = Backoff::new(policy());
    let _ = attempt(&mut backoff, Nanos(0), 0);
    backoff.lost(Nanos(10_000 * MS));
    assert_eq!(backoff.attempts(), 1);
}

/// What a herd did to its server.
#[derive(Debug)]
struct Herd {
    /// Most attempts in a bucket of 10 ms; the very first ones, at time zero, are left out.
    attempts_per_10_ms_max: u32,
    /// The same from the moment on when the server is back.
    attempts_on_return_max: u32,
    /// When the last client was back, after the server was.
    all_back_after: Duration,
}

/// Under Miri too few for bounds that hold on average.
const CLIENTS: u64 = if cfg!(miri) { 20 } else { 1_000 };
const SERVER_BACK: Nanos = Nanos(2_000 * MS);
/// More in one millisecond are refused, as by a full backlog.
const ACCEPTED_PER_MS: u32 = 2;
/// How long a refusal takes to arrive.
const REFUSAL: Duration = Duration::from_micros(200);
/// When the simulation is given up.
const HORIZON: Nanos = Nanos(20_000 * MS);

/// 1,000 clients lose their server at time zero; it is back after 2 s and accepts so many a
/// millisecond. Also returns how many were back before the horizon.
fn herd(mut random: impl FnMut(u64) -> u64) -> (Herd, u64) {
    let mut clients = Vec::new();
    let mut attempts = BinaryHeap::new();
    for client in 0..CLIENTS {
        let mut backoff = Backoff::new(BackoffPolicy::default());
        backoff.established(Nanos(0));
        backoff.lost(Nanos(5_000 * MS));
        let (delay, number) = attempt(&mut backoff, Nanos(0), random(client));
        assert_eq!((delay, number), (0, 1), "at once");
        attempts.push(Reverse((Nanos(delay), client)));
        clients.push(backoff);
    }
    let mut per_10_ms = vec![0_u32; usize::try_from(HORIZON.0 / (10 * MS)).expect("small") + 1];
    let mut accepted_in = (0, 0);
    let mut back = 0;
    let mut all_back_after = Duration::MAX;
    while let Some(Reverse((now, client))) = attempts.pop() {
        if now > HORIZON {
            break;
        }
        if now > Nanos(0) {
            per_10_ms[usize::try_from(now.0 / (10 * MS)).expect("small")] += 1;
        }
        let millisecond = now.0 / MS;
        if accepted_in.0 != millisecond {
            accepted_in = (millisecond, 0);
        }
        let backoff = &mut clients[usize::try_from(client).expect("small")];
        if now >= SERVER_BACK && accepted_in.1 < ACCEPTED_PER_MS {
            accepted_in.1 += 1;
            backoff.established(now);
            back += 1;
            all_back_after = now.since(SERVER_BACK);
        } else {
            let refused = now + REFUSAL;
            let (delay, _) = attempt(backoff, refused, random(client));
            attempts.push(Reverse((refused + Duration::from_nanos(delay), client)));
        }
    }
    let max = |buckets: &[u32]| buckets.iter().copied().max().expect("not empty");
    let on_return = usize::try_from(SERVER_BACK.0 / (10 * MS)).expect("small");
    let herd = Herd {
        attempts_per_10_ms_max: max(&per_10_ms),
        attempts_on_return_max: max(&per_10_ms[on_return..]),
        all_back_after,
    };
    (herd, back)
}

/// In step, every wave is the whole herd: 1,000 attempts in one bucket.
const ATTEMPTS_PER_10_MS_BOUND: u32 = 350;
/// 1,000 clients that each try twice a second on average make 20.
const ATTEMPTS_ON_RETURN_BOUND: u32 = 50;
/// Two or three of the longest delays.
const ALL_BACK_BOUND: Duration = Duration::from_secs(3);

#[test]
fn herd_spreads_and_is_back_soon() {
    for seed in 0..crate::seeds(20) {
        let mut rngs: Vec<_> =
            (0..CLIENTS).map(|client| fastrand::Rng::with_seed(seed << 32 | client)).collect();
        let (herd, back) = herd(|client| rngs[usize::try_from(client).expect("small")].u64(..));
        assert_eq!(back, CLIENTS, "seed {seed}: {herd:?}");
        assert!(herd.all_back_after <= ALL_BACK_BOUND, "seed {seed}: {herd:?}");
        if cfg!(miri) {
            continue;
        }
        assert!(herd.attempts_per_10_ms_max <= ATTEMPTS_PER_10_MS_BOUND, "seed {seed}: {herd:?}");
        assert!(herd.attempts_on_return_max <= ATTEMPTS_ON_RETURN_BOUND, "seed {seed}: {herd:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs all the clients, and runs no code that the test above does not")]
fn herd_without_jitter_stays_in_step() {
    // The longest delay each time: exponential backoff alone.
    let (herd, back) = herd(|_| u64::MAX);
    assert!(herd.attempts_per_10_ms_max > ATTEMPTS_PER_10_MS_BOUND, "{herd:?}");
    assert_eq!(herd.attempts_per_10_ms_max, 1_000, "{herd:?}");
    assert!(herd.attempts_on_return_max > ATTEMPTS_ON_RETURN_BOUND, "{herd:?}");
    assert!(back < CLIENTS / 10, "two of each wave get through: {back}");
}

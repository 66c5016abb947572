//! The estimate against a simulated pair of clocks whose true offset is known.

use super::*;

/// Two clocks, of which only whole nanoseconds can be read. The peer's is skewed against ours and
/// drifts, at a rate that changes.
struct World {
    /// Our clock.
    ticks: i128,
    /// The peer's.
    peer_ticks: i128,
    drift_ppm: i128,
    drift_ppm_max: i128,
    rng: fastrand::Rng,
}

/// In a nanosecond: so many that neither a quarter of one nor its drift is lost by rounding.
const TICKS: i128 = 4_000_000;

impl World {
    fn new(seed: u64, drift_ppm_max: u32) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ticks = i128::from(rng.u64(..1 << 50)) * TICKS;
        let peer_ticks = i128::from(rng.u64(..1 << 50)) * TICKS + rng.i128(0..TICKS);
        let drift_ppm_max = i128::from(drift_ppm_max);
        Self { ticks, peer_ticks, drift_ppm: drift_ppm_max, drift_ppm_max, rng }
    }

    /// Lets `ns` pass, or up to a nanosecond more.
    fn wait(&mut self, ns: u64) {
        if self.rng.u8(..10) == 0 {
            self.drift_ppm = self.rng.i128(-self.drift_ppm_max..=self.drift_ppm_max);
        }
        let quarters = i128::from(ns) * 4 + self.rng.i128(0..4);
        self.ticks += quarters * 1_000_000;
        self.peer_ticks += quarters * (1_000_000 + self.drift_ppm);
    }

    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.ticks / TICKS).expect("a clock runs forward"))
    }

    fn peer(&self) -> PeerNanos {
        PeerNanos(u64::try_from(self.peer_ticks / TICKS).expect("a clock runs forward"))
    }

    /// How long a message is on its way: often little, sometimes nothing, sometimes very long.
    fn delay(&mut self) -> u64 {
        let most = [1, 20_000, 200_000, 50_000_000][self.rng.usize(..4)];
        self.rng.u64(..most)
    }

    fn exchange(&mut self) -> Exchange {
        let asked = self.now();
        let there = self.delay();
        self.wait(there);
        let peer_received = self.peer();
        let thinking = self.delay();
        self.wait(thinking);
        let peer_sent = self.peer();
        let back = self.delay();
        self.wait(back);
        Exchange { asked, peer_received, peer_sent, returned: self.now() }
    }

    /// Fails unless the true offset, and the true local time of a peer's reading, are within
    /// bounds. Returns the bound.
    #[track_caller]
    fn check(&self, estimate: &ClockEstimate, past: (Nanos, PeerNanos)) -> u64 {
        let Offset { ns, error_ns } = estimate.offset(self.now()).expect("known");
        let truth = self.peer_ticks - self.ticks;
        let away = (truth - i128::from(ns) * TICKS).abs();
        assert!(away <= i128::from(error_ns) * TICKS, "{away} ticks away, claimed {error_ns} ns");
        let local = estimate.to_local(past.1, self.now()).expect("known");
        assert!(local.earliest() <= past.0, "{local:?} of {past:?}");
        assert!(local.latest() >= past.0, "{local:?} of {past:?}");
        error_ns
    }
}

fn drift_ns(ns: u64, ppm: u32) -> u64 {
    (ns * u64::from(ppm)).div_ceil(1_000_000)
}

/// What the bound must not be wider than: half the round trip of the best of all samples, grown
/// with its age.
fn best_round_trip(samples: &[Exchange], now: Nanos, ppm: u32) -> u64 {
    let bound = |sample: &Exchange| {
        sample.round_trip_ns().div_ceil(2) + drift_ns(now.0 - sample.asked.0, ppm) + 4
    };
    samples.iter().map(bound).min().expect("at least one")
}

#[test]
fn truth_is_always_within_the_bound() {
    for seed in 0..crate::seeds(500) {
        let ppm = [0, 1, 100, 1_000][usize::try_from(seed % 4).expect("small")];
        let mut world = World::new(seed, ppm);
        let mut estimate = ClockEstimate::new(ppm);
        let mut samples = Vec::new();
        let mut past = (world.now(), world.peer());
        for _ in 0..200 {
            if world.rng.bool() {
                let before = estimate.offset(world.now()).map(|offset| offset.error_ns);
                let sample = world.exchange();
                let grown =
                    before.map(|error| error + drift_ns(world.now().0 - sample.asked.0, ppm));
                assert_eq!(estimate.sample(&sample), Sampled::Agrees, "seed {seed}");
                samples.push(sample);
                let error = world.check(&estimate, past);
                assert!(grown.is_none_or(|grown| error <= grown + 1), "seed {seed}: it widened");
            } else if world.rng.bool() {
                // Any message of the peer's bounds the offset from below.
                let sent = world.peer();
                let delay = world.delay();
                world.wait(delay);
                assert_eq!(estimate.sample_one_way(sent, world.now()), Sampled::Agrees);
            }
            let pause = world.rng.u64(..2_000_000_000);
            world.wait(pause);
            if !samples.is_empty() {
                let error = world.check(&estimate, past);
                let filter = best_round_trip(&samples, world.now(), ppm);
                assert!(error <= filter, "seed {seed}: {error} > {filter}");
            }
            if world.rng.u8(..4) == 0 {
                past = (world.now(), world.peer());
            }
        }
        assert_eq!(estimate.restarts(), 0, "seed {seed}: nothing contradicted");
    }
}

#[test]
fn between_samples_the_offset_stands_and_the_error_grows() {
    let mut world = World::new(7, DRIFT_PPM);
    let mut estimate = ClockEstimate::new(DRIFT_PPM);
    let _ = estimate.sample(&world.exchange());
    let first = estimate.offset(world.now()).expect("known");
    let mut error_ns = first.error_ns;
    for _ in 0..1_000 {
        world.wait(10_000_000);
        let offset = estimate.offset(world.now()).expect("known");
        assert!(offset.ns.abs_diff(first.ns) <= 1, "{offset:?}");
        assert!(offset.error_ns >= error_ns, "{offset:?}");
        error_ns = offset.error_ns;
    }
    // 10 s at 100 ppm.
    assert!((999_990..1_000_010).contains(&(error_ns - first.error_ns)), "{error_ns}");
}

const EXCHANGE: Exchange = Exchange {
    asked: Nanos(1_000),
    peer_received: PeerNanos(9_010),
    peer_sent: PeerNanos(9_030),
    returned: Nanos(1_050),
};

#[test]
fn symmetric_exchange_gives_the_middle_and_half_the_round_trip() {
    let mut estimate = ClockEstimate::new(0);
    assert_eq!(EXCHANGE.round_trip_ns(), 30);
    assert_eq!(estimate.sample(&EXCHANGE), Sampled::Agrees);
    // Between 9030 - 1050 and 9010 - 1000, a nanosecond more on each side for rounding.
    assert_eq!(estimate.offset(Nanos(2_000)), Some(Offset { ns: 7_995, error_ns: 16 }));
    let local = estimate.to_local(PeerNanos(10_000), Nanos(2_050)).expect("known");
    assert_eq!(local, LocalTime { at: Nanos(2_005), error_ns: 17 });
}

#[test]
fn edges_of_different_samples_combine() {
    // One sample was slow on its way there, the other on its way back: each gives one edge.
    let mut estimate = ClockEstimate::new(0);
    let slow_there = Exchange {
        peer_received: PeerNanos(9_500),
        peer_sent: PeerNanos(9_500),
        asked: Nanos(1_000),
        returned: Nanos(1_510),
    };
    let slow_back = Exchange {
        peer_received: PeerNanos(10_010),
        peer_sent: PeerNanos(10_010),
        asked: Nanos(2_000),
        returned: Nanos(2_510),
    };
    let _ = estimate.sample(&slow_there);
    assert_eq!(estimate.offset(Nanos(3_000)).expect("known").error_ns, 256);
    let _ = estimate.sample(&slow_back);
    assert_eq!(estimate.offset(Nanos(3_000)).expect("known"), Offset { ns: 8_000, error_ns: 11 });
}

#[test]
fn listener_knows_nothing_before_the_first_exchange() {
    let mut estimate = ClockEstimate::new(DRIFT_PPM);
    assert_eq!(estimate.offset(Nanos(5)), None);
    assert_eq!(estimate.sample_one_way(PeerNanos(9_000), Nanos(1_000)), Sampled::Agrees);
    assert_eq!(estimate.offset(Nanos(1_000)), None);
    assert_eq!(estimate.to_local(PeerNanos(9_000), Nanos(1_000)), None);
    // But what the hello said narrows the first exchange: its way back was the slower one.
    let exchange = Exchange { returned: Nanos(1_500), ..EXCHANGE };
    assert_eq!(estimate.sample(&exchange), Sampled::Agrees);
    let offset = estimate.offset(Nanos(1_500)).expect("known");
    assert_eq!(offset, Offset { ns: 8_005, error_ns: 7 });
}

#[test]
fn contradiction_restarts_with_the_newest() {
    let mut world = World::new(3, DRIFT_PPM);
    let mut estimate = ClockEstimate::new(DRIFT_PPM);
    for _ in 0..10 {
        assert_eq!(estimate.sample(&world.exchange()), Sampled::Agrees);
    }
    // The peer's machine was suspended for ten seconds: its clock did not count them.
    world.peer_ticks -= 10_000_000_000 * TICKS;
    let past = (world.now(), world.peer());
    assert_eq!(estimate.sample(&world.exchange()), Sampled::Restarted);
    assert_eq!(estimate.restarts(), 1);
    world.check(&estimate, past);
    estimate.reset();
    assert_eq!(estimate.offset(world.now()), None);
}

#[test]
fn samples_that_contradict_themselves_change_nothing() {
    let mut estimate = ClockEstimate::new(DRIFT_PPM);
    let _ = estimate.sample(&EXCHANGE);
    let before = estimate.offset(Nanos(3_000));
    for wrong in [
        Exchange { asked: Nanos(1_051), ..EXCHANGE },
        Exchange { peer_received: PeerNanos(9_031), ..EXCHANGE },
        // The peer took longer to answer than the whole exchange lasted.
        Exchange { peer_sent: PeerNanos(9_080), ..EXCHANGE },
        Exchange { peer_sent: PeerNanos(READING_MAX), ..EXCHANGE },
        Exchange { returned: Nanos::NEVER, ..EXCHANGE },
    ] {
        assert_eq!(estimate.sample(&wrong), Sampled::Refused, "{wrong:?}");
        assert_eq!(estimate.offset(Nanos(3_000)), before, "{wrong:?}");
    }
    let one_way = estimate.sample_one_way(PeerNanos(u64::MAX), Nanos(4_000));
    assert_eq!(one_way, Sampled::Refused);
}

/// The cheap look says yes only where the whole reckoning does, and does so for all but the drift.
#[test]
fn cheap_look_at_the_latest_agrees_with_the_whole_reckoning() {
    let (mut certain, mut close) = (0, 0);
    for seed in 0..crate::seeds(500) {
        let ppm = [0, 1, 100, 1_000][usize::try_from(seed % 4).expect("small")];
        let mut world = World::new(seed, ppm);
        let mut estimate = ClockEstimate::new(ppm);
        assert!(!estimate.may_be_from(world.peer(), Nanos(0)), "nothing is known");
        let sample = world.exchange();
        assert_eq!(estimate.sample(&sample), Sampled::Agrees, "seed {seed}");
        for _ in 0..100 {
            let pause = world.rng.u64(..2_000_000);
            world.wait(pause);
            let (peer_time, now) = (world.peer(), world.now());
            let latest = estimate.to_local(peer_time, now).expect("sampled").latest();
            let at = Nanos((latest.0 + 2_000).saturating_sub(world.rng.u64(..4_000)));
            let is_certain = estimate.may_be_from(peer_time, at);
            assert!(!is_certain || latest >= at, "seed {seed}: {latest:?} is before {at:?}");
            let drifted = drift_ns(world.now().0 - sample.asked.0, ppm);
            let is_close = latest.0 < at.0.saturating_add(3 * drifted + 8);
            assert!(is_certain || is_close, "seed {seed}: {latest:?} is well after {at:?}");
            certain += u32::from(is_certain);
            close += u32::from(!is_certain);
        }
    }
    let enough = if cfg!(miri) { 10 } else { 1_000 };
    assert!(certain > enough && close > enough, "{certain} and {close}: both were met");
}

/// Whatever the peer says: no panic, no overflow, and a bound that is in order.
#[test]
fn hostile_readings_never_panic() {
    fn any(rng: &mut fastrand::Rng) -> u64 {
        let around = [0, 1 << 20, 1 << 61, READING_MAX, u64::MAX][rng.usize(..5)];
        let bits = rng.u32(..20);
        let noise = rng.u64(..1 << bits);
        if rng.bool() { noise.saturating_add(around) } else { around.saturating_sub(noise) }
    }
    for seed in 0..crate::seeds(2_000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut estimate = ClockEstimate::new(rng.u32(..1_000_000));
        for _ in 0..50 {
            let _ = match rng.u8(..3) {
                0 => estimate.sample_one_way(PeerNanos(any(&mut rng)), Nanos(any(&mut rng))),
                _ => estimate.sample(&Exchange {
                    asked: Nanos(any(&mut rng)),
                    peer_received: PeerNanos(any(&mut rng)),
                    peer_sent: PeerNanos(any(&mut rng)),
                    returned: Nanos(any(&mut rng)),
                }),
            };
            let now = Nanos(any(&mut rng));
            if let Some(local) = estimate.to_local(PeerNanos(any(&mut rng)), now) {
                assert!(local.earliest() <= local.latest(), "seed {seed}");
            }
        }
    }
}

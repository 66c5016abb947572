//! One end by hand, then two ends over a simulated way with delay, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use crate::session::clock::{ClockEstimate, DRIFT_PPM, Sampled};
use crate::wire::heartbeat::{HEARTBEAT_FRAME_BYTES, read_heartbeat, write_heartbeat};

const MS: u64 = 1_000_000;
const POLICY: HeartbeatPolicy =
    HeartbeatPolicy { interval_us: 10_000, misses: 3, measure_every: Duration::ZERO };
const START: Nanos = Nanos(1_000_000 * MS);

/// Nobody else measures.
fn any_time() -> Pace {
    Pace::new(Duration::ZERO)
}

fn at(ms: u64) -> Nanos {
    Nanos(START.0 + ms * MS)
}

fn idle(policy: HeartbeatPolicy, peer_interval_us: u32) -> Heartbeat {
    Heartbeat::new(policy, peer_interval_us, START)
}

#[track_caller]
fn sends(heartbeat: &mut Heartbeat, now: Nanos) -> Beat {
    match heartbeat.poll(now, &mut any_time()) {
        Action::SendHeartbeat(beat) => beat,
        other => panic!("{other:?}"),
    }
}

#[test]
fn heartbeat_is_sent_only_when_idle_for_as_long_as_the_peer_asked() {
    let mut heartbeat = idle(POLICY, 4_000);
    assert_eq!(heartbeat.deadline(), at(4));
    heartbeat.sent(at(3));
    assert_eq!(heartbeat.poll(at(4), &mut any_time()), Action::Nothing);
    assert_eq!(heartbeat.deadline(), at(7));
    let beat = sends(&mut heartbeat, at(7));
    assert_eq!(beat, Beat { form: Form::Heartbeat, echo: None, sent_ns: at(7).0 });
    assert_eq!(heartbeat.poll(at(7), &mut any_time()), Action::Nothing, "it counts as sent");
    assert_eq!(heartbeat.deadline(), at(11));
}

#[test]
fn any_received_byte_counts_and_silence_is_fatal_at_the_deadline() {
    let mut heartbeat = idle(POLICY, 0);
    assert_eq!(heartbeat.deadline(), at(30));
    heartbeat.received(at(29));
    assert_eq!(heartbeat.poll(at(30), &mut any_time()), Action::Nothing);
    assert_eq!(heartbeat.deadline(), at(59));
    assert_eq!(heartbeat.poll(Nanos(at(59).0 - 1), &mut any_time()), Action::Nothing);
    assert_eq!(heartbeat.poll(at(59), &mut any_time()), Action::PeerDead);
    // Dead it stays, and nothing spins on its deadline.
    assert_eq!(heartbeat.deadline(), Nanos::NEVER);
    heartbeat.received(at(60));
    assert_eq!(heartbeat.poll(at(61), &mut any_time()), Action::PeerDead);
}

/// Whoever stood still longer than silence may last first takes in what has come, and then gives
/// the peer, which may have stood still as well, its interval.
#[test]
fn lag_puts_the_verdict_off_and_takes_no_grace_away() {
    let mut heartbeat = idle(POLICY, 0);
    heartbeat.lag_behind(START, at(35), at(36));
    assert_eq!(heartbeat.poll(at(35), &mut any_time()), Action::Nothing);
    assert_eq!(heartbeat.deadline(), at(36));
    // All of it has been taken in: silence within an interval is fatal.
    heartbeat.lag_behind(at(36), at(36), at(37));
    assert_eq!(heartbeat.poll(at(36), &mut any_time()), Action::PeerDead);

    let mut heartbeat = idle(POLICY, 0);
    heartbeat.lag_behind(START, at(100), at(101));
    assert_eq!(heartbeat.poll(at(100), &mut any_time()), Action::Nothing);
    heartbeat.lag_behind(at(101), at(101), at(102));
    assert_eq!(heartbeat.poll(at(101), &mut any_time()), Action::Nothing);
    assert_eq!(heartbeat.deadline(), at(111), "one more interval");
    assert_eq!(heartbeat.poll(at(111), &mut any_time()), Action::PeerDead);
}

#[test]
fn intervals_are_what_each_end_asked_for() {
    // Neither wants to hear: no timer at all.
    let silent = HeartbeatPolicy { interval_us: 0, ..POLICY };
    let mut heartbeat = idle(silent, 0);
    assert_eq!(heartbeat.deadline(), Nanos::NEVER);
    assert_eq!(heartbeat.poll(at(1_000_000), &mut any_time()), Action::Nothing);
    // Only the peer does: we send, and never take it for dead.
    let mut heartbeat = idle(silent, 5_000);
    let _ = sends(&mut heartbeat, at(1_000_000));
    // A peer that asks for more than the shortest interval gets that, and reckons with it too.
    assert_eq!(idle(silent, 1).deadline(), at(1));
    assert_eq!(idle(HeartbeatPolicy { interval_us: 1, ..POLICY }, 0).deadline(), at(3));
    let longest = HeartbeatPolicy { interval_us: u32::MAX, misses: u32::MAX, ..POLICY };
    assert_eq!(idle(longest, 0).poll(at(1 << 40), &mut any_time()), Action::Nothing, "no overflow");
}

#[test]
fn own_stall_is_not_the_peers_death() {
    let mut heartbeat = idle(POLICY, 0);
    // 30 ms of silence are fatal, but nobody looked for 100 ms.
    assert_eq!(heartbeat.poll(at(100), &mut any_time()), Action::Nothing);
    assert_eq!(heartbeat.deadline(), at(110), "one more interval");
    let mut lucky = idle(POLICY, 0);
    assert_eq!(lucky.poll(at(100), &mut any_time()), Action::Nothing);
    lucky.received(at(105));
    assert_eq!(lucky.poll(at(110), &mut any_time()), Action::Nothing);
    assert_eq!(lucky.deadline(), at(135));
    // Once only, even when nobody looks again for long.
    assert_eq!(heartbeat.poll(at(500), &mut any_time()), Action::PeerDead);
}

#[test]
fn answers_are_never_answered_and_heartbeats_at_a_bounded_rate() {
    let mut heartbeat = idle(POLICY, 10_000);
    let question = Beat { form: Form::Heartbeat, echo: None, sent_ns: 77 };
    let heard = heartbeat.heard(&question, at(1));
    let echo = Some(Echo { origin_ns: 77, received_ns: at(1).0 });
    assert_eq!(heard.answer, Some(Beat { form: Form::Answer, echo, sent_ns: at(1).0 }));
    assert_eq!(heard.exchange, None);
    assert_eq!(heartbeat.deadline(), at(11), "an answer counts as sent");
    let answer = Beat { form: Form::Answer, echo, sent_ns: 78 };
    assert_eq!(heartbeat.heard(&answer, at(2)).answer, None);
    // A peer that asks without pause gets one answer per half a millisecond.
    let mut answers = 0;
    for microsecond in 0..10_000 {
        let now = at(100) + Duration::from_micros(microsecond);
        answers += u32::from(heartbeat.heard(&question, now).answer.is_some());
    }
    assert_eq!(answers, 20);
}

#[test]
fn readings_of_a_time_we_never_lived_are_no_exchange() {
    let mut heartbeat = idle(POLICY, 0);
    let mut exchange = |origin_ns| {
        let echo = Some(Echo { origin_ns, received_ns: 5 });
        heartbeat.heard(&Beat { form: Form::Answer, echo, sent_ns: 6 }, at(10)).exchange
    };
    assert_eq!(exchange(START.0 - 1), None, "before the connection");
    assert_eq!(exchange(at(10).0 + 1), None, "not yet");
    let (asked, returned) = (at(4), at(10));
    let (peer_received, peer_sent) = (PeerNanos(5), PeerNanos(6));
    let expected = Exchange { asked, peer_received, peer_sent, returned };
    assert_eq!(exchange(at(4).0), Some(expected));
}

#[test]
fn busy_session_is_measured_as_often_as_asked() {
    let policy = HeartbeatPolicy { measure_every: Duration::from_millis(100), ..POLICY };
    let mut heartbeat = idle(policy, 10_000);
    let mut beats = 0;
    for ms in 0..1_001 {
        heartbeat.sent(at(ms));
        heartbeat.received(at(ms));
        beats += u32::from(heartbeat.poll(at(ms), &mut any_time()) != Action::Nothing);
    }
    assert_eq!(beats, 10);
}

/// How some busy sessions of a core are measured that want it every 100 ms, no two in the same one.
struct Busy {
    sessions: usize,
    lasting_ms: u64,
    /// Each is measured from the other end too, as often as that, in milliseconds.
    from_peer: Option<u64>,
    /// Each ends after so long, in milliseconds, and another one begins.
    ends: Option<u64>,
}

impl Busy {
    /// The longest that one went without, in milliseconds.
    fn longest_without_measurement(&self) -> u64 {
        let policy = HeartbeatPolicy { measure_every: Duration::from_millis(100), ..POLICY };
        let mut pace = Pace::new(Duration::from_millis(1));
        pace.set_sessions(self.sessions);
        let begin = |ms| (Heartbeat::new(policy, 10_000, at(ms)), ms);
        let mut ends: Vec<_> = (0..self.sessions).map(|_| begin(0)).collect();
        let mut longest = 0;
        for ms in 0..self.lasting_ms {
            let is_due = |every: Option<u64>| every.is_some_and(|every| ms % every == every - 1);
            // In the second half nothing ends any more.
            if is_due(self.ends) && ms < self.lasting_ms / 2 {
                ends.iter_mut().for_each(|end| *end = begin(ms));
            }
            let mut beats = 0;
            for (heartbeat, measured_at) in &mut ends {
                heartbeat.sent(at(ms));
                heartbeat.received(at(ms));
                if is_due(self.from_peer) {
                    let echo = Some(Echo { origin_ns: at(ms).0, received_ns: 5 });
                    let answer = Beat { form: Form::Answer, echo, sent_ns: 6 };
                    assert!(heartbeat.heard(&answer, at(ms)).exchange.is_some());
                    *measured_at = ms;
                }
                if heartbeat.poll(at(ms), &mut pace) != Action::Nothing {
                    beats += 1;
                    *measured_at = ms;
                }
                longest = longest.max(ms - *measured_at);
                assert!(heartbeat.deadline() > at(ms), "a poll at the deadline moves it");
            }
            assert!(beats <= 1 || self.ends.is_some(), "{beats} at {ms} ms");
        }
        longest
    }
}

#[test]
fn busy_sessions_of_a_core_are_measured_in_turn() {
    let one = Busy { sessions: 1, lasting_ms: 1_000, from_peer: None, ends: None };
    assert_eq!(one.longest_without_measurement(), 99);
    // Millions of steps.
    if cfg!(miri) {
        return;
    }
    // Fewer than there are places in the time: only those that began together wait for one.
    let few = Busy { sessions: 50, lasting_ms: 2_000, ..one }.longest_without_measurement();
    assert!((100..150).contains(&few), "{few} ms");
    // More: each in its turn, and none waits for longer than all others take.
    let many = Busy { sessions: 500, lasting_ms: 5_000, ..one };
    let longest = many.longest_without_measurement();
    assert!((500..=600).contains(&longest), "{longest} ms");
    // What the peer has measured takes nothing from the others.
    let both = Busy { from_peer: Some(700), ..many }.longest_without_measurement();
    assert!((500..=600).contains(&both), "{both} ms");
    assert_eq!(Busy { from_peer: Some(150), ..many }.longest_without_measurement(), 149);
}

#[test]
#[cfg_attr(miri, ignore = "millions of steps")]
fn places_of_sessions_that_end_hold_nobody_up() {
    let flapping = Busy { sessions: 500, lasting_ms: 8_000, from_peer: None, ends: Some(200) };
    let longest = flapping.longest_without_measurement();
    assert!((500..=601).contains(&longest), "{longest} ms");
}

#[test]
fn heartbeat_of_an_idle_session_waits_for_nobody() {
    let policy = HeartbeatPolicy { measure_every: Duration::from_millis(4), ..POLICY };
    let mut pace = Pace::new(Duration::from_secs(1));
    pace.set_sessions(2);
    let mut heartbeats = [idle(policy, 5_000), idle(policy, 5_000)];
    for heartbeat in &mut heartbeats {
        let _ = heartbeat.poll(at(4), &mut pace);
    }
    // The second has its turn in a second, and goes on living until then.
    for ms in [5, 10, 15] {
        let beat = heartbeats[1].poll(at(ms), &mut pace);
        assert!(matches!(beat, Action::SendHeartbeat(_)), "{beat:?} at {ms} ms");
    }
    // Due for both reasons, it beats once.
    let _ = sends(&mut heartbeats[1], at(1_010));
    assert_eq!(heartbeats[1].deadline(), at(1_014), "its turn has passed");
}

#[test]
fn measurement_asked_for_is_due_at_once_and_only_once() {
    let mut heartbeat = idle(POLICY, 0);
    heartbeat.measure();
    assert!(heartbeat.deadline() <= START);
    let _ = sends(&mut heartbeat, START);
    assert_eq!(heartbeat.poll(START, &mut any_time()), Action::Nothing);
}

/// What travels: the bytes of a beat, or of the application's.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Packet {
    Beat([u8; HEARTBEAT_FRAME_BYTES]),
    Data,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Arrival {
        end: usize,
        packet: Packet,
    },
    Traffic {
        end: usize,
    },
    /// From now on nothing arrives, and nobody is told.
    Cut,
    Stop,
}

struct End {
    heartbeat: Heartbeat,
    clock: ClockEstimate,
    /// Its clock minus the world's.
    ahead_ns: u64,
    beats: u64,
    exchanges: u64,
    dead_at: Option<Nanos>,
    last_arrival: Nanos,
}

/// Two ends and the way between them.
struct World {
    now: Nanos,
    ends: [End; 2],
    due: BinaryHeap<Reverse<(Nanos, u64, Due)>>,
    serial: u64,
    delay_ns_max: u64,
    rng: fastrand::Rng,
    polls: u64,
    is_cut: bool,
}

impl World {
    fn new(seed: u64, policies: [HeartbeatPolicy; 2], delay_ns_max: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ahead = [rng.u64(..1 << 50), rng.u64(..1 << 50)];
        let end = |index: usize| End {
            heartbeat: Heartbeat::new(
                policies[index],
                policies[1 - index].interval_us,
                Nanos(START.0 + ahead[index]),
            ),
            clock: ClockEstimate::new(DRIFT_PPM),
            ahead_ns: ahead[index],
            beats: 0,
            exchanges: 0,
            dead_at: None,
            last_arrival: START,
        };
        let ends = [end(0), end(1)];
        let due = BinaryHeap::new();
        Self { now: START, ends, due, serial: 0, delay_ns_max, rng, polls: 0, is_cut: false }
    }

    fn schedule(&mut self, time: Nanos, due: Due) {
        self.serial += 1;
        self.due.push(Reverse((time, self.serial, due)));
    }

    fn send(&mut self, from: usize, packet: Packet) {
        if !self.is_cut {
            let delay = Duration::from_nanos(self.rng.u64(..=self.delay_ns_max));
            // A connection keeps the order.
            let arrival = (self.now + delay).max(self.ends[1 - from].last_arrival);
            self.ends[1 - from].last_arrival = arrival;
            self.schedule(arrival, Due::Arrival { end: 1 - from, packet });
        }
    }

    fn send_beat(&mut self, from: usize, beat: &Beat) {
        let mut frame = [0; HEARTBEAT_FRAME_BYTES];
        write_heartbeat(beat, &mut frame);
        self.ends[from].beats += 1;
        self.send(from, Packet::Beat(frame));
    }

    fn arrive(&mut self, at: usize, packet: &Packet) {
        let ahead = self.ends[1 - at].ahead_ns.wrapping_sub(self.ends[at].ahead_ns).cast_signed();
        let end = &mut self.ends[at];
        let local = Nanos(self.now.0 + end.ahead_ns);
        end.heartbeat.received(local);
        let Packet::Beat(frame) = packet else { return };
        let beat = read_heartbeat(&frame[32..]).expect("well formed");
        let Heard { answer, exchange } = end.heartbeat.heard(&beat, local);
        if let Some(exchange) = exchange {
            end.exchanges += 1;
            assert_eq!(end.clock.sample(&exchange), Sampled::Agrees);
            let offset = end.clock.offset(local).expect("just measured");
            assert!(offset.ns.abs_diff(ahead) <= offset.error_ns, "{offset:?} of {ahead}");
            assert!(exchange.round_trip_ns() <= 2 * self.delay_ns_max, "{exchange:?}");
        }
        if let Some(answer) = answer {
            self.send_beat(at, &answer);
        }
    }

    fn poll(&mut self, at: usize) {
        let end = &mut self.ends[at];
        let local = Nanos(self.now.0 + end.ahead_ns);
        if end.dead_at.is_some() || end.heartbeat.deadline() > local {
            return;
        }
        self.polls += 1;
        let before = end.heartbeat.deadline();
        match end.heartbeat.poll(local, &mut any_time()) {
            Action::Nothing => {}
            Action::SendHeartbeat(beat) => self.send_beat(at, &beat),
            Action::PeerDead => end.dead_at = Some(self.now),
        }
        assert!(self.ends[at].heartbeat.deadline() > before, "a poll at the deadline moves it");
    }

    /// Runs until nothing more happens before `end`.
    fn run(&mut self, end: Nanos, traffic: [Option<u64>; 2]) {
        for (end, every) in traffic.into_iter().enumerate() {
            if every.is_some() {
                self.schedule(self.now, Due::Traffic { end });
            }
        }
        self.schedule(end, Due::Stop);
        loop {
            let timer = (0..2)
                .filter(|&at| self.ends[at].dead_at.is_none())
                .map(|at| {
                    self.ends[at].heartbeat.deadline().0.saturating_sub(self.ends[at].ahead_ns)
                })
                .min()
                .map_or(Nanos::NEVER, Nanos);
            let event = self.due.peek().map_or(Nanos::NEVER, |Reverse((time, ..))| *time);
            self.now = timer.min(event).max(self.now);
            if event <= timer {
                let Some(Reverse((_, _, due))) = self.due.pop() else { unreachable!("peeked") };
                match due {
                    Due::Arrival { end, packet } => {
                        if !self.is_cut {
                            self.arrive(end, &packet);
                        }
                    }
                    Due::Traffic { end } => {
                        let local = Nanos(self.now.0 + self.ends[end].ahead_ns);
                        self.ends[end].heartbeat.sent(local);
                        self.send(end, Packet::Data);
                        let every = traffic[end].expect("scheduled");
                        self.schedule(self.now + Duration::from_nanos(every), Due::Traffic { end });
                    }
                    Due::Cut => self.is_cut = true,
                    Due::Stop => return,
                }
            }
            self.poll(0);
            self.poll(1);
        }
    }
}

#[test]
fn idle_ends_keep_each_other_alive_without_a_storm() {
    for seed in 0..crate::seeds(200) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let interval_us = rng.u32(1_000..50_000);
        let policy = HeartbeatPolicy { interval_us, ..POLICY };
        // The way takes up to one interval, in each direction.
        let delay_ns_max = rng.u64(1..u64::from(interval_us) * 1_000);
        let mut world = World::new(seed, [policy; 2], delay_ns_max);
        let intervals = if cfg!(miri) { 50 } else { 500 };
        world.run(START + Duration::from_micros(interval_us.into()) * intervals, [None; 2]);
        for end in &world.ends {
            assert_eq!(end.dead_at, None, "seed {seed}");
            // At most a heartbeat and an answer per interval; at least one of them.
            let most = 2 * u64::from(intervals) + 2;
            assert!(end.beats <= most, "seed {seed}: {} beats", end.beats);
            assert!(end.beats >= u64::from(intervals) / 2, "seed {seed}: {} beats", end.beats);
            // Each end measures, also the one that mostly answers.
            assert!(end.exchanges >= u64::from(intervals) / 4, "seed {seed}: {}", end.exchanges);
        }
        assert!(world.polls <= 4 * u64::from(intervals) + 4, "seed {seed}: {}", world.polls);
    }
}

#[test]
fn busy_end_sends_no_heartbeats_and_the_idle_one_does() {
    let mut world = World::new(1, [POLICY; 2], 300_000);
    world.run(at(1_000), [Some(5 * MS), None]);
    // The idle end beats every 10 ms; the busy one only answers.
    let [busy, idle] = &world.ends;
    assert!((95..=101).contains(&idle.beats), "{}", idle.beats);
    assert!(busy.beats <= idle.beats, "{} answers to {}", busy.beats, idle.beats);
    assert!((busy.dead_at, idle.dead_at) == (None, None));
    assert!(busy.exchanges >= 90, "{}", busy.exchanges);
    assert!(idle.exchanges >= 90, "{}", idle.exchanges);
    let mut world = World::new(2, [POLICY; 2], 300_000);
    world.run(at(1_000), [Some(5 * MS), Some(3 * MS)]);
    assert_eq!(world.ends.each_ref().map(|end| end.beats), [0, 0], "any byte counts");
}

#[test]
fn cut_way_is_known_at_both_ends_in_time() {
    for seed in 0..crate::seeds(300) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut policy = || HeartbeatPolicy {
            interval_us: rng.u32(1_000..20_000),
            misses: rng.u32(2..5),
            ..POLICY
        };
        let policies = [policy(), policy()];
        let mut world = World::new(seed, policies, 200_000);
        let cut = Nanos(at(200).0 + rng.u64(..100 * MS));
        world.schedule(cut, Due::Cut);
        // A half-open way: both still send, and hear nothing.
        let traffic = [0, 1].map(|_| rng.bool().then(|| rng.u64(MS..20 * MS)));
        world.run(at(1_000), traffic);
        for (end, policy) in world.ends.iter().zip(policies) {
            let limit = u64::from(policy.interval_us) * 1_000 * u64::from(policy.misses);
            let dead_at = end.dead_at.expect("known");
            assert!(dead_at > cut, "seed {seed}: alive until the cut");
            assert!(dead_at.0 <= cut.0 + limit, "seed {seed}: {:?}", dead_at.since(cut));
        }
    }
}

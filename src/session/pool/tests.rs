//! The rules of a pool in virtual time: each by itself, and all of them under seeded chance.

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const START: Nanos = Nanos(1_000_000_000);
const GROW_BYTES: usize = 1_000;

fn policy(members_min: usize, members_max: usize, addresses: usize) -> PoolPolicy {
    PoolPolicy {
        members_min,
        members_max,
        grow_bytes: GROW_BYTES,
        idle_after: SECOND,
        addresses,
        first_address: 0,
        backoff: BackoffPolicy::default(),
    }
}

/// What a pool wants dialled at `now`, all of it.
fn dials(members: &mut Members, now: Nanos) -> Vec<(usize, usize)> {
    std::iter::from_fn(|| members.poll(now))
        .map(|todo| match todo {
            Todo::Dial { slot, address } => (slot, address),
            Todo::Look { slot } => panic!("slot {slot} is not to be looked at"),
        })
        .collect()
}

/// A pool whose base is up.
fn ready(members_min: usize, members_max: usize, addresses: usize) -> Members {
    let mut members = Members::new(policy(members_min, members_max, addresses), START);
    assert!(!members.is_ready());
    for (slot, _) in dials(&mut members, START) {
        members.handle(slot, Happened::Connected, START, 0);
    }
    assert!(members.is_ready());
    members
}

fn up(lane_bytes: usize) -> Seen {
    Seen::Up { lane_bytes }
}

fn choose(members: &mut Members, lanes: &[usize]) -> Option<usize> {
    members.choose(false, Slots::default(), |slot| up(lanes[slot])).map(|chosen| chosen.slot)
}

#[test]
fn base_is_dialled_at_once_and_spread_over_the_addresses() {
    let mut members = Members::new(policy(4, 8, 3), START);
    assert_eq!(members.deadline(), START);
    assert_eq!(dials(&mut members, START), [(0, 0), (1, 1), (2, 2), (3, 0)]);
    assert_eq!(members.deadline(), Nanos::NEVER);
    assert_eq!(members.standing(), Standing { dialling: 4, ..Standing::default() });
    assert_eq!(members.tally().dials, 4);
}

#[test]
fn pools_of_several_reactors_begin_at_different_addresses() {
    let first = |first_address| {
        let policy = PoolPolicy { first_address, ..policy(2, 2, 3) };
        dials(&mut Members::new(policy, START), START)
    };
    assert_eq!(first(1), [(0, 1), (1, 2)]);
    assert_eq!(first(5), [(0, 2), (1, 0)]);
}

#[test]
fn failed_dial_is_tried_elsewhere_and_ever_later() {
    let mut members = Members::new(policy(1, 1, 2), START);
    let mut now = START;
    let mut addresses = Vec::new();
    let mut delays = Vec::new();
    for _ in 0..8 {
        let [(slot, address)] = dials(&mut members, now)[..] else { panic!("one dial") };
        addresses.push(address);
        members.handle(slot, Happened::Ended, now, u64::MAX);
        assert_eq!(members.poll(now), None, "never at once again");
        let next = members.deadline();
        delays.push(next.since(now));
        now = next;
    }
    assert_eq!(addresses, [0, 1, 0, 1, 0, 1, 0, 1]);
    assert!(delays.is_sorted(), "{delays:?}");
    assert_eq!(delays[7], BackoffPolicy::default().cap);
    assert_eq!((members.tally().dials, members.tally().dials_failed), (8, 8));
    // It never gives up.
    now = now + Duration::from_secs(86_400);
    assert_eq!(dials(&mut members, now).len(), 1);
}

#[test]
fn lost_session_is_replaced_at_once_at_another_address() {
    let mut members = ready(2, 2, 2);
    let later = START + 10 * SECOND;
    members.handle(0, Happened::LinkLost, later, 0);
    assert!(!members.is_ready());
    members.handle(0, Happened::Ended, later, 0);
    assert_eq!(dials(&mut members, later), [(0, 1)]);
    members.handle(0, Happened::Connected, later, 0);
    assert!(members.is_ready());
    let Tally { lost, replaced, grown, .. } = members.tally();
    assert_eq!((lost, replaced, grown), (1, 1, 0));
    // Then the other address is the emptier one.
    members.handle(1, Happened::Ended, later, 0);
    assert_eq!(dials(&mut members, later), [(1, 0)]);
}

#[test]
fn only_address_is_tried_again() {
    let mut members = ready(1, 1, 1);
    members.handle(0, Happened::Ended, START + 10 * SECOND, 0);
    assert_eq!(dials(&mut members, START + 10 * SECOND), [(0, 0)]);
}

#[test]
fn peer_that_accepts_and_dies_is_not_hammered() {
    let mut members = ready(1, 1, 1);
    let mut now = START;
    for _ in 0..10 {
        members.handle(0, Happened::Ended, now, u64::MAX);
        assert_eq!(members.poll(now), None, "it has not held");
        now = members.deadline();
        assert_eq!(dials(&mut members, now).len(), 1);
        members.handle(0, Happened::Connected, now, 0);
    }
    assert!(now.since(START) > 2 * SECOND, "{:?}", now.since(START));
}

#[test]
fn session_that_begins_anew_counts_as_replaced() {
    let mut members = ready(1, 1, 1);
    members.handle(0, Happened::LinkLost, START, 0);
    members.handle(0, Happened::Connected, START, 0);
    assert_eq!((members.tally().lost, members.tally().replaced), (1, 1));
    members.handle(0, Happened::LinkLost, START, 0);
    members.handle(0, Happened::Resumed, START, 0);
    assert!(members.is_ready());
    assert_eq!((members.tally().lost, members.tally().replaced), (1, 1));
}

#[test]
fn least_queued_member_is_chosen_and_equal_ones_in_turn() {
    let mut members = ready(3, 3, 1);
    assert_eq!(choose(&mut members, &[5, 3, 4]), Some(1));
    assert_eq!(choose(&mut members, &[1, 5, 1]), Some(2));
    assert_eq!(choose(&mut members, &[1, 5, 1]), Some(0));
    let turns: Vec<_> = (0..6).map(|_| choose(&mut members, &[0, 0, 0])).collect();
    assert_eq!(turns, [1, 2, 0, 1, 2, 0].map(Some));
    let turns: Vec<_> = (0..6).map(|_| choose(&mut members, &[7, 7, 7])).collect();
    assert_eq!(turns, [1, 2, 0, 1, 2, 0].map(Some));
}

#[test]
fn member_that_refused_or_is_gone_is_passed_over() {
    let mut members = ready(3, 3, 1);
    let mut tried = Slots::default();
    let look = |slot| if slot == 1 { Seen::Gone } else { up(slot) };
    assert_eq!(members.choose(false, tried, look).map(|chosen| chosen.slot), Some(0));
    tried.insert(0);
    assert_eq!(members.choose(false, tried, look).map(|chosen| chosen.slot), Some(2));
    tried.insert(2);
    assert_eq!(members.choose(false, tried, look), None);
}

#[test]
fn reliable_message_waits_with_one_that_is_away_when_nobody_is_up() {
    let mut members = ready(3, 3, 1);
    members.handle(0, Happened::LinkLost, START, 0);
    members.handle(1, Happened::LinkLost, START, 0);
    let away = |slot: usize| Seen::Away { lane_bytes: 10 - slot };
    let look = |slot| if slot == 2 { up(99) } else { away(slot) };
    let none = Slots::default();
    assert_eq!(members.choose(true, none, look).map(|chosen| chosen.slot), Some(2));
    // It is away, and has not said so.
    assert_eq!(members.choose(true, none, away).map(|chosen| chosen.slot), Some(2));
    assert_eq!(members.choose(false, none, away), None);
    members.handle(2, Happened::Ended, START, u64::MAX);
    assert_eq!(members.choose(true, none, away).map(|chosen| chosen.slot), Some(1));
    assert_eq!(members.choose(false, none, away), None);
}

#[test]
fn member_with_a_link_for_this_lane_is_chosen_though_another_is_away() {
    let mut members = ready(2, 2, 1);
    members.handle(0, Happened::LinkLost, START, 0);
    members.handle(1, Happened::Ended, START, u64::MAX);
    let chosen = members.choose(false, Slots::default(), |_| up(3));
    assert_eq!(chosen, Some(Chosen { slot: 0, is_loaded: false }));
    assert!(members.has_session(0) && !members.has_session(1));
}

#[test]
fn loaded_pool_grows_by_one_at_a_time_and_to_its_bound() {
    let mut members = ready(1, 3, 1);
    let none = Slots::default();
    let choose = |members: &mut Members, bytes| {
        members.choose(false, none, |_| up(bytes)).expect("somebody is up")
    };
    assert!(!choose(&mut members, GROW_BYTES - 1).is_loaded);
    for (slot, grown) in [(1, 1), (2, 2)] {
        assert!(choose(&mut members, GROW_BYTES).is_loaded);
        members.grow(START, 0);
        assert!(!choose(&mut members, GROW_BYTES).is_loaded, "one is on its way");
        members.grow(START, 0);
        assert_eq!(dials(&mut members, START), [(slot, 0)]);
        assert!(!choose(&mut members, GROW_BYTES).is_loaded, "one is on its way");
        members.handle(slot, Happened::Connected, START, 0);
        assert_eq!(members.tally().grown, grown);
    }
    assert!(!choose(&mut members, GROW_BYTES).is_loaded, "there is no room");
    members.grow(START, 0);
    assert_eq!(members.standing().up, 3);
    assert_eq!(members.tally().replaced, 0);
    let mut fixed = ready(2, 2, 1);
    assert!(!choose(&mut fixed, GROW_BYTES).is_loaded, "it has no room to begin with");
}

#[test]
fn one_loaded_member_is_no_reason_to_grow() {
    let mut members = ready(2, 3, 1);
    let look = |slot| up(if slot == 0 { 10 * GROW_BYTES } else { 0 });
    let chosen = members.choose(false, Slots::default(), look).expect("up");
    assert_eq!(chosen, Chosen { slot: 1, is_loaded: false });
}

#[test]
fn growth_that_fails_is_tried_later_and_only_while_it_is_wanted() {
    let mut members = ready(1, 2, 1);
    members.grow(START, 0);
    assert_eq!(dials(&mut members, START), [(1, 0)]);
    members.handle(1, Happened::Ended, START, u64::MAX);
    assert_eq!(members.deadline(), Nanos::NEVER, "nobody asks for it");
    members.grow(START, u64::MAX);
    assert!(members.deadline() > START, "not at once again");
    assert_eq!(members.poll(START), None);
}

#[test]
fn stranded_pool_grows_where_there_is_another_address() {
    for (addresses, is_stranded) in [(1, false), (2, true)] {
        let mut members = ready(1, 2, addresses);
        assert!(!members.is_stranded());
        members.handle(0, Happened::LinkLost, START, 0);
        assert_eq!(members.is_stranded(), is_stranded);
    }
    let mut members = ready(2, 3, 2);
    members.handle(0, Happened::LinkLost, START, 0);
    assert!(!members.is_stranded(), "one is up");
    members.handle(1, Happened::LinkLost, START, 0);
    members.grow(START, 0);
    assert!(!members.is_stranded(), "one is on its way");
}

#[test]
fn new_member_goes_where_the_fewest_are_also_of_those_away() {
    let mut members = ready(1, 3, 2);
    members.handle(0, Happened::LinkLost, START, 0);
    members.grow(START, 0);
    assert_eq!(dials(&mut members, START), [(1, 1)]);
    members.handle(1, Happened::Connected, START, 0);
    members.handle(0, Happened::Ended, START, 0);
    members.grow(START, 0);
    assert_eq!(dials(&mut members, START), [(2, 0)]);
}

/// The pool with a member beyond its base, which carries nothing from `START` on.
fn grown() -> Members {
    let mut members = ready(1, 2, 1);
    members.grow(START, 0);
    assert_eq!(dials(&mut members, START), [(1, 0)]);
    members.handle(1, Happened::Connected, START, 0);
    members
}

/// Looks at the extra member whenever the pool asks, and says what `carries`; until it is drained,
/// or `until`.
fn look_until(
    members: &mut Members,
    until: Nanos,
    carries: impl Fn(Nanos) -> Carried,
) -> Option<Nanos> {
    loop {
        let now = members.deadline();
        assert_ne!(now, Nanos::NEVER, "it is looked after");
        if now > until {
            return None;
        }
        assert_eq!(members.poll(now), Some(Todo::Look { slot: 1 }));
        if members.looked(1, carries(now), now) {
            return Some(now);
        }
        assert!(members.deadline() > now, "time goes on");
    }
}

#[test]
fn idle_member_beyond_the_base_is_reaped() {
    let mut members = grown();
    let carries = |_| Carried { messages: 0, is_quiet: true };
    let drained = look_until(&mut members, START + 10 * SECOND, carries).expect("it is idle");
    assert_eq!(drained, START + SECOND);
    assert_eq!(members.standing(), Standing { up: 1, draining: 1, ..Standing::default() });
    assert_eq!(choose(&mut members, &[5, 0]), Some(0), "it is not chosen any more");
    members.handle(1, Happened::Ended, drained, 0);
    assert_eq!(members.tally().reaped, 1);
    assert_eq!((members.tally().lost, members.deadline()), (0, Nanos::NEVER));
    // And load brings it back, as a grown one.
    members.grow(drained, 0);
    assert_eq!(dials(&mut members, drained), [(1, 0)]);
    members.handle(1, Happened::Connected, drained, 0);
    assert_eq!((members.tally().grown, members.tally().replaced), (2, 0));
}

#[test]
fn member_is_not_idle_for_a_while_after_its_last_message() {
    let mut members = grown();
    // A message every half a second, until 5 s.
    let carries = |now: Nanos| {
        let elapsed = now.since(START).min(5 * SECOND);
        let messages = u64::try_from(elapsed.as_millis() / 500).expect("small");
        Carried { messages, is_quiet: true }
    };
    let drained = look_until(&mut members, START + 10 * SECOND, carries).expect("at last");
    let idle = drained.since(START + 5 * SECOND);
    assert!(idle >= SECOND && idle <= SECOND + SECOND / 4, "{idle:?}");
}

#[test]
fn member_that_owes_something_is_not_reaped() {
    let mut members = grown();
    let carries = |_| Carried { messages: 0, is_quiet: false };
    assert_eq!(look_until(&mut members, START + 60 * SECOND, carries), None);
}

#[test]
fn messages_without_a_key_leave_extra_members_idle_while_the_base_is() {
    let mut members = ready(2, 4, 1);
    for slot in [2, 3] {
        members.grow(START, 0);
        assert_eq!(dials(&mut members, START).len(), 1);
        members.handle(slot, Happened::Connected, START, 0);
    }
    let chosen: Vec<_> = (0..4).map(|_| choose(&mut members, &[0; 4])).collect();
    assert_eq!(chosen, [0, 1, 0, 1].map(Some));
    let chosen: Vec<_> = (0..4).map(|_| choose(&mut members, &[9, 9, 0, 0])).collect();
    assert_eq!(chosen, [2, 3, 2, 3].map(Some));
}

#[test]
fn key_keeps_its_slot_and_keys_spread() {
    let mut members = Members::new(policy(5, 9, 1), START);
    let keys = if cfg!(miri) { 200 } else { 10_000 };
    let slots: Vec<_> = (0..keys).map(|key| members.slot_of(key)).collect();
    for slot in 0..5 {
        let count = slots.iter().filter(|&&of_key| of_key == slot).count();
        let is_fair = (1_800..2_200).contains(&count) || cfg!(miri);
        assert!(is_fair, "slot {slot}: {count} of {keys} keys");
    }
    for (slot, _) in dials(&mut members, START) {
        members.handle(slot, Happened::Connected, START, 0);
    }
    members.grow(START, 0);
    members.handle(2, Happened::Ended, START, 0);
    members.handle(3, Happened::LinkLost, START, 0);
    for (key, &slot) in slots.iter().enumerate() {
        assert_eq!(members.slot_of(key as u64), slot, "key {key}");
    }
    // With one place more, only those move that go there.
    for (key, &slot) in slots.iter().enumerate() {
        let with_another = rendezvous(key as u64, 6);
        assert!(with_another == slot || with_another == 5, "key {key}");
    }
}

#[test]
fn closed_pool_dials_nobody_and_is_over_when_all_have_gone() {
    let mut members = Members::new(policy(4, 5, 1), START);
    for (slot, _) in dials(&mut members, START) {
        match slot {
            0 => members.handle(slot, Happened::Connected, START, 0),
            1 => members.handle(slot, Happened::Ended, START, u64::MAX),
            2 => {
                members.handle(slot, Happened::Connected, START, 0);
                members.handle(slot, Happened::LinkLost, START, 0);
            }
            _ => {}
        }
    }
    let mut drained = Vec::new();
    members.close(|slot| drained.push(slot));
    assert_eq!(drained, [0, 2, 3]);
    assert_eq!((members.poll(START + 60 * SECOND), members.deadline()), (None, Nanos::NEVER));
    assert_eq!(choose(&mut members, &[0; 5]), None);
    members.grow(START, 0);
    for slot in drained {
        assert!(!members.is_over());
        members.handle(slot, Happened::Ended, START, 0);
    }
    assert!(members.is_over());
    assert_eq!(members.poll(START + 60 * SECOND), None);
    assert_eq!(members.tally().reaped, 0);
}

/// A pool and sessions that do as they like, from a seed.
struct World {
    members: Members,
    random: fastrand::Rng,
    now: Nanos,
    /// Bytes in the lane of each slot.
    lanes: Vec<usize>,
    carried: Vec<u64>,
    slots_of_keys: Vec<usize>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let members_max = random.usize(1..=SLOTS_MAX);
        let members_min = random.usize(1..=members_max);
        let policy = policy(members_min, members_max, random.usize(1..=4));
        let members = Members::new(policy, START);
        let slots_of_keys = (0..16).map(|key| members.slot_of(key)).collect();
        let (lanes, carried) = (vec![0; members_max], vec![0; members_max]);
        Self { members, random, now: START, lanes, carried, slots_of_keys }
    }

    fn tend(&mut self) {
        let mut turns = 0;
        while let Some(todo) = self.members.poll(self.now) {
            turns += 1;
            assert!(turns <= 4 * SLOTS_MAX, "it comes to an end");
            match todo {
                Todo::Dial { slot, address } => {
                    assert!(address < self.members.policy.addresses);
                    if self.random.u8(..) < 30 {
                        let random = self.random.u64(..);
                        self.members.handle(slot, Happened::Ended, self.now, random);
                    }
                }
                Todo::Look { slot } => {
                    let is_quiet = self.lanes[slot] == 0;
                    let carried = Carried { messages: self.carried[slot], is_quiet };
                    let is_drained = self.members.looked(slot, carried, self.now);
                    assert!(!is_drained || is_quiet, "what has something to say is left alone");
                }
            }
        }
        assert!(self.members.deadline() > self.now, "all that was due is done");
    }

    /// Something that may happen to a session that stands there.
    fn fate(&mut self, slot: usize) {
        let happened = match (self.members.stand(slot), self.random.u8(..4)) {
            (Stand::Vacant | Stand::Waiting { .. }, _) => return,
            (Stand::Dialling, 0..3) => Happened::Connected,
            (Stand::Up, 0..2) => Happened::LinkLost,
            (Stand::Away, 0..2) => Happened::Resumed,
            (Stand::Away, 2) => Happened::Connected,
            _ => Happened::Ended,
        };
        self.lanes[slot] = 0;
        self.carried[slot] = 0;
        self.members.handle(slot, happened, self.now, self.random.u64(..));
    }

    fn send(&mut self) {
        let lanes = self.lanes.clone();
        let ups = |members: &Members| {
            (0..lanes.len()).filter(|&slot| members.stand(slot) == Stand::Up).collect::<Vec<_>>()
        };
        let ups = ups(&self.members);
        let seen: Vec<_> = (0..lanes.len())
            .map(|slot| if ups.contains(&slot) { up(lanes[slot]) } else { Seen::Gone })
            .collect();
        let chosen = self.members.choose(false, Slots::default(), |slot| seen[slot]);
        let Some(Chosen { slot, is_loaded }) = chosen else {
            assert!(ups.is_empty(), "somebody is up");
            return;
        };
        let least = ups.iter().map(|&slot| lanes[slot]).min();
        assert!(ups.contains(&slot));
        assert_eq!(Some(lanes[slot]), least);
        self.lanes[slot] += self.random.usize(1..GROW_BYTES);
        self.carried[slot] += 1;
        if is_loaded {
            assert!(lanes[slot] >= GROW_BYTES);
            self.members.grow(self.now, self.random.u64(..));
        }
    }

    fn step(&mut self) {
        match self.random.u8(..100) {
            0..40 => self.send(),
            40..55 => {
                let slot = self.random.usize(..self.lanes.len());
                self.fate(slot);
            }
            55..75 => self.lanes.iter_mut().for_each(|lane| *lane = 0),
            _ => self.now = self.now + self.random.u32(..400) * MS,
        }
        self.tend();
        self.check();
    }

    fn check(&self) {
        let Self { members, .. } = self;
        let PoolPolicy { members_min, .. } = members.policy;
        let is_coming = |slot: &Slot| matches!(slot.stand, Stand::Waiting { .. } | Stand::Dialling);
        let (base, others) = members.slots.split_at(members_min);
        assert!(others.iter().filter(|slot| is_coming(slot)).count() <= 1, "one at a time");
        let is_wanted = |slot: &Slot| !matches!(slot.stand, Stand::Vacant | Stand::Draining);
        assert!(base.iter().all(is_wanted), "the base is kept");
        for (slot, place) in members.slots.iter().enumerate() {
            assert_eq!(members.up.contains(slot), place.stand == Stand::Up);
            assert_eq!(members.away.contains(slot), place.stand == Stand::Away);
        }
        for (key, &slot) in self.slots_of_keys.iter().enumerate() {
            assert_eq!(members.slot_of(key as u64), slot, "key {key} has moved");
        }
        let (tally, standing) = (members.tally(), members.standing());
        assert!(tally.dials >= tally.dials_failed + u64::from(standing.dialling));
        let all = standing.up + standing.away + standing.dialling;
        let all = all + standing.waiting + standing.draining;
        assert!(all as usize <= members.slots.len());
    }

    fn end(&mut self) {
        let mut left = Vec::new();
        self.members.close(|slot| left.push(slot));
        for slot in left {
            assert!(!self.members.is_over());
            self.members.handle(slot, Happened::Ended, self.now, 0);
        }
        assert!(self.members.is_over());
        let Tally { lost, replaced, .. } = self.members.tally();
        assert!(replaced <= lost, "{replaced} sessions for {lost} that were lost");
    }
}

#[test]
fn rules_hold_whatever_happens() {
    for seed in 0..crate::seeds(300) {
        let run = || {
            let mut world = World::new(seed);
            world.tend();
            for _ in 0..if cfg!(miri) { 100 } else { 500 } {
                world.step();
            }
            world.end();
        };
        let outcome = std::panic::catch_unwind(run);
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

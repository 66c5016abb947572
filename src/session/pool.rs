//! Which sessions a pool has with a service, when it dials and parts with them, and which of them
//! takes the next message. Sans-IO: what happens to the sessions and `now` come in, what to do and
//! the choice come out.
//!
//! A pool has *slots*, numbered from 0. A slot has one session at a time, its *member*; the first
//! `members_min` slots, the *base*, always want one, the others while there is load.
//!
//! ```text
//!            wanted            time                connected               link lost
//!   Vacant ─────────▶ Waiting ──────▶ Dialling ──────────────▶ Up ◀─────────────────────▶ Away
//!     ▲                  ▲  failed, lost │                     │ │  resumed, or begun anew  │
//!     │                  └────(base)─────┴─────────────────────┼─┴──────────────────────────┘
//!     │                       (others: Vacant)                 │
//!     └────────── session over ─────────── Draining ◀── idle ──┘
//! ```
//!
//! # Choosing
//!
//! *Least queued*: of the members that are up the one whose lane holds the fewest bytes; equal ones
//! in turn, those of the base first, so that the others can become idle. With nobody up, a reliable
//! message goes to a session whose link is away, which keeps it.
//!
//! *By key*: to the slot of the base with the highest weight for that key (rendezvous hashing), so
//! a key has one slot for the life of the pool, whatever grows, shrinks, comes and goes; with
//! another `members_min` only the keys move that must. A slot hands over in order, and what it can
//! not take is refused: that is how the order of a key is kept.
//!
//! # Growing and shrinking
//!
//! When the least queued member holds `grow_bytes` already, one more slot is dialled, never two at
//! once. Likewise when nobody is up, the links are away, and there is another address to try. A
//! slot beyond the base that carries nothing for `idle_after` is drained.
//!
//! # Dialling
//!
//! Each slot has a [`Backoff`] of its own and never gives up. It goes where the fewest members are,
//! and not where its last attempt failed or its last session was lost, if there is another address.
//!
//! Invariants: a slot beyond the base waits or dials alone; nothing dials after [`Members::close`].
//! Allocates in [`Members::new`] only; a choice among 8 costs what looking at 8 lanes costs, and
//! ends at the first one that is empty. Not for: whether a session comes back, which is its own
//! business ([`crate::session::backoff`]), and what is known of it while it lives.

use std::time::Duration;

use crate::session::backoff::{Backoff, BackoffPolicy, Next};
use crate::time::Nanos;

#[cfg(test)]
mod tests;

/// Slots are the bits of a [`Slots`].
const SLOTS_MAX: usize = 64;
const _: () = assert!(crate::config::pool::POOL_MEMBERS_MAX as usize == SLOTS_MAX);

/// What a pool is to be. Made from a valid `PoolConfig`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolPolicy {
    /// Slots that always want a member. At least 1.
    pub(crate) members_min: usize,
    /// All slots. At least `members_min`.
    pub(crate) members_max: usize,
    /// A lane that holds this much is loaded.
    pub(crate) grow_bytes: usize,
    /// How long a member beyond the base may carry nothing.
    pub(crate) idle_after: Duration,
    /// How many addresses the service has. At least 1.
    pub(crate) addresses: usize,
    /// Where the first slot begins: so that the pools of several reactors spread.
    pub(crate) first_address: usize,
    /// How a slot comes by its next session. Never gives up.
    pub(crate) backoff: BackoffPolicy,
}

/// A set of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Slots(u64);

impl Slots {
    #[inline]
    pub(crate) fn contains(self, slot: usize) -> bool {
        self.0 >> slot & 1 != 0
    }

    #[inline]
    pub(crate) fn insert(&mut self, slot: usize) {
        self.0 |= 1 << slot;
    }

    fn remove(&mut self, slot: usize) {
        self.0 &= !(1 << slot);
    }

    #[inline]
    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// From slot `first` on, and around.
    #[inline]
    fn starting_at(self, first: usize) -> impl Iterator<Item = usize> {
        let mut rest = self.0.rotate_right(u32::try_from(first).expect("below 64"));
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let next = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            Some((first + next) % SLOTS_MAX)
        })
    }
}

/// Where a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Has no session and wants none.
    Vacant,
    /// Is to be dialled.
    Waiting {
        /// When.
        at: Nanos,
    },
    /// Its connection or handshake is under way.
    Dialling,
    /// Messages flow.
    Up,
    /// Its link was lost; the session sees to another.
    Away,
    /// No longer wanted: flushes, and ends.
    Draining,
}

/// What happened to the session of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    /// Its handshake is complete. Of one that was away: the peer has lost it, and it begins anew.
    Connected,
    /// Its link is gone, the session is not.
    LinkLost,
    /// It has another link.
    Resumed,
    /// It is over, or the attempt to connect has failed.
    Ended,
}

/// What a slot's session looks like at the moment of choosing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Messages flow; the lane in question holds so much.
    Up { lane_bytes: usize },
    /// It has no link: what is reliable is kept.
    Away { lane_bytes: usize },
    /// Over, or not yet established.
    Gone,
}

/// What a slot's session has carried so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Messages, both ways.
    pub(crate) messages: u64,
    /// Nothing is queued or unconfirmed, and no answer is owed to us.
    pub(crate) is_quiet: bool,
}

/// What the owner is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Todo {
    /// Connect the slot to the address with this number. A failure to even begin is
    /// [`Happened::Ended`].
    Dial { slot: usize, address: usize },
    /// Tell [`Members::looked`] what the slot's session has carried.
    Look { slot: usize },
}

/// The member that takes the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) slot: usize,
    /// The pool should grow: [`Members::grow`].
    pub(crate) is_loaded: bool,
}

/// What has happened in a pool so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Attempts to connect.
    pub(crate) dials: u64,
    /// Of those, the ones that failed.
    pub(crate) dials_failed: u64,
    /// Members that load has brought.
    pub(crate) grown: u64,
    /// Members that were parted with because they were idle.
    pub(crate) reaped: u64,
    /// Sessions that were lost for good.
    pub(crate) lost: u64,
    /// Sessions that took the place of one that was lost.
    pub(crate) replaced: u64,
}

/// How many slots stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    pub(crate) up: u32,
    pub(crate) away: u32,
    pub(crate) dialling: u32,
    pub(crate) waiting: u32,
    pub(crate) draining: u32,
}

#[derive(Debug)]
struct Slot {
    stand: Stand,
    backoff: Backoff,
    /// Where its session is, or the last one was.
    address: Option<usize>,
    /// Its last attempt there failed, or its last session was lost.
    has_failed: bool,
    /// It has had a session since it was last vacant, and lost it.
    is_replacing: bool,
    /// When it was last seen to carry something. Beyond the base.
    busy_at: Nanos,
    /// When to look again. Beyond the base.
    look_at: Nanos,
    /// What it had carried then.
    carried: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Members {
    policy: PoolPolicy,
    slots: Vec<Slot>,
    up: Slots,
    away: Slots,
    /// Where the next choice among equals begins.
    cursor: usize,
    /// No slot beyond the base is vacant, or one of them is on its way.
    is_growing_or_full: bool,
    is_closing: bool,
    tally: Tally,
}

impl Members {
    /// Every slot of the base is to be dialled at once.
    pub(crate) fn new(policy: PoolPolicy, now: Nanos) -> Self {
        assert!(policy.members_min >= 1, "a pool has a member");
        assert!(policy.members_max >= policy.members_min, "the base is a part of the slots");
        assert!(policy.members_max <= SLOTS_MAX, "slots are bits");
        assert!(policy.addresses >= 1, "a service has an address");
        let slot = |_| Slot {
            stand: Stand::Vacant,
            backoff: Backoff::new(policy.backoff),
            address: None,
            has_failed: false,
            is_replacing: false,
            busy_at: now,
            look_at: Nanos::NEVER,
            carried: 0,
        };
        let mut members = Self {
            policy,
            slots: (0..policy.members_max).map(slot).collect(),
            up: Slots::default(),
            away: Slots::default(),
            cursor: 0,
            is_growing_or_full: policy.members_min == policy.members_max,
            is_closing: false,
            tally: Tally::default(),
        };
        for slot in 0..policy.members_min {
            // A first attempt is at once, whatever chance says.
            members.want(slot, now, 0);
        }
        members
    }

    /// Something has happened to the session of `slot`. All transitions but those of time are here.
    ///
    /// `random` is uniform over all of `u64`.
    pub(crate) fn handle(&mut self, slot: usize, happened: Happened, now: Nanos, random: u64) {
        let stand = match (self.slots[slot].stand, happened) {
            (Stand::Dialling, Happened::Connected) => {
                self.connected(slot, now);
                Stand::Up
            }
            (Stand::Away | Stand::Up, Happened::Connected) => {
                self.tally.lost += 1;
                self.tally.replaced += 1;
                Stand::Up
            }
            (Stand::Away | Stand::Up, Happened::Resumed) => Stand::Up,
            (Stand::Up | Stand::Away, Happened::LinkLost) => Stand::Away,
            (Stand::Draining, Happened::Ended) => {
                self.tally.reaped += u64::from(!self.is_closing);
                self.slots[slot].backoff.lost(now);
                self.slots[slot].is_replacing = false;
                Stand::Vacant
            }
            // On its way out, whatever happens on the way.
            (Stand::Draining, _) => Stand::Draining,
            (Stand::Dialling, Happened::Ended) => {
                self.tally.dials_failed += 1;
                return self.failed(slot, now, random);
            }
            (Stand::Up | Stand::Away, Happened::Ended) => {
                self.tally.lost += 1;
                self.slots[slot].is_replacing = true;
                self.slots[slot].backoff.lost(now);
                return self.failed(slot, now, random);
            }
            (stand, happened) => unreachable!("{happened:?} of a slot that is {stand:?}"),
        };
        self.set(slot, stand);
    }

    fn connected(&mut self, slot: usize, now: Nanos) {
        let is_base = self.is_base(slot);
        let look_at = now + self.look_every();
        let place = &mut self.slots[slot];
        place.backoff.established(now);
        place.has_failed = false;
        place.busy_at = now;
        place.carried = 0;
        if place.is_replacing {
            place.is_replacing = false;
            self.tally.replaced += 1;
        } else if !is_base {
            self.tally.grown += 1;
        }
        place.look_at = if is_base { Nanos::NEVER } else { look_at };
    }

    /// The slot is without a session, which it did not want.
    fn failed(&mut self, slot: usize, now: Nanos, random: u64) {
        self.slots[slot].has_failed = true;
        self.set(slot, Stand::Vacant);
        if self.is_base(slot) {
            self.want(slot, now, random);
        }
    }

    /// The slot is to be dialled when its backoff says so.
    fn want(&mut self, slot: usize, now: Nanos, random: u64) {
        assert_eq!(self.slots[slot].stand, Stand::Vacant, "it has no session");
        if self.is_closing {
            return;
        }
        let at = match self.slots[slot].backoff.next(now, random) {
            Next::Attempt { at, .. } => at,
            Next::GaveUp { .. } => unreachable!("the policy of a pool has no end"),
        };
        self.set(slot, Stand::Waiting { at });
    }

    fn set(&mut self, slot: usize, stand: Stand) {
        self.up.remove(slot);
        self.away.remove(slot);
        match stand {
            Stand::Up => self.up.insert(slot),
            Stand::Away => self.away.insert(slot),
            _ => {}
        }
        self.slots[slot].stand = stand;
        if !self.is_base(slot) {
            let others = &self.slots[self.policy.members_min..];
            let is_coming =
                |slot: &Slot| matches!(slot.stand, Stand::Waiting { .. } | Stand::Dialling);
            self.is_growing_or_full = others.iter().any(is_coming)
                || others.iter().all(|slot| slot.stand != Stand::Vacant);
        }
    }

    fn is_base(&self, slot: usize) -> bool {
        slot < self.policy.members_min
    }

    fn look_every(&self) -> Duration {
        (self.policy.idle_after / 4).max(Duration::from_millis(1))
    }

    /// What is to be done at `now`, one thing after the other.
    pub(crate) fn poll(&mut self, now: Nanos) -> Option<Todo> {
        if self.is_closing {
            return None;
        }
        for slot in 0..self.slots.len() {
            match self.slots[slot].stand {
                Stand::Waiting { at } if at <= now => {
                    let address = self.address_for(slot);
                    self.slots[slot].address = Some(address);
                    self.tally.dials += 1;
                    self.set(slot, Stand::Dialling);
                    return Some(Todo::Dial { slot, address });
                }
                Stand::Up if !self.is_base(slot) && self.slots[slot].look_at <= now => {
                    self.slots[slot].look_at = now + self.look_every();
                    return Some(Todo::Look { slot });
                }
                _ => {}
            }
        }
        None
    }

    /// The answer to [`Todo::Look`]. Returns whether the session is to be drained: it is no longer
    /// chosen, and [`Happened::Ended`] will tell its end.
    #[must_use]
    pub(crate) fn looked(&mut self, slot: usize, carried: Carried, now: Nanos) -> bool {
        assert!(!self.is_base(slot), "the base is not reaped");
        assert_eq!(self.slots[slot].stand, Stand::Up, "it was asked for");
        let place = &mut self.slots[slot];
        if carried.messages != place.carried || !carried.is_quiet {
            place.carried = carried.messages;
            place.busy_at = now;
            return false;
        }
        let idle_at = place.busy_at + self.policy.idle_after;
        if now < idle_at {
            place.look_at = place.look_at.min(idle_at);
            return false;
        }
        self.set(slot, Stand::Draining);
        true
    }

    /// When [`Members::poll`] has something next.
    pub(crate) fn deadline(&self) -> Nanos {
        if self.is_closing {
            return Nanos::NEVER;
        }
        let due = |(slot, place): (usize, &Slot)| match place.stand {
            Stand::Waiting { at } => at,
            Stand::Up if !self.is_base(slot) => place.look_at,
            _ => Nanos::NEVER,
        };
        self.slots.iter().enumerate().map(due).min().unwrap_or(Nanos::NEVER)
    }

    /// Where the fewest members are, and not where this slot has just failed; of equals the next in
    /// turn.
    fn address_for(&self, slot: usize) -> usize {
        let addresses = self.policy.addresses;
        let own = &self.slots[slot];
        let first = own.address.map_or(slot + self.policy.first_address, |last| last + 1);
        let has_session =
            |place: &Slot| !matches!(place.stand, Stand::Vacant | Stand::Waiting { .. });
        let crowd = |address: usize| {
            let is_there = |place: &&Slot| place.address == Some(address) && has_session(place);
            self.slots.iter().filter(is_there).count()
        };
        (0..addresses)
            .map(|step| (first + step) % addresses)
            .filter(|&address| addresses == 1 || !own.has_failed || own.address != Some(address))
            // The first of equals.
            .min_by_key(|&address| crowd(address))
            .expect("at most one of several is left out")
    }

    /// The member that takes a message without a key: see the module. `look` is asked about slots
    /// that are up or away only, and decides: one may be away and not have said so, or have another
    /// link for this lane. Those in `tried` have refused already.
    ///
    /// Hot path: once per message. No allocation.
    #[inline]
    pub(crate) fn choose(
        &mut self,
        is_reliable: bool,
        tried: Slots,
        look: impl Fn(usize) -> Seen,
    ) -> Option<Chosen> {
        let mut best: Option<(usize, bool, usize)> = None;
        // One whose link is away may have another for this lane.
        for slot in self.present().without(tried).starting_at(self.cursor) {
            let Seen::Up { lane_bytes } = look(slot) else { continue };
            let is_extra = !self.is_base(slot);
            if best.is_none_or(|(bytes, extra, _)| (lane_bytes, is_extra) < (bytes, extra)) {
                best = Some((lane_bytes, is_extra, slot));
                if lane_bytes == 0 && !is_extra {
                    break;
                }
            }
        }
        if let Some((lane_bytes, _, slot)) = best {
            self.cursor = (slot + 1) % SLOTS_MAX;
            let is_loaded = lane_bytes >= self.policy.grow_bytes && !self.is_growing_or_full;
            return Some(Chosen { slot, is_loaded });
        }
        if is_reliable { self.choose_away(tried, look) } else { None }
    }

    /// Slots with a session that stands, with a link or without.
    #[inline]
    fn present(&self) -> Slots {
        Slots(self.up.0 | self.away.0)
    }

    /// Nobody is up: one that will be back keeps it.
    #[cold]
    fn choose_away(&self, tried: Slots, look: impl Fn(usize) -> Seen) -> Option<Chosen> {
        let queued = |slot| match look(slot) {
            Seen::Away { lane_bytes } => Some((lane_bytes, slot)),
            Seen::Up { .. } | Seen::Gone => None,
        };
        let (_, slot) = self
            .present()
            .without(tried)
            .starting_at(self.cursor)
            .filter_map(queued)
            .min_by_key(|&(bytes, _)| bytes)?;
        // Another address may be there: what comes next need not wait as well.
        Some(Chosen { slot, is_loaded: self.is_stranded() })
    }

    /// The slot of a key, whatever it stands at; one of the base.
    ///
    /// Hot path: once per message with a key. A few instructions for each slot of the base.
    #[inline]
    pub(crate) fn slot_of(&self, key: u64) -> usize {
        rendezvous(key, self.policy.members_min)
    }

    /// Whether the pool should grow though nobody is up: the links are away, and the service has
    /// another address.
    pub(crate) fn is_stranded(&self) -> bool {
        self.up.count() == 0
            && self.away.count() > 0
            && self.policy.addresses > 1
            && !self.is_growing_or_full
    }

    /// Load asks for one more member.
    #[cold]
    pub(crate) fn grow(&mut self, now: Nanos, random: u64) {
        if self.is_growing_or_full {
            return;
        }
        let others = self.policy.members_min..self.slots.len();
        let vacant = |slot: &usize| self.slots[*slot].stand == Stand::Vacant;
        if let Some(slot) = others.into_iter().find(vacant) {
            self.slots[slot].is_replacing = false;
            self.want(slot, now, random);
        }
    }

    /// No more members are wanted. What has a session is drained: `drain` is called for each slot
    /// that has one.
    pub(crate) fn close(&mut self, mut drain: impl FnMut(usize)) {
        self.is_closing = true;
        for slot in 0..self.slots.len() {
            match self.slots[slot].stand {
                Stand::Vacant => {}
                Stand::Waiting { .. } => self.set(slot, Stand::Vacant),
                Stand::Dialling | Stand::Up | Stand::Away | Stand::Draining => {
                    self.set(slot, Stand::Draining);
                    drain(slot);
                }
            }
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Whether no slot has a session or wants one.
    pub(crate) fn is_over(&self) -> bool {
        self.is_closing && self.slots.iter().all(|slot| slot.stand == Stand::Vacant)
    }

    /// Whether every slot of the base is up.
    pub(crate) fn is_ready(&self) -> bool {
        (0..self.policy.members_min).all(|slot| self.up.contains(slot))
    }

    /// Whether the session of a slot stands, with a link or without.
    #[inline]
    pub(crate) fn has_session(&self, slot: usize) -> bool {
        self.present().contains(slot)
    }

    pub(crate) fn policy(&self) -> &PoolPolicy {
        &self.policy
    }

    pub(crate) fn stand(&self, slot: usize) -> Stand {
        self.slots[slot].stand
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    pub(crate) fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        for slot in &self.slots {
            match slot.stand {
                Stand::Vacant => {}
                Stand::Waiting { .. } => standing.waiting += 1,
                Stand::Dialling => standing.dialling += 1,
                Stand::Up => standing.up += 1,
                Stand::Away => standing.away += 1,
                Stand::Draining => standing.draining += 1,
            }
        }
        standing
    }
}

/// Which of `places` places a key has: the one with the highest weight for it. With one place more
/// or fewer only the keys move that must.
#[inline]
pub(crate) fn rendezvous(key: u64, places: usize) -> usize {
    let weight = |place: &usize| mix(key ^ mix(*place as u64));
    (0..places).max_by_key(weight).expect("there is a place")
}

/// Spreads 64 bits over 64 bits, each of the input over all of the output (the finalizer of
/// SplitMix64, G. Steele et al., 2014).
#[inline]
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

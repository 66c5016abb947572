//! Deadlines of a fixed set of slots, the earliest first.
//!
//! An indexed binary heap: each slot has at most one deadline, moving or clearing it is
//! O(log n), looking at the earliest is O(1), and nothing is ever allocated after setup. Unlike a
//! timer wheel it is exact to the nanosecond, which a stop command's deadline deserves, and with
//! the few dozen active deadlines of a reactor it costs about as much.

use crate::time::Nanos;

const ABSENT: u32 = u32::MAX;

/// At most one deadline for each of `0..capacity`.
#[derive(Debug)]
pub(crate) struct Deadlines {
    heap: Vec<(Nanos, u32)>,
    /// Where each slot stands in `heap`.
    position: Vec<u32>,
}

impl Deadlines {
    /// Room for one deadline each of `capacity` slots.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        assert!(capacity < ABSENT as usize, "slots are numbered in 32 bits");
        Self { heap: Vec::with_capacity(capacity), position: vec![ABSENT; capacity] }
    }

    /// Sets, moves or (with [`Nanos::NEVER`]) clears the deadline of `slot`.
    #[inline]
    pub(crate) fn set(&mut self, slot: u32, deadline: Nanos) {
        let at = self.position[slot as usize];
        if deadline == Nanos::NEVER {
            if at != ABSENT {
                self.remove(at as usize);
            }
            return;
        }
        if at == ABSENT {
            self.heap.push((deadline, slot));
            let last = self.heap.len() - 1;
            self.position[slot as usize] = index(last);
            self.rise(last);
        } else {
            self.heap[at as usize].0 = deadline;
            let at = self.rise(at as usize);
            self.sink(at);
        }
    }

    /// The earliest deadline, [`Nanos::NEVER`] when there is none.
    #[inline]
    pub(crate) fn earliest(&self) -> Nanos {
        self.heap.first().map_or(Nanos::NEVER, |&(deadline, _)| deadline)
    }

    /// Takes the slot with the earliest deadline if it is due.
    #[inline]
    pub(crate) fn pop_due(&mut self, now: Nanos) -> Option<u32> {
        let &(deadline, slot) = self.heap.first()?;
        if deadline > now {
            return None;
        }
        self.remove(0);
        Some(slot)
    }

    fn remove(&mut self, at: usize) {
        let (_, slot) = self.heap.swap_remove(at);
        self.position[slot as usize] = ABSENT;
        if at < self.heap.len() {
            self.position[self.heap[at].1 as usize] = index(at);
            let at = self.rise(at);
            self.sink(at);
        }
    }

    fn rise(&mut self, mut at: usize) -> usize {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent] <= self.heap[at] {
                break;
            }
            self.exchange(parent, at);
            at = parent;
        }
        at
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let left = 2 * at + 1;
            let Some(&left_entry) = self.heap.get(left) else { return };
            let smaller = match self.heap.get(left + 1) {
                Some(&right_entry) if right_entry < left_entry => left + 1,
                _ => left,
            };
            if self.heap[at] <= self.heap[smaller] {
                return;
            }
            self.exchange(at, smaller);
            at = smaller;
        }
    }

    fn exchange(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.position[self.heap[a].1 as usize] = index(a);
        self.position[self.heap[b].1 as usize] = index(b);
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("capacity is below 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random sets, moves, clears and pops against a plain array.
    #[test]
    fn heap_agrees_with_a_naive_model() {
        for seed in 0..crate::seeds(300) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let slots = rng.usize(1..20);
            let mut model = vec![Nanos::NEVER; slots];
            let mut deadlines = Deadlines::with_capacity(slots);
            for _ in 0..300 {
                let slot = rng.usize(..slots);
                match rng.u8(..4) {
                    0 => {
                        deadlines.set(u32::try_from(slot).expect("small"), Nanos::NEVER);
                        model[slot] = Nanos::NEVER;
                    }
                    1 => {
                        let now = Nanos(rng.u64(..50));
                        let due = deadlines.pop_due(now);
                        let earliest = model.iter().copied().min().expect("not empty");
                        assert_eq!(due.is_some(), earliest <= now, "seed {seed}");
                        if let Some(due) = due {
                            assert_eq!(model[due as usize], earliest, "seed {seed}");
                            model[due as usize] = Nanos::NEVER;
                        }
                    }
                    _ => {
                        let deadline = Nanos(rng.u64(..50));
                        deadlines.set(u32::try_from(slot).expect("small"), deadline);
                        model[slot] = deadline;
                    }
                }
                let earliest = model.iter().copied().min().expect("not empty");
                assert_eq!(deadlines.earliest(), earliest, "seed {seed}");
            }
        }
    }
}

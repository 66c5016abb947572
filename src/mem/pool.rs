//! Buffers lent one at a time, of memory that is all allocated at setup.
//!
//! # Parts
//!
//! - *Small* buffers, of one size and a fixed number: what everybody is sure to get.
//! - *Shared* memory, cut to size when it is asked for: see `mem::arena`. What one size does not
//!   need another has: memory split into a fixed number of buffers per size ran out for thirteen
//!   frames of 1 MB while four fifths of it lay idle.
//! - The *reserve*, an arena apart. Shared memory can be taken to the last byte, or be left in
//!   pieces too short for a frame. In send memory the reserve is for sessions that hold nothing:
//!   who that is is the borrower's business (see `session::lane`). In receive memory it is for
//!   short frames, so that peers that begin long ones and dawdle stop nobody else's.
//!
//! # Invariants
//!
//! - A buffer goes back to the part it is from, and `free + lent` of each part never changes.
//! - Freed buffers are taken again last-in first-out, so a quiet reactor touches the same few
//!   cache lines, and pages that were never needed never become resident.
//!
//! Cost: taking and giving are a pop and a push as long as the sizes asked for do not change.

use bytes::Bytes;

use crate::mem::arena::Arena;
use crate::mem::buffer::Part;
use crate::mem::insert::{Insert, SpareInserts};
use crate::mem::{Buffer, OutOfMemory};

/// What a pool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PoolLayout {
    small_bytes: usize,
    small_count: usize,
    /// Size of the shortest shared buffer: a power of two.
    unit_bytes: usize,
    /// What the longest shared buffer must hold.
    largest_bytes: usize,
    shared_bytes: usize,
    reserve_bytes: usize,
    /// Buffers up to this length are lent from the reserve first.
    short_bytes_max: usize,
}

impl PoolLayout {
    /// `count` buffers of `bytes` and nothing else.
    pub(crate) fn uniform(bytes: usize, count: usize) -> Self {
        Self { small_bytes: bytes, small_count: count, ..Self::default() }
    }

    /// About `budget_bytes` to be cut into buffers of `unit_bytes` (rounded up to a power of two),
    /// twice that, and so on to the first that holds `largest_bytes`, of which there is room for
    /// two at least.
    pub(crate) fn shared(budget_bytes: usize, unit_bytes: usize, largest_bytes: usize) -> Self {
        assert!(unit_bytes > 0, "Config bounds the block size");
        let unit_bytes = unit_bytes.next_power_of_two();
        Self { unit_bytes, largest_bytes, shared_bytes: budget_bytes, ..Self::default() }
    }

    /// Adds `count` small buffers.
    pub(crate) fn with_small(self, bytes: usize, count: usize) -> Self {
        Self { small_bytes: bytes, small_count: count, ..self }
    }

    /// Sets an eighth of the budget aside, and room for one of the largest at least.
    pub(crate) fn with_reserve(self) -> Self {
        let reserve_bytes = self.shared_bytes / 8;
        Self { reserve_bytes, shared_bytes: self.shared_bytes - reserve_bytes, ..self }
    }

    /// Sets half the budget aside for buffers of up to a 64th of that.
    pub(crate) fn with_reserve_for_short(self) -> Self {
        let reserve_bytes = self.shared_bytes / 2;
        let short_bytes_max = (reserve_bytes / 64).max(self.unit_bytes);
        let shared_bytes = self.shared_bytes - reserve_bytes;
        Self { reserve_bytes, short_bytes_max, shared_bytes, ..self }
    }

    fn arena(&self, part: Part) -> Result<Arena, OutOfMemory> {
        let whole = self.largest_bytes.max(self.unit_bytes).next_power_of_two();
        let (budget, count_min) = match part {
            Part::Shared => (self.shared_bytes, 2),
            Part::Reserve => (self.reserve_bytes, 1),
            Part::Small => unreachable!("small buffers are not cut"),
        };
        if budget == 0 {
            return Arena::new(part, 1, 0, 0);
        }
        let order = (whole / self.unit_bytes).trailing_zeros();
        Arena::new(part, self.unit_bytes, order, (budget / whole).max(count_min))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    small: Vec<Buffer>,
    small_bytes: usize,
    small_total: usize,
    shared: Arena,
    reserve: Arena,
    short_bytes_max: usize,
    /// What the longest shared buffer must hold.
    largest_bytes: usize,
    /// Somebody waits for shared memory: nobody else takes any, and what is kept for later goes
    /// back.
    is_wanted: bool,
    inserts: SpareInserts,
}

impl Pool {
    /// Allocates everything the layout asks for.
    pub(crate) fn new(layout: &PoolLayout) -> Result<Self, OutOfMemory> {
        let mut small = Vec::new();
        small.try_reserve_exact(layout.small_count).map_err(|_| OutOfMemory)?;
        small.extend(Buffer::slab(layout.small_bytes, layout.small_count)?);
        Ok(Self {
            small_bytes: small.first().map_or(0, Buffer::len),
            small_total: small.len(),
            small,
            shared: layout.arena(Part::Shared)?,
            reserve: layout.arena(Part::Reserve)?,
            short_bytes_max: layout.short_bytes_max,
            largest_bytes: layout.largest_bytes,
            is_wanted: false,
            inserts: SpareInserts::default(),
        })
    }

    /// Says whether somebody waits for shared memory. Until nobody does, [`Pool::take`] lends none.
    #[inline]
    pub(crate) fn set_wanted(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
    }

    /// Whether half of the shared memory is free, one of the largest buffers in one piece, and
    /// nobody waits for any: who needs a buffer again may keep it.
    ///
    /// So no number of those who keep one and have nothing to say, or wait for a larger one
    /// meanwhile, can hold a piece of each of the largest: when the others, whose time is bounded,
    /// have given theirs back, one is whole.
    #[inline]
    pub(crate) fn has_plenty(&mut self) -> bool {
        !self.is_wanted
            && self.shared.free_bytes() >= self.shared.total_bytes() / 2
            && self.shared.can_lend(self.largest_bytes)
    }

    /// Bytes not lent, small buffers apart.
    #[cfg(test)]
    pub(crate) fn free_bytes(&self) -> usize {
        self.shared.free_bytes() + self.reserve.free_bytes()
    }

    /// All bytes, small buffers apart.
    #[cfg(test)]
    pub(crate) fn total_bytes(&self) -> usize {
        self.shared.total_bytes() + self.reserve.total_bytes()
    }

    /// Bytes of shared memory not lent.
    #[inline]
    pub(crate) fn shared_free_bytes(&self) -> usize {
        self.shared.free_bytes()
    }

    /// Whether [`Pool::take`] would lend a buffer of at least `bytes`, were nobody else waiting.
    pub(crate) fn can_lend(&mut self, bytes: usize) -> bool {
        self.can_lend_apart(bytes) || self.shared.can_lend(bytes)
    }

    /// Whether there is a buffer of at least `bytes` beside the shared memory: small, or reserved
    /// for such.
    pub(crate) fn can_lend_apart(&mut self, bytes: usize) -> bool {
        (bytes <= self.small_bytes && !self.small.is_empty())
            || (bytes <= self.short_bytes_max && self.reserve.can_lend(bytes))
    }

    /// Lends a buffer of at least `bytes`: a small one, one of the reserve if that is for such, or
    /// a shared one, unless [somebody waits](Pool::set_wanted) for that.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Option<Buffer> {
        if let Some(buffer) = self.take_small(bytes) {
            return Some(buffer);
        }
        if bytes <= self.short_bytes_max
            && let Some(buffer) = self.reserve.take(bytes)
        {
            return Some(buffer);
        }
        if self.is_wanted { None } else { self.shared.take(bytes) }
    }

    /// Lends a small buffer, if it is one of at least `bytes`.
    #[inline]
    pub(crate) fn take_small(&mut self, bytes: usize) -> Option<Buffer> {
        if bytes <= self.small_bytes { self.small.pop() } else { None }
    }

    /// Lends a buffer of at least `bytes` of the shared memory.
    #[inline]
    pub(crate) fn take_shared(&mut self, bytes: usize) -> Option<Buffer> {
        self.shared.take(bytes)
    }

    /// Lends a buffer of at least `bytes` of the reserve.
    #[inline]
    pub(crate) fn take_reserve(&mut self, bytes: usize) -> Option<Buffer> {
        self.reserve.take(bytes)
    }

    /// Something to [have stand](Buffer::set_insert) in a buffer.
    pub(crate) fn insert(&mut self, at: usize, bytes: Bytes) -> Box<Insert> {
        self.inserts.make(at, bytes)
    }

    /// Takes a lent buffer back. Bytes that stand in it are let go of.
    #[inline]
    pub(crate) fn give(&mut self, mut buffer: Buffer) {
        if let Some(insert) = buffer.take_insert() {
            self.inserts.give(insert);
        }
        match buffer.part() {
            Part::Small => {
                assert!(self.small.len() < self.small_total, "a buffer comes back once");
                self.small.push(buffer);
            }
            Part::Shared => self.shared.give(buffer),
            Part::Reserve => self.reserve.give(buffer),
        }
    }

    /// Has `register` register up to `bytes_max` of the shared memory with the kernel: what is
    /// lent first. To be called at setup, before anything is lent.
    pub(crate) fn register<T>(
        &mut self,
        bytes_max: usize,
        register: impl FnOnce(&mut [Buffer]) -> T,
    ) -> T {
        self.shared.register(bytes_max, register)
    }

    /// Bytes lent, of all parts.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn lent_bytes(&self) -> usize {
        let lent = |arena: &Arena| arena.total_bytes() - arena.free_bytes();
        let small = (self.small_total - self.small.len()) * self.small_bytes;
        small + lent(&self.shared) + lent(&self.reserve)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_stays_near_its_budget_and_holds_the_largest() {
        let layout = PoolLayout::shared(64 << 20, 8 << 10, 4 << 20).with_reserve();
        let mut pool = Pool::new(&layout).expect("memory");
        let total = pool.total_bytes();
        assert_eq!(total, 64 << 20);
        assert_eq!((0..20).map_while(|_| pool.take_shared(4 << 20)).count(), 14);
    }

    #[test]
    fn smallest_budget_holds_two_of_the_largest_and_one_in_reserve() {
        let layout = PoolLayout::shared(3 << 20, 8 << 10, 3 << 20).with_reserve();
        let mut pool = Pool::new(&layout).expect("memory");
        assert_eq!((0..9).map_while(|_| pool.take_shared(3 << 20)).count(), 2);
        assert_eq!((0..9).map_while(|_| pool.take_reserve(3 << 20)).count(), 1);
    }

    #[test]
    fn each_part_gets_its_own_back() {
        let layout = PoolLayout::shared(1 << 16, 1 << 10, 1 << 14).with_reserve();
        let mut pool = Pool::new(&layout.with_small(256, 2)).expect("memory");
        let small = [pool.take(256).expect("free"), pool.take(1).expect("free")];
        let shared = pool.take(1).expect("no small one is left");
        let reserved = pool.take_reserve(1).expect("free");
        assert!(small.iter().all(Buffer::is_small));
        assert!(!shared.is_small());
        assert!(pool.take_small(1).is_none());
        for buffer in small.into_iter().chain([shared, reserved]) {
            assert!(pool.lent_bytes() > 0);
            pool.give(buffer);
        }
        assert_eq!(pool.lent_bytes(), 0);
        assert_eq!(pool.small.len(), 2);
    }

    #[test]
    fn uniform_pool_has_one_size() {
        let mut pool = Pool::new(&PoolLayout::uniform(100, 3)).expect("memory");
        let buffers: Vec<_> = (0..9).map_while(|_| pool.take(1)).collect();
        assert_eq!(buffers.iter().map(Buffer::len).collect::<Vec<_>>(), [112; 3]);
        assert!(!pool.can_lend(1));
    }

    #[test]
    fn long_buffers_leave_room_for_short_ones() {
        let layout = PoolLayout::shared(64 << 20, 128 << 10, 4 << 20).with_reserve_for_short();
        let mut pool = Pool::new(&layout).expect("memory");
        assert_eq!((0..99).map_while(|_| pool.take(4 << 20)).count(), 8);
        assert!(!pool.can_lend(1 << 20));
        assert!(pool.can_lend(512 << 10));
        assert_eq!((0..999).map_while(|_| pool.take(100_000)).count(), 256);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri ends the process where an allocator returns null")]
    fn more_than_there_is_is_refused() {
        let layout = PoolLayout::shared(1 << 60, 8 << 10, 4 << 20);
        Pool::new(&layout).expect_err("no machine has that");
        Pool::new(&PoolLayout::uniform(1 << 20, 1 << 40)).expect_err("no machine has that");
    }
}

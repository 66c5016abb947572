//! One stretch of memory that is cut into pieces as they are asked for, and joined again.
//!
//! A buddy allocator (Knowlton 1965): a *unit* is the shortest piece, a piece of order `n` is `2^n`
//! units and starts at a multiple of that; a whole piece, of the highest order, is cut into two
//! halves, one of them into two again, until what is left is just long enough. Two free halves of
//! one piece are joined to it.
//!
//! # Invariants
//!
//! - Every unit is in exactly one piece: a free one, or one that is lent.
//! - No two free halves of one piece are both in `free`; those in `recent` may wait to be joined.
//! - A cut or a join moves and counts references to one slab. It allocates only where more pieces
//!   are cut at once than ever before, and the handles of setup ([`HULLS_MIN`]) are used up: all
//!   that there could be would keep 64 bytes a unit resident.
//!
//! Cost: the last few pieces given of each size are kept as they are, so taking and giving are a
//! pop and a push while the sizes asked for stay the same. Otherwise up to one cut or join per
//! order (some 20 ns each). A request that can not be met joins what was kept first: at most
//! [`RECENT_MAX`] joins per order, and nothing more until something has been given.
//!
//! Not for many arenas or short pieces: a piece is up to twice as long as what it was asked for.

use crate::mem::buffer::{GAP_BYTES, Hull, Part};
use crate::mem::{Buffer, OutOfMemory};

/// How many freed pieces of each size are kept as they are.
const RECENT_MAX: usize = 16;

/// Handles for pieces to be cut that are made at setup, if there can be so many.
const HULLS_MIN: usize = if cfg!(test) { 4 } else { 256 };

/// See the module.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Base-2 logarithm of the bytes of a unit, without the gap behind it.
    unit_shift: u32,
    /// Pieces given last, by order.
    recent: Vec<Vec<Buffer>>,
    /// Pieces joined as far as can be, by order.
    free: Vec<Vec<Buffer>>,
    /// Where in `free[order]` the piece that starts at a unit is, if it is there.
    positions: Vec<u32>,
    /// Handles of pieces that have been joined to others.
    hulls: Vec<Hull>,
    /// Units registered with the kernel, ascending, and under which index.
    registered: Vec<(std::ops::Range<u32>, u16)>,
    free_bytes: usize,
    total_bytes: usize,
}

impl Arena {
    /// Allocates `count` whole pieces of `unit_bytes << order_max`.
    pub(crate) fn new(
        part: Part,
        unit_bytes: usize,
        order_max: u32,
        count: usize,
    ) -> Result<Self, OutOfMemory> {
        assert!(unit_bytes.is_power_of_two(), "orders are found by shifting");
        // Pieces start an odd number of cache lines apart: see `GAP_BYTES`.
        let whole_bytes = (unit_bytes + GAP_BYTES) << order_max;
        let units = count << order_max;
        let slab_bytes = whole_bytes.saturating_mul(count);
        if u32::try_from(units).is_err() {
            return Err(OutOfMemory);
        }
        let mut slab = Buffer::zeroed(slab_bytes)?;
        let lists = |length: &dyn Fn(u32) -> usize| {
            let list = |order| {
                let mut list = Vec::new();
                list.try_reserve_exact(length(order)).map_err(|_| OutOfMemory)?;
                Ok(list)
            };
            (0..=order_max).map(list).collect::<Result<Vec<_>, _>>()
        };
        // As many as there are units, less the pieces that are there from the beginning.
        let mut hulls = Vec::new();
        hulls.try_reserve_exact(units - count).map_err(|_| OutOfMemory)?;
        hulls.extend((0..HULLS_MIN.min(units - count)).map(|_| Hull::new()));
        let mut arena = Self {
            unit_shift: unit_bytes.trailing_zeros(),
            recent: lists(&|_| RECENT_MAX.min(units))?,
            free: lists(&|order| units >> order)?,
            positions: vec![0; units],
            hulls,
            registered: Vec::new(),
            free_bytes: units * unit_bytes,
            total_bytes: units * unit_bytes,
        };
        let wholes: Vec<_> = (0..count)
            .map(|index| {
                let memory = slab.split_to(whole_bytes);
                let unit = u32::try_from(index << order_max).expect("checked above");
                Buffer::piece(memory, unit_bytes << order_max, part, unit, order_max)
            })
            .collect();
        // The first is taken first.
        wholes.into_iter().rev().for_each(|whole| arena.put(whole));
        Ok(arena)
    }

    #[inline]
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_bytes
    }

    #[inline]
    pub(crate) fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    /// Whether [`Arena::take`] would lend a piece of at least `bytes`.
    pub(crate) fn can_lend(&mut self, bytes: usize) -> bool {
        let order = self.order(bytes);
        let holds = |lists: &[Vec<Buffer>]| lists.iter().skip(order).any(|list| !list.is_empty());
        if holds(&self.recent) || holds(&self.free) {
            return true;
        }
        self.settle();
        holds(&self.free)
    }

    /// Lends a piece of at least `bytes`.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Option<Buffer> {
        let order = self.order(bytes);
        let kept = self.recent.get_mut(order)?.pop();
        let piece = kept.or_else(|| self.find(order))?;
        self.free_bytes -= piece.len();
        Some(piece)
    }

    /// Takes a lent piece back.
    #[inline]
    pub(crate) fn give(&mut self, piece: Buffer) {
        self.free_bytes += piece.len();
        assert!(self.free_bytes <= self.total_bytes, "a piece comes back once");
        let recent = &mut self.recent[piece.order() as usize];
        if recent.len() < RECENT_MAX { recent.push(piece) } else { self.join(piece) }
    }

    /// See `Pool::register`.
    pub(crate) fn register<T>(
        &mut self,
        bytes_max: usize,
        register: impl FnOnce(&mut [Buffer]) -> T,
    ) -> T {
        assert_eq!(self.free_bytes, self.total_bytes, "registered before anything is lent");
        let mut pieces = Vec::new();
        let mut bytes = bytes_max;
        for order in (0..self.free.len()).rev() {
            while ((1 << self.unit_shift) + GAP_BYTES) << order <= bytes
                && let Some(piece) = self.find(order)
            {
                bytes -= ((1 << self.unit_shift) + GAP_BYTES) << order;
                pieces.push(piece);
            }
        }
        let outcome = register(&mut pieces);
        for piece in &pieces {
            if let Some(index) = piece.registered() {
                self.registered.push((piece.unit()..piece.unit() + (1 << piece.order()), index));
            }
        }
        self.registered.sort_unstable_by_key(|(units, _)| units.start);
        // The first comes back last, and is taken first.
        for piece in pieces.into_iter().rev() {
            self.join(piece);
        }
        outcome
    }

    /// The order of the shortest piece of at least `bytes`; there may be none.
    #[inline]
    fn order(&self, bytes: usize) -> usize {
        let units = bytes.saturating_sub(1) >> self.unit_shift;
        (usize::BITS - units.leading_zeros()) as usize
    }

    /// A piece of just this order, from what is not kept for it.
    #[cold]
    fn find(&mut self, order: usize) -> Option<Buffer> {
        if let Some(piece) = self.cut(order) {
            return Some(piece);
        }
        self.settle();
        self.cut(order)
    }

    /// Cuts the shortest piece that is long enough. The front is taken, the rest stays.
    fn cut(&mut self, order: usize) -> Option<Buffer> {
        let found = (order..self.free.len()).find(|&from| !self.free[from].is_empty())?;
        let mut piece = self.free[found].pop()?;
        while piece.order() as usize > order {
            let hull = self.hulls.pop().unwrap_or_else(Hull::new);
            let mut back = piece.split(hull);
            back.set_registered(self.registration(&back));
            self.put(back);
        }
        piece.set_registered(self.registration(&piece));
        Some(piece)
    }

    /// Joins the pieces that were kept.
    fn settle(&mut self) {
        for order in 0..self.recent.len() {
            while let Some(piece) = self.recent[order].pop() {
                self.join(piece);
            }
        }
    }

    /// Joins a free piece with its other half, and the whole with its own, as far as they are
    /// free.
    fn join(&mut self, mut piece: Buffer) {
        while (piece.order() as usize) < self.free.len() - 1
            && let Some(other) = self.remove(piece.unit() ^ 1 << piece.order(), piece.order())
        {
            let (mut front, back) =
                if piece.unit() < other.unit() { (piece, other) } else { (other, piece) };
            let has_room = self.hulls.len() < self.hulls.capacity();
            assert!(has_room, "no more handles to spare than pieces that can be cut");
            self.hulls.push(front.join(back));
            piece = front;
        }
        self.put(piece);
    }

    fn put(&mut self, piece: Buffer) {
        let list = &mut self.free[piece.order() as usize];
        assert!(list.len() < list.capacity(), "no more pieces of an order than fit the arena");
        let position = u32::try_from(list.len()).expect("no more pieces than units");
        self.positions[piece.unit() as usize] = position;
        list.push(piece);
    }

    /// Takes the piece of this order that starts at `unit` off the list, if it is there. A piece
    /// is entered with its position whenever that changes, so one that is elsewhere, or lent, is
    /// told by what stands there instead.
    fn remove(&mut self, unit: u32, order: u32) -> Option<Buffer> {
        let position = self.positions[unit as usize];
        let list = &mut self.free[order as usize];
        if list.get(position as usize)?.unit() != unit {
            return None;
        }
        let piece = list.swap_remove(position as usize);
        if let Some(moved) = list.get(position as usize) {
            self.positions[moved.unit() as usize] = position;
        }
        Some(piece)
    }

    /// Under which index the kernel knows the whole of a piece.
    fn registration(&self, piece: &Buffer) -> Option<u16> {
        let end = piece.unit() + (1 << piece.order());
        let at = self.registered.partition_point(|(units, _)| units.end < end);
        let (units, index) = self.registered.get(at)?;
        (units.start <= piece.unit()).then_some(*index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(unit_bytes: usize, order_max: u32, count: usize) -> Arena {
        Arena::new(Part::Shared, unit_bytes, order_max, count).expect("memory")
    }

    #[test]
    fn all_memory_serves_any_size() {
        let mut arena = arena(64, 4, 3);
        for bytes in [1_usize, 64, 65, 128, 500, 1024, 64, 1024] {
            let count = 3 * 1024 / bytes.next_power_of_two().max(64);
            let pieces: Vec<_> = (0..count).map(|_| arena.take(bytes).expect("room")).collect();
            assert!(arena.take(1).is_none(), "{bytes}");
            assert!(!arena.can_lend(1), "{bytes}");
            assert_eq!(arena.free_bytes(), 0);
            pieces.into_iter().for_each(|piece| arena.give(piece));
            assert!(arena.can_lend(1024));
        }
        assert!(arena.take(1025).is_none(), "longer than the whole");
        assert!(!arena.can_lend(usize::MAX));
    }

    #[test]
    fn last_given_is_taken_first() {
        let mut arena = arena(64, 2, 3);
        let _first = arena.take(64);
        let buffer = arena.take(64).expect("free");
        let address = buffer.bytes().as_ptr();
        arena.give(buffer);
        assert_eq!(arena.take(64).expect("free").bytes().as_ptr(), address);
    }

    #[test]
    fn pieces_of_a_registered_stretch_are_registered() {
        let mut arena = arena(1 << 10, 4, 2);
        arena.register(7 * ((1 << 10) + GAP_BYTES), |pieces| {
            let units: Vec<_> = pieces.iter().map(|piece| piece.len() >> 10).collect();
            assert_eq!(units, [4, 2, 1]);
            for (index, piece) in pieces.iter_mut().enumerate() {
                piece.set_registered(u16::try_from(index).ok());
            }
        });
        let mut registered = |bytes| {
            let pieces: Vec<_> = std::iter::from_fn(|| arena.take(bytes)).collect();
            let indices: Vec<_> = pieces.iter().filter_map(Buffer::registered).collect();
            pieces.into_iter().for_each(|piece| arena.give(piece));
            indices
        };
        assert_eq!(registered(1 << 10), [0, 0, 0, 0, 1, 1, 2]);
        assert_eq!(registered(4 << 10), [0]);
        assert_eq!(registered(8 << 10), [0; 0]);
        let mut again = registered(2 << 10);
        again.sort_unstable();
        assert_eq!(again, [0, 0, 1]);
    }

    /// Random takes and gives against a plain map of the units: no two pieces overlap, contents
    /// stay, and what is refused really has no place.
    #[test]
    fn arena_agrees_with_a_naive_model() {
        for seed in 0..crate::seeds(200) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (order_max, count) = (rng.u32(0..6), rng.usize(1..4));
            let mut arena = arena(16, order_max, count);
            let mut taken = vec![false; count << order_max];
            let mut lent: Vec<(Buffer, u8)> = Vec::new();
            for _ in 0..400 {
                if rng.bool() {
                    let order = rng.u32(0..=order_max);
                    let bytes = rng.usize((16_usize << order) / 2 + 1..=16 << order);
                    let is_free = |piece: &[bool]| piece.iter().all(|unit| !unit);
                    let expected = taken.chunks(1 << order).any(is_free);
                    assert_eq!(arena.can_lend(bytes), expected, "seed {seed}");
                    let got = arena.take(bytes);
                    assert_eq!(got.is_some(), expected, "seed {seed}");
                    let Some(mut piece) = got else { continue };
                    assert_eq!(piece.len(), 16 << order, "seed {seed}");
                    let units = piece.unit() as usize..piece.unit() as usize + (1 << order);
                    assert!(is_free(&taken[units.clone()]), "seed {seed}");
                    taken[units].fill(true);
                    let mark = rng.u8(..);
                    piece.bytes_mut().fill(mark);
                    lent.push((piece, mark));
                } else if !lent.is_empty() {
                    let (piece, mark) = lent.swap_remove(rng.usize(..lent.len()));
                    assert!(piece.bytes().iter().all(|&byte| byte == mark), "seed {seed}");
                    let units = piece.unit() as usize..piece.unit() as usize + (1 << piece.order());
                    taken[units].fill(false);
                    arena.give(piece);
                }
                let bytes: usize = lent.iter().map(|(piece, _)| piece.len()).sum();
                assert_eq!(arena.total_bytes() - arena.free_bytes(), bytes, "seed {seed}");
            }
            lent.into_iter().for_each(|(piece, _)| arena.give(piece));
            arena.settle();
            assert_eq!(arena.free[order_max as usize].len(), count, "seed {seed}: all joined");
        }
    }
}

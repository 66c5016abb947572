//! Somebody else's bytes that leave with a buffer without having been copied into it.
//!
//! ```text
//!   own memory     │ head │ padding │ …          what is sent   │ head │ bytes │ padding │
//!                         └─ at                                       └─ at
//! ```
//!
//! An [`Insert`] stands in its [`Buffer`](crate::mem::Buffer) and goes wherever that goes: into
//! the operation that the kernel reads it for, and back. So what holds for the buffer's own memory
//! holds for these bytes, and [`Bytes`] never change and live as long as somebody holds them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

/// See the module.
#[derive(Debug)]
pub(crate) struct Insert {
    /// Where in the buffer's own memory they stand.
    pub(crate) at: usize,
    pub(crate) bytes: Bytes,
}

/// Inserts that wait for their next bytes: so that one costs no allocation.
#[derive(Debug, Default)]
pub(crate) struct SpareInserts {
    // The box is what is spared.
    #[expect(clippy::vec_box, reason = "moved in and out of buffers as they are")]
    spare: Vec<Box<Insert>>,
}

impl SpareInserts {
    /// Allocates only when more are in use at once than ever before.
    pub(crate) fn make(&mut self, at: usize, bytes: Bytes) -> Box<Insert> {
        match self.spare.pop() {
            Some(mut insert) => {
                *insert = Insert { at, bytes };
                insert
            }
            None => Box::new(Insert { at, bytes }),
        }
    }

    /// Lets go of the bytes. Their owner may be the application's, with a `Drop` of its own: should
    /// that panic, the buffer they stood in goes back all the same.
    pub(crate) fn give(&mut self, mut insert: Box<Insert>) {
        let bytes = std::mem::take(&mut insert.bytes);
        self.spare.push(insert);
        if !discard(bytes) {
            tracing::error!("the owner of bytes that have left panicked when it was dropped");
        }
    }
}

/// Drops what is the application's. Should its `Drop` panic, that stops here; what the panic
/// carries is leaked, as it may panic the same way. Returns whether all went well.
pub(crate) fn discard<T>(value: T) -> bool {
    // Unwind safety: nobody else has it.
    let outcome = catch_unwind(AssertUnwindSafe(|| drop(value)));
    outcome.map_err(std::mem::forget).is_ok()
}

/// A range of what a buffer sends, as the up to three pieces of memory it stands in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pieces<'a> {
    pieces: [&'a [u8]; 3],
    count: usize,
}

impl<'a> Pieces<'a> {
    /// One piece.
    pub(crate) fn one(piece: &'a [u8]) -> Self {
        Self { pieces: [piece, &[], &[]], count: 1 }
    }

    /// `range` of `own` with the insert in it.
    pub(crate) fn around(own: &'a [u8], insert: &'a Insert, range: std::ops::Range<usize>) -> Self {
        let mut gathered = Self { pieces: [&[]; 3], count: 0 };
        let end = insert.at + insert.bytes.len();
        let parts =
            [(0, &own[..insert.at]), (insert.at, &insert.bytes[..]), (end, &own[insert.at..])];
        for (begins, part) in parts {
            let from = range.start.clamp(begins, begins + part.len()) - begins;
            let to = range.end.clamp(begins, begins + part.len()) - begins;
            if from < to {
                gathered.pieces[gathered.count] = &part[from..to];
                gathered.count += 1;
            }
        }
        assert_eq!(gathered.bytes(), range.len(), "the range lies within the buffer");
        gathered
    }

    /// The pieces, none of them empty unless it is the only one.
    pub(crate) fn as_slice(&self) -> &[&'a [u8]] {
        &self.pieces[..self.count]
    }

    /// The only piece.
    #[inline]
    pub(crate) fn single(&self) -> Option<&'a [u8]> {
        if self.count == 1 { Some(self.pieces[0]) } else { None }
    }

    /// A copy.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn to_vec(self) -> Vec<u8> {
        self.as_slice().concat()
    }

    /// Their length together.
    pub(crate) fn bytes(&self) -> usize {
        self.as_slice().iter().map(|piece| piece.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pool, PoolLayout};

    #[test]
    fn every_range_is_gathered_in_order() {
        let own: Vec<u8> = (0..8).collect();
        let insert = Insert { at: 5, bytes: Bytes::from_static(&[50, 51, 52, 53]) };
        let whole = [0, 1, 2, 3, 4, 50, 51, 52, 53, 5, 6, 7];
        for start in 0..whole.len() {
            for end in start + 1..=whole.len() {
                let pieces = Pieces::around(&own, &insert, start..end);
                assert_eq!(pieces.as_slice().concat(), whole[start..end]);
                assert!(pieces.as_slice().iter().all(|piece| !piece.is_empty()));
            }
        }
    }

    #[test]
    #[should_panic(expected = "within the buffer")]
    fn a_range_beyond_the_end_is_refused() {
        let insert = Insert { at: 1, bytes: Bytes::from_static(&[1]) };
        let _ = Pieces::around(&[0; 2], &insert, 0..4);
    }

    #[test]
    fn a_spare_insert_holds_nothing() {
        let bytes = Bytes::from(vec![1; 64]);
        let mut spare = SpareInserts::default();
        let insert = spare.make(3, bytes.clone());
        let place = std::ptr::from_ref(&*insert);
        assert!(!bytes.is_unique());
        spare.give(insert);
        assert!(bytes.is_unique());
        assert_eq!(std::ptr::from_ref(&*spare.make(0, bytes)), place, "used again");
    }

    struct Sulky;

    impl AsRef<[u8]> for Sulky {
        fn as_ref(&self) -> &[u8] {
            &[1; 64]
        }
    }

    impl Drop for Sulky {
        fn drop(&mut self) {
            panic!("in the owner's drop");
        }
    }

    #[test]
    fn a_buffer_comes_back_although_the_owner_of_its_insert_panics() {
        let mut pool = Pool::new(&PoolLayout::uniform(64, 1)).expect("memory");
        for _ in 0..2 {
            let mut buffer = pool.take(64).expect("it came back");
            buffer.set_insert(pool.insert(3, Bytes::from_owner(Sulky)));
            pool.give(buffer);
        }
        assert_eq!(pool.lent_bytes(), 0);
    }
}

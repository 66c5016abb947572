//! Memory that other processes may read: a mapped file, or anonymous memory where there is none.
//!
//! A [`Map`] is handed out piece by piece, each piece once, by a [`Carver`]; a [`Placed`] piece
//! keeps the map alive. What is placed consists of `AtomicU64` alone, so a piece may be read, also
//! word by word through [`Map::load`], while its one writer writes.
//!
//! The file must not shrink while it is mapped: an access behind its end is a SIGBUS (mmap(2)). It
//! lies in a directory that only this user can write to, and its mode lets nobody open it for
//! writing. This user and root can change that, and truncate it: they are trusted, as they could
//! end the process as well. Its blocks are allocated before it is mapped, so that a full disk is an
//! error at setup.
//!
//! Cost: a piece is a pointer. Pages are made present at setup as far as [`Map::populate`] is told.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use rustix::process::{Resource, getrlimit};

use crate::stats::{BlockHead, Counters, Header, Histograms, Row};

/// Where pieces may begin: two cache lines, so that no two writers share a prefetch pair.
pub(crate) const PIECE_ALIGN: usize = 128;

/// What may be placed in a map.
///
/// # Safety
///
/// - The type consists of `AtomicU64`, apart from padding at its end; it is `repr(C)` or
///   `repr(transparent)` all the way down.
pub(crate) unsafe trait Words: Sync {}

// SAFETY: itself.
unsafe impl Words for AtomicU64 {}
// SAFETY: `repr(C)`; words, and texts, which are arrays of words.
unsafe impl Words for Header {}
// SAFETY: `repr(C)`; words.
unsafe impl Words for BlockHead {}
// SAFETY: `repr(C)`; counters and gauges, which are `repr(transparent)` words, and arrays of them.
unsafe impl Words for Counters {}
// SAFETY: `repr(C)`; histograms, which are `repr(C)` words.
unsafe impl Words for Histograms {}
// SAFETY: `repr(C)`; words, texts, and lanes, which are `repr(C)` words.
unsafe impl Words for Row {}

/// A piece of shared, zeroed memory. Unmapped when the last piece of it is gone.
#[derive(Debug)]
pub(crate) struct Map {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a `Map` is an address range that stays mapped until it is dropped, whichever thread that
// is on; it gives access through atomics only.
unsafe impl Send for Map {}
// SAFETY: as above: `load` is an atomic access, and pieces are `Sync` by their bound.
unsafe impl Sync for Map {}

impl Map {
    /// Zeroed memory of this process alone.
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED the kernel chooses a range that nothing else uses (mmap(2)).
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) }?;
        Ok(Self { start: NonNull::new(start.cast()).expect("never at 0: mmap(2)"), bytes })
    }

    /// Makes `file`, which is empty, `bytes` long and maps all of it.
    ///
    /// # Errors
    ///
    /// ENOSPC on a full disk; [`io::ErrorKind::FileTooLarge`] above this process's limit for files
    /// (`ulimit -f`); what the file system refuses otherwise.
    pub(crate) fn of_file(file: &File, bytes: usize) -> io::Result<Self> {
        // The kernel does not only refuse what exceeds it: it sends SIGXFSZ, which ends the process
        // (setrlimit(2)).
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| (bytes as u64) > limit) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        fallocate(file, FallocateFlags::empty(), 0, bytes as u64)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED the kernel chooses a range that nothing else uses (mmap(2)).
        // The file is as long as the range, see above, and stays so by the rule in the header.
        let start =
            unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, file, 0) }?;
        Ok(Self { start: NonNull::new(start.cast()).expect("never at 0: mmap(2)"), bytes })
    }

    /// Makes the pages of `range` present, so that their first use is no page fault. Where the
    /// kernel has no memory for that, the first use is.
    pub(crate) fn populate(&self, range: Range<usize>) {
        let Range { start: begin, end } = whole_pages(range, page_bytes(), self.bytes);
        // SAFETY: the range lies within the map, as `end` is clamped and `begin` is rounded down.
        let first = unsafe { self.start.add(begin) };
        // SAFETY: MADV_POPULATE_WRITE faults pages in as a write would and changes no contents
        // (madvise(2)); the range is ours.
        let outcome =
            unsafe { madvise(first.as_ptr().cast(), end - begin, Advice::LinuxPopulateWrite) };
        if let Err(error) = outcome {
            tracing::warn!(%error, "shared memory is not made present: first uses fault it in");
        }
    }

    /// Reads the word at `word * 8`, from any thread. `None` behind the end.
    #[inline]
    pub(crate) fn load(&self, word: usize) -> Option<u64> {
        if word >= self.bytes / size_of::<u64>() {
            return None;
        }
        let pointer = self.start.cast::<AtomicU64>();
        // SAFETY: within the map, by the check above.
        let pointer = unsafe { pointer.add(word) };
        // SAFETY: aligned, as the map begins at a page, and mapped as long as `self` lives. All
        // that is placed here is made of `AtomicU64` (`Words`), so no access differs in kind or
        // size; any bits are a valid value.
        let value = unsafe { pointer.as_ref() };
        Some(value.load(Relaxed))
    }
}

/// A range from the beginning of its first page on, as far as there are `bytes`.
fn whole_pages(range: Range<usize>, page_bytes: usize, bytes: usize) -> Range<usize> {
    let (begin, end) = (range.start / page_bytes * page_bytes, range.end.min(bytes));
    assert!(begin <= end, "a range of this map");
    begin..end
}

/// The size of a page of this kernel. Arm has pages of 16 and 64 KiB, too.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: it reads a constant of the system and touches no memory of ours: sysconf(3).
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every Linux has pages: sysconf(3)")
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by the constructor and is unmapped once. No piece is left:
        // each keeps the map alive.
        let outcome = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        outcome.expect("a range that was mapped");
    }
}

/// Hands out the pieces of a map, one behind the other, each once.
#[derive(Debug)]
pub(crate) struct Carver {
    map: Arc<Map>,
    at: usize,
}

impl Carver {
    /// Begins at the start of a map that nothing has been placed in.
    pub(crate) fn new(map: Map) -> Self {
        Self { map: Arc::new(map), at: 0 }
    }

    /// The map itself, to be read word by word.
    pub(crate) fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map)
    }

    /// How much has been handed out.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next `count` of `T`, which are zero.
    ///
    /// # Panics
    ///
    /// When the map has no room for them, or they would not be aligned: layouts are constants.
    pub(crate) fn place<T: Words>(&mut self, count: usize) -> Placed<[T]> {
        let bytes = count * size_of::<T>();
        assert!(align_of::<T>() <= PIECE_ALIGN, "no piece needs more");
        assert!(self.at.is_multiple_of(align_of::<T>()), "pieces follow each other aligned");
        assert!(self.at + bytes <= self.map.bytes, "the map was made for its pieces");
        // SAFETY: within the map, by the assertion above.
        let first = unsafe { self.map.start.add(self.at) }.cast::<T>();
        self.at += bytes;
        let pointer = NonNull::slice_from_raw_parts(first, count);
        Placed { pointer, map: Arc::clone(&self.map) }
    }
}

/// A piece of a map. Cheap to clone: every clone is the same memory.
#[derive(Debug)]
pub(crate) struct Placed<T: ?Sized> {
    pointer: NonNull<T>,
    map: Arc<Map>,
}

impl<T: ?Sized> Clone for Placed<T> {
    fn clone(&self) -> Self {
        Self { pointer: self.pointer, map: Arc::clone(&self.map) }
    }
}

// SAFETY: a `Placed<T>` is a `&T` that keeps what it points into alive, and `&T` is `Send` where
// `T` is `Sync`.
unsafe impl<T: ?Sized + Sync> Send for Placed<T> {}
// SAFETY: as above: `&&T` gives no more than `&T`.
unsafe impl<T: ?Sized + Sync> Sync for Placed<T> {}

impl<T: ?Sized> Deref for Placed<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the pointer was made by `Carver::place`: aligned, within the map, which `self`
        // keeps mapped. The memory was zero, and any bits are a valid `T` (`Words`). `T` changes
        // only through its atomics, nobody has a `&mut T`, and no other piece overlaps.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T> Placed<[T]> {
    /// One of the pieces, by itself.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    pub(crate) fn one(&self, index: usize) -> Placed<T> {
        Placed { pointer: NonNull::from(&self[index]), map: Arc::clone(&self.map) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_apart_and_outlive_their_carver() {
        let mut carver = Carver::new(Map::anonymous(8192).expect("memory"));
        let first = carver.place::<AtomicU64>(512);
        let second = carver.place::<AtomicU64>(2).one(1);
        let map = carver.map();
        drop(carver);
        first[3].store(7, Relaxed);
        second.store(9, Relaxed);
        assert_eq!(first.clone()[3].load(Relaxed), 7);
        assert_eq!([map.load(3), map.load(512), map.load(513)], [Some(7), Some(0), Some(9)]);
        assert_eq!([map.load(1023), map.load(1024)], [Some(0), None]);
    }

    /// madvise(2) refuses what does not begin with a page, of whatever size.
    #[test]
    fn ranges_begin_with_a_page_and_end_with_the_map() {
        for page_bytes in [4 << 10, 16 << 10, 64 << 10] {
            let Range { start, end } = whole_pages(100_000..300_000, page_bytes, 200_000);
            assert!(start.is_multiple_of(page_bytes));
            assert!(start <= 100_000 && start + page_bytes > 100_000);
            assert_eq!(end, 200_000);
        }
    }

    #[test]
    fn file_has_what_was_written() {
        let path = std::env::temp_dir().join(format!("ringwire-map-{}", std::process::id()));
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.expect("a writable directory for temporary files");
        let map = Map::of_file(&file, 4096).expect("room");
        map.populate(0..4096);
        Carver::new(map).place::<AtomicU64>(2)[1].store(u64::from_le_bytes(*b"ringwire"), Relaxed);
        let bytes = std::fs::read(&path).expect("readable");
        std::fs::remove_file(&path).expect("our own");
        assert_eq!((bytes.len(), &bytes[8..16]), (4096, &b"ringwire"[..]));
    }

    #[test]
    #[should_panic(expected = "the map was made for its pieces")]
    fn no_piece_beyond_the_end() {
        let _ = Carver::new(Map::anonymous(4096).expect("memory")).place::<AtomicU64>(513);
    }
}

//! The receive window of one connection: where the kernel writes and frames are read in place.
//!
//! ```text
//!            head            tail
//!   ┌─────────┬───────────────┬──────────────────────┐
//!   │ handled │ unparsed      │ free: the next recv  │      active buffer
//!   └─────────┴───────────────┴──────────────────────┘
//! ```
//!
//! # Invariants
//!
//! - `head ≤ tail ≤ capacity`, and the frame at `head` starts 16-aligned: the window starts
//!   aligned, frames are padded, and bytes only ever move to its start.
//! - While a receive is in flight the active buffer belongs to that operation, not to the window.
//! - When the window is empty its cursors return to the start, so a quiet connection touches the
//!   same cache lines again.
//! - While there are bytes behind, the unparsed ones are one whole frame; and there is a buffer for
//!   them only while there is one for large frames.
//!
//! A frame that does not fit moves once into a larger buffer of the receive pool, and the rest of
//! it is received straight there. The larger buffer is kept while large frames keep coming, so
//! that a stream of them is not copied, but for [`MOVE_BYTES_MAX`] of one that has begun.
//!
//! A receive of the rest of such a frame may go on into a second large buffer, where the frame
//! *behind* it stands; once the first is handled both buffers change places:
//!
//! ```text
//!    active                        behind
//!   ┌───────────────────────┐     ┌──────────────────────┬──────────┐
//!   │ a frame: rest received│     │ the next, or a part  │ free     │
//!   └───────────────────────┘     └──────────────────────┴──────────┘
//! ```
//!
//! So a segment is taken out of the socket whole. That is for the sender over loopback: a receiver
//! that leaves the end of a segment in its socket does not acknowledge it, and with the next one
//! the acknowledgement is made within the call that sends, at the sender's cost (net/ipv4/tcp.c,
//! `tcp_cleanup_rbuf`; tcp_input.c, `__tcp_ack_snd_check`). Elsewhere it saves a receive. What is
//! behind is one frame and [`MOVE_BYTES_MAX`] of the next at most: more would have to be moved.

use crate::mem::{Buffer, Pool};

/// A partial frame up to this size is moved to the start of the window whenever one is left over:
/// cheaper than a short receive later.
const MOVE_BYTES_MAX: usize = 4096;

/// Frames up to this length may have a second buffer behind them: messages of 256 KiB with their
/// heads. Longer ones end in fewer of the segments, and two of them are much memory.
const BEHIND_FRAME_BYTES_MAX: usize = (256 << 10) + 64;

/// How the next receive is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowMode {
    /// Whatever is there.
    Any,
    /// All of it before it completes: the rest of a large frame.
    Whole,
}

/// The range of the active buffer for the next receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    pub(crate) mode: WindowMode,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    /// `None` while a receive owns it.
    active: Option<Buffer>,
    /// The connection's own buffer, set aside while a larger one is active.
    base: Option<Buffer>,
    /// Where the frame behind the one at the front begins.
    behind: Option<Buffer>,
    head: usize,
    tail: usize,
    /// Bytes received in `behind`.
    behind_bytes: usize,
    /// Memory was scarce: it is not asked for again before the window is empty, which it is behind
    /// each frame then.
    behind_refused: bool,
    /// Length of the last frame, when it needed more than the base buffer: the next is expected
    /// to be as long.
    large_frame_bytes: usize,
}

impl Window {
    /// A window on the connection's own buffer.
    pub(crate) fn new(base: Buffer) -> Self {
        Self {
            active: Some(base),
            base: None,
            behind: None,
            head: 0,
            tail: 0,
            behind_bytes: 0,
            behind_refused: false,
            large_frame_bytes: 0,
        }
    }

    /// Whether the window has its buffer, that is, no receive is in flight.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.active.is_some()
    }

    /// Bytes received and not consumed, those behind the frame at the front left out.
    ///
    /// # Panics
    ///
    /// While a receive is in flight.
    #[inline]
    pub(crate) fn unparsed(&self) -> &[u8] {
        let active = self.active.as_ref().expect("no receive is in flight");
        &active.bytes()[self.head..self.tail]
    }

    /// Where in the active buffer the unparsed bytes stand.
    #[inline]
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.head..self.tail
    }

    /// Whether part of a frame has been received.
    #[inline]
    pub(crate) fn has_unparsed(&self) -> bool {
        self.head < self.tail
    }

    /// Marks the first `bytes` of the unparsed ones as handled. Returns whether others, which stood
    /// behind them, are the unparsed ones now.
    #[must_use = "nobody else looks at them"]
    #[inline]
    pub(crate) fn consume(&mut self, bytes: usize) -> bool {
        self.head += bytes;
        assert!(self.head <= self.tail, "only what was received can be consumed");
        if self.head < self.tail {
            return false;
        }
        self.head = 0;
        self.tail = std::mem::take(&mut self.behind_bytes);
        self.behind_refused = false;
        if self.tail > 0 {
            let behind = self.behind.take().expect("what is behind stands in a buffer");
            self.behind = self.active.replace(behind);
        }
        self.tail > 0
    }

    /// Makes room for the next receive. `frame_bytes` is the length of the frame at the front,
    /// when its header has arrived; `frame` the longest frame parsed since the last call.
    ///
    /// `None`: the frame needs a larger buffer and `pool` has none free; try again later.
    pub(crate) fn prepare(
        &mut self,
        frame_bytes: Option<usize>,
        parsed_bytes_max: usize,
        pool: &mut Pool,
    ) -> Option<Span> {
        assert_eq!(self.behind_bytes, 0, "what is whole is handled first");
        let pending = self.tail - self.head;
        if parsed_bytes_max > 0 {
            let large = self.base.is_some() && parsed_bytes_max > self.base_len() / 2;
            self.large_frame_bytes = if large { parsed_bytes_max } else { 0 };
        }
        let needed = frame_bytes.unwrap_or(0).max(pending + 1);
        if self.base.is_some() && needed <= self.base_len() && !self.keeps_large(pool) {
            self.shrink(pool);
        }
        if needed > self.capacity() {
            self.grow(needed, pool)?;
        } else if self.head > 0
            && (pending <= MOVE_BYTES_MAX || self.head + needed > self.capacity())
        {
            self.move_to_start();
        }
        Some(self.span(frame_bytes))
    }

    /// Room behind the frame at the front for a receive of its rest, in bytes: none unless it is
    /// large, its length is known and no more than `bytes_max`, and memory is not scarce. Never
    /// more than `bytes_max`. Follows [`prepare`](Self::prepare).
    #[inline]
    pub(crate) fn prepare_behind(
        &mut self,
        frame_bytes: Option<usize>,
        bytes_max: usize,
        pool: &mut Pool,
    ) -> usize {
        match frame_bytes {
            Some(whole) if self.base.is_some() => self.room_behind(whole, bytes_max, pool),
            _ => 0,
        }
    }

    fn room_behind(&mut self, frame_bytes: usize, bytes_max: usize, pool: &mut Pool) -> usize {
        let is_large = frame_bytes > self.base_len() && frame_bytes <= BEHIND_FRAME_BYTES_MAX;
        let is_kept = is_large && frame_bytes <= bytes_max && pool.has_plenty();
        let fits = frame_bytes..=2 * frame_bytes;
        if !is_kept || self.behind.as_ref().is_some_and(|it| !fits.contains(&it.len())) {
            self.give_behind(pool);
        }
        if is_kept && self.behind.is_none() && !self.behind_refused {
            // Of what there must be plenty of.
            self.behind = pool.take_shared(frame_bytes);
            self.behind_refused = self.behind.is_none() || !pool.has_plenty();
            if self.behind_refused {
                self.give_behind(pool);
            }
        }
        let room_max = (frame_bytes + MOVE_BYTES_MAX).min(bytes_max);
        self.behind.as_ref().map_or(0, |behind| behind.len().min(room_max))
    }

    /// Gives the buffer behind up, unless something stands there.
    #[inline]
    pub(crate) fn give_behind(&mut self, pool: &mut Pool) {
        if self.behind_bytes == 0
            && let Some(behind) = self.behind.take()
        {
            pool.give(behind);
        }
    }

    fn span(&self, frame_bytes: Option<usize>) -> Span {
        let pending = self.tail - self.head;
        let free = self.capacity() - self.tail;
        assert!(free > 0, "prepare made room");
        let span = |bytes, mode| Span { offset: self.tail, bytes, mode };
        match frame_bytes {
            // The rest of a frame that fills most of the base window anyway: wait for all of it.
            Some(whole) if whole > pending && whole > self.base_len() / 2 => {
                span((whole - pending).min(free), WindowMode::Whole)
            }
            // Not more than the frame expected, so that the one after it starts at the start.
            None if self.large_frame_bytes > pending => {
                span((self.large_frame_bytes - pending).min(free), WindowMode::Any)
            }
            _ => span(free, WindowMode::Any),
        }
    }

    /// Hands the active buffer to a receive.
    #[inline]
    pub(crate) fn lend(&mut self) -> Buffer {
        self.active.take().expect("one receive at a time")
    }

    /// Takes the buffer back with `bytes` more received.
    #[inline]
    pub(crate) fn restore(&mut self, buffer: Buffer, bytes: usize) {
        assert!(self.active.is_none(), "a buffer comes back once");
        self.tail += bytes;
        assert!(self.tail <= buffer.len(), "the kernel stays within the span");
        self.active = Some(buffer);
    }

    /// Where a receive that is over at once writes: in `span`, and then what is
    /// [behind](Self::prepare_behind), in this order.
    ///
    /// # Panics
    ///
    /// While a receive is in flight.
    #[inline]
    pub(crate) fn rooms_mut(&mut self, span: &Span) -> (&mut [u8], &mut [u8]) {
        let active = self.active.as_mut().expect("no receive is in flight");
        let front = &mut active.bytes_mut()[span.offset..span.offset + span.bytes];
        (front, self.behind.as_mut().map_or(&mut [], Buffer::bytes_mut))
    }

    /// So many bytes have been received in `span`, and `behind` it when that is full.
    #[inline]
    pub(crate) fn filled(&mut self, span: &Span, bytes: usize, behind: usize) {
        assert!(bytes <= span.bytes, "what was received is within its room");
        self.tail += bytes;
        if behind > 0 {
            assert_eq!(bytes, span.bytes, "the front is filled first");
            let room = self.behind.as_ref().map_or(0, Buffer::len);
            assert!(behind <= room, "and what is behind within its own");
        }
        self.behind_bytes = behind;
    }

    /// Gives up all buffers: the base one and, to `pool`, larger ones.
    pub(crate) fn dissolve(mut self, pool: &mut Pool) -> Buffer {
        self.behind_bytes = 0;
        if self.base.is_some() {
            self.shrink(pool);
        }
        self.active.take().expect("no receive is in flight")
    }

    /// Whether frames larger than the base buffer are being received.
    #[cfg(test)]
    pub(crate) fn is_large(&self) -> bool {
        self.base.is_some()
    }

    fn capacity(&self) -> usize {
        self.active.as_ref().map_or(0, Buffer::len)
    }

    fn base_len(&self) -> usize {
        self.base.as_ref().map_or_else(|| self.capacity(), Buffer::len)
    }

    /// A larger buffer is kept for the next large frame while memory is not scarce.
    fn keeps_large(&self, pool: &mut Pool) -> bool {
        self.large_frame_bytes > 0 && pool.has_plenty()
    }

    /// Back to the base buffer, with what is unparsed as far as that holds it.
    fn shrink(&mut self, pool: &mut Pool) {
        let mut base = self.base.take().expect("the caller checked");
        let pending = (self.tail - self.head).min(base.len());
        base.bytes_mut()[..pending].copy_from_slice(&self.unparsed()[..pending]);
        let large = self.active.replace(base).expect("no receive is in flight");
        pool.give(large);
        self.give_behind(pool);
        self.head = 0;
        self.tail = pending;
        self.large_frame_bytes = 0;
    }

    fn grow(&mut self, needed: usize, pool: &mut Pool) -> Option<()> {
        let mut larger = match self.behind.take_if(|behind| behind.len() >= needed) {
            Some(behind) => behind,
            None => {
                self.give_behind(pool);
                pool.take(needed)?
            }
        };
        let pending = self.tail - self.head;
        larger.bytes_mut()[..pending].copy_from_slice(self.unparsed());
        let old = self.active.replace(larger).expect("no receive is in flight");
        if self.base.is_none() {
            self.base = Some(old);
        } else {
            pool.give(old);
        }
        self.head = 0;
        self.tail = pending;
        Some(())
    }

    fn move_to_start(&mut self) {
        let active = self.active.as_mut().expect("no receive is in flight");
        active.bytes_mut().copy_within(self.head..self.tail, 0);
        self.tail -= self.head;
        self.head = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::PoolLayout;

    fn pool() -> Pool {
        Pool::new(&PoolLayout::shared(1 << 16, 1024, 8192)).expect("memory")
    }

    fn fill(window: &mut Window, span: Span, bytes: &[u8]) {
        assert!(bytes.len() <= span.bytes);
        let mut buffer = window.lend();
        buffer.bytes_mut()[span.offset..span.offset + bytes.len()].copy_from_slice(bytes);
        window.restore(buffer, bytes.len());
    }

    #[test]
    fn empty_window_returns_to_its_start() {
        let (mut pool, mut window) = (pool(), Window::new(Buffer::new(256)));
        let span = window.prepare(None, 0, &mut pool).expect("room");
        assert_eq!(span, Span { offset: 0, bytes: 256, mode: WindowMode::Any });
        fill(&mut window, span, &[1; 64]);
        assert!(!window.consume(64));
        let span = window.prepare(None, 64, &mut pool).expect("room");
        assert_eq!(span.offset, 0);
    }

    #[test]
    fn large_frame_moves_once_and_is_received_whole() {
        let (mut pool, mut window) = (pool(), Window::new(Buffer::new(256)));
        let span = window.prepare(None, 0, &mut pool).expect("room");
        fill(&mut window, span, &[7; 256]);
        let span = window.prepare(Some(1000), 0, &mut pool).expect("memory");
        assert_eq!(span, Span { offset: 256, bytes: 744, mode: WindowMode::Whole });
        assert!(window.is_large());
        fill(&mut window, span, &[8; 744]);
        assert_eq!(window.unparsed().len(), 1000);
        assert_eq!(window.unparsed()[..256], [7; 256]);
        assert!(!window.consume(1000));

        // The next is expected to be as long, and is not copied.
        let span = window.prepare(None, 1000, &mut pool).expect("room");
        assert_eq!(span, Span { offset: 0, bytes: 1000, mode: WindowMode::Any });
        fill(&mut window, span, &[9; 64]);
        assert!(!window.consume(64));

        // It was short: back to the base buffer.
        let span = window.prepare(None, 64, &mut pool).expect("room");
        assert_eq!(span, Span { offset: 0, bytes: 256, mode: WindowMode::Any });
        assert_eq!(pool.lent_bytes(), 0);
    }

    #[test]
    fn exhausted_pool_is_reported_and_loses_nothing() {
        let mut pool = Pool::new(&PoolLayout::shared(2048, 1024, 1024)).expect("memory");
        let (a, b) = (pool.take(1), pool.take(1));
        let mut window = Window::new(Buffer::new(256));
        let span = window.prepare(None, 0, &mut pool).expect("room");
        fill(&mut window, span, &[7; 256]);
        assert!(window.prepare(Some(1000), 0, &mut pool).is_none());
        assert_eq!(window.unparsed(), [7; 256]);
        pool.give(a.expect("two were free"));
        pool.give(b.expect("two were free"));
        assert!(window.prepare(Some(1000), 0, &mut pool).is_some());
    }

    fn take_frame(window: &mut Window, pool: &mut Pool, bytes: usize) -> Option<()> {
        let span = window.prepare(None, 0, pool).expect("room");
        fill(window, span, &[1; 64]);
        let span = window.prepare(Some(bytes), 0, pool)?;
        fill(window, span, &vec![1; bytes - 64]);
        assert!(!window.consume(bytes));
        Some(())
    }

    /// What is reserved for short frames does not count: no long one can have it.
    #[test]
    fn large_buffers_are_kept_while_half_of_the_shared_memory_is_free() {
        let layout = PoolLayout::shared(64 << 10, 1 << 10, 8 << 10).with_reserve_for_short();
        let mut pool = Pool::new(&layout).expect("memory");
        let mut windows: Vec<Window> = (0..5).map(|_| Window::new(Buffer::new(256))).collect();
        for window in &mut windows[..4] {
            take_frame(window, &mut pool, 5000).expect("memory");
        }
        assert!(take_frame(&mut windows[4], &mut pool, 5000).is_none(), "all is lent");
        // Its next receive begins.
        windows[0].prepare(None, 5000, &mut pool).expect("room");
        assert!(!windows[0].is_large());
        windows[4].prepare(Some(5000), 0, &mut pool).expect("memory");
        // And with memory enough it is kept.
        windows.truncate(3);
        while let Some(window) = windows.pop() {
            window.dissolve(&mut pool);
        }
        assert_eq!(pool.shared_free_bytes(), 16 << 10);
        let mut window = Window::new(Buffer::new(256));
        take_frame(&mut window, &mut pool, 5000).expect("memory");
        window.prepare(None, 5000, &mut pool).expect("room");
        assert!(!window.is_large(), "less than half is free");
    }

    /// Bytes are not pieces: one kept in each of the longest leaves half of the bytes, and none of
    /// those.
    #[test]
    fn large_buffers_are_kept_while_one_of_the_longest_is_free() {
        let layout = PoolLayout::shared(64 << 10, 1 << 10, 8 << 10).with_reserve_for_short();
        let mut pool = Pool::new(&layout).expect("memory");
        // Two in each of the four longest.
        let mut windows: Vec<Window> = (0..8).map(|_| Window::new(Buffer::new(256))).collect();
        for window in &mut windows {
            take_frame(window, &mut pool, 3000).expect("memory");
        }
        assert_eq!(pool.shared_free_bytes(), 0);
        // Their next receives begin: first those of one half of each, then those of the other.
        for index in [1, 3, 5, 7, 0, 2, 4, 6] {
            windows[index].prepare(None, 3000, &mut pool).expect("room");
        }
        assert!(windows.iter().any(Window::is_large), "with half of it free the rest is kept");
        take_frame(&mut Window::new(Buffer::new(256)), &mut pool, 8000).expect("memory");
    }

    /// Also where each frame ends behind the beginning of the next.
    #[test]
    fn large_buffer_goes_back_with_a_short_frame_begun() {
        let (mut pool, mut window) = (pool(), Window::new(Buffer::new(256)));
        take_frame(&mut window, &mut pool, 5000).expect("memory");
        let span = window.prepare(None, 5000, &mut pool).expect("room");
        fill(&mut window, span, &[2; 100]);
        assert!(!window.consume(64));
        let span = window.prepare(Some(64), 64, &mut pool).expect("room");
        assert_eq!((window.is_large(), pool.lent_bytes()), (false, 0));
        assert_eq!(span, Span { offset: 36, bytes: 220, mode: WindowMode::Any });
        assert_eq!(window.unparsed(), [2; 36]);
    }

    #[test]
    fn memory_that_somebody_waits_for_goes_to_nobody_else() {
        let (mut pool, mut window) = (pool(), Window::new(Buffer::new(256)));
        take_frame(&mut window, &mut pool, 5000).expect("memory");
        pool.set_wanted(true);
        window.prepare(None, 5000, &mut pool).expect("room");
        assert!(!window.is_large(), "nothing is kept for later");
        assert!(take_frame(&mut window, &mut pool, 5000).is_none());
        pool.set_wanted(false);
        assert!(window.prepare(Some(5000), 0, &mut pool).is_some());
    }

    /// What one receive brings of two large frames stands in two buffers and is not moved.
    #[test]
    fn frame_behind_a_large_one_begins_in_a_buffer_of_its_own() {
        let (mut pool, mut window) = (pool(), Window::new(Buffer::new(256)));
        let span = window.prepare(None, 0, &mut pool).expect("room");
        let any = usize::MAX;
        assert_eq!(window.prepare_behind(None, any, &mut pool), 0, "its length is not known");
        fill(&mut window, span, &[1; 256]);
        let span = window.prepare(Some(1000), 0, &mut pool).expect("memory");
        assert_eq!(window.prepare_behind(Some(1000), usize::MAX, &mut pool), 1024);
        let (front, behind) = window.rooms_mut(&span);
        front.fill(1);
        behind[..600].fill(2);
        window.filled(&span, 744, 600);
        assert_eq!(window.unparsed(), [1; 1000]);
        let places = pool.lent_bytes();
        assert!(window.consume(1000), "there is more");
        assert_eq!(window.unparsed(), [2; 600]);
        // And the next begins where the first one was.
        let span = window.prepare(Some(1000), 1000, &mut pool).expect("room");
        assert_eq!((span.offset, span.bytes), (600, 400));
        assert_eq!(window.prepare_behind(Some(1000), usize::MAX, &mut pool), 1024);
        assert_eq!(pool.lent_bytes(), places);
        window.filled(&span, 400, 0);
        assert!(!window.consume(1000));
        // A short one: both go back.
        let span = window.prepare(None, 0, &mut pool).expect("room");
        fill(&mut window, span, &[3; 64]);
        assert!(!window.consume(64));
        window.prepare(None, 64, &mut pool).expect("room");
        assert_eq!((window.is_large(), pool.lent_bytes()), (false, 0));
    }

    /// A receiver that lags would move nearly a whole frame to the start of its buffer otherwise.
    #[test]
    fn no_more_is_behind_than_one_frame_and_what_is_moved_at_small_cost() {
        let layout = PoolLayout::shared(8 << 20, 128 << 10, 1 << 20);
        let mut pool = Pool::new(&layout).expect("memory");
        let mut window = Window::new(Buffer::new(64 << 10));
        let frame = (64 << 10) + 32;
        let span = window.prepare(None, 0, &mut pool).expect("room");
        fill(&mut window, span, &[1; 64 << 10]);
        for _ in 0..10 {
            let span = window.prepare(Some(frame), 0, &mut pool).expect("memory");
            let behind = window.prepare_behind(Some(frame), usize::MAX, &mut pool);
            window.filled(&span, span.bytes, behind);
            assert!(window.consume(frame), "the next");
            assert!(!window.consume(frame), "is whole, too");
            assert_eq!(window.unparsed().len(), MOVE_BYTES_MAX);
        }
    }

    /// And where no more may be received at once than less than a frame.
    #[test]
    fn nothing_goes_behind_where_pieces_are_received() {
        let (mut pool, mut window) = (pool(), Window::new(Buffer::new(256)));
        window.prepare(Some(1000), 0, &mut pool).expect("memory");
        assert_eq!(window.prepare_behind(Some(1000), 1000, &mut pool), 1000);
        assert_eq!(window.prepare_behind(Some(1000), 999, &mut pool), 0);
        assert_eq!(pool.lent_bytes(), 1 << 10, "and it went back");
    }

    #[test]
    fn what_stands_behind_goes_back_with_the_window() {
        let (mut pool, mut window) = (pool(), Window::new(Buffer::new(256)));
        let span = window.prepare(Some(1000), 0, &mut pool).expect("memory");
        assert_eq!(window.prepare_behind(Some(1000), usize::MAX, &mut pool), 1024);
        window.filled(&span, 1000, 100);
        window.give_behind(&mut pool);
        assert_eq!(pool.lent_bytes(), 2 << 10, "not while something stands there");
        assert_eq!(window.dissolve(&mut pool).len(), 256);
        assert_eq!(pool.lent_bytes(), 0);
    }

    /// Nobody waits for memory that he has.
    #[test]
    fn longer_frame_takes_the_buffer_behind() {
        let mut pool = Pool::new(&PoolLayout::shared(64 << 10, 1 << 10, 8 << 10)).expect("memory");
        let mut window = Window::new(Buffer::new(256));
        let span = window.prepare(Some(5000), 0, &mut pool).expect("memory");
        fill(&mut window, span, &[1; 5000]);
        assert!(!window.consume(5000));
        window.prepare(Some(1000), 5000, &mut pool).expect("room");
        let span = window.prepare(Some(1000), 0, &mut pool).expect("room");
        assert_eq!(window.prepare_behind(Some(1000), usize::MAX, &mut pool), 1024);
        window.filled(&span, 1000, 100);
        assert!(window.consume(1000));
        let others: Vec<_> = std::iter::from_fn(|| pool.take(1)).collect();
        assert!(window.prepare(Some(5000), 1000, &mut pool).is_some(), "{}", others.len());
        assert_eq!(window.unparsed(), [0; 100]);
    }

    #[test]
    fn nothing_goes_behind_short_and_the_longest_frames() {
        let layout = PoolLayout::shared(8 << 20, 1 << 10, 1 << 20);
        let mut pool = Pool::new(&layout).expect("memory");
        let mut window = Window::new(Buffer::new(1 << 10));
        let mut room = |window: &mut Window, bytes| {
            window.prepare(Some(bytes), 0, &mut pool).expect("memory");
            window.prepare_behind(Some(bytes), usize::MAX, &mut pool)
        };
        assert_eq!(room(&mut window, 1 << 10), 0, "it is in its own buffer");
        assert_eq!(room(&mut window, 5000), 8 << 10);
        let (some, longest, more) = (40_000, BEHIND_FRAME_BYTES_MAX, MOVE_BYTES_MAX);
        assert_eq!(room(&mut window, some), some + more, "and a little of the next");
        assert_eq!(room(&mut window, longest), longest + more);
        assert_eq!(room(&mut window, longest + 16), 0);
        let before = pool.lent_bytes();
        window.give_behind(&mut pool);
        assert_eq!(pool.lent_bytes(), before, "it went back by itself");
    }

    /// It is shared memory, which there must be plenty of, and not what is kept for short frames.
    #[test]
    fn what_goes_behind_leaves_the_reserve_alone() {
        let layout = PoolLayout::shared(64 << 10, 1 << 10, 8 << 10).with_reserve_for_short();
        let mut pool = Pool::new(&layout).expect("memory");
        let mut window = Window::new(Buffer::new(256));
        window.prepare(Some(1000), 0, &mut pool).expect("memory");
        let (free, shared) = (pool.free_bytes(), pool.shared_free_bytes());
        assert_eq!(window.prepare_behind(Some(1000), usize::MAX, &mut pool), 1024);
        assert_eq!(free - pool.free_bytes(), shared - pool.shared_free_bytes());
    }

    /// The second buffer takes nothing that others might need.
    #[test]
    fn nothing_goes_behind_where_memory_is_scarce() {
        let mut pool = Pool::new(&PoolLayout::shared(4 << 10, 1 << 10, 1 << 10)).expect("memory");
        let mut window = Window::new(Buffer::new(256));
        window.prepare(Some(1000), 0, &mut pool).expect("memory");
        let other = pool.take(1000);
        assert_eq!(
            window.prepare_behind(Some(1000), usize::MAX, &mut pool),
            0,
            "less than half would be left"
        );
        assert_eq!(pool.lent_bytes(), 2 << 10);
        pool.give(other.expect("memory"));
        assert_eq!(
            window.prepare_behind(Some(1000), usize::MAX, &mut pool),
            0,
            "not for this frame"
        );
        window.filled(&Span { offset: 0, bytes: 1000, mode: WindowMode::Any }, 1000, 0);
        assert!(!window.consume(1000));
        window.prepare(Some(1000), 1000, &mut pool).expect("room");
        assert_eq!(window.prepare_behind(Some(1000), usize::MAX, &mut pool), 1024);
        pool.set_wanted(true);
        assert_eq!(
            window.prepare_behind(Some(1000), usize::MAX, &mut pool),
            0,
            "somebody waits for memory"
        );
        assert_eq!(pool.lent_bytes(), 1 << 10);
    }

    /// A byte stream cut into random frames and received in random pieces comes out unchanged.
    #[test]
    fn stream_survives_any_cutting() {
        let mut went_behind = 0;
        for seed in 0..crate::seeds(500) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut pool = pool();
            let frames: Vec<usize> = (0..40)
                .map(|_| 16 * if rng.u8(..4) == 0 { rng.usize(1..400) } else { 2 })
                .collect();
            let stream: Vec<u8> = (0..frames.iter().sum()).map(|_| rng.u8(..)).collect();
            let (mut sent, mut handled, mut frame) = (0, 0, 0);
            let mut window = Window::new(Buffer::new(512));
            let mut longest = 0;
            while handled < stream.len() {
                // A header is 16 bytes here and tells the length.
                let known = (window.unparsed().len() >= 16).then(|| frames[frame]);
                let span = window.prepare(known, longest, &mut pool).expect("memory");
                longest = 0;
                let rest = &stream[sent..];
                let most = span.bytes.min(rest.len());
                let whole = span.mode == WindowMode::Whole;
                let mut bytes = if whole { most } else { rng.usize(1..=most) };
                if rng.bool() {
                    fill(&mut window, span, &rest[..bytes]);
                } else {
                    let room = window.prepare_behind(known, rng.usize(..9000), &mut pool);
                    let room = room.min(rest.len() - most);
                    let behind = if bytes < span.bytes { 0 } else { rng.usize(0..=room) };
                    let (front, more) = window.rooms_mut(&span);
                    front[..bytes].copy_from_slice(&rest[..bytes]);
                    more[..behind].copy_from_slice(&rest[bytes..bytes + behind]);
                    window.filled(&span, bytes, behind);
                    bytes += behind;
                    went_behind += u32::from(behind > 0);
                }
                sent += bytes;
                while frame < frames.len() && window.unparsed().len() >= frames[frame] {
                    let bytes = frames[frame];
                    assert_eq!(window.unparsed()[..bytes], stream[handled..handled + bytes]);
                    assert_eq!(window.unparsed().as_ptr().align_offset(16), 0, "seed {seed}");
                    let ends = bytes == window.unparsed().len();
                    assert_eq!(window.consume(bytes), ends && window.has_unparsed(), "seed {seed}");
                    longest = longest.max(bytes);
                    handled += bytes;
                    frame += 1;
                }
            }
            assert_eq!(window.dissolve(&mut pool).len(), 512, "seed {seed}");
            assert_eq!(pool.lent_bytes(), 0, "seed {seed}");
        }
        assert!(went_behind > 0);
    }
}

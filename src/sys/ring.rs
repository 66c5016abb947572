//! The ring of one reactor, and who owns the memory the kernel is using.
//!
//! Every operation handed to io_uring occupies a slot from the moment its entry is *queued* until
//! its last completion is *reaped*. While occupied, the slot owns the buffer; nothing else in the
//! crate can reach it. Cancelling asks the kernel to finish early and frees nothing; neither does
//! a failed submit, nor closing the ring (io_uring_setup(2): teardown "may happen
//! asynchronously").
//!
//! # Prompt sends
//!
//! A send normally completes inside the `enter` that submits it, and its completion is then a
//! nuisance: it ends the wait that was meant for the answer, so a round trip costs a second
//! `enter`. A *prompt* send therefore carries MSG_DONTWAIT and IOSQE_CQE_SKIP_SUCCESS: the kernel
//! attempts it during submission, exactly once; when all of it went out there is no completion
//! at all; anything else (short, EAGAIN, an error) posts one (io_uring_enter(2),
//! `IOSQE_CQE_SKIP_SUCCESS`: "if a request fails, the CQE is still posted"; with MSG_WAITALL a
//! short send counts as failed and its completion carries the partial length). So once the entry
//! has been consumed and every completion posted by then has been reaped, a prompt send without
//! one is done. `tests::prompt_send_*` pin this behaviour against the running kernel.
//!
//! # Cost
//!
//! Queueing and reaping are a slot-map insert and remove. Tables are sized at setup.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue, types::CancelBuilder};
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use socket2::{SockAddr, Socket};

use crate::mem::{Buffer, Pieces};
use crate::stats::Counters;
use crate::sys::probe::{self, RingError};

new_key_type! {
    /// Names an operation in flight; doubles as its `user_data`.
    pub(crate) struct OpKey;
}

/// What an operation was for; chosen by the caller and handed back with each completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) u64);

/// What kind of operation completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpKind {
    Receive,
    Send,
    Accept,
    Connect,
    Poll,
}

/// One completion.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) token: Token,
    pub(crate) kind: OpKind,
    /// The kernel's result, or its error number.
    pub(crate) result: Result<u32, i32>,
    /// The connection that was accepted.
    pub(crate) accepted: Option<Socket>,
    /// The buffer, with the last completion of a receive or send.
    pub(crate) buffer: Option<Buffer>,
    /// A receive left more in the socket.
    pub(crate) more_data: bool,
    /// A multishot operation goes on.
    pub(crate) continues: bool,
    /// A zero-copy send was copied by the kernel after all.
    pub(crate) copied: bool,
}

#[derive(Debug)]
struct Op {
    kind: OpKind,
    token: Token,
    buffer: Option<Buffer>,
    /// Where a connect goes; the kernel may read it until submission at the latest
    /// (IORING_FEAT_SUBMIT_STABLE), the slot keeps it until the end.
    address: Option<Box<SockAddr>>,
    /// Of a send from several pieces of memory: which. Submission copies it
    /// (IORING_FEAT_SUBMIT_STABLE), the slot keeps it until the end.
    vector: Option<Box<Vector>>,
    /// Bytes asked for, and for a zero-copy send its result until the notification comes.
    bytes: u32,
    result: Option<Result<u32, i32>>,
}

/// How a receive is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReceiveOptions {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    /// Wait until all `bytes` are there (MSG_WAITALL).
    pub(crate) whole: bool,
    /// Nothing is expected yet: wait for readiness before the first attempt
    /// (IORING_RECVSEND_POLL_FIRST).
    pub(crate) poll_first: bool,
}

/// What is to be sent of a buffer, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendOptions {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    pub(crate) mode: SendMode,
}

/// How a send is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendMode {
    /// One attempt during submission; see the module.
    Prompt,
    /// Waits for room in the socket until everything is sent.
    Whole,
    /// As `Whole`, from the buffer's own pages (SEND_ZC).
    ZeroCopy,
}

impl SendMode {
    /// For send(2).
    fn flags(self) -> i32 {
        match self {
            Self::Prompt => libc::MSG_WAITALL | libc::MSG_DONTWAIT,
            Self::Whole | Self::ZeroCopy => libc::MSG_WAITALL,
        }
    }
}

/// See the module.
pub(crate) struct Ring {
    uring: IoUring,
    /// Not dropped with the ring when the kernel does not let go of what they own: leaked instead.
    ops: ManuallyDrop<SlotMap<OpKey, Op>>,
    /// Prompt sends not yet known to be done, oldest first.
    prompt: std::collections::VecDeque<OpKey>,
    /// The same in batches, one for each `enter` that consumed some.
    batches: std::collections::VecDeque<Batch>,
    /// How many of `prompt` are in batches.
    prompt_submitted: usize,
    /// Completions taken off the queue so far.
    reaped: u64,
    /// Of these, those behind which their operation has none.
    finished: u64,
    ops_max: usize,
    registered: bool,
    /// Used before and to be used again.
    // The box is what is spared: the kernel is told its address.
    #[expect(clippy::vec_box, reason = "moved in and out of operations as they are")]
    vectors: Vec<Box<Vector>>,
}

/// Pieces of memory that one send gathers (sendmsg(2)).
struct Vector {
    message: libc::msghdr,
    pieces: [libc::iovec; 3],
}

/// Prompt sends that one `enter` consumed.
#[derive(Debug, Clone, Copy)]
struct Batch {
    count: usize,
    /// They are known to be done once this many completions have been reaped; `None` while the
    /// kernel holds some back for which the queue had no room: how many, can not be known before
    /// they are in it.
    barrier: Option<u64>,
}

const IORING_ENTER_GETEVENTS: u32 = 1;
const IORING_RECVSEND_POLL_FIRST: u16 = 1;
pub(crate) const IORING_SEND_ZC_REPORT_USAGE: u16 = 8;
const IORING_NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;

/// How long dropping a ring waits for the kernel to let go of the buffers.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Ring {
    /// Sets up a ring for `ops_max` operations in flight.
    ///
    /// # Errors
    ///
    /// [`RingError`], which says what is missing and what to do.
    pub(crate) fn new(entries: u32, ops_max: usize) -> Result<Self, RingError> {
        let (uring, _) = probe::build_ring(entries, entries * 8)?;
        Ok(Self {
            uring,
            ops: ManuallyDrop::new(SlotMap::with_capacity_and_key(ops_max)),
            prompt: std::collections::VecDeque::with_capacity(ops_max),
            batches: std::collections::VecDeque::with_capacity(ops_max),
            prompt_submitted: 0,
            reaped: 0,
            finished: 0,
            ops_max,
            registered: false,
            vectors: Vec::new(),
        })
    }

    /// Registers as many of `buffers` as fit `bytes_max` for zero-copy sends.
    ///
    /// Only at setup, before anything is in flight.
    pub(crate) fn register_buffers<'a>(
        &mut self,
        buffers: impl Iterator<Item = &'a mut Buffer>,
        bytes_max: usize,
    ) -> io::Result<usize> {
        assert!(!self.registered, "buffers are registered once");
        let mut chosen = Vec::new();
        let mut bytes = 0;
        for buffer in buffers {
            let buffer_bytes = buffer.memory_mut().len();
            if bytes + buffer_bytes > bytes_max || chosen.len() == usize::from(u16::MAX) {
                break;
            }
            bytes += buffer_bytes;
            chosen.push(buffer);
        }
        if chosen.is_empty() {
            return Ok(0);
        }
        let iovecs: Vec<_> = chosen
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.memory_mut().as_mut_ptr().cast(),
                iov_len: buffer.memory_mut().len(),
            })
            .collect();
        // SAFETY: each iovec names the whole of a `Buffer`, whose storage never moves. The kernel
        // pins the pages (io_uring_register(2), IORING_REGISTER_BUFFERS), so they stay physical
        // memory even if the buffer were freed first; it writes to them only through operations,
        // and those own their buffer (see the module).
        unsafe { self.uring.submitter().register_buffers(&iovecs) }?;
        for (index, buffer) in chosen.into_iter().enumerate() {
            buffer.set_registered(Some(u16::try_from(index).expect("bounded just above")));
        }
        self.registered = true;
        Ok(bytes)
    }

    /// Asks the kernel to busy-poll the network device during blocking waits (Linux 6.9).
    pub(crate) fn enable_napi(&mut self, microseconds: u32) -> io::Result<()> {
        let mut napi = io_uring::types::Napi::new()
            .set_busy_poll_timeout(microseconds)
            .set_prefer_busy_poll(true);
        self.uring.submitter().register_napi(&mut napi)
    }

    /// Queues a receive into `buffer`, which the ring owns until the completion hands it back.
    ///
    /// # Errors
    ///
    /// Gives the buffer back when nothing more can be queued now; reap and try again.
    pub(crate) fn receive(
        &mut self,
        fd: RawFd,
        buffer: Buffer,
        options: ReceiveOptions,
        token: Token,
    ) -> Result<OpKey, Buffer> {
        let ReceiveOptions { offset, bytes, whole, poll_first } = options;
        let end = offset.saturating_add(bytes);
        assert!(end <= buffer.len(), "the span lies within the buffer");
        let bytes = clamp(bytes);
        let op = Op::new(OpKind::Receive, token, Some(buffer), bytes);
        let key = self.insert(op).map_err(|op| op.buffer.expect("just put in"))?;
        let buffer = self.ops[key].buffer.as_mut().expect("just put in");
        let target = buffer.bytes_mut()[offset..].as_mut_ptr();
        let entry = opcode::Recv::new(Fd(fd), target, bytes)
            .flags(if whole { libc::MSG_WAITALL } else { 0 })
            .ioprio(if poll_first { IORING_RECVSEND_POLL_FIRST } else { 0 })
            .build();
        self.push(key, entry).map_err(|op| op.buffer.expect("just put in"))
    }

    /// Queues a send of `bytes` from `offset` on of what `buffer` sends, inserted bytes included;
    /// ownership as for [`Ring::receive`].
    pub(crate) fn send(
        &mut self,
        fd: RawFd,
        buffer: Buffer,
        options: SendOptions,
        token: Token,
    ) -> Result<OpKey, Buffer> {
        let SendOptions { offset, bytes, mode } = options;
        // Before anything is booked.
        let end = offset.saturating_add(bytes);
        assert!(end <= buffer.bytes_sent(), "the span lies within what is sent");
        let op = Op::new(OpKind::Send, token, Some(buffer), clamp(bytes));
        let key = self.insert(op).map_err(|op| op.buffer.expect("just put in"))?;
        let Self { ops, vectors, .. } = self;
        let Op { buffer, vector, .. } = &mut ops[key];
        let buffer = buffer.as_ref().expect("just put in");
        let pieces = buffer.pieces(offset..end);
        let entry = match pieces.single() {
            Some(piece) => {
                // The registered memory is the buffer's own.
                let registered = match buffer.inserted() {
                    None => buffer.registered(),
                    Some(_) => None,
                };
                send_entry(fd, piece, registered, mode)
            }
            None => {
                let spare = vectors.pop().unwrap_or_default();
                gather_entry(fd, vector.insert(spare).fill(&pieces), mode)
            }
        };
        let entry = match mode {
            SendMode::Prompt => entry.flags(squeue::Flags::SKIP_SUCCESS),
            SendMode::Whole | SendMode::ZeroCopy => entry,
        };
        let key = self.push(key, entry).map_err(|op| op.buffer.expect("just put in"))?;
        if mode == SendMode::Prompt {
            self.prompt.push_back(key);
        }
        Ok(key)
    }

    /// Queues a multishot accept: one completion per connection, with its descriptor.
    pub(crate) fn accept(&mut self, fd: RawFd, token: Token) -> Option<OpKey> {
        let entry = opcode::AcceptMulti::new(Fd(fd))
            .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            .build();
        self.insert_and_push(Op::new(OpKind::Accept, token, None, 0), entry)
    }

    /// Queues a connect.
    pub(crate) fn connect(&mut self, fd: RawFd, address: SockAddr, token: Token) -> Option<OpKey> {
        let mut op = Op::new(OpKind::Connect, token, None, 0);
        let address = op.address.insert(Box::new(address));
        let entry = opcode::Connect::new(Fd(fd), address.as_ptr().cast(), address.len()).build();
        self.insert_and_push(op, entry)
    }

    /// Queues a multishot poll for readability: a completion whenever `fd` becomes readable.
    pub(crate) fn poll_readable(&mut self, fd: RawFd, token: Token) -> Option<OpKey> {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build();
        self.insert_and_push(Op::new(OpKind::Poll, token, None, 0), entry)
    }

    /// Queues a poll that completes once, when the peer of a stream socket has closed its end or
    /// the connection has failed; at once if that is so already.
    pub(crate) fn poll_end(&mut self, fd: RawFd, token: Token) -> Option<OpKey> {
        // POLLHUP and POLLERR are always reported (poll(2)).
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLRDHUP as u32).build();
        self.insert_and_push(Op::new(OpKind::Poll, token, None, 0), entry)
    }

    /// Asks the kernel to end an operation early. Its completion still comes, and frees it.
    ///
    /// Blocks briefly in the kernel; for closing only.
    pub(crate) fn cancel(&mut self, key: OpKey) {
        if !self.ops.contains_key(key) {
            return;
        }
        let builder = CancelBuilder::user_data(key.data().as_ffi());
        self.cancel_matching(builder);
    }

    fn cancel_matching(&mut self, builder: CancelBuilder) {
        // What is queued but not submitted must be known to the kernel before it can be found.
        let _ = self.enter(0, None, None);
        // A failure means that nothing matched any more, or that it is too late to cancel: the
        // completion comes by itself in both cases (io_uring_register_sync_cancel(3)).
        let timeout = Timespec::new().nsec(1_000_000);
        let _ = self.uring.submitter().register_sync_cancel(Some(timeout), builder);
    }

    /// Submits what is queued, runs deferred work, and waits for `want` completions or `timeout`.
    ///
    /// EINTR, ETIME and a momentary lack of kernel memory end the wait early and are no errors:
    /// everything stays queued for the next call.
    pub(crate) fn enter(
        &mut self,
        want: u32,
        timeout: Option<Duration>,
        counters: Option<&Counters>,
    ) -> io::Result<()> {
        let queued = u32::try_from(self.uring.submission().len()).expect("the queue is small");
        let result = match timeout {
            Some(timeout) if want > 0 => {
                let timespec = Timespec::from(timeout);
                let arguments = SubmitArgs::new().timespec(&timespec);
                self.uring.submitter().submit_with_args(want as usize, &arguments).map(drop)
            }
            _ => {
                let no_mask = None::<&libc::sigset_t>;
                // SAFETY: io_uring_enter(2) reads nothing of ours but the queue: no mask is passed,
                // nor an argument. What its entries point to is valid until they complete, and the
                // descriptors they name are those they were queued for: see `push`.
                unsafe {
                    self.uring.submitter().enter(queued, want, IORING_ENTER_GETEVENTS, no_mask)
                }
                .map(drop)
            }
        };
        if let Some(counters) = counters {
            counters.enters.add(1);
        }
        if self.has_lost_completions() {
            // What a wait reports, too (io_cqring_wait()); a reactor that spins never waits. No
            // batch is closed: of prompt sends nothing is known any more.
            return Err(io::Error::from_raw_os_error(libc::EBADR));
        }
        self.close_batch();
        let Err(error) = result else { return Ok(()) };
        match error.raw_os_error() {
            Some(libc::EINTR | libc::ETIME) => Ok(()),
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM | libc::ENOBUFS) => {
                if let Some(counters) = counters {
                    counters.enobufs.add(1);
                }
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Whether an `enter` without waiting has something to do: entries to submit, deferred work
    /// to run, or completions that overflowed.
    #[inline]
    pub(crate) fn needs_enter(&mut self) -> bool {
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Whether the kernel holds completions for which the queue had no room.
    #[inline]
    pub(crate) fn has_overflow(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }

    /// Whether the kernel has dropped a completion: the queue was full, and there was no memory to
    /// hold it back (io_cqring_event_overflow()). Its operation never ends, and a prompt send that
    /// failed would look like one that succeeded.
    #[inline]
    fn has_lost_completions(&mut self) -> bool {
        self.uring.completion().overflow() != 0
    }

    /// Whether a completion can be reaped without entering the kernel.
    #[inline]
    pub(crate) fn has_completion(&mut self) -> bool {
        !self.uring.completion().is_empty()
            || (self.prompt_submitted > 0 && self.is_first_batch_done())
    }

    /// Operations whose last completion has been reaped, of those that the kernel posts.
    pub(crate) fn finished(&self) -> u64 {
        self.finished
    }

    /// Takes the next completion.
    ///
    /// Hot path: a slot-map remove.
    #[inline]
    pub(crate) fn reap(&mut self) -> Option<Completion> {
        loop {
            if self.prompt_submitted > 0
                && self.is_first_batch_done()
                && let Some(completion) = self.reap_prompt()
            {
                return Some(completion);
            }
            let entry = self.uring.completion().next()?;
            self.reaped += 1;
            self.finished += u64::from(!cqueue::more(entry.flags()));
            if let Some(completion) = self.complete(&entry) {
                return Some(completion);
            }
        }
    }

    /// Operations the kernel still holds.
    pub(crate) fn in_flight(&self) -> usize {
        self.ops.len()
    }

    #[inline]
    fn complete(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let key = OpKey::from(KeyData::from_ffi(entry.user_data()));
        let flags = entry.flags();
        let continues = cqueue::more(flags);
        // A notification's result is a set of flags, not an outcome.
        let notification = cqueue::notif(flags);
        let result = match entry.result() {
            flags if notification => Ok(flags as u32),
            error if error < 0 => Err(-error),
            value => Ok(value as u32),
        };
        let op = self.ops.get_mut(key).expect("a slot is freed by its last completion only");
        if op.kind == OpKind::Send && continues {
            // SEND_ZC: the result now, the buffer with the notification.
            op.result = Some(result);
            return None;
        }
        let copied = notification && entry.result() as u32 & IORING_NOTIF_USAGE_ZC_COPIED != 0;
        let (kind, token) = (op.kind, op.token);
        let result = if notification { op.result.unwrap_or(result) } else { result };
        let buffer = if continues {
            None
        } else {
            let op = self.ops.remove(key).expect("it was there just above");
            self.vectors.extend(op.vector);
            op.buffer
        };
        let accepted = match (kind, result) {
            (OpKind::Accept, Ok(fd)) => Some(adopt(fd)),
            _ => None,
        };
        let more_data = cqueue::sock_nonempty(flags);
        Some(Completion { token, kind, result, accepted, buffer, more_data, continues, copied })
    }

    /// After an `enter`: notes which prompt sends it consumed, and how many completions were
    /// posted by then.
    #[inline]
    fn close_batch(&mut self) {
        let count = self.prompt.len() - self.prompt_submitted;
        if count == 0 || !self.uring.submission().is_empty() {
            return;
        }
        let posted = self.reaped + self.uring.completion().len() as u64;
        let barrier = if self.has_overflow() { None } else { Some(posted) };
        self.batches.push_back(Batch { count, barrier });
        self.prompt_submitted += count;
    }

    /// Whether every completion that the sends of the oldest batch may have had has been reaped.
    #[inline]
    fn is_first_batch_done(&mut self) -> bool {
        match self.batches.front() {
            Some(Batch { barrier: Some(barrier), .. }) => self.reaped >= *barrier,
            Some(Batch { barrier: None, .. }) => self.overflow_is_over(),
            None => false,
        }
    }

    /// Looks whether all that was held back is in the queue now, and how much has to be reaped
    /// until the sends before are done. Returns whether that is nothing.
    #[cold]
    fn overflow_is_over(&mut self) -> bool {
        if self.has_overflow() {
            return false;
        }
        let waiting = self.uring.completion().len() as u64;
        for batch in self.batches.iter_mut().take_while(|batch| batch.barrier.is_none()) {
            batch.barrier = Some(self.reaped + waiting);
        }
        waiting == 0
    }

    /// Settles the next prompt send of the oldest batch, which is done: one that had no
    /// completion has succeeded.
    #[inline]
    fn reap_prompt(&mut self) -> Option<Completion> {
        loop {
            let batch = self.batches.front_mut().expect("the caller looked at it");
            batch.count -= 1;
            let is_last = batch.count == 0;
            if is_last {
                self.batches.pop_front();
            }
            self.prompt_submitted -= 1;
            let key = self.prompt.pop_front().expect("batches count what is in the queue");
            match self.ops.remove(key) {
                Some(op) => {
                    self.vectors.extend(op.vector);
                    return Some(Completion {
                        token: op.token,
                        kind: op.kind,
                        result: Ok(op.bytes),
                        accepted: None,
                        buffer: op.buffer,
                        more_data: false,
                        continues: false,
                        copied: false,
                    });
                }
                // One that failed has been completed, and its slot freed, by its completion.
                None if is_last => return None,
                None => {}
            }
        }
    }

    fn insert(&mut self, op: Op) -> Result<OpKey, Op> {
        if self.ops.len() >= self.ops_max {
            return Err(op);
        }
        Ok(self.ops.insert(op))
    }

    fn insert_and_push(&mut self, op: Op, entry: squeue::Entry) -> Option<OpKey> {
        let key = self.insert(op).ok()?;
        self.push(key, entry).ok()
    }

    /// Queues `entry` for the operation in slot `key`; a full queue is submitted first.
    #[inline]
    fn push(&mut self, key: OpKey, entry: squeue::Entry) -> Result<OpKey, Op> {
        if self.uring.submission().is_full() {
            // An error here leaves the queue full, and is met again in the turn's own `enter`.
            let _ = self.enter(0, None, None);
        }
        let entry = entry.user_data(key.data().as_ffi());
        // SAFETY: io_uring(7) requires what an entry points to to stay valid until its last
        // completion. `entry` points at most into the buffer, the bytes inserted in it, the vector
        // and the address of slot `key`. The slot owns them all, and is left in four places:
        // - `complete`, on the last completion carrying this `user_data`;
        // - `reap_prompt`, after the submission that made the only attempt;
        // - below, when the queue is full: then the kernel knows nothing of the slot;
        // - `drop`, which frees what is in slots only when there are none, and else leaks it.
        // Neither a `Buffer`'s storage nor `Bytes` nor what is boxed moves with the slot. A failed
        // submit changes nothing: the entry stays queued, and the slot occupied. That the
        // descriptor still is the one meant when the entry is submitted is for the caller: a
        // connection's socket outlives its slots, a listener's is closed once its accept has been
        // cancelled, which submits first, and the ring is dropped before any of them.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        match pushed {
            Ok(()) => Ok(key),
            // Nothing was queued, so the kernel knows nothing of the slot.
            Err(_) => Err(self.ops.remove(key).expect("inserted by the caller")),
        }
    }

    /// Cancels everything and waits until the kernel has let go of every buffer.
    fn drain(&mut self) {
        if self.ops.is_empty() {
            return;
        }
        self.cancel_matching(CancelBuilder::any());
        let deadline = crate::time::Nanos::now() + DRAIN_TIMEOUT;
        loop {
            // Nobody is left to serve a connection that was accepted: it is closed.
            while self.reap().is_some() {}
            if self.ops.is_empty() || crate::time::Nanos::now() >= deadline {
                return;
            }
            if self.enter(1, Some(Duration::from_millis(10)), None).is_err() {
                return;
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.drain();
        if self.ops.is_empty() {
            // SAFETY: `ops` is not used after this; `drop` runs once.
            unsafe { ManuallyDrop::drop(&mut self.ops) };
        } else {
            // Leaking is sound, freeing memory that the kernel may still write to is not.
            tracing::error!(
                operations = self.ops.len(),
                "the kernel did not finish cancelled operations; their buffers are leaked"
            );
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.ops.len()).finish_non_exhaustive()
    }
}

impl Op {
    fn new(kind: OpKind, token: Token, buffer: Option<Buffer>, bytes: u32) -> Self {
        Self { kind, token, buffer, address: None, vector: None, bytes, result: None }
    }
}

impl Vector {
    /// Names these pieces. Where it stands must not change from here on.
    fn fill(&mut self, pieces: &Pieces<'_>) -> *const libc::msghdr {
        let slices = pieces.as_slice();
        for (place, piece) in self.pieces.iter_mut().zip(slices) {
            // A send only reads.
            place.iov_base = piece.as_ptr().cast_mut().cast();
            place.iov_len = piece.len();
        }
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = slices.len() as _;
        &raw const self.message
    }
}

impl Default for Vector {
    fn default() -> Self {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a `msghdr` is numbers and pointers, for which zeroes are valid; its padding on
        // musl must be zero.
        let message = unsafe { std::mem::zeroed() };
        Self { message, pieces: [empty; 3] }
    }
}

impl std::fmt::Debug for Vector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vector").finish_non_exhaustive()
    }
}

/// A send from one piece of memory.
#[inline]
fn send_entry(fd: RawFd, piece: &[u8], registered: Option<u16>, mode: SendMode) -> squeue::Entry {
    let (source, bytes) = (piece.as_ptr(), clamp(piece.len()));
    match mode {
        SendMode::Prompt | SendMode::Whole => {
            opcode::Send::new(Fd(fd), source, bytes).flags(mode.flags()).build()
        }
        SendMode::ZeroCopy => opcode::SendZc::new(Fd(fd), source, bytes)
            .flags(mode.flags())
            .buf_index(registered)
            .zc_flags(IORING_SEND_ZC_REPORT_USAGE)
            .build(),
    }
}

/// A send from several pieces of memory.
fn gather_entry(fd: RawFd, message: *const libc::msghdr, mode: SendMode) -> squeue::Entry {
    let flags = mode.flags() as u32;
    match mode {
        SendMode::Prompt | SendMode::Whole => {
            opcode::SendMsg::new(Fd(fd), message).flags(flags).build()
        }
        SendMode::ZeroCopy => opcode::SendMsgZc::new(Fd(fd), message)
            .ioprio(IORING_SEND_ZC_REPORT_USAGE)
            .flags(flags)
            .build(),
    }
}

/// Takes ownership of the descriptor in an accept's completion. For [`Ring::complete`] alone, which
/// sees each completion once.
fn adopt(fd: u32) -> Socket {
    let fd = RawFd::try_from(fd).expect("descriptors are non-negative ints");
    // SAFETY: the kernel created this descriptor for the accept whose completion carried it
    // (io_uring_prep_accept(3)), and nothing else knows its number: the completion has been taken
    // off the queue, which gives each out once.
    unsafe { Socket::from_raw_fd(fd) }
}

/// Lengths are 32 bits in an entry; buffers are far smaller.
fn clamp(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

//! What this kernel's io_uring can do, found by doing it.
//!
//! Opcodes and feature bits are asked for. What is only a flag of an operation (multishot, provided
//! buffers) can not be asked for, and distributions patch it in and out without a trace in the
//! version, so each is tried once: on a socket pair, or over loopback TCP, with small memory of its
//! own.
//!
//! Invariant: the kernel may touch [`Trial::memory`] from the moment an entry is queued until its
//! last completion is reaped, so [`Trial`] counts what is in flight, cancels it in the end, and
//! leaks the memory should a completion stay out.
//!
//! Cost: about a millisecond, at most [`TRIAL_MAX`] for each ability of a kernel that stays silent.
//! For `doctor` and for start-up, not for the turn.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Napi, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use serde::Serialize;

use super::refusal::{Facts, RingError};
use super::setup::{self, SetupFlags, build_ring, errno_of};
use crate::sys::map::page_bytes;
use crate::sys::ring::IORING_SEND_ZC_REPORT_USAGE;
use crate::time::Nanos;

/// How long one trial may take.
const TRIAL_MAX: Duration = Duration::from_millis(500);

/// What this kernel's io_uring can do for this process.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// The kernel's release, as of uname(2).
    pub release: String,
    /// The setup flags a ring gets here.
    pub setup: SetupFlags,
    /// The features (`IORING_FEAT_…`) the ring reports, of those that concern us.
    pub features: Vec<&'static str>,
    /// The operations (`IORING_OP_…`) the kernel has, of those that concern us.
    pub operations: Vec<&'static str>,
    /// One accept for many connections (5.19).
    pub multishot_accept: Ability,
    /// Buffers of a group that the kernel picks from (5.19).
    pub buffer_ring: Ability,
    /// One receive for many messages, into a buffer ring (6.0).
    pub multishot_receive: Ability,
    /// Sending without a copy (6.0). Loopback copies all the same.
    pub send_zero_copy: Ability,
    /// Waiting a little for more completions (6.12).
    pub min_wait: Ability,
    /// Busy polling of the network device inside a wait (6.9, CONFIG_NET_RX_BUSY_POLL).
    pub napi: Ability,
}

/// What became of trying something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ability {
    /// It did what the manual says.
    Works,
    /// The kernel refused it.
    Refused {
        /// The kernel's error number.
        errno: i32,
    },
    /// It was accepted and did not do what the manual says.
    Misbehaves,
    /// It was accepted and never completed.
    Silent,
    /// It could not be tried, for instance without a loopback device.
    Untested {
        /// The error number of what failed before.
        errno: i32,
    },
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = |errno: i32| io::Error::from_raw_os_error(errno);
        match *self {
            Self::Works => f.write_str("works"),
            Self::Refused { errno } => write!(f, "refused: {}", reason(errno)),
            Self::Misbehaves => f.write_str("accepted, but does not do what it should"),
            Self::Silent => write!(f, "accepted, but no answer within {TRIAL_MAX:?}"),
            Self::Untested { errno } => write!(f, "could not be tried: {}", reason(errno)),
        }
    }
}

impl Capabilities {
    /// Builds a small ring and tries everything on it.
    ///
    /// Blocks for about a millisecond; see the module for the worst case. Opens and closes a
    /// handful of descriptors.
    ///
    /// # Errors
    ///
    /// [`RingError`] when there is no ring to be had. An ability that is missing is not an error.
    pub fn probe() -> Result<Self, RingError> {
        Self::probe_sized(8, 64)
    }

    /// As [`Capabilities::probe`], on a ring of the size that is to be used.
    ///
    /// # Errors
    ///
    /// As [`Capabilities::probe`].
    ///
    /// # Panics
    ///
    /// When `entries` is 0 or above `cq_entries`.
    pub fn probe_sized(entries: u32, cq_entries: u32) -> Result<Self, RingError> {
        let (ring, setup) = build_ring(entries, cq_entries)?;
        let params = ring.params();
        let features = setup::FEATURES_REQUIRED.into_iter().chain(setup::FEATURES_OPTIONAL);
        let features =
            features.filter(|(_, has)| has(params)).map(|(name, _)| name).collect::<Vec<_>>();
        let probe = setup::operations(&ring)?;
        let operations = setup::OPERATIONS_REQUIRED.into_iter().chain(setup::OPERATIONS_OPTIONAL);
        let operations = operations.filter(|(_, code)| probe.is_supported(*code));
        let operations = operations.map(|(name, _)| name).collect();
        // The ring reports this one, so there is nothing to try.
        let min_wait = if params.is_feature_min_timeout() {
            Ability::Works
        } else {
            Ability::Refused { errno: libc::EINVAL }
        };
        let napi = try_napi(&ring);
        let mut trial = Trial::new(ring);
        Ok(Self {
            release: Facts::gather().release,
            setup,
            features,
            operations,
            multishot_accept: trial.run(Trial::multishot_accept),
            buffer_ring: trial.buffer_ring(),
            multishot_receive: trial.run(Trial::multishot_receive),
            send_zero_copy: trial.run(Trial::send_zero_copy),
            min_wait,
            napi,
        })
    }
}

/// Switches busy polling on with no time to poll, and off again.
fn try_napi(ring: &IoUring) -> Ability {
    match ring.submitter().register_napi(&mut Napi::new()) {
        Ok(()) => match ring.submitter().unregister_napi(&mut Napi::new()) {
            Ok(()) => Ability::Works,
            Err(_) => Ability::Misbehaves,
        },
        Err(error) => Ability::Refused { errno: errno_of(&error) },
    }
}

const SLOTS: usize = 4;
/// Page 0 is the ring of buffers, pages 1 to [`SLOTS`] are the buffers, the next is sent from.
const SEND_PAGE: usize = SLOTS + 1;
const SEND_BYTES: usize = 64;
const GROUP: u16 = 0;

/// Pages of the kernel's size, aligned as a ring of buffers must be: io_uring_register(2),
/// IORING_REGISTER_PBUF_RING. Arm has pages of 16 and 64 KiB, too.
struct Pages {
    /// A page longer than what is used. Never grows, so nothing moves.
    memory: Vec<u8>,
    /// Where the first page begins.
    start: usize,
    page_bytes: usize,
}

impl Pages {
    fn new(count: usize, page_bytes: usize) -> Self {
        assert!(page_bytes.is_power_of_two(), "the size of a page");
        let memory = vec![0; (count + 1) * page_bytes];
        let start = memory.as_ptr().align_offset(page_bytes);
        assert!(start < page_bytes, "there is a page more");
        Self { memory, start, page_bytes }
    }

    fn page(&self, index: usize) -> &[u8] {
        &self.memory[self.start + index * self.page_bytes..][..self.page_bytes]
    }

    fn page_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.memory[self.start + index * self.page_bytes..][..self.page_bytes]
    }
}

/// A ring with memory to try operations on.
struct Trial {
    ring: IoUring,
    /// `None` only once dropped or leaked.
    memory: Option<Pages>,
    /// Entries queued whose last completion has not been reaped.
    in_flight: u32,
    /// Whether what is in flight completes with descriptors.
    accepting: bool,
    group_registered: bool,
}

/// An operation whose memory, if any, is the trial's own.
enum Operation<'a> {
    Accept(&'a TcpListener),
    Receive(&'a UnixStream),
    SendZeroCopy(&'a TcpStream),
}

struct Completion {
    result: i32,
    flags: u32,
}

impl Completion {
    fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    fn ability_on_failure(&self) -> Ability {
        match self.result {
            ..0 => Ability::Refused { errno: -self.result },
            _ => Ability::Misbehaves,
        }
    }
}

impl Trial {
    fn new(ring: IoUring) -> Self {
        let memory = Some(Pages::new(SEND_PAGE + 1, page_bytes()));
        Self { ring, memory, in_flight: 0, accepting: false, group_registered: false }
    }

    /// Runs one trial and clears up after it. An error is one of what surrounds the ring.
    fn run(&mut self, trial: impl FnOnce(&mut Self) -> io::Result<Ability>) -> Ability {
        let ability = trial(self);
        self.settle();
        ability.unwrap_or_else(|error| Ability::Untested { errno: errno_of(&error) })
    }

    /// One accept entry must take two connections.
    fn multishot_accept(&mut self) -> io::Result<Ability> {
        let listener = listen()?;
        let address = listener.local_addr()?;
        self.start(&Operation::Accept(&listener))?;
        let mut ability = Ability::Works;
        for _ in 0..2 {
            // Completes without being accepted: the kernel queues it, listen(2).
            let _client = TcpStream::connect_timeout(&address, TRIAL_MAX)?;
            ability = match self.next() {
                Some(accepted) if accepted.result >= 0 => {
                    close_accepted(&accepted);
                    if accepted.more() { Ability::Works } else { Ability::Misbehaves }
                }
                Some(failed) => failed.ability_on_failure(),
                None => Ability::Silent,
            };
            if ability != Ability::Works {
                break;
            }
        }
        Ok(ability)
    }

    /// Registers the ring of buffers, all of them posted. It stays for `multishot_receive`.
    fn buffer_ring(&mut self) -> Ability {
        let memory = self.memory.as_mut().expect("taken only by drop");
        let bytes = u32::try_from(memory.page_bytes).expect("a page");
        // struct io_uring_buf of linux/io_uring.h: u64 address, u32 length, u16 id, and 16 bits
        // which in the first entry are the ring's tail. Written before the kernel knows of it.
        for slot in 0..SLOTS {
            let address = memory.page_mut(slot + 1).as_mut_ptr().expose_provenance() as u64;
            let id = u16::try_from(slot).expect("few slots");
            let entry = &mut memory.page_mut(0)[slot * 16..][..16];
            entry[..8].copy_from_slice(&address.to_ne_bytes());
            entry[8..12].copy_from_slice(&bytes.to_ne_bytes());
            entry[12..14].copy_from_slice(&id.to_ne_bytes());
        }
        let tail = u16::try_from(SLOTS).expect("few slots");
        let ring = memory.page_mut(0);
        ring[14..16].copy_from_slice(&tail.to_ne_bytes());
        let address = ring.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: io_uring_register(2) wants the ring aligned to a page (`Pages` are), of a power
        // of two of 16-byte entries (4, and a page holds 256 or more), and valid until it is
        // unregistered: `drop` frees `memory` only after unregistering the group, and leaks it
        // otherwise.
        let registered =
            unsafe { self.ring.submitter().register_buf_ring_with_flags(address, tail, GROUP, 0) };
        match registered {
            Ok(()) => {
                self.group_registered = true;
                Ability::Works
            }
            Err(error) => Ability::Refused { errno: errno_of(&error) },
        }
    }

    /// One receive entry must take two messages into two buffers.
    fn multishot_receive(&mut self) -> io::Result<Ability> {
        if !self.group_registered {
            return Ok(Ability::Untested { errno: libc::ENOBUFS });
        }
        let (ours, mut theirs) = UnixStream::pair()?;
        self.start(&Operation::Receive(&ours))?;
        let mut ability = Ability::Works;
        for byte in [b'a', b'b'] {
            theirs.write_all(&[byte])?;
            ability = match self.next() {
                Some(received) if received.result == 1 && received.more() => {
                    let slot = cqueue::buffer_select(received.flags).map(usize::from);
                    if slot.and_then(|slot| self.first_byte(slot)) == Some(byte) {
                        Ability::Works
                    } else {
                        Ability::Misbehaves
                    }
                }
                Some(failed) => failed.ability_on_failure(),
                None => Ability::Silent,
            };
            if ability != Ability::Works {
                break;
            }
        }
        Ok(ability)
    }

    /// One send entry must deliver its bytes and then notify that its buffer is free.
    fn send_zero_copy(&mut self) -> io::Result<Ability> {
        let listener = listen()?;
        let ours = TcpStream::connect_timeout(&listener.local_addr()?, TRIAL_MAX)?;
        let (mut theirs, _) = listener.accept()?;
        theirs.set_read_timeout(Some(TRIAL_MAX))?;
        self.start(&Operation::SendZeroCopy(&ours))?;
        let ability = match self.next() {
            Some(sent) if usize::try_from(sent.result) == Ok(SEND_BYTES) && sent.more() => {
                theirs.read_exact(&mut [0; SEND_BYTES])?;
                match self.next() {
                    Some(notice) if cqueue::notif(notice.flags) => Ability::Works,
                    Some(_) => Ability::Misbehaves,
                    None => Ability::Silent,
                }
            }
            Some(failed) => failed.ability_on_failure(),
            None => Ability::Silent,
        };
        Ok(ability)
    }

    fn first_byte(&self, slot: usize) -> Option<u8> {
        let pages = self.memory.as_ref().expect("taken only by drop");
        (slot < SLOTS).then(|| pages.page(slot + 1)[0])
    }

    /// Queues and submits one operation.
    fn start(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        if self.in_flight > 0 {
            // The trial before this one never ended; its completions must not count for this one.
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        self.accepting = matches!(operation, Operation::Accept(_));
        let entry = match operation {
            Operation::Accept(listener) => {
                opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build()
            }
            Operation::Receive(stream) => {
                opcode::RecvMulti::new(Fd(stream.as_raw_fd()), GROUP).build()
            }
            Operation::SendZeroCopy(stream) => {
                let memory = self.memory.as_ref().expect("taken only by drop");
                let bytes = u32::try_from(SEND_BYTES).expect("small");
                let from = memory.page(SEND_PAGE).as_ptr();
                // As a reactor sends: Linux 6.1 has the operation and not the flag.
                opcode::SendZc::new(Fd(stream.as_raw_fd()), from, bytes)
                    .zc_flags(IORING_SEND_ZC_REPORT_USAGE)
                    .build()
            }
        };
        self.push(&entry)?;
        self.in_flight += 1;
        // The descriptor is looked up here, while `operation` borrows it. What can not be submitted
        // stays queued, and is never submitted after that: see `next`.
        self.ring.submit().map(drop)
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: io_uring(7) asks that what an entry points to be valid until the last completion.
        // The entry comes from `start` alone. It points to no memory (an accept; a receive reaches
        // the pages of `memory` through the group that `buffer_ring` registered), or into `memory`.
        // That lives until `in_flight` is 0 again and the group is unregistered, or for ever: see
        // `drop`. Pages of a `Vec` that is never grown do not move. The descriptor is `start`'s
        // while the entry is submitted, and `next` submits none.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Waits for the next completion, at most [`TRIAL_MAX`].
    fn next(&mut self) -> Option<Completion> {
        let deadline = Nanos::now() + TRIAL_MAX;
        loop {
            if let Some(entry) = self.ring.completion().next() {
                let completion = Completion { result: entry.result(), flags: entry.flags() };
                if !completion.more() {
                    self.in_flight = self.in_flight.checked_sub(1).expect("a last one for each");
                }
                return Some(completion);
            }
            let left = deadline.since(Nanos::now());
            // An entry that `start` could not submit names a descriptor that may be closed by now,
            // and its number somebody else's: a wait would submit it. The ring is of no more use.
            if left.is_zero() || !self.ring.submission().is_empty() {
                return None;
            }
            let timeout = Timespec::from(left);
            // Whatever ends the wait (a completion, time, a signal), the queue and the clock tell.
            // There is nothing to submit.
            let _ =
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
        }
    }

    /// Cancels what is in flight and reaps until nothing is, or until a wait passes in silence.
    fn settle(&mut self) {
        if self.in_flight == 0 {
            return;
        }
        let timeout = Timespec::from(TRIAL_MAX);
        // It fails when the operation ends by itself in this moment (ENOENT): the queue tells.
        let _ = self.ring.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any());
        while self.in_flight > 0 {
            let Some(late) = self.next() else { return };
            if self.accepting && late.result >= 0 {
                close_accepted(&late);
            }
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.settle();
        let unregistered =
            !self.group_registered || self.ring.submitter().unregister_buf_ring(GROUP).is_ok();
        let memory = self.memory.take();
        if self.in_flight > 0 || !unregistered {
            // Closing the ring does not end the kernel's use of it: io_uring_setup(2).
            std::mem::forget(memory);
        }
    }
}

/// Closes the connection that an accept completed with.
fn close_accepted(accepted: &Completion) {
    assert!(accepted.result >= 0, "accepted");
    // SAFETY: A non-negative result of accept is a new descriptor (io_uring_prep_accept(3)). Each
    // completion is reaped once, and both callers pass it on to nobody, so this is its only owner.
    drop(unsafe { OwnedFd::from_raw_fd(accepted.result) });
}

fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .or_else(|_| TcpListener::bind((Ipv6Addr::LOCALHOST, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> Trial {
        Trial::new(build_ring(8, 64).expect("the test host has io_uring").0)
    }

    #[test]
    fn probing_finds_what_linux_6_1_has() {
        let found = Capabilities::probe().expect("the test host has io_uring");
        assert!(found.setup.contains(SetupFlags::REQUIRED));
        assert_eq!(found.multishot_accept, Ability::Works);
        assert_eq!(found.buffer_ring, Ability::Works);
        assert_eq!(found.multishot_receive, Ability::Works);
        assert_eq!(found.send_zero_copy, Ability::Works);
        assert!(found.features.contains(&"FEAT_NODROP"));
        assert!(found.operations.contains(&"OP_SEND_ZC"));
        assert!(!found.release.is_empty());
    }

    #[test]
    fn each_operation_is_named_once() {
        let mut found = Capabilities::probe().expect("the test host has io_uring").operations;
        let count = found.len();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), count, "{found:?}");
    }

    #[test]
    fn pages_are_aligned_to_their_size() {
        for page_bytes in [page_bytes(), 4 << 10, 16 << 10, 64 << 10] {
            let mut pages = Pages::new(SEND_PAGE + 1, page_bytes);
            for index in 0..=SEND_PAGE {
                assert!(pages.page(index).as_ptr().addr().is_multiple_of(page_bytes));
                pages.page_mut(index).fill(1);
            }
        }
    }

    #[test]
    fn cancelled_operation_is_reaped_before_memory_goes() {
        let mut trial = trial();
        assert_eq!(trial.buffer_ring(), Ability::Works);
        let (ours, _theirs) = UnixStream::pair().expect("socket pair");
        trial.start(&Operation::Receive(&ours)).expect("submitted");
        assert_eq!(trial.in_flight, 1, "nothing was sent, so it waits");
        trial.settle();
        assert_eq!(trial.in_flight, 0);
    }

    /// As after a submit that the kernel refused for want of memory.
    #[test]
    fn what_could_not_be_submitted_is_not_submitted_later() {
        let mut trial = trial();
        let (ours, _theirs) = UnixStream::pair().expect("socket pair");
        let entry = opcode::RecvMulti::new(Fd(ours.as_raw_fd()), GROUP).build();
        trial.push(&entry).expect("room");
        trial.in_flight += 1;
        drop(ours);
        trial.settle();
        assert!(trial.next().is_none());
        assert!(!trial.ring.submission().is_empty(), "the descriptor is closed");
        let (ours, _theirs) = UnixStream::pair().expect("socket pair");
        let outcome = trial.start(&Operation::Receive(&ours));
        assert_eq!(outcome.map_err(|error| errno_of(&error)), Err(libc::EBUSY));
    }

    #[test]
    fn silence_is_bounded() {
        let mut trial = trial();
        let begun = Nanos::now();
        assert!(trial.next().is_none());
        let waited = Nanos::now().since(begun);
        assert!(waited >= TRIAL_MAX);
        assert!(waited < 4 * TRIAL_MAX, "{waited:?}");
    }

    #[test]
    fn refused_operation_is_told_apart() {
        let mut trial = trial();
        // No group is registered: the receive ends at once with ENOBUFS.
        let (ours, mut theirs) = UnixStream::pair().expect("socket pair");
        theirs.write_all(b"x").expect("room");
        trial.start(&Operation::Receive(&ours)).expect("submitted");
        let failed = trial.next().expect("it fails at once");
        assert_eq!(failed.ability_on_failure(), Ability::Refused { errno: libc::ENOBUFS });
        assert_eq!(trial.in_flight, 0);
    }

    #[test]
    fn abilities_are_readable() {
        assert_eq!(Ability::Works.to_string(), "works");
        let refused = Ability::Refused { errno: libc::EINVAL };
        assert_eq!(refused.to_string(), "refused: Invalid argument (os error 22)");
        let json = serde_json::to_string(&refused).expect("plain data");
        assert_eq!(json, r#"{"state":"refused","errno":22}"#);
    }
}

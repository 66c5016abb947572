//! Builds the ring: the flags we want, then the same without what Linux 6.1 lacks, then no further.
//!
//! The ladder and the search for the refused flag are pure functions of an `attempt`, so that the
//! kernels we do not have are played by closures in the tests.
//!
//! Cost: one io_uring_setup(2) and one register call where everything is well. Not for the turn.

use std::fmt;
use std::io;
use std::ops::BitOr;

use io_uring::{IoUring, Parameters, Probe, opcode};
use serde::{Serialize, Serializer};

use super::refusal::{Facts, RingError, explain, explain_flags};

/// Flags of io_uring_setup(2) a ring was made with, by their bits in the kernel's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SetupFlags(u32);

impl SetupFlags {
    /// The completion queue has the size asked for (5.5).
    pub const CQSIZE: Self = Self(1 << 3);
    /// Queue sizes above the kernel's limit are lowered to it (5.6).
    pub const CLAMP: Self = Self(1 << 4);
    /// One bad entry does not strand the rest of a batch (5.18).
    pub const SUBMIT_ALL: Self = Self(1 << 7);
    /// Completions do not interrupt the thread (5.19).
    pub const COOP_TASKRUN: Self = Self(1 << 8);
    /// The kernel shows in memory that work is waiting, so that a spinning thread need not ask
    /// (5.19).
    pub const TASKRUN_FLAG: Self = Self(1 << 9);
    /// Only one thread submits: a condition of `DEFER_TASKRUN` (6.0).
    pub const SINGLE_ISSUER: Self = Self(1 << 12);
    /// Completion work runs only when the thread asks for it (6.1).
    pub const DEFER_TASKRUN: Self = Self(1 << 13);
    /// The submission queue has no index array in between (6.6).
    pub const NO_SQARRAY: Self = Self(1 << 16);

    /// What every ring has: without one of these there is none.
    pub const REQUIRED: Self = Self(
        Self::CQSIZE.0
            | Self::CLAMP.0
            | Self::SUBMIT_ALL.0
            | Self::COOP_TASKRUN.0
            | Self::TASKRUN_FLAG.0
            | Self::SINGLE_ISSUER.0
            | Self::DEFER_TASKRUN.0,
    );
    /// What a ring has where the kernel knows it.
    pub const WANTED: Self = Self(Self::REQUIRED.0 | Self::NO_SQARRAY.0);

    /// Every flag with its name, in the kernel's order.
    const NAMES: [(Self, &'static str); 8] = [
        (Self::CQSIZE, "CQSIZE"),
        (Self::CLAMP, "CLAMP"),
        (Self::SUBMIT_ALL, "SUBMIT_ALL"),
        (Self::COOP_TASKRUN, "COOP_TASKRUN"),
        (Self::TASKRUN_FLAG, "TASKRUN_FLAG"),
        (Self::SINGLE_ISSUER, "SINGLE_ISSUER"),
        (Self::DEFER_TASKRUN, "DEFER_TASKRUN"),
        (Self::NO_SQARRAY, "NO_SQARRAY"),
    ];

    /// Whether all of `flags` are among these.
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags by name, without the kernel's `IORING_SETUP_`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

impl BitOr for SetupFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for SetupFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl Serialize for SetupFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

/// A feature the kernel reports with the ring: its name, how to ask, whether we run without it.
pub(super) type Feature = (&'static str, fn(&Parameters) -> bool);

/// Features without which there is no ring; io_uring_setup(2).
pub(super) const FEATURES_REQUIRED: [Feature; 6] = [
    // Completions are never lost silently.
    ("FEAT_NODROP", Parameters::is_feature_nodrop),
    // A wait takes a timeout without an entry in the queue.
    ("FEAT_EXT_ARG", Parameters::is_feature_ext_arg),
    // Sockets are polled instead of handed to kernel threads.
    ("FEAT_FAST_POLL", Parameters::is_feature_fast_poll),
    // Registered buffers and files can be replaced while in use.
    ("FEAT_RSRC_TAGS", Parameters::is_feature_resource_tagging),
    ("FEAT_CQE_SKIP", Parameters::is_feature_skip_cqe_on_success),
    // What an entry points to is read during submission and not later.
    ("FEAT_SUBMIT_STABLE", Parameters::is_feature_submit_stable),
];

/// Operations without which there is no ring.
pub(super) const OPERATIONS_REQUIRED: [(&str, u8); 10] = [
    ("OP_ACCEPT", opcode::Accept::CODE),
    ("OP_RECV", opcode::Recv::CODE),
    ("OP_SEND", opcode::Send::CODE),
    ("OP_SEND_ZC", opcode::SendZc::CODE),
    ("OP_SENDMSG", opcode::SendMsg::CODE),
    ("OP_SENDMSG_ZC", opcode::SendMsgZc::CODE),
    ("OP_CONNECT", opcode::Connect::CODE),
    ("OP_ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("OP_POLL_ADD", opcode::PollAdd::CODE),
    ("OP_READ", opcode::Read::CODE),
];

/// Features that help where they are.
pub(super) const FEATURES_OPTIONAL: [Feature; 4] = [
    ("FEAT_LINKED_FILE", Parameters::is_feature_linked_file),
    ("FEAT_RECVSEND_BUNDLE", Parameters::is_feature_recvsend_bundle),
    ("FEAT_MIN_TIMEOUT", Parameters::is_feature_min_timeout),
    ("FEAT_NO_IOWAIT", Parameters::is_feature_no_iowait),
];

/// Operations that help where they are.
pub(super) const OPERATIONS_OPTIONAL: [(&str, u8); 1] =
    [("OP_MSG_RING", opcode::MsgRingData::CODE)];

/// Builds a ring of `entries` submissions and `cq_entries` completions, owned by the calling
/// thread: with `SINGLE_ISSUER` the kernel refuses every other. Sizes above the kernel's limits are
/// lowered to them (`CLAMP`); read the real ones from `params()`.
///
/// # Errors
///
/// [`RingError`], which says what to do.
///
/// # Panics
///
/// When `entries` is 0 or above `cq_entries`.
pub(crate) fn build_ring(
    entries: u32,
    cq_entries: u32,
) -> Result<(IoUring, SetupFlags), RingError> {
    assert!(entries > 0, "a ring has at least one entry");
    assert!(cq_entries >= entries, "the completion queue is at least as long as the other");
    let attempt = |flags| attempt(flags, entries, cq_entries);
    let (ring, flags) = climb(attempt).map_err(|refusal| {
        let facts = Facts::gather().needing(ring_bytes(entries, cq_entries));
        match refusal {
            Refusal::Errno(errno) => explain("io_uring_setup", errno, &facts),
            Refusal::Flags(flags) => explain_flags(flags, &facts),
        }
    })?;
    let names = lacking(&ring)?;
    if !names.is_empty() {
        return Err(RingError::MissingFeatures { names, release: Facts::gather().release });
    }
    Ok((ring, flags))
}

/// What a ring of this size charges against RLIMIT_MEMLOCK, in bytes, estimated: entries of 64 and
/// completions of 16 bytes, the index array, and the header, each rounded to pages.
#[must_use]
pub fn ring_bytes(entries: u32, cq_entries: u32) -> u64 {
    const PAGE_BYTES: u64 = 4096;
    const HEADER_BYTES: u64 = 320;
    let entries = u64::from(entries).next_power_of_two();
    let cq_entries = u64::from(cq_entries).next_power_of_two();
    let rings = HEADER_BYTES + cq_entries * 16 + entries * 4;
    (entries * 64).next_multiple_of(PAGE_BYTES) + rings.next_multiple_of(PAGE_BYTES)
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The call failed, and not for a flag.
    Errno(i32),
    /// These flags are refused.
    Flags(SetupFlags),
}

/// Tries the wanted flags, then the required ones, and when the kernel refuses both for a flag
/// (`EINVAL`), finds which.
fn climb<R>(
    mut attempt: impl FnMut(SetupFlags) -> Result<R, i32>,
) -> Result<(R, SetupFlags), Refusal> {
    for flags in [SetupFlags::WANTED, SetupFlags::REQUIRED] {
        match attempt(flags) {
            Ok(ring) => return Ok((ring, flags)),
            Err(libc::EINVAL) => {}
            Err(errno) => return Err(Refusal::Errno(errno)),
        }
    }
    let refused = refused_flags(|flags| attempt(flags).map(drop));
    if refused.is_empty() {
        return Err(Refusal::Errno(libc::EINVAL));
    }
    Err(Refusal::Flags(refused))
}

/// Tries each required flag with nothing but the flags it depends on. At most seven calls.
fn refused_flags(mut attempt: impl FnMut(SetupFlags) -> Result<(), i32>) -> SetupFlags {
    let mut refused = SetupFlags::default();
    for (flag, _) in SetupFlags::NAMES {
        if !SetupFlags::REQUIRED.contains(flag) {
            continue;
        }
        // io_uring_setup(2): these two are refused without the flags they build on.
        let needs = match flag {
            SetupFlags::TASKRUN_FLAG => SetupFlags::COOP_TASKRUN,
            SetupFlags::DEFER_TASKRUN => SetupFlags::SINGLE_ISSUER,
            _ => SetupFlags::default(),
        };
        if attempt(flag | needs) == Err(libc::EINVAL) {
            refused = refused | flag;
        }
    }
    refused
}

fn attempt(flags: SetupFlags, entries: u32, cq_entries: u32) -> Result<IoUring, i32> {
    let mut builder = IoUring::builder();
    // A child of fork(2) must not see, let alone drive, its parent's ring.
    builder.dontfork();
    for (flag, _) in SetupFlags::NAMES {
        if !flags.contains(flag) {
            continue;
        }
        match flag {
            SetupFlags::CQSIZE => builder.setup_cqsize(cq_entries),
            SetupFlags::CLAMP => builder.setup_clamp(),
            SetupFlags::SUBMIT_ALL => builder.setup_submit_all(),
            SetupFlags::COOP_TASKRUN => builder.setup_coop_taskrun(),
            SetupFlags::TASKRUN_FLAG => builder.setup_taskrun_flag(),
            SetupFlags::SINGLE_ISSUER => builder.setup_single_issuer(),
            SetupFlags::DEFER_TASKRUN => builder.setup_defer_taskrun(),
            SetupFlags::NO_SQARRAY => builder.setup_no_sqarray(),
            _ => unreachable!("NAMES holds every flag"),
        };
    }
    builder.build(entries).map_err(|error| errno_of(&error))
}

/// Names of the required features and operations that `ring` lacks.
fn lacking(ring: &IoUring) -> Result<Vec<&'static str>, RingError> {
    let params = ring.params();
    let probe = operations(ring)?;
    let features = FEATURES_REQUIRED.into_iter().filter(|(_, has)| !has(params));
    let operations = OPERATIONS_REQUIRED.into_iter().filter(|(_, code)| !probe.is_supported(*code));
    Ok(features.map(|(name, _)| name).chain(operations.map(|(name, _)| name)).collect())
}

/// Asks which operations the kernel has (IORING_REGISTER_PROBE, Linux 5.6).
pub(super) fn operations(ring: &IoUring) -> Result<Probe, RingError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| {
        explain("io_uring_register(IORING_REGISTER_PROBE)", errno_of(&error), &Facts::gather())
    })?;
    Ok(probe)
}

pub(super) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that knows `known` and follows the rules of io_uring_setup(2).
    fn kernel(known: SetupFlags) -> impl FnMut(SetupFlags) -> Result<(), i32> {
        move |flags| {
            let alone = |flag, needs| flags.contains(flag) && !flags.contains(needs);
            let broken = alone(SetupFlags::DEFER_TASKRUN, SetupFlags::SINGLE_ISSUER)
                || (alone(SetupFlags::TASKRUN_FLAG, SetupFlags::COOP_TASKRUN)
                    && !flags.contains(SetupFlags::DEFER_TASKRUN));
            if broken || !known.contains(flags) { Err(libc::EINVAL) } else { Ok(()) }
        }
    }

    fn without(flags: &[SetupFlags]) -> SetupFlags {
        SetupFlags(flags.iter().fold(SetupFlags::WANTED.0, |all, flag| all & !flag.0))
    }

    #[test]
    fn new_kernel_gives_every_flag() {
        assert_eq!(climb(kernel(SetupFlags::WANTED)), Ok(((), SetupFlags::WANTED)));
    }

    #[test]
    fn kernel_without_no_sqarray_gives_the_rest() {
        assert_eq!(climb(kernel(SetupFlags::REQUIRED)), Ok(((), SetupFlags::REQUIRED)));
    }

    #[test]
    fn defer_taskrun_is_never_dropped() {
        // Linux 6.0, and 5.15.
        let defer = SetupFlags::DEFER_TASKRUN;
        let known = without(&[defer, SetupFlags::NO_SQARRAY]);
        assert_eq!(climb(kernel(known)), Err(Refusal::Flags(defer)));
        let old = SetupFlags::CQSIZE | SetupFlags::CLAMP;
        let Err(Refusal::Flags(refused)) = climb(kernel(old)) else {
            panic!("5.15 has neither of the task-run flags");
        };
        let expected = "SUBMIT_ALL, COOP_TASKRUN, TASKRUN_FLAG, SINGLE_ISSUER, DEFER_TASKRUN";
        assert_eq!(refused.to_string(), expected);
    }

    #[test]
    fn other_errors_end_the_ladder_at_once() {
        let mut calls = 0;
        let refused = climb(|_| -> Result<(), i32> {
            calls += 1;
            Err(libc::EPERM)
        });
        assert_eq!(refused, Err(Refusal::Errno(libc::EPERM)));
        assert_eq!(calls, 1);
    }

    #[test]
    fn invalid_for_no_flag_stays_an_errno() {
        let refused = climb(|flags| {
            if SetupFlags::REQUIRED.contains(flags) && flags != SetupFlags::REQUIRED {
                return Ok(());
            }
            Err(libc::EINVAL)
        });
        assert_eq!(refused, Err(Refusal::Errno(libc::EINVAL)));
    }

    #[test]
    fn every_flag_has_a_name() {
        let named = SetupFlags::NAMES.iter().fold(0, |all, (flag, _)| all | flag.0);
        assert_eq!(named, SetupFlags::WANTED.0);
    }

    #[test]
    fn this_kernel_gives_a_ring() {
        let (ring, flags) = build_ring(8, 64).expect("the test host has io_uring");
        assert!(flags.contains(SetupFlags::REQUIRED));
        assert_eq!(ring.params().sq_entries(), 8);
        assert_eq!(ring.params().cq_entries(), 64);
        assert!(ring.params().is_setup_single_issuer());
    }

    #[test]
    fn sizes_above_the_kernels_are_lowered() {
        let (ring, _) = build_ring(1 << 20, 1 << 22).expect("CLAMP");
        assert!(ring.params().sq_entries() < 1 << 20);
    }

    #[test]
    fn ring_bytes_grow_with_both_queues() {
        assert_eq!(ring_bytes(8, 64), 8192);
        assert!(ring_bytes(512, 4096) > 96 << 10);
        assert!(ring_bytes(512, 4096) < 128 << 10);
    }
}

//! What the kernel can do, and why it refuses.
//!
//! `build_ring` makes the one kind of ring this library runs on, or says in a [`RingError`] what
//! stands in the way and what to do about it. Nothing is silently left out: a ring without
//! `DEFER_TASKRUN` would work and be slow, which is the kind of fault nobody finds.
//!
//! Cost: a few system calls, once per ring, before the first turn. Not for the turn.

mod capabilities;
mod refusal;
mod setup;

pub use capabilities::{Ability, Capabilities};
pub use refusal::{Facts, RingError, Scope, explain};
pub(crate) use setup::build_ring;
pub use setup::{SetupFlags, ring_bytes};

/// The oldest kernel a ring is built on: the first with `DEFER_TASKRUN` (io_uring_setup(2)).
pub const KERNEL_MIN: (u32, u32) = (6, 1);

/// Reads major and minor version from a release such as `6.1.0-18-amd64`; zero for what is not a
/// number.
#[must_use]
pub fn kernel_version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    (number(), number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(kernel_version("6.1.0-18-amd64"), (6, 1));
        assert_eq!(kernel_version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(kernel_version("7.0-rc3"), (7, 0));
        assert_eq!(kernel_version("6.12+"), (6, 12));
        assert_eq!(kernel_version("custom"), (0, 0));
        assert_eq!(kernel_version(""), (0, 0));
    }
}

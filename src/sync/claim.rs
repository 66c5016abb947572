//! Decides between the reactor, which wants to carry a command out, and the caller, which wants to
//! withdraw it.
//!
//! A caller waits for its answer for a limited time. Then it *withdraws* the command: caller and
//! reactor claim it with one swap, and whoever is first decides. So what was withdrawn is never
//! carried out, and what is carried out is never reported as withdrawn.

use std::sync::Arc;

use super::atomic::{AtomicBool, Ordering};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Makes the claim, unless the other side has: returns whether it is ours now.
    #[must_use]
    pub(crate) fn try_claim(&self) -> bool {
        // ORDERING: Relaxed: a swap alone decides, it orders no other memory.
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// Makes it as new, for another decision. The caller does when the answer has come: then the
    /// reactor has made its claim. The reactor does when it has begun with what takes long: a
    /// caller that was second just before then waits for the end.
    pub(crate) fn renew(&self) {
        // ORDERING: Relaxed: the queue orders it before the reactor's next claim; a swap of the
        // caller comes before it or after it.
        self.0.store(false, Ordering::Relaxed);
    }
}

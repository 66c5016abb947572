//! What the kernel can do, and why it refuses.

/// The kernel refused the ring.
#[derive(Debug, thiserror::Error)]
#[error("placeholder")]
pub struct RingError;

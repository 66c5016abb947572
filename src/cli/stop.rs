//! Ending in order on a signal.
//!
//! Ctrl-C and SIGTERM set a flag and nothing else; whoever does something for long looks at it
//! every [`TICK`], and ends in order. A second signal ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringwire::SetupError;
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::flag;

/// How late a signal may be noticed.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// How long the end may take after a signal: what is queued is sent, and the other side closes.
pub(super) const END_DEADLINE: Duration = Duration::from_secs(2);
/// Exit code of a command that a signal ended before all was done, as a shell reports SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// Whether a signal has asked for the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Catches the signals from now on.
    pub(super) fn on_signals() -> Result<Self, SetupError> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: what is registered first runs first, and must not see its own signal.
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&stop.0))
                .and_then(|_| flag::register(signal, Arc::clone(&stop.0)))
                .map_err(|source| SetupError::System { operation: "sigaction", source })?;
        }
        Ok(stop)
    }

    pub(super) fn is_set(&self) -> bool {
        // ORDERING: Relaxed, paired with the store in the signal handler: it carries nothing else.
        self.0.load(Ordering::Relaxed)
    }
}

//! Log lines about what may happen a million times: at most one a second of each kind, with the
//! number of what was not told before.
//!
//! Called where something has gone wrong already, never for a message that goes its way.

use std::time::Duration;

use crate::error::DropReason;
use crate::session::block::Drops;
use crate::time::Nanos;
use crate::wire::Priority;

/// How often one kind is told.
const EVERY: Duration = Duration::from_secs(1);

/// Whether it is time to tell again.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Limited {
    told_at: Option<Nanos>,
    untold: u64,
}

impl Limited {
    /// `count` more have happened. Returns how many are to be told now, if any.
    pub(crate) fn happened(&mut self, count: u64, now: Nanos) -> Option<u64> {
        self.untold += count;
        let is_time = self.told_at.is_none_or(|at| now >= at + EVERY);
        (is_time && self.untold > 0).then(|| {
            self.told_at = Some(now);
            std::mem::take(&mut self.untold)
        })
    }
}

/// What a reactor tells of.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    drops: Limited,
    lacks: Limited,
    overflows: Limited,
}

impl Troubles {
    /// Messages of a session were dropped.
    #[cold]
    pub(crate) fn dropped(&mut self, peer: &str, drops: &[Drops; Priority::COUNT], now: Nanos) {
        let total = drops.iter().map(Drops::total).sum();
        let Some(messages) = self.drops.happened(total, now) else { return };
        // The latest: the counters have all of them.
        let latest = Priority::ALL.into_iter().rev().find_map(|priority| {
            let reasons = drops[priority.index()].by_reason();
            let reason = DropReason::ALL.into_iter().find(|reason| reasons[reason.index()] > 0)?;
            Some((priority, reason))
        });
        let Some((priority, reason)) = latest else { return };
        let reason = reason.name();
        tracing::warn!(messages, peer, ?priority, reason, "messages dropped");
    }

    /// A session has ended: what of drops no line has told yet.
    #[cold]
    pub(crate) fn tell_rest(&mut self) {
        let messages = std::mem::take(&mut self.drops.untold);
        if messages > 0 {
            tracing::warn!(messages, "messages dropped since the last line");
        }
    }

    /// The kernel had no buffer or memory for an operation.
    #[cold]
    pub(crate) fn lacked(&mut self, operation: &'static str, errno: i32, now: Nanos) {
        if let Some(times) = self.lacks.happened(1, now) {
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!(times, operation, %error, "the kernel lacks memory: trying again");
        }
    }

    /// The completion queue had no room.
    #[cold]
    pub(crate) fn overflowed(&mut self, now: Nanos) {
        if let Some(times) = self.overflows.happened(1, now) {
            tracing::warn!(
                times,
                "the completion queue overflowed (ring_entries): nothing is lost, but it costs time"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_tells_of_all() {
        let mut limited = Limited::default();
        let at = |millis: u64| Nanos(1_000_000_000 + millis * 1_000_000);
        assert_eq!(limited.happened(0, at(0)), None);
        assert_eq!(limited.happened(2, at(0)), Some(2));
        assert_eq!(limited.happened(3, at(1)), None);
        assert_eq!(limited.happened(4, at(999)), None);
        assert_eq!(limited.happened(1, at(1000)), Some(8));
        assert_eq!(limited.happened(1, at(1001)), None);
        assert_eq!(limited.happened(0, at(5000)), Some(1));
    }

    #[test]
    fn rest_is_told_once() {
        let mut troubles = Troubles::default();
        assert_eq!(troubles.drops.happened(1, Nanos(1)), Some(1));
        assert_eq!(troubles.drops.happened(7, Nanos(2)), None);
        troubles.tell_rest();
        assert_eq!(troubles.drops.untold, 0);
    }
}

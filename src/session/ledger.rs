//! What became of a session's messages, as far as its lanes do not count it themselves: in their
//! earlier lives, and what has been told of it. The reactor asks for the difference after each
//! block, and adds it to its own counters.

use crate::error::DropReason;
use crate::session::Session;
use crate::session::block::{Block, Drops, Resting};
use crate::session::lane::Reliable;
use crate::stats::{DropCount, drop_counts};
use crate::wire::Priority;

/// Drops that are no lane's any more are to be told.
const UNTOLD: u64 = u64::MAX;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Made with the first drop: most sessions never have one.
    drop_history: Option<Box<DropHistory>>,
    /// What the drops of the lanes add up to while nothing is untold; or [`UNTOLD`].
    told_of_lanes: u64,
    /// Admitted in earlier lives of the lanes.
    past_admitted: u64,
    /// Last sequence of each lane that was ever handed over.
    handed_over: [u64; Priority::COUNT],
    /// What is handed over once more since [`Session::take_admissions`] was last called.
    resent: u64,
    /// What [`Session::take_admissions`] has told.
    told_admitted: u64,
    told_queued: u64,
    told_reliable: Reliable,
}

/// What is known of a session's drops beside what its lanes count.
#[derive(Debug, Default)]
struct DropHistory {
    /// Dropped in earlier lives of the lanes: before the peer lost its session.
    past: [Drops; Priority::COUNT],
    /// What [`Session::take_drops`] has told.
    told: [Drops; Priority::COUNT],
}

/// What a session has admitted and sent again since it was last asked, and what waits in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Admissions {
    pub(crate) admitted: u64,
    pub(crate) resent: u64,
    /// Queued and in flight.
    pub(crate) queued: u64,
    /// As many as that were when it was last asked.
    pub(crate) queued_before: u64,
    /// What became of reliable messages.
    pub(crate) reliable: Reliable,
}

impl Ledger {
    /// Books what is handed over, and what of it not for the first time. Once per block.
    #[inline]
    pub(super) fn hand_over(&mut self, lane: Priority, block: &Block) {
        let handed_over = &mut self.handed_over[lane.index()];
        if block.span.first <= *handed_over {
            let again = |frame: &Resting<'_>| !frame.is_gap() && frame.sequence <= *handed_over;
            self.resent += block.frames().filter(again).count() as u64;
        }
        *handed_over = block.span.last.max(*handed_over);
    }

    /// Books what a lane has counted that begins anew, or ends.
    pub(super) fn give_up(&mut self, lane: Priority, admitted: u64, drops: &Drops) {
        self.past_admitted += admitted;
        self.handed_over[lane.index()] = 0;
        if drops.total() > 0 {
            self.history().past[lane.index()].add_all(drops);
        }
        self.told_of_lanes = UNTOLD;
    }

    /// Books what the session drops when its lanes have been given up.
    pub(super) fn drop_at_end(&mut self, lane: Priority, count: u64) {
        self.history().past[lane.index()].add(DropReason::SessionEnded, count);
        self.told_of_lanes = UNTOLD;
    }

    fn history(&mut self) -> &mut DropHistory {
        self.drop_history.get_or_insert_default()
    }
}

impl Session {
    /// What has been admitted and sent again since the last call, and what waits. Once per block.
    #[inline]
    pub(crate) fn take_admissions(&mut self) -> Admissions {
        let admitted = self.ledger.past_admitted + self.messages_admitted();
        let queued = self.frames_queued();
        let news = Admissions {
            admitted: admitted - self.ledger.told_admitted,
            resent: std::mem::take(&mut self.ledger.resent),
            queued,
            queued_before: self.ledger.told_queued,
            reliable: self.holdings.reliable.since(self.ledger.told_reliable),
        };
        self.ledger.told_admitted = admitted;
        self.ledger.told_queued = queued;
        self.ledger.told_reliable = self.holdings.reliable;
        news
    }

    /// Whether the peer has confirmed reliable messages since [`Session::take_admissions`] was last
    /// called. Once per receive.
    #[inline]
    pub(crate) fn has_untold_confirmations(&self) -> bool {
        self.holdings.reliable.confirmed != self.ledger.told_reliable.confirmed
    }

    /// Messages dropped since the last call, by lane.
    pub(crate) fn take_drops(&mut self) -> [Drops; Priority::COUNT] {
        let mut news = [Drops::default(); Priority::COUNT];
        self.ledger.told_of_lanes = self.dropped_by_lanes();
        if self.ledger.told_of_lanes == 0 && self.ledger.drop_history.is_none() {
            return news;
        }
        let history = self.ledger.history();
        for (index, news) in news.iter_mut().enumerate() {
            let mut total = history.past[index];
            total.add_all(self.lanes[index].drops());
            *news = total.since(&history.told[index]);
            history.told[index] = total;
        }
        news
    }

    /// Whether [`Session::take_drops`] may have something to tell. Once per block.
    #[inline]
    pub(crate) fn has_untold_drops(&self) -> bool {
        self.dropped_by_lanes() != self.ledger.told_of_lanes
    }

    #[inline]
    fn dropped_by_lanes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.drops().total()).sum()
    }

    /// Messages dropped so far, by lane and reason; what never occurred is left out.
    pub(crate) fn drop_counts(&self) -> Vec<DropCount> {
        let counts = std::array::from_fn(|index| {
            let mut total = *self.lanes[index].drops();
            if let Some(history) = &self.ledger.drop_history {
                total.add_all(&history.past[index]);
            }
            *total.by_reason()
        });
        drop_counts(counts)
    }
}

//! What was dropped: counted at once, and told by events where the configuration asks for them.
//!
//! An event for each message would push the others out of their queue just when there is much to
//! tell. So the drops of a session are summed, and told at once when nothing was told for
//! [`INTERVAL`], otherwise when that has passed.

use std::time::Duration;

use slotmap::SecondaryMap;

use crate::error::DropReason;
use crate::reactor::connection::ConnectionKey;
use crate::reactor::core::Core;
use crate::reactor::sessions::{Home, SessionKey};
use crate::reactor::{Event, EventKind};
use crate::session::Admissions;
use crate::session::block::Drops;
use crate::session::lane::Reliable;
use crate::time::Nanos;
use crate::wire::Priority;

/// How often the drops of a reactor's sessions are told.
const INTERVAL: Duration = Duration::from_millis(100);

/// By lane.
type LaneDrops = [Drops; Priority::COUNT];

/// Drops that no event has told yet.
#[derive(Debug)]
pub(crate) struct DropNews {
    /// Of each session, by what the application calls it.
    untold: SecondaryMap<SessionKey, LaneDrops>,
    told_at: Nanos,
    due_at: Nanos,
    is_wanted: bool,
}

impl DropNews {
    /// Room for so many sessions; 0 where nobody wants to be told.
    pub(crate) fn with_capacity(homes_max: usize) -> Self {
        Self {
            untold: SecondaryMap::with_capacity(homes_max),
            told_at: Nanos(0),
            due_at: Nanos::NEVER,
            is_wanted: homes_max > 0,
        }
    }

    /// When there is something to tell.
    #[inline]
    pub(crate) fn due_at(&self) -> Nanos {
        self.due_at
    }

    fn add(&mut self, session: SessionKey, drops: &LaneDrops, now: Nanos) {
        if self.untold.is_empty() {
            self.due_at = now.max(self.told_at + INTERVAL);
        }
        match self.untold.get_mut(session) {
            Some(sums) => sums.iter_mut().zip(drops).for_each(|(sum, drops)| sum.add_all(drops)),
            None => drop(self.untold.insert(session, *drops)),
        }
    }

    fn take(&mut self, session: SessionKey) -> Option<LaneDrops> {
        let drops = self.untold.remove(session)?;
        if self.untold.is_empty() {
            self.due_at = Nanos::NEVER;
        }
        Some(drops)
    }
}

impl Core {
    /// Counts what a part of a session has dropped since it was last asked. Returns how many
    /// messages.
    pub(crate) fn count_drops(&mut self, home: SessionKey) -> u64 {
        let session = match &mut self.homes[home] {
            &mut Home::Here(key) => &mut self.connections[key].session,
            Home::Away(away) => away.session_mut(),
        };
        let admissions = session.take_admissions();
        let drops = session.take_drops();
        self.book(&admissions);
        let mut total = 0;
        let opened = self.meter.open();
        for (lane, (counters, drops)) in self.counters.drops.iter().zip(&drops).enumerate() {
            total += drops.total();
            for (reason, (counter, &count)) in counters.iter().zip(drops.by_reason()).enumerate() {
                counter.add(count);
                self.meter.dropped(home, lane, reason, count);
            }
        }
        self.meter.close(opened);
        if total > 0 {
            let peer = self.session_mut(home).and_then(|session| session.peer());
            let mut peer = peer.map(|peer| peer.node_name.clone()).unwrap_or_default();
            if peer.is_empty()
                && let Home::Here(key) = self.homes[home]
            {
                peer.clone_from(&self.connections[key].address);
            }
            self.troubles.dropped(&peer, &drops, self.now);
        }
        if self.drop_news.is_wanted && total > 0 {
            self.drop_news.add(self.pairs.public(home), &drops, self.now);
        }
        total
    }

    /// Counts what the session of a connection has admitted since it was last asked, what waits in
    /// it, and what its peer has confirmed. Hot path: once per block.
    #[inline]
    pub(crate) fn count_admissions(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(key) {
            let admissions = connection.session.take_admissions();
            self.book(&admissions);
        }
    }

    /// Counts what a session has admitted.
    #[inline]
    pub(crate) fn book(&mut self, admissions: &Admissions) {
        let Admissions { admitted, resent, queued, queued_before, reliable } = *admissions;
        let opened = self.meter.open();
        self.counters.messages_admitted.add(admitted);
        self.counters.messages_resent.add(resent);
        if queued != queued_before {
            self.queued = self.queued + queued - queued_before;
            self.counters.messages_queued.set(self.queued);
        }
        if reliable != Reliable::default() {
            self.unconfirmed = self.unconfirmed + reliable.admitted - reliable.confirmed;
            self.unconfirmed -= reliable.lost;
            self.counters.reliable_admitted.add(reliable.admitted);
            self.counters.reliable_confirmed.add(reliable.confirmed);
            self.counters.reliable_lost.add(reliable.lost);
            self.counters.reliable_unconfirmed.set(self.unconfirmed);
        }
        self.meter.close(opened);
    }

    /// Tells what every session has dropped.
    #[cold]
    pub(crate) fn tell_drops(&mut self) {
        self.drop_news.told_at = self.now;
        let sessions: Vec<_> = self.drop_news.untold.keys().collect();
        for session in sessions {
            let Some(drops) = self.drop_news.take(session) else { continue };
            for kind in kinds(&drops) {
                self.emit_for(session, kind);
            }
        }
    }

    /// Tells what a session has dropped, before `event` tells that it is over.
    pub(crate) fn tell_drops_of(&mut self, event: &Event) {
        let Some(drops) = self.drop_news.take(event.connection.key) else { return };
        for kind in kinds(&drops) {
            self.publish(Event { kind, ..event.clone() });
        }
    }
}

/// The events that tell of drops.
fn kinds(drops: &LaneDrops) -> impl Iterator<Item = EventKind> {
    Priority::ALL.into_iter().flat_map(move |priority| {
        DropReason::ALL.into_iter().filter_map(move |reason| {
            let count = drops[priority.index()].by_reason()[reason.index()];
            (count > 0).then_some(EventKind::Dropped { priority, reason, count })
        })
    })
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    fn one(reason: DropReason) -> LaneDrops {
        let mut drops = [Drops::default(); Priority::COUNT];
        drops[Priority::High.index()].add(reason, 1);
        drops
    }

    #[test]
    fn drops_are_summed_until_they_are_due() {
        let mut sessions = SlotMap::<SessionKey, ()>::with_key();
        let session = sessions.insert(());
        let mut news = DropNews::with_capacity(4);
        assert_eq!(news.due_at(), Nanos::NEVER);
        let begin = Nanos(5_000_000_000);
        news.add(session, &one(DropReason::Expired), begin);
        assert_eq!(news.due_at(), begin, "the first is told at once");
        let _ = news.take(session);
        news.told_at = begin;
        news.add(session, &one(DropReason::Expired), begin + Duration::from_millis(1));
        news.add(session, &one(DropReason::Overflow), begin + Duration::from_millis(2));
        news.add(session, &one(DropReason::Expired), begin + Duration::from_millis(3));
        assert_eq!(news.due_at(), begin + INTERVAL);
        let drops = news.take(session).expect("three");
        let told: Vec<_> = kinds(&drops).collect();
        let priority = Priority::High;
        let expected = [(DropReason::Expired, 2), (DropReason::Overflow, 1)]
            .map(|(reason, count)| EventKind::Dropped { priority, reason, count });
        assert_eq!(told, expected);
        assert_eq!(news.due_at(), Nanos::NEVER);
    }
}

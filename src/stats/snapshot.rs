//! A snapshot of the counters, for people and programs.

use std::fmt;

use serde::Serialize;

use crate::error::{CloseReason, DropReason};
use crate::stats::{Counters, LANES};

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ConnectionState {
    /// Not connected, and nothing is under way.
    #[default]
    Disconnected,
    /// The connection or its handshake is under way.
    Connecting,
    /// Messages flow.
    Connected,
    /// The link was lost; another is being made, and reliable messages wait for it.
    Reconnecting,
    /// New messages are refused. What is queued still leaves; or the peer is gone, and what it sent
    /// before waits for room in the inbox.
    Closing,
}

/// How many connections ended for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CloseCount {
    /// Name of the reason, see [`CloseReason::NAMES`].
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

/// How many messages of one lane were dropped for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DropCount {
    /// The lane: 0 for low to 3 for critical.
    pub lane: usize,
    /// Why.
    pub reason: DropReason,
    /// How many.
    pub count: u64,
}

/// Those that occurred.
pub(crate) fn drop_counts(counts: [[u64; DropReason::COUNT]; LANES]) -> Vec<DropCount> {
    let all = counts.into_iter().enumerate().flat_map(|(lane, counts)| {
        DropReason::ALL.map(|reason| DropCount { lane, reason, count: counts[reason.index()] })
    });
    all.filter(|drop| drop.count > 0).collect()
}

macro_rules! statistics {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// What has happened so far, summed over the reactors asked.
        ///
        /// The counters are read one after another while their reactors go on: each is right, and
        /// they may be a few messages apart.
        ///
        /// # What became of every message
        ///
        /// Each of `messages_admitted` waits (`messages_queued`), was dropped for a counted reason
        /// (`drops`), or has been handed to the kernel and is not known to be lost. Once nothing is
        /// queued or on its way, those are what the peers have got. Of the two ends of a
        /// conversation without requests that were cancelled:
        ///
        /// ```text
        /// admitted == drops, summed + the peer's messages_received
        ///                           + those of its messages_expired that came too late
        /// ```
        ///
        /// `messages_sent - messages_resent` are the messages that were handed to the kernel at
        /// least once; where nothing is dropped or queued they are those admitted.
        ///
        /// Of reliable messages this side knows it by itself, at any time:
        ///
        /// ```text
        /// reliable_admitted == reliable_confirmed + reliable_unconfirmed + reliable_lost
        /// ```
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
        #[non_exhaustive]
        pub struct Statistics {
            /// Whether this side listens.
            pub is_server: bool,
            /// A client's connection. What holds several is connected while it listens or a session
            /// is established, closing while it shuts down, and then disconnected.
            pub state: ConnectionState,
            /// Reactors summed.
            pub reactors: u64,
            /// When a byte last came or went, in monotonic nanoseconds; 0 before.
            pub last_activity_ns: u64,
            /// The longest turn of any reactor, waiting not included, in nanoseconds.
            pub turn_longest_ns: u64,
            $($(#[doc = $doc])+ pub $name: u64,)+
            /// Connections that ended, by reason; reasons that never occurred are left out.
            pub closes: Vec<CloseCount>,
            /// Messages dropped on this side, by lane and reason; what never occurred is left out.
            pub drops: Vec<DropCount>,
        }

        impl Statistics {
            fn add(&mut self, counters: &Counters) {
                self.reactors += 1;
                self.last_activity_ns = self.last_activity_ns.max(counters.last_activity_ns.get());
                self.turn_longest_ns = self.turn_longest_ns.max(counters.turn_longest_ns.get());
                // A damaged file says anything.
                $(self.$name = self.$name.saturating_add(counters.$name.get());)+
            }

            /// Adds what had been counted before, by reactors that have ended since.
            pub(crate) fn add_past(&mut self, past: &Self) {
                let connections_active = self.connections_active;
                let messages_queued = self.messages_queued;
                let reliable_unconfirmed = self.reliable_unconfirmed;
                self.last_activity_ns = self.last_activity_ns.max(past.last_activity_ns);
                self.turn_longest_ns = self.turn_longest_ns.max(past.turn_longest_ns);
                $(self.$name = self.$name.saturating_add(past.$name);)+
                // No count, but what is so now.
                self.connections_active = connections_active;
                self.messages_queued = messages_queued;
                self.reliable_unconfirmed = reliable_unconfirmed;
                let sums = CloseReason::NAMES.map(|reason| {
                    let count = self.ended(reason).saturating_add(past.ended(reason));
                    CloseCount { reason, count }
                });
                self.closes = sums.into_iter().filter(|close| close.count > 0).collect();
                let mut drops = [[0; DropReason::COUNT]; LANES];
                for drop in self.drops.iter().chain(&past.drops) {
                    let sum: &mut u64 = &mut drops[drop.lane][drop.reason.index()];
                    *sum = sum.saturating_add(drop.count);
                }
                self.drops = drop_counts(drops);
            }
        }
    };
}

statistics! {
    /// Application messages handed to the kernel. Those that are sent again on a new link count
    /// again: `messages_resent` of them.
    messages_sent,
    /// Bytes of those frames on the wire.
    bytes_sent,
    /// Application messages handed to a handler, a waiting request or the inbox.
    messages_received,
    /// Bytes of those frames on the wire.
    bytes_received,
    /// Messages refused because a lane or the send memory was full.
    sends_refused,
    /// Of those, the ones refused because the send memory was full.
    sends_out_of_memory,
    /// Messages refused because they exceed the frame limit.
    sends_too_large,
    /// Admitted messages that a lost connection took with it.
    messages_dropped,
    /// Times a session had its link: established, or made again. Of two links, when both stand.
    connections_established,
    /// Times an established session lost its link, or ended with it. What was established and not
    /// lost is active.
    connections_lost,
    /// Sessions that have their link now: the active clients of a server.
    connections_active,
    /// Messages refused because their time to live had passed.
    sends_expired,
    /// Messages received too late to be handled, and not taken from the inbox in time.
    messages_expired,
    /// Requests of peers that were cancelled by them.
    requests_cancelled,
    /// Messages of peers that will not come: their side dropped them.
    messages_missed,
    /// Sessions that went on on a new link.
    sessions_resumed,
    /// Sessions that a peer came back without.
    sessions_lost,
    /// Times a watched message stayed away for its period.
    deadlines_missed,
    /// Times one came that had been missed.
    deadlines_recovered,
    /// Attempts to connect again.
    reconnect_attempts,
    /// Frames that a tap has no copy of: its reader was too slow.
    tap_frames_lost,
    /// Messages admitted to lanes: every send that was not refused, and every cancellation. Kept up
    /// to date by turns, as are those that follow.
    messages_admitted,
    /// Messages that wait to be handed to the kernel, or that it has not taken in full, now.
    messages_queued,
    /// Messages handed to the kernel once more, on a new link.
    messages_resent,
    /// Reliable messages admitted to lanes, cancellations of reliable requests among them.
    reliable_admitted,
    /// Of those, the ones that the peer has confirmed.
    reliable_confirmed,
    /// Of those, the ones that are queued, in flight or kept until the peer confirms them, now.
    reliable_unconfirmed,
    /// Of those, the ones that were dropped: expired, replaced, withdrawn, or lost with their
    /// session. `drops` counts them, too, by reason.
    reliable_lost,
    /// Panics caught in handlers.
    handler_panics,
    /// Responses that came after their request had been given up.
    responses_late,
    /// Connection events dropped because nobody fetched them.
    events_dropped,
    /// Reliable messages of lost sessions that no event names: too many waited to be fetched.
    undelivered_omitted,
    /// Commands of other threads carried out.
    commands,
    /// Messages posted by other threads without waiting for the verdict, and refused.
    posts_dropped,
    /// Connections accepted that could not be kept: no descriptor or no room.
    accept_errors,
    /// Times a connection was not read because the inbox or the receive memory was full.
    receive_pauses,
    /// Turns of the loop.
    turns,
    /// `io_uring_enter` calls.
    enters,
    /// Completions reaped.
    completions,
    /// Times a reactor went to sleep in the kernel.
    parks,
    /// Times another thread's command woke a reactor.
    wakeups,
    /// Times a reactor began to spin, waiting for something to do.
    spins,
    /// Of those, the ones that something came in, or that found room in a full socket.
    spin_hits,
    /// Turns that took longer than `turn_threshold_us`, waiting not included.
    turns_slow,
    /// Sessions for which the registry had no row.
    sessions_unlisted,
    /// Times the kernel reported an overflowing completion queue.
    cq_overflows,
    /// Times the kernel was out of buffers or memory for an operation, which was then repeated.
    enobufs,
    /// Sends that the socket took only in part, and that were continued: each counts once.
    short_sends,
    /// Sends made by a system call of their own, past the ring.
    direct_sends,
    /// Receives made by a system call of their own while spinning.
    direct_receives,
    /// Zero-copy sends.
    zero_copy_sends,
    /// Zero-copy sends that the kernel copied after all.
    zero_copy_copies,
}

impl Statistics {
    /// Sums the counters of `reactors`.
    pub(crate) fn collect<'a>(
        is_server: bool,
        reactors: impl IntoIterator<Item = &'a Counters>,
    ) -> Self {
        let mut statistics = Self { is_server, ..Self::default() };
        let mut closes = [0_u64; CloseReason::NAMES.len()];
        let mut drops = [[0_u64; DropReason::COUNT]; LANES];
        for counters in reactors {
            statistics.add(counters);
            for (sum, counter) in closes.iter_mut().zip(&counters.closes) {
                *sum = sum.saturating_add(counter.get());
            }
            for (sum, counter) in
                drops.as_flattened_mut().iter_mut().zip(counters.drops.as_flattened())
            {
                *sum = sum.saturating_add(counter.get());
            }
        }
        statistics.drops = drop_counts(drops);
        statistics.closes = CloseReason::NAMES
            .iter()
            .zip(closes)
            .filter(|&(_, count)| count > 0)
            .map(|(&reason, count)| CloseCount { reason, count })
            .collect();
        statistics
    }

    /// Messages dropped on this side for that reason, all lanes.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        let meant = self.drops.iter().filter(|drop| drop.reason == reason);
        meant.map(|drop| drop.count).fold(0, u64::saturating_add)
    }

    /// Connections that ended for exactly this reason.
    fn ended(&self, reason: &str) -> u64 {
        let meant = self.closes.iter().filter(|close| close.reason == reason);
        meant.map(|close| close.count).fold(0, u64::saturating_add)
    }

    /// Connections that ended for the named reason (see [`CloseReason::NAMES`]), or for any of the
    /// group named: `closed("protocol")` is the sum of `protocol.magic`, `protocol.checksum` …
    #[must_use]
    pub fn closed(&self, reason: &str) -> u64 {
        let is_meant = |close: &&CloseCount| {
            close.reason == reason
                || close.reason.split_once('.').is_some_and(|(group, _)| group == reason)
        };
        let meant = self.closes.iter().filter(is_meant);
        meant.map(|close| close.count).fold(0, u64::saturating_add)
    }

    /// Connections that ended for a reason that is nobody's wish: everything but an orderly end.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let orderly = ["peer_closed", "goodbye", "local"];
        let meant = self.closes.iter().filter(|close| !orderly.contains(&close.reason));
        meant.map(|close| close.count).fold(0, u64::saturating_add)
    }
}

/// What matters at the end of a run, on one line. Only what occurred is named, apart from the
/// messages.
impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "messages: {} received, {} sent", self.messages_received, self.messages_sent)?;
        let occurred = [
            (self.messages_dropped, "dropped"),
            (self.sends_refused, "refused"),
            (self.sends_out_of_memory, "of them for lack of send memory"),
            (self.sends_too_large, "too large"),
            (self.posts_dropped, "posts dropped"),
            (self.responses_late, "responses late"),
        ];
        for (count, what) in occurred.into_iter().filter(|&(count, _)| count > 0) {
            write!(f, ", {count} {what}")?;
        }
        write!(f, "; connections: {}", self.connections_active)?;
        if self.connections_established > 0 {
            write!(f, " of {}", self.connections_established)?;
        }
        let failures = [
            (self.accept_errors, "not accepted"),
            (self.handler_panics, "handler panics"),
            (self.events_dropped, "events dropped"),
            (self.undelivered_omitted, "undelivered messages omitted"),
        ];
        for (count, what) in failures.into_iter().filter(|&(count, _)| count > 0) {
            write!(f, ", {count} {what}")?;
        }
        for (index, close) in self.closes.iter().enumerate() {
            let before = if index == 0 { "; ended: " } else { ", " };
            write!(f, "{before}{} {}", close.count, close.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ProtocolError;

    #[test]
    fn only_what_occurred_is_shown() {
        let counters = Counters::default();
        counters.messages_received.add(3);
        let text = Statistics::collect(true, [&counters]).to_string();
        assert_eq!(text, "messages: 3 received, 0 sent; connections: 0");

        counters.messages_dropped.add(2);
        counters.connections_established.add(5);
        counters.connections_active.set(1);
        counters.accept_errors.add(7);
        counters.closes[CloseReason::PeerClosed.index()].add(1);
        for error in [ProtocolError::BadMagic { got: 1 }, ProtocolError::BadHandshake] {
            counters.closes[CloseReason::Protocol(error).index()].add(2);
        }
        let statistics = Statistics::collect(true, [&counters]);
        assert_eq!(
            statistics.to_string(),
            "messages: 3 received, 0 sent, 2 dropped; connections: 1 of 5, 7 not accepted; \
             ended: 1 peer_closed, 2 protocol.magic, 2 protocol.handshake"
        );
        assert_eq!(statistics.closed("protocol"), 4);
        assert_eq!(statistics.closed("protocol.magic"), 2);
        assert_eq!(statistics.closed("protocol.checksum"), 0);
        assert_eq!((statistics.closed("peer"), statistics.errors()), (0, 4));
    }

    #[test]
    fn past_is_added_and_what_is_so_now_is_not() {
        let counters = Counters::default();
        counters.messages_sent.add(2);
        counters.last_activity_ns.set(7);
        counters.connections_active.set(1);
        counters.messages_queued.set(5);
        counters.reliable_unconfirmed.set(6);
        counters.closes[CloseReason::Goodbye.index()].add(3);
        let past = Statistics::collect(true, [&counters]);
        counters.closes[CloseReason::Local.index()].add(1);
        let mut sum = Statistics::collect(true, [&counters]);
        sum.add_past(&past);
        assert_eq!((sum.messages_sent, sum.last_activity_ns, sum.connections_active), (4, 7, 1));
        assert_eq!((sum.closed("goodbye"), sum.closed("local"), sum.reactors), (6, 1, 1));
        assert_eq!((sum.closes.len(), sum.messages_queued), (2, 5));
        assert_eq!(sum.reliable_unconfirmed, 6, "what is so now");
    }
}

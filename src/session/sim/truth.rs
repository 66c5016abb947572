//! What really happened: every message admitted anywhere, and what became of it.
//!
//! Knows nothing of how sessions work. The sessions' own books are compared with this.

use std::collections::BTreeMap;

use crate::error::DropReason;
use crate::session::Undelivered;
use crate::session::block::Drops;
use crate::session::lane::Sent;
use crate::time::Nanos;
use crate::wire::{Frame, Kind, Priority, low_half};

/// Shortest payload: the number of the message.
pub(super) const PAYLOAD_BYTES_MIN: usize = 8;

/// A message that was admitted.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) life: usize,
    pub(super) lane: Priority,
    pub(super) kind: Kind,
    pub(super) type_id: u32,
    pub(super) sequence: u64,
    pub(super) payload_bytes: usize,
    pub(super) reliable: bool,
    /// By the sender's clock, as far as the wire can say it.
    pub(super) expires_at: Option<Nanos>,
    /// In true time.
    pub(super) expires_true: Option<u64>,
    pub(super) key: Option<u64>,
    /// Links of its session so far. What waits across a change is sent, latest or not.
    pub(super) era: u32,
    /// It was in a block that was taken for sending.
    pub(super) left: bool,
    /// A newer one took its place before it left.
    pub(super) superseded: bool,
    /// A newer one of its key was tried.
    pub(super) has_newer: bool,
    /// A request that was given up, and that its peer can not have.
    pub(super) withdrawn: bool,
    pub(super) handled: bool,
    pub(super) listed: Option<Sent>,
    /// Until when it may be of use, by the sender's clock: its time to live, or the time that a
    /// request is waited for. It may be dropped then.
    pub(super) useful_until: Option<Nanos>,
    /// The request that it is.
    pub(super) ask: Option<usize>,
    /// The request that it answers.
    pub(super) answers: Option<usize>,
    /// The request that it gives up.
    pub(super) cancels: Option<usize>,
}

/// One end's lanes, from when they are new until they are given up.
#[derive(Debug, Default)]
pub(super) struct Life {
    pub(super) lanes: [LaneLife; Priority::COUNT],
    /// The latest message of each key by lane.
    latest: BTreeMap<(usize, u64), usize>,
    pub(super) is_over: bool,
    /// Its session has said what it leaves.
    is_told: bool,
    /// A link was lost.
    pub(super) had_losses: bool,
}

#[derive(Debug, Default)]
pub(super) struct LaneLife {
    /// Numbers of the messages admitted.
    pub(super) messages: Vec<usize>,
    /// Last sequence used.
    pub(super) sequence: u64,
    /// How many took the place of another in the queue.
    pub(super) in_place: u64,
    pub(super) handled: u64,
    pub(super) drops: Drops,
    /// Last sequence that the sender knows to be received.
    pub(super) confirmed: u64,
}

/// What one end has received from one life of the other.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    pub(super) life: Option<usize>,
    last: [u64; Priority::COUNT],
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) messages: Vec<Message>,
    pub(super) lives: Vec<Life>,
    pub(super) handled: u64,
}

/// The payload of a message: its number, and bytes that follow from it.
pub(super) fn payload(number: usize, bytes: usize) -> Vec<u8> {
    let mut payload = (number as u64).to_le_bytes().to_vec();
    payload.extend((PAYLOAD_BYTES_MIN..bytes).map(|at| filler(number, at)));
    payload
}

fn filler(number: usize, at: usize) -> u8 {
    number.wrapping_mul(31).wrapping_add(at).to_le_bytes()[0]
}

/// The number of the message with this payload.
pub(super) fn number_of(payload: &[u8]) -> usize {
    let bytes = payload.first_chunk().expect("every payload has its number");
    usize::try_from(u64::from_le_bytes(*bytes)).expect("64 bits")
}

impl Truth {
    /// Lanes whose last sequences are these.
    pub(super) fn new_life(&mut self, sequences: [u64; Priority::COUNT]) -> usize {
        let mut life = Life::default();
        for (lane, sequence) in life.lanes.iter_mut().zip(sequences) {
            lane.sequence = sequence;
            lane.confirmed = sequence;
        }
        self.lives.push(life);
        self.lives.len() - 1
    }

    /// The message admitted last with this key, if there is one.
    pub(super) fn latest(&self, life: usize, lane: Priority, key: u64) -> Option<usize> {
        self.lives[life].latest.get(&(lane.index(), key)).copied()
    }

    /// A message was admitted; the lane's last sequence is now `sequence`.
    pub(super) fn admit(&mut self, mut message: Message, sequence: u64) {
        let number = self.messages.len();
        let life = &mut self.lives[message.life];
        let lane = &mut life.lanes[message.lane.index()];
        let place = (message.lane.index(), message.key.unwrap_or(0));
        let older = message.key.and_then(|_| life.latest.insert(place, number));
        if sequence == lane.sequence {
            let older = older.expect("only a message with a key takes another's place");
            let older = &mut self.messages[older];
            assert!(!older.left, "its place was taken while it waited");
            assert!(!older.handled, "what is handled waits no more");
            assert_eq!(older.reliable, message.reliable, "no less reliable than the other");
            older.superseded = true;
            message.sequence = older.sequence;
            lane.in_place += 1;
        } else {
            assert_eq!(sequence, lane.sequence + 1, "one sequence for one message");
            if let Some(older) = older.map(|older| &mut self.messages[older])
                && older.era == message.era
                && !older.left
            {
                older.superseded = true;
            }
            message.sequence = sequence;
        }
        lane.sequence = sequence;
        lane.messages.push(number);
        self.messages.push(message);
    }

    /// A handler has got a message; `damaged` is which, when its payload can not say.
    pub(super) fn handle(
        &mut self,
        pairing: &mut Pairing,
        frame: &Frame<'_>,
        damaged: Option<usize>,
    ) -> &Message {
        let number = damaged.unwrap_or_else(|| number_of(frame.payload()));
        let message = &mut self.messages[number];
        assert!(!message.handled, "message {number} is handled twice");
        assert!(!message.superseded, "message {number} was replaced by a newer one");
        assert!(!message.withdrawn, "message {number} had been withdrawn");
        assert_ne!(message.listed, Some(Sent::Never), "message {number} was said not to be sent");
        message.handled = true;
        assert_eq!(frame.priority(), message.lane, "message {number}: lane");
        assert_eq!(frame.kind(), message.kind, "message {number}: kind");
        assert_eq!(frame.type_id(), message.type_id, "message {number}: type");
        assert_eq!(frame.sequence(), low_half(message.sequence), "message {number}: sequence");
        assert_eq!(frame.payload().len(), message.payload_bytes, "message {number}: length");
        let sent = payload(number, message.payload_bytes);
        let pairs = sent.iter().zip(frame.payload());
        let bits: u32 = pairs.map(|(sent, got)| (sent ^ got).count_ones()).sum();
        let changed = u32::from(damaged.is_some());
        assert_eq!(bits, changed, "message {number}: bits of the content that have changed");
        let from = *pairing.life.get_or_insert(message.life);
        assert_eq!(message.life, from, "message {number} is of another session");
        let last = &mut pairing.last[message.lane.index()];
        assert!(message.sequence > *last, "message {number}: {} after {last}", message.sequence);
        *last = message.sequence;
        self.lives[from].lanes[message.lane.index()].handled += 1;
        self.handled += 1;
        message
    }

    /// A session says that it drops a request, because its peer does not have it and shall not.
    pub(super) fn withdraw(&mut self, number: usize) {
        let message = &mut self.messages[number];
        assert!(!message.withdrawn, "message {number} is withdrawn twice");
        assert!(!message.handled, "message {number} is withdrawn after it was handled");
        assert!(!message.superseded, "message {number} was replaced");
        message.withdrawn = true;
    }

    /// Whether a request that is given up now can and must be withdrawn: it waits.
    pub(super) fn must_be_withdrawn(&self, number: usize, life: usize, now: Nanos) -> bool {
        let message = &self.messages[number];
        let is_there = message.life == life && message.reliable && !message.may_be_dropped(now);
        is_there && !message.left
    }

    /// A life's lanes were given up, and these were said to be undelivered.
    pub(super) fn end(&mut self, life: usize, list: &[Undelivered], now: Nanos) {
        let mut last = [0; Priority::COUNT];
        for undelivered in list {
            let number = number_of(&undelivered.payload);
            let message = &mut self.messages[number];
            assert_eq!(message.life, life, "message {number} is of another life");
            assert!(message.reliable, "message {number} is best effort");
            assert!(message.listed.is_none(), "message {number} is listed twice");
            assert!(!message.superseded, "message {number} was replaced");
            assert!(!message.withdrawn, "message {number} was withdrawn");
            assert_eq!(undelivered.payload.len(), message.payload_bytes, "message {number}");
            assert_eq!(undelivered.kind, message.kind, "message {number}");
            assert_eq!(undelivered.type_id, message.type_id, "message {number}");
            assert_eq!(undelivered.priority, message.lane, "message {number}");
            let index = message.lane.index();
            assert!(message.sequence > last[index], "message {number} is listed out of order");
            last[index] = message.sequence;
            let confirmed = self.lives[life].lanes[index].confirmed;
            assert!(message.sequence > confirmed, "message {number} had been confirmed");
            match undelivered.sent {
                Sent::Never => assert!(!message.handled, "message {number} was handled"),
                Sent::Maybe => assert!(message.left, "message {number} never left"),
            }
            message.listed = Some(undelivered.sent);
        }
        for lane in &self.lives[life].lanes {
            for &number in &lane.messages {
                let message = &self.messages[number];
                let is_owed = message.reliable && message.sequence > lane.confirmed;
                if is_owed && message.listed.is_none() {
                    assert!(
                        message.may_be_dropped(now),
                        "message {number} is missing: {message:?}"
                    );
                }
            }
        }
        self.lives[life].is_over = true;
        self.lives[life].is_told = true;
    }

    /// Of lives that are over: what never left and what was listed is counted, and nothing that was
    /// handled for good.
    pub(super) fn check_ended(&self) {
        let lives = self.lives.iter().enumerate().filter(|(_, life)| life.is_told);
        for (life, lane) in
            lives.flat_map(|(life, it)| it.lanes.iter().map(move |lane| (life, lane)))
        {
            let messages = || lane.messages.iter().map(|&number| &self.messages[number]);
            let must_be =
                |message: &&Message| message.listed.is_some() || !(message.handled || message.left);
            let may_be = |message: &&Message| must_be(message) || !message.handled;
            let bounds = messages().filter(must_be).count()..=messages().filter(may_be).count();
            let counted = usize::try_from(lane.drops.total()).expect("few");
            assert!(bounds.contains(&counted), "life {life}: {counted} of {bounds:?} dropped");
        }
    }

    /// The books of a life agree with what happened so far. `is_settled`: nothing is under way.
    pub(super) fn check_books(&self, life: usize, now: Nanos, is_settled: bool) {
        for (index, lane) in self.lives[life].lanes.iter().enumerate() {
            let admitted = lane.messages.len() as u64;
            let (handled, drops) = (lane.handled, lane.drops.total());
            let name = Priority::ALL[index];
            if is_settled {
                assert_eq!(admitted, handled + drops, "life {life}, {name:?}: {:?}", lane.drops);
                self.check_fates(lane, now);
            } else if !self.lives[life].is_over {
                assert!(handled + drops <= admitted, "{name:?}: {handled} + {drops} > {admitted}");
            }
        }
    }

    /// Whether every message of a life has been handled or dropped.
    pub(super) fn is_settled(&self, life: usize) -> bool {
        let is_settled =
            |lane: &LaneLife| lane.messages.len() as u64 == lane.handled + lane.drops.total();
        self.lives[life].lanes.iter().all(is_settled)
    }

    /// Every message that was not handled may have been dropped for a reason that was counted.
    fn check_fates(&self, lane: &LaneLife, now: Nanos) {
        let mut at_most = Drops::default();
        for &number in &lane.messages {
            let message = &self.messages[number];
            if message.handled {
                continue;
            }
            if message.reliable {
                assert!(message.may_be_dropped(now), "message {number} is lost: {message:?}");
            } else {
                at_most.add(DropReason::LinkLost, 1);
                at_most.add(DropReason::Overflow, 1);
            }
            let is_expired = message.useful_until.is_some_and(|at| at <= now);
            at_most.add(DropReason::Expired, is_expired.into());
            let is_replaced = message.superseded || message.has_newer;
            at_most.add(DropReason::Replaced, is_replaced.into());
            at_most.add(DropReason::Cancelled, message.withdrawn.into());
        }
        for (index, (&counted, &at_most)) in
            lane.drops.by_reason().iter().zip(at_most.by_reason()).enumerate()
        {
            let reason = DropReason::ALL[index];
            assert!(counted <= at_most, "{counted} dropped for {reason:?}, {at_most} may be");
            let is_exact = reason == DropReason::Cancelled;
            assert!(!is_exact || counted == at_most, "{counted} of {at_most} withdrawn");
        }
    }
}

impl Message {
    /// Whether a reliable message may be gone without having been handled.
    fn may_be_dropped(&self, now: Nanos) -> bool {
        let is_useless = self.useful_until.is_some_and(|at| at <= now);
        self.superseded || self.has_newer || self.withdrawn || is_useless
    }
}

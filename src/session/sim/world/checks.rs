//! What must hold: after every step, and at the end.

use super::*;
use crate::error::ProtocolError;
use crate::session::lane::Reliable;
use crate::wire::acknowledgement::{ACKNOWLEDGEMENT_BYTES, write_acknowledgement};
use crate::wire::handshake::HANDSHAKE_BYTES_MAX;
use crate::wire::{Decoder, HEADER_BYTES};

/// How full a lane is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    frames: u32,
    /// Behind the block in flight.
    waiting_bytes: usize,
    /// Queued, in flight and kept.
    held_bytes: usize,
    node_is_idle: bool,
}

impl World {
    pub(super) fn fill(&self, seat: usize, lane: Priority) -> Fill {
        let Seat { session, place, node, .. } = &self.seats[seat];
        let taken = match place {
            Place::Here(conn) => self.conns[*conn].flight.as_ref().map_or(0, |flight| {
                let is_here = flight.source == Source::Lane(lane);
                if is_here { flight.block.span.bytes() } else { 0 }
            }),
            _ => 0,
        };
        let lane = &session.lanes[lane.index()];
        let pool = &self.nodes[*node].memory.pool;
        Fill {
            frames: lane.frames(),
            waiting_bytes: lane.bytes() - taken,
            held_bytes: lane.kept_bytes() + lane.bytes(),
            node_is_idle: pool.lent_bytes() == 0,
        }
    }

    /// A message was admitted: there was room for it, or room was made.
    pub(super) fn check_admitted(
        &mut self,
        seat: usize,
        lane: Priority,
        before: Fill,
        reliable: bool,
        has_key: bool,
    ) {
        let Seat { session, node, .. } = &self.seats[seat];
        let limits = &self.nodes[*node].limits;
        let state = session.state();
        assert!(
            state == State::Open || (state == State::Down && reliable),
            "admitted in {state:?}"
        );
        let frames = session.lanes[lane.index()].frames();
        let frames_max = limits.frames_max.max(before.frames);
        assert!(frames <= frames_max, "{frames} frames of {frames_max} wait");
        if limits.overflow[lane.index()] == Overflow::DropOldest || has_key {
            return;
        }
        assert!(before.frames < limits.frames_max, "admitted beyond {} frames", limits.frames_max);
        assert!(before.waiting_bytes < limits.bytes_max, "admitted beyond {}", limits.bytes_max);
        if reliable {
            let most = limits.kept_bytes_max;
            assert!(before.held_bytes < most, "{} bytes kept of {most}", before.held_bytes);
        }
    }

    pub(super) fn check_refused(
        &mut self,
        seat: usize,
        lane: Priority,
        error: SendError,
        before: Fill,
        envelope: &Envelope,
    ) {
        let session = &self.seats[seat].session;
        let state = session.state();
        let life = &self.truth.lives[self.seats[seat].life];
        let sequence = session.lanes[lane.index()].sequence();
        assert_eq!(
            sequence,
            life.lanes[lane.index()].sequence,
            "a refused message has no sequence"
        );
        match error {
            SendError::NotConnected => {
                let may_wait = envelope.is_reliable() && state == State::Down;
                assert!(!may_wait, "refused although it may wait");
                assert_ne!(state, State::Open, "refused although connected");
            }
            SendError::Full | SendError::MemoryFull => {
                self.report.refused += 1;
                assert!(!before.node_is_idle, "refused although all memory is free");
            }
            SendError::TooLarge { bytes, bytes_max } => assert!(bytes > bytes_max, "it fits"),
            other => panic!("refused: {other}"),
        }
    }

    /// What is about to leave is in order, in time, and the latest.
    pub(super) fn check_block(&mut self, seat: usize, block: &Block, now: Nanos) {
        let life = self.seats[seat].life;
        let Source::Lane(_) = Source::Lane(Priority::Low) else { return };
        let (mut messages, mut reliable) = (0, 0);
        for frame in block.frames().filter(|frame| !frame.is_gap()) {
            messages += 1;
            reliable += u32::from(frame.is_reliable());
            let number = number_of(&frame.owned_payload());
            let message = &mut self.truth.messages[number];
            assert_eq!(message.life, life, "message {number} is of an earlier life");
            assert!(!message.superseded, "message {number} was replaced");
            assert!(!message.withdrawn, "message {number} was withdrawn");
            assert!(message.expires_at.is_none_or(|at| at > now), "message {number} has expired");
            assert!(message.reliable || !message.left, "best effort {number} is sent again");
            self.report.resent += u64::from(message.left);
            message.left = true;
        }
        assert_eq!(messages, block.span.frames, "messages in a block");
        assert_eq!(reliable, block.span.reliable, "reliable messages in a block");
    }

    pub(super) fn check_attempt(&mut self, seat: usize, at: u64, number: u32) {
        let Seat { lost_at, held, attempts, attempted_at, .. } = &mut self.seats[seat];
        let slack = 10 * US;
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).expect("short");
        let cap = nanos(self.backoff.cap);
        assert!(at <= self.now + cap + cap / 1000 + slack, "attempt {number} is too late");
        if number == 1 {
            let is_first = *attempts == 0;
            let has_held = *held + slack >= nanos(self.backoff.stable) * 999 / 1000;
            assert!(is_first || has_held, "a link that did not hold begins no series");
            assert!(at <= *lost_at + slack, "the first attempt is at once");
        } else {
            let floor = nanos(self.backoff.floor) * 999 / 1000;
            assert!(at + slack >= *attempted_at + floor, "attempt {number} follows at once");
            assert!(at + 2 >= self.now + floor, "attempt {number} has no delay");
        }
        *attempts = number;
    }

    /// Takes the session's counts of what it dropped.
    pub(super) fn book_drops(&mut self, seat: usize) {
        let news = self.seats[seat].session.take_drops();
        let lanes = &mut self.truth.lives[self.seats[seat].life].lanes;
        for (lane, news) in lanes.iter_mut().zip(news) {
            lane.drops.add_all(&news);
            for (sum, news) in self.report.drops.iter_mut().zip(news.by_reason()) {
                *sum += news;
            }
        }
    }

    pub(super) fn check_seat(&mut self, seat: usize) {
        if self.seats[seat].place == Place::Over {
            return;
        }
        self.book_drops(seat);
        let Seat { session, node, life, .. } = &self.seats[seat];
        let Node { limits, memory, .. } = &self.nodes[*node];
        self.truth.check_books(*life, self.nodes[*node].clock(self.now), false);
        for lane in &session.lanes {
            // Blocks are filled to a quarter at least, or together with a neighbour; but one whose
            // body is sent from where it is stays by itself, and takes the shortest piece of the
            // pool. (`kept_bytes_max` in `config/settings.rs` says so.)
            let shortest = limits.in_place_bytes_min.saturating_add(HEADER_BYTES);
            let part = 4.max(1 + (2 * HANDSHAKE_BYTES_MAX).div_ceil(shortest));
            let most = part * (limits.kept_bytes_max + limits.frame_bytes_max + limits.block_bytes);
            assert!(lane.kept_bytes() <= most, "{} bytes kept of {most}", lane.kept_bytes());
        }
        let held = session.holdings.bytes;
        assert!(held <= memory.pool.lent_bytes(), "{held} bytes held are not lent");
        let kept: usize = session.lanes.iter().map(|lane| lane.kept_pool_bytes()).sum();
        assert!(kept <= held, "kept without being held");
        self.check_reliable(seat);
        self.arm_timer(seat);
    }

    /// What became of reliable messages adds up, with those that are somewhere here.
    fn check_reliable(&self, seat: usize) {
        let Seat { session, place, .. } = &self.seats[seat];
        let in_flight = match place {
            Place::Here(conn) => self.conns[*conn].flight.as_ref().map_or(0, |flight| {
                let is_ours = matches!(flight.source, Source::Lane(_));
                if is_ours { u64::from(flight.block.span.reliable) } else { 0 }
            }),
            _ => 0,
        };
        let here: u64 = session.lanes.iter().map(|lane| lane.reliable_held()).sum();
        let Reliable { admitted, confirmed, lost } = session.holdings.reliable;
        assert_eq!(admitted, confirmed + in_flight + here + lost, "seat {seat}: {place:?}");
    }

    /// After every step.
    pub(super) fn check_step(&mut self) {
        if self.report.events.is_multiple_of(16) {
            (0..self.nodes.len()).for_each(|node| self.check_memory(node));
            self.check_peers();
        }
    }

    /// Every byte lent is somewhere.
    fn check_memory(&self, node: usize) {
        let Node { memory, .. } = &self.nodes[node];
        let mut held = 0;
        let control = |session: &Session| session.control.as_ref().map_or(0, |b| b.buffer.len());
        for seat in self.seats.iter().filter(|seat| seat.node == node) {
            held += seat.session.holdings.bytes + control(&seat.session);
        }
        for conn in self.conns.iter().filter(|conn| conn.node == node) {
            held += conn.stand_in.as_ref().map_or(0, control);
            held += conn.flight.as_ref().map_or(0, |flight| match flight.source {
                Source::Control => flight.block.buffer.len(),
                Source::Lane(_) => 0,
            });
        }
        assert_eq!(memory.pool.lent_bytes(), held, "memory lent by node {node}");
    }

    /// Nothing is left to happen: everything has reached the other side, or is accounted for.
    pub(super) fn check_settled(&mut self) {
        self.check_settled_pairs();
        self.truth.check_ended();
        for seat in 0..self.seats.len() {
            let Place::Here(conn) = self.seats[seat].place else {
                assert_eq!(self.seats[seat].place, Place::Over, "seat {seat} waits for nothing");
                continue;
            };
            self.book_drops(seat);
            let Seat { session, node, life, .. } = &self.seats[seat];
            assert_eq!(session.state(), State::Open, "seat {seat}");
            assert_eq!(session.frames_queued(), 0, "seat {seat} has not sent all");
            assert!(session.is_flushed(), "seat {seat} waits for confirmation");
            assert_eq!(session.kept_bytes(), 0, "seat {seat} keeps what is confirmed");
            self.truth.check_books(*life, self.nodes[*node].clock(self.now), true);
            let Conn { link, side, .. } = self.conns[conn];
            let other = self.links[link].ends[1 - side].expect("established");
            let other = &self.seats[self.conns[other].seat];
            for (index, lane) in self.truth.lives[*life].lanes.iter().enumerate() {
                let received = other.session.confirmations.received[index];
                let missed = other.session.confirmations.missed[index];
                let handled = self.climate.sequences[index] + lane.handled;
                assert_eq!(received - missed, handled, "both ends count the same messages");
                // What was dropped behind the last message that left is not announced.
                let dropped = lane.drops.total() - lane.in_place;
                assert_eq!(
                    dropped,
                    missed + lane.sequence - received,
                    "missed is what was dropped"
                );
            }
            self.report.settled += 1;
        }
    }

    /// Ends everything: all memory comes back, and nothing reliable was left behind.
    pub(super) fn shut_down(&mut self) {
        for seat in 0..self.seats.len() {
            let Place::Here(_) = self.seats[seat].place else { continue };
            self.check_bound(seat);
            let before = self.report.undelivered;
            self.end(seat, CloseReason::Local);
            assert_eq!(self.report.undelivered, before, "everything was confirmed");
        }
        // Heartbeats that are being sent, or wait to be.
        for conn in 0..self.conns.len() {
            self.on_returned(conn);
            if let Some(flight) = self.conns[conn].flight.take() {
                assert_eq!(flight.source, Source::Control, "all messages have been sent");
                self.nodes[self.conns[conn].node].memory.pool.give(flight.block.buffer);
            }
        }
        for node in 0..self.nodes.len() {
            self.check_memory(node);
            let pool = &self.nodes[node].memory.pool;
            assert_eq!(pool.lent_bytes(), 0, "all memory of node {node} is back");
        }
    }

    /// A peer that confirms what was never sent breaks the protocol.
    fn check_bound(&mut self, seat: usize) {
        let now = self.clock(self.seats[seat].node);
        let Seat { session, node, .. } = &mut self.seats[seat];
        let received = std::array::from_fn(|index| session.lanes[index].sequence() + 1);
        let mut bytes = [0; ACKNOWLEDGEMENT_BYTES];
        let filled = write_acknowledgement(received, 0, now.0, &mut bytes);
        let mut input = &bytes[..filled];
        let frame = Decoder::new(bytes.len()).next(&mut input).expect("own frame").expect("whole");
        let outcome = session.handle(&frame, now, &mut self.nodes[*node].memory);
        let is_refused = matches!(outcome, Err(ProtocolError::BadAcknowledgement { .. }));
        assert!(is_refused, "a confirmation of what was never sent: {outcome:?}");
    }
}

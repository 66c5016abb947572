//! From lanes to the socket: one send in flight per connection.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::io::Errno;

use crate::config::{Config, Idle};
use crate::error::CloseReason;
use crate::mem::{Buffer, Pieces, WindowMode};
use crate::reactor::Tokens;
use crate::reactor::connection::{Connection, ConnectionKey, InFlight, Pause, Phase};
use crate::reactor::core::Core;
use crate::session::block::{Block, Span};
use crate::session::state::State;
use crate::session::{Part, Source};
use crate::stats::Counters;
use crate::sys::ring::{Completion, ReceiveOptions, SendMode, SendOptions};
use crate::sys::socket::{Gather, Loopback, prepare_loopback, receive, receive_scattered, send};
use crate::time::Nanos;

/// Up to this many connections are sent to by system calls of their own instead of through the
/// ring, and, while spinning, received from likewise; answers of a few more leave so, too (see
/// [`Core::transmit_early`]).
///
/// One recv(2) that finds the data costs less than a receive armed in the ring: no poll entry to
/// add, no wake-up in the sender's path, no deferred work to run. One send(2) costs less than an
/// `enter` that submits it, and need not wait for all that a reactor books before it sleeps. With
/// more connections the ring's batching wins.
pub(crate) const DIRECT_CONNECTIONS_MAX: usize = 2;

/// While spinning, the answers to what a connection has sent go before the frames of the next one
/// are handled, and before the rest of the turn, if no more than these have received something.
/// Beyond that, sending together through the ring costs as little.
const EARLY_CONNECTIONS_MAX: usize = 16;
/// The same for a reactor that is to sleep: with eight, what the ring sends together has the better
/// p50.
const EARLY_CONNECTIONS_PARKED_MAX: usize = 4;

/// How often in a row a full socket is tried past the ring before the ring waits for room.
const DIRECT_ATTEMPTS_MAX: u16 = 256;

/// Bytes that are copied to or from a socket at once where another connection of the same session
/// carries what is urgent: that waits for one such copy and not for a whole message. Beside a
/// stream of 1 MiB messages a critical round trip went from 130 us to 25 us, while the stream lost
/// a fifth of its rate (`ringwire bench mixed`, recorded in `benches/record`).
const PIECE_BYTES: usize = 64 << 10;
/// The same while something urgent has come for any session within [`URGENCY_LASTS`]: two thirds of
/// its p99, at less than half the stream's rate. Shorter pieces gained nothing more.
const PIECE_BYTES_URGENT: usize = 16 << 10;
/// Blocks up to this length are sent from where they wait, see [`Core::send_front`]. Below what is
/// cut into pieces or gathered.
const FRONT_BYTES_MAX: usize = 4 << 10;
const _: () = assert!(FRONT_BYTES_MAX < PIECE_BYTES_URGENT);
const _: () = assert!(FRONT_BYTES_MAX < GATHERED_MESSAGE_BYTES_MIN);

/// What leaves with one system call where blocks are gathered, see [`Core::send_directly`]: six
/// messages of 64 KiB, and what they are on the wire. With four their rate was 0.96 to 0.99 of
/// this, with eight 1.02, and what is urgent waits for such a call.
pub(crate) const GATHERED_BYTES: usize = 384 << 10;
const GATHERED_BYTES_MAX: usize = GATHERED_BYTES + GATHERED_BYTES / 16;
/// Messages from this length on are gathered: those that have their blocks to themselves by
/// default, up to a third of what is gathered.
pub(crate) const GATHERED_MESSAGE_BYTES_MIN: usize = 32 << 10;
/// Over loopback messages from this length on have all the room that the kernel gives: in a bounded
/// buffer they left in a dozen pieces.
const LONGEST_MESSAGE_BYTES_MIN: usize = 512 << 10;
/// A control loop of 100 Hz keeps it going.
const URGENCY_LASTS: Duration = Duration::from_millis(10);

impl Core {
    /// Something has come on a connection that carries what is urgent.
    #[inline]
    pub(crate) fn note_urgency(&mut self) {
        self.is_urgent_until = self.now + URGENCY_LASTS;
    }

    /// How many bytes of a connection that shares its session with such a one are copied at once.
    #[inline]
    fn piece_bytes(&self) -> usize {
        if self.now < self.is_urgent_until { PIECE_BYTES_URGENT } else { PIECE_BYTES }
    }
}

/// Whether messages of this length are gathered.
#[inline]
pub(crate) fn is_gathered(bytes: usize) -> bool {
    (GATHERED_MESSAGE_BYTES_MIN..GATHERED_BYTES_MAX / 3).contains(&bytes)
}

/// Whether a block brings those behind it along.
#[inline]
fn brings_others(in_flight: &InFlight) -> bool {
    is_gathered(in_flight.span.payload_bytes_max)
}

/// Whether the kernel is to send from the block's memory itself.
#[inline]
fn sends_zero_copy(connection: &Connection, config: &Config, span: &Span) -> bool {
    let bytes_min = config.zero_copy_bytes_min() as usize;
    connection.zero_copy && bytes_min > 0 && span.payload_bytes_max >= bytes_min
}

/// How much of a connection's bytes may be copied at once.
#[inline]
fn piece_bytes_max(connection: &Connection, piece_bytes: usize) -> usize {
    match connection.session.part() {
        Part::Main => piece_bytes,
        Part::Whole | Part::Express => usize::MAX,
    }
}

impl Core {
    /// Queues a send for every connection that has something to send and nothing in flight.
    ///
    /// Hot path: once per turn, and per request that a spinning reactor waits for.
    #[inline]
    pub(crate) fn transmit(&mut self) {
        if !self.stalled.is_empty() {
            self.dirty.append(&mut self.stalled);
        }
        if self.dirty.is_empty() {
            return;
        }
        // Before anything is booked: somebody may wait for it.
        let attempted = match *self.dirty {
            [key] => self.send_front(key).map(|outcome| (key, outcome)),
            _ => None,
        };
        self.meter.begin_sends(self.now);
        match attempted {
            Some((key, outcome)) => self.front_attempted(key, outcome),
            None => self.transmit_dirty(),
        }
        // After the sends: nobody waits for this thread now.
        self.settle_meter();
        self.meter.end();
    }

    /// The front of the only connection that had something to send has been: what it was is booked,
    /// and what is behind it follows.
    #[inline]
    fn front_attempted(&mut self, key: ConnectionKey, outcome: io::Result<usize>) {
        self.dirty.clear();
        self.sends_few = true;
        self.connections[key].is_dirty = false;
        self.transmit_behind(key, Some(outcome));
        self.count_admissions(key);
    }

    /// Whether what is to be sent leaves behind the frames of each connection, of so many that have
    /// received something.
    #[inline]
    pub(crate) fn transmits_early(&self, connections: usize) -> bool {
        let most = match self.is_spinning() {
            true => EARLY_CONNECTIONS_MAX,
            false => EARLY_CONNECTIONS_PARKED_MAX,
        };
        connections <= most
    }

    /// In a turn, behind the frames of a connection: the answers to them need not wait for what the
    /// next has sent, nor for the rest of the turn. What else is to be sent does: more may come to
    /// it, and a long block now would stand before what is more urgent and not queued yet. Returns
    /// whether anything has been attempted.
    #[inline]
    pub(crate) fn transmit_early(&mut self, key: ConnectionKey) -> bool {
        if *self.dirty != [key] {
            return false;
        }
        let Some(outcome) = self.send_front(key) else { return false };
        // Those are about all that is sent for in a pass.
        let all = self.sends_few;
        self.front_attempted(key, outcome);
        self.sends_few = all;
        true
    }

    #[inline]
    fn transmit_dirty(&mut self) {
        // What can not be queued now goes into the list for the next turn.
        let mut dirty = std::mem::replace(&mut self.dirty, std::mem::take(&mut self.dirty_spare));
        self.sends_few = dirty.len() <= DIRECT_CONNECTIONS_MAX;
        for key in dirty.drain(..) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.is_dirty = false;
                self.transmit_one(key);
                self.count_admissions(key);
            }
        }
        self.dirty_spare = dirty;
    }

    #[inline]
    fn transmit_one(&mut self, key: ConnectionKey) {
        if self.connections[key].phase != Phase::Live {
            return;
        }
        let attempted = if self.sends_few { self.send_front(key) } else { None };
        self.transmit_behind(key, attempted);
    }

    /// Takes what is to be sent out of the session, books it and sends it, unless that has been
    /// `attempted`.
    #[inline]
    fn transmit_behind(&mut self, key: ConnectionKey, attempted: Option<io::Result<usize>>) {
        let connection = &mut self.connections[key];
        if connection.session.has_untold_drops() {
            let home = connection.home;
            self.count_drops(home);
        }
        let connection = &mut self.connections[key];
        // A handler may have taken its time since the turn began.
        let may_expire = connection.session.may_expire();
        let now = if may_expire { Nanos::now() } else { self.now };
        let memory = &mut self.send_memory;
        let (buffer, mut in_flight) = match (connection.in_flight, connection.unsent.take()) {
            (Some(in_flight), Some(buffer)) => {
                // What becomes of it is booked anew, by whichever way it goes.
                connection.in_flight = None;
                // Nothing may leave for long, and what came behind it meanwhile has marked nothing:
                // the connection is known to have something to send.
                self.arm_expiry(key);
                (buffer, in_flight)
            }
            (Some(_), None) => {
                // More to send once this is known to have left.
                self.awaits_completion = true;
                let home = connection.home;
                self.arm_expiry(key);
                self.meter.touch(home, self.now);
                return;
            }
            (None, _) => match connection.session.poll_block(now, memory) {
                Some((source, block)) => {
                    let in_flight = self.book_block(key, source, &block, now);
                    (block.buffer, in_flight)
                }
                None => {
                    assert!(attempted.is_none(), "what has been sent waits in its lane");
                    return self.nothing_to_send(key);
                }
            },
        };
        if may_expire {
            self.tell_expired(key);
        }
        let connection = &mut self.connections[key];
        let payload_bytes = in_flight.span.payload_bytes_max;
        if payload_bytes >= connection.longer_bytes {
            expect_long(connection, payload_bytes, &self.config);
        }
        let mode = if sends_zero_copy(connection, &self.config, &in_flight.span) {
            SendMode::ZeroCopy
        } else if connection.congested {
            SendMode::Whole
        } else {
            SendMode::Prompt
        };
        if mode == SendMode::Prompt && self.sends_few {
            return self.send_directly(key, in_flight, buffer, attempted);
        }
        assert!(attempted.is_none(), "only what would be sent past the ring has been");
        connection.attempts = 0;
        in_flight.zero_copy = mode == SendMode::ZeroCopy;
        let piece_bytes = self.piece_bytes();
        let connection = &mut self.connections[key];
        let (offset, bytes) = (in_flight.sent, in_flight.unsent_bytes());
        let bytes = bytes.min(piece_bytes_max(connection, piece_bytes));
        in_flight.asked = bytes;
        connection.in_flight = Some(in_flight);
        let fd = connection.socket.as_raw_fd();
        let options = SendOptions { offset, bytes, mode };
        let queued = self.ring.send(fd, buffer, options, Tokens::connection(key));
        match queued {
            Ok(_) => {
                connection.expects_data = false;
                self.sends_unsubmitted += 1;
                self.awaits_completion |= mode == SendMode::Prompt
                    && (connection.session.has_block()
                        || connection.session.state() != State::Open
                        || connection.close_when_sent.is_some());
                if mode == SendMode::ZeroCopy {
                    self.counters.zero_copy_sends.add(1);
                }
            }
            Err(buffer) => {
                connection.unsent = Some(buffer);
                connection.is_dirty = true;
                self.dirty.push(key);
            }
        }
    }

    /// Sends a short block from where it waits, if its turn is plain to see. It is taken out of its
    /// lane and booked after that, when nobody waits for this thread any more.
    #[inline(always)]
    fn send_front(&self, key: ConnectionKey) -> Option<io::Result<usize>> {
        let connection = self.connections.get(key)?;
        if connection.phase != Phase::Live || connection.congested || connection.in_flight.is_some()
        {
            return None;
        }
        let block = connection.session.plain_front()?;
        let is_short = block.span.bytes() <= FRONT_BYTES_MAX;
        if !is_short || sends_zero_copy(connection, &self.config, &block.span) {
            return None;
        }
        let range = block.span.start..block.span.filled;
        Some(send(&connection.socket, &block.buffer.pieces(range)))
    }

    /// Books a block that leaves its lane. Once per block.
    #[inline]
    fn book_block(
        &mut self,
        key: ConnectionKey,
        source: Source,
        block: &Block,
        now: Nanos,
    ) -> InFlight {
        let connection = &self.connections[key];
        let in_flight = InFlight::new(source, block);
        // The session's own frames are in no lane.
        if let Some(tap) = &mut self.tap
            && matches!(source, Source::Lane(_))
        {
            tap.sent(connection.public, now, block);
        }
        if block.span.frames > 0 {
            let (messages, bytes) = (block.span.frames.into(), block.span.bytes());
            let home = connection.home;
            count_sent(&self.counters, messages, bytes as u64);
            let queued_at = in_flight.queued_at;
            self.meter.sent(home, messages, bytes as u64, queued_at, self.now);
        }
        in_flight
    }

    /// What had a time to live may just have been dropped: what it was to confirm is confirmed
    /// later, and what still waits is looked at again when its time is over.
    #[cold]
    fn tell_expired(&mut self, key: ConnectionKey) {
        let connection = &self.connections[key];
        let (home, session) = (connection.home, &connection.session);
        let is_due_earlier = session.confirm_at() < connection.session_due;
        if session.has_untold_drops() {
            self.count_drops(home);
        }
        if is_due_earlier {
            self.set_session_deadline(home);
        } else {
            self.arm_expiry(key);
        }
    }

    /// Has the session looked at when something that waits for room in the socket is too old.
    #[inline]
    fn arm_expiry(&mut self, key: ConnectionKey) {
        let connection = &self.connections[key];
        if connection.session.expires_from() < connection.session_due {
            let home = connection.home;
            self.set_session_deadline(home);
        }
    }

    /// Sends with a system call of its own, unless that has been `attempted`. What the socket does
    /// not take goes the ring's way.
    ///
    /// A long block brings those behind it along. Over loopback a segment holds 65,483 bytes, so
    /// that 64 KiB alone leave as a full segment and a tiny one, which costs as much as the full
    /// one: 64 KiB messages went at 0.6 of the rate of bytes written 256 KiB at once.
    // Inlined: each return behind a system call is mispredicted where the kernel has to clear the
    // predictor of returns on its way out.
    #[inline(always)]
    fn send_directly(
        &mut self,
        key: ConnectionKey,
        in_flight: InFlight,
        buffer: Buffer,
        attempted: Option<io::Result<usize>>,
    ) {
        let piece_bytes = self.piece_bytes();
        let connection = &mut self.connections[key];
        let unsent = in_flight.unsent_bytes();
        let bytes = unsent.min(piece_bytes_max(connection, piece_bytes));
        let pieces = buffer.pieces(in_flight.sent..in_flight.sent + bytes);
        let outcome = if let Some(outcome) = attempted {
            outcome
        } else if brings_others(&in_flight) && connection.session.part() == Part::Whole {
            send_with_those_behind(connection, in_flight.source, &pieces)
        } else {
            send(&connection.socket, &pieces)
        };
        let taken = match outcome {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return self.send_failed(key, in_flight, buffer, &error),
        };
        if taken < bytes {
            return self.wait_for_room(key, in_flight, buffer, taken);
        }
        connection.attempts = 0;
        self.counters.direct_sends.add(1);
        if bytes < unsent {
            // A piece: the next one follows when the others have had their turn.
            connection.keep_rest(in_flight, buffer, taken);
            self.mark_dirty(key);
            return;
        }
        let memory = &mut self.send_memory;
        let block = in_flight.into_block(buffer);
        connection.session.block_sent(in_flight.source, block, memory);
        connection.expects_data = false;
        connection.last_activity = self.now;
        self.sent_behind(key, in_flight.source, taken - bytes);
    }

    /// Books the blocks behind one that has left: the socket has taken `taken` bytes of them.
    #[inline]
    fn sent_behind(&mut self, key: ConnectionKey, source: Source, mut taken: usize) {
        while taken > 0 {
            let memory = &mut self.send_memory;
            let block = self.connections[key].session.poll_behind(source, self.now, memory);
            let block = block.expect("what was sent waits in its lane");
            let in_flight = self.book_block(key, source, &block, self.now);
            let bytes = in_flight.unsent_bytes();
            if taken < bytes {
                return self.wait_for_room(key, in_flight, block.buffer, taken);
            }
            taken -= bytes;
            let memory = &mut self.send_memory;
            self.connections[key].session.block_sent(source, block, memory);
        }
        self.mark_dirty_if_needed(key);
    }

    /// The socket has taken only so many bytes of a block. A reactor that spins tries again with
    /// its next look, up to a bound; else the ring waits for room for the rest.
    #[inline]
    fn wait_for_room(
        &mut self,
        key: ConnectionKey,
        in_flight: InFlight,
        buffer: Buffer,
        taken: usize,
    ) {
        let looks_again = self.sends_few && self.is_spinning();
        let connection = &mut self.connections[key];
        // Bulk beside urgent messages keeps out of their way: their p99 was 1.6 times as long.
        let is_alone = connection.session.part() == Part::Whole;
        let may_wait = looks_again && self.stalled.len() < DIRECT_CONNECTIONS_MAX;
        if !may_wait || !is_alone || connection.attempts == DIRECT_ATTEMPTS_MAX {
            return self.leave_to_ring(key, in_flight, buffer, taken);
        }
        if connection.attempts == 0 {
            self.counters.short_sends.add(1);
        }
        if taken > 0 {
            self.last_activity = self.now;
        }
        connection.attempts = if taken > 0 { 1 } else { connection.attempts + 1 };
        connection.keep_rest(in_flight, buffer, taken);
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.stalled.push(key);
        }
    }

    /// A send past the ring has failed. The attempt took the error off the socket, where nobody
    /// else finds it.
    #[cold]
    fn send_failed(
        &mut self,
        key: ConnectionKey,
        in_flight: InFlight,
        buffer: Buffer,
        error: &io::Error,
    ) {
        match error.raw_os_error() {
            // What the peer sent before it went is still to be read; or it passes. The completion
            // of a send through the ring sees to it.
            None
            | Some(libc::EPIPE | libc::ECONNRESET | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => {
                self.leave_to_ring(key, in_flight, buffer, 0);
            }
            Some(errno) => {
                self.connections[key].keep_rest(in_flight, buffer, 0);
                self.close(key, CloseReason::Socket { errno });
            }
        }
    }

    /// Looks whether sockets that were full have room now. Returns whether a block has left, or is
    /// left to the ring.
    #[inline]
    pub(crate) fn send_stalled(&mut self) -> bool {
        let (stalled, sent) = (self.stalled.len(), self.counters.direct_sends.get());
        // The turn that waits here may have begun long ago.
        self.now = Nanos::now();
        self.transmit();
        let has_sent = self.counters.direct_sends.get() != sent;
        if has_sent {
            self.last_activity = self.now;
        }
        has_sent || self.stalled.len() < stalled || !self.dirty.is_empty()
    }

    /// Has the ring wait for room in the sockets that were full: before the reactor sleeps.
    #[inline]
    pub(crate) fn leave_stalled_to_ring(&mut self) {
        if self.stalled.is_empty() {
            return;
        }
        for key in &self.stalled {
            if let Some(connection) = self.connections.get_mut(*key) {
                connection.congested = true;
            }
        }
        self.transmit();
    }

    /// The socket has taken only so many bytes of a block, or refused it: the ring waits for room
    /// for the rest, or finds out what is wrong.
    #[cold]
    fn leave_to_ring(
        &mut self,
        key: ConnectionKey,
        in_flight: InFlight,
        buffer: Buffer,
        taken: usize,
    ) {
        let connection = &mut self.connections[key];
        connection.keep_rest(in_flight, buffer, taken);
        connection.congested = true;
        if connection.attempts == 0 {
            self.counters.short_sends.add(1);
        }
        self.mark_dirty(key);
    }

    /// Everything queued has left: the moment for a goodbye, or to close.
    #[cold]
    fn nothing_to_send(&mut self, key: ConnectionKey) {
        let connection = &mut self.connections[key];
        if let Some(reason) = connection.close_when_sent {
            self.close(key, reason);
            return;
        }
        let home = connection.home;
        if connection.session.has_untold_drops() {
            self.count_drops(home);
        }
        let connection = &mut self.connections[key];
        match connection.session.state() {
            // The frame that brings the confirmation brings it back here.
            State::Draining if !connection.session.is_flushed() => {}
            State::Draining if self.waits_for_other(home) => {}
            State::Draining if self.connections[key].session.confirms_before_goodbye() => {
                self.mark_dirty(key);
            }
            State::Draining => {
                let Some(buffer) = self.take_control_buffer() else {
                    self.mark_dirty(key);
                    return;
                };
                let reason = self.goodbye_reason();
                let connection = &mut self.connections[key];
                connection.session.finish(buffer, reason, self.now);
                connection.is_dirty = false;
                self.transmit_one(key);
            }
            State::Finishing => {
                let connection = &self.connections[key];
                // The goodbye has left. The peer closes when it has read it; until then, or the
                // deadline, what it still sends is read.
                let _ = connection.socket.shutdown(std::net::Shutdown::Write);
            }
            _ => self.connections[key].congested = false,
        }
    }

    #[inline]
    pub(crate) fn on_sent(&mut self, key: ConnectionKey, completion: Completion) {
        let connection = self.connections.get_mut(key).expect("a slot outlives its operations");
        let mut in_flight = connection.in_flight.expect("a send was in flight");
        let buffer = completion.buffer.expect("the last completion of a send has its buffer");
        // A refused zero-copy send is reported as copied, too.
        let was_zero_copy = connection.zero_copy;
        if completion.copied {
            connection.zero_copy = false;
            self.counters.zero_copy_copies.add(1);
        }
        let mut is_piece = false;
        let error = match completion.result {
            Ok(bytes) => {
                let bytes = bytes as usize;
                is_piece = bytes == in_flight.asked;
                in_flight.sent += bytes;
                None
            }
            Err(errno) => Some(errno),
        };
        let is_complete = in_flight.unsent_bytes() == 0;
        if !is_complete && connection.survives() {
            connection.in_flight = None;
            connection.returned = Some(in_flight.into_returned(buffer));
            self.operation_ended(key);
            return;
        }
        let is_departed = matches!(connection.phase, Phase::Departed { .. });
        if !is_complete && is_departed && connection.session.state() == State::Open {
            // It goes with the session when the connection ends.
            connection.in_flight = Some(in_flight);
            connection.unsent = Some(buffer);
            return;
        }
        if is_complete || !connection.is_live() {
            let dropped = match is_complete {
                true => 0,
                false => in_flight.frames_dropped(&buffer),
            };
            let memory = &mut self.send_memory;
            let session = &mut connection.session;
            if session.state() == State::Ended {
                let returned = in_flight.into_returned(buffer);
                session.end_block(returned, &mut connection.undelivered, memory);
            } else {
                let block = in_flight.into_block(buffer);
                session.block_sent(in_flight.source, block, memory);
            }
            connection.in_flight = None;
            // There is room again, and past the ring others come along (see `send_directly`), or
            // waiting for more costs less (see `wait_for_room`).
            let waits_itself = self.idle != Idle::Park && connection.session.part() == Part::Whole;
            let returns = self.sends_few && (waits_itself || brings_others(&in_flight));
            connection.congested &= !returns;
            connection.messages_dropped += dropped;
            self.counters.messages_dropped.add(dropped);
            if matches!(connection.phase, Phase::Closing { .. }) {
                if !connection.survives() && !self.is_stand_in(key) {
                    self.report_end(key);
                }
                self.operation_ended(key);
            } else {
                connection.last_activity = self.now;
                self.count_admissions(key);
                self.mark_dirty_if_needed(key);
            }
            return;
        }
        connection.in_flight = Some(in_flight);
        connection.unsent = Some(buffer);
        match error {
            // The next one follows.
            None if is_piece => {}
            // A prompt send met a full socket, in part or in whole: wait for room from now on.
            None | Some(libc::EAGAIN) => {
                connection.congested = true;
                self.counters.short_sends.add(1);
            }
            // ENOMEM: pages of a zero-copy send above RLIMIT_MEMLOCK (io_uring/notif.h,
            // io_notif_account_mem), or no memory for the request. ENOBUFS: none for a Unix
            // socket's message (net/core/skbuff.c, alloc_skb_with_frags); TCP waits for memory
            // instead (net/ipv4/tcp.c, sk_stream_wait_memory).
            Some(errno @ (libc::ENOBUFS | libc::ENOMEM)) => {
                self.counters.enobufs.add(1);
                self.troubles.lacked("send", errno, self.now);
            }
            // Of operations that a worker thread of the ring made and a signal ended
            // (io_uring/net.c); ours are made by polling, so this is only for completeness.
            Some(libc::EINTR) => {}
            // EINVAL: Linux 6.1 does not know IORING_SEND_ZC_REPORT_USAGE, of 6.2.
            Some(libc::EOPNOTSUPP | libc::EINVAL) if was_zero_copy => connection.zero_copy = false,
            // What the peer sent before it went is still to be read.
            Some(libc::EPIPE | libc::ECONNRESET) if connection.pause.is_some() => {
                self.depart(key);
                return;
            }
            // It is not read any more: its hello was refused, for example.
            Some(libc::EPIPE | libc::ECONNRESET)
                if !connection.receiving
                    && !connection.wants_receive
                    && !self.ready.contains(&key) =>
            {
                let reason = connection.close_when_sent.unwrap_or(CloseReason::PeerClosed);
                self.close(key, reason);
                return;
            }
            Some(libc::EPIPE | libc::ECONNRESET) => {
                // A receive is in flight or about to be: it reports the end.
                connection.close_when_sent = Some(CloseReason::PeerClosed);
                return;
            }
            Some(errno) => {
                self.close(key, CloseReason::Socket { errno });
                return;
            }
        }
        self.mark_dirty(key);
    }

    /// After a block has left there may be more to send, or an end to make.
    #[inline]
    fn mark_dirty_if_needed(&mut self, key: ConnectionKey) {
        let connection = &self.connections[key];
        let in_order = connection.session.state() == State::Open
            && connection.close_when_sent.is_none()
            && !connection.congested;
        if connection.session.has_block() || !in_order {
            self.mark_dirty(key);
        }
    }

    /// An operation of a closing connection has ended.
    #[cold]
    pub(crate) fn operation_ended(&mut self, key: ConnectionKey) {
        if self.connections.get(key).is_some_and(|connection| !connection.has_operations()) {
            self.ended.push(key);
        }
    }

    /// Whether this reactor will watch memory, not sleep, until something happens.
    #[inline]
    pub(crate) fn is_spinning(&self) -> bool {
        match self.idle {
            Idle::Spin => true,
            Idle::Park => false,
            Idle::Adaptive => true,
        }
    }

    /// Whether the connections that wait for a receive are so few that a spinning reactor looks
    /// into their sockets itself.
    #[inline]
    pub(crate) fn receives_directly(&self) -> bool {
        !self.unarmed.is_empty() && self.unarmed.len() <= DIRECT_CONNECTIONS_MAX
    }

    /// Looks into the sockets of the connections that wait for a receive. Returns whether
    /// anything came.
    #[inline]
    pub(crate) fn receive_directly(&mut self) -> bool {
        let mut index = 0;
        let mut any = false;
        while index < self.unarmed.len() {
            let key = self.unarmed[index];
            match self.receive_one_directly(key) {
                Direct::Nothing => index += 1,
                Direct::Received => {
                    any = true;
                    self.unarmed.swap_remove(index);
                }
                Direct::Unwanted => {
                    self.unarmed.swap_remove(index);
                }
            }
        }
        any
    }

    #[inline]
    fn receive_one_directly(&mut self, key: ConnectionKey) -> Direct {
        let piece_bytes = self.piece_bytes();
        let Some(connection) = self.connections.get_mut(key) else { return Direct::Unwanted };
        if !connection.is_readable() || connection.receiving {
            connection.wants_receive = false;
            return Direct::Unwanted;
        }
        let (frame_bytes, parsed) = (connection.frame_bytes, connection.parsed_bytes_max);
        connection.parsed_bytes_max = 0;
        let prepared = connection.window.prepare(frame_bytes, parsed, &mut self.receive_memory);
        let Some(span) = prepared else { return self.pause_for_memory(key) };
        let piece_max = piece_bytes_max(connection, piece_bytes);
        let bytes = span.bytes.min(piece_max);
        // For as much as may still be copied.
        let (rest, memory) = (piece_max - bytes, &mut self.receive_memory);
        let behind = connection.window.prepare_behind(frame_bytes, rest, memory);
        let (front, more) = connection.window.rooms_mut(&span);
        let received = match behind {
            0 => receive(&connection.socket, &mut front[..bytes]),
            _ => receive_scattered(&connection.socket, front, &mut more[..behind]),
        };
        let result = match received {
            Ok(received) => {
                let in_front = received.min(bytes);
                connection.window.filled(&span, in_front, received - in_front);
                Ok(received)
            }
            Err(Errno::AGAIN) => return Direct::Nothing,
            Err(errno) => Err(errno.raw_os_error()),
        };
        connection.wants_receive = false;
        self.direct_receives += 1;
        if !std::mem::replace(&mut self.now_is_of_receive, true) {
            // It may have spun for long.
            self.now = Nanos::now();
        }
        self.received(key, result, false);
        Direct::Received
    }

    fn pause_for_memory(&mut self, key: ConnectionKey) -> Direct {
        let connection = &mut self.connections[key];
        connection.wants_receive = false;
        let frame_bytes = connection.frame_bytes.unwrap_or(0);
        self.pause(key, Pause::Memory { frame_bytes });
        Direct::Unwanted
    }

    /// Arms a receive for every connection that waits for one. After the sends, which are what
    /// somebody waits for.
    #[inline]
    pub(crate) fn arm(&mut self) {
        let mut index = 0;
        while index < self.unarmed.len() {
            let key = self.unarmed[index];
            if self.arm_one(key) {
                self.unarmed.swap_remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// Returns whether the connection is done with: armed, paused, or in no need of it.
    #[inline]
    fn arm_one(&mut self, key: ConnectionKey) -> bool {
        let piece_bytes = self.piece_bytes();
        let Some(connection) = self.connections.get_mut(key) else { return true };
        if !connection.is_readable() || connection.receiving {
            connection.wants_receive = false;
            return true;
        }
        let (frame_bytes, parsed) = (connection.frame_bytes, connection.parsed_bytes_max);
        connection.parsed_bytes_max = 0;
        let prepared = connection.window.prepare(frame_bytes, parsed, &mut self.receive_memory);
        let Some(span) = prepared else {
            self.pause_for_memory(key);
            return true;
        };
        let piece_max = piece_bytes_max(connection, piece_bytes);
        let options = ReceiveOptions {
            offset: span.offset,
            bytes: span.bytes.min(piece_max),
            whole: span.mode == WindowMode::Whole && span.bytes <= piece_max,
            poll_first: !connection.expects_data,
        };
        connection.window.give_behind(&mut self.receive_memory);
        let buffer = connection.window.lend();
        let fd = connection.socket.as_raw_fd();
        match self.ring.receive(fd, buffer, options, Tokens::connection(key)) {
            Ok(_) => {
                connection.receiving = true;
                connection.wants_receive = false;
                connection.expects_data = true;
                true
            }
            Err(buffer) => {
                connection.window.restore(buffer, 0);
                false
            }
        }
    }
}

/// A message is longer than any before: the socket is prepared for such. Urgent messages have their
/// own connection where bulk is bounded otherwise.
#[cold]
fn expect_long(connection: &mut Connection, payload_bytes: usize, config: &Config) {
    let is_longest =
        payload_bytes >= LONGEST_MESSAGE_BYTES_MIN && connection.session.part() == Part::Whole;
    let (messages, longer_bytes) = match is_longest {
        true => (Loopback::Longest, usize::MAX),
        false if connection.session.part() == Part::Whole => {
            (Loopback::Long, LONGEST_MESSAGE_BYTES_MIN)
        }
        false => (Loopback::Long, usize::MAX),
    };
    connection.longer_bytes = longer_bytes;
    prepare_loopback(&connection.socket, messages, config);
}

/// Sends the pieces of a block, and of those behind it as many as may go along.
fn send_with_those_behind(
    connection: &Connection,
    source: Source,
    pieces: &Pieces<'_>,
) -> io::Result<usize> {
    let mut gather = Gather::of(pieces);
    for block in connection.session.blocks_behind(source) {
        let range = block.span.start..block.span.filled;
        let is_full = gather.bytes() + range.len() > GATHERED_BYTES_MAX;
        if is_full || !gather.add(&block.buffer.pieces(range)) {
            break;
        }
    }
    gather.send(&connection.socket)
}

/// What a look into a socket found.
enum Direct {
    Nothing,
    Received,
    /// The connection needs no receive any more.
    Unwanted,
}

/// Counts a block that leaves its lane: once per block, not per message.
#[inline]
fn count_sent(counters: &Counters, messages: u64, bytes: u64) {
    counters.messages_sent.add(messages);
    counters.bytes_sent.add(bytes);
}

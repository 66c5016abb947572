//! One connection: a socket, its session, its receive window, and what is in flight on it.
//!
//! ```text
//!   Connecting ──connected──▶ Live ──┬─────── close ──────▶ Closing ──last operation──▶ (freed)
//!        └─────────── failed ────────┤                        ▲       ended
//!                    peer gone while │                        │
//!                    reading pauses  └──▶ Departed ──read out─┘
//! ```
//!
//! Closing is always: `shutdown(2)`, wait until no operation is in flight, `close`, free the slot.

use std::sync::atomic::{AtomicU16, Ordering};

use slotmap::{Key, new_key_type};
use socket2::Socket;

use crate::endpoint::Address;
use crate::error::CloseReason;
use crate::mem::{Buffer, Window};
use crate::reactor::meter::ArrivalClock;
use crate::reactor::sessions::SessionKey;
use crate::reactor::transmit::GATHERED_MESSAGE_BYTES_MIN;
use crate::record::RecordedSession;
use crate::session::backoff::Backoff;
use crate::session::block::{Block, Frames, Span};
use crate::session::{Returned, Session, Source, Undelivered};
use crate::sys::ring::OpKey;
use crate::sys::socket::may_zero_copy;
use crate::time::Nanos;
use crate::wire::low_half;

new_key_type! {
    /// A connection of one reactor. A key of a connection that is gone finds nothing.
    pub(crate) struct ConnectionKey;
}

impl ConnectionKey {
    /// The slot number: the low half of the key's number, by slotmap's documentation.
    pub(crate) fn slot(self) -> u32 {
        low_half(self.data().as_ffi())
    }
}

/// Names a reactor in this process: its node, or itself where it is in none, in the upper half, and
/// its index there in the lower. One word: it is compared for every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ReactorId(u32);

impl ReactorId {
    /// `node` is of [`next_node`], or 0 where only one is looked at.
    pub(crate) fn new(node: u16, index: u16) -> Self {
        Self(u32::from(node) << 16 | u32::from(index))
    }

    /// Which reactor of its node it is, from 0.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(crate) fn index(self) -> u16 {
        self.0 as u16
    }

    /// Whether it is one of this node.
    pub(crate) fn is_of(self, node: u16) -> bool {
        self.0 >> 16 == u32::from(node)
    }
}

/// A number for a new node, or a reactor in none: so that an id of one is none of another's. They
/// come again after 65,536, by when nobody has an id of the first.
pub(crate) fn next_node() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // ORDERING: Relaxed: only that no two are the same counts.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Names a session in the whole node, from its first connection to its end: the client id of a
/// server. It stays the same when the link is lost and made again. To another node, client or
/// reactor of the process it means nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    pub(crate) reactor: ReactorId,
    pub(crate) key: SessionKey,
}

impl ConnectionId {
    /// As recordings name it.
    pub(crate) fn recorded(self) -> RecordedSession {
        RecordedSession { reactor: self.reactor.index(), number: self.key.data().as_ffi() }
    }
}

impl std::fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = self.key.data().as_ffi();
        // Reactor, slot, and how often the slot has been used before.
        write!(f, "{}.{}.{}", self.reactor.index(), number & u64::from(u32::MAX), number >> 33)
    }
}

impl std::fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The way to a peer that this side dials.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) target: Address,
    pub(crate) backoff: Backoff,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `connect` is in flight.
    Connecting { operation: OpKey },
    /// The socket is connected; the session has its own state.
    Live,
    /// The peer is gone and the session over; what came before is still read. See `pause`.
    Departed { reason: CloseReason },
    /// `shutdown(2)` is done; waits for the operations in flight.
    Closing { reason: CloseReason, session: After },
}

/// What becomes of the session of a connection that is closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It is over, or has left already.
    Over,
    /// It goes on without a link, and leaves when the kernel holds no send of it.
    Away,
}

/// Why a connection with unparsed frames is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// The inbox has no room for the next message.
    Inbox { payload_bytes: usize },
    /// The receive memory has no buffer for the frame begun.
    Memory { frame_bytes: usize },
}

/// A block whose buffer the ring owns for a send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) source: Source,
    pub(crate) span: Span,
    /// When the oldest message in it was queued; 0 without one.
    pub(crate) queued_at: u64,
    /// Up to where in the buffer the socket has taken it.
    pub(crate) sent: usize,
    /// How much of it the send under way is to take.
    pub(crate) asked: usize,
    /// The kernel sends from the buffer itself.
    pub(crate) zero_copy: bool,
}

impl InFlight {
    pub(crate) fn new(source: Source, block: &Block) -> Self {
        let queued_at = block.queued_at();
        let sent = block.span.start;
        Self { source, span: block.span, queued_at, sent, asked: 0, zero_copy: false }
    }

    /// Bytes that the socket has not taken yet.
    #[inline]
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.span.filled - self.sent
    }

    /// How many of its messages the socket has not taken in full. `buffer` is the block's. Reads
    /// the frames over again: for the end of a connection only.
    #[cold]
    pub(crate) fn frames_dropped(&self, buffer: &Buffer) -> u64 {
        if self.source == Source::Control {
            // The session's own frame: nobody's message.
            return 0;
        }
        let frames = Frames::of(buffer, &self.span);
        frames.filter(|frame| !frame.is_gap() && frame.at + frame.bytes > self.sent).count() as u64
    }

    /// The block again, now that its buffer is back.
    pub(crate) fn into_block(self, buffer: Buffer) -> Block {
        Block { buffer, span: self.span }
    }

    /// The same, where not all of it has left.
    pub(crate) fn into_returned(self, buffer: Buffer) -> Returned {
        let (source, sent) = (self.source, self.sent);
        Returned { source, block: self.into_block(buffer), sent }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    /// The other end's address, for people.
    pub(crate) address: String,
    pub(crate) phase: Phase,
    pub(crate) session: Session,
    /// The place of its session.
    pub(crate) home: SessionKey,
    /// What the application calls the session: for an express connection the main part's place.
    pub(crate) public: SessionKey,
    /// Where this side dialled, and when to dial again; `None` where the peer dials.
    pub(crate) route: Option<Box<Route>>,
    /// Accepted as the first of two connections, and the second has not come yet.
    pub(crate) is_incomplete: bool,
    /// Counted in `connections_active`.
    pub(crate) is_active: bool,
    /// What the deadlines know of the session's.
    pub(crate) session_due: Nanos,
    /// How many other reactors of the node have not known the peer.
    pub(crate) strange_to: usize,
    /// The hello of a peer that may have its session at another reactor: on its way there.
    pub(crate) passed_on: Option<Box<[u8]>>,
    /// The application has disconnected meanwhile: the session ends instead.
    pub(crate) is_given_up: bool,
    /// The session has had another connection before.
    pub(crate) is_resumed: bool,
    /// The block whose send the end of the link interrupted: it goes with the session.
    pub(crate) returned: Option<Returned>,
    /// What the session had not delivered when it ended.
    pub(crate) undelivered: Vec<Undelivered>,
    pub(crate) window: Window,
    /// A receive is in flight.
    pub(crate) receiving: bool,
    /// A send is in flight, or its rest waits to be queued again.
    pub(crate) in_flight: Option<InFlight>,
    /// The rest of a send that must be queued again.
    pub(crate) unsent: Option<Buffer>,
    /// The socket was full: the ring waits for room for what is sent, instead of trying once.
    pub(crate) congested: bool,
    /// How often in a row its full socket was tried past the ring, in vain.
    pub(crate) attempts: u16,
    /// Zero-copy sends are worth trying.
    pub(crate) zero_copy: bool,
    /// From this length on a message is longer than what the socket has been prepared for.
    pub(crate) longer_bytes: usize,
    /// In the reactor's list of connections with something to send, or of those that are stalled.
    pub(crate) is_dirty: bool,
    /// In the reactor's list of connections whose receive must be armed.
    pub(crate) wants_receive: bool,
    /// The last receive left more in the socket, or nothing was sent since: data may be there.
    pub(crate) expects_data: bool,
    /// Length of the frame at the front of the window, once its header has arrived.
    pub(crate) frame_bytes: Option<usize>,
    /// Longest frame parsed since the window was last prepared.
    pub(crate) parsed_bytes_max: usize,
    pub(crate) pause: Option<Pause>,
    /// A poll for the peer's end is in flight.
    pub(crate) is_end_polled: bool,
    /// Close once everything queued has left.
    pub(crate) close_when_sent: Option<CloseReason>,
    /// Bound of the current state: connect, handshake or drain.
    pub(crate) state_deadline: Nanos,
    /// That is for the peer's goodbye, which follows that of the other connection, behind whatever
    /// the peer has sent before.
    pub(crate) awaits_goodbye: bool,
    /// When the frame at the front was begun; [`Nanos::NEVER`] without one.
    pub(crate) frame_begun: Nanos,
    /// When the session was established; [`Nanos::NEVER`] before.
    pub(crate) established_at: Nanos,
    pub(crate) messages_received: u64,
    /// The peer's clock minus ours, as the arrivals of messages are reckoned with.
    pub(crate) clock: ArrivalClock,
    /// Admitted messages that the kernel has not taken in full, as far as the session is over.
    pub(crate) messages_dropped: u64,
    pub(crate) last_activity: Nanos,
}

impl Connection {
    pub(crate) fn new(socket: Socket, address: String, session: Session, window: Window) -> Self {
        Self {
            zero_copy: may_zero_copy(&socket),
            socket,
            address,
            phase: Phase::Live,
            session,
            home: SessionKey::default(),
            public: SessionKey::default(),
            route: None,
            is_incomplete: false,
            is_active: false,
            session_due: Nanos::NEVER,
            strange_to: 0,
            passed_on: None,
            is_given_up: false,
            is_resumed: false,
            returned: None,
            undelivered: Vec::new(),
            window,
            receiving: false,
            in_flight: None,
            unsent: None,
            congested: false,
            attempts: 0,
            longer_bytes: GATHERED_MESSAGE_BYTES_MIN,
            is_dirty: false,
            wants_receive: false,
            expects_data: true,
            frame_bytes: None,
            parsed_bytes_max: 0,
            pause: None,
            is_end_polled: false,
            messages_dropped: 0,
            close_when_sent: None,
            state_deadline: Nanos::NEVER,
            awaits_goodbye: false,
            frame_begun: Nanos::NEVER,
            established_at: Nanos::NEVER,
            messages_received: 0,
            clock: ArrivalClock::default(),
            last_activity: Nanos(0),
        }
    }

    /// Whether what the peer sends may not be seen at present, so that its silence says nothing:
    /// while the connection is paused, and while a long frame is received in one piece (which
    /// `frame_timeout_ms` bounds). `window_bytes` is the length of its window.
    pub(crate) fn is_not_listening(&self, window_bytes: usize) -> bool {
        self.pause.is_some() || self.frame_bytes.is_some_and(|bytes| bytes > window_bytes / 2)
    }

    /// The socket has taken only so many bytes of a block: the rest is to be sent again.
    #[inline]
    pub(crate) fn keep_rest(&mut self, in_flight: InFlight, buffer: Buffer, taken: usize) {
        self.in_flight = Some(InFlight { sent: in_flight.sent + taken, ..in_flight });
        self.unsent = Some(buffer);
    }

    /// Whether the kernel holds a send.
    pub(crate) fn is_sending(&self) -> bool {
        self.in_flight.is_some() && self.unsent.is_none()
    }

    /// Whether the kernel holds an operation of this connection.
    pub(crate) fn has_operations(&self) -> bool {
        let sending = self.in_flight.is_some() && self.unsent.is_none();
        self.receiving
            || self.is_end_polled
            || sending
            || matches!(self.phase, Phase::Connecting { .. })
    }

    /// Whether it is closing, and its session goes on when it has ended.
    pub(crate) fn survives(&self) -> bool {
        matches!(self.phase, Phase::Closing { session: After::Away, .. })
    }

    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Whether what has come, or still comes, is handed over.
    #[inline]
    pub(crate) fn is_readable(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Departed { .. })
    }

    pub(crate) fn is_established(&self) -> bool {
        self.established_at != Nanos::NEVER
    }
}

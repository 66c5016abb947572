//! What a reactor owns, apart from its handlers: so that a handler can be lent all of it.
//!
//! Holds the connections, the memory, the ring and the lists of who has something to do. The
//! steps of a turn that need no handler are methods here and in `transmit`; `mod.rs` puts them in
//! order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::TrySendError;
use slotmap::SlotMap;

use crate::config::{Config, Idle, Overflow};
use crate::error::{CloseReason, SendError, SetupError};
use crate::mem::{Buffer, Deadlines, OutOfMemory, PayloadArena, Pool, PoolLayout};
use crate::reactor::ClockOffset;
use crate::reactor::abandoned::Cancellations;
use crate::reactor::catch_up::{CatchUp, LAG_PAUSE};
use crate::reactor::command::{Asker, DialError, DialFailure, Mailbox};
use crate::reactor::connection::{
    After, Connection, ConnectionId, ConnectionKey, Pause, Phase, ReactorId,
};
use crate::reactor::drops::DropNews;
use crate::reactor::errand::Errands;
use crate::reactor::events::EventQueue;
use crate::reactor::express::Pairs;
use crate::reactor::flush::Flushes;
use crate::reactor::inbox::Inbox;
use crate::reactor::listener::Listener;
use crate::reactor::message::Message;
use crate::reactor::meter::Meter;
use crate::reactor::pause::{FirstInLine, departed_max};
use crate::reactor::pool::Pools;
use crate::reactor::sessions::{self, Home, SessionKey};
use crate::reactor::shutdown::Life;
use crate::reactor::standing::StandingTimer;
use crate::reactor::tap::TapWriter;
use crate::reactor::transmit::{GATHERED_BYTES, is_gathered};
use crate::reactor::troubles::Troubles;
use crate::reactor::watch::{WatchKey, Watched};
use crate::reactor::{BroadcastReport, ConnectionInfo, Event, EventKind};
use crate::session::heartbeat::{HeartbeatPolicy, Pace};
use crate::session::lane::{LaneLimits, SendMemory};
use crate::session::pair::{Accounts, Remains};
use crate::session::requests::Requests;
use crate::session::state::State;
use crate::session::{Correlation, Envelope, Identity, PeerInfo};
use crate::stats::{Block, CounterBlock, Registry};
use crate::sys::ring::Ring;
use crate::sys::socket;
use crate::time::Nanos;
use crate::wire::handshake::{
    Features, GoodbyeReason, HANDSHAKE_BYTES_MAX, SessionId, write_farewell,
};
use crate::wire::{Body, Frame, Kind, Priority, Scratch};

/// Size of the small send blocks, of which every session is guaranteed one.
const SMALL_BLOCK_BYTES: usize = 4096;
const _: () = assert!(SMALL_BLOCK_BYTES >= HANDSHAKE_BYTES_MAX);
const _: () = assert!(crate::mem::ALIGN == crate::wire::FRAME_ALIGN);
const _: () = assert!(crate::stats::LANES == Priority::COUNT);

/// How often the clock of a busy peer is measured, where heartbeats are wanted at all.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// How far apart a reactor's measurements are at least. More than 1,000 busy sessions are measured
/// less often than they want: each in its turn, 10,000 every ten seconds, in which clocks drift
/// apart by what `Config::clock_drift_ppm` adds to the error of the estimate.
const MEASURE_SPACING: Duration = Duration::from_millis(1);

/// From this many bytes that wait in a lane on, who sends without turning submits by itself.
pub(crate) const AUTO_FLUSH_BYTES: usize = 64 << 10;

/// A message that was queued.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admitted {
    /// Its length on the wire.
    pub(crate) frame_bytes: usize,
    /// What its lane holds now, itself included.
    pub(crate) lane_bytes: usize,
    /// Others were dropped to make room for it.
    pub(crate) is_crowded: bool,
}

impl Admitted {
    /// Whether the lane has grown past another multiple of [`AUTO_FLUSH_BYTES`]; of long messages,
    /// of as many as leave at once. One that drops to make room does not grow any more.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        let is_gathered = is_gathered(self.frame_bytes);
        let stride = if is_gathered { GATHERED_BYTES } else { AUTO_FLUSH_BYTES };
        let has_grown = self.lane_bytes / stride != (self.lane_bytes - self.frame_bytes) / stride;
        has_grown || self.is_crowded
    }
}

/// Messages that were queued in one go.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Batch {
    pub(crate) queued: usize,
    /// Why the one after them was not.
    pub(crate) refused: Option<SendError>,
    /// The lane has grown past another multiple of what was asked for, or is crowded: it is to be
    /// sent, if it can be.
    pub(crate) is_due: bool,
    /// Others were dropped to make room.
    pub(crate) is_crowded: bool,
    /// That came before the last of them: there may be more.
    pub(crate) is_stopped: bool,
}

/// See the module.
pub(crate) struct Core {
    /// First, so that it is dropped before whatever owns a descriptor: entries that are queued and
    /// not submitted name theirs by number, and dropping the ring submits them. By then the number
    /// must not be another file's. Buffers may follow in any order: those that the kernel uses are
    /// in the ring's own slots, and dropping it waits for them.
    pub(crate) ring: Ring,
    pub(crate) reactor: ReactorId,
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) limits: LaneLimits,
    pub(crate) idle: Idle,
    pub(crate) now: Nanos,
    /// When the last turn began.
    pub(crate) turned_at: Nanos,
    /// `now` was read since the last turn or flush.
    pub(crate) now_is_fresh: bool,
    pub(crate) connections: SlotMap<ConnectionKey, Connection>,
    /// Where each session is.
    pub(crate) homes: SlotMap<SessionKey, Home>,
    /// The sessions with two connections.
    pub(crate) pairs: Pairs,
    /// The sessions of peers that may come back, by the id of their end.
    pub(crate) by_peer: BTreeMap<SessionId, SessionKey>,
    /// The key last used in each slot of `homes`.
    pub(crate) session_keys: Vec<SessionKey>,
    pub(crate) session_deadlines: Deadlines,
    /// Of the heartbeats of busy sessions.
    pub(crate) pace: Pace,
    /// What is watched in every session.
    pub(crate) watches: Vec<(WatchKey, Duration)>,
    /// What watches have seen and the handlers have not been told.
    pub(crate) watched: Vec<(SessionKey, Watched)>,
    /// The peers of sessions that are over, until the handlers of their watches have been told.
    pub(crate) peers_parted: Vec<(SessionKey, PeerInfo)>,
    /// Sessions beyond this many end with their connection.
    pub(crate) sessions_max: usize,
    /// The key last used in each slot, to find it by the number the deadlines know.
    pub(crate) keys: Vec<ConnectionKey>,
    pub(crate) listeners: Vec<Listener>,
    /// By what the application calls the session, and its part.
    pub(crate) requests: Requests<SessionKey, Message>,
    /// Those that other threads wait for.
    pub(crate) errands: Errands,
    /// Who waits for a session to be flushed.
    pub(crate) flushes: Flushes,
    /// Requests of peers that were given up.
    pub(crate) cancellations: Arc<Cancellations>,
    pub(crate) pools: Pools,
    pub(crate) inbox: Inbox,
    pub(crate) arena: PayloadArena,
    pub(crate) events: EventQueue,
    pub(crate) deadlines: Deadlines,
    /// Drops to be told by events.
    pub(crate) drop_news: DropNews,
    /// Connections with bytes to parse.
    pub(crate) ready: Vec<ConnectionKey>,
    /// The connection that the last message was queued on, one at a time. It may be gone.
    last_target: ConnectionKey,
    /// Connections with something to send.
    pub(crate) dirty: Vec<ConnectionKey>,
    /// Takes turns with `dirty`.
    pub(crate) dirty_spare: Vec<ConnectionKey>,
    /// Connections whose sockets were full: to be tried again past the ring, by a reactor that
    /// spins. They have something to send as well, and are in `dirty` or here.
    pub(crate) stalled: Vec<ConnectionKey>,
    /// Connections whose receive must be armed.
    pub(crate) unarmed: Vec<ConnectionKey>,
    /// Connections that wait for inbox room or receive memory.
    pub(crate) paused: Vec<ConnectionKey>,
    /// How many connections are departed; see `pause`.
    pub(crate) departed: usize,
    /// Connections that are closed and whose last operation has not ended.
    leaving: usize,
    /// Places for connections, departed ones included.
    pub(crate) places_max: usize,
    /// Connections whose last operation has ended.
    pub(crate) ended: Vec<ConnectionKey>,
    /// Sends queued in the ring and not submitted.
    pub(crate) sends_unsubmitted: u32,
    /// Receives made outside the ring since the last turn.
    pub(crate) direct_receives: u32,
    /// In this pass, or the last: so few connections have something to send that it goes past the
    /// ring, by system calls of its own.
    pub(crate) sends_few: bool,
    /// Until then what is beside a connection for urgent messages is copied in short pieces.
    pub(crate) is_urgent_until: Nanos,
    pub(crate) active: u64,
    /// Messages queued and in flight, all sessions.
    pub(crate) queued: u64,
    /// Reliable messages that no peer has confirmed yet, all sessions.
    pub(crate) unconfirmed: u64,
    pub(crate) last_activity: Nanos,
    pub(crate) standing: StandingTimer,
    pub(crate) mailbox: Option<Arc<Mailbox>>,
    /// The ways into all reactors of the node, this one included, by index.
    pub(crate) siblings: Vec<Arc<Mailbox>>,
    pub(crate) mailbox_polled: bool,
    /// A prompt send is in flight and somebody waits for its end.
    pub(crate) awaits_completion: bool,
    /// How far behind the kernel this reactor is.
    pub(crate) catch_up: CatchUp,
    /// The clock has been read since a spinning reactor received something, for the turn that
    /// follows.
    pub(crate) now_is_of_receive: bool,
    /// Who waits for receive memory the longest.
    pub(crate) memory_first: FirstInLine,
    /// Room in the inbox that nobody takes from the connection that waits for it the longest.
    pub(crate) inbox_promised_bytes: usize,
    /// So many sends had left past the ring when a message was refused for want of room, or
    /// somebody began to wait until all has left; no wait has ended for what has left since.
    pub(crate) room_wanted_since: Option<u64>,
    /// Who waits for a connection to be established.
    pub(crate) dial_askers: Vec<(ConnectionKey, Asker<Result<ConnectionId, DialError>>)>,
    /// The connection that ended last in each slot, and why: for whoever asks when it is gone.
    pub(crate) closed: Vec<Option<(SessionKey, CloseReason)>>,
    /// Whether it runs, or is on its way to its end.
    pub(crate) life: Life,
    pub(crate) counters: CounterBlock,
    pub(crate) meter: Meter,
    pub(crate) troubles: Troubles,
    /// Where the counters are, unless that is the node's.
    pub(crate) registry: Option<Registry>,
    /// Copies what passes for another thread.
    pub(crate) tap: Option<Box<TapWriter>>,
    pub(crate) windows: Pool,
    pub(crate) receive_memory: Pool,
    pub(crate) send_memory: SendMemory,
}

impl Core {
    pub(crate) fn new(
        config: Config,
        reactor: ReactorId,
        mailbox: Option<Arc<Mailbox>>,
        inbox: Inbox,
        events: EventQueue,
        block: &Block,
    ) -> Result<Self, SetupError> {
        let places_max = places_max(&config);
        // A receive, a send and a poll each, a connect before them, the listeners, the eventfd.
        let mut ring = Ring::new(config.ring_entries(), places_max * 3 + 64)?;
        let limits = LaneLimits::from_config(&config);
        let mut send_memory = send_memory(&config)?;
        register(&mut ring, &mut send_memory, &config);
        if config.napi_busy_poll_us() > 0
            && let Err(error) = ring.enable_napi(config.napi_busy_poll_us())
        {
            tracing::warn!(%error, "NAPI busy polling is not available (Linux 6.9)");
        }
        let slots = places_max + 64;
        // Away, and in connections: no more go away when there are twice as many sessions as places
        // for connections, and each of those may have another.
        let sessions_max = 2 * places_max;
        let homes_max = homes_max(&config);

        Ok(Self {
            ring,
            reactor,
            identity: Identity {
                dialer_features: features(config.reconnect() && config.session_linger_ms() > 0),
                listener_features: features(config.session_linger_ms() > 0),
                node_name: config.node_name().into(),
                node_number: config.node_number(),
                schema_hash: config.schema_hash(),
                frame_bytes_max: config.frame_bytes_max(),
                checksum: config.checksum(),
                heartbeat: HeartbeatPolicy {
                    interval_us: config.heartbeat_interval_us(),
                    misses: config.heartbeat_misses(),
                    // Of up to 1,000 busy sessions no clock estimate ages beyond a second's drift.
                    measure_every: MEASURE_EVERY,
                },
                clock_drift_ppm: config.clock_drift_ppm(),
                watches_max: config.watches_max() as usize,
            },
            limits,
            idle: config.idle(),
            now: Nanos::now(),
            turned_at: Nanos(0),
            now_is_fresh: false,
            connections: SlotMap::with_capacity_and_key(places_max),
            homes: SlotMap::with_capacity_and_key(homes_max),
            pairs: Pairs::with_capacity(homes_max),
            by_peer: BTreeMap::new(),
            session_keys: vec![SessionKey::default(); homes_max],
            session_deadlines: Deadlines::with_capacity(homes_max),
            pace: Pace::new(MEASURE_SPACING),
            watches: Vec::new(),
            watched: Vec::with_capacity(16),
            peers_parted: Vec::new(),
            sessions_max,
            keys: vec![ConnectionKey::default(); slots],
            listeners: Vec::new(),
            requests: Requests::new(config.requests_max(), sessions::random()),
            errands: Errands::with_capacity(match &mailbox {
                Some(_) => config.requests_max() as usize,
                None => 0,
            }),
            flushes: Flushes::default(),
            cancellations: match &mailbox {
                Some(mailbox) => Arc::clone(mailbox.cancellations()),
                None => Arc::new(Cancellations::new(config.requests_max())),
            },
            pools: Pools::default(),
            inbox,
            arena: PayloadArena::new(),
            events,
            deadlines: Deadlines::with_capacity(slots),
            drop_news: DropNews::with_capacity(if config.drop_events() { homes_max } else { 0 }),
            ready: Vec::with_capacity(places_max),
            last_target: ConnectionKey::default(),
            dirty: Vec::with_capacity(places_max),
            dirty_spare: Vec::with_capacity(places_max),
            stalled: Vec::with_capacity(places_max),
            unarmed: Vec::with_capacity(places_max),
            paused: Vec::with_capacity(places_max),
            departed: 0,
            leaving: 0,
            places_max,
            ended: Vec::with_capacity(places_max),
            sends_unsubmitted: 0,
            direct_receives: 0,
            sends_few: false,
            is_urgent_until: Nanos(0),
            active: 0,
            queued: 0,
            unconfirmed: 0,
            last_activity: Nanos(0),
            standing: StandingTimer::new(&config)?,
            mailbox,
            siblings: Vec::new(),
            mailbox_polled: false,
            awaits_completion: false,
            room_wanted_since: None,
            inbox_promised_bytes: 0,
            memory_first: FirstInLine::default(),
            catch_up: CatchUp::new(),
            now_is_of_receive: false,
            dial_askers: Vec::new(),
            closed: vec![None; homes_max],
            life: Life::Running,
            counters: block.counters.clone(),
            meter: Meter::new(block, &config, homes_max),
            troubles: Troubles::default(),
            registry: None,
            tap: None,
            windows: windows(&config)?,
            receive_memory: receive_memory(&config)?,
            send_memory: SendMemory { pool: send_memory, scratch: Scratch::new() },
            config,
        })
    }

    /// Brings the time up to date for a call from outside a turn, once per turn or flush: what is
    /// queued in one go shares its time.
    #[inline]
    pub(crate) fn refresh_now(&mut self) {
        if !self.now_is_fresh {
            self.now = Nanos::now();
            self.now_is_fresh = true;
        }
    }

    /// As [`Core::refresh_now`]. The clock is read in any case where the message has a time to
    /// live: that runs from the call, whatever was queued long before it.
    #[inline]
    pub(crate) fn refresh_for(&mut self, envelope: Envelope) {
        if envelope.expires() {
            self.now_is_fresh = false;
        }
        self.refresh_now();
    }

    /// The same for a call in a handler, where anything else has the time of the turn.
    #[inline]
    pub(crate) fn refresh_within_turn(&mut self, envelope: Envelope) {
        if envelope.expires() {
            self.now = Nanos::now();
        }
    }

    /// As [`Core::push_to`], of a bare message behind others that were queued since the last turn
    /// or flush, on the connection that the last of them took. `None` for any other: nothing has
    /// changed. Hot path.
    #[inline(always)]
    pub(crate) fn append<B: Body + ?Sized>(
        &mut self,
        id: ConnectionId,
        envelope: Envelope,
        body: &B,
    ) -> Option<Admitted> {
        let is_express = envelope.lane_index() >= Priority::High.index();
        if !self.now_is_fresh || is_express && !self.pairs.is_empty() {
            return None;
        }
        let connection = self.connections.get_mut(self.last_target)?;
        // A session that has moved on has left another behind, which is not open.
        if connection.home != id.key || id.reactor != self.reactor || !connection.is_dirty {
            return None;
        }
        let session = &mut connection.session;
        let frame_bytes = session.append(
            envelope,
            body,
            &self.identity,
            self.now,
            &mut self.send_memory.scratch,
        )?;
        let lane_bytes = session.lane_bytes_at(envelope.lane_index());
        Some(Admitted { frame_bytes, lane_bytes, is_crowded: false })
    }

    /// Queues a message for a session, which may be without a connection. Hot path.
    #[inline]
    pub(crate) fn push_to<B: Body + ?Sized>(
        &mut self,
        id: ConnectionId,
        envelope: Envelope,
        correlation: Correlation,
        body: &B,
    ) -> Result<Admitted, SendError> {
        let id = self.for_lane(id, envelope.lane())?;
        match self.key(id) {
            Ok(key) => {
                self.last_target = key;
                self.push(key, envelope, correlation, body)
            }
            Err(_) => self.push_away(id, envelope, correlation, body),
        }
    }

    /// Queues a message on a connection; returns how full its lane is now. Hot path: no
    /// allocation, no syscall.
    #[inline]
    pub(crate) fn push<B: Body + ?Sized>(
        &mut self,
        key: ConnectionKey,
        envelope: Envelope,
        correlation: Correlation,
        body: &B,
    ) -> Result<Admitted, SendError> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Err(SendError::NotConnected);
        };
        let memory = &mut self.send_memory;
        let identity = &self.identity;
        let outcome =
            connection.session.push(envelope, correlation, body, identity, self.now, memory);
        match outcome {
            Ok(bytes) => {
                if !connection.is_dirty {
                    connection.is_dirty = true;
                    self.dirty.push(key);
                }
                let (session, lane) = (&connection.session, envelope.lane());
                let is_crowded = session.has_made_room(lane);
                Ok(Admitted {
                    frame_bytes: bytes,
                    lane_bytes: session.lane_bytes(lane),
                    is_crowded,
                })
            }
            Err(error) => {
                self.push_refused(key, envelope.lane(), error);
                Err(error)
            }
        }
    }

    /// Queues a message for each of `bodies`, alike but for what they carry, until one is refused
    /// or the lane has grown past another multiple of `stride` bytes; of long ones, of as many as
    /// leave at once. What does not change between them is looked at once.
    #[inline]
    pub(crate) fn push_all<'b, B: Body + ?Sized + 'b>(
        &mut self,
        id: ConnectionId,
        envelope: Envelope,
        bodies: &mut impl Iterator<Item = &'b B>,
        stride: usize,
    ) -> Batch {
        let lane = envelope.lane();
        let Ok(key) = self.for_lane(id, lane).and_then(|id| self.key(id)) else {
            return self.push_all_away(id, envelope, bodies);
        };
        let mut batch = Batch::default();
        // Before a body or the iterator may panic: what was queued until then leaves.
        self.mark_dirty(key);
        let connection = &mut self.connections[key];
        let memory = &mut self.send_memory;
        let before = connection.session.lane_bytes(lane);
        let next = |stride: usize| (before / stride + 1).saturating_mul(stride);
        let (due_at, stop_at) = (next(stride), next(stride.max(GATHERED_BYTES)));
        for body in bodies {
            let session = &mut connection.session;
            let identity = &self.identity;
            let none = Correlation::None;
            match session.push(envelope, none, body, identity, self.now, memory) {
                Ok(written) => {
                    batch.queued += 1;
                    let lane_bytes = session.lane_bytes(lane);
                    batch.is_crowded = session.has_made_room(lane);
                    batch.is_due = lane_bytes >= due_at || batch.is_crowded;
                    let is_enough = lane_bytes >= stop_at || !is_gathered(written);
                    if batch.is_due && (is_enough || batch.is_crowded) {
                        batch.is_stopped = true;
                        break;
                    }
                }
                Err(error) => {
                    batch.refused = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = batch.refused {
            self.push_refused(key, lane, error);
        }
        batch
    }

    /// The same for a session that has no connection.
    #[cold]
    fn push_all_away<'b, B: Body + ?Sized + 'b>(
        &mut self,
        id: ConnectionId,
        envelope: Envelope,
        bodies: &mut impl Iterator<Item = &'b B>,
    ) -> Batch {
        let mut batch = Batch::default();
        for body in bodies {
            match self.push_to(id, envelope, Correlation::None, body) {
                Ok(_) => batch.queued += 1,
                Err(error) => {
                    batch.refused = Some(error);
                    break;
                }
            }
        }
        batch
    }

    /// A message was not queued.
    #[cold]
    fn push_refused(&mut self, key: ConnectionKey, lane: Priority, error: SendError) {
        self.count_refusal(error);
        if error == SendError::Full && self.limits.overflow[lane.index()] == Overflow::Disconnect {
            self.close(key, CloseReason::SlowPeer);
        }
    }

    /// The next wait ends when something has left past the ring from now on, or from when somebody
    /// wanted room before: no completion tells of that.
    pub(crate) fn want_room(&mut self) {
        self.room_wanted_since.get_or_insert(self.counters.direct_sends.get());
    }

    #[cold]
    pub(crate) fn count_refusal(&mut self, error: SendError) {
        match error {
            SendError::Full => {
                self.counters.sends_refused.add(1);
                self.want_room();
            }
            SendError::MemoryFull => {
                self.counters.sends_refused.add(1);
                self.counters.sends_out_of_memory.add(1);
                self.want_room();
            }
            SendError::TooLarge { .. } => self.counters.sends_too_large.add(1),
            SendError::Expired => self.counters.sends_expired.add(1),
            _ => {}
        }
    }

    /// Queues a message for every session that has been established, those whose link is away
    /// included: last, so that nobody who is there waits for them.
    pub(crate) fn broadcast<B: Body + ?Sized>(
        &mut self,
        envelope: Envelope,
        body: &B,
    ) -> BroadcastReport {
        // The part that carries the lane, whether the other one has its link or not.
        let carries = |home| {
            let public = self.pairs.public(home);
            let carrier = self.pairs.carrier(public, envelope.lane());
            carrier == Some(home) && self.pairs.is_complete(public)
        };
        // Not one whose place another connection has taken while its last operation ends.
        let is_home =
            |key, home| matches!(self.homes.get(home), Some(&Home::Here(it)) if it == key);
        let here = self
            .connections
            .iter()
            .filter(|(key, it)| it.is_established() && is_home(*key, it.home))
            .map(|(_, connection)| connection.home);
        let away = self.homes.iter().filter(|(_, place)| matches!(place, Home::Away(_)));
        let ids: Vec<_> = here
            .chain(away.map(|(home, _)| home))
            .filter(|&home| carries(home))
            .map(|home| ConnectionId { reactor: self.reactor, key: self.pairs.public(home) })
            .collect();
        let outcomes = ids
            .into_iter()
            .map(|id| {
                let outcome = self.push_to(id, envelope, Correlation::None, body);
                (id, outcome.map(drop))
            })
            .collect();
        BroadcastReport { outcomes, failures: Vec::new() }
    }

    /// Copies a frame to memory that outlives the handler.
    pub(crate) fn message(&mut self, id: ConnectionId, frame: &Frame<'_>) -> Message {
        let payload = self.arena.copy(frame.payload());
        let lifetime = frame.lifetime();
        let deadline = match self.session(id) {
            Some(session) if lifetime.ttl_us > 0 => session.deadline_of(&lifetime, self.now),
            _ => Nanos::NEVER,
        };
        let is_request = frame.is_request();
        let mark = if is_request { self.mark(id.key, frame.correlation()) } else { None };
        if let Some(mark) = mark {
            // Another request of that number was cancelled before, not this one.
            self.cancellations.remove(mark);
        }
        Message::new(id, frame, deadline, mark, payload)
    }

    /// Puts a connection into the list of those with something to send.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.is_dirty
        {
            connection.is_dirty = true;
            self.dirty.push(key);
        }
    }

    /// Puts a connection into the list of those to be read.
    #[inline]
    pub(crate) fn mark_unarmed(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.wants_receive
        {
            connection.wants_receive = true;
            self.unarmed.push(key);
        }
    }

    /// Stops admitting messages on a connection and ends it once everything queued has left, or
    /// at `deadline`.
    pub(crate) fn drain(&mut self, key: ConnectionKey, deadline: Nanos) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match (connection.phase, connection.session.state()) {
            (Phase::Live, State::Open) => {
                connection.session.drain();
                connection.state_deadline = deadline;
                connection.awaits_goodbye = false;
                self.set_deadline(key);
                self.mark_dirty(key);
            }
            (Phase::Live, State::Draining | State::Finishing) => {
                connection.state_deadline = connection.state_deadline.min(deadline);
                self.set_deadline(key);
            }
            (Phase::Live | Phase::Connecting { .. }, _) => self.close(key, CloseReason::Local),
            // Only other threads can make the room it waits for while this one waits for its end.
            (Phase::Departed { reason }, _) if self.inbox.is_local() => {
                connection.is_given_up = true;
                self.close(key, reason);
            }
            (Phase::Departed { .. }, _) => {
                connection.is_given_up = true;
                connection.awaits_goodbye = false;
                connection.state_deadline = connection.state_deadline.min(deadline);
                self.set_deadline(key);
            }
            (Phase::Closing { .. }, _) => {}
        }
    }

    /// Begins the end of a connection: nothing more is sent or handled. The slot is freed when
    /// the last operation in flight has ended.
    #[cold]
    pub(crate) fn close(&mut self, key: ConnectionKey, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.phase, Phase::Closing { .. }) {
            return;
        }
        let survives = self.survives(key, reason);
        let connection = &mut self.connections[key];
        let memory = &mut self.send_memory;
        let mut dropped = 0;
        if survives {
            if let Some(in_flight) = connection.in_flight
                && let Some(buffer) = connection.unsent.take()
            {
                connection.returned = Some(in_flight.into_returned(buffer));
                connection.in_flight = None;
            }
        } else {
            let undelivered;
            (dropped, undelivered) = connection.session.end(memory);
            // A departed one's session has ended before: what it left is there.
            connection.undelivered.extend(undelivered);
        }
        if let Some(in_flight) = connection.in_flight {
            self.awaits_completion = true;
            if let Some(buffer) = connection.unsent.take() {
                dropped += in_flight.frames_dropped(&buffer);
                let (session, undelivered) = (&mut connection.session, &mut connection.undelivered);
                session.end_block(in_flight.into_returned(buffer), undelivered, memory);
                connection.in_flight = None;
            }
        }
        // ENOTCONN only, when the peer was faster: then the operations have ended already.
        let _ = connection.socket.shutdown(std::net::Shutdown::Both);
        if connection.in_flight.is_some_and(|in_flight| in_flight.zero_copy) {
            // The kernel holds its pages until the peer has read them, or the queue is dropped.
            socket::reset(&connection.socket);
        }
        let connecting = match connection.phase {
            Phase::Connecting { operation } => Some(operation),
            _ => None,
        };
        let was_departed = matches!(connection.phase, Phase::Departed { .. });
        self.departed -= usize::from(was_departed);
        self.leaving += 1;
        let is_active = std::mem::take(&mut connection.is_active);
        let has_operations = connection.has_operations();
        connection.state_deadline = Nanos::NEVER;
        connection.frame_begun = Nanos::NEVER;
        let session = if survives { After::Away } else { After::Over };
        connection.phase = Phase::Closing { reason, session };

        connection.messages_dropped += dropped;
        let in_flight =
            connection.in_flight.map_or(0, |in_flight| u64::from(in_flight.span.frames));
        let is_sending = connection.in_flight.is_some();

        self.counters.messages_dropped.add(dropped);
        self.counters.closes[reason.index()].add(1);
        self.set_deadline(key);
        let home = self.connections[key].home;
        let is_stand_in = self.is_stand_in(key);
        if !survives && !is_stand_in {
            self.end_watches(home, reason);
            let has_lost = dropped + in_flight > 0 || !self.connections[key].undelivered.is_empty();
            // What a departed one had lost was told when its peer went.
            if has_lost && !was_departed {
                self.fail_flushes(self.public_id(home));
            }
            self.part_ended(home, reason, has_lost);
        }
        if is_active {
            self.session_ended(reason, dropped + in_flight);
        }
        if is_stand_in {
            self.stand_in_failed(home, reason);
        } else if !survives {
            self.count_drops(home);
            self.session_deadlines.set(sessions::slot(home), Nanos::NEVER);
            self.forget_peer(home);
            self.remember_end(home, reason);
            self.requests.fail(home, reason);
            // How much of the block in flight the socket has taken is known once its send has
            // ended.
            if !is_sending {
                self.report_end(key);
            }
            self.answer_dial(key, Err(reason));
        }
        if let Some(operation) = connecting {
            self.ring.cancel(operation);
        } else if !has_operations {
            self.ended.push(key);
        }
    }

    /// Says that a connection is over, now that what it took with it is known.
    #[cold]
    pub(crate) fn report_end(&mut self, key: ConnectionKey) {
        let connection = &mut self.connections[key];
        let Phase::Closing { reason, .. } = connection.phase else {
            unreachable!("a connection closes before its end")
        };
        let established = connection.is_established();
        let messages_dropped = connection.messages_dropped;
        let home = connection.home;
        let undelivered = std::mem::take(&mut connection.undelivered);
        self.count_drops(home);
        self.say_farewell(home, reason, established, Remains { messages_dropped, undelivered });
    }

    /// Counts a session as connected, as the application is told: one with two connections once
    /// both stand.
    pub(crate) fn count_active(&mut self, key: ConnectionKey) {
        let connection = &mut self.connections[key];
        if !std::mem::replace(&mut connection.is_active, true) {
            self.active += 1;
            self.counters.connections_established.add(1);
            self.counters.connections_active.set(self.active);
        }
    }

    /// Counts an established session as ended.
    pub(crate) fn session_ended(&mut self, reason: CloseReason, dropped: u64) {
        self.active -= 1;
        self.counters.connections_active.set(self.active);
        self.counters.connections_lost.add(1);
        // A peer that shuts down too may say goodbye first: it took everything all the same.
        let in_order = matches!(reason, CloseReason::Local | CloseReason::Goodbye);
        if in_order && dropped == 0 {
            self.life.count_flushed();
        }
    }

    /// Whether no place is left for another connection.
    pub(crate) fn is_full(&self) -> bool {
        let beside = (self.departed + self.leaving).min(departed_max(&self.config));
        self.connections.len() >= self.config.connections_max() as usize + beside
    }

    /// Tells whoever waits for this connection how it went.
    pub(crate) fn answer_dial(&mut self, key: ConnectionKey, outcome: Result<(), CloseReason>) {
        let Some(at) = self.dial_askers.iter().position(|(dialled, _)| *dialled == key) else {
            return;
        };
        let (_, asker) = self.dial_askers.swap_remove(at);
        let address = self.connections.get(key).map_or_else(String::new, |c| c.address.clone());
        let outcome = outcome
            .map(|()| self.id(key))
            .map_err(|reason| DialError { address, reason: DialFailure::Closed(reason) });
        // Who has not given up by now waits until it is told, unless its thread is gone.
        let untold = match asker.claim.try_claim() {
            true => asker.reply.try_send(outcome).err().map(TrySendError::into_inner),
            false => Some(outcome),
        };
        if let Some(Ok(id)) = untold {
            // Whoever wanted it waits no more, and was told that it failed.
            self.disconnect(id, self.now + self.config.handshake_timeout());
        }
    }

    /// Frees the slots of connections whose last operation has ended.
    #[inline]
    pub(crate) fn free_ended(&mut self) {
        if !self.ended.is_empty() {
            self.free_all_ended();
        }
    }

    #[cold]
    fn free_all_ended(&mut self) {
        while let Some(key) = self.ended.pop() {
            if self.connections.get(key).is_some_and(Connection::survives) {
                self.detach(key);
            }
            let Some(connection) = self.connections.remove(key) else { continue };
            assert!(!connection.has_operations(), "a slot is freed after its last operation");
            if matches!(connection.phase, Phase::Closing { .. }) {
                self.leaving -= 1;
            }
            if matches!(self.homes.get(connection.home), Some(&Home::Here(here)) if here == key) {
                self.homes.remove(connection.home);
                self.pairs.remove(connection.home);
                self.meter.touch_now(connection.home, self.now);
            }
            self.deadlines.set(key.slot(), Nanos::NEVER);
            let base = connection.window.dissolve(&mut self.receive_memory);
            self.windows.give(base);
            // Dropping the socket closes it.
        }
    }

    /// Tells the deadlines the earliest of a connection's bounds.
    pub(crate) fn set_deadline(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get(key) else { return };
        let frame_deadline = match connection.frame_begun {
            Nanos::NEVER => Nanos::NEVER,
            begun => begun + self.config.frame_timeout(),
        };
        self.deadlines.set(key.slot(), connection.state_deadline.min(frame_deadline));
    }

    /// Acts on the deadlines that are due.
    #[inline]
    pub(crate) fn expire(&mut self) {
        while let Some(slot) = self.deadlines.pop_due(self.now) {
            self.expire_slot(slot);
        }
        while let Some(slot) = self.session_deadlines.pop_due(self.now) {
            self.expire_session(slot);
        }
        if self.requests.earliest() <= self.now {
            let (homes, connections) = (&self.homes, &self.connections);
            self.requests.expire(self.now, |part| match homes.get(part) {
                Some(&Home::Here(key)) => connections.get(key).is_some_and(|connection| {
                    matches!(connection.pause, Some(Pause::Inbox { .. }))
                }),
                _ => false,
            });
        }
        if self.drop_news.due_at() <= self.now {
            self.tell_drops();
        }
    }

    /// Up to when everything that came has been taken in: `now`, unless this reactor is behind.
    #[cold]
    pub(crate) fn caught_up(&mut self) -> Nanos {
        // The kernel may have completions that it did not post yet: for want of room, or because
        // they wait for the next entry. The flag that says so may stay up with nothing behind it
        // (see `spin`), so it is not believed.
        if !self.ring.has_completion() {
            let _ = self.enter_if_needed();
        }
        if self.ring.has_completion() {
            self.catch_up.is_behind(self.now, self.ring.finished(), self.ring.in_flight());
        } else {
            self.catch_up.is_done(self.now);
        }
        self.catch_up.at()
    }

    #[cold]
    fn expire_slot(&mut self, slot: u32) {
        if slot as usize > self.places_max {
            self.rearm_listener(slot);
            return;
        }
        let key = self.keys[slot as usize];
        let caught_up = self.caught_up();
        let Some(connection) = self.connections.get(key) else { return };
        let begun = connection.frame_begun;
        let frame_deadline = match begun {
            Nanos::NEVER => Nanos::NEVER,
            begun => begun + self.config.frame_timeout(),
        };
        let deadline = connection.state_deadline.min(frame_deadline);
        let state = connection.session.state();
        let is_ours = matches!(state, State::Draining | State::Finishing)
            || !matches!(connection.phase, Phase::Live | Phase::Connecting { .. });
        if !is_ours && deadline <= self.now && deadline > caught_up {
            // What is awaited of the peer may be here.
            self.deadlines.set(slot, self.now + LAG_PAUSE);
            return;
        }
        if connection.state_deadline > self.now {
            if frame_deadline <= self.now {
                self.close(key, CloseReason::FrameTimeout);
            } else {
                self.set_deadline(key);
            }
            return;
        }
        if connection.awaits_goodbye && self.has_more_to_read(key) {
            self.connections[key].state_deadline = self.now + self.config.handshake_timeout();
            return self.set_deadline(key);
        }
        let connection = &self.connections[key];
        let reason = match (connection.phase, connection.session.state()) {
            (Phase::Connecting { .. }, _) => CloseReason::ConnectTimeout,
            (_, State::Greeting) => CloseReason::HandshakeTimeout,
            (Phase::Departed { reason }, _) => reason,
            (_, State::Finishing) => CloseReason::Local,
            (_, State::Open) if !self.pairs.is_complete(connection.home) => {
                CloseReason::HandshakeTimeout
            }
            _ => CloseReason::DrainTimeout,
        };
        if reason == CloseReason::DrainTimeout {
            self.say_goodbye_at_once(key);
        }
        self.close(key, reason);
    }

    /// Whether a connection has received something lately, or holds what is not handled yet.
    fn has_more_to_read(&self, key: ConnectionKey) -> bool {
        let connection = &self.connections[key];
        connection.pause.is_some()
            || connection.last_activity + self.config.handshake_timeout() > self.now
            || connection.window.has_unparsed()
    }

    /// The time to leave in order is over: what is queued stays behind, and the peer is told that
    /// it is to leave, so that it does not come back at once. One attempt, without waiting. While
    /// the kernel holds a send there is none: it may have been taken in part, and a goodbye in the
    /// middle of a frame is none.
    pub(crate) fn say_goodbye_at_once(&self, key: ConnectionKey) {
        let connection = &self.connections[key];
        if connection.session.state() != State::Draining || connection.in_flight.is_some() {
            return;
        }
        let reason = self.goodbye_reason();
        let mut frame = [0; HANDSHAKE_BYTES_MAX];
        let bytes = write_farewell(Kind::Goodbye, reason.code(), 0, self.now.0, &mut frame);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        let _ = connection.socket.send_with_flags(&frame[..bytes], flags);
    }

    /// Why this side says goodbye.
    pub(crate) fn goodbye_reason(&self) -> GoodbyeReason {
        if self.life.is_closing() { GoodbyeReason::Shutdown } else { GoodbyeReason::Disconnect }
    }

    /// Keeps an event of a connection's session.
    pub(crate) fn emit(&mut self, key: ConnectionKey, kind: EventKind) {
        self.emit_for(self.connections[key].home, kind);
    }

    /// Keeps an event for whoever polls them; the oldest makes room.
    pub(crate) fn publish(&mut self, event: Event) {
        self.meter.touch_now(event.connection.key, self.now);
        let Event { connection, address, node_name, kind } = &event;
        match kind {
            EventKind::SessionLost { undelivered, omitted } => {
                let messages = undelivered.len() as u64 + omitted;
                tracing::warn!(%connection, address, node_name, messages, "session lost");
            }
            kind => tracing::info!(%connection, address, node_name, %kind, "connection event"),
        }
        let pool = self.observe(&event);
        let displaced = self.events.push(event);
        self.counters.events_dropped.add(u64::from(displaced.is_event));
        self.counters.undelivered_omitted.add(displaced.messages);
        // Whom that lets go on finds the event.
        if let Some(pool) = pool {
            self.settle_pool(pool);
        }
    }

    /// Takes a buffer for one of the session's own frames.
    pub(crate) fn take_control_buffer(&mut self) -> Option<Buffer> {
        self.send_memory.pool.take(HANDSHAKE_BYTES_MAX)
    }

    /// What is known of a connection.
    pub(crate) fn info(&self, key: ConnectionKey) -> Option<ConnectionInfo> {
        let connection = self.connections.get(key)?;
        let mut books = Accounts::default();
        for part in self.parts(self.id(key)) {
            self.session(part).into_iter().for_each(|session| books.add(session));
        }
        let mut info = ConnectionInfo {
            id: self.id(key),
            address: connection.address.clone(),
            peer: connection.session.peer().cloned(),
            is_established: connection.is_established()
                && connection.is_live()
                && self.pairs.is_complete(connection.home),
            connected_for: self.now.since(connection.established_at),
            last_activity: connection.last_activity,
            messages_sent: books.messages_admitted,
            messages_received: connection.messages_received,
            frames_queued: books.frames_queued,
            bytes_queued: books.bytes_queued,
            bytes_kept: books.bytes_kept,
            messages_missed: books.messages_missed,
            messages_expired: books.messages_expired,
            messages_expired_at_peer: books.messages_expired_at_peer,
            round_trip: connection.session.round_trip_ns().map(Duration::from_nanos),
            clock: connection
                .session
                .clock_offset(self.now)
                .map(|offset| ClockOffset { offset_ns: offset.ns, error_ns: offset.error_ns }),
            drops: books.drops,
            express: None,
        };
        self.add_express(connection.home, &mut info);
        Some(info)
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("index", &self.reactor.index())
            .field("connections", &self.connections.len())
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}

/// How many connections a reactor has memory for.
fn places_max(config: &Config) -> usize {
    config.connections_max() as usize + departed_max(config)
}

/// How many sessions a reactor may have to name at once.
pub(crate) fn homes_max(config: &Config) -> usize {
    3 * places_max(config) + 2
}

/// A new name for one end of a session.
pub(crate) fn random_session_id() -> std::io::Result<SessionId> {
    let mut id = SessionId::default();
    getrandom::fill(&mut id.0).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(id)
}

/// What this node offers in a greeting.
fn features(resumes: bool) -> Features {
    if resumes { Features::RESUME } else { Features::default() }
}

fn windows(config: &Config) -> Result<Pool, SetupError> {
    let layout = PoolLayout::uniform(config.window_bytes() as usize, places_max(config));
    let bytes = u64::from(config.window_bytes()) * places_max(config) as u64;
    pool(&layout, "connections_max * window_bytes", bytes)
}

fn receive_memory(config: &Config) -> Result<Pool, SetupError> {
    let smallest = 2 * config.window_bytes() as usize;
    let budget = usize::try_from(config.receive_memory_bytes()).expect("64-bit target");
    let largest = config.frame_bytes_max() as usize;
    let layout = PoolLayout::shared(budget, smallest, largest).with_reserve_for_short();
    pool(&layout, "receive_memory_bytes", config.receive_memory_bytes())
}

fn send_memory(config: &Config) -> Result<Pool, SetupError> {
    let block = config.block_bytes() as usize;
    let budget = usize::try_from(config.send_memory_bytes()).expect("64-bit target");
    let largest = config.frame_bytes_max() as usize;
    // One small block for the lanes of each session, of which there are as many away as here. One
    // for a frame of its own that each connection has in flight (acknowledgement, gap), one for
    // its handshake: a peer that comes back must find memory for its welcome, or what is kept for
    // it is kept for nothing.
    let small = 4 * places_max(config) + 2;
    let layout = PoolLayout::shared(budget, 2 * SMALL_BLOCK_BYTES, largest.max(block));
    let layout = layout.with_reserve().with_small(SMALL_BLOCK_BYTES, small);
    pool(&layout, "send_memory_bytes", config.send_memory_bytes())
}

fn pool(layout: &PoolLayout, key: &'static str, bytes: u64) -> Result<Pool, SetupError> {
    Pool::new(layout).map_err(|OutOfMemory| SetupError::Memory { key, bytes })
}

/// Registers send memory for zero-copy sends; without it they still work, at some cost.
fn register(ring: &mut Ring, send_memory: &mut Pool, config: &Config) {
    let bytes_max = usize::try_from(config.registered_bytes()).expect("64-bit target");
    let threshold = config.zero_copy_bytes_min() as usize;
    if threshold == 0 || bytes_max == 0 {
        return;
    }
    let outcome = send_memory.register(bytes_max, |pieces| {
        let large = pieces.iter_mut().filter(|piece| piece.len() >= threshold);
        ring.register_buffers(large, bytes_max)
    });
    if let Err(error) = outcome {
        tracing::warn!(
            %error,
            bytes = bytes_max,
            "send memory could not be registered (RLIMIT_MEMLOCK: `ulimit -l`, LimitMEMLOCK=); \
             running unregistered"
        );
    }
}

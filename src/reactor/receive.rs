//! From the socket to handlers: frames are cut and handled in the receive window.

use crate::error::{CloseReason, ProtocolError};
use crate::mem::Buffer;
use crate::reactor::connection::{ConnectionKey, Pause, Phase};
use crate::reactor::core::Core;
use crate::reactor::dispatch::{Handlers, Route};
use crate::reactor::watch::WatchKey;
use crate::session::state::State;
use crate::session::{Input, Part, Role};
use crate::sys::ring::Completion;
use crate::time::Nanos;
use crate::wire::decode::Likeness;
use crate::wire::{Frame, Kind};

/// Frames handled for one connection before the others get their turn.
const FRAMES_PER_TURN: u64 = 1024;

/// A response that somebody waits for right now, and takes from the window itself.
pub(crate) struct Awaited<'a> {
    pub(crate) correlation: u64,
    pub(crate) take: &'a mut dyn FnMut(Frame<'_>),
    pub(crate) is_done: bool,
}

/// Why cutting frames stopped.
enum Stop {
    /// Nothing whole is left; the frame begun is this long, once known.
    Starved { frame_bytes: Option<usize> },
    /// The budget of the turn is used up.
    Budget,
    /// The next message has no room in the inbox.
    InboxFull { payload_bytes: usize },
    /// The connection is ending.
    Ended,
}

impl Core {
    /// Books a completed receive.
    #[inline]
    pub(crate) fn on_received(&mut self, key: ConnectionKey, completion: Completion) {
        let connection = self.connections.get_mut(key).expect("a slot outlives its operations");
        connection.receiving = false;
        let buffer = completion.buffer.expect("the completion of a receive has its buffer");
        let result = completion.result.map(|bytes| bytes as usize);
        connection.window.restore(buffer, result.unwrap_or(0));
        if matches!(connection.phase, Phase::Closing { .. }) {
            self.operation_ended(key);
            return;
        }
        self.received(key, result, completion.more_data);
    }

    /// Books what a receive has brought, through the ring or past it: bytes that stand in the
    /// window, or an error.
    #[inline]
    pub(crate) fn received(
        &mut self,
        key: ConnectionKey,
        result: Result<usize, i32>,
        has_more: bool,
    ) {
        if let Ok(1..) = result {
            let connection = &mut self.connections[key];
            connection.expects_data = has_more;
            connection.last_activity = self.now;
            self.ready.push(key);
        } else {
            self.received_nothing(key, result.map(drop));
        }
    }

    /// A receive has met the end of what the peer sends (`Ok`), or an error.
    #[cold]
    fn received_nothing(&mut self, key: ConnectionKey, result: Result<(), i32>) {
        let connection = &mut self.connections[key];
        match result {
            Ok(()) => {
                let reason = match (connection.phase, connection.session.state()) {
                    (Phase::Departed { reason }, _) => reason,
                    (_, State::Finishing) => CloseReason::Local,
                    _ => connection.close_when_sent.unwrap_or(CloseReason::PeerClosed),
                };
                self.close(key, reason);
            }
            // EINTR: as in `on_sent`.
            Err(libc::EAGAIN | libc::EINTR) => self.mark_unarmed(key),
            // ENOMEM: no memory for the request. ENOBUFS is what a receive that picks a provided
            // buffer gets when there is none (Linux commit bcda7baaa3f1); ours bring their own.
            Err(errno @ (libc::ENOBUFS | libc::ENOMEM)) => {
                self.counters.enobufs.add(1);
                self.troubles.lacked("receive", errno, self.now);
                self.mark_unarmed(key);
            }
            Err(errno) => self.close(key, CloseReason::Socket { errno }),
        }
    }
}

/// Handles the frames in the windows of all connections that received something.
#[inline]
pub(crate) fn handle_ready(
    core: &mut Core,
    handlers: &mut Handlers,
    awaited: &mut Option<Awaited<'_>>,
) {
    // Connections whose budget runs out put themselves behind the others for the next turn.
    let count = core.ready.len();
    let transmits_early = core.transmits_early(count);
    for index in 0..count {
        let key = core.ready[index];
        handle_window(core, handlers, awaited, key, transmits_early);
        if transmits_early {
            core.transmit_early(key);
        }
    }
    core.ready.drain(..count);
}

/// Hot path: once per receive. The buffer is taken out of the window while frames borrow it, so
/// that handlers may be given everything else.
fn handle_window(
    core: &mut Core,
    handlers: &mut Handlers,
    awaited: &mut Option<Awaited<'_>>,
    key: ConnectionKey,
    transmits_early: bool,
) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    if !connection.is_readable() || !connection.window.is_idle() {
        return;
    }
    connection.session.received_bytes(core.now);
    let is_urgent = connection.session.part() == Part::Express;
    let mut has_consumed = false;
    // Twice at most, as nothing is received meanwhile: a large frame, and up to FRAMES_PER_TURN
    // that have come behind it.
    let outcome = loop {
        let window = &mut core.connections[key].window;
        let range = window.range();
        let buffer: Buffer = window.lend();
        let mut input = &buffer.bytes()[range];
        let available = input.len();
        let outcome = handle_frames(core, handlers, awaited, key, transmits_early, &mut input);
        let consumed = available - input.len();
        let window = &mut core.connections[key].window;
        window.restore(buffer, 0);
        has_consumed |= consumed > 0;
        // What ended the first frame's connection, or its stay here, goes for what is behind, too.
        if !(window.consume(consumed) && matches!(outcome, Ok(Stop::Starved { .. }))) {
            break outcome;
        }
    };
    if is_urgent {
        core.note_urgency();
    }
    let connection = core.connections.get_mut(key).expect("slots are freed between turns only");
    match outcome {
        Ok(Stop::Starved { frame_bytes }) => {
            let is_begun = connection.window.has_unparsed();
            let was_begun = connection.frame_begun != Nanos::NEVER;
            connection.frame_bytes = frame_bytes;
            if is_begun && (has_consumed || !was_begun) {
                connection.frame_begun = core.now;
                if !was_begun {
                    core.set_deadline(key);
                }
            } else if !is_begun {
                // The deadline is looked at when it is due, not cleared for every frame.
                connection.frame_begun = Nanos::NEVER;
            }
            core.mark_unarmed(key);
        }
        Ok(Stop::Budget) => {
            // Whatever was begun before is handled.
            connection.frame_begun = Nanos::NEVER;
            core.ready.push(key);
        }
        Ok(Stop::InboxFull { payload_bytes }) => {
            core.pause(key, Pause::Inbox { payload_bytes });
        }
        Ok(Stop::Ended) if connection.passed_on.is_some() => core.pass_on(key),
        Ok(Stop::Ended) => {
            if matches!(connection.phase, Phase::Closing { .. }) {
                core.operation_ended(key);
            }
        }
        Err(error) => {
            let id = core.id(key);
            tracing::info!(connection = %id, %error, "the peer broke the protocol: closing");
            core.close(key, CloseReason::Protocol(error));
        }
    }
}

/// Cuts frames off `input` and handles them. The answers to them leave before they are booked, when
/// they may.
#[inline]
fn handle_frames(
    core: &mut Core,
    handlers: &mut Handlers,
    awaited: &mut Option<Awaited<'_>>,
    key: ConnectionKey,
    mut transmits_early: bool,
    input: &mut &[u8],
) -> Result<Stop, ProtocolError> {
    let mut messages = 0;
    // Frames besides: of the session itself, messages that came too late, and cancellations, which
    // are counted as messages, too.
    let mut others = 0;
    let mut bytes = 0;
    let mut longest = 0;
    let mut likeness = Likeness::default();
    let outcome = loop {
        let connection = core.connections.get_mut(key).expect("slots are freed between turns only");
        if !connection.is_readable() {
            // The handler before has seen to that, or what the frame before asked for.
            break Ok(Stop::Ended);
        }
        if input.is_empty() {
            if std::mem::take(&mut transmits_early) && core.transmit_early(key) {
                continue;
            }
            break Ok(Stop::Starved { frame_bytes: None });
        }
        if messages + others >= FRAMES_PER_TURN {
            break Ok(Stop::Budget);
        }
        let decoder = connection.session.decoder();
        let rest = *input;
        let frame = match decoder.next_like(input, &mut likeness) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                break decoder.promise(rest).map(|promise| Stop::Starved {
                    frame_bytes: promise.map(|promise| promise.frame_bytes),
                });
            }
            Err(error) => break Err(error),
        };
        let route = handlers.route(&frame);
        let frame_bytes = frame.frame_bytes();
        longest = longest.max(frame_bytes);
        let meaning = if frame.is_bare() && route != Route::Inbox {
            connection.session.handle_bare(&frame).map(|()| Input::Message)
        } else {
            if route == Route::Inbox && frame.kind().is_application() {
                let is_awaited = frame.is_response();
                let payload_bytes = frame.payload().len();
                if !is_awaited && !core.inbox.has_room(payload_bytes + core.inbox_promised_bytes) {
                    *input = rest;
                    break Ok(Stop::InboxFull { payload_bytes });
                }
            }
            let memory = &mut core.send_memory;
            // The handler before may have taken its time: what is stale by now does not run. Not
            // for the session's own frames: its timers go by the turn's clock, which would run
            // back.
            let is_late = frame.expires() && frame.kind().is_application();
            let now = if is_late { Nanos::now() } else { core.now };
            connection.session.handle(&frame, now, memory)
        };
        let meaning = match meaning {
            Ok(meaning) => meaning,
            Err(error) => break Err(error),
        };
        if let Some(tap) = &mut core.tap {
            tap.received(connection.public, core.now, frame);
        }
        if meaning == Input::Message {
            if connection.is_incomplete {
                // A peer that keeps to the format says nothing before its second connection stands.
                break Err(ProtocolError::Unexpected { kind: frame.kind() });
            }
            // What comes on an express connection is watched by the main part.
            let home = connection.public;
            let is_watched = connection.home != home || !connection.session.watchdog.is_idle();
            if messages == 0 {
                let clock = connection.clock;
                core.note_arrival(key, clock, frame.sent_at_ns());
            }
            messages += 1;
            bytes += frame_bytes as u64;
            if is_watched {
                let keys = [WatchKey::Type(frame.type_id()), WatchKey::Kind(frame.kind())];
                core.feed_watches(home, keys);
            }
            if frame.is_response() {
                respond(core, awaited, key, frame);
            } else if route == Route::Inbox {
                put_aside(core, key, &frame);
            } else {
                handlers.call(route, core, key, home, frame);
            }
            continue;
        }
        others += 1;
        if meaning == Input::Cancelled {
            messages += 1;
            bytes += frame_bytes as u64;
        }
        match handle_other(core, handlers, key, meaning, &frame) {
            Ok(true) => {}
            Ok(false) => break Ok(Stop::Ended),
            Err(error) => break Err(error),
        }
    };
    let connection = core.connections.get_mut(key).expect("slots are freed between turns only");
    connection.messages_received += messages;
    connection.parsed_bytes_max = connection.parsed_bytes_max.max(longest);
    let (home, session) = (connection.home, &connection.session);
    // The other deadlines only move later with what is received.
    let is_due_earlier = session.confirm_at() < connection.session_due;
    let has_something_to_say = session.has_own_block() || session.state() == State::Draining;
    if session.has_untold_confirmations() {
        core.count_admissions(key);
    }
    if is_due_earlier {
        core.set_session_deadline(home);
    }
    if has_something_to_say {
        core.mark_dirty(key);
    }
    core.counters.messages_received.add(messages);
    core.counters.bytes_received.add(bytes);
    core.meter.received(home, messages, bytes, core.now);
    outcome
}

/// A frame that is no message to be handled. Returns whether the connection goes on. Out of line:
/// the addresses it needs would be made ready before the frames of every receive.
#[inline(never)]
fn handle_other(
    core: &mut Core,
    handlers: &mut Handlers,
    key: ConnectionKey,
    meaning: Input,
    frame: &Frame<'_>,
) -> Result<bool, ProtocolError> {
    match meaning {
        Input::Message => unreachable!("handled by the caller"),
        Input::Established => unreachable!("of a greeting that has been answered"),
        Input::Greeting => match greet(core, key, frame)? {
            _ if core.connections[key].passed_on.is_some() => return Ok(false),
            Input::Established => core.establish(key),
            Input::End(reason) => {
                core.end_when_sent(key, reason);
                return Ok(false);
            }
            _ => {}
        },
        Input::Nothing if frame.kind() == Kind::Gap => {
            core.counters.messages_missed.add(frame.type_id().into());
        }
        Input::Cancelled => core.on_cancel(handlers, key, frame.correlation()),
        Input::Nothing => {
            if let Some(nanos) = core.connections[key].session.take_round_trip() {
                core.meter.heartbeat_took(nanos);
            }
        }
        Input::Expired => core.counters.messages_expired.add(1),
        Input::End(reason) => {
            core.end_when_sent(key, reason);
            return Ok(false);
        }
    }
    Ok(true)
}

/// Into the inbox, which has room for it. Out of line, as [`handle_other`] is.
#[inline(never)]
fn put_aside(core: &mut Core, key: ConnectionKey, frame: &Frame<'_>) {
    let message = core.message(core.id(key), frame);
    core.inbox.put(message);
}

/// A response goes to whoever waits for it. Nobody does any more: counted and dropped.
#[inline]
fn respond(
    core: &mut Core,
    awaited: &mut Option<Awaited<'_>>,
    key: ConnectionKey,
    frame: Frame<'_>,
) {
    let correlation = frame.correlation();
    let home = core.connections[key].public;
    let Some(opened_at) = core.requests.waiting_since(home, correlation) else {
        core.counters.responses_late.add(1);
        return;
    };
    core.meter.request_took(core.now.0.saturating_sub(opened_at.0));
    match awaited {
        Some(awaited) if awaited.correlation == correlation && !awaited.is_done => {
            (awaited.take)(frame);
            awaited.is_done = true;
        }
        _ => {
            let message = core.message(core.id(key), &frame);
            core.requests.answer(correlation, message);
        }
    }
}

/// Completes the handshake, from either side.
#[cold]
fn greet(core: &mut Core, key: ConnectionKey, frame: &Frame<'_>) -> Result<Input, ProtocolError> {
    match core.connections[key].session.role() {
        Role::Dialer => core.accept_welcome(key, frame),
        Role::Listener => core.answer(key, frame),
    }
}

impl Core {
    /// Ends a connection at once, or as soon as a reject that is queued has left.
    #[cold]
    fn end_when_sent(&mut self, key: ConnectionKey, reason: CloseReason) {
        let connection = &mut self.connections[key];
        if connection.session.has_block() && matches!(reason, CloseReason::Refused(_)) {
            connection.close_when_sent = Some(reason);
            self.mark_dirty(key);
        } else {
            self.close(key, reason);
        }
    }
}

//! What a received frame means, and what it does to the session.

use std::time::Duration;

use crate::error::{CloseReason, ProtocolError};
use crate::session::clock::PeerNanos;
use crate::session::lane::SendMemory;
use crate::session::state::State;
use crate::session::{Role, Session};
use crate::time::Nanos;
use crate::wire::acknowledgement::read_acknowledgement;
use crate::wire::handshake::{RejectReason, read_farewell};
use crate::wire::heartbeat::{Form, read_heartbeat};
use crate::wire::{Extension, Flags, Frame, Kind, Lifetime, Priority};

/// What a received frame means. Does not carry the frame: moving it through here cost 5 ns a frame
/// in store-forwarding stalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// A message for the application.
    Message,
    /// The peer's half of the handshake: hand it to [`Session::answer`] or
    /// [`Session::accept_welcome`].
    Greeting,
    /// The handshake is complete.
    Established,
    /// The session has taken care of it.
    Nothing,
    /// A message that came too late to be handled.
    Expired,
    /// The request of the frame's correlation is given up.
    Cancelled,
    /// The session is over; what is queued (a reject) should still leave.
    End(CloseReason),
}

impl Session {
    /// What a received frame means, and what it does to the session.
    ///
    /// Hot path: once per frame. The rare frames are handled out of line.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`]: the connection must be closed.
    #[inline]
    pub(crate) fn handle(
        &mut self,
        frame: &Frame<'_>,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Result<Input, ProtocolError> {
        if frame.is_bare() {
            return self.handle_bare(frame).map(|()| Input::Message);
        }
        if matches!(self.state, State::Greeting) || !frame.kind().is_application() {
            return self.handle_own(frame, now, memory);
        }
        self.confirmations.check_sequence(frame)?;
        if let Some(extension) = frame.extension() {
            return self.handle_extension(frame, extension, now, memory);
        }
        if frame.flags().contains(Flags::RELIABLE) {
            self.confirmations.confirm_later(frame.priority(), frame.frame_bytes(), now);
        }
        Ok(Input::Message)
    }

    /// As [`Session::handle`], of a frame that [is bare](Frame::is_bare): it is a message. Nothing
    /// in it is for the session, but that it comes behind the one before.
    ///
    /// Hot path: once per message of a stream.
    #[inline]
    pub(crate) fn handle_bare(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        if matches!(self.state, State::Greeting) {
            return Err(ProtocolError::Unexpected { kind: frame.kind() });
        }
        self.confirmations.check_sequence(frame)
    }

    /// Bytes came in. Hot path: once per receive.
    #[inline]
    pub(crate) fn received_bytes(&mut self, now: Nanos) {
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.received(now);
        }
    }

    /// Until when a message is worth something, by this side's clock.
    ///
    /// Its age is reckoned at the far end of what the clock estimate allows. Without an estimate
    /// nothing is known of its age, and a command that may be stale does not run: 0. A timeout is
    /// taken the other way: a request that may be waited for is handled.
    pub(crate) fn deadline_of(&self, lifetime: &Lifetime, now: Nanos) -> Nanos {
        let Lifetime { sent_at_ns, ttl_us, is_timeout } = *lifetime;
        if ttl_us == 0 {
            return Nanos::NEVER;
        }
        let ttl = Duration::from_micros(ttl_us.into());
        match (self.clock.to_local(PeerNanos(sent_at_ns), now), is_timeout) {
            (Some(sent_at), false) => sent_at.earliest() + ttl,
            (Some(sent_at), true) => sent_at.latest() + ttl,
            (None, false) => Nanos(0),
            (None, true) => Nanos::NEVER,
        }
    }

    #[cold]
    fn handle_own(
        &mut self,
        frame: &Frame<'_>,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Result<Input, ProtocolError> {
        let unexpected = Err(ProtocolError::Unexpected { kind: frame.kind() });
        let may_have_extension = frame.kind().is_application() || frame.kind() == Kind::Cancel;
        if frame.flags().contains(Flags::EXTENDED) && !may_have_extension {
            return Err(ProtocolError::BadFlags { got: frame.flags().0 });
        }
        match (self.state, self.role, frame.kind()) {
            (State::Greeting, Role::Listener, Kind::Hello)
            | (State::Greeting, Role::Dialer, Kind::Welcome) => Ok(Input::Greeting),
            (State::Greeting, Role::Dialer, Kind::Reject) => {
                let (code, _) = read_farewell(frame.payload())?;
                Ok(Input::End(CloseReason::Rejected(RejectReason::from_code(code))))
            }
            (State::Greeting, ..) => unexpected,
            (_, _, Kind::Goodbye) => {
                read_farewell(frame.payload())?;
                Ok(Input::End(CloseReason::Goodbye))
            }
            (_, _, Kind::Acknowledgement) => {
                let acknowledgement = read_acknowledgement(frame.payload())?;
                for (priority, received) in Priority::ALL.into_iter().zip(acknowledgement.received)
                {
                    self.acknowledge(priority, received.get(), memory)?;
                }
                self.expired_at_peer = self.expired_at_peer.max(acknowledgement.expired.get());
                Ok(Input::Nothing)
            }
            (_, _, Kind::Cancel) => {
                self.confirmations.check_sequence(frame)?;
                let Some(extension) = frame.extension() else { return unexpected };
                Ok(match self.handle_extension(frame, extension, now, memory)? {
                    Input::Message => Input::Cancelled,
                    other => other,
                })
            }
            (_, _, Kind::Gap) => {
                self.confirmations.skip(frame)?;
                Ok(Input::Nothing)
            }
            (_, _, Kind::Heartbeat) => {
                let beat = read_heartbeat(frame.payload())?;
                if let Some(heartbeat) = &mut self.heartbeat {
                    let heard = heartbeat.heard(&beat, now);
                    if let Some(exchange) = heard.exchange {
                        // A contradiction restarts the estimate, a nonsense changes nothing.
                        let _ = self.clock.sample(&exchange);
                        if beat.form == Form::Answer {
                            self.round_trip_ns = Some(exchange.round_trip_ns());
                            self.round_trip_is_new = true;
                        }
                    }
                    self.beat = heard.answer.or(self.beat);
                }
                Ok(Input::Nothing)
            }
            _ => unexpected,
        }
    }

    /// The peer has confirmed all messages of a lane up to this one.
    fn acknowledge(
        &mut self,
        priority: Priority,
        sequence: u64,
        memory: &mut SendMemory,
    ) -> Result<(), ProtocolError> {
        if self.state == State::Ended {
            // What the peer sent before it went is still read, and what it confirms given up.
            return Ok(());
        }
        self.lanes[priority.index()].acknowledge(sequence, memory, &mut self.holdings)
    }

    /// What the extension of a message asks for.
    fn handle_extension(
        &mut self,
        frame: &Frame<'_>,
        extension: &Extension,
        now: Nanos,
        memory: &mut SendMemory,
    ) -> Result<Input, ProtocolError> {
        let priority = frame.priority();
        let acknowledged = extension.acknowledged.get();
        if acknowledged > 0 {
            self.acknowledge(priority, acknowledged, memory)?;
        }
        if frame.flags().contains(Flags::RELIABLE) {
            self.confirmations.confirm_later(priority, frame.frame_bytes(), now);
        }
        if extension.ttl_us.get() > 0 && self.is_stale(&frame.lifetime(), now) {
            self.confirmations.count_expired(priority, frame.frame_bytes(), now);
            return Ok(Input::Expired);
        }
        Ok(Input::Message)
    }

    /// Whether a message came too late.
    fn is_stale(&self, lifetime: &Lifetime, now: Nanos) -> bool {
        let Lifetime { sent_at_ns, ttl_us, is_timeout } = *lifetime;
        let its_end = PeerNanos(sent_at_ns.saturating_add(u64::from(ttl_us) * 1000));
        if is_timeout && self.clock.may_be_from(its_end, now) {
            return false;
        }
        self.deadline_of(lifetime, now) < now
    }
}

//! How a message travels: its kind, its lane, and what is to become of it.

use std::time::Duration;

use crate::config::Overflow;
use crate::error::SendError;
use crate::session::Identity;
use crate::session::lane::Care;
use crate::session::mutation::Mutation;
use crate::time::Nanos;
use crate::wire::{
    BareHead, Body, Checksum, Codec, Extension, Flags, FrameHead, Kind, Priority, low_half,
};

/// How a message travels. Start from one of the constructors.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Envelope {
    /// From the low end: kind (8 bits), priority (8), marks (16), destination (32). Two marks tell
    /// of the kind what is asked for each message, so that one mask answers it.
    what: u64,
    /// From the low end: time to live in microseconds (32), conflation key (32).
    fate: u64,
}

// Two words, which are two registers wherever an envelope goes. As six fields it was copied through
// memory on the way to its lane, read back in wider loads than it was stored in, and every message
// waited for that: 5 ns, more or less as the compiler happened to lay them out.
const _: () = assert!(size_of::<Envelope>() == 16);

/// What makes a message a request or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Correlation {
    None,
    Request {
        id: u64,
        /// How long its sender waits, in microseconds; 0 is not said.
        timeout_us: u32,
    },
    Response(u64),
    /// The request is given up.
    Cancel(u64),
}

impl Correlation {
    /// The flags of a message with or without a time to live of its own, and the number that ties
    /// a request to what belongs to it, 0 without one.
    #[inline(always)]
    fn on_wire(self, expires: bool) -> (Flags, u64) {
        match self {
            Self::None => (Flags::default(), 0),
            Self::Request { id, timeout_us } if timeout_us > 0 && !expires => {
                (Flags::REQUEST.with(Flags::TIMEOUT), id)
            }
            Self::Request { id, .. } => (Flags::REQUEST, id),
            Self::Response(id) => (Flags::RESPONSE, id),
            Self::Cancel(id) => (Flags::default(), id),
        }
    }
}

/// What is said of a message in a bit each, where they stand in the first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks(u64);

impl Marks {
    const JSON: Self = Self(0x01 << 16);
    const RELIABLE: Self = Self(0x02 << 16);
    const KEYED: Self = Self(0x04 << 16);
    const EXPIRES: Self = Self(0x08 << 16);
    const ADDRESSED: Self = Self(0x10 << 16);
    /// The priority was chosen.
    const URGENCY: Self = Self(0x20 << 16);
    /// It is a command.
    const COMMAND: Self = Self(0x40 << 16);
    /// Its kind belongs to the session.
    const RESERVED: Self = Self(0x80 << 16);
    /// Those that need the extension.
    const EXTENDING: Self =
        Self(Self::KEYED.0 | Self::EXPIRES.0 | Self::ADDRESSED.0 | Self::COMMAND.0);
    /// Those of which a simple message has none.
    const NOT_SIMPLE: Self = Self(
        Self::KEYED.0 | Self::EXPIRES.0 | Self::ADDRESSED.0 | Self::RELIABLE.0 | Self::RESERVED.0,
    );
    /// Those of which a bare message has none.
    const NOT_BARE: Self = Self(Self::EXTENDING.0 | Self::RELIABLE.0 | Self::RESERVED.0);
}

const PRIORITY_SHIFT: u32 = 8;
const DESTINATION_SHIFT: u32 = 32;
const KEY_SHIFT: u32 = 32;

impl Envelope {
    const fn new(kind: Kind) -> Self {
        let what = kind as u64 | (Priority::Normal as u64) << PRIORITY_SHIFT;
        let envelope = Self { what, fate: 0 };
        match kind {
            Kind::Command => envelope.with(Marks::COMMAND),
            _ if !kind.is_application() => envelope.with(Marks::RESERVED),
            _ => envelope,
        }
    }

    #[inline]
    const fn with(self, marks: Marks) -> Self {
        Self { what: self.what | marks.0, ..self }
    }

    /// Whether it has any of these marks.
    #[inline]
    const fn has(&self, marks: Marks) -> bool {
        self.what & marks.0 != 0
    }

    /// Something to do. Carries the extension and, by default, a checksum.
    pub const fn command() -> Self {
        Self::new(Kind::Command)
    }

    /// Telemetry and bulk data. 32 bytes of overhead.
    pub const fn data() -> Self {
        Self::new(Kind::Data)
    }

    /// What state something is in; the usual kind of a response.
    pub const fn status() -> Self {
        Self::new(Kind::Status)
    }

    /// Something failed here.
    pub const fn error() -> Self {
        Self::new(Kind::Error)
    }

    /// Parameters for the receiver.
    pub const fn configuration() -> Self {
        Self::new(Kind::Configuration)
    }

    /// An envelope of any application kind.
    ///
    /// A kind that belongs to the session is refused when the message is sent.
    pub const fn of(kind: Kind) -> Self {
        Self::new(kind)
    }

    /// How urgent the message is. Default: [`Priority::Normal`], and for the answer to a request as
    /// urgent as that.
    pub const fn priority(self, priority: Priority) -> Self {
        self.in_lane(priority).with(Marks::URGENCY)
    }

    const fn in_lane(self, priority: Priority) -> Self {
        let others = self.what & !(0xff << PRIORITY_SHIFT);
        Self { what: others | (priority as u64) << PRIORITY_SHIFT, ..self }
    }

    /// Shorthand for `priority(Priority::Critical)`.
    pub const fn critical(self) -> Self {
        self.priority(Priority::Critical)
    }

    /// The number of the node this is meant for; carried, not routed. Default 0: the peer.
    pub const fn destination(self, node_number: u32) -> Self {
        let others = low_half(self.what) as u64;
        let addressed = Self { what: others | (node_number as u64) << DESTINATION_SHIFT, ..self };
        if node_number == 0 { addressed } else { addressed.with(Marks::ADDRESSED) }
    }

    /// Kept until the peer confirms it, and sent again, in order, on a new link when the one it
    /// left on is lost: handled once. Without it a message is *best effort*: sent once, and lost
    /// (counted) with the link.
    ///
    /// While the link is down reliable messages are queued; a full lane, or `kept_bytes_max` of
    /// unconfirmed ones, refuses more. The answer to a reliable request is reliable, too.
    ///
    /// Reliable messages survive the link, not the peer's process:
    /// when the peer has lost its session, an event lists what it has not confirmed.
    pub const fn reliable(self) -> Self {
        self.with(Marks::RELIABLE)
    }

    /// The message is worthless after this time, from when it is queued: it is then dropped and
    /// counted, here or at the receiver, and no handler sees it. 0 is refused when it is sent.
    ///
    /// In microseconds on the wire, rounded up; at most about 71 minutes.
    pub const fn ttl(self, ttl: Duration) -> Self {
        let micros = ttl.as_nanos().div_ceil(1000);
        // Saturating: a message that expires earlier than asked for is dropped, not run late.
        #[expect(clippy::cast_possible_truncation, reason = "bounded just before")]
        let micros = if micros > u32::MAX as u128 { u32::MAX } else { micros as u32 };
        let key = self.fate >> KEY_SHIFT << KEY_SHIFT;
        Self { fate: key | micros as u64, ..self }.with(Marks::EXPIRES)
    }

    /// As [`ttl`](Self::ttl), up to a point in time of this node's clock: for what was decided
    /// before it is sent. `now` is the time of the call.
    pub const fn expires_at(self, at: Nanos, now: Nanos) -> Self {
        self.ttl(at.since(now))
    }

    /// Only the latest message of this key matters: it takes the place of an older one that still
    /// waits in the lane, which is dropped and counted.
    ///
    /// A request or an answer that is replaced leaves whoever waits for it to wait in vain.
    ///
    /// A lane remembers the 1024 keys that came last of those with a message waiting; one of a key
    /// before them stays, and the newer one is queued behind it.
    pub const fn latest(self, key: u32) -> Self {
        let ttl_us = low_half(self.fate) as u64;
        Self { fate: ttl_us | (key as u64) << KEY_SHIFT, ..self }.with(Marks::KEYED)
    }

    /// The envelope of a cancellation.
    pub(crate) const fn cancel() -> Self {
        Self::new(Kind::Cancel)
    }

    /// Whether it has a time to live.
    pub(crate) const fn expires(&self) -> bool {
        self.has(Marks::EXPIRES)
    }

    /// The lane of an answer: that of its request, unless one was chosen.
    pub(crate) const fn answering(self, request: Priority) -> Self {
        if self.has(Marks::URGENCY) { self } else { self.in_lane(request) }
    }

    /// Marks an opaque payload as JSON text.
    pub const fn json(self) -> Self {
        self.with(Marks::JSON)
    }

    /// The conflation key, when it has one.
    #[must_use]
    pub const fn conflation_key(&self) -> Option<u32> {
        if self.has(Marks::KEYED) { Some(low_half(self.fate >> KEY_SHIFT)) } else { None }
    }

    /// Whether it is kept until the peer confirms it.
    #[must_use]
    #[inline]
    pub const fn is_reliable(&self) -> bool {
        self.has(Marks::RELIABLE)
    }

    /// The kind.
    #[must_use]
    #[inline]
    pub const fn kind(&self) -> Kind {
        Kind::from_byte(byte(self.what)).expect("written by `new`")
    }

    /// The lane it will travel in.
    #[must_use]
    #[inline]
    pub const fn lane(&self) -> Priority {
        Priority::from_byte(byte(self.what >> PRIORITY_SHIFT)).expect("written by `in_lane`")
    }

    /// The number of the node it is meant for, 0 for the peer.
    pub(crate) const fn destination_number(&self) -> u32 {
        low_half(self.what >> DESTINATION_SHIFT)
    }

    /// Whether a message that is neither request nor response does without the extension.
    #[inline]
    pub(crate) const fn is_plain(&self) -> bool {
        !self.has(Marks::EXTENDING)
    }

    /// Whether a message that is neither request nor response is of best effort, too.
    #[inline]
    pub(crate) const fn is_bare(&self) -> bool {
        !self.has(Marks::NOT_BARE)
    }

    /// Whether a message, or a request or its answer, is the application's, of best effort,
    /// whatever its age, without a key, and for the peer itself.
    #[inline]
    pub(crate) const fn is_simple(&self) -> bool {
        !self.has(Marks::NOT_SIMPLE)
    }

    /// The head of its frame, if it [is bare](Self::is_bare).
    #[inline]
    pub(crate) fn bare_head<B: Body + ?Sized>(&self, body: &B, now: Nanos) -> BareHead {
        let (kind, priority) = (byte(self.what), byte(self.what >> PRIORITY_SHIFT));
        BareHead::new(kind, priority, self.codec(body), body.type_id(), now.0)
    }

    /// [`Priority::index`] of its lane.
    #[inline]
    pub(crate) const fn lane_index(&self) -> usize {
        // `in_lane` has written 1 to 4. The remainder shows the compiler that it is in bounds.
        (byte(self.what >> PRIORITY_SHIFT) as usize).wrapping_sub(1) % Priority::COUNT
    }

    /// How long the message is worth something, in microseconds: its time to live, or its sender's
    /// timeout if that is over sooner; 0 is for ever.
    pub(crate) fn ttl_us_with(&self, correlation: Correlation) -> u32 {
        let ttl_us = low_half(self.fate);
        match correlation {
            Correlation::Request { .. } if Mutation::RequestNoTime.is_on() => ttl_us,
            Correlation::Request { timeout_us, .. } if Mutation::RequestShortTime.is_on() => {
                timeout_us / 2
            }
            Correlation::Request { timeout_us, .. } if timeout_us > 0 && self.expires() => {
                ttl_us.min(timeout_us)
            }
            Correlation::Request { timeout_us, .. } if timeout_us > 0 => timeout_us,
            _ => ttl_us,
        }
    }

    /// What is to become of the message besides being sent.
    pub(crate) fn care<B: Body + ?Sized>(
        &self,
        correlation: Correlation,
        body: &B,
        overflow: Overflow,
        now: Nanos,
    ) -> Result<Care, SendError> {
        let expiry = match (self.expires(), low_half(self.fate)) {
            (false, _) => Nanos::NEVER,
            (true, 0) => return Err(SendError::Expired),
            (true, micros) => now + Duration::from_micros(micros.into()),
        };
        let key = match self.conflation_key() {
            Some(key) => Some(u64::from(key)),
            // Requests, answers and cancellations are no values: somebody waits for each. Reliable
            // messages are refused where there is no room for them, and never dropped.
            None if overflow == Overflow::LatestValue
                && correlation == Correlation::None
                && !self.is_reliable() =>
            {
                // The kind, which is not 0, tells it from the keys of the application.
                Some(u64::from(byte(self.what)) << 32 | u64::from(body.type_id()))
            }
            None => None,
        };
        Ok(Care { reliable: self.is_reliable(), expiry, key })
    }

    /// How the receiver is to read `body`.
    pub(crate) fn codec<B: Body + ?Sized>(&self, body: &B) -> Codec {
        match body.codec() {
            Codec::Opaque if self.has(Marks::JSON) => Codec::Json,
            codec => codec,
        }
    }
}

/// The head of telemetry: that it has no extension and no checksum is known while compiling, which
/// halves its cost.
#[inline(always)]
pub(super) fn plain_head<B: Body + ?Sized>(
    envelope: Envelope,
    body: &B,
    flags: Flags,
    now: Nanos,
) -> FrameHead {
    FrameHead {
        kind: envelope.kind(),
        priority: envelope.lane(),
        codec: envelope.codec(body),
        type_id: body.type_id(),
        sequence: 0,
        sent_at_ns: now.0,
        flags,
        extension: None,
        checksum: Checksum::Never,
    }
}

/// The head of a [simple](Envelope::is_simple) message with the extension, which confirms what has
/// been `received` in its lane.
#[inline(always)]
pub(super) fn simple_head<B: Body + ?Sized>(
    envelope: Envelope,
    correlation: Correlation,
    body: &B,
    identity: &Identity,
    now: Nanos,
    received: u64,
) -> FrameHead {
    let (flags, id) = correlation.on_wire(false);
    FrameHead {
        extension: Some(Extension {
            correlation: id.into(),
            source: identity.node_number.into(),
            ttl_us: envelope.ttl_us_with(correlation).into(),
            acknowledged: received.into(),
            ..Extension::default()
        }),
        checksum: identity.checksum,
        ..plain_head(envelope, body, flags, now)
    }
}

#[inline]
pub(super) fn frame_head<B: Body + ?Sized>(
    envelope: Envelope,
    correlation: Correlation,
    body: &B,
    identity: &Identity,
    now: Nanos,
    confirms: bool,
) -> FrameHead {
    let (flags, correlation) = correlation.on_wire(envelope.expires());
    let is_reliable = envelope.is_reliable();
    let is_correlated = correlation != 0 || flags != Flags::default();
    // Reliable telemetry has the extension only when it has something to confirm.
    let extended = is_correlated || !envelope.is_plain() || (is_reliable && confirms);
    let flags = if is_reliable { flags.with(Flags::RELIABLE) } else { flags };
    FrameHead {
        kind: envelope.kind(),
        priority: envelope.lane(),
        codec: envelope.codec(body),
        type_id: body.type_id(),
        sequence: 0,
        sent_at_ns: now.0,
        flags,
        extension: extended.then(|| Extension {
            correlation: correlation.into(),
            source: identity.node_number.into(),
            destination: envelope.destination_number().into(),
            ..Extension::default()
        }),
        checksum: identity.checksum,
    }
}

/// The lowest eight bits.
#[inline]
const fn byte(word: u64) -> u8 {
    word.to_le_bytes()[0]
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Envelope");
        out.field("kind", &self.kind()).field("priority", &self.lane());
        if self.is_reliable() {
            out.field("reliable", &true);
        }
        if self.expires() {
            out.field("ttl_us", &low_half(self.fate));
        }
        if let Some(key) = self.conflation_key() {
            out.field("key", &key);
        }
        if self.has(Marks::ADDRESSED) {
            out.field("destination", &self.destination_number());
        }
        if self.has(Marks::JSON) {
            out.field("json", &true);
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_keeps_to_its_bits() {
        let kinds = Kind::APPLICATION.into_iter().chain([Kind::Cancel, Kind::Hello]);
        for kind in kinds {
            for lane in Priority::ALL {
                let envelope = Envelope::of(kind)
                    .latest(u32::MAX)
                    .ttl(Duration::from_micros(1))
                    .ttl(Duration::MAX)
                    .destination(u32::MAX)
                    .destination(0x8000_0001)
                    .priority(Priority::Critical)
                    .priority(lane)
                    .latest(7);
                assert_eq!((envelope.kind(), envelope.lane()), (kind, lane));
                assert_eq!(envelope.destination_number(), 0x8000_0001);
                assert_eq!(envelope.conflation_key(), Some(7));
                assert_eq!(envelope.ttl_us_with(Correlation::None), u32::MAX);
                assert!(!envelope.is_reliable() && envelope.expires());
                assert_eq!(envelope.reliable().ttl_us_with(Correlation::None), u32::MAX);
                assert!(envelope.reliable().is_reliable());
            }
        }
    }

    #[test]
    fn an_answer_takes_its_requests_lane_unless_one_was_chosen() {
        let answer = Envelope::status();
        assert_eq!(answer.answering(Priority::Critical).lane(), Priority::Critical);
        let chosen = answer.priority(Priority::Normal);
        assert_eq!(chosen.answering(Priority::Critical).lane(), Priority::Normal);
    }

    #[test]
    fn only_what_needs_the_extension_has_it() {
        let plain = Envelope::data().json().reliable().critical();
        assert!(plain.is_plain());
        for other in [
            plain.ttl(Duration::from_secs(1)),
            plain.latest(0),
            plain.destination(1),
            Envelope::command(),
        ] {
            assert!(!other.is_plain(), "{other:?}");
        }
        assert!(plain.destination(0).is_plain());
    }

    #[test]
    fn the_shorter_of_time_to_live_and_timeout_counts() {
        let request = |timeout_us| Correlation::Request { id: 1, timeout_us };
        let short = Envelope::command().ttl(Duration::from_micros(5));
        assert_eq!(short.ttl_us_with(request(9)), 5);
        assert_eq!(short.ttl_us_with(request(3)), 3);
        assert_eq!(short.ttl_us_with(request(0)), 5);
        assert_eq!(Envelope::command().ttl_us_with(request(3)), 3);
        assert_eq!(Envelope::command().ttl_us_with(Correlation::Response(1)), 0);
    }

    #[test]
    fn it_is_shown_with_what_it_says() {
        let shown = format!("{:?}", Envelope::data().latest(3).reliable());
        assert_eq!(shown, "Envelope { kind: Data, priority: Normal, reliable: true, key: 3 }");
    }
}

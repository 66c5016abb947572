//! Cuts a byte stream into frames, in place.
//!
//! [`Decoder::next`] is a pure function of its input: no state survives between calls, nothing is
//! copied or allocated, and a hostile length fails before anything waits for that many bytes.
//!
//! Cost: about 5 ns for a 64-byte payload in cache without checksum (`benches/wire.rs`).

use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use crate::error::{AccessError, ProtocolError};
use crate::wire::encode::checksum_in_place;
use crate::wire::header::{
    Codec, EXTENSION_BYTES, Extension, FRAME_ALIGN, Flags, HEADER_BYTES, Header, Kind, MAGIC,
    Priority, VERSION,
};
use crate::wire::payload::{self, Body, BodyError, Payload, Scratch};

/// Cuts frames off the front of a byte stream.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    frame_bytes_max: usize,
}

/// One received frame, borrowed from the receive window for as long as the handler runs.
///
/// The fields were checked when the frame was cut off the stream, the payload's *content* was
/// not: [`Frame::access`] validates it.
///
/// Two words, so that it travels in registers: with its fields unpacked it was copied through
/// memory several times, and each copy stalled on store forwarding (ARCHITECTURE.md has figures).
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// The whole frame, padding included. Its head has been checked.
    bytes: &'a [u8],
}

/// The fields of a header that are alike in most frames of a stream, from the magic number to the
/// reserved byte, of a frame in which they were found right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Likeness(u64);

impl Likeness {
    /// Of a header whose fields are right.
    #[inline]
    fn of(header: &[u8]) -> Self {
        let (first, _) = U64::read_from_prefix(header).expect("a whole header");
        Self(first.get())
    }
}

impl Default for Likeness {
    /// Of plain data.
    #[inline]
    fn default() -> Self {
        let (kind, priority, codec) =
            (Kind::Data as u8, Priority::Normal as u8, Codec::Opaque as u8);
        Self(u64::from_le_bytes([MAGIC[0], MAGIC[1], VERSION, kind, 0, priority, codec, 0]))
    }
}

/// What the first bytes of a stream promise: enough to know how much memory the frame needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The whole frame, padding included.
    pub frame_bytes: usize,
}

impl Decoder {
    /// A decoder that refuses frames longer than `frame_bytes_max`, padding included.
    #[must_use]
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max }
    }

    /// The limit given to [`Decoder::new`].
    #[must_use]
    pub const fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    /// Takes the first whole frame off the front of `input` and advances `input` past it.
    ///
    /// Returns `Ok(None)`, leaving `input` as it was, until a whole frame has arrived. After an
    /// error the stream has lost its frame boundaries: close the connection.
    ///
    /// Hot path: once per frame. No allocation, no syscall, no logging.
    #[inline]
    pub fn next<'a>(&self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, ProtocolError> {
        self.cut(input, None)
    }

    /// As [`Decoder::next`], for the frames of one stream: those that begin like the one before are
    /// not looked at as closely. `likeness` is of the frame before, and becomes that of this one.
    #[inline]
    pub(crate) fn next_like<'a>(
        &self,
        input: &mut &'a [u8],
        likeness: &mut Likeness,
    ) -> Result<Option<Frame<'a>>, ProtocolError> {
        self.cut(input, Some(likeness))
    }

    #[inline(always)]
    fn cut<'a>(
        &self,
        input: &mut &'a [u8],
        likeness: Option<&mut Likeness>,
    ) -> Result<Option<Frame<'a>>, ProtocolError> {
        let bytes = *input;
        let Ok((header, _)) = Header::ref_from_prefix(bytes) else {
            return check_prefix(bytes).map(|()| None);
        };
        match likeness {
            None => check_fixed_fields(header)?,
            Some(likeness) => {
                let its_own = Likeness::of(bytes);
                // The one check that takes more than these fields.
                let is_odd =
                    header.checksum.get() != 0 && !Flags(header.flags).contains(Flags::CHECKSUM);
                if its_own != *likeness || is_odd {
                    check_fixed_fields(header)?;
                    *likeness = its_own;
                }
            }
        }
        // Before waiting for that many bytes: a hostile length must fail now.
        let frame_bytes = self.check_length(header)?;
        let Some((whole, rest)) = bytes.split_at_checked(frame_bytes) else {
            return Ok(None);
        };
        let frame = Frame { bytes: whole };
        if let Some(extension) = frame.extension()
            && extension.reserved.get() != 0
        {
            return Err(ProtocolError::ReservedNotZero);
        }
        let (unpadded, padding) = whole.split_at(frame.unpadded_bytes());
        if padding.iter().any(|&byte| byte != 0) {
            return Err(ProtocolError::PaddingNotZero);
        }
        if frame.flags().contains(Flags::CHECKSUM) {
            let carried = header.checksum.get();
            let computed = checksum_in_place(unpadded);
            if computed != carried {
                return Err(ProtocolError::BadChecksum { carried, computed });
            }
        }
        *input = rest;
        Ok(Some(frame))
    }

    /// How long the frame at the front of `input` will be; `None` before its header has arrived.
    ///
    /// Makes the same checks as [`Decoder::next`], so a hostile length is an error here too.
    pub fn promise(&self, input: &[u8]) -> Result<Option<Promise>, ProtocolError> {
        let Ok((header, _)) = Header::ref_from_prefix(input) else {
            return check_prefix(input).map(|()| None);
        };
        check_fixed_fields(header)?;
        let frame_bytes = self.check_length(header)?;
        Ok(Some(Promise { frame_bytes }))
    }

    /// Length of the frame behind `header`, padding included.
    #[inline]
    fn check_length(&self, header: &Header) -> Result<usize, ProtocolError> {
        let head_bytes = head_bytes(Flags(header.flags));
        // In 64 bits: head and a hostile length together do not fit a `usize` of 32.
        let align = FRAME_ALIGN as u64;
        let whole = head_bytes as u64 + u64::from(header.payload_bytes.get());
        let frame_bytes = whole.next_multiple_of(align);
        if frame_bytes > self.frame_bytes_max as u64 {
            return Err(too_long(frame_bytes, self.frame_bytes_max));
        }
        Ok(usize::try_from(frame_bytes).expect("not above a limit that is a usize"))
    }
}

impl<'a> Frame<'a> {
    /// What the frame is.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::from_byte(self.header().kind).expect("checked when the frame was cut")
    }

    /// The lane it travelled in.
    #[inline]
    #[must_use]
    pub fn priority(&self) -> Priority {
        Priority::from_byte(self.header().priority).expect("checked when the frame was cut")
    }

    /// How the payload is to be read.
    #[inline]
    #[must_use]
    pub fn codec(&self) -> Codec {
        Codec::from_byte(self.header().codec).expect("checked when the frame was cut")
    }

    /// The header's flags.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags(self.header().flags)
    }

    /// The application's number of the payload type, 0 for none.
    #[inline]
    #[must_use]
    pub fn type_id(&self) -> u32 {
        self.header().type_id.get()
    }

    /// Low 32 bits of the lane's sequence.
    #[inline]
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.header().sequence.get()
    }

    /// When the sender queued it, in nanoseconds of the *sender's* monotonic clock.
    #[inline]
    #[must_use]
    pub fn sent_at_ns(&self) -> u64 {
        self.header().sent_at.get()
    }

    /// The payload, without padding. Starts 16-aligned in memory when it came from a connection.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.head_bytes()..self.unpadded_bytes()]
    }

    /// The extension, when the frame has one.
    #[inline]
    #[must_use]
    pub fn extension(&self) -> Option<&'a Extension> {
        if !self.flags().contains(Flags::EXTENDED) {
            return None;
        }
        let (extension, _) = Extension::ref_from_prefix(&self.bytes[HEADER_BYTES..])
            .expect("checked when the frame was cut");
        Some(extension)
    }

    /// Ties a response to its request; 0 when the frame is neither.
    #[inline]
    #[must_use]
    pub fn correlation(&self) -> u64 {
        self.extension().map_or(0, |extension| extension.correlation.get())
    }

    /// Whether the message has a time to live of its own, besides its sender's timeout.
    #[inline]
    #[must_use]
    pub fn expires(&self) -> bool {
        !self.flags().contains(Flags::TIMEOUT) && self.lifetime().ttl_us > 0
    }

    /// How long the message is worth something.
    #[inline]
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        Lifetime {
            sent_at_ns: self.sent_at_ns(),
            ttl_us: self.extension().map_or(0, |extension| extension.ttl_us.get()),
            is_timeout: self.flags().contains(Flags::TIMEOUT),
        }
    }

    /// Whether the sender waits for an answer (see `Context::reply`).
    #[inline]
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.flags().contains(Flags::REQUEST)
    }

    /// Whether this answers a request.
    #[inline]
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.flags().contains(Flags::RESPONSE)
    }

    /// Whether it is a message and no more: neither request nor response, of best effort, without
    /// extension and checksum.
    #[inline]
    pub(crate) fn is_bare(&self) -> bool {
        self.flags() == Flags::default() && self.kind().is_application()
    }

    /// The whole frame, as it came.
    pub(crate) fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether its sender keeps it until it is confirmed.
    #[inline]
    #[must_use]
    pub fn is_reliable(&self) -> bool {
        self.flags().contains(Flags::RELIABLE)
    }

    /// Length on the wire, padding included.
    #[inline]
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Reads the payload as a `T`, in place: no copy, no allocation.
    ///
    /// The bytes are validated (bytecheck) on every call, because they came from a peer; keep the
    /// reference rather than calling twice.
    ///
    /// # Errors
    ///
    /// [`AccessError`] when the codec is not rkyv, the `type_id` is not `T`'s, the payload is not
    /// aligned, or the bytes are not a valid `T`.
    #[inline]
    pub fn access<T>(&self) -> Result<&'a T::Archived, AccessError>
    where
        T: Payload,
    {
        payload::access::<T>(self.codec(), self.type_id(), self.payload())
    }
}

/// How long a message is worth something, by its sender's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetime {
    /// When it was queued, in nanoseconds of the sender's monotonic clock.
    pub sent_at_ns: u64,
    /// For how long, in microseconds; 0 for ever.
    pub ttl_us: u32,
    /// It is the sender's timeout for the answer.
    pub is_timeout: bool,
}

impl<'a> Frame<'a> {
    #[inline]
    fn header(&self) -> &'a Header {
        let (header, _) = Header::ref_from_prefix(self.bytes).expect("a frame has a header");
        header
    }

    /// Bytes before the payload.
    #[inline]
    fn head_bytes(&self) -> usize {
        head_bytes(self.flags())
    }

    /// Length without padding.
    #[inline]
    fn unpadded_bytes(&self) -> usize {
        self.head_bytes() + self.header().payload_bytes.get() as usize
    }
}

/// Its payload, as it came: to answer with it, or to send it on.
impl Body for Frame<'_> {
    fn codec(&self) -> Codec {
        Frame::codec(self)
    }

    fn type_id(&self) -> u32 {
        Frame::type_id(self)
    }

    fn encode(&self, out: &mut [u8], scratch: &mut Scratch) -> Result<usize, BodyError> {
        self.payload().encode(out, scratch)
    }
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("kind", &self.kind())
            .field("priority", &self.priority())
            .field("codec", &self.codec())
            .field("flags", &self.flags())
            .field("type_id", &self.type_id())
            .field("sequence", &self.sequence())
            .field("payload_bytes", &self.payload().len())
            .finish()
    }
}

#[inline]
fn head_bytes(flags: Flags) -> usize {
    if flags.contains(Flags::EXTENDED) { HEADER_BYTES + EXTENSION_BYTES } else { HEADER_BYTES }
}

#[cold]
fn too_long(bytes: u64, bytes_max: usize) -> ProtocolError {
    ProtocolError::FrameTooLong {
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
    }
}

/// Checks what the first, incomplete bytes of a header already tell, so that garbage is refused
/// at once and not only after 32 bytes of it.
fn check_prefix(bytes: &[u8]) -> Result<(), ProtocolError> {
    let expected = [MAGIC[0], MAGIC[1], VERSION];
    for (index, (&got, &want)) in bytes.iter().zip(&expected).enumerate() {
        if got == want {
            continue;
        }
        return Err(if index < MAGIC.len() {
            ProtocolError::BadMagic {
                got: u16::from_le_bytes([bytes[0], *bytes.get(1).unwrap_or(&0)]),
            }
        } else {
            ProtocolError::BadVersion { got }
        });
    }
    Ok(())
}

#[inline]
fn check_fixed_fields(header: &Header) -> Result<(), ProtocolError> {
    if header.magic != MAGIC {
        return Err(ProtocolError::BadMagic { got: u16::from_le_bytes(header.magic) });
    }
    if header.version != VERSION {
        return Err(ProtocolError::BadVersion { got: header.version });
    }
    let Some(kind) = Kind::from_byte(header.kind) else {
        return Err(ProtocolError::BadKind { got: header.kind });
    };
    if header.flags & !Flags::KNOWN.0 != 0 {
        return Err(ProtocolError::BadFlags { got: header.flags });
    }
    let flags = Flags(header.flags);
    if flags.0 & Flags::NEED_EXTENSION.0 != 0 && !flags.contains(Flags::EXTENDED) {
        return Err(ProtocolError::BadFlags { got: header.flags });
    }
    if Priority::from_byte(header.priority).is_none() {
        return Err(ProtocolError::BadPriority { got: header.priority });
    }
    if Codec::from_byte(header.codec).is_none() {
        return Err(ProtocolError::BadCodec { got: header.codec });
    }
    if header.reserved != 0 {
        return Err(ProtocolError::ReservedNotZero);
    }
    // A checksum without its flag: most likely a peer that forgot to say so. Do not skip it.
    let unchecked = !flags.contains(Flags::CHECKSUM);
    if unchecked && (kind.is_handshake() | (header.checksum.get() != 0)) {
        return Err(if kind.is_handshake() {
            ProtocolError::ChecksumMissing
        } else {
            ProtocolError::ReservedNotZero
        });
    }
    Ok(())
}

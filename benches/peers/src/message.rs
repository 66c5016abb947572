//! The messages every subject carries, and the server's whole work on them.
//!
//! A message begins and ends with the same eight bytes: a tag and a sequence. The rest is a fixed
//! pattern. An echo is compared byte by byte; of a streamed message the receiver checks the length
//! and both ends, so that a lost, cut, doubled or shifted one is seen, at a cost that does not
//! depend on its length.

/// What a message wants, in the top byte of its first eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// Send it back.
    Echo = 0,
    /// Look at it and count it.
    Stream = 1,
    /// Say what has been counted since the last time.
    Ask = 2,
    /// As `Stream`, in its own sequence.
    Bulk = 3,
    /// As `Ask`, for bulk.
    AskBulk = 4,
}

/// The shortest message.
pub const MESSAGE_BYTES_MIN: usize = 16;
/// Length of the prefix for those who frame messages themselves: payload bytes, little-endian.
pub const PREFIX_BYTES: usize = 4;

/// A message, with room for a length before it: peers without a framing of their own send both with
/// one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    framed: Vec<u8>,
}

/// What the receiver of a stream saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    pub frames: u64,
    /// Messages that were not the ones expected.
    pub errors: u64,
}

/// The server's application: what it answers to a message. One for each connection.
#[derive(Debug, Default)]
pub struct Desk {
    payload_bytes: usize,
    stream: Counted,
    bulk: Counted,
}

#[derive(Debug, Default)]
struct Counted {
    sequence: u64,
    seen: Seen,
}

/// What the server does about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Nothing,
    /// The same bytes.
    Echo,
    Seen([u8; Seen::BYTES]),
}

#[allow(dead_code, reason = "some of it is for peers that are features")]
impl Message {
    /// A message of `payload_bytes` bytes.
    ///
    /// # Panics
    ///
    /// When that is less than [`MESSAGE_BYTES_MIN`] or more than a prefix can say.
    pub fn new(payload_bytes: usize) -> Self {
        assert!(payload_bytes >= MESSAGE_BYTES_MIN, "{payload_bytes} bytes are no message");
        let prefix = u32::try_from(payload_bytes).expect("messages are below 4 GiB");
        let mut framed = prefix.to_le_bytes().to_vec();
        framed.extend((0..=250_u8).cycle().take(payload_bytes));
        Self { framed }
    }

    /// Hot path: once per message. Two stores.
    pub fn stamp(&mut self, tag: Tag, sequence: u64) {
        self.stamp_as(((tag as u64) << 56 | sequence).to_le_bytes());
    }

    /// What it is stamped with.
    pub fn stamped(&self) -> [u8; 8] {
        *self.payload().first_chunk().expect("a message is longer")
    }

    /// As [`stamp`](Self::stamp), with what another one is [stamped](Self::stamped) with.
    pub fn stamp_as(&mut self, stamp: [u8; 8]) {
        let end = self.framed.len();
        self.framed[PREFIX_BYTES..PREFIX_BYTES + 8].copy_from_slice(&stamp);
        self.framed[end - 8..].copy_from_slice(&stamp);
    }

    /// The shortest message with this tag.
    pub fn short(tag: Tag) -> Self {
        let mut message = Self::new(MESSAGE_BYTES_MIN);
        message.stamp(tag, 0);
        message
    }

    pub fn payload(&self) -> &[u8] {
        &self.framed[PREFIX_BYTES..]
    }

    /// The payload behind its length.
    pub fn framed(&self) -> &[u8] {
        &self.framed
    }

    /// Takes the framed bytes out, for those who must own what they send; [`put`](Self::put) gives
    /// them back.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.framed)
    }

    pub fn put(&mut self, framed: Vec<u8>) {
        self.framed = framed;
    }
}

impl Seen {
    pub const BYTES: usize = 16;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.frames.to_le_bytes());
        bytes[8..].copy_from_slice(&self.errors.to_le_bytes());
        bytes
    }

    /// `None` for what is no answer.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (frames, errors) = bytes.split_first_chunk::<8>()?;
        let errors = errors.try_into().ok()?;
        Some(Self { frames: u64::from_le_bytes(*frames), errors: u64::from_le_bytes(errors) })
    }
}

impl Desk {
    /// For streamed messages of `payload_bytes` bytes.
    pub fn new(payload_bytes: usize) -> Self {
        Self { payload_bytes, ..Self::default() }
    }

    /// Hot path: once per message.
    #[inline]
    pub fn take(&mut self, message: &[u8]) -> Reply {
        let (Some(first), Some(last)) = (message.first_chunk::<8>(), message.last_chunk::<8>())
        else {
            self.stream.seen.errors += 1;
            return Reply::Nothing;
        };
        const STREAM: u8 = Tag::Stream as u8;
        const BULK: u8 = Tag::Bulk as u8;
        const ASK: u8 = Tag::Ask as u8;
        const ASK_BULK: u8 = Tag::AskBulk as u8;
        match first[7] {
            STREAM => self.stream.count(first, last, message.len() == self.payload_bytes),
            BULK => self.bulk.count(first, last, message.len() == crate::job::BULK_BYTES),
            ASK => return Reply::Seen(std::mem::take(&mut self.stream.seen).to_bytes()),
            ASK_BULK => return Reply::Seen(std::mem::take(&mut self.bulk.seen).to_bytes()),
            _ => return Reply::Echo,
        }
        Reply::Nothing
    }
}

impl Counted {
    #[inline]
    fn count(&mut self, first: &[u8; 8], last: &[u8; 8], length_is_right: bool) {
        let sequence = u64::from_le_bytes(*first) & ((1 << 56) - 1);
        let is_right = length_is_right && first == last && sequence == self.sequence;
        // Goes on from what came, so that one lost message is one error.
        self.sequence = sequence + 1;
        self.seen.frames += u64::from(is_right);
        self.seen.errors += u64::from(!is_right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(tag: Tag, sequence: u64) -> Message {
        let mut message = Message::new(64);
        message.stamp(tag, sequence);
        message
    }

    fn seen(desk: &mut Desk) -> Seen {
        match desk.take(Message::short(Tag::Ask).payload()) {
            Reply::Seen(bytes) => Seen::from_bytes(&bytes).expect("sixteen bytes"),
            other => panic!("asked, got {other:?}"),
        }
    }

    #[test]
    fn echo_is_sent_back() {
        assert_eq!(Desk::new(64).take(stamped(Tag::Echo, 9).payload()), Reply::Echo);
    }

    #[test]
    fn every_fault_of_a_stream_is_counted() {
        let mut desk = Desk::new(64);
        for sequence in 0..3 {
            assert_eq!(desk.take(stamped(Tag::Stream, sequence).payload()), Reply::Nothing);
        }
        assert_eq!(seen(&mut desk), Seen { frames: 3, errors: 0 });
        // One is missing, then one comes twice, one is cut, one is torn, one is no message.
        desk.take(stamped(Tag::Stream, 4).payload());
        desk.take(stamped(Tag::Stream, 4).payload());
        desk.take(&stamped(Tag::Stream, 5).payload()[..63]);
        let mut torn = stamped(Tag::Stream, 6).payload().to_vec();
        torn[60] ^= 1;
        desk.take(&torn);
        desk.take(&[1, 2, 3]);
        assert_eq!(seen(&mut desk), Seen { frames: 0, errors: 5 });
        desk.take(stamped(Tag::Stream, 7).payload());
        assert_eq!(seen(&mut desk), Seen { frames: 1, errors: 0 });
    }

    #[test]
    fn bulk_has_its_own_sequence() {
        let mut desk = Desk::new(64);
        let mut bulk = Message::new(crate::job::BULK_BYTES);
        bulk.stamp(Tag::Bulk, 0);
        desk.take(bulk.payload());
        assert_eq!(seen(&mut desk), Seen::default());
        let reply = desk.take(Message::short(Tag::AskBulk).payload());
        assert_eq!(reply, Reply::Seen(Seen { frames: 1, errors: 0 }.to_bytes()));
    }

    #[test]
    fn taken_message_comes_back() {
        let mut message = stamped(Tag::Echo, 1);
        let whole = message.clone();
        let framed = message.take();
        assert_eq!(framed[..4], 64_u32.to_le_bytes());
        message.put(framed);
        assert_eq!(message, whole);
    }
}

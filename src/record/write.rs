//! Writes a recording: whole records, gathered and handed over in large pieces.
//!
//! # Invariant
//!
//! The sink holds whole records only, but for the time of a write. When a write fails, what it
//! left behind is cut off again, the frames in it count as lost, and the writer goes on: the next
//! frame that can be written is preceded by a record that says how many are missing. Who sessions
//! are with is kept until it can be written.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use zerocopy::{FromBytes, IntoBytes};

use super::{
    ALIGN, Direction, END, EndBody, HEADER_BYTES, Head, Header, INDEX, INDEX_ENTRIES_MAX,
    INDEX_EVERY_BYTES, LOST, LostBody, MAGIC, Mark, PEER, PeerBody, RECEIVED, RECORD_VERSION,
    RecordOrigin, RecordedFrame, RecordedSession, SENT, kept,
};
use crate::crc::crc32c;
use crate::time::Nanos;

/// Records are gathered up to this many bytes.
const GATHERED_BYTES: usize = 256 << 10;
/// What is kept, while the sink takes nothing, of who sessions are with.
const PEERS_KEPT_BYTES: usize = GATHERED_BYTES / 2;

/// What a recording is written to.
pub trait RecordSink: Write {
    /// Cuts off everything behind the first `bytes` bytes, so that writing goes on there.
    ///
    /// # Errors
    ///
    /// The system's.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

impl RecordSink for File {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)?;
        self.seek(SeekFrom::Start(bytes)).map(drop)
    }
}

impl RecordSink for Vec<u8> {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(())
    }
}

/// How many frames, and how long they are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordTally {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl RecordTally {
    fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

/// Appends records to a sink. Blocks as the sink does; allocates while its index grows, and for a
/// frame that is longer than what is gathered otherwise.
#[derive(Debug)]
pub struct RecordWriter<W: RecordSink> {
    sink: W,
    /// Whole records that the sink has.
    flushed: u64,
    /// Whole records that it does not have yet.
    gathered: Vec<u8>,
    /// Frames in `gathered`.
    waiting: RecordTally,
    /// Frames that the sink has.
    written: RecordTally,
    /// Frames that are missing, all together, and those of them that no record tells of yet.
    lost: RecordTally,
    untold: RecordTally,
    /// What a record in `gathered` tells of.
    telling: RecordTally,
    pub(super) index: Vec<Mark>,
    pub(super) index_every: u64,
    index_next: u64,
    latest: Nanos,
}

impl<W: RecordSink> RecordWriter<W> {
    /// Begins a recording in an empty sink.
    ///
    /// # Errors
    ///
    /// The sink's.
    pub fn begin(mut sink: W, origin: &RecordOrigin) -> io::Result<Self> {
        let (node_name, endpoint) = (kept(&origin.node_name), kept(&origin.endpoint));
        let header = Header {
            magic: MAGIC,
            version: RECORD_VERSION.into(),
            node_name_bytes: text_bytes(node_name).into(),
            endpoint_bytes: text_bytes(endpoint).into(),
            monotonic_ns: origin.monotonic.0.into(),
            wall_ns: origin.wall_ns.into(),
            node_number: origin.node_number.into(),
            ..Header::default()
        };
        let mut bytes = Vec::from(header.as_bytes());
        bytes.extend_from_slice(node_name.as_bytes());
        bytes.extend_from_slice(endpoint.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        let checksum = crc32c(&bytes);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        sink.write_all(&bytes)?;
        sink.flush()?;
        Ok(Self {
            sink,
            flushed: bytes.len() as u64,
            gathered: Vec::with_capacity(2 * GATHERED_BYTES),
            waiting: RecordTally::default(),
            written: RecordTally::default(),
            lost: RecordTally::default(),
            untold: RecordTally::default(),
            telling: RecordTally::default(),
            index: Vec::new(),
            index_every: INDEX_EVERY_BYTES,
            index_next: 0,
            latest: Nanos(0),
        })
    }

    /// Appends a frame.
    ///
    /// # Errors
    ///
    /// The sink's, when what was gathered had to be written and could not be: it counts as lost,
    /// with this frame. The writer is as good as before.
    pub fn frame(&mut self, frame: &RecordedFrame<'_>) -> io::Result<()> {
        self.tell_lost(frame.at);
        let offset = self.flushed + self.gathered.len() as u64;
        if offset >= self.index_next {
            self.mark(offset);
        }
        let what = match frame.direction {
            Direction::Received => RECEIVED,
            Direction::Sent => SENT,
        };
        self.record(what, frame.session, frame.at, &[frame.bytes]);
        self.waiting.add(RecordTally { frames: 1, bytes: frame.bytes.len() as u64 });
        self.flush_if_full()
    }

    /// Appends who a session is with.
    ///
    /// # Errors
    ///
    /// As [`frame`](Self::frame).
    pub fn peer(
        &mut self,
        session: RecordedSession,
        at: Nanos,
        node_name: &str,
        address: &str,
    ) -> io::Result<()> {
        let (node_name, address) = (kept(node_name), kept(address));
        let lengths = PeerBody {
            node_name_bytes: text_bytes(node_name).into(),
            address_bytes: text_bytes(address).into(),
        };
        let parts = [lengths.as_bytes(), node_name.as_bytes(), address.as_bytes()];
        self.record(PEER, session, at, &parts);
        self.flush_if_full()
    }

    /// Notes that frames are missing here; a record before the next frame says so.
    pub fn lose(&mut self, lost: RecordTally) {
        self.lost.add(lost);
        self.untold.add(lost);
    }

    /// Hands everything gathered to the sink.
    ///
    /// # Errors
    ///
    /// As [`frame`](Self::frame).
    pub fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        match self.sink.write_all(&self.gathered).and_then(|()| self.sink.flush()) {
            Ok(()) => {
                self.flushed += self.gathered.len() as u64;
                self.written.add(self.waiting);
                self.waiting = RecordTally::default();
                self.telling = RecordTally::default();
                self.gathered.clear();
                // What one long frame took is given back.
                self.gathered.shrink_to(2 * GATHERED_BYTES);
                Ok(())
            }
            Err(error) => {
                self.give_up_gathered();
                Err(error)
            }
        }
    }

    /// Writes index and end. Without it the recording is *unfinished*, which costs a reader the
    /// index.
    ///
    /// # Errors
    ///
    /// The sink's; what it has then is an unfinished recording.
    pub fn finish(&mut self) -> io::Result<()> {
        self.tell_lost(self.latest);
        self.flush()?;
        let index_offset = self.flushed;
        let index = std::mem::take(&mut self.index);
        let none = RecordedSession::default();
        self.record(INDEX, none, self.latest, &[index.as_bytes()]);
        let end = EndBody {
            index_offset: index_offset.into(),
            frames: self.written.frames.into(),
            frames_lost: self.lost.frames.into(),
            latest: self.latest.0.into(),
        };
        self.record(END, none, self.latest, &[end.as_bytes()]);
        self.index = index;
        self.flush()
    }

    /// Frames that the sink has.
    #[must_use]
    pub fn written(&self) -> RecordTally {
        self.written
    }

    /// Frames that are missing.
    #[must_use]
    pub fn lost(&self) -> RecordTally {
        self.lost
    }

    /// Bytes of whole records that the sink has, the header included.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.flushed
    }

    /// The sink.
    pub fn sink(&mut self) -> &mut W {
        &mut self.sink
    }

    #[cfg(test)]
    pub(super) fn gathered_bytes(&self) -> usize {
        self.gathered.len()
    }

    /// Missing frames that no record tells of yet.
    #[cfg(test)]
    pub(super) fn untold_frames(&self) -> u64 {
        self.untold.frames
    }

    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.gathered.len() >= GATHERED_BYTES { self.flush() } else { Ok(()) }
    }

    /// Says how many frames are missing here.
    fn tell_lost(&mut self, at: Nanos) {
        let untold = std::mem::take(&mut self.untold);
        if untold != RecordTally::default() {
            let body = LostBody { frames: untold.frames.into(), bytes: untold.bytes.into() };
            self.record(LOST, RecordedSession::default(), at, &[body.as_bytes()]);
            self.telling.add(untold);
        }
    }

    /// Gathers a record whose body is made of `parts`.
    pub(super) fn record(
        &mut self,
        what: u8,
        session: RecordedSession,
        at: Nanos,
        parts: &[&[u8]],
    ) {
        let start = self.gathered.len();
        let body = start + size_of::<Head>();
        self.gathered.resize(body, 0);
        for part in parts {
            self.gathered.extend_from_slice(part);
        }
        let bytes = self.gathered.len() - body;
        self.gathered.resize(body + bytes.next_multiple_of(ALIGN), 0);
        let head = Head {
            what,
            reactor: session.reactor.into(),
            body_bytes: u32::try_from(bytes).expect("a frame is far shorter").into(),
            session: session.number.into(),
            at: at.0.into(),
            ..Head::default()
        };
        let head = head.seal(&self.gathered[body..]);
        self.gathered[start..body].copy_from_slice(head.as_bytes());
        self.latest = self.latest.max(at);
    }

    /// Enters the record at `offset` into the index.
    pub(super) fn mark(&mut self, offset: u64) {
        if self.index.len() == INDEX_ENTRIES_MAX {
            let mut number = 0;
            self.index.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.index_every *= 2;
        }
        self.index.push(Mark { offset: offset.into(), latest: self.latest.0.into() });
        self.index_next = offset + self.index_every;
    }

    /// The sink did not take what was gathered: it is as if that had never come, but for who
    /// sessions are with, which would not be said again.
    #[cold]
    fn give_up_gathered(&mut self) {
        // Where even this fails (a device has no length) there is nothing to cut off, or the next
        // write fails as well.
        let _ = self.sink.cut(self.flushed);
        let gathered = std::mem::take(&mut self.gathered);
        self.gathered.reserve(2 * GATHERED_BYTES);
        let mut rest = &gathered[..];
        while let Ok((head, _)) = Head::ref_from_prefix(rest) {
            let body_bytes = head.body_bytes.get() as usize;
            let bytes = size_of::<Head>() + body_bytes.next_multiple_of(ALIGN);
            let (record, behind) = rest.split_at(bytes);
            if head.what == PEER && self.gathered.len() + bytes <= PEERS_KEPT_BYTES {
                self.gathered.extend_from_slice(record);
            }
            rest = behind;
        }
        self.index.retain(|mark| mark.offset.get() < self.flushed);
        self.index_next = self.index_next.min(self.flushed);
        let waiting = std::mem::take(&mut self.waiting);
        self.lost.add(waiting);
        self.untold.add(waiting);
        self.untold.add(std::mem::take(&mut self.telling));
    }
}

fn text_bytes(text: &str) -> u16 {
    u16::try_from(text.len()).expect("texts are cut to 1,024 bytes")
}

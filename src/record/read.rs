//! Reads a recording, up to its last whole record.
//!
//! Nothing a file says is believed before its checksum has been looked at: a length that is
//! damaged costs no memory, and what is handed out is what was written.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use zerocopy::{FromBytes, IntoBytes};

use super::{
    ALIGN, Direction, END, END_BYTES, EndBody, HEADER_BYTES, Head, Header, INDEX, LOST, LostBody,
    MAGIC, Mark, PEER, PeerBody, RECEIVED, RECORD_VERSION, Record, RecordError, RecordOrigin,
    RecordedFrame, SENT,
};
use crate::crc::crc32c;
use crate::time::Nanos;

/// How a recording ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was finished, and all of it was read.
    Finished,
    /// It was not finished, or is still being written: it ends behind a whole record.
    Unfinished,
    /// It ends in the middle of a record, which begins here.
    Cut {
        /// From the start of the file, in bytes.
        offset: u64,
    },
    /// What begins here is no record: damaged, or something else that was appended.
    Damaged {
        /// From the start of the file, in bytes.
        offset: u64,
    },
}

/// Reads records one after the other. Blocks as its source does; allocates as long records come.
#[derive(Debug)]
pub struct RecordReader<R: Read + Seek = File> {
    source: BufReader<R>,
    origin: RecordOrigin,
    /// Where the next record begins.
    offset: u64,
    pub(super) first: u64,
    /// The body of the last record.
    pub(super) body: Vec<u8>,
    index: Vec<Mark>,
    end: Option<EndBody>,
    ending: Option<Ending>,
}

impl RecordReader<File> {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let refused = |source| RecordError::File { path: path.into(), source };
        let file = File::open(path).map_err(refused)?;
        Self::new(file).map_err(|error| match error {
            RecordError::Io(source) => refused(source),
            error => error,
        })
    }
}

impl<R: Read + Seek> RecordReader<R> {
    /// Reads the header, and the index of a finished recording.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn new(source: R) -> Result<Self, RecordError> {
        let mut source = BufReader::with_capacity(256 << 10, source);
        let origin = read_header(&mut source)?;
        let first = source.stream_position()?;
        let mut reader = Self {
            source,
            origin,
            offset: first,
            first,
            body: Vec::new(),
            index: Vec::new(),
            end: None,
            ending: None,
        };
        reader.read_index()?;
        reader.go_to(first)?;
        Ok(reader)
    }

    /// Where and when it was made.
    #[must_use]
    pub fn origin(&self) -> &RecordOrigin {
        &self.origin
    }

    /// Whether it was finished: it has an index, and says how many frames there are.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.end.is_some()
    }

    /// How many frames it has, when it was finished.
    #[must_use]
    pub fn frames(&self) -> Option<u64> {
        self.end.map(|end| end.frames.get())
    }

    /// How many frames are missing, when it was finished.
    #[must_use]
    pub fn frames_lost(&self) -> Option<u64> {
        self.end.map(|end| end.frames_lost.get())
    }

    /// The latest time of a record, when it was finished.
    #[must_use]
    pub fn latest(&self) -> Option<Nanos> {
        self.end.map(|end| Nanos(end.latest.get()))
    }

    /// How it ends, once [`next`](Self::next) has returned `None`.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Goes to a place from where on all records of `at` or later are found, near the first of
    /// them when there is an index, and to the start otherwise. Records before `at` may come.
    ///
    /// # Errors
    ///
    /// The source's.
    pub fn seek(&mut self, at: Nanos) -> io::Result<()> {
        let later = self.index.partition_point(|mark| mark.latest.get() < at.0);
        let offset = later.checked_sub(1).map_or(self.first, |mark| self.index[mark].offset.get());
        self.go_to(offset)
    }

    /// The next record; `None` at the end, of which [`ending`](Self::ending) tells more.
    ///
    /// # Errors
    ///
    /// The source's.
    #[expect(clippy::should_implement_trait, reason = "an iterator can not lend its items")]
    pub fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let head = loop {
            if self.ending.is_some() {
                return Ok(None);
            }
            let Some(head) = self.read_record()? else { return Ok(None) };
            match head.what {
                RECEIVED | SENT | LOST | PEER => break head,
                END => self.reached_end()?,
                // The index, and what a later version may add.
                _ => {}
            }
        };
        let record = parse(&head, &self.body);
        if record.is_none() {
            // Its checksum is right: who wrote this was not us.
            let bytes = (size_of::<Head>() + head.padded_body_bytes()) as u64;
            self.ending = Some(Ending::Damaged { offset: self.offset - bytes });
        }
        Ok(record)
    }

    /// Reads the record at `offset` into `body`; `None` when there is none.
    fn read_record(&mut self) -> io::Result<Option<Head>> {
        let mut head = Head::default();
        match read_up_to(&mut self.source, head.as_mut_bytes())? {
            0 => return Ok(self.stop(Ending::Unfinished)),
            bytes if bytes < size_of::<Head>() => {
                return Ok(self.stop(Ending::Cut { offset: self.offset }));
            }
            _ => {}
        }
        if !head.is_sound() {
            return Ok(self.stop(Ending::Damaged { offset: self.offset }));
        }
        let bytes = head.padded_body_bytes();
        self.body.clear();
        // Grows with what comes, not with what is promised.
        (&mut self.source).take(bytes as u64).read_to_end(&mut self.body)?;
        if self.body.len() < bytes {
            return Ok(self.stop(Ending::Cut { offset: self.offset }));
        }
        if crc32c(&self.body) != head.body_checksum.get() {
            return Ok(self.stop(Ending::Damaged { offset: self.offset }));
        }
        self.offset += (size_of::<Head>() + bytes) as u64;
        self.body.truncate(head.body_bytes.get() as usize);
        Ok(Some(head))
    }

    fn stop(&mut self, ending: Ending) -> Option<Head> {
        self.ending = Some(ending);
        None
    }

    /// The record that ends a finished recording has been read.
    fn reached_end(&mut self) -> io::Result<()> {
        let mut byte = [0];
        let is_last = read_up_to(&mut self.source, &mut byte)? == 0;
        let ending =
            if is_last { Ending::Finished } else { Ending::Damaged { offset: self.offset } };
        self.ending = Some(ending);
        Ok(())
    }

    /// Looks for end and index at the end of the file. Without them it is unfinished.
    fn read_index(&mut self) -> io::Result<()> {
        let bytes = self.source.seek(SeekFrom::End(0))?;
        let Some(end_offset) = bytes.checked_sub(END_BYTES as u64) else { return Ok(()) };
        if end_offset < self.first || !bytes.is_multiple_of(ALIGN as u64) {
            return Ok(());
        }
        self.go_to(end_offset)?;
        let end = match self.read_record()? {
            Some(head) if head.what == END => EndBody::read_from_bytes(&self.body).ok(),
            _ => None,
        };
        let Some(end) = end else { return Ok(()) };
        let offset = end.index_offset.get();
        if offset < self.first || offset >= end_offset {
            return Ok(());
        }
        self.go_to(offset)?;
        if let Some(head) = self.read_record()?
            && head.what == INDEX
            && let Ok(marks) = <[Mark]>::ref_from_bytes(&self.body)
        {
            let is_inside = |mark: &Mark| (self.first..offset).contains(&mark.offset.get());
            let by_offset = |mark: &Mark| mark.offset.get();
            let by_time = |mark: &Mark| mark.latest.get();
            if marks.iter().all(is_inside)
                && marks.is_sorted_by_key(by_offset)
                && marks.is_sorted_by_key(by_time)
            {
                self.index = marks.to_vec();
                self.end = Some(end);
            }
        }
        Ok(())
    }

    fn go_to(&mut self, offset: u64) -> io::Result<()> {
        self.source.seek(SeekFrom::Start(offset))?;
        self.offset = offset;
        self.ending = None;
        Ok(())
    }
}

fn read_header(source: &mut impl Read) -> Result<RecordOrigin, RecordError> {
    let mut bytes = vec![0; HEADER_BYTES];
    let got = read_up_to(source, &mut bytes)?;
    let magic = &bytes[..got.min(MAGIC.len())];
    if magic != &MAGIC[..magic.len()] {
        return Err(RecordError::NotARecording);
    }
    if got < HEADER_BYTES {
        return Err(RecordError::HeaderCut { bytes: got as u64 });
    }
    let header = Header::read_from_bytes(&bytes).expect("as many bytes as it has");
    if header.version.get() != RECORD_VERSION {
        return Err(RecordError::Version { got: header.version.get() });
    }
    let names = usize::from(header.node_name_bytes.get());
    let texts = names + usize::from(header.endpoint_bytes.get());
    bytes.resize(HEADER_BYTES + texts.next_multiple_of(ALIGN), 0);
    let rest = read_up_to(source, &mut bytes[HEADER_BYTES..])?;
    if HEADER_BYTES + rest < bytes.len() {
        return Err(RecordError::HeaderCut { bytes: (HEADER_BYTES + rest) as u64 });
    }
    bytes[HEADER_BYTES - 4..HEADER_BYTES].fill(0);
    if crc32c(&bytes) != header.checksum.get() {
        return Err(RecordError::HeaderDamaged);
    }
    let text = |range: std::ops::Range<usize>| {
        String::from_utf8(bytes[HEADER_BYTES..][range].to_vec())
            .map_err(|_| RecordError::HeaderDamaged)
    };
    Ok(RecordOrigin {
        node_name: text(0..names)?,
        node_number: header.node_number.get(),
        endpoint: text(names..texts)?,
        monotonic: Nanos(header.monotonic_ns.get()),
        wall_ns: header.wall_ns.get(),
    })
}

/// Fills `buffer` as far as the source goes; returns how far.
fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What a record of a known kind says.
fn parse<'a>(head: &Head, body: &'a [u8]) -> Option<Record<'a>> {
    let at = Nanos(head.at.get());
    let session = head.recorded_session();
    let frame = |direction| Record::Frame(RecordedFrame { direction, session, at, bytes: body });
    match head.what {
        RECEIVED => Some(frame(Direction::Received)),
        SENT => Some(frame(Direction::Sent)),
        LOST => {
            let lost = LostBody::read_from_bytes(body).ok()?;
            Some(Record::Lost { at, frames: lost.frames.get(), bytes: lost.bytes.get() })
        }
        _ => {
            let (lengths, texts) = PeerBody::read_from_prefix(body).ok()?;
            let names = usize::from(lengths.node_name_bytes.get());
            let (node_name, address) = texts.split_at_checked(names)?;
            if address.len() != usize::from(lengths.address_bytes.get()) {
                return None;
            }
            let node_name = std::str::from_utf8(node_name).ok()?;
            let address = std::str::from_utf8(address).ok()?;
            Some(Record::Peer { session, at, node_name, address })
        }
    }
}

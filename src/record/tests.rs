//! Recordings that are whole, cut at every byte, damaged at every byte, and written to sinks that
//! fail.

use std::io::{self, Cursor, Write};

use super::*;

/// A record, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owned {
    Frame(Direction, RecordedSession, u64, Vec<u8>),
    Lost(u64),
    Peer(RecordedSession, String, String),
}

impl Owned {
    fn of(record: &Record<'_>) -> Self {
        match *record {
            Record::Frame(frame) => {
                Self::Frame(frame.direction, frame.session, frame.at.0, frame.bytes.to_vec())
            }
            Record::Lost { frames, .. } => Self::Lost(frames),
            Record::Peer { session, node_name, address, .. } => {
                Self::Peer(session, node_name.into(), address.into())
            }
        }
    }
}

fn origin() -> RecordOrigin {
    RecordOrigin {
        node_name: "cell-7".into(),
        node_number: 7,
        endpoint: "127.0.0.1:7411".into(),
        monotonic: Nanos(1_000),
        wall_ns: 1_700_000_000_000_000_000,
    }
}

fn frame(at: u64, bytes: &[u8]) -> RecordedFrame<'_> {
    let session = RecordedSession { reactor: 1, number: 1 << 32 | 2 };
    let direction = if at.is_multiple_of(3) { Direction::Sent } else { Direction::Received };
    RecordedFrame { direction, session, at: Nanos(at), bytes }
}

/// A recording of random records; returns what it holds and where each record ends.
fn random_recording(seed: u64, finish: bool) -> (Vec<u8>, Vec<(u64, Owned)>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut writer = RecordWriter::begin(Vec::new(), &origin()).expect("memory takes it");
    let mut records = Vec::new();
    for at in 0..random.u64(1..20) {
        let before = writer.file_bytes();
        match random.u8(0..8) {
            0 => {
                let lost = random.u64(1..100);
                writer.lose(RecordTally { frames: lost, bytes: 64 * lost });
                continue;
            }
            1 => {
                let session = RecordedSession { reactor: 3, number: at };
                writer.peer(session, Nanos(at), "drive", "10.0.0.7:1").expect("memory takes it");
                let (name, address) = ("drive".to_owned(), "10.0.0.7:1".to_owned());
                records.push((before, Owned::Peer(session, name, address)));
            }
            _ => {
                let bytes: Vec<u8> = (0..16 * random.usize(0..6)).map(|_| random.u8(..)).collect();
                let frame = frame(at, &bytes);
                let told = writer.untold_frames();
                writer.frame(&frame).expect("memory takes it");
                if told > 0 {
                    writer.flush().expect("memory takes it");
                    let padded = (HEAD_BYTES + bytes.len()) as u64;
                    records.push((writer.file_bytes() - padded, Owned::Lost(told)));
                }
                records.push((before, Owned::of(&Record::Frame(frame))));
            }
        }
        writer.flush().expect("memory takes it");
        records.last_mut().expect("just pushed").0 = writer.file_bytes();
    }
    if finish {
        let told = writer.untold_frames();
        writer.finish().expect("memory takes it");
        if told > 0 {
            // Before index and end.
            let index = HEAD_BYTES + writer.index.len() * size_of::<Mark>();
            let end = writer.file_bytes() - (END_BYTES + index.next_multiple_of(ALIGN)) as u64;
            records.push((end, Owned::Lost(told)));
        }
    }
    (std::mem::take(writer.sink()), records)
}

/// Everything a reader finds, and how it ends.
fn read_all(bytes: &[u8]) -> Result<(Vec<Owned>, Ending), RecordError> {
    let mut reader = RecordReader::new(Cursor::new(bytes))?;
    let mut records = Vec::new();
    while let Some(record) = reader.next()? {
        records.push(Owned::of(&record));
    }
    Ok((records, reader.ending().expect("it has been read to the end")))
}

#[test]
fn what_is_written_is_read() {
    for seed in 0..200 {
        for finish in [false, true] {
            let (bytes, expected) = random_recording(seed, finish);
            assert_eq!(bytes.len() % ALIGN, 0);
            let (records, ending) = read_all(&bytes).expect("a recording");
            let expected: Vec<_> = expected.into_iter().map(|(_, record)| record).collect();
            assert_eq!(records, expected, "seed {seed}");
            let whole = if finish { Ending::Finished } else { Ending::Unfinished };
            assert_eq!(ending, whole, "seed {seed}");
        }
    }
}

#[test]
fn header_says_where_and_when() {
    let (bytes, _) = random_recording(1, true);
    let reader = RecordReader::new(Cursor::new(&bytes)).expect("a recording");
    assert_eq!(*reader.origin(), origin());
    assert_eq!(reader.origin().wall_ns_of(Nanos(1_500)), 1_700_000_000_000_000_500);
    assert!(reader.is_finished());
}

#[test]
fn cut_at_every_byte_it_is_read_to_the_last_whole_record() {
    for seed in 0..10 {
        for finish in [false, true] {
            let (bytes, expected) = random_recording(seed, finish);
            let first = header_bytes(&bytes);
            for length in 0..bytes.len() {
                let cut = &bytes[..length];
                let outcome = read_all(cut);
                if length < first {
                    assert!(outcome.is_err(), "seed {seed}, {length} bytes");
                    continue;
                }
                let (records, ending) = outcome.expect("its header is whole");
                let whole = expected.iter().filter(|(end, _)| *end <= length as u64);
                let whole: Vec<_> = whole.map(|(_, record)| record.clone()).collect();
                assert_eq!(records, whole, "seed {seed}, {length} bytes");
                let is_clean = matches!(ending, Ending::Unfinished);
                let is_cut = matches!(ending, Ending::Cut { offset } if offset < length as u64);
                assert!(is_clean || is_cut, "seed {seed}, {length} bytes: {ending:?}");
            }
        }
    }
}

fn header_bytes(bytes: &[u8]) -> usize {
    let reader = RecordReader::new(Cursor::new(bytes)).expect("a recording");
    usize::try_from(reader.first).expect("small")
}

#[test]
fn damaged_at_every_byte_it_shows_nothing_that_was_not_written() {
    for seed in 0..6 {
        let (bytes, expected) = random_recording(seed, true);
        let expected: Vec<_> = expected.into_iter().map(|(_, record)| record).collect();
        let first = header_bytes(&bytes);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            let Ok((records, ending)) = read_all(&damaged) else {
                assert!(at < first, "seed {seed}, byte {at}: only a header is indispensable");
                continue;
            };
            assert!(at >= first, "seed {seed}, byte {at}: a damaged header went unnoticed");
            assert_eq!(records, expected[..records.len()], "seed {seed}, byte {at}");
            let stops = matches!(ending, Ending::Damaged { offset } if offset <= at as u64);
            assert!(stops, "seed {seed}, byte {at}: {ending:?}");
        }
    }
}

#[test]
fn garbage_behind_is_not_read() {
    for garbage in [&b"x"[..], &[0; 16], &[0xff; 100], b"GET / HTTP/1.1\r\n\r\n"] {
        for finish in [false, true] {
            let (mut bytes, expected) = random_recording(3, finish);
            let whole = bytes.len() as u64;
            bytes.extend_from_slice(garbage);
            let (records, ending) = read_all(&bytes).expect("a recording");
            assert_eq!(records.len(), expected.len());
            let stops = match ending {
                Ending::Damaged { offset } | Ending::Cut { offset } => offset == whole,
                _ => false,
            };
            assert!(stops, "{ending:?}");
        }
    }
}

#[test]
fn hostile_length_costs_no_memory() {
    let (mut bytes, _) = random_recording(4, false);
    let whole = bytes.len() as u64;
    // A sound head that promises the most there may be, and nothing behind it.
    let most = u32::try_from(BODY_BYTES_MAX).expect("small");
    let head = Head { what: RECEIVED, body_bytes: most.into(), ..Head::default() };
    bytes.extend_from_slice(head.seal(&[]).as_bytes());
    let mut reader = RecordReader::new(Cursor::new(&bytes)).expect("a recording");
    while reader.next().expect("memory").is_some() {}
    assert_eq!(reader.ending(), Some(Ending::Cut { offset: whole }));
    assert!(reader.body.capacity() < 1 << 20, "{}", reader.body.capacity());
    // One that promises more is not even a head.
    let at = bytes.len() - HEAD_BYTES;
    let head = Head { body_bytes: u32::MAX.into(), ..head };
    bytes[at..].copy_from_slice(head.seal(&[]).as_bytes());
    assert_eq!(read_all(&bytes).expect("a recording").1, Ending::Damaged { offset: whole });
}

#[test]
fn other_files_are_refused() {
    let refused = |bytes: &[u8]| read_all(bytes).expect_err("no recording");
    assert!(matches!(refused(b""), RecordError::HeaderCut { bytes: 0 }));
    assert!(matches!(refused(b"R"), RecordError::NotARecording));
    assert!(matches!(refused(b"RW\x01 something else entirely"), RecordError::NotARecording));
    assert!(matches!(refused(&MAGIC), RecordError::HeaderCut { bytes: 8 }));
    let (mut bytes, _) = random_recording(5, true);
    bytes[8] = 2;
    assert!(matches!(refused(&bytes), RecordError::Version { got: 2 }));
    bytes[8] = 1;
    bytes[50] ^= 1;
    assert!(matches!(refused(&bytes), RecordError::HeaderDamaged));
}

#[test]
fn record_of_a_later_version_is_left_out() {
    let mut writer = RecordWriter::begin(Vec::new(), &origin()).expect("memory takes it");
    writer.frame(&frame(1, &[1; 32])).expect("memory takes it");
    writer.record(99, RecordedSession::default(), Nanos(2), &[b"what is this"]);
    writer.frame(&frame(3, &[3; 32])).expect("memory takes it");
    writer.finish().expect("memory takes it");
    let (records, ending) = read_all(writer.sink()).expect("a recording");
    assert_eq!(records.len(), 2);
    assert_eq!(ending, Ending::Finished);
}

/// With the index as without it: everything from a time on is found, and little before it.
#[test]
fn seeking_finds_everything_from_a_time_on() {
    let payload = [7; 4 << 10];
    let write = |finish: bool| {
        let mut writer = RecordWriter::begin(Vec::new(), &origin()).expect("memory takes it");
        for number in 0..1_000_u64 {
            // Two reactors: every tenth record is late.
            let at = if number % 10 == 9 { number - 5 } else { number };
            writer.frame(&frame(at, &payload)).expect("memory takes it");
        }
        if finish {
            writer.finish().expect("memory takes it");
            assert!(writer.index.len() > 50, "{}", writer.index.len());
        }
        writer.flush().expect("memory takes it");
        std::mem::take(writer.sink())
    };
    for finish in [true, false] {
        let bytes = write(finish);
        let mut reader = RecordReader::new(Cursor::new(&bytes)).expect("a recording");
        for from in [0, 1, 17, 500, 994, 999, 1_000, 5_000] {
            reader.seek(Nanos(from)).expect("memory");
            let (mut before, mut found) = (0, 0);
            while let Some(record) = reader.next().expect("memory") {
                let Record::Frame(frame) = record else { continue };
                if frame.at < Nanos(from) {
                    before += 1;
                } else {
                    found += 1;
                }
            }
            let expected = (0..1_000_u64)
                .filter(|number| if number % 10 == 9 { number - 5 } else { *number } >= from)
                .count();
            assert_eq!(found, expected, "from {from}");
            if finish && from > 20 {
                assert!(before < 60, "{before} records before {from} were read");
            }
        }
    }
}

#[test]
fn index_stays_bounded() {
    let mut writer = RecordWriter::begin(Vec::new(), &origin()).expect("memory takes it");
    for number in 0..3 * INDEX_ENTRIES_MAX as u64 {
        writer.mark(number * INDEX_EVERY_BYTES);
        assert!(writer.index.len() <= INDEX_ENTRIES_MAX);
    }
    assert!(writer.index_every > INDEX_EVERY_BYTES);
    assert!(writer.index.is_sorted_by_key(|mark| mark.offset.get()));
}

/// A disk that is full beyond `room`, and takes what fits.
#[derive(Debug)]
struct Disk {
    bytes: Vec<u8>,
    room: usize,
}

impl Write for Disk {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match buffer.len().min(self.room - self.bytes.len().min(self.room)) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            bytes => self.bytes.write(&buffer[..bytes]),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl RecordSink for Disk {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.bytes.cut(bytes)
    }
}

#[test]
fn full_disk_keeps_whole_records_and_says_what_is_missing() {
    for room in (200..2_000).step_by(37) {
        let disk = Disk { bytes: Vec::new(), room };
        let mut writer = RecordWriter::begin(disk, &origin()).expect("room for the header");
        let mut refused = 0;
        for number in 0..40 {
            writer.frame(&frame(number, &[7; 48])).expect("gathered");
            refused += u64::from(writer.flush().is_err());
        }
        assert!(refused > 0, "the disk is full");
        let written = writer.written().frames;
        assert_eq!(written + writer.lost().frames, 40);
        assert_eq!(writer.lost().bytes, 48 * writer.lost().frames);
        let (records, ending) = read_all(&writer.sink().bytes).expect("a recording");
        let frames = records.iter().filter(|record| matches!(record, Owned::Frame(..))).count();
        assert_eq!(frames as u64, written);
        assert_eq!(ending, Ending::Unfinished, "no half record is left behind");
        // Somebody makes room: it goes on, and the hole is told.
        writer.sink().room = usize::MAX;
        writer.frame(&frame(40, &[7; 48])).expect("gathered");
        writer.finish().expect("room");
        let (records, ending) = read_all(&writer.sink().bytes).expect("a recording");
        assert_eq!(ending, Ending::Finished);
        let told: u64 = records
            .iter()
            .map(|record| if let Owned::Lost(frames) = record { *frames } else { 0 })
            .sum();
        assert_eq!(told, writer.lost().frames, "room {room}");
    }
}

/// It is said once only, so it waits for room; not for ever more of it.
#[test]
fn full_disk_keeps_who_sessions_are_with() {
    let header = RecordWriter::begin(Vec::new(), &origin()).expect("memory").file_bytes();
    let room = usize::try_from(header).expect("small");
    let mut writer =
        RecordWriter::begin(Disk { bytes: Vec::new(), room }, &origin()).expect("room");
    let session = |number| RecordedSession { reactor: 1, number };
    for number in 0..3 {
        writer.peer(session(number), Nanos(number), "drive", "10.0.0.7:1").expect("gathered");
        writer.frame(&frame(number, &[7; 48])).expect("gathered");
        writer.flush().expect_err("no room");
    }
    writer.sink().room = usize::MAX;
    writer.frame(&frame(3, &[7; 48])).expect("gathered");
    writer.finish().expect("room");
    let (records, ending) = read_all(&writer.sink().bytes).expect("a recording");
    let peer = |number| Owned::Peer(session(number), "drive".into(), "10.0.0.7:1".into());
    let last = Owned::of(&Record::Frame(frame(3, &[7; 48])));
    assert_eq!(records, [peer(0), peer(1), peer(2), Owned::Lost(3), last]);
    assert_eq!(ending, Ending::Finished);

    writer.sink().room = 0;
    let long = "x".repeat(TEXT_BYTES_MAX);
    for number in 0..2_000 {
        let _ = writer.peer(session(number), Nanos(number), &long, &long);
    }
    assert!(writer.gathered_bytes() < 512 << 10, "{}", writer.gathered_bytes());
}

#[test]
fn texts_are_cut_between_characters() {
    let long = "ä".repeat(2_000);
    let origin = RecordOrigin { node_name: long.clone(), endpoint: long, ..origin() };
    let mut writer = RecordWriter::begin(Vec::new(), &origin).expect("memory takes it");
    let session = RecordedSession::default();
    writer.peer(session, Nanos(1), &origin.node_name, "x").expect("memory takes it");
    writer.finish().expect("memory takes it");
    let reader = RecordReader::new(Cursor::new(writer.sink().clone())).expect("a recording");
    assert_eq!(reader.origin().node_name, "ä".repeat(TEXT_BYTES_MAX / 2));
    let (records, _) = read_all(writer.sink()).expect("a recording");
    let peer = Owned::Peer(session, "ä".repeat(TEXT_BYTES_MAX / 2), "x".into());
    assert_eq!(records, [peer]);
}

//! Entry functions of the fuzz targets, shared with the property tests.
//!
//! Each takes arbitrary bytes and panics when a promise of the library does not hold for them.
//! Compiled for tests and with the feature `fuzzing` only: not part of the public interface, and
//! no embedder pays for it. A new target is one function, one corpus and one line in [`TARGETS`];
//! `fuzz/` picks it up from there.

pub mod bench;

// Narrowing the oracle's numbers is what its documentation asks for, byte by byte.
#[expect(clippy::cast_possible_truncation, reason = "the oracle takes numbers apart by hand")]
pub mod oracle;

/// Sessions over a simulated network; see `tests/sim.rs`.
pub mod sim {
    pub use crate::session::mutation::Mutation;
    pub use crate::session::sim::herd::{CLIENTS, Herd, run as run_herd};
    pub use crate::session::sim::{Options, Report, run};
}

use std::io::Cursor;

use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::record::{
    Direction, Record, RecordOrigin, RecordReader, RecordTally, RecordWriter, RecordedFrame,
    RecordedSession,
};
use crate::time::Nanos;
use crate::wire::handshake::{self, Greeting};
use crate::wire::{
    Checksum, Codec, Decoder, Extension, Flags, Frame, FrameHead, Kind, Priority, frame_bytes,
};
use crate::{Body, Scratch};
use oracle::{PlainExtension, PlainFrame};

/// One fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, as in `fuzz/fuzz_targets/<name>.rs`.
    pub name: &'static str,
    /// Takes any bytes; panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Well-formed inputs to start mutating from.
    pub corpus: fn() -> Vec<Vec<u8>>,
}

/// Every target there is.
pub const TARGETS: [Target; 6] = [
    Target { name: "wire_decode", run: wire_decode, corpus: wire_decode_corpus },
    Target { name: "wire_handshake", run: wire_handshake, corpus: wire_handshake_corpus },
    Target { name: "config_toml", run: config_toml, corpus: config_toml_corpus },
    Target { name: "endpoint", run: endpoint, corpus: endpoint_corpus },
    Target { name: "session", run: session, corpus: session_corpus },
    Target { name: "recording", run: recording, corpus: recording_corpus },
];

/// Reads a recording, from its beginning and from a time on. Never panics, whatever the bytes are,
/// ends, and finds the same again; what is sought is a part of the whole.
pub fn recording(data: &[u8]) {
    let Ok(mut reader) = RecordReader::new(Cursor::new(data)) else { return };
    let whole = records(&mut reader);
    let ending = reader.ending();
    assert!(ending.is_some(), "it has been read to its end");
    let middle = whole.get(whole.len() / 2).map_or(Nanos(0), |&(at, _)| at);
    reader.seek(Nanos(0)).expect("memory");
    assert_eq!(records(&mut reader), whole, "read again");
    assert_eq!(reader.ending(), ending);
    // An index may say anything: what is found is there all the same.
    reader.seek(middle).expect("memory");
    let sought = records(&mut reader);
    assert!(sought.iter().all(|record| whole.contains(record)), "{} sought", sought.len());
}

/// When each record is from, and how long it is.
fn records(reader: &mut RecordReader<Cursor<&[u8]>>) -> Vec<(Nanos, usize)> {
    let mut found = Vec::new();
    while let Some(record) = reader.next().expect("memory") {
        found.push(match record {
            Record::Frame(frame) => (frame.at, frame.bytes.len()),
            Record::Lost { at, .. } => (at, 0),
            Record::Peer { at, node_name, address, .. } => (at, node_name.len() + address.len()),
        });
    }
    found
}

fn recording_corpus() -> Vec<Vec<u8>> {
    let session = RecordedSession { reactor: 1, number: 1 << 32 | 2 };
    let write = |finish: bool| {
        let origin = RecordOrigin { node_name: "cell".into(), ..RecordOrigin::default() };
        let mut writer = RecordWriter::begin(Vec::new(), &origin).expect("memory");
        writer.peer(session, Nanos(1), "drive", "10.0.0.7:1").expect("memory");
        for at in 2..6 {
            let direction = if at == 3 { Direction::Sent } else { Direction::Received };
            let frame = RecordedFrame { direction, session, at: Nanos(at), bytes: &[7; 48] };
            writer.frame(&frame).expect("memory");
            writer.lose(RecordTally { frames: 1, bytes: 48 });
        }
        let ended = if finish { writer.finish() } else { writer.flush() };
        ended.expect("memory");
        std::mem::take(writer.sink())
    };
    vec![write(true), write(false)]
}

/// A recursive type with everything an archive can nest: what a hostile peer would aim at.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
#[rkyv(serialize_bounds(
    __S: rkyv::ser::Writer + rkyv::ser::Allocator,
    __S::Error: rkyv::rancor::Source,
))]
#[rkyv(bytecheck(bounds(
    __C: rkyv::validation::ArchiveContext,
    __C::Error: rkyv::rancor::Source,
)))]
pub struct Tree {
    /// Text behind a pointer.
    pub name: String,
    /// Numbers behind a pointer.
    pub values: Vec<u32>,
    /// A tag with invalid values.
    pub valid: Option<bool>,
    /// As deep as the sender likes.
    #[rkyv(omit_bounds)]
    pub children: Vec<Self>,
}

crate::payload!(Tree = 0x7ee);

impl Tree {
    /// A chain `depth` nodes long.
    #[must_use]
    pub fn chain(depth: usize) -> Self {
        let leaf = || Self {
            name: "a name longer than fits inline".into(),
            values: vec![1, 2, 3],
            valid: Some(true),
            children: Vec::new(),
        };
        (1..depth).fold(leaf(), |child, _| Self { children: vec![child], ..leaf() })
    }
}

/// The decoder against the oracle: the same frames, the same errors at the same place, the same
/// answer for every prefix, and what was decoded encodes back to the same bytes.
///
/// The first byte chooses the frame limit.
pub fn wire_decode(data: &[u8]) {
    let Some((&choice, stream)) = data.split_first() else { return };
    let frame_bytes_max = 32 << (choice % 16);
    let decoder = Decoder::new(frame_bytes_max);
    let mut rest = stream;
    loop {
        match check_next(&decoder, rest) {
            Some(taken) => rest = &rest[taken..],
            None => return,
        }
    }
}

/// One step of the decoder against the oracle. Returns the length of the frame taken, if any.
///
/// # Panics
///
/// When the two disagree.
pub fn check_next(decoder: &Decoder, bytes: &[u8]) -> Option<usize> {
    let expected = oracle::decode(bytes, decoder.frame_bytes_max());
    let mut rest = bytes;
    let got = decoder.next(&mut rest);
    check_promise(decoder, bytes, &got.map(|frame| frame.is_some()));
    match (got, expected) {
        (Err(got), Err(expected)) => {
            assert_eq!(got, expected, "both refuse, for different reasons");
            assert_eq!(rest.len(), bytes.len(), "an error leaves the input as it was");
            None
        }
        (Ok(None), Ok(None)) => {
            assert_eq!(rest.len(), bytes.len(), "waiting leaves the input as it was");
            None
        }
        (Ok(Some(frame)), Ok(Some((plain, taken)))) => {
            assert_eq!(to_plain(&frame), plain, "the fields differ");
            assert_eq!(frame.frame_bytes(), taken, "the lengths differ");
            assert_eq!(rest, &bytes[taken..], "the input is advanced past the frame");
            assert_eq!(reencode(&frame), &bytes[..taken], "there is one encoding of a frame");
            let _ = frame.access::<Tree>();
            Some(taken)
        }
        (got, expected) => panic!("decoder: {got:?}, oracle: {expected:?}"),
    }
}

/// `promise` sees the header only, and what it says must fit what `next` says.
fn check_promise(
    decoder: &Decoder,
    bytes: &[u8],
    next: &Result<bool, crate::error::ProtocolError>,
) {
    match (decoder.promise(bytes), next) {
        (Err(promised), Err(next)) => assert_eq!(promised, *next, "promise and next differ"),
        (Err(promised), next) => panic!("promise: {promised:?}, next: {next:?}"),
        (Ok(None), next) => assert_eq!(*next, Ok(false), "no header yet, so no frame"),
        (Ok(Some(promise)), next) => {
            let whole = bytes.len() >= promise.frame_bytes;
            assert!(promise.frame_bytes <= decoder.frame_bytes_max(), "beyond the limit");
            // A whole frame may still fail: its padding, extension and checksum are its body's.
            assert_eq!(whole, *next != Ok(false), "promise and next differ on what is whole");
        }
    }
}

/// The frame as plain numbers, through the accessors an application uses.
#[must_use]
pub fn to_plain(frame: &Frame<'_>) -> PlainFrame {
    let extension = frame.extension().map(|extension| PlainExtension {
        acknowledged: extension.acknowledged.get(),
        correlation: extension.correlation.get(),
        ttl_us: extension.ttl_us.get(),
        source: extension.source.get(),
        destination: extension.destination.get(),
    });
    assert_eq!(frame.correlation(), extension.map_or(0, |extension| extension.correlation));
    PlainFrame {
        kind: frame.kind() as u8,
        flags: frame.flags().0,
        priority: frame.priority() as u8,
        codec: frame.codec() as u8,
        sequence: frame.sequence(),
        type_id: frame.type_id(),
        sent_at: frame.sent_at_ns(),
        extension,
        payload: frame.payload().to_vec(),
    }
}

/// Encodes a decoded frame again.
fn reencode(frame: &Frame<'_>) -> Vec<u8> {
    let checksummed = frame.flags().contains(Flags::CHECKSUM);
    let head = FrameHead {
        kind: frame.kind(),
        priority: frame.priority(),
        codec: frame.codec(),
        type_id: frame.type_id(),
        sequence: frame.sequence(),
        sent_at_ns: frame.sent_at_ns(),
        flags: frame.flags(),
        extension: frame.extension().copied(),
        checksum: if checksummed { Checksum::Always } else { Checksum::Never },
    };
    // Dirty memory: every byte of the frame must be written.
    let mut out = vec![0xa5; frame.frame_bytes()];
    let written = head.encode(frame.payload(), &mut out);
    assert_eq!(written, out.len(), "encode and decode differ on the length");
    out
}

/// The handshake's payloads against the oracle; what is well formed survives a round trip.
pub fn wire_handshake(data: &[u8]) {
    let expected = oracle::greeting(data);
    match (handshake::read_greeting(data), &expected) {
        (Err(_), None) => {}
        (Ok((greeting, name)), Some(expected)) => {
            let frame_bytes_max = greeting.frame_bytes_max.get();
            let got =
                (greeting.protocol_min, greeting.protocol_max, frame_bytes_max, name.to_owned());
            assert_eq!(got, *expected, "the fields differ");
            if greeting.authentication_bytes.get() == 0 {
                check_greeting(Kind::Hello, *greeting, name);
                check_greeting(Kind::Welcome, *greeting, name);
            }
        }
        (got, expected) => panic!("reader: {got:?}, oracle: {expected:?}"),
    }
    let farewell = handshake::read_farewell(data);
    assert_eq!(farewell.ok(), oracle::farewell(data), "the farewells differ");
    if let Ok((reason, detail)) = farewell {
        check_farewell(Kind::Reject, reason, detail);
        check_farewell(Kind::Goodbye, reason, detail);
        assert_eq!(handshake::RejectReason::from_code(reason).code(), reason, "reject reason");
        assert_eq!(handshake::GoodbyeReason::from_code(reason).code(), reason, "goodbye reason");
    }
}

fn check_greeting(kind: Kind, greeting: Greeting, name: &str) {
    let mut out = [0xa5; handshake::HANDSHAKE_BYTES_MAX];
    let written = handshake::write_greeting(kind, greeting, name, &mut out);
    let mut input = &out[..written];
    let frame = Decoder::new(out.len()).next(&mut input).expect("own frame").expect("whole");
    assert_eq!(frame.kind(), kind, "the kind survives");
    let (read, read_name) = handshake::read_greeting(frame.payload()).expect("own greeting");
    assert_eq!(zerocopy::IntoBytes::as_bytes(read), zerocopy::IntoBytes::as_bytes(&greeting));
    assert_eq!(read_name, name, "the name survives");
}

fn check_farewell(kind: Kind, reason: u16, detail: u32) {
    let mut out = [0xa5; 48];
    let written = handshake::write_farewell(kind, reason, detail, 9, &mut out);
    let mut input = &out[..written];
    let frame = Decoder::new(out.len()).next(&mut input).expect("own frame").expect("whole");
    assert_eq!(frame.kind(), kind, "the kind survives");
    assert_eq!(handshake::read_farewell(frame.payload()), Ok((reason, detail)));
}

/// A configuration file: an error or a valid configuration, which survives being written out.
pub fn config_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::from_toml(text) {
        Err(error) => assert!(!error.to_string().is_empty(), "an error says what is wrong"),
        Ok(config) => {
            assert!(config.ring_entries().is_power_of_two(), "what the kernel asks for");
            assert_eq!(config.window_bytes() % 16, 0, "frames must stay aligned");
            let written = toml::to_string(&config).expect("a configuration can be written");
            let again = Config::from_toml(&written).expect("what was written reads back");
            assert_eq!(toml::to_string(&again).as_deref(), Ok(&*written), "and is the same");
        }
    }
}

/// An endpoint: an error, or one that reads back from what it prints.
pub fn endpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Endpoint>() {
        Err(error) => assert!(!error.to_string().is_empty(), "an error says what is wrong"),
        Ok(endpoint) => {
            let printed = endpoint.to_string();
            assert_eq!(printed.parse().as_ref(), Ok(&endpoint), "{printed:?} reads back");
            assert!(!endpoint.host().is_empty(), "an endpoint has a host");
        }
    }
}

/// A session that is fed with bytes in any split, while time passes, messages are queued and sent,
/// and links are lost: see `session::sim::input`.
pub fn session(data: &[u8]) {
    crate::session::sim::input::run(data);
}

fn session_corpus() -> Vec<Vec<u8>> {
    crate::session::sim::input::corpus()
}

fn wire_decode_corpus() -> Vec<Vec<u8>> {
    let extension = Extension {
        acknowledged: 3.into(),
        correlation: 42.into(),
        ttl_us: 1_000.into(),
        source: 1.into(),
        destination: 2.into(),
        reserved: 0.into(),
    };
    let plain = FrameHead {
        kind: Kind::Data,
        priority: Priority::Normal,
        codec: Codec::Opaque,
        type_id: 7,
        sequence: 1,
        sent_at_ns: 1_000_000,
        flags: Flags::default(),
        extension: None,
        checksum: Checksum::Never,
    };
    let request =
        FrameHead { flags: Flags::REQUEST, extension: Some(extension), sequence: 2, ..plain };
    let tree = Tree::chain(3);
    let typed = FrameHead { codec: tree.codec(), type_id: tree.type_id(), sequence: 3, ..plain };
    let mut scratch = Scratch::new();
    let mut archive = vec![0; 4096];
    let archive_bytes = tree.encode(&mut archive, &mut scratch).expect("it fits");
    archive.truncate(archive_bytes);

    let mut corpus = Vec::new();
    let mut all = vec![15];
    let cases: [(FrameHead, &[u8]); 5] = [
        (plain, b""),
        (plain, b"seventeen bytes!!"),
        (FrameHead { checksum: Checksum::Always, ..plain }, b"checked"),
        (FrameHead { checksum: Checksum::Always, ..request }, b"request"),
        (typed, &archive),
    ];
    for (head, payload) in cases {
        let mut frame = vec![0; frame_bytes(payload.len(), head.extension.is_some())];
        head.encode(payload, &mut frame);
        all.extend_from_slice(&frame);
        frame.insert(0, 15);
        corpus.push(frame);
    }
    corpus.push(all);
    corpus
}

fn wire_handshake_corpus() -> Vec<Vec<u8>> {
    let mut greeting = vec![0; handshake::GREETING_BYTES];
    greeting[0] = 1;
    greeting[1] = 1;
    greeting[34] = 1;
    let mut named = greeting.clone();
    named[2] = 6;
    named.extend_from_slice("näme7".as_bytes());
    vec![greeting, named, vec![1, 0, 0, 0, 9, 0, 0, 0]]
}

fn config_toml_corpus() -> Vec<Vec<u8>> {
    let all = toml::to_string(&Config::default()).expect("the defaults can be written");
    let some = "idle = \"park\"\ncores = [0, 1]\nring_entries = 100\nchecksum = \"always\"\n";
    vec![all.into_bytes(), some.into(), b"node_name = \"x\"\nschema_hash = 0xfeed".to_vec()]
}

fn endpoint_corpus() -> Vec<Vec<u8>> {
    ["localhost:80", "[::1]:9", "[fe80::1%eth0]:9", "::1", "drive-7.lan", "unix:/run/x.sock"]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

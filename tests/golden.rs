//! Golden frames: the bytes of the wire format, pinned.
//!
//! `tests/golden/frames.hex` is for people and for implementations in other languages. A change
//! there breaks every peer in the field, so nothing rewrites it by itself: `RINGWIRE_BLESS=1
//! cargo test --test golden` does, and the difference belongs in the review and the changelog.

use std::fmt::Write as _;
use std::path::PathBuf;

use ringwire::wire::handshake::{
    GoodbyeReason, Greeting, RejectReason, read_farewell, read_greeting, write_farewell,
    write_greeting,
};
use ringwire::wire::{
    Checksum, Codec, Decoder, Extension, Flags, FrameHead, Kind, Priority, frame_bytes,
};
use ringwire::{Body, Scratch};

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Setpoint {
    axis: u32,
    enabled: bool,
    position: f64,
    unit: String,
}

ringwire::payload!(Setpoint = 0x0101);

fn setpoint() -> Setpoint {
    Setpoint { axis: 3, enabled: true, position: -1.5, unit: "millimetres".into() }
}

fn data() -> FrameHead {
    FrameHead {
        kind: Kind::Data,
        priority: Priority::Normal,
        codec: Codec::Opaque,
        type_id: 0x1122_3344,
        sequence: 0x0102_0304,
        sent_at_ns: 0x0011_2233_4455_6677,
        flags: Flags::default(),
        extension: None,
        checksum: Checksum::Commands,
    }
}

fn extension() -> Extension {
    Extension {
        acknowledged: 0x0a0b_0c0d_0e0f_1011.into(),
        correlation: 0x2a.into(),
        ttl_us: 2_500.into(),
        source: 7.into(),
        destination: 9.into(),
        reserved: 0.into(),
    }
}

fn command() -> FrameHead {
    FrameHead {
        kind: Kind::Command,
        priority: Priority::High,
        extension: Some(extension()),
        ..data()
    }
}

fn greeting() -> Greeting {
    Greeting {
        protocol_min: 1,
        protocol_max: 1,
        name_bytes: 0.into(),
        features: 0.into(),
        session_id: *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
        schema_hash: 0xfeed_f00d_0000_0001.into(),
        frame_bytes_max: (4 << 20).into(),
        heartbeat_interval_us: 0.into(),
        last_received: [0.into(), 1.into(), 2.into(), 3.into()],
        monotonic_ns: 1_000_000_007.into(),
        wall_ns: 1_700_000_000_000_000_000.into(),
        node: 7.into(),
        authentication_bytes: 0.into(),
        reserved: 0.into(),
        messages_received: [0.into(), 1.into(), 2.into(), 2.into()],
        peer_session_id: *b"\xff\xee\xdd\xcc\xbb\xaa\x99\x88\x77\x66\x55\x44\x33\x22\x11\x00",
    }
}

/// A frame with its name, built through the public interface into dirty memory.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |head: FrameHead, payload: &[u8]| {
        let mut out = vec![0xa5; frame_bytes(payload.len(), head.extension.is_some())];
        let written = head.encode(payload, &mut out);
        assert_eq!(written, out.len());
        out
    };
    let typed = |head: FrameHead| {
        let value = setpoint();
        let mut out = vec![0xa5; 256];
        let head = FrameHead { codec: value.codec(), type_id: value.type_id(), ..head };
        let room = &mut out[head.head_bytes()..];
        let payload_bytes = value.encode(room, &mut Scratch::new()).expect("it fits");
        let written = head.finish(&mut out, payload_bytes);
        out.truncate(written);
        out
    };
    let handshake = |write: &dyn Fn(&mut [u8]) -> usize| {
        let mut out = vec![0xa5; 1024];
        let written = write(&mut out);
        out.truncate(written);
        out
    };
    let always = |head: FrameHead| FrameHead { checksum: Checksum::Always, ..head };
    let never = |head: FrameHead| FrameHead { checksum: Checksum::Never, ..head };
    let flagged = |flags, kind| FrameHead { flags, kind, ..command() };
    vec![
        ("data, empty", frame(data(), b"")),
        ("data, 16 bytes, no padding", frame(data(), b"0123456789abcdef")),
        ("data, 17 bytes, 15 of padding", frame(data(), b"0123456789abcdefg")),
        ("data, 31 bytes, 1 of padding", frame(data(), b"0123456789abcdef0123456789abcde")),
        ("data, 5 bytes, checksum", frame(always(data()), b"hello")),
        (
            "status, JSON, low priority",
            frame(
                FrameHead {
                    kind: Kind::Status,
                    codec: Codec::Json,
                    priority: Priority::Low,
                    ..data()
                },
                br#"{"temperature":21.5}"#,
            ),
        ),
        ("data, rkyv setpoint", typed(data())),
        ("command, extension, checksum, rkyv setpoint", typed(command())),
        ("command, extension, no checksum", frame(never(command()), b"stop")),
        ("command, reliable", frame(flagged(Flags::RELIABLE, Kind::Command), b"go")),
        ("data, reliable", frame(FrameHead { flags: Flags::RELIABLE, ..data() }, b"position")),
        ("request", frame(flagged(Flags::REQUEST, Kind::Command), b"where are you?")),
        ("response", frame(flagged(Flags::RESPONSE, Kind::Status), b"here")),
        (
            "error, critical, response",
            frame(
                FrameHead { priority: Priority::Critical, ..flagged(Flags::RESPONSE, Kind::Error) },
                b"no such axis",
            ),
        ),
        (
            "hello with a name",
            handshake(&|out| write_greeting(Kind::Hello, greeting(), "drive-7", out)),
        ),
        (
            "welcome without a name",
            handshake(&|out| write_greeting(Kind::Welcome, greeting(), "", out)),
        ),
        (
            "reject, full, limit 1024",
            handshake(&|out| {
                write_farewell(Kind::Reject, RejectReason::Full.code(), 1024, 1_000, out)
            }),
        ),
        (
            "goodbye, shutdown",
            handshake(&|out| {
                write_farewell(Kind::Goodbye, GoodbyeReason::Shutdown.code(), 0, 1_000, out)
            }),
        ),
    ]
}

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", "frames.hex"].iter().collect()
}

/// A comment with the name, then 16 bytes a line.
fn render(frames: &[(&'static str, Vec<u8>)]) -> String {
    let mut text = String::from(
        "# Frames of the wire format, version 1. The format: src/wire/mod.rs; the payloads of\n\
         # hello, welcome, reject and goodbye: src/wire/handshake.rs. Built by tests/golden.rs.\n",
    );
    for (name, bytes) in frames {
        write!(text, "\n# {name} ({} bytes)\n", bytes.len()).expect("a string grows");
        for line in bytes.chunks(16) {
            let line: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "{}", line.join(" ")).expect("a string grows");
        }
    }
    text
}

/// The file's frames in order, by the name in front of each.
fn parse(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut frames: Vec<(String, Vec<u8>)> = Vec::new();
    let mut name = "";
    let mut fresh = false;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            name = comment.rsplit_once(" (").map_or(comment, |(name, _)| name);
            fresh = true;
            continue;
        }
        for byte in line.split_whitespace() {
            if std::mem::take(&mut fresh) {
                frames.push((name.into(), Vec::new()));
            }
            let byte = u8::from_str_radix(byte, 16).expect("two hex digits");
            frames.last_mut().expect("a name comes first").1.push(byte);
        }
    }
    frames
}

fn golden() -> Vec<(String, Vec<u8>)> {
    parse(&std::fs::read_to_string(path()).expect("tests/golden/frames.hex is checked in"))
}

#[test]
fn encoder_writes_the_golden_bytes() {
    let built = frames();
    if std::env::var_os("RINGWIRE_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(path(), render(&built)).expect("the file can be written");
    }
    let golden = golden();
    for ((name, bytes), (golden_name, golden_bytes)) in built.iter().zip(&golden) {
        assert_eq!(name, golden_name, "the file names another frame here");
        assert_eq!(bytes, golden_bytes, "{name}: the wire format has changed");
    }
    assert_eq!(built.len(), golden.len(), "the file has a frame more or less");
}

#[test]
fn decoder_reads_the_golden_bytes() {
    let stream: Vec<u8> = golden().into_iter().flat_map(|(_, bytes)| bytes).collect();
    // As aligned as a receive window.
    let mut window = rkyv::util::AlignedVec::<16>::new();
    window.extend_from_slice(&stream);
    let decoder = Decoder::new(4096);
    let mut input = &window[..];
    for (name, golden_bytes) in golden() {
        let before = input.len();
        let frame = decoder.next(&mut input).expect(&name).expect(&name);
        assert_eq!(before - input.len(), golden_bytes.len(), "{name}");
        if frame.kind().is_handshake() {
            match frame.kind() {
                Kind::Hello | Kind::Welcome => {
                    let (greeting, node_name) = read_greeting(frame.payload()).expect(&name);
                    assert_eq!(greeting.schema_hash.get(), 0xfeed_f00d_0000_0001);
                    assert_eq!(node_name, if frame.kind() == Kind::Hello { "drive-7" } else { "" });
                }
                _ => assert_eq!(read_farewell(frame.payload()).expect(&name).0, 2, "{name}"),
            }
            continue;
        }
        assert_eq!(frame.sequence(), 0x0102_0304, "{name}");
        assert_eq!(frame.sent_at_ns(), 0x0011_2233_4455_6677, "{name}");
        assert_eq!(frame.correlation(), if frame.extension().is_some() { 42 } else { 0 }, "{name}");
        assert_eq!(frame.is_request(), name == "request", "{name}");
        assert_eq!(frame.is_response(), name.contains("response"), "{name}");
        if frame.codec() == Codec::Rkyv {
            let archived = frame.access::<Setpoint>().expect(&name);
            assert_eq!(archived.axis, 3);
            assert!(archived.enabled);
            assert_eq!(archived.position, -1.5);
            assert_eq!(archived.unit, "millimetres");
        }
    }
    assert!(input.is_empty(), "the stream ends at a frame boundary");
}

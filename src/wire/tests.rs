//! Properties of the codec: against an independent oracle, split anywhere, damaged anywhere.
//!
//! The loops are seeded; a failure prints the seed, and `RINGWIRE_SEED=<seed> cargo test` repeats
//! it. The checks themselves are the fuzz targets' (`crate::fuzzing`).

use std::path::PathBuf;

use super::decode::Likeness;
use super::handshake::{
    GREETING_BYTES, GoodbyeReason, Greeting, HANDSHAKE_BYTES_MAX, NAME_BYTES_MAX, RejectReason,
    read_farewell, read_greeting, version_in_common, write_farewell, write_greeting,
};
use super::payload::ACCESS_DEPTH_MAX;
use super::*;
use crate::error::AccessError;
use crate::fuzzing::oracle::{self, PlainExtension, PlainFrame};
use crate::fuzzing::{Tree, check_next};

/// Less under Miri, where a checksum of so much takes its time.
const FRAME_BYTES_MAX: usize = if cfg!(miri) { 1 << 14 } else { 1 << 20 };
/// The same as errors show it.
const LIMIT: u32 = if cfg!(miri) { 1 << 14 } else { 1 << 20 };
const KINDS: [u8; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0x80, 0x81, 0x82, 0x83];

/// Runs `case` many times with reproducible randomness.
fn seeded(cases: usize, mut case: impl FnMut(&mut fastrand::Rng)) {
    struct PrintOnPanic(u64);
    impl Drop for PrintOnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("repeat with RINGWIRE_SEED={}", self.0);
            }
        }
    }
    let seed = std::env::var("RINGWIRE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = PrintOnPanic(seed.unwrap_or_else(|| fastrand::u64(..)));
    let mut rng = fastrand::Rng::with_seed(seed.0);
    for _ in 0..crate::seeds(cases as u64) {
        case(&mut rng);
    }
}

fn random_plain(rng: &mut fastrand::Rng, payload_bytes_max: usize) -> PlainFrame {
    let kind = KINDS[rng.usize(..KINDS.len())];
    let extension = rng.bool().then(|| PlainExtension {
        acknowledged: rng.u64(..),
        correlation: rng.u64(..),
        ttl_us: rng.u32(..),
        source: rng.u32(..),
        destination: rng.u32(..),
    });
    // All there are, but for those that need an extension where there is none.
    let mut flags = match extension {
        Some(_) => 1 | rng.u8(..64) & (2 | 4 | 8 | 32),
        None => rng.u8(..64) & 2,
    };
    if kind >= 0x80 || rng.bool() {
        flags |= 16;
    }
    let mut payload = vec![0; rng.usize(..=payload_bytes_max)];
    rng.fill(&mut payload);
    PlainFrame {
        kind,
        flags,
        priority: rng.u8(1..=4),
        codec: rng.u8(..3),
        sequence: rng.u32(..),
        type_id: rng.u32(..),
        sent_at: rng.u64(..),
        extension,
        payload,
    }
}

/// The real encoder's rendering of a plain frame.
fn encode(plain: &PlainFrame) -> Vec<u8> {
    let head = FrameHead {
        kind: Kind::from_byte(plain.kind).expect("a known kind"),
        priority: Priority::from_byte(plain.priority).expect("a known priority"),
        codec: Codec::from_byte(plain.codec).expect("a known codec"),
        type_id: plain.type_id,
        sequence: plain.sequence,
        sent_at_ns: plain.sent_at,
        flags: Flags(plain.flags & !0x11),
        extension: plain.extension.map(|extension| Extension {
            acknowledged: extension.acknowledged.into(),
            correlation: extension.correlation.into(),
            ttl_us: extension.ttl_us.into(),
            source: extension.source.into(),
            destination: extension.destination.into(),
            reserved: 0.into(),
        }),
        checksum: if plain.flags & 16 != 0 { Checksum::Always } else { Checksum::Never },
    };
    let mut out = vec![0xa5; frame_bytes(plain.payload.len(), plain.extension.is_some()) + 16];
    let written = head.encode(&plain.payload, &mut out);
    assert_eq!(out[written..], [0xa5; 16], "nothing is written behind the frame");
    out.truncate(written);
    out
}

fn data_head() -> FrameHead {
    FrameHead {
        kind: Kind::Data,
        priority: Priority::Normal,
        codec: Codec::Opaque,
        type_id: 0,
        sequence: 1,
        sent_at_ns: 5,
        flags: Flags::default(),
        extension: None,
        checksum: Checksum::Never,
    }
}

fn sample() -> Vec<u8> {
    let mut out = vec![0; frame_bytes(20, false)];
    data_head().encode(&[7; 20], &mut out);
    out
}

fn decode_one(bytes: &[u8]) -> Result<Option<Frame<'_>>, ProtocolError> {
    let mut input = bytes;
    Decoder::new(FRAME_BYTES_MAX).next(&mut input)
}

#[test]
fn oracle_knows_crc32c() {
    // RFC 3720, appendix B.4.
    assert_eq!(oracle::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(oracle::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(oracle::crc32c(&[0xff; 32]), 0x62a8_ab43);
}

#[test]
fn encoder_agrees_with_the_oracle() {
    seeded(5_000, |rng| {
        let plain = random_plain(rng, 200);
        assert_eq!(encode(&plain), oracle::encode(&plain), "{plain:?}");
    });
}

#[test]
fn decoder_agrees_with_the_oracle() {
    seeded(5_000, |rng| {
        let bytes = oracle::encode(&random_plain(rng, 200));
        assert_eq!(check_next(&Decoder::new(FRAME_BYTES_MAX), &bytes), Some(bytes.len()));
    });
}

#[test]
fn checksum_of_parts_agrees_with_the_oracle() {
    seeded(500, |rng| {
        let bytes = oracle::encode(&random_plain(rng, 100));
        let frame = decode_one(&bytes).expect("sound").expect("whole");
        let header = <Header as zerocopy::FromBytes>::read_from_prefix(&bytes).expect("long").0;
        let unpadded = if frame.extension().is_some() { 64 } else { 32 } + frame.payload().len();
        assert_eq!(
            encode::checksum(&header, frame.extension(), frame.payload()),
            oracle::frame_checksum(&bytes[..unpadded])
        );
    });
}

/// Short frames are checked another way than long ones: around the border both agree.
#[test]
fn checksum_in_place_agrees_with_the_oracle_at_every_length() {
    let bytes: Vec<u8> = (0..600_usize).map(|at| (at * 37 % 251).to_le_bytes()[0]).collect();
    for length in HEADER_BYTES..bytes.len() {
        let frame = &bytes[..length];
        assert_eq!(encode::checksum_in_place(frame), oracle::frame_checksum(frame), "{length}");
    }
}

/// Frames are cut alike whatever came before them: sound ones, and ones with a damaged header.
#[test]
fn likeness_to_the_frame_before_changes_no_outcome() {
    let (mut sound, mut refused) = (0, 0);
    seeded(300, |rng| {
        let decoder = Decoder::new(FRAME_BYTES_MAX);
        let mut likeness = Likeness::default();
        for _ in 0..20 {
            let mut bytes = match rng.u8(..4) {
                0 => vec![0; HEADER_BYTES],
                1 => sample(),
                _ => oracle::encode(&random_plain(rng, 40)),
            };
            if rng.bool() {
                let bit = rng.usize(..HEADER_BYTES * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let outcome = |frame: Option<Frame<'_>>| frame.map(|frame| frame.as_bytes().to_vec());
            let (mut alone, mut among) = (&bytes[..], &bytes[..]);
            let expected = decoder.next(&mut alone).map(outcome);
            let got = decoder.next_like(&mut among, &mut likeness).map(outcome);
            assert_eq!(got, expected, "{bytes:?} after {likeness:?}");
            assert_eq!(among, alone, "{bytes:?}");
            *(if got.is_ok() { &mut sound } else { &mut refused }) += 1;
        }
    });
    assert!(sound > 100 && refused > 100, "{sound} sound, {refused} refused");
}

/// A stream cut off at any byte yields the frames that are whole, and waits for the rest.
#[test]
fn stream_split_anywhere_gives_the_same_frames() {
    seeded(40, |rng| {
        let mut stream = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..rng.usize(1..6) {
            stream.extend(oracle::encode(&random_plain(rng, 64)));
            ends.push(stream.len());
        }
        let decoder = Decoder::new(FRAME_BYTES_MAX);
        for cut in 0..=stream.len() {
            let mut taken = 0;
            let mut frames = 0;
            while let Some(bytes) = check_next(&decoder, &stream[taken..cut]) {
                taken += bytes;
                frames += 1;
            }
            assert_eq!(frames, ends.iter().filter(|&&end| end <= cut).count(), "cut at {cut}");
            let promised = decoder.promise(&stream[taken..cut]).expect("sound");
            let expected = (cut - taken >= HEADER_BYTES).then(|| ends[frames] - taken);
            assert_eq!(promised.map(|promise| promise.frame_bytes), expected, "cut at {cut}");
        }
    });
}

/// Every value of every header and extension byte: the oracle's frame or the oracle's error.
#[test]
fn every_value_of_every_head_byte_is_judged_like_the_oracle() {
    seeded(6, |rng| {
        let bytes = oracle::encode(&random_plain(rng, 40));
        for index in 0..bytes.len().min(HEADER_BYTES + EXTENSION_BYTES) {
            let mut damaged = bytes.clone();
            for value in (0..=255).step_by(crate::miri_stride(85)) {
                damaged[index] = value;
                check_next(&Decoder::new(FRAME_BYTES_MAX), &damaged);
            }
        }
    });
}

#[test]
fn damaged_streams_are_judged_like_the_oracle() {
    seeded(20_000, |rng| {
        let mut input = vec![rng.u8(..)];
        for _ in 0..rng.usize(1..4) {
            input.extend(oracle::encode(&random_plain(rng, 64)));
        }
        for _ in 0..rng.usize(..4) {
            let index = rng.usize(1..input.len());
            input[index] = rng.u8(..);
        }
        if rng.u8(..4) == 0 {
            input.truncate(rng.usize(1..input.len()));
        }
        crate::fuzzing::wire_decode(&input);
    });
}

/// With a checksum no single damaged bit goes unnoticed.
#[test]
fn checksum_catches_every_single_bit() {
    let mut plain = random_plain(&mut fastrand::Rng::with_seed(1), 40);
    plain.flags |= 16;
    let bytes = oracle::encode(&plain);
    for bit in (0..bytes.len() * 8).step_by(crate::miri_stride(13)) {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // A longer length makes the decoder wait: for bytes that then fail the checksum.
        damaged.resize(FRAME_BYTES_MAX, 0);
        assert!(decode_one(&damaged).is_err(), "bit {bit} of {plain:?}");
    }
}

#[test]
fn hostile_length_fails_before_the_bytes_are_there() {
    let mut bytes = sample();
    bytes.truncate(HEADER_BYTES);
    for (payload_bytes, frame_bytes) in [
        (LIMIT - 31, LIMIT + 16),
        (0x7fff_ffff, 0x8000_0020),
        (u32::MAX - 47, u32::MAX - 15),
        (u32::MAX - 15, u32::MAX),
        (u32::MAX, u32::MAX),
    ] {
        bytes[8..12].copy_from_slice(&payload_bytes.to_le_bytes());
        let expected = ProtocolError::FrameTooLong { bytes: frame_bytes, bytes_max: LIMIT };
        assert_eq!(decode_one(&bytes).err(), Some(expected));
        assert_eq!(Decoder::new(FRAME_BYTES_MAX).promise(&bytes), Err(expected));
        check_next(&Decoder::new(FRAME_BYTES_MAX), &bytes);
        check_next(&Decoder::new(usize::MAX), &bytes);
    }
}

#[test]
fn frame_of_exactly_the_limit_passes_and_one_more_byte_does_not() {
    let plain = PlainFrame { payload: vec![1; 96], ..fixed_plain() };
    let bytes = oracle::encode(&plain);
    assert_eq!(bytes.len(), 128);
    assert!(matches!(Decoder::new(128).next(&mut &bytes[..]), Ok(Some(_))));
    let longer = oracle::encode(&PlainFrame { payload: vec![1; 97], ..plain });
    let expected = ProtocolError::FrameTooLong { bytes: 144, bytes_max: 128 };
    assert_eq!(Decoder::new(128).next(&mut &longer[..]).err(), Some(expected));
}

fn fixed_plain() -> PlainFrame {
    PlainFrame {
        kind: 2,
        flags: 0,
        priority: 2,
        codec: 0,
        sequence: 1,
        type_id: 0,
        sent_at: 0,
        extension: None,
        payload: Vec::new(),
    }
}

/// `patch` breaks one thing in a sound frame; the decoder must name it.
#[track_caller]
fn refuse(patch: impl FnOnce(&mut Vec<u8>), expected: ProtocolError) {
    let mut bytes = sample();
    patch(&mut bytes);
    assert_eq!(decode_one(&bytes).err(), Some(expected));
    check_next(&Decoder::new(FRAME_BYTES_MAX), &bytes);
}

/// The flags of requests and answers mean nothing without their correlation; this one does.
#[test]
fn reliable_frames_need_no_extension() {
    let head = FrameHead { flags: Flags::RELIABLE, ..data_head() };
    let mut out = [0xa5; 48];
    let written = head.encode(b"kept", &mut out);
    let mut input = &out[..written];
    let frame = Decoder::new(64).next(&mut input).expect("well formed").expect("whole");
    assert!(frame.is_reliable() && frame.extension().is_none());
    assert_eq!((frame.frame_bytes(), frame.payload()), (48, &b"kept"[..]));
}

#[test]
fn every_violation_is_named() {
    use ProtocolError as E;
    refuse(|bytes| bytes[0] = b'G', E::BadMagic { got: 0x5747 });
    refuse(|bytes| bytes[1] = b'X', E::BadMagic { got: 0x5852 });
    refuse(|bytes| bytes[2] = 2, E::BadVersion { got: 2 });
    // The first numbers that mean nothing yet, on both sides of those that do.
    for got in [0, 10, 0x7f, 0x84] {
        refuse(|bytes| bytes[3] = got, E::BadKind { got });
    }
    for got in [0x40, 0x80, 0x41, 0x81] {
        refuse(|bytes| bytes[4] = got, E::BadFlags { got });
    }
    // These mean something in the extension only, which is not there.
    for flags in [Flags::REQUEST, Flags::RESPONSE, Flags::TIMEOUT] {
        refuse(|bytes| bytes[4] = flags.0, E::BadFlags { got: flags.0 });
    }
    refuse(|bytes| bytes[5] = 0, E::BadPriority { got: 0 });
    refuse(|bytes| bytes[5] = 5, E::BadPriority { got: 5 });
    refuse(|bytes| bytes[6] = 3, E::BadCodec { got: 3 });
    refuse(|bytes| bytes[7] = 1, E::ReservedNotZero);
    refuse(|bytes| bytes[12] = 1, E::ReservedNotZero);
    refuse(|bytes| bytes[3] = 0x80, E::ChecksumMissing);
    refuse(|bytes| bytes[52] = 1, E::PaddingNotZero);
    refuse(|bytes| bytes[63] = 1, E::PaddingNotZero);
    refuse(|bytes| bytes[10] = 0xff, E::FrameTooLong { bytes: 0xff_0040, bytes_max: LIMIT });
    refuse(
        |bytes| {
            bytes[4] = Flags::EXTENDED.0;
            bytes[8] = 0;
            bytes[60] = 1;
        },
        E::ReservedNotZero,
    );
    let mut checked = sample();
    checked[4] = Flags::CHECKSUM.0;
    let computed = oracle::frame_checksum(&checked[..52]);
    refuse(|bytes| *bytes = checked, E::BadChecksum { carried: 0, computed });
    let mut payload = vec![0; GREETING_BYTES];
    payload[94] = 1;
    assert_eq!(read_greeting(&payload).err(), Some(E::BadHandshake));
}

/// Garbage is refused at its first wrong byte, not after a whole header of it.
#[test]
fn garbage_is_refused_at_once() {
    assert!(matches!(decode_one(b""), Ok(None)));
    assert!(matches!(decode_one(b"R"), Ok(None)));
    assert!(matches!(decode_one(b"RW\x01"), Ok(None)));
    assert!(matches!(decode_one(b"G"), Err(ProtocolError::BadMagic { got: 0x47 })));
    assert!(matches!(decode_one(b"RX"), Err(ProtocolError::BadMagic { .. })));
    assert!(matches!(decode_one(b"RW\x02"), Err(ProtocolError::BadVersion { got: 2 })));
}

#[test]
fn padding_is_cleared_whatever_stood_there() {
    for payload_bytes in 0..=64 {
        for extension in [None, Some(Extension::default())] {
            let head = FrameHead { extension, ..data_head() };
            let mut out = vec![0xff; frame_bytes(payload_bytes, extension.is_some())];
            let written = head.finish(&mut out, payload_bytes);
            assert_eq!(written, out.len());
            let unpadded = head.head_bytes() + payload_bytes;
            assert!(out[head.head_bytes()..unpadded].iter().all(|&byte| byte == 0xff));
            assert!(out[unpadded..].iter().all(|&byte| byte == 0), "{payload_bytes}");
        }
    }
}

#[test]
fn bare_head_writes_what_a_whole_head_does() {
    seeded(2_000, |rng| {
        let plain = PlainFrame { flags: 0, extension: None, ..random_plain(rng, 200) };
        if plain.kind >= 0x80 {
            // Handshakes have a checksum.
            return;
        }
        let whole = encode(&plain);
        let codec = Codec::from_byte(plain.codec).expect("a known codec");
        let head = BareHead::new(plain.kind, plain.priority, codec, plain.type_id, plain.sent_at);
        let mut scratch = Scratch::new();
        let mut out = vec![0xa5; whole.len() + rng.usize(..3) * 16];
        let body = &plain.payload[..];
        let written = head.encode(plain.sequence, body, &mut out, &mut scratch);
        assert_eq!(written, Some((whole.len(), body.len())));
        assert_eq!(out[..whole.len()], whole, "{plain:?}");
        assert!(out[whole.len()..].iter().all(|&byte| byte == 0xa5), "nothing behind the frame");
        let less = rng.usize(..whole.len());
        let refused = head.encode(plain.sequence, body, &mut out[..less], &mut scratch);
        assert_eq!(refused, None, "{less} bytes for {}", whole.len());
    });
}

#[test]
fn checksum_policy_decides_the_flag() {
    let check = |checksum, kind, extension, expected: bool| {
        let head = FrameHead { checksum, kind, extension, ..data_head() };
        let mut out = vec![0; 128];
        let written = head.encode(b"x", &mut out);
        let frame = decode_one(&out[..written]).expect("sound").expect("whole");
        assert_eq!(frame.flags().contains(Flags::CHECKSUM), expected, "{head:?}");
    };
    let extension = Some(Extension::default());
    check(Checksum::Never, Kind::Data, None, false);
    check(Checksum::Never, Kind::Command, extension, false);
    check(Checksum::Never, Kind::Hello, None, true);
    check(Checksum::Commands, Kind::Data, None, false);
    check(Checksum::Commands, Kind::Command, extension, true);
    check(Checksum::Commands, Kind::Goodbye, None, true);
    check(Checksum::Always, Kind::Data, None, true);
}

#[test]
#[should_panic(expected = "these flags need the extension")]
fn request_without_extension_is_our_mistake() {
    FrameHead { flags: Flags::REQUEST, ..data_head() }.encode(b"", &mut [0; 64]);
}

// ---- typed payloads -----------------------------------------------------------------------------

#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
struct Setpoint {
    axis: u32,
    position: f64,
    name: String,
    enabled: bool,
}

#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
struct Stop;

#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
struct FileName {
    #[rkyv(with = rkyv::with::AsString)]
    path: PathBuf,
}

crate::payload! {
    Setpoint = 0x0101,
    Stop = 2,
    FileName = 3,
}

fn setpoint() -> Setpoint {
    Setpoint { axis: 3, position: 1.5, name: "a name that is not inline".into(), enabled: true }
}

/// The value inside a whole frame, in memory as aligned as a receive window.
fn typed_frame(body: &impl Body) -> rkyv::util::AlignedVec<16> {
    let mut out = rkyv::util::AlignedVec::new();
    out.resize(1 << 16, 0);
    let bytes = body.encode(&mut out[HEADER_BYTES..], &mut Scratch::new()).expect("it fits");
    let head = FrameHead { codec: body.codec(), type_id: body.type_id(), ..data_head() };
    let total = head.finish(&mut out, bytes);
    out.resize(total, 0);
    out
}

#[test]
fn typed_payload_is_read_in_place() {
    let bytes = typed_frame(&setpoint());
    let frame = decode_one(&bytes).expect("sound").expect("whole");
    let archived = frame.access::<Setpoint>().expect("valid");
    assert_eq!(archived.axis, 3);
    assert_eq!(archived.position, 1.5);
    assert_eq!(archived.name, "a name that is not inline");
    assert!(archived.enabled);
    let address = std::ptr::from_ref(archived).addr();
    let payload = frame.payload().as_ptr().addr();
    assert!((payload..payload + frame.payload().len()).contains(&address), "not a copy");
}

#[test]
fn payload_macro_ties_type_and_number() {
    assert_eq!(<Setpoint as Payload>::TYPE_ID, 0x0101);
    assert_eq!(setpoint().type_id(), 0x0101);
    assert_eq!(setpoint().codec(), Codec::Rkyv);
    assert_eq!(<&Setpoint as Body>::type_id(&&setpoint()), 0x0101);
    let bytes = typed_frame(&Stop);
    let frame = decode_one(&bytes).expect("sound").expect("whole");
    assert!(frame.payload().is_empty());
    frame.access::<Stop>().expect("a type without fields takes no bytes");
}

#[test]
fn wrong_type_and_wrong_codec_are_told_apart() {
    let bytes = typed_frame(&setpoint());
    let frame = decode_one(&bytes).expect("sound").expect("whole");
    let expected = AccessError::TypeMismatch { expected: 2, got: 0x0101 };
    assert_eq!(frame.access::<Stop>().err(), Some(expected));
    for (codec, byte) in [(Codec::Opaque, 0), (Codec::Json, 2)] {
        let mut other = bytes.clone();
        other[6] = byte;
        let frame = decode_one(&other).expect("sound").expect("whole");
        assert_eq!(frame.access::<Setpoint>().err(), Some(AccessError::NotRkyv { codec }));
    }
}

#[test]
fn misaligned_payload_is_an_error() {
    let bytes = typed_frame(&setpoint());
    let mut shifted = rkyv::util::AlignedVec::<16>::new();
    shifted.resize(bytes.len() + 1, 0);
    shifted[1..].copy_from_slice(&bytes);
    let frame = decode_one(&shifted[1..]).expect("sound").expect("whole");
    let expected = AccessError::Misaligned { align: 8 };
    assert_eq!(frame.access::<Setpoint>().err(), Some(expected));
}

/// No damage makes access panic or read outside; what bytecheck lets through is a valid value.
#[test]
fn damaged_archive_never_panics() {
    let bytes = typed_frame(&setpoint());
    let mut refused = 0;
    for index in HEADER_BYTES..bytes.len() {
        for value in (0..=255).step_by(crate::miri_stride(51)) {
            let mut damaged = bytes.clone();
            damaged[index] = value;
            let Ok(Some(frame)) = decode_one(&damaged) else { continue };
            match frame.access::<Setpoint>() {
                Ok(archived) => assert!(archived.name.len() <= frame.payload().len()),
                Err(error) => {
                    assert_eq!(error, AccessError::Invalid { type_id: 0x0101 });
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 1_000 / crate::miri_stride(51), "bytecheck refused only {refused}");
    seeded(5_000, |rng| {
        let mut damaged = bytes.clone();
        for _ in 0..rng.usize(1..8) {
            damaged[rng.usize(HEADER_BYTES..bytes.len())] = rng.u8(..);
        }
        if let Ok(Some(frame)) = decode_one(&damaged) {
            let _ = frame.access::<Setpoint>();
        }
    });
}

#[test]
fn truncated_archive_is_invalid() {
    let bytes = typed_frame(&setpoint());
    let payload = decode_one(&bytes).expect("sound").expect("whole").payload();
    for kept in 0..payload.len() {
        // What is left may happen to be an archive of other values, but only if it is long enough.
        let result = payload::access::<Setpoint>(Codec::Rkyv, 0x0101, &payload[..kept]);
        let root_bytes = size_of::<rkyv::Archived<Setpoint>>();
        assert!(result.is_err() || kept >= root_bytes, "{kept} of {} bytes", payload.len());
    }
}

/// As small as a recursive type gets.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
#[rkyv(serialize_bounds(
    __S: rkyv::ser::Writer + rkyv::ser::Allocator,
    __S::Error: rkyv::rancor::Source,
))]
#[rkyv(bytecheck(bounds(
    __C: rkyv::validation::ArchiveContext,
    __C::Error: rkyv::rancor::Source,
)))]
struct Nest {
    #[rkyv(omit_bounds)]
    inner: Vec<Self>,
}

crate::payload!(Nest = 4);

/// A chain that a serialiser, which recurses too, could not write: the last nest of a real chain
/// again and again, since each one's pointer to the one before it is the same.
fn nests(depth: usize) -> rkyv::util::AlignedVec<16> {
    let two = Nest { inner: vec![Nest { inner: Vec::new() }] };
    let mut real = [0; 16];
    assert_eq!(two.encode(&mut real, &mut Scratch::new()), Ok(16), "two pointers with a length");
    let mut chain = rkyv::util::AlignedVec::new();
    chain.extend_from_slice(&real[..8]);
    for _ in 0..depth {
        chain.extend_from_slice(&real[8..]);
    }
    chain
}

/// A peer that nests a recursive type as deep as a frame allows must not overflow the stack: that
/// would end the process, not the connection.
#[test]
fn deeply_nested_archive_is_invalid_and_does_not_overflow_the_stack() {
    let access = |depth| payload::access::<Nest>(Codec::Rkyv, 4, &nests(depth)).map(|_| ());
    // The innermost nest points at its empty list, too.
    assert_eq!(access(ACCESS_DEPTH_MAX - 1), Ok(()));
    assert_eq!(access(ACCESS_DEPTH_MAX), Err(AccessError::Invalid { type_id: 4 }));
    let deep = if cfg!(miri) { 1_000 } else { 100_000 };
    assert_eq!(access(deep), Err(AccessError::Invalid { type_id: 4 }));

    let bytes = typed_frame(&Tree::chain(ACCESS_DEPTH_MAX));
    let frame = decode_one(&bytes).expect("sound").expect("whole");
    frame.access::<Tree>().expect("within the limit");
}

#[test]
fn overflow_reports_the_exact_length_and_the_retry_succeeds() {
    let check = |body: &dyn Body| {
        let mut scratch = Scratch::new();
        let mut whole = vec![0; 4096];
        let needed = body.encode(&mut whole, &mut scratch).expect("it fits");
        for room in 0..needed {
            let mut short = vec![0; room];
            let expected = Err(BodyError::Overflow { bytes: needed });
            assert_eq!(body.encode(&mut short, &mut scratch), expected, "{room} of {needed}");
        }
        let mut exact = vec![0; needed];
        assert_eq!(body.encode(&mut exact, &mut scratch), Ok(needed));
        assert_eq!(exact, whole[..needed]);
    };
    check(&setpoint());
    check(&Tree::chain(5));
    check(&Stop);
    check(&"some text");
    check(&String::from("some text"));
    check(&vec![1_u8, 2, 3]);
    check(&[1_u8, 2, 3]);
    check(&bytes::Bytes::from_static(b"abc"));
}

#[test]
fn refusing_type_is_unserializable() {
    use std::os::unix::ffi::OsStringExt;
    let path = std::ffi::OsString::from_vec(vec![0xff]).into();
    let result = FileName { path }.encode(&mut [0; 64], &mut Scratch::new());
    assert_eq!(result, Err(BodyError::Unserializable));
}

/// Whoever implements a body passes it on with `?`, or shows it.
#[test]
fn body_error_is_an_error_like_any_other() {
    fn shown(error: BodyError) -> String {
        let error: Box<dyn std::error::Error + Send + Sync> = error.into();
        error.to_string()
    }
    assert_eq!(shown(BodyError::Overflow { bytes: 48 }), "the body needs 48 bytes");
    assert_eq!(shown(BodyError::Unserializable), "the type's own Serialize refused");
}

// ---- handshake ----------------------------------------------------------------------------------

fn greeting() -> Greeting {
    Greeting {
        protocol_min: 1,
        protocol_max: 3,
        name_bytes: 0.into(),
        features: 0x8000_0001.into(),
        session_id: *b"0123456789abcdef",
        schema_hash: 77.into(),
        frame_bytes_max: 65_536.into(),
        heartbeat_interval_us: 500.into(),
        last_received: [1.into(), 2.into(), 3.into(), u64::MAX.into()],
        monotonic_ns: 11.into(),
        wall_ns: 22.into(),
        node: 33.into(),
        authentication_bytes: 0.into(),
        reserved: 0.into(),
        messages_received: [0.into(), 1.into(), 2.into(), 3.into()],
        peer_session_id: [4; 16],
    }
}

#[test]
fn greeting_round_trips() {
    for kind in [Kind::Hello, Kind::Welcome] {
        for name in ["", "drive-7", "näme", &"x".repeat(NAME_BYTES_MAX)] {
            let mut out = [0xff; HANDSHAKE_BYTES_MAX];
            let written = write_greeting(kind, greeting(), name, &mut out);
            let frame = decode_one(&out[..written]).expect("sound").expect("whole");
            assert_eq!(frame.kind(), kind);
            assert_eq!(frame.priority(), Priority::Critical);
            assert_eq!(frame.sequence(), 0);
            assert_eq!(frame.sent_at_ns(), 11);
            assert!(frame.flags().contains(Flags::CHECKSUM));
            let (read, read_name) = read_greeting(frame.payload()).expect("well formed");
            assert_eq!(read_name, name);
            assert_eq!(read.session_id, *b"0123456789abcdef");
            assert_eq!(read.last_received[3].get(), u64::MAX);
            assert_eq!(read.node.get(), 33);
            crate::fuzzing::wire_handshake(frame.payload());
        }
    }
}

#[test]
fn farewell_round_trips() {
    for (kind, reason) in
        [(Kind::Reject, RejectReason::Full.code()), (Kind::Goodbye, GoodbyeReason::Shutdown.code())]
    {
        let mut out = [0xff; 48];
        let written = write_farewell(kind, reason, 1024, 9, &mut out);
        let frame = decode_one(&out[..written]).expect("sound").expect("whole");
        assert_eq!(read_farewell(frame.payload()), Ok((reason, 1024)));
    }
    for code in (0..=u16::MAX).step_by(crate::miri_stride(3_855)) {
        assert_eq!(RejectReason::from_code(code).code(), code);
        assert_eq!(GoodbyeReason::from_code(code).code(), code);
    }
}

#[test]
fn malformed_greeting_is_refused() {
    let mut out = [0; HANDSHAKE_BYTES_MAX];
    let written = write_greeting(Kind::Hello, greeting(), "name", &mut out);
    let sound = decode_one(&out[..written]).expect("sound").expect("whole").payload().to_vec();
    let check = |what: &str, patch: &dyn Fn(&mut Vec<u8>)| {
        let mut payload = sound.clone();
        patch(&mut payload);
        assert_eq!(read_greeting(&payload).err(), Some(ProtocolError::BadHandshake), "{what}");
        crate::fuzzing::wire_handshake(&payload);
    };
    check("empty", &|payload| payload.clear());
    check("one byte short", &|payload| payload.truncate(sound.len() - 1));
    check("one byte more", &|payload| payload.push(0));
    check("fixed part cut", &|payload| payload.truncate(GREETING_BYTES - 1));
    check("range upside down", &|payload| payload[0] = 4);
    check("name too long for the payload", &|payload| payload[2] = 5);
    check("name beyond its bound", &|payload| {
        payload[2] = 65;
        payload.resize(GREETING_BYTES + 65, b'x');
    });
    check("name not UTF-8", &|payload| payload[GREETING_BYTES] = 0xff);
    check("frame limit below a handshake", &|payload| payload[34] = 0);
    check("lengths overlap", &|payload| payload[92] = 1);
    check("reserved", &|payload| payload[95] = 1);
    for cut in 0..sound.len() {
        assert!(read_greeting(&sound[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn malformed_farewell_is_refused() {
    let sound = [1, 0, 0, 0, 5, 0, 0, 0];
    assert_eq!(read_farewell(&sound), Ok((1, 5)));
    assert_eq!(read_farewell(&sound[..7]), Err(ProtocolError::BadHandshake));
    assert_eq!(read_farewell(&[0; 9]), Err(ProtocolError::BadHandshake));
    assert_eq!(read_farewell(&[1, 0, 1, 0, 5, 0, 0, 0]), Err(ProtocolError::BadHandshake));
}

#[test]
fn authentication_is_carried_for_the_session_to_refuse() {
    let mut payload = vec![0; GREETING_BYTES];
    payload[33] = 4;
    payload[92] = 3;
    payload.extend_from_slice(b"key");
    let (greeting, name) = read_greeting(&payload).expect("well formed");
    assert_eq!(greeting.authentication_bytes.get(), 3);
    assert_eq!(name, "");
}

#[test]
fn versions_overlap_or_not() {
    assert!(version_in_common(1, 1));
    assert!(version_in_common(0, 9));
    assert!(!version_in_common(2, 9));
    assert!(!version_in_common(0, 0));
}

#[test]
fn random_handshakes_are_judged_like_the_oracle() {
    let mut accepted = 0;
    seeded(20_000, |rng| {
        let mut payload = vec![0; rng.usize(GREETING_BYTES - 8..GREETING_BYTES + 24)];
        if rng.bool() {
            rng.fill(&mut payload);
        }
        if let [min, max, name, name_high, ..] = &mut payload[..] {
            (*min, *max, *name, *name_high) = (rng.u8(..3), rng.u8(..3), rng.u8(..16), 0);
        }
        // Mostly a sound one: the name is as long as it says, and a limit makes sense.
        if payload.len() >= GREETING_BYTES && rng.u8(..4) > 0 {
            payload[2] = u8::try_from(payload.len() - GREETING_BYTES).expect("short");
            payload[92..96].fill(0);
            payload[34] = 1;
        }
        accepted += u32::from(read_greeting(&payload).is_ok());
        crate::fuzzing::wire_handshake(&payload);
        crate::fuzzing::wire_handshake(&payload[..8]);
    });
    assert!(cfg!(miri) || accepted > 500, "{accepted} greetings were sound");
}

/// The corpora of the fuzz targets are well formed and each target takes them.
#[test]
fn fuzz_targets_take_their_corpora() {
    for target in crate::fuzzing::TARGETS {
        // A parser of text, all of it safe code, that takes Miri minutes.
        if cfg!(miri) && target.name == "config_toml" {
            continue;
        }
        for input in (target.corpus)() {
            (target.run)(&input);
            for cut in (0..input.len().min(300)).step_by(crate::miri_stride(37)) {
                (target.run)(&input[..cut]);
            }
        }
    }
}

//! Cost of a frame in the CPU: encoding, decoding, and reading a typed payload in place.
//!
//! Answers: what does one frame cost on top of its bytes, with and without checksum, and does
//! decoding grow with the payload? (It must not without a checksum: payloads are borrowed.)
//! Everything is in cache and the branch predictor knows the stream: not a latency figure.
//!
//! `decode/…` walks 1,000 frames lying one behind the other, as in a receive window; its time
//! divided by 1,000 is the cost of a frame. The other benches do one frame per iteration.

#![expect(missing_docs, reason = "criterion_group! writes an undocumented function")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwire::wire::{
    Checksum, Codec, Decoder, Extension, Flags, FrameHead, HEADER_BYTES, Kind, Priority,
    frame_bytes,
};
use ringwire::{Body, Scratch};

const FRAMES: usize = 1_000;
const FRAME_BYTES_MAX: usize = 1 << 20;
const PAYLOADS: [usize; 3] = [0, 64, 1024];
const CHECKSUMS: [(&str, Checksum); 2] = [("plain", Checksum::Never), ("crc", Checksum::Always)];

/// A command as a control node sends it: 56 bytes on the wire.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct Setpoint {
    axis: u32,
    mode: u8,
    position: [f64; 3],
    velocity: [f64; 3],
}

/// Telemetry with parts outside the root: a name and a list of samples.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct Samples {
    channel: String,
    values: Vec<f32>,
}

ringwire::payload! {
    Setpoint = 1,
    Samples = 2,
}

fn head(checksum: Checksum) -> FrameHead {
    FrameHead {
        kind: Kind::Data,
        priority: Priority::Normal,
        codec: Codec::Opaque,
        type_id: 7,
        sequence: 1,
        sent_at_ns: 123_456_789,
        flags: Flags::default(),
        extension: None,
        checksum,
    }
}

fn request(checksum: Checksum) -> FrameHead {
    let extension = Extension { correlation: 42.into(), ..Extension::default() };
    FrameHead { flags: Flags::REQUEST, extension: Some(extension), ..head(checksum) }
}

/// Memory that starts 16-aligned, as a receive window does.
fn aligned(bytes: usize) -> rkyv::util::AlignedVec<16> {
    let mut memory = rkyv::util::AlignedVec::with_capacity(bytes);
    memory.resize(bytes, 0);
    memory
}

fn stream_of(head: FrameHead, payload_bytes: usize) -> rkyv::util::AlignedVec<16> {
    let one = frame_bytes(payload_bytes, head.extension.is_some());
    let mut stream = aligned(one * FRAMES);
    let payload = vec![0x5a; payload_bytes];
    for (sequence, out) in (1..).zip(stream.chunks_exact_mut(one)) {
        FrameHead { sequence, ..head }.encode(&payload, out);
    }
    stream
}

/// Cuts the whole stream and looks at each frame the way a session does.
fn walk(stream: &[u8]) -> (usize, u32) {
    let decoder = Decoder::new(FRAME_BYTES_MAX);
    let mut rest = stream;
    let mut frames = 0;
    let mut folded = 0;
    while let Some(frame) = decoder.next(&mut rest).expect("the stream is sound") {
        frames += 1;
        folded ^= frame.sequence() ^ frame.type_id() ^ frame.kind() as u32;
    }
    assert!(rest.is_empty(), "the stream ends at a frame boundary");
    (frames, folded)
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/encode");
    group.throughput(Throughput::Elements(1));
    for (name, checksum) in CHECKSUMS {
        for payload_bytes in PAYLOADS {
            let payload = vec![0x5a; payload_bytes];
            let mut out = aligned(frame_bytes(payload_bytes, false));
            let written = head(checksum).encode(&payload, &mut out);
            let mut input = &out[..];
            let frame = Decoder::new(FRAME_BYTES_MAX).next(&mut input).expect("sound");
            assert_eq!(frame.expect("whole").payload(), payload);
            assert_eq!(written, out.len());

            let head = head(checksum);
            group.bench_function(BenchmarkId::new(name, payload_bytes), |b| {
                b.iter(|| black_box(&head).encode(black_box(&payload), black_box(&mut out)))
            });
        }
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/decode");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for (name, checksum) in CHECKSUMS {
        for payload_bytes in PAYLOADS {
            let stream = stream_of(head(checksum), payload_bytes);
            assert_eq!(walk(&stream).0, FRAMES);

            group.bench_function(BenchmarkId::new(name, payload_bytes), |b| {
                b.iter(|| walk(black_box(&stream)))
            });
        }
    }
    // The extension: what a command or a request costs on top.
    let stream = stream_of(request(Checksum::Never), 64);
    assert_eq!(walk(&stream).0, FRAMES);
    group.bench_function(BenchmarkId::new("extended", 64), |b| b.iter(|| walk(black_box(&stream))));
    group.finish();
}

fn typed<T: Body + ringwire::Payload>(
    c: &mut Criterion,
    name: &str,
    value: &T,
    check: impl Fn(&T::Archived) -> bool,
) {
    let mut scratch = Scratch::new();
    let mut out = aligned(4096);
    let payload_bytes = value.encode(&mut out[HEADER_BYTES..], &mut scratch).expect("it fits");
    let head =
        FrameHead { codec: value.codec(), type_id: value.type_id(), ..head(Checksum::Never) };
    let total = head.finish(&mut out, payload_bytes);
    let received = {
        let mut received = aligned(total);
        received.copy_from_slice(&out[..total]);
        received
    };
    let mut input = &received[..];
    let frame = Decoder::new(FRAME_BYTES_MAX).next(&mut input).expect("sound").expect("whole");
    assert!(check(frame.access::<T>().expect("a valid archive")));

    let mut group = c.benchmark_group("wire/typed");
    group.throughput(Throughput::Elements(1));
    // Serialise in place, head around it: all that sending costs before the kernel.
    group.bench_function(BenchmarkId::new("serialize", name), |b| {
        b.iter(|| {
            let out = black_box(&mut out[..]);
            let payload_bytes =
                black_box(value).encode(&mut out[HEADER_BYTES..], &mut scratch).expect("it fits");
            black_box(&head).finish(out, payload_bytes)
        })
    });
    group.bench_function(BenchmarkId::new("access", name), |b| {
        b.iter(|| check(black_box(&frame).access::<T>().expect("a valid archive")))
    });
    group.finish();
}

fn typed_payloads(c: &mut Criterion) {
    let setpoint = Setpoint { axis: 3, mode: 1, position: [1.0, 2.0, 3.0], velocity: [0.5; 3] };
    typed(c, "setpoint", &setpoint, |archived| {
        archived.axis == 3 && archived.mode == 1 && archived.position[2] > archived.velocity[0]
    });
    let samples = Samples { channel: "current".into(), values: vec![0.25; 64] };
    typed(c, "samples", &samples, |archived| {
        archived.channel == "current" && archived.values.len() == 64
    });
}

criterion_group!(benches, encode, decode, typed_payloads);
criterion_main!(benches);

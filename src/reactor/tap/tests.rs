//! Frames that pass, are lost and are counted: one thread, two, several reactors.

use super::*;
use crate::wire::{Checksum, Codec, Flags, FrameHead, Priority};

const PATIENCE: Duration = Duration::from_secs(10);

fn low_byte(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

fn bytes_of(kind: Kind, number: u32, payload: &[u8]) -> Vec<u8> {
    let head = FrameHead {
        kind,
        priority: Priority::Normal,
        codec: Codec::Opaque,
        type_id: number,
        sequence: number,
        sent_at_ns: 0,
        flags: Flags::default(),
        extension: None,
        checksum: Checksum::Never,
    };
    let mut bytes = vec![0; 64 + payload.len()];
    let length = head.encode(payload, &mut bytes);
    bytes.truncate(length);
    bytes
}

fn whole(bytes: &[u8]) -> Frame<'_> {
    Decoder::new(bytes.len()).next(&mut &bytes[..]).expect("valid").expect("whole")
}

fn counters() -> CounterBlock {
    let config = crate::config::Config::builder().registry(false).build().expect("valid");
    crate::stats::Registry::new(&config, 1, 1).expect("memory").blocks()[0].counters.clone()
}

fn writer(tap: &Tap, reactor: u16) -> Box<TapWriter> {
    tap.writer(ReactorId::new(0, reactor), &counters()).expect("memory").expect("somebody reads")
}

/// Reactors that nobody has met yet are bounded; one too many is told, and taps nothing.
#[test]
fn crowd_of_new_reactors_is_refused() {
    let (tap, mut receiver) = Tap::new(TapFilter::received().memory_bytes(0));
    let counters = counters();
    let new = || tap.writer(ReactorId::new(0, 0), &counters);
    let writers: Vec<_> = (0..RINGS_MAX).map(|_| new().expect("room").expect("read")).collect();
    let error = new().expect_err("one too many");
    assert!(matches!(error, SetupError::TapFull { waiting: RINGS_MAX }), "{error}");
    // The receiver meets them when it looks.
    assert_eq!(take(&mut receiver), None);
    let more = new().expect("room").expect("read");
    drop(receiver);
    assert!(new().expect("no error").is_none(), "nobody reads any more");
    drop((writers, more));
}

#[test]
fn losses_are_in_the_statistics() {
    let (tap, mut receiver) = Tap::new(TapFilter::received().memory_bytes(0));
    let counters = counters();
    let mut writer =
        tap.writer(ReactorId::new(0, 0), &counters).expect("memory").expect("somebody reads");
    for number in 0..100 {
        put(&mut writer, number.into(), number, &[7; 1 << 10]);
    }
    assert_eq!(counters.tap_frames_lost.get(), 40);
    assert_eq!(take(&mut receiver), Some((0, 0, 0)));
    assert_eq!(receiver.frames_lost(), 40);
    // Who does not read at all misses nothing.
    drop(receiver);
    put(&mut writer, 100, 100, &[7; 1 << 11]);
    assert_eq!(counters.tap_frames_lost.get(), 40);
}

fn put(writer: &mut TapWriter, at: u64, number: u32, payload: &[u8]) {
    let bytes = bytes_of(Kind::Data, number, payload);
    writer.received(SessionKey::default(), Nanos(at), whole(&bytes));
}

fn take(receiver: &mut TapReceiver) -> Option<(u32, u64, u64)> {
    let frame = receiver.receive(Duration::ZERO).ok()?;
    assert_eq!(frame.bytes.as_ptr().align_offset(16), 0);
    Some((frame.frame().type_id(), frame.at.0, frame.lost_before))
}

#[test]
fn frames_pass_unchanged_around_the_ring() {
    let (tap, mut receiver) = Tap::new(TapFilter::received().memory_bytes(64 << 10));
    let mut writer = writer(&tap, 3);
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..5_000 {
        let payload: Vec<u8> = (0..random.usize(0..2_000)).map(|_| random.u8(..)).collect();
        let bytes = bytes_of(Kind::Data, number, &payload);
        writer.received(SessionKey::default(), Nanos(number.into()), whole(&bytes));
        let frame = receiver.receive(Duration::ZERO).expect("it was put in");
        assert_eq!(frame.bytes, bytes);
        assert_eq!(frame.direction, Direction::Received);
        assert_eq!(frame.connection.reactor.index(), 3);
        assert_eq!(frame.at, Nanos(number.into()));
    }
    assert_eq!(receiver.frames_lost(), 0);
}

#[test]
fn full_ring_loses_and_says_where() {
    let (tap, mut receiver) = Tap::new(TapFilter::received().memory_bytes(0));
    let mut writer = writer(&tap, 0);
    let payload = [7; 1 << 10];
    // 64 KiB hold 60 entries of 32 + 32 + 1,024 bytes.
    for number in 0..100 {
        put(&mut writer, number.into(), number, &payload);
    }
    assert_eq!(receiver.frames_lost(), 0, "no ring was met yet");
    for number in 0..60 {
        assert_eq!(take(&mut receiver), Some((number, number.into(), 0)));
    }
    assert_eq!(take(&mut receiver), None);
    assert_eq!(receiver.frames_lost(), 40);
    put(&mut writer, 100, 100, &payload);
    assert_eq!(take(&mut receiver), Some((100, 100, 40)));
    // Longer than the ring: lost, and the next one goes through.
    put(&mut writer, 101, 101, &[0; 128 << 10]);
    put(&mut writer, 102, 102, &payload);
    assert_eq!(take(&mut receiver), Some((102, 102, 1)));
    drop(writer);
    drop(tap);
    assert_eq!(receiver.receive(PATIENCE).map(drop), Err(ReceiveError::ShutDown));
    assert_eq!(receiver.frames_lost(), 41);
}

#[test]
fn reactors_are_merged_by_time() {
    let (tap, mut receiver) = Tap::new(TapFilter::received());
    let mut writers = [writer(&tap, 0), writer(&tap, 1)];
    for number in 0..20_u32 {
        put(&mut writers[usize::from(number % 3 == 0)], number.into(), number, b"x");
    }
    for number in 0..20 {
        assert_eq!(take(&mut receiver), Some((number, number.into(), 0)));
    }
    drop(tap);
    drop(writers);
    assert_eq!(receiver.receive(Duration::ZERO).map(drop), Err(ReceiveError::ShutDown));
}

#[test]
fn filter_picks_kinds_and_never_the_sessions_own() {
    let filter = TapFilter::received().kind(Kind::Command).kind(Kind::Error);
    for kind in Kind::APPLICATION {
        let expected = matches!(kind, Kind::Command | Kind::Error);
        assert_eq!(filter.takes(kind), expected, "{kind:?}");
        assert!(TapFilter::both().takes(kind), "{kind:?}");
    }
    for kind in [Kind::Heartbeat, Kind::Acknowledgement, Kind::Gap, Kind::Hello] {
        assert!(!TapFilter::both().takes(kind), "{kind:?}");
    }
    let (tap, mut receiver) = Tap::new(TapFilter::sent());
    put(&mut writer(&tap, 0), 1, 1, b"received");
    assert_eq!(take(&mut receiver), None);
}

#[test]
fn reader_that_went_away_costs_nothing() {
    let (tap, receiver) = Tap::new(TapFilter::received().memory_bytes(0));
    let mut writer = writer(&tap, 0);
    drop(receiver);
    for number in 0..1_000 {
        put(&mut writer, number.into(), number, &[0; 1 << 10]);
    }
    assert!(writer.is_off);
    assert_eq!(writer.lost, 0);
    assert!(
        tap.writer(ReactorId::new(0, 1), &counters()).expect("memory").is_none(),
        "and none begins"
    );
}

/// What is tapped behind an end is neither read nor missed, and costs its writer nothing more.
#[test]
fn reading_ends_behind_what_has_come() {
    let (tap, mut receiver) = Tap::new(TapFilter::received().memory_bytes(0));
    let mut writers = [writer(&tap, 0), writer(&tap, 1)];
    for number in 0..70 {
        put(&mut writers[0], number.into(), number, &[7; 1 << 10]);
    }
    put(&mut writers[1], 50, 100, b"x");
    receiver.end_here();
    // Earlier than what is left in the other ring.
    put(&mut writers[1], 50, 101, b"behind the end");
    for number in 0..=50 {
        assert_eq!(take(&mut receiver), Some((number, number.into(), 0)));
    }
    assert_eq!(take(&mut receiver), Some((100, 50, 0)));
    for number in 51..60 {
        assert_eq!(take(&mut receiver), Some((number, number.into(), 0)));
    }
    assert_eq!(receiver.receive(PATIENCE).map(drop), Err(ReceiveError::ShutDown));
    assert_eq!(receiver.frames_lost(), 10, "those that came before the end");
    for number in 0..100 {
        put(&mut writers[0], number.into(), number, &[7; 1 << 10]);
    }
    assert_eq!((writers[0].is_off, writers[0].lost), (true, 10));
    assert_eq!(receiver.frames_lost(), 10);
}

/// Two threads at full speed: every frame comes whole and in order, or is counted.
#[test]
fn threads_race_and_every_frame_is_whole_or_counted() {
    const COUNT: u32 = 200_000;
    let (tap, mut receiver) = Tap::new(TapFilter::received().memory_bytes(0));
    let writing = std::thread::spawn(move || {
        let mut writer = writer(&tap, 0);
        drop(tap);
        for number in 0..COUNT {
            let length = (number % 7) as usize * 24;
            put(&mut writer, number.into(), number, &vec![low_byte(number); length]);
        }
    });
    let (mut received, mut lost, mut next) = (0, 0, 0);
    loop {
        match receiver.receive(PATIENCE) {
            Ok(frame) => {
                received += 1;
                lost += frame.lost_before;
                let number = frame.frame().type_id();
                assert_eq!(u64::from(number), next + frame.lost_before);
                next = u64::from(number) + 1;
                assert_eq!(frame.frame().payload().len(), (number % 7) as usize * 24);
                assert!(frame.frame().payload().iter().all(|&byte| byte == low_byte(number)));
            }
            Err(ReceiveError::ShutDown) => break,
            Err(error) => panic!("{error}"),
        }
    }
    writing.join().expect("no panic");
    assert!(lost <= receiver.frames_lost());
    assert_eq!(received + receiver.frames_lost(), u64::from(COUNT));
}

#[test]
fn frame_with_its_payload_elsewhere_passes_as_one() {
    use crate::mem::{Pool, PoolLayout};
    use crate::session::block::Block;
    let (tap, mut receiver) = Tap::new(TapFilter::both().memory_bytes(64 << 10));
    let mut writer = writer(&tap, 0);
    let mut pool = Pool::new(&PoolLayout::uniform(128, 1)).expect("memory");
    // Every remainder of a word and of the padding.
    for (number, length) in (1_u32..).zip(4_000..4_033_u32) {
        let payload: Vec<u8> = (0..length).map(low_byte).collect();
        let expected = bytes_of(Kind::Data, number, &payload);
        let head = FrameHead {
            kind: Kind::Data,
            priority: Priority::Normal,
            codec: Codec::Opaque,
            type_id: number,
            sequence: number,
            sent_at_ns: 0,
            flags: Flags::default(),
            extension: None,
            checksum: Checksum::Never,
        };
        let mut block = Block::new(pool.take(128).expect("free"), number.into());
        block.write_around(&head, payload.into(), &mut pool);
        writer.sent(SessionKey::default(), Nanos(1), &block);
        pool.give(block.buffer);
        let frame = receiver.receive(Duration::ZERO).expect("it is there");
        assert_eq!(frame.bytes[..], expected[..], "{length} bytes");
    }
}

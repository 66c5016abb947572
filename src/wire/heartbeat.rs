//! The payload of a heartbeat: a life sign that measures the way and the clocks.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 1 | form | 1 heartbeat, which wants an answer; 2 answer, which never does |
//! | 1 | 7 | reserved | 0 |
//! | 8 | 8 | origin_ns | `sent_ns` of the last heartbeat frame received; 0 when there was none |
//! | 16 | 8 | received_ns | when that arrived, on the sender's clock; 0 when there was none |
//! | 24 | 8 | sent_ns | when this frame was made, on the sender's clock; not 0 |
//!
//! Times are nanoseconds of a monotonic clock, below 2^62. Together with the time of its arrival
//! each frame that has an origin gives its receiver the four readings of an exchange: `origin_ns`
//! (t1, its own clock), `received_ns` and `sent_ns` (t2 and t3, the peer's clock), arrival (t4).
//! That is the origin, receive and transmit timestamp of NTP (RFC 5905 section 7.3). In an answer
//! the origin is the heartbeat answered; in a heartbeat it is whatever came last, so that the side
//! which only ever answers learns as much as the one that asks.
//!
//! The frame is of kind heartbeat, priority critical, 64 bytes in all, and carries a checksum. Like
//! the frames of the handshake it takes no part in the lanes' sequences: its `sequence` is 0, it
//! is neither acknowledged nor resent.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::ProtocolError;
use crate::wire::header::{Codec, Flags, HEADER_BYTES, Kind, Priority};
use crate::wire::{Checksum, FrameHead};

/// Length of the payload.
pub const HEARTBEAT_BYTES: usize = 32;
/// Length of the whole frame.
pub const HEARTBEAT_FRAME_BYTES: usize = HEADER_BYTES + HEARTBEAT_BYTES;
/// Times on the wire are below this: 146 years of uptime. Differences of two fit 64 bits.
pub const TIME_NS_END: u64 = 1 << 62;

/// The payload as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct HeartbeatPayload {
    /// 1 heartbeat, 2 answer.
    pub form: u8,
    /// 0.
    pub reserved: [u8; 7],
    /// The peer's time in its last heartbeat frame, 0 for none.
    pub origin_ns: U64,
    /// When that arrived on the sender's clock, 0 for none.
    pub received_ns: U64,
    /// When this frame was made, on the sender's clock.
    pub sent_ns: U64,
}

const _: () = assert!(size_of::<HeartbeatPayload>() == HEARTBEAT_BYTES);
const _: () = assert!(std::mem::offset_of!(HeartbeatPayload, origin_ns) == 8);
const _: () = assert!(std::mem::offset_of!(HeartbeatPayload, received_ns) == 16);
const _: () = assert!(std::mem::offset_of!(HeartbeatPayload, sent_ns) == 24);

/// Whether a beat wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// It does.
    Heartbeat = 1,
    /// It is the answer. Answering it would never end.
    Answer = 2,
}

/// The last beat that came from the receiver of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Its `sent_ns`: the receiver's clock.
    pub origin_ns: u64,
    /// When it arrived: the sender's clock.
    pub received_ns: u64,
}

/// A heartbeat or an answer, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Which of the two.
    pub form: Form,
    /// What it says of the receiver's last beat. An answer always has one.
    pub echo: Option<Echo>,
    /// When it was made, on the sender's clock.
    pub sent_ns: u64,
}

/// Reads the payload of a heartbeat frame.
///
/// # Errors
///
/// [`ProtocolError::BadHeartbeat`] when its length, form or reserved bytes are wrong, a time is out
/// of range, the sender's times run backwards, an echo is half there, or an answer has none.
pub fn read_heartbeat(payload: &[u8]) -> Result<Beat, ProtocolError> {
    let Ok(payload) = HeartbeatPayload::ref_from_bytes(payload) else {
        return Err(ProtocolError::BadHeartbeat);
    };
    let form = match payload.form {
        1 => Form::Heartbeat,
        2 => Form::Answer,
        _ => return Err(ProtocolError::BadHeartbeat),
    };
    let (origin_ns, received_ns) = (payload.origin_ns.get(), payload.received_ns.get());
    let echo = match (origin_ns, received_ns) {
        (0, 0) => None,
        (0, _) | (_, 0) => return Err(ProtocolError::BadHeartbeat),
        _ => Some(Echo { origin_ns, received_ns }),
    };
    let sent_ns = payload.sent_ns.get();
    let times_are_sound =
        (1..TIME_NS_END).contains(&sent_ns) && origin_ns < TIME_NS_END && received_ns <= sent_ns;
    let echoes_enough = form == Form::Heartbeat || echo.is_some();
    if payload.reserved != [0; 7] || !times_are_sound || !echoes_enough {
        return Err(ProtocolError::BadHeartbeat);
    }
    Ok(Beat { form, echo, sent_ns })
}

/// Writes a heartbeat frame to the front of `out` and returns its length,
/// [`HEARTBEAT_FRAME_BYTES`].
///
/// A `beat` that [`read_heartbeat`] would refuse is written all the same, and the peer closes over
/// it: parts of it are what the peer has said.
///
/// # Panics
///
/// When `out` is shorter than that; in a build with debug assertions also over such a `beat`.
pub fn write_heartbeat(beat: &Beat, out: &mut [u8]) -> usize {
    let (origin_ns, received_ns) =
        beat.echo.map_or((0, 0), |echo| (echo.origin_ns, echo.received_ns));
    let payload = HeartbeatPayload {
        form: beat.form as u8,
        reserved: [0; 7],
        origin_ns: origin_ns.into(),
        received_ns: received_ns.into(),
        sent_ns: beat.sent_ns.into(),
    };
    debug_assert_eq!(read_heartbeat(payload.as_bytes()), Ok(*beat), "the peer would close over it");
    let head = FrameHead {
        kind: Kind::Heartbeat,
        priority: Priority::Critical,
        codec: Codec::Opaque,
        type_id: 0,
        sequence: 0,
        sent_at_ns: beat.sent_ns,
        flags: Flags::default(),
        extension: None,
        checksum: Checksum::Always,
    };
    let written = head.encode(payload.as_bytes(), out);
    assert_eq!(written, HEARTBEAT_FRAME_BYTES, "header, payload, no padding");
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Decoder;

    const HEARTBEAT: Beat = Beat { form: Form::Heartbeat, echo: None, sent_ns: 0x0102 };
    const ANSWER: Beat = Beat {
        form: Form::Answer,
        echo: Some(Echo { origin_ns: 0x0102, received_ns: 0x0a0b }),
        sent_ns: 0x0a0c,
    };

    /// The payload of the frame that `write_heartbeat` makes.
    fn payload(beat: &Beat) -> Vec<u8> {
        let mut frame = [0xff; HEARTBEAT_FRAME_BYTES];
        assert_eq!(write_heartbeat(beat, &mut frame), HEARTBEAT_FRAME_BYTES);
        frame[HEADER_BYTES..].to_vec()
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut HeartbeatPayload)) {
        let mut bytes = payload(&ANSWER);
        change(HeartbeatPayload::mut_from_bytes(&mut bytes).expect("sound"));
        assert_eq!(read_heartbeat(&bytes), Err(ProtocolError::BadHeartbeat));
    }

    #[test]
    fn bytes_stand_where_the_table_says() {
        let mut expected = [0; HEARTBEAT_BYTES];
        (expected[0], expected[24], expected[25]) = (1, 2, 1);
        assert_eq!(payload(&HEARTBEAT), expected);
        let mut expected = [0; HEARTBEAT_BYTES];
        (expected[0], expected[8], expected[9]) = (2, 2, 1);
        (expected[16], expected[17], expected[24], expected[25]) = (0x0b, 0x0a, 0x0c, 0x0a);
        assert_eq!(payload(&ANSWER), expected);
    }

    #[test]
    fn frame_is_one_the_decoder_takes() {
        #[repr(align(16))]
        struct Aligned([u8; HEARTBEAT_FRAME_BYTES]);
        let mut frame = Aligned([0xff; HEARTBEAT_FRAME_BYTES]);
        write_heartbeat(&ANSWER, &mut frame.0);
        let mut input = &frame.0[..];
        let decoded = Decoder::new(1024).next(&mut input).expect("sound").expect("whole");
        assert_eq!((decoded.kind(), decoded.priority()), (Kind::Heartbeat, Priority::Critical));
        assert_eq!(decoded.sequence(), 0);
        assert_eq!(read_heartbeat(decoded.payload()), Ok(ANSWER));
        assert!(input.is_empty());
        // Damage does not become a measurement.
        frame.0[40] ^= 1;
        let damaged = Decoder::new(1024).next(&mut &frame.0[..]);
        assert!(matches!(damaged, Err(ProtocolError::BadChecksum { .. })));
    }

    #[test]
    fn nonsense_is_refused() {
        refused(|payload| payload.form = 0);
        refused(|payload| payload.form = 3);
        refused(|payload| payload.reserved[6] = 1);
        refused(|payload| payload.sent_ns = 0.into());
        refused(|payload| payload.sent_ns = TIME_NS_END.into());
        refused(|payload| payload.sent_ns = 0x0a0a.into());
        refused(|payload| payload.origin_ns = TIME_NS_END.into());
        refused(|payload| payload.origin_ns = 0.into());
        refused(|payload| payload.received_ns = 0.into());
        // An answer to nothing.
        refused(|payload| (payload.origin_ns, payload.received_ns) = (0.into(), 0.into()));
        for bytes in [0, 31, 33] {
            assert_eq!(read_heartbeat(&vec![1; bytes]), Err(ProtocolError::BadHeartbeat));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_written_back_the_same() {
        for seed in 0..crate::seeds(20_000) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut bytes = payload(if rng.bool() { &HEARTBEAT } else { &ANSWER });
            for _ in 0..rng.u8(..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = [0, 1, 2, rng.u8(..)][rng.usize(..4)];
            }
            if let Ok(beat) = read_heartbeat(&bytes) {
                assert_eq!(payload(&beat), bytes, "seed {seed}");
            }
        }
    }
}

//! The floor of stream: the bare framing loop.
//!
//! The same frames as ringwire's, each with its own sequence, encoded into a buffer that is
//! written when it is full; cut and checked in a window at the other end. No session, no ring, no
//! lanes, no checksum: what is left is the cost of frames over a socket. Payloads that ringwire
//! sends from where they are stand in the buffer from the beginning: of those only the head is
//! written for each frame.

use std::io::{self, ErrorKind};

use ringwire::time::Nanos;
use ringwire::wire::{
    Checksum, Codec, Decoder, Flags, FrameHead, HEADER_BYTES, Kind, Priority, frame_bytes,
};

use super::harness::{Subject, SubjectError};
use super::plan::Plan;
use super::round::Round;
use super::socket::payload;
use super::stream::{self, Answer, Last, Sink, Source};

/// Bytes written and read at once; a long frame gets a buffer of its own length.
const BUFFER_BYTES: usize = 64 << 10;

/// Frames over plain sockets.
#[derive(Debug)]
pub(super) struct Framing;

/// Encodes frames.
struct FrameSource {
    payload: Vec<u8>,
    placed: Placed,
    buffer: Vec<u8>,
    sequence: u32,
}

/// When payloads are put into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// Copied for each frame.
    Each,
    /// Once, before the first.
    Ahead,
}

/// Cuts and checks frames.
struct FrameSink {
    decoder: Decoder,
    window: Vec<u8>,
    /// Bytes at the front of the window that are the start of a frame.
    filled: usize,
    /// Of each frame.
    payload: Vec<u8>,
    sequence: u32,
    answer: Answer,
}

impl Subject for Framing {
    fn round(&self, plan: &Plan) -> Result<Round, SubjectError> {
        let case = plan.case;
        let frame_bytes = case.frame_bytes();
        let is_long = case.payload_bytes >= plan.config.in_place_bytes_min() as usize;
        let (placed, buffer_bytes) = match is_long {
            // One frame at a time: no part of another is moved at the other end.
            true => (Placed::Ahead, frame_bytes),
            false => (Placed::Each, BUFFER_BYTES.max(frame_bytes)),
        };
        stream::round(
            plan,
            || FrameSource::new(case.payload_bytes, placed, buffer_bytes),
            || FrameSink::new(case.payload_bytes, frame_bytes, buffer_bytes),
        )
    }
}

impl FrameSource {
    fn new(payload_bytes: usize, placed: Placed, buffer_bytes: usize) -> Self {
        let payload = payload(payload_bytes);
        let mut buffer = vec![0; buffer_bytes];
        if placed == Placed::Ahead {
            for frame in buffer.chunks_exact_mut(frame_bytes(payload_bytes, false)) {
                frame[HEADER_BYTES..][..payload_bytes].copy_from_slice(&payload);
            }
        }
        Self { payload, placed, buffer, sequence: 0 }
    }
}

impl Source for FrameSource {
    /// Hot path: what is measured. No allocation, no syscall, one clock reading a buffer.
    fn fill(&mut self, last: Last) -> &[u8] {
        let frame_bytes = frame_bytes(self.payload.len(), false);
        let frames = self.buffer.len() / frame_bytes;
        let sent_at_ns = Nanos::now().0;
        let mut at = 0;
        for index in 0..frames {
            self.sequence = self.sequence.wrapping_add(1);
            let ends = last == Last::Last && index + 1 == frames;
            let head = FrameHead {
                kind: if ends { Kind::Command } else { Kind::Data },
                priority: Priority::Normal,
                codec: Codec::Opaque,
                type_id: 0,
                sequence: self.sequence,
                sent_at_ns,
                flags: Flags::default(),
                extension: None,
                checksum: Checksum::Never,
            };
            let out = &mut self.buffer[at..];
            at += match self.placed {
                Placed::Each => head.encode(&self.payload, out),
                Placed::Ahead => head.finish(out, self.payload.len()),
            };
        }
        &self.buffer[..at]
    }
}

impl FrameSink {
    fn new(payload_bytes: usize, frame_bytes: usize, window_bytes: usize) -> Self {
        Self {
            payload: payload(payload_bytes),
            decoder: Decoder::new(frame_bytes),
            window: vec![0; window_bytes],
            filled: 0,
            sequence: 0,
            answer: Answer::default(),
        }
    }
}

impl Sink for FrameSink {
    fn room(&mut self) -> &mut [u8] {
        &mut self.window[self.filled..]
    }

    /// Hot path: what is measured. No allocation, no syscall.
    fn take(&mut self, bytes: usize) -> io::Result<Option<Answer>> {
        let filled = self.filled + bytes;
        let mut input = &self.window[..filled];
        let mut ended = false;
        loop {
            match self.decoder.next(&mut input) {
                Ok(Some(frame)) => {
                    let is_compared = stream::is_compared(self.sequence.into());
                    self.sequence = self.sequence.wrapping_add(1);
                    let right = frame.sequence() == self.sequence
                        && frame.payload().len() == self.payload.len()
                        && (!is_compared || frame.payload() == self.payload);
                    self.answer.errors += u64::from(!right);
                    self.answer.bytes += frame.frame_bytes() as u64;
                    ended |= frame.kind() == Kind::Command;
                }
                Ok(None) => break,
                Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
            }
        }
        let rest = input.len();
        self.window.copy_within(filled - rest..filled, 0);
        self.filled = rest;
        Ok(ended.then(|| std::mem::take(&mut self.answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two buffers of frames of 64 bytes.
    fn stream(placed: Placed) -> Vec<u8> {
        let mut source = FrameSource::new(64, placed, 4096);
        let mut stream = source.fill(Last::More).to_vec();
        stream.extend_from_slice(source.fill(Last::Last));
        // As many frames as fit.
        assert_eq!(stream.len(), 2 * (4096 / 96) * 96);
        stream
    }

    #[test]
    fn frames_arrive_however_they_are_cut() {
        for placed in [Placed::Each, Placed::Ahead] {
            let mut sink = FrameSink::new(64, 96, 128);
            let mut answers = Vec::new();
            let stream = stream(placed);
            let mut rest = &stream[..];
            while !rest.is_empty() {
                // 37 shares no factor with 96.
                let bytes = rest.len().min(37).min(sink.room().len());
                sink.room()[..bytes].copy_from_slice(&rest[..bytes]);
                answers.extend(sink.take(bytes).expect("valid frames"));
                rest = &rest[bytes..];
            }
            assert_eq!(answers, [Answer { bytes: stream.len() as u64, errors: 0 }]);
        }
    }

    #[test]
    fn payloads_that_are_placed_ahead_are_not_copied_again() {
        let payloads = |stream: &[u8]| -> Vec<Vec<u8>> {
            stream.chunks(96).map(|frame| frame[HEADER_BYTES..].to_vec()).collect()
        };
        let expected = payloads(&stream(Placed::Each));
        assert!(expected.iter().all(|bytes| *bytes == payload(64)));
        assert_eq!(payloads(&stream(Placed::Ahead)), expected);
        for (placed, first) in [(Placed::Each, 0), (Placed::Ahead, 0xaa)] {
            let mut source = FrameSource::new(64, placed, 96);
            source.buffer[HEADER_BYTES] = 0xaa;
            assert_eq!(source.fill(Last::More)[HEADER_BYTES], first, "{placed:?}");
        }
    }

    #[test]
    fn wrong_content_is_seen_in_the_frames_that_are_compared() {
        for (wrong, errors) in [(0, 1), (1, 0), (60, 0), (61, 1)] {
            let mut source = FrameSource::new(64, Placed::Each, 65 * 96);
            let mut stream = source.fill(Last::Last).to_vec();
            stream[wrong * 96 + HEADER_BYTES + 40] ^= 1;
            let mut sink = FrameSink::new(64, 96, stream.len());
            sink.room().copy_from_slice(&stream);
            let answer = sink.take(stream.len()).expect("valid frames").expect("the last one");
            assert_eq!(answer, Answer { bytes: 65 * 96, errors }, "frame {wrong}");
        }
    }

    #[test]
    fn lost_frame_is_seen() {
        let mut source = FrameSource::new(64, Placed::Each, 96);
        let mut sink = FrameSink::new(64, 96, 96);
        source.fill(Last::More);
        let bytes = source.fill(Last::Last).to_vec();
        sink.room().copy_from_slice(&bytes);
        let answer = sink.take(bytes.len()).expect("valid frames").expect("the last one");
        assert_eq!(answer, Answer { bytes: 96, errors: 1 });
    }
}

//! The floor of stream: the bare framing loop.
//!
//! The same frames as ringwire's, each with its own sequence, encoded into a buffer that is
//! written when it is full; cut and checked in a window at the other end. No session, no ring, no
//! lanes, no checksum: what is left is the cost of frames over a socket.

use std::io::{self, ErrorKind};

use ringwire::time::Nanos;
use ringwire::wire::{Checksum, Codec, Decoder, Flags, FrameHead, Kind, Priority};

use super::harness::{Subject, SubjectError};
use super::plan::Plan;
use super::round::Round;
use super::socket::payload;
use super::stream::{self, Answer, Last, Sink, Source};

/// Bytes written and read at once; a longer frame gets a buffer of its own length.
const BUFFER_BYTES: usize = 64 << 10;

/// Frames over plain sockets.
#[derive(Debug)]
pub(super) struct Framing;

/// Encodes frames.
struct FrameSource {
    payload: Vec<u8>,
    buffer: Vec<u8>,
    sequence: u32,
}

/// Cuts and checks frames.
struct FrameSink {
    decoder: Decoder,
    window: Vec<u8>,
    /// Bytes at the front of the window that are the start of a frame.
    filled: usize,
    payload_bytes: usize,
    sequence: u32,
    answer: Answer,
}

impl Subject for Framing {
    fn round(&self, plan: &Plan) -> Result<Round, SubjectError> {
        let case = plan.case;
        let buffer_bytes = BUFFER_BYTES.max(case.frame_bytes());
        stream::round(
            plan,
            || FrameSource::new(case.payload_bytes, buffer_bytes),
            || FrameSink::new(case.payload_bytes, case.frame_bytes(), buffer_bytes),
        )
    }
}

impl FrameSource {
    fn new(payload_bytes: usize, buffer_bytes: usize) -> Self {
        Self { payload: payload(payload_bytes), buffer: vec![0; buffer_bytes], sequence: 0 }
    }
}

impl Source for FrameSource {
    /// Hot path: what is measured. No allocation, no syscall, one clock reading a buffer.
    fn fill(&mut self, last: Last) -> &[u8] {
        let frame_bytes = ringwire::wire::frame_bytes(self.payload.len(), false);
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
            at += head.encode(&self.payload, &mut self.buffer[at..]);
        }
        &self.buffer[..at]
    }
}

impl FrameSink {
    fn new(payload_bytes: usize, frame_bytes: usize, window_bytes: usize) -> Self {
        Self {
            decoder: Decoder::new(frame_bytes),
            window: vec![0; window_bytes],
            filled: 0,
            payload_bytes,
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
                    self.sequence = self.sequence.wrapping_add(1);
                    let right = frame.sequence() == self.sequence
                        && frame.payload().len() == self.payload_bytes;
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

    #[test]
    fn frames_arrive_however_they_are_cut() {
        let mut source = FrameSource::new(64, 4096);
        let mut sink = FrameSink::new(64, 96, 128);
        let mut stream = source.fill(Last::More).to_vec();
        stream.extend_from_slice(source.fill(Last::Last));
        // As many frames as fit, and 37 shares no factor with 96.
        assert_eq!(stream.len(), 2 * (4096 / 96) * 96);
        let mut answers = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let bytes = rest.len().min(37).min(sink.room().len());
            sink.room()[..bytes].copy_from_slice(&rest[..bytes]);
            answers.extend(sink.take(bytes).expect("valid frames"));
            rest = &rest[bytes..];
        }
        assert_eq!(answers, [Answer { bytes: stream.len() as u64, errors: 0 }]);
    }

    #[test]
    fn lost_frame_is_seen() {
        let mut source = FrameSource::new(64, 96);
        let mut sink = FrameSink::new(64, 96, 96);
        source.fill(Last::More);
        let bytes = source.fill(Last::Last).to_vec();
        sink.room().copy_from_slice(&bytes);
        let answer = sink.take(bytes.len()).expect("valid frames").expect("the last one");
        assert_eq!(answer, Answer { bytes: 96, errors: 1 });
    }
}

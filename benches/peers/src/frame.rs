//! Messages over a byte stream, without I/O: for subjects that bring no framing of their own.
//!
//! A frame is the payload's length in four bytes, little-endian, and the payload. [`Cutter`] finds
//! frames in what was received; [`Seat`] is the server's end of one connection.

use std::ops::Range;

use crate::job::Case;
use crate::message::{Desk, PREFIX_BYTES, Reply};

/// Bytes read at once, and gathered before they are written.
pub const BUFFER_BYTES: usize = 256 << 10;
/// The same with many connections, where memory counts.
const BUFFER_BYTES_OF_MANY: usize = 4 << 10;

/// Cuts frames out of received bytes. They stand whole in its buffer: no copy per message.
#[derive(Debug)]
pub struct Cutter {
    /// Full length, but while it is lent and when it has come back: then `end` at least.
    buffer: Vec<u8>,
    capacity: usize,
    start: usize,
    end: usize,
}

/// The server's end of one connection.
#[derive(Debug)]
pub struct Seat {
    pub cutter: Cutter,
    /// What is to be written.
    pub out: Vec<u8>,
    desk: Desk,
}

/// What to write after bytes have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Nothing,
    /// This part of the cutter's buffer: an echo that needs no copy.
    Input(Range<usize>),
    /// [`Seat::out`].
    Output,
}

#[allow(dead_code, reason = "some of it is for peers that are features")]
impl Cutter {
    pub fn new(case: &Case) -> Self {
        let least = if case.connections > 1 { BUFFER_BYTES_OF_MANY } else { BUFFER_BYTES };
        let bytes = least.max(2 * (PREFIX_BYTES + case.payload_bytes_max()));
        Self { buffer: vec![0; bytes], capacity: bytes, start: 0, end: 0 }
    }

    /// Where the next bytes go. Never empty.
    pub fn room(&mut self) -> &mut [u8] {
        let window = self.window();
        &mut self.buffer[window]
    }

    /// `bytes` have been put at the start of [`room`](Self::room).
    pub fn filled(&mut self, bytes: usize) {
        self.end += bytes;
        assert!(self.end <= self.buffer.len(), "no more than there was room for");
    }

    /// The buffer and where the next bytes go in it, for those who must own what they read into.
    pub fn lend(&mut self) -> (Vec<u8>, Range<usize>) {
        let window = self.window();
        // Runtimes append to what a vector holds.
        self.buffer.truncate(self.end);
        (std::mem::take(&mut self.buffer), window)
    }

    /// The lent buffer, with `bytes` more in it.
    pub fn give_back(&mut self, buffer: Vec<u8>, bytes: usize) {
        self.buffer = buffer;
        self.filled(bytes);
    }

    /// The next whole payload.
    #[inline]
    pub fn next(&mut self) -> Option<&[u8]> {
        let range = self.next_range()?;
        Some(&self.buffer[range])
    }

    /// Takes the buffer out to write a part of it; `returned` gives it back.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    pub fn returned(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }

    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    #[inline]
    fn next_range(&mut self) -> Option<Range<usize>> {
        let held = &self.buffer[self.start..self.end];
        let prefix = held.first_chunk::<PREFIX_BYTES>()?;
        let payload_bytes = u32::from_le_bytes(*prefix) as usize;
        if held.len() < PREFIX_BYTES + payload_bytes {
            return None;
        }
        let from = self.start + PREFIX_BYTES;
        self.start = from + payload_bytes;
        Some(from..self.start)
    }

    /// Moves the start of a frame to the front when the rest of it would not fit behind. Of a long
    /// frame takes the rest and no more, so that the next one starts at the front again.
    fn window(&mut self) -> Range<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.capacity - self.end < self.capacity / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        assert!(self.end < self.capacity, "a frame takes at most half the buffer");
        let held = &self.buffer[self.start..self.end];
        let missing = held.first_chunk::<PREFIX_BYTES>().map_or(0, |prefix| {
            (PREFIX_BYTES + u32::from_le_bytes(*prefix) as usize).saturating_sub(held.len())
        });
        let long = missing > BUFFER_BYTES / 4;
        let to = if long { self.end + missing } else { self.capacity };
        self.end..to.min(self.capacity)
    }
}

impl Seat {
    pub fn new(case: &Case) -> Self {
        Self { cutter: Cutter::new(case), out: Vec::new(), desk: Desk::new(case.payload_bytes) }
    }

    /// Answers every whole message that has come.
    #[inline]
    pub fn answer(&mut self) -> Write {
        let first = self.cutter.start;
        while let Some(range) = self.cutter.next_range() {
            match self.desk.take(&self.cutter.buffer[range.clone()]) {
                Reply::Nothing => {}
                Reply::Echo => {
                    let framed = range.start - PREFIX_BYTES..range.end;
                    let is_alone = framed.start == first && framed.end == self.cutter.end;
                    if is_alone && self.out.is_empty() {
                        return Write::Input(framed);
                    }
                    self.out.extend_from_slice(&self.cutter.buffer[framed]);
                }
                Reply::Seen(bytes) => frame_into(&mut self.out, &bytes),
            }
        }
        if self.out.is_empty() { Write::Nothing } else { Write::Output }
    }
}

/// Appends a frame.
pub fn frame_into(out: &mut Vec<u8>, payload: &[u8]) {
    let prefix = u32::try_from(payload.len()).expect("messages are below 4 GiB");
    out.extend_from_slice(&prefix.to_le_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Scenario;
    use crate::message::{Message, Seen, Tag};

    const CASE: Case = Case {
        scenario: Scenario::Stream,
        payload_bytes: 64,
        connections: 2,
        rate_hz: 0,
        bulk: false,
    };

    #[test]
    fn frames_arrive_however_they_are_cut() {
        let mut bytes = Vec::new();
        for sequence in 0..500 {
            let mut message = Message::new(64);
            message.stamp(Tag::Stream, sequence);
            bytes.extend_from_slice(message.framed());
        }
        bytes.extend_from_slice(Message::short(Tag::Ask).framed());
        for step in [1, 37, 4096, 9999] {
            let mut seat = Seat::new(&CASE);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let room = seat.cutter.room();
                let count = rest.len().min(step).min(room.len());
                room[..count].copy_from_slice(&rest[..count]);
                seat.cutter.filled(count);
                rest = &rest[count..];
                let wrote = seat.answer();
                assert_eq!(wrote == Write::Output, rest.is_empty(), "{step}");
            }
            assert_eq!(Seen::from_bytes(&seat.out[4..]), Some(Seen { frames: 500, errors: 0 }));
        }
    }

    #[test]
    fn lone_echo_is_not_copied() {
        let mut seat = Seat::new(&CASE);
        let mut message = Message::new(64);
        message.stamp(Tag::Echo, 5);
        let framed = message.framed();
        let feed = |seat: &mut Seat, bytes: &[u8]| {
            seat.cutter.room()[..bytes.len()].copy_from_slice(bytes);
            seat.cutter.filled(bytes.len());
            seat.answer()
        };
        let Write::Input(range) = feed(&mut seat, framed) else { panic!("an echo by itself") };
        assert_eq!(seat.cutter.bytes(range), framed);
        // With a second one half there it is copied, because the buffer is needed again.
        let both = [framed, &framed[..9]].concat();
        assert_eq!(feed(&mut seat, &both), Write::Output);
        assert_eq!(seat.out, framed);
    }

    #[test]
    fn lent_buffer_is_the_same_room() {
        let mut cutter = Cutter::new(&CASE);
        let (mut buffer, window) = cutter.lend();
        assert_eq!((buffer.len(), buffer.capacity()), (window.start, window.end));
        let message = Message::short(Tag::Ask);
        buffer.extend_from_slice(message.framed());
        cutter.give_back(buffer, message.framed().len());
        assert_eq!(cutter.next(), Some(message.payload()));
        assert_eq!(cutter.next(), None);
    }
}

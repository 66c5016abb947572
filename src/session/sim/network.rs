//! Connections of the simulated network: two streams of bytes between two sockets.
//!
//! Bytes arrive late, in pieces, in order. A connection that is cut loses what has not arrived;
//! its two ends learn of that on their own, much later if it must be. A direction may also fall
//! silent, of which nobody learns.

use std::collections::VecDeque;

use crate::wire::Priority;

/// One direction of a link: the sender's socket, the way, and the receiver's socket together.
#[derive(Debug)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    /// How many of them can be read.
    arrived: usize,
    capacity: usize,
    /// When the last of them arrives.
    pub(super) last_arrival: u64,
}

impl Pipe {
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), arrived: 0, capacity, last_arrival: 0 }
    }

    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "a socket takes what it has room for");
        self.bytes.extend(bytes);
    }

    pub(super) fn arrive(&mut self, bytes: usize) {
        self.arrived += bytes;
        assert!(self.arrived <= self.bytes.len(), "what arrives has been sent");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn arrived(&self) -> usize {
        self.arrived
    }

    pub(super) fn read(&mut self, bytes: usize, out: &mut Vec<u8>) {
        assert!(bytes <= self.arrived, "only what has arrived can be read");
        self.arrived -= bytes;
        out.extend(self.bytes.drain(..bytes));
    }
}

/// A message whose payload changes on its way, without anything to notice it by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Damage {
    /// Where it goes.
    pub(super) side: usize,
    pub(super) lane: Priority,
    /// As on the wire.
    pub(super) sequence: u32,
    /// Which message it was.
    pub(super) number: usize,
}

/// One connection between a dialer (side 0) and a listener (side 1).
#[derive(Debug)]
pub(super) struct Link {
    /// What travels to each side.
    pub(super) to: [Pipe; 2],
    /// Nothing arrives any more.
    pub(super) is_cut: bool,
    /// What travels to the side vanishes, and nobody is told.
    pub(super) is_silent: [bool; 2],
    /// A frame that travels to the side was damaged, and has a checksum.
    pub(super) is_damaged: [bool; 2],
    /// Messages whose payload was damaged without one.
    pub(super) damage: Vec<Damage>,
    /// The side has closed its socket.
    pub(super) is_closed: [bool; 2],
    /// The connection at each side, once there is one.
    pub(super) ends: [Option<usize>; 2],
}

impl Link {
    pub(super) fn new(capacity: usize, dialer: usize) -> Self {
        Self {
            to: [Pipe::new(capacity), Pipe::new(capacity)],
            is_cut: false,
            is_silent: [false; 2],
            is_damaged: [false; 2],
            damage: Vec::new(),
            is_closed: [false; 2],
            ends: [Some(dialer), None],
        }
    }
}

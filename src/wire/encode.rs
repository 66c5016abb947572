//! Writes frames straight into the memory they are sent from.
//!
//! The payload is written first, behind room for its head; [`FrameHead::finish`] then fills in
//! the head and the padding around it. So a typed payload is serialised once, in place.
//!
//! Not here: which lane a frame goes to and what its sequence is (`session`).

use zerocopy::IntoBytes;

use crate::wire::header::{
    Codec, EXTENSION_BYTES, Extension, Flags, HEADER_BYTES, Header, Kind, MAGIC, Priority, VERSION,
    frame_bytes,
};

/// Which frames carry a CRC-32C of themselves. Handshake frames always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// None: TCP's own checksum is trusted.
    Never,
    /// Frames with the extension: commands, requests and responses. Telemetry goes without.
    #[default]
    Commands,
    /// Every frame.
    Always,
}

/// Everything in a frame's head that is known before its payload is written.
#[derive(Debug, Clone, Copy)]
pub struct FrameHead {
    /// What the frame is.
    pub kind: Kind,
    /// The lane it travels in.
    pub priority: Priority,
    /// How the payload is to be read.
    pub codec: Codec,
    /// The application's payload type, 0 for none.
    pub type_id: u32,
    /// Low half of the lane's sequence.
    pub sequence: u32,
    /// Sender's monotonic nanoseconds.
    pub sent_at_ns: u64,
    /// Flags besides `EXTENDED` and `CHECKSUM`, which follow from the other fields.
    pub flags: Flags,
    /// The extension, when the frame has one.
    pub extension: Option<Extension>,
    /// Whether this frame carries a checksum.
    pub checksum: Checksum,
}

impl FrameHead {
    /// Bytes before the payload.
    #[inline]
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        if self.extension.is_some() { HEADER_BYTES + EXTENSION_BYTES } else { HEADER_BYTES }
    }

    /// Fills in head and padding around a payload that already stands at
    /// [`head_bytes`](Self::head_bytes) of `out`. Returns the length of the whole frame.
    ///
    /// Hot path: once per frame sent. No allocation, no syscall, no logging.
    ///
    /// # Panics
    ///
    /// When `out` is shorter than [`frame_bytes`] says or `payload_bytes` does not fit 32 bits.
    #[inline]
    pub fn finish(&self, out: &mut [u8], payload_bytes: usize) -> usize {
        let head_bytes = self.head_bytes();
        let total = frame_bytes(payload_bytes, self.extension.is_some());
        let out = &mut out[..total];
        out[head_bytes + payload_bytes..].fill(0);

        let checksummed = match self.checksum {
            Checksum::Always => true,
            Checksum::Commands => self.extension.is_some() || self.kind.is_handshake(),
            Checksum::Never => self.kind.is_handshake(),
        };
        let mut flags = self.flags;
        if self.extension.is_some() {
            flags = flags.with(Flags::EXTENDED);
        }
        if checksummed {
            flags = flags.with(Flags::CHECKSUM);
        }
        let mut header = Header {
            magic: MAGIC,
            version: VERSION,
            kind: self.kind as u8,
            flags: flags.0,
            priority: self.priority as u8,
            codec: self.codec as u8,
            reserved: 0,
            payload_bytes: u32::try_from(payload_bytes)
                .expect("frame_bytes_max is below 4 GiB")
                .into(),
            checksum: 0.into(),
            sequence: self.sequence.into(),
            type_id: self.type_id.into(),
            sent_at: self.sent_at_ns.into(),
        };
        if checksummed {
            let payload = &out[head_bytes..head_bytes + payload_bytes];
            header.checksum = checksum(&header, self.extension.as_ref(), payload).into();
        }
        out[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        if let Some(extension) = &self.extension {
            out[HEADER_BYTES..head_bytes].copy_from_slice(extension.as_bytes());
        }
        total
    }

    /// Encodes a frame whose payload already exists as bytes. Returns its length.
    ///
    /// # Panics
    ///
    /// When `out` is shorter than the frame.
    #[inline]
    pub fn encode(&self, payload: &[u8], out: &mut [u8]) -> usize {
        let head_bytes = self.head_bytes();
        out[head_bytes..head_bytes + payload.len()].copy_from_slice(payload);
        self.finish(out, payload.len())
    }
}

/// CRC-32C over header (its checksum field taken as 0), extension and payload.
#[must_use]
pub fn checksum(header: &Header, extension: Option<&Extension>, payload: &[u8]) -> u32 {
    let mut header = *header;
    header.checksum = 0.into();
    let mut crc = crc32c::crc32c(header.as_bytes());
    if let Some(extension) = extension {
        crc = crc32c::crc32c_append(crc, extension.as_bytes());
    }
    crc32c::crc32c_append(crc, payload)
}

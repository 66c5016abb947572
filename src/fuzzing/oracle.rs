//! The wire format a second time, written from its documentation and from nothing else.
//!
//! Byte by byte with plain indexing and a CRC-32C table of its own: slow and obvious, so that a
//! mistake of the real codec is not repeated here. Shares only the error enum with it, because
//! both must agree on *which* violation comes first. Not for anything but checking the codec.

use crate::error::ProtocolError;

/// A frame as plain numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainFrame {
    /// Byte 3.
    pub kind: u8,
    /// Byte 4.
    pub flags: u8,
    /// Byte 5.
    pub priority: u8,
    /// Byte 6.
    pub codec: u8,
    /// Bytes 16 to 19.
    pub sequence: u32,
    /// Bytes 20 to 23.
    pub type_id: u32,
    /// Bytes 24 to 31.
    pub sent_at: u64,
    /// Bytes 32 to 63 of a frame whose flags say so.
    pub extension: Option<PlainExtension>,
    /// What follows, without padding.
    pub payload: Vec<u8>,
}

/// An extension as plain numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlainExtension {
    /// Bytes 32 to 39.
    pub acknowledged: u64,
    /// Bytes 40 to 47.
    pub correlation: u64,
    /// Bytes 48 to 51.
    pub ttl_us: u32,
    /// Bytes 52 to 55.
    pub source: u32,
    /// Bytes 56 to 59.
    pub destination: u32,
}

/// Reads the first frame of `bytes`: the frame and its length, `None` when more bytes are needed.
///
/// # Errors
///
/// The first violation in the order of the header's fields, then length, reserved bytes of the
/// extension, padding, checksum.
pub fn decode(
    bytes: &[u8],
    frame_bytes_max: usize,
) -> Result<Option<(PlainFrame, usize)>, ProtocolError> {
    let at = |index: usize| bytes.get(index).copied();
    // Magic and version are refused as soon as the offending byte is there.
    if at(0).is_some_and(|byte| byte != b'R') || at(1).is_some_and(|byte| byte != b'W') {
        let got = u16::from(bytes[0]) + 256 * u16::from(at(1).unwrap_or(0));
        return Err(ProtocolError::BadMagic { got });
    }
    if let Some(got) = at(2)
        && got != 1
    {
        return Err(ProtocolError::BadVersion { got });
    }
    if bytes.len() < 32 {
        return Ok(None);
    }
    let (kind, flags, priority, codec) = (bytes[3], bytes[4], bytes[5], bytes[6]);
    if ![1, 2, 3, 4, 5, 6, 7, 8, 9, 0x80, 0x81, 0x82, 0x83].contains(&kind) {
        return Err(ProtocolError::BadKind { got: kind });
    }
    let extended = flags & 1 != 0;
    // Request, response and timeout mean something in the extension only.
    let needs_extension = [4, 8, 32].iter().any(|flag| flags & flag != 0);
    if flags >= 64 || (needs_extension && !extended) {
        return Err(ProtocolError::BadFlags { got: flags });
    }
    if priority == 0 || priority > 4 {
        return Err(ProtocolError::BadPriority { got: priority });
    }
    if codec > 2 {
        return Err(ProtocolError::BadCodec { got: codec });
    }
    if bytes[7] != 0 {
        return Err(ProtocolError::ReservedNotZero);
    }
    let checksummed = flags & 16 != 0;
    let carried = number(bytes, 12, 4) as u32;
    if !checksummed && kind >= 128 {
        return Err(ProtocolError::ChecksumMissing);
    }
    if !checksummed && carried != 0 {
        return Err(ProtocolError::ReservedNotZero);
    }

    let head_bytes = if extended { 64 } else { 32 };
    let unpadded = head_bytes + number(bytes, 8, 4);
    let mut frame_bytes = unpadded;
    while frame_bytes & 15 != 0 {
        frame_bytes += 1;
    }
    if frame_bytes > frame_bytes_max as u64 {
        let saturated = |bytes: u64| if bytes > 0xffff_ffff { u32::MAX } else { bytes as u32 };
        return Err(ProtocolError::FrameTooLong {
            bytes: saturated(frame_bytes),
            bytes_max: saturated(frame_bytes_max as u64),
        });
    }
    if (bytes.len() as u64) < frame_bytes {
        return Ok(None);
    }
    let (unpadded, frame_bytes) = (unpadded as usize, frame_bytes as usize);
    if extended && number(bytes, 60, 4) != 0 {
        return Err(ProtocolError::ReservedNotZero);
    }
    for &byte in &bytes[unpadded..frame_bytes] {
        if byte != 0 {
            return Err(ProtocolError::PaddingNotZero);
        }
    }
    if checksummed {
        let computed = frame_checksum(&bytes[..unpadded]);
        if computed != carried {
            return Err(ProtocolError::BadChecksum { carried, computed });
        }
    }
    let extension = extended.then(|| PlainExtension {
        acknowledged: number(bytes, 32, 8),
        correlation: number(bytes, 40, 8),
        ttl_us: number(bytes, 48, 4) as u32,
        source: number(bytes, 52, 4) as u32,
        destination: number(bytes, 56, 4) as u32,
    });
    let frame = PlainFrame {
        kind,
        flags,
        priority,
        codec,
        sequence: number(bytes, 16, 4) as u32,
        type_id: number(bytes, 20, 4) as u32,
        sent_at: number(bytes, 24, 8),
        extension,
        payload: bytes[head_bytes as usize..unpadded].to_vec(),
    };
    Ok(Some((frame, frame_bytes)))
}

/// Writes a frame. Its flags are taken as they stand.
#[must_use]
pub fn encode(frame: &PlainFrame) -> Vec<u8> {
    let mut bytes = vec![b'R', b'W', 1, frame.kind, frame.flags, frame.priority, frame.codec, 0];
    put(&mut bytes, frame.payload.len() as u64, 4);
    put(&mut bytes, 0, 4);
    put(&mut bytes, frame.sequence.into(), 4);
    put(&mut bytes, frame.type_id.into(), 4);
    put(&mut bytes, frame.sent_at, 8);
    if let Some(extension) = &frame.extension {
        put(&mut bytes, extension.acknowledged, 8);
        put(&mut bytes, extension.correlation, 8);
        put(&mut bytes, extension.ttl_us.into(), 4);
        put(&mut bytes, extension.source.into(), 4);
        put(&mut bytes, extension.destination.into(), 4);
        put(&mut bytes, 0, 4);
    }
    for &byte in &frame.payload {
        bytes.push(byte);
    }
    if frame.flags & 16 != 0 {
        let crc = frame_checksum(&bytes);
        let [first, second, third, fourth] = crc.to_le_bytes();
        (bytes[12], bytes[13], bytes[14], bytes[15]) = (first, second, third, fourth);
    }
    while bytes.len() & 15 != 0 {
        bytes.push(0);
    }
    bytes
}

/// A hello's or welcome's payload as this module understands it: protocol range, frame limit and
/// name; `None` when it is malformed.
#[must_use]
pub fn greeting(payload: &[u8]) -> Option<(u8, u8, u32, String)> {
    if payload.len() < 144 {
        return None;
    }
    let name_bytes = number(payload, 2, 2) as usize;
    let authentication_bytes = number(payload, 92, 2) as usize;
    let lengths_add_up = payload.len() == 144 + name_bytes + authentication_bytes;
    let frame_bytes_max = number(payload, 32, 4) as u32;
    let reserved = number(payload, 94, 2);
    if name_bytes > 64
        || !lengths_add_up
        || payload[0] > payload[1]
        || frame_bytes_max < 1024
        || reserved != 0
    {
        return None;
    }
    let name = String::from_utf8(payload[144..144 + name_bytes].to_vec()).ok()?;
    Some((payload[0], payload[1], frame_bytes_max, name))
}

/// A reject's or goodbye's payload: reason and detail; `None` when it is malformed.
#[must_use]
pub fn farewell(payload: &[u8]) -> Option<(u16, u32)> {
    if payload.len() != 8 || payload[2] != 0 || payload[3] != 0 {
        return None;
    }
    Some((number(payload, 0, 2) as u16, number(payload, 4, 4) as u32))
}

/// CRC-32C of a frame without its padding, bytes 12 to 15 taken as 0.
#[must_use]
pub fn frame_checksum(unpadded: &[u8]) -> u32 {
    let mut bytes = unpadded.to_vec();
    (bytes[12], bytes[13], bytes[14], bytes[15]) = (0, 0, 0, 0);
    crc32c(&bytes)
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), reflected, one table entry per byte.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut entry = index as u32;
            let mut bit = 0;
            while bit < 8 {
                let odd = entry & 1 != 0;
                entry >>= 1;
                if odd {
                    entry ^= 0x82f6_3b78;
                }
                bit += 1;
            }
            table[index] = entry;
            index += 1;
        }
        table
    };
    let mut crc = 0xffff_ffff_u32;
    for &byte in bytes {
        crc = (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize];
    }
    !crc
}

fn number(bytes: &[u8], offset: usize, width: usize) -> u64 {
    let mut value = 0;
    for index in (0..width).rev() {
        value = value * 256 + u64::from(bytes[offset + index]);
    }
    value
}

fn put(bytes: &mut Vec<u8>, value: u64, width: usize) {
    for index in 0..width {
        bytes.push((value >> (8 * index)) as u8);
    }
}

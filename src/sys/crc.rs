//! The processor's own CRC-32C: eight bytes at a time.
//!
//! For short frames, whose checksum is done before a library has chosen among its ways. Longer ones
//! are `crate::crc`'s.

/// CRC-32C of two little-endian words and of `rest` behind them. `None` where the processor
/// has no instruction for it.
#[inline(always)]
pub(crate) fn crc32c(first: u64, second: u64, rest: &[u8]) -> Option<u32> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has SSE4.2, of which the function is made.
        return Some(unsafe { x86::crc32c(first, second, rest) });
    }
    let _ = (first, second, rest);
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};

    /// CRC32 (Intel SDM, volume 2) has the polynomial of CRC-32C.
    #[target_feature(enable = "sse4.2")]
    pub(super) fn crc32c(first: u64, second: u64, rest: &[u8]) -> u32 {
        let (words, tail) = rest.as_chunks::<8>();
        let mut crc = u64::from(u32::MAX);
        for word in [first, second] {
            crc = _mm_crc32_u64(crc, word);
        }
        for word in words {
            crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the instruction clears the upper half"
        )]
        let mut crc = crc as u32;
        for byte in tail {
            crc = _mm_crc32_u8(crc, *byte);
        }
        !crc
    }
}

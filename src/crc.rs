//! CRC-32C, of frames and of recordings.

/// CRC-32C of a short frame, where the processor can: see `sys::crc`.
pub(crate) use crate::sys::crc::crc32c as crc32c_by_processor;

/// CRC-32C (RFC 3720, appendix B.4, where it is that of iSCSI).
#[inline]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The same, of parts that follow one another.
#[inline]
pub(crate) fn crc32c_of<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    let crc = digest.finalize();
    u32::try_from(crc).expect("a CRC-32 has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 3720, appendix B.4.
    #[test]
    fn examples_of_the_standard() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let up: [u8; 32] = std::array::from_fn(|at| at.to_le_bytes()[0]);
        assert_eq!(crc32c(&up), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn parts_are_as_the_whole() {
        let whole: Vec<u8> = (0..1000_u32).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect();
        for at in [0, 1, 15, 16, 17, 500, 999, 1000] {
            let (first, second) = whole.split_at(at);
            assert_eq!(crc32c_of([first, second]), crc32c(&whole), "split at {at}");
        }
    }
}

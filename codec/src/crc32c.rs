//! CRC-32C (Castagnoli, RFC 3720 appendix B.4), the one checksum of the wire and the disk.

use crc_fast::{CrcAlgorithm, checksum};

/// The CRC-32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm is 32 bits wide, so the upper half of the returned number is zero.
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

//! A segment's file: its name and its first block.
//!
//! ```text
//!  0 u32 magic "RMSG"        4 u32 version
//!  8 u64 node id            16 u64 log key
//! 24 u64 segment number     32 u32 epoch          36 u32 zero
//! 40 u64 base position      48 u64 first commit
//! 56 u64 previous segment (0: none)               64 u64 bytes of the previous segment that count
//! 72 u32 CRC-32C of bytes 0..72                   76 zeros to 4096
//! ```
//!
//! The block is written with the segment's first commit, or synced before it.

use std::path::{Path, PathBuf};

use codec::crc32c::crc32c;
use codec::ids::{Epoch, Position};

use crate::aligned::BLOCK_BYTES;
use crate::disk::LogKey;

/// "RMSG", little-endian.
pub(crate) const SEGMENT_MAGIC: u32 = 0x4753_4d52;
/// The only version of the log format so far.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of the header that mean something.
const HEADER_USED_BYTES: usize = 76;

/// What the first block of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Node that wrote it.
    pub node_id: u64,
    /// Log that it belongs to.
    pub log: LogKey,
    /// Its number in the log, rising, not dense.
    pub number: u64,
    /// Epoch of all its batches.
    pub epoch: Epoch,
    /// Position of its first event.
    pub base_position: Position,
    /// Number of its first commit.
    pub first_commit: u64,
    /// Number of the segment before it; 0 if it is the log's first.
    pub previous: u64,
    /// Where the segment before it ends: bytes after that are not part of the log.
    pub previous_end_bytes: u64,
}

/// Why the first block of a file is not a segment's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The file does not start as a segment does.
    NotASegment,
    /// A version of the format that this build does not know.
    Version {
        /// The version found.
        found: u32,
    },
    /// The checksum does not match.
    Checksum,
}

impl SegmentHeader {
    /// The header as the first block of a file.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "the header takes one block");
        assert!(self.previous < self.number, "numbers rise along the chain, from 1");
        assert!(
            (self.previous == 0) == (self.previous_end_bytes == 0),
            "a segment before this one has at least its own first block"
        );
        assert!(self.epoch.0 >= 1 && self.first_commit >= 1, "epochs and commits count from 1");
        block.fill(0);
        block[0..4].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        block[4..8].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[8..16].copy_from_slice(&self.node_id.to_le_bytes());
        block[16..24].copy_from_slice(&self.log.as_u64().to_le_bytes());
        block[24..32].copy_from_slice(&self.number.to_le_bytes());
        block[32..36].copy_from_slice(&self.epoch.0.to_le_bytes());
        block[40..48].copy_from_slice(&self.base_position.0.to_le_bytes());
        block[48..56].copy_from_slice(&self.first_commit.to_le_bytes());
        block[56..64].copy_from_slice(&self.previous.to_le_bytes());
        block[64..72].copy_from_slice(&self.previous_end_bytes.to_le_bytes());
        let crc = crc32c(&block[..72]);
        block[72..76].copy_from_slice(&crc.to_le_bytes());
    }

    /// Decodes and verifies the first block.
    ///
    /// # Errors
    /// It is not a segment's, or not of a version that is known here.
    pub fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        let used = block.first_chunk::<HEADER_USED_BYTES>().ok_or(HeaderError::NotASegment)?;
        let u32_at = |at: usize| u32::from_le_bytes(used[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(used[at..at + 8].try_into().expect("8 bytes"));
        if u32_at(0) != SEGMENT_MAGIC {
            return Err(HeaderError::NotASegment);
        }
        if crc32c(&used[..72]) != u32_at(72) {
            return Err(HeaderError::Checksum);
        }
        if u32_at(4) != FORMAT_VERSION {
            return Err(HeaderError::Version { found: u32_at(4) });
        }
        Ok(SegmentHeader {
            node_id: u64_at(8),
            log: LogKey::from_u64(u64_at(16)).ok_or(HeaderError::NotASegment)?,
            number: u64_at(24),
            epoch: Epoch(u32_at(32)),
            base_position: Position(u64_at(40)),
            first_commit: u64_at(48),
            previous: u64_at(56),
            previous_end_bytes: u64_at(64),
        })
    }
}

/// The file of segment `number`.
pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("seg-{number:012}.rms"))
}

/// The index beside segment `number`.
pub(crate) fn index_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("seg-{number:012}.rmx"))
}

/// The report about damage in segment `number`. While it exists the segment is neither removed nor recycled.
pub(crate) fn damage_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("seg-{number:012}.damaged"))
}

/// The number in a segment's file name. `None` for every other spelling of a number, so that no two files have one.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("seg-")?.strip_suffix(".rms")?.parse().ok()?;
    (number > 0 && segment_path(Path::new(""), number).as_os_str() == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy that somebody left under another spelling of a number would be replayed as that segment a second time,
    /// and the rest of the log be taken for damage.
    #[test]
    fn a_number_has_one_spelling() {
        assert_eq!(segment_number("seg-000000000012.rms"), Some(12));
        assert_eq!(segment_number("seg-1234567890123.rms"), Some(1_234_567_890_123));
        for other in ["seg-12.rms", "seg-+00000000012.rms", "seg-000000000000.rms", "seg-x.rms"] {
            assert_eq!(segment_number(other), None, "{other}");
        }
    }
}

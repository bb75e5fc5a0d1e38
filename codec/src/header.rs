//! The 80 bytes in front of every batch, on the wire and on disk.
//!
//! ```text
//!  0 u16 magic "RB"     2 u8 version     3 u8 content kind
//!  4 u16 flags          6 u16 partition
//!  8 u32 header CRC    12 u32 body CRC
//! 16 u32 body length   20 u32 count
//! 24 u32 topic id      28 u32 epoch
//! 32 u64 base position
//! 40 u64 base offset
//! 48 u64 durable end
//! 56 u64 append time
//! 64 u64 publisher id
//! 72 u64 sequence
//! 80 body
//! ```
//!
//! All numbers are little-endian. The header CRC covers the other 76 bytes and is seeded: with 0 on the wire, with
//! log, segment and byte position on disk, so that a header that is read from elsewhere, or left over from a
//! segment's former life, never verifies.

use crate::crc32c::crc32c;
use crate::error::DecodeError;
use crate::ids::{Epoch, Offset, Partition, Position, Timestamp, TopicId};
use crate::limits::{BATCH_EVENTS_MAX, BATCH_HEADER_BYTES, BODY_BYTES_MAX};

/// "RB", little-endian.
pub const MAGIC: u16 = 0x4252;
/// The only version so far.
pub const VERSION: u8 = 1;
/// Size of the header as an array length.
pub const HEADER_BYTES: usize = BATCH_HEADER_BYTES as usize;
/// The two flag bits that name the compression of the body; 0 is none, the others are not yet given.
pub const COMPRESSION_MASK: u16 = 0b11;

/// What the header CRC starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderSeed(u32);

impl HeaderSeed {
    /// The seed on the wire, where a batch has no place yet.
    pub const WIRE: HeaderSeed = HeaderSeed(0);

    /// The seed of a batch that stands at byte `at` of segment `segment` of log `log`.
    #[must_use]
    pub fn on_disk(log: u64, segment: u64, at: u64) -> HeaderSeed {
        let mut place = [0; 24];
        place[..8].copy_from_slice(&log.to_le_bytes());
        place[8..16].copy_from_slice(&segment.to_le_bytes());
        place[16..].copy_from_slice(&at.to_le_bytes());
        HeaderSeed(crc32c(&place))
    }
}

/// What a batch's body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ContentKind {
    /// Events of one topic and one partition.
    Events = 1,
    /// Records of the log itself (topics, cursors, durable marks). Never on the wire, and no event: its count is 0.
    Control = 2,
}

/// The header of a batch, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// What the body holds.
    pub content: ContentKind,
    /// Bits 0 and 1: compression of the body, 0 = none. All others are 0.
    pub flags: u16,
    /// Partition of all events of the batch. From a publisher it may be [`Partition::ANY`].
    pub partition: Partition,
    /// CRC-32C of the body alone. Made by whoever made the body, and never recomputed.
    pub body_crc: u32,
    /// Bytes of the body. Padding up to the next batch is not counted.
    pub body_len: u32,
    /// Events in the body.
    pub count: u32,
    /// On disk the log's number of the topic; on the wire the number announced on that connection.
    pub topic: TopicId,
    /// Epoch of the log when the batch was appended. 0 from a publisher.
    pub epoch: Epoch,
    /// Position of the first event. 0 from a publisher.
    pub base_position: Position,
    /// Offset of the first event. 0 from a publisher.
    pub base_offset: Offset,
    /// Every event before this position was known durable when this batch was written. 0 from a publisher.
    pub durable_end: Position,
    /// When the batch was appended. 0 from a publisher.
    pub append_time: Timestamp,
    /// Who published, for idempotent publish; 0 when unused.
    pub publisher_id: u64,
    /// The publisher's number of this batch; 0 when unused.
    pub sequence: u64,
}

impl BatchHeader {
    /// A header as a publisher makes it: everything that append stamps is 0.
    #[must_use]
    pub fn unstamped(topic: TopicId, partition: Partition, body: &[u8], count: u32) -> Self {
        assert!(body.len() <= BODY_BYTES_MAX as usize, "the builder keeps bodies within the limit");
        BatchHeader {
            content: ContentKind::Events,
            flags: 0,
            partition,
            body_crc: crc32c(body),
            body_len: body.len() as u32,
            count,
            topic,
            epoch: Epoch(0),
            base_position: Position(0),
            base_offset: Offset(0),
            durable_end: Position(0),
            append_time: Timestamp(0),
            publisher_id: 0,
            sequence: 0,
        }
    }

    /// The header as it stands in front of its body, its CRC seeded with `seed`.
    #[must_use]
    pub fn encode(&self, seed: HeaderSeed) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        out[2] = VERSION;
        out[3] = self.content as u8;
        out[4..6].copy_from_slice(&self.flags.to_le_bytes());
        out[6..8].copy_from_slice(&self.partition.0.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_len.to_le_bytes());
        out[20..24].copy_from_slice(&self.count.to_le_bytes());
        out[24..28].copy_from_slice(&self.topic.0.to_le_bytes());
        out[28..32].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.base_position.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.durable_end.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.append_time.0.to_le_bytes());
        out[64..72].copy_from_slice(&self.publisher_id.to_le_bytes());
        out[72..80].copy_from_slice(&self.sequence.to_le_bytes());
        // The place of the CRC itself holds the seed while the CRC is computed.
        out[8..12].copy_from_slice(&seed.0.to_le_bytes());
        let crc = crc32c(&out);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes and verifies a header.
    ///
    /// # Errors
    /// Names the first field that is not as this version writes it.
    pub fn decode(bytes: &[u8; HEADER_BYTES], seed: HeaderSeed) -> Result<Self, DecodeError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if u16_at(0) != MAGIC {
            return Err(DecodeError::Magic { found: u16_at(0) });
        }
        if bytes[2] != VERSION {
            return Err(DecodeError::Version { found: bytes[2] });
        }
        let mut seeded = *bytes;
        seeded[8..12].copy_from_slice(&seed.0.to_le_bytes());
        if crc32c(&seeded) != u32_at(8) {
            return Err(DecodeError::HeaderChecksum);
        }
        let content = match bytes[3] {
            1 => ContentKind::Events,
            2 => ContentKind::Control,
            found => return Err(DecodeError::Content { found }),
        };
        let header = BatchHeader {
            content,
            flags: u16_at(4),
            partition: Partition(u16_at(6)),
            body_crc: u32_at(12),
            body_len: u32_at(16),
            count: u32_at(20),
            topic: TopicId(u32_at(24)),
            epoch: Epoch(u32_at(28)),
            base_position: Position(u64_at(32)),
            base_offset: Offset(u64_at(40)),
            durable_end: Position(u64_at(48)),
            append_time: Timestamp(u64_at(56)),
            publisher_id: u64_at(64),
            sequence: u64_at(72),
        };
        header.check()
    }

    /// Bytes from the start of this batch to the end of its body.
    #[must_use]
    pub fn batch_len(&self) -> usize {
        HEADER_BYTES + self.body_len as usize
    }

    /// The position after the last event.
    #[must_use]
    pub fn end_position(&self) -> Position {
        self.base_position.plus(u64::from(self.count))
    }

    fn check(self) -> Result<Self, DecodeError> {
        // No compression is defined in version 1, so every flag is reserved.
        if self.flags != 0 {
            return Err(DecodeError::Flags { found: self.flags });
        }
        let limit = |field, limit: u32, value: u32| DecodeError::Limit {
            field,
            limit: u64::from(limit),
            value: u64::from(value),
        };
        if self.body_len > BODY_BYTES_MAX {
            return Err(limit("batch body bytes", BODY_BYTES_MAX, self.body_len));
        }
        if self.count > BATCH_EVENTS_MAX {
            return Err(limit("batch events", BATCH_EVENTS_MAX, self.count));
        }
        let count = u64::from(self.count);
        if self.base_position.0.checked_add(count).is_none() {
            return Err(DecodeError::Malformed { field: "batch base position" });
        }
        if self.base_offset.0.checked_add(count).is_none() {
            return Err(DecodeError::Malformed { field: "batch base offset" });
        }
        match self.content {
            ContentKind::Events if self.count == 0 => {
                Err(DecodeError::Malformed { field: "batch events" })
            }
            ContentKind::Control if self.count != 0 => {
                Err(DecodeError::Malformed { field: "batch events" })
            }
            _ => Ok(self),
        }
    }
}

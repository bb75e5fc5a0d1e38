//! The token of a delivery: carries all that is needed to find its way home, so that no connection needs a table.
//!
//! ```text
//!  0 u32 CRC-32C of the other 44 bytes
//!  4 u32 node, the low half of its id
//!  8 u32 generation   12 u16 log   14 u16 reserved, 0
//! 16 u32 epoch        20 u32 delivery, the number of this delivery of the batch
//! 24 u64 group
//! 32 u64 position of the batch's first event
//! 40 u32 count of the batch   44 u32 attempt
//! ```

use codec::crc32c::crc32c;
use codec::ids::{Epoch, Position};
use log::disk::LogKey;
use routing::subscription::GroupId;

/// Size of a token. Clients treat it as opaque and of at most 64 bytes.
pub const TOKEN_BYTES: usize = 48;

/// An encoded token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; TOKEN_BYTES]);

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenFields {
    /// Low half of the id of the node that delivered.
    pub node: u32,
    /// The log the batch stands in.
    pub log: LogKey,
    /// The log's epoch at the delivery: deliveries of an earlier life of the server are over.
    pub epoch: Epoch,
    /// Rises with each delivery of any part of the batch within its group.
    pub delivery: u32,
    /// The group it was delivered for.
    pub group: GroupId,
    /// Position of the batch's first event.
    pub base_position: Position,
    /// Events in the batch.
    pub count: u32,
    /// How often these events have been delivered, this time included.
    pub attempt: u32,
}

impl TokenFields {
    /// The token's bytes.
    #[must_use]
    pub fn encode(&self) -> Token {
        assert!(
            self.count > 0 && self.attempt > 0,
            "deliveries have events, and attempts count from 1"
        );
        let mut out = [0; TOKEN_BYTES];
        out[4..8].copy_from_slice(&self.node.to_le_bytes());
        out[8..12].copy_from_slice(&self.log.generation.to_le_bytes());
        out[12..14].copy_from_slice(&self.log.log.to_le_bytes());
        out[16..20].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[20..24].copy_from_slice(&self.delivery.to_le_bytes());
        out[24..32].copy_from_slice(&self.group.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.base_position.0.to_le_bytes());
        out[40..44].copy_from_slice(&self.count.to_le_bytes());
        out[44..48].copy_from_slice(&self.attempt.to_le_bytes());
        let crc = crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        Token(out)
    }

    /// Reads a token that came back. `None` if it is not one that a server made.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; TOKEN_BYTES] = bytes.try_into().ok()?;
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if crc32c(&bytes[4..]) != u32_at(0) {
            return None;
        }
        Some(TokenFields {
            node: u32_at(4),
            log: LogKey { generation: u32_at(8), log: u16::from_le_bytes([bytes[12], bytes[13]]) },
            epoch: Epoch(u32_at(16)),
            delivery: u32_at(20),
            group: GroupId(u64_at(24)),
            base_position: Position(u64_at(32)),
            count: u32_at(40),
            attempt: u32_at(44),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token comes back from outside: it must survive the way, and a forged or damaged one must not pass.
    #[test]
    fn survives_and_is_guarded() {
        let fields = TokenFields {
            node: 7,
            log: LogKey { generation: 3, log: 65_535 },
            epoch: Epoch(9),
            delivery: 1,
            group: GroupId(u64::MAX),
            base_position: Position(1 << 40),
            count: 8_192,
            attempt: 2,
        };
        let token = fields.encode();
        assert_eq!(TokenFields::decode(&token.0), Some(fields));
        for bit in 0..TOKEN_BYTES * 8 {
            let mut damaged = token.0;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(TokenFields::decode(&damaged), None, "bit {bit}");
        }
        assert_eq!(TokenFields::decode(&token.0[..47]), None);
    }
}

//! Publishers in a checkpoint: entries, back to back, the numbers little-endian.
//!
//! ```text
//!  0 u64 publisher id    8 u16 partition    10 u16 sequences    12 u32 zero    16 u64 when heard
//! 24 sequences * (u64 sequence, u64 base offset, u32 topic, u32 body CRC)
//! ```

use codec::error::DecodeError;
use codec::ids::{Offset, Partition, Timestamp, TopicId};

use super::{PAIRS_MAX, Publishers, Remembered, SEQUENCES_MAX};
use crate::control::{take_u32, take_u64};

impl Publishers {
    /// Encodes entries from slot `next` on until `out` has `bytes`; returns the slot to go on from, `None` at the end.
    pub(crate) fn encode(&self, mut next: u32, bytes: usize, out: &mut Vec<u8>) -> Option<u32> {
        while let Some(pair) = self.pairs.get(next as usize) {
            if out.len() >= bytes {
                return Some(next);
            }
            next += 1;
            if pair.publisher == 0 {
                continue;
            }
            let sequences = u16::try_from(pair.sequences.len()).expect("at most SEQUENCES_MAX");
            out.extend_from_slice(&pair.publisher.to_le_bytes());
            out.extend_from_slice(&pair.partition.0.to_le_bytes());
            out.extend_from_slice(&sequences.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&pair.heard.0.to_le_bytes());
            for known in &pair.sequences {
                out.extend_from_slice(&known.sequence.to_le_bytes());
                out.extend_from_slice(&known.base_offset.0.to_le_bytes());
                out.extend_from_slice(&known.topic.0.to_le_bytes());
                out.extend_from_slice(&known.body_crc.to_le_bytes());
            }
        }
        None
    }

    /// Adds the entries of one frame.
    pub(crate) fn decode(&mut self, mut bytes: &[u8]) -> Result<(), DecodeError> {
        let malformed = DecodeError::Malformed { field: "checkpoint publisher" };
        while !bytes.is_empty() {
            let publisher = take_u64(&mut bytes)?;
            let numbers = take_u32(&mut bytes)?;
            let (partition, sequences) = (Partition(numbers as u16), (numbers >> 16) as usize);
            let reserved = take_u32(&mut bytes)?;
            let heard = Timestamp(take_u64(&mut bytes)?);
            let is_known = self.slots.contains_key(&(publisher, partition));
            let is_sound = publisher != 0 && reserved == 0 && !is_known && self.len() < PAIRS_MAX;
            if !is_sound || !(1..=SEQUENCES_MAX).contains(&sequences) {
                return Err(malformed);
            }
            let slot = self.slot(publisher, partition, heard);
            for _ in 0..sequences {
                let known = Remembered {
                    sequence: take_u64(&mut bytes)?,
                    base_offset: Offset(take_u64(&mut bytes)?),
                    topic: TopicId(take_u32(&mut bytes)?),
                    body_crc: take_u32(&mut bytes)?,
                };
                let newest = self.pairs[slot as usize].newest_sequence();
                if known.sequence <= newest {
                    return Err(malformed);
                }
                self.push(slot, known, heard);
            }
        }
        Ok(())
    }

    /// All entries are decoded: puts them into the order in which they were heard.
    pub(crate) fn decoded(&mut self) {
        let mut slots: Vec<u32> = self.slots.values().copied().collect();
        slots.sort_unstable_by_key(|slot| (self.pairs[*slot as usize].heard, *slot));
        for slot in slots {
            self.unlink(slot);
            self.link_newest(slot);
        }
        self.check_all();
    }
}

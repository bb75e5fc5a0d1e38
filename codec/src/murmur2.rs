//! MurmurHash2 as Kafka's Java client computes it, so that a key has the same partition by whatever door it came.
//!
//! Source: `org.apache.kafka.common.utils.Utils.murmur2` and `toPositive`, as documented for the default partitioner.

use crate::ids::Partition;

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;

/// The hash of `key`, equal to Kafka's `Utils.murmur2`.
#[must_use]
pub fn murmur2(key: &[u8]) -> u32 {
    // Kafka hashes the length as a Java int; a key is far shorter than 4 GiB.
    let mut hash = SEED ^ (key.len() as u32);
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(MULTIPLIER);
        k ^= k >> 24;
        k = k.wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ k;
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// The partition of `key` among `partitions`: `toPositive(murmur2(key)) % partitions`.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u16) -> Partition {
    assert!(partitions > 0, "a folder has partitions");
    Partition(((murmur2(key) & 0x7fff_ffff) % u32::from(partitions)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own UtilsTest: another hash would split keys between Kafka's clients and ours.
    #[test]
    fn equals_kafka() {
        let vectors: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, expected) in vectors {
            assert_eq!(murmur2(key) as i32, expected, "{key:?}");
        }
    }
}

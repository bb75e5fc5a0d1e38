//! Kafka's record batch (format 2), as far as a load generator needs it.
//!
//! ```text
//! base offset i64 | length i32 | leader epoch i32 | magic 2 i8 | crc32c u32 | attributes i16 | last offset delta i32 |
//! first and last timestamp i64 | producer id i64 | epoch i16 | first sequence i32 | count i32 | records
//! ```

use anyhow::{Context, bail, ensure};
use codec::crc32c::crc32c;

/// Bytes before the records.
const HEADER_BYTES: usize = 61;
/// Bytes before what `length` counts.
const LENGTH_END: usize = 12;
/// Where the bytes start that the checksum covers.
const CRC_END: usize = 21;
const MAGIC: u8 = 2;

/// A batch under construction, at the end of a buffer.
pub(crate) struct BatchWriter {
    start: usize,
    count: u32,
}

impl BatchWriter {
    /// Starts a batch at the end of `out`; `now_ms` is the time of its records.
    pub(crate) fn start(now_ms: i64, out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.resize(start + LENGTH_END, 0);
        out.extend_from_slice(&(-1i32).to_be_bytes()); // leader epoch: not known
        out.push(MAGIC);
        out.extend_from_slice(&[0; 4 + 2 + 4]); // checksum, attributes, last offset delta
        out.extend_from_slice(&now_ms.to_be_bytes());
        out.extend_from_slice(&now_ms.to_be_bytes());
        out.extend_from_slice(&(-1i64).to_be_bytes()); // producer id: not idempotent
        out.extend_from_slice(&(-1i16).to_be_bytes());
        out.extend_from_slice(&(-1i32).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        assert_eq!(out.len() - start, HEADER_BYTES, "the fields above are the header");
        BatchWriter { start, count: 0 }
    }

    /// Adds a record whose value is `value_bytes` long and is appended by `value`.
    pub(crate) fn push(
        &mut self,
        key: Option<&[u8]>,
        value_bytes: usize,
        value: impl FnOnce(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        let key_length = key.map_or(-1, |key| key.len() as i64);
        let key_bytes = key.map_or(0, <[u8]>::len);
        let fixed = 1 + 1 + 1; // attributes, timestamp delta 0, no headers
        let length = fixed
            + varint_bytes(i64::from(self.count))
            + varint_bytes(key_length)
            + key_bytes
            + varint_bytes(value_bytes as i64)
            + value_bytes;
        put_varint(length as i64, out);
        let start = out.len();
        out.extend_from_slice(&[0, 0]);
        put_varint(i64::from(self.count), out);
        put_varint(key_length, out);
        out.extend_from_slice(key.unwrap_or_default());
        put_varint(value_bytes as i64, out);
        value(out);
        out.push(0);
        assert_eq!(out.len() - start, length, "a record is as long as it says");
        self.count += 1;
    }

    /// Fills in what is known at the end.
    pub(crate) fn finish(self, out: &mut [u8]) {
        assert!(self.count > 0, "a batch has records");
        let batch = &mut out[self.start..];
        let length = (batch.len() - LENGTH_END) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[23..27].copy_from_slice(&(self.count as i32 - 1).to_be_bytes());
        batch[57..61].copy_from_slice(&(self.count as i32).to_be_bytes());
        let crc = crc32c(&batch[CRC_END..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

/// Calls `on_value` with the value of each record of the whole batches in `bytes`. Returns the offset after the last, or `None` when there is none. A broker may cut the last batch short.
pub(crate) fn each_value(
    mut bytes: &[u8],
    mut on_value: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<Option<i64>> {
    let mut next = None;
    while let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let field =
            |at: usize| i32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = usize::try_from(field(8)).context("a batch has a length")?;
        let Some(batch) = bytes.get(..LENGTH_END + length) else { break };
        bytes = &bytes[batch.len()..];
        ensure!(batch.len() >= HEADER_BYTES, "a batch is shorter than its header");
        ensure!(head[16] == MAGIC, "a batch has format {}", head[16]);
        ensure!(head[22] & 7 == 0, "a batch is compressed");
        ensure!(crc32c(&batch[CRC_END..]) == field(17) as u32, "a delivery is damaged");
        let base = i64::from_be_bytes(*head.first_chunk().context("a batch has an offset")?);
        next = Some(base + i64::from(field(23)) + 1);
        let mut records = Reader { bytes: &batch[HEADER_BYTES..] };
        for _ in 0..field(57) {
            let length = records.length()?.context("a record has a length")?;
            let mut record = Reader { bytes: records.take(length)? };
            record.take(1)?;
            record.varint()?;
            record.varint()?;
            let key = record.length()?.unwrap_or(0);
            record.take(key)?;
            let value = record.length()?.unwrap_or(0);
            on_value(record.take(value)?)?;
        }
    }
    Ok(next)
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).context("a record is cut short")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> anyhow::Result<i64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        bail!("a number in a record does not end");
    }

    /// A length; `None` is a null.
    fn length(&mut self) -> anyhow::Result<Option<usize>> {
        Ok(usize::try_from(self.varint()?).ok())
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn varint_bytes(value: i64) -> usize {
    let bits = 64 - zigzag(value).leading_zeros() as usize;
    bits.div_ceil(7).max(1)
}

fn put_varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(values: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = BatchWriter::start(1_700_000_000_000, &mut out);
        for (index, value) in values.iter().enumerate() {
            let key = format!("key-{index}");
            let key = (index % 2 == 0).then_some(key.as_bytes());
            writer.push(key, value.len(), |out| out.extend_from_slice(value), &mut out);
        }
        writer.finish(&mut out);
        out
    }

    fn values(bytes: &[u8]) -> anyhow::Result<(Vec<Vec<u8>>, Option<i64>)> {
        let mut found = Vec::new();
        let next = each_value(bytes, |value| {
            found.push(value.to_vec());
            Ok(())
        })?;
        Ok((found, next))
    }

    /// What is written must be what is read, lengths of one and of more bytes, with and without keys; a batch that the
    /// broker cut short is not there yet, and a flipped bit is an error.
    #[test]
    fn batches_come_back_whole_or_not_at_all() {
        let long = vec![7; 300];
        let one = batch(&[b"a", &long, b""]);
        let both = [&one[..], &batch(&[b"z"])].concat();
        let expected = vec![b"a".to_vec(), long.clone(), Vec::new()];
        assert_eq!(values(&one).unwrap(), (expected.clone(), Some(3)));
        for cut in one.len()..both.len() {
            assert_eq!(values(&both[..cut]).unwrap(), (expected.clone(), Some(3)), "cut at {cut}");
        }
        assert_eq!(values(&both).unwrap().0.len(), 4);
        for at in CRC_END..one.len() {
            let mut bad = one.clone();
            bad[at] ^= 4;
            assert!(values(&bad).is_err(), "flipped at {at}");
        }
    }

    /// An encoder that only agrees with its own reader is refused by Kafka: the bytes are those of its protocol's guide.
    #[test]
    fn numbers_are_zigzag() {
        for (value, expected) in
            [(0, &[0][..]), (-1, &[1]), (1, &[2]), (63, &[126]), (64, &[128, 1]), (300, &[216, 4])]
        {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            assert_eq!(out, expected, "{value}");
            assert_eq!(varint_bytes(value), out.len());
            assert_eq!(Reader { bytes: &out }.varint().unwrap(), value);
        }
    }
}

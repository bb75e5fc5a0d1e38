//! What one pattern says of topics, in the catalog. Little-endian; the catalog's version covers it.
//!
//! ```text
//!   for each field that is said: u8 field | its value
//!   1 ack: u8 level | 2 retention: u64 seconds | 3 retention: u64 bytes | 4 largest event: u32 bytes
//!   5 creation: u8 0 or 1 | 6 order: u8 0 key, 1 topic
//! ```

use codec::ack::AckLevel;
use routing::topic_policy::{TopicOrder, TopicPolicy};

pub(super) fn encode(policy: &TopicPolicy) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    if let Some(level) = policy.ack {
        bytes.extend([1, level as u8]);
    }
    for (field, value) in [(2, policy.retention_seconds), (3, policy.retention_bytes)] {
        if let Some(value) = value {
            bytes.push(field);
            bytes.extend(value.to_le_bytes());
        }
    }
    if let Some(most) = policy.event_bytes_max {
        bytes.push(4);
        bytes.extend(most.to_le_bytes());
    }
    if let Some(create) = policy.create {
        bytes.extend([5, u8::from(create)]);
    }
    if let Some(order) = policy.order {
        bytes.extend([6, u8::from(order == TopicOrder::Topic)]);
    }
    assert_eq!(bytes.is_empty(), policy.is_empty(), "every field that is said is written");
    bytes
}

/// The policy from its record; or which field is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<TopicPolicy, &'static str> {
    let mut rest = bytes;
    let mut policy = TopicPolicy::default();
    let mut last = 0;
    while let Some((field, value)) = rest.split_first() {
        if *field <= last {
            return Err("order of fields");
        }
        (last, rest) = (*field, value);
        match field {
            1 => {
                let [level] = take(&mut rest, "ack")?;
                policy.ack = Some(AckLevel::from_number(level).ok_or("ack")?);
            }
            2 => policy.retention_seconds = Some(u64::from_le_bytes(take(&mut rest, "retention")?)),
            3 => policy.retention_bytes = Some(u64::from_le_bytes(take(&mut rest, "retention")?)),
            4 => policy.event_bytes_max = Some(u32::from_le_bytes(take(&mut rest, "event size")?)),
            5 => policy.create = Some(take::<1>(&mut rest, "creation")? != [0]),
            6 => {
                policy.order = Some(match take(&mut rest, "order")? {
                    [0] => TopicOrder::Key,
                    [1] => TopicOrder::Topic,
                    _ => return Err("order"),
                });
            }
            _ => return Err("field"),
        }
    }
    Ok(policy)
}

fn take<const N: usize>(rest: &mut &[u8], field: &'static str) -> Result<[u8; N], &'static str> {
    let (taken, left) = rest.split_first_chunk().ok_or(field)?;
    *rest = left;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> TopicPolicy {
        TopicPolicy {
            ack: Some(AckLevel::Written),
            retention_seconds: Some(0x0102_0304_0506),
            retention_bytes: Some(u64::MAX),
            event_bytes_max: Some(7),
            create: Some(true),
            order: Some(TopicOrder::Topic),
        }
    }

    /// A field that does not come back would hold until the next restart and not after it.
    #[test]
    fn policies_come_back() {
        let some =
            TopicPolicy { retention_bytes: Some(0), create: Some(false), ..Default::default() };
        for policy in [all(), some, TopicPolicy::default()] {
            assert_eq!(decode(&encode(&policy)), Ok(policy));
        }
    }

    /// A record that was cut or has one field twice must be told, not guessed at.
    #[test]
    fn damaged_records_are_told() {
        let bytes = encode(&all());
        let whole = [2, 11, 20, 25, 27];
        for cut in 1..bytes.len() {
            assert_eq!(decode(&bytes[..cut]).is_ok(), whole.contains(&cut), "cut at {cut}");
        }
        assert_eq!(decode(&[5, 1, 5, 1]), Err("order of fields"));
        assert_eq!(decode(&[9, 1]), Err("field"));
        assert_eq!(decode(&[1, 9]), Err("ack"));
    }
}

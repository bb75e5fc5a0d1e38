//! A deletion of a topic that was begun and may not be done, in the catalog. Little-endian; the catalog's version covers it.
//!
//! ```text
//!   u16 length, topic | u8 logs: 0 all, 1 only these: (u32 generation, u16 log) each, to the end
//! ```

use std::sync::Arc;

use codec::limits::TOPIC_BYTES_MAX;
use dataplane::control::LogName;

use super::BegunDeletion;

const _: () = assert!(TOPIC_BYTES_MAX <= u16::MAX as usize, "a topic's length fits its field");

pub(super) fn encode(deletion: &BegunDeletion) -> Vec<u8> {
    let topic = deletion.topic.as_bytes();
    let length = u16::try_from(topic.len()).expect("topics are bounded before");
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(length.to_le_bytes());
    bytes.extend(topic);
    bytes.push(u8::from(deletion.logs.is_some()));
    for (generation, log) in deletion.logs.iter().flatten() {
        bytes.extend(generation.to_le_bytes());
        bytes.extend(log.to_le_bytes());
    }
    bytes
}

/// The deletion from its record; or which field is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<BegunDeletion, &'static str> {
    let (length, rest) = bytes.split_first_chunk().ok_or("topic")?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (topic, rest) = rest.split_at_checked(length).ok_or("topic")?;
    let topic = std::str::from_utf8(topic).map_err(|_| "topic")?;
    let (kind, rest) = rest.split_first().ok_or("logs")?;
    let logs = match (kind, rest.as_chunks::<6>()) {
        (0, ([], [])) => None,
        (1, (listed, [])) => Some(listed.iter().map(log_of).collect()),
        _ => return Err("logs"),
    };
    Ok(BegunDeletion { topic: Arc::from(topic), logs })
}

fn log_of([a, b, c, d, log @ ..]: &[u8; 6]) -> LogName {
    (u32::from_le_bytes([*a, *b, *c, *d]), u16::from_le_bytes(*log))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A deletion that comes back as another one deletes what nobody wanted to lose; one that is cut must be told.
    #[test]
    fn deletions_come_back_or_are_told_to_be_damaged() {
        for logs in [None, Some(Vec::new()), Some(vec![(1, 0), (u32::MAX, u16::MAX)])] {
            let deletion = BegunDeletion { topic: "fleet/é".into(), logs };
            let bytes = encode(&deletion);
            assert_eq!(decode(&bytes), Ok(deletion.clone()));
            for cut in 0..bytes.len() {
                assert_ne!(decode(&bytes[..cut]), Ok(deletion.clone()), "cut at {cut}");
            }
        }
        assert_eq!(decode(&[1, 0, 0xff, 0]), Err("topic"));
        assert_eq!(decode(&[1, 0, b'a', 2]), Err("logs"));
        assert_eq!(decode(&[1, 0, b'a', 0, 1, 0, 0, 0, 1, 0]), Err("logs"));
    }
}

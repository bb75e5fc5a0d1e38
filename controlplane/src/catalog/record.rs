//! A durable subscription in the catalog. Little-endian; the catalog's version covers it.
//!
//! ```text
//!   u64 group | u8 mode: 0 clustering, 1 broadcasting | u8 start | the start's value
//!   u16 length, group name | u16 length, filter
//!
//!   start: 0 tail, 1 earliest: no value | 2 time: u64 us since 1970 | 3 offsets: u16 count, then (u16 partition,
//!   u64 offset) each
//! ```

use std::sync::Arc;

use codec::ids::{Offset, Partition, Timestamp};
use codec::limits::{PARTITIONS, TOPIC_BYTES_MAX};
use routing::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId};
use routing::topic::TopicFilter;

const _: () = assert!(TOPIC_BYTES_MAX <= u16::MAX as usize, "a filter's length fits its field");

pub(super) fn encode(subscription: &Subscription) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(subscription.group.0.to_le_bytes());
    bytes.push(match subscription.mode {
        Mode::Clustering => 0,
        Mode::Broadcasting => 1,
    });
    match &subscription.start {
        Start::Tail => bytes.push(0),
        Start::Earliest => bytes.push(1),
        Start::Time(time) => {
            bytes.push(2);
            bytes.extend(time.0.to_le_bytes());
        }
        Start::Offsets(offsets) => {
            bytes.push(3);
            bytes.extend(length_of(offsets.len()));
            for (partition, offset) in offsets {
                bytes.extend(partition.0.to_le_bytes());
                bytes.extend(offset.0.to_le_bytes());
            }
        }
    }
    for text in [&*subscription.group_name, subscription.filter.as_str()] {
        bytes.extend(length_of(text.len()));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// The subscription `id` from its record; or which field is wrong.
pub(super) fn decode(id: SubscriptionId, bytes: &[u8]) -> Result<Subscription, &'static str> {
    let mut rest = bytes;
    let group = GroupId(u64::from_le_bytes(take(&mut rest, "group")?));
    let mode = match take::<1>(&mut rest, "mode")? {
        [0] => Mode::Clustering,
        [1] => Mode::Broadcasting,
        _ => return Err("mode"),
    };
    let start = take_start(&mut rest)?;
    let group_name = Arc::from(take_text(&mut rest, "group name")?);
    let filter = TopicFilter::new(take_text(&mut rest, "filter")?).map_err(|_| "filter")?;
    if !rest.is_empty() {
        return Err("end");
    }
    Ok(Subscription { id, group, group_name, filter, mode, start, ephemeral_client: None })
}

fn take_start(rest: &mut &[u8]) -> Result<Start, &'static str> {
    Ok(match take::<1>(rest, "start")? {
        [0] => Start::Tail,
        [1] => Start::Earliest,
        [2] => Start::Time(Timestamp(u64::from_le_bytes(take(rest, "start")?))),
        [3] => {
            let count = u16::from_le_bytes(take(rest, "start")?);
            if count > PARTITIONS {
                return Err("start");
            }
            let mut offsets = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                let partition = Partition(u16::from_le_bytes(take(rest, "start")?));
                offsets.push((partition, Offset(u64::from_le_bytes(take(rest, "start")?))));
            }
            Start::Offsets(offsets)
        }
        _ => return Err("start"),
    })
}

fn length_of(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("names, filters and offsets are bounded before").to_le_bytes()
}

fn take<const N: usize>(rest: &mut &[u8], field: &'static str) -> Result<[u8; N], &'static str> {
    let (taken, left) = rest.split_first_chunk().ok_or(field)?;
    *rest = left;
    Ok(*taken)
}

fn take_text<'a>(rest: &mut &'a [u8], field: &'static str) -> Result<&'a str, &'static str> {
    let length = usize::from(u16::from_le_bytes(take(rest, field)?));
    let (taken, left) = rest.split_at_checked(length).ok_or(field)?;
    *rest = left;
    std::str::from_utf8(taken).map_err(|_| field)
}

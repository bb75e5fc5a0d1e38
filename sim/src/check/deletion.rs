//! A deleted topic stays deleted: once its deletion was answered, nothing that stood of it then is delivered but what was
//! on its way, and no recovery finds it. Until then an event of it may be there or not.

use std::collections::BTreeMap;

use codec::ids::{Offset, Partition};
use log::disk::LogKey;
use log::log::Log;
use routing::topic::TopicName;

use super::order::MAIL_US_MAX;
use super::retention::is_below;
use crate::audit::Audit;
use crate::ledger::{BatchId, Checked, Fate, Ledger, Place, violated};

const CHECK: &str = "deleted stays deleted";

/// A partition of a topic (by its index in the run) in a log, and the first offset that its deletion left.
type End = ((LogKey, usize, Partition), Offset);

/// Where a topic ends in each of these logs: the offsets that come next.
pub fn standing<'a>(
    logs: impl Iterator<Item = &'a Log>,
    topic: &TopicName,
    index: usize,
) -> BTreeMap<(LogKey, usize, Partition), Offset> {
    let mut ends = BTreeMap::new();
    for log in logs {
        let Some(id) = log.topic_id(topic.as_str()) else { continue };
        let places = log.partitions(id);
        ends.extend(places.map(|place| ((log.key(), index, place.partition), place.next)));
    }
    ends
}

/// A deletion is over, whether it was answered or finished by a start: nothing of what stood may be kept by any log.
///
/// # Errors
/// Something is.
pub fn check_whole<'a>(
    ledger: &Ledger,
    logs: impl Iterator<Item = &'a Log>,
    ends: &BTreeMap<(LogKey, usize, Partition), Offset>,
) -> Checked {
    let logs: BTreeMap<LogKey, &Log> = logs.map(|log| (log.key(), log)).collect();
    for ((key, topic, partition), end) in ends {
        // One of an earlier generation of which nothing is left is gone.
        let Some(log) = logs.get(key) else { continue };
        let name = ledger.topics[*topic].as_str();
        let Some(id) = log.topic_id(name).or_else(|| log.deleted_topic_id(name)) else {
            violated!(CHECK, "{key} has forgotten {name}, and its offsets");
        };
        let start = log.logical_start(id, *partition);
        if start < *end {
            violated!(
                CHECK,
                "{key} keeps {name} {partition} from {start} on, to be deleted up to {end}"
            );
        }
    }
    Ok(())
}

/// A shard has deleted a topic from these logs: what stands of it there may be gone from now on. Returns how many events
/// are.
pub fn note_begun<'a>(
    ledger: &mut Ledger,
    logs: impl Iterator<Item = &'a Log>,
    topic: usize,
) -> u64 {
    let name = ledger.topics[topic].clone();
    let mut ends: Vec<End> = Vec::new();
    for log in logs {
        // Begun again in the same cycle, it has its name again.
        let name = name.as_str();
        let Some(id) = log.topic_id(name).or_else(|| log.deleted_topic_id(name)) else { continue };
        let places = log.partitions(id);
        ends.extend(places.map(|place| ((log.key(), topic, place.partition), place.start)));
    }
    for (key, end) in &ends {
        let first = ledger.first_offsets.entry(*key).or_default();
        *first = (*first).max(*end);
        let taken = ledger.taken_before.entry(*key).or_default();
        *taken = (*taken).max(*end);
    }
    let mut gone = 0;
    for index in 0..ledger.sent.len() {
        let (id, sent) = (BatchId(index as u32), &ledger.sent[index]);
        let is_gone = match ledger.places.get(&id) {
            Some(place) => is_at(&ends, place, sent.topic),
            None => sent.topic == topic && is_below(ledger, id, sent.fate),
        };
        if is_gone && !sent.is_expired {
            gone += sent.keys.len() as u64;
            let sent = &mut ledger.sent[index];
            (sent.is_expired, sent.is_deleted) = (true, true);
        }
    }
    gone
}

/// Notes that a batch is gone, and whether a deletion has taken it, answered or not.
pub fn note_gone(ledger: &mut Ledger, id: BatchId) {
    let sent = ledger.attempt(id);
    let at = match (ledger.places.get(&id), sent.fate) {
        (Some(place), _) => Some(((place.log, sent.topic, place.partition), place.offset)),
        (None, Fate::Acknowledged { partition, offset, log, .. }) => {
            Some(((log, sent.topic, partition), offset))
        }
        (None, _) => None,
    };
    let taken = &ledger.taken_before;
    let is_taken = |(key, offset)| taken.get(&key).is_some_and(|end| offset < *end);
    let is_deleted = at.is_some_and(is_taken);
    let sent = ledger.attempt_mut(id);
    sent.is_expired = true;
    sent.is_deleted |= is_deleted;
}

fn is_at(ends: &[End], place: &Place, topic: usize) -> bool {
    let key = (place.log, topic, place.partition);
    ends.iter().any(|(of, end)| *of == key && place.offset < *end)
}

/// A topic is deleted from every log, and whoever asked for it may have been told.
pub fn note_told(
    ledger: &mut Ledger,
    ends: BTreeMap<(LogKey, usize, Partition), Offset>,
    now_us: u64,
) {
    for (key, end) in ends {
        ledger.deleted.insert(key, (end, Some(now_us)));
    }
}

/// The node went down: nothing is on its way any more.
pub fn note_down(ledger: &mut Ledger) {
    ledger.deleted.values_mut().for_each(|(_, told_at)| *told_at = None);
}

/// A batch has come to a member.
///
/// # Errors
/// Its topic was deleted, and it was not on its way.
pub fn check_delivery(ledger: &mut Ledger, id: BatchId, place: &Place, now_us: u64) -> Checked {
    let key = (place.log, ledger.attempt(id).topic, place.partition);
    if ledger.first_offsets.get(&key).is_some_and(|first| place.offset < *first) {
        // It was on its way as its log let it go, and nobody knew where it stood.
        note_gone(ledger, id);
    }
    if let Some((end, told_at)) = ledger.deleted.get(&key)
        && place.offset < *end
        && told_at.is_none_or(|at| at + MAIL_US_MAX < now_us)
    {
        violated!(CHECK, "batch {} at {place:?} came after its topic was deleted", id.0);
    }
    Ok(())
}

/// Looks for what was deleted in the logs.
///
/// # Errors
/// It is there.
pub fn check(ledger: &Ledger, audit: &Audit) -> Checked {
    for found in &audit.found {
        let key = (found.place.log, ledger.attempt(found.id).topic, found.place.partition);
        if ledger.deleted.get(&key).is_some_and(|(end, _)| found.place.offset < *end) {
            violated!(CHECK, "batch {} was deleted and stands at {:?}", found.id.0, found.place);
        }
    }
    Ok(())
}

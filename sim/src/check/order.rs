//! The order of a partition and of a key: in the logs as sent, at subscribers as in the logs, and in flight to one
//! member at a time.

use std::collections::BTreeMap;

use codec::ids::{Partition, Position};
use log::disk::LogKey;

use crate::audit::Audit;
use crate::ledger::{BatchId, Checked, Hold, Ledger, Place, violated};

const CHECK: &str = "order";

/// Offsets are dense in each topic and partition, and what one session sent to one partition stands in the order sent.
///
/// # Errors
/// There is a gap, or something has overtaken.
pub fn check_logs(ledger: &Ledger, audit: &Audit) -> Checked {
    let mut next_offsets: BTreeMap<(usize, Partition), u64> = BTreeMap::new();
    let mut newest: BTreeMap<(u32, Partition), BatchId> = BTreeMap::new();
    for found in &audit.found {
        let sent = ledger.attempt(found.id);
        let next = next_offsets.entry((sent.topic, found.place.partition)).or_default();
        if found.place.offset.0 != *next {
            violated!(
                CHECK,
                "offset {next} should follow, not batch {} at {:?}",
                found.id.0,
                found.place
            );
        }
        *next += sent.keys.len() as u64;
        let before = newest.insert((sent.session, found.place.partition), found.id);
        if before.is_some_and(|before| before > found.id) {
            violated!(CHECK, "batch {} of session {} is overtaken", found.id.0, sent.session);
        }
    }
    Ok(())
}

/// An event has come to a member.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Which member.
    pub member: u32,
    /// Of which batch.
    pub id: BatchId,
    /// Which event.
    pub index: u32,
    /// When.
    pub now_us: u64,
    /// The generation that takes events now.
    pub generation: u32,
    /// Until when it is certainly in flight to this member, unless it is settled or the member leaves.
    pub until_us: u64,
}

/// First arrivals of a key rise, and its events are with one member at a time.
///
/// # Errors
/// An event came before an earlier one of its key, or while another member has one.
pub fn check_arrival(
    ledger: &mut Ledger,
    group: routing::subscription::GroupId,
    place: &Place,
    arrival: Arrival,
) -> Checked {
    let sent = &ledger.sent[arrival.id.0 as usize];
    let Some(key) = sent.keys[arrival.index as usize] else { return Ok(()) };
    let book = ledger.groups.entry(group).or_default();
    let at = (place.log, place.base.plus(u64::from(arrival.index)));
    let is_first =
        book.received.get(&arrival.id).is_none_or(|bits| bits & (1 << arrival.index) == 0);
    if is_first {
        let before = book.newest_first.insert(key, at);
        // Among generations that are both over, groups keep no order yet: only what comes after them waits for them.
        let is_over = |before: &(LogKey, Position)| {
            before.0.generation != at.0.generation && before.0.generation < arrival.generation
        };
        if before.is_some_and(|before| before > at && !is_over(&before)) {
            violated!(CHECK, "group {group}, key {key}: {at:?} came first after {before:?}");
        }
    }
    let fresh =
        Hold { log: place.log, member: arrival.member, until_us: arrival.until_us, events: 0 };
    let hold = book.holds.entry(key).or_insert(fresh);
    if hold.member != arrival.member {
        let both_over = hold.log.generation != place.log.generation
            && hold.log.generation.max(place.log.generation) < arrival.generation;
        if hold.events > 0 && !both_over && arrival.now_us < hold.until_us {
            violated!(
                CHECK,
                "group {group}, key {key}: batch {} event {} at {at:?} came to member {} while member {} has {} events",
                arrival.id.0,
                arrival.index,
                arrival.member,
                hold.member,
                hold.events
            );
        }
        *hold =
            Hold { log: place.log, member: arrival.member, until_us: arrival.until_us, events: 0 };
    }
    hold.events += 1;
    hold.until_us = hold.until_us.min(arrival.until_us);
    Ok(())
}

/// A member has settled an event, or has gone with it: it no longer holds it.
pub fn released(
    ledger: &mut Ledger,
    group: routing::subscription::GroupId,
    member: u32,
    key: Option<u8>,
) {
    let Some(key) = key else { return };
    let book = ledger.group_mut(group);
    if let Some(hold) = book.holds.get_mut(&key)
        && hold.member == member
    {
        hold.events = hold.events.saturating_sub(1);
        if hold.events == 0 {
            book.holds.remove(&key);
        }
    }
}

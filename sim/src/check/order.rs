//! The order of a partition and of a key: in the logs as sent, at subscribers as in the logs, and in flight to one
//! member at a time.

use std::collections::{BTreeMap, BTreeSet};

use codec::ids::Partition;

use crate::audit::Audit;
use crate::ledger::{Arrived, BatchId, Checked, Hold, Ledger, Place, violated};

const CHECK: &str = "order";

/// The longest way of mail, with every mailbox on it full and every shard stalled.
pub(crate) const MAIL_US_MAX: u64 = 2_000_000;

/// Offsets are dense in each topic and partition from the start of each log on, and what one session sent to one partition stands in the order sent.
///
/// # Errors
/// There is a gap, or something has overtaken.
pub fn check_logs(ledger: &Ledger, audit: &Audit) -> Checked {
    let mut next_offsets: BTreeMap<(usize, Partition), u64> = BTreeMap::new();
    // What retention has taken of a log is missing before its first, or before the first of a later one.
    let has_gaps =
        ledger.starts.values().any(|start| start.0 > 0) || !ledger.first_offsets.is_empty();
    let mut firsts = BTreeSet::new();
    let mut newest: BTreeMap<(u32, Partition), BatchId> = BTreeMap::new();
    for found in &audit.found {
        let sent = ledger.attempt(found.id);
        let next = next_offsets.entry((sent.topic, found.place.partition)).or_default();
        let is_first = firsts.insert((sent.topic, found.place.partition, found.place.log));
        if is_first && has_gaps {
            *next = found.place.offset.0.max(*next);
        }
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
    /// What.
    pub event: Arrived,
    /// When.
    pub now_us: u64,
    /// Until when it is certainly in flight to this member, unless it is settled or the member leaves.
    pub until_us: u64,
    /// Whether it came from another shard.
    pub is_mail: bool,
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
    let sent = &ledger.sent[arrival.event.id.0 as usize];
    let Some(key) = sent.keys[arrival.event.index as usize] else { return Ok(()) };
    let Arrived { id, index, .. } = arrival.event;
    let life = ledger.life;
    let known = ledger.groups.get(&group);
    let may_be_given_up = known.map_or(0, |book| ledger.may_be_given_up(book, id));
    let book = ledger.groups.entry(group).or_default();
    let at = (place.log, place.base.plus(u64::from(index)));
    let is_first = book.received.get(&id).is_none_or(|bits| bits & (1 << index) == 0);
    // A deletion that nobody was told of may be lost with the power: then the group goes back for what it has passed.
    let is_first = is_first && !sent.is_expired;
    if is_first {
        let before = book.newest_first.insert(key, (at.0, at.1, life));
        // What died comes to life again if a kill comes before its dead letter.
        let may_have_died = |of: u32| of < life && may_be_given_up & 1 << index != 0;
        if let Some(before) =
            before.filter(|before| (before.0, before.1) > at && !may_have_died(before.2))
        {
            violated!(CHECK, "group {group}, key {key}: {at:?} came first after {before:?}");
        }
    }
    let Arrival { member, now_us, until_us, is_mail, .. } = arrival;
    let fresh = || Hold { member, events: BTreeMap::new(), ousted: BTreeMap::new() };
    let hold = book.holds.entry(key).or_insert_with(fresh);
    if hold.member != member {
        // One event whose time is over takes all others of its key with it.
        let until_us = hold.events.values().copied().min().unwrap_or(0);
        if now_us < until_us {
            // Mail from another shard was sent, and perhaps taken back, at some unknown time before.
            let ousted_us = hold.ousted.get(&member);
            if is_mail && ousted_us.is_some_and(|at_us| now_us < at_us + MAIL_US_MAX) {
                return Ok(());
            }
            violated!(
                CHECK,
                "group {group}, key {key}: batch {} event {index} at {at:?} came to member {member} while member {} has {} events",
                id.0,
                hold.member,
                hold.events.len()
            );
        }
        // Also if it has settled all that it knows of: more may be on its way to it, taken back meanwhile.
        hold.ousted.insert(hold.member, now_us);
        hold.member = member;
        hold.events.clear();
    }
    // Sent again: the delivery before is over, whatever its member still says of it, and others of the key went with it.
    let before = hold.events.len();
    hold.events.retain(|event, _| (event.id, event.index) != (id, index));
    if hold.events.len() < before {
        hold.events.values_mut().for_each(|until_us| *until_us = 0);
    }
    hold.events.insert(arrival.event, until_us);
    Ok(())
}

/// A member has settled an event, or has gone with it: it no longer holds it. Returns whether it certainly did, as far as
/// is known of the event's key.
pub fn released(
    ledger: &mut Ledger,
    group: routing::subscription::GroupId,
    member: u32,
    event: Arrived,
    now_us: u64,
) -> bool {
    let Some(key) = ledger.attempt(event.id).keys[event.index as usize] else { return false };
    let book = ledger.group_mut(group);
    if let Some(hold) = book.holds.get_mut(&key)
        && hold.member == member
    {
        // An event whose time is over has taken the others of its key with it, though they are still held here.
        // One event whose time is over takes all others of its key with it.
        let is_certain = hold.events.values().all(|until_us| now_us < *until_us);
        let until_us = hold.events.remove(&event);
        if until_us.is_some_and(|until_us| now_us >= until_us) {
            hold.events.values_mut().for_each(|until_us| *until_us = 0);
        }
        return is_certain && until_us.is_some();
    }
    false
}

//! A parked event is owed until it is settled, keeps the number of its attempts over restarts, and says where it stood.

use std::collections::BTreeMap;

use codec::ids::Position;
use log::cursor::Cursor;
use log::disk::LogKey;
use routing::internal_topics::parking_topic;
use routing::subscription::GroupId;

use crate::audit::Audit;
use crate::ledger::{BatchId, Checked, GroupBook, Ledger, Place, violated};

const CHECK: &str = "parked is owed";

/// Compares the parked events that a recovery has found with each other, and with what they are of.
///
/// # Errors
/// One has forgotten its attempts, or where it stood.
pub fn check(ledger: &Ledger, audit: &Audit) -> Checked {
    let places: BTreeMap<BatchId, Place> =
        audit.found.iter().map(|found| (found.id, found.place)).collect();
    let moved: Vec<_> = ledger.ever_moved.iter().map(|group| parking_topic(group)).collect();
    let mut attempts: BTreeMap<_, u32> = BTreeMap::new();
    for copy in &audit.copies {
        let (id, index) = copy.event;
        let place = places.get(&id).map(|place| (place.log, place.base.plus(u64::from(index))));
        if place.is_some_and(|place| place != (copy.at.0, copy.place)) {
            violated!(CHECK, "{copy:?} is of {place:?}");
        }
        // What was delivered and handed back before is parked; a group that was moved begins anew.
        let before = attempts.insert((&copy.topic, copy.event), copy.attempts).unwrap_or(0);
        if copy.attempts <= before && !moved.contains(&copy.topic) {
            violated!(CHECK, "after {before} attempts there is {copy:?}");
        }
    }
    Ok(())
}

/// For each group and event the logs in which a copy is owed.
#[derive(Debug, Default)]
pub struct OwedCopies(BTreeMap<(GroupId, BatchId), u64>);

impl OwedCopies {
    /// What the cursors of parked events say is owed.
    #[must_use]
    pub fn new(ledger: &Ledger, audit: &Audit) -> OwedCopies {
        let mut owed: BTreeMap<_, u64> = BTreeMap::new();
        for (group, copy) in owed_copies(ledger, audit) {
            *owed.entry((group, audit.copies[copy].event.0)).or_default() |=
                1 << audit.copies[copy].event.1;
        }
        OwedCopies(owed)
    }

    /// The events of a batch of which a group is owed a copy.
    #[must_use]
    pub fn of(&self, group: GroupId, id: BatchId) -> u64 {
        self.0.get(&(group, id)).copied().unwrap_or(0)
    }
}

fn owed_copies(ledger: &Ledger, audit: &Audit) -> Vec<(GroupId, usize)> {
    let is_going_on = |(_, book): &(&GroupId, &GroupBook)| !book.is_over && book.is_durable;
    let groups = ledger.groups.iter().filter(is_going_on);
    let topics: Vec<_> = groups.map(|(group, book)| (*group, parking_topic(book.name()))).collect();
    let mut list = Vec::new();
    for (index, copy) in audit.copies.iter().enumerate() {
        for (group, _) in topics.iter().filter(|(_, topic)| *topic == copy.topic) {
            if is_owed(audit, *group, copy.at) {
                list.push((*group, index));
            }
        }
    }
    list
}

fn is_owed(audit: &Audit, group: GroupId, (log, at): (LogKey, Position)) -> bool {
    let owes = |cursor: &Cursor| {
        let mut runs = cursor.unsettled.iter();
        at >= cursor.next || runs.any(|(from, to)| *from <= at && at < *to)
    };
    audit.parked_cursors.get(&(group, log)).is_some_and(owes)
}

/// At the end: no parked event is owed.
///
/// # Errors
/// One is, although every member has settled everything that came to it.
pub fn check_settled(ledger: &Ledger, audit: &Audit) -> Checked {
    if let Some((group, copy)) = owed_copies(ledger, audit).first() {
        violated!(CHECK, "group {group} is still owed {:?}", audit.copies[*copy]);
    }
    Ok(())
}

//! What was handed back keeps its place in the line of its key: nothing behind it is delivered before it comes again, is
//! settled, or is given up, whether it waits in its place or is parked, and over restarts.

use codec::ids::Position;
use log::disk::LogKey;
use routing::subscription::{GroupId, Start};

use super::order::{Arrival, MAIL_US_MAX};
use crate::audit::Audit;
use crate::ledger::{Arrived, Checked, GroupBook, Ledger, Place, violated};
use crate::plan::Plan;
use crate::verdicts::Returned;

const CHECK: &str = "a key waits for what was handed back";

/// A member hands back an event that it certainly has.
pub fn note_returned(
    ledger: &mut Ledger,
    group: GroupId,
    event: Arrived,
    (attempt, at_us): (u32, u64),
) {
    let Arrived { id, index, .. } = event;
    let losses = ledger.losses;
    let Some(key) = ledger.attempt(id).keys[index as usize] else { return };
    let Some(place) = ledger.places.get(&id).copied() else { return };
    let returned = Returned { id, index, attempt, at_us, losses };
    let at = place.base.plus(u64::from(index));
    ledger.group_mut(group).verdicts.returned.insert((key, place.log, at), returned);
}

/// An event has come to a member.
///
/// # Errors
/// An earlier one of its key has been handed back, and waits.
pub fn check_arrival(
    ledger: &mut Ledger,
    plan: &Plan,
    group: GroupId,
    place: &Place,
    arrival: Arrival,
) -> Checked {
    let Arrived { id, index, .. } = arrival.event;
    let Some(key) = ledger.attempt(id).keys[index as usize] else { return Ok(()) };
    let at = place.base.plus(u64::from(index));
    ledger.group_mut(group).verdicts.returned.remove(&(key, place.log, at));
    // What retention takes it takes without a word to members.
    if ledger.has_retention {
        return Ok(());
    }
    let book = &ledger.groups[&group];
    let before = (key, place.log, Position(0))..(key, place.log, at);
    let is_certain = |returned: &Returned| {
        // Mail from another shard was sent at some unknown time before.
        let heard_us = returned.at_us + if arrival.is_mail { MAIL_US_MAX } else { 0 };
        heard_us < arrival.now_us && waits(ledger, plan, book, returned, arrival.now_us)
    };
    let earlier = book.verdicts.returned.range(before);
    if let Some(((_, log, first), returned)) =
        earlier.into_iter().find(|(_, returned)| is_certain(returned))
    {
        violated!(
            CHECK,
            "group {group}, key {key}: batch {} event {index} at {at} came while {returned:?} waits at {first} in {log}",
            id.0
        );
    }
    Ok(())
}

/// Whether an event certainly waits: nobody has settled it, and nothing can have made the group give it up.
fn waits(ledger: &Ledger, plan: &Plan, book: &GroupBook, returned: &Returned, now_us: u64) -> bool {
    let sent = ledger.attempt(returned.id);
    let is_settled = book.settled.get(&returned.id).copied().unwrap_or(0) & 1 << returned.index;
    if book.is_over || sent.is_expired || is_settled != 0 {
        return false;
    }
    let append_time = ledger.places.get(&returned.id).map(|place| place.append_time);
    if ledger.may_be_too_old(book, append_time) {
        return false;
    }
    let policy = &book.verdicts.policy;
    // Deliveries that came to nobody, since their members were lost, or their mail was slow.
    let unseen =
        (ledger.losses - returned.losses) + (now_us - returned.at_us) / plan.ack_timeout_us(policy);
    let attempts = u64::from(returned.attempt) + unseen + 1;
    policy.attempts_max.is_none_or(|most| attempts < u64::from(most))
}

/// After a restart only what still stands where it stood is waited for, and only if its group owes it: the subscription that
/// it came by may have been lost with the power before anybody was told that it stands.
pub fn note_recovered(ledger: &mut Ledger, audit: &Audit) {
    let place_of = |id, log: LogKey, at: Position| {
        let mut found = audit.found.iter();
        let found = found.find(|found| found.id == id && found.place.log == log)?;
        (found.place.base <= at).then_some(found.place)
    };
    let mut gone: Vec<(GroupId, (u8, LogKey, Position))> = Vec::new();
    for (group, book) in &ledger.groups {
        for (of, returned) in &book.verdicts.returned {
            let (_, log, at) = *of;
            let is_owed = place_of(returned.id, log, at).is_some_and(|place| {
                let must = ledger.must_get(book, returned.id, &place);
                must & 1 << returned.index != 0
                    || is_subscribed(ledger, audit, (*group, book), returned, (log, at))
            });
            if !is_owed {
                gone.push((*group, *of));
            }
        }
    }
    for (group, of) in gone {
        ledger.group_mut(group).verdicts.returned.remove(&of);
    }
    ledger.groups.values_mut().for_each(|book| book.verdicts.done.clear());
}

/// Whether a subscription that is durable in a log begins there at or before an event of it.
fn is_subscribed(
    ledger: &Ledger,
    audit: &Audit,
    (group, book): (GroupId, &GroupBook),
    returned: &Returned,
    (log, at): (LogKey, Position),
) -> bool {
    let Some(cursor) = audit.cursors.get(&(group, log)) else { return false };
    let topic = &ledger.topics[ledger.attempt(returned.id).topic];
    let mut matching = book.subscriptions.iter().filter(|known| {
        let is_by_offset = matches!(known.subscription.start, Start::Offsets(_));
        !is_by_offset && known.subscription.filter.matches(topic)
    });
    matching.any(|known| {
        let mut starts = cursor.starts.iter();
        starts.any(|(id, start)| *id == known.subscription.id.0 && *start <= at)
    })
}

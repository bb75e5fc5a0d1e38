//! A dead letter says truly of what it is and why, stands once for each time that the server was killed between it and
//! the settling of its original, and is there for good.

use std::collections::{BTreeMap, BTreeSet};

use routing::internal_topics::dead_topic;
use routing::subscription::GroupId;

use crate::audit::Audit;
use crate::copies::Letter;
use crate::ledger::{BatchId, Checked, Fate, GroupBook, Ledger, Place, violated};

const CHECK: &str = "dead letters are true";

/// Notes the letters that a recovery has found, and compares those that are new with what members have said.
///
/// # Errors
/// One is missing, stands twice, or says what is not so.
pub fn check(ledger: &mut Ledger, audit: &Audit) -> Checked {
    let places: BTreeMap<BatchId, Place> =
        audit.found.iter().map(|found| (found.id, found.place)).collect();
    let mut fresh = BTreeSet::new();
    for letter in &audit.letters {
        let known = ledger.letters.get(&letter.group).and_then(|of| of.get(&letter.event));
        if known.is_some_and(|known| known.contains(&letter.at)) {
            continue;
        }
        let is_second = !fresh.insert((&letter.group, letter.event));
        if is_second && !ledger.moved.contains(letter.group.as_str()) {
            violated!(CHECK, "it stands twice without a kill between: {letter:?}");
        }
        check_origin(ledger, letter, places.get(&letter.event.0))?;
        check_reason(ledger, letter, places.get(&letter.event.0))?;
        let of_group = ledger.letters.entry(letter.group.clone()).or_default();
        of_group.entry(letter.event).or_default().insert(letter.at);
    }
    if ledger.has_retention {
        return Ok(());
    }
    let found: BTreeSet<_> = audit.letters.iter().map(|letter| (letter.event, letter.at)).collect();
    for (group, letters) in &ledger.letters {
        for (event, at) in
            letters.iter().flat_map(|(event, all)| all.iter().map(|at| (*event, *at)))
        {
            if !found.contains(&(event, at)) {
                violated!(CHECK, "that of {event:?} of group {group} at {at:?} is gone");
            }
        }
    }
    Ok(())
}

fn check_origin(ledger: &Ledger, letter: &Letter, place: Option<&Place>) -> Checked {
    let (id, index) = letter.event;
    let sent = ledger.attempt(id);
    let known = match (place, sent.fate) {
        (Some(place), _) => Some((place.partition, place.offset)),
        (None, Fate::Acknowledged { partition, offset, .. }) => Some((partition, offset)),
        (None, _) => None,
    };
    let is_there = known.is_none_or(|(partition, offset)| {
        (letter.partition, letter.offset) == (partition, offset.plus(u64::from(index)))
    });
    let is_of = ledger.topics[sent.topic].as_str() == letter.from_topic;
    if !is_there || !is_of || letter.topic != dead_topic(&letter.group) {
        violated!(CHECK, "{letter:?} is of {known:?}");
    }
    Ok(())
}

fn check_reason(ledger: &Ledger, letter: &Letter, place: Option<&Place>) -> Checked {
    let (id, index) = letter.event;
    let is_of = |book: &&GroupBook| book.name() == letter.group && !book.drops();
    let mut books = ledger.groups.values().filter(is_of).peekable();
    let Some(first) = books.peek() else {
        violated!(CHECK, "no group has any: {letter:?}");
    };
    let policy = first.verdicts.policy;
    let has = |of: &BTreeMap<BatchId, u64>| of.get(&id).is_some_and(|bits| bits & 1 << index != 0);
    let append_time = place.map(|place| place.append_time);
    let is_last = policy.attempts_max == Some(letter.attempts);
    let is_true = match letter.reason.as_str() {
        "rejected" => books.any(|book| has(&book.verdicts.rejected)),
        "handed_back" => is_last && books.any(|book| has(&book.verdicts.handed_back)),
        "timed_out" | "disconnected" => is_last,
        "too_old" => books.any(|book| ledger.may_be_too_old(book, append_time)),
        _ => false,
    };
    if !is_true || policy.attempts_max.is_some_and(|most| letter.attempts > most) {
        violated!(CHECK, "by {policy:?} there is no reason for {letter:?}");
    }
    let mut books = ledger.groups.values().filter(is_of);
    if !ledger.moved.contains(letter.group.as_str())
        && books.any(|book| book.verdicts.done.contains(&letter.event))
    {
        violated!(CHECK, "a member was done with what {letter:?} is of");
    }
    Ok(())
}

/// A delivery comes no more often than its group's policy allows.
///
/// # Errors
/// It does.
pub fn check_attempt(ledger: &Ledger, group: GroupId, id: BatchId, attempt: u32) -> Checked {
    let policy = ledger.groups.get(&group).map(|book| book.verdicts.policy);
    if let Some(most) = policy.and_then(|policy| policy.attempts_max)
        && attempt > most
    {
        violated!(
            "attempts end",
            "group {group} gets batch {} for the {attempt}th time, not {most}",
            id.0
        );
    }
    Ok(())
}

//! Retention takes only what is below the start of its log, or of its topic there, and nothing that the topic keeps longer;
//! and whoever had still to get it is told of the gap.

use std::collections::BTreeSet;

use codec::ids::Offset;
use log::disk::LogKey;
use log::log::Log;
use routing::subscription::Start;

use super::deletion;
use crate::audit::Audit;
use crate::faults::{Fault, Tally};
use crate::ledger::{
    BatchId, Checked, Fate, GroupBook, Ledger, Place, Sent, Violation, all_events, violated,
};
use crate::plan::{Keep, Plan};

const CHECK: &str = "retention gaps are told";

/// Notes where a log and its topics start now, and which batches are gone with what is below.
///
/// # Errors
/// Something went that its topic keeps longer.
pub fn note_gone(ledger: &mut Ledger, log: &Log, plan: &Plan, tally: &mut Tally) -> Checked {
    let (key, start) = (log.key(), log.positions().start());
    let known = ledger.starts.entry(key).or_default();
    let has_expired = ledger.expired_events.insert(key, log.expired_events());
    if start <= *known && has_expired.unwrap_or(0) == log.expired_events() {
        return Ok(());
    }
    *known = (*known).max(start);
    for (index, topic) in ledger.topics.iter().enumerate() {
        let name = topic.as_str();
        let Some(id) = log.topic_id(name).or_else(|| log.deleted_topic_id(name)) else { continue };
        for place in log.partitions(id).filter(|place| place.start.0 > 0) {
            let first = ledger.first_offsets.entry((key, index, place.partition)).or_default();
            *first = (*first).max(place.start);
        }
    }
    for index in 0..ledger.sent.len() {
        let (id, sent) = (BatchId(index as u32), &ledger.sent[index]);
        if sent.is_expired {
            continue;
        }
        let (is_gone, is_with_segment) = match (ledger.places.get(&id), sent.fate) {
            (Some(place), _) if place.log == key => {
                let first = ledger.first_offsets.get(&(key, sent.topic, place.partition));
                let is_below = first.is_some_and(|first| place.offset < *first);
                check_age(ledger, sent, place, plan, is_below || place.base < start)?;
                (is_below || place.base < start, place.base < start)
            }
            (Some(_), _) => (false, false),
            // Nobody has told its position: only the offset is known.
            (None, fate) => (is_below(ledger, id, fate), true),
        };
        if is_gone {
            let fault = if is_with_segment { Fault::Expired } else { Fault::TopicExpired };
            tally.add_faults(fault, sent.keys.len() as u64);
            deletion::note_gone(ledger, id);
        }
    }
    Ok(())
}

/// What was not durable was lost, with deletions that were not: offsets from a log's next one on are given again, and nothing
/// of them is gone yet.
pub fn note_lost_offsets(ledger: &mut Ledger, log: &Log) {
    let topics = &ledger.topics;
    for firsts in [&mut ledger.first_offsets, &mut ledger.taken_before] {
        for ((_, topic, partition), first) in firsts.iter_mut().filter(|(of, _)| of.0 == log.key())
        {
            let name = topics[*topic].as_str();
            let id = log.topic_id(name).or_else(|| log.deleted_topic_id(name));
            let next = id.map_or(Offset(0), |id| log.next_offset(id, *partition));
            *first = (*first).min(next);
        }
    }
}

/// A kill has come between the removal of a log's oldest segment and the log's knowing so: after it the log starts later, but
/// first offsets are those of before. Which batches stood there that no subscriber had seen nobody can tell but by their
/// absence.
pub fn note_freed_unseen(ledger: &mut Ledger, log: LogKey, audit: &Audit) {
    let found: BTreeSet<BatchId> = audit.found.iter().map(|found| found.id).collect();
    for index in 0..ledger.sent.len() {
        let (id, sent) = (BatchId(index as u32), &ledger.sent[index]);
        let is_of_log = matches!(sent.fate, Fate::Acknowledged { log: of, .. } if of == log);
        if is_of_log && !ledger.places.contains_key(&id) && !found.contains(&id) {
            deletion::note_gone(ledger, id);
        }
    }
}

/// What goes must be older than its topic's own retention says, if that is all that it says.
fn check_age(ledger: &Ledger, sent: &Sent, place: &Place, plan: &Plan, is_gone: bool) -> Checked {
    let Some(Keep { seconds, bytes: 0 }) = plan.topic_keeps[sent.topic] else { return Ok(()) };
    let until = place.append_time.0.saturating_add(seconds * 1_000_000);
    if is_gone && (seconds == 0 || ledger.wall_end.0 < until) {
        violated!(CHECK, "batch at {place:?} went before its topic's retention of {seconds} s");
    }
    Ok(())
}

/// Whether a batch was acknowledged at an offset that its log does not keep any more. Which log has a batch that was
/// sent again is not known: it may be one of an earlier life.
#[must_use]
pub fn is_below(ledger: &Ledger, id: BatchId, fate: Fate) -> bool {
    let Fate::Acknowledged { partition, offset, log, .. } = fate else { return false };
    let sent = ledger.attempt(id);
    ledger.first_offsets.iter().any(|((of, topic, at), first)| {
        let is_its_log = *of == log || sent.times > 1;
        is_its_log && (*topic, *at) == (sent.topic, partition) && offset < *first
    })
}

/// At the end: for each event that a group had to get and that is gone, the group was told of one position at least.
/// Returns how many such events there were.
///
/// # Errors
/// Groups were told of fewer.
pub fn check_told(ledger: &Ledger, told: u64) -> Result<u64, Violation> {
    let mut owed = 0;
    let sent = ledger.sent.iter().enumerate();
    // What a deletion takes between its acknowledgement and its routing is owed to nobody by name.
    let expired = sent.filter(|(_, sent)| sent.is_expired && !sent.is_deleted);
    for (index, sent) in expired {
        for book in ledger.groups.values().filter(|book| !book.is_over) {
            let settled = book.settled.get(&BatchId(index as u32)).copied().unwrap_or(0);
            let settled = settled | ledger.may_be_given_up(book, BatchId(index as u32));
            owed += u64::from((was_owed(ledger, book, sent) & !settled).count_ones());
        }
    }
    if owed > told {
        violated!(CHECK, "{owed} owed events are gone, groups were told of {told} positions");
    }
    Ok(owed)
}

/// The events of a batch that a group certainly had to get: they were sent when one of its subscriptions stood.
fn was_owed(ledger: &Ledger, book: &GroupBook, sent: &Sent) -> u64 {
    let stood = book.subscriptions.iter().any(|known| {
        known.answered_at.is_some_and(|at| sent.sent_at > at)
            && known.subscription.filter.matches(&ledger.topics[sent.topic])
            && !matches!(known.subscription.start, Start::Offsets(_))
    });
    let was_acknowledged = matches!(sent.fate, Fate::Acknowledged { .. });
    if stood && was_acknowledged { all_events(sent.keys.len()) } else { 0 }
}

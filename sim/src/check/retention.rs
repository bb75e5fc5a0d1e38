//! Retention takes only what is below the start of its log, and whoever had still to get it is told of the gap.

use codec::ids::Partition;
use codec::limits::PARTITIONS;
use log::log::Log;
use routing::subscription::Start;

use crate::ledger::{BatchId, Fate, GroupBook, Ledger, Sent, Violation, all_events, violated};

const CHECK: &str = "retention gaps are told";

/// Notes where a log starts now, and which batches are gone with what is below. Returns how many events these had.
pub fn note_start(ledger: &mut Ledger, log: &Log) -> u64 {
    let (key, start) = (log.key(), log.positions().start());
    let known = ledger.starts.entry(key).or_default();
    if start <= *known {
        return 0;
    }
    *known = start;
    for (index, topic) in ledger.topics.iter().enumerate() {
        let Some(id) = log.topic_id(topic.as_str()) else { continue };
        let firsts = (0..PARTITIONS).map(Partition).map(|of| (of, log.logical_start(id, of)));
        let firsts = firsts.filter(|(_, first)| first.0 > 0);
        ledger.first_offsets.extend(firsts.map(|(of, first)| ((key, index, of), first)));
    }
    let mut gone = 0;
    for index in 0..ledger.sent.len() {
        let sent = &ledger.sent[index];
        let is_gone = match (ledger.places.get(&BatchId(index as u32)), sent.fate) {
            (Some(place), _) => place.log == key && place.base < start,
            // Nobody has told its position: only the offset is known.
            (None, fate) => is_below(ledger, BatchId(index as u32), fate),
        };
        if is_gone && !sent.is_expired {
            gone += sent.keys.len() as u64;
            ledger.sent[index].is_expired = true;
        }
    }
    gone
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
    let expired = ledger.sent.iter().enumerate().filter(|(_, sent)| sent.is_expired);
    for (index, sent) in expired {
        for book in ledger.groups.values().filter(|book| !book.is_over) {
            let settled = book.settled.get(&BatchId(index as u32)).copied().unwrap_or(0);
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

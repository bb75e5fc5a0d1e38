//! What was not acknowledged is there as a whole or not at all, at most once, and not if it was refused; what a
//! recovery has not found never comes back. That a batch is whole is compared where it is read
//! ([`crate::ledger::Ledger::identify`]).

use std::collections::BTreeSet;

use crate::audit::Audit;
use crate::faults::Fault;
use crate::ledger::{BatchId, Checked, Fate, Ledger, violated};

const CHECK: &str = "whole or absent";

/// Notes what a recovery has not found. Where `allowed` names a fault for a topic, its ack level, below `durable`, lets go
/// also of what was acknowledged and seen; how many such events there are comes back. Clients that were told are not told
/// again.
pub fn note_absent(
    ledger: &mut Ledger,
    audit: &Audit,
    allowed: impl Fn(usize) -> Option<Fault>,
) -> Vec<(Fault, u64)> {
    let found: BTreeSet<_> = audit.found.iter().map(|found| found.id).collect();
    let mut lost = Vec::new();
    for (index, sent) in ledger.sent.iter_mut().enumerate() {
        let is_told = matches!(sent.fate, Fate::Acknowledged { .. }) || sent.was_visible;
        let is_there = found.contains(&BatchId(index as u32));
        if is_there || sent.is_expired {
            continue;
        }
        if is_told {
            let Some(fault) = allowed(sent.topic) else { continue };
            lost.push((fault, sent.keys.len() as u64));
            sent.was_visible = false;
            sent.fate = Fate::Unknown;
        }
        sent.was_absent = true;
    }
    if !lost.is_empty() {
        forget_newest(ledger, audit);
    }
    lost
}

/// Positions that were lost are given away again, to events that come first then.
fn forget_newest(ledger: &mut Ledger, audit: &Audit) {
    for book in ledger.groups.values_mut() {
        book.newest_first
            .retain(|_, (log, at, _)| audit.ends.get(log).is_none_or(|end| *at < *end));
    }
}

/// Looks for what stands twice and for what was refused.
///
/// # Errors
/// There is such a batch.
pub fn check(ledger: &Ledger, audit: &Audit) -> Checked {
    let mut seen = BTreeSet::new();
    for found in &audit.found {
        if !seen.insert(found.id) {
            violated!(CHECK, "batch {} stands twice, also at {:?}", found.id.0, found.place);
        }
        // The removal of an expired segment may be lost with the power.
        let start = ledger.starts.get(&found.place.log).copied().unwrap_or_default();
        if ledger.attempt(found.id).was_absent && found.place.base >= start {
            violated!(CHECK, "batch {} was gone and is back at {:?}", found.id.0, found.place);
        }
        if ledger.attempt(found.id).fate == Fate::Refused {
            violated!(CHECK, "batch {} was refused and stands at {:?}", found.id.0, found.place);
        }
    }
    Ok(())
}

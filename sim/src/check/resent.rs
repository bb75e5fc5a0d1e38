//! A resend is stored once: a publisher that numbers its batches is told one place for all times, and what it sent to a
//! partition stands there once and in its order, whichever sessions and lives of the node it took.

use std::collections::BTreeMap;

use codec::ids::{Offset, Partition};

use crate::audit::Audit;
use crate::ledger::{BatchId, Checked, Fate, Ledger, Sent, violated};

const CHECK: &str = "a resend is stored once";

/// An answer to a batch that was answered before says the same.
///
/// # Errors
/// It says something else.
pub fn check_answer(id: BatchId, sent: &Sent, told: (Partition, Offset)) -> Checked {
    if let Fate::Acknowledged { partition, offset, .. } = sent.fate
        && (partition, offset) != told
    {
        let (partition_now, now) = told;
        violated!(
            CHECK,
            "batch {} was acknowledged at {partition}:{offset}, and again at {partition_now}:{now}",
            id.0
        );
    }
    Ok(())
}

/// Looks for doubles, and for what stands behind later batches of its publisher.
///
/// # Errors
/// There is such a batch.
pub fn check(ledger: &Ledger, audit: &Audit) -> Checked {
    let mut newest: BTreeMap<(usize, Partition), BatchId> = BTreeMap::new();
    for found in &audit.found {
        let Some(publisher) = ledger.attempt(found.id).publisher else { continue };
        let before = newest.insert((publisher, found.place.partition), found.id);
        if before.is_some_and(|before| before >= found.id) {
            violated!(CHECK, "batch {} stands at {:?}, behind {before:?}", found.id.0, found.place);
        }
    }
    Ok(())
}

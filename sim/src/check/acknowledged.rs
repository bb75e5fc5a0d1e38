//! What was acknowledged at `durable` is readable exactly once, exactly where its publisher was told. What a subscriber
//! has seen is durable too.

use std::collections::BTreeMap;

use crate::audit::Audit;
use crate::ledger::{BatchId, Checked, Fate, Ledger, Place, violated};

const CHECK: &str = "acknowledged is readable";

/// Compares the logs with what publishers were told and subscribers have seen.
///
/// # Errors
/// Something is missing, or elsewhere.
pub fn check(ledger: &Ledger, audit: &Audit) -> Checked {
    let places: BTreeMap<BatchId, Place> =
        audit.found.iter().map(|found| (found.id, found.place)).collect();
    for (index, sent) in ledger.sent.iter().enumerate() {
        let id = BatchId(index as u32);
        let place = places.get(&id);
        if sent.is_expired && place.is_none() {
            continue;
        }
        if let Fate::Acknowledged { partition, offset, .. } = sent.fate {
            match place {
                None => violated!(
                    CHECK,
                    "batch {index} was acknowledged at {partition}:{offset} and is gone"
                ),
                Some(place) if (place.partition, place.offset) != (partition, offset) => violated!(
                    CHECK,
                    "batch {index} was acknowledged at {partition}:{offset} and stands at {}:{}",
                    place.partition,
                    place.offset
                ),
                Some(_) => {}
            }
        }
        if sent.was_visible && place.is_none() {
            violated!(CHECK, "batch {index} was delivered and is gone");
        }
        let known = ledger.places.get(&id);
        if let (Some(known), Some(place)) = (known, place)
            && sent.was_visible
            && known != place
        {
            violated!(CHECK, "batch {index} was delivered from {known:?} and stands at {place:?}");
        }
    }
    Ok(())
}

//! In a sticky group a key stays with its member: whoever has no share of it never gets an event of it, whoever comes, goes
//! or is late. That nothing is lost when a member goes, and the order of keys, are the promises of all groups.

use dataplane::group::keys::{KeyShare, key_hash};

use crate::ledger::{BatchId, Checked, Ledger, violated};

/// Some events of a batch have come to a member that takes these keys only.
///
/// # Errors
/// One has a key that is another's.
pub fn check(ledger: &Ledger, share: &KeyShare, id: BatchId, bits: u64, member: u32) -> Checked {
    let keys = ledger.attempt(id).keys.iter().enumerate();
    for (index, key) in keys.filter(|(index, _)| bits & 1 << index != 0) {
        let Some(key) = key.map(|key| &ledger.keys[usize::from(key)]) else { continue };
        if !share.has(key_hash(key)) {
            violated!(
                "keys stick",
                "batch {} event {index} of {key:?} came to member {member}, who has no share of it",
                id.0
            );
        }
    }
    Ok(())
}

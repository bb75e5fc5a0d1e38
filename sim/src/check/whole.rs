//! What was not acknowledged is there as a whole or not at all, at most once, and not if it was refused. That a batch
//! is whole is compared where it is read ([`crate::ledger::Ledger::identify`]).

use std::collections::BTreeSet;

use crate::audit::Audit;
use crate::ledger::{Checked, Fate, Ledger, violated};

const CHECK: &str = "whole or absent";

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
        if ledger.attempt(found.id).fate == Fate::Refused {
            violated!(CHECK, "batch {} was refused and stands at {:?}", found.id.0, found.place);
        }
    }
    Ok(())
}

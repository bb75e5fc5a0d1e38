//! What comes to a group matches one of its filters.

use routing::subscription::GroupId;

use crate::ledger::{BatchId, Checked, Ledger, violated};

/// Checks one delivery.
///
/// # Errors
/// No filter of the group matches its topic.
pub fn check(ledger: &Ledger, group: GroupId, id: BatchId) -> Checked {
    const CHECK: &str = "delivered is matched";
    let topic = &ledger.topics[ledger.attempt(id).topic];
    let Some(book) = ledger.groups.get(&group) else {
        violated!(CHECK, "group {group} is not known");
    };
    if !book.subscriptions.iter().any(|known| known.subscription.filter.matches(topic)) {
        violated!(CHECK, "batch {} of topic {} came to group {group}", id.0, topic.as_str());
    }
    Ok(())
}

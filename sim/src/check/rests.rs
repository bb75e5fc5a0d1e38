//! A paused group rests: its members get nothing, but for mail that was on its way.

use routing::subscription::GroupId;

use crate::ledger::{Checked, Ledger, violated};

/// No mail takes longer, stalls and full mailboxes included.
const MAIL_US_MAX: u64 = 2_000_000;

/// Checks one delivery.
///
/// # Errors
/// All shards have paused the group long ago.
pub fn check(ledger: &Ledger, group: GroupId, now_us: u64) -> Checked {
    let Some(since_us) = ledger.groups.get(&group).and_then(|book| book.paused_since_us) else {
        return Ok(());
    };
    if now_us > since_us + MAIL_US_MAX {
        violated!("a paused group rests", "group {group} is paused since {since_us} us");
    }
    Ok(())
}

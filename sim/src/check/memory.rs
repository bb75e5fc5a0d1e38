//! Memory is bounded: credit, mailboxes, operations under way and files.

use crate::ledger::{Checked, violated};

const CHECK: &str = "memory bounds";

/// Operations one shard may have on its disk at a time: commits, reads of groups and tail, chores, over all its logs.
const OPERATIONS_MAX: usize = 512;

/// A member holds no more than it asked for.
///
/// # Errors
/// It does.
pub fn check_credit(member: u32, held: u64, credit: u32) -> Checked {
    if held > u64::from(credit) {
        violated!(CHECK, "member {member} has {held} events in flight, its credit is {credit}");
    }
    Ok(())
}

/// A mailbox holds no more than it may.
///
/// # Errors
/// It does.
pub fn check_mailboxes((longest, limit): (usize, usize)) -> Checked {
    if longest > limit {
        violated!(CHECK, "a mailbox held {longest}, {limit} are allowed");
    }
    Ok(())
}

/// A shard has no more under way than it can ever need.
///
/// # Errors
/// It has.
pub fn check_operations(most: usize) -> Checked {
    if most > OPERATIONS_MAX {
        violated!(
            CHECK,
            "{most} disk operations were under way, {OPERATIONS_MAX} are expected at most"
        );
    }
    Ok(())
}

//! What matched is delivered and settled, or still owed: at the end of a run nothing is owed any more, and every group
//! has been given all that it must get, or has its dead letter.

use crate::audit::Audit;
use crate::ledger::{Checked, Ledger, violated};

const CHECK: &str = "matched is delivered or owed";

/// At the end: everything a group must get was settled, or is among its dead letters.
///
/// # Errors
/// Something was not, and nobody owes it any more.
pub fn check_settled(ledger: &Ledger, audit: &Audit) -> Checked {
    for found in &audit.found {
        for (group, book) in &ledger.groups {
            let settled = book.settled.get(&found.id).copied().unwrap_or(0);
            let settled = settled | ledger.given_up(book, found.id);
            let open = ledger.must_get(book, found.id, &found.place) & !settled;
            if open != 0 {
                violated!(
                    CHECK,
                    "group {group} never got events {open:#b} of batch {} at {:?}",
                    found.id.0,
                    found.place
                );
            }
        }
    }
    Ok(())
}

/// At the end, after the last shutdown: no cursor owes what was settled, and each has come to the end.
///
/// # Errors
/// A cursor owes something, although every member has settled everything that came to it.
pub fn check_cursors(ledger: &Ledger, audit: &Audit) -> Checked {
    for ((group, log), cursor) in &audit.cursors {
        let Some(book) = ledger.groups.get(group) else { continue };
        if book.is_over || !book.is_durable {
            continue;
        }
        let owes = |base: u64, count: usize| {
            (base..base + count as u64).any(|at| {
                let owed = cursor.unsettled.iter();
                let mut owed = owed.map(|(from, to)| from.0..to.0);
                at >= cursor.next.0 || owed.any(|run| run.contains(&at))
            })
        };
        for found in audit.found.iter().filter(|found| found.place.log == *log) {
            let count = ledger.attempt(found.id).keys.len();
            let must = ledger.must_get(book, found.id, &found.place);
            if must != 0 && owes(found.place.base.0, count) {
                violated!(
                    CHECK,
                    "group {group} in {log} is still owed batch {} at {}: {cursor:?}",
                    found.id.0,
                    found.place.base
                );
            }
        }
    }
    Ok(())
}

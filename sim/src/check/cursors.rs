//! Cursors never skip: what a recovered cursor calls settled, and the group must get, has been settled by a member, or it
//! stands elsewhere: its copy is owed among the parked events, or its dead letter is durable.

use codec::ids::Position;
use log::cursor::Cursor;

use super::parked::OwedCopies;
use crate::audit::Audit;
use crate::ledger::{Checked, Ledger, violated};

const CHECK: &str = "cursors never skip";

/// Compares the cursors that shards go on from with what members have settled.
///
/// # Errors
/// A cursor has passed an event that nobody settled.
pub fn check(ledger: &Ledger, audit: &Audit) -> Checked {
    let parked = OwedCopies::new(ledger, audit);
    for found in &audit.found {
        for (group, book) in &ledger.groups {
            if !book.is_durable {
                continue;
            }
            let settled = book.settled.get(&found.id).copied().unwrap_or(0);
            let elsewhere = parked.of(*group, found.id) | ledger.given_up(book, found.id);
            let must = ledger.must_get(book, found.id, &found.place);
            let mut open = must & !settled & !elsewhere;
            if open == 0 {
                continue;
            }
            let Some(cursor) = audit.cursors.get(&(*group, found.place.log)) else {
                violated!(CHECK, "group {group} has no cursor in {}", found.place.log);
            };
            while open != 0 {
                let index = open.trailing_zeros();
                open &= open - 1;
                let at = found.place.base.plus(u64::from(index));
                if is_passed(cursor, at) {
                    violated!(
                        CHECK,
                        "group {group} in {}: the cursor {cursor:?} has passed {at}, batch {} event {index}",
                        found.place.log,
                        found.id.0
                    );
                }
            }
        }
    }
    Ok(())
}

/// Whether a cursor calls a position settled.
fn is_passed(cursor: &Cursor, at: Position) -> bool {
    at < cursor.next && !cursor.unsettled.iter().any(|(from, to)| *from <= at && at < *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checker's own edge decides whether a cursor that is one too far is seen.
    #[test]
    fn knows_what_is_passed() {
        let unsettled = vec![(Position(3), Position(5)), (Position(8), Position(9))];
        let cursor = Cursor { next: Position(10), unsettled, starts: Vec::new() };
        let passed: Vec<u64> = (0..12).filter(|at| is_passed(&cursor, Position(*at))).collect();
        assert_eq!(passed, [0, 1, 2, 5, 6, 7, 9]);
    }
}

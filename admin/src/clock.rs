//! The wall clock, as the logs write it.

use std::time::{SystemTime, UNIX_EPOCH};

use codec::ids::Timestamp;

/// Now. 0 where the clock stands before 1970.
pub(crate) fn wall_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

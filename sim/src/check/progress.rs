//! When faults stop, everything comes to an end: publishes are answered, subscriptions stand, events are settled.

use crate::ledger::{Checked, violated};

/// Virtual time that a node without faults has to settle everything.
pub const CALM_US_MAX: u64 = 300_000_000;

/// Fails when a node has had its time.
///
/// # Errors
/// It is over, with what still waits.
pub fn check(calm_us: u64, waits: impl FnOnce() -> String) -> Checked {
    const CHECK: &str = "progress";
    if calm_us > CALM_US_MAX {
        violated!(CHECK, "after {} s without faults: {}", CALM_US_MAX / 1_000_000, waits());
    }
    Ok(())
}

//! The clocks of a node: read once a cycle, by the driver alone.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use codec::ids::Timestamp;

use crate::kernel::Now;

/// Reads both clocks. Copies share one start, so that the shards of a node agree on monotonic time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub(super) fn new() -> Self {
        Clock { start: Instant::now() }
    }

    /// The time.
    pub(super) fn now(&self) -> Now {
        // A clock before 1970 was never set: zero, and the log keeps times from falling later.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { wall: Timestamp(wall.as_micros() as u64), mono_us: self.mono_us() }
    }

    /// Monotonic microseconds. They start at one second, so that zero can mean never.
    pub(super) fn mono_us(&self) -> u64 {
        1_000_000 + self.start.elapsed().as_micros() as u64
    }
}

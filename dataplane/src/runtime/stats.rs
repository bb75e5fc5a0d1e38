//! What a shard's runtime counts. Written by the shard's thread alone, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A count that one thread raises and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Raises it. For the owning thread only: two would lose counts.
    pub(super) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long things took: a count for each bound of [`BOUNDS_US`], and one for what took longer.
#[derive(Debug, Default)]
pub struct Durations {
    counts: [Counter; BOUNDS_US.len() + 1],
    sum_us: Counter,
}

/// The bounds of [`Durations`] in microseconds, each included: from a fast disk to one that hangs.
pub const BOUNDS_US: [u64; 16] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000,
];

impl Durations {
    /// Counts one. For the owning thread only.
    pub(super) fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS_US.partition_point(|bound| *bound < us);
        assert!(place < self.counts.len(), "what is beyond all bounds has a place, too");
        self.counts[place].add(1);
        self.sum_us.add(us);
    }

    /// How many took at most each bound, but more than the one before; the last is beyond all of them.
    #[must_use]
    pub fn counts(&self) -> [u64; BOUNDS_US.len() + 1] {
        std::array::from_fn(|place| self.counts[place].get())
    }

    /// The sum of all of them in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

/// The counts of one shard's runtime since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Cycles of the driver.
    pub cycles: Counter,
    /// Times the driver slept on its ring.
    pub waits: Counter,
    /// Times the driver found nothing to do for so long that it slept in its host.
    pub sleeps: Counter,
    /// Turns given to the host's other tasks.
    pub turns: Counter,
    /// Connections taken in.
    pub accepted: Counter,
    /// Connections that are gone.
    pub closed: Counter,
    /// Connections closed because the peer took next to nothing for too long.
    pub slow_peers: Counter,
    /// Sessions that panicked.
    pub panics: Counter,
    /// Bytes received from peers.
    pub bytes_in: Counter,
    /// Bytes sent to peers.
    pub bytes_out: Counter,
    /// Writes that the disk was asked for.
    pub disk_writes: Counter,
    /// Those of them that return when their bytes survive a power loss.
    pub disk_synced_writes: Counter,
    /// Bytes of all writes.
    pub disk_written_bytes: Counter,
    /// How long writes took, from asking the disk until they were over.
    pub disk_write_durations: Durations,
    /// Reads that the disk was asked for.
    pub disk_reads: Counter,
    /// Bytes that were asked for.
    pub disk_read_bytes: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A duration at a bound belongs below it, as Prometheus has it; the longest must not be lost.
    #[test]
    fn durations_stand_at_their_bounds() {
        let durations = Durations::default();
        for us in [0, 50, 51, 5_000_000, 5_000_001, 60_000_000] {
            durations.add(Duration::from_micros(us));
        }
        let mut expected = [0; BOUNDS_US.len() + 1];
        (expected[0], expected[1], expected[15], expected[16]) = (2, 1, 1, 2);
        assert_eq!(durations.counts(), expected);
        assert_eq!(durations.sum_us(), 70_000_102);
    }
}

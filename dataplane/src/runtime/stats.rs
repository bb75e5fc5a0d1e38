//! What a shard's runtime counts. Written by the shard's thread alone, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Reads that the disk was asked for.
    pub disk_reads: Counter,
    /// Bytes that were asked for.
    pub disk_read_bytes: Counter,
}

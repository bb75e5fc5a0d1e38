//! What a log holds in memory and has under way at one moment, beside its limits, for whoever compares the two.

use super::Log;
use super::commits::CLOSED_MAX;
use crate::disk::Blocks;

/// What one log holds. Counted anew when it is asked for, so that it can be compared with what the log counts as it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogHeld {
    /// Commits kept for readers at the tail.
    pub cached: usize,
    /// Their bytes.
    pub cached_bytes: usize,
    /// Those of them that are not durable: they can be read nowhere else and stay, whatever the limit.
    pub unsynced_bytes: usize,
    /// Bytes beyond which what is durable goes.
    pub cached_bytes_max: usize,
    /// Bytes beyond which commits wait until what is written is durable.
    pub unsynced_bytes_max: u64,
    /// Commits that are open, closed or on their way to the disk.
    pub commits: usize,
    /// Most of them.
    pub commits_max: usize,
    /// Bytes of commit buffers that anybody refers to: the log, its cache, and deliveries.
    pub buffers_bytes: usize,
    /// Bytes of one such buffer, unless a batch needs more.
    pub buffer_bytes: usize,
    /// Bytes that readers have read ahead or asked for.
    pub read_bytes: usize,
    /// Most of them, unless one read alone needs more.
    pub read_bytes_max: usize,
    /// Whether no operation is under way and nothing waits to be written.
    pub is_idle: bool,
}

impl Log {
    /// What the log holds now.
    #[must_use]
    pub fn held(&self) -> LogHeld {
        let (cached, cached_bytes, unsynced_bytes) = self.cache.held();
        let (read_bytes, read_bytes_max) = self.read_ahead_bytes();
        assert!(unsynced_bytes <= cached_bytes, "what is not durable is a part of what is kept");
        LogHeld {
            cached,
            cached_bytes,
            unsynced_bytes,
            cached_bytes_max: self.options.cache_bytes,
            unsynced_bytes_max: self.options.unsynced_bytes_max,
            commits: usize::from(self.open.is_some()) + self.closed.len() + self.flights.flying(),
            // A commit that is too large for what is in flight waits beside those that are closed.
            commits_max: 1 + CLOSED_MAX + self.options.commits_in_flight_max * Blocks::PIECES_MAX,
            buffers_bytes: self.pool.in_use_bytes(),
            buffer_bytes: self.pool.chunk_bytes(),
            read_bytes,
            read_bytes_max,
            is_idle: self.is_idle(),
        }
    }
}

//! What a log can be told, with defaults and bounds.

use std::time::Duration;

use codec::limits::BATCH_BYTES_MAX;

use crate::aligned::BLOCK_BYTES;

/// Smallest segment that can be configured. Tests use it; a server has no reason to.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Largest segment that can be configured: places in it are 32-bit numbers of slots in its index.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// Size of a segment unless configured.
pub const SEGMENT_BYTES_DEFAULT: u64 = 256 << 20;
/// Size of the first segment of a start. Each is twice as large as the one before it until they reach the configured size, so
/// that soon every one of them is prepared whole before it is needed: a sync of a file whose blocks are still being
/// prepared waits for the file system's journal.
pub(crate) const FIRST_SEGMENT_BYTES: u64 = 16 << 20;
/// Zeros are written ahead of the tail in pieces of this size.
pub(crate) const PREPARE_PIECE_BYTES: u64 = 8 << 20;
/// What a start prepares before it serves, beyond the reserve.
pub(crate) const PREPARE_AT_OPEN_BYTES: u64 = 1 << 20;

const _: () = {
    assert!(SEGMENT_BYTES_DEFAULT >= 8 * BATCH_BYTES_MAX as u64, "sealing must stay rare");
    assert!(SEGMENT_BYTES_MIN.is_multiple_of(BLOCK_BYTES as u64), "segments are whole blocks");
    assert!(PREPARE_AT_OPEN_BYTES <= SEGMENT_BYTES_MIN, "a start prepares one segment at most");
};

/// How the writes of commits become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// Each write is a synced one: it returns when it is durable. For whoever waits for that.
    #[default]
    EachWrite,
    /// Writes return when they survive the process, and syncs of the file run behind them. For whoever waits for less:
    /// many commits share a sync, and nobody waits for it.
    Behind,
}

/// Options of one log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of a segment; one batch that is larger gets a segment of its own size. Rounded up to whole blocks.
    pub segment_bytes: u64,
    /// A commit is closed when it would grow beyond this, unless one batch alone is larger.
    pub commit_bytes_max: usize,
    /// Most commits in flight.
    pub commits_in_flight_max: usize,
    /// What makes commits durable.
    pub sync: Sync,
    /// With [`Sync::Behind`], a sync begins at the latest when the oldest commit that it covers was written so long ago:
    /// that, and the time of a sync, is what a power loss may take back.
    pub sync_after: Duration,
    /// With [`Sync::Behind`], a sync begins when so many bytes are written and not durable.
    pub sync_bytes: u64,
    /// With [`Sync::Behind`], commits wait while so many bytes are on their way or written and not durable; one of any
    /// size always goes. What is not durable stays in the cache, so it is no more than that may hold.
    pub unsynced_bytes_max: u64,
    /// A commit for which nobody waits, not even until it is written, is held back for so long at most.
    pub hold_back: Duration,
    /// Most bytes of recent commits that are kept in memory for readers at the tail.
    pub cache_bytes: usize,
    /// Most bytes that all readers of the log may have read ahead or asked for; one batch of any size always goes.
    pub read_bytes_max: usize,
    /// A checkpoint is begun after so many bytes of commits.
    pub checkpoint_every_bytes: u64,
    /// A log that is idle for so long writes down that all of it is durable.
    pub idle_mark_after: Duration,
    /// Changed cursors that no commit took along get one of their own after this.
    pub cursor_commit_after: Duration,
    /// The active segment is sealed at this age.
    pub segment_age_max: Option<Duration>,
    /// The active segment is sealed when its index in memory takes so many bytes.
    pub index_bytes_max: usize,
    /// Indexes of sealed segments that are mapped take so many bytes at most; one of any size is always mapped.
    pub indexes_mapped_bytes_max: usize,
    /// No topic begins whose name would make the table of topics larger than this; those that are there stay.
    pub topics_bytes_max: usize,
    /// Prepared space that events leave to cursors and marks, for when the disk is full.
    pub reserve_bytes: u64,
    /// Most bytes that this log's files may take, as its share of the folder's limit.
    pub bytes_max: Option<u64>,
    /// The oldest segments are recycled as long as the others hold this much. `None` keeps everything.
    pub retention_bytes: Option<u64>,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            commit_bytes_max: 4 << 20,
            commits_in_flight_max: 2,
            sync: Sync::EachWrite,
            sync_after: Duration::from_millis(10),
            sync_bytes: 8 << 20,
            unsynced_bytes_max: 32 << 20,
            hold_back: Duration::from_millis(1),
            cache_bytes: 64 << 20,
            read_bytes_max: 64 << 20,
            checkpoint_every_bytes: SEGMENT_BYTES_DEFAULT / 2,
            idle_mark_after: Duration::from_secs(1),
            cursor_commit_after: Duration::from_millis(100),
            segment_age_max: Some(Duration::from_secs(3600)),
            index_bytes_max: 32 << 20,
            indexes_mapped_bytes_max: 512 << 20,
            topics_bytes_max: usize::MAX,
            reserve_bytes: 256 << 10,
            bytes_max: None,
            retention_bytes: None,
        }
    }
}

impl LogOptions {
    /// The options with every value brought into its bounds.
    #[must_use]
    pub(crate) fn bounded(mut self) -> Self {
        let block = BLOCK_BYTES as u64;
        self.segment_bytes =
            self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(block);
        self.commit_bytes_max = self
            .commit_bytes_max
            .clamp(4 * BLOCK_BYTES, 64 << 20)
            .next_multiple_of(BLOCK_BYTES)
            .min((self.segment_bytes / 2) as usize / BLOCK_BYTES * BLOCK_BYTES);
        self.commits_in_flight_max = self.commits_in_flight_max.clamp(1, 8);
        self.unsynced_bytes_max =
            self.unsynced_bytes_max.min(self.cache_bytes as u64).max(self.commit_bytes_max as u64);
        self.sync_bytes = self.sync_bytes.min(self.unsynced_bytes_max / 2);
        self.reserve_bytes =
            self.reserve_bytes.clamp(4 * block, self.segment_bytes / 8).next_multiple_of(block);
        self.checkpoint_every_bytes =
            self.checkpoint_every_bytes.clamp(SEGMENT_BYTES_MIN / 4, self.segment_bytes);
        self.index_bytes_max = self.index_bytes_max.max(64 << 10);
        assert!(self.commit_bytes_max as u64 <= self.segment_bytes, "a commit fits a segment");
        assert!(self.commit_bytes_max.is_multiple_of(BLOCK_BYTES), "commits are whole blocks");
        assert!(self.segment_bytes.is_multiple_of(block), "segments are whole blocks");
        assert!(self.reserve_bytes.is_multiple_of(block), "the reserve is whole blocks");
        assert!(
            self.commit_bytes_max as u64 + self.reserve_bytes + 2 * block <= self.segment_bytes,
            "a commit fits a segment beside the reserve and both first blocks"
        );
        self
    }

    /// Size of the segment that follows one of `before` bytes.
    pub(crate) fn segment_bytes_after(&self, before: Option<u64>) -> u64 {
        self.segment_bytes.min(before.map_or(FIRST_SEGMENT_BYTES, |bytes| 2 * bytes))
    }

    /// The most a step of preparation writes.
    pub(crate) fn piece_bytes(&self) -> u64 {
        PREPARE_PIECE_BYTES.min(self.segment_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of an odd number of blocks is no whole block: commits must be bounded by whole ones whatever is configured.
    #[test]
    fn every_size_of_segments_is_brought_into_bounds() {
        for segment_bytes in
            [0, SEGMENT_BYTES_MIN + 1, SEGMENT_BYTES_MIN + 4096, SEGMENT_BYTES_MAX, u64::MAX]
        {
            let commit_bytes_max = usize::MAX / 2;
            let options = LogOptions { segment_bytes, commit_bytes_max, ..LogOptions::default() };
            let options = options.bounded();
            assert!(options.commit_bytes_max.is_multiple_of(BLOCK_BYTES), "{options:?}");
        }
    }
}

//! The newest commits, kept in memory for readers at the tail.

use std::collections::VecDeque;

use bytes::Bytes;
use codec::ids::Position;

/// A commit (or what there is of the open one).
#[derive(Clone, Debug)]
pub(crate) struct CachedCommit {
    pub(crate) segment: u64,
    /// Byte of the first of `bytes` in the segment.
    pub(crate) at: u64,
    pub(crate) number: u64,
    pub(crate) base_position: Position,
    pub(crate) end_position: Position,
    pub(crate) bytes: Bytes,
}

/// Commits in a row, the newest at the back. Over budget, the oldest that are durable go.
///
/// Invariant: each commit starts at the position where the one before it ends.
#[derive(Debug)]
pub(crate) struct TailCache {
    commits: VecDeque<CachedCommit>,
    bytes: usize,
    bytes_max: usize,
    durable_end: u64,
}

impl TailCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        TailCache { commits: VecDeque::new(), bytes: 0, bytes_max, durable_end: 0 }
    }

    pub(crate) fn insert(&mut self, commit: CachedCommit) {
        let last = self.commits.back();
        assert!(
            last.is_none_or(|last| last.end_position == commit.base_position),
            "commits leave no gap"
        );
        assert!(
            last.is_none_or(|last| last.number + 1 == commit.number),
            "commits are numbered without a gap"
        );
        assert!(self.durable_end <= commit.number, "a commit is kept before it is durable");
        assert!(commit.base_position <= commit.end_position, "a commit ends behind its start");
        self.bytes += commit.bytes.len();
        self.commits.push_back(commit);
        self.evict();
    }

    /// The commit with this number, and all before it, is durable.
    pub(crate) fn synced(&mut self, number: u64) {
        assert!(self.durable_end <= number, "commits become durable in order");
        self.durable_end = number + 1;
        self.evict();
    }

    /// Keeps at most `bytes_max` from now on.
    pub(crate) fn limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.evict();
    }

    /// Bytes of the commits that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many commits are kept, their bytes, and those bytes of them that are not durable; added up anew.
    pub(crate) fn held(&self) -> (usize, usize, usize) {
        let bytes = |commit: &CachedCommit| commit.bytes.len();
        let sum: usize = self.commits.iter().map(bytes).sum();
        assert!(sum == self.bytes, "the cache counts its bytes");
        let unsynced = self.commits.iter().filter(|commit| commit.number >= self.durable_end);
        (self.commits.len(), sum, unsynced.map(bytes).sum())
    }

    /// The commit that holds `position`.
    pub(crate) fn find(&self, position: Position) -> Option<&CachedCommit> {
        let after = self.commits.partition_point(|commit| commit.end_position <= position);
        self.commits.get(after).filter(|commit| commit.base_position <= position)
    }

    /// Where in `segment` the first commit stands that is not durable: from there on the file may hold anything.
    pub(crate) fn first_unsynced_at(&self, segment: u64) -> Option<u64> {
        let after = self.commits.partition_point(|commit| commit.number < self.durable_end);
        self.commits.range(after..).find(|commit| commit.segment == segment).map(|commit| commit.at)
    }

    /// Where in `segment` the first commit stands that is kept.
    pub(crate) fn first_at(&self, segment: u64) -> Option<u64> {
        let first = self.commits.partition_point(|commit| commit.segment < segment);
        self.commits.get(first).filter(|commit| commit.segment == segment).map(|commit| commit.at)
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            match self.commits.front() {
                // What is not durable can be read nowhere else.
                Some(oldest) if oldest.number < self.durable_end => {
                    self.bytes -= oldest.bytes.len();
                    self.commits.pop_front();
                }
                _ => return,
            }
        }
        assert!(self.bytes == 0 || !self.commits.is_empty(), "an empty cache counts no bytes");
    }
}

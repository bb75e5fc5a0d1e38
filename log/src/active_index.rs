//! What a segment's index holds while the segment is in memory: every commit, and for every commit the runs of each
//! topic and partition in it.

use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

/// A run ends where this many bytes of other topics follow. In a large commit the batches of a topic may stand far
/// apart; a reader that wants only these gains by passing over what is between, from about so many bytes on.
pub(crate) const RUN_GAP_BYTES: u64 = 32 << 10;

/// One commit of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitEntry {
    /// Byte of its first batch's block in the segment.
    pub(crate) at: u64,
    /// Position of its first event (or of the next one, if it holds none).
    pub(crate) position: Position,
    /// Append time of its first batch.
    pub(crate) time: Timestamp,
}

/// Batches of one topic and partition in one commit that stand near each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunEntry {
    pub(crate) topic: TopicId,
    pub(crate) partition: Partition,
    /// Byte of the first batch.
    pub(crate) at: u64,
    /// Byte after the last batch.
    pub(crate) end: u64,
    /// Position of the first event.
    pub(crate) position: Position,
    /// Offset of the first event.
    pub(crate) offset: Offset,
    /// Offset after the last event.
    pub(crate) offset_end: Offset,
    /// Number of the run before it of the same topic and partition; 0 or below [`ActiveIndex::first_run`]: none here.
    pub(crate) previous: u64,
}

/// The index of a segment in memory. Runs are numbered over all segments of a log, from 1.
#[derive(Debug, Default)]
pub(crate) struct ActiveIndex {
    pub(crate) commits: Vec<CommitEntry>,
    pub(crate) runs: Vec<RunEntry>,
    pub(crate) first_run: u64,
    /// Runs from here on belong to the open commit.
    commit_first_run: u64,
}

impl ActiveIndex {
    pub(crate) fn starting_at_run(first_run: u64) -> Self {
        assert!(first_run >= 1, "0 means none");
        ActiveIndex { first_run, commit_first_run: first_run, ..ActiveIndex::default() }
    }

    pub(crate) fn next_run(&self) -> u64 {
        self.first_run + self.runs.len() as u64
    }

    pub(crate) fn commit_opened(&mut self, entry: CommitEntry) {
        let last = self.commits.last();
        assert!(last.is_none_or(|last| last.at < entry.at), "commits follow each other");
        self.commits.push(entry);
        self.commit_first_run = self.next_run();
    }

    /// A batch was appended to the open commit. `last_run` is the newest run of its topic and partition.
    pub(crate) fn appended(&mut self, batch: RunEntry, last_run: &mut u64) {
        assert!(*last_run < self.next_run(), "runs are numbered over all segments");
        if *last_run >= self.commit_first_run {
            let run = &mut self.runs[(*last_run - self.first_run) as usize];
            assert!(run.topic == batch.topic && run.partition == batch.partition, "it is its run");
            assert!(run.end <= batch.at, "batches follow each other");
            if batch.at - run.end < RUN_GAP_BYTES {
                run.end = batch.end;
                run.offset_end = batch.offset_end;
                return;
            }
        }
        let number = self.next_run();
        self.runs.push(RunEntry { previous: *last_run, ..batch });
        *last_run = number;
    }

    pub(crate) fn run(&self, number: u64) -> Option<&RunEntry> {
        self.runs.get(usize::try_from(number.checked_sub(self.first_run)?).ok()?)
    }

    /// The last commit that starts at or before `position`.
    pub(crate) fn commit_of(&self, position: Position) -> Option<&CommitEntry> {
        let after = self.commits.partition_point(|commit| commit.position <= position);
        // Commits without events share their position with the one after them; the last of them holds it.
        self.commits.get(after.checked_sub(1)?)
    }

    /// The first commit that starts at byte `at` or behind it.
    pub(crate) fn commit_from(&self, at: u64) -> Option<(u64, Position)> {
        let commit = self.commits.get(self.commits.partition_point(|commit| commit.at < at))?;
        Some((commit.at, commit.position))
    }

    /// Append time of the first commit.
    pub(crate) fn first_time(&self) -> Option<Timestamp> {
        self.commits.first().map(|commit| commit.time)
    }

    /// The position of the last commit that was begun before `time`, if there is one.
    pub(crate) fn commit_before(&self, time: Timestamp) -> Option<Position> {
        let after = self.commits.partition_point(|commit| commit.time < time);
        Some(self.commits.get(after.checked_sub(1)?)?.position)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.commits.len() * size_of::<CommitEntry>() + self.runs.len() * size_of::<RunEntry>()
    }
}

//! What a segment's index holds while the segment is in memory: every commit, and for every commit the runs of each
//! topic and partition in it.

use std::ops::Range;

use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};
use codec::limits::BATCH_ALIGN;

use crate::options::SEGMENT_BYTES_MAX;

/// A run ends where this many bytes of other topics follow. In a large commit the batches of a topic may stand far
/// apart; a reader that wants only these gains by passing over what is between, from about so many bytes on.
pub(crate) const RUN_GAP_BYTES: u64 = 32 << 10;

/// Batches start and end at multiples of this.
pub(crate) const SLOT_BYTES: u64 = BATCH_ALIGN as u64;
/// Up to this byte of a segment an index can say where a batch is.
pub(crate) const INDEXED_BYTES_MAX: u64 = SLOT_BYTES * u32::MAX as u64;

const _: () = {
    assert!(2 * SEGMENT_BYTES_MAX < INDEXED_BYTES_MAX, "every segment that is made can be indexed");
    assert!(size_of::<RunRow>() == 40, "nearly every event of very many topics is a run");
};

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
    /// Number of the run before it of the same topic and partition, perhaps of an older segment; 0: none that is known.
    pub(crate) previous: u64,
}

/// A [`RunEntry`] as it is kept.
#[derive(Clone, Copy, Debug)]
struct RunRow {
    position: u64,
    offset: u64,
    /// In slots from the segment's start, as `slot_end`.
    slot: u32,
    slot_end: u32,
    events: u32,
    /// How many runs back the one before it is, perhaps in the index of an older segment; 0: none that is known.
    back: u32,
    topic: u32,
    partition: u16,
}

/// The index of a segment in memory. Runs are numbered over all segments of a log, from 1.
#[derive(Debug, Default)]
pub(crate) struct ActiveIndex {
    pub(crate) commits: Vec<CommitEntry>,
    runs: Vec<RunRow>,
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
        let next_run = self.next_run();
        assert!(*last_run < next_run, "runs are numbered over all segments");
        if *last_run >= self.commit_first_run
            && self.runs[(*last_run - self.first_run) as usize].takes(&batch)
        {
            return;
        }
        // What is further back is in no index that is still in memory.
        let back =
            if *last_run == 0 { 0 } else { u32::try_from(next_run - *last_run).unwrap_or(0) };
        self.runs.push(RunRow { back, ..RunRow::of(&batch) });
        *last_run = next_run;
    }

    pub(crate) fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Runs by their place, those of `rows`; fewer where there are not so many.
    pub(crate) fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = RunEntry> {
        let end = rows.end.min(self.runs.len());
        (rows.start.min(end)..end).map(|row| self.run_in(row))
    }

    /// Topic and partition of each row.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (u32, u16)> {
        self.runs.iter().map(|run| (run.topic, run.partition))
    }

    /// The run of a row.
    pub(crate) fn run_in(&self, row: usize) -> RunEntry {
        self.runs[row].entry(self.first_run + row as u64)
    }

    pub(crate) fn run(&self, number: u64) -> Option<RunEntry> {
        let row = self.runs.get(usize::try_from(number.checked_sub(self.first_run)?).ok()?)?;
        Some(row.entry(number))
    }

    /// How many runs start before `position`.
    pub(crate) fn runs_before(&self, position: Position) -> usize {
        self.runs.partition_point(|run| run.position < position.0)
    }

    /// How many runs start before byte `at`.
    pub(crate) fn runs_before_byte(&self, at: u64) -> usize {
        self.runs.partition_point(|run| u64::from(run.slot) * SLOT_BYTES < at)
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
        self.commits.len() * size_of::<CommitEntry>() + self.runs.len() * size_of::<RunRow>()
    }
}

impl RunRow {
    fn of(batch: &RunEntry) -> Self {
        assert!(batch.at < batch.end && batch.end <= INDEXED_BYTES_MAX, "segments are bounded");
        assert!((batch.at | batch.end).is_multiple_of(SLOT_BYTES), "batches stand in whole slots");
        let events = batch.offset_end.0 - batch.offset.0;
        RunRow {
            position: batch.position.0,
            offset: batch.offset.0,
            slot: (batch.at / SLOT_BYTES) as u32,
            slot_end: (batch.end / SLOT_BYTES) as u32,
            events: u32::try_from(events).expect("a batch counts its events in 32 bits"),
            back: 0,
            topic: batch.topic.0,
            partition: batch.partition.0,
        }
    }

    /// Takes in a batch that stands near behind it; whether it does.
    fn takes(&mut self, batch: &RunEntry) -> bool {
        let is_same = self.topic == batch.topic.0 && self.partition == batch.partition.0;
        assert!(is_same, "it is its run");
        let end = u64::from(self.slot_end) * SLOT_BYTES;
        assert!(end <= batch.at && batch.at < batch.end, "batches follow each other");
        assert!(batch.end <= INDEXED_BYTES_MAX, "segments are bounded");
        // What a damaged segment says of its offsets may be anything.
        let events = batch.offset_end.0.wrapping_sub(self.offset);
        if batch.at - end >= RUN_GAP_BYTES || events > u64::from(u32::MAX) {
            return false;
        }
        self.slot_end = (batch.end / SLOT_BYTES) as u32;
        self.events = events as u32;
        true
    }

    /// As the run of a number.
    fn entry(&self, number: u64) -> RunEntry {
        let back = u64::from(self.back);
        RunEntry {
            topic: TopicId(self.topic),
            partition: Partition(self.partition),
            at: u64::from(self.slot) * SLOT_BYTES,
            end: u64::from(self.slot_end) * SLOT_BYTES,
            position: Position(self.position),
            offset: Offset(self.offset),
            offset_end: Offset(self.offset + u64::from(self.events)),
            previous: if back == 0 { 0 } else { number - back },
        }
    }
}

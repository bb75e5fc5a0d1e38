//! The index of a sealed segment: a file beside it, mapped. Derived: rebuilt when it is missing or damaged.
//!
//! ```text
//!  0 u32 magic "RMIX"    4 u32 version
//!  8 u64 log key        16 u64 segment number
//! 24 u64 bytes of the archive
//! 32 u32 CRC-32C of bytes 0..32 and of the archive    36 zeros to 64
//! 64 archive (rkyv 0.8, little-endian, 16-aligned) of `IndexRows`
//! ```
//!
//! A helper thread writes or checks it and maps it with its pages loaded, so that a shard never waits for one. A log of
//! very many topics has a run for nearly every event, so what a run takes is what an index costs.

mod building;

use codec::crc32c::crc32c;
use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

pub(crate) use building::{IndexTask, NoIndex};

use crate::active_index::SLOT_BYTES;
use crate::disk::LogKey;
use crate::storage::Mapped;

pub(crate) const INDEX_MAGIC: u32 = 0x5849_4d52;
/// One of another version counts as missing: it is made again from its segment.
const INDEX_VERSION: u32 = 2;
const INDEX_HEADER_BYTES: usize = 64;

/// The archive. Commits by place; keys by topic and partition; the runs of a key follow each other, by offset.
#[derive(Debug, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct IndexRows {
    /// Runs tell their positions from here on.
    base_position: u64,
    commits: Vec<CommitRow>,
    keys: Vec<KeyRow>,
    runs: Vec<RunRow>,
}

#[derive(Clone, Copy, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[repr(C)]
struct CommitRow {
    at: u64,
    position: u64,
    time: u64,
}

#[derive(Clone, Copy, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[repr(C)]
struct KeyRow {
    topic: u32,
    partition: u32,
    first_run: u32,
}

/// Without padding and in the order of the archive, so that all of them are copied as one piece.
#[derive(Clone, Copy, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[repr(C)]
struct RunRow {
    /// Of the first event, as in `events` how many follow it.
    offset: u64,
    /// Behind the position of the first commit.
    position: u32,
    events: u32,
    /// In slots of 8 bytes from the segment's start, as `slots`, its length.
    slot: u32,
    slots: u32,
}

const _: () = assert!(size_of::<RunRow>() == 24, "nearly every event of very many topics is a run");

/// A run as a reader needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) at: u64,
    pub(crate) end: u64,
    pub(crate) position: Position,
    pub(crate) offset: Offset,
    pub(crate) offset_end: Offset,
}

/// What a segment holds of one topic and partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeySpan {
    pub(crate) topic: TopicId,
    pub(crate) partition: Partition,
    pub(crate) first: Offset,
    pub(crate) end: Offset,
    /// Its share of the segment's bytes.
    pub(crate) bytes: u64,
}

/// How runs, which may overlap, are scaled to the bytes of their segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scale {
    segment_bytes: u64,
    spanned: u64,
}

/// A mapped index whose bytes were checked.
#[derive(Debug)]
pub(crate) struct SealedIndex {
    mapped: Mapped,
}

impl SealedIndex {
    /// Checks a mapped file: its checksum, then every reference of the archive.
    pub(crate) fn check(mapped: Mapped, log: LogKey, segment: u64) -> Option<Self> {
        let head = mapped.first_chunk::<INDEX_HEADER_BYTES>()?;
        let archive = &mapped[INDEX_HEADER_BYTES..];
        if *head != index_header(INDEX_VERSION, log, segment, archive)
            || rkyv::access::<ArchivedIndexRows, rkyv::rancor::Error>(archive).is_err()
        {
            return None;
        }
        Some(SealedIndex { mapped })
    }

    /// A mapped file that this process has just made: `written` is what it wrote. The sum of these bytes was taken as they
    /// were made, and nobody has read them back from the disk since; where they are found there, [`SealedIndex::check`]
    /// looks at them.
    fn just_written(mapped: Mapped, written: &[u8]) -> Option<Self> {
        let (ours, found) = (written.first_chunk::<INDEX_HEADER_BYTES>()?, mapped.first_chunk()?);
        (ours == found && mapped.len() == written.len()).then_some(SealedIndex { mapped })
    }

    fn rows(&self) -> &ArchivedIndexRows {
        // SAFETY: `check` has verified this very archive, or this process has made it of rows that it had, and the file of
        // an index never changes.
        unsafe { rkyv::access_unchecked(&self.mapped[INDEX_HEADER_BYTES..]) }
    }

    /// The last commit that starts at or before `position`: its byte and its position.
    pub(crate) fn commit_of(&self, position: Position) -> Option<(u64, Position)> {
        let commits = &self.rows().commits;
        let after = commits.partition_point(|commit| commit.position.to_native() <= position.0);
        let commit = commits.get(after.checked_sub(1)?)?;
        Some((commit.at.to_native(), Position(commit.position.to_native())))
    }

    /// The last commit that starts at or before `position`: its byte, and the append time of its first batch.
    pub(crate) fn commit_place(&self, position: Position) -> Option<(u64, Timestamp)> {
        let commits = &self.rows().commits;
        let after = commits.partition_point(|commit| commit.position.to_native() <= position.0);
        let commit = commits.get(after.checked_sub(1)?)?;
        Some((commit.at.to_native(), Timestamp(commit.time.to_native())))
    }

    /// Where the first commit behind `position` starts.
    pub(crate) fn commit_after(&self, position: Position) -> Option<Position> {
        let commits = &self.rows().commits;
        let after = commits.partition_point(|commit| commit.position.to_native() <= position.0);
        commits.get(after).map(|commit| Position(commit.position.to_native()))
    }

    /// The first commit that starts at byte `at` or behind it.
    pub(crate) fn commit_from(&self, at: u64) -> Option<(u64, Position)> {
        let commits = &self.rows().commits;
        let index = commits.partition_point(|commit| commit.at.to_native() < at);
        let commit = commits.get(index)?;
        Some((commit.at.to_native(), Position(commit.position.to_native())))
    }

    /// Append time of the first commit.
    pub(crate) fn first_time(&self) -> Option<Timestamp> {
        self.rows().commits.first().map(|commit| Timestamp(commit.time.to_native()))
    }

    /// The position of the last commit that was begun before `time`, if there is one.
    pub(crate) fn commit_before(&self, time: Timestamp) -> Option<Position> {
        let commits = &self.rows().commits;
        let after = commits.partition_point(|commit| commit.time.to_native() < time.0);
        let commit = commits.get(after.checked_sub(1)?)?;
        Some(Position(commit.position.to_native()))
    }

    /// The number of a pair of topic and partition.
    pub(crate) fn key_of(&self, topic: TopicId, partition: Partition) -> Option<usize> {
        let wanted = (topic.0, u32::from(partition.0));
        let at = self.rows().keys.binary_search_by_key(&wanted, |key| {
            (key.topic.to_native(), key.partition.to_native())
        });
        at.ok()
    }

    fn key(&self, topic: TopicId, partition: Partition) -> Option<&[ArchivedRunRow]> {
        Some(self.runs_of(self.key_of(topic, partition)?))
    }

    fn runs_of(&self, key: usize) -> &[ArchivedRunRow] {
        let rows = self.rows();
        let first = rows.keys[key].first_run.to_native() as usize;
        let next = rows.keys.get(key + 1);
        let end = next.map_or(rows.runs.len(), |next| next.first_run.to_native() as usize);
        assert!(first < end, "a key has runs");
        &rows.runs[first..end]
    }

    /// Position of the last commit, and the append time of its first batch.
    pub(crate) fn last_commit(&self) -> Option<(Position, Timestamp)> {
        let last = self.rows().commits.last()?;
        Some((Position(last.position.to_native()), Timestamp(last.time.to_native())))
    }

    /// The scale of [`SealedIndex::key_span`] for a segment of so many bytes.
    pub(crate) fn scale(&self, segment_bytes: u64) -> Scale {
        let runs = self.rows().runs.iter();
        let spanned: u64 = runs.map(span).sum();
        Scale { segment_bytes, spanned: spanned.max(1) }
    }

    /// What the segment holds of a pair of topic and partition.
    pub(crate) fn key_span(&self, key: usize, scale: Scale) -> KeySpan {
        let row = &self.rows().keys[key];
        let runs = self.runs_of(key);
        let spanned: u64 = runs.iter().map(span).sum();
        let share =
            u128::from(scale.segment_bytes) * u128::from(spanned) / u128::from(scale.spanned);
        KeySpan {
            topic: TopicId(row.topic.to_native()),
            partition: Partition(u16::try_from(row.partition.to_native()).unwrap_or(u16::MAX)),
            first: Offset(runs.first().map_or(0, |run| run.offset.to_native())),
            end: Offset(runs.last().map_or(0, offset_end)),
            bytes: u64::try_from(share).unwrap_or(u64::MAX),
        }
    }

    /// Bytes that are mapped.
    pub(crate) fn mapped_bytes(&self) -> usize {
        self.mapped.len()
    }

    /// How many pairs of topic and partition there are.
    pub(crate) fn key_count(&self) -> usize {
        self.rows().keys.len()
    }

    /// The topic of a pair.
    pub(crate) fn topic_of(&self, key: usize) -> TopicId {
        TopicId(self.rows().keys[key].topic.to_native())
    }

    /// The pairs of one topic.
    pub(crate) fn keys_of(&self, topic: TopicId) -> std::ops::Range<usize> {
        let keys = &self.rows().keys;
        let first = keys.partition_point(|key| key.topic.to_native() < topic.0);
        let end = first + keys[first..].partition_point(|key| key.topic.to_native() == topic.0);
        assert!(end <= keys.len(), "what is found is there");
        first..end
    }

    /// Byte, end and position of each run of a pair that ends behind byte `from`.
    pub(crate) fn each_run(
        &self,
        key: usize,
        from: u64,
        mut visit: impl FnMut(u64, u64, Position),
    ) {
        let runs = self.runs_of(key);
        let before = runs.partition_point(|run| byte(run.slot) + span(run) <= from);
        for run in &runs[before..] {
            let run = self.run_from(run);
            visit(run.at, run.end, run.position);
        }
    }

    /// The run of a topic and partition that holds `offset`, or the first one behind it.
    pub(crate) fn run_of(
        &self,
        topic: TopicId,
        partition: Partition,
        offset: Offset,
    ) -> Option<Run> {
        let runs = self.key(topic, partition)?;
        let at = runs.partition_point(|run| offset_end(run) <= offset.0);
        runs.get(at).map(|run| self.run_from(run))
    }

    /// The last run of a topic and partition that starts before `position`, and the first one from there on.
    pub(crate) fn runs_at(
        &self,
        topic: TopicId,
        partition: Partition,
        position: Position,
    ) -> (Option<Run>, Option<Run>) {
        let Some(runs) = self.key(topic, partition) else { return (None, None) };
        let before = |run: &ArchivedRunRow| self.run_from(run).position < position;
        let first = runs.partition_point(before);
        let last_before = first.checked_sub(1).map(|before| self.run_from(&runs[before]));
        (last_before, runs.get(first).map(|run| self.run_from(run)))
    }

    /// For each topic and partition the offset after its last event here.
    pub(crate) fn offset_ends(&self) -> Vec<(TopicId, Partition, Offset)> {
        let keys = self.rows().keys.iter().enumerate();
        let ends = keys.filter_map(|(at, key)| {
            let last = self.runs_of(at).last()?;
            let partition = Partition(u16::try_from(key.partition.to_native()).ok()?);
            Some((TopicId(key.topic.to_native()), partition, Offset(offset_end(last))))
        });
        ends.collect()
    }
}

impl SealedIndex {
    /// Commits, keys and runs, for people.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let rows = self.rows();
        (rows.commits.len(), rows.keys.len(), rows.runs.len())
    }

    fn run_from(&self, row: &ArchivedRunRow) -> Run {
        let at = byte(row.slot);
        let base = self.rows().base_position.to_native();
        Run {
            at,
            end: at + span(row),
            position: Position(base + u64::from(row.position.to_native())),
            offset: Offset(row.offset.to_native()),
            offset_end: Offset(offset_end(row)),
        }
    }
}

fn byte(slot: rkyv::rend::u32_le) -> u64 {
    u64::from(slot.to_native()) * SLOT_BYTES
}

fn span(run: &ArchivedRunRow) -> u64 {
    byte(run.slots)
}

fn offset_end(run: &ArchivedRunRow) -> u64 {
    run.offset.to_native() + u64::from(run.events.to_native())
}

/// Whether a file is a whole index of an earlier version, which is not used any more.
pub(crate) fn is_outdated(file: &[u8], log: LogKey, segment: u64) -> bool {
    let Some(head) = file.first_chunk::<INDEX_HEADER_BYTES>() else { return false };
    let archive = &file[INDEX_HEADER_BYTES..];
    (1..INDEX_VERSION).any(|version| *head == index_header(version, log, segment, archive))
}

fn index_header(
    version: u32,
    log: LogKey,
    segment: u64,
    archive: &[u8],
) -> [u8; INDEX_HEADER_BYTES] {
    let mut out = [0; INDEX_HEADER_BYTES];
    out[0..4].copy_from_slice(&INDEX_MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&version.to_le_bytes());
    out[8..16].copy_from_slice(&log.as_u64().to_le_bytes());
    out[16..24].copy_from_slice(&segment.to_le_bytes());
    out[24..32].copy_from_slice(&(archive.len() as u64).to_le_bytes());
    // Both parts count: the place of the CRC holds the archive's while the header's is made.
    out[32..36].copy_from_slice(&crc32c(archive).to_le_bytes());
    let crc = crc32c(&out[..36]);
    out[32..36].copy_from_slice(&crc.to_le_bytes());
    out
}

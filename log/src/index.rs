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
//! A helper thread writes, checks and maps it with its pages loaded, so that a shard never waits for one.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use codec::crc32c::crc32c;
use codec::header::{BatchHeader, ContentKind};
use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

use crate::active_index::{ActiveIndex, CommitEntry, RunEntry};
use crate::chores::ChoreOutcome;
use crate::disk::{Chore, ChoreDone, LogKey};
use crate::recovery::walk_through;
use crate::scan::SegmentScan;
use crate::segment::index_path;
use crate::storage::{FileId, Mapped, OpenMode, Storage};

pub(crate) const INDEX_MAGIC: u32 = 0x5849_4d52;
const INDEX_VERSION: u32 = 1;
const INDEX_HEADER_BYTES: usize = 64;

/// The archive. Commits by place; keys by topic and partition; the runs of a key follow each other, by offset.
#[derive(Debug, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct IndexRows {
    commits: Vec<CommitRow>,
    keys: Vec<KeyRow>,
    runs: Vec<RunRow>,
}

#[derive(Clone, Copy, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct CommitRow {
    at: u64,
    position: u64,
    time: u64,
}

#[derive(Clone, Copy, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct KeyRow {
    topic: u32,
    partition: u32,
    first_run: u32,
}

#[derive(Clone, Copy, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct RunRow {
    at: u64,
    end: u64,
    position: u64,
    offset: u64,
    offset_end: u64,
}

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
        if *head != index_header(log, segment, archive)
            || rkyv::access::<ArchivedIndexRows, rkyv::rancor::Error>(archive).is_err()
        {
            return None;
        }
        Some(SealedIndex { mapped })
    }

    fn rows(&self) -> &ArchivedIndexRows {
        // SAFETY: `check` has verified this very archive, and a sealed index never changes.
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

    /// Append time of the last commit's first batch.
    pub(crate) fn last_time(&self) -> Option<Timestamp> {
        self.rows().commits.last().map(|commit| Timestamp(commit.time.to_native()))
    }

    /// The scale of [`SealedIndex::key_span`] for a segment of so many bytes.
    pub(crate) fn scale(&self, segment_bytes: u64) -> Scale {
        let runs = self.rows().runs.iter();
        let spanned: u64 = runs.map(|run| run.end.to_native() - run.at.to_native()).sum();
        Scale { segment_bytes, spanned: spanned.max(1) }
    }

    /// What the segment holds of a pair of topic and partition.
    pub(crate) fn key_span(&self, key: usize, scale: Scale) -> KeySpan {
        let row = &self.rows().keys[key];
        let runs = self.runs_of(key);
        let spanned: u64 = runs.iter().map(|run| run.end.to_native() - run.at.to_native()).sum();
        let share =
            u128::from(scale.segment_bytes) * u128::from(spanned) / u128::from(scale.spanned);
        KeySpan {
            topic: TopicId(row.topic.to_native()),
            partition: Partition(u16::try_from(row.partition.to_native()).unwrap_or(u16::MAX)),
            first: Offset(runs.first().map_or(0, |run| run.offset.to_native())),
            end: Offset(runs.last().map_or(0, |run| run.offset_end.to_native())),
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
        let before = runs.partition_point(|run| run.end.to_native() <= from);
        for run in &runs[before..] {
            visit(run.at.to_native(), run.end.to_native(), Position(run.position.to_native()));
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
        let at = runs.partition_point(|run| run.offset_end.to_native() <= offset.0);
        runs.get(at).map(run_from)
    }

    /// The last run of a topic and partition that starts before `position`, and the first one from there on.
    pub(crate) fn runs_at(
        &self,
        topic: TopicId,
        partition: Partition,
        position: Position,
    ) -> (Option<Run>, Option<Run>) {
        let Some(runs) = self.key(topic, partition) else { return (None, None) };
        let first = runs.partition_point(|run| run.position.to_native() < position.0);
        let before = first.checked_sub(1).map(|before| run_from(&runs[before]));
        (before, runs.get(first).map(run_from))
    }

    /// For each topic and partition the offset after its last event here.
    pub(crate) fn offset_ends(&self) -> Vec<(TopicId, Partition, Offset)> {
        let keys = self.rows().keys.iter().enumerate();
        let ends = keys.filter_map(|(at, key)| {
            let last = self.runs_of(at).last()?;
            let partition = Partition(u16::try_from(key.partition.to_native()).ok()?);
            Some((TopicId(key.topic.to_native()), partition, Offset(last.offset_end.to_native())))
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
}

fn run_from(row: &ArchivedRunRow) -> Run {
    Run {
        at: row.at.to_native(),
        end: row.end.to_native(),
        position: Position(row.position.to_native()),
        offset: Offset(row.offset.to_native()),
        offset_end: Offset(row.offset_end.to_native()),
    }
}

fn index_header(log: LogKey, segment: u64, archive: &[u8]) -> [u8; INDEX_HEADER_BYTES] {
    let mut out = [0; INDEX_HEADER_BYTES];
    out[0..4].copy_from_slice(&INDEX_MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&INDEX_VERSION.to_le_bytes());
    out[8..16].copy_from_slice(&log.as_u64().to_le_bytes());
    out[16..24].copy_from_slice(&segment.to_le_bytes());
    out[24..32].copy_from_slice(&(archive.len() as u64).to_le_bytes());
    // Both parts count: the place of the CRC holds the archive's while the header's is made.
    out[32..36].copy_from_slice(&crc32c(archive).to_le_bytes());
    let crc = crc32c(&out[..36]);
    out[32..36].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Writes (or finds, or rebuilds) the index of a sealed segment, and maps it.
#[derive(Debug)]
pub(crate) struct IndexTask {
    pub(crate) dir: PathBuf,
    pub(crate) log: LogKey,
    pub(crate) number: u64,
    pub(crate) file: FileId,
    pub(crate) base_position: Position,
    pub(crate) end_bytes: u64,
    /// The index as it was in memory; `None`: the file is used if it is good, else rebuilt from the segment.
    pub(crate) memory: Option<Arc<ActiveIndex>>,
}

impl IndexTask {
    pub(crate) fn into_chore(self) -> Chore {
        Box::new(move |storage| ChoreDone(self.run(storage)))
    }

    fn run(self, storage: &dyn Storage) -> io::Result<ChoreOutcome> {
        let found = if self.memory.is_none() { self.open(storage)? } else { None };
        let index = match found {
            Some(index) => index,
            None => {
                self.write(storage)?;
                self.open(storage)?.ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "the index is not as it was written")
                })?
            }
        };
        Ok(ChoreOutcome::Indexed { number: self.number, index: Arc::new(index) })
    }

    fn open(&self, storage: &dyn Storage) -> io::Result<Option<SealedIndex>> {
        let path = index_path(&self.dir, self.number);
        let file = match storage.open(&path, OpenMode::Read, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mapped = if storage.len(file)? == 0 { None } else { Some(storage.map(file)?) };
        storage.close(file);
        Ok(mapped.and_then(|mapped| SealedIndex::check(mapped, self.log, self.number)))
    }

    fn write(&self, storage: &dyn Storage) -> io::Result<()> {
        let rows = match &self.memory {
            Some(memory) => {
                let last = memory.commits.last().expect("an empty segment is not sealed");
                assert!(last.at < self.end_bytes, "an index ends with its segment");
                rows_of(memory)
            }
            None => rows_of(&self.rebuild(storage)?),
        };
        let archive = rkyv::to_bytes::<rkyv::rancor::Error>(&rows).map_err(io::Error::other)?;
        let header = index_header(self.log, self.number, &archive);
        let path = index_path(&self.dir, self.number);
        let new = path.with_extension("rmx-new");
        let file = storage.open(&new, OpenMode::Create, false)?;
        let written = storage
            .set_len(file, 0)
            .and_then(|()| storage.write_at(file, 0, &header))
            .and_then(|()| storage.write_at(file, INDEX_HEADER_BYTES as u64, &archive))
            .and_then(|()| storage.sync(file));
        storage.close(file);
        written?;
        storage.rename(&new, &path)?;
        storage.sync_dir(&self.dir)
    }

    fn rebuild(&self, storage: &dyn Storage) -> io::Result<ActiveIndex> {
        let mut scan = SegmentScan::new(storage, self.file, self.log, self.number)?;
        let mut builder = IndexBuilder::new(self.base_position);
        let first = crate::aligned::BLOCK_BYTES as u64;
        let Some((at, expected)) = scan.first_expected(first)? else { return Ok(builder.index) };
        let end = Some(self.end_bytes);
        walk_through(&mut scan, at, end, expected, &mut |header, at, body| {
            builder.visit(header, at, body);
        })?;
        Ok(builder.index)
    }
}

/// Makes an index from batches as they stand in a segment.
struct IndexBuilder {
    index: ActiveIndex,
    last_runs: HashMap<(TopicId, Partition), u64>,
}

impl IndexBuilder {
    fn new(_base: Position) -> Self {
        IndexBuilder { index: ActiveIndex::starting_at_run(1), last_runs: HashMap::new() }
    }

    fn visit(&mut self, header: &BatchHeader, at: u64, body: &[u8]) {
        if header.content == ContentKind::Control {
            if crate::control::is_commit(body) {
                let (position, time) = (header.base_position, header.append_time);
                self.index.commit_opened(CommitEntry { at, position, time });
            }
            return;
        }
        let last = self.last_runs.entry((header.topic, header.partition)).or_default();
        let run = RunEntry {
            topic: header.topic,
            partition: header.partition,
            at,
            end: at + crate::log::batch_slot_bytes(body.len()) as u64,
            position: header.base_position,
            offset: header.base_offset,
            offset_end: header.base_offset.plus(u64::from(header.count)),
            previous: 0,
        };
        self.index.appended(run, last);
    }
}

fn rows_of(index: &ActiveIndex) -> IndexRows {
    let mut runs: Vec<&RunEntry> = index.runs.iter().collect();
    runs.sort_by_key(|run| (run.topic, run.partition, run.offset));
    let mut rows = IndexRows::default();
    rows.commits.extend(index.commits.iter().map(|commit| CommitRow {
        at: commit.at,
        position: commit.position.0,
        time: commit.time.0,
    }));
    for run in runs {
        let (topic, partition) = (run.topic.0, u32::from(run.partition.0));
        let known = rows.keys.last().is_some_and(|k| (k.topic, k.partition) == (topic, partition));
        if !known {
            assert!(rows.runs.len() < u32::MAX as usize, "a segment is sealed before that");
            let first_run = rows.runs.len() as u32;
            rows.keys.push(KeyRow { topic, partition, first_run });
        }
        rows.runs.push(RunRow {
            at: run.at,
            end: run.end,
            position: run.position.0,
            offset: run.offset.0,
            offset_end: run.offset_end.0,
        });
    }
    rows
}

//! Makes the index of a sealed segment: from the one in memory, or by a walk through the segment. Written beside it and
//! mapped.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use codec::header::{BatchHeader, ContentKind};
use codec::ids::{Partition, Position, TopicId};
use rkyv::util::AlignedVec;
use rustc_hash::FxHashMap;

use super::{CommitRow, INDEX_HEADER_BYTES, INDEX_VERSION, IndexRows, KeyRow, RunRow, SealedIndex};
use crate::active_index::{ActiveIndex, CommitEntry, INDEXED_BYTES_MAX, RunEntry, SLOT_BYTES};
use crate::chores::ChoreOutcome;
use crate::disk::{Chore, ChoreDone, LogKey};
use crate::recovery::walk_through;
use crate::scan::SegmentScan;
use crate::segment::index_path;
use crate::storage::{FileId, OpenMode, Storage};

/// Rows that are made without a pause.
const ROWS_A_PIECE: usize = 2_048;
/// Bytes that are written without a pause.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// Bits that one round of a sort by counting looks at: its table stays in the nearest cache.
const DIGIT_BITS_MAX: u32 = 12;

/// Writes (or finds, or rebuilds) the index of a sealed segment, and maps it.
#[derive(Debug)]
pub(crate) struct IndexTask {
    pub(crate) dir: PathBuf,
    pub(crate) log: LogKey,
    pub(crate) number: u64,
    pub(crate) file: FileId,
    pub(crate) end_bytes: u64,
    /// The index as it was in memory; `None`: the file is used if it is good, else rebuilt from the segment.
    pub(crate) memory: Option<Arc<ActiveIndex>>,
}

/// Why a segment has no index. Whoever reads it does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoIndex {
    /// A batch stands behind all places that an index can name.
    TooLong { end: u64 },
    /// Its positions are further apart than an index can say.
    TooFarApart { base: Position, position: Position },
}

impl std::fmt::Display for NoIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoIndex::TooLong { end } => write!(f, "a segment of {end} bytes cannot be indexed"),
            NoIndex::TooFarApart { base, position } => {
                write!(f, "positions {base} and {position} are too far apart for one index")
            }
        }
    }
}

impl std::error::Error for NoIndex {}

impl From<NoIndex> for io::Error {
    fn from(error: NoIndex) -> Self {
        io::Error::new(io::ErrorKind::Unsupported, error)
    }
}

impl IndexTask {
    pub(crate) fn into_chore(self) -> Chore {
        Box::new(move |storage| ChoreDone(self.run(storage)))
    }

    fn run(self, storage: &dyn Storage) -> io::Result<ChoreOutcome> {
        let found = if self.memory.is_none() { self.find(storage)? } else { None };
        let index = match found {
            Some(index) => index,
            None => self.make(storage)?,
        };
        Ok(ChoreOutcome::Indexed { number: self.number, index: Arc::new(index) })
    }

    fn find(&self, storage: &dyn Storage) -> io::Result<Option<SealedIndex>> {
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

    /// Writes the index and maps what was written.
    fn make(&self, storage: &dyn Storage) -> io::Result<SealedIndex> {
        let rows = match &self.memory {
            Some(memory) => {
                let last = memory.commits.last().expect("an empty segment is not sealed");
                assert!(last.at < self.end_bytes, "an index ends with its segment");
                rows_of(memory)?
            }
            None => rows_of(&self.rebuild(storage)?)?,
        };
        let bytes = encode(&rows, self.log, self.number)?;
        drop(rows);
        pause();
        let path = index_path(&self.dir, self.number);
        let new = path.with_extension("rmx-new");
        let file = storage.open(&new, OpenMode::Create, false)?;
        let written = storage
            .set_len(file, 0)
            .and_then(|()| write_in_pieces(storage, file, &bytes))
            .and_then(|()| storage.sync(file))
            .and_then(|()| storage.map(file));
        storage.close(file);
        let mapped = written?;
        storage.rename(&new, &path)?;
        storage.sync_dir(&self.dir)?;
        SealedIndex::just_written(mapped, &bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the index is not as it was written")
        })
    }

    fn rebuild(&self, storage: &dyn Storage) -> io::Result<ActiveIndex> {
        // Half: the last batch may go on behind the end of what counts.
        if self.end_bytes > INDEXED_BYTES_MAX / 2 {
            return Err(NoIndex::TooLong { end: self.end_bytes }.into());
        }
        let mut scan = SegmentScan::new(storage, self.file, self.log, self.number)?;
        let mut builder = IndexBuilder::new();
        let first = crate::aligned::BLOCK_BYTES as u64;
        let Some((at, expected)) = scan.first_expected(first)? else { return Ok(builder.index) };
        let end = Some(self.end_bytes);
        walk_through(&mut scan, at, end, expected, &mut |header, at, body| {
            builder.visit(header, at, body);
        })?;
        Ok(builder.index)
    }
}

/// Lets others go on: the shard may be one that waits for this core, and the kernel hands it over every few milliseconds only,
/// however far this thread stands back.
fn pause() {
    std::thread::yield_now();
}

fn write_in_pieces(storage: &dyn Storage, file: FileId, bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    for piece in bytes.chunks(WRITE_BYTES_MAX) {
        storage.write_at(file, at, piece)?;
        at += piece.len() as u64;
        pause();
    }
    Ok(())
}

/// Makes an index from batches as they stand in a segment.
struct IndexBuilder {
    index: ActiveIndex,
    /// No peer chooses these numbers, so the hasher needs no random keys.
    last_runs: FxHashMap<(TopicId, Partition), u64>,
}

impl IndexBuilder {
    fn new() -> Self {
        IndexBuilder { index: ActiveIndex::starting_at_run(1), last_runs: FxHashMap::default() }
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

/// The file: header and archive, made in one buffer.
fn encode(rows: &IndexRows, log: LogKey, segment: u64) -> io::Result<AlignedVec> {
    let lists = size_of_val(&rows.commits[..]) + size_of_val(&rows.keys[..]);
    let bytes = lists + size_of_val(&rows.runs[..]);
    let mut file: AlignedVec = AlignedVec::with_capacity(INDEX_HEADER_BYTES + bytes + 128);
    file.resize(INDEX_HEADER_BYTES, 0);
    let mut file = rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(rows, file)
        .map_err(io::Error::other)?;
    assert!(INDEX_HEADER_BYTES + bytes <= file.len(), "every row is in the archive");
    let header = super::index_header(INDEX_VERSION, log, segment, &file[INDEX_HEADER_BYTES..]);
    file[..INDEX_HEADER_BYTES].copy_from_slice(&header);
    Ok(file)
}

fn rows_of(index: &ActiveIndex) -> Result<IndexRows, NoIndex> {
    assert!(index.run_count() < u32::MAX as usize, "fewer runs than slots of a segment");
    let base = index.commits.first().map_or(Position(0), |commit| commit.position);
    let commits = index.commits.iter().map(|commit| CommitRow {
        at: commit.at,
        position: commit.position.0,
        time: commit.time.0,
    });
    let mut rows = IndexRows {
        base_position: base.0,
        commits: commits.collect(),
        keys: Vec::new(),
        runs: Vec::with_capacity(index.run_count()),
    };
    let mut key = None;
    for packed in rows_by_key(index) {
        if rows.runs.len().is_multiple_of(ROWS_A_PIECE) {
            pause();
        }
        // The row is the low half.
        let run = index.run_in(packed as u32 as usize);
        if key.replace((run.topic, run.partition)) != Some((run.topic, run.partition)) {
            let (topic, partition) = (run.topic.0, u32::from(run.partition.0));
            rows.keys.push(KeyRow { topic, partition, first_run: rows.runs.len() as u32 });
        }
        let behind = run.position.0.checked_sub(base.0).and_then(|b| u32::try_from(b).ok());
        let too_far = NoIndex::TooFarApart { base, position: run.position };
        rows.runs.push(RunRow {
            offset: run.offset.0,
            position: behind.ok_or(too_far)?,
            events: (run.offset_end.0 - run.offset.0) as u32,
            slot: (run.at / SLOT_BYTES) as u32,
            slots: ((run.end - run.at) / SLOT_BYTES) as u32,
        });
    }
    assert!(rows.runs.len() == index.run_count(), "every run has its row");
    Ok(rows)
}

/// The rows of an index by topic and partition, those of a pair in the order of their places: it is that of their offsets.
///
/// What is sorted is eight bytes: the pair, in as few bits as all of them take, and the row. Two rounds of counting do it for
/// a hundred thousand topics, without a look at the rows themselves, which stand all over the memory by then.
fn rows_by_key(index: &ActiveIndex) -> Vec<u64> {
    let ones = |all: (u32, u16), key: (u32, u16)| (all.0 | key.0, all.1 | key.1);
    let (topics, partitions) = index.keys().fold((0, 0), ones);
    let shift = u16::BITS - partitions.leading_zeros();
    let key_bits = shift + u32::BITS - topics.leading_zeros();
    if key_bits > u32::BITS {
        return rows_by_wide_key(index);
    }
    let packed = |(row, (topic, partition)): (usize, (u32, u16))| {
        let key = (u64::from(topic) << shift) | u64::from(partition);
        (key << u32::BITS) | row as u64
    };
    let mut order: Vec<u64> = index.keys().enumerate().map(packed).collect();
    let rounds = key_bits.div_ceil(DIGIT_BITS_MAX).max(1);
    let digit_bits = key_bits.div_ceil(rounds);
    for round in 0..rounds {
        pause();
        order = sorted_by_digit(&order, u32::BITS + round * digit_bits, digit_bits);
    }
    order
}

/// The same for numbers that no log gives, as a damaged segment might hold them.
fn rows_by_wide_key(index: &ActiveIndex) -> Vec<u64> {
    let mut order: Vec<((u32, u16), u64)> = index.keys().zip(0..).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, row)| row).collect()
}

/// A stable sort by `bits` bits from bit `at` on.
fn sorted_by_digit(order: &[u64], at: u32, bits: u32) -> Vec<u64> {
    let digits = 1_usize << bits;
    let digit = |packed: u64| (packed >> at) as usize & (digits - 1);
    let mut places = vec![0_u32; digits];
    order.iter().for_each(|packed| places[digit(*packed)] += 1);
    let mut end = 0;
    for place in &mut places {
        end += std::mem::replace(place, end);
    }
    assert!(end as usize == order.len(), "every row is counted");
    let mut sorted = vec![0; order.len()];
    for packed in order {
        let place = &mut places[digit(*packed)];
        sorted[*place as usize] = *packed;
        *place += 1;
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::ids::{Offset, Timestamp};

    fn index(keys: &[(u32, u16)]) -> ActiveIndex {
        let mut index = ActiveIndex::starting_at_run(9);
        let (at, time) = (4_096, Timestamp(1));
        index.commit_opened(CommitEntry { at, position: Position(100), time });
        for (number, (topic, partition)) in (0..).zip(keys) {
            let at = 4_208 + 8 * number;
            let (topic, partition) = (TopicId(*topic), Partition(*partition));
            let (offset, offset_end) = (Offset(number), Offset(number + 1));
            let position = Position(100 + number);
            let (end, previous) = (at + 8, 0);
            index.appended(
                RunEntry { topic, partition, at, end, position, offset, offset_end, previous },
                &mut 0,
            );
        }
        index
    }

    /// A run behind another key's, or before an earlier one of its own, is not found: its events are lost to whoever goes by
    /// the index. In one round and in several, and for numbers that take more bits than a log gives.
    #[test]
    fn rows_are_sorted_by_key_and_place() {
        let mut random = 1_u64;
        for (topics, partitions) in
            [(1, 1), (1, 64), (7, 3), (5_000, 64), (1 << 20, 64), (1 << 31, 1 << 15)]
        {
            let keys: Vec<(u32, u16)> = (0..5_000)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (1 + (random >> 33) as u32 % topics, (random >> 20) as u16 % partitions)
                })
                .collect();
            let mut expected: Vec<((u32, u16), u64)> = keys.iter().copied().zip(0..).collect();
            expected.sort();
            let index = index(&keys);
            let rows = rows_of(&index).unwrap();
            let mut found = Vec::new();
            for (at, key) in rows.keys.iter().enumerate() {
                let end = rows.keys.get(at + 1).map_or(rows.runs.len(), |k| k.first_run as usize);
                for run in &rows.runs[key.first_run as usize..end] {
                    assert_eq!((run.position as u64, run.events, run.slots), (run.offset, 1, 1));
                    assert_eq!(u64::from(run.slot), 526 + run.offset, "rows keep what they say");
                    found.push(((key.topic, key.partition as u16), run.offset));
                }
            }
            assert!(found == expected, "{topics} topics, {partitions} partitions");
        }
    }

    /// A position that 32 bits do not hold, cut off, would lead a reader to other events.
    #[test]
    fn positions_too_far_apart_are_refused() {
        for (behind, is_held) in [(u64::from(u32::MAX), true), (1 << 32, false)] {
            let mut index = index(&[(1, 0)]);
            let (position, previous) = (Position(100 + behind), 0);
            let (topic, partition) = (TopicId(2), Partition(0));
            let (at, end, offset, offset_end) = (8_192, 8_200, Offset(0), Offset(1));
            index.appended(
                RunEntry { topic, partition, at, end, position, offset, offset_end, previous },
                &mut 0,
            );
            let error = NoIndex::TooFarApart { base: Position(100), position };
            assert_eq!(rows_of(&index).err(), (!is_held).then_some(error));
        }
    }
}

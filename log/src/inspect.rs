//! Prints a file of a log and verifies it: for `ringmesh inspect`, and for people at three in the morning.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use codec::header::{BatchHeader, ContentKind};

use crate::aligned::BLOCK_BYTES;
use crate::checkpoint::Checkpoint;
use crate::control::Record;
use crate::disk::LogKey;
use crate::index::SealedIndex;
use crate::recovery::read_file;
use crate::scan::{Expected, SegmentScan, Stop};
use crate::segment::{HeaderError, SegmentHeader, segment_number};
use crate::storage::file::FileStorage;
use crate::storage::{OpenMode, Storage};

/// What a file was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything in it is as it was written.
    Whole,
    /// The last commit was not finished. Nobody was told that it is durable.
    TornTail {
        /// First byte that is not whole.
        at: u64,
    },
    /// Bytes that were whole once are not any more.
    Damaged {
        /// First bad byte.
        at: u64,
    },
}

/// What [`inspect_file`] counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectSummary {
    /// Commits of a segment or index; 0 for a checkpoint.
    pub commits: u64,
    /// Batches with events of a segment, runs of an index, topics of a checkpoint.
    pub entries: u64,
    /// Events of a segment; cursors of a checkpoint.
    pub events: u64,
    /// What the file was found to be.
    pub verdict: Verdict,
}

/// Why a file cannot be inspected.
#[derive(Debug)]
#[non_exhaustive]
pub enum InspectError {
    /// Its name is not one of a log's files.
    UnknownName {
        /// The file.
        path: PathBuf,
    },
    /// It has a version of the format that this build does not know.
    Version {
        /// Its version.
        found: u32,
    },
    /// The disk, or the output, failed.
    Io(io::Error),
}

impl From<io::Error> for InspectError {
    fn from(error: io::Error) -> Self {
        InspectError::Io(error)
    }
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName { path } => write!(
                f,
                "{} is not a log's file: expected seg-N.rms, seg-N.rmx, checkpoint-a or checkpoint-b",
                path.display()
            ),
            Self::Version { found } => {
                write!(f, "format version {found} is not known here, only 1")
            }
            Self::Io(_) => write!(f, "the file cannot be read"),
        }
    }
}

impl std::error::Error for InspectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => write!(f, "whole"),
            Self::TornTail { at } => write!(f, "torn tail at byte {at}: an unfinished commit"),
            Self::Damaged { at } => write!(f, "DAMAGED at byte {at}: these bytes were whole once"),
        }
    }
}

/// Prints what is in a segment, an index or a checkpoint, and verifies every byte that counts.
///
/// # Errors
/// It is no such file, or cannot be read. Damage is no error: it is in the summary.
pub fn inspect_file(path: &Path, out: &mut dyn Write) -> Result<InspectSummary, InspectError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let storage = FileStorage::new();
    let summary = if segment_number(name).is_some() {
        inspect_segment(&storage, path, out)?
    } else if name.starts_with("checkpoint-") {
        inspect_checkpoint(&storage, path, out)?
    } else if name.ends_with(".rmx") {
        inspect_index(&storage, path, out)?
    } else {
        return Err(InspectError::UnknownName { path: path.into() });
    };
    writeln!(out, "verdict: {}", summary.verdict)?;
    Ok(summary)
}

fn inspect_segment(
    storage: &FileStorage,
    path: &Path,
    out: &mut dyn Write,
) -> Result<InspectSummary, InspectError> {
    let file = storage.open(path, OpenMode::Read, false)?;
    let mut block = vec![0; BLOCK_BYTES];
    let got = storage.read_at(file, 0, &mut block)?;
    let mut summary = InspectSummary { commits: 0, entries: 0, events: 0, verdict: Verdict::Whole };
    let header = match SegmentHeader::decode(&block[..got]) {
        Ok(header) => header,
        Err(HeaderError::Version { found }) => return Err(InspectError::Version { found }),
        Err(_) if block.iter().all(|byte| *byte == 0) => {
            writeln!(out, "prepared, not used yet")?;
            return Ok(summary);
        }
        Err(error) => {
            writeln!(out, "the first block is not a segment's: {error:?}")?;
            summary.verdict = Verdict::Damaged { at: 0 };
            return Ok(summary);
        }
    };
    writeln!(
        out,
        "segment {} of {}, node {:#018x}, epoch {}, from position {}, commit {}, after segment {} (its end: byte {})",
        header.number,
        header.log,
        header.node_id,
        header.epoch,
        header.base_position,
        header.first_commit,
        header.previous,
        header.previous_end_bytes
    )?;
    let mut scan = SegmentScan::new(storage, file, header.log, header.number)?;
    let mut expected = Expected {
        commit: header.first_commit,
        position: header.base_position,
        epoch: header.epoch,
    };
    let mut at = BLOCK_BYTES as u64;
    let end = end_from_next(storage, path, &header)?;
    loop {
        let mut printed = Ok(());
        let stop = scan.walk(at, end, &mut expected, &mut |header, at, body| {
            count(&mut summary, header, body);
            if printed.is_ok() {
                printed = print_batch(header, at, body, out);
            }
        })?;
        printed?;
        let Stop::Bad { at: bad, why } = stop else { break };
        let next = scan.next_head(bad + 1, expected.commit)?;
        let told_durable = next.is_some_and(|(_, head)| {
            head.record.durable_commit_end > expected.commit
                || head.header.durable_end > expected.position
        });
        if told_durable || end.is_some() {
            writeln!(out, "{bad:>12}  DAMAGED: {why}")?;
            if summary.verdict == Verdict::Whole {
                summary.verdict = Verdict::Damaged { at: bad };
            }
        } else {
            let within = !bad.is_multiple_of(BLOCK_BYTES as u64) || scan.head_at(bad)?.is_some();
            if (within || next.is_some()) && summary.verdict == Verdict::Whole {
                writeln!(out, "{bad:>12}  torn: {why}")?;
                summary.verdict = Verdict::TornTail { at: bad };
            }
            break;
        }
        let Some((next_at, head)) = next else { break };
        at = next_at;
        expected = head.as_expected();
    }
    writeln!(
        out,
        "{} commits, {} batches, {} events, up to position {}",
        summary.commits, summary.entries, summary.events, expected.position
    )?;
    Ok(summary)
}

/// Where the segment ends, if the one after it lies beside it and says so.
fn end_from_next(
    storage: &FileStorage,
    path: &Path,
    header: &SegmentHeader,
) -> Result<Option<u64>, InspectError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    for name in storage.list(dir)? {
        if segment_number(&name).is_none_or(|number| number <= header.number) {
            continue;
        }
        let file = storage.open(&dir.join(name), OpenMode::Read, false)?;
        let mut block = vec![0; BLOCK_BYTES];
        let got = storage.read_at(file, 0, &mut block)?;
        storage.close(file);
        if let Ok(next) = SegmentHeader::decode(&block[..got])
            && next.previous == header.number
            && next.log == header.log
        {
            return Ok(Some(next.previous_end_bytes));
        }
    }
    Ok(None)
}

fn count(summary: &mut InspectSummary, header: &BatchHeader, body: &[u8]) {
    if header.content == ContentKind::Events {
        summary.entries += 1;
        summary.events += u64::from(header.count);
    } else if crate::control::is_commit(body) {
        summary.commits += 1;
    }
}

fn print_batch(header: &BatchHeader, at: u64, body: &[u8], out: &mut dyn Write) -> io::Result<()> {
    if header.content == ContentKind::Events {
        return writeln!(
            out,
            "{at:>12}  batch position {} topic {} partition {} offset {} count {} bytes {} time {}",
            header.base_position,
            header.topic,
            header.partition,
            header.base_offset,
            header.count,
            header.body_len,
            header.append_time
        );
    }
    let mut rest = body;
    while let Ok(record) = Record::decode(&mut rest) {
        match record {
            Record::Commit(commit) => writeln!(
                out,
                "{at:>12}  commit {} bytes {} batches {} durable commits before {} positions before {}",
                commit.number,
                commit.bytes,
                commit.batches,
                commit.durable_commit_end,
                header.durable_end
            )?,
            Record::Topic { id, name } => writeln!(out, "{at:>12}  topic {id} {name:?}")?,
            Record::Cursor { group, cursor } => writeln!(
                out,
                "{at:>12}  cursor of group {group}: next {} low {}",
                cursor.next,
                cursor.low()
            )?,
            Record::CursorRemoved { group } => {
                writeln!(out, "{at:>12}  cursor of group {group} removed")?;
            }
        }
    }
    Ok(())
}

fn inspect_checkpoint(
    storage: &FileStorage,
    path: &Path,
    out: &mut dyn Write,
) -> Result<InspectSummary, InspectError> {
    let bytes = read_file(storage, path)?.ok_or(io::Error::from(io::ErrorKind::NotFound))?;
    let mut summary = InspectSummary { commits: 0, entries: 0, events: 0, verdict: Verdict::Whole };
    let checkpoint = match Checkpoint::decode(&bytes) {
        Ok(checkpoint) => checkpoint,
        Err(codec::error::DecodeError::Version { found }) => {
            return Err(InspectError::Version { found: u32::from(found) });
        }
        Err(error) => {
            writeln!(out, "not a whole checkpoint: {error}")?;
            summary.verdict = Verdict::Damaged { at: 0 };
            return Ok(summary);
        }
    };
    let start = &checkpoint.start;
    writeln!(
        out,
        "checkpoint {} of {}, epoch {}: replay from segment {} byte {} commit {} position {}, at least to commit {}",
        checkpoint.sequence,
        start.log,
        start.epoch,
        start.segment,
        start.at,
        start.commit,
        start.position,
        checkpoint.commit_end
    )?;
    for id in 1..=checkpoint.topics.len() {
        let id = codec::ids::TopicId(id);
        let Some(name) = checkpoint.topics.name(id) else { continue };
        writeln!(out, "topic {id} {name:?}")?;
        for (partition, state) in checkpoint.topics.partitions(id) {
            writeln!(out, "  partition {partition}: offsets {}..{}", state.start, state.next)?;
        }
        summary.entries += 1;
    }
    for (group, cursor) in checkpoint.cursors.iter() {
        writeln!(out, "cursor of group {group}: next {} low {}", cursor.next, cursor.low())?;
        summary.events += 1;
    }
    Ok(summary)
}

fn inspect_index(
    storage: &FileStorage,
    path: &Path,
    out: &mut dyn Write,
) -> Result<InspectSummary, InspectError> {
    let file = storage.open(path, OpenMode::Read, false)?;
    let mut summary = InspectSummary { commits: 0, entries: 0, events: 0, verdict: Verdict::Whole };
    let index = if storage.len(file)? == 0 {
        None
    } else {
        let mapped = storage.map(file)?;
        let number = |at: usize| {
            let bytes = mapped.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        let (key, segment) = (LogKey::from_u64(number(8)), number(16));
        key.and_then(|key| SealedIndex::check(mapped, key, segment))
    };
    let Some(index) = index else {
        writeln!(out, "not a whole index; it is rebuilt from its segment when it is needed")?;
        summary.verdict = Verdict::Damaged { at: 0 };
        return Ok(summary);
    };
    let (commits, keys, runs) = index.counts();
    writeln!(out, "index: {commits} commits, {keys} topics and partitions, {runs} runs")?;
    for (topic, partition, end) in index.offset_ends() {
        writeln!(out, "topic {topic} partition {partition}: up to offset {end}")?;
    }
    summary.commits = commits as u64;
    summary.entries = runs as u64;
    Ok(summary)
}

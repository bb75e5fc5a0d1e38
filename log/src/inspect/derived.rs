//! Inspects a checkpoint or an index: what can be made again from segments, or has a second copy.

use std::io::{self, Write};
use std::path::Path;

use codec::error::DecodeError;
use codec::ids::TopicId;

use super::{FileKind, InspectError, InspectSummary, OpenFile, Verdict, u32_at, u64_at};
use crate::aligned::block_ceil;
use crate::checkpoint::{Checkpoint, END_FRAME_BYTES, KIND_END, take_frame};
use crate::disk::LogKey;
use crate::index::{SealedIndex, is_outdated};
use crate::recovery::read_file;
use crate::storage::{Mapped, Storage, read_blocks};

pub(super) fn inspect_checkpoint(
    storage: &dyn Storage,
    path: &Path,
    out: &mut dyn Write,
) -> Result<InspectSummary, InspectError> {
    let bytes = read_file(storage, path)?.ok_or(io::Error::from(io::ErrorKind::NotFound))?;
    let mut summary = InspectSummary::new(FileKind::Checkpoint);
    match Checkpoint::decode(&bytes) {
        Ok(checkpoint) => print_checkpoint(&checkpoint, out)?,
        Err(DecodeError::Version { found }) => {
            return Err(InspectError::Version { found: u32::from(found) });
        }
        Err(error) => {
            let at = first_bad_frame(&bytes);
            summary.verdict = if was_finished(&bytes) {
                writeln!(
                    out,
                    "damaged after it was finished: {error}; a start uses the other one"
                )?;
                Verdict::Damaged { at }
            } else {
                writeln!(out, "not finished: {error}; a start uses the other one")?;
                Verdict::TornTail { at }
            };
        }
    }
    Ok(summary)
}

/// The byte of the first frame that is not as it must be.
fn first_bad_frame(bytes: &[u8]) -> u64 {
    let mut rest = bytes;
    for number in 0u32.. {
        let at = (bytes.len() - rest.len()) as u64;
        match take_frame(&mut rest, number) {
            Ok((_, sequence, _)) if sequence != u64_at(bytes, 8) => return at,
            // Every frame is whole, but together they say nothing that can be.
            Ok((KIND_END, ..)) => return 0,
            Ok(_) => {}
            Err(_) => return at,
        }
    }
    0
}

/// Whether the file ends with the last frame of the checkpoint that it starts with: it was whole once.
fn was_finished(bytes: &[u8]) -> bool {
    let Some(at) = bytes.len().checked_sub(END_FRAME_BYTES) else { return false };
    let mut end = &bytes[at..];
    let number = u32_at(end, 16);
    match take_frame(&mut end, number) {
        Ok((kind, sequence, _)) => kind == KIND_END && sequence == u64_at(bytes, 8),
        Err(_) => false,
    }
}

fn print_checkpoint(checkpoint: &Checkpoint, out: &mut dyn Write) -> io::Result<()> {
    let start = &checkpoint.start;
    writeln!(
        out,
        "checkpoint {} of {}, node {:#018x}, epoch {}{}",
        checkpoint.sequence,
        start.log,
        start.node_id,
        start.epoch,
        if start.sealed { ", of an older generation" } else { "" }
    )?;
    writeln!(
        out,
        "replay from segment {} byte {} commit {} position {}; commits before {} must be found",
        start.segment, start.at, start.commit, start.position, checkpoint.commit_end
    )?;
    let topics = &checkpoint.topics;
    for id in (1..=topics.len()).map(TopicId) {
        let Some(name) = topics.name(id) else { continue };
        let deleted = if topics.is_deleted(id) { " deleted" } else { "" };
        writeln!(out, "topic {id} {name:?}{deleted}")?;
        for (partition, state) in topics.partitions(id) {
            writeln!(out, "  partition {partition} offsets {} to {}", state.start, state.next)?;
        }
    }
    let mut groups: Vec<u64> = checkpoint.cursors.iter().map(|(group, _)| group).collect();
    groups.sort_unstable();
    for group in &groups {
        let Some(cursor) = checkpoint.cursors.get(*group) else { continue };
        writeln!(out, "cursor group {group} next {} low {}", cursor.next, cursor.low())?;
    }
    let publishers = checkpoint.publishers.len();
    let (topics, cursors) = (topics.len(), groups.len());
    writeln!(out, "{topics} topics, {cursors} cursors, {publishers} publishers by partition")
}

pub(super) fn inspect_index(
    file: &OpenFile<'_>,
    out: &mut dyn Write,
) -> Result<InspectSummary, InspectError> {
    // Copied, not mapped: nobody promises that this file stays as it is.
    let len = file.storage.len(file.id)?;
    let taken = usize::try_from(block_ceil(len)).map_err(io::Error::other)?;
    let mut bytes = read_blocks(file.storage, file.id, 0, taken)?;
    bytes.truncate(taken.min(usize::try_from(len).map_err(io::Error::other)?));
    let (log, segment) = (u64_at(bytes.as_slice(), 8), u64_at(bytes.as_slice(), 16));
    let mapped = Mapped::from_memory(bytes);
    let key = LogKey::from_u64(log);
    let mut summary = InspectSummary::new(FileKind::Index);
    if key.is_some_and(|log| is_outdated(&mapped, log, segment)) {
        writeln!(out, "a whole index of an earlier version; it is made again when it is needed")?;
        return Ok(summary);
    }
    let index = key.and_then(|log| SealedIndex::check(mapped, log, segment));
    let Some(index) = index else {
        writeln!(out, "not a whole index; it is made again from its segment when it is needed")?;
        summary.judge(Verdict::Damaged { at: 0 });
        return Ok(summary);
    };
    let log = LogKey::from_u64(log).map(|log| log.to_string()).unwrap_or_default();
    writeln!(out, "index of segment {segment} of {log}")?;
    for (topic, partition, end) in index.offset_ends() {
        writeln!(out, "topic {topic} partition {partition} up to offset {end}")?;
    }
    let (commits, keys, runs) = index.counts();
    writeln!(out, "{commits} commits, {keys} topics and partitions, {runs} runs")?;
    Ok(summary)
}

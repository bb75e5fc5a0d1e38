//! Opens one log: reads its newest checkpoint, replays the commits behind it, and tells a torn tail from damage.
//!
//! The walk stops at the first bad byte, in a commit C, at a position P. If any later commit says that C, or an event
//! at or behind P, was durable, the bytes were whole once: damage. It is reported beside the segment, the segment is
//! kept, and the walk goes on behind it. Else nobody was ever told of what is behind P: a torn tail, which is cut.

mod replay;
mod walking;

use std::io;
use std::path::Path;

use codec::error::DecodeError;
use codec::ids::{Epoch, Position};

use replay::Replay;
pub(crate) use replay::merge_topics;
pub(crate) use walking::walk_through;

use crate::aligned::{AlignedBuf, BLOCK_BYTES, block_ceil};
use crate::checkpoint::{
    CHECKPOINT_VERSION, Checkpoint, CheckpointStart, Checkpointer, checkpoint_path,
};
use crate::chores::{ChoreOutcome, PrepareTask, is_quarantined, remove_if_there};
use crate::disk::LogKey;
use crate::folder::OpenError;
use crate::log::{Log, LogParts};
use crate::options::{LogOptions, PREPARE_AT_OPEN_BYTES};
use crate::positions::LogPositions;
use crate::scan::Expected;
use crate::segment::{
    FORMAT_VERSION, HeaderError, SegmentHeader, damage_path, index_path, segment_number,
    segment_path,
};
use crate::segments::{Prepared, Sealed, SegmentIndex, Segments};
use crate::storage::{FileId, OpenMode, Storage, read_blocks};

const FIRST_COMMIT_AT: u64 = BLOCK_BYTES as u64;

/// Bytes that were whole once and are not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Segment that holds them.
    pub segment: u64,
    /// First bad byte.
    pub at: u64,
    /// First position that cannot be read.
    pub start: Position,
    /// The first one behind it that can.
    pub end: Position,
    /// What is wrong with the first bad byte.
    pub why: &'static str,
}

/// What opening a log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Which log.
    pub log: LogKey,
    /// Its epoch from now on.
    pub epoch: Epoch,
    /// Position of its next event.
    pub end: Position,
    /// Where an unfinished tail was cut: segment and byte. `None`: nothing was begun behind the last whole commit.
    pub cut: Option<(u64, u64)>,
    /// Damage, quarantined: the segment's file is kept, with a report beside it.
    pub damage: Vec<Damage>,
    /// Bytes of segments that were read.
    pub bytes_read: u64,
}

struct Opened {
    number: u64,
    file: FileId,
    len: u64,
    header: Option<SegmentHeader>,
}

/// How one log is opened.
pub(crate) struct RecoveryTask<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) dir: &'a Path,
    pub(crate) key: LogKey,
    pub(crate) node_id: u64,
    pub(crate) options: &'a LogOptions,
    pub(crate) direct: bool,
    /// It becomes an older generation's: takes no events.
    pub(crate) sealed: bool,
}

/// What the newest checkpoint says, or nothing.
struct Base {
    sequence: u64,
    commit_end: u64,
    segment: u64,
    at: u64,
    /// The epoch from now on: above every one that was ever used.
    epoch: Epoch,
}

/// The state of a replay, segment after segment.
struct Progress {
    expected: Expected,
    replay: Replay,
    report: RecoveryReport,
    sealed: Vec<Sealed>,
}

impl RecoveryTask<'_> {
    /// Opens the log, and (unless it is sealed) makes the segment that its next commits go to.
    pub(crate) fn run(&self) -> Result<(Log, RecoveryReport), OpenError> {
        let names = self.storage.list(self.dir)?;
        self.remove_left_overs(&names)?;
        let checkpoint = self.newest_checkpoint()?;
        let mut opened = self.open_segments(&names)?;
        let (first, expected) = self.replay_start(&checkpoint, &opened)?;
        let base = base_of(&checkpoint, &opened);
        let (topics, cursors, publishers) =
            checkpoint.map_or_else(Default::default, |c| (c.topics, c.cursors, c.publishers));
        let (log, epoch) = (self.key, base.epoch);
        let mut progress = Progress {
            expected,
            replay: Replay::new(topics, cursors, publishers),
            report: RecoveryReport {
                log,
                epoch,
                end: Position(0),
                cut: None,
                damage: Vec::new(),
                bytes_read: 0,
            },
            sealed: self.older_segments(&names, &opened, first, expected.position),
        };
        let highest = opened.last().map_or(0, |last| last.number);
        let kept = self.replay_segments(&names, &opened, first, &base, &mut progress)?;
        let discarded = opened.split_off(kept);
        self.finish_tail(&mut progress.sealed, discarded, base.segment)?;
        progress.check_end(base.commit_end, highest);
        progress.join_ends();
        self.write_damage_reports(&progress.report)?;
        Ok(self.start_log(progress, &base, highest)?)
    }

    /// Replays from segment `first` on; returns how many segments are kept.
    fn replay_segments(
        &self,
        names: &[String],
        opened: &[Opened],
        first: usize,
        base: &Base,
        progress: &mut Progress,
    ) -> Result<usize, OpenError> {
        for index in first..opened.len() {
            let one = &opened[index];
            let from = if one.number == base.segment { base.at } else { FIRST_COMMIT_AT };
            let walked = self.walk_segment(opened, index, from, progress)?;
            let expected = &mut progress.expected;
            let damaged = progress.report.damage.iter().any(|d| d.segment == one.number);
            let next = opened.get(index + 1).and_then(|next| next.header);
            let next = next.filter(|_| !walked.is_last);
            assert!(
                progress.sealed.last().is_none_or(|last| last.number < one.number),
                "segments are replayed in their order"
            );
            progress.sealed.push(Sealed {
                number: one.number,
                file: one.file,
                base_position: walked.base,
                end_position: next.map_or(expected.position, |n| n.base_position.max(walked.base)),
                end_bytes: walked.end_bytes,
                allocated: one.len,
                commit_end: expected.commit,
                index: SegmentIndex::Unmapped,
                quarantined: damaged || is_quarantined(names, self.dir, one.number),
                index_failures: 0,
                index_used: 0,
                first_time: None,
                verdict: None,
            });
            if walked.is_last {
                return Ok(index + 1);
            }
            if let Some(next) = next {
                expected.position = next.base_position;
                expected.commit = next.first_commit;
            }
        }
        Ok(opened.len())
    }

    /// Makes the log that goes on where the replay ended.
    fn start_log(
        &self,
        progress: Progress,
        base: &Base,
        highest: u64,
    ) -> io::Result<(Log, RecoveryReport)> {
        let Progress { expected, replay, report, sealed } = progress;
        let start = sealed.first().map_or(expected.position, |first| first.base_position);
        // Headers are believed one by one, so damage could make the first of them say more than the last commit.
        let start = start.min(expected.position);
        // Retention may have removed the segment in which the checkpoint's replay starts: what is written in one of a lower
        // number would not be replayed after the next crash.
        let last_number = highest.max(base.segment);
        let mut segments = Segments::recovered(sealed.into(), last_number);
        if !self.sealed {
            self.open_active(&mut segments, &expected, base.epoch)?;
        }
        let log = Log::from_parts(LogParts {
            key: self.key,
            node_id: self.node_id,
            dir: self.dir.into(),
            options: self.options.clone(),
            direct: self.direct,
            sealed: self.sealed,
            epoch: base.epoch,
            positions: LogPositions::recovered(start, expected.position),
            topics: replay.topics,
            cursors: replay.cursors,
            publishers: replay.publishers,
            segments,
            checkpointer: Checkpointer::new(base.sequence, base.segment, base.commit_end),
            next_commit: expected.commit,
            last_time: replay.last_time,
        });
        Ok((log, report))
    }

    fn remove_left_overs(&self, names: &[String]) -> io::Result<()> {
        let left = names.iter().filter(|n| n.starts_with("spare-") || n.ends_with(".rmx-new"));
        for name in left {
            self.storage.remove(&self.dir.join(name))?;
        }
        Ok(())
    }

    fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, OpenError> {
        let mut newest: Option<Checkpoint> = None;
        for sequence in 0..2 {
            let path = checkpoint_path(self.dir, sequence);
            // A process that was killed may have written it without a sync, and the next one empties the other file.
            let Some(bytes) = read_synced(self.storage, &path)? else { continue };
            match Checkpoint::decode(&bytes) {
                Ok(found) if newest.as_ref().is_none_or(|n| n.sequence < found.sequence) => {
                    newest = Some(found);
                }
                Ok(_) => {}
                Err(DecodeError::Version { found }) => {
                    let (found, known) = (u32::from(found), CHECKPOINT_VERSION);
                    return Err(OpenError::Version { path, found, known });
                }
                // Unfinished or damaged: the other one stands, with all segments that it needs.
                Err(error) => tracing::info!(log = %self.key, %error, "a checkpoint is not whole"),
            }
        }
        Ok(newest)
    }

    fn open_segments(&self, names: &[String]) -> Result<Vec<Opened>, OpenError> {
        let mut opened = Vec::new();
        for number in names.iter().filter_map(|name| segment_number(name)) {
            let path = segment_path(self.dir, number);
            let file = self.storage.open(&path, OpenMode::ReadWrite, self.direct)?;
            let len = self.storage.len(file)?;
            let block = read_blocks(self.storage, file, 0, BLOCK_BYTES)?;
            let header = match SegmentHeader::decode(block.as_slice()) {
                Ok(header) if header.log == self.key && header.number == number => Some(header),
                Err(HeaderError::Version { found }) => {
                    return Err(OpenError::Version { path, found, known: FORMAT_VERSION });
                }
                _ => None,
            };
            opened.push(Opened { number, file, len, header });
        }
        opened.sort_by_key(|opened| opened.number);
        Ok(opened)
    }

    /// The segment that the replay starts in, and what must stand there.
    fn replay_start(
        &self,
        checkpoint: &Option<Checkpoint>,
        opened: &[Opened],
    ) -> Result<(usize, Expected), OpenError> {
        if let Some(Checkpoint { start, .. }) = checkpoint {
            let CheckpointStart { segment, commit, position, epoch, .. } = *start;
            let first = opened.partition_point(|opened| opened.number < segment);
            return Ok((first, Expected { commit, position, epoch }));
        }
        let expected = Expected { commit: 1, position: Position(0), epoch: Epoch(0) };
        match opened.first().and_then(|first| first.header) {
            Some(header) if header.previous != 0 => {
                Err(OpenError::NoCheckpoint { dir: self.dir.into() })
            }
            _ => Ok((0, expected)),
        }
    }

    /// Segments before the replay: their headers tell all.
    fn older_segments(
        &self,
        names: &[String],
        opened: &[Opened],
        first: usize,
        replay_from: Position,
    ) -> Vec<Sealed> {
        let mut sealed: Vec<Sealed> = Vec::new();
        for one in &opened[..first] {
            let Some(header) = one.header else {
                tracing::error!(log = %self.key, segment = one.number, "a segment's first block is damaged");
                continue;
            };
            if let Some(last) = sealed.last_mut() {
                last.end_position = header.base_position.max(last.base_position);
                last.end_bytes = header.previous_end_bytes;
            }
            sealed.push(Sealed {
                number: one.number,
                file: one.file,
                base_position: header.base_position,
                end_position: header.base_position,
                end_bytes: block_ceil(one.len),
                allocated: one.len,
                commit_end: 0,
                index: SegmentIndex::Unmapped,
                quarantined: is_quarantined(names, self.dir, one.number),
                index_failures: 0,
                index_used: 0,
                first_time: None,
                verdict: None,
            });
        }
        if let Some(last) = sealed.last_mut() {
            let next = opened.get(first).and_then(|first| first.header);
            last.end_position = next.map_or(replay_from, |next| next.base_position);
            last.end_bytes = next.map_or(last.end_bytes, |next| next.previous_end_bytes);
        }
        sealed
    }
}

impl Progress {
    /// A checkpoint knows commits that were durable: they must have been found.
    fn check_end(&mut self, commit_end: u64, segment: u64) {
        let position = self.expected.position;
        if self.expected.commit < commit_end {
            let why = "the log ends before what its checkpoint knows";
            self.report.damage.push(Damage { segment, at: 0, start: position, end: position, why });
            self.expected.commit = commit_end;
        }
        self.report.bytes_read = self.replay.bytes_read;
    }

    /// Positions go on behind all that was ever used. After damage at the log's end, cursors and the headers of segments
    /// may know of positions that cannot be read any more: given away again, they would pass for settled.
    fn join_ends(&mut self) {
        let known = self.replay.cursors.iter().map(|(_, cursor)| cursor.next);
        let known = known.chain(self.sealed.iter().map(|sealed| sealed.end_position));
        let end = known.fold(self.expected.position, Position::max);
        if self.expected.position < end {
            let (segment, start) =
                (self.sealed.last().map_or(0, |last| last.number), self.expected.position);
            let why = "the log ends before positions that were given away";
            self.report.damage.push(Damage { segment, at: 0, start, end, why });
        }
        self.expected.position = end;
        if let Some(last) = self.sealed.last_mut() {
            last.end_position = end;
        }
        self.report.end = end;
    }
}

fn base_of(checkpoint: &Option<Checkpoint>, opened: &[Opened]) -> Base {
    let used = opened.iter().filter_map(|one| one.header.map(|header| header.epoch));
    let used = used.chain(checkpoint.as_ref().map(|c| c.start.epoch));
    let epoch = Epoch(used.max().map_or(0, |epoch| epoch.0) + 1);
    match checkpoint {
        Some(Checkpoint { sequence, commit_end, start, .. }) => Base {
            sequence: *sequence,
            commit_end: *commit_end,
            segment: start.segment,
            at: start.at,
            epoch,
        },
        None => Base { sequence: 0, commit_end: 0, segment: 0, at: 0, epoch },
    }
}

impl RecoveryTask<'_> {
    /// Makes the tail final: cut, without the segments behind it and without an empty last one. What was replayed is
    /// synced: a process that was killed may have written in more than one segment what no sync had reached.
    fn finish_tail(
        &self,
        sealed: &mut Vec<Sealed>,
        discarded: Vec<Opened>,
        replayed_from: u64,
    ) -> io::Result<()> {
        let kept = sealed.last().map_or(0, |last| last.number);
        assert!(
            discarded.iter().all(|discarded| kept < discarded.number),
            "only what stands behind the tail is removed"
        );
        let mut gone: Vec<(u64, FileId)> = discarded.iter().map(|d| (d.number, d.file)).collect();
        while let Some(last) = sealed.last()
            && last.end_bytes <= FIRST_COMMIT_AT
            && !last.quarantined
        {
            gone.push((last.number, last.file));
            sealed.pop();
        }
        if let Some(last) = sealed.last_mut().filter(|last| !last.quarantined) {
            let len = block_ceil(last.end_bytes);
            if len < last.allocated {
                self.storage.set_len(last.file, len)?;
                last.allocated = len;
            }
        }
        let last = sealed.last().map_or(0, |last| last.number);
        for one in sealed.iter().filter(|one| one.number >= replayed_from.min(last)) {
            self.storage.sync(one.file)?;
        }
        for (number, file) in gone {
            self.storage.close(file);
            self.storage.remove(&segment_path(self.dir, number))?;
            remove_if_there(self.storage, &index_path(self.dir, number))?;
        }
        self.storage.sync_dir(self.dir)
    }

    fn write_damage_reports(&self, report: &RecoveryReport) -> io::Result<()> {
        for damage in &report.damage {
            tracing::error!(log = %self.key, ?damage, "damage found: its segment is kept");
            let text = format!(
                "Ringmesh found damage in this segment: {}.\nFirst bad byte: {}. Positions {} to {} (exclusive) \
                 cannot be read.\nThe segment is kept. Read it with `ringmesh inspect`; remove this report to let \
                 retention take it.\n",
                damage.why, damage.at, damage.start, damage.end
            );
            let path = damage_path(self.dir, damage.segment);
            let file = self.storage.open(&path, OpenMode::Create, false)?;
            let written = self.storage.write_at(file, 0, text.as_bytes());
            let synced = self.storage.sync(file);
            self.storage.close(file);
            written.and(synced)?;
            self.storage.sync_dir(self.dir)?;
        }
        Ok(())
    }

    /// Makes the segment for the next commits, its first block synced: the new epoch is on the disk before use.
    fn open_active(
        &self,
        segments: &mut Segments,
        expected: &Expected,
        epoch: Epoch,
    ) -> io::Result<()> {
        let options = self.options.clone().bounded();
        let number = segments.last_number + 1;
        let to =
            (PREPARE_AT_OPEN_BYTES + options.reserve_bytes).min(options.segment_bytes_after(None));
        assert!(segments.active.is_none() && segments.next.is_none(), "one segment is made");
        let task = PrepareTask {
            dir: self.dir.into(),
            number,
            file: None,
            recycle: None,
            from: 0,
            to,
            direct: self.direct,
            keep_free: 0,
            sync: true,
        };
        let ChoreOutcome::Prepared { file, prepared_end, .. } = task.run(self.storage)? else {
            unreachable!("a preparation prepares");
        };
        segments.last_number = number;
        let capacity = options.segment_bytes_after(None);
        segments.next = Some(Prepared { number, file, capacity, prepared_end });
        segments.roll(expected.position, expected.commit, epoch);
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        segments.active_header(self.node_id, self.key).encode(block.as_mut_slice());
        self.storage.write_at(file, 0, block.as_slice())?;
        self.storage.sync(file)?;
        segments.header_synced();
        Ok(())
    }
}

/// A whole file, `None` if it is not there.
pub(crate) fn read_file(storage: &dyn Storage, path: &Path) -> io::Result<Option<Vec<u8>>> {
    read_with(storage, path, |_| Ok(()))
}

/// Reads a file, and makes what it holds durable.
fn read_synced(storage: &dyn Storage, path: &Path) -> io::Result<Option<Vec<u8>>> {
    read_with(storage, path, |file| storage.sync(file))
}

fn read_with(
    storage: &dyn Storage,
    path: &Path,
    first: impl FnOnce(FileId) -> io::Result<()>,
) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open(path, OpenMode::Read, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = first(file).and_then(|()| read_open(storage, file));
    storage.close(file);
    bytes.map(Some)
}

fn read_open(storage: &dyn Storage, file: FileId) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(storage.len(file)?).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match storage.read_at(file, filled as u64, &mut bytes[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Cursor;

    /// Positions that a cursor knows were given to events. Given away again after damage at the log's end, the group
    /// would take the new events for settled ones and never get them.
    #[test]
    fn positions_go_on_behind_what_a_cursor_knows() {
        let expected = Expected { commit: 9, position: Position(70), epoch: Epoch(1) };
        let log = LogKey { generation: 1, log: 0 };
        let (end, damage) = (Position(0), Vec::new());
        let report = RecoveryReport { log, epoch: Epoch(2), end, cut: None, damage, bytes_read: 0 };
        let (topics, cursors, publishers) = Default::default();
        let replay = Replay::new(topics, cursors, publishers);
        let mut progress = Progress { expected, replay, report, sealed: Vec::new() };
        progress.join_ends();
        assert_eq!((progress.report.end, progress.report.damage.len()), (Position(70), 0));
        let cursor = Cursor { next: Position(100), ..Cursor::default() };
        progress.replay.cursors.recovered(1, Some(cursor));
        progress.join_ends();
        assert_eq!(
            (progress.report.end, progress.expected.position),
            (Position(100), Position(100))
        );
        let lost = &progress.report.damage[0];
        assert_eq!((lost.start, lost.end), (Position(70), Position(100)), "the gap is reported");
    }
}

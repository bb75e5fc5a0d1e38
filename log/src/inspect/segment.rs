//! Inspects a segment: walks its commits, prints every batch, and judges the first byte that is not as it must be.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use codec::cloudevents::rules::timestamp_of;
use codec::header::{BatchHeader, ContentKind};
use codec::ids::Timestamp;

use super::{FileKind, InspectError, InspectSummary, OpenFile, Verdict};
use crate::aligned::BLOCK_BYTES;
use crate::control::{Record, is_commit};
use crate::disk::LogKey;
use crate::log::batch_slot_bytes;
use crate::scan::{Expected, SegmentScan, Stop, Tail};
use crate::segment::{HeaderError, SegmentHeader, segment_number, segment_path};
use crate::storage::Storage;

const FIRST_COMMIT_AT: u64 = BLOCK_BYTES as u64;

pub(super) fn inspect_segment(
    file: &OpenFile<'_>,
    path: &Path,
    out: &mut dyn Write,
) -> Result<InspectSummary, InspectError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = segment_number(name);
    let block = file.first_block()?;
    match SegmentHeader::decode(block.as_slice()) {
        Err(HeaderError::Version { found }) => Err(InspectError::Version { found }),
        Ok(header) if number.is_none_or(|number| number == header.number) => {
            print_header(&header, out)?;
            let expected = Expected {
                commit: header.first_commit,
                position: header.base_position,
                epoch: header.epoch,
            };
            let mut inspection = Inspection::new(file, path, header.log, header.number)?;
            inspection.find_next()?;
            inspection.walk(FIRST_COMMIT_AT, expected, out)?;
            Ok(inspection.summary)
        }
        Ok(former) => {
            writeln!(out, "its first block is of a former life, as segment {}", former.number)?;
            without_header(file, path, Some(former.log).zip(number), true, out)
        }
        Err(error) => {
            let unused = block.as_slice().iter().all(|byte| *byte == 0);
            if !unused {
                writeln!(out, "the first block is not a segment's: {error:?}")?;
            }
            without_header(file, path, key_of(path).zip(number), unused, out)
        }
    }
}

/// A segment that was prepared and not begun, or whose first block is lost.
fn without_header(
    file: &OpenFile<'_>,
    path: &Path,
    of: Option<(LogKey, u64)>,
    unused: bool,
    out: &mut dyn Write,
) -> Result<InspectSummary, InspectError> {
    let mut summary = InspectSummary::new(FileKind::Segment);
    let mut first = None;
    if let Some((log, number)) = of {
        let mut inspection = Inspection::new(file, path, log, number)?;
        first = inspection.scan.first_expected(FIRST_COMMIT_AT)?;
        if let Some((at, expected)) = first {
            writeln!(out, "no first block; the first commit of {log} found is at byte {at}")?;
            inspection.find_next()?;
            let known = inspection.tail(FIRST_COMMIT_AT - 1, &expected)? == Tail::Durable;
            inspection.walk(at, expected, out)?;
            summary = inspection.summary;
            let at = 0;
            summary.verdict =
                if known { Verdict::Damaged { at } } else { Verdict::TornTail { at } };
        }
    }
    if first.is_none() && unused {
        writeln!(out, "prepared, holds no commit yet")?;
    } else if first.is_none() {
        summary.judge(Verdict::Damaged { at: 0 });
    }
    Ok(summary)
}

/// The log that a file belongs to by the folders it is in.
fn key_of(path: &Path) -> Option<LogKey> {
    let log = path.parent()?;
    let number =
        |path: &Path, prefix| path.file_name()?.to_str()?.strip_prefix(prefix)?.parse().ok();
    let generation: u32 = number(log.parent()?, "gen-")?;
    let log = u16::try_from(number(log, "log-")?).ok()?;
    Some(LogKey { generation, log })
}

struct Inspection<'a> {
    storage: &'a dyn Storage,
    dir: PathBuf,
    log: LogKey,
    number: u64,
    scan: SegmentScan<'a>,
    /// Numbers of the segments behind it that lie beside it, rising.
    later: Vec<u64>,
    /// The header of the segment behind it, if that says that this one is before it.
    next: Option<SegmentHeader>,
    summary: InspectSummary,
    commits: u64,
    /// Byte after the last good batch.
    end: u64,
}

impl<'a> Inspection<'a> {
    fn new(file: &OpenFile<'a>, path: &Path, log: LogKey, number: u64) -> io::Result<Self> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
            _ => PathBuf::from("."),
        };
        Ok(Inspection {
            storage: file.storage,
            dir,
            log,
            number,
            scan: SegmentScan::new(file.storage, file.id, log, number)?,
            later: Vec::new(),
            next: None,
            summary: InspectSummary::new(FileKind::Segment),
            commits: 0,
            end: FIRST_COMMIT_AT,
        })
    }

    /// Looks for the segments behind this one: the next one says where this one ends.
    fn find_next(&mut self) -> io::Result<()> {
        let names = self.storage.list(&self.dir)?;
        let numbers = names.iter().filter_map(|name| segment_number(name));
        self.later = numbers.filter(|number| *number > self.number).collect();
        self.later.sort_unstable();
        for number in &self.later {
            let file = OpenFile::open(self.storage, &segment_path(&self.dir, *number))?;
            let header = SegmentHeader::decode(file.first_block()?.as_slice()).ok();
            let of_log = |h: &SegmentHeader| h.log == self.log && h.number == *number;
            if let Some(next) = header.filter(of_log) {
                self.next = Some(next).filter(|next| next.previous == self.number);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Walks all commits from byte `at`, past damage, to the end of the segment.
    fn walk(&mut self, at: u64, mut expected: Expected, out: &mut dyn Write) -> io::Result<()> {
        let mut at = at;
        let end = self.next.map(|next| next.previous_end_bytes);
        loop {
            let (mut printed, mut seen) = (Ok(()), Seen::default());
            let stop = self.scan.walk(at, end, &mut expected, &mut |header, at, body| {
                seen.count(header, at, body);
                if printed.is_ok() {
                    printed = print_batch(header, at, body, out);
                }
            })?;
            printed?;
            self.saw(&seen);
            let Stop::Bad { at: bad, why } = stop else { break };
            let tail = self.tail(bad, &expected)?;
            if tail < Tail::Durable {
                self.judge_tail(bad, why, tail, out)?;
                break;
            }
            let after = self.scan.next_head(bad + 1, expected.commit)?;
            let after = after.filter(|(at, _)| end.is_none_or(|end| *at < end));
            writeln!(out, "{bad:>12}  DAMAGED: {why}")?;
            self.summary.judge(Verdict::Damaged { at: bad });
            let Some((next_at, head)) = after else { break };
            writeln!(out, "{next_at:>12}  goes on with commit {}", head.record.number)?;
            assert!(next_at > at, "the walk moves forward");
            at = next_at;
            expected = head.as_expected();
        }
        writeln!(
            out,
            "{} commits, {} batches, {} events; up to byte {}, position {}",
            self.commits, self.summary.batches, self.summary.events, self.end, expected.position
        )
    }

    fn saw(&mut self, seen: &Seen) {
        self.commits += seen.commits;
        self.summary.batches += seen.batches;
        self.summary.events += seen.events;
        self.end = self.end.max(seen.end);
    }

    /// The end of what counts. It is torn if something was begun behind it.
    fn judge_tail(
        &mut self,
        bad: u64,
        why: &str,
        tail: Tail,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        if tail == Tail::Begun {
            writeln!(out, "{bad:>12}  unfinished: {why}")?;
            self.summary.judge(Verdict::TornTail { at: bad });
        } else if self.scan.bytes(bad, BLOCK_BYTES)?.iter().any(|byte| *byte != 0) {
            writeln!(
                out,
                "{bad:>12}  left-over bytes of a former life or of a write that was lost: they do not count"
            )?;
        }
        Ok(())
    }

    /// Recovery's rule: what stands at byte `bad` and behind it. Segments behind this one are asked only whether it was
    /// durable: what was begun in them is theirs.
    fn tail(&mut self, bad: u64, expected: &Expected) -> io::Result<Tail> {
        if self.next.is_some_and(|next| next.epoch > expected.epoch) {
            return Ok(Tail::Durable);
        }
        let end = self.next.map(|next| next.previous_end_bytes);
        let here = self.scan.tail(bad, end, expected)?;
        if here == Tail::Durable {
            return Ok(here);
        }
        for number in &self.later {
            let file = OpenFile::open(self.storage, &segment_path(&self.dir, *number))?;
            let mut scan = SegmentScan::new(self.storage, file.id, self.log, *number)?;
            if scan.heads_say(FIRST_COMMIT_AT, None, expected)? == Tail::Durable {
                return Ok(Tail::Durable);
            }
        }
        Ok(here)
    }
}

/// What a walk has passed.
#[derive(Default)]
struct Seen {
    commits: u64,
    batches: u64,
    events: u64,
    end: u64,
}

impl Seen {
    fn count(&mut self, header: &BatchHeader, at: u64, body: &[u8]) {
        self.end = at + batch_slot_bytes(body.len()) as u64;
        if header.content == ContentKind::Events {
            self.batches += 1;
            self.events += u64::from(header.count);
        } else if is_commit(body) {
            self.commits += 1;
        }
    }
}

fn print_header(header: &SegmentHeader, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "segment {} of {}, node {:#018x}, epoch {}, from commit {} and position {}",
        header.number,
        header.log,
        header.node_id,
        header.epoch,
        header.first_commit,
        header.base_position,
    )?;
    match header.previous {
        0 => writeln!(out, "the first of its log"),
        previous => {
            writeln!(
                out,
                "after segment {previous}, which ends at byte {}",
                header.previous_end_bytes
            )
        }
    }
}

fn print_batch(header: &BatchHeader, at: u64, body: &[u8], out: &mut dyn Write) -> io::Result<()> {
    if header.content == ContentKind::Events {
        return writeln!(
            out,
            "{at:>12}  events  position {} topic {} partition {} offset {} count {} bytes {} at {}",
            header.base_position,
            header.topic,
            header.partition,
            header.base_offset,
            header.count,
            header.body_len,
            Time(header.append_time)
        );
    }
    let mut rest = body;
    while !rest.is_empty() {
        match Record::decode(&mut rest) {
            Ok(record) => print_record(&record, header, at, out)?,
            Err(error) => {
                return writeln!(out, "{at:>12}  a record that this build cannot read: {error}");
            }
        }
    }
    Ok(())
}

fn print_record(
    record: &Record,
    header: &BatchHeader,
    at: u64,
    out: &mut dyn Write,
) -> io::Result<()> {
    match record {
        Record::Commit(commit) => writeln!(
            out,
            "{at:>12}  commit  {} bytes {} batches {} position {}; durable before commit {}, position {}; at {}",
            commit.number,
            commit.bytes,
            commit.batches,
            header.base_position,
            commit.durable_commit_end,
            header.durable_end,
            Time(header.append_time)
        ),
        Record::Topic { id, name } => writeln!(out, "{at:>12}  topic   {id} {name:?}"),
        Record::Cursor { group, cursor } => writeln!(
            out,
            "{at:>12}  cursor  group {group} next {} low {} unsettled runs {} starts {}",
            cursor.next,
            cursor.low(),
            cursor.unsettled.len(),
            cursor.starts.len()
        ),
        Record::CursorRemoved { group } => {
            writeln!(out, "{at:>12}  cursor  group {group} removed")
        }
        Record::TopicDeleted { id, end, ends } => {
            let partitions = ends.len();
            writeln!(out, "{at:>12}  topic   {id} deleted in {partitions} partitions before {end}")
        }
    }
}

/// An append time as people read it.
struct Time(Timestamp);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Time(Timestamp(micros)) = *self;
        let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
        match timestamp_of(seconds, (micros % 1_000_000) as u32 * 1_000) {
            Some(text) => f.write_str(&text),
            None => write!(f, "{micros} us"),
        }
    }
}

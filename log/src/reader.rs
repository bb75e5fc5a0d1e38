//! Reading a log by position: from the tail cache without I/O, else from the disk in windows.
//!
//! A reader never waits: it submits a read and says so. What comes from the disk is verified, header and body; a
//! body is handed out as a part of the window it was read into. [`Log::read`] gives every batch, [`Log::read_wanted`]
//! those of some topics, and passes over the rest unread where an index shows that this saves most bytes.

mod course;
mod windows;

use std::sync::Arc;

use bytes::Bytes;
use codec::crc32c::crc32c;
use codec::header::{BatchHeader, ContentKind, HEADER_BYTES};
use codec::ids::{Position, TopicId};

use crate::aligned::{BLOCK_BYTES, block_ceil};
use crate::batch::StoredBatch;
use crate::disk::{Disk, DiskOp};
use crate::log::{Log, batch_slot_bytes, seed};
use crate::segments::SegmentIndex;
use crate::storage::FileId;

use self::course::{Course, Planning};
pub(crate) use self::windows::Reads;
use self::windows::{AtPlace, Stretch, Windows};

/// Batches that one call looks at, at most.
const BATCHES_A_CALL_MAX: usize = 256;

/// A place in a log from which batches are read in order.
#[derive(Debug)]
pub struct Reader {
    position: Position,
    /// Byte of the next batch, as far as it is known: segment, byte.
    place: Option<(u64, u64)>,
    windows: Windows,
    course: Option<Course>,
    planning: Option<Planning>,
    /// Reads in a row that have failed.
    failures: u32,
    /// Wanted events that were passed because their topic's retention had let them go; see [`Reader::take_expired`].
    expired: u64,
}

/// Which topics somebody wants.
pub struct Wanted<'a> {
    /// Answers with another number may differ; what was learned from earlier ones is forgotten. `None`: no answer
    /// holds longer than a call, so nothing is planned.
    pub version: Option<u64>,
    /// The one topic that is wanted, where there is only one: no other is asked about while planning.
    pub only: Option<&'a str>,
    /// Whether a topic, by its id and name, is wanted.
    pub topic: &'a mut dyn FnMut(TopicId, &Arc<str>) -> bool,
}

/// What came of one call of [`Log::read`].
#[derive(Debug)]
pub enum ReadStep {
    /// The next wanted batch.
    Batch(StoredBatch),
    /// A completion of this log will come; call again then.
    Pending,
    /// The bound of one call is reached; call again when it is this reader's turn.
    More,
    /// The reader has come to the end that was given.
    End,
    /// All memory for reading is in use; call again when [`Log::has_read_room`] says so, or a little later.
    NoRoom,
    /// The disk has failed to give what stands at the reader's position. The reader stays; call again later, each time
    /// later than the last.
    Failed {
        /// First position that could not be read.
        start: Position,
        /// The first position behind it that stands in another commit.
        end: Position,
        /// How often in a row.
        failures: u32,
    },
    /// The reader's position is not kept any more; the log starts at `start`. The reader stands there now.
    Expired {
        /// First position that is kept.
        start: Position,
    },
    /// `start..end` cannot be read. The reader stands at `end` now.
    Damaged {
        /// First position that cannot be read.
        start: Position,
        /// The first one behind it that may be read.
        end: Position,
    },
}

impl Reader {
    /// A reader at `position`.
    #[must_use]
    pub fn new(position: Position) -> Self {
        Reader {
            position,
            place: None,
            windows: Windows::new(),
            course: None,
            planning: None,
            failures: 0,
            expired: 0,
        }
    }

    /// The position of the next event to be read.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Bytes that the reader has read ahead or asked for.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.windows.bytes() as usize
    }

    /// Events that the reader has passed since the last call because their topic's own retention had let them go.
    pub fn take_expired(&mut self) -> u64 {
        std::mem::take(&mut self.expired)
    }

    fn pass(&mut self, end: Position, place: Option<(u64, u64)>) {
        assert!(self.position <= end, "a reader moves forward");
        self.position = end;
        self.place = place;
    }
}

/// What stands at a byte of a commit or a window.
enum Found {
    Batch {
        header: BatchHeader,
        body: Bytes,
        next_at: u64,
    },
    /// Nothing to read: go on there.
    Skip {
        next_at: u64,
    },
    /// The bytes end before the batch does: so many are needed from its start.
    Short {
        needed: u64,
    },
    Bad,
}

/// Where the batch at a reader's position is, or what must happen first.
enum Located {
    At { file: FileId, segment: u64, at: u64, end_bytes: u64, end_position: Position },
    Pending,
    Gap { end: Position },
}

impl Log {
    /// Reads on: the next batch before `end` whose topic is wanted.
    ///
    /// Every batch is looked at, also of topics that are not wanted. A batch that holds the reader's position in its
    /// middle is handed out whole.
    pub fn read(
        &mut self,
        reader: &mut Reader,
        end: Position,
        wants: &mut dyn FnMut(TopicId) -> bool,
        disk: &mut impl Disk,
    ) -> ReadStep {
        let mut wanted = Wanted { version: None, only: None, topic: &mut |topic, _| wants(topic) };
        self.read_wanted(reader, end, &mut wanted, disk)
    }

    /// Reads on as [`Log::read`] does, with the same result, but passes over what is not wanted without reading it
    /// where an index shows that this saves most bytes.
    pub fn read_wanted(
        &mut self,
        reader: &mut Reader,
        end: Position,
        wanted: &mut Wanted<'_>,
        disk: &mut impl Disk,
    ) -> ReadStep {
        assert!(end <= self.positions().end(), "nothing stands behind the end of the log");
        for _ in 0..BATCHES_A_CALL_MAX {
            if reader.position >= end {
                return ReadStep::End;
            }
            let start = self.positions().start();
            if reader.position < start {
                reader.pass(start, None);
                self.release_memory(reader);
                return ReadStep::Expired { start };
            }
            let before = reader.position;
            if let Some(step) = self.steer(reader, end, wanted, disk) {
                return step;
            }
            if reader.position > before && reader.place.is_none() {
                // Nothing more is wanted up to there: what comes then has a course of its own.
                continue;
            }
            if let Some(step) = self.read_one(reader, end, wanted, disk) {
                return step;
            }
        }
        ReadStep::More
    }

    /// Gives up what a reader has read ahead; it is read again when it is needed.
    pub fn release_memory(&mut self, reader: &mut Reader) {
        reader.windows.release(&mut self.reads);
        reader.course = None;
        reader.planning = None;
    }

    /// Moves a reader on to `position`, past what nobody wants of it.
    pub fn skip_to(&mut self, reader: &mut Reader, position: Position) {
        assert!(reader.position <= position, "a reader goes on");
        self.release_memory(reader);
        (reader.position, reader.place, reader.failures) = (position, None, 0);
    }

    /// Whether readers may ask the disk for more.
    #[must_use]
    pub fn has_read_room(&self) -> bool {
        self.reads.held_bytes() < self.reads.held_bytes_max()
    }

    /// Bytes that readers have read ahead or asked for, and the most that they may.
    #[must_use]
    pub fn read_ahead_bytes(&self) -> (usize, usize) {
        (self.reads.held_bytes(), self.reads.held_bytes_max())
    }

    fn read_one(
        &mut self,
        reader: &mut Reader,
        end: Position,
        wanted: &mut Wanted<'_>,
        disk: &mut impl Disk,
    ) -> Option<ReadStep> {
        let cached = match self.cache.find(reader.position) {
            Some(commit) => Some(commit.clone()),
            None if self.open_holds(reader.position) => self.open_batches(),
            None => None,
        };
        let (segment, at, found, verified) = if let Some(commit) = cached {
            let inside = |at: &u64| *at >= commit.at && *at - commit.at < commit.bytes.len() as u64;
            let place = reader.place.filter(|(segment, _)| *segment == commit.segment);
            let at = place.map(|(_, at)| at).filter(inside).unwrap_or(commit.at);
            let found = self.batch_at(&commit.bytes, commit.at, commit.segment, at);
            let is_whole = matches!(found, Found::Batch { .. } | Found::Skip { .. });
            assert!(is_whole, "memory holds what was appended, in whole batches");
            (commit.segment, at, found, true)
        } else {
            match self.locate(reader, disk) {
                Located::Pending => return Some(ReadStep::Pending),
                Located::Gap { end } => return Some(damaged(reader, end, None)),
                Located::At { segment, at, end_bytes, end_position, .. } if at >= end_bytes => {
                    // The segment is read to its end; a position that is left over stood in damaged bytes.
                    if reader.position < end_position {
                        return Some(damaged(reader, end_position, None));
                    }
                    assert!(segment > 0, "segments are numbered from 1");
                    reader.place = None;
                    return None;
                }
                Located::At { file, segment, at, end_bytes, .. } => {
                    let place = (file, segment, at);
                    match self.window_batch(reader, place, end_bytes, disk) {
                        Ok(found) => (segment, at, found, false),
                        Err(step) => return Some(step),
                    }
                }
            }
        };
        match found {
            Found::Skip { next_at } => reader.place = Some((segment, next_at)),
            Found::Short { .. } | Found::Bad => return Some(self.pass_damage(reader, segment, at)),
            Found::Batch { header, body, next_at } => {
                let next = Some((segment, next_at));
                if header.end_position() <= reader.position {
                    reader.place = next;
                } else if header.base_position > reader.position {
                    return Some(damaged(reader, header.base_position, Some((segment, at))));
                } else if header.base_position >= end {
                    return Some(ReadStep::End);
                } else if !self.is_wanted(header.topic, wanted) {
                    // Its body may be damaged: it is nobody's loss here.
                    reader.pass(header.end_position(), next);
                } else if self.is_expired(&header) {
                    reader.expired += u64::from(header.count);
                    reader.pass(header.end_position(), next);
                } else if !verified && crc32c(&body) != header.body_crc {
                    return Some(damaged(reader, header.end_position(), next));
                } else {
                    reader.pass(header.end_position(), next);
                    return Some(ReadStep::Batch(StoredBatch { header, body }));
                }
            }
        }
        None
    }

    /// Whether its topic's own retention has let a batch go whose segment is still there.
    fn is_expired(&self, header: &BatchHeader) -> bool {
        self.retention.may_be_expired(header.base_position)
            && header.base_offset.plus(u64::from(header.count))
                <= self.logical_start(header.topic, header.partition)
    }

    fn is_wanted(&self, topic: TopicId, wanted: &mut Wanted<'_>) -> bool {
        self.topics.name(topic).is_none_or(|name| (wanted.topic)(topic, name))
    }

    fn batch_at(&self, bytes: &Bytes, bytes_at: u64, segment: u64, at: u64) -> Found {
        let skip = (at - bytes_at) as usize;
        let rest = bytes.get(skip..).unwrap_or(&[]);
        // No batch starts with zeros; behind the last batch of a commit they go on to the end of its block.
        if !at.is_multiple_of(BLOCK_BYTES as u64) && rest.starts_with(&[0; 8]) {
            return Found::Skip { next_at: block_ceil(at) };
        }
        let Some(head) = rest.first_chunk::<HEADER_BYTES>() else {
            return Found::Short { needed: HEADER_BYTES as u64 };
        };
        let Ok(header) = BatchHeader::decode(head, seed(self.key(), segment, at)) else {
            return Found::Bad;
        };
        let len = header.batch_len();
        let next_at = at + batch_slot_bytes(header.body_len as usize) as u64;
        if header.content == ContentKind::Control {
            return Found::Skip { next_at };
        }
        if bytes.len() - skip < len {
            return Found::Short { needed: len as u64 };
        }
        Found::Batch { header, body: bytes.slice(skip + HEADER_BYTES..skip + len), next_at }
    }

    /// The batch at a place on the disk, from the reader's windows; what happens first when it is not there.
    fn window_batch(
        &mut self,
        reader: &mut Reader,
        (file, segment, at): (FileId, u64, u64),
        end_bytes: u64,
        disk: &mut impl Disk,
    ) -> Result<Found, ReadStep> {
        let mut needed = HEADER_BYTES as u64;
        loop {
            match reader.windows.look((segment, at), needed, &mut self.reads) {
                AtPlace::Bytes { bytes, at: bytes_at, is_last } => {
                    reader.failures = 0;
                    match self.batch_at(&bytes, bytes_at, segment, at) {
                        Found::Short { .. } if is_last => return Ok(Found::Bad),
                        Found::Short { needed: more } if at + more > block_ceil(end_bytes) => {
                            return Ok(Found::Bad);
                        }
                        Found::Short { needed: more } => {
                            assert!(needed < more || more == HEADER_BYTES as u64, "it gets longer");
                            needed = more;
                        }
                        found => {
                            if reader.windows.take_new() {
                                self.read_ahead(reader, (file, segment, at), end_bytes, disk);
                            }
                            return Ok(found);
                        }
                    }
                }
                AtPlace::Pending => return Err(ReadStep::Pending),
                AtPlace::Failed(error) => {
                    reader.failures = reader.failures.saturating_add(1);
                    tracing::debug!(log = %self.key(), segment, %error, "a read failed");
                    let (start, end) = (reader.position, self.commit_end(segment, at));
                    let end = end.max(start.plus(1));
                    return Err(ReadStep::Failed { start, end, failures: reader.failures });
                }
                AtPlace::Missing => {
                    let end = self.readable_end(segment, at, end_bytes);
                    let stretch = reader.stretch(segment, at, end);
                    let windows = &mut reader.windows;
                    let (from, len) = windows.first_read((at, needed), stretch, end, &self.reads);
                    if !self.reads.has_room(len) {
                        return Err(ReadStep::NoRoom);
                    }
                    self.submit_read(reader, (file, segment), (from, len, at, stretch.end), disk);
                    self.read_ahead(reader, (file, segment, at), end_bytes, disk);
                    return Err(ReadStep::Pending);
                }
            }
        }
    }

    /// Asks for what comes behind all that a reader has asked for, as far as it is known and there is room.
    fn read_ahead(
        &mut self,
        reader: &mut Reader,
        (file, segment, at): (FileId, u64, u64),
        end_bytes: u64,
        disk: &mut impl Disk,
    ) {
        let end = self.readable_end(segment, at, end_bytes);
        loop {
            let course = reader.course.as_ref();
            let stretches = course.and_then(|course| course.stretches(segment, at));
            let stretches = stretches.map_or(&[][..], |(_, all)| all);
            let next = reader.windows.next_read(segment, stretches, end, &mut self.reads);
            let Some(read) = next.filter(|read| self.reads.has_room(read.1)) else { return };
            assert!(read.0 + read.1 <= block_ceil(end), "nothing is read that is being written");
            self.submit_read(reader, (file, segment), read, disk);
        }
    }

    fn submit_read(
        &mut self,
        reader: &mut Reader,
        (file, segment): (FileId, u64),
        read: (u64, u64, u64, u64),
        disk: &mut impl Disk,
    ) {
        let ticket = self.take_ticket();
        let (at, len, ..) = read;
        reader.windows.submitted(segment, read, ticket, &mut self.reads);
        let len = u32::try_from(len).expect("windows are far below 4 GiB");
        assert!(len > 0 && len.is_multiple_of(BLOCK_BYTES as u32), "whole blocks are read");
        disk.submit(self.key(), DiskOp::Read { ticket, file, at, len });
    }

    /// Up to where a window that begins before or at `at` may go: it must not hold what is still being written, which
    /// would be taken for damage later, and need not hold what is in the tail cache.
    fn readable_end(&self, segment: u64, at: u64, end_bytes: u64) -> u64 {
        let unsynced = self.cache.first_unsynced_at(segment);
        let cached = self.cache.first_at(segment).filter(|first| *first > at);
        let ends = [unsynced, cached].into_iter().flatten();
        ends.map(|end| end - end % BLOCK_BYTES as u64).fold(end_bytes, u64::min)
    }

    /// Finds where on the disk the reader's position is.
    fn locate(&mut self, reader: &Reader, disk: &mut impl Disk) -> Located {
        let position = reader.position;
        let active = self.segments.active.as_ref().filter(|a| a.base_position <= position);
        if let Some(active) = active {
            let place = reader.place.filter(|(segment, _)| *segment == active.number);
            let at = match place {
                Some((_, at)) => at,
                None => active.index.commit_of(position).map_or(0, |commit| commit.at),
            };
            let (file, segment, end_bytes) = (active.file, active.number, active.tail);
            let end_position = self.positions().end();
            return Located::At { file, segment, at, end_bytes, end_position };
        }
        let Some(sealed) = self.segments.sealed_of(position) else {
            let bases = self.segments.sealed.iter().map(|sealed| sealed.base_position);
            let behind = bases.filter(|base| *base > position).min();
            return Located::Gap { end: behind.unwrap_or(self.positions().end()) };
        };
        let number = sealed.number;
        let place = reader.place.filter(|(segment, _)| *segment == number);
        let is_unmapped = matches!(sealed.index, SegmentIndex::Unmapped);
        let (file, segment, end_bytes) = (sealed.file, number, sealed.end_bytes);
        let (base_position, end_position) = (sealed.base_position, sealed.end_position);
        let at = match place {
            Some((_, at)) => at,
            None if is_unmapped && position != base_position && !self.index_is_lacking(number) => {
                self.want_index(number, disk);
                return Located::Pending;
            }
            None => self.commit_place(number, position),
        };
        Located::At { file, segment, at, end_bytes, end_position }
    }

    /// Byte of the commit of a segment that holds `position`, as far as an index tells: else of the first one.
    fn commit_place(&self, segment: u64, position: Position) -> u64 {
        let first = BLOCK_BYTES as u64;
        if let Some(index) = self.segments.memory_index(segment) {
            return index.commit_of(position).map_or(first, |commit| commit.at);
        }
        match self.segments.sealed_index(segment) {
            Some(SegmentIndex::Mapped(index)) => {
                index.commit_of(position).map_or(first, |(at, _)| at)
            }
            _ => first,
        }
    }

    /// The position of the first commit of a segment that starts behind byte `at`, else the segment's end.
    fn commit_end(&self, segment: u64, at: u64) -> Position {
        let behind = match self.segments.sealed_index(segment) {
            Some(SegmentIndex::Mapped(index)) => index.commit_from(at + 1),
            _ => self.segments.memory_index(segment).and_then(|index| index.commit_from(at + 1)),
        };
        let sealed = self.segments.sealed.iter().find(|sealed| sealed.number == segment);
        let end = sealed.map_or(self.positions().end(), |sealed| sealed.end_position);
        behind.map_or(end, |(_, position)| position)
    }

    /// The bytes at `at` are bad: the next commit behind them is where reading goes on.
    fn pass_damage(&self, reader: &mut Reader, segment: u64, at: u64) -> ReadStep {
        let sealed = self.segments.sealed.iter().find(|sealed| sealed.number == segment);
        let next = match sealed.map(|sealed| &sealed.index) {
            Some(SegmentIndex::Mapped(index)) => index.commit_from(at + 1),
            Some(SegmentIndex::Memory(index)) => index.commit_from(at + 1),
            Some(SegmentIndex::Unmapped) => None,
            None => self.segments.active.as_ref().and_then(|a| a.index.commit_from(at + 1)),
        };
        let segment_end = sealed.map_or(self.positions().end(), |sealed| sealed.end_position);
        match next {
            Some((at, position)) => {
                let end = position.max(reader.position);
                damaged(reader, end, Some((segment, at)))
            }
            None => damaged(reader, segment_end.max(reader.position), None),
        }
    }
}

impl Reader {
    /// What is to be read from byte `at` on, without a break.
    fn stretch(&self, segment: u64, at: u64, end: u64) -> Stretch {
        let stretches = self.course.as_ref().and_then(|course| course.stretches(segment, at));
        stretches.map_or(Stretch { at, end }, |(stretch, _)| stretch)
    }
}

fn damaged(reader: &mut Reader, end: Position, place: Option<(u64, u64)>) -> ReadStep {
    let start = reader.position;
    reader.pass(end, place);
    ReadStep::Damaged { start, end }
}

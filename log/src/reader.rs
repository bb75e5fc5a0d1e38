//! Reading a log by position: from the tail cache without I/O, else from the disk in windows.
//!
//! A reader never waits: it submits a read and says so. What comes from the disk is verified, header and body; a
//! body is handed out as a part of the window it was read into.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use codec::crc32c::crc32c;
use codec::header::{BatchHeader, ContentKind, HEADER_BYTES};
use codec::ids::{Position, TopicId};

use crate::aligned::{BLOCK_BYTES, block_ceil};
use crate::batch::StoredBatch;
use crate::disk::{Disk, DiskOp, Ticket};
use crate::log::{Log, batch_slot_bytes, seed};
use crate::segments::SegmentIndex;
use crate::storage::FileId;

/// Batches that one call looks at, at most.
const BATCHES_A_CALL_MAX: usize = 256;
/// Size of a reader's first window; it doubles while the reader goes on, up to the maximum.
const WINDOW_BYTES_MIN: u32 = 64 << 10;
const WINDOW_BYTES_MAX: u32 = 512 << 10;

/// A place in a log from which batches are read in order.
#[derive(Debug)]
pub struct Reader {
    position: Position,
    /// Byte of the next batch, as far as it is known: segment, byte.
    place: Option<(u64, u64)>,
    window: Option<Window>,
    waiting: Option<(Ticket, u64, u64)>,
    window_bytes: u32,
    alive: Arc<()>,
}

struct Window {
    segment: u64,
    at: u64,
    bytes: Bytes,
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

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Window(segment {}, at {}, {} bytes)", self.segment, self.at, self.bytes.len())
    }
}

impl Reader {
    /// A reader at `position`.
    #[must_use]
    pub fn new(position: Position) -> Self {
        Reader {
            position,
            place: None,
            window: None,
            waiting: None,
            window_bytes: WINDOW_BYTES_MIN,
            alive: Arc::new(()),
        }
    }

    /// The position of the next event to be read.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Bytes that the reader keeps to read ahead.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.window.as_ref().map_or(0, |window| window.bytes.len())
    }

    /// Gives up what was read ahead; it is read again when it is needed.
    pub fn release_memory(&mut self) {
        self.window = None;
        self.window_bytes = WINDOW_BYTES_MIN;
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

/// Reads that were submitted, and what has arrived for readers that still live.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: HashMap<Ticket, Weak<()>>,
    arrived: HashMap<Ticket, (Weak<()>, io::Result<Bytes>)>,
}

impl Reads {
    pub(crate) fn submitted(&mut self, ticket: Ticket, reader: &Arc<()>) {
        self.waiting.insert(ticket, Arc::downgrade(reader));
    }

    pub(crate) fn arrived(&mut self, ticket: Ticket, result: io::Result<Bytes>) {
        // Readers that are gone never pick up what arrived for them.
        self.arrived.retain(|_, (reader, _)| reader.strong_count() > 0);
        if let Some(reader) = self.waiting.remove(&ticket)
            && reader.strong_count() > 0
        {
            self.arrived.insert(ticket, (reader, result));
        }
    }

    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<io::Result<Bytes>> {
        self.arrived.remove(&ticket).map(|(_, result)| result)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let arrived = self.arrived.values().filter_map(|(_, result)| result.as_ref().ok());
        arrived.map(Bytes::len).sum()
    }
}

impl Log {
    /// Reads on: the next batch before `end` whose topic is wanted.
    ///
    /// Batches of other topics are passed by. A batch that holds the reader's position in its middle is handed out
    /// whole.
    pub fn read(
        &mut self,
        reader: &mut Reader,
        end: Position,
        wants: &mut dyn FnMut(TopicId) -> bool,
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
                reader.window = None;
                return ReadStep::Expired { start };
            }
            if let Some(step) = self.read_one(reader, end, wants, disk) {
                return step;
            }
        }
        ReadStep::More
    }

    fn read_one(
        &mut self,
        reader: &mut Reader,
        end: Position,
        wants: &mut dyn FnMut(TopicId) -> bool,
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
            assert!(!matches!(found, Found::Bad), "memory holds what was appended");
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
                    // A window must not hold what is still being written: it would be taken for damage later.
                    let unsynced_at = self.cache.first_unsynced_at(segment);
                    let end_bytes = unsynced_at.map_or(end_bytes, |unsynced| {
                        end_bytes.min(unsynced - unsynced % BLOCK_BYTES as u64)
                    });
                    match self.window_batch(reader, (file, segment, at), end_bytes, disk) {
                        Some(found) => (segment, at, found, false),
                        None => return Some(ReadStep::Pending),
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
                } else if !verified && crc32c(&body) != header.body_crc {
                    return Some(damaged(reader, header.end_position(), next));
                } else {
                    reader.pass(header.end_position(), next);
                    if wants(header.topic) {
                        return Some(ReadStep::Batch(StoredBatch { header, body }));
                    }
                }
            }
        }
        None
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

    /// The batch at a place on the disk, from the reader's window; `None` when it has to be read first.
    fn window_batch(
        &mut self,
        reader: &mut Reader,
        (file, segment, at): (FileId, u64, u64),
        end_bytes: u64,
        disk: &mut impl Disk,
    ) -> Option<Found> {
        if let Some((ticket, of, from)) = reader.waiting {
            match self.reads.take(ticket)? {
                Ok(bytes) => reader.window = Some(Window { segment: of, at: from, bytes }),
                // Read again: to pass over it would lose events that are there.
                Err(error) => {
                    tracing::warn!(log = %self.key(), segment = of, %error, "a read failed")
                }
            }
            reader.waiting = None;
        }
        let mut needed = HEADER_BYTES as u64;
        if let Some(window) = &reader.window
            && window.segment == segment
            && window.at <= at
            && at < window.at + window.bytes.len() as u64
        {
            match self.batch_at(&window.bytes, window.at, segment, at) {
                // A window that started at the batch and still is too short: the file ends there.
                Found::Short { .. }
                    if window.at == at - at % BLOCK_BYTES as u64
                        && window.bytes.len() as u64 + window.at >= block_ceil(end_bytes) =>
                {
                    return Some(Found::Bad);
                }
                Found::Short { needed: more } => needed = more,
                found => return Some(found),
            }
        }
        let from = at - at % BLOCK_BYTES as u64;
        let least = block_ceil(at + needed) - from;
        let most = block_ceil(end_bytes).saturating_sub(from).max(BLOCK_BYTES as u64);
        let len = least.max(u64::from(reader.window_bytes)).min(most);
        reader.window_bytes = (reader.window_bytes * 2).min(WINDOW_BYTES_MAX);
        let ticket = self.take_ticket();
        self.reads.submitted(ticket, &reader.alive);
        reader.waiting = Some((ticket, segment, from));
        let len = u32::try_from(len).expect("windows are far below 4 GiB");
        assert!(len > 0 && len.is_multiple_of(BLOCK_BYTES as u32), "whole blocks are read");
        disk.submit(self.key(), DiskOp::Read { ticket, file, at: from, len });
        None
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
        let place = reader.place.filter(|(segment, _)| *segment == sealed.number);
        let at = match (place, &sealed.index) {
            (Some((_, at)), _) => at,
            (None, SegmentIndex::Memory(index)) => {
                index.commit_of(position).map_or(BLOCK_BYTES as u64, |commit| commit.at)
            }
            (None, SegmentIndex::Mapped(index)) => {
                index.commit_of(position).map_or(BLOCK_BYTES as u64, |(at, _)| at)
            }
            (None, SegmentIndex::Unmapped) => {
                let number = sealed.number;
                self.want_index(number, disk);
                return Located::Pending;
            }
        };
        let (file, segment, end_bytes) = (sealed.file, sealed.number, sealed.end_bytes);
        Located::At { file, segment, at, end_bytes, end_position: sealed.end_position }
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

fn damaged(reader: &mut Reader, end: Position, place: Option<(u64, u64)>) -> ReadStep {
    let start = reader.position;
    reader.pass(end, place);
    ReadStep::Damaged { start, end }
}

//! The chain of a log's segments: sealed ones, the active one, the one that is being prepared.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use codec::ids::{Epoch, Position, Timestamp};

use crate::active_index::{ActiveIndex, RunEntry};
use crate::aligned::BLOCK_BYTES;
use crate::disk::LogKey;
use crate::index::SealedIndex;
use crate::log::retention::Verdict;
use crate::segment::SegmentHeader;
use crate::storage::FileId;

/// Most files of former segments that are kept to be used again.
pub(crate) const SPARES_MAX: usize = 2;

/// A segment that never changes again.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) number: u64,
    pub(crate) file: FileId,
    pub(crate) base_position: Position,
    pub(crate) end_position: Position,
    /// Bytes after this are not part of the log.
    pub(crate) end_bytes: u64,
    /// Bytes that the file takes.
    pub(crate) allocated: u64,
    /// Number after its last commit; it may be indexed once they are all durable.
    pub(crate) commit_end: u64,
    pub(crate) index: SegmentIndex,
    /// There is a report about damage in it: it is neither removed nor recycled.
    pub(crate) quarantined: bool,
    /// How often its index could not be made, since it last was.
    pub(crate) index_failures: u32,
    /// When its index was last looked at or made, in numbers that rise.
    pub(crate) index_used: u64,
    /// Append time of its first commit, once its index was seen.
    pub(crate) first_time: Option<Timestamp>,
    /// What the topics' own retention keeps of it, as it was last looked at.
    pub(crate) verdict: Option<Verdict>,
}

impl Sealed {
    /// Bytes of its index that are mapped.
    pub(crate) fn mapped_bytes(&self) -> usize {
        match &self.index {
            SegmentIndex::Mapped(index) => index.mapped_bytes(),
            SegmentIndex::Memory(_) | SegmentIndex::Unmapped => 0,
        }
    }
}

/// Where the index of a sealed segment is.
#[derive(Debug)]
pub(crate) enum SegmentIndex {
    /// Just sealed: still in memory, to be written.
    Memory(Arc<ActiveIndex>),
    /// To be mapped, or rebuilt.
    Unmapped,
    /// Mapped and checked.
    Mapped(Arc<SealedIndex>),
}

/// The segment that commits go to.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) number: u64,
    pub(crate) file: FileId,
    pub(crate) epoch: Epoch,
    pub(crate) base_position: Position,
    pub(crate) first_commit: u64,
    pub(crate) previous: u64,
    pub(crate) previous_end_bytes: u64,
    /// The first block stands on the disk, or is in a commit that was closed.
    pub(crate) header_written: bool,
    /// Byte after the last closed commit.
    pub(crate) tail: u64,
    pub(crate) capacity: u64,
    /// Everything before it was zero-written.
    pub(crate) prepared_end: u64,
    pub(crate) opened_at: Option<Timestamp>,
    pub(crate) index: ActiveIndex,
}

/// A segment that is being prepared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prepared {
    pub(crate) number: u64,
    pub(crate) file: FileId,
    pub(crate) capacity: u64,
    pub(crate) prepared_end: u64,
}

/// A file of a former segment, to be used again.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: FileId,
    pub(crate) len: u64,
}

impl Active {
    /// No commit was closed or opened in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.index.commits.is_empty()
    }
}

/// See the module. Invariant: numbers rise along the chain, and each segment starts where the one before it ends.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    pub(crate) sealed: VecDeque<Sealed>,
    pub(crate) active: Option<Active>,
    pub(crate) next: Option<Prepared>,
    pub(crate) spares: Vec<Spare>,
    /// The highest number ever given.
    pub(crate) last_number: u64,
    /// Number after the last run of any segment's index in memory.
    pub(crate) next_run: u64,
    /// Bytes of all sealed segments, up to the end of each.
    sealed_bytes: u64,
}

impl Segments {
    /// The sealed segments that a recovery has found.
    pub(crate) fn recovered(sealed: VecDeque<Sealed>, last_number: u64) -> Self {
        let sealed_bytes = sealed.iter().map(|sealed| sealed.end_bytes).sum();
        Segments { sealed, last_number, sealed_bytes, ..Segments::default() }
    }

    /// Bytes of all sealed segments, up to the end of each.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes
    }

    /// Seals the active segment at `end` and makes the prepared one active.
    pub(crate) fn roll(&mut self, end: Position, next_commit: u64, epoch: Epoch) {
        let next = self.next.take().expect("a segment is prepared before it is needed");
        assert!(next.prepared_end > 0, "a segment is prepared before it is needed");
        if let Some(active) = self.active.take() {
            assert!(!active.is_empty() && active.header_written, "an empty segment is not sealed");
            self.next_run = active.index.next_run();
            self.sealed_bytes += active.tail;
            self.sealed.push_back(Sealed {
                number: active.number,
                file: active.file,
                base_position: active.base_position,
                end_position: end,
                end_bytes: active.tail,
                allocated: active.prepared_end.max(active.tail),
                commit_end: next_commit,
                quarantined: false,
                index_failures: 0,
                index_used: 0,
                first_time: active.index.first_time(),
                verdict: None,
                index: SegmentIndex::Memory(Arc::new(active.index)),
            });
        }
        let last = self.sealed.back();
        assert!(last.is_none_or(|last| last.number < next.number), "numbers rise");
        assert!(last.is_none_or(|last| last.end_position == end), "segments leave no gap");
        self.active = Some(Active {
            number: next.number,
            file: next.file,
            epoch,
            base_position: end,
            first_commit: next_commit,
            previous: last.map_or(0, |last| last.number),
            previous_end_bytes: last.map_or(0, |last| last.end_bytes),
            header_written: false,
            tail: 0,
            capacity: next.capacity,
            prepared_end: next.prepared_end,
            opened_at: None,
            index: ActiveIndex::starting_at_run(self.next_run.max(1)),
        });
        self.check();
    }

    pub(crate) fn active_index(&mut self) -> &mut ActiveIndex {
        &mut self.active.as_mut().expect("a commit is open in it").index
    }

    /// A commit up to byte `tail` was closed, the first block with it or before it.
    pub(crate) fn commit_closed(&mut self, tail: u64) {
        let active = self.active.as_mut().expect("a commit was open in it");
        assert!(active.tail < tail && tail <= active.capacity, "commits follow each other");
        assert!(tail <= active.prepared_end, "only prepared blocks are written");
        assert!(!active.is_empty(), "a commit is in the index before it is closed");
        active.header_written = true;
        active.tail = tail;
        self.check();
    }

    /// The first block of the active segment stands on the disk, before any commit.
    pub(crate) fn header_synced(&mut self) {
        let active = self.active.as_mut().expect("an active segment was opened");
        assert!(active.tail == 0 && !active.header_written, "the first block is written once");
        active.header_written = true;
        active.tail = BLOCK_BYTES as u64;
        self.check();
    }

    /// The first block of the active segment.
    pub(crate) fn active_header(&self, node_id: u64, log: LogKey) -> SegmentHeader {
        let active = self.active.as_ref().expect("only an active segment is begun");
        assert!(active.tail == 0 && !active.header_written, "the first block is written once");
        SegmentHeader {
            node_id,
            log,
            number: active.number,
            epoch: active.epoch,
            base_position: active.base_position,
            first_commit: active.first_commit,
            previous: active.previous,
            previous_end_bytes: active.previous_end_bytes,
        }
    }

    /// A piece of segment `number` was prepared: `capacity` is what the segment may grow to if it is new.
    pub(crate) fn prepared(&mut self, number: u64, file: FileId, capacity: u64, end: u64) {
        if let Some(active) = self.active.as_mut().filter(|active| active.number == number) {
            assert!(active.file == file, "a segment keeps its file");
            assert!(active.prepared_end < end, "preparation moves forward");
            active.prepared_end = end;
        } else if let Some(next) = &mut self.next {
            assert!(
                next.number == number && next.file == file,
                "one segment is prepared at a time"
            );
            assert!(next.prepared_end < end, "preparation moves forward");
            next.prepared_end = end;
            next.capacity = next.capacity.max(capacity);
        } else {
            self.next = Some(Prepared { number, file, capacity, prepared_end: end });
        }
        self.check();
    }

    /// Whether anything is prepared behind the last commit.
    pub(crate) fn has_room_behind_tail(&self) -> bool {
        let is_in_active =
            self.active.as_ref().is_some_and(|active| active.tail < active.prepared_end);
        is_in_active || self.next.is_some()
    }

    /// Counts nothing behind the last commit as prepared any more. Returns the active segment and its end, and the next one, to
    /// be cut and emptied.
    pub(crate) fn give_room_back(&mut self) -> (Option<(FileId, u64)>, Option<FileId>) {
        let active = self.active.as_mut().map(|active| {
            active.prepared_end = active.tail;
            (active.file, active.tail)
        });
        let next = self.next.take().map(|next| next.file);
        self.check();
        (active, next)
    }

    /// The oldest segment is gone; what is left of its file may be used again.
    pub(crate) fn retired(&mut self, number: u64, spare: Option<Spare>) -> Sealed {
        let gone = self.sealed.pop_front().expect("the oldest segment waits for its retirement");
        assert_eq!(gone.number, number, "the oldest goes first");
        assert!(!gone.quarantined, "damage is kept for whoever looks at it");
        assert!(gone.end_bytes <= self.sealed_bytes, "a sealed segment is counted");
        self.sealed_bytes -= gone.end_bytes;
        self.spares.extend(spare);
        self.check();
        gone
    }

    /// The ends of the chain; the links within it were checked as they were made.
    fn check(&self) {
        assert!(self.spares.len() <= SPARES_MAX, "few former segments are kept");
        if let Some(next) = &self.next {
            assert!(next.number <= self.last_number, "every number was given");
            assert!(next.prepared_end <= next.capacity, "nothing is prepared behind the end");
        }
        let Some(active) = &self.active else { return };
        assert!(active.number <= self.last_number, "every number was given");
        assert!(self.next.is_none_or(|next| active.number < next.number), "numbers rise");
        assert!(active.tail.is_multiple_of(BLOCK_BYTES as u64), "commits are whole blocks");
        assert!(active.header_written == (active.tail > 0), "the first block is written first");
        assert!(active.tail <= active.prepared_end, "only prepared blocks are written");
        assert!(active.prepared_end <= active.capacity, "nothing is prepared behind the end");
        let last = self.sealed.back();
        assert!(last.is_none_or(|last| last.number < active.number), "numbers rise");
        assert!(
            last.is_none_or(|last| last.end_position == active.base_position),
            "segments leave no gap"
        );
    }

    /// The sealed segment that holds `position`.
    pub(crate) fn sealed_of(&self, position: Position) -> Option<&Sealed> {
        let after = self.sealed.partition_point(|sealed| sealed.end_position <= position);
        self.sealed.get(after).filter(|sealed| sealed.base_position <= position)
    }

    pub(crate) fn sealed_mut(&mut self, number: u64) -> Option<&mut Sealed> {
        let at = self.sealed.binary_search_by_key(&number, |sealed| sealed.number).ok()?;
        self.sealed.get_mut(at)
    }

    /// The newest sealed segment below a number.
    pub(crate) fn last_before(&self, number: u64) -> Option<&Sealed> {
        let after = self.sealed.partition_point(|sealed| sealed.number < number);
        self.sealed.get(after.checked_sub(1)?)
    }

    /// The sealed segment of a number.
    pub(crate) fn sealed_of_number(&self, number: u64) -> Option<&Sealed> {
        let at = self.sealed.binary_search_by_key(&number, |sealed| sealed.number).ok()?;
        self.sealed.get(at)
    }

    /// The index of a sealed segment.
    pub(crate) fn sealed_index(&self, number: u64) -> Option<&SegmentIndex> {
        self.sealed_of_number(number).map(|sealed| &sealed.index)
    }

    /// The index of a segment that is active or was so lately.
    pub(crate) fn memory_index(&self, number: u64) -> Option<&ActiveIndex> {
        if let Some(active) = self.active.as_ref().filter(|active| active.number == number) {
            return Some(&active.index);
        }
        match self.sealed_index(number)? {
            SegmentIndex::Memory(index) => Some(index),
            SegmentIndex::Unmapped | SegmentIndex::Mapped(_) => None,
        }
    }

    /// A run by its number, if it is of the segment that takes batches or of one of those before it that are in memory.
    pub(crate) fn run(&self, number: u64) -> Option<RunEntry> {
        let newest = self.active.as_ref().and_then(|active| active.index.run(number));
        let lately = self.sealed.iter().rev().map_while(|sealed| match &sealed.index {
            SegmentIndex::Memory(index) => Some(index),
            SegmentIndex::Unmapped | SegmentIndex::Mapped(_) => None,
        });
        newest.or_else(|| lately.filter_map(|index| index.run(number)).next())
    }

    /// Bytes that all files of the segments take.
    pub(crate) fn allocated(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.allocated).sum();
        let active = self.active.as_ref().map_or(0, |active| active.prepared_end);
        let next = self.next.as_ref().map_or(0, |next| next.prepared_end);
        sealed + active + next + self.spares.iter().map(|spare| spare.len).sum::<u64>()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let sealed = self.sealed.iter().map(|sealed| match &sealed.index {
            SegmentIndex::Memory(index) => index.memory_bytes(),
            _ => 0,
        });
        let active = self.active.as_ref().map_or(0, |active| active.index.memory_bytes());
        sealed.sum::<usize>() + active
    }
}

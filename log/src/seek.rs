//! From an offset, or a time, to a position.
//!
//! An index knows, for every commit, the runs of each topic and partition in it. A seek gives the position of the run
//! that holds what is sought; the reader then passes the batches before it, of which there are few. A seek that has to
//! wait for an index remembers what it has learned, so that it ends however few indexes are kept mapped.

use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};
use codec::limits::PARTITIONS;

use crate::active_index::{ActiveIndex, RunEntry};
use crate::disk::Disk;
use crate::log::Log;
use crate::segments::SegmentIndex;

/// Where what was sought is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// Read from here. Batches before what was sought may come first, from the same commit: pass them.
    At(Position),
    /// A completion of this log will come; ask again then.
    Pending,
    /// That offset is not kept any more.
    Expired {
        /// First offset of the topic and partition that is kept.
        first: Offset,
        /// Read from here to get it; none when nothing behind it is kept.
        at: Option<Position>,
    },
    /// It is yet to be appended.
    End,
}

/// A search for an offset, and what it has learned.
#[derive(Clone, Debug)]
pub struct OffsetSeek {
    topic: TopicId,
    partition: Partition,
    offset: Offset,
    /// Sealed segments from this number on do not hold it; `None`: nothing was looked at.
    looked_from: Option<u64>,
    /// The oldest run that was found behind it.
    behind: Option<(Offset, Position)>,
}

impl OffsetSeek {
    /// A search for `offset`.
    #[must_use]
    pub fn new(topic: TopicId, partition: Partition, offset: Offset) -> Self {
        OffsetSeek { topic, partition, offset, looked_from: None, behind: None }
    }
}

/// A search for the first position that any of several starts needs.
#[derive(Clone, Debug)]
pub struct StartSeek {
    offsets: Vec<OffsetSeek>,
    times: Vec<Timestamp>,
    /// The least that was found or is needed anyhow.
    least: Position,
}

impl StartSeek {
    /// A search that finds nothing behind `end`.
    #[must_use]
    pub fn new(end: Position) -> Self {
        StartSeek { offsets: Vec::new(), times: Vec::new(), least: end }
    }

    /// What is appended at `time` or later is needed too.
    pub fn add_time(&mut self, time: Timestamp) {
        self.times.push(time);
    }

    /// Everything from `position` on is needed too.
    pub fn add_position(&mut self, position: Position) {
        self.least = self.least.min(position);
    }
}

impl Log {
    /// What a start at these offsets of a topic needs: other partitions start at their first.
    pub fn add_offsets(&self, seek: &mut StartSeek, topic: &str, listed: &[(Partition, Offset)]) {
        let Some(topic) = self.topics.id(topic) else { return };
        for partition in (0..PARTITIONS).map(Partition) {
            let Some(state) = self.topics.partition(topic, partition) else { continue };
            let wish = listed.iter().find(|(of, _)| *of == partition).map(|(_, offset)| *offset);
            let offset = wish.map_or(state.start, |wish| wish.max(state.start));
            seek.offsets.push(OffsetSeek::new(topic, partition, offset));
        }
    }

    /// The first position that is needed; `None`: a completion of this log will come, ask again then.
    pub fn seek_start(&mut self, seek: &mut StartSeek, disk: &mut impl Disk) -> Option<Position> {
        while let Some(time) = seek.times.last() {
            match self.seek_time(*time, disk) {
                Seek::At(position) => seek.add_position(position),
                Seek::Pending => return None,
                Seek::Expired { .. } | Seek::End => unreachable!("a time has a place"),
            }
            seek.times.pop();
        }
        while let Some(wish) = seek.offsets.last_mut() {
            match self.seek_offset(wish, disk) {
                Seek::At(position) | Seek::Expired { at: Some(position), .. } => {
                    seek.add_position(position);
                }
                Seek::Pending => return None,
                Seek::Expired { at: None, .. } | Seek::End => {}
            }
            seek.offsets.pop();
        }
        let start = seek.least.max(self.positions().start());
        assert!(start <= self.positions().end(), "no start is ahead of its log");
        Some(start)
    }

    /// Finds an offset of a topic and partition.
    pub fn seek_offset(&mut self, seek: &mut OffsetSeek, disk: &mut impl Disk) -> Seek {
        let OffsetSeek { topic, partition, offset, .. } = *seek;
        let Some(state) = self.topics.partition(topic, partition).copied() else {
            return Seek::End;
        };
        assert!(state.start <= state.next, "only what was appended expires");
        if offset >= state.next {
            return Seek::End;
        }
        let sought = offset.max(state.start);
        if seek.looked_from.is_none() {
            if let Some(active) = &self.segments.active {
                match run_back(&active.index, state.last_run, sought) {
                    Some(run) if run.offset <= sought => {
                        return found(offset, sought, run.position);
                    }
                    Some(run) => seek.behind = Some((run.offset, run.position)),
                    None => {}
                }
            }
            seek.looked_from = Some(self.segments.active.as_ref().map_or(u64::MAX, |a| a.number));
        }
        while let Some(sealed) = self.segments.last_before(seek.looked_from.unwrap_or(u64::MAX)) {
            let number = sealed.number;
            let run = match &sealed.index {
                SegmentIndex::Mapped(index) => {
                    index.run_of(topic, partition, sought).map(|run| (run.offset, run.position))
                }
                SegmentIndex::Memory(index) => run_in_memory(index, topic, partition, sought),
                // Without an index it may be anywhere in there.
                SegmentIndex::Unmapped if self.index_is_lacking(number) => {
                    seek.behind = Some((sought, sealed.base_position));
                    None
                }
                SegmentIndex::Unmapped => {
                    self.want_index(number, disk);
                    return Seek::Pending;
                }
            };
            match run {
                Some((first, position)) if first <= sought => {
                    return found(offset, sought, position);
                }
                Some(behind) => seek.behind = Some(behind),
                None => {}
            }
            self.note_index_used(number);
            seek.looked_from = Some(number);
        }
        // The segments that held it are gone or damaged: the first offset behind it is what is kept.
        match seek.behind {
            Some((first, position)) => Seek::Expired { first, at: Some(position) },
            None => Seek::Expired { first: state.next, at: None },
        }
    }

    /// Finds where what was appended at or after `time` begins.
    pub fn seek_time(&mut self, time: Timestamp, disk: &mut impl Disk) -> Seek {
        if let Some(active) = &self.segments.active
            && let Some(position) = active.index.commit_before(time)
        {
            return Seek::At(position);
        }
        // The last segment that was begun before it; what is learned of each stays with the segment.
        let (mut low, mut high) = (0, self.segments.sealed.len());
        while low < high {
            let middle = low.midpoint(high);
            let sealed = &self.segments.sealed[middle];
            let number = sealed.number;
            let is_known = !matches!(sealed.index, SegmentIndex::Unmapped);
            let is_before = match sealed.first_time {
                Some(first) => first < time,
                // Nothing is known of it: to begin before it is right in any case.
                None if is_known || self.index_is_lacking(number) => false,
                None => {
                    self.want_index(number, disk);
                    return Seek::Pending;
                }
            };
            if is_before { low = middle + 1 } else { high = middle }
        }
        let Some(sealed) = low.checked_sub(1).map(|last| &self.segments.sealed[last]) else {
            return Seek::At(self.positions().start());
        };
        let (number, base) = (sealed.number, sealed.base_position);
        let position = match &sealed.index {
            SegmentIndex::Mapped(index) => index.commit_before(time),
            SegmentIndex::Memory(index) => index.commit_before(time),
            SegmentIndex::Unmapped if self.index_is_lacking(number) => None,
            SegmentIndex::Unmapped => {
                self.want_index(number, disk);
                return Seek::Pending;
            }
        };
        self.note_index_used(number);
        Seek::At(position.unwrap_or(base))
    }
}

fn found(asked: Offset, sought: Offset, at: Position) -> Seek {
    if asked == sought {
        return Seek::At(at);
    }
    Seek::Expired { first: sought, at: Some(at) }
}

/// Follows the runs of one topic and partition back from the newest: the one that holds the offset, else the oldest.
fn run_back(index: &ActiveIndex, last_run: u64, offset: Offset) -> Option<RunEntry> {
    let mut run = index.run(last_run)?;
    while run.offset > offset {
        let Some(previous) = index.run(run.previous) else { break };
        assert!(previous.offset < run.offset, "runs of a topic and partition rise");
        run = previous;
    }
    Some(run)
}

fn run_in_memory(
    index: &ActiveIndex,
    topic: TopicId,
    partition: Partition,
    offset: Offset,
) -> Option<(Offset, Position)> {
    let of_topic = |run: &RunEntry| {
        run.topic == topic && run.partition == partition && run.offset_end > offset
    };
    index.runs(0..index.run_count()).find(of_topic).map(|run| (run.offset, run.position))
}

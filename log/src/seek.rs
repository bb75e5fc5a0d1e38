//! From an offset, or a time, to a position.
//!
//! An index knows, for every commit, the run of each topic and partition in it. A seek gives the position of the run
//! that holds what is sought; the reader then passes the batches before it, of which there are few.

use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

use crate::active_index::ActiveIndex;
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
    /// That offset is not kept any more; the first one that is.
    Expired {
        /// First offset of the topic and partition that is kept.
        first: Offset,
    },
    /// It is yet to be appended.
    End,
}

impl Log {
    /// Finds an offset of a topic and partition.
    pub fn seek_offset(
        &mut self,
        topic: TopicId,
        partition: Partition,
        offset: Offset,
        disk: &mut impl Disk,
    ) -> Seek {
        let Some(state) = self.topics.partition(topic, partition).copied() else {
            return Seek::End;
        };
        if offset < state.start {
            return Seek::Expired { first: state.start };
        }
        if offset >= state.next {
            return Seek::End;
        }
        if let Some(active) = &self.segments.active
            && let Some(position) = position_in_memory(&active.index, state.last_run, offset)
        {
            return Seek::At(position);
        }
        let mut oldest_behind = None;
        for sealed in self.segments.sealed.iter().rev() {
            let run = match &sealed.index {
                SegmentIndex::Mapped(index) => {
                    index.run_of(topic, partition, offset).map(|run| (run.offset, run.position))
                }
                SegmentIndex::Memory(index) => run_in_memory(index, topic, partition, offset),
                SegmentIndex::Unmapped => {
                    let number = sealed.number;
                    self.want_index(number, disk);
                    return Seek::Pending;
                }
            };
            match run {
                Some((first, position)) if first <= offset => return Seek::At(position),
                Some(behind) => oldest_behind = Some(behind),
                None => {}
            }
        }
        // The segments that held it are gone or damaged: the first offset behind it is what is kept.
        match oldest_behind {
            Some((first, _)) => Seek::Expired { first },
            None => Seek::Expired { first: state.next },
        }
    }

    /// Finds the first batch that was appended at or after `time`.
    pub fn seek_time(&mut self, time: Timestamp, disk: &mut impl Disk) -> Seek {
        if let Some(active) = &self.segments.active
            && let Some(position) = active.index.commit_before(time)
        {
            return Seek::At(position);
        }
        for sealed in self.segments.sealed.iter().rev() {
            let found = match &sealed.index {
                SegmentIndex::Mapped(index) => index.commit_before(time),
                SegmentIndex::Memory(index) => index.commit_before(time),
                SegmentIndex::Unmapped => {
                    let number = sealed.number;
                    self.want_index(number, disk);
                    return Seek::Pending;
                }
            };
            if let Some(position) = found {
                return Seek::At(position);
            }
        }
        Seek::At(self.positions().start())
    }
}

/// Follows the runs of one topic and partition back from the newest.
fn position_in_memory(index: &ActiveIndex, last_run: u64, offset: Offset) -> Option<Position> {
    let mut run = index.run(last_run)?;
    while run.offset > offset {
        let previous = index.run(run.previous)?;
        assert!(previous.offset < run.offset, "runs of a topic and partition rise");
        run = previous;
    }
    Some(run.position)
}

fn run_in_memory(
    index: &ActiveIndex,
    topic: TopicId,
    partition: Partition,
    offset: Offset,
) -> Option<(Offset, Position)> {
    let of_topic = |run: &&crate::active_index::RunEntry| {
        run.topic == topic && run.partition == partition && run.offset_end > offset
    };
    index.runs.iter().find(of_topic).map(|run| (run.offset, run.position))
}

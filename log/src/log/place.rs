//! Where a position stands in its log, for whoever asks how far a reader is behind: as well as the log can tell from
//! what it holds in memory. Nothing here reads the disk or waits for an index.

use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

use super::Log;
use crate::segments::{Sealed, SegmentIndex};

/// What stands in a log from a position on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Bytes of the segments from the commit that holds the position to the end of what is closed; at most a commit too
    /// many. In a segment whose index is not in memory: by the share of its positions.
    pub bytes: u64,
    /// When the commit that holds the position was begun; of a segment whose index is not in memory when the segment was
    /// begun, if that is known. `None` also when nothing stands there.
    pub since: Option<Timestamp>,
}

/// One partition of a topic in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionPlace {
    /// Which.
    pub partition: Partition,
    /// The first offset that is kept.
    pub start: Offset,
    /// The offset that the next event gets.
    pub next: Offset,
}

impl Log {
    /// What stands in the log from `position` on.
    #[must_use]
    pub fn behind(&self, position: Position) -> Behind {
        if position >= self.positions.end() {
            return Behind::default();
        }
        let tail = self.segments.active.as_ref().map_or(0, |active| active.tail);
        if let Some(active) = &self.segments.active
            && position >= active.base_position
        {
            let commit = active.index.commit_of(position);
            let at = commit.map_or(0, |commit| commit.at);
            let since = commit.map(|commit| commit.time);
            return Behind { bytes: tail.saturating_sub(at), since };
        }
        let sealed = &self.segments.sealed;
        let first = sealed.partition_point(|sealed| sealed.end_position <= position);
        let later: u64 = sealed.range(first..).skip(1).map(|sealed| sealed.end_bytes).sum();
        let Some(holder) = sealed.get(first) else { return Behind { bytes: tail, since: None } };
        let (at, since) = place_in(holder, position);
        assert!(at <= holder.end_bytes, "a place in a segment is before its end");
        Behind { bytes: holder.end_bytes - at + later + tail, since }
    }

    /// The partitions of a topic in which events were published, in no order.
    pub fn partitions(&self, topic: TopicId) -> impl Iterator<Item = PartitionPlace> + '_ {
        let place = |(partition, state): (Partition, crate::topics::PartitionState)| {
            PartitionPlace { partition, start: state.start, next: state.next }
        };
        self.topics.partitions(topic).map(place)
    }

    /// Whether a topic keeps the event of an offset, or the log knows nothing of it: neither retention nor the topic's
    /// deletion has let it go.
    #[must_use]
    pub fn keeps(&self, topic: &str, partition: Partition, offset: Offset) -> bool {
        let known = self.topics.id(topic).or_else(|| self.topics.deleted_id(topic));
        let state = known.and_then(|known| self.topics.partition(known, partition));
        state.is_none_or(|state| offset >= state.start)
    }

    /// Segments, sealed ones and the active one.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.segments.sealed.len() + usize::from(self.segments.active.is_some())
    }

    /// Bytes that the log's segments take on the disk, prepared and spare ones included.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.segments.allocated()
    }

    /// Commits that have become durable since the log was opened. Each was one synced write.
    #[must_use]
    pub fn durable_commits(&self) -> u64 {
        assert!(self.first_commit <= self.durable_commit_end, "commits become durable in order");
        self.durable_commit_end - self.first_commit
    }
}

/// The byte of a sealed segment at which `position` stands, and when that was begun.
fn place_in(sealed: &Sealed, position: Position) -> (u64, Option<Timestamp>) {
    let known = match &sealed.index {
        SegmentIndex::Memory(index) => {
            index.commit_of(position).map(|commit| (commit.at, Some(commit.time)))
        }
        SegmentIndex::Mapped(index) => {
            index.commit_place(position).map(|(at, time)| (at, Some(time)))
        }
        SegmentIndex::Unmapped => None,
    };
    known.map_or_else(
        || {
            let all = (sealed.end_position.0 - sealed.base_position.0).max(1);
            let before = position.0.saturating_sub(sealed.base_position.0).min(all);
            let at = u128::from(sealed.end_bytes) * u128::from(before) / u128::from(all);
            (at as u64, sealed.first_time)
        },
        // What an index says of a segment that was damaged behind it may go beyond its end.
        |(at, time)| (at.min(sealed.end_bytes), time),
    )
}

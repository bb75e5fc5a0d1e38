//! How many events of some topics stand in a log from a position on, as its indexes tell it: offsets are dense, so the first
//! offset behind the position says how many follow. A count goes from segment to segment, a bounded step at a time, until
//! the first event of each topic and partition is found; what is rare may have to be given up, and is then told as a bound.

use std::collections::BTreeMap;

use codec::ids::{Offset, Partition, Position, TopicId};

use crate::active_index::{ActiveIndex, RunEntry};
use crate::disk::Disk;
use crate::log::Log;
use crate::segments::SegmentIndex;

/// Topics and partitions, or runs of an index in memory, that one step looks at. About 100 us.
const STEP_MAX: usize = 2_048;
/// Segments that are looked through for the first events. Who has not found them then has rare topics, or a log of many
/// days, and gets a bound instead of reading all of its indexes.
const SEGMENTS_MAX: usize = 128;

/// A topic and partition.
type Key = (TopicId, Partition);

/// How many events were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Events; at most, unless the count is exact.
    pub events: u64,
    /// Whether it is just as many.
    pub is_exact: bool,
}

impl Default for Counted {
    fn default() -> Self {
        Counted { events: 0, is_exact: true }
    }
}

impl Counted {
    /// Adds another count.
    pub fn add(&mut self, other: Counted) {
        self.events += other.events;
        self.is_exact &= other.is_exact;
    }
}

/// What has come of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountStep {
    /// There is more to look at.
    More,
    /// A completion of this log will come; go on then.
    Pending,
    /// That is all.
    Done(Counted),
}

/// A count of what stands from a position on.
#[derive(Debug)]
pub struct EventCount {
    position: Position,
    /// Of the commit that begins at the position only a part may count: that from a time on.
    is_time: bool,
    /// Whose first event is yet to be found; each with the offset below which nothing counts.
    wanted: BTreeMap<Key, Offset>,
    /// Whose run begins before the position, in the commit that holds it, and may go beyond.
    straddling: BTreeMap<Key, Offset>,
    /// Segments before this number are done with.
    segment: u64,
    segments: usize,
    /// In a segment whose index is mapped, the last key that was looked up.
    after: Option<Key>,
    /// In a segment whose index is in memory, the number of the next run to look at.
    run: u64,
    counted: Counted,
}

impl EventCount {
    /// A count of what stands at `position` and behind it. With `is_time` the position is that of a time: the last commit
    /// that was begun before it.
    #[must_use]
    pub fn new(position: Position, is_time: bool) -> Self {
        EventCount {
            position,
            is_time,
            wanted: BTreeMap::new(),
            straddling: BTreeMap::new(),
            segment: 0,
            segments: 0,
            after: None,
            run: 0,
            counted: Counted::default(),
        }
    }

    /// Counts a topic and partition too, nothing of it below `floor`. Each once.
    pub fn add(&mut self, topic: TopicId, partition: Partition, floor: Offset) {
        let known = self.wanted.insert((topic, partition), floor);
        assert!(known.is_none(), "what is counted is counted once");
    }

    /// Where it begins.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many topics and partitions are not counted yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Whether nothing is left to be counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The next segment.
    fn pass(&mut self, number: u64) {
        assert!(self.segment <= number, "segments are looked at in their order");
        self.segment = number + 1;
        self.segments += 1;
        self.after = None;
        self.run = 0;
    }
}

impl Log {
    /// Goes on with a count.
    pub fn count(&mut self, count: &mut EventCount, disk: &mut impl Disk) -> CountStep {
        if count.wanted.is_empty() || count.position >= self.positions().end() {
            return CountStep::Done(count.counted);
        }
        if count.position <= self.positions().start() {
            // All that is kept counts, without a look at any index.
            let all: Vec<Key> = count.wanted.keys().copied().take(STEP_MAX).collect();
            all.into_iter().for_each(|key| self.found(count, key, Offset(0), true));
            return CountStep::More;
        }
        if count.segments >= SEGMENTS_MAX {
            return self.give_up(count);
        }
        let sealed =
            self.segments.sealed.iter().find(|sealed| {
                sealed.number >= count.segment && sealed.end_position > count.position
            });
        let Some(sealed) = sealed else { return self.count_in_active(count) };
        let number = sealed.number;
        match &sealed.index {
            SegmentIndex::Unmapped if self.index_is_lacking(number) => return self.give_up(count),
            SegmentIndex::Unmapped => {
                self.want_index(number, disk);
                return CountStep::Pending;
            }
            SegmentIndex::Memory(index) => drop(self.count_in_memory(count, index, number)),
            SegmentIndex::Mapped(_) => self.count_in_mapped(count, number),
        }
        self.note_index_used(number);
        CountStep::More
    }

    fn count_in_active(&self, count: &mut EventCount) -> CountStep {
        let Some(active) = &self.segments.active else {
            return CountStep::Done(count.counted);
        };
        let is_over = self.count_in_memory(count, &active.index, active.number);
        if is_over { CountStep::Done(count.counted) } else { CountStep::More }
    }

    /// Looks at the next runs of an index in memory; whether that were all.
    fn count_in_memory(&self, count: &mut EventCount, index: &ActiveIndex, number: u64) -> bool {
        let position = count.position;
        let commit = index.commit_of(position).map_or(position, |commit| commit.position);
        let after = index.commits.partition_point(|commit| commit.position <= position);
        let next = index.commits.get(after).map_or(Position(u64::MAX), |commit| commit.position);
        let first = index.runs_before(commit);
        let from = first.max(count.run.saturating_sub(index.first_run) as usize);
        let end = index.run_count().min(from + STEP_MAX);
        for run in index.runs(from..end) {
            self.look_at(count, &run, next);
        }
        count.run = index.first_run + end as u64;
        if end < index.run_count() {
            return false;
        }
        self.end_segment(count, number);
        true
    }

    fn look_at(&self, count: &mut EventCount, run: &RunEntry, next_commit: Position) {
        let key = (run.topic, run.partition);
        if !count.wanted.contains_key(&key) {
            return;
        }
        if run.position < count.position {
            // The last of them is what may go beyond.
            count.straddling.insert(key, run.offset);
            return;
        }
        match count.straddling.remove(&key) {
            Some(offset) => self.found(count, key, offset, false),
            None => {
                let is_exact = !count.is_time || run.position >= next_commit;
                self.found(count, key, run.offset, is_exact);
            }
        }
    }

    fn count_in_mapped(&self, count: &mut EventCount, number: u64) {
        let sealed = self.segments.sealed.iter().find(|sealed| sealed.number == number);
        let Some(SegmentIndex::Mapped(index)) = sealed.map(|sealed| &sealed.index) else { return };
        let position = count.position;
        let commit = index.commit_of(position).map_or(position, |(_, position)| position);
        let next = index.commit_after(position).unwrap_or(Position(u64::MAX));
        let from = count.after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let keys = count.wanted.range((from, std::ops::Bound::Unbounded));
        let keys: Vec<Key> = keys.map(|(key, _)| *key).take(STEP_MAX).collect();
        for key in &keys {
            let (before, first) = index.runs_at(key.0, key.1, position);
            if let Some(before) = before.filter(|run| run.position >= commit) {
                self.found(count, *key, before.offset, false);
            } else if let Some(first) = first {
                let is_exact = !count.is_time || first.position >= next;
                self.found(count, *key, first.offset, is_exact);
            }
        }
        count.after = keys.last().copied();
        if keys.len() < STEP_MAX {
            self.end_segment(count, number);
        }
    }

    /// What began in the commit that holds the position and has no run behind it.
    fn end_segment(&self, count: &mut EventCount, number: u64) {
        for (key, offset) in std::mem::take(&mut count.straddling) {
            self.found(count, key, offset, false);
        }
        count.pass(number);
    }

    /// The first offset of a topic and partition behind the position.
    fn found(&self, count: &mut EventCount, key: Key, offset: Offset, is_exact: bool) {
        let floor = count.wanted.remove(&key).expect("only what is wanted is found");
        let Some(state) = self.topics.partition(key.0, key.1) else { return };
        let first = offset.max(floor).max(state.start).min(state.next);
        // A floor that stands above makes up for what is not known below it.
        let is_exact = is_exact || floor > offset;
        count.counted.add(Counted { events: state.next.0 - first.0, is_exact });
    }

    /// Nothing more is looked up: what is left has at most what is kept of it, and no more than stands there at all.
    fn give_up(&self, count: &mut EventCount) -> CountStep {
        let before = count.counted.events;
        for key in count.wanted.keys().copied().collect::<Vec<_>>() {
            self.found(count, key, Offset(0), false);
        }
        let there = self.positions().end().0 - count.position.0;
        count.counted.events = count.counted.events.min(there).max(before);
        CountStep::Done(count.counted)
    }
}

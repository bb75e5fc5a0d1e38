//! How many bytes of a log are a topic's, as its indexes tell it: of each segment the share that the runs of its kept events
//! span. Where batches of many topics alternate it is their share, not their bytes. Segment after segment, a bounded step
//! at a time.

use codec::ids::{Offset, Partition, TopicId};

use crate::active_index::ActiveIndex;
use crate::disk::Disk;
use crate::index::SealedIndex;
use crate::log::Log;
use crate::segments::SegmentIndex;

/// Runs of an index in memory that one step looks at. Under 100 us.
const STEP_MAX: usize = 8_192;

/// What has come of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeStep {
    /// There is more to look at.
    More,
    /// A completion of this log will come; go on then.
    Pending,
    /// So many bytes.
    Done(u64),
}

/// A measurement under way.
#[derive(Debug)]
pub struct TopicSize {
    topic: TopicId,
    /// From where on events are kept, by partition.
    starts: Vec<(Partition, Offset)>,
    /// Segments before this number are done with.
    segment: u64,
    /// In a segment whose index is in memory, the next run to look at.
    run: usize,
    /// Bytes that runs of it span, the topic's and all.
    spanned: (u64, u64),
    bytes: u64,
}

impl Log {
    /// Begins to measure a topic.
    #[must_use]
    pub fn measure(&self, topic: TopicId) -> TopicSize {
        let kept = self.partitions(topic).filter(|place| place.start < place.next);
        let starts = kept.map(|place| (place.partition, place.start)).collect();
        TopicSize { topic, starts, segment: 0, run: 0, spanned: (0, 0), bytes: 0 }
    }

    /// Goes on.
    pub fn measure_step(&mut self, size: &mut TopicSize, disk: &mut impl Disk) -> SizeStep {
        if size.starts.is_empty() {
            return SizeStep::Done(0);
        }
        let sealed = self.segments.sealed.iter().find(|sealed| sealed.number >= size.segment);
        let Some(sealed) = sealed else {
            let Some(active) = &self.segments.active else { return SizeStep::Done(size.bytes) };
            let is_over = size.look_at(&active.index, active.tail);
            return if is_over { SizeStep::Done(size.bytes) } else { SizeStep::More };
        };
        let number = sealed.number;
        match &sealed.index {
            SegmentIndex::Unmapped if !self.index_is_lacking(number) => {
                self.want_index(number, disk);
                return SizeStep::Pending;
            }
            SegmentIndex::Unmapped => size.pass(number),
            SegmentIndex::Memory(index) => {
                if size.look_at(index, sealed.end_bytes) {
                    size.pass(number);
                }
            }
            SegmentIndex::Mapped(index) => {
                size.add(index, sealed.end_bytes);
                size.pass(number);
            }
        }
        self.note_index_used(number);
        SizeStep::More
    }
}

impl TopicSize {
    fn pass(&mut self, number: u64) {
        assert!(self.segment <= number, "segments are looked at in their order");
        (self.segment, self.run, self.spanned) = (number + 1, 0, (0, 0));
    }

    fn add(&mut self, index: &SealedIndex, segment_bytes: u64) {
        let scale = index.scale(segment_bytes);
        for (partition, start) in &self.starts {
            let key = index.key_of(self.topic, *partition);
            let span = key.map(|key| index.key_span(key, scale));
            self.bytes += span.filter(|span| *start < span.end).map_or(0, |span| span.bytes);
        }
    }

    /// Looks at the next runs of an index in memory; whether that were all.
    fn look_at(&mut self, index: &ActiveIndex, segment_bytes: u64) -> bool {
        let end = index.run_count().min(self.run + STEP_MAX);
        for run in index.runs(self.run..end) {
            let bytes = run.end - run.at;
            let start = self.starts.iter().find(|(partition, _)| *partition == run.partition);
            let is_kept = start.is_some_and(|(_, start)| *start < run.offset_end);
            let own = if run.topic == self.topic && is_kept { bytes } else { 0 };
            self.spanned = (self.spanned.0 + own, self.spanned.1 + bytes);
        }
        self.run = end;
        if end < index.run_count() {
            return false;
        }
        let (own, all) = self.spanned;
        assert!(own <= all, "a topic's runs are among all");
        let share = u128::from(segment_bytes) * u128::from(own) / u128::from(all.max(1));
        self.bytes += u64::try_from(share).unwrap_or(u64::MAX);
        true
    }
}

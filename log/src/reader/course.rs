//! The way of a reader through one segment: which stretches of it to read, when only some topics are wanted.
//!
//! The segment's index tells where the batches of every topic stand. When those that are wanted are few bytes, the
//! reader goes from one to the next and never reads what is between; a segment without any is not read at all. When
//! they are many, it reads everything: the disk is faster at one long read than at many short ones. A course is made
//! in bounded pieces, since an index may name hundreds of thousands of places.

use std::sync::Arc;

use codec::ids::{Position, TopicId};

use crate::active_index::{ActiveIndex, RUN_GAP_BYTES};
use crate::disk::Disk;
use crate::index::SealedIndex;
use crate::log::Log;
use crate::reader::windows::{Held, Reads, Stretch};
use crate::reader::{ReadStep, Reader, Wanted};
use crate::segments::{SegmentIndex, Segments};
use crate::topics::Topics;

/// Places of an index that one call looks at, at most.
const PLACES_A_CALL_MAX: usize = 2_048;
/// Wanted places that a course is made of, before near ones are joined. With more in one segment, there is on average
/// not enough between them to be worth passing over.
const PLACES_MAX: usize = 65_536;

/// A stretch with the position of its first batch (or the reader's, in the middle of one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leg {
    position: Position,
    stretch: Stretch,
}

/// What a reader does in one segment up to a position.
#[derive(Debug)]
pub(super) struct Course {
    segment: u64,
    version: u64,
    end: Position,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Everything.
    Scan,
    /// Only these, by rising place.
    Legs { positions: Vec<Position>, stretches: Vec<Stretch>, at: usize, _held: Held },
}

/// A course that is being made.
#[derive(Debug)]
pub(super) struct Planning {
    segment: u64,
    version: u64,
    /// Nothing before this byte is needed.
    from: u64,
    /// The reader's position when this was begun.
    start: Position,
    end: Position,
    is_mapped: bool,
    /// The next key of a mapped index, or the next run of one in memory.
    next: usize,
    /// Bytes of the segment that are left to read.
    left: u64,
    wanted: u64,
    /// The last topic that was asked about, and the answer.
    asked: (TopicId, bool),
    legs: Vec<Leg>,
}

/// The index of a segment, by which one topic is looked up.
enum Lookup<'a> {
    Mapped(&'a SealedIndex),
    /// In memory, and what leads to its runs from the newest.
    Memory(&'a Segments, &'a ActiveIndex),
}

impl Course {
    /// Readers move forward, and a course ends with its segment: what is before its end is in its segment.
    fn holds(&self, version: u64, position: Position) -> bool {
        self.version == version && position < self.end
    }

    /// The stretch that holds byte `at` of a segment, which ends at `end`; and all that are to be read of it.
    pub(super) fn stretches(&self, segment: u64, at: u64) -> Option<(Stretch, &[Stretch])> {
        let Way::Legs { stretches, .. } = &self.way else { return None };
        let index = stretches.partition_point(|stretch| stretch.end <= at);
        let stretch = stretches.get(index).filter(|stretch| stretch.at <= at);
        stretch.filter(|_| self.segment == segment).map(|stretch| (*stretch, &stretches[..]))
    }
}

impl Planning {
    fn add(&mut self, at: u64, end: u64, position: Position) {
        if end <= self.from || position >= self.end {
            return;
        }
        let position = if at < self.from { self.start } else { position.max(self.start) };
        let at = at.max(self.from);
        self.wanted += end - at;
        self.legs.push(Leg { position, stretch: Stretch { at, end } });
    }

    fn is_wanted(&mut self, topic: TopicId, wants: &mut dyn FnMut(TopicId) -> bool) -> bool {
        if self.asked.0 != topic {
            self.asked = (topic, wants(topic));
        }
        self.asked.1
    }

    /// Goes through a mapped index, topic after topic. Whether that is done.
    fn look_at_keys(
        &mut self,
        index: &SealedIndex,
        wants: &mut dyn FnMut(TopicId) -> bool,
    ) -> bool {
        for key in (self.next..index.key_count()).take(PLACES_A_CALL_MAX) {
            self.next = key + 1;
            if self.is_wanted(index.topic_of(key), wants) {
                let from = self.from;
                index.each_run(key, from, |at, end, position| self.add(at, end, position));
            }
            if self.is_too_much() {
                break;
            }
        }
        self.next == index.key_count()
    }

    /// Goes through an index in memory, place after place. Whether that is done.
    fn look_at_runs(
        &mut self,
        index: &ActiveIndex,
        wants: &mut dyn FnMut(TopicId) -> bool,
    ) -> bool {
        let end = self.end;
        let runs = index.runs(self.next..self.next.saturating_add(PLACES_A_CALL_MAX));
        let mut looked_at = 0;
        for run in runs.take_while(|run| run.position < end) {
            looked_at += 1;
            if self.is_wanted(run.topic, wants) {
                self.add(run.at, run.end, run.position);
            }
        }
        self.next += looked_at;
        looked_at < PLACES_A_CALL_MAX
    }

    /// The same for one topic: by its place among the keys, and from its newest runs back. `None`: the log does not know it,
    /// so nothing of it is anywhere. False, with nothing noted: there is too much of it for one call.
    fn look_at_topic(
        &mut self,
        topics: &Topics,
        only: Option<TopicId>,
        index: &Lookup<'_>,
    ) -> bool {
        let Some(topic) = only else { return true };
        let is_done = match index {
            Lookup::Mapped(index) => {
                for key in index.keys_of(topic) {
                    let from = self.from;
                    index.each_run(key, from, |at, end, position| self.add(at, end, position));
                }
                self.legs.len() <= PLACES_A_CALL_MAX
            }
            Lookup::Memory(segments, index) => self.look_back(topics, topic, segments, index),
        };
        if !is_done {
            self.legs.clear();
            self.wanted = 0;
        }
        is_done
    }

    /// From a topic's newest runs back through those of `index`. False: more than one call's worth is on the way, or the
    /// index of a newer segment has left the memory first.
    fn look_back(
        &mut self,
        topics: &Topics,
        topic: TopicId,
        segments: &Segments,
        index: &ActiveIndex,
    ) -> bool {
        let mut looked_at = 0;
        for (_, state) in topics.partitions(topic) {
            let mut number = state.last_run;
            while number >= index.first_run {
                let run = segments.run(number).filter(|_| looked_at < PLACES_A_CALL_MAX);
                let Some(run) = run else { return false };
                looked_at += 1;
                assert!(run.topic == topic, "a chain is of one topic");
                if number < index.next_run() {
                    if run.end <= self.from {
                        break;
                    }
                    self.add(run.at, run.end, run.position);
                }
                number = run.previous;
            }
        }
        true
    }

    fn is_too_much(&self) -> bool {
        2 * self.wanted > self.left || self.legs.len() > PLACES_MAX
    }

    /// Legs that are near each other become one; then it shows what is saved.
    fn finish(mut self, reads: &Reads) -> Course {
        let (segment, version, end) = (self.segment, self.version, self.end);
        let scan = Course { segment, version, end, way: Way::Scan };
        if self.is_too_much() {
            return scan;
        }
        self.legs.sort_unstable_by_key(|leg| leg.stretch.at);
        let (mut positions, mut stretches) = (Vec::new(), Vec::<Stretch>::new());
        for Leg { position, stretch } in self.legs {
            match stretches.last_mut() {
                Some(last) if stretch.at < last.end + RUN_GAP_BYTES => {
                    last.end = last.end.max(stretch.end);
                }
                _ => {
                    positions.push(position);
                    stretches.push(stretch);
                }
            }
        }
        let bytes: u64 = stretches.iter().map(|stretch| stretch.end - stretch.at).sum();
        let cost = bytes + stretches.len() as u64 * RUN_GAP_BYTES / 2;
        let memory = stretches.len() * size_of::<Leg>();
        if 2 * cost > self.left || !reads.has_room(memory as u64) {
            return scan;
        }
        positions.shrink_to_fit();
        stretches.shrink_to_fit();
        let way = Way::Legs { positions, stretches, at: 0, _held: reads.hold(memory) };
        Course { way, ..scan }
    }
}

impl Log {
    /// Brings a reader past what is not wanted, as far as an index shows it. `None`: read at its place.
    pub(super) fn steer(
        &mut self,
        reader: &mut Reader,
        end: Position,
        wanted: &mut Wanted<'_>,
        disk: &mut impl Disk,
    ) -> Option<ReadStep> {
        let version = wanted.version?;
        if reader.course.as_ref().is_some_and(|course| course.holds(version, reader.position)) {
            reader.follow(end);
            return None;
        }
        let active = self.segments.active.as_ref().filter(|a| a.base_position <= reader.position);
        let segment = match active {
            Some(active) => active.number,
            // A gap in the chain: reading finds out how far it goes.
            None => self.segments.sealed_of(reader.position)?.number,
        };
        reader.course = None;
        if let Some(step) = self.plan(reader, (segment, version, end), wanted, disk) {
            return Some(step);
        }
        let course = reader.course.as_ref().expect("a plan that is made is a course");
        assert!(course.holds(version, reader.position), "a course holds where its reader stands");
        reader.follow(end);
        None
    }

    /// Goes on making a course; `None` when the reader has one.
    fn plan(
        &mut self,
        reader: &mut Reader,
        (segment, version, end): (u64, u64, Position),
        wanted: &mut Wanted<'_>,
        disk: &mut impl Disk,
    ) -> Option<ReadStep> {
        let mapped = match self.segments.sealed_index(segment) {
            Some(SegmentIndex::Unmapped) if self.index_is_lacking(segment) => {
                let way = Way::Scan;
                reader.course = Some(Course { segment, version, end, way });
                return None;
            }
            Some(SegmentIndex::Unmapped) => {
                self.want_index(segment, disk);
                return Some(ReadStep::Pending);
            }
            Some(SegmentIndex::Mapped(index)) => {
                let index = Arc::clone(index);
                self.note_index_used(segment);
                Some(index)
            }
            Some(SegmentIndex::Memory(_)) | None => None,
        };
        let is_mapped = mapped.is_some();
        let fits = |planning: &Planning| {
            let same = planning.segment == segment && planning.version == version;
            same && planning.is_mapped == is_mapped && planning.start == reader.position
        };
        let planning = reader.planning.take().filter(fits);
        let mut planning =
            planning.unwrap_or_else(|| self.begin_plan(reader, (segment, version, end), is_mapped));
        let topics = &self.topics;
        let index = match (&mapped, self.segments.memory_index(segment)) {
            (Some(index), _) => Lookup::Mapped(index),
            (None, Some(index)) => Lookup::Memory(&self.segments, index),
            (None, None) => unreachable!("an index is mapped or in memory"),
        };
        if let Some(only) = wanted.only
            && planning.look_at_topic(topics, topics.id(only), &index)
        {
            reader.course = Some(planning.finish(&self.reads));
            return None;
        }
        let mut wants = |topic| topics.name(topic).is_none_or(|name| (wanted.topic)(topic, name));
        let is_done = match index {
            Lookup::Mapped(index) => planning.look_at_keys(index, &mut wants),
            Lookup::Memory(_, index) => planning.look_at_runs(index, &mut wants),
        };
        if !is_done && !planning.is_too_much() {
            reader.planning = Some(planning);
            return Some(ReadStep::More);
        }
        reader.course = Some(planning.finish(&self.reads));
        None
    }

    fn begin_plan(
        &self,
        reader: &Reader,
        (segment, version, end): (u64, u64, Position),
        is_mapped: bool,
    ) -> Planning {
        let position = reader.position;
        let sealed = self.segments.sealed.iter().find(|sealed| sealed.number == segment);
        let (commit, end_bytes) = match (sealed, &self.segments.active) {
            (Some(sealed), _) => (self.commit_place(segment, position), sealed.end_bytes),
            // The open commit is not closed, but its runs are there.
            (None, Some(active)) => (self.commit_place(segment, position), active.tail),
            (None, None) => (0, 0),
        };
        let place = reader.place.filter(|(of, _)| *of == segment);
        let from = place.map_or(commit, |(_, at)| at);
        let next = match self.segments.memory_index(segment) {
            Some(index) => index.runs_before_byte(commit),
            None => 0,
        };
        let end = sealed.map_or(end, |sealed| sealed.end_position.min(end));
        assert!(position < end, "a course leads forward");
        Planning {
            segment,
            version,
            from,
            start: position,
            end,
            is_mapped,
            next,
            left: end_bytes.saturating_sub(from),
            wanted: 0,
            asked: (TopicId(0), false),
            legs: Vec::new(),
        }
    }
}

impl Reader {
    /// Goes to the next leg of its course, if it is not on one.
    fn follow(&mut self, end: Position) {
        let Some(course) = &mut self.course else { return };
        let (segment, course_end) = (course.segment, course.end.min(end));
        let Way::Legs { positions, stretches, at, .. } = &mut course.way else { return };
        let place = self.place.filter(|(of, _)| *of == segment).map(|(_, byte)| byte);
        while let Some(stretch) = stretches.get(*at)
            && place.is_some_and(|byte| byte >= stretch.end)
        {
            *at += 1;
        }
        let Some((stretch, position)) = stretches.get(*at).zip(positions.get(*at)) else {
            return self.pass(course_end.max(self.position), None);
        };
        if *position >= course_end {
            self.pass(course_end.max(self.position), None);
        } else if place.is_none_or(|byte| byte < stretch.at) {
            let position = (*position).max(self.position);
            let place = Some((segment, stretch.at));
            self.pass(position, place);
        }
    }
}

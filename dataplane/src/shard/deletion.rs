//! Deleting a topic, as far as this shard's logs go: at once for every reader, and answered when it is durable in each of
//! them. What was handed to members before may still be settled; what waits for its turn is passed, and groups are told of
//! it as of what retention takes.

use std::sync::Arc;

use codec::ids::TopicId;
use codec::refusal::{Code, Refusal};
use log::batch::LogState;
use log::cursor::CursorMark;
use log::log::Log;
use log::size::{SizeStep, TopicSize};
use routing::subscription::GroupId;

use crate::kernel::Kernel;
use crate::session::Gap;
use crate::shard::Shard;

/// What stands of a topic in the logs of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicMeasure {
    /// Whether any of the logs knows the topic.
    pub is_known: bool,
    /// Events that are kept.
    pub events: u64,
    /// Bytes of segments, as their indexes tell.
    pub bytes: u64,
}

/// A measurement under way.
#[derive(Debug)]
pub(crate) struct Measuring {
    topic: Arc<str>,
    log: usize,
    size: Option<TopicSize>,
    sum: TopicMeasure,
}

impl Measuring {
    pub(crate) fn new(topic: Arc<str>) -> Self {
        Measuring { topic, log: 0, size: None, sum: TopicMeasure::default() }
    }
}

/// A deletion that is yet to be durable.
#[derive(Debug)]
pub struct Deleting {
    /// What must be durable, by the index of the log.
    marks: Vec<(usize, CursorMark)>,
    /// Events that went.
    events: u64,
}

impl Shard {
    /// Makes a step of a measurement. Returns what all logs hold when it is known.
    pub(crate) fn measure_step<K: Kernel>(
        &mut self,
        measuring: &mut Measuring,
        kernel: &mut K,
    ) -> Option<TopicMeasure> {
        let Some(log) = self.logs.get_mut(measuring.log) else { return Some(measuring.sum) };
        let Some(size) = &mut measuring.size else {
            match log.topic_id(&measuring.topic) {
                None => {
                    // One whose deletion may still be lost is there.
                    let was_there = log.deleted_topic_id(&measuring.topic).is_some();
                    let is_durable = log.deletion_mark() <= log.durable_cursor_mark();
                    measuring.sum.is_known |= was_there && !is_durable;
                    measuring.log += 1;
                }
                Some(topic) => {
                    measuring.sum.is_known = true;
                    measuring.sum.events += log.kept_events(topic);
                    measuring.size = Some(log.measure(topic));
                }
            }
            return None;
        };
        if let SizeStep::Done(bytes) = log.measure_step(size, kernel) {
            measuring.sum.bytes += bytes;
            (measuring.log, measuring.size) = (measuring.log + 1, None);
        }
        None
    }

    /// Deletes a topic from all logs of this shard; none of them may know it. Ask [`Shard::deletion_step`] until it is
    /// durable.
    ///
    /// # Errors
    /// A log that would have to write takes nothing any more; nothing was changed.
    pub fn begin_deletion(&mut self, topic: &str) -> Result<Deleting, Refusal> {
        if self.draining {
            return Err(Code::ShuttingDown.into());
        }
        let of = |log: &Log| log.topic_id(topic);
        let known: Vec<(usize, TopicId)> = (0..self.logs.len())
            .filter_map(|index| Some((index, of(&self.logs[index])?)))
            .collect();
        if known.iter().any(|(index, _)| self.is_stopped(*index)) {
            return Err(Code::LogStopped.into());
        }
        // What was deleted before and is not durable yet is waited for, too.
        let logs = self.logs.iter().enumerate();
        let before = logs.filter(|(_, log)| log.deleted_topic_id(topic).is_some());
        let mut marks: Vec<_> = before.map(|(index, log)| (index, log.deletion_mark())).collect();
        let mut events = 0;
        for (index, id) in known {
            events += self.logs[index].kept_events(id);
            marks.push((index, self.logs[index].delete_topic(id)));
            assert!(self.logs[index].kept_events(id) == 0, "nothing of it is kept");
            self.drop_held(index, id);
        }
        Ok(Deleting { marks, events })
    }

    /// How many events a deletion took, once it is durable; an error if that is not to be known any more.
    #[must_use]
    pub fn deletion_step(&self, deleting: &Deleting) -> Option<Result<u64, Refusal>> {
        let is_durable =
            |(log, mark): &(usize, CursorMark)| *mark <= self.logs[*log].durable_cursor_mark();
        let mut waiting = deleting.marks.iter().filter(|of| !is_durable(of)).peekable();
        if waiting.peek().is_none() {
            return Some(Ok(deleting.events));
        }
        waiting.any(|(log, _)| self.is_stopped(*log)).then(|| Err(Code::LogStopped.into()))
    }

    fn is_stopped(&self, log: usize) -> bool {
        matches!(self.logs[log].state(), LogState::Stopped(_))
    }

    /// What groups have read of a topic and nobody could take is not given to anybody.
    fn drop_held(&mut self, log: usize, topic: TopicId) {
        let holds = |held: &log::batch::StoredBatch| held.header.topic == topic;
        let groups = self.groups.iter();
        let holding =
            groups.filter(|(_, group)| group.places[log].held.as_ref().is_some_and(holds));
        let mut holding: Vec<GroupId> = holding.map(|(id, _)| *id).collect();
        holding.sort_unstable();
        for id in holding {
            let place = &mut self.groups.get_mut(&id).expect("found just now").places[log];
            let held = place.held.take().expect("found just now");
            assert!(!place.at_tail, "a group at the tail holds nothing");
            let (from, to) = (held.header.base_position, held.header.end_position());
            let events = Some(u64::from(held.header.count));
            let gap = Gap { log: self.logs[log].key(), from, to, events };
            self.note_expired(id, log, gap);
            self.wake_lagging(id);
        }
    }
}

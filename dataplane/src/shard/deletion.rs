//! Deleting a topic, as far as this shard's logs go: at once for every reader, and answered when it is durable in each of
//! them. What was handed to members before may still be settled; what waits for its turn is passed, and groups are told of
//! it as of what retention takes.

use std::sync::Arc;

use codec::ids::TopicId;
use codec::refusal::Code;
use log::batch::LogState;
use log::cursor::CursorMark;
use log::log::Log;
use log::size::{SizeStep, TopicSize};
use routing::subscription::GroupId;

use crate::control::{ControlRequest, LogName, LogsLeft, TopicOrder};
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
    /// What the control plane calls it.
    number: u64,
    /// What must be durable, by the index of the log.
    marks: Vec<(usize, CursorMark)>,
    /// Events that went.
    events: u64,
    /// Logs that keep the topic, since nothing is written to them any more.
    left: Vec<LogName>,
    /// Why.
    code: Code,
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

    /// Deletes a topic from the logs of this shard that the order is about; none of them may know it. The control plane is
    /// told when that is durable.
    pub(super) fn on_delete_topic(&mut self, order: &TopicOrder) {
        let deleting = self.begin_deletion(order);
        self.deletions.push(deleting);
    }

    fn begin_deletion(&mut self, order: &TopicOrder) -> Deleting {
        let topic = &*order.topic;
        let is_meant =
            |log: &Log| order.logs.as_ref().is_none_or(|logs| logs.contains(&name_of(log)));
        let code = if self.draining { Code::ShuttingDown } else { Code::LogStopped };
        let mut deleting =
            Deleting { number: order.number, marks: Vec::new(), events: 0, left: Vec::new(), code };
        for index in 0..self.logs.len() {
            let (is_stopped, log) = (self.is_stopped(index), &mut self.logs[index]);
            if !is_meant(log) {
                continue;
            }
            // What was deleted before and is not durable yet is waited for, too.
            if log.deleted_topic_id(topic).is_some() {
                deleting.marks.push((index, log.deletion_mark()));
            }
            let Some(id) = log.topic_id(topic) else { continue };
            if is_stopped || self.draining {
                deleting.left.push(name_of(log));
                continue;
            }
            deleting.events += log.kept_events(id);
            deleting.marks.push((index, log.delete_topic(id)));
            assert!(log.kept_events(id) == 0, "nothing of it is kept");
            self.drop_held(index, id);
        }
        deleting
    }

    /// Tells the control plane of deletions that have come to an end.
    pub(super) fn tell_deleted(&mut self) -> u32 {
        let before = self.deletions.len();
        for deleting in std::mem::take(&mut self.deletions) {
            let Some(result) = self.deletion_end(&deleting) else {
                self.deletions.push(deleting);
                continue;
            };
            let (shard, number) = (self.options.index, deleting.number);
            let told = ControlRequest::TopicDeleted { shard, number, result };
            self.members.asking.requests.push_back(told);
        }
        assert!(self.deletions.len() <= before, "what is told is over");
        (before - self.deletions.len()) as u32
    }

    /// How many events a deletion took, once it is durable; or in which logs that is not to be known any more.
    fn deletion_end(&self, deleting: &Deleting) -> Option<Result<u64, LogsLeft>> {
        let is_durable =
            |(log, mark): &&(usize, CursorMark)| *mark <= self.logs[*log].durable_cursor_mark();
        let mut logs = deleting.left.clone();
        for (index, _) in deleting.marks.iter().filter(|of| !is_durable(of)) {
            if !self.is_stopped(*index) {
                return None;
            }
            logs.push(name_of(&self.logs[*index]));
        }
        if logs.is_empty() {
            return Some(Ok(deleting.events));
        }
        logs.sort_unstable();
        logs.dedup();
        Some(Err(LogsLeft { logs, refusal: deleting.code.into() }))
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

/// What the control plane calls a log.
pub(super) fn name_of(log: &Log) -> LogName {
    (log.key().generation, log.key().log)
}

//! What the commits of a log say, one after the other: its topics, its cursors and its publishers.

use std::sync::Arc;

use codec::header::{BatchHeader, ContentKind};
use codec::ids::{Partition, Timestamp, TopicId};

use crate::control::Record;
use crate::cursor::Cursors;
use crate::publishers::Publishers;
use crate::topics::Topics;

/// What a replay has put together.
pub(super) struct Replay {
    pub(super) topics: Topics,
    pub(super) cursors: Cursors,
    pub(super) publishers: Publishers,
    pub(super) last_time: Timestamp,
    pub(super) bytes_read: u64,
}

impl Replay {
    /// Goes on from what a checkpoint says.
    pub(super) fn new(topics: Topics, cursors: Cursors, publishers: Publishers) -> Self {
        Replay { topics, cursors, publishers, last_time: Timestamp(0), bytes_read: 0 }
    }

    pub(super) fn visit(&mut self, header: &BatchHeader, body: &[u8]) {
        self.last_time = self.last_time.max(header.append_time);
        if header.content == ContentKind::Events {
            self.place_holders_up_to(header.topic.0);
            let end = header.base_offset.plus(u64::from(header.count));
            let mut is_kept = false;
            if let Some(state) = self.topics.partition_mut(header.topic, header.partition) {
                state.next = state.next.max(end);
                is_kept = state.start < end;
            }
            if is_kept && self.topics.deleted_len() > 0 {
                self.topics.revive(header.topic);
            }
            self.publishers.recovered(header);
            return;
        }
        let mut rest = body;
        while let Ok(record) = Record::decode(&mut rest) {
            match record {
                Record::Commit(_) => {}
                Record::Topic { id, name } => {
                    self.place_holders_up_to(id.0.saturating_sub(1));
                    if self.topics.known_id(&name).is_none() && id.0 == self.topics.len() + 1 {
                        self.topics.add(name);
                    }
                }
                Record::Cursor { group, cursor } => self.cursors.recovered(group, Some(cursor)),
                Record::CursorRemoved { group } => self.cursors.recovered(group, None),
                Record::TopicDeleted { id, end, ends } => {
                    self.place_holders_up_to(id.0);
                    self.topics.deletion_found(id, &ends);
                    self.topics.deleted_before(end);
                }
            }
        }
    }

    /// Ids are dense. The record of a topic may have been in damaged bytes: its events are kept under a made-up name.
    fn place_holders_up_to(&mut self, id: u32) {
        let known = id.min(codec::limits::TOPICS_MAX);
        while self.topics.len() < known {
            let mut name = format!("$damaged/topic-{}", self.topics.len() + 1);
            // Taken if this log carries on older ones that made up the same name.
            while self.topics.known_id(&name).is_some() {
                name.push('+');
            }
            self.topics.add(name.into());
        }
        assert!(self.topics.len() >= known, "every event that is kept has a topic");
    }
}

/// Next offsets are carried to a new generation's logs under the same names.
pub(crate) fn merge_topics(into: &mut Topics, from: &Topics) -> Vec<TopicId> {
    let mut numbers = vec![TopicId(0); 1 + from.len() as usize];
    for id in 1..=from.len() {
        let id = TopicId(id);
        let Some(name) = from.name(id) else { continue };
        let known = into.known_id(name);
        let Some(own) = known.or_else(|| into.add(Arc::clone(name))) else {
            continue;
        };
        numbers[id.0 as usize] = own;
        let partitions: Vec<(Partition, _)> = from.partitions(id).collect();
        for (partition, state) in partitions {
            if let Some(merged) = into.partition_mut(own, partition) {
                assert!(state.start <= state.next, "only what was appended expires");
                merged.next = merged.next.max(state.next);
                merged.start = merged.next;
            }
        }
        // Deleted where all logs say so: it has begun again in those that it was published to since.
        if !from.is_deleted(id) {
            into.revive(own);
        } else if known.is_none() {
            into.delete(own);
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that carries on damaged older ones has topics with made-up names under other ids: to make one up again
    /// must not keep the server from starting.
    #[test]
    fn made_up_names_do_not_collide() {
        let (topics, cursors, publishers) = Default::default();
        let mut replay = Replay::new(topics, cursors, publishers);
        replay.topics.add("$damaged/topic-2".into());
        replay.place_holders_up_to(3);
        assert_eq!(replay.topics.len(), 3);
    }

    /// A change of the number of shards must not bring back a topic that was deleted, nor end one that has begun again in
    /// one of the logs.
    #[test]
    fn a_new_generation_knows_what_is_deleted() {
        let log = |deleted: &[&str]| {
            let mut topics = Topics::new();
            for name in ["gone", "back", "there"] {
                let id = topics.add(name.into()).unwrap();
                let state = topics.partition_mut(id, Partition(0)).unwrap();
                (state.next, state.start) = (codec::ids::Offset(4), codec::ids::Offset(4));
                if deleted.contains(&name) {
                    topics.delete(id);
                }
            }
            topics
        };
        let (one, other) = (log(&["gone", "back"]), log(&["gone"]));
        for order in [[&one, &other], [&other, &one]] {
            let mut merged = Topics::new();
            order.iter().for_each(|from| drop(merge_topics(&mut merged, from)));
            let known = ["gone", "back", "there"].map(|name| merged.id(name).is_some());
            assert_eq!(known, [false, true, true]);
            assert_eq!(merged.len(), 3);
        }
    }
}

//! Deleting a topic: all that stands of it is gone for readers at once, and its segments go once they hold nothing else that
//! is kept. A record of it rides on the next commit, before any change of a cursor; so it is durable when such a change is
//! that was made after it, and logs of earlier generations, which take no events, write it as they write their cursors.

use codec::ids::{Offset, Partition, Timestamp, TopicId};

use super::Log;
use crate::control::Record;
use crate::cursor::CursorMark;

/// The number under which no group has a cursor: that it is removed is what makes a commit due.
const NO_GROUP: u64 = 0;

impl Log {
    /// Deletes a topic. Durable once [`Log::durable_cursor_mark`] has come to what is returned. A publish begins it again,
    /// with the offsets that follow.
    pub fn delete_topic(&mut self, topic: TopicId) -> CursorMark {
        assert!(topic.0 >= 1 && topic.0 <= self.topics.len(), "only what is there is deleted");
        let states: Vec<_> = self.topics.partitions(topic).collect();
        let ends: Vec<(Partition, Offset)> =
            states.iter().map(|(partition, state)| (*partition, state.next)).collect();
        for (partition, end) in &ends {
            self.topics.expired(topic, *partition, *end);
        }
        let end = self.positions.end();
        self.topics.delete(topic);
        self.topics.deleted_before(end);
        self.retention.topic_deleted(topic, &ends, end);
        let mut record = Vec::new();
        Record::TopicDeleted { id: topic, end, ends }.encode(&mut record);
        self.deletions.push_back(record);
        let mark = self.cursors.put(NO_GROUP, None);
        // Somebody waits: it is due at once.
        self.cursors_dirty_since = Some(Timestamp(0));
        assert!(self.durable_cursor_mark() < mark, "a deletion is yet to be written");
        self.deletion_mark = mark;
        mark
    }

    /// Every deletion is durable once [`Log::durable_cursor_mark`] has come to this.
    #[must_use]
    pub fn deletion_mark(&self) -> CursorMark {
        self.deletion_mark
    }

    /// The number of a topic that was deleted and has not begun again.
    #[must_use]
    pub fn deleted_topic_id(&self, name: &str) -> Option<TopicId> {
        self.topics.deleted_id(name)
    }

    /// Whether a topic is deleted and has not begun again.
    #[must_use]
    pub fn is_deleted(&self, topic: TopicId) -> bool {
        self.topics.is_deleted(topic)
    }

    /// Topics that are not deleted.
    #[must_use]
    pub fn live_topic_count(&self) -> u32 {
        let (all, deleted) = (self.topics.len(), self.topics.deleted_len());
        assert!(deleted <= all, "only what is there is deleted");
        all - deleted
    }

    /// Events of a topic that are kept.
    #[must_use]
    pub fn kept_events(&self, topic: TopicId) -> u64 {
        self.topics.partitions(topic).map(|(_, state)| state.next.0 - state.start.0).sum()
    }
}

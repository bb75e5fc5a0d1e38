//! The topic dictionary of one log, with the next offset of every topic and partition.
//!
//! Sized for a million topics: a topic that uses one partition costs one entry of 48 bytes, its name, and eight bytes
//! in the table of names. Ids are dense from 1, so that a checkpoint can walk them in pieces.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use codec::ids::{Offset, Partition, TopicId};
use codec::limits::TOPICS_MAX;

/// What a log knows of one topic and partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionState {
    /// Offset of the next event.
    pub(crate) next: Offset,
    /// The first offset that is still kept.
    pub(crate) start: Offset,
    /// Number of the newest index entry (see `active_index`), 0 if none.
    pub(crate) last_run: u64,
    partition: Partition,
}

#[derive(Debug)]
struct TopicEntry {
    name: Arc<str>,
    first: Option<PartitionState>,
    #[expect(
        clippy::box_collection,
        reason = "most topics have no second partition: 8 bytes, not 24"
    )]
    rest: Option<Box<Vec<PartitionState>>>,
}

/// All topics of a log.
#[derive(Debug)]
pub(crate) struct Topics {
    entries: Vec<TopicEntry>,
    /// Open addressing, ids by the hash of their name, 0 = free. At most three quarters full.
    by_name: Vec<u32>,
    hasher: RandomState,
    name_bytes: usize,
}

impl Default for Topics {
    fn default() -> Self {
        Topics::new()
    }
}

impl Topics {
    pub(crate) fn new() -> Self {
        Topics {
            entries: Vec::new(),
            by_name: vec![0; 64],
            hasher: RandomState::new(),
            name_bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    pub(crate) fn id(&self, name: &str) -> Option<TopicId> {
        let id = self.by_name[self.slot(name)];
        (id != 0).then_some(TopicId(id))
    }

    pub(crate) fn name(&self, id: TopicId) -> Option<&Arc<str>> {
        Some(&self.entries.get(id.0.checked_sub(1)? as usize)?.name)
    }

    /// Adds a topic that is not there; `None` when the log holds as many as it may.
    pub(crate) fn add(&mut self, name: Arc<str>) -> Option<TopicId> {
        if self.len() >= TOPICS_MAX {
            return None;
        }
        if (self.entries.len() + 1) * 4 > self.by_name.len() * 3 {
            self.grow();
        }
        let slot = self.slot(&name);
        assert_eq!(self.by_name[slot], 0, "a topic is added once");
        self.name_bytes += name.len() + 16;
        self.entries.push(TopicEntry { name, first: None, rest: None });
        self.by_name[slot] = self.len();
        let taken = self.entries.len() * 4;
        assert!(
            taken <= self.by_name.len() * 3,
            "the table keeps free slots, or a search never ends"
        );
        Some(TopicId(self.len()))
    }

    pub(crate) fn partition(&self, id: TopicId, partition: Partition) -> Option<&PartitionState> {
        let entry = self.entries.get(id.0.checked_sub(1)? as usize)?;
        if entry.first.as_ref().is_some_and(|first| first.partition == partition) {
            return entry.first.as_ref();
        }
        let rest = entry.rest.as_ref()?;
        let at = rest.binary_search_by_key(&partition, |state| state.partition).ok()?;
        rest.get(at)
    }

    /// The state of a topic and partition, made if it is new. `None` if there is no such topic.
    pub(crate) fn partition_mut(
        &mut self,
        id: TopicId,
        partition: Partition,
    ) -> Option<&mut PartitionState> {
        let entry = self.entries.get_mut(id.0.checked_sub(1)? as usize)?;
        let fresh = PartitionState { next: Offset(0), start: Offset(0), last_run: 0, partition };
        let first = entry.first.get_or_insert(fresh);
        if first.partition == partition {
            return Some(first);
        }
        let rest = entry.rest.get_or_insert_default();
        let at = match rest.binary_search_by_key(&partition, |state| state.partition) {
            Ok(at) => at,
            Err(at) => {
                assert!(first.partition != partition, "a partition stands once in a topic");
                rest.insert(at, fresh);
                at
            }
        };
        rest.get_mut(at)
    }

    /// Events of a topic and partition before `end` are gone.
    ///
    /// `end` comes from an index, which may know more than a log that was damaged behind it.
    pub(crate) fn expired(&mut self, id: TopicId, partition: Partition, end: Offset) {
        let Some(state) = self.partition_mut(id, partition) else { return };
        state.start = state.start.max(end.min(state.next));
        assert!(state.start <= state.next, "only what was appended expires");
    }

    /// All partitions of a topic that have been used.
    pub(crate) fn partitions(
        &self,
        id: TopicId,
    ) -> impl Iterator<Item = (Partition, PartitionState)> + '_ {
        let entry = id.0.checked_sub(1).and_then(|at| self.entries.get(at as usize));
        let first = entry.and_then(|entry| entry.first);
        let rest = entry.and_then(|entry| entry.rest.as_ref()).into_iter().flat_map(|r| r.iter());
        first.into_iter().chain(rest.copied()).map(|state| (state.partition, state))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<TopicEntry>() + self.by_name.len() * 4 + self.name_bytes
    }

    fn slot(&self, name: &str) -> usize {
        debug_assert!(self.entries.len() < self.by_name.len(), "a search ends at a free slot");
        let mask = self.by_name.len() - 1;
        let mut slot = self.hasher.hash_one(name) as usize & mask;
        loop {
            let id = self.by_name[slot];
            if id == 0 || &*self.entries[id as usize - 1].name == name {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let grown = self.by_name.len() * 2;
        assert!(grown.is_power_of_two(), "slots are found by a mask");
        self.by_name = vec![0; grown];
        for id in 1..=self.len() {
            let name = Arc::clone(&self.entries[id as usize - 1].name);
            let slot = self.slot(&name);
            debug_assert!(self.by_name[slot] == 0, "names are told apart");
            self.by_name[slot] = id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index made before its log was damaged knows offsets that the log does not: they must not stop a server that
    /// lets the segment go.
    #[test]
    fn no_offset_expires_before_it_was_given() {
        let mut topics = Topics::new();
        let id = topics.add("t".into()).unwrap();
        topics.partition_mut(id, Partition(0)).unwrap().next = Offset(5);
        for (end, start) in [(3, 3), (2, 3), (9, 5)] {
            topics.expired(id, Partition(0), Offset(end));
            assert_eq!(topics.partition(id, Partition(0)).unwrap().start, Offset(start));
        }
    }
}

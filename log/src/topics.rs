//! The topic dictionary of one log, with the next offset of every topic and partition.
//!
//! Sized for a million topics: a topic that uses one partition costs one entry of 48 bytes, its name, and 10 to 20 bytes
//! in the table of names, which keeps their hashes: growing must not look at every name, since publishes wait. Ids are dense from 1, so that a checkpoint can walk them in pieces.
//!
//! A deleted topic keeps its id and its offsets, which go on when it begins again: nothing that a client has kept, of a
//! partition and an offset, ever means another event. Only its name is taken out of the table.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use codec::ids::{Offset, Partition, Position, TopicId};
use codec::limits::TOPICS_MAX;
use foldhash::quality::RandomState;
use hashbrown::HashTable;

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

/// A topic in the table of names.
#[derive(Clone, Copy, Debug)]
struct Listed {
    /// Half of the hash of its name.
    hash: u32,
    id: TopicId,
}

/// A hash as the table wants it: it looks at both ends.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

fn is_called(entries: &[TopicEntry], id: TopicId, name: &str) -> bool {
    entries.get(id.0 as usize - 1).is_some_and(|entry| &*entry.name == name)
}

/// What a name takes beside its bytes: two counts of who refers to it.
const NAME_BYTES: usize = 16;

/// All topics of a log.
#[derive(Debug)]
pub(crate) struct Topics {
    entries: Vec<TopicEntry>,
    by_name: HashTable<Listed>,
    hasher: RandomState,
    name_bytes: usize,
    /// What states beyond a topic's first take.
    rest_bytes: usize,
    /// Topics that were deleted and have not begun again. Their names are not in `by_name`.
    deleted: BTreeMap<Arc<str>, TopicId>,
    /// The end of the log when a topic was last deleted: only before it may there be events of deleted topics.
    deleted_end: Position,
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
            by_name: HashTable::new(),
            hasher: RandomState::default(),
            name_bytes: 0,
            rest_bytes: 0,
            deleted: BTreeMap::new(),
            deleted_end: Position(0),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    pub(crate) fn id(&self, name: &str) -> Option<TopicId> {
        let hash = spread(self.hash(name));
        let found = self.by_name.find(hash, |listed| is_called(&self.entries, listed.id, name));
        found.map(|listed| listed.id)
    }

    pub(crate) fn name(&self, id: TopicId) -> Option<&Arc<str>> {
        Some(&self.entries.get(id.0.checked_sub(1)? as usize)?.name)
    }

    /// The id of a topic that was deleted and has not begun again.
    pub(crate) fn deleted_id(&self, name: &str) -> Option<TopicId> {
        self.deleted.get(name).copied()
    }

    /// The id of a topic, deleted or not.
    pub(crate) fn known_id(&self, name: &str) -> Option<TopicId> {
        self.id(name).or_else(|| self.deleted_id(name))
    }

    pub(crate) fn is_deleted(&self, id: TopicId) -> bool {
        self.name(id).is_some_and(|name| self.deleted.contains_key(name))
    }

    /// How many topics are deleted.
    pub(crate) fn deleted_len(&self) -> u32 {
        self.deleted.len() as u32
    }

    /// See the field.
    pub(crate) fn deleted_end(&self) -> Position {
        self.deleted_end
    }

    /// Events of deleted topics may stand before `end`.
    pub(crate) fn deleted_before(&mut self, end: Position) {
        self.deleted_end = self.deleted_end.max(end);
    }

    /// Takes a topic's name out of the table. Its events must have expired.
    pub(crate) fn delete(&mut self, id: TopicId) {
        let Some(name) = self.name(id).cloned() else { return };
        if self.deleted.contains_key(&name) {
            return;
        }
        assert!(
            self.partitions(id).all(|(_, state)| state.start == state.next),
            "nothing of a deleted topic is kept"
        );
        self.unlist(&name);
        self.deleted.insert(name, id);
    }

    /// A deleted topic begins again, where its offsets ended.
    pub(crate) fn revive(&mut self, id: TopicId) {
        let Some(name) = self.name(id).cloned() else { return };
        if self.deleted.remove(&name).is_none() {
            return;
        }
        self.list(&name, id);
    }

    /// What a record of a deletion says: of these partitions everything before these ends is gone. One that has gone on
    /// since has begun again.
    pub(crate) fn deletion_found(&mut self, id: TopicId, ends: &[(Partition, Offset)]) {
        for (partition, end) in ends {
            if let Some(state) = self.partition_mut(id, *partition) {
                state.next = state.next.max(*end);
                state.start = state.start.max(*end);
            }
        }
        let end_of = |partition| ends.iter().find(|(of, _)| *of == partition).map(|(_, end)| *end);
        let has_gone_on =
            self.partitions(id).any(|(of, state)| state.next > end_of(of).unwrap_or_default());
        if !has_gone_on {
            self.delete(id);
        }
    }

    /// Adds a topic that is not there; `None` when the log holds as many as it may.
    pub(crate) fn add(&mut self, name: Arc<str>) -> Option<TopicId> {
        if self.len() >= TOPICS_MAX {
            return None;
        }
        assert!(!self.deleted.contains_key(&name), "a deleted topic is revived");
        let id = TopicId(self.len() + 1);
        self.list(&name, id);
        self.name_bytes += name.len() + NAME_BYTES;
        self.entries.push(TopicEntry { name, first: None, rest: None });
        Some(id)
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
        let before = rest.capacity();
        let at = match rest.binary_search_by_key(&partition, |state| state.partition) {
            Ok(at) => at,
            Err(at) => {
                assert!(first.partition != partition, "a partition stands once in a topic");
                rest.insert(at, fresh);
                at
            }
        };
        assert!(before <= rest.capacity(), "nothing shrinks");
        self.rest_bytes += (rest.capacity() - before) * size_of::<PartitionState>();
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
        let deleted = self.deleted.len() * size_of::<(Arc<str>, TopicId)>();
        self.entries.capacity() * size_of::<TopicEntry>()
            + self.by_name.allocation_size()
            + self.name_bytes
            + self.rest_bytes
            + deleted
    }

    /// The same with one topic more, should the tables have to grow for it.
    pub(crate) fn memory_bytes_with(&self, name: &str) -> usize {
        let is_full = self.entries.len() == self.entries.capacity();
        let entries =
            if is_full { self.entries.capacity().max(4) * size_of::<TopicEntry>() } else { 0 };
        let is_crowded = self.by_name.len() == self.by_name.capacity();
        let slots = if is_crowded { self.by_name.allocation_size().max(64) } else { 0 };
        self.memory_bytes() + entries + slots + name.len() + NAME_BYTES
    }

    fn hash(&self, name: &str) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    /// Puts a topic that is not there into the table of names.
    fn list(&mut self, name: &str, id: TopicId) {
        assert_eq!(self.id(name), None, "a topic is in the table once");
        let hash = self.hash(name);
        self.by_name.insert_unique(spread(hash), Listed { hash, id }, |it| spread(it.hash));
        assert!(self.by_name.len() <= self.entries.len() + 1, "each name is of one topic");
    }

    /// Takes a topic's name out of the table.
    fn unlist(&mut self, name: &str) {
        let hash = spread(self.hash(name));
        let found =
            self.by_name.find_entry(hash, |listed| is_called(&self.entries, listed.id, name));
        match found {
            Ok(entry) => drop(entry.remove()),
            Err(_) => unreachable!("only what is in the table is taken out"),
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

    /// A table that loses a name with another one's deletion would begin that topic a second time, under another id.
    #[test]
    fn names_are_found_whatever_was_deleted() {
        let mut topics = Topics::new();
        let name = |number: u32| -> Arc<str> { format!("topic/{number}").into() };
        let mut deleted = std::collections::BTreeSet::new();
        for number in 0..2_000 {
            let id = topics.add(name(number)).unwrap();
            topics.partition_mut(id, Partition(3)).unwrap().next = Offset(4);
            let other = number * 7 % (number + 1);
            let of = TopicId(other + 1);
            if number % 3 == 0 && deleted.remove(&other) {
                topics.revive(of);
            } else if number % 3 != 0 && deleted.insert(other) {
                topics.expired(of, Partition(3), Offset(4));
                topics.delete(of);
            }
            assert_eq!(topics.is_deleted(of), deleted.contains(&other));
        }
        assert!(deleted.len() > 100 && topics.deleted_len() as usize == deleted.len());
        for number in 0..2_000 {
            let id = Some(TopicId(number + 1));
            let expected = if deleted.contains(&number) { (None, id) } else { (id, None) };
            assert_eq!((topics.id(&name(number)), topics.deleted_id(&name(number))), expected);
            assert_eq!(topics.known_id(&name(number)), id);
        }
    }

    /// A replay from an older place must not delete a topic that has begun again since, and must delete one that has not.
    #[test]
    fn a_deletion_that_is_found_again_ends_what_was_there_then() {
        let mut topics = Topics::new();
        let id = topics.add("t".into()).unwrap();
        let of = Partition(2);
        topics.partition_mut(id, of).unwrap().next = Offset(9);
        topics.deletion_found(id, &[(of, Offset(5))]);
        assert_eq!((topics.is_deleted(id), topics.partition(id, of).unwrap().start.0), (false, 5));
        topics.deletion_found(id, &[(of, Offset(9))]);
        assert_eq!((topics.is_deleted(id), topics.partition(id, of).unwrap().start.0), (true, 9));
        topics.revive(id);
        topics.partition_mut(id, Partition(3)).unwrap().next = Offset(1);
        topics.expired(id, Partition(3), Offset(1));
        topics.deletion_found(id, &[(of, Offset(9))]);
        assert!(!topics.is_deleted(id), "another partition has gone on, and expired");
    }
}

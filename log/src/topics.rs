//! The topic dictionary of one log, with the next offset of every topic and partition.
//!
//! Sized for a million topics: a topic that uses one partition costs one entry of 64 bytes, its name, and 10 to 20 bytes
//! in the table of names, which keeps their hashes: growing must not look at every name, since publishes wait. Ids are dense from 1, so that a checkpoint can walk them in pieces.
//!
//! With very many topics each place in memory that a publish looks at is one that no cache holds. So an entry is one cache
//! line, a partition beyond the first is found in its list without looking through that, and who knows a topic's id is
//! spared the table of names ([`Topics::id_near`]).
//!
//! A deleted topic keeps its id and its offsets, which go on when it begins again: nothing that a client has kept, of a
//! partition and an offset, ever means another event. Only its name is taken out of the table.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use codec::ids::{Offset, Partition, Position, TopicId};
use codec::limits::{PARTITIONS, TOPICS_MAX};
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use thin_vec::ThinVec;

const _: () =
    assert!(PARTITIONS as u32 <= u64::BITS, "a topic's used partitions are bits of a word");
const _: () = assert!(size_of::<TopicEntry>() == 64, "one cache line");

/// What a log knows of one topic and partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartitionState {
    /// Offset of the next event.
    pub(crate) next: Offset,
    /// The first offset that is still kept.
    pub(crate) start: Offset,
    /// Number of the newest index entry (see `active_index`), 0 if none.
    pub(crate) last_run: u64,
}

/// One cache line.
#[derive(Debug)]
#[repr(align(64))]
struct TopicEntry {
    name: Arc<str>,
    /// The partitions that have been used, a bit each.
    used: u64,
    /// Of the partition that was used first.
    first: PartitionState,
    /// Of the others, in their order.
    rest: ThinVec<PartitionState>,
    /// The partition of `first`; means nothing while none is used.
    first_partition: u8,
    is_deleted: bool,
}

/// Where the state of a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    First,
    /// Index in the list of the others.
    Rest(usize),
}

impl TopicEntry {
    fn new(name: Arc<str>) -> Self {
        let first = PartitionState::default();
        let rest = ThinVec::new();
        TopicEntry { name, used: 0, first, rest, first_partition: 0, is_deleted: false }
    }

    fn uses(&self, partition: Partition) -> bool {
        partition.0 < PARTITIONS && self.used >> partition.0 & 1 == 1
    }

    /// The used partitions without the first.
    fn others(&self) -> u64 {
        self.used & !(1 << self.first_partition)
    }

    /// Where a partition's state stands, or would.
    fn slot(&self, partition: Partition) -> Slot {
        assert!(partition.0 < PARTITIONS, "there are no others");
        if self.used == 0 || u16::from(self.first_partition) == partition.0 {
            return Slot::First;
        }
        let before = (1 << partition.0) - 1;
        Slot::Rest((self.others() & before).count_ones() as usize)
    }

    fn rest_bytes(&self) -> usize {
        let header = 2 * size_of::<usize>();
        let capacity = self.rest.capacity();
        if capacity == 0 { 0 } else { header + capacity * size_of::<PartitionState>() }
    }
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

    /// The id of a topic that was `guess` when it was last looked for: where that still holds, its entry is all that is
    /// looked at.
    pub(crate) fn id_near(&self, guess: TopicId, name: &Arc<str>) -> Option<TopicId> {
        let holds = self.entry(guess).is_some_and(|entry| {
            !entry.is_deleted && (Arc::ptr_eq(&entry.name, name) || entry.name == *name)
        });
        if holds { Some(guess) } else { self.id(name) }
    }

    pub(crate) fn name(&self, id: TopicId) -> Option<&Arc<str>> {
        Some(&self.entry(id)?.name)
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
        self.entry(id).is_some_and(|entry| entry.is_deleted)
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
        self.set_deleted(id, true);
    }

    /// A deleted topic begins again, where its offsets ended.
    pub(crate) fn revive(&mut self, id: TopicId) {
        let Some(name) = self.name(id).cloned() else { return };
        if self.deleted.remove(&name).is_none() {
            return;
        }
        self.list(&name, id);
        self.set_deleted(id, false);
    }

    fn set_deleted(&mut self, id: TopicId, is_deleted: bool) {
        let entry = self.entry_mut(id).expect("it was looked at just now");
        assert!(entry.is_deleted != is_deleted, "a topic is deleted once, and revived once");
        entry.is_deleted = is_deleted;
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
        self.entries.push(TopicEntry::new(name));
        Some(id)
    }

    fn entry(&self, id: TopicId) -> Option<&TopicEntry> {
        self.entries.get(id.0.checked_sub(1)? as usize)
    }

    fn entry_mut(&mut self, id: TopicId) -> Option<&mut TopicEntry> {
        self.entries.get_mut(id.0.checked_sub(1)? as usize)
    }

    pub(crate) fn partition(&self, id: TopicId, partition: Partition) -> Option<&PartitionState> {
        let entry = self.entry(id).filter(|entry| entry.uses(partition))?;
        match entry.slot(partition) {
            Slot::First => Some(&entry.first),
            Slot::Rest(at) => entry.rest.get(at),
        }
    }

    /// The state of a topic and partition, made if it is new. `None` if there is no such topic, or no such partition.
    pub(crate) fn partition_mut(
        &mut self,
        id: TopicId,
        partition: Partition,
    ) -> Option<&mut PartitionState> {
        if partition.0 >= PARTITIONS {
            return None;
        }
        let entry = self.entries.get_mut(id.0.checked_sub(1)? as usize)?;
        let slot = entry.slot(partition);
        if !entry.uses(partition) {
            match slot {
                Slot::First => entry.first_partition = partition.0 as u8,
                Slot::Rest(at) => {
                    let before = entry.rest_bytes();
                    entry.rest.insert(at, PartitionState::default());
                    self.rest_bytes += entry.rest_bytes() - before;
                }
            }
            entry.used |= 1 << partition.0;
        }
        match slot {
            Slot::First => Some(&mut entry.first),
            Slot::Rest(at) => entry.rest.get_mut(at),
        }
    }

    /// Events of a topic and partition before `end` are gone.
    ///
    /// `end` comes from an index, which may know more than a log that was damaged behind it.
    pub(crate) fn expired(&mut self, id: TopicId, partition: Partition, end: Offset) {
        let Some(state) = self.partition_mut(id, partition) else { return };
        state.start = state.start.max(end.min(state.next));
        assert!(state.start <= state.next, "only what was appended expires");
    }

    /// All partitions of a topic that have been used: the first that was, then the others in their order. Checkpoints keep
    /// it.
    pub(crate) fn partitions(
        &self,
        id: TopicId,
    ) -> impl Iterator<Item = (Partition, PartitionState)> + '_ {
        let entry = self.entry(id);
        let first = entry.filter(|entry| entry.used != 0);
        let first = first.map(|entry| (Partition(entry.first_partition.into()), entry.first));
        let mut left = entry.map_or(0, TopicEntry::others);
        let numbers = std::iter::from_fn(move || {
            let number = left.trailing_zeros() as u16;
            let has = left != 0;
            left &= left.wrapping_sub(1);
            has.then_some(Partition(number))
        });
        let rest = entry.into_iter().flat_map(|entry| entry.rest.iter().copied());
        first.into_iter().chain(numbers.zip(rest))
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

    /// Whatever order partitions are used in, each keeps its own state, and what they take is counted.
    #[test]
    fn each_partition_has_its_state() {
        let mut topics = Topics::new();
        let id = topics.add("t".into()).unwrap();
        let other = topics.add("u".into()).unwrap();
        let empty = topics.memory_bytes();
        let order: Vec<u16> = (0..PARTITIONS).map(|it| (it * 37 + 5) % PARTITIONS).collect();
        for (count, number) in order.iter().enumerate() {
            let of = Partition(*number);
            assert_eq!(topics.partition(id, of), None);
            topics.partition_mut(id, of).unwrap().next = Offset(u64::from(*number) + 100);
            for known in &order {
                let expected = order[..=count].contains(known).then_some(u64::from(*known) + 100);
                let next = topics.partition(id, Partition(*known)).map(|state| state.next.0);
                assert_eq!(next, expected, "{known} of {:?}", &order[..=count]);
            }
            let numbers: Vec<u16> = topics.partitions(id).map(|(of, _)| of.0).collect();
            assert_eq!((numbers[0], numbers.len()), (order[0], count + 1));
            assert!(numbers[1..].is_sorted(), "{numbers:?}");
        }
        assert!(topics.memory_bytes() >= empty + 63 * size_of::<PartitionState>());
        assert_eq!(topics.partitions(other).count(), 0);
        assert_eq!(topics.partition_mut(id, Partition(PARTITIONS)), None);
        assert_eq!(topics.partition(id, Partition(u16::MAX)), None);
    }

    /// A topic that was deleted, or stands elsewhere in another log, must not be taken for the one that was found before.
    #[test]
    fn a_guess_is_checked() {
        let mut topics = Topics::new();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let id = topics.add(Arc::clone(&a)).unwrap();
        let id_b = topics.add(Arc::clone(&b)).unwrap();
        for guess in [TopicId(0), id, id_b, TopicId(3), TopicId(u32::MAX)] {
            assert_eq!(topics.id_near(guess, &a), Some(id));
            assert_eq!(topics.id_near(guess, &"a".into()), Some(id), "the same name elsewhere");
            assert_eq!(topics.id_near(guess, &"c".into()), None);
        }
        topics.delete(id);
        assert_eq!((topics.id_near(id, &a), topics.id_near(id, &b)), (None, Some(id_b)));
        topics.revive(id);
        assert_eq!(topics.id_near(id, &a), Some(id));
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

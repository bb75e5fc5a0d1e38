//! A hash map whose copies share structure: copying the map is one reference count, changing one entry copies its path.
//!
//! ```text
//!   Empty | Leaf [entry, entry, ...]                       up to LEAF_ENTRIES_MAX entries, one allocation
//!         | Branch [slot 0 | slot 1 | ... | slot 15]       4 bits of the hash choose the slot, lowest bits first
//! ```
//!
//! A plain hash map in each node of a persistent trie would be copied whole by every edit: 100,000 children are some
//! milliseconds. Here an edit copies one leaf and log16(n) branches. Most nodes of a trie have one child or a few: they
//! are a single leaf, exactly as long as they need. 16 ways, not 32 or 64, because copying a branch touches the
//! reference count of each child, and those are the cache misses an edit pays for.
//!
//! Levels of filters come from outside, so the hash is SipHash: equal prefixes of hashes cannot be had cheaply. With
//! all 64 bits used up a leaf may grow without limit; that takes full collisions. The key of the hash is fixed, so that
//! the same edits give the same map in every run.

use std::borrow::Borrow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Bits of the hash that one branch consumes.
const BRANCH_BITS: u32 = 4;
/// Slots of a branch.
const BRANCH_SLOTS: usize = 1 << BRANCH_BITS;
/// Most entries of a leaf, unless the hash has no bits left. Found by hash one after the other, so it stays small.
const LEAF_ENTRIES_MAX: usize = 8;

const _: () = assert!(u64::BITS.is_multiple_of(BRANCH_BITS), "the last branch has a whole digit");

/// The hash that every map here expects for `key`. Taken apart from the look-up, so that one topic level is hashed once
/// for all the nodes it is looked up in.
pub(crate) fn hash_of<Q: Hash + ?Sized>(key: &Q) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PersistentMap<K, V>(Slot<K, V>);

#[derive(Debug)]
enum Slot<K, V> {
    Empty,
    Leaf { tags: Tags, entries: Arc<[Entry<K, V>]> },
    Branch(Arc<[Slot<K, V>; BRANCH_SLOTS]>),
}

/// Which tags the entries of a leaf have, one bit each. It lies beside the pointer, so a look-up of what is not there
/// mostly ends before it follows that pointer: the last cache miss of a search in a large map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tags(u32);

#[derive(Clone, Debug)]
struct Entry<K, V> {
    hash: u64,
    key: K,
    value: V,
}

impl<K: Clone, V: Clone> PersistentMap<K, V> {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.0, Slot::Empty)
    }

    /// The value of `key`, whose [`hash_of`] is `hash`.
    pub(crate) fn get<Q>(&self, hash: u64, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut slot = &self.0;
        let mut digits = hash;
        loop {
            match slot {
                Slot::Empty => return None,
                Slot::Leaf { tags, .. } if !tags.may_hold(hash) => return None,
                Slot::Leaf { entries, .. } => {
                    let entry = entries.iter().find(|entry| entry.is(hash, key))?;
                    return Some(&entry.value);
                }
                Slot::Branch(slots) => {
                    slot = &slots[digit(digits)];
                    digits >>= BRANCH_BITS;
                }
            }
        }
    }

    /// The value of `key`, to be changed in this copy of the map alone. When the key is missing `absent` makes its
    /// entry.
    pub(crate) fn get_or_insert_with<Q>(
        &mut self,
        hash: u64,
        key: &Q,
        absent: impl FnOnce() -> (K, V),
    ) -> &mut V
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        if self.get(hash, key).is_none() {
            let (key, value) = absent();
            self.0.insert(Entry { hash, key, value }, 0);
        }
        self.get_mut(hash, key).expect("the key was there or was just inserted")
    }

    /// Adds an entry whose key is not there yet.
    pub(crate) fn insert_new(&mut self, hash: u64, key: K, value: V)
    where
        K: Eq,
    {
        assert!(self.get(hash, &key).is_none(), "the key is new");
        self.0.insert(Entry { hash, key, value }, 0);
    }

    /// The value of `key`, to be changed in this copy of the map alone. Copies the path to it, unless no other copy of
    /// the map shares it.
    pub(crate) fn get_mut<Q>(&mut self, hash: u64, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut slot = &mut self.0;
        let mut digits = hash;
        loop {
            match slot {
                Slot::Empty => return None,
                Slot::Leaf { entries, .. } => {
                    let at = entries.iter().position(|entry| entry.is(hash, key))?;
                    return Some(&mut Arc::make_mut(entries)[at].value);
                }
                Slot::Branch(slots) => {
                    slot = &mut Arc::make_mut(slots)[digit(digits)];
                    digits >>= BRANCH_BITS;
                }
            }
        }
    }

    /// Takes the entry of `key` out of this copy of the map. What it leaves empty is pruned.
    pub(crate) fn remove<Q>(&mut self, hash: u64, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        // Looked up first: a miss must not copy the path.
        let value = self.get(hash, key)?.clone();
        self.0.remove(hash, hash, key);
        Some(value)
    }

    /// Calls `visit` for each entry, in the order of the hashes.
    pub(crate) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a K, &'a V)) {
        self.0.for_each(visit);
    }
}

impl<K, V> Slot<K, V> {
    fn leaf(entries: Arc<[Entry<K, V>]>) -> Slot<K, V> {
        let tags = entries.iter().fold(0, |tags, entry| tags | Tags::of(entry.hash).0);
        Slot::Leaf { tags: Tags(tags), entries }
    }
}

impl Tags {
    /// The tag of one hash: its highest five bits, which a branch reads last.
    fn of(hash: u64) -> Tags {
        Tags(1 << (hash >> 59))
    }

    /// Whether an entry of this hash may be there.
    fn may_hold(self, hash: u64) -> bool {
        self.0 & Tags::of(hash).0 != 0
    }
}

impl<K: Clone, V: Clone> Slot<K, V> {
    /// Adds an entry whose key is not there; `depth` branches stand above this slot.
    fn insert(&mut self, entry: Entry<K, V>, depth: u32) {
        match self {
            Slot::Empty => *self = Slot::leaf(Arc::new([entry])),
            Slot::Branch(slots) => {
                let slot = &mut Arc::make_mut(slots)[digit_at(entry.hash, depth)];
                slot.insert(entry, depth + 1);
            }
            Slot::Leaf { entries, .. } => {
                let has_digits = depth * BRANCH_BITS < u64::BITS;
                if entries.len() < LEAF_ENTRIES_MAX || !has_digits {
                    *self = Slot::leaf(entries.iter().cloned().chain([entry]).collect());
                    return;
                }
                let mut slots = [const { Slot::Empty }; BRANCH_SLOTS];
                for entry in entries.iter().cloned().chain([entry]) {
                    slots[digit_at(entry.hash, depth)].insert(entry, depth + 1);
                }
                *self = Slot::Branch(Arc::new(slots));
            }
        }
    }

    /// Removes the entry of `key`, which is there. `digits` is what is left of `hash` at this depth.
    fn remove<Q>(&mut self, hash: u64, digits: u64, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        match self {
            Slot::Empty => {}
            Slot::Leaf { entries, .. } if entries.len() == 1 => *self = Slot::Empty,
            Slot::Leaf { entries, .. } => {
                let left = entries.iter().filter(|entry| !entry.is(hash, key));
                *self = Slot::leaf(left.cloned().collect());
            }
            Slot::Branch(slots) => {
                let slots = Arc::make_mut(slots);
                slots[digit(digits)].remove(hash, digits >> BRANCH_BITS, key);
                let left = slots.iter().filter(|slot| !matches!(slot, Slot::Empty)).count();
                if left > 1 {
                    return;
                }
                // A branch below that is left alone stays: lifting it would change which digit it reads.
                match slots.iter().find(|slot| !matches!(slot, Slot::Empty)).cloned() {
                    None => *self = Slot::Empty,
                    Some(leaf @ Slot::Leaf { .. }) => *self = leaf,
                    Some(_) => {}
                }
            }
        }
    }

    fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a K, &'a V)) {
        match self {
            Slot::Empty => {}
            Slot::Leaf { entries, .. } => {
                entries.iter().for_each(|entry| visit(&entry.key, &entry.value));
            }
            Slot::Branch(slots) => slots.iter().for_each(|slot| slot.for_each(visit)),
        }
    }
}

impl<K, V> Entry<K, V> {
    fn is<Q>(&self, hash: u64, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.hash == hash && self.key.borrow() == key
    }
}

/// The lowest digit of a hash.
fn digit(digits: u64) -> usize {
    digits as usize % BRANCH_SLOTS
}

/// The digit of `hash` that a branch below `depth` others reads.
fn digit_at(hash: u64, depth: u32) -> usize {
    digit(hash >> (depth * BRANCH_BITS))
}

// By hand: a derived `Clone` would ask for `K: Clone`, and a derived `Default` for `K: Default`, for no reason.
impl<K, V> Clone for PersistentMap<K, V> {
    fn clone(&self) -> Self {
        PersistentMap(self.0.clone())
    }
}

impl<K, V> Default for PersistentMap<K, V> {
    fn default() -> Self {
        PersistentMap(Slot::Empty)
    }
}

impl<K, V> Clone for Slot<K, V> {
    fn clone(&self) -> Self {
        match self {
            Slot::Empty => Slot::Empty,
            Slot::Leaf { tags, entries } => Slot::Leaf { tags: *tags, entries: entries.clone() },
            Slot::Branch(slots) => Slot::Branch(slots.clone()),
        }
    }
}

#[cfg(test)]
mod tests;

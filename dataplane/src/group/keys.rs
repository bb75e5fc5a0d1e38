//! Which keys are bound to a member, and which wait: what keeps the events of one key in order.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use codec::crc32c::crc32c;
use codec::ids::Position;
use codec::murmur2::murmur2;

use crate::mail::MemberId;

/// A hash of a partition key. Two keys with one hash are ordered as one key, which is harmless.
pub type KeyHash = u64;

/// The hash of a partition key.
#[must_use]
pub fn key_hash(key: &str) -> KeyHash {
    u64::from(murmur2(key.as_bytes())) << 32 | u64::from(crc32c(key.as_bytes()))
}

/// Parts into which members may divide the keys of their group.
pub const KEY_PARTS: usize = 1_024;
const PART_WORDS: usize = KEY_PARTS / 64;

/// The keys that a member takes, where the members of a group have divided them among themselves. Shared, as each of a
/// client's members has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyShare(Arc<[u64; PART_WORDS]>);

impl KeyShare {
    /// The share of whoever has the parts that `is_own` accepts.
    #[must_use]
    pub fn new(is_own: impl Fn(usize) -> bool) -> KeyShare {
        let mut words = [0; PART_WORDS];
        for part in (0..KEY_PARTS).filter(|part| is_own(*part)) {
            words[part / 64] |= 1 << (part % 64);
        }
        KeyShare(Arc::new(words))
    }

    /// Whether a key is in it.
    #[must_use]
    pub fn has(&self, key: KeyHash) -> bool {
        let part = (key % KEY_PARTS as u64) as usize;
        self.0[part / 64] & 1 << (part % 64) != 0
    }
}

/// The keys are hashes already.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only KeyHash is hashed here")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A map by key.
pub type KeyMap<T> = HashMap<KeyHash, T, BuildHasherDefault<KeyHasher>>;
/// A set of keys.
pub type KeySet = HashSet<KeyHash, BuildHasherDefault<KeyHasher>>;

/// Keys that may not be sent in this pass over what is idle, each from an event's place in its line on.
pub type Blocked = KeyMap<Position>;

/// Nothing of `key` that stands behind `place` may be sent in this pass.
pub fn block(blocked: &mut Blocked, key: KeyHash, place: Position) {
    let first = blocked.entry(key).or_insert(place);
    *first = place.min(*first);
}

/// What stands for the key of a parked event that has none: nothing else waits for it.
#[must_use]
pub fn own_key(place: Position) -> KeyHash {
    place.0 | 1 << 63
}

/// The keys of one group in one log.
///
/// The events of a key stand in line by their *places*: the positions at which they were appended first. A parked event
/// keeps its place, so whatever came behind it waits for it, wherever its copy stands.
#[derive(Debug, Default)]
pub struct Keys {
    /// Keys with tracked events in flight: to whom, and how many.
    bound: KeyMap<(MemberId, u32)>,
    /// Keys with idle events: how many.
    waiting: KeyMap<u32>,
    /// Keys of parked events, also of those on their way there: the places of these.
    parked: KeyMap<BTreeSet<Position>>,
    parked_events: usize,
}

impl Keys {
    /// The member that has events of `key` in flight.
    #[must_use]
    pub fn bound_to(&self, key: KeyHash) -> Option<MemberId> {
        self.bound.get(&key).map(|(member, _)| *member)
    }

    /// Whether an event of `key` waits, so that later ones must wait too.
    #[must_use]
    pub fn is_waiting(&self, key: KeyHash) -> bool {
        self.waiting.contains_key(&key)
    }

    /// Whether an event of `key` that stands before `place` is parked.
    #[must_use]
    pub fn is_behind_parked(&self, key: KeyHash, place: Position) -> bool {
        let first = self.parked.get(&key).and_then(BTreeSet::first);
        first.is_some_and(|first| *first < place)
    }

    /// Whether an event of `key` may not be sent in this pass.
    #[must_use]
    pub fn is_blocked(&self, blocked: &Blocked, key: KeyHash, place: Position) -> bool {
        blocked.get(&key).is_some_and(|from| *from < place) || self.is_behind_parked(key, place)
    }

    /// Keys with parked events.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Parked events.
    #[must_use]
    pub fn parked_events(&self) -> usize {
        self.parked_events
    }

    /// Whether an event of `key` is parked.
    #[must_use]
    pub fn is_parked(&self, key: KeyHash) -> bool {
        self.parked.contains_key(&key)
    }

    /// Whether the event of `key` at `place` is parked.
    #[must_use]
    pub fn is_parked_at(&self, key: KeyHash, place: Position) -> bool {
        self.parked.get(&key).is_some_and(|places| places.contains(&place))
    }

    /// An event of `key` is parked, or was before and is again.
    pub fn park(&mut self, key: KeyHash, place: Position) {
        if self.parked.entry(key).or_default().insert(place) {
            self.parked_events += 1;
        }
        assert!(self.parked.len() <= self.parked_events, "a key is parked by an event of it");
    }

    /// A parked event is not owed any more. After a kill it may stand there twice.
    pub fn unpark(&mut self, key: KeyHash, place: Position) {
        let Some(places) = self.parked.get_mut(&key) else { return };
        if places.remove(&place) {
            assert!(self.parked_events > 0, "parked events are counted");
            self.parked_events -= 1;
        }
        if places.is_empty() {
            self.parked.remove(&key);
        }
    }

    /// Keys that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Keys with tracked events in flight.
    #[must_use]
    pub fn bound(&self) -> usize {
        self.bound.len()
    }

    /// An event of `key` is in flight to `member`.
    pub fn sent(&mut self, key: KeyHash, member: MemberId) {
        let (bound, count) = self.bound.entry(key).or_insert((member, 0));
        assert!(*bound == member, "a key is in flight to one member at a time");
        *count += 1;
    }

    /// An event of `key` is no longer in flight.
    pub fn returned(&mut self, key: KeyHash) {
        let (_, count) = self.bound.get_mut(&key).expect("what was sent is bound");
        assert!(*count > 0, "a bound key has events in flight");
        *count -= 1;
        if *count == 0 {
            self.bound.remove(&key);
        }
    }

    /// An event of `key` waits.
    pub fn wait(&mut self, key: KeyHash) {
        *self.waiting.entry(key).or_insert(0) += 1;
    }

    /// An event of `key` waits no longer.
    pub fn wait_over(&mut self, key: KeyHash) {
        let count = self.waiting.get_mut(&key).expect("what waits is counted");
        assert!(*count > 0, "a key waits for as long as an event of it does");
        *count -= 1;
        if *count == 0 {
            self.waiting.remove(&key);
        }
    }
}

//! What matched a topic, remembered by the topic's id and the snapshot's version. One for each log of a shard, because
//! topic ids are the log's own.
//!
//! Direct-mapped: ids are dense, so the id itself is the place, and a collision beyond the limit simply replaces. An
//! entry of another version is matched again when it is next asked for; a new snapshot itself costs nothing.

use codec::ids::TopicId;

use crate::snapshot::RoutingSnapshot;
use crate::subscription::{GroupId, SubscriptionId};
use crate::topic::TopicName;

/// Most topics one cache remembers. With no matches that is 2.5 MiB.
pub const CACHED_TOPICS_MAX: usize = 65_536;
/// Most matches one cache remembers over all its topics, 16 bytes each: 16 MiB. One topic alone may exceed it.
pub const CACHED_MATCHES_MAX: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct MatchCache {
    entries: Vec<Entry>,
    topics_max: usize,
    matches_max: usize,
    /// Sum of the entries' capacities.
    matches_held: usize,
}

#[derive(Debug, Default)]
struct Entry {
    /// 0 is no topic: the entry is empty.
    topic: TopicId,
    version: u64,
    matches: Vec<(GroupId, SubscriptionId)>,
}

impl MatchCache {
    /// An empty cache with the limits of this module.
    #[must_use]
    pub fn new() -> MatchCache {
        MatchCache::with_limits(CACHED_TOPICS_MAX, CACHED_MATCHES_MAX)
    }

    /// An empty cache of at most `topics_max` topics and `matches_max` matches over all of them.
    #[must_use]
    pub fn with_limits(topics_max: usize, matches_max: usize) -> MatchCache {
        assert!(topics_max > 0, "a cache has room for one topic");
        MatchCache { entries: Vec::new(), topics_max, matches_max, matches_held: 0 }
    }

    /// The subscriptions that match the topic in this snapshot: sorted, each once. `name` gives the name of `topic`; it
    /// is asked for only when the answer is not remembered.
    pub fn get(
        &mut self,
        snapshot: &RoutingSnapshot,
        topic: TopicId,
        name: impl FnOnce() -> TopicName,
    ) -> &[(GroupId, SubscriptionId)] {
        assert!(topic != TopicId(0), "0 is no topic");
        let at = topic.0 as usize % self.topics_max;
        if at >= self.entries.len() {
            self.entries.resize_with(at + 1, Entry::default);
        }
        let entry = &self.entries[at];
        if entry.topic != topic || entry.version != snapshot.version() {
            self.fill(at, snapshot, topic, &name());
        }
        &self.entries[at].matches
    }

    /// Bytes held, apart from the cache itself.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
            + self.matches_held * size_of::<(GroupId, SubscriptionId)>()
    }

    fn fill(&mut self, at: usize, snapshot: &RoutingSnapshot, topic: TopicId, name: &TopicName) {
        let mut matches = std::mem::take(&mut self.entries[at].matches);
        self.matches_held -= matches.capacity();
        snapshot.matches(name, &mut matches);
        if matches.capacity() > 4 * matches.len() {
            matches.shrink_to_fit();
        }
        if self.matches_held + matches.capacity() > self.matches_max {
            self.entries.fill_with(Entry::default);
            self.matches_held = 0;
        }
        self.matches_held += matches.capacity();
        self.entries[at] = Entry { topic, version: snapshot.version(), matches };
    }
}

impl Default for MatchCache {
    fn default() -> MatchCache {
        MatchCache::new()
    }
}

//! The persistent trie of topic filters: one node a level, edited by path copying.
//!
//! A look-up visits, for each level of a topic, the child of that text and the child `+`, and collects `#` on the way.
//! It never touches filters that share no prefix with the topic, so its cost does not follow their number. Filters that
//! differ only in which levels are `+` are all visited: at most two children a node, and never more nodes than there
//! are filters times levels.

use std::sync::Arc;

use codec::limits::TOPIC_LEVELS_MAX;

use crate::persistent_map::{PersistentMap, hash_of};
use crate::subscription::{GroupId, SubscriptionId};
use crate::topic::{ALL_BELOW, ANY_LEVEL, TopicFilter, TopicName};

/// The subscriptions of one filter. A map, not a list: 100,000 clients may ask for the same filter.
type Subscribers = PersistentMap<SubscriptionId, GroupId>;

/// A node of the trie: what the filters that share a prefix do next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    /// Filters that end here.
    ends: Subscribers,
    /// Filters whose next and last level is `#`. They match this node's topic too.
    all_below: Subscribers,
    /// The node after `+`.
    any: Option<Arc<Node>>,
    /// The nodes after a level that is spelled out.
    children: PersistentMap<Arc<str>, Arc<Node>>,
}

/// A topic's level and its hash, made once for all the nodes it is looked up in.
#[derive(Clone, Copy, Default)]
struct Level<'a> {
    hash: u64,
    text: &'a str,
}

impl Node {
    /// Adds a subscription that is not there yet below this root.
    pub(crate) fn insert(&mut self, filter: &TopicFilter, group: GroupId, id: SubscriptionId) {
        let subscribers = self.subscribers_mut(filter);
        subscribers.insert_new(hash_of(&id), id, group);
    }

    /// Removes a subscription below this root, with the nodes that only it kept. Whether it was there.
    pub(crate) fn remove(&mut self, filter: &TopicFilter, id: SubscriptionId) -> bool {
        let mut levels = [""; TOPIC_LEVELS_MAX];
        let mut count = 0;
        for (slot, level) in levels.iter_mut().zip(filter.levels()) {
            *slot = level;
            count += 1;
        }
        self.remove_levels(&levels[..count], id)
    }

    /// Appends every subscription whose filter matches `name`, each once, in no order.
    pub(crate) fn collect(&self, name: &TopicName, out: &mut Vec<(GroupId, SubscriptionId)>) {
        let mut levels = [Level::default(); TOPIC_LEVELS_MAX];
        let mut count = 0;
        for (level, text) in levels.iter_mut().zip(name.levels()) {
            *level = Level { hash: hash_of(text), text };
            count += 1;
        }
        let levels = &levels[..count];
        if !name.is_reserved() {
            self.collect_below(levels, out);
        } else if let Some(child) = self.children.get(levels[0].hash, levels[0].text) {
            // What starts with `$` is matched only by filters that spell their first level out.
            child.collect_below(&levels[1..], out);
        }
    }

    /// Whether no filter passes here.
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
            && self.all_below.is_empty()
            && self.any.is_none()
            && self.children.is_empty()
    }

    fn collect_below(&self, levels: &[Level<'_>], out: &mut Vec<(GroupId, SubscriptionId)>) {
        self.all_below.for_each(&mut |id, group| out.push((*group, *id)));
        let Some((level, below)) = levels.split_first() else {
            self.ends.for_each(&mut |id, group| out.push((*group, *id)));
            return;
        };
        if let Some(any) = &self.any {
            any.collect_below(below, out);
        }
        if let Some(child) = self.children.get(level.hash, level.text) {
            child.collect_below(below, out);
        }
    }

    /// The subscribers of `filter`, with the path to them made or copied.
    fn subscribers_mut(&mut self, filter: &TopicFilter) -> &mut Subscribers {
        let mut node = self;
        for level in filter.levels() {
            node = match level {
                ALL_BELOW => return &mut node.all_below,
                ANY_LEVEL => Arc::make_mut(node.any.get_or_insert_default()),
                text => {
                    let absent = || (Arc::from(text), Arc::default());
                    Arc::make_mut(node.children.get_or_insert_with(hash_of(text), text, absent))
                }
            };
        }
        &mut node.ends
    }

    fn remove_levels(&mut self, levels: &[&str], id: SubscriptionId) -> bool {
        let Some((level, below)) = levels.split_first() else {
            return self.ends.remove(hash_of(&id), &id).is_some();
        };
        match *level {
            ALL_BELOW => self.all_below.remove(hash_of(&id), &id).is_some(),
            ANY_LEVEL => {
                let Some(any) = &mut self.any else { return false };
                let child = Arc::make_mut(any);
                let removed = child.remove_levels(below, id);
                if child.is_empty() {
                    self.any = None;
                }
                removed
            }
            text => {
                let hash = hash_of(text);
                let Some(child) = self.children.get_mut(hash, text) else { return false };
                let child = Arc::make_mut(child);
                let removed = child.remove_levels(below, id);
                if child.is_empty() {
                    self.children.remove(hash, text);
                }
                removed
            }
        }
    }
}

//! The filters of a snapshot, found by a topic's words: a dictionary of words over persistent tries.
//!
//! ```text
//!   fleet/cn/sz/vin-7/telemetry  --words-->  fleet   ... no filter is kept here, `fleet` is in too many
//!                                            cn      -> fleet/cn/#
//!                                            vin-7   -> +/+/+/vin-7/#,  fleet/+/sz/vin-7/telemetry
//!                                            (none)  -> #               only wildcards: always looked at
//! ```
//!
//! A trie alone, one node a level with a child a text and a child `+`, visits up to two children of each node: with
//! wildcards at every level that is a node for each way to put them, in each of them a search that fails, and with
//! 100,000 filters these are cache misses. (Measured: four times the cost of 100 filters.) But a filter can only match
//! a topic that holds each word it spells out. So each filter is kept under one of its words, the rarest at the time it
//! came; a look-up asks the dictionary for the topic's words, once each, and searches only what is kept there: a few
//! filters as a list, more of them as a trie. Filters about other vehicles are never seen.
//!
//! All of it is persistent: an edit copies the paths to the words of its filter and the path in one trie.

use std::sync::Arc;

use codec::limits::TOPIC_LEVELS_MAX;

use crate::persistent_map::{PersistentMap, hash_of};
use crate::subscription::{GroupId, SubscriptionId};
use crate::topic::{ALL_BELOW, ANY_LEVEL, TopicFilter, TopicName};

/// Most filters that are compared one after the other; more are a trie.
const LISTED_FILTERS_MAX: usize = 8;

/// See the module.
///
/// Invariant: a word's `uses` is how often the filters spell it out, and at least one; each filter is kept under one of
/// its words, or in `wild` when it has none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    words: PersistentMap<Arc<str>, Word>,
    /// Numbers given so far; none is used twice.
    words_numbered: u64,
    wild: Node,
}

/// Under which of its words a filter is kept: the level of that word, from 0; none for a filter of wildcards alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptAt(Option<u8>);

/// A text that some filter spells out.
#[derive(Clone, Debug)]
struct Word {
    number: u64,
    uses: usize,
    kept: Kept,
}

/// The filters under one word.
#[derive(Clone, Debug)]
enum Kept {
    Listed(Arc<[Listed]>),
    Trie(Arc<Node>),
}

#[derive(Clone, Debug)]
struct Listed {
    filter: TopicFilter,
    subscribers: Subscribers,
}

/// The subscriptions of one filter. A map, not a list: 100,000 clients may ask for the same filter.
type Subscribers = PersistentMap<SubscriptionId, GroupId>;

/// A node of a trie: what the filters that share a prefix do next.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Filters that end here.
    ends: Subscribers,
    /// Filters whose next and last level is `#`. They match this node's topic too.
    all_below: Subscribers,
    /// The node after `+`.
    any: Option<Arc<Node>>,
    /// The nodes after a level that is spelled out, by the number of its word.
    children: PersistentMap<u64, Arc<Node>>,
}

/// One level of a filter.
#[derive(Clone, Copy, Debug)]
enum Step {
    Word(u64),
    Any,
    AllBelow,
}

/// The levels of a filter in the words of one dictionary.
struct Steps {
    steps: [Step; TOPIC_LEVELS_MAX],
    count: usize,
}

impl Filters {
    /// Adds a subscription that is not there yet. Returns what its removal must be given.
    pub(crate) fn insert(
        &mut self,
        filter: &TopicFilter,
        group: GroupId,
        id: SubscriptionId,
    ) -> KeptAt {
        let mut rarest: Option<(usize, usize, &str)> = None;
        for (level, text) in filter.levels().enumerate().filter(|(_, text)| is_word(text)) {
            let word = self.use_word(text);
            // Of equals the last: names become more particular to the right.
            if rarest.is_none_or(|(uses, ..)| word.uses <= uses) {
                rarest = Some((word.uses, level, text));
            }
        }
        let steps = self.steps(filter);
        let Some((_, level, text)) = rarest else {
            self.wild.insert(&steps, group, id);
            return KeptAt(None);
        };
        if self.word(text).kept.has_no_room_for(filter) {
            let kept = self.as_trie(text);
            self.word_mut(text).kept = kept;
        }
        self.word_mut(text).kept.insert(filter, &steps, group, id);
        KeptAt(Some(level as u8))
    }

    /// Removes a subscription that is there, with the nodes and words that only it kept.
    pub(crate) fn remove(&mut self, filter: &TopicFilter, kept_at: KeptAt, id: SubscriptionId) {
        let steps = self.steps(filter);
        let removed = match kept_at.0 {
            None => self.wild.remove(&steps, id),
            Some(level) => {
                let text = filter.levels().nth(usize::from(level));
                let text = text.expect("a filter is kept at one of its levels");
                self.word_mut(text).kept.remove(filter, &steps, id)
            }
        };
        assert!(removed, "a subscription is kept where its insertion said");
        for text in filter.levels().filter(is_word) {
            let word = self.word_mut(text);
            word.uses -= 1;
            if word.uses == 0 {
                assert!(word.kept.is_empty(), "what is kept under a word uses it");
                self.words.remove(hash_of(text), text);
            }
        }
    }

    /// Appends every subscription whose filter matches `name`, each once, in no order.
    pub(crate) fn collect(&self, name: &TopicName, out: &mut Vec<(GroupId, SubscriptionId)>) {
        let mut numbers = [None; TOPIC_LEVELS_MAX];
        let mut words = [None; TOPIC_LEVELS_MAX];
        let mut count = 0;
        for text in name.levels() {
            let word = self.words.get(hash_of(text), text);
            let number = word.map(|word| word.number);
            // A word that stands twice in the topic is asked once, or its filters would be found twice.
            words[count] = word.filter(|_| !numbers[..count].contains(&number));
            numbers[count] = number;
            count += 1;
        }
        let numbers = &numbers[..count];
        if !name.is_reserved() {
            self.wild.collect(numbers, out);
        }
        for word in words[..count].iter().flatten() {
            match &word.kept {
                Kept::Listed(listed) => {
                    for listed in listed.iter().filter(|listed| listed.filter.matches(name)) {
                        push_all(&listed.subscribers, out);
                    }
                }
                Kept::Trie(root) => root.collect_from_root(name, numbers, out),
            }
        }
    }

    /// Whether nothing at all is held.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.wild.is_empty() && self.words.is_empty()
    }

    fn word(&self, text: &str) -> &Word {
        self.words.get(hash_of(text), text).expect("a filter's text is a word")
    }

    fn word_mut(&mut self, text: &str) -> &mut Word {
        self.words.get_mut(hash_of(text), text).expect("a filter's text is a word")
    }

    /// The word of `text`, used once more.
    fn use_word(&mut self, text: &str) -> &Word {
        let number = self.words_numbered + 1;
        let new = || (Arc::from(text), Word { number, uses: 0, kept: Kept::nothing() });
        let word = self.words.get_or_insert_with(hash_of(text), text, new);
        word.uses += 1;
        self.words_numbered = self.words_numbered.max(word.number);
        word
    }

    /// The levels of a filter all of whose words are known.
    fn steps(&self, filter: &TopicFilter) -> Steps {
        let mut steps = Steps { steps: [Step::Any; TOPIC_LEVELS_MAX], count: 0 };
        for text in filter.levels() {
            steps.steps[steps.count] = match text {
                ALL_BELOW => Step::AllBelow,
                ANY_LEVEL => Step::Any,
                text => Step::Word(self.word(text).number),
            };
            steps.count += 1;
        }
        steps
    }

    /// What is listed under `text`, as a trie.
    fn as_trie(&self, text: &str) -> Kept {
        let mut root = Node::default();
        if let Kept::Listed(listed) = &self.word(text).kept {
            for listed in listed.iter() {
                let subscribers = root.subscribers_mut(&self.steps(&listed.filter));
                *subscribers = listed.subscribers.clone();
            }
        }
        Kept::Trie(Arc::new(root))
    }
}

impl Kept {
    fn nothing() -> Kept {
        Kept::Listed(Arc::default())
    }

    fn is_empty(&self) -> bool {
        match self {
            Kept::Listed(listed) => listed.is_empty(),
            Kept::Trie(root) => root.is_empty(),
        }
    }

    /// Whether this is a full list without `filter`.
    fn has_no_room_for(&self, filter: &TopicFilter) -> bool {
        let Kept::Listed(listed) = self else { return false };
        listed.len() == LISTED_FILTERS_MAX && listed.iter().all(|listed| listed.filter != *filter)
    }

    fn insert(&mut self, filter: &TopicFilter, steps: &Steps, group: GroupId, id: SubscriptionId) {
        let listed = match self {
            Kept::Trie(root) => return Arc::make_mut(root).insert(steps, group, id),
            Kept::Listed(listed) => listed,
        };
        if let Some(at) = listed.iter().position(|listed| listed.filter == *filter) {
            let known = &mut Arc::make_mut(listed)[at];
            return known.subscribers.insert_new(hash_of(&id), id, group);
        }
        let mut subscribers = Subscribers::default();
        subscribers.insert_new(hash_of(&id), id, group);
        let new = Listed { filter: filter.clone(), subscribers };
        *listed = listed.iter().cloned().chain([new]).collect();
    }

    /// Whether the subscription was there.
    fn remove(&mut self, filter: &TopicFilter, steps: &Steps, id: SubscriptionId) -> bool {
        let listed = match self {
            Kept::Listed(listed) => listed,
            Kept::Trie(root) => {
                let root = Arc::make_mut(root);
                let removed = root.remove(steps, id);
                if root.is_empty() {
                    *self = Kept::nothing();
                }
                return removed;
            }
        };
        let Some(at) = listed.iter().position(|listed| listed.filter == *filter) else {
            return false;
        };
        let known = &mut Arc::make_mut(listed)[at];
        let removed = known.subscribers.remove(hash_of(&id), &id).is_some();
        if known.subscribers.is_empty() {
            *listed = listed.iter().filter(|listed| listed.filter != *filter).cloned().collect();
        }
        removed
    }
}

impl Node {
    fn insert(&mut self, steps: &Steps, group: GroupId, id: SubscriptionId) {
        self.subscribers_mut(steps).insert_new(hash_of(&id), id, group);
    }

    /// The subscribers of a filter, with the path to them made or copied.
    fn subscribers_mut(&mut self, steps: &Steps) -> &mut Subscribers {
        let mut node = self;
        for step in steps.as_slice() {
            node = match *step {
                Step::AllBelow => return &mut node.all_below,
                Step::Any => Arc::make_mut(node.any.get_or_insert_default()),
                Step::Word(word) => {
                    let absent = || (word, Arc::default());
                    let child = node.children.get_or_insert_with(spread(word), &word, absent);
                    Arc::make_mut(child)
                }
            };
        }
        &mut node.ends
    }

    /// Removes a subscription, with the nodes that only it kept. Whether it was there.
    fn remove(&mut self, steps: &Steps, id: SubscriptionId) -> bool {
        self.remove_below(steps.as_slice(), id)
    }

    fn remove_below(&mut self, steps: &[Step], id: SubscriptionId) -> bool {
        let Some((step, below)) = steps.split_first() else {
            return self.ends.remove(hash_of(&id), &id).is_some();
        };
        let child = match step {
            Step::AllBelow => return self.all_below.remove(hash_of(&id), &id).is_some(),
            Step::Any => self.any.as_mut(),
            Step::Word(word) => self.children.get_mut(spread(*word), word),
        };
        let Some(child) = child else { return false };
        let child = Arc::make_mut(child);
        let removed = child.remove_below(below, id);
        if child.is_empty() {
            match step {
                Step::Word(word) => drop(self.children.remove(spread(*word), word)),
                Step::Any | Step::AllBelow => self.any = None,
            }
        }
        removed
    }

    /// Appends what matches `name`, whose levels are the words `numbers`.
    fn collect_from_root(
        &self,
        name: &TopicName,
        numbers: &[Option<u64>],
        out: &mut Vec<(GroupId, SubscriptionId)>,
    ) {
        if !name.is_reserved() {
            self.collect(numbers, out);
        } else if let Some(child) = numbers[0].and_then(|word| self.child(word)) {
            // What starts with `$` is matched only by filters that spell their first level out.
            child.collect(&numbers[1..], out);
        }
    }

    fn collect(&self, numbers: &[Option<u64>], out: &mut Vec<(GroupId, SubscriptionId)>) {
        push_all(&self.all_below, out);
        let Some((number, below)) = numbers.split_first() else {
            return push_all(&self.ends, out);
        };
        if let Some(any) = &self.any {
            any.collect(below, out);
        }
        if let Some(child) = number.and_then(|number| self.child(number)) {
            child.collect(below, out);
        }
    }

    fn child(&self, word: u64) -> Option<&Arc<Node>> {
        self.children.get(spread(word), &word)
    }

    /// Whether no filter passes here.
    fn is_empty(&self) -> bool {
        self.ends.is_empty()
            && self.all_below.is_empty()
            && self.any.is_none()
            && self.children.is_empty()
    }
}

impl Steps {
    fn as_slice(&self) -> &[Step] {
        &self.steps[..self.count]
    }
}

/// Whether a level of a filter is spelled out.
fn is_word(text: &&str) -> bool {
    *text != ANY_LEVEL && *text != ALL_BELOW
}

fn push_all(subscribers: &Subscribers, out: &mut Vec<(GroupId, SubscriptionId)>) {
    subscribers.for_each(&mut |id, group| out.push((*group, *id)));
}

/// The hash of a word's number. Numbers are ours and rise by one, so an odd factor spreads them and no two collide.
fn spread(number: u64) -> u64 {
    let product = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

//! Topic policies: what holds for topics, by pattern. A pattern is a topic filter.
//!
//! Each field of a policy is decided by itself: of all patterns that match a topic and say something of the field, the
//! most specific one counts; where none says anything, the server's configuration does. Of two patterns the one is more
//! specific that is so in the first level in which they differ: a name before `+`, `+` before `#`, and a pattern that ends
//! before one that goes on with `#`. So `orders/+` comes before `+/new` for the topic `orders/new`. Between two patterns
//! that match the same topic this always decides.
//!
//! The list is resolved once for a topic and version, never for an event. See [`PolicyCache`].

use std::cmp::Ordering;
use std::sync::Arc;

use codec::ack::AckLevel;
use codec::ids::TopicId;

use crate::topic::{ALL_BELOW, ANY_LEVEL, TopicFilter, TopicName};

/// Most patterns of a server. Resolving a topic looks at each of them.
pub const TOPIC_POLICIES_MAX: usize = 256;
/// The retention that keeps everything.
pub const KEEP_ALL: u64 = 0;
/// Longest age that events may be kept to: a hundred years, in seconds.
pub const RETENTION_SECONDS_MAX: u64 = 100 * 366 * 24 * 3_600;
/// Largest retention in bytes: every JSON reader holds it exactly.
pub const RETENTION_BYTES_MAX: u64 = 1 << 53;

/// What events of a topic are in order with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicOrder {
    /// Those of the same key: keys are spread over the partitions.
    Key,
    /// All events of the topic: they are in one partition, whatever their keys and whatever partition was asked for.
    Topic,
}

/// What one pattern says. A field that is absent says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicPolicy {
    /// When an event counts as taken.
    pub ack: Option<AckLevel>,
    /// Events are kept at least so many seconds; [`KEEP_ALL`]: for ever.
    pub retention_seconds: Option<u64>,
    /// Of each partition of the topic at least so many of the newest bytes are kept; [`KEEP_ALL`]: all.
    pub retention_bytes: Option<u64>,
    /// Largest data of one event.
    pub event_bytes_max: Option<u32>,
    /// Whether a publish may begin a topic that is not there.
    pub create: Option<bool>,
    /// What is in order.
    pub order: Option<TopicOrder>,
}

/// A field of a policy, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyField {
    /// [`TopicPolicy::ack`].
    Ack,
    /// [`TopicPolicy::retention_seconds`].
    RetentionSeconds,
    /// [`TopicPolicy::retention_bytes`].
    RetentionBytes,
    /// [`TopicPolicy::event_bytes_max`].
    EventBytesMax,
    /// [`TopicPolicy::create`].
    Create,
    /// [`TopicPolicy::order`].
    Order,
}

/// What holds for one topic, each with the pattern that says so; absent where no pattern says anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectivePolicy {
    /// The values.
    pub policy: TopicPolicy,
    /// For each field of [`PolicyField::ALL`] the pattern that it comes from.
    pub from: [Option<TopicFilter>; PolicyField::ALL.len()],
}

/// All policies: an immutable list, the most specific pattern first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPolicies {
    list: Vec<(TopicFilter, TopicPolicy)>,
    /// Numbers the lists of a process, so that what was resolved by an older one is resolved again. 0: the empty one.
    version: u64,
}

impl TopicOrder {
    /// The name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TopicOrder::Key => "key",
            TopicOrder::Topic => "topic",
        }
    }

    /// The order of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [TopicOrder::Key, TopicOrder::Topic].into_iter().find(|order| order.name() == name)
    }
}

impl PolicyField {
    /// All fields, in the order in which they are shown.
    pub const ALL: [PolicyField; 6] = [
        PolicyField::Ack,
        PolicyField::RetentionSeconds,
        PolicyField::RetentionBytes,
        PolicyField::EventBytesMax,
        PolicyField::Create,
        PolicyField::Order,
    ];

    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PolicyField::Ack => "ack",
            PolicyField::RetentionSeconds => "retention_seconds",
            PolicyField::RetentionBytes => "retention_bytes",
            PolicyField::EventBytesMax => "event_bytes_max",
            PolicyField::Create => "create",
            PolicyField::Order => "order",
        }
    }

    /// The field of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        PolicyField::ALL.into_iter().find(|field| field.name() == name)
    }
}

impl TopicPolicy {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == TopicPolicy::default()
    }

    /// Whether something is said of a field.
    #[must_use]
    pub fn says(&self, field: PolicyField) -> bool {
        match field {
            PolicyField::Ack => self.ack.is_some(),
            PolicyField::RetentionSeconds => self.retention_seconds.is_some(),
            PolicyField::RetentionBytes => self.retention_bytes.is_some(),
            PolicyField::EventBytesMax => self.event_bytes_max.is_some(),
            PolicyField::Create => self.create.is_some(),
            PolicyField::Order => self.order.is_some(),
        }
    }

    /// Says nothing of a field any more.
    pub fn unset(&mut self, field: PolicyField) {
        match field {
            PolicyField::Ack => self.ack = None,
            PolicyField::RetentionSeconds => self.retention_seconds = None,
            PolicyField::RetentionBytes => self.retention_bytes = None,
            PolicyField::EventBytesMax => self.event_bytes_max = None,
            PolicyField::Create => self.create = None,
            PolicyField::Order => self.order = None,
        }
    }

    /// This policy, and where it says nothing what `other` says.
    #[must_use]
    pub fn or(self, other: &TopicPolicy) -> TopicPolicy {
        TopicPolicy {
            ack: self.ack.or(other.ack),
            retention_seconds: self.retention_seconds.or(other.retention_seconds),
            retention_bytes: self.retention_bytes.or(other.retention_bytes),
            event_bytes_max: self.event_bytes_max.or(other.event_bytes_max),
            create: self.create.or(other.create),
            order: self.order.or(other.order),
        }
    }

    /// Whether the topic has a retention of its own, instead of its log's.
    #[must_use]
    pub fn has_retention(&self) -> bool {
        self.retention_seconds.is_some() || self.retention_bytes.is_some()
    }
}

impl TopicPolicies {
    /// A list in which each pattern stands once; those that say nothing are left out.
    #[must_use]
    pub fn new(version: u64, mut list: Vec<(TopicFilter, TopicPolicy)>) -> Self {
        list.retain(|(_, policy)| !policy.is_empty());
        list.sort_by(|(one, _), (other, _)| by_specificity(one, other));
        assert!(
            list.windows(2).all(|pair| pair[0].0 != pair[1].0),
            "a pattern has one policy: which of two would count?"
        );
        TopicPolicies { list, version }
    }

    /// This list with another policy for a pattern; one that says nothing takes the pattern out.
    #[must_use]
    pub fn with(&self, version: u64, pattern: &TopicFilter, policy: TopicPolicy) -> Self {
        let others = self.list.iter().filter(|(known, _)| known != pattern).cloned();
        TopicPolicies::new(version, others.chain([(pattern.clone(), policy)]).collect())
    }

    /// Numbers the list within its process.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every pattern with its policy, the most specific first.
    #[must_use]
    pub fn list(&self) -> &[(TopicFilter, TopicPolicy)] {
        &self.list
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What a pattern says.
    #[must_use]
    pub fn of_pattern(&self, pattern: &TopicFilter) -> Option<&TopicPolicy> {
        self.list.iter().find(|(known, _)| known == pattern).map(|(_, policy)| policy)
    }

    /// Whether any pattern says something of a field.
    #[must_use]
    pub fn say(&self, field: PolicyField) -> bool {
        self.list.iter().any(|(_, policy)| policy.says(field))
    }

    /// What holds for a topic.
    #[must_use]
    pub fn resolve(&self, topic: &TopicName) -> TopicPolicy {
        let matching = self.list.iter().filter(|(pattern, _)| pattern.matches(topic));
        matching.fold(TopicPolicy::default(), |sum, (_, policy)| sum.or(policy))
    }

    /// What holds for a topic, and which pattern says so.
    #[must_use]
    pub fn explain(&self, topic: &TopicName) -> EffectivePolicy {
        let mut effective = EffectivePolicy::default();
        for (pattern, policy) in self.list.iter().filter(|(pattern, _)| pattern.matches(topic)) {
            for (field, from) in PolicyField::ALL.into_iter().zip(&mut effective.from) {
                if from.is_none() && policy.says(field) {
                    *from = Some(pattern.clone());
                }
            }
            effective.policy = effective.policy.or(policy);
        }
        effective
    }
}

/// The more specific pattern is the lesser one. Equal only for equal patterns.
fn by_specificity(one: &TopicFilter, other: &TopicFilter) -> Ordering {
    let (mut ones, mut others) = (one.levels(), other.levels());
    loop {
        let (one, other) = (ones.next(), others.next());
        let order = rank(one).cmp(&rank(other)).then_with(|| one.cmp(&other));
        if order != Ordering::Equal || one.is_none() {
            return order;
        }
    }
}

/// How specific a level is; none is the end of its pattern.
fn rank(level: Option<&str>) -> u8 {
    match level {
        Some(ALL_BELOW) => 3,
        Some(ANY_LEVEL) => 2,
        Some(_) => 1,
        None => 0,
    }
}

/// What holds for the topics of one log, remembered by their numbers: one look-up a batch.
///
/// Bounded by the log's topics, of 48 bytes each, and empty while there are no policies.
#[derive(Debug, Default)]
pub struct PolicyCache {
    policies: Arc<TopicPolicies>,
    resolved: Vec<Option<TopicPolicy>>,
}

impl PolicyCache {
    /// The list that counts.
    #[must_use]
    pub fn policies(&self) -> &Arc<TopicPolicies> {
        &self.policies
    }

    /// Another list counts from now on. What was resolved is forgotten.
    pub fn adopt(&mut self, policies: &Arc<TopicPolicies>) {
        if self.policies.version() != policies.version() {
            self.policies = Arc::clone(policies);
            self.resolved = Vec::new();
        }
    }

    /// What holds for a topic. `name` is asked for only when the answer is not remembered.
    pub fn of<'a>(&mut self, topic: TopicId, name: impl FnOnce() -> &'a Arc<str>) -> TopicPolicy {
        if self.policies.is_empty() {
            return TopicPolicy::default();
        }
        assert!(topic != TopicId(0), "0 is no topic");
        let at = topic.0 as usize;
        if at >= self.resolved.len() {
            self.resolved.resize(at + 1, None);
        }
        *self.resolved[at].get_or_insert_with(|| resolved(&self.policies, name()))
    }

    /// What holds for a topic that has no number.
    #[must_use]
    pub fn of_name(&self, name: &Arc<str>) -> TopicPolicy {
        if self.policies.is_empty() {
            TopicPolicy::default()
        } else {
            resolved(&self.policies, name)
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.resolved.capacity() * size_of::<Option<TopicPolicy>>()
    }
}

fn resolved(policies: &TopicPolicies, name: &Arc<str>) -> TopicPolicy {
    // Names are checked by the doors; one that a damaged log made up is a name too.
    TopicName::new(Arc::clone(name))
        .map_or_else(|_| TopicPolicy::default(), |name| policies.resolve(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(level: AckLevel) -> TopicPolicy {
        TopicPolicy { ack: Some(level), ..TopicPolicy::default() }
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn topic(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    /// Which of two patterns counts must not depend on the order in which they were set: an operator would get another
    /// retention than he reads.
    #[test]
    fn the_most_specific_pattern_counts() {
        // Of each row, every pattern matches the topic, and each counts before those behind it.
        let rows = [
            (
                "a/b",
                &["a/b", "a/b/#", "a/+", "a/+/#", "a/#", "+/b", "+/b/#", "+/+", "+/#", "#"][..],
            ),
            ("a", &["a", "a/#", "+", "+/#", "#"]),
            ("$dead/g", &["$dead/g", "$dead/+", "$dead/#"]),
        ];
        for (name, patterns) in rows {
            for (at, pattern) in patterns.iter().enumerate() {
                assert!(filter(pattern).matches(&topic(name)), "{pattern} {name}");
                let list = patterns[at..].iter().rev().enumerate();
                let policy = |number: usize| TopicPolicy {
                    event_bytes_max: Some(number as u32),
                    ..TopicPolicy::default()
                };
                let list: Vec<_> =
                    list.map(|(number, text)| (filter(text), policy(number))).collect();
                let most = list.len() as u32 - 1;
                let policies = TopicPolicies::new(1, list);
                let effective = policies.explain(&topic(name));
                assert_eq!(effective.policy.event_bytes_max, Some(most), "{pattern} {name}");
                assert_eq!(effective.from[3].as_ref().unwrap().as_str(), *pattern);
                assert_eq!(policies.resolve(&topic(name)), effective.policy);
            }
        }
    }

    /// A specific pattern that says nothing of a field must not hide what a general one says of it.
    #[test]
    fn each_field_is_decided_by_itself() {
        let keep = TopicPolicy { retention_seconds: Some(60), ..ack(AckLevel::Durable) };
        let list = vec![(filter("#"), keep), (filter("a/+"), ack(AckLevel::Written))];
        let policies = TopicPolicies::new(1, list);
        let found = policies.resolve(&topic("a/b"));
        assert_eq!((found.ack, found.retention_seconds), (Some(AckLevel::Written), Some(60)));
        assert_eq!(policies.resolve(&topic("b")).ack, Some(AckLevel::Durable));
        assert_eq!(policies.resolve(&topic("$dead/b")), TopicPolicy::default());
        let policies = policies.with(2, &filter("a/+"), TopicPolicy::default());
        assert_eq!(policies.list().len(), 1, "what says nothing is gone");
        assert_eq!(policies.resolve(&topic("a/b")).ack, Some(AckLevel::Durable));
    }

    /// What was resolved by an older list would go on to hold.
    #[test]
    fn a_new_list_is_resolved_again() {
        let name: Arc<str> = "a".into();
        let mut cache = PolicyCache::default();
        assert_eq!(cache.of(TopicId(7), || &name), TopicPolicy::default());
        for (version, level) in [(1, AckLevel::Written), (2, AckLevel::Received)] {
            cache.adopt(&Arc::new(TopicPolicies::new(version, vec![(filter("a"), ack(level))])));
            assert_eq!(cache.of(TopicId(7), || &name).ack, Some(level));
            assert_eq!(cache.of(TopicId(7), || unreachable!("remembered")).ack, Some(level));
            assert_eq!(cache.of_name(&name).ack, Some(level));
        }
    }

    /// Names that are set must be those that are shown.
    #[test]
    fn fields_and_orders_have_names() {
        for field in PolicyField::ALL {
            assert_eq!(PolicyField::from_name(field.name()), Some(field));
            let mut policy = TopicPolicy {
                ack: Some(AckLevel::Durable),
                retention_seconds: Some(1),
                retention_bytes: Some(1),
                event_bytes_max: Some(1),
                create: Some(true),
                order: Some(TopicOrder::Key),
            };
            assert!(policy.says(field));
            policy.unset(field);
            assert!(!policy.says(field) && !policy.is_empty());
        }
        assert_eq!(TopicOrder::from_name("topic"), Some(TopicOrder::Topic));
        assert_eq!(TopicOrder::from_name("none"), None);
    }
}

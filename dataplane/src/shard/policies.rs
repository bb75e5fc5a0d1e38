//! What holds for the topics of the active log: resolved once a topic and list of policies, looked up once a batch.

use std::collections::HashMap;
use std::sync::Arc;

use codec::header::BatchHeader;
use codec::ids::{Partition, TopicId};
use codec::limits::PARTITIONS;
use codec::murmur2::partition_of;
use log::log::retention::{Keep, TopicRetention};
use routing::topic::TopicName;
use routing::topic_policy::{PolicyCache, PolicyField, TopicOrder, TopicPolicies, TopicPolicy};

/// Topics of which it is remembered where their events go, as long as any policy asks for an order.
const PLACES_MAX: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub struct Policies {
    cache: PolicyCache,
    /// Whether any policy says something of the order. While none does, nothing is looked up for it.
    say_order: bool,
    /// The one partition of a topic, if it has only one. By name: most topics of a session's shard are in other logs.
    /// Looked up only, so its random order reaches nothing.
    places: HashMap<Arc<str>, Option<Partition>>,
}

impl Policies {
    /// Another list counts from now on.
    pub fn adopt(&mut self, policies: &Arc<TopicPolicies>) {
        if self.cache.policies().version() == policies.version() {
            return;
        }
        self.cache.adopt(policies);
        self.say_order = policies.say(PolicyField::Order);
        self.places = HashMap::new();
    }

    /// What holds for a topic, by its number in the active log if it has one.
    pub fn of(&mut self, topic: Option<TopicId>, name: &Arc<str>) -> TopicPolicy {
        match topic {
            Some(topic) => self.cache.of(topic, || name),
            None => self.cache.of_name(name),
        }
    }

    /// The header of a batch whose topic keeps all its events in one partition; none if it stays where it is.
    pub fn placed(&mut self, topic: &Arc<str>, header: &BatchHeader) -> Option<BatchHeader> {
        if !self.say_order {
            return None;
        }
        let partition = match self.places.get(topic) {
            Some(known) => *known,
            None => self.place_of(topic),
        }?;
        let mut placed = BatchHeader { partition, ..*header };
        if header.publisher_id != 0 && header.partition != partition {
            placed.publisher_id = publisher_of(header.publisher_id, header.partition);
        }
        assert!(placed.partition.0 < PARTITIONS, "a topic's partition is one that there is");
        Some(placed)
    }

    fn place_of(&mut self, topic: &Arc<str>) -> Option<Partition> {
        let is_one = self.cache.of_name(topic).order == Some(TopicOrder::Topic);
        let place = is_one.then(|| partition_of(topic.as_bytes(), PARTITIONS));
        if self.places.len() >= PLACES_MAX {
            self.places.clear();
        }
        self.places.insert(Arc::clone(topic), place);
        place
    }
}

/// What the logs of a shard keep topics by; none while no policy says anything of it.
pub fn retention_of(policies: &Arc<TopicPolicies>) -> Option<Arc<dyn TopicRetention>> {
    let is_said =
        policies.say(PolicyField::RetentionSeconds) || policies.say(PolicyField::RetentionBytes);
    is_said.then(|| Arc::new(Retention(Arc::clone(policies))) as Arc<dyn TopicRetention>)
}

/// Topic policies, as a log understands them.
#[derive(Debug)]
struct Retention(Arc<TopicPolicies>);

impl TopicRetention for Retention {
    fn version(&self) -> u64 {
        self.0.version()
    }

    fn of(&self, topic: &str) -> Option<Keep> {
        let policy = self.0.resolve(&TopicName::new(topic).ok()?);
        policy.has_retention().then(|| Keep {
            age_us: policy.retention_seconds.unwrap_or(0).saturating_mul(1_000_000),
            bytes: policy.retention_bytes.unwrap_or(0),
        })
    }

    fn shortest_age_us(&self) -> Option<u64> {
        let ages = self.0.list().iter().filter_map(|(_, policy)| policy.retention_seconds);
        ages.filter(|age| *age > 0).min().map(|age| age.saturating_mul(1_000_000))
    }
}

/// A publisher numbers its batches in each partition. Where batches of several partitions come to stand in one, those of
/// each are as those of a publisher of their own: a batch that is sent again is known by the same id.
fn publisher_of(publisher: u64, partition: Partition) -> u64 {
    let salt = (u64::from(partition.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (publisher ^ salt).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31);
    mixed.max(1)
}

#[cfg(test)]
mod tests {
    use routing::topic::TopicFilter;

    use super::*;

    fn header(partition: u16, publisher_id: u64) -> BatchHeader {
        let mut header = BatchHeader::unstamped(TopicId(1), Partition(partition), &[], 1);
        header.publisher_id = publisher_id;
        header
    }

    /// Events of one topic in two partitions have no order; and a batch that is sent again must be known as the same,
    /// and no other batch of its publisher for it.
    #[test]
    fn a_topic_in_order_has_one_partition() {
        let mut policies = Policies::default();
        let (one, other): (Arc<str>, Arc<str>) = ("in/order".into(), "other".into());
        assert_eq!(policies.placed(&one, &header(3, 9)), None);
        let policy = TopicPolicy { order: Some(TopicOrder::Topic), ..TopicPolicy::default() };
        let list = vec![(TopicFilter::new("in/#").unwrap(), policy)];
        policies.adopt(&Arc::new(TopicPolicies::new(1, list)));
        let place = partition_of(one.as_bytes(), PARTITIONS);
        let mut publishers = Vec::new();
        for partition in (0..PARTITIONS).filter(|partition| *partition != place.0) {
            let placed = policies.placed(&one, &header(partition, 9)).unwrap();
            assert_eq!(placed.partition, place);
            assert_eq!(policies.placed(&one, &header(partition, 9)), Some(placed));
            publishers.push(placed.publisher_id);
        }
        publishers.push(policies.placed(&one, &header(place.0, 9)).unwrap().publisher_id);
        assert_eq!(publishers.last(), Some(&9), "what stays where it is is as it was");
        publishers.sort_unstable();
        publishers.dedup();
        assert_eq!(publishers.len(), usize::from(PARTITIONS), "each partition has its own count");
        assert_eq!(policies.placed(&one, &header(3, 0)).unwrap().publisher_id, 0);
        assert_eq!(policies.placed(&other, &header(3, 9)), None);
    }
}

//! The routing snapshot: one immutable value that says which subscriptions there are and which match a topic.
//!
//! Made on the control thread, read on every shard. Two versions share all that did not change between them. Dropping
//! the last reference to a version frees what only it held, which may be everything: a shard must not be the one to do
//! that, so the control plane keeps a version until every shard has adopted a newer one.

use std::sync::Arc;

use crate::delivery_policy::DeliveryPolicy;
use crate::filters::{Filters, KeptAt};
use crate::internal_topics::redriven_group;
use crate::persistent_map::{PersistentMap, hash_of};
use crate::subscription::{GroupId, Start, Subscription, SubscriptionId};
use crate::topic::{TopicFilter, TopicName};
use crate::topic_policy::TopicPolicies;

/// One step between a version and the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This subscription is new.
    Added(Arc<Subscription>),
    /// This subscription ended.
    Removed(Arc<Subscription>),
    /// A group goes on somewhere else in the logs, under a new number: what is in flight under the old one is over.
    Sought(Arc<Sought>),
    /// A group gets no more events until it is resumed, or gets them again.
    Paused {
        /// Which group.
        group: GroupId,
        /// Whether it rests from now on.
        is_paused: bool,
    },
    /// The delivery policy of the group that clients name so is another.
    Policy(Arc<str>),
}

/// The subscriptions of a group before and after a seek, in the same order. They keep their numbers, filters and members;
/// the group's number and the start are new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    /// As they were.
    pub before: Vec<Arc<Subscription>>,
    /// As they are.
    pub after: Vec<Arc<Subscription>>,
}

impl Sought {
    /// The group's number before.
    #[must_use]
    pub fn from(&self) -> GroupId {
        self.before.first().expect("a group has a subscription").group
    }

    /// The group's number from now on.
    #[must_use]
    pub fn to(&self) -> GroupId {
        self.after.first().expect("a group has a subscription").group
    }
}

/// An immutable routing table with a version. Equal versions of one server are the same table.
#[derive(Debug)]
pub struct RoutingSnapshot {
    version: u64,
    table: Table,
    changes: Vec<Change>,
    topic_policies: Arc<TopicPolicies>,
}

/// Makes the next version of a snapshot. The one it started from is never changed.
#[derive(Debug)]
pub struct SnapshotEditor {
    version: u64,
    table: Table,
    changes: Vec<Change>,
    topic_policies: Arc<TopicPolicies>,
    /// The policies are others than those of the version before.
    are_policies_new: bool,
}

/// What the versions share. All of it is persistent, so a copy is a few reference counts.
///
/// Invariants: each subscription of `by_id` is in `filters` where it says and in its group under its filter; a group has
/// at least one subscription; `group_ids` names exactly the groups of `groups`; `paused` holds none but those.
#[derive(Clone, Debug, Default)]
struct Table {
    filters: Filters,
    by_id: PersistentMap<SubscriptionId, Known>,
    groups: PersistentMap<GroupId, Group>,
    group_ids: PersistentMap<Arc<str>, GroupId>,
    paused: PersistentMap<GroupId, ()>,
    /// By the name that clients give the group, whether or not the group is there.
    policies: PersistentMap<Arc<str>, Arc<DeliveryPolicy>>,
    policy_count: usize,
    len: usize,
}

/// A subscription, and where the filters keep it.
#[derive(Clone, Debug)]
struct Known {
    subscription: Arc<Subscription>,
    kept_at: KeptAt,
}

type Group = PersistentMap<Arc<str>, Arc<Subscription>>;

impl RoutingSnapshot {
    /// Version 0: nobody subscribes to anything.
    #[must_use]
    pub fn empty() -> RoutingSnapshot {
        RoutingSnapshot {
            version: 0,
            table: Table::default(),
            changes: Vec::new(),
            topic_policies: Arc::default(),
        }
    }

    /// What holds for topics.
    #[must_use]
    pub fn topic_policies(&self) -> &Arc<TopicPolicies> {
        &self.topic_policies
    }

    /// Rises by one with each snapshot of a process.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len
    }

    /// Whether nobody subscribes to anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len == 0
    }

    /// Replaces `out` by the subscriptions whose filter matches `topic`, or whose group alone it is for: sorted, each
    /// once.
    pub fn matches(&self, topic: &TopicName, out: &mut Vec<(GroupId, SubscriptionId)>) {
        out.clear();
        self.table.filters.collect(topic, out);
        // What is for one group goes to it by any of its subscriptions, whatever they ask for.
        let only = topic.is_reserved().then(|| redriven_group(topic.as_str())).flatten();
        if let Some(group) = only.and_then(|name| self.table.group_by_name(&name)) {
            out.retain(|(known, _)| *known != group);
            let first = self.table.subscriptions_of(group).first().map(|first| first.id);
            out.extend(first.map(|id| (group, id)));
        }
        out.sort_unstable();
    }

    /// The subscription of this number.
    #[must_use]
    pub fn subscription(&self, id: SubscriptionId) -> Option<&Arc<Subscription>> {
        self.table.subscription(id)
    }

    /// The subscription of a group, by name, to exactly this filter.
    #[must_use]
    pub fn find(&self, group_name: &str, filter: &TopicFilter) -> Option<&Arc<Subscription>> {
        self.table.find(group_name, filter)
    }

    /// The group of this name.
    #[must_use]
    pub fn group_by_name(&self, name: &str) -> Option<GroupId> {
        self.table.group_by_name(name)
    }

    /// All subscriptions of a group, by rising number; none when there is no such group.
    #[must_use]
    pub fn subscriptions_of(&self, group: GroupId) -> Vec<&Arc<Subscription>> {
        self.table.subscriptions_of(group)
    }

    /// Whether a group gets no events until it is resumed.
    #[must_use]
    pub fn is_paused(&self, group: GroupId) -> bool {
        self.table.is_paused(group)
    }

    /// Visits every group with its name, in no order.
    pub fn each_group<'a>(&'a self, visit: &mut impl FnMut(&'a Arc<str>, GroupId)) {
        self.table.group_ids.for_each(&mut |name, group| visit(name, *group));
    }

    /// The delivery policy of the group that clients name so; none: the default.
    #[must_use]
    pub fn policy(&self, group: &str) -> Option<&Arc<DeliveryPolicy>> {
        self.table.policy(group)
    }

    /// Visits every delivery policy with its group's name, in no order.
    pub fn each_policy<'a>(
        &'a self,
        visit: &mut impl FnMut(&'a Arc<str>, &'a Arc<DeliveryPolicy>),
    ) {
        self.table.policies.for_each(visit);
    }

    /// What this version changes against the one before it, in the order it was done. A subscription that came and went
    /// within one version stands here twice.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

impl SnapshotEditor {
    /// Starts from `base`.
    #[must_use]
    pub fn new(base: &RoutingSnapshot) -> SnapshotEditor {
        SnapshotEditor {
            version: base.version + 1,
            table: base.table.clone(),
            changes: Vec::new(),
            topic_policies: Arc::clone(&base.topic_policies),
            are_policies_new: false,
        }
    }

    /// What holds for topics, as edited so far.
    #[must_use]
    pub fn topic_policies(&self) -> &Arc<TopicPolicies> {
        &self.topic_policies
    }

    /// Replaces what holds for topics.
    pub fn set_topic_policies(&mut self, policies: Arc<TopicPolicies>) {
        self.topic_policies = policies;
        self.are_policies_new = true;
    }

    /// Adds a subscription whose number, and whose pair of group and filter, are not there yet.
    pub fn add(&mut self, subscription: Arc<Subscription>) {
        self.table.add(&subscription);
        self.changes.push(Change::Added(subscription));
    }

    /// Removes a subscription; none when there is none of that number.
    pub fn remove(&mut self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        let subscription = self.table.remove(id)?;
        self.changes.push(Change::Removed(subscription.clone()));
        Some(subscription)
    }

    /// Moves a group: its subscriptions get the group's new number `to` and this start; all else stays. Returns what it
    /// was and is; none when there is no such group.
    pub fn seek(&mut self, group: GroupId, to: GroupId, start: &Start) -> Option<Arc<Sought>> {
        let before: Vec<_> = self.table.subscriptions_of(group).into_iter().cloned().collect();
        if before.is_empty() {
            return None;
        }
        assert!(self.table.subscriptions_of(to).is_empty(), "a group's number is new");
        let is_paused = self.table.is_paused(group);
        let moved = |known: &Arc<Subscription>| {
            Arc::new(Subscription { group: to, start: start.clone(), ..Subscription::clone(known) })
        };
        let after: Vec<_> = before.iter().map(moved).collect();
        for subscription in &before {
            self.table.remove(subscription.id);
        }
        for subscription in &after {
            self.table.add(subscription);
        }
        let sought = Arc::new(Sought { before, after });
        self.changes.push(Change::Sought(sought.clone()));
        if is_paused {
            self.set_paused(to, true);
        }
        Some(sought)
    }

    /// Pauses or resumes a group that there is.
    pub fn set_paused(&mut self, group: GroupId, is_paused: bool) {
        if self.table.is_paused(group) == is_paused {
            return;
        }
        self.table.set_paused(group, is_paused);
        self.changes.push(Change::Paused { group, is_paused });
    }

    /// Whether a group gets no events until it is resumed, as edited so far.
    #[must_use]
    pub fn is_paused(&self, group: GroupId) -> bool {
        self.table.is_paused(group)
    }

    /// Gives a group, as clients name it, another delivery policy; none: the default.
    pub fn set_policy(&mut self, group: &Arc<str>, policy: Option<Arc<DeliveryPolicy>>) {
        self.table.set_policy(group, policy);
        self.changes.push(Change::Policy(group.clone()));
    }

    /// How many groups have a delivery policy of their own, as edited so far.
    #[must_use]
    pub fn policies(&self) -> usize {
        self.table.policy_count
    }

    /// The delivery policy of a group, as edited so far.
    #[must_use]
    pub fn policy(&self, group: &str) -> Option<&Arc<DeliveryPolicy>> {
        self.table.policy(group)
    }

    /// The subscription of this number, as edited so far.
    #[must_use]
    pub fn subscription(&self, id: SubscriptionId) -> Option<&Arc<Subscription>> {
        self.table.subscription(id)
    }

    /// The subscription of a group, by name, to exactly this filter, as edited so far.
    #[must_use]
    pub fn find(&self, group_name: &str, filter: &TopicFilter) -> Option<&Arc<Subscription>> {
        self.table.find(group_name, filter)
    }

    /// The group of this name, as edited so far.
    #[must_use]
    pub fn group_by_name(&self, name: &str) -> Option<GroupId> {
        self.table.group_by_name(name)
    }

    /// All subscriptions of a group, by rising number, as edited so far.
    #[must_use]
    pub fn subscriptions_of(&self, group: GroupId) -> Vec<&Arc<Subscription>> {
        self.table.subscriptions_of(group)
    }

    /// How many subscriptions there are, as edited so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len
    }

    /// Whether there are none, as edited so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len == 0
    }

    /// Whether nothing was changed so far.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.changes.is_empty() && !self.are_policies_new
    }

    /// What was changed so far, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The edited version.
    #[must_use]
    pub fn finish(self) -> RoutingSnapshot {
        RoutingSnapshot {
            version: self.version,
            table: self.table,
            changes: self.changes,
            topic_policies: self.topic_policies,
        }
    }
}

impl Table {
    fn subscription(&self, id: SubscriptionId) -> Option<&Arc<Subscription>> {
        self.by_id.get(hash_of(&id), &id).map(|known| &known.subscription)
    }

    fn subscriptions_of(&self, group: GroupId) -> Vec<&Arc<Subscription>> {
        let mut subscriptions = Vec::new();
        if let Some(group) = self.groups.get(hash_of(&group), &group) {
            group.for_each(&mut |_, subscription| subscriptions.push(subscription));
        }
        subscriptions.sort_unstable_by_key(|subscription| subscription.id);
        subscriptions
    }

    fn find(&self, group_name: &str, filter: &TopicFilter) -> Option<&Arc<Subscription>> {
        let group = self.group_by_name(group_name)?;
        let group = self.groups.get(hash_of(&group), &group)?;
        group.get(hash_of(filter.as_str()), filter.as_str())
    }

    fn group_by_name(&self, name: &str) -> Option<GroupId> {
        self.group_ids.get(hash_of(name), name).copied()
    }

    fn is_paused(&self, group: GroupId) -> bool {
        self.paused.get(hash_of(&group), &group).is_some()
    }

    fn set_paused(&mut self, group: GroupId, is_paused: bool) {
        assert!(
            self.groups.get(hash_of(&group), &group).is_some(),
            "a group rests while it is there"
        );
        if is_paused {
            self.paused.insert_new(hash_of(&group), group, ());
        } else {
            self.paused.remove(hash_of(&group), &group);
        }
    }

    fn policy(&self, group: &str) -> Option<&Arc<DeliveryPolicy>> {
        self.policies.get(hash_of(group), group)
    }

    fn set_policy(&mut self, group: &Arc<str>, policy: Option<Arc<DeliveryPolicy>>) {
        let hash = hash_of(&**group);
        let before = self.policies.remove(hash, &**group);
        self.policy_count += usize::from(policy.is_some());
        self.policy_count -= usize::from(before.is_some());
        if let Some(policy) = policy {
            self.policies.insert_new(hash, group.clone(), policy);
        }
    }

    fn add(&mut self, subscription: &Arc<Subscription>) {
        let Subscription { id, group, group_name, filter, .. } = &**subscription;
        let known = self.group_by_name(group_name);
        assert!(known.is_none_or(|known| known == *group), "one name is one group");
        if known.is_none() {
            let name = group_name.clone();
            self.group_ids.insert_new(hash_of(&**group_name), name, *group);
        }
        let members =
            self.groups.get_or_insert_with(hash_of(group), group, || (*group, Group::default()));
        members.insert_new(hash_of(filter.as_str()), filter.text().clone(), subscription.clone());
        let kept_at = self.filters.insert(filter, *group, *id);
        let known = Known { subscription: subscription.clone(), kept_at };
        self.by_id.insert_new(hash_of(id), *id, known);
        self.len += 1;
    }

    fn remove(&mut self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        let Known { subscription, kept_at } = self.by_id.remove(hash_of(&id), &id)?;
        let group = subscription.group;
        let filter = subscription.filter.as_str();
        let members = self.groups.get_mut(hash_of(&group), &group);
        let members = members.expect("a subscription's group is known");
        let in_group = members.remove(hash_of(filter), filter);
        assert!(in_group.is_some(), "a subscription is in its group");
        if members.is_empty() {
            self.groups.remove(hash_of(&group), &group);
            self.paused.remove(hash_of(&group), &group);
            self.group_ids.remove(hash_of(&*subscription.group_name), &*subscription.group_name);
        }
        self.filters.remove(&subscription.filter, kept_at, id);
        self.len -= 1;
        Some(subscription)
    }

    /// Whether nothing at all is held; what the last removal must leave behind.
    #[cfg(test)]
    fn is_bare(&self) -> bool {
        self.filters.is_empty()
            && self.by_id.is_empty()
            && self.groups.is_empty()
            && self.group_ids.is_empty()
            && self.paused.is_empty()
            && self.policies.is_empty()
    }
}

#[cfg(test)]
impl RoutingSnapshot {
    pub(crate) fn is_bare(&self) -> bool {
        self.table.is_bare()
    }
}

//! What operators order: groups that begin, rest, move and end, each for all its members. Answered once every shard does
//! so; one that is refused has changed nothing.
//!
//! A seek is one step of the catalog: the group's subscriptions get a new group number and a start, as those of a new
//! group would. A kill leaves the one or the other, and cursors carry the number that they belong to.

use std::sync::Arc;

use codec::refusal::{Code, Refusal};
use routing::delivery_policy::DeliveryPolicy;
use routing::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId};

use super::{Answer, Plane, Settled};
use crate::limits::POLICIES_MAX;
use crate::operator::{self, NewGroup, Order, PlaneStatus};
use crate::shards::Shards;
use crate::subscribing::{check_group_name, check_start};

/// Takes the answer to an order.
type Answering = operator::Answer<Result<(), Refusal>>;

impl<S: Shards> Plane<S> {
    /// Answers an operator who looks in, as of the last turn, and does what he orders.
    pub fn on_order(&mut self, order: Order) {
        match order {
            Order::Status(answer) => answer(PlaneStatus {
                subscriptions: self.next.len(),
                version: self.snapshot.version(),
                adopted_version: self.adopted_by_all(),
                waiting_answers: self.answers.len(),
            }),
            Order::EndGroup { group, answer } => self.on_end_group(group, answer),
            Order::CreateGroup { new, dry_run, answer } => {
                self.on_create_group(&new, dry_run, answer);
            }
            Order::PauseGroup { group, is_paused, answer } => {
                self.on_pause_group(group, is_paused, answer);
            }
            Order::SeekGroup { group, start, answer } => self.on_seek_group(group, &start, answer),
            Order::SetPolicy { group, policy, answer } => {
                self.on_set_policy(&group, policy, answer)
            }
            Order::TopicPolicies(answer) => answer(Arc::clone(self.next.topic_policies())),
            Order::SetTopicPolicy { pattern, change, answer } => {
                self.on_set_topic_policy(&pattern, change, answer);
            }
            Order::DeleteTopic { topic, answer } => self.on_delete_topic(topic, answer),
        }
    }

    /// Ends all subscriptions of a group. One that is gone was ended by another.
    fn on_end_group(&mut self, group: GroupId, answer: Answering) {
        if let Err(refusal) = self.check_room() {
            return answer(Err(refusal));
        }
        let known = self.next.subscriptions_of(group);
        let ids: Vec<SubscriptionId> = known.into_iter().map(|known| known.id).collect();
        let Some(first) = ids.first().copied() else { return answer(Ok(())) };
        ids.into_iter().for_each(|id| self.remove(id));
        assert!(self.next.subscriptions_of(group).is_empty(), "what ended is in no later version");
        self.answer_later(Settled::GroupEnded(answer, first));
    }

    fn on_create_group(&mut self, new: &NewGroup, dry_run: bool, answer: Answering) {
        let checked = self.check_room().and_then(|()| self.roll.check_new(&self.next, new));
        if checked.is_err() || dry_run {
            return answer(checked);
        }
        match self.create_group(new) {
            Ok(last) => self.answer_later(Settled::GroupCreated(answer, last)),
            Err(refusal) => answer(Err(refusal)),
        }
    }

    /// Numbers are taken first, since they may be refused: all of the group begins, or nothing.
    fn create_group(&mut self, new: &NewGroup) -> Result<SubscriptionId, Refusal> {
        let group = GroupId(self.take_id()?);
        let ids = new.filters.iter().map(|_| self.take_id()).collect::<Result<Vec<_>, _>>()?;
        for (id, filter) in ids.iter().zip(&new.filters) {
            let subscription = Arc::new(Subscription {
                id: SubscriptionId(*id),
                group,
                group_name: new.name.clone(),
                filter: filter.clone(),
                mode: Mode::Clustering,
                start: new.start.clone(),
                ephemeral_client: None,
            });
            self.roll.added(&subscription);
            self.next.add(subscription);
        }
        assert!(self.next.subscriptions_of(group).len() == ids.len(), "all of a group begins");
        Ok(SubscriptionId(*ids.last().expect("a group has a filter")))
    }

    fn on_pause_group(&mut self, group: GroupId, is_paused: bool, answer: Answering) {
        if let Err(refusal) = self.check_order(group) {
            return answer(Err(refusal));
        }
        self.next.set_paused(group, is_paused);
        self.answer_later(Settled::GroupPaused(answer, group, is_paused));
    }

    fn on_seek_group(&mut self, group: GroupId, start: &Start, answer: Answering) {
        match self.seek_group(group, start) {
            Ok(what) => self.answer_later(Settled::GroupSought(answer, what)),
            Err(refusal) => answer(Err(refusal)),
        }
    }

    fn seek_group(
        &mut self,
        group: GroupId,
        start: &Start,
    ) -> Result<Arc<routing::snapshot::Sought>, Refusal> {
        self.check_order(group)?;
        let known = self.next.subscriptions_of(group);
        known.iter().try_for_each(|known| check_start(&known.filter, Some(start)))?;
        let to = GroupId(self.take_id()?);
        let sought = self.next.seek(group, to, start).expect("it was found just now");
        assert!(
            self.next.subscriptions_of(group).is_empty(),
            "a number is one way through the logs"
        );
        Ok(sought)
    }

    fn on_set_policy(
        &mut self,
        group: &Arc<str>,
        policy: Option<DeliveryPolicy>,
        answer: Answering,
    ) {
        let policy = policy.filter(|policy| !policy.is_default());
        if let Err(refusal) = self.check_policy(group, policy) {
            return answer(Err(refusal));
        }
        if self.next.policy(group).map(|known| **known) != policy {
            self.next.set_policy(group, policy.map(Arc::new));
        }
        self.answer_later(Settled::PolicySet(answer, group.clone(), policy));
    }

    fn check_policy(&self, group: &str, policy: Option<DeliveryPolicy>) -> Result<(), Refusal> {
        self.check_room()?;
        check_group_name(group)?;
        let Some(policy) = policy else { return Ok(()) };
        policy.check().map_err(|error| Refusal::new(Code::LimitExceeded, error.to_string()))?;
        if self.next.policies() >= POLICIES_MAX && self.next.policy(group).is_none() {
            let (limit, value) = (POLICIES_MAX as u64, POLICIES_MAX as u64 + 1);
            return Err(Refusal::limit("groups with a delivery policy", limit, value));
        }
        Ok(())
    }

    /// Whether a group may be paused or moved.
    fn check_order(&self, group: GroupId) -> Result<(), Refusal> {
        self.check_room()?;
        let Some(first) = self.next.subscriptions_of(group).into_iter().next() else {
            let text = "the subscription has ended, or was moved by another at this moment";
            return Err(Refusal::new(Code::NotFound, text));
        };
        if first.is_durable() {
            return Ok(());
        }
        let text = "an ephemeral subscription has no place to keep: it ends with its client";
        Err(Refusal::new(Code::NotDurable, text))
    }

    /// The answer goes out when every shard has adopted what was done so far.
    pub(super) fn answer_later(&mut self, what: Settled) {
        let version = self.newest();
        assert!(self.answers.back().is_none_or(|last| last.version <= version), "answers rise");
        self.answers.push_back(Answer { version, what });
    }
}

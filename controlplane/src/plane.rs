//! What the control plane does, without its thread and its clock: takes requests, edits the table, writes the catalog,
//! publishes snapshots, and answers when every shard has adopted.
//!
//! ```text
//!   request -> edit the next version -> every 5 ms: catalog, then snapshot to all shards -> Adopted from all -> answer
//! ```
//!
//! Invariants: a durable subscription is in the catalog before any shard hears of it, and gone from there before any shard
//! hears of its end, and so is a policy; an answer goes out after all
//! shards have adopted the version that it speaks of; the last reference to a snapshot is dropped here, never on a
//! shard, because a snapshot is kept until every shard has adopted a newer one.

mod deletions;
mod orders;
mod topic_policies;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use codec::refusal::{Code, Refusal};
use dataplane::control::{ControlLink, ControlReply, ControlRequest};
use dataplane::session::SessionKey;
use routing::delivery_policy::DeliveryPolicy;
use routing::snapshot::{Change, RoutingSnapshot, SnapshotEditor, Sought};
use routing::subscription::{GroupId, Start, Subscription, SubscriptionId};
use tracing::{error, info};

use crate::catalog::{Catalog, CatalogChange, CommitError, Contents, Setting};
use crate::ids::Ids;
use crate::limits::{ANSWERS_MAX, PUBLISH_INTERVAL, REPLY_RETRY, SNAPSHOTS_AHEAD_MAX};
use crate::operator;
use crate::outbox::Outbox;
use crate::shards::Shards;
use crate::subscribing::{Roll, Wanted, Way};
use deletions::Deletions;

/// The control plane's state. Lives on the control thread.
pub struct Plane<S> {
    shards: S,
    link: Arc<ControlLink>,
    catalog: Catalog,
    ids: Ids,
    roll: Roll,
    /// The newest published version.
    snapshot: Arc<RoutingSnapshot>,
    /// The next version.
    next: SnapshotEditor,
    published_at: Option<Instant>,
    /// For each shard the newest version that it said it adopted.
    adopted: Vec<u64>,
    /// Versions that some shard may still hold, oldest first, the newest included.
    held: VecDeque<Arc<RoutingSnapshot>>,
    /// Waiting for adoption, by rising version.
    answers: VecDeque<Answer>,
    deletions: Deletions,
    outbox: Outbox,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
struct Asker {
    shard: u16,
    session: SessionKey,
    request: u64,
}

/// An answer that is true once every shard has adopted `version`.
struct Answer {
    version: u64,
    what: Settled,
}

/// What is true then, and who is told.
enum Settled {
    Subscribed(Asker, Arc<Subscription>),
    Ended(Asker, SubscriptionId),
    /// A group, by one of its subscriptions.
    GroupEnded(operator::Answer<Result<(), Refusal>>, SubscriptionId),
    /// A group without a member, by its last subscription.
    GroupCreated(operator::Answer<Result<(), Refusal>>, SubscriptionId),
    GroupPaused(operator::Answer<Result<(), Refusal>>, GroupId, bool),
    GroupSought(operator::Answer<Result<(), Refusal>>, Arc<Sought>),
    /// A group's delivery policy.
    PolicySet(operator::Answer<Result<(), Refusal>>, Arc<str>, Option<DeliveryPolicy>),
    /// A topic policy, which is in the catalog already.
    TopicPolicySet(operator::Answer<Result<(), Refusal>>),
}

impl<S: Shards> Plane<S> {
    /// A control plane that will publish in its first turn what the catalog holds.
    #[must_use]
    pub fn new(
        shards: S,
        link: Arc<ControlLink>,
        catalog: Catalog,
        contents: Contents,
    ) -> Plane<S> {
        assert!(shards.count() > 0, "a node has a shard");
        let snapshot = Arc::new(RoutingSnapshot::empty());
        let mut next = SnapshotEditor::new(&snapshot);
        next.set_topic_policies(Arc::clone(catalog.topic_policies()));
        let mut roll = Roll::default();
        for (group, policy) in contents.delivery_policies {
            next.set_policy(&group, Some(policy));
        }
        for subscription in contents.subscriptions {
            roll.added(&subscription);
            next.add(subscription);
        }
        for name in contents.paused {
            if let Some(group) = next.group_by_name(&name) {
                next.set_paused(group, true);
            }
        }
        let mut outbox = Outbox::new(shards.count());
        let deletions = Deletions::resume(catalog.deletions(), &mut outbox, shards.count());
        Plane {
            ids: Ids::new(&catalog),
            adopted: vec![0; usize::from(shards.count())],
            outbox,
            deletions,
            held: VecDeque::from([snapshot.clone()]),
            answers: VecDeque::new(),
            published_at: None,
            shards,
            link,
            catalog,
            roll,
            snapshot,
            next,
        }
    }

    /// Does all there is to do now. Returns when to come again even if no request does.
    pub fn turn(&mut self, now: Instant) -> Option<Instant> {
        if self.published_at.is_none() {
            // What the catalog holds; before any request, because nothing of this version is to be committed.
            info!(subscriptions = self.next.len(), "subscriptions read from the catalog");
            self.hand_out(now);
        }
        while !self.outbox.is_full()
            && let Some(request) = self.link.receive()
        {
            self.on_request(request);
        }
        if self.publish_due().is_some_and(|due| due <= now) {
            self.publish(now);
        }
        self.release();
        self.write_deletions(now);
        self.outbox.send(&self.shards);
        let retry = (!self.outbox.is_empty()).then_some(now + REPLY_RETRY);
        let deletions = self.deletions.due(self.catalog.are_deletions_doubtful(), now);
        [retry, self.publish_due(), deletions].into_iter().flatten().min()
    }

    /// Whether at least one version was published and every shard routes by the newest.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.published_at.is_some() && self.adopted_by_all() == self.snapshot.version()
    }

    /// Closes the link and refuses what still waits. Shards go on with the snapshot that they have.
    pub fn close(&mut self) {
        self.link.close();
        let gone = || Refusal::new(Code::Unavailable, "the control plane has stopped");
        for answer in std::mem::take(&mut self.answers) {
            answer.refused(gone(), &mut self.outbox);
        }
        self.deletions.close(&gone());
        while let Some(request) = self.link.receive() {
            match request {
                ControlRequest::Subscribe { shard, session, request, .. } => {
                    let result = Err(gone());
                    let reply = ControlReply::Subscribed { session, request, result };
                    self.outbox.push(shard, reply);
                }
                ControlRequest::Unsubscribe { shard, session, request, .. } => {
                    let result = Err(gone());
                    let reply = ControlReply::Unsubscribed { session, request, result };
                    self.outbox.push(shard, reply);
                }
                ControlRequest::EndClient { .. }
                | ControlRequest::Adopted { .. }
                | ControlRequest::TopicDeleted { .. } => {}
            }
        }
        self.outbox.send(&self.shards);
    }

    fn on_request(&mut self, request: ControlRequest) {
        match request {
            ControlRequest::Subscribe {
                shard,
                session,
                request,
                group,
                filter,
                mode,
                start,
                client,
            } => {
                let wanted = Wanted { group, filter, mode, start, client };
                self.on_subscribe(Asker { shard, session, request }, &wanted);
            }
            ControlRequest::Unsubscribe { shard, session, request, id } => {
                self.on_unsubscribe(Asker { shard, session, request }, id);
            }
            ControlRequest::EndClient { client } => {
                for id in self.roll.ephemeral_of(&client) {
                    self.remove(id);
                }
            }
            ControlRequest::Adopted { shard, version } => self.on_adopted(shard, version),
            ControlRequest::TopicDeleted { shard, number, result } => {
                self.on_topic_deleted(shard, number, result);
            }
        }
    }

    fn on_subscribe(&mut self, to: Asker, wanted: &Wanted) {
        let subscription = match self.subscribe(wanted) {
            Ok(subscription) => subscription,
            Err(refusal) => return self.outbox.push(to.shard, to.subscribed(Err(refusal))),
        };
        // A storm of clients that come back to what they had needs no version and no wait.
        let adopted = self.adopted_by_all() == self.snapshot.version();
        let known = self.snapshot.subscription(subscription.id);
        if adopted && known.is_some_and(|known| known.group == subscription.group) {
            return self.outbox.push(to.shard, to.subscribed(Ok(subscription)));
        }
        let version = self.newest();
        self.answers.push_back(Answer { version, what: Settled::Subscribed(to, subscription) });
    }

    fn subscribe(&mut self, wanted: &Wanted) -> Result<Arc<Subscription>, Refusal> {
        self.check_room()?;
        if let Way::Known(known) = self.roll.way(&self.next, wanted)? {
            return Ok(known);
        }
        let id = self.take_id()?;
        let group_name = wanted.group_name();
        let group = match self.next.group_by_name(&group_name) {
            Some(known) => known,
            None => GroupId(self.take_id()?),
        };
        let subscription = Arc::new(Subscription {
            id: SubscriptionId(id),
            group,
            group_name,
            filter: wanted.filter.clone(),
            mode: wanted.mode,
            start: wanted.start.clone().unwrap_or(Start::Tail),
            ephemeral_client: wanted.group.is_none().then(|| wanted.client.clone()),
        });
        self.roll.added(&subscription);
        self.next.add(subscription.clone());
        Ok(subscription)
    }

    /// A number that was never used.
    fn take_id(&mut self) -> Result<u64, Refusal> {
        self.ids.take(&mut self.catalog).map_err(|error| {
            error!(error = chain(&error), "numbers cannot be reserved");
            Refusal::new(Code::Unavailable, "the catalog cannot be written")
        })
    }

    /// Ends a subscription, for whoever is a member of it. One that is gone was ended by another.
    fn on_unsubscribe(&mut self, to: Asker, id: SubscriptionId) {
        if let Err(refusal) = self.check_room() {
            return self.outbox.push(to.shard, to.unsubscribed(Err(refusal)));
        }
        self.remove(id);
        assert!(self.next.subscription(id).is_none(), "what ended is in no later version");
        let version = self.newest();
        self.answers.push_back(Answer { version, what: Settled::Ended(to, id) });
    }

    fn remove(&mut self, id: SubscriptionId) {
        if let Some(removed) = self.next.remove(id) {
            self.roll.removed(&removed);
        }
    }

    fn on_adopted(&mut self, shard: u16, version: u64) {
        assert!(version <= self.snapshot.version(), "a shard adopts what was published");
        let adopted = &mut self.adopted[usize::from(shard)];
        *adopted = version.max(*adopted);
    }

    fn check_room(&self) -> Result<(), Refusal> {
        if self.answers.len() < ANSWERS_MAX {
            return Ok(());
        }
        let text = format!("{ANSWERS_MAX} requests wait for the shards");
        Err(Refusal::new(Code::Overloaded, text))
    }

    /// The version that holds everything done so far.
    fn newest(&self) -> u64 {
        self.snapshot.version() + u64::from(!self.next.is_unchanged())
    }

    fn adopted_by_all(&self) -> u64 {
        self.adopted.iter().copied().min().expect("a node has a shard")
    }

    /// None: nothing to publish, or the shards are too far behind; then the next adoption wakes us.
    fn publish_due(&self) -> Option<Instant> {
        let wanted = !self.next.is_unchanged() && self.held.len() <= SNAPSHOTS_AHEAD_MAX;
        self.published_at.filter(|_| wanted).map(|at| at + PUBLISH_INTERVAL)
    }

    /// Writes the catalog, then hands the next version to every shard.
    fn publish(&mut self, now: Instant) {
        if let Err(error) = self.commit() {
            error!(error = chain(&error), "durable subscriptions can neither begin nor end");
            self.take_back_durable();
        }
        if !self.next.is_unchanged() {
            self.hand_out(now);
        }
    }

    fn hand_out(&mut self, now: Instant) {
        let empty = SnapshotEditor::new(&self.snapshot);
        let snapshot = Arc::new(std::mem::replace(&mut self.next, empty).finish());
        self.next = SnapshotEditor::new(&snapshot);
        self.held.push_back(snapshot.clone());
        for shard in 0..self.shards.count() {
            self.outbox.push(shard, ControlReply::Snapshot(snapshot.clone()));
        }
        self.snapshot = snapshot;
        self.published_at = Some(now);
    }

    fn commit(&mut self) -> Result<(), CommitError> {
        let change = self.catalog_change();
        if change.is_empty() { Ok(()) } else { self.catalog.change(&change) }
    }

    /// What the next version changes of what the catalog holds, all steps taken together: what came and went within it
    /// was never there.
    fn catalog_change(&self) -> CatalogChange {
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut policies = BTreeSet::new();
        let mut touched = |known: &Arc<Subscription>| {
            if known.is_durable() {
                ids.insert(known.id);
                names.insert(known.group_name.clone());
            }
        };
        for change in self.next.changes() {
            match change {
                Change::Added(known) | Change::Removed(known) => touched(known),
                Change::Sought(sought) => sought.before.iter().for_each(&mut touched),
                // A group that has ended since, or was moved, is touched by that.
                Change::Paused { group, .. } => {
                    self.next.subscriptions_of(*group).into_iter().for_each(&mut touched);
                }
                Change::Policy(group) => drop(policies.insert(group.clone())),
            }
        }
        let mut change = CatalogChange::default();
        for id in ids {
            let before = self.snapshot.subscription(id);
            match (before, self.next.subscription(id)) {
                (_, Some(after)) if before != Some(after) => {
                    change.put.push((before.cloned(), after.clone()));
                }
                (Some(before), None) => change.removed.push(before.clone()),
                (_, Some(_)) | (None, None) => {}
            }
        }
        for name in names {
            let before = self.snapshot.group_by_name(&name);
            let was_paused = before.is_some_and(|group| self.snapshot.is_paused(group));
            let after = self.next.group_by_name(&name);
            let is_paused = after.is_some_and(|group| self.next.is_paused(group));
            if was_paused != is_paused {
                change.paused.push((name, is_paused));
            }
        }
        for group in policies {
            let setting = |policy: Option<&Arc<DeliveryPolicy>>| {
                Setting::delivery(&group, policy.map(|policy| &**policy))
            };
            let before = setting(self.snapshot.policy(&group));
            let after = setting(self.next.policy(&group));
            if before != after {
                change.settings.push((after, before));
            }
        }
        change
    }

    /// Makes the next version again without what it changes of durable subscriptions and of policies, and refuses those
    /// who wait for that.
    fn take_back_durable(&mut self) {
        let empty = SnapshotEditor::new(&self.snapshot);
        let given_up = std::mem::replace(&mut self.next, empty);
        // In the order in which it was done, backwards: a group's last subscription takes the group with it.
        for change in given_up.changes().iter().rev() {
            match change {
                Change::Added(added) if added.is_durable() => self.roll.removed(added),
                Change::Removed(removed) if removed.is_durable() => self.roll.added(removed),
                // Who pauses or moves a group, or sets its policy, changes nothing of what it is called.
                _ => {}
            }
        }
        // These are in the catalog already.
        if given_up.topic_policies().version() != self.next.topic_policies().version() {
            self.next.set_topic_policies(Arc::clone(given_up.topic_policies()));
        }
        for change in given_up.changes() {
            match change {
                Change::Added(added) if !added.is_durable() => self.next.add(added.clone()),
                Change::Removed(removed) if !removed.is_durable() => {
                    self.next.remove(removed.id);
                }
                // Only durable groups are paused and moved, and policies are durable.
                _ => {}
            }
        }
        let newest = self.newest();
        for mut answer in std::mem::take(&mut self.answers) {
            let is_lost = answer.version > self.snapshot.version()
                && match &answer.what {
                    Settled::Subscribed(_, new) => {
                        new.is_durable() && self.next.subscription(new.id).is_none()
                    }
                    Settled::GroupCreated(_, id) => self.next.subscription(*id).is_none(),
                    Settled::Ended(_, id) | Settled::GroupEnded(_, id) => {
                        self.next.subscription(*id).is_some()
                    }
                    Settled::GroupPaused(_, group, is_paused) => {
                        self.next.is_paused(*group) != *is_paused
                    }
                    Settled::GroupSought(_, sought) => {
                        self.next.subscriptions_of(sought.to()).is_empty()
                    }
                    Settled::PolicySet(_, group, policy) => {
                        self.next.policy(group).map(|known| **known) != *policy
                    }
                    Settled::TopicPolicySet(_) => false,
                };
            if is_lost {
                let refusal = Refusal::new(Code::Unavailable, "the catalog cannot be written");
                answer.refused(refusal, &mut self.outbox);
            } else {
                answer.version = answer.version.min(newest);
                self.answers.push_back(answer);
            }
        }
    }

    /// Sends the answers that have become true and lets go of the versions that nobody holds any more.
    fn release(&mut self) {
        let adopted = self.adopted_by_all();
        while let Some(answer) = self.answers.pop_front_if(|answer| answer.version <= adopted) {
            answer.settled(&mut self.outbox);
        }
        while self.held.pop_front_if(|snapshot| snapshot.version() < adopted).is_some() {}
    }
}

impl Asker {
    fn subscribed(self, result: Result<Arc<Subscription>, Refusal>) -> ControlReply {
        ControlReply::Subscribed { session: self.session, request: self.request, result }
    }

    fn unsubscribed(self, result: Result<(), Refusal>) -> ControlReply {
        ControlReply::Unsubscribed { session: self.session, request: self.request, result }
    }
}

impl Answer {
    fn settled(self, outbox: &mut Outbox) {
        match self.what {
            Settled::Subscribed(to, subscription) => {
                outbox.push(to.shard, to.subscribed(Ok(subscription)));
            }
            Settled::Ended(to, _) => outbox.push(to.shard, to.unsubscribed(Ok(()))),
            Settled::GroupEnded(answer, _)
            | Settled::GroupCreated(answer, _)
            | Settled::GroupPaused(answer, ..)
            | Settled::TopicPolicySet(answer)
            | Settled::PolicySet(answer, ..) => answer(Ok(())),
            Settled::GroupSought(answer, sought) => {
                // The shards first: whoever is told that the group has moved finds its members there.
                outbox.push_all(&ControlReply::Sought(sought));
                answer(Ok(()));
            }
        }
    }

    fn refused(self, refusal: Refusal, outbox: &mut Outbox) {
        match self.what {
            Settled::Subscribed(to, _) => outbox.push(to.shard, to.subscribed(Err(refusal))),
            Settled::Ended(to, _) => outbox.push(to.shard, to.unsubscribed(Err(refusal))),
            Settled::GroupEnded(answer, _)
            | Settled::GroupCreated(answer, _)
            | Settled::TopicPolicySet(answer)
            | Settled::GroupPaused(answer, ..)
            | Settled::GroupSought(answer, _)
            | Settled::PolicySet(answer, ..) => answer(Err(refusal)),
        }
    }
}

/// An error with its causes, for one line of the server's log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;

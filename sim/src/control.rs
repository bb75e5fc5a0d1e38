//! The control plane of the simulation: the rules of the real one, without its thread, its clock and its file. Durable
//! subscriptions outlive the process, as the catalog is written before a snapshot is published.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use codec::ids::{Offset, Partition};
use codec::limits::PARTITIONS;
use codec::refusal::{Code, Refusal};
use dataplane::control::{ControlReply, ControlRequest, LogName, LogsLeft, TopicOrder};
use dataplane::mail::Mail;
use dataplane::session::SessionKey;
use routing::snapshot::{RoutingSnapshot, SnapshotEditor, Sought};
use routing::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId};
use routing::topic::{TopicFilter, TopicName};
use routing::topic_policy::TopicPolicies;

use crate::faults::{Fault, Tally};
use crate::ledger::Ledger;
use crate::network::Network;
use crate::plan::Plan;
use crate::policies::Policies;
use crate::random::Random;

/// How often snapshots are published at most.
const PUBLISH_INTERVAL_US: u64 = 5_000;

/// Requests on their way to the control plane.
#[derive(Debug)]
pub struct ControlQueue {
    waiting: VecDeque<(u64, ControlRequest)>,
    len_max: usize,
    /// Whether the control plane takes requests.
    pub is_open: bool,
}

impl ControlQueue {
    /// Takes a request, if there is room and a control plane.
    ///
    /// # Errors
    /// There is not; the request comes back.
    pub fn send(
        &mut self,
        request: ControlRequest,
        now_us: u64,
        tally: &mut Tally,
    ) -> Result<(), ControlRequest> {
        if !self.is_open {
            return Err(request);
        }
        if self.waiting.len() >= self.len_max {
            tally.hit(Fault::ControlFull);
            return Err(request);
        }
        self.waiting.push_back((now_us, request));
        Ok(())
    }
}

/// Who waits for a version.
#[derive(Debug)]
struct Answer {
    version: u64,
    shard: u16,
    session: SessionKey,
    request: u64,
    /// `None`: an unsubscribe.
    subscription: Option<Arc<Subscription>>,
}

/// What an operator has ordered, and every shard is to adopt.
#[derive(Debug)]
enum Ordered {
    Sought(Arc<Sought>),
    Paused(GroupId),
}

/// A deletion that not every shard has answered.
#[derive(Debug)]
struct Deleting {
    waiting: BTreeSet<u16>,
    left: Vec<LogName>,
}

/// The control plane of a node.
#[derive(Debug)]
pub struct Control {
    /// Deletions that the catalog holds: of which topic, by its index, and from which logs alone.
    deletions: BTreeMap<u64, (usize, Option<Vec<LogName>>)>,
    /// Those that shards have been asked for in this life.
    deleting: BTreeMap<u64, Deleting>,
    /// Those that are over, and whether every log holds them.
    ended: Vec<(u64, bool)>,
    topics: Vec<TopicName>,
    /// Durable subscriptions: what a catalog holds.
    catalog: BTreeMap<SubscriptionId, Arc<Subscription>>,
    /// Names of groups that the catalog holds as paused.
    paused: BTreeSet<Arc<str>>,
    /// Orders whose version is not adopted by all.
    orders: VecDeque<(u64, Ordered)>,
    /// Moves that no version tells of yet.
    sought: Vec<Arc<Sought>>,
    next_id: u64,
    /// Requests.
    pub queue: ControlQueue,
    snapshot: Arc<RoutingSnapshot>,
    next: SnapshotEditor,
    live: BTreeMap<SubscriptionId, Arc<Subscription>>,
    adopted: Vec<u64>,
    answers: VecDeque<Answer>,
    published_us: u64,
    topic_policies: Arc<TopicPolicies>,
    policies: Policies,
    random: Random,
}

/// What a client asks for, and how the control plane knows it again.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The group that clients name; none for an ephemeral subscription.
    pub group: Option<Arc<str>>,
    /// What to match.
    pub filter: TopicFilter,
    /// How the work is divided.
    pub mode: Mode,
    /// Who asks.
    pub client: Arc<str>,
}

impl Wanted {
    /// The group's full name; none for an ephemeral one, which has a number in it.
    fn group_name(&self) -> Option<Arc<str>> {
        let group = self.group.as_ref()?;
        Some(match self.mode {
            Mode::Clustering => group.clone(),
            Mode::Broadcasting => format!("{group}/$client/{}", self.client).into(),
        })
    }
}

impl Control {
    /// A control plane with an empty catalog.
    #[must_use]
    pub fn new(plan: &Plan, random: Random) -> Self {
        let snapshot = Arc::new(RoutingSnapshot::empty());
        Control {
            deletions: BTreeMap::new(),
            deleting: BTreeMap::new(),
            ended: Vec::new(),
            topics: plan.topics.clone(),
            catalog: BTreeMap::new(),
            paused: BTreeSet::new(),
            orders: VecDeque::new(),
            sought: Vec::new(),
            next_id: 1,
            queue: ControlQueue {
                waiting: VecDeque::new(),
                len_max: plan.control_len_max,
                is_open: false,
            },
            next: SnapshotEditor::new(&snapshot),
            snapshot,
            live: BTreeMap::new(),
            adopted: Vec::new(),
            answers: VecDeque::new(),
            published_us: 0,
            topic_policies: Arc::new(plan.topic_policies()),
            policies: plan.policies.clone(),
            random,
        }
    }

    /// A new life of the process: shards know nothing yet, and ephemeral subscriptions have ended.
    pub fn start(&mut self, shards: u16, now_us: u64, network: &mut Network, tally: &mut Tally) {
        self.snapshot = Arc::new(RoutingSnapshot::empty());
        self.next = SnapshotEditor::new(&self.snapshot);
        self.next.set_topic_policies(Arc::clone(&self.topic_policies));
        self.live = self.catalog.clone();
        for subscription in self.live.values() {
            self.next.add(subscription.clone());
        }
        for (group, policy) in self.policies.each() {
            self.next.set_policy(group, Some(Arc::new(*policy)));
        }
        for name in &self.paused {
            if let Some(group) = self.next.group_by_name(name) {
                self.next.set_paused(group, true);
            }
        }
        self.orders.clear();
        self.sought.clear();
        self.adopted = vec![0; usize::from(shards)];
        self.answers.clear();
        self.queue.waiting.clear();
        self.queue.is_open = true;
        self.ended.clear();
        self.deleting.clear();
        // Before the first version: nobody publishes before that.
        for (number, (topic, logs)) in self.deletions.clone() {
            self.ask_to_delete(number, topic, logs, now_us, network, tally);
        }
        self.publish(now_us, network, tally);
    }

    /// An operator deletes a topic: into the catalog, then to every shard. Returns the number of the deletion.
    pub fn delete_topic(
        &mut self,
        topic: usize,
        now_us: u64,
        network: &mut Network,
        tally: &mut Tally,
    ) -> Option<u64> {
        if !self.queue.is_open {
            return None;
        }
        let number = self.deletions.last_key_value().map_or(1, |(last, _)| last + 1);
        self.deletions.insert(number, (topic, None));
        self.ask_to_delete(number, topic, None, now_us, network, tally);
        Some(number)
    }

    fn ask_to_delete(
        &mut self,
        number: u64,
        topic: usize,
        logs: Option<Vec<LogName>>,
        now_us: u64,
        network: &mut Network,
        tally: &mut Tally,
    ) {
        let topic = self.topics[topic].as_str().into();
        let order = Arc::new(TopicOrder { number, topic, logs });
        let shards = 0..self.adopted.len() as u16;
        for shard in shards.clone() {
            let mail = Mail::Control(ControlReply::DeleteTopic(order.clone()));
            network.send_from_control(shard, mail, now_us, tally);
        }
        let deleting = Deleting { waiting: shards.collect(), left: Vec::new() };
        self.deleting.insert(number, deleting);
    }

    /// Deletions that are not finished: of which topic, by its index, and from which logs alone.
    #[must_use]
    pub fn begun_deletions(&self) -> &BTreeMap<u64, (usize, Option<Vec<LogName>>)> {
        &self.deletions
    }

    /// Deletions that have come to an end, and whether every log holds them.
    pub fn take_ended(&mut self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.ended)
    }

    fn on_topic_deleted(&mut self, shard: u16, number: u64, result: Result<u64, LogsLeft>) {
        let deleting = self.deleting.get_mut(&number).expect("it is known until all have answered");
        assert!(deleting.waiting.remove(&shard), "a shard answers once");
        deleting.left.extend(result.err().into_iter().flat_map(|left| left.logs));
        if !deleting.waiting.is_empty() {
            return;
        }
        let Deleting { left, .. } = self.deleting.remove(&number).expect("looked at just now");
        let (topic, _) = self.deletions.remove(&number).expect("the catalog holds it");
        self.ended.push((number, left.is_empty()));
        if !left.is_empty() {
            self.deletions.insert(number, (topic, Some(left)));
        }
    }

    /// The control plane's thread ends; shards go on without it.
    pub fn stop(&mut self, now_us: u64, network: &mut Network, tally: &mut Tally) {
        // Its orders stay: what was on its way before may still tell a client that it stands where it is being moved from.
        self.queue.is_open = false;
        let gone = || Refusal::from(Code::Unavailable);
        for answer in std::mem::take(&mut self.answers) {
            let Answer { shard, session, request, subscription, .. } = answer;
            let reply = match subscription {
                Some(_) => ControlReply::Subscribed { session, request, result: Err(gone()) },
                None => ControlReply::Unsubscribed { session, request, result: Err(gone()) },
            };
            network.send_from_control(shard, Mail::Control(reply), now_us, tally);
        }
        while let Some((_, request)) = self.queue.waiting.pop_front() {
            let (shard, reply) = match request {
                ControlRequest::Subscribe { shard, session, request, .. } => {
                    (shard, ControlReply::Subscribed { session, request, result: Err(gone()) })
                }
                ControlRequest::Unsubscribe { shard, session, request, .. } => {
                    (shard, ControlReply::Unsubscribed { session, request, result: Err(gone()) })
                }
                ControlRequest::EndClient { .. }
                | ControlRequest::Adopted { .. }
                | ControlRequest::TopicDeleted { .. } => continue,
            };
            network.send_from_control(shard, Mail::Control(reply), now_us, tally);
        }
    }

    /// Whether every shard routes by the newest version.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.adopted_by_all() == self.snapshot.version()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.waiting.is_empty()
            && self.answers.is_empty()
            && self.orders.is_empty()
            && self.deleting.is_empty()
            && self.next.is_unchanged()
    }

    /// An operator moves, pauses or resumes some durable group.
    pub fn operate(&mut self, random: &mut Random, tally: &mut Tally) {
        let durable = self.live.values().filter(|known| known.is_durable());
        let groups: Vec<GroupId> = durable.map(|known| known.group).collect();
        if groups.is_empty() || !self.queue.is_open {
            return;
        }
        let group = random.pick(&groups);
        if random.chance(500) {
            let start = self.some_start(group, random);
            return self.seek(group, &start, tally);
        }
        let is_paused = !self.next.is_paused(group);
        if is_paused {
            tally.hit(Fault::GroupPaused);
        }
        self.set_paused(group, is_paused);
    }

    /// Whether some shard may not know yet that a group has moved there.
    #[must_use]
    pub fn is_moving(&self, group: GroupId) -> bool {
        let mut orders = self.orders.iter().map(|(_, order)| order);
        orders.any(|order| matches!(order, Ordered::Sought(sought) if sought.to() == group))
    }

    /// Everything that rests goes on.
    pub fn resume_all(&mut self) {
        let groups: BTreeSet<GroupId> = self.live.values().map(|known| known.group).collect();
        for group in groups {
            if self.queue.is_open && self.next.is_paused(group) {
                self.set_paused(group, false);
            }
        }
    }

    fn some_start(&self, group: GroupId, random: &mut Random) -> Start {
        let known = self.next.subscriptions_of(group);
        let is_exact = known.iter().all(|known| known.filter.exact_name().is_some());
        match random.below(if is_exact { 3 } else { 2 }) {
            0 => Start::Earliest,
            1 => Start::Tail,
            _ => {
                let partition = Partition(random.below(u64::from(PARTITIONS)) as u16);
                Start::Offsets(vec![(partition, Offset(random.below(40)))])
            }
        }
    }

    fn seek(&mut self, group: GroupId, start: &Start, tally: &mut Tally) {
        let to = GroupId(self.take_id());
        let Some(sought) = self.next.seek(group, to, start) else { return };
        for after in &sought.after {
            self.live.insert(after.id, after.clone());
        }
        tally.hit(Fault::GroupSought);
        self.sought.push(sought.clone());
        self.orders.push_back((self.newest(), Ordered::Sought(sought)));
    }

    fn set_paused(&mut self, group: GroupId, is_paused: bool) {
        self.next.set_paused(group, is_paused);
        if is_paused {
            self.orders.push_back((self.newest(), Ordered::Paused(group)));
        }
    }

    /// Orders that every shard has adopted: members go over, and who is paused is given nothing more.
    fn answer_orders(
        &mut self,
        now_us: u64,
        network: &mut Network,
        ledger: &mut Ledger,
        tally: &mut Tally,
    ) {
        let adopted = self.adopted_by_all();
        while let Some((_, order)) = self.orders.pop_front_if(|(version, _)| *version <= adopted) {
            match order {
                Ordered::Sought(sought) => {
                    for after in &sought.after {
                        ledger.subscription_answered(after.group, after.id);
                    }
                    for shard in 0..self.adopted.len() as u16 {
                        let mail = Mail::Control(ControlReply::Sought(sought.clone()));
                        network.send_from_control(shard, mail, now_us, tally);
                    }
                }
                Ordered::Paused(group) if self.next.is_paused(group) => {
                    ledger.group_mut(group).paused_since_us.get_or_insert(now_us);
                }
                Ordered::Paused(_) => {}
            }
        }
    }

    /// What the next version says of moves and pauses becomes true for clients.
    fn note_operated(&mut self, ledger: &mut Ledger) {
        for sought in std::mem::take(&mut self.sought) {
            let before = ledger.group_mut(sought.from());
            before.is_over = true;
            let name: Arc<str> = before.name().into();
            ledger.moved.insert(name.clone());
            ledger.ever_moved.insert(name);
            sought.after.iter().for_each(|after| ledger.subscription_made(after));
        }
        for (group, book) in &mut ledger.groups {
            book.paused_since_us = book.paused_since_us.filter(|_| self.next.is_paused(*group));
        }
    }

    /// From here on the queue is large.
    pub fn calm(&mut self) {
        self.queue.len_max = 4_096;
    }

    /// Takes requests, publishes what is due, answers what all shards have adopted.
    pub fn turn(
        &mut self,
        now_us: u64,
        network: &mut Network,
        ledger: &mut Ledger,
        tally: &mut Tally,
    ) {
        if !self.queue.is_open {
            return;
        }
        let take = self.random.between(1, 8);
        for _ in 0..take {
            let Some((_, request)) = self.queue.waiting.pop_front() else { break };
            self.on_request(request, now_us, network, ledger, tally);
        }
        if !self.next.is_unchanged() && now_us >= self.published_us + PUBLISH_INTERVAL_US {
            self.note_operated(ledger);
            self.publish(now_us, network, tally);
        }
        let adopted = self.adopted_by_all();
        while let Some(answer) = self.answers.pop_front_if(|answer| answer.version <= adopted) {
            let Answer { shard, session, request, subscription, .. } = answer;
            let reply = match subscription {
                Some(subscription) => {
                    ControlReply::Subscribed { session, request, result: Ok(subscription) }
                }
                None => ControlReply::Unsubscribed { session, request, result: Ok(()) },
            };
            network.send_from_control(shard, Mail::Control(reply), now_us, tally);
        }
        self.answer_orders(now_us, network, ledger, tally);
    }

    /// The subscription that meets a wish, if it is there.
    #[must_use]
    pub fn find(&self, wanted: &Wanted) -> Option<&Arc<Subscription>> {
        let name = wanted.group_name();
        self.live.values().find(|known| {
            known.filter == wanted.filter
                && match &name {
                    Some(name) => known.group_name == *name,
                    None => known.ephemeral_client.as_ref() == Some(&wanted.client),
                }
        })
    }

    fn on_request(
        &mut self,
        request: ControlRequest,
        now_us: u64,
        network: &mut Network,
        ledger: &mut Ledger,
        tally: &mut Tally,
    ) {
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
                let wanted = Wanted { group, filter, mode, client };
                match self.subscribe(&wanted, start, ledger) {
                    Ok(subscription) => {
                        let version = self.newest();
                        let subscription = Some(subscription);
                        self.answers.push_back(Answer {
                            version,
                            shard,
                            session,
                            request,
                            subscription,
                        });
                    }
                    Err(refusal) => {
                        let reply =
                            ControlReply::Subscribed { session, request, result: Err(refusal) };
                        network.send_from_control(shard, Mail::Control(reply), now_us, tally);
                    }
                }
            }
            ControlRequest::Unsubscribe { shard, session, request, id } => {
                self.remove(id, ledger);
                let version = self.newest();
                self.answers.push_back(Answer {
                    version,
                    shard,
                    session,
                    request,
                    subscription: None,
                });
            }
            ControlRequest::EndClient { client } => {
                let ended = self.live.values();
                let ended = ended.filter(|known| known.ephemeral_client.as_ref() == Some(&client));
                let ended: Vec<_> = ended.map(|known| known.id).collect();
                for id in ended {
                    self.remove(id, ledger);
                }
            }
            ControlRequest::TopicDeleted { shard, number, result } => {
                self.on_topic_deleted(shard, number, result);
            }
            ControlRequest::Adopted { shard, version } => {
                let adopted = &mut self.adopted[usize::from(shard)];
                *adopted = version.max(*adopted);
            }
        }
    }

    fn subscribe(
        &mut self,
        wanted: &Wanted,
        start: Option<Start>,
        ledger: &mut Ledger,
    ) -> Result<Arc<Subscription>, Refusal> {
        let name = wanted.group_name();
        let known_group = name.as_ref().and_then(|name| self.next.group_by_name(name));
        if start.is_some() && known_group.is_some() {
            return Err(Code::GroupExists.into());
        }
        if let Some(known) = self.find(wanted) {
            return Ok(known.clone());
        }
        let id = self.take_id();
        let group = match known_group {
            Some(known) => known,
            None => GroupId(self.take_id()),
        };
        let ephemeral = || format!("$ephemeral/{}/{id}", wanted.client).into();
        let subscription = Arc::new(Subscription {
            id: SubscriptionId(id),
            group,
            group_name: name.unwrap_or_else(ephemeral),
            filter: wanted.filter.clone(),
            mode: wanted.mode,
            start: start.unwrap_or(Start::Tail),
            ephemeral_client: wanted.group.is_none().then(|| wanted.client.clone()),
        });
        ledger.subscription_made(&subscription);
        self.live.insert(subscription.id, subscription.clone());
        self.next.add(subscription.clone());
        Ok(subscription)
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn remove(&mut self, id: SubscriptionId, ledger: &mut Ledger) {
        if let Some(removed) = self.live.remove(&id) {
            self.next.remove(id);
            ledger.group_mut(removed.group).is_over = true;
        }
    }

    fn publish(&mut self, now_us: u64, network: &mut Network, tally: &mut Tally) {
        let durable = self.live.iter().filter(|(_, known)| known.is_durable());
        self.catalog.extend(durable.map(|(id, known)| (*id, known.clone())));
        let paused = self.live.values().filter(|known| self.next.is_paused(known.group));
        self.paused = paused.map(|known| known.group_name.clone()).collect();
        let empty = SnapshotEditor::new(&self.snapshot);
        let snapshot = Arc::new(std::mem::replace(&mut self.next, empty).finish());
        self.next = SnapshotEditor::new(&snapshot);
        for shard in 0..self.adopted.len() as u16 {
            let mail = Mail::Control(ControlReply::Snapshot(snapshot.clone()));
            network.send_from_control(shard, mail, now_us, tally);
        }
        self.snapshot = snapshot;
        self.published_us = now_us;
    }

    fn newest(&self) -> u64 {
        self.snapshot.version() + u64::from(!self.next.is_unchanged())
    }

    fn adopted_by_all(&self) -> u64 {
        self.adopted.iter().copied().min().unwrap_or(0)
    }
}

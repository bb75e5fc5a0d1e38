//! What a seed means: the shape of the node, its work, its faults and its clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use codec::ack::AckLevel;
use codec::ids::{Offset, Partition, Timestamp};
use codec::limits::PARTITIONS;
use codec::murmur2::partition_of;
use dataplane::options::ShardOptions;
use log::options::{LogOptions, Sync};
use routing::delivery_policy::DeliveryPolicy;
use routing::subscription::{Mode, Start};
use routing::topic::{TopicFilter, TopicName};
use routing::topic_policy::{TopicPolicies, TopicPolicy};

use crate::disk::queue::QueueOptions;
use crate::network::NetworkOptions;
use crate::policies::Policies;
use crate::random::Random;

/// Seeds from here on mean what those below mean, on disks that are far slower.
pub const SLOW_DISKS_FROM: u64 = 1_000_000;
/// Wall time at the start of every run: 2026-01-01.
pub const WALL_START_US: u64 = 1_767_225_600_000_000;
/// Cycles that a run has at least before faults stop.
pub const CYCLES_MIN: u64 = 2_000;
/// Events that a run publishes at least, attempts after a loss not counted.
pub const EVENTS_MIN: u64 = 500;

const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "a/c", "b", "b/c", "x/y/z", "x/Y"];
const FILTERS: [&str; 9] = ["#", "a/#", "+/c", "a/+", "b", "a/b/c", "x/#", "+", "a/b/#"];

/// When the node goes down, and how it comes back.
#[derive(Clone, Copy, Debug)]
pub struct Disaster {
    /// After so many cycles.
    pub at_cycle: u64,
    /// Whether power is lost; else the process is killed.
    pub power: bool,
    /// Shards of the next life.
    pub shards: u16,
    /// The first recovery loses power after so many operations.
    pub recovery_steps: Option<u64>,
}

/// How a subscriber treats its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// Settles soon.
    Prompt,
    /// Often keeps deliveries beyond the deadline.
    Slow,
    /// Hands back, settles in part, settles twice.
    Fickle,
    /// Vanishes and comes back.
    Flaky,
}

/// One wish of a subscriber.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The group; none for an ephemeral subscription.
    pub group: Option<Arc<str>>,
    /// What to match.
    pub filter: TopicFilter,
    /// How the work is divided.
    pub mode: Mode,
    /// Where a new group starts.
    pub start: Option<Start>,
    /// Events in flight.
    pub credit: u32,
}

/// Which of its group's keys stick to a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its number among those of the group.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

/// One subscriber.
#[derive(Clone, Debug)]
pub struct SubscriberPlan {
    /// Its client's id.
    pub client: Arc<str>,
    /// What it wants.
    pub wishes: Vec<Wish>,
    /// How it behaves.
    pub temper: Temper,
    /// When it first comes.
    pub comes_us: u64,
    /// Where its group divides the keys among its members: its part of them.
    pub sticky: Option<Slot>,
}

/// One publisher.
#[derive(Clone, Copy, Debug)]
pub struct PublisherPlan {
    /// Events it publishes.
    pub events: u64,
    /// Batches under way.
    pub window: usize,
    /// Most events of a batch.
    pub batch_max: u64,
    /// Whether its events have keys.
    pub keyed: bool,
    /// Largest data of an event.
    pub data_bytes_max: u64,
}

/// Everything that is decided before a run begins.
/// A retention of a topic's own; 0: for ever, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How long an event is kept at least.
    pub seconds: u64,
    /// How much is kept of each partition at least.
    pub bytes: u64,
}

/// All that a seed decides before its run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Shards of the first life.
    pub shards: u16,
    /// When the node goes down.
    pub disasters: Vec<Disaster>,
    /// Cycles before faults stop.
    pub cycles: u64,
    /// The longest step of the clock.
    pub step_us_max: u64,
    /// Whether shards run only when something woke them, as under the real runtime; else they are also run for
    /// nothing.
    pub waits_for_wake: bool,
    /// Topics.
    pub topics: Vec<TopicName>,
    /// Keys, each with its partition.
    pub keys: Vec<(String, Partition)>,
    /// Publishers.
    pub publishers: Vec<PublisherPlan>,
    /// Subscribers.
    pub subscribers: Vec<SubscriberPlan>,
    /// Mailboxes.
    pub network: NetworkOptions,
    /// Disk.
    pub queue: QueueOptions,
    /// Logs.
    pub log: LogOptions,
    /// Shards; index and count are set for each life.
    pub shard: ShardOptions,
    /// Requests that may wait for the control plane.
    pub control_len_max: usize,
    /// How often in 100,000 steps each of the rarer faults begins.
    pub rare_fault_chance: u64,
    /// How often in 100,000 steps reads begin to fail.
    pub read_fault_chance: u64,
    /// How often in a thousand looks at its connection a member leaves its group and comes back.
    pub leave_chance: u64,
    /// How many in a thousand batches are received where they are to stay.
    pub landed_per_mille: u64,
    /// The ack level of each topic, where a policy says one.
    pub topic_acks: Vec<Option<AckLevel>>,
    /// How long each topic is kept, if it has a retention of its own.
    pub topic_keeps: Vec<Option<Keep>>,
    /// How groups deliver, where it is not as the server is configured.
    pub policies: Policies,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(random: &mut Random) -> Self {
        let shards = random.pick(&[1, 2, 2, 2, 4]);
        let cycles = random.between(CYCLES_MIN + 200, 3_200);
        let keys = keys(random);
        let topics = TOPICS.iter().map(|topic| TopicName::new(*topic).expect("a topic")).collect();
        let deadline = random.between(300_000, 900_000);
        let plan = Plan {
            shards,
            disasters: disasters(random, cycles),
            cycles,
            step_us_max: random.pick(&[100, 400, 1_500]),
            waits_for_wake: random.chance(500),
            topics,
            keys,
            publishers: publishers(random),
            subscribers: subscribers(random),
            network: NetworkOptions {
                mailbox_len_max: random.pick(&[4, 16, 256]),
                slow_per_mille: random.pick(&[0, 20, 200]),
                delay_us_max: 20_000,
            },
            queue: QueueOptions {
                slow_per_mille: random.pick(&[0, 20, 200]),
                slow_us_max: random.between(5_000, 40_000),
                usual_us_max: random.between(100, 3_000),
            },
            log: log_options(random),
            shard: shard_options(random, deadline),
            control_len_max: random.pick(&[1, 4, 64]),
            rare_fault_chance: random.pick(&[0, 40, 120]),
            read_fault_chance: 0,
            leave_chance: 0,
            landed_per_mille: 0,
            topic_acks: vec![None; TOPICS.len()],
            topic_keeps: vec![None; TOPICS.len()],
            policies: Policies::default(),
        };
        // Drawn from numbers of their own, so that what else a seed means does not change with them.
        plan.with_extras(&mut random.clone().fork().fork())
    }

    /// The same with delivery policies, which only some runs have.
    #[must_use]
    pub fn with_policies(mut self, random: &mut Random) -> Self {
        let wishes = self.subscribers.iter().flat_map(|subscriber| &subscriber.wishes);
        let groups = wishes.filter_map(|wish| wish.group.clone());
        self.policies = Policies::new(random, groups);
        let park_after_us = self.policies.park_after_us;
        self.shard.park_after_us = park_after_us.unwrap_or(self.shard.park_after_us);
        self
    }

    /// The same with groups whose keys stick to their members, which only some runs have.
    #[must_use]
    pub fn with_sticky(mut self, random: &mut Random) -> Self {
        if !random.chance(150) {
            return self;
        }
        let mut slots: BTreeMap<Arc<str>, Option<usize>> = BTreeMap::new();
        for subscriber in &mut self.subscribers {
            let wish = &subscriber.wishes[0];
            let Some(group) = wish.group.clone().filter(|_| wish.mode == Mode::Clustering) else {
                continue;
            };
            let count = slots.entry(group).or_insert_with(|| random.chance(600).then_some(0));
            let Some(count) = count else { continue };
            subscriber.sticky = Some(Slot { index: *count, count: 0 });
            *count += 1;
        }
        for subscriber in &mut self.subscribers {
            let group = subscriber.wishes[0].group.as_ref().and_then(|group| slots.get(group));
            if let (Some(slot), Some(Some(count))) = (&mut subscriber.sticky, group) {
                slot.count = *count;
                assert!(slot.index < slot.count, "a slot is one of those that there are");
            }
        }
        self
    }

    /// The same on slow disks: what waits for one is overtaken by what does not, by retention, deadlines and the power.
    #[must_use]
    pub fn with_slow_disks(mut self) -> Self {
        self.queue.slow_per_mille = 100;
        self.queue.slow_us_max *= 10;
        self.queue.usual_us_max *= 2;
        self
    }

    /// How long a member of a group may keep a delivery.
    #[must_use]
    pub fn ack_timeout_us(&self, policy: &DeliveryPolicy) -> u64 {
        policy.ack_timeout_ms.map_or(self.shard.ack_deadline_us, |ms| ms * 1_000)
    }

    /// What only some runs have.
    fn with_extras(mut self, random: &mut Random) -> Self {
        use AckLevel::{Durable, Received, Written};
        self.shard.ack =
            random.pick(&[Durable, Durable, Durable, Durable, Durable, Durable, Written, Received]);
        self.read_fault_chance = random.pick(&[0, 0, 60, 200]);
        self.leave_chance = random.pick(&[0, 0, 2, 8]);
        self.shard.lent_bytes_max = random.pick(&[0, 64 << 10, 128 << 20]);
        self.shard.remote_publish_bytes_max = random.pick(&[1, 20_000, 32 << 20]);
        self.log.retention_bytes = random.pick(&[None, None, None, Some(64 << 10), Some(300_000)]);
        if self.log.retention_bytes.is_some() {
            self.publishers.iter_mut().for_each(|publisher| publisher.data_bytes_max = 4_000);
        }
        self.log.read_bytes_max = random.pick(&[256 << 10, 64 << 20, 64 << 20]);
        // Whoever waits for durable may do so with syncs behind the writes, too: nothing shows better what these cover.
        let is_behind = self.shard.ack != Durable || random.chance(200);
        self.log.sync = if is_behind { Sync::Behind } else { Sync::EachWrite };
        self.log.sync_after = Duration::from_micros(random.pick(&[0, 500, 10_000, 100_000]));
        self.log.sync_bytes = random.pick(&[4 << 10, 64 << 10, 8 << 20]);
        self.log.unsynced_bytes_max = random.pick(&[16 << 10, 256 << 10, 32 << 20]);
        self.landed_per_mille = random.pick(&[0, 0, 300, 1_000]);
        if random.chance(300) {
            let levels = [None, Some(Durable), Some(Written), Some(Received)];
            self.topic_acks.iter_mut().for_each(|ack| *ack = random.pick(&levels));
        }
        if self.log.retention_bytes.is_some() && random.chance(600) {
            let keep = |seconds, bytes| Some(Keep { seconds, bytes });
            let keeps = [None, keep(1, 0), keep(0, 32 << 10), keep(0, 0)];
            self.topic_keeps.iter_mut().for_each(|keeps_by| *keeps_by = random.pick(&keeps));
        }
        self
    }

    /// The ack level of a topic, by its number.
    #[must_use]
    pub fn ack_of(&self, topic: usize) -> AckLevel {
        self.topic_acks[topic].unwrap_or(self.shard.ack)
    }

    /// What the control plane says of topics.
    #[must_use]
    pub fn topic_policies(&self) -> TopicPolicies {
        let all = self.topics.iter().zip(self.topic_acks.iter().zip(&self.topic_keeps));
        let said = all.filter(|(_, (ack, keep))| ack.is_some() || keep.is_some());
        let list = said.map(|(topic, (ack, keep))| {
            let filter = TopicFilter::new(topic.as_str()).expect("a name is a filter");
            let (retention_seconds, retention_bytes) =
                (keep.map(|keep| keep.seconds), keep.map(|keep| keep.bytes));
            let kept = TopicPolicy { retention_seconds, retention_bytes, ..TopicPolicy::default() };
            (filter, TopicPolicy { ack: *ack, ..kept })
        });
        TopicPolicies::new(1, list.collect())
    }
}

fn disasters(random: &mut Random, cycles: u64) -> Vec<Disaster> {
    let count = random.between(1, 4);
    let mut list = Vec::new();
    for number in 0..count {
        let from = cycles * number / count;
        let to = cycles * (number + 1) / count;
        list.push(Disaster {
            at_cycle: random.between(from + 60, to - 40),
            // One at least: nothing else shows what is durable.
            power: number == 0 || random.chance(600),
            shards: random.pick(&[1, 2, 2, 4]),
            recovery_steps: random.chance(300).then(|| random.below(120)),
        });
    }
    list
}

/// Several keys on each of a few partitions, so that keys share partitions, and both shards have some.
fn keys(random: &mut Random) -> Vec<(String, Partition)> {
    let partitions: Vec<u16> = (0..4).map(|_| random.below(u64::from(PARTITIONS)) as u16).collect();
    let named = (0..4_000_u32).map(|number| {
        let key = format!("key-{number}");
        let partition = partition_of(key.as_bytes(), PARTITIONS);
        (key, partition)
    });
    let mut keys = Vec::new();
    for (key, partition) in named {
        let known = keys.iter().filter(|(_, known)| *known == partition).count();
        if partitions.contains(&partition.0) && known < 3 {
            keys.push((key, partition));
        }
    }
    keys
}

fn publishers(random: &mut Random) -> Vec<PublisherPlan> {
    let count = random.between(2, 5);
    let each = (EVENTS_MIN + random.below(200)).div_ceil(count);
    let data = random.pick(&[40, 600, 4_000]);
    let publisher = |_| PublisherPlan {
        events: each,
        window: random.pick(&[1, 4, 16]),
        batch_max: random.pick(&[1, 3, 8]),
        keyed: random.chance(700),
        data_bytes_max: data,
    };
    (0..count).map(publisher).collect()
}

fn subscribers(random: &mut Random) -> Vec<SubscriberPlan> {
    let mut list = Vec::new();
    let groups = random.between(2, 4);
    for group in 0..groups {
        let name: Arc<str> = format!("group-{group}").into();
        let (filters, start) = filters_and_start(random);
        let mode = if random.chance(250) { Mode::Broadcasting } else { Mode::Clustering };
        for member in 0..random.between(1, 4) {
            let wish = |filter: &TopicFilter, start: &Option<Start>, random: &mut Random| Wish {
                group: Some(name.clone()),
                filter: filter.clone(),
                mode,
                start: start.clone(),
                credit: random.pick(&[1, 3, 20, 200]),
            };
            // Later filters join the group where it stands.
            let mut wishes = vec![wish(&filters[0], &start, random)];
            wishes.extend(filters[1..].iter().map(|filter| wish(filter, &None, random)));
            list.push(SubscriberPlan {
                client: format!("client-{group}-{member}").into(),
                wishes,
                temper: random.pick(&[Temper::Prompt, Temper::Slow, Temper::Fickle, Temper::Flaky]),
                comes_us: random.pick(&[0, 0, 300_000]),
                sticky: None,
            });
        }
    }
    for number in 0..random.between(1, 2) {
        let wish = Wish {
            group: None,
            filter: filter(random.pick(&FILTERS)),
            mode: Mode::Clustering,
            start: None,
            credit: random.pick(&[2, 50]),
        };
        list.push(SubscriberPlan {
            client: format!("passer-by-{number}").into(),
            wishes: vec![wish],
            temper: random.pick(&[Temper::Prompt, Temper::Flaky, Temper::Fickle]),
            comes_us: random.below(200_000),
            sticky: None,
        });
    }
    list
}

fn filters_and_start(random: &mut Random) -> (Vec<TopicFilter>, Option<Start>) {
    if random.chance(150) {
        let topic = filter(random.pick(&TOPICS));
        let offset = |random: &mut Random| Offset(random.below(6));
        let list = (0..PARTITIONS).step_by(2).map(|number| (Partition(number), offset(random)));
        let list = list.collect();
        return (vec![topic], Some(Start::Offsets(list)));
    }
    let mut filters = vec![filter(random.pick(&FILTERS))];
    if random.chance(400) {
        let second = filter(random.pick(&FILTERS));
        if second != filters[0] {
            filters.push(second);
        }
    }
    let start = match random.below(4) {
        0 => None,
        1 => Some(Start::Tail),
        2 => Some(Start::Earliest),
        _ => Some(Start::Time(Timestamp(WALL_START_US + random.below(2_000_000)))),
    };
    (filters, start)
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).expect("the filters of the simulation are filters")
}

fn log_options(random: &mut Random) -> LogOptions {
    LogOptions {
        segment_bytes: 1 << 20,
        commit_bytes_max: random.pick(&[16 << 10, 64 << 10, 256 << 10]),
        commits_in_flight_max: random.pick(&[1, 2, 2, 4]),
        cache_bytes: random.pick(&[0, 64 << 10, 4 << 20]),
        checkpoint_every_bytes: random.pick(&[256 << 10, 1 << 20]),
        idle_mark_after: Duration::from_millis(random.between(50, 1_000)),
        cursor_commit_after: Duration::from_millis(random.between(5, 100)),
        ..LogOptions::default()
    }
}

fn shard_options(random: &mut Random, deadline: u64) -> ShardOptions {
    ShardOptions {
        node: 7,
        ack_deadline_us: deadline,
        retry_delay_us: random.between(1_000, 20_000),
        retry_delay_max_us: 100_000,
        ephemeral_expiry_us: random.between(200_000, 2_000_000),
        in_flight_bytes_max: random.pick(&[2_000, 64 << 10, 256 << 20]),
        ..ShardOptions::default()
    }
}

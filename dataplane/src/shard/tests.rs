//! Whole shards over the simulated disk: publish, route, deliver, settle, on one shard and over two.

mod clock;
mod dead;
mod deadlines;
mod deletion;
mod held;
mod moved;
mod parked;
mod policies;
mod sticky;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use codec::attribute::{Key, Value};
use codec::batch::Batch;
use codec::body::Body;
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::header::HeaderSeed;
use codec::ids::{Timestamp, TopicId};
use codec::murmur2::partition_of;
use codec::refusal::Code;
use log::disk::{Completed, Completion, Disk, DiskOp, LogKey};
use log::folder::{self, FolderLock, FolderOptions};
use log::options::LogOptions;
use log::sim_disk::{SimDisk, SimStorage};
use routing::snapshot::{RoutingSnapshot, SnapshotEditor};
use routing::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId, group_name};
use routing::topic::TopicFilter;

use crate::control::{ControlReply, ControlRequest, LogsLeft};
use crate::kernel::{Kernel, Now};
use crate::mail::Mail;
use crate::options::ShardOptions;
use crate::selection::Selection;
use crate::session::{
    Admission, Asked, Delivery, SessionEvent, SessionKey, SubscribeRequest, Verdict,
};
use crate::shard::Shard;

struct TestKernel {
    disk: SimDisk,
    /// The disk is slow: what was submitted does not return.
    is_stuck: bool,
    /// Every read fails.
    reads_fail: bool,
    inbox: VecDeque<Mail>,
    sent: Vec<(u16, Mail)>,
    control: Vec<ControlRequest>,
    control_is_open: bool,
}

impl Disk for TestKernel {
    fn submit(&mut self, log: LogKey, op: DiskOp) {
        self.disk.submit(log, op);
    }
}

impl Kernel for TestKernel {
    fn next_completion(&mut self) -> Option<Completion> {
        if self.is_stuck {
            return None;
        }
        let mut completion = self.disk.complete_one()?;
        if let (true, Completed::Read(result)) = (self.reads_fail, &mut completion.result) {
            *result = Err(std::io::Error::other("the disk failed"));
        }
        Some(completion)
    }

    fn receive(&mut self) -> Option<Mail> {
        self.inbox.pop_front()
    }

    fn send(&mut self, shard: u16, mail: Mail) -> Result<(), Mail> {
        self.sent.push((shard, mail));
        Ok(())
    }

    fn send_control(&mut self, request: ControlRequest) -> Result<(), ControlRequest> {
        if !self.control_is_open {
            return Err(request);
        }
        self.control.push(request);
        Ok(())
    }

    fn control_is_open(&self) -> bool {
        self.control_is_open
    }
}

/// A node without doors and without a real control plane.
struct Node {
    shards: Vec<(Shard, TestKernel)>,
    snapshot: Arc<RoutingSnapshot>,
    /// Subscribes that wait until every shard has adopted their version.
    waiting: Vec<(u64, u16, ControlReply)>,
    adopted: Vec<u64>,
    /// What shards have said of deletions.
    deleted: Vec<(u16, u64, Result<u64, LogsLeft>)>,
    next_id: u64,
    now: Now,
    _lock: FolderLock,
}

impl Node {
    fn open(storage: &SimStorage, shards: u16, known: &[Arc<Subscription>]) -> Self {
        let log = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
        Self::open_with(storage, shards, known, &log)
    }

    fn open_with(
        storage: &SimStorage,
        shards: u16,
        known: &[Arc<Subscription>],
        log: &LogOptions,
    ) -> Self {
        let log = log.clone();
        let options = FolderOptions {
            shards,
            log,
            node_id_if_new: 7,
            folder_bytes_max: None,
            recover_at_once: 1,
        };
        let folder = folder::open(Arc::new(storage.clone()), Path::new("/data"), &options).unwrap();
        let older: Vec<bool> = folder.shards.iter().map(|logs| !logs.older.is_empty()).collect();
        let older_owners =
            older.iter().enumerate().map(|(index, owns)| u64::from(*owns) << index).sum();
        let shards: Vec<_> = folder
            .shards
            .into_iter()
            .enumerate()
            .map(|(index, logs)| {
                let options = ShardOptions {
                    index: index as u16,
                    shards,
                    node: 7,
                    older_owners,
                    ..ShardOptions::default()
                };
                let disk = SimDisk::new(storage.clone(), index as u64);
                let kernel = TestKernel {
                    disk,
                    is_stuck: false,
                    reads_fail: false,
                    inbox: VecDeque::new(),
                    sent: Vec::new(),
                    control: Vec::new(),
                    control_is_open: true,
                };
                (Shard::new(options, logs), kernel)
            })
            .collect();
        let mut node = Node {
            adopted: vec![0; shards.len()],
            shards,
            snapshot: Arc::new(RoutingSnapshot::empty()),
            waiting: Vec::new(),
            deleted: Vec::new(),
            next_id: known.len() as u64,
            now: Now { wall: Timestamp(1_000_000), mono_us: 0 },
            _lock: folder.lock,
        };
        let mut editor = SnapshotEditor::new(&node.snapshot);
        known.iter().for_each(|subscription| editor.add(subscription.clone()));
        node.publish_snapshot(editor);
        node.run(20);
        node
    }

    fn run(&mut self, cycles: u32) {
        for _ in 0..cycles {
            self.now.mono_us += 1_000;
            self.now.wall.0 += 1_000;
            for index in 0..self.shards.len() {
                let (shard, kernel) = &mut self.shards[index];
                shard.run_once(self.now, kernel);
                for (to, mail) in std::mem::take(&mut self.shards[index].1.sent) {
                    self.shards[usize::from(to)].1.inbox.push_back(mail);
                }
                for request in std::mem::take(&mut self.shards[index].1.control) {
                    self.on_request(request);
                }
            }
        }
    }

    fn publish_snapshot(&mut self, editor: SnapshotEditor) {
        self.snapshot = Arc::new(editor.finish());
        for (_, kernel) in &mut self.shards {
            let snapshot = self.snapshot.clone();
            kernel.inbox.push_back(Mail::Control(ControlReply::Snapshot(snapshot)));
        }
    }

    /// A version that reaches the first shard only.
    fn publish_snapshot_to_first(&mut self, added: Subscription) {
        let mut editor = SnapshotEditor::new(&self.snapshot);
        editor.add(Arc::new(added));
        let snapshot = Arc::new(editor.finish());
        let mail = Mail::Control(ControlReply::Snapshot(snapshot));
        self.shards[0].1.inbox.push_back(mail);
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
                let name = group_name(group.as_ref(), mode, &client, &filter);
                let known = self.snapshot.find(&name, &filter).cloned();
                let subscription = known.unwrap_or_else(|| {
                    self.next_id += 1;
                    let id = SubscriptionId(self.next_id);
                    let subscription = Arc::new(Subscription {
                        id,
                        group: self.snapshot.group_by_name(&name).unwrap_or(GroupId(id.0)),
                        group_name: name,
                        filter,
                        mode,
                        start: start.unwrap_or(Start::Tail),
                        ephemeral_client: group.is_none().then_some(client),
                    });
                    let mut editor = SnapshotEditor::new(&self.snapshot);
                    editor.add(subscription.clone());
                    self.publish_snapshot(editor);
                    subscription
                });
                let reply = ControlReply::Subscribed { session, request, result: Ok(subscription) };
                self.waiting.push((self.snapshot.version(), shard, reply));
            }
            ControlRequest::Adopted { shard, version } => {
                self.adopted[usize::from(shard)] = version;
            }
            ControlRequest::TopicDeleted { shard, number, result } => {
                self.deleted.push((shard, number, result));
            }
            ControlRequest::Unsubscribe { .. } | ControlRequest::EndClient { .. } => {}
        }
        let done = *self.adopted.iter().min().unwrap();
        for (version, shard, reply) in std::mem::take(&mut self.waiting) {
            if version <= done {
                self.shards[usize::from(shard)].1.inbox.push_back(Mail::Control(reply));
            } else {
                self.waiting.push((version, shard, reply));
            }
        }
    }

    fn session(&mut self, shard: usize, client: &str) -> SessionKey {
        let key = self.shards[shard].0.open_session().unwrap();
        self.shards[shard].0.identify(key, client.into());
        key
    }

    fn subscribe(
        &mut self,
        shard: usize,
        key: SessionKey,
        group: Option<&str>,
        filter: &str,
        start: Option<Start>,
    ) -> Vec<Delivery> {
        let wish = SubscribeRequest {
            request: 1,
            group: group.map(Into::into),
            filter: TopicFilter::new(filter).unwrap(),
            mode: Mode::Clustering,
            start,
            credit: 100,
        };
        self.shards[shard].0.subscribe(key, wish).unwrap();
        // The cursors of a durable group get a commit of their own after 100 ms, by a clock that a node's second start sets back.
        self.run(250);
        let heard = self.events(shard, key);
        assert!(
            heard.iter().any(|event| matches!(event, SessionEvent::Subscribed { request: 1 })),
            "{heard:?}"
        );
        heard.into_iter().filter_map(only_delivery).collect()
    }

    fn publish(&mut self, shard: usize, key: SessionKey, topic: &str, keys: &[&str]) {
        for (request, name) in keys.iter().enumerate() {
            let mut builder = BatchBuilder::new(&mut []).unwrap();
            let mut attributes = [(Key::PartitionKey, Value::String(name))];
            builder
                .push(&mut attributes, DataKind::Text, format!("{name} {request}").as_bytes())
                .unwrap();
            let batch = builder.finish(TopicId(1), partition_of(name.as_bytes(), 64));
            let batch = Batch::parse(&batch, HeaderSeed::WIRE).unwrap();
            let admitted =
                self.shards[shard].0.publish(key, request as u64, &topic.into(), &batch).unwrap();
            assert_eq!(admitted, Admission::Taken);
        }
    }

    /// One event of publisher 9, its sequence the request's number, too.
    fn publish_numbered(
        &mut self,
        shard: usize,
        key: SessionKey,
        topic: &str,
        (partition, sequence): (u16, u64),
    ) {
        let mut builder = BatchBuilder::new(&mut []).unwrap();
        builder.push(&mut [], DataKind::Text, b"abc").unwrap();
        let mut bytes = builder.finish(TopicId(1), codec::ids::Partition(partition));
        let mut header = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap().header;
        (header.publisher_id, header.sequence) = (9, sequence);
        bytes[..codec::header::HEADER_BYTES].copy_from_slice(&header.encode(HeaderSeed::WIRE));
        let batch = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap();
        let admitted = self.shards[shard].0.publish(key, sequence, &topic.into(), &batch);
        assert_eq!(admitted.unwrap(), Admission::Taken);
    }

    fn events(&mut self, shard: usize, key: SessionKey) -> Vec<SessionEvent> {
        std::iter::from_fn(|| self.shards[shard].0.next_event(key)).collect()
    }

    fn deliveries(&mut self, shard: usize, key: SessionKey) -> Vec<Delivery> {
        self.events(shard, key).into_iter().filter_map(only_delivery).collect()
    }

    fn ack(&mut self, shard: usize, key: SessionKey, delivery: &Delivery) {
        let token = delivery.token.0;
        self.shards[shard].0.settle(key, 9, &token, Selection::All, Verdict::Done).unwrap();
    }
}

fn only_delivery(event: SessionEvent) -> Option<Delivery> {
    match event {
        SessionEvent::Delivery(delivery) => Some(delivery),
        _ => None,
    }
}

fn texts(deliveries: &[Delivery]) -> Vec<String> {
    let mut texts = Vec::new();
    for delivery in deliveries {
        let body = Body::checked_before(&delivery.batch.body, delivery.batch.header.count).unwrap();
        for (index, event) in body.events().enumerate() {
            if delivery.selection.contains(index as u32) {
                texts.push(String::from_utf8(event.data().to_vec()).unwrap());
            }
        }
    }
    texts
}

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn all_texts() -> Vec<String> {
    KEYS.iter().enumerate().map(|(i, key)| format!("{key} {i}")).collect()
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

/// The whole way, whatever the number of shards: an event that is acknowledged reaches each matching group once, and
/// no other.
#[test]
fn an_event_goes_in_and_comes_out() {
    for shards in [1, 2, 4] {
        let mut node = Node::open(&SimStorage::new(), shards, &[]);
        let publisher = node.session(0, "publisher");
        let last = usize::from(shards) - 1;
        let subscriber = node.session(last, "subscriber");
        let other = node.session(0, "other");
        node.subscribe(last, subscriber, Some("all"), "fleet/#", None);
        node.subscribe(0, other, None, "else/#", None);
        node.publish(0, publisher, "fleet/1", &KEYS);
        node.run(40);
        let acked = node.events(0, publisher);
        let published = |event: &&SessionEvent| matches!(event, SessionEvent::Published { .. });
        assert_eq!(acked.iter().filter(published).count(), KEYS.len(), "{acked:?}");
        let got = node.deliveries(last, subscriber);
        let mut all = texts(&got);
        all.sort();
        let expected: Vec<String> =
            KEYS.iter().enumerate().map(|(i, key)| format!("{key} {i}")).collect();
        assert_eq!(all, expected, "{shards} shards");
        got.iter().for_each(|delivery| node.ack(last, subscriber, delivery));
        node.run(100);
        assert!(
            node.deliveries(last, subscriber).is_empty(),
            "what is settled does not come again"
        );
        assert!(node.deliveries(0, other).is_empty(), "what does not match is not delivered");
        let settled: u64 = node.shards.iter().map(|(shard, _)| shard.stats().settled_events).sum();
        assert_eq!(settled, KEYS.len() as u64);
    }
}

/// Events in flight to a member that is lost must reach another; and after a restart what was not settled comes again
/// and what was settled does not, also with another number of shards.
#[test]
fn what_is_not_settled_comes_again() {
    for (before, after) in [(1, 1), (2, 2), (1, 2), (2, 1), (2, 4)] {
        let storage = SimStorage::new();
        let mut node = Node::open(&storage, before, &[]);
        let publisher = node.session(0, "publisher");
        let first = node.session(0, "first");
        node.subscribe(0, first, Some("group"), "fleet/#", None);
        node.publish(0, publisher, "fleet/1", &KEYS);
        node.run(40);
        let got = node.deliveries(0, first);
        let settled = texts(&got[..3]);
        got[..3].iter().for_each(|delivery| node.ack(0, first, delivery));
        node.run(5);
        node.shards[0].0.close_session(first);
        let second = node.session(0, "second");
        let mut again = node.subscribe(0, second, Some("group"), "fleet/#", None);
        node.run(200);
        again.extend(node.deliveries(0, second));
        assert_eq!(again.len() + 3, KEYS.len(), "the rest goes to another member");
        assert!(again.iter().all(|delivery| delivery.attempt == 2));
        let known: Vec<_> = node
            .snapshot
            .subscriptions_of(node.snapshot.group_by_name("group").unwrap())
            .into_iter()
            .cloned()
            .collect();
        drop(node);

        let mut node = Node::open(&storage, after, &known);
        let third = node.session(0, "third");
        let mut rest = texts(&node.subscribe(0, third, Some("group"), "fleet/#", None));
        node.run(200);
        rest.extend(texts(&node.deliveries(0, third)));
        rest.extend(settled);
        rest.sort();
        let expected: Vec<String> =
            KEYS.iter().enumerate().map(|(i, key)| format!("{key} {i}")).collect();
        assert_eq!(rest, expected, "{before} shards, then {after}");
    }
}

/// A subscription that starts at the beginning gets what was there before it, and is told when it has all of it.
#[test]
fn a_late_subscriber_catches_up() {
    let mut node = Node::open(&SimStorage::new(), 2, &[]);
    let publisher = node.session(0, "publisher");
    node.publish(0, publisher, "fleet/1", &KEYS);
    node.run(40);
    let late = node.session(1, "late");
    let wish = SubscribeRequest {
        request: 1,
        group: None,
        filter: TopicFilter::new("fleet/+").unwrap(),
        mode: Mode::Clustering,
        start: Some(Start::Earliest),
        credit: 3,
    };
    node.shards[1].0.subscribe(late, wish).unwrap();
    let mut heard = Vec::new();
    let mut caught_up = false;
    for _ in 0..100 {
        node.run(5);
        for event in node.events(1, late) {
            match event {
                SessionEvent::Delivery(delivery) => {
                    assert!(!caught_up, "caught up comes after what was there");
                    node.ack(1, late, &delivery);
                    heard.push(delivery);
                }
                SessionEvent::CaughtUp { request: 1 } => caught_up = true,
                _ => {}
            }
        }
    }
    assert!(caught_up);
    assert_eq!(heard.len(), KEYS.len());
}

/// A commit that is on its way to the disk can still be lost: whoever is told of it too early believes in an event that
/// is not there after a power loss.
#[test]
fn nothing_is_told_before_it_is_durable() {
    for shards in [1, 2] {
        let mut node = Node::open(&SimStorage::new(), shards, &[]);
        let publisher = node.session(0, "publisher");
        let subscriber = node.session(0, "subscriber");
        node.subscribe(0, subscriber, Some("all"), "fleet/#", None);
        node.shards.iter_mut().for_each(|(_, kernel)| kernel.is_stuck = true);
        node.publish(0, publisher, "fleet/1", &KEYS);
        node.run(200);
        let submitted = node.shards.iter().any(|(shard, _)| {
            let positions = shard.active().positions();
            positions.durable_end() < positions.submitted_end()
        });
        assert!(submitted, "the commit is on its way");
        assert_eq!(format!("{:?}", node.events(0, publisher)), "[]", "{shards} shards");
        assert_eq!(format!("{:?}", node.events(0, subscriber)), "[]", "{shards} shards");
        node.shards.iter_mut().for_each(|(_, kernel)| kernel.is_stuck = false);
        node.run(40);
        assert_eq!(node.events(0, publisher).len(), KEYS.len(), "{shards} shards");
        assert_eq!(node.deliveries(0, subscriber).len(), KEYS.len(), "{shards} shards");
    }
}

/// The control plane may stop between handing a subscription to the shards and hearing from all of them. A shard that
/// knows it already must not answer for the others: an event that one of them acknowledges next would never come.
#[test]
fn one_shard_does_not_answer_for_all() {
    let mut node = Node::open(&SimStorage::new(), 2, &[]);
    let first = node.session(0, "first");
    node.subscribe(0, first, Some("stands"), "fleet/#", None);
    node.publish_snapshot_to_first(Subscription {
        id: SubscriptionId(100),
        group: GroupId(100),
        group_name: "half".into(),
        filter: TopicFilter::new("fleet/#").unwrap(),
        mode: Mode::Clustering,
        start: Start::Tail,
        ephemeral_client: None,
    });
    node.run(150);
    node.shards.iter_mut().for_each(|(_, kernel)| kernel.control_is_open = false);
    for (request, group, answered) in [(1, "half", false), (2, "stands", true)] {
        let second = node.session(0, "second");
        let filter = TopicFilter::new("fleet/#").unwrap();
        let (group, mode) = (Some(group.into()), Mode::Clustering);
        let wish = SubscribeRequest { request, group, filter, mode, start: None, credit: 1 };
        node.shards[0].0.subscribe(second, wish).unwrap();
        node.run(5);
        let heard = node.events(0, second);
        let stands = heard.iter().any(|event| matches!(event, SessionEvent::Subscribed { .. }));
        let refused = heard.iter().any(|event| matches!(event, SessionEvent::Refused { .. }));
        assert_eq!((stands, refused), (answered, !answered), "{heard:?}");
    }
}

/// Two changes of the shard count leave three generations, whose logs lie on different shards. If one that is over can
/// be passed by a newer one, the events of a key come out of order for ever.
#[test]
fn generations_come_one_after_the_other() {
    for counts in [[2, 1, 2], [1, 2, 4], [4, 2, 1]] {
        let storage = SimStorage::new();
        let mut known = Vec::new();
        for (life, shards) in counts.into_iter().enumerate() {
            let mut node = Node::open(&storage, shards, &known);
            let publisher = node.session(0, "publisher");
            if life == 0 {
                let member = node.session(0, "member");
                node.subscribe(0, member, Some("group"), "fleet/#", None);
                node.shards[0].0.close_session(member);
                let group = node.snapshot.group_by_name("group").unwrap();
                known = node.snapshot.subscriptions_of(group).into_iter().cloned().collect();
            }
            node.publish(0, publisher, "fleet/1", &KEYS);
            node.run(40);
        }
        let mut node = Node::open(&storage, counts[2], &known);
        let member = node.session(0, "member");
        let mut held = node.subscribe(0, member, Some("group"), "fleet/#", None);
        for generation in 1..=3 {
            node.run(200);
            held.extend(node.deliveries(0, member));
            let generations: Vec<u32> = held.iter().map(|held| held.log.generation).collect();
            assert_eq!(generations, [generation; KEYS.len()], "{counts:?}");
            held.drain(..).for_each(|delivery| node.ack(0, member, &delivery));
        }
    }
}

/// A client that takes everything and answers nothing must not be sent more and more each time that its deliveries time
/// out; its late answer must be told that it was too late, give the credit back and settle nothing.
#[test]
fn a_stuck_member_gets_no_more_than_its_credit() {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    let publisher = node.session(0, "publisher");
    let stuck = node.session(0, "stuck");
    node.subscribe(0, stuck, Some("g"), "a/#", None);
    node.shards[0].0.set_credit(stuck, 1, 5);
    node.publish(0, publisher, "a/b", &KEYS);
    node.run(40);
    let first = node.deliveries(0, stuck);
    assert_eq!(texts(&first).len(), 5, "as much as its credit");
    for _ in 0..3 {
        node.now.mono_us += 31_000_000;
        node.run(200);
        assert!(node.deliveries(0, stuck).is_empty(), "it has answered nothing");
    }
    assert_eq!(node.shards[0].0.stats().expired_events, 5);

    node.ack(0, stuck, &first[0]);
    node.run(5);
    let heard = node.events(0, stuck);
    let told = heard.iter().filter(|event| {
        matches!(event, SessionEvent::Refused { what: Asked::Settle, request: 9, refusal }
            if refusal.code == Code::StaleToken)
    });
    assert_eq!(told.count(), 1, "{heard:?}");
    let again: Vec<Delivery> = heard.into_iter().filter_map(only_delivery).collect();
    assert_eq!(texts(&again).len(), 1, "one event's credit is free");

    let other = node.session(0, "other");
    let rest = node.subscribe(0, other, Some("g"), "a/#", None);
    assert_eq!(texts(&rest).len(), 7, "others get all that it does not have in time");
    node.shards[0].0.close_session(stuck);
    node.run(40);
    let last = node.deliveries(0, other);
    assert_eq!(texts(&last), texts(&again), "and what it had when it went");
}

/// A disk that gives nothing back must not be asked without pause by every group that waits for it, nor given up: when
/// it is well again, nobody may have missed anything.
#[test]
fn reads_that_fail_are_tried_again_ever_later() {
    let storage = SimStorage::new();
    let mut node = Node::open(&storage, 1, &[]);
    let publisher = node.session(0, "publisher");
    node.publish(0, publisher, "a/b", &KEYS);
    node.run(40);
    drop(node);
    // Nothing of it is in memory any more.
    let mut node = Node::open(&storage, 1, &[]);
    let reader = node.session(0, "reader");
    node.shards[0].1.disk.fail_reads_one_in(1);
    let early = node.subscribe(0, reader, Some("g"), "a/#", Some(Start::Earliest));
    assert!(early.is_empty(), "the disk gives nothing");
    for _ in 0..60 {
        node.now.mono_us += 10_000_000;
        node.run(20);
    }
    let stats = node.shards[0].0.stats();
    assert!((7..30).contains(&stats.read_failures), "{stats:?} in ten minutes");
    assert_eq!(stats.stopped_readers, 1);
    node.shards[0].1.disk.fail_reads_one_in(0);
    node.now.mono_us += 60_000_000;
    node.run(40);
    assert_eq!(texts(&node.deliveries(0, reader)).len(), KEYS.len(), "it goes on where it stood");
}

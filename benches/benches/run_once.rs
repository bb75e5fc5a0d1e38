//! One cycle of a shard, over a kernel whose disk takes every write at once and keeps nothing: what is left is the
//! shard's own work. Publishing and delivering, small events and large batches, and the cycle that finds nothing.
//!
//! Chores (new segments, checkpoints) run for real, in memory if there is a `/dev/shm`; they are rare.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use codec::attribute::{Key, Value};
use codec::batch::Batch;
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::header::HeaderSeed;
use codec::ids::{Timestamp, TopicId};
use codec::murmur2::partition_of;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::control::ControlReply;
use dataplane::kernel::Now;
use dataplane::mail::Mail;
use dataplane::options::ShardOptions;
use dataplane::selection::Selection;
use dataplane::session::{Admission, SessionEvent, SessionKey, SubscribeRequest, Verdict};
use dataplane::shard::Shard;
use log::folder::{self, FolderLock, FolderOptions};
use log::options::LogOptions;
use log::storage::file::FileStorage;
use routing::snapshot::{RoutingSnapshot, SnapshotEditor};
use routing::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId};
use routing::topic::TopicFilter;

#[path = "../support/memory_kernel.rs"]
mod memory_kernel;
use memory_kernel::MemoryKernel;

/// One shard with its log in a folder of its own.
struct Node {
    shard: Shard,
    kernel: MemoryKernel,
    now: Now,
    sessions: Vec<SessionKey>,
    _lock: FolderLock,
    _folder: tempfile::TempDir,
}

impl Node {
    fn open(sessions: usize) -> Self {
        let memory = Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder for the bench");
        let storage = Arc::new(FileStorage::new());
        let log = LogOptions {
            segment_bytes: 32 << 20,
            retention_bytes: Some(128 << 20),
            ..LogOptions::default()
        };
        let options = FolderOptions { shards: 1, log, node_id_if_new: 7, folder_bytes_max: None };
        let opened = folder::open(storage.clone(), folder.path(), &options).expect("opens");
        let logs = opened.shards.into_iter().next().expect("one shard");
        let kernel = MemoryKernel::new(storage);
        let mut node = Node {
            shard: Shard::new(ShardOptions::default(), logs),
            kernel,
            now: Now { wall: Timestamp(1_000_000), mono_us: 0 },
            sessions: Vec::new(),
            _lock: opened.lock,
            _folder: folder,
        };
        for index in 0..sessions {
            let key = node.shard.open_session().expect("there is room for a session");
            node.shard.identify(key, format!("publisher-{index}").into());
            node.sessions.push(key);
        }
        node
    }

    fn cycle(&mut self) -> u32 {
        self.now.mono_us += 10;
        self.now.wall.0 += 10;
        self.shard.run_once(self.now, &mut self.kernel)
    }

    /// A group with one member that gets everything.
    fn subscribe(&mut self) -> SessionKey {
        let member = self.shard.open_session().expect("there is room for a session");
        self.shard.identify(member, "subscriber".into());
        let filter = TopicFilter::new("bench/#").expect("a filter");
        let wish = SubscribeRequest {
            request: 1,
            group: Some("bench".into()),
            filter: filter.clone(),
            mode: Mode::Clustering,
            start: None,
            credit: 10_000,
        };
        self.shard.subscribe(member, wish).expect("the shard takes the wish");
        self.cycle();
        let subscription = Arc::new(Subscription {
            id: SubscriptionId(1),
            group: GroupId(1),
            group_name: "bench".into(),
            filter,
            mode: Mode::Clustering,
            start: Start::Tail,
            ephemeral_client: None,
        });
        let mut editor = SnapshotEditor::new(&RoutingSnapshot::empty());
        editor.add(subscription.clone());
        let snapshot = Arc::new(editor.finish());
        self.kernel.mail.push_back(Mail::Control(ControlReply::Snapshot(snapshot)));
        // The start of a durable group becomes durable with the log's next cursor commit.
        for _ in 0..200 {
            self.now.mono_us += 1_000;
            self.now.wall.0 += 1_000;
            self.cycle();
        }
        let result = Ok(subscription);
        let reply = ControlReply::Subscribed { session: member, request: 1, result };
        self.kernel.mail.push_back(Mail::Control(reply));
        self.cycle();
        let subscribed = std::iter::from_fn(|| self.shard.next_event(member))
            .any(|event| matches!(event, SessionEvent::Subscribed { .. }));
        assert!(subscribed, "the group has its member");
        member
    }

    /// Every session publishes one batch; cycles until every one is acknowledged.
    fn publish(&mut self, topic: &Arc<str>, batches: &[Vec<u8>]) {
        let mut owed = 0;
        for (index, key) in self.sessions.iter().enumerate() {
            let bytes = &batches[index % batches.len()];
            let batch = Batch::parse(bytes, HeaderSeed::WIRE).expect("made here");
            let admission = self.shard.publish(*key, 1, topic, &batch).expect("taken");
            assert_eq!(admission, Admission::Taken);
            owed += 1;
        }
        while owed > 0 {
            self.cycle();
            for key in &self.sessions {
                while let Some(event) = self.shard.next_event(*key) {
                    owed -= u32::from(matches!(event, SessionEvent::Published { .. }));
                }
            }
        }
    }

    /// Takes and settles deliveries until `events` have come.
    fn take(&mut self, member: SessionKey, mut events: u32) {
        while events > 0 {
            self.cycle();
            while let Some(event) = self.shard.next_event(member) {
                if let SessionEvent::Delivery(delivery) = event {
                    events -= delivery.batch.header.count;
                    let token = delivery.token.0;
                    self.shard
                        .settle(member, &token, Selection::All, Verdict::Done)
                        .expect("a fresh token");
                }
            }
        }
    }
}

/// Batches of `count` events of `bytes` bytes, each of another key.
fn batches(count: u32, bytes: usize) -> Vec<Vec<u8>> {
    (0..64)
        .map(|key| {
            let key = format!("key-{key}");
            let mut shared = [(Key::Source, Value::UriReference("/bench"))];
            let mut builder = BatchBuilder::new(&mut shared).expect("an attribute");
            for _ in 0..count {
                let mut own = [(Key::PartitionKey, Value::String(&key))];
                builder.push(&mut own, DataKind::Binary, &vec![7; bytes]).expect("fits");
            }
            builder.finish(TopicId(1), partition_of(key.as_bytes(), 64))
        })
        .collect()
}

fn run_once(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("run_once");
    let topic: Arc<str> = "bench/topic".into();

    let mut node = Node::open(64);
    group.bench_function("nothing to do, 64 sessions", |b| b.iter(|| black_box(node.cycle())));

    for (sessions, count, bytes) in [(64, 1, 100), (1, 1, 100), (4, 100, 1_000)] {
        let batches = batches(count, bytes);
        let events = u64::from(count) * sessions as u64;
        group.throughput(Throughput::Elements(events));
        let mut node = Node::open(sessions);
        let name = format!("publish {sessions} x {count} x {bytes} B");
        group.bench_function(name, |b| b.iter(|| node.publish(&topic, &batches)));

        let mut node = Node::open(sessions);
        let member = node.subscribe();
        let name = format!("publish, deliver, settle {sessions} x {count} x {bytes} B");
        group.bench_function(name, |b| {
            b.iter(|| {
                node.publish(&topic, &batches);
                node.take(member, events as u32);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, run_once);
criterion_main!(benches);

//! In steady state a publish allocates nothing, and what a commit allocates is bounded. Counted, not timed.
//!
//! The way is the server's own: bytes into the native session, cycles of the shard, the answer into the outbound buffers
//! and out of them. Only sockets and disk are left out.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::IoSlice;
use std::sync::Arc;

use codec::attribute::{Key, Value};
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::frame::{self, Hello, Kind, TopicFrame};
use codec::ids::{Timestamp, TopicId};
use codec::murmur2::partition_of;
use dataplane::kernel::Now;
use dataplane::options::ShardOptions;
use dataplane::outbound::Outbound;
use dataplane::session::{Door, Feed, Session, SessionKey};
use dataplane::shard::Shard;
use doors::native::{NativeDoor, NativeOptions};
use log::folder::{self, FolderLock, FolderOptions};
use log::options::LogOptions;
use log::storage::file::FileStorage;

#[path = "../support/memory_kernel.rs"]
mod memory_kernel;
use memory_kernel::MemoryKernel;

struct Client {
    key: SessionKey,
    session: Box<dyn Session>,
    out: Outbound,
    publish: Vec<u8>,
}

struct Node {
    shard: Shard,
    kernel: MemoryKernel,
    now: Now,
    clients: Vec<Client>,
    dirty: Vec<SessionKey>,
    _lock: FolderLock,
    _folder: tempfile::TempDir,
}

impl Node {
    fn open(clients: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(FileStorage::new());
        let log = LogOptions {
            segment_bytes: 8 << 20,
            retention_bytes: Some(8 << 20),
            ..LogOptions::default()
        };
        let options = FolderOptions { shards: 1, log, node_id_if_new: 7, folder_bytes_max: None };
        let opened = folder::open(storage.clone(), folder.path(), &options).unwrap();
        let logs = opened.shards.into_iter().next().unwrap();
        let mut node = Node {
            shard: Shard::new(ShardOptions::default(), logs),
            kernel: MemoryKernel::new(storage),
            now: Now { wall: Timestamp(1_000_000), mono_us: 0 },
            clients: Vec::new(),
            dirty: Vec::new(),
            _lock: opened.lock,
            _folder: folder,
        };
        let door = NativeDoor::new(NativeOptions::default());
        for index in 0..clients {
            let key = node.shard.open_session().unwrap();
            let session = door.accept(key, "127.0.0.1:1".parse().unwrap(), node.now);
            let client = Client { key, session, out: Outbound::default(), publish: publish(index) };
            node.clients.push(client);
            let mut hello = Vec::new();
            Hello::new(&format!("publisher-{index}")).encode(&mut hello);
            TopicFrame { id: TopicId(1), name: "bench/topic" }.encode(&mut hello);
            node.feed(index, &hello);
            node.send(index);
        }
        node
    }

    fn feed(&mut self, index: usize, bytes: &[u8]) {
        let Client { session, out, .. } = &mut self.clients[index];
        assert_eq!(session.on_bytes(bytes, &mut self.shard, out), Feed::More);
    }

    /// Gives what is outbound to nobody. Returns how much that was.
    fn send(&mut self, index: usize) -> usize {
        let out = &mut self.clients[index].out;
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = out.fill(&mut slices);
        let bytes = slices[..filled].iter().map(|slice| slice.len()).sum();
        out.advance(bytes);
        bytes
    }

    /// Every client publishes one batch, and gets its answer.
    fn round(&mut self) {
        for index in 0..self.clients.len() {
            let publish = std::mem::take(&mut self.clients[index].publish);
            self.feed(index, &publish);
            self.clients[index].publish = publish;
        }
        let mut owed = self.clients.len();
        while owed > 0 {
            self.now.mono_us += 10;
            self.now.wall.0 += 10;
            self.shard.run_once(self.now, &mut self.kernel);
            let mut dirty = std::mem::take(&mut self.dirty);
            self.shard.take_dirty(&mut dirty);
            for key in dirty.drain(..) {
                let index = self.clients.iter().position(|client| client.key == key).unwrap();
                while let Some(event) = self.shard.next_event(key) {
                    let Client { session, out, .. } = &mut self.clients[index];
                    assert_eq!(session.on_event(event, &mut self.shard, out), Feed::More);
                }
                assert!(self.send(index) > 0, "an answer was given");
                owed -= 1;
            }
            self.dirty = dirty;
        }
    }
}

/// A publish frame with one event of 100 bytes.
fn publish(index: usize) -> Vec<u8> {
    let key = format!("key-{index}");
    let mut shared = [(Key::Source, Value::UriReference("/bench"))];
    let mut builder = BatchBuilder::new(&mut shared).unwrap();
    let mut own = [(Key::PartitionKey, Value::String(&key))];
    builder.push(&mut own, DataKind::Binary, &[7; 100]).unwrap();
    let batch = builder.finish(TopicId(1), partition_of(key.as_bytes(), 64));
    let mut bytes = Vec::new();
    frame::encode_plain(Kind::Publish, index as u64, &batch, &mut bytes);
    bytes
}

/// An allocation for each event is what an event costs most beside the kernel, and it creeps back in unseen. A commit
/// may make the handle by which disk and cache share it, and grow the index; nothing may be made for each publish.
#[test]
fn a_publish_allocates_nothing_in_steady_state() {
    for clients in [1, 64] {
        let mut node = Node::open(clients);
        // Long enough for segments to be recycled, and for every table to have its size.
        let publishes = 64_000;
        for _ in 0..publishes / clients {
            node.round();
        }
        let rounds = 16_000 / clients;
        let calls =
            allocation_counter::measure(|| (0..rounds).for_each(|_| node.round())).count_total;
        let each = calls as f64 / rounds as f64;
        println!("{clients} clients: {each:.2} allocations a commit");
        assert!(each < 4.0, "{each} allocations a commit of {clients} publishes");
    }
}

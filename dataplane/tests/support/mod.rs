//! A node whose protocol is an echo with a few commands.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use codec::batch::Batch;
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::header::HeaderSeed;
use codec::ids::{Partition, TopicId};
use codec::refusal::Refusal;
use dataplane::control::ControlLink;
use dataplane::kernel::Now;
use dataplane::outbound::Outbound;
use dataplane::runtime::{Runtime, RuntimeOptions, ShardHandle};
use dataplane::session::{Admission, Door, Feed, Session, SessionEvent, SessionKey};
use dataplane::shard::Shard;
use log::folder::{Folder, FolderOptions, open};
use log::options::LogOptions;
use log::storage::file::FileStorage;

/// First byte of a message: panic.
pub(crate) const PANIC: u8 = 250;
/// First byte of a message: say [`LAST_WORDS`] and close.
pub(crate) const CLOSE: u8 = 251;
/// First byte of a message: send a number of chunks, the second byte.
const SEND: u8 = 252;
/// First byte of a message: publish to a partition, the second byte. Answered by [`PUBLISHED_BYTES`]: the partition and
/// the offset.
pub(crate) const PUBLISH: u8 = 253;
/// First byte of a message: hold the whole shard still between two waits at [`Node::gate`].
pub(crate) const HOLD: u8 = 254;
/// First byte of a message: say how many sessions there are, in four bytes.
pub(crate) const LIVE: u8 = 255;
/// Bytes of the answer to a publish.
pub(crate) const PUBLISHED_BYTES: usize = 9;
/// What a closing session says.
pub(crate) const LAST_WORDS: &[u8] = b"you sent garbage";
/// What is said at shutdown.
pub(crate) const BYE: &[u8] = b"bye";
/// What is said when the node is full.
pub(crate) const FULL: &[u8] = b"full";
/// Bytes of a chunk.
pub(crate) const BYTES_ASKED: usize = 1 << 20;
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks for a number of chunks of [`BYTES_ASKED`].
pub(crate) fn ask_for(chunks: u8) -> [u8; 2] {
    [SEND, chunks]
}

/// Sends something and waits until it is back.
pub(crate) fn echo_once(client: &mut TcpStream) {
    client.write_all(b"echo").unwrap();
    let mut back = [0; 4];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"echo");
}

/// A running node.
pub(crate) struct Node {
    runtime: Option<Runtime>,
    address: SocketAddr,
    gate: Arc<Barrier>,
    _folder: Folder,
    dir: Option<tempfile::TempDir>,
}

impl Node {
    pub(crate) fn start(shards: u16, options: RuntimeOptions) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), shards, options)
    }

    pub(crate) fn start_in(dir: tempfile::TempDir, shards: u16, options: RuntimeOptions) -> Self {
        let storage = Arc::new(FileStorage::new());
        let log = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
        let folder_options = FolderOptions {
            shards,
            log,
            node_id_if_new: 1,
            folder_bytes_max: None,
            recover_at_once: 1,
        };
        let mut folder = open(storage.clone(), dir.path(), &folder_options).unwrap();
        let logs = std::mem::take(&mut folder.shards);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let door = EchoDoor { gate: Arc::new(Barrier::new(2)), live: Arc::default() };
        let gate = Arc::clone(&door.gate);
        let options = RuntimeOptions { listen: vec![(listener, Arc::new(door))], ..options };
        let control = ControlLink::new(Box::new(|| {}));
        let runtime = Runtime::start(options, logs, storage, control).unwrap();
        Node { runtime: Some(runtime), address, gate, _folder: folder, dir: Some(dir) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where a test and a session that was sent [`HOLD`] meet.
    pub(crate) fn gate(&self) -> &Barrier {
        &self.gate
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    pub(crate) fn handles(&self) -> Vec<ShardHandle> {
        self.runtime.as_ref().unwrap().handles()
    }

    /// Waits until `is_so`, looking a hundred times a second.
    pub(crate) fn wait_for(&self, what: &str, mut is_so: impl FnMut(&[ShardHandle]) -> bool) {
        let handles = self.handles();
        let until = Instant::now() + PATIENCE;
        while !is_so(&handles) {
            assert!(Instant::now() < until, "waited in vain for {what}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    pub(crate) fn end(&mut self) {
        let mut runtime = self.runtime.take().unwrap();
        runtime.shutdown();
        runtime.join();
    }

    /// Ends it and starts it again on the same folder.
    pub(crate) fn restart(mut self, shards: u16, options: RuntimeOptions) -> Self {
        self.end();
        let dir = self.dir.take().unwrap();
        drop(self);
        Self::start_in(dir, shards, options)
    }
}

struct EchoDoor {
    gate: Arc<Barrier>,
    live: Arc<AtomicU32>,
}

impl Door for EchoDoor {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn accept(&self, key: SessionKey, _: SocketAddr, _: Now) -> Box<dyn Session> {
        self.live.fetch_add(1, Ordering::Relaxed);
        Box::new(Echo { key, gate: Arc::clone(&self.gate), live: Arc::clone(&self.live) })
    }

    fn refuse(&self, _: &Refusal) -> Vec<u8> {
        FULL.to_vec()
    }
}

struct Echo {
    key: SessionKey,
    gate: Arc<Barrier>,
    live: Arc<AtomicU32>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Echo {
    fn publish(&self, partition: u8, shard: &mut Shard) {
        let mut builder = BatchBuilder::new(&mut []).unwrap();
        builder.push(&mut [], DataKind::Binary, &[partition; 100]).unwrap();
        let batch = builder.finish(TopicId(1), Partition(partition.into()));
        let batch = Batch::parse(&batch, HeaderSeed::WIRE).unwrap();
        let admission = shard.publish(self.key, 1, &"runtime/test".into(), &batch).unwrap();
        assert_eq!(admission, Admission::Taken);
    }
}

impl Session for Echo {
    fn on_bytes(&mut self, bytes: &[u8], shard: &mut Shard, out: &mut Outbound) -> Feed {
        match bytes {
            [PANIC, ..] => panic!("asked for by the test"),
            [CLOSE, ..] => {
                out.bytes().extend_from_slice(LAST_WORDS);
                return Feed::Close;
            }
            [SEND, chunks] => {
                let chunk = bytes::Bytes::from(vec![7; BYTES_ASKED]);
                (0..*chunks).for_each(|_| out.share(chunk.clone()));
            }
            [HOLD, ..] => {
                self.gate.wait();
                self.gate.wait();
            }
            [LIVE, ..] => {
                let live = self.live.load(Ordering::Relaxed);
                out.bytes().extend_from_slice(&live.to_le_bytes());
            }
            [PUBLISH, ..] => bytes.chunks(2).for_each(|pair| self.publish(pair[1], shard)),
            _ => out.bytes().extend_from_slice(bytes),
        }
        Feed::More
    }

    fn on_event(&mut self, event: SessionEvent, _: &mut Shard, out: &mut Outbound) -> Feed {
        let SessionEvent::Published { partition, base_offset, .. } = event else {
            panic!("{event:?}")
        };
        out.bytes().push(partition.0 as u8);
        out.bytes().extend_from_slice(&base_offset.0.to_le_bytes());
        Feed::More
    }

    fn on_time(&mut self, _: Now, _: &mut Shard, _: &mut Outbound) -> Feed {
        Feed::More
    }

    fn on_drain(&mut self, out: &mut Outbound) {
        out.bytes().extend_from_slice(BYE);
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}

//! A node whose protocol is an echo with a few commands.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use codec::refusal::Refusal;
use dataplane::control::ControlLink;
use dataplane::kernel::Now;
use dataplane::outbound::Outbound;
use dataplane::runtime::{Runtime, RuntimeOptions, ShardHandle};
use dataplane::session::{Door, Feed, Session, SessionEvent, SessionKey};
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
    _folder: Folder,
    _dir: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start(shards: u16, options: RuntimeOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(FileStorage::new());
        let log = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
        let folder_options =
            FolderOptions { shards, log, node_id_if_new: 1, folder_bytes_max: None };
        let mut folder = open(storage.clone(), dir.path(), &folder_options).unwrap();
        let logs = std::mem::take(&mut folder.shards);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let options = RuntimeOptions { listen: vec![(listener, Arc::new(EchoDoor))], ..options };
        let control = ControlLink::new(Box::new(|| {}));
        let runtime = Runtime::start(options, logs, storage, control).unwrap();
        Node { runtime: Some(runtime), address, _folder: folder, _dir: dir }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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
}

struct EchoDoor;

impl Door for EchoDoor {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn accept(&self, _: SessionKey, _: SocketAddr, _: Now) -> Box<dyn Session> {
        Box::new(Echo)
    }

    fn refuse(&self, _: &Refusal) -> Vec<u8> {
        FULL.to_vec()
    }
}

struct Echo;

impl Session for Echo {
    fn on_bytes(&mut self, bytes: &[u8], _: &mut Shard, out: &mut Outbound) -> Feed {
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
            _ => out.bytes().extend_from_slice(bytes),
        }
        Feed::More
    }

    fn on_event(&mut self, _: SessionEvent, _: &mut Shard, _: &mut Outbound) -> Feed {
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

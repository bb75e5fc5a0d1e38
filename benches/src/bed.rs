//! One shard with its log in a folder of its own, over a kernel without a disk.

use std::path::Path;
use std::sync::Arc;

use codec::attribute::{Key, Value};
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::ids::{Timestamp, TopicId};
use codec::murmur2::partition_of;
use dataplane::kernel::Now;
use dataplane::options::ShardOptions;
use dataplane::shard::Shard;
use log::folder::{self, FolderLock, FolderOptions, ShardLogs};
use log::options::LogOptions;
use log::storage::Storage;
use log::storage::file::FileStorage;

use crate::memory_kernel::MemoryKernel;

/// See the module. Its folder is in memory if there is a `/dev/shm`, and goes with it.
pub struct Bed {
    /// The shard.
    pub shard: Shard,
    /// What is under it.
    pub kernel: MemoryKernel,
    /// The time of the last cycle.
    pub now: Now,
    _lock: FolderLock,
    _folder: tempfile::TempDir,
}

impl Bed {
    /// A shard that recycles its segments, of `segment_bytes` each, after four of them.
    pub fn open(segment_bytes: u64) -> Self {
        let folder = folder_in_memory();
        let storage = Arc::new(FileStorage::new());
        let retention_bytes = Some(4 * segment_bytes);
        let log = LogOptions { segment_bytes, retention_bytes, ..LogOptions::default() };
        let (logs, lock) = open_logs(storage.clone(), folder.path(), log);
        Bed {
            shard: Shard::new(ShardOptions::default(), logs),
            kernel: MemoryKernel::new(storage),
            now: Now { wall: Timestamp(1_000_000), mono_us: 0 },
            _lock: lock,
            _folder: folder,
        }
    }

    /// One cycle of the shard, 10 us after the last. Returns what it says it did.
    pub fn cycle(&mut self) -> u32 {
        self.now.mono_us += 10;
        self.now.wall.0 += 10;
        self.shard.run_once(self.now, &mut self.kernel)
    }
}

/// The logs of one shard, in a folder that is new.
pub fn open_logs(
    storage: Arc<dyn Storage>,
    folder: &Path,
    log: LogOptions,
) -> (ShardLogs, FolderLock) {
    let options = FolderOptions {
        shards: 1,
        log,
        node_id_if_new: 7,
        folder_bytes_max: None,
        recover_at_once: 1,
    };
    let opened = folder::open(storage, folder, &options).expect("a new folder opens");
    (opened.shards.into_iter().next().expect("one shard"), opened.lock)
}

/// A folder for a bench, in memory if there is a `/dev/shm`.
pub fn folder_in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder for the bench")
}

/// Batches of `count` events of `bytes` bytes, each of another key.
pub fn batches(count: u32, bytes: usize) -> Vec<Vec<u8>> {
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

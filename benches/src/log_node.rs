//! A log of very many topics, driven through its own calls: nearly every event is a run of its own in the index.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use codec::header::BatchHeader;
use codec::ids::{Partition, Timestamp, TopicId};
use log::batch::NoAppend;
use log::disk::{Chore, Completed, Completion, Disk, DiskOp, LogKey, Ticket};
use log::folder::FolderLock;
use log::log::Log;
use log::options::LogOptions;
use log::storage::Storage;
use log::storage::file::FileStorage;

use crate::bed::{folder_in_memory, open_logs};

/// Events between two closed commits: 64 publishers with 16 in flight each.
const COMMIT_EVENTS: u64 = 1_024;
/// A segment is sealed when it is so old.
const AGE: Duration = Duration::from_secs(3_600);

/// See the module.
pub struct LogNode {
    log: Log,
    disk: HeldChores,
    topics: Vec<TopicId>,
    now: Timestamp,
    random: u64,
    _lock: FolderLock,
    folder: tempfile::TempDir,
}

/// Writes are over as soon as they are submitted, and nothing of them is kept; chores wait until they are asked for.
struct HeldChores {
    storage: Arc<FileStorage>,
    written: VecDeque<Completion>,
    chores: VecDeque<(LogKey, Ticket, Chore)>,
}

impl Disk for HeldChores {
    fn submit(&mut self, log: LogKey, op: DiskOp) {
        let (ticket, result) = match op {
            DiskOp::Write { ticket, .. } => (ticket, Completed::Written(Ok(()))),
            DiskOp::Sync { ticket, .. } => (ticket, Completed::Synced(Ok(()))),
            DiskOp::Chore { ticket, chore } => {
                return self.chores.push_back((log, ticket, chore));
            }
            DiskOp::Read { .. } => unreachable!("nobody reads"),
        };
        self.written.push_back(Completion { log, ticket, result });
    }
}

impl LogNode {
    /// A log that has so many topics.
    pub fn open(topics: u32) -> Self {
        let folder = folder_in_memory();
        let storage = Arc::new(FileStorage::new());
        let log = LogOptions {
            segment_age_max: Some(AGE),
            index_bytes_max: usize::MAX,
            ..LogOptions::default()
        };
        let (logs, lock) = open_logs(storage.clone(), folder.path(), log);
        let mut node = LogNode {
            log: logs.active,
            disk: HeldChores { storage, written: VecDeque::new(), chores: VecDeque::new() },
            topics: Vec::new(),
            now: Timestamp(1_000_000),
            random: 1,
            _lock: lock,
            folder,
        };
        for number in 0..topics {
            let topic = node.log.create_topic(&format!("fleet/vin-{number:06}").into());
            node.topics.push(topic.expect("there is room for a topic"));
            node.append_to(node.topics[number as usize]);
            if u64::from(number) % COMMIT_EVENTS == 0 {
                node.rest();
            }
        }
        node.rest();
        node
    }

    fn append_to(&mut self, topic: TopicId) {
        let body = [7; 16];
        let partition = Partition((topic.0 % 64) as u16);
        let header = BatchHeader::unstamped(TopicId(0), partition, &body, 1);
        while let Err(refused) = self.log.append(topic, partition, &header, &body, self.now) {
            assert_eq!(refused, NoAppend::NoRoom, "it comes with what is prepared next");
            self.rest();
        }
    }

    /// Appends so many events, each to a topic at random.
    pub fn append(&mut self, events: u64) {
        for number in 1..=events {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (self.random >> 33) as usize % self.topics.len();
            self.append_to(self.topics[at]);
            if number % COMMIT_EVENTS == 0 {
                self.rest();
            }
        }
        self.rest();
    }

    fn cycle(&mut self) {
        self.now.0 += 1_000;
        self.log.run(self.now, &mut self.disk);
        while let Some(done) = self.disk.written.pop_front() {
            self.log.on_completion(done.ticket, done.result, &mut self.disk);
        }
    }

    /// Does the chores that wait.
    pub fn chores(&mut self) {
        while let Some((_, ticket, chore)) = self.disk.chores.pop_front() {
            let done = Completed::Chore(chore(&*self.disk.storage));
            self.log.on_completion(ticket, done, &mut self.disk);
        }
    }

    /// Cycles and does chores until there are none.
    pub fn rest(&mut self) {
        loop {
            self.cycle();
            if self.disk.chores.is_empty() {
                return;
            }
            self.chores();
        }
    }

    /// Seals the segment, by its age, and does what follows: its index, and room to be prepared.
    pub fn seal(&mut self) {
        self.now.0 += AGE.as_micros() as u64;
        self.append_to(self.topics[0]);
        self.rest();
    }

    /// Bytes of all indexes that stand on the disk.
    pub fn index_bytes(&self) -> u64 {
        let dir = self.folder.path().join("gen-000001/log-000");
        let names = self.disk.storage.list(&dir).expect("the folder is there");
        let indexes = names.iter().filter(|name| name.ends_with(".rmx"));
        indexes.map(|name| std::fs::metadata(dir.join(name)).map_or(0, |data| data.len())).sum()
    }
}

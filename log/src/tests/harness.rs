//! One log on a simulated disk, beside a model of what was appended.

use std::path::Path;
use std::sync::Arc;

use codec::ack::AckLevel;
use codec::header::{BatchHeader, HEADER_BYTES};
use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

use crate::batch::{Appended, NoAppend, StoredBatch};
use crate::cursor::{Cursor, CursorMark};
use crate::disk::{Completion, DiskOp};
use crate::folder::{self, Folder, FolderOptions, ShardLogs};
use crate::landing::{LANDING_LEAD_BYTES_MAX, Source};
use crate::log::Log;
use crate::options::LogOptions;
use crate::reader::{ReadStep, Reader};
use crate::sim_disk::{SimDisk, SimRandom, SimStorage};

pub(super) const DIR: &str = "/data";

/// A batch as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) topic: String,
    pub(super) partition: Partition,
    pub(super) position: Position,
    pub(super) offset: Offset,
    pub(super) count: u32,
    pub(super) body: Vec<u8>,
}

impl Sent {
    pub(super) fn of(topic: &str, batch: &StoredBatch) -> Self {
        Sent {
            topic: topic.to_owned(),
            partition: batch.header.partition,
            position: batch.header.base_position,
            offset: batch.header.base_offset,
            count: batch.header.count,
            body: batch.body.to_vec(),
        }
    }
}

pub(super) struct Bench {
    pub(super) storage: SimStorage,
    pub(super) disk: SimDisk,
    pub(super) random: SimRandom,
    pub(super) log: Log,
    pub(super) older: Vec<Log>,
    pub(super) sent: Vec<Sent>,
    pub(super) cursors: Vec<(u64, Cursor, CursorMark)>,
    pub(super) durable_cursors: Vec<(u64, Cursor)>,
    pub(super) now: u64,
    /// Some batches are received where they are to stay.
    pub(super) lands: bool,
    lock: Option<folder::FolderLock>,
    pub(super) options: FolderOptions,
    pub(super) reports: Vec<crate::recovery::RecoveryReport>,
}

pub(super) fn small_options() -> FolderOptions {
    let log = LogOptions {
        segment_bytes: 1 << 20,
        commit_bytes_max: 64 << 10,
        cache_bytes: 64 << 10,
        checkpoint_every_bytes: 256 << 10,
        reserve_bytes: 16 << 10,
        ..LogOptions::default()
    };
    FolderOptions { shards: 1, log, node_id_if_new: 7, folder_bytes_max: None, recover_at_once: 1 }
}

impl Bench {
    pub(super) fn new(seed: u64, options: FolderOptions) -> Self {
        let storage = SimStorage::new();
        let folder = open(&storage, &options);
        let disk = SimDisk::new(storage.clone(), seed);
        let mut bench = Bench {
            storage,
            disk,
            random: SimRandom::new(seed),
            log: take_log(folder.shards).0,
            older: Vec::new(),
            sent: Vec::new(),
            cursors: Vec::new(),
            durable_cursors: Vec::new(),
            now: 1_000_000,
            lands: false,
            lock: Some(folder.lock),
            options,
            reports: Vec::new(),
        };
        bench.log.run(Timestamp(bench.now), &mut bench.disk);
        bench
    }

    /// Appends one batch of a few events; tells whether it was taken.
    pub(super) fn append(&mut self, bytes_max: u64) -> Result<(), NoAppend> {
        let topic = format!("t/{}", self.random.below(20));
        let partition = Partition(self.random.below(4) as u16);
        let count = 1 + self.random.below(5) as u32;
        let len = self.random.below(bytes_max) as usize;
        let fill = self.random.next_u64() as u8;
        let body: Vec<u8> = (0..len).map(|i| fill.wrapping_add(i as u8)).collect();
        self.append_this(&topic, partition, count, body)
    }

    pub(super) fn append_this(
        &mut self,
        topic: &str,
        partition: Partition,
        count: u32,
        body: Vec<u8>,
    ) -> Result<(), NoAppend> {
        self.now += 1 + self.random.below(300);
        let id = self.log.create_topic(&Arc::from(topic))?;
        let header = BatchHeader::unstamped(TopicId(0), partition, &body, count);
        let now = Timestamp(self.now);
        let told = if self.lands && !body.is_empty() && self.random.one_in(3) {
            self.append_landed(id, &header, &body)?
        } else {
            self.log.append(id, partition, &header, &body, now)?
        };
        self.sent.push(Sent {
            topic: topic.into(),
            partition,
            position: told.base_position,
            offset: told.base_offset,
            count,
            body,
        });
        Ok(())
    }

    /// Appends a batch for whoever waits until it has reached `level`, and lets the log run.
    pub(super) fn commit_for(&mut self, level: AckLevel) {
        self.now += 1;
        let id = self.log.create_topic(&Arc::from("mixed")).unwrap();
        let body = vec![level as u8; 100];
        let header = BatchHeader::unstamped(TopicId(0), Partition(0), &body, 1);
        let (at, source) = ((id, Partition(0)), Source::Bytes(&body));
        let told = self.log.append_for(level, at, &header, source, Timestamp(self.now)).unwrap();
        let (position, offset) = (told.base_position, told.base_offset);
        let (topic, partition, count) = ("mixed".into(), Partition(0), 1);
        self.sent.push(Sent { topic, partition, position, offset, count, body });
        self.run();
    }

    /// Appends a batch that is received where it is to stay, in some pieces.
    fn append_landed(
        &mut self,
        topic: TopicId,
        header: &BatchHeader,
        body: &[u8],
    ) -> Result<Appended, NoAppend> {
        let lead = self.random.below(LANDING_LEAD_BYTES_MAX as u64 + 1) as usize;
        // What stands before the body is anything but what the log will write there.
        let frame = [vec![0xee; lead + HEADER_BYTES], body.to_vec()].concat();
        let mut landing = self.log.landing(lead, frame.len());
        let cut = self.random.below(frame.len() as u64) as usize;
        assert!(landing.copy(&frame[..cut]).is_empty() && !landing.is_whole());
        assert_eq!(landing.copy(&[&frame[cut..], &[1, 2, 3]].concat()), [1, 2, 3]);
        assert_eq!((landing.frame(), landing.body()), (&frame[..], body));
        let mut landing = Some(landing);
        let (source, now) = (Source::Landing(&mut landing), Timestamp(self.now));
        let told = self.log.append_from(topic, header.partition, header, source, now);
        assert_eq!(landing.is_none(), told.is_ok(), "taken if appended, else left: {told:?}");
        told
    }

    pub(super) fn put_cursor(&mut self) {
        let group = self.random.below(8);
        let next = Position(self.random.below(self.log.positions().end().0 + 1));
        let cursor = Cursor { next, unsettled: Vec::new(), starts: vec![(group, Position(1))] };
        let mark = self.log.put_cursor(group, cursor.clone());
        self.cursors.push((group, cursor, mark));
    }

    pub(super) fn run(&mut self) {
        self.log.run(Timestamp(self.now), &mut self.disk);
    }

    /// Completes one operation if there is one.
    pub(super) fn complete(&mut self) -> bool {
        let Some(done) = self.disk.complete_one() else { return false };
        self.on_done(done);
        true
    }

    /// Completes the newest write that is under way, or the newest sync.
    pub(super) fn complete_newest(&mut self, is_sync: bool) -> bool {
        let is = |op: &DiskOp| match op {
            DiskOp::Write { .. } => !is_sync,
            DiskOp::Sync { .. } => is_sync,
            DiskOp::Read { .. } | DiskOp::Chore { .. } => false,
        };
        let Some(done) = self.disk.complete_last(is) else { return false };
        self.on_done(done);
        true
    }

    /// Completes the newest chore that is under way.
    pub(super) fn complete_chore(&mut self) -> bool {
        let chore = self.disk.complete_last(|op| matches!(op, DiskOp::Chore { .. }));
        chore.map(|done| self.on_done(done)).is_some()
    }

    fn on_done(&mut self, done: Completion) {
        self.log.on_completion(done.ticket, done.result, &mut self.disk);
        let durable = self.log.durable_cursor_mark();
        let (now_durable, later) = self.cursors.drain(..).partition(|c| c.2 <= durable);
        self.cursors = later;
        let now_durable: Vec<(u64, Cursor, CursorMark)> = now_durable;
        for (group, cursor, _) in now_durable {
            self.durable_cursors.retain(|(known, _)| *known != group);
            self.durable_cursors.push((group, cursor));
        }
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.run();
            if !self.complete() && self.log.is_idle() {
                return;
            }
        }
        panic!("the log does not come to rest");
    }

    /// The process is killed and comes back: everything that was written is there.
    pub(super) fn kill(&mut self) {
        let written_end = self.log.positions().written_end();
        self.disk.kill();
        self.reopen();
        assert!(self.log.positions().end() >= written_end, "what is written survives the process");
        self.keep_found();
    }

    /// Power loss and restart; `cut_opening` is where the power goes again while the folder is opened.
    pub(super) fn crash(&mut self) {
        let durable_end = self.log.positions().durable_end();
        self.disk.power_loss();
        self.lock = None;
        while self.random.one_in(3) {
            // The power goes again in the middle of opening.
            let after = self.random.below(60);
            self.storage.fail_after(Some(after));
            let _ = folder::open(Arc::new(self.storage.clone()), Path::new(DIR), &self.options);
            self.disk.power_loss();
        }
        self.reopen();
        let positions = self.log.positions();
        assert!(positions.durable_end() >= durable_end, "durable events survive");
        self.keep_found();
    }

    /// After a restart: events that were not durable are whole or absent, and what is left is a prefix of what was sent.
    fn keep_found(&mut self) {
        let positions = self.log.positions();
        self.sent.retain(|sent| sent.position < positions.end());
        let end = self.sent.last().map(|s| s.position.plus(u64::from(s.count)));
        assert!(end.is_none_or(|end| end == positions.end()), "no event is there in part");
        for (group, cursor) in &self.durable_cursors {
            let found = self.log.cursor(*group).expect("a durable cursor survives");
            let newer = self.cursors.iter().any(|(g, c, _)| g == group && c == found);
            assert!(found == cursor || newer, "group {group}: {found:?}, durable was {cursor:?}");
        }
        self.durable_cursors = self.log.cursors().map(|(g, c)| (g, c.clone())).collect();
        self.cursors.clear();
    }

    pub(super) fn reopen(&mut self) {
        self.lock = None;
        let folder = open(&self.storage, &self.options);
        self.reports = folder.recovered;
        let (log, older) = take_log(folder.shards);
        self.log = log;
        self.older = older;
        self.lock = Some(folder.lock);
    }

    /// Reads everything that is kept and compares it with what was sent.
    pub(super) fn verify(&mut self) {
        let start = self.log.positions().start();
        let read = self.read_all(start);
        let expected: Vec<Sent> =
            self.sent.iter().filter(|sent| sent.position >= start).cloned().collect();
        assert_eq!(read.len(), expected.len(), "as many batches as were sent");
        for (read, expected) in read.iter().zip(&expected) {
            assert_eq!(read, expected, "every event exactly where it was told");
        }
    }

    pub(super) fn read_all(&mut self, from: Position) -> Vec<Sent> {
        let end = self.log.positions().end();
        let mut reader = Reader::new(from);
        let mut read = Vec::new();
        for _ in 0..1_000_000 {
            match self.log.read(&mut reader, end, &mut |_| true, &mut self.disk) {
                ReadStep::Batch(batch) => {
                    let name = self.log.topic_name(batch.header.topic).expect("topics have names");
                    read.push(Sent::of(name, &batch));
                }
                ReadStep::Pending => assert!(self.complete(), "someone completes what is pending"),
                ReadStep::More => {}
                ReadStep::End => return read,
                other => panic!(
                    "unexpected {other:?} at {reader:?} in {:?}, {:?}",
                    self.log.segments.sealed, self.reports
                ),
            }
        }
        panic!("the reader does not come to the end");
    }
}

pub(super) fn open(storage: &SimStorage, options: &FolderOptions) -> Folder {
    folder::open(Arc::new(storage.clone()), Path::new(DIR), options).expect("the folder opens")
}

fn take_log(mut shards: Vec<ShardLogs>) -> (Log, Vec<Log>) {
    let shard = shards.remove(0);
    (shard.active, shard.older)
}

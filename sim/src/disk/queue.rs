//! The non-blocking way to the simulated disk: operations wait for their time, run, and end in any order.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use log::aligned::AlignedBuf;
use log::disk::{ChoreDone, Completed, Completion, DiskOp, LogKey};
use log::storage::{FileId, Storage};

use crate::disk::storage::SimDisk;
use crate::faults::{Fault, Tally};
use crate::random::Random;

/// An operation that takes longer than this counts as slow.
const SLOW_US: u64 = 5_000;

/// How the disk behaves in a run.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// How often, in a thousand, an operation is slow.
    pub slow_per_mille: u64,
    /// The longest time of a slow operation.
    pub slow_us_max: u64,
    /// The longest time of another operation.
    pub usual_us_max: u64,
}

/// Why a shard's disk ends an operation badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The next write or sync fails.
    Write,
    /// The next chore fails.
    Chore,
    /// The next read fails.
    Read,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    due_us: u64,
    log: LogKey,
    op: DiskOp,
    /// Of a sync: the writes to its file whose ends had been seen as it was submitted.
    covers: Vec<u64>,
}

#[derive(Debug)]
struct Ended {
    number: u64,
    completion: Completion,
    /// Changes that are durable as soon as this end is seen: a synced write, or what a sync covers.
    confirms: Option<(FileId, Vec<u64>)>,
    /// A write that is not, for the next sync.
    written: Option<(FileId, u64)>,
}

/// The operations of one shard.
#[derive(Debug)]
pub struct Queue {
    options: QueueOptions,
    waiting: Vec<Waiting>,
    ended: VecDeque<Ended>,
    /// Writes that are not durable and whose ends were seen.
    written: Vec<(FileId, u64)>,
    random: Random,
    next_number: u64,
    failure: Option<Failure>,
    /// Until then every read fails.
    reads_fail_until_us: u64,
    /// Most operations that were ever under way.
    most: usize,
}

impl Queue {
    /// A queue with nothing in it.
    #[must_use]
    pub fn new(options: QueueOptions, random: Random) -> Self {
        Queue {
            options,
            waiting: Vec::new(),
            ended: VecDeque::new(),
            written: Vec::new(),
            random,
            next_number: 0,
            failure: None,
            reads_fail_until_us: 0,
            most: 0,
        }
    }

    /// From here on the disk is quick and sound.
    pub fn calm(&mut self) {
        self.options.slow_per_mille = 0;
        self.failure = None;
        self.reads_fail_until_us = 0;
    }

    /// Makes every read fail until then.
    pub fn fail_reads(&mut self, until_us: u64) {
        self.reads_fail_until_us = until_us;
    }

    /// Makes the next operation of a kind fail.
    pub fn fail_next(&mut self, failure: Failure) {
        self.failure = Some(failure);
    }

    /// Whether a failure is still to come.
    #[must_use]
    pub fn has_failure(&self) -> bool {
        self.failure.is_some()
    }

    /// Takes an operation.
    pub fn submit(&mut self, log: LogKey, op: DiskOp, now_us: u64, tally: &mut Tally) {
        let mut time = self.random.between(20, self.options.usual_us_max);
        if self.random.chance(self.options.slow_per_mille) {
            time = self.random.between(self.options.usual_us_max, self.options.slow_us_max);
        }
        if time > SLOW_US {
            tally.hit(Fault::SlowDisk);
        }
        let number = self.next_number;
        self.next_number += 1;
        let covers = match &op {
            DiskOp::Sync { file, .. } => self
                .written
                .iter()
                .filter(|(of, _)| of == file)
                .map(|(_, change)| *change)
                .collect(),
            _ => Vec::new(),
        };
        self.waiting.push(Waiting { number, due_us: now_us + time, log, op, covers });
        self.most = self.most.max(self.waiting.len());
    }

    /// When the next operation ends.
    #[must_use]
    pub fn next_end(&self) -> Option<u64> {
        let waiting = self.waiting.iter().map(|waiting| waiting.due_us).min();
        if self.ended.is_empty() { waiting } else { Some(0) }
    }

    /// The next operation that has ended by now. From here on its end was seen.
    pub fn next_completion(
        &mut self,
        disk: &SimDisk,
        now_us: u64,
        tally: &mut Tally,
    ) -> Option<Completion> {
        self.run_due(disk, now_us, tally);
        let ended = self.ended.pop_front()?;
        let earlier = |other: u64| other < ended.number;
        if self.waiting.iter().any(|waiting| earlier(waiting.number)) {
            tally.hit(Fault::OutOfOrder);
        }
        if let Some((file, changes)) = ended.confirms {
            self.written.retain(|(of, change)| *of != file || !changes.contains(change));
            confirm(disk, file, &changes);
        }
        self.written.extend(ended.written);
        if matches!(ended.completion.result, Completed::Synced(Ok(()))) {
            tally.syncs += 1;
        }
        Some(ended.completion)
    }

    /// Most operations that were ever under way.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// The process ends with operations under way: each has happened, or not. Power that is lost in the middle of a
    /// chore leaves it half done.
    pub fn cut(&mut self, disk: &SimDisk, power: bool, tally: &mut Tally) {
        for waiting in std::mem::take(&mut self.waiting) {
            if self.random.chance(400) {
                continue;
            }
            if let DiskOp::Chore { .. } = &waiting.op {
                disk.files().steps_left = Some(self.random.below(6));
                if power {
                    tally.hit(Fault::PowerLossInChore);
                }
            }
            // Nobody will ever see how it ended.
            let _ = execute(disk, waiting.op);
            disk.files().steps_left = None;
        }
        self.ended.clear();
    }

    fn run_due(&mut self, disk: &SimDisk, now_us: u64, tally: &mut Tally) {
        loop {
            let due =
                self.waiting.iter().enumerate().filter(|(_, waiting)| waiting.due_us <= now_us);
            let next = due.min_by_key(|(_, waiting)| (waiting.due_us, waiting.number));
            let Some((index, _)) = next else { return };
            let waiting = self.waiting.remove(index);
            let (number, log, ticket) = (waiting.number, waiting.log, waiting.op.ticket());
            let failed = self.fails(&waiting.op, now_us, tally);
            let (result, change) = match failed {
                Some(result) => {
                    // A write that failed may still have written.
                    if self.random.chance(500) {
                        let _ = execute(disk, waiting.op);
                    }
                    (result, None)
                }
                None => execute(disk, waiting.op),
            };
            let completion = Completion { log, ticket, result };
            let (confirms, written) = match change {
                Some(Change::Durable(file, change)) => (Some((file, vec![change])), None),
                Some(Change::Written(file, change)) => (None, Some((file, change))),
                Some(Change::Synced(file)) => (Some((file, waiting.covers)), None),
                None => (None, None),
            };
            self.ended.push_back(Ended { number, completion, confirms, written });
        }
    }

    /// How the operation fails, if it is its turn to.
    fn fails(&mut self, op: &DiskOp, now_us: u64, tally: &mut Tally) -> Option<Completed> {
        let error = || io::Error::other("the disk failed");
        match (op, self.failure) {
            (DiskOp::Read { .. }, _) if now_us < self.reads_fail_until_us => {
                tally.hit(Fault::ReadsFailing);
                Some(Completed::Read(Err(error())))
            }
            (DiskOp::Read { .. }, Some(Failure::Read)) => {
                self.failure = None;
                tally.hit(Fault::ReadFailed);
                Some(Completed::Read(Err(error())))
            }
            (DiskOp::Write { .. }, Some(Failure::Write)) => {
                self.failure = None;
                tally.hit(Fault::WriteFailed);
                Some(Completed::Written(Err(error())))
            }
            (DiskOp::Sync { .. }, Some(Failure::Write)) => {
                self.failure = None;
                tally.hit(Fault::SyncFailed);
                Some(Completed::Synced(Err(error())))
            }
            (DiskOp::Chore { .. }, Some(Failure::Chore)) => {
                self.failure = None;
                tally.hit(Fault::ChoreFailed);
                Some(Completed::Chore(ChoreDone::failed(error())))
            }
            _ => None,
        }
    }
}

/// What an operation has done to a file.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A synced write.
    Durable(FileId, u64),
    /// Another write.
    Written(FileId, u64),
    /// A sync.
    Synced(FileId),
}

/// Runs an operation.
fn execute(disk: &SimDisk, op: DiskOp) -> (Completed, Option<Change>) {
    match op {
        DiskOp::Write { file, at, bytes, durable, .. } => {
            match write(disk, file, at, &bytes.joined()) {
                Ok(change) if durable => {
                    (Completed::Written(Ok(())), Some(Change::Durable(file, change)))
                }
                Ok(change) => (Completed::Written(Ok(())), Some(Change::Written(file, change))),
                Err(error) => (Completed::Written(Err(error)), None),
            }
        }
        DiskOp::Read { file, at, len, .. } => (Completed::Read(read(disk, file, at, len)), None),
        DiskOp::Sync { file, .. } => match disk.files().step(13, u64::from(file.0)) {
            Ok(()) => (Completed::Synced(Ok(())), Some(Change::Synced(file))),
            Err(error) => (Completed::Synced(Err(error)), None),
        },
        DiskOp::Chore { chore, .. } => (Completed::Chore(chore(disk)), None),
    }
}

fn confirm(disk: &SimDisk, file: FileId, changes: &[u64]) {
    if let Ok((bytes, _)) = disk.files().bytes(file.0) {
        changes.iter().for_each(|change| bytes.confirm(*change));
    }
}

fn write(disk: &SimDisk, file: FileId, at: u64, data: &Bytes) -> io::Result<u64> {
    let mut files = disk.files();
    files.step(12, at ^ (u64::from(crate::trace::digest(data)) << 32))?;
    let full = files.full;
    let (bytes, _) = files.bytes(file.0)?;
    if full && at as usize + data.len() > bytes.current().len() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(bytes.write(at as usize, data))
}

fn read(disk: &SimDisk, file: FileId, at: u64, len: u32) -> io::Result<Bytes> {
    let mut buf = AlignedBuf::zeroed(len as usize);
    let filled = disk.read_at(file, at, buf.as_mut_slice())?;
    buf.truncate(filled);
    Ok(buf.into())
}

/// A disk that does at once what it is told: for who reads a log outside a shard.
#[derive(Debug)]
pub struct AtOnce<'a> {
    disk: &'a SimDisk,
    ended: VecDeque<Completion>,
}

impl<'a> AtOnce<'a> {
    /// The quick way to `disk`.
    #[must_use]
    pub fn new(disk: &'a SimDisk) -> Self {
        AtOnce { disk, ended: VecDeque::new() }
    }

    /// The next operation that is over.
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.ended.pop_front()
    }
}

impl log::disk::Disk for AtOnce<'_> {
    fn submit(&mut self, log: LogKey, op: DiskOp) {
        let ticket = op.ticket();
        let (result, change) = execute(self.disk, op);
        match change {
            Some(Change::Durable(file, change)) => confirm(self.disk, file, &[change]),
            // Nothing is under way beside it, so it covers all.
            Some(Change::Synced(file)) => {
                if let Ok((bytes, _)) = self.disk.files().bytes(file.0) {
                    bytes.sync();
                }
            }
            Some(Change::Written(..)) | None => {}
        }
        self.ended.push_back(Completion { log, ticket, result });
    }
}

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
    /// The next write fails.
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
}

#[derive(Debug)]
struct Ended {
    number: u64,
    completion: Completion,
    /// A synced write, durable as soon as its end is seen.
    confirms: Option<(FileId, u64)>,
}

/// The operations of one shard.
#[derive(Debug)]
pub struct Queue {
    options: QueueOptions,
    waiting: Vec<Waiting>,
    ended: VecDeque<Ended>,
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
        self.waiting.push(Waiting { number, due_us: now_us + time, log, op });
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
        if let Some((file, change)) = ended.confirms
            && let Ok((bytes, _)) = disk.files().bytes(file.0)
        {
            bytes.confirm(change);
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
            let (result, confirms) = match failed {
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
            self.ended.push_back(Ended { number, completion, confirms });
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
            (DiskOp::Chore { .. }, Some(Failure::Chore)) => {
                self.failure = None;
                tally.hit(Fault::ChoreFailed);
                Some(Completed::Chore(ChoreDone::failed(error())))
            }
            _ => None,
        }
    }
}

/// Runs an operation. A synced write comes with what its seen end confirms.
fn execute(disk: &SimDisk, op: DiskOp) -> (Completed, Option<(FileId, u64)>) {
    match op {
        DiskOp::Write { file, at, bytes, durable, .. } => match write(disk, file, at, &bytes) {
            Ok(change) => (Completed::Written(Ok(())), durable.then_some((file, change))),
            Err(error) => (Completed::Written(Err(error)), None),
        },
        DiskOp::Read { file, at, len, .. } => (Completed::Read(read(disk, file, at, len)), None),
        DiskOp::Chore { chore, .. } => (Completed::Chore(chore(disk)), None),
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
        let (result, confirms) = execute(self.disk, op);
        if let Some((file, change)) = confirms
            && let Ok((bytes, _)) = self.disk.files().bytes(file.0)
        {
            bytes.confirm(change);
        }
        self.ended.push_back(Completion { log, ticket, result });
    }
}

//! A disk that does each operation at once, on the caller's thread. For benches, tools and tests without a runtime.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Completed, Completion, Disk, DiskOp, LogKey};
use crate::log::Log;
use crate::storage::{Storage, read_blocks};

/// See the module.
pub struct BlockingDisk {
    storage: Arc<dyn Storage>,
    completions: VecDeque<Completion>,
}

impl BlockingDisk {
    /// A disk over `storage`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        BlockingDisk { storage, completions: VecDeque::new() }
    }

    /// Hands every completion to `log`, until there is none. All must be of that log.
    pub fn complete(&mut self, log: &mut Log) {
        while let Some(completion) = self.completions.pop_front() {
            assert_eq!(completion.log, log.key(), "one log at a time");
            log.on_completion(completion.ticket, completion.result, self);
        }
    }

    /// The next completion.
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }
}

impl Disk for BlockingDisk {
    fn submit(&mut self, log: LogKey, op: DiskOp) {
        op.check();
        let storage = &*self.storage;
        let (ticket, result) = match op {
            DiskOp::Write { ticket, file, at, bytes, durable } => {
                let written = storage.write_at(file, at, &bytes.joined());
                let synced = if durable { storage.sync(file) } else { Ok(()) };
                (ticket, Completed::Written(written.and(synced)))
            }
            DiskOp::Read { ticket, file, at, len } => {
                let read = read_blocks(storage, file, at, len as usize);
                (ticket, Completed::Read(read.map(Bytes::from)))
            }
            DiskOp::Sync { ticket, file } => (ticket, Completed::Synced(storage.sync(file))),
            DiskOp::Chore { ticket, chore } => (ticket, Completed::Chore(chore(storage))),
        };
        self.completions.push_back(Completion { log, ticket, result });
    }
}

//! A kernel without a ring: writes are over as soon as they are submitted, and nothing is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use dataplane::control::ControlRequest;
use dataplane::kernel::Kernel;
use dataplane::mail::Mail;
use log::blocking_disk::BlockingDisk;
use log::disk::{Completed, Completion, Disk, DiskOp, LogKey};
use log::storage::Storage;

/// See the module. Chores (new segments, checkpoints) run for real; they are rare.
pub struct MemoryKernel {
    written: VecDeque<Completion>,
    chores: BlockingDisk,
    /// What the shard will receive.
    pub mail: VecDeque<Mail>,
    control: Vec<ControlRequest>,
}

impl MemoryKernel {
    /// A kernel whose chores work on `storage`.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        MemoryKernel {
            written: VecDeque::new(),
            chores: BlockingDisk::new(storage),
            mail: VecDeque::new(),
            control: Vec::new(),
        }
    }
}

impl Disk for MemoryKernel {
    fn submit(&mut self, log: LogKey, op: DiskOp) {
        match op {
            DiskOp::Write { ticket, .. } => {
                let result = Completed::Written(Ok(()));
                self.written.push_back(Completion { log, ticket, result });
            }
            other => self.chores.submit(log, other),
        }
    }
}

impl Kernel for MemoryKernel {
    fn next_completion(&mut self) -> Option<Completion> {
        self.written.pop_front().or_else(|| self.chores.next_completion())
    }

    fn receive(&mut self) -> Option<Mail> {
        self.mail.pop_front()
    }

    fn send(&mut self, _shard: u16, mail: Mail) -> Result<(), Mail> {
        Err(mail)
    }

    fn send_control(&mut self, request: ControlRequest) -> Result<(), ControlRequest> {
        self.control.push(request);
        Ok(())
    }

    fn control_is_open(&self) -> bool {
        true
    }
}

//! The real kernel under a shard: its ring, its helper thread, its mailboxes and the way to the control plane.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use log::disk::{Completion, Disk, DiskOp, LogKey, Ticket};
use log::storage::FileId;
use log::storage::file::FileStorage;

use super::chores::Chores;
use super::disk::{InFlight, Place};
use super::ring::Ring;
use super::stats::Counters;
use super::wake::Doorbell;
use crate::control::{ControlLink, ControlReply, ControlRequest};
use crate::kernel::Kernel;
use crate::mail::Mail;
use crate::mailbox::{Desk, Kind, Letter};

/// Replies of the control plane that may wait for one shard.
pub(super) const REPLIES_MAX: usize = 1_024;

/// What one shard stands on. Lives on its thread.
pub(super) struct RingKernel {
    pub(super) ring: Ring,
    pub(super) desk: Desk<Mail>,
    pub(super) chores: Chores,
    pub(super) storage: Arc<FileStorage>,
    pub(super) control: Arc<ControlLink>,
    /// From the control plane.
    pub(super) replies: Arc<ArrayQueue<ControlReply>>,
    /// The doorbells of all shards.
    pub(super) bells: Arc<[Arc<Doorbell>]>,
    pub(super) in_flight: InFlight,
    pub(super) completions: VecDeque<Completion>,
    pub(super) counters: Arc<Counters>,
    /// Shards that were sent mail in this cycle, a bit each.
    pub(super) written_to: u64,
    /// Whether the control plane was asked something in this cycle.
    pub(super) asked_control: bool,
    /// Mail was refused in this cycle: nobody tells when there is room again, so try soon.
    pub(super) was_refused: bool,
}

impl RingKernel {
    /// Takes the result of a disk operation.
    pub(super) fn on_disk(&mut self, index: u32, result: i32) {
        let completion = self.in_flight.complete(&mut self.ring, index, result);
        self.completions.extend(completion);
    }

    /// Wakes those that were sent mail and sleep. What goes through the ring goes with its next submission.
    pub(super) fn wake_others(&mut self) {
        if std::mem::take(&mut self.asked_control) {
            self.control.wake();
        }
        while self.written_to != 0 {
            let to = self.written_to.trailing_zeros() as u16;
            self.written_to &= self.written_to - 1;
            let bell = &self.bells[usize::from(to)];
            if !bell.take_sleeper() {
                continue;
            }
            match bell.ring_fd() {
                Some(ring) => self.ring.ring_other(ring, to),
                None => bell.ring_anyway(),
            }
        }
    }

    /// Rings a shard again whose ring could not be reached through this one.
    pub(super) fn on_mail_failed(&self, shard: u32) {
        self.bells[shard as usize].ring_anyway();
    }

    /// Whether something lies in a queue of this shard. Looked at again after sleep is announced.
    pub(super) fn has_queued(&self) -> bool {
        let has_completed = !self.completions.is_empty() || self.chores.has_done();
        has_completed || self.desk.has_mail() || !self.replies.is_empty()
    }

    fn place(&self, log: LogKey, ticket: Ticket, file: FileId, at: u64) -> Place {
        Place { log, ticket, fd: self.storage.raw_fd(file), at }
    }
}

impl Disk for RingKernel {
    fn submit(&mut self, log: LogKey, operation: DiskOp) {
        operation.check();
        match operation {
            DiskOp::Write { ticket, file, at, bytes, durable } => {
                let place = self.place(log, ticket, file, at);
                self.counters.disk_writes.add(1);
                self.counters.disk_synced_writes.add(u64::from(durable));
                self.counters.disk_written_bytes.add(bytes.len() as u64);
                self.in_flight.write(&mut self.ring, place, bytes, durable);
            }
            DiskOp::Read { ticket, file, at, len } => {
                let place = self.place(log, ticket, file, at);
                self.counters.disk_reads.add(1);
                self.counters.disk_read_bytes.add(len as u64);
                self.in_flight.read(&mut self.ring, place, len);
            }
            DiskOp::Sync { ticket, file } => {
                let place = self.place(log, ticket, file, 0);
                self.in_flight.sync(&mut self.ring, place);
            }
            DiskOp::Chore { ticket, chore } => self.chores.submit(log, ticket, chore),
        }
    }
}

impl Kernel for RingKernel {
    fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front().or_else(|| self.chores.next_done())
    }

    fn receive(&mut self) -> Option<Mail> {
        let reply = self.replies.pop().map(Mail::Control);
        reply.or_else(|| self.desk.receive().map(|(_, mail)| mail))
    }

    fn send(&mut self, shard: u16, mail: Mail) -> Result<(), Mail> {
        let sent = self.desk.send(shard, mail);
        match &sent {
            Ok(()) => self.written_to |= 1 << shard,
            Err(_) => self.was_refused = true,
        }
        sent
    }

    fn send_control(&mut self, request: ControlRequest) -> Result<(), ControlRequest> {
        self.asked_control = true;
        self.control.send(request)
    }

    fn control_is_open(&self) -> bool {
        self.control.is_open()
    }
}

impl Letter for Mail {
    /// A publish is answered once, so it takes the slot of its answer along; the rest is bounded by credit and members.
    fn kind(&self) -> Kind {
        match self {
            Mail::Publish(_) => Kind::Request,
            Mail::Published { .. } => Kind::Reply,
            _ => Kind::Note,
        }
    }
}

//! What one shard of the simulation stands on: its part of disk, mailboxes and control queue, at one moment.

use std::sync::Arc;

use dataplane::control::{ControlReply, ControlRequest};
use dataplane::kernel::Kernel;
use dataplane::mail::Mail;
use log::disk::{Completed, Completion, Disk, DiskOp, LogKey};

use crate::control::ControlQueue;
use crate::disk::queue::Queue;
use crate::disk::storage::SimDisk;
use crate::faults::Tally;
use crate::network::Network;
use crate::trace::{Trace, digest};

/// The kernel of one cycle of one shard.
pub struct SimKernel<'a> {
    /// Which shard.
    pub shard: u16,
    /// Time, which stands still within a cycle.
    pub now_us: u64,
    /// The shard's disk operations.
    pub queue: &'a mut Queue,
    /// The disk.
    pub disk: &'a SimDisk,
    /// All mailboxes.
    pub network: &'a mut Network,
    /// The way to the control plane.
    pub control: &'a mut ControlQueue,
    /// What happens.
    pub trace: &'a mut Trace,
    /// What goes wrong.
    pub tally: &'a mut Tally,
    /// Topics that the shard has been told to delete in this cycle.
    pub deleted: Vec<Arc<str>>,
}

impl Disk for SimKernel<'_> {
    fn submit(&mut self, log: LogKey, op: DiskOp) {
        let ticket = op.ticket().0;
        match &op {
            DiskOp::Write { at, bytes, durable, .. } => {
                let (len, sum) = (bytes.len(), digest(&bytes.joined()));
                self.trace.note(format_args!(
                    "  {log} write {ticket} at {at} len {len} sum {sum:08x} durable {durable}"
                ));
            }
            DiskOp::Read { at, len, .. } => {
                self.trace.note(format_args!("  {log} read {ticket} at {at} len {len}"));
            }
            DiskOp::Sync { .. } => self.trace.note(format_args!("  {log} sync {ticket}")),
            DiskOp::Chore { .. } => self.trace.note(format_args!("  {log} chore {ticket}")),
        }
        self.queue.submit(log, op, self.now_us, self.tally);
    }
}

impl Kernel for SimKernel<'_> {
    fn next_completion(&mut self) -> Option<Completion> {
        let completion = self.queue.next_completion(self.disk, self.now_us, self.tally)?;
        let (log, ticket) = (completion.log, completion.ticket.0);
        let ok = match &completion.result {
            Completed::Written(result) | Completed::Synced(result) => result.is_ok(),
            Completed::Read(result) => result.is_ok(),
            Completed::Chore(_) => true,
        };
        self.trace.note(format_args!("  {log} ended {ticket} ok {ok}"));
        Some(completion)
    }

    fn receive(&mut self) -> Option<Mail> {
        let (from, mail) = self.network.receive(self.shard, self.now_us)?;
        let kind = kind_of(&mail);
        self.trace.note(format_args!("  received {kind} from {from}"));
        if let Mail::Control(ControlReply::DeleteTopic(order)) = &mail {
            self.deleted.push(order.topic.clone());
        }
        Some(mail)
    }

    fn send(&mut self, shard: u16, mail: Mail) -> Result<(), Mail> {
        self.network.send((self.shard, shard), mail, self.now_us, self.tally)
    }

    fn send_control(&mut self, request: ControlRequest) -> Result<(), ControlRequest> {
        self.control.send(request, self.now_us, self.tally)
    }

    fn control_is_open(&self) -> bool {
        self.control.is_open
    }
}

fn kind_of(mail: &Mail) -> &'static str {
    match mail {
        Mail::Control(_) => "control",
        Mail::Publish(_) => "publish",
        Mail::Published { .. } => "published",
        Mail::Join { .. } => "join",
        Mail::Leave { .. } => "leave",
        Mail::Lease { .. } => "lease",
        Mail::Recall { .. } => "recall",
        Mail::LeaseReturned { .. } => "lease returned",
        Mail::LeaseWanted { .. } => "lease wanted",
        Mail::Deliver { .. } => "deliver",
        Mail::Settle(_) => "settle",
        Mail::Stale { .. } => "stale",
        Mail::Read(_) => "read",
        Mail::Settled { .. } => "settled",
        Mail::CaughtUp { .. } => "caught up",
        Mail::Passed { .. } => "passed",
        Mail::OlderDone { .. } => "older done",
        Mail::ClientUp { .. } => "client up",
        Mail::ClientDown { .. } => "client down",
        Mail::TopicAsked { .. } => "topic asked",
        Mail::TopicTold { .. } => "topic told",
    }
}

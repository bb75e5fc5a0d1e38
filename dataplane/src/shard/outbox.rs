//! Mail that waits for a full mailbox. No shard ever waits: mail is kept here, in order, and sent as there is room.

use std::collections::VecDeque;

use crate::kernel::Kernel;
use crate::mail::Mail;
use crate::shard::held::WaitingMail;

/// One queue for each other shard.
#[derive(Debug)]
pub struct Outbox {
    queues: Vec<VecDeque<Mail>>,
    waiting: usize,
}

impl Outbox {
    /// An outbox to `shards` shards.
    pub fn new(shards: u16) -> Self {
        Outbox { queues: (0..shards).map(|_| VecDeque::new()).collect(), waiting: 0 }
    }

    /// Mail for another shard, behind what is already there.
    pub fn push(&mut self, shard: u16, mail: Mail) {
        self.queues[usize::from(shard)].push_back(mail);
        self.waiting += 1;
    }

    /// Sends what the mailboxes take.
    pub fn flush<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        let mut sent = 0;
        for (shard, queue) in self.queues.iter_mut().enumerate() {
            while let Some(mail) = queue.pop_front() {
                if let Err(mail) = kernel.send(shard as u16, mail) {
                    queue.push_front(mail);
                    break;
                }
                sent += 1;
            }
        }
        assert!(sent as usize <= self.waiting, "what is sent was waiting");
        self.waiting -= sent as usize;
        debug_assert!(
            self.waiting > 0 || self.queues.iter().all(VecDeque::is_empty),
            "what waits is counted"
        );
        sent
    }

    /// What waits for each shard, by kind.
    pub fn waiting(&self) -> Vec<WaitingMail> {
        let lengths = self.queues.iter().map(VecDeque::len);
        assert!(lengths.sum::<usize>() == self.waiting, "what waits is counted");
        self.queues.iter().map(sorted).collect()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }
}

fn sorted(queue: &VecDeque<Mail>) -> WaitingMail {
    let mut waiting = WaitingMail::default();
    for mail in queue {
        match mail {
            Mail::Publish(_) => waiting.publishes += 1,
            Mail::Published { .. } => waiting.answers += 1,
            Mail::Deliver { .. } => waiting.deliveries += 1,
            Mail::Settle { .. } => waiting.settles += 1,
            _ => waiting.others += 1,
        }
    }
    waiting
}

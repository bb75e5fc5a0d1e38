//! Replies on their way to the shards. A full mailbox delays that shard's replies, never the control thread.

use std::collections::VecDeque;

use dataplane::control::ControlReply;

use crate::limits::REPLIES_MAX;
use crate::shards::Shards;

/// For each shard the replies that its mailbox has not taken yet, oldest first.
#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: Vec<VecDeque<ControlReply>>,
    len: usize,
}

impl Outbox {
    pub(crate) fn new(shards: u16) -> Outbox {
        Outbox { waiting: (0..shards).map(|_| VecDeque::new()).collect(), len: 0 }
    }

    /// Whether requests must wait, because each may add a reply.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= REPLIES_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, shard: u16, reply: ControlReply) {
        self.waiting[usize::from(shard)].push_back(reply);
        self.len += 1;
    }

    /// The same to every shard.
    pub(crate) fn push_all(&mut self, reply: &ControlReply) {
        for shard in 0..self.waiting.len() as u16 {
            self.push(shard, reply.clone());
        }
    }

    /// Hands over what the mailboxes take, in order.
    pub(crate) fn send(&mut self, shards: &impl Shards) {
        for (shard, waiting) in self.waiting.iter_mut().enumerate() {
            while let Some(reply) = waiting.pop_front() {
                if let Err(reply) = shards.reply(shard as u16, reply) {
                    waiting.push_front(reply);
                    break;
                }
                self.len -= 1;
            }
        }
    }
}

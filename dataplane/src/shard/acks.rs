//! Batches that are appended and not acknowledged, and what subscribers may see.
//!
//! Each topic has its ack level, and one log holds topics of all levels. A batch is acknowledged as soon as the log has
//! come so far at the level of its topic, whatever else is in the log. Subscribers read a log in the order of positions:
//! they see an event once it, and everything before it in its log, is acknowledged. So no event is ever seen before it has
//! reached its level, and the order of a partition is that of its offsets also where levels change.

use std::collections::VecDeque;

use codec::ack::AckLevel;
use codec::ids::{Offset, Partition, Position};
use log::positions::LogPositions;

use crate::session::SessionKey;

/// An appended batch that is not yet acknowledged.
#[derive(Debug)]
pub struct Unacked {
    /// Position of its first event.
    pub base: Position,
    /// Position after its last event.
    pub end: Position,
    /// When it is acknowledged.
    pub level: AckLevel,
    /// The shard of its publisher; this one's own index when the session is here.
    pub from: u16,
    pub session: SessionKey,
    pub request: u64,
    pub partition: Partition,
    pub base_offset: Offset,
    pub count: u32,
    pub bytes: u32,
}

/// See the module. Invariant: every event of the log from `visible_end` on is in a list or behind one that is.
#[derive(Debug)]
pub struct Acks {
    /// One a level, each by rising position.
    lists: [VecDeque<Unacked>; 3],
    visible_end: Position,
    /// Everything before it that was acknowledged ends there.
    acked_end: Position,
    /// The log has stopped, and nothing more of it is ever seen.
    is_stopped: bool,
}

/// How far a log has come at a level.
fn reached(positions: LogPositions, level: AckLevel) -> Position {
    match level {
        AckLevel::Received => positions.end(),
        AckLevel::Written => positions.written_end(),
        AckLevel::Durable => positions.durable_end(),
    }
}

impl Acks {
    /// Everything in the log is acknowledged: it was recovered.
    pub fn new(end: Position) -> Self {
        Acks { lists: Default::default(), visible_end: end, acked_end: end, is_stopped: false }
    }

    /// Subscribers may see everything before it.
    pub fn visible_end(&self) -> Position {
        self.visible_end
    }

    /// The end of the last batch that was acknowledged: subscribers may not see all of it yet.
    pub fn acked_end(&self) -> Position {
        self.acked_end
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lists.iter().map(VecDeque::len).sum()
    }

    /// A batch was appended, or is answered behind all that was.
    pub fn appended(&mut self, unacked: Unacked) {
        assert!(self.visible_end <= unacked.base, "what is appended is not seen at once");
        assert!(unacked.base <= unacked.end, "a batch ends behind its start");
        let list = self.list(unacked.level);
        let last = list.back();
        assert!(last.is_none_or(|last| last.end <= unacked.base), "positions rise");
        list.push_back(unacked);
    }

    /// The next batch that has reached its level.
    pub fn pop_reached(&mut self, positions: LogPositions) -> Option<Unacked> {
        for list in &mut self.lists {
            let is_reached = |first: &mut Unacked| first.end <= reached(positions, first.level);
            if let Some(first) = list.pop_front_if(is_reached) {
                self.acked_end = self.acked_end.max(first.end);
                return Some(first);
            }
        }
        None
    }

    /// Everything that has reached its level was taken: subscribers may see what is before the first that has not.
    /// `end` is the log's.
    pub fn released(&mut self, end: Position) {
        if self.is_stopped {
            return;
        }
        let waiting = self.lists.iter().filter_map(|list| list.front().map(|first| first.base));
        let visible_end = waiting.min().unwrap_or(end);
        assert!(self.visible_end <= visible_end, "what was seen stays seen");
        assert!(visible_end <= end, "nothing is seen before it is appended");
        self.visible_end = visible_end;
    }

    /// The log has stopped: nothing that waits will ever be known to have reached its level, and none of it is seen.
    pub fn pop_lost(&mut self) -> Option<Unacked> {
        self.is_stopped = true;
        self.lists.iter_mut().find_map(VecDeque::pop_front)
    }

    fn list(&mut self, level: AckLevel) -> &mut VecDeque<Unacked> {
        &mut self.lists[level as usize - 1]
    }
}

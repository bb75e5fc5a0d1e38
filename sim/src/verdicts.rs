//! What members have said of a group's events other than that they are done, and what may have become of these.

use std::collections::{BTreeMap, BTreeSet};

use codec::ids::{Position, Timestamp};
use dataplane::kernel::Now;
use log::disk::LogKey;
use routing::delivery_policy::{DeliveryPolicy, OnExhausted};

use crate::ledger::{BatchId, GroupBook, Ledger, all_events};

/// An event that a member handed back while it certainly had it.
#[derive(Clone, Copy, Debug)]
pub struct Returned {
    /// Of which batch.
    pub id: BatchId,
    /// Which.
    pub index: u32,
    /// The attempt that ended so; at most.
    pub attempt: u32,
    /// When.
    pub at_us: u64,
    /// How often members had been lost by then.
    pub losses: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// The group's policy.
    pub policy: DeliveryPolicy,
    /// For each batch the events that a member has rejected.
    pub rejected: BTreeMap<BatchId, u64>,
    /// For each batch the events that a member has handed back.
    pub handed_back: BTreeMap<BatchId, u64>,
    /// Events that a member settled as done in this life, while it certainly had them.
    pub done: BTreeSet<(BatchId, u32)>,
    /// By key and place: events that were handed back and have not come again.
    pub returned: BTreeMap<(u8, LogKey, Position), Returned>,
}

impl GroupBook {
    /// Whether what is exhausted is gone, instead of standing among the dead letters.
    #[must_use]
    pub fn drops(&self) -> bool {
        !self.is_durable || self.verdicts.policy.on_exhausted == OnExhausted::Drop
    }

    /// The group's full name; none: nobody has subscribed.
    #[must_use]
    pub fn name(&self) -> &str {
        self.subscriptions.first().map_or("", |known| &known.subscription.group_name)
    }
}

impl Ledger {
    /// A shard was told the time. While the wall clock is set back, a shard's goes on at half the speed.
    pub fn note_time(&mut self, now: Now) {
        let elapsed_us = now.mono_us - self.wall_end_us;
        let slow = Timestamp(self.wall_end.0 + elapsed_us.div_ceil(2));
        (self.wall_end, self.wall_end_us) = (now.wall.max(slow), now.mono_us);
    }

    /// Whether an event that was appended then may have been too old for a group at some time.
    #[must_use]
    pub fn may_be_too_old(&self, book: &GroupBook, append_time: Option<Timestamp>) -> bool {
        let Some(age_max_ms) = book.verdicts.policy.age_max_ms else { return false };
        let age = |at: Timestamp| self.wall_end.0.saturating_sub(at.0);
        append_time.is_none_or(|at| age(at) > age_max_ms * 1_000)
    }

    /// The events of a batch that a group may have given up, for all that clients can know. An attempt may come to
    /// nothing on its way, so any event may be exhausted where attempts end.
    #[must_use]
    pub fn may_be_given_up(&self, book: &GroupBook, id: BatchId) -> u64 {
        let all = all_events(self.attempt(id).keys.len());
        let append_time = self.places.get(&id).map(|place| place.append_time);
        let policy = &book.verdicts.policy;
        if policy.attempts_max.is_some() || self.may_be_too_old(book, append_time) {
            return all;
        }
        book.verdicts.rejected.get(&id).copied().unwrap_or(0)
    }

    /// The events of a batch that a group owes to nobody although no member has settled them: their dead letters are
    /// durable, or it drops what it gives up. Retention may have taken what stands elsewhere before anybody saw it: a topic
    /// may be kept longer than its dead letters and its parked events.
    #[must_use]
    pub fn given_up(&self, book: &GroupBook, id: BatchId) -> u64 {
        if book.drops() {
            return self.may_be_given_up(book, id);
        }
        if self.has_retention {
            let parked = book.verdicts.handed_back.get(&id).copied();
            let parked = parked.filter(|_| self.policies.park_after_us.is_some());
            return self.may_be_given_up(book, id) | parked.unwrap_or(0);
        }
        let letters = self.letters.get(book.name());
        let of_batch = letters.into_iter().flat_map(|of| of.range((id, 0)..=(id, u32::MAX)));
        of_batch.fold(0, |sum, ((_, index), _)| sum | 1 << index)
    }
}

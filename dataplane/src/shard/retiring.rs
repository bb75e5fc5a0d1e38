//! Members whose sessions have done with them while deliveries to them are not settled. A client that asks for events in
//! one request settles them in another, perhaps by another connection: until then nobody else may get them.
//!
//! A retired member gets no more. It goes when all its credit is home, which means that everything is settled, or when
//! its deliveries have timed out for certain; what is not settled then is idle, as of any member that leaves.

use std::collections::BTreeSet;

use crate::fence::Fence;
use crate::mail::{Mail, MemberId, Settle};
use crate::session::{Delivery, SessionKey, Verdict};
use crate::shard::Shard;
use crate::token::TokenFields;

/// How much longer than a delivery may take a member stays: the look for late deliveries goes by time, too.
const GRACE_US: u64 = 1_000_000;

/// The retired members whose home is one shard.
#[derive(Debug, Default)]
pub struct Retired {
    /// By the time at which they end at the latest; some are gone already.
    ends: BTreeSet<(u64, MemberId)>,
    /// What was on its way to one of them, and goes back.
    handed_back: Vec<Delivery>,
}

impl Retired {
    /// When the next one ends at the latest.
    pub fn next_end(&self) -> Option<u64> {
        if self.handed_back.is_empty() { self.ends.first().map(|(at, _)| *at) } else { Some(0) }
    }

    /// Takes a delivery that came too late. It is given back between two steps of the cycle: it may come out of the middle
    /// of one.
    pub fn hand_back(&mut self, delivery: Delivery) {
        self.handed_back.push(delivery);
    }
}

impl Shard {
    /// A session has done with a subscription, or with asking for it: it gets no more, and what it got may still be
    /// settled by whoever has the tokens. Not answered; the subscription's number is free at once.
    pub fn retire(&mut self, key: SessionKey, request: u64) {
        let _fence = Fence::default();
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(index) = session.asked.iter().position(|(number, _)| *number == request) {
            session.asked.swap_remove(index);
            self.members.asking.forget(key, request);
            return;
        }
        let found = session.subscriptions.iter().position(|(number, _)| *number == request);
        let Some(index) = found else { return };
        self.set_credit(key, request, 0);
        // What this shard has lent itself is home before anything more can go out.
        self.return_recalled();
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (_, slot) = session.subscriptions.swap_remove(index);
        let Some(life) = self.members.retire(slot) else { return self.end_member(slot, false) };
        let member = MemberId { shard: self.options.index, slot, life };
        let group = self.members.group_of(member).and_then(|group| self.groups.get(&group));
        let timeout_us = group.map_or(self.options.ack_deadline_us, |of| of.rules.ack_timeout_us);
        let until_us = self.now.mono_us.max(self.seen.mono_us) + timeout_us + GRACE_US;
        let is_new = self.members.retired.ends.insert((until_us, member));
        assert!(is_new, "a member is retired once");
    }

    /// Gives back what came too late for retired members, and ends those whose time is over.
    pub(super) fn end_retired(&mut self) -> u32 {
        if self.members.retired.next_end().is_none() {
            return 0;
        }
        let mut work = 0;
        for delivery in std::mem::take(&mut self.members.retired.handed_back) {
            self.send_back(delivery);
            work += 1;
        }
        while let Some((until_us, member)) = self.members.retired.ends.first().copied() {
            let is_there = self.members.is_retired(member);
            if is_there && until_us > self.now.mono_us {
                break;
            }
            self.members.retired.ends.pop_first();
            if is_there {
                self.end_member(member.slot, true);
                work += 1;
            }
        }
        work
    }

    fn send_back(&mut self, delivery: Delivery) {
        let Some(token) = TokenFields::decode(&delivery.token.0) else { return };
        let session = SessionKey { slot: u32::MAX, life: 0 };
        let (from, owner) = (self.options.index, token.log.log % self.options.shards);
        let (selection, verdict) = (delivery.selection, Verdict::Unseen);
        let settle =
            Settle { from, session, request: 0, token, selection, verdict, is_answered: false };
        self.post(owner, Mail::Settle(Box::new(settle)));
    }
}

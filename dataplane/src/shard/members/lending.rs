//! Credit on its way: lent to the shards that deliver to a member, asked for by another, given back.

use routing::subscription::GroupId;

use crate::mail::{Mail, MemberId};
use crate::shard::Shard;

impl Shard {
    pub(in crate::shard) fn on_lease(&mut self, member: MemberId, group: GroupId, events: u32) {
        let state = self.groups.get_mut(&group);
        let Some(lent) = state.and_then(|state| state.members.get_mut(member)) else { return };
        lent.leased(events);
        self.wake_lagging(group);
        self.wake_idle(group);
    }

    /// Credit is given back at the end of the cycle: two shards that want the same credit would otherwise take it from
    /// each other for ever, and neither would get to use it.
    pub(in crate::shard) fn on_recall(&mut self, member: MemberId, group: GroupId, events: u32) {
        self.recalled.push((member, group, events));
    }

    /// Gives back what was recalled and is not in use, and notes the rest to be given back when it is freed.
    pub(in crate::shard) fn return_recalled(&mut self) {
        if self.recalled.is_empty() {
            return;
        }
        for (member, group, events) in std::mem::take(&mut self.recalled) {
            self.return_lease(member, group, events);
        }
    }

    fn return_lease(&mut self, member: MemberId, group: GroupId, events: u32) {
        let from = self.options.index;
        let state = self.groups.get_mut(&group);
        let Some(lent) = state.and_then(|state| state.members.get_mut(member)) else { return };
        let now = lent.recalled(events);
        if now > 0 {
            self.post(member.shard, Mail::LeaseReturned { from, member, events: now });
        }
    }

    pub(in crate::shard) fn on_lease_returned(&mut self, from: u16, id: MemberId, events: u32) {
        let Some(member) = self.members.get_mut(id) else { return };
        let lent = &mut member.lent[usize::from(from)];
        assert!(events <= *lent, "only what was lent comes back");
        *lent -= events;
        let kept = events.min(member.surplus);
        member.surplus -= kept;
        member.free += events - kept;
        member.check();
        if member.is_retired && member.is_home() {
            return self.end_member(id.slot, false);
        }
        self.lend_more(id.slot);
        // Whoever still waits has asked once and does not ask again.
        self.recall(id.slot);
    }

    pub(in crate::shard) fn on_lease_wanted(&mut self, from: u16, id: MemberId) {
        let Some(member) = self.members.get_mut(id) else { return };
        if !member.wanting.contains(&from) {
            member.wanting.push_back(from);
        }
        member.check();
        self.lend_more(id.slot);
        self.recall(id.slot);
    }

    /// Lends free credit to the shards that want it, in turn, half of what is left to each.
    pub(super) fn lend_more(&mut self, slot: u32) {
        let own = self.options.index;
        while let Some(member) = self.members.at(slot) {
            if member.free == 0 {
                return;
            }
            let Some(shard) = member.wanting.pop_front() else {
                // Nobody asks: it waits here for who asks first, but this shard's groups need no asking.
                let (events, group) = (std::mem::take(&mut member.free), member.group);
                member.lent[usize::from(own)] += events;
                let member = MemberId { shard: own, slot, life: member.life };
                self.on_lease(member, group, events);
                return;
            };
            let events =
                if member.wanting.is_empty() { member.free } else { member.free.div_ceil(2) };
            assert!(events > 0, "some credit is free, and some of it is lent");
            member.free -= events;
            member.lent[usize::from(shard)] += events;
            member.check();
            let group = member.group;
            let member = MemberId { shard: own, slot, life: member.life };
            self.post(shard, Mail::Lease { member, group, events });
        }
    }

    /// Asks the shards that hold credit for half of it, when another wants some and none is free.
    pub(super) fn recall(&mut self, slot: u32) {
        let own = self.options.index;
        let Some(member) = self.members.at(slot) else { return };
        let mut asks = Vec::new();
        if member.surplus > 0 {
            let holders = member.lent.iter().enumerate().filter(|(_, lent)| **lent > 0);
            asks.extend(holders.map(|(shard, lent)| (shard as u16, member.surplus.min(*lent))));
        } else {
            // A shard that asked when all its credit was in flight may hold some by now, and still stand in line.
            let others_want =
                |shard: usize| member.wanting.iter().any(|wants| usize::from(*wants) != shard);
            let holders = member.lent.iter().enumerate();
            let holders = holders.filter(|(shard, lent)| **lent > 0 && others_want(*shard));
            asks.extend(holders.map(|(shard, lent)| (shard as u16, lent.div_ceil(2))));
        }
        let (group, id) = (member.group, MemberId { shard: own, slot, life: member.life });
        for (shard, events) in asks {
            self.post(shard, Mail::Recall { member: id, group, events });
        }
    }
}

//! Who gets which events of a batch, key by key.

use super::{GroupLog, Hand};
use crate::group::keys::{KeyHash, KeyMap, Keys};
use crate::group::members::{Member, Members};
use crate::mail::MemberId;
use crate::selection::Bitmap;

/// What one member takes of a batch: the events, and the keys of those that have one.
pub(super) type Share = (MemberId, Bitmap, Vec<(u32, KeyHash)>);

/// A way for the events of one batch: who takes what, and what must wait.
#[derive(Default)]
pub(super) struct Assignment {
    pub(super) pieces: Vec<Share>,
    pub(super) waiting: Bitmap,
    pub(super) waiting_keys: Vec<(u32, KeyHash)>,
    /// Where each key of this batch went; `None` if it waits.
    decided: KeyMap<Option<MemberId>>,
}

impl GroupLog {
    /// Decides event by event, and takes the credit of those that go. Events whose key must wait, or is bound to a
    /// member without credit, wait.
    pub(super) fn assign(
        &self,
        events: &Bitmap,
        keys: &[(u32, KeyHash)],
        must_wait: &dyn Fn(&Keys, KeyHash, u32) -> bool,
        avoid: Option<MemberId>,
        hand: &mut Hand<'_>,
    ) -> Assignment {
        let shard = hand.turn.shard;
        let members = &mut *hand.members;
        let mut plan = Assignment::default();
        let mut keys = keys.iter().copied().peekable();
        let mut current = members.pick(shard, avoid);
        for index in events.iter() {
            let key = keys.next_if(|(at, _)| *at == index).map(|(_, key)| key);
            if !current.and_then(|id| members.get(id)).is_some_and(Member::is_ready) {
                current = members.pick(shard, avoid);
            }
            let member = match key {
                Some(key) if must_wait(&self.keys, key, index) => None,
                Some(key) => self.member_for(key, &plan, current, members),
                None => current,
            };
            let ready = member.filter(|id| members.get(*id).is_some_and(Member::is_ready));
            if let Some(id) = ready {
                members.get_mut(id).expect("found just now").sent(1, 0);
                plan.give(id, index, key);
            } else {
                plan.hold_back(index, key);
            }
        }
        let given: u32 = plan.pieces.iter().map(|(_, events, _)| events.len()).sum();
        assert!(
            given + plan.waiting.len() == events.len(),
            "an event goes to one member, or waits"
        );
        assert!(keys.peek().is_none(), "every key is one of an event, in their order");
        plan
    }

    /// Who must get an event of `key`: the member that has events of the key in flight, else `current`, or whose share
    /// the key is in. `None` if an earlier event of this batch and key waits.
    fn member_for(
        &self,
        key: KeyHash,
        plan: &Assignment,
        current: Option<MemberId>,
        members: &Members,
    ) -> Option<MemberId> {
        if let Some(decided) = plan.decided.get(&key) {
            return *decided;
        }
        // Any key may be among the untracked events, so their member gets the key, or nobody for now.
        let untracked = self.untracked_member.filter(|_| self.untracked > 0);
        self.keys.bound_to(key).or(untracked).or_else(|| members.pick_for(key, current))
    }
}

impl Assignment {
    fn give(&mut self, member: MemberId, index: u32, key: Option<KeyHash>) {
        let found = self.pieces.iter().position(|(id, _, _)| *id == member);
        let at = found.unwrap_or_else(|| {
            self.pieces.push((member, Bitmap::default(), Vec::new()));
            self.pieces.len() - 1
        });
        let (_, events, keys) = &mut self.pieces[at];
        events.set(index);
        if let Some(key) = key {
            keys.push((index, key));
            self.decided.insert(key, Some(member));
        }
    }

    fn hold_back(&mut self, index: u32, key: Option<KeyHash>) {
        self.waiting.set(index);
        if let Some(key) = key {
            self.waiting_keys.push((index, key));
            self.decided.insert(key, None);
        }
    }
}

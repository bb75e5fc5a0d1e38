//! The members of a group as one shard sees them: how much credit each has leased to this shard.

use crate::group::keys::{KeyHash, KeyShare};
use crate::mail::MemberId;
use crate::options::{CREDIT_MAX, MEMBER_BYTES_MAX};

/// How a member takes part in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there for what it got to be settled.
    Staying,
    /// It goes before what it got is settled, so keys are looked at from the beginning: others must be able to take the
    /// rest.
    Passing,
    /// The same, and it takes these keys only, and events without one: other keys wait for their own members.
    Sharing(KeyShare),
}

/// One member, seen from a shard that delivers to it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub id: MemberId,
    /// Events that may still be sent to it from here.
    pub lease: u32,
    /// Events sent from here and not yet settled.
    pub in_flight: u32,
    /// Bytes of the batches those events stand in.
    pub in_flight_bytes: u64,
    /// Credit that another shard has asked for; paid back before it is used again.
    pub owes: u32,
    /// Whether more credit has been asked for.
    pub wanted: bool,
    /// How it takes part.
    pub presence: Presence,
}

impl Member {
    /// Whether an event may be sent to it now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lease > 0 && self.in_flight_bytes < MEMBER_BYTES_MAX
    }

    /// Whether a key that nobody has is one that it takes.
    #[must_use]
    fn takes(&self, key: KeyHash) -> bool {
        match &self.presence {
            Presence::Sharing(share) => share.has(key),
            Presence::Staying | Presence::Passing => true,
        }
    }

    /// `events` have been handed to it, out of a batch of `bytes`.
    pub fn sent(&mut self, events: u32, bytes: u32) {
        assert!(events <= self.lease, "only leased credit can be used");
        self.lease -= events;
        self.in_flight += events;
        self.in_flight_bytes += u64::from(bytes);
    }

    /// Credit that is paid back is in flight until then, and what may be in flight has a bound.
    fn check(&self) {
        assert!(self.owes <= self.in_flight, "what is to be given back is still in flight");
        assert!(self.lease + self.in_flight <= CREDIT_MAX, "a client's window has a bound");
    }

    /// Its home has lent more.
    pub fn leased(&mut self, events: u32) {
        self.lease += events;
        self.wanted = false;
        self.check();
    }

    /// Its home wants `events` back. Returns how many go at once; others follow as they are freed.
    pub fn recalled(&mut self, events: u32) -> u32 {
        let now = self.lease.min(events);
        self.lease -= now;
        self.owes += (events - now).min(self.in_flight - self.owes);
        self.check();
        now
    }

    /// `events` are no longer in flight to it. Returns how many of them go back to the member's home.
    pub fn freed(&mut self, events: u32) -> u32 {
        assert!(events <= self.in_flight, "only what was sent can come back");
        self.in_flight -= events;
        let returned = events.min(self.owes);
        self.owes -= returned;
        self.lease += events - returned;
        self.check();
        returned
    }

    /// The last event of a batch of `bytes` is no longer in flight to it.
    pub fn freed_bytes(&mut self, bytes: u32) {
        assert!(u64::from(bytes) <= self.in_flight_bytes, "bytes are counted once a delivery");
        self.in_flight_bytes -= u64::from(bytes);
        assert!(
            self.in_flight > 0 || self.in_flight_bytes == 0,
            "bytes in flight are those of events: {self:?}"
        );
    }
}

/// All members of a group, wherever they are.
#[derive(Clone, Debug, Default)]
pub struct Members {
    list: Vec<Member>,
    /// Where the next search for a ready member begins, so that members take turns.
    turn: usize,
    /// How many take only some of the keys.
    sharing: usize,
}

impl Members {
    /// A member has come with credit for this shard.
    pub fn join(&mut self, id: MemberId, lease: u32, presence: Presence) {
        assert!(self.get(id).is_none(), "a member joins once");
        assert!(lease <= CREDIT_MAX, "a client's window has a bound");
        let (in_flight, in_flight_bytes, owes, wanted) = (0, 0, 0, false);
        self.sharing += usize::from(matches!(presence, Presence::Sharing(_)));
        let member = Member { id, lease, in_flight, in_flight_bytes, owes, wanted, presence };
        self.list.push(member);
        assert!(self.sharing <= self.list.len(), "who shares is a member");
    }

    /// A member has gone. Its state comes back, so that what it had in flight can be accounted for.
    pub fn leave(&mut self, id: MemberId) -> Option<Member> {
        let index = self.list.iter().position(|member| member.id == id)?;
        let left = self.list.remove(index);
        self.sharing -= usize::from(matches!(left.presence, Presence::Sharing(_)));
        assert!(self.get(id).is_none(), "a member is there once");
        assert!(
            left.in_flight > 0 || left.in_flight_bytes == 0,
            "bytes in flight are those of events: {left:?}"
        );
        Some(left)
    }

    /// The member called `id`.
    #[must_use]
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.list.iter().find(|member| member.id == id)
    }

    /// The member called `id`.
    pub fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.list.iter_mut().find(|member| member.id == id)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.list.iter()
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.list.iter_mut()
    }

    /// Bytes in flight to all of them.
    #[must_use]
    pub fn in_flight_bytes(&self) -> u64 {
        self.list.iter().map(|member| member.in_flight_bytes).sum()
    }

    /// Whether any member can take an event now.
    #[must_use]
    pub fn any_ready(&self) -> bool {
        self.list.iter().any(Member::is_ready)
    }

    /// The only member, if there is exactly one and it stays.
    #[must_use]
    pub fn only(&self) -> Option<&Member> {
        match self.list.as_slice() {
            [member] => Some(member).filter(|member| member.presence == Presence::Staying),
            _ => None,
        }
    }

    /// Whether keys may have to wait for members of their own.
    #[must_use]
    pub fn divide_keys(&self) -> bool {
        self.sharing > 0
    }

    /// Whether any member can take an event of a key that nobody has now.
    #[must_use]
    pub fn any_ready_for(&self, key: KeyHash) -> bool {
        self.list.iter().any(|member| member.is_ready() && member.takes(key))
    }

    /// Who takes a key that nobody has, but has no credit here and has not been asked for any.
    pub(super) fn lacking_for(&self, key: KeyHash) -> impl Iterator<Item = MemberId> + '_ {
        let lacks =
            move |member: &&Member| member.lease == 0 && !member.wanted && member.takes(key);
        self.list.iter().filter(lacks).map(|member| member.id)
    }

    /// The same as [`Members::pick`], for a key that nobody has. `current` is whom it would go to if members took every
    /// key alike.
    #[must_use]
    pub fn pick_for(&self, key: KeyHash, current: Option<MemberId>) -> Option<MemberId> {
        if self.sharing == 0 {
            return current;
        }
        let count = self.list.len();
        let in_turn = (0..count).map(|step| &self.list[(self.turn + step) % count]);
        let mut ready = in_turn.filter(|member| member.is_ready() && member.takes(key));
        ready.next().map(|member| member.id)
    }

    /// A member that can take an event: one on `shard` if there is one, so that the event stays on its core, and not
    /// `avoid` unless there is no other. Those of equal standing take turns.
    #[must_use]
    pub fn pick(&self, shard: u16, avoid: Option<MemberId>) -> Option<MemberId> {
        let count = self.list.len();
        let in_turn = || (0..count).map(|step| &self.list[(self.turn + step) % count]);
        let ready = |member: &&Member| member.is_ready();
        let wanted = |member: &&Member| Some(member.id) != avoid;
        in_turn()
            .filter(ready)
            .filter(wanted)
            .find(|member| member.id.shard == shard)
            .or_else(|| in_turn().filter(ready).find(wanted))
            .or_else(|| in_turn().find(ready))
            .map(|member| member.id)
    }

    /// The next search begins one further.
    pub fn take_turn(&mut self) {
        self.turn = if self.list.is_empty() { 0 } else { (self.turn + 1) % self.list.len() };
    }
}

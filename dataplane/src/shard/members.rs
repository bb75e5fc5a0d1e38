//! Who is there. The home shard of a member keeps its credit and lends parts of it to the shards that deliver to it; a
//! shard that delivers keeps what it was lent.

mod asking;
mod lending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use codec::crc32c::crc32c;
use codec::refusal::Code;
use routing::snapshot::Sought;
use routing::subscription::{GroupId, Subscription, SubscriptionId};

use crate::control::ControlRequest;
use crate::fence::Fence;
use crate::group::members::Presence;
use crate::inquiry::MemberReport;
use crate::mail::{Mail, MemberId};
use crate::options::CREDIT_MAX;
use crate::session::{Asked, Delivery, Gap, SessionEvent, SessionKey};
use crate::shard::retiring::Retired;
use crate::shard::sessions::Wanted;
use crate::shard::{HomeCredit, Shard};
use asking::Asking;

/// A member at home.
#[derive(Debug)]
struct HomeMember {
    life: u32,
    session: SessionKey,
    /// The client's number of the subscription.
    request: u64,
    group: GroupId,
    subscription: SubscriptionId,
    /// The credit that its client has asked for; the group's policy may allow less.
    asked: u32,
    ephemeral: bool,
    /// Its client has asked to end the subscription, and the control plane has not answered.
    ending: bool,
    /// Its session has done with it; it stays for what was delivered to it and is not settled.
    is_retired: bool,
    /// How it takes part.
    presence: Presence,
    /// Credit that is lent to nobody.
    free: u32,
    /// Credit to take back as it is freed, since the client has lowered its window.
    surplus: u32,
    /// What each shard has been lent, in flight or not.
    lent: Vec<u32>,
    /// Shards that want more, in the order in which they asked.
    wanting: VecDeque<u16>,
    /// Shards that have not yet delivered all that was there when it joined.
    catching_up: u16,
}

/// A client with ephemeral subscriptions, at the client's home shard.
#[derive(Debug)]
struct HomeClient {
    sessions: u32,
    /// When its subscriptions end, once it has no session.
    expires_us: Option<u64>,
}

/// The members whose sessions are on this shard, and the clients whose home it is.
#[derive(Debug, Default)]
pub struct HomeMembers {
    list: Vec<Option<HomeMember>>,
    free: Vec<u32>,
    /// The slots of each subscription's members: clients that are gone for good end theirs by the hundred thousand, and none
    /// of these is to be looked for among all.
    by_subscription: BTreeSet<(SubscriptionId, u32)>,
    life: u32,
    clients: BTreeMap<Arc<str>, HomeClient>,
    /// No client's subscriptions end before this. Thousands of clients are not looked at in every cycle for it.
    expiry_not_before_us: Option<u64>,
    /// What the control plane is asked.
    pub asking: Asking,
    /// Members that have been retired.
    pub retired: Retired,
}

impl HomeMembers {
    fn get_mut(&mut self, id: MemberId) -> Option<&mut HomeMember> {
        let member = self.list.get_mut(id.slot as usize)?.as_mut()?;
        (member.life == id.life).then_some(member)
    }

    fn at(&mut self, slot: u32) -> Option<&mut HomeMember> {
        self.list.get_mut(slot as usize)?.as_mut()
    }

    fn insert(&mut self, mut member: HomeMember) -> u32 {
        self.life += 1;
        member.life = self.life;
        let subscription = member.subscription;
        let slot = match self.free.pop() {
            Some(slot) => {
                assert!(self.list[slot as usize].is_none(), "a free slot holds no member");
                self.list[slot as usize] = Some(member);
                slot
            }
            None => {
                self.list.push(Some(member));
                self.list.len() as u32 - 1
            }
        };
        let is_new = self.by_subscription.insert((subscription, slot));
        assert!(is_new, "a slot holds one member");
        slot
    }

    fn remove(&mut self, slot: u32) -> Option<HomeMember> {
        let member = self.list.get_mut(slot as usize)?.take()?;
        member.check();
        let is_known = self.by_subscription.remove(&(member.subscription, slot));
        assert!(is_known, "a member is found by its subscription");
        self.free.push(slot);
        assert!(
            self.free.len() + self.by_subscription.len() == self.list.len(),
            "a slot is free, or a member's"
        );
        Some(member)
    }

    /// Where the members of a subscription stand.
    fn slots_of(&self, subscription: SubscriptionId) -> Vec<u32> {
        let known = self.by_subscription.range((subscription, 0)..=(subscription, u32::MAX));
        known.map(|(_, slot)| *slot).collect()
    }

    /// When to look whether a client's ephemeral subscriptions end; it may have come back by then.
    pub fn next_client_expiry(&self) -> Option<u64> {
        self.expiry_not_before_us
    }

    /// The credit of every member; their home is `shard`.
    pub fn credits(&self, shard: u16) -> Vec<HomeCredit> {
        let members = self.list.iter().enumerate();
        let members = members.filter_map(|(slot, member)| Some((slot as u32, member.as_ref()?)));
        let credit = |(slot, member): (u32, &HomeMember)| HomeCredit {
            member: MemberId { shard, slot, life: member.life },
            free: member.free,
            surplus: member.surplus,
            lent: member.lent.clone(),
        };
        members.map(credit).collect()
    }

    /// Members of a group in the next `count` slots from `from` on; their home is `shard`.
    pub fn of_group<'a>(
        &'a self,
        shard: u16,
        group: GroupId,
        from: usize,
        count: usize,
        client: &'a impl Fn(SessionKey) -> Option<Arc<str>>,
    ) -> impl Iterator<Item = MemberReport> + 'a {
        let slots = self.list.iter().enumerate().skip(from).take(count);
        let members = slots.filter_map(|(slot, member)| Some((slot as u32, member.as_ref()?)));
        let members = members.filter(move |(_, member)| member.group == group);
        members.map(move |(slot, member)| MemberReport {
            member: MemberId { shard, slot, life: member.life },
            client: client(member.session).unwrap_or_default(),
            subscription: member.subscription,
            credit: member.total(),
        })
    }

    /// Slots that members stand in, or have stood in.
    pub fn slots(&self) -> usize {
        self.list.len()
    }

    /// Marks a member as retired. Whether it still has credit out there: without, it can go at once.
    pub fn retire(&mut self, slot: u32) -> Option<u32> {
        let member = self.at(slot)?;
        assert!(member.total() == 0, "who is retired gets no more");
        member.is_retired = true;
        (!member.is_home()).then_some(member.life)
    }

    /// The group of a member.
    pub fn group_of(&mut self, id: MemberId) -> Option<GroupId> {
        self.get_mut(id).map(|member| member.group)
    }

    /// Whether this is a retired member.
    pub fn is_retired(&mut self, id: MemberId) -> bool {
        self.get_mut(id).is_some_and(|member| member.is_retired)
    }

    /// When something is to be done about retired members.
    pub fn next_retired_end(&self) -> Option<u64> {
        self.retired.next_end()
    }
}

impl HomeMember {
    /// Events that may be in flight, all that is lent and free taken together.
    fn total(&self) -> u32 {
        self.check();
        self.free + self.lent.iter().sum::<u32>() - self.surplus
    }

    /// Whether no shard holds any of its credit.
    fn is_home(&self) -> bool {
        self.lent.iter().all(|lent| *lent == 0)
    }

    /// Credit that is too much is taken back before any is free again, and cannot be more than there is.
    fn check(&self) {
        assert!(self.free == 0 || self.surplus == 0, "free credit is taken back first: {self:?}");
        assert!(
            self.surplus <= self.lent.iter().sum(),
            "only what is lent is to come back: {self:?}"
        );
        assert!(
            self.free + self.lent.iter().sum::<u32>() <= CREDIT_MAX,
            "a client's window has a bound: {self:?}"
        );
        assert!(self.wanting.len() <= self.lent.len(), "a shard stands in line once: {self:?}");
    }

    /// Divides credit at the beginning: every shard gets an equal part, this one what is left over. With less credit
    /// than shards only this one gets some, and the others ask when they have events.
    fn lend_at_first(&mut self, shards: u16, own: u16) {
        let total = self.total();
        let part = self.free / u32::from(shards);
        for shard in 0..shards {
            let rest = if shard == own { self.free - part * u32::from(shards) } else { 0 };
            self.lent[usize::from(shard)] = part + rest;
        }
        self.free = 0;
        assert!(self.total() == total, "credit is divided, not made");
    }
}

impl Shard {
    /// A client changes how many events may be in flight to it.
    pub fn set_credit(&mut self, key: SessionKey, request: u64, events: u32) {
        let _fence = Fence::default();
        let Some(session) = self.sessions.get(key) else { return };
        let found = session.subscriptions.iter().find(|(number, _)| *number == request);
        let Some((_, slot)) = found.copied() else { return };
        self.give_credit(slot, events.min(CREDIT_MAX));
    }

    /// Another policy: the members of a group here get the credit that they have asked for, as far as it allows.
    pub(super) fn limit_credit(&mut self, group: GroupId) {
        for slot in 0..self.members.list.len() as u32 {
            let member = self.members.at(slot).filter(|member| member.group == group);
            if let Some(asked) = member.map(|member| member.asked) {
                self.give_credit(slot, asked);
            }
        }
    }

    /// Gives a member the credit that it asks for, or as much of it as its group's policy allows.
    fn give_credit(&mut self, slot: u32, asked: u32) {
        let Some(member) = self.members.at(slot) else { return };
        member.asked = asked;
        let (group, total) = (member.group, member.total());
        let allowed = self.groups.get(&group).map_or(CREDIT_MAX, |group| group.rules.in_flight_max);
        let events = asked.min(allowed);
        let Some(member) = self.members.at(slot) else { return };
        let (more, less) = (events.saturating_sub(total), total.saturating_sub(events));
        let paid = more.min(member.surplus);
        member.surplus -= paid;
        member.free += more - paid;
        let taken = less.min(member.free);
        member.free -= taken;
        member.surplus += less - taken;
        assert!(member.total() == events, "a member has the credit that it asked for");
        self.lend_more(slot);
        self.recall(slot);
    }

    fn begin_member(&mut self, key: SessionKey, request: u64, wanted: Wanted, of: &Subscription) {
        let Wanted { credit, presence } = wanted;
        let group = self.groups.get(&of.group);
        let allowed = group.map_or(CREDIT_MAX, |group| group.rules.in_flight_max);
        self.enter(HomeMember {
            life: 0,
            session: key,
            request,
            group: of.group,
            subscription: of.id,
            asked: credit,
            ephemeral: !of.is_durable(),
            ending: false,
            is_retired: false,
            presence,
            free: credit.min(allowed),
            surplus: 0,
            lent: Vec::new(),
            wanting: VecDeque::new(),
            catching_up: 0,
        });
    }

    /// A member joins its group on every shard, with all its credit.
    fn enter(&mut self, mut member: HomeMember) {
        let (own, shards) = (self.options.index, self.options.shards);
        let (key, request) = (member.session, member.request);
        let (group, subscription) = (member.group, member.subscription);
        let presence = member.presence.clone();
        member.lent = vec![0; usize::from(shards)];
        member.catching_up = shards;
        member.lend_at_first(shards, own);
        let lent = member.lent.clone();
        let slot = self.members.insert(member);
        let member = MemberId { shard: own, slot, life: self.members.life };
        if let Some(session) = self.sessions.get_mut(key) {
            session.subscriptions.push((request, slot));
        }
        for (shard, lease) in lent.into_iter().enumerate() {
            let presence = presence.clone();
            self.post(shard as u16, Mail::Join { member, group, subscription, lease, presence });
        }
    }

    /// Every shard knows that a group has moved: its members here go over, with the credit that they asked for. What was
    /// in flight to them is over; no shard knows them as they were.
    pub(super) fn on_sought(&mut self, sought: &Arc<Sought>) {
        let (from, to) = (sought.from(), sought.to());
        self.moving.retain(|moving| moving.to() != to);
        let group = self.groups.get_mut(&to);
        for known in group.into_iter().flat_map(|group| &mut group.subscriptions) {
            known.stands |= sought.after.iter().any(|after| after.id == known.subscription.id);
        }
        for slot in 0..self.members.list.len() as u32 {
            // What a retired one got was the old group's; it has nothing to go on with.
            let member = self.take_member_of(from, slot);
            if let Some(member) = member.filter(|member| !member.is_retired) {
                let free = member.total();
                let wanting = VecDeque::new();
                self.enter(HomeMember { group: to, free, surplus: 0, wanting, ..member });
            }
        }
        assert!(
            self.members.list.iter().flatten().all(|member| member.group != from),
            "nobody is left in a group that is over"
        );
    }

    /// The control plane has stopped before every shard knew that a group has moved: its members come again.
    fn give_up_moves(&mut self) {
        for sought in std::mem::take(&mut self.moving) {
            for slot in 0..self.members.list.len() as u32 {
                let Some(member) = self.take_member_of(sought.from(), slot) else { continue };
                let (key, request) = (member.session, member.request);
                let (what, refusal) = (Asked::Subscribe, Code::Unavailable.into());
                self.sessions.say(key, SessionEvent::Refused { what, request, refusal });
            }
        }
    }

    /// Takes a member out of its place and its session's list, if it is of this group. No shard knows the group.
    fn take_member_of(&mut self, group: GroupId, slot: u32) -> Option<HomeMember> {
        self.members.at(slot).filter(|member| member.group == group)?;
        let member = self.members.remove(slot).expect("looked at just now");
        if let Some(session) = self.sessions.get_mut(member.session) {
            session.subscriptions.retain(|(number, _)| *number != member.request);
        }
        Some(member)
    }

    /// A subscription has ended while members of it are still here: they hear so, but for those who asked for it, whose
    /// answer follows. What is in flight to them is forgotten with the group on every shard.
    pub(super) fn end_members_of(&mut self, subscription: SubscriptionId) {
        for slot in self.members.slots_of(subscription) {
            let member = self.members.remove(slot).expect("members are where they are said to be");
            let (key, request) = (member.session, member.request);
            if let Some(session) = self.sessions.get_mut(key) {
                session.subscriptions.retain(|(number, _)| *number != request);
            }
            let id = MemberId { shard: self.options.index, slot, life: member.life };
            for shard in 0..self.options.shards {
                self.post(shard, Mail::Leave { member: id, group: member.group, is_lost: false });
            }
            if !member.ending && !member.is_retired {
                let (what, refusal) = (Asked::Subscribe, Code::SubscriptionEnded.into());
                self.sessions.say(key, SessionEvent::Refused { what, request, refusal });
            }
        }
    }

    /// A member leaves every shard. `is_lost`: not in good order.
    pub(super) fn end_member(&mut self, slot: u32, is_lost: bool) {
        let Some(member) = self.members.remove(slot) else { return };
        let id = MemberId { shard: self.options.index, slot, life: member.life };
        for shard in 0..self.options.shards {
            self.post(shard, Mail::Leave { member: id, group: member.group, is_lost });
        }
    }

    pub(super) fn on_join(
        &mut self,
        member: MemberId,
        group: GroupId,
        subscription: SubscriptionId,
        (lease, presence): (u32, Presence),
    ) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let mut known = state.subscriptions.iter_mut();
        let known = known.find(|known| known.subscription.id == subscription);
        // A subscribe is answered after every shard has adopted it: this one has heard of its end before its home has,
        // which then ends the member too.
        let Some(known) = known else { return };
        known.stands = true;
        state.members.join(member, lease, presence);
        let acked_end = self.acks.acked_end();
        self.catching_up.entry(group).or_default().push((member, acked_end));
        self.note_advanced(group);
        self.watch(group);
        self.wake_lagging(group);
        self.wake_idle(group);
    }

    pub(super) fn on_leave(&mut self, member: MemberId, group: GroupId, is_lost: bool) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let Some(left) = state.members.leave(member) else { return };
        // A pause spends no attempts, whatever becomes of the members.
        let is_counted = is_lost && !state.is_paused;
        for place in &mut state.places {
            place.log.member_left(&left, &state.rules, is_counted);
            self.stats.dropped_events += u64::from(place.log.take_dropped());
        }
        if state.rules.drops {
            self.note_moved(group);
        }
        self.free_in_flight(left.in_flight_bytes);
        if let Some(waiting) = self.catching_up.get_mut(&group) {
            waiting.retain(|(waiting, _)| *waiting != member);
            if waiting.is_empty() {
                self.catching_up.remove(&group);
            }
        }
        self.wake_lagging(group);
        self.wake_idle(group);
    }

    pub(super) fn on_deliver(&mut self, id: MemberId, mut delivery: Delivery) {
        // A member that has gone has told every shard so; the sender takes the delivery back by itself.
        let Some(member) = self.members.get_mut(id) else { return };
        if member.is_retired {
            return self.members.retired.hand_back(delivery);
        }
        delivery.subscription = member.request;
        let session = member.session;
        self.sessions.say(session, SessionEvent::Delivery(delivery));
    }

    pub(super) fn on_caught_up(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(id) else { return };
        assert!(member.catching_up > 0, "each shard says so once");
        member.catching_up -= 1;
        if member.catching_up == 0 {
            let (session, request) = (member.session, member.request);
            self.sessions.say(session, SessionEvent::CaughtUp { request });
        }
    }

    pub(super) fn on_passed(&mut self, id: MemberId, gap: Gap) {
        let Some(member) = self.members.get_mut(id) else { return };
        let (session, request) = (member.session, member.request);
        self.sessions.say(session, SessionEvent::Passed { request, gap });
    }

    /// The shard that counts a client's sessions.
    pub(super) fn client_home(&self, client: &str) -> u16 {
        (crc32c(client.as_bytes()) % u32::from(self.options.shards)) as u16
    }

    pub(super) fn on_client_up(&mut self, client: Arc<str>) {
        let known = self.members.clients.entry(client);
        let known = known.or_insert(HomeClient { sessions: 0, expires_us: None });
        known.sessions += 1;
        known.expires_us = None;
    }

    pub(super) fn on_client_down(&mut self, client: &Arc<str>) {
        let expires_us = self.now.mono_us + self.options.ephemeral_expiry_us;
        let known = self.members.clients.get_mut(client).expect("it came before it went");
        assert!(known.sessions > 0, "each session comes once and goes once");
        known.sessions -= 1;
        known.expires_us = (known.sessions == 0).then_some(expires_us);
        let soonest = &mut self.members.expiry_not_before_us;
        *soonest = [*soonest, known.expires_us].into_iter().flatten().min();
    }

    /// Ends the ephemeral subscriptions of clients that have been gone for long enough.
    pub(super) fn expire_clients(&mut self) {
        let now = self.now.mono_us;
        let clients = &mut self.members.clients;
        let gone = |client: &HomeClient| client.expires_us.is_some_and(|at| at <= now);
        for (client, _) in clients.extract_if(.., |_, client| gone(client)) {
            self.members.asking.requests.push_back(ControlRequest::EndClient { client });
        }
        let left = self.members.clients.values().filter_map(|client| client.expires_us).min();
        assert!(left.is_none_or(|at| at > now), "what was due has ended");
        self.members.expiry_not_before_us = left;
    }
}

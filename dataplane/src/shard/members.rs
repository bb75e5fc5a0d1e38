//! Who is there. The home shard of a member keeps its credit and lends parts of it to the shards that deliver to it; a
//! shard that delivers keeps what it was lent.

mod lending;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use codec::crc32c::crc32c;
use codec::refusal::{Code, Refusal};
use routing::snapshot::Sought;
use routing::subscription::{GroupId, Subscription, SubscriptionId, group_name};
use routing::topic::TopicFilter;

use crate::control::ControlRequest;
use crate::fence::Fence;
use crate::group::keys::KeyShare;
use crate::group::members::Presence;
use crate::inquiry::MemberReport;
use crate::kernel::Kernel;
use crate::mail::{Mail, MemberId};
use crate::options::{CONTROL_TIMEOUT_US, CREDIT_MAX, SESSION_SUBSCRIPTIONS_MAX};
use crate::session::{Asked, Delivery, Gap, SessionEvent, SessionKey, SubscribeRequest};
use crate::shard::retiring::Retired;
use crate::shard::sessions::Wanted;
use crate::shard::{HomeCredit, Shard};

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
    life: u32,
    clients: BTreeMap<Arc<str>, HomeClient>,
    /// No client's subscriptions end before this. Thousands of clients are not looked at in every cycle for it.
    expiry_not_before_us: Option<u64>,
    /// Requests for the control plane, in order.
    requests: VecDeque<ControlRequest>,
    /// Subscribes that wait for the control plane: until when, who.
    asked: VecDeque<(u64, SessionKey, u64)>,
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
        match self.free.pop() {
            Some(slot) => {
                assert!(self.list[slot as usize].is_none(), "a free slot holds no member");
                self.list[slot as usize] = Some(member);
                slot
            }
            None => {
                self.list.push(Some(member));
                self.list.len() as u32 - 1
            }
        }
    }

    fn remove(&mut self, slot: u32) -> Option<HomeMember> {
        let member = self.list.get_mut(slot as usize)?.take()?;
        member.check();
        self.free.push(slot);
        assert!(self.free.len() <= self.list.len(), "a slot is free once");
        Some(member)
    }

    fn is_known(&self, slot: u32) -> bool {
        self.list[slot as usize].is_some()
    }

    /// When to look whether a client's ephemeral subscriptions end; it may have come back by then.
    pub fn next_client_expiry(&self) -> Option<u64> {
        self.expiry_not_before_us
    }

    /// Whether something waits for room in the control plane's queue.
    pub fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Requests that wait for the control plane's queue, and subscribes that wait for its answer.
    pub fn control_waits(&self) -> (usize, usize) {
        (self.requests.len(), self.asked.len())
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

    /// A session has gone: nobody waits for what the control plane will say to it.
    pub fn forget_asked(&mut self, session: SessionKey) {
        self.asked.retain(|(_, asker, _)| *asker != session);
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

    /// Nobody waits any more for what the control plane will say to one request of a session.
    pub fn forget_one(&mut self, session: SessionKey, request: u64) {
        self.asked.retain(|(_, asker, number)| (*asker, *number) != (session, request));
    }

    /// When something is to be done about retired members.
    pub fn next_retired_end(&self) -> Option<u64> {
        self.retired.next_end()
    }

    /// When the next subscribe is given up.
    pub fn next_subscribe_timeout(&self) -> Option<u64> {
        self.asked.front().map(|(until, _, _)| *until)
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
    /// A client wants to subscribe. Answered by [`SessionEvent::Subscribed`] or [`SessionEvent::Refused`].
    ///
    /// # Errors
    /// A refusal that needs no look at the catalog.
    pub fn subscribe(&mut self, key: SessionKey, wish: SubscribeRequest) -> Result<(), Refusal> {
        let _fence = Fence::default();
        self.subscribe_for(key, None, wish)
    }

    /// The same for a client that is not the session's: of a protocol whose connections are not clients.
    ///
    /// # Errors
    /// As [`Shard::subscribe`].
    pub fn subscribe_as(
        &mut self,
        key: SessionKey,
        client: Arc<str>,
        wish: SubscribeRequest,
    ) -> Result<(), Refusal> {
        let _fence = Fence::default();
        self.subscribe_for(key, Some((client, Presence::Passing)), wish)
    }

    /// The same for a client that takes a share of its group's keys, which its other members have not: they stay with it.
    ///
    /// # Errors
    /// As [`Shard::subscribe`].
    pub fn subscribe_sharing(
        &mut self,
        key: SessionKey,
        client: Arc<str>,
        wish: SubscribeRequest,
        share: KeyShare,
    ) -> Result<(), Refusal> {
        let _fence = Fence::default();
        self.subscribe_for(key, Some((client, Presence::Sharing(share))), wish)
    }

    fn subscribe_for(
        &mut self,
        key: SessionKey,
        other: Option<(Arc<str>, Presence)>,
        wish: SubscribeRequest,
    ) -> Result<(), Refusal> {
        let shard = self.options.index;
        if self.draining {
            return Err(Code::ShuttingDown.into());
        }
        let (other, presence) =
            other.map_or((None, Presence::Staying), |(client, presence)| (Some(client), presence));
        if (wish.credit == 0 && other.is_none()) || wish.credit > CREDIT_MAX {
            return Err(Refusal::limit("credit", CREDIT_MAX.into(), wish.credit.into()));
        }
        let until = self.now.mono_us + CONTROL_TIMEOUT_US;
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        let client = other.clone().or_else(|| session.client.clone());
        let Some(client) = client else { return Err(Code::HelloRequired.into()) };
        let taken = session.subscriptions.iter().any(|(request, _)| *request == wish.request)
            || session.asked.iter().any(|(request, _)| *request == wish.request);
        if taken {
            return Err(Code::SubscriptionInUse.into());
        }
        let count = session.subscriptions.len() + session.asked.len();
        if count >= SESSION_SUBSCRIPTIONS_MAX {
            let limit = SESSION_SUBSCRIPTIONS_MAX as u64;
            return Err(Refusal::limit("subscriptions of the connection", limit, count as u64 + 1));
        }
        session.asked.push((wish.request, Wanted { credit: wish.credit, presence }));
        let ephemeral = wish.group.is_none();
        let is_new = match &other {
            Some(other) if ephemeral => {
                let is_new = !session.others.contains(other);
                session.others.extend(is_new.then(|| other.clone()));
                is_new
            }
            None if ephemeral => !std::mem::replace(&mut session.announced, true),
            _ => false,
        };
        if is_new {
            self.post(self.client_home(&client), Mail::ClientUp { client: client.clone() });
        }
        let SubscribeRequest { request, group, filter, mode, start, .. } = wish;
        self.members.asked.push_back((until, key, request));
        let (session, shard) = (key, shard);
        self.members.requests.push_back(ControlRequest::Subscribe {
            shard,
            session,
            request,
            group,
            filter,
            mode,
            start,
            client,
        });
        Ok(())
    }

    /// A client leaves a subscription; an ephemeral one ends with that, a durable one keeps its place unless the client
    /// asks for its `end`. Answered by [`SessionEvent::Unsubscribed`] or [`SessionEvent::Refused`].
    pub fn unsubscribe(&mut self, key: SessionKey, request: u64, end: bool) {
        self.leave_subscription(key, request, end, false);
    }

    /// The same for a client that has dropped what it listened by, while its session goes on: it is lost, not gone in good
    /// order, so what it had counts as an attempt.
    pub fn lose_subscription(&mut self, key: SessionKey, request: u64) {
        self.leave_subscription(key, request, false, true);
    }

    fn leave_subscription(&mut self, key: SessionKey, request: u64, end: bool, is_lost: bool) {
        let _fence = Fence::default();
        let Some(session) = self.sessions.get_mut(key) else { return };
        let found = session.subscriptions.iter().position(|(number, _)| *number == request);
        let Some(index) = found else {
            let refusal = Code::UnknownSubscription.into();
            let what = Asked::Unsubscribe;
            self.sessions.say(key, SessionEvent::Refused { what, request, refusal });
            return;
        };
        let slot = session.subscriptions[index].1;
        let member = self.members.at(slot).expect("a session's subscription has a member");
        let (id, shard) = (member.subscription, self.options.index);
        let ends = member.ephemeral || end;
        if ends && !member.ephemeral {
            // It stays until the catalog says that the subscription is gone: it may not come to that.
            member.ending = true;
        } else {
            session.subscriptions.swap_remove(index);
            self.end_member(slot, is_lost);
        }
        if ends {
            let session = key;
            let request = ControlRequest::Unsubscribe { shard, session, request, id };
            self.members.requests.push_back(request);
        } else {
            self.sessions.say(key, SessionEvent::Unsubscribed { request });
        }
    }

    /// Ends a subscription for all its members, whether this session has one or not. Answered by
    /// [`SessionEvent::Unsubscribed`] or [`SessionEvent::Refused`]. Returns whether there is one; without, nothing follows.
    pub fn end_subscription(
        &mut self,
        key: SessionKey,
        request: u64,
        group_name: &str,
        filter: &TopicFilter,
    ) -> bool {
        let _fence = Fence::default();
        let (shard, session) = (self.options.index, key);
        let Some(known) = self.snapshot.find(group_name, filter) else { return false };
        assert!(*known.group_name == *group_name, "a subscription is found by its group's name");
        let id = known.id;
        self.members.requests.push_back(ControlRequest::Unsubscribe {
            shard,
            session,
            request,
            id,
        });
        true
    }

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

    pub(super) fn on_subscribed(
        &mut self,
        key: SessionKey,
        request: u64,
        result: Result<Arc<Subscription>, Refusal>,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let asked = session.asked.iter().position(|(number, _)| *number == request);
        // Given up before: the client has been told, and the subscription without a member does no harm.
        let Some(index) = asked else { return };
        let (_, wanted) = session.asked.swap_remove(index);
        self.members.asked.retain(|(_, asker, number)| (*asker, *number) != (key, request));
        // Ended by another while this answer was on its way.
        let ended = |subscription: &Arc<Subscription>| {
            self.snapshot.subscription(subscription.id).is_none()
        };
        let result = match result {
            Ok(subscription) if ended(&subscription) => Err(Code::SubscriptionEnded.into()),
            result => result,
        };
        match result {
            Ok(subscription) => {
                self.begin_member(key, request, wanted, &subscription);
                self.sessions.say(key, SessionEvent::Subscribed { request });
            }
            Err(refusal) => {
                let what = Asked::Subscribe;
                self.sessions.say(key, SessionEvent::Refused { what, request, refusal });
            }
        }
    }

    pub(super) fn on_unsubscribed(
        &mut self,
        key: SessionKey,
        request: u64,
        result: Result<(), Refusal>,
    ) {
        let event = match result {
            Ok(()) => SessionEvent::Unsubscribed { request },
            Err(refusal) => {
                self.goes_on(key, request);
                SessionEvent::Refused { what: Asked::Unsubscribe, request, refusal }
            }
        };
        self.sessions.say(key, event);
    }

    /// A subscription that a client wanted to end stands as before.
    fn goes_on(&mut self, key: SessionKey, request: u64) {
        let session = self.sessions.get(key);
        let known = session.into_iter().flat_map(|session| &session.subscriptions);
        let slot = known.into_iter().find(|(number, _)| *number == request).map(|(_, slot)| *slot);
        if let Some(member) = slot.and_then(|slot| self.members.at(slot)) {
            assert!(member.session == key, "a session's members are its own");
            member.ending = false;
        }
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
        for slot in 0..self.members.list.len() as u32 {
            if self.members.at(slot).is_none_or(|member| member.subscription != subscription) {
                continue;
            }
            let member = self.members.remove(slot).expect("looked at just now");
            assert!(!self.members.is_known(slot), "a member leaves once");
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

    /// Sends what waits for the control plane, ends what it was asked for too long, and the ephemeral subscriptions of
    /// clients that have been gone for long enough.
    pub(super) fn expire_clients<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        let mut work = 0;
        let now = self.now.mono_us;
        if self.members.next_client_expiry().is_some_and(|at| at <= now) {
            let clients = &mut self.members.clients;
            let gone = |client: &HomeClient| client.expires_us.is_some_and(|at| at <= now);
            for (client, _) in clients.extract_if(.., |_, client| gone(client)) {
                self.members.requests.push_back(ControlRequest::EndClient { client });
            }
            let left = self.members.clients.values().filter_map(|client| client.expires_us).min();
            assert!(left.is_none_or(|at| at > now), "what was due has ended");
            self.members.expiry_not_before_us = left;
        }
        while let Some(request) = self.members.requests.pop_front() {
            let Err(request) = kernel.send_control(request) else {
                work += 1;
                continue;
            };
            if kernel.control_is_open() {
                self.members.requests.push_front(request);
                break;
            }
            self.refuse_request(&request);
        }
        if !self.moving.is_empty() && !kernel.control_is_open() {
            self.give_up_moves();
        }
        while self.members.asked.front().is_some_and(|(until, _, _)| *until <= now) {
            let (_, session, request) = self.members.asked.pop_front().expect("looked at");
            self.on_subscribed(session, request, Err(Code::Unavailable.into()));
        }
        work
    }

    /// Whether every shard has certainly adopted a subscription. That this one has is not enough: another may still
    /// have no start for it, and what it acknowledged meanwhile would never be delivered.
    fn stands(&self, subscription: &Subscription) -> bool {
        let group = self.groups.get(&subscription.group);
        let known = group.iter().flat_map(|group| &group.subscriptions);
        known.filter(|known| known.subscription.id == subscription.id).any(|known| known.stands)
    }

    /// A subscription that all shards know needs no catalog: its members come and go without it.
    fn known(&self, request: &ControlRequest) -> Result<Arc<Subscription>, Refusal> {
        let ControlRequest::Subscribe { group, filter, mode, start, client, .. } = request else {
            return Err(Code::Unavailable.into());
        };
        let name = group_name(group.as_ref(), *mode, client, filter);
        let known = self.snapshot.find(&name, filter).filter(|known| known.mode == *mode);
        let known = known.filter(|known| self.stands(known));
        let known = known.ok_or(Refusal::from(Code::Unavailable))?;
        // A client that comes back repeats the start of a subscription that is its own.
        let is_repeated = !known.is_durable() && start.as_ref() == Some(&known.start);
        if start.is_some() && !is_repeated {
            return Err(Code::GroupExists.into());
        }
        Ok(known.clone())
    }

    /// The control plane is down.
    fn refuse_request(&mut self, request: &ControlRequest) {
        match request {
            ControlRequest::Subscribe { session, request: number, .. } => {
                let result = self.known(request);
                self.on_subscribed(*session, *number, result);
            }
            ControlRequest::Unsubscribe { session, request, .. } => {
                self.on_unsubscribed(*session, *request, Err(Code::Unavailable.into()));
            }
            // Whoever restarts the control plane restarts the process, and ephemeral subscriptions end with it.
            ControlRequest::EndClient { .. } | ControlRequest::Adopted { .. } => {}
        }
    }
}

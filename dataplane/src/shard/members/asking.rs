//! What is asked of the control plane: subscribes and their ends, those that wait for its answer, and what goes on without
//! it when it is down.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use codec::refusal::{Code, Refusal};
use routing::subscription::{Subscription, group_name};
use routing::topic::TopicFilter;

use crate::control::ControlRequest;
use crate::fence::Fence;
use crate::group::keys::KeyShare;
use crate::group::members::Presence;
use crate::kernel::Kernel;
use crate::mail::Mail;
use crate::options::{CONTROL_TIMEOUT_US, CREDIT_MAX, SESSION_SUBSCRIPTIONS_MAX};
use crate::session::{Asked, SessionEvent, SessionKey, SubscribeRequest};
use crate::shard::Shard;
use crate::shard::sessions::Wanted;

/// What a shard asks of the control plane.
#[derive(Debug, Default)]
pub struct Asking {
    /// Requests that wait for room in its queue, in order.
    pub(in crate::shard) requests: VecDeque<ControlRequest>,
    /// Subscribes that wait for its answer: until when. After an outage a hundred thousand wait at once, so each is found
    /// without a look at the others.
    waiting: BTreeMap<(SessionKey, u64), u64>,
    /// The same by when they are given up.
    ends: BTreeSet<(u64, SessionKey, u64)>,
}

impl Asking {
    /// A session waits for the answer to a subscribe.
    fn wait(&mut self, session: SessionKey, request: u64, until_us: u64) {
        let before = self.waiting.insert((session, request), until_us);
        assert!(before.is_none(), "a session asks once by one number");
        self.ends.insert((until_us, session, request));
        self.check();
    }

    /// Nobody waits any more for what will be said to one request of a session.
    pub fn forget(&mut self, session: SessionKey, request: u64) {
        if let Some(until_us) = self.waiting.remove(&(session, request)) {
            let known = self.ends.remove(&(until_us, session, request));
            assert!(known, "who waits is given up at some time");
        }
        self.check();
    }

    /// Whoever has waited for too long, one at a time.
    fn pop_late(&mut self, now_us: u64) -> Option<(SessionKey, u64)> {
        let (_, session, request) = *self.ends.first().filter(|(until, _, _)| *until <= now_us)?;
        self.forget(session, request);
        Some((session, request))
    }

    fn check(&self) {
        assert!(self.waiting.len() == self.ends.len(), "who waits stands in both lists");
    }

    /// Whether nothing is asked, and nobody waits for an answer.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.ends.is_empty()
    }

    /// Whether something waits for room in the control plane's queue.
    pub fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Requests that wait for the control plane's queue, and subscribes that wait for its answer.
    pub fn waits(&self) -> (usize, usize) {
        (self.requests.len(), self.waiting.len())
    }

    /// When the next subscribe is given up.
    pub fn next_timeout(&self) -> Option<u64> {
        self.ends.first().map(|(until, _, _)| *until)
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
        self.members.asking.wait(key, request, until);
        let (session, shard) = (key, shard);
        self.members.asking.requests.push_back(ControlRequest::Subscribe {
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
            self.members.asking.requests.push_back(request);
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
        self.members.asking.requests.push_back(ControlRequest::Unsubscribe {
            shard,
            session,
            request,
            id,
        });
        true
    }

    pub(in crate::shard) fn on_subscribed(
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
        self.members.asking.forget(key, request);
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

    pub(in crate::shard) fn on_unsubscribed(
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

    /// Sends what waits for the control plane, and gives up what it was asked for too long ago.
    pub(in crate::shard) fn ask_control<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        let mut work = 0;
        while let Some(request) = self.members.asking.requests.pop_front() {
            let Err(request) = kernel.send_control(request) else {
                work += 1;
                continue;
            };
            if kernel.control_is_open() {
                self.members.asking.requests.push_front(request);
                break;
            }
            self.refuse_request(&request);
        }
        if !self.moving.is_empty() && !kernel.control_is_open() {
            self.give_up_moves();
        }
        while let Some((session, request)) = self.members.asking.pop_late(self.now.mono_us) {
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
            // Whoever restarts the control plane restarts the process, and ephemeral subscriptions end with it; a deletion is
            // finished then.
            ControlRequest::EndClient { .. }
            | ControlRequest::Adopted { .. }
            | ControlRequest::TopicDeleted { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(slot: u32) -> SessionKey {
        SessionKey { slot, life: 1 }
    }

    /// Everyone comes back at once after an outage. Were each answer looked for among all that wait, the shard would do
    /// nothing else for seconds; and whoever is forgotten with another's answer would wait for ever.
    #[test]
    fn each_of_a_hundred_thousand_is_found_by_itself() {
        let mut asking = Asking::default();
        for slot in 0..5_000 {
            (0..20)
                .for_each(|request| asking.wait(session(slot), request, 1_000 + u64::from(slot)));
        }
        for slot in (100..5_000).rev() {
            (0..20).for_each(|request| asking.forget(session(slot), request));
        }
        asking.forget(session(7), 3);
        asking.forget(session(7), 3);
        assert_eq!(asking.waits(), (0, 1_999));
        assert_eq!((asking.next_timeout(), asking.pop_late(999)), (Some(1_000), None));
        let late: Vec<_> = std::iter::from_fn(|| asking.pop_late(1_007)).collect();
        assert_eq!(late.len(), 8 * 20 - 1, "each that is late, once");
        assert!(!late.contains(&(session(7), 3)), "its answer has come");
        assert_eq!((asking.next_timeout(), asking.waits()), (Some(1_008), (0, 1_840)));
    }
}

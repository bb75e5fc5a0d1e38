//! A simulated subscriber: subscribes, takes deliveries, and settles them as its temper says.

use std::collections::BTreeMap;

use codec::ids::{Offset, Position};
use codec::refusal::Code;
use dataplane::group::keys::KeyShare;
use dataplane::selection::{Bitmap, Selection};
use dataplane::session::{Asked, Delivery, SessionEvent, SubscribeRequest, Verdict};
use dataplane::token::{Token, TokenFields};
use routing::subscription::GroupId;

use crate::check::{deletion, letters, line, matched, memory, order, rests, sticky};
use crate::control::{Control, Wanted};
use crate::copies::{self, Shifted};
use crate::faults::Fault;
use crate::ledger::{Arrived, BatchId, Checked, Place, Violation, bits_of, violated};
use crate::node::{Home, Node, Owner};
use crate::plan::{Slot, SubscriberPlan, Temper};
use crate::policies::Poison;
use crate::scene::Scene;

const CHECK: &str = "subscriptions are answered";

/// How one wish stands on the present session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// To be asked for.
    Wanted { not_before_us: u64 },
    /// Asked for.
    Asked,
    /// It stands.
    Stands,
    /// The member has left; the end of its subscription is not answered.
    Leaving,
}

/// A delivery that is not settled.
#[derive(Clone, Debug)]
struct Held {
    subscription: u64,
    token: Token,
    group: GroupId,
    id: BatchId,
    delivery: (Position, u32),
    /// Unsettled events, numbered as in the batch that they were published in.
    bits: u64,
    /// How far these numbers are from those of the delivery: parked events stand elsewhere.
    first: u32,
    attempt: u32,
    received_us: u64,
    ready_us: u64,
    is_late: bool,
}

/// One subscriber.
#[derive(Debug)]
pub struct Subscriber {
    number: usize,
    plan: SubscriberPlan,
    home: Option<Home>,
    /// The member's number on this session, unique in the run.
    member: u32,
    standing: Vec<Standing>,
    /// Whether a wish still names the start of a new group.
    names_start: Vec<bool>,
    credit_max: Vec<u32>,
    /// The keys that each wish takes, where its group divides them.
    shares: Vec<Option<KeyShare>>,
    held: Vec<Held>,
    settled: Vec<(Token, u64)>,
    comes_us: u64,
    /// Whether it was connected before.
    was_here: bool,
}

impl Subscriber {
    /// A subscriber that has not connected.
    #[must_use]
    pub fn new(number: usize, plan: SubscriberPlan) -> Self {
        let wishes = plan.wishes.len();
        Subscriber {
            number,
            home: None,
            member: 0,
            standing: vec![Standing::Wanted { not_before_us: 0 }; wishes],
            names_start: vec![true; wishes],
            credit_max: plan.wishes.iter().map(|wish| wish.credit).collect(),
            shares: vec![None; wishes],
            held: Vec::new(),
            settled: Vec::new(),
            comes_us: plan.comes_us,
            was_here: false,
            plan,
        }
    }

    /// Whether its subscriptions stand and it holds nothing.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let stands = self.standing.iter().all(|standing| *standing == Standing::Stands);
        self.home.is_some() && stands && self.held.is_empty()
    }

    /// Events that may be in flight to it at most, over all its subscriptions.
    #[must_use]
    pub fn credit_max(&self) -> usize {
        self.credit_max.iter().map(|credit| *credit as usize).sum()
    }

    /// What it waits for, in words.
    #[must_use]
    pub fn waits(&self) -> String {
        let (number, held) = (self.number, self.held.len());
        format!("subscriber {number}: {:?}, {held} held", self.standing)
    }

    /// Does what a client does between two looks at its connection.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn act(&mut self, node: &mut Node, scene: &mut Scene) -> Checked {
        let Some(home) = self.home else {
            if scene.now_us >= self.comes_us || scene.is_calm {
                self.connect(node, scene);
            }
            return Ok(());
        };
        self.ask(home, node, scene)?;
        let vanishes = match self.plan.temper {
            Temper::Flaky => 8,
            _ => 1,
        };
        if !scene.is_calm && scene.random.chance(vanishes) {
            if !self.held.is_empty() {
                scene.tally.hit(Fault::SubscriberLost);
            }
            scene.trace.note(format_args!("subscriber {} vanishes", self.number));
            node.disconnect(home);
            self.lost(scene);
            self.comes_us = scene.now_us + scene.random.below(400_000);
            return Ok(());
        }
        if !scene.is_calm && scene.random.chance(10) {
            self.change_credit(home, node, scene);
        }
        let leaves = scene.plan.leave_chance;
        if leaves > 0 && !scene.is_calm && scene.extra.chance(leaves) {
            self.leave(home, node, scene);
        }
        self.settle_some(home, node, scene)
    }

    /// A member leaves one of its groups in the middle of its work; an ephemeral subscription ends with that.
    fn leave(&mut self, home: Home, node: &mut Node, scene: &mut Scene) {
        let wish = scene.extra.index(self.standing.len());
        if self.standing[wish] != Standing::Stands {
            return;
        }
        let request = wish as u64 + 1;
        let (gone, kept) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held: &Held| held.subscription == request);
        self.held = kept;
        let gone: Vec<Held> = gone;
        if !gone.is_empty() {
            scene.tally.hit(Fault::MemberLeft);
        }
        if self.plan.wishes[wish].group.is_none() {
            scene.tally.hit(Fault::SubscriptionEnded);
        }
        for held in gone {
            self.release(&held, held.bits, scene);
        }
        scene.ledger.losses += 1;
        scene.trace.note(format_args!("subscriber {} leaves wish {wish}", self.number));
        self.standing[wish] = Standing::Leaving;
        node.shard(home).unsubscribe(home.key, request, false);
    }

    /// A subscription is over on this session: as it was asked for, or since the control plane has ended it.
    fn on_unsubscribed(&mut self, wish: usize, scene: &mut Scene) {
        let wait = scene.extra.below(100_000);
        self.standing[wish] = Standing::Wanted { not_before_us: scene.now_us + wait };
        let request = wish as u64 + 1;
        for held in self.held.extract_if(.., |held| held.subscription == request) {
            released(&held, held.bits, self.member, scene);
        }
    }

    /// Its session is over, whoever ended it.
    pub fn lost(&mut self, scene: &mut Scene) {
        self.home = None;
        scene.ledger.losses += 1;
        for held in std::mem::take(&mut self.held) {
            self.release(&held, held.bits, scene);
        }
        self.settled.clear();
        self.standing.fill(Standing::Wanted { not_before_us: 0 });
    }

    /// The shard says something.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn on_event(
        &mut self,
        home: Home,
        event: SessionEvent,
        node: &Node,
        control: &Control,
        scene: &mut Scene,
    ) -> Checked {
        match event {
            SessionEvent::Subscribed { request } => {
                let wish = request as usize - 1;
                if self.standing[wish] != Standing::Asked {
                    violated!(CHECK, "subscriber {} is told twice of {request}", self.number);
                }
                self.standing[wish] = Standing::Stands;
                let known = control.find(&self.wanted(wish));
                // One that is being moved stands when every shard has moved it.
                if let Some(known) = known.filter(|known| !control.is_moving(known.group)) {
                    scene.trace.note(format_args!("  {known:?}"));
                    scene.ledger.subscription_answered(known.group, known.id);
                }
                scene.trace.note(format_args!("subscriber {} has wish {wish}", self.number));
            }
            // It was late, so its events come again; the ledger has them as owed.
            SessionEvent::Refused { what: Asked::Settle, .. } => {}
            SessionEvent::Refused { request, refusal, .. } => {
                let wish = request as usize - 1;
                let name = refusal.code.name();
                scene.trace.note(format_args!("subscriber {} wish {wish}: {name}", self.number));
                let wait = match refusal.code {
                    Code::GroupExists => {
                        self.names_start[wish] = false;
                        0
                    }
                    Code::Unavailable => 50_000,
                    // Its client was taken for gone for good just as it came back.
                    Code::SubscriptionEnded => 0,
                    code => violated!(CHECK, "subscriber {} is refused: {code:?}", self.number),
                };
                self.standing[wish] = Standing::Wanted { not_before_us: scene.now_us + wait };
            }
            SessionEvent::Delivery(delivery) => self.on_delivery(home, &delivery, node, scene)?,
            SessionEvent::Unsubscribed { request } => {
                self.on_unsubscribed(request as usize - 1, scene);
            }
            SessionEvent::Goodbye(_)
            | SessionEvent::CaughtUp { .. }
            | SessionEvent::Passed { .. }
            | SessionEvent::Settled { .. } => {}
            event => violated!(CHECK, "a subscriber is told {event:?}"),
        }
        Ok(())
    }

    fn connect(&mut self, node: &mut Node, scene: &mut Scene) {
        let shard = scene.random.below(u64::from(node.count())) as u16;
        self.home = node.connect(shard, Owner::Subscriber(self.number));
        if let Some(home) = self.home {
            if std::mem::replace(&mut self.was_here, true) {
                scene.tally.hit(Fault::SubscriberBack);
            }
            self.member = scene.next_session();
            node.shard(home).identify(home.key, self.plan.client.clone());
        }
    }

    fn wanted(&self, wish: usize) -> Wanted {
        let plan = &self.plan.wishes[wish];
        Wanted {
            group: plan.group.clone(),
            filter: plan.filter.clone(),
            mode: plan.mode,
            client: self.plan.client.clone(),
        }
    }

    /// Asks for what it wants, one wish after the other: the first makes the group, with its start.
    fn ask(&mut self, home: Home, node: &mut Node, scene: &mut Scene) -> Checked {
        let is_waiting = |standing: &Standing| *standing != Standing::Stands;
        let Some(wish) = self.standing.iter().position(is_waiting) else { return Ok(()) };
        let Standing::Wanted { not_before_us } = self.standing[wish] else { return Ok(()) };
        if scene.now_us < not_before_us {
            return Ok(());
        }
        let plan = &self.plan.wishes[wish];
        let request = SubscribeRequest {
            request: wish as u64 + 1,
            group: plan.group.clone(),
            filter: plan.filter.clone(),
            mode: plan.mode,
            start: plan.start.clone().filter(|_| self.names_start[wish]),
            credit: plan.credit,
        };
        self.shares[wish] = share_of(self.plan.sticky, scene);
        let (shard, client) = (node.shard(home), self.plan.client.clone());
        let subscribed = match self.shares[wish].clone() {
            None => shard.subscribe(home.key, request),
            Some(share) => shard.subscribe_sharing(home.key, client, request, share),
        };
        if let Err(refusal) = subscribed {
            violated!(CHECK, "subscriber {} is refused at once: {}", self.number, refusal.text);
        }
        self.standing[wish] = Standing::Asked;
        self.credit_max[wish] = plan.credit;
        Ok(())
    }

    fn on_delivery(
        &mut self,
        home: Home,
        delivery: &Delivery,
        node: &Node,
        scene: &mut Scene,
    ) -> Checked {
        let (id, first, place) = identify(delivery, scene)?;
        let Some(token) = TokenFields::decode(&delivery.token.0) else {
            violated!(CHECK, "a delivery has no readable token");
        };
        let header = &delivery.batch.header;
        let known = *scene.ledger.places.entry(id).or_insert(place);
        if known != place {
            violated!(
                "acknowledged is readable",
                "batch {} came from {known:?} and {place:?}",
                id.0
            );
        }
        scene.ledger.attempt_mut(id).was_visible = true;
        deletion::check_delivery(&mut scene.ledger, id, &place, scene.now_us)?;
        matched::check(&scene.ledger, token.group, id)?;
        rests::check(&scene.ledger, token.group, scene.now_us)?;
        letters::check_attempt(&scene.ledger, token.group, id, delivery.attempt)?;
        let bits = bits_of(&delivery.selection, header.count as usize) << first;
        if bits == 0 {
            violated!(CHECK, "a delivery of batch {} has no events", id.0);
        }
        // Mail to another shard was sent at some unknown time before.
        let is_local = delivery.log.log % node.count() == home.shard;
        let group = token.group;
        let deadline = ack_timeout_us(group, scene);
        let until_us = if is_local { scene.now_us + deadline } else { 0 };
        let number = (header.base_position, token.delivery);
        scene.tally.attempts_above_one += u64::from(delivery.attempt > 1);
        scene.trace.note(format_args!(
            "subscriber {} gets batch {} {bits:#x} attempt {} of group {group} from {} at {}",
            self.number, id.0, delivery.attempt, place.log, place.base
        ));
        self.note_arrival(group, (id, bits, number), &place, until_us, scene)?;
        let wait = match self.plan.temper {
            Temper::Slow if scene.random.chance(200) => scene.random.below(deadline * 2),
            _ => scene.random.below(20_000),
        };
        let held = Held {
            subscription: delivery.subscription,
            token: delivery.token,
            group,
            id,
            delivery: number,
            bits,
            first,
            attempt: delivery.attempt,
            received_us: scene.now_us,
            ready_us: scene.now_us + wait,
            is_late: false,
        };
        if self.standing[delivery.subscription as usize - 1] != Standing::Stands {
            // It was said before the member left, and has been taken back since.
            released(&held, bits, self.member, scene);
            return Ok(());
        }
        self.held.push(held);
        if let Some(share) = &self.shares[delivery.subscription as usize - 1] {
            scene.tally.add_faults(Fault::Stuck, u64::from(bits.count_ones()));
            sticky::check(&scene.ledger, share, id, bits, self.member)?;
        }
        self.check_credit(delivery.subscription, group)
    }

    fn note_arrival(
        &mut self,
        group: GroupId,
        (id, bits, delivery): (BatchId, u64, (Position, u32)),
        place: &Place,
        until_us: u64,
        scene: &mut Scene,
    ) -> Checked {
        let (now_us, member) = (scene.now_us, self.member);
        let is_mail = until_us == 0;
        for index in (0..64).filter(|index| bits & (1 << index) != 0) {
            let event = Arrived { id, index, delivery };
            let arrival = order::Arrival { member, event, now_us, until_us, is_mail };
            line::check_arrival(&mut scene.ledger, &scene.plan, group, place, arrival)?;
            order::check_arrival(&mut scene.ledger, group, place, arrival)?;
        }
        let received = scene.ledger.group_mut(group).received.entry(id).or_insert(0);
        let again = bits & *received;
        *received |= bits;
        scene.tally.redelivered += u64::from(again.count_ones());
        scene.tally.delivered += u64::from((bits & !again).count_ones());
        Ok(())
    }

    /// Counts also what has timed out: it holds credit until it is answered.
    fn check_credit(&self, subscription: u64, group: GroupId) -> Checked {
        // What it holds from before a move of the group counts no more.
        let ours = self.held.iter();
        let ours = ours.filter(|held| (held.subscription, held.group) == (subscription, group));
        let events: u64 = ours.map(|held| u64::from(held.bits.count_ones())).sum();
        memory::check_credit(self.member, events, self.credit_max[subscription as usize - 1])
    }

    fn change_credit(&mut self, home: Home, node: &mut Node, scene: &mut Scene) {
        let wish = scene.random.index(self.standing.len());
        if self.standing[wish] == Standing::Stands {
            let events = scene.random.pick(&[1, 2, 30]);
            self.credit_max[wish] = self.credit_max[wish].max(events);
            node.shard(home).set_credit(home.key, wish as u64 + 1, events);
        }
    }

    fn settle_some(&mut self, home: Home, node: &mut Node, scene: &mut Scene) -> Checked {
        for held in &mut self.held {
            let deadline = ack_timeout_us(held.group, scene);
            if !held.is_late && scene.now_us > held.received_us + deadline {
                held.is_late = true;
                scene.tally.hit(Fault::SlowSubscriber);
            }
        }
        let calm = scene.is_calm;
        let now_us = scene.now_us;
        let ready: Vec<usize> = (0..self.held.len())
            .filter(|index| calm || self.held[*index].ready_us <= now_us)
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        let count = if calm { ready.len() } else { scene.random.between(1, 4) as usize };
        for _ in 0..count {
            if self.held.is_empty() {
                break;
            }
            let index = if calm { 0 } else { ready[scene.random.index(ready.len())] };
            if index < self.held.len() {
                self.settle_one(index, home, node, scene)?;
            }
        }
        if !calm && scene.random.chance(20) && !self.settled.is_empty() {
            let (token, _) = self.settled[scene.random.index(self.settled.len())];
            scene.tally.hit(Fault::SettledTwice);
            self.settle(home, node, &token, Selection::All, Verdict::Done)?;
        }
        Ok(())
    }

    fn settle_one(
        &mut self,
        index: usize,
        home: Home,
        node: &mut Node,
        scene: &mut Scene,
    ) -> Checked {
        let is_fickle = self.plan.temper == Temper::Fickle && !scene.is_calm;
        let mut held = self.held.swap_remove(index);
        let is_part = held.bits.count_ones() > 1 && is_fickle && scene.random.chance(250);
        let bits = if is_part { held.bits & (held.bits - 1) } else { held.bits };
        let verdict =
            if is_fickle && scene.random.chance(250) { Verdict::Retry } else { Verdict::Done };
        let (bits, verdict) = judge(&held, bits, verdict, scene);
        let selection = if bits != held.bits {
            scene.tally.hit(Fault::SettledInPart);
            let mut bitmap = Bitmap::default();
            let chosen = (0..64).filter(|bit| bits & (1 << bit) != 0);
            chosen.for_each(|bit| bitmap.set(bit - held.first));
            Selection::Some(bitmap)
        } else {
            Selection::All
        };
        note_verdict(&held, bits, verdict, scene);
        scene.trace.note(format_args!(
            "subscriber {} settles batch {} {bits:#x} {verdict:?}",
            self.number, held.id.0
        ));
        self.settle(home, node, &held.token, selection, verdict)?;
        settled(&held, bits, verdict, self.member, scene);
        held.bits &= !bits;
        if held.bits != 0 {
            self.held.push(held);
        } else if verdict == Verdict::Done {
            self.settled.push((held.token, bits));
        }
        Ok(())
    }

    fn settle(
        &self,
        home: Home,
        node: &mut Node,
        token: &Token,
        selection: Selection,
        verdict: Verdict,
    ) -> Checked {
        let settled = node.shard(home).settle(home.key, 0, &token.0, selection, verdict);
        if let Err(refusal) = settled {
            violated!(CHECK, "a settle of subscriber {} is refused: {}", self.number, refusal.text);
        }
        Ok(())
    }

    /// It no longer holds these events of a delivery.
    fn release(&self, held: &Held, bits: u64, scene: &mut Scene) {
        released(held, bits, self.member, scene);
    }
}

/// Which batch a delivery is of, which of its events the first one there is, and where the batch stands.
fn identify(delivery: &Delivery, scene: &mut Scene) -> Result<(BatchId, u32, Place), Violation> {
    let header = &delivery.batch.header;
    let mut place = Place {
        log: delivery.log,
        base: header.base_position,
        partition: header.partition,
        offset: header.base_offset,
        append_time: header.append_time,
    };
    let Some(Shifted { id, first, base }) = copies::delivered(&scene.ledger, &delivery.batch)?
    else {
        return Ok((scene.ledger.identify(&delivery.batch, &delivery.topic)?, 0, place));
    };
    let sent = scene.ledger.attempt(id);
    if *delivery.topic != *scene.ledger.topics[sent.topic].as_str() || delivery.attempt < 2 {
        let (topic, attempt) = (&delivery.topic, delivery.attempt);
        violated!("parked is owed", "batch {} comes in {topic}, attempt {attempt}", id.0);
    }
    place.base = base;
    place.offset = Offset(header.base_offset.0.wrapping_sub(u64::from(first)));
    scene.tally.unparked += 1;
    Ok((id, first, place))
}

/// The keys that a member takes from now on, if its group divides them: its own, and in some lives those of another, who may
/// be gone.
fn share_of(slot: Option<Slot>, scene: &mut Scene) -> Option<KeyShare> {
    let Slot { index, count } = slot?;
    let takes_over = !scene.is_calm && scene.extra.chance(200);
    let other = takes_over.then(|| scene.extra.index(count));
    Some(KeyShare::new(|part| part % count == index || Some(part % count) == other))
}

/// How long a member of a group may keep a delivery.
fn ack_timeout_us(group: GroupId, scene: &Scene) -> u64 {
    let policy = scene.ledger.groups.get(&group).map(|book| book.verdicts.policy);
    scene.plan.ack_timeout_us(&policy.unwrap_or_default())
}

/// What becomes of a member's wish to settle these events so: those that nobody can take go another way, and in some runs
/// whole deliveries do.
fn judge(held: &Held, bits: u64, verdict: Verdict, scene: &mut Scene) -> (u64, Verdict) {
    let policies = &scene.plan.policies;
    if policies.is_empty() {
        return (bits, verdict);
    }
    let subscription = scene.ledger.groups[&held.group].subscriptions.first();
    let name = subscription.map_or("", |known| known.subscription.named_group());
    let poison = |index: &u32| policies.poison(name, held.id, *index);
    let events = || (0..64).filter(|index| bits & 1 << index != 0);
    let of = |kind: Option<Poison>| {
        events().filter(|index| poison(index) == kind).fold(0, |sum, index| sum | 1 << index)
    };
    match (of(None), of(Some(Poison::Rejected)), of(Some(Poison::HandedBack))) {
        (0, 0, bits) => (bits, Verdict::Retry),
        (0, bits, _) => (bits, Verdict::Reject),
        (bits, ..) if !scene.is_calm && scene.extra.chance(policies.returned_per_mille) => {
            (bits, scene.extra.pick(&[Verdict::Retry, Verdict::Retry, Verdict::Unseen]))
        }
        (bits, ..) => (bits, verdict),
    }
}

/// A member says something of events.
fn note_verdict(held: &Held, bits: u64, verdict: Verdict, scene: &mut Scene) {
    let book = scene.ledger.group_mut(held.group);
    let (of, fault) = match verdict {
        Verdict::Done => (&mut book.settled, None),
        Verdict::Retry => (&mut book.verdicts.handed_back, Some(Fault::HandedBack)),
        Verdict::Reject => (&mut book.verdicts.rejected, Some(Fault::Rejected)),
        Verdict::Unseen => return scene.tally.hit(Fault::Unseen),
    };
    *of.entry(held.id).or_insert(0) |= bits;
    fault.into_iter().for_each(|fault| scene.tally.hit(fault));
}

/// A member has said something of these events of a delivery, and no longer holds them.
fn settled(held: &Held, bits: u64, verdict: Verdict, member: u32, scene: &mut Scene) {
    for index in (0..64_u32).filter(|index| bits & (1 << index) != 0) {
        let event = Arrived { id: held.id, index, delivery: held.delivery };
        let now_us = scene.now_us;
        if !order::released(&mut scene.ledger, held.group, member, event, now_us) {
            continue;
        }
        match verdict {
            Verdict::Done => {
                let done = &mut scene.ledger.group_mut(held.group).verdicts.done;
                done.insert((held.id, index));
            }
            Verdict::Retry | Verdict::Unseen => {
                let of = (held.attempt, now_us);
                line::note_returned(&mut scene.ledger, held.group, event, of);
            }
            Verdict::Reject => {}
        }
    }
}

/// A member no longer holds these events of a delivery.
fn released(held: &Held, bits: u64, member: u32, scene: &mut Scene) {
    for index in (0..64_u32).filter(|index| bits & (1 << index) != 0) {
        let event = Arrived { id: held.id, index, delivery: held.delivery };
        order::released(&mut scene.ledger, held.group, member, event, scene.now_us);
    }
}

/// What subscribers of a run wait for, by number; only those that do.
#[must_use]
pub fn waiting(subscribers: &[Subscriber]) -> BTreeMap<usize, String> {
    let waiting = subscribers.iter().filter(|subscriber| !subscriber.is_done());
    waiting.map(|subscriber| (subscriber.number, subscriber.waits())).collect()
}

//! A group's place in one log: what it has taken, what of that is in flight to whom, and what waits.
//!
//! A batch is offered once, in order. Its eligible events are handed to members, or become idle when nobody can take
//! them now: their key is in flight to a member without credit, or an earlier event of their key waits. While a group
//! has one member and nothing waits, keys are not looked at: one member gets everything in order anyway.

mod assigning;
mod dying;
pub mod parking;
mod reading;
mod settling;

use std::collections::{BTreeMap, BTreeSet};

use codec::body::Body;
use codec::ids::Position;

use crate::group::flight::{Flight, Flights, Idle, Piece};
use crate::group::keys::{Blocked, KeyHash, KeyMap, Keys, block, key_hash};
use crate::group::members::{Member, Members};
use crate::group::rules::Rules;
use crate::mail::MemberId;
use crate::options::{DELIVERY_BYTES, FLIGHTS_MAX};
use crate::selection::{Bitmap, Selection};
use assigning::Share;
use parking::PARKED_KEYS_MAX;
use settling::Overdue;

/// Most keys that may wait before the group takes no more batches.
pub const WAITING_KEYS_MAX: usize = 4_096;

/// Batches with idle events from which on none is taken of which nothing can go. Each look at what is idle passes all.
const IDLE_TAKEN_MAX: usize = 1_024;

/// One delivery to be made of the batch at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// To whom.
    pub member: MemberId,
    /// The number of this delivery of the batch.
    pub delivery: u32,
    /// How often these events have been delivered, this time included.
    pub attempt: u32,
    /// Which events.
    pub selection: Selection,
}

/// What became of an offered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Offered {
    /// The group owns it now.
    Taken,
    /// Nobody can take any of it now; offer it again.
    Refused,
}

/// A batch at hand, as this module needs it.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// Position of the first event.
    pub base: Position,
    /// Events.
    pub count: u32,
    /// The body.
    pub body: &'a [u8],
}

impl BatchView<'_> {
    /// The keys of `events` that have one.
    fn keys_of(&self, events: &Bitmap) -> Vec<(u32, KeyHash)> {
        let Ok(body) = Body::checked_before(self.body, self.count) else { return Vec::new() };
        let key = |index| {
            let event = body.event(index)?;
            Some((index, key_hash(event.partition_key()?)))
        };
        events.iter().filter_map(key).collect()
    }

    /// What one delivery of it counts for: its body, and what is made for each delivery.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.body.len() as u32 + DELIVERY_BYTES
    }
}

/// Time and place of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The shard this runs on: members here come first.
    pub shard: u16,
    /// The monotonic clock.
    pub mono_us: u64,
    /// By which the group delivers.
    pub rules: &'a Rules,
}

/// What a turn works with: a batch, who may get it, and where the deliveries to be made are put.
pub struct Hand<'a> {
    /// The batch.
    pub batch: BatchView<'a>,
    /// The group's members.
    pub members: &'a mut Members,
    /// Time and place.
    pub turn: Turn<'a>,
    /// Deliveries to be made.
    pub out: &'a mut Vec<Dispatch>,
}

/// What became of a settle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Credit that goes back to members' homes.
    pub returned: Vec<Returned>,
    /// How many of the events that it named were in flight.
    pub events: u32,
    /// Whether nothing that it named was in flight any more: the events stay as they are.
    pub is_stale: bool,
}

/// Credit that goes back to a member's home, since another shard asked for it.
pub type Returned = (MemberId, u32);

/// One group in one log.
#[derive(Debug, Default)]
pub struct GroupLog {
    flights: Flights,
    keys: Keys,
    /// Batches with idle events.
    idle: BTreeSet<Position>,
    /// Batches with dying events whose append is not under way.
    dying: BTreeSet<Position>,
    /// Batches with idle events that may have to be parked, and whether for the window's sake: at once.
    to_park: BTreeMap<Position, bool>,
    /// Batches of parked events that are not due, by when they are: nobody looks at them before.
    resting: BTreeSet<(u64, Position)>,
    /// Batches of parked events that stand behind others of their key, by that and their place: nobody looks at them before
    /// these are settled.
    following: KeyMap<BTreeSet<(Position, Position)>>,
    /// Events that were exhausted and dropped since somebody asked.
    dropped: u32,
    /// Batches with idle events whose keys are not known yet. While there are any, nothing new is taken, since
    /// it could overtake one of them.
    unread: u32,
    /// Events in flight whose keys were not looked at, and to whom.
    untracked: u32,
    untracked_member: Option<MemberId>,
    /// By the batch's position and the delivery's number. Bounded by the members' credit.
    overdue: BTreeMap<(Position, u32), Overdue>,
    /// No piece in flight is older. Never too late; may be too early.
    oldest_sent_us: u64,
}

impl GroupLog {
    /// Whether a batch may be offered at all.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.unread == 0
            && self.flights.len() < FLIGHTS_MAX
            && self.keys.waiting() < WAITING_KEYS_MAX
            && self.keys.parked() < PARKED_KEYS_MAX
    }

    /// Whether nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether something is owed that is in flight to nobody.
    #[must_use]
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Batches taken and not settled, settled ones behind them included.
    #[must_use]
    pub fn flights(&self) -> usize {
        self.flights.len()
    }

    /// Keys that wait.
    #[must_use]
    pub fn waiting_keys(&self) -> usize {
        self.keys.waiting()
    }

    /// What of a delivery is still in flight.
    #[cfg(test)]
    pub fn in_flight(&self, base: Position, delivery: u32) -> Option<Bitmap> {
        let flight = self.flights.get(base)?;
        let piece = flight.pieces().find(|piece| piece.delivery == delivery)?;
        Some(piece.events.to_bitmap(flight.count))
    }

    /// Offers the next batch. `eligible` are the events that the group is to get; at least one.
    pub fn offer(&mut self, hand: &mut Hand<'_>, eligible: Selection) -> Offered {
        if !self.is_open() || !hand.members.any_ready() {
            return Offered::Refused;
        }
        let batch = hand.batch;
        let mut flight = Flight::new(batch.base, batch.count);
        assert!(eligible.len(batch.count) > 0, "what is offered has events");
        if let Some(member) = self.whole_batch_to(&batch, &eligible, hand.members) {
            self.send_untracked(&mut flight, member, eligible, hand);
            self.flights.push(flight);
            // Nearly every event comes by here, and its settle checks.
            if cfg!(debug_assertions) {
                self.check();
            }
            return Offered::Taken;
        }
        let mut eligible = eligible.to_bitmap(batch.count);
        let mut keys = batch.keys_of(&eligible);
        if self.keys.parked() > 0 {
            self.leave_out_parked(&batch, &mut eligible, &mut keys);
            if eligible.is_empty() {
                return Offered::Taken;
            }
        }
        let waits = |keys: &Keys, key, index| {
            keys.is_waiting(key) || keys.is_behind_parked(key, batch.base.plus(u64::from(index)))
        };
        let plan = self.assign(&eligible, &keys, &waits, None, hand);
        // Keys that wait for members of their own, or for their own time, must not keep others from theirs.
        if plan.pieces.is_empty()
            && !hand.members.divide_keys()
            && !self.waits_for_its_keys(&plan, &waits)
        {
            return Offered::Refused;
        }
        if !plan.pieces.is_empty() {
            hand.members.take_turn();
        }
        self.send_tracked(&mut flight, plan.pieces, (1, &[]), hand);
        if !plan.waiting.is_empty() {
            for (_, key) in &plan.waiting_keys {
                self.keys.wait(*key);
            }
            self.idle.insert(batch.base);
            let keys = Some(plan.waiting_keys);
            let events = plan.waiting;
            flight.idle.push(Idle { events, attempt: 1, not_before_us: 0, keys, avoid: None });
        }
        self.flights.push(flight);
        self.check();
        Offered::Taken
    }

    /// Whether a batch of which nothing can go waits only behind earlier events of its keys: others must not wait for that.
    fn waits_for_its_keys(
        &self,
        plan: &assigning::Assignment,
        waits: &dyn Fn(&Keys, KeyHash, u32) -> bool,
    ) -> bool {
        plan.waiting_keys.len() == plan.waiting.len() as usize
            && self.idle.len() < IDLE_TAKEN_MAX
            && plan.waiting_keys.iter().all(|(index, key)| waits(&self.keys, *key, *index))
    }

    /// The first batch after `after` whose idle events have to be read: since their keys are unknown, or since some of
    /// them can go out now. Keys of the batches that are passed over are `blocked`: nothing may overtake them.
    ///
    /// A batch of which nothing can go is not worth reading: two such batches far from each other would be read in
    /// turn for ever, and keep what stands behind them from being sent.
    #[must_use]
    pub fn next_idle(
        &self,
        after: Option<Position>,
        blocked: &mut Blocked,
        members: &Members,
        turn: Turn<'_>,
    ) -> Option<Position> {
        let from = after.map_or(Position(0), |after| after.plus(1));
        let can_send = members.any_ready();
        if !can_send && self.unread == 0 {
            return None;
        }
        self.idle.range(from..).copied().find(|base| {
            let flight = self.flights.get(*base).expect("idle batches are flights");
            let (due, later): (Vec<&Idle>, Vec<&Idle>) =
                flight.idle.iter().partition(|idle| idle.not_before_us <= turn.mono_us);
            if flight.idle.iter().any(|idle| idle.keys.is_none()) {
                return true;
            }
            later.iter().for_each(|idle| block_idle(blocked, flight, idle));
            if can_send && due.iter().any(|idle| self.can_go(flight, idle, blocked, members)) {
                return true;
            }
            due.iter().for_each(|idle| block_idle(blocked, flight, idle));
            false
        })
    }

    /// Members of a group that has divided its keys among them, whose credit here is all that keeps idle events from being
    /// sent: others may have some, and take none of these. Nobody else, since credit that waits unused is taken back by the
    /// next shard that asks for it, and so to and fro.
    #[must_use]
    pub fn lacking(&self, members: &Members, turn: Turn<'_>) -> BTreeSet<MemberId> {
        let mut lacking = BTreeSet::new();
        if !members.divide_keys() || self.untracked > 0 {
            return lacking;
        }
        let mut blocked = Blocked::default();
        for base in &self.idle {
            let flight = self.flights.get(*base).expect("idle batches are flights");
            let (due, later): (Vec<&Idle>, Vec<&Idle>) =
                flight.idle.iter().partition(|idle| idle.not_before_us <= turn.mono_us);
            later.iter().for_each(|idle| block_idle(&mut blocked, flight, idle));
            for (index, key) in due.iter().flat_map(|idle| idle.keys.iter().flatten()) {
                let is_next = self.keys.bound_to(*key).is_none()
                    && !self.keys.is_blocked(&blocked, *key, flight.place(*index));
                if is_next && !members.any_ready_for(*key) {
                    lacking.extend(members.lacking_for(*key));
                }
            }
            due.iter().for_each(|idle| block_idle(&mut blocked, flight, idle));
        }
        lacking
    }

    /// Whether any of these events, whose keys are known, could be sent now.
    fn can_go(&self, flight: &Flight, idle: &Idle, blocked: &Blocked, members: &Members) -> bool {
        let keys = idle.keys.as_deref().unwrap_or_default();
        let untracked = self.untracked_member.filter(|_| self.untracked > 0);
        let is_free = |(index, key): &(u32, KeyHash)| {
            let member = self.keys.bound_to(*key).or(untracked);
            let is_ready = |id| members.get(id).is_some_and(Member::is_ready);
            !self.keys.is_blocked(blocked, *key, flight.place(*index))
                && member.map_or_else(|| members.any_ready_for(*key), is_ready)
        };
        members.any_ready() && (idle.events.len() as usize > keys.len() || keys.iter().any(is_free))
    }

    /// Sends what can be sent of a batch's idle events. `blocked` collects the keys that may not be sent after this in
    /// one pass, since an event of theirs stays behind; passes go by rising position.
    pub fn redeliver(&mut self, hand: &mut Hand<'_>, blocked: &mut Blocked) {
        let base = hand.batch.base;
        let place = self.flights.get_mut(base).expect("idle batches are flights");
        let mut flight = std::mem::replace(place, Flight::new(base, hand.batch.count));
        let owed = flight.owed_events();
        let mut due: Option<Idle> = None;
        let mut attempts: Vec<(Bitmap, u32)> = Vec::new();
        for mut idle in std::mem::take(&mut flight.idle) {
            self.learn_keys(&hand.batch, &mut idle);
            if idle.not_before_us > hand.turn.mono_us {
                block_idle(blocked, &flight, &idle);
                flight.idle.push(idle);
            } else {
                // Joined, so that they go by their order in the batch, whatever made each of them idle. Each keeps its
                // own number of attempts: one must not be exhausted by its neighbour's.
                attempts.push((idle.events.clone(), idle.attempt));
                due = Some(match due {
                    Some(first) => first.join(idle),
                    None => idle,
                });
            }
        }
        if let Some(idle) = due {
            self.redeliver_due(&mut flight, (idle, &attempts), hand, blocked);
        }
        if flight.idle.is_empty() {
            self.idle.remove(&base);
        }
        assert!(flight.owed_events() == owed, "what is owed stays owed, sent again or not");
        *self.flights.get_mut(base).expect("it kept its place") = flight;
        self.check();
    }

    fn redeliver_due(
        &mut self,
        flight: &mut Flight,
        (idle, attempts): (Idle, &[(Bitmap, u32)]),
        hand: &mut Hand<'_>,
        blocked: &mut Blocked,
    ) {
        let keys = idle.keys.unwrap_or_default();
        let is_blocked =
            |keys: &Keys, key, index| keys.is_blocked(blocked, key, flight.place(index));
        let plan = self.assign(&idle.events, &keys, &is_blocked, idle.avoid, hand);
        keys.iter().for_each(|(_, key)| self.keys.wait_over(*key));
        self.send_tracked(flight, plan.pieces, (idle.attempt, attempts), hand);
        for (index, key) in &plan.waiting_keys {
            self.keys.wait(*key);
            block(blocked, *key, flight.place(*index));
        }
        for (of, attempt) in attempts {
            let events = plan.waiting.common(of);
            if !events.is_empty() {
                let is_of = |(index, _): &&(u32, KeyHash)| events.contains(*index);
                let keys = Some(plan.waiting_keys.iter().filter(is_of).copied().collect());
                let (attempt, not_before_us, avoid) = (*attempt, idle.not_before_us, idle.avoid);
                flight.idle.push(Idle { events, attempt, not_before_us, keys, avoid });
            }
        }
    }

    /// What must hold whatever was done last.
    fn check(&self) {
        assert!(
            self.unread == 0 || !self.idle.is_empty(),
            "events whose keys are unknown are idle events"
        );
        assert!(
            !self.idle.is_empty() || self.keys.waiting() == 0,
            "a key waits only for its idle events"
        );
        assert!(
            !self.flights.is_empty()
                || (self.idle.is_empty()
                    && self.dying.is_empty()
                    && self.untracked == 0
                    && self.keys.bound() == 0),
            "what is in flight, idle or dying belongs to a batch that is not settled"
        );
        // The simulator asks after every event; a server could not afford to.
        if cfg!(debug_assertions) && self.flights.len() + self.keys.parked_events() <= 64 {
            self.check_all();
        }
    }

    /// Counts anew what is counted as it goes.
    fn check_all(&self) {
        self.flights.iter().for_each(Flight::check);
        let flights = || self.flights.iter();
        let idle = flights().filter(|flight| !flight.idle.is_empty());
        let idle = idle.map(|flight| &flight.base);
        let mut idle: BTreeSet<Position> = idle.copied().collect();
        let following = self.following.values().flatten().map(|(_, base)| base);
        let resting = self.resting.iter().map(|(_, base)| base).chain(following);
        resting.for_each(|base| assert!(idle.remove(base), "who rests is owed, and rests once"));
        assert!(idle == self.idle, "every batch with idle events is found, and no other");
        let waits = |flight: &&Flight| flight.dying.iter().any(|dying| dying.burial.is_none());
        let dying: BTreeSet<Position> = flights().filter(waits).map(|flight| flight.base).collect();
        assert!(dying == self.dying, "every batch with events to be buried is found");
        let unread = flights().flat_map(|flight| &flight.idle);
        let unread = unread.filter(|idle| idle.keys.is_none()).count();
        assert_eq!(unread as u32, self.unread, "unknown keys are counted");
        let pieces = || flights().flat_map(|flight| flight.pieces().map(move |p| (flight, p)));
        let untracked = pieces().filter(|(_, piece)| piece.keys.is_none());
        let untracked: u32 = untracked.map(|(flight, p)| p.events.len(flight.count)).sum();
        assert_eq!(untracked, self.untracked, "events without known keys are counted");
        assert!(
            pieces().all(|(_, piece)| self.oldest_sent_us <= piece.sent_us),
            "no delivery is late without being looked at"
        );
    }

    /// What is owed below the group's next position, parked events left out: runs of positions, end exclusive, rising.
    #[must_use]
    pub fn unsettled(&self) -> Vec<(Position, Position)> {
        runs_of(self.flights.unparked())
    }

    /// The one member that can take the whole batch without a look at its keys.
    fn whole_batch_to(
        &self,
        batch: &BatchView<'_>,
        eligible: &Selection,
        members: &Members,
    ) -> Option<MemberId> {
        let member = members.only()?;
        let fits = member.is_ready() && eligible.len(batch.count) <= member.lease;
        let free = self.keys.waiting() == 0 && self.idle.is_empty() && self.keys.parked() == 0;
        let same = self.untracked == 0 || self.untracked_member == Some(member.id);
        (fits && free && same).then_some(member.id)
    }

    fn send_untracked(
        &mut self,
        flight: &mut Flight,
        member: MemberId,
        events: Selection,
        hand: &mut Hand<'_>,
    ) {
        let count = events.len(hand.batch.count);
        let state = hand.members.get_mut(member).expect("chosen from the members");
        state.sent(count, hand.batch.bytes());
        assert!(
            self.untracked == 0 || self.untracked_member == Some(member),
            "events whose keys are unknown are in flight to one member"
        );
        self.untracked += count;
        self.untracked_member = Some(member);
        self.send(flight, (member, events, None), (1, Vec::new()), hand);
    }

    fn send_tracked(
        &mut self,
        flight: &mut Flight,
        pieces: Vec<Share>,
        (attempt, attempts): (u32, &[(Bitmap, u32)]),
        hand: &mut Hand<'_>,
    ) {
        for (member, events, keys) in pieces {
            assert!(keys.len() <= hand.batch.count as usize, "an event has one key at most");
            // `assign` has taken the credit event by event; here only the bytes are added.
            let state = hand.members.get_mut(member).expect("chosen from the members");
            state.in_flight_bytes += u64::from(hand.batch.bytes());
            for (_, key) in &keys {
                self.keys.sent(*key, member);
            }
            let fewer = attempts
                .iter()
                .filter(|(of, own)| *own < attempt && !of.common(&events).is_empty());
            let fewer = fewer.cloned().collect();
            let events = Selection::from_bitmap(events, hand.batch.count);
            self.send(flight, (member, events, Some(keys)), (attempt, fewer), hand);
        }
    }

    fn send(
        &mut self,
        flight: &mut Flight,
        (member, events, keys): (MemberId, Selection, Option<Vec<(u32, KeyHash)>>),
        (attempt, fewer): (u32, Vec<(Bitmap, u32)>),
        hand: &mut Hand<'_>,
    ) {
        self.note_sent(hand.turn.mono_us);
        let selection = events.clone();
        let (bytes, sent_us) = (hand.batch.bytes(), hand.turn.mono_us);
        let piece = Piece { delivery: 0, member, attempt, fewer, events, keys, bytes, sent_us };
        let delivery = flight.send(piece);
        hand.out.push(Dispatch { member, delivery, attempt, selection });
    }

    fn note_sent(&mut self, mono_us: u64) {
        if self.flights.is_empty() {
            self.oldest_sent_us = mono_us;
        }
        self.oldest_sent_us = self.oldest_sent_us.min(mono_us);
    }

    fn learn_keys(&mut self, batch: &BatchView<'_>, idle: &mut Idle) {
        if idle.keys.is_none() {
            let keys = batch.keys_of(&idle.events);
            for (_, key) in &keys {
                self.keys.wait(*key);
            }
            idle.keys = Some(keys);
            assert!(self.unread > 0, "unknown keys are counted");
            self.unread -= 1;
        }
    }
}

/// What is owed of these flights, as runs of positions.
fn runs_of<'a>(flights: impl Iterator<Item = &'a Flight>) -> Vec<(Position, Position)> {
    let mut runs: Vec<(Position, Position)> = Vec::new();
    for flight in flights.filter(|flight| !flight.is_settled()) {
        for index in flight.owed().iter() {
            let at = flight.base.plus(u64::from(index));
            match runs.last_mut() {
                Some((_, end)) if *end == at => *end = at.plus(1),
                _ => runs.push((at, at.plus(1))),
            }
        }
    }
    runs
}

/// Events that stay idle keep back what stands behind them in the line of their key.
fn block_idle(blocked: &mut Blocked, flight: &Flight, idle: &Idle) {
    for (index, key) in idle.keys.iter().flatten() {
        block(blocked, *key, flight.place(*index));
    }
}

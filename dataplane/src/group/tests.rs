//! A group under random offers, settles, losses and time-outs, against a model that knows what is owed.

mod footprint;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use codec::attribute::{Key, Value};
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::header::HEADER_BYTES;
use codec::ids::{Partition, Position, TopicId};

use crate::group::flight::{Fate, Parked, Reason};
use crate::group::group_log::{BatchView, Dispatch, GroupLog, Hand, Offered, Turn};
use crate::group::keys::{Blocked, KeyShare, key_hash};
use crate::group::members::{Members, Presence};
use crate::group::rules::Rules;
use crate::mail::MemberId;
use crate::options::CREDIT_MAX;
use crate::selection::{Bitmap, Selection};
use crate::session::Verdict;

const DEADLINE_US: u64 = 1_000;
/// Three attempts, then the dead letters.
const RULES: Rules = Rules {
    attempts_max: 3,
    retry_delay_us: 50,
    retry_delay_max_us: 400,
    jitter_percent: 50,
    park_after_us: u64::MAX,
    ack_timeout_us: DEADLINE_US,
    in_flight_max: CREDIT_MAX,
    age_max_us: u64::MAX,
    drops: false,
};

/// A small generator, so that a failure names its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// One delivery that a member holds.
#[derive(Clone)]
struct Held {
    member: MemberId,
    base: u64,
    delivery: u32,
    events: Bitmap,
    sent_us: u64,
}

struct World {
    random: Random,
    group: GroupLog,
    members: Members,
    bodies: BTreeMap<u64, (u32, Vec<u8>)>,
    keys: BTreeMap<u64, Option<u64>>,
    refused: VecDeque<u64>,
    next: u64,
    owed: BTreeSet<u64>,
    held: Vec<Held>,
    /// What members hold although it timed out.
    overdue: Vec<Held>,
    rejected: BTreeSet<u64>,
    /// Appends to the dead letters that are under way.
    buried: Vec<(Position, u64, Bitmap)>,
    burials: u64,
    credit: BTreeMap<MemberId, u32>,
    /// The last event of each key that was sent for the first time.
    first_sent: BTreeMap<u64, u64>,
    sent_once: BTreeSet<u64>,
    now_us: u64,
    joined: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            random: Random(seed),
            group: GroupLog::default(),
            members: Members::default(),
            bodies: BTreeMap::new(),
            keys: BTreeMap::new(),
            refused: VecDeque::new(),
            next: 0,
            owed: BTreeSet::new(),
            held: Vec::new(),
            overdue: Vec::new(),
            rejected: BTreeSet::new(),
            buried: Vec::new(),
            burials: 0,
            credit: BTreeMap::new(),
            first_sent: BTreeMap::new(),
            sent_once: BTreeSet::new(),
            now_us: 0,
            joined: 0,
        }
    }

    fn turn(&self) -> Turn<'static> {
        Turn { shard: 0, mono_us: self.now_us, rules: &RULES }
    }

    fn step(&mut self) {
        self.now_us += self.random.below(40);
        match self.random.below(13) {
            0 => self.join(),
            1 if self.members.len() > 1 => self.leave(),
            2 => self.expire(),
            3 if !self.overdue.is_empty() => self.answer_late(),
            3..=6 => self.settle(),
            12 => self.read(),
            _ => self.offer(),
        }
        self.send_again();
        self.bury();
        self.check();
    }

    fn join(&mut self) {
        if self.members.len() < 4 {
            self.joined += 1;
            let shard = (self.joined % 2) as u16;
            let id = MemberId { shard, slot: self.joined, life: 1 };
            let credit = 1 + self.random.below(20) as u32;
            // Some go before what they got is settled; the others' order must not depend on who they are.
            let presence = match self.joined % 4 {
                0 => Presence::Passing,
                1 => Presence::Sharing(KeyShare::new(|part| part % 2 == usize::from(shard))),
                _ => Presence::Staying,
            };
            self.members.join(id, credit, presence);
            self.credit.insert(id, credit);
        }
    }

    fn leave(&mut self) {
        let at = self.random.below(self.members.len() as u64) as usize;
        let id = self.members.iter().nth(at).unwrap().id;
        let left = self.members.leave(id).unwrap();
        self.group.member_left(&left, &RULES, true);
        self.held.retain(|held| held.member != id);
        self.overdue.retain(|held| held.member != id);
    }

    fn expire(&mut self) {
        let Some(end) = self.now_us.checked_sub(DEADLINE_US) else { return };
        drop(self.group.expire(end, &mut self.members, &RULES, true));
        // What followed a late event of its key was taken back too: ask the group what is still in flight.
        let (group, overdue) = (&self.group, &mut self.overdue);
        self.held.retain_mut(|held| {
            let left = group.in_flight(Position(held.base), held.delivery).unwrap_or_default();
            let mut late = held.clone();
            late.events.subtract(&left);
            if !late.events.is_empty() {
                overdue.push(late);
            }
            held.events = left;
            assert!(held.events.is_empty() || held.sent_us > end, "what is late is taken back");
            !held.events.is_empty()
        });
    }

    /// A member answers what it should have answered before.
    fn answer_late(&mut self) {
        let at = self.random.below(self.overdue.len() as u64) as usize;
        let late = self.overdue.swap_remove(at);
        let (base, selection) = (Position(late.base), Selection::Some(late.events));
        let (verdict, turn) = (Verdict::Done, self.turn());
        let members = &mut self.members;
        let settled = self.group.settle(base, late.delivery, &selection, verdict, members, turn);
        assert!(settled.is_stale, "it is too late for that");
    }

    fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.random.below(self.held.len() as u64) as usize;
        let mut held = self.held.swap_remove(at);
        let count = self.bodies[&held.base].0;
        let mut part = Bitmap::none(count);
        for index in held.events.iter() {
            if self.random.below(3) > 0 {
                part.set(index);
            }
        }
        let selection = if part.is_empty() || part == held.events {
            part = held.events.clone();
            // Answers also what has timed out of it.
            self.overdue.retain(|late| (late.base, late.delivery) != (held.base, held.delivery));
            Selection::All
        } else {
            Selection::Some(part.clone())
        };
        let verdict = match self.random.below(8) {
            0 | 1 => Verdict::Retry,
            2 => Verdict::Reject,
            3 => Verdict::Unseen,
            _ => Verdict::Done,
        };
        let (base, turn) = (Position(held.base), self.turn());
        let settled =
            self.group.settle(base, held.delivery, &selection, verdict, &mut self.members, turn);
        assert!(!settled.is_stale, "a held delivery is not stale");
        if verdict == Verdict::Done {
            for index in part.iter() {
                assert!(self.owed.remove(&(held.base + u64::from(index))), "settled once");
            }
        }
        for index in part.iter().filter(|_| verdict == Verdict::Reject) {
            self.rejected.insert(held.base + u64::from(index));
        }
        held.events.subtract(&part);
        if !held.events.is_empty() {
            self.held.push(held);
        }
    }

    /// A reader names what it has read, wherever that is by now.
    fn read(&mut self) {
        let start = self.random.below(self.next + 1).saturating_sub(self.random.below(8));
        let (length, gap) = (1 + self.random.below(6), 1 + self.random.below(3));
        let second = start + length + gap;
        let runs = [start..start + length, second..second + 2];
        let is_read = |at: &u64| runs.iter().any(|run| run.contains(at));
        let read: Vec<u64> = self.owed.iter().copied().filter(is_read).collect();
        let read: Vec<u64> = read.into_iter().filter(|at| !self.is_refused(*at)).collect();
        let named = runs.clone().map(|run| (Position(run.start), Position(run.end)));
        let settled = self.group.settle_read(&named, &mut self.members);
        // What is on its way to the dead letters stays so.
        let left = self.group.unsettled();
        let is_left = |at: &u64| left.iter().any(|(start, end)| (start.0..end.0).contains(at));
        let read: Vec<u64> = read.into_iter().filter(|at| !is_left(at)).collect();
        assert_eq!(settled.events as usize, read.len(), "what was owed of it is owed no longer");
        read.iter().for_each(|at| assert!(self.owed.remove(at)));
        for held in &mut self.held {
            let bits = read.iter().filter_map(|at| at.checked_sub(held.base));
            bits.filter(|bit| *bit < 64).for_each(|bit| held.events.clear(bit as u32));
        }
        self.held.retain(|held| !held.events.is_empty());
    }

    fn offer(&mut self) {
        let base = self.refused.pop_front().unwrap_or_else(|| self.make_batch());
        let (count, body) = self.bodies[&base].clone();
        let mut eligible = Bitmap::none(count);
        for index in 0..count {
            if self.owed.contains(&(base + u64::from(index))) {
                eligible.set(index);
            }
        }
        let mut out = Vec::new();
        let turn = self.turn();
        let batch = BatchView { base: Position(base), count, body: &body };
        let mut hand = Hand { batch, members: &mut self.members, turn, out: &mut out };
        let eligible = Selection::from_bitmap(eligible, count);
        match self.group.offer(&mut hand, eligible) {
            Offered::Taken => self.take(base, out),
            Offered::Refused => {
                assert!(out.is_empty(), "nothing is sent of a refused batch");
                self.refused.push_back(base);
            }
        }
    }

    /// Brings what dies to the dead letters, in several appends that come back in any order, or not at all.
    fn bury(&mut self) {
        while let Some((base, dying)) = self.group.next_dying(None) {
            let Fate::Dead(reason) = dying.fate else { panic!("nothing is parked here") };
            let attempts = dying.attempts;
            let mut part = dying.events.clone();
            if part.len() > 1 && self.random.below(3) == 0 {
                part = Bitmap::none(0);
                part.set(dying.events.iter().next().unwrap());
            }
            for index in part.iter() {
                let at = base.0 + u64::from(index);
                let is_rejected = self.rejected.contains(&at);
                assert_eq!(
                    is_rejected,
                    reason == Reason::Rejected,
                    "the reason is the event's own"
                );
                assert!(is_rejected || attempts == RULES.attempts_max, "no attempt is left");
            }
            self.burials += 1;
            self.group.begin_burial(base, &part, self.burials);
            self.buried.push((base, self.burials, part));
            if self.random.below(4) == 0 {
                break;
            }
        }
        while !self.buried.is_empty() && self.random.below(3) > 0 {
            let at = self.random.below(self.buried.len() as u64) as usize;
            let (base, number, events) = self.buried.swap_remove(at);
            if self.random.below(5) == 0 {
                self.group.not_buried(base, number);
                continue;
            }
            assert_eq!(self.group.buried(base, number), events.len());
            for index in events.iter() {
                let at = base.0 + u64::from(index);
                assert!(self.owed.remove(&at), "settled once");
            }
        }
    }

    fn make_batch(&mut self) -> u64 {
        let count = 1 + self.random.below(6);
        let keys: Vec<_> = (0..count).map(|_| self.random.below(5).checked_sub(1)).collect();
        self.make_batch_of(&keys)
    }

    fn make_batch_of(&mut self, keys: &[Option<u64>]) -> u64 {
        let (base, count) = (self.next, keys.len() as u32);
        let mut builder = BatchBuilder::new(&mut []).unwrap();
        for (index, key) in (0_u64..).zip(keys.iter().copied()) {
            let name = format!("key-{}", key.unwrap_or(0));
            let attribute = [(Key::PartitionKey, Value::String(&name))];
            let mut attributes = if key.is_some() { attribute.to_vec() } else { Vec::new() };
            builder.push(&mut attributes, DataKind::Binary, b"x").unwrap();
            self.keys.insert(base + index, key);
            self.owed.insert(base + index);
        }
        let batch = builder.finish(TopicId(1), Partition(0));
        self.bodies.insert(base, (count, batch[HEADER_BYTES..].to_vec()));
        self.next += u64::from(count);
        base
    }

    fn send_again(&mut self) {
        let mut blocked = Blocked::default();
        let mut after = None;
        let turn = self.turn();
        while let Some(base) = self.group.next_idle(after, &mut blocked, &self.members, turn) {
            let (count, body) = self.bodies[&base.0].clone();
            let mut out = Vec::new();
            let batch = BatchView { base, count, body: &body };
            let mut hand = Hand { batch, members: &mut self.members, turn, out: &mut out };
            self.group.redeliver(&mut hand, &mut blocked);
            self.take(base.0, out);
            after = Some(base);
        }
    }

    fn take(&mut self, base: u64, out: Vec<Dispatch>) {
        let count = self.bodies[&base].0;
        for Dispatch { member, delivery, selection, .. } in out {
            let events = selection.to_bitmap(count);
            for index in events.iter() {
                let at = base + u64::from(index);
                assert!(self.owed.contains(&at), "only what is owed is sent");
                assert!(!self.rejected.contains(&at), "what was rejected is not sent again");
                self.check_first(at);
            }
            self.held.push(Held { member, base, delivery, events, sent_us: self.now_us });
        }
    }

    /// Within a key, events are sent for the first time in order.
    fn check_first(&mut self, at: u64) {
        let (true, Some(key)) = (self.sent_once.insert(at), self.keys[&at]) else { return };
        if let Some(last) = self.first_sent.insert(key, at) {
            assert!(last < at, "event {at} of key {key} came after {last}");
        }
    }

    fn check(&self) {
        let mut in_flight = BTreeSet::new();
        let mut of_key: BTreeMap<u64, MemberId> = BTreeMap::new();
        for held in &self.held {
            for index in held.events.iter() {
                let at = held.base + u64::from(index);
                assert!(in_flight.insert(at), "event {at} is in flight once");
                if let Some(key) = self.keys[&at] {
                    let member = *of_key.entry(key).or_insert(held.member);
                    assert_eq!(member, held.member, "key {key} is in flight to one member");
                }
            }
        }
        for member in self.members.iter() {
            let has = self.held.iter().chain(&self.overdue).filter(|held| held.member == member.id);
            let events: u32 = has.map(|held| held.events.len()).sum();
            assert_eq!(events, member.in_flight, "all that it has not answered is counted");
            assert_eq!(member.lease + events, self.credit[&member.id], "and holds its credit");
        }
        let unsettled: BTreeSet<u64> =
            self.group.unsettled().iter().flat_map(|(start, end)| start.0..end.0).collect();
        let taken = self.owed.iter().filter(|at| !self.is_refused(**at)).copied().collect();
        assert_eq!(unsettled, taken, "what is owed is known, and nothing else");
    }

    fn is_refused(&self, at: u64) -> bool {
        self.refused.iter().any(|base| (*base..base + u64::from(self.bodies[base].0)).contains(&at))
    }

    /// No faults any more: everything must get through.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            self.now_us += 100;
            self.join();
            while self.refused.front().is_some_and(|_| self.group.is_open()) {
                let before = self.refused.len();
                self.offer();
                if self.refused.len() == before {
                    break;
                }
            }
            while !self.overdue.is_empty() {
                self.answer_late();
            }
            while !self.held.is_empty() {
                self.settle();
            }
            self.send_again();
            self.bury();
            self.check();
            if self.owed.is_empty() && self.refused.is_empty() {
                return;
            }
        }
        panic!("{} events were never delivered", self.owed.len());
    }
}

/// The heart of delivery: an event lost here is lost for ever, one sent twice at once or out of its key's order breaks
/// what financial users rely on.
#[test]
fn nothing_is_lost_doubled_or_overtaken() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
        }
        world.finish();
    }
}

/// Reading what cannot be sent keeps what could be from being sent: with two such batches far apart, each reading drops
/// what the other had read ahead, and the ready batch behind them never gets its turn.
#[test]
fn what_cannot_go_is_not_read_again() {
    let mut world = World::new(1);
    let slow = MemberId { shard: 0, slot: 1, life: 1 };
    let other = MemberId { shard: 1, slot: 1, life: 1 };
    world.members.join(slow, 1, Presence::Staying);
    world.members.join(other, 5, Presence::Staying);
    for keys in [&[Some(0)][..], &[Some(0), Some(1)], &[Some(0), Some(2)], &[Some(3)]] {
        let base = world.make_batch_of(keys);
        world.refused.push_back(base);
        world.offer();
    }
    assert_eq!(world.held.iter().filter(|held| held.member == slow).count(), 1, "key 0 is there");
    let last = world.held.last().unwrap().clone();
    assert_eq!((last.base, last.member), (5, other));
    let (selection, turn) = (Selection::All, world.turn());
    let base = Position(last.base);
    let settled = world.group.settle(
        base,
        last.delivery,
        &selection,
        Verdict::Retry,
        &mut world.members,
        turn,
    );
    assert!(!settled.is_stale);
    let mut later = world.turn();
    let next = world.group.next_idle(None, &mut Blocked::default(), &world.members, later);
    assert_eq!(next, None, "key 0 waits for its member, key 3 for its time");
    later.mono_us += 1_000;
    let next = world.group.next_idle(None, &mut Blocked::default(), &world.members, later);
    assert_eq!(next, Some(base), "only what can go is read");
}

/// A member that is late with one key must not lose another that came in the same batches: its events would go to a
/// second member while the first rightly works on them.
#[test]
fn only_the_late_key_moves() {
    let mut world = World::new(1);
    for slot in [1, 2] {
        world.members.join(MemberId { shard: 0, slot, life: 1 }, 10, Presence::Staying);
    }
    let mut offer = |keys: &[Option<u64>], now_us| {
        world.now_us = now_us;
        let base = world.make_batch_of(keys);
        world.refused.push_back(base);
        world.offer();
    };
    offer(&[Some(0)], 0);
    offer(&[Some(0)], 10);
    offer(&[Some(0), Some(1), None], 20);
    let (late, whole, part) = (&world.held[0], &world.held[1], &world.held[2]);
    assert!(late.member == whole.member && late.member == part.member, "key 0 is with one member");
    let (returned, events) = world.group.expire(5, &mut world.members, &RULES, true);
    assert!(returned.is_empty());
    assert_eq!(events, 3, "one event was late, two follow it");
    assert_eq!(world.group.in_flight(Position(whole.base), whole.delivery), None);
    let left = world.group.in_flight(Position(part.base), part.delivery).unwrap();
    assert_eq!(left.iter().collect::<Vec<_>>(), [1, 2]);
    let credit: u32 = world.members.iter().map(|member| member.lease + member.in_flight).sum();
    assert_eq!(credit, 20, "credit is kept");
}

/// A key whose member is not there must wait for it, and keep nothing else from those who are: a client that polls now and
/// then would else lose its keys between two polls, or the others theirs.
#[test]
fn divided_keys_wait_for_their_own_member() {
    let mut world = World::new(1);
    let part = |key: u64| key_hash(&format!("key-{key}")) % 2;
    let id = |slot: u32| MemberId { shard: 0, slot, life: 1 };
    let share = |own: u64| Presence::Sharing(KeyShare::new(move |part| part as u64 % 2 == own));
    let own: Vec<u64> = (0..40).filter(|key| part(*key) == 0).take(4).collect();
    let other = (0..40).find(|key| part(*key) == 1).unwrap();
    world.members.join(id(0), 20, share(0));
    for keys in [&[Some(other)][..], &[Some(own[0]), Some(other), None], &[Some(own[1])]] {
        let base = world.make_batch_of(keys);
        world.refused.push_back(base);
        world.offer();
    }
    assert!(world.refused.is_empty(), "a key that waits holds nothing up");
    let got = |world: &World, slot: u32| -> Vec<u64> {
        let held = world.held.iter().filter(|held| held.member == id(slot));
        held.flat_map(|held| held.events.iter().map(|index| held.base + u64::from(index))).collect()
    };
    assert_eq!(got(&world, 0), [1, 3, 4]);
    let next = world.group.next_idle(None, &mut Blocked::default(), &world.members, world.turn());
    assert_eq!(next, None, "what cannot go is not read");
    world.members.join(id(1), 20, share(1));
    world.send_again();
    assert_eq!(got(&world, 1), [0, 2], "in the order of their key");
    assert_eq!(got(&world, 0), [1, 3, 4]);
}

/// An event that no client was shown must not come nearer to the dead letters, nor wait as if it had failed.
#[test]
fn what_was_not_shown_spends_no_attempt() {
    let mut world = World::new(1);
    let id = |slot: u32| MemberId { shard: 0, slot, life: 1 };
    world.members.join(id(0), 5, Presence::Passing);
    let base = world.make_batch_of(&[Some(0), None]);
    world.refused.push_back(base);
    world.offer();
    // More often than there are attempts.
    for delivery in 1..=2 * RULES.attempts_max {
        let held = world.held.pop().unwrap();
        let turn = world.turn();
        let (all, unseen) = (Selection::All, Verdict::Unseen);
        let members = &mut world.members;
        let settled =
            world.group.settle(Position(base), held.delivery, &all, unseen, members, turn);
        assert_eq!((settled.events, settled.is_stale), (2, false));
        let (count, body) = world.bodies[&base].clone();
        let batch = BatchView { base: Position(base), count, body: &body };
        let (mut out, mut blocked) = (Vec::new(), Blocked::default());
        let mut hand = Hand { batch, members: &mut world.members, turn, out: &mut out };
        world.group.redeliver(&mut hand, &mut blocked);
        assert_eq!(out.iter().map(|sent| sent.attempt).collect::<Vec<_>>(), [1], "{delivery}");
        world.take(base, out);
    }
}

/// After a restart a copy may be due before the group has read what it owes: of the copy's key something may stand before it.
#[test]
fn a_copy_waits_until_all_before_it_is_known() {
    let mut log = GroupLog::default();
    let parked = Parked { key: 1, place: Position(5) };
    let copy = (Position(9), Box::from([parked]));
    log.resume_parked(copy, Bitmap::all(1), vec![(0, 1)], (1, 10));
    log.wake_parked(9, Position(6));
    assert!(!log.has_idle(), "it is not due");
    log.wake_parked(10, Position(5));
    assert!(!log.has_idle(), "what stands before it may be owed");
    log.wake_parked(10, Position(6));
    assert!(log.has_idle());
}

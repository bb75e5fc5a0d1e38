//! How events come back: settled, refused, timed out, left behind by a member, or given up.

use codec::ids::Position;

use super::{GroupLog, Returned, Settled, Turn};
use crate::group::flight::{Flight, Idle, Piece, Reason};
use crate::group::keys::{KeyHash, KeySet};
use crate::group::members::{Member, Members};
use crate::group::rules::Rules;
use crate::mail::MemberId;
use crate::selection::{Bitmap, Selection};
use crate::session::Verdict;

/// Events of a delivery that timed out and that its member has not answered: it still has them, so they hold its credit,
/// or a member that is stuck would be sent ever more.
#[derive(Clone, Debug)]
pub(super) struct Overdue {
    pub(super) member: MemberId,
    pub(super) events: Bitmap,
    /// What the delivery counts for, once all of it is overdue.
    pub(super) bytes: u32,
}

impl GroupLog {
    /// A member has settled events of a delivery.
    #[must_use]
    pub fn settle(
        &mut self,
        base: Position,
        delivery: u32,
        selection: &Selection,
        verdict: Verdict,
        members: &mut Members,
        turn: Turn<'_>,
    ) -> Settled {
        let mut returned = self.answered_late((base, delivery), selection, members);
        let in_flight = self.settle_piece(base, delivery, selection, verdict, members, turn);
        let is_stale = in_flight.is_none();
        let (more, events) = in_flight.unwrap_or_default();
        returned.extend(more);
        assert!(is_stale || events > 0, "what is settled was in flight");
        Settled { returned, events, is_stale }
    }

    /// The credit that goes home, and how many events it was; `None`: nothing of it is in flight.
    fn settle_piece(
        &mut self,
        base: Position,
        delivery: u32,
        selection: &Selection,
        verdict: Verdict,
        members: &mut Members,
        turn: Turn<'_>,
    ) -> Option<(Vec<Returned>, u32)> {
        let flight = self.flights.get_mut(base)?;
        let count = flight.count;
        let piece = flight.piece_mut(delivery)?;
        let whole = match (&piece.events, selection) {
            (_, Selection::All) => true,
            (events, Selection::Some(chosen)) => {
                let mut rest = events.to_bitmap(count);
                rest.subtract(chosen);
                rest.is_empty()
            }
        };
        if whole {
            let piece = flight.take(delivery).expect("found above");
            let events = piece.events.len(count);
            let returned = self.release(&piece, count, members);
            self.judged(base, piece, count, verdict, turn);
            self.flights.pop_settled();
            self.check();
            return Some((returned, events));
        }
        let part = split_off(piece, selection, count)?;
        let events = part.events.len(count);
        let returned = self.release_part(&part, count, members);
        self.judged(base, part, count, verdict, turn);
        self.check();
        Some((returned, events))
    }

    /// What becomes of events that are not in flight any more, after a member's verdict on them.
    fn judged(
        &mut self,
        base: Position,
        piece: Piece,
        count: u32,
        verdict: Verdict,
        turn: Turn<'_>,
    ) {
        match verdict {
            Verdict::Done => self.unpark(base, &piece.events.to_bitmap(count)),
            Verdict::Reject => {
                for part in by_attempt(piece, count) {
                    let (events, attempt) = (part.events.to_bitmap(count), part.attempt);
                    self.die(base, events, attempt, Reason::Rejected, turn.rules);
                }
            }
            Verdict::Retry => {
                let seed = base.0 ^ u64::from(piece.delivery) << 48;
                let delay = turn.rules.retry_delay(piece.attempt, seed);
                let not_before_us = turn.mono_us + delay;
                self.come_back(base, piece, count, (not_before_us, Reason::HandedBack), turn.rules);
                self.consider_parking(base, delay, turn.rules);
            }
            // Nobody has tried: no attempt is spent, and there is nothing to wait for.
            Verdict::Unseen => self.come_back_uncounted(base, piece, count),
        }
    }

    /// Events of a delivery in flight are settled, whoever says so. Returns the credit that goes home.
    pub(super) fn done_with(
        &mut self,
        base: Position,
        delivery: u32,
        events: &Bitmap,
        members: &mut Members,
    ) -> Vec<Returned> {
        let flight = self.flights.get_mut(base).expect("the caller has found it");
        let count = flight.count;
        let piece = flight.piece_mut(delivery).expect("the caller has found it");
        let mut rest = piece.events.to_bitmap(count);
        rest.subtract(events);
        if rest.is_empty() {
            let piece = flight.take(delivery).expect("found above");
            return self.release(&piece, count, members);
        }
        let part = split_off(piece, &Selection::Some(events.clone()), count);
        let part = part.expect("the caller has found some of its events");
        self.release_part(&part, count, members)
    }

    /// A member answers what has timed out: its credit for these events is free again.
    fn answered_late(
        &mut self,
        key: (Position, u32),
        selection: &Selection,
        members: &mut Members,
    ) -> Vec<Returned> {
        let Some(overdue) = self.overdue.get_mut(&key) else { return Vec::new() };
        let before = overdue.events.len();
        match selection {
            Selection::All => overdue.events = Bitmap::default(),
            Selection::Some(chosen) => overdue.events.subtract(chosen),
        }
        let answered = before - overdue.events.len();
        let member = members.get_mut(overdue.member).expect("what a member had goes with it");
        let returned = member.freed(answered);
        let id = member.id;
        if overdue.events.is_empty() {
            member.freed_bytes(overdue.bytes);
            self.overdue.remove(&key);
        }
        if returned == 0 { Vec::new() } else { vec![(id, returned)] }
    }

    /// Events of a delivery have timed out.
    fn note_overdue(
        &mut self,
        key: (Position, u32),
        late: Overdue,
        members: &mut Members,
    ) -> Vec<Returned> {
        assert!(!late.events.is_empty(), "something is late");
        // A group that reads a batch again numbers its deliveries again: nobody can tell the older one's answer then.
        let is_other = self.overdue.get(&key).is_some_and(|known| known.member != late.member);
        let returned = match is_other {
            true => self.answered_late(key, &Selection::All, members),
            false => Vec::new(),
        };
        match self.overdue.get_mut(&key) {
            Some(known) => {
                known.events.add(&late.events);
                known.bytes += late.bytes;
            }
            None => drop(self.overdue.insert(key, late)),
        }
        returned
    }

    /// A member has gone: all that was in flight to it is idle. `is_counted`: as an attempt that has failed.
    pub fn member_left(&mut self, member: &Member, rules: &Rules, is_counted: bool) {
        self.overdue.retain(|_, overdue| overdue.member != member.id);
        for (base, count, piece) in self.take_pieces(|piece, _| piece.member == member.id) {
            self.untrack(&piece, count);
            match is_counted {
                true => self.come_back(base, piece, count, (0, Reason::Disconnected), rules),
                false => self.come_back_uncounted(base, piece, count),
            }
        }
        self.flights.pop_settled();
        assert!(
            self.untracked == 0 || self.untracked_member != Some(member.id),
            "nothing is in flight to who has gone"
        );
        self.check();
    }

    /// Takes back every delivery that was sent at or before `sent_end_us`, and how many events that are. They hold their
    /// members' credit until they are answered; returns what is free all the same. `is_counted`: as attempts that have
    /// failed.
    pub fn expire(
        &mut self,
        sent_end_us: u64,
        members: &mut Members,
        rules: &Rules,
        is_counted: bool,
    ) -> (Vec<Returned>, u32) {
        if self.flights.is_empty() || self.oldest_sent_us > sent_end_us {
            return (Vec::new(), 0);
        }
        let is_late = |piece: &Piece| piece.sent_us <= sent_end_us;
        let late_pieces = self.flights.iter().flat_map(Flight::pieces).filter(|p| is_late(p));
        let late_keys: KeySet = late_pieces
            .flat_map(|piece| piece.keys.iter().flatten())
            .map(|(_, key)| *key)
            .collect();
        let follows = |piece: &Piece, count| {
            let keys = piece.keys.as_deref().unwrap_or_default();
            keys.len() as u32 == piece.events.len(count)
                && keys.iter().all(|(_, key)| late_keys.contains(key))
        };
        let late = self.take_pieces(|piece, count| is_late(piece) || follows(piece, count));
        let followers = self.take_keys(&late_keys);
        let sent = self.flights.iter().flat_map(Flight::pieces).map(|piece| piece.sent_us);
        self.oldest_sent_us = sent.min().unwrap_or(u64::MAX);
        assert!(self.oldest_sent_us > sent_end_us, "nothing that is late stays in flight");
        let mut returned = Vec::new();
        let mut events = 0;
        for (base, count, piece) in late.into_iter().chain(followers) {
            events += piece.events.len(count);
            self.untrack(&piece, count);
            let (member, bytes) = (piece.member, piece.bytes);
            let late = Overdue { member, events: piece.events.to_bitmap(count), bytes };
            returned.extend(self.note_overdue((base, piece.delivery), late, members));
            if is_counted && is_late(&piece) {
                self.come_back(base, piece, count, (0, Reason::TimedOut), rules);
            } else {
                // Taken along for its key, say: its own attempt is not over, so it does not count.
                self.come_back_uncounted(base, piece, count);
            }
        }
        self.flights.pop_settled();
        self.check();
        (returned, events)
    }

    /// Gives up the idle events of a batch that can no longer be read. Returns how many they were.
    pub fn forget(&mut self, base: Position) -> u32 {
        let given_up = self.take_idle(base);
        self.flights.pop_settled();
        self.check();
        given_up.iter().map(|(events, _)| events.len()).sum()
    }

    /// Takes out the idle events of a batch, each list with the number that its next attempt would have had.
    pub(super) fn take_idle(&mut self, base: Position) -> Vec<(Bitmap, u32)> {
        let flight = self.flights.get_mut(base).expect("idle batches are flights");
        let idle = std::mem::take(&mut flight.idle);
        for idle in &idle {
            match &idle.keys {
                Some(keys) => keys.iter().for_each(|(_, key)| self.keys.wait_over(*key)),
                None => {
                    assert!(self.unread > 0, "unknown keys are counted");
                    self.unread -= 1;
                }
            }
        }
        assert!(self.idle.remove(&base), "what is given up was idle");
        idle.iter().for_each(|idle| self.unpark(base, &idle.events));
        idle.into_iter().map(|idle| (idle.events, idle.attempt)).collect()
    }

    /// Takes out every piece that `chosen` accepts, with its batch's base and count.
    fn take_pieces(&mut self, chosen: impl Fn(&Piece, u32) -> bool) -> Vec<(Position, u32, Piece)> {
        let mut taken = Vec::new();
        for flight in self.flights.iter_mut() {
            let numbers: Vec<u32> = flight
                .pieces()
                .filter(|piece| chosen(piece, flight.count))
                .map(|piece| piece.delivery)
                .collect();
            for number in numbers {
                let piece = flight.take(number).expect("listed just now");
                taken.push((flight.base, flight.count, piece));
            }
        }
        taken
    }

    /// Takes the events in flight whose key is one of `keys` out of pieces that keep others: what follows a late event of its key
    /// goes with it, since the key must be free to move to another member. Other events of the piece stay where they
    /// are, or their keys would move although nobody is late with them.
    fn take_keys(&mut self, keys: &KeySet) -> Vec<(Position, u32, Piece)> {
        let mut taken = Vec::new();
        if keys.is_empty() {
            return taken;
        }
        for flight in self.flights.iter_mut() {
            let (base, count) = (flight.base, flight.count);
            for piece in flight.pieces_mut() {
                let mut events = Bitmap::default();
                let followers = piece.keys.iter().flatten().filter(|(_, key)| keys.contains(key));
                followers.for_each(|(index, _)| events.set(*index));
                let part = split_off(piece, &Selection::Some(events), count);
                taken.extend(part.map(|part| (base, count, part)));
            }
        }
        taken
    }

    /// Gives back all that a piece holds of its member.
    fn release(&mut self, piece: &Piece, count: u32, members: &mut Members) -> Vec<Returned> {
        let returned = self.release_part(piece, count, members);
        if let Some(member) = members.get_mut(piece.member) {
            member.freed_bytes(piece.bytes);
        }
        returned
    }

    fn release_part(&mut self, part: &Piece, count: u32, members: &mut Members) -> Vec<Returned> {
        self.untrack(part, count);
        let events = part.events.len(count);
        let Some(member) = members.get_mut(part.member) else { return Vec::new() };
        match member.freed(events) {
            0 => Vec::new(),
            returned => vec![(part.member, returned)],
        }
    }

    fn untrack(&mut self, piece: &Piece, count: u32) {
        match &piece.keys {
            Some(keys) => keys.iter().for_each(|(_, key)| self.keys.returned(*key)),
            None => {
                let events = piece.events.len(count);
                assert!(events <= self.untracked, "untracked events are counted");
                self.untracked -= events;
            }
        }
    }

    /// Events are idle again from a time on, unless this was their last attempt.
    fn come_back(
        &mut self,
        base: Position,
        piece: Piece,
        count: u32,
        (not_before_us, reason): (u64, Reason),
        rules: &Rules,
    ) {
        for piece in by_attempt(piece, count) {
            if piece.attempt >= rules.attempts_max {
                let events = piece.events.to_bitmap(count);
                self.die(base, events, piece.attempt, reason, rules);
            } else {
                let attempt = piece.attempt + 1;
                self.make_idle(base, piece, count, not_before_us, attempt);
            }
        }
    }

    /// Events are idle again at once, and what they came back from was no attempt.
    fn come_back_uncounted(&mut self, base: Position, piece: Piece, count: u32) {
        for part in by_attempt(piece, count) {
            let attempt = part.attempt;
            assert!(attempt > 0, "attempts count from 1");
            self.make_idle(base, part, count, 0, attempt);
        }
    }

    fn make_idle(
        &mut self,
        base: Position,
        piece: Piece,
        count: u32,
        not_before_us: u64,
        attempt: u32,
    ) {
        let known = piece.keys.is_some();
        for (_, key) in piece.keys.iter().flatten() {
            self.keys.wait(*key);
        }
        if !known {
            self.unread += 1;
        }
        let flight = self.flights.get_mut(base).expect("its piece came from it");
        assert!(piece.events.len(count) > 0 && flight.count == count, "a piece has events");
        flight.idle.push(Idle {
            events: piece.events.to_bitmap(count),
            attempt,
            not_before_us,
            keys: piece.keys,
            avoid: Some(piece.member),
        });
        self.idle.insert(base);
    }
}

/// Takes the selected events out of a piece that keeps others, and the batch's bytes. `None` if it has none of them.
fn split_off(piece: &mut Piece, selection: &Selection, count: u32) -> Option<Piece> {
    let all = piece.events.to_bitmap(count);
    let part = all.common(&selection.to_bitmap(count));
    if part.is_empty() {
        return None;
    }
    let mut rest = all;
    rest.subtract(&part);
    assert!(!rest.is_empty(), "a whole piece is taken, not split");
    let in_part = |(index, _): &(u32, KeyHash)| part.contains(*index);
    let keys = piece.keys.as_mut().map(|keys| {
        let taken: Vec<_> = keys.iter().copied().filter(in_part).collect();
        keys.retain(|key| !in_part(key));
        taken
    });
    piece.events = Selection::Some(rest);
    let Piece { delivery, member, attempt, sent_us, .. } = *piece;
    let (events, fewer) = (Selection::Some(part), piece.fewer.clone());
    Some(Piece { delivery, member, attempt, fewer, events, keys, bytes: 0, sent_us })
}

/// A piece cut by how often its events were delivered: one must not be exhausted by its neighbour's attempts.
fn by_attempt(mut piece: Piece, count: u32) -> Vec<Piece> {
    let fewer = std::mem::take(&mut piece.fewer);
    let mut parts = Vec::with_capacity(1 + fewer.len());
    for (events, attempt) in fewer {
        let all = piece.events.to_bitmap(count);
        if all.common(&events).len() == all.len() {
            piece.attempt = attempt;
            break;
        }
        let part = split_off(&mut piece, &Selection::Some(events), count);
        parts.extend(part.map(|part| Piece { attempt, ..part }));
    }
    parts.push(piece);
    parts
}

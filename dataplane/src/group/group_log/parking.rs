//! Events that wait long before they are tried again are parked: copied, with their state, to a topic of their group, and
//! settled where they stood when the copy is durable. The copy is a flight of its own from then on, apart from the window,
//! and is tried again from there. What stands behind a parked event in the line of its key waits for it, whether it is
//! parked too or not, since the place in the line goes along.

use codec::ids::Position;

use super::{BatchView, GroupLog, Returned, Settled, WAITING_KEYS_MAX, runs_of};
use crate::group::flight::{Dying, Fate, Flight, Idle, Parked};
use crate::group::keys::{KeyHash, own_key};
use crate::group::members::Members;
use crate::group::rules::Rules;
use crate::letter::Waiting;
use crate::options::FLIGHTS_MAX;
use crate::selection::Bitmap;

/// Most keys that parked events may block in one log; one that has no key counts as one. Beyond it the group takes no
/// more batches there.
pub const PARKED_KEYS_MAX: usize = 4_096;
/// Most parked events of a group in one log. Bounds memory and the cursor's record; what does not find room stays in the
/// window, which ends the taking of batches when it is full.
pub const PARKED_EVENTS_MAX: usize = 16_384;
/// Batches in the window from which on its first are parked if they wait for time, however short.
const WINDOW_PARKED_FROM: usize = FLIGHTS_MAX / 4 * 3;
/// The same of batches with idle events: these are passed over again and again.
const IDLE_PARKED_FROM: usize = 512;
/// Batches that one look at a crowded window marks.
const MARKED_MAX: usize = 1_024;

impl GroupLog {
    /// Parked events, those on their way there included.
    #[must_use]
    pub fn parked_events(&self) -> usize {
        self.keys.parked_events()
    }

    /// Keys whose events wait behind parked ones.
    #[must_use]
    pub fn parked_keys(&self) -> usize {
        self.keys.parked()
    }

    /// Whether parked events block so many keys that the group takes no more batches.
    #[must_use]
    pub fn is_stopped_by_parked(&self) -> bool {
        self.keys.parked() >= PARKED_KEYS_MAX
    }

    /// Copies of parked events that are owed: runs of positions, end exclusive, rising.
    #[must_use]
    pub fn parked_unsettled(&self) -> Vec<(Position, Position)> {
        runs_of(self.flights.parked())
    }

    /// How an event of a batch of copies waits; none: it is owed no more, or is no parked event.
    #[must_use]
    pub fn waits(&self, base: Position, index: u32, mono_us: u64) -> Option<Waiting> {
        let flight = self.flights.get(base)?;
        let Parked { key, place } = *flight.parked.as_ref()?.get(index as usize)?;
        let Some(idle) = flight.idle.iter().find(|idle| idle.events.contains(index)) else {
            let is_sent = flight.pieces().any(|piece| piece.events.contains(index));
            let leaves = flight.dying.iter().any(|dying| dying.events.contains(index));
            return (is_sent || leaves).then_some(Waiting::InFlight);
        };
        Some(if self.keys.is_behind_parked(key, place) {
            Waiting::BehindKey
        } else if idle.not_before_us > mono_us {
            Waiting::Delayed
        } else {
            Waiting::Due
        })
    }

    /// Events of a batch were handed back for so long.
    pub(super) fn consider_parking(&mut self, base: Position, delay_us: u64, rules: &Rules) {
        if delay_us > rules.park_after_us && self.idle.contains(&base) {
            self.to_park.entry(base).or_insert(false);
        }
    }

    /// A crowded window: its first batches that wait are marked, so that it moves on. Nothing to do for any other.
    pub fn look_at_window(&mut self, mono_us: u64) {
        let is_crowded = self.flights.len() >= WINDOW_PARKED_FROM
            || self.keys.waiting() >= WAITING_KEYS_MAX
            || self.idle.len() >= IDLE_PARKED_FROM;
        if !is_crowded || self.keys.parked_events() >= PARKED_EVENTS_MAX {
            return;
        }
        let first = self.idle.iter().take(MARKED_MAX);
        let is_meant = |base: &&Position| {
            let flight = self.flights.get(**base).expect("idle batches are flights");
            flight.parked.is_none()
                && flight.idle.iter().any(|idle| self.is_stuck(flight, idle, mono_us))
        };
        let meant: Vec<Position> = first.filter(is_meant).copied().collect();
        self.to_park.extend(meant.into_iter().map(|base| (base, true)));
    }

    /// Whether idle events wait for time, or behind parked ones.
    fn is_stuck(&self, flight: &Flight, idle: &Idle, mono_us: u64) -> bool {
        let is_behind =
            |(index, key): &(u32, KeyHash)| self.keys.is_behind_parked(*key, flight.place(*index));
        idle.not_before_us > mono_us || idle.keys.iter().flatten().any(is_behind)
    }

    /// The first batch with events that may have to be parked, to be read for [`GroupLog::park`].
    #[must_use]
    pub fn next_to_park(&self) -> Option<Position> {
        self.to_park.first_key_value().map(|(base, _)| *base)
    }

    /// Nothing of this batch is parked now.
    pub fn not_parked(&mut self, base: Position) {
        self.to_park.remove(&base);
    }

    /// Events of a batch at hand that wait for long, or in a crowded window for any time, are on their way to the parked
    /// ones, as far as there is room.
    pub fn park(&mut self, batch: &BatchView<'_>, mono_us: u64, rules: &Rules) {
        let Some(at_once) = self.to_park.remove(&batch.base) else { return };
        let Some(flight) = self.flights.get_mut(batch.base) else { return };
        let owed = flight.owed_events();
        let idle = std::mem::take(&mut flight.idle);
        let mut stays = Vec::new();
        for mut idle in idle {
            self.learn_keys(batch, &mut idle);
            let wait_us = idle.not_before_us.saturating_sub(mono_us);
            let is_long = wait_us > rules.park_after_us || (at_once && wait_us > 0);
            let chosen = self.chosen(batch.base, &idle, is_long, at_once);
            stays.extend(self.split_parked(batch.base, idle, &chosen));
        }
        let flight = self.flights.get_mut(batch.base).expect("it kept its place");
        flight.idle = stays;
        assert!(flight.owed_events() == owed, "what is to be parked is owed");
        if flight.idle.is_empty() {
            self.idle.remove(&batch.base);
        }
        self.check();
    }

    /// Which of these idle events are parked: all when they wait for long, else those that stand behind a parked one in a
    /// crowded window.
    fn chosen(&self, base: Position, idle: &Idle, is_long: bool, at_once: bool) -> Bitmap {
        let flight = self.flights.get(base).expect("idle events are a flight's");
        let mut room = PARKED_EVENTS_MAX.saturating_sub(self.keys.parked_events());
        let mut keys_room = PARKED_KEYS_MAX.saturating_sub(self.keys.parked());
        let mut keys = idle.keys.iter().flatten().copied().peekable();
        let mut chosen = Bitmap::none(flight.count);
        for index in idle.events.iter() {
            let key = keys.next_if(|(at, _)| *at == index).map(|(_, key)| key);
            let place = flight.place(index);
            let is_behind =
                at_once && key.is_some_and(|key| self.keys.is_behind_parked(key, place));
            let is_new = key.is_none_or(|key| !self.keys.is_parked(key));
            if room > 0 && (is_behind || (is_long && (!is_new || keys_room > 0))) {
                chosen.set(index);
                room -= 1;
                keys_room -= usize::from(is_new && keys_room > 0);
            }
        }
        chosen
    }

    /// Takes the chosen events out of idle ones; what is left of them stays.
    fn split_parked(&mut self, base: Position, mut idle: Idle, chosen: &Bitmap) -> Option<Idle> {
        if chosen.is_empty() {
            return Some(idle);
        }
        let keys = idle.keys.take().expect("they were learned");
        let (parked, kept): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|(index, _)| chosen.contains(*index));
        let flight = self.flights.get_mut(base).expect("idle events are a flight's");
        let named = named(flight, chosen, &parked);
        flight.dying.push(Dying {
            events: chosen.clone(),
            attempts: idle.attempt - 1,
            fate: Fate::Parked { due_us: idle.not_before_us, keys: parked.clone() },
            burial: None,
        });
        self.dying.insert(base);
        parked.iter().for_each(|(_, key)| self.keys.wait_over(*key));
        named.iter().for_each(|(_, parked)| self.keys.park(parked.key, parked.place));
        idle.events.subtract(chosen);
        idle.keys = Some(kept);
        (!idle.events.is_empty()).then_some(idle)
    }

    /// The copies of append number `burial` are durable from `copy` on: their originals are settled, and they are owed
    /// instead. Returns how many they are; 0 if nobody owes them any more.
    pub fn parked(&mut self, base: Position, burial: u64, copy: Position) -> u32 {
        let Some(flight) = self.flights.get_mut(base) else { return 0 };
        let is_it = |dying: &mut Dying| dying.burial == Some(burial);
        let Some(dying) = flight.dying.extract_if(.., is_it).next() else { return 0 };
        let Fate::Parked { due_us, keys } = &dying.fate else {
            unreachable!("append {burial} was begun for parked events")
        };
        let named = named(flight, &dying.events, keys);
        self.flights.pop_settled();
        let count = named.len() as u32;
        let keyed = |(at, (index, _)): (u32, &(u32, Parked))| {
            let (_, key) = keys.iter().find(|(of, _)| of == index)?;
            Some((at, *key))
        };
        let idle_keys = (0..).zip(&named).filter_map(keyed).collect();
        let parked: Box<[Parked]> = named.iter().map(|(_, parked)| *parked).collect();
        let events = Bitmap::all(count);
        self.resume_parked((copy, parked), events, idle_keys, (dying.attempts, *due_us));
        count
    }

    /// After a kill an event may stand here although its copy is durable: the copy is what is owed.
    pub(super) fn leave_out_parked(
        &self,
        batch: &BatchView<'_>,
        eligible: &mut Bitmap,
        keys: &mut Vec<(u32, KeyHash)>,
    ) {
        let mut parked = Bitmap::none(batch.count);
        let mut named = keys.iter().copied().peekable();
        for index in eligible.iter() {
            let place = batch.base.plus(u64::from(index));
            let key = named.next_if(|(at, _)| *at == index).map(|(_, key)| key);
            if self.keys.is_parked_at(key.unwrap_or_else(|| own_key(place)), place) {
                parked.set(index);
            }
        }
        eligible.subtract(&parked);
        keys.retain(|(index, _)| !parked.contains(*index));
    }

    /// After a restart: of the copies of these events only the newest, with all their attempts, are owed.
    pub fn leave_out_older(&mut self, newer: &[Parked], members: &mut Members) -> Vec<Returned> {
        let mut settled = Settled::default();
        for event in newer {
            if !self.keys.is_parked_at(event.key, event.place) {
                continue;
            }
            let index_in = |flight: &Flight| {
                let at = flight.parked.iter().flatten().position(|known| known == event)?;
                Some((flight.base, at as u32)).filter(|_| flight.owed().contains(at as u32))
            };
            let found = self.flights.parked().find_map(index_in);
            if let Some((base, index)) = found {
                let mut one = Bitmap::default();
                one.set(index);
                self.settle_in(base, &one, members, &mut settled);
            }
        }
        self.flights.pop_settled();
        self.check();
        settled.returned
    }

    /// Events of a batch of copies that are owed are tried again at a time on the monotonic clock. `keys` are those of the
    /// events that have one.
    pub fn resume_parked(
        &mut self,
        (copy, parked): (Position, Box<[Parked]>),
        events: Bitmap,
        keys: Vec<(u32, KeyHash)>,
        (attempts, due_us): (u32, u64),
    ) {
        assert!(!events.is_empty(), "some copy is owed");
        for index in events.iter() {
            let Parked { key, place } = parked[index as usize];
            self.keys.park(key, place);
        }
        let mut flight = Flight::of_parked(copy, parked);
        let attempt = attempts.saturating_add(1);
        let (keys, avoid) = (Some(keys), None);
        flight.idle.push(Idle { events, attempt, not_before_us: due_us, keys, avoid });
        self.resting.insert((due_us, copy));
        self.flights.push(flight);
        self.check();
    }

    /// Parked events whose time has come are idle like others, unless they stand behind parked ones. Nothing to do before
    /// the first is due. `next` is the group's next position: after a restart what is owed from there on is not known yet,
    /// and a copy with a place behind it could overtake an event of its key. A group that has stopped for its parked
    /// events gets there only by them.
    pub fn wake_parked(&mut self, mono_us: u64, next: Position) {
        let is_stopped = self.is_stopped_by_parked();
        let last_place = |base: Position| {
            let flight = self.flights.get(base).expect("who rests is owed");
            flight.parked.iter().flatten().map(|parked| parked.place).max()
        };
        let is_known = |base| is_stopped || last_place(base).is_none_or(|place| place < next);
        let due = self.resting.range(..=(mono_us, Position(u64::MAX)));
        let due: Vec<_> = due.filter(|(_, base)| is_known(*base)).copied().collect();
        for (due_us, base) in due {
            self.resting.remove(&(due_us, base));
            let flight = self.flights.get(base).expect("who rests is owed");
            let owed = || flight.idle.iter().flat_map(|idle| idle.keys.iter().flatten());
            let events: u32 = flight.idle.iter().map(|idle| idle.events.len()).sum();
            let is_behind = |(index, key): &(u32, KeyHash)| {
                self.keys.is_behind_parked(*key, flight.place(*index))
            };
            let first = owed().next().map(|(index, key)| (*key, flight.place(*index)));
            match first {
                Some((key, place)) if owed().count() as u32 == events && owed().all(is_behind) => {
                    self.following.entry(key).or_default().insert((place, base));
                }
                _ => self.wake(base),
            }
        }
    }

    /// A batch of parked events is idle like others.
    fn wake(&mut self, base: Position) {
        let flight = self.flights.get(base).expect("who rests is owed");
        for (_, key) in flight.idle.iter().flat_map(|idle| idle.keys.iter().flatten()) {
            self.keys.wait(*key);
        }
        let is_new = self.idle.insert(base);
        assert!(is_new, "who rests is not idle");
    }

    /// A parked event is owed no more: those that stand next behind it may go.
    fn wake_followers(&mut self, key: KeyHash) {
        while let Some(of_key) = self.following.get_mut(&key) {
            let Some((place, base)) = of_key.first().copied() else {
                self.following.remove(&key);
                return;
            };
            if self.keys.is_behind_parked(key, place) {
                return;
            }
            of_key.pop_first();
            self.wake(base);
        }
    }

    /// Somebody has to do with a batch of parked events before it is due.
    pub(super) fn rouse(&mut self, base: Position) {
        let mut resting = self.resting.iter();
        if let Some(at) = resting.find(|(_, resting)| *resting == base).copied() {
            self.resting.remove(&at);
            return self.wake(base);
        }
        let mut was_following = false;
        for of_key in self.following.values_mut() {
            was_following |= of_key.extract_if(.., |(_, following)| *following == base).count() > 0;
        }
        if was_following {
            self.wake(base);
        }
    }

    /// An event's place in the line of its key.
    #[must_use]
    pub fn place(&self, base: Position, index: u32) -> Position {
        self.flights.get(base).expect("the caller has found it").place(index)
    }

    /// Of events on their way to the parked ones the first cannot be copied: it stays idle where it is.
    pub fn cannot_be_parked(&mut self, base: Position) {
        let (_, first) = self.next_dying(None).expect("the caller has found it");
        let index = first.events.iter().next().expect("some event dies");
        let mut one = Bitmap::default();
        one.set(index);
        // Numbered so that it is found again; no append has this number.
        self.begin_burial(base, &one, u64::MAX);
        let flight = self.flights.get_mut(base).expect("its events are owed");
        let is_it = |dying: &mut Dying| dying.burial == Some(u64::MAX);
        let dying = flight.dying.extract_if(.., is_it).next().expect("numbered just now");
        if flight.parked.is_none() {
            self.unpark_dying(base, &dying);
        }
        let Fate::Parked { due_us, keys } = dying.fate else {
            unreachable!("the caller wanted to park it")
        };
        keys.iter().for_each(|(_, key)| self.keys.wait(*key));
        let (attempt, keys, avoid) = (dying.attempts + 1, Some(keys), None);
        let idle = Idle { events: one, attempt, not_before_us: due_us, keys, avoid };
        let flight = self.flights.get_mut(base).expect("its events are owed");
        flight.idle.push(idle);
        self.idle.insert(base);
        self.check();
    }

    /// Whether the batch at `base` is one of parked events that are owed.
    #[must_use]
    pub fn is_parked(&self, base: Position) -> bool {
        self.flights.get(base).is_some_and(|flight| flight.parked.is_some())
    }

    /// Events of a batch are not owed any more, or not here: nothing waits for those of them that were parked.
    pub(super) fn unpark(&mut self, base: Position, events: &Bitmap) {
        if self.keys.parked() == 0 {
            return;
        }
        let Some(parked) = self.flights.get(base).and_then(|flight| flight.parked.as_ref()) else {
            return;
        };
        let mut freed = Vec::new();
        for index in events.iter() {
            let Parked { key, place } = parked[index as usize];
            self.keys.unpark(key, place);
            freed.push(key);
        }
        freed.into_iter().for_each(|key| self.wake_followers(key));
    }

    /// Events on their way to the parked ones are lost.
    pub(super) fn unpark_dying(&mut self, base: Position, dying: &Dying) {
        let Fate::Parked { keys, .. } = &dying.fate else { return };
        let flight = self.flights.get(base).expect("the caller has found it");
        for (_, parked) in named(flight, &dying.events, keys) {
            self.keys.unpark(parked.key, parked.place);
            self.wake_followers(parked.key);
        }
    }
}

/// What these events of a batch stand for, by index.
fn named(flight: &Flight, events: &Bitmap, keys: &[(u32, KeyHash)]) -> Vec<(u32, Parked)> {
    let mut keys = keys.iter().copied().peekable();
    let of = |index: u32| {
        let place = flight.place(index);
        let key = keys.next_if(|(at, _)| *at == index).map(|(_, key)| key);
        (index, Parked { key: key.unwrap_or_else(|| own_key(place)), place })
    };
    events.iter().map(of).collect()
}

//! How events leave their batch for another: they are not delivered any more, or are parked ([`super::parking`]). Those that
//! die are brought to the dead letters by an append, and are settled when that has become durable. Their keys are free from
//! the moment they die: they are never sent again, so nothing can overtake them.

use codec::ids::Position;

use super::{BatchView, GroupLog, Offered};
use crate::group::flight::{Dying, Fate, Flight, Reason};
use crate::group::rules::Rules;
use crate::selection::{Bitmap, Selection};

impl GroupLog {
    /// Whether something is to be brought to the dead letters, or to be parked.
    #[must_use]
    pub fn has_dying(&self) -> bool {
        !self.dying.is_empty() || !self.to_park.is_empty()
    }

    /// Events that were exhausted and dropped since the last call.
    pub fn take_dropped(&mut self) -> u32 {
        std::mem::take(&mut self.dropped)
    }

    /// Takes a batch at hand whose events are never to be sent. `eligible` are the events that the group would have got.
    pub fn offer_dying(
        &mut self,
        batch: &BatchView<'_>,
        eligible: &Selection,
        reason: Reason,
        rules: &Rules,
    ) -> Offered {
        if !self.is_open() {
            return Offered::Refused;
        }
        let BatchView { base, count, .. } = *batch;
        assert!(eligible.len(count) > 0, "what is offered has events");
        let mut events = eligible.to_bitmap(count);
        if self.keys.parked() > 0 {
            // The copy is what is owed, and dies by itself.
            let mut keys = batch.keys_of(&events);
            self.leave_out_parked(batch, &mut events, &mut keys);
            if events.is_empty() {
                return Offered::Taken;
            }
        }
        self.flights.push(Flight::new(base, count));
        self.die(base, events, 0, reason, rules);
        self.flights.pop_settled();
        self.check();
        Offered::Taken
    }

    /// The idle events of a batch are not to be sent again.
    pub fn give_up(&mut self, base: Position, reason: Reason, rules: &Rules) {
        for (events, attempt) in self.take_idle(base) {
            self.die(base, events, attempt - 1, reason, rules);
        }
        self.flights.pop_settled();
        self.check();
    }

    /// Events of a flight, which are neither in flight nor idle any more, are not to be sent again.
    pub(super) fn die(
        &mut self,
        base: Position,
        events: Bitmap,
        attempts: u32,
        reason: Reason,
        rules: &Rules,
    ) {
        assert!(!events.is_empty(), "some event dies");
        self.unpark(base, &events);
        if rules.drops {
            self.dropped += events.len();
            return;
        }
        let flight = self.flights.get_mut(base).expect("its events came from it");
        assert!(flight.owed().common(&events).is_empty(), "an event that dies is nowhere else");
        flight.dying.push(Dying { events, attempts, fate: Fate::Dead(reason), burial: None });
        self.dying.insert(base);
    }

    /// The first batch behind `after` with events to be brought elsewhere, and the first of these.
    #[must_use]
    pub fn next_dying(&self, after: Option<Position>) -> Option<(Position, &Dying)> {
        let from = after.map_or(Position(0), |after| after.plus(1));
        let base = *self.dying.range(from..).next()?;
        let flight = self.flights.get(base).expect("dying events are a flight's");
        let first = flight.dying.iter().find(|dying| dying.burial.is_none());
        Some((base, first.expect("the batch waits for them")))
    }

    /// The append number `burial` is under way with `events`, all of them of the first list of
    /// [`GroupLog::next_dying`]; what it leaves over waits on.
    pub fn begin_burial(&mut self, base: Position, events: &Bitmap, burial: u64) {
        let flight = self.flights.get_mut(base).expect("dying events are a flight's");
        let first = flight.dying.iter_mut().find(|dying| dying.burial.is_none());
        let first = first.expect("the batch waits for them");
        let known = first.events.common(events).len();
        assert!(known > 0 && known == events.len(), "only what dies is buried");
        let mut rest = first.clone();
        rest.events.subtract(events);
        first.events = events.clone();
        first.burial = Some(burial);
        if let (Fate::Parked { keys, .. }, Fate::Parked { keys: left, .. }) =
            (&mut first.fate, &mut rest.fate)
        {
            keys.retain(|(index, _)| events.contains(*index));
            left.retain(|(index, _)| !events.contains(*index));
        }
        if !rest.events.is_empty() {
            flight.dying.push(rest);
        }
        if flight.dying.iter().all(|dying| dying.burial.is_some()) {
            self.dying.remove(&base);
        }
        self.check();
    }

    /// An append has become durable: its events are settled. Returns how many they were; 0 if nobody owes them any more.
    pub fn buried(&mut self, base: Position, burial: u64) -> u32 {
        let Some(flight) = self.flights.get_mut(base) else { return 0 };
        let owed = flight.owed_events();
        flight.dying.retain(|dying| dying.burial != Some(burial));
        let settled = owed - flight.owed_events();
        self.flights.pop_settled();
        self.check();
        settled
    }

    /// An append has come to nothing: its events wait again.
    pub fn not_buried(&mut self, base: Position, burial: u64) {
        let Some(flight) = self.flights.get_mut(base) else { return };
        let known = flight.dying.iter_mut().find(|dying| dying.burial == Some(burial));
        if let Some(dying) = known {
            dying.burial = None;
            self.dying.insert(base);
        }
        self.check();
    }

    /// Gives up the events of a batch that can no longer be read, whose append is not under way. Returns how many.
    pub fn forget_leaving(&mut self, base: Position) -> u32 {
        self.not_parked(base);
        if !self.dying.remove(&base) {
            // It was only to be looked at: whoever delivers it again finds that it is gone.
            return 0;
        }
        let flight = self.flights.get_mut(base).expect("dying events are a flight's");
        let owed = flight.owed_events();
        let lost = flight.dying.extract_if(.., |dying| dying.burial.is_none());
        let lost: Vec<Dying> = lost.collect();
        let given_up = owed - flight.owed_events();
        lost.iter().for_each(|dying| self.unpark_dying(base, dying));
        self.flights.pop_settled();
        self.check();
        given_up
    }
}

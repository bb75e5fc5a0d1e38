//! What a subscriber says that it has read, by place: settled wherever it is by now, in flight to anybody or idle.

use codec::ids::Position;

use super::{GroupLog, Settled};
use crate::group::flight::Idle;
use crate::group::members::Members;
use crate::selection::{Bitmap, Selection};

impl GroupLog {
    /// Settles every event of these runs of positions that is owed. Runs end exclusive and rise.
    #[must_use]
    pub fn settle_read(&mut self, runs: &[(Position, Position)], members: &mut Members) -> Settled {
        let mut settled = Settled::default();
        for base in self.bases_in(runs) {
            let Some(flight) = self.flights.get(base) else { continue };
            // What dies is given up: it is on its way to the dead letters, and stays so.
            let mut owed = flight.owed();
            flight.dying.iter().for_each(|dying| owed.subtract(&dying.events));
            let mut read = Bitmap::none(flight.count);
            let at = |index: u32| base.plus(u64::from(index));
            let is_read = |index: &u32| {
                let after = runs.partition_point(|(_, end)| *end <= at(*index));
                runs.get(after).is_some_and(|(start, _)| *start <= at(*index))
            };
            owed.iter().filter(is_read).for_each(|index| read.set(index));
            if !read.is_empty() {
                settled.events += read.len();
                self.unpark(base, &read);
                self.settle_in(base, &read, members, &mut settled);
            }
        }
        self.flights.pop_settled();
        self.check();
        settled
    }

    /// Batches that are not settled and have a place in one of the runs.
    fn bases_in(&self, runs: &[(Position, Position)]) -> Vec<Position> {
        let touches = |base: Position, count: u32| {
            let after = runs.partition_point(|(_, end)| *end <= base);
            let end = base.plus(u64::from(count));
            runs.get(after).is_some_and(|(start, _)| *start < end)
        };
        let flights = self.flights.iter().filter(|flight| !flight.is_settled());
        let flights = flights.filter(|flight| touches(flight.base, flight.count));
        flights.map(|flight| flight.base).collect()
    }

    /// Settles these events of one batch, all of them owed.
    pub(super) fn settle_in(
        &mut self,
        base: Position,
        read: &Bitmap,
        members: &mut Members,
        settled: &mut Settled,
    ) {
        self.rouse(base);
        let flight = self.flights.get_mut(base).expect("the caller has found it");
        let count = flight.count;
        let owed = flight.owed_events();
        let touched = |events: &Selection| !events.to_bitmap(count).common(read).is_empty();
        let pieces = flight.pieces().filter(|piece| touched(&piece.events));
        let pieces: Vec<u32> = pieces.map(|piece| piece.delivery).collect();
        let idle = std::mem::take(&mut flight.idle);
        for delivery in pieces {
            settled.returned.extend(self.done_with(base, delivery, read, members));
        }
        let idle: Vec<Idle> = idle.into_iter().filter_map(|idle| self.less(idle, read)).collect();
        let flight = self.flights.get_mut(base).expect("it kept its place");
        flight.idle = idle;
        assert!(flight.owed_events() + read.len() == owed, "what was read was owed");
        if flight.idle.is_empty() {
            self.idle.remove(&base);
        }
    }

    /// Idle events without those that were read; `None` if none is left.
    fn less(&mut self, mut idle: Idle, read: &Bitmap) -> Option<Idle> {
        let is_read = |(index, _): &(u32, _)| read.contains(*index);
        for (_, key) in idle.keys.iter().flatten().copied().filter(|key| is_read(key)) {
            self.keys.wait_over(key);
        }
        if let Some(keys) = &mut idle.keys {
            keys.retain(|key| !is_read(key));
        }
        idle.events.subtract(read);
        if !idle.events.is_empty() {
            return Some(idle);
        }
        if idle.keys.is_none() {
            assert!(self.unread > 0, "unknown keys are counted");
            self.unread -= 1;
        }
        None
    }
}

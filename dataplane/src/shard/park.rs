//! Parking: events that wait for long are copied to their group's topic of parked events, in this log, and go on from there
//! ([`crate::group::group_log`]). The copies that are owed have a cursor of their own, under a number made of the group's;
//! after a restart they are found again by it before the group is given anything of the log. An event is parked only in the
//! log that takes events now: logs of earlier generations come to an end by themselves.

use codec::ids::Position;
use log::batch::{NoAppend, StoredBatch};
use log::cursor::{Cursor, CursorMark};
use log::log::Log;
use log::reader::{ReadStep, Reader, Wanted};
use routing::internal_topics::parking_topic;
use routing::subscription::GroupId;

use crate::group::flight::{Fate, Parked};
use crate::group::group_log::parking::PARKED_KEYS_MAX;
use crate::kernel::Kernel;
use crate::letter::Waiting;
use crate::parked::{Wait, parked_copies, resumed};
use crate::selection::Bitmap;
use crate::shard::Shard;
use crate::shard::bury::REFUSED_RETRY_US;
use crate::shard::deliver::{READ_RETRY_US, TurnEnd, view_of};
use crate::shard::errands::Errand;
use crate::shard::letters::take_range;

/// Set in the numbers of cursors that are of parked events; groups are numbered from 1.
const PARKED_BIT: u64 = 1 << 62;
/// How soon it is looked again whether parking may begin: its first cursor is on its way to the disk.
const BEGIN_RETRY_US: u64 = 10_000;
/// Batches of copies that one turn reads after a restart.
const FOUND_PER_TURN: u32 = 64;

/// The number of the cursor of a group's parked events.
#[must_use]
pub fn parked_number(group: GroupId) -> u64 {
    assert!(group.0 & PARKED_BIT == 0, "groups are numbered from 1");
    group.0 | PARKED_BIT
}

/// The group of a cursor, whichever of its two it is.
pub(super) fn group_of(number: u64) -> GroupId {
    GroupId(number & !PARKED_BIT)
}

/// A group's parked events in one log, beside those that are flights.
#[derive(Debug, Default)]
pub(super) struct ParkedPlace {
    /// Behind the last copy. `None`: the group has never parked anything here.
    next: Option<Position>,
    /// The first cursor, which must be durable before anything is parked.
    begun: CursorMark,
    /// After a restart: copies that are owed, as long as some are yet to be found.
    found: Option<Box<Finding>>,
}

#[derive(Debug)]
struct Finding {
    cursor: Cursor,
    reader: Reader,
    end: Position,
}

impl ParkedPlace {
    /// What a log knows of a group as it is opened.
    pub(super) fn resume(group: GroupId, log: &Log) -> Self {
        let Some(cursor) = log.cursor(parked_number(group)).cloned() else {
            return ParkedPlace::default();
        };
        let (start, end) = (log.positions().start(), log.positions().end());
        let first = cursor.low().max(start).min(end);
        let next = Some(cursor.next);
        let found = Some(Box::new(Finding { cursor, reader: Reader::new(first), end }));
        ParkedPlace { next, begun: CursorMark::default(), found }
    }

    /// Whether all copies that are owed are flights.
    pub(super) fn is_known(&self) -> bool {
        self.found.is_none()
    }

    /// Copies that are owed and not found yet, at most.
    pub(super) fn unfound(&self) -> u64 {
        let runs = self.found.iter().flat_map(|found| &found.cursor.unsettled);
        runs.map(|(start, end)| end.0 - start.0).sum()
    }

    /// The first copy that may be owed, of those that are yet to be found; none: all are flights.
    fn first_unfound(&self) -> Option<Position> {
        self.found.as_ref().map(|found| found.cursor.low())
    }

    /// Whether a copy is owed and yet to be found.
    fn is_unfound(&self, at: Position) -> bool {
        let Some(found) = &self.found else { return false };
        let mut runs = found.cursor.unsettled.iter();
        at >= found.reader.position() && runs.any(|(start, end)| *start <= at && at < *end)
    }

    /// The cursor as it is to be kept; none: as it is.
    pub(super) fn cursor(
        &self,
        unsettled: impl FnOnce() -> Vec<(Position, Position)>,
    ) -> Option<Cursor> {
        let next = self.next.filter(|_| self.is_known())?;
        Some(Cursor { next, unsettled: unsettled(), starts: Vec::new() })
    }
}

impl Shard {
    /// The next batch with events that leave it: for the dead letters, or for the parked events.
    pub(super) fn next_leaving(
        &mut self,
        id: GroupId,
        log: usize,
    ) -> Result<Option<Position>, TurnEnd> {
        let is_active = log == self.active_index();
        let group = self.groups.get_mut(&id).expect("it has its turn");
        let (durable, place) = (group.durable, &mut group.places[log]);
        if let Some((base, _)) = place.log.next_dying(None) {
            return Ok(Some(base));
        }
        while let Some(base) = place.log.next_to_park() {
            if !is_active || !durable {
                place.log.not_parked(base);
                continue;
            }
            if place.parked.next.is_none() {
                let next = self.logs[log].positions().end();
                let cursor = Cursor { next, ..Cursor::default() };
                place.parked.begun = self.logs[log].put_cursor(parked_number(id), cursor);
                place.parked.next = Some(next);
            }
            if place.parked.begun <= self.logs[log].durable_cursor_mark() {
                return Ok(Some(base));
            }
            return Err(TurnEnd::Later(self.now.mono_us + BEGIN_RETRY_US));
        }
        Ok(None)
    }

    /// Where the first copy that is owed may stand; none: the group has none in that log.
    pub(super) fn first_parked(&self, id: GroupId, log: usize) -> Option<Position> {
        let place = &self.groups.get(&id)?.places[log];
        place.parked.next?;
        let owed = place.log.parked_unsettled();
        let first = owed.first().map(|(start, _)| *start);
        [first, place.parked.first_unfound()].into_iter().flatten().min()
    }

    /// How a copy waits; none: it is over, as the wait that went on in another copy is.
    pub(super) fn parked_waits(
        &self,
        id: GroupId,
        log: usize,
        base: Position,
        index: u32,
    ) -> Option<Waiting> {
        let place = &self.groups.get(&id)?.places[log];
        let waiting = place.log.waits(base, index, self.now.mono_us);
        let is_unfound = place.parked.is_unfound(base.plus(u64::from(index)));
        waiting.or(is_unfound.then_some(Waiting::Delayed))
    }

    /// Brings the first events of a batch that leave it to where they go.
    pub(super) fn take_away(
        &mut self,
        id: GroupId,
        log: usize,
        batch: &StoredBatch,
    ) -> Result<(), NoAppend> {
        let (base, mono_us) = (batch.header.base_position, self.now.mono_us);
        let group = self.groups.get_mut(&id).expect("it has its turn");
        let of = &mut group.places[log].log;
        if of.next_dying(None).is_none() {
            of.park(&view_of(batch), mono_us, &group.rules);
        }
        match of.next_dying(None) {
            Some((at, dying)) if at == base => match dying.fate {
                Fate::Dead(_) => self.bury_batch(id, log, batch),
                Fate::Parked { due_us, .. } => self.park_batch(id, log, batch, due_us),
            },
            _ => Ok(()),
        }
    }

    /// Appends copies of the first events of a batch that are to be parked.
    fn park_batch(
        &mut self,
        id: GroupId,
        log: usize,
        batch: &StoredBatch,
        due_us: u64,
    ) -> Result<(), NoAppend> {
        let base = batch.header.base_position;
        let name = self.logs[log].topic_name(batch.header.topic).expect("a log knows its topics");
        let group = &self.groups[&id];
        let of = &group.places[log].log;
        let (_, dying) = of.next_dying(None).expect("it has its turn for it");
        let wait_us = due_us.saturating_sub(self.now.mono_us);
        let next = codec::ids::Timestamp(self.now.wall.0.saturating_add(wait_us));
        let wait = Wait { attempts: dying.attempts, next };
        let place = |index| of.place(base, index);
        let copies = parked_copies(batch, name, &dying.events, place, wait);
        let topic = parking_topic(&group.name());
        let Some((bytes, events)) = copies else {
            let group = self.groups.get_mut(&id).expect("it has its turn");
            group.places[log].log.cannot_be_parked(base);
            return Ok(());
        };
        let number = self.errands.next();
        self.append_own(&topic, &bytes, Errand::Parking { group: id, log, base })?;
        let group = self.groups.get_mut(&id).expect("it has its turn");
        group.places[log].log.begin_burial(base, &events, number);
        tracing::debug!(group = id.0, events = events.len(), wait_us, "parked");
        Ok(())
    }

    /// Copies are durable, from `copy` on: their originals are settled. `None`: they are not; it is tried again.
    pub(super) fn parking_done(
        &mut self,
        (id, log, base): (GroupId, usize, Position),
        number: u64,
        copy: Option<Position>,
    ) {
        // The group may have ended meanwhile, or have been moved to another place.
        let Some(group) = self.groups.get_mut(&id) else { return };
        let place = &mut group.places[log];
        let Some(copy) = copy else {
            place.log.not_buried(base, number);
            self.retry_read_at(self.now.mono_us + REFUSED_RETRY_US, id);
            return;
        };
        let count = place.log.parked(base, number, copy);
        let next = place.parked.next.expect("parking begins with a cursor");
        place.parked.next = Some(next.max(copy.plus(u64::from(count))));
        self.stats.parked_events += u64::from(count);
        self.watch(id);
        self.note_moved(id);
        self.wake_lagging(id);
        self.wake_idle(id);
    }

    /// After a restart: finds the copies that are owed again, a bounded number a turn. `None`: all are found.
    pub(super) fn find_parked<K: Kernel>(
        &mut self,
        id: GroupId,
        log: usize,
        kernel: &mut K,
    ) -> Option<TurnEnd> {
        let group = self.groups.get_mut(&id).expect("it has its turn");
        let topic = (!group.places[log].parked.is_known()).then(|| parking_topic(&group.name()))?;
        for _ in 0..FOUND_PER_TURN {
            let group = self.groups.get_mut(&id).expect("it has its turn");
            let place = &mut group.places[log];
            let finding = place.parked.found.as_mut()?;
            let of = &mut self.logs[log];
            let Some(topic) = of.topic_id(&topic) else {
                place.parked.found = None;
                return None;
            };
            let mut wants = |id, _: &std::sync::Arc<str>| id == topic;
            let mut wanted = Wanted { version: Some(0), topic: &mut wants, only: None };
            match of.read_wanted(&mut finding.reader, finding.end, &mut wanted, kernel) {
                ReadStep::Batch(batch) => self.found_parked(id, log, &batch),
                ReadStep::End => {
                    place.parked.found = None;
                    self.note_moved(id);
                    self.wake_idle(id);
                    return None;
                }
                ReadStep::Pending => return Some(TurnEnd::Disk),
                ReadStep::More => {}
                ReadStep::NoRoom => return Some(TurnEnd::Later(self.now.mono_us + READ_RETRY_US)),
                ReadStep::Failed { start, end, failures } => {
                    let key = of.key();
                    let wait_us = self.read_failed(key, (start, end), failures);
                    return Some(TurnEnd::Later(self.now.mono_us + wait_us));
                }
                // Retention has taken it, or the disk has damaged it: nobody can deliver it any more.
                ReadStep::Expired { .. } | ReadStep::Damaged { .. } => {}
            }
        }
        Some(TurnEnd::More)
    }

    fn found_parked(&mut self, id: GroupId, log: usize, batch: &StoredBatch) {
        let header = &batch.header;
        let now = self.now;
        let group = self.groups.get_mut(&id).expect("it has its turn");
        let before = group.members.in_flight_bytes();
        let place = &mut group.places[log];
        let Some(finding) = &place.parked.found else { return };
        let cursor = &finding.cursor;
        let is_owed = |at: Position| {
            let mut runs = cursor.unsettled.iter();
            at >= cursor.next || runs.any(|(start, end)| *start <= at && at < *end)
        };
        let mut events = Bitmap::none(header.count);
        let owed = |index: &u32| is_owed(header.base_position.plus(u64::from(*index)));
        (0..header.count).filter(owed).for_each(|index| events.set(index));
        let Some((parked, mut keys, wait)) = resumed(batch).filter(|_| !events.is_empty()) else {
            return;
        };
        keys.retain(|(index, _)| events.contains(*index));
        let end = header.base_position.plus(u64::from(header.count));
        place.parked.next = place.parked.next.max(Some(end));
        let wait_us = wait.next.0.saturating_sub(now.wall.0);
        let due = (wait.attempts, now.mono_us.saturating_add(wait_us));
        let owed: Vec<_> = events.iter().map(|index| parked[index as usize]).collect();
        let owed_here = place.owed.iter_mut();
        owed_here.for_each(|cursor| leave_out_originals(cursor, &owed));
        let returned = place.log.leave_out_older(&owed, &mut group.members);
        place.log.resume_parked((header.base_position, parked), events, keys, due);
        // Time for the delay and one more look.
        self.idle_until_us = self.idle_until_us.max(due.1.saturating_add(1_000_000));
        let after = group.members.in_flight_bytes();
        self.free_in_flight(before - after);
        self.give_back(returned);
        self.watch(id);
    }

    /// Says once in a while that a group has stopped for its parked events.
    pub(super) fn warn_of_parked(&mut self, id: GroupId) {
        if self.parked_quiet_until_us > self.now.mono_us {
            return;
        }
        self.parked_quiet_until_us = self.now.mono_us + 60_000_000;
        let group = &self.groups[&id];
        let keys = PARKED_KEYS_MAX;
        tracing::warn!(group = %group.name(), keys, "parked events block as many keys as they may: the group stops there");
    }
}

/// After a kill between the copies and the cursor that settles their originals these are owed, too, and would be delivered
/// once more when the copies are settled: what the group's cursor owes is without them from here on.
fn leave_out_originals(cursor: &mut Cursor, copies: &[Parked]) {
    for Parked { place, .. } in copies {
        let mut runs = cursor.unsettled.iter();
        if *place >= cursor.next || runs.any(|(start, end)| start <= place && place < end) {
            take_range(cursor, (*place, place.plus(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An original that stays owed beside its copy is delivered once more, with all attempts, when the copy is settled.
    #[test]
    fn an_original_is_owed_as_its_copy_or_not_at_all() {
        let run = |start, end| (Position(start), Position(end));
        let cursor = |next, unsettled: &[_]| Cursor {
            next: Position(next),
            unsettled: unsettled.to_vec(),
            starts: Vec::new(),
        };
        let mut owed = cursor(20, &[run(3, 8), run(12, 13)]);
        let copies = [5, 6, 9, 12, 22].map(|place| Parked { key: 1, place: Position(place) });
        leave_out_originals(&mut owed, &copies);
        assert_eq!(owed, cursor(23, &[run(3, 5), run(7, 8), run(20, 22)]), "9 was settled before");
    }
}

//! The way to the dead letters: what a group's members rejected, or failed at too often, or what is too old for them, is
//! read again and appended to the group's topic of dead letters. Its original is settled when that has become durable;
//! without room it waits. After a kill between the two it dies once more: a letter may stand twice, and none is missing.

use codec::ids::Position;
use codec::refusal::Refusal;
use log::batch::{NoAppend, StoredBatch};
use log::reader::{ReadStep, Reader};
use routing::internal_topics::dead_topic;
use routing::subscription::GroupId;

use crate::dead_letter::{Death, dead_letters};
use crate::group::flight::Fate;
use crate::kernel::Kernel;
use crate::shard::Shard;
use crate::shard::deliver::{READ_RETRY_US, TurnEnd};
use crate::shard::errands::Errand;

/// Groups with dying events that get a turn in one cycle.
const GROUPS_PER_CYCLE: usize = 64;
/// Batches of dead letters that one group appends in one turn.
const BURIALS_PER_TURN: u32 = 16;
/// How soon an append is tried again that found buffers full.
const NO_ROOM_RETRY_US: u64 = 5_000;
/// How soon one is tried again that the log has refused: there is no disk space, say.
pub(super) const REFUSED_RETRY_US: u64 = 1_000_000;

impl Shard {
    /// Brings dying events to the dead letters.
    pub(super) fn bury<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        if self.draining {
            return 0;
        }
        let mut work = 0;
        for _ in 0..self.dying.len().min(GROUPS_PER_CYCLE) {
            let id = self.dying.pop_front().expect("counted");
            let Some(group) = self.groups.get_mut(&id) else { continue };
            assert!(group.is_dying, "a group stands in line once");
            group.is_dying = false;
            work += 1;
            for log in 0..self.logs.len() {
                match self.bury_in(id, log, kernel) {
                    TurnEnd::More => self.wake_dying(id),
                    TurnEnd::Rest => {}
                    TurnEnd::Disk => self.waiting_io.push(id),
                    TurnEnd::Later(at_us) => self.retry_read_at(at_us, id),
                }
            }
        }
        work
    }

    /// Puts a group with dying events in line for a turn.
    pub(super) fn wake_dying(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let dying = group.places.iter().any(|place| place.log.has_dying());
        if dying && !group.is_dying {
            group.is_dying = true;
            self.dying.push_back(id);
        }
    }

    fn bury_in<K: Kernel>(&mut self, id: GroupId, log: usize, kernel: &mut K) -> TurnEnd {
        for _ in 0..BURIALS_PER_TURN {
            let base = match self.next_leaving(id, log) {
                Ok(Some(base)) => base,
                Ok(None) => return TurnEnd::Rest,
                Err(later) => return later,
            };
            let place = &mut self.groups.get_mut(&id).expect("it has its turn").places[log];
            let known = place.grave.take().filter(|reader| reader.position() == base);
            let mut reader = known.unwrap_or_else(|| Reader::new(base));
            let end = self.logs[log].positions().end();
            let step = self.logs[log].read(&mut reader, end, &mut |_| true, kernel);
            // A reader that has passed the batch has found it gone, whatever it waits for now.
            let is_passed = reader.position() > base;
            match step {
                ReadStep::Batch(batch) if batch.header.base_position == base => {
                    if let Err(error) = self.take_away(id, log, &batch) {
                        return self.bury_later(id, &error);
                    }
                }
                ReadStep::Pending if !is_passed => {
                    self.keep_grave(id, log, reader);
                    return TurnEnd::Disk;
                }
                ReadStep::More if !is_passed => {
                    self.keep_grave(id, log, reader);
                    return TurnEnd::More;
                }
                ReadStep::NoRoom if !is_passed => {
                    return TurnEnd::Later(self.now.mono_us + READ_RETRY_US);
                }
                ReadStep::Failed { start, end, failures } if !is_passed => {
                    self.keep_grave(id, log, reader);
                    let key = self.logs[log].key();
                    let wait_us = self.read_failed(key, (start, end), failures);
                    return TurnEnd::Later(self.now.mono_us + wait_us);
                }
                // Retention has taken it, or the disk has damaged it: there is nothing left to keep.
                _ => {
                    let place = &mut self.groups.get_mut(&id).expect("it has its turn").places[log];
                    self.stats.lost_events += u64::from(place.log.forget_leaving(base));
                    self.note_moved(id);
                    // They may have been the last that newer logs, or later events of their keys, waited for.
                    self.wake_lagging(id);
                    self.wake_idle(id);
                    self.tell_older_done(id);
                }
            }
        }
        TurnEnd::More
    }

    fn keep_grave(&mut self, id: GroupId, log: usize, reader: Reader) {
        let place = &mut self.groups.get_mut(&id).expect("it has its turn").places[log];
        assert!(place.grave.is_none(), "it was taken out to be read with");
        place.grave = Some(reader);
    }

    /// Nothing is lost for want of room: the events stay owed, and it is tried again.
    fn bury_later(&mut self, id: GroupId, error: &NoAppend) -> TurnEnd {
        let wait_us = match error {
            NoAppend::NoRoom => NO_ROOM_RETRY_US,
            _ => {
                self.stats.refused_dead_letters += 1;
                if self.quiet_until_us <= self.now.mono_us {
                    self.quiet_until_us = self.now.mono_us + 60 * REFUSED_RETRY_US;
                    tracing::warn!(
                        group = id.0,
                        ?error,
                        "dead letters find no room, it is tried again"
                    );
                }
                REFUSED_RETRY_US
            }
        };
        TurnEnd::Later(self.now.mono_us + wait_us)
    }

    /// Appends the first list of dying events of a batch, as much of it as fits one batch of dead letters.
    pub(super) fn bury_batch(
        &mut self,
        id: GroupId,
        log: usize,
        batch: &StoredBatch,
    ) -> Result<(), NoAppend> {
        let base = batch.header.base_position;
        let group = &self.groups[&id];
        let (_, dying) = group.places[log].log.next_dying(None).expect("it has its turn for it");
        let Fate::Dead(reason) = dying.fate else {
            unreachable!("what is parked goes another way")
        };
        let name = self.logs[log].topic_name(batch.header.topic).expect("a log knows its topics");
        let group_name = group.name();
        let death = Death {
            group: &group_name,
            reason: reason.word(),
            time: self.now.wall,
            attempts: dying.attempts,
        };
        let (bytes, events) = dead_letters(batch, name, &dying.events, &death);
        let topic = dead_topic(&group_name);
        let number = self.errands.next();
        self.append_own(&topic, &bytes, Errand::Burial { group: id, log, base })?;
        let group = self.groups.get_mut(&id).expect("it has its turn");
        group.places[log].log.begin_burial(base, &events, number);
        tracing::debug!(group = %group_name, reason = reason.word(), events = events.len(), "given up");
        Ok(())
    }

    /// Dead letters are durable: their originals are settled. Or they are not: it is tried again.
    pub(super) fn burial_done(
        &mut self,
        (id, log, base): (GroupId, usize, Position),
        number: u64,
        refusal: Option<Refusal>,
    ) {
        // The group may have ended meanwhile, or have been moved to another place.
        let Some(group) = self.groups.get_mut(&id) else { return };
        let of = &mut group.places[log].log;
        if refusal.is_some() {
            of.not_buried(base, number);
            self.retry_read_at(self.now.mono_us + REFUSED_RETRY_US, id);
            return;
        }
        self.stats.dead_letter_events += u64::from(of.buried(base, number));
        self.note_moved(id);
        self.wake_lagging(id);
        self.tell_older_done(id);
    }
}

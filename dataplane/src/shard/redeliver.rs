//! What was handed back, lost with its member or not settled in time: taken back, read again and sent again, in the order
//! of its keys.

use codec::ids::Position;
use log::batch::StoredBatch;
use log::reader::{ReadStep, Reader};
use routing::subscription::GroupId;

use crate::group::flight::Reason;
use crate::group::group_log::{Hand, Turn};
use crate::group::keys::Blocked;
use crate::kernel::Kernel;
use crate::parked;
use crate::shard::Shard;
use crate::shard::deliver::{READ_RETRY_US, TurnEnd, view_of};

/// Groups with idle events that get a turn in one cycle.
const IDLE_PER_CYCLE: usize = 64;
/// How often deliveries are checked for their deadline, and delays of retries for their end.
const EXPIRY_CHECK_US: u64 = 100_000;
/// Groups whose deadlines are looked at in one cycle.
const WATCHED_PER_CYCLE: usize = 64;
/// Batches of one group that are sent again in one turn.
const AGAIN_PER_TURN: u32 = 64;

impl Shard {
    /// Sends again what is idle.
    pub(super) fn redeliver<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        let mut work = 0;
        for _ in 0..self.idle.len().min(IDLE_PER_CYCLE) {
            let id = self.idle.pop_front().expect("counted");
            let Some(group) = self.groups.get_mut(&id) else { continue };
            assert!(group.is_idle, "a group stands in line once");
            group.is_idle = false;
            work += 1;
            for log in 0..self.logs.len() {
                match self.send_again(id, log, kernel) {
                    TurnEnd::More => self.wake_idle(id),
                    TurnEnd::Rest => {}
                    TurnEnd::Disk => self.waiting_io.push(id),
                    TurnEnd::Later(at_us) => self.retry_read_at(at_us, id),
                }
            }
            self.tell_older_done(id);
            self.note_advanced(id);
        }
        work
    }

    /// A group has taken something, or somebody has joined it: from here on its deadlines are looked at.
    pub(super) fn watch(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if !std::mem::replace(&mut group.is_watched, true) {
            self.watched.push_back(id);
        }
    }

    /// Looks at the deadlines of a bounded number of groups, until the round has been at all. Returns how many events had not
    /// been settled in time.
    pub(super) fn look_at_deadlines(&mut self) -> u32 {
        if self.watched_left == 0 && self.now.mono_us >= self.next_expiry_check_us {
            self.next_expiry_check_us = self.now.mono_us + EXPIRY_CHECK_US;
            self.watched_left = self.watched.len();
        }
        let mut expired = 0;
        for _ in 0..self.watched_left.min(WATCHED_PER_CYCLE) {
            self.watched_left -= 1;
            let id = self.watched.pop_front().expect("only a round takes one out");
            expired += self.expire_deliveries(id);
            if self.is_still_watched(id) {
                self.watched.push_back(id);
            }
        }
        self.stats.expired_events += u64::from(expired);
        expired
    }

    /// Takes back what of a group was not settled in time; it goes to other members. Returns how many events that were.
    fn expire_deliveries(&mut self, id: GroupId) -> u32 {
        let Some(group) = self.groups.get_mut(&id) else { return 0 };
        assert!(group.is_watched, "a group is watched once");
        let before = group.members.in_flight_bytes();
        let (mut late, mut dropped, mut is_stopped) = (0, 0, false);
        let mut returned = Vec::new();
        let sent_end = self.now.mono_us.checked_sub(group.rules.ack_timeout_us);
        for place in &mut group.places {
            // Not before all copies are found: the newest of an event counts.
            if place.parked.is_known() {
                let next = if place.at_tail { Position(u64::MAX) } else { place.next() };
                place.log.wake_parked(self.now.mono_us, next);
            }
            place.log.look_at_window(self.now.mono_us);
            is_stopped |= place.log.is_stopped_by_parked();
            let Some(sent_end) = sent_end else { break };
            // A pause spends no attempts: what a member holds over one is taken back, and tried as often as before.
            let is_counted = !group.is_paused;
            let (members, rules) = (&mut group.members, &group.rules);
            let (credit, events) = place.log.expire(sent_end, members, rules, is_counted);
            returned.extend(credit);
            dropped += place.log.take_dropped();
            late += events;
        }
        let after = group.members.in_flight_bytes();
        assert!(after <= before, "taking back sends nothing");
        let has_idle = group.places.iter().any(|place| place.log.has_idle());
        self.free_in_flight(before - after);
        self.give_back(returned);
        if dropped > 0 {
            self.stats.dropped_events += u64::from(dropped);
            self.note_moved(id);
        }
        if is_stopped {
            self.warn_of_parked(id);
        }
        if late > 0 || has_idle {
            self.wake_lagging(id);
            self.wake_idle(id);
        }
        late
    }

    /// What has nothing in flight and nothing idle has no deadline; it may have caught up by that. Nor has a group without
    /// members, of which there may be very many, away with their connections: nothing is in flight to nobody.
    fn is_still_watched(&mut self, id: GroupId) -> bool {
        let Some(group) = self.groups.get_mut(&id) else { return false };
        let owes = group.places.iter().any(|place| !place.log.is_empty());
        group.is_watched = owes && !group.members.is_empty();
        let is_watched = group.is_watched;
        self.note_advanced(id);
        is_watched
    }

    /// One pass over a group's idle events in one log, by rising position.
    fn send_again<K: Kernel>(&mut self, id: GroupId, log: usize, kernel: &mut K) -> TurnEnd {
        let mut blocked = Blocked::default();
        let mut after = None;
        for _ in 0..AGAIN_PER_TURN {
            let full = self.is_full_for(id);
            let (shard, mono_us) = (self.options.index, self.now.mono_us);
            let group = self.groups.get_mut(&id).expect("it has its turn");
            let turn = Turn { shard, mono_us, rules: &group.rules };
            let place = &mut group.places[log];
            if place.again_failed_until_us > self.now.mono_us {
                return TurnEnd::Rest;
            }
            let next = place.log.next_idle(after, &mut blocked, &group.members, turn);
            let Some(base) = next.filter(|_| !full) else {
                if full && next.is_some() {
                    self.waiting_bytes.insert(id);
                }
                if group.members.any_ready() {
                    let lacking = place.log.lacking(&group.members, turn);
                    self.want_leases_of(id, |member| lacking.contains(&member));
                } else if place.log.has_idle() {
                    self.want_leases(id);
                }
                return TurnEnd::Rest;
            };
            let mut reader = place.again.take().filter(|reader| reader.position() == base);
            let reader = reader.get_or_insert_with(|| Reader::new(base));
            let end = self.logs[log].positions().end();
            let step = self.logs[log].read(reader, end, &mut |_| true, kernel);
            let is_passed = reader.position() > base;
            match step {
                ReadStep::Batch(batch) if batch.header.base_position == base => {
                    self.send_batch_again(id, log, &batch, &mut blocked);
                }
                step @ (ReadStep::Pending
                | ReadStep::More
                | ReadStep::NoRoom
                | ReadStep::Failed { .. })
                    if !is_passed =>
                {
                    let again = Some(std::mem::replace(reader, Reader::new(base)));
                    return self.again_later(id, log, again, step);
                }
                // Retention has taken it, or the disk has damaged it: nobody can deliver it any more.
                _ => self.forget_idle(id, log, base),
            }
            after = Some(base);
        }
        TurnEnd::More
    }

    /// A batch that is to be sent again is not there yet.
    fn again_later(
        &mut self,
        id: GroupId,
        log: usize,
        again: Option<Reader>,
        step: ReadStep,
    ) -> TurnEnd {
        let now_us = self.now.mono_us;
        let (key, mut until_us) = (self.logs[log].key(), 0);
        let end = match step {
            ReadStep::Pending => TurnEnd::Disk,
            ReadStep::More => TurnEnd::More,
            ReadStep::Failed { start, end, failures } => {
                until_us = now_us + self.read_failed(key, (start, end), failures);
                TurnEnd::Later(until_us)
            }
            _ => TurnEnd::Later(now_us + READ_RETRY_US),
        };
        let place = &mut self.groups.get_mut(&id).expect("it has its turn").places[log];
        place.again = again;
        place.again_failed_until_us = until_us;
        end
    }

    fn send_batch_again(
        &mut self,
        id: GroupId,
        log: usize,
        batch: &StoredBatch,
        blocked: &mut Blocked,
    ) {
        let Some(name) = self.logs[log].topic_name(batch.header.topic).cloned() else { return };
        let told;
        let (mut name, mut batch) = (name, batch);
        let base = batch.header.base_position;
        if self.groups[&id].places[log].log.is_parked(base) {
            let (of, partition) = (&self.logs[log], batch.header.partition);
            let origin = parked::published(&name, batch);
            if origin.is_some_and(|origin| !of.keeps(&origin.topic, partition, origin.offset)) {
                return self.forget_idle(id, log, base);
            }
            (name, told) = parked::told(&name, batch);
            batch = &told;
        }
        if self.is_too_old(id, batch) {
            return self.give_up(id, log, base);
        }
        let (shard, mono_us) = (self.options.index, self.now.mono_us);
        let mut out = std::mem::take(&mut self.dispatches);
        let group = self.groups.get_mut(&id).expect("it has its turn");
        let turn = Turn { shard, mono_us, rules: &group.rules };
        let members = &mut group.members;
        let mut hand = Hand { batch: view_of(batch), members, turn, out: &mut out };
        group.places[log].log.redeliver(&mut hand, blocked);
        self.send_all(id, log, batch, &name, out);
    }

    /// Whether a batch is older than the group wants.
    pub(super) fn is_too_old(&self, id: GroupId, batch: &StoredBatch) -> bool {
        let age_max_us = self.groups[&id].rules.age_max_us;
        self.now.wall.0.saturating_sub(batch.header.append_time.0) > age_max_us
    }

    /// The idle events of a batch are gone: nobody can deliver them any more.
    fn forget_idle(&mut self, id: GroupId, log: usize, base: Position) {
        let group = self.groups.get_mut(&id).expect("it has its turn");
        self.stats.lost_events += u64::from(group.places[log].log.forget(base));
        self.note_moved(id);
        // What waited behind it, for its key, waits no longer.
        self.wake_lagging(id);
    }

    /// The idle events of a batch are too old to be sent again.
    fn give_up(&mut self, id: GroupId, log: usize, base: Position) {
        let group = self.groups.get_mut(&id).expect("it has its turn");
        let of = &mut group.places[log].log;
        of.give_up(base, Reason::TooOld, &group.rules);
        self.stats.dropped_events += u64::from(of.take_dropped());
        self.note_moved(id);
        // What waited behind it, for its key, waits no longer.
        self.wake_lagging(id);
        self.wake_dying(id);
    }
}

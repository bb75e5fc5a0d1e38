//! The way out: events are routed once from the tail to the groups that stand there, and sent to members as deliveries;
//! and the lists of groups that wait for something. Groups that are behind read for themselves ([`super::catch_up`]);
//! what was handed back, lost or not settled in time is sent again ([`super::redeliver`]).

use bytes::Bytes;
use codec::ids::Position;
use log::batch::StoredBatch;
use log::disk::LogKey;
use log::reader::{ReadStep, Reader};
use routing::internal_topics::REDRIVE;
use routing::subscription::{GroupId, SubscriptionId};
use routing::topic::TopicName;
use std::sync::Arc;

use crate::dead_letter::told_topic;
use crate::group::flight::Reason;
use crate::group::group_log::{BatchView, Dispatch, Hand, Offered, Turn};
use crate::kernel::Kernel;
use crate::mail::{Mail, MemberId};
use crate::options::{
    CURSOR_FLUSH_US, DELIVERY_QUANTUM_BYTES, READ_FAILURES_MAX, TAIL_BATCHES_PER_CYCLE,
};
use crate::selection::Selection;
use crate::session::{Delivery, Gap};
use crate::shard::Shard;
use crate::shard::group::Group;
use crate::token::TokenFields;

/// Groups that are behind and get a turn in one cycle.
const LAGGING_PER_CYCLE: usize = 64;
/// How soon a read is tried again that found no memory, or that failed once; it doubles with each failure.
pub(super) const READ_RETRY_US: u64 = 1_000;
const READ_RETRY_AFTER_FAILURE_US: u64 = 20_000;
/// How often it is looked whether the disk gives again what it has failed to give [`READ_FAILURES_MAX`] times.
const STOPPED_RETRY_US: u64 = 60_000_000;
/// The same for routing, for which all groups at the tail wait, and which is one read a shard.
const TAIL_RETRY_MAX_US: u64 = 2_000_000;
/// How often it is said that reads fail.
pub(super) const READ_WARNING_US: u64 = 60_000_000;
/// Cursors handed to the log in one cycle.
const CURSORS_PER_CYCLE: usize = 1_024;

/// Why a group's turn ended.
pub(super) enum TurnEnd {
    /// It may have more at once.
    More,
    /// It waits for credit or for a settle, or it is at the tail.
    Rest,
    /// It waits for the disk.
    Disk,
    /// Nothing tells when it can go on: it tries again at this time.
    Later(u64),
}

impl Shard {
    pub(super) fn deliver<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        // Before anything new goes out: what would go to a late member for its key would be taken back at once.
        let mut work = self.look_at_deadlines();
        self.bytes_freed();
        self.retry_reads();
        work += self.deliver_tail(kernel);
        for _ in 0..self.lagging.len().min(LAGGING_PER_CYCLE) {
            let id = self.lagging.pop_front().expect("counted");
            let Some(group) = self.groups.get_mut(&id) else { continue };
            assert!(group.is_lagging, "a group stands in line once");
            group.is_lagging = false;
            group.deficit = group.deficit.min(DELIVERY_QUANTUM_BYTES) + DELIVERY_QUANTUM_BYTES;
            work += 1;
            match self.catch_up(id, kernel) {
                TurnEnd::More => self.wake_lagging(id),
                TurnEnd::Rest => {}
                TurnEnd::Disk => self.waiting_io.push(id),
                TurnEnd::Later(at_us) => self.retry_read_at(at_us, id),
            }
            self.note_advanced(id);
        }
        work + self.tell_caught_up()
    }

    /// A group has come further: if members wait to be told that it has caught up, it is looked at.
    pub(super) fn note_advanced(&mut self, id: GroupId) {
        if self.catching_up.contains_key(&id) {
            self.advanced.push(id);
        }
    }

    /// Tells members that have joined lately once their group has nothing behind the tail any more. Only groups that have
    /// come further are looked at: a hundred thousand may be behind at a time.
    fn tell_caught_up(&mut self) -> u32 {
        if self.advanced.is_empty() || self.tail.position() < self.visible_end() {
            return 0;
        }
        let (active, tail) = (self.active_index(), self.tail.position());
        let mut told = 0;
        for id in std::mem::take(&mut self.advanced) {
            let Some(group) = self.groups.get(&id) else { continue };
            if !self.catching_up.contains_key(&id) || !has_caught_up(group, active) {
                continue;
            }
            let waiting = self.catching_up.remove(&id).expect("looked at just now");
            let (done, waiting): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(_, acked_end)| *acked_end <= tail);
            for (member, _) in &done {
                self.post(member.shard, Mail::CaughtUp { member: *member });
            }
            told += done.len() as u32;
            if !waiting.is_empty() {
                // The tail comes there without the group's doing.
                self.catching_up.insert(id, waiting);
                self.advanced.push(id);
            }
        }
        told
    }

    /// Routes what has become visible since the last cycle. Every batch is looked at once, for all groups at the tail.
    fn deliver_tail<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        if self.tail_retry_us.is_some() {
            return 0;
        }
        let end = self.visible_end();
        let active = self.active_index();
        if self.groups.is_empty() && !self.tail_waits {
            // Nobody is to be told.
            if self.tail.position() < end {
                self.logs[active].skip_to(&mut self.tail, end);
            }
            return 0;
        }
        for work in 0..TAIL_BATCHES_PER_CYCLE {
            let log = &mut self.logs[active];
            if self.tail.position() >= end {
                // What comes next stands in blocks that are yet to be written.
                log.release_memory(&mut self.tail);
                return work;
            }
            let before = self.tail.position();
            let step = log.read(&mut self.tail, end, &mut |_| true, kernel);
            if self.tail.take_expired() > 0 {
                self.tail_passed_expired(before);
            }
            match step {
                ReadStep::Batch(batch) => self.route(active, &batch),
                ReadStep::Pending => {
                    self.tail_waits = true;
                    return work;
                }
                ReadStep::End => return work,
                ReadStep::NoRoom => return self.tail_rests(READ_RETRY_US, work),
                ReadStep::Failed { start, end, failures } => {
                    let key = self.logs[active].key();
                    let wait_us = self.read_failed(key, (start, end), failures);
                    return self.tail_rests(wait_us, work);
                }
                ReadStep::More => {}
                ReadStep::Expired { start } => {
                    let (log, groups) = (self.logs[active].key(), self.tail_stepped(before, start));
                    tracing::warn!(%log, start = %before, end = %start, groups, "retention took events before groups came to them");
                }
                ReadStep::Damaged { start, end } => {
                    let (log, groups) = (self.logs[active].key(), self.tail_stepped(start, end));
                    tracing::error!(%log, %start, %end, groups, "events are damaged on disk");
                }
            }
        }
        TAIL_BATCHES_PER_CYCLE
    }

    /// Retention took `from..to` before it was routed, while a disk gave nothing, say; or it is damaged. The reader stands behind
    /// the gap now, and so do all groups at the tail, which are told. Returns how many.
    fn tail_stepped(&mut self, from: Position, to: Position) -> usize {
        assert!(from < to, "a gap is of something");
        let active = self.active_index();
        let log = self.logs[active].key();
        let at_tail = self.groups_at_tail();
        for id in &at_tail {
            let group = self.groups.get_mut(id).expect("found just now");
            group.places[active].passed(Gap { log, from, to, events: None });
            self.tell_passed(*id, active);
        }
        self.stats.passed_positions += (to.0 - from.0) * at_tail.len() as u64;
        at_tail.len()
    }

    /// Some of what stands from `from` on went, by its topic's retention or deletion, before it was routed. Whose it was each
    /// group finds out for itself: they all read on from there.
    fn tail_passed_expired(&mut self, from: Position) {
        let active = self.active_index();
        assert!(from < self.tail.position(), "what has expired was passed");
        for id in self.groups_at_tail() {
            let place = &mut self.groups.get_mut(&id).expect("found just now").places[active];
            assert!(
                place.held.is_none() && place.seek.is_none(),
                "who is at the tail reads nothing"
            );
            place.at_tail = false;
            place.reader = Reader::new(from);
            self.wake_lagging(id);
        }
    }

    /// The groups that have nothing behind the tail, in the order of their numbers.
    fn groups_at_tail(&self) -> Vec<GroupId> {
        let active = self.active_index();
        let at_tail = self.groups.iter().filter(|(_, group)| group.places[active].at_tail);
        let mut at_tail: Vec<GroupId> = at_tail.map(|(id, _)| *id).collect();
        at_tail.sort_unstable();
        at_tail
    }

    /// Routing from the tail goes on after a while, whatever the disk finishes meanwhile: a place that it does not give
    /// would be asked for again with every commit.
    fn tail_rests(&mut self, wait_us: u64, work: u32) -> u32 {
        assert!(wait_us > 0, "what failed is not tried again at once");
        self.tail_waits = true;
        self.tail_retry_us = Some(self.now.mono_us + wait_us.min(TAIL_RETRY_MAX_US));
        work
    }

    /// A read has failed: how long to wait before the next. The disk may be well again; until then nothing is passed.
    /// Thousands of groups may stand at one bad place, so it is said once in a while and counted always.
    pub(super) fn read_failed(
        &mut self,
        log: LogKey,
        (start, end): (Position, Position),
        failures: u32,
    ) -> u64 {
        assert!(start < end, "a read is of something");
        self.stats.read_failures += 1;
        let folder = self.options.folder.display();
        if failures == READ_FAILURES_MAX {
            self.stats.stopped_readers += 1;
            tracing::error!(%folder, %log, %start, %end, failures, "events cannot be read: whoever wants them stops there");
        } else if self.quiet_until_us <= self.now.mono_us {
            let all = self.stats.read_failures;
            self.quiet_until_us = self.now.mono_us + READ_WARNING_US;
            tracing::warn!(%folder, %log, %start, %end, failures, all, "events cannot be read, it is tried again");
        }
        match failures {
            ..READ_FAILURES_MAX => READ_RETRY_AFTER_FAILURE_US << failures,
            _ => STOPPED_RETRY_US,
        }
    }

    pub(super) fn retry_read_at(&mut self, at_us: u64, id: GroupId) {
        assert!(at_us > self.now.mono_us, "a retry is yet to come");
        self.read_retries.insert((at_us, id));
    }

    /// Those who waited long enough to read again try.
    fn retry_reads(&mut self) {
        let now_us = self.now.mono_us;
        if self.tail_retry_us.is_some_and(|at_us| at_us <= now_us) {
            self.tail_waits = false;
            self.tail_retry_us = None;
        }
        while self.read_retries.first().is_some_and(|(at_us, _)| *at_us <= now_us) {
            let (_, id) = self.read_retries.pop_first().expect("looked at just now");
            self.wake_lagging(id);
            self.wake_idle(id);
        }
    }

    /// When the next read is tried again that nothing else wakes.
    pub(super) fn next_read_retry_us(&self) -> Option<u64> {
        let group = self.read_retries.first().map(|(at_us, _)| *at_us);
        group.into_iter().chain(self.tail_retry_us).min()
    }

    pub(super) fn tail_is_behind(&self) -> bool {
        !self.tail_waits && self.tail.position() < self.visible_end()
    }

    /// Offers a batch to every group that stands at the tail and matches. One that cannot take it is behind from here.
    fn route(&mut self, log: usize, batch: &StoredBatch) {
        let mut matched = std::mem::take(&mut self.matched);
        matched.clear();
        let topic = batch.header.topic;
        let Some(name) = self.logs[log].topic_name(topic).cloned() else { return };
        let found = self.caches[log].get(&self.snapshot, topic, || checked_name(&name));
        matched.extend_from_slice(found);
        let mut rest = matched.as_slice();
        while let Some((id, _)) = rest.first().copied() {
            let count = rest.iter().take_while(|(group, _)| *group == id).count();
            let (of_group, after) = rest.split_at(count);
            rest = after;
            let at_tail = |group: &Group| group.places[log].at_tail;
            if self.groups.get(&id).is_some_and(at_tail)
                && self.offer(id, log, of_group, batch, &name) == Offered::Refused
            {
                let group = self.groups.get_mut(&id).expect("found just now");
                let place = &mut group.places[log];
                assert!(
                    place.held.is_none() && place.seek.is_none(),
                    "who is at the tail reads nothing"
                );
                place.at_tail = false;
                place.reader = Reader::new(batch.header.base_position);
                self.wake_lagging(id);
            }
        }
        self.matched = matched;
    }

    /// Offers a batch to one group and sends what it takes.
    pub(super) fn offer(
        &mut self,
        id: GroupId,
        log: usize,
        matched: &[(GroupId, SubscriptionId)],
        batch: &StoredBatch,
        name: &Arc<str>,
    ) -> Offered {
        let full = self.is_full_for(id);
        let (shard, mono_us) = (self.options.index, self.now.mono_us);
        let group = self.groups.get_mut(&id).expect("the caller has found it");
        let eligible = match name.starts_with(REDRIVE) {
            false => group.eligible(log, matched, batch),
            true => group.eligible_alone(log, batch),
        };
        let Some(eligible) = eligible else { return Offered::Taken };
        if !group.gate.is_open(self.logs[log].key().generation) {
            return Offered::Refused;
        }
        let age_us = self.now.wall.0.saturating_sub(batch.header.append_time.0);
        if age_us > group.rules.age_max_us {
            return self.offer_dying(id, log, &eligible, batch);
        }
        if full || !group.members.any_ready() {
            if full {
                self.waiting_bytes.insert(id);
            }
            self.want_leases(id);
            return Offered::Refused;
        }
        let mut out = std::mem::take(&mut self.dispatches);
        let view = view_of(batch);
        let turn = Turn { shard, mono_us, rules: &group.rules };
        let members = &mut group.members;
        let mut hand = Hand { batch: view, members, turn, out: &mut out };
        let offered = group.places[log].log.offer(&mut hand, eligible);
        if offered == Offered::Taken {
            self.watch(id);
            self.note_moved(id);
            self.wake_idle(id);
        }
        self.send_all(id, log, batch, name, out);
        offered
    }

    /// A batch that is too old when the group comes to it.
    fn offer_dying(
        &mut self,
        id: GroupId,
        log: usize,
        eligible: &Selection,
        batch: &StoredBatch,
    ) -> Offered {
        let view = view_of(batch);
        let group = self.groups.get_mut(&id).expect("the caller has found it");
        let of = &mut group.places[log].log;
        let offered = of.offer_dying(&view, eligible, Reason::TooOld, &group.rules);
        self.stats.dropped_events += u64::from(of.take_dropped());
        if offered == Offered::Taken {
            self.watch(id);
            self.note_moved(id);
            self.wake_dying(id);
        }
        offered
    }

    /// Makes deliveries of dispatches, and gives the emptied list back for the next time.
    pub(super) fn send_all(
        &mut self,
        group: GroupId,
        log: usize,
        batch: &StoredBatch,
        name: &Arc<str>,
        mut dispatches: Vec<Dispatch>,
    ) {
        let (key, epoch) = (self.logs[log].key(), self.active().epoch());
        let header = &batch.header;
        let told;
        let name = if name.starts_with(REDRIVE) {
            told = told_topic(name, batch);
            &told
        } else {
            name
        };
        let copy;
        let mut batch = batch;
        if !dispatches.is_empty()
            && self.logs[log].lent_bytes() as u64 > self.options.lent_bytes_max
        {
            // Slow members keep whole buffers for what they have not taken: from here on each event counts for itself.
            self.stats.copied_deliveries += dispatches.len() as u64;
            let body = Bytes::copy_from_slice(&batch.body);
            copy = StoredBatch { body, header: *header };
            batch = &copy;
        }
        for dispatch in dispatches.drain(..) {
            let Dispatch { member, delivery, attempt, selection } = dispatch;
            let events = u64::from(selection.len(header.count));
            self.stats.deliveries += 1;
            self.stats.delivered_events += events;
            self.stats.delivered_bytes += u64::from(header.body_len);
            if attempt > 1 {
                self.stats.redelivered_events += events;
            }
            self.in_flight_bytes += u64::from(view_of(batch).bytes());
            let token = TokenFields {
                node: self.options.node,
                log: key,
                epoch,
                delivery,
                group,
                base_position: header.base_position,
                count: header.count,
                attempt,
            };
            let delivery = Delivery {
                subscription: 0,
                token: token.encode(),
                attempt,
                log: key,
                topic: name.clone(),
                batch: batch.clone(),
                selection,
            };
            let delivery = Box::new(delivery);
            self.post(member.shard, Mail::Deliver { member, delivery });
        }
        self.dispatches = dispatches;
    }

    /// Asks the homes of members without credit here for some.
    pub(super) fn want_leases(&mut self, id: GroupId) {
        self.want_leases_of(id, |_| true);
    }

    /// The same for those that `may_ask` accepts.
    pub(super) fn want_leases_of(&mut self, id: GroupId, may_ask: impl Fn(MemberId) -> bool) {
        if self.options.shards == 1 {
            return;
        }
        let from = self.options.index;
        let group = self.groups.get_mut(&id).expect("the caller has found it");
        let mut asks = Vec::new();
        for member in group.members.iter_mut().filter(|member| member.lease == 0 && !member.wanted)
        {
            if !may_ask(member.id) {
                continue;
            }
            member.wanted = true;
            asks.push(member.id);
        }
        for member in asks {
            self.post(member.shard, Mail::LeaseWanted { from, member });
        }
    }

    /// Puts a group that is behind in line for a turn, if a turn could get it further.
    pub(super) fn wake_lagging(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let behind = group.places.iter().any(|place| !place.at_tail);
        if behind && !group.is_lagging && !group.is_paused && !group.members.is_empty() {
            group.is_lagging = true;
            self.lagging.push_back(id);
        }
    }

    /// Puts a group with idle events in line for a turn; the same for its dying ones.
    pub(super) fn wake_idle(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let idle = group.places.iter().any(|place| place.log.has_idle());
        if idle && !group.is_idle && !group.is_paused && !group.members.is_empty() {
            group.is_idle = true;
            self.idle.push_back(id);
        }
        let dying = group.places.iter().any(|place| place.log.has_dying());
        if dying && !group.is_dying {
            group.is_dying = true;
            self.dying.push_back(id);
        }
    }

    /// The disk has finished something: whoever waits for it tries again.
    pub(super) fn io_woke(&mut self) {
        self.tail_waits = self.tail_retry_us.is_some();
        self.may_have_room = true;
        self.letters.io_woke();
        for id in std::mem::take(&mut self.waiting_io) {
            self.wake_lagging(id);
            self.wake_idle(id);
        }
    }

    /// Whether so much is in flight that a group gets no more. The second half of what may be in flight is for groups
    /// with less than an equal part of the first, and a group with nothing in flight gets a batch whatever the others have:
    /// members that settle nothing must not starve those of other groups.
    pub(super) fn is_full_for(&self, id: GroupId) -> bool {
        let shared = self.options.in_flight_bytes_max / 2;
        if self.in_flight_bytes < shared {
            return false;
        }
        let part = shared / self.groups.len().max(1) as u64;
        let own = self.groups.get(&id).map_or(0, |group| group.members.in_flight_bytes());
        assert!(own <= self.in_flight_bytes, "what a group has in flight is counted");
        own > 0 && (own >= part || self.in_flight_bytes >= self.options.in_flight_bytes_max)
    }

    /// Deliveries of so many bytes are not in flight any more.
    pub(super) fn free_in_flight(&mut self, bytes: u64) {
        assert!(bytes <= self.in_flight_bytes, "bytes in flight are counted");
        self.in_flight_bytes -= bytes;
        self.is_in_flight_freed |= bytes > 0;
    }

    /// Groups that found too many bytes in flight try again once there are fewer.
    fn bytes_freed(&mut self) {
        if !std::mem::take(&mut self.is_in_flight_freed) {
            return;
        }
        for id in std::mem::take(&mut self.waiting_bytes) {
            self.wake_lagging(id);
            self.wake_idle(id);
        }
    }

    /// A durable group's cursor has moved: it is handed to the log before long.
    pub(super) fn note_moved(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.durable && !group.is_moved {
            assert!(!group.subscriptions.is_empty(), "a group lasts as long as its subscriptions");
            group.is_moved = true;
            if self.moved.is_empty() {
                self.next_cursor_flush_us = self.now.mono_us + CURSOR_FLUSH_US;
            }
            self.moved.push(id);
        }
    }

    pub(super) fn flush_cursors(&mut self) -> u32 {
        if self.moved.is_empty() || self.now.mono_us < self.next_cursor_flush_us {
            return 0;
        }
        let rest = self.moved.split_off(self.moved.len().min(CURSORS_PER_CYCLE));
        let moved = std::mem::replace(&mut self.moved, rest);
        for id in &moved {
            if let Some(group) = self.groups.get_mut(id) {
                assert!(group.is_moved && group.durable, "only durable groups' cursors are kept");
                group.is_moved = false;
                self.write_cursors(*id);
            }
        }
        if self.moved.is_empty() {
            self.next_cursor_flush_us = self.now.mono_us + CURSOR_FLUSH_US;
        }
        moved.len() as u32
    }
}

/// Whether a group has nothing behind the tail, in the log that takes events and in older ones.
fn has_caught_up(group: &Group, active: usize) -> bool {
    let older = &group.places[..active];
    group.places[active].at_tail
        && group.gate.is_wide_open()
        && older.iter().all(|place| place.held.is_none())
        && !group.places.iter().any(|place| place.log.has_idle())
}

pub(super) fn view_of(batch: &StoredBatch) -> BatchView<'_> {
    let header = &batch.header;
    BatchView { base: header.base_position, count: header.count, body: &batch.body }
}

/// Names in a log were checked by the door that let them in.
pub(super) fn checked_name(name: &Arc<str>) -> TopicName {
    TopicName::new(name.clone()).expect("the topics of a log were checked before they were created")
}

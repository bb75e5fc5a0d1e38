//! Groups that are behind: each reads its logs for itself, older ones first, a quantum of bytes a turn, until it has come
//! to the tail. A place that the disk does not give is asked for again, later each time; nothing is passed over for it.

use std::sync::Arc;

use codec::ids::Position;
use log::batch::StoredBatch;
use log::disk::LogKey;
use log::reader::{ReadStep, Reader, Wanted};
use routing::subscription::{GroupId, SubscriptionId};

use crate::group::group_log::Offered;
use crate::kernel::Kernel;
use crate::mail::{Mail, MemberId};
use crate::session::Gap;
use crate::shard::Shard;
use crate::shard::deliver::{READ_RETRY_US, READ_WARNING_US, TurnEnd, checked_name};
use crate::shard::group::GroupSubscription;

impl Shard {
    /// Gives a group that is behind its turn: at most a quantum of bytes, older logs first.
    pub(super) fn catch_up<K: Kernel>(&mut self, id: GroupId, kernel: &mut K) -> TurnEnd {
        let active = self.active_index();
        for log in 0..self.logs.len() {
            let group = &self.groups[&id];
            if group.places[log].at_tail {
                continue;
            }
            if !group.gate.is_open(self.logs[log].key().generation) {
                return TurnEnd::Rest;
            }
            match self.catch_up_in(id, log, kernel) {
                Some(end) => return end,
                None if log == active => {}
                None => self.tell_older_done(id),
            }
        }
        TurnEnd::Rest
    }

    /// `None`: the group has read this log to its end.
    fn catch_up_in<K: Kernel>(
        &mut self,
        id: GroupId,
        log: usize,
        kernel: &mut K,
    ) -> Option<TurnEnd> {
        let active = log == self.active_index();
        if let Some(end) = self.find_parked(id, log, kernel) {
            return Some(end);
        }
        if !self.is_sought(id, log, kernel) {
            return Some(TurnEnd::Disk);
        }
        loop {
            let end = if active { self.tail.position() } else { self.logs[log].positions().end() };
            let next = self.next_for(id, log, end, kernel);
            if matches!(next, Ok(_) | Err(None)) {
                self.tell_passed(id, log);
            }
            let batch = match next {
                Ok(batch) => batch,
                Err(end) => return end,
            };
            let mut matched = std::mem::take(&mut self.matched);
            let name = self.match_for(id, log, &batch, &mut matched);
            let bytes = batch.header.batch_len() as u64;
            let offered = match &name {
                Some(name) => self.offer(id, log, &matched, &batch, name),
                None => Offered::Taken,
            };
            self.matched = matched;
            if offered == Offered::Refused {
                self.hold(id, log, batch);
                return Some(TurnEnd::Rest);
            }
            let group = self.groups.get_mut(&id).expect("it has its turn");
            if group.deficit < bytes {
                group.deficit = 0;
                return Some(TurnEnd::More);
            }
            group.deficit -= bytes;
        }
    }

    /// Whether it is known where a group begins to read in a log: starts at a time or at offsets are looked up first.
    fn is_sought<K: Kernel>(&mut self, id: GroupId, log: usize, kernel: &mut K) -> bool {
        let place = &mut self.groups.get_mut(&id).expect("it has its turn").places[log];
        let Some(seek) = &mut place.seek else { return true };
        let Some(found) = self.logs[log].seek_start(seek, kernel) else { return false };
        let start = self.logs[log].positions().start();
        assert!(place.held.is_none() && !place.at_tail, "nothing was read before");
        assert!(
            place.reader.position() <= found,
            "a seek leads forward: {:?} {found:?} {:?}",
            place.reader,
            self.logs[log].positions()
        );
        place.reader = Reader::new(found);
        place.seek = None;
        if found == start {
            self.note_freed(id, log);
        }
        self.note_moved(id);
        true
    }

    /// A group begins in a log with the first event that is kept. If it is for one reader, which has named a time, what
    /// was freed before may be what it has not read.
    pub(super) fn note_freed(&mut self, id: GroupId, log: usize) {
        let (key, to) = (self.logs[log].key(), self.logs[log].positions().start());
        let group = self.groups.get_mut(&id).expect("it begins");
        if to > Position(0) && group.begins_at_time() {
            group.places[log].passed(Gap { log: key, from: Position(0), to, events: None });
        }
    }

    /// Tells the members of a group what of a log is gone, before they get what stands behind it.
    pub(super) fn tell_passed(&mut self, id: GroupId, log: usize) {
        let group = self.groups.get_mut(&id).expect("it has its turn");
        let Some(gap) = group.places[log].gap else { return };
        let members: Vec<MemberId> = group.members.iter().map(|member| member.id).collect();
        if members.is_empty() {
            return;
        }
        group.places[log].gap = None;
        for member in members {
            self.post(member.shard, Mail::Passed { member, gap });
        }
    }

    /// Keeps a batch that nobody can take for the group's next turn; reads it again then, if memory is scarce.
    fn hold(&mut self, id: GroupId, log: usize, batch: StoredBatch) {
        let place = &mut self.groups.get_mut(&id).expect("it has its turn").places[log];
        let (held, held_max) = self.logs[log].read_ahead_bytes();
        assert!(place.held.is_none() && !place.at_tail, "a group keeps one batch, and is behind");
        if 2 * held > held_max {
            place.reader = Reader::new(batch.header.base_position);
        } else {
            place.held = Some(batch);
        }
    }

    /// The next batch that a group wants from where it stands in a log; else why there is none now (`None`: the
    /// group has read the log to its end).
    fn next_for<K: Kernel>(
        &mut self,
        id: GroupId,
        log: usize,
        end: Position,
        kernel: &mut K,
    ) -> Result<StoredBatch, Option<TurnEnd>> {
        let is_active = log == self.active_index();
        let now_us = self.now.mono_us;
        loop {
            let group = self.groups.get_mut(&id).expect("it has its turn");
            let place = &mut group.places[log];
            if let Some(batch) = place.held.take() {
                return Ok(batch);
            }
            if place.failed_until_us > now_us {
                return Err(Some(TurnEnd::Rest));
            }
            let (cache, snapshot) = (&mut self.caches[log], &self.snapshot);
            let mut topic = |topic, name: &Arc<str>| {
                let matched = cache.get(snapshot, topic, || checked_name(name));
                matched.binary_search_by_key(&id, |(group, _)| *group).is_ok()
            };
            let version = Some(snapshot.version());
            let only = only_topic(group.durable, &group.subscriptions);
            let mut wanted = Wanted { version, only, topic: &mut topic };
            let of = &mut self.logs[log];
            let before = place.reader.position();
            let step = of.read_wanted(&mut place.reader, end, &mut wanted, kernel);
            let expired = place.reader.take_expired();
            if expired > 0 {
                let (key, from, to) = (of.key(), before, place.reader.position());
                self.note_expired(id, log, Gap { log: key, from, to, events: Some(expired) });
            }
            let of = &mut self.logs[log];
            let place = &mut self.groups.get_mut(&id).expect("it has its turn").places[log];
            match step {
                ReadStep::Batch(batch) => return Ok(batch),
                ReadStep::Pending => return Err(Some(TurnEnd::Disk)),
                ReadStep::More => return Err(Some(TurnEnd::More)),
                ReadStep::NoRoom => return Err(Some(TurnEnd::Later(now_us + READ_RETRY_US))),
                ReadStep::End => {
                    place.at_tail = is_active;
                    place.owed = None;
                    of.release_memory(&mut place.reader);
                    return Err(None);
                }
                ReadStep::Failed { start, end, failures } => {
                    let key = of.key();
                    let at_us = now_us + self.read_failed(key, (start, end), failures);
                    let group = self.groups.get_mut(&id).expect("it has its turn");
                    group.places[log].failed_until_us = at_us;
                    return Err(Some(TurnEnd::Later(at_us)));
                }
                // What is gone is a gap that the cursor steps over: the reader stands behind it now.
                step @ (ReadStep::Expired { .. } | ReadStep::Damaged { .. }) => {
                    let (from, to) = (before, place.reader.position());
                    place.passed(Gap { log: of.key(), from, to, events: None });
                    let log = of.key();
                    self.step_over(id, log, (from, to), &step);
                }
            }
        }
    }

    /// A group has passed what is gone.
    fn step_over(
        &mut self,
        id: GroupId,
        log: LogKey,
        (from, to): (Position, Position),
        step: &ReadStep,
    ) {
        self.stats.passed_positions += to.0 - from.0;
        let group = id.0;
        if let ReadStep::Damaged { start, end } = step {
            tracing::error!(%log, %start, %end, group, "events are damaged on disk");
        } else {
            tracing::warn!(
                %log, start = %from, end = %to, group,
                "retention took events before a group came to them"
            );
        }
        self.note_moved(id);
    }

    /// The retention of their topics took events that a group wanted before it came to them. It has lost nothing of what
    /// had gone before it began; but the reader for whom it begins at a time may have read up to there.
    pub(super) fn note_expired(&mut self, id: GroupId, log: usize, gap: Gap) {
        let events = gap.events.expect("what stands in a log is counted");
        assert!(events > 0, "a gap is of something");
        let group = self.groups.get_mut(&id).expect("it reads");
        let is_new = gap.to > group.places[log].expired_before;
        if is_new || group.begins_at_time() {
            group.places[log].passed(gap);
        }
        if !is_new {
            return;
        }
        let log = gap.log;
        self.stats.passed_positions += events;
        if self.quiet_until_us <= self.now.mono_us {
            self.quiet_until_us = self.now.mono_us + READ_WARNING_US;
            let (group, all) = (id.0, self.stats.passed_positions);
            tracing::warn!(%log, group, events, all, "the retention of a topic, or its deletion, took events before a group came to them");
        }
        self.note_moved(id);
    }

    /// What of a group matches a batch, and the name of its topic.
    fn match_for(
        &mut self,
        id: GroupId,
        log: usize,
        batch: &StoredBatch,
        matched: &mut Vec<(GroupId, SubscriptionId)>,
    ) -> Option<Arc<str>> {
        let topic = batch.header.topic;
        let name = self.logs[log].topic_name(topic).cloned()?;
        let found = self.caches[log].get(&self.snapshot, topic, || checked_name(&name));
        matched.clear();
        matched.extend(found.iter().filter(|(group, _)| *group == id));
        (!matched.is_empty()).then_some(name)
    }
}

/// The one topic whose events a group gets, if its subscriptions say so. A durable one may be given those of its dead letters
/// besides, which stand in a topic of their own.
fn only_topic(durable: bool, subscriptions: &[GroupSubscription]) -> Option<&str> {
    match subscriptions {
        [known] if !durable => {
            let filter = &known.subscription.filter;
            filter.exact_name().map(|_| filter.as_str())
        }
        _ => None,
    }
}

//! What a shard tells of itself, a bounded step at a time. See [`crate::inquiry`].

use std::collections::BinaryHeap;
use std::sync::Arc;

use codec::ids::{Position, TopicId};
use log::log::Log;
use log::log::place::{Behind, PartitionPlace};
use routing::snapshot::RoutingSnapshot;
use routing::subscription::GroupId;

use crate::inquiry::{
    GroupReport, LogReport, MEMBERS_MAX, MembersReport, PartitionReport, PlaceReport, ShardReport,
};
use crate::session::SessionKey;
use crate::shard::Shard;

/// Things that one step looks at: topics, members, unsettled batches, segments. About 50 us.
const STEP_MAX: usize = 2_048;

/// The least names of topics behind a given one, as they are found.
#[derive(Debug)]
pub(crate) struct TopicPage {
    after: Option<Arc<str>>,
    count: usize,
    /// The greatest on top, to be thrown out for a lesser one.
    least: BinaryHeap<Arc<str>>,
    /// The next to look at.
    next: u32,
}

impl TopicPage {
    pub(crate) fn new(after: Option<Arc<str>>, count: usize) -> Self {
        TopicPage { after, count, least: BinaryHeap::new(), next: 1 }
    }

    fn look_at(&mut self, name: &Arc<str>) {
        if self.after.as_ref().is_some_and(|after| name <= after) {
            return;
        }
        if self.least.len() < self.count {
            self.least.push(Arc::clone(name));
        } else if self.least.peek().is_some_and(|greatest| name < greatest) {
            self.least.pop();
            self.least.push(Arc::clone(name));
        }
        assert!(self.least.len() <= self.count, "a page has its size");
    }

    /// The names, in order.
    pub(crate) fn finish(self) -> Vec<Arc<str>> {
        self.least.into_sorted_vec()
    }
}

/// What a shard knows of a connection's session.
#[derive(Debug, Default)]
pub(crate) struct SessionTold {
    pub(crate) client: Option<Arc<str>>,
    pub(crate) subscriptions: usize,
    pub(crate) waits_for_room: bool,
}

impl Shard {
    /// How the shard is doing.
    #[must_use]
    pub fn report(&self) -> ShardReport {
        let last = self.active_index();
        let report = |(index, log): (usize, &Log)| self.report_log(log, index == last);
        ShardReport {
            shard: self.options.index,
            stats: self.stats,
            memory: self.memory(),
            logs: self.logs.iter().enumerate().map(report).collect(),
            sessions: self.sessions.count(),
            waiting_sessions: self.sessions.waiting.len(),
            groups: self.groups.len(),
            routing_version: self.snapshot.version(),
            is_draining: self.draining,
        }
    }

    /// What the shard routes by.
    #[must_use]
    pub fn routing(&self) -> Arc<RoutingSnapshot> {
        Arc::clone(&self.snapshot)
    }

    fn report_log(&self, log: &Log, is_active: bool) -> LogReport {
        let positions = log.positions();
        LogReport {
            log: log.key(),
            is_active,
            state: log.state(),
            epoch: log.epoch().0,
            start: positions.start(),
            durable_end: positions.durable_end(),
            written_end: positions.written_end(),
            visible_end: if is_active { self.visible_end() } else { positions.end() },
            end: positions.end(),
            topics: log.live_topic_count(),
            segments: log.segment_count(),
            allocated_bytes: log.allocated_bytes(),
            commits: log.durable_commits(),
        }
    }

    /// Reports groups of `ids` from `next` on until a step is over. Returns the next one, or none if that were all.
    pub(crate) fn report_groups(
        &self,
        ids: &[GroupId],
        next: usize,
        out: &mut Vec<GroupReport>,
    ) -> Option<usize> {
        let mut looked_at = 0;
        for (index, id) in ids.iter().enumerate().skip(next) {
            if looked_at >= STEP_MAX {
                return Some(index);
            }
            let Some(group) = self.groups.get(id) else { continue };
            let places = (0..group.places.len()).map(|log| self.report_place(*id, log)).collect();
            let in_flight = group.members.iter().map(|member| u64::from(member.in_flight)).sum();
            out.push(GroupReport { group: *id, members: group.members.len(), in_flight, places });
            let flights: usize = group.places.iter().map(|place| place.log.flights()).sum();
            let segments: usize = self.logs.iter().map(Log::segment_count).sum();
            looked_at += 16 + flights + group.members.len() + segments;
        }
        None
    }

    fn report_place(&self, id: GroupId, log: usize) -> PlaceReport {
        let (group, place) = (&self.groups[&id], &self.logs[log]);
        let cursor = group.cursor(log, self.tail.position());
        let is_active = log == self.active_index();
        let visible_end = if is_active { self.visible_end() } else { place.positions().end() };
        let count = |(start, end): &(Position, Position)| end.0 - start.0;
        let unsettled = cursor.unsettled.iter().map(count).sum();
        let low = cursor.low();
        let unread = visible_end.0.saturating_sub(cursor.next.0);
        let of = &group.places[log];
        let parked = of.log.parked_events() as u64 + of.parked.unfound();
        let owes = unsettled > 0 || unread > 0;
        let behind = if owes { place.behind(low) } else { Behind::default() };
        PlaceReport {
            log: place.key(),
            low,
            next: cursor.next,
            visible_end,
            unsettled,
            parked,
            blocked_keys: of.log.parked_keys() as u64,
            is_stopped: of.log.is_stopped_by_parked(),
            unread,
            bytes: behind.bytes,
            since: behind.since,
        }
    }

    /// Reports a group's members from slot `next` on until a step is over. Returns the next slot, or none if that were
    /// all.
    pub(crate) fn report_members(
        &self,
        group: GroupId,
        next: usize,
        out: &mut MembersReport,
    ) -> Option<usize> {
        if next == 0
            && let Some(state) = self.groups.get(&group)
        {
            let busy = state.members.iter().filter(|member| member.in_flight > 0);
            let busy = busy.map(|member| (member.id, member.in_flight));
            out.in_flight.extend(busy.take(MEMBERS_MAX));
        }
        let client = |session: SessionKey| self.sessions.get(session)?.client.clone();
        let room = MEMBERS_MAX - out.home.len();
        let found = self.members.of_group(self.options.index, group, next, STEP_MAX, &client);
        out.home.extend(found.take(room));
        let end = next + STEP_MAX;
        (end < self.members.slots() && out.home.len() < MEMBERS_MAX).then_some(end)
    }

    /// What the shard knows of a session; nothing of one that is over.
    pub(crate) fn report_session(&self, key: SessionKey) -> SessionTold {
        self.sessions.get(key).map_or_else(SessionTold::default, |session| SessionTold {
            client: session.client.clone(),
            subscriptions: session.subscriptions.len(),
            waits_for_room: session.waiting,
        })
    }

    /// Looks at the next topics of the active log; whether that were all.
    pub(crate) fn report_topics(&self, page: &mut TopicPage) -> bool {
        let log = self.active();
        let end = page.next.saturating_add(STEP_MAX as u32).min(log.topic_count() + 1);
        for id in page.next..end {
            let is_there = !log.is_deleted(TopicId(id));
            if let Some(name) = log.topic_name(TopicId(id)).filter(|_| is_there) {
                page.look_at(name);
            }
        }
        page.next = page.next.max(end);
        page.next > log.topic_count()
    }

    /// The partitions of a topic, once for each log that holds events of it or takes them. None if the shard's active
    /// log does not know the topic.
    pub(crate) fn report_topic(&self, name: &str) -> Option<Vec<PartitionReport>> {
        let (shards, own) = (self.options.shards, self.options.index);
        self.active().topic_id(name)?;
        let last = self.active_index();
        let mut places = Vec::new();
        for (index, log) in self.logs.iter().enumerate() {
            let Some(id) = log.topic_id(name) else { continue };
            // A log knows where each partition went on, also of those that other logs hold.
            let is_told = |place: &PartitionPlace| match index == last {
                true => place.partition.0 % shards == own,
                false => place.start < place.next,
            };
            places.extend(log.partitions(id).filter(is_told).map(|place| PartitionReport {
                partition: place.partition,
                log: log.key(),
                first: place.start,
                next: place.next,
            }));
        }
        Some(places)
    }
}

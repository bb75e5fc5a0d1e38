//! Adoption of snapshots: new subscriptions get a start in each log of this shard, fixed and, for durable groups,
//! written down, before the control plane is told; removed ones are forgotten, moved ones begin anew, paused ones rest.

use std::sync::Arc;

use codec::ids::Position;
use log::cursor::{Cursor, CursorMark};
use log::log::Log;
use log::reader::Reader;
use log::seek::StartSeek;
use routing::snapshot::{Change, RoutingSnapshot, Sought};
use routing::subscription::{GroupId, Start, Subscription};

use crate::control::{ControlReply, ControlRequest};
use crate::group::members::Members;
use crate::group::rules::Rules;
use crate::kernel::Kernel;
use crate::session::Gap;
use crate::shard::Shard;
use crate::shard::group::{Group, GroupSubscription, Place};
use crate::shard::letters::is_letters;
use crate::shard::park::{ParkedPlace, group_of, parked_number};
use crate::shard::policies::retention_of;

/// A version whose starts are not all fixed.
#[derive(Debug)]
pub struct Adopting {
    version: u64,
    /// The last cursor of each log that must be durable; empty until the starts are fixed.
    marks: Vec<Option<CursorMark>>,
    /// Groups whose cursors have to be written.
    groups: Vec<GroupId>,
}

impl Shard {
    /// The newest version the control plane has been told of.
    pub(super) fn adopted_version(&self) -> u64 {
        self.adopting.front().map_or(self.snapshot.version(), |first| first.version - 1)
    }

    pub(super) fn on_control(&mut self, reply: ControlReply) {
        match reply {
            ControlReply::Snapshot(snapshot) => self.on_snapshot(snapshot),
            ControlReply::Subscribed { session, request, result } => {
                self.on_subscribed(session, request, result);
            }
            ControlReply::Unsubscribed { session, request, result } => {
                self.on_unsubscribed(session, request, result);
            }
            ControlReply::Sought(sought) => self.on_sought(&sought),
            ControlReply::DeleteTopic(order) => self.on_delete_topic(&order),
        }
    }

    fn on_snapshot(&mut self, snapshot: Arc<RoutingSnapshot>) {
        if snapshot.version() <= self.snapshot.version() {
            return;
        }
        let version = snapshot.version();
        assert!(
            self.adopting.back().is_none_or(|last| last.version < version),
            "versions are adopted in their order"
        );
        let mut adopting = Adopting { version, marks: Vec::new(), groups: Vec::new() };
        for change in snapshot.changes() {
            match change {
                Change::Added(subscription) => self.add_subscription(subscription, &mut adopting),
                Change::Removed(subscription) => self.remove_subscription(subscription),
                Change::Sought(sought) => self.seek_group(sought, &mut adopting),
                Change::Paused { group, is_paused } => self.pause_group(*group, *is_paused),
                Change::Policy(_) => {}
            }
        }
        if self.snapshot.version() == 0 {
            self.forget_orphans(&snapshot);
        }
        self.policies.adopt(snapshot.topic_policies());
        let retention = retention_of(snapshot.topic_policies());
        for log in &mut self.logs {
            log.keep_topics_by(retention.clone());
        }
        self.snapshot = snapshot;
        self.adopt_policies();
        self.forget_early();
        self.adopting.push_back(adopting);
    }

    /// Groups that are new, and those whose policy has changed, deliver by what the snapshot says.
    fn adopt_policies(&mut self) {
        let snapshot = Arc::clone(&self.snapshot);
        let is_of = |group: &Group, name: &str| {
            let first = group.subscriptions.first();
            first.is_some_and(|known| known.subscription.named_group() == name)
        };
        for change in snapshot.changes() {
            let groups: Vec<GroupId> = match change {
                Change::Added(subscription) => vec![subscription.group],
                Change::Sought(sought) => vec![sought.to()],
                Change::Removed(_) | Change::Paused { .. } => Vec::new(),
                Change::Policy(name) => {
                    let groups = self.groups.iter();
                    let groups = groups.filter(|(_, group)| is_of(group, name));
                    groups.map(|(id, _)| *id).collect()
                }
            };
            groups.into_iter().for_each(|id| self.set_rules(id, &snapshot));
        }
    }

    fn set_rules(&mut self, id: GroupId, snapshot: &RoutingSnapshot) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(first) = group.subscriptions.first() else { return };
        let policy = snapshot.policy(first.subscription.named_group()).filter(|_| group.durable);
        let rules = Rules::new(&self.options, policy.map(|policy| &**policy), group.durable);
        if group.rules != rules {
            group.rules = rules;
            self.limit_credit(id);
            self.wake_lagging(id);
            self.wake_idle(id);
        }
    }

    /// The first version of a life holds every durable group. Cursors of others are of groups that ended as the last life
    /// did, before the end was written here; their numbers never come again. What was taken out of dead letters is kept:
    /// these outlive their group.
    fn forget_orphans(&mut self, first: &RoutingSnapshot) {
        for log in &mut self.logs {
            let known =
                |number| is_letters(number) || !first.subscriptions_of(group_of(number)).is_empty();
            let orphans = log.cursors().map(|(group, _)| group).filter(|group| !known(*group));
            for group in orphans.collect::<Vec<_>>() {
                log.remove_cursor(group);
                assert!(log.cursor(group).is_none(), "what ended has no place");
            }
        }
    }

    fn add_subscription(&mut self, subscription: &Arc<Subscription>, adopting: &mut Adopting) {
        let id = subscription.group;
        if !self.groups.contains_key(&id) {
            let group = self.new_group(subscription);
            self.groups.insert(id, group);
            self.active_mut().keep_tail(true);
        }
        let known = self.groups[&id].subscriptions.iter();
        if known.clone().any(|known| known.subscription.id == subscription.id) {
            return;
        }
        let mut starts = Vec::with_capacity(self.logs.len());
        for log in 0..self.logs.len() {
            starts.push(self.start_in(log, subscription));
        }
        // Nobody may connect before every shard has adopted the first version of this life.
        let stands = self.snapshot.version() == 0;
        let subscription = subscription.clone();
        let group = self.groups.get_mut(&id).expect("inserted above");
        assert!(group.places.len() == self.logs.len(), "a group has a place in every log");
        group.subscriptions.push(GroupSubscription { subscription, starts, stands });
        adopting.groups.push(id);
    }

    /// The start of a subscription in one log: what its cursor says, else what its start says.
    fn start_in(&mut self, log: usize, subscription: &Subscription) -> Option<Position> {
        let cursor = self.recovered_cursor(log, subscription.group);
        let known = |cursor: &Cursor| {
            let starts = &cursor.starts;
            starts.iter().find(|(id, _)| *id == subscription.id.0).map(|(_, at)| *at)
        };
        if let Some(at) = cursor.as_ref().and_then(known) {
            return Some(at);
        }
        let (begin, tail) = (self.logs[log].positions().start(), self.tail_of(log));
        let is_active = log == self.active_index();
        let place = &mut self.groups.get_mut(&subscription.group).expect("exists").places[log];
        let stands_at =
            if place.at_tail && is_active { self.tail.position() } else { place.next() };
        match &subscription.start {
            Start::Tail => return Some(tail),
            Start::Earliest => {}
            // Below its start a time or a list of offsets still chooses events, so reading begins where these are.
            start => {
                let mut seek = StartSeek::new(stands_at);
                match start {
                    Start::Time(time) => seek.add_time(*time),
                    Start::Offsets(listed) => match subscription.filter.exact_name() {
                        Some(topic) => {
                            self.logs[log].add_offsets(&mut seek, topic.as_str(), listed);
                        }
                        None => seek.add_position(begin),
                    },
                    Start::Tail | Start::Earliest => unreachable!("told apart above"),
                }
                place.seek = Some(seek);
            }
        }
        if begin < stands_at {
            place.reader = Reader::new(begin);
            place.expired_before = self.logs[log].expired_end();
            place.held = None;
            place.at_tail = false;
        } else {
            place.seek = None;
            let at_time = matches!(subscription.start, Start::Time(_));
            if at_time && !subscription.is_durable() && begin > Position(0) {
                let log = self.logs[log].key();
                place.passed(Gap { log, from: Position(0), to: begin, events: None });
            }
        }
        Some(if matches!(subscription.start, Start::Time(_)) { tail } else { begin })
    }

    /// A group that this shard has not known: it goes on where its cursors say, or begins at the tails.
    fn new_group(&mut self, subscription: &Subscription) -> Group {
        let places = (0..self.logs.len()).map(|log| {
            let cursor = self.recovered_cursor(log, subscription.group);
            let tail = self.tail_of(log);
            let place = cursor.map_or_else(|| Place::new(tail), Place::resume);
            Place { parked: ParkedPlace::resume(subscription.group, &self.logs[log]), ..place }
        });
        let places = places.collect();
        let durable = subscription.is_durable();
        let gate = self.new_gate(subscription.group);
        Group {
            durable,
            rules: Rules::new(&self.options, None, durable),
            subscriptions: Vec::new(),
            members: Members::default(),
            places,
            gate,
            deficit: 0,
            is_lagging: false,
            is_idle: false,
            is_dying: false,
            is_watched: false,
            is_moved: false,
            is_paused: false,
        }
    }

    fn recovered_cursor(&self, log: usize, group: GroupId) -> Option<Cursor> {
        self.logs[log].cursor(group.0).cloned()
    }

    /// Where routing stands in a log: events from there on are still to come.
    fn tail_of(&self, log: usize) -> Position {
        if log == self.active_index() {
            self.visible_end()
        } else {
            self.logs[log].positions().end()
        }
    }

    fn remove_subscription(&mut self, subscription: &Subscription) {
        self.end_members_of(subscription.id);
        let Some(group) = self.groups.get_mut(&subscription.group) else { return };
        group.subscriptions.retain(|known| known.subscription.id != subscription.id);
        if group.subscriptions.is_empty() {
            self.drop_group(subscription.group);
        }
    }

    /// Forgets a group and its place in every log. Members elsewhere have not left yet; what is in flight to them ends
    /// with the group.
    fn drop_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.remove(&id) else { return };
        self.free_in_flight(group.members.in_flight_bytes());
        let is_read = !self.groups.is_empty();
        self.active_mut().keep_tail(is_read);
        self.catching_up.remove(&id);
        self.waiting_bytes.remove(&id);
        for log in &mut self.logs {
            for number in [id.0, parked_number(id)] {
                if log.cursor(number).is_some() {
                    log.remove_cursor(number);
                }
                assert!(log.cursor(number).is_none(), "what ended has no place");
            }
        }
    }

    /// A group goes on elsewhere: it is a new group, whose starts are fixed as for one, and the old one is over. Its
    /// members come when every shard is so far, or what they are lent would be lent to a group that is not there yet.
    fn seek_group(&mut self, sought: &Arc<Sought>, adopting: &mut Adopting) {
        for subscription in &sought.after {
            self.add_subscription(subscription, adopting);
        }
        // After the new one has come, so that somebody reads all the time and the tail stays in memory.
        self.drop_group(sought.from());
        assert!(self.groups.contains_key(&sought.to()), "a group is moved, not ended");
        self.moving.push(sought.clone());
    }

    /// A group rests: nothing is handed out, and what comes back waits. Or it goes on where it stands.
    fn pause_group(&mut self, id: GroupId, is_paused: bool) {
        let (active, tail) = (self.active_index(), self.tail.position());
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.is_paused = is_paused;
        if !is_paused {
            self.wake_lagging(id);
            return self.wake_idle(id);
        }
        (group.is_lagging, group.is_idle) = (false, false);
        for (log, place) in group.places.iter_mut().enumerate() {
            // It is behind from here on, so that routing from the tail never has to ask whether it rests.
            if place.at_tail && log == active {
                place.reader = Reader::new(tail);
            }
            place.at_tail = false;
            if let Some(held) = place.held.take() {
                place.reader = Reader::new(held.header.base_position);
            }
        }
        assert!(group.places.iter().all(|place| !place.at_tail), "who rests stands at no tail");
        self.lagging.retain(|waiting| *waiting != id);
        self.idle.retain(|waiting| *waiting != id);
    }

    /// Fixes what is still open, writes the cursors, and tells the control plane of versions that are done.
    pub(super) fn adopt<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        let mut work = 0;
        while let Some(mut first) = self.adopting.pop_front() {
            if !self.settle_adoption(&mut first) {
                self.adopting.push_front(first);
                break;
            }
            let adopted =
                ControlRequest::Adopted { shard: self.options.index, version: first.version };
            if kernel.send_control(adopted).is_err() && kernel.control_is_open() {
                self.adopting.push_front(first);
                break;
            }
            work += 1;
            assert!(first.version <= self.snapshot.version(), "only what was adopted is told");
        }
        work
    }

    fn settle_adoption(&mut self, adopting: &mut Adopting) -> bool {
        adopting.marks.resize(self.logs.len(), None);
        for id in std::mem::take(&mut adopting.groups) {
            let marks = self.begin_group(id);
            for (known, new) in adopting.marks.iter_mut().zip(marks) {
                *known = (*known).max(new);
            }
        }
        let durable = |(mark, log): (&Option<CursorMark>, &Log)| {
            mark.is_none_or(|mark| mark <= log.durable_cursor_mark())
        };
        adopting.marks.iter().zip(&self.logs).all(durable)
    }

    /// All starts of a group are known: it may get events. Returns what must become durable before anybody is told.
    fn begin_group(&mut self, id: GroupId) -> Vec<Option<CursorMark>> {
        let (active, tail) = (self.active_index(), self.tail.position());
        let Some(group) = self.groups.get_mut(&id) else { return Vec::new() };
        for (log, place) in group.places.iter_mut().enumerate() {
            let is_at_end = place.next() >= tail && place.parked.is_known();
            place.at_tail |= log == active && is_at_end && !group.is_paused;
            if place.at_tail {
                // All that is before it is routed from there: nothing is left to be looked up.
                place.seek = None;
            }
        }
        let marks = if group.durable { self.write_cursors(id) } else { Vec::new() };
        self.tell_older_done(id);
        self.wake_lagging(id);
        self.wake_idle(id);
        self.note_advanced(id);
        marks
    }

    /// Hands a group's cursors to the log.
    pub(super) fn write_cursors(&mut self, id: GroupId) -> Vec<Option<CursorMark>> {
        let tail = self.tail.position();
        let Some(group) = self.groups.get(&id) else { return Vec::new() };
        let mut marks = Vec::with_capacity(self.logs.len());
        for (index, log) in self.logs.iter_mut().enumerate() {
            let cursor = group.cursor(index, tail);
            let changed = log.cursor(id.0) != Some(&cursor);
            marks.push(changed.then(|| log.put_cursor(id.0, cursor)));
            let place = &group.places[index];
            let Some(parked) = place.parked.cursor(|| place.log.parked_unsettled()) else {
                continue;
            };
            if log.cursor(parked_number(id)) != Some(&parked) {
                log.put_cursor(parked_number(id), parked);
            }
        }
        marks
    }
}

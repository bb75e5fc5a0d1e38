//! How many events a group is owed, or would be after a move: counted by the logs' indexes, a bounded step at a time, for
//! operators who want to know before they do it. See [`crate::inquiry::Inquiry::Count`].

use std::sync::Arc;

use codec::ids::{Offset, Partition, Position, TopicId};
use log::count::{CountStep, Counted, EventCount};
use log::seek::Seek;
use routing::subscription::{GroupId, Start};
use routing::topic::{TopicFilter, TopicName};

use crate::kernel::Kernel;
use crate::shard::Shard;
use crate::shard::group::GroupSubscription;

/// Topics that one step looks at.
const TOPICS_STEP: u32 = 1_024;
/// Most topics and partitions of one log that are counted one by one: some 3 MiB. Beyond it all that stands there counts.
const KEYS_MAX: usize = 65_536;

/// From where on events are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CountFrom {
    /// What a group is owed: what its members have not settled, and what it was not given yet.
    Group(GroupId),
    /// What a group was not given yet.
    Unread(GroupId),
    /// What a group would get that begins there.
    Start(Start),
}

/// A count in the making.
#[derive(Debug)]
pub(crate) struct Counting {
    filters: Arc<[TopicFilter]>,
    from: CountFrom,
    /// The log that is looked at.
    log: usize,
    /// The count in it, once it is known where it begins.
    count: Option<EventCount>,
    /// The next topic of it to be matched.
    topic: u32,
    total: Counted,
}

impl Counting {
    pub(crate) fn new(filters: Arc<[TopicFilter]>, from: CountFrom) -> Self {
        let total = Counted::default();
        Counting { filters, from, log: 0, count: None, topic: 1, total }
    }

    fn matches(&self, name: &TopicName) -> bool {
        self.filters.iter().any(|filter| filter.matches(name))
    }

    fn next_log(&mut self, counted: Counted) {
        self.total.add(counted);
        self.log += 1;
        self.count = None;
        self.topic = 1;
    }
}

impl Shard {
    /// Makes a step of a count. Returns the sum over this shard's logs when it is known.
    pub(crate) fn count_step<K: Kernel>(
        &mut self,
        counting: &mut Counting,
        kernel: &mut K,
    ) -> Option<Counted> {
        if counting.log == self.logs.len() {
            return Some(counting.total);
        }
        let Some(count) = &mut counting.count else {
            self.begin_count(counting, kernel);
            return None;
        };
        if counting.topic <= self.logs[counting.log].topic_count() {
            self.match_topics(counting);
            return None;
        }
        match self.logs[counting.log].count(count, kernel) {
            CountStep::More | CountStep::Pending => {}
            CountStep::Done(counted) => counting.next_log(counted),
        }
        None
    }

    /// Finds out where a count begins in a log.
    fn begin_count<K: Kernel>(&mut self, counting: &mut Counting, kernel: &mut K) {
        let log = counting.log;
        let (start, end) = {
            let positions = self.logs[log].positions();
            (positions.start(), positions.end())
        };
        let (position, is_time) = match &counting.from {
            CountFrom::Unread(group) => {
                let cursor = self.groups.get(group).map(|g| g.cursor(log, self.tail.position()));
                (cursor.map_or(end, |cursor| cursor.next), false)
            }
            CountFrom::Group(group) => match self.groups.get(group) {
                None => (end, false),
                Some(group) => {
                    let cursor = group.cursor(log, self.tail.position());
                    let owed = cursor.unsettled.iter().map(|(from, to)| to.0 - from.0).sum();
                    // Where a place is still looked up it stands too early; and who came later does not want what stands
                    // before it came.
                    let has_begun = |known: &GroupSubscription| {
                        known.subscription.start != Start::Tail
                            || known.starts[log].is_some_and(|start| start <= cursor.next)
                    };
                    let is_exact = group.places[log].seek.is_none()
                        && group.subscriptions.iter().all(has_begun);
                    counting.total.add(Counted { events: owed, is_exact });
                    (cursor.next, false)
                }
            },
            CountFrom::Start(Start::Tail) => (end, false),
            CountFrom::Start(Start::Earliest | Start::Offsets(_)) => (start, false),
            CountFrom::Start(Start::Time(time)) => match self.logs[log].seek_time(*time, kernel) {
                Seek::At(position) => (position, true),
                Seek::Pending => return,
                Seek::Expired { .. } | Seek::End => (start, true),
            },
        };
        assert!(position <= end, "nothing is counted that is yet to come");
        if position >= end {
            return counting.next_log(Counted::default());
        }
        counting.count = Some(EventCount::new(position, is_time));
    }

    /// Adds the topics that match to a count.
    fn match_topics(&self, counting: &mut Counting) {
        let log = &self.logs[counting.log];
        let end = counting.topic.saturating_add(TOPICS_STEP).min(log.topic_count() + 1);
        let mut found = Vec::new();
        for id in (counting.topic..end).map(TopicId) {
            let Some(name) = log.topic_name(id) else { continue };
            let Ok(name) = TopicName::new(Arc::clone(name)) else { continue };
            if counting.matches(&name) {
                let kept = log.partitions(id).filter(|place| place.start < place.next);
                found.extend(kept.map(|place| {
                    let floor = self.floor_of(&counting.from, &name, place.partition);
                    (id, place.partition, floor)
                }));
            }
        }
        counting.topic = end;
        let count = counting.count.as_mut().expect("a count was begun");
        if count.len() + found.len() <= KEYS_MAX {
            found.into_iter().for_each(|(id, partition, floor)| count.add(id, partition, floor));
            return;
        }
        let events = log.positions().end().0 - self.count_begin(counting).0;
        counting.next_log(Counted { events, is_exact: false });
    }

    /// Where the count in a log begins.
    fn count_begin(&self, counting: &Counting) -> Position {
        counting.count.as_ref().map_or(Position(0), EventCount::position)
    }

    /// The offset below which nothing of a topic and partition counts, because of the lists that subscriptions begin with.
    fn floor_of(&self, from: &CountFrom, name: &TopicName, partition: Partition) -> Offset {
        let listed = |start: &Start| match start {
            Start::Offsets(list) => {
                let listed = list.iter().find(|(of, _)| *of == partition);
                listed.map_or(Offset(0), |(_, offset)| *offset)
            }
            _ => Offset(0),
        };
        match from {
            CountFrom::Start(start) => listed(start),
            CountFrom::Group(group) | CountFrom::Unread(group) => {
                let known = self.groups.get(group).into_iter().flat_map(|g| &g.subscriptions);
                let matching = known.filter(|known| known.subscription.filter.matches(name));
                let floors = matching.map(|known| listed(&known.subscription.start));
                floors.min().unwrap_or(Offset(0))
            }
        }
    }
}

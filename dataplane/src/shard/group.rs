//! A group on one shard: its subscriptions, its members here and elsewhere, and its place in each log.

use std::sync::Arc;

use codec::ids::Position;
use log::batch::StoredBatch;
use log::cursor::Cursor;
use log::reader::Reader;
use log::seek::StartSeek;
use routing::subscription::{GroupId, Start, Subscription, SubscriptionId};

use crate::group::group_log::GroupLog;
use crate::group::members::Members;
use crate::group::rules::Rules;
use crate::selection::{Bitmap, Selection};
use crate::session::Gap;
use crate::shard::gate::Gate;
use crate::shard::park::ParkedPlace;

/// One subscription of a group, and where it begins in each log of the shard.
#[derive(Debug)]
pub struct GroupSubscription {
    pub subscription: Arc<Subscription>,
    /// For each log the position from which on everything matches; `None` until it is fixed.
    pub starts: Vec<Option<Position>>,
    /// Whether every shard is known to have adopted it, so that a member may join without a look at the catalog.
    pub stands: bool,
}

impl GroupSubscription {
    /// Which events of a matching batch the subscription is to get: those from its start position on, or not older
    /// than its time, or not below the offset that it names for their partition.
    pub fn eligible(&self, log: usize, batch: &StoredBatch) -> Option<Selection> {
        let header = &batch.header;
        let start = self.starts[log]?;
        if let Start::Time(from) = self.subscription.start
            && header.append_time >= from
        {
            return Some(Selection::All);
        }
        let skipped = match &self.subscription.start {
            Start::Offsets(list) => {
                let listed = list.iter().find(|(listed, _)| *listed == header.partition);
                listed.map_or(0, |(_, from)| from.0.saturating_sub(header.base_offset.0))
            }
            _ => start.0.saturating_sub(header.base_position.0),
        };
        if skipped == 0 {
            return Some(Selection::All);
        }
        if skipped >= u64::from(header.count) {
            return None;
        }
        let mut events = Bitmap::all(header.count);
        events.subtract(&Bitmap::all(skipped as u32));
        Some(Selection::Some(events))
    }
}

/// A group's place in one log.
#[derive(Debug)]
pub struct Place {
    /// What is owed.
    pub log: GroupLog,
    /// The next batch to offer stands here or later. When the group is at the tail the shard's own place counts.
    pub reader: Reader,
    /// Whether the group gets events as they are routed from the tail, and reads nothing itself.
    pub at_tail: bool,
    /// A batch that has been read and that nobody could take.
    pub held: Option<StoredBatch>,
    /// What was owed at the last shutdown: below `next` only these runs of positions are to be delivered.
    pub owed: Option<Cursor>,
    /// Reads batches that are to be delivered again.
    pub again: Option<Reader>,
    /// Reads batches whose events go to the dead letters.
    pub grave: Option<Reader>,
    /// Its parked events, beside those that are owed by now.
    pub parked: ParkedPlace,
    /// Where the reader is to begin is being looked up; until then it stands at the log's start.
    pub seek: Option<StartSeek>,
    /// Reading has failed and is not tried before then, on the monotonic clock.
    pub failed_until_us: u64,
    /// The same for what is to be delivered again.
    pub again_failed_until_us: u64,
    /// What has expired before it was gone before the group began: it has lost nothing of that.
    pub expired_before: Position,
    /// What it has passed that is gone, and no member was told of yet.
    pub gap: Option<Gap>,
}

impl Place {
    /// A group that begins at `next`.
    pub fn new(next: Position) -> Self {
        let reader = Reader::new(next);
        Place {
            log: GroupLog::default(),
            reader,
            at_tail: false,
            held: None,
            owed: None,
            again: None,
            grave: None,
            parked: ParkedPlace::default(),
            seek: None,
            failed_until_us: 0,
            again_failed_until_us: 0,
            expired_before: Position(0),
            gap: None,
        }
    }

    /// A group that goes on where its cursor says: it reads again from the first event that it owes.
    pub fn resume(cursor: Cursor) -> Self {
        let first = cursor.unsettled.first().map_or(cursor.next, |(start, _)| *start);
        Place { owed: Some(cursor), ..Place::new(first) }
    }

    /// It has passed what is gone. Its members are told before anything behind it comes to them.
    pub fn passed(&mut self, gap: Gap) {
        assert!(gap.from < gap.to, "a gap is of something");
        match &mut self.gap {
            Some(known) => known.add(gap),
            None => self.gap = Some(gap),
        }
    }

    /// Where the next batch is read.
    pub fn next(&self) -> Position {
        self.held.as_ref().map_or(self.reader.position(), |held| held.header.base_position)
    }

    /// Which events of a batch were not settled before the last shutdown.
    fn still_owed(&self, batch: &StoredBatch) -> Option<Bitmap> {
        let owed = self.owed.as_ref()?;
        let base = batch.header.base_position;
        if base >= owed.next {
            return None;
        }
        let is_owed = |at: Position| {
            at >= owed.next || owed.unsettled.iter().any(|(start, end)| *start <= at && at < *end)
        };
        let mut events = Bitmap::none(batch.header.count);
        for index in 0..batch.header.count {
            if is_owed(base.plus(u64::from(index))) {
                events.set(index);
            }
        }
        Some(events)
    }

    /// What is owed below the next position, also of what has not been read again yet.
    fn unsettled(&self) -> Vec<(Position, Position)> {
        let mut runs = self.log.unsettled();
        let Some(owed) = &self.owed else { return runs };
        let next = self.next();
        for (start, end) in owed.unsettled.iter().filter(|(_, end)| *end > next) {
            let start = (*start).max(next);
            match runs.last_mut() {
                Some((_, last)) if *last == start => *last = *end,
                _ => runs.push((start, *end)),
            }
        }
        runs
    }
}

/// A group.
#[derive(Debug)]
pub struct Group {
    pub durable: bool,
    /// By which it delivers.
    pub rules: Rules,
    pub subscriptions: Vec<GroupSubscription>,
    pub members: Members,
    /// In the order of the shard's logs; the active one last.
    pub places: Vec<Place>,
    /// Which generations' logs it may take events of.
    pub gate: Gate,
    /// Deficit of round robin over groups that are behind.
    pub deficit: u64,
    /// Whether the group stands on the shard's list of lagging groups.
    pub is_lagging: bool,
    /// Whether the group stands on the shard's list of groups with idle events.
    pub is_idle: bool,
    /// Whether the group stands on the shard's list of groups with dying events.
    pub is_dying: bool,
    /// Whether the group stands on the shard's list of groups whose deadlines are looked at.
    pub is_watched: bool,
    /// Whether the group stands on the shard's list of moved cursors.
    pub is_moved: bool,
    /// Whether it rests: it stands at no tail and on no list of groups that want a turn.
    pub is_paused: bool,
}

impl Group {
    /// Its full name, as its subscriptions know it.
    pub fn name(&self) -> Arc<str> {
        let first = self.subscriptions.first();
        let first = first.expect("a group lasts as long as its subscriptions");
        Arc::clone(&first.subscription.group_name)
    }

    /// Whether it is one reader's, which has named the time from which on it wants events.
    pub fn begins_at_time(&self) -> bool {
        let at_time =
            |known: &GroupSubscription| matches!(known.subscription.start, Start::Time(_));
        !self.durable && self.subscriptions.iter().any(at_time)
    }

    /// Which events of a batch that is for this group alone it is to get: as if all its subscriptions matched. Offsets
    /// at which these start are of other topics.
    pub fn eligible_alone(&self, log: usize, batch: &StoredBatch) -> Option<Selection> {
        let by_offset =
            |known: &GroupSubscription| matches!(known.subscription.start, Start::Offsets(_));
        let mut subscriptions = self.subscriptions.iter();
        let all = subscriptions.clone().any(by_offset).then_some(Selection::All);
        let sum = all.or_else(|| subscriptions.find_map(|known| known.eligible(log, batch)));
        self.still_to_get(log, sum, batch)
    }

    fn still_to_get(
        &self,
        log: usize,
        sum: Option<Selection>,
        batch: &StoredBatch,
    ) -> Option<Selection> {
        let count = batch.header.count;
        let Some(owed) = self.places[log].still_owed(batch) else { return sum };
        let events = sum?.to_bitmap(count).common(&owed);
        (!events.is_empty()).then(|| Selection::from_bitmap(events, count))
    }

    /// Which events of a batch the group is to get, given which of its subscriptions match.
    pub fn eligible(
        &self,
        log: usize,
        matched: &[(GroupId, SubscriptionId)],
        batch: &StoredBatch,
    ) -> Option<Selection> {
        let matching = self
            .subscriptions
            .iter()
            .filter(|known| matched.iter().any(|(_, id)| *id == known.subscription.id));
        let mut sum: Option<Selection> = None;
        for known in matching {
            let Some(more) = known.eligible(log, batch) else { continue };
            sum = Some(match (sum, more) {
                (Some(Selection::Some(mut sum)), Selection::Some(more)) => {
                    sum.add(&more);
                    Selection::Some(sum)
                }
                (Some(Selection::All), _) | (_, Selection::All) => Selection::All,
                (None, more) => more,
            });
        }
        self.still_to_get(log, sum, batch)
    }

    /// The group's state in one log as it is kept on disk. `tail` is the shard's place in the active log.
    pub fn cursor(&self, log: usize, tail: Position) -> Cursor {
        let place = &self.places[log];
        assert!(!place.at_tail || place.held.is_none(), "who is at the tail holds nothing back");
        let mut next = if place.at_tail { tail } else { place.next() };
        if let Some(owed) = &place.owed {
            next = next.max(owed.next);
        }
        let starts = self
            .subscriptions
            .iter()
            .filter_map(|known| Some((known.subscription.id.0, known.starts[log]?)));
        Cursor { next, unsettled: place.unsettled(), starts: starts.collect() }
    }
}

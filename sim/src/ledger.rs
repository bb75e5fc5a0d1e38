//! What the clients of a run know: what they sent, what they were told, what came to them and what they settled. The
//! checkers hold the node to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::body::Body;
use codec::crc32c::crc32c;
use codec::ids::{Offset, Partition, Position, Timestamp};
use dataplane::selection::Selection;
use log::batch::StoredBatch;
use log::disk::LogKey;
use routing::subscription::{GroupId, Start, Subscription, SubscriptionId};
use routing::topic::TopicName;

use crate::copies::At;
use crate::policies::Policies;
use crate::verdicts::Verdicts;

/// Most events of one simulated batch: their states are the bits of one word.
pub const BATCH_EVENTS_MAX: usize = 64;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The checker that saw it.
    pub check: &'static str,
    /// What it saw.
    pub text: String,
}

/// The answer of a checker.
pub type Checked = Result<(), Violation>;

/// Fails a check.
macro_rules! violated {
    ($check:expr, $($text:tt)+) => {
        return Err($crate::ledger::Violation { check: $check, text: format!($($text)+) })
    };
}
pub(crate) use violated;

/// The number of one attempt to publish one batch. It stands in each event's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u32);

/// What a publisher knows about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Taken, and not answered.
    UnderWay,
    /// Told that it has reached the node's ack level.
    Acknowledged {
        /// Where.
        partition: Partition,
        /// The offset of its first event.
        offset: Offset,
        /// The log that took it.
        log: LogKey,
        /// When, in steps of the run.
        at: u64,
    },
    /// Told that it was not taken.
    Refused,
    /// The session or the log ended before the answer.
    Unknown,
}

/// One attempt to publish one batch.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The session it was sent by, unique in the run.
    pub session: u32,
    /// Who sent it, if that one numbers its batches.
    pub publisher: Option<usize>,
    /// How often it was taken: again means the very same batch.
    pub times: u32,
    /// Index of the topic.
    pub topic: usize,
    /// Key of each event: an index into the keys of the run.
    pub keys: Vec<Option<u8>>,
    /// Checksum of the body.
    pub body_crc: u32,
    /// When first, in steps of the run.
    pub sent_at: u64,
    /// Whether the session's own shard owns the partition.
    pub is_local: bool,
    /// What the publisher knows.
    pub fate: Fate,
    /// Whether a subscriber has seen it.
    pub was_visible: bool,
    /// Whether retention has let it go, or the deletion of its topic: it is below the start of its log, or of its topic
    /// and partition there.
    pub is_expired: bool,
    /// Whether its topic's deletion did.
    pub is_deleted: bool,
    /// Whether it was looked for after a recovery and was not there.
    pub was_absent: bool,
}

impl Sent {
    /// A shard has taken it.
    pub fn taken(&mut self, step: u64) {
        self.times += 1;
        // What is sent again may come to stand after all.
        self.was_absent = false;
        if self.times == 1 {
            self.sent_at = step;
        } else {
            // Its answer may come long after it was stored: it says nothing about what was subscribed between.
            self.is_local = false;
        }
        if !matches!(self.fate, Fate::Acknowledged { .. }) {
            self.fate = Fate::UnderWay;
        }
    }
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// In which log.
    pub log: LogKey,
    /// Position of its first event.
    pub base: Position,
    /// Partition.
    pub partition: Partition,
    /// Offset of its first event.
    pub offset: Offset,
    /// When it was appended.
    pub append_time: Timestamp,
}

/// A subscription as its clients know it.
#[derive(Clone, Debug)]
pub struct SubscriptionBook {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// When a client was told that it stands, in steps of the run.
    pub answered_at: Option<u64>,
}

/// One event of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrived {
    /// Of which batch.
    pub id: BatchId,
    /// Which event.
    pub index: u32,
    /// The delivery: where its batch stands, and its number there.
    pub delivery: (Position, u32),
}

/// The events of one key that a member holds.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Who.
    pub member: u32,
    /// Each unsettled event of each delivery, and until when it is certainly in flight to this member.
    pub events: BTreeMap<Arrived, u64>,
    /// From whom the key was taken since its time was over, and when. What another shard sent there before may still
    /// come.
    pub ousted: BTreeMap<u32, u64>,
}

/// What is known about one group.
#[derive(Clone, Debug, Default)]
pub struct GroupBook {
    /// Its subscriptions, also ended ones.
    pub subscriptions: Vec<SubscriptionBook>,
    /// Whether it has ended: nothing is owed any more.
    pub is_over: bool,
    /// Whether it outlives the process.
    pub is_durable: bool,
    /// Since when all shards have it paused.
    pub paused_since_us: Option<u64>,
    /// For each batch the events that have come to a member.
    pub received: BTreeMap<BatchId, u64>,
    /// For each batch the events that a member has settled as done.
    pub settled: BTreeMap<BatchId, u64>,
    /// For each key the place of its event that came first last, and in which life of the node.
    pub newest_first: BTreeMap<u8, (LogKey, Position, u32)>,
    /// Who holds events of each key.
    pub holds: BTreeMap<u8, Hold>,
    /// What else members have said of its events.
    pub verdicts: Verdicts,
}

/// All that is known outside the node.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Every attempt, by its number.
    pub sent: Vec<Sent>,
    /// Where attempts stand, as far as it was seen.
    pub places: BTreeMap<BatchId, Place>,
    /// The start of each log, as far as it was seen: what is below is gone.
    pub starts: BTreeMap<LogKey, Position>,
    /// The first offset of each topic (by index) and partition that logs have kept, where any is gone.
    pub first_offsets: BTreeMap<(LogKey, usize, Partition), Offset>,
    /// What was deleted, and an operator was told so: the first offset that was left of each topic (by index) and partition,
    /// and when he was told; none: before the node last went down.
    pub deleted: BTreeMap<(LogKey, usize, Partition), (Offset, Option<u64>)>,
    /// What deletions have taken, answered or not: the first offset that the last of them left.
    pub taken_before: BTreeMap<(LogKey, usize, Partition), Offset>,
    /// How many events each log says topics' own retention has let go in this life.
    pub expired_events: BTreeMap<LogKey, u64>,
    /// The latest time that a shard may go by.
    pub wall_end: Timestamp,
    /// When that was, by the clock that never steps.
    pub wall_end_us: u64,
    /// Topics of the run.
    pub topics: Vec<TopicName>,
    /// Keys of the run.
    pub keys: Vec<String>,
    /// The policies of its groups.
    pub policies: Policies,
    /// Whether logs let events go, dead letters and parked ones among them.
    pub has_retention: bool,
    /// Dead letters that were found, by the group's full name and the event, and where.
    pub letters: BTreeMap<String, BTreeMap<(BatchId, u32), BTreeSet<At>>>,
    /// Full names of groups that were moved since the node last went down.
    pub moved: BTreeSet<Arc<str>>,
    /// Full names of groups that were ever moved.
    pub ever_moved: BTreeSet<Arc<str>>,
    /// The node's life, from 0.
    pub life: u32,
    /// How often a member was lost, or has left.
    pub losses: u64,
    /// Groups by number.
    pub groups: BTreeMap<GroupId, GroupBook>,
    /// The largest body of a batch that was published.
    pub batch_bytes_max: usize,
    /// Steps of the run so far: the order in which clients learn things.
    pub step: u64,
}

impl Ledger {
    /// The attempt of a number.
    #[must_use]
    pub fn attempt(&self, id: BatchId) -> &Sent {
        &self.sent[id.0 as usize]
    }

    /// The attempt of a number, to change.
    pub fn attempt_mut(&mut self, id: BatchId) -> &mut Sent {
        &mut self.sent[id.0 as usize]
    }

    /// Attempts that no publisher has an answer for will never get one.
    pub fn lose(&mut self, id: BatchId) {
        let sent = self.attempt_mut(id);
        if sent.fate == Fate::UnderWay {
            sent.fate = Fate::Unknown;
        }
    }

    /// Reads which attempt a batch is, and compares all of it with what was sent.
    ///
    /// # Errors
    /// It is not what was sent: a part, a mixture, or something nobody sent.
    pub fn identify(&self, batch: &StoredBatch, topic: &str) -> Result<BatchId, Violation> {
        const CHECK: &str = "whole or absent";
        let header = &batch.header;
        let body = match Body::parse(&batch.body, header.count) {
            Ok(body) => body,
            Err(error) => {
                violated!(CHECK, "a batch at {} is damaged: {error}", header.base_position)
            }
        };
        let data = body.event(0).map(|event| event.data()).unwrap_or_default();
        let Some(number) = data.first_chunk::<4>() else {
            violated!(CHECK, "an event at {} was never sent", header.base_position);
        };
        let id = BatchId(u32::from_le_bytes(*number));
        let Some(sent) = self.sent.get(id.0 as usize) else {
            violated!(CHECK, "batch {} at {} was never sent", id.0, header.base_position);
        };
        if header.count as usize != sent.keys.len() || crc32c(&batch.body) != sent.body_crc {
            violated!(CHECK, "batch {} at {} is not as it was sent", id.0, header.base_position);
        }
        if self.topics[sent.topic].as_str() != topic {
            violated!(CHECK, "batch {} is in topic {topic}", id.0);
        }
        Ok(id)
    }

    /// The book of a group.
    pub fn group_mut(&mut self, group: GroupId) -> &mut GroupBook {
        self.groups.entry(group).or_default()
    }

    /// The control plane has made a subscription.
    pub fn subscription_made(&mut self, subscription: &Arc<Subscription>) {
        let policy = self.policies.of(subscription.named_group()).copied();
        let book = self.group_mut(subscription.group);
        book.is_durable = subscription.is_durable();
        book.verdicts.policy = policy.filter(|_| book.is_durable).unwrap_or_default();
        let known = book.subscriptions.iter().any(|known| known.subscription.id == subscription.id);
        if !known {
            let subscription = subscription.clone();
            book.subscriptions.push(SubscriptionBook { subscription, answered_at: None });
        }
    }

    /// A client was told that a subscription stands.
    pub fn subscription_answered(&mut self, group: GroupId, id: SubscriptionId) {
        let step = self.step;
        let book = self.group_mut(group);
        let known = book.subscriptions.iter_mut().find(|known| known.subscription.id == id);
        if let Some(known) = known {
            known.answered_at.get_or_insert(step);
        }
    }

    /// The events of a batch that a group must get, since one of its subscriptions stands for them, and retention has
    /// not let them go.
    #[must_use]
    pub fn must_get(&self, book: &GroupBook, id: BatchId, place: &Place) -> u64 {
        let sent = self.attempt(id);
        // Retention may have taken what nobody knew to stand there.
        let first = self.first_offsets.get(&(place.log, sent.topic, place.partition));
        if book.is_over || sent.is_expired || first.is_some_and(|first| place.offset < *first) {
            return 0;
        }
        let topic = &self.topics[sent.topic];
        let all = all_events(sent.keys.len());
        let mut must = 0;
        for known in &book.subscriptions {
            let Some(answered_at) = known.answered_at else { continue };
            let subscription = &known.subscription;
            if !subscription.filter.matches(topic) {
                continue;
            }
            let later = sent.sent_at > answered_at || acknowledged_here_after(sent, answered_at);
            let listed = match &subscription.start {
                Start::Offsets(list) => list.iter().find(|(listed, _)| *listed == place.partition),
                _ => None,
            };
            must |= match (&subscription.start, listed) {
                // A list counts offsets, also of events that are yet to come.
                (_, Some((_, from))) => {
                    all & !all_events(from.0.saturating_sub(place.offset.0).min(64) as usize)
                }
                (Start::Earliest, _) => all,
                (Start::Time(at), _) if place.append_time >= *at => all,
                _ if later => all,
                _ => 0,
            };
        }
        must
    }
}

/// On another shard than the publisher's an acknowledgement is on its way while the subscription comes to stand.
fn acknowledged_here_after(sent: &Sent, answered_at: u64) -> bool {
    matches!(sent.fate, Fate::Acknowledged { at, .. } if sent.is_local && at > answered_at)
}

/// The first `count` events of a batch.
#[must_use]
pub fn all_events(count: usize) -> u64 {
    assert!(count <= BATCH_EVENTS_MAX, "simulated batches are small");
    if count == 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The events of a selection.
#[must_use]
pub fn bits_of(selection: &Selection, count: usize) -> u64 {
    let bits = 0..count as u32;
    bits.filter(|index| selection.contains(*index)).fold(0, |sum, index| sum | (1 << index))
}

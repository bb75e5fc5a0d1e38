//! What an operator asks of a group's dead letters, and what a shard answers: pages that take a bounded time each.
//!
//! Which letters are still there is kept like a group's place: a cursor in each log, under a number that is made of the
//! topic's name and is no group's. So what was redriven or purged is gone for good, and the letters outlive their group.
//!
//! A group's parked events are told in the same pages. Which of them still wait its own shard knows.

use std::sync::Arc;

use bytes::Bytes;
use codec::attribute::Key;
use codec::event::Event;
use codec::ids::{Offset, Partition, Position, Timestamp};
use codec::refusal::Refusal;
use log::disk::LogKey;
use routing::topic::{TopicFilter, TopicName};

use crate::dead_letter::{REASON, TOPIC};
use crate::parked;
use crate::selection::Bitmap;

/// Most letters of one page.
pub const LETTERS_MAX: u32 = 1_000;
/// Bytes of letters on one page; one batch of any size always goes.
pub const LETTER_BYTES_MAX: u64 = 4 << 20;

/// What is to be done with the letters that a filter chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterAct {
    /// They are told.
    Browse,
    /// They are counted: what the other acts would do.
    Count,
    /// They are gone.
    Purge,
    /// They are appended to this topic, and then gone.
    Redrive(Arc<str>),
}

/// Of which copies a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterKind {
    /// What a group could not be given.
    Dead,
    /// What waits long before a group is given it again, as long as it waits. It can only be told.
    Parked,
}

/// Why a parked event is not with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It is not to be tried again before its time.
    Delayed,
    /// An event of its key that stands before it is parked, too.
    BehindKey,
    /// Nothing but a member with room, or what else its group is to do first.
    Due,
    /// It is with a member, or leaves for the dead letters or for another wait.
    InFlight,
}

impl Waiting {
    /// Every way to wait.
    pub const ALL: [Waiting; 4] =
        [Waiting::Delayed, Waiting::BehindKey, Waiting::Due, Waiting::InFlight];

    /// The word for it in the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Waiting::Delayed => "delayed",
            Waiting::BehindKey => "behind_key",
            Waiting::Due => "due",
            Waiting::InFlight => "in_flight",
        }
    }
}

/// Which letters are meant: those that meet every wish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Given up for this reason.
    pub reason: Option<Arc<str>>,
    /// Published to a topic that this matches.
    pub topic: Option<TopicFilter>,
    /// Of this key.
    pub key: Option<Arc<str>>,
    /// Of this id.
    pub id: Option<Arc<str>>,
    /// Given up at this time or earlier.
    pub until: Option<Timestamp>,
}

impl LetterFilter {
    /// Whether a letter that was given up at `time` is meant, or a parked event that was parked then.
    #[must_use]
    pub fn chooses(&self, kind: LetterKind, letter: &Event<'_>, time: Timestamp) -> bool {
        let topic_of = match kind {
            LetterKind::Dead => &TOPIC,
            LetterKind::Parked => &parked::TOPIC,
        };
        let is = |wish: &Option<Arc<str>>, key: Key<'_>| {
            wish.as_ref().is_none_or(|wish| letter.text(&key) == Some(wish))
        };
        let topic = |filter: &TopicFilter| {
            let name = letter.text(topic_of).and_then(|name| TopicName::new(name).ok());
            name.is_some_and(|name| filter.matches(&name))
        };
        self.until.is_none_or(|until| time <= until)
            && is(&self.reason, REASON)
            && is(&self.key, Key::PartitionKey)
            && is(&self.id, Key::Id)
            && self.topic.as_ref().is_none_or(topic)
    }
}

/// Where a page begins: an event of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterPlace {
    /// Which log.
    pub log: LogKey,
    /// Which event.
    pub position: Position,
}

/// One page's worth of work on a shard's dead letters of one group.
#[derive(Clone, Debug)]
pub struct LetterOrder {
    /// The group's full name.
    pub group: Arc<str>,
    /// Which of its copies.
    pub kind: LetterKind,
    /// What to do.
    pub act: LetterAct,
    /// With which letters.
    pub filter: LetterFilter,
    /// Where to begin; none: with the first.
    pub from: Option<LetterPlace>,
    /// Letters that it may be about; at most [`LETTERS_MAX`].
    pub count: u32,
}

/// Letters of one batch, as they stand.
#[derive(Clone, Debug)]
pub struct LetterBatch {
    /// Their partition among the dead letters.
    pub partition: Partition,
    /// The offset of the batch's first event there.
    pub base_offset: Offset,
    /// When they were given up.
    pub time: Timestamp,
    /// Events of the batch.
    pub count: u32,
    /// Those that are meant.
    pub events: Bitmap,
    /// How each of these waits, if they are parked events.
    pub waiting: Vec<Waiting>,
    /// The batch's body.
    pub body: Bytes,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct LetterPage {
    /// How many letters it was about.
    pub letters: u64,
    /// The letters, when they are to be told.
    pub batches: Vec<LetterBatch>,
    /// Where the next page begins; none: these were the last of this shard.
    pub next: Option<LetterPlace>,
    /// Why it ended early.
    pub stopped: Option<Refusal>,
}

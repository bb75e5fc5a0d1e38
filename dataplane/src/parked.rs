//! How a parked event looks: the event as it was published, and extension attributes from which its wait goes on after a
//! restart.
//!
//! ```text
//!   parktopic, parkoffset    where it was published first; the partition is the same
//!   parkpublished            when, in microseconds since 1970
//!   parkplace                its position in this log, by which it stands in the line of its key
//!   parkattempts             how often it has been delivered
//!   parknext                 when it is tried again, in microseconds since 1970
//! ```
//!
//! Copies of one batch stood side by side where they were published first, so that one header tells the offsets of all.

use std::sync::Arc;

use codec::attribute::{Key, Value};
use codec::body::Body;
use codec::builder::BatchBuilder;
use codec::cloudevents::{Place, derived_id};
use codec::event::Event;
use codec::header::BatchHeader;
use codec::ids::{Offset, Position, Timestamp, TopicId};
use log::batch::StoredBatch;
use routing::internal_topics::{PARKING, REDRIVE};

use crate::dead_letter;
use crate::group::flight::Parked;
use crate::group::keys::{KeyHash, key_hash, own_key};
use crate::selection::Bitmap;

/// The topic it was published to.
pub const TOPIC: Key<'static> = Key::Extension("parktopic");
/// Its offset there.
pub const OFFSET: Key<'static> = Key::Extension("parkoffset");
/// When it was published.
pub const PUBLISHED: Key<'static> = Key::Extension("parkpublished");
/// Its place in the line of its key.
pub const PLACE: Key<'static> = Key::Extension("parkplace");
/// How often it has been delivered.
pub const ATTEMPTS: Key<'static> = Key::Extension("parkattempts");
/// When it is tried again.
pub const NEXT: Key<'static> = Key::Extension("parknext");

/// All of them.
pub const KEYS: [Key<'static>; 6] = [TOPIC, OFFSET, PUBLISHED, PLACE, ATTEMPTS, NEXT];

/// Where an event was published first, as clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The topic.
    pub topic: Arc<str>,
    /// The offset in its partition.
    pub offset: Offset,
    /// When.
    pub published: Timestamp,
}

/// What a wait goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How often the events have been delivered.
    pub attempts: u32,
    /// When they are tried again.
    pub next: Timestamp,
}

/// A batch of copies, for the same partition, of the first of these events that stand side by side; and which they are.
/// `place` tells each event's place in the line of its key. `None`: the first has no room for the attributes.
#[must_use]
pub fn parked_copies(
    batch: &StoredBatch,
    topic: &str,
    events: &Bitmap,
    place: impl Fn(u32) -> Position,
    wait: Wait,
) -> Option<(Vec<u8>, Bitmap)> {
    let header = &batch.header;
    let body = Body::checked_before(&batch.body, header.count);
    let body = body.expect("what this process reads was checked when it was stored");
    let mut builder = BatchBuilder::default();
    let mut taken = Bitmap::none(header.count);
    let mut before: Option<Origin> = None;
    for index in events.iter() {
        let event = body.event(index).expect("a batch holds the events of its selection");
        let origin = origin(&event, topic, batch, index);
        let is_beside = before.as_ref().is_none_or(|before| {
            (&before.topic, before.offset.plus(1), before.published)
                == (&origin.topic, origin.offset, origin.published)
        });
        if !is_beside
            || push_parked(&mut builder, &event, batch, &origin, place(index), wait).is_none()
        {
            break;
        }
        taken.set(index);
        before = Some(origin);
    }
    (!taken.is_empty()).then(|| (builder.finish(TopicId(0), header.partition), taken))
}

fn push_parked(
    builder: &mut BatchBuilder,
    event: &Event<'_>,
    batch: &StoredBatch,
    origin: &Origin,
    place: Position,
    wait: Wait,
) -> Option<()> {
    let Origin { topic, offset, published } = origin;
    let id = derived_id(&Place { topic, partition: batch.header.partition, offset: *offset });
    let kept = event.attributes().filter(|(key, _)| !KEYS.contains(key));
    let mut attributes: Vec<(Key<'_>, Value<'_>)> = kept.collect();
    if event.get(&Key::Id).is_none() {
        attributes.push((Key::Id, Value::String(&id)));
    }
    let [offset, published, place, next, attempts] =
        [offset.0, published.0, place.0, wait.next.0, u64::from(wait.attempts)]
            .map(|number| number.to_string());
    attributes.extend([
        (TOPIC, Value::String(topic)),
        (OFFSET, Value::String(&offset)),
        (PUBLISHED, Value::String(&published)),
        (PLACE, Value::String(&place)),
        (ATTEMPTS, Value::String(&attempts)),
        (NEXT, Value::String(&next)),
    ]);
    builder.push(&mut attributes, event.data_kind(), event.data()).ok()
}

/// Where an event of a batch of `topic` was published first.
#[must_use]
pub fn origin(event: &Event<'_>, topic: &str, batch: &StoredBatch, index: u32) -> Origin {
    let header = &batch.header;
    let here = || Origin {
        topic: topic.into(),
        offset: header.base_offset.plus(u64::from(index)),
        published: header.append_time,
    };
    let known = |topic: &Key<'_>, offset: &Key<'_>, published: Option<u64>| {
        Some(Origin {
            topic: event.text(topic)?.into(),
            offset: Offset(number(event, offset)?),
            published: published.map_or(header.append_time, Timestamp),
        })
    };
    let before = if topic.starts_with(PARKING) {
        number(event, &PUBLISHED).and_then(|at| known(&TOPIC, &OFFSET, Some(at)))
    } else if topic.starts_with(REDRIVE) {
        known(&dead_letter::TOPIC, &dead_letter::OFFSET, None)
    } else {
        None
    };
    before.unwrap_or_else(here)
}

/// Where the first event of a batch of copies was published, if it was parked from there. What was redriven has outlived
/// that.
#[must_use]
pub fn published(topic: &str, batch: &StoredBatch) -> Option<Origin> {
    let body = Body::checked_before(&batch.body, batch.header.count).ok()?;
    let event = body.event(0)?;
    let is_redriven = event.get(&dead_letter::TOPIC).is_some();
    (!is_redriven).then(|| origin(&event, topic, batch, 0))
}

/// A batch of copies as members are told of it: under the topic, the offset and the time it was published with.
#[must_use]
pub fn told(topic: &Arc<str>, batch: &StoredBatch) -> (Arc<str>, StoredBatch) {
    let first = Body::checked_before(&batch.body, batch.header.count).ok();
    let origin = first.and_then(|body| Some(origin(&body.event(0)?, topic, batch, 0)));
    let Some(Origin { topic, offset, published }) = origin else {
        return (Arc::clone(topic), batch.clone());
    };
    let header = BatchHeader { base_offset: offset, append_time: published, ..batch.header };
    (topic, StoredBatch { header, body: batch.body.clone() })
}

/// What is read again of a batch of copies: what each event stands for, the keys of those that have one, and the wait.
pub type Resumed = (Box<[Parked]>, Vec<(u32, KeyHash)>, Wait);

/// Reads a batch of copies; none: it is not one.
#[must_use]
pub fn resumed(batch: &StoredBatch) -> Option<Resumed> {
    let body = Body::checked_before(&batch.body, batch.header.count).ok()?;
    let mut parked = Vec::new();
    let mut keys = Vec::new();
    let mut wait = None;
    for (index, event) in (0..).zip(body.events()) {
        let place = Position(number(&event, &PLACE)?);
        let key = event.partition_key().map(key_hash);
        keys.extend(key.map(|key| (index, key)));
        parked.push(Parked { key: key.unwrap_or_else(|| own_key(place)), place });
        let attempts = u32::try_from(number(&event, &ATTEMPTS)?).ok()?;
        wait.get_or_insert(Wait { attempts, next: Timestamp(number(&event, &NEXT)?) });
    }
    Some((parked.into(), keys, wait?))
}

fn number(event: &Event<'_>, key: &Key<'_>) -> Option<u64> {
    event.text(key)?.parse().ok()
}

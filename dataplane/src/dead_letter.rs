//! How a dead letter looks: the event as it was published, and extension attributes that say why it stands here, since
//! when, how often it was delivered, and from where it came.
//!
//! ```text
//!   deadgroup      the group that could not be given it
//!   deadreason     rejected | handed_back | timed_out | disconnected | too_old
//!   deadtime       when it was given up
//!   deadattempts   how often it had been delivered since the server's start, or since it was redriven
//!   deadtopic, deadpartition, deadoffset    where it was published first
//! ```
//!
//! An event without an id gets the one that it had where it stood. One that was redriven and dies again keeps the place
//! where it was published first. The attributes are left out of an event that has no room for them.

use std::sync::Arc;

use codec::attribute::{Key, Value};
use codec::body::Body;
use codec::builder::BatchBuilder;
use codec::cloudevents::{Place, derived_id};
use codec::error::BuildError;
use codec::event::Event;
use codec::ids::{Offset, Timestamp, TopicId};
use log::batch::StoredBatch;
use routing::internal_topics::{PARKING, REDRIVE};

use crate::parked;
use crate::selection::Bitmap;

/// The group that could not be given the event.
pub const GROUP: Key<'static> = Key::Extension("deadgroup");
/// Why.
pub const REASON: Key<'static> = Key::Extension("deadreason");
/// When it was given up.
pub const TIME: Key<'static> = Key::Extension("deadtime");
/// How often it was delivered.
pub const ATTEMPTS: Key<'static> = Key::Extension("deadattempts");
/// The topic it was published to.
pub const TOPIC: Key<'static> = Key::Extension("deadtopic");
/// Its partition there.
pub const PARTITION: Key<'static> = Key::Extension("deadpartition");
/// Its offset there.
pub const OFFSET: Key<'static> = Key::Extension("deadoffset");

const KEYS: [Key<'static>; 7] = [GROUP, REASON, TIME, ATTEMPTS, TOPIC, PARTITION, OFFSET];

/// What is said of events that are given up together.
#[derive(Clone, Copy, Debug)]
pub struct Death<'a> {
    /// The group's full name.
    pub group: &'a str,
    /// Why.
    pub reason: &'static str,
    /// When.
    pub time: Timestamp,
    /// How often they were delivered.
    pub attempts: u32,
}

/// A batch of events as it goes on the wire, and which of those asked for are in it: the first, as many as fit.
pub type Copied = (Vec<u8>, Bitmap);

/// A batch of dead letters of some events of a batch, for the same partition. `topic` is that of the batch.
#[must_use]
pub fn dead_letters(
    batch: &StoredBatch,
    topic: &str,
    events: &Bitmap,
    death: &Death<'_>,
) -> Copied {
    let time = rfc3339(death.time);
    copied(batch, events, |index, event, builder| {
        let offset = batch.header.base_offset.plus(u64::from(index));
        push_dead(builder, event, (topic, batch, offset), death, &time)
    })
}

/// A batch of some events of a batch as they are, for the same partition.
#[must_use]
pub fn copies(batch: &StoredBatch, events: &Bitmap) -> Copied {
    copied(batch, events, |_, event, builder| {
        let mut attributes: Vec<_> = event.attributes().collect();
        builder.push(&mut attributes, event.data_kind(), event.data())
    })
}

/// The topic under which a member is told of a batch: what was redriven is told under the topic it was published to.
#[must_use]
pub fn told_topic(name: &Arc<str>, batch: &StoredBatch) -> Arc<str> {
    if !name.starts_with(REDRIVE) {
        return Arc::clone(name);
    }
    let first = Body::checked_before(&batch.body, batch.header.count).ok();
    let first = first.and_then(|body| body.event(0));
    let topic = first.and_then(|event| event.text(&TOPIC));
    topic.map_or_else(|| Arc::clone(name), Arc::from)
}

fn copied(
    batch: &StoredBatch,
    events: &Bitmap,
    mut push: impl FnMut(u32, &Event<'_>, &mut BatchBuilder) -> Result<(), BuildError>,
) -> Copied {
    let header = &batch.header;
    let mut builder = BatchBuilder::default();
    let mut taken = Bitmap::none(header.count);
    let body = Body::checked_before(&batch.body, header.count);
    let body = body.expect("what this process reads was checked when it was stored");
    for index in events.iter() {
        let event = body.event(index).expect("a batch holds the events of its selection");
        match push(index, &event, &mut builder) {
            Ok(()) => taken.set(index),
            Err(BuildError::Full) => break,
            Err(error) => unreachable!("a stored event can be stored again: {error}"),
        }
    }
    assert!(!taken.is_empty(), "any one event fits a batch of its own");
    (builder.finish(TopicId(0), header.partition), taken)
}

fn push_dead(
    builder: &mut BatchBuilder,
    event: &Event<'_>,
    (topic, batch, offset): (&str, &StoredBatch, Offset),
    death: &Death<'_>,
    time: &str,
) -> Result<(), BuildError> {
    let partition = batch.header.partition;
    let index = (offset.0 - batch.header.base_offset.0) as u32;
    let is_parked = topic.starts_with(PARKING);
    let first = is_parked.then(|| parked::origin(event, topic, batch, index));
    let (topic, offset) = first.as_ref().map_or((topic, offset), |at| (&*at.topic, at.offset));
    let id = derived_id(&Place { topic, partition, offset });
    let offset = offset.to_string();
    let is_redriven = topic.starts_with(REDRIVE);
    let from_before = |key: &Key<'_>| event.get(key).filter(|_| is_redriven);
    let is_kept = |key: &Key<'_>| !(KEYS.contains(key) || is_parked && parked::KEYS.contains(key));
    let kept = event.attributes().filter(|(key, _)| is_kept(key));
    let mut attributes: Vec<(Key<'_>, Value<'_>)> = kept.collect();
    if event.get(&Key::Id).is_none() {
        attributes.push((Key::Id, Value::String(&id)));
    }
    let attempts = i32::try_from(death.attempts).unwrap_or(i32::MAX);
    let place = [
        (TOPIC, Value::String(topic)),
        (PARTITION, Value::Integer(i32::from(partition.0))),
        (OFFSET, Value::String(&offset)),
    ];
    attributes.extend(place.map(|(key, value)| (key, from_before(&key).unwrap_or(value))));
    attributes.extend([
        (GROUP, Value::String(death.group)),
        (REASON, Value::String(death.reason)),
        (TIME, Value::Timestamp(time)),
        (ATTEMPTS, Value::Integer(attempts)),
    ]);
    let (kind, data) = (event.data_kind(), event.data());
    match builder.push(&mut attributes, kind, data) {
        // No room for so many attributes, or a name of a group that no attribute may hold.
        Err(BuildError::Limit { .. } | BuildError::AttributeValue { .. }) => {
            let mut bare: Vec<_> = event.attributes().collect();
            builder.push(&mut bare, kind, data)
        }
        result => result,
    }
}

/// A time as CloudEvents writes it, in UTC.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    let (seconds, us) = (time.0 / 1_000_000, time.0 % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, early) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + early;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use codec::batch::Batch;
    use codec::event::DataKind;
    use codec::header::{BatchHeader, HeaderSeed};
    use codec::ids::Partition;

    use super::*;

    /// A date that is off by one would hide when a bad release went out.
    #[test]
    fn times_are_of_the_calendar() {
        let at = |seconds: u64| rfc3339(Timestamp(seconds * 1_000_000 + 7));
        assert_eq!(at(0), "1970-01-01T00:00:00.000007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000007Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.000007Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000007Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000007Z");
    }

    type Attributes<'a> = Vec<(Key<'a>, Value<'a>)>;

    fn stored(events: &mut [Attributes<'_>]) -> StoredBatch {
        let mut shared = [(Key::Source, Value::UriReference("/robot"))];
        let mut builder = BatchBuilder::new(&mut shared).unwrap();
        for attributes in events {
            builder.push(attributes, DataKind::Text, b"hello").unwrap();
        }
        let bytes = builder.finish(TopicId(3), Partition(9));
        stored_of(&bytes, Offset(40))
    }

    fn stored_of(bytes: &[u8], base_offset: Offset) -> StoredBatch {
        let batch = Batch::parse(bytes, HeaderSeed::WIRE).unwrap();
        batch.check().expect("a client can read it");
        let header = BatchHeader { base_offset, ..batch.header };
        StoredBatch { header, body: Bytes::copy_from_slice(batch.body) }
    }

    fn event(batch: &StoredBatch, index: u32) -> Event<'_> {
        Body::checked_before(&batch.body, batch.header.count).unwrap().event(index).unwrap()
    }

    const DEATH: Death<'static> =
        Death { group: "orders", reason: "rejected", time: Timestamp(1), attempts: 5 };

    /// An event that changes on its way to the dead letters could not be worked through later.
    #[test]
    fn an_event_keeps_what_it_was_and_gains_why() {
        let keyed = vec![(Key::PartitionKey, Value::String("k")), (Key::Id, Value::String("7"))];
        let own = vec![(Key::Extension("deadtopic"), Value::String("a client's own"))];
        let batch = stored(&mut [vec![], keyed, own]);
        let mut chosen = Bitmap::none(3);
        chosen.set(1);
        chosen.set(2);
        let (bytes, taken) = dead_letters(&batch, "a/b", &chosen, &DEATH);
        assert_eq!(taken, chosen);
        let dead = stored_of(&bytes, Offset(0));
        assert_eq!((dead.header.partition, dead.header.count), (Partition(9), 2));
        let (first, second) = (event(&dead, 0), event(&dead, 1));
        assert_eq!(first.partition_key(), Some("k"));
        assert_eq!(first.text(&Key::Id), Some("7"));
        assert_eq!(first.text(&Key::Source), Some("/robot"));
        assert_eq!((first.data(), first.data_kind()), (&b"hello"[..], DataKind::Text));
        assert_eq!(second.text(&Key::Id), Some("a/b/9/42"), "the id that it had in its place");
        assert_eq!((first.text(&TOPIC), first.text(&OFFSET)), (Some("a/b"), Some("41")));
        assert_eq!(second.text(&TOPIC), Some("a/b"));
        assert_eq!(first.get(&PARTITION), Some(Value::Integer(9)));
        assert_eq!(first.get(&ATTEMPTS), Some(Value::Integer(5)));
        assert_eq!((first.text(&GROUP), first.text(&REASON)), (Some("orders"), Some("rejected")));
        assert_eq!(first.text(&TIME), Some("1970-01-01T00:00:00.000001Z"));
    }

    /// Redriven and dead again: where it was published first must not be lost behind the server's own topic.
    #[test]
    fn a_redriven_event_keeps_where_it_came_from() {
        let batch = stored(&mut [vec![]]);
        let (bytes, _) = dead_letters(&batch, "a/b", &Bitmap::all(1), &DEATH);
        let (bytes, _) = copies(&stored_of(&bytes, Offset(5)), &Bitmap::all(1));
        let again = stored_of(&bytes, Offset(6));
        let name: Arc<str> = format!("{REDRIVE}7").into();
        assert_eq!(&*told_topic(&name, &again), "a/b");
        let death = Death { reason: "timed_out", attempts: 2, ..DEATH };
        let (bytes, _) = dead_letters(&again, &name, &Bitmap::all(1), &death);
        let dead = stored_of(&bytes, Offset(0));
        let dead = event(&dead, 0);
        assert_eq!((dead.text(&TOPIC), dead.text(&OFFSET)), (Some("a/b"), Some("40")));
        assert_eq!(dead.get(&PARTITION), Some(Value::Integer(9)));
        assert_eq!(dead.text(&Key::Id), Some("a/b/9/40"));
        assert_eq!(
            (dead.text(&REASON), dead.get(&ATTEMPTS)),
            (Some("timed_out"), Some(Value::Integer(2)))
        );
    }

    /// An event that is as large as one may be must still find its way to the dead letters.
    #[test]
    fn an_event_without_room_goes_as_it_is() {
        let text = "x".repeat(60_000);
        let rest = "y".repeat(5_400);
        let full = vec![
            (Key::Subject, Value::String(&text)),
            (Key::Extension("more"), Value::String(&rest)),
        ];
        let batch = stored(&mut [full]);
        let (bytes, _) = dead_letters(&batch, "a/b", &Bitmap::all(1), &DEATH);
        let dead = stored_of(&bytes, Offset(0));
        assert_eq!(event(&dead, 0).text(&Key::Subject), Some(&*text));
        assert_eq!(event(&dead, 0).text(&REASON), None);
    }
}

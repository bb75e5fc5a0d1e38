//! What the server makes of events: copies among the parked ones, and dead letters. Each is known again by its data.

use std::sync::Arc;

use codec::attribute::{Key, Value};
use codec::body::Body;
use codec::event::Event;
use codec::ids::{Offset, Partition, Position};
use dataplane::{dead_letter, parked};
use log::batch::StoredBatch;
use log::disk::LogKey;
use routing::internal_topics::{DEAD, PARKING};

use crate::ledger::{BatchId, Ledger, Violation, violated};
use crate::random::Random;

const CHECK: &str = "copies are of events";

/// Where a copy stands.
pub type At = (LogKey, Position);

/// A dead letter that was found.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its topic.
    pub topic: Arc<str>,
    /// Where it stands.
    pub at: At,
    /// In which partition.
    pub partition: Partition,
    /// Of which event.
    pub event: (BatchId, u32),
    /// The group's full name, as it says.
    pub group: String,
    /// Why.
    pub reason: String,
    /// How often it was delivered.
    pub attempts: u32,
    /// The topic that it was published to, as it says.
    pub from_topic: String,
    /// The offset there.
    pub offset: Offset,
}

/// A parked event that was found.
#[derive(Clone, Debug)]
pub struct ParkedCopy {
    /// Its topic.
    pub topic: Arc<str>,
    /// Where it stands.
    pub at: At,
    /// Of which event.
    pub event: (BatchId, u32),
    /// Where that was appended first.
    pub place: Position,
    /// How often it was delivered.
    pub attempts: u32,
}

/// What is found in a batch of the server's own.
#[derive(Clone, Debug)]
pub enum Copies {
    /// Dead letters.
    Letters(Vec<Letter>),
    /// Parked events.
    Parked(Vec<ParkedCopy>),
}

/// Reads a batch of the server's own; none: it is one of a publisher's.
///
/// # Errors
/// It is not a copy of what was sent.
pub fn read(
    ledger: &Ledger,
    batch: &StoredBatch,
    topic: &Arc<str>,
    log: LogKey,
) -> Result<Option<Copies>, Violation> {
    let header = &batch.header;
    let at = |index: u32| (log, header.base_position.plus(u64::from(index)));
    if topic.starts_with(DEAD) {
        let letter = |(index, event): (u32, Event<'_>)| {
            let event_id = recognise(ledger, &event, at(index))?;
            let Some(letter) = letter(&event, topic, at(index), header.partition, event_id) else {
                violated!(CHECK, "a dead letter at {:?} lacks attributes", at(index));
            };
            Ok(letter)
        };
        let letters = events(batch)?.into_iter().map(letter).collect::<Result<_, _>>()?;
        return Ok(Some(Copies::Letters(letters)));
    }
    if topic.starts_with(PARKING) {
        let copy = |(index, event): (u32, Event<'_>)| {
            let of = recognise(ledger, &event, at(index))?;
            let (Some(place), Some(attempts)) =
                (number(&event, &parked::PLACE), number(&event, &parked::ATTEMPTS))
            else {
                violated!(CHECK, "a parked event at {:?} lacks attributes", at(index));
            };
            let (topic, at) = (Arc::clone(topic), at(index));
            let (place, attempts) = (Position(place), attempts as u32);
            Ok(ParkedCopy { topic, at, event: of, place, attempts })
        };
        let copies = events(batch)?.into_iter().map(copy).collect::<Result<_, _>>()?;
        return Ok(Some(Copies::Parked(copies)));
    }
    Ok(None)
}

/// A delivery of parked events: which they are of the batch that they were published in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shifted {
    /// The batch.
    pub id: BatchId,
    /// Which of its events the first of these is.
    pub first: u32,
    /// Where the batch was appended.
    pub base: Position,
}

/// Reads a batch as a member is told of it; none: it comes from where it was published.
///
/// # Errors
/// It is not of events that stood side by side in one batch.
pub fn delivered(ledger: &Ledger, batch: &StoredBatch) -> Result<Option<Shifted>, Violation> {
    let base = batch.header.base_position;
    let mut first: Option<Shifted> = None;
    for (index, event) in events(batch)? {
        let Some(place) = number(&event, &parked::PLACE) else { return Ok(None) };
        let (id, of) = recognise(ledger, &event, base)?;
        let Some(base) = place.checked_sub(u64::from(of)) else {
            violated!(CHECK, "batch {} event {of} has place {place}", id.0);
        };
        let this = Shifted { id, first: of.wrapping_sub(index), base: Position(base) };
        if *first.get_or_insert(this) != this {
            violated!(CHECK, "parked together: {first:?} and {this:?}");
        }
    }
    Ok(first)
}

fn events(batch: &StoredBatch) -> Result<Vec<(u32, Event<'_>)>, Violation> {
    match Body::parse(&batch.body, batch.header.count) {
        Ok(body) => Ok((0..).zip(body.events()).collect()),
        Err(error) => {
            violated!(CHECK, "a batch at {} is damaged: {error}", batch.header.base_position)
        }
    }
}

/// Which event this is a copy of; its key and its data are compared with what was sent.
fn recognise(
    ledger: &Ledger,
    event: &Event<'_>,
    at: impl std::fmt::Debug,
) -> Result<(BatchId, u32), Violation> {
    let data = event.data();
    let (Some(id), Some(index)) = (word(data, 0), word(data, 4)) else {
        violated!(CHECK, "an event at {at:?} was never sent");
    };
    let (id, index) = (BatchId(id), index);
    let sent = ledger.sent.get(id.0 as usize);
    let Some(key) = sent.and_then(|sent| sent.keys.get(index as usize)) else {
        violated!(CHECK, "batch {} event {index} at {at:?} was never sent", id.0);
    };
    let key = key.map(|key| ledger.keys[usize::from(key)].as_str());
    let mut filler = Random::new(u64::from(id.0) << 8 | u64::from(index));
    let is_whole = data[8..].chunks(8).all(|bytes| *bytes == filler.next_u64().to_le_bytes());
    if event.partition_key() != key || !is_whole {
        violated!(CHECK, "batch {} event {index} at {at:?} is not as it was sent", id.0);
    }
    Ok((id, index))
}

fn letter(
    event: &Event<'_>,
    topic: &Arc<str>,
    at: At,
    partition: Partition,
    of: (BatchId, u32),
) -> Option<Letter> {
    let integer = |key: &Key<'_>| match event.get(key) {
        Some(Value::Integer(number)) => u32::try_from(number).ok(),
        _ => None,
    };
    let text = |key: &Key<'_>| event.text(key).map(str::to_owned);
    let said = integer(&dead_letter::PARTITION)?;
    Some(Letter {
        topic: Arc::clone(topic),
        at,
        // One that says another than it stands in is of neither.
        partition: if said == u32::from(partition.0) { partition } else { Partition::ANY },
        event: of,
        group: text(&dead_letter::GROUP)?,
        reason: text(&dead_letter::REASON)?,
        attempts: integer(&dead_letter::ATTEMPTS)?,
        from_topic: text(&dead_letter::TOPIC)?,
        offset: Offset(number(event, &dead_letter::OFFSET)?),
    })
}

fn number(event: &Event<'_>, key: &Key<'_>) -> Option<u64> {
    event.text(key)?.parse().ok()
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

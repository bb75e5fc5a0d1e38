//! Puts events into batches: one open batch a topic and partition, closed by count or bytes, or when nothing more is at
//! hand.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use codec::attribute::{Key, Value};
use codec::builder::BatchBuilder;
use codec::cloudevents::parsed::ParsedEvent;
use codec::cloudevents::{SOURCE_IF_ABSENT, TYPE_IF_ABSENT};
use codec::error::BuildError;
use codec::ids::{Partition, TopicId};
use codec::murmur2::partition_of;

/// A batch is closed when it reaches this: larger ones gain nothing and hold up what shares the connection.
const BATCH_BYTES_SOFT: usize = 256 << 10;
/// Open batches beyond which all are closed: each event may have a topic of its own.
const OPEN_MAX: usize = 1_024;

/// A closed batch and what its publisher must remember of it.
pub struct Closed {
    /// Where it goes.
    pub topic: Arc<str>,
    /// Header and body, as they go on the wire; the topic's number is still to be set.
    pub batch: Vec<u8>,
    /// The ids of its events, in order.
    pub ids: Vec<String>,
}

/// Open batches.
pub struct Batches {
    open: BTreeMap<(Arc<str>, u16), (BatchBuilder, Vec<String>)>,
    events_max: u32,
    partitions: u16,
}

impl Batches {
    /// Batches of at most `events_max` events, for a server with so many partitions.
    #[must_use]
    pub fn new(events_max: u32, partitions: u16) -> Self {
        Batches { open: BTreeMap::new(), events_max, partitions }
    }

    /// Adds an event; batches that this fills are closed into `closed`.
    ///
    /// # Errors
    /// The event is over a limit.
    pub fn push(
        &mut self,
        topic: &Arc<str>,
        event: &ParsedEvent<'_>,
        closed: &mut Vec<Closed>,
    ) -> Result<(), BuildError> {
        let partition = event
            .partition_key()
            .map_or(Partition::ANY, |key| partition_of(key.as_bytes(), self.partitions));
        let place = (Arc::clone(topic), partition.0);
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&place) {
            self.close_all(closed);
            self.open.clear();
        }
        let (builder, ids) = match self.open.entry(place) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert((BatchBuilder::new(&mut shared())?, Vec::new())),
        };
        if let Err(error) = push_to(builder, event) {
            if error != BuildError::Full {
                return Err(error);
            }
            closed.push(close(topic, partition, builder, ids));
            push_to(builder, event)?;
        }
        ids.push(event.text(&Key::Id).unwrap_or_default().to_owned());
        if builder.count() >= self.events_max || builder.body_len() >= BATCH_BYTES_SOFT {
            closed.push(close(topic, partition, builder, ids));
        }
        Ok(())
    }

    /// Closes all batches that have events.
    pub fn close_all(&mut self, closed: &mut Vec<Closed>) {
        for ((topic, partition), (builder, ids)) in &mut self.open {
            if builder.count() > 0 {
                closed.push(close(topic, Partition(*partition), builder, ids));
            }
        }
    }
}

fn close(
    topic: &Arc<str>,
    partition: Partition,
    builder: &mut BatchBuilder,
    ids: &mut Vec<String>,
) -> Closed {
    Closed {
        topic: Arc::clone(topic),
        batch: builder.finish(TopicId(1), partition),
        ids: std::mem::take(ids),
    }
}

/// What nearly all events of a person have in common stands once a batch.
fn shared() -> [(Key<'static>, Value<'static>); 2] {
    [
        (Key::Source, Value::UriReference(SOURCE_IF_ABSENT)),
        (Key::Type, Value::String(TYPE_IF_ABSENT)),
    ]
}

/// Every event has a source and a type, so what the batch shares never adds an attribute to it.
fn push_to(builder: &mut BatchBuilder, event: &ParsedEvent<'_>) -> Result<(), BuildError> {
    let shared = shared();
    let mut own: Vec<_> =
        event.attributes().filter(|attribute| !shared.contains(attribute)).collect();
    builder.push(&mut own, event.data_kind(), event.data())
}

#[cfg(test)]
mod tests {
    use codec::batch::Batch;
    use codec::cloudevents::{Defaults, Mode};
    use codec::header::HeaderSeed;

    use super::*;

    fn event(json: &str) -> ParsedEvent<'static> {
        let defaults = Defaults { id: None, source: SOURCE_IF_ABSENT, event_type: TYPE_IF_ABSENT };
        let parsed =
            codec::cloudevents::json::parse_event(json.as_bytes(), Mode::Lenient(&defaults));
        parsed.unwrap().into_owned()
    }

    /// A batch holds events of one partition; what it shares must not change what an event says.
    #[test]
    fn events_keep_what_they_say() {
        let mut batches = Batches::new(2, 64);
        let mut closed = Vec::new();
        let topic = Arc::from("t");
        let mut push = |json: &str, closed: &mut Vec<Closed>| {
            batches.push(&topic, &event(json), closed).unwrap();
        };
        push("{\"id\":\"1\",\"key\":\"a\",\"data\":1}", &mut closed);
        push("{\"id\":\"2\",\"type\":\"own\",\"data\":2}", &mut closed);
        assert!(closed.is_empty());
        push("{\"id\":\"3\",\"source\":\"/own\",\"key\":\"a\",\"data\":3}", &mut closed);
        assert_eq!(closed.len(), 1, "two events of one key are enough");
        batches.close_all(&mut closed);
        batches.close_all(&mut closed);
        assert_eq!(closed.len(), 2, "what is closed is closed once");
        let ids: Vec<_> = closed.iter().map(|batch| batch.ids.clone()).collect();
        assert_eq!(ids, [vec!["1", "3"], vec!["2"]]);
        let mut said = Vec::new();
        for Closed { batch, .. } in &closed {
            let batch = Batch::parse(batch, HeaderSeed::WIRE).unwrap();
            for event in batch.check().unwrap().events() {
                let text = |key| event.text(&key).unwrap_or("-").to_owned();
                said.push(
                    [text(Key::Id), text(Key::Source), text(Key::Type), text(Key::PartitionKey)]
                        .join(" "),
                );
            }
        }
        assert_eq!(said, ["1 / event a", "3 /own event a", "2 / own -"]);
    }

    /// An event that fits no batch is refused by name; the events before it are not lost.
    #[test]
    fn too_large_events_leave_the_batch_as_it_was() {
        let mut batches = Batches::new(10, 64);
        let mut closed = Vec::new();
        let topic = Arc::from("t");
        batches.push(&topic, &event("{\"id\":\"1\",\"data\":1}"), &mut closed).unwrap();
        let large = event(&format!("{{\"id\":\"2\",\"ext\":\"{}\"}}", "x".repeat(65_000)));
        let mut larger = large.clone();
        larger.set(&Key::Extension("more"), &Value::String(&"y".repeat(1_000)));
        batches.push(&topic, &large, &mut closed).unwrap();
        assert!(matches!(
            batches.push(&topic, &larger, &mut closed),
            Err(BuildError::Limit { .. })
        ));
        batches.close_all(&mut closed);
        assert_eq!(closed[0].ids, ["1", "2"]);
    }

    /// Topics that never come again must not fill the memory, and none may get another's events.
    #[test]
    fn each_topic_has_its_own_batches() {
        let mut batches = Batches::new(10, 64);
        let mut closed = Vec::new();
        for n in 0..2 * OPEN_MAX + 1 {
            let topic = Arc::from(format!("t/{}", n / 2).as_str());
            batches.push(&topic, &event(&format!("{{\"id\":\"{n}\"}}")), &mut closed).unwrap();
            assert!(batches.open.len() <= OPEN_MAX);
        }
        batches.close_all(&mut closed);
        assert_eq!(closed.len(), OPEN_MAX + 1);
        for Closed { topic, ids, .. } in &closed {
            let n: usize = topic[2..].parse().unwrap();
            let all = [2 * n, 2 * n + 1].map(|id| id.to_string());
            assert!(*ids == all || (n == OPEN_MAX && ids[..] == all[..1]), "{topic}: {ids:?}");
        }
    }
}

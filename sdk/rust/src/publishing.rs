//! Batches on their way: being filled, waiting for the window, sent and unacknowledged.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use codec::ack::AckLevel;
use codec::builder::BatchBuilder;
use codec::frame::{Acked, FEATURE_SEQUENCES, Welcome};
use codec::ids::{Offset, Partition, TopicId};
use tokio::sync::oneshot;

use crate::error::PublishError;
use crate::sequences::Sequences;

/// An event has been acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// The topic.
    pub topic: Arc<str>,
    /// Where it stands.
    pub partition: Partition,
    /// Its offset there.
    pub offset: Offset,
    /// What can be relied on.
    pub level: AckLevel,
}

/// A batch has been acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchAck {
    /// The topic.
    pub topic: Arc<str>,
    /// Where it stands.
    pub partition: Partition,
    /// Offset of its first event.
    pub base_offset: Offset,
    /// Its events.
    pub count: u32,
    /// What can be relied on.
    pub level: AckLevel,
}

/// Who waits for a batch.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// For the whole batch.
    Batch(oneshot::Sender<Result<BatchAck, PublishError>>),
    /// For one of its events.
    Event(u32, oneshot::Sender<Result<Ack, PublishError>>),
}

/// A batch that is complete.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) topic: Arc<str>,
    pub(crate) number: TopicId,
    pub(crate) batch: Bytes,
    pub(crate) waiters: Vec<Waiter>,
}

/// A batch that is being filled.
#[derive(Debug)]
struct Open {
    builder: BatchBuilder,
    waiters: Vec<Waiter>,
    since: Instant,
}

/// All batches of a client.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    numbers: HashMap<Arc<str>, TopicId>,
    open: HashMap<(TopicId, Partition), (Arc<str>, Open)>,
    /// Complete, waiting for the window, in order.
    waiting: VecDeque<Sealed>,
    /// Sent, by request: in the order in which they were sent.
    sent: BTreeMap<u64, Sealed>,
    next_request: u64,
    bytes: usize,
    /// Why the server does not take a topic, by the number that was to stand for it. What is published under that
    /// number is refused as "unknown topic", which tells nobody what to change.
    topics_refused: BTreeMap<TopicId, PublishError>,
    /// None with a server that does not know sequences.
    sequences: Option<Sequences>,
}

impl Publishing {
    /// A connection has been welcomed. A server that knows no sequences is given none.
    pub(crate) fn connected(&mut self, welcome: &Welcome) {
        let unkeyed = (welcome.features & FEATURE_SEQUENCES != 0).then_some(welcome.partition);
        let unkeyed = unkeyed.map(Partition);
        match (&mut self.sequences, unkeyed) {
            (Some(sequences), Some(unkeyed)) => sequences.connected(unkeyed),
            (sequences, unkeyed) => *sequences = unkeyed.map(Sequences::new),
        }
    }

    /// The number of a topic on this client's connections.
    pub(crate) fn number(&mut self, topic: &str, topics_max: u32) -> (Arc<str>, TopicId) {
        if let Some((name, number)) = self.numbers.get_key_value(topic) {
            return (name.clone(), *number);
        }
        let name: Arc<str> = topic.into();
        // Beyond the limit numbers are given again: each batch is sent behind the announcement that it needs.
        let number = TopicId(1 + self.numbers.len() as u32 % topics_max.max(1));
        if self.numbers.len() >= 4 * topics_max as usize {
            self.numbers.clear();
        }
        self.numbers.insert(name.clone(), number);
        (name, number)
    }

    /// Adds an event to the batch of its topic and partition; a full one is sealed first.
    pub(crate) fn push(
        &mut self,
        (topic, number): (Arc<str>, TopicId),
        partition: Partition,
        event: &crate::event::Event,
        waiter: oneshot::Sender<Result<Ack, PublishError>>,
        limits: (u32, usize),
    ) -> Result<(), PublishError> {
        let key = (number, partition);
        if self.open.get(&key).is_some_and(|(name, _)| *name != topic) {
            self.seal(key);
        }
        for _ in 0..2 {
            let (_, open) = self.open.entry(key).or_insert_with(|| {
                let builder = BatchBuilder::default();
                (topic.clone(), Open { builder, waiters: Vec::new(), since: Instant::now() })
            });
            let before = open.builder.body_len();
            match event.push_to(&mut open.builder) {
                Ok(()) => {
                    let index = open.builder.count() - 1;
                    open.waiters.push(Waiter::Event(index, waiter));
                    self.bytes += open.builder.body_len() - before;
                    if open.builder.count() >= limits.0 || open.builder.body_len() >= limits.1 {
                        self.seal(key);
                    }
                    return Ok(());
                }
                Err(codec::error::BuildError::Full) => self.seal(key),
                Err(error) => {
                    if open.builder.count() == 0 {
                        self.open.remove(&key);
                    }
                    return Err(PublishError::Event(error));
                }
            }
        }
        unreachable!("an empty batch is never full")
    }

    /// A batch that is complete: it gets its sequence, and is sent behind all before it.
    pub(crate) fn put(
        &mut self,
        (topic, number): (Arc<str>, TopicId),
        mut batch: Vec<u8>,
        waiters: Vec<Waiter>,
    ) {
        if let Some(sequences) = &mut self.sequences {
            sequences.stamp(&mut batch);
        }
        self.bytes += batch.len();
        self.waiting.push_back(Sealed { topic, number, batch: Bytes::from(batch), waiters });
    }

    fn seal(&mut self, (number, partition): (TopicId, Partition)) {
        let Some((topic, mut open)) = self.open.remove(&(number, partition)) else { return };
        self.bytes -= open.builder.body_len() - BatchBuilder::default().body_len();
        let batch = open.builder.finish(number, partition);
        self.put((topic, number), batch, open.waiters);
    }

    /// Seals what has waited for others long enough.
    pub(crate) fn seal_due(&mut self, due: impl Fn(Instant) -> bool) {
        let keys: Vec<_> = self
            .open
            .iter()
            .filter(|(_, (_, open))| due(open.since))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.seal(key);
        }
    }

    /// Since when the oldest batch is being filled.
    pub(crate) fn oldest_open(&self) -> Option<Instant> {
        self.open.values().map(|(_, open)| open.since).min()
    }

    /// Moves the next batch from waiting to sent, if fewer than `window` are.
    pub(crate) fn send_next(&mut self, window: usize) -> Option<(u64, &Sealed)> {
        if self.sent.len() >= window {
            return None;
        }
        let sealed = self.waiting.pop_front()?;
        self.next_request += 1;
        let request = self.next_request;
        Some((request, self.sent.entry(request).or_insert(sealed)))
    }

    /// A batch has been acknowledged.
    pub(crate) fn acked(&mut self, acked: &Acked) {
        let Some(sealed) = self.sent.remove(&acked.request) else { return };
        self.bytes -= sealed.batch.len();
        let Acked { partition, base_offset, count, level, .. } = *acked;
        for waiter in sealed.waiters {
            let topic = sealed.topic.clone();
            // Who no longer waits does not need the answer.
            match waiter {
                Waiter::Batch(sender) => {
                    let ack = BatchAck { topic, partition, base_offset, count, level };
                    let _ = sender.send(Ok(ack));
                }
                Waiter::Event(index, sender) => {
                    let offset = base_offset.plus(u64::from(index));
                    let _ = sender.send(Ok(Ack { topic, partition, offset, level }));
                }
            }
        }
    }

    /// A batch has been refused. One that a server refuses because it goes stays unanswered: it may stand there since
    /// it was first sent, so that only the next connection can tell.
    pub(crate) fn refused(&mut self, request: u64, error: &PublishError) {
        if self.sequences.is_some() && error.is_shutting_down() {
            return;
        }
        if let Some(sealed) = self.sent.remove(&request) {
            self.bytes -= sealed.batch.len();
            let cause =
                self.topics_refused.get(&sealed.number).filter(|_| error.is_unknown_topic());
            fail(sealed, cause.unwrap_or(error));
        }
    }

    /// The server does not take the topic of this number.
    pub(crate) fn topic_refused(&mut self, number: TopicId, error: PublishError) {
        self.topics_refused.insert(number, error);
    }

    /// The connection is lost: everything unacknowledged waits again, before everything else, in its order.
    pub(crate) fn connection_lost(&mut self) {
        for (_, sealed) in std::mem::take(&mut self.sent).into_iter().rev() {
            self.waiting.push_front(sealed);
        }
    }

    /// Nothing will be sent any more.
    pub(crate) fn fail_all(&mut self, error: &PublishError) {
        self.seal_due(|_| true);
        self.connection_lost();
        for sealed in self.waiting.drain(..) {
            self.bytes -= sealed.batch.len();
            fail(sealed, error);
        }
    }

    /// Bytes that wait or are unacknowledged.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything is acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.waiting.is_empty() && self.sent.is_empty()
    }
}

fn fail(sealed: Sealed, error: &PublishError) {
    for waiter in sealed.waiters {
        match waiter {
            Waiter::Batch(sender) => drop(sender.send(Err(error.clone()))),
            Waiter::Event(_, sender) => drop(sender.send(Err(error.clone()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use codec::batch::Batch;
    use codec::header::HeaderSeed;
    use codec::refusal::Code;

    use super::*;
    use crate::error::ServerRefusal;
    use crate::event::Event;

    fn publish(publishing: &mut Publishing, number: u32) {
        let topic = (Arc::from("t"), TopicId(1));
        let event = Event::text(number.to_string());
        let (sender, _) = oneshot::channel();
        let done = publishing.push(topic, Partition(3), &event, sender, (1, 1 << 20));
        done.expect("the event is small");
    }

    fn sent(publishing: &mut Publishing) -> Vec<(u64, u64, u64)> {
        let mut list = Vec::new();
        while let Some((request, sealed)) = publishing.send_next(8) {
            let header = Batch::parse(&sealed.batch, HeaderSeed::WIRE).expect("made here").header;
            list.push((request, header.publisher_id, header.sequence));
        }
        list
    }

    fn refusal(code: Code) -> PublishError {
        let text = String::new();
        let frame =
            codec::frame::RefusalFrame { code: code.number(), kind: 4, closes: false, text: &text };
        PublishError::Refused(ServerRefusal::from_frame(&frame))
    }

    /// A batch that is sent again under another sequence, or behind a later one, is stored twice or refused; and what a
    /// server refuses because it goes may stand there since it was first sent.
    #[test]
    fn what_is_sent_again_keeps_its_sequence_and_its_order() {
        let mut publishing =
            Publishing { sequences: Some(Sequences::new(Partition(0))), ..Default::default() };
        (1..=4).for_each(|number| publish(&mut publishing, number));
        let first = sent(&mut publishing);
        assert_eq!(first.iter().map(|sent| sent.2).collect::<Vec<_>>(), [1, 2, 3, 4]);
        publishing.refused(first[1].0, &refusal(Code::ShuttingDown));
        publishing.refused(first[2].0, &refusal(Code::DiskFull));
        publishing.connection_lost();
        publish(&mut publishing, 5);
        let again = sent(&mut publishing);
        assert_eq!(again.iter().map(|sent| sent.2).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert!(again.iter().all(|sent| sent.1 == first[0].1), "one publisher id");
        assert!(again.iter().all(|sent| sent.0 > first[3].0), "the requests are new");
    }

    /// A server that does not know sequences refuses every batch that has one.
    #[test]
    fn servers_without_the_feature_get_no_sequences() {
        let mut publishing = Publishing::default();
        publish(&mut publishing, 1);
        assert_eq!(sent(&mut publishing), [(1, 0, 0)]);
    }
}

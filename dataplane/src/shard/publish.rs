//! The way in: a batch is admitted, appended to the log of its partition's owner, and acknowledged when its commit has
//! reached the ack level.

use std::collections::VecDeque;
use std::sync::Arc;

use codec::batch::Batch;
use codec::header::BatchHeader;
use codec::ids::{Offset, Partition, Position, TopicId};
use codec::limits::PARTITIONS;
use codec::refusal::{Code, Refusal};
use log::batch::{LogState, NoAppend};
use log::landing::{Landing, Source};
use log::publishers::Stored;
use routing::topic::TopicName;

use crate::fence::Fence;
use crate::mail::{Mail, PublishOutcome, RemoteBody, RemotePublish};
use crate::options::{ADMISSION_QUANTUM_BYTES, REMOTE_PUBLISHES_MAX};
use crate::session::{Admission, Asked, SessionEvent, SessionKey};
use crate::shard::Shard;
use crate::shard::errands::OWN;

/// Mail that one cycle takes at most. Bounds the time of a cycle.
pub const MAIL_PER_CYCLE: u32 = 4_096;
/// Sessions that one cycle tells of room.
const ROOMS_PER_CYCLE: usize = 64;

/// An appended batch that is not yet acknowledged.
#[derive(Debug)]
struct Unacked {
    /// Position after its last event.
    end: Position,
    /// The shard of its publisher; this one's own index when the session is here.
    from: u16,
    session: SessionKey,
    request: u64,
    partition: Partition,
    base_offset: Offset,
    count: u32,
    bytes: u32,
}

/// What is on its way to one other shard.
#[derive(Clone, Copy, Debug, Default)]
struct Forwarded {
    batches: usize,
    bytes: usize,
}

/// Publishes under way.
#[derive(Debug)]
pub struct Publishing {
    /// By rising position.
    unacked: VecDeque<Unacked>,
    /// The same of what shards have appended for themselves: it waits until it is durable.
    own: VecDeque<Unacked>,
    forwarded: Vec<Forwarded>,
    /// Bytes that may be on the way to one shard.
    forwarded_bytes_max: u64,
    /// From other shards, in the order in which they came, waiting for room in the log.
    arrived: VecDeque<RemotePublish>,
}

impl Publishing {
    /// Nothing is under way to or from `shards` shards; at most `forwarded_bytes_max` may be to each.
    pub fn new(shards: u16, forwarded_bytes_max: u64) -> Self {
        Publishing {
            unacked: VecDeque::new(),
            own: VecDeque::new(),
            forwarded: vec![Forwarded::default(); usize::from(shards)],
            forwarded_bytes_max,
            arrived: VecDeque::new(),
        }
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.unacked.is_empty()
            && self.own.is_empty()
            && self.arrived.is_empty()
            && self.forwarded.iter().all(|forwarded| forwarded.batches == 0)
    }

    /// Batches and bytes on their way to each shard.
    pub fn forwarded(&self) -> Vec<(usize, usize)> {
        self.forwarded.iter().map(|to| (to.batches, to.bytes)).collect()
    }

    /// Batches and bytes of other shards' publishers that wait for room.
    pub fn arrived(&self) -> (usize, usize) {
        (self.arrived.len(), self.arrived.iter().map(|publish| publish.body_bytes() as usize).sum())
    }

    /// Batches that are appended and not acknowledged.
    pub fn unacked(&self) -> usize {
        self.unacked.len() + self.own.len()
    }

    /// Where an append of `session` waits for its answer.
    fn waiting(&mut self, session: SessionKey) -> &mut VecDeque<Unacked> {
        if session == OWN { &mut self.own } else { &mut self.unacked }
    }

    /// Reserves a place on the way to `shard`.
    fn reserve(&mut self, shard: u16, bytes: usize) -> bool {
        let forwarded = &mut self.forwarded[usize::from(shard)];
        let fits = forwarded.batches == 0
            || (forwarded.batches < REMOTE_PUBLISHES_MAX
                && (forwarded.bytes + bytes) as u64 <= self.forwarded_bytes_max);
        if fits {
            forwarded.batches += 1;
            forwarded.bytes += bytes;
            assert!(
                forwarded.batches == 1 || forwarded.bytes as u64 <= self.forwarded_bytes_max,
                "only one batch alone may be larger than the bound"
            );
        }
        fits
    }

    fn release(&mut self, shard: u16, bytes: usize) {
        let forwarded = &mut self.forwarded[usize::from(shard)];
        assert!(forwarded.batches > 0 && forwarded.bytes >= bytes, "one answer a publish");
        forwarded.batches -= 1;
        forwarded.bytes -= bytes;
        assert!(forwarded.batches > 0 || forwarded.bytes == 0, "every byte is a batch's");
    }
}

/// Where an append is to go and who waits for it.
struct Append<'a> {
    from: u16,
    session: SessionKey,
    request: u64,
    topic: &'a Arc<str>,
    partition: Partition,
    header: &'a BatchHeader,
    body: Source<'a>,
}

impl Shard {
    /// Takes a batch that has been checked ([`Batch::check`]).
    ///
    /// # Errors
    /// A refusal for the publisher; nothing was taken.
    pub fn publish(
        &mut self,
        key: SessionKey,
        request: u64,
        topic: &Arc<str>,
        batch: &Batch<'_>,
    ) -> Result<Admission, Refusal> {
        self.publish_from(key, request, topic, &batch.header, Source::Bytes(batch.body))
    }

    /// Memory to receive a large batch into ([`Shard::publish_landed`]): `len` bytes of a frame that has been admitted
    /// ([`Shard::admit_frame`]), of which `lead` come before the batch.
    #[must_use]
    pub fn landing(&self, lead: usize, len: usize) -> Landing {
        self.active().landing(lead, len)
    }

    /// Takes a batch that has been checked and stands in `landing`. That is taken, too, unless there was no room.
    ///
    /// # Errors
    /// A refusal for the publisher; nothing was taken.
    pub fn publish_landed(
        &mut self,
        key: SessionKey,
        request: u64,
        topic: &Arc<str>,
        header: &BatchHeader,
        landing: &mut Option<Landing>,
    ) -> Result<Admission, Refusal> {
        self.publish_from(key, request, topic, header, Source::Landing(landing))
    }

    fn publish_from(
        &mut self,
        key: SessionKey,
        request: u64,
        topic: &Arc<str>,
        header: &BatchHeader,
        body: Source<'_>,
    ) -> Result<Admission, Refusal> {
        let _fence = Fence::default();
        if self.draining {
            return Err(Code::ShuttingDown.into());
        }
        let index = self.options.index;
        let Some(session) = self.sessions.get(key) else { return Ok(Admission::Taken) };
        let partition = match header.partition {
            Partition::ANY => session.partition,
            partition if partition.0 < PARTITIONS => partition,
            unknown => {
                let text = format!("partition is {unknown}, there are {PARTITIONS}");
                return Err(Refusal::new(Code::UnknownPartition, text));
            }
        };
        if !self.has_turn(key, header.batch_len() as u64) {
            return Ok(self.wait_for_room(key));
        }
        let owner = partition.0 % self.options.shards;
        if owner != index {
            if !self.publishing.reserve(owner, header.body_len as usize) {
                return Ok(self.wait_for_room(key));
            }
            self.stats.forwarded_batches += 1;
            let (session, topic, header) = (key, topic.clone(), *header);
            let body = RemoteBody::from(body);
            let publish =
                RemotePublish { from: index, session, request, topic, partition, header, body };
            self.outbox.push(owner, Mail::Publish(Box::new(publish)));
            return Ok(Admission::Taken);
        }
        let mut append =
            Append { from: index, session: key, request, topic, partition, header, body };
        match self.try_append(&mut append) {
            Ok(()) => Ok(Admission::Taken),
            Err(NoAppend::NoRoom) => Ok(self.wait_for_room(key)),
            Err(error) => {
                self.stats.refused_publishes += 1;
                Err(refusal_of(&error))
            }
        }
    }

    /// Takes a batch that this shard has made itself; [`Shard::errand_done`] is called with its number once it is durable.
    pub(super) fn publish_own(
        &mut self,
        number: u64,
        topic: &Arc<str>,
        batch: &Batch<'_>,
    ) -> Result<(), NoAppend> {
        let (from, partition) = (self.options.index, batch.header.partition);
        assert!(partition.0 < PARTITIONS, "it is that of a stored batch");
        let owner = partition.0 % self.options.shards;
        let (session, request, header) = (OWN, number, &batch.header);
        let body = Source::Bytes(batch.body);
        if owner == from {
            let mut append = Append { from, session, request, topic, partition, header, body };
            return self.try_append(&mut append);
        }
        if !self.publishing.reserve(owner, header.body_len as usize) {
            return Err(NoAppend::NoRoom);
        }
        self.stats.forwarded_batches += 1;
        let (topic, header, body) = (topic.clone(), *header, RemoteBody::from(body));
        let publish = RemotePublish { from, session, request, topic, partition, header, body };
        self.outbox.push(owner, Mail::Publish(Box::new(publish)));
        Ok(())
    }

    /// From other shards, and then those sessions that wait for room.
    pub(super) fn admit(&mut self) -> u32 {
        let mut work = 0;
        while let Some(mut publish) = self.publishing.arrived.pop_front() {
            let mut append = Append {
                from: publish.from,
                session: publish.session,
                request: publish.request,
                topic: &publish.topic,
                partition: publish.partition,
                header: &publish.header,
                body: publish.body.source(),
            };
            match self.try_append(&mut append) {
                Ok(()) => work += 1,
                Err(NoAppend::NoRoom) => {
                    self.publishing.arrived.push_front(publish);
                    break;
                }
                Err(error) => {
                    self.stats.refused_publishes += 1;
                    self.answer(&publish, Err(refusal_of(&error)));
                }
            }
        }
        work + self.offer_room()
    }

    pub(super) fn on_publish(&mut self, publish: RemotePublish) {
        assert!(
            publish.partition.0 % self.options.shards == self.options.index,
            "a batch comes to the owner of its partition"
        );
        assert!(publish.from != self.options.index, "what is this shard's own needs no mail");
        self.publishing.arrived.push_back(publish);
    }

    pub(super) fn on_published(&mut self, from: u16, outcome: PublishOutcome) {
        self.publishing.release(from, outcome.bytes as usize);
        self.may_have_room = true;
        let PublishOutcome { session, request, partition, count, result, .. } = outcome;
        if session == OWN {
            return self.errand_done(request, result.err());
        }
        let ack = self.options.ack;
        let event = match result {
            Ok(base_offset) => {
                SessionEvent::Published { request, partition, base_offset, count, ack }
            }
            Err(refusal) => SessionEvent::Refused { what: Asked::Publish, request, refusal },
        };
        self.sessions.say(session, event);
    }

    /// Tells the publishers of everything that has reached the ack level.
    pub(super) fn release_acks(&mut self) -> u32 {
        let end = self.visible_end();
        let mut released = 0;
        while self.publishing.unacked.front().is_some_and(|unacked| unacked.end <= end) {
            let unacked = self.publishing.unacked.pop_front().expect("looked at just now");
            released += 1;
            self.acknowledge(unacked, None);
        }
        let durable_end = self.active().positions().durable_end();
        while self.publishing.own.front().is_some_and(|own| own.end <= durable_end) {
            let own = self.publishing.own.pop_front().expect("looked at just now");
            released += 1;
            self.acknowledge(own, None);
        }
        if let LogState::Stopped(_) = self.active().state() {
            // What a failed write has left unknown is refused: it may or may not be there after a restart.
            let (unacked, own) = (&mut self.publishing.unacked, &mut self.publishing.own);
            for unacked in std::mem::take(unacked).into_iter().chain(std::mem::take(own)) {
                released += 1;
                self.acknowledge(unacked, Some(Code::LogStopped.into()));
            }
        }
        released
    }

    fn acknowledge(&mut self, unacked: Unacked, refusal: Option<Refusal>) {
        let Unacked { from, session, request, partition, base_offset, count, bytes, .. } = unacked;
        if from != self.options.index {
            let result = refusal.map_or(Ok(base_offset), Err);
            let outcome = PublishOutcome { session, request, partition, count, bytes, result };
            let from =
                (from, Mail::Published { from: self.options.index, outcome: Box::new(outcome) });
            self.outbox.push(from.0, from.1);
            return;
        }
        if session == OWN {
            return self.errand_done(request, refusal);
        }
        let ack = self.options.ack;
        let event = match refusal {
            None => SessionEvent::Published { request, partition, base_offset, count, ack },
            Some(refusal) => SessionEvent::Refused { what: Asked::Publish, request, refusal },
        };
        self.sessions.say(session, event);
    }

    fn answer(&mut self, publish: &RemotePublish, result: Result<Offset, Refusal>) {
        let outcome = PublishOutcome {
            session: publish.session,
            request: publish.request,
            partition: publish.partition,
            count: publish.header.count,
            bytes: publish.body_bytes(),
            result,
        };
        let mail = Mail::Published { from: self.options.index, outcome: Box::new(outcome) };
        self.outbox.push(publish.from, mail);
    }

    fn try_append(&mut self, append: &mut Append<'_>) -> Result<(), NoAppend> {
        let now = self.now.wall;
        let topic = self.active().topic_id(append.topic);
        if let Some(stored) = self.active().stored(topic, append.partition, append.header)? {
            self.answer_again(append, stored);
            return Ok(());
        }
        let topic = match topic {
            Some(topic) => topic,
            None => self.create_topic(append.topic)?,
        };
        let log = self.active_mut();
        let source = append.body.by_ref();
        let done = log.append_from(topic, append.partition, append.header, source, now);
        if let Err(NoAppend::NoRoom) = done {
            self.may_have_room = false;
        }
        let done = done?;
        let count = append.header.count;
        self.stats.appended_batches += 1;
        self.stats.appended_events += u64::from(count);
        self.stats.appended_bytes += u64::from(append.header.body_len);
        let waiting = self.publishing.waiting(append.session);
        let last = waiting.back();
        assert!(last.is_none_or(|last| last.end <= done.base_position), "positions rise");
        waiting.push_back(Unacked {
            end: done.base_position.plus(u64::from(count)),
            from: append.from,
            session: append.session,
            request: append.request,
            partition: append.partition,
            base_offset: done.base_offset,
            count,
            bytes: append.header.body_len,
        });
        Ok(())
    }

    /// A batch that stands already: its publisher is told the first place, as soon as that has reached the ack level.
    fn answer_again(&mut self, append: &Append<'_>, stored: Stored) {
        self.stats.resent_batches += 1;
        let end = self.active().positions().end();
        assert!(stored.end <= end, "what is stored was appended");
        let last = self.publishing.unacked.back();
        assert!(last.is_none_or(|last| last.end <= end), "acks go out by rising position");
        let unacked = Unacked {
            // Behind all that waits, so that the list stays in order; the next commit takes all of it.
            end,
            from: append.from,
            session: append.session,
            request: append.request,
            partition: append.partition,
            base_offset: stored.base_offset,
            count: append.header.count,
            bytes: append.header.body_len,
        };
        if stored.end <= self.visible_end() {
            self.acknowledge(unacked, None);
        } else {
            self.publishing.unacked.push_back(unacked);
        }
    }

    fn create_topic(&mut self, name: &Arc<str>) -> Result<TopicId, NoAppend> {
        debug_assert!(TopicName::check(name).is_ok(), "doors parse topic names");
        self.active_mut().create_topic(name)
    }

    /// Deficit round robin by bytes: while others wait, a session appends at most a quantum a turn, and saves up for a
    /// batch that is larger.
    fn has_turn(&mut self, key: SessionKey, bytes: u64) -> bool {
        if self.sessions.waiting.is_empty() {
            return true;
        }
        let now = self.now.mono_us;
        let Some(session) = self.sessions.get_mut(key) else { return true };
        if session.raised_us != now {
            session.raised_us = now;
            session.deficit = session.deficit.min(bytes) + ADMISSION_QUANTUM_BYTES;
        }
        if session.deficit < bytes {
            return false;
        }
        session.deficit -= bytes;
        true
    }

    fn wait_for_room(&mut self, key: SessionKey) -> Admission {
        self.stats.no_room += 1;
        if let Some(session) = self.sessions.get_mut(key)
            && !session.waiting
        {
            session.waiting = true;
            self.sessions.waiting.push_back(key);
        }
        Admission::NoRoom
    }

    /// Tells sessions that wait, in turn, to try again. One that finds no room goes to the end of the line.
    fn offer_room(&mut self) -> u32 {
        if !self.publishing.arrived.is_empty() || !self.may_have_room {
            return 0;
        }
        let count = self.sessions.waiting.len().min(ROOMS_PER_CYCLE);
        for _ in 0..count {
            let key = self.sessions.waiting.pop_front().expect("counted above");
            if let Some(session) = self.sessions.get_mut(key) {
                assert!(session.waiting, "a session stands in line once");
                session.waiting = false;
                self.sessions.say(key, SessionEvent::Room);
            }
        }
        count as u32
    }
}

pub(super) fn refusal_of(error: &NoAppend) -> Refusal {
    match *error {
        NoAppend::NoRoom => Code::Overloaded.into(),
        NoAppend::DiskFull => Code::DiskFull.into(),
        NoAppend::Stopped => Code::LogStopped.into(),
        NoAppend::TooManyTopics => Code::TooManyTopics.into(),
        NoAppend::SequenceTooOld { sequence, oldest, newest } if oldest < sequence => {
            let text = format!("sequence is {sequence} and was not stored, {newest} was since");
            Refusal::new(Code::SequenceTooOld, text)
        }
        NoAppend::SequenceTooOld { sequence, oldest, newest } => {
            let text = format!(
                "sequence is {sequence}, {oldest} to {newest} are remembered: it may have been stored"
            );
            Refusal::new(Code::SequenceTooOld, text)
        }
        NoAppend::SequenceReused { sequence } => {
            let text = format!("sequence {sequence} stands for a batch with another body");
            Refusal::new(Code::SequenceReused, text)
        }
        _ => Code::Overloaded.into(),
    }
}

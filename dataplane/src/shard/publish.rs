//! The way in: a batch is admitted, appended to the log of its partition's owner, and acknowledged when its commit has
//! reached the ack level of its topic ([`super::acks`]).

use std::collections::VecDeque;
use std::sync::Arc;

use codec::ack::AckLevel;
use codec::batch::Batch;
use codec::body::Body;
use codec::header::BatchHeader;
use codec::ids::{Partition, TopicId};
use codec::limits::PARTITIONS;
use codec::refusal::{Code, Refusal};
use log::batch::{LogState, NoAppend};
use log::landing::{Landing, Source};
use log::publishers::Stored;
use routing::topic::TopicName;
use routing::topic_policy::TopicPolicy;

use crate::fence::Fence;
use crate::mail::{Mail, PublishOutcome, RemoteBody, RemotePublish};
use crate::options::{ADMISSION_QUANTUM_BYTES, REMOTE_PUBLISHES_MAX};
use crate::session::{Admission, Asked, SessionEvent, SessionKey, TopicHandle};
use crate::shard::Shard;
use crate::shard::acks::Unacked;
use crate::shard::errands::OWN;

/// Mail that one cycle takes at most. Bounds the time of a cycle.
pub const MAIL_PER_CYCLE: u32 = 4_096;
/// Sessions that one cycle tells of room.
const ROOMS_PER_CYCLE: usize = 64;

/// What is on its way to one other shard.
#[derive(Clone, Copy, Debug, Default)]
struct Forwarded {
    batches: usize,
    bytes: usize,
}

/// Publishes under way.
#[derive(Debug)]
pub struct Publishing {
    forwarded: Vec<Forwarded>,
    /// Bytes that may be on the way to one shard.
    forwarded_bytes_max: u64,
    /// From other shards, and of this shard's own what was set aside, in the order in which they came, waiting for room in the
    /// log.
    arrived: VecDeque<RemotePublish>,
}

impl Publishing {
    /// Nothing is under way to or from `shards` shards; at most `forwarded_bytes_max` may be to each.
    pub fn new(shards: u16, forwarded_bytes_max: u64) -> Self {
        Publishing {
            forwarded: vec![Forwarded::default(); usize::from(shards)],
            forwarded_bytes_max,
            arrived: VecDeque::new(),
        }
    }

    /// Whether nothing is under way to or from other shards.
    pub fn is_idle(&self) -> bool {
        self.arrived.is_empty() && self.forwarded.iter().all(|forwarded| forwarded.batches == 0)
    }

    /// Batches and bytes on their way to each shard.
    pub fn forwarded(&self) -> Vec<(usize, usize)> {
        self.forwarded.iter().map(|to| (to.batches, to.bytes)).collect()
    }

    /// Batches and bytes of other shards' publishers that wait for room.
    pub fn arrived(&self) -> (usize, usize) {
        (self.arrived.len(), self.arrived.iter().map(|publish| publish.body_bytes() as usize).sum())
    }

    /// A batch may be appended as soon as there is room.
    pub fn arrived_now(&mut self, publish: RemotePublish) {
        self.arrived.push_back(publish);
    }

    /// What was set aside goes on, before all that came later.
    pub fn go_on(&mut self, publishes: Vec<RemotePublish>) {
        publishes.into_iter().rev().for_each(|publish| self.arrived.push_front(publish));
    }

    /// Whether something of this shard's own sessions that was set aside may still wait for room.
    pub fn is_behind(&self, index: u16) -> bool {
        self.forwarded[usize::from(index)].batches > 0 && !self.arrived.is_empty()
    }

    /// Reserves a place on the way to `shard`.
    pub fn reserve(&mut self, shard: u16, bytes: usize) -> bool {
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

    /// What was reserved is free again.
    pub fn release(&mut self, shard: u16, bytes: usize) {
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
    topic: &'a TopicHandle,
    partition: Partition,
    header: &'a BatchHeader,
    body: Source<'a>,
    /// The topic is known on another shard, so that it is not begun here.
    is_known: bool,
}

impl Append<'_> {
    /// The same as a value, for another shard or a later cycle.
    fn into_remote(self) -> RemotePublish {
        let Append { from, session, request, topic, partition, header, body, is_known } = self;
        let (topic, header, body) = (topic.clone(), *header, RemoteBody::from(body));
        RemotePublish { from, session, request, topic, partition, header, body, is_known }
    }
}

/// Why a batch was not appended.
enum Unappended {
    /// The log does not take it.
    Log(NoAppend),
    /// Its topic's policy does not allow it.
    Refused(Refusal),
    /// The topic is not here, and only one that is there already may be published to: other shards must be asked. Or another
    /// batch of the publisher waits for that.
    Waits,
}

impl From<NoAppend> for Unappended {
    fn from(error: NoAppend) -> Self {
        Unappended::Log(error)
    }
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
        topic: &TopicHandle,
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
        topic: &TopicHandle,
        header: &BatchHeader,
        landing: &mut Option<Landing>,
    ) -> Result<Admission, Refusal> {
        self.publish_from(key, request, topic, header, Source::Landing(landing))
    }

    fn publish_from(
        &mut self,
        key: SessionKey,
        request: u64,
        topic: &TopicHandle,
        header: &BatchHeader,
        body: Source<'_>,
    ) -> Result<Admission, Refusal> {
        let _fence = Fence::default();
        if self.draining {
            return Err(Code::ShuttingDown.into());
        }
        let index = self.options.index;
        let Some(session) = self.sessions.get(key) else { return Ok(Admission::Taken) };
        let placed = self.policies.placed(topic.name(), header);
        let header = placed.as_ref().unwrap_or(header);
        let partition = match header.partition {
            Partition::ANY => session.partition,
            partition if partition.0 < PARTITIONS => partition,
            unknown => {
                let text = format!("partition is {unknown}, there are {PARTITIONS}");
                return Err(Refusal::new(Code::UnknownPartition, text));
            }
        };
        let owner = partition.0 % self.options.shards;
        let must_wait = owner == index && self.publishing.is_behind(index);
        if !self.has_turn(key, header.batch_len() as u64) || must_wait {
            return Ok(self.wait_for_room(key));
        }
        let (from, session, is_known) = (index, key, false);
        let mut append =
            Append { from, session, request, topic, partition, header, body, is_known };
        if owner != index {
            let forwarded = self.forward(owner, append);
            return Ok(forwarded.map_or_else(|_| self.wait_for_room(key), |()| Admission::Taken));
        }
        match self.try_append(&mut append) {
            Ok(()) => Ok(Admission::Taken),
            Err(Unappended::Log(NoAppend::NoRoom)) => Ok(self.wait_for_room(key)),
            Err(Unappended::Waits) => {
                if !self.publishing.reserve(index, header.body_len as usize) {
                    return Ok(self.wait_for_room(key));
                }
                self.set_aside(append.into_remote());
                Ok(Admission::Taken)
            }
            Err(error) => {
                self.stats.refused_publishes += 1;
                Err(refusal_for(error))
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
        let (body, is_known) = (Source::Bytes(batch.body), true);
        let topic = &TopicHandle::from(Arc::clone(topic));
        let mut append =
            Append { from, session, request, topic, partition, header, body, is_known };
        if owner != from {
            return self.forward(owner, append);
        }
        self.try_append(&mut append).map_err(|error| match error {
            Unappended::Log(error) => error,
            Unappended::Refused(_) | Unappended::Waits => {
                unreachable!("policies are for what publishers bring")
            }
        })
    }

    /// Sends a batch to the shard of its partition. No room: nothing was taken.
    fn forward(&mut self, owner: u16, append: Append<'_>) -> Result<(), NoAppend> {
        assert!(owner != self.options.index, "what is this shard's own is not sent");
        if !self.publishing.reserve(owner, append.header.body_len as usize) {
            return Err(NoAppend::NoRoom);
        }
        self.stats.forwarded_batches += 1;
        self.outbox.push(owner, Mail::Publish(Box::new(append.into_remote())));
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
                is_known: publish.is_known,
            };
            match self.try_append(&mut append) {
                Ok(()) => {
                    work += 1;
                    self.end_waiting(&publish);
                }
                Err(Unappended::Log(NoAppend::NoRoom)) => {
                    self.publishing.arrived.push_front(publish);
                    break;
                }
                Err(Unappended::Waits) => self.set_aside(publish),
                Err(error) => {
                    self.end_waiting(&publish);
                    self.refuse_publish(&publish, refusal_for(error));
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
        self.publishing.arrived_now(publish);
    }

    pub(super) fn on_published(&mut self, from: u16, outcome: PublishOutcome) {
        self.publishing.release(from, outcome.bytes as usize);
        self.may_have_room = true;
        let PublishOutcome { session, request, partition, count, ack, result, .. } = outcome;
        if session == OWN {
            return self.errand_done(request, result.err(), None);
        }
        let event = match result {
            Ok(base_offset) => {
                SessionEvent::Published { request, partition, base_offset, count, ack }
            }
            Err(refusal) => SessionEvent::Refused { what: Asked::Publish, request, refusal },
        };
        self.sessions.say(session, event);
    }

    /// Tells the publishers of everything that has reached the ack level of its topic.
    pub(super) fn release_acks(&mut self) -> u32 {
        let positions = self.active().positions();
        let mut released = 0;
        while let Some(unacked) = self.acks.pop_reached(positions) {
            released += 1;
            self.acknowledge(unacked, None);
        }
        self.acks.released(positions.end());
        if let LogState::Stopped(_) = self.active().state() {
            // What a failed write has left unknown is refused: it may or may not be there after a restart.
            while let Some(unacked) = self.acks.pop_lost() {
                released += 1;
                self.acknowledge(unacked, Some(Code::LogStopped.into()));
            }
        }
        released
    }

    fn acknowledge(&mut self, unacked: Unacked, refusal: Option<Refusal>) {
        let Unacked { base, from, session, request, partition, base_offset, count, bytes, .. } =
            unacked;
        let ack = unacked.level;
        if from != self.options.index {
            let result = refusal.map_or(Ok(base_offset), Err);
            let outcome = PublishOutcome { session, request, partition, count, bytes, ack, result };
            let from =
                (from, Mail::Published { from: self.options.index, outcome: Box::new(outcome) });
            self.outbox.push(from.0, from.1);
            return;
        }
        if session == OWN {
            return self.errand_done(request, refusal, Some(base));
        }
        let event = match refusal {
            None => SessionEvent::Published { request, partition, base_offset, count, ack },
            Some(refusal) => SessionEvent::Refused { what: Asked::Publish, request, refusal },
        };
        self.sessions.say(session, event);
    }

    /// Tells the publisher of a batch that waited that it is refused.
    pub(super) fn refuse_publish(&mut self, publish: &RemotePublish, refusal: Refusal) {
        self.stats.refused_publishes += 1;
        let (session, request) = (publish.session, publish.request);
        if publish.from == self.options.index {
            assert!(session != OWN, "what a shard appends itself is asked of nobody");
            let what = Asked::Publish;
            return self.sessions.say(session, SessionEvent::Refused { what, request, refusal });
        }
        let outcome = PublishOutcome {
            session,
            request,
            partition: publish.partition,
            count: publish.header.count,
            bytes: publish.body_bytes(),
            ack: self.options.ack,
            result: Err(refusal),
        };
        let mail = Mail::Published { from: self.options.index, outcome: Box::new(outcome) };
        self.outbox.push(publish.from, mail);
    }

    fn try_append(&mut self, append: &mut Append<'_>) -> Result<(), Unappended> {
        let now = self.now.wall;
        let topic = self.active().topic_id_near(append.topic.found(), append.topic.name());
        let (policy, level) = if append.session == OWN {
            // What a shard appends itself was checked as it came first, and must not be lost.
            (TopicPolicy::default(), AckLevel::Durable)
        } else {
            if self.questions.before(append.header, append.partition).is_some() {
                return Err(Unappended::Waits);
            }
            let policy = self.policies.of(topic, append.topic.name());
            (policy, policy.ack.unwrap_or(self.options.ack))
        };
        // What stood in a topic that was deleted since was stored once all the same.
        let known = topic.or_else(|| self.active().deleted_topic_id(append.topic.name()));
        if let Some(stored) = self.active().stored(known, append.partition, append.header)? {
            self.answer_again(append, stored, level);
            return Ok(());
        }
        if let Some(most) = policy.event_bytes_max {
            check_size(append, most)?;
        }
        let topic = match topic {
            Some(topic) => topic,
            None => self.begin_topic(append, &policy)?,
        };
        append.topic.found_at(topic);
        let log = self.active_mut();
        let source = append.body.by_ref();
        let done = log.append_for(level, (topic, append.partition), append.header, source, now);
        if let Err(NoAppend::NoRoom) = done {
            self.may_have_room = false;
        }
        let done = done?;
        let count = append.header.count;
        self.stats.appended_batches += 1;
        self.stats.appended_events += u64::from(count);
        self.stats.appended_bytes += u64::from(append.header.body_len);
        self.acks.appended(Unacked {
            base: done.base_position,
            end: done.base_position.plus(u64::from(count)),
            level,
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
    fn answer_again(&mut self, append: &Append<'_>, stored: Stored, level: AckLevel) {
        self.stats.resent_batches += 1;
        let end = self.active().positions().end();
        assert!(stored.end <= end, "what is stored was appended");
        let unacked = Unacked {
            // Behind all that waits, so that the list stays in order; the next commit takes all of it.
            base: end,
            end,
            level,
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
            self.acks.appended(unacked);
        }
    }

    /// Begins a topic that this shard does not know, if that is allowed.
    fn begin_topic(
        &mut self,
        append: &Append<'_>,
        policy: &TopicPolicy,
    ) -> Result<TopicId, Unappended> {
        if policy.create == Some(false) && !append.is_known {
            return Err(Unappended::Waits);
        }
        debug_assert!(TopicName::check(append.topic.name()).is_ok(), "doors parse topic names");
        Ok(self.active_mut().create_topic(append.topic.name())?)
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

/// Whether each event's data is within its topic's limit.
fn check_size(append: &Append<'_>, most: u32) -> Result<(), Unappended> {
    let body = append.body.body();
    // A body within the limit cannot hold data beyond it, which spares most batches the look at each event.
    if body.len() <= most as usize {
        return Ok(());
    }
    let body = Body::checked_before(body, append.header.count);
    let body = body.expect("the door that took the batch has checked it");
    let largest = body.events().map(|event| event.data().len()).max().unwrap_or(0);
    if largest <= most as usize {
        return Ok(());
    }
    let topic = append.topic.name();
    let text = format!("event data bytes is {largest}, topic {topic:?} allows at most {most}");
    Err(Unappended::Refused(Refusal::new(Code::EventTooLarge, text)))
}

fn refusal_for(error: Unappended) -> Refusal {
    match error {
        Unappended::Log(error) => refusal_of(&error),
        Unappended::Refused(refusal) => refusal,
        Unappended::Waits => unreachable!("what waits is not refused"),
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

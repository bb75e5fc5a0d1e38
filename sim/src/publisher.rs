//! A simulated publisher: keeps a window of batches under way, and publishes again what it has no answer for. Most number
//! their batches, and then send the very same batch again; the others make a new attempt.

use std::collections::{BTreeMap, VecDeque};

use codec::ack::AckLevel;
use codec::attribute::{Key, Value};
use codec::batch::Batch;
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::header::HeaderSeed;
use codec::ids::{Partition, TopicId};
use codec::refusal::{Code, Refusal};
use dataplane::session::{Admission, SessionEvent, TopicHandle};

use crate::check::{deletion, resent, retention};
use crate::faults::Fault;
use crate::ledger::{BatchId, Checked, Fate, Sent, violated};
use crate::node::{Home, Node, Owner};
use crate::numbering::Numbering;
use crate::plan::PublisherPlan;
use crate::random::Random;
use crate::scene::Scene;

const CHECK: &str = "publishes are answered";

/// What to publish, whichever attempt it takes.
#[derive(Clone, Debug)]
pub struct Intent {
    topic: usize,
    keys: Vec<Option<u8>>,
    data_bytes: Vec<u32>,
}

/// A batch as it goes on the wire.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its number in the ledger.
    pub id: BatchId,
    /// Its partition, `ANY` if the server chooses.
    pub partition: Partition,
    intent: Intent,
    bytes: Vec<u8>,
}

/// One publisher.
#[derive(Debug)]
pub struct Publisher {
    number: usize,
    plan: PublisherPlan,
    home: Option<(Home, u32)>,
    left: u64,
    again: VecDeque<Intent>,
    /// It found no room.
    held: Option<Made>,
    /// None: it does not number its batches.
    numbering: Option<Numbering>,
    waits_for_room: bool,
    under_way: BTreeMap<u64, Made>,
    next_request: u64,
    not_before_us: u64,
}

impl Publisher {
    /// A publisher that has not connected.
    #[must_use]
    pub fn new(number: usize, plan: PublisherPlan) -> Self {
        Publisher {
            number,
            plan,
            home: None,
            left: plan.events,
            again: VecDeque::new(),
            held: None,
            numbering: (number % 3 != 2).then(|| Numbering::new(number)),
            waits_for_room: false,
            under_way: BTreeMap::new(),
            next_request: 1,
            not_before_us: 0,
        }
    }

    /// Whether everything is published and acknowledged.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let has_none = self.again.is_empty() && self.held.is_none() && self.under_way.is_empty();
        let is_sent = self.numbering.as_ref().is_none_or(Numbering::is_empty);
        self.left == 0 && has_none && is_sent
    }

    /// What it waits for, in words.
    #[must_use]
    pub fn waits(&self) -> String {
        let (number, left) = (self.number, self.left);
        let (again, under_way) = (self.again.len(), self.under_way.len());
        format!(
            "publisher {number}: {left} events left, {again} again, {under_way} under way, room {}",
            self.waits_for_room
        )
    }

    /// Does what a client does between two looks at its connection.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn act(&mut self, node: &mut Node, scene: &mut Scene) -> Checked {
        if scene.now_us < self.not_before_us {
            return Ok(());
        }
        let Some((home, session)) = self.home else {
            let shard = scene.random.below(u64::from(node.count())) as u16;
            let owner = Owner::Publisher(self.number);
            let session = scene.next_session();
            self.home = node.connect(shard, owner).map(|home| (home, session));
            return Ok(());
        };
        if !scene.is_calm && !self.under_way.is_empty() && scene.random.chance(4) {
            scene.tally.hit(Fault::PublisherLost);
            scene.trace.note(format_args!("publisher {} vanishes", self.number));
            node.disconnect(home);
            self.lost(scene);
            return Ok(());
        }
        for _ in 0..scene.random.between(1, 4) {
            let resends = self.numbering.as_ref().is_some_and(|numbering| !numbering.is_empty());
            let has_more =
                self.held.is_some() || resends || !self.again.is_empty() || self.left > 0;
            if self.waits_for_room || !has_more || self.under_way.len() >= self.plan.window {
                break;
            }
            self.publish(home, session, node, scene)?;
        }
        Ok(())
    }

    /// Its session is over, whoever ended it: what has no answer is published again, in the same order.
    pub fn lost(&mut self, scene: &mut Scene) {
        self.home = None;
        self.waits_for_room = false;
        let under_way = std::mem::take(&mut self.under_way).into_values();
        let made: Vec<Made> = under_way.chain(self.held.take()).collect();
        made.iter().for_each(|made| scene.ledger.lose(made.id));
        match &mut self.numbering {
            Some(numbering) => made.into_iter().for_each(|made| numbering.keep(made)),
            None => made.into_iter().rev().for_each(|made| self.again.push_front(made.intent)),
        }
    }

    /// The shard says something.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn on_event(&mut self, event: SessionEvent, scene: &mut Scene) -> Checked {
        match event {
            SessionEvent::Published { request, partition, base_offset, count, ack } => {
                let Some(made) = self.under_way.remove(&request) else {
                    violated!(
                        CHECK,
                        "publish {request} of publisher {} is answered twice",
                        self.number
                    );
                };
                let id = made.id;
                let is_named = made.partition != Partition::ANY;
                if count as usize != made.intent.keys.len()
                    || (is_named && made.partition != partition)
                {
                    violated!(
                        CHECK,
                        "batch {} is answered with {count} events in {partition}",
                        id.0
                    );
                }
                if ack != scene.plan.ack_of(scene.ledger.attempt(id).topic) {
                    violated!(CHECK, "batch {} is acknowledged as {ack:?}", id.0);
                }
                *match ack {
                    AckLevel::Durable => &mut scene.tally.acknowledged,
                    AckLevel::Written => &mut scene.tally.acknowledged_written,
                    AckLevel::Received => &mut scene.tally.acknowledged_received,
                } += u64::from(count);
                let at = scene.ledger.step;
                let log = scene.active_logs[usize::from(partition.0) % scene.active_logs.len()];
                let fate = Fate::Acknowledged { partition, offset: base_offset, log, at };
                let is_gone = retention::is_below(&scene.ledger, id, fate);
                let sent = scene.ledger.attempt_mut(id);
                resent::check_answer(id, sent, (partition, base_offset))?;
                if let Fate::Acknowledged { .. } = sent.fate {
                    return Ok(());
                }
                sent.fate = fate;
                if is_gone && !sent.is_expired {
                    scene.tally.add_faults(Fault::Expired, u64::from(count));
                    deletion::note_gone(&mut scene.ledger, id);
                }
                if let Some(numbering) = &mut self.numbering {
                    numbering.acknowledged(made);
                }
                scene
                    .trace
                    .note(format_args!("batch {} stands at {partition}:{base_offset}", id.0));
            }
            SessionEvent::Refused { request, refusal, .. } => {
                let Some(made) = self.under_way.remove(&request) else {
                    violated!(
                        CHECK,
                        "publish {request} of publisher {} is answered twice",
                        self.number
                    );
                };
                self.refused(made, &refusal, true, scene)?;
            }
            SessionEvent::Room => self.waits_for_room = false,
            SessionEvent::Goodbye(_) => {}
            event => violated!(CHECK, "a publisher is told {event:?}"),
        }
        Ok(())
    }

    fn publish(&mut self, home: Home, session: u32, node: &mut Node, scene: &mut Scene) -> Checked {
        let again = |numbering: &mut Numbering| numbering.next(scene);
        let made = self.held.take().or_else(|| self.numbering.as_mut().and_then(again));
        let made = match made {
            Some(made) => made,
            None => self.make(home, session, node, scene),
        };
        let request = self.next_request;
        self.next_request += 1;
        let batch = match Batch::parse(&made.bytes, HeaderSeed::WIRE) {
            Ok(batch) => batch,
            Err(error) => violated!(CHECK, "batch {} is made badly: {error}", made.id.0),
        };
        let topic = TopicHandle::from(scene.plan.topics[made.intent.topic].text().clone());
        let lands = self.lands(request, scene.plan.landed_per_mille);
        let shard = node.shard(home);
        let admission = if lands {
            let mut landing = shard.landing(0, made.bytes.len());
            landing.copy(&made.bytes);
            let mut landing = Some(landing);
            shard.publish_landed(home.key, request, &topic, &batch.header, &mut landing)
        } else {
            shard.publish(home.key, request, &topic, &batch)
        };
        match admission {
            Ok(Admission::Taken) => {
                if lands {
                    scene.tally.hit(Fault::Landed);
                }
                let (id, count) = (made.id, made.intent.keys.len() as u64);
                scene.trace.note(format_args!(
                    "publisher {} sends batch {} of {count}",
                    self.number, id.0
                ));
                let step = scene.ledger.step;
                scene.ledger.attempt_mut(id).taken(step);
                if scene.ledger.attempt(id).times == 1 {
                    scene.tally.published += count;
                } else {
                    scene.tally.hit(Fault::SentAgain);
                }
                self.under_way.insert(request, made);
                Ok(())
            }
            Ok(Admission::NoRoom) => {
                scene.tally.hit(Fault::NoRoom);
                self.waits_for_room = true;
                self.held = Some(made);
                Ok(())
            }
            Err(refusal) => self.refused(made, &refusal, false, scene),
        }
    }

    /// Whether a publish is received where it is to stay. Decided by numbers that are there anyway, so that what else a
    /// seed means does not change with it.
    fn lands(&self, request: u64, per_mille: u64) -> bool {
        let mixed = (request << 8 | self.number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        mixed % 1_000 < per_mille
    }

    /// A new attempt.
    fn make(&mut self, home: Home, session: u32, node: &mut Node, scene: &mut Scene) -> Made {
        let shards = node.count();
        let intent = self.again.pop_front().unwrap_or_else(|| self.intend(scene));
        let id = BatchId(scene.ledger.sent.len() as u32);
        let keyed = intent.keys[0].map(|key| scene.plan.keys[usize::from(key)].1);
        let mut bytes = encode(id, &intent, keyed.unwrap_or(Partition::ANY), scene);
        let near = node.shard(home).session_partition(home.key);
        let partition = match &mut self.numbering {
            Some(numbering) => numbering.stamp(&mut bytes, near),
            None => keyed.unwrap_or(Partition::ANY),
        };
        let body_bytes = bytes.len() - codec::header::HEADER_BYTES;
        let most = &mut scene.ledger.batch_bytes_max;
        *most = body_bytes.max(*most);
        scene.ledger.sent.push(Sent {
            session,
            publisher: self.numbering.as_ref().map(|_| self.number),
            times: 0,
            topic: intent.topic,
            keys: intent.keys.clone(),
            body_crc: codec::crc32c::crc32c(&bytes[codec::header::HEADER_BYTES..]),
            sent_at: scene.ledger.step,
            is_local: keyed.is_none_or(|partition| partition.0 % shards == home.shard),
            fate: Fate::Refused,
            was_visible: false,
            is_expired: false,
            is_deleted: false,
            was_absent: false,
        });
        Made { id, partition, intent, bytes }
    }

    /// A publish is refused; it is tried again later. After a failed write nobody knows whether it is there, nor while
    /// what an earlier session sent may still be on its way.
    fn refused(
        &mut self,
        made: Made,
        refusal: &Refusal,
        was_taken: bool,
        scene: &mut Scene,
    ) -> Checked {
        let id = made.id;
        scene.trace.note(format_args!("batch {} is refused: {}", id.0, refusal.code.name()));
        let sent = scene.ledger.attempt_mut(id);
        let is_unknown = was_taken || sent.fate == Fate::Unknown;
        let fate = match (refusal.code, sent.fate) {
            (Code::LogStopped | Code::ShuttingDown, Fate::Acknowledged { .. }) => sent.fate,
            (Code::LogStopped, _) if is_unknown => Fate::Unknown,
            (Code::LogStopped, _) => Fate::Refused,
            (Code::DiskFull | Code::Overloaded | Code::ShuttingDown, Fate::Unknown) => {
                Fate::Unknown
            }
            (Code::DiskFull | Code::Overloaded | Code::ShuttingDown, Fate::UnderWay)
                if sent.times > 1 =>
            {
                Fate::Unknown
            }
            (
                Code::DiskFull | Code::Overloaded | Code::ShuttingDown,
                Fate::UnderWay | Fate::Refused,
            ) => Fate::Refused,
            (code, _) => violated!(CHECK, "batch {} is refused: {code:?} {}", id.0, refusal.text),
        };
        sent.fate = fate;
        scene.log_stopped |= refusal.code == Code::LogStopped;
        self.not_before_us = scene.now_us + 5_000;
        match (&mut self.numbering, fate) {
            (_, Fate::Acknowledged { .. }) => {}
            (Some(numbering), Fate::Unknown) => numbering.keep(made),
            _ => self.again.push_back(made.intent),
        }
        Ok(())
    }

    fn intend(&mut self, scene: &mut Scene) -> Intent {
        let random = &mut scene.random;
        let count = random.between(1, self.plan.batch_max).min(self.left);
        self.left -= count;
        let plan = &scene.plan;
        let topic = random.index(plan.topics.len());
        let (_, partition) = plan.keys[random.index(plan.keys.len())];
        let fitting: Vec<u8> = (0..plan.keys.len() as u8)
            .filter(|key| plan.keys[usize::from(*key)].1 == partition)
            .collect();
        let keyed = self.plan.keyed;
        let key = |random: &mut Random| keyed.then(|| random.pick(&fitting));
        let keys = (0..count).map(|_| key(random)).collect();
        let size = |random: &mut Random| random.between(8, self.plan.data_bytes_max.max(8)) as u32;
        let data_bytes = (0..count).map(|_| size(random)).collect();
        Intent { topic, keys, data_bytes }
    }
}

/// The batch as it goes on the wire. Each event's data names attempt and index, and the rest follows from them.
fn encode(id: BatchId, intent: &Intent, partition: Partition, scene: &Scene) -> Vec<u8> {
    let shared = &mut [(Key::Source, Value::UriReference("/sim")), (Key::Type, Value::String("t"))];
    let mut builder = BatchBuilder::new(shared).expect("the shared attributes are small");
    for (index, (key, len)) in intent.keys.iter().zip(&intent.data_bytes).enumerate() {
        let mut data = Vec::with_capacity(*len as usize + 8);
        data.extend_from_slice(&id.0.to_le_bytes());
        data.extend_from_slice(&(index as u32).to_le_bytes());
        let mut filler = Random::new(u64::from(id.0) << 8 | index as u64);
        while data.len() < *len as usize {
            data.extend_from_slice(&filler.next_u64().to_le_bytes());
        }
        let key = key.map(|key| scene.plan.keys[usize::from(key)].0.as_str());
        let mut own: Vec<_> =
            key.map(|key| (Key::PartitionKey, Value::String(key))).into_iter().collect();
        builder.push(&mut own, DataKind::Binary, &data).expect("simulated events are small");
    }
    builder.finish(TopicId(0), partition)
}

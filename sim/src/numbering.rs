//! What a publisher that numbers its batches keeps: how far it has counted, and what is to be sent again.

use std::collections::{BTreeMap, VecDeque};

use codec::ack::AckLevel;
use codec::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use codec::ids::Partition;

use crate::faults::Fault;
use crate::ledger::{BatchId, Fate};
use crate::publisher::Made;
use crate::scene::Scene;

/// Acknowledged batches that may be sent once more. A log remembers more than these of each publisher and partition.
const ACKNOWLEDGED_MAX: usize = 8;

/// One publisher's identity and count.
#[derive(Debug)]
pub struct Numbering {
    publisher_id: u64,
    newest: BTreeMap<Partition, u64>,
    /// Without an answer, in the order of their sequences.
    unanswered: BTreeMap<BatchId, Made>,
    acknowledged: VecDeque<Made>,
}

impl Numbering {
    /// A publisher that has sent nothing.
    #[must_use]
    pub fn new(number: usize) -> Self {
        Numbering {
            publisher_id: 1 + number as u64,
            newest: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            acknowledged: VecDeque::new(),
        }
    }

    /// Whether nothing must be sent again.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// Gives a batch its identity, and one without a partition that of its session.
    ///
    /// # Panics
    /// The bytes are no batch.
    pub fn stamp(&mut self, bytes: &mut [u8], near: Partition) -> Partition {
        let head = bytes.first_chunk_mut::<HEADER_BYTES>().expect("a batch starts with a header");
        let mut header = BatchHeader::decode(head, HeaderSeed::WIRE).expect("it was made here");
        if header.partition == Partition::ANY {
            header.partition = near;
        }
        let newest = self.newest.entry(header.partition).or_default();
        *newest += 1;
        (header.publisher_id, header.sequence) = (self.publisher_id, *newest);
        *head = header.encode(HeaderSeed::WIRE);
        header.partition
    }

    /// A batch has no answer: it goes again before everything that is new.
    pub fn keep(&mut self, made: Made) {
        self.unanswered.insert(made.id, made);
    }

    /// A batch is acknowledged; its answer may have been lost for all that the server knows.
    pub fn acknowledged(&mut self, made: Made) {
        self.acknowledged.push_back(made);
        if self.acknowledged.len() > ACKNOWLEDGED_MAX {
            self.acknowledged.pop_front();
        }
    }

    /// What is to be sent again now.
    pub fn next(&mut self, scene: &mut Scene) -> Option<Made> {
        if let Some((_, made)) = self.unanswered.pop_first() {
            return Some(made);
        }
        if scene.is_calm || self.acknowledged.is_empty() || !scene.random.chance(30) {
            return None;
        }
        let made = self.acknowledged.pop_front()?;
        // What an ack level below durable has let go may stand behind later ones now.
        let sent = scene.ledger.attempt(made.id);
        let is_acknowledged = matches!(sent.fate, Fate::Acknowledged { .. });
        // So may what a deletion has taken that was lost with it: nobody looks for it any more.
        let is_durable = scene.plan.ack_of(sent.topic) == AckLevel::Durable;
        (is_acknowledged && (is_durable || !sent.is_expired)).then(|| {
            scene.tally.hit(Fault::AckedSentAgain);
            made
        })
    }
}

//! What each publisher stored last: so that a batch that is sent again is answered as the first time, and stored once.
//!
//! A publisher numbers its batches in each partition, rising from 1. For each publisher and partition the log keeps the
//! newest sequences with their offsets. A sequence above the newest is new, gaps included: a batch that was refused
//! leaves one. A remembered one is a resend. Any other came too late, and is refused: it may stand already, or would
//! stand behind what was sent after it.
//!
//! Derived from the headers of batches, and carried over by checkpoints. Bounded: publishers that have been silent for
//! longest are forgotten first, and the more there are, the fewer sequences are kept of each. A batch of a publisher
//! that is known costs a look-up and no allocation.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};

use codec::header::BatchHeader;
use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

use crate::batch::NoAppend;
use crate::log::Log;

mod encoding;
#[cfg(test)]
mod tests;

/// Most pairs of publisher and partition that a log remembers; with one sequence each they take 16 MiB.
pub const PAIRS_MAX: usize = 65_536;
/// Most sequences remembered of one publisher and partition: the largest publish window, all of it in one partition.
pub const SEQUENCES_MAX: usize = 1_024;
/// Sequences of a publisher and partition that are kept however many publishers there are.
pub const SEQUENCES_MIN: usize = 16;
/// Sequences that all pairs of a log may keep beyond [`SEQUENCES_MIN`]: 12 MiB.
pub const SEQUENCES_SHARED: usize = 524_288;
/// A pair that has been silent for so long is forgotten when room for another is needed: a week, so that a publisher
/// outlasts a weekend without its server.
pub const SILENT_MAX_US: u64 = 7 * 24 * 3_600 * 1_000_000;
/// Silent pairs that the arrival of one new pair forgets at most. Bounds the time of an append.
const FORGOTTEN_AT_ONCE: usize = 4;
/// Lists that the arrival of one new pair cuts to their share at most. While the number of pairs grows by a quarter, all
/// are looked at, so that together they keep little more than [`SEQUENCES_SHARED`].
const TRIMMED_AT_ONCE: usize = 4;
/// No pair.
const NONE: u32 = u32::MAX;

const _: () = {
    assert!(SEQUENCES_MIN <= SEQUENCES_MAX && SEQUENCES_MAX <= SEQUENCES_SHARED);
    assert!(PAIRS_MAX < NONE as usize, "a slot fits 32 bits");
};

/// Where a batch stands that was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Offset of its first event.
    pub base_offset: Offset,
    /// What must be durable before the answer: at or behind the end of the batch.
    pub end: Position,
}

/// A batch that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remembered {
    sequence: u64,
    base_offset: Offset,
    /// As this log numbers it.
    topic: TopicId,
    body_crc: u32,
}

/// One publisher in one partition.
#[derive(Debug)]
struct Pair {
    publisher: u64,
    partition: Partition,
    /// Neighbours in the order of use.
    older: u32,
    newer: u32,
    /// When its newest batch was appended.
    heard: Timestamp,
    /// The end of its newest batch, 0 if that was durable when the log was opened.
    end: Position,
    /// Rising sequences, never empty.
    sequences: VecDeque<Remembered>,
}

/// All publishers of a log.
///
/// Invariant: `slots` names each pair once, and the pairs are one list from `oldest` to `newest`.
#[derive(Debug)]
pub(crate) struct Publishers {
    /// Looked up only, so its random order reaches nothing. Its keys are random: publishers choose their ids.
    slots: HashMap<(u64, Partition), u32>,
    /// A free slot has publisher 0.
    pairs: Vec<Pair>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
    /// Capacity of all lists of sequences.
    room: usize,
    /// The slot that was found last: a batch is looked for, and then appended.
    found: Cell<u32>,
    /// The slot whose list was looked at last for sequences beyond its share.
    trimmed: usize,
}

impl Default for Publishers {
    fn default() -> Self {
        Publishers {
            slots: HashMap::new(),
            pairs: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            room: 0,
            found: Cell::new(NONE),
            trimmed: 0,
        }
    }
}

impl Publishers {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Where the batch of `header`, whose topic is this log's, stands already; `None`: it is new.
    fn seen(&self, header: &BatchHeader) -> Result<Option<Stored>, NoAppend> {
        let Some(slot) = self.find(header.publisher_id, header.partition) else { return Ok(None) };
        let pair = &self.pairs[slot as usize];
        let newest = pair.newest_sequence();
        let sequence = header.sequence;
        if newest < sequence {
            return Ok(None);
        }
        let found = pair.sequences.binary_search_by_key(&sequence, |known| known.sequence);
        let Ok(found) = found else {
            let oldest = pair.sequences.front().map_or(0, |oldest| oldest.sequence);
            return Err(NoAppend::SequenceTooOld { sequence, oldest, newest });
        };
        let known = pair.sequences[found];
        if (known.topic, known.body_crc) != (header.topic, header.body_crc) {
            return Err(NoAppend::SequenceReused { sequence });
        }
        Ok(Some(Stored { base_offset: known.base_offset, end: pair.end }))
    }

    /// The batch of `header`, as stamped, is appended.
    pub(crate) fn appended(&mut self, header: &BatchHeader) {
        if header.publisher_id == 0 {
            return;
        }
        let slot = self.slot(header.publisher_id, header.partition, header.append_time);
        let pair = &mut self.pairs[slot as usize];
        let newest = pair.newest_sequence();
        assert!(newest < header.sequence, "a sequence stands once, in its order");
        assert!(pair.end < header.end_position(), "batches follow each other");
        pair.end = header.end_position();
        self.push(slot, Remembered::of(header), header.append_time);
        self.check(slot);
    }

    /// Recovery has found the batch of `header`. What is known of it already changes nothing.
    pub(crate) fn recovered(&mut self, header: &BatchHeader) {
        if header.publisher_id == 0 || header.sequence == 0 {
            return;
        }
        let slot = self.slot(header.publisher_id, header.partition, header.append_time);
        if self.pairs[slot as usize].newest_sequence() < header.sequence {
            self.push(slot, Remembered::of(header), header.append_time);
        } else {
            self.heard(slot, header.append_time);
        }
        self.check(slot);
    }

    /// What the logs of older generations know of the partitions that `owns` names, the oldest generation first. With
    /// each the number that the new log gives to each of its topics.
    pub(crate) fn merged(
        older: &[(&Publishers, Vec<TopicId>)],
        owns: impl Fn(Partition) -> bool,
    ) -> Publishers {
        let mut pairs: Vec<(&Pair, &Vec<TopicId>)> = Vec::new();
        for (from, topics) in older {
            let known = from.pairs.iter().filter(|pair| pair.publisher != 0);
            pairs.extend(known.filter(|pair| owns(pair.partition)).map(|pair| (pair, topics)));
        }
        // Equal ones stay in the order of logs and slots, so that the same logs make the same checkpoint.
        pairs.sort_by_key(|(pair, _)| (pair.heard, pair.newest_sequence()));
        let mut merged = Publishers::default();
        for (pair, topics) in pairs {
            let slot = merged.slot(pair.publisher, pair.partition, pair.heard);
            for known in &pair.sequences {
                if merged.pairs[slot as usize].newest_sequence() < known.sequence {
                    let topic = topics.get(known.topic.0 as usize).copied().unwrap_or(TopicId(0));
                    merged.push(slot, Remembered { topic, ..*known }, pair.heard);
                }
            }
        }
        merged.check_all();
        merged
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * (size_of::<((u64, Partition), u32)>() + 1)
            + self.pairs.capacity() * size_of::<Pair>()
            + self.room * size_of::<Remembered>()
    }

    /// Sequences that each pair may keep.
    fn sequences_max(&self) -> usize {
        (SEQUENCES_SHARED / self.len().max(1)).clamp(SEQUENCES_MIN, SEQUENCES_MAX)
    }

    fn push(&mut self, slot: u32, known: Remembered, now: Timestamp) {
        let max = self.sequences_max();
        let sequences = &mut self.pairs[slot as usize].sequences;
        while sequences.len() >= max {
            sequences.pop_front();
        }
        let before = sequences.capacity();
        assert!(before <= self.room, "the room of every list is counted");
        assert!(
            sequences.back().is_none_or(|newest| newest.sequence < known.sequence),
            "the sequences of a pair rise, so that one of them is found"
        );
        sequences.push_back(known);
        self.room = self.room - before + sequences.capacity();
        self.heard(slot, now);
    }

    fn find(&self, publisher: u64, partition: Partition) -> Option<u32> {
        let found = self.found.get();
        let is_same = |pair: &Pair| (pair.publisher, pair.partition) == (publisher, partition);
        if self.pairs.get(found as usize).is_some_and(is_same) {
            return Some(found);
        }
        let slot = *self.slots.get(&(publisher, partition))?;
        self.found.set(slot);
        Some(slot)
    }

    /// The slot of a pair, made if it is new; then its list of sequences is empty and must be filled.
    fn slot(&mut self, publisher: u64, partition: Partition, now: Timestamp) -> u32 {
        assert!(publisher != 0, "0 is no publisher");
        if let Some(slot) = self.find(publisher, partition) {
            return slot;
        }
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some(oldest) = self.pairs.get(self.oldest as usize) else { break };
            let is_silent = now.0.saturating_sub(oldest.heard.0) > SILENT_MAX_US;
            if !is_silent && self.len() < PAIRS_MAX {
                break;
            }
            self.forget_oldest();
        }
        let (end, sequences) = (Position(0), VecDeque::new());
        let (older, newer) = (NONE, NONE);
        let pair = Pair { publisher, partition, older, newer, heard: now, end, sequences };
        let slot = self.free.pop().unwrap_or(self.pairs.len() as u32);
        match self.pairs.get_mut(slot as usize) {
            Some(free) => {
                assert_eq!(free.publisher, 0, "only a free slot is given away");
                *free = pair;
            }
            None => self.pairs.push(pair),
        }
        self.slots.insert((publisher, partition), slot);
        self.link_newest(slot);
        self.trim();
        assert!(self.len() <= PAIRS_MAX, "what is remembered has a bound");
        slot
    }

    /// The share of each has become smaller, also of those that are silent.
    fn trim(&mut self) {
        let max = self.sequences_max();
        for _ in 0..TRIMMED_AT_ONCE {
            self.trimmed = (self.trimmed + 1) % self.pairs.len();
            let sequences = &mut self.pairs[self.trimmed].sequences;
            let before = sequences.capacity();
            assert!(before <= self.room, "the room of every list is counted");
            if before > max {
                sequences.drain(..sequences.len().saturating_sub(max));
                sequences.shrink_to(max);
                self.room = self.room - before + sequences.capacity();
            }
        }
    }

    /// A pair was heard of: it is the last to be forgotten.
    fn heard(&mut self, slot: u32, now: Timestamp) {
        let pair = &mut self.pairs[slot as usize];
        assert!(pair.publisher != 0, "whoever is heard of has a slot");
        pair.heard = pair.heard.max(now);
        if self.newest != slot {
            self.unlink(slot);
            self.link_newest(slot);
        }
    }

    fn link_newest(&mut self, slot: u32) {
        let before = self.newest;
        assert!(before != slot, "a pair stands in the list once");
        let pair = &mut self.pairs[slot as usize];
        (pair.older, pair.newer) = (before, NONE);
        match self.pairs.get_mut(before as usize) {
            Some(before) => {
                assert_eq!(before.newer, NONE, "nobody was heard after the newest");
                before.newer = slot;
            }
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Pair { older, newer, .. } = self.pairs[slot as usize];
        match self.pairs.get_mut(older as usize) {
            Some(pair) => {
                assert_eq!(pair.newer, slot, "neighbours know each other");
                pair.newer = newer;
            }
            None => {
                assert_eq!(self.oldest, slot, "only the oldest has nobody before it");
                self.oldest = newer;
            }
        }
        match self.pairs.get_mut(newer as usize) {
            Some(pair) => {
                assert_eq!(pair.older, slot, "neighbours know each other");
                pair.older = older;
            }
            None => {
                assert_eq!(self.newest, slot, "only the newest has nobody behind it");
                self.newest = older;
            }
        }
    }

    /// The slot stays where it is, free: a checkpoint that is being written walks the slots.
    fn forget_oldest(&mut self) {
        let slot = self.oldest;
        self.unlink(slot);
        let pair = &mut self.pairs[slot as usize];
        let known = self.slots.remove(&(pair.publisher, pair.partition));
        assert_eq!(known, Some(slot), "each pair has its slot");
        assert!(pair.sequences.capacity() <= self.room, "the room of every list is counted");
        self.room -= pair.sequences.capacity();
        pair.publisher = 0;
        pair.sequences = VecDeque::new();
        self.free.push(slot);
    }

    fn check(&self, slot: u32) {
        let used = self.pairs.len() - self.free.len();
        assert_eq!(self.slots.len(), used, "each pair is found by its name");
        assert_eq!(self.newest, slot, "who was heard last is forgotten last");
        let kept = self.pairs[slot as usize].sequences.len();
        assert!((1..=SEQUENCES_MAX).contains(&kept), "a publisher's window has a bound");
    }
}

impl Publishers {
    /// Walks the whole list: for a start, and for tests.
    fn check_all(&self) {
        let (mut count, mut slot, mut room) = (0, self.oldest, 0);
        while let Some(pair) = self.pairs.get(slot as usize) {
            assert!(count < self.pairs.len(), "the list comes to an end");
            (count, slot, room) = (count + 1, pair.newer, room + pair.sequences.capacity());
        }
        assert_eq!(count, self.len(), "every pair stands in the list once");
        assert_eq!(room, self.room, "the room of every list is counted");
    }
}

impl Pair {
    fn newest_sequence(&self) -> u64 {
        self.sequences.back().map_or(0, |newest| newest.sequence)
    }
}

impl Remembered {
    fn of(header: &BatchHeader) -> Self {
        let BatchHeader { sequence, base_offset, topic, body_crc, .. } = *header;
        Remembered { sequence, base_offset, topic, body_crc }
    }
}

impl Log {
    /// Where a batch stands already, if its publisher sends it again; `topic` is this log's number of its topic. `None`:
    /// it is new, or has no sequence.
    ///
    /// # Errors
    /// Its sequence is not among those remembered, or stands for another batch.
    pub fn stored(
        &self,
        topic: Option<TopicId>,
        partition: Partition,
        header: &BatchHeader,
    ) -> Result<Option<Stored>, NoAppend> {
        if header.publisher_id == 0 {
            return Ok(None);
        }
        let topic = topic.unwrap_or(TopicId(0));
        self.publishers.seen(&BatchHeader { topic, partition, ..*header })
    }
}

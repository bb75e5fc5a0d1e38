//! One subscriber: it fetches its partitions with a session, as Kafka's clients do, so that a request names only what
//! has moved.

use std::collections::HashMap;

use anyhow::{Context, bail, ensure};

use super::kafka_error;
use super::records::each_value;
use super::setup::Place;
use super::wire::{Answer, Api, Request};
use crate::engine::driver::{STAMP_NONE, What};

/// How long a broker may hold a fetch that finds nothing (`fetch.max.wait.ms`).
const WAIT_MAX_MS: i32 = 500;
/// Most bytes of an answer (`fetch.max.bytes`).
const ANSWER_BYTES_MAX: i32 = 50 << 20;
/// Most bytes of one partition in it (`max.partition.fetch.bytes`).
const PARTITION_BYTES_MAX: i32 = 1 << 20;
/// The broker has forgotten the session, or counts it otherwise: a new one is begun.
const SESSION_ERRORS: [i16; 2] = [70, 71];

/// What it reads, and how far.
pub(super) struct Subscriber {
    group: u32,
    places: Vec<Place>,
    /// Where in `places` a topic's partitions stand.
    by_name: HashMap<String, HashMap<i32, usize>>,
    /// Those that the session does not know as they are.
    moved: Vec<usize>,
    session: i32,
    epoch: i32,
    next_request: i32,
}

impl Subscriber {
    /// A subscriber of `group` that reads these partitions.
    pub(super) fn new(group: u32, places: Vec<Place>) -> Self {
        let mut by_name: HashMap<String, HashMap<i32, usize>> = HashMap::new();
        for (index, place) in places.iter().enumerate() {
            by_name.entry(place.topic.clone()).or_default().insert(place.partition, index);
        }
        let moved = (0..places.len()).collect();
        Subscriber { group, places, by_name, moved, session: 0, epoch: 0, next_request: 0 }
    }

    /// Asks for what comes next.
    pub(super) fn fetch(&mut self, out: &mut Vec<u8>) {
        if self.session == 0 {
            self.moved = (0..self.places.len()).collect();
        }
        self.moved.sort_unstable();
        self.moved.dedup();
        let moved: Vec<&Place> = self.moved.iter().map(|&index| &self.places[index]).collect();
        let topics: Vec<&[&Place]> = moved.chunk_by(|a, b| a.topic == b.topic).collect();
        let mut request = Request::start(Api::Fetch, self.next_request, out);
        request.i32(-1).i32(WAIT_MAX_MS).i32(1).i32(ANSWER_BYTES_MAX).i8(0);
        request.i32(self.session).i32(self.epoch).i32(topics.len() as i32);
        for places in topics {
            request.text(Some(&places[0].topic)).i32(places.len() as i32);
            for place in places {
                request.i32(place.partition).i64(place.next).i64(-1).i32(PARTITION_BYTES_MAX);
            }
        }
        request.i32(0); // nothing is forgotten
        request.finish();
        self.moved.clear();
        self.next_request = self.next_request.wrapping_add(1);
    }

    /// Tells what came, and moves on.
    pub(super) fn on_answer(
        &mut self,
        mut answer: Answer<'_>,
        mut tell: impl FnMut(What),
    ) -> anyhow::Result<()> {
        let (_throttled, error, session) = (answer.i32()?, answer.i16()?, answer.i32()?);
        if SESSION_ERRORS.contains(&error) {
            (self.session, self.epoch) = (0, 0);
            return Ok(());
        }
        if error != 0 {
            bail!("a fetch is refused: {}", kafka_error(error));
        }
        self.session = session;
        self.epoch = if session == 0 { 0 } else { self.epoch + 1 };
        for _ in 0..answer.count()? {
            let topic = answer.text()?;
            for _ in 0..answer.count()? {
                let (partition, error) = (answer.i32()?, answer.i16()?);
                let (_high, _stable, _start) = (answer.i64()?, answer.i64()?, answer.i64()?);
                for _ in 0..answer.count()? {
                    let (_aborted_id, _aborted_offset) = (answer.i64()?, answer.i64()?);
                }
                let records = answer.bytes()?;
                if error != 0 {
                    bail!("partition {partition} of {topic}: {}", kafka_error(error));
                }
                self.on_records(topic, partition, records, &mut tell)?;
            }
        }
        Ok(())
    }

    fn on_records(
        &mut self,
        topic: &str,
        partition: i32,
        records: &[u8],
        tell: &mut impl FnMut(What),
    ) -> anyhow::Result<()> {
        let group = self.group;
        let mut uncounted = 0;
        let mut delivered = |events, stamp_ns| {
            tell(What::Delivered { group, events, again: false, stamp_ns });
        };
        let next = each_value(records, |value| {
            let stamp = value.first_chunk().context("a delivery has no stamp")?;
            uncounted += 1;
            // Only a batch's last event carries its time; those before it are told with it.
            match u64::from_le_bytes(*stamp) {
                STAMP_NONE => {}
                stamp_ns => delivered(std::mem::take(&mut uncounted), stamp_ns),
            }
            Ok(())
        })?;
        if uncounted > 0 {
            delivered(uncounted, STAMP_NONE);
        }
        if let Some(next) = next {
            let known = self.by_name.get(topic).and_then(|partitions| partitions.get(&partition));
            let index = *known.context("events came of a partition that is not ours")?;
            let place = &mut self.places[index];
            ensure!(next > place.next, "offset {next} came after {}", place.next);
            place.next = next;
            self.moved.push(index);
        }
        Ok(())
    }
}

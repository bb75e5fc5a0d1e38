//! The batches that are published, made before the load starts so that making them is not what is measured.

use anyhow::Context;
use codec::attribute::{Key, Value};
use codec::builder::BatchBuilder;
use codec::crc32c::crc32c;
use codec::event::DataKind;
use codec::frame::{self, FRAME_HEADER_BYTES, Kind};
use codec::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use codec::ids::{Partition, TopicId};
use codec::limits::PARTITIONS;
use codec::murmur2::partition_of;

use crate::floor::raw_write::incompressible;

/// Memory for all templates together: what fits the second level cache is not fetched from memory at each send.
const TEMPLATES_BYTES: usize = 1 << 20;
/// A stamp is the intended send time in ns since the run began, at the start of the data of a batch's first event.
pub(crate) const STAMP_BYTES: usize = 8;

/// What the events look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventShape {
    /// Bytes of data of each event.
    pub(crate) data_bytes: usize,
    /// Events of a batch.
    pub(crate) batch: u32,
    /// Distinct keys; 0 is events without a key.
    pub(crate) keys: u32,
}

/// One publish frame, ready but for request, topic and stamp.
struct Template {
    frame: Vec<u8>,
    header: BatchHeader,
    /// Where the data of the first event starts, counted from the start of the frame.
    stamp_at: usize,
}

/// The frames of a load, used in turn.
pub(crate) struct Templates {
    templates: Vec<Template>,
    /// Whether batches carry their intended send time, which costs their checksum anew.
    stamped: bool,
}

const BODY_AT: usize = FRAME_HEADER_BYTES + HEADER_BYTES;

impl Templates {
    /// Batches of this shape with incompressible data. The keys of a batch share its partition, as a client sorts
    /// them.
    pub(crate) fn new(shape: EventShape, stamped: bool) -> anyhow::Result<Self> {
        assert!(
            !stamped || shape.data_bytes >= STAMP_BYTES,
            "the arguments leave room for a stamp"
        );
        let bytes = BODY_AT + shape.batch as usize * (shape.data_bytes + 64);
        let count = (TEMPLATES_BYTES / bytes).clamp(8, 256);
        let keys = keys_by_partition(shape.keys, PARTITIONS);
        let templates = (0..count)
            .map(|index| Template::new(shape, index, &keys))
            .collect::<anyhow::Result<_>>()?;
        Ok(Templates { templates, stamped })
    }

    /// Appends the `index`th publish frame to `out`.
    pub(crate) fn encode(
        &self,
        index: u64,
        request: u64,
        topic: TopicId,
        stamp_ns: u64,
        out: &mut Vec<u8>,
    ) {
        let template = &self.templates[(index % self.templates.len() as u64) as usize];
        let start = out.len();
        out.extend_from_slice(&template.frame);
        let frame = &mut out[start..];
        frame[8..FRAME_HEADER_BYTES].copy_from_slice(&request.to_le_bytes());
        if !self.stamped && topic == template.header.topic {
            return;
        }
        let mut header = BatchHeader { topic, ..template.header };
        if self.stamped {
            let at = template.stamp_at;
            frame[at..at + STAMP_BYTES].copy_from_slice(&stamp_ns.to_le_bytes());
            header.body_crc = crc32c(&frame[BODY_AT..]);
        }
        frame[FRAME_HEADER_BYTES..BODY_AT].copy_from_slice(&header.encode(HeaderSeed::WIRE));
    }
}

impl Template {
    fn new(
        shape: EventShape,
        index: usize,
        keys: &[(Partition, Vec<String>)],
    ) -> anyhow::Result<Self> {
        let mut shared = [
            (Key::Source, Value::UriReference("/loadtest")),
            (Key::Type, Value::String("com.example.load")),
        ];
        let mut builder = BatchBuilder::new(&mut shared)?;
        let partition = if keys.is_empty() { None } else { keys.get(index % keys.len()) };
        let mut byte = incompressible(index as u64 + 1);
        for event in 0..shape.batch as usize {
            let data: Vec<u8> = (0..shape.data_bytes).map(&mut byte).collect();
            let key = partition.map(|(_, keys)| &*keys[(index + event) % keys.len()]);
            let mut own: Vec<_> =
                key.map(|key| (Key::PartitionKey, Value::String(key))).into_iter().collect();
            builder.push(&mut own, DataKind::Binary, &data)?;
        }
        let batch = builder.finish(TopicId(1), partition.map_or(Partition::ANY, |(p, _)| *p));
        let (header, _) = batch.split_first_chunk().context("a batch has a header")?;
        let header = BatchHeader::decode(header, HeaderSeed::WIRE)?;
        let first = codec::body::Body::parse(&batch[HEADER_BYTES..], header.count)?
            .event(0)
            .context("a batch has an event")?;
        let stamp_at = FRAME_HEADER_BYTES + first.data().as_ptr().addr() - batch.as_ptr().addr();
        let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + batch.len());
        frame::encode_plain(Kind::Publish, 0, &batch, &mut frame);
        Ok(Template { frame, header, stamp_at })
    }
}

/// `keys` keys, those of each partition together; partitions without a key are left out.
/// The keys of a load by the partition that they choose, without the partitions that none chooses.
pub(crate) fn keys_by_partition(keys: u32, partitions: u16) -> Vec<(Partition, Vec<String>)> {
    let mut sorted: Vec<(Partition, Vec<String>)> =
        (0..partitions).map(|partition| (Partition(partition), Vec::new())).collect();
    for number in 0..keys {
        let key = format!("key-{number}");
        sorted[usize::from(partition_of(key.as_bytes(), partitions).0)].1.push(key);
    }
    sorted.retain(|(_, keys)| !keys.is_empty());
    sorted
}

/// The stamp in the first event of a batch: the intended send time in ns since the run began.
pub(crate) fn stamp_of(body: &codec::body::Body<'_>) -> Option<u64> {
    body.event(0)?.data().first_chunk().map(|stamp| u64::from_le_bytes(*stamp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::batch::Batch;
    use codec::frame::{Frame, Parsed};

    /// A server refuses what is malformed, and a refused load measures refusals: every frame must be a good publish,
    /// with the keys of one partition, the topic, the stamp and the request that were asked for.
    #[test]
    fn every_frame_is_a_good_publish() {
        for (batch, keys, stamped) in [(1, 0, false), (1, 10, true), (100, 1_000, true)] {
            let shape = EventShape { data_bytes: 100, batch, keys };
            let templates = Templates::new(shape, stamped).unwrap();
            let mut out = Vec::new();
            for index in 0..300 {
                let topic = TopicId(1 + index as u32 % 3);
                out.clear();
                templates.encode(index, 1_000 + index, topic, 77 + index, &mut out);
                let Ok(Parsed::Frame { request, frame: Frame::Publish(bytes), consumed }) =
                    frame::parse(&out)
                else {
                    panic!("no publish frame: {out:?}");
                };
                assert_eq!((request, consumed), (1_000 + index, out.len()));
                let batch = Batch::parse(bytes, HeaderSeed::WIRE).unwrap();
                assert_eq!(batch.header.topic, topic);
                let body = batch.check().unwrap();
                assert_eq!(body.count(), shape.batch);
                assert!(!stamped || stamp_of(&body) == Some(77 + index));
                for event in body.events() {
                    let partition =
                        event.partition_key().map(|key| partition_of(key.as_bytes(), PARTITIONS));
                    assert_eq!(partition.is_some(), keys > 0);
                    assert_eq!(partition.unwrap_or(Partition::ANY), batch.header.partition);
                }
            }
        }
    }
}

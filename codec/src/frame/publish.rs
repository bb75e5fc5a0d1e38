//! Topic announcements and acks of published batches. A publish frame's body is the batch itself.
//!
//! ```text
//! topic                     published: entries of 32 bytes, one after the other
//!  0 u32 number              0 u64 request of the publish
//!  4 name, to the end        8 u64 base offset
//!                           16 u32 topic number, as in the publish
//!                           20 u32 events
//!                           24 u16 partition
//!                           26 u8  ack level
//!                           27 [5] reserved, 0
//! ```

use super::reader::{Reader, limit, utf8};
use super::{CONTROL_BODY_BYTES_MAX, FRAME_HEADER_BYTES, Kind, encode_header};
use crate::ack::AckLevel;
use crate::error::DecodeError;
use crate::ids::{Offset, Partition, TopicId};
use crate::limits::TOPIC_BYTES_MAX;

/// Size of one entry of a published frame.
pub const PUBLISHED_ENTRY_BYTES: usize = 32;

/// From here on `id` stands for `name` in this direction of this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicFrame<'a> {
    /// The number, not 0. A number that stood for another topic stands for this one now.
    pub id: TopicId,
    /// The topic's name. Only its length and that it is text has been checked.
    pub name: &'a str,
}

impl<'a> TopicFrame<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let id = TopicId(reader.u32("topic number")?);
        let name = reader.rest();
        limit("topic bytes", TOPIC_BYTES_MAX, name.len())?;
        if id == TopicId(0) {
            return Err(DecodeError::Malformed { field: "topic number" });
        }
        Ok(TopicFrame { id, name: utf8(name, "topic")? })
    }

    /// Appends the frame. Its request is the topic's number, so that a refusal names it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_header(Kind::Topic, u64::from(self.id.0), 4 + self.name.len(), out);
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(self.name.as_bytes());
    }
}

/// A published batch that has reached its ack level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The request of its publish frame.
    pub request: u64,
    /// The topic's number as it stood in the batch.
    pub topic: TopicId,
    /// The partition it went to; never [`Partition::ANY`].
    pub partition: Partition,
    /// Offset of the batch's first event.
    pub base_offset: Offset,
    /// Events of the batch.
    pub count: u32,
    /// How safe they are.
    pub level: AckLevel,
}

impl Acked {
    fn decode(entry: &[u8; PUBLISHED_ENTRY_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(entry);
        let field = "published";
        let request = reader.u64(field)?;
        let base_offset = Offset(reader.u64(field)?);
        let topic = TopicId(reader.u32(field)?);
        let count = reader.u32(field)?;
        let partition = Partition(reader.u16(field)?);
        let level = AckLevel::from_number(reader.u8(field)?)
            .ok_or(DecodeError::Malformed { field: "ack level" })?;
        reader.reserved::<5>()?;
        Ok(Acked { request, topic, partition, base_offset, count, level })
    }

    fn encode_entry(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request.to_le_bytes());
        out.extend_from_slice(&self.base_offset.0.to_le_bytes());
        out.extend_from_slice(&self.topic.0.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&[self.level as u8, 0, 0, 0, 0, 0]);
    }

    /// Appends a published frame with this one entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_header(Kind::Published, 0, PUBLISHED_ENTRY_BYTES, out);
        self.encode_entry(out);
    }

    /// Adds this entry to the published frame that starts at `frame_at` and is the last thing in `out`. Returns false,
    /// and leaves `out` as it was, when that frame is full.
    pub fn extend(&self, frame_at: usize, out: &mut Vec<u8>) -> bool {
        let body = out.len() - frame_at - FRAME_HEADER_BYTES + PUBLISHED_ENTRY_BYTES;
        assert!(out[frame_at + 4] == Kind::Published.number(), "only acks are extended");
        if body > CONTROL_BODY_BYTES_MAX as usize {
            return false;
        }
        self.encode_entry(out);
        out[frame_at..frame_at + 4].copy_from_slice(&(body as u32).to_le_bytes());
        true
    }
}

/// The entries of a published frame, all checked.
#[derive(Clone, Copy, Debug)]
pub struct Acks<'a>(&'a [u8]);

impl<'a> Acks<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let (entries, rest) = body.as_chunks::<PUBLISHED_ENTRY_BYTES>();
        if entries.is_empty() || !rest.is_empty() {
            return Err(DecodeError::Malformed { field: "frame length" });
        }
        for entry in entries {
            Acked::decode(entry)?;
        }
        Ok(Acks(body))
    }
}

impl Iterator for Acks<'_> {
    type Item = Acked;

    fn next(&mut self) -> Option<Acked> {
        let (entry, rest) = self.0.split_first_chunk::<PUBLISHED_ENTRY_BYTES>()?;
        self.0 = rest;
        Acked::decode(entry).ok()
    }
}

//! Makes the body of a batch, event by event.

use crate::attribute::{self, Key, Value};
use crate::body::RECORD_HEADER_BYTES;
use crate::error::BuildError;
use crate::event::DataKind;
use crate::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use crate::ids::{Partition, TopicId};
use crate::limits::{ATTRIBUTES_BYTES_MAX, BATCH_EVENTS_MAX, BODY_BYTES_MAX, EVENT_DATA_BYTES_MAX};

/// A batch under construction. Attributes that all its events share are given once, at the start.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    shared: Vec<u8>,
    ends: Vec<u8>,
    records: Vec<u8>,
    count: u32,
}

impl BatchBuilder {
    /// An empty batch whose events share `attributes`, in any order.
    ///
    /// # Errors
    /// The attributes are over the limit, badly named, or given twice.
    pub fn new(attributes: &mut [(Key<'_>, Value<'_>)]) -> Result<Self, BuildError> {
        let mut shared = Vec::new();
        encode_section(attributes, section_len(attributes), 0, &mut shared)?;
        Ok(BatchBuilder { shared, ..Self::default() })
    }

    /// Adds one event. `attributes` may stand in any order and are left sorted.
    ///
    /// # Errors
    /// The batch is full, or the event is over a limit; the batch is as it was.
    pub fn push(
        &mut self,
        attributes: &mut [(Key<'_>, Value<'_>)],
        kind: DataKind,
        data: &[u8],
    ) -> Result<(), BuildError> {
        check_limit("event data bytes", EVENT_DATA_BYTES_MAX, data.len())?;
        if !kind.allows(data) {
            return Err(BuildError::DataKind { kind });
        }
        let own_bytes = section_len(attributes);
        let len = self.body_len() + 4 + RECORD_HEADER_BYTES + own_bytes + data.len();
        if self.count > 0 && (self.count == BATCH_EVENTS_MAX || len > BODY_BYTES_MAX as usize) {
            return Err(BuildError::Full);
        }
        check_limit("batch body bytes", BODY_BYTES_MAX, len)?;
        let start = self.records.len();
        self.records.reserve(RECORD_HEADER_BYTES + own_bytes + data.len());
        self.records.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        if let Err(error) =
            encode_section(attributes, own_bytes, self.shared.len(), &mut self.records)
        {
            self.records.truncate(start);
            return Err(error);
        }
        let own_len = (self.records.len() - start - RECORD_HEADER_BYTES) as u32;
        let head = (u32::from(kind as u8)) | (own_len << 8);
        self.records[start..start + RECORD_HEADER_BYTES].copy_from_slice(&head.to_le_bytes());
        self.records.extend_from_slice(data);
        self.ends.extend_from_slice(&(self.records.len() as u32).to_le_bytes());
        self.count += 1;
        assert!(self.body_len() == len, "the length was computed before");
        Ok(())
    }

    /// Events so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the body so far.
    #[must_use]
    pub fn body_len(&self) -> usize {
        4 + self.ends.len() + self.shared.len() + self.records.len()
    }

    /// The batch as it goes on the wire, and an empty builder with the same shared attributes.
    pub fn finish(&mut self, topic: TopicId, partition: Partition) -> Vec<u8> {
        assert!(self.count > 0, "a batch has at least one event");
        let mut out = Vec::with_capacity(HEADER_BYTES + self.body_len());
        out.extend_from_slice(&[0; HEADER_BYTES]);
        out.extend_from_slice(&(self.shared.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.ends);
        out.extend_from_slice(&self.shared);
        out.extend_from_slice(&self.records);
        let header = BatchHeader::unstamped(topic, partition, &out[HEADER_BYTES..], self.count);
        out[..HEADER_BYTES].copy_from_slice(&header.encode(HeaderSeed::WIRE));
        self.ends.clear();
        self.records.clear();
        self.count = 0;
        out
    }
}

fn section_len(attributes: &[(Key<'_>, Value<'_>)]) -> usize {
    attributes.iter().map(|(key, value)| attribute::encoded_len(key, value)).sum()
}

/// Sorts, checks and appends a section that takes `bytes`, next to one shared with the batch.
fn encode_section(
    attributes: &mut [(Key<'_>, Value<'_>)],
    bytes: usize,
    shared_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), BuildError> {
    check_limit("attribute bytes", ATTRIBUTES_BYTES_MAX, bytes + shared_bytes)?;
    for (key, value) in &*attributes {
        if !key.is_valid() {
            return Err(BuildError::AttributeName { name: key.name().to_owned() });
        }
        if !attribute::is_value_allowed(key, value) {
            return Err(BuildError::AttributeValue { name: key.name().to_owned() });
        }
    }
    attributes.sort_unstable_by(|(a, _), (b, _)| a.order(b));
    if let Some([(key, _), _]) = attributes.array_windows().find(|[(a, _), (b, _)]| a == b) {
        return Err(BuildError::DuplicateAttribute { name: key.name().to_owned() });
    }
    for (key, value) in attributes {
        attribute::encode(key, value, out);
    }
    Ok(())
}

fn check_limit(field: &'static str, limit: u32, value: usize) -> Result<(), BuildError> {
    if value <= limit as usize {
        return Ok(());
    }
    Err(BuildError::Limit { field, limit: u64::from(limit), value: value as u64 })
}

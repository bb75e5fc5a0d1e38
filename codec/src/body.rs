//! The events of a batch.
//!
//! ```text
//! 0      u32      bytes of the shared attributes
//! 4      u32 * n  for each event the end of its record, counted from the start of the records
//! 4+4n            attributes that all events of the batch share (a section, see `attribute`)
//! ...             n records, one after the other:
//!                   0 u32   data kind (low 8 bits), bytes of the event's own attributes (high 24 bits)
//!                   4       the event's own attributes (a section)
//!                   ...     data, to the end of the record
//! ```

use crate::attribute::Section;
use crate::error::DecodeError;
use crate::event::{DataKind, Event};
use crate::limits::ATTRIBUTES_BYTES_MAX;

/// Bytes of a record before its attributes.
pub(crate) const RECORD_HEADER_BYTES: usize = 4;

/// A body whose structure has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    count: u32,
    ends: &'a [u8],
    shared: Section<'a>,
    records: &'a [u8],
}

impl<'a> Body<'a> {
    /// Checks a body of `count` events: every length, every attribute. After this no accessor can fail.
    ///
    /// # Errors
    /// Names what is wrong with the first bad part.
    pub fn parse(bytes: &'a [u8], count: u32) -> Result<Self, DecodeError> {
        let body = Self::split(bytes, count)?;
        Section::parse(body.shared.bytes())?;
        let mut start = 0;
        for index in 0..count {
            let end = body.end(index);
            let record = body
                .records
                .get(start..end)
                .ok_or(DecodeError::Malformed { field: "event end" })?;
            let event = body.event_of(record)?;
            Section::parse(event.own.bytes())?;
            check_data(&event)?;
            let attributes = event.own.bytes().len() + body.shared.bytes().len();
            if attributes > ATTRIBUTES_BYTES_MAX as usize {
                return Err(DecodeError::Limit {
                    field: "attribute bytes",
                    limit: u64::from(ATTRIBUTES_BYTES_MAX),
                    value: attributes as u64,
                });
            }
            start = end;
        }
        if start != body.records.len() {
            return Err(DecodeError::Malformed { field: "event end" });
        }
        Ok(body)
    }

    /// A body that was checked by [`Body::parse`] when it was admitted, and since then is guarded by its checksum.
    /// Only its outer shape is checked again.
    ///
    /// # Errors
    /// The bytes are too short for `count` events.
    pub fn checked_before(bytes: &'a [u8], count: u32) -> Result<Self, DecodeError> {
        Self::split(bytes, count)
    }

    /// Events in the body.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The event at `index`, or `None` if there are not so many.
    #[must_use]
    #[inline]
    pub fn event(&self, index: u32) -> Option<Event<'a>> {
        if index >= self.count {
            return None;
        }
        let start = if index == 0 { 0 } else { self.end(index - 1) };
        self.event_of(self.records.get(start..self.end(index))?).ok()
    }

    /// All events in order.
    pub fn events(&self) -> impl Iterator<Item = Event<'a>> + use<'a> {
        let body = *self;
        (0..self.count).map_while(move |index| body.event(index))
    }

    fn split(bytes: &'a [u8], count: u32) -> Result<Self, DecodeError> {
        let truncated = || DecodeError::Truncated { field: "batch body" };
        let (shared_len, rest) = bytes.split_first_chunk::<4>().ok_or_else(truncated)?;
        let (ends, rest) = rest.split_at_checked(4 * count as usize).ok_or_else(truncated)?;
        let shared_len = u32::from_le_bytes(*shared_len) as usize;
        let (shared, records) = rest.split_at_checked(shared_len).ok_or_else(truncated)?;
        Ok(Body { count, ends, shared: Section::checked_before(shared), records })
    }

    #[inline]
    fn end(&self, index: u32) -> usize {
        assert!(index < self.count, "callers stay below the count");
        let at = 4 * index as usize;
        let end: [u8; 4] = self.ends[at..at + 4].try_into().expect("4 bytes");
        u32::from_le_bytes(end) as usize
    }

    #[inline]
    fn event_of(&self, record: &'a [u8]) -> Result<Event<'a>, DecodeError> {
        let truncated = || DecodeError::Truncated { field: "event" };
        let (head, rest) =
            record.split_first_chunk::<RECORD_HEADER_BYTES>().ok_or_else(truncated)?;
        let own_len = u32::from_le_bytes([head[1], head[2], head[3], 0]) as usize;
        let (own, data) = rest.split_at_checked(own_len).ok_or_else(truncated)?;
        let malformed = || DecodeError::Malformed { field: "data kind" };
        let kind = DataKind::from_number(head[0]).ok_or_else(malformed)?;
        Ok(Event { shared: self.shared, own: Section::checked_before(own), kind, data })
    }
}

/// Text must be text. JSON is checked by whoever turns JSON into an event; here only that it can be written as text.
fn check_data(event: &Event<'_>) -> Result<(), DecodeError> {
    match event.kind {
        DataKind::None if !event.data.is_empty() => Err(DecodeError::Malformed { field: "data" }),
        kind if !kind.allows(event.data) => Err(DecodeError::NotUtf8 { field: "data" }),
        _ => Ok(()),
    }
}

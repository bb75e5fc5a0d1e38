//! Subscribe, unsubscribe and credit. In all of them the frame's request is the subscription's number.
//!
//! ```text
//! subscribe
//!  0 u8  mode: 0 clustering, 1 broadcasting
//!  1 u8  start: 0 none given, 1 tail, 2 earliest, 3 time, 4 offsets
//!  2 u16 bytes of the group, 0 = none (ephemeral)
//!  4 u16 bytes of the filter
//!  6 u16 offsets given (start 4), else 0
//!  8 u32 credit: most events in flight
//! 12 u32 reserved, 0
//! 16 u64 time in microseconds since 1970-01-01 UTC (start 3), else 0
//! 24 offsets, 16 bytes each: u16 partition, [6] reserved, u64 offset
//! .. group, filter
//!
//! unsubscribe: 0 u8 what: 0 leave, 1 end        credit: 0 u32 most events in flight
//! ```

use super::reader::{Reader, limit};
use super::{Kind, encode_header};
use crate::error::DecodeError;
use crate::ids::{Offset, Partition, Timestamp};
use crate::limits::{PARTITIONS, TOPIC_BYTES_MAX};

/// Longest group name: it stands in the catalog and in every listing.
pub const GROUP_BYTES_MAX: usize = 256;
const SUBSCRIBE_FIXED_BYTES: usize = 24;
const OFFSET_BYTES: usize = 16;

/// How a group's members get its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WireMode {
    /// The members share them.
    Clustering = 0,
    /// Each client gets all.
    Broadcasting = 1,
}

/// Where a new subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireStart<'a> {
    /// Where the group stands; a new one starts at the tail.
    Default,
    /// With what is acknowledged after the answer.
    Tail,
    /// With the oldest event there is.
    Earliest,
    /// With the first event appended at or after a time.
    Time(Timestamp),
    /// At an offset in each partition named, for an exact topic; in all others with the first event.
    Offsets(WireOffsets<'a>),
}

/// The offsets of a subscribe frame, all checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireOffsets<'a>(Offsets<'a>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offsets<'a> {
    Given(&'a [(Partition, Offset)]),
    Received(&'a [u8]),
}

impl<'a> WireOffsets<'a> {
    /// Offsets to be sent.
    #[must_use]
    pub fn new(offsets: &'a [(Partition, Offset)]) -> Self {
        WireOffsets(Offsets::Given(offsets))
    }

    /// Partitions named.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.0 {
            Offsets::Given(offsets) => offsets.len(),
            Offsets::Received(bytes) => bytes.len() / OFFSET_BYTES,
        }
    }

    /// Whether no partition is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each partition with its offset.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, Offset)> + use<'a> {
        let (given, received): (&[(Partition, Offset)], &[u8]) = match self.0 {
            Offsets::Given(offsets) => (offsets, &[]),
            Offsets::Received(bytes) => (&[], bytes),
        };
        let (entries, _) = received.as_chunks::<OFFSET_BYTES>();
        given.iter().copied().chain(entries.iter().filter_map(|entry| decode_offset(entry).ok()))
    }
}

fn decode_offset(entry: &[u8; OFFSET_BYTES]) -> Result<(Partition, Offset), DecodeError> {
    let mut reader = Reader::new(entry);
    let partition = Partition(reader.u16("offsets")?);
    reader.reserved::<6>()?;
    Ok((partition, Offset(reader.u64("offsets")?)))
}

/// The wish to become a member of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The group; `None` for an ephemeral subscription of this client.
    pub group: Option<&'a str>,
    /// The filter. Only its length and that it is text has been checked.
    pub filter: &'a str,
    /// How members get events.
    pub mode: WireMode,
    /// Where a new subscription starts.
    pub start: WireStart<'a>,
    /// Most events in flight.
    pub credit: u32,
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mode = match reader.u8("subscribe")? {
            0 => WireMode::Clustering,
            1 => WireMode::Broadcasting,
            _ => return Err(DecodeError::Malformed { field: "mode" }),
        };
        let start_kind = reader.u8("subscribe")?;
        let group_len = usize::from(reader.u16("subscribe")?);
        let filter_len = usize::from(reader.u16("subscribe")?);
        let offsets = usize::from(reader.u16("subscribe")?);
        let credit = reader.u32("subscribe")?;
        reader.reserved::<4>()?;
        let time = reader.u64("subscribe")?;
        limit("offsets", usize::from(PARTITIONS), offsets)?;
        limit("group bytes", GROUP_BYTES_MAX, group_len)?;
        limit("filter bytes", TOPIC_BYTES_MAX, filter_len)?;
        let offset_bytes = reader.bytes(offsets * OFFSET_BYTES, "offsets")?;
        let group = reader.text(group_len, "group")?;
        let filter = reader.text(filter_len, "filter")?;
        reader.end()?;
        let start = match (start_kind, time, offsets) {
            (0, 0, 0) => WireStart::Default,
            (1, 0, 0) => WireStart::Tail,
            (2, 0, 0) => WireStart::Earliest,
            (3, time, 0) => WireStart::Time(Timestamp(time)),
            (4, 0, 1..) => WireStart::Offsets(checked_offsets(offset_bytes)?),
            _ => return Err(DecodeError::Malformed { field: "start" }),
        };
        let group = (!group.is_empty()).then_some(group);
        Ok(Subscribe { group, filter, mode, start, credit })
    }

    /// Appends the frame.
    pub fn encode(&self, subscription: u64, out: &mut Vec<u8>) {
        let group = self.group.unwrap_or_default();
        let (start, time, offsets) = match self.start {
            WireStart::Default => (0, 0, None),
            WireStart::Tail => (1, 0, None),
            WireStart::Earliest => (2, 0, None),
            WireStart::Time(time) => (3, time.0, None),
            WireStart::Offsets(offsets) => (4, 0, Some(offsets)),
        };
        let offset_count = offsets.map_or(0, |offsets| offsets.len());
        let body =
            SUBSCRIBE_FIXED_BYTES + offset_count * OFFSET_BYTES + group.len() + self.filter.len();
        encode_header(Kind::Subscribe, subscription, body, out);
        out.extend_from_slice(&[self.mode as u8, start]);
        for len in [group.len(), self.filter.len(), offset_count] {
            out.extend_from_slice(&(len as u16).to_le_bytes());
        }
        out.extend_from_slice(&self.credit.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&time.to_le_bytes());
        for (partition, offset) in offsets.iter().flat_map(WireOffsets::iter) {
            out.extend_from_slice(&partition.0.to_le_bytes());
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&offset.0.to_le_bytes());
        }
        out.extend_from_slice(group.as_bytes());
        out.extend_from_slice(self.filter.as_bytes());
    }
}

fn checked_offsets(bytes: &[u8]) -> Result<WireOffsets<'_>, DecodeError> {
    let (entries, _) = bytes.as_chunks::<OFFSET_BYTES>();
    for entry in entries {
        decode_offset(entry)?;
    }
    Ok(WireOffsets(Offsets::Received(bytes)))
}

pub(super) fn decode_unsubscribe(body: &[u8]) -> Result<bool, DecodeError> {
    match body {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(DecodeError::Malformed { field: "unsubscribe" }),
    }
}

/// What a gap says when nobody knows how many events are gone.
pub(super) const GAP_UNKNOWN: u64 = u64::MAX;

pub(super) fn decode_gap(body: &[u8]) -> Result<Option<u64>, DecodeError> {
    let mut reader = Reader::new(body);
    let events = reader.u64("events of the gap")?;
    reader.end()?;
    Ok(Some(events).filter(|events| *events != GAP_UNKNOWN))
}

pub(super) fn decode_credit(body: &[u8]) -> Result<u32, DecodeError> {
    let mut reader = Reader::new(body);
    let events = reader.u32("credit")?;
    reader.end()?;
    Ok(events)
}

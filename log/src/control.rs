//! The log's own records: what stands in control batches and, the same, in checkpoints.
//!
//! ```text
//!  0 u8 kind    1 u8[3] zero    4 u32 payload bytes    8 payload
//!
//!  1 commit          u64 number, u64 durable commit end, u32 bytes, u32 batches
//!  2 topic           u32 id, name to the end
//!  3 cursor          u64 group, u64 next, u32 runs, u32 starts, runs * (u64, u64), starts * (u64, u64)
//!  4 cursor removed  u64 group
//!  5 topic deleted   u32 id, u32 partitions, u64 end of the log then, partitions * (u16 partition, u64 next offset)
//! ```

use std::sync::Arc;

use codec::error::DecodeError;
use codec::ids::{Offset, Partition, Position, TopicId};

use crate::cursor::Cursor;

/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// Bytes of a commit record, its header included: the body of the first batch of every commit.
pub(crate) const COMMIT_RECORD_BYTES: usize = RECORD_HEADER_BYTES + 24;

const KIND_COMMIT: u8 = 1;
const KIND_TOPIC: u8 = 2;
const KIND_CURSOR: u8 = 3;
const KIND_CURSOR_REMOVED: u8 = 4;
const KIND_TOPIC_DELETED: u8 = 5;
/// Bytes of a partition in the record of a deletion.
const DELETED_PARTITION_BYTES: usize = 10;

/// What the first batch of a commit says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitRecord {
    /// Number of the commit in its log, dense, from 1.
    pub(crate) number: u64,
    /// Every commit before this one was known durable when this record was written.
    pub(crate) durable_commit_end: u64,
    /// Bytes from the start of the commit to the end of its last batch, without padding.
    pub(crate) bytes: u32,
    /// Batches of the commit, this one included.
    pub(crate) batches: u32,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Commit(CommitRecord),
    Topic {
        id: TopicId,
        name: Arc<str>,
    },
    Cursor {
        group: u64,
        cursor: Cursor,
    },
    CursorRemoved {
        group: u64,
    },
    /// Of a topic's partitions everything before these offsets is gone.
    TopicDeleted {
        id: TopicId,
        end: Position,
        ends: Vec<(Partition, Offset)>,
    },
}

impl CommitRecord {
    pub(crate) fn encode(&self) -> [u8; COMMIT_RECORD_BYTES] {
        assert!(
            self.durable_commit_end <= self.number,
            "a commit is not durable before it is written"
        );
        assert!(self.batches >= 1, "the record itself is a batch");
        assert!(self.bytes as usize >= COMMIT_RECORD_BYTES, "a commit holds its own record");
        let mut out = [0; COMMIT_RECORD_BYTES];
        out[0] = KIND_COMMIT;
        out[4..8].copy_from_slice(&24u32.to_le_bytes());
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..24].copy_from_slice(&self.durable_commit_end.to_le_bytes());
        out[24..28].copy_from_slice(&self.bytes.to_le_bytes());
        out[28..32].copy_from_slice(&self.batches.to_le_bytes());
        out
    }
}

impl Record {
    /// Bytes of a cursor record.
    pub(crate) fn cursor_len(cursor: &Cursor) -> usize {
        RECORD_HEADER_BYTES + 24 + 16 * (cursor.unsettled.len() + cursor.starts.len())
    }

    /// Adds the record to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Commit(commit) => out.extend_from_slice(&commit.encode()),
            Record::Topic { id, name } => {
                assert!(id.0 >= 1 && !name.is_empty(), "topics are numbered from 1 and named");
                encode_header(KIND_TOPIC, 4 + name.len(), out);
                out.extend_from_slice(&id.0.to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Record::Cursor { group, cursor } => encode_cursor(*group, cursor, out),
            Record::CursorRemoved { group } => {
                encode_header(KIND_CURSOR_REMOVED, 8, out);
                out.extend_from_slice(&group.to_le_bytes());
            }
            Record::TopicDeleted { id, end, ends } => {
                assert!(id.0 >= 1, "topics are numbered from 1");
                encode_header(KIND_TOPIC_DELETED, 16 + DELETED_PARTITION_BYTES * ends.len(), out);
                let count = u32::try_from(ends.len()).expect("a partition stands once in a topic");
                out.extend_from_slice(&id.0.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
                out.extend_from_slice(&end.0.to_le_bytes());
                for (partition, offset) in ends {
                    out.extend_from_slice(&partition.0.to_le_bytes());
                    out.extend_from_slice(&offset.0.to_le_bytes());
                }
            }
        }
    }

    /// Takes the first record off `bytes`.
    pub(crate) fn decode(bytes: &mut &[u8]) -> Result<Record, DecodeError> {
        let truncated = DecodeError::Truncated { field: "control record" };
        let (header, rest) =
            bytes.split_first_chunk::<RECORD_HEADER_BYTES>().ok_or(truncated.clone())?;
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if header[1..4] != [0; 3] {
            return Err(DecodeError::Malformed { field: "control record header" });
        }
        let (mut payload, rest) = rest.split_at_checked(len).ok_or(truncated)?;
        let record = Self::decode_payload(header[0], &mut payload)?;
        if !payload.is_empty() {
            return Err(DecodeError::Malformed { field: "control record length" });
        }
        *bytes = rest;
        Ok(record)
    }

    fn decode_payload(kind: u8, payload: &mut &[u8]) -> Result<Record, DecodeError> {
        match kind {
            KIND_COMMIT => Ok(Record::Commit(CommitRecord {
                number: take_u64(payload)?,
                durable_commit_end: take_u64(payload)?,
                bytes: take_u32(payload)?,
                batches: take_u32(payload)?,
            })),
            KIND_TOPIC => {
                let id = TopicId(take_u32(payload)?);
                let name = std::str::from_utf8(payload)
                    .map_err(|_| DecodeError::NotUtf8 { field: "topic name" })?;
                let name = Arc::from(name);
                *payload = &[];
                Ok(Record::Topic { id, name })
            }
            KIND_CURSOR => {
                let group = take_u64(payload)?;
                Ok(Record::Cursor { group, cursor: decode_cursor(payload)? })
            }
            KIND_CURSOR_REMOVED => Ok(Record::CursorRemoved { group: take_u64(payload)? }),
            KIND_TOPIC_DELETED => decode_deleted(payload),
            found => Err(DecodeError::Content { found }),
        }
    }
}

/// Adds a cursor record without taking the cursor.
pub(crate) fn encode_cursor(group: u64, cursor: &Cursor, out: &mut Vec<u8>) {
    // Each run is looked at once more as it is written, so this is as dear as the encoding.
    debug_assert!(cursor.is_well_formed(), "a cursor's runs rise and end before its next");
    let before = out.len();
    let runs = u32::try_from(cursor.unsettled.len()).expect("records are far below 4 GiB");
    let starts = u32::try_from(cursor.starts.len()).expect("records are far below 4 GiB");
    encode_header(KIND_CURSOR, Record::cursor_len(cursor) - RECORD_HEADER_BYTES, out);
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&cursor.next.0.to_le_bytes());
    out.extend_from_slice(&runs.to_le_bytes());
    out.extend_from_slice(&starts.to_le_bytes());
    for (from, to) in &cursor.unsettled {
        out.extend_from_slice(&from.0.to_le_bytes());
        out.extend_from_slice(&to.0.to_le_bytes());
    }
    for (subscription, start) in &cursor.starts {
        out.extend_from_slice(&subscription.to_le_bytes());
        out.extend_from_slice(&start.0.to_le_bytes());
    }
    assert_eq!(out.len() - before, Record::cursor_len(cursor), "the length was announced");
}

fn decode_cursor(payload: &mut &[u8]) -> Result<Cursor, DecodeError> {
    let next = Position(take_u64(payload)?);
    let runs = take_u32(payload)? as usize;
    let starts = take_u32(payload)? as usize;
    if (runs + starts).checked_mul(16) != Some(payload.len()) {
        return Err(DecodeError::Malformed { field: "cursor record length" });
    }
    let mut cursor = Cursor { next, unsettled: Vec::with_capacity(runs), starts: Vec::new() };
    for _ in 0..runs {
        let run = (Position(take_u64(payload)?), Position(take_u64(payload)?));
        cursor.unsettled.push(run);
    }
    for _ in 0..starts {
        let start = (take_u64(payload)?, Position(take_u64(payload)?));
        cursor.starts.push(start);
    }
    if cursor.is_well_formed() {
        Ok(cursor)
    } else {
        Err(DecodeError::Malformed { field: "cursor runs" })
    }
}

fn decode_deleted(payload: &mut &[u8]) -> Result<Record, DecodeError> {
    let id = TopicId(take_u32(payload)?);
    let count = take_u32(payload)? as usize;
    let end = Position(take_u64(payload)?);
    if count.checked_mul(DELETED_PARTITION_BYTES) != Some(payload.len()) {
        return Err(DecodeError::Malformed { field: "deleted topic record length" });
    }
    let mut ends = Vec::with_capacity(count);
    for _ in 0..count {
        let truncated = DecodeError::Truncated { field: "record" };
        let (partition, rest) = payload.split_first_chunk::<2>().ok_or(truncated)?;
        *payload = rest;
        ends.push((Partition(u16::from_le_bytes(*partition)), Offset(take_u64(payload)?)));
    }
    Ok(Record::TopicDeleted { id, end, ends })
}

fn encode_header(kind: u8, payload: usize, out: &mut Vec<u8>) {
    let len = u32::try_from(payload).expect("records are far below 4 GiB");
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&len.to_le_bytes());
}

pub(crate) fn take_u64(bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    let truncated = DecodeError::Truncated { field: "record" };
    let (number, rest) = bytes.split_first_chunk::<8>().ok_or(truncated)?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*number))
}

pub(crate) fn take_u32(bytes: &mut &[u8]) -> Result<u32, DecodeError> {
    let truncated = DecodeError::Truncated { field: "record" };
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(truncated)?;
    *bytes = rest;
    Ok(u32::from_le_bytes(*number))
}

/// Whether the body of a control batch is the record that starts a commit.
pub(crate) fn is_commit(body: &[u8]) -> bool {
    body.len() == COMMIT_RECORD_BYTES && body[0] == KIND_COMMIT
}

//! A batch as it comes out of the log.

use bytes::Bytes;
use codec::header::BatchHeader;

/// A batch that was read: its header as it stands on disk, and its body, shared with the log's buffers.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// The header; topic, epoch, position and offset are the log's.
    pub header: BatchHeader,
    /// The body, never copied since it was appended or read.
    pub body: Bytes,
}

/// Where an appended batch came to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position of its first event.
    pub base_position: codec::ids::Position,
    /// Offset of its first event in its topic and partition.
    pub base_offset: codec::ids::Offset,
    /// The append time that was stamped.
    pub append_time: codec::ids::Timestamp,
}

/// Why a batch was not appended. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoAppend {
    /// Buffers are full until the disk has caught up; passes by itself.
    NoRoom,
    /// The disk, or the folder's limit, is full. Passes when there is space again.
    DiskFull,
    /// The log has stopped after a failed write, is shutting down, or is an older generation's.
    Stopped,
    /// The log holds as many topics as it may.
    TooManyTopics,
    /// Its publisher has stored later ones, and this sequence is not among those that are remembered.
    SequenceTooOld {
        /// The batch's.
        sequence: u64,
        /// The oldest one remembered.
        oldest: u64,
        /// The newest one stored.
        newest: u64,
    },
    /// The sequence stands for another batch of its publisher.
    SequenceReused {
        /// The batch's.
        sequence: u64,
    },
}

/// How a log is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogState {
    /// It takes events.
    Running,
    /// It refuses events until there is space; cursors are still written.
    DiskFull,
    /// A write failed; the reason. Only a restart brings the log back.
    Stopped(String),
}

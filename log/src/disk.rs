//! The non-blocking way to the disk: what a shard submits while it runs, and how it learns of the end.
//!
//! Implemented by the runtime (its ring and a helper thread) and by the simulator. Completions come in any order.

use std::fmt;
use std::io;

use bytes::Bytes;

use crate::aligned::{AlignedBuf, BLOCK_BYTES};
use crate::chores::ChoreOutcome;
use crate::storage::{FileId, Storage};

/// Names one log of a folder: logs of a generation are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogKey {
    /// Which set of logs, from 1.
    pub generation: u32,
    /// Which log of the set.
    pub log: u16,
}

impl LogKey {
    /// The key as one number, as it seeds header checksums.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        (u64::from(self.generation) << 16) | u64::from(self.log)
    }

    /// The key from its number; `None` if it is not one.
    #[must_use]
    pub fn from_u64(number: u64) -> Option<Self> {
        let generation = u32::try_from(number >> 16).ok()?;
        Some(LogKey { generation, log: (number & 0xffff) as u16 })
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gen-{:06}/log-{:03}", self.generation, self.log)
    }
}

/// Pairs a completion with its operation. Chosen by the log, unique in it while the operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// One operation for the disk.
pub enum DiskOp {
    /// Write bytes.
    Write {
        /// Comes back with the completion.
        ticket: Ticket,
        /// Where to.
        file: FileId,
        /// Byte in the file, a multiple of 4096.
        at: u64,
        /// What.
        bytes: Blocks,
        /// The completion must mean that the bytes survive a power loss (`RWF_DSYNC`). Else it means that they survive
        /// the process.
        durable: bool,
    },
    /// Read bytes into a new 4096-aligned buffer ([`crate::aligned::AlignedBuf`]). What is past the end of the file
    /// may be left out of the answer.
    Read {
        /// Comes back with the completion.
        ticket: Ticket,
        /// Where from.
        file: FileId,
        /// Byte in the file, a multiple of 4096.
        at: u64,
        /// How many bytes, a multiple of 4096.
        len: u32,
    },
    /// Make what was written to a file durable (`fdatasync`). When it has returned, every write to the file that had
    /// returned before this was submitted survives a power loss. It says nothing of any other write.
    Sync {
        /// Comes back with the completion.
        ticket: Ticket,
        /// Which file.
        file: FileId,
    },
    /// Blocking work for a helper thread.
    Chore {
        /// Comes back with the completion.
        ticket: Ticket,
        /// The work.
        chore: Chore,
    },
}

/// The bytes of one write, in pieces that come one after the other. The address and the length of each are multiples of
/// 4096.
#[derive(Clone, Debug)]
pub struct Blocks {
    first: Bytes,
    /// No memory as long as there is one piece.
    further: Vec<Bytes>,
    len: usize,
}

impl Blocks {
    /// Most pieces of one write: few enough for the kernel's table of them to be small.
    pub const PIECES_MAX: usize = 64;

    /// Adds a piece.
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.further.push(piece);
    }

    /// Bytes of all pieces.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always something to write")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many pieces there are.
    #[must_use]
    pub fn count(&self) -> usize {
        1 + self.further.len()
    }

    /// The pieces, in their order.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.further)
    }

    /// All bytes in one piece, copied if there are several.
    #[must_use]
    pub fn joined(&self) -> Bytes {
        if self.further.is_empty() {
            return self.first.clone();
        }
        let mut joined = AlignedBuf::zeroed(self.len);
        let mut rest = joined.as_mut_slice();
        for piece in self.pieces() {
            let (place, behind) = rest.split_at_mut(piece.len());
            place.copy_from_slice(piece);
            rest = behind;
        }
        joined.into()
    }
}

impl From<Bytes> for Blocks {
    fn from(first: Bytes) -> Self {
        Blocks { len: first.len(), first, further: Vec::new() }
    }
}

/// Blocking work that a log has done elsewhere.
pub type Chore = Box<dyn FnOnce(&dyn Storage) -> ChoreDone + Send>;

impl fmt::Debug for DiskOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskOp::Write { ticket, file, at, bytes, durable } => {
                write!(
                    f,
                    "Write({ticket:?} {file:?} at {at} len {} durable {durable})",
                    bytes.len()
                )
            }
            DiskOp::Read { ticket, file, at, len } => {
                write!(f, "Read({ticket:?} {file:?} at {at} len {len})")
            }
            DiskOp::Sync { ticket, file } => write!(f, "Sync({ticket:?} {file:?})"),
            DiskOp::Chore { ticket, .. } => write!(f, "Chore({ticket:?})"),
        }
    }
}

impl DiskOp {
    /// The bounds that every operation keeps: asserted by those who submit and by those who carry it out.
    pub fn check(&self) {
        let is_block = |at: u64| at.is_multiple_of(BLOCK_BYTES as u64);
        match self {
            DiskOp::Write { at, bytes, .. } => {
                assert!(is_block(*at), "a write starts at a block");
                assert!(bytes.count() <= Blocks::PIECES_MAX, "a write has few pieces");
                for piece in bytes.pieces() {
                    assert!(
                        !piece.is_empty() && is_block(piece.len() as u64),
                        "whole blocks are written"
                    );
                    assert!(is_block(piece.as_ptr() as u64), "direct writes take aligned memory");
                }
            }
            DiskOp::Read { at, len, .. } => {
                assert!(*len > 0 && is_block(u64::from(*len)), "whole blocks are read");
                assert!(is_block(*at), "a read starts at a block");
            }
            DiskOp::Sync { .. } | DiskOp::Chore { .. } => {}
        }
    }

    /// The ticket of the operation.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        match self {
            DiskOp::Write { ticket, .. }
            | DiskOp::Read { ticket, .. }
            | DiskOp::Sync { ticket, .. }
            | DiskOp::Chore { ticket, .. } => *ticket,
        }
    }
}

/// What a chore came to. Only the log that submitted it looks inside.
#[derive(Debug)]
pub struct ChoreDone(pub(crate) io::Result<ChoreOutcome>);

impl ChoreDone {
    /// A chore that could not be run, or did not return.
    #[must_use]
    pub fn failed(error: io::Error) -> Self {
        ChoreDone(Err(error))
    }
}

/// How an operation ended.
#[derive(Debug)]
pub enum Completed {
    /// A write.
    Written(io::Result<()>),
    /// A read.
    Read(io::Result<Bytes>),
    /// A sync. One that failed has made nothing durable, nor would another.
    Synced(io::Result<()>),
    /// A chore.
    Chore(ChoreDone),
}

/// An operation that has ended.
#[derive(Debug)]
pub struct Completion {
    /// The log that submitted it.
    pub log: LogKey,
    /// Its ticket.
    pub ticket: Ticket,
    /// How it ended.
    pub result: Completed,
}

/// Where operations are submitted. Never blocks, takes every operation, keeps no order among completions.
pub trait Disk {
    /// Takes an operation of `log`.
    fn submit(&mut self, log: LogKey, op: DiskOp);
}

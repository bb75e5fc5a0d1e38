//! Memory into which a large batch is received where it is to stay: in a commit of its own.
//!
//! ```text
//!   chunk:  | commit head | batch header | body                       | padding |
//!   frame:         | lead | batch header | body                       |
//! ```
//!
//! What comes before the batch, whatever a protocol puts there, stands where the commit's head will be: it is read before
//! that is written. Invariant: nothing of the memory is lent to anybody until the batch is appended.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use codec::header::HEADER_BYTES;

use crate::aligned::{BLOCK_BYTES, ChunkPool, ChunkTail, block_ceil};
use crate::log::batch_slot_bytes;
use crate::scan::COMMIT_HEAD_BYTES;

/// Most bytes that may stand before the batch.
pub const LANDING_LEAD_BYTES_MAX: usize = COMMIT_HEAD_BYTES;

/// A frame with one large batch, on its way in. Made by [`crate::log::Log::landing`].
pub struct Landing {
    tail: ChunkTail,
    /// Bytes of the frame before the batch's header.
    lead: usize,
    /// Bytes of the frame.
    len: usize,
    /// Bytes of it that are there.
    filled: usize,
    counted: Counted,
}

/// Memory of landings, which whoever fills them accounts for, is not yet a log's.
struct Counted {
    pool: Arc<ChunkPool>,
    bytes: usize,
}

/// Where the body of a batch is that is to be appended.
pub enum Source<'a> {
    /// To be copied from there.
    Bytes(&'a [u8]),
    /// In its place already. Taken if the batch is appended, left if it is not.
    Landing(&'a mut Option<Landing>),
}

impl Landing {
    /// Memory of its own, until a log takes it.
    #[must_use]
    pub fn detached(lead: usize, len: usize) -> Self {
        Landing::new(&ChunkPool::new(BLOCK_BYTES), lead, len)
    }

    pub(crate) fn new(pool: &Arc<ChunkPool>, lead: usize, len: usize) -> Self {
        assert!(lead <= LANDING_LEAD_BYTES_MAX, "the lead stands where the commit's head will");
        assert!(lead + HEADER_BYTES < len, "a batch has a body");
        let batch = batch_slot_bytes(len - lead - HEADER_BYTES);
        let tail = pool.take_single(block_ceil((COMMIT_HEAD_BYTES + batch) as u64) as usize);
        let counted = Counted { pool: Arc::clone(pool), bytes: tail.room() };
        pool.landing_bytes.fetch_add(counted.bytes, Ordering::Relaxed);
        Landing { tail, lead, len, filled: 0, counted }
    }

    /// The part of the frame that has not come yet, to be written from its start; [`Landing::arrived`] says how far.
    pub fn rest(&mut self) -> &mut [u8] {
        let at = COMMIT_HEAD_BYTES - self.lead + self.filled;
        self.tail.slot(at, self.len - self.filled, 0)
    }

    /// The next `bytes` bytes of the frame are there.
    pub fn arrived(&mut self, bytes: usize) {
        assert!(bytes <= self.len - self.filled, "no more arrives than was asked for");
        self.filled += bytes;
    }

    /// Copies what `bytes` have of the frame's rest. Returns what follows it in them.
    pub fn copy<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (own, following) = bytes.split_at(bytes.len().min(self.len - self.filled));
        self.rest()[..own.len()].copy_from_slice(own);
        self.arrived(own.len());
        following
    }

    /// Whether all of the frame is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.filled == self.len
    }

    /// What is there of the frame.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        let start = COMMIT_HEAD_BYTES - self.lead;
        self.tail.written(start, start + self.filled)
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.counted.bytes
    }

    /// The body of the batch, as far as it is there.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.frame()[self.lead + HEADER_BYTES..]
    }

    /// The memory, which is from now on that of a log with this pool.
    pub(crate) fn into_chunk(self, pool: &Arc<ChunkPool>) -> ChunkTail {
        assert!(self.is_whole(), "a batch is appended when all of it is there");
        let Landing { mut tail, counted, .. } = self;
        drop(counted);
        tail.move_to(pool);
        tail
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let before = self.pool.landing_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        assert!(self.bytes <= before, "what lands is counted");
    }
}

impl Source<'_> {
    /// The same source, for a while.
    pub fn by_ref(&mut self) -> Source<'_> {
        match self {
            Source::Bytes(bytes) => Source::Bytes(bytes),
            Source::Landing(landing) => Source::Landing(landing),
        }
    }

    /// The body.
    ///
    /// # Panics
    /// The landing was taken.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match self {
            Source::Bytes(bytes) => bytes,
            Source::Landing(landing) => landing.as_ref().expect("a landing is taken once").body(),
        }
    }
}

impl fmt::Debug for Landing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Landing({} of {} bytes)", self.filled, self.len)
    }
}

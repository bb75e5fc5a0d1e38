//! Memory that the disk can write from and read into directly: 4096-aligned, shared without copying.
//!
//! Commits are built in [`Chunk`]s, several after one another in one chunk. What has been appended is lent as
//! [`Bytes`] to the disk, the tail cache and deliveries; the chunk is freed, or used again, when all of them are gone.
//! Invariant: bytes once lent are never written again.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;

/// Unit of direct access, of commits and of padding.
pub const BLOCK_BYTES: usize = 4096;

/// Most chunks that wait, unused, to be used again.
const CHUNKS_KEPT_MAX: usize = 3;
/// The smallest chunk that is made for one large batch, and the largest that is kept to be used again.
const SINGLE_BYTES: (usize, usize) = (32 << 10, 2 << 20);
/// Sizes of such chunks to each doubling: at most a fifth of one is unused.
const SINGLE_STEPS: usize = 4;
/// Most chunks of one such size that wait, unused, to be used again, and most bytes of all unused chunks beside those of
/// the usual size. As many as a busy log writes at once: memory that was used just now is in the processor's cache.
const SINGLES_KEPT_MAX: usize = 32;
const SINGLES_KEPT_BYTES_MAX: usize = 8 << 20;

/// Rounds up to whole blocks.
pub(crate) const fn block_ceil(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}

/// An owned buffer at a 4096-aligned address. Its bytes are zero at first, and its memory is used only once touched.
pub struct AlignedBuf {
    memory: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: the buffer owns its memory alone; it is a `Vec<u8>` with another alignment.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(BLOCK_BYTES), BLOCK_BYTES)
            .expect("lengths are far below the address space");
        // SAFETY: the layout is not of size zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        AlignedBuf { memory, len, layout }
    }

    /// A buffer with a copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = AlignedBuf::zeroed(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        buf
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes are allocated and initialised.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }

    /// The bytes, to change.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes are allocated and initialised, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }

    /// Cuts the buffer to its first `len` bytes; no effect if it is shorter.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the same layout, freed once.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl From<AlignedBuf> for Bytes {
    fn from(buf: AlignedBuf) -> Bytes {
        Bytes::from_owner(buf)
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// Chunks of one log: counts those in use, keeps a few to be used again.
#[derive(Debug)]
pub(crate) struct ChunkPool {
    free: ArrayQueue<AlignedBuf>,
    chunk_bytes: usize,
    /// Unused chunks for single batches, by their sizes.
    free_singles: Vec<ArrayQueue<AlignedBuf>>,
    in_use_bytes: AtomicUsize,
    kept_singles_bytes: AtomicUsize,
    /// Of those in use, what is only being received into.
    pub(crate) landing_bytes: AtomicUsize,
}

/// Which of the sizes of chunks for single batches holds `bytes`, and that size; `None` where each has its own.
fn single_size(bytes: usize) -> Option<(usize, usize)> {
    let (least, most) = SINGLE_BYTES;
    let mut size = least;
    for index in 0.. {
        if bytes <= size {
            return Some((index, size));
        }
        let doubling = least << (index / SINGLE_STEPS);
        size += doubling / SINGLE_STEPS;
        if size > most {
            break;
        }
    }
    None
}

impl ChunkPool {
    pub(crate) fn new(chunk_bytes: usize) -> Arc<Self> {
        assert!(chunk_bytes.is_multiple_of(BLOCK_BYTES), "commits are whole blocks");
        let sizes = single_size(SINGLE_BYTES.1).map_or(0, |(last, _)| last + 1);
        Arc::new(ChunkPool {
            free: ArrayQueue::new(CHUNKS_KEPT_MAX),
            chunk_bytes,
            free_singles: (0..sizes).map(|_| ArrayQueue::new(SINGLES_KEPT_MAX)).collect(),
            in_use_bytes: AtomicUsize::new(0),
            kept_singles_bytes: AtomicUsize::new(0),
            landing_bytes: AtomicUsize::new(0),
        })
    }

    /// A chunk of the usual size, or larger if one batch needs more.
    pub(crate) fn take(self: &Arc<Self>, at_least: usize) -> ChunkTail {
        let usual = at_least <= self.chunk_bytes;
        let kept = if usual { self.free.pop() } else { None };
        let is_usual = |memory: &AlignedBuf| memory.len == self.chunk_bytes;
        assert!(kept.as_ref().is_none_or(is_usual), "only chunks of the usual size are kept");
        let len = if usual { self.chunk_bytes } else { at_least.next_multiple_of(BLOCK_BYTES) };
        self.tail_of(kept, len, at_least)
    }

    /// A chunk for one batch alone, not much larger than asked for: whoever is slow to fill it, or to let go of it,
    /// holds no more than that.
    pub(crate) fn take_single(self: &Arc<Self>, at_least: usize) -> ChunkTail {
        let size = single_size(at_least);
        let kept = size.and_then(|(index, _)| self.free_singles[index].pop());
        if let Some(kept) = &kept {
            self.kept_singles_bytes.fetch_sub(kept.len, Ordering::Relaxed);
        }
        let len = size.map_or(at_least.next_multiple_of(BLOCK_BYTES), |(_, len)| len);
        self.tail_of(kept, len, at_least)
    }

    fn tail_of(
        self: &Arc<Self>,
        kept: Option<AlignedBuf>,
        len: usize,
        at_least: usize,
    ) -> ChunkTail {
        let memory = kept.unwrap_or_else(|| AlignedBuf::zeroed(len));
        assert!(memory.len == len && len >= at_least, "a chunk takes what it was taken for");
        self.in_use_bytes.fetch_add(len, Ordering::Relaxed);
        let chunk = Chunk { start: memory.memory, len, memory: Some(memory) };
        let chunk = Arc::new(PooledChunk { chunk, pool: Arc::clone(self) });
        ChunkTail { chunk, start: 0, lent_end: None }
    }

    /// Takes back a chunk that nobody refers to any more: kept if there is a place for it, else freed.
    fn give_back(&self, memory: AlignedBuf) {
        let len = memory.len;
        let before = self.in_use_bytes.fetch_sub(len, Ordering::Relaxed);
        assert!(len <= before, "only what is in use is given back");
        if len == self.chunk_bytes {
            // A full pool drops the memory.
            let _ = self.free.push(memory);
            return;
        }
        let Some((index, _)) = single_size(len).filter(|(_, size)| *size == len) else { return };
        // Counted first: who takes it at once finds it counted.
        let kept = self.kept_singles_bytes.fetch_add(len, Ordering::Relaxed);
        let is_too_much = kept + len > SINGLES_KEPT_BYTES_MAX;
        if is_too_much || self.free_singles[index].push(memory).is_err() {
            self.kept_singles_bytes.fetch_sub(len, Ordering::Relaxed);
        }
    }

    /// Frees the chunks that wait to be used again.
    pub(crate) fn free_kept(&self) {
        while self.free.pop().is_some() {}
        for memory in self.free_singles.iter().flat_map(|size| std::iter::from_fn(|| size.pop())) {
            self.kept_singles_bytes.fetch_sub(memory.len, Ordering::Relaxed);
        }
    }

    /// Size of a chunk, unless one batch needs more.
    pub(crate) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Bytes of all chunks that someone still holds, but for those that are only being received into.
    pub(crate) fn in_use_bytes(&self) -> usize {
        let landing = self.landing_bytes.load(Ordering::Relaxed);
        self.in_use_bytes.load(Ordering::Relaxed).saturating_sub(landing)
    }

    /// Bytes of the chunks that are kept to be used again.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.free.len() * self.chunk_bytes + self.kept_singles_bytes.load(Ordering::Relaxed)
    }
}

struct Chunk {
    start: NonNull<u8>,
    len: usize,
    memory: Option<AlignedBuf>,
}

struct PooledChunk {
    chunk: Chunk,
    pool: Arc<ChunkPool>,
}

// SAFETY: the memory is reached only through `Lent` (ranges that are never written again) and through the one
// `ChunkTail` (the rest), so no byte is ever both read and written.
unsafe impl Send for PooledChunk {}
// SAFETY: as above.
unsafe impl Sync for PooledChunk {}

impl Drop for PooledChunk {
    fn drop(&mut self) {
        if let Some(memory) = self.chunk.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

/// A part of a chunk that is never written again.
struct Lent {
    chunk: Arc<PooledChunk>,
    at: usize,
    len: usize,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `ChunkTail` made this range, within the chunk.
        let start = unsafe { self.chunk.chunk.start.add(self.at) };
        // SAFETY: the tail never writes this range again, and the memory lives as long as `chunk`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len) }
    }
}

/// The part of a chunk that is not finished: the only writer of the chunk.
///
/// A commit grows from `start`. Its first bytes (the head) may be written until [`ChunkTail::finish`], while batches
/// behind them may already be lent to readers.
pub(crate) struct ChunkTail {
    chunk: Arc<PooledChunk>,
    start: usize,
    /// End of what is lent behind the head, counted from the start of the chunk.
    lent_end: Option<usize>,
}

impl ChunkTail {
    /// Bytes from the start of the commit to the end of the chunk.
    pub(crate) fn room(&self) -> usize {
        self.chunk.chunk.len - self.start
    }

    /// `len` bytes at `at`, counted from the start of the commit, to write. They must not have been lent.
    pub(crate) fn slot(&mut self, at: usize, len: usize, head_len: usize) -> &mut [u8] {
        assert!(at + len <= self.room(), "a commit stays in its chunk");
        let begin = self.start + at;
        match self.lent_end {
            Some(lent_end) => {
                let in_head = at + len <= head_len;
                assert!(in_head || begin >= lent_end, "lent bytes are never written again");
            }
            None => debug_assert!(begin >= self.start, "slots count from the start of the commit"),
        }
        // SAFETY: the range is within the chunk, asserted above.
        let slot = unsafe { self.chunk.chunk.start.add(begin) };
        // SAFETY: no lent range overlaps it (asserted above; what is lent behind the head begins at or after
        // `head_len`, see `lend`), and `self` is the only writer and is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(slot.as_ptr(), len) }
    }

    /// Bytes `from..to` of the commit, as far as they are written; to look at while it goes on.
    pub(crate) fn written(&self, from: usize, to: usize) -> &[u8] {
        assert!(from <= to && to <= self.room(), "a commit stays in its chunk");
        // SAFETY: the range is within the chunk, asserted above, whose memory is initialised from the start.
        let start = unsafe { self.chunk.chunk.start.add(self.start + from) };
        // SAFETY: `self`, the only writer, is borrowed for as long as the slice is.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), to - from) }
    }

    /// Has `pool` count a chunk of which nothing is lent yet, and take it back in the end.
    pub(crate) fn move_to(&mut self, pool: &Arc<ChunkPool>) {
        if Arc::ptr_eq(&self.chunk.pool, pool) {
            return;
        }
        let chunk = Arc::get_mut(&mut self.chunk).expect("nothing of the chunk is lent yet");
        let len = chunk.chunk.len;
        pool.in_use_bytes.fetch_add(len, Ordering::Relaxed);
        let before = std::mem::replace(&mut chunk.pool, Arc::clone(pool));
        let in_use = before.in_use_bytes.fetch_sub(len, Ordering::Relaxed);
        assert!(len <= in_use, "only what is in use moves");
    }

    /// Lends `from..to` (from the start of the commit) of a commit that goes on. `from` must be behind the head.
    pub(crate) fn lend(&mut self, from: usize, to: usize, head_len: usize) -> Bytes {
        assert!(
            head_len <= from && from <= to && to <= self.room(),
            "only what is behind the head is lent"
        );
        let lent_end = self.start + to;
        self.lent_end = Some(self.lent_end.map_or(lent_end, |end| end.max(lent_end)));
        self.bytes(from, to)
    }

    /// Ends the commit after `len` bytes and returns it; the next one starts behind it.
    pub(crate) fn finish(&mut self, len: usize) -> Bytes {
        assert!(len.is_multiple_of(BLOCK_BYTES) && len <= self.room(), "a commit is whole blocks");
        let bytes = self.bytes(0, len);
        self.start += len;
        assert!(
            self.lent_end.is_none_or(|lent_end| lent_end <= self.start),
            "what was lent of a commit is in it"
        );
        self.lent_end = None;
        bytes
    }

    fn bytes(&self, from: usize, to: usize) -> Bytes {
        Bytes::from_owner(Lent {
            chunk: Arc::clone(&self.chunk),
            at: self.start + from,
            len: to - from,
        })
    }
}

impl fmt::Debug for ChunkTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkTail(start {}, room {})", self.start, self.room())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is slow to fill a chunk for one batch must hold little more than that batch: sizes follow each other
    /// closely, and no size is missed.
    #[test]
    fn a_single_chunk_is_not_much_larger_than_its_batch() {
        let (least, most) = SINGLE_BYTES;
        for bytes in (least..=most).step_by(BLOCK_BYTES) {
            let (index, size) = single_size(bytes).unwrap();
            assert!(size >= bytes && size - bytes <= bytes / 4, "{bytes} in {size}");
            assert_eq!(single_size(size), Some((index, size)), "a size is its own");
        }
        assert_eq!(single_size(most + 1), None);
    }

    /// Memory that is used again must be counted as kept, no more of it than allowed, and as in use by its new log when
    /// it moves.
    #[test]
    fn single_chunks_are_kept_and_counted() {
        let (pool, other) = (ChunkPool::new(1 << 20), ChunkPool::new(1 << 20));
        let taken: Vec<ChunkTail> = (0..100).map(|_| pool.take_single(100 << 10)).collect();
        let size = taken[0].room();
        assert_eq!((pool.in_use_bytes(), pool.kept_bytes()), (100 * size, 0));
        drop(taken);
        assert_eq!((pool.in_use_bytes(), pool.kept_bytes()), (0, SINGLES_KEPT_MAX * size));
        let mut again = pool.take_single(size);
        assert_eq!(pool.kept_bytes(), (SINGLES_KEPT_MAX - 1) * size);
        again.move_to(&other);
        assert_eq!((pool.in_use_bytes(), other.in_use_bytes()), (0, size));
        drop(again);
        assert_eq!((other.in_use_bytes(), other.kept_bytes()), (0, size));
        drop((0..20).map(|_| pool.take_single(2 << 20)).collect::<Vec<_>>());
        assert!(pool.kept_bytes() <= SINGLES_KEPT_BYTES_MAX, "{}", pool.kept_bytes());
    }
}

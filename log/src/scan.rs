//! Walks the commits of a segment's file and stops at the first bad byte. Used by recovery, by the rebuilding of an
//! index and by `inspect`: there is one judge of what is whole.

use std::io;

use codec::crc32c::crc32c;
use codec::header::{BatchHeader, ContentKind, HEADER_BYTES, HeaderSeed};
use codec::ids::{Epoch, Position};
use codec::limits::{BATCH_ALIGN, BATCH_BYTES_MAX};

use crate::aligned::{AlignedBuf, BLOCK_BYTES, block_ceil};
use crate::control::{COMMIT_RECORD_BYTES, CommitRecord, Record};
use crate::disk::LogKey;
use crate::storage::{FileId, Storage, read_blocks};

/// Bytes of the first batch of every commit.
pub(crate) const COMMIT_HEAD_BYTES: usize = HEADER_BYTES + COMMIT_RECORD_BYTES;
/// How much is read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// The first batch of a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitHead {
    pub(crate) header: BatchHeader,
    pub(crate) record: CommitRecord,
}

impl CommitHead {
    pub(crate) fn as_expected(&self) -> Expected {
        Expected {
            commit: self.record.number,
            position: self.header.base_position,
            epoch: self.header.epoch,
        }
    }
}

/// What the next commit must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) commit: u64,
    pub(crate) position: Position,
    pub(crate) epoch: Epoch,
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// At the known end of the segment.
    End,
    /// At a byte that is not what it must be. Also the end of a segment whose end is not known.
    Bad { at: u64, why: &'static str },
}

/// What stands at and behind a byte that is not what it must be. Of several segments the highest holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tail {
    /// No commit that is due: prepared zeros, or bytes of a former life.
    Nothing,
    /// A commit was begun, and nothing says that it was durable.
    Begun,
    /// A later commit says that what stood there was durable.
    Durable,
}

/// A segment's file being walked.
pub(crate) struct SegmentScan<'a> {
    storage: &'a dyn Storage,
    file: FileId,
    log: LogKey,
    number: u64,
    len: u64,
    window: AlignedBuf,
    window_at: u64,
    pub(crate) bytes_read: u64,
}

/// Sees every good batch: its header, its byte in the segment, its body.
pub(crate) type Visit<'v> = dyn FnMut(&BatchHeader, u64, &[u8]) + 'v;

impl<'a> SegmentScan<'a> {
    pub(crate) fn new(
        storage: &'a dyn Storage,
        file: FileId,
        log: LogKey,
        number: u64,
    ) -> io::Result<Self> {
        let len = storage.len(file)?;
        let window = AlignedBuf::zeroed(0);
        Ok(SegmentScan { storage, file, log, number, len, window, window_at: 0, bytes_read: 0 })
    }

    /// Bytes from `at`, at least `len` of them or up to the end of the file.
    pub(crate) fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let window_end = self.window_at + self.window.as_slice().len() as u64;
        if at < self.window_at || at + len as u64 > window_end {
            let from = at - at % BLOCK_BYTES as u64;
            let wanted = ((at - from) as usize + len).max(WINDOW_BYTES);
            let left = block_ceil(self.len.saturating_sub(from)) as usize;
            let take = wanted.next_multiple_of(BLOCK_BYTES).min(left);
            self.window = read_blocks(self.storage, self.file, from, take)?;
            self.window_at = from;
            self.bytes_read += take as u64;
        }
        assert!(self.window_at <= at, "the window starts before what is looked at");
        let skip = ((at - self.window_at) as usize).min(self.window.as_slice().len());
        let rest = &self.window.as_slice()[skip..];
        Ok(&rest[..len.min(rest.len())])
    }

    /// The head of a commit at `at`, if there is one.
    pub(crate) fn head_at(&mut self, at: u64) -> io::Result<Option<CommitHead>> {
        let seed = HeaderSeed::on_disk(self.log.as_u64(), self.number, at);
        Ok(decode_head(self.bytes(at, COMMIT_HEAD_BYTES)?, seed))
    }

    /// Walks commits from `at` and moves `expected` along. Without `end` the walk ends at the first block that does
    /// not start a commit.
    pub(crate) fn walk(
        &mut self,
        mut at: u64,
        end: Option<u64>,
        expected: &mut Expected,
        visit: &mut Visit<'_>,
    ) -> io::Result<Stop> {
        loop {
            if end.is_some_and(|end| block_ceil(end) <= at) {
                return Ok(Stop::End);
            }
            let Some(head) = self.head_at(at)? else {
                return Ok(Stop::Bad { at, why: "no commit starts here" });
            };
            if head.record.number != expected.commit
                || head.header.base_position != expected.position
                || head.header.epoch != expected.epoch
            {
                return Ok(Stop::Bad { at, why: "the commit is not the next one" });
            }
            let commit_end = at + u64::from(head.record.bytes);
            assert!(at + COMMIT_HEAD_BYTES as u64 <= commit_end, "only whole heads are decoded");
            if let Stop::Bad { at, why } = self.walk_commit(at, &head, expected, visit)? {
                // A tail that was cut within a commit ends there.
                let cut = end.is_some_and(|end| end <= at);
                return Ok(if cut { Stop::End } else { Stop::Bad { at, why } });
            }
            expected.commit += 1;
            at = block_ceil(commit_end);
        }
    }

    fn walk_commit(
        &mut self,
        start: u64,
        head: &CommitHead,
        expected: &mut Expected,
        visit: &mut Visit<'_>,
    ) -> io::Result<Stop> {
        assert!(head.record.number == expected.commit, "the caller walks commits in order");
        let end = start + u64::from(head.record.bytes);
        let mut at = start;
        for _ in 0..head.record.batches {
            let header = match self.batch_at(at, end)? {
                Ok(header) => header,
                Err(why) => return Ok(Stop::Bad { at, why }),
            };
            if header.base_position != expected.position || header.epoch != expected.epoch {
                return Ok(Stop::Bad { at, why: "the batch is not the next one" });
            }
            let batch_len = header.batch_len();
            let body = &self.bytes(at, batch_len)?[HEADER_BYTES..];
            if crc32c(body) != header.body_crc {
                return Ok(Stop::Bad { at, why: "the body does not match its checksum" });
            }
            visit(&header, at, body);
            expected.position = header.end_position();
            at += (batch_len as u64).next_multiple_of(u64::from(BATCH_ALIGN));
        }
        let whole = at == end.next_multiple_of(u64::from(BATCH_ALIGN));
        Ok(if whole {
            Stop::End
        } else {
            Stop::Bad { at, why: "the commit is shorter than it says" }
        })
    }

    fn batch_at(&mut self, at: u64, end: u64) -> io::Result<Result<BatchHeader, &'static str>> {
        let seed = HeaderSeed::on_disk(self.log.as_u64(), self.number, at);
        let bytes = self.bytes(at, HEADER_BYTES)?;
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(Err("the file ends within a batch"));
        };
        let Ok(header) = BatchHeader::decode(header, seed) else {
            return Ok(Err("the header does not match its checksum"));
        };
        if at + header.batch_len() as u64 > end || header.batch_len() > BATCH_BYTES_MAX as usize {
            return Ok(Err("the batch is longer than its commit"));
        }
        if self.bytes(at, header.batch_len())?.len() < header.batch_len() {
            return Ok(Err("the file ends within a batch"));
        }
        Ok(Ok(header))
    }

    /// Judges the byte at which a walk has stopped, by what stands there and by the commits behind it, up to `end` or
    /// the end of the file: any of them may be the one that knows.
    pub(crate) fn tail(
        &mut self,
        bad: u64,
        end: Option<u64>,
        expected: &Expected,
    ) -> io::Result<Tail> {
        let is_within = !bad.is_multiple_of(BLOCK_BYTES as u64) || self.head_at(bad)?.is_some();
        let here = if is_within { Tail::Begun } else { Tail::Nothing };
        Ok(here.max(self.heads_say(bad + 1, end, expected)?))
    }

    /// What the commits that start at or behind byte `from` say of one that is due before them.
    pub(crate) fn heads_say(
        &mut self,
        mut from: u64,
        end: Option<u64>,
        expected: &Expected,
    ) -> io::Result<Tail> {
        let mut said = Tail::Nothing;
        while let Some((at, head)) = self.next_head(from, expected.commit)? {
            assert!(from <= at, "commits are looked for forward");
            if end.is_some_and(|end| end <= at) {
                break;
            }
            if head.record.durable_commit_end > expected.commit
                || head.header.durable_end > expected.position
            {
                return Ok(Tail::Durable);
            }
            said = Tail::Begun;
            from = at + 1;
        }
        Ok(said)
    }

    /// The first commit at or after `from`, and what the walk must expect there.
    pub(crate) fn first_expected(&mut self, from: u64) -> io::Result<Option<(u64, Expected)>> {
        Ok(self.next_head(from, 0)?.map(|(at, head)| (at, head.as_expected())))
    }

    /// The next commit at or after the block of `from` whose number is at least `commit`.
    pub(crate) fn next_head(
        &mut self,
        from: u64,
        commit: u64,
    ) -> io::Result<Option<(u64, CommitHead)>> {
        let mut at = block_ceil(from);
        while at < self.len {
            if let Some(head) = self.head_at(at)?
                && head.record.number >= commit
            {
                return Ok(Some((at, head)));
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(None)
    }
}

/// Decodes the first batch of a commit.
pub(crate) fn decode_head(bytes: &[u8], seed: HeaderSeed) -> Option<CommitHead> {
    let header = BatchHeader::decode(bytes.first_chunk::<HEADER_BYTES>()?, seed).ok()?;
    if header.content != ContentKind::Control || header.body_len as usize != COMMIT_RECORD_BYTES {
        return None;
    }
    let mut body = bytes.get(HEADER_BYTES..COMMIT_HEAD_BYTES)?;
    if crc32c(body) != header.body_crc {
        return None;
    }
    match Record::decode(&mut body) {
        Ok(Record::Commit(record)) if record.bytes as usize >= COMMIT_HEAD_BYTES => {
            Some(CommitHead { header, record })
        }
        _ => None,
    }
}

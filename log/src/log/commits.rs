//! The life of a commit up to its flight: opened on a fresh block, filled, closed. The rest of it is in `flights`.
//!
//! A durable block is never written again.

use bytes::Bytes;
use codec::header::{BatchHeader, HEADER_BYTES};
use codec::ids::{Position, Timestamp};

use super::{Log, batch_slot_bytes, control_header, micros, seed};
use crate::active_index::CommitEntry;
use crate::aligned::{BLOCK_BYTES, ChunkTail, block_ceil};
use crate::batch::{LogState, NoAppend};
use crate::cache::CachedCommit;
use crate::control::CommitRecord;
use crate::cursor::CursorMark;
use crate::landing::Landing;
use crate::scan::COMMIT_HEAD_BYTES;
use crate::storage::FileId;

/// Most commits that are closed and wait for their turn.
pub(super) const CLOSED_MAX: usize = 64;
/// A commit of so many bytes is worth a write of its own, whoever waits for it.
const HELD_BACK_BYTES_MAX: usize = 64 << 10;
/// The log never asks to be woken sooner than this, but for a sync.
const WAKEUP_AFTER_MIN_US: u64 = 10_000;
/// How much of a commit changed cursors may take beside batches.
const CURSORS_BYTES_MAX: usize = 1 << 20;

/// The commit that batches are appended to.
#[derive(Debug)]
pub(crate) struct OpenCommit {
    pub(crate) segment: u64,
    file: FileId,
    /// Byte of the commit's head in the segment.
    pub(crate) at: u64,
    /// Bytes in the buffer before the head: the segment's first block, with its first commit.
    pub(crate) lead: usize,
    /// Bytes of the buffer that are used, lead included.
    pub(crate) used: usize,
    batches: u32,
    base_position: Position,
    time: Timestamp,
    number: u64,
    /// Somebody waits until it is durable.
    is_awaited: bool,
    /// Somebody waits until it is written, or it is due.
    is_wanted: bool,
}

/// A commit that waits to be submitted.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(super) number: u64,
    pub(super) file: FileId,
    pub(super) at: u64,
    pub(super) bytes: Bytes,
    pub(super) end: Position,
    pub(super) cursors: CursorMark,
    /// Somebody waits until it is durable: its write is a synced one.
    pub(super) is_awaited: bool,
}

/// Where a batch goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Byte in the segment.
    pub(crate) at: u64,
    /// Byte in the commit's buffer.
    buffer_at: usize,
    len: usize,
}

impl OpenCommit {
    fn head_end(&self) -> usize {
        self.lead + COMMIT_HEAD_BYTES
    }
}

impl Log {
    /// Makes sure that the open commit has room for `len` more bytes.
    pub(super) fn make_room(&mut self, len: usize, control: bool) -> Result<(), NoAppend> {
        if let Some(open) = &self.open {
            if open.used + len <= self.open_limit(open, control) {
                return Ok(());
            }
            self.may_close(1)?;
            self.close_commit();
        }
        self.open_commit(len, control)
    }

    /// Whether `count` more commits may be closed before one is submitted.
    fn may_close(&self, count: usize) -> Result<(), NoAppend> {
        let few = self.closed.len() + count <= CLOSED_MAX;
        let is_little = || self.closed_bytes() < self.options.commit_bytes_max;
        let has_room = few && (self.closed.len() < 2 || is_little());
        if has_room { Ok(()) } else { Err(NoAppend::NoRoom) }
    }

    /// Bytes of the commits that are closed and wait for their turn.
    pub(super) fn closed_bytes(&self) -> usize {
        self.closed.iter().map(|closed| closed.bytes.len()).sum()
    }

    /// Opens a commit in the memory of a batch that landed, which is to be closed at once. Returns the chunk in which
    /// commits go on then.
    pub(super) fn open_landed(
        &mut self,
        len: usize,
        landing: &mut Option<Landing>,
    ) -> Result<Option<ChunkTail>, NoAppend> {
        self.may_close(3)?;
        if self.open.is_some() {
            self.close_commit();
        }
        // One block more than it needs: see below.
        let need = block_ceil((COMMIT_HEAD_BYTES + len) as u64) + BLOCK_BYTES as u64;
        self.find_place_or_wait(need, false)?;
        let active = self.segments.active.as_ref().expect("a place was found in it");
        if !active.header_written {
            // What landed has no block in front for the segment's header: an empty commit brings it.
            self.open_commit(0, false)?;
            self.close_commit();
        }
        let landing = landing.take().expect("a landing is appended once");
        let usual = self.chunk.replace(landing.into_chunk(&self.pool));
        self.begin_commit();
        Ok(usual)
    }

    /// Bytes that the open commit may grow to, lead included.
    fn open_limit(&self, open: &OpenCommit, control: bool) -> usize {
        let Some(active) = &self.segments.active else { return 0 };
        let from = open.at - open.lead as u64;
        let place = active.capacity.saturating_sub(from).min(self.prepared_room(from, control));
        let chunk = self.chunk.as_ref().map_or(0, ChunkTail::room);
        chunk.min(place as usize).min(self.options.commit_bytes_max)
    }

    /// Prepared bytes of the active segment from `from` on. Events leave the reserve to control records.
    fn prepared_room(&self, from: u64, control: bool) -> u64 {
        let Some(active) = &self.segments.active else { return 0 };
        let next = self.segments.next.as_ref().map_or(0, |next| next.prepared_end);
        let reserve = if control { 0 } else { self.options.reserve_bytes.saturating_sub(next) };
        active.prepared_end.saturating_sub(from + reserve)
    }

    fn open_commit(&mut self, len: usize, control: bool) -> Result<(), NoAppend> {
        assert!(self.open.is_none(), "one commit is open at a time");
        let need = block_ceil((COMMIT_HEAD_BYTES + len) as u64);
        self.find_place_or_wait(need, control)?;
        let active = self.segments.active.as_ref().expect("a place was found in it");
        let lead = if active.header_written { 0 } else { BLOCK_BYTES };
        let least = lead + need as usize;
        if self.chunk.as_ref().is_none_or(|chunk| chunk.room() < least) {
            self.chunk = Some(self.pool.take(least));
        }
        self.begin_commit();
        Ok(())
    }

    fn find_place_or_wait(&mut self, need: u64, control: bool) -> Result<(), NoAppend> {
        if self.find_place(need, control) {
            return Ok(());
        }
        self.wanted_bytes = self.wanted_bytes.max(need + BLOCK_BYTES as u64);
        Err(NoAppend::NoRoom)
    }

    /// Begins a commit at the start of `chunk`, at the place that was found.
    fn begin_commit(&mut self) {
        assert!(self.open.is_none(), "one commit is open at a time");
        let active = self.segments.active.as_mut().expect("a place was found in it");
        let lead = if active.header_written { 0 } else { BLOCK_BYTES };
        let at = active.tail + lead as u64;
        assert!(at.is_multiple_of(BLOCK_BYTES as u64), "a commit starts on a fresh block");
        active.opened_at.get_or_insert(self.now);
        let position = self.positions.end();
        let before = active.index.commits.last();
        assert!(
            before.is_none_or(|before| before.position <= position && before.time <= self.now),
            "neither positions nor append times fall within a log"
        );
        active.index.commit_opened(CommitEntry { at, position, time: self.now });
        self.open = Some(OpenCommit {
            segment: active.number,
            file: active.file,
            at,
            lead,
            used: lead + COMMIT_HEAD_BYTES,
            batches: 1,
            base_position: position,
            time: self.now,
            number: self.next_commit,
            is_awaited: false,
            is_wanted: false,
        });
        self.next_commit += 1;
    }

    /// Somebody waits until what is in the open commit is durable.
    pub(super) fn open_is_awaited(&mut self) {
        let open = self.open.as_mut().expect("a batch was written into it");
        (open.is_awaited, open.is_wanted) = (true, true);
    }

    /// Somebody waits until what is in the open commit is written.
    pub(super) fn open_is_wanted(&mut self) {
        self.open.as_mut().expect("a batch was written into it").is_wanted = true;
    }

    /// Until when the open commit is held back, so that others share its write. `None`: it is not.
    fn held_back_until(&self) -> Option<Timestamp> {
        let open = self.open.as_ref()?;
        let is_held_back =
            !open.is_wanted && !self.shutting_down && open.used < HELD_BACK_BYTES_MAX;
        is_held_back.then(|| Timestamp(open.time.0 + micros(self.options.hold_back)))
    }

    /// Whether nobody waits for the open commit, and others may yet share its write.
    pub(super) fn is_held_back(&self, clock_stands: bool) -> bool {
        !clock_stands && self.held_back_until().is_some_and(|until| self.now < until)
    }

    /// Finds `need` bytes for a commit in the active segment, or makes the next one active.
    fn find_place(&mut self, need: u64, control: bool) -> bool {
        let seal = self.segments.active.as_ref().is_some_and(|active| self.should_seal(active));
        if let Some(active) = &mut self.segments.active {
            let lead = if active.header_written { 0 } else { BLOCK_BYTES as u64 };
            let end = active.tail + lead + need;
            if active.is_empty() {
                // One batch that is larger than a segment gets a segment of its own size.
                active.capacity = active.capacity.max(end);
            }
            let tail = active.tail;
            if end <= active.capacity && !seal {
                return self.prepared_room(tail, control) >= end - tail;
            }
        }
        let reserve = if control { 0 } else { self.options.reserve_bytes };
        let needed = need + BLOCK_BYTES as u64 + reserve;
        let Some(next) = &mut self.segments.next else { return false };
        next.capacity = next.capacity.max(needed);
        if next.prepared_end < needed {
            return false;
        }
        self.segments.roll(self.positions.end(), self.next_commit, self.epoch);
        true
    }

    /// Where the next batch of the open commit goes. The room was made.
    pub(super) fn place_batch(&self, len: usize) -> Place {
        let open = self.open.as_ref().expect("room was made");
        Place { at: open.at + (open.used - open.lead) as u64, buffer_at: open.used, len }
    }

    /// Writes a batch into the place that was found for it; without `body` that stands there already.
    pub(super) fn write_batch(&mut self, place: Place, header: &BatchHeader, body: Option<&[u8]>) {
        assert!(header.epoch == self.epoch, "every batch says the epoch that it was written in");
        assert!(header.durable_end <= header.base_position, "what is being written is not durable");
        let open = self.open.as_mut().expect("room was made");
        assert_eq!(open.used, place.buffer_at, "batches follow each other");
        let chunk = self.chunk.as_mut().expect("an open commit has a chunk");
        let slot = chunk.slot(place.buffer_at, place.len, open.head_end());
        let (head, rest) = slot.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header.encode(seed(self.key, open.segment, place.at)));
        let (data, padding) = rest.split_at_mut(header.body_len as usize);
        if let Some(body) = body {
            data.copy_from_slice(body);
        }
        padding.fill(0);
        open.used += place.len;
        open.batches += 1;
    }

    /// Appends a control batch.
    pub(super) fn append_control(&mut self, body: &[u8], reserved: bool) -> Result<(), NoAppend> {
        let len = batch_slot_bytes(body.len());
        self.make_room(len, reserved)?;
        self.write_control(body);
        Ok(())
    }

    fn write_control(&mut self, body: &[u8]) {
        let place = self.place_batch(batch_slot_bytes(body.len()));
        let (end, durable_end) = (self.positions.end(), self.positions.durable_end());
        let header = control_header(body, self.epoch, end, durable_end, self.now);
        self.write_batch(place, &header, Some(body));
    }

    /// Opens a commit for what is due without any event: cursors that waited long enough, a durable mark.
    pub(super) fn open_due_commit(&mut self) {
        if !self.cursors.is_dirty() {
            self.cursors_dirty_since = None;
        } else if self.cursors_dirty_since.is_none() {
            self.cursors_dirty_since = Some(self.now);
        }
        let busy = !self.closed.is_empty() || !self.flights.is_empty();
        // Commits of batches that landed have no room for cursors: those do not wait until there are none.
        let is_due = self.cursors_due() || (!busy && self.mark_due());
        if self.open.is_some() || !is_due || self.may_close(1).is_err() {
            return;
        }
        let deletion = self.deletions.front().map_or(0, |record| batch_slot_bytes(record.len()));
        let cursors = self.cursors.first_dirty_len().map_or(0, batch_slot_bytes) + deletion;
        // No room: tried again at the next run; nothing is lost, cursors stay changed.
        if self.open_commit(cursors, true).is_ok() {
            self.open_is_wanted();
        }
    }

    fn cursors_due(&self) -> bool {
        let due = self.cursors_due_at();
        due.is_some_and(|due| self.shutting_down || self.now >= due)
    }

    fn cursors_due_at(&self) -> Option<Timestamp> {
        let wait = match self.state {
            // The reserve must last for as long as the disk is full.
            LogState::DiskFull => 10 * self.options.cursor_commit_after,
            _ => self.options.cursor_commit_after,
        };
        let since = self.cursors_dirty_since.or(self.cursors.is_dirty().then_some(self.now));
        since.map(|since| Timestamp(since.0 + micros(wait)))
    }

    fn mark_due(&self) -> bool {
        let waited = self.shutting_down || self.now >= self.mark_due_at();
        !self.last_commit_is_mark && !self.cursors.is_dirty() && waited
    }

    fn mark_due_at(&self) -> Timestamp {
        Timestamp(self.active_at.0 + micros(self.options.idle_mark_after))
    }

    /// When [`Log::run`] has something to do even if nothing happens before.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        if matches!(self.state, LogState::Stopped(_)) {
            return None;
        }
        let mark = (!self.last_commit_is_mark).then(|| self.mark_due_at());
        let retention = self.retention.due_at(self.now);
        let due = [self.cursors_due_at(), mark, self.upkeep.retry_at(), retention];
        let due = due.into_iter().flatten().min();
        // What was due already and could not be done waits for a completion, or for space: no hurry.
        let due = due.map(|due| due.max(Timestamp(self.now.0 + WAKEUP_AFTER_MIN_US)));
        let held_back = self.held_back_until().filter(|_| self.may_submit());
        // A sync that is due can always be submitted.
        [due, self.sync_due_at(), held_back].into_iter().flatten().min()
    }

    /// Ends the open commit: cursors ride along, head and padding are written.
    pub(super) fn close_commit(&mut self) {
        self.add_cursors();
        let Some(open) = self.open.take() else { return };
        assert_eq!(open.number + 1, self.next_commit, "the open commit is the newest");
        let chunk = self.chunk.as_mut().expect("an open commit has a chunk");
        let padded = block_ceil(open.used as u64) as usize;
        let head_end = open.head_end();
        chunk.slot(open.used, padded - open.used, head_end).fill(0);
        if open.lead > 0 {
            let header = self.segments.active_header(self.node_id, self.key);
            header.encode(chunk.slot(0, BLOCK_BYTES, head_end));
        }
        let record = CommitRecord {
            number: open.number,
            durable_commit_end: self.durable_commit_end,
            bytes: u32::try_from(open.used - open.lead).expect("commits are far below 4 GiB"),
            batches: open.batches,
        };
        let body = record.encode();
        let durable_end = self.positions.durable_end();
        let header = control_header(&body, self.epoch, open.base_position, durable_end, open.time);
        let head = chunk.slot(open.lead, COMMIT_HEAD_BYTES, head_end);
        head[..HEADER_BYTES].copy_from_slice(&header.encode(seed(self.key, open.segment, open.at)));
        head[HEADER_BYTES..].copy_from_slice(&body);
        let bytes = chunk.finish(padded);
        self.commit_closed(&open, bytes);
    }

    fn commit_closed(&mut self, open: &OpenCommit, bytes: Bytes) {
        let write_at = open.at - open.lead as u64;
        self.segments.commit_closed(write_at + bytes.len() as u64);
        let end = self.positions.end();
        self.cache.insert(CachedCommit {
            segment: open.segment,
            at: open.at,
            number: open.number,
            base_position: open.base_position,
            end_position: end,
            bytes: bytes.slice(open.lead..),
        });
        self.last_commit_is_mark = open.batches == 1;
        self.active_at = self.now;
        self.checkpointer.committed(bytes.len() as u64);
        let (number, file, cursors) = (open.number, open.file, self.cursors.encoded_mark());
        // What holds no event is synced as the log usually is.
        let is_empty = open.base_position == end;
        let is_awaited =
            open.is_awaited || (is_empty && self.options.sync == crate::options::Sync::EachWrite);
        let at = write_at;
        self.closed.push_back(Closed { number, file, at, bytes, end, cursors, is_awaited });
        assert!(self.closed.len() <= CLOSED_MAX, "few commits wait: then appends find no room");
        self.check_commits();
    }

    /// Of a log that runs: what is not durable is on its way, all of it and nothing twice.
    pub(super) fn check_commits(&self) {
        let under_way = usize::from(self.open.is_some()) + self.closed.len() + self.flights.len();
        assert_eq!(
            self.durable_commit_end + under_way as u64,
            self.next_commit,
            "every commit is durable, in flight, closed or open"
        );
    }

    fn add_cursors(&mut self) {
        if self.open.is_none() || !self.add_deletions() {
            return;
        }
        let Some(open) = &self.open else { return };
        let Some(first) = self.cursors.first_dirty_len() else { return };
        let mut room = self.open_limit(open, true).saturating_sub(open.used);
        if open.batches == 1 {
            // The commit may have been opened for one large cursor: then its chunk and place are large enough.
            let chunk = self.chunk.as_ref().map_or(0, ChunkTail::room) - open.used;
            room = room.max(chunk.min(batch_slot_bytes(first)));
        }
        let Some(room) = room.min(CURSORS_BYTES_MAX.max(first + 128)).checked_sub(HEADER_BYTES + 8)
        else {
            return;
        };
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        self.cursors.encode_dirty(room, &mut body);
        if !body.is_empty() {
            self.write_control(&body);
        }
        self.scratch = body;
    }

    /// Adds the records of deletions to the open commit; whether all of them had room. Each is a batch of its own: a build
    /// that does not know them passes them, and nothing else.
    fn add_deletions(&mut self) -> bool {
        while let Some(record) = self.deletions.pop_front() {
            let len = batch_slot_bytes(record.len());
            let open = self.open.as_ref().expect("the caller has looked");
            let mut limit = self.open_limit(open, true);
            if open.batches == 1 {
                // The commit may have been opened for it: then its chunk and place are large enough.
                let chunk = self.chunk.as_ref().map_or(0, ChunkTail::room);
                limit = limit.max(chunk.min(open.used + len));
            }
            if open.used + len > limit {
                self.deletions.push_front(record);
                return false;
            }
            self.write_control(&record);
            self.open_is_awaited();
        }
        true
    }

    /// Whether `position` is in the open commit.
    pub(crate) fn open_holds(&self, position: Position) -> bool {
        self.open.as_ref().is_some_and(|open| open.base_position <= position)
    }

    /// The batches of the open commit, for readers of topics that are visible once received.
    pub(crate) fn open_batches(&mut self) -> Option<CachedCommit> {
        let open = self.open.as_ref()?;
        let chunk = self.chunk.as_mut()?;
        let head_end = open.head_end();
        Some(CachedCommit {
            segment: open.segment,
            at: open.at + COMMIT_HEAD_BYTES as u64,
            number: open.number,
            base_position: open.base_position,
            end_position: self.positions.end(),
            bytes: chunk.lend(head_end, open.used, head_end),
        })
    }

    /// Where the open commit starts, or the next one will: what a checkpoint begun now must replay from.
    pub(crate) fn next_commit_place(&self) -> (u64, u64, u64, Position) {
        if let Some(open) = &self.open {
            return (open.segment, open.at, open.number, open.base_position);
        }
        let (commit, position) = (self.next_commit, self.positions.end());
        let Some(active) = self.segments.active.as_ref() else {
            // An older generation's log without anything to write: its next commit would begin its next segment.
            assert!(self.sealed, "only a sealed log has no tail");
            let last = self.segments.last_number;
            // The number of one that is being made was given already.
            let unmade = if self.upkeep.is_preparing() { last } else { last + 1 };
            let number = self.segments.next.map_or(unmade, |next| next.number);
            return (number, BLOCK_BYTES as u64, commit, position);
        };
        let lead = if active.header_written { 0 } else { BLOCK_BYTES as u64 };
        (active.number, active.tail + lead, commit, position)
    }
}

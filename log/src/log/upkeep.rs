//! Work beside the path of an event, each piece done by a chore: segments prepared ahead, indexes written, the
//! oldest segments retired, checkpoints.

use codec::ids::Timestamp;

use super::Log;
use crate::aligned::BLOCK_BYTES;
use crate::batch::LogState;
use crate::chores::{ChoreOutcome, PrepareTask, RetireTask, TrimTask, ZEROS_BYTES};
use crate::disk::{ChoreDone, Disk, DiskOp, Ticket};
use crate::index::{IndexTask, NoIndex};
use crate::options::PREPARE_AT_OPEN_BYTES;
use crate::segments::{Active, SPARES_MAX, Sealed, SegmentIndex};
use crate::storage::FileId;

/// How long to wait before space is looked for again.
const SPACE_RETRY_US: u64 = 250_000;

/// Most indexes of sealed segments that stay mapped.
const INDEXES_MAPPED_MAX: usize = 16;

/// After so many failures to make an index its segment is read without one, from its start.
const INDEX_FAILURES_MAX: u32 = 3;

/// The part of a segment that is to be prepared.
#[derive(Clone, Copy, Debug)]
struct Wanting {
    number: u64,
    /// `None`: the file is to be made.
    file: Option<FileId>,
    from: u64,
    /// Where the segment ends.
    capacity: u64,
    /// Commits may soon have to wait for it.
    is_urgent: bool,
}

/// Chores in flight, one of a kind at most.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    prepare: Option<Ticket>,
    index: Option<(Ticket, u64)>,
    retire: Option<Ticket>,
    checkpoint: Option<Ticket>,
    trim: Option<Ticket>,
    /// Space was lacking; when to look again.
    no_space_until: Option<Timestamp>,
    /// A reader waits for the index of this segment.
    index_wanted: Option<u64>,
    /// An index could not be made; not tried again before then.
    pub(crate) index_retry_at: Option<Timestamp>,
    /// Rises with each use of an index: the one that was not used for longest is unmapped first.
    index_clock: u64,
    /// A checkpoint could not be written; not tried again before then.
    checkpoint_retry_at: Option<Timestamp>,
}

impl Upkeep {
    pub(crate) fn is_idle(&self) -> bool {
        self.prepare.is_none()
            && self.index.is_none()
            && self.retire.is_none()
            && self.checkpoint.is_none()
            && self.trim.is_none()
    }

    /// Whether a part of a segment is being made.
    pub(super) fn is_preparing(&self) -> bool {
        self.prepare.is_some()
    }

    /// Whether this chore is in flight.
    fn is_asked(&self, ticket: Ticket) -> bool {
        let index = self.index.map(|(ticket, _)| ticket);
        [self.prepare, index, self.retire, self.checkpoint, self.trim].contains(&Some(ticket))
    }

    pub(crate) fn retry_at(&self) -> Option<Timestamp> {
        let all = [self.no_space_until, self.index_retry_at, self.checkpoint_retry_at];
        all.into_iter().flatten().min()
    }

    pub(crate) fn checkpoint_failed(&mut self, now: Timestamp) {
        assert!(self.checkpoint.is_none(), "a piece that has failed is not in flight");
        self.checkpoint_retry_at = Some(Timestamp(now.0 + SPACE_RETRY_US));
    }

    fn may_checkpoint(&mut self, now: Timestamp) -> bool {
        self.checkpoint_retry_at = self.checkpoint_retry_at.filter(|at| now < *at);
        self.checkpoint.is_none() && self.checkpoint_retry_at.is_none()
    }
}

impl Log {
    pub(super) fn should_seal(&self, active: &Active) -> bool {
        if active.is_empty() || !active.header_written {
            return false;
        }
        let age_max = self.options.segment_age_max.map(super::micros);
        let age_max = [age_max, self.retention.seal_after_us()].into_iter().flatten().min();
        let aged = |(max, at): (u64, Timestamp)| self.now.0 >= at.0.saturating_add(max);
        let aged = age_max.zip(active.opened_at).is_some_and(aged);
        aged || active.index.memory_bytes() >= self.options.index_bytes_max
    }

    pub(super) fn submit_upkeep(&mut self, disk: &mut impl Disk) {
        if self.upkeep.prepare.is_none()
            && let Some(task) = self.next_prepare()
        {
            let chore = task.into_chore();
            self.upkeep.prepare = Some(self.submit_chore(chore, disk));
        }
        if self.upkeep.retire.is_none()
            && let Some(task) = self.next_retire()
        {
            let chore = task.into_chore();
            self.upkeep.retire = Some(self.submit_chore(chore, disk));
        }
        if self.upkeep.index.is_none() {
            self.submit_index(disk);
        }
        if self.upkeep.may_checkpoint(self.now)
            && let Some(piece) = self.next_checkpoint_piece()
        {
            let chore = piece.into_chore();
            self.upkeep.checkpoint = Some(self.submit_chore(chore, disk));
        }
        if self.has_ended() && self.upkeep.is_idle() && self.segments.has_room_behind_tail() {
            let (active, next) = self.segments.give_room_back();
            let chore = TrimTask { active, next }.into_chore();
            self.upkeep.trim = Some(self.submit_chore(chore, disk));
        }
    }

    fn submit_chore(&mut self, chore: crate::disk::Chore, disk: &mut impl Disk) -> Ticket {
        let ticket = self.take_ticket();
        disk.submit(self.key, DiskOp::Chore { ticket, chore });
        ticket
    }

    /// The next piece to be prepared, if one is due.
    fn next_prepare(&mut self) -> Option<PrepareTask> {
        if self.upkeep.no_space_until.is_some_and(|until| self.now < until) {
            return None;
        }
        self.upkeep.no_space_until = None;
        // What is being cut is not written to.
        if self.upkeep.trim.is_some() || self.has_ended() {
            return None;
        }
        if self.sealed && !self.cursors.is_dirty() {
            return None;
        }
        let Wanting { number, file, from, capacity, is_urgent } = self.wants_zeros()?;
        let most = self.options.piece_bytes();
        let piece = match (is_urgent, self.sealed) {
            (true, true) => PREPARE_AT_OPEN_BYTES,
            (true, false) => most,
            // The less it lags behind the tail, the less a commit may have to wait for it.
            (false, _) => (self.keeping_pace(capacity) - from)
                .next_multiple_of(BLOCK_BYTES as u64)
                .clamp((ZEROS_BYTES as u64).min(most), most),
        };
        let to = capacity.min(from + piece);
        assert!(from < to, "a piece is not empty");
        assert!(
            number > 0 && number <= self.segments.last_number + 1,
            "numbers are given in order"
        );
        let recycle = if file.is_none() { self.segments.spares.pop() } else { None };
        if recycle.is_none() && self.over_limit(to - from) {
            if is_urgent {
                self.space_lacks("folder_bytes_max is reached");
            }
            return None;
        }
        if file.is_none() {
            self.segments.last_number = number;
        }
        let keep_free = 2 * self.options.reserve_bytes;
        let (dir, direct) = (self.dir.clone(), self.direct);
        // What is not urgent is synced once, as a whole: a commit that comes before that syncs it with itself.
        let sync = is_urgent || to == capacity;
        Some(PrepareTask { dir, number, file, recycle, from, to, direct, keep_free, sync })
    }

    /// Where zeros are to be written next: in the active segment while its tail is near to what is prepared of it, else
    /// in the next one.
    fn wants_zeros(&self) -> Option<Wanting> {
        let wanted = self.wanted_bytes + self.options.reserve_bytes;
        let ahead = if self.sealed { wanted } else { wanted.max(2 * self.options.piece_bytes()) };
        let active = self.segments.active.as_ref();
        let active_left = active.map_or(0, |a| a.prepared_end - a.tail);
        let is_short = |a: &&Active| active_left < ahead && a.prepared_end < a.capacity;
        if let Some(active) = active.filter(is_short) {
            let (from, capacity) = (active.prepared_end, active.capacity);
            let (number, file) = (active.number, Some(active.file));
            return Some(Wanting { number, file, from, capacity, is_urgent: true });
        }
        // A segment of two pieces is half full before the next one is urgent.
        let ahead = ahead.min(wanted.max(self.options.piece_bytes()));
        let Some(next) = self.prepared() else {
            let is_urgent = active_left < ahead || self.active_is_to_be_sealed();
            let capacity = self.next_capacity();
            let is_due = is_urgent || self.keeping_pace(capacity) > 0;
            let number = self.segments.last_number + 1;
            return is_due.then_some(Wanting { number, file: None, from: 0, capacity, is_urgent });
        };
        let (from, capacity) = (next.prepared_end, next.capacity);
        let is_urgent = from < wanted || active_left + from < ahead;
        let is_due = from < capacity && (is_urgent || from < self.keeping_pace(capacity));
        let (number, file) = (next.number, Some(next.file));
        is_due.then_some(Wanting { number, file, from, capacity, is_urgent })
    }

    /// How much of the next segment, of `capacity` bytes, is to be prepared by now so that it is whole when the active one
    /// is seven eighths full. Spread out, so that commits never wait for much of it.
    fn keeping_pace(&self, capacity: u64) -> u64 {
        let whole = self.segments.active.as_ref().filter(|a| a.prepared_end >= a.capacity);
        let Some(active) = whole.filter(|_| !self.sealed) else { return 0 };
        // From an eighth on, so that a log that is hardly used has one segment.
        let used = active.tail.saturating_sub(active.capacity / 8);
        let blocks = |bytes: u64| bytes / BLOCK_BYTES as u64;
        let due = blocks(capacity) * 4 * blocks(used) / (3 * blocks(active.capacity));
        (due * BLOCK_BYTES as u64).min(capacity)
    }

    /// The size of a segment that is yet to be made.
    fn next_capacity(&self) -> u64 {
        let active = self.segments.active.as_ref();
        self.options.segment_bytes_after(active.map(|active| active.capacity))
    }

    fn active_is_to_be_sealed(&self) -> bool {
        self.segments.active.as_ref().is_none_or(|active| self.should_seal(active))
    }

    fn over_limit(&self, more: u64) -> bool {
        self.options.bytes_max.is_some_and(|max| self.segments.allocated() + more > max)
    }

    /// There is no space to prepare. Events are refused once what is prepared is used up to the reserve.
    fn space_lacks(&mut self, why: &str) {
        self.upkeep.no_space_until = Some(Timestamp(self.now.0 + SPACE_RETRY_US));
        if self.wanted_bytes > 0 && self.state == LogState::Running {
            tracing::warn!(log = %self.key, why, "no space: events are refused until there is");
            self.state = LogState::DiskFull;
        }
    }

    /// A chore has ended.
    pub(super) fn on_chore(&mut self, ticket: Ticket, done: ChoreDone, disk: &mut impl Disk) {
        assert!(self.upkeep.is_asked(ticket), "only a chore that was submitted ends, once");
        if self.upkeep.prepare == Some(ticket) {
            self.upkeep.prepare = None;
            self.on_prepared(done);
        } else if self.upkeep.index.is_some_and(|(index, _)| index == ticket) {
            let number = self.upkeep.index.take().map(|(_, number)| number);
            self.on_indexed(number, done);
        } else if self.upkeep.retire == Some(ticket) {
            self.upkeep.retire = None;
            self.on_retired(done);
        } else if self.upkeep.checkpoint == Some(ticket) {
            self.upkeep.checkpoint = None;
            self.on_checkpoint_piece(done);
        } else if self.upkeep.trim == Some(ticket) {
            self.upkeep.trim = None;
            if let Err(error) = done.0 {
                tracing::warn!(log = %self.key, %error, "what was prepared stays: the next start reads it");
            }
        }
        if !matches!(self.state, LogState::Stopped(_)) {
            self.submit_upkeep(disk);
        }
    }

    fn on_prepared(&mut self, done: ChoreDone) {
        let (file, number, end) = match done.0 {
            Ok(ChoreOutcome::Prepared { file, number, prepared_end }) => {
                (file, number, prepared_end)
            }
            Ok(other) => unreachable!("a preparation came to {other:?}"),
            Err(error) if is_no_space(&error) => return self.space_lacks("the disk is full"),
            Err(error) => return self.stop(format!("preparing a segment failed: {error}")),
        };
        self.upkeep.no_space_until = None;
        if self.state == LogState::DiskFull {
            tracing::info!(log = %self.key, "there is space again: events are taken");
            self.state = LogState::Running;
        }
        // One batch that is larger than a segment gets a segment of its own size.
        let capacity = (self.wanted_bytes + self.options.reserve_bytes)
            .next_multiple_of(BLOCK_BYTES as u64)
            .max(self.next_capacity())
            .max(end);
        assert!(number <= self.segments.last_number, "every number was given");
        self.segments.prepared(number, file, capacity, end);
        let left = self.segments.active.as_ref().map_or(0, |a| a.prepared_end - a.tail);
        let next = self.segments.next.map_or(0, |next| next.prepared_end);
        let enough = self.wanted_bytes + self.options.reserve_bytes + BLOCK_BYTES as u64;
        if left.max(next) >= enough {
            self.wanted_bytes = 0;
        }
    }

    /// Writes the index of a sealed segment, or maps or rebuilds one that a reader waits for.
    fn submit_index(&mut self, disk: &mut impl Disk) {
        if self.upkeep.index_retry_at.is_some_and(|at| self.now < at) {
            return;
        }
        self.upkeep.index_retry_at = None;
        let durable = self.durable_commit_end;
        let wanted = self.upkeep.index_wanted;
        // What was sealed lately stands last, so a long chain is not walked.
        let is_in_memory = |sealed: &&Sealed| matches!(sealed.index, SegmentIndex::Memory(_));
        let lately = self.segments.sealed.iter().rev().take_while(is_in_memory).last();
        let wanted = wanted.and_then(|number| self.segments.sealed_of_number(number));
        let is_unmapped = |sealed: &&Sealed| matches!(sealed.index, SegmentIndex::Unmapped);
        let waiting = wanted.filter(is_unmapped);
        let waiting = waiting.or(lately.filter(|sealed| sealed.commit_end <= durable));
        let Some(sealed) = waiting else { return };
        let memory = match &sealed.index {
            SegmentIndex::Memory(index) => Some(std::sync::Arc::clone(index)),
            _ => None,
        };
        let number = sealed.number;
        assert!(sealed.commit_end <= durable, "only what is durable is indexed on disk");
        let task = IndexTask {
            dir: self.dir.clone(),
            log: self.key,
            number,
            file: sealed.file,
            end_bytes: sealed.end_bytes,
            memory,
        };
        let ticket = self.submit_chore(task.into_chore(), disk);
        self.upkeep.index = Some((ticket, number));
    }

    fn on_indexed(&mut self, asked: Option<u64>, done: ChoreDone) {
        match done.0 {
            Ok(ChoreOutcome::Indexed { number, index }) => {
                assert_eq!(asked, Some(number), "an index is that of the segment it was made for");
                assert!(number <= self.segments.last_number, "every number was given");
                self.upkeep.index_retry_at = None;
                if self.upkeep.index_wanted == Some(number) {
                    self.upkeep.index_wanted = None;
                }
                if let Some(sealed) = self.segments.sealed_mut(number) {
                    sealed.first_time = index.first_time();
                    sealed.index = SegmentIndex::Mapped(index);
                    sealed.index_failures = 0;
                }
                self.note_index_used(number);
                self.unmap_beyond_limit(number);
            }
            Ok(other) => unreachable!("an index came to {other:?}"),
            Err(error) if error.get_ref().is_some_and(|why| why.is::<NoIndex>()) => {
                // It would be so every time: readers do without at once, and nothing waits for it.
                tracing::warn!(log = %self.key, %error, "a segment has no index");
                self.upkeep.index_wanted = self.upkeep.index_wanted.filter(|of| Some(*of) != asked);
                if let Some(sealed) = asked.and_then(|number| self.segments.sealed_mut(number)) {
                    sealed.index = SegmentIndex::Unmapped;
                    sealed.index_failures = INDEX_FAILURES_MAX;
                }
            }
            Err(error) => {
                // Readers of that segment wait for a while, then do without; the log itself goes on.
                tracing::warn!(log = %self.key, %error, "making a segment's index failed");
                if let Some(sealed) = asked.and_then(|number| self.segments.sealed_mut(number)) {
                    sealed.index_failures = sealed.index_failures.saturating_add(1);
                }
                self.upkeep.index_retry_at = Some(Timestamp(self.now.0 + SPACE_RETRY_US));
            }
        }
    }

    /// A reader needs the index of a sealed segment.
    pub(crate) fn want_index(&mut self, number: u64, disk: &mut impl Disk) {
        assert!(
            self.segments.sealed_mut(number).is_some(),
            "a reader is in a segment that is kept"
        );
        self.upkeep.index_wanted = Some(number);
        if self.upkeep.index.is_none() {
            self.submit_index(disk);
        }
    }

    /// No index of a sealed segment is to be had: whoever reads it does without.
    pub(crate) fn index_is_lacking(&self, number: u64) -> bool {
        let sealed = self.segments.sealed_of_number(number);
        sealed.is_some_and(|sealed| sealed.index_failures >= INDEX_FAILURES_MAX)
    }

    /// A reader uses the index of a segment.
    pub(crate) fn note_index_used(&mut self, number: u64) {
        self.upkeep.index_clock += 1;
        let clock = self.upkeep.index_clock;
        if let Some(sealed) = self.segments.sealed_mut(number) {
            assert!(sealed.index_used < clock, "the newest use is the last");
            sealed.index_used = clock;
        }
    }

    /// Keeps few indexes mapped; what is unmapped here is mapped again when a reader needs it.
    fn unmap_beyond_limit(&mut self, keep: u64) {
        loop {
            let mapped = self.segments.sealed.iter_mut();
            let mapped = mapped.filter(|sealed| matches!(sealed.index, SegmentIndex::Mapped(_)));
            let mapped: Vec<&mut Sealed> = mapped.collect();
            let bytes: usize = mapped.iter().map(|sealed| sealed.mapped_bytes()).sum();
            let is_much = bytes > self.options.indexes_mapped_bytes_max && mapped.len() > 1;
            if mapped.len() <= INDEXES_MAPPED_MAX && !is_much {
                return;
            }
            let others = mapped.into_iter().filter(|sealed| sealed.number != keep);
            let oldest = others.min_by_key(|sealed| sealed.index_used);
            oldest.expect("more than one is mapped").index = SegmentIndex::Unmapped;
        }
    }

    /// The oldest segment, if retention lets it go and no checkpoint needs it.
    fn next_retire(&mut self) -> Option<RetireTask> {
        // A log that ends lets nothing go any more: it would wait for a checkpoint that nobody may begin.
        if self.shutting_down {
            return None;
        }
        let oldest = self.segments.sealed.front()?;
        // What is left must be no less than what was promised to be kept.
        let usual = self.options.retention_bytes.is_some_and(|max| {
            let kept = self.segments.sealed_bytes()
                + self.segments.active.as_ref().map_or(0, |active| active.tail);
            kept - oldest.end_bytes >= max
        });
        let is_readable = !self.index_is_lacking(oldest.number);
        if !self.retention.lets_go(oldest.verdict, is_readable, usual)
            || oldest.quarantined
            || oldest.commit_end > self.durable_commit_end
        {
            return None;
        }
        if oldest.number >= self.checkpointer.oldest_segment_needed() {
            self.checkpointer.wanted();
            return None;
        }
        let SegmentIndex::Mapped(index) = &oldest.index else {
            if matches!(oldest.index, SegmentIndex::Unmapped) {
                self.upkeep.index_wanted.get_or_insert(oldest.number);
            }
            return None;
        };
        Some(RetireTask {
            dir: self.dir.clone(),
            number: oldest.number,
            file: oldest.file,
            // A log that takes no events has no use for one.
            recycle: !self.sealed && self.segments.spares.len() < SPARES_MAX,
            segment_bytes: self.options.segment_bytes,
            index: std::sync::Arc::clone(index),
        })
    }

    fn on_retired(&mut self, done: ChoreDone) {
        match done.0 {
            Ok(ChoreOutcome::Retired { number, spare, starts }) => {
                let gone = self.segments.retired(number, spare);
                assert!(gone.commit_end <= self.durable_commit_end, "only durable events expire");
                self.positions.trimmed(gone.end_position);
                for (topic, partition, offset) in starts {
                    self.topics.expired(topic, partition, offset);
                }
            }
            Ok(other) => unreachable!("a retirement came to {other:?}"),
            Err(error) => self.stop(format!("removing a segment failed: {error}")),
        }
    }
}

fn is_no_space(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

//! One shard's log: what it takes in, how far it has come.
//!
//! Lives on its shard's core, shares nothing, never waits: [`Log::append`] copies into the open commit, [`Log::run`]
//! submits, [`Log::on_completion`] learns. Nothing here reads a clock or takes a lock; every call does a bounded
//! amount of work. The steps of a commit are in `commits` and `flights`, the work beside the path of an event in
//! `upkeep`.

mod commits;
pub mod deletion;
mod flights;
pub mod held;
pub mod place;
pub mod retention;
mod upkeep;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use codec::ack::AckLevel;
use codec::header::{BatchHeader, ContentKind, HEADER_BYTES, HeaderSeed};
use codec::ids::{Epoch, Offset, Partition, Position, Timestamp, TopicId};
use codec::limits::{BATCH_ALIGN, BATCH_BYTES_MAX};

use crate::active_index::RunEntry;
use crate::aligned::{BLOCK_BYTES, ChunkPool, ChunkTail};
use crate::batch::{Appended, LogState, NoAppend};
use crate::cache::TailCache;
use crate::checkpoint::Checkpointer;
use crate::control::Record;
use crate::cursor::{Cursor, CursorMark, Cursors};
use crate::disk::{Completed, Disk, LogKey, Ticket};
use crate::landing::{Landing, Source};
use crate::options::{LogOptions, Sync};
use crate::positions::LogPositions;
use crate::publishers::Publishers;
use crate::reader::Reads;
use crate::segments::{Prepared, Segments};
use crate::topics::Topics;

use self::commits::{Closed, OpenCommit};
use self::flights::Flights;
use self::retention::Retention;
use self::upkeep::Upkeep;

/// What is kept of the tail while nobody reads there: enough for who begins to.
const UNREAD_TAIL_BYTES: usize = 1 << 20;

/// One log. See the module.
#[derive(Debug)]
pub struct Log {
    pub(crate) key: LogKey,
    pub(crate) node_id: u64,
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    /// Segments are opened past the page cache.
    pub(crate) direct: bool,
    /// An older generation's: takes no events, only cursors.
    pub(crate) sealed: bool,
    pub(crate) epoch: Epoch,
    pub(crate) state: LogState,
    pub(crate) positions: LogPositions,
    pub(crate) topics: Topics,
    pub(crate) cursors: Cursors,
    pub(crate) publishers: Publishers,
    pub(crate) segments: Segments,
    pub(crate) cache: TailCache,
    pub(crate) reads: Reads,
    pub(crate) checkpointer: Checkpointer,
    pool: Arc<ChunkPool>,
    chunk: Option<ChunkTail>,
    open: Option<OpenCommit>,
    closed: VecDeque<Closed>,
    flights: Flights,
    /// Number of the next commit to be opened.
    pub(crate) next_commit: u64,
    /// Every commit before this one is durable.
    pub(crate) durable_commit_end: u64,
    /// The first commit since the log was opened.
    first_commit: u64,
    /// The newest commit says nothing but what is durable.
    last_commit_is_mark: bool,
    /// Highest time seen; append times never decrease.
    pub(crate) now: Timestamp,
    /// The time at the last run.
    ran_at: Timestamp,
    /// When a commit was last closed.
    active_at: Timestamp,
    /// When the oldest change of a cursor that is not written was first seen by `run`.
    cursors_dirty_since: Option<Timestamp>,
    /// The largest commit that found no prepared place; preparation goes on until it fits.
    wanted_bytes: u64,
    pub(crate) shutting_down: bool,
    pub(crate) upkeep: Upkeep,
    pub(crate) retention: Retention,
    /// Records of deletions that are yet to be written, oldest first. A change of a cursor waits behind them.
    deletions: VecDeque<Vec<u8>>,
    /// When the newest of them is durable.
    deletion_mark: CursorMark,
    next_ticket: u64,
    scratch: Vec<u8>,
}

/// What recovery found, to start a log from.
pub(crate) struct LogParts {
    pub(crate) key: LogKey,
    pub(crate) node_id: u64,
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) direct: bool,
    pub(crate) sealed: bool,
    pub(crate) epoch: Epoch,
    pub(crate) positions: LogPositions,
    pub(crate) topics: Topics,
    pub(crate) cursors: Cursors,
    pub(crate) publishers: Publishers,
    pub(crate) segments: Segments,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) next_commit: u64,
    pub(crate) last_time: Timestamp,
}

impl Log {
    pub(crate) fn from_parts(parts: LogParts) -> Self {
        let options = parts.options.bounded();
        assert!(parts.next_commit >= 1, "commits are numbered from 1");
        assert!(parts.epoch.0 >= 1, "a log's epoch rises as it is opened");
        assert!(parts.segments.active.is_some() != parts.sealed, "only a sealed log has no tail");
        let all = parts.positions;
        assert!(
            parts.cursors.iter().all(|(_, cursor)| cursor.next <= all.end()),
            "positions go on behind what any cursor knows"
        );
        assert!(
            all.durable_end() == all.end(),
            "what recovery found is synced before it is served"
        );
        let chunk_bytes = (options.commit_bytes_max + BLOCK_BYTES).next_power_of_two();
        let deleted_end = parts.topics.deleted_end().min(all.end());
        let may_hold_deleted = all.start() < deleted_end;
        Log {
            key: parts.key,
            node_id: parts.node_id,
            dir: parts.dir,
            direct: parts.direct,
            sealed: parts.sealed,
            epoch: parts.epoch,
            state: LogState::Running,
            positions: parts.positions,
            topics: parts.topics,
            cursors: parts.cursors,
            publishers: parts.publishers,
            segments: parts.segments,
            cache: TailCache::new(options.cache_bytes),
            reads: Reads::new(options.read_bytes_max),
            checkpointer: parts.checkpointer,
            pool: ChunkPool::new(chunk_bytes),
            chunk: None,
            open: None,
            closed: VecDeque::with_capacity(4),
            flights: Flights::default(),
            next_commit: parts.next_commit,
            durable_commit_end: parts.next_commit,
            first_commit: parts.next_commit,
            // What recovery synced is not yet marked as durable.
            last_commit_is_mark: parts.sealed || parts.next_commit == 1,
            now: parts.last_time,
            ran_at: Timestamp(0),
            active_at: parts.last_time,
            cursors_dirty_since: None,
            wanted_bytes: 0,
            shutting_down: false,
            upkeep: Upkeep::default(),
            retention: Retention::recovered(may_hold_deleted.then_some(deleted_end)),
            deletions: VecDeque::new(),
            deletion_mark: CursorMark::default(),
            next_ticket: 1,
            scratch: Vec::new(),
            options,
        }
    }

    /// The log's name in its folder.
    #[must_use]
    pub fn key(&self) -> LogKey {
        self.key
    }

    /// Rises at each opening of the log.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The latest time that it was told, or, before it was told any, that it has found in what was appended last.
    #[must_use]
    pub fn clock(&self) -> Timestamp {
        self.now
    }

    /// How far the log has come.
    #[must_use]
    pub fn positions(&self) -> LogPositions {
        self.positions
    }

    /// How the log is doing.
    #[must_use]
    pub fn state(&self) -> LogState {
        self.state.clone()
    }

    /// The log's number of a topic; none also of one that is deleted.
    #[must_use]
    pub fn topic_id(&self, name: &str) -> Option<TopicId> {
        self.topics.id(name)
    }

    /// The same for a topic that was `guess` when it was last looked for, at less cost where it still is.
    #[must_use]
    pub fn topic_id_near(&self, guess: TopicId, name: &Arc<str>) -> Option<TopicId> {
        self.topics.id_near(guess, name)
    }

    /// The name of a topic.
    #[must_use]
    pub fn topic_name(&self, id: TopicId) -> Option<&Arc<str>> {
        self.topics.name(id)
    }

    /// Topics of the log, deleted ones included. Their ids are `1..=topics`.
    #[must_use]
    pub fn topic_count(&self) -> u32 {
        self.topics.len()
    }

    /// The offset that the next event of a topic and partition gets.
    #[must_use]
    pub fn next_offset(&self, topic: TopicId, partition: Partition) -> Offset {
        self.topics.partition(topic, partition).map_or(Offset(0), |state| state.next)
    }

    /// The first offset of a topic and partition that is still kept.
    #[must_use]
    pub fn logical_start(&self, topic: TopicId, partition: Partition) -> Offset {
        self.topics.partition(topic, partition).map_or(Offset(0), |state| state.start)
    }

    /// Sets the cursor of a group. It is written with the next commit.
    pub fn put_cursor(&mut self, group: u64, cursor: Cursor) -> CursorMark {
        assert!(cursor.next <= self.positions.end(), "no group is ahead of its log");
        self.cursors.put(group, Some(cursor))
    }

    /// Forgets the cursor of a group.
    pub fn remove_cursor(&mut self, group: u64) -> CursorMark {
        self.cursors.put(group, None)
    }

    /// The cursor of a group.
    #[must_use]
    pub fn cursor(&self, group: u64) -> Option<&Cursor> {
        self.cursors.get(group)
    }

    /// All cursors, in no order.
    pub fn cursors(&self) -> impl Iterator<Item = (u64, &Cursor)> {
        self.cursors.iter()
    }

    /// Every change of a cursor up to this mark is durable.
    #[must_use]
    pub fn durable_cursor_mark(&self) -> CursorMark {
        self.cursors.durable_mark()
    }

    /// Adds a topic: its record rides in the commit of its first batch. Returns the id of one that is there.
    ///
    /// # Errors
    /// As [`NoAppend`] says; nothing was changed.
    pub fn create_topic(&mut self, name: &Arc<str>) -> Result<TopicId, NoAppend> {
        if let Some(id) = self.topics.id(name) {
            return Ok(id);
        }
        self.admits_events()?;
        if let Some(id) = self.topics.deleted_id(name) {
            // Its next event tells a replay so.
            self.topics.revive(id);
            return Ok(id);
        }
        let bytes = self.topics.memory_bytes_with(name);
        if self.topics.len() >= codec::limits::TOPICS_MAX || bytes > self.options.topics_bytes_max {
            return Err(NoAppend::TooManyTopics);
        }
        let id = TopicId(self.topics.len() + 1);
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        assert!(name.len() <= codec::limits::TOPIC_BYTES_MAX, "names are checked at the door");
        Record::Topic { id, name: Arc::clone(name) }.encode(&mut body);
        let made = self.append_control(&body, false);
        self.scratch = body;
        made?;
        let added = self.topics.add(Arc::clone(name));
        assert_eq!(added, Some(id), "ids are dense");
        Ok(id)
    }

    /// Whether anybody reads at the tail. While nobody does, next to nothing of it is kept in memory, and the few buffers
    /// that commits take turns in stay in the processor's cache.
    pub fn keep_tail(&mut self, is_read: bool) {
        let most = if is_read { self.options.cache_bytes } else { UNREAD_TAIL_BYTES };
        self.cache.limit(most.min(self.options.cache_bytes));
    }

    /// Memory to receive a large batch into where it is to stay: `len` bytes of a frame, of which `lead` come before the
    /// batch. Another log of the folder may take it, too.
    #[must_use]
    pub fn landing(&self, lead: usize, len: usize) -> Landing {
        Landing::new(&self.pool, lead, len)
    }

    /// Appends a batch: stamps its header and copies its body, once, into the open commit. One with a sequence must be
    /// new ([`Log::stored`]).
    ///
    /// # Errors
    /// As [`NoAppend`] says; nothing was changed.
    pub fn append(
        &mut self,
        topic: TopicId,
        partition: Partition,
        header: &BatchHeader,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Appended, NoAppend> {
        self.append_from(topic, partition, header, Source::Bytes(body), now)
    }

    /// As [`Log::append`]; a batch that landed becomes a commit of its own and is not copied.
    ///
    /// # Errors
    /// As [`NoAppend`] says; nothing was changed, and nothing taken.
    pub fn append_from(
        &mut self,
        topic: TopicId,
        partition: Partition,
        header: &BatchHeader,
        source: Source<'_>,
        now: Timestamp,
    ) -> Result<Appended, NoAppend> {
        let level = match self.options.sync {
            Sync::EachWrite => AckLevel::Durable,
            Sync::Behind => AckLevel::Written,
        };
        self.append_for(level, (topic, partition), header, source, now)
    }

    /// As [`Log::append_from`], for whoever waits until the batch has reached `level`. A commit with a batch for which
    /// somebody waits until it is durable is synced with its write, and what it follows at once; one for which nobody
    /// waits is held back a little, so that others share its write.
    ///
    /// # Errors
    /// As [`NoAppend`] says; nothing was changed, and nothing taken.
    pub fn append_for(
        &mut self,
        level: AckLevel,
        (topic, partition): (TopicId, Partition),
        header: &BatchHeader,
        mut source: Source<'_>,
        now: Timestamp,
    ) -> Result<Appended, NoAppend> {
        let body_len = source.body().len();
        assert_eq!(header.body_len as usize, body_len, "the header is this body's");
        assert!(header.count > 0 && header.content == ContentKind::Events, "batches hold events");
        assert!(topic.0 >= 1 && topic.0 <= self.topics.len(), "topics are created first");
        self.admits_events()?;
        self.now = self.now.max(now);
        let len = batch_slot_bytes(body_len);
        let usual_chunk = match &mut source {
            Source::Bytes(_) => {
                self.make_room(len, false)?;
                None
            }
            Source::Landing(landing) => Some(self.open_landed(len, landing)?),
        };
        let place = self.place_batch(len);
        let base_position = self.positions.end();
        let state = self.topics.partition_mut(topic, partition).expect("the topic is there");
        let stamped = BatchHeader {
            topic,
            partition,
            epoch: self.epoch,
            base_position,
            base_offset: state.next,
            durable_end: self.positions.durable_end(),
            append_time: self.now,
            ..*header
        };
        let base_offset = state.next;
        state.next = base_offset.plus(u64::from(header.count));
        let run = RunEntry {
            topic,
            partition,
            at: place.at,
            end: place.at + len as u64,
            position: base_position,
            offset: base_offset,
            offset_end: state.next,
            previous: 0,
        };
        assert!(state.start <= base_offset, "what is appended has not expired");
        self.segments.active_index().appended(run, &mut state.last_run);
        let copied = if let Source::Bytes(body) = source { Some(body) } else { None };
        self.write_batch(place, &stamped, copied);
        match level {
            AckLevel::Durable => self.open_is_awaited(),
            AckLevel::Written => self.open_is_wanted(),
            AckLevel::Received => {}
        }
        self.positions.appended(stamped.end_position());
        self.publishers.appended(&stamped);
        if let Some(chunk) = usual_chunk {
            self.close_commit();
            self.chunk = chunk;
        }
        Ok(Appended { base_position, base_offset, append_time: self.now })
    }

    /// Nothing is in flight, and nothing is to be done before [`Log::next_wakeup`].
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_none()
            && self.closed.is_empty()
            && self.flights.is_empty()
            && self.upkeep.is_idle()
            && self.reads.is_idle()
    }

    /// Bytes of memory that the log holds, what it lent to others included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.pool.in_use_bytes()
            + self.pool.kept_bytes()
            + self.topics.memory_bytes()
            + self.cursors.memory_bytes()
            + self.publishers.memory_bytes()
            + self.segments.memory_bytes()
            + self.reads.memory_bytes()
    }

    /// Bytes of buffers that are in use only because deliveries refer to them: parts of commits that have left the tail
    /// cache, and of windows that readers are through with.
    #[must_use]
    pub fn lent_bytes(&self) -> usize {
        // What is not closed or not durable stands in two buffers at most, and is the log's own.
        let own = self.cache.bytes() + 2 * self.pool.chunk_bytes();
        self.pool.in_use_bytes().saturating_sub(own) + self.reads.lent_bytes()
    }

    /// Frees what the log keeps only to use it again: for a log at rest. What comes next takes it anew.
    pub fn free_spare_memory(&mut self) {
        self.pool.free_kept();
    }

    /// Takes no events any more; writes what is open, the cursors, a durable mark and a checkpoint, and gives back what was
    /// prepared.
    pub fn begin_shutdown(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        if !std::mem::replace(&mut self.shutting_down, true) {
            self.checkpointer.wanted_no_more();
        }
    }

    /// After [`Log::begin_shutdown`]: all is written, or the log has stopped.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        let stopped = self.shutting_down && matches!(self.state, LogState::Stopped(_));
        stopped || (self.has_ended() && self.is_idle() && !self.segments.has_room_behind_tail())
    }

    /// Does what is due: closes and submits commits, submits a sync and chores. Returns the bytes submitted.
    pub fn run(&mut self, now: Timestamp, disk: &mut impl Disk) -> u32 {
        self.now = self.now.max(now);
        // A clock that was set back stands still for its callers until it is where it was.
        let clock_stands = self.now <= self.ran_at;
        self.ran_at = self.now;
        if matches!(self.state, LogState::Stopped(_)) {
            return 0;
        }
        self.open_due_commit();
        let submitted = self.submit_commits(clock_stands, disk);
        self.submit_sync(clock_stands, disk);
        self.look_for_expired(disk);
        self.submit_upkeep(disk);
        submitted
    }

    /// An operation of this log has ended.
    pub fn on_completion(&mut self, ticket: Ticket, result: Completed, disk: &mut impl Disk) {
        match result {
            Completed::Written(result) => self.on_written(ticket, result),
            Completed::Synced(result) => self.on_synced(ticket, result),
            Completed::Read(result) => self.reads.arrived(ticket, result),
            Completed::Chore(done) => self.on_chore(ticket, done, disk),
        }
    }

    pub(crate) fn take_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    fn admits_events(&self) -> Result<(), NoAppend> {
        match self.state {
            LogState::Stopped(_) => Err(NoAppend::Stopped),
            _ if self.sealed || self.shutting_down => Err(NoAppend::Stopped),
            LogState::DiskFull => Err(NoAppend::DiskFull),
            LogState::Running => Ok(()),
        }
    }

    /// At shutdown everything else is written: time for the last checkpoint.
    pub(crate) fn ends_with_checkpoint(&self) -> bool {
        // Asked in every cycle.
        if !self.shutting_down {
            return false;
        }
        let commits = self.open.is_some() || !self.closed.is_empty() || !self.flights.is_empty();
        self.last_commit_is_mark && !commits && !self.cursors.is_dirty()
    }

    /// Shut down but for what was prepared: the last checkpoint is written, and nothing came after it.
    pub(crate) fn has_ended(&self) -> bool {
        self.ends_with_checkpoint() && self.checkpointer.is_done()
    }

    pub(crate) fn stop(&mut self, why: String) {
        tracing::error!(log = %self.key, why, "log stopped: restart the server once the disk is well");
        self.state = LogState::Stopped(why);
    }

    pub(crate) fn prepared(&self) -> Option<&Prepared> {
        self.segments.next.as_ref()
    }
}

/// Bytes that a batch with a body of `body_len` takes in a commit.
pub(crate) fn batch_slot_bytes(body_len: usize) -> usize {
    let len = HEADER_BYTES + body_len;
    assert!(len <= BATCH_BYTES_MAX as usize, "batches are checked at the door");
    len.next_multiple_of(BATCH_ALIGN as usize)
}

pub(crate) fn seed(key: LogKey, segment: u64, at: u64) -> HeaderSeed {
    HeaderSeed::on_disk(key.as_u64(), segment, at)
}

/// A control header at `position`.
pub(crate) fn control_header(
    body: &[u8],
    epoch: Epoch,
    position: Position,
    durable_end: Position,
    now: Timestamp,
) -> BatchHeader {
    let mut header = BatchHeader::unstamped(TopicId(0), Partition(0), body, 0);
    header.content = ContentKind::Control;
    header.epoch = epoch;
    header.base_position = position;
    header.durable_end = durable_end;
    header.append_time = now;
    header
}

pub(crate) fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

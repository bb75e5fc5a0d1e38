//! Checkpoints: the topic dictionary, next offsets, logical starts, cursors and publishers, so that recovery replays
//! little.
//!
//! Two files in turn. A shard encodes a piece (a frame) at a time while it goes on; a chore writes it. Entries may be
//! newer than the place where the replay starts: replaying them again changes nothing. The last frame is written only
//! when everything that the others may contain is durable, so a checkpoint never knows more than the log. An attempt that
//! came to nothing may have left its last frame under the same sequence: each begins with a file that is durably empty.
//!
//! ```text
//! frame: 0 u32 kind    4 u32 payload bytes    8 u64 sequence    16 u32 frame number
//!       20 u32 CRC-32C of bytes 0..20 and of the payload    24 payload
//!  1 start    u32 magic "RMCK", u32 version, u64 node id, u64 log key, u32 epoch, u32 sealed,
//!             u64 segment, u64 byte, u64 commit, u64 position: where the replay starts;
//!             only in version 3 u64: the end of the log when a topic was last deleted
//!  2 topics   entries: u32 id, u16 name bytes, u16 partitions (in version 3 bit 15 set: deleted), name,
//!             partitions * (u16 partition, u64 next offset, u64 first offset kept)
//!  3 cursors  cursor records as in control batches
//!  5 publishers  entries as in [`crate::publishers`]; only from version 2 on, behind the cursors
//!  4 end      u64 frames before it, u64 commit end: everything before that commit must be found
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use codec::crc32c::crc32c;
use codec::error::DecodeError;
use codec::ids::{Epoch, Offset, Partition, Position, TopicId};

use crate::aligned::BLOCK_BYTES;
use crate::chores::ChoreOutcome;
use crate::control::{Record, encode_cursor, take_u32, take_u64};
use crate::cursor::Cursors;
use crate::disk::{Chore, ChoreDone, LogKey};
use crate::log::Log;
use crate::publishers::Publishers;
use crate::storage::{FileId, OpenMode, Storage};
use crate::topics::Topics;

pub(crate) const CHECKPOINT_MAGIC: u32 = 0x4b43_4d52;
/// The highest version that this build knows: topics may be deleted.
pub(crate) const CHECKPOINT_VERSION: u32 = 3;
/// What is written while no topic has been deleted, so that a build that knows no deletions still opens the folder.
const VERSION_WITHOUT_DELETIONS: u32 = 2;
/// Set in the number of a topic's partitions: the topic is deleted. There are far fewer partitions.
const DELETED_BIT: u16 = 1 << 15;
/// What is written as long as no batch has a sequence, so that a build that knows no publishers still opens the folder.
const VERSION_WITHOUT_PUBLISHERS: u32 = 1;
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
/// Bytes of the last frame of a checkpoint.
pub(crate) const END_FRAME_BYTES: usize = FRAME_HEADER_BYTES + 16;
/// A frame is ended once it is this long; bounds what a shard encodes in one step.
const FRAME_BYTES: usize = 64 << 10;
const KIND_START: u32 = 1;
const KIND_TOPICS: u32 = 2;
const KIND_CURSORS: u32 = 3;
pub(crate) const KIND_END: u32 = 4;
const KIND_PUBLISHERS: u32 = 5;

/// Where the replay of a checkpoint starts, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointStart {
    pub(crate) node_id: u64,
    pub(crate) log: LogKey,
    pub(crate) epoch: Epoch,
    pub(crate) sealed: bool,
    /// 0: the log has no segment yet.
    pub(crate) segment: u64,
    pub(crate) at: u64,
    pub(crate) commit: u64,
    pub(crate) position: Position,
}

const _: () = assert!(codec::limits::PARTITIONS < DELETED_BIT);

/// A checkpoint read back.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) sequence: u64,
    pub(crate) start: CheckpointStart,
    pub(crate) commit_end: u64,
    pub(crate) topics: Topics,
    pub(crate) cursors: Cursors,
    pub(crate) publishers: Publishers,
}

/// What a checkpoint is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) topics: &'a Topics,
    pub(crate) cursors: &'a Cursors,
    pub(crate) publishers: &'a Publishers,
}

#[derive(Debug)]
enum Phase {
    Start,
    Topics { next: u32 },
    Cursors { groups: Vec<u64> },
    Publishers { next: u32 },
    End,
}

/// Encodes a checkpoint frame by frame.
#[derive(Debug)]
pub(crate) struct CheckpointEncoder {
    start: CheckpointStart,
    sequence: u64,
    frames: u32,
    phase: Phase,
    /// Whether there were any as it began. Those that come later are found by the replay.
    has_publishers: bool,
    version: u32,
}

impl CheckpointEncoder {
    pub(crate) fn new(start: CheckpointStart, sequence: u64) -> Self {
        assert!(sequence >= 1 && start.commit >= 1, "0 means that there is none");
        assert!(
            (start.segment == 0) == (start.at == 0),
            "a replay starts in a segment, or nowhere"
        );
        assert!(start.at.is_multiple_of(BLOCK_BYTES as u64), "a commit starts on a fresh block");
        CheckpointEncoder {
            start,
            sequence,
            frames: 0,
            phase: Phase::Start,
            has_publishers: false,
            version: VERSION_WITHOUT_PUBLISHERS,
        }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        matches!(self.phase, Phase::End)
    }

    /// The next frame before the last.
    pub(crate) fn next_frame(&mut self, contents: Contents<'_>) -> Vec<u8> {
        let Contents { topics, cursors, publishers } = contents;
        assert!(!self.is_at_end(), "the last frame is made by `end_frame`");
        let mut payload = Vec::new();
        let kind = match &mut self.phase {
            Phase::Start => {
                self.has_publishers = !publishers.is_empty();
                let has_deletions = topics.deleted_len() > 0 || topics.deleted_end().0 > 0;
                self.version = match (has_deletions, self.has_publishers) {
                    (true, _) => CHECKPOINT_VERSION,
                    (false, true) => VERSION_WITHOUT_DELETIONS,
                    (false, false) => VERSION_WITHOUT_PUBLISHERS,
                };
                encode_start(&self.start, self.version, &mut payload);
                if has_deletions {
                    payload.extend_from_slice(&topics.deleted_end().0.to_le_bytes());
                }
                self.phase = Phase::Topics { next: 1 };
                KIND_START
            }
            Phase::Topics { next } => {
                let tells = self.version == CHECKPOINT_VERSION;
                while *next <= topics.len() && payload.len() < FRAME_BYTES {
                    encode_topic(topics, TopicId(*next), tells, &mut payload);
                    *next += 1;
                }
                if *next > topics.len() {
                    let groups = cursors.iter().map(|(group, _)| group).collect();
                    self.phase = Phase::Cursors { groups };
                }
                KIND_TOPICS
            }
            Phase::Cursors { groups } => {
                while payload.len() < FRAME_BYTES
                    && let Some(group) = groups.pop()
                {
                    if let Some(cursor) = cursors.get(group) {
                        encode_cursor(group, cursor, &mut payload);
                    }
                }
                if groups.is_empty() {
                    let next = Phase::Publishers { next: 0 };
                    self.phase = if self.has_publishers { next } else { Phase::End };
                }
                KIND_CURSORS
            }
            Phase::Publishers { next } => {
                match publishers.encode(*next, FRAME_BYTES, &mut payload) {
                    Some(rest) => *next = rest,
                    None => self.phase = Phase::End,
                }
                KIND_PUBLISHERS
            }
            Phase::End => unreachable!("asserted above"),
        };
        self.frame(kind, &payload)
    }

    /// The last frame: what makes the file a checkpoint.
    pub(crate) fn end_frame(&mut self, commit_end: u64) -> Vec<u8> {
        assert!(self.is_at_end(), "the last frame comes last");
        assert!(self.start.commit <= commit_end, "a checkpoint knows all before its own replay");
        let mut payload = Vec::with_capacity(16);
        payload.extend_from_slice(&u64::from(self.frames).to_le_bytes());
        payload.extend_from_slice(&commit_end.to_le_bytes());
        self.frame(KIND_END, &payload)
    }

    fn frame(&mut self, kind: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
        out.extend_from_slice(&kind.to_le_bytes());
        let len = u32::try_from(payload.len()).expect("a frame ends soon after FRAME_BYTES");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.frames.to_le_bytes());
        out.extend_from_slice(&frame_crc(&out, payload).to_le_bytes());
        assert_eq!(out.len(), FRAME_HEADER_BYTES, "the payload follows its header");
        out.extend_from_slice(payload);
        self.frames += 1;
        out
    }
}

fn frame_crc(head: &[u8], payload: &[u8]) -> u32 {
    assert_eq!(head.len(), 20, "the checksum covers what is before it");
    let mut seeded = [0; 24];
    seeded[..20].copy_from_slice(head);
    seeded[20..].copy_from_slice(&crc32c(payload).to_le_bytes());
    crc32c(&seeded)
}

fn encode_start(start: &CheckpointStart, version: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&CHECKPOINT_MAGIC.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&start.node_id.to_le_bytes());
    out.extend_from_slice(&start.log.as_u64().to_le_bytes());
    out.extend_from_slice(&start.epoch.0.to_le_bytes());
    out.extend_from_slice(&u32::from(start.sealed).to_le_bytes());
    for number in [start.segment, start.at, start.commit, start.position.0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// `tells`: whether it is deleted. A deletion that came after the checkpoint was begun is found by the replay.
fn encode_topic(topics: &Topics, id: TopicId, tells: bool, out: &mut Vec<u8>) {
    let name = topics.name(id).expect("ids are dense");
    let partitions: Vec<_> = topics.partitions(id).collect();
    let name_len = u16::try_from(name.len()).expect("names are checked at the door");
    let count = u16::try_from(partitions.len()).expect("a partition stands once in a topic");
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&name_len.to_le_bytes());
    let deleted = if tells && topics.is_deleted(id) { DELETED_BIT } else { 0 };
    out.extend_from_slice(&(count | deleted).to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    for (partition, state) in partitions {
        assert!(state.start <= state.next, "only what was appended expires");
        out.extend_from_slice(&partition.0.to_le_bytes());
        out.extend_from_slice(&state.next.0.to_le_bytes());
        out.extend_from_slice(&state.start.0.to_le_bytes());
    }
}

impl Checkpoint {
    /// Reads a checkpoint from its file's bytes.
    ///
    /// # Errors
    /// It was not finished, or is damaged.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        let malformed = |field| DecodeError::Malformed { field };
        let mut sequence = None;
        let mut start = None;
        let mut topics = Topics::new();
        let mut cursors = Cursors::default();
        let mut publishers = Publishers::default();
        for number in 0u32.. {
            let (kind, of, mut payload) = take_frame(&mut bytes, number)?;
            if *sequence.get_or_insert(of) != of {
                return Err(malformed("checkpoint sequence"));
            }
            match (kind, start) {
                (KIND_START, None) => {
                    let (found, version) = decode_start(&mut payload)?;
                    start = Some(found);
                    if version == CHECKPOINT_VERSION {
                        topics.deleted_before(Position(take_u64(&mut payload)?));
                    }
                }
                (KIND_TOPICS, Some(_)) => decode_topics(payload, &mut topics)?,
                (KIND_CURSORS, Some(_)) => decode_cursors(payload, &mut cursors)?,
                (KIND_PUBLISHERS, Some(_)) => publishers.decode(payload)?,
                (KIND_END, Some(start)) if take_u64(&mut payload)? == u64::from(number) => {
                    let commit_end = take_u64(&mut payload)?;
                    publishers.decoded();
                    return Ok(Checkpoint {
                        sequence: of,
                        start,
                        commit_end,
                        topics,
                        cursors,
                        publishers,
                    });
                }
                _ => return Err(malformed("checkpoint frame")),
            }
        }
        Err(malformed("checkpoint frames"))
    }
}

/// Takes the frame `number` off `bytes`: its kind, its sequence, its payload.
pub(crate) fn take_frame<'a>(
    bytes: &mut &'a [u8],
    number: u32,
) -> Result<(u32, u64, &'a [u8]), DecodeError> {
    let truncated = DecodeError::Truncated { field: "checkpoint frame" };
    let (head, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or(truncated.clone())?;
    let mut fields = &head[..];
    let kind = take_u32(&mut fields)?;
    let len = take_u32(&mut fields)? as usize;
    let sequence = take_u64(&mut fields)?;
    let found = take_u32(&mut fields)?;
    let crc = take_u32(&mut fields)?;
    let (payload, rest) = rest.split_at_checked(len).ok_or(truncated)?;
    if found != number || frame_crc(&head[..20], payload) != crc {
        return Err(DecodeError::Malformed { field: "checkpoint frame" });
    }
    *bytes = rest;
    Ok((kind, sequence, payload))
}

fn decode_start(bytes: &mut &[u8]) -> Result<(CheckpointStart, u32), DecodeError> {
    if take_u32(bytes)? != CHECKPOINT_MAGIC {
        return Err(DecodeError::Malformed { field: "checkpoint magic" });
    }
    let version = take_u32(bytes)?;
    if !(VERSION_WITHOUT_PUBLISHERS..=CHECKPOINT_VERSION).contains(&version) {
        return Err(DecodeError::Version { found: version as u8 });
    }
    let start = CheckpointStart {
        node_id: take_u64(bytes)?,
        log: LogKey::from_u64(take_u64(bytes)?)
            .ok_or(DecodeError::Malformed { field: "checkpoint log" })?,
        epoch: Epoch(take_u32(bytes)?),
        sealed: take_u32(bytes)? != 0,
        segment: take_u64(bytes)?,
        at: take_u64(bytes)?,
        commit: take_u64(bytes)?,
        position: Position(take_u64(bytes)?),
    };
    Ok((start, version))
}

fn decode_topics(mut bytes: &[u8], topics: &mut Topics) -> Result<(), DecodeError> {
    let malformed = DecodeError::Malformed { field: "checkpoint topic" };
    while !bytes.is_empty() {
        let id = TopicId(take_u32(&mut bytes)?);
        let lens = take_u32(&mut bytes)?;
        let (name, rest) =
            bytes.split_at_checked((lens & 0xffff) as usize).ok_or(malformed.clone())?;
        bytes = rest;
        let name = std::str::from_utf8(name).map_err(|_| malformed.clone())?;
        if topics.known_id(name).is_some() || topics.add(Arc::from(name)) != Some(id) {
            return Err(malformed);
        }
        let count = (lens >> 16) as u16;
        for _ in 0..count & !DELETED_BIT {
            let (partition, rest) = bytes.split_first_chunk::<2>().ok_or(malformed.clone())?;
            bytes = rest;
            let partition = Partition(u16::from_le_bytes(*partition));
            let state = topics.partition_mut(id, partition).ok_or(malformed.clone())?;
            state.next = Offset(take_u64(&mut bytes)?);
            state.start = Offset(take_u64(&mut bytes)?);
            if state.next < state.start {
                return Err(malformed);
            }
        }
        if count & DELETED_BIT != 0 {
            if topics.partitions(id).any(|(_, state)| state.start < state.next) {
                return Err(malformed);
            }
            topics.delete(id);
        }
    }
    Ok(())
}

fn decode_cursors(mut bytes: &[u8], cursors: &mut Cursors) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        match Record::decode(&mut bytes)? {
            Record::Cursor { group, cursor } => cursors.recovered(group, Some(cursor)),
            _ => return Err(DecodeError::Malformed { field: "checkpoint cursor" }),
        }
    }
    Ok(())
}

/// The file of a checkpoint: two in turn.
pub(crate) fn checkpoint_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(if sequence.is_multiple_of(2) { "checkpoint-a" } else { "checkpoint-b" })
}

/// Writes a whole checkpoint and syncs it. For a log that does not run.
pub(crate) fn write_checkpoint(
    storage: &dyn Storage,
    dir: &Path,
    start: CheckpointStart,
    sequence: u64,
    contents: &Contents<'_>,
) -> io::Result<()> {
    let mut encoder = CheckpointEncoder::new(start, sequence);
    let mut bytes = Vec::new();
    while !encoder.is_at_end() {
        bytes.extend_from_slice(&encoder.next_frame(*contents));
    }
    bytes.extend_from_slice(&encoder.end_frame(start.commit));
    let path = checkpoint_path(dir, sequence);
    let piece = PieceTask { dir: dir.into(), path, file: None, at: 0, bytes, last: true };
    piece.run(storage).map(|_| ())
}

/// One piece of a checkpoint for a helper thread.
#[derive(Debug)]
pub(crate) struct PieceTask {
    dir: PathBuf,
    path: PathBuf,
    file: Option<FileId>,
    at: u64,
    bytes: Vec<u8>,
    last: bool,
}

impl PieceTask {
    pub(crate) fn into_chore(self) -> Chore {
        Box::new(move |storage| ChoreDone(self.run(storage)))
    }

    fn run(self, storage: &dyn Storage) -> io::Result<ChoreOutcome> {
        assert!(self.file.is_some() == (self.at > 0), "the first piece opens the file");
        assert!(!self.bytes.is_empty(), "a piece is a frame at least");
        let (file, mut written) = match self.file {
            Some(file) => (file, Ok(())),
            None => {
                let file = storage.open(&self.path, OpenMode::Create, false)?;
                // The end of an attempt before must not make a whole of this one's beginning, which nothing says is durable.
                (file, storage.set_len(file, 0).and_then(|()| storage.sync(file)))
            }
        };
        written = written.and_then(|()| storage.write_at(file, self.at, &self.bytes));
        if self.last && written.is_ok() {
            written = storage
                .set_len(file, self.at + self.bytes.len() as u64)
                .and_then(|()| storage.sync(file))
                .and_then(|()| storage.sync_dir(&self.dir));
        }
        if self.last || written.is_err() {
            storage.close(file);
        }
        written?;
        Ok(ChoreOutcome::Checkpointed { file: (!self.last).then_some(file) })
    }
}

/// When a log writes its next checkpoint, and how far it is.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    next_sequence: u64,
    /// Where the replays of the newest and of the second newest checkpoint start.
    segments: [u64; 2],
    bytes_since: u64,
    wanted: bool,
    running: Option<Running>,
    /// Commit up to which the newest checkpoint knows everything.
    commit_end: u64,
}

#[derive(Debug)]
struct Running {
    encoder: CheckpointEncoder,
    segment: u64,
    file: Option<FileId>,
    at: u64,
    /// Set when all but the last frame is encoded: what must be durable first.
    commit_end: Option<u64>,
    last_sent: bool,
}

impl Checkpointer {
    /// After recovery from a checkpoint with `sequence` (0: none) whose replay starts in `segment`.
    pub(crate) fn new(sequence: u64, segment: u64, commit_end: u64) -> Self {
        assert!(sequence > 0 || (segment == 0 && commit_end == 0), "no checkpoint knows nothing");
        let segments = [segment, 0];
        let next_sequence = sequence + 1;
        Checkpointer {
            next_sequence,
            segments,
            bytes_since: 0,
            wanted: false,
            running: None,
            commit_end,
        }
    }

    pub(crate) fn committed(&mut self, bytes: u64) {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES as u64), "commits are whole blocks");
        self.bytes_since += bytes;
    }

    /// Someone waits for a newer checkpoint.
    pub(crate) fn wanted(&mut self) {
        self.wanted = true;
    }

    /// The log ends: whoever waited for a newer checkpoint gets the last one.
    pub(crate) fn wanted_no_more(&mut self) {
        self.wanted = false;
    }

    pub(crate) fn is_done(&self) -> bool {
        self.running.is_none() && !self.wanted && self.bytes_since == 0
    }

    /// Segments before it are in no checkpoint's replay.
    pub(crate) fn oldest_segment_needed(&self) -> u64 {
        assert!(self.segments[1] <= self.segments[0], "checkpoints move forward");
        self.segments[0].min(self.segments[1])
    }
}

impl Log {
    /// The next piece of a checkpoint, if one is due and may be written now.
    pub(crate) fn next_checkpoint_piece(&mut self) -> Option<PieceTask> {
        if self.checkpointer.running.is_none() {
            self.begin_checkpoint()?;
        }
        let running = self.checkpointer.running.as_mut()?;
        assert!(running.file.is_some() == (running.at > 0), "pieces go one after the other");
        let (bytes, last) = if !running.encoder.is_at_end() {
            let contents = Contents {
                topics: &self.topics,
                cursors: &self.cursors,
                publishers: &self.publishers,
            };
            (running.encoder.next_frame(contents), false)
        } else {
            let commit_end = *running.commit_end.get_or_insert(self.next_commit);
            if self.durable_commit_end < commit_end || running.last_sent {
                return None;
            }
            assert!(commit_end <= self.next_commit, "a checkpoint knows only commits that are");
            running.last_sent = true;
            (running.encoder.end_frame(commit_end), true)
        };
        let sequence = self.checkpointer.next_sequence;
        let (at, file) = (running.at, running.file);
        running.at += bytes.len() as u64;
        let path = checkpoint_path(&self.dir, sequence);
        Some(PieceTask { dir: self.dir.clone(), path, file, at, bytes, last })
    }

    fn begin_checkpoint(&mut self) -> Option<()> {
        let checkpointer = &self.checkpointer;
        let due = checkpointer.bytes_since >= self.options.checkpoint_every_bytes;
        let ending = self.ends_with_checkpoint() && checkpointer.bytes_since > 0;
        if !(due || ending || checkpointer.wanted) {
            return None;
        }
        assert!(self.checkpointer.running.is_none(), "one checkpoint is written at a time");
        let (segment, at, commit, position) = self.next_commit_place();
        assert!(self.durable_commit_end <= commit, "what is not durable is replayed");
        assert!(position <= self.positions.end(), "a replay starts in the log");
        let start = CheckpointStart {
            node_id: self.node_id,
            log: self.key,
            epoch: self.epoch,
            sealed: self.sealed,
            segment,
            at,
            commit,
            position,
        };
        self.checkpointer.bytes_since = 0;
        self.checkpointer.wanted = false;
        let encoder = CheckpointEncoder::new(start, self.checkpointer.next_sequence);
        self.checkpointer.running = Some(Running {
            encoder,
            segment,
            file: None,
            at: 0,
            commit_end: None,
            last_sent: false,
        });
        Some(())
    }

    pub(crate) fn on_checkpoint_piece(&mut self, done: ChoreDone) {
        let running = self.checkpointer.running.as_mut().expect("its pieces belong to it");
        match done.0 {
            Ok(ChoreOutcome::Checkpointed { file }) => running.file = file,
            Ok(other) => unreachable!("a checkpoint came to {other:?}"),
            Err(error) => {
                // The other file still stands, and so do the segments that it needs: try again later.
                tracing::warn!(log = %self.key, %error, "writing a checkpoint failed");
                self.checkpointer.running = None;
                self.checkpointer.wanted = !self.shutting_down;
                self.upkeep.checkpoint_failed(self.now);
                return;
            }
        }
        if running.last_sent {
            let Some(done) = self.checkpointer.running.take() else { return };
            let checkpointer = &mut self.checkpointer;
            assert!(checkpointer.segments[0] <= done.segment, "checkpoints move forward");
            checkpointer.segments = [done.segment, checkpointer.segments[0]];
            checkpointer.next_sequence += 1;
            let commit_end = done.commit_end.expect("the last frame names it");
            assert!(checkpointer.commit_end <= commit_end, "what is known stays known");
            assert!(commit_end <= self.durable_commit_end, "a checkpoint knows durable commits");
            checkpointer.commit_end = commit_end;
        }
    }
}

//! Retention by topic: moves the logical starts of topics whose events have outlived it, and tells which segments hold
//! nothing any more that is to be kept.
//!
//! Sealed segments are looked at from the oldest on, a bounded number of keys (topic and partition) a run, by their mapped
//! indexes. What a segment holds of a key expires as one: when all that was appended to the segment is older than the topic's
//! age, or when the sealed segments behind it hold enough bytes of the key. So an event lives at least as long as its
//! retention says, and goes with its segment.
//!
//! What a topic held that was deleted has expired in the same way; nobody else's events go for it.
//!
//! Bytes are told from the index: a key has that share of its segment that its runs span. Where batches of many keys
//! interleave in a commit this is their share, not their bytes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

use super::Log;
use crate::disk::Disk;
use crate::index::{KeySpan, Scale, SealedIndex};
use crate::segments::SegmentIndex;

/// How often the segments are looked at while something may expire.
const PASS_EVERY_US: u64 = 1_000_000;
/// Keys that one run looks at. Bounds the time of a cycle, with a look at up to 256 patterns for each topic.
const KEYS_A_RUN_MAX: usize = 512;
/// The active segment is sealed at the shortest age of any topic, but not more often.
const SEAL_AFTER_MIN_US: u64 = 60_000_000;
/// No pass is due.
const NEVER: Timestamp = Timestamp(u64::MAX);

/// For how long events of a topic are kept; whichever is over first ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// At least so long, in microseconds; 0: for ever.
    pub age_us: u64,
    /// At least so much of each partition; 0: all.
    pub bytes: u64,
}

/// What topics are kept by.
pub trait TopicRetention: Send + Sync + fmt::Debug {
    /// Another number: what was learned by the former is forgotten.
    fn version(&self) -> u64;
    /// What holds for a topic; none: its log's own retention.
    fn of(&self, topic: &str) -> Option<Keep>;
    /// The shortest age that any topic has, in microseconds.
    fn shortest_age_us(&self) -> Option<u64>;
}

/// The version of the rules, if there are any, and how many topics were deleted.
type Ruling = (Option<u64>, u64);

/// What a segment holds, as its keys were last looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    /// Of which rules and deletions this is true.
    ruling: Ruling,
    /// Keys that a rule of their topic keeps.
    is_kept: bool,
    /// Keys that only the log's own retention keeps.
    is_usual: bool,
    /// Some are kept for their bytes; true until more segments are counted.
    counted_end: Option<u64>,
    /// When the first of them may be too old.
    aged_at: Option<Timestamp>,
    /// When all of its events, and all before them, had been appended.
    appended_by: Timestamp,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    rules: Option<Arc<dyn TopicRetention>>,
    /// Topics that were deleted since the log was opened; one more if segments may hold what was deleted before.
    deletions: u64,
    /// Behind it stands nothing of a deleted topic.
    deleted_end: Position,
    /// There are rules or deletions.
    is_on: bool,
    /// Nobody has said yet whether there are rules: nothing goes.
    is_awaited: bool,
    walk: Option<Walk>,
    /// Bytes in sealed segments of each key whose topic is kept by bytes; expired ones not counted.
    bytes: HashMap<(TopicId, Partition), u64>,
    /// Segments up to this one are counted.
    counted_end: u64,
    next_pass_at: Timestamp,
    /// Behind it no logical start was moved but with its segment.
    expired_end: Position,
    /// Events that rules have let go.
    expired_events: u64,
}

/// A pass over the segments.
#[derive(Debug)]
struct Walk {
    /// First the bytes of segments that are not counted yet, then what expires.
    is_counting: bool,
    /// The segment that is looked at.
    segment: u64,
    /// The next key of it.
    key: usize,
    /// The scale of its runs, once a key was looked at.
    scale: Scale,
    /// When all events before the segment had been appended. Later than its own if the clock was set back since: what
    /// stands behind an event does not go before it.
    appended_by: Timestamp,
    verdict: Verdict,
    /// The rule of the last topic that was looked up.
    known: Option<(TopicId, Option<Keep>)>,
}

impl Retention {
    /// Of a log that was opened; `deleted_end`: events of deleted topics may stand before it.
    pub(crate) fn recovered(deleted_end: Option<Position>) -> Self {
        let Some(deleted_end) = deleted_end else { return Retention::default() };
        let (deletions, is_on) = (1, true);
        Retention {
            deletions,
            deleted_end,
            is_on,
            expired_end: deleted_end,
            ..Retention::default()
        }
    }

    /// A topic was deleted: what stands of it before `end` has expired, in each partition before an offset.
    pub(super) fn topic_deleted(
        &mut self,
        topic: TopicId,
        ends: &[(Partition, Offset)],
        end: Position,
    ) {
        assert!(self.deleted_end <= end, "positions rise");
        self.deletions += 1;
        self.is_on = true;
        self.deleted_end = end;
        self.expired_end = self.expired_end.max(end);
        for (partition, _) in ends {
            self.bytes.remove(&(topic, *partition));
        }
        self.next_pass_at = Timestamp(0);
        let ruling = self.ruling();
        match &mut self.walk {
            // What is counted is not counted twice.
            Some(walk) if walk.is_counting => walk.verdict.ruling = ruling,
            // What it has learned of its segment is not true any more.
            _ => self.walk = None,
        }
    }

    fn ruling(&self) -> Ruling {
        (self.rules.as_ref().map(|rules| rules.version()), self.deletions)
    }

    /// Whether a reader at this position must look at logical starts.
    pub(crate) fn may_be_expired(&self, position: Position) -> bool {
        position < self.expired_end
    }

    /// At which age the active segment is sealed for a rule's sake.
    pub(crate) fn seal_after_us(&self) -> Option<u64> {
        let age = self.rules.as_ref()?.shortest_age_us()?;
        Some(age.max(SEAL_AFTER_MIN_US))
    }

    /// Whether the rules let a segment go; `usual`: the log's own retention does.
    pub(crate) fn lets_go(&self, verdict: Option<Verdict>, is_readable: bool, usual: bool) -> bool {
        if self.is_awaited {
            return false;
        }
        if !self.is_on {
            return usual;
        }
        match verdict {
            Some(verdict) if verdict.ruling == self.ruling() => {
                !verdict.is_kept && (!verdict.is_usual || usual)
            }
            // Without an index nobody knows what it holds.
            _ => usual && !is_readable,
        }
    }

    /// A pass is under way, or when the next is due.
    pub(crate) fn due_at(&self, now: Timestamp) -> Option<Timestamp> {
        let at = if self.walk.is_some() { now } else { self.next_pass_at };
        (self.is_on && at != NEVER).then_some(at)
    }
}

impl Log {
    /// No segment goes until it is said what topics are kept by ([`Log::keep_topics_by`]): a start must not take what a
    /// topic keeps longer than its log does.
    pub fn await_topic_rules(&mut self) {
        assert!(self.retention.rules.is_none(), "they are awaited before they are there");
        self.retention.is_awaited = true;
    }

    /// What topics are kept by from now on; none: only by what the log's options say.
    pub fn keep_topics_by(&mut self, rules: Option<Arc<dyn TopicRetention>>) {
        self.retention.is_awaited = false;
        let version = |rules: &Option<Arc<dyn TopicRetention>>| rules.as_ref().map(|r| r.version());
        if version(&self.retention.rules) == version(&rules) {
            return;
        }
        let Retention { expired_end, expired_events, deletions, deleted_end, .. } = self.retention;
        let is_on = rules.is_some() || deletions > 0;
        // Starts may have been moved in an earlier life.
        let known_end = if rules.is_some() { self.positions.durable_end() } else { Position(0) };
        let expired_end = expired_end.max(known_end);
        let next_pass_at = self.now;
        self.retention = Retention {
            rules,
            deletions,
            deleted_end,
            is_on,
            next_pass_at,
            expired_end,
            expired_events,
            ..Retention::default()
        };
        assert!(self.retention.walk.is_none(), "what was begun by other rules is forgotten");
    }

    /// Behind it no event has expired whose segment is still there.
    #[must_use]
    pub fn expired_end(&self) -> Position {
        self.retention.expired_end
    }

    /// Events that topics' own retention has let go since the log was opened.
    #[must_use]
    pub fn expired_events(&self) -> u64 {
        self.retention.expired_events
    }

    /// Goes on with a pass, or begins one that is due.
    pub(super) fn look_for_expired(&mut self, disk: &mut impl Disk) {
        if !self.retention.is_on || self.shutting_down {
            return;
        }
        let mut walk = match self.retention.walk.take() {
            Some(walk) => walk,
            None if self.now < self.retention.next_pass_at => return,
            None => Walk { is_counting: true, ..Walk::of(self.retention.ruling()) },
        };
        let rules = self.retention.rules.clone();
        let keep_of = |name: &Arc<str>| rules.as_ref().and_then(|rules| rules.of(name));
        let Some((number, index, appended_by)) = self.segment_to_look_at(&mut walk, disk) else {
            return;
        };
        walk.verdict.appended_by = appended_by;
        let Some(index) = index else {
            // Its index is on its way.
            self.retention.walk = Some(walk);
            return;
        };
        let is_oldest = self.segments.sealed.front().is_some_and(|front| front.number == number);
        let end = (walk.key + KEYS_A_RUN_MAX).min(index.key_count());
        if walk.key == 0 {
            walk.scale = index.scale(self.segments.sealed_mut(number).map_or(0, |s| s.end_bytes));
        }
        for key in walk.key..end {
            let span = index.key_span(key, walk.scale);
            let keep = match walk.known {
                Some((topic, keep)) if topic == span.topic => keep,
                _ => self.topics.name(span.topic).and_then(keep_of),
            };
            walk.known = Some((span.topic, keep));
            if walk.is_counting {
                self.count_key(&span, keep);
            } else {
                self.look_at_key(&mut walk, &span, keep, is_oldest);
            }
        }
        walk.key = end;
        if end == index.key_count() {
            self.looked_at(number, &mut walk);
        }
        self.retention.walk = Some(walk);
    }

    /// The segment that a walk is at, its index as far as it is there, and when all its events, and all before them, had been
    /// appended. None: the walk is over for now.
    fn segment_to_look_at(
        &mut self,
        walk: &mut Walk,
        disk: &mut impl Disk,
    ) -> Option<(u64, Option<Arc<SealedIndex>>, Timestamp)> {
        loop {
            let at = self.segments.sealed.partition_point(|sealed| sealed.number < walk.segment);
            let Some(sealed) = self.segments.sealed.get(at) else {
                if !std::mem::take(&mut walk.is_counting) {
                    self.retention.next_pass_at = self.pass_after_whole_one();
                    return None;
                }
                *walk = Walk { is_counting: false, ..Walk::of(walk.verdict.ruling) };
                continue;
            };
            let number = sealed.number;
            if sealed.number != walk.segment {
                (walk.segment, walk.key) = (number, 0);
                walk.verdict = Verdict::of(walk.verdict.ruling);
            }
            let is_done = if walk.is_counting {
                number <= self.retention.counted_end
            } else {
                let held = sealed.verdict.filter(|v| v.holds(walk, &self.retention, self.now));
                walk.appended_by =
                    held.map_or(walk.appended_by, |held| held.appended_by.max(walk.appended_by));
                held.is_some()
            };
            if is_done || self.index_is_lacking(number) {
                walk.segment = number + 1;
                continue;
            }
            match &sealed.index {
                SegmentIndex::Mapped(index) => {
                    let index = Arc::clone(index);
                    let appended_by = self.appended_by(at, &index).max(walk.appended_by);
                    return Some((number, Some(index), appended_by));
                }
                SegmentIndex::Unmapped => {
                    self.want_index(number, disk);
                    return Some((number, None, Timestamp(0)));
                }
                // Not durable, or about to be written: whatever is behind it is younger.
                SegmentIndex::Memory(_) => {
                    self.retention.next_pass_at = Timestamp(self.now.0 + PASS_EVERY_US);
                    return None;
                }
            }
        }
    }

    /// When all events of a sealed segment, by its place in the chain, had been appended. An index tells when commits were
    /// begun, and the last one may have waited for the disk and taken events for long; but what comes behind it was begun
    /// later.
    fn appended_by(&self, at: usize, index: &SealedIndex) -> Timestamp {
        let Some((position, begun)) = index.last_commit() else { return self.now };
        let (sealed, active) = (&self.segments.sealed[at], self.segments.active.as_ref());
        if position == sealed.end_position {
            // It holds no event.
            return begun;
        }
        let later = self.segments.sealed.range(at + 1..).find_map(|later| later.first_time);
        let later = later.or_else(|| active.and_then(|active| active.index.first_time()));
        later.unwrap_or(self.active_at).max(begun)
    }

    /// When the next pass is due after one that has looked at every sealed segment. Deletions need no other once what
    /// they have left is sealed.
    fn pass_after_whole_one(&self) -> Timestamp {
        let active = self.segments.active.as_ref();
        let is_sealed = active.is_none_or(|a| a.base_position >= self.retention.deleted_end);
        if self.retention.rules.is_none() && is_sealed {
            return NEVER;
        }
        Timestamp(self.now.0 + PASS_EVERY_US)
    }

    fn count_key(&mut self, span: &KeySpan, keep: Option<Keep>) {
        let start = self.logical_start(span.topic, span.partition);
        if keep.is_some_and(|keep| keep.bytes > 0) && start < span.end {
            *self.retention.bytes.entry((span.topic, span.partition)).or_default() += span.bytes;
        }
    }

    fn look_at_key(
        &mut self,
        walk: &mut Walk,
        span: &KeySpan,
        keep: Option<Keep>,
        is_oldest: bool,
    ) {
        let start = self.logical_start(span.topic, span.partition);
        if span.end <= start {
            return;
        }
        let Some(keep) = keep else {
            walk.verdict.is_usual = true;
            return;
        };
        let key = (span.topic, span.partition);
        let all = self.retention.bytes.get(&key).copied().unwrap_or(0);
        let aged_at = Timestamp(walk.verdict.appended_by.0.saturating_add(keep.age_us));
        let is_aged = keep.age_us > 0 && aged_at <= self.now;
        // Older bytes of the key go first.
        let is_first = start >= span.first || is_oldest;
        let is_over = keep.bytes > 0 && is_first && all.saturating_sub(span.bytes) >= keep.bytes;
        if is_aged || is_over {
            self.topics.expired(span.topic, span.partition, span.end);
            self.retention.expired_events += span.end.0 - start.0.max(span.first.0);
            if let Some(bytes) = self.retention.bytes.get_mut(&key) {
                *bytes = bytes.saturating_sub(span.bytes);
            }
            let end = self.segments.sealed_mut(walk.segment).map(|sealed| sealed.end_position);
            let end = end.unwrap_or_default();
            assert!(end <= self.positions.durable_end(), "only durable events expire");
            // A deletion takes also what is not durable yet.
            self.retention.expired_end = end.max(self.retention.expired_end);
            return;
        }
        walk.verdict.is_kept = true;
        if keep.bytes > 0 {
            walk.verdict.counted_end = Some(self.retention.counted_end);
        }
        if keep.age_us > 0 {
            let first = walk.verdict.aged_at.map_or(aged_at, |first| first.min(aged_at));
            walk.verdict.aged_at = Some(first);
        }
    }

    /// All keys of a segment were looked at.
    fn looked_at(&mut self, number: u64, walk: &mut Walk) {
        if walk.is_counting {
            assert!(self.retention.counted_end < number, "a segment is counted once");
            self.retention.counted_end = number;
        } else if let Some(sealed) = self.segments.sealed_mut(number) {
            sealed.verdict = Some(walk.verdict);
            walk.appended_by = walk.verdict.appended_by;
        }
        walk.segment = number + 1;
        walk.key = 0;
        walk.verdict = Verdict::of(walk.verdict.ruling);
    }
}

impl Verdict {
    fn of(ruling: Ruling) -> Self {
        Verdict {
            ruling,
            is_kept: false,
            is_usual: false,
            counted_end: None,
            aged_at: None,
            appended_by: Timestamp(0),
        }
    }

    /// Whether another look would find the same.
    fn holds(&self, walk: &Walk, retention: &Retention, now: Timestamp) -> bool {
        self.ruling == walk.verdict.ruling
            && self.aged_at.is_none_or(|at| now < at)
            && self.counted_end.is_none_or(|end| end == retention.counted_end)
    }
}

impl Walk {
    fn of(ruling: Ruling) -> Self {
        let verdict = Verdict::of(ruling);
        let scale = Scale::default();
        let appended_by = Timestamp(0);
        Walk { is_counting: false, segment: 0, key: 0, scale, appended_by, verdict, known: None }
    }
}

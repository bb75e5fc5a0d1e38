//! Cursors of groups: kept by the log, written with its commits, held by its checkpoints.

use std::collections::VecDeque;

use codec::ids::Position;
use rustc_hash::FxHashMap;

use crate::control::{Record, encode_cursor};

/// How far one group has come in one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The position after the last one that was handed to dispatch.
    pub next: Position,
    /// Runs of positions below `next` that are not settled yet: rising, apart from each other, ends exclusive.
    pub unsettled: Vec<(Position, Position)>,
    /// Where each subscription of the group starts: a subscription sees no event before its start.
    pub starts: Vec<(u64, Position)>,
}

impl Cursor {
    /// Everything before this position is settled.
    #[must_use]
    pub fn low(&self) -> Position {
        let low = self.unsettled.first().map_or(self.next, |run| run.0);
        assert!(low <= self.next, "what is not settled was handed to dispatch before");
        low
    }

    /// Whether the runs are as their description says.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let mut end = None;
        for (from, to) in &self.unsettled {
            if from >= to || end.is_some_and(|end| end >= *from) || *to > self.next {
                return false;
            }
            end = Some(*to);
        }
        true
    }
}

/// The number of a change of a cursor, rising within the life of a log object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CursorMark(pub u64);

/// All cursors of a log and which of them are yet to be written.
///
/// Invariant: `dirty` is sorted by mark, and a group stands in it exactly when its cursor says so, once;
/// `durable_mark <= encoded_mark() <= last_mark`.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    /// Its order reaches the checkpoints, so it must not change from run to run: the hasher has no random keys. It need not
    /// resist anyone either, since no peer chooses the numbers.
    cursors: FxHashMap<u64, Kept>,
    dirty: VecDeque<(u64, CursorMark)>,
    last_mark: CursorMark,
    durable_mark: CursorMark,
}

#[derive(Debug, Default)]
struct Kept {
    /// `None`: removed, and the removal is still to be written.
    cursor: Option<Cursor>,
    dirty: bool,
}

impl Cursors {
    /// A cursor as recovery found it.
    pub(crate) fn recovered(&mut self, group: u64, cursor: Option<Cursor>) {
        assert!(self.dirty.is_empty(), "recovery is over before a cursor changes");
        match cursor {
            Some(cursor) => {
                self.cursors.insert(group, Kept { cursor: Some(cursor), dirty: false });
            }
            None => {
                self.cursors.remove(&group);
            }
        }
    }

    /// Sets (or, with `None`, removes) a cursor.
    pub(crate) fn put(&mut self, group: u64, cursor: Option<Cursor>) -> CursorMark {
        assert!(cursor.as_ref().is_none_or(Cursor::is_well_formed), "runs rise: {cursor:?}");
        self.last_mark = CursorMark(self.last_mark.0 + 1);
        let kept = self.cursors.entry(group).or_default();
        kept.cursor = cursor;
        if !kept.dirty {
            kept.dirty = true;
            self.dirty.push_back((group, self.last_mark));
        }
        self.check();
        assert!(self.encoded_mark() < self.last_mark, "a change is yet to be written");
        self.last_mark
    }

    pub(crate) fn get(&self, group: u64) -> Option<&Cursor> {
        self.cursors.get(&group)?.cursor.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Cursor)> {
        self.cursors.iter().filter_map(|(group, kept)| Some((*group, kept.cursor.as_ref()?)))
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Encodes changed cursors while they fit into `room` bytes, the longest changed first. They count as written:
    /// a commit that fails stops the log.
    pub(crate) fn encode_dirty(&mut self, room: usize, out: &mut Vec<u8>) {
        while let Some((group, _)) = self.dirty.front().copied() {
            let kept = self.cursors.get_mut(&group).expect("a changed cursor is kept");
            assert!(kept.dirty, "only changed cursors wait to be written");
            let len = kept.cursor.as_ref().map_or(16, Record::cursor_len);
            if out.len() + len > room {
                return;
            }
            kept.dirty = false;
            match &kept.cursor {
                Some(cursor) => encode_cursor(group, cursor, out),
                None => {
                    Record::CursorRemoved { group }.encode(out);
                    self.cursors.remove(&group);
                }
            }
            self.dirty.pop_front();
            assert!(out.len() <= room, "a record is as long as was announced");
        }
        self.check();
    }

    /// The bytes that the first changed cursor takes.
    pub(crate) fn first_dirty_len(&self) -> Option<usize> {
        let (group, _) = self.dirty.front()?;
        let kept = self.cursors.get(group).expect("a changed cursor is kept");
        assert!(kept.dirty, "only changed cursors wait to be written");
        let cursor = kept.cursor.as_ref();
        Some(cursor.map_or(16, Record::cursor_len))
    }

    /// Every change up to this mark has been encoded.
    pub(crate) fn encoded_mark(&self) -> CursorMark {
        let Some((_, first)) = self.dirty.front() else { return self.last_mark };
        assert!(CursorMark(0) < *first, "changes are numbered from 1");
        CursorMark(first.0 - 1)
    }

    pub(crate) fn durable_mark(&self) -> CursorMark {
        self.durable_mark
    }

    pub(crate) fn synced(&mut self, mark: CursorMark) {
        assert!(self.durable_mark <= mark, "marks become durable in order");
        assert!(mark <= self.encoded_mark(), "only what was written can be durable");
        self.durable_mark = mark;
    }

    fn check(&self) {
        let encoded = self.encoded_mark();
        assert!(self.durable_mark <= encoded, "durable implies written: {self:?}");
        assert!(encoded <= self.last_mark, "only what was changed is written");
        assert!(self.dirty.len() <= self.cursors.len(), "a group waits once at most");
        // Only where it is cheap: a shard may hold a cursor for each of very many groups.
        if cfg!(debug_assertions) && self.cursors.len() <= 64 {
            assert!(self.dirty.iter().is_sorted_by_key(|(_, mark)| *mark), "the oldest goes first");
            let changed = self.cursors.values().filter(|kept| kept.dirty).count();
            assert_eq!(changed, self.dirty.len(), "every change waits to be written");
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let each = size_of::<(u64, Kept)>() + size_of::<(u64, CursorMark)>();
        self.cursors.capacity() * each
    }
}

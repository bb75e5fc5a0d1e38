//! The life of a commit from its flight on: submitted, written, durable.
//!
//! `durable_end` moves only when every commit up to it is known to be durable, and what failed is never tried again:
//!
//! * a commit for which somebody waits until it is durable is a synced write, and so durable as that returns;
//! * of any other ([`Sync::Behind`]) the write returning makes it *written*; durable makes it a sync of its file that
//!   was submitted after that. One sync runs at a time, and it covers commits of one file: `durable_end` passes into the
//!   next segment only when the one before it is synced.
//!
//! One log has commits of both kinds where topics have different ack levels. A synced write says nothing of the writes
//! before it: where these are not durable, a sync of them begins at once.

use std::collections::VecDeque;
use std::io;

use codec::ids::{Position, Timestamp};

use super::commits::Closed;
use super::{Log, micros};
use crate::cursor::CursorMark;
use crate::disk::{Blocks, Disk, DiskOp, Ticket};
use crate::storage::FileId;

/// Bytes on their way from which on a write is a large one.
const LARGE_WRITE_BYTES: u64 = 128 << 10;
/// Least that is written beside a large write.
const BESIDE_LARGE_BYTES_MIN: usize = 256 << 10;

/// A commit that was given to the disk and is not known to be durable.
#[derive(Debug)]
struct Flight {
    ticket: Ticket,
    number: u64,
    file: FileId,
    bytes: u64,
    end: Position,
    cursors: CursorMark,
    /// Its write is a synced one.
    is_synced: bool,
    returned: bool,
    /// When it was first known that its write and those before it had returned.
    written_at: Timestamp,
}

/// A sync on its way.
#[derive(Clone, Copy, Debug)]
struct Syncing {
    ticket: Ticket,
    /// It covers the commits before this one: their writes had returned as it was submitted.
    commit_end: u64,
}

/// Commits that were submitted and are not durable, in their order.
///
/// Invariants: the writes of the first `written` of them have returned, that of the next has not; `plain` of all of them
/// are not synced with their writes.
#[derive(Debug, Default)]
pub(super) struct Flights {
    commits: VecDeque<Flight>,
    written: usize,
    plain: usize,
    /// Everything before this commit was covered by a sync.
    covered_end: u64,
    /// Writes that have not returned. One may hold several commits.
    writes: usize,
    /// Bytes of all of them.
    bytes: u64,
    /// Bytes of those that are written.
    written_bytes: u64,
    syncing: Option<Syncing>,
}

impl Flights {
    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    /// Commits that are not durable.
    pub(super) fn len(&self) -> usize {
        self.commits.len()
    }

    /// Writes that have not returned.
    pub(super) fn writes(&self) -> usize {
        self.writes
    }

    /// Commits whose writes, or those of earlier ones, have not returned.
    pub(super) fn flying(&self) -> usize {
        self.commits.len() - self.written
    }

    /// Bytes of the commits whose writes, or those of earlier ones, have not returned.
    fn flying_bytes(&self) -> u64 {
        self.bytes - self.written_bytes
    }

    fn submitted(&mut self, flight: Flight) {
        let last = self.commits.back();
        assert!(
            last.is_none_or(|last| last.number + 1 == flight.number),
            "commits are submitted in order, each once"
        );
        self.bytes += flight.bytes;
        self.plain += usize::from(!flight.is_synced);
        self.commits.push_back(flight);
    }

    /// Whether a commit for which somebody waits is behind one that a sync must cover.
    fn is_sync_awaited(&self) -> bool {
        let first = self.commits.front();
        self.plain < self.commits.len() && first.is_some_and(|first| !first.is_synced)
    }

    /// A write has returned. `false`: of a commit that counts no more.
    fn returned(&mut self, ticket: Ticket) -> bool {
        let flying = self.commits.range_mut(self.written..);
        let mut commits = 0;
        for flight in flying.filter(|flight| flight.ticket == ticket) {
            assert!(!flight.returned, "a write returns once");
            flight.returned = true;
            commits += 1;
        }
        if commits > 0 {
            assert!(self.writes > 0, "what returns was submitted");
            self.writes -= 1;
        }
        commits > 0
    }

    /// The number of a commit whose write is under way.
    fn number(&self, ticket: Ticket) -> Option<u64> {
        let mut flying = self.commits.range(self.written..);
        flying.find(|flight| flight.ticket == ticket).map(|flight| flight.number)
    }

    /// Moves the border of what is written over all that has returned. Returns where that ends if it has moved.
    fn written(&mut self, now: Timestamp) -> Option<Position> {
        let mut end = None;
        while let Some(flight) = self.commits.get_mut(self.written).filter(|next| next.returned) {
            flight.written_at = now;
            end = Some(flight.end);
            self.written_bytes += flight.bytes;
            self.written += 1;
        }
        assert!(self.written_bytes <= self.bytes, "what is written was submitted");
        end
    }

    /// A sync is submitted: it covers what is written of the oldest commit's file, which comes back.
    fn sync_submitted(&mut self, ticket: Ticket) -> FileId {
        assert!(self.syncing.is_none(), "one sync runs at a time");
        let mut written = self.commits.range(..self.written);
        let first = written.next().expect("a sync has something to cover");
        let of_file = written.take_while(|flight| flight.file == first.file);
        let commit_end = of_file.last().map_or(first.number, |last| last.number) + 1;
        self.syncing = Some(Syncing { ticket, commit_end });
        first.file
    }

    /// The sync has ended: the commits before the returned one were covered. `None`: it counts no more.
    fn sync_ended(&mut self, ticket: Ticket) -> Option<u64> {
        let ended = self.syncing.take_if(|syncing| syncing.ticket == ticket)?;
        Some(ended.commit_end)
    }

    /// The oldest commit, if it is durable: its write has returned and was a synced one, or a sync has covered it.
    fn pop_durable(&mut self) -> Option<Flight> {
        let covered_end = self.covered_end;
        let is_durable = |first: &&Flight| first.is_synced || first.number < covered_end;
        self.commits.front().filter(|first| first.returned).filter(is_durable)?;
        assert!(self.written > 0, "the first commit that has returned is written");
        self.written -= 1;
        let flight = self.pop()?;
        self.plain -= usize::from(!flight.is_synced);
        self.written_bytes -= flight.bytes;
        Some(flight)
    }

    fn pop(&mut self) -> Option<Flight> {
        let flight = self.commits.pop_front()?;
        self.bytes -= flight.bytes;
        assert!(self.bytes > 0 || self.commits.is_empty(), "a commit has bytes");
        Some(flight)
    }
}

impl Log {
    /// Closes the open commit if one may fly, and submits what waits.
    pub(super) fn submit_commits(&mut self, clock_stands: bool, disk: &mut impl Disk) -> u32 {
        let mut submitted = 0;
        while self.may_submit() && !self.is_too_little() {
            if self.closed.is_empty() {
                if self.open.is_none() || self.is_held_back(clock_stands) {
                    break;
                }
                self.close_commit();
            }
            if self.is_held_up() {
                break;
            }
            submitted += self.submit_closed(disk);
        }
        submitted
    }

    /// Whether one more write may fly.
    pub(super) fn may_submit(&self) -> bool {
        self.flights.writes() < self.options.commits_in_flight_max
    }

    /// Whether what waits is too little to be written beside a large write: it would take the disk nearly as long, and
    /// what comes meanwhile would wait for both.
    fn is_too_little(&self) -> bool {
        if self.flights.flying_bytes() < LARGE_WRITE_BYTES {
            return false;
        }
        let open = self.open.as_ref().map_or(0, |open| open.used);
        self.closed_bytes() + open < BESIDE_LARGE_BYTES_MIN
    }

    /// Whether the next commit must wait until more of what is written is durable. Appends find no room soon after.
    fn is_held_up(&self) -> bool {
        let is_behind = self.flights.plain > 0;
        let unsynced_bytes = |next: &Closed| self.flights.bytes + next.bytes.len() as u64;
        let max = self.options.unsynced_bytes_max;
        is_behind && self.closed.front().is_some_and(|next| unsynced_bytes(next) > max)
    }

    /// Submits the oldest commit that waits, in one write with those that follow it in its file.
    fn submit_closed(&mut self, disk: &mut impl Disk) -> u32 {
        let Some(first) = self.closed.pop_front() else { return 0 };
        let ticket = self.take_ticket();
        let (file, at) = (first.file, first.at);
        let mut bytes = Blocks::from(first.bytes.clone());
        let durable = first.is_awaited;
        self.commit_submitted(ticket, &first);
        while let Some(next) = self.closed.front() {
            let follows = next.file == file && next.at == at + bytes.len() as u64;
            let len = bytes.len() + next.bytes.len();
            let is_large = len > self.options.commit_bytes_max;
            let is_other = next.is_awaited != durable;
            if !follows
                || is_other
                || is_large
                || bytes.count() == Blocks::PIECES_MAX
                || self.is_held_up()
            {
                break;
            }
            bytes.push(next.bytes.clone());
            let next = self.closed.pop_front().expect("looked at just now");
            self.commit_submitted(ticket, &next);
        }
        self.flights.writes += 1;
        assert!(self.flights.writes <= self.options.commits_in_flight_max, "few writes fly");
        let len = u32::try_from(bytes.len()).expect("a write is far below 4 GiB");
        disk.submit(self.key, DiskOp::Write { ticket, file, at, bytes, durable });
        len
    }

    fn commit_submitted(&mut self, ticket: Ticket, closed: &Closed) {
        let &Closed { number, file, end, cursors, is_awaited, .. } = closed;
        assert_eq!(
            number,
            self.durable_commit_end + self.flights.len() as u64,
            "commits are submitted in order, each once"
        );
        self.flights.submitted(Flight {
            ticket,
            number,
            file,
            bytes: closed.bytes.len() as u64,
            end,
            cursors,
            is_synced: is_awaited,
            returned: false,
            written_at: Timestamp(0),
        });
        self.positions.submitted(end);
    }

    /// A commit's write has returned.
    pub(super) fn on_written(&mut self, ticket: Ticket, result: io::Result<()>) {
        if let Err(error) = result {
            let Some(number) = self.flights.number(ticket) else { return };
            return self.stop_writing(format!("commit {number} failed: {error}"));
        }
        if !self.flights.returned(ticket) {
            return;
        }
        if let Some(end) = self.flights.written(self.now) {
            self.positions.written(end);
        }
        self.note_durable();
        self.check_commits();
    }

    /// When the next sync is to begin: `None` while nothing waits for one, or one is under way.
    pub(super) fn sync_due_at(&self) -> Option<Timestamp> {
        let oldest = self.flights.commits.front().filter(|_| self.flights.written > 0)?;
        let wait = if self.flights.is_sync_awaited() { 0 } else { micros(self.options.sync_after) };
        let due = oldest.written_at.0.saturating_add(wait);
        self.flights.syncing.is_none().then_some(Timestamp(due))
    }

    /// Submits a sync if one is due. A clock that stands still says nothing of the time that has passed: then it is.
    pub(super) fn submit_sync(&mut self, clock_stands: bool, disk: &mut impl Disk) {
        let Some(due) = self.sync_due_at() else { return };
        let is_due = due <= self.now || clock_stands || self.shutting_down;
        let is_much = self.flights.written_bytes >= self.options.sync_bytes;
        if is_due || is_much || self.is_held_up() {
            let ticket = self.take_ticket();
            let file = self.flights.sync_submitted(ticket);
            disk.submit(self.key, DiskOp::Sync { ticket, file });
        }
    }

    /// A sync has ended.
    pub(super) fn on_synced(&mut self, ticket: Ticket, result: io::Result<()>) {
        let Some(commit_end) = self.flights.sync_ended(ticket) else { return };
        if let Err(error) = result {
            // The system may have dropped what it could not write: a second sync would succeed and mean nothing.
            let first = self.durable_commit_end;
            return self.stop_writing(format!("syncing commits from {first} on failed: {error}"));
        }
        self.flights.covered_end = self.flights.covered_end.max(commit_end);
        self.note_durable();
        assert!(commit_end <= self.durable_commit_end, "a sync that returned covers what it said");
        self.check_commits();
    }

    /// Takes note of what has become durable.
    fn note_durable(&mut self) {
        while let Some(flight) = self.flights.pop_durable() {
            self.became_durable(&flight);
        }
    }

    fn became_durable(&mut self, flight: &Flight) {
        assert_eq!(flight.number, self.durable_commit_end, "commits become durable in order");
        self.durable_commit_end = flight.number + 1;
        self.positions.synced(flight.end);
        self.cursors.synced(flight.cursors);
        self.cache.synced(flight.number);
    }

    /// A write or a sync has failed. What is on its way beside it never counts, whatever it returns.
    fn stop_writing(&mut self, why: String) {
        let covered_end = self.flights.covered_end;
        self.flights = Flights { covered_end, ..Flights::default() };
        self.closed.clear();
        self.stop(why);
    }
}

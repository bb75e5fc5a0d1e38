//! What a reader has asked the disk for: the window that it reads from, and those that are read ahead of it.
//!
//! While one window is being read from, the next is on its way, so that neither the disk nor the shard waits for the
//! other. What is known to be wanted in small pieces (an index says so) is asked for in several reads at once. All of
//! a log's readers share one limit; a reader beyond it is told so and comes back.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use codec::header::HEADER_BYTES;
use codec::limits::BODY_BYTES_MAX;

use crate::aligned::{BLOCK_BYTES, block_ceil};
use crate::disk::Ticket;
use crate::log::batch_slot_bytes;

/// Size of a reader's first window; it doubles while the reader goes on, up to the maximum.
const WINDOW_BYTES_MIN: u64 = 64 << 10;
/// Two of these keep a fast disk busy; more would only hold memory.
const WINDOW_BYTES_MAX: u64 = 512 << 10;
/// Reads one reader may have in flight, when an index names small pieces far apart.
const WINDOWS_MAX: usize = 16;
/// Bytes of one reader's windows; one batch of any size always fits alone.
const WINDOWS_BYTES_MAX: u64 = 2 * WINDOW_BYTES_MAX;

/// A part of a segment that is to be read: `at` is the start of a batch, `end` the end of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) at: u64,
    pub(crate) end: u64,
}

/// A read, and what came of it.
#[derive(Debug)]
struct Window {
    segment: u64,
    at: u64,
    len: u64,
    /// Start of a batch in it.
    first: u64,
    /// What is wanted ends here.
    stretch_end: u64,
    ticket: Ticket,
    bytes: Option<Bytes>,
    /// Its part of the limit of all readers, given back with it.
    _held: Held,
}

/// One reader's windows, in the order in which they are read.
#[derive(Debug)]
pub(crate) struct Windows {
    list: VecDeque<Window>,
    /// Size of the next window of a long stretch.
    grow_to: u64,
    /// A window has become the first: time to read ahead.
    is_new: bool,
    alive: Arc<()>,
}

/// What stands at a place.
#[derive(Debug)]
pub(crate) enum AtPlace {
    /// These bytes, which start in the file at `at`. `is_last`: the file has no more.
    Bytes {
        bytes: Bytes,
        at: u64,
        is_last: bool,
    },
    /// The disk is at it.
    Pending,
    /// Nothing that was read or asked for holds the place.
    Missing,
    Failed(io::Error),
}

impl Window {
    fn end(&self) -> u64 {
        self.at + self.len
    }

    fn holds(&self, segment: u64, at: u64) -> bool {
        self.segment == segment && self.at <= at && at < self.end()
    }

    /// The file had less than was asked for: what is missing will not come by reading again.
    fn is_cut(&self) -> bool {
        self.bytes.as_ref().is_some_and(|bytes| (bytes.len() as u64) < self.len)
    }

    /// Where the first batch starts that is not whole in here, and the least bytes it needs. A guess from unchecked
    /// lengths: a wrong one costs a read.
    fn next_batch(&self) -> Option<(u64, u64)> {
        let bytes = self.bytes.as_ref()?;
        let mut at = self.first;
        loop {
            let rest = usize::try_from(at.checked_sub(self.at)?).ok()?;
            let Some(rest) = bytes.get(rest..).filter(|rest| !rest.is_empty()) else {
                return Some((at, HEADER_BYTES as u64));
            };
            if !at.is_multiple_of(BLOCK_BYTES as u64) && rest.starts_with(&[0; 8]) {
                at = block_ceil(at);
                continue;
            }
            let Some(head) = rest.first_chunk::<HEADER_BYTES>() else {
                return Some((at, HEADER_BYTES as u64));
            };
            let body_len = u32::from_le_bytes([head[16], head[17], head[18], head[19]]);
            if body_len > BODY_BYTES_MAX {
                return None;
            }
            let slot = batch_slot_bytes(body_len as usize);
            if rest.len() < slot {
                return Some((at, slot as u64));
            }
            at += slot as u64;
        }
    }
}

impl Windows {
    pub(crate) fn new() -> Self {
        Windows {
            list: VecDeque::new(),
            grow_to: WINDOW_BYTES_MIN,
            is_new: false,
            alive: Arc::new(()),
        }
    }

    /// Bytes read or asked for.
    pub(crate) fn bytes(&self) -> u64 {
        self.list.iter().map(|window| window.len).sum()
    }

    /// Gives up all of it.
    pub(crate) fn release(&mut self, reads: &mut Reads) {
        for window in self.list.drain(..) {
            reads.abandon(window.ticket);
        }
        self.grow_to = WINDOW_BYTES_MIN;
    }

    /// What stands at byte `at` of a segment. Windows before it are given up; so is the first one when `needed` bytes
    /// from there go beyond it.
    pub(crate) fn look(
        &mut self,
        (segment, at): (u64, u64),
        needed: u64,
        reads: &mut Reads,
    ) -> AtPlace {
        loop {
            let Some(first) = self.list.front_mut() else { return AtPlace::Missing };
            let may_be_whole = at + needed <= first.end();
            if !first.holds(segment, at) || (!may_be_whole && !first.is_cut()) {
                reads.abandon(first.ticket);
                self.list.pop_front();
                self.is_new = true;
                continue;
            }
            if first.bytes.is_none() {
                match reads.take(first.ticket) {
                    None => return AtPlace::Pending,
                    Some(Ok(bytes)) => first.bytes = Some(bytes),
                    Some(Err(error)) => {
                        self.release(reads);
                        return AtPlace::Failed(error);
                    }
                }
                self.is_new = true;
            }
            let bytes = first.bytes.clone().expect("it has arrived");
            return AtPlace::Bytes { bytes, at: first.at, is_last: first.is_cut() };
        }
    }

    /// The read that gets the batch at `at`, of which `needed` bytes are known to be needed; nothing is held now.
    pub(crate) fn first_read(
        &mut self,
        (at, needed): (u64, u64),
        stretch: Stretch,
        end: u64,
        reads: &Reads,
    ) -> (u64, u64) {
        assert!(self.list.is_empty(), "what is held would be read twice");
        let from = at - at % BLOCK_BYTES as u64;
        let least = block_ceil(at + needed) - from;
        (from, self.grown(from, least, (stretch, end), reads))
    }

    /// The next read behind all that is held or asked for: segment bytes, start of a batch in it, end of its stretch.
    /// `None` while that cannot be told, or enough is on its way.
    pub(crate) fn next_read(
        &mut self,
        segment: u64,
        stretches: &[Stretch],
        end: u64,
        reads: &mut Reads,
    ) -> Option<(u64, u64, u64, u64)> {
        let held = self.bytes();
        let last = self.list.back_mut()?;
        if last.segment != segment || self.list.len() >= WINDOWS_MAX || held >= WINDOWS_BYTES_MAX {
            return None;
        }
        let last = self.list.back_mut()?;
        if last.bytes.is_none()
            && last.end() < last.stretch_end
            && let Some(Ok(bytes)) = reads.peek(last.ticket)
        {
            last.bytes = Some(bytes);
        }
        let goes_on = last.end() < last.stretch_end;
        let (first, needed, stretch) = if goes_on {
            let (first, needed) = last.next_batch()?;
            (first, needed, Stretch { at: first, end: last.stretch_end })
        } else {
            let behind = stretches.partition_point(|stretch| stretch.at < last.stretch_end);
            let stretch = *stretches.get(behind)?;
            (stretch.at, HEADER_BYTES as u64, stretch)
        };
        if first >= stretch.end || first >= end {
            return None;
        }
        // The length of a damaged batch may be anything; what is being written behind the end must not be read.
        if block_ceil(end) < first + needed {
            return None;
        }
        let from = first - first % BLOCK_BYTES as u64;
        let least = block_ceil(first + needed) - from;
        let len = self.grown(from, least, (stretch, end), reads);
        (held + len <= WINDOWS_BYTES_MAX).then_some((from, len, first, stretch.end))
    }

    /// How much to read from `from`: what is needed at least, else as much as is wanted and allowed.
    fn grown(
        &mut self,
        from: u64,
        least: u64,
        (stretch, end): (Stretch, u64),
        reads: &Reads,
    ) -> u64 {
        let most = (reads.held_max as u64 / 4).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        let most = most - most % BLOCK_BYTES as u64;
        let wanted = block_ceil(stretch.end.min(end)).saturating_sub(from).max(BLOCK_BYTES as u64);
        let len = least.max(self.grow_to.min(wanted));
        if wanted > self.grow_to {
            self.grow_to = (self.grow_to * 2).min(most);
        }
        assert!(len >= least && len.is_multiple_of(BLOCK_BYTES as u64), "whole blocks are read");
        len
    }

    /// A read was submitted: `at`, `len`, start of a batch in it, end of its stretch.
    pub(crate) fn submitted(
        &mut self,
        segment: u64,
        (at, len, first, stretch_end): (u64, u64, u64, u64),
        ticket: Ticket,
        reads: &mut Reads,
    ) {
        assert!(at <= first && first < at + len, "a batch starts in what is read");
        assert!(
            self.list.back().is_none_or(|last| last.segment == segment && last.at <= at),
            "a reader's windows follow each other in one segment"
        );
        assert!(self.list.len() < WINDOWS_MAX, "a reader has few reads in flight");
        let held = reads.submitted(ticket, &self.alive, len);
        self.list.push_back(Window {
            segment,
            at,
            len,
            first,
            stretch_end,
            ticket,
            bytes: None,
            _held: held,
        });
    }

    /// Whether a window has become the first one since this was last asked.
    pub(crate) fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }
}

/// Bytes that count against the limit of a log's readers, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.all.fetch_sub(self.bytes, Ordering::Relaxed);
        assert!(before >= self.bytes, "only what was counted is given back");
    }
}

/// What a disk's buffer is wrapped in, so that it counts for as long as anybody holds a part of it.
struct Counted {
    bytes: Bytes,
    all: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let before = self.all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        assert!(self.bytes.len() <= before, "only what was counted is given back");
    }
}

/// Reads that were submitted, and what has arrived for readers that still live.
#[derive(Debug)]
pub(crate) struct Reads {
    waiting: HashMap<Ticket, (Weak<()>, u64)>,
    arrived: HashMap<Ticket, (Weak<()>, io::Result<Bytes>)>,
    /// Bytes of all windows, on their way or held by readers.
    held: Arc<AtomicUsize>,
    held_max: usize,
    /// Bytes of all buffers that came from the disk and that anybody holds: readers, and deliveries made from them.
    in_use: Arc<AtomicUsize>,
}

impl Reads {
    pub(crate) fn new(held_max: usize) -> Self {
        Reads {
            waiting: HashMap::new(),
            arrived: HashMap::new(),
            held: Arc::default(),
            held_max,
            in_use: Arc::default(),
        }
    }

    /// Whether a reader may hold `more` bytes. When nothing is held, one read of any size may go.
    pub(crate) fn has_room(&self, more: u64) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        held == 0 || held as u64 + more <= self.held_max as u64
    }

    /// Counts bytes that a reader holds.
    pub(crate) fn hold(&self, bytes: usize) -> Held {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Held { bytes, all: Arc::clone(&self.held) }
    }

    fn submitted(&mut self, ticket: Ticket, reader: &Arc<()>, len: u64) -> Held {
        assert!(self.has_room(len), "readers keep to their limit");
        let known = self.waiting.insert(ticket, (Arc::downgrade(reader), len));
        assert!(known.is_none(), "a ticket is unique while its read runs");
        self.hold(usize::try_from(len).expect("windows are far below the address space"))
    }

    /// Nobody waits for it any more; it stays in flight.
    fn abandon(&mut self, ticket: Ticket) {
        self.arrived.remove(&ticket);
        if let Some((reader, _)) = self.waiting.get_mut(&ticket) {
            *reader = Weak::new();
        }
    }

    pub(crate) fn arrived(&mut self, ticket: Ticket, result: io::Result<Bytes>) {
        // Readers that are gone never pick up what arrived for them.
        self.arrived.retain(|_, (reader, _)| reader.strong_count() > 0);
        let Some((reader, len)) = self.waiting.remove(&ticket) else { return };
        assert!(
            result.as_ref().map_or(0, |bytes| bytes.len() as u64) <= len,
            "a disk gives no more than it was asked for"
        );
        if reader.strong_count() == 0 {
            return;
        }
        let counted = result.map(|bytes| {
            self.in_use.fetch_add(bytes.len(), Ordering::Relaxed);
            Bytes::from_owner(Counted { bytes, all: Arc::clone(&self.in_use) })
        });
        self.arrived.insert(ticket, (reader, counted));
    }

    fn take(&mut self, ticket: Ticket) -> Option<io::Result<Bytes>> {
        self.arrived.remove(&ticket).map(|(_, result)| result)
    }

    /// What has arrived, if it did so whole; an error stays for whoever needs the bytes.
    fn peek(&mut self, ticket: Ticket) -> Option<io::Result<Bytes>> {
        let is_good = self.arrived.get(&ticket).is_some_and(|(_, result)| result.is_ok());
        if is_good { self.take(ticket) } else { None }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of windows, on their way or held by readers.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Most bytes that windows may take.
    pub(crate) fn held_bytes_max(&self) -> usize {
        self.held_max
    }

    /// Bytes that came from the disk and that no reader holds any more.
    pub(crate) fn lent_bytes(&self) -> usize {
        self.memory_bytes().saturating_sub(self.held_bytes())
    }

    /// Bytes that came from the disk and that somebody holds, and those that are on their way.
    pub(crate) fn memory_bytes(&self) -> usize {
        let on_the_way: u64 = self.waiting.values().map(|(_, len)| *len).sum();
        self.in_use.load(Ordering::Relaxed) + on_the_way as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A damaged length must not make a reader ask for blocks that are still being written: as it finds them then, they
    /// would pass for damage, and events behind the damage that are whole would be given up.
    #[test]
    fn a_damaged_length_does_not_reach_behind_what_is_written() {
        let end = 2 * BLOCK_BYTES as u64;
        for (body_len, expected) in [(5_000u32, Some((0, end, 0, end))), (100_000, None)] {
            let (mut reads, mut windows) = (Reads::new(1 << 20), Windows::new());
            windows.submitted(1, (0, BLOCK_BYTES as u64, 0, end), Ticket(1), &mut reads);
            let mut block = vec![1; BLOCK_BYTES];
            block[16..20].copy_from_slice(&body_len.to_le_bytes());
            reads.arrived(Ticket(1), Ok(block.into()));
            assert_eq!(windows.next_read(1, &[], end, &mut reads), expected, "{body_len}");
        }
    }
}

//! The connections of one shard: their sockets, their sessions, and what moves between the two.
//!
//! No buffer belongs to a connection: bytes are read into the shard's one scratch buffer and given to the session at
//! once; what waits to be sent is shared with the log. Every step is bounded, so that one peer never takes a cycle from
//! the others: one read a connection and cycle, and no more is said to a peer that does not read than
//! [`OUTBOUND_BYTES_HIGH`] and one event.
//!
//! ```text
//!   Open --(the session or the peer is done)--> Flushing --(all is sent)--> Lingering --(end of stream)--> gone
//!     |                                            |                            |
//!     +--(the peer is gone or stuck, a panic)------+---------(time is over)-----+------------------------> gone
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::{debug, error};

use super::accept::{Arrival, say_no};
use super::connection::{Connection, OUTBOUND_BYTES_HIGH, Origin, Phase, Slot};
use super::ring::{LIFE_MASK, Ring, Token};
use super::stats::Counters;
use super::threads::abort;
use crate::fence;
use crate::kernel::Now;
use crate::outbound::Outbound;
use crate::session::{Feed, Session, SessionKey};
use crate::shard::Shard;

/// Bytes read at once. Large enough that a batch of usual size comes in one piece.
const SCRATCH_BYTES: usize = 256 << 10;
/// Least that is read at once, however scarce memory is: part of what a connection costs.
const READ_BYTES_MIN: usize = 4 << 10;
/// Bytes read in one cycle, over all connections of peers that have not hung up. Bounds the time of a cycle; the rest is
/// read in the next.
const READ_BYTES_PER_CYCLE: u64 = 4 << 20;
/// Connections of peers that have hung up which are read in one cycle, at most: each may have a thousand subscriptions to
/// leave, and a proxy that goes takes thousands of connections along. With twenty subscriptions an end takes some 60 us.
const ENDS_PER_CYCLE: usize = 4;
/// Connections of others that are read for each end in a cycle, so that who stays feels little of those who leave.
const READS_PER_END: usize = 4;
/// Vectored writes for one connection in one cycle.
const WRITES_PER_CYCLE: u32 = 4;
/// Connections that one step of the round of on-time calls visits.
const ROUND_STEP: usize = 256;
/// How often each session is told the time.
const ROUND_US: u64 = 1_000_000;
/// How long a peer that has been sent everything may take to close its side.
const LINGER_US: u64 = 1_000_000;

/// Time limits of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long a peer may take next to nothing although there is something for it.
    pub(super) slow_peer_us: u64,
    /// How long a closing connection may take to send what is outbound.
    pub(super) close_flush_us: u64,
}

/// What a step works with: everything of a shard but its connections.
pub(super) struct Step<'a> {
    pub(super) shard: &'a mut Shard,
    pub(super) ring: &'a mut Ring,
    pub(super) counters: &'a Counters,
    pub(super) now: Now,
}

/// All connections of one shard.
pub(super) struct Connections {
    pub(super) slots: Vec<Slot>,
    free: Vec<u32>,
    /// The connection of each of the shard's sessions, by the session's slot.
    by_session: Vec<u32>,
    /// Connections that may have something to read.
    ready: VecDeque<u32>,
    /// The same of peers that have hung up. Nobody who stays waits behind them.
    leaving: VecDeque<u32>,
    /// Connections that may have something to send.
    unsent: VecDeque<u32>,
    /// Connections whose shard may have more events for them, now that what they were given is sent.
    resumed: VecDeque<u32>,
    scratch: Box<[u8]>,
    /// Outbound bytes that were made for one connection, over all of them.
    own_bytes: usize,
    patience: Patience,
    /// The slot that is told the time next.
    round_next: usize,
    /// When that is due; monotonic microseconds.
    round_due_us: u64,
    /// Deadlines that sessions have asked for, the next first: when, whose, in which life of the slot. Some are no longer
    /// what their session wants.
    deadlines: BinaryHeap<Reverse<(u64, u32, u32)>>,
}

impl Connections {
    pub(super) fn new(patience: Patience) -> Self {
        Connections {
            slots: Vec::new(),
            free: Vec::new(),
            by_session: Vec::new(),
            ready: VecDeque::new(),
            leaving: VecDeque::new(),
            unsent: VecDeque::new(),
            resumed: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES].into(),
            own_bytes: 0,
            patience,
            round_next: 0,
            round_due_us: 0,
            deadlines: BinaryHeap::new(),
        }
    }

    /// How many there are, closing ones included.
    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether something may be sent or fetched: what must wait until the commit is submitted.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || !self.resumed.is_empty()
    }

    /// Whether a cycle would find something to do without any news from the kernel.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.leaving.is_empty() || self.has_unsent()
    }

    /// When [`Connections::tell_time`] has something to do next, in monotonic microseconds.
    pub(super) fn next_round(&self) -> Option<u64> {
        let deadline = self.deadlines.peek().map(|Reverse((at_us, ..))| *at_us);
        let round = (self.count() > 0).then_some(self.round_due_us);
        [deadline, round].into_iter().flatten().min()
    }

    /// Takes a new connection in.
    pub(super) fn open(&mut self, mut arrival: Arrival, step: &mut Step<'_>) {
        let key = match step.shard.open_session() {
            Ok(key) => key,
            Err(refusal) => return say_no(&mut arrival.stream, &*arrival.door, &refusal),
        };
        let Arrival { stream, peer, door, seat } = arrival;
        let session = catch_unwind(AssertUnwindSafe(|| door.accept(key, peer, step.now)));
        let Ok(session) = session else {
            step.shard.close_session(key);
            return error!(%peer, door = door.name(), "a session panicked as it began");
        };
        let (fd, origin) =
            (stream.as_raw_fd(), Origin { peer, door: door.name(), since_us: step.now.mono_us });
        if self.count() == 0 {
            self.round_due_us = step.now.mono_us + ROUND_US;
        }
        let index = self.insert(Connection::new(stream, origin, key, session, seat));
        let slot = key.slot as usize;
        self.by_session.resize(self.by_session.len().max(slot + 1), u32::MAX);
        assert_eq!(self.by_session[slot], u32::MAX, "a session has one connection");
        self.by_session[slot] = index;
        step.ring.watch_readable(fd, Token::Readable(index, self.slots[index as usize].life));
        step.counters.accepted.add(1);
    }

    /// The kernel says that a connection may be read. `events` is poll(2)'s mask; `more` says that the watch goes on.
    pub(super) fn on_readable(
        &mut self,
        index: u32,
        life: u32,
        events: i32,
        more: bool,
        ring: &mut Ring,
    ) {
        let Some(connection) = self.slots[index as usize].of(life) else { return };
        connection.flags.may_read = true;
        let hung_up = i32::from(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR);
        connection.flags.is_hung_up |= events < 0 || events & hung_up != 0;
        if !more && !connection.flags.is_hung_up {
            ring.watch_readable(connection.stream.as_raw_fd(), Token::Readable(index, life));
        }
        self.mark_ready(index);
    }

    /// The kernel says that a peer takes bytes again.
    pub(super) fn on_writable(&mut self, index: u32, life: u32) {
        let Some(connection) = self.slots[index as usize].of(life) else { return };
        connection.flags.awaits_writable = false;
        self.mark_unsent(index);
    }

    /// Reads each ready connection once and feeds its session, in turn and up to a limit. Returns how many were read.
    pub(super) fn read_ready(&mut self, step: &mut Step<'_>) -> u32 {
        let bytes_end = step.counters.bytes_in.get() + READ_BYTES_PER_CYCLE;
        let ends = match self.ready.len() {
            0 => ENDS_PER_CYCLE,
            reads => reads.div_ceil(READS_PER_END).min(ENDS_PER_CYCLE),
        };
        let mut read = 0;
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else { break };
            read += u32::from(self.read_queued(index, step));
            if step.counters.bytes_in.get() >= bytes_end {
                break;
            }
        }
        for _ in 0..self.leaving.len().min(ends) {
            let Some(index) = self.leaving.pop_front() else { break };
            read += u32::from(self.read_queued(index, step));
        }
        read
    }

    /// Reads a connection that was queued for it, once; whether that changed anything.
    fn read_queued(&mut self, index: u32, step: &mut Step<'_>) -> bool {
        let Some(connection) = &mut self.slots[index as usize].connection else { return false };
        connection.flags.is_ready = false;
        self.read_once(index, step)
    }

    /// Gives the sessions named what their shard has for them. Returns how many events that was.
    pub(super) fn deliver(&mut self, dirty: &[SessionKey], step: &mut Step<'_>) -> u32 {
        let mut events = 0;
        for key in dirty {
            let index = self.by_session.get(key.slot as usize).copied().unwrap_or(u32::MAX);
            let connection =
                self.slots.get(index as usize).and_then(|slot| slot.connection.as_ref());
            if connection.is_some_and(|connection| connection.key == *key) {
                events += self.pump(index, step);
            }
        }
        for _ in 0..self.resumed.len() {
            let Some(index) = self.resumed.pop_front() else { break };
            self.feed_sent(index, step);
            events += self.pump(index, step);
        }
        events
    }

    /// Sends what waits, for each connection that has some. Returns how many there were.
    pub(super) fn flush(&mut self, step: &mut Step<'_>) -> u32 {
        let mut sent = 0;
        for _ in 0..self.unsent.len() {
            let Some(index) = self.unsent.pop_front() else { break };
            let Some(connection) = &mut self.slots[index as usize].connection else { continue };
            connection.flags.is_unsent = false;
            sent += 1;
            self.send(index, step);
        }
        sent
    }

    /// Tells the next sessions of the round the time, and ends what has taken too long. Each session has its turn once
    /// in [`ROUND_US`], a bounded number of them at a time.
    pub(super) fn tell_time(&mut self, step: &mut Step<'_>) {
        self.tell_deadlines(step);
        if self.count() == 0 || step.now.mono_us < self.round_due_us {
            return;
        }
        let steps = self.slots.len().div_ceil(ROUND_STEP);
        for _ in 0..self.slots.len().div_ceil(steps) {
            if self.round_next >= self.slots.len() {
                self.round_next = 0;
            }
            self.visit(self.round_next as u32, step);
            self.round_next += 1;
        }
        self.round_due_us = step.now.mono_us + ROUND_US / steps as u64;
    }

    /// Tells the sessions whose deadline has come, each once.
    fn tell_deadlines(&mut self, step: &mut Step<'_>) {
        for _ in 0..self.deadlines.len() {
            let Some(&Reverse((at_us, index, life))) = self.deadlines.peek() else { return };
            if at_us > step.now.mono_us {
                return;
            }
            self.deadlines.pop();
            let connection = self.slots[index as usize].of(life);
            let Some(connection) = connection.filter(|found| found.deadline_noted_us == at_us)
            else {
                continue;
            };
            connection.deadline_noted_us = u64::MAX;
            let due_us = connection.session.deadline_us();
            if connection.phase == Phase::Open && due_us.is_some_and(|due| due <= step.now.mono_us)
            {
                let now = step.now;
                connection.flags.is_paused = false;
                self.feed(index, step, |session, step, out| {
                    session.on_deadline(now, step.shard, out)
                });
            } else {
                self.note_deadline(index);
            }
        }
    }

    /// Remembers when a session wants to be told the time, if that is sooner than what is remembered.
    fn note_deadline(&mut self, index: u32) {
        let Slot { life, connection: Some(connection) } = &mut self.slots[index as usize] else {
            return;
        };
        let Some(at_us) = connection.session.deadline_us() else { return };
        if connection.phase == Phase::Open && at_us < connection.deadline_noted_us {
            connection.deadline_noted_us = at_us;
            self.deadlines.push(Reverse((at_us, index, *life)));
        }
    }

    /// Tells every session that the server is shutting down.
    pub(super) fn begin_drain(&mut self, step: &mut Step<'_>) {
        for index in 0..self.slots.len() as u32 {
            let Some(connection) = self.slots[index as usize].open() else { continue };
            let Connection { session, out, .. } = connection;
            let told = catch_unwind(AssertUnwindSafe(|| session.on_drain(out)));
            match told {
                Ok(()) => self.mark_unsent(index),
                Err(_) => self.on_panic(index, step),
            }
        }
    }

    /// Closes every session, sending first what is outbound.
    pub(super) fn close_all(&mut self, step: &mut Step<'_>) {
        for index in 0..self.slots.len() as u32 {
            self.begin_close(index, step);
        }
    }

    fn insert(&mut self, connection: Connection) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        assert!(slot.connection.is_none(), "a free slot holds no connection");
        slot.connection = Some(connection);
        index
    }

    fn mark_ready(&mut self, index: u32) {
        if let Some(connection) = &mut self.slots[index as usize].connection
            && !std::mem::replace(&mut connection.flags.is_ready, true)
        {
            let is_leaving = connection.flags.is_hung_up;
            let queue = if is_leaving { &mut self.leaving } else { &mut self.ready };
            queue.push_back(index);
        }
    }

    /// Reads on in the next cycle if there may be more.
    fn mark_ready_again(&mut self, index: u32) {
        let connection = self.slots[index as usize].connection.as_ref();
        if connection.is_some_and(Connection::wants_bytes) {
            self.mark_ready(index);
        }
    }

    fn mark_unsent(&mut self, index: u32) {
        if let Some(connection) = &mut self.slots[index as usize].connection
            && !connection.flags.awaits_writable
            && !std::mem::replace(&mut connection.flags.is_unsent, true)
        {
            self.unsent.push_back(index);
        }
    }

    /// Most bytes to read at once: a session may have to keep all of it, or answer it to a peer that takes no answer.
    fn read_bytes_max(&self, shard: &Shard) -> usize {
        let room = usize::try_from(shard.input_room()).unwrap_or(usize::MAX);
        room.saturating_sub(self.own_bytes).clamp(READ_BYTES_MIN, SCRATCH_BYTES)
    }

    /// Counts what a connection's outbound bytes have changed by.
    fn count_outbound(&mut self, index: u32) {
        let Some(connection) = &mut self.slots[index as usize].connection else { return };
        let own_bytes = connection.out.own_bytes();
        assert!(connection.counted_bytes <= self.own_bytes, "outbound bytes are counted");
        self.own_bytes = self.own_bytes - connection.counted_bytes + own_bytes;
        connection.counted_bytes = own_bytes;
    }

    /// Reads once; whether that changed anything.
    fn read_once(&mut self, index: u32, step: &mut Step<'_>) -> bool {
        let bytes_max = self.read_bytes_max(step.shard);
        let Some(connection) = &mut self.slots[index as usize].connection else { return false };
        if !connection.wants_bytes() {
            return false;
        }
        let read = match catch_unwind(AssertUnwindSafe(|| {
            connection.read(&mut self.scratch, bytes_max)
        })) {
            Ok(read) => read,
            Err(_) => {
                self.on_panic(index, step);
                return true;
            }
        };
        match read {
            Ok(arrived) if arrived.is_end() => self.on_end_of_stream(index, step),
            Ok(arrived) => {
                step.counters.bytes_in.add((arrived.placed + arrived.beyond) as u64);
                if arrived.placed > 0 {
                    self.on_placed(index, arrived.placed, step);
                }
                if arrived.beyond > 0 {
                    self.on_bytes(index, arrived.beyond, step);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => self.mark_ready(index),
            Err(error) => {
                debug!(%error, peer = %connection.peer, "a connection broke");
                self.remove(index, step);
            }
        }
        true
    }

    /// `bytes` bytes of a connection's were read to where its session wants them.
    fn on_placed(&mut self, index: u32, bytes: usize, step: &mut Step<'_>) {
        self.feed(index, step, |session, step, out| session.on_placed(bytes, step.shard, out));
    }

    /// The first `read` bytes of the scratch buffer are a connection's.
    fn on_bytes(&mut self, index: u32, read: usize, step: &mut Step<'_>) {
        let Some(connection) = &mut self.slots[index as usize].connection else { return };
        if connection.phase != Phase::Open {
            connection.linger_bytes_left = connection.linger_bytes_left.saturating_sub(read as u32);
            if connection.linger_bytes_left == 0 {
                return self.remove(index, step);
            }
            return self.mark_ready_again(index);
        }
        let scratch = std::mem::take(&mut self.scratch);
        self.feed(index, step, |session, step, out| {
            session.on_bytes(&scratch[..read], step.shard, out)
        });
        self.scratch = scratch;
    }

    /// Has a session take what was read.
    fn feed(
        &mut self,
        index: u32,
        step: &mut Step<'_>,
        take: impl FnOnce(&mut dyn Session, &mut Step<'_>, &mut Outbound) -> Feed,
    ) {
        let Some(connection) = self.slots[index as usize].open() else { return };
        let Connection { session, out, .. } = connection;
        let fed = catch_unwind(AssertUnwindSafe(|| take(&mut **session, step, out)));
        match fed {
            Ok(Feed::More) => {}
            Ok(Feed::Paused) => connection.flags.is_paused = true,
            Ok(Feed::Close) => return self.begin_close(index, step),
            Err(_) => return self.on_panic(index, step),
        }
        connection.flags.is_held |= connection.out.pending_bytes() >= OUTBOUND_BYTES_HIGH;
        if !connection.out.is_empty() {
            self.mark_unsent(index);
        }
        self.count_outbound(index);
        self.mark_ready_again(index);
        self.note_deadline(index);
    }

    /// Tells a session that what kept it from saying more is sent.
    fn feed_sent(&mut self, index: u32, step: &mut Step<'_>) {
        let Some(connection) = self.slots[index as usize].open() else { return };
        let Connection { session, out, .. } = connection;
        let fed = catch_unwind(AssertUnwindSafe(|| session.on_sent(step.shard, out)));
        match fed {
            Ok(None) => {}
            Ok(Some(Feed::Close)) => self.begin_close(index, step),
            Ok(Some(feed)) => connection.flags.is_paused = feed == Feed::Paused,
            Err(_) => self.on_panic(index, step),
        }
    }

    /// Gives a session the shard's events until there are none or enough is outbound. Returns how many it got.
    fn pump(&mut self, index: u32, step: &mut Step<'_>) -> u32 {
        let mut events = 0;
        let Some(connection) = self.slots[index as usize].open() else { return 0 };
        connection.flags.is_held = false;
        loop {
            if connection.out.pending_bytes() >= OUTBOUND_BYTES_HIGH {
                connection.flags.is_held = true;
                break;
            }
            let Some(event) = step.shard.next_event(connection.key) else { break };
            events += 1;
            let Connection { session, out, .. } = connection;
            let fed = catch_unwind(AssertUnwindSafe(|| session.on_event(event, step.shard, out)));
            match fed {
                Ok(Feed::More) => connection.flags.is_paused = false,
                Ok(Feed::Paused) => connection.flags.is_paused = true,
                Ok(Feed::Close) => {
                    self.begin_close(index, step);
                    return events;
                }
                Err(_) => {
                    self.on_panic(index, step);
                    return events;
                }
            }
        }
        if !connection.out.is_empty() {
            self.mark_unsent(index);
        }
        self.count_outbound(index);
        self.mark_ready_again(index);
        self.note_deadline(index);
        events
    }

    /// Writes until all is sent, the peer takes no more, or its share of this cycle is used up.
    fn send(&mut self, index: u32, step: &mut Step<'_>) {
        let Slot { life, connection: Some(connection) } = &mut self.slots[index as usize] else {
            return;
        };
        for _ in 0..WRITES_PER_CYCLE {
            if connection.out.is_empty() {
                break;
            }
            match connection.write_once() {
                Ok(written) => step.counters.bytes_out.add(written as u64),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.flags.awaits_writable = true;
                    let token = Token::Writable(index, *life);
                    step.ring.watch_writable_once(connection.stream.as_raw_fd(), token);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    debug!(%error, peer = %connection.peer, "a connection broke");
                    return self.remove(index, step);
                }
            }
        }
        self.after_send(index, step);
    }

    fn after_send(&mut self, index: u32, step: &mut Step<'_>) {
        self.count_outbound(index);
        let Some(connection) = &mut self.slots[index as usize].connection else { return };
        let pending = connection.out.pending_bytes();
        if pending < OUTBOUND_BYTES_HIGH && std::mem::take(&mut connection.flags.is_held) {
            self.resumed.push_back(index);
        }
        if connection.phase == Phase::Flushing && pending == 0 {
            return self.begin_linger(index, step);
        }
        if pending > 0 {
            self.mark_unsent(index);
        }
        self.mark_ready_again(index);
    }

    /// One session's turn in the round.
    fn visit(&mut self, index: u32, step: &mut Step<'_>) {
        let Some(connection) = &mut self.slots[index as usize].connection else { return };
        let now_us = step.now.mono_us;
        if connection.phase != Phase::Open {
            if connection.deadline_us <= now_us {
                self.remove(index, step);
            }
            return;
        }
        if connection.is_slow(now_us, self.patience.slow_peer_us) {
            debug!(peer = %connection.peer, "a peer took too little for too long");
            step.counters.slow_peers.add(1);
            return self.remove(index, step);
        }
        let Connection { session, out, .. } = connection;
        out.trim();
        let fed = catch_unwind(AssertUnwindSafe(|| session.on_time(step.now, step.shard, out)));
        match fed {
            // Only an event ends a pause.
            Ok(Feed::More) => {}
            Ok(Feed::Paused) => connection.flags.is_paused = true,
            Ok(Feed::Close) => return self.begin_close(index, step),
            Err(_) => return self.on_panic(index, step),
        }
        connection.flags.is_held |= connection.out.pending_bytes() >= OUTBOUND_BYTES_HIGH;
        if !connection.out.is_empty() {
            self.mark_unsent(index);
        }
        self.count_outbound(index);
        self.note_deadline(index);
    }

    fn on_end_of_stream(&mut self, index: u32, step: &mut Step<'_>) {
        let Some(connection) = &mut self.slots[index as usize].connection else { return };
        connection.flags.may_read = false;
        connection.flags.is_ended = true;
        match connection.phase {
            Phase::Open => self.begin_close(index, step),
            Phase::Flushing => {}
            Phase::Lingering => self.remove(index, step),
        }
    }

    /// Ends the session; what is outbound is still sent, for a bounded time.
    fn begin_close(&mut self, index: u32, step: &mut Step<'_>) {
        let Some(connection) = self.slots[index as usize].open() else { return };
        connection.phase = Phase::Flushing;
        connection.deadline_us = step.now.mono_us + self.patience.close_flush_us;
        connection.flags.is_held = false;
        let known = &mut self.by_session[connection.key.slot as usize];
        assert_eq!(*known, index, "a session is found by its own connection");
        *known = u32::MAX;
        step.shard.close_session(connection.key);
        self.mark_unsent(index);
    }

    /// All is sent: says so, and waits for the peer to do the same. Closing at once, with bytes unread, would reset the
    /// connection and could take the last words back.
    fn begin_linger(&mut self, index: u32, step: &mut Step<'_>) {
        let Some(connection) = &mut self.slots[index as usize].connection else { return };
        if connection.flags.is_ended || connection.stream.shutdown(Shutdown::Write).is_err() {
            return self.remove(index, step);
        }
        assert!(connection.phase == Phase::Flushing, "a session ends before its connection does");
        assert!(connection.out.is_empty(), "all is sent before the end is said");
        connection.phase = Phase::Lingering;
        connection.deadline_us = step.now.mono_us + LINGER_US;
        self.mark_ready_again(index);
    }

    fn on_panic(&mut self, index: u32, step: &mut Step<'_>) {
        if fence::is_broken() {
            abort("a shard");
        }
        let Some(connection) = &self.slots[index as usize].connection else { return };
        error!(peer = %connection.peer, "a session panicked; its connection is closed");
        step.counters.panics.add(1);
        self.remove(index, step);
    }

    fn remove(&mut self, index: u32, step: &mut Step<'_>) {
        let slot = &mut self.slots[index as usize];
        let Some(connection) = slot.connection.take() else { return };
        assert!(connection.counted_bytes <= self.own_bytes, "outbound bytes are counted");
        self.own_bytes -= connection.counted_bytes;
        if connection.phase == Phase::Open {
            let known = &mut self.by_session[connection.key.slot as usize];
            assert_eq!(*known, index, "a session is found by its own connection");
            *known = u32::MAX;
            step.shard.close_session(connection.key);
        }
        // The watches keep the socket open until the kernel has taken them off, at the next submission.
        step.ring.unwatch(Token::Readable(index, slot.life));
        if connection.flags.awaits_writable {
            step.ring.unwatch(Token::Writable(index, slot.life));
        }
        slot.life = (slot.life + 1) & LIFE_MASK;
        self.free.push(index);
        assert!(self.free.len() <= self.slots.len(), "a slot is free once");
        assert!(self.count() > 0 || self.own_bytes == 0, "bytes outbound are some connection's");
        step.counters.closed.add(1);
    }
}

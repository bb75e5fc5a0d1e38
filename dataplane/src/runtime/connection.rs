//! One connection: its socket, its session and what waits to be sent. Idle, it holds no buffer.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use super::accept::Seat;
use crate::outbound::Outbound;
use crate::session::{Session, SessionKey};

/// Bytes that may wait for one peer before its session gets no more events and no more bytes.
pub(super) const OUTBOUND_BYTES_HIGH: usize = 256 << 10;
/// Most bytes read at once to a place that a session has for its bytes.
const PLACED_BYTES_MAX: usize = 256 << 10;
/// Bytes read beyond a place that a session has for its bytes: the head of what follows.
const BEYOND_BYTES: usize = 4 << 10;
/// Chunks of one vectored write.
const SLICES: usize = 64;
/// Bytes that a peer may still send after the close; they are thrown away.
const LINGER_BYTES_MAX: u32 = 4 << 20;

/// Least that a peer must take, of what waits for it, each time that its patience ends. With the default of a minute that
/// is 273 bytes a second: less than any link that is worth having, more than a peer that only wants to hold memory.
const PROGRESS_BYTES_MIN: u64 = 16 << 10;

/// A place for a connection.
#[derive(Default)]
pub(super) struct Slot {
    /// Tells a slot's former connections apart in late completions.
    pub(super) life: u32,
    pub(super) connection: Option<Connection>,
}

/// Where a connection came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) peer: SocketAddr,
    /// The door's name.
    pub(super) door: &'static str,
    /// Since when it has been open; monotonic microseconds.
    pub(super) since_us: u64,
}

pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) origin: Origin,
    pub(super) key: SessionKey,
    pub(super) session: Box<dyn Session>,
    pub(super) out: Outbound,
    pub(super) phase: Phase,
    pub(super) flags: Flags,
    /// When the phase ends at the latest; monotonic microseconds. Not used while open.
    pub(super) deadline_us: u64,
    /// The next deadline of its session that is remembered; monotonic microseconds, `u64::MAX` for none.
    pub(super) deadline_noted_us: u64,
    /// Bytes given to the kernel since the connection began.
    pub(super) sent_bytes: u64,
    /// What the peer owes while something waits for it.
    backlog: Option<Backlog>,
    /// Bytes that may still be thrown away.
    pub(super) linger_bytes_left: u32,
    /// Outbound bytes of its own, as counted in the shard's sum.
    pub(super) counted_bytes: usize,
    _seat: Seat,
}

/// How far a peer must have come with what waits for it.
#[derive(Clone, Copy, Debug)]
struct Backlog {
    /// Since when; monotonic microseconds.
    since_us: u64,
    /// Bytes that the peer must have taken since the connection began.
    due_bytes: u64,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The session lives.
    Open,
    /// The session is over; what is outbound is sent.
    Flushing,
    /// All is sent and said so; the peer's end of stream is awaited.
    Lingering,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// Queued to be read.
    pub(super) is_ready: bool,
    /// Queued to be sent.
    pub(super) is_unsent: bool,
    /// The kernel may hold bytes that were not read.
    pub(super) may_read: bool,
    /// The peer has hung up: read to the end, no further readiness will be told.
    pub(super) is_hung_up: bool,
    /// The end of the peer's stream was read.
    pub(super) is_ended: bool,
    /// The session wants no bytes.
    pub(super) is_paused: bool,
    /// The last read went to a place of the session's own.
    pub(super) had_place: bool,
    /// The kernel tells when the peer takes bytes again.
    pub(super) awaits_writable: bool,
    /// The shard holds events that were not fetched because too much was outbound.
    pub(super) is_held: bool,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrived {
    /// Bytes at the start of the session's own place.
    pub(super) placed: usize,
    /// Bytes that came beyond it, at the start of the scratch buffer.
    pub(super) beyond: usize,
}

impl Arrived {
    /// Whether the peer's stream has ended.
    pub(super) fn is_end(self) -> bool {
        self.placed + self.beyond == 0
    }
}

impl Slot {
    /// The connection, if it is the one of this life.
    pub(super) fn of(&mut self, life: u32) -> Option<&mut Connection> {
        if self.life == life { self.connection.as_mut() } else { None }
    }

    /// The connection, if its session lives.
    pub(super) fn open(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut().filter(|connection| connection.phase == Phase::Open)
    }
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        origin: Origin,
        key: SessionKey,
        session: Box<dyn Session>,
        seat: Seat,
    ) -> Self {
        Connection {
            stream,
            peer: origin.peer,
            origin,
            key,
            session,
            out: Outbound::default(),
            phase: Phase::Open,
            flags: Flags::default(),
            deadline_us: 0,
            deadline_noted_us: u64::MAX,
            sent_bytes: 0,
            backlog: None,
            linger_bytes_left: LINGER_BYTES_MAX,
            counted_bytes: 0,
            _seat: seat,
        }
    }

    /// Whether bytes may be there and somebody takes them.
    pub(super) fn wants_bytes(&self) -> bool {
        let are_taken = match self.phase {
            Phase::Open => !self.flags.is_paused && self.out.pending_bytes() < OUTBOUND_BYTES_HIGH,
            Phase::Flushing => false,
            Phase::Lingering => true,
        };
        are_taken && self.flags.may_read
    }

    /// Reads once: to the place that the session has for its bytes, else to `scratch`, there at most `bytes_max`.
    pub(super) fn read(&mut self, scratch: &mut [u8], bytes_max: usize) -> io::Result<Arrived> {
        let Connection { stream, session, flags, phase, .. } = self;
        let mut place = if *phase == Phase::Open { session.place() } else { None };
        let had_place = std::mem::replace(&mut flags.had_place, place.is_some());
        let scratch_max = match &mut place {
            // One read is bounded, and nothing can come beyond what is not read to its end.
            Some(place) if place.len() > PLACED_BYTES_MAX => {
                *place = &mut std::mem::take(place)[..PLACED_BYTES_MAX];
                0
            }
            // After a large frame the head of the next one is all that is to be copied.
            Some(_) => BEYOND_BYTES,
            None if had_place => BEYOND_BYTES,
            None => bytes_max,
        };
        let scratch = &mut scratch[..scratch_max];
        let placed_max = place.as_ref().map_or(0, |place| place.len());
        let wanted = placed_max + scratch.len();
        let result = match &mut place {
            Some(place) => {
                stream.read_vectored(&mut [IoSliceMut::new(place), IoSliceMut::new(scratch)])
            }
            None => stream.read(scratch),
        };
        // A read that did not fill what was there for it has emptied the socket, and what comes later is told anew; but
        // after a hang-up nothing more is told.
        match &result {
            Ok(read) => flags.may_read = *read == wanted || flags.is_hung_up,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => flags.may_read = false,
            Err(_) => {}
        }
        let read = result?;
        Ok(Arrived { placed: read.min(placed_max), beyond: read.saturating_sub(placed_max) })
    }

    /// One vectored write of what comes next; how many bytes left.
    pub(super) fn write_once(&mut self) -> io::Result<usize> {
        let written = {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.out.fill(&mut slices);
            assert!(filled > 0, "something is outbound");
            self.stream.write_vectored(&slices[..filled])?
        };
        self.out.advance(written);
        self.sent_bytes += written as u64;
        Ok(written)
    }

    /// Looks how far the peer has come. Whether it has taken less than [`PROGRESS_BYTES_MIN`] in `patience_us` although
    /// more waits for it: a byte now and then is no progress.
    pub(super) fn is_slow(&mut self, now_us: u64, patience_us: u64) -> bool {
        if self.out.is_empty() {
            self.backlog = None;
            return false;
        }
        let taken = self.sent_bytes.saturating_sub(self.unacknowledged_bytes());
        if let Some(backlog) = self.backlog.filter(|backlog| taken < backlog.due_bytes) {
            return backlog.since_us + patience_us <= now_us;
        }
        let left = self.sent_bytes - taken + self.out.pending_bytes() as u64;
        assert!(left > 0, "something waits for the peer");
        let due_bytes = taken + left.min(PROGRESS_BYTES_MIN);
        self.backlog = Some(Backlog { since_us: now_us, due_bytes });
        false
    }

    /// Bytes that the kernel keeps since the peer's has not confirmed them. It keeps megabytes, and tells of room only
    /// when a third is free: without a look into it a slow link would seem to stand still.
    fn unacknowledged_bytes(&self) -> u64 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the socket is open as long as `self.stream` is, and TIOCOUTQ (tcp(7): SIOCOUTQ) writes one int, to where
        // one stands.
        let result = unsafe { libc::ioctl(self.stream.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
        // Of a socket that cannot tell, what was sent counts as taken.
        if result == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    }
}

//! The shard's one raw ring: what is asked of the kernel goes in, what it has done comes out. Lives on one thread.
//!
//! Everything that is asked carries a [`Token`], and its completions bring it back. The kernel posts them when this thread
//! enters it anyway, to read a socket say, and does not interrupt it (`COOP_TASKRUN`): with many ready sockets those
//! interrupts cost more than all of the server's own code. A flag in memory says that completions wait to be posted, so none
//! is late for want of a system call; and a thread that sleeps, wherever, is woken as before. The ring's descriptor may be
//! polled from outside.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// Submissions that fit before the kernel must be entered. More may be in flight.
const SUBMISSIONS: u32 = 512;
/// Completions that fit before the kernel keeps a list of its own and multishot polls end (they are armed again).
const COMPLETIONS: u32 = 4_096;

/// What a completion is about. Packed into the ring's 64 bits of user data: kind 8, life 24, index 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A connection may be read: its place and its life there.
    Readable(u32, u32),
    /// A connection may be written again.
    Writable(u32, u32),
    /// A disk operation is over: its place among those in flight.
    Disk(u32),
    /// Somebody rang the doorbell through its eventfd.
    Bell,
    /// Another shard rang through the ring.
    Mail,
    /// Ringing this shard through the ring failed.
    MailFailed(u32),
    /// Nobody waits for this one.
    Nobody,
}

/// A life of a place in a table: 24 bits, so a place can be reused 16 million times before a late completion of a former
/// tenant could be taken for the present one's.
pub(super) const LIFE_MASK: u32 = 0x00ff_ffff;

impl Token {
    fn pack(self) -> u64 {
        let (kind, life, index) = match self {
            Token::Nobody => (0, 0, 0),
            Token::Readable(index, life) => (1, life, index),
            Token::Writable(index, life) => (2, life, index),
            Token::Disk(index) => (3, 0, index),
            Token::Bell => (4, 0, 0),
            Token::Mail => (5, 0, 0),
            Token::MailFailed(shard) => (6, 0, shard),
        };
        assert!(life <= LIFE_MASK, "a life has 24 bits");
        kind << 56 | u64::from(life) << 32 | u64::from(index)
    }

    fn unpack(data: u64) -> Self {
        let index = data as u32;
        let life = (data >> 32) as u32 & LIFE_MASK;
        match data >> 56 {
            1 => Token::Readable(index, life),
            2 => Token::Writable(index, life),
            3 => Token::Disk(index),
            4 => Token::Bell,
            5 => Token::Mail,
            6 => Token::MailFailed(index),
            _ => Token::Nobody,
        }
    }
}

/// One thing the kernel has done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    /// What was asked.
    pub(super) token: Token,
    /// The result as the system call would give it: negative is an error number.
    pub(super) result: i32,
    /// Whether more completions of this token will come: a multishot poll that is still armed.
    pub(super) more: bool,
}

/// The ring.
pub(super) struct Ring {
    ring: IoUring,
}

impl Ring {
    /// A ring of this thread.
    pub(super) fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_clamp();
        let mut cooperative = builder.clone();
        cooperative.setup_coop_taskrun().setup_taskrun_flag();
        // Linux before 5.19 knows no cooperation and refuses it: then it interrupts.
        let ring = cooperative.build(SUBMISSIONS).or_else(|_| builder.build(SUBMISSIONS))?;
        Ok(Ring { ring })
    }

    /// Another descriptor of this ring, valid for as long as it is kept: other shards ring through it.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        // SAFETY: the descriptor is open for as long as `self.ring` lives, and so for this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        fd.try_clone_to_owned()
    }

    /// Has `bell` count completions while [`Ring::announce`] is on.
    pub(super) fn register_bell(&self, bell: BorrowedFd<'_>) -> io::Result<()> {
        self.ring.submitter().register_eventfd(bell.as_raw_fd())
    }

    /// Whether completions ring the registered bell.
    pub(super) fn announce(&mut self, on: bool) {
        let completions = self.ring.completion();
        if on { completions.enable_eventfd() } else { completions.disable_eventfd() }
    }

    /// Asks to be told each time `fd` becomes readable or is hung up, until cancelled.
    pub(super) fn watch_readable(&mut self, fd: RawFd, token: Token) {
        let mask = (libc::POLLIN | libc::POLLRDHUP) as u32;
        self.push(&opcode::PollAdd::new(Fd(fd), mask).multi(true).build(), token);
    }

    /// Asks to be told once when `fd` can be written.
    pub(super) fn watch_writable_once(&mut self, fd: RawFd, token: Token) {
        self.push(&opcode::PollAdd::new(Fd(fd), libc::POLLOUT as u32).build(), token);
    }

    /// Ends a watch; its last completion still comes.
    pub(super) fn unwatch(&mut self, token: Token) {
        let entry = opcode::PollRemove::new(token.pack()).build();
        self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS), Token::Nobody);
    }

    /// Posts [`Token::Mail`] into another ring. Only a failure completes here.
    pub(super) fn ring_other(&mut self, ring: RawFd, shard: u16) {
        let entry = opcode::MsgRingData::new(Fd(ring), 0, Token::Mail.pack(), None).build();
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&entry, Token::MailFailed(u32::from(shard)));
    }

    /// Asks for bytes to be written at `at`; with `durable` the completion comes after they are safe on the device.
    ///
    /// # Safety
    /// `bytes` must stay where they are, unchanged, until the token's completion has come.
    pub(super) unsafe fn write(
        &mut self,
        fd: RawFd,
        at: u64,
        bytes: &[u8],
        durable: bool,
        token: Token,
    ) {
        assert!(!bytes.is_empty() && bytes.len() <= u32::MAX as usize, "a write has a length");
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let entry = opcode::Write::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32);
        self.push(&entry.offset(at).rw_flags(flags).build(), token);
    }

    /// As [`Ring::write`], of several pieces that come one after the other.
    ///
    /// # Safety
    /// The table and what it names must stay where they are, unchanged, until the token's completion has come.
    pub(super) unsafe fn write_pieces(
        &mut self,
        fd: RawFd,
        at: u64,
        pieces: &[libc::iovec],
        durable: bool,
        token: Token,
    ) {
        assert!(pieces.len() > 1, "one piece needs no table");
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let entry = opcode::Writev::new(Fd(fd), pieces.as_ptr(), pieces.len() as u32);
        self.push(&entry.offset(at).rw_flags(flags).build(), token);
    }

    /// Asks for what was written to a file to be made durable, with what is needed to read it.
    pub(super) fn sync(&mut self, fd: RawFd, token: Token) {
        let entry = opcode::Fsync::new(Fd(fd)).flags(FsyncFlags::DATASYNC);
        self.push(&entry.build(), token);
    }

    /// Asks for bytes at `at` to be read into `into`.
    ///
    /// # Safety
    /// `into` must stay where it is, and be looked at by nobody, until the token's completion has come.
    pub(super) unsafe fn read(
        &mut self,
        fd: RawFd,
        at: u64,
        into: *mut u8,
        len: u32,
        token: Token,
    ) {
        assert!(len > 0, "a read of nothing would pass for the end of the file");
        let entry = opcode::Read::new(Fd(fd), into, len).offset(at);
        self.push(&entry.build(), token);
    }

    /// Whether something is asked that the kernel has not been told.
    pub(super) fn has_unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Tells the kernel all that is asked.
    ///
    /// # Errors
    /// The ring is broken. That completions must be taken first is no error: what is left goes with the next call.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        settle(self.ring.submit())
    }

    /// Tells the kernel all that is asked and sleeps until something completes, or for `timeout`.
    ///
    /// # Errors
    /// The ring is broken.
    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::from(timeout);
        settle(self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout)))
    }

    /// Whether a completion is there to be taken, or will be once the kernel is entered.
    pub(super) fn is_ready(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    /// Moves up to `max` completions to `into`.
    pub(super) fn drain(&mut self, into: &mut Vec<Done>, max: usize) {
        let done = |entry: cqueue::Entry| Done {
            token: Token::unpack(entry.user_data()),
            result: entry.result(),
            more: cqueue::more(entry.flags()),
        };
        if self.ring.submission().taskrun() {
            // Entering posts what waits.
            self.submit().expect("a ring that was set up takes submissions");
        }
        into.extend(self.ring.completion().take(max).map(done));
        if self.ring.submission().cq_overflow() {
            // The kernel moves its own list into the queue when it is entered to look for completions.
            let at_once = SubmitArgs::new();
            let flushed = self.ring.submitter().submit_with_args(0, &at_once);
            debug_assert!(settle(flushed).is_ok(), "a full queue is not a broken ring");
        }
    }

    fn push(&mut self, entry: &squeue::Entry, token: Token) {
        let entry = entry.clone().user_data(token.pack());
        loop {
            // SAFETY: the entry points at memory only if it is a read or a write, whose callers promise that it stays
            // valid until the completion; descriptors are checked by the kernel.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                return;
            }
            self.submit().expect("a ring that was set up takes submissions");
        }
    }
}

/// Splits what passes by itself from what is broken.
fn settle(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A completion of one connection must never be taken for another's, nor for a disk operation's.
    #[test]
    fn tokens_survive_the_ring() {
        let tokens = [
            Token::Readable(0, 0),
            Token::Readable(u32::MAX, LIFE_MASK),
            Token::Writable(7, 3),
            Token::Disk(u32::MAX),
            Token::Bell,
            Token::Mail,
            Token::MailFailed(63),
            Token::Nobody,
        ];
        for (i, token) in tokens.iter().enumerate() {
            assert_eq!(Token::unpack(token.pack()), *token);
            assert!(tokens[..i].iter().all(|other| other.pack() != token.pack()));
        }
    }

    /// When more completes than the queue holds, the kernel keeps the rest aside: forgetting them would leave a write
    /// unacknowledged for ever.
    #[test]
    fn no_completion_is_lost_when_the_queue_overflows() {
        let mut ring = Ring::new().unwrap();
        let asked = 3 * COMPLETIONS;
        for _ in 0..asked {
            // Fails at once, for there is no such poll.
            ring.push(&opcode::PollRemove::new(1).build(), Token::Disk(1));
        }
        let mut done = Vec::new();
        while done.len() < asked as usize {
            ring.submit().unwrap();
            ring.wait(Duration::from_secs(5)).unwrap();
            let before = done.len();
            ring.drain(&mut done, usize::MAX);
            assert!(before < done.len(), "{before} of {asked}");
        }
    }
}

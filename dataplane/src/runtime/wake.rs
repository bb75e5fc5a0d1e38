//! How a shard is woken: its doorbell, from any thread.
//!
//! Work for a shard lies in a queue before the bell is rung, and a shard that is awake looks at its queues in every
//! cycle. Only a shard that has announced its sleep needs the bell, and the first to ring takes the announcement down, so
//! that a sleeping shard is woken once however much comes. The order that makes it safe: the sender puts work into the
//! queue and then reads the announcement; the shard announces and then looks at its queues once more.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Wakes one shard. Shared by all who give it work.
#[derive(Debug)]
pub(super) struct Doorbell {
    eventfd: EventFd,
    /// The shard's ring, once it is set up. A descriptor of its own, so that it stays open for whoever rings.
    ring: OnceLock<OwnedFd>,
    /// The shard sleeps, or is about to and will look at its queues once more before it does.
    asleep: AtomicBool,
}

impl Doorbell {
    /// The bell of a shard that has not started yet.
    pub(super) fn new() -> io::Result<Self> {
        let eventfd = EventFd::new(libc::EFD_NONBLOCK)?;
        Ok(Doorbell { eventfd, ring: OnceLock::new(), asleep: AtomicBool::new(false) })
    }

    /// Tells where the shard's ring is. Once.
    pub(super) fn install(&self, ring: OwnedFd) {
        assert!(self.ring.set(ring).is_ok(), "a shard has one ring");
    }

    /// Wakes the shard if it sleeps. For threads without a ring; call it after the work is in its queue.
    pub(super) fn ring(&self) {
        if self.take_sleeper() {
            self.eventfd.signal();
        }
    }

    /// Whether the shard sleeps and the caller is the one who must wake it.
    pub(super) fn take_sleeper(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst)
    }

    /// Wakes the shard although it has not announced its sleep: when waking it another way has failed.
    pub(super) fn ring_anyway(&self) {
        self.eventfd.signal();
    }

    /// The shard's ring, if it has one.
    pub(super) fn ring_fd(&self) -> Option<RawFd> {
        self.ring.get().map(AsRawFd::as_raw_fd)
    }

    /// The shard announces its sleep; it must look at its queues once more before it sleeps.
    pub(super) fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The shard is awake.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// The descriptor that becomes readable when the bell is rung.
    pub(super) fn fd(&self) -> RawFd {
        self.eventfd.as_fd().as_raw_fd()
    }

    /// Makes the descriptor quiet again.
    pub(super) fn hush(&self) {
        self.eventfd.clear();
    }
}

/// A counter in the kernel that can be waited on.
#[derive(Debug)]
pub(super) struct EventFd(File);

impl EventFd {
    /// A counter at zero. `flags` as in eventfd(2); it is closed on exec anyway.
    pub(super) fn new(flags: i32) -> io::Result<Self> {
        // SAFETY: takes no pointer; the result is checked before use.
        let fd = unsafe { libc::eventfd(0, flags | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else knows it.
        Ok(EventFd(unsafe { File::from_raw_fd(fd) }))
    }

    /// Adds one. Never blocks in practice: the counter has 64 bits.
    pub(super) fn signal(&self) {
        let written = (&self.0).write(&1u64.to_ne_bytes());
        debug_assert!(written.is_ok(), "an eventfd takes eight bytes: {written:?}");
    }

    /// Back to zero. Only for counters that do not block.
    pub(super) fn clear(&self) {
        // Fails when it is zero already, which is as good.
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

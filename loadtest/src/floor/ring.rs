//! Writes of fixed size to one file through an io_uring, with a fixed number in flight.
//!
//! The only unsafe code of the load generator: a ring takes addresses, and Rust cannot know that the kernel uses
//! them. Invariant: a buffer lives in its slot for as long as the ring does, and a slot is submitted only while it is
//! idle, so no buffer is moved, freed or written while the kernel reads it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};

/// Alignment that `O_DIRECT` asks of memory, length and place on every disk of today.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Bytes whose first one stands at a multiple of [`BLOCK_BYTES`].
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// `len` bytes that `fill` makes from their index.
    pub(crate) fn new(len: usize, mut fill: impl FnMut(usize) -> u8) -> Self {
        let mut storage = vec![0; len + BLOCK_BYTES];
        let start = storage.as_ptr().align_offset(BLOCK_BYTES);
        for (index, byte) in storage[start..start + len].iter_mut().enumerate() {
            *byte = fill(index);
        }
        AlignedBytes { storage, start, len }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

/// One write of the loop.
struct Slot {
    buffer: AlignedBytes,
    submitted: Option<Instant>,
}

/// A ring with one file and a buffer for each write in flight.
pub(crate) struct WriteRing {
    ring: IoUring,
    file: File,
    slots: Vec<Slot>,
    durable: bool,
}

impl WriteRing {
    /// A ring over `file`, which must be open for `O_DIRECT` writing. `durable` syncs each write (`RWF_DSYNC`).
    pub(crate) fn new(file: File, buffers: Vec<AlignedBytes>, durable: bool) -> io::Result<Self> {
        assert!(!buffers.is_empty(), "a ring without buffers never writes");
        let entries = buffers.len().next_power_of_two() as u32;
        let ring = IoUring::builder().setup_single_issuer().build(entries)?;
        let slots = buffers.into_iter().map(|buffer| Slot { buffer, submitted: None }).collect();
        Ok(WriteRing { ring, file, slots, durable })
    }

    /// Slots without a write in flight.
    pub(crate) fn idle(&self) -> usize {
        self.slots.iter().filter(|slot| slot.submitted.is_none()).count()
    }

    /// Hands slot `index`, which must be idle, to the kernel, to be written at byte `at`. [`WriteRing::wait`] starts it.
    pub(crate) fn push(&mut self, index: usize, at: u64) {
        let slot = &mut self.slots[index];
        assert!(slot.submitted.is_none(), "one write a slot");
        let (bytes, file) = (slot.buffer.bytes(), types::Fd(self.file.as_raw_fd()));
        let flags = if self.durable { libc::RWF_DSYNC } else { 0 };
        let write = opcode::Write::new(file, bytes.as_ptr(), bytes.len() as u32)
            .offset(at)
            .rw_flags(flags)
            .build()
            .user_data(index as u64);
        slot.submitted = Some(Instant::now());
        // SAFETY: the buffer and the file live as long as the ring (fields of one struct that hands out neither), and
        // the assertion above keeps the buffer of a write in flight from being submitted twice. Nothing writes to it.
        unsafe { self.ring.submission().push(&write) }
            .expect("the ring has an entry for each slot");
    }

    /// Starts what was pushed, waits for at least one write, and calls `done` with slot and latency in ns of each.
    pub(crate) fn wait(&mut self, mut done: impl FnMut(usize, u64)) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for completion in self.ring.completion() {
            let index = completion.user_data() as usize;
            let slot = &mut self.slots[index];
            let submitted = slot.submitted.take().expect("a completion belongs to a submission");
            if completion.result() != slot.buffer.bytes().len() as i32 {
                return Err(io::Error::from_raw_os_error(completion.result().saturating_neg()));
            }
            done(index, submitted.elapsed().as_nanos() as u64);
        }
        Ok(())
    }
}

impl Drop for WriteRing {
    fn drop(&mut self) {
        while self.idle() < self.slots.len() {
            if self.wait(|_, _| {}).is_err() {
                // The kernel may still read a buffer: better to lose the memory than to hand it out again.
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
        }
    }
}

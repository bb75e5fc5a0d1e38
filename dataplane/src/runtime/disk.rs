//! Disk operations in flight: what the kernel was asked, with the buffers it uses, until it has answered.
//!
//! Invariant: the buffer of an operation is owned here from before the ring is asked until its last completion has been
//! taken, and is neither moved nor looked at meanwhile.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

use log::aligned::{AlignedBuf, BLOCK_BYTES};
use log::disk::{Blocks, Completed, Completion, LogKey, Ticket};

use super::ring::{Ring, Token};
use super::stats::Counters;

/// All operations of one shard that the ring has not finished.
#[derive(Default)]
pub(super) struct InFlight {
    operations: Vec<Option<Operation>>,
    free: Vec<u32>,
    /// Where it is counted how long they took.
    counters: Arc<Counters>,
}

/// Whose operation it is and where in which file it works.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) log: LogKey,
    pub(super) ticket: Ticket,
    pub(super) fd: RawFd,
    pub(super) at: u64,
}

/// One read, write or sync.
struct Operation {
    place: Place,
    /// Bytes of the buffer that are done: the kernel may do less than it was asked.
    done: usize,
    buffer: Buffer,
    since: Instant,
}

enum Buffer {
    Write {
        bytes: Blocks,
        durable: bool,
        /// Where the kernel finds what is left of several pieces.
        table: Vec<libc::iovec>,
    },
    Read {
        into: AlignedBuf,
    },
    /// There is none: the whole file is synced.
    Sync,
}

enum Step {
    /// A part is done; the rest must be asked for.
    Goes,
    Over(io::Result<()>),
}

impl InFlight {
    /// None yet.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        InFlight { operations: Vec::new(), free: Vec::new(), counters }
    }

    /// Asks for a write of `bytes`; with `durable` it is over when they are on the device.
    pub(super) fn write(&mut self, ring: &mut Ring, place: Place, bytes: Blocks, durable: bool) {
        self.start(ring, place, Buffer::Write { bytes, durable, table: Vec::new() });
    }

    /// Asks for a read of `len` bytes.
    pub(super) fn read(&mut self, ring: &mut Ring, place: Place, len: u32) {
        self.start(ring, place, Buffer::Read { into: AlignedBuf::zeroed(len as usize) });
    }

    /// Asks for what was written to a file to be made durable. The place's byte does not matter.
    pub(super) fn sync(&mut self, ring: &mut Ring, place: Place) {
        self.start(ring, place, Buffer::Sync);
    }

    /// Takes the completion of operation `index`. `None` when it goes on: the kernel had done a part.
    pub(super) fn complete(
        &mut self,
        ring: &mut Ring,
        index: u32,
        result: i32,
    ) -> Option<Completion> {
        let slot = &mut self.operations[index as usize];
        let operation = slot.as_mut().expect("an operation completes once");
        let result = match operation.advance(result) {
            Step::Goes => {
                self.ask(ring, index);
                return None;
            }
            Step::Over(result) => result,
        };
        let Operation { place, done, buffer, since } =
            slot.take().expect("it was there a line ago");
        self.free.push(index);
        let result = match buffer {
            Buffer::Write { .. } => {
                self.counters.disk_write_durations.add(since.elapsed());
                Completed::Written(result)
            }
            Buffer::Read { mut into } => {
                into.truncate(done);
                Completed::Read(result.map(|()| into.into()))
            }
            Buffer::Sync => Completed::Synced(result),
        };
        Some(Completion { log: place.log, ticket: place.ticket, result })
    }

    /// How many are in flight.
    pub(super) fn count(&self) -> usize {
        self.operations.len() - self.free.len()
    }

    fn start(&mut self, ring: &mut Ring, place: Place, buffer: Buffer) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.operations.push(None);
            self.operations.len() as u32 - 1
        });
        let slot = &mut self.operations[index as usize];
        assert!(slot.is_none(), "a free place holds no operation");
        *slot = Some(Operation { place, done: 0, buffer, since: Instant::now() });
        self.ask(ring, index);
    }

    /// Asks the ring for what is left of an operation.
    fn ask(&mut self, ring: &mut Ring, index: u32) {
        let operation = self.operations[index as usize].as_mut();
        let Operation { place, done, buffer, .. } =
            operation.expect("asked for an operation in flight");
        assert!(place.fd >= 0, "an operation is on an open file");
        let at = place.at + *done as u64;
        match buffer {
            Buffer::Write { bytes, durable, table } => {
                let mut rest = rest_of(bytes, *done);
                let first = rest.next().expect("something is left to be written");
                let Some(second) = rest.next() else {
                    // SAFETY: `bytes` is immutable, shared memory that this table keeps until the completion.
                    return unsafe {
                        ring.write(place.fd, at, first, *durable, Token::Disk(index))
                    };
                };
                table.clear();
                table.extend([first, second].into_iter().chain(rest).map(|piece| libc::iovec {
                    iov_base: piece.as_ptr().cast_mut().cast(),
                    iov_len: piece.len(),
                }));
                // SAFETY: as above; the table, too, stays as it is until the completion.
                unsafe { ring.write_pieces(place.fd, at, table, *durable, Token::Disk(index)) }
            }
            Buffer::Read { into } => {
                let rest = &mut into.as_mut_slice()[*done..];
                let (start, len) = (rest.as_mut_ptr(), rest.len() as u32);
                // SAFETY: the memory is the buffer's own allocation, which this table keeps and does not touch until
                // the completion; moving the handle does not move it.
                unsafe { ring.read(place.fd, at, start, len, Token::Disk(index)) }
            }
            Buffer::Sync => ring.sync(place.fd, Token::Disk(index)),
        }
    }
}

/// The pieces of a write behind its first `done` bytes.
fn rest_of(bytes: &Blocks, mut done: usize) -> impl Iterator<Item = &[u8]> {
    let rest = bytes.pieces().map(move |piece| {
        let skipped = done.min(piece.len());
        done -= skipped;
        &piece[skipped..]
    });
    rest.filter(|piece| !piece.is_empty())
}

impl Drop for InFlight {
    /// The kernel may still use what is in flight: memory that is lost is better than memory overwritten later.
    fn drop(&mut self) {
        self.operations.drain(..).flatten().for_each(std::mem::forget);
    }
}

impl Operation {
    fn advance(&mut self, result: i32) -> Step {
        let (len, is_read) = match &self.buffer {
            Buffer::Write { bytes, .. } => (bytes.len(), false),
            Buffer::Read { into } => (into.as_slice().len(), true),
            // Whatever the reason, a sync that has failed is not tried again.
            Buffer::Sync if result < 0 => {
                return Step::Over(Err(io::Error::from_raw_os_error(-result)));
            }
            Buffer::Sync => return Step::Over(Ok(())),
        };
        if result == -libc::EINTR || result == -libc::EAGAIN {
            return Step::Goes;
        }
        if result < 0 {
            return Step::Over(Err(io::Error::from_raw_os_error(-result)));
        }
        if result == 0 && self.done < len {
            // Nothing more to read: a read gives what there is. A write that writes nothing never will.
            let nothing = if is_read { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) };
            return Step::Over(nothing);
        }
        self.done += result as usize;
        assert!(self.done <= len, "the kernel does no more than it was asked");
        // A read that ends within a block has met the end of the file, and no direct read can start there.
        let is_at_end = is_read && !self.done.is_multiple_of(BLOCK_BYTES);
        if self.done == len || is_at_end { Step::Over(Ok(())) } else { Step::Goes }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use super::*;

    fn place(file: &File, at: u64, ticket: u64) -> Place {
        let log = LogKey { generation: 1, log: 0 };
        Place { log, ticket: Ticket(ticket), fd: file.as_raw_fd(), at }
    }

    /// `bytes` in pieces of a block each.
    fn blocks(bytes: &[u8]) -> Blocks {
        let mut pieces = bytes.chunks(BLOCK_BYTES).map(|piece| AlignedBuf::copy_of(piece).into());
        let mut blocks = Blocks::from(pieces.next().unwrap());
        pieces.for_each(|piece| blocks.push(piece));
        blocks
    }

    fn finish(ring: &mut Ring, in_flight: &mut InFlight) -> Vec<Completion> {
        let (mut done, mut completions) = (Vec::new(), Vec::new());
        while in_flight.count() > 0 {
            ring.wait(Duration::from_secs(10)).unwrap();
            ring.drain(&mut done, usize::MAX);
            for event in done.drain(..) {
                let Token::Disk(index) = event.token else { panic!("{event:?}") };
                completions.extend(in_flight.complete(ring, index, event.result));
            }
        }
        completions
    }

    /// What is written durably comes back byte for byte; a read past the end gives what there is, whole blocks or not.
    #[test]
    fn bytes_come_back_and_reads_end_with_the_file() {
        let file = tempfile::tempfile().unwrap();
        let (mut ring, mut in_flight) = (Ring::new().unwrap(), InFlight::default());
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES).map(|at| (at % 251) as u8).collect();
        in_flight.write(&mut ring, place(&file, 0, 1), blocks(&bytes), true);
        let written = finish(&mut ring, &mut in_flight);
        assert!(matches!(
            &written[..],
            [Completion { ticket: Ticket(1), result: Completed::Written(Ok(())), .. }]
        ));
        file.set_len(2 * BLOCK_BYTES as u64 + 100).unwrap();
        for (ticket, at, expected) in
            [(2, 0, 2 * BLOCK_BYTES + 100), (3, 2 * BLOCK_BYTES, 100), (4, 3 * BLOCK_BYTES, 0)]
        {
            in_flight.read(&mut ring, place(&file, at as u64, ticket), 4 * BLOCK_BYTES as u32);
            let read = finish(&mut ring, &mut in_flight).pop().unwrap();
            let Completed::Read(Ok(got)) = read.result else { panic!("{read:?}") };
            assert_eq!(got[..], bytes[at..][..expected], "{ticket}");
        }
    }

    /// A sync must end once, well on a file and with the kernel's reason on what cannot be synced: the log counts what
    /// it covers as durable, or stops.
    #[test]
    fn syncs_end_with_what_the_kernel_says() {
        let file = tempfile::tempfile().unwrap();
        let (mut ring, mut in_flight) = (Ring::new().unwrap(), InFlight::default());
        let block = || blocks(&[0; BLOCK_BYTES]);
        in_flight.write(&mut ring, place(&file, 0, 1), block(), false);
        let written = finish(&mut ring, &mut in_flight).pop().unwrap();
        assert!(matches!(written.result, Completed::Written(Ok(()))), "{written:?}");
        in_flight.sync(&mut ring, place(&file, 0, 2));
        let synced = finish(&mut ring, &mut in_flight).pop().unwrap();
        assert!(matches!(synced.result, Completed::Synced(Ok(()))), "{synced:?}");
        assert_eq!(synced.ticket, Ticket(2));
        let null = File::open("/dev/null").unwrap();
        in_flight.sync(&mut ring, place(&null, 0, 3));
        let failed = finish(&mut ring, &mut in_flight).pop().unwrap();
        let Completed::Synced(Err(error)) = failed.result else { panic!("{failed:?}") };
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    /// The kernel may do a part of a write of several pieces and stop anywhere: the rest, and nothing else, is written.
    #[test]
    fn what_is_left_of_several_pieces() {
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES).map(|at| (at % 251) as u8).collect();
        let blocks = blocks(&bytes);
        for done in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 7, 3 * BLOCK_BYTES] {
            assert_eq!(
                rest_of(&blocks, done).collect::<Vec<_>>().concat(),
                bytes[done..],
                "{done}"
            );
        }
    }

    /// An operation on a file that does not take it must end with the kernel's reason: the log stops on it.
    #[test]
    fn failures_come_back() {
        let file = File::open("/dev/null").unwrap();
        let (mut ring, mut in_flight) = (Ring::new().unwrap(), InFlight::default());
        in_flight.write(&mut ring, place(&file, 0, 7), blocks(&[0; BLOCK_BYTES]), true);
        let failed = finish(&mut ring, &mut in_flight).pop().unwrap();
        let Completed::Written(Err(error)) = failed.result else { panic!("{failed:?}") };
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}

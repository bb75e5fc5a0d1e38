//! The two buffers between a connection's bytes and hyper, which takes them for a socket.
//!
//! In comes what the runtime has read and hyper has not taken yet; the session stops the reading when that is much. Out goes
//! what hyper has written, as long as not too much waits for the peer already.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

/// An emptied buffer of more than this is given back.
const KEPT_BYTES: usize = 4 << 10;

/// Both ends of the pipe share it; they live on one core.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipe(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    input: Vec<u8>,
    /// How much of the input hyper has taken.
    taken: usize,
    output: Vec<u8>,
    /// Bytes that may still be written; the write that crosses it is taken whole.
    room: usize,
}

impl Pipe {
    /// Bytes from the peer.
    pub(super) fn put(&self, bytes: &[u8]) {
        self.0.borrow_mut().input.extend_from_slice(bytes);
    }

    /// How many of them hyper has not taken.
    pub(super) fn input_len(&self) -> usize {
        let state = self.0.borrow();
        state.input.len() - state.taken
    }

    /// Whether what is there begins with `start`; `None` as long as it may become so.
    pub(super) fn begins_with(&self, start: &[u8]) -> Option<bool> {
        let state = self.0.borrow();
        let found = &state.input[state.taken..];
        let common = found.len().min(start.len());
        if found[..common] != start[..common] {
            return Some(false);
        }
        (common == start.len()).then_some(true)
    }

    /// How much may be written until the next call.
    pub(super) fn set_room(&self, bytes: usize) {
        self.0.borrow_mut().room = bytes;
    }

    /// Moves what hyper has written behind `out`. Returns how much it was.
    pub(super) fn take_output(&self, out: &mut Vec<u8>) -> usize {
        let mut state = self.0.borrow_mut();
        let bytes = state.output.len();
        out.extend_from_slice(&state.output);
        state.output.clear();
        if state.output.capacity() > KEPT_BYTES {
            state.output = Vec::new();
        }
        bytes
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        let state = self.0.borrow();
        state.input.capacity() + state.output.capacity()
    }

    /// Gives back what an idle connection needs not.
    pub(super) fn trim(&self) {
        let mut state = self.0.borrow_mut();
        if state.input.len() == state.taken && state.output.is_empty() {
            let room = state.room;
            *state = State { room, ..State::default() };
        }
    }
}

impl State {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.output.extend_from_slice(bytes);
        self.room = self.room.saturating_sub(bytes.len());
        bytes.len()
    }
}

impl Read for Pipe {
    // No waker is kept, here and below: the session polls again whenever bytes have come or gone.
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        let found = &state.input[state.taken..];
        if found.is_empty() {
            return Poll::Pending;
        }
        let count = found.len().min(buffer.remaining());
        buffer.put_slice(&found[..count]);
        state.taken += count;
        if state.taken == state.input.len() {
            state.taken = 0;
            state.input.clear();
            if state.input.capacity() > KEPT_BYTES {
                state.input = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        if state.room == 0 {
            return Poll::Pending;
        }
        Poll::Ready(Ok(state.write(bytes)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        if state.room == 0 {
            return Poll::Pending;
        }
        Poll::Ready(Ok(slices.iter().map(|slice| state.write(slice)).sum()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use hyper::rt::ReadBuf;

    use super::*;

    fn read(pipe: &mut Pipe, bytes: usize) -> Option<Vec<u8>> {
        let mut space = vec![0; bytes];
        let mut buffer = ReadBuf::new(&mut space);
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(pipe).poll_read(&mut context, buffer.unfilled()) {
            Poll::Ready(read) => read.map(|()| buffer.filled().to_vec()).ok(),
            Poll::Pending => None,
        }
    }

    /// Bytes that come in pieces of any size must be read once and in order, and an empty pipe is not an end of stream.
    #[test]
    fn bytes_are_read_once_and_in_order() {
        let mut pipe = Pipe::default();
        assert_eq!(read(&mut pipe, 8), None);
        let (mut put, mut got) = (Vec::new(), Vec::new());
        for round in 0..500usize {
            let bytes: Vec<u8> = (0..round % 37).map(|byte| (byte * round) as u8).collect();
            pipe.put(&bytes);
            put.extend_from_slice(&bytes);
            got.extend(read(&mut pipe, 1 + round % 29).unwrap_or_default());
            assert_eq!(pipe.input_len(), put.len() - got.len());
        }
        while let Some(bytes) = read(&mut pipe, 64) {
            got.extend(bytes);
        }
        assert_eq!(put, got);
    }

    /// A peer that takes nothing must not make the server keep what is written for it.
    #[test]
    fn writing_ends_where_the_room_does() {
        let mut pipe = Pipe::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut write = |pipe: &mut Pipe| Pin::new(pipe).poll_write(&mut context, &[7; 10]);
        assert!(write(&mut pipe).is_pending());
        pipe.set_room(15);
        assert!(write(&mut pipe).is_ready() && write(&mut pipe).is_ready());
        assert!(write(&mut pipe).is_pending());
        let mut out = Vec::new();
        assert_eq!(pipe.take_output(&mut out), 20);
        assert_eq!(out, [7; 20]);
    }

    /// The first bytes decide between HTTP/1 and HTTP/2, however they are cut.
    #[test]
    fn beginning_is_told_as_soon_as_it_can_be() {
        let pipe = Pipe::default();
        assert_eq!(pipe.begins_with(b"PRI *"), None);
        pipe.put(b"PR");
        assert_eq!(pipe.begins_with(b"PRI *"), None);
        assert_eq!(pipe.begins_with(b"GET"), Some(false));
        pipe.put(b"I *");
        assert_eq!(pipe.begins_with(b"PRI *"), Some(true));
    }
}

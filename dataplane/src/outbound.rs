//! What waits to be sent on one connection: small bytes made here, and bodies shared with the log.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Chunks for one vectored write. Bodies are shared, never copied.
#[derive(Debug, Default)]
pub struct Outbound {
    chunks: VecDeque<Bytes>,
    /// Small bytes that follow the last chunk.
    open: Vec<u8>,
    pending: usize,
}

impl Outbound {
    /// Small bytes are appended here: frame headers, acks.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.open
    }

    /// A body, sent from where it stands.
    pub fn share(&mut self, body: Bytes) {
        self.close_open();
        self.pending += body.len();
        self.chunks.push_back(body);
    }

    /// Bytes not yet sent.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending + self.open.len()
    }

    /// Whether all is sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending_bytes() == 0
    }

    /// Fills `slices` with what comes next, and returns how many were filled.
    pub fn fill<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.close_open();
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    /// The first `sent` bytes have left. Buffers of an emptied connection are freed, so that idle ones cost nothing.
    pub fn advance(&mut self, mut sent: usize) {
        assert!(sent <= self.pending_bytes(), "only what was pending can have been sent");
        self.close_open();
        self.pending -= sent;
        while sent > 0 {
            let chunk = self.chunks.front_mut().expect("pending counts the chunks");
            if sent < chunk.len() {
                chunk.advance(sent);
                return;
            }
            sent -= chunk.len();
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() && self.chunks.capacity() > 64 {
            self.chunks = VecDeque::new();
        }
    }

    fn close_open(&mut self) {
        if !self.open.is_empty() {
            self.pending += self.open.len();
            self.chunks.push_back(Bytes::from(std::mem::take(&mut self.open)));
        }
    }
}

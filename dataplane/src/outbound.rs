//! What waits to be sent on one connection: small bytes made here, and bodies shared with the log.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Chunks for one vectored write. Bodies are shared, never copied.
#[derive(Debug, Default)]
pub struct Outbound {
    chunks: VecDeque<Chunk>,
    /// Small bytes that follow the last chunk.
    open: Vec<u8>,
    pending: usize,
    /// Bytes of the chunks that were made here.
    own: usize,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    is_shared: bool,
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
        self.chunks.push_back(Chunk { bytes: body, is_shared: true });
    }

    /// Bytes not yet sent.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending + self.open.len()
    }

    /// Those of them that were made here: nobody else counts them.
    #[must_use]
    pub fn own_bytes(&self) -> usize {
        self.own + self.open.len()
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
            *slice = IoSlice::new(&chunk.bytes);
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
            let now = sent.min(chunk.bytes.len());
            if !chunk.is_shared {
                self.own -= now;
            }
            if now < chunk.bytes.len() {
                chunk.bytes.advance(now);
                return;
            }
            sent -= now;
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() && self.chunks.capacity() > 64 {
            self.chunks = VecDeque::new();
        }
    }

    fn close_open(&mut self) {
        if !self.open.is_empty() {
            self.pending += self.open.len();
            self.own += self.open.len();
            let bytes = Bytes::from(std::mem::take(&mut self.open));
            self.chunks.push_back(Chunk { bytes, is_shared: false });
        }
    }
}

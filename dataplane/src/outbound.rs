//! What waits to be sent on one connection: small bytes made here, and bodies shared with the log.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// An emptied buffer of more than this is freed at once; a smaller one when the connection has been quiet.
const KEPT_BYTES: usize = 4 << 10;
/// Places for bodies that an emptied connection keeps.
const KEPT_BODIES: usize = 64;
/// Small bytes that were sent are cut off once there are so many, and more than are left.
const CUT_BYTES: usize = 4 << 10;

/// Pieces for one vectored write. Bodies are shared, never copied. In steady state nothing is allocated: the two
/// buffers for small bytes change places, and an emptied one is used again.
///
/// ```text
///   small:   ...sent...|--------|-----|---------|      open: |-----
///            ^ 0       ^ sent   ^     ^ bodies[1].at         what follows, and may still be changed
///                               bodies[0].at
/// ```
///
/// Invariant: `sent <= bodies[0].at <= bodies[1].at <= ... <= small.len()`.
#[derive(Debug, Default)]
pub struct Outbound {
    /// Small bytes that stand fast, in order.
    small: Vec<u8>,
    /// How many of `small` have left.
    sent: usize,
    bodies: VecDeque<Body>,
    /// Bytes of the bodies.
    bodies_bytes: usize,
    /// Small bytes that follow all else.
    open: Vec<u8>,
}

/// A body and its place among the small bytes.
#[derive(Debug)]
struct Body {
    /// It goes before the small byte of this index.
    at: usize,
    bytes: Bytes,
}

impl Outbound {
    /// Small bytes are appended here: frame headers, acks. Empty again once a body follows or something is sent.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.open
    }

    /// A body, sent from where it stands.
    pub fn share(&mut self, body: Bytes) {
        self.close_open();
        if !body.is_empty() {
            self.bodies_bytes += body.len();
            self.bodies.push_back(Body { at: self.small.len(), bytes: body });
            self.check();
        }
    }

    /// The ends of the chain of bodies; those between were the last one once.
    fn check(&self) {
        let first = self.bodies.front().map_or(self.small.len(), |body| body.at);
        assert!(self.sent <= first, "small bytes before a body leave before it");
        let last = self.bodies.back().map_or(first, |body| body.at);
        assert!(first <= last && last <= self.small.len(), "bodies stand among the small bytes");
        assert!(
            self.bodies.is_empty() == (self.bodies_bytes == 0),
            "the bytes of the bodies are counted"
        );
    }

    /// Bytes not yet sent.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.small.len() - self.sent + self.bodies_bytes + self.open.len()
    }

    /// Those of them that were made here: nobody else counts them.
    #[must_use]
    pub fn own_bytes(&self) -> usize {
        self.small.len() - self.sent + self.open.len()
    }

    /// Whether all is sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending_bytes() == 0
    }

    /// Fills `slices` with what comes next, and returns how many were filled.
    pub fn fill<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.close_open();
        let mut free = slices.iter_mut();
        let left = free.len();
        let mut from = self.sent;
        for body in &self.bodies {
            if from < body.at {
                let Some(slice) = free.next() else { return left };
                *slice = IoSlice::new(&self.small[from..body.at]);
                from = body.at;
            }
            let Some(slice) = free.next() else { return left };
            *slice = IoSlice::new(&body.bytes);
        }
        if from < self.small.len()
            && let Some(slice) = free.next()
        {
            *slice = IoSlice::new(&self.small[from..]);
        }
        left - free.len()
    }

    /// The first `count` bytes have left.
    pub fn advance(&mut self, mut count: usize) {
        assert!(count <= self.pending_bytes(), "only what was pending can have been sent");
        self.close_open();
        while let Some(body) = self.bodies.front_mut() {
            let before = count.min(body.at - self.sent);
            self.sent += before;
            count -= before;
            if self.sent < body.at {
                break;
            }
            let part = count.min(body.bytes.len());
            body.bytes.advance(part);
            self.bodies_bytes -= part;
            count -= part;
            if !body.bytes.is_empty() {
                break;
            }
            self.bodies.pop_front();
        }
        if self.bodies.is_empty() {
            self.sent += count;
            count = 0;
        }
        assert!(count == 0 && self.sent <= self.small.len(), "every byte that left was found");
        self.cut();
        self.check();
    }

    /// Frees the memory of a connection that has nothing to send: idle ones cost nothing.
    pub fn trim(&mut self) {
        if self.is_empty() {
            *self = Outbound::default();
        }
    }

    /// Makes the open bytes stand fast behind the others.
    fn close_open(&mut self) {
        if self.open.is_empty() {
            return;
        }
        if self.small.is_empty() {
            std::mem::swap(&mut self.small, &mut self.open);
        } else {
            self.small.extend_from_slice(&self.open);
            self.open.clear();
        }
    }

    /// Cuts off the small bytes that have left.
    fn cut(&mut self) {
        if self.is_empty() {
            self.small.clear();
            self.sent = 0;
            for buffer in [&mut self.small, &mut self.open] {
                if buffer.capacity() > KEPT_BYTES {
                    *buffer = Vec::new();
                }
            }
            if self.bodies.capacity() > KEPT_BODIES {
                self.bodies = VecDeque::new();
            }
        } else if self.sent >= CUT_BYTES && self.sent >= self.small.len() - self.sent {
            self.small.drain(..self.sent);
            self.bodies.iter_mut().for_each(|body| body.at -= self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes next, up to `slices` pieces of it.
    fn next(out: &mut Outbound, slices: usize) -> Vec<u8> {
        let mut pieces = vec![IoSlice::new(&[]); slices];
        let filled = out.fill(&mut pieces);
        pieces[..filled].iter().flat_map(|piece| piece.to_vec()).collect()
    }

    /// A peer takes any number of bytes at a time while more is said to it: whatever the cuts, it must get every byte
    /// once and in order, or its frames fall apart.
    #[test]
    fn every_byte_leaves_once_and_in_order() {
        for step in [1, 3, 7, 64, 1_000, 5_000, 100_000] {
            let (mut out, mut said, mut heard) = (Outbound::default(), Vec::new(), Vec::new());
            for round in 0..200usize {
                let small: Vec<u8> = (0..round % 90).map(|byte| (byte + round) as u8).collect();
                out.bytes().extend_from_slice(&small);
                said.extend_from_slice(&small);
                if round % 3 == 0 {
                    let body: Vec<u8> = (0..round * 7 % 300).map(|byte| byte as u8).collect();
                    said.extend_from_slice(&body);
                    out.share(body.into());
                }
                let bytes = next(&mut out, 1 + round % 5);
                let taken = bytes.len().min(step);
                heard.extend_from_slice(&bytes[..taken]);
                out.advance(taken);
                assert_eq!(out.pending_bytes(), said.len() - heard.len(), "step {step}");
            }
            while !out.is_empty() {
                let bytes = next(&mut out, 4);
                let taken = bytes.len().min(step);
                heard.extend_from_slice(&bytes[..taken]);
                out.advance(taken);
            }
            assert!(said == heard, "step {step}");
        }
    }

    /// A peer that always has something outbound must not make its connection hold what has left long ago.
    #[test]
    fn what_has_left_is_given_back() {
        let mut out = Outbound::default();
        out.bytes().extend_from_slice(&[0; 100]);
        for _ in 0..10_000 {
            out.bytes().extend_from_slice(&[1; 100]);
            assert!(!next(&mut out, 4).is_empty());
            out.advance(100);
        }
        assert_eq!(out.pending_bytes(), 100);
        assert!(out.small.capacity() <= 4 * CUT_BYTES, "{}", out.small.capacity());
        out.advance(100);
        out.trim();
        assert_eq!(out.small.capacity() + out.open.capacity() + out.bodies.capacity(), 0);
    }

    /// Bytes that were handed to the socket must not be changed any more: an ack added to a frame whose length has left
    /// would be read as the next frame.
    #[test]
    fn bytes_that_were_filled_are_out_of_reach() {
        let mut out = Outbound::default();
        out.bytes().extend_from_slice(b"frame");
        assert_eq!(next(&mut out, 1), b"frame");
        out.advance(2);
        assert!(out.bytes().is_empty(), "what is partly sent stands fast");
        out.bytes().extend_from_slice(b"+");
        assert_eq!(next(&mut out, 2), b"ame+");
    }
}

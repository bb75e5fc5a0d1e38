//! Deliveries and what becomes of them.
//!
//! ```text
//! delivery                                       settle: entries, one after the other
//!  0 u32 attempt, from 1                          0 u8  verdict: 0 done, 1 retry
//!  4 u8  bytes of the token                       1 u8  bytes of the token
//!  5 u8  selection: 0 all, 1 bitmap               2 u16 bytes of the bitmap, 0 = all delivered
//!  6 u16 bytes of the bitmap                      4 u32 reserved, 0
//!  8 token, bitmap, batch                         8 token, bitmap
//! ```
//!
//! Bit i of a bitmap (bit `i % 8` of byte `i / 8`, the lowest bit first) is event i of the batch. A bitmap has exactly
//! `ceil(count / 8)` bytes, and the bits beyond the count are 0.

use super::reader::{Reader, limit};
use super::{FRAME_HEADER_BYTES, Kind, encode_header};
use crate::error::DecodeError;
use crate::limits::{BATCH_EVENTS_MAX, BATCH_HEADER_BYTES};

/// Longest token. It names the delivery to the server, and nothing to the client.
pub const TOKEN_BYTES_MAX: usize = 64;
const BITMAP_BYTES_MAX: usize = BATCH_EVENTS_MAX as usize / 8;
const DELIVERY_FIXED_BYTES: usize = 8;
const SETTLEMENT_FIXED_BYTES: usize = 8;

/// A delivery in front of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryHead<'a> {
    /// How often these events have been delivered to the group, this time included.
    pub attempt: u32,
    /// Names the delivery when it is settled; 1 to [`TOKEN_BYTES_MAX`] bytes.
    pub token: &'a [u8],
    /// Which events of the batch are meant; `None` is all.
    pub bitmap: Option<&'a [u8]>,
}

impl DeliveryHead<'_> {
    /// Appends the frame up to its batch, which has `batch_len` bytes and must follow.
    pub fn encode(&self, subscription: u64, batch_len: usize, out: &mut Vec<u8>) {
        let bitmap = self.bitmap.unwrap_or_default();
        assert!((1..=TOKEN_BYTES_MAX).contains(&self.token.len()), "a token has 1 to 64 bytes");
        assert!(bitmap.len() <= BITMAP_BYTES_MAX, "a bitmap covers one batch");
        let body = DELIVERY_FIXED_BYTES + self.token.len() + bitmap.len() + batch_len;
        encode_header(Kind::Delivery, subscription, body, out);
        out.extend_from_slice(&self.attempt.to_le_bytes());
        out.extend_from_slice(&[self.token.len() as u8, u8::from(self.bitmap.is_some())]);
        out.extend_from_slice(&(bitmap.len() as u16).to_le_bytes());
        out.extend_from_slice(self.token);
        out.extend_from_slice(bitmap);
    }
}

/// A delivery as received.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryFrame<'a> {
    /// What stands in front of the batch.
    pub head: DeliveryHead<'a>,
    /// The bytes of the batch, not yet looked at but for their least length.
    pub batch: &'a [u8],
    /// Where in the frame the batch starts, frame header included.
    pub batch_at: usize,
}

impl<'a> DeliveryFrame<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let attempt = reader.u32("delivery")?;
        let token_len = usize::from(reader.u8("delivery")?);
        let selection = reader.u8("delivery")?;
        let bitmap_len = usize::from(reader.u16("delivery")?);
        check_token_len(token_len)?;
        limit("bitmap bytes", BITMAP_BYTES_MAX, bitmap_len)?;
        let token = reader.bytes(token_len, "token")?;
        let bitmap = reader.bytes(bitmap_len, "bitmap")?;
        let bitmap = match (selection, bitmap) {
            (0, []) => None,
            (1, [_, ..]) => Some(bitmap),
            _ => return Err(DecodeError::Malformed { field: "selection" }),
        };
        let batch = reader.rest();
        if batch.len() < BATCH_HEADER_BYTES as usize {
            return Err(DecodeError::Truncated { field: "batch header" });
        }
        let batch_at = FRAME_HEADER_BYTES + body.len() - batch.len();
        Ok(DeliveryFrame { head: DeliveryHead { attempt, token, bitmap }, batch, batch_at })
    }
}

/// What became of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WireVerdict {
    /// They are processed and never come again to this group.
    Done = 0,
    /// They are to come again.
    Retry = 1,
    /// They will never be processed: to the dead letters. Only for a peer with [`super::FEATURE_REJECT`].
    Reject = 2,
}

/// What became of one delivery, or of some of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement<'a> {
    /// What became of them.
    pub verdict: WireVerdict,
    /// The delivery's token.
    pub token: &'a [u8],
    /// Which events of the batch are meant; `None` is all that the delivery selected.
    pub bitmap: Option<&'a [u8]>,
}

impl<'a> Settlement<'a> {
    /// Bytes of the entry.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        SETTLEMENT_FIXED_BYTES + self.token.len() + self.bitmap.map_or(0, <[u8]>::len)
    }

    /// Appends the entry; [`encode_settle`] puts entries into a frame.
    pub fn encode_entry(&self, out: &mut Vec<u8>) {
        let bitmap = self.bitmap.unwrap_or_default();
        assert!((1..=TOKEN_BYTES_MAX).contains(&self.token.len()), "tokens come from deliveries");
        assert!(bitmap.len() <= BITMAP_BYTES_MAX, "a bitmap covers one batch");
        out.extend_from_slice(&[self.verdict as u8, self.token.len() as u8]);
        out.extend_from_slice(&(bitmap.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.token);
        out.extend_from_slice(bitmap);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let verdict = match reader.u8("settle")? {
            0 => WireVerdict::Done,
            1 => WireVerdict::Retry,
            2 => WireVerdict::Reject,
            _ => return Err(DecodeError::Malformed { field: "verdict" }),
        };
        let token_len = usize::from(reader.u8("settle")?);
        let bitmap_len = usize::from(reader.u16("settle")?);
        reader.reserved::<4>()?;
        check_token_len(token_len)?;
        limit("bitmap bytes", BITMAP_BYTES_MAX, bitmap_len)?;
        let token = reader.bytes(token_len, "token")?;
        let bitmap = reader.bytes(bitmap_len, "bitmap")?;
        Ok(Settlement { verdict, token, bitmap: (!bitmap.is_empty()).then_some(bitmap) })
    }
}

/// Appends a settle frame of entries made by [`Settlement::encode_entry`].
pub fn encode_settle(request: u64, entries: &[u8], out: &mut Vec<u8>) {
    super::encode_plain(Kind::Settle, request, entries, out);
}

/// The entries of a settle frame, all checked.
#[derive(Clone, Copy, Debug)]
pub struct Settlements<'a>(&'a [u8]);

impl<'a> Settlements<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            Settlement::take(&mut reader)?;
        }
        Ok(Settlements(body))
    }
}

impl<'a> Iterator for Settlements<'a> {
    type Item = Settlement<'a>;

    fn next(&mut self) -> Option<Settlement<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let mut reader = Reader::new(self.0);
        // Checked when the frame was decoded, so this cannot fail; if it did, the list would end.
        let settlement = Settlement::take(&mut reader).ok()?;
        self.0 = reader.rest();
        Some(settlement)
    }
}

fn check_token_len(len: usize) -> Result<(), DecodeError> {
    limit("token bytes", TOKEN_BYTES_MAX, len)?;
    if len == 0 { Err(DecodeError::Malformed { field: "token" }) } else { Ok(()) }
}

//! Goodbye and refusal: the frames that say no, or that the end is near.
//!
//! ```text
//! goodbye                              refusal
//!  0 u16 code, 0 = nothing is wrong     0 u16 code
//!  2 u16 reserved, 0                    2 u8  kind of the refused frame, 0 = none
//!  4 text, to the end                   3 u8  flags: bit 0 the connection closes after this
//!                                       4 text, to the end
//! ```

use super::reader::{Reader, limit, utf8};
use super::{Kind, TEXT_BYTES_MAX, encode_header};
use crate::error::DecodeError;
use crate::refusal::Refusal;

/// The sender sends nothing new from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoodbyeFrame<'a> {
    /// Why, as a refusal number; 0 when nothing is wrong.
    pub code: u16,
    /// Why, as a sentence; may be empty.
    pub text: &'a str,
}

impl<'a> GoodbyeFrame<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let code = reader.u16("goodbye")?;
        reader.reserved::<2>()?;
        Ok(GoodbyeFrame { code, text: text(reader)? })
    }

    /// Appends the frame; a text that is too long is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let text = cut(self.text);
        encode_header(Kind::Goodbye, 0, 4 + text.len(), out);
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(text.as_bytes());
    }
}

/// No, and why. The frame's request is that of the refused frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalFrame<'a> {
    /// The number of [`crate::refusal::Code`]; a later build may have more of them.
    pub code: u16,
    /// The kind's number of the refused frame; 0 when no frame caused it.
    pub kind: u8,
    /// The connection closes after this.
    pub closes: bool,
    /// A sentence with field, limit and value; may be empty.
    pub text: &'a str,
}

impl<'a> RefusalFrame<'a> {
    /// The frame of `refusal`.
    #[must_use]
    pub fn new(refusal: &'a Refusal, kind: u8, closes: bool) -> Self {
        RefusalFrame { code: refusal.code.number(), kind, closes, text: &refusal.text }
    }

    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let code = reader.u16("refusal")?;
        let kind = reader.u8("refusal")?;
        let closes = match reader.u8("refusal")? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Malformed { field: "refusal flags" }),
        };
        Ok(RefusalFrame { code, kind, closes, text: text(reader)? })
    }

    /// Appends the frame; a text that is too long is cut.
    pub fn encode(&self, request: u64, out: &mut Vec<u8>) {
        let text = cut(self.text);
        encode_header(Kind::Refusal, request, 4 + text.len(), out);
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(&[self.kind, u8::from(self.closes)]);
        out.extend_from_slice(text.as_bytes());
    }
}

fn text(reader: Reader<'_>) -> Result<&str, DecodeError> {
    let bytes = reader.rest();
    limit("text bytes", TEXT_BYTES_MAX, bytes.len())?;
    utf8(bytes, "text")
}

fn cut(text: &str) -> &str {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

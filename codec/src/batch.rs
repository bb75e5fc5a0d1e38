//! A batch in a receive buffer, in a commit buffer or in a mapped segment: header and body side by side.

use crate::body::Body;
use crate::crc32c::crc32c;
use crate::error::DecodeError;
use crate::header::{BatchHeader, HEADER_BYTES, HeaderSeed};

/// A batch whose header has been verified and whose body is all there. The body is not yet verified.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The header, decoded.
    pub header: BatchHeader,
    /// The body, `header.body_len` bytes.
    pub body: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Takes a whole batch from the start of `bytes`; what follows it is not looked at.
    ///
    /// # Errors
    /// The header is bad, or the bytes end before the body does.
    pub fn parse(bytes: &'a [u8], seed: HeaderSeed) -> Result<Self, DecodeError> {
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(DecodeError::Truncated { field: "batch header" })?;
        let header = BatchHeader::decode(header, seed)?;
        let body = rest
            .get(..header.body_len as usize)
            .ok_or(DecodeError::Truncated { field: "batch body" })?;
        Ok(Batch { header, body })
    }

    /// Compares the body with its checksum.
    ///
    /// # Errors
    /// They differ.
    pub fn verify_body(&self) -> Result<(), DecodeError> {
        let found = crc32c(self.body);
        if found == self.header.body_crc {
            Ok(())
        } else {
            Err(DecodeError::BodyChecksum { found, expected: self.header.body_crc })
        }
    }

    /// Checks the events of a batch that comes from outside: checksum, structure, attributes.
    ///
    /// # Errors
    /// Names the first bad part.
    pub fn check(&self) -> Result<Body<'a>, DecodeError> {
        self.verify_body()?;
        Body::parse(self.body, self.header.count)
    }
}

#[cfg(test)]
mod tests;

//! What names one delivered event when it is settled: the token of its delivery, and which event of the batch it is.
//!
//! ```text
//! "d" and, in base64 (RFC 4648, section 5, without padding):  0 the delivery's token   48 u32 index of the event
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use codec::problem::Problem;
use codec::refusal::Code;
use dataplane::token::{TOKEN_BYTES, Token};

/// What the text of a token begins with.
const MARK: char = 'd';

/// Writes the text of a token.
pub(super) fn write(token: &Token, index: u32, out: &mut Vec<u8>) {
    let mut bytes = [0; TOKEN_BYTES + 4];
    bytes[..TOKEN_BYTES].copy_from_slice(&token.0);
    bytes[TOKEN_BYTES..].copy_from_slice(&index.to_le_bytes());
    let mut text = String::with_capacity(72);
    text.push(MARK);
    URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
    out.extend_from_slice(text.as_bytes());
}

/// Reads it again.
pub(super) fn read(text: &str) -> Result<([u8; TOKEN_BYTES], u32), Problem> {
    let found = text.strip_prefix(MARK).and_then(|text| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (token, index) = bytes.split_first_chunk::<TOKEN_BYTES>()?;
        Some((*token, u32::from_le_bytes(index.try_into().ok()?)))
    });
    found.ok_or_else(|| malformed(text))
}

/// The refusal of what is no token.
pub(super) fn malformed(text: &str) -> Problem {
    let shown: String = text.chars().take(80).collect();
    Problem::of("tokens", Code::MalformedToken, format!("{shown:?} is not a token of this server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token that comes back changed must not settle another event.
    #[test]
    fn survives_the_way() {
        let token = Token([9; TOKEN_BYTES]);
        let mut text = Vec::new();
        write(&token, 77, &mut text);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(read(&text), Ok((token.0, 77)));
        for bad in ["", "d", "x", &text[1..], &text[..text.len() - 1], &format!("{text}AA")] {
            let code = read(bad).unwrap_err().refusal.code;
            assert_eq!(code, Code::MalformedToken, "{bad}");
        }
    }
}

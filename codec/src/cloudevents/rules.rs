//! What CloudEvents 1.0.2 says a value may be, as questions. Each form asks them and names the refusal itself.

use crate::attribute::{Key, Value};
use crate::event::DataKind;

/// Deepest nesting of JSON that is taken or written: the limit that most readers of JSON have themselves.
pub const JSON_DEPTH_MAX: usize = 128;

/// 0001-01-01T00:00:00Z, the first instant of `google.protobuf.Timestamp`.
pub const INSTANT_MIN: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the last second of `google.protobuf.Timestamp`.
pub const INSTANT_MAX: i64 = 253_402_300_799;

/// Why a text may not be the value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFault {
    /// The attribute must not be empty.
    Empty,
    /// It holds a control character or a noncharacter.
    Character,
    /// It is not a URI reference as RFC 3986 has it.
    UriReference,
    /// It is not an absolute URI as RFC 3986 has it.
    Uri,
    /// It is not a timestamp as RFC 3339 has it.
    Timestamp,
    /// It is not a media type as RFC 2046 has it.
    MediaType,
}

impl TextFault {
    /// The fault as the end of a sentence that starts with the attribute's name.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            TextFault::Empty => "must not be empty",
            TextFault::Character => "holds a control character or a noncharacter",
            TextFault::UriReference => "is not a URI reference (RFC 3986)",
            TextFault::Uri => "is not an absolute URI (RFC 3986)",
            TextFault::Timestamp => "is not a timestamp (RFC 3339)",
            TextFault::MediaType => "is not a media type (RFC 2046)",
        }
    }
}

/// Checks a text that is to be the value of `key`.
///
/// # Errors
/// Says what the text is not.
pub fn check_text(key: &Key<'_>, text: &str) -> Result<(), TextFault> {
    if text.is_empty() && !matches!(key, Key::Extension(_)) {
        return Err(TextFault::Empty);
    }
    if !crate::attribute::is_text_allowed(text) {
        return Err(TextFault::Character);
    }
    match key {
        Key::Source if !is_uri_reference(text) => Err(TextFault::UriReference),
        Key::DataSchema if !is_absolute_uri(text) => Err(TextFault::Uri),
        Key::Time if instant_of(text).is_none() => Err(TextFault::Timestamp),
        Key::DataContentType if !is_media_type(text) => Err(TextFault::MediaType),
        _ => Ok(()),
    }
}

/// Checks the value of an attribute in a form that says the types of extensions.
///
/// # Errors
/// Says what its text is not.
pub fn check_value(key: &Key<'_>, value: &Value<'_>) -> Result<(), TextFault> {
    value.text().map_or(Ok(()), |text| check_text(key, text))?;
    match value {
        Value::Uri(text) if !is_absolute_uri(text) => Err(TextFault::Uri),
        Value::UriReference(text) if !is_uri_reference(text) => Err(TextFault::UriReference),
        Value::Timestamp(text) if instant_of(text).is_none() => Err(TextFault::Timestamp),
        _ => Ok(()),
    }
}

/// Whether `text` has only the characters of a URI reference, every `%` followed by two hexadecimal digits.
#[must_use]
pub fn is_uri_reference(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let ok = match byte {
            b'%' => {
                let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
                hex(bytes.next()) && hex(bytes.next())
            }
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => false,
            _ => byte.is_ascii_graphic(),
        };
        if !ok {
            return false;
        }
    }
    true
}

/// Whether `text` is a URI reference that starts with a scheme.
#[must_use]
pub fn is_absolute_uri(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        && is_uri_reference(text)
}

/// Whether `text` is `type/subtype` with optional parameters.
#[must_use]
pub fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+*'`|~%".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// Whether data of this media type is JSON: its subtype is `json` or ends in `+json`. Without a type it is.
#[must_use]
pub fn is_json_type(content_type: Option<&str>) -> bool {
    content_type.is_none_or(|content_type| {
        let subtype = subtype_of(content_type);
        subtype.eq_ignore_ascii_case("json") || ends_with_ignore_case(subtype, "+json")
    })
}

/// Whether data of this media type is text in UTF-8: `text/*` or XML, with no other character set named.
#[must_use]
pub fn is_text_type(content_type: &str) -> bool {
    let subtype = subtype_of(content_type);
    let textual = starts_with_ignore_case(content_type.trim_start(), "text/")
        || subtype.eq_ignore_ascii_case("xml")
        || ends_with_ignore_case(subtype, "+xml");
    let utf8 = content_type.split(';').skip(1).all(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim().trim_matches('"');
        !name.trim().eq_ignore_ascii_case("charset")
            || value.eq_ignore_ascii_case("utf-8")
            || value.eq_ignore_ascii_case("us-ascii")
    });
    textual && utf8
}

/// How opaque bytes of a media type are kept, so that JSON can later show them as what they are. Bytes that are not
/// what their type says are binary; the bytes themselves are the same whatever the kind.
#[must_use]
pub fn kind_of(content_type: Option<&str>, data: &[u8]) -> DataKind {
    match content_type {
        Some(given) if is_json_type(Some(given)) && is_sound_json(data) => DataKind::Json,
        Some(given) if is_text_type(given) && std::str::from_utf8(data).is_ok() => DataKind::Text,
        _ => DataKind::Binary,
    }
}

/// Whether `bytes` are one JSON value, of UTF-8 and not nested too deeply: whether they may stand in another JSON
/// text without changing what is around them.
#[must_use]
pub fn is_sound_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| {
        json_depth(text) <= JSON_DEPTH_MAX
            && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
    })
}

/// The deepest nesting of arrays and objects in a JSON text; of a text that is not JSON, some number.
#[must_use]
pub fn json_depth(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Where a string ends whose content begins at `at`: behind its closing quote, or with the text.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    const CHUNK: usize = 32;
    let is_special = |byte: &u8| *byte == b'"' || *byte == b'\\';
    loop {
        // Most of a JSON text stands in strings. Without an early exit a chunk is a few vector instructions.
        while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<CHUNK>)
            && !chunk.iter().fold(false, |found, byte| found | is_special(byte))
        {
            at += CHUNK;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        match rest.iter().position(is_special) {
            None => return bytes.len(),
            Some(found) if rest[found] == b'"' => return at + found + 1,
            // What is escaped does not end it.
            Some(found) => at += found + 2,
        }
    }
}

/// Seconds and nanoseconds since 1970-01-01 UTC of an RFC 3339 timestamp; digits beyond the ninth are cut off. A leap
/// second is the first of the next minute. `None` if it is not one.
#[must_use]
pub fn instant_of(text: &str) -> Option<(i64, u32)> {
    let bytes = text.as_bytes();
    let number = |from: usize, len: usize| -> Option<i64> {
        let digits = bytes.get(from..from + len)?;
        digits
            .iter()
            .try_fold(0, |sum, d| d.is_ascii_digit().then(|| sum * 10 + i64::from(d - b'0')))
    };
    let is = |at: usize, any: &[u8]| bytes.get(at).is_some_and(|b| any.contains(b));
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let punctuated = is(4, b"-") && is(7, b"-") && is(10, b"Tt") && is(13, b":") && is(16, b":");
    let in_range = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !punctuated || !in_range {
        return None;
    }
    let (nanos, zone) = fraction_at(bytes, 19)?;
    let offset_minutes = match bytes.get(zone..)? {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (number(zone + 1, 2)?, number(zone + 4, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let seconds = days_from_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some((seconds - offset_minutes * 60, nanos))
}

/// The nanoseconds of an optional `.digits` at `at`, and where it ends.
fn fraction_at(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    if bytes.get(at) != Some(&b'.') {
        return Some((0, at));
    }
    let digits = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let mut nanos = 0;
    for place in 0..9 {
        let digit = if place < digits { u32::from(bytes[at + 1 + place] - b'0') } else { 0 };
        nanos = nanos * 10 + digit;
    }
    Some((nanos, at + 1 + digits))
}

/// The RFC 3339 timestamp, in UTC, of an instant in the years 1 to 9999; `None` outside of them.
#[must_use]
pub fn timestamp_of(seconds: i64, nanos: u32) -> Option<String> {
    if !(INSTANT_MIN..=INSTANT_MAX).contains(&seconds) || nanos > 999_999_999 {
        return None;
    }
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The inverse of `days_from_epoch`: years are counted from March.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let fraction = match nanos {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n if n % 1_000 == 0 => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    };
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    let second = second % 60;
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, years counted from March so that the leap day is last.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn subtype_of(content_type: &str) -> &str {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.split_once('/').map_or("", |(_, subtype)| subtype)
}

fn ends_with_ignore_case(text: &str, end: &str) -> bool {
    let from = text.len().wrapping_sub(end.len());
    text.get(from..).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

pub(crate) fn starts_with_ignore_case(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests;

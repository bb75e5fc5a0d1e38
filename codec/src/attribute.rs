//! Attributes of an event, encoded so that they are read where they stand.
//!
//! ```text
//! 0 u8 key      1..=8 a known attribute, 255 an extension
//! 1 u8 type     of the value, as CloudEvents names them
//! 2 u16 length  of the value
//! 4 [u8 length and bytes of the name, if key is 255]
//!   value       UTF-8; a boolean is one byte 0 or 1, an integer 4 bytes little-endian, a binary is raw
//! ```
//!
//! A section's attributes stand in rising order of key, extensions in rising order of name: so none stands twice, and
//! a lookup can stop early. `specversion` is not stored: a body of this version holds events of CloudEvents 1.0.

use std::cmp::Ordering;

use crate::error::DecodeError;
use crate::limits::{ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTES_BYTES_MAX};

/// Which attribute: a known one by number, an extension by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// `id`
    Id,
    /// `source`
    Source,
    /// `type`
    Type,
    /// `datacontenttype`
    DataContentType,
    /// `dataschema`
    DataSchema,
    /// `subject`
    Subject,
    /// `time`
    Time,
    /// `partitionkey`, of the partitioning extension
    PartitionKey,
    /// Any other attribute, by its name.
    Extension(&'a str),
}

const EXTENSION: u8 = 255;
const KNOWN: [(&str, Key<'static>); 8] = [
    ("id", Key::Id),
    ("source", Key::Source),
    ("type", Key::Type),
    ("datacontenttype", Key::DataContentType),
    ("dataschema", Key::DataSchema),
    ("subject", Key::Subject),
    ("time", Key::Time),
    ("partitionkey", Key::PartitionKey),
];

impl<'a> Key<'a> {
    /// The key of the attribute called `name`. `specversion` and `data` are not attributes here.
    #[must_use]
    pub fn of(name: &'a str) -> Key<'a> {
        match name {
            "id" => Key::Id,
            "source" => Key::Source,
            "type" => Key::Type,
            "datacontenttype" => Key::DataContentType,
            "dataschema" => Key::DataSchema,
            "subject" => Key::Subject,
            "time" => Key::Time,
            "partitionkey" => Key::PartitionKey,
            _ => Key::Extension(name),
        }
    }

    /// The attribute's CloudEvents name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        match self {
            Key::Extension(name) => name,
            known => KNOWN[usize::from(known.number()) - 1].0,
        }
    }

    /// Whether the name may stand in an event: CloudEvents allows lower-case ASCII letters and digits.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        match self {
            Key::Extension(name) => {
                (1..=ATTRIBUTE_NAME_BYTES_MAX).contains(&name.len())
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                    && !matches!(*name, "specversion" | "data")
                    // An extension called like a known attribute would stand beside it.
                    && matches!(Key::of(name), Key::Extension(_))
            }
            _ => true,
        }
    }

    fn number(&self) -> u8 {
        match self {
            Key::Id => 1,
            Key::Source => 2,
            Key::Type => 3,
            Key::DataContentType => 4,
            Key::DataSchema => 5,
            Key::Subject => 6,
            Key::Time => 7,
            Key::PartitionKey => 8,
            Key::Extension(_) => EXTENSION,
        }
    }

    /// The order in which attributes stand in a section.
    #[must_use]
    pub fn order(&self, other: &Key<'_>) -> Ordering {
        match (self, other) {
            (Key::Extension(a), Key::Extension(b)) => a.as_bytes().cmp(b.as_bytes()),
            _ => self.number().cmp(&other.number()),
        }
    }
}

/// A value of one of the CloudEvents types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// String
    String(&'a str),
    /// Boolean
    Boolean(bool),
    /// Integer, 32 bits signed
    Integer(i32),
    /// Binary
    Binary(&'a [u8]),
    /// URI
    Uri(&'a str),
    /// URI-reference
    UriReference(&'a str),
    /// Timestamp, RFC 3339, as its publisher wrote it
    Timestamp(&'a str),
}

impl<'a> Value<'a> {
    /// The text of a textual value.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        match self {
            Value::String(text)
            | Value::Uri(text)
            | Value::UriReference(text)
            | Value::Timestamp(text) => Some(text),
            Value::Boolean(_) | Value::Integer(_) | Value::Binary(_) => None,
        }
    }

    fn number(&self) -> u8 {
        match self {
            Value::String(_) => 1,
            Value::Boolean(_) => 2,
            Value::Integer(_) => 3,
            Value::Binary(_) => 4,
            Value::Uri(_) => 5,
            Value::UriReference(_) => 6,
            Value::Timestamp(_) => 7,
        }
    }

    fn len(&self) -> usize {
        match self {
            Value::Boolean(_) => 1,
            Value::Integer(_) => 4,
            Value::Binary(bytes) => bytes.len(),
            Value::String(text)
            | Value::Uri(text)
            | Value::UriReference(text)
            | Value::Timestamp(text) => text.len(),
        }
    }
}

/// Whether CloudEvents allows `text` in an attribute: no control characters and no noncharacters. So no value can
/// break out of the header or the line that it is written to.
#[must_use]
pub fn is_text_allowed(text: &str) -> bool {
    // Most texts are printable ASCII, so one look at the bytes settles it.
    text.bytes().all(|b| (b' '..=b'~').contains(&b))
        || text.chars().all(|c| {
            let noncharacter = matches!(c, '\u{fdd0}'..='\u{fdef}') || c as u32 & 0xfffe == 0xfffe;
            !c.is_control() && !noncharacter
        })
}

/// Whether a section may hold `value` under `key`: known attributes have the type that CloudEvents gives them, and
/// text holds only characters that it allows.
#[must_use]
pub fn is_value_allowed(key: &Key<'_>, value: &Value<'_>) -> bool {
    is_type_allowed(key, value) && value.text().is_none_or(is_text_allowed)
}

/// Whether `value` is of the type of `key`. The known attributes have one type each; another would make a JSON or HTTP
/// form that cannot be read back.
#[must_use]
pub fn is_type_allowed(key: &Key<'_>, value: &Value<'_>) -> bool {
    match key {
        Key::Id | Key::Type | Key::DataContentType | Key::Subject | Key::PartitionKey => {
            matches!(value, Value::String(_))
        }
        Key::Source => matches!(value, Value::UriReference(_)),
        Key::DataSchema => matches!(value, Value::Uri(_)),
        Key::Time => matches!(value, Value::Timestamp(_)),
        Key::Extension(_) => true,
    }
}

/// Bytes that `key` and `value` take in a section.
#[must_use]
pub fn encoded_len(key: &Key<'_>, value: &Value<'_>) -> usize {
    let name = if let Key::Extension(name) = key { 1 + name.len() } else { 0 };
    4 + name + value.len()
}

/// Appends one attribute to a section. The caller keeps the order and the limits.
pub fn encode(key: &Key<'_>, value: &Value<'_>, out: &mut Vec<u8>) {
    assert!(value.len() <= ATTRIBUTES_BYTES_MAX as usize - 4, "a value's length has 16 bits");
    // Once for each attribute of each event, so only in debug builds; the builder has just checked it.
    debug_assert!(key.is_valid(), "names are checked before they are encoded");
    out.push(key.number());
    out.push(value.number());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    if let Key::Extension(name) = key {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
    }
    match value {
        Value::Boolean(on) => out.push(u8::from(*on)),
        Value::Integer(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::Binary(bytes) => out.extend_from_slice(bytes),
        Value::String(text)
        | Value::Uri(text)
        | Value::UriReference(text)
        | Value::Timestamp(text) => out.extend_from_slice(text.as_bytes()),
    }
}

/// A section of attributes that has been checked, or that this process wrote itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Section<'a>(&'a [u8]);

impl<'a> Section<'a> {
    /// Checks every attribute of a section.
    ///
    /// # Errors
    /// Names what is wrong with the first bad attribute.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        let mut last: Option<Raw<'_>> = None;
        while !rest.is_empty() {
            let (raw, after) =
                Raw::split_first(rest).ok_or(DecodeError::Truncated { field: "attribute" })?;
            if last.is_some_and(|last| last.order(raw.number, raw.name) != Ordering::Less) {
                return Err(DecodeError::Malformed { field: "attribute order" });
            }
            let (key, value) = (raw.key()?, raw.value()?);
            if !key.is_valid() {
                return Err(DecodeError::Malformed { field: "attribute name" });
            }
            if !is_type_allowed(&key, &value) {
                return Err(DecodeError::Malformed { field: "attribute type" });
            }
            if !value.text().is_none_or(is_text_allowed) {
                return Err(DecodeError::Malformed { field: "attribute value" });
            }
            last = Some(raw);
            rest = after;
        }
        Ok(Section(bytes))
    }

    /// A section whose bytes were checked before: at admission, and since then guarded by the body's checksum.
    #[must_use]
    pub fn checked_before(bytes: &'a [u8]) -> Self {
        Section(bytes)
    }

    /// The value of `key`. Copies and allocates nothing.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &Key<'_>) -> Option<Value<'a>> {
        let name = if let Key::Extension(name) = key { name.as_bytes() } else { &[] };
        let number = key.number();
        let mut rest = self.0;
        while let Some((raw, after)) = Raw::split_first(rest) {
            match raw.order(number, name) {
                Ordering::Less => rest = after,
                Ordering::Equal => return raw.value().ok(),
                Ordering::Greater => return None,
            }
        }
        None
    }

    /// The section's bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Section<'a> {
    type Item = (Key<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        // The bytes were checked, so a failure here is damage that a checksum let through: the section ends.
        let (raw, rest) = Raw::split_first(self.0)?;
        let (key, value) = (raw.key().ok()?, raw.value().ok()?);
        self.0 = rest;
        Some((key, value))
    }
}

/// One attribute as it stands: its borders are known, its parts are not yet looked at. A lookup passes over attributes
/// in this form.
#[derive(Clone, Copy)]
struct Raw<'a> {
    number: u8,
    kind: u8,
    /// Empty unless the key is an extension.
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Raw<'a> {
    /// The first attribute and what follows it; `None` if the bytes end before it does.
    #[inline]
    fn split_first(bytes: &'a [u8]) -> Option<(Raw<'a>, &'a [u8])> {
        let ([number, kind, len_low, len_high], mut rest) = bytes.split_first_chunk::<4>()?;
        let mut name = &[][..];
        if *number == EXTENSION {
            let (name_len, after) = rest.split_first()?;
            (name, rest) = after.split_at_checked(usize::from(*name_len))?;
        }
        let len = usize::from(u16::from_le_bytes([*len_low, *len_high]));
        let (value, rest) = rest.split_at_checked(len)?;
        Some((Raw { number: *number, kind: *kind, name, value }, rest))
    }

    /// How this attribute stands to the one with this number and name. Names are compared only where both have one:
    /// comparing empty ones costs ten times the rest of a lookup where memcmp loads through a mask.
    #[inline]
    fn order(&self, number: u8, name: &[u8]) -> Ordering {
        match self.number.cmp(&number) {
            Ordering::Equal if number == EXTENSION => self.name.cmp(name),
            order => order,
        }
    }

    fn key(&self) -> Result<Key<'a>, DecodeError> {
        if self.number == EXTENSION {
            return Ok(Key::Extension(text(self.name, "attribute name")?));
        }
        let known = usize::from(self.number).checked_sub(1).and_then(|i| KNOWN.get(i));
        known.map(|(_, key)| *key).ok_or(DecodeError::Malformed { field: "attribute key" })
    }

    #[inline]
    fn value(&self) -> Result<Value<'a>, DecodeError> {
        Ok(match (self.kind, self.value) {
            (1, value) => Value::String(text(value, "attribute value")?),
            (2, [on @ (0 | 1)]) => Value::Boolean(*on == 1),
            (3, [a, b, c, d]) => Value::Integer(i32::from_le_bytes([*a, *b, *c, *d])),
            (4, value) => Value::Binary(value),
            (5, value) => Value::Uri(text(value, "attribute value")?),
            (6, value) => Value::UriReference(text(value, "attribute value")?),
            (7, value) => Value::Timestamp(text(value, "attribute value")?),
            _ => return Err(DecodeError::Malformed { field: "attribute type" }),
        })
    }
}

fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8 { field })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name and a number that do not belong together would give an attribute the value of another.
    #[test]
    fn names_and_numbers_belong_together() {
        for (at, (name, key)) in KNOWN.into_iter().enumerate() {
            assert_eq!(Key::of(name), key);
            assert_eq!(key.name(), name);
            assert_eq!(usize::from(key.number()), at + 1);
        }
        assert_eq!(Key::of("ids"), Key::Extension("ids"));
    }
}

//! The HTTP binding of CloudEvents 1.0.2, binary mode: attributes are headers, data is the body.
//!
//! Pure functions over names and values of headers; whatever speaks HTTP reads and writes the message. The structured and
//! batched modes are [`super::json`] or [`super::protobuf`] with the media type of the format.
//!
//! Headers are text, so an extension that is no string comes back as its canonical string: `true`, `-5`, base64. The
//! body says nothing about its own kind: it is JSON or text if `Content-Type` says so and it is, else binary. An empty body is
//! no data. All bytes of the body are kept whatever the kind.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::attribute::{Key, Value, encoded_len};
use crate::cloudevents::fault::EventFault;
use crate::cloudevents::parsed::{HeldValue, ParsedEvent};
use crate::cloudevents::rules;
use crate::cloudevents::{
    Mode, Place, SOURCE_IF_ABSENT, SPEC_VERSION, TYPE_IF_ABSENT, json, protobuf,
};
use crate::event::{DataKind, Event};
use crate::limits::{ATTRIBUTES_BYTES_MAX, EVENT_DATA_BYTES_MAX};

/// What the names of headers that are attributes start with, compared without regard to case.
pub const HEADER_PREFIX: &str = "ce-";
/// The header that is `datacontenttype`.
pub const CONTENT_TYPE: &str = "content-type";

/// Attributes for which there is room at once: those that nearly every event has, and a few of its own.
const ATTRIBUTES_USUAL: usize = 8;

/// How a message carries events, by its `Content-Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentMode {
    /// One event: attributes in headers, data in the body.
    Binary,
    /// One event in the body, as JSON.
    StructuredJson,
    /// An array of events in the body, as JSON.
    BatchedJson,
    /// One event in the body, as protobuf.
    StructuredProtobuf,
    /// Several events in the body, as protobuf.
    BatchedProtobuf,
    /// Structured or batched in a format that is not spoken here: to be refused, not taken for data.
    Unknown,
}

impl ContentMode {
    /// The mode of a message with this `Content-Type`.
    #[must_use]
    pub fn of(content_type: Option<&str>) -> ContentMode {
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        // The binding reserves every media type that starts so.
        if !rules::starts_with_ignore_case(essence, "application/cloudevents") {
            return ContentMode::Binary;
        }
        match essence.to_ascii_lowercase().as_str() {
            json::MEDIA_TYPE => ContentMode::StructuredJson,
            json::MEDIA_TYPE_BATCH => ContentMode::BatchedJson,
            protobuf::MEDIA_TYPE => ContentMode::StructuredProtobuf,
            protobuf::MEDIA_TYPE_BATCH => ContentMode::BatchedProtobuf,
            _ => ContentMode::Unknown,
        }
    }
}

/// Why headers and body are not an event. Every variant is the fault of whoever sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpError {
    /// A header's value, after decoding, is not UTF-8.
    NotUtf8 {
        /// The header's name.
        header: String,
    },
    /// A `%` is not followed by two hexadecimal digits.
    Percent {
        /// The header's name.
        header: String,
    },
    /// A header stands twice.
    DuplicateHeader {
        /// Its name.
        header: String,
    },
    /// A header that starts with `ce-` is no attribute, or one that has its place elsewhere.
    AttributeName {
        /// The header's name.
        header: String,
    },
    /// The event itself is wrong, whatever its form.
    Event(EventFault),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 { header } => write!(f, "header {header:?} is not UTF-8"),
            Self::Percent { header } => {
                write!(f, "header {header:?} has a % without two hexadecimal digits")
            }
            Self::DuplicateHeader { header } => write!(f, "header {header:?} stands twice"),
            Self::AttributeName { header } => write!(f, "header {header:?} is no attribute"),
            Self::Event(EventFault::Missing { attribute }) => {
                write!(f, "header \"ce-{attribute}\" is absent")
            }
            Self::Event(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for HttpError {}

impl From<EventFault> for HttpError {
    fn from(fault: EventFault) -> Self {
        Self::Event(fault)
    }
}

/// Parses the headers and the body of a message in binary mode. Headers that are not of CloudEvents are passed over.
///
/// # Errors
/// Names the header or attribute that is wrong, and where it is over a limit, limit and value.
pub fn parse_event<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: &'a [u8],
    mode: Mode<'_>,
) -> Result<ParsedEvent<'a>, HttpError> {
    check_limit("event data bytes", EVENT_DATA_BYTES_MAX as usize, body.len())?;
    let mut parsed = ParsedEvent::with_room(ATTRIBUTES_USUAL);
    let mut spec_version = None;
    let mut attribute_bytes = 0;
    for (header, value) in headers {
        let Some((name, text)) = attribute_of(header, value)? else { continue };
        let duplicate = || HttpError::DuplicateHeader { header: header.to_owned() };
        if name == "specversion" {
            if spec_version.replace(text).is_some() {
                return Err(duplicate());
            }
            continue;
        }
        let key = Key::of(&name);
        rules::check_text(&key, &text).map_err(|fault| {
            HttpError::Event(EventFault::AttributeValue { name: name.to_string(), fault })
        })?;
        if parsed.get(&key).is_some() {
            return Err(duplicate());
        }
        let held = HeldValue::typed_by(&key, text);
        attribute_bytes += encoded_len(&key, &held.as_value());
        check_limit("attribute bytes", ATTRIBUTES_BYTES_MAX as usize, attribute_bytes)?;
        parsed.add(name, held);
    }
    parsed.complete(spec_version.as_deref(), mode)?;
    if !body.is_empty() {
        let kind = rules::kind_of(parsed.text(&Key::DataContentType), body);
        parsed.set_data(kind, Cow::Borrowed(body));
    }
    Ok(parsed)
}

/// Gives each header of an event to `header`, names in lower case, and returns the body.
///
/// Every value is printable ASCII, so none can end its header and start another.
pub fn write_event<'a>(
    event: &Event<'a>,
    place: &Place<'_>,
    mut header: impl FnMut(&str, &str),
) -> &'a [u8] {
    header("ce-specversion", SPEC_VERSION);
    match event.text(&Key::Id) {
        Some(id) => header("ce-id", &percent_encoded(id)),
        None => header("ce-id", &percent_encoded(&place.to_string())),
    }
    let source = event.text(&Key::Source).unwrap_or(SOURCE_IF_ABSENT);
    header("ce-source", &percent_encoded(source));
    let event_type = event.text(&Key::Type).unwrap_or(TYPE_IF_ABSENT);
    header("ce-type", &percent_encoded(event_type));
    let mut name = HEADER_PREFIX.to_owned();
    for (key, value) in event.attributes() {
        match key {
            Key::Id | Key::Source | Key::Type => {}
            Key::DataContentType => {
                header(CONTENT_TYPE, &content_type_encoded(value.text().unwrap_or_default()));
            }
            _ => {
                name.truncate(HEADER_PREFIX.len());
                name.push_str(key.name());
                header(&name, &header_value(&value));
            }
        }
    }
    // In JSON the type may be left out, here it may not: without it the body is only bytes.
    if event.data_kind() == DataKind::Json && event.get(&Key::DataContentType).is_none() {
        header(CONTENT_TYPE, "application/json");
    }
    protobuf::plain_data(event)
}

/// Name and text of an attribute.
type Named<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The attribute that a header is: its name in lower case and its decoded value; `None` if it is of something else.
fn attribute_of<'a>(header: &'a str, value: &'a [u8]) -> Result<Option<Named<'a>>, HttpError> {
    let value = value.trim_ascii();
    let not_utf8 = || HttpError::NotUtf8 { header: header.to_owned() };
    if header.eq_ignore_ascii_case(CONTENT_TYPE) {
        let text = std::str::from_utf8(value).map_err(|_| not_utf8())?;
        return Ok(Some((Cow::Borrowed("datacontenttype"), Cow::Borrowed(text))));
    }
    let prefix = header.get(..HEADER_PREFIX.len());
    if !prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(HEADER_PREFIX)) {
        return Ok(None);
    }
    let name = &header[HEADER_PREFIX.len()..];
    let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    let known = name == "specversion" || Key::of(&name).is_valid();
    if !known || name == "datacontenttype" {
        return Err(HttpError::AttributeName { header: header.chars().take(300).collect() });
    }
    let text = match percent_decoded(unquoted(value)) {
        Some(Cow::Borrowed(bytes)) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Some(Cow::Owned(bytes)) => String::from_utf8(bytes).ok().map(Cow::Owned),
        None => return Err(HttpError::Percent { header: header.to_owned() }),
    };
    Ok(Some((name, text.ok_or_else(not_utf8)?)))
}

/// The value without the double quotes around it and the backslashes within them (RFC 7230, section 3.2.6). Senders of
/// this version do not write them, those of older ones may.
fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let [b'"', inner @ .., b'"'] = value else { return Cow::Borrowed(value) };
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        let escaped = if *byte == b'\\' { bytes.next() } else { Some(byte) };
        out.extend(escaped);
    }
    Cow::Owned(out)
}

/// One round of percent-decoding; `None` if a `%` is not followed by two hexadecimal digits.
fn percent_decoded(value: Cow<'_, [u8]>) -> Option<Cow<'_, [u8]>> {
    if !value.contains(&b'%') {
        return Some(value);
    }
    let digit = |byte: Option<u8>| (byte? as char).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = digit(bytes.next())?;
            out.push(high << 4 | digit(bytes.next())?);
        } else {
            out.push(byte);
        }
    }
    Some(Cow::Owned(out))
}

/// The text with each byte outside of `!` to `~`, each `"` and each `%` as `%XX`.
fn percent_encoded(text: &str) -> Cow<'_, str> {
    encoded(text, |byte| !byte.is_ascii_graphic() || matches!(byte, b'"' | b'%'))
}

/// A media type stands as it is; only what cannot stand in a header at all is encoded.
fn content_type_encoded(text: &str) -> Cow<'_, str> {
    encoded(text, |byte| !byte.is_ascii_graphic() && byte != b' ')
}

fn encoded(text: &str, needs: impl Fn(u8) -> bool) -> Cow<'_, str> {
    if !text.bytes().any(&needs) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if needs(byte) {
            write!(out, "%{byte:02X}").expect("writing to memory cannot fail");
        } else {
            out.push(byte as char);
        }
    }
    Cow::Owned(out)
}

fn header_value<'v>(value: &Value<'v>) -> Cow<'v, str> {
    match value {
        Value::Boolean(on) => Cow::Borrowed(if *on { "true" } else { "false" }),
        Value::Integer(number) => Cow::Owned(number.to_string()),
        Value::Binary(bytes) => Cow::Owned(STANDARD.encode(bytes)),
        Value::String(text)
        | Value::Uri(text)
        | Value::UriReference(text)
        | Value::Timestamp(text) => percent_encoded(text),
    }
}

fn check_limit(field: &'static str, limit: usize, value: usize) -> Result<(), HttpError> {
    if value <= limit {
        return Ok(());
    }
    Err(HttpError::Event(EventFault::Limit { field, limit: limit as u64, value: value as u64 }))
}

#[cfg(test)]
mod tests;

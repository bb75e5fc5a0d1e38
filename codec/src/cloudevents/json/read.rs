//! From JSON to events.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::JsonError;
use crate::attribute::{Key, encoded_len};
use crate::cloudevents::Mode;
use crate::cloudevents::fault::EventFault;
use crate::cloudevents::parsed::{HeldValue, ParsedEvent};
use crate::cloudevents::rules::{self, TextFault};
use crate::event::DataKind;
use crate::limits::{ATTRIBUTES_BYTES_MAX, BATCH_EVENTS_MAX, EVENT_DATA_BYTES_MAX};

/// Most members of an event: more attributes than this cannot fit [`ATTRIBUTES_BYTES_MAX`], since each takes at least
/// six bytes. Bounds the memory that a hostile event takes before its attributes are looked at.
const MEMBERS_MAX: usize = ATTRIBUTES_BYTES_MAX as usize / 6;

/// Parses one event (`application/cloudevents+json`).
///
/// # Errors
/// Names what is wrong, and where it is over a limit, field, limit and value.
pub fn parse_event<'a>(bytes: &'a [u8], mode: Mode<'_>) -> Result<ParsedEvent<'a>, JsonError> {
    let text = checked_text(bytes)?;
    let members: Members<'a> = serde_json::from_str(text).map_err(|error| syntax(&error))?;
    members.into_event(mode)
}

/// Parses an array of events (`application/cloudevents-batch+json`). It may be empty.
///
/// # Errors
/// Names the first event that is wrong, and what is wrong with it. Then none is taken.
pub fn parse_batch<'a>(bytes: &'a [u8], mode: Mode<'_>) -> Result<Vec<ParsedEvent<'a>>, JsonError> {
    let text = checked_text(bytes)?;
    let events: Events<'a> = serde_json::from_str(text).map_err(|error| syntax(&error))?;
    check_limit("batch events", BATCH_EVENTS_MAX as usize, events.count)?;
    let events = events.events.into_iter().enumerate();
    let parsed = events.map(|(index, members)| {
        let in_batch = |error| JsonError::InBatch { index, error: Box::new(error) };
        members.into_event(mode).map_err(in_batch)
    });
    parsed.collect()
}

/// The members of an object as they stand. At most [`MEMBERS_MAX`] are kept, all are counted.
struct Members<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    count: usize,
}

/// The elements of an array. At most [`BATCH_EVENTS_MAX`] are kept, all are counted.
struct Events<'a> {
    events: Vec<Members<'a>>,
    count: usize,
}

/// What the members of an event say, while they are gone through.
struct Event<'a> {
    parsed: ParsedEvent<'a>,
    attribute_bytes: usize,
    spec_version: Option<Cow<'a, str>>,
    data: Option<&'a str>,
    data_base64: Option<&'a str>,
}

impl<'a> Members<'a> {
    fn into_event(mut self, mode: Mode<'_>) -> Result<ParsedEvent<'a>, JsonError> {
        check_limit("event members", MEMBERS_MAX, self.count)?;
        self.members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        if let Some([(name, _), _]) = self.members.array_windows().find(|[a, b]| a.0 == b.0) {
            return Err(JsonError::DuplicateMember { name: name.to_string() });
        }
        let mut event = Event {
            parsed: ParsedEvent::new(DataKind::None, Cow::Borrowed(&[])),
            attribute_bytes: 0,
            spec_version: None,
            data: None,
            data_base64: None,
        };
        for (name, value) in self.members {
            event.take(name, value.get(), mode)?;
        }
        event.finish(mode)
    }
}

impl<'a> Event<'a> {
    /// Takes one member. `value` is valid JSON.
    fn take(
        &mut self,
        name: Cow<'a, str>,
        value: &'a str,
        mode: Mode<'_>,
    ) -> Result<(), JsonError> {
        match &*name {
            "data" => self.data = Some(value),
            _ if value == "null" => {}
            "data_base64" => self.data_base64 = Some(value),
            "specversion" => self.spec_version = Some(string(&name, value)?),
            "key" if matches!(mode, Mode::Lenient(_)) => {
                self.take_attribute(Cow::Borrowed("partitionkey"), value)?;
            }
            // Members are sorted, so a `key` that stands for it has come before.
            "partitionkey" if self.parsed.partition_key().is_some() => {
                return Err(JsonError::DuplicateMember { name: name.into_owned() });
            }
            _ => self.take_attribute(name, value)?,
        }
        Ok(())
    }

    fn take_attribute(&mut self, name: Cow<'a, str>, value: &'a str) -> Result<(), JsonError> {
        let key = Key::of(&name);
        if !key.is_valid() {
            return Err(JsonError::AttributeName { name: name.into_owned() });
        }
        let held = match value.as_bytes().first() {
            Some(b'"') => {
                let text = string(&name, value)?;
                rules::check_text(&key, &text).map_err(|fault| bad_value(&name, fault))?;
                HeldValue::typed_by(&key, text)
            }
            Some(b't' | b'f') if is_extension(&key) => HeldValue::Boolean(value == "true"),
            Some(b'-' | b'0'..=b'9') if is_extension(&key) => {
                HeldValue::Integer(value.parse().map_err(|_| JsonError::Integer {
                    name: name.to_string(),
                    value: value.chars().take(32).collect(),
                })?)
            }
            _ => {
                let expected =
                    if is_extension(&key) { "a string, boolean or integer" } else { "a string" };
                return Err(wrong_type(&name, expected, value));
            }
        };
        self.attribute_bytes += encoded_len(&key, &held.as_value());
        check_limit("attribute bytes", ATTRIBUTES_BYTES_MAX as usize, self.attribute_bytes)?;
        self.parsed.add(name, held);
        Ok(())
    }

    fn finish(mut self, mode: Mode<'_>) -> Result<ParsedEvent<'a>, JsonError> {
        self.parsed.complete(self.spec_version.as_deref(), mode)?;
        self.take_data()?;
        Ok(self.parsed)
    }

    fn take_data(&mut self) -> Result<(), JsonError> {
        let (kind, data) = match (self.data, self.data_base64) {
            (None, None) => return Ok(()),
            (Some(_), Some(_)) => return Err(JsonError::DataTwice),
            (None, Some(encoded)) => {
                let encoded = string("data_base64", encoded)?;
                let decoded = STANDARD.decode(&*encoded).map_err(|_| JsonError::Base64)?;
                (DataKind::Binary, Cow::Owned(decoded))
            }
            // A string is the content itself where the content is not JSON; any other value stands for itself.
            (Some(value), None)
                if value.starts_with('"')
                    && !rules::is_json_type(self.parsed.text(&Key::DataContentType)) =>
            {
                let data = match string("data", value)? {
                    Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                    Cow::Owned(text) => Cow::Owned(text.into_bytes()),
                };
                (DataKind::Text, data)
            }
            (Some(value), None) => (DataKind::Json, Cow::Borrowed(value.as_bytes())),
        };
        check_limit("event data bytes", EVENT_DATA_BYTES_MAX as usize, data.len())?;
        self.parsed.set_data(kind, data);
        Ok(())
    }
}

fn checked_text(bytes: &[u8]) -> Result<&str, JsonError> {
    let not_utf8 = |error: std::str::Utf8Error| JsonError::NotUtf8 { at: error.valid_up_to() };
    let text = std::str::from_utf8(bytes).map_err(not_utf8)?;
    let depth = rules::json_depth(text);
    if depth > rules::JSON_DEPTH_MAX {
        return Err(JsonError::Depth { limit: rules::JSON_DEPTH_MAX, value: depth });
    }
    Ok(text)
}

/// The text of a JSON string. Borrowed, unless it holds escapes.
fn string<'a>(name: &str, value: &'a str) -> Result<Cow<'a, str>, JsonError> {
    if !value.starts_with('"') {
        return Err(wrong_type(name, "a string", value));
    }
    let inner = &value[1..value.len() - 1];
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    // The value was scanned before, so what is wrong here is an escape that is half of a surrogate pair.
    let unescaped = serde_json::from_str::<String>(value);
    unescaped.map(Cow::Owned).map_err(|_| bad_value(name, TextFault::Character))
}

fn is_extension(key: &Key<'_>) -> bool {
    matches!(key, Key::Extension(_))
}

fn bad_value(name: &str, fault: TextFault) -> JsonError {
    JsonError::Event(EventFault::AttributeValue { name: name.to_owned(), fault })
}

fn wrong_type(name: &str, expected: &'static str, value: &str) -> JsonError {
    let found = match value.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    JsonError::AttributeType { name: name.to_owned(), expected, found }
}

fn check_limit(field: &'static str, limit: usize, value: usize) -> Result<(), JsonError> {
    if value <= limit {
        return Ok(());
    }
    Err(JsonError::Event(EventFault::Limit { field, limit: limit as u64, value: value as u64 }))
}

fn syntax(error: &serde_json::Error) -> JsonError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    // serde_json says the place again at the end of its text.
    let reason = text.split(" at line ").next().unwrap_or_default().to_owned();
    JsonError::Syntax { line, column, reason }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Members { members: Vec::with_capacity(12), count: 0 };
                while let Some(Name(name)) = map.next_key()? {
                    found.count += 1;
                    if found.count <= MEMBERS_MAX {
                        found.members.push((name, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(found)
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

impl<'de> Deserialize<'de> for Events<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EventsVisitor;

        impl<'de> Visitor<'de> for EventsVisitor {
            type Value = Events<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut found = Events { events: Vec::new(), count: 0 };
                while found.count < BATCH_EVENTS_MAX as usize {
                    let Some(members) = seq.next_element()? else { return Ok(found) };
                    found.events.push(members);
                    found.count += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    found.count += 1;
                }
                Ok(found)
            }
        }

        deserializer.deserialize_seq(EventsVisitor)
    }
}

/// The name of a member. Borrowed, unless it holds escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a member")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

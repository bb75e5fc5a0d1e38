//! From protobuf to events.
//!
//! A message is walked before it is decoded: prost makes 200 bytes of memory of the two bytes of an empty event, so a
//! batch or a map of attributes is counted first.

use std::borrow::Cow;

use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use proto::cloudevents::v1::CloudEvent;
use proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};

use super::error::ProtobufError;
use crate::attribute::{Key, encoded_len};
use crate::cloudevents::Mode;
use crate::cloudevents::fault::EventFault;
use crate::cloudevents::parsed::{HeldValue, ParsedEvent};
use crate::cloudevents::rules::{self, TextFault};
use crate::event::DataKind;
use crate::limits::{ATTRIBUTES_BYTES_MAX, BATCH_EVENTS_MAX, EVENT_DATA_BYTES_MAX};

/// Most entries of an event's map of attributes, see `json`.
const ENTRIES_MAX: usize = ATTRIBUTES_BYTES_MAX as usize / 6;

/// Field of `CloudEvent` that holds the attributes.
const ATTRIBUTES_FIELD: u32 = 5;
/// Field of `CloudEventBatch` that holds the events.
const EVENTS_FIELD: u32 = 1;

/// Parses one event (`application/cloudevents+protobuf`).
///
/// # Errors
/// Names what is wrong, and where it is over a limit, field, limit and value.
pub fn parse_event(bytes: &[u8], mode: Mode<'_>) -> Result<ParsedEvent<'static>, ProtobufError> {
    let mut entries = 0;
    walk(bytes, ATTRIBUTES_FIELD, |_| entries += 1)?;
    check_limit("event attributes", ENTRIES_MAX, entries)?;
    event_of(CloudEvent::decode(bytes)?, mode)
}

/// Parses several events (`application/cloudevents-batch+protobuf`). There may be none.
///
/// # Errors
/// Names the first event that is wrong, and what is wrong with it. Then none is taken.
pub fn parse_batch(
    bytes: &[u8],
    mode: Mode<'_>,
) -> Result<Vec<ParsedEvent<'static>>, ProtobufError> {
    let (mut count, mut slices) = (0, Vec::new());
    walk(bytes, EVENTS_FIELD, |event| {
        count += 1;
        if count <= BATCH_EVENTS_MAX as usize {
            slices.push(event);
        }
    })?;
    check_limit("batch events", BATCH_EVENTS_MAX as usize, count)?;
    let parsed = slices.into_iter().enumerate().map(|(index, event)| {
        let in_batch = |error| ProtobufError::InBatch { index, error: Box::new(error) };
        parse_event(event, mode).map_err(in_batch)
    });
    parsed.collect()
}

/// Calls `found` with the bytes of each field `wanted` of a message.
pub(super) fn walk<'a>(
    bytes: &'a [u8],
    wanted: u32,
    mut found: impl FnMut(&'a [u8]),
) -> Result<(), ProtobufError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (field, wire) = decode_key(&mut rest)?;
        if field != wanted {
            skip_field(wire, field, &mut rest, DecodeContext::default())?;
            continue;
        }
        if wire != WireType::LengthDelimited {
            let reason = format!("field {field} has another wire type");
            return Err(ProtobufError::Decode { reason });
        }
        let len = usize::try_from(decode_varint(&mut rest)?).unwrap_or(usize::MAX);
        let cut = || ProtobufError::Decode { reason: "message is cut".to_owned() };
        let (value, after) = rest.split_at_checked(len).ok_or_else(cut)?;
        found(value);
        rest = after;
    }
    Ok(())
}

fn event_of(event: CloudEvent, mode: Mode<'_>) -> Result<ParsedEvent<'static>, ProtobufError> {
    let mut parsed = ParsedEvent::new(DataKind::None, Cow::Borrowed(&[]));
    let mut attribute_bytes = 0;
    let mut add = |name: Cow<'static, str>, held: HeldValue<'static>| {
        let key = Key::of(&name);
        rules::check_value(&key, &held.as_value()).map_err(|fault| bad_value(&name, fault))?;
        attribute_bytes += encoded_len(&key, &held.as_value());
        check_limit("attribute bytes", ATTRIBUTES_BYTES_MAX as usize, attribute_bytes)?;
        parsed.add(name, held);
        Ok::<_, ProtobufError>(())
    };
    let required = [(Key::Id, event.id), (Key::Source, event.source), (Key::Type, event.r#type)];
    for (key, text) in required {
        // proto3 does not tell absent from empty.
        if !text.is_empty() {
            add(Cow::Borrowed(key.name()), HeldValue::typed_by(&key, Cow::Owned(text)))?;
        }
    }
    for (name, value) in event.attributes {
        let key = Key::of(&name);
        if !key.is_valid() || matches!(key, Key::Id | Key::Source | Key::Type) {
            return Err(ProtobufError::AttributeName { name: name.chars().take(300).collect() });
        }
        let held = held_of(&key, value)?;
        add(Cow::Owned(name), held)?;
    }
    let spec_version = Some(event.spec_version).filter(|version| !version.is_empty());
    parsed.complete(spec_version.as_deref(), mode)?;
    if let Some(data) = event.data {
        let (kind, data) = data_of(parsed.text(&Key::DataContentType), data);
        check_limit("event data bytes", EVENT_DATA_BYTES_MAX as usize, data.len())?;
        parsed.set_data(kind, Cow::Owned(data));
    }
    Ok(parsed)
}

fn held_of(
    key: &Key<'_>,
    value: CloudEventAttributeValue,
) -> Result<HeldValue<'static>, ProtobufError> {
    let wrong_type = || ProtobufError::AttributeType { name: key.name().to_owned() };
    let held = match value.attr.ok_or_else(wrong_type)? {
        Attr::CeBoolean(on) => HeldValue::Boolean(on),
        Attr::CeInteger(number) => HeldValue::Integer(number),
        // Of the known attributes, not all writers know the type.
        Attr::CeString(text) => HeldValue::typed_by(key, Cow::Owned(text)),
        Attr::CeBytes(bytes) => HeldValue::Binary(Cow::Owned(bytes)),
        Attr::CeUri(text) => HeldValue::Uri(Cow::Owned(text)),
        Attr::CeUriRef(text) if *key == Key::DataSchema => HeldValue::Uri(Cow::Owned(text)),
        Attr::CeUriRef(text) => HeldValue::UriReference(Cow::Owned(text)),
        Attr::CeTimestamp(time) => {
            let text = u32::try_from(time.nanos)
                .ok()
                .and_then(|nanos| rules::timestamp_of(time.seconds, nanos))
                .ok_or_else(|| bad_value(key.name(), TextFault::Timestamp))?;
            HeldValue::Timestamp(Cow::Owned(text))
        }
    };
    if crate::attribute::is_type_allowed(key, &held.as_value()) {
        Ok(held)
    } else {
        Err(wrong_type())
    }
}

fn data_of(content_type: Option<&str>, data: Data) -> (DataKind, Vec<u8>) {
    match data {
        Data::BinaryData(bytes) => (rules::kind_of(content_type, &bytes), bytes),
        Data::TextData(text) => {
            let kind = match rules::kind_of(content_type, text.as_bytes()) {
                DataKind::Json => DataKind::Json,
                _ => DataKind::Text,
            };
            (kind, text.into_bytes())
        }
        Data::ProtoData(any) => (DataKind::Protobuf, any.encode_to_vec()),
    }
}

fn bad_value(name: &str, fault: TextFault) -> ProtobufError {
    ProtobufError::Event(EventFault::AttributeValue { name: name.to_owned(), fault })
}

fn check_limit(field: &'static str, limit: usize, value: usize) -> Result<(), ProtobufError> {
    if value <= limit {
        return Ok(());
    }
    Err(ProtobufError::Event(EventFault::Limit { field, limit: limit as u64, value: value as u64 }))
}

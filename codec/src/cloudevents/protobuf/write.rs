//! From events to protobuf.

use prost::Message as _;
use prost_types::{Any, Timestamp};
use proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use proto::cloudevents::v1::{CloudEvent, CloudEventBatch};

use crate::attribute::{Key, Value};
use crate::cloudevents::{
    Place, SOURCE_IF_ABSENT, SPEC_VERSION, TYPE_IF_ABSENT, derived_id, rules,
};
use crate::event::{DataKind, Event};

/// Appends an event (`application/cloudevents+protobuf`). The same event is always the same bytes.
pub fn write_event(event: &Event<'_>, place: &Place<'_>, out: &mut Vec<u8>) {
    message_of(event, place).encode(out).expect("memory has room");
}

/// Appends events (`application/cloudevents-batch+protobuf`).
pub fn write_batch<'a>(
    events: impl IntoIterator<Item = (Event<'a>, Place<'a>)>,
    out: &mut Vec<u8>,
) {
    let events = events.into_iter().map(|(event, place)| message_of(&event, &place)).collect();
    CloudEventBatch { events }.encode(out).expect("memory has room");
}

/// The data as other formats carry it: as it stands, but of an `Any` only the message, because `datacontenttype`
/// speaks of that.
pub(crate) fn plain_data<'a>(event: &Event<'a>) -> &'a [u8] {
    if event.data_kind() == DataKind::Protobuf {
        message_in_any(event.data()).unwrap_or(event.data())
    } else {
        event.data()
    }
}

fn message_of(event: &Event<'_>, place: &Place<'_>) -> CloudEvent {
    let id = event.text(&Key::Id).map_or_else(|| derived_id(place), str::to_owned);
    let attributes = event
        .attributes()
        .filter(|(key, _)| !matches!(key, Key::Id | Key::Source | Key::Type))
        .map(|(key, value)| {
            let attr = Some(attr_of(&value));
            (key.name().to_owned(), CloudEventAttributeValue { attr })
        });
    CloudEvent {
        id,
        source: event.text(&Key::Source).unwrap_or(SOURCE_IF_ABSENT).to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        r#type: event.text(&Key::Type).unwrap_or(TYPE_IF_ABSENT).to_owned(),
        attributes: attributes.collect(),
        data: data_of(event),
    }
}

fn attr_of(value: &Value<'_>) -> Attr {
    match value {
        Value::String(text) => Attr::CeString((*text).to_owned()),
        Value::Boolean(on) => Attr::CeBoolean(*on),
        Value::Integer(number) => Attr::CeInteger(*number),
        Value::Binary(bytes) => Attr::CeBytes(bytes.to_vec()),
        Value::Uri(text) => Attr::CeUri((*text).to_owned()),
        Value::UriReference(text) => Attr::CeUriRef((*text).to_owned()),
        Value::Timestamp(text) => match rules::instant_of(text) {
            Some((seconds, nanos))
                if (rules::INSTANT_MIN..=rules::INSTANT_MAX).contains(&seconds) =>
            {
                // Nanoseconds are below 10^9, so they fit.
                Attr::CeTimestamp(Timestamp { seconds, nanos: nanos as i32 })
            }
            _ => Attr::CeString((*text).to_owned()),
        },
    }
}

fn data_of(event: &Event<'_>) -> Option<Data> {
    let data = event.data();
    let binary = || Data::BinaryData(data.to_vec());
    match event.data_kind() {
        DataKind::None => None,
        DataKind::Binary => Some(binary()),
        DataKind::Text | DataKind::Json => Some(
            std::str::from_utf8(data)
                .map_or_else(|_| binary(), |text| Data::TextData(text.to_owned())),
        ),
        DataKind::Protobuf => Some(Any::decode(data).map_or_else(|_| binary(), Data::ProtoData)),
    }
}

/// The value of an encoded `google.protobuf.Any`, where it stands.
fn message_in_any(bytes: &[u8]) -> Option<&[u8]> {
    const VALUE_FIELD: u32 = 2;
    let mut value: &[u8] = &[];
    super::read::walk(bytes, VALUE_FIELD, |found| value = found).ok()?;
    Some(value)
}

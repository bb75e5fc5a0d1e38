//! From events to JSON.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::attribute::{Key, Value};
use crate::cloudevents::{Place, SOURCE_IF_ABSENT, SPEC_VERSION, TYPE_IF_ABSENT, protobuf, rules};
use crate::event::{DataKind, Event};

/// Appends an event as one JSON object (`application/cloudevents+json`).
///
/// The members stand in a fixed order: `specversion`, the core attributes, the extensions by name, the data.
pub fn write_event(event: &Event<'_>, place: &Place<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"specversion\":");
    write_string(SPEC_VERSION, out);
    match event.text(&Key::Id) {
        Some(id) => write_member("id", &Value::String(id), out),
        None => write_derived_id(place, out),
    }
    let source = event.text(&Key::Source).unwrap_or(SOURCE_IF_ABSENT);
    write_member("source", &Value::UriReference(source), out);
    let event_type = event.text(&Key::Type).unwrap_or(TYPE_IF_ABSENT);
    write_member("type", &Value::String(event_type), out);
    for (key, value) in event.attributes() {
        if !matches!(key, Key::Id | Key::Source | Key::Type) {
            write_member(key.name(), &value, out);
        }
    }
    write_data(event, out);
    out.push(b'}');
}

/// Appends events as one JSON array (`application/cloudevents-batch+json`).
pub fn write_batch<'a>(
    events: impl IntoIterator<Item = (Event<'a>, Place<'a>)>,
    out: &mut Vec<u8>,
) {
    out.push(b'[');
    for (index, (event, place)) in events.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_event(&event, &place, out);
    }
    out.push(b']');
}

/// Makes JSON stand on one line, for output of one event a line. JSON has line ends only between its tokens, so the
/// value stays the same; but data that was given with line ends is then no longer byte for byte as given.
pub fn replace_line_ends(json: &mut [u8]) {
    for byte in json {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

fn write_member(name: &str, value: &Value<'_>, out: &mut Vec<u8>) {
    // Names of attributes are letters and digits, so they need no escapes.
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    match value {
        Value::Boolean(on) => out.extend_from_slice(if *on { b"true" } else { b"false" }),
        Value::Integer(number) => {
            write!(out, "{number}").expect("writing to memory cannot fail");
        }
        Value::Binary(bytes) => write_base64(bytes, out),
        Value::String(text)
        | Value::Uri(text)
        | Value::UriReference(text)
        | Value::Timestamp(text) => write_string(text, out),
    }
}

fn write_derived_id(place: &Place<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"id\":");
    write_string(place.topic, out);
    // The numbers go where the string's closing quote was.
    out.pop();
    write!(out, "/{}/{}\"", place.partition, place.offset).expect("writing to memory cannot fail");
}

fn write_data(event: &Event<'_>, out: &mut Vec<u8>) {
    let data = event.data();
    match event.data_kind() {
        DataKind::None => {}
        // A batch that came over the native protocol may say JSON of bytes that are not; those must not break out.
        DataKind::Json if rules::is_sound_json(data) => write_raw(data, out),
        DataKind::Text => match std::str::from_utf8(data) {
            Ok(_) if is_json_typed(event) && rules::is_sound_json(data) => write_raw(data, out),
            Ok(text) => {
                out.extend_from_slice(b",\"data\":");
                write_string(text, out);
            }
            Err(_) => write_encoded(data, out),
        },
        DataKind::Binary | DataKind::Json => write_encoded(data, out),
        DataKind::Protobuf => write_encoded(protobuf::plain_data(event), out),
    }
}

/// Whether the event says that its data is JSON. Without a type a text stays the text that it is.
fn is_json_typed(event: &Event<'_>) -> bool {
    let content_type = event.text(&Key::DataContentType);
    content_type.is_some() && rules::is_json_type(content_type)
}

fn write_raw(json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(json);
}

fn write_encoded(data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"data_base64\":");
    write_base64(data, out);
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]);
    let written = written.expect("four characters for three bytes were made room for");
    out.truncate(start + written);
    out.push(b'"');
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

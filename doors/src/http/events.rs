//! A delivered event as JSON.

use std::io::Write as _;

use codec::body::Body;
use codec::cloudevents::{Place, json};
use dataplane::session::{Delivery, Gap};

use super::tokens;

/// Whether the object begins with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// For who settles it by its token.
    WithToken,
    /// On one line, for who does not.
    Line,
    /// For a client of EventMesh that polls: its delivery's name and the event.
    EventMesh,
    /// The event alone, on one line.
    Bare,
}

/// Appends event `index` of a delivery. `false` if the batch does not have it, which only a damaged one can cause.
pub(super) fn write(delivery: &Delivery, index: u32, form: Form, out: &mut Vec<u8>) -> bool {
    let header = &delivery.batch.header;
    let Ok(body) = Body::checked_before(&delivery.batch.body, header.count) else { return false };
    let Some(event) = body.event(index) else { return false };
    let offset = header.base_offset.plus(u64::from(index));
    let place = Place { topic: &delivery.topic, partition: header.partition, offset };
    if form == Form::EventMesh {
        out.extend_from_slice(b"{\"deliveryId\":\"");
        tokens::write(&delivery.token, index, out);
        out.extend_from_slice(b"\",\"event\":");
        json::write_event(&event, &place, out);
        out.push(b'}');
        return true;
    }
    if form == Form::Bare {
        let start = out.len();
        json::write_event(&event, &place, out);
        json::replace_line_ends(&mut out[start..]);
        return true;
    }
    let start = out.len();
    out.push(b'{');
    if form == Form::WithToken {
        out.extend_from_slice(b"\"token\":\"");
        tokens::write(&delivery.token, index, out);
        out.extend_from_slice(b"\",");
    }
    out.extend_from_slice(b"\"topic\":");
    string(&delivery.topic, out);
    let (partition, attempt) = (header.partition, delivery.attempt);
    let numbers = format_args!(
        ",\"partition\":{partition},\"offset\":{offset},\"attempt\":{attempt},\"event\":"
    );
    out.write_fmt(numbers).expect("writing to memory cannot fail");
    json::write_event(&event, &place, out);
    out.push(b'}');
    if form == Form::Line {
        json::replace_line_ends(&mut out[start..]);
    }
    true
}

/// Appends what a stream says of events that are gone. It has no id: who comes back before an event behind them is told
/// again.
pub(super) fn write_gap(gap: &Gap, form: Form, out: &mut Vec<u8>) {
    // A client of EventMesh would take any data for an event.
    let (start, end): (&[u8], &[u8]) = match form {
        Form::Bare => (b": gap ", b"\n\n"),
        _ => (b"event: gap\ndata: ", b"\n\n"),
    };
    out.extend_from_slice(start);
    write_missed(gap.events, out);
    out.extend_from_slice(end);
}

/// Appends how many events are gone, `null` if nobody knows.
pub(super) fn write_missed(events: Option<u64>, out: &mut Vec<u8>) {
    let written = match events {
        Some(events) => write!(out, "{{\"events\":{events}}}"),
        None => write!(out, "{{\"events\":null}}"),
    };
    written.expect("writing to memory cannot fail");
}

/// Appends a text as a JSON string.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

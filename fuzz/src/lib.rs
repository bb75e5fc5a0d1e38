//! What the fuzz targets share: an event that was taken must go into a batch, come out of it by every form, and be
//! taken again as what it was.

use codec::batch::Batch;
use codec::builder::BatchBuilder;
use codec::cloudevents::parsed::ParsedEvent;
use codec::cloudevents::{Mode, Place, http, json, protobuf};
use codec::error::BuildError;
use codec::event::Event;
use codec::header::HeaderSeed;
use codec::ids::{Offset, Partition, TopicId};

/// Where the event is said to stand.
pub const PLACE: Place<'static> =
    Place { topic: "a/b", partition: Partition(1), offset: Offset(2) };

/// Puts a parsed event through a batch and out of it again.
pub fn check_parsed(parsed: &ParsedEvent<'_>) {
    let mut builder = BatchBuilder::new(&mut []).expect("nothing is shared");
    match parsed.push_to(&mut builder) {
        Ok(()) => {}
        // The forms count attributes as the builder does, so only the whole can be too large.
        Err(BuildError::Limit { .. }) => return,
        Err(error) => panic!("a parsed event is refused: {error}"),
    }
    let bytes = builder.finish(TopicId(1), Partition(0));
    let batch = Batch::parse(&bytes, HeaderSeed::WIRE).expect("the builder makes whole batches");
    let body = batch.check().expect("the builder makes sound bodies");
    let event = body.event(0).expect("there is one event");
    assert_eq!(event.data(), parsed.data());
    assert_eq!(event.attributes().count(), parsed.attributes().count());
    check_event(&event);
}

/// Writes an event by every form and reads it back. Only of events whose texts the forms take.
pub fn check_event(event: &Event<'_>) {
    let mut out = Vec::new();
    json::write_event(event, &PLACE, &mut out);
    let parsed = json::parse_event(&out, Mode::Strict).expect("written JSON is taken");
    assert!(parsed.attributes().count() >= event.attributes().count());
    out.clear();
    protobuf::write_event(event, &PLACE, &mut out);
    protobuf::parse_event(&out, Mode::Strict).expect("written protobuf is taken");
    let mut headers = Vec::new();
    let body = http::write_event(event, &PLACE, |name, value| {
        headers.push((name.to_owned(), value.to_owned()));
    });
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    http::parse_event(headers, body, Mode::Strict).expect("written headers are taken");
}

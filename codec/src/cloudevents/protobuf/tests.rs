//! Tests of the protobuf form. The generated types are the oracle of what the bytes say.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use proto::cloudevents::v1::{CloudEvent, CloudEventBatch};

use super::*;
use crate::attribute::{Key, Value};
use crate::builder::BatchBuilder;
use crate::cloudevents::fault::EventFault;
use crate::cloudevents::parsed::ParsedEvent;
use crate::cloudevents::rules::{TextFault, instant_of, kind_of, timestamp_of};
use crate::cloudevents::{Defaults, Mode, Place, json};
use crate::event::DataKind;
use crate::ids::{Offset, Partition, TopicId};
use crate::sample::{Random, Sample, batch_of, mutated, with_event};

const PLACE: Place<'static> = Place { topic: "a/b", partition: Partition(7), offset: Offset(42) };

fn bytes_of(batch: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    with_event(batch, |event| write_event(event, &PLACE, &mut out));
    out
}

fn batch_with(event: &ParsedEvent<'_>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(&mut []).unwrap();
    event.push_to(&mut builder).unwrap();
    builder.finish(TopicId(1), Partition(0))
}

fn event_with(attributes: &[(&str, Option<Attr>)], data: Option<Data>) -> CloudEvent {
    let attributes = attributes
        .iter()
        .map(|(name, attr)| ((*name).to_owned(), CloudEventAttributeValue { attr: attr.clone() }));
    CloudEvent {
        id: "1".to_owned(),
        source: "/s".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "t".to_owned(),
        attributes: attributes.collect(),
        data,
    }
}

fn text(text: &str) -> Option<Attr> {
    Some(Attr::CeString(text.to_owned()))
}

/// The wire bytes of a message, by hand from the specification's .proto: a wrong field number would only show itself
/// with a foreign client.
#[test]
fn fields_have_the_numbers_of_the_specification() {
    let bytes = [
        &b"\x0a\x01i\x12\x02/s\x1a\x031.0\x22\x01t"[..],
        b"\x2a\x0b\x0a\x05extra\x12\x02\x10\x07", // ce_integer 7
        b"\x2a\x0d\x0a\x07subject\x12\x02\x1a\x00", // ce_string ""
        b"\x3a\x02hi",
    ]
    .concat();
    let error = parse_event(&bytes, Mode::Strict).unwrap_err();
    let fault = TextFault::Empty;
    assert_eq!(
        error,
        ProtobufError::Event(EventFault::AttributeValue { name: "subject".to_owned(), fault })
    );
    let bytes = [&bytes[..bytes.len() - 19], b"\x3a\x02hi"].concat();
    let event = parse_event(&bytes, Mode::Strict).unwrap();
    assert_eq!(event.text(&Key::Id), Some("i"));
    assert_eq!(event.get(&Key::Source), Some(Value::UriReference("/s")));
    assert_eq!(event.text(&Key::Type), Some("t"));
    assert_eq!(event.get(&Key::of("extra")), Some(Value::Integer(7)));
    assert_eq!((event.data_kind(), event.data()), (DataKind::Text, &b"hi"[..]));
    assert_eq!(bytes_of(&batch_with(&event)), bytes);
}

/// This is the one form that says every type, so every type must come back, and every byte of data.
#[test]
fn round_trips_everything() {
    for seed in 0..2_000 {
        let sample = Sample::random(&mut Random::new(seed));
        let bytes = bytes_of(&batch_of(std::slice::from_ref(&sample)));
        let parsed = parse_event(&bytes, Mode::Strict).unwrap();
        assert_eq!(parsed.attributes().count(), sample.attributes.len());
        for (key, value) in sample.pairs() {
            let in_utc;
            let expected = match value {
                Value::Timestamp(text) => {
                    let (seconds, nanos) = instant_of(text).unwrap();
                    in_utc = timestamp_of(seconds, nanos).unwrap();
                    Value::Timestamp(&in_utc)
                }
                other => other,
            };
            assert_eq!(parsed.get(&key), Some(expected), "seed {seed}");
        }
        assert_eq!(parsed.data(), sample.data, "seed {seed}");
        // The type decides what bytes and text are, see the table in the module's document.
        let kind = match (sample.kind, parsed.text(&Key::DataContentType)) {
            (DataKind::Binary, content_type) => kind_of(content_type, &sample.data),
            (DataKind::Json, None) => DataKind::Text,
            (kind, _) => kind,
        };
        assert_eq!(parsed.data_kind(), kind, "seed {seed}");
        let again = bytes_of(&batch_with(&parsed));
        if kind == DataKind::Binary || sample.kind != DataKind::Binary {
            assert_eq!(again, bytes, "seed {seed}: written as it was");
        }
    }
}

/// Each line is an event that two readers would take for two different ones.
#[test]
fn refuses_by_name() {
    let name = |name: &str| name.to_owned();
    let value = |n: &str, fault| {
        ProtobufError::Event(EventFault::AttributeValue { name: n.to_owned(), fault })
    };
    let too_late = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    let negative = prost_types::Timestamp { seconds: 0, nanos: -1 };
    let table = [
        ("id", text("2"), ProtobufError::AttributeName { name: name("id") }),
        ("specversion", text("1.0"), ProtobufError::AttributeName { name: name("specversion") }),
        ("Camel", text("x"), ProtobufError::AttributeName { name: name("Camel") }),
        ("", text("x"), ProtobufError::AttributeName { name: name("") }),
        ("x", None, ProtobufError::AttributeType { name: name("x") }),
        (
            "subject",
            Some(Attr::CeInteger(1)),
            ProtobufError::AttributeType { name: name("subject") },
        ),
        (
            "time",
            Some(Attr::CeUri(name("a:b"))),
            ProtobufError::AttributeType { name: name("time") },
        ),
        ("time", text("now"), value("time", TextFault::Timestamp)),
        ("time", Some(Attr::CeTimestamp(too_late)), value("time", TextFault::Timestamp)),
        ("x", Some(Attr::CeTimestamp(negative)), value("x", TextFault::Timestamp)),
        ("x", Some(Attr::CeUri(name("/a"))), value("x", TextFault::Uri)),
        ("x", Some(Attr::CeUriRef(name("a b"))), value("x", TextFault::UriReference)),
        ("x", text("a\nb"), value("x", TextFault::Character)),
    ];
    for (attribute, attr, error) in table {
        let bytes = event_with(&[(attribute, attr)], None).encode_to_vec();
        assert_eq!(parse_event(&bytes, Mode::Strict), Err(error.clone()), "{attribute}");
        let batch = CloudEventBatch {
            events: vec![event_with(&[], None), CloudEvent::decode(&bytes[..]).unwrap()],
        };
        let in_batch = ProtobufError::InBatch { index: 1, error: Box::new(error) };
        assert_eq!(parse_batch(&batch.encode_to_vec(), Mode::Strict), Err(in_batch));
    }
    for attribute in ["specversion", "id", "source", "type"] {
        let mut event = event_with(&[], None);
        match attribute {
            "specversion" => event.spec_version.clear(),
            "id" => event.id.clear(),
            "source" => event.source.clear(),
            _ => event.r#type.clear(),
        }
        let error = parse_event(&event.encode_to_vec(), Mode::Strict).unwrap_err();
        assert_eq!(error, ProtobufError::Event(EventFault::Missing { attribute }));
    }
    let defaults = Defaults { id: Some("d"), source: "/d", event_type: "d" };
    let event = parse_event(b"", Mode::Lenient(&defaults)).unwrap();
    assert_eq!(event.text(&Key::Source), Some("/d"));
}

/// Known attributes as writers that do not know their types give them.
#[test]
fn takes_strings_for_known_attributes() {
    let attributes = [
        ("time", text("2018-04-05T17:31:00+02:00")),
        ("dataschema", text("urn:x")),
        ("datacontenttype", text("application/json")),
    ];
    let data = Some(Data::BinaryData(b"[1]".to_vec()));
    let bytes = event_with(&attributes, data).encode_to_vec();
    let event = parse_event(&bytes, Mode::Strict).unwrap();
    assert_eq!(event.get(&Key::Time), Some(Value::Timestamp("2018-04-05T17:31:00+02:00")));
    assert_eq!(event.get(&Key::DataSchema), Some(Value::Uri("urn:x")));
    assert_eq!(event.data_kind(), DataKind::Json, "so that JSON shows it as what it is");
}

/// A year that protobuf cannot hold must not become another one.
#[test]
fn a_time_out_of_range_goes_as_it_is() {
    let mut event = ParsedEvent::new(DataKind::None, (&[][..]).into());
    event.set(&Key::Time, &Value::Timestamp("0000-01-01T00:00:00Z"));
    let bytes = bytes_of(&batch_with(&event));
    let message = CloudEvent::decode(&bytes[..]).unwrap();
    let attr = text("0000-01-01T00:00:00Z");
    let expected = BTreeMap::from([("time".to_owned(), CloudEventAttributeValue { attr })]);
    assert_eq!(message.attributes, expected);
    assert_eq!(message.id, "a/b/7/42", "derived");
}

/// A protobuf message that goes out by a door of another format is the message that `datacontenttype` speaks of.
#[test]
fn other_formats_get_the_message_of_an_any() {
    let any = prost_types::Any { type_url: "example.com/T".to_owned(), value: vec![0, 1, 2] };
    let bytes = event_with(&[], Some(Data::ProtoData(any.clone()))).encode_to_vec();
    let parsed = parse_event(&bytes, Mode::Strict).unwrap();
    assert_eq!((parsed.data_kind(), parsed.data()), (DataKind::Protobuf, &any.encode_to_vec()[..]));
    let mut out = Vec::new();
    with_event(&batch_with(&parsed), |event| json::write_event(event, &PLACE, &mut out));
    assert!(out.ends_with(b",\"data_base64\":\"AAEC\"}"), "{}", String::from_utf8_lossy(&out));

    // A native publisher may say protobuf of any bytes; they stay what they are.
    let odd = Sample { attributes: vec![], kind: DataKind::Protobuf, data: vec![0xff, 1] };
    let message = CloudEvent::decode(&bytes_of(&batch_of(&[odd]))[..]).unwrap();
    assert_eq!(message.data, Some(Data::BinaryData(vec![0xff, 1])));
}

/// Two bytes an event, two hundred of memory: the count must be known before anything is decoded.
#[test]
fn keeps_its_limits() {
    let batch = b"\x0a\x00".repeat(8_193);
    let error = parse_batch(&batch, Mode::Strict).unwrap_err();
    let limit =
        |field, limit, value| ProtobufError::Event(EventFault::Limit { field, limit, value });
    assert_eq!(error, limit("batch events", 8_192, 8_193));
    let entries = b"\x2a\x00".repeat(10_923);
    let error = parse_event(&entries, Mode::Strict).unwrap_err();
    assert_eq!(error, limit("event attributes", 10_922, 10_923));
    let long = event_with(&[("x", text(&"y".repeat(70_000)))], None).encode_to_vec();
    let error = parse_event(&long, Mode::Strict).unwrap_err();
    assert!(
        matches!(error, ProtobufError::Event(EventFault::Limit { field: "attribute bytes", .. })),
        "{error}"
    );
    assert!(matches!(parse_batch(b"\x0a\x05x", Mode::Strict), Err(ProtobufError::Decode { .. })));
    assert_eq!(parse_batch(b"", Mode::Strict), Ok(vec![]));
}

/// Bytes from outside: nothing may panic, and what is taken must come out as what was taken.
#[test]
fn takes_100_000_mutated_inputs() {
    let mut random = Random::new(5);
    let originals: Vec<_> = (0..200)
        .map(|seed| Sample::random(&mut Random::new(seed)))
        .map(|sample| bytes_of(&batch_of(&[sample])))
        .collect();
    let mut taken = 0;
    for case in 0..100_000 {
        let Ok(parsed) = parse_event(&mutated(&mut random, &originals), Mode::Strict) else {
            continue;
        };
        taken += 1;
        let bytes = bytes_of(&batch_with(&parsed));
        let again = parse_event(&bytes, Mode::Strict).unwrap();
        assert_eq!(bytes_of(&batch_with(&again)), bytes, "case {case}");
        assert_eq!(again.data(), parsed.data(), "case {case}");
        assert_eq!(again.data_kind(), parsed.data_kind(), "case {case}");
    }
    assert!(taken > 1_000, "the mutations leave enough events whole: {taken}");
}

/// The same for batches: none may panic or take an event more or less than the generated type does. (The walk over the
/// events once passed over one whose wire type was wrong, and the rest of the batch was taken without it.)
#[test]
fn takes_100_000_mutated_batches() {
    let mut random = Random::new(6);
    let originals: Vec<_> = (0..100)
        .map(|seed| {
            let mut random = Random::new(seed);
            let samples: Vec<_> =
                (0..1 + seed as usize % 3).map(|_| Sample::random(&mut random)).collect();
            let batch = batch_of(&samples);
            let batch =
                crate::batch::Batch::parse(&batch, crate::header::HeaderSeed::WIRE).unwrap();
            let mut out = Vec::new();
            write_batch(batch.check().unwrap().events().map(|event| (event, PLACE)), &mut out);
            out
        })
        .collect();
    let mut taken = 0;
    for case in 0..100_000 {
        let bytes = mutated(&mut random, &originals);
        let Ok(events) = parse_batch(&bytes, Mode::Strict) else { continue };
        taken += 1;
        let oracle = CloudEventBatch::decode(&bytes[..]).unwrap();
        assert_eq!(events.len(), oracle.events.len(), "case {case}");
    }
    assert!(taken > 500, "the mutations leave enough batches whole: {taken}");
}

//! Tests of the HTTP binding's binary mode.

use super::*;
use crate::builder::BatchBuilder;
use crate::cloudevents::Defaults;
use crate::cloudevents::rules::TextFault;
use crate::ids::{Offset, Partition, TopicId};
use crate::sample::{Random, Sample, batch_of, mutated, with_event};

const PLACE: Place<'static> = Place { topic: "a/é", partition: Partition(7), offset: Offset(42) };

/// A message: its headers as they go over the wire, and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Message {
    fn with(headers: &[(&str, &str)], body: &str) -> Message {
        let required =
            [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        let headers = required.iter().chain(headers);
        let headers = headers.map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
        Message { headers, body: body.as_bytes().to_vec() }
    }

    fn parse(&self) -> Result<ParsedEvent<'_>, HttpError> {
        self.parse_as(Mode::Strict)
    }

    fn parse_as(&self, mode: Mode<'_>) -> Result<ParsedEvent<'_>, HttpError> {
        parse_event(self.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())), &self.body, mode)
    }
}

fn message_of(batch: &[u8]) -> Message {
    with_event(batch, |event| {
        let mut headers = Vec::new();
        let body = write_event(event, &PLACE, |name, value| {
            assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)), "{name}: {value}");
            headers.push((name.to_owned(), value.as_bytes().to_vec()));
        });
        Message { headers, body: body.to_vec() }
    })
}

/// The example of the binding (version 1.0.2, section 3.1.4): other systems send just that.
#[test]
fn takes_the_example_of_the_specification() {
    let headers = [
        ("ce-time", "2018-04-05T03:56:24Z"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("CE-Subject", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("Host", "example.com\u{7}"),
    ];
    let message = Message::with(&headers, "{\"a\": 1 }\n");
    let event = message.parse().unwrap();
    assert_eq!(event.text(&Key::Subject), Some("Euro € 😀"));
    assert_eq!(event.get(&Key::Time), Some(Value::Timestamp("2018-04-05T03:56:24Z")));
    assert_eq!(event.text(&Key::DataContentType), Some("application/json; charset=utf-8"));
    assert_eq!((event.data_kind(), event.data()), (DataKind::Json, &b"{\"a\": 1 }\n"[..]));
    assert_eq!(event.attributes().count(), 6, "other headers are not of the event");
}

/// Percent-encoding as the binding has it, both ways: what one side encodes otherwise the other garbles.
#[test]
fn values_are_percent_encoded() {
    let table = [
        ("plain!#$&'()*+,-./:;<=>?@[]^_`{|}~", "plain!#$&'()*+,-./:;<=>?@[]^_`{|}~"),
        ("a b", "a%20b"),
        ("\"", "%22"),
        ("100%", "100%25"),
        ("€", "%E2%82%AC"),
        ("😀", "%F0%9F%98%80"),
        ("é", "%C3%A9"),
    ];
    for (text, expected) in table {
        assert_eq!(percent_encoded(text), expected);
        let message = Message::with(&[("ce-subject", expected)], "");
        assert_eq!(message.parse().unwrap().text(&Key::Subject), Some(text));
    }
    let also_taken = [
        ("\"a b\"", "a b"),
        ("\"a \\\" \\\\ b\"", "a \" \\ b"),
        ("\"a%20b\"", "a b"),
        ("%41", "A"),
        ("%e2%82%ac", "€"),
        ("€", "€"),
        ("  x\t", "x"),
        ("\"", "\""),
    ];
    for (value, text) in also_taken {
        let message = Message::with(&[("ce-subject", value)], "");
        assert_eq!(message.parse().unwrap().text(&Key::Subject), Some(text), "{value}");
    }
}

/// Each line is a message that two readers would take for two different events.
#[test]
fn refuses_by_name() {
    let header = |header: &str| header.to_owned();
    let value = |name: &str, fault| {
        HttpError::Event(EventFault::AttributeValue { name: name.to_owned(), fault })
    };
    let table = [
        (("ce-subject", "100%"), HttpError::Percent { header: header("ce-subject") }),
        (("ce-subject", "%4"), HttpError::Percent { header: header("ce-subject") }),
        (("ce-subject", "%zz"), HttpError::Percent { header: header("ce-subject") }),
        (("ce-subject", "%+1"), HttpError::Percent { header: header("ce-subject") }),
        (("ce-subject", "%C0%A0"), HttpError::NotUtf8 { header: header("ce-subject") }),
        (("ce-subject", "a%0D%0Ab"), value("subject", TextFault::Character)),
        (("ce-subject", ""), value("subject", TextFault::Empty)),
        (("ce-time", "now"), value("time", TextFault::Timestamp)),
        (("ce-source", "/s"), HttpError::DuplicateHeader { header: header("ce-source") }),
        (("CE-ID", "1"), HttpError::DuplicateHeader { header: header("CE-ID") }),
        (
            ("ce-specversion", "1.0"),
            HttpError::DuplicateHeader { header: header("ce-specversion") },
        ),
        (("ce-a_b", "1"), HttpError::AttributeName { header: header("ce-a_b") }),
        (("ce-", "1"), HttpError::AttributeName { header: header("ce-") }),
        (("ce-data", "1"), HttpError::AttributeName { header: header("ce-data") }),
        (
            ("ce-datacontenttype", "text/plain"),
            HttpError::AttributeName { header: header("ce-datacontenttype") },
        ),
        (("content-type", "json"), value("datacontenttype", TextFault::MediaType)),
    ];
    for (pair, error) in table {
        assert_eq!(Message::with(&[pair], "").parse(), Err(error), "{pair:?}");
    }
    for (at, attribute) in ["specversion", "id", "source", "type"].into_iter().enumerate() {
        let mut message = Message::with(&[], "");
        message.headers.remove(at);
        assert_eq!(message.parse(), Err(HttpError::Event(EventFault::Missing { attribute })));
    }
    let mut message = Message::with(&[], "");
    message.headers[0].1 = b"0.3".to_vec();
    assert_eq!(
        message.parse(),
        Err(HttpError::Event(EventFault::SpecVersion { found: header("0.3") }))
    );
    let long = "x".repeat(70_000);
    assert!(matches!(
        Message::with(&[("ce-x", &long)], "").parse(),
        Err(HttpError::Event(EventFault::Limit { field: "attribute bytes", limit: 65_536, .. }))
    ));
}

/// Any event must come out as headers and go in again with the same texts and the same bytes.
#[test]
fn round_trips_whatever_headers_can_say() {
    for seed in 0..2_000 {
        let sample = Sample::random(&mut Random::new(seed));
        let message = message_of(&batch_of(std::slice::from_ref(&sample)));
        let parsed = message.parse().unwrap();
        for (key, value) in sample.pairs() {
            // White space at the ends of a value is encoded, so it stays.
            let expected = match value {
                Value::Boolean(on) => on.to_string(),
                Value::Integer(number) => number.to_string(),
                Value::Binary(bytes) => STANDARD.encode(bytes),
                other => other.text().unwrap().to_owned(),
            };
            assert_eq!(parsed.text(&key), Some(expected.as_str()), "seed {seed}");
        }
        let data = if sample.kind == DataKind::Protobuf { &[1, 2, 3][..] } else { &sample.data };
        assert_eq!(parsed.data(), data, "seed {seed}");
        let kind = match parsed.text(&Key::DataContentType) {
            _ if data.is_empty() => DataKind::None,
            content_type => rules::kind_of(content_type, data),
        };
        assert_eq!(parsed.data_kind(), kind, "seed {seed}");
        if matches!(sample.kind, DataKind::Json | DataKind::Text) {
            assert_eq!(kind, sample.kind, "seed {seed}: JSON and text are told from other bytes");
        }
    }
}

/// A native publisher may put anything printable into a media type; it must not become a header of its own.
#[test]
fn no_value_breaks_out_of_its_header() {
    let attributes = vec![(
        "datacontenttype".to_owned(),
        crate::sample::Kind::String("text/plain; x=\"é\u{a0}\"".to_owned()),
    )];
    let sample = Sample { attributes, kind: DataKind::Text, data: b"x".to_vec() };
    let message = message_of(&batch_of(&[sample]));
    let found = message.headers.iter().find(|(name, _)| name == "content-type").unwrap();
    assert_eq!(found.1, b"text/plain; x=\"%C3%A9%C2%A0\"");
}

/// What is left out of a batch is said here: without `Content-Type` the reader would not know that the body is JSON.
#[test]
fn derives_what_the_publisher_left_out() {
    let sample = Sample { attributes: vec![], kind: DataKind::Json, data: b"1".to_vec() };
    let message = message_of(&batch_of(&[sample]));
    let expected = [
        ("ce-specversion", "1.0"),
        ("ce-id", "a/%C3%A9/7/42"),
        ("ce-source", "/"),
        ("ce-type", "event"),
        ("content-type", "application/json"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    assert_eq!(message.headers, expected);
    assert_eq!(message.parse().unwrap().data_kind(), DataKind::Json);

    let defaults = Defaults { id: None, source: "/d", event_type: "d" };
    let bare = Message { headers: vec![], body: b"x".to_vec() };
    let event = bare.parse_as(Mode::Lenient(&defaults)).unwrap();
    assert_eq!(event.text(&Key::Source), Some("/d"));
    assert_eq!(event.get(&Key::Id), None);
}

/// A structured event that is taken for data is lost for everyone who filters on its attributes.
#[test]
fn content_modes_are_told_apart() {
    let table = [
        (None, ContentMode::Binary),
        (Some("application/json"), ContentMode::Binary),
        (Some("application/cloudevents+json"), ContentMode::StructuredJson),
        (Some("Application/CloudEvents+JSON; charset=UTF-8"), ContentMode::StructuredJson),
        (Some("application/cloudevents-batch+json"), ContentMode::BatchedJson),
        (Some("application/cloudevents+protobuf"), ContentMode::StructuredProtobuf),
        (Some("application/cloudevents-batch+protobuf"), ContentMode::BatchedProtobuf),
        (Some("application/cloudevents+avro"), ContentMode::Unknown),
        (Some("application/cloudevents"), ContentMode::Unknown),
    ];
    for (content_type, mode) in table {
        assert_eq!(ContentMode::of(content_type), mode, "{content_type:?}");
    }
}

/// Headers from outside: nothing may panic, and what is taken must come out as what was taken.
#[test]
fn takes_100_000_mutated_inputs() {
    let mut random = Random::new(4);
    // One header a line, an empty line, the body: so that mutations move the borders too.
    let joined = |message: &Message| {
        let mut bytes = Vec::new();
        for (name, value) in &message.headers {
            bytes.extend_from_slice(&[name.as_bytes(), b":", value, b"\n"].concat());
        }
        bytes.extend_from_slice(&[b"\n", &message.body[..]].concat());
        bytes
    };
    let originals: Vec<_> = (0..200)
        .map(|seed| Sample::random(&mut Random::new(seed)))
        .map(|sample| joined(&message_of(&batch_of(&[sample]))))
        .collect();
    let mut taken = 0;
    for case in 0..100_000 {
        let bytes = mutated(&mut random, &originals);
        let Some(message) = split(&bytes) else { continue };
        let Ok(parsed) = message.parse() else { continue };
        taken += 1;
        let mut builder = BatchBuilder::new(&mut []).unwrap();
        parsed.push_to(&mut builder).unwrap();
        let again = message_of(&builder.finish(TopicId(1), Partition(0)));
        let again = again.parse().unwrap();
        assert_eq!(again.data(), parsed.data(), "case {case}");
        assert_eq!(again.data_kind(), parsed.data_kind(), "case {case}");
        for (key, value) in parsed.attributes() {
            assert_eq!(again.get(&key), Some(value), "case {case}");
        }
    }
    assert!(taken > 1_000, "the mutations leave enough events whole: {taken}");
}

fn split(bytes: &[u8]) -> Option<Message> {
    let mut headers = Vec::new();
    let mut rest = bytes;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        if line.is_empty() {
            return Some(Message { headers, body: after.to_vec() });
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8(line[..colon].to_vec()).ok()?;
        headers.push((name, line[colon + 1..].to_vec()));
        rest = after;
    }
}

//! Tests of the JSON form.

use super::*;
use crate::attribute::{Key, Value};
use crate::builder::BatchBuilder;
use crate::cloudevents::fault::EventFault;
use crate::cloudevents::parsed::ParsedEvent;
use crate::cloudevents::rules::TextFault;
use crate::cloudevents::{Defaults, Mode, Place, derived_id};
use crate::event::DataKind;
use crate::ids::{Offset, Partition, TopicId};
use crate::sample::{Random, Sample, batch_of, mutated, with_event};

const PLACE: Place<'static> =
    Place { topic: "a/\"b\"", partition: Partition(7), offset: Offset(42) };
const DEFAULTS: Defaults<'static> = Defaults { id: None, source: "/cli", event_type: "event" };

fn batch_with(event: &ParsedEvent<'_>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(&mut []).unwrap();
    event.push_to(&mut builder).unwrap();
    builder.finish(TopicId(1), Partition(0))
}

fn json_of(batch: &[u8]) -> String {
    let mut out = Vec::new();
    with_event(batch, |event| write_event(event, &PLACE, &mut out));
    String::from_utf8(out).unwrap()
}

/// `members` between the required ones.
fn event_with(members: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{members}}}"#)
}

/// What JSON cannot say: see the table in the module's document.
fn as_json_reads_it<'a>(value: &Value<'a>, key: &Key<'_>, base64: &'a str) -> Value<'a> {
    match (key, value) {
        (Key::Extension(_), Value::Binary(_)) => Value::String(base64),
        (Key::Extension(_), other) => other.text().map_or(*other, Value::String),
        _ => *value,
    }
}

/// The events of the specification's JSON document (version 1.0.2, sections 3.2 and 4): the format is theirs.
#[test]
fn takes_the_examples_of_the_specification() {
    let xml = r#"{
        "specversion" : "1.0",
        "type" : "com.example.someevent",
        "source" : "/mycontext",
        "subject": null,
        "id" : "C234-1234-1234",
        "time" : "2018-04-05T17:31:00Z",
        "comexampleextension1" : "value",
        "comexampleothervalue" : 5,
        "datacontenttype" : "application/xml",
        "data" : "<much wow=\"xml\"/>"
    }"#;
    let event = parse_event(xml.as_bytes(), Mode::Strict).unwrap();
    assert_eq!(event.get(&Key::Subject), None, "null is absent");
    assert_eq!(event.get(&Key::Time), Some(Value::Timestamp("2018-04-05T17:31:00Z")));
    assert_eq!(event.get(&Key::of("comexampleothervalue")), Some(Value::Integer(5)));
    assert_eq!((event.data_kind(), event.data()), (DataKind::Text, &b"<much wow=\"xml\"/>"[..]));

    let object = event_with(
        r#","datacontenttype":"application/json","data": {"appinfoA" : "abc", "n": 1.50}"#,
    );
    let event = parse_event(object.as_bytes(), Mode::Strict).unwrap();
    assert_eq!(event.data_kind(), DataKind::Json);
    assert_eq!(event.data(), br#"{"appinfoA" : "abc", "n": 1.50}"#, "byte for byte");

    let string = event_with(r#","datacontenttype":"application/json","data":"I'm just a string""#);
    let event = parse_event(string.as_bytes(), Mode::Strict).unwrap();
    assert_eq!((event.data_kind(), event.data()), (DataKind::Json, &br#""I'm just a string""#[..]));

    let binary = event_with(r#","data_base64":"AAEC/w==""#);
    let event = parse_event(binary.as_bytes(), Mode::Strict).unwrap();
    assert_eq!((event.data_kind(), event.data()), (DataKind::Binary, &[0, 1, 2, 255][..]));

    let batch = format!("[{xml}, {object}]");
    assert_eq!(parse_batch(batch.as_bytes(), Mode::Strict).unwrap().len(), 2);
    assert_eq!(parse_batch(b" [ ] ", Mode::Strict), Ok(vec![]));
}

/// A form that loses an attribute, its type or a byte of data loses it for every subscriber of that door.
#[test]
fn round_trips_whatever_json_can_say() {
    for seed in 0..2_000 {
        let mut random = Random::new(seed);
        let sample = Sample::random(&mut random);
        let json = json_of(&batch_of(std::slice::from_ref(&sample)));
        serde_json::from_str::<serde_json::Value>(&json.replace("\\ud800", "")).unwrap();
        let parsed = parse_event(json.as_bytes(), Mode::Strict).unwrap();
        assert_eq!(parsed.attributes().count(), sample.attributes.len(), "seed {seed}: {json}");
        for (key, value) in sample.pairs() {
            let mut base64 = String::new();
            if let Value::Binary(bytes) = value {
                use base64::Engine as _;
                base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
            }
            let expected = as_json_reads_it(&value, &key, &base64);
            assert_eq!(parsed.get(&key), Some(expected), "seed {seed}: {json}");
        }
        let kind = if sample.kind == DataKind::Protobuf { DataKind::Binary } else { sample.kind };
        assert_eq!(parsed.data_kind(), kind, "seed {seed}: {json}");
        if kind == sample.kind {
            assert_eq!(parsed.data(), sample.data, "seed {seed}: {json}");
        }
    }
}

/// Each line is something that would make two readers see two different events, or a value that no form can carry.
#[test]
fn refuses_by_name() {
    let name = |name: &str| name.to_owned();
    let value =
        |n: &str, fault| JsonError::Event(EventFault::AttributeValue { name: n.to_owned(), fault });
    let kind =
        |n: &str, expected, found| JsonError::AttributeType { name: n.to_owned(), expected, found };
    let integer = |v: &str| JsonError::Integer { name: name("n"), value: v.to_owned() };
    let any = "a string, boolean or integer";
    let table = [
        (r#","id":"2""#, JsonError::DuplicateMember { name: name("id") }),
        (r#","x":1,"\u0078":1"#, JsonError::DuplicateMember { name: name("x") }),
        (r#","data":1,"data":1"#, JsonError::DuplicateMember { name: name("data") }),
        (r#","camelCase":1"#, JsonError::AttributeName { name: name("camelCase") }),
        (r#","":1"#, JsonError::AttributeName { name: name("") }),
        (r#","n":1.0"#, integer("1.0")),
        (r#","n":1e2"#, integer("1e2")),
        (r#","n":2147483648"#, integer("2147483648")),
        (r#","n":{}"#, kind("n", any, "an object")),
        (r#","n":[]"#, kind("n", any, "an array")),
        (r#","subject":1"#, kind("subject", "a string", "a number")),
        (r#","time":true"#, kind("time", "a string", "a boolean")),
        (r#","subject":"""#, value("subject", TextFault::Empty)),
        (r#","x":"a\nb""#, value("x", TextFault::Character)),
        (r#","x":"\uffff""#, value("x", TextFault::Character)),
        (r#","x":"\ud800""#, value("x", TextFault::Character)),
        (r#","time":"yesterday""#, value("time", TextFault::Timestamp)),
        (r#","dataschema":"/relative""#, value("dataschema", TextFault::Uri)),
        (r#","datacontenttype":"json""#, value("datacontenttype", TextFault::MediaType)),
        (r#","data":1,"data_base64":"""#, JsonError::DataTwice),
        (r#","data_base64":"AA""#, JsonError::Base64),
        (r#","data_base64":1"#, kind("data_base64", "a string", "a number")),
    ];
    for (members, error) in table {
        let json = event_with(members);
        assert_eq!(parse_event(json.as_bytes(), Mode::Strict), Err(error.clone()), "{json}");
        let batch = format!("[{},{json}]", event_with(""));
        let in_batch = JsonError::InBatch { index: 1, error: Box::new(error) };
        assert_eq!(parse_batch(batch.as_bytes(), Mode::Strict), Err(in_batch), "{json}");
    }
    for attribute in ["specversion", "id", "source", "type"] {
        let json = event_with("").replace(&format!("\"{attribute}\":"), "\"other\":");
        assert_eq!(
            parse_event(json.as_bytes(), Mode::Strict),
            Err(JsonError::Event(EventFault::Missing { attribute }))
        );
    }
    let old = event_with("").replace("1.0", "0.3");
    let found = JsonError::Event(EventFault::SpecVersion { found: name("0.3") });
    assert_eq!(parse_event(old.as_bytes(), Mode::Strict), Err(found.clone()));
    assert_eq!(parse_event(old.as_bytes(), Mode::Lenient(&DEFAULTS)), Err(found));
    let source = event_with("").replace("\"/s\"", "\"a b\"");
    assert_eq!(
        parse_event(source.as_bytes(), Mode::Strict),
        Err(value("source", TextFault::UriReference))
    );
}

/// What is not JSON, or not one object, must be told apart from a bad event, with the place of the fault.
#[test]
fn refuses_what_is_not_json() {
    for json in
        ["", "x", "[]", "1", "{}x", "{\"id\":\"1\"", "{\"id\":01}", "{'id':1}", "{\"a\":\"\t\"}"]
    {
        let error = parse_event(json.as_bytes(), Mode::Strict).unwrap_err();
        assert!(matches!(error, JsonError::Syntax { line: 0..=1, .. }), "{json}: {error}");
    }
    assert_eq!(parse_event(b"{\"id\":\"\xff\"}", Mode::Strict), Err(JsonError::NotUtf8 { at: 7 }));
    assert!(matches!(parse_batch(b"{}", Mode::Strict), Err(JsonError::Syntax { .. })));
    assert!(matches!(parse_batch(b"[1]", Mode::Strict), Err(JsonError::Syntax { .. })));
}

/// Without these limits one small request makes the server recurse, compare or allocate without end.
#[test]
fn keeps_its_limits() {
    let nested =
        |depth: usize| event_with(&format!(",\"data\":{}{}", "[".repeat(depth), "]".repeat(depth)));
    assert!(parse_event(nested(127).as_bytes(), Mode::Strict).is_ok());
    let deep = parse_event(nested(128).as_bytes(), Mode::Strict).unwrap_err();
    assert_eq!(deep, JsonError::Depth { limit: 128, value: 129 });

    let brackets = format!(",\"data\":\"{}\\\"[\"", "[".repeat(1_000));
    assert!(parse_event(event_with(&brackets).as_bytes(), Mode::Strict).is_ok(), "in a string");

    let many: String = (0..11_000).map(|n| format!(",\"a{n}\":null")).collect();
    let error = parse_event(event_with(&many).as_bytes(), Mode::Strict).unwrap_err();
    assert_eq!(
        error,
        JsonError::Event(EventFault::Limit {
            field: "event members",
            limit: 10_922,
            value: 11_004
        })
    );

    let long = event_with(&format!(",\"x\":\"{}\"", "y".repeat(70_000)));
    let error = parse_event(long.as_bytes(), Mode::Strict).unwrap_err();
    assert!(
        matches!(
            error,
            JsonError::Event(EventFault::Limit { field: "attribute bytes", limit: 65_536, .. })
        ),
        "{error}"
    );

    let batch = format!("[{}{{}}]", "{},".repeat(8_192));
    let error = parse_batch(batch.as_bytes(), Mode::Strict).unwrap_err();
    assert_eq!(
        error,
        JsonError::Event(EventFault::Limit { field: "batch events", limit: 8_192, value: 8_193 })
    );
}

/// What the command line promises: a bare line is an event, and `key` is its key.
#[test]
fn lenient_mode_fills_in() {
    let mode = Mode::Lenient(&DEFAULTS);
    let event = parse_event(br#"{"key":"k","data":[1]}"#, mode).unwrap();
    assert_eq!(event.partition_key(), Some("k"));
    assert_eq!(event.text(&Key::Source), Some("/cli"));
    assert_eq!(event.text(&Key::Type), Some("event"));
    assert_eq!(event.get(&Key::Id), None, "its id derives from its place");
    let with_id = Defaults { id: Some("7"), ..DEFAULTS };
    assert_eq!(parse_event(b"{}", Mode::Lenient(&with_id)).unwrap().text(&Key::Id), Some("7"));

    let twice = parse_event(br#"{"partitionkey":"a","key":"a"}"#, mode).unwrap_err();
    assert_eq!(twice, JsonError::DuplicateMember { name: "partitionkey".to_owned() });
    let strict = event_with(r#","key":"k""#);
    let event = parse_event(strict.as_bytes(), Mode::Strict).unwrap();
    assert_eq!(event.partition_key(), None, "for CloudEvents it is an extension like any other");
    assert_eq!(event.text(&Key::of("key")), Some("k"));
}

/// The derived id is how a subscriber recognises a redelivery, and a topic's name must not break out of its string.
#[test]
fn derives_what_the_publisher_left_out() {
    let bare = Sample { attributes: vec![], kind: DataKind::None, data: vec![] };
    let json = json_of(&batch_of(&[bare]));
    let expected = r#"{"specversion":"1.0","id":"a/\"b\"/7/42","source":"/","type":"event"}"#;
    assert_eq!(json, expected);
    assert_eq!(derived_id(&PLACE), r#"a/"b"/7/42"#);
    assert!(parse_event(json.as_bytes(), Mode::Strict).is_ok());
}

/// A native publisher may say JSON of any bytes. Written as they are they could end the event and forge another.
#[test]
fn json_that_is_none_does_not_break_out() {
    let deep = "[".repeat(200) + &"]".repeat(200);
    for data in ["1,\"id\":\"forged\"", "", "}", "{\"a\":1}}", &deep] {
        let attributes = vec![];
        let sample = Sample { attributes, kind: DataKind::Json, data: data.as_bytes().to_vec() };
        let json = json_of(&batch_of(&[sample]));
        let parsed = parse_event(json.as_bytes(), Mode::Strict).unwrap();
        assert_eq!(parsed.data_kind(), DataKind::Binary);
        assert_eq!(parsed.data(), data.as_bytes());
    }
}

/// Output of one event a line must stay one line, whatever the data looks like.
#[test]
fn fits_on_a_line() {
    let json = event_with(",\"data\":{\r\n \"a\": \"x\\ny\" }");
    let batch = batch_with(&parse_event(json.as_bytes(), Mode::Strict).unwrap());
    let mut line = json_of(&batch).into_bytes();
    assert!(line.contains(&b'\n'), "data is kept byte for byte");
    replace_line_ends(&mut line);
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
    let parsed = parse_event(&line, Mode::Strict).unwrap();
    let value: serde_json::Value = serde_json::from_slice(parsed.data()).unwrap();
    assert_eq!(value["a"], "x\ny");
}

/// Bytes from outside: nothing may panic, and what is taken must come out as what was taken.
#[test]
fn takes_100_000_mutated_inputs() {
    let mut random = Random::new(1);
    let mut originals: Vec<_> = (0..200)
        .map(|seed| Sample::random(&mut Random::new(seed)))
        .map(|sample| json_of(&batch_of(&[sample])).into_bytes())
        .collect();
    originals.push(event_with(",\"key\":\"k\",\"data\":[[[{}]]]").into_bytes());
    let mut taken = 0;
    for case in 0..100_000 {
        let bytes = mutated(&mut random, &originals);
        let mode = if case % 2 == 0 { Mode::Strict } else { Mode::Lenient(&DEFAULTS) };
        let Ok(parsed) = parse_event(&bytes, mode) else { continue };
        taken += 1;
        let json = json_of(&batch_with(&parsed));
        let again = parse_event(json.as_bytes(), Mode::Strict).unwrap();
        assert_eq!(again.data(), parsed.data(), "case {case}: {json}");
        assert_eq!(again.data_kind(), parsed.data_kind(), "case {case}: {json}");
        for (key, value) in parsed.attributes() {
            assert_eq!(again.get(&key), Some(value), "case {case}: {json}");
        }
    }
    assert!(taken > 1_000, "the mutations leave enough events whole: {taken}");
}

/// The same for arrays: no mutation may panic or bring in an event that the array does not hold.
#[test]
fn takes_100_000_mutated_batches() {
    let mut random = Random::new(2);
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
            assert_eq!(parse_batch(&out, Mode::Strict).unwrap().len(), samples.len());
            out
        })
        .collect();
    let taken = (0..100_000)
        .filter(|_| parse_batch(&mutated(&mut random, &originals), Mode::Strict).is_ok())
        .count();
    assert!(taken > 500, "the mutations leave enough batches whole: {taken}");
}

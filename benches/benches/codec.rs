//! The codec: making a batch, checking one that was received, reading it, its forms outside, its checksum.
//!
//! The same batch also as an rkyv archive: the comparison behind docs/decisions/0001-batch-body-layout.md.
//!
//! `cargo bench -p benches --bench codec`
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

use std::hint::black_box;

use codec::attribute::{Key, Value};
use codec::batch::Batch;
use codec::body::Body;
use codec::builder::BatchBuilder;
use codec::cloudevents::{Mode, Place, http, json, protobuf};
use codec::crc32c::crc32c;
use codec::event::DataKind;
use codec::header::{HEADER_BYTES, HeaderSeed};
use codec::ids::{Offset, Partition, TopicId};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const EVENTS: u64 = 100;
const DATA: [u8; 100] = [7; 100];
const PLACE: Place<'static> = Place { topic: "a/b", partition: Partition(1), offset: Offset(2) };

fn keys() -> Vec<String> {
    (0..EVENTS).map(|n| format!("vin-{n:08}")).collect()
}

/// 100 events of 100 bytes: `source` and `type` shared, a key and an extension each.
fn encode(builder: &mut BatchBuilder, keys: &[String]) -> Vec<u8> {
    for key in keys {
        let mut own =
            [(Key::PartitionKey, Value::String(key)), (Key::Extension("x"), Value::Integer(1))];
        builder.push(&mut own, DataKind::Binary, &DATA).unwrap();
    }
    builder.finish(TopicId(1), Partition(0))
}

fn builder() -> BatchBuilder {
    let mut shared = [
        (Key::Source, Value::UriReference("/fleet/cn/sz")),
        (Key::Type, Value::String("telemetry")),
    ];
    BatchBuilder::new(&mut shared).unwrap()
}

/// The same batch as rkyv would hold it.
mod archive {
    use rkyv::{Archive, Serialize};

    #[derive(Archive, Serialize)]
    pub(crate) struct Body {
        pub(crate) shared: Vec<Attribute>,
        pub(crate) events: Vec<Event>,
    }

    #[derive(Archive, Serialize)]
    pub(crate) struct Event {
        pub(crate) own: Vec<Attribute>,
        pub(crate) kind: u8,
        pub(crate) data: Vec<u8>,
    }

    #[derive(Archive, Serialize)]
    pub(crate) struct Attribute {
        pub(crate) key: u8,
        pub(crate) name: String,
        pub(crate) value: Value,
    }

    #[derive(Archive, Serialize)]
    #[allow(
        dead_code,
        reason = "an archive must be able to hold every type, so its check must look for them"
    )]
    pub(crate) enum Value {
        String(String),
        Boolean(bool),
        Integer(i32),
        Binary(Vec<u8>),
        Uri(String),
        UriReference(String),
        Timestamp(String),
    }

    pub(crate) fn body(keys: &[String], data: &[u8]) -> Body {
        let attribute = |key, name: &str, value| Attribute { key, name: name.to_owned(), value };
        let event = |partition_key: &String| Event {
            own: vec![
                attribute(8, "", Value::String(partition_key.clone())),
                attribute(255, "x", Value::Integer(1)),
            ],
            kind: 1,
            data: data.to_vec(),
        };
        Body {
            shared: vec![
                attribute(2, "", Value::UriReference("/fleet/cn/sz".to_owned())),
                attribute(3, "", Value::String("telemetry".to_owned())),
            ],
            events: keys.iter().map(event).collect(),
        }
    }

    impl ArchivedEvent {
        pub(crate) fn partition_key(&self) -> Option<&str> {
            let found = self.own.iter().find(|attribute| attribute.key == 8);
            found.and_then(|attribute| match &attribute.value {
                ArchivedValue::String(text) => Some(text.as_str()),
                _ => None,
            })
        }
    }
}

fn batch(c: &mut Criterion) {
    let keys = keys();
    let mut own = builder();
    let bytes = encode(&mut own, &keys);
    let tree = archive::body(&keys, &DATA);
    let archived = rkyv::to_bytes::<rkyv::rancor::Error>(&tree).unwrap();
    println!(
        "bytes of the body: own layout {}, rkyv {}",
        bytes.len() - HEADER_BYTES,
        archived.len()
    );

    let mut group = c.benchmark_group("encode 100 events");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("own", |b| b.iter(|| encode(&mut own, black_box(&keys))));
    // The tree is there already: what a publisher would spend on making it is not counted.
    group.bench_function("rkyv", |b| {
        b.iter(|| {
            let out = rkyv::to_bytes::<rkyv::rancor::Error>(black_box(&tree)).unwrap();
            (crc32c(&out), out)
        });
    });
    group.finish();

    let mut group = c.benchmark_group("check 100 events");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("own", |b| {
        b.iter(|| {
            Batch::parse(black_box(&bytes), HeaderSeed::WIRE).unwrap().check().unwrap().count()
        });
    });
    group.bench_function("rkyv", |b| {
        b.iter(|| {
            let body = rkyv::access::<archive::ArchivedBody, rkyv::rancor::Error>(black_box(
                &archived[..],
            ));
            (crc32c(&archived), body.unwrap().events.len())
        });
    });
    group.finish();

    let mut group = c.benchmark_group("read the key of 100 events");
    group.throughput(Throughput::Elements(EVENTS));
    let body = Body::checked_before(&bytes[HEADER_BYTES..], EVENTS as u32).unwrap();
    group.bench_function("own", |b| {
        b.iter(|| {
            let keys = black_box(body).events().filter_map(|event| event.partition_key());
            keys.map(str::len).sum::<usize>()
        });
    });
    let tree = rkyv::access::<archive::ArchivedBody, rkyv::rancor::Error>(&archived[..]).unwrap();
    group.bench_function("rkyv", |b| {
        b.iter(|| {
            let events = black_box(tree).events.iter();
            events.filter_map(|event| event.partition_key()).map(str::len).sum::<usize>()
        });
    });
    group.finish();
}

fn forms(c: &mut Criterion) {
    let data = format!("{{\"readings\":[{}]}}", "{\"t\":1.5,\"v\":12345},".repeat(24) + "0");
    let text = format!(
        r#"{{"specversion":"1.0","id":"9c9f2b1e","source":"/fleet/cn/sz","type":"telemetry","time":"2018-04-05T17:31:00Z","partitionkey":"vin-00000001","datacontenttype":"application/json","data":{data}}}"#
    );
    let mut group = c.benchmark_group("one event of 0.7 KB");
    group.throughput(Throughput::Bytes(text.len() as u64));
    let parse = || json::parse_event(black_box(text.as_bytes()), Mode::Strict).unwrap();
    group.bench_function("JSON in", |b| b.iter(parse));
    let mut builder = builder();
    parse().push_to(&mut builder).unwrap();
    let bytes = builder.finish(TopicId(1), Partition(0));
    let body = Body::checked_before(&bytes[HEADER_BYTES..], 1).unwrap();
    let event = body.event(0).unwrap();
    let mut out = Vec::new();
    group.bench_function("JSON out", |b| {
        b.iter(|| {
            out.clear();
            json::write_event(black_box(&event), &PLACE, &mut out);
        });
    });
    let mut headers = Vec::new();
    http::write_event(&event, &PLACE, |name, value| {
        headers.push((name.to_owned(), value.to_owned()));
    });
    group.bench_function("HTTP in", |b| {
        b.iter(|| {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            http::parse_event(headers, black_box(event.data()), Mode::Strict).unwrap()
        });
    });
    group.bench_function("HTTP out", |b| {
        b.iter(|| {
            let mut bytes = 0;
            http::write_event(black_box(&event), &PLACE, |n, v| bytes += n.len() + v.len());
            bytes
        });
    });
    let mut message = Vec::new();
    protobuf::write_event(&event, &PLACE, &mut message);
    group.bench_function("protobuf in", |b| {
        b.iter(|| protobuf::parse_event(black_box(&message), Mode::Strict).unwrap());
    });
    group.bench_function("protobuf out", |b| {
        b.iter(|| {
            out.clear();
            protobuf::write_event(black_box(&event), &PLACE, &mut out);
        });
    });
    group.finish();
}

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("CRC-32C");
    for size in [80, 4 << 10, 64 << 10, 1 << 20] {
        let bytes = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{size} bytes"), |b| b.iter(|| crc32c(black_box(&bytes))));
    }
    group.finish();
}

criterion_group!(benches, batch, forms, checksum);
criterion_main!(benches);

//! Tests of the batch as a whole: header, body, records and attributes together.

use std::collections::HashSet;

use super::*;
use crate::attribute::{Key, Value};
use crate::builder::BatchBuilder;
use crate::error::{BuildError, DecodeError};
use crate::event::DataKind;
use crate::ids::{Epoch, Offset, Partition, Position, Timestamp, TopicId};
use crate::limits::{ATTRIBUTES_BYTES_MAX, BATCH_EVENTS_MAX, EVENT_DATA_BYTES_MAX};
use crate::sample::{Random, Sample, batch_of, mutated};

/// Everything a batch says, to be compared.
fn everything(bytes: &[u8]) -> Option<String> {
    let batch = Batch::parse(bytes, HeaderSeed::WIRE).ok()?;
    let body = batch.check().ok()?;
    let events = body.events().map(|event| {
        let attributes: Vec<_> = event.attributes().collect();
        format!("{attributes:?} {:?} {:?}\n", event.data_kind(), event.data())
    });
    Some(format!("{:?}\n{}", batch.header, events.collect::<String>()))
}

fn samples(seed: u64) -> Vec<Sample> {
    let mut random = Random::new(seed);
    (0..=random.below(5)).map(|_| Sample::random(&mut random)).collect()
}

/// An attribute or a byte of data that the layout loses is lost on the wire, on disk and for every subscriber.
#[test]
fn gives_back_what_was_put_in() {
    for seed in 0..2_000 {
        let samples = samples(seed);
        let bytes = batch_of(&samples);
        let batch = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap();
        assert_eq!(batch.header.batch_len(), bytes.len());
        let body = batch.check().unwrap();
        assert_eq!(body.count() as usize, samples.len());
        for (event, sample) in body.events().zip(&samples) {
            assert_eq!(
                event.attributes().collect::<Vec<_>>(),
                sample.sorted_pairs(),
                "seed {seed}"
            );
            assert_eq!(event.data_kind(), sample.kind);
            assert_eq!(event.data(), sample.data);
            for (key, value) in sample.pairs() {
                assert_eq!(event.get(&key), Some(value), "seed {seed}");
            }
            assert_eq!(event.get(&Key::of("absent")), None);
        }
        let body = Body::checked_before(batch.body, batch.header.count).unwrap();
        assert_eq!(body.events().count(), samples.len());
        assert!(body.event(body.count()).is_none());
    }
}

/// What is shared must read as if each event had it, except where an event says otherwise.
#[test]
fn shared_attributes_belong_to_every_event() {
    let mut shared = [(Key::Type, Value::String("t")), (Key::Source, Value::UriReference("/s"))];
    let mut builder = BatchBuilder::new(&mut shared).unwrap();
    builder.push(&mut [(Key::Id, Value::String("1"))], DataKind::None, b"").unwrap();
    let mut own = [(Key::of("x"), Value::Boolean(true)), (Key::Type, Value::String("other"))];
    builder.push(&mut own, DataKind::None, b"").unwrap();
    let bytes = builder.finish(TopicId(1), Partition(0));
    let body = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap().check().unwrap();
    let source = (Key::Source, Value::UriReference("/s"));
    assert_eq!(
        body.event(0).unwrap().attributes().collect::<Vec<_>>(),
        [(Key::Id, Value::String("1")), source, (Key::Type, Value::String("t"))]
    );
    assert_eq!(
        body.event(1).unwrap().attributes().collect::<Vec<_>>(),
        [source, (Key::Type, Value::String("other")), (Key::of("x"), Value::Boolean(true))]
    );
    assert_eq!(builder.count(), 0, "the builder is empty again");
    builder.push(&mut [], DataKind::None, b"").unwrap();
    let bytes = builder.finish(TopicId(1), Partition(0));
    let body = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap().check().unwrap();
    assert_eq!(body.event(0).unwrap().text(&Key::Type), Some("t"), "and still shares");
}

/// A batch that is cut by a lost connection or a torn write must be refused wherever it was cut.
#[test]
fn every_cut_is_refused() {
    for seed in 0..50 {
        let bytes = batch_of(&samples(seed));
        for cut in 0..bytes.len() {
            let error = Batch::parse(&bytes[..cut], HeaderSeed::WIRE).unwrap_err();
            let field = if cut < HEADER_BYTES { "batch header" } else { "batch body" };
            assert_eq!(error, DecodeError::Truncated { field }, "seed {seed}, cut at {cut}");
        }
    }
}

/// The same for the body alone, whose checksum might have been made by whoever cut it.
#[test]
fn every_cut_of_a_body_is_refused_or_whole() {
    for seed in 0..50 {
        let bytes = batch_of(&samples(seed));
        let batch = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap();
        for cut in 0..batch.body.len() {
            let body = Body::parse(&batch.body[..cut], batch.header.count);
            assert!(body.is_err(), "seed {seed}: the last end lies past the cut at {cut}");
        }
    }
}

/// One flipped bit anywhere must be seen: a batch is taken as it was made, or not at all.
#[test]
fn every_flipped_bit_is_detected() {
    for seed in 0..30 {
        let mut bytes = batch_of(&samples(seed));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(everything(&bytes), None, "seed {seed}, bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(everything(&bytes).is_some());
    }
}

/// Reading an event of a body whose bits changed after it was admitted may give wrong values, but never a panic: the
/// shard would die with all its sessions.
#[test]
fn reading_a_damaged_body_never_panics() {
    for seed in 0..30 {
        let bytes = batch_of(&samples(seed));
        let count = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap().header.count;
        let mut body = bytes[HEADER_BYTES..].to_vec();
        for bit in 0..body.len() * 8 {
            body[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Body::checked_before(&body, count) {
                for event in (0..count).filter_map(|index| read.event(index)) {
                    assert!(event.attributes().count() <= body.len());
                    assert!(event.data().len() <= body.len());
                }
            }
            body[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// Bytes from a peer, with checksums that fit them, because a hostile peer can compute them too.
#[test]
fn takes_100_000_mutated_inputs() {
    let mut random = Random::new(3);
    let originals: Vec<_> = (0..200).map(|seed| batch_of(&samples(seed))).collect();
    let bodies: Vec<_> = originals.iter().map(|batch| batch[HEADER_BYTES..].to_vec()).collect();
    let wholes: HashSet<_> = originals.iter().map(|batch| everything(batch).unwrap()).collect();
    let mut taken = 0;
    for case in 0..100_000 {
        if case % 4 == 0 {
            // Checksums not recomputed: what is still taken is an original with something behind it.
            let found = everything(&mutated(&mut random, &originals));
            assert!(found.is_none_or(|found| wholes.contains(&found)), "case {case}");
            continue;
        }
        let body = mutated(&mut random, &bodies);
        let count = random.below(6) as u32;
        let header = BatchHeader::unstamped(TopicId(1), Partition(0), &body, count);
        let batch = [&header.encode(HeaderSeed::WIRE)[..], &body].concat();
        let Ok(batch) = Batch::parse(&batch, HeaderSeed::WIRE) else { continue };
        let Ok(checked) = batch.check() else { continue };
        assert_eq!(
            checked.events().count() as u32,
            count,
            "no event of a checked body is unreadable"
        );
        rebuilt(&checked);
        taken += 1;
    }
    assert!(taken > 500, "the mutations leave enough batches whole: {taken}");
}

/// Puts the events of a checked body into a builder, which must find nothing to refuse in them.
fn rebuilt(body: &Body<'_>) {
    let mut builder = BatchBuilder::new(&mut []).unwrap();
    for event in body.events() {
        let mut attributes: Vec<_> = event.attributes().collect();
        builder.push(&mut attributes, event.data_kind(), event.data()).unwrap();
    }
}

/// The size that the design promises for telemetry: what the layout adds to 100 bytes of data, all events together.
#[test]
fn small_events_stay_small() {
    let mut shared = [
        (Key::Source, Value::UriReference("/fleet/cn/sz")),
        (Key::Type, Value::String("telemetry")),
    ];
    let mut builder = BatchBuilder::new(&mut shared).unwrap();
    let keys: Vec<_> = (0..100).map(|n| format!("vin-{n:08}")).collect();
    for key in &keys {
        assert_eq!(key.len(), 12);
        let mut own = [(Key::PartitionKey, Value::String(key))];
        builder.push(&mut own, DataKind::Binary, &[7; 100]).unwrap();
    }
    let bytes = builder.finish(TopicId(1), Partition(0)).len();
    let beyond_keys = bytes - 100 * 12;
    assert!(beyond_keys <= 100 * 120, "{} bytes an event", beyond_keys as f64 / 100.0);
}

/// A header read at another place must not verify: recycled segments are full of old batches.
#[test]
fn a_header_verifies_only_in_its_place() {
    let seeds = [
        HeaderSeed::WIRE,
        HeaderSeed::on_disk(1, 2, 4_096),
        HeaderSeed::on_disk(1, 2, 8_192),
        HeaderSeed::on_disk(1, 3, 4_096),
        HeaderSeed::on_disk(2, 2, 4_096),
    ];
    let header = stamped();
    for written in seeds {
        let bytes = header.encode(written);
        for read in seeds {
            let decoded = BatchHeader::decode(&bytes, read);
            if read == written {
                assert_eq!(decoded, Ok(header));
            } else {
                assert_eq!(decoded, Err(DecodeError::HeaderChecksum));
            }
        }
    }
}

fn stamped() -> BatchHeader {
    BatchHeader {
        epoch: Epoch(3),
        base_position: Position(1 << 40),
        base_offset: Offset(5),
        durable_end: Position(1 << 39),
        append_time: Timestamp(1_700_000_000_000_000),
        publisher_id: u64::MAX,
        sequence: 9,
        ..BatchHeader::unstamped(TopicId(4), Partition::ANY, b"body", 2)
    }
}

/// A header whose checksum is right but whose fields are not was made by a peer that does not keep to version 1.
#[test]
fn headers_out_of_bounds_are_refused_by_field() {
    let limit = |field, limit, value| DecodeError::Limit { field, limit, value };
    let malformed = |field| DecodeError::Malformed { field };
    let header = stamped();
    let table = [
        (BatchHeader { flags: 1, ..header }, DecodeError::Flags { found: 1 }),
        (BatchHeader { flags: 1 << 15, ..header }, DecodeError::Flags { found: 1 << 15 }),
        (BatchHeader { count: 0, ..header }, malformed("batch events")),
        (BatchHeader { count: 8_193, ..header }, limit("batch events", 8_192, 8_193)),
        (
            BatchHeader { body_len: u32::MAX, ..header },
            limit("batch body bytes", (17 << 20) - 80, u64::from(u32::MAX)),
        ),
        (
            BatchHeader { content: crate::header::ContentKind::Control, ..header },
            malformed("batch events"),
        ),
        (
            BatchHeader { base_position: Position(u64::MAX), ..header },
            malformed("batch base position"),
        ),
        (BatchHeader { base_offset: Offset(u64::MAX), ..header }, malformed("batch base offset")),
    ];
    for (header, error) in table {
        let bytes = header.encode(HeaderSeed::WIRE);
        assert_eq!(BatchHeader::decode(&bytes, HeaderSeed::WIRE), Err(error));
    }
    let mut other_version = header.encode(HeaderSeed::WIRE);
    other_version[2] = 2;
    let error = BatchHeader::decode(&other_version, HeaderSeed::WIRE).unwrap_err();
    assert_eq!(error, DecodeError::Version { found: 2 });
}

/// What the builder lets through the server refuses: then a whole batch is lost for one bad event.
#[test]
fn the_builder_refuses_what_a_parser_would() {
    let mut builder = BatchBuilder::new(&mut [(Key::Type, Value::String("t"))]).unwrap();
    builder.push(&mut [], DataKind::None, b"").unwrap();
    let before = builder.clone().finish(TopicId(1), Partition(0));
    let long = "x".repeat(65_532);
    let name = |name: &str| name.to_owned();
    type Attributes<'a> = &'a [(Key<'a>, Value<'a>)];
    let table: [(Attributes<'_>, DataKind, &[u8], BuildError); 9] = [
        (
            &[(Key::Source, Value::String("/s"))],
            DataKind::None,
            b"",
            BuildError::AttributeValue { name: name("source") },
        ),
        (
            &[(Key::Subject, Value::String("a\r\nb"))],
            DataKind::None,
            b"",
            BuildError::AttributeValue { name: name("subject") },
        ),
        (
            &[(Key::of("X"), Value::Boolean(true))],
            DataKind::None,
            b"",
            BuildError::AttributeName { name: name("X") },
        ),
        (
            &[(Key::of("data"), Value::Boolean(true))],
            DataKind::None,
            b"",
            BuildError::AttributeName { name: name("data") },
        ),
        (
            // It would stand beside the event's own id, and a form that writes both has two.
            &[(Key::Extension("id"), Value::String("1"))],
            DataKind::None,
            b"",
            BuildError::AttributeName { name: name("id") },
        ),
        (
            &[(Key::of("x"), Value::Integer(1)), (Key::of("x"), Value::Integer(1))],
            DataKind::None,
            b"",
            BuildError::DuplicateAttribute { name: name("x") },
        ),
        (
            &[(Key::Subject, Value::String(&long))],
            DataKind::None,
            b"",
            BuildError::Limit { field: "attribute bytes", limit: 65_536, value: 65_541 },
        ),
        (&[], DataKind::Text, b"\xff", BuildError::DataKind { kind: DataKind::Text }),
        (&[], DataKind::None, b"x", BuildError::DataKind { kind: DataKind::None }),
    ];
    for (attributes, kind, data, error) in table {
        assert_eq!(builder.push(&mut attributes.to_vec(), kind, data), Err(error));
        assert_eq!(builder.clone().finish(TopicId(1), Partition(0)), before, "nothing was added");
    }
}

/// The limits hold at their edge: the largest event goes, one byte more does not, and a full batch says so.
#[test]
fn limits_hold_at_their_edge() {
    let mut builder = BatchBuilder::new(&mut []).unwrap();
    let mut data = vec![0; EVENT_DATA_BYTES_MAX as usize];
    let text = "x".repeat(ATTRIBUTES_BYTES_MAX as usize - 4);
    let mut attributes = [(Key::Subject, Value::String(&text))];
    builder.push(&mut attributes, DataKind::Binary, &data).unwrap();
    assert_eq!(builder.push(&mut attributes, DataKind::Binary, &data), Err(BuildError::Full));
    let bytes = builder.finish(TopicId(1), Partition(0));
    assert!(Batch::parse(&bytes, HeaderSeed::WIRE).unwrap().check().is_ok());
    data.push(0);
    let limit = u64::from(EVENT_DATA_BYTES_MAX);
    assert_eq!(
        builder.push(&mut [], DataKind::Binary, &data),
        Err(BuildError::Limit { field: "event data bytes", limit, value: limit + 1 })
    );
    for _ in 0..BATCH_EVENTS_MAX {
        builder.push(&mut [], DataKind::None, b"").unwrap();
    }
    assert_eq!(builder.push(&mut [], DataKind::None, b""), Err(BuildError::Full));
}

/// A peer that writes bytes by hand can order and name attributes as it likes; a lookup relies on what is checked here.
#[test]
fn sections_out_of_order_are_refused() {
    let malformed = |field| Err(DecodeError::Malformed { field });
    let table: [(&[u8], Result<(), DecodeError>); 11] = [
        (b"\x01\x01\x01\x00a\x03\x01\x01\x00b", Ok(())),
        (b"\x03\x01\x01\x00b\x01\x01\x01\x00a", malformed("attribute order")),
        (b"\x01\x01\x01\x00a\x01\x01\x01\x00a", malformed("attribute order")),
        (b"\xff\x02\x01\x00\x01b\x01\xff\x02\x01\x00\x01a\x01", malformed("attribute order")),
        (b"\xff\x01\x01\x00\x02ida", malformed("attribute name")),
        (b"\xff\x01\x01\x00\x00a", malformed("attribute name")),
        (b"\x00\x01\x01\x00a", malformed("attribute key")),
        (b"\x09\x01\x01\x00a", malformed("attribute key")),
        (b"\x02\x01\x01\x00a", malformed("attribute type")),
        (b"\xff\x02\x01\x00\x01b\x02", malformed("attribute type")),
        (b"\x01\x01\x01\x00\x7f", malformed("attribute value")),
    ];
    for (bytes, expected) in table {
        let found = crate::attribute::Section::parse(bytes).map(|_| ());
        assert_eq!(found, expected, "{bytes:?}");
    }
}

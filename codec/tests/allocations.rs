//! Counts allocations: reading a received or mapped batch must make none, or a content filter over a million events
//! spends its time in the allocator. A test of its own, because the counting allocator serves the whole program.

#![allow(clippy::unwrap_used, reason = "a test")]

use codec::attribute::{Key, Value};
use codec::batch::Batch;
use codec::body::Body;
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::header::HeaderSeed;
use codec::ids::{Partition, TopicId};
use ringmesh_codec as codec;

fn allocations_of(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

fn batch() -> Vec<u8> {
    let mut shared = [(Key::Source, Value::UriReference("/s")), (Key::Type, Value::String("t"))];
    let mut builder = BatchBuilder::new(&mut shared).unwrap();
    for n in 0..100 {
        let key = format!("key-{n}");
        let mut own = [(Key::PartitionKey, Value::String(&key)), (Key::of("x"), Value::Integer(n))];
        builder.push(&mut own, DataKind::Json, b"{\"a\":1}").unwrap();
    }
    builder.finish(TopicId(1), Partition(0))
}

/// A counter that never moves would let every other test here pass.
#[test]
fn the_counter_counts() {
    assert!(allocations_of(|| drop(std::hint::black_box(vec![1]))) > 0);
}

/// Checking a received batch and reading all of it, attribute by attribute, allocates nothing; and what is read points
/// into the batch, so nothing is copied either.
#[test]
fn reading_allocates_and_copies_nothing() {
    let bytes = batch();
    let within = |part: &[u8]| bytes.as_ptr_range().contains(&part.as_ptr());
    let mut read = 0;
    let allocations = allocations_of(|| {
        let batch = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap();
        let checked = batch.check().unwrap();
        let mapped = Body::checked_before(batch.body, batch.header.count).unwrap();
        for body in [checked, mapped] {
            for event in body.events() {
                assert!(within(event.partition_key().unwrap().as_bytes()));
                assert!(within(event.text(&Key::Source).unwrap().as_bytes()));
                assert!(matches!(event.get(&Key::of("x")), Some(Value::Integer(_))));
                assert!(within(event.data()));
                read += event.attributes().count();
            }
        }
    });
    assert_eq!(read, 2 * 100 * 4);
    assert_eq!(allocations, 0);
}

/// A refused batch must not cost more than a good one: a hostile peer would send nothing else.
#[test]
fn refusing_allocates_nothing() {
    let mut bytes = batch();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let allocations = allocations_of(|| {
        assert!(Batch::parse(&bytes, HeaderSeed::WIRE).unwrap().check().is_err());
        assert!(Batch::parse(&bytes[..40], HeaderSeed::WIRE).is_err());
    });
    assert_eq!(allocations, 0);
}

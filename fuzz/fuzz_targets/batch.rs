//! A batch from a peer, with checksums that fit, as a hostile peer would make them.
#![no_main]

use codec::batch::Batch;
use codec::body::Body;
use codec::builder::BatchBuilder;
use codec::cloudevents::{http, json, protobuf};
use codec::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use codec::ids::{Partition, TopicId};
use libfuzzer_sys::fuzz_target;
use ringmesh_fuzz::PLACE;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(batch) = Batch::parse(bytes, HeaderSeed::WIRE) {
        let _ = batch.check();
    }
    let [count, body @ ..] = bytes else { return };
    let count = u32::from(*count);
    if let Ok(body) = Body::checked_before(body, count) {
        let attributes: usize = body.events().map(|event| event.attributes().count()).sum();
        assert!(attributes <= bytes.len() * count as usize, "an attribute takes bytes");
    }
    let header = BatchHeader::unstamped(TopicId(1), Partition(0), body, count);
    let batch = [&header.encode(HeaderSeed::WIRE)[..], body].concat();
    let Ok(batch) = Batch::parse(&batch, HeaderSeed::WIRE) else { return };
    assert_eq!(batch.header.batch_len(), HEADER_BYTES + body.len());
    let Ok(checked) = batch.check() else { return };
    assert_eq!(checked.events().count() as u32, count, "every event of a checked body is readable");
    for event in checked.events() {
        let mut builder = BatchBuilder::new(&mut []).expect("nothing is shared");
        let mut attributes: Vec<_> = event.attributes().collect();
        let pushed = builder.push(&mut attributes, event.data_kind(), event.data());
        pushed.expect("what a parser takes the builder takes");
        let mut out = Vec::new();
        json::write_event(&event, &PLACE, &mut out);
        json::write_batch([(event, PLACE)], &mut out);
        protobuf::write_event(&event, &PLACE, &mut out);
        http::write_event(&event, &PLACE, |name, value| {
            assert!(name.bytes().chain(value.bytes()).all(|b| (b' '..=b'~').contains(&b)));
        });
    }
});

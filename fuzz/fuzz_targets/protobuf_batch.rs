//! Several events as protobuf.
#![no_main]

use codec::cloudevents::{Mode, protobuf};
use libfuzzer_sys::fuzz_target;
use ringmesh_fuzz::check_parsed;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(events) = protobuf::parse_batch(bytes, Mode::Strict) {
        events.iter().for_each(check_parsed);
    }
});

//! One event as protobuf.
#![no_main]

use codec::cloudevents::{Mode, protobuf};
use libfuzzer_sys::fuzz_target;
use ringmesh_fuzz::check_parsed;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(parsed) = protobuf::parse_event(bytes, Mode::Strict) {
        check_parsed(&parsed);
    }
});

//! One event as JSON.
#![no_main]

use codec::cloudevents::{Defaults, Mode, json};
use libfuzzer_sys::fuzz_target;
use ringmesh_fuzz::check_parsed;

const DEFAULTS: Defaults<'static> = Defaults { id: None, source: "/", event_type: "t" };

fuzz_target!(|bytes: &[u8]| {
    for mode in [Mode::Strict, Mode::Lenient(&DEFAULTS)] {
        if let Ok(parsed) = json::parse_event(bytes, mode) {
            check_parsed(&parsed);
        }
    }
});

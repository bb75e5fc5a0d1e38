//! Several events as JSON.
#![no_main]

use codec::cloudevents::{Defaults, Mode, json};
use libfuzzer_sys::fuzz_target;
use ringmesh_fuzz::check_parsed;

const DEFAULTS: Defaults<'static> = Defaults { id: None, source: "/", event_type: "t" };

fuzz_target!(|bytes: &[u8]| {
    for mode in [Mode::Strict, Mode::Lenient(&DEFAULTS)] {
        if let Ok(events) = json::parse_batch(bytes, mode) {
            events.iter().for_each(check_parsed);
        }
    }
});

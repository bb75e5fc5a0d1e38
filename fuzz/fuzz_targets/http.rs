//! An event in HTTP's binary mode: a header a line as `name:value`, an empty line, the body.
#![no_main]

use codec::cloudevents::{Mode, http};
use libfuzzer_sys::fuzz_target;
use ringmesh_fuzz::check_parsed;

fuzz_target!(|bytes: &[u8]| {
    let mut headers = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let Ok(name) = std::str::from_utf8(&line[..colon]) else { return };
        headers.push((name, &line[colon + 1..]));
    }
    let content_type = headers.first().and_then(|(_, value)| std::str::from_utf8(value).ok());
    let _ = http::ContentMode::of(content_type);
    if let Ok(parsed) = http::parse_event(headers, rest, Mode::Strict) {
        check_parsed(&parsed);
    }
});

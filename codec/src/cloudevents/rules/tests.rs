//! Tests of the rules that all forms share.

use super::*;

/// Time is compared and converted by doors; a date that does not exist or an offset taken the wrong way moves an event.
#[test]
fn timestamps_are_read_as_rfc_3339_has_them() {
    let table = [
        ("1970-01-01T00:00:00Z", Some((0, 0))),
        ("1985-04-12T23:20:50.52Z", Some((482_196_050, 520_000_000))),
        ("1996-12-19T16:39:57-08:00", Some((851_042_397, 0))),
        ("1990-12-31T23:59:60Z", Some((662_688_000, 0))),
        ("1937-01-01T12:00:27.87+00:20", Some((-1_041_337_173, 870_000_000))),
        ("0000-02-29t00:00:00z", Some((-62_162_121_600, 0))),
        ("2000-02-29T00:00:00.1234567899Z", Some((951_782_400, 123_456_789))),
        ("1900-02-29T00:00:00Z", None),
        ("2001-02-29T00:00:00Z", None),
        ("2001-13-01T00:00:00Z", None),
        ("2001-00-01T00:00:00Z", None),
        ("2001-01-00T00:00:00Z", None),
        ("2001-04-31T00:00:00Z", None),
        ("2001-01-01T24:00:00Z", None),
        ("2001-01-01T00:60:00Z", None),
        ("2001-01-01T00:00:61Z", None),
        ("2001-01-01T00:00:00", None),
        ("2001-01-01T00:00:00.Z", None),
        ("2001-01-01T00:00:00+0100", None),
        ("2001-01-01T00:00:00+24:00", None),
        ("2001-01-01 00:00:00Z", None),
        ("2001-01-01T00:00:00Zx", None),
        ("2001-1-01T00:00:00Z", None),
        ("٢٠٠١-01-01T00:00:00Z", None),
        ("", None),
    ];
    for (text, expected) in table {
        assert_eq!(instant_of(text), expected, "{text}");
    }
}

/// Every day that `google.protobuf.Timestamp` can hold, and every fraction form, must come back as it went.
#[test]
fn timestamps_are_written_as_they_are_read() {
    let nanos = [0, 1, 1_000, 1_000_000, 999_999_999, 120_000_000];
    for (n, seconds) in (INSTANT_MIN..=INSTANT_MAX).step_by(86_399).enumerate() {
        let nanos = nanos[n % nanos.len()];
        let text = timestamp_of(seconds, nanos).unwrap();
        assert_eq!(instant_of(&text), Some((seconds, nanos)), "{text}");
    }
    assert_eq!(timestamp_of(INSTANT_MIN, 0).unwrap(), "0001-01-01T00:00:00Z");
    assert_eq!(timestamp_of(INSTANT_MAX, 500_000_000).unwrap(), "9999-12-31T23:59:59.500Z");
    assert_eq!(timestamp_of(INSTANT_MIN - 1, 0), None);
    assert_eq!(timestamp_of(INSTANT_MAX + 1, 0), None);
    assert_eq!(timestamp_of(0, 1_000_000_000), None);
}

/// A media type decides whether data is shown as JSON, as text or as base64; a wrong answer garbles it.
#[test]
fn media_types_say_what_data_is() {
    let kinds = [
        (Some("application/json"), "{}", DataKind::Json),
        (Some("Application/JSON; charset=utf-8"), " 1 ", DataKind::Json),
        (Some("application/vnd.x+json"), "[]", DataKind::Json),
        (Some("application/json"), "{", DataKind::Binary),
        (Some("application/json"), "", DataKind::Binary),
        (Some("application/jsonx"), "{}", DataKind::Binary),
        (Some("json"), "{}", DataKind::Binary),
        (Some("text/plain"), "x", DataKind::Text),
        (Some("text/plain; charset=\"UTF-8\""), "x", DataKind::Text),
        (Some("text/plain; charset=iso-8859-1"), "x", DataKind::Binary),
        (Some("application/xml"), "<x/>", DataKind::Text),
        (Some("image/svg+xml"), "<x/>", DataKind::Text),
        (Some("application/octet-stream"), "x", DataKind::Binary),
        (None, "{}", DataKind::Binary),
    ];
    for (content_type, data, kind) in kinds {
        assert_eq!(kind_of(content_type, data.as_bytes()), kind, "{content_type:?} {data}");
    }
    assert_eq!(kind_of(Some("text/plain"), b"\xff"), DataKind::Binary);
    assert!(is_json_type(None), "the JSON format says so");
}

/// What a URI may be is an attribute's type, and what other systems rely on when they take a `source` apart.
#[test]
fn uris_are_those_of_rfc_3986() {
    for good in ["/", "a", "../b", "https://example.com/a?b=c#d", "urn:uuid:6e8b", "a%20b", "[::1]"]
    {
        assert!(is_uri_reference(good), "{good}");
    }
    for bad in ["a b", "a%2", "a%zz", "%", "<a>", "\"", "a\\b", "é", "{x}", "a|b", "`", "^"] {
        assert!(!is_uri_reference(bad), "{bad}");
    }
    for (text, absolute) in [
        ("urn:x", true),
        ("http://x", true),
        ("a+b-c.d1:", true),
        ("/x", false),
        ("1a:b", false),
        (":x", false),
    ] {
        assert_eq!(is_absolute_uri(text), absolute, "{text}");
    }
}

/// The depth is counted before anything is parsed, so it must not be fooled by brackets in strings or by bad JSON.
#[test]
fn depth_is_that_of_the_brackets() {
    let table = [
        ("1", 0),
        ("[]", 1),
        ("[{\"a\":[]},[]]", 3),
        ("\"[[[\"", 0),
        ("\"\\\"[\"", 0),
        ("\"\\\\\"[", 1),
        ("]]]][", 1),
        ("[\"", 1),
        ("\\", 0),
    ];
    for (json, depth) in table {
        assert_eq!(json_depth(json), depth, "{json}");
    }
}

/// Strings are passed over many bytes at a time: a quote, an escape or a bracket that is missed at one place of a chunk lets a
/// text through that is too deep, or refuses one that is not.
#[test]
fn depth_is_found_wherever_a_string_ends() {
    for before in 0..70 {
        for after in [0, 1, 31, 32, 33, 64] {
            let (head, tail) = ("x".repeat(before), "{".repeat(after));
            for (middle, depth) in [("\"[", 1), ("\\\"[", 0), ("\\\\\"[", 1), ("\\n[\"[[", 2)] {
                let json = format!("\"{head}{middle}{tail}");
                let deepest = if depth > 0 { depth + after } else { 0 };
                assert_eq!(json_depth(&json), deepest, "{json}");
            }
        }
    }
}

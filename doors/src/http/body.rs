//! The body of a request: inflated if it is in gzip, and read as events.

use std::io::Read as _;

use codec::cloudevents::Mode;
use codec::cloudevents::http::{self as binary, ContentMode, HttpError};
use codec::cloudevents::json::{self, JsonError};
use codec::cloudevents::parsed::ParsedEvent;
use codec::cloudevents::protobuf::{self, ProtobufError};
use codec::cloudevents::rules::{JSON_DEPTH_MAX, is_json_type, json_depth};
use codec::event::DataKind;
use codec::limits::BATCH_EVENTS_MAX;
use codec::problem::Problem;
use codec::refusal::Code;
use flate2::read::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use serde_json::value::RawValue;

use super::desk::body_limit;
use super::routes::is_gzip;

/// The events of a request, each with what is wrong with it.
pub(super) type Events<'a> = Vec<Result<ParsedEvent<'a>, Problem>>;

/// The body as its maker had it.
pub(super) fn plain(body: Vec<u8>, headers: &HeaderMap, limit: usize) -> Result<Vec<u8>, Problem> {
    let coding = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    if !coding.map(str::trim).is_some_and(is_gzip) {
        return Ok(body);
    }
    let mut inflated = Vec::new();
    // One byte more than is allowed tells what is too large from what just fits; no more is ever inflated.
    let mut decoder = MultiGzDecoder::new(&body[..]).take(limit as u64 + 1);
    if let Err(error) = decoder.read_to_end(&mut inflated) {
        let detail = format!("the body is not gzip: {error}");
        return Err(Problem::of("body", Code::MalformedRequest, detail));
    }
    if inflated.len() > limit {
        return Err(body_limit(limit, inflated.len() as u64));
    }
    Ok(inflated)
}

/// A body that is text.
pub(super) fn text(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        let detail = format!("the body is not UTF-8: {error}");
        Problem::of("body", Code::NotUtf8, detail)
    })
}

/// Reads one event, or several in a batched mode. The outer problem is of the whole body.
pub(super) fn events<'a>(
    mode: ContentMode,
    headers: &'a HeaderMap,
    body: &'a [u8],
) -> Result<Events<'a>, Problem> {
    let one = |event| Ok(vec![Ok(event)]);
    match mode {
        ContentMode::Binary => {
            let event = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            let event = binary::parse_event(event, body, Mode::Strict);
            let event = event.map_err(|error| http_problem(&error))?;
            // What was kept as JSON was looked at already.
            if event.data_kind() != DataKind::Json {
                check_depth(event.text(&codec::attribute::Key::DataContentType), body)?;
            }
            one(event)
        }
        ContentMode::StructuredJson => json::parse_event(body, Mode::Strict)
            .map_err(|error| json_problem(&error))
            .and_then(one),
        ContentMode::BatchedJson => json_batch(body),
        ContentMode::StructuredProtobuf => {
            let event = protobuf::parse_event(body, Mode::Strict);
            event.map_err(|error| protobuf_problem(&error)).and_then(one)
        }
        ContentMode::BatchedProtobuf => {
            let events = protobuf::parse_batch(body, Mode::Strict);
            let events = events.map_err(|error| protobuf_problem(&error))?;
            Ok(events.into_iter().map(Ok).collect())
        }
        ContentMode::Unknown => Err(Code::UnsupportedMediaType.into()),
    }
}

/// All at once, and one by one only if something is wrong: a bad event must not take the good ones with it.
fn json_batch<'a>(body: &'a [u8]) -> Result<Events<'a>, Problem> {
    let whole = match json::parse_batch(body, Mode::Strict) {
        Ok(events) => return Ok(events.into_iter().map(Ok).collect()),
        Err(error) => error,
    };
    if !matches!(whole, JsonError::InBatch { .. } | JsonError::Depth { .. }) {
        return Err(json_problem(&whole));
    }
    let Ok(parts) = serde_json::from_slice::<Vec<&'a RawValue>>(body) else {
        return Err(json_problem(&whole));
    };
    if parts.len() > BATCH_EVENTS_MAX as usize {
        return Err(Problem::limit("batch events", BATCH_EVENTS_MAX.into(), parts.len() as u64));
    }
    let event = |part: &'a RawValue| {
        let event = json::parse_event(part.get().as_bytes(), Mode::Strict);
        event.map_err(|error| json_problem(&error))
    };
    Ok(parts.into_iter().map(event).collect())
}

/// Data that is JSON by its content type is given to subscribers as JSON, within other JSON.
fn check_depth(content_type: Option<&str>, data: &[u8]) -> Result<(), Problem> {
    let Some(content_type) = content_type.filter(|kind| is_json_type(Some(kind))) else {
        return Ok(());
    };
    let Ok(text) = std::str::from_utf8(data) else {
        let detail = format!("the data is {content_type:?} and not UTF-8");
        return Err(Problem::of("data", Code::NotUtf8, detail));
    };
    match json_depth(text) {
        depth if depth > JSON_DEPTH_MAX => Err(depth_problem(JSON_DEPTH_MAX, depth)),
        _ => Ok(()),
    }
}

fn depth_problem(limit: usize, value: usize) -> Problem {
    let detail = format!("nesting depth is {value}, at most {limit} is allowed");
    let mut problem = Problem::of("nesting depth", Code::MalformedEvent, detail);
    (problem.limit, problem.value) = (Some(limit as u64), Some(value as u64));
    problem
}

fn http_problem(error: &HttpError) -> Problem {
    let detail = error.to_string();
    match error {
        HttpError::NotUtf8 { header } => Problem::of(header, Code::NotUtf8, detail),
        HttpError::Percent { header }
        | HttpError::DuplicateHeader { header }
        | HttpError::AttributeName { header } => Problem::of(header, Code::MalformedEvent, detail),
        HttpError::Event(fault) => Problem::of_fault(fault, detail),
        _ => Problem::new(Code::MalformedEvent, detail),
    }
}

fn json_problem(error: &JsonError) -> Problem {
    let detail = error.to_string();
    match error {
        JsonError::NotUtf8 { .. } => Problem::of("body", Code::NotUtf8, detail),
        JsonError::Depth { limit, value } => depth_problem(*limit, *value),
        JsonError::DuplicateMember { name }
        | JsonError::AttributeName { name }
        | JsonError::AttributeType { name, .. }
        | JsonError::Integer { name, .. } => Problem::of(name, Code::MalformedEvent, detail),
        JsonError::Base64 => Problem::of("data_base64", Code::MalformedEvent, detail),
        JsonError::DataTwice => Problem::of("data", Code::MalformedEvent, detail),
        JsonError::InBatch { error, .. } => json_problem(error),
        JsonError::Event(fault) => Problem::of_fault(fault, detail),
        _ => Problem::of("body", Code::MalformedEvent, detail),
    }
}

fn protobuf_problem(error: &ProtobufError) -> Problem {
    let detail = error.to_string();
    match error {
        ProtobufError::AttributeName { name } | ProtobufError::AttributeType { name } => {
            Problem::of(name, Code::MalformedEvent, detail)
        }
        ProtobufError::InBatch { error, .. } => protobuf_problem(error),
        ProtobufError::Event(fault) => Problem::of_fault(fault, detail),
        _ => Problem::of("body", Code::MalformedEvent, detail),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A few bytes that inflate to gigabytes must cost no more than the limit.
    #[test]
    fn inflating_ends_at_the_limit() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(plain(gzip(&[7; 1_000]), &headers, 1_000).unwrap(), [7; 1_000]);
        let problem = plain(gzip(&vec![0; 50 << 20]), &headers, 1_000).unwrap_err();
        assert_eq!((problem.limit, problem.value), (Some(1_000), Some(1_001)));
        assert_eq!(problem.status(), 413);
        let problem = plain(b"no gzip".to_vec(), &headers, 1_000).unwrap_err();
        assert_eq!(problem.refusal.code, Code::MalformedRequest);
        headers.clear();
        assert_eq!(plain(b"no gzip".to_vec(), &headers, 1_000).unwrap(), b"no gzip");
    }

    /// One bad event of a batch must be told apart from the good ones, and a body that is no batch refused whole.
    #[test]
    fn bad_events_stand_alone() {
        let headers = HeaderMap::new();
        let good = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#;
        let deep = format!(
            r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{}{}}}"#,
            "[".repeat(200),
            "]".repeat(200)
        );
        let batch = format!(r#"[{good},{{"specversion":"0.3"}},{good},{deep}]"#);
        let found = events(ContentMode::BatchedJson, &headers, batch.as_bytes()).unwrap();
        let fine: Vec<bool> = found.iter().map(Result::is_ok).collect();
        assert_eq!(fine, [true, false, true, false]);
        assert_eq!(found[1].as_ref().unwrap_err().field.as_deref(), Some("specversion"));
        assert_eq!(found[3].as_ref().unwrap_err().limit, Some(128));
        for body in ["{}", "[1", "", "[", "nonsense"] {
            assert!(events(ContentMode::BatchedJson, &headers, body.as_bytes()).is_err(), "{body}");
        }
    }
}

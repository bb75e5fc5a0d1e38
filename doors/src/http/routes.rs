//! What a request asks for, told by its method, its path and its headers; before its body is read.

use std::sync::Arc;

use codec::cloudevents::http::ContentMode;
use codec::limits::BATCH_EVENTS_MAX;
use codec::problem::Problem;
use codec::refusal::Code;
use dataplane::session::Verdict;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use routing::topic::{TopicFilter, TopicName};

use super::answers::{self, Caller};
use super::desk::{AnswerBody, body_limit};
use super::eventmesh;
use super::query::{self, Query};
use super::{HEADER_BYTES_MAX, HEADERS_MAX};

/// Most events of one poll, and most in flight to one stream.
pub(super) const EVENTS_MAX: u32 = 1_000;
/// Events of a poll that does not say how many.
pub(super) const POLL_EVENTS_DEFAULT: u32 = 100;
/// Longest wait of a poll, in milliseconds. Proxies give up on a request after a minute.
pub(super) const POLL_MS_MAX: u32 = 55_000;
/// The wait of a poll that does not say how long.
pub(super) const POLL_MS_DEFAULT: u32 = 1_000;
/// Events that a stream with a group may have said and not know to be read, unless the client says otherwise.
pub(super) const WINDOW_DEFAULT: u32 = 256;
const _: () = assert!(EVENTS_MAX <= BATCH_EVENTS_MAX && WINDOW_DEFAULT <= EVENTS_MAX);

/// What a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Route {
    /// Events for a topic.
    Publish { topic: Arc<str>, mode: ContentMode },
    /// Some events of a group.
    Poll(PollWish),
    /// All events from now on.
    Subscribe(StreamWish),
    /// What became of events.
    Settle(Verdict),
    /// What clients of EventMesh ask.
    EventMesh(eventmesh::Ask),
}

/// What a poll asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PollWish {
    pub(super) filter: TopicFilter,
    pub(super) group: Arc<str>,
    /// Where the group begins if it is new; not yet read, since that needs the number of partitions.
    pub(super) from: Option<String>,
    pub(super) max: u32,
    pub(super) timeout_ms: u32,
}

/// What a stream asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StreamWish {
    pub(super) filter: TopicFilter,
    pub(super) group: Option<Arc<str>>,
    pub(super) from: Option<String>,
    /// Events that may have been said and are not known to be read.
    pub(super) window: u32,
    /// The client says by itself what it has read.
    pub(super) is_acked: bool,
    /// The id of the last event that the client has read.
    pub(super) last_event_id: Option<String>,
}

type No = Box<Response<AnswerBody>>;

/// Says what a request asks for, or answers it at once: what is refused here is refused before its body is read.
pub(super) fn route(
    head: &Parts,
    announced_bytes: u64,
    body_bytes_max: usize,
    caller: &Caller,
) -> Result<Route, No> {
    let no = |problem: Problem| Box::new(answers::problem(&problem, caller));
    check_headers(head).map_err(no)?;
    let path = head.uri.path();
    let allowed = match path {
        "/poll" | "/subscribe" => "GET, OPTIONS",
        "/ack" | "/nack" => "POST, OPTIONS",
        _ if path.starts_with("/topics/") => "POST, OPTIONS",
        _ => eventmesh::methods(path).ok_or_else(|| {
            no(Problem::of("path", Code::NotFound, format!("nothing is at {path:?}")))
        })?,
    };
    if head.method == Method::OPTIONS {
        return Err(Box::new(answers::options(allowed, head, caller)));
    }
    if !is_allowed(allowed, head.method.as_str()) {
        let detail = format!("{path:?} takes {allowed}, not {}", head.method);
        let why = Problem::of("method", Code::MethodNotAllowed, detail);
        return Err(Box::new(answers::not_allowed(allowed, &why, caller)));
    }
    if head.method == Method::POST {
        if announced_bytes > body_bytes_max as u64 {
            return Err(no(body_limit(body_bytes_max, announced_bytes)));
        }
        check_encoding(&head.headers).map_err(no)?;
    }
    let query = Query::parse(head.uri.query()).map_err(no)?;
    let route = match path {
        "/poll" => poll(query).map(Route::Poll),
        "/subscribe" => stream(query, &head.headers).map(Route::Subscribe),
        "/ack" => query.finish().map(|()| Route::Settle(Verdict::Done)),
        "/nack" => query.finish().map(|()| Route::Settle(Verdict::Retry)),
        _ if path.starts_with(eventmesh::PREFIX) => eventmesh::route(path, query, &head.headers),
        _ => publish(&path["/topics/".len()..], query, &head.headers),
    };
    route.map_err(no)
}

/// Whether a list of methods holds one; mostly it is the first.
fn is_allowed(allowed: &str, method: &str) -> bool {
    let rest = allowed.strip_prefix(method);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
        || allowed.split(", ").any(|known| known == method)
}

fn check_headers(head: &Parts) -> Result<(), Problem> {
    let headers = &head.headers;
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let uri = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let over = |field: &str, limit: usize, value: usize| {
        let detail = format!("{field} are {value}, at most {limit} are allowed");
        let mut problem = Problem::of(field, Code::HeadersTooLarge, detail);
        (problem.limit, problem.value) = (Some(limit as u64), Some(value as u64));
        problem
    };
    if headers.len() > HEADERS_MAX {
        return Err(over("headers", HEADERS_MAX, headers.len()));
    }
    if bytes + uri > HEADER_BYTES_MAX {
        return Err(over("bytes of path and headers", HEADER_BYTES_MAX, bytes + uri));
    }
    Ok(())
}

/// The one value of a header that must not stand twice.
pub(super) fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = format!("header {name:?} stands twice");
        return Err(Problem::of(name, Code::MalformedRequest, detail));
    }
    let text = std::str::from_utf8(value.as_bytes());
    text.map(Some)
        .map_err(|_| Problem::of(name, Code::NotUtf8, format!("header {name:?} is not UTF-8")))
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    match only(headers, CONTENT_ENCODING.as_str())?.map(str::trim) {
        None => Ok(()),
        Some(coding) if is_gzip(coding) || coding.eq_ignore_ascii_case("identity") => Ok(()),
        Some(coding) => {
            let detail = format!("content-encoding is {coding:?}, gzip and identity are taken");
            Err(Problem::of("content-encoding", Code::UnsupportedMediaType, detail))
        }
    }
}

/// Whether a coding is gzip, by either of its names.
pub(super) fn is_gzip(coding: &str) -> bool {
    coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip")
}

fn publish(path: &str, query: Query, headers: &HeaderMap) -> Result<Route, Problem> {
    query.finish()?;
    let topic = topic_of(path)?;
    let content_type = only(headers, CONTENT_TYPE.as_str())?;
    let mode = ContentMode::of(content_type);
    if mode == ContentMode::Unknown {
        let content_type = content_type.unwrap_or_default();
        let detail = format!("content-type is {content_type:?}, JSON and protobuf are spoken here");
        return Err(Problem::of("content-type", Code::UnsupportedMediaType, detail));
    }
    Ok(Route::Publish { topic, mode })
}

/// The topic whose levels are the segments of a path.
fn topic_of(path: &str) -> Result<Arc<str>, Problem> {
    if !path.contains('%') {
        // As nearly always: there is nothing to decode.
        return topic(path);
    }
    let mut levels = Vec::new();
    for segment in path.split('/') {
        let level = query::decoded(segment, false)?;
        if level.contains('/') {
            let detail = format!("level {level:?} has a slash: levels are segments of the path");
            return Err(Problem::of("topic", Code::MalformedTopic, detail));
        }
        levels.push(level);
    }
    topic(&levels.join("/"))
}

/// A topic that clients may publish to.
pub(super) fn topic(name: &str) -> Result<Arc<str>, Problem> {
    let name = TopicName::new(name);
    let name = name.map_err(|error| query::topic_problem("topic", &error, Code::MalformedTopic))?;
    if name.is_reserved() {
        let detail = format!("topic {:?} starts with '$'", name.as_str());
        return Err(Problem::of("topic", Code::ReservedTopic, detail));
    }
    Ok(name.text().clone())
}

fn poll(mut query: Query) -> Result<PollWish, Problem> {
    let wish = PollWish {
        filter: query::filter(query.need("filter")?)?,
        group: query::group(query.need("group")?)?,
        from: query.take("from"),
        max: query.number("max", (1, EVENTS_MAX), POLL_EVENTS_DEFAULT)?,
        timeout_ms: query.number("timeout_ms", (0, POLL_MS_MAX), POLL_MS_DEFAULT)?,
    };
    query.finish()?;
    Ok(wish)
}

/// The id of the last event that the client of a stream has read.
pub(super) fn last_event_id(
    headers: &HeaderMap,
    query: &mut Query,
) -> Result<Option<String>, Problem> {
    let header = only(headers, "last-event-id")?.map(str::to_owned);
    Ok(header.or(query.take("last_event_id")).filter(|id| !id.is_empty()))
}

fn stream(mut query: Query, headers: &HeaderMap) -> Result<StreamWish, Problem> {
    let last_event_id = last_event_id(headers, &mut query)?;
    let is_acked = match query.take("ack").as_deref() {
        None => false,
        Some("explicit") => true,
        Some(other) => {
            let detail = format!("parameter \"ack\" is {other:?}, only explicit is taken");
            return Err(Problem::of("ack", Code::MalformedRequest, detail));
        }
    };
    let wish = StreamWish {
        filter: query::filter(query.need("filter")?)?,
        group: query.take("group").map(query::group).transpose()?,
        from: query.take("from"),
        window: query.number("window", (1, EVENTS_MAX), WINDOW_DEFAULT)?,
        is_acked,
        last_event_id,
    };
    query.finish()?;
    Ok(wish)
}

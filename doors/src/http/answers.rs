//! What a client is told: statuses, headers, problems.

use codec::problem::{MEDIA_TYPE, Problem};
use codec::refusal::{Refusal, Who};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CACHE_CONTROL, CONTENT_TYPE, ORIGIN, RETRY_AFTER, VARY,
};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};

use super::cors::Cors;
use super::desk::AnswerBody;
use super::{eventmesh, events};

/// Media type of ordinary answers.
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// How long a browser may remember a preflight, in seconds.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("600");
/// How long a client that found no room should wait, in seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// What an answer must know of who asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    /// What the page may be told, if it is one of another origin.
    allowed_origin: Option<HeaderValue>,
    /// Whether the answer depends on who asks.
    varies: bool,
    /// A client of EventMesh, which looks for what is wrong under `error`.
    is_eventmesh: bool,
}

impl Caller {
    pub(super) fn of(head: &Parts, cors: &Cors) -> Caller {
        let origin = head.headers.get(ORIGIN);
        Caller {
            allowed_origin: origin.and_then(|origin| cors.allows(origin)),
            varies: matches!(cors, Cors::Origins(_)),
            is_eventmesh: head.uri.path().starts_with(eventmesh::PREFIX),
        }
    }

    fn sign(&self, response: &mut Response<AnswerBody>) {
        let headers = response.headers_mut();
        if let Some(origin) = &self.allowed_origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(
                ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static("retry-after, allow"),
            );
        }
        if self.varies {
            headers.insert(VARY, HeaderValue::from_static("origin"));
        }
    }
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, body: Vec<u8>, caller: &Caller) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    caller.sign(&mut response);
    response
}

/// An answer that says no.
pub(super) fn problem(problem: &Problem, caller: &Caller) -> Response<AnswerBody> {
    tracing::debug!(refusal = %problem.refusal, "refused");
    let mut body = Vec::new();
    problem.write(&mut body);
    if caller.is_eventmesh {
        add_error(problem, &mut body);
    }
    let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = json(status, body, caller);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if problem.refusal.code.who() == Who::Later {
        headers.insert(RETRY_AFTER, RETRY_SECONDS);
    }
    response
}

/// Says what is wrong once more, under the name that clients of EventMesh know.
fn add_error(problem: &Problem, body: &mut Vec<u8>) {
    let Refusal { code, text } = &problem.refusal;
    let error = if text.is_empty() { code.meaning() } else { &**text };
    assert!(body.pop() == Some(b'}'), "a problem is an object");
    body.extend_from_slice(b",\"error\":");
    events::string(error, body);
    body.push(b'}');
}

/// An answer without content, to a request for what may be asked.
pub(super) fn options(
    allowed: &'static str,
    head: &Parts,
    caller: &Caller,
) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(Vec::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    caller.sign(&mut response);
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(allowed));
    let is_preflight = head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if is_preflight && caller.allowed_origin.is_some() {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(allowed));
        if let Some(wanted) = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    }
    response
}

/// The problem of a method that is not taken, which lists those that are.
pub(super) fn not_allowed(
    allowed: &'static str,
    why: &Problem,
    caller: &Caller,
) -> Response<AnswerBody> {
    let mut response = problem(why, caller);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The head of a stream of server-sent events.
pub(super) fn events(body: AnswerBody, caller: &Caller) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies of nginx's kind would keep events back to send many at once.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    caller.sign(&mut response);
    response
}

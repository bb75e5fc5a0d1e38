//! Every error of the admin port: a refusal of the one table (docs/errors.md) as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use codec::refusal::{Code, Refusal};
use serde::Serialize;

/// An answer that says no.
#[derive(Clone, Debug)]
pub struct Problem(pub Refusal);

#[derive(Serialize)]
struct Body<'a> {
    /// Names the kind of problem for ever.
    r#type: String,
    /// What it means and what to do.
    title: &'a str,
    status: u16,
    /// This one time; absent when the title says all.
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    code: &'a str,
    number: u16,
}

impl Problem {
    /// A problem with its own sentence.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Box<str>>) -> Problem {
        Problem(Refusal::new(code, detail))
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        Problem(refusal)
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Problem {
        Problem(code.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Refusal { code, text } = &self.0;
        let status = StatusCode::from_u16(code.http_status()).expect("the table has HTTP statuses");
        let body = Body {
            r#type: format!("urn:ringmesh:error:{}", code.name()),
            title: code.meaning(),
            status: status.as_u16(),
            detail: text,
            code: code.name(),
            number: code.number(),
        };
        let mut response = (status, Json(body)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

//! Every error of the admin port: a refusal of the one table (docs/errors.md) as `application/problem+json` (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use codec::problem::MEDIA_TYPE;
use codec::refusal::{Code, Refusal};

/// An answer that says no.
#[derive(Clone, Debug)]
pub struct Problem(pub Refusal);

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
        let problem = codec::problem::Problem::from(self.0);
        let status = StatusCode::from_u16(problem.status()).expect("the table has HTTP statuses");
        let mut body = Vec::new();
        problem.write(&mut body);
        let mut response = (status, body).into_response();
        let kind = HeaderValue::from_static(MEDIA_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

//! A refusal as `application/problem+json` (RFC 9457): what every port that speaks HTTP answers when the answer is no.

use serde::Serialize;

use crate::cloudevents::fault::EventFault;
use crate::refusal::{Code, Refusal};

/// Media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A refusal, and what of it a program may want to read without reading the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Why.
    pub refusal: Refusal,
    /// What is wrong: a header, an attribute, a parameter, a quantity.
    pub field: Option<Box<str>>,
    /// The most it may be.
    pub limit: Option<u64>,
    /// What it is.
    pub value: Option<u64>,
}

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
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
}

impl Problem {
    /// A problem with its own sentence.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Box<str>>) -> Problem {
        Problem::from(Refusal::new(code, detail))
    }

    /// The same of a named field.
    #[must_use]
    pub fn of(field: &str, code: Code, detail: impl Into<Box<str>>) -> Problem {
        Problem { field: Some(field.into()), ..Problem::new(code, detail) }
    }

    /// A value over its limit.
    #[must_use]
    pub fn limit(field: &str, limit: u64, value: u64) -> Problem {
        let refusal = Refusal::limit(field, limit, value);
        Problem { refusal, field: Some(field.into()), limit: Some(limit), value: Some(value) }
    }

    /// What is wrong with an event, whatever form it came in. `detail` is the form's own sentence.
    #[must_use]
    pub fn of_fault(fault: &EventFault, detail: String) -> Problem {
        match fault {
            EventFault::Limit { field, limit, value } => Problem::limit(field, *limit, *value),
            EventFault::Missing { attribute } => {
                Problem::of(attribute, Code::MalformedEvent, detail)
            }
            EventFault::SpecVersion { .. } => {
                Problem::of("specversion", Code::MalformedEvent, detail)
            }
            EventFault::AttributeValue { name, .. } => {
                Problem::of(name, Code::MalformedEvent, detail)
            }
        }
    }

    /// The status of an answer that is this problem.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.refusal.code.http_status()
    }

    /// Appends the problem as JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Refusal { code, text } = &self.refusal;
        let body = Body {
            r#type: format!("urn:ringmesh:error:{}", code.name()),
            title: code.meaning(),
            status: code.http_status(),
            detail: text,
            code: code.name(),
            number: code.number(),
            field: self.field.as_deref(),
            limit: self.limit,
            value: self.value,
        };
        serde_json::to_writer(out, &body).expect("writing to memory cannot fail");
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        Problem { refusal, field: None, limit: None, value: None }
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Problem {
        Problem::from(Refusal::from(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs go by code, field, limit and value; what is not known must be absent rather than null.
    #[test]
    fn says_field_limit_and_value() {
        let mut out = Vec::new();
        Problem::limit("event data bytes", 10, 11).write(&mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["code"], "limit_exceeded");
        assert_eq!(json["status"], 413);
        let found = [&json["field"], &json["limit"], &json["value"]].map(ToString::to_string);
        assert_eq!(found, ["\"event data bytes\"", "10", "11"]);
        out.clear();
        Problem::from(Code::DiskFull).write(&mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["status"], 507);
        assert!(json.get("field").is_none() && json.get("detail").is_none(), "{json}");
    }
}

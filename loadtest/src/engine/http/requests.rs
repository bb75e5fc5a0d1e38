//! The requests that are sent, made before the load starts so that making them is not what is measured.

use anyhow::ensure;

use super::super::driver::{Outgoing, STAMP_NONE};
use super::super::template::EventShape;
use crate::floor::raw_write::incompressible;

/// Memory for all templates together: what fits the second level cache is not fetched from memory at each send.
const TEMPLATES_BYTES: usize = 1 << 20;
/// Digits of a stamp, with which the data of each event begins, and of an id.
pub(super) const STAMP_DIGITS: usize = 16;
/// The data is a string of JSON, in quotes.
const DATA_BYTES_MIN: usize = STAMP_DIGITS + 2;
/// Bits of an event's id that are its number on its publisher.
const NUMBER_BITS: u32 = 40;
/// Characters of data: six random bits each, and nothing that JSON must escape.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What follows the path in one request, and where an event's id and stamp go.
#[derive(Debug, Default)]
struct Template {
    bytes: Vec<u8>,
    ids: Vec<usize>,
    stamps: Vec<usize>,
}

/// The requests of a load, used in turn.
pub(super) struct Requests {
    templates: Vec<Template>,
    batch: u32,
}

/// A request without a body.
pub(super) fn get(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

impl Requests {
    /// Events of this shape with data that is JSON. The keys of a batch go round: a client of HTTP does not know partitions.
    pub(super) fn new(shape: EventShape) -> anyhow::Result<Self> {
        ensure!(
            shape.data_bytes >= DATA_BYTES_MIN,
            "{} bytes of data: over HTTP an event's time needs {DATA_BYTES_MIN}",
            shape.data_bytes
        );
        let bytes = shape.batch as usize * (shape.data_bytes + 200);
        let count = (TEMPLATES_BYTES / bytes).clamp(8, 256);
        let template = |index| match shape.batch {
            1 => Template::binary(shape, index),
            _ => Template::batched(shape, index),
        };
        Ok(Requests { templates: (0..count).map(template).collect(), batch: shape.batch })
    }

    /// Appends a request with events for `topic`. Ids are given once in a run; the last event of a batch has its stamp.
    pub(super) fn append(
        &self,
        publisher: usize,
        outgoing: Outgoing,
        topic: &str,
        out: &mut Vec<u8>,
    ) {
        let Outgoing { number, stamp_ns, .. } = outgoing;
        let template = &self.templates[(number % self.templates.len() as u64) as usize];
        out.extend_from_slice(b"POST /topics/");
        out.extend_from_slice(topic.as_bytes());
        let start = out.len();
        out.extend_from_slice(&template.bytes);
        let bytes = &mut out[start..];
        let first = ((publisher as u64) << NUMBER_BITS) + number * u64::from(self.batch);
        for (id, at) in (first..).zip(&template.ids) {
            write_hex(id, &mut bytes[*at..*at + STAMP_DIGITS]);
        }
        let (last, before) = template.stamps.split_last().expect("a batch has an event");
        for at in before {
            write_hex(stamp_ns.max(STAMP_NONE), &mut bytes[*at..*at + STAMP_DIGITS]);
        }
        write_hex(stamp_ns, &mut bytes[*last..*last + STAMP_DIGITS]);
    }
}

impl Template {
    fn head(&mut self, content_type: &str, body_bytes: usize) {
        let head = format!(
            " HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {body_bytes}\r\n"
        );
        self.bytes.extend_from_slice(head.as_bytes());
    }

    /// Room for an id or a stamp; returns where.
    fn digits(&mut self) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[b'0'; STAMP_DIGITS]);
        at
    }

    fn data(&mut self, data_bytes: usize, byte: &mut impl FnMut(usize) -> u8) {
        self.bytes.push(b'"');
        let at = self.digits();
        self.stamps.push(at);
        let rest = data_bytes - DATA_BYTES_MIN;
        self.bytes.extend((0..rest).map(|index| ALPHABET[usize::from(byte(index) % 64)]));
        self.bytes.push(b'"');
    }

    fn binary(shape: EventShape, index: usize) -> Self {
        let mut template = Template::default();
        template.head("application/json", shape.data_bytes);
        template.bytes.extend_from_slice(
            b"ce-specversion: 1.0\r\nce-source: /loadtest\r\nce-type: com.example.load\r\nce-id: ",
        );
        let at = template.digits();
        template.ids.push(at);
        if let Some(key) = key(shape, index) {
            template.bytes.extend_from_slice(format!("\r\nce-partitionkey: {key}").as_bytes());
        }
        template.bytes.extend_from_slice(b"\r\n\r\n");
        template.data(shape.data_bytes, &mut incompressible(index as u64 + 1));
        template
    }

    fn batched(shape: EventShape, index: usize) -> Self {
        let mut events = Template::default();
        let mut byte = incompressible(index as u64 + 1);
        for event in 0..shape.batch as usize {
            let start = if event == 0 { "[" } else { "," };
            let known = r#"{"specversion":"1.0","source":"/loadtest","type":"com.example.load""#;
            events.bytes.extend_from_slice(format!(r#"{start}{known},"id":""#).as_bytes());
            let at = events.digits();
            events.ids.push(at);
            if let Some(key) = key(shape, index * shape.batch as usize + event) {
                events.bytes.extend_from_slice(format!(r#"","partitionkey":"{key}"#).as_bytes());
            }
            events.bytes.extend_from_slice(br#"","data":"#);
            events.data(shape.data_bytes, &mut byte);
            events.bytes.push(b'}');
        }
        events.bytes.push(b']');
        let mut template = Template::default();
        template.head("application/cloudevents-batch+json", events.bytes.len());
        template.bytes.extend_from_slice(b"\r\n");
        let body_at = template.bytes.len();
        template.bytes.append(&mut events.bytes);
        template.ids = events.ids.iter().map(|at| body_at + at).collect();
        template.stamps = events.stamps.iter().map(|at| body_at + at).collect();
        template
    }
}

fn key(shape: EventShape, index: usize) -> Option<String> {
    (shape.keys > 0).then(|| format!("key-{}", index % shape.keys as usize))
}

fn write_hex(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// A server refuses what is malformed, and a refused load measures refusals: every request must be a good one, with the
    /// shape and the stamp that were asked for, and no id twice.
    #[test]
    fn every_request_is_a_good_publish() {
        let mut ids = BTreeSet::new();
        for (publisher, batch, keys) in [(0, 1, 0), (1, 1, 10), (2, 100, 0), (3, 100, 1_000)] {
            let shape = EventShape { data_bytes: 100, batch, keys };
            let requests = Requests::new(shape).unwrap();
            for number in 0..300 {
                let mut out = Vec::new();
                let outgoing = Outgoing { slot: 0, number, stamp_ns: 77 + number };
                requests.append(publisher, outgoing, "loadtest/5", &mut out);
                let mut headers = [httparse::EMPTY_HEADER; 16];
                let mut request = httparse::Request::new(&mut headers);
                let head = request.parse(&out).unwrap().unwrap();
                assert_eq!(request.path, Some("/topics/loadtest/5"));
                let header = |name: &str| {
                    let found = request.headers.iter().find(|header| header.name == name);
                    found.map(|header| std::str::from_utf8(header.value).unwrap())
                };
                let body = &out[head..];
                assert_eq!(header("content-length"), Some(&*body.len().to_string()));
                let body: Value = serde_json::from_slice(body).unwrap();
                let events = match &body {
                    Value::String(_) => vec![(header("ce-id"), header("ce-partitionkey"), &body)],
                    Value::Array(events) => events.iter().map(fields).collect(),
                    other => panic!("{other}"),
                };
                assert_eq!(events.len(), batch as usize);
                for (id, key, data) in &events {
                    assert!(ids.insert(id.unwrap().to_owned()), "{id:?} stands twice");
                    assert_eq!(key.is_some(), keys > 0);
                    assert_eq!(data.as_str().unwrap().len() + 2, shape.data_bytes);
                }
                let stamp = &events.last().unwrap().2.as_str().unwrap()[..STAMP_DIGITS];
                assert_eq!(u64::from_str_radix(stamp, 16), Ok(77 + number));
            }
        }
    }

    /// Id, key and data of an event in JSON.
    fn fields(event: &Value) -> (Option<&str>, Option<&str>, &Value) {
        (event["id"].as_str(), event["partitionkey"].as_str(), &event["data"])
    }
}

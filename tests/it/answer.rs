//! What a port that speaks HTTP answers: the door or the admin port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::harness::PATIENCE;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The answer that this text is.
    pub fn of(text: &str) -> Self {
        // What curl was told to go on with comes first.
        let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The value of a metric, labels included in its name.
    pub fn metric(&self, series: &str) -> f64 {
        let values = self.body.lines().filter_map(|line| line.strip_prefix(series));
        let values: Vec<&str> = values.filter(|rest| rest.starts_with(' ')).collect();
        let [value] = values[..] else { panic!("{series} stands {} times", values.len()) };
        value.trim().parse().expect("a number")
    }

    /// The sum of a metric over its series.
    pub fn sum(&self, name: &str) -> f64 {
        let series = self.body.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        let value =
            |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        series.map(|line| value(line).expect("a number")).sum()
    }

    /// It must be this problem, which is returned.
    pub fn is_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("urn:ringmesh:error:{code}"), "{problem}");
        problem
    }
}

/// Sends bytes and reads to the end of the connection.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the port is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    // A server that has refused may close before it has read all.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    // A reset after the answer is no matter.
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    // What is said in HTTP/2's frames is no text.
    let is_text = !text.contains(char::REPLACEMENT_CHARACTER);
    assert!(is_text || !text.starts_with("HTTP/1.1"), "an answer is UTF-8: {text:?}");
    Answer::of(&text)
}

//! What the http door answers: whole bodies to publishes, and streams of server-sent events in chunks.

use anyhow::{Context, bail};
use codec::ack::AckLevel;
use httparse::Status;

use super::requests::STAMP_DIGITS;

/// Headers of an answer.
const HEADERS_MAX: usize = 32;

/// An answer that is all there.
#[derive(Debug, PartialEq)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
}

/// An event of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StreamedEvent {
    pub(super) attempt: u32,
    pub(super) stamp_ns: u64,
}

/// How long a body is.
enum Length {
    Bytes(usize),
    Chunked,
}

/// Status, what the headers say of the body, and the length of all that; `None` while it is not whole.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(u16, Length, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).context("the server sent something else than HTTP/1.1")?;
    let Status::Complete(used) = parsed else { return Ok(None) };
    let status = response.code.context("an answer has a status")?;
    let mut length = Length::Bytes(0);
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value)?;
            length = Length::Bytes(text.trim().parse().context("content-length is a number")?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            length = Length::Chunked;
        }
    }
    Ok(Some((status, length, used)))
}

/// The first answer of `bytes` and its length, or `None` while it is not whole.
pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Answer<'_>, usize)>> {
    let Some((status, length, start)) = head(bytes)? else { return Ok(None) };
    let Length::Bytes(length) = length else { bail!("an answer to a publish comes in chunks") };
    let whole = bytes.get(start..start + length);
    Ok(whole.map(|body| (Answer { status, body }, start + length)))
}

/// How many events an answer says are stored: one object each, and nothing in them has braces.
pub(super) fn stored(body: &[u8]) -> u32 {
    body.iter().map(|byte| u32::from(*byte == b'{')).sum()
}

/// The ack level that the last object of an answer names.
pub(super) fn ack_level(body: &[u8]) -> Option<&'static str> {
    let name = body.strip_suffix(b"]").unwrap_or(body).strip_suffix(b"\"}")?;
    let levels = [AckLevel::Received, AckLevel::Written, AckLevel::Durable];
    levels.map(AckLevel::name).into_iter().find(|known| name.ends_with(known.as_bytes()))
}

/// A stream of events, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    has_head: bool,
    /// The server has said that every event acknowledged from then on will come.
    is_subscribed: bool,
    /// What has come of an event whose end has not.
    text: Vec<u8>,
}

impl EventStream {
    /// Whether it stands.
    pub(super) fn is_open(&self) -> bool {
        self.is_subscribed
    }

    /// Takes all whole chunks of `bytes`, and tells their events. Returns how many bytes it has used.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        mut tell: impl FnMut(StreamedEvent) -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        let mut used = 0;
        if !self.has_head {
            let Some((status, length, consumed)) = head(bytes)? else { return Ok(0) };
            if status != 200 || !matches!(length, Length::Chunked) {
                let said = String::from_utf8_lossy(&bytes[consumed..]);
                bail!("the stream is refused: {status} {said}");
            }
            (self.has_head, used) = (true, consumed);
        }
        while let Some((chunk, consumed)) = chunk(&bytes[used..])? {
            used += consumed;
            self.text.extend_from_slice(chunk);
        }
        let mut start = 0;
        while let Some(length) = find(&self.text[start..], b"\n\n") {
            self.is_subscribed |= self.text[start..].starts_with(b": subscribed");
            if let Some(event) = event(&self.text[start..start + length])? {
                tell(event)?;
            }
            start += length + 2;
        }
        self.text.drain(..start);
        Ok(used)
    }
}

/// The first chunk of `bytes` and how long it is with what stands around it.
fn chunk(bytes: &[u8]) -> anyhow::Result<Option<(&[u8], usize)>> {
    match httparse::parse_chunk_size(bytes) {
        Ok(Status::Partial) => Ok(None),
        Ok(Status::Complete((_, 0))) => bail!("the server ended a stream in the middle of the run"),
        Ok(Status::Complete((start, length))) => {
            let end = start + length as usize;
            let is_whole = bytes.len() >= end + 2;
            Ok(is_whole.then(|| (&bytes[start..end], end + 2)))
        }
        Err(_) => bail!("the server sent something else than chunks"),
    }
}

/// Reads an event's lines. `None`: a comment, or a time to come back after.
fn event(text: &[u8]) -> anyhow::Result<Option<StreamedEvent>> {
    let of_event = |line: &&[u8]| line.starts_with(b"event:");
    let mut lines = text.split(|byte| *byte == b'\n');
    if lines.clone().any(|line| of_event(&line)) {
        bail!("the stream ends: {}", String::from_utf8_lossy(text));
    }
    let Some(line) = lines.find(|line| line.starts_with(b"data:")) else { return Ok(None) };
    let stamp = find(line, b"\"data\":\"").map(|at| at + b"\"data\":\"".len());
    let stamp = stamp.and_then(|at| line.get(at..at + STAMP_DIGITS));
    let stamp = stamp.and_then(|digits| std::str::from_utf8(digits).ok());
    let stamp_ns = stamp.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let stamp_ns = stamp_ns.context("an event has no stamp: is somebody else publishing?")?;
    let first = find(line, b"\"attempt\":1,").is_some();
    Ok(Some(StreamedEvent { attempt: if first { 1 } else { 2 }, stamp_ns }))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's packets never respect the borders of answers: no cut may be an error, or change what is read.
    #[test]
    fn answers_wait_at_every_cut() {
        let one = br#"{"topic":"loadtest/0","partition":3,"offset":17,"ack":"durable"}"#;
        let two = [&b"["[..], one, b",", one, b"]"].concat();
        let mut bytes = Vec::new();
        for body in [&one[..], &two, b""] {
            let length = body.len();
            let head = format!("HTTP/1.1 202 Accepted\r\nContent-Length: {length}\r\nx: y\r\n\r\n");
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(body);
        }
        let read = |bytes: &[u8]| {
            let (mut found, mut used) = (Vec::new(), 0);
            while let Some((answer, consumed)) = parse(&bytes[used..]).unwrap() {
                found.push((answer.status, stored(answer.body), ack_level(answer.body)));
                used += consumed;
            }
            (found, used)
        };
        let expected = vec![(202, 1, Some("durable")), (202, 2, Some("durable")), (202, 0, None)];
        assert_eq!(read(&bytes), (expected, bytes.len()));
        for cut in 0..bytes.len() {
            let (mut first, used) = read(&bytes[..cut]);
            first.extend(read(&bytes[used..]).0);
            assert_eq!(first.len(), 3, "cut at {cut}");
        }
    }

    /// An event that is lost between two chunks would be a delivery that did not come.
    #[test]
    fn streams_go_on_at_every_cut() {
        let event = |attempt: u32, stamp: u64| {
            let data = format!("\"data\":\"{stamp:016x}xyz\"");
            let head = format!("id: p{stamp}\ndata: {{\"topic\":\"t\",\"attempt\":{attempt},");
            format!("{head}\"event\":{{\"id\":\"1\",{data}}}}}\n\n")
        };
        let pieces = [": subscribed\n\n".to_owned(), event(1, 7), event(2, 99), event(1, 8)];
        let text = pieces.concat();
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in text.as_bytes().chunks(61) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        for cut in 0..=bytes.len() {
            let (mut stream, mut found) = (EventStream::default(), Vec::new());
            let mut tell = |event: StreamedEvent| {
                found.push((event.attempt, event.stamp_ns));
                Ok(())
            };
            let used = stream.take(&bytes[..cut], &mut tell).unwrap();
            stream.take(&bytes[used..], &mut tell).unwrap();
            assert!(stream.is_open());
            assert_eq!(found, [(1, 7), (2, 99), (1, 8)], "cut at {cut}");
        }
        let refused = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
        assert!(EventStream::default().take(refused, |_| Ok(())).is_err());
    }
}

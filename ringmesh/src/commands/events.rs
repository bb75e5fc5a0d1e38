//! Makes events from what a person gives: DATA, a file, or lines of JSON.

use std::borrow::Cow;
use std::io::{BufRead, Read};

use codec::attribute::{Key, Value};
use codec::cloudevents::json::parse_event;
use codec::cloudevents::parsed::ParsedEvent;
use codec::cloudevents::{Defaults, Mode, SOURCE_IF_ABSENT, TYPE_IF_ABSENT};
use codec::event::DataKind;
use codec::limits::EVENT_DATA_BYTES_MAX;

use super::failure::{Exit, Failure};

/// Longest line of standard input: the largest data in base64, with room for attributes.
pub const LINE_BYTES_MAX: usize = 24 << 20;

const _: () = assert!(
    LINE_BYTES_MAX
        > EVENT_DATA_BYTES_MAX as usize / 3 * 4 + codec::limits::ATTRIBUTES_BYTES_MAX as usize,
    "every event that a server may take fits a line"
);

/// Ids for events that have none: one random part a run, and a number.
///
/// They are made here and not derived from the event's place, so that an event that was sent twice because the
/// connection broke can be recognised by its id.
pub struct Ids {
    run: String,
    next: u64,
}

impl Ids {
    /// Ids that no other run makes.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new() -> Result<Self, Failure> {
        let run = getrandom::u64().map_err(|error| {
            Failure::new(Exit::Failed, format!("the system gives no random number: {error}"), "")
        })?;
        Ok(Ids { run: format!("{run:016x}"), next: 1 })
    }

    /// The next id.
    pub fn make(&mut self) -> String {
        let id = format!("{}-{}", self.run, self.next);
        self.next += 1;
        id
    }
}

/// An event of DATA: JSON if it is JSON, else text if it is UTF-8, else binary. It has no id yet.
#[must_use]
pub fn event_of_data(data: Vec<u8>) -> ParsedEvent<'static> {
    let kind = match std::str::from_utf8(&data) {
        Ok(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => DataKind::Json,
        Ok(_) => DataKind::Text,
        Err(_) => DataKind::Binary,
    };
    let mut event = ParsedEvent::new(kind, Cow::Owned(data));
    event.set(&Key::Source, &Value::UriReference(SOURCE_IF_ABSENT));
    event.set(&Key::Type, &Value::String(TYPE_IF_ABSENT));
    match kind {
        DataKind::Text => event.set(&Key::DataContentType, &Value::String("text/plain")),
        DataKind::Binary => {
            event.set(&Key::DataContentType, &Value::String("application/octet-stream"));
        }
        _ => {}
    }
    event
}

/// Reads DATA as the command line gives it: itself, or the contents of `@FILE`.
///
/// # Errors
/// The file cannot be read, or is larger than any event may be.
pub fn read_data(data: &str) -> Result<Vec<u8>, Failure> {
    let Some(path) = data.strip_prefix('@') else { return Ok(data.as_bytes().to_vec()) };
    let advice = "DATA that begins with @ names a file; to publish such text, put it into a file";
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::Usage, format!("{path} cannot be read: {error}"), advice)
    };
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(u64::from(EVENT_DATA_BYTES_MAX) + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > EVENT_DATA_BYTES_MAX as usize {
        let message = format!(
            "{path} is larger than {EVENT_DATA_BYTES_MAX} bytes, the most an event may hold"
        );
        return Err(Failure::new(
            Exit::Usage,
            message,
            "publish it in parts, or publish where it stands",
        ));
    }
    Ok(bytes)
}

/// The events of an input, one JSON object a line; empty lines are skipped.
pub struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `input`.
    pub fn new(input: R) -> Self {
        Lines { input, line: Vec::new(), number: 0 }
    }

    /// The next event, with an id, and with `key` if it has none of its own; `None` at the end of the input.
    ///
    /// # Errors
    /// Names the line and what is wrong with it.
    pub fn next_event(
        &mut self,
        ids: &mut Ids,
        key: Option<&str>,
    ) -> Result<Option<ParsedEvent<'static>>, Failure> {
        loop {
            if !self.read_line()? {
                return Ok(None);
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        let id = ids.make();
        let defaults =
            Defaults { id: Some(&id), source: SOURCE_IF_ABSENT, event_type: TYPE_IF_ABSENT };
        let event = parse_event(&self.line, Mode::Lenient(&defaults)).map_err(|error| {
            let advice = "each line is one JSON object, such as {\"key\":\"k\",\"data\":{\"n\":1}}";
            Failure::new(
                Exit::Usage,
                format!("line {} of standard input: {error}", self.number),
                advice,
            )
        })?;
        let mut event = event.into_owned();
        if let Some(key) = key.filter(|_| event.partition_key().is_none()) {
            event.set(&Key::PartitionKey, &Value::String(key));
        }
        Ok(Some(event))
    }

    fn read_line(&mut self) -> Result<bool, Failure> {
        self.line.clear();
        self.number += 1;
        let number = self.number;
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.line).map_err(|error| {
            Failure::new(Exit::Failed, format!("standard input cannot be read: {error}"), "")
        })?;
        if self.line.len() > LINE_BYTES_MAX {
            let message =
                format!("line {number} of standard input is longer than {LINE_BYTES_MAX} bytes");
            return Err(Failure::new(
                Exit::Usage,
                message,
                "an event holds at most 16 MiB of data; publish it in parts",
            ));
        }
        Ok(read > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(input: &[u8]) -> Result<Vec<ParsedEvent<'static>>, Failure> {
        let mut ids = Ids { run: "run".to_owned(), next: 1 };
        let mut lines = Lines::new(input);
        let mut events = Vec::new();
        while let Some(event) = lines.next_event(&mut ids, Some("given"))? {
            events.push(event);
        }
        Ok(events)
    }

    /// A person's event says little; what it says must arrive as it was said.
    #[test]
    fn lines_are_lenient_events() {
        let input = b"{\"data\":{\"n\": 1}}\n\n{\"key\":\"k\",\"id\":\"own\",\"type\":\"t\",\"data\":\"text\"}";
        let events = events(input).unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].text(&Key::Id), Some("run-1"));
        assert_eq!(events[0].partition_key(), Some("given"));
        assert_eq!(events[0].data(), b"{\"n\": 1}");
        assert_eq!(events[1].text(&Key::Id), Some("own"));
        assert_eq!(events[1].partition_key(), Some("k"), "the event's own key wins");
        assert_eq!(events[1].text(&Key::Type), Some("t"));
    }

    /// The line number is the only way back to the mistake in a long input.
    #[test]
    fn bad_lines_are_named() {
        for (input, line) in
            [(&b"{}\n{\n"[..], 2), (b"[1]", 1), (b"\n\n\xff\n", 3), (b"{\"data\":1} {}", 1)]
        {
            let failure = events(input).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            let start = format!("line {line} of standard input: ");
            assert!(failure.message.starts_with(&start), "{}", failure.message);
        }
    }

    /// A line without an end must not fill the memory.
    #[test]
    fn long_lines_are_refused() {
        let mut lines = Lines::new(std::io::BufReader::new(std::io::repeat(b'x')));
        let mut ids = Ids { run: String::new(), next: 1 };
        let failure = lines.next_event(&mut ids, None).unwrap_err();
        assert!(failure.message.contains("longer than 25165824 bytes"), "{}", failure.message);
        assert!(lines.line.capacity() <= 2 * LINE_BYTES_MAX + 2);
    }

    /// JSON that is published as text would come out quoted.
    #[test]
    fn data_is_taken_for_what_it_is() {
        let table: [(&[u8], DataKind); 6] = [
            (b"{\"a\": [1]}", DataKind::Json),
            (b"42", DataKind::Json),
            (b"Hello, mesh", DataKind::Text),
            (b"{broken", DataKind::Text),
            (b"", DataKind::Text),
            (b"\xff\x00", DataKind::Binary),
        ];
        for (data, kind) in table {
            let event = event_of_data(data.to_vec());
            assert_eq!((event.data_kind(), event.data()), (kind, data));
        }
    }
}

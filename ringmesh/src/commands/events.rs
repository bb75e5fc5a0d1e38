//! Makes events from what a person gives: DATA, a file, or lines of JSON.

use std::borrow::Cow;
use std::io::{BufRead, Read};

use codec::attribute::{Key, Value};
use codec::cloudevents::json::parse_event;
use codec::cloudevents::parsed::ParsedEvent;
use codec::cloudevents::rules::kind_of;
use codec::cloudevents::{Defaults, Mode, SOURCE_IF_ABSENT, TYPE_IF_ABSENT};
use codec::event::DataKind;
use codec::limits::EVENT_DATA_BYTES_MAX;

use super::args::PublishArgs;
use super::blueprint::{Addressed, Blueprint};
use super::failure::{Exit, Failure};
use super::template::{Template, read};

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
#[derive(Debug)]
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

/// An event of DATA: of the kind that its content type says, else JSON if it is JSON, text if it is UTF-8, or binary. It
/// has no id yet.
#[must_use]
pub fn event_of_data(data: Vec<u8>, content_type: Option<&str>) -> ParsedEvent<'static> {
    let kind = match (content_type, std::str::from_utf8(&data)) {
        (Some(_), _) => kind_of(content_type, &data),
        (None, Ok(text)) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
            DataKind::Json
        }
        (None, Ok(_)) => DataKind::Text,
        (None, Err(_)) => DataKind::Binary,
    };
    let mut event = ParsedEvent::new(kind, Cow::Owned(data));
    event.set(&Key::Source, &Value::UriReference(SOURCE_IF_ABSENT));
    event.set(&Key::Type, &Value::String(TYPE_IF_ABSENT));
    let usual = match kind {
        DataKind::Text => Some("text/plain"),
        DataKind::Binary => Some("application/octet-stream"),
        _ => None,
    };
    if let Some(content_type) = content_type.or(usual) {
        event.set(&Key::DataContentType, &Value::String(content_type));
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

/// DATA, so many times: the same each time but for its id, or rendered anew.
pub struct Repeated {
    blueprint: Blueprint,
    data: Data,
    left: u64,
}

enum Data {
    /// An event that all are copies of.
    Same(ParsedEvent<'static>),
    /// The same data, whose content type differs.
    Bytes(Vec<u8>),
    Rendered(Template),
}

impl Repeated {
    /// Reads DATA.
    ///
    /// # Errors
    /// There is no such file, or DATA is no template.
    pub fn new(arguments: &PublishArgs, mut blueprint: Blueprint) -> Result<Self, Failure> {
        let mut bytes = read_data(arguments.data.as_deref().unwrap_or_default())?;
        let mut template = None;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let parsed = read("DATA", text, arguments.literal)?;
            match parsed.constant() {
                Some(constant) => bytes = constant.into_bytes(),
                None => template = Some(parsed),
            }
        }
        let data = match template {
            Some(template) => Data::Rendered(template),
            None if blueprint.varies("datacontenttype") => Data::Bytes(bytes),
            None => {
                let content_type = blueprint.value("datacontenttype")?;
                let mut event = event_of_data(bytes, content_type.as_deref());
                blueprint.set_constant(&mut event);
                Data::Same(event)
            }
        };
        Ok(Repeated { blueprint, data, left: arguments.count })
    }

    /// Whether there is one more.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.left > 0
    }

    /// The next event; `None` when all are made.
    ///
    /// # Errors
    /// What came out of a template may not stand in an event.
    pub fn next_event(&mut self) -> Result<Option<Addressed>, Failure> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let blueprint = &mut self.blueprint;
        blueprint.advance();
        let bytes = match &self.data {
            Data::Same(event) => {
                let mut event = event.clone();
                blueprint.set_varying(&mut event)?;
                return Ok(Some(Addressed { topic: blueprint.topic(), event }));
            }
            Data::Bytes(bytes) => bytes.clone(),
            Data::Rendered(template) => blueprint.render(template).into_bytes(),
        };
        let content_type = blueprint.value("datacontenttype")?;
        let mut event = event_of_data(bytes, content_type.as_deref());
        blueprint.set_constant(&mut event);
        blueprint.set_varying(&mut event)?;
        Ok(Some(Addressed { topic: blueprint.topic(), event }))
    }
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

    /// The next event, with what `blueprint` says where it says nothing itself; `None` at the end of the input.
    ///
    /// # Errors
    /// Names the line and what is wrong with it.
    pub fn next_event(&mut self, blueprint: &mut Blueprint) -> Result<Option<Addressed>, Failure> {
        loop {
            if !self.read_line()? {
                return Ok(None);
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        blueprint.advance();
        let id = blueprint.id()?;
        let source = blueprint.value("source")?;
        let event_type = blueprint.value("type")?;
        let defaults = Defaults {
            id: Some(&id),
            source: source.as_deref().unwrap_or(SOURCE_IF_ABSENT),
            event_type: event_type.as_deref().unwrap_or(TYPE_IF_ABSENT),
        };
        let event = parse_event(&self.line, Mode::Lenient(&defaults)).map_err(|error| {
            let advice = "each line is one JSON object, such as {\"key\":\"k\",\"data\":{\"n\":1}}";
            Failure::new(
                Exit::Usage,
                format!("line {} of standard input: {error}", self.number),
                advice,
            )
        })?;
        let mut event = event.into_owned();
        blueprint.fill(&mut event)?;
        Ok(Some(Addressed { topic: blueprint.topic(), event }))
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
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn blueprint(words: &[&str]) -> Blueprint {
        let words = [&["ringmesh", "publish", "t"], words].concat();
        match Cli::try_parse_from(words).unwrap().command {
            Command::Publish(arguments) => Blueprint::new(&arguments).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn events(input: &[u8]) -> Result<Vec<ParsedEvent<'static>>, Failure> {
        let mut blueprint = blueprint(&["--key", "given", "--type", "e{{count}}"]);
        let mut lines = Lines::new(input);
        let mut events = Vec::new();
        while let Some(addressed) = lines.next_event(&mut blueprint)? {
            assert_eq!(&*addressed.topic, "t");
            events.push(addressed.event);
        }
        Ok(events)
    }

    /// A person's event says little; what it says must arrive as it was said, and wins over the flags.
    #[test]
    fn lines_are_lenient_events() {
        let input = b"{\"data\":{\"n\": 1}}\n\n{\"key\":\"k\",\"id\":\"own\",\"type\":\"t\",\"data\":\"text\"}";
        let events = events(input).unwrap();
        assert_eq!(events.len(), 2);
        assert!(events[0].text(&Key::Id).unwrap().ends_with("-1"), "{events:?}");
        assert_eq!(events[0].partition_key(), Some("given"));
        assert_eq!(events[0].text(&Key::Type), Some("e1"));
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
        let failure = lines.next_event(&mut blueprint(&[])).unwrap_err();
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
            let event = event_of_data(data.to_vec(), None);
            assert_eq!((event.data_kind(), event.data()), (kind, data));
        }
    }
}

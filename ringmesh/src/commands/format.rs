//! `--format`: how `subscribe` prints an event, by directives that begin with a percent sign, as kcat has them.

use std::io::{self, Write};

use codec::attribute::{Key, Value};
use codec::cloudevents::json::write_event;
use codec::cloudevents::{Place, derived_id};
use codec::event::Event;
use codec::ids::Timestamp;

/// The directives, as help and documents show them.
pub const DIRECTIVES: [(&str, &str); 14] = [
    ("%t", "topic"),
    ("%p", "partition"),
    ("%o", "offset"),
    ("%n", "attempt, from 1"),
    ("%k", "key"),
    ("%v", "data, byte for byte"),
    ("%v{hex}", "data, two hexadecimal digits a byte"),
    ("%v{base64}", "data in base64"),
    ("%s", "size of the data in bytes"),
    ("%T", "when the server took the event, in milliseconds since 1970-01-01 UTC"),
    ("%h", "all attributes, NAME=VALUE with commas between"),
    ("%{NAME}", "one attribute, such as %{type}; nothing if the event has it not"),
    ("%e", "the event as JSON, on one line"),
    ("%%", "a percent sign"),
];

/// A format that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Attempt,
    Key,
    Data,
    DataHex,
    DataBase64,
    Size,
    Time,
    Attributes,
    Attribute(String),
    Json,
}

/// An event, with what is known of it besides.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Where it stands.
    pub place: Place<'a>,
    /// Its attempt, from 1.
    pub attempt: u32,
    /// When the server took it.
    pub time: Timestamp,
    /// The event.
    pub event: Event<'a>,
}

/// Reads a format.
///
/// # Errors
/// Names the directive that is none, where it stands, and what there is.
pub fn parse(text: &str) -> Result<Format, String> {
    let (mut parts, mut bytes, mut rest) = (Vec::new(), Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        let at = text.len() - rest.len();
        rest = &rest[c.len_utf8()..];
        let taken = match c {
            '%' => {
                let (part, taken) = directive(rest).map_err(|error| placed(&error, at))?;
                match part {
                    Some(part) => {
                        if !bytes.is_empty() {
                            parts.push(Part::Bytes(std::mem::take(&mut bytes)));
                        }
                        parts.push(part);
                    }
                    None => bytes.push(b'%'),
                }
                taken
            }
            '\\' => {
                let (byte, taken) = escape(rest).map_err(|error| placed(&error, at))?;
                bytes.push(byte);
                taken
            }
            c => {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                0
            }
        };
        rest = &rest[taken..];
    }
    if !bytes.is_empty() {
        parts.push(Part::Bytes(bytes));
    }
    Ok(Format(parts))
}

fn placed(error: &str, at: usize) -> String {
    format!("{error} (at byte {at})")
}

/// What stands behind a percent sign, and how long it is; `None` is the sign itself.
fn directive(rest: &str) -> Result<(Option<Part>, usize), String> {
    let Some(letter) = rest.chars().next() else {
        return Err("a % at the end: a percent sign is written %%".to_owned());
    };
    let argument = |from: &str| {
        let inside = from.strip_prefix('{')?;
        inside.find('}').map(|end| inside[..end].to_owned())
    };
    let part = match letter {
        '%' => return Ok((None, 1)),
        't' => Part::Topic,
        'p' => Part::Partition,
        'o' => Part::Offset,
        'n' => Part::Attempt,
        'k' => Part::Key,
        's' => Part::Size,
        'T' => Part::Time,
        'h' => Part::Attributes,
        'e' => Part::Json,
        'v' if rest[1..].starts_with('{') => {
            let form = argument(&rest[1..]).ok_or("%v{ has no closing }")?;
            let part = match form.as_str() {
                "hex" => Part::DataHex,
                "base64" => Part::DataBase64,
                _ => {
                    return Err(format!(
                        "unknown %v{{{form}}}: there are %v{{hex}} and %v{{base64}}"
                    ));
                }
            };
            return Ok((Some(part), 3 + form.len()));
        }
        'v' => Part::Data,
        '{' => {
            let name = argument(rest).ok_or("%{ has no closing }")?;
            if !Key::of(&name).is_valid() {
                return Err(format!(
                    "%{{{name}}} names no attribute: these are lower-case letters and digits"
                ));
            }
            return Ok((Some(Part::Attribute(name.clone())), 2 + name.len()));
        }
        other => {
            let known: Vec<&str> = DIRECTIVES.iter().map(|(directive, _)| *directive).collect();
            return Err(format!("unknown %{other}: there are {}", known.join(" ")));
        }
    };
    Ok((Some(part), 1))
}

/// The byte that an escape stands for, and how long it is behind the backslash.
fn escape(rest: &str) -> Result<(u8, usize), String> {
    let known = "there are \\n \\r \\t \\0 \\\\ and \\xNN";
    let byte = match rest.chars().next() {
        Some('n') => b'\n',
        Some('r') => b'\r',
        Some('t') => b'\t',
        Some('0') => 0,
        Some('\\') => b'\\',
        Some('x') => {
            let byte = rest.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            return byte
                .map(|byte| (byte, 3))
                .ok_or_else(|| format!("\\x is followed by two hexadecimal digits; {known}"));
        }
        Some(other) => return Err(format!("unknown \\{other}: {known}")),
        None => return Err(format!("a \\ at the end: {known}")),
    };
    Ok((byte, 1))
}

impl Format {
    /// Writes an event. For a terminal, control characters of the event are written as escapes: data from strangers
    /// must not drive it. Those of the format itself stand.
    ///
    /// # Errors
    /// None of its own: those of `out`.
    pub fn write(
        &self,
        arrived: &Arrived<'_>,
        is_terminal: bool,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        for part in &self.0 {
            let start = out.len();
            part.write(arrived, out)?;
            if is_terminal && !matches!(part, Part::Bytes(_)) {
                make_harmless(out, start);
            }
        }
        Ok(())
    }
}

impl Part {
    fn write(&self, arrived: &Arrived<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        let Arrived { place, attempt, time, event } = arrived;
        match self {
            Part::Bytes(bytes) => out.extend_from_slice(bytes),
            Part::Topic => out.extend_from_slice(place.topic.as_bytes()),
            Part::Partition => write!(out, "{}", place.partition.0)?,
            Part::Offset => write!(out, "{}", place.offset.0)?,
            Part::Attempt => write!(out, "{attempt}")?,
            Part::Key => out.extend_from_slice(event.partition_key().unwrap_or("").as_bytes()),
            Part::Data => out.extend_from_slice(event.data()),
            Part::DataHex => {
                for byte in event.data() {
                    write!(out, "{byte:02x}")?;
                }
            }
            Part::DataBase64 => write_base64(event.data(), out),
            Part::Size => write!(out, "{}", event.data().len())?,
            Part::Time => write!(out, "{}", time.0 / 1_000)?,
            Part::Attributes => write_attributes(event, place, out)?,
            Part::Attribute(name) => match event.get(&Key::of(name)) {
                Some(value) => write_value(&value, out)?,
                None if name == "id" => write!(out, "{}", derived_id(place))?,
                None => {}
            },
            Part::Json => {
                let start = out.len();
                write_event(event, place, out);
                codec::cloudevents::json::replace_line_ends(&mut out[start..]);
            }
        }
        Ok(())
    }
}

/// Escapes the control characters behind `start`, and what is no UTF-8.
fn make_harmless(out: &mut Vec<u8>, start: usize) {
    let text = String::from_utf8_lossy(&out[start..]).into_owned();
    out.truncate(start);
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default().map(|c| c as u8));
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

fn write_attributes(event: &Event<'_>, place: &Place<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    let mut separator = "";
    if event.get(&Key::Id).is_none() {
        write!(out, "id={}", derived_id(place))?;
        separator = ",";
    }
    for (key, value) in event.attributes() {
        write!(out, "{separator}{}=", key.name())?;
        write_value(&value, out)?;
        separator = ",";
    }
    Ok(())
}

fn write_value(value: &Value<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    match value {
        Value::Boolean(on) => write!(out, "{on}"),
        Value::Integer(number) => write!(out, "{number}"),
        Value::Binary(bytes) => {
            write_base64(bytes, out);
            Ok(())
        }
        Value::String(text)
        | Value::Uri(text)
        | Value::UriReference(text)
        | Value::Timestamp(text) => write!(out, "{text}"),
    }
}

/// RFC 4648, with padding.
fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = (at(0) << 16) | (at(1) << 8) | at(2);
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = LETTERS[(bits >> shift) as usize & 63];
            out.push(if index <= three.len() { letter } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use codec::builder::BatchBuilder;
    use codec::event::DataKind;
    use codec::header::HeaderSeed;
    use codec::ids::{Offset, Partition, TopicId};

    use super::*;

    /// What a format prints of one event.
    fn printed(format: &str, data: &[u8], is_terminal: bool) -> String {
        let mut builder = BatchBuilder::new(&mut []).unwrap();
        let mut attributes = [
            (Key::Type, Value::String("position")),
            (Key::PartitionKey, Value::String("vin-7")),
            (Key::Extension("raw"), Value::Binary(b"ab")),
            (Key::Extension("run"), Value::Integer(7)),
        ];
        builder.push(&mut attributes, DataKind::Binary, data).unwrap();
        let bytes = builder.finish(TopicId(1), Partition(3));
        let batch = codec::batch::Batch::parse(&bytes, HeaderSeed::WIRE).unwrap();
        let event = batch.check().unwrap().event(0).unwrap();
        let place = Place { topic: "a/b", partition: Partition(3), offset: Offset(9) };
        let arrived = Arrived { place, attempt: 2, time: Timestamp(1_234_567), event };
        let mut out = Vec::new();
        parse(format).unwrap().write(&arrived, is_terminal, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Scripts cut these lines apart: each directive must give what it says, and nothing else.
    #[test]
    fn directives_give_what_they_say() {
        let table = [
            ("%t %p:%o %n %k %v\\n", "a/b 3:9 2 vin-7 data\n"),
            ("%s %T %%", "4 1234 %"),
            ("%v{hex} %v{base64}", "64617461 ZGF0YQ=="),
            ("%h", "id=a/b/3/9,type=position,partitionkey=vin-7,raw=YWI=,run=7"),
            ("%{type}|%{subject}|%{id}|%{run}", "position||a/b/3/9|7"),
            ("\\t\\x41\\\\ \u{e9}", "\tA\\ \u{e9}"),
            ("", ""),
        ];
        for (format, expected) in table {
            assert_eq!(printed(format, b"data", false), expected, "{format}");
        }
        let json = printed("%e", b"data", false);
        assert!(json.starts_with("{\"specversion\":\"1.0\"") && json.ends_with('}'), "{json}");
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v")] {
            assert_eq!(printed("%v{base64}", bytes, false), text);
        }
    }

    /// On a terminal the data of a stranger does nothing; the format's own line end does.
    #[test]
    fn terminals_are_safe() {
        assert_eq!(printed("%v\\n", b"\x1b[2J\n", true), "\\u{1b}[2J\\n\n");
        assert_eq!(printed("%v\\n", b"\x1b\n", false), "\x1b\n\n");
    }

    /// The directive that is wrong is named, for a format is long and its mistake is one letter.
    #[test]
    fn mistakes_are_named() {
        let table = [
            ("%t %q", "unknown %q: there are %t %p %o"),
            ("%t %q", "(at byte 3)"),
            ("100%", "a % at the end"),
            ("%v{hexx}", "unknown %v{hexx}: there are %v{hex} and %v{base64}"),
            ("%v{hex", "%v{ has no closing }"),
            ("%{type", "%{ has no closing }"),
            ("%{Type}", "%{Type} names no attribute"),
            ("\\q", "unknown \\q"),
            ("\\x4", "two hexadecimal digits"),
            ("a\\", "a \\ at the end"),
            ("%\u{e9}", "unknown %\u{e9}"),
        ];
        for (format, expected) in table {
            let error = parse(format).expect_err(format);
            assert!(error.contains(expected), "{format}: {error}");
        }
        for (directive, _) in DIRECTIVES {
            let known = directive.replace("NAME", "name");
            assert!(parse(&known).is_ok(), "{known} is documented");
        }
    }
}

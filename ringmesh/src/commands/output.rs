//! What the commands print: one line for each result, whole in one write.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use codec::cloudevents::json::{replace_line_ends, write_event};
use codec::event::{DataKind, Event};
use serde::Serialize;

use super::args::Output;
use super::failure::{Exit, Failure};
use super::format::{Arrived, Format};

/// Writes all of it to standard output or fails; a reader that has gone away, such as `head`, wants no more.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Failed,
            format!("standard output cannot be written: {error}"),
            "",
        )),
        _ => Ok(()),
    }
}

/// Standard output without the library's buffer: a line is on its way when the call returns.
pub struct Printer {
    out: File,
    form: Output,
    /// How events are printed instead.
    format: Option<Format>,
    is_terminal: bool,
    line: Vec<u8>,
}

/// What `publish --quiet` has to say.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sum {
    events: u64,
    seconds: f64,
}

/// An event that the server has taken.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Acknowledged<'a> {
    /// The event's id.
    pub id: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// Partition within the topic.
    pub partition: u16,
    /// Offset within topic and partition.
    pub offset: u64,
    /// What can be relied on: `durable`, `written` or `received`.
    pub ack: &'a str,
}

/// An event that came, apart from the event itself.
#[derive(Clone, Copy, Debug, Serialize)]
struct Head<'a> {
    topic: &'a str,
    partition: u16,
    offset: u64,
    attempt: u32,
}

impl Printer {
    /// Prints to standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn new(form: Output) -> io::Result<Self> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let is_terminal = out.is_terminal();
        Ok(Printer { out, form, format: None, is_terminal, line: Vec::new() })
    }

    /// Prints events as this format says, and no line end but its own.
    #[must_use]
    pub fn with_format(mut self, format: Option<Format>) -> Self {
        self.format = format;
        self
    }

    /// Prints how many events were acknowledged in which time.
    ///
    /// # Errors
    /// Nobody reads any more, or the disk is full.
    pub fn sum(&mut self, events: u64, time: Duration) -> io::Result<()> {
        let seconds = time.as_secs_f64();
        match self.form {
            Output::Json => serde_json::to_writer(&mut self.line, &Sum { events, seconds })?,
            Output::Text => {
                let rate = events as f64 / seconds.max(1e-6);
                write!(self.line, "{events} events in {seconds:.3} s, {rate:.0} a second")?;
            }
        }
        self.flush_line()
    }

    /// Prints an acknowledged event.
    ///
    /// # Errors
    /// Nobody reads any more, or the disk is full.
    pub fn acknowledged(&mut self, event: &Acknowledged<'_>) -> io::Result<()> {
        match self.form {
            Output::Json => serde_json::to_writer(&mut self.line, event)?,
            Output::Text => {
                let Acknowledged { topic, partition, offset, ack, .. } = event;
                write!(self.line, "{topic} {partition}:{offset} {ack}")?;
            }
        }
        self.flush_line()
    }

    /// Prints an event that came.
    ///
    /// # Errors
    /// Nobody reads any more, or the disk is full.
    pub fn event(&mut self, arrived: &Arrived<'_>) -> io::Result<()> {
        if let Some(format) = &self.format {
            format.write(arrived, self.is_terminal, &mut self.line)?;
            return self.flush();
        }
        let Arrived { place, attempt, event, .. } = arrived;
        let (partition, offset) = (place.partition.0, place.offset.0);
        match self.form {
            Output::Json => {
                let head = Head { topic: place.topic, partition, offset, attempt: *attempt };
                serde_json::to_writer(&mut self.line, &head)?;
                self.line.pop();
                self.line.extend_from_slice(b",\"event\":");
                let start = self.line.len();
                write_event(event, place, &mut self.line);
                replace_line_ends(&mut self.line[start..]);
                self.line.push(b'}');
            }
            Output::Text => {
                write!(self.line, "{} {partition}:{offset} ", place.topic)?;
                write_data(event, &mut self.line)?;
            }
        }
        self.flush_line()
    }

    /// Prints a sentence for a person; nothing with `-o json`.
    ///
    /// # Errors
    /// Nobody reads any more, or the disk is full.
    pub fn sentence(&mut self, text: &str) -> io::Result<()> {
        if self.form == Output::Json {
            return Ok(());
        }
        self.line.extend_from_slice(text.as_bytes());
        self.flush_line()
    }

    fn flush_line(&mut self) -> io::Result<()> {
        self.line.push(b'\n');
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.out.write_all(&self.line);
        self.line.clear();
        self.line.shrink_to(1 << 20);
        written
    }
}

/// Data for a terminal: text on one line, in which no control character does anything.
fn write_data(event: &Event<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    let data = event.data();
    match event.data_kind() {
        DataKind::None => write!(out, "(no data)"),
        DataKind::Binary | DataKind::Protobuf => {
            write!(out, "({} bytes of binary data)", data.len())
        }
        DataKind::Text | DataKind::Json => {
            for c in String::from_utf8_lossy(data).chars() {
                if c.is_control() {
                    write!(out, "{}", c.escape_default())?;
                } else {
                    write!(out, "{c}")?;
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use codec::builder::BatchBuilder;
    use codec::cloudevents::Place;
    use codec::header::{HEADER_BYTES, HeaderSeed};
    use codec::ids::{Offset, Partition, Timestamp, TopicId};

    use super::*;

    fn lines(form: Output, kind: DataKind, data: &[u8]) -> String {
        let mut builder = BatchBuilder::new(&mut []).unwrap();
        builder.push(&mut [], kind, data).unwrap();
        let bytes = builder.finish(TopicId(1), Partition(3));
        assert!(bytes.len() > HEADER_BYTES);
        let batch = codec::batch::Batch::parse(&bytes, HeaderSeed::WIRE).unwrap();
        let event = batch.check().unwrap().event(0).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let out = file.try_clone().unwrap();
        let mut printer = Printer { out, form, format: None, is_terminal: false, line: Vec::new() };
        let place = Place { topic: "a/\u{e9}", partition: Partition(3), offset: Offset(7) };
        printer.event(&Arrived { place, attempt: 2, time: Timestamp(0), event }).unwrap();
        let mut text = String::new();
        io::Seek::rewind(&mut file).unwrap();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        text
    }

    /// A reader takes one line for one event, so data with line ends must not make two.
    #[test]
    fn each_event_is_one_line() {
        let json = lines(Output::Json, DataKind::Json, b"{\n \"n\": 1\r\n}");
        assert_eq!(
            json,
            "{\"topic\":\"a/\u{e9}\",\"partition\":3,\"offset\":7,\"attempt\":2,\"event\":{\"specversion\":\"1.0\",\
             \"id\":\"a/\u{e9}/3/7\",\"source\":\"/\",\"type\":\"event\",\"data\":{  \"n\": 1  }}}\n"
        );
        assert_eq!(lines(Output::Text, DataKind::Text, b"one\ntwo"), "a/\u{e9} 3:7 one\\ntwo\n");
    }

    /// Data from strangers must not drive the reader's terminal.
    #[test]
    fn control_characters_do_nothing() {
        assert_eq!(lines(Output::Text, DataKind::Text, b"\x1b[2J"), "a/\u{e9} 3:7 \\u{1b}[2J\n");
        assert_eq!(
            lines(Output::Text, DataKind::Binary, b"\x1b"),
            "a/\u{e9} 3:7 (1 bytes of binary data)\n"
        );
        assert_eq!(lines(Output::Text, DataKind::None, b""), "a/\u{e9} 3:7 (no data)\n");
    }
}

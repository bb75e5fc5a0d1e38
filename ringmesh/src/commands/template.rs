//! Templates: text with `{{function arguments}}` in it, which `publish` renders anew for each event.
//!
//! The form is that of `nats pub`: `{{.Count}}`, `{{Count}}` and `{{count}}` are the same. What stands outside of
//! double braces is kept as it is, so JSON needs no escapes.

use std::fmt;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::failure::{Exit, Failure};
use crate::config::suggest::nearest;

/// Longest text that one random field makes.
const RANDOM_STRING_MAX: u64 = 1 << 20;
/// Letters of a random string: none needs an escape in a topic, in JSON or in a shell.
const LETTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// The functions, as help and errors show them: how each is written, and what it gives.
pub const FUNCTIONS: [(&str, &str); 9] = [
    ("count", "the number of the event, from 1"),
    ("time", "the time in UTC, such as 2026-11-21T10:00:00.123456Z"),
    ("unix", "seconds since 1970-01-01 UTC"),
    ("unix_ms", "the same in milliseconds"),
    ("uuid", "a random UUID"),
    ("random MIN MAX", "a random whole number, both ends included"),
    ("random_float MIN MAX", "a random number with three decimals"),
    ("random_string LENGTH", "random letters and digits; with two numbers, between so many"),
    ("choice A B ...", "one of these words, by chance; words with spaces stand in quotes"),
];

/// Other names of functions, most of them those of `nats pub`.
const OTHER_NAMES: [(&str, &str); 4] =
    [("timestamp", "time"), ("id", "uuid"), ("now", "time"), ("randomstring", "random_string")];

/// A text with fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Count,
    Time,
    Unix,
    UnixMs,
    Uuid,
    Random(i64, i64),
    RandomFloat(f64, f64),
    RandomString(u64, u64),
    Choice(Vec<String>),
}

/// Why a text is no template. The message names what stands there and what could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// Braces that are opened and not closed.
    Open {
        /// From the braces on.
        field: String,
    },
    /// No function has this name.
    Unknown {
        /// What stands in the braces.
        field: String,
        /// The name.
        name: String,
    },
    /// The function takes other arguments.
    Arguments {
        /// What stands in the braces.
        field: String,
        /// What the function takes.
        expected: &'static str,
    },
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::Open { field } => write!(f, "{field:?} has no closing }}}}"),
            TemplateError::Unknown { field, name } => {
                let known: Vec<&str> = FUNCTIONS.iter().map(|(form, _)| name_of(form)).collect();
                write!(f, "unknown function {name:?} in {{{{{field}}}}}: ")?;
                if let Some(nearest) = nearest(name, known.iter().copied()) {
                    write!(f, "did you mean {nearest}? ")?;
                }
                write!(f, "Known are {}", known.join(", "))
            }
            TemplateError::Arguments { field, expected } => {
                write!(f, "{{{{{field}}}}} must be {{{{{expected}}}}}")
            }
        }
    }
}

impl std::error::Error for TemplateError {}

fn name_of(form: &'static str) -> &'static str {
    form.split(' ').next().unwrap_or(form)
}

/// What the fields of one event are made from. Count, time and UUID are the same wherever they stand in one event.
#[derive(Debug)]
pub struct Moment {
    count: u64,
    time: Duration,
    uuid: String,
    random: Random,
}

impl Moment {
    /// Before the first event.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new() -> Result<Self, Failure> {
        Ok(Moment { count: 0, time: Duration::ZERO, uuid: String::new(), random: Random::new()? })
    }

    /// Moves to the next event.
    pub fn advance(&mut self) {
        self.count += 1;
        self.time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.uuid.clear();
    }

    fn write(&mut self, field: &Field, out: &mut String) {
        let seconds = self.time.as_secs();
        let _ = match field {
            Field::Count => write!(out, "{}", self.count),
            Field::Time => write!(out, "{}", Utc(self.time)),
            Field::Unix => write!(out, "{seconds}"),
            Field::UnixMs => write!(out, "{}", self.time.as_millis()),
            Field::Uuid => {
                if self.uuid.is_empty() {
                    self.uuid = self.random.uuid();
                }
                write!(out, "{}", self.uuid)
            }
            Field::Random(min, max) => write!(out, "{}", self.random.between(*min, *max)),
            Field::RandomFloat(min, max) => {
                write!(out, "{:.3}", min + (max - min) * self.random.fraction())
            }
            Field::RandomString(min, max) => {
                for _ in 0..min + self.random.below(max - min + 1) {
                    let letter = LETTERS[self.random.below(LETTERS.len() as u64) as usize];
                    out.push(char::from(letter));
                }
                Ok(())
            }
            Field::Choice(words) => {
                write!(out, "{}", words[self.random.below(words.len() as u64) as usize])
            }
        };
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Names the field that is none, and what could stand there.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(start) = rest.find("{{") {
            if start > 0 {
                parts.push(Part::Text(rest[..start].to_owned()));
            }
            let inside = &rest[start + 2..];
            let Some(end) = end_of(inside) else {
                let field = rest[start..].chars().take(40).collect();
                return Err(TemplateError::Open { field });
            };
            parts.push(part(inside[..end].trim())?);
            rest = &inside[end + 2..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template { parts })
    }

    /// A text in which braces mean nothing.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Template { parts: vec![Part::Text(text.to_owned())] }
    }

    /// The text, if every event has the same.
    #[must_use]
    pub fn constant(&self) -> Option<String> {
        let texts = self.parts.iter().map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Field(_) => None,
        });
        texts.collect()
    }

    /// The text of an event.
    #[must_use]
    pub fn render(&self, moment: &mut Moment) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(field) => moment.write(field, &mut out),
            }
        }
        out
    }
}

/// Reads what a flag or an argument says; with `literal`, braces mean nothing.
///
/// # Errors
/// It is no template.
pub fn read(what: &str, text: &str, literal: bool) -> Result<Template, Failure> {
    if literal {
        return Ok(Template::literal(text));
    }
    Template::parse(text).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("{what}: {error}"),
            "`ringmesh cheat templates` shows the functions; with --literal, braces are kept as they are",
        )
    })
}

/// Where the braces are closed: not within quotes, which may hold braces.
fn end_of(inside: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in inside.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if inside[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// The words in braces: parted by spaces, commas or parentheses, or whole in quotes.
fn words(field: &str) -> Vec<(String, bool)> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in field.chars() {
        match quote {
            Some(open) if c == open => {
                words.push((std::mem::take(&mut word), true));
                quote = None;
            }
            Some(_) => word.push(c),
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() || matches!(c, ',' | '(' | ')') => {
                if !word.is_empty() {
                    words.push((std::mem::take(&mut word), false));
                }
            }
            None => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push((word, false));
    }
    words
}

fn part(field: &str) -> Result<Part, TemplateError> {
    let words = words(field);
    let Some(((name, is_quoted), arguments)) = words.split_first() else {
        return Err(TemplateError::Unknown { field: field.to_owned(), name: String::new() });
    };
    if *is_quoted && arguments.is_empty() {
        return Ok(Part::Text(name.clone()));
    }
    let arguments: Vec<&str> = arguments.iter().map(|(word, _)| word.as_str()).collect();
    let plain = name.strip_prefix('.').unwrap_or(name).to_lowercase();
    let other = OTHER_NAMES.iter().find(|(other, _)| *other == plain);
    let function = other.map_or(plain.as_str(), |(_, function)| function);
    let form = FUNCTIONS.iter().find(|(form, _)| name_of(form) == function);
    let Some((form, _)) = form else {
        return Err(TemplateError::Unknown { field: field.to_owned(), name: name.clone() });
    };
    let made = made(function, &arguments).map(Part::Field);
    made.ok_or_else(|| TemplateError::Arguments { field: field.to_owned(), expected: form })
}

/// The field of a function that is known; `None` if its arguments are not as they must be.
fn made(function: &str, arguments: &[&str]) -> Option<Field> {
    Some(match (function, arguments) {
        ("count", []) => Field::Count,
        ("time", []) => Field::Time,
        ("unix", []) => Field::Unix,
        ("unix_ms", []) => Field::UnixMs,
        ("uuid", []) => Field::Uuid,
        ("random", [min, max]) => {
            let (min, max): (i64, i64) = (min.parse().ok()?, max.parse().ok()?);
            (min <= max).then_some(Field::Random(min, max))?
        }
        ("random_float", [min, max]) => {
            let (min, max): (f64, f64) = (min.parse().ok()?, max.parse().ok()?);
            let is_range = min.is_finite() && max.is_finite() && min <= max;
            is_range.then_some(Field::RandomFloat(min, max))?
        }
        ("random_string", [min, rest @ ..]) if rest.len() < 2 => {
            let min: u64 = min.parse().ok()?;
            let max = rest.first().map_or(Some(min), |max| max.parse().ok())?;
            (min <= max && max <= RANDOM_STRING_MAX).then_some(Field::RandomString(min, max))?
        }
        ("choice", [_, ..]) => {
            Field::Choice(arguments.iter().map(|word| (*word).to_owned()).collect())
        }
        _ => return None,
    })
}

/// A time since 1970 as RFC 3339 writes it.
struct Utc(Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let micros = self.0.subsec_micros();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// Year, month and day of a day since 1970-01-01, by the calendar's cycle of 400 years. The year begins with March
/// there, so that a leap day is its last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let is_next_year = month >= 10;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if is_next_year { month - 9 } else { month + 3 };
    (cycle * 400 + year + u64::from(is_next_year), month, day)
}

/// xoshiro256++: fast, and good enough for made-up data. Its 256 bits come from the system, so no two runs share ids.
#[derive(Clone, Debug)]
struct Random([u64; 4]);

impl Random {
    fn new() -> Result<Self, Failure> {
        let mut state = [0; 4];
        for word in &mut state {
            *word = getrandom::u64().map_err(|error| {
                let message = format!("the system gives no random number: {error}");
                Failure::new(Exit::Failed, message, "")
            })?;
        }
        Ok(Random(state))
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Less than `end`, which is not 0. The bias of 1 in 2^64 does not show.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn between(&mut self, min: i64, max: i64) -> i64 {
        let span = max.wrapping_sub(min) as u64;
        let offset = match span.checked_add(1) {
            Some(end) => self.below(end),
            None => self.next(),
        };
        min.wrapping_add(offset as i64)
    }

    /// From 0 up to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Version 4, variant 1.
    fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        let (high, low) = ((high & !0xf000) | 0x4000, (low & !(0b11 << 62)) | (0b10 << 62));
        let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff);
        let (d, e) = (low >> 48, low & 0xffff_ffff_ffff);
        format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Moment {
        let mut moment = Moment::new().unwrap();
        moment.advance();
        moment
    }

    fn rendered(text: &str) -> String {
        Template::parse(text).unwrap().render(&mut moment())
    }

    /// What stands outside of a field is data, and must arrive as it was typed.
    #[test]
    fn text_around_fields_is_kept() {
        let table = [
            ("", ""),
            ("plain }} text", "plain }} text"),
            (r#"{"a":{"b":{{count}}}}"#, r#"{"a":{"b":1}}"#),
            (r#"{"n":{{ random 7 7 }}}"#, r#"{"n":7}"#),
            ("{{.Count}} {{Count}} {{ count }} {{count()}}", "1 1 1 1"),
            (r#"{{"{{"}}count}}"#, "{{count}}"),
            ("{{choice '}}'}}", "}}"),
            ("a{{random(-3,-3)}}b", "a-3b"),
            ("{{random_string 0}}|", "|"),
            ("{{random_float 2 2}}", "2.000"),
            ("h\u{e9}{{count}}\u{2603}", "h\u{e9}1\u{2603}"),
        ];
        for (text, expected) in table {
            assert_eq!(rendered(text), expected, "{text}");
        }
        assert_eq!(Template::parse("no fields").unwrap().constant().as_deref(), Some("no fields"));
        assert_eq!(Template::parse("{{count}}").unwrap().constant(), None);
        assert_eq!(Template::literal("{{x}}").render(&mut moment()), "{{x}}");
    }

    /// Whoever mistypes a function is told what there is, and nothing is published.
    #[test]
    fn mistakes_are_named() {
        let table = [
            (
                "{{cuont}}",
                "unknown function \"cuont\" in {{cuont}}: did you mean count? Known are count, time, unix,",
            ),
            ("x {{user.name}}", "unknown function \"user.name\" in {{user.name}}: Known are count"),
            ("{{}}", "unknown function \"\" in {{}}"),
            ("{{count", "\"{{count\" has no closing }}"),
            ("{{choice 'a}}", "has no closing }}"),
            ("{{count 1}}", "{{count 1}} must be {{count}}"),
            ("{{random 5 1}}", "{{random 5 1}} must be {{random MIN MAX}}"),
            ("{{random 1}}", "must be {{random MIN MAX}}"),
            ("{{random a b}}", "must be {{random MIN MAX}}"),
            ("{{random_float 1 inf}}", "must be {{random_float MIN MAX}}"),
            ("{{random_string}}", "must be {{random_string LENGTH}}"),
            ("{{random_string 2000000}}", "must be {{random_string LENGTH}}"),
            ("{{choice}}", "must be {{choice A B ...}}"),
        ];
        for (text, expected) in table {
            let error = Template::parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    /// Random fields within their bounds, both ends met; the same UUID and time wherever they stand in one event.
    #[test]
    fn fields_keep_their_bounds() {
        let mut moment = moment();
        let parsed = |text: &str| Template::parse(text).unwrap();
        let (number, word) = (parsed("{{random -2 2}}"), parsed("{{choice a 'b c'}}"));
        let (string, float) = (parsed("{{random_string 1 3}}"), parsed("{{random_float -1 1}}"));
        let (mut numbers, mut words, mut lengths) = ([0; 5], [0; 2], [0; 3]);
        for _ in 0..1_000 {
            let n: i64 = number.render(&mut moment).parse().unwrap();
            numbers[usize::try_from(n + 2).unwrap()] += 1;
            words[usize::from(word.render(&mut moment) == "b c")] += 1;
            let text = string.render(&mut moment);
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()));
            lengths[text.len() - 1] += 1;
            let f: f64 = float.render(&mut moment).parse().unwrap();
            assert!((-1.0..=1.0).contains(&f));
        }
        assert!(numbers.iter().chain(&words).chain(&lengths).all(|count| *count > 0));
        let whole = parsed("{{random -9223372036854775808 9223372036854775807}}");
        assert!(whole.render(&mut moment).parse::<i64>().is_ok());
        let id = parsed("{{uuid}}");
        let (first, again) = (id.render(&mut moment), id.render(&mut moment));
        assert_eq!(first, again);
        moment.advance();
        assert_ne!(first, id.render(&mut moment));
        assert_eq!((first.len(), &first[14..15]), (36, "4"));
        assert!("89ab".contains(&first[19..20]), "{first}");
    }

    /// A time that is off by a day is believed.
    #[test]
    fn times_are_those_of_the_calendar() {
        let table = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_795_255_200, "2026-11-21T10:00:00.000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ];
        for (seconds, expected) in table {
            assert_eq!(Utc(Duration::from_secs(seconds)).to_string(), expected);
        }
    }
}

//! What the command line says of every event that `publish` makes: topic, key and attributes, as templates.

use std::sync::Arc;

use codec::attribute::{Key, Value};
use codec::cloudevents::parsed::ParsedEvent;
use codec::cloudevents::rules::check_text;

use super::args::PublishArgs;
use super::events::Ids;
use super::failure::{Exit, Failure};
use super::template::{Moment, Template, read};

/// An event, and where it goes.
#[derive(Clone, Debug)]
pub struct Addressed {
    /// Its topic.
    pub topic: Arc<str>,
    /// The event, with an id.
    pub event: ParsedEvent<'static>,
}

/// What every event gets. Rendered anew for each.
#[derive(Debug)]
pub struct Blueprint {
    topic: Topic,
    /// Attributes that every event has alike.
    constant: Vec<(String, String)>,
    /// Attributes that differ from event to event.
    varying: Vec<(String, Template)>,
    moment: Moment,
    ids: Ids,
}

#[derive(Debug)]
enum Topic {
    One(Arc<str>),
    Many(Template),
}

impl Blueprint {
    /// Reads the flags.
    ///
    /// # Errors
    /// Names the flag that is wrong, and what it may be.
    pub fn new(arguments: &PublishArgs) -> Result<Self, Failure> {
        let topic = read("the topic", &arguments.topic, arguments.literal)?;
        let mut blueprint = Blueprint {
            topic: match topic.constant() {
                Some(topic) => Topic::One(topic.into()),
                None => Topic::Many(topic),
            },
            constant: Vec::new(),
            varying: Vec::new(),
            moment: Moment::new()?,
            ids: Ids::new()?,
        };
        let flags = [
            ("--key", "partitionkey", &arguments.key),
            ("--id", "id", &arguments.id),
            ("--type", "type", &arguments.event_type),
            ("--source", "source", &arguments.source),
            ("--subject", "subject", &arguments.subject),
        ];
        for (flag, name, value) in flags {
            if let Some(value) = value {
                blueprint.add(flag, name, read(flag, value, arguments.literal)?)?;
            }
        }
        for (name, value) in &arguments.attribute {
            let flag = format!("--attribute {name}");
            blueprint.add(&flag, name, read(&flag, value, arguments.literal)?)?;
        }
        let is_one = arguments.data.is_some() && arguments.count == 1;
        if !is_one && blueprint.constant.iter().any(|(name, _)| name == "id") {
            let message = "--id would give several events one id";
            let advice = "make it a template, such as --id 'order-{{count}}', or leave it out";
            return Err(Failure::new(Exit::Usage, message, advice));
        }
        Ok(blueprint)
    }

    fn add(&mut self, flag: &str, name: &str, template: Template) -> Result<(), Failure> {
        let key = Key::of(name);
        if !key.is_valid() {
            let message = format!("{flag}: {name:?} is no name of an attribute");
            let advice = "CloudEvents allows lower-case letters and digits, and neither data nor specversion";
            return Err(Failure::new(Exit::Usage, message, advice));
        }
        let mut names = self.constant.iter().map(|(name, _)| name);
        if names.any(|other| other == name) || self.varies(name) {
            let message = format!("{flag}: the attribute {name} is given twice");
            return Err(Failure::new(Exit::Usage, message, ""));
        }
        match template.constant() {
            Some(text) => {
                check(name, &text)?;
                self.constant.push((name.to_owned(), text));
            }
            None => self.varying.push((name.to_owned(), template)),
        }
        Ok(())
    }

    /// Moves to the next event.
    pub fn advance(&mut self) {
        self.moment.advance();
    }

    /// The topic of this event.
    pub fn topic(&mut self) -> Arc<str> {
        match &self.topic {
            Topic::One(topic) => Arc::clone(topic),
            Topic::Many(template) => template.render(&mut self.moment).into(),
        }
    }

    /// A template of the data, rendered for this event.
    pub fn render(&mut self, template: &Template) -> String {
        template.render(&mut self.moment)
    }

    /// Whether an attribute differs from event to event.
    #[must_use]
    pub fn varies(&self, name: &str) -> bool {
        self.varying.iter().any(|(other, _)| other == name)
    }

    /// What the command line says for an attribute of this event.
    ///
    /// # Errors
    /// What came out of the template may not stand in an event.
    pub fn value(&mut self, name: &str) -> Result<Option<String>, Failure> {
        let constant = self.constant.iter().find(|(other, _)| other == name);
        if let Some((_, text)) = constant {
            return Ok(Some(text.clone()));
        }
        let varying = self.varying.iter().find(|(other, _)| other == name);
        let Some((_, template)) = varying else { return Ok(None) };
        let text = template.render(&mut self.moment);
        check(name, &text)?;
        Ok(Some(text))
    }

    /// The id of this event: what the command line says, or one that nobody else makes.
    ///
    /// # Errors
    /// As [`Blueprint::value`].
    pub fn id(&mut self) -> Result<String, Failure> {
        Ok(self.value("id")?.unwrap_or_else(|| self.ids.make()))
    }

    /// Gives an event the attributes that all have alike, in place of its own.
    pub fn set_constant(&self, event: &mut ParsedEvent<'_>) {
        for (name, text) in &self.constant {
            event.set(&Key::of(name), &typed(name, text));
        }
    }

    /// Gives an event the attributes that differ, and its id.
    ///
    /// # Errors
    /// As [`Blueprint::value`].
    pub fn set_varying(&mut self, event: &mut ParsedEvent<'_>) -> Result<(), Failure> {
        for (name, template) in &self.varying {
            let key = Key::of(name);
            // The data was read by it, and it would differ if it were rendered again.
            if key == Key::DataContentType && event.get(&key).is_some() {
                continue;
            }
            let text = template.render(&mut self.moment);
            check(name, &text)?;
            event.set(&key, &typed(name, &text));
        }
        if !self.has("id") {
            event.set(&Key::Id, &Value::String(&self.ids.make()));
        }
        Ok(())
    }

    /// Gives an event what it does not say itself.
    ///
    /// # Errors
    /// As [`Blueprint::value`].
    pub fn fill(&mut self, event: &mut ParsedEvent<'_>) -> Result<(), Failure> {
        for (name, text) in &self.constant {
            if event.get(&Key::of(name)).is_none() {
                event.set(&Key::of(name), &typed(name, text));
            }
        }
        for (name, template) in &self.varying {
            if event.get(&Key::of(name)).is_none() {
                let text = template.render(&mut self.moment);
                check(name, &text)?;
                event.set(&Key::of(name), &typed(name, &text));
            }
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.varies(name) || self.constant.iter().any(|(other, _)| other == name)
    }
}

/// A text of the type that CloudEvents gives to the attribute.
fn typed<'a>(name: &str, text: &'a str) -> Value<'a> {
    match Key::of(name) {
        Key::Source => Value::UriReference(text),
        Key::DataSchema => Value::Uri(text),
        Key::Time => Value::Timestamp(text),
        _ => Value::String(text),
    }
}

fn check(name: &str, text: &str) -> Result<(), Failure> {
    check_text(&Key::of(name), text).map_err(|fault| {
        let message = format!("the attribute {name} cannot be {text:?}: it {}", fault.what());
        Failure::new(Exit::Usage, message, "")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::super::events::Repeated;
    use super::*;

    fn arguments(words: &[&str]) -> PublishArgs {
        let words = [&["ringmesh", "publish"], words].concat();
        match Cli::try_parse_from(words).unwrap().command {
            Command::Publish(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    fn made(words: &[&str]) -> Result<Vec<Addressed>, Failure> {
        let arguments = arguments(words);
        let mut repeated = Repeated::new(&arguments, Blueprint::new(&arguments)?)?;
        let mut events = Vec::new();
        while let Some(event) = repeated.next_event()? {
            events.push(event);
        }
        Ok(events)
    }

    /// Everything that the command line gives may differ from event to event, and agrees within one.
    #[test]
    fn each_event_has_its_own() {
        let words = [
            "fleet/{{count}}",
            "{\"n\": {{count}}, \"id\": \"{{uuid}}\"}",
            "--count",
            "3",
            "--key",
            "vin-{{count}}",
            "--id",
            "{{uuid}}",
            "--type",
            "position",
            "--attribute",
            "run=r{{random 5 5}}",
            "--attribute",
            "time={{time}}",
        ];
        let events = made(&words).unwrap();
        assert_eq!(events.len(), 3);
        for (n, Addressed { topic, event }) in (1..).zip(&events) {
            assert_eq!(**topic, *format!("fleet/{n}"));
            let id = event.text(&Key::Id).unwrap();
            let data = format!("{{\"n\": {n}, \"id\": \"{id}\"}}");
            assert_eq!(std::str::from_utf8(event.data()), Ok(data.as_str()));
            assert_eq!(event.data_kind(), codec::event::DataKind::Json);
            assert_eq!(event.partition_key(), Some(format!("vin-{n}").as_str()));
            assert_eq!(event.text(&Key::Type), Some("position"));
            assert_eq!(event.text(&Key::Extension("run")), Some("r5"));
            assert!(matches!(event.get(&Key::Time), Some(Value::Timestamp(_))));
        }
        assert_ne!(events[0].event.text(&Key::Id), events[1].event.text(&Key::Id));
    }

    /// Ids that are not given are unique; braces are data when the command line says so; a content type is believed.
    #[test]
    fn what_is_not_given_is_made() {
        let events = made(&["t", "{{x}}", "--literal", "--count", "2"]).unwrap();
        assert_eq!(events[0].event.data(), b"{{x}}");
        assert_ne!(events[0].event.text(&Key::Id), events[1].event.text(&Key::Id));
        let xml = made(&["t", "<a/>", "--attribute", "datacontenttype=application/xml"]).unwrap();
        assert_eq!(xml[0].event.data_kind(), codec::event::DataKind::Text);
        assert_eq!(xml[0].event.text(&Key::DataContentType), Some("application/xml"));
        let one = made(&["t", "x", "--id", "own", "--source", "/car", "--subject", "s"]).unwrap();
        assert_eq!(one[0].event.text(&Key::Id), Some("own"));
        assert_eq!(one[0].event.get(&Key::Source), Some(Value::UriReference("/car")));
        assert_eq!(one[0].event.text(&Key::Subject), Some("s"));
    }

    /// A flag that is wrong is named before anything is published.
    #[test]
    fn mistakes_are_named() {
        let table: [(&[&str], &str); 9] = [
            (&["t/{{cuont}}", "x"], "the topic: unknown function \"cuont\""),
            (&["t", "{{cuont}}"], "DATA: unknown function \"cuont\""),
            (&["t", "x", "--key", "{{"], "--key: \"{{\" has no closing }}"),
            (&["t", "x", "--count", "2", "--id", "a"], "--id would give several events one id"),
            (&["t", "x", "--attribute", "Trace=1"], "--attribute Trace: \"Trace\" is no name"),
            (&["t", "x", "--attribute", "data=1"], "\"data\" is no name"),
            (
                &["t", "x", "--type", "a", "--attribute", "type=b"],
                "the attribute type is given twice",
            ),
            (&["t", "x", "--type", ""], "the attribute type cannot be \"\": it must not be empty"),
            (
                &["t", "x", "--attribute", "time={{count}}"],
                "time cannot be \"1\": it is not a timestamp",
            ),
        ];
        for (words, expected) in table {
            let failure = made(words).expect_err(expected);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.message.contains(expected), "{words:?}: {}", failure.message);
        }
    }
}

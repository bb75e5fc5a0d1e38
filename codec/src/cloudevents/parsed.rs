//! One event as it came in by some form, before it is put into a batch.

use std::borrow::Cow;

use crate::attribute::{Key, Value};
use crate::builder::BatchBuilder;
use crate::cloudevents::fault::EventFault;
use crate::cloudevents::{Mode, SPEC_VERSION};
use crate::error::BuildError;
use crate::event::DataKind;

/// An event outside a batch. Borrows from the bytes it was parsed from where they need no decoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedEvent<'a> {
    attributes: Vec<(Cow<'a, str>, HeldValue<'a>)>,
    kind: DataKind,
    data: Cow<'a, [u8]>,
}

/// A [`Value`] that may own its bytes, because they were escaped or encoded where they came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeldValue<'a> {
    String(Cow<'a, str>),
    Boolean(bool),
    Integer(i32),
    Binary(Cow<'a, [u8]>),
    Uri(Cow<'a, str>),
    UriReference(Cow<'a, str>),
    Timestamp(Cow<'a, str>),
}

impl<'a> HeldValue<'a> {
    /// A textual value, of the type that CloudEvents gives to `key`.
    pub(crate) fn typed_by(key: &Key<'_>, text: Cow<'a, str>) -> Self {
        match key {
            Key::Source => HeldValue::UriReference(text),
            Key::DataSchema => HeldValue::Uri(text),
            Key::Time => HeldValue::Timestamp(text),
            _ => HeldValue::String(text),
        }
    }

    pub(crate) fn as_value(&self) -> Value<'_> {
        match self {
            HeldValue::String(text) => Value::String(text),
            HeldValue::Boolean(on) => Value::Boolean(*on),
            HeldValue::Integer(number) => Value::Integer(*number),
            HeldValue::Binary(bytes) => Value::Binary(bytes),
            HeldValue::Uri(text) => Value::Uri(text),
            HeldValue::UriReference(text) => Value::UriReference(text),
            HeldValue::Timestamp(text) => Value::Timestamp(text),
        }
    }

    fn of(value: &Value<'_>) -> HeldValue<'static> {
        let own = |text: &str| Cow::Owned(text.to_owned());
        match value {
            Value::String(text) => HeldValue::String(own(text)),
            Value::Boolean(on) => HeldValue::Boolean(*on),
            Value::Integer(number) => HeldValue::Integer(*number),
            Value::Binary(bytes) => HeldValue::Binary(Cow::Owned(bytes.to_vec())),
            Value::Uri(text) => HeldValue::Uri(own(text)),
            Value::UriReference(text) => HeldValue::UriReference(own(text)),
            Value::Timestamp(text) => HeldValue::Timestamp(own(text)),
        }
    }
}

impl<'a> ParsedEvent<'a> {
    /// An event without attributes. The caller adds them with [`ParsedEvent::set`].
    #[must_use]
    pub fn new(kind: DataKind, data: Cow<'a, [u8]>) -> Self {
        ParsedEvent { attributes: Vec::new(), kind, data }
    }

    /// An event without attributes and data, with room for so many attributes.
    pub(crate) fn with_room(attributes: usize) -> Self {
        let attributes = Vec::with_capacity(attributes);
        ParsedEvent { attributes, kind: DataKind::None, data: Cow::Borrowed(&[]) }
    }

    /// Gives the event an attribute, in place of one of the same name.
    pub fn set(&mut self, key: &Key<'_>, value: &Value<'_>) {
        let held = HeldValue::of(value);
        match self.attributes.iter_mut().find(|(name, _)| name == key.name()) {
            Some((_, old)) => *old = held,
            None => self.attributes.push((Cow::Owned(key.name().to_owned()), held)),
        }
    }

    /// The value of an attribute.
    #[must_use]
    pub fn get(&self, key: &Key<'_>) -> Option<Value<'_>> {
        let found = self.attributes.iter().find(|(name, _)| name == key.name());
        found.map(|(_, value)| value.as_value())
    }

    /// The text of a textual attribute.
    #[must_use]
    pub fn text(&self, key: &Key<'_>) -> Option<&str> {
        self.get(key).and_then(|value| value.text())
    }

    /// The key that orders this event, if it has one.
    #[must_use]
    pub fn partition_key(&self) -> Option<&str> {
        self.text(&Key::PartitionKey)
    }

    /// All attributes, in the order in which they were given.
    pub fn attributes(&self) -> impl Iterator<Item = (Key<'_>, Value<'_>)> {
        self.attributes.iter().map(|(name, value)| (Key::of(name), value.as_value()))
    }

    /// How the data was given.
    #[must_use]
    pub fn data_kind(&self) -> DataKind {
        self.kind
    }

    /// The data: JSON as it stood, text unescaped, binary decoded.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Adds the event to a batch.
    ///
    /// # Errors
    /// The batch is full, or the event is over a limit; the batch is as it was.
    pub fn push_to(&self, batch: &mut BatchBuilder) -> Result<(), BuildError> {
        let mut attributes: Vec<_> = self.attributes().collect();
        batch.push(&mut attributes, self.kind, &self.data)
    }

    /// The same event, independent of the bytes it was parsed from.
    #[must_use]
    pub fn into_owned(self) -> ParsedEvent<'static> {
        let attributes = self.attributes.into_iter().map(|(name, value)| {
            let value = HeldValue::of(&value.as_value());
            (Cow::Owned(name.into_owned()), value)
        });
        ParsedEvent {
            attributes: attributes.collect(),
            kind: self.kind,
            data: Cow::Owned(self.data.into_owned()),
        }
    }

    /// Checks that the required attributes are there, or takes them from the defaults of `mode`.
    pub(crate) fn complete(
        &mut self,
        spec_version: Option<&str>,
        mode: Mode<'_>,
    ) -> Result<(), EventFault> {
        match (spec_version, mode) {
            (Some(SPEC_VERSION), _) | (None, Mode::Lenient(_)) => {}
            (Some(found), _) => {
                return Err(EventFault::SpecVersion { found: found.chars().take(32).collect() });
            }
            (None, Mode::Strict) => return Err(EventFault::Missing { attribute: "specversion" }),
        }
        for (key, attribute) in [(Key::Id, "id"), (Key::Source, "source"), (Key::Type, "type")] {
            if self.get(&key).is_some() {
                continue;
            }
            let Mode::Lenient(defaults) = mode else {
                return Err(EventFault::Missing { attribute });
            };
            match key {
                Key::Source => self.set(&key, &Value::UriReference(defaults.source)),
                Key::Type => self.set(&key, &Value::String(defaults.event_type)),
                _ => {
                    if let Some(id) = defaults.id {
                        self.set(&key, &Value::String(id));
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends an attribute that is known not to be there yet.
    pub(crate) fn add(&mut self, name: Cow<'a, str>, value: HeldValue<'a>) {
        self.attributes.push((name, value));
    }

    pub(crate) fn set_data(&mut self, kind: DataKind, data: Cow<'a, [u8]>) {
        self.kind = kind;
        self.data = data;
    }
}

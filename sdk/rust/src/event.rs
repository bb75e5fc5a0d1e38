//! An event to be published.

use codec::attribute::{Key, Value};
use codec::builder::BatchBuilder;
use codec::error::BuildError;
use codec::event::DataKind;

/// An event to be published. Without an id the server derives one from topic, partition and offset.
#[derive(Clone, Debug)]
pub struct Event {
    attributes: Vec<(String, String)>,
    kind: DataKind,
    data: Vec<u8>,
}

impl Event {
    /// An event whose data is bytes.
    #[must_use]
    pub fn binary(data: impl Into<Vec<u8>>) -> Self {
        Event { attributes: Vec::new(), kind: DataKind::Binary, data: data.into() }
    }

    /// An event whose data is text.
    #[must_use]
    pub fn text(data: impl Into<String>) -> Self {
        Event { kind: DataKind::Text, ..Self::binary(data.into()) }
    }

    /// An event whose data is one JSON value, kept byte for byte.
    #[must_use]
    pub fn json(data: impl Into<String>) -> Self {
        let event = Event { kind: DataKind::Json, ..Self::binary(data.into()) };
        event.attribute("datacontenttype", "application/json")
    }

    /// With an attribute; a later one of the same name replaces it. Names are lower-case letters and digits.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: impl Into<String>) -> Self {
        self.attributes.retain(|(known, _)| known != name);
        self.attributes.push((name.to_owned(), value.into()));
        self
    }

    /// With this id.
    #[must_use]
    pub fn id(self, id: impl Into<String>) -> Self {
        self.attribute("id", id)
    }

    /// With this source.
    #[must_use]
    pub fn source(self, source: impl Into<String>) -> Self {
        self.attribute("source", source)
    }

    /// With this type.
    #[must_use]
    pub fn kind(self, kind: impl Into<String>) -> Self {
        self.attribute("type", kind)
    }

    /// With this key: events of one key keep their order.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> Self {
        self.attribute("partitionkey", key)
    }

    /// The key, if it has one.
    #[must_use]
    pub fn partition_key(&self) -> Option<&str> {
        let found = self.attributes.iter().find(|(name, _)| name == "partitionkey");
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn push_to(&self, builder: &mut BatchBuilder) -> Result<(), BuildError> {
        let mut attributes: Vec<(Key<'_>, Value<'_>)> = self
            .attributes
            .iter()
            .map(|(name, value)| {
                let key = Key::of(name);
                let value = match key {
                    Key::Source => Value::UriReference(value),
                    Key::DataSchema => Value::Uri(value),
                    Key::Time => Value::Timestamp(value),
                    _ => Value::String(value),
                };
                (key, value)
            })
            .collect();
        builder.push(&mut attributes, self.kind, &self.data)
    }
}

//! One event, read where it stands in a body.

use crate::attribute::{Key, Section, Value};

/// How an event's data was given, which decides how it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DataKind {
    /// The event has no data.
    None = 0,
    /// Bytes; `data_base64` in JSON.
    Binary = 1,
    /// UTF-8 text; a JSON string in JSON.
    Text = 2,
    /// One JSON value, kept byte for byte.
    Json = 3,
    /// An encoded `google.protobuf.Any`.
    Protobuf = 4,
}

impl DataKind {
    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => DataKind::None,
            1 => DataKind::Binary,
            2 => DataKind::Text,
            3 => DataKind::Json,
            4 => DataKind::Protobuf,
            _ => return None,
        })
    }
}

/// One event of a body. Borrowed: reading an attribute copies and allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub(crate) shared: Section<'a>,
    pub(crate) own: Section<'a>,
    pub(crate) kind: DataKind,
    pub(crate) data: &'a [u8],
}

impl<'a> Event<'a> {
    /// The value of an attribute. The event's own wins over the one its batch shares.
    #[must_use]
    pub fn get(&self, key: &Key<'_>) -> Option<Value<'a>> {
        self.own.get(key).or_else(|| self.shared.get(key))
    }

    /// The text of a textual attribute.
    #[must_use]
    pub fn text(&self, key: &Key<'_>) -> Option<&'a str> {
        self.get(key).and_then(|value| value.text())
    }

    /// The key that orders this event, if it has one.
    #[must_use]
    pub fn partition_key(&self) -> Option<&'a str> {
        self.text(&Key::PartitionKey)
    }

    /// All attributes: first the event's own, then those of its batch that it does not override.
    pub fn attributes(&self) -> impl Iterator<Item = (Key<'a>, Value<'a>)> + use<'a> {
        let own = self.own;
        self.own.chain(self.shared.filter(move |(key, _)| own.get(key).is_none()))
    }

    /// How the data was given.
    #[must_use]
    pub fn data_kind(&self) -> DataKind {
        self.kind
    }

    /// The data, as given to the publisher.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }
}
